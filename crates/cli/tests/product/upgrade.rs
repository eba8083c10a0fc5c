//! From the previous revision of the definitions to this one, with machines in use stored under the previous one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use lab::swarm::tenant;

use crate::{
    cluster::{Cluster, chart},
    herd::{Herd, hardware, must, turn},
};

const MACHINES: usize = 4;

/// The chart as it was: with the definitions of before, and without what they do not know.
fn chart_before(to: &Path) -> Result<PathBuf> {
    copy(&chart(), to)?;
    let definitions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/product/fixtures/crds-before.yaml");
    std::fs::copy(definitions, to.join("files/crds.yaml"))?;
    std::fs::remove_file(to.join("templates/protection.yaml"))?;
    Ok(to.to_owned())
}

/// A folder, with the files that its links point at.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, target) = (entry?.path(), to.join("x"));
        let target = target.with_file_name(entry.file_name().context("a name")?);
        if entry.is_dir() {
            copy(&entry, &target)?;
        } else {
            std::fs::copy(&entry, &target).with_context(|| format!("copying {}", entry.display()))?;
        }
    }
    Ok(())
}

async fn knows_paused(cluster: &Cluster) -> Result<bool> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let found = serde_json::to_value(definitions.get("baremetalhardware.kube-baremetal.io").await?)?;
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/paused";
    Ok(found.pointer(at).is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_in_use_live_through_an_upgrade_of_the_definitions() {
    upgraded().await.unwrap();
}

async fn upgraded() -> Result<()> {
    let _turn = turn().await;
    let folder = tempfile::tempdir()?;
    let before = chart_before(&folder.path().join("kube-baremetal"))?;
    let ports = lab::ports::free(std::net::Ipv4Addr::LOCALHOST)?;
    let mut cluster = Cluster::start_from(before, vec![ports], false, &[]).await?;
    ensure!(!knows_paused(&cluster).await?, "the fixture is not the revision before");
    let fleet = cluster.fleet(1, 1, MACHINES).await?;
    tenant::prepare(&cluster.client, true).await?;
    let herd = Herd::start(MACHINES, 13, cluster.boot(1));
    tenant::create(&cluster.client, 3).await?;
    herd.running(&cluster.client, 3).await?;

    let stored = hardware(&cluster.client).await?;
    let since = herd.now();
    cluster.chart = chart();
    cluster.helm_release("upgrade", &[])?;
    ensure!(knows_paused(&cluster).await?, "the upgrade left the definitions as they were");
    ensure!(hardware(&cluster.client).await? == stored, "stored objects read otherwise now");
    // As a rolling update would: every process is another one.
    let plans: Vec<_> = fleet.lock().drain(..).map(|process| process.plan.clone()).collect();
    let mut processes = plans.iter().map(rig::roles::Plan::start).collect::<Result<Vec<_>>>()?;
    for process in &mut processes {
        process.ready().await?;
    }
    // What the new revision knows can be said of an object that was stored under the previous one.
    let kubeconfig = cluster.plane.kubeconfig();
    must(&["pause"], &kubeconfig).await?;
    must(&["resume"], &kubeconfig).await?;
    herd.running(&cluster.client, 3).await?;
    ensure!(since.begun().is_empty(), "an order: {:?}", since.begun());
    tenant::create(&cluster.client, MACHINES).await?;
    herd.running(&cluster.client, MACHINES).await?;
    tenant::delete(&cluster.client, MACHINES).await?;
    herd.erased(&cluster.client, MACHINES).await?;
    herd.end().await
}
