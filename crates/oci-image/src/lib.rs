//! Writes the container image of `kube-baremetal` as an OCI archive (image-spec 1.1), without a container engine, a daemon or root.
//!
//! * [`elf`]: a program is looked at before it is packed: right processor, no loader needed.
//! * [`rootfs`]: what lies in the image, as layers.
//! * [`layer`]: a layer: a tar of files, compressed, with both of its digests.
//! * [`archive`]: configurations, manifests, index, and the archive around them.
//!
//! Invariants: the same inputs give the same bytes, whoever builds where and when (no clock, no owner, no order of a hash map gets in); whatever is named by a
//! digest was hashed from the very bytes that are written. There is always an index, also over one architecture, so that a second one changes no reader.
//!
//! It does not push, pull or sign: any client that reads `oci-archive` does.

pub mod archive;
pub mod elf;
pub mod layer;
pub mod rootfs;

use std::path::{Path, PathBuf};

/// Processor of an image, by its name in OCI (and Go, and Debian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl std::str::FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "amd64" => Ok(Self::Amd64),
            "arm64" => Ok(Self::Arm64),
            _ => Err(format!("{text:?} is no architecture of ours: amd64 or arm64")),
        }
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A program that would not run in the image.
    #[error("{path} cannot be the program for {architecture}: {problem}", architecture = architecture.name())]
    Program {
        /// Which file.
        path: PathBuf,
        /// For which processor it was given.
        architecture: Architecture,
        /// Why not, and what to do.
        problem: String,
    },
    /// A value that is not allowed.
    #[error("{field}: {problem}")]
    Input {
        /// Which.
        field: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// A part could not be put together in memory.
    #[error("packing {what}")]
    Pack {
        /// Which part.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A document could not be written as JSON.
    #[error("writing {what} as JSON")]
    Json {
        /// Which document.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}
