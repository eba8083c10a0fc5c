//! Figures about the operator itself and about the machines it keeps.
//!
//! Names are part of the interface: dashboards and alerts use them. Gauges of phases are counted from the caches when they are asked for, not kept by hand.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// One kind and how its reconcile ended: `ok`, `conflict`, `error`, `panic`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: String,
    result: String,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    kind: String,
    verb: String,
    result: String,
}

/// One kind and one phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    kind: String,
    phase: String,
}

/// Every figure.
pub struct Metrics {
    reconciles: Family<Reconcile, Counter>,
    reconcile_seconds: Family<Kind, Histogram>,
    decide_seconds: Family<Kind, Histogram>,
    requests: Family<Request, Counter>,
    phases: Family<Phase, Gauge<i64, AtomicI64>>,
    objects: Family<Kind, Gauge<i64, AtomicI64>>,
    queue_depth: Family<Kind, Gauge<i64, AtomicI64>>,
    events_dropped: Counter<u64, AtomicU64>,
    progress_deferred: Counter<u64, AtomicU64>,
    progress_written: Counter<u64, AtomicU64>,
    watch_errors: Family<Kind, Counter>,
    leading: Gauge<i64, AtomicI64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        Self {
            reconciles: Family::default(),
            reconcile_seconds: Family::new_with_constructor(|| Histogram::new([0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0])),
            decide_seconds: Family::new_with_constructor(|| Histogram::new([0.00001, 0.00005, 0.0002, 0.001, 0.005, 0.05])),
            requests: Family::default(),
            phases: Family::default(),
            objects: Family::default(),
            queue_depth: Family::default(),
            events_dropped: Counter::default(),
            progress_deferred: Counter::default(),
            progress_written: Counter::default(),
            watch_errors: Family::default(),
            leading: Gauge::default(),
        }
    }

    /// Adds every figure to a registry, below the prefix `kube_baremetal_operator`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("kube_baremetal_operator");
        registry.register("reconciles", "Reconciles by kind and how they ended", self.reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time of one reconcile, its API requests included",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        registry.register_with_unit(
            "decide_duration",
            "Time of one decision, without I/O",
            Unit::Seconds,
            self.decide_seconds.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server, watches excepted",
            self.requests.clone(),
        );
        registry.register("phase_objects", "Objects by kind and phase", self.phases.clone());
        registry.register("objects", "Objects by kind", self.objects.clone());
        registry.register("queue_depth", "Keys that are due and wait for a worker", self.queue_depth.clone());
        registry.register(
            "events_dropped",
            "Events not written because too many were waiting",
            self.events_dropped.clone(),
        );
        registry.register(
            "progress_deferred",
            "Progress writes put off to stay within their budget",
            self.progress_deferred.clone(),
        );
        registry.register(
            "progress_written",
            "Progress writes that were sent to the Kubernetes API",
            self.progress_written.clone(),
        );
        registry.register(
            "watch_errors",
            "Errors of watches, which are opened again",
            self.watch_errors.clone(),
        );
        registry.register(
            "leading",
            "Whether this replica is the one that works, where they take turns: 1 or 0",
            self.leading.clone(),
        );
    }

    pub(crate) fn reconciled(&self, kind: &'static str, result: &'static str, took: Duration) {
        let label = Reconcile {
            kind: kind.to_owned(),
            result: result.to_owned(),
        };
        self.reconciles.get_or_create(&label).inc();
        self.reconcile_seconds
            .get_or_create(&Kind { kind: kind.to_owned() })
            .observe(took.as_secs_f64());
    }

    /// How many reconciles of a kind ended in a given way.
    pub fn reconciles(&self, kind: &str, result: &str) -> u64 {
        let label = Reconcile {
            kind: kind.to_owned(),
            result: result.to_owned(),
        };
        self.reconciles.get_or_create(&label).get()
    }

    pub(crate) fn decided(&self, kind: &'static str, took: Duration) {
        self.decide_seconds
            .get_or_create(&Kind { kind: kind.to_owned() })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn requested(&self, kind: &str, verb: &'static str, result: &'static str) {
        let label = Request {
            kind: kind.to_owned(),
            verb: verb.to_owned(),
            result: result.to_owned(),
        };
        self.requests.get_or_create(&label).inc();
    }

    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    pub(crate) fn progress_deferred(&self) {
        self.progress_deferred.inc();
    }

    pub(crate) fn progress_written(&self) {
        self.progress_written.inc();
    }

    pub(crate) fn watch_failed(&self, kind: &str) {
        self.watch_errors.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    pub(crate) fn set_leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    pub(crate) fn set_phase(&self, kind: &str, phase: &str, count: usize) {
        let label = Phase {
            kind: kind.to_owned(),
            phase: phase.to_owned(),
        };
        self.phases.get_or_create(&label).set(count as i64);
    }

    pub(crate) fn set_objects(&self, kind: &str, count: usize) {
        self.objects.get_or_create(&Kind { kind: kind.to_owned() }).set(count as i64);
    }

    pub(crate) fn set_queue_depth(&self, kind: &str, depth: usize) {
        self.queue_depth.get_or_create(&Kind { kind: kind.to_owned() }).set(depth as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_under_their_names() {
        let metrics = Metrics::new();
        metrics.reconciled("BareMetalHardware", "ok", Duration::from_millis(3));
        metrics.requested("BareMetalHardware", "replaceStatus", "ok");
        metrics.set_phase("BareMetalHardware", "Ready", 7);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains(r#"kube_baremetal_operator_reconciles_total{kind="BareMetalHardware",result="ok"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"kube_baremetal_operator_phase_objects{kind="BareMetalHardware",phase="Ready"} 7"#),
            "{text}"
        );
        assert!(text.contains("kube_baremetal_operator_reconcile_duration_seconds_bucket"), "{text}");
    }
}
