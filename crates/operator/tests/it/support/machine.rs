//! A simulated machine at the level of objects: it writes its Discovery as netboot would, and is told what `lifecycle` says a session is told.
//!
//! It has a disk that holds something, obeys orders only when the disk holds what they name, and opens its seed with the key of its session.

use std::{collections::VecDeque, time::Duration};

use agent_protocol::{
    bmc::Bmc,
    bmc_user::{self, BmcUser},
    disk::{ContentsState, Disk, DiskContents, DiskIdentity, DiskMarker, Signature},
    guest::GuestAction,
    identity::{MacAddress, SystemUuid},
    inventory::{Cpu, Inventory, Memory, Nic, SystemIdentity},
    order::{EraseEvidence, EraseStrength, Fault, FaultReason, ImageEvidence, Order, OrderKind, OrderResult, Outcome},
    seed::{SealedSeed, SealingKey, Seed, generate_sealing_key, open},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoveryStatus, BareMetalHardware,
    bmc::BmcUserResult,
    discovery::{AgentSession, BootAnswer, BootRecord, GuestReport, IdentityProof},
};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, Client, api::PostParams};
use lifecycle::{
    agent::{SessionFacts, guest_action, instruction},
    boot::{BootFacts, decide},
    identity::Match,
};

pub const NETBOOT: &str = "kube-baremetal-netboot";

/// Where the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Off,
    Agent,
    Disk,
}

pub struct Machine {
    pub name: String,
    pub place: Place,
    pub contents: DiskContents,
    pub disk_bytes: u64,
    pub disk_serial: String,
    pub mac: MacAddress,
    pub threads: u32,
    pub memory: u64,
    /// Ends of the next orders that are not successes.
    pub faults: VecDeque<FaultReason>,
    /// Whether the installed system has the guest helper and obeys it.
    pub guest: bool,
    /// Orders that were obeyed, with their ids.
    pub obeyed: Vec<(OrderKind, String)>,
    /// The last seed that was opened.
    pub seed: Option<Seed>,
    /// Writes of its Discovery.
    pub writes: u32,
    pub proof: IdentityProof,
    /// Its BMC.
    pub bmc: Option<Bmc>,
    /// Its UUID, where SMBIOS has one.
    pub uuid: Option<SystemUuid>,
    pub serial: String,
    /// Pause after a look that found nothing to do.
    pub idle: Duration,
    client: Client,
    config: lifecycle::config::Config,
    key: Option<SealingKey>,
    session: String,
    boots: u64,
}

pub fn foreign(label: &str) -> DiskContents {
    use sha2::{Digest, Sha256};
    DiskContents {
        state: ContentsState::Foreign,
        fingerprint: hex::encode(Sha256::digest(label)),
        signatures: vec![Signature {
            kind: "ext4".to_owned(),
            offset: 1 << 20,
            uuid: None,
            label: Some(label.to_owned()),
        }],
        marker: None,
    }
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

impl Machine {
    pub fn new(client: &Client, name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            place: Place::Off,
            contents: DiskContents::blank(),
            disk_bytes: 20 << 30,
            disk_serial: format!("S{number:03}"),
            mac: MacAddress([0x52, 0x54, 0, 0, 1, number]),
            threads: 4,
            memory: 8 << 30,
            faults: VecDeque::new(),
            guest: true,
            obeyed: Vec::new(),
            seed: None,
            writes: 0,
            proof: IdentityProof::Asserted,
            bmc: None,
            uuid: None,
            serial: format!("SN-{name}"),
            idle: Duration::from_millis(25),
            client: client.clone(),
            config: lifecycle::config::Config {
                allow_asserted_identity: true,
                ..lifecycle::config::Config::default()
            },
            key: None,
            session: String::new(),
            boots: 0,
        }
    }

    fn discoveries(&self) -> Api<BareMetalDiscovery> {
        Api::all(self.client.clone())
    }

    pub fn inventory(&self) -> Inventory {
        Inventory {
            system: SystemIdentity {
                vendor: Some("Example".to_owned()),
                product: Some("Desktop 1".to_owned()),
                uuid: self.uuid,
                serial: Some(self.serial.clone()),
                ..SystemIdentity::default()
            },
            cpu: Cpu {
                architecture: "amd64".to_owned(),
                sockets: 1,
                cores: self.threads / 2,
                threads: self.threads,
                ..Cpu::default()
            },
            memory: Memory {
                bytes: self.memory,
                dimms: Vec::new(),
            },
            disks: vec![Disk {
                contents: self.contents.clone(),
                ..Disk::blank("sda", self.identity(), self.disk_bytes)
            }],
            nics: vec![Nic {
                name: "eth0".to_owned(),
                mac: self.mac,
                driver: Some("e1000e".to_owned()),
                speed_mbps: Some(1000),
                link: true,
                boot: true,
                switch_port: Some("switch1 port 14".to_owned()),
                ..Nic::default()
            }],
            bmc: self.bmc.clone(),
            ..Inventory::default()
        }
    }

    pub fn identity(&self) -> DiskIdentity {
        DiskIdentity {
            serial: Some(self.disk_serial.clone()),
            model: Some("SIM".to_owned()),
            ..DiskIdentity::default()
        }
    }

    pub async fn hardware(&self) -> Option<BareMetalHardware> {
        Api::all(self.client.clone()).get_opt(&self.name).await.unwrap()
    }

    pub async fn discovery(&self) -> Option<BareMetalDiscovery> {
        self.discoveries().get_opt(&self.name).await.unwrap()
    }

    async fn note(&mut self, change: impl FnOnce(&mut BareMetalDiscoveryStatus)) {
        let mut discovery = self.discovery().await.expect("a machine that was seen");
        change(discovery.status.get_or_insert_default());
        self.discoveries()
            .replace(&self.name, &PostParams::default(), &discovery)
            .await
            .unwrap();
        self.writes += 1;
    }

    /// Power on: the boot server says where to.
    pub async fn power_on(&mut self) {
        let discovery = self.discovery().await;
        let hardware = self.hardware().await;
        let matched = if discovery.is_some() {
            Match::Known(self.name.clone())
        } else {
            Match::New
        };
        let decision = decide(&BootFacts {
            matched: &matched,
            discovery: discovery.as_ref(),
            hardware: hardware.as_ref(),
            conflict_known: false,
            has_media: true,
            config: &self.config,
            now: jiff::Timestamp::now(),
        });
        match decision.answer {
            BootAnswer::Agent => self.open_session().await,
            BootAnswer::LocalDisk => {
                if decision.record {
                    self.note(|s| {
                        s.boots.push(BootRecord {
                            time: now(),
                            answer: BootAnswer::LocalDisk,
                            reason: decision.reason.to_owned(),
                            instance_uid: decision.instance_uid.clone(),
                        });
                    })
                    .await;
                }
                self.place = Place::Disk;
                if self.guest && self.contents.state == ContentsState::Marked && self.seed.as_ref().is_some_and(|s| s.guest_helper) {
                    let uid = decision.instance_uid.clone();
                    self.note(|s| {
                        s.guest = Some(GuestReport {
                            instance_uid: uid,
                            nonce: "n".to_owned(),
                            signing_key: String::new(),
                            hostname: "h".to_owned(),
                            addresses: Vec::new(),
                            boot_id: "b".to_owned(),
                            registered_at: now(),
                            booted_at: None,
                            came_instead: false,
                            times_instead: 0,
                        });
                    })
                    .await;
                }
            }
        }
    }

    /// The user that this session is asked to make in its BMC.
    pub async fn bmc_user(&self) -> Option<BmcUser> {
        let asked = self.hardware().await?.status?.bmc_user?.sealed;
        (asked.thumbprint == format!("t-{}", self.session)).then(|| bmc_user::open(&asked, self.key.as_ref().unwrap()).unwrap())
    }

    /// What became of it.
    pub async fn answer_about_bmc_user(&mut self, fault: &str) {
        let asked = self
            .hardware()
            .await
            .and_then(|h| h.status?.bmc_user)
            .expect("something is asked for");
        self.note(|s| {
            s.bmc_user = Some(BmcUserResult {
                id: asked.sealed.id,
                at: now(),
                fault: fault.to_owned(),
            });
        })
        .await;
    }

    pub async fn open_session(&mut self) {
        self.boots += 1;
        let (key, public) = generate_sealing_key().unwrap();
        self.key = Some(key);
        self.session = format!("s-{}-{}", self.name, self.boots);
        let session = AgentSession {
            id: self.session.clone(),
            nonce: self.session.clone(),
            token_issued_at: 0,
            thumbprint: format!("t-{}", self.session),
            signing_key: String::new(),
            sealing_key: public,
            boot_mac: self.mac,
            uuid: None,
            address: "10.0.0.1".to_owned(),
            replica: "r".to_owned(),
            opened_at: now(),
            agent_version: "0.1.0".to_owned(),
            proof: self.proof,
        };
        let inventory = self.inventory();
        self.place = Place::Agent;
        if self.discovery().await.is_none() {
            let mut discovery: BareMetalDiscovery = serde_json::from_value(serde_json::json!({
                "apiVersion": "kube-baremetal.io/v1alpha1", "kind": "BareMetalDiscovery", "metadata": { "name": self.name }, "spec": {}
            }))
            .unwrap();
            discovery.status = Some(BareMetalDiscoveryStatus {
                inventory: Some(inventory),
                session: Some(session),
                last_boot: Some(now()),
                ..BareMetalDiscoveryStatus::default()
            });
            self.discoveries().create(&PostParams::default(), &discovery).await.unwrap();
            self.writes += 1;
            return;
        }
        self.note(|s| {
            s.inventory = Some(inventory);
            s.session = Some(session);
            s.last_boot = Some(now());
            s.progress = None;
        })
        .await;
    }

    /// One look at what is wanted of it; whether something was done.
    pub async fn step(&mut self) -> bool {
        match self.place {
            Place::Off => false,
            Place::Disk => {
                let uid = match &self.contents.marker {
                    Some(marker) if self.contents.state == ContentsState::Marked => marker.instance_uid.clone(),
                    _ => return false,
                };
                if !self.guest {
                    return false;
                }
                match guest_action(
                    self.hardware().await.as_ref(),
                    self.discovery().await.as_ref(),
                    &uid,
                    jiff::Timestamp::now(),
                ) {
                    GuestAction::Wait => false,
                    GuestAction::RebootToAgent => {
                        self.power_on().await;
                        true
                    }
                    GuestAction::PowerOff => {
                        self.place = Place::Off;
                        true
                    }
                }
            }
            Place::Agent => {
                let Some(discovery) = self.discovery().await else { return false };
                let hardware = self.hardware().await;
                let told = instruction(&SessionFacts {
                    discovery: &discovery,
                    hardware: hardware.as_ref(),
                    session: &self.session,
                    config: &self.config,
                    now: jiff::Timestamp::now(),
                });
                if let Some(accept) = told.accept.clone() {
                    self.note(|s| {
                        s.accepted_order = Some(accept);
                        s.progress = None;
                    })
                    .await;
                }
                match told.order.kind {
                    OrderKind::Wait => false,
                    OrderKind::Reboot => {
                        self.power_on().await;
                        true
                    }
                    OrderKind::PowerOff => {
                        self.place = Place::Off;
                        true
                    }
                    OrderKind::Erase | OrderKind::Image => {
                        self.obey(told.order).await;
                        true
                    }
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        let target = order.disk.clone().unwrap();
        let mut result = OrderResult {
            order_id: order.id.clone(),
            kind: order.kind,
            outcome: Outcome::Succeeded,
            fault: None,
            image: None,
            erase: None,
            contents: None,
        };
        let refuse = |result: &mut OrderResult, outcome, reason: FaultReason| {
            result.outcome = outcome;
            result.fault = Some(Fault {
                reason,
                message: format!("simulated {reason:?}"),
            });
        };
        let claim = order.claim.clone();
        if !target.identity.same_disk(&self.identity()) {
            refuse(&mut result, Outcome::Refused, FaultReason::DiskNotFound);
        } else if target.size_bytes != self.disk_bytes {
            refuse(&mut result, Outcome::Refused, FaultReason::DiskSizeMismatch);
        } else if !target.permits(&order.id, &self.contents) {
            refuse(&mut result, Outcome::Refused, FaultReason::UnexpectedContents);
        } else if let Some(reason) = self.faults.pop_front() {
            refuse(&mut result, Outcome::Failed, reason);
            self.contents = self.marked(&order, ContentsState::Interrupted);
        } else if order.kind == OrderKind::Erase {
            self.obeyed.push((OrderKind::Erase, order.id.clone()));
            self.contents = DiskContents::blank();
            result.erase = Some(EraseEvidence {
                order_id: order.id.clone(),
                claim_uid: claim.map(|c| c.uid).unwrap_or_default(),
                disk: self.identity(),
                size_bytes: self.disk_bytes,
                method: "write zeros".to_owned(),
                strength: EraseStrength::Overwritten,
                duration_ms: 5,
                sampled_blocks: 64,
                canaries: 4,
            });
        } else {
            let parameters = order.image.clone().unwrap();
            if parameters.config_drive {
                match self.fetch_seed(&order.id).await {
                    Some(seed) => self.seed = Some(seed),
                    // Not sealed for this session yet: asked again at the next step, as the agent does.
                    None => return,
                }
            }
            self.obeyed.push((OrderKind::Image, order.id.clone()));
            self.contents = self.marked(&order, ContentsState::Marked);
            result.image = Some(ImageEvidence {
                order_id: order.id.clone(),
                disk: self.identity(),
                digest: parameters.digest,
                written_bytes: 1 << 30,
                verified_bytes: 1 << 30,
                fetched_bytes: None,
                reused_bytes: None,
                duration_ms: 5,
                config_drive: Some("partition 2".to_owned()),
                sector_bytes: 512,
                own_ranges: Vec::new(),
                boot_entry: None,
            });
        }
        result.contents = Some(self.contents.clone());
        self.note(|s| {
            s.result = Some(result);
            s.result_time = Some(now());
        })
        .await;
    }

    pub fn marked(&self, order: &Order, state: ContentsState) -> DiskContents {
        let claim = order.claim.clone();
        DiskContents {
            state,
            marker: Some(DiskMarker {
                instance_uid: claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
                instance: claim.map(|c| format!("{}/{}", c.namespace, c.name)).unwrap_or_default(),
                hardware: order.hardware.clone(),
                image_digest: order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
                order_id: order.id.clone(),
            }),
            ..foreign(&format!("{state:?}-{}", order.id))
        }
    }

    async fn fetch_seed(&self, order: &str) -> Option<Seed> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NETBOOT);
        let secret = secrets.get_opt(&format!("seed-{}", self.name)).await.unwrap()?;
        let sealed: SealedSeed = serde_json::from_slice(&secret.data?.get("sealed.json")?.0).unwrap();
        if sealed.order_id != order || sealed.thumbprint != format!("t-{}", self.session) {
            return None;
        }
        Some(open(&sealed, self.key.as_ref()?).expect("sealed to this session"))
    }

    /// Lives until `done` says so of its hardware; panics with the last state after `seconds`.
    pub async fn live_until(&mut self, seconds: u64, what: &str, mut done: impl FnMut(&BareMetalHardware) -> bool) -> BareMetalHardware {
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            let acted = self.step().await;
            let hardware = self.hardware().await;
            if let Some(hardware) = &hardware
                && done(hardware)
            {
                return hardware.clone();
            }
            if tokio::time::Instant::now() >= end {
                let status = hardware.map(|h| (h.spec.claim_ref.map(|c| c.name), h.status.map(|s| (s.phase, s.reason, s.message))));
                let seen = self.discovery().await.and_then(|d| d.status);
                let seen = seen.map(|s| (s.accepted_order.map(|o| o.id), s.result.map(|r| (r.order_id, r.outcome))));
                panic!(
                    "{} did not come to: {what}; it is at {:?}, its hardware at {status:?}, its orders {seen:?}",
                    self.name, self.place
                );
            }
            if !acted {
                tokio::time::sleep(self.idle).await;
            }
        }
    }
}
