//! `kube-baremetal image upload`: an image from this host's disk into the image store, and the BareMetalImage that names it.
//!
//! Permission is the Kubernetes API's to give: a Secret with a random token is made in netboot's namespace, shown to netboot with the bytes, and deleted again. Netboot is known by the public key
//! of its authority, which stands in that namespace, too.

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use agent_protocol::order::ImageFormat;
use anyhow::{Context, Result, bail, ensure};
use api::{BareMetalImage, BareMetalImageSpec, conditions};
use image::{Format, SNIFF_BYTES, Sniffed, pack::MANIFEST_FILE, sniff};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use netboot::upload::{EXPIRES, MANIFEST_BYTES, SECRET_TYPE, TOKEN, UPLOADS, secret_name};
use tokio_util::io::ReaderStream;

use crate::roles::{Cluster, NETBOOT_NAMESPACE};

/// How long the permission lasts: as long as a large image may take over a slow line.
const PERMISSION: jiff::SignedDuration = jiff::SignedDuration::from_hours(6);
/// An image store looks at a new image at once; so long it may be busy.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace with netboot's keys.
    #[arg(long, env = "KBM_NETBOOT_NAMESPACE", default_value = NETBOOT_NAMESPACE)]
    netboot_namespace: String,
    /// URL (`https://host:port`) by which agents reach a replica of netboot.
    #[arg(long, env = "KBM_SERVER", default_value = "https://127.0.0.1:8443")]
    server: String,
    /// Name of the BareMetalImage. It is created, or changed to name what is uploaded.
    #[arg(long)]
    name: String,
    /// An image file (raw, gz, xz, zst, qcow2), or the folder of a packed image.
    path: PathBuf,
}

/// What is uploaded.
struct Parcel {
    digest: String,
    format: ImageFormat,
    /// The files whose bytes follow each other, and how many they are in all.
    files: Vec<PathBuf>,
    bytes: u64,
    /// Of a packed image: bytes of its manifest.
    manifest: Option<u64>,
}

/// Looks at what is to be uploaded, before anything is asked for.
fn parcel(path: &Path) -> Result<Parcel> {
    let size = |path: &Path| -> Result<u64> {
        Ok(std::fs::metadata(path)
            .with_context(|| format!("reading {}", path.display()))?
            .len())
    };
    if path.is_dir() {
        let (manifest, _) = image::pack::DirSource::open(path)?;
        let files = [MANIFEST_FILE, image::pack::CHUNKS_FILE].map(|f| path.join(f)).to_vec();
        let first = size(&files[0])?;
        return Ok(Parcel {
            digest: manifest.digest().to_string(),
            format: ImageFormat::Packed,
            bytes: first + manifest.stored_bytes(),
            files,
            manifest: Some(first),
        });
    }
    let mut file = std::fs::File::open(path).with_context(|| format!("reading {}", path.display()))?;
    // The hasher of a digest of this kind; which one it is of does not matter.
    let mut hasher = image::Digest::sha256_of(b"").hasher();
    let (mut buffer, mut head, mut bytes) = (vec![0; 1 << 20], Vec::new(), 0);
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
        let Some(read) = buffer.get(..count).filter(|r| !r.is_empty()) else {
            break;
        };
        if head.len() < SNIFF_BYTES {
            head.extend_from_slice(&read[..read.len().min(SNIFF_BYTES)]);
        }
        hasher.update(read);
        bytes += count as u64;
    }
    ensure!(bytes > 0, "{} is empty", path.display());
    let format = match sniff(&head) {
        Sniffed::Supported(Format::Raw) => ImageFormat::Raw,
        Sniffed::Supported(Format::Gzip) => ImageFormat::Gzip,
        Sniffed::Supported(Format::Xz) => ImageFormat::Xz,
        Sniffed::Supported(Format::Zstd) => ImageFormat::Zstd,
        Sniffed::Supported(Format::Qcow2) => ImageFormat::Qcow2,
        Sniffed::Unsupported(what) => bail!(
            "{} is {what}, which is no disk image that can be written: convert it to raw or qcow2",
            path.display()
        ),
    };
    Ok(Parcel {
        digest: hasher.finish().to_string(),
        format,
        files: vec![path.to_owned()],
        bytes,
        manifest: None,
    })
}

/// Runs it.
pub async fn run(arguments: Arguments) -> Result<()> {
    let path = arguments.path.clone();
    let parcel = tokio::task::spawn_blocking(move || parcel(&path)).await??;
    let client = arguments.cluster.client().await?;
    let image = declare(&client, &arguments.name, &parcel).await?;
    if is_prepared(&image) {
        println!("BareMetalImage {} has it already", arguments.name);
        return Ok(());
    }
    until_known(&client, &arguments.name).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &arguments.netboot_namespace);
    let pin = pin(&secrets).await?;
    let token = permission(&secrets, &arguments.name).await?;
    let sent = send(&arguments, &parcel, &pin, &token).await;
    // It would end by itself; but it is of no use any more.
    let taken_back = secrets.delete(&secret_name(&arguments.name), &DeleteParams::default()).await;
    sent?;
    taken_back.context("deleting the Secret that permitted the upload")?;
    until_prepared(&client, &arguments.name).await
}

fn is_prepared(image: &BareMetalImage) -> bool {
    let packed = image.status.as_ref().and_then(|s| s.packed.as_ref());
    packed.is_some_and(|p| p.source_digest == image.spec.digest)
}

/// Makes the BareMetalImage, or has one that was uploaded before name what is uploaded now.
async fn declare(client: &Client, name: &str, parcel: &Parcel) -> Result<BareMetalImage> {
    let images: Api<BareMetalImage> = Api::all(client.clone());
    let url = format!("upload://{name}");
    let found = images
        .get_opt(name)
        .await
        .with_context(|| format!("reading BareMetalImage {name}"))?;
    if let Some(found) = &found {
        ensure!(
            found.spec.url.starts_with("upload://"),
            "BareMetalImage {name} comes from {}: choose another --name, or delete it",
            found.spec.url
        );
    }
    let spec = BareMetalImageSpec {
        url,
        digest: parcel.digest.clone(),
        format: parcel.format,
        ..BareMetalImageSpec::default()
    };
    let written = match found {
        None => images.create(&PostParams::default(), &BareMetalImage::new(name, spec)).await,
        Some(found) if found.spec.digest == spec.digest && found.spec.format == spec.format => Ok(found),
        Some(_) => {
            let change = serde_json::json!({"spec": {"digest": spec.digest, "format": spec.format}});
            images.patch(name, &PatchParams::default(), &Patch::Merge(change)).await
        }
    };
    written.with_context(|| format!("writing BareMetalImage {name}"))
}

/// Waits until an image store has looked at what the BareMetalImage says now.
async fn until_known(client: &Client, name: &str) -> Result<()> {
    let images: Api<BareMetalImage> = Api::all(client.clone());
    let limit = tokio::time::Instant::now() + KNOWN_WITHIN;
    loop {
        let image = images.get(name).await.with_context(|| format!("reading BareMetalImage {name}"))?;
        let conditions = image.status.iter().flat_map(|s| &s.conditions);
        let mut told = conditions.filter(|c| c.type_ == conditions::PREPARED && c.observed_generation == image.metadata.generation);
        if told.next().is_some() {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < limit,
            "no image store has taken notice of BareMetalImage {name} within {} s: is there one (up --image-store, the chart's imageStore.enabled)?",
            KNOWN_WITHIN.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What netboot is known by.
async fn pin(secrets: &Api<Secret>) -> Result<String> {
    let keys = secrets.get(netboot::keys::SECRET_NAME).await;
    let keys = keys.context("reading netboot's keys, by whose public part it is known")?;
    netboot::keys::pin_in(&keys).context("the keys of netboot do not hold a usable authority")
}

/// Asks the Kubernetes API for permission, and returns what shows it.
async fn permission(secrets: &Api<Secret>, image: &str) -> Result<String> {
    let mut random = [0; 32];
    fill_randomly(&mut random)?;
    let token: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let expires = jiff::Timestamp::now().checked_add(PERMISSION)?.to_string();
    let mut secret = Secret {
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(
            [(TOKEN, token.as_str()), (EXPIRES, expires.as_str())]
                .map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())))
                .into(),
        ),
        ..Secret::default()
    };
    secret.metadata.name = Some(secret_name(image));
    // One that an interrupted upload left.
    if secrets
        .get_opt(&secret.name_any())
        .await
        .context("looking for an earlier permission")?
        .is_some()
    {
        secrets
            .delete(&secret.name_any(), &DeleteParams::default())
            .await
            .context("deleting an earlier permission")?;
    }
    let made = secrets.create(&PostParams::default(), &secret).await;
    made.context("asking for permission: an upload needs the right to create Secrets in netboot's namespace")?;
    Ok(token)
}

fn fill_randomly(bytes: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).context("drawing a random token")?;
    }
    Ok(())
}

async fn send(arguments: &Arguments, parcel: &Parcel, pin: &str, token: &str) -> Result<()> {
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(pinned_tls::client_config(pin)?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .build()?;
    let mut files = Vec::new();
    for path in &parcel.files {
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("reading {}", path.display()))?;
        files.push(ReaderStream::with_capacity(file, 256 * 1024));
    }
    let url = format!("{}{UPLOADS}/{}", arguments.server.trim_end_matches('/'), arguments.name);
    let mut request = http
        .put(&url)
        .bearer_auth(token)
        .header("content-length", parcel.bytes)
        .body(reqwest::Body::wrap_stream(futures::StreamExt::flatten(futures::stream::iter(
            files,
        ))));
    if let Some(manifest) = parcel.manifest {
        request = request.header(MANIFEST_BYTES, manifest);
    }
    println!("uploading {} bytes to {}", parcel.bytes, arguments.server);
    let answer = request.send().await.with_context(|| {
        format!(
            "uploading to {}: is --server the URL of a replica of netboot, and does that have an image store?",
            arguments.server
        )
    })?;
    let status = answer.status();
    let words = answer.text().await.unwrap_or_default();
    ensure!(status.is_success(), "{} answers {status}: {}", arguments.server, words.trim());
    Ok(())
}

/// Waits until it is packed, and says how far that is.
async fn until_prepared(client: &Client, name: &str) -> Result<()> {
    let images: Api<BareMetalImage> = Api::all(client.clone());
    let mut said = String::new();
    loop {
        let image = images.get(name).await.with_context(|| format!("reading BareMetalImage {name}"))?;
        let status = image.status.clone().unwrap_or_default();
        if let Some(packed) = status.packed.as_ref().filter(|_| is_prepared(&image)) {
            println!("BareMetalImage {name} is prepared: {}", packed.digest);
            return Ok(());
        }
        let condition = status.conditions.iter().find(|c| c.type_ == conditions::PREPARED);
        if let Some(failed) = condition.filter(|c| {
            c.status == "False"
                && c.observed_generation == image.metadata.generation
                && !matches!(c.reason.as_str(), "ImagePreparing" | "AwaitingUpload")
        }) {
            bail!("BareMetalImage {name} could not be prepared: {}", failed.message);
        }
        let text = status.preparation.map(|p| p.text).unwrap_or_default();
        if text != said && std::io::stderr().is_terminal() {
            eprintln!("{text}");
            said = text;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_uploaded_is_looked_at_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let raw = parcel(&file("raw", &[0; 2048])).unwrap();
        assert_eq!((raw.format, raw.bytes, raw.manifest), (ImageFormat::Raw, 2048, None));
        assert_eq!(
            raw.digest,
            "sha256:e5a00aa9991ac8a5ee3109844d84a55583bd20572ad3ffcd42792f3c36b183ad"
        );
        assert_eq!(parcel(&file("gz", b"\x1f\x8b\x08\0\0")).unwrap().format, ImageFormat::Gzip);
        assert!(parcel(&file("empty", b"")).is_err());
        assert!(parcel(folder.path()).is_err(), "a folder that holds no packed image");
        assert!(parcel(&folder.path().join("missing")).is_err());
    }
}
