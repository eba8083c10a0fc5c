//! What is not compared: times, uids, versions and generated characters are masked. Everything else is.

use serde_json::{Value, json};

use crate::api::Answer;

/// The body of an answer.
pub fn body(answer: &Answer) -> Value {
    let body = &answer.body;
    match body["kind"].as_str() {
        Some("Status") if body["status"] == "Failure" => status(body),
        Some("Table") => table(body),
        Some(_) => object(body),
        None => json!(answer.text),
    }
}

/// A refusal: code, reason, details and which fields are why. The words are the suite's matter.
fn status(body: &Value) -> Value {
    let details = &body["details"];
    let mut causes: Vec<Value> = details["causes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|cause| json!([cause["reason"], cause["field"]]))
        .collect();
    causes.sort_by_key(Value::to_string);
    json!({
        "kind": "Status", "code": body["code"], "reason": body["reason"], "causes": causes,
        "details": { "name": mask_name(&details["name"], ""), "group": details["group"], "kind": details["kind"], "retry": details["retryAfterSeconds"] },
    })
}

/// Rows without their ages.
fn table(body: &Value) -> Value {
    let mut body = body.clone();
    let ages: Vec<usize> = body["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, column)| column["name"] == "Age" || column["type"] == "date")
        .map(|(at, _)| at)
        .collect();
    mask_list(&mut body);
    if let Some(rows) = body["rows"].as_array_mut() {
        for row in rows {
            let prefix = row["object"]["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
            row["object"] = object(&row["object"]);
            for at in &ages {
                if row["cells"][*at].is_string() {
                    row["cells"][*at] = json!("AGE");
                }
            }
            row["cells"][0] = mask_name(&row["cells"][0], &prefix);
        }
    }
    if let Some(columns) = body["columnDefinitions"].as_array_mut() {
        for column in columns {
            // Descriptions of metadata come from the documentation of Kubernetes' types.
            column["description"] = json!("");
        }
    }
    body
}

fn mask_list(body: &mut Value) {
    if let Some(metadata) = body["metadata"].as_object_mut() {
        for field in ["resourceVersion", "continue"] {
            if metadata.contains_key(field) {
                metadata.insert(field.to_owned(), json!("MASKED"));
            }
        }
    }
}

/// An object or a list of them.
pub fn object(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        for item in items {
            *item = object(item);
        }
        mask_list(&mut value);
        return value;
    }
    if value["kind"] == "Status" {
        mask_list(&mut value);
        if value["details"]["uid"].is_string() {
            value["details"]["uid"] = json!("MASKED");
        }
        return value;
    }
    let prefix = value["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"] {
            if metadata.get(field).is_some_and(|field| !field.is_null()) {
                metadata.insert(field.to_owned(), json!("MASKED"));
            }
        }
        if let Some(name) = metadata.get("name") {
            let masked = mask_name(name, &prefix);
            metadata.insert("name".to_owned(), masked);
        }
        for entry in metadata
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(time) = entry.get_mut("time") {
                *time = json!("MASKED");
            }
        }
        if let Some(entries) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
            // Their order follows their times, which differ.
            entries.sort_by_key(Value::to_string);
        }
    }
    value
}

fn mask_name(name: &Value, prefix: &str) -> Value {
    match name.as_str() {
        Some(text) if !prefix.is_empty() && text.len() == prefix.len() + 5 && text.starts_with(prefix) => json!(format!("{prefix}-----")),
        // In refusals the prefix is not at hand; ours are recognised.
        Some(text) if prefix.is_empty() && text.len() == 12 && text.starts_with("gen") => json!(format!("{}-----", &text[..7])),
        _ => name.clone(),
    }
}
