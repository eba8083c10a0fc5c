//! PID 1 of the boot media, and under other names the kernel's `modprobe` and the guest helper.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    match (name.rsplit('/').next(), arguments.next().as_deref()) {
        (Some("modprobe"), first) => report(agent::modules::modprobe(first.map(str::to_owned).into_iter().chain(arguments))),
        (_, Some("guest")) => report(agent::guest::run(&agent::guest::Folder::at(agent::guest::FOLDER))),
        (_, Some("--version")) => {
            println!("kube-baremetal-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        // The kernel hands over words of its command line that it does not know; only PID 1 may take the machine over.
        _ if std::process::id() == 1 => agent::boot::run(),
        _ => {
            eprintln!("usage: {name} guest | --version. Without arguments it runs as PID 1 of the boot media only.");
            ExitCode::FAILURE
        }
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kube-baremetal-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
