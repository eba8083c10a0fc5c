//! A machine that nobody needs: when it is switched off, and how it comes back.
//!
//! `status.idle` is there from the moment at which it is told to be off until it is in the agent again. Meanwhile a session from before counts as none, its silence is no loss, and whoever needs the
//! machine has it switched on. Off by itself first, as the agent does it in order; its driver takes the power away where that did not help.
//!
//! Which machines of a class are on, and which off, is not decided here ([`crate::idle`]).

use api::{HardwarePhase, IdlePolicy, conditions, idle::IdleStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::draft::Draft;
use crate::{
    idle::{Wanted, can_come_back, idle_since},
    power::Want,
    view,
};

/// A machine that opened a session since it was told to be off is here, whoever switched it on.
pub(super) fn note_return(draft: &mut Draft<'_>) {
    let discovery = draft.facts.discovery;
    if draft
        .new
        .idle
        .as_ref()
        .is_some_and(|idle| view::session_since(discovery, idle.since.0))
    {
        draft.new.idle = None;
    }
}

/// An instance has the machine.
pub(super) fn is_needed(draft: &mut Draft<'_>) {
    draft.clear(conditions::IDLE_POLICY);
    wake(draft);
}

/// After everything else was decided for that instance: the machine comes, whatever else is waited for. One that runs its system was not off.
pub(super) fn comes(draft: &mut Draft<'_>) {
    if draft.new.phase == HardwarePhase::InUse && !draft.transient {
        draft.new.idle = None;
    }
    let works = draft.new.phase == HardwarePhase::Quarantined || draft.facts.hardware.spec.maintenance;
    if let Some(idle) = draft.new.idle.as_ref().filter(|_| !works)
        && draft.power_want == Want::Nothing
    {
        draft.power_want = Want::Wake(idle.since.0);
    }
}

/// It is to come, from now on and until it is there: the next plan may think of another one, but not so soon.
fn wake(draft: &mut Draft<'_>) {
    let Some(idle) = draft.new.idle.as_mut().filter(|idle| idle.asleep) else {
        return;
    };
    idle.asleep = false;
    // How hard it was to switch off says nothing of this.
    if let Some(power) = &mut draft.new.power {
        power.failures = 0;
        power.fault.clear();
        power.retry_after = None;
    }
    draft.event(false, "Waking", "The machine is needed: it is switched on");
}

/// Of a machine without a claim, after everything else was decided.
pub(super) fn decide(draft: &mut Draft<'_>) {
    if draft.transient {
        return;
    }
    let facts = draft.facts;
    let can = facts.power.map(|p| p.can);
    if facts.idle.policy == IdlePolicy::PowerOff && !can_come_back(can) {
        let why = match can {
            None => "the machine has no power driver: name one in spec.power, Wake-on-LAN at the least",
            Some(_) => "its power driver cannot switch it on: name another in spec.power",
        };
        draft.set(
            conditions::IDLE_POLICY,
            false,
            "NoWayBack",
            &format!("It stays on, whatever its idle policy says, because {why}"),
        );
    } else {
        draft.clear(conditions::IDLE_POLICY);
    }
    if draft.new.phase == HardwarePhase::Ready && draft.new.idle.is_none() && goes(draft) {
        draft.new.idle = Some(IdleStatus {
            asleep: true,
            since: Time(facts.now),
        });
        draft.event(
            false,
            "PoweredOff",
            "Nobody needs the machine: it is switched off, and on again when an instance needs it",
        );
    }
    // Of one that was not switched off, who is asked for what is settled already.
    let Some(idle) = draft.new.idle.clone() else { return };
    let asked = match draft.new.phase {
        // A person works on it.
        HardwarePhase::Maintenance | HardwarePhase::Quarantined => false,
        HardwarePhase::Ready if idle.asleep && facts.idle.wanted != Wanted::On => stay_off(draft, &idle),
        // What has to be done with it is done in the agent.
        _ => come(draft, &idle),
    };
    if !asked {
        draft.clear(conditions::POWER_CYCLE_NEEDED);
    }
}

fn come(draft: &mut Draft<'_>, idle: &IdleStatus) -> bool {
    wake(draft);
    let asked = draft.watch_for_return(idle.since.0);
    if asked {
        rest(
            draft,
            "PowerCycleNeeded",
            "The machine is off, and its power driver does not switch it on",
        );
    } else {
        rest(draft, "Waking", "The machine is being switched on");
    }
    asked
}

/// Whether it is switched off now: the plan is of this very rest, nobody has named the machine since, and it is there to hear of it.
fn goes(draft: &Draft<'_>) -> bool {
    let facts = draft.facts;
    let planned = match facts.idle.wanted {
        Wanted::Off(since) => since.is_some() && since == idle_since(facts.hardware, facts.discovery),
        Wanted::On | Wanted::AsItIs => false,
    };
    planned
        && facts.idle.policy == IdlePolicy::PowerOff
        && can_come_back(facts.power.map(|p| p.can))
        && facts.claimant.is_none()
        && facts.hardware.metadata.deletion_timestamp.is_none()
        && draft.session().is_some()
        // A status that was lost or restored is made up first.
        && draft.old.phase == HardwarePhase::Ready
}

/// Whether a person has to switch it on.
fn stay_off(draft: &mut Draft<'_>, idle: &IdleStatus) -> bool {
    let facts = draft.facts;
    if !can_come_back(facts.power.map(|p| p.can)) {
        // Its driver was taken away meanwhile.
        rest(
            draft,
            "PowerCycleNeeded",
            "The machine is off, and nothing can switch it on any more",
        );
        return draft.watch_for_return(idle.since.0);
    }
    rest(
        draft,
        "PoweredOff",
        "Nobody needs the machine: it is off, and is switched on when an instance needs it",
    );
    // Its agent first.
    let patience = facts.config.power_shut_down_within;
    if draft.due(idle.since.0.saturating_add(patience).unwrap_or(idle.since.0)) {
        draft.power_want = Want::Off;
    }
    false
}

/// Says what a machine is at that may be given to an instance all the same.
fn rest(draft: &mut Draft<'_>, reason: &str, message: &str) {
    if draft.new.reason.is_empty() {
        draft.wait(draft.new.phase, reason, message);
    }
}
