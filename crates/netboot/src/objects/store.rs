//! Reads past the cache, and writes by compare and swap. Every call has a time limit, is counted, and says whether the API is there.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{BareMetalAddress, BareMetalDiscovery, BareMetalHardware, BareMetalImage, BareMetalNetwork, BareMetalNetworkStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use tokio::sync::Semaphore;

use crate::{
    error::Error,
    metrics::Metrics,
    objects::{cache::Cache, watch::slim},
    reply::{Refusal, Reply},
};

/// How often a write that lost against another one is decided anew.
const ATTEMPTS: u32 = 8;

/// What a decision about an object wants done.
pub(crate) enum Change<T> {
    /// Nothing to write.
    Keep(T),
    /// Write this.
    Write(Box<BareMetalDiscovery>, T),
}

/// See the module.
pub(crate) struct Store {
    pub(crate) discoveries: Api<BareMetalDiscovery>,
    pub(crate) hardware: Api<BareMetalHardware>,
    pub(crate) images: Api<BareMetalImage>,
    pub(crate) networks: Api<BareMetalNetwork>,
    pub(crate) addresses: Api<BareMetalAddress>,
    pub(crate) config_maps: Api<ConfigMap>,
    pub(crate) secrets: Api<Secret>,
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    reachable: AtomicBool,
    timeout: Duration,
    creates: Semaphore,
}

/// So many creations are open at a time: when a whole rack is switched on, the API server's own limits are not the first ones met.
const CREATES_AT_ONCE: usize = 32;

impl Store {
    pub(crate) fn new(client: kube::Client, namespace: &str, timeout: Duration, cache: Arc<Cache>, metrics: Arc<Metrics>) -> Self {
        Self {
            discoveries: Api::all(client.clone()),
            hardware: Api::all(client.clone()),
            images: Api::all(client.clone()),
            networks: Api::all(client.clone()),
            addresses: Api::all(client.clone()),
            config_maps: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client, namespace),
            cache,
            metrics,
            reachable: AtomicBool::new(false),
            timeout,
            creates: Semaphore::new(CREATES_AT_ONCE),
        }
    }

    /// Whether the latest call was answered. False means: hand out nothing but "boot your own disk".
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Acquire)
    }

    async fn call<T>(&self, action: &'static str, object: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        let result = match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(Error::Api {
                action,
                object: object.to_owned(),
                source: Box::new(source),
            }),
            Err(_) => Err(Error::ApiTimeout {
                action,
                object: object.to_owned(),
                seconds: self.timeout.as_secs(),
            }),
        };
        let there = result.as_ref().err().is_none_or(Error::is_answer);
        if self.reachable.swap(there, Ordering::AcqRel) != there {
            self.metrics.api_reachable.set(i64::from(there));
            if there {
                tracing::info!("the Kubernetes API answers again");
            } else {
                tracing::warn!("the Kubernetes API does not answer; machines are told to boot their own disk until it does");
            }
        }
        result
    }

    pub(crate) async fn secret(&self, name: &str) -> Result<Secret, Error> {
        self.metrics.reads.inc();
        self.call("get Secret", name, self.secrets.get(name)).await
    }

    pub(crate) async fn create_secret(&self, secret: &Secret) -> Result<Secret, Error> {
        self.metrics.writes.inc();
        self.call(
            "create Secret",
            &secret.name_any(),
            self.secrets.create(&PostParams::default(), secret),
        )
        .await
    }

    /// A fresh read.
    pub(crate) async fn discovery(&self, name: &str) -> Result<BareMetalDiscovery, Error> {
        self.metrics.reads.inc();
        let fresh = self
            .call("get BareMetalDiscovery", name, self.discoveries.get(name))
            .await
            .map(slim);
        match &fresh {
            Ok(found) => self.cache.apply_discovery(found.clone()),
            Err(error) if error.is_not_found() => self.cache.remove_discovery(name),
            Err(_) => {}
        }
        fresh
    }

    /// A fresh read; nothing where it is gone.
    pub(crate) async fn hardware(&self, name: &str) -> Result<Option<BareMetalHardware>, Error> {
        self.metrics.reads.inc();
        match self.call("get BareMetalHardware", name, self.hardware.get(name)).await {
            Ok(found) => Ok(Some(slim(found))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn create_discovery(&self, discovery: &BareMetalDiscovery) -> Result<BareMetalDiscovery, Error> {
        let name = discovery.name_any();
        // Never closed.
        let _place = self.creates.acquire().await.ok();
        self.metrics.writes.inc();
        let made = self
            .call(
                "create BareMetalDiscovery",
                &name,
                self.discoveries.create(&PostParams::default(), discovery),
            )
            .await?;
        let made = slim(made);
        self.cache.apply_discovery(made.clone());
        Ok(made)
    }

    /// Compare and swap.
    pub(crate) async fn replace_discovery(&self, discovery: &BareMetalDiscovery) -> Result<BareMetalDiscovery, Error> {
        let name = discovery.name_any();
        self.metrics.writes.inc();
        let written = self
            .call(
                "replace BareMetalDiscovery",
                &name,
                self.discoveries.replace(&name, &PostParams::default(), discovery),
            )
            .await?;
        let written = slim(written);
        self.cache.apply_discovery(written.clone());
        Ok(written)
    }

    /// Compare and swap of an image's status.
    pub(crate) async fn replace_image_status(&self, image: &BareMetalImage) -> Result<BareMetalImage, Error> {
        let name = image.name_any();
        self.metrics.writes.inc();
        let how = PostParams::default();
        let replaced = self.images.replace_status(&name, &how, image);
        self.call("replace status of BareMetalImage", &name, replaced).await.map(slim)
    }

    /// Compare and swap of a network's status.
    pub(crate) async fn replace_network_status(&self, network: &BareMetalNetwork) -> Result<BareMetalNetwork, Error> {
        let name = network.name_any();
        self.metrics.writes.inc();
        let how = PostParams::default();
        let replaced = self.networks.replace_status(&name, &how, network);
        self.call("replace status of BareMetalNetwork", &name, replaced).await.map(slim)
    }

    /// Decides on `start` and writes a network's status by compare and swap. When the write comes too late, it is decided anew on a fresh one. `None`: `decide` wants nothing written, or the
    /// network is gone.
    pub(crate) async fn update_network_status(
        &self,
        start: Arc<BareMetalNetwork>,
        decide: impl Fn(&BareMetalNetwork) -> Option<BareMetalNetworkStatus>,
    ) -> Result<Option<BareMetalNetwork>, Error> {
        let name = start.name_any();
        let mut current = start;
        for attempt in 0..ATTEMPTS {
            let Some(status) = decide(&current) else { return Ok(None) };
            let wanted = BareMetalNetwork {
                status: Some(status),
                ..(*current).clone()
            };
            match self.replace_network_status(&wanted).await {
                Ok(written) => return Ok(Some(written)),
                Err(error) if error.is_conflict() => {
                    self.metrics.conflicts.inc();
                    tokio::time::sleep(jitter(attempt)).await;
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            }
            current = match self.network(&name).await? {
                Some(fresh) => Arc::new(fresh),
                None => return Ok(None),
            };
        }
        Err(Error::Conflict {
            object: format!("BareMetalNetwork {name}"),
            attempts: ATTEMPTS,
        })
    }

    /// A fresh read; nothing where it is gone. It is a list of one, which is what netboot may do.
    async fn network(&self, name: &str) -> Result<Option<BareMetalNetwork>, Error> {
        self.metrics.reads.inc();
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.call("list BareMetalNetwork", name, self.networks.list(&one)).await?;
        Ok(found.items.into_iter().next().map(slim))
    }

    /// Creates a ConfigMap, or replaces the version that it names.
    pub(crate) async fn put_config_map(&self, map: &ConfigMap) -> Result<ConfigMap, Error> {
        let (name, how) = (map.name_any(), PostParams::default());
        self.metrics.writes.inc();
        if map.metadata.resource_version.is_some() {
            let replaced = self.config_maps.replace(&name, &how, map);
            self.call("replace ConfigMap", &name, replaced).await
        } else {
            self.call("create ConfigMap", &name, self.config_maps.create(&how, map)).await
        }
    }

    /// A fresh read.
    pub(crate) async fn config_map(&self, name: &str) -> Result<ConfigMap, Error> {
        self.metrics.reads.inc();
        self.call("get ConfigMap", name, self.config_maps.get(name)).await
    }

    /// Decides on `start` and writes by compare and swap. When the write comes too late, or the decision on a cached object is a refusal, it is decided anew
    /// on a fresh one: a refusal is never based on the cache alone.
    pub(crate) async fn update<T>(
        &self,
        start: Arc<BareMetalDiscovery>,
        decide: impl Fn(&BareMetalDiscovery) -> Reply<Change<T>>,
    ) -> Reply<T> {
        let name = start.name_any();
        let mut current = start;
        for attempt in 0..ATTEMPTS {
            let fresh = attempt > 0;
            match decide(&current) {
                Ok(Change::Keep(value)) => return Ok(value),
                Ok(Change::Write(new, value)) => match self.replace_discovery(&new).await {
                    Ok(_) => return Ok(value),
                    Err(error) if error.is_conflict() => {
                        self.metrics.conflicts.inc();
                        if attempt > 0 {
                            tokio::time::sleep(jitter(attempt)).await;
                        }
                    }
                    Err(error) if error.is_not_found() => return Err(Refusal::gone()),
                    Err(error) => return Err(error.into()),
                },
                Err(refusal) if fresh => return Err(refusal),
                Err(_) => {}
            }
            current = match self.discovery(&name).await {
                Ok(found) => Arc::new(found),
                Err(error) if error.is_not_found() => return Err(Refusal::gone()),
                Err(error) => return Err(error.into()),
            };
        }
        Err(Error::Conflict {
            object: format!("BareMetalDiscovery {name}"),
            attempts: ATTEMPTS,
        }
        .into())
    }
}

/// A short wait that grows, and differs between those who wait.
fn jitter(attempt: u32) -> Duration {
    let mut byte = [0u8; 1];
    let spread = getrandom::fill(&mut byte).map_or(7, |()| u64::from(byte[0]));
    Duration::from_millis((u64::from(attempt) * 5 + spread * u64::from(attempt) / 16).min(250))
}
