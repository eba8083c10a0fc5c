//! A user of ours in a machine's own BMC: when it is asked for, and what its machine is switched by afterwards.
//!
//! The wish is sealed to one session and stands in `status.bmcUser`; the agent answers by the id of the wish; with that answer `spec.power` is written, and the wish is taken back. Losing a
//! step repeats it: a user of that name gets the password that its Secret has, however often.
//!
//! What is asked for goes only to a session that may receive a seed too. Not here: the Secret, sealing (the operator), and making the user (the crate `machine`).

use std::net::IpAddr;

use agent_protocol::bmc::BmcChannel;
use api::{
    BareMetalDiscovery, BareMetalHardware,
    bmc::{BmcProtocol, BmcUserStatus, FromBmc},
    common::LocalSecretName,
    discovery::IdentityProof,
    power::{CipherSuite, IpmiPower, PowerSpec},
};

use crate::{config::Config, view};

/// UDP port of IPMI.
const PORT: u16 = 623;

/// What is known. Caches are good enough: every write is compared and swapped.
#[derive(Debug, Clone, Copy)]
pub struct BmcFacts<'a> {
    /// The machine.
    pub hardware: &'a BareMetalHardware,
    /// What was seen of it.
    pub discovery: Option<&'a BareMetalDiscovery>,
    /// Choices.
    pub config: &'a Config,
}

/// A wish that is to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The user's name, privilege, ...
    pub from: FromBmc,
    /// The LAN channel on which it logs in.
    pub channel: u8,
    /// Its address.
    pub host: String,
    /// How sessions will be protected.
    pub cipher_suite: CipherSuite,
    /// Thumbprint of the session's keys.
    pub thumbprint: String,
    /// Base64 X25519 public key of the session.
    pub sealing_key: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: nobody asks for it, or it is done.
    Nothing,
    /// Take the wish back: it is done, or nobody asks for it any more.
    Forget,
    /// Say what is waited for.
    Wait {
        /// CamelCase word.
        reason: &'static str,
        /// Sentence with the remedy.
        message: String,
    },
    /// Seal it, and store it in the status.
    Ask(Box<Wish>),
    /// The user is there: this is what `spec.power` becomes.
    Power(Box<PowerSpec>),
}

fn wait(reason: &'static str, message: impl Into<String>) -> Step {
    Step::Wait {
        reason,
        message: message.into(),
    }
}

/// Decides.
pub fn decide(facts: &BmcFacts<'_>) -> Step {
    let (spec, status) = (&facts.hardware.spec, facts.hardware.status.as_ref());
    let asked = status.and_then(|s| s.bmc_user.as_ref());
    let Some(from) = spec.power_from_bmc.as_ref().filter(|_| spec.power.is_none()) else {
        return if asked.is_some() { Step::Forget } else { Step::Nothing };
    };
    let seen = view::seen(facts.discovery);
    let Some(bmc) = seen.and_then(|s| s.inventory.as_ref()).and_then(|i| i.bmc.as_ref()) else {
        return wait(
            "NoBmc",
            "The machine's inventory has no BMC: name one in spec.power, or remove spec.powerFromBmc",
        );
    };
    let Some((channel, host)) = bmc.channels.iter().find_map(|c| Some((c, address(c)?))) else {
        let problem = bmc.problem.as_deref().map(|p| format!(" ({p})")).unwrap_or_default();
        return wait(
            "NoAddress",
            format!(
                "The machine's BMC has no address on a network{problem}: give it one in the firmware's setup, and boot the machine into the agent again"
            ),
        );
    };
    let answer = asked
        .zip(seen.and_then(|s| s.bmc_user.as_ref()))
        .filter(|(asked, answer)| asked.sealed.id == answer.id);
    let session = view::live_session(facts.discovery).filter(|s| s.proof == IdentityProof::Proven || facts.config.allow_asserted_identity);
    let is_for = |asked: &BmcUserStatus| session.is_some_and(|s| s.thumbprint == asked.sealed.thumbprint);
    match (answer, asked, session) {
        (Some((asked, answer)), ..) if answer.fault.is_empty() => Step::Power(Box::new(power(from, asked))),
        (Some((asked, answer)), ..) if session.is_none() || is_for(asked) => wait(
            "Refused",
            format!(
                "The agent could not make the user {} in the BMC: {}. It tries again at its next boot",
                from.user, answer.fault
            ),
        ),
        (_, _, None) if view::live_session(facts.discovery).is_some() => wait(
            "IdentityNotProven",
            "The machine's identity is only asserted, and who it says it is would be told a password: set spec.power by hand, or allow asserted identities",
        ),
        (_, _, None) => wait(
            "AgentNotConnected",
            "Waiting for the machine to boot into the agent, which makes the user in its BMC",
        ),
        (_, Some(asked), Some(_)) if is_for(asked) => wait("Asked", "The agent was asked to make the user in the BMC"),
        (_, _, Some(session)) => Step::Ask(Box::new(Wish {
            from: from.clone(),
            channel: channel.number,
            host,
            cipher_suite: from.cipher_suite.unwrap_or_else(|| suite(channel)),
            thumbprint: session.thumbprint.clone(),
            sealing_key: session.sealing_key.clone(),
        })),
    }
}

/// The address of a channel that others may reach: IPv4 before IPv6, none that is link-local.
fn address(channel: &BmcChannel) -> Option<String> {
    let all = channel.address.iter().chain(&channel.ipv6);
    let mut parsed = all.filter_map(|cidr| cidr.split('/').next()?.parse::<IpAddr>().ok());
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback() && !v6.is_unspecified(),
    };
    parsed.find(usable).map(|address| address.to_string())
}

/// The better suite, unless the controller lists others only.
fn suite(channel: &BmcChannel) -> CipherSuite {
    if channel.cipher_suites.is_empty() || channel.cipher_suites.contains(&17) {
        CipherSuite::Suite17
    } else {
        CipherSuite::Suite3
    }
}

fn power(from: &FromBmc, asked: &BmcUserStatus) -> PowerSpec {
    match from.protocol {
        BmcProtocol::Ipmi => PowerSpec {
            ipmi: Some(IpmiPower {
                host: asked.host.clone(),
                port: PORT,
                credentials: LocalSecretName {
                    name: asked.secret.clone(),
                },
                cipher_suite: asked.cipher_suite,
                privilege: asked.privilege,
            }),
            ..PowerSpec::default()
        },
    }
}
