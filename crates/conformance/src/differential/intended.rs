//! Where the embedded API differs on purpose, each with its reason. `docs/conformance.md` tells the same to people, and a test compares the two.

use super::{
    exchange::Seen,
    steps::{Part, Patch, Step},
};

/// A difference that is meant.
#[derive(Debug)]
pub struct Intended {
    /// What differs.
    pub what: &'static str,
    /// Why it is meant.
    pub why: &'static str,
    /// Whether two answers to a step differ in nothing but this. `None`: the run asks in a way that does not meet it.
    pub applies: Option<fn(&Step, &Seen, &Seen) -> bool>,
}

/// All of them; at most fifteen.
pub const INTENDED: &[Intended] = &[
    Intended {
        what: "No ConfigMap kube-root-ca.crt and no ServiceAccount default appear in a new namespace",
        why: "They exist for pods, and the embedded API runs none. The run makes that ConfigMap itself and leaves it out by a field selector.",
        applies: None,
    },
    Intended {
        what: "The cost of a CEL rule is not estimated when its definition is installed",
        why: "What a rule spends is counted while it runs, and it is stopped at the same limit as in the real server; so a rule can harm nobody. The run installs no rules.",
        applies: None,
    },
    Intended {
        what: "A null that is applied as a label or annotation is stored as the empty text that it is shown as",
        why: "The real server stores the null, so that a later update which changes nothing is written, and seen by watches, all the same. The run applies no such null.",
        applies: None,
    },
    Intended {
        what: "Server-side apply to /scale of a custom resource works where nobody owns the count yet",
        why: "The real server fails with an internal error (it cannot convert a Scale to the version of the resource), which helps nobody.",
        applies: Some(|step, _, real| {
            matches!(step, Step::Patch(_, _, Part::Scale, Patch::Apply(..), _))
                && real.text.contains("failed to create manager for existing fields")
        }),
    },
    Intended {
        what: "Kinds that are about running pods are not there: Pods, Services, Nodes, Deployments and their like",
        why: "The embedded API runs no pods. `kubectl cluster-info`, which looks for Services, and `kubectl drain` end with an error.",
        applies: None,
    },
];

/// Whether a difference is one of them.
pub fn applies(step: &Step, embedded: &Seen, real: &Seen) -> bool {
    INTENDED
        .iter()
        .filter_map(|intended| intended.applies)
        .any(|applies| applies(step, embedded, real))
}
