//! The kinds that move, and the few ways in which their objects are read and written: as JSON, so that fields of a newer version pass through unharmed.

use anyhow::{Context, Result, bail};
use api::{
    BareMetalAddress, BareMetalDiscovery, BareMetalDiscoveryPolicy, BareMetalEndpoint, BareMetalHardware, BareMetalHardwareClass,
    BareMetalImage, BareMetalInstance, BareMetalNetwork,
};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};

/// Name of the Secret with netboot's keys.
pub(crate) const KEYS: &str = "netboot-keys";

/// One kind.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub resource: ApiResource,
    /// Whether its status is written through a subresource.
    pub status: bool,
}

fn kind<K: kube::Resource<DynamicType = ()>>(status: bool) -> Kind {
    Kind {
        resource: ApiResource::erase::<K>(&()),
        status,
    }
}

/// The kinds of ours, in the order in which they are written and made: first what others lean on. Machines come before discoveries, so that no policy of the other API
/// accepts one of them anew; they come before instances, so that these find their machine paused.
pub(crate) fn ours() -> Vec<Kind> {
    vec![
        kind::<BareMetalDiscoveryPolicy>(false),
        kind::<BareMetalNetwork>(false),
        kind::<BareMetalImage>(true),
        kind::<BareMetalHardwareClass>(false),
        hardware(),
        kind::<BareMetalDiscovery>(false),
        kind::<BareMetalInstance>(true),
        kind::<BareMetalAddress>(false),
        kind::<BareMetalEndpoint>(true),
    ]
}

pub(crate) fn hardware() -> Kind {
    kind::<BareMetalHardware>(true)
}

pub(crate) fn policies() -> Kind {
    kind::<BareMetalDiscoveryPolicy>(false)
}

/// The kind of an object of an archive.
pub(crate) fn of(object: &DynamicObject) -> Result<Kind> {
    let types = object.types.as_ref().context("an object without kind")?;
    let mut known = ours();
    known.extend([kind::<Namespace>(false), kind::<Secret>(false)]);
    let found = known
        .into_iter()
        .find(|k| k.resource.kind == types.kind && k.resource.api_version == types.api_version);
    match found {
        Some(kind) => Ok(kind),
        None => bail!(
            "{} of {} is no kind that is moved: was the archive written by a newer version?",
            types.kind,
            types.api_version
        ),
    }
}

impl Kind {
    /// All of the kind.
    pub fn everywhere(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource)
    }

    /// Where the object is, or belongs.
    pub fn home(&self, client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
        match object.metadata.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => self.everywhere(client),
        }
    }

    /// All objects of the kind, page by page at one revision.
    pub async fn list(&self, client: &Client) -> Result<Vec<DynamicObject>> {
        let kind = &self.resource.kind;
        let api = self.everywhere(client);
        let (mut all, mut params) = (Vec::new(), ListParams::default().limit(500));
        loop {
            let page = match api.list(&params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => bail!(
                    "this API does not know the kind {kind}: install the product there first (`helm install`, or `kubectl apply --server-side` of the output of `kube-baremetal crds`)"
                ),
                other => other.with_context(|| format!("listing {kind}"))?,
            };
            all.extend(page.items.into_iter().map(|mut object| {
                // Objects in a list do not say what they are.
                object.types = Some(kube::core::TypeMeta {
                    api_version: self.resource.api_version.clone(),
                    kind: kind.clone(),
                });
                object
            }));
            match page.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}

/// Kind, namespace and name, as people are told.
pub(crate) fn label(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |t| t.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

/// Whether an error says that something is not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether an error says that somebody else was faster, or that the name is taken.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
