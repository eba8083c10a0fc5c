//! A worked example of both extension points: networks of a kind that Kube BareMetal does not know, and a gate.
//!
//! The fabric here is imagined: its networks are [`Vlan`]s, and "configuring a switch port" is an entry in the Vlan's status. A real controller would talk to switches at
//! that place and change nothing else.
//!
//! * A machine's NIC, or an instance's `spec.networks`, names a Vlan in its `networkRef`. The operator then creates a BareMetalEndpoint and waits; this controller **answers
//!   it**: addresses, VLAN id and the condition `Ready` in the endpoint's status.
//! * The BareMetalHardware (by its BareMetalDiscoveryPolicy) names the **gate** [`GATE`] before `Provision`. The operator orders no image until this controller has set the
//!   condition of that type on the BareMetalInstance to True.
//!
//! What is worth copying: it writes only the fields that are its own, by server-side apply; what must not be given twice is taken by compare and swap on one object; it is level
//! based, so that it may be killed at any point; and a condition goes to the very instance it was meant for, by uid.

use std::{collections::HashSet, future::Future, net::Ipv4Addr, sync::Arc, time::Duration};

use api::{BareMetalEndpoint, BareMetalInstance, conditions, endpoint::EndpointAddress};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client, CustomResource, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{
        Controller,
        controller::Action,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// API group of the fabric's own kinds.
pub const GROUP: &str = "fabric.example.com";
/// The gate that this controller opens: its switch ports are configured.
pub const GATE: &str = "fabric.example.com/switch-port";
/// Owner of the fields that this controller applies.
const MANAGER: &str = "fabric.example.com";

/// A network of the fabric.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "fabric.example.com", version = "v1", kind = "Vlan", status = "VlanStatus")]
#[serde(rename_all = "camelCase")]
pub struct VlanSpec {
    /// VLAN id of tagged frames.
    #[schemars(range(min = 1, max = 4094))]
    pub id: u16,
    /// First address to give out.
    pub first: Ipv4Addr,
    /// Last address to give out.
    pub last: Ipv4Addr,
    /// Length of the network's prefix.
    #[schemars(range(max = 32))]
    pub prefix_length: u8,
    /// Default gateway.
    pub gateway: Ipv4Addr,
}

/// What the fabric was told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VlanStatus {
    /// The configured ports.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// One port, as a switch would be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// UID of the BareMetalEndpoint that it serves.
    pub endpoint: String,
    /// The machine's NIC behind it.
    pub mac: String,
    /// The address given to it.
    pub address: Ipv4Addr,
}

/// What went wrong; tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused, or could not be reached. A refused compare and swap is one of these, and only means to look again.
    #[error("asking the API server")]
    Api(#[from] kube::Error),
}

struct Context {
    client: Client,
    endpoints: Store<BareMetalEndpoint>,
}

/// Runs until `stop`.
pub async fn run(client: Client, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let everything = watcher::Config::default();
    let controller = Controller::new(Api::<BareMetalEndpoint>::all(client.clone()), everything.clone());
    let endpoints = controller.store();
    let asking = endpoints.clone();
    let context = Arc::new(Context {
        client: client.clone(),
        endpoints,
    });
    controller
        // A Vlan that is made or changed: whoever asks for it is looked at again.
        .watches(Api::<Vlan>::all(client), everything, move |vlan| {
            let all = asking.state().into_iter();
            let asking = all.filter(move |e| is_ours(e) && e.spec.network_ref.name == vlan.name_any());
            asking.map(|e| ObjectRef::from_obj(e.as_ref())).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(stop)
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), context)
        .for_each(|outcome| async move {
            match outcome {
                Ok((endpoint, _)) => tracing::debug!(%endpoint, "looked at"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "will be tried again"),
            }
        })
        .await;
}

fn is_ours(endpoint: &BareMetalEndpoint) -> bool {
    let network = &endpoint.spec.network_ref;
    network.group == GROUP && network.kind == "Vlan"
}

fn is_ready(endpoint: &BareMetalEndpoint) -> bool {
    let status = endpoint.status.as_ref();
    status.is_some_and(|s| conditions::is_true(&s.conditions, conditions::READY))
}

fn condition(kind: &str, open: bool, reason: &str, message: String) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: if open { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Time(jiff::Timestamp::now()),
        observed_generation: None,
    }
}

async fn reconcile(endpoint: Arc<BareMetalEndpoint>, context: Arc<Context>) -> Result<Action, Error> {
    if !is_ours(&endpoint) || endpoint.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if !is_ready(&endpoint) {
        let name = &endpoint.spec.network_ref.name;
        let Some(vlan) = Api::<Vlan>::all(context.client.clone()).get_opt(name).await? else {
            // Its creation wakes us.
            let message = format!("There is no Vlan {name} in the fabric: create it");
            answer(&context, &endpoint, json!({}), "VlanNotFound", message, false).await?;
            return Ok(Action::await_change());
        };
        let spec = vlan.spec.clone();
        match connect(&context, vlan, &endpoint).await? {
            Some(port) => {
                let address = EndpointAddress {
                    address: port.address.to_string(),
                    prefix_length: spec.prefix_length,
                    gateway: Some(spec.gateway.to_string()),
                    dns: Vec::new(),
                };
                let message = format!("The port of {} is in VLAN {} and has {}", port.mac, spec.id, port.address);
                let given = json!({ "addresses": [address], "vlan": spec.id });
                answer(&context, &endpoint, given, "PortConfigured", message, true).await?;
            }
            None => {
                let message = format!("Vlan {name} has no free address: widen spec.first to spec.last");
                answer(&context, &endpoint, json!({}), "NoFreeAddress", message, false).await?;
                return Ok(Action::requeue(Duration::from_secs(30)));
            }
        }
    }
    open_gate(&context, &endpoint).await
}

/// Takes a port and an address for the endpoint; nothing when there is none. The Vlan is replaced only as it was read, so that no address is ever given twice.
async fn connect(context: &Context, mut vlan: Vlan, endpoint: &BareMetalEndpoint) -> Result<Option<Port>, Error> {
    let uid = endpoint.uid().unwrap_or_default();
    let mut ports = vlan.status.take().unwrap_or_default().ports;
    if let Some(known) = ports.iter().find(|p| p.endpoint == uid) {
        return Ok(Some(known.clone()));
    }
    // An endpoint lives until its machine was erased: what it had is free when it is gone.
    let asking: HashSet<String> = context.endpoints.state().iter().filter_map(|e| e.uid()).collect();
    ports.retain(|p| asking.contains(&p.endpoint));
    let taken: HashSet<Ipv4Addr> = ports.iter().map(|p| p.address).collect();
    let all = (u32::from(vlan.spec.first)..=u32::from(vlan.spec.last)).map(Ipv4Addr::from);
    let wished = |a: &Ipv4Addr| endpoint.spec.addresses.is_empty() || endpoint.spec.addresses.contains(&a.to_string());
    let Some(address) = all.filter(wished).find(|a| !taken.contains(a)) else {
        return Ok(None);
    };
    let port = Port {
        endpoint: uid,
        mac: endpoint.spec.mac.to_string(),
        address,
    };
    ports.push(port.clone());
    vlan.status = Some(VlanStatus { ports });
    let vlans: Api<Vlan> = Api::all(context.client.clone());
    vlans.replace_status(&vlan.name_any(), &PostParams::default(), &vlan).await?;
    Ok(Some(port))
}

/// Writes the endpoint's status, where it says something else.
async fn answer(
    context: &Context,
    endpoint: &BareMetalEndpoint,
    mut status: serde_json::Value,
    reason: &str,
    message: String,
    ready: bool,
) -> Result<(), Error> {
    let said = endpoint
        .status
        .iter()
        .flat_map(|s| &s.conditions)
        .find(|c| c.type_ == conditions::READY);
    if said.is_some_and(|c| c.reason == reason && c.message == message) {
        return Ok(());
    }
    status["conditions"] = json!([condition(conditions::READY, ready, reason, message)]);
    apply_status(context, endpoint, status).await
}

/// Opens the instance's gate when every port that it has in the fabric is configured.
async fn open_gate(context: &Context, endpoint: &BareMetalEndpoint) -> Result<Action, Error> {
    let of_instance = |e: &Arc<BareMetalEndpoint>| {
        is_ours(e) && e.namespace() == endpoint.namespace() && e.spec.instance_name == endpoint.spec.instance_name
    };
    let all = context.endpoints.state();
    // One that was answered just now is not Ready in the store yet; its own event brings us here again.
    if !all.iter().filter(|e| of_instance(e)).all(|e| is_ready(e)) {
        return Ok(Action::await_change());
    }
    let namespace = endpoint.namespace().unwrap_or_default();
    let instances: Api<BareMetalInstance> = Api::namespaced(context.client.clone(), &namespace);
    let Some(instance) = instances.get_opt(&endpoint.spec.instance_name).await? else {
        return Ok(Action::await_change());
    };
    let owner = endpoint
        .owner_references()
        .iter()
        .any(|o| Some(&o.uid) == instance.meta().uid.as_ref());
    let open = instance.status.iter().any(|s| conditions::is_true(&s.conditions, GATE));
    if owner && !open {
        let message = "Every port of the instance is configured".to_owned();
        let status = json!({ "conditions": [condition(GATE, true, "PortConfigured", message)] });
        apply_status(context, &instance, status).await?;
    }
    Ok(Action::await_change())
}

/// Applies our part of an object's status. Its uid goes along: a successor of the same name is not meant.
async fn apply_status<K>(context: &Context, object: &K, status: serde_json::Value) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "uid": object.uid() },
        "status": status,
    });
    let objects: Api<K> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let how = PatchParams::apply(MANAGER).force();
    objects.patch_status(&object.name_any(), &how, &Patch::Apply(&patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::CustomResourceExt;

    use super::Vlan;

    #[test]
    fn the_manifest_holds_the_definition() {
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(include_str!("../manifest.yaml")).expect("YAML");
        let written = documents
            .into_iter()
            .find(|d| d["kind"] == "CustomResourceDefinition")
            .expect("a definition");
        let written: CustomResourceDefinition = serde_json::from_value(written).expect("a definition");
        let made = Vlan::crd();
        assert_eq!(
            written,
            made,
            "write this into manifest.yaml:\n{}",
            serde_saphyr::to_string(&made).expect("YAML")
        );
    }
}
