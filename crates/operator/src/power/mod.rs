//! Machines' switches: carries out what `lifecycle::power` decided, and asks drivers whether machines are on.
//!
//! One reconcile per machine with a driver: the act in force first, then the state. What came of it is kept here until the machine's own reconcile takes it into the status; whoever starts anew knows nothing, and
//! carries an act that is still in force out once more.
//!
//! Invariants:
//! * One call at a time per machine (the queue), and per controller (`power::calls`); a dead controller holds up its own machines alone.
//! * Nothing is written here: the status belongs to the machine's reconcile, and events tell what only a person can mend.
//! * What a BMC tells by itself ([`events`]) makes it be asked, and is not believed.
//! * Credentials are read by name, in the operator's namespace, and go to the driver and nowhere else. The last good ones are used on while the API server does not answer.

pub(crate) mod drivers;
mod events;
pub(crate) mod inventory;
mod medium;
pub(crate) mod receiver;
pub(crate) mod turns;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_protocol::inventory::FirmwareMode;
use api::{
    BareMetalDiscovery, BareMetalHardware,
    power::{PowerAct, PowerActKind, PowerSpec, PowerState},
};
use jiff::Timestamp;
use kube::ResourceExt;
use lifecycle::{
    pacing::Turn,
    power::{Ended, PowerFacts},
};
use power::{
    BootDevice, BootOnce, Fault, Firmware, Off, Operation, PowerError,
    calls::{Calls, Limits, Machine},
};
use tokio::time::Instant;

use crate::{
    cache::Key,
    error::Result,
    events::Notice,
    queue::Next,
    secrets::{self, Contents},
    world::{World, jittered, reference},
};

/// How often a machine's state is asked for after an act, for as long as [`SOON_FOR`].
const SOON: Duration = Duration::from_secs(3);
const SOON_FOR: Duration = Duration::from_secs(30);
/// One that waits for its turn for longer says so, and says anew for whom after as long again as this.
const WAITS: Duration = Duration::from_secs(2);
const WAITS_AGAIN: Duration = Duration::from_secs(60);
/// So many interfaces of a machine are woken at most.
const MACS: usize = 8;
/// A Secret that is older than that here is read again.
const FRESH: Duration = Duration::from_secs(600);
/// Reconciles at once: more than calls at once, of which most wait for a controller.
pub(crate) const AT_ONCE: usize = 512;

/// A driver, and of what it was made.
struct Wired {
    spec: PowerSpec,
    macs: Vec<String>,
    credentials: Contents,
    read_at: Instant,
    machine: Machine,
}

#[derive(Default)]
struct Known {
    wired: Option<Arc<Wired>>,
    state: PowerState,
    /// Whether the state could not be asked for, the last time.
    unreachable: bool,
    asked_at: Option<Instant>,
    soon_until: Option<Instant>,
    ended: Option<Ended>,
    /// For whom the act in force waits, for people.
    turn: String,
    /// The act whose medium was taken out of the machine's drive.
    detached: Option<String>,
    /// What its BMC said that the machine is.
    readings: inventory::Readings,
}

/// What is known of the machines with drivers.
pub struct Switches {
    calls: Calls,
    /// By the hardware's name.
    machines: Mutex<HashMap<String, Known>>,
    /// Which BMCs tell by themselves.
    pub(crate) events: events::Events,
    /// Who is switched on next.
    pub(crate) turns: turns::Turns,
}

impl std::fmt::Debug for Switches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switches").finish_non_exhaustive()
    }
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            calls: Calls::new(Limits::default()),
            machines: Mutex::default(),
            events: events::Events::default(),
            turns: turns::Turns::default(),
        }
    }
}

impl Switches {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the decisions about a machine; nothing where it has no driver.
    pub(crate) fn facts(&self, hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> Option<PowerFacts> {
        let spec = hardware.spec.power.as_ref()?;
        let can = drivers::can(spec)?;
        let macs = if drivers::is_woken(spec) {
            interfaces(spec, discovery)
        } else {
            Vec::new()
        };
        let (events, events_fault) = self.events.of(&hardware.name_any()).unwrap_or_else(|| {
            // Not asked yet, after a start: it is what it was. Another kind of driver tells nothing.
            let before = hardware.status.as_ref().and_then(|s| s.power.as_ref());
            let before = before.filter(|_| drivers::telling(spec).is_some());
            before.map(|p| (p.events, p.events_fault.clone())).unwrap_or_default()
        });
        let machines = self.lock();
        let known = machines.get(&hardware.name_any());
        Some(PowerFacts {
            can,
            macs,
            // One that was not asked yet, after a start, is what it was.
            state: known.filter(|k| k.asked_at.is_some()).map_or_else(
                || {
                    hardware
                        .status
                        .as_ref()
                        .and_then(|s| s.power.as_ref())
                        .map(|p| p.state)
                        .unwrap_or_default()
                },
                |k| k.state,
            ),
            events,
            events_fault,
            ended: known.and_then(|k| k.ended.clone()),
            turn: known.map(|k| k.turn.clone()).unwrap_or_default(),
        })
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        change(self.lock().entry(name.to_owned()).or_default())
    }

    /// Gives the controller its session back, as far as it takes it.
    async fn close(&self, wired: &Wired) {
        if let Err(error) = self.calls.close(&wired.machine).await {
            tracing::debug!(%error, "a session with a BMC was not closed");
        }
    }
}

/// The machine is gone, or has no driver any more.
async fn forget(world: &Arc<World>, name: &str) {
    world.power.turns.withdraw(name);
    let known = world.power.lock().remove(name);
    let abandoned = world.power.events.leave(name);
    if let Some(wired) = known.and_then(|k| k.wired) {
        if abandoned {
            events::unsubscribe(world, &wired).await;
        }
        world.power.close(&wired).await;
    }
}

/// The machine's agent opened a session: a medium that it booted from can be taken out.
pub(crate) fn wake_for_medium(world: &World, hardware: &BareMetalHardware) {
    if hardware.spec.power.as_ref().is_some_and(|spec| spec.virtual_media().is_some()) {
        world.queues.power.add(Key::cluster(hardware.name_any()));
    }
}

/// Wakes the machine's switch where there may be something to do.
pub(crate) fn wake(world: &World, old: Option<&Arc<BareMetalHardware>>, new: Option<&Arc<BareMetalHardware>>) {
    let act = |m: Option<&Arc<BareMetalHardware>>| m.and_then(|m| m.status.as_ref()?.power.as_ref()?.act.clone());
    let spec = |m: Option<&Arc<BareMetalHardware>>| m.and_then(|m| m.spec.power.clone());
    let paused = |m: Option<&Arc<BareMetalHardware>>| m.is_some_and(|m| m.spec.paused);
    // Whoever is claimed starts before those that are not.
    let claimed = |m: Option<&Arc<BareMetalHardware>>| m.is_some_and(|m| m.spec.claim_ref.is_some());
    let urgent = claimed(old) != claimed(new) && act(new).is_some();
    if let (Some(old), Some(new)) = (old, new)
        && events::was_told(old, new)
    {
        events::happened(world, &new.name_any());
    }
    if (act(old) != act(new) || urgent || spec(old) != spec(new) || paused(old) != paused(new))
        && let Some(machine) = new.or(old)
    {
        world.queues.power.add(Key::cluster(machine.name_any()));
    }
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let hardware = world.hardware.get(&key);
    let switched = |spec: &PowerSpec| drivers::can(spec).is_some();
    let Some((hardware, spec)) = hardware.and_then(|h| Some((h.clone(), h.spec.power.clone().filter(switched)?))) else {
        forget(&world, &key.name).await;
        return Ok(Next::Rest);
    };
    if hardware.spec.paused {
        world.power.turns.withdraw(&key.name);
        return Ok(Next::Rest);
    }
    let name = hardware.name_any();
    let act = hardware.status.as_ref().and_then(|s| s.power.as_ref()).and_then(|p| p.act.clone());
    let act = act.filter(|act| world.power.with(&name, |k| k.ended.as_ref().is_none_or(|ended| ended.id != act.id)));
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name);
    let wired = wired(&world, &name, &spec, interfaces(&spec, discovery.as_deref())).await?;
    let (act, waits) = its_turn(&world, &hardware, &key, act);
    if let Some(act) = act {
        let done = match &wired {
            Ok(wired) => carry_out(&world, &hardware, wired, &act).await,
            Err(problem) => Err(problem.clone()),
        };
        tracing::info!(hardware = name, act = ?act.kind, id = act.id, problem = done.as_ref().err(), "power");
        world.power.with(&name, |known| {
            known.soon_until = Some(Instant::now() + SOON_FOR);
            known.ended = Some(Ended {
                id: act.id,
                at: Timestamp::now(),
                fault: done.err(),
            });
        });
        world.queues.hardware.add(key.clone());
    }
    if let Ok(wired) = &wired {
        medium::take_out(&world, &hardware, wired).await;
    }
    let again = match wired {
        Ok(wired) if wired.machine.driver().capabilities().state => {
            let looked = look(&world, &hardware, &key, &wired).await;
            if looked.answered {
                inventory::wake(&world, &hardware, discovery.as_deref());
                events::check(&world, &name, &wired);
            }
            let soon = world
                .power
                .with(&name, |known| known.soon_until.is_some_and(|until| Instant::now() < until));
            let usual = if soon { SOON } else { jittered(world.config.power_check) };
            Some(looked.again.map_or(usual, |again| again.min(usual)))
        }
        // There is nothing to ask it.
        Ok(_) => None,
        Err(_) => Some(jittered(world.config.power_check)),
    };
    Ok(again.into_iter().chain(waits).min().map_or(Next::Rest, Next::After))
}

/// The act, if it may be carried out now; else after what time to ask again.
fn its_turn(world: &World, hardware: &BareMetalHardware, key: &Key, act: Option<PowerAct>) -> (Option<PowerAct>, Option<Duration>) {
    let turn = match &act {
        Some(act) => turns::ask(world, hardware, act),
        None => {
            world.power.turns.withdraw(&key.name);
            Turn::Now
        }
    };
    let waited = act.as_ref().map_or(Duration::ZERO, |act| {
        Duration::try_from(Timestamp::now().duration_since(act.since.0)).unwrap_or_default()
    });
    let (text, waits) = match turn {
        Turn::Now => (String::new(), None),
        // Most have their turn before anybody could read for whom they wait.
        Turn::Wait(_) if waited < WAITS => (String::new(), Some(WAITS.saturating_sub(waited))),
        Turn::Wait(text) => (text, Some(WAITS_AGAIN)),
    };
    let news = world.power.with(&key.name, |known| {
        let news = known.turn != text;
        known.turn = text;
        news
    });
    if news {
        world.queues.hardware.add(key.clone());
    }
    (act.filter(|_| waits.is_none()), waits)
}

/// The machine's driver; what keeps it from having one is for people.
async fn wired(world: &Arc<World>, name: &str, spec: &PowerSpec, macs: Vec<String>) -> Result<std::result::Result<Arc<Wired>, String>> {
    let before = world.power.with(name, |known| known.wired.clone());
    let same = |wired: &&Arc<Wired>| wired.spec == *spec && wired.macs == macs;
    if let Some(wired) = before.as_ref().filter(same).filter(|w| w.read_at.elapsed() < FRESH) {
        return Ok(Ok(Arc::clone(wired)));
    }
    let namespace = &world.config.operator_namespace;
    let credentials = match drivers::secret(spec) {
        None => Contents::default(),
        Some(secret) => match (secrets::read(world.client(), namespace, secret).await, &before) {
            (Ok(Some(contents)), _) => contents,
            (Ok(None), _) => {
                return Ok(Err(format!(
                    "the Secret {namespace}/{secret}, which spec.power names, is not there: create it"
                )));
            }
            (Err(_), Some(wired)) if same(&wired) => return Ok(Ok(Arc::clone(wired))),
            (Err(error), _) => return Err(error),
        },
    };
    let driver = match drivers::driver(spec, &macs, &credentials) {
        Ok(driver) => driver,
        Err(fault) => return Ok(Err(fault.to_string())),
    };
    let same = before.as_ref().filter(same).filter(|w| w.credentials == credentials);
    let machine = match same {
        Some(wired) => wired.machine.clone(),
        None => world.power.calls.machine(name, Arc::from(driver)),
    };
    let is_new = same.is_none();
    let wired = Arc::new(Wired {
        spec: spec.clone(),
        macs,
        credentials,
        read_at: Instant::now(),
        machine,
    });
    world.power.with(name, |known| known.wired = Some(Arc::clone(&wired)));
    let abandoned = match wired.machine.driver() {
        driver if driver.capabilities().events => world.power.events.join(name, driver.controller()),
        _ => world.power.events.leave(name),
    };
    if let Some(old) = before.filter(|_| is_new) {
        if abandoned {
            events::unsubscribe(world, &old).await;
        }
        world.power.close(&old).await;
    }
    Ok(Ok(wired))
}

async fn carry_out(world: &World, hardware: &BareMetalHardware, wired: &Wired, act: &PowerAct) -> std::result::Result<(), String> {
    let (calls, machine) = (&world.power.calls, &wired.machine);
    let done = match act.kind {
        PowerActKind::BootAgent if wired.spec.virtual_media().is_some() => return medium::boot(world, hardware, wired, act).await,
        PowerActKind::BootAgent => {
            let boot = BootOnce {
                device: BootDevice::Network,
                firmware: firmware(world, hardware),
            };
            let chosen = if machine.driver().capabilities().allow(Operation::BootOnce(boot.device)) {
                calls.boot_once(machine, boot).await
            } else {
                Ok(())
            };
            match chosen {
                Ok(()) => calls.cycle(machine).await,
                Err(error) => Err(error),
            }
        }
        PowerActKind::On => calls.on(machine).await,
        PowerActKind::ShutDown => calls.off(machine, Off::Soft).await,
        PowerActKind::Off => calls.off(machine, Off::Hard).await,
    };
    done.map_err(|error| problem(world, hardware, &error))
}

/// What a driver's error says to people.
fn problem(world: &World, hardware: &BareMetalHardware, error: &PowerError) -> String {
    refresh(world, hardware, error);
    error.to_string()
}

/// What the machine's firmware was when its agent looked; UEFI where nothing tells.
fn firmware(world: &World, hardware: &BareMetalHardware) -> Firmware {
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name);
    let inventory = discovery
        .as_ref()
        .and_then(|d| d.status.as_ref())
        .and_then(|s| s.inventory.as_ref());
    match inventory.map(|i| i.firmware.mode) {
        Some(FirmwareMode::BIOS) => Firmware::Bios,
        Some(FirmwareMode::UEFI) | None => Firmware::Uefi,
    }
}

/// Credentials that were refused are read again before the next call: somebody may have corrected them.
fn refresh(world: &World, hardware: &BareMetalHardware, error: &PowerError) {
    if matches!(error.fault, Fault::Credentials(_)) {
        world.power.with(&hardware.name_any(), |known| known.wired = None);
    }
}

/// By which interfaces a machine is woken: those that its spec names, else those that its agent found.
fn interfaces(spec: &PowerSpec, discovery: Option<&BareMetalDiscovery>) -> Vec<String> {
    let Some(wake) = &spec.wake_on_lan else { return Vec::new() };
    if !wake.macs.is_empty() {
        return wake.macs.clone();
    }
    let inventory = discovery.and_then(|d| d.status.as_ref()?.inventory.as_ref());
    let found = inventory.map(|i| i.nics.iter().take(MACS).map(|nic| nic.mac.to_string()).collect());
    found.unwrap_or_default()
}

/// What came of a look.
struct Looked {
    answered: bool,
    /// After what time to look again, because of an event that nothing is seen of yet.
    again: Option<Duration>,
}

/// Asks whether the machine is on.
async fn look(world: &World, hardware: &Arc<BareMetalHardware>, key: &Key, wired: &Wired) -> Looked {
    let name = hardware.name_any();
    let answer = world.power.calls.state(&wired.machine).await;
    let state = match &answer {
        Ok(power::PowerState::On) => PowerState::On,
        Ok(power::PowerState::Off) => PowerState::Off,
        Ok(power::PowerState::Unknown) | Err(_) => PowerState::Unknown,
    };
    let answered = answer.is_ok();
    let (changed, lost, back) = world.power.with(&name, |known| {
        let changed = known.state != state || known.asked_at.is_none();
        let lost = answer.is_err() && !known.unreachable;
        let back = answer.is_ok() && known.unreachable;
        known.state = state;
        known.unreachable = answer.is_err();
        known.asked_at = Some(Instant::now());
        (changed, lost, back)
    });
    if back {
        // It may have started anew, and have lost who wanted its events.
        world.power.events.doubt(&name);
    }
    let again = world.power.events.looked(&name, changed && state != PowerState::Unknown);
    if let Err(error) = answer {
        refresh(world, hardware, &error);
        if lost {
            tracing::warn!(hardware = name, %error, "nothing tells whether the machine is on");
            world.events.tell(Notice {
                regarding: reference(hardware.as_ref()),
                related: None,
                warning: true,
                reason: "PowerUnreachable".to_owned(),
                action: "Asked".to_owned(),
                note: format!("Nothing tells whether the machine is on: {error}"),
            });
        }
    }
    if changed {
        world.queues.hardware.add(key.clone());
    }
    Looked { answered, again }
}
