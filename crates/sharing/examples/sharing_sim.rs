//! Prints the tables of docs/sharing.md: `make sharing-sim`.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sharing::Time;
use sharing::sim::{MBIT, Oddity, Order, Outcome, Policy, Scenario, ServerRule};

/// A row: its name, what is simulated, and one machine alone under the same conditions.
type Row = (String, Scenario);

struct Table {
    title: &'static str,
    rows: Vec<Row>,
}

fn row(name: impl Into<String>, change: impl FnOnce(&mut Scenario)) -> Row {
    let mut scenario = Scenario::default();
    change(&mut scenario);
    (name.into(), scenario)
}

fn baseline(order: Order, rule: ServerRule, told: Option<f64>) -> Policy {
    Policy::Baseline {
        order,
        rule,
        told_every: told.map(Time::from_secs_f64),
    }
}

/// Many machines write a smaller image, so that a run takes seconds; the figures are ratios.
fn many(scenario: &mut Scenario, machines: usize) {
    scenario.machines = machines;
    if machines > 64 {
        (scenario.stored, scenario.chunks) = (50_000_000, 180);
    }
}

fn policies() -> Table {
    let one = Some(1.0);
    let named = [
        ("server only", Policy::ServerOnly, 1000),
        ("sequential", baseline(Order::Sequential, ServerRule::Freely, one), 64),
        ("random", baseline(Order::Random, ServerRule::Freely, one), 64),
        ("rarest first", baseline(Order::RarestFirst, ServerRule::Freely, one), 64),
        (
            "rarest first, server if nobody has it, known for 1 s",
            baseline(Order::RarestFirst, ServerRule::IfNobodyHas, one),
            256,
        ),
        (
            "rarest first, server if nobody has it, known for 5 s",
            baseline(Order::RarestFirst, ServerRule::IfNobodyHas, Some(5.0)),
            64,
        ),
        (
            "rarest first, server if nobody has it, known at once",
            baseline(Order::RarestFirst, ServerRule::IfNobodyHas, None),
            64,
        ),
        ("grants (ours)", Policy::Ours, 1000),
    ];
    let mut rows = Vec::new();
    for (name, policy, most) in named {
        for machines in [4, 16, 64, 256, 1000].into_iter().filter(|&machines| machines <= most) {
            rows.push(row(format!("{name}, {machines}"), |it| {
                many(it, machines);
                it.policy = policy;
                if policy == Policy::ServerOnly && machines > 64 {
                    // So many transfers of one link are all alike: few and long ones give the same figures sooner.
                    (it.chooser.fetches, it.group_bytes) = (1, 8 << 20);
                }
            }));
        }
    }
    Table {
        title: "Policies, by number of machines",
        rows,
    }
}

fn rates() -> Table {
    let mut rows = Vec::new();
    for machines in [16, 64] {
        for (link, server) in [
            (100.0, 10.0),
            (100.0, 1000.0),
            (1000.0, 100.0),
            (1000.0, 1000.0),
            (1000.0, 10_000.0),
        ] {
            if machines == 64 && server < 100.0 {
                continue;
            }
            rows.push(row(format!("{machines} machines at {link} Mbit/s, server at {server}"), |it| {
                it.machines = machines;
                (it.link, it.server) = (link * MBIT, server * MBIT);
            }));
        }
    }
    Table {
        title: "Rates of links and server",
        rows,
    }
}

fn sizes() -> Table {
    let group = |kib: u64| row(format!("{kib} KiB"), |it| it.group_bytes = kib << 10);
    Table {
        title: "Bytes of a fetch, 16 machines",
        rows: [256, 512, 1024, 2048, 4096, 8192].into_iter().map(group).collect(),
    }
}

fn parallel() -> Table {
    let mut rows = Vec::new();
    for fetches in [2, 4, 6, 8, 12] {
        for slots in [3, 4, 6, 8, 12] {
            rows.push(row(format!("{fetches} fetches, {slots} uploads"), |it| {
                it.chooser.fetches = fetches;
                it.slots.slots = slots;
            }));
        }
    }
    Table {
        title: "Fetches and upload slots, 16 machines",
        rows,
    }
}

fn bad() -> Table {
    let odd = |name: &str, odd: Vec<(usize, Oddity)>| row(name, |it| it.odd = odd);
    let mut rows = vec![
        odd("all well", Vec::new()),
        odd("one gives wrong bytes", vec![(3, Oddity::WrongBytes)]),
        odd("one says it has everything, and gives wrong bytes", vec![(3, Oddity::Liar)]),
        odd("one takes requests and never answers", vec![(3, Oddity::Silent)]),
        odd("one has pieces granted and fetches none", vec![(3, Oddity::Hoarder)]),
        odd("one slanders everybody", vec![(3, Oddity::Slanderer)]),
        odd("one sends at a twentieth", vec![(3, Oddity::Slow(0.05))]),
        odd("one loses power after 10 s", vec![(3, Oddity::Cut(10.0))]),
        odd("one ends its task after 10 s", vec![(3, Oddity::Leaves(10.0))]),
        odd("four give wrong bytes", (0..4).map(|at| (at, Oddity::WrongBytes)).collect()),
        odd("eight give wrong bytes", (0..8).map(|at| (at, Oddity::WrongBytes)).collect()),
        odd("eight never answer", (0..8).map(|at| (at, Oddity::Silent)).collect()),
        odd("all but one never answer", (1..16).map(|at| (at, Oddity::Silent)).collect()),
        odd(
            "all but four send at a hundredth",
            (4..16).map(|at| (at, Oddity::Slow(0.01))).collect(),
        ),
    ];
    rows.push(row("all well, plain rarest first", |it| {
        it.policy = baseline(Order::RarestFirst, ServerRule::IfNobodyHas, Some(1.0))
    }));
    rows.push(row("one never answers, plain rarest first", |it| {
        it.policy = baseline(Order::RarestFirst, ServerRule::IfNobodyHas, Some(1.0));
        it.odd = vec![(3, Oddity::Silent)];
    }));
    Table {
        title: "Bad machines among 16 (times are the others')",
        rows,
    }
}

fn conditions() -> Table {
    let mut rows = Vec::new();
    for seconds in [0.0, 5.0, 30.0, 120.0] {
        rows.push(row(format!("started within {seconds} s"), |it| it.spread = seconds));
    }
    for megabytes in [40, 80, 160] {
        rows.push(row(format!("each keeps {megabytes} MB of 350 to share"), |it| {
            it.keep = megabytes * 1_000_000
        }));
    }
    for milliseconds in [1.0, 20.0, 100.0] {
        rows.push(row(format!("{milliseconds} ms to the first byte"), |it| {
            it.round_trip = milliseconds / 1e3
        }));
    }
    rows.push(row("disks take 6 MB/s of stored bytes", |it| it.write_rate = 6e6));
    rows.push(row("machines leave when they are done", |it| it.linger = 0.0));
    for told in [6, 12, 30, 60] {
        rows.push(row(format!("256 machines, each told of {told}"), |it| {
            many(it, 256);
            it.tracker.told = told;
        }));
    }
    Table {
        title: "Other conditions, 16 machines unless said otherwise",
        rows,
    }
}

fn alone(scenario: &Scenario) -> Outcome {
    Scenario {
        machines: 1,
        policy: Policy::ServerOnly,
        odd: Vec::new(),
        ..scenario.clone()
    }
    .run()
}

fn line(name: &str, scenario: &Scenario) -> String {
    let (one, all) = (alone(scenario), scenario.run());
    let honest = (all.took.len() + all.unfinished) as f64;
    format!(
        "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {} | {} |",
        all.last() / one.last(),
        all.median() / one.last(),
        all.copies(),
        all.wasted / all.image / honest * 100.0,
        all.answers / all.image * 100.0,
        all.busy / scenario.machines as u64,
        if all.dropped > 0 {
            format!("{} ({})", all.dropped, all.expelled)
        } else {
            "0".to_owned()
        },
    )
}

/// The lines of a table's rows, worked out by two threads, the longest first.
fn lines(table: &Table) -> Vec<String> {
    let mut work: Vec<(usize, &Row)> = table.rows.iter().enumerate().collect();
    work.sort_by_key(|(_, (_, scenario))| std::cmp::Reverse(scenario.machines));
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); work.len()]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((at, (name, scenario))) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let line = line(name, scenario);
                    lines.lock().unwrap_or_else(PoisonError::into_inner)[*at] = line;
                }
            });
        }
    });
    lines.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for table in [bad(), sizes(), parallel(), rates(), conditions(), policies()] {
        writeln!(out, "### {}\n", table.title)?;
        writeln!(
            out,
            "| what | last | median | copies | wasted, % | answers, % | busy | dropped (expelled) |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for line in lines(&table) {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
