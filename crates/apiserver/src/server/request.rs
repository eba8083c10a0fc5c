//! What a request asks for: the path, the query and the wanted form of the answer.

use std::collections::HashMap;

use http::{HeaderMap, Method, header};

use super::access::caller::Caller;
use super::status::{ApiError, ApiResult};
use crate::schema::FieldError;

/// The verbs of the Kubernetes API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// Many objects.
    List,
    /// Changes as they happen.
    Watch,
    /// A new object.
    Create,
    /// Replace an object.
    Update,
    /// Change an object.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove many objects.
    DeleteCollection,
}

impl Verb {
    /// The verb as authorisers and errors name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Object name, empty for collections.
    pub name: String,
    /// Subresource, empty for none.
    pub subresource: String,
    /// The deprecated `/watch/` prefix.
    pub watch_prefix: bool,
}

impl ResourcePath {
    /// Parses the segments of a path that names a resource; `None` when it names none.
    pub fn parse(path: &str) -> Option<ResourcePath> {
        let decoded: Vec<String> = path.trim_matches('/').split('/').map(percent_decode).collect::<Option<_>>()?;
        let mut parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        if parts.iter().any(|part| part.is_empty() || part.contains('/')) {
            return None;
        }
        let (group, version) = match *parts.first()? {
            "api" if parts.len() > 2 => {
                let version = parts[1];
                parts.drain(..2);
                ("", version)
            }
            "apis" if parts.len() > 3 => {
                let (group, version) = (parts[1], parts[2]);
                parts.drain(..3);
                (group, version)
            }
            _ => return None,
        };
        let watch_prefix = parts.first() == Some(&"watch") && parts.len() > 1;
        if watch_prefix {
            parts.remove(0);
        }
        let mut found = ResourcePath {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: String::new(),
            resource: String::new(),
            name: String::new(),
            subresource: String::new(),
            watch_prefix,
        };
        // `namespaces/NAME/status` and `namespaces/NAME/finalize` are about the namespace; every other third part is a
        // resource inside it.
        if parts[0] == "namespaces"
            && parts.len() >= 3
            && !(group.is_empty() && matches!(parts[2], "status" | "finalize") && parts.len() == 3)
        {
            found.namespace = parts[1].to_owned();
            parts.drain(..2);
        }
        found.resource = (*parts.first()?).to_owned();
        found.name = parts.get(1).copied().unwrap_or_default().to_owned();
        found.subresource = parts.get(2).copied().unwrap_or_default().to_owned();
        (parts.len() <= 3).then_some(found)
    }
}

/// Decodes `%41`; `None` when it is malformed or not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    decode_bytes(text.as_bytes(), false)
}

fn decode_bytes(text: &[u8], plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

/// Query parameters; the first value of a name counts, as in the real server.
#[derive(Clone, Debug, Default)]
pub struct Query(HashMap<String, Vec<String>>);

impl Query {
    /// Parses a query string.
    pub fn parse(query: Option<&str>) -> ApiResult<Query> {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| {
                decode_bytes(text.as_bytes(), true).ok_or_else(|| ApiError::bad_request(format!("invalid URL escape in query: {pair:?}")))
            };
            map.entry(decode(key)?).or_default().push(decode(value)?);
        }
        Ok(Query(map))
    }

    /// The first value, empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    /// All values.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A boolean as the real server converts it: absent, `0` and `false` are false, everything else is true.
    pub fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name).to_ascii_lowercase().as_str(), "0" | "false")
    }

    /// A number.
    pub fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }
}

/// How unknown and duplicate fields are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped, with a warning each.
    Warn,
    /// An error.
    Strict,
}

/// Options of a writing request.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// Who owns the fields that are set.
    pub manager: String,
    /// Whether `fieldManager` was given (apply needs it).
    pub manager_given: bool,
    /// Server-side apply: take fields from other managers.
    pub force: Option<bool>,
    /// Who sends it; nobody when the server itself writes.
    pub caller: Option<Caller>,
}

impl WriteOptions {
    /// A write of the server itself.
    pub fn internal(manager: &str) -> WriteOptions {
        WriteOptions {
            dry_run: false,
            field_validation: FieldValidation::Ignore,
            manager: manager.to_owned(),
            manager_given: true,
            force: None,
            caller: None,
        }
    }

    /// Sent by somebody.
    pub fn of(self, caller: &Caller) -> WriteOptions {
        WriteOptions {
            caller: Some(caller.clone()),
            ..self
        }
    }

    /// Reads and checks them; `kind` is e.g. `CreateOptions`, for the error text.
    pub fn parse(query: &Query, headers: &HeaderMap, kind: &str) -> ApiResult<WriteOptions> {
        let mut errors = Vec::new();
        let dry = query.all("dryRun");
        for value in dry {
            if value != "All" {
                errors.push(FieldError::not_supported("dryRun", &serde_json::json!(dry), &["All"]));
            }
        }
        let field_validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    &serde_json::json!(other),
                    &["Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        let given = query.get("fieldManager");
        if given.chars().count() > 128 {
            errors.push(FieldError::too_long("fieldManager", 128));
        }
        if let Some(bad) = given.chars().find(|c| c.is_control()) {
            errors.push(FieldError::invalid(
                "fieldManager",
                &serde_json::json!(given),
                &format!("should only contain printable characters, found {bad:?}"),
            ));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", kind, "", &errors));
        }
        let manager = if given.is_empty() {
            let agent = headers
                .get(header::USER_AGENT)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let name: String = agent
                .split('/')
                .next()
                .unwrap_or_default()
                .chars()
                .filter(|c| !c.is_control())
                .take(128)
                .collect();
            if name.is_empty() { "unknown".to_owned() } else { name }
        } else {
            given.to_owned()
        };
        let force = query.has("force").then(|| query.flag("force"));
        Ok(WriteOptions {
            dry_run: !dry.is_empty(),
            field_validation,
            manager,
            manager_given: !given.is_empty(),
            force,
            caller: None,
        })
    }
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// Rows for people.
    Table,
    /// Metadata only.
    Partial,
}

/// The negotiated answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The form.
    pub form: Form,
    /// YAML instead of JSON.
    pub yaml: bool,
}

impl Accept {
    /// Chooses the first acceptable media range by quality and order.
    pub fn parse(headers: &HeaderMap) -> ApiResult<Accept> {
        let text: Vec<&str> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let text = text.join(",");
        if text.trim().is_empty() {
            return Ok(Accept {
                form: Form::Object,
                yaml: false,
            });
        }
        let mut best: Option<(f32, Accept)> = None;
        for range in text.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut form, mut quality, mut group, mut version) = (None, 1.0f32, "", "");
            for part in parts {
                match part.split_once('=').unwrap_or((part, "")) {
                    ("as", value) => form = Some(value),
                    ("g", value) => group = value,
                    ("v", value) => version = value,
                    ("q", value) => quality = value.parse().unwrap_or(1.0),
                    _ => {}
                }
            }
            let yaml = kind == "application/yaml";
            if !(yaml || matches!(kind.as_str(), "application/json" | "*/*" | "application/*")) {
                continue;
            }
            let form = match form {
                None => Form::Object,
                Some(_) if group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") => continue,
                Some("Table") => Form::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Partial,
                Some(_) => continue,
            };
            if quality > 0.0 && best.is_none_or(|(so_far, _)| quality > so_far) {
                best = Some((quality, Accept { form, yaml }));
            }
        }
        best.map(|(_, accept)| accept).ok_or_else(|| {
            ApiError::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json, application/yaml",
            )
        })
    }
}

/// The verb of a method on a path.
pub fn verb_of(method: &Method, path: &ResourcePath, query: &Query) -> Option<Verb> {
    let collection = path.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if path.watch_prefix || (collection && query.flag("watch")) => Verb::Watch,
        Method::GET | Method::HEAD if collection => Verb::List,
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if collection => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => return None,
    })
}
