//! Table rows: the printer columns of definitions, and the columns that kubectl shows for the core kinds.

use serde_json::{Value, json};

use super::metadata::text;
use super::registry::{ResourceInfo, Special};

struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    description: &'static str,
    priority: i32,
}

const fn column(name: &'static str, kind: &'static str, description: &'static str, priority: i32) -> Column {
    Column { name, kind, format: "", description, priority }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.",
    priority: 0,
};
const AGE: Column = column("Age", "string", "CreationTimestamp is a timestamp representing the server time when this object was created.", 0);

const EVENT: [Column; 11] = [
    column("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded.", 0),
    column("Type", "string", "Type of this event (Normal, Warning), new types could be added in the future", 0),
    column("Reason", "string", "A short, machine understandable string that gives the reason for the transition.", 0),
    column("Object", "string", "The object that this event is about.", 0),
    column("Subobject", "string", "The part of the object that this event is about.", 1),
    column("Source", "string", "The component reporting this event.", 1),
    column("Message", "string", "A human-readable description of the status of this operation.", 0),
    column("First Seen", "string", "The time at which the event was first recorded.", 1),
    column("Count", "string", "The number of times this event has occurred.", 1),
    Column { name: "Name", kind: "string", format: "name", description: NAME.description, priority: 1 },
    column("Age", "string", AGE.description, 1),
];
const NAMESPACE: [Column; 3] = [NAME, column("Status", "string", "The status of the namespace", 0), AGE];
const SECRET: [Column; 4] =
    [NAME, column("Type", "string", "Used to facilitate programmatic handling of secret data.", 0), column("Data", "string", "Data contains the secret data.", 0), AGE];
const CONFIG_MAP: [Column; 3] = [NAME, column("Data", "string", "Data contains the configuration data.", 0), AGE];
const LEASE: [Column; 3] = [NAME, column("Holder", "string", "holderIdentity contains the identity of the holder of a current lease.", 0), AGE];
const SERVICE_ACCOUNT: [Column; 3] = [NAME, column("Secrets", "string", "Secrets is a list of secrets allowed to be used by pods", 0), AGE];
const DEFINITION: [Column; 2] = [NAME, Column { name: "Created At", kind: "date", format: "", description: AGE.description, priority: 0 }];

fn columns(special: Special) -> &'static [Column] {
    match special {
        Special::Custom => &[],
        Special::Namespace => &NAMESPACE,
        Special::Definition => &DEFINITION,
        Special::CoreEvent | Special::Event => &EVENT,
        Special::Secret => &SECRET,
        Special::ConfigMap => &CONFIG_MAP,
        Special::Lease => &LEASE,
        Special::ServiceAccount => &SERVICE_ACCOUNT,
    }
}

/// The column definitions of a resource.
pub fn definitions(info: &ResourceInfo) -> Vec<Value> {
    if info.custom() {
        return info.columns.definitions();
    }
    columns(info.special)
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        })
        .collect()
}

/// The cells of an object.
pub fn cells(info: &ResourceInfo, object: &Value) -> Vec<Value> {
    let now = jiff::Timestamp::now();
    if info.custom() {
        return info.columns.row(object, now);
    }
    let name = json!(text(object, "name"));
    let age = json!(age(text(object, "creationTimestamp"), now));
    let count = |fields: &[&str]| -> usize {
        fields.iter().map(|field| object.get(field).map_or(0, |value| value.as_object().map_or_else(|| value.as_array().map_or(0, Vec::len), serde_json::Map::len))).sum()
    };
    match info.special {
        Special::Custom => Vec::new(),
        Special::Namespace => vec![name, object.pointer("/status/phase").cloned().unwrap_or_else(|| json!("")), age],
        Special::Definition => vec![name, json!(text(object, "creationTimestamp"))],
        Special::Secret => vec![name, object.get("type").cloned().unwrap_or_else(|| json!("")), json!(count(&["data"])), age],
        Special::ConfigMap => vec![name, json!(count(&["data", "binaryData"])), age],
        Special::Lease => vec![name, object.pointer("/spec/holderIdentity").cloned().unwrap_or_else(|| json!("")), age],
        Special::ServiceAccount => vec![name, json!(count(&["secrets"])), age],
        Special::CoreEvent | Special::Event => {
            let mut event = object.clone();
            super::events::to_core(&mut event);
            event_cells(&event, name, now)
        }
    }
}

fn event_cells(event: &Value, name: Value, now: jiff::Timestamp) -> Vec<Value> {
    let get = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let first = if get("/firstTimestamp").is_empty() { get("/eventTime") } else { get("/firstTimestamp") };
    let first_seen = age(first, now);
    let last_seen = match (get("/series/lastObservedTime"), get("/lastTimestamp")) {
        ("", "") => first_seen.clone(),
        ("", last) => age(last, now),
        (last, _) => age(last, now),
    };
    let times = event.pointer("/series/count").or_else(|| event.get("count")).and_then(Value::as_i64).filter(|count| *count > 0).unwrap_or(1);
    let target = format!("{}/{}", get("/involvedObject/kind").to_lowercase(), get("/involvedObject/name"));
    let component = if get("/source/component").is_empty() { get("/reportingComponent") } else { get("/source/component") };
    let host = if get("/source/host").is_empty() { get("/reportingInstance") } else { get("/source/host") };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        json!(last_seen),
        json!(get("/type")),
        json!(get("/reason")),
        json!(target),
        json!(get("/involvedObject/fieldPath")),
        json!(source),
        json!(get("/message").trim()),
        json!(first_seen),
        json!(times.to_string()),
        name,
        json!(age(event.pointer("/metadata/creationTimestamp").and_then(Value::as_str).unwrap_or_default(), now)),
    ]
}

/// How long ago a time was, as kubectl says it.
fn age(at: &str, now: jiff::Timestamp) -> String {
    let Ok(at) = at.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    human_duration(now.as_second() - at.as_second())
}

fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days, years) = (seconds / 60, seconds / 3600, seconds / 86_400, seconds / 31_536_000);
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    if seconds < -1 {
        "<invalid>".to_owned()
    } else if seconds < 0 {
        "0s".to_owned()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 2920 {
        two(years, 'y', days % 365, 'd')
    } else {
        format!("{years}y")
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (125, "2m5s"), (660, "11m"), (7_200, "120m"), (11_100, "3h5m"), (90_000, "25h"), (180_000, "2d2h"), (86_400 * 10, "10d")]
        {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
