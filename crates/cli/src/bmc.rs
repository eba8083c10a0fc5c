//! `kube-baremetal lab bmc`, and the BMCs of the lab's other machines.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use bmc_simulator::{
    Options, Simulator,
    profile::{self, Profile},
};
use lab::{
    bmc::{Controllers, Way},
    qemu::{Machine, accel::Accelerator, behind::Behind},
};

/// BMCs before machines of the lab.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// With BMCs: vendors' manners in Redfish, by turns: names with commas between them, or `mix` for all.
    #[arg(long, requires = "bmc", default_value = "mix", value_name = "PROFILES")]
    bmc_profile: String,
    /// With BMCs: the first one's address; the others follow it.
    #[arg(long, requires = "bmc", default_value = "127.64.0.1", value_name = "ADDRESS")]
    bmc_first: Ipv4Addr,
    /// With BMCs: the port of all that speaks HTTP.
    #[arg(long, requires = "bmc", default_value_t = 8000, value_name = "PORT")]
    bmc_port: u16,
    /// With BMCs: the port of IPMI, where there is such.
    #[arg(long, requires = "bmc", default_value_t = 6230, value_name = "PORT")]
    bmc_ipmi_port: u16,
    /// With BMCs: where their faults are set, and counters read.
    #[arg(long, requires = "bmc", default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
    bmc_control: SocketAddr,
}

impl Settings {
    /// `kinds` is what `option` names: ways to switch a machine with commas between them, or `mix` for all.
    pub fn controllers(&self, option: &str, kinds: &str) -> Result<Controllers> {
        let ways = match kinds {
            "mix" => Way::ALL.to_vec(),
            kinds => kinds
                .split(',')
                .map(|kind| kind.parse().map_err(|problem| anyhow!("{option}: {problem}, and mix")))
                .collect::<Result<_>>()?,
        };
        let simulator = Options {
            profiles: profiles("--bmc-profile", &self.bmc_profile)?,
            first: self.bmc_first,
            port: self.bmc_port,
            ipmi_port: ways.contains(&Way::Ipmi).then_some(self.bmc_ipmi_port),
            ..Options::default()
        };
        Ok(Controllers {
            ways,
            control: Some(self.bmc_control),
            faults: Vec::new(),
            simulator,
        })
    }
}

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
    /// Let them be found by SSDP here: 0.0.0.0:1900 hears `bmc discover --address 127.0.0.1`. Left out: they are not found.
    #[arg(long, value_name = "ADDRESS")]
    ssdp: Option<SocketAddr>,
    /// Where faults are set, and counters read.
    #[arg(long, default_value = "127.0.0.1:8090")]
    control: SocketAddr,
    /// The password of the user `admin`, of plugs, and the token of Home Assistant.
    #[arg(long, default_value = "simulated-Pass-1")]
    password: String,
}

fn profiles(option: &str, names: &str) -> Result<Vec<Arc<Profile>>> {
    if names == "mix" {
        return Ok(profile::ALL.clone());
    }
    let known = || {
        let names: Vec<&str> = profile::ALL.iter().map(|profile| profile.name.as_str()).collect();
        names.join(", ")
    };
    names
        .split(',')
        .map(|name| profile::named(name).with_context(|| format!("{option}: there is no {name:?}; there are mix, {}", known())))
        .collect()
}

/// Runs it until somebody ends it.
pub async fn run(arguments: Arguments) -> Result<()> {
    // Each connection of a client is a socket here, too.
    lab::raise_file_limit();
    let simulator = Simulator::start(Options {
        controllers: arguments.machines as usize,
        profiles: profiles("--profile", &arguments.profile)?,
        systems: arguments.systems as usize,
        first: arguments.first,
        port: arguments.port,
        tls: arguments.tls,
        ipmi_port: arguments.ipmi_port,
        ssdp: arguments.ssdp,
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
    crate::roles::signalled().await
}

/// Lets simulated BMCs switch QEMU machines until somebody ends it.
pub async fn before(machines: Vec<Machine>, accel: Accelerator, controllers: &Controllers) -> Result<()> {
    const SECRET: &str = "lab-bmc";
    lab::raise_file_limit();
    let behind = machines
        .iter()
        .map(|machine| Behind::new(machine.clone(), accel) as Arc<dyn bmc_simulator::machine::Machine>);
    let simulator = controllers.start(behind.collect()).await.context("starting the BMCs")?;
    for (index, machine) in machines.iter().enumerate() {
        let spec = controllers.way(index).spec(&simulator, index, SECRET);
        println!(
            "{}: {}, MAC {}, console: {}\n  spec.power: {}",
            machine.spec.name,
            machine.pid().map_or("off", |_| "on"),
            machine.spec.mac,
            machine.console_log().display(),
            serde_json::to_string(&spec)?
        );
    }
    let Options { user, password, .. } = &controllers.simulator;
    println!(
        "credentials: kubectl -n {} create secret generic {SECRET} --from-literal=username={user} --from-literal=password={password} --from-literal=token={password}",
        crate::roles::OPERATOR_NAMESPACE
    );
    if let Some(control) = simulator.control() {
        println!("faults and counters: http://{control}");
    }
    crate::roles::signalled().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_name_and_others_named() {
        assert!(profiles("--profile", "mix").is_ok_and(|all| all.len() >= 10));
        assert!(profiles("--profile", "ilo-5,openbmc").is_ok_and(|two| two.len() == 2));
        assert!(profiles("--profile", "toaster").is_err_and(|error| error.to_string().contains("ilo-5")));
    }
}
