//! `kube-baremetal lab`.

use std::{io::IsTerminal, path::PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use lab::{
    folder::{Folder, Request},
    qemu::{Firmware, accel::Accelerator},
};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FirmwareChoice {
    Bios,
    Uefi,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create machines (those that exist keep their disks) and switch them on.
    Up {
        /// How many.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        machines: u32,
        /// Firmware.
        #[arg(long, value_enum, default_value = "uefi")]
        firmware: FirmwareChoice,
        /// Memory of each in MiB.
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(256..=65536))]
        memory: u32,
        /// CPUs of each.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        cpus: u32,
        /// Disk of each in GiB.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
        disk: u64,
        /// What DHCP tells the machines to boot. The default reaches `kube-baremetal up` on this host.
        #[arg(long, default_value = "http://10.0.2.2:8080/boot/ipxe")]
        boot_url: String,
        /// Put a simulated BMC or plug before each machine, of these kinds by turns (redfish, ipmi, amt, shelly, tasmota, homeAssistant, or `mix` for all). Machines are left as they are then,
        /// and switched by their BMCs until this is ended; they run on then.
        #[arg(long, value_name = "KINDS")]
        bmc: Option<String>,
        #[command(flatten)]
        bmcs: crate::bmc::Settings,
        #[command(flatten)]
        place: Place,
    },
    /// List the machines.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Switch all machines off.
    Down {
        /// Remove them and their disks too.
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Pull a machine's plug, and put it in again.
    PowerCycle {
        /// Which machine.
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Join this terminal and a machine's serial console; end with Ctrl-C.
    Console {
        /// Which machine.
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Run many simulated machines through their whole life against a server of its own, and judge it from the API's watch streams.
    Swarm(crate::swarm::Arguments),
    /// Live one simulated machine's life again and again, with the server killed at every point of it.
    Kills(crate::swarm::KillArguments),
    /// Simulate many BMCs and plugs of vendors' kinds, with faults set over HTTP, until it is ended.
    Bmc(crate::bmc::Arguments),
    /// Show the whole life of two machines (`make demo`).
    Demo {
        /// Folder with the boot media.
        #[arg(long, default_value = "target/bootmedia")]
        media: PathBuf,
        /// The Debian image.
        #[arg(long)]
        image: PathBuf,
        /// Make a LAN of this network namespace, which must have nothing but a loopback (`scripts/namespaces`): a house router, our own DHCP beside it, and a machine with
        /// Secure Boot. Without it the machines are on QEMU's user networking.
        #[arg(long)]
        lan: bool,
        /// Folders with boot loaders for machines on that LAN, separated by commas.
        #[arg(long, default_value = "/usr/lib/ipxe,/usr/lib/shim,/usr/lib/grub")]
        loaders: String,
        /// Folder for logs and disks; it is emptied first.
        #[arg(long, default_value = "target/demo")]
        state: PathBuf,
        /// Keep that folder at the end.
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// Folder of the machines.
    #[arg(long, default_value = "target/lab")]
    folder: PathBuf,
}

/// Runs a subcommand.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up {
            machines,
            firmware,
            memory,
            cpus,
            disk,
            boot_url,
            bmc,
            bmcs,
            place,
        } => {
            let folder = Folder::open(&place.folder)?;
            let firmware = match firmware {
                FirmwareChoice::Bios => Firmware::Bios,
                FirmwareChoice::Uefi => Firmware::Uefi,
            };
            let request = Request {
                machines,
                firmware,
                memory_mib: memory,
                cpus,
                disk_gib: disk,
                boot_url,
            };
            let accel = Accelerator::detect().await;
            if let Some(kinds) = bmc {
                let controllers = bmcs.controllers("--bmc", &kinds)?;
                return crate::bmc::before(folder.create(&request)?, accel, &controllers).await;
            }
            for machine in folder.up(&request, accel).await? {
                println!(
                    "{}: on ({}), MAC {}, console: {}",
                    machine.spec.name,
                    accel.argument(),
                    machine.spec.mac,
                    machine.console_log().display()
                );
            }
            Ok(())
        }
        Command::List { place } => {
            for machine in Folder::open(&place.folder)?.machines()? {
                let state = machine.pid().map_or("off".to_owned(), |pid| format!("on (process {pid})"));
                println!("{}: {state}, MAC {}", machine.spec.name, machine.spec.mac);
            }
            Ok(())
        }
        Command::Down { forget, place } => {
            let count = Folder::open(&place.folder)?.down(forget).await?;
            println!("{count} machines are off{}", if forget { " and forgotten" } else { "" });
            Ok(())
        }
        Command::PowerCycle { name, place } => {
            let folder = Folder::open(&place.folder)?;
            let machines = folder.machines()?;
            let machine = machines
                .iter()
                .find(|m| m.spec.name == name)
                .with_context(|| format!("no machine {name} in {}", folder.path().display()))?;
            machine.power_off().await?;
            Ok(machine.power_on(Accelerator::detect().await).await?)
        }
        Command::Console { name, place } => Ok(Folder::open(&place.folder)?.console(&name).await?),
        Command::Swarm(arguments) => crate::swarm::run(arguments).await,
        Command::Kills(arguments) => crate::swarm::kills(arguments).await,
        Command::Bmc(arguments) => crate::bmc::run(arguments).await,
        Command::Demo {
            media,
            image,
            lan,
            loaders,
            state,
            keep,
        } => {
            let plain = std::env::var_os("CI").is_some() || !std::io::stderr().is_terminal();
            let program = std::env::current_exe().context("finding this program")?;
            lab::demo::run(&lab::demo::Options {
                program,
                media,
                image,
                lan,
                loaders,
                state,
                plain,
                keep,
            })
            .await
        }
    }
}
