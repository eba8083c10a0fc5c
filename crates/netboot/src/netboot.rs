//! Starts a replica and keeps it going.

use std::{
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use agent_protocol::{
    bmc_user::PATH_BMC_USER,
    guest::{PATH_GUEST_ORDER, PATH_GUEST_REGISTER},
    session::{PATH_ORDER, PATH_REPORTS, PATH_SEED, PATH_SESSIONS},
    share::PATH_SHARE,
};
use axum::{
    Router, middleware,
    routing::{get, post, put},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agent_api, boot,
    config::{Config, LanInterface},
    dhcp::{self, Full, Giving, Known, others::Others},
    error::{Error, chain},
    guest_api,
    health::Health,
    image_store::{
        self, Folder,
        keeper::{Keeper, Parts},
        serve::Packs,
        shelf::{self, Shelf},
        upload::Uploads,
    },
    keys::{self, Keys},
    lan::Lan,
    limits::{RateLimit, Slots},
    loaders::{self, Loaders},
    lost,
    metrics::Metrics,
    objects::{cache::Cache, images::Images, networks::Networks, seeds::Seeds, store::Store, watch},
    presence::Presence,
    progress::{Budget, Hints},
    server::{self, Front},
    state::Shared,
    swarms::Swarms,
    timeline::{self, Timelines},
    wake::Wakes,
    wake_on_lan,
};

/// Where a replica is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Plain HTTP: boot scripts, boot media, images.
    pub http: SocketAddr,
    /// TLS: agents and guests.
    pub tls: SocketAddr,
}

/// One route, for tests and documents that go through all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Method.
    pub method: &'static str,
    /// Path; `{name}` stands for one segment.
    pub path: &'static str,
    /// Whether it is served over TLS (else over plain HTTP).
    pub tls: bool,
    /// Whether anybody may ask: it gives nothing that is anybody's in particular.
    pub public: bool,
}

const PATH_IPXE: &str = "/boot/ipxe";
const PATH_GRUB: &str = "/boot/grub";
/// Where GRUB looks for its first configuration: `(http,...)/grub/grub.cfg`.
const PATH_FIRST_GRUB: &str = "/grub/grub.cfg";
const PATH_LOADERS: &str = "/boot/loaders/{name}";
/// How shim asks for the GRUB beside itself: it puts `/grubx64.efi` behind the folder of its own URL, which ends in a slash already.
const PATH_LOADERS_OF_SHIM: &str = "/boot/loaders//{name}";
const PATH_MEDIA: &str = "/boot/media/{architecture}/{name}";
const PATH_MEDIUM: &str = "/boot/iso/{hardware}/{file}";
const PATH_IMAGES: &str = "/images/{name}";
const PATH_PACKS: &str = "/images/{digest}/{part}";
const PATH_UPLOADS: &str = "/images/v1/uploads/{name}";
/// Uploads that one source may ask for in a minute.
const UPLOADS_PER_MINUTE: u32 = 60;

/// Every route there is. [`Netboot::start`] serves these and nothing else.
pub fn routes() -> Vec<Route> {
    let route = |method, path, tls, public| Route { method, path, tls, public };
    vec![
        route("GET", PATH_IPXE, false, true),
        route("GET", PATH_GRUB, false, true),
        route("GET", PATH_FIRST_GRUB, false, true),
        route("GET", PATH_LOADERS, false, true),
        route("GET", PATH_LOADERS_OF_SHIM, false, true),
        route("GET", PATH_MEDIA, false, true),
        route("GET", PATH_MEDIUM, false, true),
        route("GET", PATH_IMAGES, false, true),
        route("GET", PATH_PACKS, false, true),
        // The same for a machine that reaches no replica's plain HTTP.
        route("GET", PATH_PACKS, true, true),
        route("PUT", PATH_UPLOADS, true, false),
        route("POST", PATH_SESSIONS, true, false),
        route("GET", PATH_ORDER, true, false),
        route("POST", PATH_REPORTS, true, false),
        route("POST", PATH_BMC_USER, true, false),
        route("GET", PATH_SEED, true, false),
        route("POST", PATH_SHARE, true, false),
        route("POST", PATH_GUEST_REGISTER, true, false),
        route("GET", PATH_GUEST_ORDER, true, false),
    ]
}

fn packs_router(packs: &Packs) -> Router {
    Router::new()
        .route(PATH_PACKS, get(image_store::serve::serve))
        .with_state(packs.clone())
}

fn plain_router(shared: &Arc<Shared>, packs: &Packs, loaders: Arc<Loaders>) -> Router {
    let media = Router::new()
        .route(PATH_MEDIA, get(boot::media::serve))
        .layer(middleware::from_fn_with_state(shared.timelines.clone(), timeline::media::follow))
        .with_state(shared.media.clone());
    let images = Router::new()
        .route(PATH_IMAGES, get(image_store::serve_folder))
        .with_state(Folder::images(shared.config.image_dir.clone()));
    let loaders = Router::new()
        .route(PATH_LOADERS, get(loaders::serve))
        .route(PATH_LOADERS_OF_SHIM, get(loaders::serve))
        .with_state(loaders);
    let boot = Router::new()
        .route(PATH_IPXE, get(boot::ipxe))
        .route(PATH_GRUB, get(boot::grub))
        .route(PATH_FIRST_GRUB, get(boot::grub))
        .route(PATH_MEDIUM, get(boot::medium::serve))
        .with_state(shared.clone());
    server::guarded(
        boot.merge(loaders).merge(media).merge(images).merge(packs_router(packs)),
        shared.metrics.clone(),
    )
}

fn tls_router(shared: &Arc<Shared>, packs: &Packs, keeper: Option<Arc<Keeper>>) -> Router {
    let uploads = Router::new()
        .route(PATH_UPLOADS, put(image_store::upload::upload))
        .with_state(Uploads {
            keeper,
            lookups: Arc::new(RateLimit::per_minute(UPLOADS_PER_MINUTE)),
        });
    let router = Router::new()
        .route(PATH_SESSIONS, post(agent_api::sessions::open))
        .route(PATH_ORDER, get(agent_api::orders::order))
        .route(PATH_REPORTS, post(agent_api::reports::report))
        .route(PATH_BMC_USER, post(agent_api::bmc_user::report))
        .route(PATH_SEED, get(agent_api::seed::seed))
        .route(PATH_SHARE, post(agent_api::share::share))
        .route(PATH_GUEST_REGISTER, post(guest_api::register))
        .route(PATH_GUEST_ORDER, get(guest_api::order))
        .with_state(shared.clone())
        .merge(packs_router(packs))
        .merge(uploads);
    #[cfg(feature = "planted-holes")]
    let router = router.route("/test/panic", get(planted_panic));
    server::guarded(router, shared.metrics.clone())
}

#[cfg(feature = "planted-holes")]
async fn planted_panic() -> http::StatusCode {
    panic!("planted")
}

/// A running replica. Dropping it does not stop it; cancel the token it was started with, and wait with [`Netboot::stopped`].
pub struct Netboot {
    addresses: Addresses,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Netboot {
    /// Opens both listeners and starts everything. Boot requests are answered at once (with "boot your own disk" until the API was reached);
    /// agents as soon as the keys are there. Wait for that with [`Netboot::ready`].
    ///
    /// # Errors
    /// [`Error::Config`] for a value that cannot be used, [`Error::Listen`] when an address is taken.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Self, Error> {
        config.check()?;
        let http = server::listen(config.http)?;
        let tls = server::listen(config.tls)?;
        let address =
            |listener: &tokio::net::TcpListener, address| listener.local_addr().map_err(|source| Error::Listen { address, source });
        let addresses = Addresses {
            http: address(&http, config.http)?,
            tls: address(&tls, config.tls)?,
        };
        let tasks = TaskTracker::new();
        let (metrics, cache, wakes) = (Arc::new(Metrics::new()), Arc::new(Cache::default()), Arc::new(Wakes::default()));
        let timelines = Arc::new(Timelines::new(&config.replica, metrics.clone()));
        let loaders = Arc::new(read_loaders(&config)?);
        let store = Arc::new(Store::new(
            config.client.clone(),
            &config.namespace,
            config.api_timeout,
            cache.clone(),
            metrics.clone(),
        ));
        let networks = Arc::new(Networks::default());
        let known = Known {
            networks: networks.clone(),
            machines: cache.clone(),
        };
        let giving = giving(&config, &networks, &store, &metrics);
        let lan = config
            .lan
            .as_ref()
            .map(|lan| {
                let parts = dhcp::Parts {
                    ports: lan.ports,
                    http_port: addresses.http.port(),
                    offers: loaders.offers.clone(),
                    available: loaders.available.clone(),
                    known: known.clone(),
                    giving: giving.clone(),
                    metrics: metrics.clone(),
                    timelines: timelines.clone(),
                };
                Lan::open(lan, &loaders, &config.replica, &parts)
            })
            .transpose()?;
        let seeds = Arc::new(Seeds::default());
        let images = Arc::new(Images::default());
        let shelf = open_shelf(&config, &images, &cache)?;
        let packs = Packs {
            shelf: shelf.clone(),
            metrics: metrics.clone(),
        };
        let wake_on_lan = config.lan.as_ref().map(|lan| wake_on_lan::new(&lan.interfaces, metrics.clone()));
        let (hears, wake_frames) = wake_on_lan.unzip();
        let synced = watch::start(&store, &cache, (&wakes, hears.map(Arc::new)), &seeds, &networks, &stop, &tasks);
        let quotas = config.quotas.clone();
        let budget = Arc::new(Budget::new(quotas.progress_writes_per_second));
        let shared = Arc::new(Shared {
            tls_port: addresses.tls.port(),
            cache,
            store,
            seeds,
            networks,
            swarms: Swarms::new(shelf.clone(), metrics.clone()),
            wakes,
            presence: Arc::new(Presence::default()),
            hints: Arc::new(Hints::new(budget.clone())),
            budget,
            timelines,
            media: Arc::new(boot::media::Media::new(config.media_dir.as_deref())),
            mediums: boot::medium::Images::default(),
            metrics: metrics.clone(),
            synced,
            keys: Arc::new(RwLock::new(None)),
            sessions: RateLimit::per_minute(quotas.sessions_per_minute),
            creations: RateLimit::per_minute(quotas.creations_per_minute),
            boots: RateLimit::per_minute(quotas.boots_per_minute),
            lookups: RateLimit::per_minute(quotas.sessions_per_minute),
            creating: std::sync::atomic::AtomicUsize::new(0),
            config,
        });
        let front = |router| Front {
            router,
            slots: Slots::new(quotas.connections, quotas.connections_per_source),
            metrics: metrics.clone(),
            header_timeout: quotas.header_timeout,
            stop: stop.clone(),
            tracker: tasks.clone(),
        };
        let keeper = shelf.zip(shared.config.image_store.clone()).map(|(shelf, settings)| {
            Keeper::new(Parts {
                replica: shared.config.replica.clone(),
                decisions: shared.config.decisions.clone(),
                url: shared.config.images_url(&settings, addresses.http),
                own_images: shared.config.own_images(addresses.http),
                folder: Folder::images(shared.config.image_dir.clone()),
                settings,
                store: shared.store.clone(),
                images: images.clone(),
                shelf,
                metrics: metrics.clone(),
                stop: stop.clone(),
            })
        });
        let health = health(&shared, &loaders, addresses);
        if let Some(lan) = lan {
            lan.start(&tasks, &stop);
        }
        tasks.spawn(server::serve(http, front(plain_router(&shared, &packs, loaders)), None));
        let with_keys = shared.clone();
        let tls_config: Arc<dyn Fn() -> Option<Arc<rustls::ServerConfig>> + Send + Sync> =
            Arc::new(move || with_keys.keys().map(|k| k.tls()));
        tasks.spawn(server::serve(
            tls,
            front(tls_router(&shared, &packs, keeper.clone())),
            Some(tls_config),
        ));
        let background = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            });
        };
        background(Box::pin(keep_keys(shared.clone())));
        background(Box::pin(shared.hints.clone().run(
            shared.store.clone(),
            shared.cache.clone(),
            metrics.clone(),
        )));
        background(Box::pin(timeline::write::run(shared.clone())));
        if let Some(frames) = wake_frames {
            background(Box::pin(frames.run()));
        }
        if let (Some(Giving { full, others }), Some(lan)) = (giving, &shared.config.lan) {
            let interfaces = lan.interfaces.iter().filter(|interface| interface.may_give());
            let interfaces = interfaces.map(|interface| interface.name.clone()).collect();
            background(Box::pin(dhcp::writer::run(full, interfaces)));
            background(Box::pin(others.run()));
        }
        if let Some(health) = health {
            let stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = health.clone().run() => {}
                }
                health.withdraw().await;
            });
        }
        background(Box::pin(adopt_then_watch(shared.clone())));
        if let Some(keeper) = keeper {
            background(Box::pin(watch::follow_images(&shared.store, &images)));
            background(Box::pin(keeper.run()));
        }
        shared.media.report().await;
        tasks.close();
        tracing::info!(http = %addresses.http, tls = %addresses.tls, replica = %shared.config.replica, "netboot serves");
        Ok(Self {
            addresses,
            shared,
            tasks,
            stop,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits until the keys are there and the cache is complete.
    pub async fn ready(&self) {
        self.shared.synced.clone().wait().await;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while self.shared.keys().is_none() {
            tick.tick().await;
        }
    }

    /// Whether it would take machines in right now: keys, complete cache, and an API that answers.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready() && self.shared.store.is_reachable()
    }

    /// The pin for `kbm.ca=`, once the keys are there. Guests' configurations carry it too.
    pub fn pin(&self) -> Option<String> {
        self.shared.keys().map(|k| k.pin().to_owned())
    }

    /// Base64 Ed25519 public key that signs guest orders, once the keys are there.
    pub fn guest_order_key(&self) -> Option<String> {
        self.shared.keys().map(|k| k.guest_order_key())
    }

    /// A BareMetalHardware as this replica has last heard of it.
    pub fn hardware(&self, name: &str) -> Option<Arc<api::BareMetalHardware>> {
        self.shared.cache.hardware(name)
    }

    /// Machines whose agent asks this replica.
    pub fn machines(&self) -> usize {
        self.shared.presence.len()
    }

    /// Metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Stops taking connections, ends those that wait, and returns when all are gone, or after `grace`.
    pub async fn stopped(&self, grace: Duration) {
        self.stop.cancelled().await;
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("connections were cut off at the end of the grace period");
        }
    }
}

/// What giving out addresses needs, where an interface allows that.
fn giving(config: &Config, networks: &Arc<Networks>, store: &Arc<Store>, metrics: &Arc<Metrics>) -> Option<Giving> {
    let lan = config.lan.as_ref().filter(|lan| lan.interfaces.iter().any(LanInterface::may_give));
    lan.map(|_| {
        let full = Arc::new(Full::new(&config.replica, networks.clone(), store.clone(), metrics.clone()));
        Giving {
            others: Arc::new(Others::new(full.clone(), metrics.clone())),
            full,
        }
    })
}

/// What looks at this replica itself, where it is something to machines that cannot speak HTTP yet.
fn health(shared: &Arc<Shared>, loaders: &Arc<Loaders>, addresses: Addresses) -> Option<Arc<Health>> {
    let (config, lan) = (&shared.config, shared.config.lan.as_ref()?);
    Health::new(lan, &config.replica, loaders, addresses, &shared.networks, &shared.store).map(Arc::new)
}

/// All loaders that are there. Who answers machines by DHCP must have one.
fn read_loaders(config: &Config) -> Result<Loaders, Error> {
    let read = Loaders::read(&config.loaders, config.uefi_loader).and_then(|loaders| {
        if config.lan.is_some() {
            loaders.found(&config.loaders)?;
        }
        Ok(loaders)
    });
    read.map_err(|error| Error::Config {
        field: "loaders",
        problem: chain(&error),
    })
}

/// Takes the image store's folder, where there is one.
fn open_shelf(config: &Config, images: &Arc<Images>, cache: &Arc<Cache>) -> Result<Option<Arc<Shelf>>, Error> {
    let Some(settings) = &config.image_store else { return Ok(None) };
    let (images, cache) = (images.clone(), cache.clone());
    let in_use = move || {
        let mut names = cache.packs_in_orders();
        names.extend(images.packs());
        names
    };
    let shelf = Shelf::open(&settings.path, settings.quota, shelf::GRACE, Box::new(in_use))
        .map_err(|error| Error::Store { problem: chain(&error) })?;
    Ok(Some(Arc::new(shelf)))
}

/// Gets the keys (making them if nobody did), then looks at them again and again: that is at the same time the question whether the API is there.
async fn keep_keys(shared: Arc<Shared>) {
    let mut wait = Duration::from_millis(100);
    loop {
        match obtain_keys(&shared).await {
            Ok(()) => wait = shared.config.probe,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the keys cannot be read");
                wait = (wait * 2).min(shared.config.probe);
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn obtain_keys(shared: &Shared) -> Result<(), Error> {
    let secret = match shared.store.secret(keys::SECRET_NAME).await {
        Err(error) if error.is_not_found() => {
            match shared.store.create_secret(&keys::new_secret(&shared.config.namespace)?).await {
                // Another replica was faster: its keys are the keys.
                Err(error) if error.is_conflict() => shared.store.secret(keys::SECRET_NAME).await,
                other => other,
            }
        }
        other => other,
    }?;
    if shared
        .keys()
        .is_some_and(|k| k.version() == secret.metadata.resource_version.as_deref())
    {
        return Ok(());
    }
    let new = Arc::new(Keys::from_secret(&secret)?);
    tracing::info!(pin = new.pin(), "keys in use");
    *shared.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(new);
    Ok(())
}

/// After a restart the machines whose sessions this replica opened have the whole time to ask again.
async fn adopt_then_watch(shared: Arc<Shared>) {
    shared.synced.clone().wait().await;
    let now = Instant::now();
    for discovery in shared.cache.sessions_of(&shared.config.replica) {
        let (Some(name), Some(status)) = (&discovery.metadata.name, &discovery.status) else {
            continue;
        };
        let at_work = lifecycle::view::live_session(Some(&discovery)).is_some();
        if let (true, Some(session)) = (at_work, &status.session) {
            shared.presence.opened(name, &session.id, None, now);
        }
    }
    lost::run(shared).await;
}
