//! Behaviours in which the embedded API still differs from the real one. It is a list of work, not of permissions: a behaviour that is not on it must
//! hold, and one that is on it and holds fails the run until it is taken off.

/// Their names.
pub const OPEN: &[&str] = &[
    "Event: a core one keeps its form",
    "Event: a new one needs its time",
    "Event: made in events.k8s.io, seen in core",
    "JSON patch: an unknown operation",
    "Lease: times need their microseconds",
    "Secret: data that is no base64",
    "definitions: a default of another type is refused",
    "definitions: a property without a type is refused",
    "definitions: a schema without a type is refused",
    "definitions: an unknown type is refused",
    "definitions: what was stored before shows new defaults",
    "namespaces: what waits is told in conditions",
    "owners: a reference without a name is refused",
    "reviews: nothing is stored",
    "rules: one of another type is refused",
    "rules: one that does not parse is refused",
    "rules: one with an unknown field is refused",
    "rules: one with an unknown function is refused",
    "table: of ConfigMaps",
    "table: of Secrets",
    "watch: a version that is no number",
    "watch: a version that is too old",
    "watch: sendInitialEvents goes with NotOlderThan only",
];
