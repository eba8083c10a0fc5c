//! The tracker's rules, and the bounds of what a machine gives away.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use sharing::{Answer, Layout, News, PeerId, PieceSet, SlotSettings, Standing, SwarmKey, Time, Tracker, TrackerSettings, UploadSlots};

const PIECES: u32 = 40;

fn layout() -> Layout {
    Layout::new((0..PIECES).map(|piece| (u64::from(piece) * 100, 100)), 400)
}

fn key() -> SwarmKey {
    SwarmKey {
        image: [1; 32],
        network: "lan".to_owned(),
    }
}

fn news() -> News {
    News {
        shares: PieceSet::none(PIECES),
        wants: PieceSet::all(PIECES),
        room: 2,
        hungry: false,
        wrong: Vec::new(),
    }
}

fn address(machine: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (machine / 256) as u8, (machine % 256) as u8], 7000))
}

struct Swarm {
    tracker: Tracker,
    now: Time,
}

impl Swarm {
    fn of(machines: usize) -> (Self, Vec<Answer>) {
        let mut swarm = Self {
            tracker: Tracker::new(TrackerSettings::default(), 9),
            now: Time::from_secs(1),
        };
        let mut quiet = news();
        quiet.room = 0;
        (0..machines).for_each(|machine| drop(swarm.say(machine, quiet.clone())));
        swarm.now += Time::from_secs(1);
        let answers = (0..machines).map(|machine| swarm.say(machine, quiet.clone()).0).collect();
        (swarm, answers)
    }

    fn say(&mut self, machine: usize, news: News) -> (Answer, Vec<Standing>) {
        self.tracker
            .announce(self.now, &key(), &layout(), &format!("m{machine}"), address(machine), news)
    }

    fn number(&self, answers: &[Answer], machine: usize) -> PeerId {
        let members = answers.iter().filter_map(|answer| answer.members.as_ref()).flatten();
        members
            .filter(|member| member.address == address(machine))
            .map(|member| member.id)
            .next()
            .unwrap_or(PeerId(0))
    }

    fn knows(&mut self, machine: usize, other: usize) -> bool {
        self.now += Time::from_secs(1);
        let mut quiet = news();
        quiet.room = 0;
        let members = self.say(machine, quiet).0.members.unwrap_or_default();
        members.iter().any(|member| member.address == address(other))
    }
}

#[test]
fn sharing_begins_with_the_fourth_and_ends_with_the_last_pair() {
    let (_, answers) = Swarm::of(3);
    assert!(
        answers
            .iter()
            .all(|answer| !answer.together && answer.granted.is_empty() && answer.members.is_none())
    );
    let (mut swarm, answers) = Swarm::of(4);
    assert!(
        answers
            .iter()
            .all(|answer| answer.together && answer.members.as_ref().is_some_and(|members| members.len() == 3))
    );
    swarm.tracker.leave(&key(), "m0");
    swarm.tracker.leave(&key(), "m1");
    assert!(swarm.say(2, news()).0.together);
    swarm.tracker.leave(&key(), "m3");
    assert!(!swarm.say(2, news()).0.together);
    // Who is silent has left.
    swarm.now += Time::from_secs(30);
    assert_eq!(swarm.tracker.machines(swarm.now), 0);
    assert_eq!(swarm.tracker.members(&key()), 0);
}

#[test]
fn each_piece_passes_the_servers_link_once_before_one_passes_it_twice() {
    let (mut swarm, _) = Swarm::of(5);
    let mut times = vec![0; PIECES as usize];
    let mut wants: Vec<PieceSet> = vec![PieceSet::all(PIECES); 5];
    for round in 0..200 {
        swarm.now += Time::from_millis(50);
        let machine = round % 5;
        let mut said = news();
        said.wants = wants[machine].clone();
        for piece in 0..PIECES {
            if !said.wants.contains(piece) {
                said.shares.insert(piece);
            }
        }
        let answer = swarm.say(machine, said).0;
        for pieces in answer.granted {
            for piece in pieces {
                times[piece as usize] += 1;
                wants[machine].remove(piece);
            }
        }
    }
    assert_eq!(times, vec![1; PIECES as usize], "everybody is busy, so nothing goes twice");
    let mut hungry = news();
    hungry.hungry = true;
    hungry.wants = wants[0].clone();
    assert!(
        !swarm.say(0, hungry).0.granted.is_empty(),
        "who has nothing to do gets another copy"
    );
}

#[test]
fn an_unused_grant_goes_to_somebody_else() {
    let (mut swarm, _) = Swarm::of(4);
    let mut hoarded = Vec::new();
    for _ in 0..20 {
        swarm.now += Time::from_millis(100);
        let mut greedy = news();
        (greedy.room, greedy.hungry) = (100, true);
        hoarded.extend(swarm.say(0, greedy).0.granted);
    }
    assert!(!hoarded.is_empty() && hoarded.len() <= TrackerSettings::default().grants_each);
    let mut given = Vec::new();
    for _ in 0..200 {
        swarm.now += Time::from_millis(100);
        for machine in 1..4 {
            let mut said = news();
            given
                .iter()
                .flat_map(|pieces: &std::ops::Range<u32>| pieces.clone())
                .for_each(|piece| {
                    said.wants.remove(piece);
                });
            given.extend(swarm.say(machine, said).0.granted);
        }
        let mut greedy = news();
        (greedy.room, greedy.hungry) = (100, true);
        let again = swarm.say(0, greedy).0.granted;
        assert!(again.is_empty(), "who let grants lapse waits for new ones");
    }
    assert!(hoarded.iter().all(|pieces| given.iter().any(|other| other.contains(&pieces.start))));
}

#[test]
fn three_different_machines_expel_one_and_a_slanderer_nobody() {
    let (mut swarm, answers) = Swarm::of(12);
    let all: Vec<PeerId> = (0..12).map(|machine| swarm.number(&answers, machine)).collect();
    // One that accuses everybody: it is told of four of them no more, and nobody else heeds it.
    let mut slander = news();
    slander.wrong = all.clone();
    for _ in 0..5 {
        swarm.say(0, slander.clone());
    }
    assert!(
        swarm
            .tracker
            .standings(&key())
            .iter()
            .all(|standing| !standing.expelled && standing.accusers == ["m0"])
    );
    assert_eq!(swarm.tracker.standings(&key()).len(), 4);
    assert!(!swarm.knows(0, 1) && swarm.knows(2, 1) && swarm.knows(0, 11));
    // An evil one that three met.
    let mut accuse = news();
    accuse.wrong = vec![all[11]];
    for (at, machine) in [5, 6, 7].into_iter().enumerate() {
        let (_, standings) = swarm.say(machine, accuse.clone());
        assert_eq!(standings[0].machine, "m11");
        assert_eq!((standings[0].expelled, standings[0].accusers.len()), (at == 2, at + 1));
    }
    assert!(!swarm.knows(2, 11) && swarm.knows(11, 2), "it may go on fetching");
    // Its own word counts no more, and coming again under its name does not help.
    accuse.wrong = vec![all[1]];
    swarm.say(11, accuse.clone());
    swarm.say(3, accuse);
    assert!(
        swarm
            .tracker
            .standings(&key())
            .iter()
            .all(|standing| standing.machine == "m11" || !standing.expelled)
    );
    swarm.tracker.leave(&key(), "m11");
    assert!(!swarm.knows(11, 11) && !swarm.knows(2, 11));
}

#[test]
fn no_machine_takes_another_ones_place() {
    let (mut swarm, _) = Swarm::of(4);
    let (answer, _) = swarm.tracker.announce(swarm.now, &key(), &layout(), "thief", address(1), news());
    assert!(!answer.together && answer.granted.is_empty());
    assert!(swarm.say(1, news()).0.together, "whose place it is keeps it");
    let mut odd = news();
    odd.shares = PieceSet::all(PIECES + 1);
    assert!(!swarm.say(9, odd).0.together, "a set of another image");
}

#[test]
fn a_thousand_are_told_of_a_few_each_and_everybody_is_known_to_somebody() {
    let (mut swarm, _) = Swarm::of(400);
    let mut known = vec![0; 400];
    swarm.now += Time::from_secs(5);
    for machine in 0..400 {
        let mut quiet = news();
        quiet.room = 0;
        let members = swarm.say(machine, quiet).0.members.unwrap_or_default();
        assert_eq!(members.len(), TrackerSettings::default().told);
        for member in members {
            let IpAddr::V4(ip) = member.address.ip() else { panic!("not ours") };
            known[usize::from(ip.octets()[2]) * 256 + usize::from(ip.octets()[3])] += 1;
        }
    }
    assert!(known.iter().all(|&times| times > 5 && times < 90), "{known:?}");
}

#[test]
fn what_is_remembered_is_bounded() {
    let settings = TrackerSettings {
        swarms: 3,
        members: 20,
        set_bytes: 40 * 16,
        ..TrackerSettings::default()
    };
    let mut tracker = Tracker::new(settings, 1);
    let now = Time::from_secs(1);
    let mut taken = 0;
    for swarm in 0..10_u8 {
        let key = SwarmKey {
            image: [swarm; 32],
            network: "lan".to_owned(),
        };
        for machine in 0..50 {
            let mut said = news();
            said.wrong = (0..1000).map(PeerId).collect();
            let at = SocketAddr::from(([10, 1, swarm, machine], 7000));
            tracker.announce(now, &key, &layout(), &format!("s{swarm}-{machine}"), at, said);
        }
        assert!(tracker.members(&key) <= 20);
        assert!(tracker.standings(&key).is_empty(), "nobody of these numbers is known");
        taken += tracker.members(&key);
    }
    assert_eq!(taken, 40);
    assert_eq!(tracker.machines(now), 40);
    let key = SwarmKey {
        image: [0; 32],
        network: "lan".to_owned(),
    };
    (0..50).for_each(|machine| tracker.leave(&key, &format!("s0-{machine}")));
    let (_, _) = tracker.announce(now, &key, &layout(), "late", address(1), news());
    assert_eq!(tracker.members(&key), 1, "room is given back");
}

proptest! {
    #[test]
    fn never_more_uploads_than_slots(asks in prop::collection::vec((0..20_u8, 0..3000_u64, any::<bool>()), 1..300), slots in 1..8_usize) {
        let settings = SlotSettings { slots, ..SlotSettings::default() };
        let mut uploads = UploadSlots::new(settings);
        let (mut now, mut given) = (Time::ZERO, Vec::new());
        for (who, pause, frees) in asks {
            now += Time::from_millis(pause);
            given.retain(|(_, slot): &(u8, sharing::Slot)| slot.ends > now);
            if frees && !given.is_empty() {
                let (_, slot) = given.swap_remove(0);
                uploads.free(now, slot);
            }
            match uploads.ask(now, IpAddr::from([10, 0, 0, who])) {
                Ok(slot) => {
                    prop_assert!(given.iter().all(|(other, _)| *other != who), "one each");
                    given.push((who, slot));
                }
                Err(busy) => {
                    prop_assert!(given.len() == slots || given.iter().any(|(other, _)| *other == who), "refused although there was room");
                    prop_assert!(busy.come_back > Time::ZERO && busy.come_back <= Time::from_secs(2));
                }
            }
            prop_assert!(given.len() <= slots);
            prop_assert_eq!(uploads.in_use(), given.len());
        }
        uploads.stop();
        prop_assert!(uploads.ask(now, IpAddr::from([10, 0, 1, 1])).is_err());
    }

    #[test]
    fn the_rate_is_kept(rate in 1_000..100_000_000_u64, blocks in prop::collection::vec(1..65_536_usize, 1..200)) {
        let mut uploads = UploadSlots::new(SlotSettings { rate: Some(rate), ..SlotSettings::default() });
        let (mut now, mut sent) = (Time::from_secs(3), 0);
        for bytes in blocks {
            now += uploads.pace(now, bytes);
            sent += bytes;
            // The longest wait is bounded; below that the rate holds to within the burst.
            if rate > 65_536 {
                let most = (now - Time::from_secs(3)).as_secs_f64() * rate as f64 + f64::from(256 << 10) + 1.0;
                prop_assert!(sent as f64 <= most, "{sent} bytes where {most} may go");
            }
        }
    }
}
