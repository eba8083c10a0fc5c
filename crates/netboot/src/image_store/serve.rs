//! `GET` and `HEAD` of `/images/<hex>/manifest.json` and `/images/<hex>/chunks`.
//!
//! Plain HTTP, for machines and for other replicas: whoever reads has the digest from elsewhere and checks every byte against it. The name is looked up on the shelf and never becomes a path.
//! Bytes are read at their place out of files that stay open, a piece at a time, so that neither a slow reader nor a large range holds memory or a thread.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use axum::{
    body::Body,
    extract::{Path as UrlPath, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use image::pack::{CHUNKS_FILE, MANIFEST_FILE};

use super::{
    answer::{Head, head},
    shelf::{Pack, Shelf},
};
use crate::metrics::Metrics;

/// Read at a time: mostly a whole chunk of an image.
const PIECE: u64 = 1 << 20;
/// What is named by its digest never changes.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// What the routes share. Without a store nothing is found.
#[derive(Clone)]
pub(crate) struct Packs {
    pub shelf: Option<Arc<Shelf>>,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Manifest,
    Chunks,
}

fn file(pack: &Pack, part: Part) -> (&File, u64) {
    match part {
        Part::Manifest => (&pack.manifest, pack.manifest_bytes),
        Part::Chunks => (&pack.chunks, pack.chunk_bytes),
    }
}

/// The handler.
pub(crate) async fn serve(
    State(packs): State<Packs>,
    UrlPath((hex, part)): UrlPath<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let part = match part.as_str() {
        MANIFEST_FILE => Part::Manifest,
        CHUNKS_FILE => Part::Chunks,
        _ => return not_found(),
    };
    let Some(pack) = packs.shelf.as_ref().and_then(|s| s.get(&hex)) else {
        return not_found();
    };
    let (response, start, length) = match head(file(&pack, part).1, &format!("\"{}\"", pack.facts.digest), &headers) {
        Head::Whole(response) => return response,
        Head::Part { response, start, length } => (response, start, length),
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        packs.metrics.image_bytes_served.inc_by(length);
        pieces(pack, part, start, length)
    };
    let response = response.header(header::CACHE_CONTROL, IMMUTABLE).body(body);
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is no such packed image here\n").into_response()
}

fn pieces(pack: Arc<Pack>, part: Part, start: u64, length: u64) -> Body {
    let end = start + length;
    Body::from_stream(futures::stream::try_unfold(start, move |offset| {
        let pack = pack.clone();
        async move {
            if offset >= end {
                return Ok::<_, std::io::Error>(None);
            }
            let size = (end - offset).min(PIECE);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
                file(&pack, part).0.read_exact_at(&mut piece, offset).map(|()| piece)
            });
            let piece = read.await.map_err(std::io::Error::other)??;
            Ok(Some((Bytes::from(piece), offset + size)))
        }
    }))
}
