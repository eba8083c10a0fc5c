//! A machine's BMC as the way by which it is switched: what to make of the one that its agent found.

use agent_protocol::bmc_user::SealedBmcUser;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::power::{CipherSuite, IpmiPrivilege};

/// How a machine that a policy accepts is switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPower {
    /// By the BMC that its agent found.
    pub from_bmc: FromBmc,
}

/// Sets `spec.power` up from the BMC that the agent found: a user is made in it, with a password that nobody else knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromBmc {
    /// What is spoken with it over the network.
    #[serde(default)]
    pub protocol: BmcProtocol,
    /// Name of the user. One of that name that is there gets a new password.
    #[serde(default = "default_user")]
    #[schemars(length(min = 1, max = 16), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub user: String,
    /// What the user may do, and as what it logs in.
    #[serde(default)]
    pub privilege: IpmiPrivilege,
    /// How sessions are protected. Left out: suite 17 where the BMC lists it or lists nothing, else suite 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher_suite: Option<CipherSuite>,
}

fn default_user() -> String {
    "kube-baremetal".to_owned()
}

impl Default for FromBmc {
    fn default() -> Self {
        Self {
            protocol: BmcProtocol::default(),
            user: default_user(),
            privilege: IpmiPrivilege::default(),
            cipher_suite: None,
        }
    }
}

/// What is spoken with a BMC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BmcProtocol {
    /// IPMI 2.0 over the network (RMCP+).
    #[default]
    Ipmi,
}

/// A user that the agent was asked to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcUserStatus {
    /// What was asked for, sealed to the agent's session.
    pub sealed: SealedBmcUser,
    /// Address of the channel on which the user is to log in.
    pub host: String,
    /// Name of the Secret with its name and password, in the operator's namespace.
    pub secret: String,
    /// How sessions will be protected.
    pub cipher_suite: CipherSuite,
    /// As what it will log in.
    pub privilege: IpmiPrivilege,
}

/// What the agent says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcUserResult {
    /// Of which wish.
    pub id: String,
    /// When.
    pub at: Time,
    /// Why there is no such user, for people; empty when it is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fault: String,
}
