//! The same random requests to both servers (`make conformance-differential`, and `make conformance-long` for many).

use std::time::Instant;

use conformance::{
    differential::{self, Plan},
    servers::{Embedded, Real},
};

/// Requests of a short run; `$KBM_REQUESTS` asks for another number, and `$KBM_SEED` for another seed.
const SHORT: usize = 1_500;
/// From here on everything must be met two hundred times.
const LONG: usize = 20_000;

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_answer_alike() {
    let embedded = Embedded::start().await.expect("the embedded API starts");
    let real = Real::start().await.expect("the real API starts");
    let plan = Plan {
        requests: number("KBM_REQUESTS", SHORT),
        seed: number("KBM_SEED", 1) as u64,
        at_once: 4,
        shrunk: number("KBM_SHRINK", 3),
    };
    let started = Instant::now();
    let findings = differential::run(&embedded.api, &real.api, plan).await.expect("sequences are made");
    let tally = &findings.tally;
    println!("{tally}\nin {:?}", started.elapsed());
    if let Some(told) = findings.told() {
        panic!("{told}");
    }
    assert_eq!(embedded.server.panics(), 0);
    assert!(tally.of("requests") >= plan.requests as u64);
    let rare = tally.rarer_than(if plan.requests >= LONG { 200 } else { 1 });
    assert!(rare.is_empty(), "met too seldom: {rare:?}");
}
