//! Keeps the cache: one watch per kind, restarted with back-off for as long as the process lives.

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use api::{BareMetalAddress, BareMetalDiscovery, BareMetalHardware, BareMetalImage, BareMetalNetwork};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::{
    objects::{addresses::TakenAddresses, cache::Cache, images::Images, networks::Networks, seeds::Seeds},
    wake::Wakes,
    wake_on_lan::WakeOnLan,
};

/// What to do with the objects of one kind.
trait Sink<K>: Send + Sync + 'static {
    fn apply(&self, object: K);
    fn delete(&self, object: K);
    /// After a whole list: `keys` are those it named.
    fn retain(&self, keys: &HashSet<String>);
    fn key(&self, object: &K) -> String;
}

struct Discoveries(Arc<Cache>, Arc<Wakes>);
struct Hardware(Arc<Cache>, Arc<Wakes>, Option<Arc<WakeOnLan>>);

impl Sink<BareMetalDiscovery> for Discoveries {
    fn apply(&self, object: BareMetalDiscovery) {
        let name = object.name_any();
        self.0.apply_discovery(object);
        self.1.wake(&name);
    }
    fn delete(&self, object: BareMetalDiscovery) {
        let name = object.name_any();
        self.0.remove_discovery(&name);
        self.1.wake(&name);
    }
    fn retain(&self, keys: &HashSet<String>) {
        self.0.retain_discoveries(keys).iter().for_each(|n| self.1.wake(n));
    }
    fn key(&self, object: &BareMetalDiscovery) -> String {
        object.name_any()
    }
}

impl Sink<BareMetalHardware> for Hardware {
    fn apply(&self, object: BareMetalHardware) {
        if let Some(wake) = &self.2 {
            wake.look(&object, jiff::Timestamp::now());
        }
        let discovery = self.0.apply_hardware(object);
        self.1.wake(&discovery);
    }
    fn delete(&self, object: BareMetalHardware) {
        if let Some(wake) = &self.2 {
            wake.forget(&object.name_any());
        }
        self.0.remove_hardware(&object.name_any());
        self.1.wake(&object.spec.discovery_name);
    }
    fn retain(&self, keys: &HashSet<String>) {
        // The discovery of hardware that went has the same name by convention; a wake-up too few costs one poll interval.
        for name in self.0.retain_hardware(keys) {
            self.1.wake(&name);
            if let Some(wake) = &self.2 {
                wake.forget(&name);
            }
        }
    }
    fn key(&self, object: &BareMetalHardware) -> String {
        object.name_any()
    }
}

struct SealedSeeds(Arc<Seeds>, Arc<Cache>, Arc<Wakes>);

impl Sink<Secret> for SealedSeeds {
    fn apply(&self, object: Secret) {
        let hardware = self.0.apply(&object).and_then(|name| self.1.hardware(&name));
        if let Some(hardware) = hardware {
            self.2.wake(&hardware.spec.discovery_name);
        }
    }
    fn delete(&self, object: Secret) {
        self.0.remove(&object.name_any());
    }
    fn retain(&self, keys: &HashSet<String>) {
        self.0.retain(keys);
    }
    fn key(&self, object: &Secret) -> String {
        object.name_any()
    }
}

struct AllNetworks(Arc<Networks>);

impl Sink<BareMetalNetwork> for AllNetworks {
    fn apply(&self, object: BareMetalNetwork) {
        self.0.apply(object);
    }
    fn delete(&self, object: BareMetalNetwork) {
        self.0.remove(&object.name_any());
    }
    fn retain(&self, keys: &HashSet<String>) {
        self.0.retain(keys);
    }
    fn key(&self, object: &BareMetalNetwork) -> String {
        object.name_any()
    }
}

struct AllImages(Arc<Images>);

impl Sink<BareMetalImage> for AllImages {
    fn apply(&self, object: BareMetalImage) {
        self.0.apply(object);
    }
    fn delete(&self, object: BareMetalImage) {
        self.0.remove(&object.name_any());
    }
    fn retain(&self, keys: &HashSet<String>) {
        self.0.retain(keys);
    }
    fn key(&self, object: &BareMetalImage) -> String {
        object.name_any()
    }
}

/// Keeps the images; only a replica with an image store asks for them.
pub(crate) fn follow_images(store: &crate::objects::store::Store, images: &Arc<Images>) -> impl Future<Output = ()> + Send + use<> {
    let listed = images.clone();
    follow(
        store.images.clone(),
        watcher::Config::default(),
        AllImages(images.clone()),
        move || {
            listed.listed();
        },
    )
}

struct AllAddresses(Arc<TakenAddresses>);

impl Sink<BareMetalAddress> for AllAddresses {
    fn apply(&self, object: BareMetalAddress) {
        self.0.apply(&object);
    }
    fn delete(&self, object: BareMetalAddress) {
        self.0.remove(&object.name_any());
    }
    fn retain(&self, keys: &HashSet<String>) {
        self.0.retain(keys);
    }
    fn key(&self, object: &BareMetalAddress) -> String {
        object.name_any()
    }
}

/// Takes what stands in the ConfigMaps about DHCP.
pub(crate) trait DhcpMaps: Send + Sync + 'static {
    fn apply(&self, map: ConfigMap);
    fn delete(&self, name: &str);
    /// After a whole list, which named these.
    fn retain(&self, names: &HashSet<String>);
}

impl<M: DhcpMaps> Sink<ConfigMap> for Arc<M> {
    fn apply(&self, object: ConfigMap) {
        M::apply(self, object);
    }
    fn delete(&self, object: ConfigMap) {
        M::delete(self, &object.name_any());
    }
    fn retain(&self, keys: &HashSet<String>) {
        M::retain(self, keys);
    }
    fn key(&self, object: &ConfigMap) -> String {
        object.name_any()
    }
}

/// Keeps the addresses that are taken; only a replica that may give out others asks for them. `listed` is called after every complete list.
pub(crate) fn follow_addresses(
    store: &crate::objects::store::Store,
    addresses: &Arc<TakenAddresses>,
    listed: impl Fn() + Send,
) -> impl Future<Output = ()> + Send {
    follow(
        store.addresses.clone(),
        watcher::Config::default(),
        AllAddresses(addresses.clone()),
        listed,
    )
}

/// Hands the ConfigMaps about DHCP on, ours and those of other replicas.
pub(crate) fn follow_dhcp<M: DhcpMaps>(
    store: &crate::objects::store::Store,
    maps: &Arc<M>,
    listed: impl Fn() + Send,
) -> impl Future<Output = ()> + Send {
    let ours = watcher::Config::default().labels(api::LABEL_DHCP);
    follow(store.config_maps.clone(), ours, maps.clone(), listed)
}

/// Says when each kind was listed completely for the first time.
#[derive(Debug, Clone)]
pub(crate) struct Synced(watch::Receiver<[bool; 3]>);

impl Synced {
    pub(crate) fn is_synced(&self) -> bool {
        self.0.borrow().iter().all(|s| *s)
    }

    pub(crate) async fn wait(&mut self) {
        if self.0.wait_for(|s| s.iter().all(|s| *s)).await.is_err() {
            // The watches ended with the process.
            std::future::pending::<()>().await;
        }
    }
}

/// `listed_once` is called after every complete list.
async fn follow<K, S>(api: Api<K>, config: watcher::Config, sink: S, listed_once: impl Fn())
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    S: Sink<K>,
{
    let kind = K::kind(&()).into_owned();
    let mut listed = HashSet::new();
    let mut events = watcher(api, config).default_backoff().boxed();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => match event {
                watcher::Event::Init => listed.clear(),
                watcher::Event::InitApply(object) => {
                    listed.insert(sink.key(&object));
                    sink.apply(slim(object));
                }
                watcher::Event::InitDone => {
                    sink.retain(&listed);
                    listed = HashSet::new();
                    listed_once();
                }
                watcher::Event::Apply(object) => sink.apply(slim(object)),
                watcher::Event::Delete(object) => sink.delete(object),
            },
            Ok(None) => return,
            Err(error) => tracing::warn!(kind, error = %crate::error::chain(&error), "a watch was interrupted and is resumed"),
        }
    }
}

/// managedFields are most of an object's bytes and are never looked at here. A write of ours without them leaves them as they are on the server.
pub(crate) fn slim<K: Resource>(mut object: K) -> K {
    let meta: &mut ObjectMeta = object.meta_mut();
    meta.managed_fields = None;
    object
}

/// Starts the watches on `tasks`. `wake_on_lan` hears of acts of machines' power.
pub(crate) fn start(
    store: &crate::objects::store::Store,
    cache: &Arc<Cache>,
    (wakes, wake_on_lan): (&Arc<Wakes>, Option<Arc<WakeOnLan>>),
    seeds: &Arc<Seeds>,
    networks: &Arc<Networks>,
    stop: &tokio_util::sync::CancellationToken,
    tasks: &tokio_util::task::TaskTracker,
) -> Synced {
    let (sender, receiver) = watch::channel([false; 3]);
    let (c, w) = (cache, wakes);
    let all = watcher::Config::default;
    let listed = |place: usize| {
        let sender = sender.clone();
        move || sender.send_modify(|s| s[place] = true)
    };
    let discoveries = follow(store.discoveries.clone(), all(), Discoveries(c.clone(), w.clone()), listed(0));
    let hardware = follow(
        store.hardware.clone(),
        all(),
        Hardware(c.clone(), w.clone(), wake_on_lan),
        listed(1),
    );
    // Nobody waits for these: what is not here is read.
    let sealed = all().labels(api::LABEL_SEED);
    let seeds = follow(
        store.secrets.clone(),
        sealed,
        SealedSeeds(seeds.clone(), c.clone(), w.clone()),
        || (),
    );
    // Boot answers wait for these too: an agent that is not told its VLAN may reach nobody.
    let (known, listed) = (networks.clone(), listed(2));
    let networks = follow(store.networks.clone(), all(), AllNetworks(networks.clone()), move || {
        known.listed();
        listed();
    });
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = async { tokio::join!(discoveries, hardware, seeds, networks) } => {}
        }
    });
    Synced(receiver)
}
