//! Gates: a step waits until another controller has set a condition to True, and says for whom it waits.
//!
//! A gate is asked until its step is taken, and not again: an order that is in force, and a system that was booted, are past it. A gate of one instance's life stands in
//! that instance's conditions, so that what was opened for one is never open for the next.

use api::{BareMetalInstance, HardwarePhase, conditions, gate::GateStep};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::draft::Draft;

/// The reason of every wait at a gate.
pub(super) const GATE_CLOSED: &str = "GateClosed";

/// Waits in `phase` when a gate before `step` is closed; whether that is so.
fn waits(draft: &mut Draft<'_>, phase: HardwarePhase, step: GateStep, subject: &str, found: &[Condition]) -> bool {
    let gates = &draft.facts.hardware.spec.gates;
    let closed: Vec<&str> = gates
        .iter()
        .filter(|g| g.before == step && !conditions::is_true(found, &g.condition_type))
        .map(|g| g.condition_type.as_str())
        .collect();
    let Some(first) = closed.first() else {
        return false;
    };
    let goal = match step {
        GateStep::Accept => "anything is done with the machine",
        GateStep::Provision => "the image is written",
        GateStep::Run => "the written system is booted",
        GateStep::Release => "the disk is erased",
    };
    let said = found
        .iter()
        .find(|c| c.type_ == *first && !c.message.is_empty())
        .map(|c| format!(". It says: {}", c.message))
        .unwrap_or_default();
    let message = format!(
        "Waiting for the controller of {}: it sets that condition of {subject} to True before {goal}{said}",
        closed.join(", ")
    );
    draft.wait(phase, GATE_CLOSED, message);
    true
}

/// Whether the machine waits to be accepted.
pub(super) fn before_accept(draft: &mut Draft<'_>) -> bool {
    let subject = format!("BareMetalHardware {}", draft.name());
    let found = draft.old.conditions.clone();
    waits(draft, HardwarePhase::Inspecting, GateStep::Accept, &subject, &found)
}

/// Whether a step of an instance's life waits.
pub(super) fn before(draft: &mut Draft<'_>, phase: HardwarePhase, step: GateStep, instance: &BareMetalInstance) -> bool {
    let metadata = &instance.metadata;
    let subject = format!(
        "BareMetalInstance {}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    );
    let found = instance.status.as_ref().map_or(&[][..], |s| &s.conditions);
    waits(draft, phase, step, &subject, found)
}
