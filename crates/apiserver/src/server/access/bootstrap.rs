//! The roles and bindings that exist from the start.
//!
//! As in the real server, one that somebody deleted comes back at the next start, and one that lost rules or subjects gets them back, unless its
//! annotation [`AUTOUPDATE`] says `false`. What somebody added stays.

use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rules::{self, Rule};
use crate::server::core::{Core, view};
use crate::server::metadata;
use crate::server::request::WriteOptions;
use crate::server::status::{ApiError, ApiResult};
use crate::server::write::{Change, Part};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Whether a start may give a role or a binding back what it lost.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    roles: Vec<Role>,
    bindings: Vec<Binding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    name: String,
    #[serde(default)]
    labels: Map<String, Value>,
    /// Labels of the roles that this one gathers.
    #[serde(default)]
    aggregate: Vec<String>,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// A ClusterRoleBinding that is named like its role.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    role: String,
    groups: Vec<String>,
}

fn metadata(name: &str, mut labels: Map<String, Value>) -> Value {
    labels.insert("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"));
    json!({ "name": name, "labels": labels, "annotations": { AUTOUPDATE: "true" } })
}

impl Role {
    fn object(self) -> Value {
        let mut object = json!({ "metadata": metadata(&self.name, self.labels) });
        if self.aggregate.is_empty() {
            object["rules"] = json!(self.rules);
        } else {
            let selectors: Vec<Value> = self
                .aggregate
                .iter()
                .map(|label| json!({ "matchLabels": { label: "true" } }))
                .collect();
            object["aggregationRule"] = json!({ "clusterRoleSelectors": selectors });
        }
        object
    }
}

impl Binding {
    fn object(self) -> Value {
        let subjects: Vec<Value> = self
            .groups
            .iter()
            .map(|name| json!({ "apiGroup": GROUP, "kind": "Group", "name": name }))
            .collect();
        json!({
            "metadata": metadata(&self.role, Map::new()),
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": self.role },
            "subjects": subjects,
        })
    }
}

/// The objects, by resource.
fn objects() -> ApiResult<Vec<(&'static str, Value)>> {
    let policy: Policy = serde_saphyr::from_str(include_str!("bootstrap.yaml"))
        .map_err(|error| ApiError::internal(format!("the built-in roles cannot be read: {error}")))?;
    let roles = policy.roles.into_iter().map(|role| ("clusterroles", role.object()));
    let bindings = policy.bindings.into_iter().map(|binding| ("clusterrolebindings", binding.object()));
    Ok(roles.chain(bindings).collect())
}

/// Creates what is missing and gives back what was lost.
pub async fn ensure(core: &Core) -> ApiResult<()> {
    // Together, so that they become durable together.
    try_join_all(objects()?.into_iter().map(|(resource, object)| reconcile(core, resource, object)))
        .await
        .map(drop)
}

async fn reconcile(core: &Core, resource: &str, wanted: Value) -> ApiResult<()> {
    let info = core
        .registry()
        .get(GROUP, "v1", resource)
        .ok_or_else(|| ApiError::internal("roles are not served"))?;
    let name = metadata::text(&wanted, "name").to_owned();
    let options = WriteOptions::internal("kube-apiserver");
    let Some(object) = core.store.get(&core.key(&info, "", &name)) else {
        let mut object = wanted;
        object["apiVersion"] = json!(info.api_version());
        object["kind"] = json!(info.kind);
        return match core.create(&info, "", object, &[], &options, &mut Vec::new()).await {
            Err(error) if error.reason != "AlreadyExists" => Err(error),
            _ => Ok(()),
        };
    };
    let now = view(&info, &object);
    if completed(&now, &wanted) == now {
        return Ok(());
    }
    let change = |now: &Value| -> ApiResult<Value> { Ok(completed(now, &wanted)) };
    core.update(&info, "", &name, Part::Main, &Change::Patch(&change), &options, &mut Vec::new())
        .await
        .map(drop)
}

/// The object with everything that the wanted one has.
fn completed(now: &Value, wanted: &Value) -> Value {
    let mut new = now.clone();
    if now["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return new;
    }
    for field in ["labels", "annotations"] {
        let Some(entries) = wanted["metadata"][field].as_object() else {
            continue;
        };
        for (key, value) in entries {
            new["metadata"][field][key] = value.clone();
        }
    }
    if wanted.get("rules").is_some() {
        let missing = rules::uncovered(&Rule::list(now.get("rules")), &Rule::list(wanted.get("rules")));
        if !missing.is_empty() {
            let mut list = now["rules"].as_array().cloned().unwrap_or_default();
            list.extend(missing.iter().map(|rule| json!(rule)));
            new["rules"] = json!(list);
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        new["aggregationRule"] = rule.clone();
    }
    if let Some(subjects) = wanted["subjects"].as_array() {
        let mut list = now["subjects"].as_array().cloned().unwrap_or_default();
        list.extend(
            subjects
                .iter()
                .filter(|subject| !list.contains(subject))
                .cloned()
                .collect::<Vec<_>>(),
        );
        new["subjects"] = json!(list);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_roles_can_be_read_and_their_bindings_refer_to_them() {
        let objects = objects().expect("they can be read");
        let names = |of: &str| -> Vec<String> {
            let found = objects.iter().filter(|(resource, _)| *resource == of);
            found.map(|(_, object)| metadata::text(object, "name").to_owned()).collect()
        };
        let roles = names("clusterroles");
        assert!(roles.iter().any(|name| name == "cluster-admin") && roles.iter().any(|name| name == "view"));
        assert!(names("clusterrolebindings").iter().all(|name| roles.contains(name)));
    }

    #[test]
    fn what_was_lost_comes_back_what_was_added_stays_and_a_no_is_a_no() {
        let wanted = json!({ "metadata": metadata("r", Map::new()), "rules": [{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }] });
        let added = json!({ "verbs": ["delete"], "apiGroups": [""], "resources": ["pods"] });
        let now = json!({ "metadata": { "name": "r" }, "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }, added.clone()] });
        let new = completed(&now, &wanted);
        let list = Rule::list(new.get("rules"));
        assert!(rules::uncovered(&list, &Rule::list(wanted.get("rules"))).is_empty());
        assert!(new["rules"].as_array().is_some_and(|rules| rules.contains(&added)));
        assert_eq!(completed(&new, &wanted), new, "the second time nothing changes");
        let mut kept = now;
        kept["metadata"]["annotations"] = json!({ AUTOUPDATE: "false" });
        assert_eq!(completed(&kept, &wanted), kept);
    }
}
