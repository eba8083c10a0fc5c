//! Counters of the server, under the names of the real one where it has them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The verb.
    pub verb: &'static str,
    /// `plural.group`; only names of served resources, so that clients cannot grow it.
    pub resource: String,
    /// HTTP status.
    pub code: u16,
}

/// Labels of a latency.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct VerbLabels {
    /// The verb.
    pub verb: &'static str,
}

/// See the module's comment.
#[derive(Clone)]
pub struct Metrics {
    /// Requests by verb, resource and code.
    pub requests: Family<RequestLabels, Counter>,
    /// Latency of requests other than watches.
    pub latency: Family<VerbLabels, Histogram, fn() -> Histogram>,
    /// Open watches.
    pub watches: Gauge,
    /// Watches that were ended because they fell behind.
    pub slow_watches: Counter,
    /// Panics that were caught in requests and controllers.
    pub panics: Counter,
    /// Objects that the garbage collector removed.
    pub collected: Counter,
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Family::default(),
            latency: Family::new_with_constructor(histogram),
            watches: Gauge::default(),
            slow_watches: Counter::default(),
            panics: Counter::default(),
            collected: Counter::default(),
        }
    }
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("apiserver_request", "Requests by verb, resource and code", self.requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Latency of requests other than watches",
            self.latency.clone(),
        );
        registry.register("apiserver_watches", "Open watches", self.watches.clone());
        registry.register(
            "apiserver_slow_watches",
            "Watches ended because they fell behind",
            self.slow_watches.clone(),
        );
        registry.register("apiserver_panics", "Panics caught in requests and controllers", self.panics.clone());
        registry.register(
            "apiserver_garbage_collected",
            "Objects removed because their owners are gone",
            self.collected.clone(),
        );
    }
}
