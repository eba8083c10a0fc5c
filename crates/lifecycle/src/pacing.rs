//! Who is switched on next: many machines that start at one moment draw more than a fuse, or a DHCP server, stands.
//!
//! Acts that start a machine (on, or off and on) wait for a turn. A turn takes a token from each bucket that the machine's act falls under: of all machines, of its class, of its rack, of its class in
//! its rack. Within a bucket those that somebody waits for come first, then those that waited longest. A bucket that is empty holds up its own machines alone.
//!
//! Invariants: within any span of time, no bucket gives more than its burst and what flowed in; whoever waits at an empty bucket is not passed there by one that comes after it; everybody's turn comes, as
//! far as those that are waited for leave any.
//!
//! Nothing here is stored. Whoever starts anew begins with full buckets: the burst is as small as it can be.

use std::collections::{BTreeMap, BTreeSet};

use api::power::PowerActKind;
use jiff::{SignedDuration, Timestamp};

/// How many machines may start within a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all.
    pub per_minute: u32,
    /// Of one rack.
    pub per_minute_per_rack: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_minute: 600,
            per_minute_per_rack: 30,
        }
    }
}

/// What a class adds to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassLimits {
    /// Of the class; none: without a limit of its own.
    pub per_minute: Option<u32>,
    /// Of the class in one rack.
    pub per_minute_per_rack: Option<u32>,
}

/// A machine that is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The act: another one is another turn.
    pub act: String,
    /// Whether an instance waits for the machine.
    pub urgent: bool,
    /// Since when it is to start.
    pub since: Timestamp,
    /// Its class.
    pub class: Option<String>,
    /// Its rack.
    pub rack: Option<String>,
    /// What its class says.
    pub limits: ClassLimits,
}

/// Whether an act lets a machine draw its inrush current.
pub fn starts(kind: PowerActKind) -> bool {
    match kind {
        PowerActKind::BootAgent | PowerActKind::On => true,
        PowerActKind::ShutDown | PowerActKind::Off => false,
    }
}

/// What shares a bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    All,
    Class(String),
    Rack(String),
    ClassInRack(String, String),
}

impl Scope {
    fn told(&self) -> String {
        match self {
            Self::All => "in all".to_owned(),
            Self::Class(class) => format!("of class {class}"),
            Self::Rack(rack) => format!("of rack {rack}"),
            Self::ClassInRack(class, rack) => format!("of class {class} in rack {rack}"),
        }
    }
}

/// Tokens, in parts so small that whole numbers do: one token is [`TOKEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    per_minute: u32,
    tokens: i64,
    at: Timestamp,
}

/// Up to so many that wait each is told how many come before it.
const COUNTED: usize = 200;

/// A minute in milliseconds: with a rate of `n` a minute, `n` flow in each millisecond.
const TOKEN: i64 = 60_000;

impl Bucket {
    /// What lies there at most: one token, or what flows in within two seconds.
    fn burst(per_minute: u32) -> i64 {
        (i64::from(per_minute) * 2000).max(TOKEN)
    }

    fn full(per_minute: u32, at: Timestamp) -> Self {
        Self {
            per_minute,
            tokens: Self::burst(per_minute),
            at,
        }
    }

    fn flow(&mut self, per_minute: u32, now: Timestamp) {
        // A clock that went back gives nothing twice.
        let passed = i64::try_from(now.duration_since(self.at).as_millis()).unwrap_or(i64::MAX).max(0);
        let more = passed.saturating_mul(self.per_minute.into());
        self.per_minute = per_minute;
        self.tokens = self.tokens.saturating_add(more).min(Self::burst(per_minute));
        // What is less than a millisecond flows in the next time.
        self.at = self.at.saturating_add(SignedDuration::from_millis(passed)).unwrap_or(now);
    }

    /// When there will be a token.
    fn ready(&self) -> Timestamp {
        let missing = (TOKEN - self.tokens).max(0);
        let rate = i64::from(self.per_minute.max(1));
        let wait = SignedDuration::from_millis(missing.div_euclid(rate) + i64::from(missing % rate > 0));
        self.at.saturating_add(wait).unwrap_or(Timestamp::MAX)
    }
}

/// What a machine is told that asks for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It starts.
    Now,
    /// Others come first; for people, as a part of a sentence.
    Wait(String),
}

/// Who waits, and what was given.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    waiting: BTreeMap<String, Start>,
    /// Whose turn it is, with the act it is for, until they ask.
    granted: BTreeMap<String, String>,
    buckets: BTreeMap<Scope, Bucket>,
}

impl Pace {
    /// A machine asks. It starts, or it waits from then on; whoever calls [`Pace::grant`] is told when its turn has come, and it asks again.
    pub fn ask(&mut self, name: &str, start: &Start, limits: &Limits, now: Timestamp) -> Turn {
        if self.granted.remove(name).is_some_and(|act| act == start.act) {
            return Turn::Now;
        }
        let alone = self.waiting.keys().all(|other| other == name);
        self.waiting.insert(name.to_owned(), start.clone());
        // Where others wait, one look at all of them serves all: a thousand that ask at once must not each take one.
        if alone {
            self.grant(limits, now);
            if self.granted.remove(name).is_some() {
                return Turn::Now;
            }
        }
        Turn::Wait(self.told(name, limits))
    }

    /// It does not want to start any more.
    pub fn withdraw(&mut self, name: &str) {
        self.waiting.remove(name);
        self.granted.remove(name);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gives the turns that can be given now; names those whose turn it became.
    pub fn grant(&mut self, limits: &Limits, now: Timestamp) -> Vec<String> {
        let mut order: Vec<(bool, Timestamp, String)> = self.waiting.iter().map(|(name, s)| (!s.urgent, s.since, name.clone())).collect();
        order.sort_unstable();
        // Who comes later must not take what somebody before it will need: an empty bucket is closed for all that follow.
        let mut closed: BTreeSet<Scope> = BTreeSet::new();
        let mut given = Vec::new();
        for (.., name) in order {
            let Some(start) = self.waiting.get(&name) else { continue };
            let scopes = scopes(start, limits);
            let mut open = true;
            for (scope, per_minute) in &scopes {
                let bucket = self.buckets.entry(scope.clone()).or_insert_with(|| Bucket::full(*per_minute, now));
                bucket.flow(*per_minute, now);
                if bucket.tokens < TOKEN {
                    closed.insert(scope.clone());
                }
                open &= !closed.contains(scope);
            }
            if !open {
                continue;
            }
            for (scope, _) in &scopes {
                if let Some(bucket) = self.buckets.get_mut(scope) {
                    bucket.tokens -= TOKEN;
                }
            }
            if let Some(start) = self.waiting.remove(&name) {
                self.granted.insert(name.clone(), start.act);
                given.push(name);
            }
        }
        self.forget_full(limits, now);
        given
    }

    /// When the next turn can be given, if anybody waits.
    pub fn next(&self, limits: &Limits) -> Option<Timestamp> {
        let ready = |start: &Start| {
            let buckets = scopes(start, limits);
            buckets
                .iter()
                .filter_map(|(scope, _)| self.buckets.get(scope))
                .map(Bucket::ready)
                .max()
        };
        self.waiting.values().filter_map(ready).min()
    }

    /// Buckets that nobody draws from are full, and a full one need not be remembered.
    fn forget_full(&mut self, limits: &Limits, now: Timestamp) {
        let used: BTreeSet<Scope> = self
            .waiting
            .values()
            .flat_map(|start| scopes(start, limits))
            .map(|(scope, _)| scope)
            .collect();
        self.buckets.retain(|scope, bucket| {
            let per_minute = bucket.per_minute;
            bucket.flow(per_minute, now);
            used.contains(scope) || bucket.tokens < Bucket::burst(per_minute)
        });
    }

    /// For whom a machine waits: those before it that need the same bucket, of the bucket that is the longest to wait for.
    fn told(&self, name: &str, limits: &Limits) -> String {
        if self.waiting.len() > COUNTED {
            // Nobody reads ten thousand numbers, each of which changes with every start.
            return format!("waits for its turn: more than {COUNTED} machines do");
        }
        let Some(own) = self.waiting.get(name) else { return String::new() };
        let place = |n: &str, s: &Start| (!s.urgent, s.since, n.to_owned());
        let mine = place(name, own);
        let before = |scope: &Scope| {
            let others = self.waiting.iter().filter(|(n, s)| place(n, s) < mine);
            others
                .filter(|(_, s)| scopes(s, limits).iter().any(|(other, _)| other == scope))
                .count()
        };
        let longest = scopes(own, limits)
            .into_iter()
            .map(|(scope, per_minute)| {
                let ahead = before(&scope);
                let minutes = (ahead as u64 + 1) * 1000 / u64::from(per_minute.max(1));
                (minutes, ahead, scope, per_minute)
            })
            .max();
        let Some((_, ahead, scope, per_minute)) = longest else {
            return String::new();
        };
        let (whom, scope) = match ahead {
            0 => ("it is the next".to_owned(), scope.told()),
            1 => ("1 machine starts before it".to_owned(), scope.told()),
            more => (format!("{more} machines start before it"), scope.told()),
        };
        format!("waits for its turn: {whom}, {scope} ({per_minute} a minute)")
    }
}

/// The buckets that a start takes a token from, with their rates.
fn scopes(start: &Start, limits: &Limits) -> Vec<(Scope, u32)> {
    let mut scopes = vec![(Scope::All, limits.per_minute.max(1))];
    if let (Some(class), Some(per_minute)) = (&start.class, start.limits.per_minute) {
        scopes.push((Scope::Class(class.clone()), per_minute.max(1)));
    }
    if let Some(rack) = &start.rack {
        scopes.push((Scope::Rack(rack.clone()), limits.per_minute_per_rack.max(1)));
        if let (Some(class), Some(per_minute)) = (&start.class, start.limits.per_minute_per_rack) {
            scopes.push((Scope::ClassInRack(class.clone(), rack.clone()), per_minute.max(1)));
        }
    }
    scopes
}
