//! CEL rules: messages, reasons, field paths, transition rules, and rules in definitions of a behaviour's own.

use serde_json::{Value, json};

use crate::{
    behaviour::{Behaviour, behaviour},
    definitions::*,
};

/// A spec with one field of a type, with rules.
fn ruled(field: &Value, rules: &Value) -> Value {
    let mut field = field.clone();
    field["x-kubernetes-validations"] = rules.clone();
    json!({ "spec": { "type": "object", "properties": { "x": field, "y": { "type": "string" } } } })
}

/// Type of `spec.x`, a rule on it, a value that holds, one that does not.
fn library() -> Vec<(&'static str, Value, &'static str, Value, Value)> {
    let text = json!({ "type": "string", "maxLength": 100 });
    let number = json!({ "type": "integer" });
    let list = json!({ "type": "array", "maxItems": 10, "items": { "type": "integer" } });
    let map = json!({ "type": "object", "maxProperties": 10, "additionalProperties": { "type": "integer" } });
    vec![
        (
            "text functions",
            text.clone(),
            "self.startsWith('a') && self.endsWith('z') && self.contains('-')",
            json!("a-z"),
            json!("az"),
        ),
        ("matches", text.clone(), "self.matches('^[0-9]+$')", json!("12"), json!("x")),
        ("size of a text", text.clone(), "self.size() == 2", json!("ab"), json!("abc")),
        (
            "lowerAscii and split",
            text.clone(),
            "self.lowerAscii().split(',').size() == 2",
            json!("A,B"),
            json!("A"),
        ),
        (
            "quantity",
            text.clone(),
            "quantity(self).isGreaterThan(quantity('1Gi'))",
            json!("2Gi"),
            json!("5Mi"),
        ),
        (
            "ip",
            text.clone(),
            "isIP(self) && ip(self).family() == 4",
            json!("10.0.0.1"),
            json!("::1"),
        ),
        (
            "cidr",
            text.clone(),
            "cidr('10.0.0.0/8').containsIP(self)",
            json!("10.1.2.3"),
            json!("11.1.2.3"),
        ),
        (
            "url",
            text.clone(),
            "url(self).getScheme() == 'https'",
            json!("https://x/"),
            json!("http://x/"),
        ),
        ("duration", text, "duration(self) < duration('1h')", json!("5m"), json!("2h")),
        ("arithmetic", number.clone(), "self % 2 == 0 && self * 2 < 100", json!(4), json!(3)),
        ("a ternary", number, "self > 5 ? self < 10 : self == 1", json!(7), json!(2)),
        ("all", list.clone(), "self.all(n, n > 0)", json!([1, 2]), json!([0])),
        ("exists", list.clone(), "self.exists(n, n == 3)", json!([3]), json!([1])),
        (
            "exists_one",
            list.clone(),
            "self.exists_one(n, n == 3)",
            json!([3, 1]),
            json!([3, 3]),
        ),
        (
            "filter and map",
            list.clone(),
            "self.filter(n, n > 1).map(n, n * 2) == [4]",
            json!([1, 2]),
            json!([2, 2]),
        ),
        (
            "sum and isSorted",
            list.clone(),
            "self.sum() == 6 && self.isSorted()",
            json!([1, 2, 3]),
            json!([3, 2, 1]),
        ),
        ("indexing", list, "self[0] == 1", json!([1]), json!([2])),
        (
            "keys of a map",
            map.clone(),
            "'a' in self && self['a'] > 1",
            json!({ "a": 2 }),
            json!({ "b": 2 }),
        ),
        (
            "values of a map",
            map,
            "self.all(k, self[k] < 5)",
            json!({ "a": 1 }),
            json!({ "a": 9 }),
        ),
    ]
}

pub(super) fn all() -> Vec<Behaviour> {
    let library = library().into_iter().map(|(what, field, rule, good, bad)| {
        behaviour(format!("CEL: {what}"), async move |t| {
            let things = t
                .install_things(&ruled(&field, &json!([{ "rule": rule, "message": "not so" }])))
                .await;
            t.post(&things, &t.thing("good", json!({ "x": good }))).await.ok(201);
            let refused = t.post(&things, &t.thing("bad", json!({ "x": bad }))).await.refused(422, "Invalid");
            refused.says("not so").causes(&[("FieldValueInvalid", "spec.x")]);
        })
    });
    library.chain(messages()).chain(refused_rules()).collect()
}

fn messages() -> Vec<Behaviour> {
    vec![
        behaviour("rules: a message is told", async |t| {
            let refused = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 9, "maxSize": 5 })))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "spec")]);
            refused.says("spec: Invalid value: ").says("size may not exceed maxSize");
        }),
        behaviour("rules: a message expression and a reason", async |t| {
            let refused = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "note": "n".repeat(25) })))
                .await
                .refused(422, "Invalid");
            refused.says("note is too long").causes(&[("FieldValueForbidden", "spec")]);
        }),
        behaviour("rules: a transition rule with a field path", async |t| {
            t.made("a").await;
            let refused = t
                .merge(&t.widget("a"), &json!({ "spec": { "color": "blue" } }))
                .await
                .refused(422, "Invalid");
            refused.says("color cannot change").causes(&[("FieldValueInvalid", "spec.color")]);
        }),
        behaviour("rules: a transition rule says nothing at creation", async |t| {
            t.post(&t.widgets(), &of_spec("a", json!({ "size": 1, "color": "blue" })))
                .await
                .ok(201);
        }),
        behaviour("rules: without a message the rule is told", async |t| {
            let properties = ruled(&json!({ "type": "integer" }), &json!([{ "rule": "self > 5" }]));
            let things = t.install_things(&properties).await;
            t.post(&things, &t.thing("a", json!({ "x": 1 })))
                .await
                .refused(422, "Invalid")
                .says("failed rule: self > 5");
        }),
        behaviour("rules: optionalOldSelf", async |t| {
            let rule = json!([{ "rule": "!oldSelf.hasValue() || self >= oldSelf.value()", "optionalOldSelf": true, "message": "only up" }]);
            let things = t.install_things(&ruled(&json!({ "type": "integer" }), &rule)).await;
            t.post(&things, &t.thing("a", json!({ "x": 5 }))).await.ok(201);
            t.merge(&format!("{things}/a"), &json!({ "spec": { "x": 6 } })).await.ok(200);
            t.merge(&format!("{things}/a"), &json!({ "spec": { "x": 4 } }))
                .await
                .refused(422, "Invalid")
                .says("only up");
        }),
        behaviour("rules: what was invalid before may stay as it is", async |t| {
            let mut definition = definition(
                &t.group(),
                "things",
                "Thing",
                "Namespaced",
                &ruled(&json!({ "type": "string" }), &json!([{ "rule": "self != ''" }])),
            );
            let things = t.install_definition(&definition).await;
            t.post(&things, &t.thing("a", json!({ "x": "old", "y": "1" }))).await.ok(201);
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"]["x-kubernetes-validations"]
                [0]["rule"] = json!("self != 'old'");
            let path = format!("{DEFINITIONS}/things.{}", t.group());
            t.merge(&path, &json!({ "spec": definition["spec"] })).await.ok(200);
            crate::api::eventually("the new rule is in force", async || {
                t.post(&format!("{things}?dryRun=All"), &t.thing("b", json!({ "x": "old" })))
                    .await
                    .code
                    == 422
            })
            .await;
            t.merge(&format!("{things}/a"), &json!({ "spec": { "y": "2" } })).await.ok(200);
        }),
        behaviour("rules: on the whole object see metadata", async |t| {
            let mut definition = definition(
                &t.group(),
                "things",
                "Thing",
                "Namespaced",
                &json!({ "spec": { "type": "object" } }),
            );
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] =
                json!([{ "rule": "self.metadata.name.startsWith('x')", "message": "begin with x" }]);
            let things = t.install_definition(&definition).await;
            t.post(&things, &t.thing("xa", json!({}))).await.ok(201);
            t.post(&things, &t.thing("a", json!({})))
                .await
                .refused(422, "Invalid")
                .says("begin with x");
        }),
        behaviour("rules: every rule that fails is told", async |t| {
            let rules = json!([{ "rule": "self > 5", "message": "over five" }, { "rule": "self % 2 == 0", "message": "even" }]);
            let things = t.install_things(&ruled(&json!({ "type": "integer" }), &rules)).await;
            t.post(&things, &t.thing("a", json!({ "x": 1 })))
                .await
                .refused(422, "Invalid")
                .says("over five")
                .says("even");
        }),
        behaviour("rules: are not asked about an absent field", async |t| {
            let things = t
                .install_things(&ruled(&json!({ "type": "integer" }), &json!([{ "rule": "self > 5" }])))
                .await;
            t.post(&things, &t.thing("a", json!({}))).await.ok(201);
        }),
    ]
}

/// Rules that a definition may not have.
fn refused_rules() -> Vec<Behaviour> {
    const ROWS: &[(&str, &str, &str)] = &[
        (
            "that does not parse",
            "self >",
            "compilation failed: ERROR: <input>:1:7: Syntax error: mismatched input '<EOF>' expecting {",
        ),
        ("of another type", "self + 1", "}: cel expression must evaluate to a bool"),
        (
            "with an unknown field",
            "self.nothing == 1",
            "compilation failed: ERROR: <input>:1:5: type 'int' does not support field selection\n | self.nothing == 1\n | ....^",
        ),
        (
            "with an unknown function",
            "bend(self)",
            "compilation failed: ERROR: <input>:1:5: undeclared reference to 'bend' (in container '')\n | bend(self)\n | ....^",
        ),
        (
            "that compares unlike types",
            "self == 'x'",
            "compilation failed: ERROR: <input>:1:6: found no matching overload for '_==_' applied to '(int, string)'\n | self == 'x'\n | .....^",
        ),
    ];
    ROWS.iter()
        .map(|(what, rule, says)| {
            behaviour(format!("rules: one {what} is refused"), async move |t| {
                let properties = ruled(&json!({ "type": "integer" }), &json!([{ "rule": rule }]));
                let sent = definition(&t.group(), "things", "Thing", "Namespaced", &properties);
                let refused = t.post(DEFINITIONS, &sent).await.refused(422, "Invalid");
                refused.says(says);
                let field = "spec.validation.openAPIV3Schema.properties[spec].properties[x].x-kubernetes-validations[0].rule";
                refused.causes(&[("FieldValueInvalid", field)]);
            })
        })
        .collect()
}
