//! qcow2 images, versions 2 and 3: our own bounded reader.
//!
//! Two passes, whatever the order of tables and data in the file. First the tables are read by ranges into a map (bounded).
//! Then the whole file is streamed once, from its start: that computes the digest, and hands out the clusters in the order in
//! which they are in the file. The tables pass by in that stream too and must be the bytes that the map was built from, so the
//! digest covers everything that was believed. Nothing outside of the image file is ever opened.

mod clusters;
mod copy;
mod header;
mod map;

use self::clusters::Decompressor;
use self::map::{Kind, Map};
use super::feed::{Stored, feed};
use super::{Copied, ExtentSink, HEAD_BYTES, ImageReader, Limit};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::format::Format;
use crate::source::Source;

pub(crate) struct Qcow2Reader {
    name: String,
    digest: Digest,
    source: Box<dyn Source>,
    map: Map,
    head: Vec<u8>,
}

impl Qcow2Reader {
    pub(crate) fn open(mut source: Box<dyn Source>, digest: &Digest, limit: &Limit) -> Result<Self, ImageError> {
        let name = source.name().to_owned();
        match Self::read_map(&name, source.as_mut(), limit) {
            Ok((map, head)) => Ok(Self {
                name,
                digest: digest.clone(),
                source,
                map,
                head,
            }),
            Err(error) => {
                let stream = source.stream()?;
                Err(Stored::new(&name, stream).settle(error, digest))
            }
        }
    }

    fn read_map(name: &str, source: &mut dyn Source, limit: &Limit) -> Result<(Map, Vec<u8>), ImageError> {
        let map = Map::build(name, source, limit)?;
        let head = read_head(name, source, &map)?;
        Ok((map, head))
    }
}

/// The first bytes of the disk, by ranged reads. They come again in the stream, where the digest covers them.
fn read_head(name: &str, source: &mut dyn Source, map: &Map) -> Result<Vec<u8>, ImageError> {
    let length = map.header.size.min(HEAD_BYTES as u64);
    let mut head = vec![0; length as usize];
    let mut decompressor = Decompressor::new(name, &map.header)?;
    for piece in &map.pieces {
        if piece.kind == Kind::Table || piece.to >= length {
            continue;
        }
        // Below HEAD_BYTES.
        let rest = &mut head[piece.to as usize..];
        if piece.kind == Kind::Data {
            let count = rest.len().min(piece.length as usize);
            source.read_range(piece.host, &mut rest[..count])?;
            continue;
        }
        let mut stored = vec![0; piece.length as usize];
        let count = source.read_range(piece.host, &mut stored)?;
        let mut cluster = vec![0; map.header.cluster_size() as usize];
        if !decompressor.fill(&stored[..count], &mut cluster) {
            return Err(ImageError::Corrupt {
                source_name: name.to_owned(),
                reason: format!("the cluster of guest offset {} does not decompress", piece.to),
            });
        }
        let count = rest.len().min(cluster.len());
        rest[..count].copy_from_slice(&cluster[..count]);
    }
    Ok(head)
}

impl ImageReader for Qcow2Reader {
    fn source_name(&self) -> &str {
        &self.name
    }

    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn image_bytes(&self) -> Option<u64> {
        Some(self.map.header.size)
    }

    fn granule(&self) -> u32 {
        self.map.header.unit().min(4096) as u32
    }

    fn head(&self) -> &[u8] {
        &self.head
    }

    fn copy_to(self: Box<Self>, sink: &dyn ExtentSink) -> Result<Copied, ImageError> {
        let Self {
            name,
            digest,
            mut source,
            map,
            ..
        } = *self;
        let stored = Stored::new(&name, source.stream()?);
        let ((), stored_bytes) = feed(stored, &digest, |input| copy::copy(&name, &map, input, sink))?;
        Ok(Copied {
            image_bytes: map.header.size,
            stored_bytes,
        })
    }
}
