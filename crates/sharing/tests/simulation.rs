//! What the simulator found, held with generous bounds. All figures are ratios to one machine alone, which takes 28 s at 100 Mbit/s.

use sharing::Time;
use sharing::sim::{MBIT, Oddity, Order, Outcome, Policy, Scenario, ServerRule};

/// Last machine's time in times of one alone.
fn slower(scenario: &Scenario, outcome: &Outcome) -> f64 {
    let alone = Scenario {
        machines: 1,
        odd: Vec::new(),
        policy: Policy::ServerOnly,
        ..scenario.clone()
    };
    assert_eq!(outcome.unfinished, 0);
    outcome.last() / alone.run().last()
}

fn with(odd: &[(usize, Oddity)]) -> Scenario {
    Scenario {
        odd: odd.to_vec(),
        ..Scenario::default()
    }
}

#[test]
fn the_same_seed_ends_in_the_same_figures() {
    let scenario = Scenario {
        machines: 6,
        ..with(&[(2, Oddity::WrongBytes)])
    };
    assert_eq!(scenario.run(), scenario.run());
    let other = Scenario {
        seed: 2,
        ..scenario.clone()
    };
    assert_ne!(scenario.run(), other.run());
}

#[test]
fn sixteen_take_little_longer_than_one() {
    for seed in 1..4 {
        let scenario = Scenario {
            seed,
            ..Scenario::default()
        };
        let outcome = scenario.run();
        let times = slower(&scenario, &outcome);
        assert!(times < 1.25, "seed {seed}: {times} times one alone");
        assert!(outcome.copies() < 1.2, "the server sent {} copies", outcome.copies());
        assert!(outcome.wasted < outcome.image * 0.05);
        assert!(outcome.answers < outcome.image * 0.03);
    }
}

#[test]
fn simpler_policies_take_longer() {
    let ours = slower(&Scenario::default(), &Scenario::default().run());
    for (order, rule) in [(Order::Random, ServerRule::Freely), (Order::RarestFirst, ServerRule::IfNobodyHas)] {
        let scenario = Scenario {
            policy: Policy::Baseline {
                order,
                rule,
                told_every: Some(Time::from_secs(1)),
            },
            ..Scenario::default()
        };
        let theirs = slower(&scenario, &scenario.run());
        assert!(theirs > ours * 1.1, "{order:?} {rule:?}: {theirs}, ours {ours}");
    }
    let server = Scenario {
        policy: Policy::ServerOnly,
        ..Scenario::default()
    };
    let outcome = server.run();
    assert!(slower(&server, &outcome) > 15.0 && outcome.copies() > 15.9);
}

#[test]
fn one_bad_machine_costs_the_others_less_than_a_tenth() {
    let well = Scenario::default().run();
    for odd in [
        Oddity::WrongBytes,
        Oddity::Liar,
        Oddity::Silent,
        Oddity::Hoarder,
        Oddity::Slanderer,
        Oddity::Slow(0.05),
        Oddity::Cut(10.0),
        Oddity::Leaves(10.0),
    ] {
        let outcome = with(&[(3, odd)]).run();
        assert_eq!(outcome.unfinished, 0);
        assert!(
            outcome.last() < well.last() * 1.1,
            "{odd:?}: {:.1} s instead of {:.1}",
            outcome.last(),
            well.last()
        );
        if matches!(odd, Oddity::WrongBytes | Oddity::Liar) {
            assert!(
                outcome.dropped >= 3 && outcome.expelled == 1,
                "{odd:?}: {} dropped it, {} expelled",
                outcome.dropped,
                outcome.expelled
            );
            assert!(outcome.dropped <= 15, "nobody asks it twice");
        } else {
            assert_eq!(outcome.expelled, 0, "{odd:?}");
        }
    }
}

#[test]
fn never_much_worse_than_the_server_alone() {
    let silent: Vec<(usize, Oddity)> = (1..16).map(|at| (at, Oddity::Silent)).collect();
    let outcome = with(&silent).run();
    let alone = Scenario {
        machines: 1,
        ..Scenario::default()
    }
    .run();
    assert!(
        outcome.last() < alone.last() * 1.35,
        "{:.1} s where {:.1} alone",
        outcome.last(),
        alone.last()
    );
    // A server that could serve everybody by itself.
    let fast = Scenario {
        server: 10_000.0 * MBIT,
        link: 100.0 * MBIT,
        ..Scenario::default()
    };
    let times = slower(&fast, &fast.run());
    assert!(times < 1.15, "{times}");
}

#[test]
fn who_keeps_little_to_share_still_shares() {
    let scenario = Scenario {
        keep: 80_000_000,
        ..Scenario::default()
    };
    let outcome = scenario.run();
    assert!(slower(&scenario, &outcome) < 2.0 && outcome.copies() < 2.0, "{outcome:?}");
}
