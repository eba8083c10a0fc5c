//! Boot loaders, out of the folders in which a distribution's packages have put them: iPXE, and for UEFI the signed chain of shim and GRUB.
//!
//! They are read once, at the start, and served from memory, over TFTP and at `/boot/loaders/<name>`, under the names that DHCP offers: nothing that a machine asks for is ever
//! looked up in a file system.
//!
//! A request does not say whether Secure Boot is on. Shim starts either way, so it is offered where the chain is there; iPXE, which firmware with Secure Boot refuses, where
//! it is not or where that was wished. A network or a machine may be given the other one (`spec.bootLoaders`), so both are kept.
//!
//! **Which GRUB.** Beside another DHCP server a GRUB that came over TFTP finds its configuration only if it knows ProxyDHCP: GRUB 2.12 does, and builds that took that change over.
//! One that does not would ask the house's router for it and stop at its prompt, so it is not offered over TFTP. Over HTTP any GRUB with HTTP boot will do.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{Path as UrlPath, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dhcp::arch::{Firmware, Loaders as Chain, file};
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use crate::{
    config::UefiLoader,
    image_store::answer::{Head, head},
};

/// Largest loader: GRUB has about four MiB.
const MOST: u64 = 16 << 20;

/// Files of a folder by what they are served as; the first one that is there is taken.
type Candidates = &'static [&'static str];

/// iPXE by firmware. The card's own driver in the firmware comes first: it works with every card that the firmware could boot from.
const IPXE: &[(&[Firmware], &str, Candidates)] = &[
    (&[Firmware::Bios], file::IPXE_BIOS, &["undionly.kpxe"]),
    (
        &[Firmware::UefiX64, Firmware::HttpX64],
        file::IPXE_X64,
        &["ipxe-x64.efi", "snponly.efi", "ipxe.efi"],
    ),
    (
        &[Firmware::UefiIa32, Firmware::HttpIa32],
        file::IPXE_IA32,
        &["ipxe-ia32.efi", "i386-efi/snponly.efi"],
    ),
    (
        &[Firmware::UefiArm64, Firmware::HttpArm64],
        file::IPXE_ARM64,
        &["ipxe-arm64.efi", "arm64-efi/snponly.efi"],
    ),
];

/// Shim and the GRUB that it loads from beside itself.
struct Signed {
    pxe: Firmware,
    http: Firmware,
    shim: (&'static str, Candidates),
    grub: (&'static str, Candidates),
}

const SIGNED: &[Signed] = &[
    Signed {
        pxe: Firmware::UefiX64,
        http: Firmware::HttpX64,
        shim: (file::SHIM_X64, &["shimx64.efi.signed", "shimx64.efi"]),
        grub: (
            file::GRUB_X64,
            &["x86_64-efi-signed/grubnetx64.efi.signed", "grubnetx64.efi.signed", "grubx64.efi"],
        ),
    },
    Signed {
        pxe: Firmware::UefiArm64,
        http: Firmware::HttpArm64,
        shim: (file::SHIM_ARM64, &["shimaa64.efi.signed", "shimaa64.efi"]),
        grub: (
            file::GRUB_ARM64,
            &["arm64-efi-signed/grubnetaa64.efi.signed", "grubnetaa64.efi.signed", "grubaa64.efi"],
        ),
    },
];

/// A loader as it is served.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    /// As it is asked for.
    pub(crate) name: &'static str,
    pub(crate) content: Bytes,
    /// Quoted.
    etag: String,
}

/// All loaders that were found, and which firmware is offered which.
#[derive(Debug, Default)]
pub(crate) struct Loaders {
    pub(crate) files: Vec<Loader>,
    pub(crate) offers: Vec<(Firmware, Chain)>,
    /// All that could be offered.
    pub(crate) available: Vec<(Firmware, Chain)>,
}

/// Why a loader cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoaderError {
    #[error(
        "there is no boot loader in {}: install the packages ipxe, shim-signed and grub-efi-amd64-signed, or name folders with undionly.kpxe, snponly.efi, shimx64.efi and grubx64.efi",
        .0.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    None(Vec<PathBuf>),
    #[error("{} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{} is larger than {} MiB and no boot loader", .0.display(), MOST >> 20)]
    TooLarge(PathBuf),
}

impl Loaders {
    /// All known loaders of these folders; of two that are the same the earlier folder's. None at all is no error.
    pub(crate) fn read(folders: &[PathBuf], uefi: UefiLoader) -> Result<Self, LoaderError> {
        let mut loaders = Self::default();
        for (firmware, name, candidates) in IPXE {
            if loaders.take(folders, name, candidates)?.is_some() {
                loaders.available.extend(firmware.iter().map(|firmware| (*firmware, Chain::Ipxe)));
            }
        }
        for signed in SIGNED {
            match loaders.take_signed(folders, signed, uefi == UefiLoader::Signed) {
                // Nobody wished for it; a network or a machine may still.
                Err(error) if uefi != UefiLoader::Signed => {
                    tracing::warn!(error = %crate::error::chain(&error), "a signed loader is not there for those who ask for it by spec.bootLoaders");
                }
                taken => taken?,
            }
        }
        let signed = |firmware| uefi == UefiLoader::Signed && loaders.available.contains(&(firmware, Chain::SecureBoot));
        let wished = |&&(firmware, chain): &&(Firmware, Chain)| (chain == Chain::SecureBoot) == signed(firmware);
        loaders.offers = loaders.available.iter().filter(wished).copied().collect();
        Ok(loaders)
    }

    /// Whether any was found.
    pub(crate) fn found(&self, folders: &[PathBuf]) -> Result<(), LoaderError> {
        if self.files.is_empty() {
            return Err(LoaderError::None(folders.to_vec()));
        }
        Ok(())
    }

    fn take_signed(&mut self, folders: &[PathBuf], signed: &Signed, wished: bool) -> Result<(), LoaderError> {
        let (shim, grub) = (find(folders, signed.shim.1), find(folders, signed.grub.1));
        let (Some(_), Some(grub)) = (shim, grub) else {
            return Ok(());
        };
        self.take(folders, signed.shim.0, signed.shim.1)?;
        let content = self.take(folders, signed.grub.0, signed.grub.1)?.unwrap_or_default();
        self.available.push((signed.http, Chain::SecureBoot));
        if knows_proxy_dhcp(&content) {
            self.available.push((signed.pxe, Chain::SecureBoot));
        } else if wished {
            tracing::warn!(
                firmware = %signed.pxe, grub = %grub.display(),
                "this GRUB does not know ProxyDHCP and is offered over HTTP only: machines with Secure Boot cannot boot by PXE; take shim and GRUB 2.12 or newer (Debian 13's packages)"
            );
        }
        Ok(())
    }

    /// Reads a loader, if it is there.
    fn take(&mut self, folders: &[PathBuf], name: &'static str, candidates: Candidates) -> Result<Option<Bytes>, LoaderError> {
        let Some(path) = find(folders, candidates) else { return Ok(None) };
        let content: Bytes = read(&path)?.into();
        self.files.push(Loader {
            name,
            content: content.clone(),
            etag: format!("\"{}\"", hex::encode(Sha256::digest(&content))),
        });
        Ok(Some(content))
    }

    fn get(&self, name: &str) -> Option<&Loader> {
        self.files.iter().find(|loader| loader.name == name)
    }
}

fn find(folders: &[PathBuf], candidates: Candidates) -> Option<PathBuf> {
    let mut paths = folders
        .iter()
        .flat_map(|folder| candidates.iter().map(move |candidate| folder.join(candidate)));
    paths.find(|path| path.is_file())
}

fn read(path: &Path) -> Result<Vec<u8>, LoaderError> {
    let unreadable = |error| LoaderError::Unreadable(path.to_owned(), error);
    if fs::metadata(path).map_err(unreadable)?.len() > MOST {
        return Err(LoaderError::TooLarge(path.to_owned()));
    }
    fs::read(path).map_err(unreadable)
}

/// By a message of the change itself ("efinet: Add DHCP proxy support"): distributions took it into builds that call themselves older.
fn knows_proxy_dhcp(grub: &[u8]) -> bool {
    const MESSAGE: &[u8] = b"proxy offer receive";
    grub.windows(MESSAGE.len()).any(|window| window == MESSAGE)
}

/// `GET` and `HEAD` of `/boot/loaders/<name>`, for UEFI HTTP boot and for loaders that load loaders.
pub(crate) async fn serve(State(loaders): State<Arc<Loaders>>, UrlPath(name): UrlPath<String>, headers: HeaderMap) -> Response {
    let Some(loader) = loaders.get(&name) else {
        return (StatusCode::NOT_FOUND, "there is no such boot loader here\n").into_response();
    };
    let size = loader.content.len();
    match head(size as u64, &loader.etag, &headers) {
        Head::Whole(response) => response,
        Head::Part { response, start, length } => {
            // Within the file, which is in memory.
            let start = usize::try_from(start).unwrap_or(size).min(size);
            let end = usize::try_from(length).map_or(size, |length| start.saturating_add(length).min(size));
            let body = Body::from(loader.content.slice(start..end));
            response
                .body(body)
                .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, content: &[u8]) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn offers(loaders: &Loaders, firmware: Firmware) -> Option<Chain> {
        let mut found = loaders.offers.iter().filter(|(known, _)| *known == firmware);
        let offer = found.next().map(|(_, chain)| *chain);
        assert!(found.next().is_none(), "{firmware} is offered twice");
        offer
    }

    #[test]
    fn uefi_is_offered_what_starts_with_secure_boot_on_and_finds_its_configuration() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        let read = |uefi| Loaders::read(&paths, uefi).unwrap();
        assert!(
            read(UefiLoader::Signed)
                .found(&paths)
                .unwrap_err()
                .to_string()
                .contains("install the packages")
        );
        put(&paths[0], "snponly.efi", b"ipxe");
        put(&paths[1], "shimx64.efi.signed", b"shim");
        // Shim alone leads nowhere.
        assert_eq!(offers(&read(UefiLoader::Signed), Firmware::HttpX64), Some(Chain::Ipxe));
        let grub = "x86_64-efi-signed/grubnetx64.efi.signed";
        put(&paths[1], grub, b"GRUB 2.06");
        let old = read(UefiLoader::Signed);
        old.found(&paths).unwrap();
        assert_eq!(offers(&old, Firmware::HttpX64), Some(Chain::SecureBoot));
        assert_eq!(offers(&old, Firmware::UefiX64), Some(Chain::Ipxe));
        put(&paths[1], grub, b"GRUB 2.12 \0proxy offer receive\0");
        let new = read(UefiLoader::Signed);
        assert_eq!(offers(&new, Firmware::UefiX64), Some(Chain::SecureBoot));
        assert_eq!(new.get(file::SHIM_X64).unwrap().content, Bytes::from_static(b"shim"));
        assert_eq!(offers(&read(UefiLoader::Ipxe), Firmware::UefiX64), Some(Chain::Ipxe));
        assert_eq!(offers(&new, Firmware::Bios), None);
        let ipxe = read(UefiLoader::Ipxe);
        for chain in [Chain::Ipxe, Chain::SecureBoot] {
            assert!(
                ipxe.available.contains(&(Firmware::UefiX64, chain)),
                "a machine may be given it: {chain:?}"
            );
        }
    }

    #[test]
    fn what_is_no_loader_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("undionly.kpxe")).unwrap();
        file.set_len(MOST + 1).unwrap();
        let error = Loaders::read(&[folder.path().to_owned()], UefiLoader::Signed).unwrap_err();
        assert!(matches!(error, LoaderError::TooLarge(_)), "{error}");
    }
}
