//! Keeps this replica's shelf as the BareMetalImages want it, and their status as the shelf is.
//!
//! * Only one replica prepares an image: whoever writes itself into `status.preparation` first, by compare and swap. The claim is renewed every few seconds together with the progress; one
//!   whose heartbeat stands still for a while (by the watcher's own clock, so that clocks need not agree) is taken over.
//! * A failure is told in the condition `Prepared` and tried again after a pause, which is long where only a person can help.
//! * The other replicas copy what the first one has packed.
//!
//! What this costs the API: nothing for an image that is as it should be; one write per replica that gets it; one per [`StoreConfig::heartbeat`] while it is prepared.

use std::{
    collections::{HashMap, HashSet},
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use agent_protocol::order::ImageFormat;
use api::{
    BareMetalImage, BareMetalImageSpec, BareMetalImageStatus, conditions,
    image::{ImageStore, PackedImage, Preparation, PreparationPhase},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;
use lifecycle::{config::Config, disks::bytes_text, image::PREPARING};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    decide::{Facts, Step, UPLOAD, step},
    folder::Folder,
    oci::{Credentials, Reference, RegistryError, credentials},
    prepare::{PrepareError, Supply, Watch, prepare},
    shelf::Shelf,
};
use crate::{
    config::StoreConfig,
    error::{Error, chain},
    metrics::Metrics,
    objects::{images::Images, store::Store},
};

/// How often everything is looked at when nothing changes.
const LOOK: Duration = Duration::from_secs(5);
/// First pause after a failure that may pass by itself; doubled each time.
const RETRY: Duration = Duration::from_secs(5);
/// The longest pause, and the one after a failure that only a person can end.
const LONG_RETRY: Duration = Duration::from_secs(600);
/// How often a write that lost is tried anew.
const ATTEMPTS: u32 = 8;
/// After so many failures to copy, the replicas that are listed as holding the image are doubted.
const DOUBT_AFTER: u32 = 3;
/// The key of a Secret with credentials for registries.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// When an image is looked at again after a failure.
#[derive(Debug, Clone)]
struct Retry {
    digest: String,
    generation: Option<i64>,
    failures: u32,
    at: Instant,
}

#[derive(Debug, Default)]
struct Memory {
    /// Heartbeats of others' claims, and since when they stand still.
    heartbeats: HashMap<String, (String, u64, Instant)>,
    retries: HashMap<String, Retry>,
    /// Images that are worked on.
    working: HashSet<String>,
}

/// What a [`Keeper`] works with.
pub(crate) struct Parts {
    pub replica: String,
    pub decisions: Config,
    pub settings: StoreConfig,
    /// Where this replica's images are, for others.
    pub url: String,
    /// What URLs of files in this replica's own folder of images begin with.
    pub own_images: Vec<String>,
    pub folder: Arc<Folder>,
    pub store: Arc<Store>,
    pub images: Arc<Images>,
    pub shelf: Arc<Shelf>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// See the module.
pub(crate) struct Keeper {
    parts: Parts,
    memory: Mutex<Memory>,
    /// One image at a time: packing wants every core by itself.
    place: Arc<Semaphore>,
}

impl Deref for Keeper {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// Takes the image out of `working` however its work ends.
struct Working(Arc<Keeper>, String);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.memory().working.remove(&self.1);
        self.0.images.nudge();
    }
}

impl Keeper {
    pub(crate) fn new(mut parts: Parts) -> Arc<Self> {
        // Whoever has a shelf has a store.
        parts.decisions.image_store = true;
        Arc::new(Self {
            parts,
            memory: Mutex::default(),
            place: Arc::new(Semaphore::new(1)),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.images.subscribe();
        loop {
            self.metrics
                .image_store_bytes
                .set(i64::try_from(self.shelf.bytes()).unwrap_or(i64::MAX));
            self.metrics
                .image_store_packs
                .set(i64::try_from(self.shelf.len()).unwrap_or(i64::MAX));
            if self.images.is_listed() && self.store.is_reachable() {
                for image in self.images.all() {
                    self.look(&image).await;
                }
            }
            // A burst of changes is one look.
            tokio::select! {
                _ = changes.changed() => tokio::time::sleep(Duration::from_millis(20)).await,
                () = tokio::time::sleep(LOOK.min(self.settings.heartbeat)) => {}
            }
        }
    }

    async fn look(self: &Arc<Self>, image: &Arc<BareMetalImage>) {
        let name = image.name_any();
        if self.memory().working.contains(&name) {
            return;
        }
        let packed = image.status.as_ref().and_then(|s| s.packed.as_ref());
        let holds = packed.is_some_and(|p| self.shelf.facts(hex_of(p)).is_some());
        let facts = Facts {
            image,
            replica: &self.replica,
            config: &self.decisions,
            holds,
            claim_lost: self.is_claim_lost(image),
        };
        let me = |s: &ImageStore| s.replica == self.replica;
        match step(&facts) {
            Step::Rest => {}
            Step::Clear => {
                self.say(image, |status, _| {
                    *status = BareMetalImageStatus {
                        conditions: std::mem::take(&mut status.conditions),
                        ..BareMetalImageStatus::default()
                    };
                    conditions::clear(&mut status.conditions, conditions::PREPARED);
                    true
                })
                .await;
            }
            Step::Register => {
                self.say(image, |status, _| {
                    let mine = self.entry();
                    let fits = status.packed.as_ref().is_some_and(|p| self.shelf.facts(hex_of(p)).is_some());
                    if fits && !status.stores.iter().any(me) {
                        status.stores.push(mine);
                    }
                    fits
                })
                .await;
            }
            Step::Unregister => {
                self.say(image, |status, _| {
                    status.stores.retain(|s| !me(s));
                    true
                })
                .await;
            }
            Step::AwaitUpload => {
                let message = format!("nobody has uploaded it yet: kube-baremetal image upload FILE --name {name}");
                self.say(image, |status, image| {
                    status.preparation = None;
                    // What became of bytes that were uploaded stays to be read.
                    let told = status.conditions.iter().any(|c| {
                        c.type_ == conditions::PREPARED && c.observed_generation == image.metadata.generation && c.reason != PREPARING
                    });
                    if !told {
                        tell(status, image, false, "AwaitingUpload", &message);
                    }
                    true
                })
                .await;
            }
            Step::Copy { digest, urls } => self.begin(image, Some(Supply::Stores { digest, urls })),
            Step::Prepare => self.begin(image, None),
        }
    }

    /// Whether another replica's claim stands still.
    fn is_claim_lost(&self, image: &BareMetalImage) -> bool {
        let mut memory = self.memory();
        let claim = image.status.as_ref().and_then(|s| s.preparation.as_ref());
        let Some(claim) = claim.filter(|c| c.replica != self.replica) else {
            memory.heartbeats.remove(&image.name_any());
            return false;
        };
        let seen = (claim.replica.clone(), claim.heartbeat, Instant::now());
        let known = memory.heartbeats.entry(image.name_any()).or_insert_with(|| seen.clone());
        if (known.0.as_str(), known.1) != (claim.replica.as_str(), claim.heartbeat) {
            *known = seen;
        }
        known.2.elapsed() >= self.settings.claim_lost_after
    }

    fn entry(&self) -> ImageStore {
        ImageStore {
            replica: self.replica.clone(),
            url: self.url.clone(),
        }
    }

    /// Begins the work on an image, unless another one is worked on or it is not its time yet. `from`: a copy from other replicas; without it the image's own source.
    fn begin(self: &Arc<Self>, image: &Arc<BareMetalImage>, from: Option<Supply>) {
        let name = image.name_any();
        {
            let memory = self.memory();
            let same = |r: &&Retry| r.digest == image.spec.digest && r.generation == image.metadata.generation;
            if memory.retries.get(&name).filter(same).is_some_and(|r| Instant::now() < r.at) {
                return;
            }
        }
        // Whoever has it now has everything looked at again when it is free.
        let Ok(place) = self.place.clone().try_acquire_owned() else {
            return;
        };
        if !self.memory().working.insert(name.clone()) {
            return;
        }
        let working = Working(self.clone(), name);
        let (keeper, image) = (self.clone(), image.clone());
        tokio::spawn(async move {
            let stopped = keeper.stop.clone();
            let work = async {
                match from {
                    Some(from) => keeper.copy(&image, from).await,
                    None => keeper.prepare(&image, None).await,
                }
            };
            tokio::select! {
                () = stopped.cancelled() => {}
                () = work => {}
            }
            drop(place);
            drop(working);
        });
    }

    /// Says that the bytes of an image were uploaded: what became of earlier ones is over.
    pub(crate) async fn received(&self, image: &Arc<BareMetalImage>) {
        self.say(image, |status, fresh| {
            tell(
                status,
                fresh,
                false,
                PREPARING,
                "Its bytes were uploaded; they are checked and packed",
            );
            true
        })
        .await;
    }

    /// Prepares an image from a file or folder that was uploaded. Waits for its place.
    pub(crate) async fn prepare_uploaded(self: &Arc<Self>, image: &Arc<BareMetalImage>, from: Supply) {
        let name = image.name_any();
        let Ok(_place) = self.place.acquire().await else { return };
        if !self.memory().working.insert(name.clone()) {
            return;
        }
        let _working = Working(self.clone(), name);
        self.prepare(image, Some(from)).await;
    }

    async fn copy(&self, image: &Arc<BareMetalImage>, from: Supply) {
        let watch = Arc::new(Watch::default());
        match self.work(image, from, &watch, None).await {
            Ok(_) => {
                self.memory().retries.remove(&image.name_any());
                self.metrics.images_copied.inc();
            }
            Err(error) => {
                let failures = self.failed(image, &error);
                tracing::warn!(image = image.name_any(), error = %chain(&error), failures, "an image could not be copied from another replica");
                if failures == DOUBT_AFTER {
                    // Those that do hold it say so again at once.
                    self.say(image, |status, _| {
                        status.stores.clear();
                        true
                    })
                    .await;
                }
            }
        }
    }

    /// Notes a failure and when to try again; returns how many there were.
    fn failed(&self, image: &BareMetalImage, error: &PrepareError) -> u32 {
        let mut memory = self.memory();
        let before = memory.retries.get(&image.name_any()).filter(|r| r.digest == image.spec.digest);
        let failures = before.map_or(1, |r| r.failures + 1);
        let pause = if error.is_transient() {
            RETRY.saturating_mul(1 << (failures - 1).min(7)).min(LONG_RETRY)
        } else {
            LONG_RETRY
        };
        let retry = Retry {
            digest: image.spec.digest.clone(),
            generation: image.metadata.generation,
            failures,
            at: Instant::now() + pause,
        };
        memory.retries.insert(image.name_any(), retry);
        failures
    }

    async fn prepare(&self, image: &Arc<BareMetalImage>, from: Option<Supply>) {
        let uploaded = from.is_some();
        let claimed = self
            .say(image, |status, fresh| {
                let others = status
                    .preparation
                    .as_ref()
                    .is_some_and(|p| p.replica != self.replica && !self.is_claim_lost(fresh));
                if others || fresh.spec != image.spec {
                    return false;
                }
                if status.packed.as_ref().is_none_or(|p| p.source_digest != image.spec.digest) {
                    status.packed = None;
                    status.stores.clear();
                }
                let before = status.preparation.take().unwrap_or_default();
                status.preparation = Some(Preparation {
                    replica: self.replica.clone(),
                    heartbeat: before.heartbeat + 1,
                    phase: PreparationPhase::Packing,
                    failures: before.failures,
                    text: "Packing".to_owned(),
                    ..Preparation::default()
                });
                let failed = status
                    .conditions
                    .iter()
                    .any(|c| c.type_ == conditions::PREPARED && c.status == "False" && c.observed_generation == fresh.metadata.generation);
                // What failed is told until it succeeds; what somebody uploads is a new beginning.
                if uploaded || !failed {
                    tell(status, fresh, false, PREPARING, "It is being fetched, checked and packed");
                }
                true
            })
            .await;
        let Some(claimed) = claimed else { return };
        let watch = Arc::new(Watch::default());
        let from = match from {
            Some(from) => Ok(from),
            None => match self.own_file(&claimed.spec).await {
                Some(path) => Ok(Supply::File(path)),
                None => self.credentials(&claimed).await.map(Supply::Url),
            },
        };
        let outcome = match from {
            Ok(from) => self.work(&claimed, from, &watch, Some(&claimed)).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(packed) => {
                self.memory().retries.remove(&image.name_any());
                self.metrics.images_prepared.inc();
                self.succeeded(&claimed, packed).await;
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                self.metrics.images_failed.inc();
                let failures = self.failed(&claimed, &error);
                let message = chain(&error);
                tracing::warn!(
                    image = image.name_any(),
                    error = message,
                    failures,
                    "an image could not be prepared"
                );
                self.say(&claimed, |status, fresh| {
                    if !self.is_mine(status, fresh, &claimed) {
                        return false;
                    }
                    if uploaded {
                        status.preparation = None;
                    }
                    if let Some(claim) = &mut status.preparation {
                        claim.heartbeat += 1;
                        claim.phase = PreparationPhase::Retrying;
                        claim.failures = failures;
                        claim.text = format!("Failed: {}", error.reason());
                    }
                    tell(status, fresh, false, error.reason(), &message);
                    true
                })
                .await;
            }
        }
    }

    async fn succeeded(&self, image: &Arc<BareMetalImage>, packed: PackedImage) {
        let message = format!(
            "The store holds it as {}: {} for a disk of {}",
            packed.digest,
            bytes_text(packed.stored_bytes),
            bytes_text(packed.disk_bytes)
        );
        self.say(image, |status, fresh| {
            if fresh.spec.digest != image.spec.digest {
                return false;
            }
            status.packed = Some(packed.clone());
            status.stores = vec![self.entry()];
            status.preparation = None;
            tell(status, fresh, true, "Prepared", &message);
            true
        })
        .await;
    }

    fn is_mine(&self, status: &BareMetalImageStatus, fresh: &BareMetalImage, claimed: &BareMetalImage) -> bool {
        fresh.spec == claimed.spec && status.preparation.as_ref().is_some_and(|p| p.replica == self.replica)
    }

    /// Runs the preparation in a thread of its own. With a claim, its progress is written as the claim's heartbeat, and it is stopped when the claim is lost.
    async fn work(
        &self,
        image: &Arc<BareMetalImage>,
        from: Supply,
        watch: &Arc<Watch>,
        claimed: Option<&Arc<BareMetalImage>>,
    ) -> Result<PackedImage, PrepareError> {
        let (shelf, spec, shared) = (self.shelf.clone(), image.spec.clone(), watch.clone());
        // Whoever drops this future wants the thread to stop, too.
        let _guard = StopOnDrop(watch.clone());
        let mut thread = tokio::task::spawn_blocking(move || prepare(&shelf, &spec, from, &shared));
        let mut last = (Instant::now(), 0);
        loop {
            let tick = tokio::time::sleep(self.settings.heartbeat);
            tokio::select! {
                done = &mut thread => return done.unwrap_or(Err(PrepareError::Internal)),
                () = tick => {}
            }
            let now = (Instant::now(), watch.done.load(Ordering::Relaxed));
            let seconds = now.0.duration_since(last.0).as_secs_f64().max(0.001);
            let rate = (now.1.saturating_sub(last.1) as f64 / seconds) as u64;
            last = now;
            if let Some(claimed) = claimed
                && !self.beat(claimed, watch, rate).await
            {
                watch.cancel.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Renews the claim. False: it is another's, or about something else.
    async fn beat(&self, claimed: &Arc<BareMetalImage>, watch: &Watch, rate: u64) -> bool {
        let (done, total) = (watch.done.load(Ordering::Relaxed), watch.total.load(Ordering::Relaxed));
        let Some(known) = self.images.get(&claimed.name_any()) else {
            return false;
        };
        if !self.is_mine(&known.status.clone().unwrap_or_default(), &known, claimed) {
            return false;
        }
        let how_far = match (done.min(total) * 100).checked_div(total) {
            Some(percent) => format!("{percent}%"),
            None => bytes_text(done),
        };
        self.say(claimed, |status, fresh| {
            if !self.is_mine(status, fresh, claimed) {
                return false;
            }
            if let Some(claim) = &mut status.preparation {
                claim.heartbeat += 1;
                claim.done_bytes = done;
                claim.total_bytes = total;
                claim.text = format!("Packing {how_far}, {}/s", bytes_text(rate));
            }
            true
        })
        .await;
        true
    }

    /// The file in this replica's own folder that the image's URL names: it is read there, and not from an address by which perhaps only machines reach it.
    async fn own_file(&self, spec: &BareMetalImageSpec) -> Option<PathBuf> {
        let name = self.own_images.iter().find_map(|base| spec.url.strip_prefix(base.as_str()))?;
        if spec.format == ImageFormat::Packed {
            return None;
        }
        self.folder.find(name).await
    }

    /// The credentials that the image names for its registry.
    async fn credentials(&self, image: &BareMetalImage) -> Result<Option<Credentials>, PrepareError> {
        let Some(reference) = &image.spec.pull_secret_ref else {
            return Ok(None);
        };
        let registry = Reference::parse(&image.spec.url)?.registry;
        let unusable = |problem: String| RegistryError::Secret {
            secret: reference.name.clone(),
            problem,
        };
        let secret = match self.store.secret(&reference.name).await {
            Ok(secret) => secret,
            Err(error) if error.is_not_found() => return Err(unusable("it is not there".to_owned()).into()),
            Err(error) => return Err(unusable(chain(&error)).into()),
        };
        let bytes = secret.data.as_ref().and_then(|d| d.get(DOCKER_CONFIG));
        let bytes = bytes.ok_or_else(|| unusable(format!("it has no key {DOCKER_CONFIG}")))?;
        Ok(Some(credentials(&bytes.0, &registry).map_err(unusable)?))
    }

    /// Changes an image's status by compare and swap, on the newest object that is known. Returns what was written; nothing where `change` declined or nothing would differ.
    async fn say(
        &self,
        image: &Arc<BareMetalImage>,
        change: impl Fn(&mut BareMetalImageStatus, &BareMetalImage) -> bool,
    ) -> Option<Arc<BareMetalImage>> {
        let name = image.name_any();
        for attempt in 0..ATTEMPTS {
            let known = self.images.get(&name).filter(|k| k.metadata.uid == image.metadata.uid)?;
            let mut new = known.as_ref().clone();
            let mut status = new.status.take().unwrap_or_default();
            if !change(&mut status, &known) || known.status.as_ref() == Some(&status) {
                return None;
            }
            new.status = Some(status);
            match self.store.replace_image_status(&new).await {
                Ok(written) => return Some(self.images.apply(written)),
                Err(error) if error.is_conflict() => {
                    self.metrics.conflicts.inc();
                    // The newer object is on its way here.
                    self.images.newer_than(&known, Duration::from_millis(200 << attempt.min(4))).await;
                }
                Err(error) => {
                    self.trouble(&name, &error);
                    return None;
                }
            }
        }
        None
    }

    fn trouble(&self, name: &str, error: &Error) {
        tracing::warn!(image = name, error = %chain(error), "the status of an image could not be written; it is tried again");
    }
}

/// Tells the thread to stop when whoever waits for it does not any more.
struct StopOnDrop(Arc<Watch>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel.store(true, Ordering::Relaxed);
    }
}

fn hex_of(packed: &PackedImage) -> &str {
    packed.digest.trim_start_matches("blake3:")
}

fn tell(status: &mut BareMetalImageStatus, image: &BareMetalImage, prepared: bool, reason: &str, message: &str) {
    conditions::set(
        &mut status.conditions,
        conditions::PREPARED,
        prepared,
        reason,
        message,
        image.metadata.generation,
        &Time(Timestamp::now()),
    );
}

/// Whether an image waits to be uploaded.
pub(crate) fn is_upload(image: &BareMetalImage) -> bool {
    image.spec.url.starts_with(UPLOAD)
}
