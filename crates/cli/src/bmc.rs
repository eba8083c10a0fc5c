//! `kube-baremetal lab bmc`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use bmc_simulator::{
    Options, Simulator,
    profile::{self, Profile},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many controllers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    machines: u32,
    /// Their kinds, by turns: names with commas between them, or `mix` for all.
    #[arg(long, default_value = "mix")]
    profile: String,
    /// Machines behind each controller.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    systems: u32,
    /// The first controller's address; the others follow it.
    #[arg(long, default_value = "127.64.0.1")]
    first: Ipv4Addr,
    /// The port of Redfish and of plugs.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// HTTPS, with a certificate of its own.
    #[arg(long)]
    tls: bool,
    /// The port of IPMI; without it there is none.
    #[arg(long)]
    ipmi_port: Option<u16>,
    /// Where faults are set, and counters read.
    #[arg(long, default_value = "127.0.0.1:8090")]
    control: SocketAddr,
    /// The password of the user `admin`, of plugs, and the token of Home Assistant.
    #[arg(long, default_value = "simulated-Pass-1")]
    password: String,
}

fn profiles(names: &str) -> Result<Vec<Arc<Profile>>> {
    if names == "mix" {
        return Ok(profile::ALL.clone());
    }
    let known = || {
        let names: Vec<&str> = profile::ALL.iter().map(|profile| profile.name.as_str()).collect();
        names.join(", ")
    };
    names
        .split(',')
        .map(|name| profile::named(name).with_context(|| format!("--profile: there is no {name:?}; there are mix, {}", known())))
        .collect()
}

/// Runs it until somebody ends it.
pub async fn run(arguments: Arguments) -> Result<()> {
    // Each connection of a client is a socket here, too.
    lab::raise_file_limit();
    let simulator = Simulator::start(Options {
        controllers: arguments.machines as usize,
        profiles: profiles(&arguments.profile)?,
        systems: arguments.systems as usize,
        first: arguments.first,
        port: arguments.port,
        tls: arguments.tls,
        ipmi_port: arguments.ipmi_port,
        control: Some(arguments.control),
        password: arguments.password,
        ..Options::default()
    })
    .await?;
    println!("{} controllers, the first: {}", arguments.machines, simulator.url(0));
    if let Some(fingerprint) = simulator.fingerprint() {
        println!("fingerprint: {fingerprint}");
    }
    println!("faults and counters: http://{}", arguments.control);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended.context("listening for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_name_and_others_named() {
        assert!(profiles("mix").is_ok_and(|all| all.len() >= 10));
        assert!(profiles("ilo-5,openbmc").is_ok_and(|two| two.len() == 2));
        assert!(profiles("toaster").is_err_and(|error| error.to_string().contains("ilo-5")));
    }
}
