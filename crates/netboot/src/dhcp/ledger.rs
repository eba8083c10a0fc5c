//! How leases last: which changes are written, and what stands in a ConfigMap. Pure.
//!
//! A network's leases are kept in blocks of 256 addresses, one ConfigMap each. What is written about a lease reaches further than what the client was told,
//! by half of it: so the renewal at half of the lease, and whatever firmware, loader and system of one boot ask within that time, are covered by what stands there already. **No
//! client is ever told a time that goes beyond the written one**, unless the API is gone.
//!
//! Leases by reservation are not kept: the reservation is an object already.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::identity::MacAddress;
use dhcp::{Record, State, Time};
use serde::{Deserialize, Serialize};

/// Bits by which the addresses of one ConfigMap differ: 256 of them, some 30 KiB when all are leased, of the 1 MiB that an object may have.
const BLOCK_BITS: u32 = 8;
/// What is no client's answer waits for so long for company.
const LAZY: Duration = Duration::from_secs(2);
/// A client has asked again after that.
const PATIENCE: Duration = Duration::from_secs(8);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// An address of either family.
pub(super) trait Address: Copy + Ord + Debug + Display + FromStr + Into<IpAddr> + Send + 'static {
    /// First address of the block of an address, by which the block is known.
    fn block(self) -> Self;
}

impl Address for Ipv4Addr {
    fn block(self) -> Self {
        (u32::from(self) >> BLOCK_BITS << BLOCK_BITS).into()
    }
}

impl Address for Ipv6Addr {
    fn block(self) -> Self {
        (u128::from(self) >> BLOCK_BITS << BLOCK_BITS).into()
    }
}

/// One lease in a ConfigMap.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    state: Word,
    /// The client's key in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    /// Seconds since 1970.
    since: u64,
    until: u64,
}

#[derive(Serialize, Deserialize)]
enum Word {
    Free,
    Bound,
    Quarantined,
}

fn write_line<A>(lease: &Record<A>) -> String {
    let line = Line {
        state: match lease.state {
            State::Bound => Word::Bound,
            State::Quarantined => Word::Quarantined,
            State::Free | State::Offered => Word::Free,
        },
        client: lease.client.as_ref().map(hex::encode),
        mac: lease.mac.map(MacAddress),
        since: lease.since.as_secs(),
        // Rounded up: what is written never ends earlier.
        until: lease.until.as_secs() + u64::from(lease.until.subsec_nanos() > 0),
    };
    // Strings and numbers can always be written.
    serde_json::to_string(&line).unwrap_or_default()
}

/// The key of an address in a ConfigMap, which may not hold the colons of IPv6.
fn write_key<A: Address>(address: A) -> String {
    address.to_string().replace(':', "-")
}

fn read_line<A: Address>(key: &str, line: &str) -> Option<Record<A>> {
    let line: Line = serde_json::from_str(line).ok()?;
    let client = match line.client {
        Some(digits) => Some(Arc::from(
            hex::decode(digits).ok().filter(|key| !key.is_empty() && key.len() <= 255)?,
        )),
        None => None,
    };
    Some(Record {
        address: key.replace('-', ":").parse().ok()?,
        client,
        mac: line.mac.map(|mac| mac.0),
        state: match line.state {
            Word::Free => State::Free,
            Word::Bound => State::Bound,
            Word::Quarantined => State::Quarantined,
        },
        since: Time::from_secs(line.since),
        until: Time::from_secs(line.until),
    })
}

/// Nothing is known of this address, which is what an entry that is taken out says.
fn nothing<A>(address: A) -> Record<A> {
    Record {
        address,
        client: None,
        mac: None,
        state: State::Free,
        since: Time::ZERO,
        until: Time::ZERO,
    }
}

fn is_nothing<A>(lease: &Record<A>) -> bool {
    lease.client.is_none() && lease.state == State::Free
}

/// As it is written: with half of the lease on top.
fn with_margin<A: Clone>(lease: &Record<A>, now: Time) -> Record<A> {
    let mut lease = lease.clone();
    if lease.state == State::Bound {
        lease.until += lease.until.saturating_sub(now) / 2;
    }
    lease
}

/// How much of a hurry there is to write a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hurry {
    /// Nothing would be gained.
    None,
    /// With the next write, or by itself after a while.
    Lazy,
    /// A client waits for it.
    Now,
}

/// `known`: what stands there, or is on its way. `given_back`: the client said so.
fn hurry<A>(known: Option<&Record<A>>, new: &Record<A>, given_back: bool) -> Hurry {
    let same_client = known.is_some_and(|known| known.client == new.client);
    match (new.state, known) {
        (State::Bound, Some(known)) if same_client && known.state == State::Bound && known.until >= new.until => Hurry::None,
        (State::Bound, _) => Hurry::Now,
        (State::Quarantined, Some(known)) if known.state == State::Quarantined && known.until >= new.until => Hurry::None,
        (State::Quarantined, _) => Hurry::Lazy,
        (_, None) => Hurry::None,
        // A lease that ran out ends by itself wherever it is written.
        (_, Some(_)) if same_client && !given_back => Hurry::None,
        (_, Some(_)) => Hurry::Lazy,
    }
}

/// An answer that goes out when its lease is written.
#[derive(Debug)]
pub(super) struct Waiting<A, T> {
    pub(super) address: A,
    pub(super) client: Arc<[u8]>,
    pub(super) since: Instant,
    pub(super) answer: T,
}

/// A ConfigMap, as it is and as it shall be.
#[derive(Debug)]
struct Block<A, T> {
    /// What stands there.
    stored: BTreeMap<A, Record<A>>,
    /// Its resourceVersion; `None`: it is not there.
    version: Option<String>,
    /// What a write that is under way says.
    under_way: Option<BTreeMap<A, Record<A>>>,
    /// What the next one will say.
    wanted: BTreeMap<A, Record<A>>,
    waiting: Vec<Waiting<A, T>>,
    /// When to write next.
    due: Option<Instant>,
}

impl<A, T> Default for Block<A, T> {
    fn default() -> Self {
        Self {
            stored: BTreeMap::new(),
            version: None,
            under_way: None,
            wanted: BTreeMap::new(),
            waiting: Vec::new(),
            due: None,
        }
    }
}

impl<A: Address, T> Block<A, T> {
    fn known(&self, address: A) -> Option<&Record<A>> {
        let under_way = || self.under_way.as_ref().and_then(|leases| leases.get(&address));
        let newest = self.wanted.get(&address).or_else(under_way).or_else(|| self.stored.get(&address));
        newest.filter(|lease| !is_nothing(lease))
    }

    fn hurry_up(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// One write to be done.
#[derive(Debug)]
pub(super) struct Write<A> {
    /// First address of the block.
    pub(super) block: A,
    /// The version that it replaces; `None` creates it.
    pub(super) version: Option<String>,
    pub(super) data: BTreeMap<String, String>,
}

/// How a lease stands to what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is written, or need not be.
    Written,
    /// It is written for a shorter time.
    Shorter,
    /// Nothing of it is.
    New,
}

/// The leases of one network in one family. `T` is what waits for a write.
#[derive(Debug)]
pub(super) struct Ledger<A, T> {
    blocks: BTreeMap<A, Block<A, T>>,
}

impl<A, T> Default for Ledger<A, T> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new() }
    }
}

impl<A: Address, T> Ledger<A, T> {
    fn block(&mut self, address: A) -> &mut Block<A, T> {
        self.blocks.entry(address.block()).or_default()
    }

    /// Everything that stands there.
    pub(super) fn stored(&self) -> impl Iterator<Item = &Record<A>> {
        self.blocks.values().flat_map(|block| block.stored.values())
    }

    /// A lease changed. Whether the writer should look.
    pub(super) fn note(&mut self, lease: &Record<A>, given_back: bool, now: Time, moment: Instant) -> bool {
        let lease = if lease.is_reserved() {
            nothing(lease.address)
        } else {
            lease.clone()
        };
        let block = self.block(lease.address);
        let hurry = hurry(block.known(lease.address), &lease, given_back);
        if hurry == Hurry::None {
            return false;
        }
        block.wanted.insert(lease.address, with_margin(&lease, now));
        block.hurry_up(if hurry == Hurry::Now { moment } else { moment + LAZY });
        hurry == Hurry::Now
    }

    /// Whether a client may be told of this lease.
    pub(super) fn standing(&self, lease: &Record<A>, now: Time) -> Standing {
        if lease.is_reserved() {
            return Standing::Written;
        }
        let block = self.blocks.get(&lease.address.block());
        let stored = block.and_then(|block| block.stored.get(&lease.address));
        match stored.filter(|stored| stored.client == lease.client && stored.state == State::Bound && stored.until > now) {
            Some(stored) if stored.until >= lease.until => Standing::Written,
            Some(_) => Standing::Shorter,
            None => Standing::New,
        }
    }

    /// An answer waits for its lease to be written: the latest one to each address, so that whoever asks again and again fills no memory.
    pub(super) fn wait(&mut self, waiting: Waiting<A, T>) {
        let block = self.block(waiting.address);
        block.waiting.retain(|other| other.address != waiting.address);
        block.waiting.push(waiting);
    }

    /// Forgets answers that waited for too long, and says how many.
    pub(super) fn drop_late(&mut self, moment: Instant) -> u64 {
        let mut dropped = 0;
        for block in self.blocks.values_mut() {
            let before = block.waiting.len();
            block.waiting.retain(|waiting| moment.duration_since(waiting.since) < PATIENCE);
            dropped += (before - block.waiting.len()) as u64;
        }
        dropped
    }

    /// What is to be written now, at most so many blocks.
    pub(super) fn take_writes(&mut self, most: usize, moment: Instant) -> Vec<Write<A>> {
        let mut writes = Vec::new();
        for (first, block) in &mut self.blocks {
            if writes.len() >= most {
                break;
            }
            if block.under_way.is_some() || block.due.is_none_or(|due| due > moment) {
                continue;
            }
            block.due = None;
            let wanted = std::mem::take(&mut block.wanted);
            let mut content = block.stored.clone();
            content.extend(wanted.iter().map(|(address, lease)| (*address, lease.clone())));
            content.retain(|_, lease| !is_nothing(lease));
            block.under_way = Some(wanted);
            writes.push(Write {
                block: *first,
                version: block.version.clone(),
                data: content
                    .iter()
                    .map(|(address, lease)| (write_key(*address), write_line(lease)))
                    .collect(),
            });
        }
        writes
    }

    /// The earliest moment at which there is something to write.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let idle = self.blocks.values().filter(|block| block.under_way.is_none());
        idle.filter_map(|block| block.due).min()
    }

    /// A write was done: this stands there now. Returns what waited for it.
    pub(super) fn written(&mut self, first: A, version: Option<String>, data: &BTreeMap<String, String>) -> Vec<Waiting<A, T>> {
        let block = self.blocks.entry(first).or_default();
        block.under_way = None;
        // Unless the watch was faster with a write that came after ours.
        if is_newer(block.version.as_deref(), version.as_deref()) {
            (block.stored, block.version) = (read(first, data), version);
        }
        let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut block.waiting).into_iter().partition(|waiting| {
            let stored = block.stored.get(&waiting.address);
            !block.wanted.contains_key(&waiting.address)
                && stored.is_some_and(|stored| stored.state == State::Bound && stored.client.as_ref() == Some(&waiting.client))
        });
        block.waiting = rest;
        ready
    }

    /// A write was not done, and is tried again.
    pub(super) fn failed(&mut self, first: A, moment: Instant) {
        let block = self.blocks.entry(first).or_default();
        for (address, lease) in block.under_way.take().unwrap_or_default() {
            block.wanted.entry(address).or_insert(lease);
        }
        block.hurry_up(moment + RETRY);
    }

    /// What somebody else wrote: the leases in it that are new here. [`Ledger::correct`] comes next.
    pub(super) fn read(&mut self, first: A, version: Option<String>, data: &BTreeMap<String, String>) -> Vec<Record<A>> {
        let block = self.blocks.entry(first).or_default();
        if !is_newer(block.version.as_deref(), version.as_deref()) {
            return Vec::new();
        }
        let fresh = read(first, data);
        let new = fresh.values().filter(|lease| block.stored.get(&lease.address) != Some(lease));
        let new: Vec<Record<A>> = new.cloned().collect();
        (block.stored, block.version) = (fresh, version);
        new
    }

    /// Decides anew about what is to be written to a block, after somebody else wrote it. `lost`: a write of ours came too late for that.
    pub(super) fn correct(&mut self, first: A, lost: bool, lease: impl Fn(A) -> Option<Record<A>>, now: Time, moment: Instant) {
        let block = self.blocks.entry(first).or_default();
        if lost {
            for (address, lease) in block.under_way.take().unwrap_or_default() {
                block.wanted.entry(address).or_insert(lease);
            }
        }
        let addresses: Vec<A> = block.wanted.keys().copied().collect();
        for address in addresses {
            let lease = lease(address)
                .filter(|lease| !lease.is_reserved())
                .unwrap_or_else(|| nothing(address));
            block.wanted.insert(address, with_margin(&lease, now));
        }
        if !block.wanted.is_empty() {
            block.hurry_up(moment);
        }
    }

    /// The ConfigMap of a block is gone: its leases, as far as they are known, are to be written again.
    pub(super) fn gone(&mut self, first: A, moment: Instant) {
        let block = self.blocks.entry(first).or_default();
        block.version = None;
        for (address, lease) in std::mem::take(&mut block.stored) {
            block.wanted.entry(address).or_insert(lease);
        }
        block.hurry_up(moment + LAZY);
    }

    /// First addresses of the blocks that are there.
    pub(super) fn blocks(&self) -> impl Iterator<Item = A> {
        self.blocks
            .iter()
            .filter(|(_, block)| block.version.is_some())
            .map(|(first, _)| *first)
    }
}

fn read<A: Address>(first: A, data: &BTreeMap<String, String>) -> BTreeMap<A, Record<A>> {
    let lines = data.iter().filter_map(|(address, line)| read_line::<A>(address, line));
    lines
        .filter(|lease| lease.address.block() == first)
        .map(|lease| (lease.address, lease))
        .collect()
}

/// Revisions that are not numbers are taken as they come.
fn is_newer(old: Option<&str>, new: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|v| v.parse::<u64>().ok());
    match (number(old), number(new)) {
        (Some(old), Some(new)) => new > old,
        _ => old != new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lease = Record<Ipv4Addr>;

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn bound(last: u8, client: u8, seconds: u64) -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 0, 0, last),
            client: Some(Arc::from([1, client])),
            mac: Some([2, 0, 0, 0, 0, client]),
            state: State::Bound,
            since: NOW,
            until: NOW + Time::from_secs(seconds),
        }
    }

    fn waiting(lease: &Lease, moment: Instant) -> Waiting<Ipv4Addr, u8> {
        Waiting {
            address: lease.address,
            client: lease.client.clone().unwrap(),
            since: moment,
            answer: 7,
        }
    }

    fn written(ledger: &mut Ledger<Ipv4Addr, u8>, moment: Instant, version: &str) -> usize {
        let [write] = ledger.take_writes(16, moment).try_into().unwrap();
        ledger.written(write.block, Some(version.to_owned()), &write.data).len()
    }

    #[test]
    fn a_lease_is_told_when_it_is_written_and_its_renewal_at_half_time_is_covered() {
        let (mut ledger, moment) = (Ledger::default(), Instant::now());
        let lease = bound(9, 1, 100);
        assert_eq!(ledger.standing(&lease, NOW), Standing::New);
        assert!(ledger.note(&lease, false, NOW, moment));
        ledger.wait(waiting(&lease, moment));
        assert_eq!(written(&mut ledger, moment, "1"), 1, "it goes out");
        assert_eq!(ledger.standing(&lease, NOW), Standing::Written);
        let half = NOW + Time::from_secs(50);
        assert!(!ledger.note(&bound(9, 1, 150), false, half, moment));
        assert_eq!(ledger.standing(&bound(9, 1, 150), half), Standing::Written);
        assert!(ledger.take_writes(16, moment + LAZY).is_empty());
        assert!(ledger.note(&bound(9, 1, 151), false, half, moment));
        assert_eq!(ledger.standing(&bound(9, 1, 151), half), Standing::Shorter);
        assert_eq!(ledger.standing(&bound(9, 2, 151), half), Standing::New, "it is another client's");
    }

    #[test]
    fn what_comes_while_a_write_is_under_way_goes_into_the_next_one() {
        let (mut ledger, moment) = (Ledger::default(), Instant::now());
        let (first, second) = (bound(1, 1, 100), bound(2, 2, 100));
        ledger.note(&first, false, NOW, moment);
        ledger.wait(waiting(&first, moment));
        let [write] = ledger.take_writes(16, moment).try_into().unwrap();
        ledger.note(&second, false, NOW, moment);
        ledger.wait(waiting(&second, moment));
        assert!(ledger.take_writes(16, moment).is_empty(), "one at a time");
        let ready = ledger.written(write.block, Some("1".to_owned()), &write.data);
        assert_eq!(ready.iter().map(|w| w.address).collect::<Vec<_>>(), [first.address]);
        assert_eq!(written(&mut ledger, moment, "2"), 1);
        assert_eq!(ledger.stored().count(), 2);
    }

    #[test]
    fn expiry_costs_no_write_and_a_release_costs_one_that_can_wait() {
        let (mut ledger, moment) = (Ledger::default(), Instant::now());
        let lease = bound(1, 1, 100);
        ledger.note(&lease, false, NOW, moment);
        written(&mut ledger, moment, "1");
        let free = Lease {
            state: State::Free,
            ..lease
        };
        ledger.note(&free, false, NOW, moment);
        assert_eq!(ledger.next_due(), None);
        ledger.note(&free, true, NOW, moment);
        assert!(ledger.take_writes(16, moment).is_empty());
        written(&mut ledger, moment + LAZY, "2");
        assert_eq!(ledger.stored().next().map(|l| l.state), Some(State::Free));
    }

    #[test]
    fn a_write_that_came_too_late_is_decided_anew() {
        let (mut ledger, moment) = (Ledger::default(), Instant::now());
        let (ours, theirs) = (bound(1, 1, 100), bound(1, 2, 100));
        ledger.note(&ours, false, NOW, moment);
        ledger.wait(waiting(&ours, moment));
        let [write] = ledger.take_writes(16, moment).try_into().unwrap();
        let data = BTreeMap::from([(theirs.address.to_string(), write_line(&theirs))]);
        assert_eq!(ledger.read(write.block, Some("5".to_owned()), &data), std::slice::from_ref(&theirs));
        assert!(ledger.read(write.block, Some("4".to_owned()), &BTreeMap::new()).is_empty(), "older");
        ledger.correct(write.block, true, |_| Some(theirs.clone()), NOW, moment);
        let [write] = ledger.take_writes(16, moment).try_into().unwrap();
        assert_eq!(write.version.as_deref(), Some("5"));
        let ready = ledger.written(write.block, Some("6".to_owned()), &write.data);
        assert!(ready.is_empty(), "the client of ours is not told");
        assert_eq!(ledger.drop_late(moment + PATIENCE), 1, "and forgotten");
    }

    #[test]
    fn a_failed_write_is_tried_again_and_a_lost_map_is_written_again() {
        let (mut ledger, moment) = (Ledger::<Ipv4Addr, u8>::default(), Instant::now());
        ledger.note(&bound(1, 1, 100), false, NOW, moment);
        let [write] = ledger.take_writes(16, moment).try_into().unwrap();
        ledger.failed(write.block, moment);
        assert!(ledger.take_writes(16, moment).is_empty());
        assert_eq!(written(&mut ledger, moment + RETRY, "1"), 0);
        assert_eq!(ledger.blocks().count(), 1);
        ledger.gone(write.block, moment);
        let [again] = ledger.take_writes(16, moment + LAZY).try_into().unwrap();
        assert_eq!((again.version, again.data.len()), (None, 1));
    }

    #[test]
    fn reservations_are_not_kept_and_put_out_what_stood_there() {
        let (mut ledger, moment) = (Ledger::<Ipv4Addr, u8>::default(), Instant::now());
        let reserved = Lease {
            client: Some(Arc::from(*b"\0r\x0a\0\0\x01")),
            ..bound(1, 1, 100)
        };
        assert_eq!(ledger.standing(&reserved, NOW), Standing::Written);
        assert!(!ledger.note(&reserved, false, NOW, moment));
        assert_eq!(ledger.next_due(), None);
        ledger.note(&bound(1, 1, 100), false, NOW, moment);
        written(&mut ledger, moment, "1");
        ledger.note(&reserved, false, NOW, moment);
        written(&mut ledger, moment + LAZY, "2");
        assert_eq!(ledger.stored().count(), 0);
    }

    #[test]
    fn lines_come_back_as_they_were_and_others_are_left_out() {
        let lease = bound(7, 3, 100);
        assert_eq!(read_line("10.0.0.7", &write_line(&lease)), Some(lease.clone()));
        let data = BTreeMap::from([
            ("10.0.0.7".to_owned(), write_line(&lease)),
            ("10.0.1.7".to_owned(), write_line(&lease)),
            ("x".to_owned(), write_line(&lease)),
            ("10.0.0.8".to_owned(), "{".to_owned()),
        ]);
        assert_eq!(read(lease.address.block(), &data).len(), 1);
    }

    #[test]
    fn blocks_of_both_families_have_256_addresses() {
        let last = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, 0x1ff);
        assert_eq!(last.block(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, 0x100));
        assert_eq!(Ipv4Addr::new(10, 0, 1, 255).block(), Ipv4Addr::new(10, 0, 1, 0));
        let (mut ledger, moment) = (Ledger::<Ipv6Addr, u8>::default(), Instant::now());
        let lease = Record {
            address: last,
            client: Some(Arc::from([1, 2, 3])),
            mac: None,
            state: State::Bound,
            since: NOW,
            until: NOW + Time::from_secs(120),
        };
        ledger.note(&lease, false, NOW, moment);
        let [write] = ledger.take_writes(16, moment).try_into().unwrap();
        let is_key = |key: &String| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        assert!(write.data.keys().all(is_key), "of a ConfigMap: {:?}", write.data.keys());
        assert_eq!(read::<Ipv6Addr>(write.block, &write.data).len(), 1);
        assert!(read::<Ipv6Addr>(Ipv6Addr::UNSPECIFIED, &write.data).is_empty(), "of another block");
        assert!(
            read::<Ipv4Addr>(Ipv4Addr::UNSPECIFIED, &write.data).is_empty(),
            "of the other family"
        );
    }
}
