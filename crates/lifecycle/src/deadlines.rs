//! How long may a step take? Every wait has a deadline, counted from its last progress and scaled by the bytes it moves. Passing one ends nothing: it makes
//! the wait visible.

use api::{HardwarePhase, InstancePhase};
use jiff::SignedDuration;

/// Slowest rate that still counts as working: an old disk over an old network.
const SLOWEST_BYTES_PER_SECOND: u64 = 4 << 20;

fn moving(base_minutes: i64, bytes: u64) -> SignedDuration {
    let seconds = i64::try_from(bytes / SLOWEST_BYTES_PER_SECOND).unwrap_or(i64::MAX);
    SignedDuration::from_mins(base_minutes).saturating_add(SignedDuration::from_secs(seconds))
}

/// After how long a hardware phase is overdue; `None`: it may last for ever.
pub fn hardware(phase: HardwarePhase, disk_bytes: u64) -> Option<SignedDuration> {
    match phase {
        HardwarePhase::Discovered | HardwarePhase::Inspecting => Some(SignedDuration::from_mins(5)),
        HardwarePhase::Reserved => Some(SignedDuration::from_mins(10)),
        HardwarePhase::Cleaning | HardwarePhase::Releasing => Some(moving(15, disk_bytes)),
        // Written and read back.
        HardwarePhase::Provisioning => Some(moving(15, disk_bytes.saturating_mul(2))),
        HardwarePhase::Ready | HardwarePhase::InUse | HardwarePhase::Quarantined | HardwarePhase::Maintenance => None,
    }
}

/// After how long an instance phase is overdue; `None`: it may last for ever.
pub fn instance(phase: InstancePhase, disk_bytes: u64) -> Option<SignedDuration> {
    match phase {
        InstancePhase::Pending | InstancePhase::Running | InstancePhase::Stopped => None,
        InstancePhase::Provisioning => Some(SignedDuration::from_mins(10)),
        InstancePhase::Imaging => Some(moving(15, disk_bytes.saturating_mul(2))),
        InstancePhase::Booting => Some(SignedDuration::from_mins(20)),
        InstancePhase::Terminating => Some(SignedDuration::from_mins(15)),
        InstancePhase::Cleaning => Some(moving(15, disk_bytes)),
    }
}
