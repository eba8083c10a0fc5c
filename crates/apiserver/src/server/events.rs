//! The two shapes of Event: core/v1 (as stored) and events.k8s.io/v1. They differ in the names of top-level fields only.

use serde_json::Value;

const RENAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// core/v1 to events.k8s.io/v1.
pub fn to_events_api(event: &mut Value) {
    rename(event, |(core, new)| (core, new));
}

/// events.k8s.io/v1 to core/v1.
pub fn to_core(event: &mut Value) {
    rename(event, |(core, new)| (new, core));
}

fn rename(event: &mut Value, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(map) = event.as_object_mut() else { return };
    for pair in RENAMES {
        let (from, to) = direction(pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_shapes_convert_without_loss() {
        let core = json!({ "involvedObject": { "name": "a" }, "message": "m", "reason": "r", "source": {}, "reportingComponent": "c", "count": 2 });
        let mut event = core.clone();
        to_events_api(&mut event);
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["note"], "m");
        assert_eq!(event["reason"], "r");
        to_core(&mut event);
        assert_eq!(event, core);
    }
}
