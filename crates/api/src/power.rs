//! How a machine is switched, and what was done about it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalSecretName;

/// By what a machine is switched: exactly one way. Without any, its guest helper or a person does it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.redfish), has(self.ipmi)].exists_one(named, named)").message("power names exactly one of redfish and ipmi"))]
pub struct PowerSpec {
    /// A BMC that speaks Redfish (DMTF DSP0266).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redfish: Option<RedfishPower>,
    /// A BMC that speaks IPMI 2.0 over the network (RMCP+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipmi: Option<IpmiPower>,
}

/// A Redfish service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.address.startsWith('https://') || self.insecure").message("redfish.address must begin with https://: over plain HTTP the password is readable by everybody on the way (insecure: true allows it)"))]
pub struct RedfishPower {
    /// The service's base URL: scheme, host and, where it is not the usual one, port.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// Which of the service's systems this machine is: the `Id` of the ComputerSystem. Left out: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub system: Option<String>,
    /// `username` and `password`, in a Secret of the operator's namespace.
    pub credentials: LocalSecretName,
    /// SHA-256 of the service's certificate, in hexadecimal with colons or without: it is trusted, and no other. Left out: the authorities in the Secret's `ca.crt` decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$"))]
    pub certificate_sha256: Option<String>,
    /// Allows plain HTTP: for simulators.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// An IPMI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpmiPower {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._\-:]+$"))]
    pub host: String,
    /// UDP port.
    #[serde(default = "ipmi_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// `username` and `password`, in a Secret of the operator's namespace.
    pub credentials: LocalSecretName,
    /// How the session is protected.
    #[serde(default)]
    pub cipher_suite: CipherSuite,
    /// As what the user logs in. Less is better: an operator may switch.
    #[serde(default)]
    pub privilege: IpmiPrivilege,
}

fn ipmi_port() -> u16 {
    623
}

/// Cipher suites of RMCP+ (IPMI 2.0, table 22-20).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CipherSuite {
    /// 17: HMAC-SHA256 and AES-128. What a controller from after 2015 has.
    #[default]
    Suite17,
    /// 3: HMAC-SHA1 and AES-128, for older ones.
    Suite3,
}

/// Privilege levels of IPMI that can switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IpmiPrivilege {
    /// May switch, and choose the next boot.
    #[default]
    Operator,
    /// May do everything; some controllers want it for the choice of the next boot.
    Administrator,
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

/// What is done about a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PowerActKind {
    /// Boot into the agent: once from the network, off and on.
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
}

/// What was done about a machine's power, and what is known of it. Only of machines with a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerStatus {
    /// What the driver said last.
    #[serde(default)]
    pub state: PowerState,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<PowerAct>,
    /// For whom that waits, where machines are switched on one after another. It is no failure, however long it takes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub turn: String,
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
