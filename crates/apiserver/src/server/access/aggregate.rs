//! ClusterRoles that gather the rules of others by their labels.
//!
//! Level-driven: whenever a ClusterRole changed, every role that gathers is looked at, and written only where its rules are others than they should be.

use std::sync::Arc;

use serde_json::{Value, json};

use super::index::{ClusterRole, Index};
use super::rules::Rule;
use crate::server::core::Core;
use crate::server::request::WriteOptions;
use crate::server::status::{ApiError, ApiResult};
use crate::server::write::{Change, Part};

const MANAGER: &str = "clusterrole-aggregation-controller";

/// The controller; it ends with the server.
pub async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.access.cluster_roles_changed.notified() => {}
            () = core.stop.cancelled() => return,
        }
        if let Err(error) = gather(&core).await {
            tracing::warn!(error = error.message, "aggregated roles could not be brought up to date");
        }
    }
}

/// Looks at every role that gathers, until nothing is left to write: a role that gathers may be gathered itself.
pub async fn gather(core: &Core) -> ApiResult<()> {
    let info = core
        .registry()
        .get("rbac.authorization.k8s.io", "v1", "clusterroles")
        .ok_or_else(|| ApiError::internal("roles are not served"))?;
    let mut written = None;
    loop {
        let index = core.access.index();
        let stale = index.cluster_roles().iter().find_map(|(name, role)| {
            let wanted = gathered(&index, name, role.gathers.as_deref()?);
            (wanted != *role.rules).then(|| (name.clone(), wanted))
        });
        let Some((name, wanted)) = stale else { return Ok(()) };
        if written.as_ref() == Some(&(name.clone(), wanted.clone())) {
            return Err(ApiError::internal(format!(
                "the rules that {name} gathers are not stored as they are written"
            )));
        }
        let config = json!({
            "apiVersion": info.api_version(), "kind": info.kind, "metadata": { "name": name }, "rules": wanted,
        });
        let options = WriteOptions {
            force: Some(true),
            ..WriteOptions::internal(MANAGER)
        };
        let outcome = core
            .update(
                &info,
                "",
                &name,
                Part::Main,
                &Change::Apply(&config, &[]),
                &options,
                &mut Vec::new(),
            )
            .await;
        match outcome {
            Ok(_) => written = Some((name, wanted)),
            // Deleted or changed meanwhile: the change feed calls again.
            Err(error) if matches!(error.code, 404 | 409) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The rules of all roles that the selectors choose, each once, in the order of selectors and names.
fn gathered(index: &Index, own: &str, selectors: &[Value]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for selector in selectors {
        for (name, role) in index.cluster_roles() {
            if **name == *own || !selects(selector, role) {
                continue;
            }
            for rule in role.rules.iter() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

/// Whether a LabelSelector chooses a role. One that says something unknown chooses nothing.
fn selects(selector: &Value, role: &ClusterRole) -> bool {
    let label = |key: &str| role.labels.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value);
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    exact.into_iter().all(|(key, value)| label(key) == value.as_str())
        && expressions.all(|expression| {
            let found = label(expression["key"].as_str().unwrap_or_default());
            let listed = || {
                let values = expression["values"].as_array();
                values.is_some_and(|values| values.iter().any(|value| value.as_str() == found))
            };
            match expression["operator"].as_str().unwrap_or_default() {
                "In" => found.is_some() && listed(),
                "NotIn" => found.is_none() || !listed(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_choose_as_label_selectors_do() {
        let role = ClusterRole {
            labels: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
            ..ClusterRole::default()
        };
        let table = [
            (json!({}), true),
            (json!({ "matchLabels": { "a": "1" } }), true),
            (json!({ "matchLabels": { "a": "1", "b": "3" } }), false),
            (json!({ "matchLabels": { "c": "" } }), false),
            (
                json!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": ["1", "2"] }] }),
                true,
            ),
            (
                json!({ "matchExpressions": [{ "key": "c", "operator": "In", "values": ["1"] }] }),
                false,
            ),
            (
                json!({ "matchExpressions": [{ "key": "a", "operator": "NotIn", "values": ["1"] }] }),
                false,
            ),
            (
                json!({ "matchExpressions": [{ "key": "c", "operator": "NotIn", "values": ["1"] }] }),
                true,
            ),
            (
                json!({ "matchExpressions": [{ "key": "a", "operator": "Exists" }, { "key": "c", "operator": "DoesNotExist" }] }),
                true,
            ),
            (json!({ "matchExpressions": [{ "key": "a", "operator": "DoesNotExist" }] }), false),
            (json!({ "matchExpressions": [{ "key": "a", "operator": "Near" }] }), false),
        ];
        for (selector, chosen) in table {
            assert_eq!(selects(&selector, &role), chosen, "{selector}");
        }
    }
}
