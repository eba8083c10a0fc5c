//! Faults as data: what goes wrong, where in a machine's life, and for which share of the machines.
//!
//! A plan is a seed and a list of rules; the same plan gives the same machines the same faults. The plan says nothing about the server: it only
//! changes what machines do.

use agent_protocol::order::FaultReason;
use serde::{Deserialize, Serialize};

use super::random::Random;

/// A moment in a machine's life: just before it asks the server for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    /// Firmware asks what to boot.
    Boot,
    /// The agent introduces the machine.
    Session,
    /// The agent asks for its order.
    Order,
    /// The agent fetches the seed.
    Seed,
    /// The agent tells how far it is: in the middle of writing or erasing.
    Progress,
    /// The agent reports the end of an order; the disk is in its final state.
    Result,
    /// The installed system's helper registers.
    Register,
    /// The helper asks for its order.
    GuestOrder,
}

impl Point {
    /// Every point, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Boot,
        Self::Session,
        Self::Order,
        Self::Seed,
        Self::Progress,
        Self::Result,
        Self::Register,
        Self::GuestOrder,
    ];
}

/// What goes wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Mishap {
    /// The power fails before the request is sent, and is back after this time. RAM is lost; the disk stays as it is.
    PowerCut {
        /// For how long.
        ms: u64,
    },
    /// The power fails after the answer was received, before anything is made of it.
    PowerCutAfter {
        /// For how long.
        ms: u64,
    },
    /// The network is gone before the request is sent.
    LoseRequest {
        /// For how long.
        ms: u64,
    },
    /// The request arrives; its answer is lost, and the network is gone for a while.
    LoseAnswer {
        /// For how long.
        ms: u64,
    },
    /// The request is sent again, signed anew, after it was answered.
    Twice,
    /// The very same bytes are sent again: what somebody who listened could do. The server has to refuse them, or to answer as before.
    Replay,
    /// The order fails on the machine (only at [`Point::Result`]); the disk is left half written.
    Fail {
        /// With what.
        reason: FaultReason,
    },
}

/// One kind of fault for a share of the machines.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Share of the machines, 0 to 1.
    pub share: f64,
    /// Where.
    pub at: Point,
    /// At which passing of that point, counted from 1.
    #[serde(default = "first")]
    pub nth: u32,
    /// What.
    pub what: Mishap,
}

fn first() -> u32 {
    1
}

/// Everything that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// From which everything random follows.
    #[serde(default)]
    pub seed: u64,
    /// Share of the machines whose disk holds foreign data at first.
    #[serde(default)]
    pub foreign: f64,
    /// The rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// A value of a plan that is not allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct PlanError {
    field: String,
    problem: &'static str,
}

impl Plan {
    /// Nothing goes wrong.
    pub fn none(seed: u64) -> Self {
        Self {
            seed,
            foreign: 0.0,
            rules: Vec::new(),
        }
    }

    /// A little of everything: about every third machine has some fault.
    pub fn some(seed: u64) -> Self {
        Self {
            seed,
            foreign: 0.1,
            rules: every_fault(0.01),
        }
    }

    /// Much of everything: nearly every machine has several faults.
    pub fn many(seed: u64) -> Self {
        Self {
            seed,
            foreign: 0.5,
            rules: every_fault(0.1),
        }
    }

    /// Checks the values that somebody wrote.
    ///
    /// # Errors
    /// [`PlanError`] names the field and what is allowed.
    pub fn check(&self) -> Result<(), PlanError> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if !share(self.foreign) {
            return Err(PlanError {
                field: "foreign".to_owned(),
                problem: "is a share: 0 to 1",
            });
        }
        for (i, rule) in self.rules.iter().enumerate() {
            if !share(rule.share) {
                return Err(PlanError {
                    field: format!("rules[{i}].share"),
                    problem: "is a share: 0 to 1",
                });
            }
            if rule.nth == 0 {
                return Err(PlanError {
                    field: format!("rules[{i}].nth"),
                    problem: "is counted from 1",
                });
            }
            if matches!(rule.what, Mishap::Fail { .. }) && rule.at != Point::Result {
                return Err(PlanError {
                    field: format!("rules[{i}].at"),
                    problem: "an order can fail at result only",
                });
            }
            if matches!(rule.what, Mishap::Replay) && rule.at == Point::Boot {
                return Err(PlanError {
                    field: format!("rules[{i}].at"),
                    problem: "a boot request is not signed, so there is nothing to replay",
                });
            }
        }
        Ok(())
    }

    /// The faults of one machine.
    pub fn of_machine(&self, index: usize) -> Faults {
        let mut random = Random::of(self.seed, index as u64);
        let foreign = random.chance(self.foreign);
        let due: Vec<Rule> = self.rules.iter().filter(|r| random.chance(r.share)).copied().collect();
        let mut touched = [false; Point::ALL.len()];
        for rule in &due {
            touched[rule.at as usize] = true;
        }
        Faults {
            foreign,
            due,
            passed: [0; Point::ALL.len()],
            touched,
        }
    }
}

/// Every mishap at every point where it can happen, each with the same share.
fn every_fault(share: f64) -> Vec<Rule> {
    let rule = |at, nth, what| Rule { share, at, nth, what };
    let mut rules = vec![
        rule(Point::Boot, 1, Mishap::PowerCut { ms: 1_000 }),
        rule(Point::Session, 1, Mishap::PowerCut { ms: 1_000 }),
        rule(Point::Progress, 2, Mishap::PowerCut { ms: 1_000 }),
        rule(Point::Progress, 3, Mishap::PowerCutAfter { ms: 500 }),
        rule(Point::Result, 1, Mishap::PowerCut { ms: 1_000 }),
        rule(Point::Result, 1, Mishap::PowerCutAfter { ms: 1_000 }),
        rule(Point::Seed, 1, Mishap::PowerCutAfter { ms: 1_000 }),
        rule(Point::GuestOrder, 1, Mishap::PowerCut { ms: 1_000 }),
        rule(
            Point::Result,
            1,
            Mishap::Fail {
                reason: FaultReason::DiskIO,
            },
        ),
    ];
    for at in Point::ALL {
        rules.push(rule(at, 1, Mishap::LoseRequest { ms: 700 }));
        rules.push(rule(at, 1, Mishap::LoseAnswer { ms: 700 }));
        rules.push(rule(at, 1, Mishap::Twice));
        if at != Point::Boot {
            rules.push(rule(at, 1, Mishap::Replay));
        }
    }
    rules
}

/// What still is to go wrong with one machine.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Whether its disk holds foreign data at first.
    pub foreign: bool,
    due: Vec<Rule>,
    passed: [u32; Point::ALL.len()],
    touched: [bool; Point::ALL.len()],
}

impl Faults {
    /// The machine passes a point: what goes wrong now. Each rule strikes once; of two at one passing the first strikes now, the other at the next.
    pub fn strike(&mut self, at: Point) -> Option<Mishap> {
        let passed = self.passed.get_mut(at as usize)?;
        *passed = passed.saturating_add(1);
        let now = *passed;
        let found = self.due.iter().position(|r| r.at == at && r.nth <= now)?;
        Some(self.due.remove(found).what)
    }

    /// Whether something went or is to go wrong at this point.
    pub fn touch(&self, at: Point) -> bool {
        self.touched[at as usize]
    }

    /// How many faults are still to come.
    pub fn left(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_plan_gives_the_same_faults_and_each_strikes_once() {
        let plan = Plan::many(7);
        plan.check().unwrap();
        let total: usize = (0..200).map(|i| plan.of_machine(i).left()).sum();
        assert_eq!(total, (0..200).map(|i| plan.of_machine(i).left()).sum::<usize>());
        let expected = plan.rules.len() as f64 * 0.1 * 200.0;
        assert!(
            (total as f64 - expected).abs() < expected / 4.0,
            "{total} faults where about {expected} are planned"
        );
        for i in 0..200 {
            let mut faults = plan.of_machine(i);
            for _ in 0..50 {
                for at in Point::ALL {
                    faults.strike(at);
                }
            }
            assert_eq!(faults.left(), 0);
        }
    }

    #[test]
    fn a_rule_strikes_at_its_passing() {
        let rule = Rule {
            share: 1.0,
            at: Point::Progress,
            nth: 2,
            what: Mishap::Twice,
        };
        let mut faults = Plan {
            rules: vec![rule],
            ..Plan::none(1)
        }
        .of_machine(0);
        assert_eq!(faults.strike(Point::Progress), None);
        assert_eq!(faults.strike(Point::Order), None);
        assert_eq!(faults.strike(Point::Progress), Some(Mishap::Twice));
        assert_eq!(faults.strike(Point::Progress), None);
    }

    #[test]
    fn a_plan_is_written_as_json_and_bad_values_are_named() {
        let text = r#"{"seed": 3, "rules": [{"share": 0.5, "at": "guestOrder", "what": {"loseAnswer": {"ms": 20}}}, {"share": 1, "at": "result", "what": {"fail": {"reason": "DiskIO"}}}]}"#;
        let plan: Plan = serde_json::from_str(text).unwrap();
        assert_eq!(plan.rules[0].what, Mishap::LoseAnswer { ms: 20 });
        plan.check().unwrap();
        let bad = Plan {
            rules: vec![Rule {
                share: 2.0,
                ..plan.rules[0]
            }],
            ..plan.clone()
        };
        assert_eq!(bad.check().unwrap_err().to_string(), "rules[0].share: is a share: 0 to 1");
        let bad = Plan {
            rules: vec![Rule {
                at: Point::Boot,
                ..plan.rules[1]
            }],
            ..plan
        };
        assert_eq!(
            bad.check().unwrap_err().to_string(),
            "rules[0].at: an order can fail at result only"
        );
    }
}
