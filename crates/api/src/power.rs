//! How a machine is switched, and what was done about it. The ways are in [`ways`].

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod ways;

pub use ways::{
    AmtPower, CipherSuite, HomeAssistantPower, IpmiPower, IpmiPrivilege, LibvirtPower, ManualPower, OutletCells, PduMake, PduPower,
    PlugLoad, ProxmoxPower, RedfishPower, ShellyPower, SnmpAuthentication, TasmotaPower, VirtualMedia, WakeOnLanPower, WebhookCall,
    WebhookPower,
};

/// By what a machine is switched: exactly one way. Without any, its guest helper or a person does it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.redfish), has(self.ipmi), has(self.amt), has(self.webhook), has(self.shelly), has(self.tasmota), has(self.homeAssistant), has(self.pdu), has(self.libvirt), has(self.proxmox), has(self.wakeOnLan), has(self.manual)].exists_one(named, named)").message("power names exactly one of redfish, ipmi, amt, webhook, shelly, tasmota, homeAssistant, pdu, libvirt, proxmox, wakeOnLan and manual"))]
pub struct PowerSpec {
    /// A BMC that speaks Redfish (DMTF DSP0266).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redfish: Option<RedfishPower>,
    /// A BMC that speaks IPMI 2.0 over the network (RMCP+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipmi: Option<IpmiPower>,
    /// Intel AMT (WS-Management).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amt: Option<AmtPower>,
    /// A service of anybody's own, by signed requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookPower>,
    /// A Shelly plug or relay of the second generation or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shelly: Option<ShellyPower>,
    /// A plug or relay with Tasmota's firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasmota: Option<TasmotaPower>,
    /// A switch that Home Assistant knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_assistant: Option<HomeAssistantPower>,
    /// An outlet of a PDU, by SNMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdu: Option<PduPower>,
    /// A virtual machine of libvirt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<LibvirtPower>,
    /// A virtual machine of Proxmox VE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxmox: Option<ProxmoxPower>,
    /// Wake-on-LAN: on, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_on_lan: Option<WakeOnLanPower>,
    /// A person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<ManualPower>,
}

/// Whether a machine is on, as its driver says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// Nothing tells.
    #[default]
    Unknown,
}

/// How it becomes known that a machine was switched by somebody else. Without any of these ways it is asked from time to time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PowerEvents {
    /// Nothing tells: it is asked.
    #[default]
    None,
    /// Its BMC sends to the operator (a subscription to its events).
    Push,
    /// The operator listens to its BMC (server-sent events).
    Stream,
}

/// What is done about a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PowerActKind {
    /// Boot into the agent: once from the network, or from a medium of netboot's; off and on.
    BootAgent,
    /// Switch on.
    On,
    /// Ask the system to shut down.
    ShutDown,
    /// Take the power away.
    Off,
}

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerAct {
    /// Names it, in logs and to who carries it out.
    pub id: String,
    /// What.
    pub kind: PowerActKind,
    /// Since when it is wanted.
    pub since: Time,
    /// The interfaces that wake the machine, where it has Wake-on-LAN: once this is what was done last, each netboot replica sends a frame to each of them into the segments it serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(regex(pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")))]
    pub macs: Vec<String>,
}

impl PowerSpec {
    /// How the machine boots from a virtual medium, where it does.
    pub fn virtual_media(&self) -> Option<&VirtualMedia> {
        self.redfish.as_ref()?.virtual_media.as_ref()
    }
}

impl PowerStatus {
    /// The act with this id, if the machine is to boot by it into the agent: it is in force, or was the last one that was carried out and none is in force since. With the time when it was carried out.
    pub fn boots_by(&self, id: &str) -> Option<(&PowerAct, Option<Timestamp>)> {
        let (act, at) = match &self.act {
            Some(act) => (act, None),
            None => (self.done.as_ref()?, Some(self.done_at.as_ref()?.0)),
        };
        (act.id == id && act.kind == PowerActKind::BootAgent).then_some((act, at))
    }
}

/// What was done about a machine's power, and what is known of it. Only of machines with a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerStatus {
    /// What the driver said last.
    #[serde(default)]
    pub state: PowerState,
    /// Whether its BMC tells that it was switched. What it tells is not believed: the machine is looked at then, and from time to time anyway.
    #[serde(default)]
    pub events: PowerEvents,
    /// Why there are no events, or none that the BMC sends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub events_fault: String,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<PowerAct>,
    /// For whom that waits, where machines are switched on one after another. It is no failure, however long it takes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub turn: String,
    /// Since when a machine that was to be off is to run, of which nothing was heard since. Only where the driver does not tell whether it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting: Option<Time>,
    /// Grows with each act; part of its id.
    #[serde(default)]
    pub sequence: u64,
    /// What was carried out last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<PowerAct>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<Time>,
    /// How often in a row the machine was told to do what it was to do, and did not do it or could not be told.
    #[serde(default)]
    pub failures: u32,
    /// Why it could not be told, the last time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fault: String,
    /// Not before this time it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,
}
