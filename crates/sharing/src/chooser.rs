//! What a machine fetches next, and from whom.
//!
//! Alone, it takes everything from the server in order, from somewhere on, with few fetches at once in the beginning: whoever began at the same
//! time has other pieces then, and soon. Together with others it takes from the server what the tracker granted to it, and everything
//! else from others, the piece that the fewest have first. The server stays the way out: when nothing has come from anybody for a while, the machine
//! takes what it needs from the server, granted or not. The last pieces, when they are late, are asked for twice.
//!
//! Invariants: no piece is fetched twice at once but in that last case; nobody is asked for a piece that it did not say to have; from a peer comes one
//! fetch at a time; who gave wrong bytes is never asked again; as long as pieces are missing there is a fetch, or a moment at which there will be one.
//!
//! It does not check bytes and does not measure time: the caller does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::tracker::{Answer, Member, News};
use crate::{Layout, PeerId, PieceSet, Time};

/// Most peers that are remembered for their wrong bytes.
const MAX_DROPPED: usize = 256;
/// Most peers that are known at once.
const MAX_PEERS: usize = 64;

/// How often in a row the wait for a peer's free slot is doubled.
const MAX_DOUBLINGS: u32 = 3;
/// How often in a row the wait after a failure of the server is doubled, from 100 ms on.
const MAX_SERVER_DOUBLINGS: u32 = 5;
/// Most accusations in one message.
const MAX_WRONG: usize = 16;

/// How a machine fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChooserSettings {
    /// Fetches at the same time.
    pub fetches: usize,
    /// Those of them that may be fetches from one peer.
    pub per_peer: usize,
    /// Grants that it asks for at once.
    pub room: u32,
    /// Shortest time between two messages to the tracker.
    pub gap: Time,
    /// After what time a peer's set is asked for anew by who has nothing to do.
    pub stale: Time,
    /// After what time without anything to do it turns to the server.
    pub patience: Time,
    /// How long the first fetch waits for the tracker's first answer.
    pub first_answer: Time,
    /// Shortest time after which a fetch from a peer is given up.
    pub give_up: Time,
}

impl Default for ChooserSettings {
    fn default() -> Self {
        Self {
            fetches: 6,
            per_peer: 1,
            room: 2,
            gap: Time::from_millis(100),
            stale: Time::from_millis(200),
            patience: Time::from_secs(5),
            first_answer: Time::from_millis(500),
            give_up: Time::from_millis(1500),
        }
    }
}

/// Where something is fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The server.
    Server,
    /// Another machine.
    Peer(PeerId, SocketAddr),
}

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Its number, by which its end is told.
    pub id: u64,
    /// The pieces: neighbours in the file of chunks.
    pub pieces: Range<u32>,
    /// From whom.
    pub source: Source,
    /// When to break it off as [`Failure::Slow`]; never for the server.
    pub give_up: Option<Time>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Fetch this.
    Fetch(Fetch),
    /// Ask again after any news, and at this moment at the latest.
    Wait(Time),
    /// Nothing is missing.
    Done,
}

/// Why a fetch brought less than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No slot is free; come back after this time.
    Busy(Time),
    /// It does not have the pieces, or not any more.
    NotThere,
    /// No connection, or one that broke.
    Unreachable,
    /// Not done by [`Fetch::give_up`].
    Slow,
    /// A piece did not have its digest.
    WrongBytes,
    /// Not needed any more ([`Chooser::needs`]).
    Dropped,
}

/// Something to do besides fetching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// Tell the tracker; then [`Chooser::heard`] or [`Chooser::unheard`].
    Announce(News),
    /// Ask a peer what it has; then [`Chooser::peer_has`], or nothing.
    AskPeer(PeerId, SocketAddr),
    /// Nothing until this moment, or until a fetch ended.
    Rest(Time),
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    address: SocketAddr,
    shares: PieceSet,
    /// When its set was heard, and when it was asked for.
    heard: Option<Time>,
    asked: Option<Time>,
    flights: usize,
    /// Until when it is left alone, and after how many failures in a row.
    rests: Time,
    failures: u32,
    /// How often in a row it had no free slot.
    refusals: u32,
    /// Bytes a second of a fetch, smoothed; 0: not known.
    rate: f64,
}

impl Peer {
    /// Whether it brought something, and has not failed since.
    fn is_proven(&self) -> bool {
        self.rate > 0.0 && self.failures == 0
    }
}

#[derive(Debug)]
struct Flight {
    id: u64,
    pieces: Range<u32>,
    source: Source,
    since: Time,
    bytes: u64,
    /// Whether it is, or has, a second try for the same pieces.
    twin: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Chooser {
    settings: ChooserSettings,
    layout: Arc<Layout>,
    chance: SmallRng,
    held: PieceSet,
    /// What others may fetch from here.
    shares: PieceSet,
    /// What is missing and is not being fetched.
    open: PieceSet,
    /// What is missing.
    wanted: PieceSet,
    flights: Vec<Flight>,
    last_id: u64,
    peers: Vec<Peer>,
    /// How many peers share each piece.
    holders: Vec<u16>,
    dropped: VecDeque<(PeerId, SocketAddr)>,
    /// Wrong bytes that the tracker does not know of yet, and those that it is being told of.
    wrong: Vec<PeerId>,
    telling: usize,
    together: bool,
    /// Since when it wants to fetch, and whether the tracker has answered, or could not be reached, since.
    begun: Option<Time>,
    answered: bool,
    /// Where it begins alone, and how many fetches it may have at once then: one more with each that ended.
    start: u32,
    alone: usize,
    /// Until when the server is left alone, and after how many failures in a row.
    server_rests: Time,
    server_failures: u32,
    grants: VecDeque<Range<u32>>,
    /// Since when there is nothing to do.
    idle: Option<Time>,
    /// When the tracker was told something last, when it should be told next, whether it is being told.
    announced: Option<Time>,
    again: Time,
    announcing: bool,
    /// Time between two messages while there is nothing to do: it grows while they bring nothing.
    gap: Time,
    /// Whether a granted piece came since.
    granted_came: bool,
    /// Seconds that a byte takes in one fetch, smoothed.
    usual: f64,
    scratch: Vec<u32>,
}

impl Chooser {
    /// Nothing is held, and nothing wanted until [`Chooser::want`] says so.
    pub fn new(settings: ChooserSettings, layout: Arc<Layout>, seed: u64) -> Self {
        let none = PieceSet::none(layout.count());
        let mut chance = SmallRng::seed_from_u64(seed);
        let start = layout.group(chance.random_range(0..layout.group_count())).start;
        Self {
            gap: settings.gap,
            settings,
            chance,
            held: none.clone(),
            shares: none.clone(),
            open: none.clone(),
            wanted: none,
            flights: Vec::new(),
            last_id: 0,
            peers: Vec::new(),
            holders: vec![0; layout.count() as usize],
            dropped: VecDeque::new(),
            wrong: Vec::new(),
            telling: 0,
            together: false,
            begun: None,
            answered: false,
            start,
            alone: 1,
            server_rests: Time::ZERO,
            server_failures: 0,
            grants: VecDeque::new(),
            idle: None,
            announced: None,
            again: Time::ZERO,
            announcing: false,
            granted_came: false,
            usual: 0.0,
            scratch: Vec::new(),
            layout,
        }
    }

    /// This piece has to be fetched.
    pub fn want(&mut self, piece: u32) {
        if !self.held.contains(piece) && self.wanted.insert(piece) {
            self.reopen(piece..piece + 1);
        }
    }

    /// This piece is here, its digest checked; whether that is new.
    pub fn have(&mut self, piece: u32) -> bool {
        self.wanted.remove(piece);
        self.open.remove(piece);
        self.held.insert(piece)
    }

    /// Others can fetch this piece from here, or cannot any more.
    pub fn share(&mut self, piece: u32, shared: bool) {
        if shared {
            self.shares.insert(piece);
        } else {
            self.shares.remove(piece);
        }
    }

    /// What others can fetch from here.
    pub fn shares(&self) -> &PieceSet {
        &self.shares
    }

    /// Whether a fetch still brings something that is missing.
    pub fn needs(&self, id: u64) -> bool {
        self.flights
            .iter()
            .any(|flight| flight.id == id && flight.pieces.clone().any(|piece| self.wanted.contains(piece)))
    }

    /// What to do next. A fetch that is given out counts as under way until [`Chooser::ended`].
    pub fn next(&mut self, now: Time) -> Next {
        if self.held.is_full() {
            return Next::Done;
        }
        if !self.together && !self.answered {
            // Who begins at the same time as others must not fetch what they fetch before it knows of them.
            let until = *self.begun.get_or_insert(now) + self.settings.first_answer;
            if now < until {
                return Next::Wait(until);
            }
        }
        let most = if self.together {
            self.settings.fetches
        } else {
            self.settings.fetches.min(self.alone)
        };
        if self.flights.len() >= most {
            return Next::Wait(now + Time::from_secs(1));
        }
        let server = self.server_rests <= now;
        let choice = match self.together {
            true => server.then(|| self.granted()).flatten().or_else(|| self.rarest(now)),
            false => server.then(|| self.in_order()).flatten(),
        };
        if let Some((pieces, source)) = choice {
            self.idle = None;
            return Next::Fetch(self.take_off(now, pieces, source, false));
        }
        let idle = *self.idle.get_or_insert(now);
        if let Some((pieces, source)) = self.second_try(now) {
            return Next::Fetch(self.take_off(now, pieces, source, true));
        }
        if self.together && server && now >= idle + self.settings.patience && !self.open.is_empty() {
            let pieces = self.anything();
            return Next::Fetch(self.take_off(now, pieces, Source::Server, false));
        }
        Next::Wait(self.wake(now, idle))
    }

    /// A fetch is over. Each of its pieces that came was told before by [`Chooser::have`]; the others are missing again.
    pub fn ended(&mut self, now: Time, id: u64, result: Result<(), Failure>) {
        let Some(at) = self.flights.iter().position(|flight| flight.id == id) else {
            return;
        };
        let flight = self.flights.swap_remove(at);
        for other in self.flights.iter_mut().filter(|other| other.pieces == flight.pieces) {
            other.twin = false;
        }
        self.reopen(flight.pieces.clone());
        let seconds = now.saturating_sub(flight.since).as_secs_f64();
        if result.is_ok() && flight.bytes > 0 {
            let per_byte = seconds / flight.bytes as f64;
            self.usual = if self.usual == 0.0 {
                per_byte
            } else {
                self.usual * 0.875 + per_byte * 0.125
            };
        }
        match flight.source {
            Source::Server => {
                self.granted_came = true;
                match result {
                    Ok(()) => {
                        self.alone = (self.alone + 1).min(self.settings.fetches);
                        self.server_failures = 0;
                    }
                    Err(Failure::Dropped) => {}
                    Err(_) => {
                        self.server_rests = now + Time::from_millis(100 << self.server_failures);
                        self.server_failures = (self.server_failures + 1).min(MAX_SERVER_DOUBLINGS);
                    }
                }
            }
            Source::Peer(id, address) => self.judge(now, id, address, seconds, flight.bytes, result),
        }
    }

    /// A peer said what it has.
    pub fn peer_has(&mut self, now: Time, id: PeerId, shares: PieceSet) {
        if shares.count() != self.layout.count() {
            return;
        }
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
            for piece in shares.without(&peer.shares) {
                self.holders[piece as usize] += 1;
            }
            for piece in peer.shares.without(&shares) {
                self.holders[piece as usize] -= 1;
            }
            peer.shares = shares;
            peer.heard = Some(now);
        }
    }

    /// The tracker answered.
    pub fn heard(&mut self, now: Time, answer: Answer) {
        self.announcing = false;
        self.answered = true;
        self.again = answer.again;
        self.announced = Some(now);
        self.together = answer.together;
        self.wrong.drain(..self.telling.min(self.wrong.len()));
        if !answer.together {
            self.grants.clear();
        }
        if answer.granted.is_empty() {
            // Asking again soon would only cost the server's link.
            self.gap = (self.gap * 2).min(self.again);
        } else {
            self.gap = self.settings.gap;
        }
        let count = self.layout.count();
        self.grants.extend(
            answer
                .granted
                .into_iter()
                .filter(|pieces| pieces.start < pieces.end && pieces.end <= count)
                .take(64),
        );
        if let Some(members) = answer.members {
            // Who is not named any more has left; one that is being fetched from is kept until that is over.
            let left = |peer: &&Peer| peer.flights == 0 && !members.iter().any(|member| member.id == peer.id);
            let gone: Vec<PeerId> = self.peers.iter().filter(left).map(|peer| peer.id).collect();
            for id in gone {
                self.forget(id);
            }
            for member in members {
                self.meet(member);
            }
        }
    }

    /// The tracker could not be reached.
    pub fn unheard(&mut self, now: Time) {
        self.announcing = false;
        self.answered = true;
        self.again = (self.again * 2).clamp(Time::from_secs(1), Time::from_secs(10));
        self.gap = (self.gap * 2).min(self.again);
        self.announced = Some(now);
    }

    /// What to do besides fetching. What is given out counts as begun.
    pub fn chore(&mut self, now: Time) -> Chore {
        let due = self.announced.map_or(now, |at| at + self.again);
        let hurry = self.together && (self.granted_came || self.idle.is_some()) || !self.wrong.is_empty();
        let due = if hurry {
            due.min(
                self.announced
                    .map_or(now, |at| at + if self.granted_came { self.settings.gap } else { self.gap }),
            )
        } else {
            due
        };
        if due <= now && !self.announcing {
            self.announcing = true;
            self.announced = Some(now);
            self.granted_came = false;
            self.telling = self.wrong.len().min(MAX_WRONG);
            return Chore::Announce(self.news());
        }
        let mut rest = if self.announcing { now + self.settings.gap } else { due };
        if self.together && !self.wanted.is_empty() {
            // Somebody new is asked at once; others while there is nothing to do.
            let idle = self.idle.is_some();
            let askable = |peer: &&mut Peer| {
                let new = peer.asked.is_none() && peer.heard.is_none();
                peer.rests <= now && !peer.shares.is_full() && (idle || new)
            };
            if let Some(peer) = self.peers.iter_mut().filter(askable).min_by_key(|peer| peer.heard.max(peer.asked)) {
                let at = peer.heard.max(peer.asked).map_or(now, |at| at + self.settings.stale);
                if at <= now {
                    peer.asked = Some(now);
                    return Chore::AskPeer(peer.id, peer.address);
                }
                rest = rest.min(at);
            }
        }
        Chore::Rest(rest.max(now + Time::from_millis(1)))
    }

    /// Who gave wrong bytes, since the beginning.
    pub fn dropped(&self) -> impl Iterator<Item = (PeerId, SocketAddr)> + '_ {
        self.dropped.iter().copied()
    }

    /// Whether the tracker said that machines share.
    pub fn together(&self) -> bool {
        self.together
    }

    fn news(&self) -> News {
        let waiting = self.grants.len() as u32 + self.flights.iter().filter(|flight| flight.source == Source::Server).count() as u32;
        // What a peer is bringing needs no grant; if it fails to, the piece is wanted again.
        let mut wants = self.wanted.clone();
        let coming = |flight: &&Flight| flight.source != Source::Server && !flight.twin;
        for flight in self.flights.iter().filter(coming) {
            for piece in flight.pieces.clone() {
                wants.remove(piece);
            }
        }
        News {
            shares: self.shares.clone(),
            wants,
            // Who has nothing to do has room for more.
            room: (self.settings.room << u32::from(self.idle.is_some())).saturating_sub(waiting),
            hungry: self.idle.is_some(),
            wrong: self.wrong[..self.telling].to_vec(),
        }
    }

    fn meet(&mut self, Member { id, address }: Member) {
        if self.dropped.iter().any(|known| known.0 == id || known.1 == address) {
            return;
        }
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
            peer.address = address;
        } else if self.peers.len() < MAX_PEERS {
            self.peers.push(Peer {
                id,
                address,
                shares: PieceSet::none(self.layout.count()),
                heard: None,
                asked: None,
                flights: 0,
                rests: Time::ZERO,
                failures: 0,
                refusals: 0,
                rate: 0.0,
            });
        }
    }

    fn forget(&mut self, id: PeerId) {
        if let Some(at) = self.peers.iter().position(|peer| peer.id == id) {
            let peer = self.peers.swap_remove(at);
            for piece in peer.shares.iter() {
                self.holders[piece as usize] -= 1;
            }
        }
    }

    /// What the end of a fetch says about a peer.
    fn judge(&mut self, now: Time, id: PeerId, address: SocketAddr, seconds: f64, bytes: u64, result: Result<(), Failure>) {
        if result == Err(Failure::WrongBytes) {
            self.forget(id);
            if self.wrong.len() < MAX_DROPPED {
                self.wrong.push(id);
            }
            if self.dropped.len() >= MAX_DROPPED {
                self.dropped.pop_front();
            }
            self.dropped.push_back((id, address));
            return;
        }
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) else {
            return;
        };
        peer.flights = peer.flights.saturating_sub(1);
        let mut empty = false;
        match result {
            Ok(()) => {
                peer.failures = 0;
                peer.refusals = 0;
                let rate = bytes as f64 / seconds.max(1e-6);
                peer.rate = if peer.rate == 0.0 { rate } else { peer.rate * 0.7 + rate * 0.3 };
            }
            Err(Failure::Busy(wait)) => {
                // Others wait for the same slot: who is refused again and again asks less often.
                let wait = wait.clamp(Time::from_millis(10), Time::from_secs(5)) * (1 << peer.refusals);
                peer.refusals = (peer.refusals + 1).min(MAX_DOUBLINGS);
                peer.rests = now + wait.mul_f64(self.chance.random_range(0.75..1.25));
            }
            Err(Failure::NotThere) => {
                peer.rests = now + Time::from_millis(20);
                empty = true;
            }
            Err(Failure::Unreachable | Failure::Slow) => {
                peer.failures += 1;
                peer.rests = now + Time::from_secs(2 << peer.failures.min(5));
            }
            Err(Failure::Dropped | Failure::WrongBytes) => {}
        }
        if empty {
            // It is asked what it has before it is asked for anything again.
            peer.asked = None;
            let none = PieceSet::none(self.layout.count());
            self.peer_has(now, id, none);
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
                peer.heard = None;
            }
        }
    }

    /// Pieces that were under way and did not come are there to be fetched again.
    fn reopen(&mut self, pieces: Range<u32>) {
        for piece in pieces {
            if self.wanted.contains(piece) && !self.flights.iter().any(|flight| flight.pieces.contains(&piece)) {
                self.open.insert(piece);
            }
        }
    }

    fn take_off(&mut self, now: Time, pieces: Range<u32>, source: Source, twin: bool) -> Fetch {
        for piece in pieces.clone() {
            self.open.remove(piece);
        }
        self.last_id += 1;
        let bytes = self.layout.bytes(pieces.clone());
        let mut give_up = None;
        if let Source::Peer(id, _) = source {
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
                peer.flights += 1;
            }
            give_up = Some(
                now + self
                    .settings
                    .give_up
                    .max(Time::from_secs_f64((self.usual * bytes as f64 * 6.0).min(60.0))),
            );
        }
        self.flights.push(Flight {
            id: self.last_id,
            pieces: pieces.clone(),
            source,
            since: now,
            bytes,
            twin,
        });
        Fetch {
            id: self.last_id,
            pieces,
            source,
            give_up,
        }
    }

    /// The next run in the order of the disk, from the server. It begins somewhere, so that those who begin at the same time have something for each other.
    fn in_order(&self) -> Option<(Range<u32>, Source)> {
        let first = self
            .open
            .iter()
            .find(|&piece| piece >= self.start)
            .or_else(|| self.open.iter().next())?;
        Some((self.layout.run_around(first, |piece| self.open.contains(piece)), Source::Server))
    }

    /// What was granted and is still missing.
    fn granted(&mut self) -> Option<(Range<u32>, Source)> {
        while let Some(pieces) = self.grants.pop_front() {
            let open = &self.open;
            if let Some(first) = pieces.clone().find(|&piece| open.contains(piece)) {
                let end = (first..pieces.end).find(|&piece| !open.contains(piece)).unwrap_or(pieces.end);
                if end < pieces.end {
                    self.grants.push_front(end..pieces.end);
                }
                return Some((first..end, Source::Server));
            }
        }
        None
    }

    fn is_free(&self, peer: &Peer, now: Time) -> bool {
        peer.flights < self.settings.per_peer && peer.rests <= now
    }

    /// Whether one more fetch may go to somebody who has brought nothing yet, or failed since: half of them at most do.
    fn welcomes_strangers(&self) -> bool {
        let strangers = self
            .peers
            .iter()
            .filter(|peer| !peer.is_proven())
            .map(|peer| peer.flights)
            .sum::<usize>();
        strangers < self.settings.fetches.div_ceil(2)
    }

    /// The piece that the fewest have, from one of those who have it.
    fn rarest(&mut self, now: Time) -> Option<(Range<u32>, Source)> {
        let mut reach = PieceSet::none(self.layout.count());
        let strangers = self.welcomes_strangers();
        for peer in self
            .peers
            .iter()
            .filter(|peer| self.is_free(peer, now) && (strangers || peer.is_proven()))
        {
            reach.add(&peer.shares);
        }
        let mut fewest = u16::MAX;
        self.scratch.clear();
        for piece in self.open.both(&reach) {
            let holders = self.holders[piece as usize];
            if holders < fewest {
                fewest = holders;
                self.scratch.clear();
            }
            if holders == fewest {
                self.scratch.push(piece);
            }
        }
        if self.scratch.is_empty() {
            return None;
        }
        let piece = self.scratch[self.chance.random_range(0..self.scratch.len())];
        let (peer, run) = self.holder_of(now, piece)?;
        Some((run, peer))
    }

    /// Of two that have a piece, as chance picks them, the one that has more around it, or else the faster one.
    fn holder_of(&mut self, now: Time, piece: u32) -> Option<(Source, Range<u32>)> {
        let strangers = self.welcomes_strangers();
        let mut places = std::mem::take(&mut self.scratch);
        places.clear();
        places.extend((0..self.peers.len() as u32).filter(|&at| {
            let peer = &self.peers[at as usize];
            self.is_free(peer, now) && (strangers || peer.is_proven()) && peer.shares.contains(piece)
        }));
        let pick = |chance: &mut SmallRng| (!places.is_empty()).then(|| places[chance.random_range(0..places.len())] as usize);
        let picked = pick(&mut self.chance).zip(pick(&mut self.chance));
        self.scratch = places;
        let (first, second) = picked?;
        let run = |at: usize| {
            let shares = &self.peers[at].shares;
            self.layout
                .run_around(piece, |piece| self.open.contains(piece) && shares.contains(piece))
        };
        let worth = |at: usize, run: &Range<u32>| {
            let peer = &self.peers[at];
            (
                peer.failures == 0,
                run.len(),
                if peer.rate == 0.0 { u64::MAX } else { peer.rate as u64 },
            )
        };
        let (one, other) = (run(first), run(second));
        let (at, run) = if worth(first, &one) >= worth(second, &other) {
            (first, one)
        } else {
            (second, other)
        };
        let peer = &self.peers[at];
        Some((Source::Peer(peer.id, peer.address), run))
    }

    /// A late fetch's pieces, asked for from somebody else as well, when nothing else is left to do.
    fn second_try(&mut self, now: Time) -> Option<(Range<u32>, Source)> {
        let late = |flight: &&Flight| {
            let usual = Time::from_secs_f64((self.usual * flight.bytes as f64 * 2.0).clamp(0.05, 10.0));
            !flight.twin && flight.since + usual <= now && flight.pieces.clone().any(|piece| self.wanted.contains(piece))
        };
        if !self.open.is_empty() && self.together {
            return None;
        }
        let at = self.flights.iter().position(|flight| late(&flight))?;
        let Flight { pieces, source, .. } = &self.flights[at];
        let (pieces, source) = (pieces.clone(), *source);
        let others = |peer: &&Peer| {
            self.is_free(peer, now)
                && !matches!(source, Source::Peer(id, _) if id == peer.id)
                && pieces.clone().all(|piece| peer.shares.contains(piece))
        };
        let from = match self.peers.iter().filter(others).max_by(|a, b| a.rate.total_cmp(&b.rate)) {
            Some(peer) => Source::Peer(peer.id, peer.address),
            None if matches!(source, Source::Peer(..)) && self.server_rests <= now => Source::Server,
            None => return None,
        };
        self.flights[at].twin = true;
        Some((pieces, from))
    }

    /// A run that is missing, wherever.
    fn anything(&mut self) -> Range<u32> {
        let at = self.chance.random_range(0..self.open.len().max(1)) as usize;
        let piece = self.open.iter().nth(at).unwrap_or_default();
        self.layout.run_around(piece, |piece| self.open.contains(piece))
    }

    /// When something may change by itself.
    fn wake(&self, now: Time, idle: Time) -> Time {
        let rests = self
            .peers
            .iter()
            .filter(|peer| peer.rests > now && peer.shares.meets(&self.open))
            .map(|peer| peer.rests);
        let patience = Some(idle + self.settings.patience).filter(|_| self.together && !self.open.is_empty());
        let soon = (!self.flights.is_empty()).then(|| now + Time::from_millis(100));
        let server = Some(self.server_rests).filter(|&rests| rests > now);
        let at = rests
            .chain(patience)
            .chain(soon)
            .chain(server)
            .min()
            .unwrap_or(now + Time::from_secs(1));
        at.max(now + Time::from_millis(1))
    }
}
