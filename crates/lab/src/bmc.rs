//! Controllers for the lab's machines: by which of the simulator's protocols each is switched, and what a BareMetalHardware says of it.

use std::{net::SocketAddr, sync::Arc};

use api::{
    common::LocalSecretName,
    power::{AmtPower, HomeAssistantPower, IpmiPower, PlugLoad, PowerSpec, RedfishPower, ShellyPower, TasmotaPower},
};
use bmc_simulator::{Options, Simulator, bmc::Bmc, faults::Fault, machine::Machine};

/// What a plug shows of a simulated machine that runs is far above, and of one that does not far below.
const RUNNING_WATTS: u16 = 20;

/// By which protocol a machine is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Redfish.
    Redfish,
    /// IPMI 2.0.
    Ipmi,
    /// Intel AMT.
    Amt,
    /// A Shelly plug.
    Shelly,
    /// A plug with Tasmota.
    Tasmota,
    /// A switch of Home Assistant.
    HomeAssistant,
}

impl Way {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Redfish,
        Self::Ipmi,
        Self::Amt,
        Self::Shelly,
        Self::Tasmota,
        Self::HomeAssistant,
    ];

    /// Its name, as `spec.power` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redfish => "redfish",
            Self::Ipmi => "ipmi",
            Self::Amt => "amt",
            Self::Shelly => "shelly",
            Self::Tasmota => "tasmota",
            Self::HomeAssistant => "homeAssistant",
        }
    }

    /// Whether it can say from what a machine boots next.
    #[must_use]
    pub const fn chooses_the_boot(self) -> bool {
        matches!(self, Self::Redfish | Self::Ipmi | Self::Amt)
    }

    /// `spec.power` of the machine behind a controller; credentials are in the Secret of this name.
    #[must_use]
    pub fn spec(self, simulator: &Simulator, index: usize, secret: &str) -> PowerSpec {
        let bmc = simulator.bmc(index);
        let address = simulator.url(index);
        let credentials = LocalSecretName { name: secret.to_owned() };
        let insecure = simulator.fingerprint().is_none();
        let certificate_sha256 = simulator.fingerprint().map(str::to_owned);
        let load = PlugLoad {
            rest_seconds: 1,
            running_watts: Some(RUNNING_WATTS),
        };
        let mut spec = PowerSpec::default();
        match self {
            Self::Redfish => {
                spec.redfish = Some(RedfishPower {
                    address,
                    system: several(bmc).then(|| bmc.system_id(0)),
                    credentials,
                    certificate_sha256,
                    insecure,
                    virtual_media: None,
                });
            }
            Self::Ipmi => {
                spec.ipmi = Some(IpmiPower {
                    host: bmc.address.to_string(),
                    port: simulator.ipmi_port().unwrap_or(623),
                    credentials,
                    cipher_suite: Default::default(),
                    privilege: Default::default(),
                });
            }
            Self::Amt => {
                spec.amt = Some(AmtPower {
                    address,
                    credentials,
                    certificate_sha256,
                    insecure,
                });
            }
            Self::Shelly => {
                spec.shelly = Some(ShellyPower {
                    address,
                    switch: 0,
                    credentials: Some(credentials),
                    load,
                });
            }
            Self::Tasmota => {
                spec.tasmota = Some(TasmotaPower {
                    address,
                    relay: 1,
                    credentials: Some(credentials),
                    insecure,
                    load,
                });
            }
            Self::HomeAssistant => {
                spec.home_assistant = Some(HomeAssistantPower {
                    address,
                    entity: format!("switch.machine_{index}"),
                    meter: Some(format!("sensor.machine_{index}_power")),
                    credentials,
                    certificate_sha256,
                    insecure,
                    load,
                });
            }
        }
        spec
    }
}

impl std::str::FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| format!("there is no {text:?}; there are {}", known()))
    }
}

/// Whether the service shows more than one system, so that the machine's has to be named.
fn several(bmc: &Bmc) -> bool {
    bmc.hosts.len() > 1 || !bmc.profile.paths.besides.is_empty()
}

/// How the lab's machines are switched.
#[derive(Debug, Clone)]
pub struct Controllers {
    /// By what, by turns.
    pub ways: Vec<Way>,
    /// Where faults are set. None: nowhere.
    pub control: Option<SocketAddr>,
    /// Faults from the start on.
    pub faults: Vec<Fault>,
    /// What the simulator is asked for besides: profiles, addresses, ports.
    pub simulator: Options,
}

impl Default for Controllers {
    fn default() -> Self {
        Self {
            ways: vec![Way::Redfish],
            control: None,
            faults: Vec::new(),
            simulator: Options::default(),
        }
    }
}

impl Controllers {
    /// By what the machine of this number is switched.
    #[must_use]
    pub fn way(&self, index: usize) -> Way {
        self.ways.get(index % self.ways.len().max(1)).copied().unwrap_or(Way::Redfish)
    }

    /// Starts a controller before each of these machines: one process, one listener.
    ///
    /// # Errors
    /// An address cannot be had, or a fault cannot be.
    pub async fn start(&self, machines: Vec<Arc<dyn Machine>>) -> anyhow::Result<Simulator> {
        let mut options = self.simulator.clone();
        options.controllers = machines.len();
        options.control = self.control;
        if self.ways.contains(&Way::Ipmi) {
            options.ipmi_port = options.ipmi_port.or(Some(0));
        }
        options.machines = Arc::new(move |controller, _| Arc::clone(&machines[controller]));
        let simulator = Simulator::start(options).await?;
        for fault in &self.faults {
            simulator.fleet().faults().set(fault.clone())?;
        }
        Ok(simulator)
    }
}

#[cfg(test)]
mod tests {
    use bmc_simulator::machine::InMemory;

    use super::*;

    #[tokio::test]
    async fn each_way_is_one_way_to_the_controller_of_its_machine() {
        let controllers = Controllers {
            ways: Way::ALL.to_vec(),
            ..Controllers::default()
        };
        let machines = (0..7).map(|_| Arc::new(InMemory::default()) as Arc<dyn Machine>).collect();
        let simulator = controllers.start(machines).await.expect("it starts");
        for index in 0..7 {
            let way = controllers.way(index);
            assert_eq!(way.name().parse::<Way>(), Ok(way));
            let spec = serde_json::to_value(way.spec(&simulator, index, "secret")).expect("JSON");
            let spec = spec.as_object().expect("an object");
            assert_eq!(spec.keys().collect::<Vec<_>>(), [way.name()]);
            let text = spec[way.name()].to_string();
            assert!(
                text.contains(&simulator.bmc(index).address.to_string()) && text.contains("\"secret\""),
                "{text}"
            );
            assert!(!text.contains("simulated-Pass-1"), "{text}");
        }
        assert!("toaster".parse::<Way>().is_err_and(|problem| problem.contains("homeAssistant")));
    }
}
