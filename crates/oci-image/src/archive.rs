//! The documents of an image and the archive around them.
//!
//! The documents are typed here, with ordered maps, because the library that has them keeps labels and annotations in hash maps: their order, and with it every
//! digest above them, would change from run to run.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    Architecture, Error,
    layer::{self, Layer},
    rootfs,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// By this annotation readers of an archive find the image by its tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// By this one containerd (and so kind) knows the image's whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Name with tag: `registry/repository:tag`.
    pub name: Name,
    /// When its sources were made (not: when it was built).
    pub created: jiff::Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The static program for each architecture, at least one.
    pub programs: BTreeMap<Architecture, PathBuf>,
    /// Folder of certificate authorities, or one bundle.
    pub certificates: Option<PathBuf>,
    /// Folder of boot media.
    pub media: Option<PathBuf>,
}

/// An image's whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    whole: String,
    tag: String,
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |problem: &str| {
            Err(format!(
                "{text:?}: {problem}; an image is named like registry.example/folder/kube-baremetal:0.1.0"
            ))
        };
        let Some((repository, tag)) = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
            return bad("the tag is missing");
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !(1..=128).contains(&tag.len()) || !word(tag.as_bytes()[0]) || !tag.bytes().all(|b| word(b) || b".-".contains(&b)) {
            return bad("the tag is not 1 to 128 letters, digits, and _.- (these two not in front)");
        }
        let Some((registry, path)) = repository.split_once('/') else {
            return bad("the registry is missing");
        };
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_registry = registry == "localhost" || registry.contains(['.', ':']);
        if !is_registry || !registry.bytes().all(|b| lower(b) || b".:-".contains(&b)) {
            return bad("the registry is no host name");
        }
        let part = |p: &str| p.bytes().all(|b| lower(b) || b"._-".contains(&b)) && p.bytes().next().is_some_and(lower);
        if !path.split('/').all(part) {
            return bad("the path is not lower-case letters, digits and ._-");
        }
        Ok(Self {
            whole: text.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.whole)
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Serialize)]
struct Configuration<'a> {
    created: String,
    architecture: &'static str,
    os: &'static str,
    config: Execution<'a>,
    rootfs: RootFs<'a>,
    history: Vec<History>,
}

/// How a container of the image is run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Execution<'a> {
    user: String,
    env: Vec<String>,
    entrypoint: [String; 1],
    working_dir: &'static str,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct RootFs<'a> {
    r#type: &'static str,
    diff_ids: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct History {
    created: String,
    created_by: &'static str,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Built {
    /// Digest of the index, by which a registry will name the image.
    pub digest: String,
    /// Each architecture with its layers: what they hold, and their compressed sizes.
    pub images: Vec<(Architecture, Vec<(&'static str, usize)>)>,
    /// Size of the archive.
    pub bytes: usize,
}

/// The blobs of a layout, by digest; so each is there once.
#[derive(Debug, Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, media_type: &'static str, bytes: Vec<u8>) -> Descriptor {
        let digest = layer::digest(&bytes);
        let descriptor = Descriptor {
            media_type,
            digest: digest.clone(),
            size: bytes.len(),
            platform: None,
            annotations: BTreeMap::new(),
        };
        self.0.insert(digest, bytes);
        descriptor
    }

    fn add_document(&mut self, media_type: &'static str, document: &impl Serialize) -> Result<Descriptor, Error> {
        Ok(self.add(media_type, json(media_type, document)?))
    }
}

fn json(what: &'static str, document: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(document).map_err(|source| Error::Json { what, source })
}

/// Builds the image and writes it to `output`, which is replaced only when all of it is there.
///
/// # Errors
/// [`Error`]: what was wrong with which input.
pub fn write(recipe: &Recipe, output: &Path) -> Result<Built, Error> {
    if recipe.programs.is_empty() {
        return Err(Error::Input {
            field: "--program",
            problem: "give at least one, as amd64=PATH".to_owned(),
        });
    }
    let mut blobs = Blobs::default();
    let shared = rootfs::shared(recipe.certificates.as_deref(), recipe.media.as_deref())?;
    let mut manifests = Vec::new();
    let mut images = Vec::new();
    for (&architecture, path) in &recipe.programs {
        let mut layers = shared.clone();
        layers.push(rootfs::program(path, architecture)?);
        let config = blobs.add_document(CONFIG, &configuration(recipe, architecture, &layers))?;
        images.push((architecture, layers.iter().map(|l| (l.summary, l.blob.len())).collect()));
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            config,
            layers: layers.into_iter().map(|l| blobs.add(LAYER, l.blob)).collect(),
        };
        let mut descriptor = blobs.add_document(MANIFEST, &manifest)?;
        descriptor.platform = Some(Platform {
            architecture: architecture.name(),
            os: "linux",
        });
        manifests.push(descriptor);
    }
    let index = |manifests| Index {
        schema_version: 2,
        media_type: INDEX,
        manifests,
    };
    let mut image = blobs.add_document(INDEX, &index(manifests))?;
    let digest = image.digest.clone();
    image.annotations = BTreeMap::from([(CONTAINERD_NAME, recipe.name.whole.clone()), (REF_NAME, recipe.name.tag.clone())]);
    let archive = archive(&json("index.json", &index(vec![image]))?, &blobs).map_err(|source| Error::Pack {
        what: "the archive",
        source,
    })?;
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file = std::fs::File::create(&partial).map_err(Error::file("create", &partial))?;
    file.write_all(&archive).map_err(Error::file("write", &partial))?;
    std::fs::rename(&partial, output).map_err(Error::file("put the archive at", output))?;
    Ok(Built {
        digest,
        images,
        bytes: archive.len(),
    })
}

fn configuration<'a>(recipe: &'a Recipe, architecture: Architecture, layers: &'a [Layer]) -> Configuration<'a> {
    let mut env = vec!["PATH=/usr/bin".to_owned(), format!("KBM_DATA_DIR=/{}", rootfs::DATA)];
    if recipe.certificates.is_some() {
        env.push(format!("SSL_CERT_FILE=/{}", rootfs::CERTIFICATES));
    }
    if recipe.media.is_some() {
        env.push(format!("KBM_MEDIA_DIR=/{}", rootfs::MEDIA));
    }
    Configuration {
        created: recipe.created.to_string(),
        architecture: architecture.name(),
        os: "linux",
        config: Execution {
            user: format!("{0}:{0}", rootfs::USER),
            env,
            entrypoint: [format!("/{}", rootfs::PROGRAM)],
            working_dir: "/",
            labels: &recipe.labels,
        },
        rootfs: RootFs {
            r#type: "layers",
            diff_ids: layers.iter().map(|l| l.diff_id.as_str()).collect(),
        },
        history: layers
            .iter()
            .map(|l| History {
                created: recipe.created.to_string(),
                created_by: l.summary,
            })
            .collect(),
    }
}

/// The layout as a tar: the two small files first, then the blobs by digest.
fn archive(index: &[u8], blobs: &Blobs) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, contents: Option<&[u8]>| {
        let bytes = contents.unwrap_or_default();
        let mode = if contents.is_some() { 0o644 } else { 0o755 };
        tar.append_data(&mut layer::header(contents.is_some(), bytes.len() as u64, mode), path, bytes)
    };
    add("oci-layout", Some(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    add("index.json", Some(index))?;
    add("blobs/", None)?;
    add("blobs/sha256/", None)?;
    for (digest, bytes) in &blobs.0 {
        add(&format!("blobs/{}", digest.replace(':', "/")), Some(bytes))?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn only_whole_names_are_taken() {
        for good in [
            "localhost/kube-baremetal:0.1.0",
            "registry.example/a/b_c/d:v1",
            "registry.example:5000/a:latest",
        ] {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good);
        }
        for bad in [
            "kube-baremetal:0.1.0",
            "a/kube-baremetal:0.1.0",
            "localhost/kube-baremetal",
            "registry.example:5000/a",
            "localhost/Kube:1",
            "localhost//a:1",
            "localhost/a:",
            "localhost/a:-1",
            "localhost/a b:1",
            "",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was taken");
        }
    }
}
