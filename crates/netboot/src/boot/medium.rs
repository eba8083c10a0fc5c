//! Boot media for machines that no network boots: `GET` and `HEAD` of `/boot/iso/<hardware>/<act>.iso`, over plain HTTP and in ranges, because a machine's BMC fetches them.
//!
//! Served is the one image of the media folder ([`boot_script::medium`]) with the machine's own words in its slot, put there while it is sent: there is no copy for each machine. The words are those of
//! a boot script, and a fixed address.
//!
//! **What a medium is good for.** It is there for the act of one hardware's power driver that boots it into the agent, while that act is in force or was the last one; for anybody else, and any other
//! time, there is nothing. Its boot token keeps the rules of every boot token:
//!
//! * *Bound to the machine*: to the MAC and the address that `spec.power` has, to the hardware and so to its BareMetalDiscovery. Whoever comes with it is that machine, or is refused ([`judge`]).
//! * *Single use*: its nonce is the act's, and a nonce opens one session for one pair of keys (the compare and swap of [`crate::agent_api`]). A machine that boots the same medium again needs another act.
//! * *Short life*: until another act follows, and no longer than a token lives after the act was carried out. So an act that waits for its turn keeps its token, and a medium that stays in a drive is worth nothing.
//!
//! The token is a function of the act and the key, so that ranges fit together and all replicas answer the same: with other bytes than before, there would be another act. (A new token key changes it, too,
//! and the ETag with it.) Its time is the act's, by the operator's clock: later than that of the session before, which the act was waited for after.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use agent_protocol::{
    architecture::Architecture,
    session::ErrorCode,
    token::{BootClaims, MediumClaims},
};
use api::{
    BareMetalHardware,
    power::{PowerAct, VirtualMedia},
};
use axum::{
    Extension,
    body::Body,
    extract::{Path as UrlPath, State},
    response::{IntoResponse, Response},
};
use boot_script::{
    command_line::AgentBoot,
    host::Host,
    medium::{SLOT_BYTES, find_slot, slot},
    query::{BootRequest, BuildArch, Platform},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::{
    image_store::{
        answer::{Head, head},
        no_such_file,
    },
    reply::{Refusal, Reply},
    server::Peer,
    state::Shared,
};

/// Read at a time.
const PIECE: u64 = 1 << 18;

/// One image of the media folder.
struct Image {
    file: File,
    size: u64,
    slot: u64,
    digest: [u8; 32],
    stamp: Stamp,
}

/// By what a file is known to be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// The images that were looked into, by their architecture.
#[derive(Default)]
pub(crate) struct Images {
    known: Mutex<HashMap<Architecture, Arc<Image>>>,
    /// Whose turn it is to look into one: a rack's controllers come at once, and an image is read as a whole.
    looking: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

impl Images {
    /// The image at this path; it is looked into once, and again when it is another one.
    async fn of(&self, architecture: Architecture, path: PathBuf) -> io::Result<Arc<Image>> {
        let now = stamp(&tokio::fs::symlink_metadata(&path).await?);
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = || lock().get(&architecture).cloned().filter(|known| known.stamp == now);
        if let Some(known) = known() {
            return Ok(known);
        }
        let _turn = self.looking.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let shown = path.display().to_string();
        let image = tokio::task::spawn_blocking(move || look_into(&path))
            .await
            .map_err(io::Error::other)??;
        tracing::info!(path = shown, bytes = image.size, "boot medium");
        let image = Arc::new(image);
        lock().insert(architecture, image.clone());
        Ok(image)
    }
}

fn stamp(of: &std::fs::Metadata) -> Stamp {
    Stamp {
        inode: of.ino(),
        size: of.len(),
        modified: (of.mtime(), of.mtime_nsec()),
    }
}

fn look_into(path: &std::path::Path) -> io::Result<Image> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut hashing = Hashing {
        file: &file,
        digest: Sha256::new(),
    };
    let slot = find_slot(&mut hashing)?;
    let slot = slot.ok_or_else(|| io::Error::other("it is no boot medium of this version: `kube-baremetal bootmedia iso` makes one"))?;
    let digest = hashing.digest.finalize().into();
    Ok(Image {
        size: metadata.len(),
        slot,
        digest,
        stamp: stamp(&metadata),
        file,
    })
}

struct Hashing<'a> {
    file: &'a File,
    digest: Sha256,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

/// The handler.
pub(crate) async fn serve(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    UrlPath((hardware, file)): UrlPath<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(act) = file.strip_suffix(".iso") else {
        return no_such_file();
    };
    match answer(&shared, peer.address, &hardware, act, &method, &headers).await {
        Some(response) => response,
        None => no_such_file(),
    }
}

async fn answer(shared: &Shared, source: IpAddr, hardware: &str, act: &str, method: &Method, headers: &HeaderMap) -> Option<Response> {
    let standing = standing(shared, source, hardware, act).await?;
    let tell = |problem: String| {
        tracing::warn!(
            hardware,
            act,
            problem,
            "there is no boot medium for a machine that is to boot from one"
        )
    };
    let media = standing.hardware.spec.power.as_ref()?.virtual_media()?;
    let architecture = architecture(shared, &standing.hardware);
    let Some(path) = shared.media.medium(architecture).await else {
        tell(format!(
            "the media folder has none for {architecture}: `kube-baremetal bootmedia iso --architecture {architecture}` makes one"
        ));
        return None;
    };
    let image = match shared.mediums.of(architecture, path).await {
        Ok(image) => image,
        Err(error) => {
            tell(format!("boot.iso for {architecture}: {error}"));
            return None;
        }
    };
    let slot: Arc<[u8]> = match words(shared, &standing, media, architecture) {
        Ok(slot) => slot.into(),
        Err(problem) => {
            tell(problem);
            return None;
        }
    };
    let tag = Sha256::new().chain_update(image.digest).chain_update(&slot).finalize();
    let (response, start, length) = match head(image.size, &format!("\"{}\"", hex::encode(&tag[..16])), headers) {
        Head::Whole(response) => return Some(response),
        Head::Part { response, start, length } => (response, start, length),
    };
    if start == 0 {
        tracing::info!(hardware, act, %method, address = %source, "boot medium asked for");
    }
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        pieces(image, slot, start, length)
    };
    // A token must not come out of anybody's cache.
    let response = response.header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(
        response
            .body(body)
            .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()),
    )
}

fn pieces(image: Arc<Image>, slot: Arc<[u8]>, start: u64, length: u64) -> Body {
    let end = start + length;
    Body::from_stream(futures::stream::try_unfold(start, move |offset| {
        let (image, slot) = (image.clone(), slot.clone());
        async move {
            if offset >= end {
                return Ok::<_, io::Error>(None);
            }
            let size = (end - offset).min(PIECE);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
                image.file.read_exact_at(&mut piece, offset)?;
                put_in(&mut piece, offset, &slot, image.slot);
                Ok::<_, io::Error>(piece)
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok(Some((Bytes::from(piece), offset + size)))
        }
    }))
}

/// Puts what a piece of the image has of the slot into it.
fn put_in(piece: &mut [u8], offset: u64, slot: &[u8], at: u64) {
    let end = (offset + piece.len() as u64).min(at + slot.len() as u64);
    let begin = offset.max(at);
    if begin >= end {
        return;
    }
    let (from, to) = ((begin - at) as usize, (end - at) as usize);
    piece[(begin - offset) as usize..(end - offset) as usize].copy_from_slice(&slot[from..to]);
}

/// An act by which a machine is to boot into the agent.
struct Standing {
    hardware: Arc<BareMetalHardware>,
    act: PowerAct,
    /// When it was carried out.
    done_at: Option<Timestamp>,
}

fn stands(hardware: Arc<BareMetalHardware>, act: &str) -> Option<Standing> {
    let (act, done_at) = hardware.status.as_ref()?.power.as_ref()?.boots_by(act)?;
    let act = act.clone();
    Some(Standing { hardware, act, done_at })
}

/// Whether such an act stands. What the cache does not know yet is read past it, a few times for each source: the operator tells a BMC of an act a moment after it wrote it down.
async fn standing(shared: &Shared, source: IpAddr, hardware: &str, act: &str) -> Option<Standing> {
    let is_name =
        |text: &str| !text.is_empty() && text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if !is_name(hardware) || !is_name(act) {
        return None;
    }
    if let Some(standing) = shared.cache.hardware(hardware).and_then(|found| stands(found, act)) {
        return Some(standing);
    }
    shared.lookups.take(source, Instant::now()).ok()?;
    let fresh = shared.store.hardware(hardware).await.ok()??;
    stands(Arc::new(fresh), act)
}

/// What its inventory says; before there is one, what its BMC says, else the usual one.
fn architecture(shared: &Shared, hardware: &BareMetalHardware) -> Architecture {
    let discovery = shared.cache.discovery(&hardware.spec.discovery_name);
    let inventory = discovery.as_ref().and_then(|d| d.status.as_ref()?.inventory.as_ref());
    let told = lifecycle::bmc_inventory::told(hardware);
    inventory
        .map(|inventory| &inventory.cpu)
        .or_else(|| told.map(|told| &told.cpu))
        .and_then(|cpu| cpu.architecture.parse().ok())
        .unwrap_or(Architecture::Amd64)
}

/// The slot of the machine's medium; or why there is none, for people.
fn words(shared: &Shared, standing: &Standing, media: &VirtualMedia, architecture: Architecture) -> Result<Vec<u8>, String> {
    let keys = shared.keys().ok_or("there are no keys yet")?;
    let fixed = media.fixed().map_err(|error| error.to_string())?;
    let server = media
        .server
        .parse::<Uri>()
        .map_err(|error| format!("virtualMedia.server: {error}"))?;
    let host = server.host().and_then(Host::parse).ok_or("virtualMedia.server names no host")?;
    let told = super::told(shared, Some(standing.hardware.spec.discovery_name.as_str()), fixed.address);
    let request = BootRequest {
        uuid: None,
        mac: media.mac,
        platform: Platform::Efi,
        buildarch: match architecture {
            Architecture::Amd64 => BuildArch::X86_64,
            Architecture::Arm64 => BuildArch::Arm64,
        },
    };
    let hardware = standing.hardware.as_ref();
    let nonce = Sha256::new()
        .chain_update(hardware.uid().unwrap_or_default())
        .chain_update([0u8])
        .chain_update(&standing.act.id)
        .finalize();
    let token = keys.issue_medium(&MediumClaims {
        hardware: hardware.name_any(),
        act: standing.act.id.clone(),
        boot: BootClaims {
            uuid: None,
            mac: media.mac,
            address: fixed.address,
            elsewhere: told.elsewhere,
            nonce: hex::encode(&nonce[..16]),
            issued_at: standing.act.since.0.as_millisecond(),
        },
    });
    let boot = AgentBoot {
        host: &host,
        tls_port: shared.config.advertise_tls_port.unwrap_or(shared.tls_port),
        // What is this replica's own must not be on it.
        advertise: &[],
        servers: &shared.config.servers,
        pin: keys.pin(),
        token: &token,
        request: &request,
        architecture,
        link: &told.link,
        arguments: &shared.config.kernel_arguments,
    };
    slot(&boot, &fixed.words())
        .ok_or_else(|| format!("its words are longer than {SLOT_BYTES} bytes: give netboot fewer servers or kernel arguments"))
}

/// Which BareMetalDiscovery the token of a medium stands for, if its act still does.
///
/// # Errors
/// That it does not, by the one answer for every token.
pub(crate) async fn judge(shared: &Shared, source: IpAddr, claims: &MediumClaims) -> Reply<String> {
    let standing = standing(shared, source, &claims.hardware, &claims.act)
        .await
        .ok_or_else(Refusal::token)?;
    let life = SignedDuration::try_from(shared.config.token_life).unwrap_or(SignedDuration::MAX);
    let over = standing.done_at.is_some_and(|at| Timestamp::now().duration_since(at) > life);
    if over {
        return Err(Refusal::token());
    }
    Ok(standing.hardware.spec.discovery_name.clone())
}

/// Refuses a machine that booted from a medium which was made for another one: its BMC is another machine's than somebody wrote down.
pub(crate) fn other_machine(hardware: &str, discovery: &str, found: Option<&str>) -> Refusal {
    let is = found.map_or_else(
        || "another machine than before".to_owned(),
        |found| format!("the machine of BareMetalDiscovery {found}"),
    );
    let text = format!(
        "the power driver of BareMetalHardware {hardware} booted {is}, and that object is for BareMetalDiscovery {discovery}: correct spec.power, or delete the object and create one with the right discoveryName"
    );
    tracing::warn!("{text}");
    Refusal::new(ErrorCode::IdentityConflict, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_it_is_cut_the_slot_is_where_it_belongs(at in 0u64..300, slot_length in 1usize..100, cuts in proptest::collection::vec(1usize..200, 1..8)) {
            let size = 500u64;
            let whole: Vec<u8> = (0..size).map(|n| n as u8 & 0x7f).collect();
            let slot = vec![0xff; slot_length];
            let (mut served, mut offset, mut cuts) = (Vec::new(), 0u64, cuts.into_iter().cycle());
            while offset < size {
                let length = (cuts.next().unwrap() as u64).min(size - offset);
                let mut piece = whole[offset as usize..(offset + length) as usize].to_vec();
                put_in(&mut piece, offset, &slot, at);
                served.extend(piece);
                offset += length;
            }
            let mut expected = whole;
            expected[at as usize..at as usize + slot_length].fill(0xff);
            prop_assert_eq!(served, expected);
        }
    }
}
