//! Speed and memory of the embedded API beside a real etcd and kube-apiserver: `make bench-api`.
//!
//! Both are loaded by the same clients, over TLS, one after the other in one run, each with its data on the same disk and every acknowledged write synced to
//! it. CPU time is that of the server processes alone (etcd and kube-apiserver together; the embedded API runs as a child process), so that the clients,
//! which share the machine, do not count. Operations per CPU second are therefore the figure to compare; operations per second are as good as clients and
//! server together on this machine.
//!
//! It fails when a goal is missed: at least [`SPEED`] times the operations per CPU second in every phase, at most one in [`MEMORY`] of the memory.

#![recursion_limit = "256"]

mod load;
mod side;

use anyhow::{Result, bail};
use load::Figures;
use side::Side;

/// The allocator of the `kube-baremetal` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much more work per CPU second is wanted.
const SPEED: f64 = 3.0;
/// How much less memory is wanted.
const MEMORY: f64 = 10.0;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.next().as_deref() {
        Some(side::SERVE) => runtime.block_on(side::serve(arguments.next().unwrap_or_default().as_ref())),
        // A name filters phases.
        filter => runtime.block_on(compare(filter.unwrap_or_default())),
    }
}

async fn compare(filter: &str) -> Result<()> {
    let mut results = Vec::new();
    for side in ["kube-apiserver and etcd", "embedded"] {
        let running = match results.len() {
            0 => Side::real().await?,
            _ => Side::embedded().await?,
        };
        eprintln!("{side}: {} ...", load::PLAN);
        results.push((load::run(&running, filter).await?, running.memory_peak()?));
    }
    let [(real, real_memory), (ours, our_memory)] = &results[..] else {
        bail!("two sides")
    };

    println!(
        "\n{:<26} {:>26} {:>26} {:>8}\n{:<26} {:>26} {:>26} {:>8}",
        "", "kube-apiserver and etcd", "embedded", "ratio", "", "ops/s   p50   p99 ms", "ops/s   p50   p99 ms", "ops/s"
    );
    for (real, ours) in real.iter().zip(ours) {
        println!(
            "{:<26} {} {} {:>8.1}",
            ours.phase,
            timing(real),
            timing(ours),
            ours.per_second() / real.per_second()
        );
    }
    println!(
        "\n{:<26} {:>26} {:>26} {:>8}",
        "", "ops per CPU second", "ops per CPU second", "ratio"
    );
    let mut missed = Vec::new();
    for (real, ours) in real.iter().zip(ours) {
        let ratio = ours.per_cpu_second() / real.per_cpu_second();
        println!("{:<26} {} {} {ratio:>8.1}", ours.phase, cost(real), cost(ours));
        if ratio < SPEED {
            missed.push(format!(
                "{}: {ratio:.1} times the operations per CPU second, {SPEED} are wanted",
                ours.phase
            ));
        }
    }
    let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
    let ratio = *real_memory as f64 / *our_memory as f64;
    println!(
        "{:<26} {:>22.0} MiB {:>22.0} MiB {:>8.1}\n",
        "peak of resident memory",
        mib(real_memory),
        mib(our_memory),
        ratio
    );
    if ratio < MEMORY {
        missed.push(format!("memory: one in {ratio:.1}, one in {MEMORY} is wanted"));
    }
    if !missed.is_empty() {
        bail!("goals missed: {}", missed.join("; "));
    }
    println!("goals reached: at least {SPEED} times the operations per CPU second in every phase, at most one in {MEMORY} of the memory");
    Ok(())
}

fn timing(figures: &Figures) -> String {
    format!(
        "{:>10.0} {:>7.1} {:>7.1}",
        figures.per_second(),
        figures.percentile(50) * 1e3,
        figures.percentile(99) * 1e3
    )
}

fn cost(figures: &Figures) -> String {
    format!("{:>17.0} {:>6.2} s", figures.per_cpu_second(), figures.cpu)
}
