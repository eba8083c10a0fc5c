//! Machines that boot into the agent from a medium which their BMC attaches: netboot makes it, here its URL is told.
//!
//! The medium is made for one act, and is worth nothing once the agent has opened its session. Then it is taken out, so that the machine's own system finds no other boot device before its disk. What was
//! taken out is remembered in memory: whoever starts anew takes it out once more, which does nothing. A medium that a person put in
//! is left where it is, as far as the BMC tells whose it is.

use api::{
    BareMetalHardware,
    power::{PowerAct, PowerActKind},
};
use kube::ResourceExt;
use power::{BootDevice, BootOnce, Media};

use super::{Wired, firmware, problem};
use crate::world::World;

/// Attaches the medium, and lets the machine boot from it once.
pub(super) async fn boot(world: &World, hardware: &BareMetalHardware, wired: &Wired, act: &PowerAct) -> Result<(), String> {
    let Some(media) = wired.spec.virtual_media() else { return Ok(()) };
    // Netboot would find it out, too, and could not say it to anybody.
    media.fixed().map_err(|error| format!("spec.power.redfish.virtualMedia: {error}"))?;
    let (calls, machine) = (&world.power.calls, &wired.machine);
    let medium = Media {
        url: media.url(&hardware.name_any(), &act.id),
    };
    let from_it = BootOnce {
        device: BootDevice::Media,
        firmware: firmware(world, hardware),
    };
    let done = async {
        calls.attach(machine, &medium).await?;
        calls.boot_once(machine, from_it).await?;
        calls.cycle(machine).await
    };
    done.await.map_err(|error| problem(world, hardware, &error))
}

/// Takes the medium of the last act out, once it has done its part.
pub(super) async fn take_out(world: &World, hardware: &BareMetalHardware, wired: &Wired) {
    let name = hardware.name_any();
    if hardware.spec.maintenance {
        // A person may have put one of their own in.
        return;
    }
    let (Some(media), Some(act)) = (wired.spec.virtual_media(), finished(world, hardware)) else {
        return;
    };
    if world.power.with(&name, |known| known.detached.as_ref() == Some(&act)) {
        return;
    }
    let medium = Media {
        url: media.url(&name, &act),
    };
    match world.power.calls.detach(&wired.machine, &medium).await {
        Ok(()) => {
            tracing::info!(hardware = name, act, "medium taken out");
            world.power.with(&name, |known| known.detached = Some(act));
        }
        // It is tried again with the next look at the machine, and is in nobody's way: its token was used.
        Err(error) => tracing::warn!(
            hardware = name,
            act,
            error = problem(world, hardware, &error),
            "medium not taken out"
        ),
    }
}

/// The act that booted the machine into its present session, where it was the last one.
fn finished(world: &World, hardware: &BareMetalHardware) -> Option<String> {
    let power = hardware.status.as_ref()?.power.as_ref()?;
    let done = power
        .done
        .as_ref()
        .filter(|done| done.kind == PowerActKind::BootAgent && power.act.is_none())?;
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name)?;
    let session = discovery.status.as_ref()?.session.as_ref()?;
    (session.opened_at.0 > done.since.0).then(|| done.id.clone())
}
