//! What both kinds of destructive orders share: the way from the order to an opened disk that may be changed, and the form of the result.

use agent_protocol::{
    disk::{Disk, DiskContents, DiskIdentity, DiskMarker},
    order::{DiskTarget, Order, OrderResult, Outcome},
};
use image::BlockDevice;

use crate::{contents, devices::Devices, error::MachineError, target};

/// A disk that was looked at and may be changed.
pub(crate) struct Ready<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) device: Box<dyn BlockDevice>,
}

/// Finds, opens and looks. The disk is held exclusively from the look to the end of the order.
pub(crate) fn prepare<'a>(
    order: &Order,
    disks: &'a [Disk],
    protected: &[DiskIdentity],
    devices: &dyn Devices,
    seen: &mut Option<DiskContents>,
) -> Result<Ready<'a>, MachineError> {
    let target: &DiskTarget = order.disk.as_ref().ok_or_else(|| incomplete(order, "disk"))?;
    let disk = target::find(target, disks, protected)?;
    let device = devices.open(disk)?;
    let found = contents::probe(device.as_ref());
    *seen = Some(found.clone());
    target::check_contents(&order.id, target, disk, &found)?;
    Ok(Ready { disk, device })
}

pub(crate) fn incomplete(order: &Order, part: &'static str) -> MachineError {
    MachineError::Incomplete {
        order: order.id.clone(),
        part,
    }
}

/// The marker of an order.
pub(crate) fn marker(order: &Order, image_digest: &str) -> DiskMarker {
    let claim = order.claim.as_ref();
    DiskMarker {
        instance_uid: claim.map_or_else(String::new, |c| c.uid.clone()),
        instance: claim.map_or_else(String::new, |c| format!("{}/{}", c.namespace, c.name)),
        hardware: order.hardware.clone(),
        image_digest: image_digest.to_owned(),
        order_id: order.id.clone(),
    }
}

/// The result of an order that did not succeed.
pub(crate) fn unsuccessful(order: &Order, error: &MachineError, began: bool, contents: Option<DiskContents>) -> OrderResult {
    tracing::warn!(order = order.id, kind = ?order.kind, began, %error, "the order did not succeed");
    OrderResult {
        order_id: order.id.clone(),
        kind: order.kind,
        outcome: error.outcome(began),
        fault: Some(error.fault()),
        image: None,
        erase: None,
        contents,
    }
}

/// The frame of the result of one that did.
pub(crate) fn successful(order: &Order, contents: DiskContents) -> OrderResult {
    OrderResult {
        order_id: order.id.clone(),
        kind: order.kind,
        outcome: Outcome::Succeeded,
        fault: None,
        image: None,
        erase: None,
        contents: Some(contents),
    }
}
