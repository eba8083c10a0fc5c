//! Importing: every object is made as it was, its machine paused; then, at a person's word, machines go on.
//!
//! Each object that is made carries the annotation [`IMPORTED`] with the export's id and its old uid. By it an import that was interrupted and is run again knows its own objects from strangers of the
//! same name. When all is there, the Secret with netboot's keys is marked [`COMPLETE`]; from then on a further run touches nothing but the pause.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use crate::{
    Say,
    archive::Archive,
    objects::{self, KEYS, Kind, is_conflict, is_not_found, label},
    pause::{BY_IMPORT, PAUSED_BY, is_paused, paused_by},
    uids::Uids,
};

/// On each object that an import made: `<id of the export>/<old uid>`.
pub const IMPORTED: &str = "kube-baremetal.io/imported";
/// On the Secret with netboot's keys: the id of the export that is complete here.
pub const COMPLETE: &str = "kube-baremetal.io/import-complete";
/// So long an operator may go on using netboot's keys that were replaced.
const KEYS_ARE_KEPT: Duration = Duration::from_secs(65);
/// Writes at a time.
const AT_ONCE: usize = 16;
/// How often a status that somebody else wrote meanwhile is written again.
const TRIES: usize = 5;

/// How to import.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespace with netboot's keys, in both APIs.
    pub netboot_namespace: String,
    /// Let machines go on at the end.
    pub resume: bool,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that are there, made by this run or an earlier one.
    pub objects: usize,
    /// Of them machines.
    pub machines: usize,
    /// Whether everything was there already.
    pub was_complete: bool,
    /// Machines and policies that go on now.
    pub resumed: Option<usize>,
    /// What was not made, or not as it was, in words.
    pub notes: Vec<String>,
}

struct Import<'a> {
    client: &'a Client,
    options: &'a Options,
    id: &'a str,
    say: Say<'a>,
    uids: Uids,
    notes: Vec<String>,
    keys_replaced: bool,
}

/// Imports an archive.
///
/// # Errors
/// In words for a person. Nothing was erased or ordered, and it can be run again.
pub async fn import(client: &Client, options: &Options, archive: &Archive, say: Say<'_>) -> Result<Report> {
    let mut this = Import {
        client,
        options,
        id: &archive.header.id,
        say,
        uids: Uids::default(),
        notes: Vec::new(),
        keys_replaced: false,
    };
    let complete = this.is_complete().await?;
    if complete {
        say("everything of this export is there already");
    } else {
        this.make(archive).await?;
    }
    let mut report = Report {
        objects: archive.objects.len(),
        machines: archive.objects.iter().filter(|o| is_kind(o, "BareMetalHardware")).count(),
        was_complete: complete,
        resumed: None,
        notes: this.notes,
    };
    if options.resume {
        if this.keys_replaced {
            say(&format!(
                "waiting {} s, until every operator uses the imported keys",
                KEYS_ARE_KEPT.as_secs()
            ));
            tokio::time::sleep(KEYS_ARE_KEPT).await;
        }
        report.resumed = Some(crate::pause::resume(client, false, say).await?);
    }
    Ok(report)
}

fn is_kind(object: &DynamicObject, kind: &str) -> bool {
    object.types.as_ref().is_some_and(|t| t.kind == kind)
}

/// The object as it is sent: without what the other API makes of its own.
fn fresh(object: &DynamicObject) -> DynamicObject {
    let mut made = object.clone();
    let old = &object.metadata;
    made.metadata = kube::api::ObjectMeta {
        name: old.name.clone(),
        namespace: old.namespace.clone(),
        labels: old.labels.clone(),
        annotations: old.annotations.clone(),
        finalizers: old.finalizers.clone(),
        owner_references: old.owner_references.clone(),
        ..kube::api::ObjectMeta::default()
    };
    if is_kind(object, "Namespace")
        && let Some(labels) = &mut made.metadata.labels
    {
        labels.remove("kubernetes.io/metadata.name");
    }
    if is_kind(object, "BareMetalNetwork")
        && let Some(data) = made.data.as_object_mut()
    {
        // What the replicas there saw on the wire; those here look for themselves.
        data.remove("status");
    }
    made
}

/// What was sent and is not there: a field that the API does not know is dropped in silence.
fn dropped(sent: &Value, kept: &Value, at: &str) -> Option<String> {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => sent.iter().filter(|(_, v)| !v.is_null()).find_map(|(key, value)| {
            let at = format!("{at}.{key}");
            match kept.get(key) {
                Some(kept) => dropped(value, kept, &at),
                None => Some(at),
            }
        }),
        (Value::Array(sent), Value::Array(kept)) => sent
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (sent, kept))| dropped(sent, kept, &format!("{at}[{index}]"))),
        _ => None,
    }
}

fn refuse_dropped(object: &DynamicObject, part: &str, sent: Option<&Value>, kept: Option<&Value>) -> Result<()> {
    let (Some(sent), kept) = (sent, kept.unwrap_or(&Value::Null)) else {
        return Ok(());
    };
    let lost = match kept {
        Value::Null => sent.as_object().filter(|s| !s.is_empty()).map(|_| part.to_owned()),
        kept => dropped(sent, kept, part),
    };
    match lost {
        Some(field) => bail!(
            "{}: this API dropped {field}, which its definitions do not know: install those of this version there (`kube-baremetal crds`), delete the object, and import again",
            label(object)
        ),
        None => Ok(()),
    }
}

impl Import<'_> {
    fn mark(&self, object: &DynamicObject) -> String {
        format!("{}/{}", self.id, object.uid().unwrap_or_default())
    }

    fn is_mine(&self, found: &DynamicObject, object: &DynamicObject) -> bool {
        found.annotations().get(IMPORTED) == Some(&self.mark(object))
    }

    async fn is_complete(&self) -> Result<bool> {
        let kind = objects::of(&secret_stub())?;
        let api = kube::Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.options.netboot_namespace, &kind.resource);
        let keys = api.get_opt(KEYS).await.context("reading netboot's keys")?;
        Ok(keys.is_some_and(|k| k.annotations().get(COMPLETE).map(String::as_str) == Some(self.id)))
    }

    /// Everything that is there, by kind, and by namespace and name.
    async fn present(&self) -> Result<HashMap<String, DynamicObject>> {
        let mut present = HashMap::new();
        for kind in objects::ours() {
            for object in kind.list(self.client).await? {
                present.insert(label(&object), object);
            }
        }
        Ok(present)
    }

    async fn make(&mut self, archive: &Archive) -> Result<()> {
        let present = self.present().await?;
        self.refuse_strangers(archive, &present).await?;
        let (mut groups, mut order): (HashMap<String, Vec<&DynamicObject>>, Vec<Kind>) = Default::default();
        for object in &archive.objects {
            let kind = objects::of(object)?;
            let group = groups.entry(kind.resource.kind.clone()).or_default();
            if group.is_empty() {
                order.push(kind);
            }
            group.push(object);
        }
        for kind in &order {
            let group = groups.remove(&kind.resource.kind).unwrap_or_default();
            (self.say)(&format!("{}: {}", kind.resource.kind, group.len()));
            match kind.resource.kind.as_str() {
                "Namespace" => self.namespaces(kind, &group).await?,
                "Secret" => self.secrets(kind, &group, &present).await?,
                _ => self.objects(kind, &group, &present).await?,
            }
            if kind.resource.kind == "BareMetalInstance" {
                // Now that instances have their uids.
                self.identify_machines(archive).await?;
            }
        }
        self.delete_again(archive).await?;
        let keys = kube::Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            &self.options.netboot_namespace,
            &objects::of(&secret_stub())?.resource,
        );
        let done = json!({ "metadata": { "annotations": { COMPLETE: self.id } } });
        keys.patch(KEYS, &PatchParams::default(), &Patch::Merge(done))
            .await
            .context("marking the import as complete")?;
        Ok(())
    }

    /// Objects of the same names that this import did not make; nothing is made as long as there are any.
    async fn refuse_strangers(&self, archive: &Archive, present: &HashMap<String, DynamicObject>) -> Result<()> {
        let mut strangers = Vec::new();
        for object in &archive.objects {
            match object.types.as_ref().map(|t| t.kind.as_str()) {
                Some("Namespace") => {}
                Some("Secret") => {
                    let is_keys = object.name_any() == KEYS && object.namespace().as_ref() == Some(&self.options.netboot_namespace);
                    let found = self.there(&objects::of(object)?, object).await?;
                    if !is_keys && found.is_some_and(|f| f.data.get("data") != object.data.get("data")) {
                        strangers.push(format!("{} (with other contents)", label(object)));
                    }
                }
                _ => {
                    if present.get(&label(object)).is_some_and(|found| !self.is_mine(found, object)) {
                        strangers.push(label(object));
                    }
                }
            }
        }
        let count = strangers.len();
        strangers.truncate(20);
        ensure!(
            count == 0,
            "this API holds {count} objects of the same names that this import did not make; nothing was changed. Import into an API without them, or delete them there:\n  {}",
            strangers.join("\n  ")
        );
        Ok(())
    }

    async fn there(&self, kind: &Kind, object: &DynamicObject) -> Result<Option<DynamicObject>> {
        let found = kind.home(self.client, object).get_opt(&object.name_any()).await;
        found.with_context(|| format!("reading {}", label(object)))
    }

    async fn namespaces(&self, kind: &Kind, group: &[&DynamicObject]) -> Result<()> {
        for object in group {
            if self.there(kind, object).await?.is_none() {
                self.create(kind, &fresh(object)).await?;
            }
        }
        Ok(())
    }

    async fn secrets(&mut self, kind: &Kind, group: &[&DynamicObject], present: &HashMap<String, DynamicObject>) -> Result<()> {
        for object in group {
            let Some(found) = self.there(kind, object).await? else {
                self.create(kind, &fresh(object)).await?;
                continue;
            };
            if found.data.get("data") == object.data.get("data") {
                continue;
            }
            // Only netboot's keys come here; other Secrets with other contents were refused.
            let strangers: Vec<&String> = present
                .iter()
                .filter(|(_, o)| is_kind(o, "BareMetalDiscovery") && !o.annotations().get(IMPORTED).is_some_and(|m| m.starts_with(self.id)))
                .map(|(name, _)| name)
                .collect();
            ensure!(
                strangers.is_empty(),
                "netboot has other keys here, and {} machines that know them: these would not know it any more. Move to an API that has no machines of its own",
                strangers.len()
            );
            let mut new = found.clone();
            new.data = object.data.clone();
            kind.home(self.client, object)
                .replace(&object.name_any(), &PostParams::default(), &new)
                .await
                .with_context(|| format!("replacing {}", label(object)))?;
            self.keys_replaced = true;
            self.notes.push(
                "netboot's own keys here were replaced by those of the export: netboot uses them within seconds, operators within a minute"
                    .to_owned(),
            );
        }
        Ok(())
    }

    async fn create(&self, kind: &Kind, object: &DynamicObject) -> Result<DynamicObject> {
        let created = kind.home(self.client, object).create(&PostParams::default(), object).await;
        let created = created.with_context(|| format!("creating {}", label(object)))?;
        refuse_dropped(object, "spec", object.data.get("spec"), created.data.get("spec"))?;
        if !kind.status {
            refuse_dropped(object, "status", object.data.get("status"), created.data.get("status"))?;
        }
        Ok(created)
    }

    /// Makes the objects of one kind, with status. A machine's status comes when its instance has its uid.
    async fn objects(&mut self, kind: &Kind, group: &[&DynamicObject], present: &HashMap<String, DynamicObject>) -> Result<()> {
        let mut to_make = Vec::new();
        for object in group {
            if let Some(why) = goes_at_once(object) {
                self.notes.push(format!("{} {why}", label(object)));
                continue;
            }
            let mut made = fresh(object);
            for owner in self.uids.in_owners(&mut made) {
                self.notes
                    .push(format!("{} is not owned by {owner} any more, which does not move", label(object)));
            }
            if is_kind(object, "BareMetalAddress") {
                self.uids.in_address(&mut made);
            }
            made.annotations_mut().insert(IMPORTED.to_owned(), self.mark(object));
            if is_kind(object, "BareMetalHardware") || is_kind(object, "BareMetalDiscoveryPolicy") {
                pause(&mut made);
            }
            to_make.push((made, *object));
        }
        let this = &*self;
        let made: Vec<(String, String)> = stream::iter(to_make)
            .map(|(made, object)| async move {
                let known = present.get(&label(object)).cloned();
                let found = match known {
                    Some(found) => found,
                    None => this.create_or_find(kind, &made, object).await?,
                };
                if kind.status && !is_kind(object, "BareMetalHardware") {
                    this.status(kind, object, object.data.get("status")).await?;
                }
                anyhow::Ok((object.uid().unwrap_or_default(), found.uid().unwrap_or_default()))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for (old, new) in made {
            self.uids.insert(&old, &new);
        }
        Ok(())
    }

    async fn create_or_find(&self, kind: &Kind, made: &DynamicObject, object: &DynamicObject) -> Result<DynamicObject> {
        match self.create(kind, made).await {
            Err(error) if error.downcast_ref::<kube::Error>().is_some_and(is_conflict) => {
                let found = self.there(kind, object).await?.filter(|f| self.is_mine(f, object));
                found.with_context(|| format!("{} was made by somebody else a moment ago", label(object)))
            }
            other => other,
        }
    }

    /// Writes a status as it was, also over one that the other API's operator wrote meanwhile.
    async fn status(&self, kind: &Kind, object: &DynamicObject, status: Option<&Value>) -> Result<()> {
        let Some(status) = status.filter(|s| s.as_object().is_some_and(|s| !s.is_empty())) else {
            return Ok(());
        };
        for _ in 0..TRIES {
            let Some(mut found) = self.there(kind, object).await? else {
                bail!("{} is gone again: who deletes it?", label(object));
            };
            if found.data.get("status") == Some(status) {
                return Ok(());
            }
            found.data["status"] = status.clone();
            match kind
                .home(self.client, object)
                .replace_status(&object.name_any(), &PostParams::default(), &found)
                .await
            {
                Ok(kept) => return refuse_dropped(object, "status", Some(status), kept.data.get("status")),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error).with_context(|| format!("writing the status of {}", label(object))),
            }
        }
        bail!(
            "the status of {} is written by somebody else all the time; import again",
            label(object)
        )
    }

    /// Machines get the claims of the instances that were made, and their status.
    async fn identify_machines(&self, archive: &Archive) -> Result<()> {
        let kind = objects::hardware();
        let machines: Vec<&DynamicObject> = archive
            .objects
            .iter()
            .filter(|o| is_kind(o, "BareMetalHardware") && goes_at_once(o).is_none())
            .collect();
        stream::iter(machines)
            .map(|object| {
                let kind = &kind;
                async move {
                    let mut new = object.clone();
                    self.uids.in_hardware(&mut new);
                    if let Some(claim) = new.data.pointer("/spec/claimRef").filter(|c| !c.is_null()) {
                        let change = json!({ "spec": { "claimRef": claim } });
                        kind.home(self.client, object)
                            .patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(change))
                            .await
                            .with_context(|| format!("identifying the claim of {}", label(object)))?;
                    }
                    self.status(kind, object, new.data.get("status")).await
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    /// What was being deleted is deleted here too. Finalizers hold it until its machine goes on.
    async fn delete_again(&self, archive: &Archive) -> Result<()> {
        for object in archive
            .objects
            .iter()
            .filter(|o| o.metadata.deletion_timestamp.is_some() && goes_at_once(o).is_none())
        {
            let kind = objects::of(object)?;
            let Some(found) = self.there(&kind, object).await?.filter(|f| self.is_mine(f, object)) else {
                continue;
            };
            let exactly = DeleteParams::default().preconditions(Preconditions {
                uid: found.uid(),
                resource_version: None,
            });
            match kind.home(self.client, object).delete(&object.name_any(), &exactly).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error).with_context(|| format!("deleting {} as before", label(object))),
            }
        }
        Ok(())
    }
}

fn secret_stub() -> DynamicObject {
    DynamicObject {
        types: Some(kube::core::TypeMeta {
            api_version: "v1".to_owned(),
            kind: "Secret".to_owned(),
        }),
        metadata: kube::api::ObjectMeta::default(),
        data: Value::Null,
    }
}

/// Why an object is not made again: it was being deleted, and nothing would hold it.
fn goes_at_once(object: &DynamicObject) -> Option<&'static str> {
    object.metadata.deletion_timestamp.as_ref()?;
    let held = object
        .finalizers()
        .iter()
        .any(|f| !f.starts_with("foregroundDeletion") && f != "orphan");
    let bound = !is_kind(object, "BareMetalInstance") || object.data.pointer("/spec/hardwareName").is_some_and(|n| !n.is_null());
    (!held || !bound).then_some("was being deleted and had nothing to wait for: it is not made again")
}

/// Paused from its first moment. Who paused it before the export goes on to be said.
fn pause(object: &mut DynamicObject) {
    let by_person = is_paused(object) && paused_by(object).is_none();
    if let Some(spec) = object.data.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("paused".to_owned(), json!(true));
    }
    if !by_person {
        object.annotations_mut().insert(PAUSED_BY.to_owned(), BY_IMPORT.to_owned());
    }
}

/// Names of what an archive holds, counted by kind.
pub fn contents(archive: &Archive) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for object in &archive.objects {
        let kind = object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default();
        *kinds.entry(kind).or_insert(0) += 1;
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_the_api_dropped_is_named() {
        let sent = json!({"a": {"b": [{"c": 1}, {"d": 2}]}, "e": null});
        assert_eq!(dropped(&sent, &sent, "spec"), None);
        let kept = json!({"a": {"b": [{"c": 1}, {}], "defaulted": true}});
        assert_eq!(dropped(&sent, &kept, "spec").as_deref(), Some("spec.a.b[1].d"));
    }

    #[test]
    fn a_network_comes_without_what_was_seen_on_its_wire() {
        let network: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kube-baremetal.io/v1alpha1", "kind": "BareMetalNetwork", "metadata": {"name": "lab", "uid": "u"},
            "spec": {"dhcp": "Proxy"}, "status": {"conditions": [{"type": "NetbootHealthy"}]}
        }))
        .unwrap();
        let made = fresh(&network);
        assert_eq!(made.data, json!({"spec": {"dhcp": "Proxy"}}));
        assert_eq!(made.metadata.uid, None);
    }

    #[test]
    fn what_a_person_paused_is_not_resumed_with_the_rest() {
        let object = |paused: bool, by: Option<&str>| -> DynamicObject {
            let mut made: DynamicObject = serde_json::from_value(json!({"metadata": {"name": "m"}, "spec": {"paused": paused}})).unwrap();
            made.annotations_mut().extend(by.map(|by| (PAUSED_BY.to_owned(), by.to_owned())));
            pause(&mut made);
            made
        };
        assert_eq!(paused_by(&object(true, None)), None);
        assert_eq!(paused_by(&object(true, Some("export"))), Some(BY_IMPORT));
        assert_eq!(paused_by(&object(false, None)), Some(BY_IMPORT));
        assert!(is_paused(&object(false, None)));
    }
}
