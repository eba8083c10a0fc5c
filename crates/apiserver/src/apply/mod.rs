//! Field management: server-side apply, and the `metadata.managedFields` that every other write keeps up to date.
//!
//! Pure functions on JSON. Ownership is a set of field paths per manager ([`FieldSet`]); how an object decomposes into
//! fields is the schema's say ([`typed`]). Objects are handled in one version: converting between versions is not
//! done here, and managers of other versions are compared as if they were of this one.

mod fieldset;
mod typed;

pub use fieldset::FieldSet;

use crate::schema::gofmt;
use crate::schema::structural::Structural;
use crate::schema::{CauseReason, FieldError};
use serde_json::{Map, Value, json};
use typed::Type;

/// More Update managers than this are merged into `ancient-changes`.
const MAX_UPDATE_MANAGERS: usize = 10;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that a request cannot change, and so cannot own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetFields {
    /// Every field may be owned.
    #[default]
    None,
    /// `status` is reset: writes to the object itself when it has a status subresource.
    Status,
    /// Everything but `status` is reset: writes to the status subresource.
    AllButStatus,
}

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct ApplyParams {
    /// Name of the field manager.
    pub manager: String,
    /// Whether conflicting fields are taken over (apply only).
    pub force: bool,
    /// Subresource that is written to; empty for the object itself.
    pub subresource: String,
    /// Time of the write.
    pub now: jiff::Timestamp,
    /// `group/version` of the request.
    pub api_version: String,
    /// What cannot be owned through this request.
    pub reset: ResetFields,
    /// What a new object of the kind has without anybody's doing.
    pub unowned: Value,
    /// What was sent does not fit the schema's types (see [`fits`]): nothing is owned then.
    pub untypable: bool,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields with other values: a 409 with one cause per field.
    #[error("{message}")]
    Conflict {
        /// The whole text.
        message: String,
        /// One entry per field.
        causes: Vec<FieldError>,
    },
    /// The request itself is wrong: a 400.
    #[error("{0}")]
    BadRequest(String),
    /// The applied object does not fit the schema: a 500 in the real server.
    #[error("{0}")]
    Schema(String),
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Manager {
    name: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    set: FieldSet,
}

impl Manager {
    /// Whether two entries are of the same manager: appliers keep their identity across versions.
    fn same_identity(&self, other: &Self) -> bool {
        self.name == other.name
            && self.apply == other.apply
            && self.subresource == other.subresource
            && (self.apply || self.api_version == other.api_version)
    }

    fn decode(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        let apply = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = match entry.get("fieldsV1") {
            None | Some(Value::Null) => FieldSet::default(),
            Some(fields) => FieldSet::from_fields_v1(fields).ok()?,
        };
        let time = entry.get("time").and_then(Value::as_str).map(str::to_string);
        Some(Self {
            name: text("manager"),
            apply,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time,
            set,
        })
    }

    fn encode(&self) -> Value {
        let mut map = Map::new();
        map.insert("apiVersion".into(), json!(self.api_version));
        map.insert("fieldsType".into(), json!("FieldsV1"));
        map.insert("fieldsV1".into(), self.set.to_fields_v1());
        if !self.name.is_empty() {
            map.insert("manager".into(), json!(self.name));
        }
        map.insert("operation".into(), json!(if self.apply { "Apply" } else { "Update" }));
        if !self.subresource.is_empty() {
            map.insert("subresource".into(), json!(self.subresource));
        }
        if let Some(time) = &self.time {
            map.insert("time".into(), json!(time));
        }
        Value::Object(map)
    }

    fn seconds(&self) -> i64 {
        self.time
            .as_deref()
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .map_or(0, jiff::Timestamp::as_second)
    }

    /// The manager as a conflict names it.
    fn display(&self) -> String {
        let mut out = gofmt::quote(&self.name);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", gofmt::quote(&self.subresource)));
        }
        if !self.apply {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

/// All entries, or none when one of them cannot be read: the server then starts over.
fn decode_all(entries: Option<&Value>) -> Option<Vec<Manager>> {
    match entries {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(Manager::decode).collect(),
        Some(_) => None,
    }
}

fn entries_of(obj: &Value) -> Option<&Value> {
    obj.get("metadata").and_then(|m| m.get("managedFields"))
}

/// `[]` and `[{}]` reset field management.
fn is_reset(entries: Option<&Value>) -> bool {
    match entries {
        Some(Value::Array(list)) => match list.as_slice() {
            [] => true,
            [Value::Object(only)] => only.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

fn write(obj: &mut Value, managers: &mut [Manager]) {
    managers.sort_by(|a, b| {
        (!a.apply, a.seconds(), &a.name, &a.api_version, &a.subresource).cmp(&(
            !b.apply,
            b.seconds(),
            &b.name,
            &b.api_version,
            &b.subresource,
        ))
    });
    let list: Vec<Value> = managers.iter().map(Manager::encode).collect();
    set_entries(obj, (!list.is_empty()).then_some(Value::Array(list)));
}

fn set_entries(obj: &mut Value, entries: Option<Value>) {
    let Some(root) = obj.as_object_mut() else { return };
    match entries {
        Some(entries) => {
            let meta = root.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            if let Some(meta) = meta.as_object_mut() {
                meta.insert("managedFields".into(), entries);
            }
        }
        None => {
            if let Some(meta) = root.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("managedFields");
            }
        }
    }
}

/// Paths that are never owned.
fn strip(set: &mut FieldSet) {
    const TOP: [&str; 2] = ["f:apiVersion", "f:kind"];
    const META: [&str; 9] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    for key in TOP {
        set.entries.remove(key);
    }
    let gone = match set.entries.get_mut("f:metadata") {
        Some(meta) => {
            meta.member = false;
            for key in META {
                // Only the path itself is never owned; none of them has children.
                meta.children.entries.remove(key);
            }
            meta.children.entries.is_empty()
        }
        None => false,
    };
    if gone {
        set.entries.remove("f:metadata");
    }
}

fn reset(set: &mut FieldSet, fields: ResetFields) {
    match fields {
        ResetFields::None => {}
        ResetFields::Status => set.remove_top("status"),
        ResetFields::AllButStatus => set.keep_top("status"),
    }
}

fn timestamp(now: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    seconds.to_string()
}

/// Takes from every manager what `comparison` says was changed or removed.
fn take_away(managers: &mut Vec<Manager>, comparison: &typed::Comparison, except: Option<usize>) {
    for (i, manager) in managers.iter_mut().enumerate() {
        if Some(i) == except {
            continue;
        }
        manager.set.subtract(&comparison.modified);
        manager.set.subtract(&comparison.added);
        manager.set.subtract(&comparison.removed);
    }
    managers.retain(|m| !m.set.is_empty());
}

/// Brings `new.metadata.managedFields` up to date after a create (`old` is `None`), update or non-apply patch.
///
/// Never fails: an object whose recorded ownership cannot be read starts over with none.
pub fn track_update(schema: &Structural, old: Option<&Value>, new: &mut Value, params: &ApplyParams) {
    if params.untypable {
        set_entries(new, None);
        return;
    }
    let requested = new
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|m| m.remove("managedFields"));
    let live = old.and_then(entries_of);
    let subresource = !params.subresource.is_empty();
    let (mut managers, kept) = if subresource {
        (decode_all(live).unwrap_or_default(), live)
    } else if is_reset(requested.as_ref()) {
        (Vec::new(), None)
    } else {
        match decode_all(requested.as_ref()) {
            Some(list) if !list.is_empty() => (list, requested.as_ref()),
            _ => (decode_all(live).unwrap_or_default(), live),
        }
    };
    if managers.is_empty() && old.is_some() {
        // Nobody is tracked and the object exists: it stays untracked until the first apply.
        return;
    }
    let typ = Type::Root(&schema.root);
    let mut comparison = typed::compare(old.or(Some(&params.unowned)), new, typ);
    for set in [&mut comparison.added, &mut comparison.modified, &mut comparison.removed] {
        reset(set, params.reset);
    }
    if comparison.is_same() && !managers.is_empty() && kept.is_some() {
        let entries = kept.cloned();
        // Most no-op writes carry the entries unchanged; what was edited is normalised like any other.
        if live.is_some() && entries.as_ref() == live {
            set_entries(new, entries);
        } else {
            managers.retain(|m| !m.set.is_empty());
            write(new, &mut managers);
        }
        return;
    }
    if let Some(old) = old {
        for manager in &mut managers {
            typed::reconcile(&mut manager.set, old, typ);
        }
    }
    take_away(&mut managers, &comparison, None);
    let mut own = comparison.modified;
    own.union_with(&comparison.added);
    strip(&mut own);
    if !own.is_empty() {
        let mine = Manager {
            name: if params.manager.is_empty() {
                "unknown".into()
            } else {
                params.manager.clone()
            },
            apply: false,
            api_version: params.api_version.clone(),
            subresource: params.subresource.clone(),
            time: Some(timestamp(params.now)),
            set: own,
        };
        match managers.iter_mut().find(|m| m.same_identity(&mine)) {
            Some(previous) => {
                previous.set.union_with(&mine.set);
                previous.time = mine.time;
            }
            None => managers.push(mine),
        }
    }
    cap_update_managers(&mut managers);
    write(new, &mut managers);
}

/// Merges the oldest Update managers into one bucket per version.
fn cap_update_managers(managers: &mut Vec<Manager>) {
    let mut count = managers.iter().filter(|m| !m.apply).count();
    if count <= MAX_UPDATE_MANAGERS {
        return;
    }
    let mut updaters: Vec<Manager> = Vec::new();
    let mut rest: Vec<Manager> = Vec::new();
    for manager in managers.drain(..) {
        if manager.apply {
            rest.push(manager)
        } else {
            updaters.push(manager)
        }
    }
    updaters.sort_by(|a, b| (a.seconds(), &a.name, &a.subresource).cmp(&(b.seconds(), &b.name, &b.subresource)));
    let mut first_of: Vec<(String, usize)> = Vec::new();
    let mut dropped = vec![false; updaters.len()];
    for i in 0..updaters.len() {
        if count <= MAX_UPDATE_MANAGERS {
            break;
        }
        let version = updaters[i].api_version.clone();
        match first_of.iter().find(|(v, _)| *v == version) {
            None => first_of.push((version, i)),
            Some((_, bucket)) => {
                let bucket = *bucket;
                let (set, time) = (std::mem::take(&mut updaters[i].set), updaters[i].time.clone());
                let target = &mut updaters[bucket];
                target.name = "ancient-changes".into();
                target.subresource = String::new();
                target.set.union_with(&set);
                target.time = time;
                dropped[i] = true;
                count -= 1;
            }
        }
    }
    rest.extend(updaters.into_iter().zip(dropped).filter(|(_, gone)| !gone).map(|(m, _)| m));
    *managers = rest;
}

/// Server-side apply: merges `applied` into `live` and returns the new object with its `managedFields`.
///
/// Fields that this manager applied before, does not apply now and nobody else owns are removed. When nothing
/// changes, the result equals `live`, times included. A `live` of `None` creates the object.
pub fn server_side_apply(schema: &Structural, live: Option<&Value>, applied: &Value, params: &ApplyParams) -> Result<Value, ApplyError> {
    let typ = Type::Root(&schema.root);
    check(schema, applied, &params.api_version)?;
    let empty = json!({"apiVersion": applied.get("apiVersion"), "kind": applied.get("kind")});
    let base = live.unwrap_or(&empty);
    let mut managers = match decode_all(entries_of(base)) {
        Some(managers) => managers,
        None => {
            return Err(ApplyError::Schema(
                "failed to decode managed fields: an entry of metadata.managedFields is malformed".into(),
            ));
        }
    };
    if managers.is_empty() && live.is_some() {
        before_first_apply(base, typ, params, &mut managers);
    }
    for manager in &mut managers {
        typed::reconcile(&mut manager.set, base, typ);
    }
    let attempt = match apply_once(base, applied, typ, managers.clone(), params, params.force) {
        Err(ApplyError::Conflict { message, causes }) if params.manager == "kubectl" => {
            // What kubectl applied on the client's side before, kubectl may apply on the server's side now.
            let allowed = last_applied_fields(base, typ);
            if conflicts_within(base, applied, typ, &managers, params, &allowed) {
                apply_once(base, applied, typ, managers, params, true)
            } else {
                Err(ApplyError::Conflict { message, causes })
            }
        }
        other => other,
    };
    let (mut object, mut managers) = attempt?;
    if live.is_some_and(|live| same_fields(live, &object)) {
        // Who applies what is there already gets no new time, and a new manager none at all.
        let mine = |manager: &&mut Manager| manager.apply && manager.name == params.manager && manager.subresource == params.subresource;
        let before = decode_all(entries_of(base)).unwrap_or_default();
        if let Some(mine) = managers.iter_mut().find(mine) {
            mine.time = before
                .iter()
                .find(|manager| manager.same_identity(mine))
                .and_then(|manager| manager.time.clone());
        }
    }
    if params.manager == "kubectl" {
        refresh_last_applied(&mut object, applied);
    }
    write(&mut object, &mut managers);
    match live {
        Some(live) if unchanged(live, &object) => Ok(live.clone()),
        _ => Ok(object),
    }
}

/// Checks an applied configuration by itself: its version, and that it fits the schema.
pub fn check(schema: &Structural, applied: &Value, api_version: &str) -> Result<(), ApplyError> {
    check_request(applied, api_version)?;
    typed::check(applied, Type::Root(&schema.root), false)
        .map_err(|e| ApplyError::Schema(format!("failed to create typed patch object ({}): {e}", name_of(applied))))
}

/// Whether an object is of the schema's types, so that its fields can be owned. Entries of a list may be there twice.
pub fn fits(schema: &Structural, object: &Value) -> bool {
    typed::check(object, Type::Root(&schema.root), true).is_ok()
}

fn check_request(applied: &Value, api_version: &str) -> Result<(), ApplyError> {
    if !applied.is_object() {
        return Err(ApplyError::BadRequest(
            "error decoding YAML: the applied configuration must be an object".into(),
        ));
    }
    let version = applied.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version != api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {api_version}"
        )));
    }
    if entries_of(applied).is_some_and(|e| !e.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()));
    }
    Ok(())
}

fn name_of(obj: &Value) -> String {
    let text = |pointer: &str| obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let version = text("/apiVersion");
    let shown = if version.contains('/') {
        version.to_string()
    } else {
        format!("/{version}")
    };
    format!(
        "{}/{}; {shown}, Kind={}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/kind")
    )
}

/// An object that nobody was tracked on: what it holds belongs to an Update manager from before.
fn before_first_apply(base: &Value, typ: Type<'_>, params: &ApplyParams, managers: &mut Vec<Manager>) {
    let comparison = typed::compare(Some(&params.unowned), base, typ);
    let mut set = comparison.added;
    set.union_with(&comparison.modified);
    reset(&mut set, params.reset);
    strip(&mut set);
    if !set.is_empty() {
        managers.push(Manager {
            name: "before-first-apply".into(),
            apply: false,
            api_version: params.api_version.clone(),
            subresource: params.subresource.clone(),
            time: Some(timestamp(params.now)),
            set,
        });
    }
}

fn apply_once(
    base: &Value,
    applied: &Value,
    typ: Type<'_>,
    mut managers: Vec<Manager>,
    params: &ApplyParams,
    force: bool,
) -> Result<(Value, Vec<Manager>), ApplyError> {
    let merged = typed::merge(Some(base), applied, typ).map_err(|e| ApplyError::Schema(format!("failed to merge config: {e}")))?;
    let mut set = typed::field_set(applied, typ);
    reset(&mut set, params.reset);
    let mine = Manager {
        name: params.manager.clone(),
        apply: true,
        api_version: params.api_version.clone(),
        subresource: params.subresource.clone(),
        time: Some(timestamp(params.now)),
        set,
    };
    let (last, index) = match managers.iter().position(|m| m.same_identity(&mine)) {
        Some(i) => {
            let last = std::mem::replace(&mut managers[i], mine);
            (Some(last.set), i)
        }
        None => {
            managers.push(mine);
            (None, managers.len() - 1)
        }
    };
    let mut object = match last {
        Some(last) if !last.is_empty() => prune_unowned(&merged, &managers, &last, typ),
        _ => merged,
    };
    let mut comparison = typed::compare(Some(base), &object, typ);
    for set in [&mut comparison.added, &mut comparison.modified, &mut comparison.removed] {
        reset(set, params.reset);
    }
    if !force {
        let conflicts = find_conflicts(&managers, index, &comparison);
        if !conflicts.is_empty() {
            return Err(conflict_error(&conflicts));
        }
    }
    strip(&mut managers[index].set);
    // Taking away may drop emptied managers, so the applier is found again by identity, not position.
    take_away(&mut managers, &comparison, Some(index));
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    Ok((object, managers))
}

/// Removes what was applied last time, is not applied now, and is owned by nobody else.
fn prune_unowned(merged: &Value, managers: &[Manager], last: &FieldSet, typ: Type<'_>) -> Value {
    let last = typed::ensure_named(last, typ);
    let pruned = typed::remove(merged, &last, typ).unwrap_or_else(|| Value::Object(Map::new()));
    let mut managed = FieldSet::default();
    for manager in managers {
        managed.union_with(&manager.set);
    }
    let merged_set = typed::ensure_named(&typed::field_set(merged, typ), typ);
    let mut keep = typed::ensure_named(&typed::field_set(&pruned, typ), typ);
    keep.union_with(&typed::ensure_named(&managed, typ));
    let mut unowned = merged_set.clone();
    unowned.subtract(&keep);
    let pruned = typed::remove(merged, &unowned, typ).unwrap_or_else(|| Value::Object(Map::new()));
    // What this manager never owned stays, even if nobody else does own it.
    let mut gone = merged_set;
    gone.subtract(&typed::ensure_named(&typed::field_set(&pruned, typ), typ));
    let gone = gone.intersection(&last);
    typed::remove(merged, &gone, typ).unwrap_or_else(|| Value::Object(Map::new()))
}

struct Conflict {
    manager: String,
    path: String,
}

fn find_conflicts(managers: &[Manager], index: usize, comparison: &typed::Comparison) -> Vec<Conflict> {
    let mut changed = comparison.modified.clone();
    changed.union_with(&comparison.added);
    let mut out = Vec::new();
    for (i, manager) in managers.iter().enumerate() {
        if i == index {
            continue;
        }
        manager.set.intersection(&changed).for_each(&mut |path| {
            out.push(Conflict {
                manager: manager.display(),
                path: fieldset::display(path),
            });
        });
    }
    out.sort_by(|a, b| a.manager.cmp(&b.manager));
    out
}

fn conflict_error(conflicts: &[Conflict]) -> ApplyError {
    let causes = conflicts
        .iter()
        .map(|c| FieldError {
            field: c.path.clone(),
            reason: CauseReason::FieldManagerConflict,
            message: format!("conflict with {}", c.manager),
        })
        .collect();
    let message = match conflicts {
        [only] => format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path),
        many => {
            let mut lines = Vec::new();
            let mut current = None;
            for conflict in many {
                if current != Some(&conflict.manager) {
                    lines.push(format!("conflicts with {}:", conflict.manager));
                    current = Some(&conflict.manager);
                }
                lines.push(format!("- {}", conflict.path));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    ApplyError::Conflict { message, causes }
}

/// The fields of the last client-side applied configuration that the object still holds unchanged.
fn last_applied_fields(base: &Value, typ: Type<'_>) -> FieldSet {
    let annotation = base
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(LAST_APPLIED))
        .and_then(Value::as_str);
    let Some(Ok(last)) = annotation.map(serde_json::from_str::<Value>) else {
        return FieldSet::default();
    };
    if typed::check(&last, typ, false).is_err() {
        return FieldSet::default();
    }
    let mut set = typed::field_set(&last, typ);
    let comparison = typed::compare(Some(base), &last, typ);
    set.subtract(&comparison.modified);
    set.subtract(&comparison.added);
    set.subtract(&comparison.removed);
    set
}

fn conflicts_within(base: &Value, applied: &Value, typ: Type<'_>, managers: &[Manager], params: &ApplyParams, allowed: &FieldSet) -> bool {
    if allowed.is_empty() {
        return false;
    }
    let Ok(merged) = typed::merge(Some(base), applied, typ) else {
        return false;
    };
    let mut comparison = typed::compare(Some(base), &merged, typ);
    for set in [&mut comparison.added, &mut comparison.modified] {
        reset(set, params.reset);
    }
    let mut changed = comparison.modified;
    changed.union_with(&comparison.added);
    managers
        .iter()
        .filter(|m| !(m.apply && m.name == params.manager && m.subresource == params.subresource))
        .all(|m| {
            let mut conflicts = m.set.intersection(&changed);
            conflicts.subtract(allowed);
            conflicts.is_empty()
        })
}

/// kubectl's own annotation follows its server-side apply, so that going back to client-side apply works.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut copy = applied.clone();
    if let Some(own) = copy.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        own.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.into(), Value::String(format!("{}\n", gofmt::sorted_json(&copy))));
}

fn metadata_of(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// Whether two objects differ in nothing but their managers.
fn same_fields(live: &Value, object: &Value) -> bool {
    let (Some(a), Some(b)) = (live.as_object(), object.as_object()) else {
        return false;
    };
    let empty = Map::new();
    let (meta_a, meta_b) = (metadata_of(live).unwrap_or(&empty), metadata_of(object).unwrap_or(&empty));
    let body = |x: &Map<String, Value>, y: &Map<String, Value>, skip: &str| {
        x.iter()
            .filter(|(k, _)| *k != skip)
            .all(|(k, v)| y.get(k).is_some_and(|w| gofmt::same(v, w)))
            && y.keys().filter(|k| *k != skip).all(|k| x.contains_key(k))
    };
    body(a, b, "metadata") && body(meta_a, meta_b, "managedFields")
}

/// Whether two objects differ in nothing but the times of their managers.
fn unchanged(live: &Value, object: &Value) -> bool {
    if !same_fields(live, object) {
        return false;
    }
    let timeless = |entries: Option<&Value>| -> Option<Vec<Manager>> {
        let mut list = decode_all(entries)?;
        for manager in &mut list {
            manager.time = None;
        }
        Some(list)
    };
    let (x, y) = (timeless(entries_of(live)), timeless(entries_of(object)));
    match (x, y) {
        (Some(x), Some(y)) => x.len() == y.len() && x.iter().all(|m| y.contains(m)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
