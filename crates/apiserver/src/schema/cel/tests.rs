use crate::schema::Structural;
use serde_json::{Value, json};

/// A schema with one rule on `spec`.
fn with_rule(rule: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "x-kubernetes-validations": [rule],
        "properties": {
            "n": {"type": "integer"}, "m": {"type": "integer"}, "f": {"type": "number"}, "s": {"type": "string"}, "t": {"type": "string"},
            "b": {"type": "boolean"}, "any": {"x-kubernetes-int-or-string": true}, "when": {"type": "string", "format": "date-time"},
            "for": {"type": "string"}, "a-b.c": {"type": "string"}, "wait": {"type": "string", "format": "duration"},
            "list": {"type": "array", "items": {"type": "integer"}},
            "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "disks": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "child": {"type": "object", "properties": {"x": {"type": "integer"}}}
        }
    }}})
}

fn parse(source: &str) -> Structural {
    Structural::parse(&with_rule(json!({"rule": source}))).unwrap_or_else(|e| panic!("{source}: {}", e[0]))
}

fn holds(source: &str, spec: &Value) -> bool {
    let errors = parse(source).validate(&json!({"spec": spec}), None);
    assert!(errors.iter().all(|e| e.message.contains("failed rule")), "{source}: {errors:?}");
    errors.is_empty()
}

#[test]
fn rules_see_the_object() {
    let spec = json!({
        "n": 3, "m": 4, "f": 1.5, "s": "hello-world", "t": "10Gi", "b": true, "any": "80%", "when": "2026-11-22T10:00:00Z", "for": "x", "a-b.c": "y",
        "wait": "90s", "list": [1, 2, 3], "names": ["a", "b"], "disks": [{"name": "x", "size": 1}, {"name": "y"}], "labels": {"k": "v"}, "child": {}
    });
    for source in [
        "self.n + 1 == self.m",
        "self.f < 2.0 && self.n < 3.5",
        "self.b ? self.n > 0 : self.n < 0",
        "has(self.child) && !has(self.child.x)",
        "self.?child.?x.orValue(7) == 7",
        "self.?child.x.hasValue() == false",
        "self.list.all(i, i > 0)",
        "self.list.exists(i, i == 2) && self.list.exists_one(i, i == 3)",
        "self.list.map(i, i * 2) == [2, 4, 6]",
        "self.list.filter(i, i > 1).size() == 2",
        "self.list.map(i, i > 1, i * 10).sum() == 50",
        "self.list.isSorted() && self.list.min() == 1 && self.list.max() == 3 && self.list.indexOf(3) == 2",
        "self.names == ['b', 'a']",
        "self.names.join('+') == 'a+b'",
        "2 in self.list && 'k' in self.labels && self.labels['k'] == 'v'",
        "self.labels.all(k, self.labels[k].startsWith('v'))",
        "self.disks.exists(d, d.name == 'x' && d.size == 1)",
        "self.disks.all(d, !has(d.size) || d.size < 5)",
        "self.s.matches('^[a-z]+-[a-z]+$') && !self.s.matches('^hello$')",
        "self.s.find('[a-z]+') == 'hello' && self.s.findAll('[a-z]+') == ['hello', 'world']",
        "self.s.split('-')[1].upperAscii() == 'WORLD' && self.s.replace('l', 'L', 1) == 'heLlo-world'",
        "self.s.substring(6) == 'world' && self.s.substring(0, 5) == 'hello' && self.s.indexOf('o') == 4 && self.s.lastIndexOf('o') == 7",
        "'%s has %d of %.1f'.format([self.s, self.n, self.f]) == 'hello-world has 3 of 1.5'",
        "isQuantity(self.t) && quantity(self.t).isGreaterThan(quantity('9G')) && quantity('1k').add(1).asInteger() == 1001",
        "type(self.any) == string && (type(self.any) == int ? self.any > 0 : self.any.endsWith('%'))",
        "self.when > timestamp('2026-01-01T00:00:00Z') && self.when.getFullYear() == 2026 && self.when.getHours() == 10",
        "self.wait == duration('1m30s') && self.wait.getSeconds() == 90 && self.wait < duration('2m')",
        "self.__for__ == 'x' && self.a__dash__b__dot__c == 'y'",
        "isIP('10.0.0.1') && ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP('11.0.0.1')",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "isURL('https://a.example:8443/p?q=1') && url('https://a.example:8443/p?q=1').getHostname() == 'a.example' && url('https://a.example:8443/p?q=1').getPort() == '8443'",
        "sets.contains([1, 2, 3], self.list) && sets.equivalent(['b', 'a'], ['a', 'b'])",
        "self.list[?9].orValue(5) == 5 && self.list[0] == 1",
        "optional.of(3).optMap(x, x + 1).value() == 4",
        "format.named('dns1123Label').hasValue() && format.dns1123Label().validate('Bad').hasValue() && !format.dns1123Label().validate('good').hasValue()",
        "self.n / 2 == 1 && self.n % 2 == 1 && -self.n == -3 && string(self.n) == '3' && int('4') == self.m && double(self.n) == 3.0",
        "true || self.list[100] == 1",
        "self.list[100] == 1 || true",
        "semver('1.2.3').isLessThan(semver('1.10.0'))",
    ] {
        assert!(holds(source, &spec), "{source}");
    }
    for source in [
        "self.n > self.m",
        "self.list.all(i, i > 1)",
        "has(self.child.x)",
        "self.names == ['a']",
        "self.s == 'x'",
    ] {
        assert!(!holds(source, &spec), "{source}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_the_definition() {
    for (source, want) in [
        ("self.nope > 1", "undefined field 'nope'"),
        ("self.n > 'x'", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("self.n", "cel expression must evaluate to a bool"),
        ("self.n ==", "Syntax error"),
        ("nope(self.n)", "undeclared reference to 'nope'"),
        ("other.n == 1", "undeclared reference to 'other'"),
        (
            "self.s.startsWith(1)",
            "found no matching overload for 'startsWith' applied to 'string.(int)'",
        ),
        ("self.s.matches('(')", "<input>:1:16: invalid matches argument"),
        ("self.for == 'x'", "undefined field 'for'"),
        ("self.disks.all(d, d.nope == 1)", "undefined field 'nope'"),
        ("self.n.x == 1", "does not support field selection"),
    ] {
        let errors = Structural::parse(&with_rule(json!({"rule": source})))
            .err()
            .unwrap_or_else(|| panic!("{source} compiled"));
        assert!(errors[0].message.contains(want), "{source}: {}", errors[0]);
        assert!(
            errors[0].field.starts_with("properties[spec].x-kubernetes-validations[0].rule"),
            "{}",
            errors[0].field
        );
    }
    for (rule, want) in [
        (json!({"rule": ""}), "rule is not specified"),
        (json!({"rule": "true", "reason": "Because"}), "supported values"),
        (json!({"rule": "true", "fieldPath": ".zzz"}), "must be a valid path"),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "may not be set if oldSelf is not used in rule",
        ),
        (
            json!({"rule": "true", "messageExpression": "1"}),
            "messageExpression must evaluate to a string",
        ),
    ] {
        let errors = Structural::parse(&with_rule(rule.clone()))
            .err()
            .unwrap_or_else(|| panic!("{rule} compiled"));
        assert!(errors[0].message.contains(want), "{rule}: {}", errors[0]);
    }
}

#[test]
fn failures_carry_message_reason_and_path() {
    let run = |rule: Value, spec: Value| -> Vec<String> {
        let schema = Structural::parse(&with_rule(rule)).unwrap_or_else(|e| panic!("{}", e[0]));
        schema
            .validate(&json!({"spec": spec}), None)
            .iter()
            .map(|e| format!("{} {e}", e.reason.as_str()))
            .collect()
    };
    assert_eq!(
        run(json!({"rule": "self.n > 1"}), json!({"n": 1})),
        ["FieldValueInvalid spec: Invalid value: failed rule: self.n > 1"]
    );
    assert_eq!(
        run(
            json!({"rule": "self.n > 1", "message": "too small", "reason": "FieldValueForbidden", "fieldPath": ".n"}),
            json!({"n": 1})
        ),
        ["FieldValueForbidden spec.n: Forbidden: too small"]
    );
    assert_eq!(
        run(
            json!({"rule": "self.n > 1", "messageExpression": "'n is ' + string(self.n)"}),
            json!({"n": 1})
        ),
        ["FieldValueInvalid spec: Invalid value: n is 1"]
    );
    assert_eq!(
        run(json!({"rule": "self.n > 1"}), json!({})),
        ["FieldValueInvalid spec: Invalid value: \"object\": no such key: n evaluating rule: self.n > 1"]
    );
}

#[test]
fn transition_rules_compare_with_the_old_value() {
    let schema = parse("self.n == oldSelf.n");
    let at = |n: i64| json!({"spec": {"n": n}});
    assert!(schema.validate(&at(1), None).is_empty());
    assert!(schema.validate(&at(1), Some(&at(1))).is_empty());
    assert_eq!(schema.validate(&at(2), Some(&at(1))).len(), 1);
    let optional = Structural::parse(&with_rule(
        json!({"rule": "oldSelf.hasValue() || self.n == 0", "optionalOldSelf": true}),
    ))
    .unwrap();
    assert_eq!(optional.validate(&at(1), None).len(), 1);
    assert!(optional.validate(&at(1), Some(&at(1))).is_empty());
    // A rule that an unchanged value fails does not stop other changes.
    let strict = parse("self.n > 10");
    assert!(strict.validate(&json!({"spec": {"n": 1}, "x": 1}), Some(&at(1))).is_empty());
    assert_eq!(strict.validate(&at(2), Some(&at(1))).len(), 1);
}

#[test]
fn entries_of_keyed_lists_are_matched_by_their_keys() {
    let mut document = with_rule(json!({"rule": "true"}));
    document["properties"]["spec"]["properties"]["disks"]["items"]["x-kubernetes-validations"] =
        json!([{"rule": "self.size >= oldSelf.size", "message": "shrinks"}]);
    let schema = Structural::parse(&document).unwrap();
    let disks = |list: Value| json!({"spec": {"disks": list}});
    let old = disks(json!([{"name": "a", "size": 5}, {"name": "b", "size": 1}]));
    assert!(
        schema
            .validate(
                &disks(json!([{"name": "b", "size": 2}, {"name": "a", "size": 5}, {"name": "c", "size": 0}])),
                Some(&old)
            )
            .is_empty()
    );
    let errors = schema.validate(&disks(json!([{"name": "a", "size": 4}])), Some(&old));
    assert_eq!(errors[0].to_string(), "spec.disks[0]: Invalid value: shrinks");
    // Entries of a plain list cannot be matched.
    document["properties"]["spec"]["properties"]["list"]["items"]["x-kubernetes-validations"] = json!([{"rule": "self == oldSelf"}]);
    assert!(
        Structural::parse(&document).err().unwrap()[0]
            .message
            .contains("oldSelf cannot be used on the uncorrelatable portion")
    );
}

#[test]
fn no_rule_hangs_the_server() {
    let ten = "[0,1,2,3,4,5,6,7,8,9]";
    let mut source = "true".to_string();
    for i in 0..9 {
        source = format!("{ten}.all(i{i}, {source})");
    }
    let schema = parse(&source);
    let start = std::time::Instant::now();
    let errors = schema.validate(&json!({"spec": {}}), None);
    assert!(errors[0].message.contains("cost exceeds limit"), "{errors:?}");
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    let growing = parse("self.list.map(i, self.list.map(j, self.list.map(k, self.s + self.s + self.s))).size() >= 0");
    let spec = json!({"list": vec![1; 300], "s": "x".repeat(1000)});
    assert!(
        growing.validate(&json!({"spec": spec}), None)[0]
            .message
            .contains("cost exceeds limit")
    );
}
