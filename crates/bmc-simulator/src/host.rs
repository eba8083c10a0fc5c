//! A machine with its power and its next boot, as its controller knows it. It acts like one: changes take time, a boot consumes an override that was for once, a system
//! may not listen. Protocols ask it and tell it; what stands behind is a [`Machine`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    faults::Conduct,
    machine::{Boot, Listens, Machine, Source},
};

/// The most boots that are remembered.
const KEPT: usize = 64;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Until power that is switched on is on.
    pub on: Duration,
    /// Until power that is switched off is off.
    pub off: Duration,
    /// Until a system that was asked to shut down is off.
    pub shut_down: Duration,
    /// From the begin of a boot until firmware is done.
    pub boot: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            on: Duration::from_secs(2),
            off: Duration::from_secs(1),
            shut_down: Duration::from_secs(8),
            boot: Duration::from_secs(20),
        }
    }
}

impl Timing {
    /// For tests: things take time, and little of it.
    #[must_use]
    pub const fn short() -> Self {
        Self {
            on: Duration::from_millis(60),
            off: Duration::from_millis(40),
            shut_down: Duration::from_millis(80),
            boot: Duration::from_millis(100),
        }
    }
}

/// What a machine is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Power on.
    On,
    /// Power off.
    Off,
    /// The mains is gone: off, at once.
    Unplug,
    /// Begin anew, with power.
    Reset,
    /// Power off, and on again.
    Cycle,
    /// Shut down.
    ShutDown,
    /// Shut down, and begin anew.
    Restart,
}

/// Power, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Power {
    /// On.
    On,
    /// Off.
    Off,
    /// On its way on.
    PoweringOn,
    /// On its way off.
    PoweringOff,
}

impl Power {
    /// What it is for somebody who knows only on and off.
    #[must_use]
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On | Self::PoweringOff)
    }
}

/// How long an override is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Enabled {
    /// It is not.
    #[default]
    Disabled,
    /// For the next boot.
    Once,
    /// For all.
    Continuous,
}

/// A boot override.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// How long.
    pub enabled: Enabled,
    /// From what.
    pub source: Option<Source>,
    /// In the controller's word.
    pub word: String,
    /// Whether firmware is to be UEFI. None: as it is set.
    pub uefi: Option<bool>,
}

/// A change that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Boot,
    Off,
    OffAndBoot,
    Reset,
}

#[derive(Debug, Default)]
struct State {
    on: bool,
    change: Option<(Change, Instant)>,
    /// Counts changes, so that one that was overtaken is not carried out.
    generation: u64,
    boot: Override,
    pending: Option<Override>,
    booted: Option<Instant>,
    boots: Vec<Boot>,
    image: Option<String>,
    ignores_boot: bool,
    /// When it was asked to restart; it goes off by itself first.
    restarts: Option<Instant>,
    version: u64,
}

/// Who is told that a machine went on or off.
#[derive(Default)]
struct Told(OnceLock<Box<dyn Fn(bool) + Send + Sync>>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    own: Weak<Self>,
    machine: Arc<dyn Machine>,
    timing: Timing,
    state: Mutex<State>,
    told: Told,
}

/// How often a machine that goes on and off by itself is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A system that was asked to restart and goes off later than this does so for another reason.
const RESTARTS_WITHIN: Duration = Duration::from_secs(300);

impl Host {
    /// A machine that is off, unless it says that it runs.
    #[must_use]
    pub fn new(machine: Arc<dyn Machine>, timing: Timing) -> Arc<Self> {
        let runs = machine.runs();
        let state = State {
            on: runs == Some(true),
            ..State::default()
        };
        let host = Arc::new_cyclic(|own| Self {
            own: own.clone(),
            machine,
            timing,
            state: Mutex::new(state),
            told: Told::default(),
        });
        if runs.is_some() {
            // What it does by itself is seen without anybody asking.
            let own = Arc::downgrade(&host);
            tokio::spawn(async move {
                loop {
                    sleep(LOOK).await;
                    let Some(own) = own.upgrade() else { return };
                    drop(own.lock());
                }
            });
        }
        host
    }

    /// What it is.
    #[must_use]
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    /// Has somebody told whenever it has gone on (true) or off, by whatever cause. It is called while nothing may be asked of the machine, and must return at once. Only
    /// the first one is.
    pub(crate) fn tells(&self, told: impl Fn(bool) + Send + Sync + 'static) {
        // A second one would be a mistake of this crate's; the first one stays.
        drop(self.told.0.set(Box::new(told)));
    }

    fn tell_of(&self, on: bool) {
        if let Some(told) = self.told.0.get() {
            told(on);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut state);
        state
    }

    /// Carries out what is due.
    fn settle(&self, state: &mut State) {
        let now = Instant::now();
        // What went off by itself, or was switched on by somebody else.
        let runs = self.machine.runs().filter(|runs| state.change.is_none() && *runs != state.on);
        if let Some(runs) = runs {
            state.on = runs;
            state.booted = None;
            state.version += 1;
            self.tell_of(runs);
            let restarts = state.restarts.take().is_some_and(|since| since.elapsed() < RESTARTS_WITHIN);
            if restarts && !runs {
                self.begin(state, Change::Boot, self.timing.on);
            }
        }
        let Some((change, at)) = state.change.filter(|(_, at)| *at <= now) else {
            return;
        };
        state.change = None;
        state.version += 1;
        match change {
            Change::Off => {
                state.on = false;
                state.booted = None;
                self.machine.off();
                self.tell_of(false);
            }
            Change::OffAndBoot => {
                state.on = false;
                state.booted = None;
                self.machine.off();
                self.tell_of(false);
                self.begin(state, Change::Boot, self.timing.on);
            }
            Change::Boot => {
                state.on = true;
                let boot = next_boot(state);
                self.machine.on(&boot);
                remember(state, boot, at);
                self.tell_of(true);
            }
            Change::Reset => {
                let boot = next_boot(state);
                self.machine.reset(&boot);
                remember(state, boot, at);
            }
        }
    }

    /// Begins a change; one that is under way is overtaken.
    fn begin(&self, state: &mut State, change: Change, takes: Duration) {
        let at = Instant::now() + takes;
        state.change = Some((change, at));
        state.generation += 1;
        state.restarts = None;
        let own = self.own.clone();
        tokio::spawn(async move {
            sleep_until(at).await;
            if let Some(own) = own.upgrade() {
                drop(own.lock());
            }
        });
    }

    /// Power, as it is.
    #[must_use]
    pub fn power(&self) -> Power {
        let state = self.lock();
        match state.change {
            Some((Change::Boot, _)) if !state.on => Power::PoweringOn,
            Some((Change::Off | Change::OffAndBoot, _)) if state.on => Power::PoweringOff,
            _ if state.on => Power::On,
            _ => Power::Off,
        }
    }

    /// Whether firmware is still at work.
    #[must_use]
    pub fn is_booting(&self) -> bool {
        self.lock().booted.is_some_and(|since| since.elapsed() < self.timing.boot)
    }

    /// Tells it something. When that is done, it has not happened yet.
    pub fn tell(&self, command: Command, conduct: Conduct) {
        let mut state = self.lock();
        state.ignores_boot |= conduct.ignores_boot;
        if conduct.ignores_commands {
            return;
        }
        let on = state.on;
        let takes = |time: Duration| time + conduct.slower;
        match command {
            Command::On if !on => self.begin(&mut state, Change::Boot, takes(self.timing.on)),
            Command::Off if on || state.change.is_some() => self.begin(&mut state, Change::Off, takes(self.timing.off)),
            // Whoever puts the plug in a moment later starts it.
            Command::Unplug if on || state.change.is_some() => {
                self.begin(&mut state, Change::Off, Duration::ZERO);
                self.settle(&mut state);
            }
            Command::Reset if on => self.begin(&mut state, Change::Reset, takes(self.timing.off)),
            Command::Cycle if on => self.begin(&mut state, Change::OffAndBoot, takes(self.timing.off)),
            Command::ShutDown | Command::Restart if on && !conduct.ignores_shutdown => {
                let restart = command == Command::Restart;
                match self.machine.shut_down() {
                    Listens::Yes if restart => self.begin(&mut state, Change::Reset, takes(self.timing.shut_down)),
                    Listens::Yes => self.begin(&mut state, Change::Off, takes(self.timing.shut_down)),
                    Listens::ByItself => state.restarts = restart.then(Instant::now),
                    Listens::No => {}
                }
            }
            // A reset of what is off switches nothing on: what does differs, and clients have to ask.
            _ => {}
        }
    }

    /// Its boot override.
    #[must_use]
    pub fn boot_override(&self) -> Override {
        self.lock().boot.clone()
    }

    /// What its override will be from the next boot on.
    #[must_use]
    pub fn pending_override(&self) -> Option<Override> {
        self.lock().pending.clone()
    }

    /// Sets its override.
    pub fn set_override(&self, boot: Override) {
        let mut state = self.lock();
        state.boot = boot;
        state.version += 1;
    }

    /// Sets what its override will be when it boots.
    pub fn set_pending_override(&self, boot: Override) {
        let mut state = self.lock();
        state.pending = Some(boot);
        state.version += 1;
    }

    /// What is in the drive that it would boot from.
    pub fn image(&self) -> Option<String> {
        self.lock().image.clone()
    }

    /// Puts an image into the drive, or takes it out.
    pub fn set_image(&self, image: Option<String>) {
        let mut state = self.lock();
        state.image = image;
        state.version += 1;
    }

    /// Its boots, the latest last.
    #[must_use]
    pub fn boots(&self) -> Vec<Boot> {
        self.lock().boots.clone()
    }

    /// Counts its changes.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }
}

/// From what it boots now; an override that was for once is consumed.
fn next_boot(state: &mut State) -> Boot {
    if let Some(pending) = state.pending.take() {
        state.boot = pending;
    }
    let boot = state.boot.clone();
    if boot.enabled == Enabled::Once {
        state.boot = Override {
            uefi: boot.uefi,
            ..Override::default()
        };
    }
    let uefi = boot.uefi.unwrap_or(true);
    let wanted = boot.source.filter(|_| boot.enabled != Enabled::Disabled);
    let (source, image) = match wanted {
        _ if std::mem::take(&mut state.ignores_boot) => (Source::Usual, None),
        // Without a medium it goes on with what firmware is set to.
        Some(Source::Media) => match &state.image {
            Some(image) => (Source::Media, Some(image.clone())),
            None => (Source::Usual, None),
        },
        Some(source) => (source, None),
        None => (Source::Usual, None),
    };
    Boot { source, uefi, image }
}

fn remember(state: &mut State, boot: Boot, at: Instant) {
    if state.boots.len() == KEPT {
        state.boots.remove(0);
    }
    state.boots.push(boot);
    state.booted = Some(at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Event, InMemory};

    fn once(source: Source) -> Override {
        Override {
            enabled: Enabled::Once,
            source: Some(source),
            word: "x".to_owned(),
            uefi: Some(true),
        }
    }

    async fn pass(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_consumes_an_override_that_was_for_once_and_changes_take_time() {
        let machine = Arc::new(InMemory::default());
        let host = Host::new(machine.clone(), Timing::short());
        host.set_override(once(Source::Network));
        host.tell(Command::On, Conduct::default());
        assert_eq!(host.power(), Power::PoweringOn);
        assert!(host.boots().is_empty());
        pass(70).await;
        assert_eq!(host.power(), Power::On);
        assert_eq!(host.boot_override().enabled, Enabled::Disabled);
        host.tell(Command::Cycle, Conduct::default());
        assert_eq!(host.power(), Power::PoweringOff);
        pass(150).await;
        let sources: Vec<_> = host.boots().iter().map(|boot| boot.source).collect();
        assert_eq!(sources, [Source::Network, Source::Usual]);
        // It happened to what stands behind without anybody asking.
        assert_eq!(machine.events().len(), 3);
        assert_eq!(machine.events()[1], Event::Off);
    }

    #[tokio::test(start_paused = true)]
    async fn a_continuous_override_stays_and_a_pending_one_comes_with_the_boot() {
        let host = Host::new(Arc::new(InMemory::default()), Timing::short());
        host.set_pending_override(Override {
            enabled: Enabled::Continuous,
            ..once(Source::Disk)
        });
        assert_eq!(host.boot_override().source, None);
        host.tell(Command::On, Conduct::default());
        pass(100).await;
        host.tell(Command::Reset, Conduct::default());
        pass(100).await;
        assert!(host.boots().iter().all(|boot| boot.source == Source::Disk));
        assert_eq!((host.boots().len(), host.pending_override()), (2, None));
    }

    #[tokio::test(start_paused = true)]
    async fn mains_that_comes_back_at_once_starts_it() {
        let host = Host::new(Arc::new(InMemory::default()), Timing::default());
        host.tell(Command::On, Conduct::default());
        pass(3_000).await;
        host.tell(Command::Unplug, Conduct::default());
        assert_eq!(host.power(), Power::Off);
        host.tell(Command::On, Conduct::default());
        pass(3_000).await;
        assert_eq!((host.power(), host.boots().len()), (Power::On, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_system_may_not_listen_and_a_later_command_overtakes() {
        let host = Host::new(Arc::new(InMemory::default()), Timing::short());
        host.tell(Command::On, Conduct::default());
        pass(100).await;
        let deaf = Conduct {
            ignores_shutdown: true,
            ..Conduct::default()
        };
        host.tell(Command::ShutDown, deaf);
        pass(200).await;
        assert_eq!(host.power(), Power::On);
        host.tell(Command::ShutDown, Conduct::default());
        host.tell(Command::Off, Conduct::default());
        pass(45).await;
        assert_eq!(host.power(), Power::Off);
        let slow = Conduct {
            slower: Duration::from_secs(60),
            ignores_boot: true,
            ..Conduct::default()
        };
        host.set_override(once(Source::Network));
        host.tell(Command::On, slow);
        pass(59_000).await;
        assert_eq!(host.power(), Power::PoweringOn);
        pass(2_000).await;
        assert_eq!(host.boots().last().map(|boot| boot.source), Some(Source::Usual));
        assert_eq!(host.boot_override().enabled, Enabled::Disabled);
    }

    /// A machine that switches itself off.
    #[derive(Debug, Default)]
    struct Willing(std::sync::atomic::AtomicBool);

    impl Machine for Willing {
        fn on(&self, _: &Boot) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }

        fn off(&self) {
            self.0.store(false, std::sync::atomic::Ordering::SeqCst);
        }

        fn reset(&self, _: &Boot) {}

        fn shut_down(&self) -> Listens {
            Listens::ByItself
        }

        fn runs(&self) -> Option<bool> {
            Some(self.0.load(std::sync::atomic::Ordering::SeqCst))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_off_by_itself_is_seen_to_be_off() {
        let machine = Arc::new(Willing::default());
        let host = Host::new(machine.clone(), Timing::short());
        host.tell(Command::On, Conduct::default());
        pass(100).await;
        host.tell(Command::ShutDown, Conduct::default());
        pass(500).await;
        assert_eq!(host.power(), Power::On, "it takes its time");
        machine.off();
        assert_eq!(host.power(), Power::Off);

        host.tell(Command::On, Conduct::default());
        pass(100).await;
        host.tell(Command::Restart, Conduct::default());
        machine.off();
        assert_eq!(host.power(), Power::PoweringOn, "it was asked to come back");
        pass(100).await;
        assert_eq!((host.power(), host.boots().len()), (Power::On, 3));
    }
}
