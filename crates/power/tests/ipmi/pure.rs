//! The state machine against the BMC of `bmc`, without sockets and with time as a number: every datagram of a conversation lost, doubled or late in turn, every pair of
//! them, and a BMC that is reset before each.

use std::time::Duration;

use power::ipmi::{
    chassis::{self, Control},
    handshake::Privilege,
    session::{Account, Answer, Random, Session, SessionError, Step},
    suite::CipherSuite,
};

use crate::bmc::Bmc;

const BOTH: &[CipherSuite] = &[CipherSuite::Seventeen, CipherSuite::Three];
/// Longer than any handshake with all its repetitions and one request may take.
const BOUND: Duration = Duration::from_secs(60);

fn account(suites: &'static [CipherSuite]) -> Account {
    Account {
        user: "admin".to_owned(),
        password: "s3cret-Pass".to_owned().into(),
        own_key: None,
        privilege: Privilege::Operator,
        suites,
    }
}

/// Numbers that differ and repeat from run to run.
fn random() -> Random {
    let mut counter = 0_u64;
    Box::new(move |bytes| {
        for byte in bytes {
            counter = counter
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = counter.to_be_bytes()[0];
        }
    })
}

/// What happens to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    /// It arrives, and once more after three others.
    Late,
}

/// A network and a BMC at the end of it. Datagrams of both directions are counted together.
struct Wire<F: FnMut(usize, &mut Bmc) -> Fate> {
    bmc: Bmc,
    fate: F,
    count: usize,
    now: Duration,
    late: Vec<(usize, bool, Vec<u8>)>,
}

impl<F: FnMut(usize, &mut Bmc) -> Fate> Wire<F> {
    fn new(bmc: Bmc, fate: F) -> Self {
        Self {
            bmc,
            fate,
            count: 0,
            now: Duration::ZERO,
            late: Vec::new(),
        }
    }

    fn send_to_bmc(&mut self, session: &mut Session, datagram: &[u8]) {
        let answers: Vec<_> = self.carried(datagram, true).iter().filter_map(|d| self.bmc.answer(d)).collect();
        for answer in answers {
            for datagram in self.carried(&answer, false) {
                let _ignored = session.receive(self.now, &datagram);
            }
        }
        let (due, waiting) = std::mem::take(&mut self.late).into_iter().partition(|(at, ..)| *at <= self.count);
        self.late = waiting;
        let due: Vec<(usize, bool, Vec<u8>)> = due;
        for (_, send_to_bmc, datagram) in due {
            let comes = if send_to_bmc { self.bmc.answer(&datagram) } else { Some(datagram) };
            if let Some(comes) = comes {
                let _ignored = session.receive(self.now, &comes);
            }
        }
    }

    fn carried(&mut self, datagram: &[u8], send_to_bmc: bool) -> Vec<Vec<u8>> {
        let fate = (self.fate)(self.count, &mut self.bmc);
        self.count += 1;
        match fate {
            Fate::Arrives => vec![datagram.to_vec()],
            Fate::Lost => Vec::new(),
            Fate::Doubled => vec![datagram.to_vec(); 2],
            Fate::Late => {
                self.late.push((self.count + 3, send_to_bmc, datagram.to_vec()));
                vec![datagram.to_vec()]
            }
        }
    }

    /// Runs until there is something to tell.
    fn run(&mut self, session: &mut Session) -> Step {
        let began = self.now;
        loop {
            match session.step(self.now) {
                Step::Send(datagram) => self.send_to_bmc(session, &datagram),
                // Nothing else is on its way: the time comes.
                Step::Wait(until) => self.now = self.now.max(until),
                step => return step,
            }
            assert!(self.now - began < BOUND, "no end after {:?} and {} datagrams", self.now, self.count);
        }
    }

    /// A session in which the machine is power-cycled.
    fn conversation(&mut self, account: Account) -> Result<Answer, SessionError> {
        let mut session = Session::new(account, random());
        match self.run(&mut session) {
            Step::Idle(_) => {}
            Step::Failed(error) => return Err(error),
            step => panic!("{step:?}"),
        }
        session.ask(self.now, chassis::control(Control::Cycle));
        let answer = match self.run(&mut session) {
            Step::Answer(answer) => answer,
            Step::Failed(error) => return Err(error),
            step => panic!("{step:?}"),
        };
        session.close(self.now);
        assert_eq!(self.run(&mut session), Step::Closed);
        Ok(answer)
    }
}

fn done() -> Answer {
    Answer {
        completion: 0,
        data: Vec::new(),
    }
}

#[test]
fn a_conversation_without_losses_takes_no_time_with_either_suite() {
    for suite in BOTH {
        let mut wire = Wire::new(Bmc::new(&[*suite]), |_, _| Fate::Arrives);
        assert_eq!(wire.conversation(account(BOTH)), Ok(done()), "suite {}", suite.id());
        assert_eq!(wire.now, Duration::ZERO);
        assert_eq!((wire.bmc.controls.as_slice(), wire.bmc.sessions_closed), (&[2][..], 1));
    }
}

#[test]
fn no_lost_doubled_or_late_datagrams_keep_a_request_from_being_carried_out_once() {
    let mut wire = Wire::new(Bmc::new(BOTH), |_, _| Fate::Arrives);
    wire.conversation(account(BOTH)).expect("a conversation");
    // Some more than a conversation without losses has, so that repetitions are lost too.
    let count = wire.count + 4;
    let fates = [Fate::Lost, Fate::Doubled, Fate::Late];
    let mut worst = Duration::ZERO;
    let mut runs = 0;
    for first in 0..count {
        for second in first..count {
            for one in fates {
                for other in fates {
                    let mut wire = Wire::new(Bmc::new(BOTH), |at, _| match at {
                        at if at == first => one,
                        at if at == second => other,
                        _ => Fate::Arrives,
                    });
                    let result = wire.conversation(account(BOTH));
                    assert_eq!(result, Ok(done()), "{one:?} at {first}, {other:?} at {second}");
                    assert_eq!(wire.bmc.controls, [2], "{one:?} at {first}, {other:?} at {second}");
                    worst = worst.max(wire.now);
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} conversations, the slowest {worst:?}");
    assert!(worst < Duration::from_secs(10), "{worst:?}");
}

#[test]
fn a_reset_at_any_moment_ends_in_a_command_or_in_the_right_error() {
    let mut seen = [0; 2];
    for moment in 0..20 {
        let mut wire = Wire::new(Bmc::new(BOTH), |at, bmc| {
            if at == moment {
                bmc.reset();
            }
            Fate::Arrives
        });
        match wire.conversation(account(BOTH)) {
            Ok(answer) => {
                assert_eq!((answer, wire.bmc.controls.as_slice()), (done(), &[2][..]), "reset at {moment}");
                seen[0] += 1;
            }
            // The request may have been carried out only where the error says that it was sent.
            Err(SessionError::Silent { request, .. }) => {
                assert!(request || wire.bmc.controls.is_empty(), "reset at {moment}");
                seen[1] += 1;
            }
            Err(error) => panic!("reset at {moment}: {error}"),
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn silence_is_an_error_within_seven_seconds() {
    let mut wire = Wire::new(Bmc::new(BOTH), |_, _| Fate::Lost);
    let error = wire.conversation(account(BOTH)).expect_err("nobody is there");
    assert!(matches!(error, SessionError::Silent { request: false, .. }), "{error}");
    assert!(wire.now < Duration::from_secs(7), "{:?}", wire.now);
}

#[test]
fn wrong_secrets_are_told_apart() {
    let mut wrong = Bmc::new(BOTH);
    wrong.password = b"another".to_vec();
    let mut keyed = Bmc::new(BOTH);
    keyed.own_key = Some(b"of the BMC".to_vec());
    let mut low = Bmc::new(BOTH);
    low.highest = Privilege::User;
    let old = Bmc::new(&[CipherSuite::Three]);
    let stranger = Account {
        user: "nobody".to_owned(),
        ..account(BOTH)
    };
    let cases = [
        (wrong, account(BOTH), SessionError::Password),
        (keyed, account(BOTH), SessionError::OwnKey),
        (low, account(BOTH), SessionError::Privilege(Privilege::Operator)),
        (Bmc::new(BOTH), stranger, SessionError::User),
        (old, account(&[CipherSuite::Seventeen]), SessionError::Suite("17".to_owned())),
    ];
    for (bmc, account, wanted) in cases {
        let mut wire = Wire::new(bmc, |_, _| Fate::Arrives);
        assert_eq!(wire.conversation(account), Err(wanted));
        assert!(wire.bmc.controls.is_empty());
        assert_eq!(wire.now, Duration::ZERO);
    }
}

#[test]
fn the_own_key_of_a_bmc_is_used() {
    let mut keyed = Bmc::new(BOTH);
    keyed.own_key = Some(b"of the BMC".to_vec());
    let account = Account {
        own_key: Some(b"of the BMC".to_vec().into()),
        ..account(BOTH)
    };
    assert_eq!(Wire::new(keyed, |_, _| Fate::Arrives).conversation(account), Ok(done()));
}

#[test]
fn an_idle_session_is_kept_alive() {
    let mut wire = Wire::new(Bmc::new(BOTH), |_, _| Fate::Arrives);
    let mut session = Session::new(account(BOTH), random());
    // Three minutes, which is thrice what a BMC allows.
    while wire.now < Duration::from_secs(180) {
        match wire.run(&mut session) {
            Step::Idle(until) => {
                assert!(until - wire.now < Duration::from_secs(60 - 3), "{until:?}");
                wire.now = until;
            }
            step => panic!("{step:?}"),
        }
    }
    let kept = wire.bmc.requests.iter().filter(|request| **request == (0x06, 0x01)).count();
    assert!((4..=20).contains(&kept), "{kept} requests to keep it alive");
    session.ask(wire.now, chassis::status());
    assert!(matches!(wire.run(&mut session), Step::Answer(Answer { completion: 0, .. })));
}

#[test]
fn forged_answers_do_not_end_a_session() {
    let mut wire = Wire::new(Bmc::new(BOTH), |_, _| Fate::Arrives);
    let mut session = Session::new(account(BOTH), random());
    assert!(matches!(wire.run(&mut session), Step::Idle(_)));
    session.ask(wire.now, chassis::status());
    let Step::Send(question) = session.step(wire.now) else {
        panic!("nothing is sent")
    };
    let answer = wire.bmc.answer(&question).expect("an answer");
    for at in 0..answer.len() {
        let mut forged = answer.clone();
        forged[at] ^= 0x01;
        // RMCP's version of a sequence number and its reserved byte are nobody's concern, and not signed.
        if !matches!(at, 1 | 2) {
            assert!(session.receive(wire.now, &forged).is_err(), "byte {at}");
        }
    }
    session.receive(wire.now, &answer).expect("the genuine one");
    assert!(matches!(session.step(wire.now), Step::Answer(Answer { completion: 0, .. })));
    assert!(session.receive(wire.now, &answer).is_err(), "it counts once");
}
