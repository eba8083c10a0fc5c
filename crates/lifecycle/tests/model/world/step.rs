//! One step of the world.

use crate::{
    decide::{self, BootTold, Change, Ending, InstanceWrite, Rest, Told, View, changed, hardware_says, instance_says},
    mutants::Mutant,
    objects,
    table::{Id, number},
};

use super::{Action, Frozen, Lag, MANY, Machine, Power, Sight, State, Work, World};

fn spend(budget: &mut u8) -> Option<()> {
    if *budget != MANY {
        *budget = budget.checked_sub(1)?;
    }
    Some(())
}

impl State {
    pub(super) fn write_discovery(&mut self, m: usize, disc: Id) {
        if self.disc[m] != Some(disc) {
            self.disc[m] = Some(disc);
            // A compare and swap on what was read before would fail now.
            self.reading[m] = None;
        }
    }

    /// A number that no order of this machine has that anybody still speaks of: they are numbered without gaps.
    fn fresh_salt(&self, m: usize) -> u8 {
        let numbers = self.numbers_of_orders(m);
        (0..15).find(|n| numbers >> (4 * n) & 15 == 15).expect("fewer than 15 orders")
    }

    pub(super) fn power_off(&mut self, m: usize) {
        self.machine[m].power = Power::Firmware;
        self.machine[m].kept = None;
        self.reading[m] = None;
    }
}

impl World {
    pub(super) fn blind(&self) -> bool {
        self.mutant == Some(Mutant::WritesBlindly)
    }

    /// Takes one step; `None` when it is not possible or changes nothing.
    pub(super) fn step(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Create(i, named) => {
                s.born[i] = true;
                let mut made = objects::instance(i);
                made.spec.hardware_name = named.map(objects::machine_name);
                s.inst[i] = Some(number(made));
            }
            Action::Delete(i) => self.delete(s, i)?,
            Action::Force(i) => {
                spend(&mut s.left.forced)?;
                s.inst[i] = Some(changed(s.inst[i]?, Change::Force)?);
            }
            Action::Reinstall(i) => {
                let number = s.left.reinstalls;
                spend(&mut s.left.reinstalls)?;
                s.inst[i] = Some(changed(s.inst[i]?, Change::Reinstall(number))?);
                s.asked[i] += 1;
            }
            Action::Accept(m) => s.hw[m] = Some(number(objects::accepted(m))),
            Action::Consent(m) => {
                if s.machine[m].disk != number(objects::foreign()) {
                    return None;
                }
                s.hw[m] = Some(changed(s.hw[m]?, Change::Consent)?);
                spend(&mut s.left.consents)?;
                s.machine[m].given_up = true;
            }
            Action::Boot(m, lag) => self.boot(s, m, lag)?,
            Action::Poll(m, lag) => {
                let hw = s.sees(m, lag)?.hw;
                match decide::poll(self.mutant, m, s.machine[m].session, s.disc[m], hw) {
                    // A session that a restored backup does not know is refused, and the agent restarts.
                    Told::Wait if s.disc[m].map(decide::session_of) != Some(s.machine[m].session) => s.power_off(m),
                    Told::Wait => return None,
                    Told::Reboot => s.power_off(m),
                    Told::PowerOff => {
                        self.sees(Sight::Rested);
                        s.judge_rest(m, lag);
                        s.power_off(m);
                        s.machine[m].power = Power::Off;
                    }
                    // The stale replica reads the object again before it hands out such an order.
                    Told::Destructive(..) if lag != Lag::NONE && self.mutant != Some(Mutant::HandsOutFromCache) => return None,
                    Told::Destructive(..) => s.reading[m] = Some(hw.unwrap_or_else(|| number(objects::accepted(m)))),
                }
            }
            Action::HandOut(m, arrives) => {
                let read = s.reading[m].take()?;
                let hw = Some(read).filter(|_| s.hw[m].is_some() || self.mutant != Some(Mutant::HandsOutUnaccepted));
                if let Told::Destructive(order, disc) = decide::poll(self.mutant, m, s.machine[m].session, s.disc[m], hw) {
                    s.write_discovery(m, disc);
                    if arrives {
                        s.begin(m, order, self);
                    } else {
                        self.sees(Sight::OrderLost);
                    }
                }
            }
            Action::End(m, ending) => {
                let Power::Agent(Work::Doing(order)) = s.machine[m].power else {
                    return None;
                };
                if ending != Ending::Succeeds {
                    spend(&mut s.left.failures)?;
                }
                s.finish(m, order, ending)?;
            }
            Action::Report(m) => {
                let Power::Agent(Work::Done(result)) = s.machine[m].power else {
                    return None;
                };
                let disc = s.disc[m]?;
                if decide::session_of(disc) != s.machine[m].session {
                    s.power_off(m);
                } else {
                    s.machine[m].power = Power::Agent(Work::Idle);
                    s.machine[m].kept = Some(result).filter(|_| self.restores > 0);
                    if let Some(stored) = decide::report(disc, result, s.machine[m].session) {
                        s.write_discovery(m, stored);
                    }
                }
            }
            Action::Crash(m) => {
                spend(&mut s.left.crashes[m])?;
                s.power_off(m);
            }
            Action::ComeBack(m) => {
                let Power::System(i) = s.machine[m].power else { return None };
                if !decide::wanted_back(s.hw[m], s.disc[m], usize::from(i)) {
                    return None;
                }
                s.power_off(m);
            }
            Action::Operate(m, lag, older) => self.operate(s, m, lag, older, self.rest())?,
            Action::Plan(m, lag, rest) => self.plan(s, m, lag, rest)?,
            Action::Switch(m) => {
                let says = hardware_says(s.hw[m]?);
                if !says.started {
                    return None;
                }
                if says.claim.is_some() && s.machine[m].power == Power::Off {
                    self.sees(Sight::WokenForAnInstance);
                }
                s.power_off(m);
            }
            Action::Tend(i, lag) => self.tend(s, i, lag)?,
            Action::Bind(i, m, lag) => self.bind(s, i, m, lag)?,
            Action::Freeze(m) => {
                spend(&mut s.left.freezes)?;
                s.frozen = Some(Frozen {
                    machine: u8::try_from(m).ok()?,
                    view: s.view(m),
                });
            }
            Action::Tamper(m) => {
                spend(&mut s.left.tampers)?;
                s.machine[m] = Machine {
                    disk: number(objects::foreign()),
                    data: 0,
                    whole: None,
                    given_up: false,
                    ..s.machine[m]
                };
                if matches!(s.machine[m].power, Power::System(_)) {
                    s.power_off(m);
                }
            }
            Action::LoseStatus(_) | Action::RestoreHardware(_) | Action::RestoreDiscovery(_) | Action::LoseInstanceStatus(_) => {
                spend(&mut s.left.restores)?;
                self.restore(s, action)?;
            }
            Action::Alone(m) => s.keep_only(m, self.stale_steps),
        }
        s.squeeze();
        s.number_orders();
        Some(())
    }

    fn delete(&self, s: &mut State, i: usize) -> Option<()> {
        let inst = s.inst[i]?;
        let says = instance_says(inst);
        if says.held {
            let session = says.machine.map_or(0, |m| s.machine[m].session);
            s.inst[i] = Some(changed(inst, Change::Delete(session))?);
        } else {
            s.write_instance(i, InstanceWrite::Gone, self);
        }
        Some(())
    }

    fn boot(&self, s: &mut State, m: usize, lag: Lag) -> Option<()> {
        let view = s.sees(m, lag)?;
        let session = s.machine[m].session;
        let mut told = decide::boot(self.mutant, m, session, view.disc, view.hw);
        if lag.disc && matches!(told, BootTold::Disk(_, Some(_))) {
            // The compare and swap fails; the replica reads the discovery again and decides anew.
            told = decide::boot(self.mutant, m, session, s.disc[m], view.hw);
        }
        match told {
            BootTold::Disk(instance, recorded) => {
                if let Some(recorded) = recorded {
                    s.write_discovery(m, recorded);
                }
                if let Some(i) = instance {
                    s.judge_boot(m, i, lag);
                }
                // Otherwise nothing boots, and the firmware asks again.
                if let Some(i) = s.machine[m].whole {
                    s.machine[m].power = Power::System(i);
                }
            }
            BootTold::Agent => {
                let n = s.machine[m].session + 1;
                s.machine[m].session = n;
                let disc = decide::register(m, n, s.disc[m], s.machine[m].disk);
                s.write_discovery(m, disc);
                s.machine[m].power = Power::Agent(Work::Idle);
            }
        }
        Some(())
    }

    /// What an operator thinks of idle machines that has no plan.
    fn rest(&self) -> Rest {
        if self.rests > 0 { Rest::AsItIs } else { Rest::Stay }
    }

    fn plan(&self, s: &mut State, m: usize, lag: Lag, rest: Rest) -> Option<()> {
        let before = hardware_says(s.hw[m]?).idle;
        self.operate(s, m, lag, 0, rest)?;
        // What it decides without this plan is a step of its own.
        let after = hardware_says(s.hw[m]?).idle;
        match (rest, before, after) {
            (Rest::Off, None, Some(true)) => spend(&mut s.left.rests),
            (Rest::On, Some(true), Some(false)) => Some(()),
            _ => None,
        }
    }

    fn operate(&self, s: &mut State, m: usize, lag: Lag, older: u8, rest: Rest) -> Option<()> {
        let view = s.sees(m, lag)?;
        let write = decide::hardware(self.mutant, view, s.machine[m].session, s.fresh_salt(m), older, rest)?;
        if lag != Lag::NONE {
            self.sees(Sight::StaleWrite);
        }
        s.write_hardware(m, write, self);
        Some(())
    }

    fn tend(&self, s: &mut State, i: usize, lag: Lag) -> Option<()> {
        let inst = s.inst[i]?;
        let machine = instance_says(inst).machine;
        let (view, session) = match machine {
            Some(m) => (Some(s.sees(m, lag)?), s.machine[m].session),
            None => (None, 0),
        };
        if view.is_some_and(|v| v.hw.is_none()) && machine.is_some_and(|m| s.hw[m].is_some()) {
            // A cache that has not seen the machine's object yet: that is not believed before caches agree.
            return None;
        }
        let blind = view
            .filter(|_| self.blind())
            .and_then(|_| s.old_view(machine?))
            .and_then(|v| v.inst[i]);
        let inst = blind.unwrap_or(inst);
        let write = decide::instance(self.mutant, inst, view.and_then(|v| v.hw), view.and_then(|v| v.disc), None, session)?;
        s.write_instance(i, write, self);
        Some(())
    }

    fn bind(&self, s: &mut State, i: usize, m: usize, lag: Lag) -> Option<()> {
        let view: View = s.sees(m, lag)?;
        let free = view.hw.is_some_and(|h| hardware_says(h).free);
        let spoken_for = view.inst.iter().flatten().any(|x| instance_says(*x).machine == Some(m));
        if !free || spoken_for {
            return None;
        }
        let inst = if self.blind() && lag.inst {
            view.inst[i].or(s.inst[i])?
        } else {
            s.inst[i]?
        };
        let write = decide::instance(self.mutant, inst, None, None, u8::try_from(m).ok(), 0)?;
        s.write_instance(i, write, self);
        Some(())
    }

    /// Backups are restored while nobody serves: requests that were open are lost. What agents are at goes on.
    fn restore(&self, s: &mut State, action: Action) -> Option<()> {
        s.reading = [None; 2];
        match action {
            Action::LoseStatus(m) => s.hw[m] = Some(changed(s.hw[m]?, Change::LoseHardwareStatus)?),
            Action::RestoreHardware(m) => s.hw[m] = Some(s.old_view(m)?.hw?),
            Action::RestoreDiscovery(m) => {
                let disc = s.old_view(m)?.disc?;
                s.write_discovery(m, disc);
            }
            Action::LoseInstanceStatus(i) => s.inst[i] = Some(changed(s.inst[i]?, Change::LoseInstanceStatus)?),
            _ => return None,
        }
        Some(())
    }
}
