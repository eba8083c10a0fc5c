//! The real decisions on numbered objects, remembered per thread: they are pure, so one call per distinct question is enough. Planted bugs change the facts before, or the answer
//! after; nothing else stands between the model and the functions under test.

use std::{cell::RefCell, collections::HashMap, hash::Hash};

use agent_protocol::{
    disk::{ContentsState, DiskContents},
    guest::GuestAction,
    order::{ExpectedContents, Order, OrderKind, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalInstance, HardwarePhase, InstancePhase,
    discovery::{BootAnswer, BootRecord},
    hardware::{ClaimRef, InstalledEvidence, InstalledImage},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    agent::{self, SessionFacts},
    boot::{self, BootFacts},
    hardware::{self, HardwareFacts, Readiness, SpecChange},
    identity::Match,
    instance::{self, InstanceChange, InstanceFacts},
    scheduler::Placement,
};

use crate::{
    mutants::Mutant,
    objects::{self, Id, config, machine_name, now, number, object, session_time},
};

/// One machine's or instance's objects as somebody sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct View {
    pub hw: Option<Id>,
    pub disc: Option<Id>,
    pub inst: [Option<Id>; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    Hardware(View, u8),
    Instance(usize, Id, Option<Id>, Option<Id>, Option<u8>),
    Poll(usize, Option<Id>, Option<Id>),
    Boot(usize, Option<Id>, Option<Id>, u8),
    Guest(Option<Id>, usize),
}

/// What the operator writes for a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardwareWrite {
    pub hw: Id,
    pub new_order: bool,
}

/// What the operator writes for an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstanceWrite {
    New(Id),
    Gone,
}

/// What an agent is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Wait,
    Reboot,
    /// The order, and the discovery with its acceptance.
    Destructive(Id, Id),
}

/// What a machine is told to boot; the discovery with the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootTold {
    Agent,
    Disk(Option<usize>, Id),
}

#[derive(Clone, Copy)]
enum Answer {
    Hardware(Option<HardwareWrite>),
    Instance(Option<InstanceWrite>),
    Poll(Told),
    Boot(BootTold),
    Guest(bool),
}

/// What the invariants need to know of a hardware object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardwareSays {
    pub claim: Option<usize>,
    pub phase: HardwarePhase,
    pub free: bool,
    pub erased_for: Option<usize>,
    /// Instances whose release is on record, as bits.
    pub released: u8,
}

/// What the invariants need to know of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstanceSays {
    pub machine: Option<usize>,
    pub deleting: bool,
    pub claimed: bool,
    pub running: bool,
}

thread_local! {
    static ANSWERS: RefCell<HashMap<(Option<Mutant>, Question), Answer>> = RefCell::default();
    static HARDWARE: RefCell<HashMap<Id, HardwareSays>> = RefCell::default();
    static INSTANCES: RefCell<HashMap<Id, InstanceSays>> = RefCell::default();
}

fn remembered<K: Hash + Eq + Copy + 'static, V: Copy + 'static>(
    table: &'static std::thread::LocalKey<RefCell<HashMap<K, V>>>,
    key: K,
    make: impl FnOnce() -> V,
) -> V {
    if let Some(found) = table.with_borrow(|t| t.get(&key).copied()) {
        return found;
    }
    let made = make();
    table.with_borrow_mut(|t| t.insert(key, made));
    made
}

pub fn hardware_says(id: Id) -> HardwareSays {
    remembered(&HARDWARE, id, || {
        let hw = object::<BareMetalHardware>(id);
        let status = hw.status.clone().unwrap_or_default();
        HardwareSays {
            claim: hw.spec.claim_ref.as_ref().and_then(|c| objects::instance_of(&c.uid)),
            phase: status.phase,
            free: hardware::is_free(&hw),
            erased_for: status.last_erase.as_ref().and_then(|e| objects::instance_of(&e.claim_uid)),
            released: status.released_claims.iter().filter_map(|u| objects::instance_of(u)).fold(0, |bits, i| bits | 1 << i),
        }
    })
}

pub fn instance_says(id: Id) -> InstanceSays {
    remembered(&INSTANCES, id, || {
        let inst = object::<BareMetalInstance>(id);
        let machine = inst.spec.hardware_name.as_ref().and_then(|n| n.strip_prefix("m-")?.parse().ok());
        InstanceSays {
            machine,
            deleting: inst.metadata.deletion_timestamp.is_some(),
            claimed: inst.status.as_ref().is_some_and(|s| s.claimed),
            running: inst.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Running),
        }
    })
}

/// What the operator does for a machine.
pub fn hardware(mutant: Option<Mutant>, view: View, salt: u8) -> Option<HardwareWrite> {
    let answer = remembered(&ANSWERS, (mutant, Question::Hardware(view, salt)), || {
        Answer::Hardware(ask_hardware(mutant, view, salt))
    });
    match answer {
        Answer::Hardware(write) => write,
        Answer::Instance(_) | Answer::Poll(_) | Answer::Boot(_) | Answer::Guest(_) => unreachable!("asked about hardware"),
    }
}

fn ask_hardware(mutant: Option<Mutant>, view: View, salt: u8) -> Option<HardwareWrite> {
    let stored = object::<BareMetalHardware>(view.hw?);
    let mut hw = (*stored).clone();
    let name = hw.metadata.name.clone().unwrap_or_default();
    let mut disc = view.disc.map(|d| (*object::<BareMetalDiscovery>(d)).clone());
    let mut insts: Vec<BareMetalInstance> = view
        .inst
        .iter()
        .flatten()
        .map(|i| (*object::<BareMetalInstance>(*i)).clone())
        .collect();
    change_hardware_facts(mutant, &mut hw, disc.as_mut(), &mut insts, &name);
    let claimant = match &hw.spec.claim_ref {
        Some(claim) => insts.iter().find(|i| i.metadata.name.as_ref() == Some(&claim.name)),
        None => hardware::choose_claimant(
            insts
                .iter()
                .filter(|i| mutant == Some(Mutant::ClaimsUnnamed) || i.spec.hardware_name.as_ref() == Some(&name)),
        ),
    };
    let named;
    let claimant = match claimant {
        Some(found) if mutant == Some(Mutant::ClaimsUnnamed) && found.metadata.deletion_timestamp.is_none() => {
            let mut changed = found.clone();
            changed.spec.hardware_name = Some(name.clone());
            changed.metadata.finalizers = Some(vec![api::FINALIZER_RELEASE.to_owned()]);
            named = changed;
            Some(&named)
        }
        other => other,
    };
    let (image, config) = (objects::image(), config());
    let decision = hardware::decide(&HardwareFacts {
        hardware: &hw,
        discovery: disc.as_ref(),
        claimant,
        image: Some(&image),
        endpoints: &Readiness::Ready,
        seed_input: &Readiness::Ready,
        sealed: None,
        salt: u64::from(salt),
        config: &config,
        now: now(),
    });
    let mut written = (*stored).clone();
    if let Some(mut status) = decision.status {
        if mutant == Some(Mutant::ExpectsAnything)
            && let Some(disk) = status
                .order
                .as_mut()
                .filter(|o| o.kind == OrderKind::Image)
                .and_then(|o| o.disk.as_mut())
        {
            disk.expected.push(lifecycle::orders::foreign(&objects::foreign().fingerprint));
            for i in 0..2 {
                for state in [ContentsState::Marked, ContentsState::Interrupted] {
                    disk.expected.push(ExpectedContents {
                        state,
                        fingerprint: None,
                        instance_uid: Some(objects::uid(i)),
                    });
                }
            }
        }
        written.status = Some(status);
    } else if mutant == Some(Mutant::ClearsBeforeEvidence) && hw.status.as_ref().is_some_and(|s| s.phase == HardwarePhase::Releasing) {
        written.spec.claim_ref = None;
    } else {
        match decision.spec? {
            SpecChange::SetClaim(claim) => written.spec.claim_ref = Some(claim),
            SpecChange::ClearClaim => written.spec.claim_ref = None,
        }
    }
    if mutant == Some(Mutant::ClaimsTheClaimed)
        && let Some(rival) = insts
            .iter()
            .find(|i| i.spec.hardware_name.is_none() && i.metadata.deletion_timestamp.is_none())
        && written.spec.claim_ref.is_some()
    {
        written.spec.claim_ref = Some(ClaimRef {
            namespace: "d".to_owned(),
            name: rival.metadata.name.clone().unwrap_or_default(),
            uid: rival.metadata.uid.clone().unwrap_or_default(),
        });
    }
    let order = |h: &BareMetalHardware| h.status.as_ref().and_then(|s| s.order.as_ref()).map(|o| o.id.clone());
    let new_order = order(&written).is_some() && order(&written) != order(&stored);
    let id = number(written);
    (Some(id) != view.hw).then_some(HardwareWrite { hw: id, new_order })
}

fn change_hardware_facts(
    mutant: Option<Mutant>,
    hw: &mut BareMetalHardware,
    disc: Option<&mut BareMetalDiscovery>,
    insts: &mut [BareMetalInstance],
    name: &str,
) {
    let seen = disc.and_then(|d| d.status.as_mut());
    match mutant {
        Some(Mutant::IssuesUnacknowledged) => {
            for inst in insts {
                inst.status.get_or_insert_default().claimed = true;
            }
        }
        Some(Mutant::ForgetsTheOrder) => {
            if let Some(status) = &mut hw.status {
                status.written = false;
            }
            if let Some(seen) = seen {
                seen.accepted_order = None;
                seen.inventory = Some(objects::inventory(
                    name.trim_start_matches("m-").parse().unwrap_or_default(),
                    DiskContents::blank(),
                ));
            }
        }
        Some(Mutant::AcceptsAnyEvidence) => {
            let order = hw.status.as_ref().and_then(|s| s.order.clone());
            if let (Some(order), Some(seen)) = (order.filter(|o| o.kind == OrderKind::Erase), seen)
                && seen.result.is_some()
            {
                seen.result = Some(objects::result(&order, Outcome::Succeeded, DiskContents::blank()));
            }
        }
        Some(Mutant::TrustsAcceptance) => {
            let claim = hw.spec.claim_ref.clone();
            let accepted = seen.and_then(|s| s.accepted_order.clone()).filter(|a| a.kind == OrderKind::Image);
            if let (Some(claim), Some(accepted), Some(status)) = (claim, accepted, &mut hw.status)
                && accepted.claim_uid == claim.uid
                && status.claim_uid.as_ref() == Some(&claim.uid)
            {
                status.installed = Some(InstalledImage {
                    claim_uid: claim.uid,
                    order_id: accepted.id,
                    image_digest: String::new(),
                    evidence: InstalledEvidence::OrderResult,
                    since: Time(now()),
                });
            }
        }
        Some(Mutant::IgnoresTheMarker) => strip_markers(seen),
        Some(Mutant::BelievesOldInventories) => {
            if let Some(seen) = seen {
                seen.accepted_order = None;
            }
        }
        Some(Mutant::ForgetsReleases) => {
            if let Some(status) = hw.status.as_mut().filter(|_| hw.spec.claim_ref.is_none()) {
                status.released_claims.clear();
            }
        }
        Some(Mutant::ErasesTheLiving) => {
            for inst in insts {
                if inst.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Running) {
                    inst.metadata.deletion_timestamp = Some(Time(session_time(0)));
                }
            }
        }
        Some(Mutant::NeverRests) => {
            if let Some(order) = hw.status.as_mut().and_then(|s| s.order.as_mut())
                && let Some(disk) = &mut order.disk
            {
                disk.expected.clear();
            }
        }
        _ => {}
    }
}

fn strip_markers(seen: Option<&mut api::BareMetalDiscoveryStatus>) {
    for disk in seen.and_then(|s| s.inventory.as_mut()).iter_mut().flat_map(|i| &mut i.disks) {
        if disk.contents.state == ContentsState::Marked {
            disk.contents.marker = None;
        }
    }
}

/// What the operator does for an instance.
pub fn instance(
    mutant: Option<Mutant>,
    i: usize,
    inst: Id,
    hw: Option<Id>,
    disc: Option<Id>,
    placement: Option<u8>,
) -> Option<InstanceWrite> {
    let question = Question::Instance(i, inst, hw, disc, placement);
    let answer = remembered(&ANSWERS, (mutant, question), || {
        Answer::Instance(ask_instance(mutant, inst, hw, disc, placement))
    });
    match answer {
        Answer::Instance(write) => write,
        Answer::Hardware(_) | Answer::Poll(_) | Answer::Boot(_) | Answer::Guest(_) => unreachable!("asked about an instance"),
    }
}

fn ask_instance(mutant: Option<Mutant>, inst: Id, hw: Option<Id>, disc: Option<Id>, placement: Option<u8>) -> Option<InstanceWrite> {
    let stored = object::<BareMetalInstance>(inst);
    let mut seen = (*stored).clone();
    let mut hw = hw.map(|h| (*object::<BareMetalHardware>(h)).clone());
    let disc = disc.map(|d| object::<BareMetalDiscovery>(d));
    match mutant {
        Some(Mutant::LetsGoUnseen) => {
            if let Some(status) = &mut seen.status
                && seen.metadata.deletion_timestamp.is_some()
            {
                status.claimed = false;
            }
        }
        Some(Mutant::NeverLetsGo) => {
            if let Some(status) = hw.as_mut().and_then(|h| h.status.as_mut()) {
                status.released_claims.clear();
            }
        }
        Some(Mutant::BindsAgain) if seen.metadata.deletion_timestamp.is_none() && placement.is_some() => {
            seen.spec.hardware_name = None;
        }
        _ => {}
    }
    let place = placement.map(|m| Placement::Machine(machine_name(usize::from(m))));
    let config = config();
    let decision = instance::decide(&InstanceFacts {
        instance: &seen,
        hardware: hw.as_ref(),
        discovery: disc.as_deref(),
        endpoints: &[],
        placement: place.as_ref(),
        synced: true,
        config: &config,
        now: now(),
    });
    let mut written = (*stored).clone();
    match decision.change {
        Some(InstanceChange::Bind(name)) => {
            written.spec.hardware_name = Some(name);
            written.metadata.finalizers = Some(vec![api::FINALIZER_RELEASE.to_owned()]);
        }
        Some(InstanceChange::RemoveFinalizer) if written.metadata.deletion_timestamp.is_some() => return Some(InstanceWrite::Gone),
        Some(InstanceChange::RemoveFinalizer) => written.metadata.finalizers = None,
        None => {
            let mut status = decision.status?;
            // Only its last entry is read by the decisions.
            let surplus = status.timeline.len().saturating_sub(1);
            status.timeline.drain(..surplus);
            written.status = Some(status);
        }
    }
    let id = number(written);
    (id != inst).then_some(InstanceWrite::New(id))
}

/// What an agent is told by a replica that sees these objects.
pub fn poll(mutant: Option<Mutant>, m: usize, disc: Option<Id>, hw: Option<Id>) -> Told {
    let answer = remembered(&ANSWERS, (mutant, Question::Poll(m, disc, hw)), || {
        Answer::Poll(ask_poll(mutant, m, disc, hw))
    });
    match answer {
        Answer::Poll(told) => told,
        Answer::Hardware(_) | Answer::Instance(_) | Answer::Boot(_) | Answer::Guest(_) => unreachable!("asked for an order"),
    }
}

fn ask_poll(mutant: Option<Mutant>, m: usize, disc: Option<Id>, hw: Option<Id>) -> Told {
    let Some(disc) = disc else { return Told::Wait };
    let stored = object::<BareMetalDiscovery>(disc);
    let mut seen = (*stored).clone();
    if mutant == Some(Mutant::IgnoresTheMarker) {
        strip_markers(seen.status.as_mut());
    }
    let mut hw = hw.map(|h| (*object::<BareMetalHardware>(h)).clone());
    let invented = || {
        let mut made = objects::accepted(m);
        let inventory = objects::inventory(m, DiskContents::blank());
        let disk = lifecycle::disks::selected(&inventory.disks[0]);
        let expected = vec![
            lifecycle::orders::blank(),
            lifecycle::orders::foreign(&objects::foreign().fingerprint),
        ];
        let order = lifecycle::orders::erase(&made, None, &disk, expected, agent_protocol::order::EraseMethod::Quick);
        made.status.get_or_insert_default().order = Some(Order {
            id: lifecycle::orders::id(&machine_name(m), 200, 200),
            ..order
        });
        made
    };
    match mutant {
        Some(Mutant::HandsOutUnaccepted) if hw.is_none() => hw = Some(invented()),
        Some(Mutant::InventsOrders) => {
            if let Some(known) = &mut hw
                && known.spec.claim_ref.is_none()
                && known.status.as_ref().is_some_and(|s| s.order.is_none())
            {
                known.status.get_or_insert_default().order = invented().status.and_then(|s| s.order);
            }
        }
        _ => {}
    }
    let session = seen
        .status
        .as_ref()
        .and_then(|s| s.session.as_ref())
        .map(|s| s.id.clone())
        .unwrap_or_default();
    let config = config();
    let told = agent::instruction(&SessionFacts {
        discovery: &seen,
        hardware: hw.as_ref(),
        session: &session,
        config: &config,
        now: now(),
    });
    match told.order.kind {
        OrderKind::Wait | OrderKind::PowerOff => Told::Wait,
        OrderKind::Reboot => Told::Reboot,
        OrderKind::Erase | OrderKind::Image => {
            let mut noted = (*stored).clone();
            if let Some(accept) = told.accept {
                noted.status.get_or_insert_default().accepted_order = Some(accept);
            }
            Told::Destructive(number(told.order), number(noted))
        }
    }
}

/// What a machine is told to boot by a replica that sees these objects. `sessions`: how many it has had.
pub fn boot(mutant: Option<Mutant>, m: usize, disc: Option<Id>, hw: Option<Id>, sessions: u8) -> BootTold {
    let answer = remembered(&ANSWERS, (mutant, Question::Boot(m, disc, hw, sessions)), || {
        Answer::Boot(ask_boot(mutant, m, disc, hw, sessions))
    });
    match answer {
        Answer::Boot(told) => told,
        Answer::Hardware(_) | Answer::Instance(_) | Answer::Poll(_) | Answer::Guest(_) => unreachable!("asked what to boot"),
    }
}

fn ask_boot(mutant: Option<Mutant>, m: usize, disc: Option<Id>, hw: Option<Id>, sessions: u8) -> BootTold {
    let Some(disc) = disc else { return BootTold::Agent };
    let disc = object::<BareMetalDiscovery>(disc);
    let mut hw = hw.map(|h| (*object::<BareMetalHardware>(h)).clone());
    if let Some(hw) = &mut hw {
        let claim = hw.spec.claim_ref.clone();
        if let (Some(claim), Some(status)) = (claim, &mut hw.status) {
            let lies = match mutant {
                Some(Mutant::BootsUnwritten) => status.phase == HardwarePhase::Provisioning,
                Some(Mutant::BootsTheReleased) => status.phase == HardwarePhase::Releasing,
                _ => false,
            };
            if lies {
                status.phase = HardwarePhase::InUse;
                status.installed = Some(InstalledImage {
                    claim_uid: claim.uid,
                    order_id: String::new(),
                    image_digest: String::new(),
                    evidence: InstalledEvidence::OrderResult,
                    since: Time(now()),
                });
            }
        }
    }
    let matched = Match::Known(machine_name(m));
    let config = config();
    let decision = boot::decide(&BootFacts {
        matched: &matched,
        discovery: Some(&disc),
        hardware: hw.as_ref(),
        conflict_known: false,
        config: &config,
        now: now(),
    });
    match decision.answer {
        BootAnswer::Agent => BootTold::Agent,
        BootAnswer::LocalDisk => {
            let mut recorded = (*disc).clone();
            if decision.record {
                // The decisions read the latest record only.
                let half = jiff::SignedDuration::from_secs(50);
                recorded.status.get_or_insert_default().boots = vec![BootRecord {
                    time: Time(session_time(sessions).saturating_add(half).expect("in range")),
                    answer: decision.answer,
                    reason: decision.reason.to_owned(),
                    instance_uid: decision.instance_uid.clone(),
                }];
            }
            BootTold::Disk(objects::instance_of(&decision.instance_uid), number(recorded))
        }
    }
}

/// Whether the guest helper of an instance is told to come back to the agent.
pub fn wanted_back(hw: Option<Id>, i: usize) -> bool {
    let answer = remembered(&ANSWERS, (None, Question::Guest(hw, i)), || {
        let hw = hw.map(|h| object::<BareMetalHardware>(h));
        Answer::Guest(agent::guest_action(hw.as_deref(), &objects::uid(i)) == GuestAction::RebootToAgent)
    });
    match answer {
        Answer::Guest(wanted) => wanted,
        Answer::Hardware(_) | Answer::Instance(_) | Answer::Poll(_) | Answer::Boot(_) => unreachable!("asked a guest"),
    }
}
