//! `kube-baremetal image write`.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use image::pack::compare_disk;
use image::{BlockDevice, Disk, Evidence, Format, Progress, Tuning, WriteRequest};
use indicatif::ProgressBar;
use serde_json::json;

use super::checksums::digest_of;
use super::source::{is_packed, open_packed, open_stored};
use super::{Output, in_use, mebibytes, progress};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The image: a file or a URL (raw, gz, xz, zst, qcow2), - for standard input, or a packed image as its folder, oci:FOLDER or the URL of
    /// its manifest.json.
    source: String,
    /// The disk, or a file that is one.
    disk: PathBuf,
    /// Another URL of the same bytes, asked when SOURCE fails; of a packed image that of its manifest.json. May be given more than once.
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Digest that the source must have: sha256:... or sha512:..., of a packed image blake3:... (the digest of its manifest).
    #[arg(long)]
    digest: Option<String>,
    /// A file of checksums, by path or URL, that names the digest: SHA256SUMS and its like, as sha256sum and sha512sum write them.
    #[arg(long, value_name = "FILE|URL", conflicts_with_all = ["digest", "verify"])]
    checksums: Option<String>,
    /// Format that the source must have: raw, gz, xz, zst, qcow2. Left out: whatever it is found to be.
    #[arg(long, conflicts_with = "verify")]
    format: Option<Format>,
    /// Threads that write and read back, up to 64. Left out: by the number of cores.
    #[arg(long, conflicts_with = "verify", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    /// Do not ask before the disk's contents are destroyed.
    #[arg(long)]
    yes: bool,
    /// Write nothing: read the disk and hold it against a packed image.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Writes or verifies.
pub fn run(arguments: Arguments) -> Result<()> {
    if arguments.verify {
        return verify(&arguments);
    }
    let users = in_use::users(&arguments.disk)?;
    if !users.is_empty() {
        bail!(
            "{} is in use: {}; unmount, stop or detach that first, or name another disk",
            arguments.disk.display(),
            users.join("; ")
        );
    }
    let disk = Disk::open(&arguments.disk)?;
    if !arguments.yes {
        ask(&in_use::description(&arguments.disk, disk.size()), &arguments.source)?;
    }
    let bar = progress::bar(!arguments.output.no_progress);
    let evidence = write(&arguments, &disk, &bar)?;
    bar.finish_and_clear();
    if arguments.output.json {
        println!("{}", serde_json::to_string(&evidence)?);
    } else {
        tell(&evidence, &arguments);
    }
    Ok(())
}

fn write(arguments: &Arguments, disk: &Disk, bar: &ProgressBar) -> Result<Evidence> {
    let mut shown = None;
    let mut show = |at: Progress| {
        if shown != Some(at.step) {
            shown = Some(at.step);
            bar.set_message(at.step.to_string());
            bar.reset();
        }
        bar.set_length(at.total.unwrap_or(at.done));
        bar.set_position(at.done);
        ControlFlow::Continue(())
    };
    let request = WriteRequest {
        tuning: Tuning {
            workers: arguments.threads.map(usize::from),
            ..Tuning::default()
        },
        ..WriteRequest::default()
    };
    if is_packed(&arguments.source) {
        ensure!(arguments.format.is_none(), "--format is for images that are not packed");
        ensure!(
            arguments.checksums.is_none(),
            "--checksums is for images that are not packed; a packed one is named by --digest blake3:..."
        );
        let packed = open_packed(&arguments.source, &arguments.mirror, arguments.digest.as_deref())?;
        return Ok(image::write_packed(
            &packed.manifest,
            packed.chunks.as_ref(),
            disk,
            &request,
            &mut show,
        )?);
    }
    let listed = arguments
        .checksums
        .as_deref()
        .map(|file| digest_of(&arguments.source, file))
        .transpose()?;
    let digest = arguments.digest.clone().or(listed.map(|digest| digest.to_string()));
    let stored = open_stored(&arguments.source, &arguments.mirror, digest.as_deref(), bar)?;
    let image = image::open(stored.source, &stored.digest, arguments.format, &image::limit_of(disk))?;
    Ok(image::write_image(image, disk, &request, &mut show)?)
}

/// Only an answer typed by somebody counts.
fn ask(disk: &str, source: &str) -> Result<()> {
    let input = std::io::stdin();
    ensure!(
        input.is_terminal() && source != "-",
        "everything on {disk} would be destroyed, and nobody is here to be asked; give --yes if that is meant"
    );
    let mut prompt = std::io::stderr();
    write!(prompt, "Everything on {disk} will be destroyed. Type yes to go on: ").and_then(|()| prompt.flush())?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer).context("reading the answer")?;
    ensure!(answer.trim() == "yes", "not confirmed; nothing was written");
    Ok(())
}

fn tell(evidence: &Evidence, arguments: &Arguments) {
    println!(
        "{}: {} from {}",
        arguments.disk.display(),
        mebibytes(evidence.image_bytes),
        arguments.source
    );
    println!(
        "  fetched {}, written {}, there already {}, read back {}",
        mebibytes(evidence.stored_bytes),
        mebibytes(evidence.written_bytes),
        mebibytes(evidence.reused_bytes),
        mebibytes(evidence.verified_bytes)
    );
    for step in &evidence.steps {
        println!("  {:<14} {:>8.2} s", step.step.to_string(), step.seconds);
    }
    println!(
        "  in all         {:>8.2} s, {:.0} MiB/s",
        evidence.seconds, evidence.mebibytes_per_second
    );
}

fn verify(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_packed(&arguments.source),
        "--verify holds a disk against a packed image; make one with `image pack`"
    );
    let packed = open_packed(&arguments.source, &arguments.mirror, arguments.digest.as_deref())?;
    let disk = Disk::open(&arguments.disk)?;
    let bar = progress::bar(!arguments.output.no_progress);
    bar.set_message("verify");
    bar.set_length(packed.manifest.disk_bytes());
    let found = compare_disk(&packed.manifest, packed.chunks.as_ref(), &disk, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    let same = found.differing_chunks == 0;
    if same && arguments.output.json {
        let digest = packed.manifest.digest().to_string();
        println!(
            "{}",
            json!({"digest": digest, "verifiedBytes": found.read_bytes, "leftOut": found.left_out})
        );
    } else if same {
        println!(
            "{}: all {} are as in {}, but for the partition table, which is the disk's own",
            arguments.disk.display(),
            mebibytes(found.read_bytes),
            packed.manifest.digest()
        );
    }
    let ranges: Vec<String> = found
        .differing
        .iter()
        .map(|range| format!("{} to {}", range.start, range.end))
        .collect();
    ensure!(
        same,
        "{} differs from the image in {} chunks: bytes {}",
        arguments.disk.display(),
        found.differing_chunks,
        ranges.join(", ")
    );
    Ok(())
}
