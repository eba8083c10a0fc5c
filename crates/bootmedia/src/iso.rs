//! The boot medium: an ISO image with what was built for one architecture, for machines that no network boots.
//!
//! ```text
//! /boot/grub/grub.cfg     the same on all media        ([`boot_script::medium::CONFIG`])
//! /boot/kbm.cfg           the slot, a machine's own    ([`boot_script::medium`])
//! /boot/vmlinuz, /boot/initramfs.zst                   read by GRUB from the medium: firmware's network need not work
//! an EFI system partition with Debian's signed shim and GRUB, as El Torito boot image and as GPT partition: on a CD, a virtual one, and a USB stick
//! ```
//!
//! GRUB is Debian's build for such media (`gcd*.efi`): its prefix is `/boot/grub` on the medium it came from. UEFI machines alone boot from it.
//!
//! Invariants: equal inputs and equal tools give equal bytes, whatever the clock, the umask or the file system's order; nothing outside of the output folder and a temporary one is written. xorriso writes the
//! ISO image and mtools the partition, without root.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Seek},
    path::{Path, PathBuf},
    process::Command,
};

use agent_protocol::architecture::Architecture;
use boot_script::medium;

use crate::{Error, INITRAMFS, KERNEL, OutputFile, at};

/// File name of the boot medium in the folder of its architecture.
pub const ISO: &str = "boot.iso";

/// 2026-01-01, the time of everything on the medium: seconds since 1970, and as xorriso says it.
const EPOCH: &str = "1767225600";
const EPOCH_OF_ISO: &str = "2026010100000000";
/// Of it the identifiers of volume and partition table are made, too.
const MODIFIED: &str = "--modification-date=2026010100000000";
const LABEL: &str = "KBM-BOOT";
/// Serial number of the file system in the partition.
const SERIAL: &str = "6b626d02";
/// Of the GPT (type of an EFI system partition: UEFI 2.10, 5.3.3).
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const KIB: u64 = 1024;

/// Debian's names of signed loaders of an architecture, and those that UEFI looks for (UEFI 2.10, 3.5.1.1).
struct Loaders {
    shim: &'static str,
    grub: &'static str,
    first: &'static str,
    /// What shim starts from beside itself.
    second: &'static str,
}

const fn loaders(architecture: Architecture) -> Loaders {
    match architecture {
        Architecture::Amd64 => Loaders {
            shim: "shim/shimx64.efi.signed",
            grub: "grub/x86_64-efi-signed/gcdx64.efi.signed",
            first: "BOOTX64.EFI",
            second: "grubx64.efi",
        },
        Architecture::Arm64 => Loaders {
            shim: "shim/shimaa64.efi.signed",
            grub: "grub/arm64-efi-signed/gcdaa64.efi.signed",
            first: "BOOTAA64.EFI",
            second: "grubaa64.efi",
        },
    }
}

/// What to build, and from what.
#[derive(Debug, Clone)]
pub struct IsoOptions {
    /// The media folder, with what [`crate::build`] wrote; the image goes into its folder of the architecture.
    pub media: PathBuf,
    /// For which machines.
    pub architecture: Architecture,
    /// Folder with `shim` and `grub` as Debian's packages shim-signed and grub-efi-*-signed have them below `/usr/lib`.
    pub loaders: PathBuf,
}

/// Builds the boot medium.
///
/// # Errors
/// [`Error`] that names what failed, on what, and what to do.
pub fn iso(options: &IsoOptions) -> Result<OutputFile, Error> {
    let folder = options.media.join(options.architecture.name());
    let loaders = loaders(options.architecture);
    let scratch = tempfile::tempdir().map_err(at("making a temporary folder in", &std::env::temp_dir()))?;
    let esp = scratch.path().join("esp.img");
    let (shim, grub) = (options.loaders.join(loaders.shim), options.loaders.join(loaders.grub));
    let config = scratch.path().join("grub.cfg");
    write(&config, medium::ESP_CONFIG.as_bytes())?;
    let (first, second) = (format!("::/EFI/BOOT/{}", loaders.first), format!("::/EFI/BOOT/{}", loaders.second));
    partition(
        &esp,
        &[
            (&shim, first.as_str()),
            (&grub, second.as_str()),
            // Where GRUB is told of the partition only.
            (&config, "::/boot/grub/grub.cfg"),
        ],
    )?;

    let tree = scratch.path().join("tree");
    for (path, bytes) in [
        (medium::CONFIG_PATH, medium::CONFIG.as_bytes()),
        (medium::SLOT_PATH, medium::empty_slot().as_slice()),
    ] {
        write(&tree.join(path), bytes)?;
    }
    for (name, path) in [(KERNEL, medium::KERNEL_PATH), (INITRAMFS, medium::INITRAMFS_PATH)] {
        let from = folder.join(name);
        fs::copy(&from, tree.join(path)).map_err(at("copying", &from))?;
    }
    let image = scratch.path().join(ISO);
    write_image(&tree, &esp, &image)?;
    let mut finished = fs::File::open(&image).map_err(at("reading", &image))?;
    if medium::find_slot(&finished).map_err(at("reading", &image))?.is_none() {
        return Err(Error::Tool {
            program: "xorriso",
            problem: format!("it did not put /{} at a boundary of sectors, once", medium::SLOT_PATH),
        });
    }
    finished.rewind().map_err(at("reading", &image))?;
    crate::write(&folder, ISO, |out| io::copy(&mut finished, out).map(drop))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at("making the folder", folder))?;
    }
    fs::write(path, bytes).map_err(at("writing", path))
}

/// An EFI system partition with these files.
fn partition(image: &Path, files: &[(&PathBuf, &str)]) -> Result<(), Error> {
    let mut bytes = 0;
    for (from, _) in files {
        bytes += fs::metadata(from).map_err(at("reading the boot loader", from))?.len();
    }
    // Room for the table and the folders, in whole tracks of 32 sectors.
    let kib = (bytes.div_ceil(KIB) + 512).next_multiple_of(64);
    fs::File::create(image)
        .and_then(|file| file.set_len(kib * KIB))
        .map_err(at("writing", image))?;
    let sectors = (kib * 2).to_string();
    run(
        "mformat",
        [OsStr::new("-i"), image.as_os_str()],
        &["-T", &sectors, "-h", "2", "-s", "32", "-N", SERIAL, "-v", LABEL, "::"],
    )?;
    let folders = ["::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub"];
    run("mmd", [OsStr::new("-i"), image.as_os_str()], &folders)?;
    for (from, to) in files {
        run("mcopy", [OsStr::new("-i"), image.as_os_str(), from.as_os_str()], &[*to])?;
    }
    Ok(())
}

/// The ISO image of a folder, with this partition behind its files.
fn write_image(tree: &Path, esp: &Path, output: &Path) -> Result<(), Error> {
    let words = [
        // Nothing of whoever builds it: a plain set of rights, of nobody in particular.
        "-quiet",
        "-r",
        "-V",
        LABEL,
        MODIFIED,
        "--set_all_file_dates",
        EPOCH_OF_ISO,
        "-appended_part_as_gpt",
        "-partition_offset",
        "16",
        "-e",
        "--interval:appended_partition_2:all::",
        "-no-emul-boot",
        "-append_partition",
        "2",
        ESP,
    ];
    let first = ["-as", "mkisofs"].map(OsStr::new);
    let paths = [esp.as_os_str(), OsStr::new("-o"), output.as_os_str(), tree.as_os_str()];
    // No configuration of whoever builds it either.
    let all: Vec<&OsStr> = ["-no_rc"]
        .map(OsStr::new)
        .into_iter()
        .chain(first)
        .chain(words.map(OsStr::new))
        .chain(paths)
        .collect();
    run("xorriso", all, &[])
}

fn run<'a>(program: &'static str, paths: impl IntoIterator<Item = &'a OsStr>, words: &[&str]) -> Result<(), Error> {
    let mut command = Command::new(program);
    command.args(paths).args(words);
    // Times of files and file systems are this one; names are of no language.
    command.env("SOURCE_DATE_EPOCH", EPOCH).env("TZ", "UTC").env("LC_ALL", "C");
    command.env("MTOOLSRC", "/dev/null").env("MTOOLS_SKIP_CHECK", "1");
    let done = command.output().map_err(|source| Error::Run {
        program: program.to_owned(),
        source,
    })?;
    if done.status.success() {
        return Ok(());
    }
    Err(Error::Tool {
        program,
        problem: String::from_utf8_lossy(&done.stderr).trim().chars().take(600).collect(),
    })
}
