//! The people of the swarm: an admin who writes a policy, a network and an image and names the machines' BMCs, and a tenant who asks for instances and gives them back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use agent_protocol::order::ImageFormat;
use anyhow::{Context, Result, ensure};
use api::{
    BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec, BareMetalHardware, BareMetalHardwareClass, BareMetalHardwareClassSpec,
    BareMetalImage, BareMetalImageSpec, BareMetalInstance, BareMetalInstanceSpec, BareMetalNetwork, BareMetalNetworkSpec, DhcpMode,
    IdlePolicy,
    common::{LocalSecretKey, NetworkRef},
    idle::ClassIdle,
    network::{AddressPlan, AddressRange},
};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};

use super::{
    Power,
    bmcs::Bmcs,
    judge::{Judge, Kind},
};

/// Namespace of the instances.
const NAMESPACE: &str = "swarm";
/// The tenant's Secret.
const USER_DATA: &str = "user-data";
/// Namespace of the operator, where it looks for credentials.
const OPERATORS: &str = "kube-baremetal-system";
/// The Secret with the credentials of all BMCs.
const BMC: &str = "swarm-bmc";
/// The class of machines with a BMC.
const CLASS: &str = "swarm";
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

/// What is needed besides where machines have BMCs: who is let in there, and a class whose idle machines are switched off.
///
/// # Errors
/// When the API refuses.
pub async fn prepare_power(client: &Client, power: &Power) -> Result<()> {
    let how = PostParams::default();
    let simulator = &power.controllers.simulator;
    let credentials = [
        ("username", &simulator.user),
        ("password", &simulator.password),
        ("token", &simulator.password),
    ];
    let secret = Secret {
        metadata: named(BMC),
        string_data: Some(credentials.map(|(key, value)| (key.to_owned(), value.clone())).into()),
        ..Secret::default()
    };
    Api::namespaced(client.clone(), OPERATORS)
        .create(&how, &secret)
        .await
        .context("creating the Secret with the credentials of BMCs")?;
    let spec = BareMetalHardwareClassSpec {
        idle: Some(ClassIdle {
            policy: IdlePolicy::PowerOff,
            after_seconds: power.idle_seconds,
            warm: 0,
        }),
        ..BareMetalHardwareClassSpec::default()
    };
    Api::all(client.clone())
        .create(&how, &BareMetalHardwareClass::new(CLASS, spec))
        .await
        .context("creating the class")?;
    Ok(())
}

/// Writes down by what each machine is switched, as they are accepted, until all are: `macs` in the order of their BMCs.
///
/// # Errors
/// When the API refuses.
pub async fn wire(client: &Client, judge: &Judge, bmcs: &Bmcs, macs: &[[u8; 6]]) -> Result<()> {
    let index_of: HashMap<[u8; 6], usize> = macs.iter().enumerate().map(|(index, mac)| (*mac, index)).collect();
    let (api, how) = (&Api::<BareMetalHardware>::all(client.clone()), &PatchParams::default());
    let mut wired = BTreeSet::new();
    while wired.len() < macs.len() {
        let new: Vec<(String, usize)> = judge.look(|present| {
            let names = present
                .objects
                .keys()
                .filter(|(kind, name)| *kind == Kind::Hardware && !wired.contains(name));
            names
                .filter_map(|(_, name)| Some((name.clone(), *index_of.get(&present.mac(name)?)?)))
                .collect()
        });
        let patched: Vec<String> = stream::iter(new)
            .map(|(name, index)| async move {
                let patch = serde_json::json!({"spec": {"class": CLASS, "power": bmcs.spec(index, BMC)}});
                let patched = api.patch(&name, how, &Patch::Merge(patch)).await;
                patched.with_context(|| format!("naming the BMC of {name}"))?;
                anyhow::Ok(name)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for name in patched {
            ensure!(wired.insert(name.clone()), "{name} was named twice");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
