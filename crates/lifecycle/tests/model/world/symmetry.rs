//! States that stand for many: names, numbers of sessions, old snapshots that tell nothing, and machines that cannot meet any more.
//!
//! * **Names.** No decision looks at a name except to compare it (which of two rivals is older is tried both ways, see `Action::Operate`), so states that differ
//!   in who is called what are one.
//! * **Sessions** and **orders** are counted anew in every state (see `time`).
//! * **Machines that cannot meet.** A decision about a machine gets that machine's objects, and of the instances the one that its claim names or one that names the
//!   machine. A decision about an instance gets the machine that it names. So when every instance is bound or gone for good and no claim names an instance of the other
//!   machine, nothing that one machine and its instances do can be seen by the other again, and every invariant speaks of one of them only: following each alone
//!   shows all that following both at once would show. A bound instance never becomes unbound (that is checked at every write, before and after), nor does an instance
//!   come back. Worlds with restored backups or planted bugs do without this.

use agent_protocol::{disk::DiskContents, order::Order, order::OrderResult};
use api::{BareMetalDiscovery, BareMetalHardware, BareMetalInstance};

use crate::{
    decide::{View, hardware_says, instance_says, session_of},
    objects,
    table::{Id, Salts, listed, number, renamed, resalted, salts},
    time::{Sessions, is_squeezed, retimed, squeezed},
};

use super::{MANY, Machine, Power, State, Work, World};

impl World {
    /// Whether the machines cannot meet any more.
    pub(super) fn goes_apart(&self, s: &State) -> bool {
        if !self.apart || self.mutant.is_some() || self.restores > 0 || s.absent != [false; 2] || s.born != [true; 2] {
            return false;
        }
        let machine_of = |i: usize| s.inst[i].map(|x| instance_says(x).machine);
        let bound = (0..2).all(|i| machine_of(i) != Some(None));
        let own = |m: usize| {
            let claim = s.hw[m].and_then(|h| hardware_says(h).claim);
            claim.and_then(machine_of).flatten().is_none_or(|of| of == m)
        };
        bound && own(0) && own(1)
    }
}

impl State {
    /// Leaves the other machine and its instances out.
    pub(super) fn keep_only(&mut self, m: usize, stale_steps: u8) {
        let other = 1 - m;
        for i in 0..2 {
            if self.inst[i].is_some_and(|x| instance_says(x).machine != Some(m)) {
                self.inst[i] = None;
                self.told_to_boot[i] = false;
                self.asked[i] = 0;
                self.released[i] = false;
                if let Some(frozen) = &mut self.frozen {
                    frozen.view.inst[i] = None;
                }
            }
        }
        self.frozen = self.frozen.filter(|f| usize::from(f.machine) == m);
        if self.frozen.is_none() {
            self.left.stale_steps = stale_steps;
        }
        self.hw[other] = None;
        self.disc[other] = None;
        self.reading[other] = None;
        self.absent[other] = true;
        self.left.crashes[other] = 0;
        self.machine[other] = Machine {
            power: Power::Firmware,
            disk: number(DiskContents::blank()),
            session: 0,
            data: 0,
            wrote: 0,
            whole: None,
            erased: None,
            kept: None,
            given_up: false,
        };
    }

    /// An old snapshot that has become the present again is none.
    pub(super) fn forget_snapshot(&mut self, stale_steps: u8) {
        if let Some(frozen) = self.frozen
            && matches!(self.left.freezes, 0 | MANY)
            && self.view(usize::from(frozen.machine)) == frozen.view
        {
            self.frozen = None;
            self.left.stale_steps = stale_steps;
        }
    }

    /// Counts each machine's sessions anew.
    pub(super) fn squeeze(&mut self) {
        for m in 0..2 {
            let own = self.machine[m].session;
            let old = self.old_view(m).and_then(|v| v.disc);
            let used: Sessions = [Some(own), self.disc[m].map(session_of), old.map(session_of)]
                .into_iter()
                .flatten()
                .fold(0, |bits, n| bits | 1 << n)
                & !1;
            if is_squeezed(used) {
                continue;
            }
            let machine_of = |x: Id| instance_says(x).machine == Some(m);
            let inst = |x: Option<Id>| {
                x.map(|x| {
                    if machine_of(x) {
                        retimed::<BareMetalInstance>(x, m, used)
                    } else {
                        x
                    }
                })
            };
            let hw = |x: Option<Id>| x.map(|x| retimed::<BareMetalHardware>(x, m, used));
            let disc = |x: Option<Id>| x.map(|x| retimed::<BareMetalDiscovery>(x, m, used));
            self.machine[m].session = squeezed(own, used);
            self.hw[m] = hw(self.hw[m]);
            self.reading[m] = hw(self.reading[m]);
            self.disc[m] = disc(self.disc[m]);
            self.inst = self.inst.map(inst);
            if let Some(frozen) = &mut self.frozen {
                frozen.view.inst = frozen.view.inst.map(inst);
                if usize::from(frozen.machine) == m {
                    frozen.view.hw = hw(frozen.view.hw);
                    frozen.view.disc = disc(frozen.view.disc);
                }
            }
        }
    }

    /// New numbers for the orders of a machine, in four bits for each old one, in the order in which they are mentioned; 15 for an order of which nobody speaks any more. A
    /// restored backup, too, speaks.
    pub(super) fn numbers_of_orders(&self, m: usize) -> Salts {
        let mut numbers = Salts::MAX;
        let mut next = 0;
        let mut mention = |salt: u64| {
            if numbers >> (4 * salt) & 15 == 15 {
                numbers = numbers & !(15 << (4 * salt)) | next << (4 * salt);
                next += 1;
            }
        };
        let work = match self.machine[m].power {
            Power::Agent(Work::Doing(id) | Work::Done(id)) => Some(id),
            Power::Firmware | Power::Off | Power::Agent(Work::Idle) | Power::System(_) => None,
        };
        let old = self.old_view(m);
        let old = [old.and_then(|v| v.disc), old.and_then(|v| v.hw)];
        let mentions = [
            self.disc[m],
            self.hw[m],
            self.reading[m],
            work,
            self.machine[m].kept,
            Some(self.machine[m].disk),
        ];
        for id in mentions.into_iter().chain(old).flatten() {
            listed(salts(id, m)).for_each(&mut mention);
        }
        if let Some((salt, _)) = self.machine[m].erased {
            mention(u64::from(salt));
        }
        numbers
    }

    /// Numbers each machine's orders anew: nobody asks more of an order's id than whether it is the same.
    pub(super) fn number_orders(&mut self) {
        for m in 0..2 {
            let numbers = self.numbers_of_orders(m);
            let hw = |x: Option<Id>| x.map(|x| resalted::<BareMetalHardware>(x, m, numbers));
            let disc = |x: Option<Id>| x.map(|x| resalted::<BareMetalDiscovery>(x, m, numbers));
            self.hw[m] = hw(self.hw[m]);
            self.reading[m] = hw(self.reading[m]);
            self.disc[m] = disc(self.disc[m]);
            let machine = &mut self.machine[m];
            machine.disk = resalted::<DiskContents>(machine.disk, m, numbers);
            machine.kept = machine.kept.map(|r| resalted::<OrderResult>(r, m, numbers));
            machine.power = match machine.power {
                Power::Agent(Work::Doing(o)) => Power::Agent(Work::Doing(resalted::<Order>(o, m, numbers))),
                Power::Agent(Work::Done(r)) => Power::Agent(Work::Done(resalted::<OrderResult>(r, m, numbers))),
                other => other,
            };
            machine.erased = machine
                .erased
                .map(|(salt, i)| (u8::try_from(numbers >> (4 * salt) & 15).expect("four bits"), i));
            if let Some(frozen) = &mut self.frozen
                && usize::from(frozen.machine) == m
            {
                frozen.view.hw = hw(frozen.view.hw);
                frozen.view.disc = disc(frozen.view.disc);
            }
        }
    }

    /// The same state with machines and instances renamed.
    fn renamed(&self, machines: bool, instances: bool) -> Self {
        let hw = |x: Option<Id>| x.map(|x| renamed::<BareMetalHardware>(x, machines, instances));
        let disc = |x: Option<Id>| x.map(|x| renamed::<BareMetalDiscovery>(x, machines, instances));
        let inst = |x: Option<Id>| x.map(|x| renamed::<BareMetalInstance>(x, machines, instances));
        let bit = |i: u8| if instances { i ^ 1 } else { i };
        let bits = |b: u8| if instances { (b & 1) << 1 | b >> 1 } else { b };
        let machine = |x: Machine| Machine {
            power: match x.power {
                Power::Firmware => Power::Firmware,
                Power::Off => Power::Off,
                Power::System(i) => Power::System(bit(i)),
                Power::Agent(Work::Idle) => Power::Agent(Work::Idle),
                Power::Agent(Work::Doing(o)) => Power::Agent(Work::Doing(renamed::<Order>(o, machines, instances))),
                Power::Agent(Work::Done(r)) => Power::Agent(Work::Done(renamed::<OrderResult>(r, machines, instances))),
            },
            disk: renamed::<DiskContents>(x.disk, machines, instances),
            data: bits(x.data),
            wrote: bits(x.wrote),
            whole: x.whole.map(bit),
            erased: x.erased.map(|(salt, i)| (salt, bit(i))),
            kept: x.kept.map(|r| renamed::<OrderResult>(r, machines, instances)),
            ..x
        };
        let mut left = self.left;
        left.crashes = flip(left.crashes, machines);
        Self {
            hw: flip(self.hw.map(hw), machines),
            disc: flip(self.disc.map(disc), machines),
            inst: flip(self.inst.map(inst), instances),
            reading: flip(self.reading.map(hw), machines),
            machine: flip(self.machine.map(machine), machines),
            absent: flip(self.absent, machines),
            frozen: self.frozen.map(|f| super::Frozen {
                machine: if machines { f.machine ^ 1 } else { f.machine },
                view: View {
                    hw: hw(f.view.hw),
                    disc: disc(f.view.disc),
                    inst: flip(f.view.inst.map(inst), instances),
                },
            }),
            born: flip(self.born, instances),
            told_to_boot: flip(self.told_to_boot, instances),
            asked: flip(self.asked, instances),
            released: flip(self.released, instances),
            left,
            violation: self.violation,
        }
    }

    /// One of the states that differ in names only.
    pub(super) fn canonical(self) -> Self {
        let mut best = self;
        for (machines, instances) in [(true, false), (false, true), (true, true)] {
            let other = self.renamed(machines, instances);
            if other < best {
                best = other;
            }
        }
        best
    }
}

fn flip<T>(pair: [T; 2], flip: bool) -> [T; 2] {
    let [a, b] = pair;
    if flip { [b, a] } else { [a, b] }
}

/// Whether nothing but data that nobody gave up keeps a machine waiting.
pub(super) fn holds_foreign_data(s: &State) -> bool {
    let foreign = number(objects::foreign());
    s.machine.iter().any(|m| m.disk == foreign && !m.given_up)
}
