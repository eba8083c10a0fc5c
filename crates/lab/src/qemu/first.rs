//! From what a machine boots next, and the boot of it: power on, or the reset button, with QEMU's boot indexes and a medium in the drive.
//!
//! Indexes are set by the monitor before a reset and set back after it, while nothing runs yet: firmware reads them at its start, so they hold for that boot alone, and
//! a guest that reboots itself comes where firmware is set up to go. A machine that runs gets a new process for that: SeaBIOS did not follow indexes that were set back
//! right after a reset of what had run before. OVMF takes what it reads over into its own boot order: of UEFI machines what was chosen once stays first until the
//! agent or somebody else sets the order.

use std::path::Path;

use serde_json::{Value, json};

use super::{Firmware, Machine, accel::Accelerator, qmp::Monitor};
use crate::LabError;

/// From what a machine boots, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First<'a> {
    /// As its firmware is set up.
    Usual,
    /// Its NIC.
    Network,
    /// Its first disk.
    Disk,
    /// This image (ISO 9660), in its CD drive.
    Medium(&'a Path),
}

/// The monitor's names of its devices.
pub(super) const NIC: &str = "nic0";
const DRIVE: &str = "cd0";
/// For a machine whose first boot is to be chosen: it waits, and has a drive.
pub(super) const HELD: [&str; 3] = ["-S", "-device", "ide-cd,id=cd0"];

pub(super) fn disk(index: usize) -> String {
    format!("disk{index}")
}

/// No index.
const NONE: i32 = -1;

impl Machine {
    /// Boots it: switches it on, with a CD drive; or resets it, by a new process where it is to boot from something else than usual. What was in its drive is taken out.
    ///
    /// # Errors
    /// As of [`Machine::power_on`] and [`Machine::power_off`]; [`LabError::Monitor`] when QEMU refuses.
    pub async fn boot(&self, accel: Accelerator, first: First<'_>) -> Result<(), LabError> {
        if first != First::Usual {
            self.power_off().await?;
        }
        if self.pid().is_none() {
            self.start(accel, true).await?;
        }
        let chosen = self.choose(first).await;
        if chosen.is_err() {
            // It would wait for ever, and look as if it ran.
            self.power_off().await?;
        }
        chosen
    }

    async fn choose(&self, first: First<'_>) -> Result<(), LabError> {
        let mut monitor = self.monitor().await?;
        // Where somebody else switched it on, it has no drive.
        monitor.execute("eject", json!({"id": DRIVE, "force": true})).await.ok();
        if let First::Medium(image) = first {
            let medium = json!({"id": DRIVE, "filename": image, "format": "raw", "read-only-mode": "read-only"});
            monitor.execute("blockdev-change-medium", medium).await?;
        }
        self.set_order(&mut monitor, first).await?;
        monitor.execute_until("system_reset", "RESET").await?;
        self.set_order(&mut monitor, First::Usual).await?;
        monitor.execute("cont", json!({})).await.map(drop)
    }

    /// Presses its power button: its system shuts down, if it listens.
    ///
    /// # Errors
    /// [`LabError::Monitor`] when QEMU refuses.
    pub async fn press_power(&self) -> Result<(), LabError> {
        self.monitor().await?.execute("system_powerdown", json!({})).await.map(drop)
    }

    async fn set_order(&self, monitor: &mut Monitor, first: First<'_>) -> Result<(), LabError> {
        let order = self.order();
        let chosen = match first {
            First::Usual => None,
            First::Network => Some(NIC.to_owned()),
            First::Disk => Some(disk(0)),
            First::Medium(_) => Some(DRIVE.to_owned()),
        };
        // No two devices have one index, not even for a moment. A machine may have no drive.
        set_index(monitor, DRIVE, NONE).await.ok();
        for (device, _) in &order {
            set_index(monitor, device, NONE).await?;
        }
        for (device, index) in order {
            set_index(monitor, &device, index).await?;
        }
        match chosen {
            Some(chosen) => set_index(monitor, &chosen, 0).await.map(drop),
            None => Ok(()),
        }
    }

    /// Its devices as they are tried. A BIOS keeps no order of its own. UEFI does: QEMU's wish would overrule, at each boot, the order that the agent sets.
    pub(super) fn order(&self) -> Vec<(String, i32)> {
        let devices = std::iter::once(NIC.to_owned()).chain((0..self.spec.disks.len()).map(disk));
        let index = |place| if self.spec.firmware == Firmware::Bios { place } else { NONE };
        devices.zip(1..).map(|(device, place)| (device, index(place))).collect()
    }
}

async fn set_index(monitor: &mut Monitor, device: &str, index: i32) -> Result<Value, LabError> {
    let path = format!("/machine/peripheral/{device}");
    monitor
        .execute("qom-set", json!({"path": path, "property": "bootindex", "value": index}))
        .await
}
