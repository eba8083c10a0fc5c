//! A packed image as an OCI artifact: an image layout folder (image-spec 1.1) that any client pushes to a registry.
//!
//! The artifact has two layers, the manifest and the chunks, each a blob as it is: a registry that answers ranges can be written from
//! without unpacking anything. The same packed image gives the same layout.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::folder::NewFolder;
use super::manifest::{MAX_MANIFEST_BYTES, Manifest};
use super::source::{DirSource, read_bounded};
use super::{CHUNKS_FILE, MANIFEST_FILE, output_error};
use crate::error::ImageError;

/// Type of the artifact.
pub const ARTIFACT_TYPE: &str = "application/vnd.kube-baremetal.packed-image.v1";
/// Type of the layer that is the manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.kube-baremetal.packed-image.manifest.v1+json";
/// Type of the layer that is the file of frames.
pub const CHUNKS_TYPE: &str = "application/vnd.kube-baremetal.packed-image.chunks.v1";

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Most bytes of the two small documents.
const MAX_DOCUMENT: u64 = 4 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    schema_version: u8,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: String,
    manifests: Vec<Descriptor>,
}

fn descriptor(media_type: &str, sha256: &[u8], size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: format!("sha256:{}", hex::encode(sha256)),
        size,
        artifact_type: None,
    }
}

/// Makes a layout out of a packed image's folder, which goes: its files become the layout's blobs without being copied. Both must be on
/// one file system. Gives the digest by which a registry will name the artifact.
pub fn into_layout(folder: &Path, layout: &Path) -> Result<String, ImageError> {
    DirSource::open(folder)?;
    let new = NewFolder::begin(layout)?;
    let blobs = Path::new("blobs").join("sha256");
    fs::create_dir_all(new.path(&blobs)).map_err(output_error(&new.path(&blobs)))?;
    let mut layers = Vec::new();
    for (file, media_type) in [(MANIFEST_FILE, MANIFEST_TYPE), (CHUNKS_FILE, CHUNKS_TYPE)] {
        let path = folder.join(file);
        let (sha256, size) = hashed(&path).map_err(output_error(&path))?;
        let blob = new.path(blobs.join(hex::encode(sha256)));
        fs::rename(&path, &blob).map_err(output_error(&blob))?;
        layers.push(descriptor(media_type, &sha256, size));
    }
    let add = |bytes: &[u8], media_type: &str| {
        let sha256 = Sha256::digest(bytes);
        new.write(blobs.join(hex::encode(sha256)), bytes)?;
        Ok::<_, ImageError>(descriptor(media_type, &sha256, bytes.len() as u64))
    };
    let artifact = Artifact {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        artifact_type: ARTIFACT_TYPE.to_owned(),
        config: add(b"{}", OCI_EMPTY)?,
        layers,
    };
    let mut named = add(&json(&artifact, layout)?, OCI_MANIFEST)?;
    named.artifact_type = Some(ARTIFACT_TYPE.to_owned());
    let digest = named.digest.clone();
    let index = Index {
        schema_version: 2,
        media_type: OCI_INDEX.to_owned(),
        manifests: vec![named],
    };
    new.write(Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    new.write(Path::new("index.json"), &json(&index, layout)?)?;
    for path in [blobs.as_path(), Path::new("blobs")] {
        let path = new.path(path);
        File::open(&path)
            .and_then(|folder| folder.sync_all())
            .map_err(output_error(&path))?;
    }
    new.finish()?;
    fs::remove_dir(folder).map_err(output_error(folder))?;
    Ok(digest)
}

fn json(document: &impl Serialize, path: &Path) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(document).map_err(|error| output_error(path)(error.into()))
}

fn hashed(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer, mut size) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher.finalize().into(), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Opens the packed image in a layout folder that has one.
pub fn open_layout(layout: &Path) -> Result<(Manifest, DirSource), ImageError> {
    let name = layout.display().to_string();
    let corrupt = |reason: String| ImageError::Corrupt {
        source_name: name.clone(),
        reason,
    };
    let index: Index = document(&layout.join("index.json"))?;
    let ours = |manifest: &&Descriptor| manifest.artifact_type.as_deref() == Some(ARTIFACT_TYPE);
    let mut found = index.manifests.iter().filter(ours);
    let (Some(named), None) = (found.next(), found.next()) else {
        return Err(corrupt("it does not hold exactly one packed image".to_owned()));
    };
    let artifact: Artifact = document(&blob(layout, named)?)?;
    let layer = |media_type: &str| {
        let found = artifact.layers.iter().find(|layer| layer.media_type == media_type);
        blob(
            layout,
            found.ok_or_else(|| corrupt(format!("it has no layer of type {media_type}")))?,
        )
    };
    let bytes = read_bounded(&layer(MANIFEST_TYPE)?, MAX_MANIFEST_BYTES as u64)?;
    let manifest = Manifest::parse(&bytes).map_err(|error| error.of_source(&name))?;
    let source = DirSource::with_chunks(&layer(CHUNKS_TYPE)?, &manifest)?;
    Ok((manifest, source))
}

/// Where a blob lies. Its digest becomes part of a path only when it is one.
fn blob(layout: &Path, descriptor: &Descriptor) -> Result<PathBuf, ImageError> {
    let digits = descriptor.digest.strip_prefix("sha256:").filter(|digits| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        digits.len() == 64 && digits.bytes().all(is_digit)
    });
    let digits = digits.ok_or_else(|| ImageError::Corrupt {
        source_name: layout.display().to_string(),
        reason: "a blob of it is not named by sha256:<64 hex digits>".to_owned(),
    })?;
    Ok(layout.join("blobs").join("sha256").join(digits))
}

fn document<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ImageError> {
    let bytes = read_bounded(path, MAX_DOCUMENT)?;
    serde_json::from_slice(&bytes).map_err(|error| ImageError::Corrupt {
        source_name: path.display().to_string(),
        reason: error.to_string(),
    })
}
