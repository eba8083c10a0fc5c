//! One session with a BMC as a state machine: datagrams and time in, datagrams and answers out. No socket, no clock.
//!
//! ```text
//! Capabilities -> Open Session -> RAKP 1, 2 -> RAKP 3, 4 -> Set Session Privilege Level -> requests, one at a time -> Close Session
//! ```
//!
//! * **Lost datagrams**: whatever is not answered is sent again, at growing intervals, [`TRIES`] times. A request keeps its own number, so that the BMC knows it
//!   again, and gets a new one in the session, as every datagram must. After the last silence the session has failed, so nothing here lasts longer than the sum.
//! * **Doubled and late datagrams**: an answer counts once, for the question that is open. Within a session a window of numbers refuses what came before (6.12.13);
//!   before it, the number of the question and ours of the session do.
//! * **A handshake out of step**: when an answer of RAKP is lost, some BMCs ignore the message that is sent again, and others make a second random number and refuse what
//!   was made with the first. So a message of RAKP is sent [`RAKP_TRIES`] times, and then, or when it is refused so, all begins anew with new numbers, [`RESTARTS`]
//!   times at most.
//! * **Forged datagrams** are ignored like noise: they never end a session, but before its keys exist, a refusal cannot be told from a forged one.
//!
//! What it does not do: bridge to other controllers, serial over LAN, suites without encryption.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    handshake::{self, Abilities, Head, Privilege, Refusal},
    suite::{CipherSuite, Exchange, Keys, same},
    wire::{self, Datagram, PayloadType, Request, Response, WireError},
};

/// How often a datagram is sent before its silence is an answer.
pub const TRIES: u32 = 5;
/// How long the first answer is waited for. Each further wait is longer by 3/5; all five make 6.3 s.
const FIRST_WAIT: Duration = Duration::from_millis(400);
/// Nobody waits long for the answer to a farewell.
const CLOSE_TRIES: u32 = 2;
/// How often a message of RAKP is sent: waiting longer is for the beginning, where the BMC may be slow and not deaf.
pub const RAKP_TRIES: u32 = 2;
/// How often a handshake begins anew.
pub const RESTARTS: u32 = 3;
/// A session that is idle for so long is kept alive by a request. BMCs end it after 60 s (6.12.15).
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub struct Account {
    /// The user's name: at most 16 bytes.
    pub user: String,
    /// The password: at most 20 bytes.
    pub password: SecretString,
    /// The BMC's own key, if it has one: at most 20 bytes.
    pub own_key: Option<SecretSlice<u8>>,
    /// What the session may do.
    pub privilege: Privilege,
    /// Which algorithms are tried, in this order.
    pub suites: &'static [CipherSuite],
}

/// Where random numbers come from.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// Why there is no session, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Nothing came, or nothing that was genuine.
    #[error("no answer to {what}")]
    Silent {
        /// What was sent.
        what: &'static str,
        /// Whether it was a request of the caller's.
        request: bool,
    },
    /// It has no IPMI 2.0.
    #[error("it offers IPMI 1.5 only, which protects nothing: enable IPMI 2.0 (RMCP+) on it")]
    Version,
    /// None of the suites.
    #[error("it has none of the cipher suites {0}: enable one of them on it")]
    Suite(String),
    /// The name is not known.
    #[error("it does not know the user")]
    User,
    /// The password does not fit.
    #[error("the password is wrong")]
    Password,
    /// The BMC's own key does not fit.
    #[error("the BMC's own key (Kg) is wrong or missing")]
    OwnKey,
    /// Not so much for this user.
    #[error("no privilege {0} for this user on this channel")]
    Privilege(Privilege),
    /// All sessions are taken.
    #[error("it has no session left")]
    NoSession,
    /// A refusal that says nothing to us.
    #[error("it refused {what} with status {status:#04x}")]
    Status {
        /// What was sent.
        what: &'static str,
        /// The code of table 13-15, or a completion code.
        status: u8,
    },
    /// An answer that cannot be read.
    #[error("its answer to {what} cannot be read: {problem}")]
    Garbled {
        /// What was sent.
        what: &'static str,
        /// What is wrong.
        problem: WireError,
    },
}

/// What a BMC answered to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it went (table 5-2); 0 is well.
    pub completion: u8,
    /// What was asked for.
    pub data: Vec<u8>,
}

/// What is to be done now. Times are since the session's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this.
    Send(Vec<u8>),
    /// Wait for a datagram until then.
    Wait(Duration),
    /// The session stands and nothing is asked; come again then, to keep it alive.
    Idle(Duration),
    /// The request's answer. Told once.
    Answer(Answer),
    /// There is no session, or no more.
    Failed(SessionError),
    /// It was closed.
    Closed,
}

/// What is waited for.
#[derive(Debug)]
enum Stage {
    Capabilities,
    Open,
    Rakp1 { bmc_session: u32 },
    Rakp3 { exchange: Exchange, session_key: Vec<u8> },
    Live(Live),
    Failed(SessionError),
    Closed,
}

/// Why a message is sent in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Privilege,
    Request,
    KeepAlive,
    Close,
}

#[derive(Debug)]
struct Live {
    keys: Keys,
    bmc_session: u32,
    sequence: u32,
    window: Window,
    /// The number of the last request: 6 bits.
    number: u8,
    asked: Option<(Purpose, Request)>,
    answer: Option<Answer>,
    last_used: Duration,
}

/// Which of the last 32 numbers came already.
#[derive(Debug, Default)]
struct Window {
    highest: u32,
    seen: u32,
}

impl Window {
    fn accept(&mut self, number: u32) -> bool {
        if number > self.highest {
            self.seen = self.seen.checked_shl(number - self.highest).unwrap_or(0) | 1;
            self.highest = number;
            return true;
        }
        let Some(bit) = 1_u32.checked_shl(self.highest - number) else {
            return false;
        };
        let new = number != 0 && self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

/// What was not answered yet.
#[derive(Debug)]
struct Unanswered {
    what: &'static str,
    content: Content,
    sent: u32,
    wait: Duration,
    next: Duration,
}

#[derive(Debug)]
enum Content {
    /// The same bytes each time.
    Plain(Vec<u8>),
    /// A message that is sealed anew each time.
    Message(Vec<u8>),
}

/// A session.
pub struct Session {
    account: Account,
    random: Random,
    stage: Stage,
    unanswered: Option<Unanswered>,
    suite: usize,
    console_session: u32,
    console_random: [u8; 16],
    tag: u8,
    restarts: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = self.unanswered.as_ref().map(|unanswered| unanswered.what);
        f.debug_struct("Session").field("waits_for", &what).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that is about to be set up.
    #[must_use]
    pub fn new(account: Account, random: Random) -> Self {
        let message = handshake::capabilities(account.privilege).encode(0);
        let mut session = Self {
            account,
            random,
            stage: Stage::Capabilities,
            unanswered: None,
            suite: 0,
            console_session: 0,
            console_random: [0; 16],
            tag: 0,
            restarts: 0,
        };
        session.send(
            "Get Channel Authentication Capabilities",
            Content::Plain(wire::sessionless(&message)),
        );
        session
    }

    /// What is to be done now. Called again after each thing done, and when a time that it named has come.
    pub fn step(&mut self, now: Duration) -> Step {
        if let Stage::Live(live) = &mut self.stage {
            if let Some(answer) = live.answer.take() {
                return Step::Answer(answer);
            }
            if self.unanswered.is_none() {
                let due = live.last_used + KEEP_ALIVE;
                if now < due {
                    return Step::Idle(due);
                }
                // Get Device ID: the one request that any user may make and that changes nothing.
                self.put(
                    now,
                    Purpose::KeepAlive,
                    Request {
                        net_fn: 0x06,
                        command: 0x01,
                        data: Vec::new(),
                    },
                );
            }
        }
        match &self.stage {
            Stage::Failed(error) => return Step::Failed(error.clone()),
            Stage::Closed => return Step::Closed,
            _ => {}
        }
        let Some(unanswered) = &mut self.unanswered else {
            return Step::Wait(now + FIRST_WAIT);
        };
        if unanswered.sent > 0 && now < unanswered.next {
            return Step::Wait(unanswered.next);
        }
        let closing =
            matches!(&self.stage, Stage::Live(live) if live.asked.as_ref().is_some_and(|(purpose, _)| *purpose == Purpose::Close));
        if unanswered.sent == if closing { CLOSE_TRIES } else { TRIES } {
            return self.silence();
        }
        unanswered.sent += 1;
        unanswered.next = now + unanswered.wait;
        unanswered.wait = unanswered.wait * 8 / 5;
        match (&unanswered.content, &mut self.stage) {
            (Content::Message(message), Stage::Live(live)) => {
                live.sequence = live.sequence.wrapping_add(1).max(1);
                live.last_used = now;
                let mut vector = [0; 16];
                (self.random)(&mut vector);
                Step::Send(
                    live.keys
                        .seal(PayloadType::Message, live.bmc_session, live.sequence, message, vector),
                )
            }
            (Content::Plain(bytes) | Content::Message(bytes), _) => Step::Send(bytes.clone()),
        }
    }

    /// Asks for something. The session must be [`Step::Idle`].
    pub fn ask(&mut self, now: Duration, request: Request) {
        self.put(now, Purpose::Request, request);
    }

    /// Begins to close it. A session that does not stand is simply over.
    pub fn close(&mut self, now: Duration) {
        if let Stage::Live(live) = &self.stage {
            let session = live.bmc_session.to_le_bytes().to_vec();
            self.put(
                now,
                Purpose::Close,
                Request {
                    net_fn: 0x06,
                    command: 0x3c,
                    data: session,
                },
            );
        } else {
            self.unanswered = None;
            self.stage = Stage::Closed;
        }
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// Why it was ignored: it cannot be read, is not genuine, or nobody waits for it. Nothing has changed then.
    pub fn receive(&mut self, now: Duration, datagram: &[u8]) -> Result<(), Ignored> {
        match Datagram::parse(datagram)? {
            Datagram::Sessionless(message) => self.abilities(message),
            Datagram::Clear { kind, payload } => self.handshake(now, kind, payload),
            Datagram::Sealed(sealed) => {
                let Stage::Live(live) = &mut self.stage else {
                    return Err(Ignored::Unasked);
                };
                if sealed.session != self.console_session {
                    return Err(Ignored::Unasked);
                }
                let message = live.keys.open(&sealed)?;
                if !live.window.accept(sealed.sequence) {
                    return Err(Ignored::Repeated);
                }
                if sealed.kind != PayloadType::Message {
                    return Err(Ignored::Unasked);
                }
                self.message(now, &message)
            }
        }
    }

    fn send(&mut self, what: &'static str, content: Content) {
        self.unanswered = Some(Unanswered {
            what,
            content,
            sent: 0,
            wait: FIRST_WAIT,
            next: Duration::ZERO,
        });
    }

    fn fail(&mut self, error: SessionError) {
        self.unanswered = None;
        self.stage = Stage::Failed(error);
    }

    fn silence(&mut self) -> Step {
        let what = self.unanswered.take().map_or("", |unanswered| unanswered.what);
        let request = match &self.stage {
            Stage::Live(Live {
                asked: Some((Purpose::Close, _)),
                ..
            }) => {
                self.stage = Stage::Closed;
                return Step::Closed;
            }
            Stage::Live(Live {
                asked: Some((purpose, _)), ..
            }) => *purpose == Purpose::Request,
            // Some do not answer when they do not have the suite.
            Stage::Open if self.suite + 1 < self.account.suites.len() => {
                self.suite += 1;
                self.open();
                return Step::Wait(Duration::ZERO);
            }
            Stage::Rakp1 { .. } | Stage::Rakp3 { .. } if self.restarts < RESTARTS => {
                self.restarts += 1;
                self.open();
                return Step::Wait(Duration::ZERO);
            }
            _ => false,
        };
        let error = SessionError::Silent { what, request };
        self.fail(error.clone());
        Step::Failed(error)
    }

    fn put(&mut self, now: Duration, purpose: Purpose, request: Request) {
        let Stage::Live(live) = &mut self.stage else { return };
        live.number = (live.number + 1) & 0x3f;
        live.last_used = now;
        live.answer = None;
        let message = request.encode(live.number);
        live.asked = Some((purpose, request));
        let what = match purpose {
            Purpose::Privilege => "Set Session Privilege Level",
            Purpose::Request => "the request",
            Purpose::KeepAlive => "Get Device ID",
            Purpose::Close => "Close Session",
        };
        self.send(what, Content::Message(message));
    }

    fn next_tag(&mut self) -> u8 {
        self.tag = self.tag.wrapping_add(1);
        self.tag
    }

    /// The suite that is tried. There is always one: [`Account::suites`] is not empty where it is made.
    fn suite(&self) -> CipherSuite {
        self.account.suites.get(self.suite).copied().unwrap_or(CipherSuite::Three)
    }

    fn open(&mut self) {
        let mut number = [0; 4];
        (self.random)(&mut number);
        // Zero is no session's number.
        self.console_session = u32::from_le_bytes(number).max(1);
        let payload = handshake::open_request(self.next_tag(), self.suite(), self.account.privilege, self.console_session);
        self.stage = Stage::Open;
        self.send("Open Session", Content::Plain(wire::clear(PayloadType::OpenRequest, &payload)));
    }

    fn abilities(&mut self, message: &[u8]) -> Result<(), Ignored> {
        if !matches!(self.stage, Stage::Capabilities) {
            return Err(Ignored::Unasked);
        }
        let response = Response::parse(message)?;
        if (response.net_fn, response.command) != (0x07, 0x38) {
            return Err(Ignored::Unasked);
        }
        // 0xcc: some of the first with IPMI 1.5 do not know the bit that asks for 2.0.
        if response.completion != 0 {
            self.fail(SessionError::Version);
            return Ok(());
        }
        if Abilities::parse(response.data)?.version_2 {
            self.open();
        } else {
            self.fail(SessionError::Version);
        }
        Ok(())
    }

    fn handshake(&mut self, now: Duration, kind: PayloadType, payload: &[u8]) -> Result<(), Ignored> {
        let (wanted, what) = match &self.stage {
            Stage::Open => (PayloadType::OpenResponse, "Open Session"),
            Stage::Rakp1 { .. } => (PayloadType::Rakp2, "RAKP message 1"),
            Stage::Rakp3 { .. } => (PayloadType::Rakp4, "RAKP message 3"),
            Stage::Capabilities | Stage::Live(_) | Stage::Failed(_) | Stage::Closed => return Err(Ignored::Unasked),
        };
        let head = Head::parse(payload)?;
        // A refusal need not repeat our number.
        let ours = match head.console_session {
            Some(number) if number != 0 || head.status == 0 => number == self.console_session,
            _ => head.status != 0,
        };
        if kind != wanted || head.tag != self.tag || !ours {
            return Err(Ignored::Unasked);
        }
        if head.status != 0 {
            self.refused(what, head.status);
            return Ok(());
        }
        let done = match kind {
            PayloadType::OpenResponse => self.opened(payload),
            PayloadType::Rakp2 => self.proven(payload),
            _ => self.agreed(now, payload),
        };
        if let Err(problem) = done {
            self.fail(SessionError::Garbled { what, problem });
        }
        Ok(())
    }

    fn refused(&mut self, what: &'static str, status: u8) {
        let third = matches!(self.stage, Stage::Rakp3 { .. });
        match Refusal::of(status) {
            Refusal::Suite if self.suite + 1 < self.account.suites.len() => {
                self.suite += 1;
                self.open();
            }
            // Message 2 has shown that the password fits: the BMC waits for the code of another message 1.
            Refusal::Code | Refusal::Forgotten if self.restarts < RESTARTS && (third || Refusal::of(status) == Refusal::Forgotten) => {
                self.restarts += 1;
                self.open();
            }
            refusal => self.fail(match refusal {
                Refusal::NoSession => SessionError::NoSession,
                Refusal::Suite => SessionError::Suite(
                    self.account
                        .suites
                        .iter()
                        .map(|suite| suite.id().to_string())
                        .collect::<Vec<_>>()
                        .join(", "),
                ),
                Refusal::User => SessionError::User,
                Refusal::Privilege => SessionError::Privilege(self.account.privilege),
                Refusal::Code => SessionError::Password,
                Refusal::Forgotten | Refusal::Other(_) => SessionError::Status { what, status },
            }),
        }
    }

    fn opened(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let bmc_session = handshake::open_response(payload, self.suite())?;
        (self.random)(&mut self.console_random);
        let tag = self.next_tag();
        let role = handshake::role(self.account.privilege);
        let message = handshake::rakp_1(tag, bmc_session, &self.console_random, role, self.account.user.as_bytes());
        self.stage = Stage::Rakp1 { bmc_session };
        self.send("RAKP message 1", Content::Plain(wire::clear(PayloadType::Rakp1, &message)));
        Ok(())
    }

    fn proven(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let Stage::Rakp1 { bmc_session } = self.stage else { return Ok(()) };
        let (bmc_random, guid, code) = handshake::rakp_2(payload, self.suite())?;
        let exchange = Exchange {
            suite: self.suite(),
            console_session: self.console_session,
            bmc_session,
            console_random: self.console_random,
            bmc_random,
            guid,
            role: handshake::role(self.account.privilege),
            user: self.account.user.as_bytes().to_vec(),
        };
        let password = self.account.password.clone();
        let password = password.expose_secret().as_bytes();
        if !same(&exchange.code_2(password), code) {
            self.fail(SessionError::Password);
            return Ok(());
        }
        let session_key = exchange.session_key(self.account.own_key.as_ref().map_or(password, |key| key.expose_secret()));
        let message = handshake::rakp_3(self.next_tag(), &exchange, password);
        self.stage = Stage::Rakp3 { exchange, session_key };
        self.send("RAKP message 3", Content::Plain(wire::clear(PayloadType::Rakp3, &message)));
        Ok(())
    }

    fn agreed(&mut self, now: Duration, payload: &[u8]) -> Result<(), WireError> {
        let Stage::Rakp3 { exchange, session_key } = &self.stage else {
            return Ok(());
        };
        if !same(&exchange.code_4(session_key), handshake::rakp_4(payload, exchange.suite)?) {
            self.fail(SessionError::OwnKey);
            return Ok(());
        }
        self.stage = Stage::Live(Live {
            keys: Keys::new(exchange.suite, session_key),
            bmc_session: exchange.bmc_session,
            sequence: 0,
            window: Window::default(),
            number: 0,
            asked: None,
            answer: None,
            last_used: now,
        });
        let level = vec![self.account.privilege.number()];
        self.put(
            now,
            Purpose::Privilege,
            Request {
                net_fn: 0x06,
                command: 0x3b,
                data: level,
            },
        );
        Ok(())
    }

    fn message(&mut self, now: Duration, message: &[u8]) -> Result<(), Ignored> {
        let response = Response::parse(message)?;
        let Stage::Live(live) = &mut self.stage else {
            return Err(Ignored::Unasked);
        };
        let Some((purpose, request)) = &live.asked else {
            return Err(Ignored::Unasked);
        };
        if response.sequence != live.number || response.command != request.command || response.net_fn != request.net_fn + 1 {
            return Err(Ignored::Unasked);
        }
        let purpose = *purpose;
        live.asked = None;
        live.last_used = now;
        self.unanswered = None;
        match (purpose, response.completion) {
            (Purpose::Request, completion) => {
                live.answer = Some(Answer {
                    completion,
                    data: response.data.to_vec(),
                });
            }
            (Purpose::Close, _) => self.stage = Stage::Closed,
            (Purpose::KeepAlive, _) | (Purpose::Privilege, 0) => {}
            (Purpose::Privilege, 0x80 | 0x81 | 0xd4) => self.fail(SessionError::Privilege(self.account.privilege)),
            (Purpose::Privilege, status) => self.fail(SessionError::Status {
                what: "Set Session Privilege Level",
                status,
            }),
        }
        Ok(())
    }
}

/// Why a datagram changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It cannot be read, or is not genuine.
    #[error(transparent)]
    Unreadable(#[from] WireError),
    /// Nobody waits for it.
    #[error("nobody asked for it")]
    Unasked,
    /// It came before.
    #[error("it came before")]
    Repeated,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_once_and_old_ones_never() {
        let mut window = Window::default();
        for (number, fresh) in [
            (0, false),
            (1, true),
            (1, false),
            (4, true),
            (3, true),
            (3, false),
            (2, true),
            (40, true),
            (8, false),
            (9, true),
            (4, false),
            (u32::MAX, true),
            (40, false),
        ] {
            assert_eq!(window.accept(number), fresh, "{number}");
        }
    }
}
