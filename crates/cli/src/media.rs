//! `kube-baremetal bootmedia`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bootmedia::{FirmwareSource, Options};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make kernel and initramfs from Debian's kernel package and the static agent.
    Build(Box<Build>),
}

#[derive(Debug, clap::Args)]
pub struct Build {
    /// Folder for the results.
    #[arg(long, default_value = "target/bootmedia")]
    output: PathBuf,
    /// The static agent (`make agent`).
    #[arg(long, default_value = "target/agent/x86_64-unknown-linux-gnu/agent/kube-baremetal-agent")]
    agent: PathBuf,
    /// Kernel package as a file. Left out: Debian's newest, through apt.
    #[arg(long)]
    kernel_package: Option<PathBuf>,
    /// Leave firmware files out.
    #[arg(long)]
    without_firmware: bool,
    /// Firmware packages as files. Left out: Debian's, through apt.
    #[arg(long, conflicts_with = "without_firmware")]
    firmware_package: Vec<PathBuf>,
    /// Folder that keeps downloaded packages.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// zstd level.
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
}

/// Runs a subcommand.
pub fn run(command: Command) -> Result<()> {
    let Command::Build(build) = command;
    let mut options = Options::new(build.output.clone(), build.agent);
    options.kernel_package = build.kernel_package;
    options.cache = build.cache;
    options.level = build.level;
    if build.without_firmware {
        options.firmware = FirmwareSource::Without;
    } else if !build.firmware_package.is_empty() {
        options.firmware = FirmwareSource::Files(build.firmware_package);
    }
    let manifest = bootmedia::build(&options).context("building the boot media")?;
    println!(
        "{} in {}: Linux {}",
        manifest.architecture,
        build.output.display(),
        manifest.kernel_version
    );
    for file in [&manifest.kernel, &manifest.initramfs] {
        println!(
            "  {:<14} {:>6.1} MiB  sha256:{}",
            file.file,
            file.bytes as f64 / f64::from(1 << 20),
            file.sha256
        );
    }
    for missing in &manifest.firmware_left_out {
        println!("  without {}: {}", missing.package, missing.reason);
    }
    Ok(())
}
