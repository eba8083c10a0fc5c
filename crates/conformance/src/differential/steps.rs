//! What may be asked: the steps of a sequence and how often each is drawn.

use proptest::prelude::*;
use serde_json::{Value, json};

/// The kinds that are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Custom resource with status, scale, rules and defaults.
    Widget,
    /// Core, merged strategically.
    ConfigMap,
    /// Core, with a type and encoded data.
    Secret,
    /// May be created by PUT.
    Lease,
}

impl Kind {
    /// Its collection in a namespace.
    pub fn collection(self, namespace: &str) -> String {
        match self {
            Kind::Widget => format!("/apis/conformance.example.com/v1/namespaces/{namespace}/widgets"),
            Kind::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Kind::Secret => format!("/api/v1/namespaces/{namespace}/secrets"),
            Kind::Lease => format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
        }
    }

    /// `apiVersion` and `kind`.
    pub fn stamp(self) -> Value {
        match self {
            Kind::Widget => json!({ "apiVersion": "conformance.example.com/v1", "kind": "Widget" }),
            Kind::ConfigMap => json!({ "apiVersion": "v1", "kind": "ConfigMap" }),
            Kind::Secret => json!({ "apiVersion": "v1", "kind": "Secret" }),
            Kind::Lease => json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease" }),
        }
    }
}

/// Which version a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// None.
    Unset,
    /// The newest one that was seen of the object.
    Newest,
    /// The one before.
    Older,
    /// One that never was.
    Foreign,
}

/// Which version a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// None.
    Latest,
    /// The newest that was seen, or newer.
    NotOlder,
    /// Exactly an older one.
    Exact,
    /// No number.
    Nonsense,
    /// A match without a version.
    MatchOnly,
}

/// In which form an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Itself.
    Object,
    /// Rows.
    Table,
    /// Metadata.
    Partial,
    /// A form that there is not.
    Impossible,
}

/// Which part of an object is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The object.
    Main,
    /// `/status`.
    Status,
    /// `/scale`.
    Scale,
}

impl Part {
    /// What is added to the path.
    pub fn suffix(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "/status",
            Part::Scale => "/scale",
        }
    }
}

/// A patch.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Value),
    /// Strategic merge.
    Strategic(Value),
    /// Server-side apply: body, manager, force.
    Apply(Value, &'static str, bool),
}

/// Something that is refused for its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// PUT to a collection of custom resources.
    PutCollection,
    /// PUT to a collection of a core kind.
    PutCoreCollection,
    /// POST to a custom resource.
    PostObject,
    /// POST to a core object.
    PostCoreObject,
    /// PATCH of a collection.
    PatchCollection,
    /// A body of another media type.
    MediaType,
    /// A body that is no JSON.
    Broken,
    /// A body that is too large.
    Large,
    /// A patch of an unknown type.
    PatchType,
    /// A resource that there is not.
    Resource,
    /// A namespace that cannot be deleted.
    DefaultNamespace,
    /// A token that there is not.
    Continue,
}

/// One request.
#[derive(Clone, Debug)]
pub enum Step {
    /// POST.
    Create(Kind, Value, &'static str),
    /// GET of an object.
    Get(Kind, &'static str, Part, Form),
    /// GET of a collection: label selector, field selector, limit.
    List(Kind, &'static str, &'static str, Option<u8>, From, Form),
    /// GET of the next page of the last list that had one.
    Next,
    /// Opens a watch from a version that was seen (counted back); it is read at the end of the sequence.
    Watch(Kind, &'static str, &'static str, u8),
    /// PUT of the object as last seen, changed.
    Put(Kind, &'static str, Part, Version, Value, &'static str),
    /// PATCH.
    Patch(Kind, &'static str, Part, Patch, &'static str),
    /// DELETE with preconditions (uid wrong or right) and a propagation policy.
    Delete(Kind, &'static str, Version, Option<bool>, &'static str),
    /// DELETE of a collection by label.
    DeleteCollection(Kind, &'static str, &'static str),
    /// Something odd.
    Odd(Odd),
}

impl Step {
    /// Whether it leaves everything as it is.
    pub fn only_reads(&self) -> bool {
        matches!(self, Step::Get(..) | Step::List(..) | Step::Next | Step::Watch(..))
    }

    /// The object that it is about, if it names one.
    pub fn object(&self) -> Option<(Kind, &str)> {
        match self {
            Step::Create(kind, body, _) => body["metadata"]["name"].as_str().map(|name| (*kind, name)),
            Step::Get(kind, name, ..) | Step::Put(kind, name, ..) | Step::Patch(kind, name, ..) | Step::Delete(kind, name, ..) => {
                Some((*kind, name))
            }
            Step::List(..) | Step::Next | Step::Watch(..) | Step::DeleteCollection(..) | Step::Odd(_) => None,
        }
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Label selectors.
const LABELS: [&str; 9] = [
    "app=web",
    "app!=web",
    "app in (web,db)",
    "app notin (db)",
    "app",
    "!app",
    "tier>1",
    "tier<2",
    "app=web,tier=1",
];
/// Label selectors that cannot be read.
const BROKEN: [&str; 3] = ["app in (", "a b", "tier>x"];
/// Label selectors for watches; each selects what carries the labels of [`sentinel_labels`].
pub const WATCHABLE: [&str; 5] = ["", "app=web", "app in (web,db)", "tier>1", "app!=db"];
/// Labels that every selector of [`WATCHABLE`] selects.
pub fn sentinel_labels() -> Value {
    json!({ "app": "web", "tier": "9" })
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![6 => Just(Kind::Widget), 2 => Just(Kind::ConfigMap), 1 => Just(Kind::Secret), 1 => Just(Kind::Lease)]
}

/// A map of fields, each there or not.
fn fields(each: Vec<(u32, &'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let parts: Vec<BoxedStrategy<Option<(&'static str, Value)>>> = each
        .into_iter()
        .map(|(percent, name, value)| {
            let there = f64::from(percent) / 100.0;
            prop::option::weighted(there, value.prop_map(move |value| (name, value))).boxed()
        })
        .collect();
    parts
        .prop_map(|parts| Value::Object(parts.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect()))
        .boxed()
}

fn pick(values: &[Value]) -> BoxedStrategy<Value> {
    prop::sample::select(values.to_vec()).boxed()
}

fn spec() -> BoxedStrategy<Value> {
    let size = prop_oneof![8 => (0i64..90).prop_map(|n| json!(n)), 1 => pick(&[json!(-1), json!(2000), json!("1"), json!(1.5), json!(null), json!(500)])].boxed();
    fields(vec![
        (92, "size", size),
        (10, "maxSize", pick(&[json!(50), json!(200), json!(null), json!("x")])),
        (
            20,
            "color",
            pick(&[json!("red"), json!("green"), json!("blue"), json!("pink"), json!(null)]),
        ),
        (
            15,
            "note",
            pick(&[
                json!("short"),
                json!("a note of over twenty letters"),
                json!("n".repeat(50)),
                json!(7),
            ]),
        ),
        (10, "code", pick(&[json!("abc"), json!("A1")])),
        (8, "ratio", pick(&[json!(1.5), json!(2), json!("x")])),
        (15, "replicas", pick(&[json!(0), json!(3), json!(-1)])),
        (10, "port", pick(&[json!(80), json!("http"), json!(true)])),
        (
            20,
            "tags",
            pick(&[
                json!(["x"]),
                json!(["x", "y"]),
                json!(["z", "x"]),
                json!(["x", "x"]),
                json!([]),
                json!({}),
                json!(null),
            ]),
        ),
        (15, "steps", pick(&[json!(["one"]), json!(["one", "two"]), json!([])])),
        (
            20,
            "parts",
            pick(&[
                json!([{ "name": "p" }]),
                json!([{ "name": "p", "weight": 2 }, { "name": "q" }]),
                json!([{ "name": "q", "note": "n" }]),
                json!([{ "weight": 1 }]),
                json!([{ "name": "p" }, { "name": "p" }]),
            ]),
        ),
        (
            15,
            "limits",
            pick(&[
                json!({ "cpu": 1 }),
                json!({ "disk": 2, "cpu": 3 }),
                json!({ "cpu": "x" }),
                json!({}),
            ]),
        ),
        (10, "pair", pick(&[json!({ "a": "x" }), json!({ "a": "y", "b": "z" })])),
        (5, "maybe", pick(&[json!(null), json!("x")])),
        (
            10,
            "free",
            pick(&[json!({ "any": [1, { "deep": true }] }), json!({ "other": null }), json!({})]),
        ),
        (5, "bogus", pick(&[json!(1), json!({ "x": "y" })])),
    ])
}

fn status() -> BoxedStrategy<Value> {
    fields(vec![
        (60, "ready", pick(&[json!(true), json!(false), json!("yes")])),
        (30, "replicas", pick(&[json!(1), json!(2)])),
        (20, "selector", pick(&[json!("app=web")])),
        (20, "seenAt", pick(&[json!("2026-01-01T00:00:00Z"), json!("yesterday")])),
        (
            30,
            "conditions",
            pick(&[
                json!([{ "type": "Ready", "status": "True" }]),
                json!([{ "type": "Ready", "status": "False" }, { "type": "Other" }]),
                json!([{}]),
            ]),
        ),
    ])
}

fn data() -> BoxedStrategy<Value> {
    fields(vec![
        (70, "key", pick(&[json!("value"), json!("other"), json!("")])),
        (30, "more", pick(&[json!("x"), json!(null), json!(1)])),
        (4, "a b", pick(&[json!("x")])),
    ])
}

fn encoded() -> BoxedStrategy<Value> {
    fields(vec![
        (70, "key", pick(&[json!("dmFsdWU="), json!("b3RoZXI="), json!("")])),
        (10, "more", pick(&[json!("eA=="), json!("!")])),
    ])
}

fn lease() -> BoxedStrategy<Value> {
    fields(vec![
        (70, "holderIdentity", pick(&[json!("one"), json!("two")])),
        (50, "leaseDurationSeconds", pick(&[json!(15), json!(30), json!(0), json!("x")])),
        (20, "leaseTransitions", pick(&[json!(1), json!(2), json!(-1)])),
        (
            40,
            "renewTime",
            pick(&[json!("2026-01-01T00:00:00Z"), json!("2026-01-01T00:00:00.123456Z"), json!("now")]),
        ),
    ])
}

/// Everything of a kind but its metadata.
fn content(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Widget => fields(vec![(96, "spec", spec()), (15, "status", status())]),
        Kind::ConfigMap => fields(vec![
            (90, "data", data()),
            (
                10,
                "binaryData",
                pick(&[json!({ "raw": "AAEC" }), json!({ "key": "AAEC" }), json!({ "raw": "!" })]),
            ),
            (5, "immutable", pick(&[json!(true), json!(false)])),
            (3, "bogus", pick(&[json!(1)])),
        ]),
        Kind::Secret => fields(vec![
            (80, "data", encoded()),
            (30, "stringData", pick(&[json!({ "text": "t" }), json!({ "key": "k" })])),
            (
                20,
                "type",
                pick(&[json!("Opaque"), json!("example.com/other"), json!("kubernetes.io/tls")]),
            ),
        ]),
        Kind::Lease => fields(vec![(95, "spec", lease())]),
    }
}

fn metadata() -> BoxedStrategy<Value> {
    let labels = fields(vec![
        (60, "app", pick(&[json!("web"), json!("db"), json!("other"), json!(null)])),
        (40, "tier", pick(&[json!("1"), json!("2"), json!("x")])),
        (3, "bad key", pick(&[json!("x")])),
    ]);
    fields(vec![
        (50, "labels", labels),
        (
            20,
            "annotations",
            pick(&[json!({ "note": "n" }), json!({ "note": "m", "other": "" }), json!(null)]),
        ),
        (
            12,
            "finalizers",
            pick(&[
                json!(["example.com/hold"]),
                json!(["example.com/hold", "example.com/more"]),
                json!(null),
                json!([]),
                json!(["bad one"]),
            ]),
        ),
        (2, "bogus", pick(&[json!(1)])),
    ])
}

fn join(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

/// A part of an object, as a patch or change.
fn change(kind: Kind) -> BoxedStrategy<Value> {
    (prop::option::weighted(0.3, metadata()), prop::option::weighted(0.85, content(kind)))
        .prop_map(|(metadata, content)| {
            let mut value = content.unwrap_or_else(|| json!({}));
            if let Some(metadata) = metadata {
                value["metadata"] = metadata;
            }
            value
        })
        .boxed()
}

/// A whole object under a name.
fn object(kind: Kind) -> BoxedStrategy<Value> {
    let name = prop_oneof![
        20 => name().prop_map(|name| json!({ "name": name })),
        3 => Just(json!({ "generateName": "gen-" })),
        1 => pick(&[json!({ "name": "Bad_Name" }), json!({}), json!({ "name": "a", "namespace": "default" }), json!({ "name": "a", "resourceVersion": "1" })]),
    ];
    (name, metadata(), content(kind))
        .prop_map(move |(name, metadata, content)| {
            let mut value = join(kind.stamp(), content);
            value["metadata"] = join(metadata, name);
            value
        })
        .boxed()
}

/// An object that is accepted, so that there is something to list and to change.
fn plain(kind: Kind) -> BoxedStrategy<Value> {
    let labels = fields(vec![
        (70, "app", pick(&[json!("web"), json!("db")])),
        (50, "tier", pick(&[json!("1"), json!("2")])),
    ]);
    let content = match kind {
        Kind::Widget => (0i64..50).prop_map(|size| json!({ "spec": { "size": size } })).boxed(),
        Kind::ConfigMap => Just(json!({ "data": { "key": "value" } })).boxed(),
        Kind::Secret => Just(json!({ "data": { "key": "dmFsdWU=" } })).boxed(),
        Kind::Lease => Just(json!({ "spec": { "holderIdentity": "one" } })).boxed(),
    };
    (name(), labels, content)
        .prop_map(move |(name, labels, content)| {
            let mut value = join(kind.stamp(), content);
            value["metadata"] = json!({ "name": name, "labels": labels });
            value
        })
        .boxed()
}

fn query() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        14 => Just(""),
        2 => Just("dryRun=All"),
        2 => Just("fieldValidation=Strict"),
        1 => Just("fieldValidation=Ignore"),
        1 => Just("fieldValidation=Warn"),
        2 => Just("fieldManager=other"),
        1 => prop::sample::select(&["dryRun=Some", "fieldValidation=Loose", "force=true", "pretty=true"][..]),
    ]
}

fn part(kind: Kind) -> BoxedStrategy<Part> {
    if kind == Kind::Widget {
        prop_oneof![6 => Just(Part::Main), 2 => Just(Part::Status), 1 => Just(Part::Scale)].boxed()
    } else {
        Just(Part::Main).boxed()
    }
}

fn operations(kind: Kind) -> BoxedStrategy<Value> {
    let paths: &'static [&'static str] = match kind {
        Kind::Widget => &[
            "/spec/size",
            "/spec/tags",
            "/spec/tags/0",
            "/spec/tags/-",
            "/spec/steps/-",
            "/spec/limits/cpu",
            "/metadata/labels/app",
            "/metadata/labels",
            "/spec/parts/0",
            "/spec/nothing",
            "/metadata/finalizers",
            "/status",
        ],
        Kind::ConfigMap | Kind::Secret => &[
            "/data/key",
            "/data/more",
            "/data",
            "/metadata/labels",
            "/metadata/labels/app",
            "/metadata/finalizers",
            "/nothing",
        ],
        Kind::Lease => &[
            "/spec/holderIdentity",
            "/spec/leaseDurationSeconds",
            "/spec",
            "/metadata/labels",
            "/metadata/finalizers",
        ],
    };
    let value = pick(&[
        json!(3),
        json!("x"),
        json!("dmFsdWU="),
        json!({}),
        json!({ "app": "web" }),
        json!([]),
        json!(["example.com/hold"]),
        json!(null),
        json!({ "name": "p" }),
    ]);
    let operation = (
        prop::sample::select(&["add", "replace", "remove", "test", "copy", "move", "bend"][..]),
        prop::sample::select(paths),
        prop::sample::select(paths),
        value,
    )
        .prop_map(|(op, path, from, value)| match op {
            "remove" => json!({ "op": op, "path": path }),
            "copy" | "move" => json!({ "op": op, "path": path, "from": from }),
            _ => json!({ "op": op, "path": path, "value": value }),
        });
    prop_oneof![
        20 => prop::collection::vec(operation, 1..4).prop_map(Value::Array),
        1 => pick(&[json!({}), json!([]), json!([1])]),
    ]
    .boxed()
}

fn patch(kind: Kind) -> BoxedStrategy<Patch> {
    let merge = prop_oneof![12 => change(kind), 1 => pick(&[json!([]), json!({ "metadata": { "name": "z" } }), json!({ "metadata": { "resourceVersion": "1" } }), json!({ "metadata": { "uid": "x" } }), json!({ "kind": "Other" })])];
    let strategic = prop_oneof![
        6 => change(kind),
        2 => pick(&[json!({ "data": { "$patch": "replace", "only": "x" } }), json!({ "data": { "$patch": "delete" } }), json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["example.com/hold"] } }), json!({ "metadata": { "labels": null } })]),
    ];
    let apply = (object(kind), prop::sample::select(&["one", "two"][..]), any::<bool>())
        .prop_map(|(body, manager, force)| Patch::Apply(body, manager, force));
    prop_oneof![3 => merge.prop_map(Patch::Merge), 3 => operations(kind).prop_map(Patch::Json), 2 => strategic.prop_map(Patch::Strategic), 4 => apply].boxed()
}

fn labels() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 9 => prop::sample::select(&LABELS[..]), 1 => prop::sample::select(&BROKEN[..])]
}

fn field_selector(kind: Kind) -> BoxedStrategy<&'static str> {
    let own: &'static [&'static str] = match kind {
        Kind::Widget => &[
            "metadata.name=a",
            "metadata.name!=a",
            "spec.color=red",
            "spec.color!=red",
            "spec.size=3",
            "spec.note=x",
            "nonsense",
        ],
        Kind::Secret => &["metadata.name=a", "type=Opaque", "type!=Opaque", "data.key=x"],
        Kind::ConfigMap | Kind::Lease => &["metadata.name=a", "metadata.name!=a", "data.key=x"],
    };
    prop_oneof![1 => Just(""), 1 => prop::sample::select(own)].boxed()
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![12 => Just(Form::Object), 2 => Just(Form::Table), 2 => Just(Form::Partial), 2 => Just(Form::Impossible)]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![2 => Just(Version::Unset), 5 => Just(Version::Newest), 4 => Just(Version::Older), 2 => Just(Version::Foreign)]
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![30 => Just(From::Latest), 6 => Just(From::NotOlder), 8 => Just(From::Exact), 1 => Just(From::Nonsense), 1 => Just(From::MatchOnly)]
}

fn odd() -> impl Strategy<Value = Odd> {
    prop::sample::select(
        &[
            Odd::PutCollection,
            Odd::PutCoreCollection,
            Odd::PostObject,
            Odd::PostCoreObject,
            Odd::PatchCollection,
            Odd::MediaType,
            Odd::Broken,
            Odd::Large,
            Odd::PatchType,
            Odd::Resource,
            Odd::DefaultNamespace,
            Odd::Continue,
        ][..],
    )
}

fn step() -> BoxedStrategy<Step> {
    let create = kind().prop_flat_map(|kind| {
        prop_oneof![
            1 => (object(kind), query()).prop_map(move |(body, query)| Step::Create(kind, body, query)),
            1 => plain(kind).prop_map(move |body| Step::Create(kind, body, "")),
        ]
    });
    let get =
        kind().prop_flat_map(|kind| (name(), part(kind), form()).prop_map(move |(name, part, form)| Step::Get(kind, name, part, form)));
    let list = kind().prop_flat_map(|kind| {
        (labels(), field_selector(kind), prop::option::weighted(0.4, 1u8..3), from(), form())
            .prop_map(move |(labels, fields, limit, from, form)| Step::List(kind, labels, fields, limit, from, form))
    });
    let watch = kind().prop_flat_map(|kind| {
        let fields = if kind == Kind::Widget {
            &["", "spec.color=red", "metadata.name!=a"][..]
        } else {
            &["", "metadata.name!=a"][..]
        };
        (prop::sample::select(&WATCHABLE[..]), prop::sample::select(fields), 0u8..6)
            .prop_map(move |(labels, fields, back)| Step::Watch(kind, labels, fields, back))
    });
    let put = kind().prop_flat_map(|kind| {
        (name(), part(kind), version(), change(kind), query())
            .prop_map(move |(name, part, version, change, query)| Step::Put(kind, name, part, version, change, query))
    });
    let patch = kind().prop_flat_map(|kind| {
        (name(), part(kind), patch(kind), query()).prop_map(move |(name, part, patch, query)| Step::Patch(kind, name, part, patch, query))
    });
    let delete = kind().prop_flat_map(|kind| {
        let version = prop_oneof![6 => Just(Version::Unset), 2 => Just(Version::Newest), 3 => Just(Version::Older)];
        let uid = prop_oneof![6 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
        let more = prop::sample::select(&["", "", "", "", "Background", "Foreground", "Orphan", "Sideways"][..]);
        (name(), version, uid, more).prop_map(move |(name, version, uid, more)| Step::Delete(kind, name, version, uid, more))
    });
    let collection = kind().prop_flat_map(|kind| {
        (labels(), prop::sample::select(&["", "", "dryRun=All"][..]))
            .prop_map(move |(labels, query)| Step::DeleteCollection(kind, labels, query))
    });
    prop_oneof![
        30 => create,
        10 => get,
        24 => list,
        16 => Just(Step::Next),
        3 => watch,
        9 => put,
        26 => patch,
        7 => delete,
        3 => collection,
        24 => odd().prop_map(Step::Odd),
    ]
    .boxed()
}

/// A sequence: some objects first, so that there is something to ask for. It may be as short as one step, so that it can be shrunk to that.
pub fn sequence() -> impl Strategy<Value = Vec<Step>> {
    let first = kind().prop_flat_map(|kind| plain(kind).prop_map(move |body| Step::Create(kind, body, "")));
    (prop::collection::vec(first, 0..10), prop::collection::vec(step(), 1..50)).prop_map(|(mut first, steps)| {
        first.extend(steps);
        first
    })
}
