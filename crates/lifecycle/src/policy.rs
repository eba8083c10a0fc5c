//! Which machines are accepted: CEL rules over an inventory, tried by falling priority, then by name; the first that is true decides.
//!
//! A rule that does not compile, fails, or gives no boolean is passed over and reported; it never accepts. An error in one rule does not stop the
//! others, with one exception that errs on the safe side: a broken *hold* rule is taken as true for what comes after it.

use std::{cmp::Reverse, collections::BTreeMap};

use agent_protocol::inventory::Inventory;
use api::{
    BareMetalDiscoveryPolicy, BootNetwork,
    bmc::PolicyPower,
    common::{NetworkRef, Taint},
    gate::Gate,
    policy::PolicyAction,
};
use cel::{Context, Program, Value, objects::Map};

/// What an accepting policy gives to the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acceptance {
    /// Name of the policy.
    pub policy: String,
    /// Labels for the hardware.
    pub labels: BTreeMap<String, String>,
    /// Taints for it.
    pub taints: Vec<Taint>,
    /// Class for it.
    pub class: Option<String>,
    /// Network of the NIC it booted from.
    pub network_ref: Option<NetworkRef>,
    /// How the agent goes on after the firmware.
    pub boot_network: Option<BootNetwork>,
    /// How it is switched.
    pub power: Option<PolicyPower>,
    /// Gates for the hardware.
    pub gates: Vec<Gate>,
    /// Whether what the root disk holds now may be erased.
    pub erase_foreign_data: bool,
}

/// What the policies say.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Create its hardware object.
    Accept(Box<Acceptance>),
    /// A person decides, says the policy of this name.
    Hold(String),
    /// No policy matches.
    NoMatch,
}

/// A policy that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("BareMetalDiscoveryPolicy {policy}: spec.when {problem}")]
pub struct PolicyError {
    /// Its name.
    pub policy: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

/// Answer and errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// What the policies say.
    pub answer: Answer,
    /// The broken ones among those that were tried.
    pub errors: Vec<PolicyError>,
}

/// JSON as CEL sees it. Whole numbers are `int`, as in the Kubernetes API server, so that they compare with literals.
fn to_cel(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => n
            .as_i64()
            .map(Value::Int)
            .or_else(|| n.as_u64().map(Value::UInt))
            .unwrap_or_else(|| Value::Float(n.as_f64().unwrap_or_default())),
        serde_json::Value::String(s) => Value::String(s.into()),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(to_cel).collect::<Vec<_>>().into()),
        serde_json::Value::Object(fields) => {
            let fields: std::collections::HashMap<String, Value> = fields.into_iter().map(|(k, v)| (k, to_cel(v))).collect();
            Value::Map(Map::from(fields))
        }
    }
}

/// Whether an expression can be used at all.
///
/// # Errors
/// What is wrong with it.
pub fn check(expression: &str) -> Result<(), String> {
    compile(expression).map(|_| ())
}

fn compile(expression: &str) -> Result<Program, String> {
    Program::compile(expression).map_err(|e| format!("is not valid CEL: {e}"))
}

fn is_true(expression: &str, inventory: &serde_json::Value) -> Result<bool, String> {
    let program = compile(expression)?;
    let mut context = Context::default();
    context.add_variable_from_value("inventory", to_cel(inventory.clone()));
    match program.execute(&context) {
        Ok(Value::Bool(answer)) => Ok(answer),
        Ok(other) => Err(format!("gives a {} and must give a boolean", other.type_of())),
        Err(error) => Err(format!("failed: {error}. A field that may be missing must be asked for with has()")),
    }
}

/// Asks the policies about a machine.
pub fn evaluate<'a>(policies: impl IntoIterator<Item = &'a BareMetalDiscoveryPolicy>, inventory: &Inventory) -> Evaluation {
    let mut policies: Vec<_> = policies.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
    policies.sort_by_key(|p| (Reverse(p.spec.priority), p.metadata.name.clone()));
    let mut errors = Vec::new();
    let inventory = match serde_json::to_value(inventory) {
        Ok(json) => json,
        Err(error) => {
            errors.push(PolicyError {
                policy: String::new(),
                problem: format!("cannot be tried: the inventory is not valid JSON: {error}"),
            });
            return Evaluation {
                answer: Answer::NoMatch,
                errors,
            };
        }
    };
    for policy in policies {
        let name = policy.metadata.name.clone().unwrap_or_default();
        let spec = &policy.spec;
        let matched = match is_true(&spec.when, &inventory) {
            Ok(matched) => matched,
            Err(problem) => {
                errors.push(PolicyError {
                    policy: name.clone(),
                    problem,
                });
                spec.action == PolicyAction::Hold
            }
        };
        if matched {
            let answer = match spec.action {
                _ if spec.paused => Answer::Hold(name),
                PolicyAction::Hold => Answer::Hold(name),
                PolicyAction::Accept => Answer::Accept(Box::new(Acceptance {
                    policy: name,
                    labels: spec.labels.clone(),
                    taints: spec.taints.clone(),
                    class: spec.class.clone(),
                    network_ref: spec.network_ref.clone(),
                    boot_network: spec.boot_network.clone(),
                    power: spec.power.clone(),
                    gates: spec.gates.clone(),
                    erase_foreign_data: spec.erase_foreign_data,
                })),
            };
            return Evaluation { answer, errors };
        }
    }
    Evaluation {
        answer: Answer::NoMatch,
        errors,
    }
}
