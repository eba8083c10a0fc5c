//! Which machine does an instance get? Those that fit by request, class, labels and taints; of them the one that wastes least.
//!
//! When none fits, the answer counts the machines per reason, each machine by the first thing that keeps it away, in the words of kube-scheduler:
//! `0/12 machines fit: 5 not ready, 3 have too little memory, ...`.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    BareMetalHardware, BareMetalInstance,
    common::{Taint, TaintEffect, Toleration, TolerationOperator},
    conditions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::{hardware, idle, quantity::Exact};

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// This machine.
    Machine(String),
    /// None now.
    Pending {
        /// CamelCase word.
        reason: &'static str,
        /// Counts per reason, or what is wrong with the instance's spec.
        message: String,
    },
}

/// What keeps a machine away, in the order in which it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rejection {
    Class,
    Selector,
    Cpu,
    Memory,
    Disk,
    UnknownCapacity,
    Taint,
    Maintenance,
    InUse,
    NotReady,
    NotConnected,
}

impl Rejection {
    fn text(self, count: usize) -> String {
        let have = if count == 1 { "has" } else { "have" };
        match self {
            Self::Class => format!("{count} of another class"),
            Self::Selector => format!("{count} not matching the hardware selector"),
            Self::Cpu => format!("{count} {have} too few CPUs"),
            Self::Memory => format!("{count} {have} too little memory"),
            Self::Disk => format!("{count} {have} too small a root disk"),
            Self::UnknownCapacity => format!("{count} of unknown size"),
            Self::Taint => format!("{count} {have} a taint that is not tolerated"),
            Self::Maintenance => format!("{count} in maintenance"),
            Self::InUse => format!("{count} in use"),
            Self::NotReady => format!("{count} not ready"),
            Self::NotConnected => format!("{count} not answering"),
        }
    }
}

/// Whether a requirement of a selector holds for labels.
fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    let value = labels.get(&requirement.key);
    let listed = || value.is_some_and(|v| requirement.values.iter().flatten().any(|w| w == v));
    match requirement.operator.as_str() {
        "In" => Ok(listed()),
        "NotIn" => Ok(!listed()),
        "Exists" => Ok(value.is_some()),
        "DoesNotExist" => Ok(value.is_none()),
        other => Err(format!(
            "spec.hardwareSelector.matchExpressions: operator {other:?} is unknown; use In, NotIn, Exists or DoesNotExist"
        )),
    }
}

/// Whether labels match a selector.
///
/// # Errors
/// An operator that does not exist.
pub fn selector_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    let mut holds = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    for requirement in selector.match_expressions.iter().flatten() {
        holds &= requirement_holds(requirement, labels)?;
    }
    Ok(holds)
}

/// Whether a toleration covers a taint, as for Pods.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if toleration.effect.is_some_and(|e| e != taint.effect) {
        return false;
    }
    match (&toleration.key, toleration.operator) {
        (None, TolerationOperator::Exists) => true,
        (None, TolerationOperator::Equal) => false,
        (Some(key), TolerationOperator::Exists) => *key == taint.key,
        (Some(key), TolerationOperator::Equal) => {
            *key == taint.key && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
    }
}

struct Requests {
    cpu: Exact,
    memory: Exact,
    disk: Exact,
}

impl Requests {
    fn of(instance: &BareMetalInstance) -> Result<Self, String> {
        let read = |name: &str| match instance.spec.requests.get(name) {
            None => Ok(Exact::ZERO),
            Some(quantity) => match Exact::try_from(quantity) {
                Ok(value) if value.is_negative() => Err(format!("spec.requests.{name} is negative; it must be zero or more")),
                Ok(value) => Ok(value),
                Err(error) => Err(format!("spec.requests.{name}: {error}")),
            },
        };
        Ok(Self {
            cpu: read("cpu")?,
            memory: read("memory")?,
            disk: read("disk")?,
        })
    }
}

fn capacity(hardware: &BareMetalHardware, name: &str) -> Option<Exact> {
    let quantity = hardware.status.as_ref()?.capacity.get(name)?;
    Exact::try_from(quantity).ok()
}

fn rejection(
    instance: &BareMetalInstance,
    requests: &Requests,
    hardware: &BareMetalHardware,
    spoken_for: &BTreeSet<String>,
) -> Result<Option<Rejection>, String> {
    let spec = &instance.spec;
    if spec.class.is_some() && spec.class != hardware.spec.class {
        return Ok(Some(Rejection::Class));
    }
    if let Some(selector) = &spec.hardware_selector {
        let labels = hardware.metadata.labels.clone().unwrap_or_default();
        if !selector_matches(selector, &labels)? {
            return Ok(Some(Rejection::Selector));
        }
    }
    let status = hardware.status.as_ref();
    let has_capacity = ["cpu", "memory", "disk"].map(|n| capacity(hardware, n));
    let known = has_capacity.iter().all(Option::is_some);
    let wants = [&requests.cpu, &requests.memory, &requests.disk];
    let rejections = [Rejection::Cpu, Rejection::Memory, Rejection::Disk];
    for ((want, have), why) in wants.into_iter().zip(&has_capacity).zip(rejections) {
        if have.as_ref().is_some_and(|have| have < want) {
            return Ok(Some(why));
        }
    }
    let untolerated = hardware
        .spec
        .taints
        .iter()
        .any(|t| t.effect == TaintEffect::NoSchedule && !spec.tolerations.iter().any(|o| tolerates(o, t)));
    if untolerated {
        return Ok(Some(Rejection::Taint));
    }
    if hardware.spec.maintenance {
        return Ok(Some(Rejection::Maintenance));
    }
    let taken = hardware.metadata.name.as_ref().is_some_and(|n| spoken_for.contains(n));
    if hardware.spec.claim_ref.is_some() || taken {
        return Ok(Some(Rejection::InUse));
    }
    if !hardware::is_free(hardware) {
        return Ok(Some(Rejection::NotReady));
    }
    if !known {
        return Ok(Some(Rejection::UnknownCapacity));
    }
    let lost = status.is_some_and(|s| {
        s.conditions
            .iter()
            .any(|c| c.type_ == conditions::AGENT_CONNECTED && c.status == "False")
    });
    Ok(lost.then_some(Rejection::NotConnected))
}

/// Chooses a machine for an instance that has none. `spoken_for`: names of machines that some instance's `spec.hardwareName` already names, whether claimed
/// yet or not.
///
/// Best fit: fewest machines' worth wasted, by memory first, then CPUs, then disk; of those that waste the same, one that is on before one that has to be switched on. Before all of these count a
/// `PreferNoSchedule` taint that is not tolerated, and that only a person can switch the machine on; equals go by name.
pub fn schedule<'a>(
    instance: &BareMetalInstance,
    hardware: impl IntoIterator<Item = &'a BareMetalHardware>,
    spoken_for: &BTreeSet<String>,
) -> Placement {
    let invalid = |message| Placement::Pending {
        reason: "InvalidSpec",
        message,
    };
    let requests = match Requests::of(instance) {
        Ok(requests) => requests,
        Err(message) => return invalid(message),
    };
    let mut counts: BTreeMap<Rejection, usize> = BTreeMap::new();
    let mut total = 0usize;
    let mut best: Option<(bool, bool, Exact, Exact, Exact, u8, &str)> = None;
    for machine in hardware {
        total += 1;
        match rejection(instance, &requests, machine, spoken_for) {
            Err(message) => return invalid(message),
            Ok(Some(why)) => *counts.entry(why).or_default() += 1,
            Ok(None) => {
                let avoided = machine
                    .spec
                    .taints
                    .iter()
                    .any(|t| t.effect == TaintEffect::PreferNoSchedule && !instance.spec.tolerations.iter().any(|o| tolerates(o, t)));
                let size = |name| capacity(machine, name).unwrap_or(Exact::ZERO);
                let name = machine.metadata.name.as_deref().unwrap_or_default();
                let distance = idle::distance(machine);
                let stranded = distance > 1;
                let key = (stranded, avoided, size("memory"), size("cpu"), size("disk"), distance, name);
                if best.as_ref().is_none_or(|b| key < *b) {
                    best = Some(key);
                }
            }
        }
    }
    if let Some((.., name)) = best {
        return Placement::Machine(name.to_owned());
    }
    if total == 0 {
        return Placement::Pending {
            reason: "NoMachines",
            message: "There is no BareMetalHardware yet: switch a machine on and let it boot from the network, then accept it (a BareMetalDiscoveryPolicy does that by itself)"
                .to_owned(),
        };
    }
    let counts: Vec<String> = counts.into_iter().map(|(why, count)| why.text(count)).collect();
    Placement::Pending {
        reason: "NoMachineFits",
        message: format!("0/{total} machines fit: {}", counts.join(", ")),
    }
}
