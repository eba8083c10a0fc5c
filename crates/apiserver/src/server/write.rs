//! Create and update: what is done to an object between the wire and the store.
//!
//! Invariants: a write is decided on one committed version and stored only if that is still the current one (compare and
//! swap); the decision is repeated on a newer version unless the client named the version it wants to replace. An update
//! that changes nothing stores nothing. Nothing is stored by a dry run.

use std::sync::Arc;

use rand::RngExt;
use serde_json::{Value, json};

use super::builtin;
use super::core::{Core, stamp, view};
use super::events;
use super::metadata::{self, carry_over, deleting, finalizers, now_text, text};
use super::registry::{NAMESPACES, ResourceInfo, Special};
use super::request::{FieldValidation, WriteOptions};
use super::status::{ApiError, ApiResult};
use crate::apply::{self, ApplyParams, ResetFields};
use crate::schema::metadata::NameRule;
use crate::schema::{self, CauseReason, FieldError, PruneOptions};
use crate::store::{Draft, Expect, Key, Object, StoreError, Write};

/// How often a write without a resourceVersion is decided anew when others are faster.
const ATTEMPTS: usize = 64;
/// The real server's alphabet of generated names: no vowels, no look-alikes.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What a write led to.
#[derive(Debug)]
pub enum Outcome {
    /// The stored object.
    Stored(Arc<Object>),
    /// What would have been stored (dry run), or an object that was removed with its last finalizer.
    Value(Value),
}

impl Outcome {
    /// As a value in the version of a resource.
    pub fn value(&self, info: &ResourceInfo) -> Value {
        match self {
            Outcome::Stored(object) => view(info, object),
            Outcome::Value(value) => value.clone(),
        }
    }
}

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (when that is a subresource).
    Main,
    /// The status only.
    Status,
    /// A namespace's `spec.finalizers`.
    Finalize,
    /// The replica count; decided like the main part.
    Scale,
}

impl Part {
    /// The subresource's name in managed fields.
    pub fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Finalize => "finalize",
            Part::Scale => "scale",
        }
    }
}

/// How the new object of an update comes from the old one.
pub enum Change<'a> {
    /// A whole new object, as sent.
    Replace(&'a Value, &'a [String]),
    /// A patch; the bytes are for the error text.
    Patch(&'a (dyn Fn(&Value) -> ApiResult<Value> + Send + Sync)),
    /// Server-side apply of a configuration.
    Apply(&'a Value, &'a [String]),
}

fn bad_object(info: &ResourceInfo, value: &Value, why: &str) -> ApiError {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or(&info.kind);
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or(&info.version);
    let version = api_version.rsplit('/').next().unwrap_or_default();
    ApiError::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {}: {why}",
        info.kind
    ))
}

/// Checks `apiVersion` and `kind` of a sent object and fills them where they may be left out.
pub fn check_type(info: &ResourceInfo, value: &mut Value) -> ApiResult<()> {
    if !value.is_object() {
        return Err(bad_object(
            info,
            value,
            "json: cannot unmarshal into Go value: the body is not an object",
        ));
    }
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (field("apiVersion"), field("kind"));
    if info.custom() && kind.is_empty() {
        return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{value}'")));
    }
    if info.custom() && api_version.is_empty() {
        return Err(ApiError::bad_request(format!("Object 'apiVersion' is missing in '{value}'")));
    }
    if !api_version.is_empty() && api_version != info.api_version() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            info.api_version()
        )));
    }
    if !kind.is_empty() && kind != info.kind {
        if info.custom() {
            let error = FieldError::invalid("kind", &json!(kind), &format!("must be {}", info.kind));
            return Err(ApiError::invalid(&info.group, &kind, text(value, "name"), &[error]));
        }
        return Err(bad_object(info, value, &format!("the kind {kind} is not served at this path")));
    }
    stamp(info, value);
    Ok(())
}

/// Drops what the schema does not know, fills defaults; unknown and duplicate fields are warned of, or given back to be refused. Fails when it is
/// no such object at all.
fn decode(
    info: &ResourceInfo,
    value: &mut Value,
    duplicates: &[String],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, String> {
    let unknown_meta = schema::metadata::coerce(value)?;
    if !info.custom() {
        schema::builtin::decode(&info.kind, &info.schema, value)?;
    }
    if let Some(map) = value.as_object_mut() {
        map.entry("metadata").or_insert_with(|| json!({}));
    }
    let mut unknown = info.schema.prune(
        value,
        PruneOptions {
            report: validation != FieldValidation::Ignore,
            resource_root: true,
        },
    );
    unknown.splice(..0, unknown_meta);
    if !info.custom() {
        unknown.sort();
    }
    let mut strict: Vec<String> = duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    strict.extend(unknown.iter().map(|path| format!("unknown field \"{path}\"")));
    builtin::normalize(info, value);
    info.schema.default(value);
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict => Ok(strict),
        FieldValidation::Warn => {
            warnings.extend(strict);
            Ok(Vec::new())
        }
    }
}

/// Decodes a whole object as it was sent.
fn decode_whole(
    info: &ResourceInfo,
    value: &mut Value,
    duplicates: &[String],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    match decode(info, value, duplicates, validation, warnings) {
        Ok(strict) if strict.is_empty() => Ok(()),
        Ok(strict) => Err(bad_object(info, value, &format!("strict decoding error: {}", strict.join(", ")))),
        Err(why) => Err(bad_object(info, value, &why)),
    }
}

fn validate(info: &ResourceInfo, new: &Value, old: Option<&Value>, part: Part) -> ApiResult<()> {
    let mut errors = builtin::validate(info, new, old, part);
    if old.is_some() {
        // On an update the real server asks for the rules of metadata more than once: for every kind as of a new object and as of an update, and
        // then for this kind.
        errors.splice(..0, schema::metadata::validate(new, old, info.namespaced, info.name_rule));
        errors.splice(..0, schema::metadata::validate(new, None, info.namespaced, NameRule::PathSegment));
    }
    if let Some(scale) = &info.scale {
        errors.extend(super::scale::faults(scale, new, part));
    }
    let mut of_schema = info.schema.validate_after(&errors, new, old);
    if !info.custom() {
        // What is of the wrong type was refused when it was decoded.
        of_schema.retain(|error| error.reason != CauseReason::TypeInvalid);
    }
    errors.extend(of_schema);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(&info.group, &info.kind, text(new, "name"), &errors))
    }
}

fn generated(prefix: &str) -> String {
    let mut rng = rand::rng();
    let head: String = prefix.chars().take(58).collect();
    let tail: String = (0..5)
        .map(|_| char::from(NAME_ALPHABET[rng.random_range(0..NAME_ALPHABET.len())]))
        .collect();
    head + &tail
}

fn params(info: &ResourceInfo, part: Part, options: &WriteOptions, untypable: bool) -> ApplyParams {
    let reset = match part {
        Part::Status => ResetFields::AllButStatus,
        Part::Main if info.custom() && info.status => ResetFields::Status,
        Part::Main if !info.custom() => schema::builtin::reset_fields(&info.group, &info.kind, ""),
        _ => ResetFields::None,
    };
    ApplyParams {
        manager: options.manager.clone(),
        force: options.force.unwrap_or(false),
        subresource: part.subresource().to_owned(),
        now: jiff::Timestamp::now(),
        api_version: info.api_version(),
        reset,
        unowned: builtin::unowned(info.special),
        untypable,
    }
}

/// The form in which an object is stored: core shape for events, no type.
pub fn stored_form(info: &ResourceInfo, value: &Value) -> Draft {
    if info.special == Special::Event {
        let mut value = value.clone();
        events::to_core(&mut value);
        return Draft::new(&value);
    }
    Draft::new(value)
}

/// Equal but for the times of managed fields.
fn same(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        if let Some(list) = value.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
            for entry in list.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
        }
        value
    };
    old == new || strip(old) == strip(new)
}

/// Whether an update leaves the generation as it is: nothing differs but metadata and a separate status.
fn same_content(info: &ResourceInfo, old: &Value, new: &Value) -> bool {
    let counted = |field: &str| !matches!(field, "metadata" | "apiVersion" | "kind") && (field != "status" || !info.status);
    let fields = [old, new].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
    fields
        .into_iter()
        .filter(|field| counted(field))
        .all(|field| old.get(field) == new.get(field))
}

impl Core {
    /// The namespace of a new object: it must exist and not be going away.
    pub fn namespace_guard(&self, info: &ResourceInfo, namespace: &str, name: &str) -> ApiResult<Option<Key>> {
        if !info.namespaced {
            return Ok(None);
        }
        let key = Key::new(&Arc::from(NAMESPACES), "", namespace);
        match self.store.get(&key) {
            None => Err(ApiError::not_found("", "namespaces", namespace)),
            Some(object) if object.meta.deleting => Err(terminating(info, namespace, name)),
            Some(_) => Ok(Some(key)),
        }
    }

    /// Creates an object.
    pub async fn create(
        &self,
        info: &ResourceInfo,
        namespace: &str,
        mut value: Value,
        duplicates: &[String],
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Outcome> {
        check_type(info, &mut value)?;
        decode_whole(info, &mut value, duplicates, options.field_validation, warnings)?;
        self.insert(info, namespace, value, options, warnings, false).await
    }

    /// Stores a decoded new object; `applied` when its managed fields are made already.
    async fn insert(
        &self,
        info: &ResourceInfo,
        namespace: &str,
        mut value: Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
        applied: bool,
    ) -> ApiResult<Outcome> {
        if info.terminating {
            let mut error = ApiError::method_not_supported(&info.group, &info.resource, "create");
            error.message = "create not allowed while custom resource definition is terminating".to_owned();
            return Err(error);
        }
        if info.namespaced {
            let own = text(&value, "namespace");
            if !own.is_empty() && own != namespace {
                return Err(other_namespace());
            }
            metadata::set(&mut value, "namespace", json!(namespace));
        }
        let guard = self.namespace_guard(info, namespace, text(&value, "name"))?;
        let now = now_text();
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            metadata::remove(&mut value, field);
        }
        metadata::set(&mut value, "uid", json!(uuid::Uuid::new_v4().to_string()));
        metadata::set(&mut value, "creationTimestamp", json!(now));
        if info.has_generation() {
            metadata::set(&mut value, "generation", json!(1));
        }
        // Ownership is found out before the status is dropped.
        let untypable = !apply::fits(&info.schema, &value);
        if info.status
            && let Some(map) = value.as_object_mut()
        {
            map.remove("status");
        }
        builtin::prepare_create(info, &mut value);
        let prefix = text(&value, "generateName").to_owned();
        let generate = text(&value, "name").is_empty() && !prefix.is_empty();
        for attempt in 0..8 {
            if generate {
                metadata::set(&mut value, "name", json!(generated(&prefix)));
            }
            if attempt == 0 {
                if let Some(caller) = &options.caller {
                    caller.may_grant(info, namespace, &value, None)?;
                }
                if !applied {
                    apply::track_update(&info.schema, None, &mut value, &params(info, Part::Main, options, untypable));
                }
                validate(info, &value, None, Part::Main)?;
                if let Some(caller) = &options.caller {
                    caller.may_insert(info, namespace)?;
                }
                warnings.extend(builtin::warnings(info, &value, None));
            }
            let name = text(&value, "name").to_owned();
            let key = self.key(info, namespace, &name);
            if options.dry_run {
                if self.store.get(&key).is_some() {
                    return Err(ApiError::already_exists(&info.group, &info.resource, &name));
                }
                return Ok(Outcome::Value(value));
            }
            if !text(&value, "resourceVersion").is_empty() {
                return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
            }
            let write = Write::Put {
                key,
                expect: Expect::Absent,
                draft: stored_form(info, &value),
                require: guard.clone(),
            };
            match self.store.commit(write).await {
                Ok(object) => return Ok(Outcome::Stored(object)),
                Err(StoreError::Exists) if generate && attempt < 7 => {}
                Err(StoreError::RequirementGone) => {
                    self.namespace_guard(info, namespace, &name)?;
                    return Err(terminating(info, namespace, &name));
                }
                Err(error) => return Err(ApiError::from_store(&error, &info.group, &info.resource, &name)),
            }
        }
        Err(ApiError::already_exists(&info.group, &info.resource, text(&value, "name")))
    }

    /// Updates an object; the flag of the answer says whether it was created.
    #[allow(clippy::too_many_arguments)]
    pub async fn update(
        &self,
        info: &ResourceInfo,
        namespace: &str,
        name: &str,
        part: Part,
        change: &Change<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> ApiResult<(Outcome, bool)> {
        let key = self.key(info, namespace, name);
        for _ in 0..ATTEMPTS {
            let mut attempt_warnings = Vec::new();
            let Some(current) = self.store.get(&key) else {
                let result = self
                    .upsert(info, namespace, name, part, change, options, &mut attempt_warnings)
                    .await;
                match result {
                    // Somebody else created it meanwhile: it is an update then.
                    Err(error) if error.reason == "AlreadyExists" && matches!(change, Change::Apply(..)) => continue,
                    result => {
                        warnings.extend(attempt_warnings);
                        return result.map(|outcome| (outcome, true));
                    }
                }
            };
            let old = view(info, &current);
            let decided = self.decide(info, name, &old, part, change, options, &mut attempt_warnings);
            let (new, pinned) = match decided {
                Ok(decided) => decided,
                Err(error) => {
                    warnings.extend(attempt_warnings);
                    return Err(error);
                }
            };
            if options.dry_run {
                warnings.extend(attempt_warnings);
                return Ok((Outcome::Value(new), false));
            }
            let emptied = deleting(&new) && finalizers(&new).is_empty() && builtin::may_vanish(info.special, &new);
            let result = if emptied && (deleting(&old)) {
                self.store
                    .commit(Write::Delete {
                        key: key.clone(),
                        revision: current.revision,
                    })
                    .await
                    .map(|_| Outcome::Value(new))
            } else if same(&old, &new) {
                Ok(Outcome::Stored(current))
            } else {
                let draft = stored_form(info, &new);
                let write = Write::Put {
                    key: key.clone(),
                    expect: Expect::Revision(current.revision),
                    draft,
                    require: None,
                };
                self.store.commit(write).await.map(Outcome::Stored)
            };
            match result {
                Ok(outcome) => {
                    warnings.extend(attempt_warnings);
                    return Ok((outcome, false));
                }
                Err(StoreError::Conflict | StoreError::NotFound) if !pinned => {}
                Err(error) => return Err(ApiError::from_store(&error, &info.group, &info.resource, name)),
            }
        }
        Err(ApiError::modified(&info.group, &info.resource, name))
    }

    /// An update of an object that does not exist.
    #[allow(clippy::too_many_arguments)]
    async fn upsert(
        &self,
        info: &ResourceInfo,
        namespace: &str,
        name: &str,
        part: Part,
        change: &Change<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Outcome> {
        let missing = || ApiError::not_found(&info.group, &info.resource, name);
        match change {
            Change::Replace(value, duplicates) if part == Part::Main && info.create_on_update() => {
                let mut value = (*value).clone();
                check_type(info, &mut value)?;
                check_names(info, &value, namespace, name)?;
                if !text(&value, "uid").is_empty() {
                    return Err(ApiError::conflict(
                        &info.group,
                        &info.resource,
                        name,
                        &format!(
                            "Precondition failed: UID in precondition: {}, UID in object meta: ",
                            text(&value, "uid")
                        ),
                    ));
                }
                if !options.dry_run {
                    metadata::remove(&mut value, "resourceVersion");
                }
                self.create(info, namespace, value, duplicates, options, warnings).await
            }
            Change::Apply(config, _) if part == Part::Main && !text(config, "uid").is_empty() => {
                let uid = text(config, "uid");
                let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                Err(ApiError::conflict(&info.group, &info.resource, name, &why))
            }
            Change::Apply(config, duplicates) if part == Part::Main => {
                let mut value = self.applied(info, namespace, name, None, config, part, duplicates, options, warnings)?;
                if !options.dry_run {
                    metadata::remove(&mut value, "resourceVersion");
                }
                self.insert(info, namespace, value, options, warnings, true).await
            }
            Change::Replace(value, duplicates) => {
                // What is sent is decoded before anything is looked for.
                let mut value = (*value).clone();
                self.replacement(info, &mut value, namespace, name, duplicates, options, warnings)?;
                Err(missing())
            }
            _ => Err(missing()),
        }
    }

    /// Decodes and checks a whole object that was sent to replace another.
    #[allow(clippy::too_many_arguments)]
    fn replacement(
        &self,
        info: &ResourceInfo,
        value: &mut Value,
        namespace: &str,
        name: &str,
        duplicates: &[String],
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> ApiResult<()> {
        check_type(info, value)?;
        decode_whole(info, value, duplicates, options.field_validation, warnings)?;
        check_names(info, value, namespace, name)
    }

    #[allow(clippy::too_many_arguments)]
    fn applied(
        &self,
        info: &ResourceInfo,
        namespace: &str,
        name: &str,
        old: Option<&Value>,
        config: &Value,
        part: Part,
        duplicates: &[String],
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Value> {
        let mut config = config.clone();
        check_type(info, &mut config)?;
        let params = params(info, part, options, false);
        let mut value = apply::server_side_apply(&info.schema, old, &config, &params).map_err(super::patching::apply_error)?;
        stamp(info, &mut value);
        schema::metadata::coerce(&mut value).map_err(|why| bad_object(info, &config, &why))?;
        if !info.custom() {
            schema::builtin::decode(&info.kind, &info.schema, &mut value).map_err(|why| {
                let kind = format!("{}, Kind={}", info.api_version(), info.kind);
                ApiError::new(500, "", format!("unable to convert unstructured object to {kind}: {why}"))
            })?;
        }
        let strict: Vec<String> = duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
        match options.field_validation {
            FieldValidation::Strict if !strict.is_empty() => {
                return Err(ApiError::bad_request(format!("error strict decoding YAML: {}", strict.join(", "))));
            }
            FieldValidation::Warn => warnings.extend(strict),
            _ => {}
        }
        same_place(info, &value, namespace, name)?;
        builtin::normalize(info, &mut value);
        info.schema.fill(&mut value);
        Ok(value)
    }

    /// The new object of an update and whether the client named the version it replaces.
    #[allow(clippy::too_many_arguments)]
    fn decide(
        &self,
        info: &ResourceInfo,
        name: &str,
        old: &Value,
        part: Part,
        change: &Change<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> ApiResult<(Value, bool)> {
        let conflict = |why: &str| ApiError::conflict(&info.group, &info.resource, name, why);
        let mut stray = false;
        let mut new = match change {
            Change::Replace(value, duplicates) => {
                let mut value = (*value).clone();
                self.replacement(info, &mut value, text(old, "namespace"), name, duplicates, options, warnings)?;
                if text(&value, "resourceVersion").is_empty() && !info.unconditional_update() {
                    let detail = "must be specified for an update";
                    let error = FieldError {
                        field: "metadata.resourceVersion".to_owned(),
                        reason: CauseReason::Invalid,
                        message: format!("Invalid value: 0: {detail}"),
                    };
                    // The real server names the resource here, not the kind.
                    return Err(ApiError::invalid(&info.group, &info.resource, name, &[error]));
                }
                value
            }
            Change::Patch(patch) => {
                let mut value = patch(old)?;
                if !value.is_object() {
                    return Err(ApiError::bad_request("the patch does not leave an object"));
                }
                let sent = value.clone();
                if part == Part::Status && info.custom() && value.get("kind") != Some(&json!(info.kind)) {
                    // Nobody looks at the kind when only the status is taken, but fields of another kind cannot be owned.
                    stray = true;
                    value["kind"] = json!(info.kind);
                }
                let undecodable = |why: &str| ApiError::invalid("", "", "", &[FieldError::invalid("patch", &json!(sent.to_string()), why)]);
                check_type(info, &mut value).map_err(|error| if error.code == 400 { undecodable(&error.message) } else { error })?;
                let why = match decode(info, &mut value, &[], options.field_validation, warnings) {
                    Ok(strict) if strict.is_empty() => None,
                    Ok(strict) => Some(format!("strict decoding error: {}", strict.join(", "))),
                    Err(why) => Some(why),
                };
                if let Some(why) = why {
                    return Err(undecodable(&why));
                }
                same_place(info, &value, text(old, "namespace"), name)?;
                value
            }
            Change::Apply(config, duplicates) => {
                let mut value = self.applied(
                    info,
                    text(old, "namespace"),
                    name,
                    Some(old),
                    config,
                    part,
                    duplicates,
                    options,
                    warnings,
                )?;
                let wanted = text(config, "resourceVersion").to_owned();
                let wanted = if wanted.is_empty() {
                    text(old, "resourceVersion").to_owned()
                } else {
                    wanted
                };
                metadata::set(&mut value, "resourceVersion", json!(wanted));
                value
            }
        };
        let wanted = text(&new, "resourceVersion").to_owned();
        let uid = text(&new, "uid").to_owned();
        // The uid of a whole object is a precondition; that of a patch would be a change.
        if !uid.is_empty() && uid != text(old, "uid") && (matches!(change, Change::Replace(..)) || part == Part::Scale) {
            return Err(conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(old, "uid")
            )));
        }
        if !wanted.is_empty() && wanted != text(old, "resourceVersion") {
            if wanted.parse::<u64>().is_err() {
                let error = FieldError::invalid(
                    "metadata.resourceVersion",
                    &json!(wanted),
                    &format!("strconv.ParseUint: parsing {wanted:?}: invalid syntax"),
                );
                return Err(ApiError::invalid(&info.group, &info.kind, name, &[error]));
            }
            return Err(ApiError::modified(&info.group, &info.resource, name));
        }
        // A patch carries the version of the object it was computed on; only a client's own version pins it.
        let pinned = matches!(change, Change::Replace(..)) && !wanted.is_empty();
        carry_over(old, &mut new);
        let untypable = stray || !apply::fits(&info.schema, &new);
        restrict(info, old, &mut new, part);
        builtin::prepare_update(info, old, &mut new, part);
        if info.has_generation()
            && part != Part::Status
            && !same_content(info, old, &new)
            && let Some(generation) = old.pointer("/metadata/generation").and_then(Value::as_i64)
        {
            metadata::set(&mut new, "generation", json!(generation + 1));
        }
        if let Some(caller) = &options.caller {
            caller.may_grant(info, text(old, "namespace"), &new, Some(old))?;
        }
        // A Scale is tracked only from when somebody owns the count.
        let tracked = part != Part::Scale || info.scale.as_ref().is_some_and(|scale| super::scale::owned(scale, old));
        if tracked && !matches!(change, Change::Apply(..)) {
            apply::track_update(&info.schema, Some(old), &mut new, &params(info, part, options, untypable));
        }
        validate(info, &new, Some(old), part)?;
        warnings.extend(builtin::warnings(info, &new, Some(old)));
        Ok((new, pinned))
    }
}

/// Keeps what the part may not change.
fn restrict(info: &ResourceInfo, old: &Value, new: &mut Value, part: Part) {
    let Some(map) = new.as_object_mut() else { return };
    match part {
        Part::Main | Part::Scale if info.status => match old.get("status") {
            Some(status) => {
                map.insert("status".to_owned(), status.clone());
            }
            None => {
                map.remove("status");
            }
        },
        Part::Status => {
            let status = map.remove("status");
            let managed = metadata::remove(new, "managedFields");
            // A namespace's labels can be changed through its status; nobody else's can.
            let labels = (info.special == Special::Namespace).then(|| new.get("metadata").cloned()).flatten();
            *new = old.clone();
            if let Some(labels) = labels {
                new["metadata"] = labels;
            }
            match (status, new.as_object_mut()) {
                (Some(status), Some(map)) => map.insert("status".to_owned(), status),
                (None, Some(map)) => map.remove("status"),
                (_, None) => None,
            };
            match managed {
                Some(managed) => metadata::set(new, "managedFields", managed),
                None => {
                    metadata::remove(new, "managedFields");
                }
            }
        }
        _ => {}
    }
}

/// 400: an object of another name.
pub fn other_name(own: &str, name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({own}) does not match the name on the URL ({name})"
    ))
}

/// 400: an object of another namespace.
pub fn other_namespace() -> ApiError {
    ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request")
}

/// Whether what a patch leaves is still the object of the request.
fn same_place(info: &ResourceInfo, value: &Value, namespace: &str, name: &str) -> ApiResult<()> {
    let own = text(value, "namespace");
    if info.namespaced && !own.is_empty() && own != namespace {
        return Err(other_namespace());
    }
    let own = text(value, "name");
    if own == name { Ok(()) } else { Err(other_name(own, name)) }
}

fn check_names(info: &ResourceInfo, value: &Value, namespace: &str, name: &str) -> ApiResult<()> {
    let own = text(value, "namespace");
    if info.namespaced && !own.is_empty() && own != namespace {
        return Err(other_namespace());
    }
    let own = text(value, "name");
    if own.is_empty() {
        return Err(ApiError::bad_request(
            "the name of the object (based on the object metadata) was empty: metadata.name: Required value: name must be provided",
        ));
    }
    if own != name {
        return Err(other_name(own, name));
    }
    Ok(())
}

fn terminating(info: &ResourceInfo, namespace: &str, name: &str) -> ApiError {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = ApiError::forbidden(&info.group, &info.resource, name, &why);
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
    }
    error
}
