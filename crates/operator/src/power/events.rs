//! BMCs that tell by themselves that something happened, and what is made of it: a look at the machine, and nothing else.
//!
//! Two ways. Where the operator has a URL for it, BMCs send there ([`super::receiver`]); else, or where one refuses, the operator listens to a stream of its events, of [`STREAMS`] BMCs at most, because
//! each holds a connection. The others are asked from time to time like before. Which way it is stands in `status.power.events`.
//!
//! Invariants:
//! * No content of an event is read. Who forges one makes one machine be looked at.
//! * **Paced**: the first event makes for a look at once; what comes within [`GAP`] of it for one more after that time, and so on; as long as nothing is seen of it, less and less often ([`LONGEST_GAP`]).
//! * Whatever is asked of a BMC goes through the bounds of all calls, and [`CHECKS`] at once; nothing waits for it but the machine itself.
//! * The token in a BMC's URL follows from netboot's key and the BMC's address: every replica knows it, nothing is stored, and it is in no log, event or status.
//!
//! A BMC in two objects whose addresses are written differently has two URLs; each is wanted, and neither is taken for a leftover.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use agent_protocol::token::TokenKey;
use api::{BareMetalHardware, power::PowerEvents};
use kube::ResourceExt;
use power::{
    Fault,
    calls::spread,
    events::{Stream, Subscription},
};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{Wired, drivers};
use crate::{
    bucket::Bucket,
    cache::Key,
    error::Result,
    world::{World, jittered},
};

/// Streams at once. Each is a socket, of the two hundred that are promised.
const STREAMS: usize = 32;
/// BMCs that are asked for their events at the same time.
const CHECKS: usize = 32;
/// How long one is asked. One that is too slow for that is asked more and more rarely, and keeps a place for others.
const ASKED: Duration = Duration::from_secs(10);
/// Between two looks at a machine because of events.
const GAP: Duration = Duration::from_secs(3);
const LONGEST_GAP: Duration = Duration::from_secs(9);
/// So many looks follow an event of which nothing is seen: a machine may take its time.
const FOLLOWING: u8 = 3;
/// After so long without one an event is the first one again.
const QUIET: Duration = Duration::from_secs(60);
/// When a BMC that did not answer is asked again for its events, the first time; and one that was not asked because others were.
const SOON: Duration = Duration::from_secs(60);
const NEXT: Duration = Duration::from_secs(2);
/// A stream that lived for less than that is not opened at once again.
const LIVED: Duration = Duration::from_secs(60);
/// How often the list of tokens is made anew, at most, because of one that is not in it.
const ANEW: Duration = Duration::from_secs(5);
/// So many events a second are passed on by a replica that does not lead, and so many at once.
const PASSED_ON: (f64, f64) = (100.0, 400.0);
/// Where they are passed on: an annotation of the machine with the time of the latest.
const TOLD: &str = "kube-baremetal.io/power-event";
/// The last part of a URL before the token.
pub(super) const PATH: &str = "/bmc-events/";

/// When a machine is looked at because of events.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Not before this time.
    next: Instant,
    gap: Duration,
    last: Instant,
    /// Whether something was told since the last look.
    told: bool,
    /// Looks that follow.
    following: u8,
    /// Whether it is to be passed on already.
    passing: bool,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            next: now,
            gap: GAP,
            last: now,
            told: false,
            following: 0,
            passing: false,
        }
    }

    /// Something was told: after what time to look.
    fn told(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.last) > QUIET {
            self.gap = GAP;
        }
        self.last = now;
        self.told = true;
        self.following = FOLLOWING;
        let wait = self.next.saturating_duration_since(now);
        if wait.is_zero() {
            self.next = now + self.gap;
        }
        wait
    }

    /// It was looked at: after what time to look again because of what was told.
    fn looked(&mut self, now: Instant, changed: bool) -> Option<Duration> {
        if !self.told && self.following == 0 {
            return None;
        }
        self.told = false;
        if changed {
            self.following = 0;
            self.gap = GAP;
            self.next = now + self.gap;
            return None;
        }
        self.following = self.following.checked_sub(1)?;
        let again = self.gap;
        self.next = now + again;
        self.gap = (self.gap + GAP).min(LONGEST_GAP);
        Some(again)
    }
}

/// A task that ends with this.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A BMC.
#[derive(Debug)]
struct Controller {
    machines: HashSet<String>,
    /// What is known of its events; nothing until it was asked.
    told: Option<(PowerEvents, String)>,
    /// When it is asked again.
    next: Instant,
    /// How often in a row it did not answer.
    silent: u32,
    stream: Option<Task>,
}

#[derive(Debug, Default)]
struct State {
    controllers: HashMap<String, Controller>,
    /// The BMC of a machine.
    of: HashMap<String, String>,
    paces: HashMap<String, Pace>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Events {
    state: Mutex<State>,
    streams: Arc<Semaphore>,
    checks: Semaphore,
    tokens: Arc<Tokens>,
    passed_on: Bucket,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            checks: Semaphore::new(CHECKS),
            tokens: Arc::default(),
            passed_on: Bucket::new(PASSED_ON.0, PASSED_ON.1),
        }
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How something becomes known of a machine, and why not better. None: nobody has asked its BMC yet.
    pub(super) fn of(&self, machine: &str) -> Option<(PowerEvents, String)> {
        let state = self.lock();
        let controller = state.of.get(machine)?;
        state.controllers.get(controller)?.told.clone()
    }

    /// A machine has a driver for this BMC. Whether the one that it had before has no machine any more.
    pub(super) fn join(&self, machine: &str, controller: &str) -> bool {
        if self.lock().of.get(machine).is_some_and(|own| own == controller) {
            return false;
        }
        let abandoned = self.leave(machine);
        let mut state = self.lock();
        state.of.insert(machine.to_owned(), controller.to_owned());
        let new = || Controller {
            machines: HashSet::new(),
            told: None,
            next: Instant::now(),
            silent: 0,
            stream: None,
        };
        let controller = state.controllers.entry(controller.to_owned()).or_insert_with(new);
        controller.machines.insert(machine.to_owned());
        abandoned
    }

    /// A machine has no driver any more. Whether its BMC has no machine any more.
    pub(super) fn leave(&self, machine: &str) -> bool {
        let mut state = self.lock();
        state.paces.remove(machine);
        let Some(own) = state.of.remove(machine) else { return false };
        let Some(controller) = state.controllers.get_mut(&own) else {
            return false;
        };
        controller.machines.remove(machine);
        let abandoned = controller.machines.is_empty();
        if abandoned {
            state.controllers.remove(&own);
        }
        abandoned
    }

    /// The BMC of a machine may not send any more what it was to send.
    pub(super) fn doubt(&self, machine: &str) {
        self.next(machine, Duration::ZERO);
    }

    fn next(&self, machine: &str, after: Duration) {
        let mut state = self.lock();
        let State { controllers, of, .. } = &mut *state;
        if let Some(controller) = of.get(machine).and_then(|own| controllers.get_mut(own)) {
            controller.next = Instant::now() + after;
        }
    }

    /// A machine was looked at. After what time to look again.
    pub(super) fn looked(&self, machine: &str, changed: bool) -> Option<Duration> {
        self.lock().paces.get_mut(machine)?.looked(Instant::now(), changed)
    }

    fn told(&self, machine: &str) -> Duration {
        let now = Instant::now();
        let mut state = self.lock();
        state.paces.entry(machine.to_owned()).or_insert_with(|| Pace::new(now)).told(now)
    }

    fn machines_of(&self, controller: &str) -> Vec<String> {
        let state = self.lock();
        let controller = state.controllers.get(controller);
        controller.into_iter().flat_map(|known| known.machines.iter().cloned()).collect()
    }

    fn streams_from(&self, controller: &str) -> bool {
        self.lock().controllers.get(controller).is_some_and(|known| known.stream.is_some())
    }

    fn is_due(&self, controller: &str) -> bool {
        let state = self.lock();
        state.controllers.get(controller).is_some_and(|known| known.next <= Instant::now())
    }

    /// Somebody else may be told of by a token now.
    pub(crate) fn changed(&self) {
        self.tokens.lock().changed = true;
    }

    /// What is known of a BMC now. Whether that is new.
    fn know(&self, controller: &str, told: (PowerEvents, String), next: Duration) -> bool {
        let mut state = self.lock();
        let Some(known) = state.controllers.get_mut(controller) else {
            return false;
        };
        known.next = Instant::now() + next;
        known.silent = 0;
        if told.0 != PowerEvents::Stream {
            known.stream = None;
        }
        known.told.replace(told.clone()).as_ref() != Some(&told)
    }

    /// A BMC did not answer, or has no time: it is asked again, at most after `longest`. Whether what is known of it is new.
    fn silent(&self, controller: &str, longest: Duration) -> bool {
        let mut state = self.lock();
        let Some(known) = state.controllers.get_mut(controller) else {
            return false;
        };
        known.next = Instant::now() + jittered(SOON.saturating_mul(1 << known.silent.min(8)).min(longest));
        known.silent += 1;
        let over = known.stream.is_none() && matches!(known.told, Some((PowerEvents::Stream, _)));
        if over {
            let fault = "the stream of events has ended, and the BMC does not answer".to_owned();
            known.told = Some((PowerEvents::None, fault));
        }
        over
    }

    /// The term has ended.
    pub(crate) fn end(&self) {
        *self.lock() = State::default();
    }
}

/// Something was told of a machine: it is looked at, in time.
pub(super) fn happened(world: &World, machine: &str) {
    let wait = world.power.events.told(machine);
    let key = Key::cluster(machine.to_owned());
    if wait.is_zero() {
        world.queues.power.add(key);
    } else {
        world.queues.power.add_after(key, wait);
    }
}

/// Whether another replica passed on that something was told.
pub(super) fn was_told(old: &BareMetalHardware, new: &BareMetalHardware) -> bool {
    let told = |machine: &BareMetalHardware| machine.annotations().get(TOLD).cloned();
    told(new).is_some_and(|at| told(old) != Some(at))
}

/// Somebody posted to a URL with this token. Whether it is one of ours.
pub(super) async fn posted(world: &Arc<World>, token: &str) -> bool {
    let Some(machines) = machines(world, token).await else {
        return false;
    };
    let leads = world.config.leader_election.is_none() || world.config.health.is_leading();
    for machine in machines {
        if leads {
            happened(world, &machine);
        } else {
            pass_on(world, machine);
        }
    }
    true
}

/// Lets the replica that leads know, in time.
fn pass_on(world: &Arc<World>, machine: String) {
    let events = &world.power.events;
    let wait = events.told(&machine);
    {
        let mut state = events.lock();
        let Some(pace) = state.paces.get_mut(&machine) else { return };
        if std::mem::replace(&mut pace.passing, true) {
            return;
        }
    }
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        let events = &world.power.events;
        while let Err(wait) = events.passed_on.take() {
            tokio::time::sleep(wait).await;
        }
        if let Some(pace) = events.lock().paces.get_mut(&machine) {
            pace.passing = false;
            pace.next = Instant::now() + GAP;
        }
        if let Err(error) = annotate(&world, &machine).await {
            tracing::debug!(hardware = machine, %error, "an event of a BMC was not passed on");
        }
    });
}

async fn annotate(world: &World, machine: &str) -> Result<()> {
    let mut tries = 0;
    while let Some(hardware) = world.hardware.by_name(machine) {
        let now = jiff::Timestamp::now().to_string();
        let change = json!({"metadata": {"annotations": {TOLD: now}}});
        tries += 1;
        match world.patch(hardware.as_ref(), change).await {
            Err(error) if error.is_conflict() && tries < 3 => tokio::time::sleep(Duration::from_millis(100)).await,
            done => return done.map(drop),
        }
    }
    Ok(())
}

/// Has a BMC send its events, or listens to it, where that is due; in the background, because nobody's reconcile is to wait for its turn.
pub(super) fn check(world: &Arc<World>, machine: &str, wired: &Arc<Wired>) {
    let events = &world.power.events;
    if !wired.machine.driver().capabilities().events || !events.is_due(wired.machine.driver().controller()) {
        return;
    }
    // Another machine of this BMC need not ask, too; nor does this one, as long as it waits.
    events.next(machine, world.config.bmc_events_check);
    let (world, wired) = (Arc::clone(world), Arc::clone(wired));
    tokio::spawn(async move {
        let events = &world.power.events;
        let controller = wired.machine.driver().controller();
        let Ok(_slot) = events.checks.acquire().await else { return };
        if !events.lock().controllers.contains_key(controller) {
            return;
        }
        let longest = world.config.bmc_events_check;
        let changed = match timeout(ASKED, asked(&world, &wired, controller)).await {
            Ok(Ok(told)) => events.know(controller, told, jittered(longest)),
            // What was, may still be.
            Ok(Err(Silent)) | Err(_) => events.silent(controller, longest),
        };
        if changed {
            for machine in events.machines_of(controller) {
                world.queues.hardware.add(Key::cluster(machine));
            }
        }
    });
}

/// It did not answer, or was not asked.
struct Silent;

async fn asked(world: &Arc<World>, wired: &Wired, controller: &str) -> std::result::Result<(PowerEvents, String), Silent> {
    let (events, calls) = (&world.power.events, &world.power.calls);
    let mut fault = String::new();
    if world.config.bmc_events.is_some() {
        let subscription = subscription(world, controller).await.ok_or(Silent)?;
        match calls.subscribe(&wired.machine, &subscription).await {
            Ok(()) => return Ok((PowerEvents::Push, String::new())),
            Err(error) => fault = why(error.fault)?,
        }
    }
    if events.streams_from(controller) {
        return Ok((PowerEvents::Stream, fault));
    }
    let Ok(permit) = Arc::clone(&events.streams).try_acquire_owned() else {
        if fault.is_empty() {
            fault = format!(
                "no stream is free: {STREAMS} other BMCs have one; give the operator a URL to which BMCs can send (--bmc-events-url)"
            );
        }
        return Ok((PowerEvents::None, fault));
    };
    match calls.listen(&wired.machine).await {
        Ok(stream) => {
            follow(world, controller, stream, permit);
            Ok((PowerEvents::Stream, fault))
        }
        Err(error) => {
            let refused = why(error.fault)?;
            Ok((PowerEvents::None, if fault.is_empty() { refused } else { fault }))
        }
    }
}

/// Why a BMC does not tell; nothing where it just did not answer.
fn why(fault: Fault) -> std::result::Result<String, Silent> {
    match fault {
        // After a reset it has no time, or no event service yet that makes sense.
        Fault::Unreachable(_) | Fault::Unanswered(_) | Fault::Late { .. } | Fault::Busy { .. } | Fault::Garbled(_) => Err(Silent),
        fault => Ok(fault.to_string()),
    }
}

/// Listens until the stream ends.
fn follow(world: &Arc<World>, controller: &str, mut stream: Stream, permit: OwnedSemaphorePermit) {
    let (weak, own) = (Arc::downgrade(world), controller.to_owned());
    let mut state = world.power.events.lock();
    let Some(known) = state.controllers.get_mut(controller) else {
        return;
    };
    let task = tokio::spawn(async move {
        let opened = Instant::now();
        // What happened just before nobody told.
        heard(&weak, &own);
        while stream.next().await.is_ok() {
            heard(&weak, &own);
        }
        drop((stream, permit));
        ended(&weak, &own, opened.elapsed());
    });
    known.stream = Some(Task(task.abort_handle()));
}

fn heard(world: &Weak<World>, controller: &str) {
    let Some(world) = world.upgrade() else { return };
    for machine in world.power.events.machines_of(controller) {
        happened(&world, &machine);
    }
}

/// A stream has ended: another one is opened with the next look, soon if it was good for something.
fn ended(world: &Weak<World>, controller: &str, lived: Duration) {
    let Some(world) = world.upgrade() else { return };
    let wait = spread(if lived < LIVED { SOON } else { NEXT });
    {
        let mut state = world.power.events.lock();
        let Some(known) = state.controllers.get_mut(controller) else {
            return;
        };
        known.next = Instant::now() + wait;
        known.stream = None;
    }
    for machine in world.power.events.machines_of(controller) {
        world.queues.power.add_after(Key::cluster(machine), wait);
    }
}

/// Has a BMC that no machine belongs to any more stop sending.
pub(super) async fn unsubscribe(world: &Arc<World>, wired: &Wired) {
    if world.config.bmc_events.is_none() || !wired.machine.driver().capabilities().events {
        return;
    }
    let Some(subscription) = subscription(world, wired.machine.driver().controller()).await else {
        return;
    };
    let done = timeout(ASKED, world.power.calls.unsubscribe(&wired.machine, &subscription)).await;
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a BMC may go on sending events"),
        Err(_) => tracing::debug!(
            controller = wired.machine.driver().controller(),
            "a BMC did not answer, and may go on sending events"
        ),
    }
}

/// Where a BMC is to send. Nothing as long as there are no keys.
async fn subscription(world: &Arc<World>, controller: &str) -> Option<Subscription> {
    let settings = world.config.bmc_events.as_ref()?;
    let keys = world.keys.get().await.ok().flatten()?;
    let prefix = power::events::plain(&format!("{}{PATH}", settings.url));
    let token = hex::encode(keys.tokens.derived(TOKENS, controller));
    // Tells apart what is still wanted from what is left over.
    let tokens = &world.power.events.tokens;
    if tokens.is_old() || tokens.machines(&token).is_none() {
        tokens.make(world, &keys.tokens);
    }
    let (tokens, own) = (Arc::clone(&world.power.events.tokens), prefix.clone());
    Some(Subscription {
        destination: format!("{prefix}{token}").into(),
        prefix,
        context: format!(
            "kube-baremetal {}",
            hex::encode(&keys.tokens.derived("bmc-events-context", "")[..8])
        ),
        unverified: settings.url.starts_with("https://") && settings.identity.is_none(),
        is_wanted: Arc::new(move |url| url.strip_prefix(&own).is_some_and(|token| tokens.machines(token).is_some())),
    })
}

const TOKENS: &str = "bmc-events";

/// Whose token it is.
#[derive(Default)]
struct Tokens(Mutex<Listed>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Listed {
    made: Option<Instant>,
    /// Whether a machine has come, gone, or got another driver since.
    changed: bool,
    /// By the first half of a token; the second half is compared in a time that tells nothing of it.
    machines: HashMap<[u8; 16], ([u8; 16], Vec<String>)>,
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines(&self, token: &str) -> Option<Vec<String>> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(token, &mut bytes).ok()?;
        let (first, second) = halves(&bytes);
        let listed = self.lock();
        let (own, machines) = listed.machines.get(&first)?;
        bool::from(own.ct_eq(&second)).then(|| machines.clone())
    }

    fn is_old(&self) -> bool {
        self.lock().made.is_none_or(|made| made.elapsed() >= ANEW)
    }

    /// Whether whoever asks this is to make the list anew: the first of many, and not too often.
    fn is_to_be_made(&self, because: impl FnOnce(&Listed) -> bool) -> bool {
        let mut listed = self.lock();
        let due = listed.made.is_none_or(|made| made.elapsed() >= ANEW) && because(&listed);
        if due {
            listed.made = Some(Instant::now());
        }
        due
    }

    /// Makes the list anew.
    fn make(&self, world: &World, key: &TokenKey) {
        let mut machines: HashMap<[u8; 16], ([u8; 16], Vec<String>)> = HashMap::new();
        for hardware in world.hardware.all() {
            if let Some(controller) = hardware.spec.power.as_ref().and_then(drivers::telling) {
                let (first, second) = halves(&key.derived(TOKENS, &controller));
                let entry = machines.entry(first).or_insert_with(|| (second, Vec::new()));
                entry.1.push(hardware.name_any());
            }
        }
        *self.lock() = Listed {
            made: Some(Instant::now()),
            changed: false,
            machines,
        };
    }
}

fn halves(token: &[u8; 32]) -> ([u8; 16], [u8; 16]) {
    let (mut first, mut second) = ([0; 16], [0; 16]);
    first.copy_from_slice(&token[..16]);
    second.copy_from_slice(&token[16..]);
    (first, second)
}

/// The machines that a token is about.
async fn machines(world: &World, token: &str) -> Option<Vec<String>> {
    let tokens = &world.power.events.tokens;
    let known = tokens.machines(token);
    if token.len() != 64
        || !token.bytes().all(|c| c.is_ascii_hexdigit())
        || !tokens.is_to_be_made(|listed| known.is_none() || listed.changed)
    {
        return known;
    }
    // It may belong to a machine that is new here, or to a new key.
    let keys = world.keys.get().await.ok().flatten()?;
    tokens.make(world, &keys.tokens);
    tokens.machines(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_event_makes_for_a_look_at_once_and_a_flood_for_few() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.told(start), Duration::ZERO);
        let mut due = start;
        let mut looks = 0;
        // Ten events in each second of five minutes, of which nothing is ever seen.
        for tenth in 0..3_000_u32 {
            let now = start + Duration::from_millis(100) * tenth;
            if now >= due {
                looks += 1;
                due = now + pace.looked(now, false).expect("it goes on");
            }
            let wait = pace.told(now);
            assert!(now + wait >= due.min(now + LONGEST_GAP) || wait.is_zero());
            due = due.min(now + wait.max(Duration::from_millis(1)));
        }
        assert!((30..40).contains(&looks), "{looks}");
    }

    #[test]
    fn what_is_seen_ends_it_and_what_is_not_is_looked_for_some_times() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.looked(start, true), None, "nobody told anything");
        assert_eq!(pace.told(start), Duration::ZERO);
        assert_eq!(pace.looked(at(start, 0), true), None);
        assert_eq!(
            pace.told(at(start, 1)),
            Duration::from_secs(2),
            "a second one may say something new"
        );
        let mut now = at(start, 3);
        for again in [3, 6, 9] {
            let wait = pace.looked(now, false).expect("it may take its time");
            assert_eq!(wait, Duration::from_secs(again));
            now += wait;
        }
        assert_eq!(pace.looked(now, false), None);
        assert_eq!(pace.told(now + QUIET * 2), Duration::ZERO);
        assert_eq!(pace.looked(now + QUIET * 2, false), Some(GAP), "it is a first one again");
    }

    #[test]
    fn a_bmc_is_left_when_its_last_machine_is() {
        let events = Events::default();
        assert!(!events.join("a", "bmc:443"));
        assert!(!events.join("b", "bmc:443"));
        assert!(!events.join("a", "bmc:443"));
        assert_eq!(events.of("a"), None, "nobody asked it");
        assert!(events.know("bmc:443", (PowerEvents::Push, String::new()), SOON));
        assert!(
            !events.know("bmc:443", (PowerEvents::Push, String::new()), SOON),
            "that is nothing new"
        );
        assert_eq!(events.of("b"), Some((PowerEvents::Push, String::new())));
        assert!(!events.join("a", "other:443"), "b is still there");
        assert!(events.leave("b"));
        assert!(!events.leave("b"));
        assert_eq!(events.machines_of("other:443"), ["a"]);
    }
}
