//! The differential run: the same random requests to both servers, and every answer compared.
//!
//! A sequence is a list of [`Step`]s that proptest makes from a seed. It works in a namespace of its own, with few names, so that requests meet each
//! other. A step names versions and objects by what was seen before ("the version before last of `a`"), so that it means the same on both servers.
//!
//! A run goes on after a difference, so that it tells many at once, grouped by what differs; the sequence itself ends where the two servers no longer
//! hold the same. The first differences are shrunk to the shortest sequence that still shows the same, each attempt in a fresh namespace.

pub mod difference;
pub mod exchange;
pub mod intended;
pub mod normal;
pub mod steps;
pub mod tally;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use anyhow::Result;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

use self::{
    difference::{Difference, Differences},
    exchange::Side,
    steps::Step,
    tally::Tally,
};
use crate::api::Api;

/// Attempts to make one sequence shorter.
const ATTEMPTS: usize = 300;

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests to each server, at least; attempts to shrink come on top.
    pub requests: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Sequences that run side by side.
    pub at_once: usize,
    /// Kinds of differences that are shrunk; the others are told as they were met.
    pub shrunk: usize,
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What was asked and answered.
    pub tally: Tally,
    differences: Mutex<Differences>,
}

impl Findings {
    fn differences(&self) -> std::sync::MutexGuard<'_, Differences> {
        self.differences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every kind of difference in words; `None` when there is none.
    pub fn told(&self) -> Option<String> {
        let differences = self.differences();
        (!differences.0.is_empty()).then(|| differences.to_string())
    }
}

/// The two servers that are compared in one run.
#[derive(Clone)]
struct Pair {
    embedded: Api,
    real: Api,
    namespaces: Arc<AtomicU64>,
    to_shrink: Arc<AtomicUsize>,
    findings: Arc<Findings>,
}

/// Runs a plan.
///
/// # Errors
/// When sequences cannot be made.
pub async fn run(embedded: &Api, real: &Api, plan: Plan) -> Result<Arc<Findings>> {
    let pair = Pair {
        embedded: embedded.clone(),
        real: real.clone(),
        namespaces: Arc::default(),
        to_shrink: Arc::new(AtomicUsize::new(plan.shrunk)),
        findings: Arc::default(),
    };
    let handle = tokio::runtime::Handle::current();
    let lanes = (0..plan.at_once).map(|lane| {
        let (pair, handle) = (pair.clone(), handle.clone());
        tokio::task::spawn_blocking(move || pair.one_lane(plan, lane as u64, &handle))
    });
    for result in futures::future::join_all(lanes).await {
        result??;
    }
    Ok(pair.findings)
}

/// Takes one of what is left, if anything is.
fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
}

impl Pair {
    fn one_lane(&self, plan: Plan, lane: u64, handle: &tokio::runtime::Handle) -> Result<()> {
        let seed = plan.seed + lane;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let config = Config {
            failure_persistence: None,
            ..Config::default()
        };
        let mut runner = TestRunner::new_with_rng(config, rng);
        let strategy = steps::sequence();
        let mut number = 0;
        while self.findings.tally.of("requests") < plan.requests as u64 {
            number += 1;
            let mut tree = strategy.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?;
            let sequence = tree.current();
            for (step, difference) in handle.block_on(self.one_sequence(&sequence, Some(&self.findings.tally))) {
                let place = format!("seed {seed}, sequence {number}, step {step}");
                if !self.findings.differences().note(&place, &difference) || !take(&self.to_shrink) {
                    continue;
                }
                let told = self.shrink(&mut tree, &difference.sort, handle);
                if let (Some(told), Some(found)) = (told, self.findings.differences().0.get_mut(&difference.sort)) {
                    found.told = told;
                }
                // The tree is used up.
                break;
            }
        }
        Ok(())
    }

    /// The shortest sequence that still shows a kind of difference, in words.
    fn shrink(&self, tree: &mut impl ValueTree<Value = Vec<Step>>, sort: &str, handle: &tokio::runtime::Handle) -> Option<String> {
        let mut best = None;
        let mut going = tree.simplify();
        for _ in 0..ATTEMPTS {
            if !going {
                break;
            }
            let sequence = tree.current();
            let met = handle.block_on(self.one_sequence(&sequence, None));
            let same = met.into_iter().find(|(_, difference)| difference.sort == sort);
            going = match same {
                Some((last, difference)) => {
                    let steps: Vec<String> = sequence.iter().take(last + 1).map(|step| format!("    {step:?}")).collect();
                    best = Some(format!("shrunk to\n{}\n  {}", steps.join("\n"), difference.told));
                    tree.simplify()
                }
                None => tree.complicate(),
            };
        }
        best
    }

    /// Sends one sequence to both and gives the differences, each with the number of its step.
    async fn one_sequence(&self, sequence: &[Step], tally: Option<&Tally>) -> Vec<(usize, Difference)> {
        let name = format!("d{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let (mut left, mut right) = (Side::new(&self.embedded, &name), Side::new(&self.real, &name));
        // A cluster puts this ConfigMap into every namespace. It is made here so that it is there on both from the beginning; no step selects it, but
        // a page ends before it.
        let authority = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kube-root-ca.crt" } });
        for api in [&self.embedded, &self.real] {
            api.post("/api/v1/namespaces", &body).await.ok(201);
            api.post(&format!("/api/v1/namespaces/{name}/configmaps"), &authority).await;
        }
        let mut met = Vec::new();
        for (number, step) in sequence.iter().enumerate() {
            let (embedded, real) = tokio::join!(left.perform(number, step), right.perform(number, step));
            if let Some(tally) = tally {
                tally.count(step, &real);
            }
            let Some(difference) = Difference::between(step, &embedded, &real) else {
                continue;
            };
            if !intended::applies(step, &embedded, &real) {
                met.push((number, difference));
            }
            if !(step.only_reads() || embedded.code >= 400 && real.code >= 400) {
                // From here on the two hold different objects.
                return met;
            }
        }
        let (embedded, real) = tokio::join!(left.streams(), right.streams());
        for ((watch, embedded), (_, real)) in embedded.iter().zip(&real) {
            met.extend(Difference::of_streams(watch, embedded, real).map(|difference| (sequence.len(), difference)));
        }
        met
    }
}
