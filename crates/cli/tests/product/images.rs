//! An image on its way: fetched and packed by the image store, named packed in an order, and served to the machine.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use agent_protocol::order::PackedSource;
use anyhow::{Context, Result, ensure};
use api::{BareMetalImage, BareMetalImageSpec, conditions};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lab::swarm::{server::Setup, tenant};
use serde_json::json;

use crate::herd::{Herd, must, refused, said, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_prepared_once_and_ordered_packed() {
    prepared().await.unwrap();
}

async fn prepared() -> Result<()> {
    let _turn = turn().await;
    let folder = tempfile::tempdir()?;
    let served = folder.path().join("served");
    std::fs::create_dir(&served)?;
    let disk: Vec<u8> = (0..3u32 << 20).map(|at| (at / 11 % 253) as u8).collect();
    std::fs::write(served.join("disk.raw"), &disk)?;

    let program = PathBuf::from(env!("CARGO_BIN_EXE_kube-baremetal"));
    let setup = Setup::new(program, folder.path().join("state"), Ipv4Addr::LOCALHOST, 2)?;
    let mut server = setup.start(&["--image-store".to_owned(), format!("--image-dir={}", served.display())])?;
    let client = server.ready().await?;
    tenant::prepare(&client, true).await?;
    let images: Api<BareMetalImage> = Api::all(client.clone());
    let spec = BareMetalImageSpec {
        url: format!("http://{}/images/disk.raw", setup.boot()),
        digest: sha256(&disk),
        ..BareMetalImageSpec::default()
    };
    images.create(&PostParams::default(), &BareMetalImage::new("disk", spec)).await?;
    uploaded(&setup, folder.path(), &images).await?;
    let herd = Herd::start(2, 21, vec![setup.boot()]);
    // The first instance takes an image that is streamed, the second one waits for the store.
    tenant::create(&client, 2).await?;
    let change = json!({"spec": {"image": "disk"}});
    crate::herd::tenants(&client)
        .patch("i-00001", &PatchParams::default(), &Patch::Merge(change))
        .await?;
    herd.running(&client, 2).await?;

    let image = images.get("disk").await?;
    let status = image.status.context("the image has no status")?;
    ensure!(
        conditions::is_true(&status.conditions, conditions::PREPARED) && conditions::is_true(&status.conditions, conditions::READY),
        "{status:?}"
    );
    let digest = status.packed.context("it is not packed")?.digest;
    let ordered: Vec<PackedSource> = herd.packed();
    ensure!(
        ordered.iter().all(|p| p.digest == digest) && !ordered.is_empty(),
        "{ordered:?} is not {digest}"
    );
    // Where the order says, the machine finds it.
    let url = ordered[0].urls.first().context("the order names no store")?;
    let (address, path) = url.trim_start_matches("http://").split_once('/').context("no URL")?;
    let page = rig::roles::page(address.parse()?, &format!("/{path}/manifest.json")).await;
    let (code, manifest) = page.context("the store does not answer")?;
    ensure!(code == 200 && manifest.contains(&sha256(&disk)), "{code}: {manifest}");
    herd.end().await?;
    server.stop().await?;
    Ok(())
}

/// From this host's disk into the store, as a file and as a packed image.
async fn uploaded(setup: &Setup, folder: &Path, images: &Api<BareMetalImage>) -> Result<()> {
    let (file, packed) = (folder.join("uploaded.raw"), folder.join("packed"));
    let disk: Vec<u8> = (0..2u32 << 20).map(|at| (at / 17 % 249) as u8).collect();
    std::fs::write(&file, &disk)?;
    let (file, packed) = (file.display().to_string(), packed.display().to_string());
    let server = format!("--server=https://127.0.0.1:{}", setup.ports()[1]);
    let kubeconfig = setup.kubeconfig();
    must(&["image", "upload", &file, "--name", "uploaded", &server], &kubeconfig).await?;
    let by_file = images
        .get("uploaded")
        .await?
        .status
        .unwrap_or_default()
        .packed
        .context("it is not packed")?;
    ensure!(by_file.source_digest == sha256(&disk), "{by_file:?}");
    let again = must(&["image", "upload", &file, "--name", "uploaded", &server], &kubeconfig).await?;
    ensure!(again.contains("already"), "{again}");
    refused(
        &["image", "upload", &file, "--name", "disk", &server],
        &kubeconfig,
        "choose another --name",
    )
    .await?;

    let pack = tokio::task::spawn_blocking({
        let (file, packed) = (file.clone(), packed.clone());
        move || {
            std::process::Command::new(env!("CARGO_BIN_EXE_kube-baremetal"))
                .args(["image", "pack", &file, "-o", &packed])
                .output()
        }
    });
    let pack = pack.await??;
    ensure!(pack.status.success(), "{}", said(&pack));
    must(&["image", "upload", &packed, "--name", "packed", &server], &kubeconfig).await?;
    let by_folder = images
        .get("packed")
        .await?
        .status
        .unwrap_or_default()
        .packed
        .context("it is not packed")?;
    ensure!(by_folder.digest == by_file.digest, "{by_folder:?} is not {by_file:?}");
    let secrets: Api<Secret> = Api::namespaced(images.clone().into_client(), "kube-baremetal-netboot");
    for name in ["uploaded", "packed"] {
        let left = secrets.get_opt(&netboot::upload::secret_name(name)).await?;
        ensure!(left.is_none(), "the permission to upload {name} was left");
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    image::Digest::sha256_of(bytes).to_string()
}
