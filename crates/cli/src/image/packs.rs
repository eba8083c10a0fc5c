//! The commands about packed images.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use image::Format;
use image::pack::{self, ChunkSize, Manifest, PackOptions, SectorFit};
use serde_json::{Value, json};

use super::source::{open_packed, open_stored};
use super::{Output, mebibytes, progress};

/// `image pack`.
#[derive(Debug, clap::Args)]
pub struct Pack {
    /// The image: a file, a URL, or - for standard input (not qcow2, which needs ranges).
    source: String,
    /// Where to: a new folder, or oci:FOLDER for an OCI layout that can be pushed to a registry.
    #[arg(short = 'o', long = "output", value_name = "FOLDER")]
    target: String,
    /// Digest that the source must have, as sha256:... or sha512:...; of a file it is computed when left out.
    #[arg(long)]
    digest: Option<String>,
    /// Format that the source must have: raw, gz, xz, zst, qcow2. Left out: whatever it is found to be.
    #[arg(long)]
    format: Option<Format>,
    /// zstd level.
    #[arg(long, default_value_t = pack::DEFAULT_LEVEL, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// KiB of a chunk, a power of two from 64 to 16384. Left out: 1024, and more for disks above 64 GiB.
    #[arg(long, value_name = "KIB")]
    chunk_size: Option<u32>,
    /// Sector size of the disks that the image is fit for: 512, 4096, or any. Left out: what its partition table says.
    #[arg(long, value_parser = sector_fit)]
    sector_size: Option<SectorFit>,
    #[command(flatten)]
    pub output: Output,
}

/// `image inspect` and `image verify`.
#[derive(Debug, clap::Args)]
pub struct One {
    /// The packed image: its folder, oci:FOLDER, or the URL of its manifest.json.
    image: String,
    /// Its name, as blake3:...
    #[arg(long)]
    digest: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `image unpack`.
#[derive(Debug, clap::Args)]
pub struct Unpack {
    /// The packed image: its folder, oci:FOLDER, or the URL of its manifest.json.
    image: String,
    /// A new file.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    target: PathBuf,
    /// Its name, as blake3:...
    #[arg(long)]
    digest: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `image diff`.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The packed image that a disk holds.
    first: String,
    /// The one that it shall hold.
    second: String,
    #[command(flatten)]
    pub output: Output,
}

fn sector_fit(text: &str) -> Result<SectorFit, String> {
    match text {
        "any" => Ok(SectorFit::Any),
        "512" => Ok(SectorFit::Only(512)),
        "4096" => Ok(SectorFit::Only(4096)),
        _ => Err("512, 4096 or any".to_owned()),
    }
}

fn description(manifest: &Manifest) -> Value {
    json!({
        "digest": manifest.digest().to_string(),
        "diskBytes": manifest.disk_bytes(),
        "dataBytes": manifest.data_bytes(),
        "storedBytes": manifest.stored_bytes(),
        "sectorBytes": manifest.sector_bytes(),
        "chunkBytes": manifest.chunk_bytes(),
        "chunks": manifest.chunk_count(),
        "chunksWithData": manifest.chunks().len(),
        "source": manifest.source(),
        "packer": manifest.packer(),
    })
}

fn describe(manifest: &Manifest) {
    let sectors = manifest
        .sector_bytes()
        .map_or("any size".to_owned(), |bytes| format!("{bytes} bytes"));
    println!("{}", manifest.digest());
    println!("  disk    {}, sectors of {sectors}", mebibytes(manifest.disk_bytes()));
    println!(
        "  data    {} in {} of {} chunks of {} KiB",
        mebibytes(manifest.data_bytes()),
        manifest.chunks().len(),
        manifest.chunk_count(),
        manifest.chunk_bytes() / 1024
    );
    println!(
        "  stored  {}, zstd {} level {}",
        mebibytes(manifest.stored_bytes()),
        manifest.packer().zstd,
        manifest.packer().level
    );
    println!("  source  {}, {}", manifest.source().format, manifest.source().digest);
}

/// Packs.
pub fn pack(arguments: Pack) -> Result<()> {
    let layout = arguments.target.strip_prefix("oci:").map(PathBuf::from);
    let folder = match &layout {
        // Beside the layout, so that its files become the layout's without being copied.
        Some(layout) => {
            let mut name = layout.file_name().context("oci: needs the name of a new folder")?.to_owned();
            name.push(".pack");
            ensure!(
                !layout.exists(),
                "{} exists already; name a new folder, or remove it first",
                layout.display()
            );
            layout.with_file_name(name)
        }
        None => PathBuf::from(&arguments.target),
    };
    let exactly = arguments.chunk_size.map(|kibibytes| kibibytes.saturating_mul(1024));
    if let Some(bytes) = exactly {
        let allowed = bytes.is_power_of_two() && (pack::MIN_CHUNK_BYTES..=pack::MAX_CHUNK_BYTES).contains(&bytes);
        ensure!(allowed, "--chunk-size: a power of two from 64 to 16384 (KiB)");
    }
    let bar = progress::bar(!arguments.output.no_progress);
    let stored = open_stored(&arguments.source, &[], arguments.digest.as_deref(), &bar)?;
    // Whatever window its stream has: those who write the pack are spared of it.
    let image = image::open_with_any_window(stored.source, &stored.digest, arguments.format, &pack::packing_limit())?;
    let options = PackOptions {
        level: arguments.level,
        chunk_size: exactly.map_or(ChunkSize::AtLeast(pack::DEFAULT_CHUNK_BYTES), ChunkSize::Exactly),
        fit: arguments.sector_size.unwrap_or(SectorFit::ByTable),
        workers: None,
    };
    bar.set_message("pack");
    let packed = pack::pack(image, &folder, &options, &mut |at| {
        let (done, total) = at.source_bytes.unwrap_or((at.disk_bytes, at.disk_total.unwrap_or(at.disk_bytes)));
        bar.set_length(total);
        bar.set_position(done);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    let oci_digest = layout.map(|layout| pack::oci::into_layout(&folder, &layout)).transpose()?;
    if arguments.output.json {
        let mut answer = description(&packed.manifest);
        answer["sourceBytes"] = packed.source_bytes.into();
        if let Some(digest) = oci_digest {
            answer["ociDigest"] = digest.into();
        }
        println!("{answer}");
    } else {
        describe(&packed.manifest);
        if let Some(digest) = oci_digest {
            println!("  as OCI  {digest}");
        }
    }
    Ok(())
}

/// Tells what an image is.
pub fn inspect(arguments: One) -> Result<()> {
    let opened = open_packed(&arguments.image, &[], arguments.digest.as_deref())?;
    if arguments.output.json {
        println!("{}", description(&opened.manifest));
    } else {
        describe(&opened.manifest);
    }
    Ok(())
}

/// Reads all of an image.
pub fn verify(arguments: One) -> Result<()> {
    let opened = open_packed(&arguments.image, &[], arguments.digest.as_deref())?;
    let bar = progress::bar(!arguments.output.no_progress);
    bar.set_message("verify");
    bar.set_length(opened.manifest.data_bytes());
    pack::verify(&opened.manifest, opened.chunks.as_ref(), &|chunk| {
        bar.inc(opened.manifest.plain_length(chunk.index) as u64);
    })?;
    bar.finish_and_clear();
    let digest = opened.manifest.digest();
    if arguments.output.json {
        println!(
            "{}",
            json!({"digest": digest.to_string(), "verifiedBytes": opened.manifest.data_bytes()})
        );
    } else {
        println!("{digest}: all {} chunks are as its manifest says", opened.manifest.chunks().len());
    }
    Ok(())
}

/// Writes a disk image.
pub fn unpack(arguments: Unpack) -> Result<()> {
    let opened = open_packed(&arguments.image, &[], arguments.digest.as_deref())?;
    let bar = progress::bar(!arguments.output.no_progress);
    bar.set_message("unpack");
    bar.set_length(opened.manifest.data_bytes());
    pack::unpack(&opened.manifest, opened.chunks.as_ref(), &arguments.target, &|chunk| {
        bar.inc(opened.manifest.plain_length(chunk.index) as u64);
    })?;
    bar.finish_and_clear();
    if arguments.output.json {
        let answer = json!({
            "digest": opened.manifest.digest().to_string(),
            "diskBytes": opened.manifest.disk_bytes(),
            "writtenBytes": opened.manifest.data_bytes(),
        });
        println!("{answer}");
    } else {
        println!("{}: {}", arguments.target.display(), mebibytes(opened.manifest.disk_bytes()));
    }
    Ok(())
}

/// Compares two images.
pub fn diff(arguments: Diff) -> Result<()> {
    let (first, second) = (
        open_packed(&arguments.first, &[], None)?,
        open_packed(&arguments.second, &[], None)?,
    );
    let difference = pack::difference(&first.manifest, &second.manifest);
    if arguments.output.json {
        let mut answer = serde_json::to_value(difference)?;
        answer["first"] = first.manifest.digest().to_string().into();
        answer["second"] = second.manifest.digest().to_string().into();
        println!("{answer}");
        return Ok(());
    }
    if !difference.comparable {
        println!(
            "their chunks are of different sizes ({} and {} KiB): all of the second is fetched",
            first.manifest.chunk_bytes() / 1024,
            second.manifest.chunk_bytes() / 1024
        );
    }
    println!(
        "{} chunks changed, {} became zeros, {} stay",
        difference.changed_chunks, difference.zeroed_chunks, difference.same_chunks
    );
    println!(
        "a disk that holds the first fetches {} ({:.1} % of the second) and writes {}",
        mebibytes(difference.fetch_bytes),
        difference.fetch_percent,
        mebibytes(difference.write_bytes)
    );
    Ok(())
}
