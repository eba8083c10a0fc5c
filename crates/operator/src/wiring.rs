//! Which change wakes whom: indexes of the caches, the listeners on them, and the watches that feed them.
//!
//! Everything is level-triggered: a listener only says "look at this key again". Saying it too often costs a decision without I/O; forgetting it would leave an object stuck, so when in
//! doubt a key is woken.

use std::{sync::Arc, time::Duration};

use api::{
    BareMetalAddress, BareMetalDiscovery, BareMetalDiscoveryPolicy, BareMetalEndpoint, BareMetalHardware, BareMetalHardwareClass,
    BareMetalImage, BareMetalInstance, BareMetalNetwork, HardwarePhase,
};
use futures::future::BoxFuture;
use kube::{
    ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use lifecycle::{hardware::is_free, identity::Identity};

use crate::{
    cache::{Cache, Key},
    idle, power,
    world::{Kept, World, index},
};

fn qualified(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

/// Splits `namespace/name`.
fn split(qualified: &str) -> Option<Key> {
    let (namespace, name) = qualified.split_once('/')?;
    Some(Key::namespaced(namespace, name))
}

pub(crate) fn discoveries() -> Cache<BareMetalDiscovery> {
    Cache::new(|discovery: &BareMetalDiscovery| {
        let inventory = discovery.status.as_ref().and_then(|s| s.inventory.as_ref());
        let marks = inventory.map(|inventory| marks(&Identity::as_bmc_knows(inventory, None)));
        marks.unwrap_or_default()
    })
}

fn marks(identity: &Identity) -> Vec<(&'static str, String)> {
    identity.marks().map(|mark| (index::MARK, mark)).collect()
}

pub(crate) fn policies() -> Cache<BareMetalDiscoveryPolicy> {
    Cache::new(|_| Vec::new())
}

pub(crate) fn classes() -> Cache<BareMetalHardwareClass> {
    Cache::new(|_| Vec::new())
}

pub(crate) fn networks() -> Cache<BareMetalNetwork> {
    Cache::new(|_| Vec::new())
}

pub(crate) fn images() -> Cache<BareMetalImage> {
    Cache::new(|_| Vec::new())
}

pub(crate) fn hardware() -> Cache<BareMetalHardware> {
    Cache::new(|hardware| {
        let phase = hardware.status.as_ref().map(|s| s.phase).unwrap_or_default();
        let mut entries = vec![
            (index::DISCOVERY, hardware.spec.discovery_name.clone()),
            (index::PHASE, format!("{phase:?}")),
        ];
        if let Some(class) = &hardware.spec.class {
            entries.push((index::CLASS, class.clone()));
        }
        let told = hardware.status.as_ref().and_then(|s| s.bmc_inventory.as_ref());
        if let Some(told) = told.filter(|told| !told.identity_only) {
            entries.extend(marks(&Identity::of_bmc(told)));
        }
        if let Some(claim) = &hardware.spec.claim_ref {
            entries.push((index::CLAIM_UID, claim.uid.clone()));
            entries.push((index::CLAIM, qualified(Some(&claim.namespace), &claim.name)));
        }
        if is_free(hardware) {
            entries.push((index::FREE, String::new()));
        }
        if idle::concerns(hardware) {
            entries.push((index::IDLE, String::new()));
        }
        entries
    })
}

pub(crate) fn instances() -> Cache<BareMetalInstance> {
    Cache::new(|instance| {
        let phase = instance.status.as_ref().map(|s| s.phase).unwrap_or_default();
        let mut entries = vec![(index::IMAGE, instance.spec.image.clone()), (index::PHASE, format!("{phase:?}"))];
        match &instance.spec.hardware_name {
            Some(name) => entries.push((index::HARDWARE, name.clone())),
            None if instance.metadata.deletion_timestamp.is_none() => entries.push((index::WAITING, String::new())),
            None => {}
        }
        entries
    })
}

pub(crate) fn endpoints() -> Cache<BareMetalEndpoint> {
    Cache::new(|endpoint| {
        let mut entries = vec![
            (
                index::INSTANCE,
                qualified(endpoint.namespace().as_deref(), &endpoint.spec.instance_name),
            ),
            (index::HARDWARE, endpoint.spec.hardware_name.clone()),
        ];
        if endpoint.spec.network_ref.is_ours() {
            entries.push((index::NETWORK, endpoint.spec.network_ref.name.clone()));
        }
        entries
    })
}

pub(crate) fn addresses() -> Cache<BareMetalAddress> {
    Cache::new(|address| {
        let namespace = address.spec.instance.split_once('/').map(|(namespace, _)| namespace);
        vec![
            (index::NETWORK, address.spec.network_name.clone()),
            (index::INSTANCE_UID, address.spec.instance_uid.clone()),
            (index::HARDWARE, address.spec.hardware_name.clone()),
            (index::ENDPOINT, qualified(namespace, &address.spec.endpoint_name)),
        ]
    })
}

/// Whoever hears of a change wakes the keys that depend on it.
pub(crate) fn listen(world: &Arc<World>) {
    let weak = Arc::downgrade(world);
    world.discoveries.listen(Box::new(move |old, new| {
        let (Some(world), Some(discovery)) = (weak.upgrade(), new.or(old)) else {
            return;
        };
        let name = discovery.name_any();
        let machines = world.hardware.by(index::DISCOVERY, &name);
        // A machine that a BMC tells of may be this one, or is it no more.
        let inventory = |d: Option<&Arc<BareMetalDiscovery>>| {
            d.and_then(|d| d.status.as_ref()?.inventory.as_ref().map(|i| Identity::as_bmc_knows(i, None)))
        };
        let (before, now) = (inventory(old), inventory(new));
        if before != now {
            for mark in before.iter().chain(&now).flat_map(Identity::marks) {
                for machine in world.hardware.keys_by(index::MARK, &mark) {
                    world.queues.hardware.add(machine);
                }
            }
        }
        if machines.is_empty() {
            world.queues.discovery.add(Key::cluster(name));
        }
        let session = |d: Option<&Arc<BareMetalDiscovery>>| d.and_then(|d| Some(d.status.as_ref()?.session.as_ref()?.id.clone()));
        let booted = session(old) != session(new);
        for machine in machines {
            if booted {
                power::wake_for_medium(&world, &machine);
            }
            wake_machine_and_claimant(&world, &machine);
            if is_free(&machine) {
                // It came, or it fell silent.
                world.idle.wake();
            }
        }
    }));

    let weak = Arc::downgrade(world);
    world.classes.listen(Box::new(move |old, new| {
        let (Some(world), Some(class)) = (weak.upgrade(), new.or(old)) else {
            return;
        };
        world.idle.wake();
        for machine in world.hardware.keys_by(index::CLASS, &class.name_any()) {
            world.queues.hardware.add(machine);
        }
    }));

    let weak = Arc::downgrade(world);
    world.policies.listen(Box::new(move |_, _| {
        let Some(world) = weak.upgrade() else { return };
        for discovery in world.discoveries.all() {
            let name = discovery.name_any();
            if world.hardware.count_by(index::DISCOVERY, &name) == 0 {
                world.queues.discovery.add(Key::cluster(name));
            }
        }
    }));

    let weak = Arc::downgrade(world);
    world.hardware.listen(Box::new(move |old, new| {
        let Some(world) = weak.upgrade() else { return };
        for machine in old.into_iter().chain(new) {
            wake_machine_and_claimant(&world, machine);
        }
        power::wake(&world, old, new);
        let driver = |m: Option<&Arc<BareMetalHardware>>| m.and_then(|m| m.spec.power.clone());
        if driver(old) != driver(new) {
            world.power.events.changed();
        }
        if let (Some(machine), None) = (old, new) {
            // The machine is not accepted any more, or was deleted to be accepted anew.
            world.queues.discovery.add(Key::cluster(machine.spec.discovery_name.clone()));
            world.pacer.forget(&machine.uid().unwrap_or_default());
        }
        // Whoever was not accepted because it may be this machine, of which its BMC told, is judged anew when that is over.
        let told = |m: Option<&Arc<BareMetalHardware>>| {
            let told = m.and_then(|m| m.status.as_ref()?.bmc_inventory.as_ref().filter(|told| !told.identity_only));
            told.map(Identity::of_bmc)
        };
        if let (Some(before), now) = (told(old), told(new))
            && Some(&before) != now.as_ref()
        {
            for mark in before.marks() {
                world
                    .discoveries
                    .keys_by(index::MARK, &mark)
                    .into_iter()
                    .for_each(|key| world.queues.discovery.add(key));
            }
        }
        let claim = |m: Option<&Arc<BareMetalHardware>>| m.and_then(|m| m.spec.claim_ref.clone());
        let paused = |m: Option<&Arc<BareMetalHardware>>| m.is_some_and(|m| m.spec.paused);
        if (claim(old) != claim(new) || paused(old) != paused(new))
            && let Some(machine) = new.or(old)
        {
            for address in world.addresses.keys_by(index::HARDWARE, &machine.name_any()) {
                world.queues.address.add(address);
            }
            for endpoint in world.endpoints.keys_by(index::HARDWARE, &machine.name_any()) {
                world.queues.endpoint.add(endpoint);
            }
        }
        let free = |m: Option<&Arc<BareMetalHardware>>| m.is_some_and(|m| is_free(m));
        if free(old) || free(new) {
            world.scheduler.wake();
            world.idle.wake();
        }
    }));

    let weak = Arc::downgrade(world);
    world.instances.listen(Box::new(move |old, new| {
        let Some(world) = weak.upgrade() else { return };
        for instance in old.into_iter().chain(new) {
            if let Some(name) = &instance.spec.hardware_name {
                world.queues.hardware.add(Key::cluster(name.clone()));
            }
        }
        let named = |i: Option<&Arc<BareMetalInstance>>| i.and_then(|i| i.spec.hardware_name.clone());
        if named(old) != named(new) {
            world.idle.wake();
        }
        if let Some(instance) = new.or(old) {
            let key = Key::of(instance.as_ref());
            // Also machines that name it while it does not name them: a half that has to be restored.
            for machine in world.hardware.keys_by(index::CLAIM, &key.to_string()) {
                world.queues.hardware.add(machine);
            }
            if new.is_none() {
                for address in world.addresses.keys_by(index::INSTANCE_UID, &instance.uid().unwrap_or_default()) {
                    world.queues.address.add(address);
                }
                world.scheduler.forget(instance);
                let uid = instance.uid().unwrap_or_default();
                world.inputs.forget(&uid);
                world.pacer.forget(&uid);
            }
            // One that waits, or one whose end frees what it was promised.
            if new.is_none_or(|i| i.spec.hardware_name.is_none()) {
                world.scheduler.wake();
            }
            world.queues.instance.add(key);
        }
    }));

    let weak = Arc::downgrade(world);
    world.images.listen(Box::new(move |old, new| {
        let (Some(world), Some(image)) = (weak.upgrade(), new.or(old)) else {
            return;
        };
        let name = image.name_any();
        for instance in world.instances.by(index::IMAGE, &name) {
            if let Some(machine) = &instance.spec.hardware_name {
                world.queues.hardware.add(Key::cluster(machine.clone()));
            }
            world.queues.instance.add(Key::of(instance.as_ref()));
        }
        world.queues.image.add(Key::cluster(name));
    }));

    let weak = Arc::downgrade(world);
    world.networks.listen(Box::new(move |old, new| {
        let (Some(world), Some(network)) = (weak.upgrade(), new.or(old)) else {
            return;
        };
        for endpoint in world.endpoints.keys_by(index::NETWORK, &network.name_any()) {
            world.queues.endpoint.add(endpoint);
        }
    }));

    let weak = Arc::downgrade(world);
    world.endpoints.listen(Box::new(move |old, new| {
        let (Some(world), Some(endpoint)) = (weak.upgrade(), new.or(old)) else {
            return;
        };
        let key = Key::of(endpoint.as_ref());
        world
            .queues
            .instance
            .add(Key::namespaced(key.namespace.clone(), endpoint.spec.instance_name.clone()));
        world.queues.hardware.add(Key::cluster(endpoint.spec.hardware_name.clone()));
        world.queues.endpoint.add(key);
    }));

    let weak = Arc::downgrade(world);
    world.addresses.listen(Box::new(move |old, new| {
        let (Some(world), Some(address)) = (weak.upgrade(), new.or(old)) else {
            return;
        };
        match new {
            Some(address) => world.book.insert(address),
            None => world.book.remove(address),
        }
        if let Some(instance) = split(&address.spec.instance) {
            let endpoint = Key::namespaced(instance.namespace.clone(), address.spec.endpoint_name.clone());
            world.queues.endpoint.add(endpoint);
            world.queues.instance.add(instance);
        }
        match new {
            Some(address) => world.queues.address.add(Key::of(address.as_ref())),
            // One is free again: whoever waits for one on this network looks again.
            None => {
                for endpoint in world.endpoints.by(index::NETWORK, &address.spec.network_name) {
                    if !crate::endpoint::is_ready(&endpoint) {
                        world.queues.endpoint.add(Key::of(endpoint.as_ref()));
                    }
                }
            }
        }
    }));
}

fn wake_machine_and_claimant(world: &World, machine: &BareMetalHardware) {
    let name = machine.name_any();
    for instance in world.instances.keys_by(index::HARDWARE, &name) {
        world.queues.instance.add(instance);
    }
    if let Some(claim) = &machine.spec.claim_ref {
        world
            .queues
            .instance
            .add(Key::namespaced(claim.namespace.clone(), claim.name.clone()));
    }
    world.queues.hardware.add(Key::cluster(name));
}

fn watch_one<K: Kept>(world: &Arc<World>) -> BoxFuture<'static, ()> {
    let world = Arc::clone(world);
    Box::pin(async move {
        let kind = K::kind(&()).into_owned();
        let stream = watcher(K::everywhere(world.client()), watcher::Config::default().page_size(500))
            .default_backoff()
            .modify(|object| object.meta_mut().managed_fields = None);
        let metrics = Arc::clone(&world.metrics);
        K::cache(&world)
            .follow(stream, |error| {
                metrics.watch_failed(&kind);
                tracing::warn!(kind, error = %error, "a watch failed and is opened again");
            })
            .await;
    })
}

/// The watches, with the names of their kinds. None of them ends by itself.
pub(crate) fn watches(world: &Arc<World>) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    vec![
        ("watch of BareMetalDiscovery", watch_one::<BareMetalDiscovery>(world)),
        ("watch of BareMetalDiscoveryPolicy", watch_one::<BareMetalDiscoveryPolicy>(world)),
        ("watch of BareMetalHardware", watch_one::<BareMetalHardware>(world)),
        ("watch of BareMetalHardwareClass", watch_one::<BareMetalHardwareClass>(world)),
        ("watch of BareMetalInstance", watch_one::<BareMetalInstance>(world)),
        ("watch of BareMetalImage", watch_one::<BareMetalImage>(world)),
        ("watch of BareMetalNetwork", watch_one::<BareMetalNetwork>(world)),
        ("watch of BareMetalEndpoint", watch_one::<BareMetalEndpoint>(world)),
        ("watch of BareMetalAddress", watch_one::<BareMetalAddress>(world)),
    ]
}

/// Waits until every cache holds a complete list. Nothing is decided before: half a list of hardware would make used machines look unknown. Classes are not waited for: definitions of before do not have
/// them, and what needs them waits by itself.
pub(crate) async fn wait_ready(world: &World) {
    let started = tokio::time::Instant::now();
    let all = async {
        world.discoveries.wait_ready().await;
        world.policies.wait_ready().await;
        world.hardware.wait_ready().await;
        world.instances.wait_ready().await;
        world.images.wait_ready().await;
        world.networks.wait_ready().await;
        world.endpoints.wait_ready().await;
        world.addresses.wait_ready().await;
    };
    let mut all = std::pin::pin!(all);
    loop {
        match tokio::time::timeout(Duration::from_secs(15), &mut all).await {
            Ok(()) => return,
            Err(_) => tracing::warn!(
                seconds = started.elapsed().as_secs(),
                "still waiting for the first lists from the API server; are the CRDs installed and is the operator allowed to list them?"
            ),
        }
    }
}

/// Counts phases and queues for the metrics.
pub(crate) fn measure(world: &World) {
    use HardwarePhase::{Cleaning, Discovered, InUse, Inspecting, Maintenance, Provisioning, Quarantined, Ready, Releasing, Reserved};
    use api::InstancePhase;

    for phase in [
        Discovered,
        Inspecting,
        Cleaning,
        Ready,
        Reserved,
        Provisioning,
        InUse,
        Releasing,
        Quarantined,
        Maintenance,
    ] {
        let name = format!("{phase:?}");
        let count = world.hardware.count_by(index::PHASE, &name);
        world.metrics.set_phase("BareMetalHardware", &name, count);
    }
    for phase in [
        InstancePhase::Pending,
        InstancePhase::Provisioning,
        InstancePhase::Imaging,
        InstancePhase::Booting,
        InstancePhase::Running,
        InstancePhase::Stopped,
        InstancePhase::Terminating,
        InstancePhase::Cleaning,
    ] {
        let name = format!("{phase:?}");
        let count = world.instances.count_by(index::PHASE, &name);
        world.metrics.set_phase("BareMetalInstance", &name, count);
    }
    world.metrics.set_objects("BareMetalDiscovery", world.discoveries.len());
    world.metrics.set_objects("BareMetalImage", world.images.len());
    world.metrics.set_objects("BareMetalEndpoint", world.endpoints.len());
    world.metrics.set_objects("BareMetalAddress", world.addresses.len());
    for (kind, queue) in [
        ("BareMetalDiscovery", &world.queues.discovery),
        ("BareMetalHardware", &world.queues.hardware),
        ("BareMetalInstance", &world.queues.instance),
        ("BareMetalImage", &world.queues.image),
        ("BareMetalEndpoint", &world.queues.endpoint),
        ("BareMetalAddress", &world.queues.address),
        ("Power", &world.queues.power),
        ("Inventory", &world.queues.inventory),
    ] {
        world.metrics.set_queue_depth(kind, queue.depth());
    }
    world.metrics.set_queue_depth("PowerTurn", world.power.turns.waiting());
}
