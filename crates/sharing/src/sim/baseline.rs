//! The policies that ours is compared with: each machine decides by what it was told of the others, and nobody decides what passes the server's link.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::{Failure, Fetch, Layout, Next, PeerId, PieceSet, Source, Time};

/// Which piece first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that comes first on the disk.
    Sequential,
    /// Any.
    Random,
    /// The one that the fewest of the known machines have.
    RarestFirst,
}

/// When the server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerRule {
    /// When no machine with a free slot has the piece.
    Freely,
    /// When no machine has the piece or is getting it.
    IfNobodyHas,
}

/// What is known of another machine.
#[derive(Debug, Clone)]
pub struct Known {
    /// Who.
    pub id: PeerId,
    /// Where.
    pub address: SocketAddr,
    /// What it has.
    pub shares: PieceSet,
    /// What it is getting from the server.
    pub getting: PieceSet,
}

/// A machine's state under such a policy.
#[derive(Debug)]
pub struct Baseline {
    order: Order,
    rule: ServerRule,
    fetches: usize,
    layout: Arc<Layout>,
    chance: SmallRng,
    /// What is missing, and of that what nobody fetches.
    wanted: PieceSet,
    open: PieceSet,
    pub(super) getting: PieceSet,
    flights: Vec<(u64, Range<u32>, Source)>,
    last_id: u64,
    known: Vec<Known>,
    rests: Vec<(PeerId, Time)>,
    dropped: Vec<PeerId>,
    holders: Vec<u16>,
    spoken_for: PieceSet,
    scratch: Vec<u32>,
}

impl Baseline {
    pub(super) fn new(order: Order, rule: ServerRule, fetches: usize, layout: Arc<Layout>, seed: u64) -> Self {
        let count = layout.count();
        Self {
            order,
            rule,
            fetches,
            chance: SmallRng::seed_from_u64(seed),
            wanted: PieceSet::all(count),
            open: PieceSet::all(count),
            getting: PieceSet::none(count),
            flights: Vec::new(),
            last_id: 0,
            known: Vec::new(),
            rests: Vec::new(),
            dropped: Vec::new(),
            holders: vec![0; count as usize],
            spoken_for: PieceSet::none(count),
            scratch: Vec::new(),
            layout,
        }
    }

    /// What is known of the others.
    pub(super) fn know(&mut self, known: Vec<Known>) {
        self.known = known;
        self.known.retain(|known| !self.dropped.contains(&known.id));
        self.holders.fill(0);
        self.spoken_for = PieceSet::none(self.layout.count());
        for known in &self.known {
            for piece in known.shares.iter() {
                self.holders[piece as usize] += 1;
            }
            self.spoken_for.add(&known.shares);
            self.spoken_for.add(&known.getting);
        }
    }

    pub(super) fn have(&mut self, piece: u32) -> bool {
        self.open.remove(piece);
        self.wanted.remove(piece)
    }

    pub(super) fn next(&mut self, now: Time) -> Next {
        if self.wanted.is_empty() {
            return Next::Done;
        }
        let wait = Next::Wait(now + Time::from_millis(100));
        if self.flights.len() >= self.fetches {
            return wait;
        }
        let free = |known: &Known, rests: &[(PeerId, Time)], flights: &[(u64, Range<u32>, Source)]| {
            !rests.iter().any(|&(id, until)| id == known.id && until > now)
                && !flights
                    .iter()
                    .any(|(_, _, source)| matches!(source, Source::Peer(id, _) if *id == known.id))
        };
        let mut reach = PieceSet::none(self.layout.count());
        for known in self.known.iter().filter(|known| free(known, &self.rests, &self.flights)) {
            reach.add(&known.shares);
        }
        let from_server = |piece: u32| self.rule == ServerRule::Freely || !self.spoken_for.contains(piece);
        self.scratch.clear();
        let mut fewest = u16::MAX;
        for piece in self.open.iter().filter(|&piece| reach.contains(piece) || from_server(piece)) {
            let holders = if self.order == Order::RarestFirst {
                self.holders[piece as usize]
            } else {
                0
            };
            if holders < fewest {
                fewest = holders;
                self.scratch.clear();
            }
            if holders == fewest {
                self.scratch.push(piece);
            }
            if self.order == Order::Sequential {
                break;
            }
        }
        if self.scratch.is_empty() {
            return wait;
        }
        let piece = self.scratch[self.chance.random_range(0..self.scratch.len())];
        let holders: Vec<&Known> = self
            .known
            .iter()
            .filter(|known| known.shares.contains(piece) && free(known, &self.rests, &self.flights))
            .collect();
        let (pieces, source) = if holders.is_empty() {
            (
                self.layout
                    .run_around(piece, |piece| self.open.contains(piece) && from_server(piece)),
                Source::Server,
            )
        } else {
            let peer = holders[self.chance.random_range(0..holders.len())];
            let run = self
                .layout
                .run_around(piece, |piece| self.open.contains(piece) && peer.shares.contains(piece));
            (run, Source::Peer(peer.id, peer.address))
        };
        for piece in pieces.clone() {
            self.open.remove(piece);
            if source == Source::Server {
                self.getting.insert(piece);
            }
        }
        self.last_id += 1;
        self.flights.push((self.last_id, pieces.clone(), source));
        Next::Fetch(Fetch {
            id: self.last_id,
            pieces,
            source,
            give_up: (source != Source::Server).then(|| now + Time::from_secs(10)),
        })
    }

    pub(super) fn ended(&mut self, now: Time, id: u64, result: Result<(), Failure>) {
        let Some(at) = self.flights.iter().position(|flight| flight.0 == id) else {
            return;
        };
        let (_, pieces, source) = self.flights.swap_remove(at);
        for piece in pieces {
            self.getting.remove(piece);
            if self.wanted.contains(piece) {
                self.open.insert(piece);
            }
        }
        let Source::Peer(peer, _) = source else {
            return;
        };
        let rest = match result {
            Ok(()) | Err(Failure::Dropped) => return,
            Err(Failure::Busy(wait)) => wait,
            Err(Failure::NotThere) => Time::from_millis(100),
            Err(Failure::Unreachable | Failure::Slow) => Time::from_secs(10),
            Err(Failure::WrongBytes) => {
                self.dropped.push(peer);
                self.known.retain(|known| known.id != peer);
                return;
            }
        };
        self.rests.retain(|&(id, until)| id != peer && until > now);
        self.rests.push((peer, now + rest));
    }
}
