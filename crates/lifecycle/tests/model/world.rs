//! The world: machines with their disks, instances, objects, and everybody who acts on them.
//!
//! What happens in one step, and why that is fine:
//! * An operator decides on a machine or an instance and makes at most one deciding write. Nobody is ever forced to act, so a crash of an operator or a replica at any point is a step that
//!   is not taken: neither keeps anything that is not in an object.
//! * One operator and one replica see the present. The other operator and the other replica may hold an old snapshot of one machine's world (`frozen`), taken at any time; the operator's write of an
//!   object still needs the object's present version. So does a write that was decided long ago: that is why deciding on old facts and the present object covers it.
//! * A replica reads the hardware object, then notes the acceptance by compare and swap in the discovery, then answers: the read and the rest are two steps, and the answer may be lost.
//! * An agent looks and begins in one step, ends in another, reports in a third; between any two the machine may lose its power.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
};

use agent_protocol::{
    disk::{ContentsState, DiskContents},
    order::{Order, OrderKind, OrderResult, Outcome},
};
use api::{BareMetalDiscovery, BareMetalHardware, BareMetalInstance, HardwarePhase};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stateright::{Model, Property};

use crate::{
    decide::{self, BootTold, InstanceWrite, Told, View, hardware_says, instance_says},
    mutants::Mutant,
    objects::{self, Id, number, object, renamed, session_time},
};

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Violation {
    TwoMachines,
    TwoInstances,
    ActWithoutOrder,
    ContentsNotNamed,
    ActOnUnaccepted,
    ActForGoneClaim,
    LivingDataErased,
    RunningUnverified,
    ToldToBootUnverified,
    FreedWithoutEvidence,
    WrittenTwice,
    ClaimTakenUpAgain,
    GoneWhileClaimed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Work {
    Idle,
    Doing(Id),
    Done(Id),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Power {
    /// In firmware: asks what to boot.
    Firmware,
    Agent(Work),
    /// Runs the system on its disk.
    System(u8),
}

/// A machine as it really is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Machine {
    power: Power,
    disk: Id,
    sessions: u8,
    orders: u8,
    /// Instances whose data lies on the disk, as bits.
    data: u8,
    /// For whom a whole, verified image stands there.
    whole: Option<u8>,
    /// For whom the latest erase was really done since data was written.
    erased_for: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Frozen {
    machine: u8,
    view: View,
}

/// One state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    hw: [Option<Id>; 2],
    disc: [Option<Id>; 2],
    inst: [Option<Id>; 2],
    born: [bool; 2],
    told_to_boot: [bool; 2],
    released: [bool; 2],
    machine: [Machine; 2],
    reading: [Option<Id>; 2],
    frozen: Option<Frozen>,
    reboots_left: [u8; 2],
    freezes_left: u8,
    failures_left: u8,
    restores_left: u8,
    force_left: u8,
    tampers_left: u8,
    violation: Option<Violation>,
}

/// Everything that can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Create(usize),
    Delete(usize),
    Force(usize),
    Accept(usize),
    Boot(usize, bool),
    Poll(usize, bool),
    HandOut(usize, bool),
    Finish(usize),
    Fail(usize),
    Report(usize),
    Reboot(usize),
    ComeBack(usize),
    Operate(usize, bool),
    Tend(usize, bool),
    Bind(usize, usize, bool),
    Freeze(usize),
    /// Somebody puts another disk's data there.
    Tamper(usize),
    LoseStatus(usize),
    RestoreHardware(usize),
    RestoreDiscovery(usize),
    LoseInstanceStatus(usize),
}

/// Bounds of one run.
#[derive(Clone, Debug)]
pub struct World {
    pub machines: usize,
    pub instances: usize,
    /// Power losses of each machine at any point.
    pub reboots: u8,
    /// Snapshots that the stale operator and the stale replica may take.
    pub freezes: u8,
    /// Orders that fail half way.
    pub failures: u8,
    /// Backups restored over one object.
    pub restores: u8,
    /// Whether an instance may be released by force.
    pub forced: u8,
    /// Times that somebody else's data appears on a disk.
    pub tampers: u8,
    /// Orders written per machine; beyond lies nothing new.
    pub max_orders: u8,
    /// Whether the first machine's disk holds data that nobody gave up.
    pub foreign: bool,
    pub mutant: Option<Mutant>,
    /// States from which every deletion is known to end.
    pub ends: Arc<Mutex<HashSet<u64>>>,
}

impl World {
    pub fn new(machines: usize, instances: usize) -> Self {
        Self {
            machines,
            instances,
            reboots: 0,
            freezes: 0,
            failures: 0,
            restores: 0,
            forced: 0,
            tampers: 0,
            max_orders: 6,
            foreign: false,
            mutant: None,
            ends: Arc::default(),
        }
    }

    fn blind(&self) -> bool {
        self.mutant == Some(Mutant::WritesBlindly)
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

    fn stale_view(&self, m: usize) -> Option<View> {
        self.frozen.filter(|f| usize::from(f.machine) == m).map(|f| f.view)
    }

    fn sees(&self, m: usize, stale: bool) -> Option<View> {
        if stale { self.stale_view(m) } else { Some(self.view(m)) }
    }

    fn fault(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    fn write_discovery(&mut self, m: usize, disc: Id) {
        if self.disc[m] != Some(disc) {
            self.disc[m] = Some(disc);
            // Its compare and swap would fail now.
            self.reading[m] = None;
        }
    }

    fn write_hardware(&mut self, m: usize, new: Id, world: &World) {
        let before = self.hw[m].map(hardware_says);
        let after = hardware_says(new);
        let old_claim = before.and_then(|b| b.claim);
        if let Some(i) = after.claim
            && old_claim != Some(i)
        {
            if old_claim.is_some() {
                self.fault(Violation::TwoInstances);
            }
            if self.released[i] {
                self.fault(Violation::ClaimTakenUpAgain);
            }
            if (0..world.machines).any(|o| o != m && self.hw[o].is_some_and(|h| hardware_says(h).claim == Some(i))) {
                self.fault(Violation::TwoMachines);
            }
            // A system of another instance on the disk, and no release of it.
            let other = self.machine[m].data & !(1 << i);
            let living = (0..world.instances).any(|o| other & (1 << o) != 0 && self.inst[o].is_some_and(|x| !instance_says(x).deleting));
            if living && after.claim != self.machine[m].whole.map(usize::from) && self.machine[m].whole.is_some() {
                self.fault(Violation::TwoInstances);
            }
        }
        let machine = self.machine[m];
        if let Some(i) = old_claim
            && after.claim != Some(i)
        {
            self.released[i] |= after.released & (1 << i) != 0;
            let proven = machine.erased_for == u8::try_from(i).ok() && after.erased_for == Some(i);
            if machine.data & (1 << i) != 0 && after.phase != HardwarePhase::Quarantined {
                self.fault(Violation::FreedWithoutEvidence);
            }
            if machine.erased_for == u8::try_from(i).ok() && !proven && after.phase != HardwarePhase::Quarantined {
                self.fault(Violation::FreedWithoutEvidence);
            }
        }
        if after.free && machine.data != 0 && world.restores == 0 {
            self.fault(Violation::FreedWithoutEvidence);
        }
        self.hw[m] = Some(new);
    }

    fn write_instance(&mut self, i: usize, write: InstanceWrite, world: &World) {
        match write {
            InstanceWrite::Gone => {
                let claimed = (0..world.machines).any(|m| self.hw[m].is_some_and(|h| hardware_says(h).claim == Some(i)));
                let acknowledged = self.inst[i].is_some_and(|x| instance_says(x).claimed);
                if claimed && acknowledged {
                    self.fault(Violation::GoneWhileClaimed);
                }
                self.inst[i] = None;
            }
            InstanceWrite::New(new) => {
                let (before, after) = (self.inst[i].map(instance_says), instance_says(new));
                let moved = before.and_then(|b| b.machine).is_some_and(|old| after.machine != Some(old));
                if moved {
                    self.fault(Violation::TwoMachines);
                }
                if after.running && !before.is_some_and(|b| b.running) && !self.told_to_boot[i] {
                    self.fault(Violation::RunningUnverified);
                }
                self.inst[i] = Some(new);
            }
        }
    }

    /// The agent begins a destructive order, if the disk is what the order says.
    fn begin(&mut self, m: usize, order_id: Id, world: &World) {
        let order = object::<Order>(order_id);
        let machine = self.machine[m];
        let disk = object::<DiskContents>(machine.disk);
        let permitted = order.disk.as_ref().is_some_and(|d| d.permits(&order.id, &disk));
        if !permitted && world.mutant != Some(Mutant::AgentDoesNotLook) {
            let refused = objects::result(&order, Outcome::Refused, (*disk).clone());
            self.machine[m].power = Power::Agent(Work::Done(number(refused)));
            return;
        }
        let claim = order.claim.as_ref().and_then(|c| objects::instance_of(&c.uid));
        self.judge_act(m, &order, claim, permitted, &disk);
        if order.kind == OrderKind::Image
            && let Some(i) = claim
        {
            self.machine[m].data |= 1 << i;
            self.machine[m].erased_for = None;
        }
        self.machine[m].whole = None;
        self.machine[m].disk = number(objects::left_by(&order, ContentsState::Interrupted));
        self.machine[m].power = Power::Agent(Work::Doing(order_id));
    }

    fn judge_act(&mut self, m: usize, order: &Order, claim: Option<usize>, permitted: bool, disk: &DiskContents) {
        let machine = self.machine[m];
        if self.hw[m].is_none() {
            self.fault(Violation::ActOnUnaccepted);
        }
        let salt = order.id.rsplit('-').next().and_then(|s| u64::from_str_radix(s, 16).ok());
        if salt.is_none_or(|s| s >= u64::from(machine.orders)) {
            self.fault(Violation::ActWithoutOrder);
        }
        if !permitted {
            self.fault(Violation::ContentsNotNamed);
        }
        if disk.state == ContentsState::Foreign {
            self.fault(Violation::LivingDataErased);
        }
        let alive = |i: usize| self.inst[i].is_some_and(|x| !instance_says(x).deleting);
        let others = (0..2).any(|i| machine.data & (1 << i) != 0 && claim != Some(i) && alive(i));
        let own_alive = order.kind == OrderKind::Erase && claim.is_some_and(|i| machine.data & (1 << i) != 0 && alive(i));
        if others || own_alive {
            self.fault(Violation::LivingDataErased);
        }
        if let Some(i) = claim {
            if self.inst[i].is_none() {
                self.fault(Violation::ActForGoneClaim);
            }
            if order.kind == OrderKind::Image && machine.whole.map(usize::from) == Some(i) {
                self.fault(Violation::WrittenTwice);
            }
        }
    }

    fn finish(&mut self, m: usize, order_id: Id, failed: bool) {
        let order = object::<Order>(order_id);
        let claim = order
            .claim
            .as_ref()
            .and_then(|c| objects::instance_of(&c.uid))
            .and_then(|i| u8::try_from(i).ok());
        let result = if failed {
            let left = object::<DiskContents>(self.machine[m].disk);
            objects::result(&order, Outcome::Failed, (*left).clone())
        } else {
            let contents = match order.kind {
                OrderKind::Image => {
                    self.machine[m].whole = claim;
                    objects::left_by(&order, ContentsState::Marked)
                }
                OrderKind::Erase | OrderKind::Wait | OrderKind::Reboot | OrderKind::PowerOff => {
                    self.machine[m].data = 0;
                    self.machine[m].erased_for = claim;
                    DiskContents::blank()
                }
            };
            self.machine[m].disk = number(contents.clone());
            objects::result(&order, Outcome::Succeeded, contents)
        };
        self.machine[m].power = Power::Agent(Work::Done(number(result)));
    }

    /// Stored only for the order that was accepted last; else the agent is told that its order is stale.
    fn report(&mut self, m: usize, result: Id) {
        let result = object::<OrderResult>(result);
        self.machine[m].power = Power::Agent(Work::Idle);
        let Some(disc) = self.disc[m] else { return };
        let mut disc = (*object::<BareMetalDiscovery>(disc)).clone();
        let seen = disc.status.get_or_insert_default();
        if seen.accepted_order.as_ref().is_some_and(|a| a.id == result.order_id) {
            seen.result = Some((*result).clone());
            seen.result_time = Some(Time(session_time(self.machine[m].sessions)));
            self.write_discovery(m, number(disc));
        }
    }

    fn boot(&mut self, m: usize, hw: Option<Id>, world: &World) {
        match decide::boot(world.mutant, m, self.disc[m], hw, self.machine[m].sessions) {
            BootTold::Disk(instance, recorded) => {
                self.write_discovery(m, recorded);
                if let Some(i) = instance {
                    if self.machine[m].whole.map(usize::from) != Some(i) {
                        self.fault(Violation::ToldToBootUnverified);
                    }
                    self.told_to_boot[i] = true;
                }
                if let Some(i) = self.machine[m].whole {
                    self.machine[m].power = Power::System(i);
                }
            }
            BootTold::Agent => {
                let n = self.machine[m].sessions + 1;
                self.machine[m].sessions = n;
                let mut disc = match self.disc[m] {
                    Some(known) => (*object::<BareMetalDiscovery>(known)).clone(),
                    None => objects::discovery(m),
                };
                let seen = disc.status.get_or_insert_default();
                let disk = object::<DiskContents>(self.machine[m].disk);
                seen.inventory = Some(objects::inventory(m, (*disk).clone()));
                seen.session = Some(objects::session(m, n));
                self.write_discovery(m, number(disc));
                self.machine[m].power = Power::Agent(Work::Idle);
            }
        }
    }

    /// The state in a few lines, for people.
    pub fn tell(&self) -> String {
        let mut lines = Vec::new();
        for m in 0..2 {
            let Some(disc) = self.disc[m] else { continue };
            let machine = self.machine[m];
            let disk = object::<DiskContents>(machine.disk);
            let marker = disk.marker.as_ref().map(|x| (x.instance_uid.clone(), x.order_id.clone()));
            lines.push(format!("m{m} {:?} disk {:?} {marker:?} data {:b} whole {:?}", machine.power, disk.state, machine.data, machine.whole));
            let disc = object::<BareMetalDiscovery>(disc);
            let seen = disc.status.clone().unwrap_or_default();
            lines.push(format!(
                "   seen: session {:?} accepted {:?} result {:?} boots {:?}",
                seen.session.map(|s| s.id),
                seen.accepted_order.map(|a| (a.id, a.session)),
                seen.result.map(|r| (r.order_id, r.outcome)),
                seen.boots.last().map(|b| (b.answer, b.time.0.as_second())),
            ));
            if let Some(hw) = self.hw[m] {
                let hw = object::<BareMetalHardware>(hw);
                let status = hw.status.clone().unwrap_or_default();
                lines.push(format!(
                    "   hw: claim {:?} {:?} {:?} claim_uid {:?} written {} installed {:?} released {:?} order {:?} erase {:?}",
                    hw.spec.claim_ref.as_ref().map(|c| &c.uid),
                    status.phase,
                    status.reason,
                    status.claim_uid,
                    status.written,
                    status.installed.map(|i| i.claim_uid),
                    status.released_claims,
                    status.order.map(|o| (o.id, o.kind)),
                    status.last_erase.map(|e| (e.order_id, e.claim_uid)),
                ));
            }
        }
        for i in self.inst.iter().flatten() {
            let inst = object::<BareMetalInstance>(*i);
            let status = inst.status.clone().unwrap_or_default();
            lines.push(format!(
                "{} on {:?} deleting {} claimed {} {:?} {:?}",
                inst.metadata.name.as_deref().unwrap_or_default(),
                inst.spec.hardware_name,
                inst.metadata.deletion_timestamp.is_some(),
                status.claimed,
                status.phase,
                status.reason
            ));
        }
        lines.push(format!("frozen {} reading {:?} violation {:?}", self.frozen.is_some(), self.reading, self.violation));
        lines.join("\n")
    }

    /// The same state with machines and instances renamed.
    fn renamed(&self, machines: bool, instances: bool) -> Self {
        let rename_view = |v: View| View {
            hw: v.hw.map(|x| renamed::<BareMetalHardware>(x, machines, instances)),
            disc: v.disc.map(|x| renamed::<BareMetalDiscovery>(x, machines, instances)),
            inst: flip(
                v.inst.map(|x| x.map(|x| renamed::<BareMetalInstance>(x, machines, instances))),
                instances,
            ),
        };
        let bit = |i: u8| if instances { i ^ 1 } else { i };
        let bits = |b: u8| if instances { (b & 1) << 1 | b >> 1 } else { b };
        let machine = |x: Machine| Machine {
            power: match x.power {
                Power::Firmware => Power::Firmware,
                Power::System(i) => Power::System(bit(i)),
                Power::Agent(Work::Idle) => Power::Agent(Work::Idle),
                Power::Agent(Work::Doing(o)) => Power::Agent(Work::Doing(renamed::<Order>(o, machines, instances))),
                Power::Agent(Work::Done(r)) => Power::Agent(Work::Done(renamed::<OrderResult>(r, machines, instances))),
            },
            disk: renamed::<DiskContents>(x.disk, machines, instances),
            data: bits(x.data),
            whole: x.whole.map(bit),
            erased_for: x.erased_for.map(bit),
            ..x
        };
        let hw = |x: [Option<Id>; 2]| flip(x.map(|x| x.map(|x| renamed::<BareMetalHardware>(x, machines, instances))), machines);
        Self {
            hw: hw(self.hw),
            disc: flip(
                self.disc.map(|x| x.map(|x| renamed::<BareMetalDiscovery>(x, machines, instances))),
                machines,
            ),
            inst: flip(
                self.inst.map(|x| x.map(|x| renamed::<BareMetalInstance>(x, machines, instances))),
                instances,
            ),
            born: flip(self.born, instances),
            told_to_boot: flip(self.told_to_boot, instances),
            released: flip(self.released, instances),
            machine: flip(self.machine.map(machine), machines),
            reading: hw(self.reading),
            frozen: self.frozen.map(|f| Frozen {
                machine: if machines { f.machine ^ 1 } else { f.machine },
                view: rename_view(f.view),
            }),
            reboots_left: flip(self.reboots_left, machines),
            ..self.clone()
        }
    }

    fn order_key(&self) -> impl Ord + use<> {
        let number = |x: Option<Id>| x.map(|i| i.0);
        (
            self.hw.map(number),
            self.disc.map(number),
            self.inst.map(number),
            self.machine
                .map(|m| (m.disk.0, m.sessions, m.orders, m.data, m.whole, m.erased_for)),
            self.reading.map(number),
            self.reboots_left,
            (self.born, self.told_to_boot, self.released),
            {
                let mut hasher = DefaultHasher::new();
                self.frozen.hash(&mut hasher);
                self.machine.map(|m| m.power).hash(&mut hasher);
                hasher.finish()
            },
        )
    }

    /// One of the states that differ in names only.
    fn canonical(self, world: &World) -> Self {
        // The decisions know one machine or instance from another by nothing but its name.
        let machines = world.machines == 2 && !world.foreign;
        let instances = world.instances == 2;
        let mut best = self;
        let mut key = best.order_key();
        for (by_machine, by_instance) in [(true, false), (false, true), (true, true)] {
            if (by_machine && !machines) || (by_instance && !instances) {
                continue;
            }
            let other = best.renamed(by_machine, by_instance);
            let other_key = other.order_key();
            if other_key < key {
                (best, key) = (other, other_key);
            }
        }
        best
    }
}

fn flip<T>(pair: [T; 2], flip: bool) -> [T; 2] {
    let [a, b] = pair;
    if flip { [b, a] } else { [a, b] }
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
            sessions: 0,
            orders: 0,
            data: 0,
            whole: None,
            erased_for: None,
        };
        vec![State {
            hw: [None; 2],
            disc: [None; 2],
            inst: [None; 2],
            born: [false; 2],
            told_to_boot: [false; 2],
            released: [false; 2],
            machine: [machine(0), machine(1)],
            reading: [None; 2],
            frozen: None,
            reboots_left: [self.reboots; 2],
            freezes_left: self.freezes,
            failures_left: self.failures,
            restores_left: self.restores,
            force_left: self.forced,
            tampers_left: self.tampers,
            violation: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What comes after a violation is of no interest.
        if state.violation.is_some() {
            return;
        }
        for i in 0..self.instances {
            match state.inst[i] {
                None if !state.born[i] => actions.push(Action::Create(i)),
                None => {}
                Some(inst) => {
                    let says = instance_says(inst);
                    if !says.deleting {
                        actions.push(Action::Delete(i));
                    } else if state.force_left > 0 {
                        actions.push(Action::Force(i));
                    }
                    actions.push(Action::Tend(i, false));
                    if state.frozen.is_some() {
                        actions.push(Action::Tend(i, true));
                    }
                    let bindable = !says.deleting && (says.machine.is_none() || self.mutant == Some(Mutant::BindsAgain));
                    for m in (0..self.machines).filter(|_| bindable) {
                        actions.push(Action::Bind(i, m, false));
                        if state.stale_view(m).is_some() {
                            actions.push(Action::Bind(i, m, true));
                        }
                    }
                    if state.restores_left > 0 {
                        actions.push(Action::LoseInstanceStatus(i));
                    }
                }
            }
        }
        for m in 0..self.machines {
            self.machine_actions(state, m, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        self.step(&mut next, action)?;
        // An old snapshot that has become the present again is none.
        if let Some(frozen) = next.frozen
            && next.view(usize::from(frozen.machine)) == frozen.view
            && next.freezes_left == 0
            && !matches!(action, Action::Freeze(_))
        {
            next.frozen = None;
        }
        if next == *last {
            return None;
        }
        Some(next.canonical(self))
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.machine.iter().all(|m| m.orders <= self.max_orders)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($name:literal: $violation:ident),* $(,)?) => {
                vec![$(Property::always($name, |_: &Self, s: &State| s.violation != Some(Violation::$violation))),*]
            };
        }
        let mut all = never! {
            "an instance never gets two machines": TwoMachines,
            "a machine never gets two instances": TwoInstances,
            "no destructive act without an order": ActWithoutOrder,
            "no destructive act on contents that the order does not name": ContentsNotNamed,
            "no destructive act on a machine that is not accepted": ActOnUnaccepted,
            "no destructive act for a claim that is gone": ActForGoneClaim,
            "nothing that somebody still has is destroyed": LivingDataErased,
            "no instance says Running before its disk was verified and told to boot": RunningUnverified,
            "no machine is told to boot a disk that was not verified": ToldToBootUnverified,
            "no disk is freed without evidence": FreedWithoutEvidence,
            "an image that stands is not written again": WrittenTwice,
            "a released claim is never taken up again": ClaimTakenUpAgain,
            "no instance is gone while it has a machine": GoneWhileClaimed,
        };
        all.push(Property::always(
            "every deletion ends when the machine answers",
            |world: &Self, state: &State| world.deletions_end(state),
        ));
        // Without these the run would prove little.
        all.push(Property::sometimes("an instance runs", |_, s: &State| {
            s.inst.iter().flatten().any(|i| instance_says(*i).running)
        }));
        all.push(Property::sometimes("an instance is gone after it ran", |_, s: &State| {
            (0..2).any(|i| s.told_to_boot[i] && s.inst[i].is_none())
        }));
        if self.instances > self.machines {
            all.push(Property::sometimes(
                "a machine serves one instance after another",
                |_, s: &State| s.told_to_boot[0] && s.told_to_boot[1],
            ));
        }
        all
    }
}

impl World {
    fn machine_actions(&self, state: &State, m: usize, actions: &mut Vec<Action>) {
        let stale = state.stale_view(m).is_some();
        if state.hw[m].is_some() {
            actions.push(Action::Operate(m, false));
            if stale {
                actions.push(Action::Operate(m, true));
            }
        } else if state.disc[m].is_some() {
            actions.push(Action::Accept(m));
        }
        match state.machine[m].power {
            Power::Firmware => {
                actions.push(Action::Boot(m, false));
                if stale {
                    actions.push(Action::Boot(m, true));
                }
            }
            Power::Agent(work) => {
                match work {
                    Work::Idle => {
                        actions.push(Action::Poll(m, false));
                        if stale && self.mutant == Some(Mutant::HandsOutFromCache) {
                            actions.push(Action::Poll(m, true));
                        }
                        if state.reading[m].is_some() {
                            actions.push(Action::HandOut(m, true));
                            actions.push(Action::HandOut(m, false));
                        }
                    }
                    Work::Doing(_) => {
                        actions.push(Action::Finish(m));
                        if state.failures_left > 0 {
                            actions.push(Action::Fail(m));
                        }
                    }
                    Work::Done(_) => actions.push(Action::Report(m)),
                }
                if state.reboots_left[m] > 0 {
                    actions.push(Action::Reboot(m));
                }
            }
            Power::System(_) => {
                actions.push(Action::ComeBack(m));
                if state.reboots_left[m] > 0 {
                    actions.push(Action::Reboot(m));
                }
            }
        }
        if state.tampers_left > 0 && !matches!(state.machine[m].power, Power::Agent(Work::Doing(_))) {
            actions.push(Action::Tamper(m));
        }
        if state.freezes_left > 0 && state.hw[m].is_some() {
            actions.push(Action::Freeze(m));
        }
        if state.restores_left > 0 && state.hw[m].is_some() {
            actions.push(Action::LoseStatus(m));
            if stale {
                actions.push(Action::RestoreHardware(m));
                actions.push(Action::RestoreDiscovery(m));
            }
        }
    }

    /// Takes one step; `None` when it is not possible or changes nothing.
    fn step(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Create(i) => {
                s.born[i] = true;
                s.inst[i] = Some(number(objects::instance(i)));
            }
            Action::Delete(i) => self.delete(s, i)?,
            Action::Force(i) => {
                let mut inst = (*object::<BareMetalInstance>(s.inst[i]?)).clone();
                inst.spec.force_release = true;
                s.force_left -= 1;
                s.inst[i] = Some(number(inst));
            }
            Action::Accept(m) => s.hw[m] = Some(number(objects::accepted(m))),
            Action::Boot(m, stale) => {
                let hw = s.sees(m, stale)?.hw;
                s.boot(m, hw, self);
            }
            Action::Poll(m, stale) => {
                let hw = s.sees(m, stale)?.hw;
                match decide::poll(self.mutant, m, s.disc[m], hw) {
                    Told::Wait => return None,
                    Told::Reboot => {
                        s.machine[m].power = Power::Firmware;
                    }
                    Told::Destructive(..) => s.reading[m] = Some(hw.unwrap_or_else(|| number(objects::accepted(m)))),
                }
            }
            Action::HandOut(m, arrives) => {
                let read = s.reading[m].take()?;
                let hw = Some(read).filter(|_| s.hw[m].is_some() || self.mutant != Some(Mutant::HandsOutUnaccepted));
                if let Told::Destructive(order, disc) = decide::poll(self.mutant, m, s.disc[m], hw) {
                    s.write_discovery(m, disc);
                    if arrives {
                        s.begin(m, order, self);
                    }
                }
            }
            Action::Finish(m) | Action::Fail(m) => {
                let Power::Agent(Work::Doing(order)) = s.machine[m].power else {
                    return None;
                };
                let failed = matches!(action, Action::Fail(_));
                s.failures_left -= u8::from(failed);
                s.finish(m, order, failed);
            }
            Action::Report(m) => {
                let Power::Agent(Work::Done(result)) = s.machine[m].power else {
                    return None;
                };
                s.report(m, result);
            }
            Action::Reboot(m) => {
                s.reboots_left[m] -= 1;
                s.machine[m].power = Power::Firmware;
            }
            Action::ComeBack(m) => {
                let Power::System(i) = s.machine[m].power else { return None };
                if !decide::wanted_back(s.hw[m], usize::from(i)) {
                    return None;
                }
                s.machine[m].power = Power::Firmware;
            }
            Action::Operate(m, stale) => self.operate(s, m, stale)?,
            Action::Tend(i, stale) => self.tend(s, i, stale)?,
            Action::Bind(i, m, stale) => self.bind(s, i, m, stale)?,
            Action::Freeze(m) => {
                s.freezes_left -= 1;
                s.frozen = Some(Frozen {
                    machine: u8::try_from(m).ok()?,
                    view: s.view(m),
                });
            }
            Action::Tamper(m) => {
                s.tampers_left -= 1;
                let machine = &mut s.machine[m];
                machine.disk = number(objects::foreign());
                (machine.data, machine.whole, machine.erased_for) = (0, None, None);
                if matches!(machine.power, Power::System(_)) {
                    machine.power = Power::Firmware;
                }
            }
            Action::LoseStatus(_) | Action::RestoreHardware(_) | Action::RestoreDiscovery(_) | Action::LoseInstanceStatus(_) => {
                s.restores_left -= 1;
                self.restore(s, action)?;
            }
        }
        Some(())
    }

    fn delete(&self, s: &mut State, i: usize) -> Option<()> {
        let mut inst = (*object::<BareMetalInstance>(s.inst[i]?)).clone();
        if inst.metadata.finalizers.iter().flatten().next().is_none() {
            // Nothing holds it.
            s.write_instance(i, InstanceWrite::Gone, self);
            return Some(());
        }
        inst.metadata.deletion_timestamp = Some(Time(session_time(0)));
        s.inst[i] = Some(number(inst));
        Some(())
    }

    fn operate(&self, s: &mut State, m: usize, stale: bool) -> Option<()> {
        let view = View {
            // Compare and swap: what is written on is the present object.
            hw: if self.blind() { s.sees(m, stale)?.hw } else { s.hw[m] },
            ..s.sees(m, stale)?
        };
        let write = decide::hardware(self.mutant, view, s.machine[m].orders)?;
        s.machine[m].orders += u8::from(write.new_order);
        s.write_hardware(m, write.hw, self);
        Some(())
    }

    fn tend(&self, s: &mut State, i: usize, stale: bool) -> Option<()> {
        let inst = s.inst[i]?;
        let machine = instance_says(inst).machine;
        let view = match machine {
            Some(m) => Some(s.sees(m, stale)?),
            None => None,
        };
        let inst = if self.blind() {
            view.and_then(|v| v.inst[i]).unwrap_or(inst)
        } else {
            inst
        };
        let write = decide::instance(self.mutant, i, inst, view.and_then(|v| v.hw), view.and_then(|v| v.disc), None)?;
        s.write_instance(i, write, self);
        Some(())
    }

    fn bind(&self, s: &mut State, i: usize, m: usize, stale: bool) -> Option<()> {
        let view = s.sees(m, stale)?;
        let free = view.hw.is_some_and(|h| hardware_says(h).free);
        let spoken_for = view.inst.iter().flatten().any(|x| instance_says(*x).machine == Some(m));
        if !free || spoken_for {
            return None;
        }
        let place = u8::try_from(m).ok();
        let write = decide::instance(self.mutant, i, s.inst[i]?, None, None, place)?;
        s.write_instance(i, write, self);
        Some(())
    }

    fn restore(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::LoseStatus(m) => {
                let mut hw = (*object::<BareMetalHardware>(s.hw[m]?)).clone();
                hw.status.take()?;
                s.hw[m] = Some(number(hw));
            }
            Action::RestoreHardware(m) => s.hw[m] = Some(s.stale_view(m)?.hw?),
            Action::RestoreDiscovery(m) => {
                let disc = s.stale_view(m)?.disc?;
                s.write_discovery(m, disc);
            }
            Action::LoseInstanceStatus(i) => {
                let mut inst = (*object::<BareMetalInstance>(s.inst[i]?)).clone();
                inst.status.take()?;
                s.inst[i] = Some(number(inst));
            }
            _ => return None,
        }
        Some(())
    }

    /// From here, with everybody doing their work and nothing more going wrong: is every deleted instance gone in the end, and does the operator come to rest?
    fn deletions_end(&self, state: &State) -> bool {
        let deleting = |s: &State| s.inst.iter().flatten().any(|i| instance_says(*i).deleting);
        // Data that nobody gave up waits for a person, as it must.
        let foreign = number(objects::foreign());
        if !deleting(state) || state.violation.is_some() || state.machine.iter().any(|m| m.disk == foreign) {
            return true;
        }
        let mut s = State {
            frozen: None,
            freezes_left: 0,
            reboots_left: [0; 2],
            failures_left: 0,
            restores_left: 0,
            force_left: 0,
            tampers_left: 0,
            ..state.clone()
        };
        let mut passed = Vec::new();
        for _ in 0..60 {
            let mut hasher = DefaultHasher::new();
            s.hash(&mut hasher);
            let mark = hasher.finish();
            if self.ends.lock().is_ok_and(|known| known.contains(&mark)) {
                break;
            }
            passed.push(mark);
            if !self.fair_round(&mut s) {
                if deleting(&s) {
                    return false;
                }
                break;
            }
            if passed.len() == 60 {
                return false;
            }
        }
        if let Ok(mut known) = self.ends.lock() {
            known.extend(passed);
        }
        true
    }

    /// Everybody takes one step; whether anything changed.
    fn fair_round(&self, s: &mut State) -> bool {
        let before = s.clone();
        let go = |s: &mut State, action| {
            let kept = s.clone();
            if self.step(s, action).is_none() {
                *s = kept;
            }
        };
        for m in 0..self.machines {
            match s.machine[m].power {
                Power::Firmware => go(s, Action::Boot(m, false)),
                Power::Agent(Work::Idle) => {
                    go(s, Action::Poll(m, false));
                    go(s, Action::HandOut(m, true));
                }
                Power::Agent(Work::Doing(_)) => go(s, Action::Finish(m)),
                Power::Agent(Work::Done(_)) => go(s, Action::Report(m)),
                Power::System(_) => go(s, Action::ComeBack(m)),
            }
            go(s, Action::Operate(m, false));
        }
        for i in 0..self.instances {
            go(s, Action::Tend(i, false));
        }
        *s != before
    }
}
