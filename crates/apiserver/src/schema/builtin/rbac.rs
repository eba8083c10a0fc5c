//! Roles and bindings: their defaults and rules.

use serde_json::{Value, json};

use crate::schema::error::FieldError;
use crate::schema::names;

/// Their API group.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Fills in the group of the role that a binding refers to, and of its users and groups.
pub(super) fn default(binding: &mut Value) {
    let fill = |value: &mut Value| {
        if text(value, "apiGroup").is_empty()
            && let Some(map) = value.as_object_mut()
        {
            map.insert("apiGroup".to_owned(), json!(GROUP));
        }
    };
    if let Some(role) = binding.get_mut("roleRef") {
        fill(role);
    }
    for subject in binding.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(text(subject, "kind"), "User" | "Group") {
            fill(subject);
        }
    }
}

/// Checks a role or a binding; `old` is what it replaces.
pub(super) fn validate(kind: &str, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let namespaced = matches!(kind, "Role" | "RoleBinding");
    if matches!(kind, "Role" | "ClusterRole") {
        for (i, rule) in list(new, "rules").iter().enumerate() {
            validate_rule(rule, namespaced, &format!("rules[{i}]"), errors);
        }
        if let Some(gathers) = new.get("aggregationRule").filter(|rule| rule.is_object()) {
            validate_aggregation(gathers, errors);
        }
        return;
    }
    let role = new.get("roleRef").cloned().unwrap_or_else(|| json!({}));
    if text(&role, "apiGroup") != GROUP {
        errors.push(FieldError::not_supported(
            "roleRef.apiGroup",
            &json!(text(&role, "apiGroup")),
            &[GROUP],
        ));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(&role, "kind")) {
        errors.push(FieldError::not_supported("roleRef.kind", &json!(text(&role, "kind")), kinds));
    }
    let name = text(&role, "name");
    if name.is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for complaint in names::path_segment(name, false) {
        errors.push(FieldError::invalid_str("roleRef.name", name, &complaint));
    }
    for (i, subject) in list(new, "subjects").iter().enumerate() {
        validate_subject(subject, namespaced, &format!("subjects[{i}]"), errors);
    }
    if let Some(old) = old
        && old.get("roleRef") != new.get("roleRef")
    {
        // Shown with the names that its fields have inside the real server.
        let shown = json!({ "APIGroup": text(&role, "apiGroup"), "Kind": text(&role, "kind"), "Name": name });
        errors.push(FieldError::invalid("roleRef", &shown, "cannot change roleRef"));
    }
}

fn validate_rule(rule: &Value, namespaced: bool, at: &str, errors: &mut Vec<FieldError>) {
    if list(rule, "verbs").is_empty() {
        errors.push(FieldError::required(format!("{at}.verbs"), "verbs must contain at least one value"));
    }
    let paths = list(rule, "nonResourceURLs");
    let given = |field: &str| !list(rule, field).is_empty();
    if !paths.is_empty() {
        let mut wrong = |why: &str| errors.push(FieldError::invalid(format!("{at}.nonResourceURLs"), &json!(paths), why));
        if namespaced {
            wrong("namespaced rules cannot apply to non-resource URLs");
        }
        if given("apiGroups") || given("resources") || given("resourceNames") {
            wrong("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if !given("apiGroups") {
        let why = "resource rules must supply at least one api group";
        errors.push(FieldError::required(format!("{at}.apiGroups"), why));
    }
    if !given("resources") {
        let why = "resource rules must supply at least one resource";
        errors.push(FieldError::required(format!("{at}.resources"), why));
    }
}

fn validate_aggregation(rule: &Value, errors: &mut Vec<FieldError>) {
    let selectors = list(rule, "clusterRoleSelectors");
    if selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required("aggregationRule.clusterRoleSelectors", why));
    }
    for (i, selector) in selectors.iter().enumerate() {
        let at = format!("aggregationRule.clusterRoleSelectors[{i}]");
        let before = errors.len();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            for complaint in names::qualified_name(key) {
                errors.push(FieldError::invalid_str(format!("{at}.matchLabels"), key, &complaint));
            }
            let value = value.as_str().unwrap_or_default();
            for complaint in names::label_value(value) {
                errors.push(FieldError::invalid_str(format!("{at}.matchLabels"), value, &complaint));
            }
        }
        for (j, expression) in list(selector, "matchExpressions").iter().enumerate() {
            let at = format!("{at}.matchExpressions[{j}]");
            let (key, operator) = (text(expression, "key"), text(expression, "operator"));
            let values = !list(expression, "values").is_empty();
            match operator {
                "In" | "NotIn" if !values => errors.push(FieldError::required(
                    format!("{at}.values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                )),
                "Exists" | "DoesNotExist" if values => errors.push(FieldError::forbidden(
                    format!("{at}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                )),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => errors.push(FieldError::invalid_str(
                    format!("{at}.operator"),
                    operator,
                    "not a valid selector operator",
                )),
            }
            for complaint in names::qualified_name(key) {
                errors.push(FieldError::invalid_str(format!("{at}.key"), key, &complaint));
            }
        }
        // The real server then fails to make a selector of it, and says so too.
        if errors.len() > before {
            errors.push(FieldError::invalid(at, &Value::Null, "it is no label selector"));
        }
    }
}

fn validate_subject(subject: &Value, namespaced: bool, at: &str, errors: &mut Vec<FieldError>) {
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let mut unsupported = |field: &str, value: &str, allowed: &[&str]| {
        errors.push(FieldError::not_supported(format!("{at}.{field}"), &json!(value), allowed));
    };
    match kind {
        "ServiceAccount" => {
            if !group.is_empty() {
                unsupported("apiGroup", group, &[""]);
            }
            if !name.is_empty() {
                for complaint in names::dns1123_subdomain(name) {
                    errors.push(FieldError::invalid_str(format!("{at}.name"), name, &complaint));
                }
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(format!("{at}.namespace"), ""));
            }
        }
        "User" | "Group" if group != GROUP => unsupported("apiGroup", group, &[GROUP]),
        "User" | "Group" => {}
        _ => unsupported("kind", kind, &["ServiceAccount", "User", "Group"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(kind: &str, mut value: Value, old: Option<&Value>) -> Vec<String> {
        if kind.ends_with("Binding") {
            default(&mut value);
        }
        let mut errors = Vec::new();
        validate(kind, &value, old, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_say_either_resources_or_paths_and_something_of_each() {
        let role = |rule: Value| json!({ "rules": [rule] });
        let good = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] });
        assert!(faults("Role", role(good), None).is_empty());
        assert!(faults("ClusterRole", role(json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] })), None).is_empty());
        assert_eq!(
            faults("Role", role(json!({})), None),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        let both = faults(
            "Role",
            role(json!({ "verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"] })),
            None,
        );
        assert_eq!(both.len(), 2, "{both:?}");
        assert_eq!(faults("ClusterRole", json!({ "aggregationRule": {} }), None).len(), 1);
    }

    #[test]
    fn bindings_refer_to_one_role_for_ever_and_to_known_subjects() {
        let binding = |kind: &str, subject: Value| json!({ "roleRef": { "kind": kind, "name": "r" }, "subjects": [subject] });
        let robot = json!({ "kind": "ServiceAccount", "name": "robot" });
        assert!(faults("RoleBinding", binding("Role", robot.clone()), None).is_empty());
        assert_eq!(
            faults("ClusterRoleBinding", binding("ClusterRole", robot), None),
            ["subjects[0].namespace: Required value"]
        );
        let group = json!({ "kind": "Group", "name": "g" });
        assert_eq!(
            faults("ClusterRoleBinding", binding("Role", group.clone()), None),
            ["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""]
        );
        assert_eq!(
            faults("RoleBinding", binding("Role", json!({ "kind": "Robot", "name": "x" })), None),
            ["subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\""]
        );
        let mut old = binding("Role", group.clone());
        default(&mut old);
        assert_eq!(old["subjects"][0]["apiGroup"], GROUP);
        let changed = faults("RoleBinding", binding("ClusterRole", group), Some(&old));
        assert!(
            changed[0].starts_with("roleRef: Invalid value") && changed[0].ends_with("cannot change roleRef"),
            "{changed:?}"
        );
    }
}
