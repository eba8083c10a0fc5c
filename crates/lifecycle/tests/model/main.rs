//! The model: two operators of which one may be stale, two netboot replicas of which one may be stale, agents, machines that lose their power at any point, lost answers, failing
//! orders, restored backups, releases by force, disks that change behind everybody's back; all of it over the real decisions of this crate. `world` says what happens in one step
//! and what is left out, `world::symmetry` which states are taken for one and why that loses nothing, `world::judge` what must never happen, `world::fair` what "every
//! deletion ends" means, `mutants` which bugs are planted.
//!
//! Every world below is exhausted: all that can happen within its bounds is tried. What the words mean:
//! * **crashes**: power losses of each machine, at any point. Crashes of operators and replicas are in every world, without a bound: they keep nothing, so a crash is a step that is not taken,
//!   or (a replica between its read and its answer, an answer that is lost) one of its own.
//! * **one old view**: the stale operator and the stale replica share one snapshot of a machine's objects and of the instances, taken at any time. **Steps on it** is how many
//!   decisions they make from it before they see the present; *mixed* says that each kind of object may be old by itself.
//!
//! | world | machines | instances | crashes of each machine | steps on an old view | besides |
//! |---|---|---|---|---|---|
//! | everybody | 2 | 2 | 1 | none | authors may name machines |
//! | everybody, one stale | 2 | 2 | 0 | 1 | |
//! | one after another | 1 | 2 | any number | none | one order fails (three ways) |
//! | one stale for ever | 1 | 1 | 0 | any number, mixed | |
//! | stale and crashing | 1 | 1 | 1 | 2, mixed | |
//! | forced | 1 | 2 | 1 | none | one release by force |
//! | backups | 1 | 1 | 1 | none | the status of one object is lost |
//! | tampering | 1 | 1 | 1 | none | somebody else's data appears; a person gives it up or not |
//! | foreign | 1 | 1 | 1 | 1, mixed | a disk that held something when it came; a person gives it up or not |
//! | written anew | 1 | 1 | 1 | 1, mixed | its author asks for a re-install, at any time |
//! | written anew twice | 1 | 1 | 1 | none | re-installs are asked for twice; one order fails |
//! | idle | 1 | 2 | 1 | none | a machine that nobody needs is switched off, twice |
//! | idle while somebody is stale | 1 | 1 | 0 | 1, mixed | the same, once |
//! | written anew, and backups | 1 | 1 | 1 | none | a re-install is asked for; the status of one object is lost |
//!
//! `make model` (`KBM_MODEL=large`) widens them: both machines crash *and* one operator and one replica are stale with two machines and two instances; one stale for ever with a crash; two
//! instances one after another with a crash and an old view.
//!
//! A counterexample is printed step by step.

mod answers;
mod decide;
mod mutants;
mod objects;
mod table;
mod time;
mod world;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mutants::{ALL, Mutant};
use stateright::{Checker, HasDiscoveries, Model};
use world::{MANY, Sight, World};

/// Two at most: that is what the bounds are measured with.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(2)
}

/// Each run takes all threads, so they come one after another.
static TURN: Mutex<()> = Mutex::new(());

/// Checks all of a world, and says how large it was.
fn exhaust(name: &str, world: World, sights: &[Sight]) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = Instant::now();
    let checker = world
        .clone()
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "model, {name}: {} states ({} generated), depth {}, {:.1} s, {} objects",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begin.elapsed().as_secs_f64(),
        table::count()
    );
    let mut broken = Vec::new();
    for (property, path) in checker.discoveries() {
        println!("COUNTEREXAMPLE: {property}");
        for (state, action) in path.into_vec() {
            println!("{}", state.tell());
            if let Some(action) = action {
                println!("    -> {action:?}");
            }
        }
        broken.push(property);
    }
    assert!(broken.is_empty(), "{name}: not always so: {broken:?}");
    assert!(checker.is_done(), "{name}: the run was cut short");
    let unseen: Vec<_> = sights.iter().filter(|s| !world.has_seen(**s)).collect();
    assert!(
        unseen.is_empty(),
        "{name}: this never happened, so the run proves little: {unseen:?}"
    );
}

const LIFE: [Sight; 4] = [Sight::Runs, Sight::GoneAfterRunning, Sight::ErasedWithEvidence, Sight::OrderLost];

#[test]
fn two_machines_two_instances_and_everybody_crashes() {
    let world = World {
        crashes: 1,
        named: true,
        ..World::new(2, 2)
    };
    exhaust("everybody", world, &[&LIFE[..], &[Sight::ServesAgain]].concat());
}

#[test]
fn two_machines_two_instances_and_one_operator_and_one_replica_are_stale() {
    let world = World {
        freezes: 1,
        stale_steps: 1,
        mixed: large(),
        crashes: u8::from(large()),
        ..World::new(2, 2)
    };
    exhaust(
        "everybody, one stale",
        world,
        &[&LIFE[..], &[Sight::StaleWrite, Sight::ServesAgain]].concat(),
    );
}

#[test]
fn one_machine_serves_one_instance_after_another() {
    let world = World {
        crashes: MANY,
        failures: 1,
        ..World::new(1, 2)
    };
    let sights = [&LIFE[..], &[Sight::ServesAgain]].concat();
    exhaust("one after another", world, &sights);
}

#[test]
fn one_machine_with_an_operator_and_a_replica_that_stay_stale_for_ever() {
    let world = World {
        crashes: u8::from(large()),
        freezes: 1,
        ..World::new(1, 1)
    };
    exhaust("one stale for ever", world, &[&LIFE[..], &[Sight::StaleWrite]].concat());
}

#[test]
fn one_machine_that_crashes_while_somebody_is_stale() {
    let world = World {
        crashes: 1,
        freezes: 1,
        stale_steps: if large() { 1 } else { 2 },
        ..World::new(1, if large() { 2 } else { 1 })
    };
    exhaust("stale and crashing", world, &[&LIFE[..], &[Sight::StaleWrite]].concat());
}

#[test]
fn one_machine_released_by_force() {
    let world = World {
        crashes: 1,
        forced: 1,
        ..World::new(1, 2)
    };
    exhaust("forced", world, &[&LIFE[..], &[Sight::Quarantined]].concat());
}

#[test]
fn one_machine_with_restored_backups() {
    let world = World {
        crashes: 1,
        restores: 1,
        ..World::new(1, 1)
    };
    exhaust("backups", world, &LIFE);
}

#[test]
fn one_machine_whose_disk_is_tampered_with() {
    let world = World {
        crashes: 1,
        tampers: 1,
        consents: 1,
        ..World::new(1, 1)
    };
    exhaust("tampering", world, &[&LIFE[..], &[Sight::OrderRefused]].concat());
}

#[test]
fn one_machine_that_came_with_somebody_elses_data() {
    let world = World {
        crashes: 1,
        foreign: true,
        consents: 1,
        freezes: 1,
        stale_steps: 1,
        ..World::new(1, 1)
    };
    exhaust("foreign", world, &[&LIFE[..], &[Sight::StaleWrite]].concat());
}

#[test]
fn one_machine_that_is_written_anew_while_somebody_is_stale() {
    let world = World {
        crashes: 1,
        freezes: 1,
        stale_steps: 1,
        reinstalls: 1,
        ..World::new(1, 1)
    };
    exhaust(
        "written anew",
        world,
        &[&LIFE[..], &[Sight::StaleWrite, Sight::WrittenAgain]].concat(),
    );
}

#[test]
fn one_machine_that_is_written_anew_twice() {
    let world = World {
        crashes: 1,
        failures: 1,
        reinstalls: 2,
        ..World::new(1, if large() { 2 } else { 1 })
    };
    exhaust("written anew twice", world, &[&LIFE[..], &[Sight::WrittenAgain]].concat());
}

#[test]
fn one_machine_that_is_written_anew_with_restored_backups() {
    let world = World {
        crashes: 1,
        restores: 1,
        reinstalls: 1,
        ..World::new(1, 1)
    };
    exhaust("written anew, and backups", world, &[&LIFE[..], &[Sight::WrittenAgain]].concat());
}

#[test]
fn one_machine_that_rests_between_instances() {
    let world = World {
        crashes: 1,
        rests: 2,
        ..World::new(1, 2)
    };
    exhaust(
        "idle",
        world,
        &[&LIFE[..], &[Sight::Rested, Sight::WokenForAnInstance, Sight::ServesAgain]].concat(),
    );
}

#[test]
fn one_machine_that_rests_while_somebody_is_stale() {
    let world = World {
        freezes: 1,
        stale_steps: 1,
        rests: 1,
        crashes: u8::from(large()),
        ..World::new(1, 1)
    };
    exhaust(
        "idle while somebody is stale",
        world,
        &[&LIFE[..], &[Sight::Rested, Sight::WokenForAnInstance, Sight::StaleWrite]].concat(),
    );
}

/// Whether the larger bounds are wanted.
fn large() -> bool {
    std::env::var("KBM_MODEL").is_ok_and(|v| v == "large")
}

/// In which world a planted bug shows.
fn habitat(mutant: Mutant) -> World {
    let base = World {
        mutant: Some(mutant),
        crashes: 1,
        ..World::new(1, 2)
    };
    let stale = World {
        freezes: 1,
        crashes: 0,
        ..World::new(1, 1)
    };
    match mutant {
        Mutant::BindsAgain | Mutant::ClaimsUnnamed => World { machines: 2, ..base },
        Mutant::WritesBlindly => World {
            mutant: Some(mutant),
            machines: 2,
            ..stale
        },
        Mutant::HandsOutUnaccepted | Mutant::InventsOrders => World {
            mutant: Some(mutant),
            foreign: true,
            ..World::new(1, 1)
        },
        Mutant::SwitchesOffTheClaimed | Mutant::NeverWakes => World {
            mutant: Some(mutant),
            rests: 1,
            ..World::new(1, 1)
        },
        Mutant::AgentDoesNotLook | Mutant::ExpectsAnything => World { tampers: 1, ..base },
        Mutant::HandsOutFromCache | Mutant::IssuesUnacknowledged | Mutant::LetsGoUnseen => World {
            mutant: Some(mutant),
            ..stale
        },
        _ => base,
    }
}

#[test]
fn every_planted_bug_is_found() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut missed = Vec::new();
    for mutant in ALL {
        let begin = Instant::now();
        let checker = habitat(mutant)
            .checker()
            .threads(threads())
            .finish_when(HasDiscoveries::AnyFailures)
            .timeout(Duration::from_secs(120))
            .spawn_bfs()
            .join();
        let found: Vec<_> = checker
            .discoveries()
            .into_iter()
            .map(|(name, path)| format!("{name} ({} steps)", path.into_actions().len()))
            .collect();
        println!(
            "planted {mutant:?}: {} after {} states, {:.1} s",
            if found.is_empty() { "MISSED".to_owned() } else { found.join("; ") },
            checker.unique_state_count(),
            begin.elapsed().as_secs_f64()
        );
        if found.is_empty() {
            missed.push(mutant);
        }
    }
    assert!(missed.is_empty(), "planted bugs that were not found: {missed:?}");
}
