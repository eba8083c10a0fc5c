//! An order of kind `Erase`, from the target check to the evidence.
//!
//! After a successful erase our boot entries are removed from firmware, and the network is put first where the order asks for it; when firmware refuses, that is logged and changes nothing
//! about the disk. The evidence carries order and claim, so that it counts for nothing else.

use std::sync::atomic::AtomicBool;

use agent_protocol::{
    disk::{Disk, DiskContents, DiskIdentity},
    order::{BootOrder, EraseEvidence, Order, OrderKind, OrderResult, Progress, Step},
};

use crate::{
    contents,
    devices::Devices,
    efi::{self, EfiVariables},
    erase::{self, EraseError, EraseRequest},
    error::MachineError,
    order::{incomplete, marker, prepare, successful, unsuccessful},
};

/// All that an `Erase` order needs.
pub struct EraseJob<'a> {
    /// The order.
    pub order: &'a Order,
    /// The disks of this boot's inventory.
    pub disks: &'a [Disk],
    /// Disks that are never changed, whatever an order says.
    pub protected: &'a [DiskIdentity],
    /// How disks are opened.
    pub devices: &'a dyn Devices,
    /// Firmware variables; `None` on a BIOS machine.
    pub efi: Option<&'a EfiVariables>,
    /// Set it to stop; the disk then stays marked as in progress.
    pub cancel: &'a AtomicBool,
}

/// Runs the order. Every error becomes a result.
pub fn run_erase(job: EraseJob<'_>, progress: &mut dyn FnMut(Progress)) -> OrderResult {
    let mut state = State::default();
    match run(&job, progress, &mut state) {
        Ok(result) => result,
        Err(error) => unsuccessful(job.order, &error, state.began, state.contents),
    }
}

/// What is known when an error comes.
#[derive(Default)]
struct State {
    began: bool,
    contents: Option<DiskContents>,
}

fn run(job: &EraseJob<'_>, progress: &mut dyn FnMut(Progress), state: &mut State) -> Result<OrderResult, MachineError> {
    let order = job.order;
    if order.kind != OrderKind::Erase {
        return Err(incomplete(order, "kind Erase"));
    }
    let parameters = order.erase.as_ref().ok_or_else(|| incomplete(order, "erase"))?;
    progress(Progress::begin(Step::Preparing));
    let ready = prepare(order, job.disks, job.protected, job.devices, &mut state.contents)?;
    let device = ready.device.as_ref();
    let marker = marker(order, "");
    let request = EraseRequest {
        marker: &marker,
        method: parameters.method,
        discards: ready.disk.discard,
        cancel: job.cancel,
    };
    let erased = erase::erase(device, request, progress);
    // In either case: what it holds now is part of the result.
    let found = contents::probe(device);
    state.began = !matches!(
        erased,
        Err(EraseError::TooSmall { .. } | EraseError::Random(_) | EraseError::Marker(_))
    );
    state.contents = Some(found.clone());
    let erased = erased?;
    if let Some(variables) = job.efi
        && let Err(error) = efi::remove_ours(variables)
    {
        tracing::warn!(%error, "boot entries of the erased system stay in firmware");
    }
    if let Some(variables) = job.efi.filter(|_| order.boot_order == Some(BootOrder::NetworkFirst)) {
        match efi::network_first(variables) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("firmware did not put the network first"),
            Err(error) => tracing::warn!(%error, "the network was not put first"),
        }
    }
    Ok(OrderResult {
        erase: Some(EraseEvidence {
            order_id: order.id.clone(),
            claim_uid: order.claim.as_ref().map_or_else(String::new, |c| c.uid.clone()),
            disk: ready.disk.identity.clone(),
            size_bytes: device.size(),
            method: erased.method,
            strength: erased.strength,
            duration_ms: erased.duration_ms,
            sampled_blocks: erased.sampled_blocks,
            canaries: erased.canaries,
        }),
        ..successful(order, found)
    })
}

#[cfg(test)]
mod tests;
