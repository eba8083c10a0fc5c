//! What hostile input is given to: one plain function for each kind of input, shared by the fuzz targets in `fuzz/` and the test beside this module.
//!
//! Each function takes any bytes and must return. It panics when the server panicked inside, answered with something that is no answer, or let a dry run
//! change an object. Time and memory are watched by whoever calls.

mod host;

use base64::Engine as _;
use serde_json::{Value, json};

use apiserver::schema::{PruneOptions, Structural};
use host::with;

/// One kind of input.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also that of its folder of inputs.
    pub name: &'static str,
    /// Takes any bytes.
    pub one: fn(&[u8]),
    /// Pieces that inputs are made of.
    pub words: &'static [&'static str],
}

const JSON_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "\"\"",
    "0",
    "-1",
    "9223372036854775808",
    "1e308",
    "1.5",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "{}",
    "[]",
    "\"metadata\"",
    "\"name\"",
    "\"a\"",
    "\"spec\"",
    "\"status\"",
    "\"size\"",
    "\"tags\"",
    "\"parts\"",
    "\"weight\"",
    "\"free\"",
    "\"labels\"",
    "\"finalizers\"",
    "\"ownerReferences\"",
    "\"managedFields\"",
    "\"resourceVersion\"",
    "\"deletionTimestamp\"",
    "\"color\"",
    "\"ratio\"",
];

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "json_patch",
        one: json_patch,
        words: &[
            "[{\"op\":\"add\",\"path\":\"/spec/tags/-\",\"value\":1}]",
            "\"op\"",
            "\"add\"",
            "\"remove\"",
            "\"replace\"",
            "\"move\"",
            "\"copy\"",
            "\"test\"",
            "\"path\"",
            "\"from\"",
            "\"value\"",
            "\"/spec\"",
            "\"/spec/parts/0\"",
            "\"/spec/tags/-\"",
            "\"/metadata/labels/a~1b\"",
            "\"/a~0\"",
            "\"\"",
            "/-",
            "~",
            "/18446744073709551616",
            ",{",
            "},",
            "{}",
            "[",
            "]",
            "null",
        ],
    },
    Target {
        name: "merge_patch",
        one: merge_patch,
        words: JSON_WORDS,
    },
    Target {
        name: "strategic_merge",
        one: strategic_merge,
        words: &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "\"$patch\"",
            "\"delete\"",
            "\"replace\"",
            "\"merge\"",
            "\"$retainKeys\"",
            "\"$setElementOrder/secrets\"",
            "\"$deleteFromPrimitiveList/finalizers\"",
            "\"secrets\"",
            "\"imagePullSecrets\"",
            "\"metadata\"",
            "\"finalizers\"",
            "\"ownerReferences\"",
            "\"uid\"",
            "\"name\"",
            "\"a\"",
            "\"data\"",
            "\"spec\"",
            "\"labels\"",
            "\"u\"",
            "\"$setElementOrder/ownerReferences\"",
            "{}",
            "[]",
            "0",
        ],
    },
    Target {
        name: "apply",
        one: apply,
        words: &[
            "apiVersion: example.com/v1\nkind: Widget\n",
            "metadata:",
            "  name: a\n",
            "spec:\n",
            "  size: 1\n",
            "  tags: [a, b]\n",
            "  parts:\n  - name: p\n",
            "&a ",
            "*a",
            "<<: *a",
            "!!binary ",
            "- ",
            "? ",
            "|\n",
            ">\n",
            "\"spec\"",
            "\"parts\"",
            "\"name\"",
            "\"managedFields\"",
            "\"fieldsV1\"",
            "f:spec",
            "k:{\"name\":\"p\"}",
            "null",
            "~",
            "0x7f",
            ".inf",
            "---\n",
            "\t",
            "\n",
            "{",
            "}",
            "[",
            "]",
        ],
    },
    Target {
        name: "selectors",
        one: selectors,
        words: &[
            "a=b",
            "a==b",
            "a!=b",
            "!a",
            "a in (b,c)",
            "a notin (b)",
            "a>1",
            "a<1",
            ",",
            "(",
            ")",
            " in ",
            " notin ",
            "example.com/a",
            "/",
            "\n",
            "metadata.name=a",
            "metadata.namespace!=x",
            "spec.color=red",
            "\\,",
            "\\=",
            "\\\\",
            "9223372036854775808",
            "\u{e9}",
        ],
    },
    Target {
        name: "cel",
        one: cel,
        words: &[
            "self",
            "self.n",
            "self.s",
            "self.l",
            "self.m",
            "oldSelf",
            "has(self.s)",
            ".all(x, x > 0)",
            ".exists(x, x)",
            ".exists_one(x, x)",
            ".map(x, x)",
            ".filter(x, true)",
            ".size()",
            ".matches('^(a+)+$')",
            ".find('a')",
            ".replace('a', 'bb')",
            ".split(',')",
            ".join(',')",
            ".format([1])",
            "'%s %d %.3f'",
            "duration('1h')",
            "timestamp('2020-01-01T00:00:00Z')",
            "quantity('1Gi')",
            "ip('::1')",
            "cidr('10.0.0.0/8')",
            "url('http://a')",
            "semver('1.0.0')",
            "optional.of(1)",
            ".orValue(0)",
            "[?self.?s]",
            "? 1 : 2",
            "&&",
            "||",
            "!",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "+",
            "-",
            "*",
            "/",
            "%",
            "<",
            "==",
            " in ",
            "'a'",
            "b'a'",
            "r'a'",
            "\"\"\"a\"\"\"",
            "\\u0041",
            "\\xff",
            "1u",
            "0x7f",
            "1e9",
            "9223372036854775807",
            "\n{\"n\":1}",
            "\n{\"s\":\"aaaa\"}",
            ".lowerAscii()",
            ".charAt(0)",
            ".indexOf('a')",
            ".substring(1)",
            ".sum()",
            ".isSorted()",
            "sets.contains([1],[1])",
            "math.greatest(1,2)",
            "cel.bind(a, 1, a)",
        ],
    },
    Target {
        name: "continue_tokens",
        one: continue_tokens,
        words: &[
            "{\"v\":\"meta.k8s.io/v1\",\"rv\":1,\"start\":\"default/a\\u0000\"}",
            "\"v\"",
            "\"rv\"",
            "\"start\"",
            "-1",
            "0",
            "9223372036854775807",
            "18446744073709551615",
            "\\u0000",
            "/",
            "default/",
            "\"meta.k8s.io/v1\"",
            "eyJ2",
            "=",
            "-",
            "_",
        ],
    },
    Target {
        name: "watch_parameters",
        one: watch_parameters,
        words: &[
            "watch=1",
            "&",
            "=",
            "resourceVersion=",
            "0",
            "1",
            "99999999999",
            "18446744073709551616",
            "resourceVersionMatch=NotOlderThan",
            "resourceVersionMatch=Exact",
            "sendInitialEvents=true",
            "allowWatchBookmarks=true",
            "timeoutSeconds=",
            "-1",
            "limit=1",
            "continue=",
            "%00",
            "%zz",
            "+",
            "fieldSelector=metadata.name%3Da",
            "labelSelector=a",
            "pretty=true",
            "includeObject=Object",
            "9223372036854775807",
        ],
    },
];

/// RFC 6902, to a custom resource.
pub fn json_patch(input: &[u8]) {
    with(|host| host.patch(host::WIDGET, "application/json-patch+json", input));
}

/// RFC 7386, to a custom resource, its status and its scale.
pub fn merge_patch(input: &[u8]) {
    with(|host| {
        let part = ["", "/status", "/scale"][input.len() % 3];
        host.patch(&format!("{}{part}", host::WIDGET), "application/merge-patch+json", input);
    });
}

/// Kubernetes' own, to a core kind.
pub fn strategic_merge(input: &[u8]) {
    with(|host| {
        host.patch(
            host::TYPED[input.len() % host::TYPED.len()],
            "application/strategic-merge-patch+json",
            input,
        )
    });
}

/// Server-side apply, in JSON and YAML, to a custom resource and to a core kind.
pub fn apply(input: &[u8]) {
    with(|host| {
        let path = [host::WIDGET, host::TYPED[0]][input.len() % 2];
        let joint = if input.first() == Some(&b'{') { "&force=true" } else { "" };
        host.apply(path, joint, input);
    });
}

/// A label selector and, on the second line, a field selector.
pub fn selectors(input: &[u8]) {
    let mut lines = input.splitn(2, |byte| *byte == b'\n').map(host::escape);
    let labels = lines.next().unwrap_or_default();
    let fields = lines.next().unwrap_or_default();
    with(|host| {
        host.get(&format!("{}?labelSelector={labels}&fieldSelector={fields}", host::WIDGETS));
        host.get(&format!("{}?fieldSelector={labels}", host::EVENTS));
    });
}

/// A rule of a schema and, on the second line, an object that it judges and the one before; without a second line three fixed objects are judged.
pub fn cel(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (rule, objects) = text.split_once('\n').unwrap_or((&text, ""));
    let schema = json!({
        "type": "object",
        "properties": {
            "n": { "type": "integer" }, "d": { "type": "number" }, "b": { "type": "boolean" }, "s": { "type": "string" },
            "t": { "type": "string", "format": "date-time" },
            "l": { "type": "array", "items": { "type": "integer" } },
            "m": { "type": "object", "additionalProperties": { "type": "string" } },
            "k": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "required": ["name"], "properties": { "name": { "type": "string" }, "n": { "type": "integer" } },
            } },
            "q": { "x-kubernetes-int-or-string": true },
        },
        "x-kubernetes-validations": [{ "rule": rule, "messageExpression": if rule.len() % 3 == 0 { rule } else { "'no'" } }],
    });
    let Ok(schema) = Structural::parse(&schema) else { return };
    let judge = |new: &Value, old: Option<&Value>| {
        let mut new = new.clone();
        schema.prune(
            &mut new,
            PruneOptions {
                report: true,
                resource_root: false,
            },
        );
        schema.default(&mut new);
        for error in schema.validate(&new, old) {
            assert!(error.message.len() < 1 << 20, "an endless message");
        }
    };
    let full = json!({
        "n": 5, "d": 1.5, "b": true, "s": "aaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "t": "2024-02-29T12:00:00Z", "l": [3, 1, 2], "m": { "a": "b", "c": "d" },
        "k": [{ "name": "x", "n": 1 }, { "name": "y" }], "q": "10%",
    });
    let mut objects = objects.splitn(2, '\n').map(serde_json::from_str::<Value>);
    match (objects.next(), objects.next()) {
        (Some(Ok(new)), Some(Ok(old))) => judge(&new, Some(&old)),
        (Some(Ok(new)), _) => judge(&new, None),
        _ => {
            judge(&full, None);
            judge(&full, Some(&json!({ "n": 4, "s": "", "l": [], "k": [{ "name": "x" }] })));
            judge(&json!({}), Some(&full));
        }
    }
}

/// A continue token as it is, and one whose inside it is.
pub fn continue_tokens(input: &[u8]) {
    let inside = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(input);
    let raw = host::escape(input);
    with(|host| {
        for token in [&inside, &raw] {
            host.get(&format!("{}?limit=1&continue={token}", host::WIDGETS));
        }
    });
}

/// The query of a watch; what it says at first is read.
pub fn watch_parameters(input: &[u8]) {
    // A query reaches the server only in the characters of a URI; the rest comes escaped.
    let query: String = input
        .iter()
        .flat_map(|byte| {
            match byte {
                b'&' | b'=' | b'%' | b'+' => char::from(*byte).to_string(),
                byte => host::escape(&[*byte]),
            }
            .into_bytes()
        })
        .map(char::from)
        .collect();
    with(|host| host.watch(&format!("{}?watch=1&{query}", host::WIDGETS)));
}
