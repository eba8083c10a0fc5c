//! Writes the container image of `kube-baremetal` as an OCI archive (image-spec 1.1), without a container engine, a daemon or root.
//!
//! A program is looked at before it is packed ([`bootmedia::elf`]): right processor, no loader needed.
//!
//! * [`rootfs`]: what lies in the image, as layers.
//! * [`layer`]: a layer: a tar of files, compressed, with both of its digests.
//! * [`archive`]: configurations, manifests, index, and the archive around them.
//!
//! Invariants: the same inputs give the same bytes, whoever builds where and when (no clock, no owner, no order of a hash map gets in); whatever is named by a
//! digest was hashed from the very bytes that are written. There is always an index, also over one architecture, so that a second one changes no reader.
//!
//! It does not push, pull or sign: any client that reads `oci-archive` does.

pub mod archive;
pub mod layer;
pub mod rootfs;

use std::path::{Path, PathBuf};

pub use agent_protocol::architecture::Architecture;

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
    #[error("{path} cannot be the program for {architecture}: {problem}")]
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
