//! Whose turn it is to be switched on.

use jiff::{SignedDuration, Timestamp};
use lifecycle::pacing::{ClassLimits, Limits, Pace, Start, Turn};
use proptest::prelude::*;

fn at(milliseconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    start + SignedDuration::from_millis(milliseconds)
}

const LIMITS: Limits = Limits {
    per_minute: 600,
    per_minute_per_rack: 30,
};

fn start(rack: Option<&str>) -> Start {
    Start {
        act: "1-a".to_owned(),
        urgent: false,
        since: at(0),
        class: None,
        rack: rack.map(str::to_owned),
        limits: ClassLimits::default(),
    }
}

fn text(turn: Turn) -> String {
    match turn {
        Turn::Wait(text) => text,
        Turn::Now => panic!("it starts"),
    }
}

#[test]
fn a_rack_starts_one_after_another_and_holds_up_no_other() {
    let mut pace = Pace::default();
    assert_eq!(pace.ask("a0", &start(Some("a")), &LIMITS, at(0)), Turn::Now, "nobody else is there");
    let said = text(pace.ask("a1", &start(Some("a")), &LIMITS, at(0)));
    assert_eq!(said, "waits for its turn: it is the next, of rack a (30 a minute)");
    for n in 2..15 {
        text(pace.ask(&format!("a{n:02}"), &start(Some("a")), &LIMITS, at(0)));
    }
    let said = text(pace.ask("a99", &start(Some("a")), &LIMITS, at(0)));
    assert_eq!(said, "waits for its turn: 14 machines start before it, of rack a (30 a minute)");
    text(pace.ask("b0", &start(Some("b")), &LIMITS, at(0)));
    assert_eq!(pace.grant(&LIMITS, at(0)), ["b0"], "its rack is idle");
    assert_eq!(pace.ask("b0", &start(Some("b")), &LIMITS, at(0)), Turn::Now);
    assert_eq!(pace.next(&LIMITS), Some(at(2000)));
    assert!(pace.grant(&LIMITS, at(1999)).is_empty());
    assert_eq!(pace.grant(&LIMITS, at(2000)), ["a02"]);
    assert_eq!(pace.ask("a02", &start(Some("a")), &LIMITS, at(2100)), Turn::Now);
}

#[test]
fn those_that_somebody_waits_for_come_first_whenever_they_ask() {
    let mut pace = Pace::default();
    assert_eq!(pace.ask("first", &start(Some("a")), &LIMITS, at(0)), Turn::Now);
    text(pace.ask("pool", &start(Some("a")), &LIMITS, at(0)));
    let urgent = Start {
        urgent: true,
        since: at(1500),
        ..start(Some("a"))
    };
    text(pace.ask("tenant", &urgent, &LIMITS, at(1500)));
    assert_eq!(pace.grant(&LIMITS, at(2000)), ["tenant"]);
    assert_eq!(pace.grant(&LIMITS, at(4000)), ["pool"]);
}

#[test]
fn a_class_has_its_own_limits_within_the_others() {
    let mut pace = Pace::default();
    let of_class = Start {
        class: Some("big".to_owned()),
        limits: ClassLimits {
            per_minute: Some(6),
            per_minute_per_rack: None,
        },
        ..start(None)
    };
    assert_eq!(pace.ask("x", &of_class, &LIMITS, at(0)), Turn::Now);
    let said = text(pace.ask("y", &of_class, &LIMITS, at(0)));
    assert_eq!(said, "waits for its turn: it is the next, of class big (6 a minute)");
    assert_eq!(pace.ask("z", &start(None), &LIMITS, at(0)), text_is_wait());
    assert_eq!(pace.grant(&LIMITS, at(0)), ["z"], "another class");
    assert!(pace.grant(&LIMITS, at(9_999)).is_empty());
    assert_eq!(pace.grant(&LIMITS, at(10_000)), ["y"]);
}

fn text_is_wait() -> Turn {
    Turn::Wait("waits for its turn: 1 machine starts before it, in all (600 a minute)".to_owned())
}

#[test]
fn a_turn_is_for_one_act_and_one_that_is_withdrawn_is_anothers() {
    let mut pace = Pace::default();
    assert_eq!(pace.ask("a", &start(Some("r")), &LIMITS, at(0)), Turn::Now);
    text(pace.ask("b", &start(Some("r")), &LIMITS, at(0)));
    text(pace.ask("c", &start(Some("r")), &LIMITS, at(0)));
    pace.withdraw("b");
    assert_eq!(pace.grant(&LIMITS, at(2000)), ["c"]);
    let another = Start {
        act: "2-b".to_owned(),
        ..start(Some("r"))
    };
    text(pace.ask("c", &another, &LIMITS, at(2000)));
    assert_eq!(pace.waiting(), 1);
}

#[test]
fn looking_often_gives_no_less() {
    let mut pace = Pace::default();
    assert_eq!(pace.ask("a", &start(Some("r")), &LIMITS, at(0)), Turn::Now);
    text(pace.ask("b", &start(Some("r")), &LIMITS, at(0)));
    let mut given = None;
    for microseconds in (0..2_500_000i64).step_by(300) {
        let now = at(0) + SignedDuration::from_micros(microseconds);
        if !pace.grant(&LIMITS, now).is_empty() {
            given = Some(microseconds);
            break;
        }
    }
    assert!(given.is_some_and(|at| (2_000_000..2_001_000).contains(&at)), "{given:?}");
}

#[derive(Debug, Clone)]
struct Asking {
    after: u16,
    rack: u8,
    class: Option<u8>,
    urgent: bool,
}

fn asking() -> impl Strategy<Value = Asking> {
    (0..3000u16, 0..3u8, prop::option::of(0..2u8), any::<bool>()).prop_map(|(after, rack, class, urgent)| Asking {
        after,
        rack,
        class,
        urgent,
    })
}

/// More in any span than its burst and what flowed in.
fn too_many(times: &[i64], per_minute: i64) -> bool {
    let burst = (per_minute / 30).max(1);
    (0..times.len()).any(|from| {
        (from..times.len()).any(|to| {
            let count = i64::try_from(to - from + 1).unwrap();
            let flowed = (times[to] - times[from] + 1) * per_minute / 60_000 + 1;
            count > burst + flowed
        })
    })
}

proptest! {
    #[test]
    fn no_bucket_gives_more_than_flows_in_and_everybody_has_a_turn(all in proptest::collection::vec(asking(), 1..80)) {
        let limits = Limits { per_minute: 60, per_minute_per_rack: 30 };
        let mut pace = Pace::default();
        let (mut now, mut waiting) = (0i64, 0usize);
        let mut given: Vec<(i64, usize)> = Vec::new();
        let made: Vec<(String, Start)> = all.iter().enumerate().map(|(n, asking)| {
            let class = asking.class.map(|c| format!("c{c}"));
            let start = Start {
                act: format!("act-{n}"),
                urgent: asking.urgent,
                since: at(0),
                limits: ClassLimits { per_minute: class.as_ref().map(|_| 20), per_minute_per_rack: class.as_ref().map(|_| 15) },
                class,
                rack: Some(format!("r{}", asking.rack)),
            };
            (format!("m{n:02}"), start)
        }).collect();
        for (n, asking) in all.iter().enumerate() {
            // Turns are given while they come in.
            let until = now + i64::from(asking.after);
            while let Some(next) = pace.next(&limits).filter(|t| *t <= at(until)) {
                now = now.max(i64::try_from(next.duration_since(at(0)).as_millis()).unwrap());
                let names = pace.grant(&limits, at(now));
                if names.is_empty() {
                    // Another bucket of it is closed by somebody before it.
                    now += 1;
                }
                for name in names {
                    let who = made.iter().position(|(m, _)| *m == name).unwrap();
                    prop_assert_eq!(pace.ask(&name, &made[who].1, &limits, at(now)), Turn::Now);
                    given.push((now, who));
                    waiting -= 1;
                }
                if now > until {
                    break;
                }
            }
            now = now.max(until);
            let start = Start { since: at(now), ..made[n].1.clone() };
            match pace.ask(&made[n].0, &start, &limits, at(now)) {
                Turn::Now => given.push((now, n)),
                Turn::Wait(text) => {
                    prop_assert!(text.starts_with("waits for its turn: "), "{}", text);
                    waiting += 1;
                }
            }
            prop_assert_eq!(pace.waiting(), waiting);
        }
        let mut steps = 0;
        while pace.waiting() > 0 {
            steps += 1;
            prop_assert!(steps < 10_000, "somebody never has a turn");
            let next = pace.next(&limits).unwrap();
            now = (now + 1).max(i64::try_from(next.duration_since(at(0)).as_millis()).unwrap());
            for name in pace.grant(&limits, at(now)) {
                given.push((now, made.iter().position(|(m, _)| *m == name).unwrap()));
            }
        }
        prop_assert_eq!(given.len(), all.len());
        let times = |of: &dyn Fn(&Asking) -> bool| -> Vec<i64> {
            given.iter().filter(|(_, who)| of(&all[*who])).map(|(time, _)| *time).collect()
        };
        prop_assert!(!too_many(&times(&|_| true), 60), "in all");
        for rack in 0..3 {
            prop_assert!(!too_many(&times(&|a| a.rack == rack), 30), "rack {}", rack);
            for class in 0..2 {
                prop_assert!(!too_many(&times(&|a| a.rack == rack && a.class == Some(class)), 15), "class in rack");
            }
        }
        for class in 0..2 {
            prop_assert!(!too_many(&times(&|a| a.class == Some(class)), 20), "class {}", class);
        }
    }
}
