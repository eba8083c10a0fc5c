//! Building destructive orders: for whom, on which disk, and what that disk may hold.
//!
//! An order that asks for the same as the one in force *is* the one in force ([`same_purpose`]): that makes deciding idempotent, and makes any correction of
//! a spec that changes what is asked for (image, digest, root disk, consent, method) a new order by itself.

use agent_protocol::{
    disk::ContentsState,
    order::{
        BootOrder, Claim, DiskTarget, EraseMethod, EraseParameters, ExpectedContents, ImageFormat, ImageParameters, Order, OrderKind,
        PackedSource,
    },
};
use api::{
    BareMetalHardware, BareMetalImage,
    hardware::{ClaimRef, SelectedDisk},
};

/// What a disk may hold: nothing.
pub fn blank() -> ExpectedContents {
    ExpectedContents {
        state: ContentsState::Blank,
        fingerprint: None,
        instance_uid: None,
    }
}

/// What a disk may hold: foreign data with this fingerprint, which somebody gave up.
pub fn foreign(fingerprint: &str) -> ExpectedContents {
    ExpectedContents {
        state: ContentsState::Foreign,
        fingerprint: Some(fingerprint.to_owned()),
        instance_uid: None,
    }
}

/// What a disk may hold: a finished installation for this instance.
pub fn marked(uid: &str) -> ExpectedContents {
    ExpectedContents {
        state: ContentsState::Marked,
        fingerprint: None,
        instance_uid: Some(uid.to_owned()),
    }
}

/// What a disk may hold: an interrupted write for this instance; an interrupted erase without a claim for the empty uid.
pub fn interrupted(uid: &str) -> ExpectedContents {
    ExpectedContents {
        state: ContentsState::Interrupted,
        fingerprint: None,
        instance_uid: Some(uid.to_owned()),
    }
}

/// The id of the order number `sequence`: unique over all time by its `salt`, which the caller draws at random. A restored backup may repeat a
/// sequence, never a salt.
pub fn id(hardware: &str, sequence: u64, salt: u64) -> String {
    format!("{hardware}-{sequence}-{salt:08x}")
}

/// A claim as orders carry it.
pub fn claim(claim: &ClaimRef) -> Claim {
    Claim {
        namespace: claim.namespace.clone(),
        name: claim.name.clone(),
        uid: claim.uid.clone(),
    }
}

fn target(disk: &SelectedDisk, expected: Vec<ExpectedContents>) -> DiskTarget {
    DiskTarget {
        identity: disk.identity.clone(),
        size_bytes: disk.size_bytes,
        expected,
    }
}

/// An order to erase, still without an id.
pub fn erase(
    hardware: &BareMetalHardware,
    claim: Option<Claim>,
    disk: &SelectedDisk,
    expected: Vec<ExpectedContents>,
    method: EraseMethod,
    boot_order: Option<BootOrder>,
) -> Order {
    Order {
        kind: OrderKind::Erase,
        claim,
        hardware: hardware.metadata.name.clone().unwrap_or_default(),
        disk: Some(target(disk, expected)),
        protected: hardware.spec.protected_disks.clone(),
        erase: Some(EraseParameters { method }),
        boot_order,
        ..Order::wait()
    }
}

/// An order to write an image, still without an id.
pub fn image(
    hardware: &BareMetalHardware,
    claim: Claim,
    disk: &SelectedDisk,
    expected: Vec<ExpectedContents>,
    image: &BareMetalImage,
    packed: Option<PackedSource>,
    config_drive: bool,
) -> Order {
    Order {
        kind: OrderKind::Image,
        claim: Some(claim),
        hardware: hardware.metadata.name.clone().unwrap_or_default(),
        disk: Some(target(disk, expected)),
        protected: hardware.spec.protected_disks.clone(),
        image: Some(ImageParameters {
            url: image.spec.url.clone(),
            mirrors: image.spec.mirrors.clone(),
            digest: image.spec.digest.clone(),
            // An older agent could not read the word.
            format: match image.spec.format {
                ImageFormat::Packed => ImageFormat::Raw,
                format => format,
            },
            config_drive,
            packed,
        }),
        ..Order::wait()
    }
}

/// Whether two orders ask for the same thing, whatever their ids, and wherever the same bytes come from.
pub fn same_purpose(a: &Order, b: &Order) -> bool {
    let essence = |o: &Order| {
        let mut o = Order {
            id: String::new(),
            // No reason to begin anew: it is set when all else is done.
            boot_order: None,
            ..o.clone()
        };
        if let Some(image) = &mut o.image {
            image.mirrors.clear();
            if let Some(packed) = &mut image.packed {
                packed.urls.clear();
            }
        }
        o
    };
    essence(a) == essence(b)
}
