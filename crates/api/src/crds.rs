//! The CustomResourceDefinitions, made from the types and adjusted where the generator cannot say what is meant.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::{
    BareMetalAddress, BareMetalDiscovery, BareMetalDiscoveryPolicy, BareMetalEndpoint, BareMetalHardware, BareMetalHardwareClass,
    BareMetalImage, BareMetalInstance, BareMetalNetwork,
};

/// Every CRD, in the order in which they are best installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        BareMetalDiscovery::crd(),
        BareMetalDiscoveryPolicy::crd(),
        BareMetalHardware::crd(),
        BareMetalHardwareClass::crd(),
        BareMetalImage::crd(),
        BareMetalNetwork::crd(),
        BareMetalInstance::crd(),
        BareMetalEndpoint::crd(),
        BareMetalAddress::crd(),
    ];
    for crd in &mut crds {
        for version in &mut crd.spec.versions {
            // One write of netboot says everything about a machine; see `discovery`.
            if crd.spec.names.kind == "BareMetalDiscovery" {
                version.subresources = None;
            }
            if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
                adjust(schema);
                if crd.spec.names.kind == "BareMetalDiscovery" {
                    schema.required = None;
                }
            }
        }
    }
    crds
}

/// Replaces formats that Kubernetes does not know (`uint64` and its kin) by the signed ones, with the minimum kept: the values here all fit.
fn adjust(schema: &mut JSONSchemaProps) {
    match schema.format.as_deref() {
        Some("uint8" | "uint16" | "uint32") => schema.format = Some("int32".to_owned()),
        Some("uint64" | "uint") => schema.format = Some("int64".to_owned()),
        _ => {}
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        // The generator copies three pages on number formats here.
        schema.description = Some("A Kubernetes quantity such as 4, 500m or 16Gi.".to_owned());
    }
    for child in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        adjust(child);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => adjust(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(adjust),
        None => {}
    }
    if let Some(k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrBool::Schema(values)) =
        &mut schema.additional_properties
    {
        adjust(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_what_kubectl_shows() {
        let crds = all();
        assert_eq!(crds.len(), 9);
        for crd in &crds {
            let name = crd.metadata.name.as_deref().unwrap_or_default();
            assert_eq!(
                crd.spec.names.short_names.as_ref().map(Vec::len),
                Some(1),
                "{name} has one short name"
            );
            let version = &crd.spec.versions[0];
            let columns = version.additional_printer_columns.as_deref().unwrap_or_default();
            assert_eq!(columns.last().map(|c| c.name.as_str()), Some("Age"), "{name} shows its age last");
            assert!(version.schema.is_some(), "{name} has a schema");
        }
    }

    #[test]
    fn no_schema_uses_a_format_that_kubernetes_does_not_know() {
        let text = serde_json::to_string(&all()).unwrap();
        assert!(!text.contains("uint"), "unsigned formats are replaced");
        assert!(
            !text.contains("\"oneOf\"") && !text.contains("\"anyOf\""),
            "closed enums become `enum`"
        );
    }

    #[test]
    fn no_kind_can_name_a_namespace_of_a_secret() {
        let schema = schemars::schema_for!(crate::common::LocalSecretKey);
        let properties: Vec<_> = schema.get("properties").and_then(|p| p.as_object()).unwrap().keys().collect();
        assert_eq!(properties, ["key", "name"]);
        let schema = schemars::schema_for!(crate::common::LocalSecretName);
        let properties: Vec<_> = schema.get("properties").and_then(|p| p.as_object()).unwrap().keys().collect();
        assert_eq!(properties, ["name"]);
    }
}
