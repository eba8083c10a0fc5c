//! The image store through its real ways in: BareMetalImages, sources over HTTP, registries, and the routes that machines and other replicas fetch from.

mod common;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::api::{BareMetalImage, BareMetalImageSpec, BareMetalImageStatus, conditions, image::Preparation};
use agent_protocol::order::ImageFormat;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use common::{Rig, api::Api, until};
use http::{Method, StatusCode};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api as Objects,
    api::{DeleteParams, PostParams},
};
use netboot::StoreConfig;
use sha2::{Digest, Sha256};

const MIB: usize = 1 << 20;

/// A disk of 6 MiB: data, a hole, data.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 6 * MIB];
    for (at, byte) in disk[..2 * MIB].iter_mut().enumerate() {
        *byte = (at / 7 % 251) as u8;
    }
    for (at, byte) in disk[5 * MIB..].iter_mut().enumerate() {
        *byte = (at / 3 % 241) as u8;
    }
    disk
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// How the source behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Good,
    /// It ends in the middle, as if that were all.
    Cut,
    /// One byte is another.
    Flipped,
    /// It is not there.
    Gone,
}

/// A web server with one file, which counts how often it was asked for the whole.
struct Source {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Source {
    async fn start(bytes: Vec<u8>, manner: Manner) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let (counted, bytes) = (asked.clone(), Arc::new(bytes));
        let answer = move |request: Request| {
            let (counted, bytes) = (counted.clone(), bytes.clone());
            async move {
                if request.method() == Method::GET && request.headers().get("range").is_none() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                match manner {
                    Manner::Gone => StatusCode::NOT_FOUND.into_response(),
                    Manner::Good => ranged(&request, &bytes),
                    Manner::Cut => Body::from(bytes[..bytes.len() / 2].to_vec()).into_response(),
                    Manner::Flipped => {
                        let mut other = bytes.to_vec();
                        other[MIB] ^= 1;
                        ranged(&request, &other)
                    }
                }
            }
        };
        Self {
            url: format!("http://{}/debian.raw", listen(Router::new().fallback(answer)).await),
            asked,
        }
    }
}

/// A whole file or the part of it that was asked for.
fn ranged(request: &Request, bytes: &[u8]) -> Response {
    let range = request.headers().get("range").and_then(|r| r.to_str().ok());
    let range = range.and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let response = http::Response::builder().header("accept-ranges", "bytes").header("etag", "\"one\"");
    let Some((from, to)) = range else {
        return response.body(Body::from(bytes.to_vec())).unwrap();
    };
    let from: usize = from.parse().unwrap();
    let to = to.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
    let response = response
        .status(206)
        .header("content-range", format!("bytes {from}-{to}/{}", bytes.len()));
    response.body(Body::from(bytes[from..=to].to_vec())).unwrap()
}

async fn listen(router: Router) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn replica(api: &Arc<Api>, name: &str, folder: &Path, change: impl FnOnce(&mut StoreConfig)) -> Rig {
    let mut store = StoreConfig::new(folder, 1 << 30);
    store.heartbeat = Duration::from_millis(100);
    store.claim_lost_after = Duration::from_secs(1);
    change(&mut store);
    Rig::beside(api.clone(), name, |c| c.image_store = Some(store)).await
}

fn images(rig: &Rig) -> Objects<BareMetalImage> {
    Objects::all(rig.client.clone())
}

async fn declare(rig: &Rig, name: &str, spec: BareMetalImageSpec) {
    let image = BareMetalImage::new(name, spec);
    images(rig).create(&PostParams::default(), &image).await.unwrap();
}

async fn status(rig: &Rig, name: &str) -> BareMetalImageStatus {
    images(rig).get(name).await.unwrap().status.unwrap_or_default()
}

/// Status, reason and message of the condition `Prepared`.
fn prepared(status: &BareMetalImageStatus) -> (String, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == conditions::PREPARED);
    found
        .map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
        .unwrap_or_default()
}

async fn until_prepared(rig: &Rig, name: &str, stores: usize) -> BareMetalImageStatus {
    until("the image is prepared", || async {
        let status = status(rig, name).await;
        prepared(&status).0 == "True" && status.stores.len() == stores
    })
    .await;
    status(rig, name).await
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// What lies in a folder, by name.
fn listed(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The disk that a store serves, put together from manifest and chunks as a machine would.
async fn unpacked(base: &str) -> Vec<u8> {
    let get = async |part: &str| http().get(format!("{base}/{part}")).send().await.unwrap().bytes().await.unwrap();
    let manifest = image::pack::Manifest::parse(&get("manifest.json").await).unwrap();
    let chunks = get("chunks").await;
    let mut disk = vec![0; usize::try_from(manifest.disk_bytes()).unwrap()];
    let mut decoder = image::pack::ChunkDecoder::new().unwrap();
    for chunk in manifest.chunks() {
        let stored = &chunks[usize::try_from(chunk.offset).unwrap()..][..chunk.length as usize];
        let start = usize::try_from(manifest.disk_offset(chunk.index)).unwrap();
        let plain = &mut disk[start..][..manifest.plain_length(chunk.index)];
        decoder.decode("the store", &manifest, chunk, stored, plain).unwrap();
    }
    disk
}

fn raw(url: &str, disk: &[u8]) -> BareMetalImageSpec {
    BareMetalImageSpec {
        url: url.to_owned(),
        digest: sha256(disk),
        format: ImageFormat::Raw,
        ..BareMetalImageSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_prepares_the_other_copies_and_both_serve_the_same() {
    let (disk, api) = (disk(), Api::new());
    let source = Source::start(disk.clone(), Manner::Good).await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = replica(&api, "one", one.path(), |_| {}).await;
    declare(&first, "debian", raw(&source.url, &disk)).await;
    let status = until_prepared(&first, "debian", 1).await;
    let packed = status.packed.unwrap();
    assert_eq!(
        (packed.disk_bytes, packed.source_digest.clone()),
        (disk.len() as u64, sha256(&disk))
    );
    assert!(packed.stored_bytes > 0 && packed.stored_bytes < disk.len() as u64);
    assert_eq!(status.preparation, None);
    assert_eq!(status.stores[0].replica, "one");
    let hex = packed.digest.strip_prefix("blake3:").unwrap();
    let base = format!("{}/{hex}", status.stores[0].url);
    assert!(unpacked(&base).await == disk);

    let second = replica(&api, "two", two.path(), |_| {}).await;
    let status = until_prepared(&second, "debian", 2).await;
    let other = status.stores.iter().find(|s| s.replica == "two").unwrap();
    assert!(unpacked(&format!("{}/{hex}", other.url)).await == disk);
    assert_eq!(source.asked.load(Ordering::SeqCst), 1, "the source was asked once");
    assert_eq!(second.netboot.metrics().images_copied.get(), 1);

    // In parts, with conditions.
    let chunks = format!("{base}/chunks");
    let whole = http().get(&chunks).send().await.unwrap();
    let etag = whole.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", packed.digest));
    assert!(whole.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    let whole = whole.bytes().await.unwrap();
    let ask = async |method: Method, headers: &[(&str, &str)]| {
        let mut request = http().request(method, &chunks);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.bytes().await.unwrap())
    };
    let (code, headers, part) = ask(Method::GET, &[("range", "bytes=100-299")]).await;
    assert_eq!((code, part.as_ref()), (206, &whole[100..300]));
    assert_eq!(headers["content-range"], format!("bytes 100-299/{}", whole.len()).as_str());
    let (code, _, part) = ask(Method::GET, &[("range", "bytes=100-299"), ("if-range", "\"another\"")]).await;
    assert_eq!((code, part.len()), (200, whole.len()));
    // Several ranges at once, however many, are answered with the whole (RFC 9110, 14.2), never with parts in parts.
    let many = format!("bytes={}", vec!["0-0"; 1000].join(","));
    for several in ["bytes=0-1,3-4", many.as_str()] {
        let (code, headers, part) = ask(Method::GET, &[("range", several)]).await;
        assert_eq!((code, part.len()), (200, whole.len()));
        assert!(!headers.contains_key("content-range"));
    }
    let (code, _, part) = ask(Method::GET, &[("if-none-match", &etag)]).await;
    assert_eq!((code, part.len()), (304, 0));
    assert_eq!(ask(Method::GET, &[("range", &format!("bytes={}-", whole.len()))]).await.0, 416);
    let (code, headers, part) = ask(Method::HEAD, &[]).await;
    assert_eq!((code, part.len()), (200, 0));
    assert_eq!(headers["content-length"], whole.len().to_string().as_str());
    for path in ["chunks/x", "used", "..%2f..%2flock", "manifest.json%00", "../lock"] {
        let answer = http().get(format!("{base}/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }

    // A restart finds what it had, and says nothing anew.
    drop(first);
    let writes = api.writes.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = replica(&api, "one-again", one.path(), |_| {}).await;
    let status = until_prepared(&again, "debian", 3).await;
    assert_eq!(status.stores.len(), 3, "it registers under its new name");
    assert!(api.writes.load(Ordering::SeqCst) <= writes + 2, "and that is all it writes");
    assert_eq!(source.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bad_source_gives_is_told_and_leaves_nothing_behind() {
    let (disk, api, folder) = (disk(), Api::new(), tempfile::tempdir().unwrap());
    let rig = replica(&api, "one", folder.path(), |_| {}).await;
    let cases = [
        ("cut", Manner::Cut, ImageFormat::Raw, "DigestMismatch"),
        ("flipped", Manner::Flipped, ImageFormat::Raw, "DigestMismatch"),
        ("other-format", Manner::Good, ImageFormat::Zstd, "FormatMismatch"),
        ("gone", Manner::Gone, ImageFormat::Raw, "Unreachable"),
    ];
    for (name, manner, format, _) in cases {
        let source = Source::start(disk.clone(), manner).await;
        let spec = BareMetalImageSpec {
            format,
            ..raw(&source.url, &disk)
        };
        declare(&rig, name, spec).await;
    }
    for (name, _, _, reason) in cases {
        until("the failure is told", || async { prepared(&status(&rig, name).await).1 == reason }).await;
        let status = status(&rig, name).await;
        let (_, _, message) = prepared(&status);
        assert!(!message.is_empty(), "{name}");
        assert_eq!(status.packed, None);
        let claim = status.preparation.unwrap();
        assert!(claim.failures >= 1 && claim.text.contains(reason), "{name}: {claim:?}");
    }
    assert_eq!(listed(&folder.path().join("packs")), [""; 0]);
    until("what was begun is cleared away", || async {
        listed(&folder.path().join("new")).is_empty()
    })
    .await;

    // The spec is put right: it is tried at once.
    let source = Source::start(disk.clone(), Manner::Good).await;
    let mut image = images(&rig).get("flipped").await.unwrap();
    image.spec.url = source.url.clone();
    image.metadata.generation = Some(2);
    images(&rig).replace("flipped", &PostParams::default(), &image).await.unwrap();
    until_prepared(&rig, "flipped", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_when_the_url_fails_and_its_bytes_are_checked_all_the_same() {
    let (disk, api, folder) = (disk(), Api::new(), tempfile::tempdir().unwrap());
    let rig = replica(&api, "one", folder.path(), |_| {}).await;
    let gone = Source::start(disk.clone(), Manner::Gone).await;
    let (flipped, good) = (
        Source::start(disk.clone(), Manner::Flipped).await,
        Source::start(disk.clone(), Manner::Good).await,
    );
    let with = |mirror: &Source| BareMetalImageSpec {
        mirrors: vec![mirror.url.clone()],
        ..raw(&gone.url, &disk)
    };
    // First, and by itself: once the right bytes are here, nothing of the same digest is fetched again.
    declare(&rig, "betrayed", with(&flipped)).await;
    until("the wrong bytes are told", || async {
        prepared(&status(&rig, "betrayed").await).1 == "DigestMismatch"
    })
    .await;
    declare(&rig, "mirrored", with(&good)).await;
    let status = until_prepared(&rig, "mirrored", 1).await;
    let hex = status.packed.unwrap().digest.trim_start_matches("blake3:").to_owned();
    assert!(unpacked(&format!("{}/{hex}", status.stores[0].url)).await == disk);
    assert_eq!(good.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_its_own_folder_is_read_there_whatever_address_machines_know() {
    let (disk, api) = (disk(), Api::new());
    let (folder, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(files.path().join("debian.raw"), &disk).unwrap();
    let mut store = StoreConfig::new(folder.path(), 1 << 30);
    store.heartbeat = Duration::from_millis(100);
    let rig = Rig::beside(api, "one", |c| {
        c.image_store = Some(store);
        c.image_dir = Some(files.path().to_owned());
        // Nothing answers there: an address for documentation.
        c.advertise = vec!["192.0.2.9".to_owned()];
    })
    .await;
    let port = rig.netboot.addresses().http.port();
    declare(&rig, "debian", raw(&format!("http://192.0.2.9:{port}/images/debian.raw"), &disk)).await;
    let status = until_prepared(&rig, "debian", 1).await;
    let hex = status.packed.unwrap().digest.trim_start_matches("blake3:").to_owned();
    let here = format!("http://{}/images/{hex}", rig.netboot.addresses().http);
    assert!(unpacked(&here).await == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_holds_and_says_what_to_do() {
    let (disk, api, folder) = (disk(), Api::new(), tempfile::tempdir().unwrap());
    let rig = replica(&api, "one", folder.path(), |s| s.quota = 10_000).await;
    let mut noise = disk.clone();
    let mut state = 1u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let source = Source::start(noise.clone(), Manner::Good).await;
    declare(&rig, "large", raw(&source.url, &noise)).await;
    until("it is told", || async { prepared(&status(&rig, "large").await).1 == "StoreFull" }).await;
    let message = prepared(&status(&rig, "large").await).2;
    assert!(message.contains("quota") && message.contains("--image-store-size"), "{message}");
    assert_eq!(listed(&folder.path().join("packs")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preparation_of_a_dead_replica_is_taken_over_and_a_live_one_is_not() {
    let (disk, api, folder) = (disk(), Api::new(), tempfile::tempdir().unwrap());
    let source = Source::start(disk.clone(), Manner::Good).await;
    let rig = replica(&api, "one", folder.path(), |_| {}).await;
    let mut image = BareMetalImage::new("debian", raw(&source.url, &disk));
    let claim = |heartbeat| {
        Some(BareMetalImageStatus {
            preparation: Some(Preparation {
                replica: "other".to_owned(),
                heartbeat,
                ..Preparation::default()
            }),
            ..BareMetalImageStatus::default()
        })
    };
    image.status = claim(1);
    images(&rig).create(&PostParams::default(), &image).await.unwrap();
    for heartbeat in 2..8 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let mut image = images(&rig).get("debian").await.unwrap();
        assert_eq!(image.status, claim(heartbeat - 1), "the other one lives");
        image.status = claim(heartbeat);
        images(&rig).replace("debian", &PostParams::default(), &image).await.unwrap();
    }
    let status = until_prepared(&rig, "debian", 1).await;
    assert_eq!(status.stores[0].replica, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_deleted_while_it_is_prepared_leaves_nothing() {
    let (api, folder) = (Api::new(), tempfile::tempdir().unwrap());
    let rig = replica(&api, "one", folder.path(), |_| {}).await;
    // A source that never ends.
    let endless = || async {
        let zeros = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[7; 4096])), ()))
        });
        Body::from_stream(zeros).into_response()
    };
    let url = format!("http://{}/endless.raw", listen(Router::new().fallback(endless)).await);
    declare(&rig, "endless", raw(&url, b"never")).await;
    until("it is worked on", || async {
        status(&rig, "endless").await.preparation.is_some_and(|p| p.heartbeat > 2)
    })
    .await;
    images(&rig).delete("endless", &DeleteParams::default()).await.unwrap();
    until("it is cleared away", || async { listed(&folder.path().join("new")).is_empty() }).await;
}

/// A registry that wants a token, which its token service gives for a user name and a password, and that sends blobs elsewhere.
#[derive(Default)]
struct Registry {
    address: Mutex<String>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    /// Requests for blobs at the other place that carried credentials.
    leaked: AtomicUsize,
}

async fn registry(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
    let address = registry.address.lock().unwrap().clone();
    if path == "/token" {
        // me:secret
        if authorization.as_deref() != Some("Basic bWU6c2VjcmV0") {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        assert!(request.uri().query().unwrap().contains("scope=repository%3Ateam%2Fdebian%3Apull"));
        return axum::Json(serde_json::json!({"token": "T0K3N"})).into_response();
    }
    if let Some(digest) = path.strip_prefix("/elsewhere/") {
        registry.leaked.fetch_add(usize::from(authorization.is_some()), Ordering::SeqCst);
        return ranged(&request, &registry.blobs[digest]);
    }
    if authorization.as_deref() != Some("Bearer T0K3N") {
        let challenge = format!(r#"Bearer realm="http://{address}/token",service="r",scope="repository:team/debian:pull""#);
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    if path == "/v2/team/debian/manifests/13" {
        return registry.manifest.clone().into_response();
    }
    match path
        .strip_prefix("/v2/team/debian/blobs/")
        .filter(|d| registry.blobs.contains_key(*d))
    {
        Some(digest) => (StatusCode::TEMPORARY_REDIRECT, [("location", format!("/elsewhere/{digest}"))]).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_fetched_with_the_credentials_of_its_registry_and_they_go_nowhere_else() {
    let (disk, api, folder) = (disk(), Api::new(), tempfile::tempdir().unwrap());
    let digest = sha256(&disk);
    let served = Arc::new(Registry {
        manifest: serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "layers": [{"digest": sha256(b"readme"), "size": 6}, {"digest": digest, "size": disk.len()}],
        }))
        .unwrap(),
        blobs: [(digest.clone(), disk.clone())].into(),
        ..Registry::default()
    });
    let address = listen(Router::new().fallback(registry).with_state(served.clone())).await;
    *served.address.lock().unwrap() = address.to_string();
    let rig = replica(&api, "one", folder.path(), |_| {}).await;
    let secret = async |name: &str, json: String| {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.data = Some([(".dockerconfigjson".to_owned(), ByteString(json.into_bytes()))].into());
        rig.secrets().create(&PostParams::default(), &secret).await.unwrap();
    };
    secret("right", format!(r#"{{"auths":{{"{address}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#)).await;
    secret(
        "wrong",
        format!(r#"{{"auths":{{"{address}":{{"username":"me","password":"guess"}}}}}}"#),
    )
    .await;
    secret("other", r#"{"auths":{"registry.example":{"auth":"bWU6c2VjcmV0"}}}"#.to_owned()).await;
    let spec = |secret: Option<&str>| BareMetalImageSpec {
        pull_secret_ref: secret.map(|name| ::api::common::LocalSecretName { name: name.to_owned() }),
        ..raw(&format!("oci://{address}/team/debian:13"), &disk)
    };
    for (name, secret, reason) in [
        ("without", None, "RegistryRefuses"),
        ("with-wrong", Some("wrong"), "RegistryRefuses"),
        ("with-other", Some("other"), "PullSecretUnusable"),
        ("with-none", Some("missing"), "PullSecretUnusable"),
    ] {
        declare(&rig, name, spec(secret)).await;
        until(name, || async { prepared(&status(&rig, name).await).1 == reason }).await;
        let text = serde_json::to_string(&status(&rig, name).await).unwrap();
        assert!(
            text.contains("pullSecretRef") || text.contains("kubectl create secret"),
            "it says what to do: {text}"
        );
        assert!(!text.contains("guess") && !text.contains("bWU6c2VjcmV0"), "{text}");
    }
    declare(&rig, "debian", spec(Some("right"))).await;
    let status = until_prepared(&rig, "debian", 1).await;
    let hex = status.packed.unwrap().digest.replace("blake3:", "");
    assert!(unpacked(&format!("{}/{hex}", status.stores[0].url)).await == disk);
    assert_eq!(served.leaked.load(Ordering::SeqCst), 0);
}

/// The two files of a packed image that a store serves.
async fn files(status: &BareMetalImageStatus) -> (String, Vec<u8>, Vec<u8>) {
    let digest = status.packed.as_ref().unwrap().digest.clone();
    let base = format!("{}/{}", status.stores[0].url, digest.replace("blake3:", ""));
    let get = async |part: &str| {
        let answer = http().get(format!("{base}/{part}")).send().await.unwrap();
        answer.bytes().await.unwrap().to_vec()
    };
    let (manifest, chunks) = (get("manifest.json").await, get("chunks").await);
    (digest, manifest, chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_already_is_copied_and_held_against_its_digests() {
    let disk = disk();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let made = replica(&Api::new(), "one", folders[0].path(), |_| {}).await;
    let source = Source::start(disk.clone(), Manner::Good).await;
    declare(&made, "debian", raw(&source.url, &disk)).await;
    let (digest, manifest, chunks) = files(&until_prepared(&made, "debian", 1).await).await;

    let kind = "application/vnd.kube-baremetal.packed-image";
    let served = Arc::new(Registry {
        manifest: serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "layers": [
            {"mediaType": format!("{kind}.manifest.v1+json"), "digest": sha256(&manifest), "size": manifest.len()},
            {"mediaType": format!("{kind}.chunks.v1"), "digest": sha256(&chunks), "size": chunks.len()},
        ]}))
        .unwrap(),
        blobs: [(sha256(&manifest), manifest.clone()), (sha256(&chunks), chunks.clone())].into(),
        ..Registry::default()
    });
    let registry_at = listen(Router::new().fallback(registry).with_state(served.clone())).await;
    *served.address.lock().unwrap() = registry_at.to_string();
    let site = |damaged: bool| {
        let (manifest, mut chunks) = (manifest.clone(), chunks.clone());
        if damaged {
            let middle = chunks.len() / 2;
            chunks[middle] ^= 1;
        }
        Router::new().fallback(move |request: Request| {
            let bytes = if request.uri().path().ends_with("/chunks") {
                chunks.clone()
            } else {
                manifest.clone()
            };
            async move { ranged(&request, &bytes) }
        })
    };
    let (whole, damaged) = (listen(site(false)).await, listen(site(true)).await);

    let api = Api::new();
    let rig = replica(&api, "two", folders[1].path(), |_| {}).await;
    let mut secret = Secret::default();
    secret.metadata.name = Some("registry".to_owned());
    let json = format!(r#"{{"auths":{{"{registry_at}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    secret.data = Some([(".dockerconfigjson".to_owned(), ByteString(json.into_bytes()))].into());
    rig.secrets().create(&PostParams::default(), &secret).await.unwrap();
    let packed = |url: String, secret: Option<&str>| BareMetalImageSpec {
        url,
        digest: digest.clone(),
        format: ImageFormat::Packed,
        pull_secret_ref: secret.map(|name| ::api::common::LocalSecretName { name: name.to_owned() }),
        ..BareMetalImageSpec::default()
    };
    declare(&rig, "damaged", packed(format!("http://{damaged}/debian"), None)).await;
    until("it is told", || async {
        prepared(&status(&rig, "damaged").await).1 == "DigestMismatch"
    })
    .await;
    assert_eq!(listed(&folders[1].path().join("packs")), [""; 0]);
    declare(
        &rig,
        "artifact",
        packed(format!("oci://{registry_at}/team/debian:13"), Some("registry")),
    )
    .await;
    let status = until_prepared(&rig, "artifact", 1).await;
    assert_eq!(files(&status).await, (digest.clone(), manifest.clone(), chunks.clone()));
    assert_eq!(served.leaked.load(Ordering::SeqCst), 0);
    // It is here already: the same by another way needs nothing.
    declare(&rig, "folder", packed(format!("http://{whole}/debian/manifest.json"), None)).await;
    let status = until_prepared(&rig, "folder", 1).await;
    assert_eq!(status.packed.unwrap().digest, digest);
}

/// A client of the replica's TLS side.
fn pinned(rig: &Rig) -> reqwest::Client {
    let client = reqwest::Client::builder().tls_backend_preconfigured(pinned_tls::client_config(&rig.pin()).unwrap());
    client.no_proxy().build().unwrap()
}

/// Permits the upload of an image as the command does it.
async fn permit_upload(rig: &Rig, name: &str, token: &str, kind: &str, expires: &str) {
    let mut secret = Secret::default();
    secret.metadata.name = Some(netboot::upload::secret_name(name));
    secret.type_ = Some(kind.to_owned());
    secret.data = Some(
        [(netboot::upload::TOKEN, token), (netboot::upload::EXPIRES, expires)]
            .map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())))
            .into(),
    );
    rig.secrets().create(&PostParams::default(), &secret).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_needs_the_permission_of_the_api_and_is_packed_like_any_other_image() {
    let (disk, api, folder) = (disk(), Api::new(), tempfile::tempdir().unwrap());
    let rig = replica(&api, "one", folder.path(), |_| {}).await;
    let mut spec = raw("upload://debian", &disk);
    declare(&rig, "debian", spec.clone()).await;
    until("it says what to do", || async {
        prepared(&status(&rig, "debian").await).2.contains("image upload")
    })
    .await;
    let client = pinned(&rig);
    let tls = rig.netboot.addresses().tls;
    let put = async |name: &str, token: Option<&str>, bytes: Vec<u8>| {
        let mut request = client.put(format!("https://{tls}{}/{name}", netboot::upload::UPLOADS)).body(bytes);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let permit = async |name: &str, token: &str, kind: &str, expires: &str| permit_upload(&rig, name, token, kind, expires).await;
    let token = "k".repeat(64);
    let later = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_hours(1))
        .unwrap()
        .to_string();
    assert_eq!(put("debian", None, b"few".to_vec()).await, 401);
    assert_eq!(put("debian", Some(&token), b"few".to_vec()).await, 401, "there is no permission");
    permit("debian", &token, netboot::upload::SECRET_TYPE, &later).await;
    permit("expired", &token, netboot::upload::SECRET_TYPE, "2020-01-01T00:00:00Z").await;
    permit("other-type", &token, "Opaque", &later).await;
    permit("unknown", &token, netboot::upload::SECRET_TYPE, &later).await;
    assert_eq!(put("debian", Some("guess"), b"few".to_vec()).await, 401);
    assert_eq!(put("expired", Some(&token), b"few".to_vec()).await, 401);
    assert_eq!(put("other-type", Some(&token), b"few".to_vec()).await, 401);
    assert_eq!(put("..%2Fnetboot-keys", Some(&token), b"few".to_vec()).await, 401);
    assert_eq!(
        put("unknown", Some(&token), b"few".to_vec()).await,
        404,
        "permitted, but there is no such image"
    );

    // Other bytes than the image names.
    assert_eq!(put("debian", Some(&token), disk[1..].to_vec()).await, 202);
    until("the failure is told", || async {
        prepared(&status(&rig, "debian").await).1 == "DigestMismatch"
    })
    .await;
    assert_eq!(put("debian", Some(&token), disk.clone()).await, 202);
    let status = until_prepared(&rig, "debian", 1).await;
    let (digest, manifest, chunks) = files(&status).await;
    assert!(unpacked(&format!("{}/{}", status.stores[0].url, digest.replace("blake3:", ""))).await == disk);
    until("the bytes that came are cleared away", || async {
        listed(&folder.path().join("new")).is_empty()
    })
    .await;

    // Packed, to another replica.
    let other = tempfile::tempdir().unwrap();
    drop(rig);
    let second = Api::new();
    let rig = replica(&second, "two", other.path(), |_| {}).await;
    spec.format = ImageFormat::Packed;
    spec.digest = digest.clone();
    declare(&rig, "debian", spec).await;
    permit_upload(&rig, "debian", &token, netboot::upload::SECRET_TYPE, &later).await;
    until("the image is known", || async {
        prepared(&crate::status(&rig, "debian").await).1 == "AwaitingUpload"
    })
    .await;
    let client = pinned(&rig);
    let request = client
        .put(format!(
            "https://{}{}/debian",
            rig.netboot.addresses().tls,
            netboot::upload::UPLOADS
        ))
        .bearer_auth(&token)
        .header(netboot::upload::MANIFEST_BYTES, manifest.len())
        .body([manifest, chunks].concat());
    assert_eq!(request.send().await.unwrap().status(), 202);
    assert_eq!(until_prepared(&rig, "debian", 1).await.packed.unwrap().digest, digest);
}
