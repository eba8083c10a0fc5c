//! Who takes part, who has what, and who fetches which piece from the server itself.
//!
//! **Grants.** The server's link is the one thing that everybody waits for, so no piece should pass it twice while another has not passed it once. A
//! machine takes from the server what it was granted: the pieces that the fewest machines have or are getting. How many grants are open at once follows
//! the time they take ([`TrackerSettings::grant_time`]): few on a slow link, so that each piece soon has a second source, and as many as
//! are asked for on a fast one. A grant that is not used in time is taken back, and its machine gets no other for a while.
//!
//! **Wrong bytes.** A machine that got wrong bytes drops whoever gave them, by itself and at once, and is not told of it again. For everybody a machine is expelled when
//! [`TrackerSettings::accusers`] different machines say so; each machine's word counts against [`TrackerSettings::accusations`] others at most, and
//! that of an expelled one no longer. So a slanderer expels nobody, and a handful of them a handful at most, who lose nothing but their
//! part in giving: what they fetch, from the server or from others, they go on fetching.
//!
//! **Memory** is bounded whatever is said: swarms, members, the bytes of their sets, grants, accusations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;

use crate::{Layout, PeerId, PieceSet, Time};

/// Longest name of a machine in bytes.
const MAX_NAME: usize = 256;
/// Most machines whose wrong bytes one message names.
const MAX_WRONG: usize = 16;
/// Most machines of a swarm that wrong bytes are known of.
const MAX_CASES: usize = 256;
/// Most accusers of one that are kept.
const MAX_ACCUSERS: usize = 16;

/// Which machines belong together: those that write one image in one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SwarmKey {
    /// Digest of the image's manifest.
    pub image: [u8; 32],
    /// Name of the network.
    pub network: String,
}

/// What a machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The pieces that others can fetch from it.
    pub shares: PieceSet,
    /// The pieces that it still needs and that nobody but the server is bringing it.
    pub wants: PieceSet,
    /// How many more grants it can take.
    pub room: u32,
    /// Whether it has nothing to do, for want of pieces.
    pub hungry: bool,
    /// Who gave it wrong bytes since it said so last.
    pub wrong: Vec<PeerId>,
}

/// A machine that shares. What it has it says itself, to whoever asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: PeerId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether there are enough machines; otherwise each fetches from the server as it likes.
    pub together: bool,
    /// Some of the others, not all of many; `None`: as it was told before, not long ago.
    pub members: Option<Vec<Member>>,
    /// What it fetches from the server itself: runs of neighbours, each within a group of the layout.
    pub granted: Vec<Range<u32>>,
    /// When it should say something again, from now on.
    pub again: Time,
}

/// How a machine stands that was said to give wrong bytes: for logs and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The machine.
    pub machine: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who says so.
    pub accusers: Vec<String>,
    /// Whether nobody is told of it any more.
    pub expelled: bool,
}

/// Bounds and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackerSettings {
    /// From how many machines on they share.
    pub from: usize,
    /// Of how many others a machine is told at most.
    pub told: usize,
    /// Shortest time between two messages of a machine that is in no hurry.
    pub interval: Time,
    /// Longest.
    pub longest_interval: Time,
    /// Messages a second of a whole swarm; the interval grows with its size to keep it so.
    pub messages: u32,
    /// How long a grant should take, waiting included.
    pub grant_time: Time,
    /// Most grants of one machine at once.
    pub grants_each: usize,
    /// After what time a grant is taken back, at least.
    pub grant_expires: Time,
    /// How many different machines expel one.
    pub accusers: usize,
    /// Against how many machines one's word counts.
    pub accusations: usize,
    /// Most swarms.
    pub swarms: usize,
    /// Most members of a swarm.
    pub members: usize,
    /// Most bytes of all sets together.
    pub set_bytes: usize,
}

impl Default for TrackerSettings {
    fn default() -> Self {
        Self {
            from: 4,
            told: 30,
            interval: Time::from_millis(500),
            longest_interval: Time::from_secs(10),
            messages: 100,
            grant_time: Time::from_millis(400),
            grants_each: 4,
            grant_expires: Time::from_secs(8),
            accusers: 3,
            accusations: 4,
            swarms: 64,
            members: 4096,
            set_bytes: 64 << 20,
        }
    }
}

#[derive(Debug)]
struct Machine {
    id: PeerId,
    address: SocketAddr,
    shares: PieceSet,
    wants: PieceSet,
    heard: Time,
    /// Until when it gets no grants, because it let one lapse.
    benched: Time,
    /// When it is to be told of the others again.
    tell: Time,
}

/// What was said against a machine. It stays when the machine leaves, so that nobody is rid of it by coming again.
#[derive(Debug)]
struct Case {
    address: SocketAddr,
    accusers: BTreeSet<String>,
    expelled: bool,
}

#[derive(Debug)]
struct Grant {
    to: PeerId,
    pieces: Range<u32>,
    since: Time,
}

#[derive(Debug)]
struct Swarm {
    machines: BTreeMap<String, Machine>,
    together: bool,
    /// How many machines share each piece, and how many are getting it from the server.
    copies: Vec<u32>,
    grants: Vec<Grant>,
    /// How many grants may be open.
    window: f64,
    /// When the window was made smaller last.
    narrowed: Time,
    /// By the name of who was accused.
    cases: BTreeMap<String, Case>,
}

/// The swarms of a server.
#[derive(Debug)]
pub struct Tracker {
    settings: TrackerSettings,
    seed: u64,
    swarms: BTreeMap<SwarmKey, Swarm>,
    joined: u64,
    set_bytes: usize,
}

impl Tracker {
    /// No swarms yet.
    pub fn new(settings: TrackerSettings, seed: u64) -> Self {
        Self {
            settings,
            seed,
            swarms: BTreeMap::new(),
            joined: 0,
            set_bytes: 0,
        }
    }

    /// A machine says what it has and is told what it needs to know. `machine` and the address are what the server knows of it, never what it claims
    /// (its port apart). Second: how those stand whom it accuses.
    ///
    /// Whoever says nonsense, or comes when all bounds are reached, is told to go alone.
    pub fn announce(
        &mut self,
        now: Time,
        key: &SwarmKey,
        layout: &Layout,
        machine: &str,
        address: SocketAddr,
        news: News,
    ) -> (Answer, Vec<Standing>) {
        let alone = Answer {
            together: false,
            members: None,
            granted: Vec::new(),
            again: self.settings.longest_interval,
        };
        let count = layout.count();
        if machine.len() > MAX_NAME || news.shares.count() != count || news.wants.count() != count {
            return (alone, Vec::new());
        }
        self.expire(now);
        if !self.admit(now, key, count, machine, address) {
            return (alone, Vec::new());
        }
        let Some(swarm) = self.swarms.get_mut(key) else {
            return (alone, Vec::new());
        };
        let Some(id) = swarm.hear(now, machine, address, &news) else {
            return (alone, Vec::new());
        };
        swarm.settle(now, id, machine, &self.settings);
        let standings = swarm.accuse(machine, &news.wrong, &self.settings);
        let members = swarm.machines.len();
        swarm.together = members >= if swarm.together { 2 } else { self.settings.from };
        let again = self
            .settings
            .interval
            .max(Time::from_secs_f64(members as f64 / f64::from(self.settings.messages.max(1))));
        let mut answer = Answer {
            again: again.min(self.settings.longest_interval),
            ..alone
        };
        if swarm.together {
            answer.together = true;
            answer.members = swarm.told(now, id, machine, self.seed, self.settings.told, answer.again);
            answer.granted = swarm.grant(now, id, machine, layout, &news, &self.settings);
        }
        (answer, standings)
    }

    /// A machine's task is over.
    pub fn leave(&mut self, key: &SwarmKey, machine: &str) {
        if let Some(swarm) = self.swarms.get_mut(key) {
            self.set_bytes -= swarm.remove(machine);
            if swarm.machines.is_empty() {
                self.swarms.remove(key);
            }
        }
    }

    /// How those stand that were accused in a swarm.
    pub fn standings(&self, key: &SwarmKey) -> Vec<Standing> {
        self.swarms.get(key).map(Swarm::standings).unwrap_or_default()
    }

    /// How many machines take part in a swarm.
    pub fn members(&self, key: &SwarmKey) -> usize {
        self.swarms.get(key).map_or(0, |swarm| swarm.machines.len())
    }

    /// How many machines take part, in all swarms.
    pub fn machines(&mut self, now: Time) -> usize {
        self.expire(now);
        self.swarms.values().map(|swarm| swarm.machines.len()).sum()
    }

    /// Forgets who was not heard for three times as long as it should have been silent.
    fn expire(&mut self, now: Time) {
        let settings = &self.settings;
        let set_bytes = &mut self.set_bytes;
        self.swarms.retain(|_, swarm| {
            let again = settings.interval.max(Time::from_secs_f64(
                swarm.machines.len() as f64 / f64::from(settings.messages.max(1)),
            ));
            let silence = again.min(settings.longest_interval) * 3 + Time::from_secs(2);
            let gone: Vec<String> = swarm
                .machines
                .iter()
                .filter(|(_, it)| it.heard + silence < now)
                .map(|(name, _)| name.clone())
                .collect();
            for name in gone {
                *set_bytes -= swarm.remove(&name);
            }
            !swarm.machines.is_empty()
        });
    }

    /// Whether a machine may take part; a new one is taken in if the bounds allow it.
    fn admit(&mut self, now: Time, key: &SwarmKey, count: u32, machine: &str, address: SocketAddr) -> bool {
        let known = self.swarms.get(key);
        if known.is_some_and(|swarm| {
            swarm.copies.len() != count as usize || swarm.machines.iter().any(|(name, it)| it.address == address && name != machine)
        }) {
            return false;
        }
        if known.is_some_and(|swarm| swarm.machines.contains_key(machine)) {
            return true;
        }
        let bytes = set_bytes(count);
        if self.set_bytes + bytes > self.settings.set_bytes
            || known.is_some_and(|swarm| swarm.machines.len() >= self.settings.members)
            || known.is_none() && self.swarms.len() >= self.settings.swarms
        {
            return false;
        }
        self.joined += 1;
        let id = PeerId(mix(self.seed, self.joined));
        let swarm = self.swarms.entry(key.clone()).or_insert_with(|| Swarm::new(count));
        swarm.machines.insert(
            machine.to_owned(),
            Machine {
                id,
                address,
                shares: PieceSet::none(count),
                wants: PieceSet::none(count),
                heard: now,
                benched: Time::ZERO,
                tell: Time::ZERO,
            },
        );
        self.set_bytes += bytes;
        true
    }
}

/// What a member's two sets take.
fn set_bytes(count: u32) -> usize {
    count.div_ceil(64) as usize * 16
}

impl Swarm {
    fn new(count: u32) -> Self {
        Self {
            machines: BTreeMap::new(),
            together: false,
            copies: vec![0; count as usize],
            grants: Vec::new(),
            window: 4.0,
            narrowed: Time::ZERO,
            cases: BTreeMap::new(),
        }
    }

    /// Keeps what a machine said; its number.
    fn hear(&mut self, now: Time, machine: &str, address: SocketAddr, news: &News) -> Option<PeerId> {
        let expelled = self.is_expelled(machine);
        let known = self.machines.get_mut(machine)?;
        // What an expelled machine has is as good as not there.
        let none = PieceSet::none(news.shares.count());
        let shares = if expelled { &none } else { &news.shares };
        for piece in shares.without(&known.shares) {
            self.copies[piece as usize] += 1;
        }
        for piece in known.shares.without(shares) {
            self.copies[piece as usize] -= 1;
        }
        known.shares.clone_from(shares);
        known.wants.clone_from(&news.wants);
        known.address = address;
        known.heard = now;
        Some(known.id)
    }

    fn is_expelled(&self, machine: &str) -> bool {
        self.cases.get(machine).is_some_and(|case| case.expelled)
    }

    /// Closes the grants that were used, and those that lapsed, and follows the time they took.
    fn settle(&mut self, now: Time, id: PeerId, machine: &str, settings: &TrackerSettings) {
        let mut closed = Vec::new();
        let machines = &mut self.machines;
        self.grants.retain(|grant| {
            let age = now.saturating_sub(grant.since);
            let used = grant.to == id
                && machines
                    .get(machine)
                    .is_some_and(|it| grant.pieces.clone().all(|piece| !it.wants.contains(piece)));
            let lapsed = !used && age > settings.grant_expires;
            if lapsed && let Some(it) = machines.values_mut().find(|it| it.id == grant.to) {
                it.benched = now + settings.grant_expires * 4;
            }
            if used || lapsed {
                closed.push((grant.pieces.clone(), age));
            }
            !used && !lapsed
        });
        for (pieces, age) in closed {
            for piece in pieces {
                self.copies[piece as usize] -= 1;
            }
            if age < settings.grant_time {
                self.window += 1.0;
            } else if age > settings.grant_time * 2 && self.narrowed + age < now {
                self.window = (self.window * 0.7).max(2.0);
                self.narrowed = now;
            }
        }
        self.window = self.window.min((self.machines.len() * settings.grants_each) as f64);
    }

    /// Takes note of who gave wrong bytes; how those stand now.
    fn accuse(&mut self, accuser: &str, wrong: &[PeerId], settings: &TrackerSettings) -> Vec<Standing> {
        let mut named = Vec::new();
        for id in wrong.iter().take(MAX_WRONG) {
            let Some((accused, machine)) = self.machines.iter().find(|(_, it)| it.id == *id) else {
                continue;
            };
            let said = self.cases.values().filter(|case| case.accusers.contains(accuser)).count();
            let known = self.cases.get(accused);
            if accused == accuser
                || known.is_some_and(|case| case.accusers.contains(accuser))
                || known.map_or(self.cases.len() >= MAX_CASES, |case| case.accusers.len() >= MAX_ACCUSERS)
                || said >= settings.accusations
            {
                continue;
            }
            let case = self.cases.entry(accused.clone()).or_insert_with(|| Case {
                address: machine.address,
                accusers: BTreeSet::new(),
                expelled: false,
            });
            case.accusers.insert(accuser.to_owned());
            named.push(accused.clone());
        }
        for accused in &named {
            let believed = |accuser: &&String| self.cases.get(*accuser).is_none_or(|case| !case.expelled);
            let words = self
                .cases
                .get(accused)
                .map_or(0, |case| case.accusers.iter().filter(believed).count());
            if words >= settings.accusers
                && let Some(case) = self.cases.get_mut(accused)
                && !std::mem::replace(&mut case.expelled, true)
                && let Some(machine) = self.machines.get_mut(accused)
            {
                for piece in machine.shares.iter() {
                    self.copies[piece as usize] -= 1;
                }
                machine.shares = PieceSet::none(machine.shares.count());
            }
        }
        self.standings()
            .into_iter()
            .filter(|standing| named.contains(&standing.machine))
            .collect()
    }

    fn standings(&self) -> Vec<Standing> {
        let standing = |(machine, case): (&String, &Case)| Standing {
            machine: machine.clone(),
            address: case.address,
            accusers: case.accusers.iter().cloned().collect(),
            expelled: case.expelled,
        };
        self.cases.iter().map(standing).collect()
    }

    /// The others that a machine is told of: of many the same few again and again, as chance has chosen them for it.
    fn told(&mut self, now: Time, id: PeerId, machine: &str, seed: u64, most: usize, again: Time) -> Option<Vec<Member>> {
        let asker = self.machines.get_mut(machine)?;
        if asker.tell > now {
            return None;
        }
        asker.tell = now + again / 2;
        let shunned = |name: &str| {
            self.cases
                .get(name)
                .is_some_and(|case| case.expelled || case.accusers.contains(machine))
        };
        let mut others: Vec<(u64, &Machine)> = self
            .machines
            .iter()
            .filter(|(name, it)| it.id != id && !shunned(name))
            .map(|(_, it)| (mix(seed ^ id.0, it.id.0), it))
            .collect();
        if others.len() > most {
            others.select_nth_unstable_by_key(most, |(rank, _)| *rank);
            others.truncate(most);
        }
        let member = |(_, it): (u64, &Machine)| Member {
            id: it.id,
            address: it.address,
        };
        Some(others.into_iter().map(member).collect())
    }

    /// What a machine fetches from the server next. First copies go to everybody who has room, further ones only to who has nothing else to do.
    fn grant(&mut self, now: Time, id: PeerId, machine: &str, layout: &Layout, news: &News, settings: &TrackerSettings) -> Vec<Range<u32>> {
        let mut open: Vec<Range<u32>> = self
            .grants
            .iter()
            .filter(|grant| grant.to == id)
            .map(|grant| grant.pieces.clone())
            .collect();
        let mut granted = Vec::new();
        let expelled = self.is_expelled(machine);
        if self.machines.get(machine).is_none_or(|it| it.benched > now) {
            return granted;
        }
        while open.len() < settings.grants_each && granted.len() < news.room as usize && (self.grants.len() as f64) < self.window {
            let rarity = |piece: u32| self.copies[piece as usize];
            let free = |piece: u32| news.wants.contains(piece) && !open.iter().any(|pieces| pieces.contains(&piece));
            // What nobody has yet is not given to who will not pass it on.
            let fit = |piece: u32| free(piece) && (!expelled || rarity(piece) > 0);
            let Some(rarest) = news.wants.iter().filter(|&piece| fit(piece)).min_by_key(|&piece| rarity(piece)) else {
                break;
            };
            if rarity(rarest) > 0 && !news.hungry {
                break;
            }
            let run = layout.run_around(rarest, |piece| fit(piece) && rarity(piece) <= rarity(rarest));
            for piece in run.clone() {
                self.copies[piece as usize] += 1;
            }
            self.grants.push(Grant {
                to: id,
                pieces: run.clone(),
                since: now,
            });
            open.push(run.clone());
            granted.push(run);
        }
        granted
    }

    /// Forgets a machine; the bytes that its sets took.
    fn remove(&mut self, machine: &str) -> usize {
        let Some(gone) = self.machines.remove(machine) else {
            return 0;
        };
        for piece in gone.shares.iter() {
            self.copies[piece as usize] -= 1;
        }
        self.grants.retain(|grant| {
            if grant.to == gone.id {
                for piece in grant.pieces.clone() {
                    self.copies[piece as usize] -= 1;
                }
            }
            grant.to != gone.id
        });
        set_bytes(self.copies.len() as u32)
    }
}

/// A number that looks like chance, from two others (the finish of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
