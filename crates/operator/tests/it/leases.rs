//! Taking turns: who leads, when a turn ends, and that two turns do not overlap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use apiserver::{ApiServer, Identity};
use axum::{Router, extract::Request, middleware::Next, response::IntoResponse};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use operator::{Error, Health, LeaderElection, Operator, lease::Times};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{create, until};

const NAMESPACE: &str = "kube-baremetal-system";
const TIMES: Times = Times {
    duration: Duration::from_millis(2_500),
    deadline: Duration::from_millis(1_500),
    renew: Duration::from_millis(400),
    retry: Duration::from_millis(100),
};

async fn api(directory: &tempfile::TempDir) -> (ApiServer, Router, Client) {
    let server = ApiServer::open(apiserver::Config::new(directory.path())).await.unwrap();
    let router = server.router(Identity::admin());
    let client = Client::new(router.clone(), "default");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds::all() {
        create(&crds, &crd).await;
    }
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    create(&Api::all(client.clone()), &namespace).await;
    (server, router, client)
}

struct Running {
    stop: CancellationToken,
    health: Arc<Health>,
    task: JoinHandle<Result<(), Error>>,
}

fn operator(client: Client, identity: &str) -> Running {
    let mut config = operator::Config::new(client, Vec::new());
    config.leader_election = Some(LeaderElection {
        lease: "operator".to_owned(),
        identity: identity.to_owned(),
        times: TIMES,
    });
    let health = Arc::clone(&config.health);
    let stop = CancellationToken::new();
    let task = tokio::spawn(Operator::run(config, stop.clone()));
    Running { stop, health, task }
}

async fn leads(running: &Running) {
    until("it leads", || async { running.health.is_leading().then_some(()) }).await;
}

async fn lease(client: &Client) -> Lease {
    Api::<Lease>::namespaced(client.clone(), NAMESPACE).get("operator").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_gives_the_lease_back() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _, client) = api(&directory).await;
    let one = operator(client.clone(), "one");
    leads(&one).await;
    let two = operator(client.clone(), "two");
    until("the other one is ready", || async { two.health.is_ready().then_some(()) }).await;
    assert!(!two.health.is_leading(), "one at a time");
    let spec = lease(&client).await.spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("one"), Some(1)));
    let begun = Instant::now();
    one.stop.cancel();
    one.task.await.unwrap().unwrap();
    leads(&two).await;
    assert!(
        begun.elapsed() < TIMES.duration,
        "it did not wait for the end of the Lease: {:?}",
        begun.elapsed()
    );
    let spec = lease(&client).await.spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("two"), Some(2)));
    two.stop.cancel();
    two.task.await.unwrap().unwrap();
    assert_eq!(lease(&client).await.spec.unwrap().holder_identity, None);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_taken_away_ends_the_turn_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _, client) = api(&directory).await;
    let one = operator(client.clone(), "one");
    leads(&one).await;
    let taken = serde_json::json!({ "spec": { "holderIdentity": "somebody", "leaseDurationSeconds": 3600 } });
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let begun = Instant::now();
    leases
        .patch("operator", &PatchParams::default(), &Patch::Merge(taken))
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), one.task)
        .await
        .expect("it ends")
        .unwrap();
    assert!(matches!(ended, Err(Error::Deposed(_))), "{ended:?}");
    assert!(begun.elapsed() < TIMES.deadline, "not at once: {:?}", begun.elapsed());
    let holder = lease(&client).await.spec.unwrap().holder_identity;
    assert_eq!(holder.as_deref(), Some("somebody"), "what is another's is not given back");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_before_the_next_one_begins() {
    let directory = tempfile::tempdir().unwrap();
    let (server, router, client) = api(&directory).await;
    let cut = Arc::new(AtomicBool::new(false));
    let gate = cut.clone();
    let gated = router.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
        let gate = gate.clone();
        async move {
            if gate.load(Ordering::SeqCst) {
                // As behind a broken link: no answer at all.
                std::future::pending::<()>().await;
            }
            next.run(request).await.into_response()
        }
    }));
    let one = operator(Client::new(gated, "default"), "one");
    leads(&one).await;
    let two = operator(client.clone(), "two");
    until("the other one is ready", || async { two.health.is_ready().then_some(()) }).await;
    cut.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(Duration::from_secs(20), one.task)
        .await
        .expect("it ends")
        .unwrap();
    assert!(matches!(ended, Err(Error::Deposed(_))), "{ended:?}");
    assert!(!two.health.is_leading(), "the turns overlap");
    leads(&two).await;
    two.stop.cancel();
    two.task.await.unwrap().unwrap();
    server.shutdown().await;
}
