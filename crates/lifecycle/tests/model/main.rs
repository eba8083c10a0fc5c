//! The model (bar B10): two operators of which one may be stale, two netboot replicas of which one may be stale, machines that lose their power at any point, lost answers, restored backups; all of it over the
//! real decisions of this crate. See `world` for what happens in one step.
//!
//! `KBM_MODEL=large` widens the bounds of the big run; `make model` sets it.

mod decide;
mod mutants;
mod objects;
mod world;

use std::time::{Duration, Instant};

use mutants::{ALL, Mutant};
use stateright::{Checker, HasDiscoveries, Model};
use world::World;

fn large() -> bool {
    std::env::var("KBM_MODEL").is_ok_and(|v| v == "large")
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Checks all of a world, and says how large it was.
fn exhaust(name: &str, world: World) {
    let begin = Instant::now();
    let checker = world.checker().threads(threads()).spawn_bfs().join();
    println!(
        "model {name}: {} states ({} generated), depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begin.elapsed().as_secs_f64()
    );
    assert!(checker.is_done(), "{name}: the run was cut short");
    checker.assert_properties();
}

#[test]
fn one_machine_two_instances() {
    let world = World {
        reboots: 1,
        freezes: 1,
        failures: 1,
        ..World::new(1, 2)
    };
    exhaust("one machine, two instances", world);
}

#[test]
fn one_machine_with_restored_backups() {
    let world = World {
        reboots: 1,
        freezes: 1,
        restores: 1,
        ..World::new(1, 1)
    };
    exhaust("restored backups", world);
}

#[test]
fn one_machine_released_by_force() {
    let world = World {
        reboots: 1,
        freezes: 1,
        forced: 1,
        ..World::new(1, 2)
    };
    exhaust("forced release", world);
}

#[test]
fn one_machine_whose_disk_is_tampered_with() {
    let world = World {
        reboots: 1,
        freezes: 1,
        tampers: 1,
        ..World::new(1, 1)
    };
    exhaust("tampered disk", world);
}

#[test]
fn two_machines_two_instances() {
    let world = World {
        reboots: if large() { 2 } else { 1 },
        freezes: 1,
        failures: u8::from(large()),
        ..World::new(2, 2)
    };
    exhaust("two machines, two instances", world);
}

/// In which world a planted bug shows.
fn habitat(mutant: Mutant) -> World {
    let base = World {
        mutant: Some(mutant),
        reboots: 1,
        freezes: 1,
        ..World::new(1, 2)
    };
    match mutant {
        Mutant::BindsAgain | Mutant::ClaimsUnnamed | Mutant::WritesBlindly => World { machines: 2, ..base },
        Mutant::HandsOutUnaccepted | Mutant::InventsOrders => World {
            foreign: true,
            machines: 2,
            ..base
        },
        Mutant::AgentDoesNotLook | Mutant::ExpectsAnything => World { tampers: 1, ..base },
        Mutant::BelievesOldInventories => World { restores: 1, ..base },
        _ => base,
    }
}

#[test]
fn every_planted_bug_is_found() {
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
            .filter(|(name, _)| matches!(checker.discovery_classification(name), stateright::DiscoveryClassification::Counterexample))
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

/// A run with any bounds, for people: `KBM_BOUNDS="machines=1 instances=2 reboots=1 freezes=1 seconds=60 mutant=BindsAgain"`. Prints the shortest way to each counterexample.
#[test]
#[ignore = "for people who try bounds or follow a counterexample"]
fn explore() {
    let bounds = std::env::var("KBM_BOUNDS").unwrap_or_default();
    let mut world = World::new(1, 1);
    let mut seconds = 3600;
    for part in bounds.split_whitespace() {
        let (key, value) = part.split_once('=').expect("key=value");
        let n: u8 = value.parse().unwrap_or_default();
        match key {
            "machines" => world.machines = n.into(),
            "instances" => world.instances = n.into(),
            "reboots" => world.reboots = n,
            "freezes" => world.freezes = n,
            "failures" => world.failures = n,
            "restores" => world.restores = n,
            "forced" => world.forced = n,
            "tampers" => world.tampers = n,
            "orders" => world.max_orders = n,
            "foreign" => world.foreign = n > 0,
            "mutant" => world.mutant = ALL.into_iter().find(|m| format!("{m:?}") == value),
            "seconds" => seconds = value.parse().expect("a number"),
            other => panic!("unknown bound {other}"),
        }
    }
    let begin = Instant::now();
    let checker = world
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(Duration::from_secs(seconds))
        .spawn_bfs()
        .join();
    println!(
        "{bounds}: {} states ({} generated), depth {}, done {}, {:.1} s, {} objects",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        checker.is_done(),
        begin.elapsed().as_secs_f64(),
        objects::count(),
    );
    for (name, path) in checker.discoveries() {
        if matches!(checker.discovery_classification(name), stateright::DiscoveryClassification::Counterexample) {
            println!("COUNTEREXAMPLE {name}");
            for (state, action) in path.into_vec() {
                println!("{}", state.tell());
                if let Some(action) = action {
                    println!("    -> {action:?}");
                }
            }
        }
    }
}
