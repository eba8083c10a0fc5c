use super::*;
use serde_json::json;

fn texts(errors: &[crate::schema::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn every_kind_has_a_schema_that_keeps_its_metadata() {
    for kind in all() {
        let mut obj = json!({"apiVersion": "x", "kind": kind.kind, "metadata": {"name": "a"}, "nonsense": 1});
        let dropped = kind.structural.prune(&mut obj, crate::schema::PruneOptions::default());
        assert_eq!(dropped, ["nonsense"], "{}", kind.kind);
    }
    assert!(structural("", "v1", "Pod").is_none());
    assert_eq!(
        merge_keys("", "v1", "ServiceAccount")
            .and_then(|i| i.fields["secrets"].merge_key.clone())
            .as_deref(),
        Some("name")
    );
    assert!(merge_keys("", "v1", "Secret").is_some_and(|i| i.fields["metadata"].fields["finalizers"].merge_values));
}

#[test]
fn a_secret_is_typed_encoded_and_immutable_when_it_says_so() {
    let mut secret = json!({"metadata": {"name": "a", "namespace": "b"}, "stringData": {"k": "v"}});
    canonicalize("", "Secret", &mut secret);
    default("", "Secret", &mut secret);
    assert_eq!(secret["data"], json!({"k": "dg=="}));
    assert_eq!(secret["type"], "Opaque");
    assert!(secret.get("stringData").is_none());
    assert!(validate("", "Secret", &secret, None, "").is_empty());
    let mut old = secret.clone();
    old["immutable"] = json!(true);
    old["metadata"]["resourceVersion"] = json!("1");
    let mut new = old.clone();
    new["data"]["k"] = json!("eA==");
    new["type"] = json!("other");
    assert_eq!(
        texts(&validate("", "Secret", &new, Some(&old), "")),
        [
            "type: Invalid value: \"other\": field is immutable",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    let tls = json!({"metadata": {"name": "a", "namespace": "b"}, "type": "kubernetes.io/tls"});
    assert_eq!(
        texts(&validate("", "Secret", &tls, None, "")),
        ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
    );
}

fn definition() -> serde_json::Value {
    json!({
        "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]
        }
    })
}

#[test]
fn a_definition_is_defaulted_and_checked() {
    let kind = "CustomResourceDefinition";
    let mut crd = definition();
    default("apiextensions.k8s.io", kind, &mut crd);
    prepare_create("apiextensions.k8s.io", kind, &mut crd);
    assert_eq!(crd["spec"]["names"]["listKind"], "FooList");
    assert_eq!(crd["status"], json!({"storedVersions": ["v1"]}));
    assert_eq!(texts(&validate("apiextensions.k8s.io", kind, &crd, None, "")), Vec::<String>::new());
    crd["metadata"]["name"] = json!("bars.example.com");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "properties": {"spec": {"properties": {"x": {"type": "array"}}}}});
    assert_eq!(
        texts(&validate("apiextensions.k8s.io", kind, &crd, None, "")),
        [
            "metadata.name: Invalid value: \"bars.example.com\": must be spec.names.plural+\".\"+spec.group",
            "spec.validation.openAPIV3Schema.properties[spec].properties[x].items: Required value: must be specified",
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ]
    );
}
