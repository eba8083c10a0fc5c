//! A small world: one machine, its objects, and an operator that carries decisions out in memory. Counts writes.

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents, DiskIdentity, DiskMarker, Signature},
    identity::MacAddress,
    inventory::{Cpu, Firmware, FirmwareMode, Inventory, Memory, Nic, SystemIdentity},
    order::{EraseEvidence, EraseStrength, Fault, FaultReason, ImageEvidence, ImageFormat, Order, OrderKind, OrderResult, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoverySpec, BareMetalDiscoveryStatus, BareMetalHardware, BareMetalImage, BareMetalImageSpec,
    BareMetalInstance, BareMetalInstanceSpec, HardwarePhase, InstancePhase,
    discovery::{AgentSession, BootAnswer, BootRecord, GuestReport, IdentityProof},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use lifecycle::{
    agent::{self, SessionFacts},
    boot::{self, BootFacts},
    config::Config,
    hardware::{self, HardwareFacts, Readiness, SealedFor, SeedAction, SpecChange},
    identity::Match,
    idle::IdleFacts,
    instance::{self, InstanceChange, InstanceFacts},
    policy::Acceptance,
    power::PowerFacts,
    scheduler::{self, Placement},
};

pub const NAME: &str = "m-aaaaaaaaaa";

pub fn disk(name: &str, serial: &str, gib: u64) -> Disk {
    let identity = DiskIdentity {
        wwn: None,
        serial: Some(serial.to_owned()),
        model: Some("Model".to_owned()),
        by_path: Some(format!("pci-0000:00:04.0-ata-{name}")),
    };
    Disk::blank(name, identity, gib << 30)
}

pub fn nic(name: &str, last: u8, boot: bool) -> Nic {
    Nic {
        name: name.to_owned(),
        mac: MacAddress([0x52, 0x54, 0, 0, 0, last]),
        speed_mbps: Some(1000),
        link: true,
        boot,
        switch_port: Some("switch1 port 14".to_owned()),
        ..Nic::default()
    }
}

pub fn inventory() -> Inventory {
    Inventory {
        system: SystemIdentity {
            uuid: "4c4c4544-0042-3510-8054-b4c04f4d3132".parse().ok(),
            vendor: Some("Dell Inc.".to_owned()),
            product: Some("OptiPlex 7010".to_owned()),
            serial: Some("B5TXM12".to_owned()),
            board_serial: Some("CN123456".to_owned()),
            ..SystemIdentity::default()
        },
        cpu: Cpu {
            architecture: "amd64".to_owned(),
            sockets: 1,
            cores: 4,
            threads: 8,
            ..Cpu::default()
        },
        memory: Memory {
            bytes: 16 << 30,
            dimms: Vec::new(),
        },
        disks: vec![disk("sda", "S3Z00001", 64)],
        nics: vec![nic("eth0", 1, true)],
        firmware: Firmware {
            mode: FirmwareMode::UEFI,
            secure_boot: Some(false),
        },
        ..Inventory::default()
    }
}

pub fn foreign(label: &str) -> DiskContents {
    DiskContents {
        state: ContentsState::Foreign,
        fingerprint: format!("{:0>64}", hex(label)),
        signatures: vec![Signature {
            kind: "ext4".to_owned(),
            offset: 1 << 20,
            uuid: None,
            label: Some(label.to_owned()),
        }],
        marker: None,
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

pub fn instance(name: &str, uid: &str) -> BareMetalInstance {
    let mut made = BareMetalInstance::new(
        name,
        BareMetalInstanceSpec {
            image: "debian-13".to_owned(),
            running: true,
            guest_helper: true,
            config_drive: true,
            ..BareMetalInstanceSpec::default()
        },
    );
    made.metadata.namespace = Some("default".to_owned());
    made.metadata.uid = Some(uid.to_owned());
    made.metadata.generation = Some(1);
    made.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    made
}

pub fn image(name: &str) -> BareMetalImage {
    BareMetalImage::new(
        name,
        BareMetalImageSpec {
            url: "http://images.example/debian.raw".to_owned(),
            digest: format!("sha256:{:0>64}", hex(name)),
            format: ImageFormat::Raw,
            ..BareMetalImageSpec::default()
        },
    )
}

pub struct World {
    pub now: Timestamp,
    pub config: Config,
    pub discovery: BareMetalDiscovery,
    pub hardware: BareMetalHardware,
    pub instances: Vec<BareMetalInstance>,
    pub images: Vec<BareMetalImage>,
    pub sealed: Option<SealedFor>,
    pub endpoints: Readiness,
    pub seed_input: Readiness,
    /// Of a machine with a power driver.
    pub power: Option<PowerFacts>,
    /// What becomes of it while nobody needs it.
    pub idle: IdleFacts,
    /// What the disk really holds.
    pub disk: DiskContents,
    pub writes: usize,
    pub events: Vec<String>,
    pub addresses_held: bool,
    salt: u64,
    sessions: u32,
}

impl World {
    pub fn new() -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut discovery = BareMetalDiscovery::new(NAME, BareMetalDiscoverySpec {});
        discovery.metadata.creation_timestamp = Some(Time(now));
        discovery.status = Some(BareMetalDiscoveryStatus::default());
        let mut hardware = hardware::accepted(NAME, &inventory(), &Acceptance::default());
        hardware.metadata.generation = Some(1);
        Self {
            now,
            config: Config {
                allow_asserted_identity: true,
                ..Config::default()
            },
            discovery,
            hardware,
            instances: Vec::new(),
            images: vec![image("debian-13"), image("debian-12")],
            sealed: None,
            endpoints: Readiness::Ready,
            seed_input: Readiness::Ready,
            power: None,
            idle: IdleFacts::default(),
            disk: DiskContents::blank(),
            writes: 0,
            events: Vec::new(),
            addresses_held: false,
            salt: 0,
            sessions: 0,
        }
    }

    pub fn seen(&mut self) -> &mut BareMetalDiscoveryStatus {
        self.discovery.status.get_or_insert_default()
    }

    pub fn status(&self) -> api::BareMetalHardwareStatus {
        self.hardware.status.clone().unwrap_or_default()
    }

    pub fn phase(&self) -> HardwarePhase {
        self.status().phase
    }

    pub fn instance_status(&self, at: usize) -> api::BareMetalInstanceStatus {
        self.instances[at].status.clone().unwrap_or_default()
    }

    pub fn instance_phase(&self, at: usize) -> InstancePhase {
        self.instance_status(at).phase
    }

    pub fn condition(&self, kind: &str) -> Option<(String, String)> {
        let status = self.status();
        let found = status.conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
        Some((found.reason.clone(), found.message.clone()))
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    /// The machine boots into the agent and opens a session with what its disks really hold.
    pub fn agent_boots(&mut self) -> String {
        let mut inventory = inventory();
        inventory.disks[0].contents = self.disk.clone();
        self.agent_boots_with(inventory)
    }

    pub fn agent_boots_with(&mut self, inventory: Inventory) -> String {
        self.pass(1);
        self.sessions += 1;
        let id = format!("session-{}", self.sessions);
        let now = Time(self.now);
        let seen = self.seen();
        seen.inventory = Some(inventory);
        seen.session = Some(AgentSession {
            id: id.clone(),
            nonce: format!("nonce-{id}"),
            token_issued_at: 0,
            thumbprint: format!("thumb-{id}"),
            signing_key: "c2lnbg==".to_owned(),
            sealing_key: "c2VhbA==".to_owned(),
            boot_mac: MacAddress([0x52, 0x54, 0, 0, 0, 1]),
            uuid: None,
            address: "192.0.2.7".to_owned(),
            replica: "r".to_owned(),
            opened_at: now,
            agent_version: "0".to_owned(),
            proof: IdentityProof::Asserted,
        });
        self.writes += 1;
        id
    }

    /// What the machine is told to boot; recorded where it must be.
    pub fn boot_request(&mut self) -> BootAnswer {
        let matched = Match::Known(NAME.to_owned());
        let decision = boot::decide(&BootFacts {
            matched: &matched,
            discovery: Some(&self.discovery),
            hardware: Some(&self.hardware),
            conflict_known: false,
            has_media: true,
            config: &self.config,
            now: self.now,
        });
        if decision.record {
            let now = Time(self.now);
            self.writes += 1;
            self.seen().boots.push(BootRecord {
                time: now,
                answer: decision.answer,
                reason: decision.reason.to_owned(),
                instance_uid: decision.instance_uid,
            });
        }
        decision.answer
    }

    /// What the live session is told; acceptance is noted.
    pub fn poll(&mut self) -> Order {
        let session = self.seen().session.as_ref().map(|s| s.id.clone()).unwrap_or_default();
        let told = agent::instruction(&SessionFacts {
            discovery: &self.discovery,
            hardware: Some(&self.hardware),
            session: &session,
            config: &self.config,
            now: self.now,
        });
        if let Some(accept) = told.accept {
            self.seen().accepted_order = Some(accept);
            self.writes += 1;
        }
        told.order
    }

    pub fn store(&mut self, result: OrderResult) {
        let now = Time(self.now);
        let seen = self.seen();
        seen.result = Some(result);
        seen.result_time = Some(now);
        self.writes += 1;
    }

    /// An honest agent: looks first, then does what the order says.
    pub fn obey(&mut self, order: &Order) {
        let target = order.disk.as_ref().expect("destructive orders name a disk");
        let base = OrderResult {
            order_id: order.id.clone(),
            kind: order.kind,
            outcome: Outcome::Succeeded,
            fault: None,
            image: None,
            erase: None,
            contents: None,
        };
        if !target.permits(&order.id, &self.disk) {
            let contents = self.disk.clone();
            self.store(OrderResult {
                outcome: Outcome::Refused,
                fault: Some(Fault {
                    reason: FaultReason::UnexpectedContents,
                    message: "the disk holds something else".to_owned(),
                }),
                contents: Some(contents),
                ..base
            });
            return;
        }
        let claim_uid = order.claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default();
        match order.kind {
            OrderKind::Erase => {
                self.disk = DiskContents::blank();
                self.store(OrderResult {
                    erase: Some(EraseEvidence {
                        order_id: order.id.clone(),
                        claim_uid,
                        disk: target.identity.clone(),
                        size_bytes: target.size_bytes,
                        method: "BLKDISCARD".to_owned(),
                        strength: EraseStrength::Discarded,
                        duration_ms: 1,
                        sampled_blocks: 1,
                        canaries: 1,
                    }),
                    contents: Some(DiskContents::blank()),
                    ..base
                });
            }
            OrderKind::Image => {
                let digest = order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default();
                self.disk = marked(order, &digest, ContentsState::Marked);
                let contents = self.disk.clone();
                self.store(OrderResult {
                    image: Some(ImageEvidence {
                        order_id: order.id.clone(),
                        disk: target.identity.clone(),
                        digest,
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
                    contents: Some(contents),
                    ..base
                });
            }
            OrderKind::Wait | OrderKind::Reboot | OrderKind::PowerOff => panic!("nothing to obey in {:?}", order.kind),
        }
    }

    pub fn fail(&mut self, order: &Order, outcome: Outcome, reason: FaultReason, contents: Option<DiskContents>) {
        self.store(OrderResult {
            order_id: order.id.clone(),
            kind: order.kind,
            outcome,
            fault: Some(Fault {
                reason,
                message: format!("{reason:?} happened"),
            }),
            image: None,
            erase: None,
            contents,
        });
    }

    pub fn guest_reports(&mut self, uid: &str) {
        let now = Time(self.now);
        self.writes += 1;
        self.seen().guest = Some(GuestReport {
            instance_uid: uid.to_owned(),
            nonce: "n".to_owned(),
            signing_key: "k".to_owned(),
            hostname: "web".to_owned(),
            addresses: vec!["192.0.2.9/24".to_owned()],
            boot_id: "b".to_owned(),
            registered_at: now,
            booted_at: None,
            came_instead: false,
            times_instead: 0,
        });
    }

    pub fn hardware_decision(&mut self) -> hardware::HardwareDecision {
        self.salt += 1;
        let claim = self.hardware.spec.claim_ref.clone();
        let claimant = match &claim {
            Some(claim) => self.instances.iter().find(|i| i.metadata.name.as_ref() == Some(&claim.name)),
            None => hardware::choose_claimant(self.instances.iter().filter(|i| i.spec.hardware_name.as_deref() == Some(NAME))),
        };
        let image = claimant.and_then(|c| self.images.iter().find(|i| i.metadata.name.as_ref() == Some(&c.spec.image)));
        hardware::decide(&HardwareFacts {
            power: self.power.as_ref(),
            idle: self.idle,
            hardware: &self.hardware,
            discovery: Some(&self.discovery),
            claimant,
            image,
            endpoints: &self.endpoints,
            seed_input: &self.seed_input,
            sealed: self.sealed.as_ref(),
            salt: self.salt,
            config: &self.config,
            now: self.now,
        })
    }

    /// One step of the operator for the machine; whether anything was written.
    pub fn step_hardware(&mut self) -> bool {
        let decision = self.hardware_decision();
        let before = self.writes;
        match decision.seed {
            SeedAction::Keep => {}
            SeedAction::SealFor { order_id, thumbprint, .. } => {
                self.sealed = Some(SealedFor { order_id, thumbprint });
                self.writes += 1;
            }
            SeedAction::Delete => {
                self.sealed = None;
                self.writes += 1;
            }
        }
        if decision.release_addresses && self.addresses_held {
            self.addresses_held = false;
            self.writes += 1;
        }
        assert!(decision.status.is_none() || decision.spec.is_none(), "one write at a time");
        if let Some(status) = decision.status {
            assert_ne!(
                Some(&status),
                self.hardware.status.as_ref(),
                "a status is reported only when it differs"
            );
            self.hardware.status = Some(status);
            self.writes += 1;
        }
        if let Some(change) = decision.spec {
            self.hardware.spec.claim_ref = match change {
                SpecChange::SetClaim(claim) => Some(claim),
                SpecChange::ClearClaim => None,
            };
            self.hardware.metadata.generation = self.hardware.metadata.generation.map(|g| g + 1);
            self.writes += 1;
        }
        let wrote = self.writes > before;
        if wrote {
            self.events.extend(decision.events.iter().map(|e| e.reason.to_owned()));
        }
        wrote
    }

    pub fn step_instance(&mut self, at: usize) -> bool {
        let instance = &self.instances[at];
        let spoken_for = self.instances.iter().filter_map(|i| i.spec.hardware_name.clone()).collect();
        let placement: Option<Placement> = (instance.spec.hardware_name.is_none() && instance.metadata.deletion_timestamp.is_none())
            .then(|| scheduler::schedule(instance, [&self.hardware], &spoken_for));
        let decision = instance::decide(&InstanceFacts {
            instance,
            hardware: Some(&self.hardware).filter(|_| instance.spec.hardware_name.as_deref() == Some(NAME)),
            discovery: Some(&self.discovery),
            endpoints: &[],
            image: None,
            placement: placement.as_ref(),
            synced: true,
            config: &self.config,
            now: self.now,
        });
        let before = self.writes;
        assert!(decision.status.is_none() || decision.change.is_none(), "one write at a time");
        if let Some(status) = decision.status {
            assert_ne!(
                Some(&status),
                self.instances[at].status.as_ref(),
                "a status is reported only when it differs"
            );
            self.instances[at].status = Some(status);
            self.writes += 1;
        }
        match decision.change {
            Some(InstanceChange::Bind(name)) => {
                let old = self.instances[at].spec.hardware_name.replace(name.clone());
                assert!(old.is_none_or(|o| o == name), "an instance never moves");
                self.instances[at].metadata.finalizers = Some(vec![api::FINALIZER_RELEASE.to_owned()]);
                self.instances[at].metadata.generation = Some(2);
                self.writes += 1;
            }
            Some(InstanceChange::RemoveFinalizer) => {
                self.instances[at].metadata.finalizers = None;
                self.writes += 1;
                if self.instances[at].metadata.deletion_timestamp.is_some() {
                    self.instances.remove(at);
                }
            }
            None => {}
        }
        let wrote = self.writes > before;
        if wrote {
            self.events.extend(decision.events.iter().map(|e| e.reason.to_owned()));
        }
        wrote
    }

    /// The operator until nothing changes any more.
    pub fn settle(&mut self) {
        for _ in 0..40 {
            let mut wrote = self.step_hardware();
            let mut at = 0;
            while at < self.instances.len() {
                let count = self.instances.len();
                wrote |= self.step_instance(at);
                at += usize::from(self.instances.len() == count);
            }
            if !wrote {
                return;
            }
        }
        panic!(
            "the operator does not come to rest: {:?}, {:?}",
            self.hardware.status,
            self.instances.iter().map(|i| &i.status).collect::<Vec<_>>()
        );
    }

    pub fn delete(&mut self, at: usize) {
        self.pass(1);
        self.instances[at].metadata.deletion_timestamp = Some(Time(self.now));
    }

    /// A machine that was accepted, is blank, and is Ready.
    pub fn ready() -> Self {
        let mut world = Self::new();
        world.agent_boots();
        world.settle();
        assert_eq!(world.phase(), HardwarePhase::Ready);
        world
    }

    /// A machine that has an instance's image order in hand.
    pub fn imaging() -> (Self, Order) {
        let mut world = Self::ready();
        world.instances.push(instance("web", "uid-1"));
        world.settle();
        let order = world.poll();
        assert_eq!(order.kind, OrderKind::Image);
        world.settle();
        (world, order)
    }

    /// The image stands: the machine is sent to its disk, and its guest helper reports.
    pub fn starts_to_run(&mut self) {
        assert_eq!(self.poll().kind, OrderKind::Reboot);
        self.pass(1);
        assert_eq!(self.boot_request(), BootAnswer::LocalDisk);
        self.guest_reports("uid-1");
        self.settle();
        assert_eq!(self.instance_phase(0), InstancePhase::Running);
    }

    /// A machine on which an instance runs.
    pub fn running() -> Self {
        let (mut world, order) = Self::imaging();
        world.obey(&order);
        world.settle();
        world.starts_to_run();
        world
    }
}

pub fn marked(order: &Order, digest: &str, state: ContentsState) -> DiskContents {
    let claim = order.claim.clone();
    DiskContents {
        state,
        fingerprint: "ff".repeat(32),
        signatures: Vec::new(),
        marker: Some(DiskMarker {
            instance_uid: claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
            instance: claim.map(|c| format!("{}/{}", c.namespace, c.name)).unwrap_or_default(),
            hardware: NAME.to_owned(),
            image_digest: digest.to_owned(),
            order_id: order.id.clone(),
        }),
    }
}

pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}
