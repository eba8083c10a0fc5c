//! CustomResourceDefinition: defaults, and the rules a definition must meet before its resource is served.

use super::rules::copy_field;
use crate::schema::error::FieldError;
use crate::schema::names;
use crate::schema::structural::{Structural, prefix_errors};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE_FIELDS: usize = 8;

fn text<'a>(obj: &'a Value, name: &str) -> &'a str {
    obj.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(obj: &Value, name: &str) -> bool {
    obj.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn list<'a>(obj: &'a Value, name: &str) -> &'a [Value] {
    obj.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn default(obj: &mut Value) {
    let storage = storage_version(obj);
    let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_string();
        let empty = |names: &Map<String, Value>, field: &str| names.get(field).and_then(Value::as_str).unwrap_or_default().is_empty();
        if empty(names, "singular") && !kind.is_empty() {
            names.insert("singular".into(), json!(kind.to_lowercase()));
        }
        if empty(names, "listKind") && !kind.is_empty() {
            names.insert("listKind".into(), json!(format!("{kind}List")));
        }
    }
    if spec.get("conversion").is_none_or(Value::is_null) {
        spec.insert("conversion".into(), json!({"strategy": "None"}));
    }
    if let Some(storage) = storage
        && let Some(root) = obj.as_object_mut()
    {
        let status = root.entry("status").or_insert_with(|| json!({}));
        if let Some(status) = status.as_object_mut()
            && status.get("storedVersions").and_then(Value::as_array).is_none_or(Vec::is_empty)
        {
            status.insert("storedVersions".into(), json!([storage]));
        }
    }
}

fn storage_version(obj: &Value) -> Option<String> {
    list(obj.get("spec")?, "versions")
        .iter()
        .find(|v| flag(v, "storage"))
        .map(|v| text(v, "name").to_string())
}

pub(super) fn prepare_create(obj: &mut Value) {
    let storage = storage_version(obj);
    let Some(root) = obj.as_object_mut() else { return };
    root.insert("status".into(), json!({"storedVersions": storage.into_iter().collect::<Vec<_>>()}));
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    copy_field(new, old, "status");
    let Some(storage) = storage_version(new) else { return };
    let Some(root) = new.as_object_mut() else { return };
    let status = root.entry("status").or_insert_with(|| json!({}));
    if let Some(status) = status.as_object_mut() {
        let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(stored) = stored.as_array_mut()
            && !stored.iter().any(|v| v == &storage)
        {
            stored.push(json!(storage));
        }
    }
}

/// Formats the server does not know are accepted, with a warning.
pub(super) fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let collect = |obj: &Value| {
        let mut found = Vec::new();
        for version in obj.get("spec").map(|s| list(s, "versions")).unwrap_or_default() {
            if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
                unknown_formats(schema, 0, &mut found);
            }
        }
        found
    };
    let before: Vec<String> = old.map(collect).unwrap_or_default();
    let mut seen = HashSet::new();
    collect(new)
        .into_iter()
        .filter(|f| !before.contains(f) && seen.insert(f.clone()))
        .map(|f| format!("unrecognized format {}", crate::schema::gofmt::quote(&f)))
        .collect()
}

fn unknown_formats(schema: &Value, depth: usize, found: &mut Vec<String>) {
    if depth > 100 {
        return;
    }
    let format = text(schema, "format");
    if !format.is_empty() {
        let known = match text(schema, "type") {
            "" | "string" => crate::schema::formats::is_known(format),
            "integer" => matches!(format, "int32" | "int64"),
            "number" => matches!(format, "float" | "double"),
            _ => false,
        };
        if !known {
            found.push(format.to_string());
        }
    }
    for (_, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        unknown_formats(child, depth + 1, found);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = schema.get(name) {
            unknown_formats(child, depth + 1, found);
        }
    }
}

pub(super) fn validate_status(new: &Value, errors: &mut Vec<FieldError>) {
    if let Some(accepted) = new.pointer("/status/acceptedNames") {
        naming(accepted, "status.acceptedNames", errors);
    }
}

pub(super) fn validate(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let empty = json!({});
    let spec = new.get("spec").unwrap_or(&empty);
    let names = spec.get("names").unwrap_or(&empty);
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if old.is_none() && !name.is_empty() && name != format!("{}.{}", text(names, "plural"), text(spec, "group")) {
        errors.push(FieldError::invalid_str(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let established = old.is_some_and(|o| {
        o.pointer("/status/conditions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|c| text(c, "type") == "Established" && text(c, "status") == "True")
    });
    let old_spec = old.and_then(|o| o.get("spec"));
    validate_spec(spec, old_spec, errors);
    if let Some(old_spec) = old_spec {
        let old_names = old_spec.get("names").unwrap_or(&empty);
        let mut same = |new: &str, old: &str, path: &str| {
            if new != old {
                errors.push(FieldError::invalid_str(path, new, "field is immutable"));
            }
        };
        if established {
            same(text(spec, "scope"), text(old_spec, "scope"), "spec.scope");
            same(text(names, "kind"), text(old_names, "kind"), "spec.names.kind");
        }
        same(text(spec, "group"), text(old_spec, "group"), "spec.group");
        same(text(names, "plural"), text(old_names, "plural"), "spec.names.plural");
    }
    validate_status(new, errors);
    stored_versions(new, spec, errors);
    approval(new, spec, old, errors);
    if flag(spec, "preserveUnknownFields") && !old_spec.is_some_and(|s| flag(s, "preserveUnknownFields")) {
        errors.push(FieldError::invalid(
            "spec.preserveUnknownFields",
            &json!(true),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
}

fn validate_spec(spec: &Value, old_spec: Option<&Value>, errors: &mut Vec<FieldError>) {
    let group = text(spec, "group");
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        let complaints = names::dns1123_subdomain(group);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid_str("spec.group", group, &complaints.join(",")));
        } else if !group.contains('.') {
            errors.push(FieldError::invalid_str(
                "spec.group",
                group,
                "should be a domain with at least one dot",
            ));
        }
    }
    match text(spec, "scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported("spec.scope", &json!(other), &["Cluster", "Namespaced"])),
    }
    let versions = list(spec, "versions");
    for (i, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none_or(Value::is_null) {
            errors.push(FieldError::required(format!("spec.versions[{i}].schema.openAPIV3Schema"), ""));
        }
    }
    // A version whose schema did not change is not judged again.
    let unchanged = |version: &Value| {
        let before = old_spec.and_then(|s| list(s, "versions").iter().find(|v| text(v, "name") == text(version, "name")));
        before.is_some_and(|b| b.get("schema") == version.get("schema"))
    };
    let shared = Shared::of(versions);
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let complaints = names::dns1035_label(text(version, "name"));
        if !complaints.is_empty() {
            errors.push(FieldError::invalid_str(
                format!("{path}.name"),
                text(version, "name"),
                &complaints.join(","),
            ));
        }
        deprecation(version, &path, errors);
        let parts = Parts {
            schema: (!shared.schema).then(|| format!("{path}.schema")),
            subresources: (!shared.subresources).then(|| format!("{path}.subresources")),
            columns: (!shared.columns).then(|| format!("{path}.additionalPrinterColumns")),
            selectable: (!shared.selectable).then(|| format!("{path}.selectableFields")),
        };
        parts.validate(version, unchanged(version), errors);
    }
    let mut seen = HashSet::new();
    if !versions.iter().all(|v| seen.insert(text(v, "name"))) {
        errors.push(FieldError::invalid(
            "spec.versions",
            &json!(versions),
            "must contain unique version names",
        ));
    }
    if versions.iter().filter(|v| flag(v, "storage")).count() != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            &json!(versions),
            "must have exactly one version marked as storage version",
        ));
    }
    // The real server keeps the first version's name a second time.
    if let Some(first) = versions
        .first()
        .map(|version| text(version, "name"))
        .filter(|name| !name.is_empty())
    {
        let complaints = names::dns1035_label(first);
        if !complaints.is_empty() {
            errors.push(FieldError::invalid_str("spec.version", first, &complaints.join(",")));
        }
    }
    let empty = json!({});
    let naming_of = spec.get("names").unwrap_or(&empty);
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(naming_of, field).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    naming(naming_of, "spec.names", errors);
    if let Some(first) = versions.first() {
        let parts = Parts {
            schema: shared.schema.then(|| "spec.validation".to_owned()),
            subresources: shared.subresources.then(|| "spec.subresources".to_owned()),
            columns: shared.columns.then(|| "spec.additionalPrinterColumns".to_owned()),
            selectable: shared.selectable.then(|| "spec.selectableFields".to_owned()),
        };
        parts.validate(first, unchanged(first), errors);
    }
    conversion(spec, errors);
}

/// What all versions have in common. The real server keeps it once, beside the versions, and its errors name that place.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &[Value]) -> Shared {
        let same = |field: &str| {
            let part = |version: &Value| {
                let value = version.get(field).filter(|value| !value.is_null());
                value.filter(|value| value.as_array().is_none_or(|list| !list.is_empty())).cloned()
            };
            versions.windows(2).all(|pair| part(&pair[0]) == part(&pair[1]))
        };
        Shared {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

/// The parts of a version that are to be validated, each with the place that errors name.
struct Parts {
    schema: Option<String>,
    subresources: Option<String>,
    columns: Option<String>,
    selectable: Option<String>,
}

impl Parts {
    fn validate(&self, version: &Value, unchanged: bool, errors: &mut Vec<FieldError>) {
        let schema = version.pointer("/schema/openAPIV3Schema").filter(|s| !s.is_null());
        let parsed = schema
            .filter(|_| self.schema.is_some() || self.selectable.is_some())
            .map(Structural::parse);
        if let (Some(path), Some(Err(found))) = (&self.schema, &parsed)
            && !unchanged
        {
            errors.extend(prefix_errors(&format!("{path}.openAPIV3Schema"), found.clone()));
        }
        if let Some(path) = &self.subresources {
            scale(version, &format!("{path}.scale"), errors);
        }
        if let Some(path) = &self.columns {
            for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
                printer_column(column, &format!("{path}[{i}]"), errors);
            }
        }
        if let (Some(path), Some(Ok(parsed))) = (&self.selectable, &parsed) {
            selectable_fields(version, parsed, path, errors);
        }
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else {
        return;
    };
    let at = format!("{path}.deprecationWarning");
    if !flag(version, "deprecated") {
        errors.push(FieldError::invalid_str(at, warning, "can only be set for deprecated versions"));
        return;
    }
    if warning.len() > 256 {
        errors.push(FieldError::invalid_str(at.clone(), warning, "must be <= 256 characters long"));
    }
    if warning.is_empty() {
        errors.push(FieldError::invalid_str(at.clone(), warning, "must not be an empty string"));
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!("must only contain printable UTF-8 characters; non-printable character found at index {i}");
        errors.push(FieldError::invalid_str(at, warning, &detail));
    }
}

fn scale(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(scale) = version.pointer("/subresources/scale").filter(|s| !s.is_null()) else {
        return;
    };
    for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let value = text(scale, field);
        let at = format!("{path}.{field}");
        if value.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if !value.starts_with('.') {
            errors.push(FieldError::invalid_str(at, value, "must be a simple json path starting with ."));
        } else if !value.starts_with(root) {
            errors.push(FieldError::invalid_str(
                at,
                value,
                &format!("should be a json path under {}", root.trim_end_matches('.')),
            ));
        }
    }
    let selector = text(scale, "labelSelectorPath");
    if !selector.is_empty() && !selector.starts_with(".spec.") && !selector.starts_with(".status.") {
        errors.push(FieldError::invalid_str(
            format!("{path}.labelSelectorPath"),
            selector,
            "should be a json path under either .spec or .status",
        ));
    }
}

fn printer_column(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let kind = text(column, "type");
    if !COLUMN_TYPES.contains(&kind) {
        let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
        let at = format!("{path}.type");
        errors.push(if kind.is_empty() {
            FieldError::required(at, &detail)
        } else {
            FieldError::invalid_str(at, kind, &detail)
        });
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.push(FieldError::invalid_str(
            format!("{path}.format"),
            format,
            &format!("must be one of {}", COLUMN_FORMATS.join(",")),
        ));
    }
    let json_path = text(column, "jsonPath");
    if json_path.is_empty() {
        errors.push(FieldError::required(format!("{path}.JSONPath"), ""));
    } else if !json_path.starts_with('.') {
        errors.push(FieldError::invalid_str(
            format!("{path}.JSONPath"),
            json_path,
            "must be a simple json path starting with .",
        ));
    }
}

fn selectable_fields(version: &Value, schema: &Structural, path: &str, errors: &mut Vec<FieldError>) {
    use crate::schema::structural::JsonType;
    let fields = list(version, "selectableFields");
    let mut seen = HashSet::new();
    for (i, selectable) in fields.iter().enumerate() {
        let at = format!("{path}[{i}].jsonPath");
        let json_path = text(selectable, "jsonPath");
        if json_path.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let mut node = Some(&schema.root);
        let mut problem = None;
        if !json_path.starts_with('.') {
            problem = Some(format!(
                "expected [ or . but got: {}",
                json_path.split('.').next().unwrap_or_default()
            ));
        }
        for part in json_path.split('.').skip(1) {
            node = node.and_then(|n| n.properties.get(part));
        }
        if problem.is_none() && node.is_none() {
            problem = Some("does not refer to a valid field".into());
        }
        if let Some(problem) = problem {
            errors.push(FieldError::invalid_str(at, json_path, &format!("is an invalid path: {problem}")));
            continue;
        }
        if json_path.starts_with(".metadata") {
            errors.push(FieldError::invalid_str(
                at.clone(),
                json_path,
                "must not point to fields in metadata",
            ));
        }
        if !node.is_some_and(|n| matches!(n.typ, JsonType::String | JsonType::Boolean | JsonType::Integer)) {
            errors.push(FieldError::invalid_str(
                at.clone(),
                json_path,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ));
        }
        if !seen.insert(json_path) {
            errors.push(FieldError::duplicate(at, &json!(json_path)));
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        errors.push(FieldError::too_many(path, count(seen.len()), count(MAX_SELECTABLE_FIELDS)));
    }
}

fn naming(naming: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["plural", "singular"] {
        let value = text(naming, field);
        let complaints = names::dns1035_label(value);
        if !value.is_empty() && !complaints.is_empty() {
            errors.push(FieldError::invalid_str(format!("{path}.{field}"), value, &complaints.join(",")));
        }
    }
    for field in ["kind", "listKind"] {
        let value = text(naming, field);
        let complaints = names::dns1035_label(&value.to_lowercase());
        if !value.is_empty() && !complaints.is_empty() {
            errors.push(FieldError::invalid_str(
                format!("{path}.{field}"),
                value,
                &format!("may have mixed case, but should otherwise match: {}", complaints.join(",")),
            ));
        }
    }
    for field in ["shortNames", "categories"] {
        for (i, entry) in list(naming, field).iter().enumerate() {
            let value = entry.as_str().unwrap_or_default();
            let complaints = names::dns1035_label(value);
            if !complaints.is_empty() {
                errors.push(FieldError::invalid_str(
                    format!("{path}.{field}[{i}]"),
                    value,
                    &complaints.join(","),
                ));
            }
        }
    }
    let (kind, list_kind) = (text(naming, "kind"), text(naming, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(FieldError::invalid_str(
            format!("{path}.listKind"),
            list_kind,
            "kind and listKind may not be the same",
        ));
    }
}

fn conversion(spec: &Value, errors: &mut Vec<FieldError>) {
    let Some(conversion) = spec.get("conversion").filter(|c| !c.is_null()) else {
        return;
    };
    let path = "spec.conversion";
    match text(conversion, "strategy") {
        "" => errors.push(FieldError::required(format!("{path}.strategy"), "")),
        "None" => {
            let webhook = conversion.get("webhook");
            let given = |field: &str| {
                let value = webhook.and_then(|webhook| webhook.get(field)).filter(|value| !value.is_null());
                value.is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()))
            };
            for (sent, field) in [
                ("clientConfig", "webhookClientConfig"),
                ("conversionReviewVersions", "conversionReviewVersions"),
            ] {
                if given(sent) {
                    let why = "should not be set when strategy is not set to Webhook";
                    errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
                }
            }
        }
        // The real server calls a webhook; this one says plainly that it does not.
        "Webhook" => errors.push(FieldError::invalid_str(
            format!("{path}.strategy"),
            "Webhook",
            "conversion webhooks are not supported by this server; use strategy None and versions with the same schema",
        )),
        other => errors.push(FieldError::not_supported(
            format!("{path}.strategy"),
            &json!(other),
            &["None", "Webhook"],
        )),
    }
}

fn stored_versions(new: &Value, spec: &Value, errors: &mut Vec<FieldError>) {
    let path = "status.storedVersions";
    let empty = json!({});
    let stored = list(new.get("status").unwrap_or(&empty), "storedVersions");
    if stored.is_empty() {
        errors.push(FieldError::invalid(path, &json!(stored), "must have at least one stored version"));
        return;
    }
    let versions = list(spec, "versions");
    for version in versions {
        let name = text(version, "name");
        if flag(version, "storage") && !stored.iter().any(|v| v == name) {
            errors.push(FieldError::invalid(
                path,
                &json!(stored),
                &format!("must have the storage version {name}"),
            ));
        }
    }
    for (i, version) in stored.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !versions.iter().any(|v| text(v, "name") == name) {
            errors.push(FieldError::invalid_str(
                format!("{path}[{i}]"),
                name,
                &format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"),
            ));
        }
    }
}

/// Groups of the Kubernetes community need an approval annotation.
fn approval(new: &Value, spec: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    let group = text(spec, "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|s| group == *s || group.ends_with(&format!(".{s}")));
    if !protected {
        return;
    }
    let of = |obj: &Value| {
        obj.pointer("/metadata/annotations")
            .and_then(|a| a.get(ANNOTATION))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string()
    };
    let annotation = of(new);
    if old.is_some_and(|o| of(o) == annotation)
        || annotation.starts_with("unapproved")
        || annotation.starts_with("http://")
        || annotation.starts_with("https://")
    {
        return;
    }
    let at = format!("metadata.annotations[{ANNOTATION}]");
    let reason = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
    errors.push(if annotation.is_empty() {
        FieldError::required(at, reason)
    } else {
        FieldError::invalid_str(at, &annotation, reason)
    });
}
