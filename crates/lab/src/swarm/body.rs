//! What a simulated machine is made of: its identity, its inventory, and a disk that holds a state instead of bytes.

use std::net::Ipv4Addr;

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents, DiskIdentity, DiskMarker, Signature},
    identity::{MacAddress, SystemUuid},
    inventory::{Cpu, Dimm, Firmware, FirmwareMode, Inventory, Memory, Nic, SystemIdentity},
    order::{EraseEvidence, EraseStrength, Fault, FaultReason, ImageEvidence, Order, OrderKind, OrderResult, Outcome},
};
use sha2::{Digest, Sha256};

use super::random::Random;

/// Size of every disk.
pub const DISK_BYTES: u64 = 64 << 30;

/// One machine's body.
#[derive(Debug, Clone)]
pub struct Body {
    /// Address from which it speaks: each machine has one of its own, out of the loopback's sixteen million.
    pub address: Ipv4Addr,
    /// MAC of the NIC it boots from.
    pub mac: MacAddress,
    /// SMBIOS UUID.
    pub uuid: SystemUuid,
    /// What its disk holds.
    pub contents: DiskContents,
    /// One in four is as old as that.
    pub firmware: FirmwareMode,
    serial: String,
}

fn holding(state: ContentsState, what: &str, kind: &str, marker: Option<DiskMarker>) -> DiskContents {
    DiskContents {
        state,
        fingerprint: hex::encode(Sha256::digest(what)),
        signatures: vec![Signature {
            kind: kind.to_owned(),
            offset: 1 << 20,
            uuid: None,
            label: None,
        }],
        marker,
    }
}

impl Body {
    /// The machine with this number.
    pub fn new(index: usize, seed: u64, foreign: bool) -> Self {
        let mut random = Random::of(seed ^ 0xb0d1, index as u64);
        let mut uuid: [u8; 16] = random.bytes();
        // RFC 9562, version 4: what most firmware shows.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let [_, _, a, b] = (index as u32).to_be_bytes();
        let [_, high, ..] = (index as u32).to_be_bytes();
        let number = random.draw() as u16;
        Self {
            address: Ipv4Addr::new(127, 16 + (high & 0x3f), a, b),
            mac: MacAddress([0x52, 0x54, (number >> 8) as u8, high, a, b]),
            uuid: SystemUuid(uuid),
            contents: if foreign {
                holding(ContentsState::Foreign, &format!("old system {index}"), "ext4", None)
            } else {
                DiskContents::blank()
            },
            firmware: if index.is_multiple_of(4) {
                FirmwareMode::BIOS
            } else {
                FirmwareMode::UEFI
            },
            serial: format!("SWARM{index:07}"),
        }
    }

    /// What names the disk.
    pub fn disk_identity(&self) -> DiskIdentity {
        DiskIdentity {
            serial: Some(self.serial.clone()),
            model: Some("Simulated SSD".to_owned()),
            ..DiskIdentity::default()
        }
    }

    /// What the agent finds.
    pub fn inventory(&self) -> Inventory {
        let second = MacAddress([self.mac.0[0], 0x55, self.mac.0[2], self.mac.0[3], self.mac.0[4], self.mac.0[5]]);
        let nic = |name: &str, mac, boot: bool| Nic {
            name: name.to_owned(),
            mac,
            driver: Some("e1000e".to_owned()),
            speed_mbps: boot.then_some(1000),
            link: boot,
            boot,
            pci: Some("8086:1533".to_owned()),
            addresses: if boot { vec![format!("{}/8", self.address)] } else { Vec::new() },
            switch_port: None,
        };
        let dimm = |slot: u32| Dimm {
            locator: format!("DIMM_A{slot}"),
            bytes: 8 << 30,
            kind: Some("DDR4".to_owned()),
            mega_transfers: Some(3200),
            serial: Some(format!("{}-{slot}", self.serial)),
        };
        Inventory {
            system: SystemIdentity {
                uuid: Some(self.uuid),
                vendor: Some("Simulated".to_owned()),
                product: Some("Machine".to_owned()),
                serial: Some(self.serial.clone()),
                ..SystemIdentity::default()
            },
            cpu: Cpu {
                architecture: "amd64".to_owned(),
                sockets: 1,
                cores: 8,
                threads: 16,
                model: Some("Simulated CPU".to_owned()),
                flags: Vec::new(),
            },
            memory: Memory {
                bytes: 16 << 30,
                dimms: vec![dimm(1), dimm(2)],
            },
            disks: vec![Disk {
                physical_sector_bytes: 4096,
                contents: self.contents.clone(),
                ..Disk::blank("sda", self.disk_identity(), DISK_BYTES)
            }],
            nics: vec![nic("eth0", self.mac, true), nic("eth1", second, false)],
            firmware: Firmware {
                mode: self.firmware,
                secure_boot: None,
            },
            ..Inventory::default()
        }
    }

    /// Looks before anything is changed, as the agent does: the fault for which an order has to be refused.
    pub fn refuses(&self, order: &Order) -> Option<FaultReason> {
        let Some(target) = &order.disk else {
            return Some(FaultReason::DiskNotFound);
        };
        if !target.identity.same_disk(&self.disk_identity()) {
            return Some(FaultReason::DiskNotFound);
        }
        if target.size_bytes != DISK_BYTES {
            return Some(FaultReason::DiskSizeMismatch);
        }
        (!target.permits(&order.id, &self.contents)).then_some(FaultReason::UnexpectedContents)
    }

    fn marker(order: &Order) -> DiskMarker {
        let claim = order.claim.as_ref();
        DiskMarker {
            instance_uid: claim.map(|c| c.uid.clone()).unwrap_or_default(),
            instance: claim.map(|c| format!("{}/{}", c.namespace, c.name)).unwrap_or_default(),
            hardware: order.hardware.clone(),
            image_digest: order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
            order_id: order.id.clone(),
        }
    }

    /// An order begins to change the disk.
    pub fn begin(&mut self, order: &Order) {
        self.contents = holding(ContentsState::Interrupted, &order.id, "in-progress", Some(Self::marker(order)));
    }

    /// The order is done.
    pub fn finish(&mut self, order: &Order) {
        self.contents = match order.kind {
            OrderKind::Image => holding(ContentsState::Marked, &order.id, "gpt", Some(Self::marker(order))),
            _ => DiskContents::blank(),
        };
    }

    /// What the agent reports of an order that ended without a fault.
    pub fn succeeded(&self, order: &Order) -> OrderResult {
        let image = order
            .image
            .as_ref()
            .filter(|_| order.kind == OrderKind::Image)
            .map(|parameters| ImageEvidence {
                order_id: order.id.clone(),
                disk: self.disk_identity(),
                digest: parameters.digest.clone(),
                written_bytes: 1 << 30,
                verified_bytes: 1 << 30,
                fetched_bytes: None,
                reused_bytes: None,
                duration_ms: 1_000,
                config_drive: parameters.config_drive.then(|| "partition 15 at the end (GPT)".to_owned()),
                sector_bytes: 512,
                own_ranges: Vec::new(),
                boot_entry: None,
            });
        let erase = (order.kind == OrderKind::Erase).then(|| EraseEvidence {
            order_id: order.id.clone(),
            claim_uid: order.claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
            disk: self.disk_identity(),
            size_bytes: DISK_BYTES,
            method: "write zeros".to_owned(),
            strength: EraseStrength::Overwritten,
            duration_ms: 1_000,
            sampled_blocks: 64,
            canaries: 4,
        });
        OrderResult {
            image,
            erase,
            ..self.ended(order, Outcome::Succeeded, None)
        }
    }

    /// What the agent reports of an order that was refused or failed.
    pub fn unsuccessful(&self, order: &Order, outcome: Outcome, reason: FaultReason) -> OrderResult {
        let message = format!("the simulated machine says {reason:?}");
        self.ended(order, outcome, Some(Fault { reason, message }))
    }

    fn ended(&self, order: &Order, outcome: Outcome, fault: Option<Fault>) -> OrderResult {
        OrderResult {
            order_id: order.id.clone(),
            kind: order.kind,
            outcome,
            fault,
            image: None,
            erase: None,
            contents: Some(self.contents.clone()),
        }
    }

    /// The instance whose finished installation is on the disk.
    pub fn installed_instance(&self) -> Option<&str> {
        let marker = self
            .contents
            .marker
            .as_ref()
            .filter(|_| self.contents.state == ContentsState::Marked)?;
        Some(&marker.instance_uid)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_machines_share_anything_that_names_them() {
        let bodies: Vec<Body> = (0..20_000).map(|i| Body::new(i, 1, false)).collect();
        assert_eq!(bodies.iter().map(|b| b.mac).collect::<HashSet<_>>().len(), bodies.len());
        assert_eq!(bodies.iter().map(|b| b.address).collect::<HashSet<_>>().len(), bodies.len());
        assert_eq!(bodies.iter().map(|b| b.uuid.0).collect::<HashSet<_>>().len(), bodies.len());
        assert!(
            bodies
                .iter()
                .all(|b| b.uuid.is_usable() && b.mac.is_usable() && b.address.is_loopback())
        );
    }
}
