//! What the tests of the operator share: an API server in memory, an operator on it whose requests are counted, and simulated machines.

pub mod machine;
pub mod store;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{
    BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec, BareMetalHardware, BareMetalImage, BareMetalImageSpec, BareMetalInstance,
    BareMetalInstanceSpec, HardwarePhase, InstancePhase,
};
use axum::{Router, extract::Request, middleware};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use operator::{Config, Operator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use machine::NETBOOT;

/// Requests of the operator, `METHOD path`.
pub type Log = Arc<Mutex<Vec<String>>>;

pub struct Bench {
    pub store: store::Store,
    pub client: Client,
    pub log: Log,
    pub metrics: Arc<operator::metrics::Metrics>,
    router: Router,
    running: Mutex<Option<Running>>,
}

/// An operator at work.
pub struct Running {
    metrics: Arc<operator::metrics::Metrics>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<operator::Result<()>>,
}

/// How an operator of a test is set up.
pub type Adjust = fn(&mut Config);

pub async fn bench() -> Bench {
    bench_with(|_| {}).await
}

pub async fn bench_with(adjust: Adjust) -> Bench {
    set_up(adjust, |router| router).await
}

/// With something between the first operator and the API server.
pub async fn bench_on(between: impl Fn(Router) -> Router) -> Bench {
    set_up(|_| {}, between).await
}

async fn set_up(adjust: Adjust, between: impl Fn(Router) -> Router) -> Bench {
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init(),
    );
    let store = store::Store::default();
    let router = store.router();
    on_router(store, router, adjust, between).await
}

/// On any API server.
pub async fn on_router(store: store::Store, router: Router, adjust: Adjust, between: impl Fn(Router) -> Router) -> Bench {
    let client = Client::new(router.clone(), "default");
    netboot_keys(&client).await;
    let log: Log = Arc::default();
    let running = start(between(counted(&router, &log)), adjust);
    Bench {
        store,
        client,
        log,
        metrics: Arc::clone(&running.metrics),
        router,
        running: Mutex::new(Some(running)),
    }
}

fn counted(router: &Router, log: &Log) -> Router {
    let notes = Arc::clone(log);
    router
        .clone()
        .layer(middleware::from_fn(move |request: Request, next: middleware::Next| {
            // What opens a watch is not of any machine.
            let lists = request.method() == "GET" && request.uri().query().is_some_and(|q| q.contains("watch=") || q.contains("limit="));
            if !lists {
                notes.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
            }
            next.run(request)
        }))
}

fn start(router: Router, adjust: Adjust) -> Running {
    let mut config = Config::new(Client::new(router, "default"), vec!["https://10.0.0.1:8443".to_owned()]);
    config.lifecycle.allow_asserted_identity = true;
    adjust(&mut config);
    let metrics = Arc::clone(&config.metrics);
    let stop = CancellationToken::new();
    let task = tokio::spawn(Operator::run(config, stop.clone()));
    Running { metrics, stop, task }
}

impl Running {
    /// Stops it; it must end without an error, without a caught panic.
    pub async fn end(self) {
        self.stop.cancel();
        let outcome = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        outcome
            .expect("the operator stops in time")
            .expect("the operator does not panic")
            .expect("the operator ends well");
        for kind in [
            "BareMetalDiscovery",
            "BareMetalHardware",
            "BareMetalInstance",
            "BareMetalImage",
            "BareMetalEndpoint",
            "BareMetalAddress",
            "Scheduler",
        ] {
            assert_eq!(self.metrics.reconciles(kind, "panic"), 0, "{kind} never panics");
        }
    }
}

impl Bench {
    fn running(&self) -> Option<Running> {
        self.running.lock().unwrap().take()
    }

    /// Stops the operator and starts another one on the same objects.
    pub async fn restart(self, adjust: Adjust) -> Bench {
        self.running().expect("an operator runs").end().await;
        self.take_log();
        let running = start(counted(&self.router, &self.log), adjust);
        Bench {
            metrics: Arc::clone(&running.metrics),
            running: Mutex::new(Some(running)),
            ..self
        }
    }

    /// Kills the operator without letting anything end, and starts another one.
    pub async fn take_over(&self) -> Running {
        let killed = self.running().expect("an operator runs");
        killed.task.abort();
        drop(killed.task.await);
        start(counted(&self.router, &self.log), |_| {})
    }

    /// Stops the operator.
    pub async fn end(self) {
        self.running().expect("an operator runs").end().await;
    }

    /// Stops the operator where it was not killed.
    pub async fn end_if_alive(&self) {
        if let Some(running) = self.running() {
            running.end().await;
        }
    }

    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    pub fn instances(&self) -> Api<BareMetalInstance> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn instance(&self, name: &str) -> BareMetalInstance {
        self.instances().get(name).await.unwrap()
    }

    pub async fn policy(&self, adjust: impl FnOnce(&mut BareMetalDiscoveryPolicySpec)) {
        let mut spec = BareMetalDiscoveryPolicySpec {
            when: "true".to_owned(),
            erase_foreign_data: true,
            ..BareMetalDiscoveryPolicySpec::default()
        };
        adjust(&mut spec);
        create(&Api::all(self.client.clone()), &BareMetalDiscoveryPolicy::new("all", spec)).await;
    }

    pub async fn image(&self, name: &str) {
        let spec = BareMetalImageSpec {
            url: format!("http://10.0.0.1/{name}.raw"),
            digest: format!("sha256:{}", "ab".repeat(32)),
            format: agent_protocol::order::ImageFormat::Raw,
            ..BareMetalImageSpec::default()
        };
        create(&Api::all(self.client.clone()), &BareMetalImage::new(name, spec)).await;
    }

    pub async fn create_instance(&self, name: &str, adjust: impl FnOnce(&mut BareMetalInstanceSpec)) {
        let mut spec = BareMetalInstanceSpec {
            image: "debian".to_owned(),
            running: true,
            guest_helper: true,
            config_drive: true,
            ssh_keys: vec!["ssh-ed25519 AAAA test".to_owned()],
            ..BareMetalInstanceSpec::default()
        };
        adjust(&mut spec);
        create(&self.instances(), &BareMetalInstance::new(name, spec)).await;
    }

    pub async fn delete_instance(&self, name: &str) {
        self.instances().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Merges into any object's spec.
    pub async fn patch<K>(&self, api: &Api<K>, name: &str, spec: serde_json::Value)
    where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
}

pub async fn create<K>(api: &Api<K>, object: &K) -> K
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.create(&PostParams::default(), object).await.unwrap()
}

/// The Secret that netboot's first replica makes.
async fn netboot_keys(client: &Client) {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(vec!["kube-baremetal-netboot".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let part = |name: &str, bytes: &[u8]| (name.to_owned(), ByteString(bytes.to_vec()));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some("netboot-keys".to_owned()),
            namespace: Some(NETBOOT.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(
            [
                part("token.key", &[7; 32]),
                part("guest-order.key", &[8; 32]),
                part("ca.crt", ca.pem().as_bytes()),
            ]
            .into(),
        ),
        ..Secret::default()
    };
    create(&Api::namespaced(client.clone(), NETBOOT), &secret).await;
}

/// Waits until `look` gives something; panics with `what` after thirty seconds.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A network that gives the addresses from `first` to `last`.
pub async fn network(bench: &Bench, name: &str, prefix: &str, first: &str, last: &str) {
    let spec = api::BareMetalNetworkSpec {
        ipv4: Some(api::network::AddressPlan {
            prefix: prefix.to_owned(),
            ranges: vec![api::network::AddressRange {
                first: first.to_owned(),
                last: last.to_owned(),
            }],
            ..api::network::AddressPlan::default()
        }),
        ..api::BareMetalNetworkSpec::default()
    };
    create(&Api::all(bench.client.clone()), &api::BareMetalNetwork::new(name, spec)).await;
}

pub fn phase_is(phase: HardwarePhase) -> impl Fn(&BareMetalHardware) -> bool {
    move |h| h.status.as_ref().is_some_and(|s| s.phase == phase)
}

/// Lives with the machine until the instance is where it should be.
pub async fn instance_at(bench: &Bench, machine: &mut machine::Machine, name: &str, phase: InstancePhase) -> BareMetalInstance {
    instance_until(bench, machine, name, &format!("{phase:?}"), |i| {
        i.status.as_ref().is_some_and(|s| s.phase == phase)
    })
    .await
}

/// Lives with the machine until `done` says so of the instance.
pub async fn instance_until(
    bench: &Bench,
    machine: &mut machine::Machine,
    name: &str,
    what: &str,
    done: impl Fn(&BareMetalInstance) -> bool,
) -> BareMetalInstance {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        machine.step().await;
        let instance = bench.instance(name).await;
        if done(&instance) {
            return instance;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{name} never came to {what}: {:?}; hardware {:?}",
            instance.status.map(|s| (s.phase, s.reason, s.message)),
            machine
                .hardware()
                .await
                .and_then(|h| h.status)
                .map(|s| (s.phase, s.reason, s.message))
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Lives with the machine until the instance is gone.
pub async fn gone(bench: &Bench, machine: &mut machine::Machine, name: &str) {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Some(left) = bench.instances().get_opt(name).await.unwrap() {
        machine.step().await;
        assert!(
            tokio::time::Instant::now() < end,
            "{name} was not deleted: {:?}; hardware {:?}",
            left.status.map(|s| (s.phase, s.reason, s.message)),
            machine
                .hardware()
                .await
                .and_then(|h| h.status)
                .map(|s| (s.phase, s.reason, s.message))
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
