//! What goes wrong is named, with its remedy, and correcting what the message names goes on without other help.

use std::time::Duration;

use crate::support::{
    Bench, bench, bench_with, create, gone, instance_at, instance_until,
    machine::{Machine, foreign},
    phase_is,
};
use agent_protocol::{
    disk::{ContentsState, DiskContents},
    order::{FaultReason, OrderKind},
};
use api::{BareMetalHardware, BareMetalImage, HardwarePhase, InstancePhase, conditions};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt, api::ObjectMeta};
use serde_json::json;

async fn ready(bench: &Bench, name: &str, number: u8) -> Machine {
    let mut machine = Machine::new(&bench.client, name, number);
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    machine
}

fn hardware(bench: &Bench) -> Api<BareMetalHardware> {
    Api::all(bench.client.clone())
}

fn images(bench: &Bench) -> Api<BareMetalImage> {
    Api::all(bench.client.clone())
}

fn condition<'a>(all: &'a [k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], kind: &str) -> Option<(&'a str, &'a str)> {
    let found = all.iter().find(|c| c.type_ == kind && c.status == "True")?;
    Some((&found.reason, &found.message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_an_image_is_named_and_correcting_the_image_goes_on() {
    let faults = [
        (FaultReason::ImageTruncated, "url"),
        (FaultReason::ImageDigestMismatch, "digest"),
        (FaultReason::ImageFormatMismatch, "format"),
        (FaultReason::ImageTooLarge, "instance"),
    ];
    for (number, (fault, corrected)) in faults.into_iter().enumerate() {
        let bench = bench().await;
        bench.policy(|_| {}).await;
        bench.image("debian").await;
        bench.image("small").await;
        let mut machine = ready(&bench, "m-fault", number as u8).await;
        machine.faults.push_back(fault);
        bench.create_instance("web", |_| {}).await;
        let instance = instance_until(&bench, &mut machine, "web", "OrderFailed", |i| {
            i.status
                .as_ref()
                .is_some_and(|s| conditions::is_true(&s.conditions, conditions::ORDER_FAILED))
        })
        .await;
        let status = instance.status.unwrap();
        let (reason, message) = condition(&status.conditions, conditions::ORDER_FAILED).unwrap();
        assert_eq!(reason, format!("{fault:?}"));
        assert!(message.contains("spec."), "the message names what to correct: {message}");
        assert_eq!(status.reason, reason, "and the phase says why it waits");
        assert_eq!(machine.contents.state, ContentsState::Interrupted, "not bootable");
        let first = machine.hardware().await.unwrap().status.unwrap().order.unwrap();
        match corrected {
            "url" => {
                bench
                    .patch(&images(&bench), "debian", json!({ "url": "http://10.0.0.1/whole.raw" }))
                    .await
            }
            "digest" => {
                bench
                    .patch(
                        &images(&bench),
                        "debian",
                        json!({ "digest": format!("sha256:{}", "cd".repeat(32)) }),
                    )
                    .await
            }
            "format" => bench.patch(&images(&bench), "debian", json!({ "format": "Qcow2" })).await,
            _ => bench.patch(&bench.instances(), "web", json!({ "image": "small" })).await,
        }
        instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
        let (kind, id) = machine.obeyed.last().unwrap();
        assert_eq!(*kind, OrderKind::Image);
        assert_ne!(*id, first.id, "a corrected order is another order");
        let status = bench.instance("web").await.status.unwrap();
        assert!(
            condition(&status.conditions, conditions::ORDER_FAILED).is_none(),
            "the fault is forgotten"
        );
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_nobody_gave_up_is_not_touched_until_somebody_does() {
    let bench = bench().await;
    bench.policy(|p| p.erase_foreign_data = false).await;
    let mut machine = Machine::new(&bench.client, "m-data", 1);
    machine.contents = foreign("photos");
    let before = machine.contents.clone();
    machine.open_session().await;
    let stopped = machine
        .live_until(30, "ForeignData", |h| h.status.as_ref().is_some_and(|s| s.reason == "ForeignData"))
        .await;
    let message = stopped.status.unwrap().message;
    assert!(
        message.contains("kubectl patch bmh m-data") && message.contains(&before.fingerprint),
        "{message}"
    );
    assert_eq!(machine.contents, before);
    assert!(machine.obeyed.is_empty());
    bench
        .patch(
            &hardware(&bench),
            "m-data",
            json!({ "eraseConsent": { "fingerprints": [before.fingerprint] } }),
        )
        .await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    assert_eq!(machine.contents, DiskContents::blank());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_disk_stops_the_order_and_naming_the_new_one_goes_on() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    let mut machine = ready(&bench, "m-swap", 1).await;
    // No image yet: the claim waits, and the disk is swapped meanwhile.
    bench.create_instance("web", |_| {}).await;
    instance_until(&bench, &mut machine, "web", "ImageNotFound", |i| {
        i.status
            .as_ref()
            .is_some_and(|s| s.reason == "ImageNotFound" && s.message.contains("debian"))
    })
    .await;
    machine.disk_serial = "OTHER".to_owned();
    machine.disk_bytes = 10 << 30;
    machine.open_session().await;
    bench.image("debian").await;
    let instance = instance_until(&bench, &mut machine, "web", "the fault", |i| {
        i.status.as_ref().is_some_and(|s| s.message.contains("spec.rootDisk"))
    })
    .await;
    assert!(machine.obeyed.is_empty(), "{:?}: {:?}", instance.status, machine.obeyed);
    bench
        .patch(&hardware(&bench), "m-swap", json!({ "rootDisk": { "serial": "OTHER" } }))
        .await;
    instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_secret_is_named_and_found_when_it_comes() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut machine = ready(&bench, "m-secret", 1).await;
    bench
        .create_instance("web", |s| {
            s.user_data = Some(api::common::LocalSecretKey {
                name: "cloud".to_owned(),
                key: "userdata".to_owned(),
            });
        })
        .await;
    let waits = instance_until(&bench, &mut machine, "web", "SecretNotFound", |i| {
        i.status.as_ref().is_some_and(|s| s.reason == "SecretNotFound")
    })
    .await;
    assert!(waits.status.unwrap().message.contains("Secret default/cloud"));
    let log = bench.take_log();
    assert!(
        log.iter().all(|r| !r.ends_with("/secrets")),
        "no Secret is listed or watched: {log:?}"
    );
    let secrets: Api<Secret> = Api::namespaced(bench.client.clone(), "default");
    // A namesake in another namespace must not do.
    let namesake = |namespace: &str, text: &str| Secret {
        metadata: ObjectMeta {
            name: Some("cloud".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("userdata".to_owned(), ByteString(text.as_bytes().to_vec()))].into()),
        ..Secret::default()
    };
    let other: Api<Secret> = Api::namespaced(bench.client.clone(), "kube-baremetal-system");
    create(&other, &namesake("kube-baremetal-system", "#cloud-config stolen")).await;
    create(&secrets, &namesake("default", "#cloud-config mine")).await;
    instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    let seed = machine.seed.as_ref().unwrap();
    assert_eq!(seed.files["openstack/latest/user_data"], "#cloud-config mine");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_while_the_machine_is_unplugged_waits_visibly_and_can_be_forced() {
    let bench = bench_with(|c| c.lifecycle.power_cycle_after = jiff::SignedDuration::from_secs(1)).await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut machine = ready(&bench, "m-away", 1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.create_instance("web", |_| {}).await;
    instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    machine.place = crate::support::machine::Place::Off;
    bench.delete_instance("web").await;
    let waits = instance_until(&bench, &mut machine, "web", "PowerCycleNeeded", |i| {
        i.status
            .as_ref()
            .is_some_and(|s| conditions::is_true(&s.conditions, conditions::POWER_CYCLE_NEEDED))
    })
    .await;
    let status = waits.status.unwrap();
    let (_, message) = condition(&status.conditions, conditions::POWER_CYCLE_NEEDED).unwrap();
    for part in ["Example", "Desktop 1", "SN-m-away", "52:54:00:00:01:01", "switch1 port 14"] {
        assert!(message.contains(part), "{part} is named: {message}");
    }
    assert_eq!(status.phase, InstancePhase::Terminating);
    bench.patch(&bench.instances(), "web", json!({ "forceRelease": true })).await;
    gone(&bench, &mut machine, "web").await;
    let left = machine
        .live_until(30, "Quarantined without a claim", |h| {
            phase_is(HardwarePhase::Quarantined)(h) && h.spec.claim_ref.is_none()
        })
        .await;
    assert!(left.status.unwrap().message.contains("spec.retryToken"));
    assert_eq!(machine.contents.state, ContentsState::Marked, "nothing was erased");
    // It is not given away.
    bench.create_instance("next", |_| {}).await;
    instance_until(&bench, &mut machine, "next", "why pending", |i| {
        i.status.as_ref().is_some_and(|s| s.message.contains("1 not ready"))
    })
    .await;
    // A person finds it, boots it and says: clean it.
    machine.open_session().await;
    bench.patch(&hardware(&bench), "m-away", json!({ "retryToken": "1" })).await;
    instance_at(&bench, &mut machine, "next", InstancePhase::Running).await;
    let kinds: Vec<_> = machine.obeyed.iter().map(|o| o.0).collect();
    assert_eq!(kinds, [OrderKind::Image, OrderKind::Erase, OrderKind::Image]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_goes_on_by_itself_when_somebody_switches_the_machine_on() {
    let bench = bench_with(|c| c.lifecycle.power_cycle_after = jiff::SignedDuration::from_secs(1)).await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut machine = ready(&bench, "m-back", 1).await;
    machine.guest = false;
    // Times in objects have whole seconds: the boot from disk must lie in a later one than the session.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.create_instance("web", |s| s.guest_helper = false).await;
    instance_at(&bench, &mut machine, "web", InstancePhase::Booting).await;
    bench.delete_instance("web").await;
    instance_until(&bench, &mut machine, "web", "PowerCycleNeeded", |i| {
        i.status
            .as_ref()
            .is_some_and(|s| conditions::is_true(&s.conditions, conditions::POWER_CYCLE_NEEDED))
    })
    .await;
    machine.power_on().await;
    gone(&bench, &mut machine, "web").await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    assert_eq!(machine.contents, DiskContents::blank());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_instance_is_not_released() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut machine = ready(&bench, "m-safe", 1).await;
    bench.create_instance("web", |s| s.deletion_protection = true).await;
    instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    bench.delete_instance("web").await;
    instance_until(&bench, &mut machine, "web", "DeletionProtected", |i| {
        i.status.as_ref().is_some_and(|s| s.reason == "DeletionProtected")
    })
    .await;
    for _ in 0..50 {
        machine.step().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(machine.contents.state, ContentsState::Marked);
    bench.patch(&bench.instances(), "web", json!({ "deletionProtection": false })).await;
    gone(&bench, &mut machine, "web").await;
    assert_eq!(machine.contents, DiskContents::blank());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_policy_is_told_and_the_next_one_accepts() {
    let bench = bench().await;
    bench
        .policy(|p| {
            p.when = "inventory.nosuch.field > 3".to_owned();
            p.priority = 10;
        })
        .await;
    let spec = api::BareMetalDiscoveryPolicySpec {
        when: "inventory.cpu.threads >= 4".to_owned(),
        labels: [("size".to_owned(), "small".to_owned())].into(),
        ..api::BareMetalDiscoveryPolicySpec::default()
    };
    create(&Api::all(bench.client.clone()), &api::BareMetalDiscoveryPolicy::new("second", spec)).await;
    let machine = ready(&bench, "m-policy", 1).await;
    assert_eq!(machine.hardware().await.unwrap().labels()["size"], "small");
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(bench.client.clone());
    crate::support::until("the broken policy is told", || async {
        let all = events.list(&kube::api::ListParams::default()).await.unwrap().items;
        all.iter().any(|e| e.reason.as_deref() == Some("PolicyUnusable")).then_some(())
    })
    .await;
    bench.end().await;
}
