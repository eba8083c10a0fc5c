//! Moving between the embedded API and a real one with machines at all points of their lives, there and back: nothing that is installed is erased or written again.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use agent_protocol::order::OrderKind;
use anyhow::{Context, Result, ensure};
use api::{BareMetalDiscovery, InstancePhase};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use lab::swarm::tenant;

use crate::{
    cluster::Cluster,
    herd::{command, embedded, hardware, instances, must, phase, refused, tenants, turn},
};

const MACHINES: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_move_from_the_embedded_api_to_a_real_one_and_back() {
    there_and_back().await.unwrap();
}

async fn there_and_back() -> Result<()> {
    let _turn = turn().await;
    let folder = tempfile::tempdir()?;
    let (setup, server, client, herd) = embedded(&folder.path().join("embedded"), MACHINES, 7).await?;
    tenant::create(&client, 5).await?;
    herd.running(&client, 5).await?;

    // The other API, meanwhile; its netboot will answer where machines look for it.
    let [http, agent] = setup.ports();
    let [monitor] = lab::ports::free(std::net::Ipv4Addr::LOCALHOST)?;
    let cluster = Cluster::start_on(vec![[http, agent, monitor]], false, &[]).await?;
    let there = cluster.plane.kubeconfig();

    // Some in the middle of things: two being written, one being released.
    tenant::create(&client, 7).await?;
    tenants(&client).delete("i-00000", &DeleteParams::default()).await?;
    herd.until("imaging", async || {
        let all = instances(&client).await?;
        let writing = all.iter().any(|i| phase(i) == InstancePhase::Imaging);
        Ok(if writing { Ok(()) } else { Err("none".to_owned()) })
    })
    .await?;
    let archive = folder.path().join("archive");
    let archive_path = archive.to_str().context("a path that is no text")?.to_owned();
    let here = setup.kubeconfig();
    let said = must(&["export", "--output", &archive_path], &here).await?;
    ensure!(
        said.contains("Secret kube-baremetal-netboot/netboot-keys") && said.contains("Secret swarm/user-data"),
        "{said}"
    );
    ensure!(
        std::fs::metadata(&archive)?.permissions().mode() & 0o777 == 0o600,
        "the archive is open to others"
    );
    let after = herd.now();
    let before_uids: BTreeSet<_> = instances(&client).await?.iter().filter_map(ResourceExt::uid).collect();
    let on_disks = herd.installed();
    ensure!(on_disks.len() >= 5, "{on_disks:?}");

    // Nothing is decided any more, whatever happens here.
    refused(&["resume"], &here, "--give-up-move").await?;
    tenant::create(&client, MACHINES).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(after.begun().is_empty(), "an order after the export: {:?}", after.begun());
    server.stop().await?;

    // A stranger of the same name is not overwritten, and nothing is half done then.
    let strangers: Api<api::BareMetalImage> = Api::all(cluster.client.clone());
    let spec = serde_json::json!({"url": "https://elsewhere.example/x", "digest": format!("sha256:{}", "7".repeat(64)), "format": "Raw"});
    strangers
        .create(
            &PostParams::default(),
            &api::BareMetalImage::new("simulated", serde_json::from_value(spec)?),
        )
        .await?;
    refused(&["import", &archive_path], &there, "BareMetalImage simulated").await?;
    ensure!(hardware(&cluster.client).await?.is_empty(), "a refused import made machines");
    strangers.delete("simulated", &DeleteParams::default()).await?;

    // Interrupted at several points, and run again.
    for pause in [60, 120, 240] {
        let mut import = command(&["import", &archive_path], &there)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        import.kill()?;
        import.wait()?;
    }
    let fleet = cluster.fleet(1, 1, MACHINES).await?;
    must(&["import", &archive_path], &there).await?;
    must(&["import", &archive_path], &there).await?;
    ensure!(
        hardware(&cluster.client).await?.iter().all(|h| h.spec.paused),
        "paused until somebody says otherwise"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(after.begun().is_empty(), "an order before the resume: {:?}", after.begun());
    must(&["resume"], &there).await?;

    // i-00000 was being deleted; of the others nothing that was installed is touched.
    let all = herd.running(&cluster.client, 6).await?;
    ensure!(
        all.iter().filter_map(ResourceExt::uid).all(|uid| !before_uids.contains(&uid)),
        "new uids"
    );
    let released: Vec<usize> = after
        .begun()
        .into_iter()
        .filter(|(_, kinds)| kinds.contains(&OrderKind::Erase))
        .map(|(m, _)| m)
        .collect();
    ensure!(released.len() <= 1, "more than the deleted one was erased: {:?}", after.begun());
    for (machine, kinds) in after.begun() {
        let was_installed = on_disks.contains_key(&machine);
        ensure!(
            !was_installed || kinds == [OrderKind::Erase],
            "machine {machine} had an installation and got {kinds:?}"
        );
    }
    let kept = hardware(&cluster.client).await?;
    let earlier = kept
        .iter()
        .filter(|h| h.spec.claim_ref.as_ref().is_some_and(|c| c.installation_uid.is_some()))
        .count();
    ensure!(earlier >= 4, "only {earlier} machines know the uid that stands on their disks");
    herd.erased(&cluster.client, 1).await?;

    // Its helper knows the old uid, and is obeyed: nobody has to switch the machine off and on.
    herd.delete(&cluster.client, "i-00001").await?;
    herd.erased(&cluster.client, 2).await?;
    let addresses: Api<api::BareMetalAddress> = Api::all(cluster.client.clone());
    let held = addresses.list(&ListParams::default()).await?.items;
    ensure!(held.len() == 5, "{} addresses for 5 instances", held.len());

    // And back, into an embedded API that nothing was ever in.
    let second = folder.path().join("archive-back");
    let second_path = second.to_str().context("a path that is no text")?.to_owned();
    must(&["export", "--output", &second_path], &there).await?;
    let after = herd.now();
    let processes: Vec<_> = fleet.lock().drain(..).collect();
    for mut process in processes {
        process.stop().await?;
    }
    let mut back = setup.clone();
    back.state = folder.path().join("back");
    std::fs::create_dir_all(&back.state)?;
    let mut quiet = back.start(&["--api-only".to_owned()])?;
    quiet.ready().await?;
    must(&["import", &second_path], &back.kubeconfig()).await?;
    quiet.stop().await?;
    let mut server = back.start(&[])?;
    let client = server.ready().await?;
    must(&["import", &second_path, "--resume"], &back.kubeconfig()).await?;
    herd.running(&client, 5).await?;
    ensure!(
        after.begun().is_empty(),
        "something was ordered on the way back: {:?}",
        after.begun()
    );
    let discoveries = Api::<BareMetalDiscovery>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items;
    ensure!(discoveries.len() == MACHINES, "a machine was taken for another one");

    tenant::delete(&client, MACHINES).await?;
    herd.erased(&client, 7).await?;
    herd.end().await?;
    server.stop().await
}
