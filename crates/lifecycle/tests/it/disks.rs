//! Which disk takes the operating system?

use agent_protocol::disk::{DiskIdentity, DiskKind};
use api::{BareMetalHardwareSpec, hardware::DiskHint};
use lifecycle::disks::{DiskError, choose};

use crate::world::{disk, inventory};

#[test]
fn the_smallest_that_may_be_touched_is_taken() {
    let mut machine = inventory();
    let mut usb = disk("sdb", "USB00001", 8);
    usb.removable = true;
    let mut lun = disk("sdc", "LUN00001", 9);
    lun.remote = true;
    let mut locked = disk("sdd", "LOCK0001", 10);
    locked.read_only = true;
    let mut nameless = disk("sde", "x", 11);
    nameless.identity = DiskIdentity::default();
    let mut rotating = disk("sdg", "HDD00001", 32);
    rotating.kind = DiskKind::HDD;
    let solid = disk("sdh", "SSD00001", 32);
    let protected = disk("sdi", "KEEP0001", 16);
    machine.disks.extend([usb, lun, locked, nameless, rotating, solid, protected]);
    let spec = BareMetalHardwareSpec {
        protected_disks: vec![DiskIdentity {
            serial: Some("KEEP0001".to_owned()),
            ..DiskIdentity::default()
        }],
        ..BareMetalHardwareSpec::default()
    };
    assert_eq!(choose(&spec, &machine).unwrap().name, "sdh");
}

#[test]
fn no_disk_at_all_says_why() {
    let mut machine = inventory();
    machine.disks[0].removable = true;
    let fault = choose(&BareMetalHardwareSpec::default(), &machine).unwrap_err();
    assert_eq!(fault.reason(), "NoUsableDisk");
    assert!(fault.to_string().contains("sda is removable"), "{fault}");
    machine.disks.clear();
    assert!(
        choose(&BareMetalHardwareSpec::default(), &machine)
            .unwrap_err()
            .to_string()
            .contains("no disks")
    );
}

#[test]
fn a_hint_reaches_no_protected_disk_and_no_second_one() {
    let mut machine = inventory();
    machine.disks.push(disk("sdb", "S3Z00002", 64));
    let hint = |hint: DiskHint| BareMetalHardwareSpec {
        root_disk: Some(hint),
        protected_disks: vec![machine.disks[1].identity.clone()],
        ..BareMetalHardwareSpec::default()
    };
    let protected = hint(DiskHint {
        serial: Some("S3Z00002".to_owned()),
        ..DiskHint::default()
    });
    assert!(matches!(choose(&protected, &machine), Err(DiskError::NoMatch(_))));
    let mut open = hint(DiskHint {
        min_size_bytes: Some(1),
        ..DiskHint::default()
    });
    assert_eq!(choose(&open, &machine).unwrap().name, "sda");
    open.protected_disks.clear();
    assert!(matches!(choose(&open, &machine), Err(DiskError::Ambiguous { count: 2, .. })));
}

#[test]
fn twins_are_refused() {
    let mut machine = inventory();
    machine.disks.push(disk("sdb", "S3Z00001", 64));
    assert!(matches!(
        choose(&BareMetalHardwareSpec::default(), &machine),
        Err(DiskError::Indistinct(2, _))
    ));
}
