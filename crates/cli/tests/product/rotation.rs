//! New keys while machines run: helpers that know only the earlier ones are heard and obeyed, until a person ends that.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lab::swarm::tenant;

use crate::herd::{embedded, must, refused, turn};

const MACHINES: usize = 4;

/// The pin that a machine which boots now is told.
async fn pin(boot: SocketAddr) -> Result<String> {
    let asked = "/boot/ipxe?uuid=&mac=02-00-00-00-00-99&platform=pcbios&buildarch=x86_64";
    let (_, script) = rig::roles::page(boot, asked).await.context("netboot does not answer")?;
    let word = script.split_whitespace().find_map(|w| w.strip_prefix("kbm.ca="));
    Ok(word.with_context(|| format!("no pin in {script}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helpers_that_know_only_earlier_keys_are_heard_until_the_overlap_ends() {
    rotated().await.unwrap();
}

async fn rotated() -> Result<()> {
    let _turn = turn().await;
    let folder = tempfile::tempdir()?;
    let (setup, server, client, herd) = embedded(folder.path(), MACHINES, 11).await?;
    tenant::create(&client, 3).await?;
    herd.running(&client, 3).await?;

    let kubeconfig = setup.kubeconfig();
    let pin_before = pin(setup.boot()).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-baremetal-netboot");
    let before = secrets.get("netboot-keys").await?.data.unwrap_or_default();
    for what in ["ca", "token-key", "ca", "token-key"] {
        must(&["rotate", what], &kubeconfig).await?;
    }
    let now = secrets.get("netboot-keys").await?.data.unwrap_or_default();
    ensure!(
        before["ca.crt"] != now["ca.crt"] && before["token.key"] != now["token.key"],
        "nothing was rotated"
    );
    ensure!(
        before["guest-order.key"] == now["guest-order.key"],
        "helpers would obey nobody any more"
    );

    // Everything connects and registers anew: those in use with the pin and the token that stand on their disks, the free one with a new pin.
    herd.until("in use", async || {
        let pin = pin(setup.boot()).await?;
        Ok(if pin == pin_before { Err(pin) } else { Ok(()) })
    })
    .await?;
    let since = herd.now();
    let herd = herd.power_cycle().await;
    herd.until("registered anew", async || {
        let count = since.registered();
        Ok(if count >= 3 { Ok(()) } else { Err(format!("{count} of 3")) })
    })
    .await?;
    herd.running(&client, 3).await?;
    ensure!(since.begun().is_empty(), "an order: {:?}", since.begun());
    // And is obeyed under them.
    herd.delete(&client, "i-00000").await?;
    herd.erased(&client, 1).await?;
    tenant::create(&client, MACHINES).await?;
    herd.running(&client, MACHINES).await?;

    for what in ["ca", "token-key"] {
        refused(&["rotate", what, "--end-overlap"], &kubeconfig, "swarm/i-00001").await?;
        must(&["rotate", what, "--end-overlap", "--strand-helpers"], &kubeconfig).await?;
        refused(&["rotate", what, "--end-overlap"], &kubeconfig, "no overlap").await?;
    }
    let left = secrets.get("netboot-keys").await?.data.unwrap_or_default();
    ensure!(
        left.keys().all(|k| !k.starts_with("token-previous") && k != "ca-chain.crt"),
        "earlier keys are left: {:?}",
        left.keys()
    );
    herd.end().await?;
    server.stop().await
}
