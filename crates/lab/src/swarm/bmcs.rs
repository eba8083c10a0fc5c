//! The swarm's BMCs: a controller of the simulator before each machine, in this process and behind one listener.
//!
//! A person presses each machine's button once; from then on it is switched by its controller alone, by whoever asks that. An administrator writes `spec.power` down
//! when a machine was accepted ([`super::tenant::wire`]).

use std::{fmt, sync::Arc};

use anyhow::{Context, Result};
use api::power::PowerSpec;
use bmc_simulator::{Simulator, counters::Counted, host::Power};

use super::{machine::Machine, switch::Switch};
use crate::bmc::{Controllers, Way};

/// Running controllers.
#[derive(Debug)]
pub struct Bmcs {
    simulator: Simulator,
    ways: Vec<Way>,
    switches: Vec<Arc<Switch>>,
}

impl Bmcs {
    /// One for each of these machines, in their order.
    ///
    /// # Errors
    /// An address cannot be had, or a fault cannot be.
    pub async fn start(controllers: &Controllers, machines: &[Machine]) -> Result<Self> {
        let switches: Vec<Arc<Switch>> = machines
            .iter()
            .map(|machine| Arc::new(Switch::new(machine.body.uuid.to_string())))
            .collect();
        let behind = switches
            .iter()
            .map(|switch| Arc::clone(switch) as Arc<dyn bmc_simulator::machine::Machine>);
        Ok(Self {
            simulator: controllers.start(behind.collect()).await.context("starting the machines' BMCs")?,
            ways: (0..machines.len()).map(|index| controllers.way(index)).collect(),
            switches,
        })
    }

    /// Who pretends to be all of them.
    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// Somebody presses a machine's button.
    pub fn press(&self, index: usize) {
        self.simulator.bmc(index).press(0);
    }

    pub(super) fn switch(&self, index: usize) -> &Switch {
        &self.switches[index]
    }

    /// How many of the machines are off.
    pub fn off(&self) -> usize {
        let off = |bmc: &&Arc<bmc_simulator::bmc::Bmc>| bmc.hosts[0].power() == Power::Off;
        self.simulator.fleet().all().iter().filter(off).count()
    }

    /// What a machine's BareMetalHardware says of it.
    pub fn spec(&self, index: usize, secret: &str) -> PowerSpec {
        self.ways[index].spec(&self.simulator, index, secret)
    }

    /// Figures.
    pub fn figures(&self) -> Figures {
        let fleet = self.simulator.fleet();
        Figures {
            counted: fleet.counters().now(),
            boots: fleet.all().iter().map(|bmc| bmc.hosts[0].boots().len()).sum(),
            struck: fleet.faults().list().iter().map(|fault| fault.struck).sum(),
        }
    }
}

/// What BMCs were asked.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Connections and requests.
    pub counted: Counted,
    /// Boots that they began.
    pub boots: usize,
    /// Faults that struck there.
    pub struck: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted {
            most_open,
            accepted,
            requests,
            ..
        } = &self.counted;
        let all: u64 = requests.values().sum();
        write!(
            f,
            "{all} requests, {accepted} connections, {most_open} of them at once; {} boots, {} faults struck",
            self.boots, self.struck
        )
    }
}
