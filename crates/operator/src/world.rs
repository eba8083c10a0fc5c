//! What every controller shares: the caches, the queues, and the few verbs with which anything is written.
//!
//! Invariants:
//! * Every write that decides something carries the resourceVersion it was decided on ([`World::replace_status`], [`World::patch`]); a create needs none, its name is the lock.
//! * What a write returns is in the cache before the verb returns.
//! * An object that the API server says is gone is forgotten here, so that a missed deletion cannot keep a ghost alive.

use std::{fmt::Debug, sync::Arc, time::Duration};

use api::{
    BareMetalAddress, BareMetalDiscovery, BareMetalDiscoveryPolicy, BareMetalEndpoint, BareMetalHardware, BareMetalHardwareClass,
    BareMetalImage, BareMetalInstance, BareMetalNetwork,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Config,
    cache::{Cache, Key},
    endpoint::Book,
    error::{Error, Result},
    events::{Notice, Recorder},
    hardware::{render::Inputs, seed::Seeds},
    idle::Idle,
    instance::scheduler::Scheduler,
    keys::KeySource,
    metrics::Metrics,
    pacer::Pacer,
    power::Switches,
    queue::Queue,
    wiring,
};

/// Names of indexes.
pub(crate) mod index {
    /// Hardware by `spec.discoveryName`.
    pub(crate) const DISCOVERY: &str = "discovery";
    /// Hardware by the uid in `spec.claimRef`.
    pub(crate) const CLAIM_UID: &str = "claimUid";
    /// Hardware by `namespace/name` in `spec.claimRef`.
    pub(crate) const CLAIM: &str = "claim";
    /// Hardware that the scheduler may give away, under the empty value.
    pub(crate) const FREE: &str = "free";
    /// Hardware that is off, or is to be, while nobody needs it, by its own word, under the empty value.
    pub(crate) const IDLE: &str = "idle";
    /// Hardware by `spec.class`.
    pub(crate) const CLASS: &str = "class";
    /// Machines by what names them: those that were seen, and those that their BMCs told of (`lifecycle::identity`).
    pub(crate) const MARK: &str = "mark";
    /// By phase.
    pub(crate) const PHASE: &str = "phase";
    /// Instances by `spec.hardwareName`; endpoints and addresses by the machine they belong to.
    pub(crate) const HARDWARE: &str = "hardware";
    /// Instances by `spec.image`.
    pub(crate) const IMAGE: &str = "image";
    /// Instances without a machine, under the empty value.
    pub(crate) const WAITING: &str = "waiting";
    /// Endpoints by `namespace/name` of their instance.
    pub(crate) const INSTANCE: &str = "instance";
    /// Addresses by the uid of their instance.
    pub(crate) const INSTANCE_UID: &str = "instanceUid";
    /// Addresses by `namespace/name` of their endpoint.
    pub(crate) const ENDPOINT: &str = "endpoint";
    /// Addresses and our own endpoints by the network's name.
    pub(crate) const NETWORK: &str = "network";
}

/// A kind that is written here.
pub trait Kept: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The API of this kind in one namespace (ignored for cluster-scoped kinds).
    fn api(client: &Client, namespace: &str) -> Api<Self>;
    /// The API for lists and watches over all namespaces.
    fn everywhere(client: &Client) -> Api<Self> {
        Api::all(client.clone())
    }
    /// The cache of this kind.
    fn cache(world: &World) -> &Cache<Self>;
}

macro_rules! kept {
    (cluster $kind:ty, $field:ident) => {
        impl Kept for $kind {
            fn api(client: &Client, _: &str) -> Api<Self> {
                Api::all(client.clone())
            }
            fn cache(world: &World) -> &Cache<Self> {
                &world.$field
            }
        }
    };
    (namespaced $kind:ty, $field:ident) => {
        impl Kept for $kind {
            fn api(client: &Client, namespace: &str) -> Api<Self> {
                Api::namespaced(client.clone(), namespace)
            }
            fn cache(world: &World) -> &Cache<Self> {
                &world.$field
            }
        }
    };
}

kept!(cluster BareMetalDiscovery, discoveries);
kept!(cluster BareMetalDiscoveryPolicy, policies);
kept!(cluster BareMetalHardware, hardware);
kept!(cluster BareMetalHardwareClass, classes);
kept!(cluster BareMetalImage, images);
kept!(cluster BareMetalNetwork, networks);
kept!(namespaced BareMetalInstance, instances);
kept!(namespaced BareMetalEndpoint, endpoints);
kept!(cluster BareMetalAddress, addresses);

/// One queue per kind that is reconciled.
#[derive(Debug, Default)]
pub struct Queues {
    /// Machines that are not accepted yet.
    pub discovery: Arc<Queue<Key>>,
    /// Accepted machines.
    pub hardware: Arc<Queue<Key>>,
    /// Instances.
    pub instance: Arc<Queue<Key>>,
    /// Images.
    pub image: Arc<Queue<Key>>,
    /// Endpoints that we answer.
    pub endpoint: Arc<Queue<Key>>,
    /// Addresses whose owner may be gone.
    pub address: Arc<Queue<Key>>,
    /// Accepted machines whose driver may have something to do.
    pub power: Arc<Queue<Key>>,
    /// Accepted machines whose BMC is to say what they are.
    pub inventory: Arc<Queue<Key>>,
}

/// Everything controllers share.
pub struct World {
    /// How the operator was started.
    pub config: Config,
    /// Machines as seen.
    pub discoveries: Cache<BareMetalDiscovery>,
    /// Rules of acceptance.
    pub policies: Cache<BareMetalDiscoveryPolicy>,
    /// Accepted machines.
    pub hardware: Cache<BareMetalHardware>,
    /// What holds for machines of a class.
    pub classes: Cache<BareMetalHardwareClass>,
    /// Instances.
    pub instances: Cache<BareMetalInstance>,
    /// Images.
    pub images: Cache<BareMetalImage>,
    /// Networks.
    pub networks: Cache<BareMetalNetwork>,
    /// Endpoints.
    pub endpoints: Cache<BareMetalEndpoint>,
    /// Addresses.
    pub addresses: Cache<BareMetalAddress>,
    /// What is to be looked at.
    pub queues: Queues,
    /// Gives machines to instances.
    pub scheduler: Scheduler,
    /// Which machines that nobody needs are on.
    pub idle: Idle,
    /// Sealed seeds as far as they are known.
    pub seeds: Seeds,
    /// What seeds are rendered from, as far as it was looked at.
    pub inputs: Inputs,
    /// Holds back what can wait.
    pub pacer: Pacer,
    /// Addresses that are taken or being taken.
    pub book: Book,
    /// Machines' drivers.
    pub power: Switches,
    /// Netboot's keys.
    pub keys: KeySource,
    /// Takes events.
    pub events: Recorder,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

impl Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    /// Empty caches and queues, and the notices that its recorder takes.
    pub(crate) fn new(config: Config) -> (Arc<Self>, mpsc::Receiver<Notice>) {
        let metrics = Arc::clone(&config.metrics);
        let (events, notices) = Recorder::new(Arc::clone(&metrics));
        let world = Self {
            discoveries: wiring::discoveries(),
            policies: wiring::policies(),
            hardware: wiring::hardware(),
            classes: wiring::classes(),
            instances: wiring::instances(),
            images: wiring::images(),
            networks: wiring::networks(),
            endpoints: wiring::endpoints(),
            addresses: wiring::addresses(),
            queues: Queues::default(),
            scheduler: Scheduler::default(),
            idle: Idle::default(),
            seeds: Seeds::default(),
            inputs: Inputs::default(),
            pacer: Pacer::new(&config),
            book: Book::default(),
            power: Switches::default(),
            keys: KeySource::new(config.client.clone(), config.netboot_namespace.clone()),
            events,
            metrics,
            config,
        };
        (Arc::new(world), notices)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.config.client
    }

    /// Whether nothing is to be decided about this machine and what belongs to it.
    pub(crate) fn is_paused(&self, hardware: &str) -> bool {
        self.hardware.by_name(hardware).is_some_and(|h| h.spec.paused)
    }

    /// Counts a request and names what failed.
    fn outcome<K: Kept, T>(&self, verb: &'static str, key: &Key, result: kube::Result<T>) -> Result<T> {
        let kind = K::kind(&());
        match result {
            Ok(value) => {
                self.metrics.requested(&kind, verb, "ok");
                Ok(value)
            }
            Err(source) => {
                let error = Error::Api {
                    verb,
                    kind: kind.into_owned(),
                    name: key.to_string(),
                    source: Box::new(source),
                };
                let result = match error.status_code() {
                    Some(409) => "conflict",
                    Some(404) => "notFound",
                    Some(422 | 400) => "invalid",
                    Some(_) => "refused",
                    None => "unreachable",
                };
                self.metrics.requested(&K::kind(&()), verb, result);
                if error.is_not_found() {
                    K::cache(self).forget(key);
                }
                Err(error)
            }
        }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// [`Error::Api`]; a name that is taken can be told by [`Error::is_already_exists`].
    pub async fn create<K: Kept>(&self, object: &K) -> Result<Arc<K>> {
        let key = Key::of(object);
        let api = K::api(self.client(), &key.namespace);
        let result = api.create(&PostParams::default(), object).await;
        // A namespace that is gone answers 404 to a create; nothing is to be forgotten then, and nothing is there to forget.
        Ok(K::cache(self).absorb(self.outcome::<K, _>("create", &key, result)?))
    }

    /// Replaces an object's status by compare and swap: `object` carries the resourceVersion it was decided on.
    ///
    /// # Errors
    /// [`Error::Api`]; a conflict means that a newer object must be looked at.
    pub async fn replace_status<K: Kept>(&self, object: &K) -> Result<Arc<K>> {
        let key = Key::of(object);
        if object.meta().resource_version.is_none() {
            return Err(self.incomplete::<K>(&key, "resourceVersion"));
        }
        let api = K::api(self.client(), &key.namespace);
        let result = api.replace_status(&key.name, &PostParams::default(), object).await;
        Ok(K::cache(self).absorb(self.outcome::<K, _>("replaceStatus", &key, result)?))
    }

    /// Merges `change` into an object by compare and swap on the resourceVersion of `seen`. Only what `change` names is touched, so that an older
    /// operator does not drop a newer one's fields.
    ///
    /// # Errors
    /// [`Error::Api`]; a conflict means that a newer object must be looked at.
    pub async fn patch<K: Kept>(&self, seen: &K, mut change: serde_json::Value) -> Result<Arc<K>> {
        let key = Key::of(seen);
        let Some(version) = seen.meta().resource_version.as_deref() else {
            return Err(self.incomplete::<K>(&key, "resourceVersion"));
        };
        change["metadata"]["resourceVersion"] = version.into();
        let api = K::api(self.client(), &key.namespace);
        let result = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(change)).await;
        Ok(K::cache(self).absorb(self.outcome::<K, _>("patch", &key, result)?))
    }

    /// Deletes exactly this object, not a successor of the same name. One that is gone already is fine.
    ///
    /// # Errors
    /// [`Error::Api`].
    pub async fn delete<K: Kept>(&self, object: &K) -> Result<()> {
        let key = Key::of(object);
        let api = K::api(self.client(), &key.namespace);
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: object.uid(),
            resource_version: None,
        });
        let result = api.delete(&key.name, &params).await;
        match self.outcome::<K, _>("delete", &key, result) {
            Ok(_) => Ok(()),
            // 404: gone. 409: the uid is another's, so ours is gone.
            Err(error) if error.is_not_found() || error.is_conflict() => {
                K::cache(self).forget(&key);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn incomplete<K: Kept>(&self, key: &Key, field: &'static str) -> Error {
        Error::Incomplete {
            kind: K::kind(&()).into_owned(),
            name: key.to_string(),
            field,
        }
    }

    /// Runs a decision and notes how long it took.
    pub(crate) fn timed<T>(&self, kind: &'static str, decide: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let decision = decide();
        self.metrics.decided(kind, started.elapsed());
        decision
    }
}

/// An object as events name it.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        resource_version: None,
        ..object.object_ref(&())
    }
}

/// Now, as objects write it.
pub(crate) fn now() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now())
}

/// A pause with a tenth of jitter, so that a thousand objects that wait for the same time do not come at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause + pause.mul_f64(rand::random::<f64>() * 0.1)
}
