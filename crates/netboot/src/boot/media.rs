//! The boot media: the agent's kernel and initramfs, in a folder for each architecture, at `/boot/media/<architecture>/{vmlinuz,initramfs}`.
//!
//! A machine is sent to the agent only where there is a kernel that its processor runs. A replica that was given no folder cannot know that (something else may serve the media
//! under its address), so it sends machines as if all were there.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_protocol::architecture::Architecture;
use axum::{
    extract::{Path as UrlPath, State},
    response::Response,
};
use http::{HeaderMap, Method};

use crate::image_store::Folder;

/// See the module.
#[derive(Debug)]
pub(crate) struct Media {
    folder: Option<PathBuf>,
    amd64: Arc<Folder>,
    arm64: Arc<Folder>,
}

impl Media {
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        let of = |architecture: Architecture| Folder::media(folder.map(|folder| folder.join(architecture.name())));
        Self {
            folder: folder.map(Path::to_owned),
            amd64: of(Architecture::Amd64),
            arm64: of(Architecture::Arm64),
        }
    }

    fn of(&self, architecture: Architecture) -> &Arc<Folder> {
        match architecture {
            Architecture::Amd64 => &self.amd64,
            Architecture::Arm64 => &self.arm64,
        }
    }

    /// The boot medium of this architecture, where one was built.
    pub(crate) async fn medium(&self, architecture: Architecture) -> Option<PathBuf> {
        self.of(architecture).find("medium").await
    }

    /// Whether a machine of this architecture can be sent to the agent; `None` is one that no media are built for.
    pub(crate) async fn has(&self, architecture: Option<Architecture>) -> bool {
        let Some(architecture) = architecture else { return false };
        if self.folder.is_none() {
            return true;
        }
        let folder = self.of(architecture);
        folder.find("vmlinuz").await.is_some() && folder.find("initramfs").await.is_some()
    }

    /// Says in the log what is there, for whoever starts a server.
    pub(crate) async fn report(&self) {
        let Some(folder) = &self.folder else { return };
        let folder = folder.display();
        let mut there = Vec::new();
        for architecture in Architecture::ALL {
            if self.has(Some(architecture)).await {
                there.push(architecture.name());
            }
        }
        if there.is_empty() {
            tracing::warn!(
                "{folder} has no boot media in folders `amd64` and `arm64`: machines boot their own disks until `make bootmedia` (or `kube-baremetal bootmedia build`) has put them there"
            );
        } else {
            tracing::info!(%folder, architectures = there.join(","), "boot media");
        }
    }
}

/// `GET` and `HEAD` of one file.
pub(crate) async fn serve(
    State(media): State<Arc<Media>>,
    UrlPath((architecture, name)): UrlPath<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    match architecture.parse() {
        Ok(architecture) => media.of(architecture).serve(&name, &method, &headers).await,
        Err(_) => crate::image_store::no_such_file(),
    }
}
