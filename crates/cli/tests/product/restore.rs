//! Backup and restore, as by a tool that knows nothing of us: objects come back without status and with new uids, or from a time before a machine was claimed. No machine in use is erased.

use std::{io::Write, path::Path, process::Stdio};

use agent_protocol::disk::ContentsState;
use anyhow::{Context, Result, ensure};
use api::{BareMetalDiscovery, BareMetalHardware, HardwarePhase};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use lab::swarm::{server::Setup, tenant};
use serde_json::{Value, json};

use crate::herd::{Herd, embedded, hardware, instances, phase, turn};

const MACHINES: usize = 4;

fn kubectl(kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut child = std::process::Command::new(rig::binary()?)
        .arg("kubectl")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("KUBECTL_KUBERC", "false")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut to = child.stdin.take().context("its input")?;
    to.write_all(input.unwrap_or_default().as_bytes())?;
    drop(to);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Everything that such a tool saves, as it would restore it: no status, and of the metadata names, labels and annotations only.
fn backup(kubeconfig: &Path) -> Result<String> {
    let kinds = "bmdp,bmn,bmimg,bmh,bmd,bmi,bma,bme";
    let mut saved = Vec::new();
    for what in [
        &["get", "namespace", "swarm"][..],
        &["get", "secret", "netboot-keys", "--namespace", "kube-baremetal-netboot"],
        &["get", "secret", "user-data", "--namespace", "swarm"],
        &["get", kinds, "--all-namespaces"],
    ] {
        let found: Value = serde_json::from_str(&kubectl(kubeconfig, &[what, &["-o", "json"]].concat(), None)?)?;
        match found.get("items").and_then(Value::as_array) {
            Some(items) => saved.extend(items.iter().cloned()),
            None => saved.push(found),
        }
    }
    let texts = saved.into_iter().map(|mut object| {
        let old = object["metadata"].take();
        let kept = ["name", "namespace", "labels", "annotations"];
        object["metadata"] = kept.iter().filter_map(|k| Some(((*k).to_owned(), old.get(k)?.clone()))).collect();
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        object.to_string()
    });
    Ok(texts.collect::<Vec<_>>().join("\n"))
}

/// A new, empty API on the same addresses, with only that in it; then everything starts.
async fn restored(before: &Setup, folder: &Path, name: &str, backup: &str) -> Result<(lab::swarm::server::Server, Client, Setup)> {
    let mut setup = before.clone();
    setup.state = folder.join(name);
    std::fs::create_dir_all(&setup.state)?;
    let mut quiet = setup.start(&["--api-only".to_owned()])?;
    quiet.ready().await?;
    kubectl(&setup.kubeconfig(), &["create", "-f", "-"], Some(backup))?;
    quiet.stop().await?;
    let mut server = setup.start(&[])?;
    let client = server.ready().await?;
    Ok((server, client, setup))
}

struct World {
    folder: tempfile::TempDir,
    setup: Setup,
    server: lab::swarm::server::Server,
    client: Client,
    herd: Herd,
}

async fn world(seed: u64) -> Result<World> {
    let folder = tempfile::tempdir()?;
    let (setup, server, client, herd) = embedded(&folder.path().join("first"), MACHINES, seed).await?;
    herd.until("ready", async || all_ready(&client).await).await?;
    Ok(World {
        folder,
        setup,
        server,
        client,
        herd,
    })
}

async fn all_ready(client: &Client) -> Result<Result<(), String>> {
    let phases: Vec<_> = hardware(client).await?.iter().map(|h| h.status.as_ref().map(|s| s.phase)).collect();
    let ready = phases.iter().filter(|p| **p == Some(HardwarePhase::Ready)).count();
    Ok(if ready == MACHINES { Ok(()) } else { Err(format!("{phases:?}")) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_without_status_and_with_new_uids_find_their_running_systems() {
    without_status().await.unwrap();
}

async fn without_status() -> Result<()> {
    let _turn = turn().await;
    let World {
        folder,
        setup,
        server,
        client,
        herd,
    } = world(17).await?;
    tenant::create(&client, 3).await?;
    herd.running(&client, 3).await?;
    let saved = backup(&setup.kubeconfig())?;
    server.stop().await?;

    // By the word of the running helpers alone, no machine is switched off.
    let since = herd.now();
    let (server, client, setup) = restored(&setup, folder.path(), "second", &saved).await?;
    herd.running(&client, 3).await?;
    ensure!(since.begun().is_empty(), "an order: {:?}", since.begun());
    let known = hardware(&client).await?;
    let earlier = known
        .iter()
        .filter(|h| h.spec.claim_ref.as_ref().is_some_and(|c| c.installation_uid.is_some()));
    ensure!(earlier.count() == 3, "machines know the uid that stands on their disks");

    // Once more; this time the power failed everywhere, and the markers on the disks tell.
    let saved = backup(&setup.kubeconfig())?;
    server.stop().await?;
    let since = herd.now();
    let dark = herd.unplug().await;
    let (server, client, setup) = restored(&setup, folder.path(), "third", &saved).await?;
    let herd = dark.plug_in();
    herd.running(&client, 3).await?;
    ensure!(since.begun().is_empty(), "an order: {:?}", since.begun());
    let discoveries = Api::<BareMetalDiscovery>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items;
    ensure!(
        discoveries.len() == MACHINES,
        "a machine was taken for another one: {}",
        discoveries.len()
    );

    // Status is lost where everything else stays.
    server.stop().await?;
    let mut quiet = setup.start(&["--api-only".to_owned()])?;
    lose_status(&quiet.ready().await?).await?;
    quiet.stop().await?;
    let mut server = setup.start(&[])?;
    let client = server.ready().await?;
    let since = herd.now();
    herd.running(&client, 3).await?;
    ensure!(since.begun().is_empty(), "an order: {:?}", since.begun());

    // And what is deleted is erased, under whatever uid it was installed.
    tenant::delete(&client, 3).await?;
    herd.erased(&client, 3).await?;
    herd.until("free", async || all_ready(&client).await).await?;
    let addresses: Api<api::BareMetalAddress> = Api::all(client.clone());
    let held = addresses.list(&ListParams::default()).await?.items.len();
    ensure!(held == 0, "{held} addresses are held for nobody");
    herd.end().await?;
    server.stop().await
}

async fn lose_status(client: &Client) -> Result<()> {
    let machines: Api<BareMetalHardware> = Api::all(client.clone());
    for mut machine in hardware(client).await? {
        machine.status = None;
        machines
            .replace_status(&machine.name_any(), &PostParams::default(), &machine)
            .await?;
    }
    for mut instance in instances(client).await? {
        instance.status = None;
        let tenants = crate::herd::tenants(client);
        tenants
            .replace_status(&instance.name_any(), &PostParams::default(), &instance)
            .await?;
    }
    let seen: Api<BareMetalDiscovery> = Api::all(client.clone());
    for one in seen.list(&ListParams::default()).await?.items {
        let gone = json!({ "status": null });
        seen.patch(&one.name_any(), &PatchParams::default(), &Patch::Merge(gone)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_before_the_claim_erases_nothing() {
    older_than_the_claim().await.unwrap();
}

async fn older_than_the_claim() -> Result<()> {
    let _turn = turn().await;
    let World {
        folder,
        setup,
        server,
        client,
        herd,
    } = world(19).await?;
    // The policy allows to erase what machines hold when they are accepted; that must not cover what was installed since.
    let saved = backup(&setup.kubeconfig())?;
    tenant::create(&client, 3).await?;
    let instances = herd.running(&client, 3).await?;
    ensure!(instances.iter().all(|i| phase(i) == api::InstancePhase::Running), "they run");
    let installed = herd.installed();
    server.stop().await?;

    let since = herd.now();
    let (server, client, _) = restored(&setup, folder.path(), "second", &saved).await?;
    // A tenant asks for a machine at once; only the one that is really free may be taken.
    tenant::create(&client, 1).await?;
    let herd = herd.power_cycle().await;
    herd.running(&client, 1).await?;
    herd.until("told what holds them back", async || {
        let waiting = hardware(&client).await?;
        let held = waiting.iter().filter(|h| {
            h.status
                .as_ref()
                .is_some_and(|s| s.reason == "ForeignData" && s.message.contains("of the installation for swarm/"))
        });
        let count = held.count();
        Ok(if count == 3 { Ok(()) } else { Err(format!("{count} of 3")) })
    })
    .await?;
    let begun = since.begun();
    ensure!(
        begun.keys().all(|machine| !installed.contains_key(machine)) && begun.len() == 1,
        "a machine in use was touched: {begun:?}, in use {installed:?}"
    );
    let seen = Api::<BareMetalDiscovery>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items;
    let marked = seen
        .iter()
        .flat_map(|d| d.status.iter())
        .flat_map(|s| s.inventory.iter())
        .flat_map(|i| &i.disks);
    let whole = marked.filter(|d| d.contents.state == ContentsState::Marked).count();
    ensure!(whole >= 3, "{whole} installations are whole");
    herd.end().await?;
    server.stop().await
}
