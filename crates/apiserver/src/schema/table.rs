//! The columns of `kubectl get`: from a definition's `additionalPrinterColumns`, or as the real server prints the
//! built-in kinds. Rows are made on request and hold nothing.

use super::gofmt;
use super::jsonpath::JsonPath;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The columns of one kind.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    cell: Cell,
}

#[derive(Debug)]
enum Cell {
    /// Printer column of a definition.
    Path(JsonPath),
    /// A function of a built-in kind.
    Made(fn(&Value, Timestamp) -> Value),
}

const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE_DESCRIPTION: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

fn made(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name: name.to_string(),
        kind: "string".into(),
        format: if name == "Name" { "name".into() } else { String::new() },
        description: match name {
            "Name" => NAME_DESCRIPTION.into(),
            "Age" => AGE_DESCRIPTION.into(),
            _ => String::new(),
        },
        priority: 0,
        cell: Cell::Made(cell),
    }
}

fn wide(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        priority: 1,
        ..made(name, cell)
    }
}

fn number(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        kind: "integer".into(),
        ..made(name, cell)
    }
}

impl Columns {
    /// The columns of one version of a definition (an entry of `spec.versions`).
    pub fn from_crd(version: &Value) -> Self {
        let mut columns = vec![made("Name", name)];
        let declared = version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .filter(|l| !l.is_empty());
        match declared {
            None => {
                let mut age = made("Age", age);
                age.kind = "date".into();
                columns.push(age);
            }
            Some(list) => {
                for column in list {
                    let text = |field: &str| column.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
                    let Ok(path) = JsonPath::parse(&text("jsonPath")) else { continue };
                    let description = match text("description") {
                        d if d.is_empty() => format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath")),
                        d => d,
                    };
                    columns.push(Column {
                        name: text("name"),
                        kind: text("type"),
                        format: text("format"),
                        description,
                        priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
                        cell: Cell::Path(path),
                    });
                }
            }
        }
        Self { columns }
    }

    /// The columns of a built-in kind; name and creation time for any other.
    pub fn for_builtin(group: &str, kind: &str) -> Self {
        let columns = match (group, kind) {
            ("", "Namespace") => vec![made("Name", name), made("Status", |o, _| at(o, "/status/phase")), made("Age", age)],
            ("", "Secret") => vec![
                made("Name", name),
                made("Type", |o, _| at(o, "/type")),
                made("Data", |o, _| count(o, &["/data"])),
                made("Age", age),
            ],
            ("", "ConfigMap") => vec![
                made("Name", name),
                made("Data", |o, _| count(o, &["/data", "/binaryData"])),
                made("Age", age),
            ],
            ("", "ServiceAccount") => vec![
                made("Name", name),
                made("Secrets", |o, _| count(o, &["/secrets"])),
                made("Age", age),
            ],
            ("coordination.k8s.io", "Lease") => vec![
                made("Name", name),
                made("Holder", |o, _| text_at(o, "/spec/holderIdentity")),
                made("Age", age),
            ],
            ("" | "events.k8s.io", "Event") => events(),
            ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
                let wide = |name: &str, cell| Column {
                    priority: 1,
                    ..made(name, cell)
                };
                vec![
                    made("Name", name),
                    made("Role", |o, _| {
                        json!(format!("{}/{}", word(o, "/roleRef/kind"), word(o, "/roleRef/name")))
                    }),
                    made("Age", age),
                    wide("Users", |o, _| subjects(o, "User")),
                    wide("Groups", |o, _| subjects(o, "Group")),
                    wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount")),
                ]
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                vec![
                    made("Name", name),
                    Column {
                        kind: "date".into(),
                        ..made("Created At", |o, _| at(o, "/metadata/creationTimestamp"))
                    },
                ]
            }
            _ => {
                let created = Column {
                    kind: "date".into(),
                    ..made("Created At", |o, _| at(o, "/metadata/creationTimestamp"))
                };
                vec![made("Name", name), created]
            }
        };
        Self { columns }
    }

    /// `columnDefinitions` of a Table.
    pub fn definitions(&self) -> Value {
        let list = self
            .columns
            .iter()
            .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}));
        Value::Array(list.collect())
    }

    /// The cells of one object.
    pub fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        self.columns
            .iter()
            .map(|column| match &column.cell {
                Cell::Made(cell) => cell(obj, now),
                Cell::Path(path) => custom(path, &column.kind, obj, now),
            })
            .collect()
    }
}

fn custom(path: &JsonPath, kind: &str, obj: &Value, now: Timestamp) -> Value {
    let found = path.find(obj);
    let Some(first) = found.first() else { return Value::Null };
    match kind {
        "integer" => match first {
            Value::Number(n) => gofmt_int(n).map_or(Value::Null, Value::from),
            Value::String(s) => s.parse::<i64>().map_or(Value::Null, Value::from),
            _ => Value::Null,
        },
        "number" => match first {
            Value::Number(n) => Value::Number(n.clone()),
            Value::String(s) => s.parse::<f64>().map_or(Value::Null, Value::from),
            _ => Value::Null,
        },
        "boolean" => match first {
            Value::Bool(b) => Value::Bool(*b),
            _ => Value::Null,
        },
        "string" => {
            let texts: Vec<String> = found.iter().map(|v| plain(v)).collect();
            Value::String(texts.join(","))
        }
        "date" => match first {
            Value::String(s) => Value::String(s.parse::<Timestamp>().map_or_else(|_| "<invalid>".to_string(), |t| since(t, now))),
            _ => Value::String("<unknown>".into()),
        },
        _ => Value::Null,
    }
}

#[allow(clippy::cast_possible_truncation)]
fn gofmt_int(n: &serde_json::Number) -> Option<i64> {
    match gofmt::Num::of(n) {
        gofmt::Num::Int(i) => Some(i),
        gofmt::Num::Float(f) if f.is_finite() => Some(f as i64),
        gofmt::Num::Float(_) => None,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => gofmt::sorted_json(other),
    }
}

fn at(obj: &Value, pointer: &str) -> Value {
    obj.pointer(pointer).cloned().unwrap_or_else(|| json!(""))
}

fn text_at(obj: &Value, pointer: &str) -> Value {
    obj.pointer(pointer).filter(|v| v.is_string()).cloned().unwrap_or_else(|| json!(""))
}

fn word<'a>(obj: &'a Value, pointer: &str) -> &'a str {
    obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The subjects of a binding that are of one kind.
fn subjects(obj: &Value, kind: &str) -> Value {
    let list = obj.get("subjects").and_then(Value::as_array).into_iter().flatten();
    let names = list.filter(|subject| word(subject, "/kind") == kind).map(|subject| {
        let name = word(subject, "/name");
        if kind == "ServiceAccount" {
            format!("{}/{name}", word(subject, "/namespace"))
        } else {
            name.to_owned()
        }
    });
    json!(names.collect::<Vec<_>>().join(", "))
}

fn count(obj: &Value, pointers: &[&str]) -> Value {
    let total: usize = pointers
        .iter()
        .filter_map(|p| obj.pointer(p))
        .map(|v| {
            v.as_object()
                .map(serde_json::Map::len)
                .or_else(|| v.as_array().map(Vec::len))
                .unwrap_or(0)
        })
        .sum();
    json!(total)
}

fn name(obj: &Value, _: Timestamp) -> Value {
    at(obj, "/metadata/name")
}

fn age(obj: &Value, now: Timestamp) -> Value {
    let created = obj
        .pointer("/metadata/creationTimestamp")
        .and_then(Value::as_str)
        .and_then(|t| t.parse::<Timestamp>().ok());
    json!(created.map_or_else(|| "<unknown>".to_string(), |t| since(t, now)))
}

fn time_of(obj: &Value, fields: &[&str]) -> Option<Timestamp> {
    fields
        .iter()
        .find_map(|f| obj.pointer(f).and_then(Value::as_str).and_then(|t| t.parse().ok()))
}

const FIRST: [&str; 3] = ["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"];
const LAST: [&str; 5] = [
    "/series/lastObservedTime",
    "/lastTimestamp",
    "/deprecatedLastTimestamp",
    "/eventTime",
    "/firstTimestamp",
];

fn since_any(obj: &Value, fields: &[&str], now: Timestamp) -> Value {
    json!(time_of(obj, fields).map_or_else(|| "<unknown>".to_string(), |t| since(t, now)))
}

fn either(obj: &Value, fields: &[&str]) -> Value {
    fields
        .iter()
        .find_map(|f| obj.pointer(f).filter(|v| v.as_str().is_some_and(|s| !s.is_empty())))
        .cloned()
        .unwrap_or_else(|| json!(""))
}

fn subject(obj: &Value) -> Option<&Value> {
    obj.get("involvedObject").or_else(|| obj.get("regarding"))
}

fn events() -> Vec<Column> {
    vec![
        made("Last Seen", |o, now| since_any(o, &LAST, now)),
        made("Type", |o, _| at(o, "/type")),
        made("Reason", |o, _| at(o, "/reason")),
        made("Object", |o, _| {
            let part = |f: &str| {
                subject(o)
                    .and_then(|s| s.get(f))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_string()
            };
            let (kind, object) = (part("kind").to_lowercase(), part("name"));
            json!(if object.is_empty() { kind } else { format!("{kind}/{object}") })
        }),
        wide("Subobject", |o, _| {
            json!(
                subject(o)
                    .and_then(|s| s.get("fieldPath"))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            )
        }),
        wide("Source", |o, _| {
            let host = either(o, &["/source/host", "/deprecatedSource/host"]);
            let component = either(
                o,
                &[
                    "/source/component",
                    "/deprecatedSource/component",
                    "/reportingComponent",
                    "/reportingController",
                ],
            );
            let (component, host) = (component.as_str().unwrap_or_default(), host.as_str().unwrap_or_default());
            json!(if host.is_empty() {
                component.to_string()
            } else {
                format!("{component}, {host}")
            })
        }),
        made("Message", |o, _| {
            json!(either(o, &["/message", "/note"]).as_str().unwrap_or_default().trim())
        }),
        wide("First Seen", |o, now| since_any(o, &FIRST, now)),
        number_wide("Count", |o, _| {
            let count = ["/series/count", "/count", "/deprecatedCount"]
                .iter()
                .find_map(|f| o.pointer(f).and_then(Value::as_i64).filter(|n| *n > 0));
            json!(count.unwrap_or(1))
        }),
        Column {
            priority: 1,
            ..made("Name", name)
        },
    ]
}

fn number_wide(label: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        priority: 1,
        ..number(label, cell)
    }
}

/// How long ago, as kubectl prints ages.
pub fn since(time: Timestamp, now: Timestamp) -> String {
    human_duration(now.as_second() - time.as_second())
}

/// `duration.HumanDuration`: two units at most, coarser the longer it is.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let two = |whole: i64, rest: i64, a: char, b: char| {
        if rest == 0 {
            format!("{whole}{a}")
        } else {
            format!("{whole}{a}{rest}{b}")
        }
    };
    let minutes = seconds / 60;
    if minutes < 10 {
        return two(minutes, seconds % 60, 'm', 's');
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        return two(hours, minutes % 60, 'h', 'm');
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 192 {
        return two(days, hours % 24, 'd', 'h');
    }
    if days < 365 * 2 {
        return format!("{days}d");
    }
    if days < 365 * 8 {
        return two(days / 365, days % 365, 'y', 'd');
    }
    format!("{}y", days / 365)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_those_of_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (315_360_000, "10y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn columns_follow_the_definition() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Cores", "type": "integer", "jsonPath": ".status.cores", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            {"name": "Gone", "type": "string", "jsonPath": ".nowhere"}
        ]});
        let columns = Columns::from_crd(&version);
        assert_eq!(columns.definitions()[3]["priority"], 1);
        let obj = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Ready", "cores": 4, "conditions": [{"type": "X", "status": "False"}, {"type": "Ready", "status": "True"}]}
        });
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        assert_eq!(
            columns.row(&obj, now),
            [json!("a"), json!("Ready"), json!("True"), json!(4), json!("60m"), Value::Null]
        );
        assert_eq!(Columns::from_crd(&json!({})).row(&obj, now), [json!("a"), json!("60m")]);
    }

    #[test]
    fn built_in_kinds_have_their_own() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let event = json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Made", "message": "done\n", "involvedObject": {"kind": "Foo", "name": "x"},
            "lastTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "c"}
        });
        let row = Columns::for_builtin("", "Event").row(&event, now);
        assert_eq!(row[..4], [json!("10s"), json!("Normal"), json!("Made"), json!("foo/x")]);
        assert_eq!(row[6], json!("done"));
        let secret =
            json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "type": "Opaque", "data": {"a": "", "b": ""}});
        assert_eq!(
            Columns::for_builtin("", "Secret").row(&secret, now),
            [json!("s"), json!("Opaque"), json!(2), json!("10s")]
        );
    }
}
