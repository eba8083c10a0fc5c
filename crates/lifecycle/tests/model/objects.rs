//! The objects that the world begins with, and what its machines report.

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents, DiskIdentity, DiskMarker},
    identity::MacAddress,
    inventory::{Inventory, Nic},
    order::{EraseEvidence, EraseStrength, Fault, FaultReason, ImageEvidence, ImageFormat, Order, OrderKind, OrderResult, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoverySpec, BareMetalDiscoveryStatus, BareMetalHardware, BareMetalImage, BareMetalImageSpec,
    BareMetalInstance, BareMetalInstanceSpec,
    discovery::{AgentSession, IdentityProof},
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::config::{Config, UnacceptedPolicy};

use crate::time::session_time;
/// Every wait lasts no time or for ever: then the order of events is all that matters.
pub fn config() -> Config {
    let never = SignedDuration::from_hours(24 * 365);
    Config {
        unaccepted: UnacceptedPolicy::Hold,
        unaccepted_hold: never,
        allow_asserted_identity: true,
        power_cycle_after: SignedDuration::ZERO,
        local_boot_confirmed_after: SignedDuration::ZERO,
        running_unconfirmed_after: never,
        retry_base: SignedDuration::ZERO,
        retry_limit: SignedDuration::ZERO,
        erase_attempts: 1,
        missing_claimant_grace: SignedDuration::ZERO,
        image_store: false,
        ..Config::default()
    }
}

pub fn machine_name(m: usize) -> String {
    format!("m-{m}")
}

pub fn uid(i: usize) -> String {
    format!("u-{i}")
}

/// The instance that a uid names.
pub fn instance_of(uid: &str) -> Option<usize> {
    uid.strip_prefix("u-").and_then(|n| n.parse().ok())
}

pub fn inventory(m: usize, contents: DiskContents) -> Inventory {
    let identity = DiskIdentity {
        serial: Some(format!("DISK000{m}")),
        ..DiskIdentity::default()
    };
    Inventory {
        disks: vec![Disk {
            contents,
            ..Disk::blank("sda", identity, 1 << 30)
        }],
        nics: vec![Nic {
            name: "eth0".to_owned(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            link: true,
            boot: true,
            ..Nic::default()
        }],
        ..Inventory::default()
    }
}

pub fn foreign() -> DiskContents {
    DiskContents {
        state: ContentsState::Foreign,
        fingerprint: "f0".repeat(32),
        signatures: Vec::new(),
        marker: None,
    }
}

pub fn discovery(m: usize) -> BareMetalDiscovery {
    let mut made = BareMetalDiscovery::new(&machine_name(m), BareMetalDiscoverySpec {});
    made.status = Some(BareMetalDiscoveryStatus::default());
    made
}

pub fn session_id(m: usize, n: u8) -> String {
    format!("session-{m}-{n}")
}

pub fn session(m: usize, n: u8) -> AgentSession {
    let id = session_id(m, n);
    AgentSession {
        nonce: id.clone(),
        token_issued_at: i64::from(n),
        thumbprint: id.clone(),
        id,
        signing_key: String::new(),
        sealing_key: String::new(),
        boot_mac: MacAddress([2, 0, 0, 0, 0, 1]),
        uuid: None,
        address: String::new(),
        replica: String::new(),
        opened_at: Time(session_time(n)),
        agent_version: String::new(),
        proof: IdentityProof::Asserted,
    }
}

pub fn instance(i: usize) -> BareMetalInstance {
    let mut made = BareMetalInstance::new(
        &format!("i-{i}"),
        BareMetalInstanceSpec {
            image: "image".to_owned(),
            running: true,
            ..BareMetalInstanceSpec::default()
        },
    );
    made.metadata.namespace = Some("d".to_owned());
    made.metadata.uid = Some(uid(i));
    made
}

pub fn image() -> BareMetalImage {
    BareMetalImage::new(
        "image",
        BareMetalImageSpec {
            url: "http://images.example/i".to_owned(),
            digest: "sha256:0".to_owned(),
            format: ImageFormat::Raw,
            ..BareMetalImageSpec::default()
        },
    )
}

/// What an order leaves on the disk.
pub fn left_by(order: &Order, state: ContentsState) -> DiskContents {
    let claim = order.claim.clone();
    DiskContents {
        state,
        fingerprint: "ff".repeat(32),
        signatures: Vec::new(),
        marker: Some(DiskMarker {
            instance_uid: claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
            instance: claim.map(|c| format!("{}/{}", c.namespace, c.name)).unwrap_or_default(),
            hardware: order.hardware.clone(),
            image_digest: order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
            order_id: order.id.clone(),
        }),
    }
}

/// The result of an order; `fault` where it did not succeed.
pub fn result(order: &Order, outcome: Outcome, fault: FaultReason, contents: Option<DiskContents>) -> OrderResult {
    let done = outcome == Outcome::Succeeded;
    let disk = order.disk.as_ref().map(|d| (d.identity.clone(), d.size_bytes)).unwrap_or_default();
    OrderResult {
        order_id: order.id.clone(),
        kind: order.kind,
        outcome,
        fault: (!done).then(|| Fault {
            reason: fault,
            message: "failed".to_owned(),
        }),
        image: (done && order.kind == OrderKind::Image).then(|| ImageEvidence {
            order_id: order.id.clone(),
            disk: disk.0.clone(),
            digest: order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
            written_bytes: 1,
            verified_bytes: 1,
            fetched_bytes: None,
            reused_bytes: None,
            duration_ms: 1,
            config_drive: None,
            sector_bytes: 512,
            own_ranges: Vec::new(),
            boot_entry: None,
        }),
        erase: (done && order.kind == OrderKind::Erase).then(|| EraseEvidence {
            order_id: order.id.clone(),
            claim_uid: order.claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
            disk: disk.0,
            size_bytes: disk.1,
            method: "zeros".to_owned(),
            strength: EraseStrength::Overwritten,
            duration_ms: 1,
            sampled_blocks: 1,
            canaries: 1,
        }),
        contents,
    }
}

/// A hardware object as a policy makes it.
pub fn accepted(m: usize) -> BareMetalHardware {
    let acceptance = lifecycle::policy::Acceptance::default();
    lifecycle::hardware::accepted(&machine_name(m), &inventory(m, DiskContents::blank()), &acceptance)
}
