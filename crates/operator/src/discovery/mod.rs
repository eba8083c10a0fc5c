//! Machines that nobody accepted yet: ask the policies, and create the hardware object where one accepts.
//!
//! Creating the object is the acceptance, and its name is the machine's: two operators cannot accept one machine twice. A discovery is netboot's to write, so that what the policies
//! say otherwise (hold, no match, a broken rule) is told by events.

use std::sync::Arc;

use api::conditions;
use kube::ResourceExt;
use lifecycle::{
    hardware::accepted,
    policy::{Answer, evaluate},
};

use crate::{
    cache::Key,
    error::Result,
    events::Notice,
    power,
    queue::Next,
    world::{World, index, reference},
};

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(discovery) = world.discoveries.get(&key) else {
        return Ok(Next::Rest);
    };
    let known = world.hardware.count_by(index::DISCOVERY, &key.name) > 0 || world.hardware.by_name(&key.name).is_some();
    if known || discovery.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Rest);
    }
    let Some(status) = &discovery.status else {
        return Ok(Next::Rest);
    };
    let Some(inventory) = &status.inventory else {
        return Ok(Next::Rest);
    };
    if conditions::is_true(&status.conditions, conditions::IDENTITY_CONFLICT) {
        // Netboot says so on the object; a person decides.
        return Ok(Next::Rest);
    }
    let twins = power::inventory::twins(&world, inventory);
    if !twins.is_empty() {
        // Accepted as another one, it would be there twice.
        world.events.tell(Notice {
            regarding: reference(discovery.as_ref()),
            related: None,
            warning: true,
            reason: "Held".to_owned(),
            action: "Evaluated".to_owned(),
            note: format!(
                "By what its BMC told, this may be the machine of BareMetalHardware {}, which is to register under the discoveryName of that object: the condition BmcIdentity there says what to do",
                twins.join(", ")
            ),
        });
        return Ok(Next::Rest);
    }
    let policies = world.policies.all();
    let evaluation = world.timed("BareMetalDiscovery", || evaluate(policies.iter().map(AsRef::as_ref), inventory));
    for error in evaluation.errors {
        if let Some(policy) = world.policies.by_name(&error.policy) {
            world.events.tell(Notice {
                regarding: reference(policy.as_ref()),
                related: Some(reference(discovery.as_ref())),
                warning: true,
                reason: "PolicyUnusable".to_owned(),
                action: "Evaluated".to_owned(),
                note: format!("{error}. The policy is passed over until spec.when is corrected"),
            });
        }
    }
    let (reason, note) = match evaluation.answer {
        Answer::Accept(acceptance) => {
            let hardware = accepted(&key.name, inventory, &acceptance);
            match world.create(&hardware).await {
                Ok(created) => world.events.tell(Notice {
                    regarding: reference(created.as_ref()),
                    related: Some(reference(discovery.as_ref())),
                    warning: false,
                    reason: "Accepted".to_owned(),
                    action: "Created".to_owned(),
                    note: format!("BareMetalDiscoveryPolicy {} accepts this machine", acceptance.policy),
                }),
                // Somebody accepted it meanwhile.
                Err(error) if error.is_already_exists() => {}
                Err(error) => return Err(error),
            }
            return Ok(Next::Rest);
        }
        Answer::Hold(policy) => ("Held", format!("BareMetalDiscoveryPolicy {policy} leaves this machine to a person")),
        Answer::NoMatch => ("NotAccepted", "No BareMetalDiscoveryPolicy accepts this machine".to_owned()),
    };
    let name = discovery.name_any();
    world.events.tell(Notice {
        regarding: reference(discovery.as_ref()),
        related: None,
        warning: false,
        reason: reason.to_owned(),
        action: "Evaluated".to_owned(),
        note: format!(
            "{note}; to accept it, create a BareMetalHardware {name} with spec.discoveryName {name}, or a policy that matches it"
        ),
    });
    Ok(Next::Rest)
}
