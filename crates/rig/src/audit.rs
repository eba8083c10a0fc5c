//! The API server's audit log, and what RBAC's rules have to do with it: each call that was made must be allowed by a rule, and each rule must be used by a call.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::Deserialize;

/// One answered request. A watch is answered when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who asked.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, ...
    pub verb: String,
    /// API group; empty for the core.
    pub group: String,
    /// Resource, with `/subresource`; empty for requests that are not about resources.
    pub resource: String,
    /// Namespace; empty for those of the cluster.
    pub namespace: String,
    /// Name; empty where none is given.
    pub name: String,
    /// HTTP status.
    pub code: u16,
    /// When it came in: RFC 3339 with microseconds, which sorts as text.
    pub at: String,
}

#[derive(Deserialize)]
struct Line {
    verb: String,
    user: User,
    #[serde(rename = "objectRef")]
    object: Option<Object>,
    #[serde(rename = "responseStatus")]
    status: Option<Status>,
    #[serde(rename = "requestReceivedTimestamp")]
    at: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// All calls in the order in which they were answered.
///
/// # Errors
/// When the file cannot be read, or a line is none of an audit log. The last line may be half written and is then left out.
pub fn read(path: &Path) -> Result<Vec<Call>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<Call> {
    let line: Line = serde_json::from_str(line).with_context(|| format!("not a line of an audit log: {line}"))?;
    let object = line.object.unwrap_or_default();
    let resource = if object.subresource.is_empty() {
        object.resource
    } else {
        format!("{}/{}", object.resource, object.subresource)
    };
    Ok(Call {
        user: line.user.username,
        verb: line.verb,
        group: object.api_group,
        resource,
        namespace: object.namespace,
        name: object.name,
        code: line.status.map(|s| s.code).unwrap_or_default(),
        at: line.at,
    })
}

/// One right, taken apart: one verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The role that gives it.
    pub role: String,
    /// Where it holds; `None`: everywhere.
    pub namespace: Option<String>,
    /// API group.
    pub group: String,
    /// Resource, with `/subresource`.
    pub resource: String,
    /// Verb.
    pub verb: String,
    /// On which names; empty: on all.
    pub names: Vec<String>,
}

impl Right {
    fn covers(&self, call: &Call) -> bool {
        self.verb == call.verb
            && self.group == call.group
            && self.resource == call.resource
            && self.namespace.as_ref().is_none_or(|n| *n == call.namespace)
            && (self.names.is_empty() || self.names.contains(&call.name))
    }
}

fn taken_apart(role: &str, namespace: Option<&str>, rules: &[PolicyRule]) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.push(Right {
                        role: role.to_owned(),
                        namespace: namespace.map(str::to_owned),
                        group: group.clone(),
                        resource: resource.clone(),
                        verb: verb.clone(),
                        names: rule.resource_names.clone().unwrap_or_default(),
                    });
                }
            }
        }
    }
    rights
}

/// What a service account may do by roles that name it.
///
/// # Errors
/// When the roles cannot be read.
pub async fn rights(client: &Client, namespace: &str, name: &str) -> Result<Vec<Right>> {
    let is_ours = |subjects: &Option<Vec<Subject>>| {
        let ours = |s: &Subject| s.kind == "ServiceAccount" && s.name == name && s.namespace.as_deref() == Some(namespace);
        subjects.iter().flatten().any(ours)
    };
    let all = ListParams::default();
    let (roles, cluster_roles) = (
        Api::<Role>::all(client.clone()).list(&all).await?.items,
        Api::<ClusterRole>::all(client.clone()).list(&all).await?.items,
    );
    let mut rights = Vec::new();
    for binding in Api::<ClusterRoleBinding>::all(client.clone()).list(&all).await? {
        if is_ours(&binding.subjects) {
            let role = cluster_roles.iter().find(|r| r.name_any() == binding.role_ref.name);
            let role = role.with_context(|| format!("{} names a role that is not there", binding.name_any()))?;
            rights.extend(taken_apart(&role.name_any(), None, role.rules.as_deref().unwrap_or_default()));
        }
    }
    for binding in Api::<RoleBinding>::all(client.clone()).list(&all).await? {
        if !is_ours(&binding.subjects) {
            continue;
        }
        let place = binding.namespace().unwrap_or_default();
        let rules = if binding.role_ref.kind == "ClusterRole" {
            let role = cluster_roles.iter().find(|r| r.name_any() == binding.role_ref.name);
            role.and_then(|r| r.rules.clone())
        } else {
            let of = |r: &&Role| r.name_any() == binding.role_ref.name && r.namespace().as_deref() == Some(place.as_str());
            roles.iter().find(of).and_then(|r| r.rules.clone())
        };
        let rules = rules.with_context(|| format!("{place}/{} names a role that is not there", binding.name_any()))?;
        let role = format!("{place}/{}", binding.role_ref.name);
        rights.extend(taken_apart(&role, Some(&place), &rules));
    }
    Ok(rights)
}

/// What is wrong between one user's calls and its rights, both ways; empty when nothing is.
pub fn compare(user: &str, calls: &[Call], rights: &[Right]) -> Vec<String> {
    let mut wrong = BTreeSet::new();
    let own = || calls.iter().filter(|c| c.user == user);
    for call in own() {
        let text = format!(
            "{} {}/{} in {:?} name {:?}",
            call.verb, call.group, call.resource, call.namespace, call.name
        );
        if call.code == 403 {
            wrong.insert(format!("{user} was refused: {text}"));
        } else if !rights.iter().any(|r| r.covers(call)) {
            wrong.insert(format!("{user} did what no rule of its own allows: {text}"));
        }
    }
    for right in rights {
        if !own().any(|call| right.covers(call)) {
            wrong.insert(format!(
                "{user} never used what {} allows: {} {}/{} {:?}",
                right.role, right.verb, right.group, right.resource, right.names
            ));
        }
    }
    wrong.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x","stage":"ResponseComplete","requestURI":"/apis/g/v1/namespaces/n/things/t/status","verb":"update","user":{"username":"u","groups":["g"]},"sourceIPs":["127.0.0.1"],"objectRef":{"resource":"things","namespace":"n","name":"t","apiGroup":"g","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:00.000000Z","stageTimestamp":"2026-01-01T00:00:00.100000Z"}"#;

    fn right(verb: &str, resource: &str, names: &[&str]) -> Right {
        Right {
            role: "r".to_owned(),
            namespace: Some("n".to_owned()),
            group: "g".to_owned(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    #[test]
    fn both_directions_are_told() {
        let call = parse(LINE).unwrap();
        assert_eq!((call.resource.as_str(), call.code), ("things/status", 200));
        let calls = [call.clone()];
        let allowed = [right("update", "things/status", &[])];
        assert!(compare("u", &calls, &allowed).is_empty());
        assert!(compare("u", &calls, &[right("update", "things/status", &["t"])]).is_empty());
        let other_name = compare("u", &calls, &[right("update", "things/status", &["s"])]);
        assert_eq!(other_name.len(), 2, "not allowed, and not used: {other_name:?}");
        let unused = compare("u", &calls, &[allowed[0].clone(), right("get", "things", &[])]);
        assert!(unused.len() == 1 && unused[0].contains("never used"), "{unused:?}");
        let refused = [Call { code: 403, ..call }];
        let found = compare("u", &refused, &allowed);
        assert!(found.len() == 1 && found[0].contains("was refused"), "{found:?}");
        assert_eq!(compare("somebody else", &calls, &allowed).len(), 1, "not used by that one");
    }
}
