//! `kube-baremetal bootmedia`.

use std::path::PathBuf;

use agent_protocol::architecture::Architecture;
use anyhow::{Context, Result};
use bootmedia::{
    FirmwareSource, Options, OutputFile,
    iso::{IsoOptions, iso},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make kernel and initramfs from Debian's kernel package and the static agent.
    Build(Box<Build>),
    /// Make a boot medium (an ISO image) of them, for machines that no network boots: the server gives it to their power drivers.
    Iso(Iso),
}

#[derive(Debug, clap::Args)]
pub struct Iso {
    /// The media folder, with kernel and initramfs. The image goes beside them.
    #[arg(long, default_value = "target/bootmedia")]
    media: PathBuf,
    /// For machines of this architecture: amd64 or arm64.
    #[arg(long, default_value_t = Architecture::Amd64)]
    architecture: Architecture,
    /// Folder with Debian's signed shim and GRUB, as packages have them: `shim` and `grub` below it.
    #[arg(long, default_value = "target/loaders/usr/lib")]
    loaders: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Build {
    /// The media folder. What is built goes into its folder of the architecture.
    #[arg(long, default_value = "target/bootmedia")]
    output: PathBuf,
    /// For machines of this architecture: amd64 or arm64.
    #[arg(long, default_value_t = Architecture::Amd64)]
    architecture: Architecture,
    /// The static agent. Left out: what `make agent` or `make agent-arm64` built.
    #[arg(long)]
    agent: Option<PathBuf>,
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

/// Where the Makefile has it built.
fn built_agent(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "target/agent/x86_64-unknown-linux-gnu/agent/kube-baremetal-agent",
        Architecture::Arm64 => "target/agent/aarch64-unknown-linux-gnu/agent/kube-baremetal-agent",
    }
}

/// Runs a subcommand.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Build(build) => run_build(*build),
        Command::Iso(iso) => run_iso(iso),
    }
}

fn run_iso(command: Iso) -> Result<()> {
    let options = IsoOptions {
        media: command.media,
        architecture: command.architecture,
        loaders: command.loaders,
    };
    let file = iso(&options).context("building the boot medium")?;
    println!(
        "{} in {}:",
        options.architecture,
        options.media.join(options.architecture.name()).display()
    );
    tell(&file);
    Ok(())
}

fn tell(file: &OutputFile) {
    let mebibytes = file.bytes as f64 / f64::from(1 << 20);
    println!("  {:<14} {mebibytes:>6.1} MiB  sha256:{}", file.file, file.sha256);
}

fn run_build(build: Build) -> Result<()> {
    let agent = build.agent.unwrap_or_else(|| built_agent(build.architecture).into());
    let mut options = Options::new(build.output, build.architecture, agent);
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
        options.folder().display(),
        manifest.kernel_version
    );
    for file in [&manifest.kernel, &manifest.initramfs] {
        tell(file);
    }
    for missing in &manifest.firmware_left_out {
        println!("  without {}: {}", missing.package, missing.reason);
    }
    Ok(())
}
