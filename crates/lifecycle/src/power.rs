//! When a machine is switched: what [`hardware`](crate::hardware) wants of its power, what its driver can do, what came of it so far.
//!
//! The other decisions say what they wait for ([`Want`]); this one says what is done about it ([`PowerAct`], in `status.power`). Whoever carries it out reports how an act ended by its id, and only then
//! another one is made, so that losing either costs a repetition and never an act that nobody wanted.
//!
//! A driver that says yes is not believed: a machine that was told to boot into the agent and did not come is told again, and after [`TRIES`] of it a person is asked.
//!
//! Not here: how a machine is switched (the crate `power`), and asking a person ([`hardware`](crate::hardware) sets the condition).

use api::{
    hardware::BareMetalHardwareStatus,
    power::{PowerAct, PowerActKind, PowerEvents, PowerState, PowerStatus},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::config::Config;

/// So often a machine is told the same thing before a person is asked.
pub const TRIES: u32 = 3;

/// What a driver can do, of what is decided about here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Can {
    /// Let the machine boot anew, once from the network or from a medium.
    pub boot_agent: bool,
    /// From a medium: then nobody is needed who sees to it that it boots into the agent the first time.
    pub medium: bool,
    /// Switch on.
    pub on: bool,
    /// Ask the system to shut down.
    pub shut_down: bool,
    /// Take the power away.
    pub off: bool,
}

/// How an act ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// [`PowerAct::id`].
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Why it could not be done, for people.
    pub fault: Option<String>,
}

/// What is known of a machine's power. Only of one with a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerFacts {
    /// What its driver can do.
    pub can: Can,
    /// What the driver said last.
    pub state: PowerState,
    /// Whether its BMC tells that it was switched.
    pub events: PowerEvents,
    /// Why it does not, or not in the better way.
    pub events_fault: String,
    /// How the latest act ended, as far as whoever carries them out remembers it.
    pub ended: Option<Ended>,
    /// The interfaces by which it is woken, where netboot is to do it.
    pub macs: Vec<String>,
    /// For whom the act in force waits ([`crate::pacing`]); empty where it does not.
    pub turn: String,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Want {
    /// Nothing that power has to do with.
    #[default]
    Nothing,
    /// The machine in the agent, in a session opened since then.
    Agent(Timestamp),
    /// The machine, which was switched off at that time because nobody needed it, in the agent.
    Wake(Timestamp),
    /// It runs its system.
    On(Runs),
    /// It is off.
    Off,
}

/// What is known of a system that is to run, for drivers that cannot tell whether the machine is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// Whether it was to be off until now.
    pub was_off: bool,
    /// When something was last heard of the machine.
    pub heard: Option<Timestamp>,
}

impl Want {
    /// What is to be done first. `act` is in force, `done` was done since it is wanted; `starting`: the system was to be off, and nothing was heard of it since.
    fn first_act(
        self,
        facts: &PowerFacts,
        act: Option<PowerActKind>,
        done: Option<(PowerActKind, Timestamp)>,
        starting: bool,
    ) -> Option<PowerActKind> {
        match self {
            Self::Nothing => None,
            Self::Agent(_) | Self::Wake(_) if facts.can.boot_agent => Some(PowerActKind::BootAgent),
            Self::Agent(_) => None,
            // A plug that is on says nothing of the machine behind it, which went off by itself.
            Self::Wake(_)
                if facts.can.on
                    && facts.can.off
                    && facts.state == PowerState::On
                    && done.map(|(kind, _)| kind) != Some(PowerActKind::On) =>
            {
                Some(PowerActKind::Off)
            }
            Self::Wake(_) => facts.can.on.then_some(PowerActKind::On),
            Self::On(_) if !facts.can.on || facts.state == PowerState::On => None,
            Self::On(_) if facts.state == PowerState::Off => Some(PowerActKind::On),
            Self::On(_) => starting.then(|| match (act, done.map(|(kind, _)| kind)) {
                (Some(act @ (PowerActKind::Off | PowerActKind::On)), _) => act,
                // Whoever takes the power away can give it back; a plug that is on would give nothing.
                (_, None) if facts.can.off => PowerActKind::Off,
                _ => PowerActKind::On,
            }),
            Self::Off if facts.state == PowerState::Off => None,
            Self::Off if facts.can.shut_down => Some(PowerActKind::ShutDown),
            Self::Off => facts.can.off.then_some(PowerActKind::Off),
        }
    }

    fn since(self) -> Option<Timestamp> {
        match self {
            Self::Agent(since) | Self::Wake(since) => Some(since),
            Self::Nothing | Self::On(_) | Self::Off => None,
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The new `status.power`.
    pub status: Option<PowerStatus>,
    /// When to look again.
    pub again: Option<Timestamp>,
}

/// Whether a driver still does what [`Want::Agent`] or [`Want::Wake`] waits for, so that no person has to be asked.
pub(crate) fn is_at_it(facts: Option<&PowerFacts>, status: &BareMetalHardwareStatus) -> bool {
    let failures = status.power.as_ref().map_or(0, |p| p.failures);
    let can = facts.is_some_and(|f| f.can.boot_agent || (f.can.on && status.idle.is_some()));
    can && failures < TRIES
}

/// Decides.
pub(crate) fn settle(
    old: Option<&PowerStatus>,
    facts: Option<&PowerFacts>,
    want: Want,
    config: &Config,
    salt: u64,
    now: Timestamp,
) -> Settled {
    let Some(facts) = facts else {
        return Settled { status: None, again: None };
    };
    let mut new = old.cloned().unwrap_or_default();
    new.state = facts.state;
    new.events = facts.events;
    new.events_fault.clone_from(&facts.events_fault);
    take_in(&mut new, facts, config);
    let mut again = None;
    match next(&mut new, facts, want, config, now) {
        Next::Nothing => forget(&mut new),
        Next::Wait(until) => again = until,
        Next::Act(kind) if new.act.as_ref().is_some_and(|act| act.kind == kind) => new.turn.clone_from(&facts.turn),
        Next::Act(kind) => {
            new.sequence += 1;
            new.act = Some(PowerAct {
                id: format!("{}-{:08x}", new.sequence, salt as u32),
                kind,
                since: Time(now),
                macs: if kind == PowerActKind::On { facts.macs.clone() } else { Vec::new() },
            });
            new.retry_after = None;
            new.turn.clear();
        }
    }
    Settled { status: Some(new), again }
}

/// How the act in force ended.
fn take_in(new: &mut PowerStatus, facts: &PowerFacts, config: &Config) {
    let Some(ended) = &facts.ended else { return };
    let Some(act) = new.act.take_if(|act| act.id == ended.id) else {
        return;
    };
    new.turn.clear();
    match &ended.fault {
        None => {
            new.done = Some(act);
            new.done_at = Some(Time(ended.at));
            new.fault.clear();
        }
        Some(fault) => {
            new.failures += 1;
            new.fault.clone_from(fault);
            let wait = config.backoff(new.failures);
            new.retry_after = Some(Time(ended.at.saturating_add(wait).unwrap_or(ended.at)));
        }
    }
}

enum Next {
    Nothing,
    /// Until this time, or a change.
    Wait(Option<Timestamp>),
    Act(PowerActKind),
}

fn next(new: &mut PowerStatus, facts: &PowerFacts, want: Want, config: &Config, now: Timestamp) -> Next {
    new.starting = starting(new, facts, want, now);
    let since = want.since().or(new.starting.as_ref().map(|since| since.0));
    let starting = new.starting.is_some();
    let counts = |at: Timestamp| since.is_none_or(|since| at >= since);
    let done = new.done.as_ref().zip(new.done_at.as_ref()).filter(|(_, at)| counts(at.0));
    let done = done.map(|(done, at)| (done.kind, at.0));
    let in_force = new.act.as_ref().map(|act| act.kind);
    let Some(first) = want.first_act(facts, in_force, done, starting) else {
        return Next::Nothing;
    };
    if let Some(act) = &new.act {
        // One that is being carried out ends first; nothing else is asked of a BMC meanwhile.
        return if act.kind == first { Next::Act(first) } else { Next::Wait(None) };
    }
    if let Some(retry) = &new.retry_after
        && now < retry.0
    {
        return Next::Wait(Some(retry.0));
    }
    let Some((done, at)) = done.filter(|(done, _)| is_same(*done, first)) else {
        return Next::Act(first);
    };
    // It was done, and what is wanted is not there yet.
    let patience = match done {
        // One that is still off does not boot: the act was taken and not done. Some need a minute for the power alone.
        PowerActKind::BootAgent if facts.state == PowerState::Off => config.power_state_within * 2,
        PowerActKind::BootAgent => config.power_boot_within,
        PowerActKind::On if matches!(want, Want::Wake(_)) => config.power_boot_within,
        PowerActKind::On | PowerActKind::Off => config.power_state_within,
        PowerActKind::ShutDown => config.power_shut_down_within,
    };
    // A frame may reach a machine that is still going down, and is lost then. Once it must be off it gets another one.
    let off_by = match want {
        Want::Wake(since) if done == PowerActKind::On && facts.state == PowerState::Unknown => {
            since.saturating_add(config.power_shut_down_within).ok()
        }
        _ => None,
    };
    let early = off_by.filter(|off_by| at < *off_by);
    // One that never comes is told less and less often.
    let until = early.unwrap_or_else(|| at.saturating_add(patience.max(config.backoff(new.failures))).unwrap_or(at));
    if now < until {
        return Next::Wait(Some(until));
    }
    if done == PowerActKind::ShutDown && facts.can.off {
        // It did not listen.
        return Next::Act(PowerActKind::Off);
    }
    new.failures += u32::from(early.is_none());
    // What was done and did not help is no reason to leave out a part of it now.
    Next::Act(want.first_act(facts, None, None, starting).unwrap_or(first))
}

/// Since when a machine whose driver does not tell whether it is on is being started.
fn starting(new: &PowerStatus, facts: &PowerFacts, want: Want, now: Timestamp) -> Option<Time> {
    let Want::On(runs) = want else { return None };
    if facts.state != PowerState::Unknown {
        return None;
    }
    let began = new.starting.clone().or_else(|| runs.was_off.then_some(Time(now)))?;
    runs.heard.is_none_or(|heard| heard < began.0).then_some(began)
}

/// Whether an act that was done serves what another one is for.
fn is_same(done: PowerActKind, wanted: PowerActKind) -> bool {
    done == wanted || (done == PowerActKind::Off && wanted == PowerActKind::ShutDown)
}

/// An act, as an event says it.
pub(crate) fn told(kind: PowerActKind) -> &'static str {
    match kind {
        PowerActKind::BootAgent => "boot it once into the agent",
        PowerActKind::On => "switch it on",
        PowerActKind::ShutDown => "shut its system down",
        PowerActKind::Off => "switch it off",
    }
}

/// Nothing is waited for: the next wait begins anew.
fn forget(new: &mut PowerStatus) {
    new.act = None;
    new.turn.clear();
    new.failures = 0;
    new.fault.clear();
    new.retry_after = None;
}
