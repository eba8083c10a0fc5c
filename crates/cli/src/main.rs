//! The `kube-baremetal` command: argument parsing and wiring. Everything that does something lives in the other crates.

mod account;
mod bmc;
mod crds;
mod diagnose;
mod die;
mod discover;
mod image;
mod install;
mod lab;
mod logging;
mod media;
mod monitor;
mod moving;
mod roles;
mod rotate;
mod swarm;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

// Objects are trees of many small strings: with glibc's allocator a busy server needs a quarter more processor time for them (and a tenth less memory).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bare machines as a cloud: they boot from the network, appear in Kubernetes, are claimed, imaged, released and erased.
#[derive(Debug, Parser)]
#[command(name = "kube-baremetal", version, max_term_width = 120)]
struct Arguments {
    /// How much to log, as in `info` or `operator=debug,info`.
    #[arg(long, global = true, env = "KBM_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system in this process: embedded Kubernetes API, operator, boot server.
    Up(Box<up::Arguments>),
    /// Run the operator against a Kubernetes API. Any number of replicas; one of them works at a time.
    Operator(Box<roles::operator::Arguments>),
    /// Run the boot server against a Kubernetes API. Any number of replicas, which all work.
    Netboot(Box<Netboot>),
    /// Show how far a machine came when it booted, step by step, and what it usually means that it came no further.
    Timeline(diagnose::TimelineArguments),
    /// Stop deciding about every machine, until `resume`.
    Pause(moving::PauseArguments),
    /// Go on deciding about machines that `pause` or `import` paused.
    Resume(moving::ResumeArguments),
    /// Pause, and write every object with its status, and the Secrets that machines need, to an archive: to move to another Kubernetes API, or as a backup.
    Export(moving::ExportArguments),
    /// Make the objects of an archive in another Kubernetes API. Machines stay paused until they are resumed; nothing is erased.
    Import(moving::ImportArguments),
    /// Make new keys for netboot while machines run; the present ones stay good until the overlap is ended.
    Rotate(rotate::Arguments),
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
    /// Disk images: pack them, look into packs, write them to disks.
    Image {
        #[command(subcommand)]
        command: Box<image::Command>,
    },
    /// Build what machines boot from the network.
    Bootmedia {
        #[command(subcommand)]
        command: media::Command,
    },
    /// BMCs in the network.
    Bmc {
        #[command(subcommand)]
        command: discover::Command,
    },
    /// Machines to try things on, in QEMU.
    Lab {
        #[command(subcommand)]
        command: lab::Command,
    },
}

/// The boot server, and what helps with it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Netboot {
    #[command(flatten)]
    serve: roles::netboot::Arguments,
    #[command(subcommand)]
    command: Option<diagnose::Command>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kube-baremetal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    logging::start(&arguments.log)?;
    match arguments.command {
        Command::Crds => crds::print(),
        Command::Image { command } => image::run(*command),
        Command::Bootmedia { command } => media::run(command),
        Command::Up(up) => runtime()?.block_on(up::run(*up)),
        Command::Operator(operator) => runtime()?.block_on(roles::operator::run(*operator)),
        Command::Netboot(netboot) => match netboot.command {
            // Its exit code says what was found.
            Some(command) => return runtime()?.block_on(diagnose::run(command)),
            None => runtime()?.block_on(roles::netboot::run(netboot.serve)),
        },
        Command::Timeline(arguments) => runtime()?.block_on(diagnose::timeline(arguments)),
        Command::Pause(arguments) => runtime()?.block_on(moving::pause(arguments)),
        Command::Resume(arguments) => runtime()?.block_on(moving::resume(arguments)),
        Command::Export(arguments) => runtime()?.block_on(moving::export(arguments)),
        Command::Import(arguments) => runtime()?.block_on(moving::import(arguments)),
        Command::Rotate(arguments) => runtime()?.block_on(rotate::run(arguments)),
        Command::Bmc { command } => runtime()?.block_on(discover::run(command)),
        Command::Lab { command } => runtime()?.block_on(lab::run(command)),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Two libraries could each bring a TLS provider; this is the one that every part uses.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
