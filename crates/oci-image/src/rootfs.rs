//! What lies in the image: as little as the roles need.
//!
//! No shell, no loader, no libraries, no package manager. Users, so that programs find a name for their number; certificate authorities, for a Kubernetes API
//! whose certificate is a public one (in a pod the service account brings its own); a folder for the data of `kube-baremetal up`; the program; the boot media, where they
//! were built. Layers are ordered from what changes seldom to what changes always.

use std::path::{Path, PathBuf};

use crate::{
    Architecture, Error,
    layer::{Entry, Layer},
};

/// User and group that the program runs as; the number that distroless images gave "nonroot".
pub const USER: u32 = 65_532;
/// Where the program is.
pub const PROGRAM: &str = "usr/bin/kube-baremetal";
/// Folder for the data of `kube-baremetal up`; the only one that its user may write to beside `/tmp`.
pub const DATA: &str = "var/lib/kube-baremetal";
/// The boot media, where they are part of the image.
pub const MEDIA: &str = "usr/share/kube-baremetal/bootmedia";
/// The certificate authorities, where they are part of the image.
pub const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Files of the base, as they are; the Dockerfile copies the same ones.
const PASSWD: &str = include_str!("../../../deploy/image/rootfs/etc/passwd");
const GROUP: &str = include_str!("../../../deploy/image/rootfs/etc/group");
const NSSWITCH: &str = include_str!("../../../deploy/image/rootfs/etc/nsswitch.conf");
const LICENSE: &str = include_str!("../../../LICENSE");

/// The layers that all architectures share.
///
/// `certificates` is a folder of PEM files (`*.crt`) or one such file; `media` the folder of boot media.
///
/// # Errors
/// [`Error::File`] for what cannot be read, [`Error::Input`] for a folder that does not hold what its name says.
pub fn shared(certificates: Option<&Path>, media: Option<&Path>) -> Result<Vec<Layer>, Error> {
    let mut base = vec![
        Entry::folder("etc"),
        Entry::file("etc/passwd", PASSWD),
        Entry::file("etc/group", GROUP),
        Entry::file("etc/nsswitch.conf", NSSWITCH),
        Entry::folder("etc/ssl"),
        Entry::folder("etc/ssl/certs"),
    ];
    if let Some(path) = certificates {
        base.push(Entry::file(CERTIFICATES, authorities(path)?));
    }
    base.extend([
        Entry::folder("tmp").mode(0o1777),
        Entry::folder("usr"),
        Entry::folder("usr/bin"),
        Entry::folder("usr/share"),
        Entry::folder("usr/share/kube-baremetal"),
        Entry::file("usr/share/kube-baremetal/LICENSE", LICENSE),
        Entry::folder("var"),
        Entry::folder("var/lib"),
        Entry::folder(DATA).mode(0o700).owner(USER),
    ]);
    let mut layers = vec![Layer::pack("users, certificate authorities, folders", &base)?];
    if let Some(folder) = media {
        layers.extend(boot_media(folder)?);
    }
    Ok(layers)
}

/// The layer with the program for one architecture.
///
/// # Errors
/// [`Error::File`] when it cannot be read, [`Error::Program`] when it would not run.
pub fn program(path: &Path, architecture: Architecture) -> Result<Layer, Error> {
    let bytes = read(path)?;
    bootmedia::elf::check(&bytes, architecture).map_err(|problem| Error::Program {
        path: path.to_owned(),
        architecture,
        problem,
    })?;
    Layer::pack("the kube-baremetal program", &[Entry::file(PROGRAM, bytes).mode(0o755)])
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(Error::file("read", path))
}

/// Files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = || Error::file("list", folder);
    let entries = std::fs::read_dir(folder).map_err(failed())?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed())?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// One PEM bundle. The folder of Debian's package is asked for rather than the host's own bundle, because the latter also trusts whatever this host was told to.
fn authorities(path: &Path) -> Result<Vec<u8>, Error> {
    let sources = if path.is_dir() {
        files(path)?
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "crt"))
            .collect()
    } else {
        vec![path.to_owned()]
    };
    let mut bundle = Vec::new();
    for source in &sources {
        let pem = read(source)?;
        if !pem.starts_with(b"-----BEGIN CERTIFICATE-----") {
            return Err(Error::Input {
                field: "--certificates",
                problem: format!("{} is no certificate in PEM", source.display()),
            });
        }
        bundle.extend_from_slice(&pem);
        if !pem.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    if bundle.is_empty() {
        return Err(Error::Input {
            field: "--certificates",
            problem: format!("{} holds no *.crt file", path.display()),
        });
    }
    Ok(bundle)
}

/// A layer for each architecture of which there are media; at least one. A boot server serves them all, whatever it runs on itself.
fn boot_media(folder: &Path) -> Result<Vec<Layer>, Error> {
    let there = Architecture::ALL.into_iter().filter(|a| folder.join(a.name()).is_dir());
    let layers: Vec<Layer> = there.map(|architecture| media_of(folder, architecture)).collect::<Result<_, _>>()?;
    if layers.is_empty() {
        return Err(Error::Input {
            field: "--media",
            problem: format!(
                "{} has no folder of an architecture: build the boot media with `make bootmedia`",
                folder.display()
            ),
        });
    }
    Ok(layers)
}

fn media_of(media: &Path, architecture: Architecture) -> Result<Layer, Error> {
    let folder = media.join(architecture.name());
    let summary = match architecture {
        Architecture::Amd64 => "boot media for amd64",
        Architecture::Arm64 => "boot media for arm64",
    };
    let paths = files(&folder)?;
    for needed in [bootmedia::KERNEL, bootmedia::INITRAMFS] {
        if !paths.iter().any(|p| p.ends_with(needed)) {
            return Err(Error::Input {
                field: "--media",
                problem: format!("{} has no {needed}: build the boot media with `make bootmedia`", folder.display()),
            });
        }
    }
    let inside = format!("{MEDIA}/{architecture}");
    let mut entries = vec![Entry::folder(MEDIA), Entry::folder(&inside)];
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| Error::Input {
            field: "--media",
            problem: format!("{} has a name that is not UTF-8", path.display()),
        })?;
        entries.push(Entry::file(&format!("{inside}/{name}"), read(&path)?));
    }
    Layer::pack(summary, &entries)
}
