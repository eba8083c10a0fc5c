//! The book of one network's leases, of either family: numbered places, each with its client, state and deadline.
//!
//! What a place's address is, what a client's key is made of and what packets say is the business of those who use it.
//!
//! * A place has one client at most, and a client one place at most: but while it has a lease, it may be offered another place beside it (its claim), and
//!   moves there when it takes the offer. A DISCOVER, which anybody can send in its name, ends nobody's lease.
//! * A client's place is chosen by a hash of its key, the next free one after it if that is taken: replicas with the same book choose alike.
//!   Places that nobody remembers come before those whose last client might return.
//! * A place that falls free keeps its client until somebody else needs it, so whoever comes back gets the same address.
//! * Every operation takes a constant number of steps, but for a heap's logarithm where a deadline is set.
//! * Memory is bounded by the number of places: each has one deadline in the heap, and rarely a stale one.

mod bitmap;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use self::bitmap::Bitmap;
use crate::{Time, hash};

/// State of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody uses it. It may remember who did.
    Free,
    /// Offered, and kept for the client for a short time.
    Offered,
    /// Leased.
    Bound,
    /// Somebody who has no lease uses it: not given away for a while.
    Quarantined,
}

/// What lasts of a place: how leases are kept outside, told to other replicas and loaded again. One that is free and has no client says that there is
/// nothing to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<A> {
    /// The address.
    pub address: A,
    /// The client's key, if there is or was a client.
    pub client: Option<Arc<[u8]>>,
    /// Its MAC address, as far as it is known.
    pub mac: Option<[u8; 6]>,
    /// `Free`, `Bound` or `Quarantined`; an offer is not kept.
    pub state: State,
    /// Since when this client has it.
    pub since: Time,
    /// When lease or quarantine ends, if nothing happens.
    pub until: Time,
}

/// Leases at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Addresses for whoever comes.
    pub free: u32,
    /// Addresses that are leased.
    pub bound: u32,
    /// Addresses in quarantine.
    pub quarantined: u32,
}

/// How the key of a client begins whose address is reserved for it; the address follows. No hardware type is 0.
pub(crate) const RESERVED: &[u8] = b"\0r";

impl<A> Record<A> {
    /// Whether the client has the address by a reservation, which outlasts the lease wherever it is kept.
    pub fn is_reserved(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.starts_with(RESERVED))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) client: Option<Arc<[u8]>>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) state: State,
    /// Whether it still has to be found out if somebody uses the address.
    pub(crate) unprobed: bool,
    /// Whether any client may have it, not only the one it is reserved for.
    dynamic: bool,
    changed: bool,
    since: Time,
    until: Time,
    /// What the client of this lease is offered beside it.
    claim: Option<u32>,
    /// The deadline in the heap that counts.
    queued: Option<Time>,
}

/// A lease book.
#[derive(Debug)]
pub(crate) struct Book {
    places: Vec<Place>,
    by_client: HashMap<Arc<[u8]>, u32>,
    /// Dynamic and free.
    free: Bitmap,
    /// Of those, the ones without a memory.
    blank: Bitmap,
    free_count: u32,
    deadlines: BinaryHeap<Reverse<(Time, u32)>>,
    /// Places whose records changed, each once.
    changed: Vec<u32>,
    /// How many numbers the hash chooses from.
    hashed: u32,
}

impl Book {
    /// `size` places of which `is_dynamic` says whether anybody may have them. The first `hashed` are the ones that a hash chooses from.
    pub(crate) fn new(size: u32, hashed: u32, is_dynamic: impl Fn(u32) -> bool) -> Self {
        let (mut free, mut blank) = (Bitmap::new(size), Bitmap::new(size));
        let mut free_count = 0;
        let places = (0..size)
            .map(|number| {
                let dynamic = is_dynamic(number);
                if dynamic {
                    free.set(number, true);
                    blank.set(number, true);
                    free_count += 1;
                }
                Place {
                    client: None,
                    mac: None,
                    state: State::Free,
                    unprobed: false,
                    dynamic,
                    changed: false,
                    since: Time::ZERO,
                    until: Time::ZERO,
                    claim: None,
                    queued: None,
                }
            })
            .collect();
        Self {
            places,
            by_client: HashMap::new(),
            free,
            blank,
            free_count,
            deadlines: BinaryHeap::new(),
            changed: Vec::new(),
            hashed,
        }
    }

    pub(crate) fn place(&self, number: u32) -> &Place {
        &self.places[number as usize]
    }

    /// The client's place: leased, offered or remembered.
    pub(crate) fn of(&self, client: &[u8]) -> Option<u32> {
        self.by_client.get(client).copied()
    }

    /// What a client that has a lease is offered beside it.
    pub(crate) fn claimed(&self, client: &[u8]) -> Option<u32> {
        let claim = self.place(self.of(client)?).claim?;
        (self.place(claim).state == State::Offered && self.is_clients(claim, client)).then_some(claim)
    }

    /// Dynamic places that are free.
    pub(crate) fn free_count(&self) -> u32 {
        self.free_count
    }

    /// Adds what is in use to `counts`.
    pub(crate) fn count(&self, counts: &mut Counts) {
        counts.free += self.free_count();
        for place in self.recorded() {
            match self.place(place).state {
                State::Bound => counts.bound += 1,
                State::Quarantined => counts.quarantined += 1,
                State::Free | State::Offered => {}
            }
        }
    }

    pub(crate) fn is_dynamic(&self, number: u32) -> bool {
        self.place(number).dynamic
    }

    pub(crate) fn is_clients(&self, number: u32, client: &[u8]) -> bool {
        self.place(number).client.as_deref() == Some(client)
    }

    /// Whether anybody may have it who is not its client, too.
    pub(crate) fn is_blank(&self, number: u32) -> bool {
        self.blank.contains(number)
    }

    /// A free place for a client that has none.
    pub(crate) fn choose(&self, client: &[u8]) -> Option<u32> {
        let wish = hash::below(hash::stable(0, client), self.hashed.max(1));
        self.blank.next_around(wish).or_else(|| self.free.next_around(wish))
    }

    /// Keeps a place for a client for a short time. A lease that the client has is not shortened.
    pub(crate) fn offer(&mut self, number: u32, client: &[u8], mac: Option<[u8; 6]>, now: Time, until: Time) {
        if self.is_clients(number, client) && self.place(number).state == State::Bound {
            return;
        }
        self.assign(number, client, mac, State::Offered, now, until);
    }

    /// Leases a place to a client until then.
    pub(crate) fn bind(&mut self, number: u32, client: &[u8], mac: Option<[u8; 6]>, now: Time, until: Time) {
        self.assign(number, client, mac, State::Bound, now, until);
        self.note(number);
    }

    /// As [`Book::bind`], where somebody else leased it and keeps the record.
    pub(crate) fn bind_elsewhere(&mut self, number: u32, client: &[u8], mac: Option<[u8; 6]>, now: Time, until: Time) {
        self.assign(number, client, mac, State::Bound, now, until);
    }

    fn assign(&mut self, number: u32, client: &[u8], mac: Option<[u8; 6]>, state: State, now: Time, until: Time) {
        let current = self.of(client);
        let other = current.filter(|other| *other != number);
        let beside = other.filter(|other| state == State::Offered && self.place(*other).state == State::Bound);
        match (beside, other) {
            (Some(lease), _) => {
                if let Some(earlier) = self.claimed(client).filter(|earlier| *earlier != number) {
                    self.lapse(earlier);
                }
                self.places[lease as usize].claim = Some(number);
            }
            (None, Some(other)) => self.forget(other),
            (None, None) => {}
        }
        if !self.is_clients(number, client) {
            self.drop_client(number);
            let place = &mut self.places[number as usize];
            place.client = Some(client.into());
            place.unprobed = true;
            place.since = now;
        }
        let place = &mut self.places[number as usize];
        if beside.is_none()
            && current != Some(number)
            && let Some(key) = &place.client
        {
            self.by_client.insert(key.clone(), number);
        }
        if place.state == State::Free {
            place.since = now;
        }
        place.mac = mac.or(place.mac);
        self.set(number, state, until);
    }

    /// Frees a place; its client is remembered.
    pub(crate) fn release(&mut self, number: u32, now: Time) {
        self.set(number, State::Free, now);
        self.note(number);
    }

    /// Frees a place and its memory.
    pub(crate) fn forget(&mut self, number: u32) {
        let lasted = matches!(self.place(number).state, State::Bound | State::Free | State::Quarantined);
        self.drop_client(number);
        self.set(number, State::Free, Time::ZERO);
        if lasted {
            self.note(number);
        }
    }

    /// Gives a place to nobody until then.
    pub(crate) fn quarantine(&mut self, number: u32, now: Time, until: Time) {
        self.drop_client(number);
        self.places[number as usize].since = now;
        self.set(number, State::Quarantined, until);
        self.note(number);
    }

    /// It was looked whether somebody uses the address, and nobody does.
    pub(crate) fn probed(&mut self, number: u32) {
        self.places[number as usize].unprobed = false;
    }

    fn drop_client(&mut self, number: u32) {
        let place = &mut self.places[number as usize];
        (place.mac, place.claim) = (None, None);
        // A claim is not where the client is.
        if let Some(client) = place.client.take()
            && self.by_client.get(&client) == Some(&number)
        {
            self.by_client.remove(&client);
        }
    }

    fn set(&mut self, number: u32, state: State, until: Time) {
        let place = &mut self.places[number as usize];
        (place.state, place.until) = (state, until);
        let (is_free, is_blank) = (place.dynamic && state == State::Free, place.client.is_none());
        if state != State::Free && place.queued.is_none_or(|queued| until < queued) {
            place.queued = Some(until);
            self.deadlines.push(Reverse((until, number)));
        }
        match (self.free.contains(number), is_free) {
            (false, true) => self.free_count += 1,
            (true, false) => self.free_count -= 1,
            _ => {}
        }
        self.free.set(number, is_free);
        self.blank.set(number, is_free && is_blank);
    }

    /// Puts a place on the list of those whose records changed.
    pub(crate) fn note(&mut self, number: u32) {
        let place = &mut self.places[number as usize];
        if !place.changed {
            place.changed = true;
            self.changed.push(number);
        }
    }

    /// Ends what has run out.
    pub(crate) fn expire(&mut self, now: Time) {
        while let Some(Reverse((due, number))) = self.deadlines.peek().copied() {
            if due > now {
                return;
            }
            self.deadlines.pop();
            let place = &mut self.places[number as usize];
            if place.queued != Some(due) {
                continue;
            }
            place.queued = None;
            if place.until > now {
                let (state, until) = (place.state, place.until);
                self.set(number, state, until);
                continue;
            }
            match place.state {
                State::Free => {}
                State::Bound => self.release(number, now),
                // Nothing is remembered of those who only looked: a flood of them must not push out who was here.
                State::Offered => self.lapse(number),
                State::Quarantined => self.forget(number),
            }
        }
    }

    fn lapse(&mut self, number: u32) {
        self.drop_client(number);
        self.set(number, State::Free, Time::ZERO);
    }

    /// The client took another server's offer: what it was offered here is free again.
    pub(crate) fn withdraw(&mut self, client: &[u8]) {
        let offered = self.of(client).filter(|place| self.place(*place).state == State::Offered);
        if let Some(place) = self.claimed(client).or(offered) {
            self.lapse(place);
        }
    }

    /// The earliest moment at which [`Book::expire`] may have something to do.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.peek().map(|Reverse((due, _))| *due)
    }

    /// What lasts of a place. An offer does not: to everybody else the place is free.
    pub(crate) fn record<A>(&self, number: u32, address: A) -> Record<A> {
        let place = self.place(number);
        if place.state == State::Offered {
            return Record {
                address,
                client: None,
                mac: None,
                state: State::Free,
                since: Time::ZERO,
                until: Time::ZERO,
            };
        }
        let (client, mac) = (place.client.clone(), place.mac);
        Record {
            address,
            client,
            mac,
            state: place.state,
            since: place.since,
            until: place.until,
        }
    }

    /// Numbers of places that have something to record: leased, quarantined, or remembered.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.places)
            .filter(|(_, p)| p.state != State::Offered && (p.client.is_some() || p.state != State::Free))
            .map(|(n, _)| n)
    }

    /// The places whose records changed since this was asked last.
    pub(crate) fn take_changed(&mut self) -> Vec<u32> {
        let changed = std::mem::take(&mut self.changed);
        for number in &changed {
            self.places[*number as usize].changed = false;
        }
        changed
    }

    /// Takes over what was recorded elsewhere: before the last start, or by another replica.
    ///
    /// Where two clients have a lease of one address, who has had it longer keeps it, in every replica alike.
    pub(crate) fn load<A>(&mut self, number: u32, record: &Record<A>, now: Time) {
        let place = self.place(number);
        let ends = record.until <= now;
        match (record.state, record.client.as_deref()) {
            (State::Bound, Some(client)) if !ends => {
                if place.state == State::Bound && !self.is_clients(number, client) {
                    let ours = (place.since, place.client.as_deref());
                    if ours <= (record.since, Some(client)) {
                        return;
                    }
                }
                let until = if self.is_clients(number, client) && place.state == State::Bound {
                    place.until.max(record.until)
                } else {
                    record.until
                };
                self.assign(number, client, record.mac, State::Bound, record.since, until);
                let place = &mut self.places[number as usize];
                (place.since, place.unprobed) = (record.since, false);
            }
            (State::Quarantined, _) if !ends && place.state != State::Bound => {
                self.drop_client(number);
                self.places[number as usize].since = record.since;
                self.set(number, State::Quarantined, record.until);
            }
            // Over: its client is remembered, where nobody has come since. It may also have been given back at another replica.
            (State::Free | State::Bound, Some(client)) => {
                let given_back = place.state == State::Bound && self.is_clients(number, client) && record.until >= place.since;
                if given_back && record.state == State::Free {
                    self.set(number, State::Free, record.until);
                } else if place.state == State::Free && place.client.is_none() && self.of(client).is_none() {
                    self.assign(number, client, record.mac, State::Free, record.since, record.until);
                    self.places[number as usize].unprobed = false;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn book(size: u32) -> Book {
        Book::new(size, size, |_| true)
    }

    #[test]
    fn a_client_that_comes_back_gets_its_place_until_another_one_needs_it() {
        let mut book = book(2);
        for client in [b"a", b"b"] {
            let place = book.choose(client).unwrap();
            book.bind(place, client, None, at(0), at(10));
        }
        let (a, b) = (book.of(b"a").unwrap(), book.of(b"b").unwrap());
        assert_ne!(a, b);
        assert_eq!(book.choose(b"c"), None);
        book.expire(at(10));
        assert_eq!((book.free_count(), book.of(b"a"), book.of(b"b")), (2, Some(a), Some(b)));
        let c = book.choose(b"c").unwrap();
        book.bind(c, b"c", None, at(11), at(20));
        assert!(book.is_clients(c, b"c"));
        let left = if c == a { b"b" } else { b"a" };
        assert_eq!(book.of(left), Some(1 - c), "the other one is still remembered");
    }

    #[test]
    fn an_offer_lapses_without_a_trace_and_a_renewal_moves_the_deadline() {
        let mut book = book(4);
        let place = book.choose(b"a").unwrap();
        book.offer(place, b"a", None, at(0), at(5));
        assert_eq!(book.free_count(), 3);
        book.expire(at(5));
        assert_eq!((book.free_count(), book.of(b"a")), (4, None));
        assert!(book.take_changed().is_empty());
        book.bind(place, b"a", None, at(6), at(10));
        book.bind(place, b"a", None, at(8), at(100));
        book.expire(at(10));
        assert_eq!(book.place(place).state, State::Bound);
        assert_eq!(book.next_deadline(), Some(at(100)));
        book.quarantine(place, at(11), at(20));
        assert_eq!(book.of(b"a"), None);
        book.expire(at(20));
        assert_eq!(book.place(place).state, State::Free);
        assert_eq!(book.take_changed(), [place], "each place once, however often it changed");
        book.expire(at(100));
        assert_eq!(book.free_count(), 4);
    }

    #[test]
    fn a_lease_lasts_until_another_place_is_taken_for_it() {
        let mut book = book(8);
        book.bind(1, b"a", None, at(0), at(100));
        book.offer(2, b"a", None, at(1), at(5));
        book.offer(3, b"a", None, at(1), at(5));
        assert_eq!((book.of(b"a"), book.claimed(b"a")), (Some(1), Some(3)));
        assert_eq!(
            (book.place(1).state, book.place(2).state, book.free_count()),
            (State::Bound, State::Free, 6)
        );
        book.expire(at(5));
        assert_eq!(
            (book.of(b"a"), book.claimed(b"a"), book.free_count()),
            (Some(1), None, 7),
            "not taken"
        );
        book.offer(4, b"a", None, at(6), at(20));
        book.withdraw(b"a");
        assert_eq!((book.of(b"a"), book.free_count()), (Some(1), 7));
        book.offer(4, b"a", None, at(6), at(20));
        book.bind(4, b"a", None, at(7), at(100));
        assert_eq!((book.of(b"a"), book.claimed(b"a"), book.free_count()), (Some(4), None, 7));
        assert!(book.is_blank(1));
        // The lease ends, and another client has its place, before the claim is taken.
        book.offer(5, b"a", None, at(8), at(300));
        book.expire(at(100));
        book.bind(4, b"b", None, at(101), at(200));
        book.bind(5, b"a", None, at(102), at(200));
        assert_eq!((book.of(b"a"), book.of(b"b"), book.free_count()), (Some(5), Some(4), 6));
    }

    #[test]
    fn replicas_agree_who_keeps_an_address() {
        let record = |client: &[u8], since| Record {
            address: (),
            client: Some(client.into()),
            mac: None,
            state: State::Bound,
            since: at(since),
            until: at(100),
        };
        let mut one = book(4);
        let mut two = book(4);
        for (mine, other, book) in [("a", "b", &mut one), ("b", "a", &mut two)] {
            let since = |c| if c == "a" { 1 } else { 2 };
            book.bind(3, mine.as_bytes(), None, at(since(mine)), at(100));
            book.load(3, &record(other.as_bytes(), since(other)), at(3));
        }
        assert!(one.is_clients(3, b"a") && two.is_clients(3, b"a"));
        let mut given_back = record(b"a", 1);
        (given_back.state, given_back.until) = (State::Free, at(50));
        one.load(3, &given_back, at(51));
        assert_eq!(one.place(3).state, State::Free);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Come(u8),
        Take(u8),
        Leave(u8),
        Quarantine(u32),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..20).prop_map(Step::Come),
            (0u8..20).prop_map(Step::Take),
            (0u8..20).prop_map(Step::Leave),
            (0u32..16).prop_map(Step::Quarantine),
            (0u64..40).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn the_books_of_the_book_are_right(steps in steps()) {
            let mut book = Book::new(16, 12, |n| n < 12);
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Come(c) | Step::Take(c) => {
                        let place = book.of(&[c]).or_else(|| book.choose(&[c]));
                        if let Some(place) = place {
                            if matches!(step, Step::Come(_)) {
                                book.offer(place, &[c], None, at(now), at(now + 10));
                            } else {
                                book.bind(place, &[c], None, at(now), at(now + 30));
                            }
                            prop_assert_eq!(book.of(&[c]), Some(place));
                        }
                    }
                    Step::Leave(c) => if let Some(place) = book.of(&[c]) { book.release(place, at(now)) },
                    Step::Quarantine(n) => book.quarantine(n, at(now), at(now + 20)),
                    Step::Wait(s) => { now += s; book.expire(at(now)); }
                }
                let mut free = 0;
                for n in 0..16 {
                    let place = book.place(n);
                    if let Some(client) = &place.client {
                        prop_assert_eq!(book.of(client), Some(n));
                    }
                    if place.state != State::Free {
                        prop_assert!(place.queued.is_some_and(|q| q <= place.until), "nothing is forgotten for ever");
                        prop_assert!(place.until > at(now));
                    }
                    let is_free = n < 12 && place.state == State::Free;
                    prop_assert_eq!(book.free.contains(n), is_free);
                    prop_assert_eq!(book.is_blank(n), is_free && place.client.is_none());
                    free += u32::from(is_free);
                }
                prop_assert_eq!(book.free_count(), free);
                prop_assert_eq!(book.by_client.len(), (0..16).filter(|n| book.place(*n).client.is_some()).count());
                prop_assert!(book.deadlines.len() <= 16 * 4);
            }
            book.expire(at(now + 1000));
            prop_assert_eq!(book.free_count(), 12);
        }
    }
}
