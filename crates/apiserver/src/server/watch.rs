//! List and watch.
//!
//! A watch is a position in the store's event ring; the stream below turns ring events into lines when the client reads.
//! Nothing is queued for a client that does not read: it falls behind the ring and is ended with 410, and lists again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::builtin;
use super::core::Core;
use super::output::{self, ListMeta, Show};
use super::registry::ResourceInfo;
use super::request::{Form, Query};
use super::selector::{FieldSelector, LabelSelector};
use super::status::{ApiError, ApiResult};
use crate::schema::FieldError;
use crate::store::{Event, EventKind, Object, Page, StoreError};

/// How often an idle watch gets a bookmark.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Bytes of events that are turned into one chunk at most.
const CHUNK: usize = 64 * 1024;
/// Events looked at in one go.
const BATCH: usize = 256;
/// How long a request waits for a revision of the near future, as the real server does.
const FUTURE_WAIT: Duration = Duration::from_secs(3);
/// The longest continue token that is looked at.
const MAX_TOKEN: usize = 4096;

/// What is selected of a resource.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Namespace, empty for all.
    pub namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
    special: super::registry::Special,
    custom_paths: bool,
}

impl Selection {
    /// Reads and checks the options of a list or watch, and its selectors.
    pub fn parse(info: &ResourceInfo, namespace: &str, query: &Query, watching: bool) -> ApiResult<Selection> {
        // First what is malformed, then what does not go together, then fields that cannot be selected.
        let labels = LabelSelector::parse(query.get("labelSelector"))?;
        FieldSelector::parse(query.get("fieldSelector"), &|_| true)?;
        query.number("limit")?;
        check_options(query, watching)?;
        let fields = FieldSelector::parse(query.get("fieldSelector"), &|field| info.selectable(field))?;
        Ok(Selection {
            namespace: namespace.to_owned(),
            labels,
            fields,
            special: info.special,
            custom_paths: info.custom(),
        })
    }

    /// A selection of one object (a watch of a name).
    pub fn pin(mut self, name: &str) -> ApiResult<Selection> {
        self.fields = FieldSelector::parse(&format!("metadata.name={name}"), &|_| true)?;
        Ok(self)
    }

    /// Whether everything in the namespace is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether one object is chosen by its name.
    pub fn is_one(&self) -> bool {
        self.fields.pinned_name().is_some()
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || object.key.namespace() == self.namespace)
            && (self.labels.is_empty() || self.labels.matches(object))
            && (self.fields.is_empty()
                || self.fields.matches(object, &|value, path| {
                    if self.custom_paths {
                        super::selector::field_text(value, path)
                    } else {
                        builtin::field_text(self.special, value, path)
                    }
                }))
    }
}

fn parse_revision(text: &str, watching: bool) -> ApiResult<Option<u64>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let why = format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            // The real server's watch does not say whose fault it is.
            match watching {
                true => ApiError::new(500, "", why),
                false => ApiError::bad_request(format!("invalid resource version: {why}")),
            }
        }),
    }
}

/// Checks the combinations of list and watch options.
fn check_options(query: &Query, watching: bool) -> ApiResult<()> {
    let errors = if watching { watch_faults(query) } else { list_faults(query) };
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors))
    }
}

const MATCH: &str = "resourceVersionMatch";

fn watch_faults(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (matching, initial) = (query.get(MATCH), query.has("sendInitialEvents"));
    if initial && matching != "NotOlderThan" {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(MATCH, detail));
    }
    if matching.is_empty() {
        return errors;
    }
    if !initial {
        let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(FieldError::forbidden(MATCH, detail));
    }
    if matching != "NotOlderThan" {
        errors.push(FieldError::not_supported(MATCH, &json!(matching), &["NotOlderThan"]));
    }
    if !query.get("continue").is_empty() {
        errors.push(FieldError::forbidden(
            MATCH,
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    errors
}

fn list_faults(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (matching, version) = (query.get(MATCH), query.get("resourceVersion"));
    if !matching.is_empty() {
        if version.is_empty() {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(MATCH, detail));
        }
        if !query.get("continue").is_empty() {
            errors.push(FieldError::forbidden(
                MATCH,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(MATCH, &json!(matching), &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(MATCH, detail));
        }
    }
    if query.has("sendInitialEvents") {
        errors.push(FieldError::forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    errors
}

fn token(revision: i64, start: &str) -> String {
    let text = json!({ "v": "meta.k8s.io/v1", "rv": revision, "start": format!("{start}\u{0}") }).to_string();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

fn read_token(text: &str) -> ApiResult<(i64, String)> {
    let bad = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
    if text.len() > MAX_TOKEN {
        return Err(bad("it is too long"));
    }
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| bad("it is not base64"))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad("it is not JSON"))?;
    let revision = value["rv"]
        .as_i64()
        .filter(|revision| *revision != 0)
        .ok_or_else(|| bad("incorrect encoded start resourceVersion"))?;
    let start = value["start"]
        .as_str()
        .filter(|start| !start.is_empty())
        .ok_or_else(|| bad("encoded start key empty"))?;
    if value["v"] != "meta.k8s.io/v1" {
        return Err(bad("server does not recognize this encoded version"));
    }
    Ok((revision, start.trim_end_matches('\0').to_owned()))
}

impl Core {
    /// Waits a moment for a revision that is not reached yet.
    async fn reach(&self, info: &ResourceInfo, wanted: u64) -> ApiResult<()> {
        let deadline = Instant::now() + FUTURE_WAIT;
        let mut wake = self.store.subscribe(&info.storage);
        loop {
            let current = self.store.revision();
            if current >= wanted {
                return Ok(());
            }
            // Other resources move the revision too, without waking this one: hence the short step.
            let step = deadline.min(Instant::now() + Duration::from_millis(100));
            if Instant::now() >= deadline {
                return Err(ApiError::too_large_version(wanted, current));
            }
            if let Ok(Err(_)) = tokio::time::timeout_at(step, wake.changed()).await {
                return Err(ApiError::too_large_version(wanted, current));
            }
        }
    }

    /// The selected objects and the metadata of their list.
    pub async fn list(&self, info: &ResourceInfo, selection: &Selection, query: &Query) -> ApiResult<(Vec<Arc<Object>>, ListMeta)> {
        // A list from "any" version comes whole, as the real server's watch cache gives it.
        let limit = match query.get("resourceVersion") {
            "0" => 0,
            _ => usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0),
        };
        let version = parse_revision(query.get("resourceVersion"), false)?;
        let exact = query.get("resourceVersionMatch") == "Exact";
        let mut page = Page {
            namespace: &selection.namespace,
            after: None,
            revision: None,
        };
        let start;
        let continued = !query.get("continue").is_empty();
        if continued {
            if version.is_some_and(|version| version != 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (revision, after) = read_token(query.get("continue"))?;
            start = after;
            page.after = Some(&start);
            page.revision = u64::try_from(revision).ok();
        } else if let Some(version) = version.filter(|version| *version > 0) {
            self.reach(info, version).await?;
            // The legacy default: with a limit and no match rule, the version is exact.
            if exact || (limit > 0 && query.get("resourceVersionMatch").is_empty()) {
                page.revision = Some(version);
            }
        }
        let listing = self.store.list(&info.storage, &page).map_err(|error| match (&error, page.after) {
            (StoreError::Expired { .. }, Some(after)) => {
                let mut expired = ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                );
                expired.next = Some(token(-1, after));
                expired
            }
            _ => ApiError::from_store(&error, &info.group, &info.resource, ""),
        })?;
        let mut meta = ListMeta {
            revision: listing.revision,
            ..ListMeta::default()
        };
        let total = listing.objects.len();
        let mut objects = Vec::with_capacity(if limit > 0 { limit.min(total) } else { total });
        let everything = selection.is_everything();
        for (at, object) in listing.objects.iter().enumerate() {
            if limit > 0 && objects.len() == limit {
                if selection.is_one() && !continued {
                    // An object that is chosen by its name is looked up: nothing can follow.
                    break;
                }
                // A page that is full goes on after its last object, even if nothing selected follows: nobody looks that far.
                let rest = &listing.objects[at..];
                let last = objects.last().map_or("", |object: &Arc<Object>| &object.key.path);
                meta.next = Some(token(i64::try_from(listing.revision).unwrap_or(i64::MAX), last));
                meta.remaining = everything.then_some(rest.len());
                break;
            }
            if everything || selection.matches(object) {
                objects.push(object.clone());
            }
        }
        Ok((objects, meta))
    }

    /// Starts a watch.
    pub async fn watch(self: &Arc<Self>, info: Arc<ResourceInfo>, selection: Selection, query: &Query, show: Show) -> ApiResult<Response> {
        let version = parse_revision(query.get("resourceVersion"), true)?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let initial = if query.has("sendInitialEvents") {
            query.flag("sendInitialEvents")
        } else {
            matches!(version, None | Some(0))
        };
        let initial_end = query.has("sendInitialEvents") && initial && bookmarks;
        // As in the real server: a random time of half an hour to an hour unless the client says.
        let seconds = query
            .number("timeoutSeconds")?
            .filter(|seconds| *seconds > 0)
            .and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = seconds.map_or_else(
            || Duration::from_secs(1800 + u64::from(rand::random::<u16>()) % 1800),
            Duration::from_secs,
        );

        let wake = self.store.subscribe(&info.storage);
        let mut stream = Stream {
            core: self.clone(),
            selection,
            show,
            wake,
            registry: self.registry_changed.subscribe(),
            position: 0,
            pending: VecDeque::new(),
            deadline: Instant::now()
                .checked_add(timeout)
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)),
            bookmark_at: None,
            bookmark_due: false,
            initial_end: None,
            first_row: true,
            finished: None,
            _open: OpenWatch::new(self),
            info,
        };
        if bookmarks {
            stream.next_bookmark();
        }
        if let Some(version) = version.filter(|version| *version > self.store.revision())
            && let Err(error) = self.reach(&stream.info, version).await
        {
            stream.finished = Some(error);
        }
        if initial {
            let page = Page {
                namespace: &stream.selection.namespace,
                after: None,
                revision: None,
            };
            let listing = self
                .store
                .list(&stream.info.storage, &page)
                .map_err(|error| ApiError::from_store(&error, &stream.info.group, &stream.info.resource, ""))?;
            stream.position = listing.revision;
            stream.pending = listing
                .objects
                .into_iter()
                .filter(|object| stream.selection.matches(object))
                .collect();
            stream.initial_end = initial_end.then_some(listing.revision);
        } else {
            stream.position = match version {
                None | Some(0) => self.store.revision(),
                Some(version) => version,
            };
            // Before it was served, a resource has no history that could be told.
            let since = stream.info.since;
            let expired = match self.store.events_after(&stream.info.storage, stream.position, 0) {
                Err(StoreError::Expired { wanted, oldest }) => Some((wanted, oldest.max(since))),
                _ if stream.position < since => Some((stream.position, since)),
                _ => None,
            };
            if let Some((wanted, oldest)) = expired {
                stream.finished = Some(ApiError::expired(format!("too old resource version: {wanted} ({oldest})")));
            }
        }
        let body = futures::stream::unfold(Some(stream), |state| async move {
            let mut stream = state?;
            let chunk = stream.next().await?;
            let left = if stream.ended() { None } else { Some(stream) };
            Some((Ok::<Bytes, std::convert::Infallible>(chunk), left))
        });
        let mut response = Response::new(Body::from_stream(body));
        let kind = if show.accept.yaml {
            "application/yaml;stream=watch"
        } else {
            "application/json"
        };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}

/// Counts an open watch for as long as it lives.
struct OpenWatch(Arc<Core>);

impl OpenWatch {
    fn new(core: &Arc<Core>) -> OpenWatch {
        core.metrics.watches.inc();
        OpenWatch(core.clone())
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.metrics.watches.dec();
    }
}

struct Stream {
    core: Arc<Core>,
    info: Arc<ResourceInfo>,
    selection: Selection,
    show: Show,
    wake: tokio::sync::watch::Receiver<u64>,
    registry: tokio::sync::watch::Receiver<u64>,
    /// Everything up to this revision was sent or did not concern this watch.
    position: u64,
    /// Initial objects not yet sent.
    pending: VecDeque<Arc<Object>>,
    deadline: Instant,
    bookmark_at: Option<Instant>,
    bookmark_due: bool,
    /// A bookmark with this revision is due after the initial objects.
    initial_end: Option<u64>,
    first_row: bool,
    /// The error to send last.
    finished: Option<ApiError>,
    _open: OpenWatch,
}

impl Stream {
    fn ended(&self) -> bool {
        self.finished.as_ref().is_some_and(|error| error.code == 0)
    }

    fn end(&mut self) {
        self.finished = Some(ApiError::new(0, "", ""));
    }

    /// The next bookmark: regularly, and once just before the end, so that the client can go on where this watch stops.
    fn next_bookmark(&mut self) {
        let now = Instant::now();
        let last = self
            .deadline
            .checked_sub(Duration::from_secs(2))
            .filter(|last| *last > now + Duration::from_millis(100));
        self.bookmark_at = Some(last.map_or(now + BOOKMARK_EVERY, |last| last.min(now + BOOKMARK_EVERY)));
    }

    fn line(&mut self, kind: &str, object: &Object, out: &mut BytesMut) {
        let with_columns = self.first_row && self.show.accept.form == Form::Table;
        output::watch_line(&self.info, kind, object, self.show, with_columns, out);
        self.first_row = false;
    }

    /// How this watch sees an event: what it selects may change without the object coming or going.
    fn event(&mut self, event: &Event, out: &mut BytesMut) {
        let was = event.previous.as_ref().is_some_and(|object| self.selection.matches(object));
        let is = event.kind == EventKind::Put && self.selection.matches(&event.object);
        match (was, is) {
            (false, true) => self.line("ADDED", &event.object, out),
            (true, true) => self.line("MODIFIED", &event.object, out),
            (true, false) if event.kind == EventKind::Delete => self.line("DELETED", &event.object, out),
            (true, false) => {
                // The last version that was selected, at the revision of the change.
                if let Some(previous) = &event.previous {
                    let last = crate::store::at_revision(previous, event.revision);
                    self.line("DELETED", &last, out);
                }
            }
            (false, false) => {}
        }
    }

    /// The next chunk; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        loop {
            while let Some(object) = self.pending.pop_front() {
                self.line("ADDED", &object, &mut out);
                if out.len() >= CHUNK {
                    return Some(out.freeze());
                }
            }
            if self.pending.capacity() > 0 {
                self.pending = VecDeque::new();
            }
            if let Some(revision) = self.initial_end.take() {
                output::bookmark_line(&self.info, revision, true, self.show, &mut out);
            }
            if let Some(error) = self.finished.take() {
                output::error_line(&error, &mut out);
                self.end();
                return Some(out.freeze());
            }
            // Mark what is known as seen before reading, so that a publication in between wakes again.
            self.wake.borrow_and_update();
            match self.core.store.events_after(&self.info.storage, self.position, BATCH) {
                Ok((events, upto)) => {
                    let full = events.len() == BATCH;
                    let mut stopped = None;
                    for event in &events {
                        self.event(event, &mut out);
                        if out.len() >= CHUNK {
                            stopped = Some(event.revision);
                            break;
                        }
                    }
                    self.position = stopped.unwrap_or(upto);
                    if !out.is_empty() {
                        return Some(out.freeze());
                    }
                    if full || stopped.is_some() {
                        continue;
                    }
                }
                Err(StoreError::Expired { wanted, oldest }) => {
                    self.core.metrics.slow_watches.inc();
                    self.finished = Some(ApiError::expired(format!("too old resource version: {wanted} ({oldest})")));
                    continue;
                }
                Err(error) => {
                    self.finished = Some(ApiError::internal(error));
                    continue;
                }
            }
            if self.bookmark_due {
                self.bookmark_due = false;
                output::bookmark_line(&self.info, self.position, false, self.show, &mut out);
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
            let bookmark_at = self.bookmark_at.unwrap_or(self.deadline);
            tokio::select! {
                changed = self.wake.changed() => if changed.is_err() { return None; },
                _ = self.registry.changed() => {
                    // The watch of a resource that is served no more, or in another shape, ends; clients list again.
                    let now = self.core.registry().get(&self.info.group, &self.info.version, &self.info.resource);
                    match now {
                        Some(info) => self.info = info,
                        None => return None,
                    }
                }
                () = self.core.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(bookmark_at), if self.bookmark_at.is_some() => {
                    // Read once more: a bookmark may only name what was looked at.
                    self.bookmark_due = true;
                    self.next_bookmark();
                }
            }
        }
    }
}
