//! Real API objects behind small numbers. A state of the model holds numbers; the decisions under test get the objects. Equal objects have equal numbers, so that states compare and
//! hash in nanoseconds, and every distinct decision is computed once per thread.
//!
//! Time is canonical: `now` stands still, and what must be ordered is ordered by the machine's session count. That loses no interleaving: every wait of the decisions is set to zero or
//! to never ([`config`]).

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, LazyLock, RwLock},
};

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents, DiskIdentity, DiskKind, DiskMarker},
    identity::MacAddress,
    inventory::{Cpu, Firmware, FirmwareMode, Inventory, Memory, Nic, SystemIdentity},
    order::{EraseEvidence, EraseStrength, Fault, FaultReason, ImageEvidence, ImageFormat, Order, OrderKind, OrderResult, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoverySpec, BareMetalDiscoveryStatus, BareMetalHardware, BareMetalImage, BareMetalImageSpec,
    BareMetalInstance, BareMetalInstanceSpec,
    discovery::{AgentSession, IdentityProof},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::config::{Config, UnacceptedPolicy};
use serde::{Serialize, de::DeserializeOwned};

/// The number of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Id(pub u32);

#[derive(Default)]
struct Table {
    numbers: HashMap<String, u32>,
    texts: Vec<Arc<str>>,
    objects: Vec<Arc<dyn Any + Send + Sync>>,
}

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);

/// The number of an object.
pub fn number<T: Serialize + Send + Sync + 'static>(object: T) -> Id {
    let text = format!(
        "{} {}",
        std::any::type_name::<T>(),
        serde_json::to_string(&object).expect("API objects are JSON")
    );
    if let Some(found) = TABLE.read().expect("the table").numbers.get(&text) {
        return Id(*found);
    }
    let mut table = TABLE.write().expect("the table");
    if let Some(found) = table.numbers.get(&text) {
        return Id(*found);
    }
    let new = u32::try_from(table.texts.len()).expect("fewer than 2^32 objects");
    table.texts.push(text.clone().into());
    table.objects.push(Arc::new(object));
    table.numbers.insert(text, new);
    Id(new)
}

/// How many distinct objects there are.
pub fn count() -> usize {
    TABLE.read().expect("the table").texts.len()
}

/// The object of a number.
pub fn object<T: Send + Sync + 'static>(id: Id) -> Arc<T> {
    let found = TABLE.read().expect("the table").objects[id.0 as usize].clone();
    found.downcast().expect("the type it was stored with")
}

/// The same object with machines and instances renamed.
pub fn renamed<T: Serialize + DeserializeOwned + Send + Sync + 'static>(id: Id, machines: bool, instances: bool) -> Id {
    let text = TABLE.read().expect("the table").texts[id.0 as usize].clone();
    let (_, json) = text.split_once(' ').expect("type and JSON");
    let mut json = json.to_owned();
    let mut swap = |a: &str, b: &str| json = json.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b);
    if machines {
        swap("m-0", "m-1");
        swap("DISK0000", "DISK0001");
        swap("session-0-", "session-1-");
    }
    if instances {
        swap("u-0", "u-1");
        swap("i-0", "i-1");
    }
    number(serde_json::from_str::<T>(&json).expect("renaming keeps the form"))
}

pub fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).expect("in range")
}

/// When the machine's session number `n` was opened; a boot of its disk after that session comes half a step later.
pub fn session_time(n: u8) -> Timestamp {
    Timestamp::from_second(1000 + 100 * i64::from(n)).expect("in range")
}

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
        erase_attempts: 3,
        missing_claimant_grace: SignedDuration::ZERO,
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
    Inventory {
        system: SystemIdentity::default(),
        cpu: Cpu::default(),
        memory: Memory::default(),
        disks: vec![Disk {
            name: "sda".to_owned(),
            identity: DiskIdentity {
                serial: Some(format!("DISK000{m}")),
                ..DiskIdentity::default()
            },
            size_bytes: 1 << 30,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            kind: DiskKind::SSD,
            transport: "sata".to_owned(),
            removable: false,
            remote: false,
            read_only: false,
            discard: true,
            contents,
        }],
        nics: vec![Nic {
            name: "eth0".to_owned(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            driver: None,
            speed_mbps: None,
            link: true,
            boot: true,
            pci: None,
            addresses: Vec::new(),
            switch_port: None,
        }],
        pci: Vec::new(),
        gpus: Vec::new(),
        firmware: Firmware {
            mode: FirmwareMode::BIOS,
            secure_boot: None,
        },
        tpm: None,
        bmc: None,
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

/// The result of an order.
pub fn result(order: &Order, outcome: Outcome, contents: DiskContents) -> OrderResult {
    let done = outcome == Outcome::Succeeded;
    let disk = order.disk.as_ref().map(|d| (d.identity.clone(), d.size_bytes)).unwrap_or_default();
    OrderResult {
        order_id: order.id.clone(),
        kind: order.kind,
        outcome,
        fault: (!done).then(|| Fault {
            reason: FaultReason::DiskIO,
            message: "failed".to_owned(),
        }),
        image: (done && order.kind == OrderKind::Image).then(|| ImageEvidence {
            order_id: order.id.clone(),
            disk: disk.0.clone(),
            digest: order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
            written_bytes: 1,
            verified_bytes: 1,
            duration_ms: 1,
            config_drive: None,
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
        contents: Some(contents),
    }
}

/// A hardware object as a policy makes it.
pub fn accepted(m: usize) -> BareMetalHardware {
    let acceptance = lifecycle::policy::Acceptance::default();
    lifecycle::hardware::accepted(&machine_name(m), &inventory(m, DiskContents::blank()), &acceptance)
}
