//! `PUT /images/v1/uploads/<name>`, over TLS: the bytes of a BareMetalImage whose URL is `upload://...`.
//!
//! Who may: whoever could write a Secret into netboot's own namespace a moment ago. The command line makes one of the type [`SECRET_TYPE`], named [`secret_name`] and good for a few hours, with
//! a random token in it, and shows that token here. So the Kubernetes API decides, with whatever way of proving oneself the cluster has, and netboot needs no right that it does not have anyway.
//! Whatever is not in order (no header, no Secret, another type, past its time, another token) is answered alike with 401, before the name is looked up and before a byte of the body is read.
//!
//! The body goes to the shelf's disk within its quota, is held against the image's digest while it is packed from there, and is gone afterwards.

use std::{path::Path, sync::Arc, time::Duration};

use api::BareMetalImage;
use axum::{
    Extension,
    body::Body,
    extract::{Path as UrlPath, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use image::pack::{CHUNKS_FILE, MANIFEST_FILE};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    keeper::{Keeper, is_upload},
    prepare::Supply,
    shelf::Draft,
};
use crate::{limits::RateLimit, server::Peer};

/// The route, below which the name of the BareMetalImage stands. Served over TLS only.
pub const UPLOADS: &str = "/images/v1/uploads";
/// Type of a Secret that permits an upload. No other Secret can be taken for one.
pub const SECRET_TYPE: &str = "kube-baremetal.io/image-upload";
/// Key in it: what is to be shown, as it is.
pub const TOKEN: &str = "token";
/// Key in it: until when it is good, as RFC 3339 writes times.
pub const EXPIRES: &str = "expires";
/// Header of a packed image: so many bytes of the body are its manifest, the rest its chunks.
pub const MANIFEST_BYTES: &str = "kbm-manifest-bytes";

/// Longest time without a byte of the body.
const STALL: Duration = Duration::from_secs(60);

/// Name of the Secret that permits the upload of this image.
pub fn secret_name(image: &str) -> String {
    format!("image-upload-{image}")
}

/// What the route needs.
#[derive(Clone)]
pub(crate) struct Uploads {
    pub keeper: Option<Arc<Keeper>>,
    /// How often one source may have a Secret looked for.
    pub lookups: Arc<RateLimit>,
}

/// Why an upload is not taken.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // What is left of the body is not read.
        (self.0, [(header::CONNECTION, "close")], format!("{}\n", self.1)).into_response()
    }
}

fn refuse(status: StatusCode, words: impl Into<String>) -> Refused {
    Refused(status, words.into())
}

fn unauthorized() -> Refused {
    refuse(
        StatusCode::UNAUTHORIZED,
        "the upload is not permitted: use `kube-baremetal image upload`, which asks the Kubernetes API for permission",
    )
}

/// The handler.
pub(crate) async fn upload(
    State(uploads): State<Uploads>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
    request: Request,
) -> Response {
    match judge_and_take(&uploads, peer, &name, request).await {
        Ok(()) => (StatusCode::ACCEPTED, "the bytes are here; they are checked and packed now\n").into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn judge_and_take(uploads: &Uploads, peer: Peer, name: &str, request: Request) -> Result<(), Refused> {
    let (parts, body) = request.into_parts();
    let keeper = uploads.keeper.as_ref().ok_or_else(unauthorized)?;
    if uploads.lookups.take(peer.address, std::time::Instant::now()).is_err() {
        return Err(refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "too many uploads were asked for from here: try again in a minute",
        ));
    }
    if !is_permitted(keeper, name, &parts.headers).await {
        return Err(unauthorized());
    }
    let Some(image) = keeper.images.get(name).filter(|i| is_upload(i)) else {
        return Err(refuse(
            StatusCode::NOT_FOUND,
            format!("there is no BareMetalImage {name} with a URL upload://..."),
        ));
    };
    take(keeper, &image, &parts.headers, body).await
}

async fn is_permitted(keeper: &Keeper, name: &str, headers: &HeaderMap) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let Some(shown) = shown.and_then(|v| v.strip_prefix("Bearer ")) else {
        return false;
    };
    if name.is_empty() || !name.bytes().all(plain) {
        return false;
    }
    match keeper.store.secret(&secret_name(name)).await {
        Ok(secret) => is_good(&secret, shown, Timestamp::now()),
        Err(_) => false,
    }
}

fn is_good(secret: &Secret, shown: &str, now: Timestamp) -> bool {
    let value = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
    let (Some(token), Some(expires)) = (value(TOKEN), value(EXPIRES)) else {
        return false;
    };
    let expires = std::str::from_utf8(expires).ok().and_then(|e| e.parse::<Timestamp>().ok());
    // Digests are compared, so that the time this takes says nothing of the token.
    let equal = Sha256::digest(token) == Sha256::digest(shown);
    equal && token.len() >= 32 && secret.type_.as_deref() == Some(SECRET_TYPE) && expires.is_some_and(|e| now < e)
}

async fn take(keeper: &Arc<Keeper>, image: &Arc<BareMetalImage>, headers: &HeaderMap, body: Body) -> Result<(), Refused> {
    let number = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let Some(length) = number(header::CONTENT_LENGTH.as_str()) else {
        return Err(refuse(StatusCode::LENGTH_REQUIRED, "say how many bytes there are (Content-Length)"));
    };
    let manifest = number(MANIFEST_BYTES);
    if manifest.is_some_and(|m| m > length) {
        return Err(refuse(StatusCode::BAD_REQUEST, "the manifest cannot be longer than the body"));
    }
    let failed = |error: &dyn std::error::Error| refuse(StatusCode::INSUFFICIENT_STORAGE, crate::error::chain(error));
    let mut draft = keeper.shelf.begin().map_err(|e| failed(&e))?;
    draft.reserve(length).map_err(|e| failed(&e))?;
    let folder = draft.path().to_path_buf();
    let mut body = Bounded { body, left: length };
    let from = match manifest {
        Some(manifest) => {
            body.write(&folder.join(MANIFEST_FILE), manifest).await?;
            body.write(&folder.join(CHUNKS_FILE), length - manifest).await?;
            Supply::Folder(folder)
        }
        None => {
            let file = folder.join("image");
            body.write(&file, length).await?;
            Supply::File(file)
        }
    };
    keeper.received(image).await;
    let (keeper, image) = (keeper.clone(), image.clone());
    tokio::spawn(async move {
        let draft: Draft = draft;
        keeper.prepare_uploaded(&image, from).await;
        drop(draft);
    });
    Ok(())
}

/// A body of known length, of which one part after the other is written to a file.
struct Bounded {
    body: Body,
    left: u64,
}

impl Bounded {
    async fn write(&mut self, path: &Path, length: u64) -> Result<(), Refused> {
        let early = || refuse(StatusCode::BAD_REQUEST, "the body ended early: upload it again");
        let disk = |error: std::io::Error| {
            refuse(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("the image store's disk failed ({error}): see that it has free space"),
            )
        };
        let mut file = tokio::fs::File::create(path).await.map_err(disk)?;
        let mut left = length;
        while left > 0 {
            let frame = tokio::time::timeout(STALL, self.body.frame()).await.map_err(|_| early())?;
            let frame = frame.and_then(Result::ok).ok_or_else(early)?;
            let Ok(mut data) = frame.into_data() else { continue };
            if data.len() as u64 > self.left {
                return Err(early());
            }
            self.left -= data.len() as u64;
            // What belongs to the next file stays.
            if data.len() as u64 > left {
                let rest = data.split_off(usize::try_from(left).unwrap_or(usize::MAX));
                self.left += rest.len() as u64;
                let body = std::mem::take(&mut self.body);
                let first = futures::stream::once(async move { Ok::<_, axum::Error>(rest) });
                self.body = Body::from_stream(futures::StreamExt::chain(first, body.into_data_stream()));
            }
            file.write_all(&data).await.map_err(disk)?;
            left -= data.len() as u64;
        }
        file.flush().await.map_err(disk)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn only_a_secret_of_this_type_with_this_token_and_in_its_time_is_good() {
        let (now, token) = (Timestamp::UNIX_EPOCH, "t".repeat(64));
        let secret = |kind: &str, expires: &str| Secret {
            type_: Some(kind.to_owned()),
            data: Some(
                [(TOKEN, token.as_str()), (EXPIRES, expires)]
                    .map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())))
                    .into(),
            ),
            ..Secret::default()
        };
        let later = "1970-01-01T01:00:00Z";
        assert!(is_good(&secret(SECRET_TYPE, later), &token, now));
        assert!(!is_good(&secret(SECRET_TYPE, later), "", now));
        assert!(!is_good(&secret(SECRET_TYPE, later), &token[1..], now));
        assert!(!is_good(&secret("Opaque", later), &token, now));
        assert!(!is_good(&secret(SECRET_TYPE, "1969-12-31T23:59:59Z"), &token, now));
        assert!(!is_good(&secret(SECRET_TYPE, "soon"), &token, now));
        assert!(!is_good(&Secret::default(), "", now));
    }
}
