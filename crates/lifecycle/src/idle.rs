//! Which machines that nobody needs are on, and which are off.
//!
//! [`plan`] looks at the free machines of one class together, because how many of them stay on is a matter of all of them. What it says of one machine is taken up by that machine's own decision
//! ([`crate::hardware::decide`]), which knows better whether the machine is still free, and writes it down (`status.idle`).
//!
//! Invariants:
//! * A machine is switched off only when it is Ready, in the agent, was idle for its time, and has a driver that can bring it back.
//! * Of the machines that could be on, at least `warm` are on or on their way, as far as there are so many.
//! * The same facts give the same answer, and what was carried out is not taken back by the next answer: those that are on are kept before those that would have to be switched on. A machine that comes
//!   back is on for its whole idle time again.
//!
//! Not here: claims. A claimed machine that is off is switched on by its own decision, whatever the plan was.

use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalHardwareClass, IdlePolicy, conditions,
    idle::{ClassIdle, DEFAULT_AFTER_SECONDS},
};
use jiff::{SignedDuration, Timestamp};

use crate::{hardware, power::Can, view};

/// What holds for the machines of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// For machines whose own spec says nothing.
    pub policy: IdlePolicy,
    /// For how long a machine has to be idle before it is switched off.
    pub after: SignedDuration,
    /// So many stay on.
    pub warm: usize,
}

impl Rules {
    /// As the class says it; without one, machines stay as their own spec says.
    pub fn of(class: Option<&BareMetalHardwareClass>) -> Self {
        let idle = class.and_then(|c| c.spec.idle.clone()).unwrap_or_else(|| ClassIdle {
            after_seconds: DEFAULT_AFTER_SECONDS,
            ..ClassIdle::default()
        });
        Self {
            policy: idle.policy,
            after: SignedDuration::from_secs(idle.after_seconds.into()),
            warm: idle.warm.try_into().unwrap_or(usize::MAX),
        }
    }

    /// What holds for one machine of the class.
    pub fn policy_of(&self, hardware: &BareMetalHardware) -> IdlePolicy {
        hardware.spec.idle_policy.unwrap_or(self.policy)
    }
}

/// Where a free machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the agent, idle since then.
    Here(Timestamp),
    /// Told to come.
    Coming,
    /// Switched off by us.
    Off,
    /// None of these: its agent is silent, or it was told to come and does not.
    Lost,
}

/// One free machine of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// What holds for it.
    pub policy: IdlePolicy,
    /// Where it is.
    pub place: Place,
    /// Whether its driver can bring it back.
    pub can_come_back: bool,
}

/// What is wanted of one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing is known yet: it stays as it is.
    #[default]
    AsItIs,
    /// It is on.
    On,
    /// It is off. One that is on: if it has really been idle since then, and nobody took it meanwhile.
    Off(Option<Timestamp>),
}

/// What a machine's own decision is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdleFacts {
    /// What holds for it.
    pub policy: IdlePolicy,
    /// What the plan says.
    pub wanted: Wanted,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the members.
    pub wanted: Vec<Wanted>,
    /// When the answer may be another one though nothing changes.
    pub again: Option<Timestamp>,
}

/// Decides about the free machines of one class.
pub fn plan(rules: &Rules, members: &[Member<'_>], now: Timestamp) -> Plan {
    let sleeps = |m: &Member<'_>| m.policy == IdlePolicy::PowerOff && m.can_come_back;
    // Those that are on anyway serve first, then those that are here, then those that would have to be waited for.
    let rank = |m: &Member<'_>| match m.place {
        Place::Here(_) if !sleeps(m) => Some(0),
        Place::Here(_) => Some(1),
        Place::Coming => Some(2),
        Place::Off if m.can_come_back => Some(3),
        Place::Off | Place::Lost => None,
    };
    let mut order: Vec<(u8, &str, usize)> = members
        .iter()
        .enumerate()
        .filter_map(|(at, m)| Some((rank(m)?, m.name, at)))
        .collect();
    order.sort_unstable();
    let mut warm = vec![false; members.len()];
    for (.., at) in order.into_iter().take(rules.warm) {
        warm[at] = true;
    }
    let mut plan = Plan::default();
    for (member, warm) in members.iter().zip(warm) {
        let wanted = match member.place {
            Place::Here(_) | Place::Coming | Place::Lost if warm || !sleeps(member) => Wanted::On,
            // It has its whole idle time once it is here.
            Place::Coming | Place::Lost => Wanted::On,
            Place::Here(since) => {
                let then = since.saturating_add(rules.after).unwrap_or(Timestamp::MAX);
                if then <= now {
                    Wanted::Off(Some(since))
                } else {
                    plan.again = Some(plan.again.map_or(then, |a| a.min(then)));
                    Wanted::On
                }
            }
            Place::Off if warm || member.policy == IdlePolicy::Stay => Wanted::On,
            Place::Off => Wanted::Off(None),
        };
        plan.wanted.push(wanted);
    }
    plan
}

/// Whether a driver can bring a machine back that was switched off.
pub fn can_come_back(can: Option<Can>) -> bool {
    can.is_some_and(|can| can.boot_agent || can.on)
}

/// Where a machine is; nothing of one that is not free.
pub fn place(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> Option<Place> {
    if !hardware::is_free(hardware) {
        return None;
    }
    let status = hardware.status.as_ref()?;
    if let Some(since) = idle_since(hardware, discovery) {
        return Some(Place::Here(since));
    }
    let given_up = conditions::is_true(&status.conditions, conditions::POWER_CYCLE_NEEDED);
    Some(match &status.idle {
        Some(idle) if idle.asleep => Place::Off,
        Some(_) if !given_up => Place::Coming,
        Some(_) | None => Place::Lost,
    })
}

/// Since when a machine that is in the agent has had nothing to do: since it became Ready, or came back.
pub fn idle_since(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> Option<Timestamp> {
    let status = hardware.status.as_ref()?;
    let session = view::live_session(discovery).filter(|s| view::session_counts(status, s))?;
    let ready = status.phase_since.as_ref().map_or(session.opened_at.0, |t| t.0);
    Some(ready.max(session.opened_at.0))
}

/// How soon an instance has the machine: the less the better. 0: it is on. 1: it is off, and is switched on. 2: somebody has to do that.
pub fn distance(hardware: &BareMetalHardware) -> u8 {
    let status = hardware.status.as_ref();
    let off = status.is_some_and(|s| s.idle.is_some());
    let stranded = status.is_some_and(|s| conditions::is_true(&s.conditions, conditions::POWER_CYCLE_NEEDED));
    match (off, stranded) {
        (_, true) => 2,
        (true, false) => 1,
        (false, false) => 0,
    }
}
