//! An order that is taken back between its acceptance and the moment it would be handed out.

use agent_protocol::order::{OrderKind, RebootTarget};
use api::{HardwarePhase, hardware::EraseConsent};

use super::world::{World, foreign, inventory};

#[test]
fn a_machine_whose_order_was_taken_back_before_it_got_it_looks_again_and_goes_on() {
    let mut world = World::new();
    let mut full = inventory();
    full.disks[0].contents = foreign("old");
    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: vec![foreign("old").fingerprint],
        at_acceptance: false,
    });
    world.agent_boots_with(full.clone());
    world.settle();
    // Accepted; the answer never reached the machine.
    let lost = world.poll();
    assert_eq!(lost.kind, OrderKind::Erase);
    world.hardware.spec.maintenance = true;
    world.settle();
    world.hardware.spec.maintenance = false;
    world.settle();
    assert_eq!(world.status().reason, "NoInventory");
    // Nobody has to help: asked, it is told to look again, once.
    let told = world.poll();
    assert_eq!((told.kind, told.reboot), (OrderKind::Reboot, Some(RebootTarget::Agent)));
    world.agent_boots_with(full);
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    assert_ne!(order.id, lost.id);
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
}
