//! What holds for a chooser whatever its surroundings do.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sharing::{Answer, Chooser, ChooserSettings, Chore, Failure, Fetch, Layout, Member, Next, PeerId, PieceSet, Source, Time};

const PIECES: u32 = 90;
const PEERS: u64 = 7;

fn layout() -> Arc<Layout> {
    Arc::new(Layout::new((0..PIECES).map(|piece| (u64::from(piece) * 100, 100)), 400))
}

fn address(peer: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, peer as u8], 7000))
}

fn member(peer: u64) -> Member {
    Member {
        id: PeerId(peer),
        address: address(peer),
    }
}

/// How kind the surroundings are.
#[derive(Debug, Clone, Copy)]
struct World {
    seed: u64,
    /// Of a hundred: how often a peer's fetch fails, the server's fails, the tracker is silent.
    peers_fail: u32,
    server_fails: u32,
    tracker_silent: u32,
    /// Peers with a smaller number give wrong bytes.
    evil: u64,
}

/// Lets a chooser fetch everything, and checks each step.
fn fetch_everything(world: World) {
    let settings = ChooserSettings::default();
    let mut chance = SmallRng::seed_from_u64(world.seed);
    let mut chooser = Chooser::new(settings.clone(), layout(), world.seed);
    let mut now = Time::from_secs(5);
    let mut flying: Vec<Fetch> = Vec::new();
    let mut said: HashMap<u64, PieceSet> = HashMap::new();
    let mut wronged: HashSet<u64> = HashSet::new();
    let mut reported: HashSet<PeerId> = HashSet::new();
    let mut held = PieceSet::none(PIECES);
    (0..PIECES).for_each(|piece| chooser.want(piece));
    let mut roll = |most: u32| chance.random_range(0..100) < most;
    for step in 0..100_000 {
        assert!(step < 99_999, "no end in {world:?}: {held:?} at {now:?}");
        let mut until = match chooser.next(now) {
            Next::Done => break,
            Next::Fetch(fetch) => {
                assert!(fetch.pieces.start < fetch.pieces.end && fetch.pieces.end <= PIECES);
                assert_eq!(
                    layout().group_of(fetch.pieces.start),
                    layout().group_of(fetch.pieces.end - 1),
                    "beyond a group"
                );
                let twins = |piece| flying.iter().filter(|other| other.pieces.contains(&piece)).count();
                assert!(
                    fetch.pieces.clone().all(|piece| twins(piece) <= 1 && !held.contains(piece)),
                    "asked for too often, or in vain"
                );
                if let Source::Peer(PeerId(peer), at) = fetch.source {
                    assert_eq!(at, address(peer));
                    assert!(!wronged.contains(&peer), "asked again after its wrong bytes");
                    let shares = &said[&peer];
                    assert!(fetch.pieces.clone().all(|piece| shares.contains(piece)), "asked for what it lacks");
                    assert!(
                        flying.iter().filter(|other| other.source == fetch.source).count() < settings.per_peer,
                        "beyond its slot"
                    );
                    assert!(fetch.give_up.is_some_and(|at| at > now));
                }
                flying.push(fetch);
                assert!(flying.len() <= settings.fetches);
                continue;
            }
            Next::Wait(until) => {
                assert!(
                    until > now && until <= now + Time::from_secs(70),
                    "waits until {until:?} at {now:?}"
                );
                until
            }
        };
        match chooser.chore(now) {
            Chore::Announce(news) => {
                assert!(news.shares.is_empty() && news.wants.iter().all(|piece| !held.contains(piece)));
                if roll(world.tracker_silent) {
                    chooser.unheard(now);
                } else {
                    reported.extend(news.wrong);
                    let first = news.wants.iter().next();
                    chooser.heard(
                        now,
                        Answer {
                            together: roll(90),
                            members: roll(70).then(|| (0..PEERS).map(member).collect()),
                            granted: first.filter(|_| roll(30)).map(|piece| piece..piece + 1).into_iter().collect(),
                            again: Time::from_millis(500),
                        },
                    );
                }
                continue;
            }
            Chore::AskPeer(PeerId(peer), _) => {
                let mut shares = PieceSet::none(PIECES);
                (0..PIECES).filter(|_| roll(40)).for_each(|piece| {
                    shares.insert(piece);
                });
                said.insert(peer, shares.clone());
                chooser.peer_has(now, PeerId(peer), shares);
                continue;
            }
            Chore::Rest(at) => until = until.min(at),
        }
        if flying.is_empty() || roll(20) {
            now = until.max(now);
            continue;
        }
        now += Time::from_millis(30);
        let fetch = flying.swap_remove(0);
        let (fails, evil) = match fetch.source {
            Source::Server => (world.server_fails, None),
            Source::Peer(PeerId(peer), _) => (world.peers_fail, (peer < world.evil).then_some(peer)),
        };
        let result = if let Some(peer) = evil {
            wronged.insert(peer);
            Err(Failure::WrongBytes)
        } else if !chooser.needs(fetch.id) {
            Err(Failure::Dropped)
        } else if roll(fails) {
            if matches!(fetch.source, Source::Peer(..)) {
                [
                    Failure::Busy(Time::from_millis(40)),
                    Failure::Slow,
                    Failure::Unreachable,
                    Failure::NotThere,
                ][step % 4]
                    .into_err()
            } else {
                Failure::Unreachable.into_err()
            }
        } else {
            for piece in fetch.pieces.clone() {
                assert_eq!(chooser.have(piece), held.insert(piece));
            }
            Ok(())
        };
        if result == Err(Failure::NotThere)
            && let Source::Peer(PeerId(peer), _) = fetch.source
        {
            said.insert(peer, PieceSet::none(PIECES));
        }
        chooser.ended(now, fetch.id, result);
    }
    assert!(held.is_full());
    let dropped: HashSet<u64> = chooser.dropped().map(|(PeerId(peer), _)| peer).collect();
    assert_eq!(dropped, wronged, "who gave wrong bytes is known");
    assert!(reported.iter().all(|PeerId(peer)| wronged.contains(peer)), "nobody else is accused");
}

trait IntoErr {
    fn into_err(self) -> Result<(), Failure>;
}

impl IntoErr for Failure {
    fn into_err(self) -> Result<(), Failure> {
        Err(self)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn everything_comes_and_nobody_is_asked_amiss(seed: u64, peers_fail in 0..101_u32, server_fails in 0..60_u32, tracker_silent in 0..101_u32, evil in 0..=PEERS) {
        fetch_everything(World { seed, peers_fail, server_fails, tracker_silent, evil });
    }
}

#[test]
fn everything_comes_from_the_server_when_nobody_else_is_any_good() {
    for (tracker_silent, evil) in [(100, 0), (0, PEERS)] {
        fetch_everything(World {
            seed: 4,
            peers_fail: 100,
            server_fails: 0,
            tracker_silent,
            evil,
        });
    }
}

#[test]
fn alone_it_begins_with_one_fetch_and_soon_has_all() {
    let settings = ChooserSettings::default();
    let mut chooser = Chooser::new(settings.clone(), layout(), 3);
    (0..PIECES).for_each(|piece| chooser.want(piece));
    let now = Time::from_secs(1);
    assert_eq!(
        chooser.next(now),
        Next::Wait(now + settings.first_answer),
        "the tracker may know of others"
    );
    assert!(matches!(chooser.chore(now), Chore::Announce(_)));
    chooser.unheard(now);
    let mut flying = Vec::new();
    for round in 0..settings.fetches {
        while let Next::Fetch(fetch) = chooser.next(now) {
            assert_eq!(fetch.source, Source::Server);
            flying.push(fetch);
        }
        assert_eq!(flying.len(), round + 1);
        let fetch = flying.remove(0);
        fetch.pieces.for_each(|piece| {
            chooser.have(piece);
        });
        chooser.ended(now, fetch.id, Ok(()));
    }
}

#[test]
fn a_late_fetch_is_asked_for_elsewhere_and_then_not_needed() {
    let mut chooser = Chooser::new(ChooserSettings::default(), layout(), 3);
    chooser.want(0);
    (1..PIECES).for_each(|piece| {
        chooser.have(piece);
    });
    let now = Time::from_secs(1);
    assert!(matches!(chooser.chore(now), Chore::Announce(_)));
    chooser.heard(
        now,
        Answer {
            together: true,
            members: Some(vec![member(1)]),
            granted: Vec::new(),
            again: Time::from_secs(1),
        },
    );
    assert_eq!(chooser.chore(now), Chore::AskPeer(PeerId(1), address(1)));
    chooser.peer_has(now, PeerId(1), PieceSet::all(PIECES));
    let Next::Fetch(first) = chooser.next(now) else {
        panic!("nothing to fetch")
    };
    assert_eq!(first.source, Source::Peer(PeerId(1), address(1)));
    assert!(matches!(chooser.next(now), Next::Wait(_)));
    let later = now + Time::from_secs(1);
    let Next::Fetch(second) = chooser.next(later) else {
        panic!("no second try")
    };
    assert_eq!((second.pieces, second.source), (0..1, Source::Server));
    assert!(matches!(chooser.next(later), Next::Wait(_)), "no third");
    chooser.have(0);
    chooser.ended(later, second.id, Ok(()));
    assert!(!chooser.needs(first.id));
    chooser.ended(later, first.id, Err(Failure::Dropped));
    assert_eq!(chooser.next(later), Next::Done);
}
