//! The course of a scenario: events in the order of their time, each given to the machine or the server that it concerns.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::baseline::{Baseline, Known};
use super::links::{Ending, FlowId, Links, Node};
use super::{Oddity, Outcome, Policy, Scenario};
use crate::{
    Answer, Chooser, Chore, Failure, Fetch, Layout, News, Next, PeerId, PieceSet, Slot, Source, SwarmKey, Time, Tracker, UploadSlots,
};

/// After this many simulated seconds nobody waits any longer.
const DAY: f64 = 86_400.0;
/// The server's link.
const SERVER: Node = 0;

enum Brain {
    Ours(Box<Chooser>),
    Baseline(Box<Baseline>),
    /// One that only talks.
    Puppet,
}

/// A fetch that is under way.
struct Active {
    fetch: Fetch,
    flow: Option<FlowId>,
    slot: Option<Slot>,
    arrived: bool,
}

struct Machine {
    node: Node,
    odd: Option<Oddity>,
    brain: Brain,
    begins: f64,
    finished: Option<f64>,
    /// Takes part: has begun and is not gone.
    here: bool,
    /// Its power is cut.
    dark: bool,
    slots: UploadSlots,
    active: BTreeMap<u64, Active>,
    shares: PieceSet,
    kept: VecDeque<u32>,
    kept_bytes: u64,
    disk_free: f64,
    wakes: f64,
    /// When a baseline refreshed what it knows.
    knew: f64,
    members: Vec<PeerId>,
    dropped: usize,
}

enum Event {
    Begin,
    Wake,
    /// A request of this machine reaches whom it asks.
    Asked(u64),
    /// All bytes of a fetch are here.
    Arrived(u64),
    /// And written, or not to be had.
    Ended(u64, Result<(), Failure>),
    GiveUp(u64),
    /// What a machine says reaches the tracker.
    Announced(Box<News>),
    /// A baseline's asking what is known.
    Polled,
    /// A question of what somebody has is there and back.
    PeerHas(PeerId, usize),
    /// The same beside another answer, which follows.
    PeerHasToo(PeerId, usize),
    Gone,
}

/// An event in the queue: the earliest is the greatest.
struct Queued {
    at: u64,
    sequence: u64,
    machine: usize,
    event: Event,
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

/// What a transfer carries.
enum Cargo {
    Pieces(usize, u64),
    Answer(usize, Box<Answer>),
    Known(usize, Vec<Known>),
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    layout: Arc<Layout>,
    key: SwarmKey,
    links: Links,
    tracker: Tracker,
    machines: Vec<Machine>,
    queue: BinaryHeap<Queued>,
    endings: BinaryHeap<Reverse<(u64, FlowId, u32)>>,
    cargo: Vec<Option<Cargo>>,
    sequence: u64,
    /// How many machines that are not odd have not finished.
    expected: usize,
    now: f64,
    chance: SmallRng,
    outcome: Outcome,
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

fn address(machine: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + machine as u32)), 7000)
}

fn machine_at(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(ip) => (u32::from(ip) - 0x0a00_0000) as usize,
        IpAddr::V6(_) => usize::MAX,
    }
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let image = scenario.image();
        let layout = Arc::new(Layout::new(image, scenario.group_bytes));
        let mut chance = SmallRng::seed_from_u64(scenario.seed);
        let mut links = Links::default();
        links.add(scenario.server, scenario.server);
        let mut settings = scenario.tracker.clone();
        if scenario.policy == Policy::ServerOnly {
            settings.from = usize::MAX;
        }
        let mut machines = Vec::new();
        for at in 0..scenario.machines {
            let odd = scenario.odd.iter().find(|(which, _)| *which == at).map(|(_, odd)| *odd);
            let up = if let Some(Oddity::Slow(part)) = odd {
                scenario.link * part
            } else {
                scenario.link
            };
            let seed = chance.random();
            let brain = match (odd, scenario.policy) {
                (Some(Oddity::Liar | Oddity::Silent | Oddity::Hoarder), _) => Brain::Puppet,
                (_, Policy::Baseline { order, rule, .. }) => {
                    Brain::Baseline(Box::new(Baseline::new(order, rule, scenario.chooser.fetches, layout.clone(), seed)))
                }
                (_, Policy::Ours | Policy::ServerOnly) => {
                    let mut chooser = Chooser::new(scenario.chooser.clone(), layout.clone(), seed);
                    (0..layout.count()).for_each(|piece| chooser.want(piece));
                    Brain::Ours(Box::new(chooser))
                }
            };
            let full = matches!(odd, Some(Oddity::Liar | Oddity::Silent));
            machines.push(Machine {
                node: links.add(up, scenario.link),
                odd,
                brain,
                begins: chance.random::<f64>() * scenario.spread,
                finished: None,
                here: false,
                dark: false,
                slots: UploadSlots::new(scenario.slots),
                active: BTreeMap::new(),
                shares: if full {
                    PieceSet::all(layout.count())
                } else {
                    PieceSet::none(layout.count())
                },
                kept: VecDeque::new(),
                kept_bytes: 0,
                disk_free: 0.0,
                wakes: f64::INFINITY,
                knew: -1.0,
                members: Vec::new(),
                dropped: 0,
            });
        }
        let image = layout.bytes(0..layout.count()) as f64;
        Self {
            scenario,
            layout,
            key: SwarmKey {
                image: [7; 32],
                network: "lab".to_owned(),
            },
            links,
            tracker: Tracker::new(settings, chance.random()),
            machines,
            queue: BinaryHeap::new(),
            endings: BinaryHeap::new(),
            cargo: Vec::new(),
            sequence: 0,
            expected: 0,
            now: 0.0,
            chance,
            outcome: Outcome {
                took: Vec::new(),
                unfinished: 0,
                image,
                server: 0.0,
                peers: 0.0,
                wasted: 0.0,
                answers: 0.0,
                messages: 0,
                busy: 0,
                dropped: 0,
                expelled: 0,
            },
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        for at in 0..self.machines.len() {
            let begins = self.machines[at].begins;
            self.push(begins, at, Event::Begin);
            if let Some(Oddity::Cut(when) | Oddity::Leaves(when)) = self.machines[at].odd {
                self.push(begins.max(when), at, Event::Gone);
            }
        }
        self.expected = self.machines.iter().filter(|it| it.odd.is_none()).count();
        while self.expected > 0 && self.now < DAY && self.step() {}
        for machine in self.machines.iter().filter(|it| it.odd.is_none()) {
            match machine.finished {
                Some(at) => self.outcome.took.push(at - machine.begins),
                None => self.outcome.unfinished += 1,
            }
        }
        self.outcome.took.sort_unstable_by(f64::total_cmp);
        self.outcome.dropped = self.machines.iter().map(|it| it.dropped).sum();
        self.outcome.expelled = self
            .tracker
            .standings(&self.key)
            .iter()
            .filter(|standing| standing.expelled)
            .count();
        self.outcome
    }

    /// The next event; whether there was one.
    fn step(&mut self) -> bool {
        for Ending { flow, version, at } in self.links.take_endings() {
            self.endings.push(Reverse((nanoseconds(at), flow, version)));
        }
        let event = self.queue.peek().map_or(u64::MAX, |queued| queued.at);
        let ending = self.endings.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        if event == u64::MAX && ending == u64::MAX {
            return false;
        }
        if ending <= event {
            if let Some(Reverse((at, flow, version))) = self.endings.pop()
                && self.links.holds(Ending { flow, version, at: 0.0 })
            {
                self.now = self.now.max(at as f64 / 1e9);
                self.delivered(flow);
            }
        } else if let Some(Queued { at, machine, event, .. }) = self.queue.pop() {
            self.now = self.now.max(at as f64 / 1e9);
            self.happens(machine, event);
        }
        true
    }

    fn push(&mut self, at: f64, machine: usize, event: Event) {
        self.sequence += 1;
        self.queue.push(Queued {
            at: nanoseconds(at),
            sequence: self.sequence,
            machine,
            event,
        });
    }

    fn time(&self) -> Time {
        Time::from_secs_f64(self.now)
    }

    fn send(&mut self, from: Node, to: usize, bytes: f64, cargo: Cargo) -> FlowId {
        let flow = self.links.begin(self.now, from, self.machines[to].node, bytes.max(1.0));
        if self.cargo.len() <= flow {
            self.cargo.resize_with(flow + 1, || None);
        }
        self.cargo[flow] = Some(cargo);
        flow
    }

    fn delivered(&mut self, flow: FlowId) {
        self.links.end(self.now, flow);
        match self.cargo[flow].take() {
            Some(Cargo::Pieces(at, id)) => {
                if let Some(active) = self.machines[at].active.get_mut(&id) {
                    active.flow = None;
                    let bytes = self.layout.bytes(active.fetch.pieces.clone()) as f64;
                    self.count(at, id, bytes);
                    self.free_slot(at, id);
                    self.push(self.now + self.scenario.round_trip / 2.0, at, Event::Arrived(id));
                }
            }
            Some(Cargo::Answer(at, answer)) => {
                let now = self.time();
                let machine = &mut self.machines[at];
                if let Some(members) = &answer.members {
                    machine.members = members.iter().map(|member| member.id).collect();
                }
                if let Brain::Ours(chooser) = &mut machine.brain {
                    chooser.heard(now, *answer);
                }
                self.pump(at);
            }
            Some(Cargo::Known(at, known)) => {
                if let Brain::Baseline(baseline) = &mut self.machines[at].brain {
                    baseline.know(known);
                }
                self.pump(at);
            }
            None => {}
        }
    }

    /// Whom a fetch's bytes came from, for the totals.
    fn count(&mut self, at: usize, id: u64, bytes: f64) {
        match self.machines[at].active.get(&id).map(|active| active.fetch.source) {
            Some(Source::Server) => self.outcome.server += bytes,
            Some(Source::Peer(..)) => self.outcome.peers += bytes,
            None => {}
        }
    }

    fn free_slot(&mut self, at: usize, id: u64) {
        let now = self.time();
        if let Some(active) = self.machines[at].active.get_mut(&id)
            && let (Some(slot), Source::Peer(_, address)) = (active.slot.take(), active.fetch.source)
        {
            self.machines[machine_at(address)].slots.free(now, slot);
        }
    }

    fn happens(&mut self, at: usize, event: Event) {
        if !self.machines[at].here && !matches!(event, Event::Begin) || self.machines[at].dark {
            return;
        }
        match event {
            Event::Begin => {
                self.machines[at].here = true;
                if let Policy::Baseline {
                    told_every: Some(every), ..
                } = self.scenario.policy
                {
                    let phase = self.chance.random::<f64>() * every.as_secs_f64();
                    self.push(self.now, at, Event::Polled);
                    self.push(self.now + phase, at, Event::Polled);
                }
            }
            // One that was set before an earlier one was needed is void.
            Event::Wake if nanoseconds(self.machines[at].wakes) > nanoseconds(self.now) => return,
            Event::Wake => self.machines[at].wakes = f64::INFINITY,
            Event::Asked(id) => self.asked(at, id),
            Event::Arrived(id) => self.arrived(at, id),
            Event::Ended(id, result) => self.ended(at, id, result),
            Event::GiveUp(id) => {
                if self.machines[at].active.get(&id).is_some_and(|active| !active.arrived) {
                    self.break_off(at, id, Failure::Slow);
                }
            }
            Event::Announced(news) => return self.announced(at, *news),
            Event::Polled => return self.polled(at),
            Event::PeerHas(id, peer) => self.peer_has(at, id, peer),
            Event::PeerHasToo(id, peer) => return self.peer_has(at, id, peer),
            Event::Gone => return self.gone(at),
        }
        self.pump(at);
    }

    fn peer_has(&mut self, at: usize, id: PeerId, peer: usize) {
        let now = self.time();
        let shares = self.machines[peer].shares.clone();
        if self.machines[peer].here
            && let Brain::Ours(chooser) = &mut self.machines[at].brain
        {
            chooser.peer_has(now, id, shares);
        }
    }

    /// A request is there.
    fn asked(&mut self, at: usize, id: u64) {
        let half = self.scenario.round_trip / 2.0;
        let Some(active) = self.machines[at].active.get(&id) else {
            return;
        };
        let (pieces, source) = (active.fetch.pieces.clone(), active.fetch.source);
        let bytes = self.layout.bytes(pieces.clone()) as f64;
        let Source::Peer(peer, peer_address) = source else {
            let flow = self.send(SERVER, at, bytes, Cargo::Pieces(at, id));
            return self.flies(at, id, flow, None);
        };
        let other = machine_at(peer_address);
        let now = self.time();
        if self.machines[other].dark || self.machines[other].odd == Some(Oddity::Silent) {
            return;
        }
        if !self.machines[other].here {
            return self.push(self.now + half, at, Event::Ended(id, Err(Failure::Unreachable)));
        }
        let refusal = if !pieces.clone().all(|piece| self.machines[other].shares.contains(piece)) {
            Some(Failure::NotThere)
        } else {
            match self.machines[other].slots.ask(now, address(at).ip()) {
                Ok(slot) => {
                    let from = self.machines[other].node;
                    let flow = self.send(from, at, bytes, Cargo::Pieces(at, id));
                    self.flies(at, id, flow, Some(slot));
                    None
                }
                Err(busy) => {
                    self.outcome.busy += 1;
                    Some(Failure::Busy(busy.come_back))
                }
            }
        };
        // Its answer says what it has.
        if let Some(failure) = refusal {
            self.push(self.now + half, at, Event::PeerHasToo(peer, other));
            self.push(self.now + half, at, Event::Ended(id, Err(failure)));
        } else {
            self.push(self.now + half, at, Event::PeerHas(peer, other));
        }
    }

    fn flies(&mut self, at: usize, id: u64, flow: FlowId, slot: Option<Slot>) {
        if let Some(active) = self.machines[at].active.get_mut(&id) {
            active.flow = Some(flow);
            active.slot = slot;
        }
    }

    /// All bytes of a fetch are here: they are checked, and can be shared before they are written.
    fn arrived(&mut self, at: usize, id: u64) {
        let Some(active) = self.machines[at].active.get_mut(&id) else {
            return;
        };
        active.arrived = true;
        let (pieces, source) = (active.fetch.pieces.clone(), active.fetch.source);
        let bytes = self.layout.bytes(pieces.clone()) as f64;
        if let Source::Peer(_, address) = source
            && matches!(self.machines[machine_at(address)].odd, Some(Oddity::WrongBytes | Oddity::Liar))
        {
            self.outcome.wasted += bytes;
            self.machines[at].dropped += 1;
            return self.ended(at, id, Err(Failure::WrongBytes));
        }
        for piece in pieces {
            let length = self.layout.bytes(piece..piece + 1);
            let machine = &mut self.machines[at];
            let new = match &mut machine.brain {
                Brain::Ours(chooser) => chooser.have(piece),
                Brain::Baseline(baseline) => baseline.have(piece),
                Brain::Puppet => false,
            };
            if !new {
                self.outcome.wasted += length as f64;
                continue;
            }
            machine.kept.push_back(piece);
            machine.kept_bytes += length;
            self.share(at, piece, true);
            while self.machines[at].kept_bytes > self.scenario.keep {
                let Some(oldest) = self.machines[at].kept.pop_front() else {
                    break;
                };
                self.machines[at].kept_bytes -= self.layout.bytes(oldest..oldest + 1);
                self.share(at, oldest, false);
            }
        }
        let machine = &mut self.machines[at];
        machine.disk_free = machine.disk_free.max(self.now) + bytes / self.scenario.write_rate;
        let written = machine.disk_free;
        self.push(written, at, Event::Ended(id, Ok(())));
        if let Brain::Ours(chooser) = &self.machines[at].brain {
            let useless: Vec<u64> = self.machines[at]
                .active
                .iter()
                .filter(|(id, active)| !active.arrived && !chooser.needs(**id))
                .map(|(id, _)| *id)
                .collect();
            for id in useless {
                self.break_off(at, id, Failure::Dropped);
            }
        }
    }

    fn share(&mut self, at: usize, piece: u32, shared: bool) {
        let machine = &mut self.machines[at];
        if shared {
            machine.shares.insert(piece);
        } else {
            machine.shares.remove(piece);
        }
        if let Brain::Ours(chooser) = &mut machine.brain {
            chooser.share(piece, shared);
        }
    }

    fn ended(&mut self, at: usize, id: u64, result: Result<(), Failure>) {
        let now = self.time();
        let machine = &mut self.machines[at];
        if machine.active.remove(&id).is_some() {
            match &mut machine.brain {
                Brain::Ours(chooser) => chooser.ended(now, id, result),
                Brain::Baseline(baseline) => baseline.ended(now, id, result),
                Brain::Puppet => {}
            }
        }
    }

    /// A fetch ends before its bytes were there.
    fn break_off(&mut self, at: usize, id: u64, failure: Failure) {
        self.free_slot(at, id);
        if let Some(active) = self.machines[at].active.get_mut(&id)
            && let Some(flow) = active.flow.take()
        {
            let bytes = self.layout.bytes(active.fetch.pieces.clone()) as f64;
            self.cargo[flow] = None;
            let came = (bytes - self.links.end(self.now, flow)).max(0.0);
            self.outcome.wasted += came;
            self.count(at, id, came);
        }
        self.ended(at, id, Err(failure));
    }

    /// Lets a machine do what it can now.
    fn pump(&mut self, at: usize) {
        if !self.machines[at].here || self.machines[at].dark {
            return;
        }
        let half = self.scenario.round_trip / 2.0;
        let now = self.time();
        let mut wakes = f64::INFINITY;
        if matches!(self.scenario.policy, Policy::Baseline { told_every: None, .. }) && self.machines[at].knew + 0.02 <= self.now {
            self.machines[at].knew = self.now;
            let known = self.known_to(at);
            if let Brain::Baseline(baseline) = &mut self.machines[at].brain {
                baseline.know(known);
            }
        }
        loop {
            let next = match &mut self.machines[at].brain {
                Brain::Ours(chooser) => chooser.next(now),
                Brain::Baseline(baseline) => baseline.next(now),
                Brain::Puppet => Next::Wait(now + Time::from_secs(1)),
            };
            match next {
                Next::Fetch(fetch) => {
                    let id = fetch.id;
                    self.push(self.now + half, at, Event::Asked(id));
                    if let Some(give_up) = fetch.give_up {
                        self.push(give_up.as_secs_f64(), at, Event::GiveUp(id));
                    }
                    let active = Active {
                        fetch,
                        flow: None,
                        slot: None,
                        arrived: false,
                    };
                    self.machines[at].active.insert(id, active);
                }
                Next::Wait(until) => {
                    wakes = wakes.min(until.as_secs_f64());
                    break;
                }
                Next::Done => {
                    if self.machines[at].finished.is_none() && self.machines[at].active.is_empty() {
                        self.machines[at].finished = Some(self.now);
                        self.expected -= usize::from(self.machines[at].odd.is_none());
                        self.push(self.now + self.scenario.linger, at, Event::Gone);
                    }
                    break;
                }
            }
        }
        wakes = wakes.min(self.chores(at));
        // Never at this very moment again: a wake-up that changes nothing would stop the clock.
        let wakes = wakes.max(self.now + 0.001);
        if wakes < self.machines[at].wakes {
            self.machines[at].wakes = wakes;
            self.push(wakes, at, Event::Wake);
        }
    }

    /// What a machine has to say and ask; when it wants to be asked again.
    fn chores(&mut self, at: usize) -> f64 {
        let half = self.scenario.round_trip / 2.0;
        let now = self.time();
        let count = self.layout.count();
        loop {
            let machine = &mut self.machines[at];
            match &mut machine.brain {
                Brain::Baseline(_) => return f64::INFINITY,
                Brain::Puppet => {
                    let hoards = machine.odd == Some(Oddity::Hoarder);
                    let news = News {
                        shares: machine.shares.clone(),
                        wants: if hoards { PieceSet::all(count) } else { PieceSet::none(count) },
                        room: 100,
                        hungry: hoards,
                        wrong: Vec::new(),
                    };
                    if machine.knew + 0.5 > self.now {
                        return machine.knew + 0.5;
                    }
                    machine.knew = self.now;
                    self.push(self.now + half, at, Event::Announced(Box::new(news)));
                }
                Brain::Ours(chooser) => match chooser.chore(now) {
                    Chore::Announce(mut news) => {
                        if machine.odd == Some(Oddity::Slanderer) {
                            news.wrong.clone_from(&machine.members);
                        }
                        self.push(self.now + half, at, Event::Announced(Box::new(news)));
                    }
                    Chore::AskPeer(id, address) => {
                        let other = machine_at(address);
                        if !self.machines[other].dark {
                            self.push(self.now + self.scenario.round_trip, at, Event::PeerHas(id, other));
                        }
                    }
                    Chore::Rest(until) => return until.as_secs_f64(),
                },
            }
        }
    }

    fn announced(&mut self, at: usize, news: News) {
        let now = self.time();
        let name = format!("machine-{at:04}");
        let (answer, _) = self.tracker.announce(now, &self.key, &self.layout, &name, address(at), news);
        // In JSON, with what HTTP and TLS add.
        let members = answer.members.as_ref().map_or(0, Vec::len) * 70;
        self.answer(at, members + answer.granted.len() * 12 + 400, |at| {
            Cargo::Answer(at, Box::new(answer))
        });
    }

    fn answer(&mut self, at: usize, bytes: usize, cargo: impl FnOnce(usize) -> Cargo) {
        self.outcome.messages += 1;
        self.outcome.answers += bytes as f64;
        self.send(SERVER, at, bytes as f64, cargo(at));
    }

    fn polled(&mut self, at: usize) {
        if let Policy::Baseline {
            told_every: Some(every), ..
        } = self.scenario.policy
        {
            let known = self.known_to(at);
            let bytes = known
                .iter()
                .map(|known| (known.shares.to_bytes().len() + known.getting.to_bytes().len()) * 4 / 3 + 70)
                .sum::<usize>();
            self.answer(at, bytes + 200, |at| Cargo::Known(at, known));
            self.push(self.now + every.as_secs_f64(), at, Event::Polled);
        }
    }

    /// What a baseline is told: of as many others as ours would be.
    fn known_to(&mut self, at: usize) -> Vec<Known> {
        let mut others: Vec<usize> = (0..self.machines.len())
            .filter(|&other| other != at && self.machines[other].here)
            .collect();
        let most = self.scenario.tracker.told;
        if others.len() > most {
            // The same few again and again, as with ours.
            others.sort_by_key(|&other| ((at * 7919 + other * 104_729) % 65_537, other));
            others.truncate(most);
        }
        let none = PieceSet::none(self.layout.count());
        let known = |other: usize| {
            let machine = &self.machines[other];
            Known {
                id: PeerId(other as u64),
                address: address(other),
                shares: machine.shares.clone(),
                getting: if let Brain::Baseline(baseline) = &machine.brain {
                    baseline.getting.clone()
                } else {
                    none.clone()
                },
            }
        };
        others.into_iter().map(known).collect()
    }

    /// A machine leaves, or its power is cut.
    fn gone(&mut self, at: usize) {
        let cut = matches!(self.machines[at].odd, Some(Oddity::Cut(_)));
        let own: Vec<u64> = self.machines[at].active.keys().copied().collect();
        for id in own {
            self.break_off(at, id, Failure::Dropped);
        }
        if cut {
            // Whoever fetches from it sees nothing more.
            self.machines[at].dark = true;
            let node = self.machines[at].node;
            return self.links.set_up(self.now, node, 1e-3);
        }
        self.machines[at].here = false;
        self.machines[at].slots.stop();
        self.tracker.leave(&self.key, &format!("machine-{at:04}"));
        for other in 0..self.machines.len() {
            let from_it =
                |active: &Active| matches!(active.fetch.source, Source::Peer(_, peer) if machine_at(peer) == at) && active.flow.is_some();
            let ids: Vec<u64> = self.machines[other]
                .active
                .iter()
                .filter(|(_, active)| from_it(active))
                .map(|(id, _)| *id)
                .collect();
            for id in &ids {
                self.break_off(other, *id, Failure::Unreachable);
            }
            if !ids.is_empty() {
                self.pump(other);
            }
        }
    }
}
