//! `kube-baremetal image`: packed images, and writing images to disks.
//!
//! * [`source`]: what SOURCE and IMAGE on the command line stand for.
//! * [`packs`]: the commands about packed images.
//! * [`write`]: the agent's way of writing a disk, for everyone; [`in_use`] tells why a disk must not be written to.
//! * [`checksums`]: files of checksums, which name the digest of an image.
//! * [`upload`]: from this host into the image store.
//! * [`progress`]: what is shown meanwhile, on standard error. Answers go to standard output.

mod checksums;
mod in_use;
mod packs;
mod progress;
mod source;
mod upload;
mod write;

use anyhow::Result;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Pack a disk image (raw, gz, xz, zst, qcow2) for parallel download, resume and re-install by difference.
    Pack(packs::Pack),
    /// Tell what a packed image is.
    Inspect(packs::One),
    /// Read all of a packed image and hold it against its digests.
    Verify(packs::One),
    /// Write the disk image in a packed image to a new sparse file.
    Unpack(packs::Unpack),
    /// Tell what changes from one packed image to another, and how much a disk fetches for it.
    Diff(packs::Diff),
    /// Write an image to a disk, verified, so that the disk boots only when all of it is there. Destroys what the disk holds.
    Write(write::Arguments),
    /// Upload an image file or a packed image into the image store, and have a BareMetalImage name it.
    Upload(upload::Arguments),
}

/// What several commands share.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// Answer with one JSON object.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(long)]
    no_progress: bool,
}

/// Runs a subcommand.
pub fn run(command: Command) -> Result<()> {
    let json = match &command {
        Command::Pack(arguments) => arguments.output.json,
        Command::Inspect(arguments) | Command::Verify(arguments) => arguments.output.json,
        Command::Unpack(arguments) => arguments.output.json,
        Command::Diff(arguments) => arguments.output.json,
        Command::Write(arguments) => arguments.output.json,
        Command::Upload(_) => false,
    };
    let done = match command {
        Command::Pack(arguments) => packs::pack(arguments),
        Command::Inspect(arguments) => packs::inspect(arguments),
        Command::Verify(arguments) => packs::verify(arguments),
        Command::Unpack(arguments) => packs::unpack(arguments),
        Command::Diff(arguments) => packs::diff(arguments),
        Command::Write(arguments) => write::run(arguments),
        Command::Upload(arguments) => crate::runtime()?.block_on(upload::run(arguments)),
    };
    if json && let Err(error) = &done {
        let kind = error.downcast_ref::<image::ImageError>().map(|error| error.kind().as_str());
        println!("{}", json!({"error": format!("{error:#}"), "kind": kind}));
    }
    done
}

/// Bytes for people.
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
