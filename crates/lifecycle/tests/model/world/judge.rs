//! The invariants: what must never happen, judged at the step that does it and against what really lies on the disks.

use agent_protocol::disk::ContentsState;
use api::HardwarePhase;
use stateright::Property;

use crate::{
    decide::{self, Beginning, Ending, HardwareWrite, InstanceWrite, hardware_says, instance_says},
    mutants::Mutant,
    objects,
    table::{Id, number},
};

use super::{Lag, Power, Sight, State, Work, World};

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
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
    OffWhileNeeded,
}

pub(super) fn properties() -> Vec<Property<World>> {
    macro_rules! never {
        ($($name:literal: $violation:ident),* $(,)?) => {
            vec![$(Property::always($name, |_: &World, s: &State| s.violation != Some(Violation::$violation))),*]
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
        "no disk is freed without evidence of that claim and order": FreedWithoutEvidence,
        "an image that stands is not written again but once for each time that somebody asked for it": WrittenTwice,
        "a released claim is never taken up again": ClaimTakenUpAgain,
        "no instance is gone while it has a machine": GoneWhileClaimed,
        "no machine that an instance has is switched off": OffWhileNeeded,
    };
    all.push(Property::always(
        "a machine that is off comes when an instance has it",
        |world: &World, state: &State| world.those_needed_come(state),
    ));
    all.push(Property::always(
        "every deletion ends when the machine answers",
        |world: &World, state: &State| !world.ends || world.deletions_end(state),
    ));
    all
}

impl State {
    fn fault(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    pub(super) fn write_hardware(&mut self, m: usize, write: HardwareWrite, world: &World) {
        let before = self.hw[m].map(hardware_says);
        let after = hardware_says(write.hw);
        let old_claim = before.and_then(|b| b.claim);
        if let Some(i) = after.claim
            && old_claim != Some(i)
        {
            self.judge_claim(m, i, old_claim.is_some(), world.restores);
        }
        let machine = self.machine[m];
        let newly_released = after.released & !before.map_or(0, |b| b.released);
        for i in (0..2u8).filter(|i| newly_released & (1 << i) != 0) {
            // By force, or because no erase could be proven: then the machine is not free.
            let quarantined = after.phase == HardwarePhase::Quarantined;
            let written = machine.wrote & (1 << i) != 0;
            let proven = machine
                .erased
                .is_some_and(|(salt, for_whom)| for_whom == i && write.evidence == Some((salt, Some(i))));
            if written && !quarantined && !proven {
                self.fault(Violation::FreedWithoutEvidence);
            }
            world.sees(if quarantined {
                Sight::Quarantined
            } else {
                Sight::ErasedWithEvidence
            });
            self.machine[m].wrote &= !(1 << i);
            self.released[usize::from(i)] = true;
        }
        if let Some(i) = old_claim
            && after.claim != Some(i)
        {
            if machine.data & (1 << i) != 0 && after.phase != HardwarePhase::Quarantined {
                self.fault(Violation::FreedWithoutEvidence);
            }
            self.machine[m].erased = None;
        }
        // An older backup may say free; the claim and the marker then keep the disk.
        if after.free && machine.data != 0 && world.restores == 0 {
            self.fault(Violation::FreedWithoutEvidence);
        }
        self.hw[m] = Some(write.hw);
    }

    fn judge_claim(&mut self, m: usize, i: usize, over_another: bool, restores: u8) {
        if over_another {
            self.fault(Violation::TwoInstances);
        }
        // A backup may have lost the record of the release; then the claim comes back, and is released once more.
        if self.released[i] && restores == 0 {
            self.fault(Violation::ClaimTakenUpAgain);
        }
        if (0..2).any(|o| o != m && self.hw[o].is_some_and(|h| hardware_says(h).claim == Some(i))) {
            self.fault(Violation::TwoMachines);
        }
        // A system of another instance on the disk, and no release of it.
        let machine = self.machine[m];
        let other = machine.data & !(1 << i);
        let living = (0..2).any(|o| other & (1 << o) != 0 && self.inst[o].is_some_and(|x| !instance_says(x).deleting));
        if living && machine.whole.is_some() && Some(i) != machine.whole.map(usize::from) {
            self.fault(Violation::TwoInstances);
        }
    }

    pub(super) fn write_instance(&mut self, i: usize, write: InstanceWrite, world: &World) {
        match write {
            InstanceWrite::Gone => {
                let claimed = (0..2).any(|m| self.hw[m].is_some_and(|h| hardware_says(h).claim == Some(i)));
                let acknowledged = self.inst[i].is_some_and(|x| instance_says(x).claimed);
                if claimed && acknowledged {
                    self.fault(Violation::GoneWhileClaimed);
                }
                if self.told_to_boot[i] {
                    world.sees(Sight::GoneAfterRunning);
                }
                self.inst[i] = None;
            }
            InstanceWrite::New(new) => {
                let (before, after) = (self.inst[i].map(instance_says), instance_says(new));
                let moved = before.and_then(|b| b.machine).is_some_and(|old| after.machine != Some(old));
                if moved {
                    self.fault(Violation::TwoMachines);
                }
                if after.running {
                    world.sees(Sight::Runs);
                    if !before.is_some_and(|b| b.running) && !self.told_to_boot[i] {
                        self.fault(Violation::RunningUnverified);
                    }
                }
                self.inst[i] = Some(new);
            }
        }
    }

    /// The agent begins a destructive order, if the disk is what the order says.
    pub(super) fn begin(&mut self, m: usize, order: Id, world: &World) {
        if let Some(kept) = self.machine[m].kept.filter(|r| decide::answers(*r, order)) {
            self.machine[m].power = Power::Agent(Work::Done(kept));
            return;
        }
        let begins = decide::begin(order, self.machine[m].disk);
        if !begins.permitted && world.mutant != Some(Mutant::AgentDoesNotLook) {
            world.sees(Sight::OrderRefused);
            self.machine[m].power = Power::Agent(Work::Done(begins.refused));
            return;
        }
        self.judge_act(m, begins);
        let machine = &mut self.machine[m];
        if let (true, Some(i)) = (begins.image, begins.claim) {
            if machine.data & !(1 << i) == 0 && self.released[usize::from(1 - i)] {
                world.sees(Sight::ServesAgain);
            }
            if machine.whole == Some(i) {
                world.sees(Sight::WrittenAgain);
                self.asked[usize::from(i)] = self.asked[usize::from(i)].saturating_sub(1);
            }
            machine.data |= 1 << i;
            machine.wrote |= 1 << i;
            // What it was told to boot before is gone.
            self.told_to_boot[usize::from(i)] = false;
        }
        machine.whole = None;
        machine.erased = None;
        machine.disk = begins.disk;
        machine.power = Power::Agent(Work::Doing(order));
    }

    fn judge_act(&mut self, m: usize, begins: Beginning) {
        let machine = self.machine[m];
        if self.hw[m].is_none() {
            self.fault(Violation::ActOnUnaccepted);
        }
        if begins.salt >= 15 {
            self.fault(Violation::ActWithoutOrder);
        }
        if !begins.permitted {
            self.fault(Violation::ContentsNotNamed);
        }
        if begins.found == ContentsState::Foreign && !machine.given_up {
            self.fault(Violation::LivingDataErased);
        }
        let alive = |i: u8| self.inst[usize::from(i)].is_some_and(|x| !instance_says(x).deleting);
        let others = (0..2).any(|i| machine.data & (1 << i) != 0 && begins.claim != Some(i) && alive(i));
        let own_alive = !begins.image && begins.claim.is_some_and(|i| machine.data & (1 << i) != 0 && alive(i));
        if others || own_alive {
            self.fault(Violation::LivingDataErased);
        }
        if let Some(i) = begins.claim {
            // A release by force ends without the machine, which may be at work or about to begin: that is why it is quarantined.
            let quarantined = self.hw[m].is_some_and(|h| hardware_says(h).phase == HardwarePhase::Quarantined);
            if self.inst[usize::from(i)].is_none() && !quarantined {
                self.fault(Violation::ActForGoneClaim);
            }
            if begins.image && machine.whole == Some(i) && self.asked[usize::from(i)] == 0 {
                self.fault(Violation::WrittenTwice);
            }
        }
    }

    /// An order ends on the disk; `None` where it cannot end so.
    pub(super) fn finish(&mut self, m: usize, order: Id, ending: Ending) -> Option<()> {
        let machine = &mut self.machine[m];
        let begun = decide::begin(order, machine.disk);
        if begun.image && ending == Ending::NotProven {
            return None;
        }
        let (disk, result) = decide::finish(order, machine.disk, ending);
        if ending == Ending::Succeeds {
            if begun.image {
                machine.whole = begun.claim;
            } else {
                machine.data = 0;
                machine.given_up = false;
                machine.erased = begun.claim.map(|i| (begun.salt, i));
            }
        }
        machine.disk = disk;
        machine.power = Power::Agent(Work::Done(result));
        Some(())
    }

    /// A machine is told to be off because nobody needs it.
    pub(super) fn judge_rest(&mut self, m: usize, lag: Lag) {
        // A replica that knows of the claim.
        let claimed = self.hw[m].is_some_and(|h| hardware_says(h).claim.is_some());
        if claimed && lag == Lag::NONE {
            self.fault(Violation::OffWhileNeeded);
        }
    }

    /// A machine is told to boot the disk of an instance.
    pub(super) fn judge_boot(&mut self, m: usize, i: usize, lag: Lag) {
        // Nobody can know of a disk that was changed behind everybody's back.
        let tampered = self.machine[m].disk == number(objects::foreign());
        if tampered || self.machine[m].whole.map(usize::from) == Some(i) {
            self.told_to_boot[i] = true;
        } else if !lag.disc {
            // An answer from an old discovery leaves no record, so it is evidence of nothing; it may send a machine to a disk that was erased since, which then asks again.
            self.fault(Violation::ToldToBootUnverified);
        }
    }
}
