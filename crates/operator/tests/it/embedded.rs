//! The same life on the embedded API server, with its validation, pruning and owner references.

use crate::support::{
    Bench, create, gone, instance_at,
    machine::{Machine, NETBOOT, foreign},
    on_router, phase_is, until,
};
use agent_protocol::{disk::DiskContents, order::OrderKind};
use api::{BareMetalAddress, HardwarePhase, InstancePhase, common::NetworkRef, instance::RunningEvidence};
use apiserver::{ApiServer, Identity};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::ListParams};

async fn embedded(directory: &tempfile::TempDir) -> (ApiServer, Bench) {
    let server = ApiServer::open(apiserver::Config::new(directory.path())).await.unwrap();
    let router = server.router(Identity::admin());
    let client = Client::new(router.clone(), "default");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds::all() {
        create(&crds, &crd).await;
    }
    for crd in api::crds::all() {
        let name = crd.name_any();
        until("the kind is served", || async {
            let status = crds.get(&name).await.unwrap().status?;
            let conditions = status.conditions.unwrap_or_default();
            conditions
                .iter()
                .any(|c| c.type_ == "Established" && c.status == "True")
                .then_some(())
        })
        .await;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["kube-baremetal-system", NETBOOT] {
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        create(&namespaces, &namespace).await;
    }
    let bench = on_router(crate::support::store::Store::default(), router, |_| {}, |router| router).await;
    (server, bench)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_its_whole_life_on_the_embedded_api() {
    let directory = tempfile::tempdir().unwrap();
    let (server, bench) = embedded(&directory).await;
    crate::support::network(&bench, "lan", "192.0.2.0/24", "192.0.2.10", "192.0.2.20").await;
    bench.policy(|p| p.network_ref = Some(NetworkRef::network("lan"))).await;
    bench.image("debian").await;
    let mut machine = Machine::new(&bench.client, "m-one", 1);
    machine.contents = foreign("old");
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    bench.create_instance("web", |_| {}).await;
    let instance = instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    let status = instance.status.unwrap();
    assert_eq!(status.evidence, Some(RunningEvidence::GuestReported));
    assert_eq!(status.addresses, ["192.0.2.10/24"]);
    bench.delete_instance("web").await;
    gone(&bench, &mut machine, "web").await;
    machine
        .live_until(30, "free again", |h| {
            phase_is(HardwarePhase::Ready)(h) && h.spec.claim_ref.is_none()
        })
        .await;
    assert_eq!(machine.contents, DiskContents::blank());
    let kinds: Vec<OrderKind> = machine.obeyed.iter().map(|o| o.0).collect();
    assert_eq!(kinds, [OrderKind::Erase, OrderKind::Image, OrderKind::Erase]);
    let addresses: Api<BareMetalAddress> = Api::all(bench.client.clone());
    until("the address is given back", || async {
        addresses.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    bench.end().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_operators_leads_and_the_other_takes_over() {
    let directory = tempfile::tempdir().unwrap();
    let server = ApiServer::open(apiserver::Config::new(directory.path())).await.unwrap();
    let router = server.router(Identity::admin());
    let client = Client::new(router.clone(), "default");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds::all() {
        create(&crds, &crd).await;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some("kube-baremetal-system".to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    create(&namespaces, &namespace).await;
    let operator = |identity: &str| {
        let mut config = operator::Config::new(client.clone(), Vec::new());
        config.leader_election = Some(operator::LeaderElection {
            lease: "operator".to_owned(),
            identity: identity.to_owned(),
            times: operator::lease::Times::default(),
        });
        let metrics = std::sync::Arc::clone(&config.metrics);
        let stop = tokio_util::sync::CancellationToken::new();
        let task = tokio::spawn(operator::Operator::run(config, stop.clone()));
        (stop, task, metrics)
    };
    let images: Api<api::BareMetalImage> = Api::all(client.clone());
    let image = |name: &str| {
        let spec = api::BareMetalImageSpec {
            url: "http://10.0.0.1/x.raw".to_owned(),
            digest: format!("sha256:{}", "ab".repeat(32)),
            format: agent_protocol::order::ImageFormat::Raw,
        };
        api::BareMetalImage::new(name, spec)
    };
    let judged = async |name: &str| {
        until("the image is judged", || async {
            images.get(name).await.unwrap().status.filter(|s| !s.conditions.is_empty())
        })
        .await
    };
    let (stop_one, one, metrics_one) = operator("one");
    create(&images, &image("first")).await;
    judged("first").await;
    let (stop_two, two, metrics_two) = operator("two");
    create(&images, &image("second")).await;
    judged("second").await;
    assert!(metrics_one.reconciles("BareMetalImage", "ok") > 0);
    assert_eq!(metrics_two.reconciles("BareMetalImage", "ok"), 0, "only the leader works");
    stop_one.cancel();
    one.await.unwrap().unwrap();
    create(&images, &image("third")).await;
    judged("third").await;
    assert!(metrics_two.reconciles("BareMetalImage", "ok") > 0, "the other took over");
    stop_two.cancel();
    two.await.unwrap().unwrap();
    server.shutdown().await;
}
