//! The differential run: the same random requests to both servers, and every answer compared.
//!
//! A sequence is a list of [`Step`]s that proptest makes from a seed. It works in a namespace of its own, with few names, so that requests meet each
//! other. A step names versions and objects by what was seen before ("the version before last of `a`"), so that it means the same on both servers.
//! A sequence that ends differently is shrunk to a short one.

pub mod exchange;
pub mod intended;
pub mod normal;
pub mod steps;
pub mod tally;

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use anyhow::{Result, anyhow};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use serde_json::json;

use self::{exchange::Side, steps::Step, tally::Tally};
use crate::api::Api;

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests to each server, at least.
    pub requests: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Sequences that run side by side.
    pub at_once: usize,
}

/// What two servers are compared in one run.
#[derive(Clone)]
struct Pair {
    embedded: Api,
    real: Api,
    namespaces: Arc<AtomicU64>,
    tally: Arc<Tally>,
}

/// Runs a plan.
///
/// # Errors
/// With the shortest sequence that was found to end differently, and how.
pub async fn run(embedded: &Api, real: &Api, plan: Plan) -> Result<Arc<Tally>> {
    let pair = Pair {
        embedded: embedded.clone(),
        real: real.clone(),
        namespaces: Arc::default(),
        tally: Arc::default(),
    };
    let left = Arc::new(AtomicUsize::new(plan.requests));
    let handle = tokio::runtime::Handle::current();
    let lanes = (0..plan.at_once).map(|lane| {
        let (pair, left, handle) = (pair.clone(), left.clone(), handle.clone());
        tokio::task::spawn_blocking(move || one_lane(&pair, plan.seed + lane as u64, &left, &handle))
    });
    let mut failures = Vec::new();
    for result in futures::future::join_all(lanes).await {
        failures.extend(result?.err());
    }
    if failures.is_empty() {
        Ok(pair.tally)
    } else {
        Err(anyhow!("{}", failures.join("\n\n")))
    }
}

fn one_lane(pair: &Pair, seed: u64, left: &AtomicUsize, handle: &tokio::runtime::Handle) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config {
        cases: 1,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let strategy = steps::sequence();
    let mut number = 0;
    while left.load(Ordering::Relaxed) > 0 {
        number += 1;
        let tree = strategy.new_tree(&mut runner).map_err(|reason| reason.to_string())?;
        let result = runner.run_one(tree, |sequence| {
            let sent = sequence.len();
            let outcome = handle.block_on(one_sequence(pair, &sequence));
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(sent)))
                .expect("it always gives a number");
            outcome.map_err(TestCaseError::fail)
        });
        match result {
            Ok(_) => {}
            Err(TestError::Fail(reason, sequence)) => {
                left.store(0, Ordering::Relaxed);
                let steps: Vec<String> = sequence.iter().enumerate().map(|(n, step)| format!("  {n}: {step:?}")).collect();
                return Err(format!("seed {seed}, sequence {number}, shrunk:\n{}\n{reason}", steps.join("\n")));
            }
            Err(TestError::Abort(reason)) => return Err(reason.to_string()),
        }
    }
    Ok(())
}

/// Sends one sequence to both; an error tells the first difference.
async fn one_sequence(pair: &Pair, sequence: &[Step]) -> Result<(), String> {
    let name = format!("d{}", pair.namespaces.fetch_add(1, Ordering::Relaxed));
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    let (mut left, mut right) = (Side::new(&pair.embedded, &name), Side::new(&pair.real, &name));
    for api in [&pair.embedded, &pair.real] {
        api.post("/api/v1/namespaces", &body).await.ok(201);
    }
    for (number, step) in sequence.iter().enumerate() {
        let (embedded, real) = tokio::join!(left.perform(number, step), right.perform(number, step));
        pair.tally.count(step, &real);
        if embedded != real && !intended::applies(step, &embedded, &real) {
            return Err(format!("step {number} {step:?}:\n  embedded {embedded}\n  real     {real}"));
        }
    }
    let (embedded, real) = tokio::join!(left.streams(), right.streams());
    for ((watch, embedded), (_, real)) in embedded.iter().zip(&real) {
        if embedded != real {
            return Err(format!(
                "{watch}:\n  embedded {}\n  real     {}",
                embedded.join("\n           "),
                real.join("\n           ")
            ));
        }
    }
    Ok(())
}
