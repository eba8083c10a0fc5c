//! The two shapes of Event: core/v1 (as stored) and events.k8s.io/v1. They differ in the names of top-level fields, and in which of them are
//! written when they are empty.

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
    if let Some(map) = event.as_object_mut() {
        map.retain(|field, value| value != "" || !matches!(field.as_str(), "reportingController" | "reportingInstance"));
    }
}

/// events.k8s.io/v1 to core/v1.
pub fn to_core(event: &mut Value) {
    rename(event, |(core, new)| (new, core));
    if let Some(map) = event.as_object_mut() {
        for field in ["reportingComponent", "reportingInstance"] {
            map.entry(field).or_insert_with(|| Value::from(""));
        }
    }
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
        let core = json!({
            "involvedObject": { "name": "a" }, "message": "m", "reason": "r", "source": {}, "reportingComponent": "c", "reportingInstance": "", "count": 2,
        });
        let mut event = core.clone();
        to_events_api(&mut event);
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["note"], "m");
        assert_eq!(event["reason"], "r");
        assert!(event.get("reportingInstance").is_none());
        to_core(&mut event);
        assert_eq!(event, core);
    }
}
