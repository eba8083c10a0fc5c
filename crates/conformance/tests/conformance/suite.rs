//! The suite, on both servers.

use std::collections::HashSet;

use conformance::{
    behaviour::{self, Behaviour},
    servers::{Embedded, Real},
    suite,
};

/// Behaviours to run: all, or those whose name contains `$KBM_BEHAVIOURS`.
fn chosen() -> Vec<Behaviour> {
    let wanted = std::env::var("KBM_BEHAVIOURS").unwrap_or_default();
    let mut all = suite::all();
    all.retain(|behaviour| behaviour.name.contains(&wanted));
    all
}

/// Every item of the list that the suite has to cover, and how the names of its behaviours begin.
const COVERED: &[&str] = &[
    "create: ",
    "get: ",
    "update: ",
    "delete: ",
    "generateName: ",
    "concurrency: ",
    "delete: with both preconditions met",
    "owners: foreground",
    "owners: orphaning",
    "finalizers: ",
    "owners: one that never was",
    "owners: in another namespace",
    "namespaces: deletion",
    "list: limit",
    "list: continue",
    "list: resourceVersionMatch",
    "watch: bookmarks",
    "watch: initial events",
    "watch: ends after its time",
    "watch: a version that is too old",
    "label selector: ",
    "field selector: ",
    "field selector: \"spec.color",
    "status: ",
    "scale: ",
    "JSON patch: ",
    "merge patch: ",
    "strategic merge: ",
    "apply: ",
    "apply: another value is a conflict",
    "apply: force",
    "apply: list maps",
    "dry run: ",
    "field validation: Strict",
    "field validation: Warn",
    "field validation: Ignore",
    "pruning: ",
    "defaults: ",
    "CEL: ",
    "rules: a transition rule",
    "rules: a message",
    "definitions: ",
    "definitions: a new field",
    "versions: ",
    "table: ",
    "OpenAPI v2: ",
    "OpenAPI v3: ",
    "discovery: aggregated",
    "reviews: SubjectAccessReview",
    "access: a role",
    "tokens: ",
    "reviews: SelfSubjectRulesReview",
    "Event: made in core",
    "Event: made in events.k8s.io",
    "Lease: ",
    "refusals: ",
];

#[test]
fn behaviours_have_names_of_their_own_and_cover_the_list() {
    let all = suite::all();
    let names: HashSet<&str> = all.iter().map(|behaviour| behaviour.name.as_ref()).collect();
    assert_eq!(names.len(), all.len(), "a name is there twice");
    assert!(names.len() >= 250, "{} behaviours", names.len());
    for item in COVERED {
        assert!(names.iter().any(|name| name.starts_with(item)), "nothing covers {item:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_api_behaves() {
    let embedded = Embedded::start().await.expect("the embedded API starts");
    let behaviours = chosen();
    let failures = if std::env::var_os("KBM_FIRST_FAILURE").is_some() {
        Vec::from_iter(behaviour::first_failure(&embedded.api, &behaviours).await)
    } else {
        behaviour::run(&embedded.api, &behaviours).await
    };
    let report = behaviour::report("embedded", behaviours.len(), &failures);
    println!("{report}");
    assert!(failures.is_empty(), "{report}");
    assert_eq!(embedded.server.panics(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_api_behaves() {
    let real = Real::start().await.expect("the real API starts");
    let behaviours = chosen();
    let mut failures = behaviour::run(&real.api, &behaviours).await;
    // The real server opens a changed definition's storage when it gets to it (429, 503), and its garbage collector comes when it is not busy. What fails beside hundreds of others gets
    // its turns alone; what is wrong fails alone too.
    for _ in 0..3 {
        if failures.is_empty() {
            break;
        }
        let again: Vec<_> = chosen().into_iter().filter(|b| failures.iter().any(|f| f.name == b.name)).collect();
        failures = behaviour::run(&real.api, &again).await;
    }
    let report = behaviour::report("real", behaviours.len(), &failures);
    println!("{report}");
    assert!(failures.is_empty(), "{report}");
}
