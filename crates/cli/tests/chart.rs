//! The chart: what it renders, that it is the same as the kustomize files, and that a real API server, with its roles and nothing more, runs machines through their whole life.

mod cluster;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::{
    BareMetalDiscovery, BareMetalEndpoint, BareMetalHardware, BareMetalImage, BareMetalImageSpec, BareMetalInstance, common::NetworkRef,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    coordination::v1::Lease,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use lab::swarm::{faults, machine::Timing};
use rig::{accounts::user_name, audit, helm::Helm};
use serde_json::Value;

use cluster::{Cluster, NETBOOT, SYSTEM, chart, deploy};

const SERVERS: &str = "servers={https://192.0.2.10:8443}";

/// Ways to set values, each of which must give something that an API server takes.
const CHOICES: [&[&str]; 7] = [
    &[],
    &[
        "netboot.kind=Deployment",
        "netboot.hostNetwork=false",
        "netboot.service.type=LoadBalancer",
    ],
    &[
        "netboot.httpPort=80",
        "netboot.agentPort=443",
        "operator.replicas=1",
        "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ],
    &["deletionProtection=false"],
    &["netboot.dhcp.interfaces={eth0=full,eth1}"],
    &["imageStore.enabled=true", "netboot.hostNetwork=false"],
    &[
        "monitoring.serviceMonitor=true",
        "monitoring.prometheusRule=true",
        "monitoring.dashboard=true",
        "netboot.kind=Deployment",
    ],
];

fn helm() -> (Helm, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    (Helm::new(home.path(), None), home)
}

fn template(helm: &Helm, settings: &[&str]) -> Result<String> {
    let chart = chart();
    let mut arguments = vec![
        "template",
        "kube-baremetal",
        chart.to_str().unwrap(),
        "--namespace",
        SYSTEM.0,
        "--set",
        SERVERS,
    ];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    helm.must(&arguments)
}

/// The documents of a YAML stream, by kind, namespace and name.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let part = |object: &Value, at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = |o: Value| {
        (
            format!(
                "{} {}/{}",
                part(&o, "/kind"),
                part(&o, "/metadata/namespace"),
                part(&o, "/metadata/name")
            ),
            o,
        )
    };
    documents.into_iter().filter(|d| !d.is_null()).map(named).collect()
}

/// Whole numbers as such: kustomize writes 0 for 0.0.
fn whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15) {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(whole),
        Value::Object(values) => values.values_mut().for_each(whole),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The objects without what is right only in the chart.
fn comparable(text: &str) -> BTreeMap<String, Value> {
    let mut objects = objects(text);
    // Helm's to make, when it uninstalls.
    objects.retain(|_, object| object.pointer("/metadata/annotations/helm.sh~1hook").is_none());
    for object in objects.values_mut() {
        whole(object);
        if (object["kind"] == "CustomResourceDefinition" || object["kind"] == "Namespace")
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("annotations");
        }
    }
    objects
}

#[test]
fn the_chart_is_clean() {
    let (helm, _home) = helm();
    let chart = chart();
    let said = helm.must(&["lint", "--strict", chart.to_str().unwrap(), "--set", SERVERS]).unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
    let version = helm.must(&["show", "chart", chart.to_str().unwrap()]).unwrap();
    assert!(version.contains(&format!("appVersion: {}", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn wrong_values_are_refused_by_name() {
    let (helm, _home) = helm();
    let chart = chart();
    for (setting, named) in [
        ("log=info", "servers"),
        ("servers={http://192.0.2.10}", "servers"),
        ("netboot.kind=StatefulSet", "kind"),
        ("operator.replicas=0", "replicas"),
        ("unaccepted=capture", "unaccepted"),
        ("netboot.hostNetwrok=true", "hostNetwrok"),
        ("netboot.agentPort=70000", "agentPort"),
        ("netboot.dhcp.interfaces={eth0=both}", "interfaces"),
        ("image.digest=latest", "digest"),
        ("networkPolicy.powerPorts.udp={70000}", "udp"),
        ("netboot.dhcp.interfaces={eth0},netboot.hostNetwork=false", "hostNetwork"),
    ] {
        let mut arguments = vec!["template", "x", chart.to_str().unwrap()];
        if !setting.starts_with("servers") && named != "servers" {
            arguments.extend(["--set", SERVERS]);
        }
        arguments.extend(["--set", setting]);
        let outcome = helm.run(&arguments).unwrap();
        assert!(
            !outcome.ok && outcome.complaints.contains(named),
            "{setting}: {}",
            outcome.complaints
        );
    }
}

#[test]
fn kustomize_gives_the_same() {
    let (helm, _home) = helm();
    let mut rendered = comparable(&template(&helm, &[]).unwrap());
    let mut command = std::process::Command::new(rig::binary().unwrap());
    let output = command
        .args(["kubectl", "kustomize"])
        .arg(deploy().join("kustomize"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut built = comparable(&String::from_utf8_lossy(&output.stdout));
    // The release's namespace is helm's to make.
    assert!(built.remove(&format!("Namespace /{}", SYSTEM.0)).is_some());
    assert_eq!(built.keys().collect::<Vec<_>>(), rendered.keys().collect::<Vec<_>>());
    for (name, object) in built {
        // Whole objects are too long to print.
        assert!(rendered.remove(&name) == Some(object), "{name} differs: run `make chart`");
    }
}

#[test]
fn the_rules_are_those_of_deploy_rbac() {
    let (helm, _home) = helm();
    let rendered = objects(&template(&helm, &[]).unwrap());
    let mut compared = 0;
    for file in ["operator", "netboot", "tenants"] {
        let text = std::fs::read_to_string(deploy().join(format!("rbac/{file}.yaml"))).unwrap();
        for (name, object) in objects(&text) {
            assert_eq!(rendered.get(&name), Some(&object), "{name}");
            compared += 1;
        }
    }
    let about_rights = |name: &&String| {
        ["Role ", "RoleBinding ", "ClusterRole ", "ClusterRoleBinding ", "ServiceAccount "]
            .iter()
            .any(|k| name.starts_with(k))
    };
    assert_eq!(rendered.keys().filter(about_rights).count(), compared, "and no others");
}

#[test]
fn containers_have_no_more_than_they_need() {
    let (helm, _home) = helm();
    for (choice, low_ports) in [(CHOICES[0], false), (CHOICES[1], false), (CHOICES[2], true)] {
        let mut seen = 0;
        for (name, object) in objects(&template(&helm, choice).unwrap()) {
            let Some(pod) = object.pointer("/spec/template/spec") else {
                continue;
            };
            seen += 1;
            assert_eq!(
                pod.pointer("/securityContext/seccompProfile/type"),
                Some(&"RuntimeDefault".into()),
                "{name}"
            );
            let allowed = low_ports && name.contains("netboot");
            assert_eq!(pod.pointer("/securityContext/runAsNonRoot").is_none(), allowed, "{name}");
            for container in pod["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}");
                let added = security["capabilities"].get("add").cloned();
                assert_eq!(added, allowed.then(|| serde_json::json!(["NET_BIND_SERVICE"])), "{name}");
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert_eq!(mount["readOnly"], true, "{name}");
                }
            }
        }
        assert_eq!(seen, 2, "operator and netboot");
    }
}

/// Minimal definitions of the Prometheus operator's kinds, so that the API server takes such objects.
fn monitoring_kinds() -> String {
    let one = |kind: &str, plural: &str| {
        serde_json::json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com"), "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]
            }
        })
        .to_string()
    };
    format!(
        "{}\n---\n{}\n",
        one("ServiceMonitor", "servicemonitors"),
        one("PrometheusRule", "prometheusrules")
    )
}

fn apply(cluster: &Cluster, text: &str, further: &[&str]) -> Result<()> {
    let path = cluster.dir.path().join("apply.yaml");
    std::fs::write(&path, text)?;
    let output = cluster
        .plane
        .kubectl()?
        .args(["apply", "--server-side", "--force-conflicts", "-f"])
        .arg(&path)
        .args(further)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether a service account may do something, by the API server's own word; nothing is tried.
async fn may(cluster: &Cluster, (namespace, name): (&str, &str), verb: &str, resource: &str, place: &str) -> Result<bool> {
    let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user_name(namespace, name)),
            groups: Some(vec!["system:authenticated".to_owned(), "system:serviceaccounts".to_owned()]),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                namespace: Some(place.to_owned()),
                name: Some("some".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::all(cluster.client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.context("no answer")?.allowed)
}

async fn rights_are_narrow(cluster: &Cluster) -> Result<()> {
    for (who, verb, resource, place, expected) in [
        (NETBOOT, "get", "secrets", NETBOOT.0, true),
        (NETBOOT, "get", "secrets", SYSTEM.0, false),
        (NETBOOT, "get", "secrets", "tenant", false),
        (NETBOOT, "list", "secrets", NETBOOT.0, true),
        (NETBOOT, "list", "secrets", SYSTEM.0, false),
        (NETBOOT, "update", "secrets", NETBOOT.0, false),
        (NETBOOT, "update", "kube-baremetal.io/baremetalhardware", "", false),
        (SYSTEM, "get", "secrets", "tenant", true),
        (SYSTEM, "list", "secrets", "tenant", false),
        (SYSTEM, "watch", "secrets", "tenant", false),
        (SYSTEM, "create", "secrets", "tenant", false),
        (SYSTEM, "update", "kube-baremetal.io/baremetaldiscoveries", "", false),
        (SYSTEM, "update", "coordination.k8s.io/leases", SYSTEM.0, false),
    ] {
        let found = may(cluster, who, verb, resource, place).await?;
        ensure!(
            found == expected,
            "{} may {verb} {resource} in {place:?}: {found}, expected {expected}",
            who.1
        );
    }
    Ok(())
}

/// A machine is plugged into another network before an image is installed on it: its endpoint makes place for another one.
async fn replugged(cluster: &Cluster) -> Result<()> {
    let spec = serde_json::json!({ "image": "simulated", "requests": { "cpu": "1" } });
    let instance = BareMetalInstance::new("replugged", serde_json::from_value(spec)?);
    let instances: Api<BareMetalInstance> = Api::namespaced(cluster.client.clone(), "swarm");
    instances.create(&PostParams::default(), &instance).await?;
    let endpoints: Api<BareMetalEndpoint> = Api::namespaced(cluster.client.clone(), "swarm");
    let limit = Instant::now() + Duration::from_secs(30);
    let first = loop {
        // Those of the swarm are still being collected.
        let all = endpoints.list(&ListParams::default()).await?.items;
        if let Some(found) = all.into_iter().find(|e| e.spec.instance_name == "replugged") {
            break found;
        }
        ensure!(
            Instant::now() < limit,
            "the instance got no endpoint: {:?}",
            instances.get("replugged").await?.status
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let machines: Api<BareMetalHardware> = Api::all(cluster.client.clone());
    let mut nics = machines.get(&first.spec.hardware_name).await?.spec.nics;
    for nic in &mut nics {
        nic.network_ref = NetworkRef::network("elsewhere");
    }
    let change = serde_json::json!({ "spec": { "nics": nics } });
    machines
        .patch(&first.spec.hardware_name, &PatchParams::default(), &Patch::Merge(change))
        .await?;
    while endpoints
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .any(|e| e.uid() == first.uid())
    {
        ensure!(Instant::now() < limit, "the endpoint of the old network is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A machine whose agent found a BMC: the operator makes a Secret for a user in it, in its own namespace.
async fn bmc_user_is_asked_for(cluster: &Cluster) -> Result<()> {
    const NAME: &str = "with-bmc";
    let (_, sealing_key) = agent_protocol::seed::generate_sealing_key()?;
    let discovery = serde_json::json!({
        "apiVersion": "kube-baremetal.io/v1alpha1", "kind": "BareMetalDiscovery", "metadata": { "name": NAME }, "spec": {},
        "status": {
            "inventory": {
                "system": {}, "cpu": { "architecture": "amd64", "sockets": 1, "cores": 1, "threads": 1 }, "memory": { "bytes": 1 }, "firmware": { "mode": "BIOS" },
                "bmc": { "interface": "ipmi", "channels": [{ "number": 1, "address": "192.0.2.9/24" }] }
            },
            "session": {
                "id": "s", "nonce": "s", "tokenIssuedAt": 0, "thumbprint": "t", "signingKey": "", "sealingKey": sealing_key, "bootMac": "52:54:00:ff:ff:01", "address": "192.0.2.8",
                "replica": "r", "openedAt": Timestamp::now().to_string(), "agentVersion": "0", "proof": "Proven"
            }
        }
    });
    let discoveries: Api<BareMetalDiscovery> = Api::all(cluster.client.clone());
    discoveries
        .create(&PostParams::default(), &serde_json::from_value(discovery)?)
        .await?;
    let machines: Api<BareMetalHardware> = Api::all(cluster.client.clone());
    let accepted = serde_json::json!({
        "apiVersion": "kube-baremetal.io/v1alpha1", "kind": "BareMetalHardware", "metadata": { "name": NAME },
        "spec": { "discoveryName": NAME, "powerFromBmc": {} }
    });
    machines.create(&PostParams::default(), &serde_json::from_value(accepted)?).await?;
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let status = machines.get(NAME).await?.status.unwrap_or_default();
        if status.bmc_user.is_some() {
            break;
        }
        ensure!(Instant::now() < limit, "nothing was asked of its agent: {:?}", status.conditions);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // In this order, so that it is not accepted once more.
    discoveries.delete(NAME, &DeleteParams::default()).await?;
    machines.delete(NAME, &DeleteParams::default()).await?;
    Ok(())
}

async fn holder(cluster: &Cluster) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM.0);
    let lease = leases.get("kube-baremetal-operator").await?;
    Ok(lease.spec.and_then(|s| s.holder_identity).filter(|h| !h.is_empty()))
}

/// Waits until another operator than `before` holds the Lease; how long that took.
async fn taken_over(cluster: &Cluster, before: &str) -> Result<(String, Duration)> {
    let begun = Instant::now();
    loop {
        if let Some(now) = holder(cluster).await?.filter(|h| h != before) {
            return Ok((now, begun.elapsed()));
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(40),
            "nobody took over from {before} within 40 s"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The process that holds the Lease: its identity begins with the replica's name.
fn place_of(fleet: &cluster::Fleet, holder: &str) -> Result<usize> {
    let plans = fleet.plans();
    let place = plans.iter().position(|p| holder.starts_with(&format!("{}_", p.name)));
    place.with_context(|| format!("{holder} is none of ours"))
}

/// Every figure that alerts and dashboard name is one that the roles show.
async fn figures_are_there(fleet: &cluster::Fleet) -> Result<()> {
    let mut shown = String::new();
    for index in 0..fleet.plans().len() {
        let monitor = fleet.plans()[index].monitor;
        shown.push_str(&rig::roles::page(monitor, "/metrics").await.context("no metrics")?.1);
    }
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(chart().join("files").join(file))?;
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names: std::collections::BTreeSet<&str> = words.filter(|w| w.starts_with("kube_baremetal_")).collect();
        ensure!(names.len() > 5, "{file} names hardly any figures");
        for name in names {
            // A family without a value yet shows its description only, and that without the suffix of its kind.
            let base = ["_total", "_bucket"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            ensure!(
                shown.contains(&format!("# TYPE {base} ")),
                "{file} names {name}, which no role shows"
            );
        }
    }
    Ok(())
}

/// An image is prepared by one replica and copied by the others.
async fn images_are_shared(cluster: &Cluster) -> Result<()> {
    let disk: Vec<u8> = (0..2u32 << 20).map(|at| (at / 13 % 251) as u8).collect();
    let digest = image::Digest::sha256_of(&disk).to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/disk.raw", listener.local_addr()?);
    let router = axum::Router::new().fallback(move || {
        let disk = disk.clone();
        async move { disk }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let images: Api<BareMetalImage> = Api::all(cluster.client.clone());
    let spec = BareMetalImageSpec {
        url,
        digest,
        ..BareMetalImageSpec::default()
    };
    images.create(&PostParams::default(), &BareMetalImage::new("shared", spec)).await?;
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let status = images.get("shared").await?.status.unwrap_or_default();
        if status.stores.len() == 3 && status.packed.is_some() {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "not held by three replicas: {status:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_live_with_the_rights_of_the_chart_and_no_right_is_idle() {
    life().await.unwrap();
}

async fn life() -> Result<()> {
    const MACHINES: usize = 40;
    let mut cluster = Cluster::start(3, false, &["--set", "monitoring.dashboard=true"]).await?;
    cluster.image_store = true;
    apply(&cluster, &monitoring_kinds(), &[])?;
    for choice in CHOICES {
        let rendered = template(&cluster.helm, choice)?;
        // The kinds of the Prometheus operator are served a moment after they were made.
        let limit = Instant::now() + Duration::from_secs(20);
        // As helm itself would upgrade.
        while let Err(problem) = apply(&cluster, &rendered, &["--dry-run=server", "--field-manager=helm"]) {
            ensure!(Instant::now() < limit, "with {choice:?}: {problem}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    rights_are_narrow(&cluster).await?;

    let fleet = cluster.fleet(2, 3, MACHINES).await?;
    let mut swarm = cluster.swarm(MACHINES);
    swarm.plan = faults::Plan::many(3);
    swarm.timing = Timing::short();
    let report = lab::swarm::drive(&swarm, &cluster.client, cluster.boot(3), &fleet).await?;
    println!("{report}");
    figures_are_there(&fleet).await?;
    images_are_shared(&cluster).await?;
    replugged(&cluster).await?;
    bmc_user_is_asked_for(&cluster).await?;

    // One that stops in order gives the Lease back; from one that dies it is taken when its time is over.
    let first = holder(&cluster).await?.context("nobody leads")?;
    let place = place_of(&fleet, &first)?;
    let mut leader = fleet.lock().remove(place);
    leader.stop().await?;
    let (second, took) = taken_over(&cluster, &first).await?;
    println!("takeover from a leader that stopped: {:.2} s", took.as_secs_f64());
    ensure!(took < Duration::from_secs(5), "the Lease was not given back: {took:?}");
    leader = leader.plan.start()?;
    leader.ready().await?;
    let place = place_of(&fleet, &second)?;
    let mut dead = fleet.lock().remove(place);
    dead.kill()?;
    let (_, took) = taken_over(&cluster, &second).await?;
    println!("takeover from a leader that was killed: {:.2} s", took.as_secs_f64());
    ensure!(took < Duration::from_secs(20), "takeover took {took:?}");

    leader.stop().await?;
    let rest: Vec<_> = fleet.lock().drain(..).collect();
    for mut process in rest {
        process.stop().await?;
    }
    // Watches are written down when they end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = audit::read(&cluster.plane.audit_log())?;
    let mut wrong = Vec::new();
    for (namespace, name) in [SYSTEM, NETBOOT] {
        let rights = audit::rights(&cluster.client, namespace, name).await?;
        ensure!(!rights.is_empty(), "{name} has no rights");
        let user = user_name(namespace, name);
        println!(
            "{name}: {} calls, {} rights",
            calls.iter().filter(|c| c.user == user).count(),
            rights.len()
        );
        wrong.extend(audit::compare(&user, &calls, &rights));
    }
    ensure!(wrong.is_empty(), "calls and rules do not fit:\n  {}", wrong.join("\n  "));

    cluster.helm_release("upgrade", &["--set", "operator.replicas=3"])?;
    // One machine is in use: by the instance `replugged`.
    deletions_are_refused(&cluster)?;
    // helm takes the release for one that is being uninstalled; it has to be told that it is not.
    cluster.helm.must(&["rollback", "kube-baremetal", "2", "--namespace", SYSTEM.0])?;
    cluster.helm_release("upgrade", &["--set", "deletionProtection=false"])?;
    cluster.helm.must(&["uninstall", "kube-baremetal", "--namespace", SYSTEM.0])?;
    let kept = cluster.plane.kubectl()?.args(["get", "bmh", "-o", "name"]).output()?;
    let kept = String::from_utf8_lossy(&kept.stdout).lines().count();
    ensure!(kept == MACHINES, "{kept} of {MACHINES} machines outlived the release");
    let keys = ["get", "secret", "netboot-keys", "--namespace", NETBOOT.0];
    ensure!(
        cluster.plane.kubectl()?.args(keys).status()?.success(),
        "the keys by which machines know netboot went with the release"
    );
    Ok(())
}

/// What would take a machine in use with it is refused by name, and the release stays whole.
fn deletions_are_refused(cluster: &Cluster) -> Result<()> {
    let kubectl = |arguments: &[&str]| -> Result<(bool, String)> {
        let output = cluster.plane.kubectl()?.args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), said))
    };
    let path = "jsonpath={.items[?(@.spec.claimRef)].metadata.name}";
    let (_, machine) = kubectl(&["get", "bmh", "-o", path])?;
    ensure!(!machine.is_empty() && !machine.contains(' '), "one machine is in use: {machine:?}");
    let refused = |said: &str| said.contains(&machine) && said.contains("is in use by swarm/replugged");
    let keys = ["delete", "secret", "netboot-keys", "--namespace", NETBOOT.0];
    for what in [
        &["delete", "bmh", &machine][..],
        &["delete", "bmh", "--all"],
        &["delete", "namespace", "swarm"],
        &["delete", "namespace", NETBOOT.0],
        &["delete", "namespace", SYSTEM.0],
        &["delete", "crd", "baremetalimages.kube-baremetal.io"],
        &keys,
    ] {
        // Whatever may be deleted is not: only the refusal is looked at.
        let (done, said) = kubectl(&[what, &["--wait=false"], &["--dry-run=server"][..]].concat())?;
        ensure!(!done && refused(&said), "{what:?}: {said}");
    }
    let outcome = cluster.helm.run(&["uninstall", "kube-baremetal", "--namespace", SYSTEM.0])?;
    ensure!(
        !outcome.ok && refused(&outcome.complaints),
        "helm uninstall: {}",
        outcome.complaints
    );
    for what in [
        ["deployment/kube-baremetal-operator", SYSTEM.0],
        ["daemonset/kube-baremetal-netboot", NETBOOT.0],
        ["serviceaccount/kube-baremetal-operator", SYSTEM.0],
    ] {
        let (there, said) = kubectl(&["get", what[0], "--namespace", what[1]])?;
        ensure!(there, "a refused uninstall took {}: {said}", what[0]);
    }
    // A free machine, another namespace and other kinds' definitions are nobody's business.
    let free = "jsonpath={.items[0].metadata.name}";
    let (_, idle) = kubectl(&["get", "bmh", "-o", free, "--field-selector", &format!("metadata.name!={machine}")])?;
    for what in [
        &["delete", "bmh", &idle][..],
        &["delete", "namespace", "default"],
        &["delete", "crd", "prometheusrules.monitoring.coreos.com"],
    ] {
        let (done, said) = kubectl(&[what, &["--wait=false"], &["--dry-run=server"][..]].concat())?;
        // Kubernetes itself keeps `default`.
        ensure!(done || said.contains("this namespace may not be deleted"), "{what:?}: {said}");
    }
    Ok(())
}
