//! A user of ours in a machine's BMC: its Secret, the sealed wish for the agent, and `spec.power` when it is there (`lifecycle::bmc` decides).
//!
//! Each wish has a password of its own, in a Secret `bmc-<hardware>-<wish>` of the operator's namespace, made before anything is asked. A session that was another machine's, who only said that it is this one, learns a
//! password that is of use in no BMC but the one in which it makes the user. The password leaves this process sealed to one session only, and is in no log, event or status.

use std::{collections::BTreeMap, sync::Arc};

use agent_protocol::bmc_user::{self, BmcPrivilege, BmcUser};
use api::{BareMetalDiscovery, BareMetalHardware, BareMetalHardwareStatus, bmc::BmcUserStatus, conditions, power::IpmiPrivilege};
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use lifecycle::bmc::{BmcFacts, Step, Wish, decide};
use rand::RngExt;
use serde_json::json;

use crate::{
    error::{Error, Result},
    events::Notice,
    world::{World, reference},
};

/// What every controller keeps: IPMI 1.5 knows no longer ones.
const PASSWORD: usize = 16;
/// No signs: some controllers mistake them.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Takes the next step. Whether anything was written: then the machine is looked at anew.
pub(crate) async fn step(world: &World, hardware: &Arc<BareMetalHardware>, discovery: Option<&BareMetalDiscovery>) -> Result<bool> {
    let facts = BmcFacts {
        hardware,
        discovery,
        config: &world.config.lifecycle,
    };
    match world.timed("BareMetalHardware", || decide(&facts)) {
        Step::Nothing => {
            let made = |c: &Condition| c.type_ != conditions::BMC_USER || c.status == "True";
            // Somebody named a driver, or took the wish back, before it was made.
            write(world, hardware, |status| status.conditions.retain(made)).await
        }
        Step::Forget => {
            let made = hardware.spec.power_from_bmc.is_some();
            let change = |status: &mut BareMetalHardwareStatus| {
                status.bmc_user = None;
                if made {
                    say(status, true, "Made", "Its power driver uses a user of its own in the BMC");
                } else {
                    conditions::clear(&mut status.conditions, conditions::BMC_USER);
                }
            };
            write(world, hardware, change).await
        }
        Step::Wait { reason, message } => wait(world, hardware, reason, &message).await,
        Step::Ask(wish) => ask(world, hardware, &wish).await,
        Step::Power(power) => {
            world.patch(hardware.as_ref(), json!({ "spec": { "power": power } })).await?;
            tell(
                world,
                hardware,
                false,
                "PowerFromBmc",
                "A user was made in the machine's BMC, and spec.power names it",
            );
            Ok(true)
        }
    }
}

/// Makes the Secret, seals what is in it, and stores that for the agent.
async fn ask(world: &World, hardware: &Arc<BareMetalHardware>, wish: &Wish) -> Result<bool> {
    let id = format!("bmc-{:016x}", rand::random::<u64>());
    let secret = secret_name(&hardware.name_any(), &id);
    let password = match password(world, hardware, &secret, &wish.from.user).await {
        Ok(password) => password,
        // The machine's life goes on without.
        Err(message) => return wait(world, hardware, "SecretUnusable", &message).await,
    };
    let user = BmcUser {
        name: wish.from.user.clone(),
        password,
        privilege: match wish.from.privilege {
            IpmiPrivilege::Operator => BmcPrivilege::Operator,
            IpmiPrivilege::Administrator => BmcPrivilege::Administrator,
        },
        channel: wish.channel,
    };
    let sealed = bmc_user::seal(&user, &id, &wish.thumbprint, &wish.sealing_key).map_err(|source| Error::SealBmcUser {
        hardware: hardware.name_any(),
        source,
    })?;
    let asked = BmcUserStatus {
        sealed,
        host: wish.host.clone(),
        secret,
        cipher_suite: wish.cipher_suite,
        privilege: wish.from.privilege,
    };
    let change = |status: &mut BareMetalHardwareStatus| {
        status.bmc_user = Some(asked);
        say(status, false, "Asked", "The agent was asked to make the user in the BMC");
    };
    write(world, hardware, change).await
}

fn random() -> String {
    let mut rng = rand::rng();
    (0..PASSWORD)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// Of the Secret of one wish. Names have 253 letters at most.
fn secret_name(hardware: &str, wish: &str) -> String {
    let hardware: String = hardware.chars().take(200).collect();
    let wish = wish.trim_start_matches("bmc-");
    format!("bmc-{}-{wish}", hardware.trim_end_matches(['.', '-']))
}

/// A new password, kept in a new Secret. Why it could not be kept is for people.
async fn password(world: &World, hardware: &BareMetalHardware, name: &str, user: &str) -> std::result::Result<String, String> {
    let namespace = &world.config.operator_namespace;
    let password = random();
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.clone()),
            owner_references: hardware.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/basic-auth".to_owned()),
        data: Some(BTreeMap::from([
            ("username".to_owned(), bytes(user)),
            ("password".to_owned(), bytes(&password)),
        ])),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(world.client().clone(), namespace);
    let made = api.create(&PostParams::default(), &secret).await;
    world
        .metrics
        .requested("Secret", "create", if made.is_ok() { "ok" } else { "error" });
    made.map_err(|error| {
        format!("The Secret {namespace}/{name} for the BMC's user cannot be made ({error}): give the operator the right to create Secrets there (deploy/rbac/operator.yaml)")
    })?;
    Ok(password)
}

fn say(status: &mut BareMetalHardwareStatus, done: bool, reason: &str, message: &str) {
    let now = Time(jiff::Timestamp::now());
    conditions::set(&mut status.conditions, conditions::BMC_USER, done, reason, message, None, &now);
}

/// Says what is waited for; what only a person can mend is told as an event too.
async fn wait(world: &World, hardware: &Arc<BareMetalHardware>, reason: &str, message: &str) -> Result<bool> {
    let written = write(world, hardware, |status| say(status, false, reason, message)).await?;
    if written && matches!(reason, "Refused" | "SecretUnusable") {
        tell(world, hardware, true, "BmcUserNotMade", message);
    }
    Ok(written)
}

/// Writes the status, where the change is one.
async fn write(world: &World, hardware: &Arc<BareMetalHardware>, change: impl FnOnce(&mut BareMetalHardwareStatus)) -> Result<bool> {
    let old = hardware.status.clone().unwrap_or_default();
    let mut new = old.clone();
    change(&mut new);
    if new == old {
        return Ok(false);
    }
    world
        .replace_status(&BareMetalHardware {
            status: Some(new),
            ..hardware.as_ref().clone()
        })
        .await?;
    Ok(true)
}

fn tell(world: &World, hardware: &BareMetalHardware, warning: bool, reason: &str, note: &str) {
    world.events.tell(Notice {
        regarding: reference(hardware),
        related: None,
        warning,
        reason: reason.to_owned(),
        action: "Decided".to_owned(),
        note: note.to_owned(),
    });
}
