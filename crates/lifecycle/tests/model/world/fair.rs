//! Does every deletion end? From every state in which an instance is being deleted, all that goes wrong stops (no more crashes, no stale view) and everybody does
//! their work in turn, as a fair scheduler would let them: the instance must be gone after a bounded number of rounds. So there is no state at all from which a
//! deletion cannot end any more. Data that nobody gave up waits for a person, as it must, and is left out.

use std::hash::{Hash, Hasher};

use crate::{
    decide::{Ending, hardware_says, instance_says},
    table::Fast,
};

use super::{Action, Lag, Left, Power, State, Work, World, symmetry::holds_foreign_data};

/// More rounds than any deletion takes.
const ROUNDS: usize = 60;

fn deleting(s: &State) -> bool {
    s.inst.iter().flatten().any(|i| instance_says(*i).deleting)
}

fn mark(s: &State) -> u64 {
    let mut hasher = Fast::default();
    s.hash(&mut hasher);
    hasher.finish()
}

impl World {
    pub(super) fn deletions_end(&self, state: &State) -> bool {
        if !deleting(state) || state.violation.is_some() || holds_foreign_data(state) {
            return true;
        }
        let calm = State {
            frozen: None,
            told_to_boot: [false; 2],
            asked: [0; 2],
            left: Left {
                crashes: [0; 2],
                freezes: 0,
                stale_steps: 0,
                failures: 0,
                restores: 0,
                forced: 0,
                tampers: 0,
                consents: 0,
                reinstalls: 0,
                rests: 0,
            },
            ..*state
        };
        let mut s = calm.canonical();
        let mut passed = Vec::new();
        let ends = loop {
            let mark = mark(&s);
            if self.known(mark).contains_key(&mark) {
                break true;
            }
            passed.push(mark);
            let before = s;
            self.round(&mut s);
            s = s.canonical();
            if !deleting(&s) {
                break true;
            }
            if s == before || passed.len() > ROUNDS {
                break false;
            }
        };
        if ends {
            for mark in passed {
                self.known(mark).insert(mark, ());
            }
        }
        ends
    }

    /// Whether every machine that is off, and that an instance has which nobody deleted, is switched on before long.
    pub(super) fn those_needed_come(&self, state: &State) -> bool {
        let needed = |s: &State, m: usize| {
            let claim = s.hw[m].and_then(|h| hardware_says(h).claim);
            let alive = claim.and_then(|i| s.inst[i]).is_some_and(|i| {
                let says = instance_says(i);
                !says.deleting && says.machine == Some(m)
            });
            alive && s.machine[m].power == Power::Off
        };
        if state.violation.is_some() || holds_foreign_data(state) {
            return true;
        }
        (0..2).filter(|m| !state.absent[*m] && needed(state, *m)).all(|m| {
            let mut s = State { frozen: None, ..*state };
            (0..6).any(|_| {
                self.round(&mut s);
                !needed(&s, m)
            })
        })
    }

    fn known(&self, mark: u64) -> std::sync::MutexGuard<'_, crate::table::FastMap<u64, ()>> {
        let shelf = usize::try_from(mark >> 58).unwrap_or_default();
        self.ended[shelf].lock().expect("nobody panics with it")
    }

    /// Everybody takes one step.
    fn round(&self, s: &mut State) {
        let go = |s: &mut State, action| {
            let before = *s;
            if self.step(s, action).is_none() {
                *s = before;
            }
        };
        for m in 0..2 {
            if s.absent[m] {
                continue;
            }
            match s.machine[m].power {
                Power::Firmware => go(s, Action::Boot(m, Lag::NONE)),
                Power::Agent(Work::Idle) => {
                    go(s, Action::Poll(m, Lag::NONE));
                    go(s, Action::HandOut(m, true));
                }
                Power::Agent(Work::Doing(_)) => go(s, Action::End(m, Ending::Succeeds)),
                Power::Agent(Work::Done(_)) => go(s, Action::Report(m)),
                Power::System(_) => go(s, Action::ComeBack(m)),
                Power::Off => go(s, Action::Switch(m)),
            }
            go(s, Action::Operate(m, Lag::NONE, 0));
        }
        for i in 0..2 {
            go(s, Action::Tend(i, Lag::NONE));
        }
    }
}
