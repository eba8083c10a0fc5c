//! The same life on the embedded API server, with its validation, pruning and owner references.

use crate::support::{
    Adjust, Bench, create, gone, instance_at,
    machine::{Machine, NETBOOT, foreign},
    on_router, phase_is, until,
};
use agent_protocol::{disk::DiskContents, order::OrderKind};
use api::{
    BareMetalAddress, BareMetalImage, BareMetalImageStatus, HardwarePhase, InstancePhase,
    common::NetworkRef,
    image::{ImageStore, PackedImage, Preparation},
    instance::RunningEvidence,
};
use apiserver::{ApiServer, Identity};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

pub(crate) async fn embedded(directory: &tempfile::TempDir) -> (ApiServer, Bench) {
    adjusted(directory, |_| {}).await
}

/// Installs our kinds and waits until they are served.
async fn install_kinds(client: &Client) {
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
}

async fn adjusted(directory: &tempfile::TempDir, adjust: Adjust) -> (ApiServer, Bench) {
    let server = ApiServer::open(apiserver::Config::new(directory.path())).await.unwrap();
    let router = server.router(Identity::admin());
    let client = Client::new(router.clone(), "default");
    install_kinds(&client).await;
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
    let bench = on_router(crate::support::store::Store::default(), router, adjust, |router| router).await;
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
    install_kinds(&client).await;
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
            ..api::BareMetalImageSpec::default()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_makes_no_sense_is_refused_at_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let (server, bench) = embedded(&directory).await;
    let images: Api<BareMetalImage> = Api::all(bench.client.clone());
    let (sha, blake) = (format!("sha256:{}", "a".repeat(64)), format!("blake3:{}", "b".repeat(64)));
    let stored = format!("oci://registry.example:5000/team/debian@{sha}");
    let spec = |url: &str, digest: &str, format: &str| json!({"url": url, "digest": digest, "format": format});
    let and = |mut spec: serde_json::Value, field: &str, value: serde_json::Value| {
        spec[field] = value;
        spec
    };
    let http = "https://host/debian.raw";
    let take = async |number: usize, spec: &serde_json::Value| {
        let image = serde_json::from_value::<BareMetalImage>(json!({
            "apiVersion": "kube-baremetal.io/v1alpha1", "kind": "BareMetalImage", "metadata": {"name": format!("image-{number}")}, "spec": spec,
        }));
        images.create(&PostParams::default(), &image.unwrap()).await
    };
    let good = [
        spec(http, &sha, "Raw"),
        and(spec(http, &sha, "Raw"), "delivery", json!("Streamed")),
        and(spec("https://host/debian", &blake, "Packed"), "delivery", json!("Streamed")),
        spec(&stored, &blake, "Packed"),
        and(
            spec("oci://registry.example/debian:13", &sha, "Zstd"),
            "pullSecretRef",
            json!({"name": "registry"}),
        ),
        spec("upload://debian", &sha, "Qcow2"),
    ];
    for (number, spec) in good.iter().enumerate() {
        let taken = take(number, spec).await;
        assert!(taken.is_ok(), "{spec}: {taken:?}");
    }
    let bad = [
        (spec(http, &blake, "Raw"), "spec.format Packed goes with a blake3:"),
        (spec(http, &sha, "Packed"), "spec.format Packed goes with a blake3:"),
        (
            and(spec(http, &sha, "Raw"), "pullSecretRef", json!({"name": "registry"})),
            "registries only",
        ),
        (and(spec(&stored, &sha, "Raw"), "delivery", json!("Streamed")), "needs an http"),
        (
            and(spec("upload://debian", &sha, "Raw"), "delivery", json!("Streamed")),
            "needs an http",
        ),
        (spec("oci://registry.example/debian", &sha, "Raw"), "spec.url"),
        (spec("oci://user:password@registry.example/debian:13", &sha, "Raw"), "spec.url"),
        (spec("oci://registry.example/../debian:13", &sha, "Raw"), "spec.url"),
        (spec("file:///etc/passwd", &sha, "Raw"), "spec.url"),
        (spec(http, "md5:00", "Raw"), "spec.digest"),
    ];
    for (spec, words) in bad {
        let refused = take(99, &spec).await.expect_err(&spec.to_string()).to_string();
        assert!(refused.contains(words), "{spec}: {refused}");
    }
    bench.end().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_waits_for_its_image_is_told_how_far_it_is_and_gets_it_packed() {
    let directory = tempfile::tempdir().unwrap();
    let (server, bench) = adjusted(&directory, |config| config.lifecycle.image_store = true).await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut machine = Machine::new(&bench.client, "m-one", 1);
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    bench.create_instance("web", |_| {}).await;
    let images: Api<BareMetalImage> = Api::all(bench.client.clone());
    // As the image store would.
    let say = async |change: &dyn Fn(&mut BareMetalImageStatus, &str)| loop {
        let mut image = images.get("debian").await.unwrap();
        let digest = image.spec.digest.clone();
        change(image.status.get_or_insert_default(), &digest);
        match images.replace_status("debian", &PostParams::default(), &image).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => break other.unwrap(),
        }
    };
    say(&|status, _| {
        status.preparation = Some(Preparation {
            replica: "netboot-0".to_owned(),
            done_bytes: 40,
            total_bytes: 100,
            text: "Packing 40%".to_owned(),
            ..Preparation::default()
        });
    })
    .await;
    let waiting = until("it is told", || async {
        let status = bench.instance("web").await.status?;
        (status.reason == "ImagePreparing" && status.progress_text.is_some()).then_some(status)
    })
    .await;
    assert_eq!(waiting.progress_text.as_deref(), Some("Preparing 40%"));
    assert!(waiting.message.contains("debian"), "{}", waiting.message);
    let digest = format!("blake3:{}", "c".repeat(64));
    say(&|status, source| {
        status.preparation = None;
        status.packed = Some(PackedImage {
            digest: digest.clone(),
            source_digest: source.to_owned(),
            ..PackedImage::default()
        });
        status.stores = vec![ImageStore {
            replica: "netboot-0".to_owned(),
            url: "http://192.0.2.1:8080/images".to_owned(),
        }];
    })
    .await;
    // The machine stands still meanwhile: an order that it has carried out is gone.
    let parameters = until("an order", || async {
        let order = machine.hardware().await?.status?.order?;
        (order.kind == OrderKind::Image).then_some(order.image?)
    })
    .await;
    let packed = parameters.packed.unwrap();
    assert_eq!(packed.digest, digest);
    assert_eq!(packed.urls, [format!("http://192.0.2.1:8080/images/{}", "c".repeat(64))]);
    assert_eq!(parameters.url, "http://10.0.0.1/debian.raw", "an older agent takes the URL");
    instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    bench.end().await;
    server.shutdown().await;
}
