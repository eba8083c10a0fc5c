//! What `up` puts into the embedded API before anything else runs: definitions, namespaces, service accounts and their rights.
//!
//! The files in `deploy/rbac` are the ones that a cluster gets, so that operator and netboot have the same rights in both places. Applied at every start:
//! what an earlier version left is brought into the state that this one needs.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    runtime::{conditions, wait::await_condition},
};

/// The operator's service account in its namespace.
pub const OPERATOR: &str = "kube-baremetal-operator";
/// Netboot's service account in its namespace.
pub const NETBOOT: &str = "kube-baremetal-netboot";

/// In this order: a namespace before what lies in it.
const RIGHTS: [&str; 5] = [
    include_str!("../../../deploy/rbac/namespaces.yaml"),
    include_str!("../../../deploy/rbac/operator.yaml"),
    include_str!("../../../deploy/rbac/netboot.yaml"),
    include_str!("../../../deploy/rbac/dhcp.yaml"),
    include_str!("../../../deploy/rbac/tenants.yaml"),
];

/// Installs everything and waits until the definitions are served.
pub async fn everything(client: &Client) -> Result<()> {
    let how = PatchParams::apply("kube-baremetal").force();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in api::crds::all() {
        let name = crd.name_any();
        definitions
            .patch(&name, &how, &Patch::Apply(&crd))
            .await
            .with_context(|| format!("installing {name}"))?;
    }
    for object in rights()? {
        let kind = object.types.as_ref().context("an object of deploy/rbac has no kind")?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(kind).context("reading deploy/rbac")?);
        let name = object.name_any();
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        api.patch(&name, &how, &Patch::Apply(&object))
            .await
            .with_context(|| format!("installing {} {name}", kind.kind))?;
    }
    for crd in api::crds::all() {
        let name = crd.name_any();
        let ready = await_condition(definitions.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(Duration::from_secs(30), ready)
            .await
            .with_context(|| format!("{name} was not established within 30 s"))?
            .with_context(|| format!("waiting for {name}"))?;
    }
    Ok(())
}

fn rights() -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for text in RIGHTS {
        let documents: Vec<DynamicObject> = serde_saphyr::from_multiple(text).context("reading deploy/rbac")?;
        objects.extend(documents);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::{NETBOOT_NAMESPACE, OPERATOR_NAMESPACE};

    #[test]
    fn the_rights_name_the_accounts_and_namespaces_that_are_used() {
        let objects = rights().expect("they can be read");
        let has = |kind: &str, namespace: Option<&str>, name: &str| {
            objects.iter().any(|object| {
                object.types.as_ref().is_some_and(|types| types.kind == kind)
                    && object.name_any() == name
                    && object.namespace().as_deref() == namespace
            })
        };
        for (namespace, name) in [(OPERATOR_NAMESPACE, OPERATOR), (NETBOOT_NAMESPACE, NETBOOT)] {
            assert!(has("Namespace", None, namespace), "{namespace}");
            assert!(has("ServiceAccount", Some(namespace), name), "{namespace}/{name}");
        }
    }
}
