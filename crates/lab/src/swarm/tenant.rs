//! The people of the swarm: an admin who writes a policy, a network and an image, and a tenant who asks for instances and gives them back.

use std::collections::BTreeMap;

use agent_protocol::order::ImageFormat;
use anyhow::{Context, Result};
use api::{
    BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec, BareMetalImage, BareMetalImageSpec, BareMetalInstance, BareMetalInstanceSpec,
    BareMetalNetwork, BareMetalNetworkSpec, DhcpMode,
    common::{LocalSecretKey, NetworkRef},
    network::{AddressPlan, AddressRange},
};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, PostParams},
};

/// Namespace of the instances.
const NAMESPACE: &str = "swarm";
/// The tenant's Secret.
const USER_DATA: &str = "user-data";
/// Requests of the tenant at a time.
const AT_ONCE: usize = 16;

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// Everything that has to be there once. `addresses`: the machines' NICs are in a network that gives them out.
///
/// # Errors
/// When the API refuses.
pub async fn prepare(client: &Client, addresses: bool) -> Result<()> {
    let how = PostParams::default();
    let namespace = Namespace {
        metadata: named(NAMESPACE),
        ..Namespace::default()
    };
    Api::all(client.clone())
        .create(&how, &namespace)
        .await
        .context("creating the namespace")?;
    let secret = Secret {
        metadata: named(USER_DATA),
        string_data: Some(BTreeMap::from([("user-data".to_owned(), "#cloud-config\n{}\n".to_owned())])),
        ..Secret::default()
    };
    Api::namespaced(client.clone(), NAMESPACE)
        .create(&how, &secret)
        .await
        .context("creating the Secret with user data")?;
    let network = BareMetalNetwork {
        metadata: named("swarm"),
        spec: BareMetalNetworkSpec {
            ipv4: Some(AddressPlan {
                prefix: "10.64.0.0/14".to_owned(),
                ranges: vec![AddressRange {
                    first: "10.64.1.0".to_owned(),
                    last: "10.67.255.0".to_owned(),
                }],
                gateway: Some("10.64.0.1".to_owned()),
                dns: vec!["10.64.0.2".to_owned()],
                ..AddressPlan::default()
            }),
            // Machines of the loopback have their addresses already, and definitions from before know no other mode.
            dhcp: DhcpMode::Off,
            ..BareMetalNetworkSpec::default()
        },
        status: None,
    };
    Api::all(client.clone())
        .create(&how, &network)
        .await
        .context("creating the network")?;
    let image = BareMetalImage {
        metadata: named("simulated"),
        spec: BareMetalImageSpec {
            url: "https://images.example/simulated.raw.zst".to_owned(),
            digest: format!("sha256:{}", "5".repeat(64)),
            format: ImageFormat::Zstd,
            // Nobody serves it: no store could prepare it.
            delivery: Some(api::ImageDelivery::Streamed),
            ..BareMetalImageSpec::default()
        },
        status: None,
    };
    Api::all(client.clone()).create(&how, &image).await.context("creating the image")?;
    let policy = BareMetalDiscoveryPolicy {
        metadata: named("swarm"),
        spec: BareMetalDiscoveryPolicySpec {
            when: "inventory.memory.bytes >= 1024 * 1024 * 1024".to_owned(),
            labels: BTreeMap::from([("swarm".to_owned(), "true".to_owned())]),
            network_ref: addresses.then(|| NetworkRef::network("swarm")),
            erase_foreign_data: true,
            ..BareMetalDiscoveryPolicySpec::default()
        },
    };
    Api::all(client.clone())
        .create(&how, &policy)
        .await
        .context("creating the policy")?;
    Ok(())
}

fn instances(client: &Client) -> Api<BareMetalInstance> {
    Api::namespaced(client.clone(), NAMESPACE)
}

fn name(index: usize) -> String {
    format!("i-{index:05}")
}

fn instance(index: usize) -> BareMetalInstance {
    let requests = [("cpu", "4"), ("memory", "8Gi"), ("disk", "20Gi")];
    BareMetalInstance {
        metadata: named(&name(index)),
        spec: BareMetalInstanceSpec {
            image: "simulated".to_owned(),
            requests: requests.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect(),
            ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA swarm".to_owned()],
            // One of them is enough to see that it is read.
            user_data: (index == 0).then(|| LocalSecretKey {
                name: USER_DATA.to_owned(),
                key: "user-data".to_owned(),
            }),
            running: true,
            guest_helper: true,
            config_drive: true,
            ..BareMetalInstanceSpec::default()
        },
        status: None,
    }
}

/// Asks for `count` instances.
///
/// # Errors
/// When the API refuses one; one that is there already is fine.
pub async fn create(client: &Client, count: usize) -> Result<()> {
    let (api, how) = (instances(client), PostParams::default());
    let (api, how) = (&api, &how);
    stream::iter(0..count)
        .map(|index| async move {
            match api.create(how, &instance(index)).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(error).with_context(|| format!("creating instance {}", name(index))),
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// Gives them back.
///
/// # Errors
/// When the API refuses one; one that is gone is fine.
pub async fn delete(client: &Client, count: usize) -> Result<()> {
    let api = instances(client);
    let api = &api;
    stream::iter(0..count)
        .map(|index| async move {
            match api.delete(&name(index), &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error).with_context(|| format!("deleting instance {}", name(index))),
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}
