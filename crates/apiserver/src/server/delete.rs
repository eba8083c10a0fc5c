//! Deletion: preconditions, propagation, finalizers.
//!
//! An object with finalizers is only marked; it goes when the last finalizer is removed. Which finalizers a deletion adds
//! follows its propagation policy; the garbage collector serves those two.

use serde_json::{Value, json};

use super::core::{Core, view};
use super::metadata::{self, deleting, finalizers, now_text, set_finalizers, text};
use super::registry::{ResourceInfo, Special};
use super::request::Query;
use super::status::{ApiError, ApiResult};
use super::write::Outcome;
use crate::schema::FieldError;
use crate::store::{Draft, Expect, Object, StoreError, Write};

/// Namespaces that nobody may delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// What happens to the dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without the reference.
    Orphan,
    /// They are removed after the owner.
    Background,
    /// They are removed before the owner.
    Foreground,
}

/// Options of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Only this object.
    pub uid: Option<String>,
    /// Only this version.
    pub resource_version: Option<String>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// Nothing is stored.
    pub dry_run: bool,
    /// `orphanDependents=false` was said (the answer is 202 then).
    pub accepted: bool,
}

impl DeleteOptions {
    /// Reads them from the body, else from the query.
    pub fn parse(body: Option<&Value>, query: &Query) -> ApiResult<DeleteOptions> {
        let mut errors = Vec::new();
        let mut options = DeleteOptions::default();
        let (mut policy, mut orphan, mut dry) = (None, None, query.all("dryRun").to_vec());
        if let Some(body) = body {
            let kind = body.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" || !body.is_object() {
                return Err(ApiError::bad_request(format!(
                    "the body of a delete must be DeleteOptions, not {kind}"
                )));
            }
            let texts = |value: Option<&Value>, what: &str| match value {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(_) => Err(ApiError::bad_request(format!("DeleteOptions.{what} must be a string"))),
            };
            let conditions = body.get("preconditions");
            options.uid = texts(conditions.and_then(|value| value.get("uid")), "preconditions.uid")?;
            options.resource_version = texts(
                conditions.and_then(|value| value.get("resourceVersion")),
                "preconditions.resourceVersion",
            )?;
            policy = texts(body.get("propagationPolicy"), "propagationPolicy")?;
            orphan = body.get("orphanDependents").and_then(Value::as_bool);
            if let Some(list) = body.get("dryRun").and_then(Value::as_array) {
                dry = list.iter().map(|value| value.as_str().unwrap_or_default().to_owned()).collect();
            }
        } else {
            if query.has("propagationPolicy") {
                policy = Some(query.get("propagationPolicy").to_owned());
            }
            if query.has("orphanDependents") {
                orphan = Some(query.flag("orphanDependents"));
            }
        }
        if dry.iter().any(|value| value != "All") {
            errors.push(FieldError::not_supported("dryRun", &json!(dry), &["All"]));
        }
        options.dry_run = !dry.is_empty();
        if let (Some(policy), Some(_)) = (&policy, orphan) {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid("propagationPolicy", &json!(policy), detail));
        }
        options.accepted = orphan == Some(false);
        options.propagation = match policy.as_deref() {
            None => match orphan {
                None => None,
                Some(true) => Some(Propagation::Orphan),
                Some(false) => Some(Propagation::Background),
            },
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let allowed = ["Background", "Foreground", "Orphan", "nil"];
                errors.push(FieldError::not_supported("propagationPolicy", &json!(other), &allowed));
                None
            }
        };
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
        }
    }
}

/// What a deletion led to.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; its last version.
    Gone(Value),
    /// The object is marked and waits for finalizers.
    Marked(Outcome),
}

/// The finalizers after a deletion with a policy.
fn after_policy(now: &[String], propagation: Option<Propagation>) -> Vec<String> {
    let has = |name: &str| now.iter().any(|finalizer| finalizer == name);
    let (orphan, foreground) = match propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Background) => (false, false),
        Some(Propagation::Foreground) => (false, true),
        None => (has("orphan"), has("foregroundDeletion")),
    };
    let mut new: Vec<String> = now
        .iter()
        .filter(|name| *name != "orphan" && *name != "foregroundDeletion")
        .cloned()
        .collect();
    if orphan {
        new.push("orphan".to_owned());
    }
    if foreground {
        new.push("foregroundDeletion".to_owned());
    }
    new
}

/// Marks an object as being deleted.
pub fn mark(object: &mut Value) {
    if deleting(object) {
        return;
    }
    if let Some(generation) = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .filter(|generation| *generation > 0)
    {
        metadata::set(object, "generation", json!(generation + 1));
    }
    metadata::set(object, "deletionTimestamp", json!(now_text()));
    metadata::set(object, "deletionGracePeriodSeconds", json!(0));
}

impl Core {
    /// Deletes one object.
    pub async fn delete(&self, info: &ResourceInfo, namespace: &str, name: &str, options: &DeleteOptions) -> ApiResult<Deleted> {
        if info.special == Special::Namespace && IMMORTAL.contains(&name) {
            let why = "this namespace may not be deleted";
            return Err(ApiError::forbidden(&info.group, &info.resource, name, why));
        }
        let key = self.key(info, namespace, name);
        // The real server names the kind here, not the resource.
        let conflict = |why: String| ApiError::conflict(&info.group, &info.kind, name, &why);
        loop {
            let Some(current) = self.store.get(&key) else {
                return Err(ApiError::not_found(&info.group, &info.resource, name));
            };
            let old = view(info, &current);
            if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != text(&old, "uid")) {
                return Err(conflict(format!(
                    "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                    text(&old, "uid")
                )));
            }
            if let Some(version) = options
                .resource_version
                .as_deref()
                .filter(|version| *version != text(&old, "resourceVersion"))
            {
                return Err(conflict(format!(
                    "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                    text(&old, "resourceVersion")
                )));
            }
            let wanted = after_policy(&finalizers(&old), options.propagation);
            let mut new = old.clone();
            set_finalizers(&mut new, &wanted);
            let held = match info.special {
                Special::Namespace => {
                    mark(&mut new);
                    new["status"]["phase"] = json!("Terminating");
                    new.pointer("/spec/finalizers")
                        .and_then(Value::as_array)
                        .is_some_and(|list| !list.is_empty())
                }
                Special::Definition if !deleting(&old) => {
                    super::definitions::mark_deleted(&mut new);
                    true
                }
                _ => false,
            };
            if !held && finalizers(&new).is_empty() {
                if options.dry_run {
                    return Ok(Deleted::Gone(old));
                }
                match self
                    .store
                    .commit(Write::Delete {
                        key: key.clone(),
                        revision: current.revision,
                    })
                    .await
                {
                    Ok(gone) => return Ok(Deleted::Gone(view(info, &gone))),
                    Err(StoreError::Conflict | StoreError::NotFound) => continue,
                    Err(error) => return Err(ApiError::from_store(&error, &info.group, &info.resource, name)),
                }
            }
            mark(&mut new);
            if new == old {
                return Ok(Deleted::Marked(Outcome::Stored(current)));
            }
            if options.dry_run {
                return Ok(Deleted::Marked(Outcome::Value(new)));
            }
            let expect = Expect::Revision(current.revision);
            match self
                .store
                .commit(Write::Put {
                    key: key.clone(),
                    expect,
                    draft: self.draft(info, &new),
                    require: None,
                })
                .await
            {
                Ok(object) => return Ok(Deleted::Marked(Outcome::Stored(object))),
                Err(StoreError::Conflict | StoreError::NotFound) => {}
                Err(error) => return Err(ApiError::from_store(&error, &info.group, &info.resource, name)),
            }
        }
    }

    /// The stored form of a value.
    pub fn draft(&self, info: &ResourceInfo, value: &Value) -> Draft {
        super::write::stored_form(info, value)
    }

    /// Changes the finalizers or the owner references of an object as a controller does: on the current version, deleting
    /// it when it waits for nothing else. Returns false when the object is gone.
    pub async fn amend(&self, info: &ResourceInfo, object: &Object, change: impl Fn(&mut Value)) -> ApiResult<bool> {
        let uid = object.meta.uid.clone();
        loop {
            let Some(current) = self.store.get(&object.key).filter(|current| current.meta.uid == uid) else {
                return Ok(false);
            };
            let old = current.value();
            let mut new = old.clone();
            change(&mut new);
            let gone = deleting(&new) && finalizers(&new).is_empty() && super::builtin::may_vanish(info.special, &new);
            let write = if gone {
                Write::Delete {
                    key: object.key.clone(),
                    revision: current.revision,
                }
            } else if new == old {
                return Ok(true);
            } else {
                let expect = Expect::Revision(current.revision);
                // The value is in stored form already: no conversion.
                Write::Put {
                    key: object.key.clone(),
                    expect,
                    draft: Draft::new(&new),
                    require: None,
                }
            };
            match self.store.commit(write).await {
                Ok(_) => return Ok(!gone),
                Err(StoreError::Conflict | StoreError::NotFound) => {}
                Err(error) => return Err(ApiError::from_store(&error, &info.group, &info.resource, object.key.name())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_set_their_finalizer_and_keep_foreign_ones() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let now = list(&["x/y", "orphan"]);
        assert_eq!(after_policy(&now, None), list(&["x/y", "orphan"]));
        assert_eq!(after_policy(&now, Some(Propagation::Background)), list(&["x/y"]));
        assert_eq!(
            after_policy(&now, Some(Propagation::Foreground)),
            list(&["x/y", "foregroundDeletion"])
        );
    }

    #[test]
    fn contradicting_options_are_refused() {
        let query = Query::default();
        let error = DeleteOptions::parse(Some(&json!({ "propagationPolicy": "Orphan", "orphanDependents": true })), &query);
        assert_eq!(error.expect_err("refused").code, 422);
        let error = DeleteOptions::parse(Some(&json!({ "propagationPolicy": "Sideways" })), &query);
        assert_eq!(error.expect_err("refused").code, 422);
    }
}
