//! The world: machines with their disks, instances, objects, and everybody who acts on them.
//!
//! What happens in one step, and why that is fine:
//! * **An operator** decides on a machine or an instance and makes at most one deciding write, by compare and swap on the object it writes. It keeps nothing that is
//!   not in an object, so its crash at any point, and its restart, is a step that is not taken: nobody is ever forced to act, and every run in which
//!   one operator stops for ever is among the runs.
//! * One operator and one replica see the present. The other operator and the other replica hold an old snapshot of one machine's objects and of the instances, taken at any
//!   time and kept as long as they like; every mixture of old and new (each kind of object has a cache of its own) is tried. A write that was decided long ago is a
//!   decision on old facts: compare and swap makes it fail unless the written object is still the present one, so deciding on the old facts and the
//!   present object covers it.
//! * **A replica** answers a boot from its caches; where the decision asks for a record, that is compared and swapped first. It hands out an order in two steps: it reads the
//!   hardware object; then it notes the acceptance in the discovery by compare and swap and answers, or crashes before the answer arrives. An
//!   agent has one request open at a time, so there is one such reading per machine, and it is void when the discovery changed.
//! * **An agent** looks at the disk and begins in one step, ends (well or not) in another, reports in a third; before and after each the machine may lose its power. A report that is lost
//!   is sent again, and one that is stored twice changes nothing.
//! * **A machine that nobody needs** (in worlds with `rests`) may be told to be off at any time at which it is Ready, and to come back at any time; what its driver is told, the driver does at any
//!   time, as often as it likes while it is told so. What a class wants of all its machines is not in here (`tests/it/idle.rs`).
//! * **A machine** that runs its system comes back to the agent when its guest helper is told to, or by a restart at any time.
//!
//! Not in here: addresses and seeds (both are prepared before an order and looked at by it), the wish to stop an instance, presence, guest reports, maintenance, gates, identity
//! matching (a machine is matched rightly), and the passing of deadlines (waits last no time or for ever).

mod fair;
mod judge;
mod step;
mod symmetry;
mod tell;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use agent_protocol::disk::DiskContents;
use stateright::{Model, Property};

use crate::{
    decide::{Ending, Rest, View, hardware_says, instance_says},
    mutants::Mutant,
    objects,
    table::{FastMap, Id, number},
};
pub use judge::Violation;

/// What an agent is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Work {
    Idle,
    Doing(Id),
    Done(Id),
}

/// What a machine is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Power {
    /// In firmware: asks what to boot.
    Firmware,
    Agent(Work),
    /// Runs the system of this instance from its disk.
    System(u8),
    /// Off, because nobody needed it.
    Off,
}

/// A machine as it really is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Machine {
    pub power: Power,
    pub disk: Id,
    /// Number of its latest session.
    pub session: u8,
    /// Instances whose data lies on the disk, as bits.
    pub data: u8,
    /// Instances for which anything was written since their claim began, as bits.
    pub wrote: u8,
    /// For whom a whole, verified image stands there.
    pub whole: Option<u8>,
    /// The latest erase that was really done and that nothing followed: its order, and for which instance.
    pub erased: Option<(u8, u8)>,
    /// The result that the agent keeps: asked for that order again, it answers with it. Followed only where a backup may lose what is stored.
    pub kept: Option<Id>,
    /// Whether a person gave the foreign data on the disk up.
    pub given_up: bool,
}

/// What the stale operator and the stale replica know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Frozen {
    pub machine: u8,
    pub view: View,
}

/// One state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct State {
    pub hw: [Option<Id>; 2],
    pub disc: [Option<Id>; 2],
    pub inst: [Option<Id>; 2],
    /// What a replica has read of a machine's hardware object on behalf of its agent.
    pub reading: [Option<Id>; 2],
    pub machine: [Machine; 2],
    /// The machine is outside of what is looked at.
    pub absent: [bool; 2],
    pub frozen: Option<Frozen>,
    pub born: [bool; 2],
    pub told_to_boot: [bool; 2],
    /// How often a re-install was asked for, less the times that an image that stood was written over. Where the first image is only being written yet, an operator may or may not take the wish
    /// for that one.
    pub asked: [u8; 2],
    pub released: [bool; 2],
    pub left: Left,
    pub violation: Option<Violation>,
}

/// How often something may still happen; [`MANY`] is without end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Left {
    pub crashes: [u8; 2],
    pub freezes: u8,
    /// Steps on old facts; after the last one, nobody is stale any more.
    pub stale_steps: u8,
    pub failures: u8,
    pub restores: u8,
    pub forced: u8,
    pub tampers: u8,
    pub consents: u8,
    pub reinstalls: u8,
    pub rests: u8,
}

/// Without a bound.
pub const MANY: u8 = u8::MAX;

/// What of a view is old.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lag {
    pub hw: bool,
    pub disc: bool,
    pub inst: bool,
}

impl Lag {
    pub const NONE: Self = Self::of(false, false, false);
    const ALL: Self = Self::of(true, true, true);

    const fn of(hw: bool, disc: bool, inst: bool) -> Self {
        Self { hw, disc, inst }
    }
}

/// Everything that can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// An instance appears; its author may have named a machine.
    Create(usize, Option<usize>),
    Delete(usize),
    /// Its author asks for a release by force.
    Force(usize),
    /// Its author asks to have the image written anew.
    Reinstall(usize),
    Accept(usize),
    /// A person gives the foreign data on a machine's disk up.
    Consent(usize),
    Boot(usize, Lag),
    /// A replica reads the hardware object for the agent that asks; the answer, where it is no order.
    Poll(usize, Lag),
    /// It notes the acceptance, and its answer arrives or not.
    HandOut(usize, bool),
    End(usize, Ending),
    Report(usize),
    /// Power is lost and comes again.
    Crash(usize),
    ComeBack(usize),
    /// An operator decides on a machine; of two instances that name it, the one with this number is older.
    Operate(usize, Lag, u8),
    /// The same, with a plan of what becomes of the machine while nobody needs it.
    Plan(usize, Lag, Rest),
    /// The driver carries out what it was told.
    Switch(usize),
    /// An operator decides on an instance.
    Tend(usize, Lag),
    Bind(usize, usize, Lag),
    /// The stale ones fall asleep.
    Freeze(usize),
    /// Somebody else's data appears on a disk.
    Tamper(usize),
    LoseStatus(usize),
    RestoreHardware(usize),
    RestoreDiscovery(usize),
    LoseInstanceStatus(usize),
    /// From here on this machine goes its way alone (see `symmetry`).
    Alone(usize),
}

impl Action {
    /// Whether somebody acts on old facts.
    fn is_stale(self) -> bool {
        match self {
            Self::Boot(_, lag)
            | Self::Poll(_, lag)
            | Self::Operate(_, lag, _)
            | Self::Plan(_, lag, _)
            | Self::Tend(_, lag)
            | Self::Bind(_, _, lag) => lag != Lag::NONE,
            _ => false,
        }
    }
}

/// Things that a run must have seen, or it proves little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    Runs,
    GoneAfterRunning,
    ServesAgain,
    ErasedWithEvidence,
    StaleWrite,
    OrderRefused,
    OrderLost,
    Quarantined,
    WrittenAgain,
    Rested,
    WokenForAnInstance,
}

const SIGHTS: usize = 11;

/// Bounds of one run.
#[derive(Clone, Debug)]
pub struct World {
    pub machines: usize,
    pub instances: usize,
    /// Power losses of each machine at any point.
    pub crashes: u8,
    /// Snapshots that the stale operator and the stale replica may take.
    pub freezes: u8,
    /// Steps that the two may take on one snapshot.
    pub stale_steps: u8,
    /// Whether each kind of object may be old by itself in such a step, or all of them together.
    pub mixed: bool,
    /// Orders that fail half way.
    pub failures: u8,
    /// Backups restored over one object.
    pub restores: u8,
    /// Releases by force.
    pub forced: u8,
    /// Times that somebody else's data appears on a disk.
    pub tampers: u8,
    /// Times that a person gives such data up.
    pub consents: u8,
    /// Times that an author asks for a re-install.
    pub reinstalls: u8,
    /// Times that the plan switches a machine off that nobody needs. Then machines have a driver.
    pub rests: u8,
    /// Whether authors of instances name machines themselves.
    pub named: bool,
    /// Whether the first machine's disk holds data that nobody gave up.
    pub foreign: bool,
    /// Whether machines that cannot meet any more are followed one by one.
    pub apart: bool,
    /// Whether deletions are followed to their end.
    pub ends: bool,
    pub mutant: Option<Mutant>,
    /// States from which every deletion is known to end.
    pub ended: Arc<[Mutex<FastMap<u64, ()>>]>,
    /// What the run has seen.
    pub seen: Arc<[AtomicBool; SIGHTS]>,
}

impl World {
    pub fn new(machines: usize, instances: usize) -> Self {
        Self {
            machines,
            instances,
            crashes: 0,
            freezes: 0,
            stale_steps: MANY,
            mixed: true,
            failures: 0,
            restores: 0,
            forced: 0,
            tampers: 0,
            consents: 0,
            reinstalls: 0,
            rests: 0,
            named: false,
            foreign: false,
            apart: true,
            ends: true,
            mutant: None,
            ended: (0..64).map(|_| Mutex::default()).collect(),
            seen: Arc::default(),
        }
    }

    fn sees(&self, sight: Sight) {
        let seen = &self.seen[sight as usize];
        if !seen.load(Ordering::Relaxed) {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the run has seen this.
    pub fn has_seen(&self, sight: Sight) -> bool {
        self.seen[sight as usize].load(Ordering::Relaxed)
    }
}

impl State {
    /// What the present operator and replica see of a machine.
    fn view(&self, m: usize) -> View {
        View {
            hw: self.hw[m],
            disc: self.disc[m],
            inst: self.inst,
        }
    }

    fn old_view(&self, m: usize) -> Option<View> {
        self.frozen.filter(|f| usize::from(f.machine) == m).map(|f| f.view)
    }

    /// What somebody sees; `None` where that is no different from the present.
    fn sees(&self, m: usize, lag: Lag) -> Option<View> {
        let now = self.view(m);
        if lag == Lag::NONE {
            return Some(now);
        }
        let old = self.old_view(m)?;
        let differs = lag.hw && old.hw != now.hw || lag.disc && old.disc != now.disc || lag.inst && old.inst != now.inst;
        differs.then_some(View {
            hw: if lag.hw { old.hw } else { now.hw },
            disc: if lag.disc { old.disc } else { now.disc },
            inst: if lag.inst { old.inst } else { now.inst },
        })
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let machine = |m: usize| Machine {
            power: Power::Firmware,
            disk: number(if self.foreign && m == 0 {
                objects::foreign()
            } else {
                DiskContents::blank()
            }),
            session: 0,
            data: 0,
            wrote: 0,
            whole: None,
            erased: None,
            kept: None,
            given_up: false,
        };
        vec![State {
            hw: [None; 2],
            disc: [None; 2],
            inst: [None; 2],
            reading: [None; 2],
            machine: [machine(0), machine(1)],
            absent: [false, self.machines < 2],
            frozen: None,
            born: [false, self.instances < 2],
            told_to_boot: [false; 2],
            asked: [0; 2],
            released: [false; 2],
            left: Left {
                crashes: [self.crashes, if self.machines < 2 { 0 } else { self.crashes }],
                freezes: self.freezes,
                stale_steps: self.stale_steps,
                failures: self.failures,
                restores: self.restores,
                forced: self.forced,
                tampers: self.tampers,
                consents: self.consents,
                reinstalls: self.reinstalls,
                rests: self.rests,
            },
            violation: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What comes after a violation is of no interest.
        if state.violation.is_some() {
            return;
        }
        if self.goes_apart(state) {
            actions.extend([Action::Alone(0), Action::Alone(1)]);
            return;
        }
        for i in 0..2 {
            self.instance_actions(state, i, actions);
        }
        for m in (0..2).filter(|m| !state.absent[*m]) {
            self.machine_actions(state, m, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        self.step(&mut next, action)?;
        if action.is_stale() && next.left.stale_steps != MANY {
            next.left.stale_steps -= 1;
            if next.left.stale_steps == 0 {
                next.frozen = None;
                next.left.stale_steps = self.stale_steps;
            }
        }
        if !matches!(action, Action::Freeze(_)) {
            next.forget_snapshot(self.stale_steps);
        }
        if next == *last {
            return None;
        }
        Some(next.canonical())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        judge::properties()
    }
}

impl World {
    /// The first of these is all old, the others mix.
    fn lags(&self, lags: [Lag; 3]) -> impl Iterator<Item = Lag> + use<> {
        lags.into_iter().take(if self.mixed { 3 } else { 1 })
    }

    fn instance_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let Some(inst) = state.inst[i] else {
            // Two that are not there yet differ in nothing.
            if !state.born[i] && (i == 0 || state.born[0]) {
                actions.push(Action::Create(i, None));
                if self.named {
                    actions.extend((0..2).filter(|m| !state.absent[*m]).map(|m| Action::Create(i, Some(m))));
                }
            }
            return;
        };
        let says = instance_says(inst);
        if !says.deleting {
            actions.push(Action::Delete(i));
            if state.left.reinstalls > 0 {
                actions.push(Action::Reinstall(i));
            }
        } else if state.left.forced > 0 {
            actions.push(Action::Force(i));
        }
        actions.push(Action::Tend(i, Lag::NONE));
        if state.frozen.is_some() && state.left.stale_steps > 0 {
            let lags = [Lag::of(true, true, false), Lag::of(true, false, false), Lag::of(false, true, false)];
            actions.extend(self.lags(lags).map(|lag| Action::Tend(i, lag)));
        }
        let bindable = !says.deleting && (says.machine.is_none() || self.mutant == Some(Mutant::BindsAgain));
        for m in (0..2).filter(|m| bindable && !state.absent[*m]) {
            actions.push(Action::Bind(i, m, Lag::NONE));
            if state.old_view(m).is_some() && state.left.stale_steps > 0 {
                let lags = [Lag::of(true, false, true), Lag::of(true, false, false), Lag::of(false, false, true)];
                actions.extend(self.lags(lags).map(|lag| Action::Bind(i, m, lag)));
            }
        }
        if state.left.restores > 0 {
            actions.push(Action::LoseInstanceStatus(i));
        }
    }

    /// What is done about a machine that nobody needs, and to bring it back.
    fn rest_actions(&self, state: &State, m: usize, hw: Id, actions: &mut Vec<Action>) {
        let says = hardware_says(hw);
        if says.started {
            actions.push(Action::Switch(m));
        }
        let plans: &[Rest] = match says.idle {
            Some(true) => &[Rest::On],
            Some(false) => &[],
            None if state.left.rests > 0 => &[Rest::Off],
            None => &[],
        };
        let stale = state.old_view(m).is_some() && state.left.stale_steps > 0;
        for plan in plans {
            actions.push(Action::Plan(m, Lag::NONE, *plan));
            if stale {
                let lags = [Lag::of(false, true, true), Lag::of(false, true, false), Lag::of(false, false, true)];
                actions.extend(self.lags(lags).map(|lag| Action::Plan(m, lag, *plan)));
            }
        }
    }

    fn machine_actions(&self, state: &State, m: usize, actions: &mut Vec<Action>) {
        let stale = state.old_view(m).is_some() && state.left.stale_steps > 0;
        let machine = state.machine[m];
        if state.hw[m].is_some() {
            let rivals = state
                .inst
                .iter()
                .flatten()
                .filter(|i| instance_says(**i).machine == Some(m))
                .count();
            for older in 0..if rivals > 1 { 2 } else { 1 } {
                actions.push(Action::Operate(m, Lag::NONE, older));
                if stale {
                    let lags = [Lag::of(false, true, true), Lag::of(false, true, false), Lag::of(false, false, true)];
                    actions.extend(self.lags(lags).map(|lag| Action::Operate(m, lag, older)));
                    if self.blind() {
                        actions.push(Action::Operate(m, Lag::ALL, older));
                    }
                }
            }
        } else if state.disc[m].is_some() {
            actions.push(Action::Accept(m));
        }
        match machine.power {
            Power::Firmware => {
                actions.push(Action::Boot(m, Lag::NONE));
                if stale {
                    let lags = [Lag::of(true, true, false), Lag::of(true, false, false), Lag::of(false, true, false)];
                    actions.extend(self.lags(lags).map(|lag| Action::Boot(m, lag)));
                }
            }
            Power::Agent(Work::Idle) => {
                actions.push(Action::Poll(m, Lag::NONE));
                if stale && (self.rests > 0 || self.mutant == Some(Mutant::HandsOutFromCache)) {
                    actions.push(Action::Poll(m, Lag::of(true, false, false)));
                }
                if state.reading[m].is_some() {
                    actions.extend([Action::HandOut(m, true), Action::HandOut(m, false)]);
                }
            }
            Power::Agent(Work::Doing(_)) => {
                actions.push(Action::End(m, Ending::Succeeds));
                if state.left.failures > 0 {
                    actions.extend([Ending::Fails, Ending::FailsBlindly, Ending::NotProven].map(|e| Action::End(m, e)));
                }
            }
            Power::Agent(Work::Done(_)) => actions.push(Action::Report(m)),
            Power::System(_) => actions.push(Action::ComeBack(m)),
            Power::Off => {}
        }
        if self.rests > 0
            && let Some(hw) = state.hw[m]
        {
            self.rest_actions(state, m, hw, actions);
        }
        if machine.power != Power::Firmware && state.left.crashes[m] > 0 {
            actions.push(Action::Crash(m));
        }
        if state.left.tampers > 0 && !matches!(machine.power, Power::Agent(Work::Doing(_))) {
            actions.push(Action::Tamper(m));
        }
        if state.left.consents > 0 {
            actions.push(Action::Consent(m));
        }
        if state.left.freezes > 0 {
            actions.push(Action::Freeze(m));
        }
        if state.left.restores > 0 && state.hw[m].is_some() {
            actions.push(Action::LoseStatus(m));
            if state.old_view(m).is_some() {
                actions.extend([Action::RestoreHardware(m), Action::RestoreDiscovery(m)]);
            }
        }
    }
}
