//! What the demo knows of the machines: only what the API's watch streams say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::identity::MacAddress;
use anyhow::{Context, Result, bail};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalInstance, BareMetalInstanceStatus, HardwarePhase, InstancePhase,
    instance::RunningEvidence,
};
use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::show::Show;

/// Everything seen so far.
#[derive(Default)]
pub struct World {
    names: BTreeMap<MacAddress, String>,
    discoveries: BTreeMap<String, BareMetalDiscovery>,
    hardware: BTreeMap<String, BareMetalHardware>,
    instances: BTreeMap<String, BareMetalInstance>,
    /// Per machine: phases in order, with the moment each was entered.
    phases: BTreeMap<String, Vec<(String, Instant)>>,
}

impl World {
    /// Number of machines in a phase.
    pub fn hardware_in(&self, phase: HardwarePhase) -> usize {
        self.hardware
            .values()
            .filter(|h| h.status.as_ref().is_some_and(|s| s.phase == phase))
            .count()
    }

    /// Number of instances that run by the word of their own system, which is the strongest evidence.
    pub fn instances_reported(&self) -> usize {
        let reported =
            |s: &BareMetalInstanceStatus| s.phase == InstancePhase::Running && s.evidence == Some(RunningEvidence::GuestReported);
        self.instances.values().filter(|i| i.status.as_ref().is_some_and(reported)).count()
    }

    /// Number of instances.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    /// Whether some machine has erase evidence for that claim, and nobody claims it.
    pub fn erased_for(&self, claim_uid: &str) -> bool {
        self.hardware.values().any(|h| {
            let erased = h
                .status
                .as_ref()
                .and_then(|s| s.last_erase.as_ref())
                .is_some_and(|e| e.claim_uid == claim_uid);
            erased && h.spec.claim_ref.is_none()
        })
    }

    /// The demo's name for a hardware object: by the MAC it booted from.
    fn machine_of(&self, hardware: &str) -> Option<String> {
        let session = self.discoveries.get(hardware)?.status.as_ref()?.session.as_ref()?;
        self.names.get(&session.boot_mac).cloned()
    }

    fn label(&self, hardware: &str) -> String {
        self.machine_of(hardware).unwrap_or_else(|| hardware.to_owned())
    }

    fn waiting(&self) -> String {
        let mut lines = Vec::new();
        for (name, h) in &self.hardware {
            let s = h.status.clone().unwrap_or_default();
            lines.push(format!("  {} ({name}): {:?} {} {}", self.label(name), s.phase, s.reason, s.message));
        }
        for (name, i) in &self.instances {
            let s = i.status.clone().unwrap_or_default();
            lines.push(format!("  {name}: {:?} {} {}", s.phase, s.reason, s.message));
        }
        if lines.is_empty() {
            "  no machine has appeared".to_owned()
        } else {
            lines.join("\n")
        }
    }
}

/// Watches and remembers.
pub struct Observer {
    world: Arc<Mutex<World>>,
    changed: Arc<Notify>,
    tasks: tokio::task::JoinSet<()>,
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer {
    /// Starts the watches.
    pub async fn start(client: Client, show: Show) -> Result<Self> {
        let mut observer = Self {
            world: Arc::default(),
            changed: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        observer.follow::<BareMetalDiscovery>(Api::all(client.clone()), |w| &mut w.discoveries, {
            let show = show.clone();
            move |w, name, object| {
                let Some(d) = object.and_then(|o| o.status.as_ref()) else { return };
                let label = w.label(name);
                match (&d.progress, &d.accepted_order) {
                    (Some(p), Some(o)) if d.result.as_ref().is_none_or(|r| r.order_id != o.id) => {
                        show.progress(&label, &format!("{:?}", p.step), p.done_bytes, p.total_bytes);
                    }
                    _ => show.done(&label),
                }
            }
        });
        observer.follow::<BareMetalHardware>(Api::all(client.clone()), |w| &mut w.hardware, {
            let show = show.clone();
            move |w, name, object| {
                let Some(h) = object.and_then(|o| o.status.as_ref()) else { return };
                let label = w.label(name);
                let phase = format!("{:?}", h.phase);
                let phases = w.phases.entry(label.clone()).or_default();
                if phases.last().is_none_or(|(p, _)| *p != phase) {
                    phases.push((phase.clone(), Instant::now()));
                    let why = if h.message.is_empty() {
                        String::new()
                    } else {
                        format!(" ({})", h.message)
                    };
                    show.line(&format!("{label}: {phase}{why}"));
                }
            }
        });
        let seen: Mutex<BTreeMap<String, InstancePhase>> = Mutex::default();
        observer.follow::<BareMetalInstance>(
            Api::all(client),
            |w| &mut w.instances,
            move |w, name, object| {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(instance) = object else {
                    if seen.remove(name).is_some() {
                        show.line(&format!("instance {name}: gone"));
                    }
                    return;
                };
                let status = instance.status.clone().unwrap_or_default();
                if seen.insert(name.to_owned(), status.phase) != Some(status.phase) {
                    let on = instance
                        .spec
                        .hardware_name
                        .as_deref()
                        .map(|h| format!(" on {}", w.label(h)))
                        .unwrap_or_default();
                    let evidence = status.evidence.map(|e| format!(" ({e:?})")).unwrap_or_default();
                    show.line(&format!("instance {name}: {:?}{on}{evidence}", status.phase));
                }
            },
        );
        Ok(observer)
    }

    fn follow<K>(
        &mut self,
        api: Api<K>,
        map: fn(&mut World) -> &mut BTreeMap<String, K>,
        tell: impl Fn(&mut World, &str, Option<&K>) + Send + 'static,
    ) where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let (world, changed) = (self.world.clone(), self.changed.clone());
        self.tasks.spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                let mut world = lock(&world);
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => {
                        let name = object.name_any();
                        map(&mut world).insert(name.clone(), object.clone());
                        tell(&mut world, &name, Some(&object));
                    }
                    Ok(Event::Delete(object)) => {
                        map(&mut world).remove(&object.name_any());
                        tell(&mut world, &object.name_any(), None);
                    }
                    Ok(Event::Init) => map(&mut world).clear(),
                    Ok(Event::InitDone) => {}
                    // The watcher starts again by itself.
                    Err(error) => tracing::debug!(%error, "watch interrupted"),
                }
                drop(world);
                changed.notify_waiters();
            }
        });
    }

    /// Tells which of the demo's machines has a MAC.
    pub fn name_machine(&self, mac: MacAddress, name: &str) {
        lock(&self.world).names.insert(mac, name.to_owned());
    }

    /// Which of the demo's machines a hardware object is.
    pub fn machine_of(&self, hardware: &str) -> Option<String> {
        lock(&self.world).machine_of(hardware)
    }

    /// UIDs of the present claims.
    pub fn claims(&self) -> Vec<String> {
        lock(&self.world)
            .hardware
            .values()
            .filter_map(|h| Some(h.spec.claim_ref.as_ref()?.uid.clone()))
            .collect()
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, seconds: u64, is_so: impl Fn(&World) -> bool) -> Result<()> {
        let waiting = async {
            loop {
                // Registered before looking, so that no change falls in between.
                let change = self.changed.notified();
                if is_so(&lock(&self.world)) {
                    return;
                }
                change.await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(seconds), waiting).await;
        if done.is_err() {
            bail!("not within {seconds} s: {what}. Last seen:\n{}", lock(&self.world).waiting());
        }
        done.context("waiting")
    }

    /// Ends the watches: what comes now is the end of the server.
    pub fn stop(&mut self) {
        self.tasks.abort_all();
    }

    /// For each machine, how long each phase lasted.
    pub fn times(&self) -> Vec<(String, Vec<(String, Duration)>)> {
        let world = lock(&self.world);
        let table = |phases: &[(String, Instant)]| {
            phases
                .windows(2)
                .map(|pair| (pair[0].0.clone(), pair[1].1.duration_since(pair[0].1)))
                .collect::<Vec<_>>()
        };
        world
            .phases
            .iter()
            .map(|(machine, phases)| (machine.clone(), table(phases)))
            .collect()
    }
}
