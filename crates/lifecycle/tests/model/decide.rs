//! The real decisions on numbered objects, remembered per thread: they are pure, so one call per distinct question is enough. Planted bugs change the
//! facts before, or the answer after; nothing else stands between the model and the functions under test.
//!
//! What no decision reads (messages, reasons, conditions, times of record, counters that only make ids) is left out of what is stored ([`settle_hardware`] and its
//! like): states that differ only there are one. A write that changes only such things is made at once, together with the next.

use std::cell::RefCell;

use agent_protocol::{
    disk::{ContentsState, DiskContents},
    guest::GuestAction,
    order::{ExpectedContents, FaultReason, Order, OrderKind, OrderResult, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalInstance, HardwarePhase, IdlePolicy, InstancePhase,
    discovery::{BootAnswer, BootRecord},
    hardware::{ClaimRef, InstalledEvidence, InstalledImage},
    power::{PowerAct, PowerActKind, PowerStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    agent::{self, SessionFacts},
    boot::{self, BootFacts},
    hardware::{self, HardwareFacts, Readiness, SpecChange},
    identity::Match,
    idle::{IdleFacts, Wanted, idle_since},
    instance::{self, InstanceChange, InstanceFacts},
    power::{Can, PowerFacts},
    scheduler::Placement,
};

pub use crate::answers::{Beginning, BootTold, Ending, HardwareSays, HardwareWrite, InstanceSays, InstanceWrite, Rest, Told, View};
use crate::{
    mutants::Mutant,
    objects::{self, config, machine_name},
    table::{Id, Memo, number, object, remembered},
    time::{boot_time, deletion_time, now, result_time, session_time},
};

/// The number of the order that no operator wrote.
const INVENTED: u8 = 200;

type Planted = Option<Mutant>;
/// The last three: session, salt of a new order, and which of two instances was created first; what the plan of idle machines says.
type OperatorKey = (Planted, View, (u8, u8, u8), Rest);
type TendKey = (Planted, [Option<Id>; 3], (Option<u8>, u8));
/// A machine with its session, its hardware and its discovery.
type MachineKey = (Planted, (usize, u8), Option<Id>, Option<Id>);
/// The hardware as written, and the erase evidence stored with it: salt of its order, and the claim.
type Operated = (BareMetalHardware, Option<(u8, Option<u8>)>);

thread_local! {
    static HARDWARE: Memo<Id, HardwareSays> = RefCell::default();
    static INSTANCES: Memo<Id, InstanceSays> = RefCell::default();
    static OPERATED: Memo<OperatorKey, Option<HardwareWrite>> = RefCell::default();
    static TENDED: Memo<TendKey, Option<InstanceWrite>> = RefCell::default();
    static POLLED: Memo<MachineKey, Told> = RefCell::default();
    static BOOTED: Memo<MachineKey, BootTold> = RefCell::default();
    static GUESTS: Memo<(Option<Id>, Option<Id>, usize), bool> = RefCell::default();
    static ANSWERS: Memo<(Id, Id), bool> = RefCell::default();
    static BEGUN: Memo<(Id, Id), Beginning> = RefCell::default();
    static ENDED: Memo<(Id, Id, Ending), (Id, Id)> = RefCell::default();
    static REPORTED: Memo<(Id, Id, u8), Option<Id>> = RefCell::default();
    static REGISTERED: Memo<(usize, u8, Option<Id>, Id), Id> = RefCell::default();
    static SESSIONS: Memo<Id, u8> = RefCell::default();
    static CHANGED: Memo<(Id, u8), Option<Id>> = RefCell::default();
}

fn settle_hardware(hw: &mut BareMetalHardware) {
    let Some(status) = &mut hw.status else { return };
    status.reason.clear();
    status.message.clear();
    status.conditions.clear();
    status.order_sequence = 0;
    status.last_erase_time = None;
    // All that is asked is whether they are enough (`objects::config`).
    status.order_failures = status.order_failures.min(1);
    status.observed_generation = None;
    if status.phase != HardwarePhase::Releasing {
        // Read for the texts of waits only.
        status.phase_since = None;
    }
    if let Some(erase) = &mut status.last_erase {
        erase.order_id.clear();
    }
    if let Some(power) = &mut status.power {
        // It is carried out, or not, as often as anybody likes while it is in force.
        let act = power.act.take().map(|act| PowerAct {
            id: "act".to_owned(),
            since: Time(session_time(0)),
            ..act
        });
        *power = PowerStatus {
            act,
            ..PowerStatus::default()
        };
    }
}

fn settle_instance(inst: &mut BareMetalInstance) {
    let Some(status) = &mut inst.status else { return };
    status.reason.clear();
    status.message.clear();
    status.conditions.clear();
    status.timeline.clear();
    if let Some(image) = &mut status.image {
        image.order_id.clear();
    }
}

fn uid_bit(uid: &str) -> Option<u8> {
    objects::instance_of(uid).and_then(|i| u8::try_from(i).ok())
}

fn salt_of(order_id: &str) -> Option<u8> {
    order_id.rsplit('-').next().and_then(|s| u8::from_str_radix(s, 16).ok())
}

pub fn hardware_says(id: Id) -> HardwareSays {
    remembered(&HARDWARE, id, || {
        let hw = object::<BareMetalHardware>(id);
        let status = hw.status.clone().unwrap_or_default();
        HardwareSays {
            claim: hw.spec.claim_ref.as_ref().and_then(|c| objects::instance_of(&c.uid)),
            phase: status.phase,
            free: hardware::is_free(&hw),
            released: status
                .released_claims
                .iter()
                .filter_map(|u| objects::instance_of(u))
                .fold(0, |bits, i| bits | 1 << i),
            idle: status.idle.as_ref().map(|idle| idle.asleep),
            started: status
                .power
                .as_ref()
                .and_then(|p| p.act.as_ref())
                .is_some_and(|act| act.kind == PowerActKind::BootAgent),
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
            held: inst.metadata.finalizers.iter().flatten().next().is_some(),
            claimed: inst.status.as_ref().is_some_and(|s| s.claimed),
            running: inst.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Running),
        }
    })
}

/// What the operator does for a machine whose latest session is number `session`. `salt` makes the id of a new order; of two instances that name the machine, number
/// `older` was created first.
pub fn hardware(planted: Planted, view: View, session: u8, salt: u8, older: u8, rest: Rest) -> Option<HardwareWrite> {
    remembered(&OPERATED, (planted, view, (session, salt, older), rest), || {
        let stored = view.hw?;
        let mut before = (*object::<BareMetalHardware>(stored)).clone();
        // A write that changes nothing the model stores is followed by the next decision at once.
        for _ in 0..4 {
            let (written, evidence) = ask_hardware(planted, &before, view, (session, salt, older), rest)?;
            let mut settled = written.clone();
            settle_hardware(&mut settled);
            let id = number(settled);
            if id != stored {
                return Some(HardwareWrite { hw: id, evidence });
            }
            before = written;
            if let Some(status) = &mut before.status {
                // The id of an order is its salt alone here.
                status.order_sequence = 0;
            }
        }
        None
    })
}

fn ask_hardware(
    mutant: Planted,
    stored: &BareMetalHardware,
    view: View,
    (session, salt, older): (u8, u8, u8),
    rest: Rest,
) -> Option<Operated> {
    let mut hw = stored.clone();
    let name = hw.metadata.name.clone().unwrap_or_default();
    let mut disc = view.disc.map(|d| (*object::<BareMetalDiscovery>(d)).clone());
    let mut insts: Vec<BareMetalInstance> = view
        .inst
        .iter()
        .flatten()
        .map(|i| (*object::<BareMetalInstance>(*i)).clone())
        .collect();
    for inst in &mut insts {
        let uid = inst.metadata.uid.as_deref().and_then(uid_bit);
        inst.metadata.creation_timestamp = Some(Time(session_time(u8::from(uid != Some(older)))));
    }
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
    let power = (rest != Rest::Stay).then(|| PowerFacts {
        can: Can {
            boot_agent: true,
            on: true,
            ..Can::default()
        },
        ..PowerFacts::default()
    });
    let wanted = match rest {
        Rest::Stay | Rest::AsItIs => Wanted::AsItIs,
        Rest::Off => Wanted::Off(idle_since(&hw, disc.as_ref())),
        Rest::On => Wanted::On,
    };
    let policy = if rest == Rest::Stay {
        IdlePolicy::Stay
    } else {
        IdlePolicy::PowerOff
    };
    let decision = hardware::decide(&HardwareFacts {
        power: power.as_ref().filter(|_| !lacks_driver(mutant, &hw)),
        idle: IdleFacts { policy, wanted },
        hardware: &hw,
        discovery: disc.as_ref(),
        claimant,
        image: Some(&image),
        endpoints: &Readiness::Ready,
        seed_input: &Readiness::Ready,
        sealed: None,
        salt: u64::from(salt),
        config: &config,
        now: now(session),
    });
    let mut written = stored.clone();
    let mut evidence = None;
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
        let before = stored.status.as_ref().and_then(|s| s.last_erase.as_ref());
        evidence = status
            .last_erase
            .as_ref()
            .filter(|e| !e.order_id.is_empty() && before != Some(*e))
            .map(|e| (salt_of(&e.order_id).unwrap_or(u8::MAX), uid_bit(&e.claim_uid)));
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
            ..ClaimRef::default()
        });
    }
    Some((written, evidence))
}

/// Whether the driver is there to switch the machine off, and gone when it is to be switched on.
fn lacks_driver(mutant: Planted, hw: &BareMetalHardware) -> bool {
    mutant == Some(Mutant::NeverWakes) && hw.status.as_ref().is_some_and(|s| s.idle.is_some())
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
                seen.result = Some(objects::result(
                    &order,
                    Outcome::Succeeded,
                    FaultReason::Internal,
                    Some(DiskContents::blank()),
                ));
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
                    since: Time(session_time(0)),
                });
            }
        }
        Some(Mutant::IgnoresTheMarker) => strip_markers(seen),
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
            if let Some(seen) = seen {
                seen.accepted_order = None;
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

/// What the operator does for an instance whose machine's latest session is number `session`. `placement`: the scheduler's answer.
/// A machine's object that is not there (`hw`) is gone, or this cache has not seen it yet: the decisions wait for as long as caches may differ, so that absence is always
/// believed rightly here.
pub fn instance(planted: Planted, inst: Id, hw: Option<Id>, disc: Option<Id>, placement: Option<u8>, session: u8) -> Option<InstanceWrite> {
    remembered(&TENDED, (planted, [Some(inst), hw, disc], (placement, session)), || {
        ask_instance(planted, inst, hw, disc, placement, session)
    })
}

fn ask_instance(mutant: Planted, inst: Id, hw: Option<Id>, disc: Option<Id>, placement: Option<u8>, session: u8) -> Option<InstanceWrite> {
    let stored = object::<BareMetalInstance>(inst);
    let mut seen = (*stored).clone();
    let mut hw = hw.map(|h| (*object::<BareMetalHardware>(h)).clone());
    let disc = disc.map(object::<BareMetalDiscovery>);
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
        image: None,
        placement: place.as_ref(),
        synced: true,
        config: &config,
        now: now(session),
    });
    let mut written = (*stored).clone();
    match decision.change {
        Some(InstanceChange::Bind(name)) => {
            written.spec.hardware_name = Some(name);
            written.metadata.finalizers = Some(vec![api::FINALIZER_RELEASE.to_owned()]);
        }
        Some(InstanceChange::RemoveFinalizer) if written.metadata.deletion_timestamp.is_some() => return Some(InstanceWrite::Gone),
        Some(InstanceChange::RemoveFinalizer) => written.metadata.finalizers = None,
        None => written.status = Some(decision.status?),
    }
    settle_instance(&mut written);
    let id = number(written);
    (id != inst).then_some(InstanceWrite::New(id))
}

/// What the agent of session number `session` is told by a replica that sees these objects.
pub fn poll(planted: Planted, m: usize, session: u8, disc: Option<Id>, hw: Option<Id>) -> Told {
    remembered(&POLLED, (planted, (m, session), disc, hw), || {
        ask_poll(planted, m, session, disc, hw)
    })
}

fn ask_poll(mutant: Planted, m: usize, session: u8, disc: Option<Id>, hw: Option<Id>) -> Told {
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
        let order = lifecycle::orders::erase(&made, None, &disk, expected, agent_protocol::order::EraseMethod::Quick, None);
        made.status.get_or_insert_default().order = Some(Order {
            id: lifecycle::orders::id(&machine_name(m), 1, u64::from(INVENTED)),
            ..order
        });
        made
    };
    match mutant {
        Some(Mutant::HandsOutUnaccepted) if hw.is_none() => hw = Some(invented()),
        Some(Mutant::SwitchesOffTheClaimed) => {
            if let Some(known) = &mut hw
                && let Some(idle) = known.status.as_mut().and_then(|s| s.idle.as_mut())
            {
                idle.asleep = true;
                known.spec.claim_ref = None;
            }
        }
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
    let id = objects::session_id(m, session);
    let config = config();
    let told = agent::instruction(&SessionFacts {
        discovery: &seen,
        hardware: hw.as_ref(),
        session: &id,
        config: &config,
        now: now(session),
    });
    match told.order.kind {
        OrderKind::Wait => Told::Wait,
        OrderKind::PowerOff => Told::PowerOff,
        OrderKind::Reboot => Told::Reboot,
        OrderKind::Erase | OrderKind::Image => {
            let mut noted = (*stored).clone();
            if let Some(mut accept) = told.accept {
                accept.accepted_at = Time(session_time(0));
                noted.status.get_or_insert_default().accepted_order = Some(accept);
            }
            Told::Destructive(number(told.order), number(noted))
        }
    }
}

/// What a machine is told to boot, after `session` sessions, by a replica that sees these objects.
pub fn boot(planted: Planted, m: usize, session: u8, disc: Option<Id>, hw: Option<Id>) -> BootTold {
    remembered(&BOOTED, (planted, (m, session), disc, hw), || {
        ask_boot(planted, m, session, disc, hw)
    })
}

fn ask_boot(mutant: Planted, m: usize, session: u8, disc: Option<Id>, hw: Option<Id>) -> BootTold {
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
                    since: Time(session_time(0)),
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
        has_media: true,
        config: &config,
        now: now(session),
    });
    match decision.answer {
        BootAnswer::Agent => BootTold::Agent,
        BootAnswer::LocalDisk => {
            let record = || {
                let mut recorded = (*disc).clone();
                // The decisions read the latest record only.
                recorded.status.get_or_insert_default().boots = vec![BootRecord {
                    time: Time(boot_time(session)),
                    answer: decision.answer,
                    reason: String::new(),
                    instance_uid: decision.instance_uid.clone(),
                }];
                number(recorded)
            };
            BootTold::Disk(objects::instance_of(&decision.instance_uid), decision.record.then(record))
        }
    }
}

/// Whether the guest helper of an instance is told to come back to the agent.
pub fn wanted_back(hw: Option<Id>, disc: Option<Id>, i: usize) -> bool {
    remembered(&GUESTS, (hw, disc, i), || {
        let (hw, disc) = (hw.map(object::<BareMetalHardware>), disc.map(object::<BareMetalDiscovery>));
        // In the end, that is: whatever it waits for before.
        agent::guest_action(hw.as_deref(), disc.as_deref(), &objects::uid(i), jiff::Timestamp::MAX) == GuestAction::RebootToAgent
    })
}

/// Whether a result is that of this order.
pub fn answers(result: Id, order: Id) -> bool {
    remembered(&ANSWERS, (result, order), || {
        object::<OrderResult>(result).order_id == object::<Order>(order).id
    })
}

/// What an agent does when it is given an order.
pub fn begin(order: Id, disk: Id) -> Beginning {
    remembered(&BEGUN, (order, disk), || {
        let (order, disk) = (object::<Order>(order), object::<DiskContents>(disk));
        let refused = objects::result(&order, Outcome::Refused, FaultReason::UnexpectedContents, Some((*disk).clone()));
        Beginning {
            permitted: order.disk.as_ref().is_some_and(|d| d.permits(&order.id, &disk)),
            image: order.kind == OrderKind::Image,
            claim: order.claim.as_ref().and_then(|c| uid_bit(&c.uid)),
            salt: salt_of(&order.id).unwrap_or(u8::MAX),
            found: disk.state,
            disk: number(objects::left_by(&order, ContentsState::Interrupted)),
            refused: number(refused),
        }
    })
}

/// What the disk holds after an order, and its result.
pub fn finish(order: Id, disk: Id, ending: Ending) -> (Id, Id) {
    remembered(&ENDED, (order, disk, ending), || {
        let (order, left) = (object::<Order>(order), object::<DiskContents>(disk));
        let failed = |fault, contents| (disk, number(objects::result(&order, Outcome::Failed, fault, contents)));
        match ending {
            Ending::Succeeds => {
                let contents = match order.kind {
                    OrderKind::Image => objects::left_by(&order, ContentsState::Marked),
                    OrderKind::Erase | OrderKind::Wait | OrderKind::Reboot | OrderKind::PowerOff => DiskContents::blank(),
                };
                let result = objects::result(&order, Outcome::Succeeded, FaultReason::Internal, Some(contents.clone()));
                (number(contents), number(result))
            }
            Ending::Fails => failed(FaultReason::DiskIO, Some((*left).clone())),
            Ending::FailsBlindly => failed(FaultReason::DiskIO, None),
            Ending::NotProven => failed(FaultReason::EraseNotProven, Some((*left).clone())),
        }
    })
}

/// The discovery with the result of the agent of session number `session`; `None`: refused. Stored only from the latest session and for the order that was accepted last.
pub fn report(disc: Id, result: Id, session: u8) -> Option<Id> {
    remembered(&REPORTED, (disc, result, session), || {
        let result = object::<OrderResult>(result);
        let mut disc = (*object::<BareMetalDiscovery>(disc)).clone();
        let seen = disc.status.as_mut()?;
        seen.accepted_order.as_ref().filter(|a| a.id == result.order_id)?;
        seen.result = Some((*result).clone());
        seen.result_time = Some(Time(result_time(session)));
        Some(number(disc))
    })
}

/// The discovery with session number `session` and the inventory of a machine with this disk.
pub fn register(m: usize, session: u8, disc: Option<Id>, disk: Id) -> Id {
    remembered(&REGISTERED, (m, session, disc, disk), || {
        let mut disc = disc.map_or_else(|| objects::discovery(m), |known| (*object::<BareMetalDiscovery>(known)).clone());
        let seen = disc.status.get_or_insert_default();
        seen.inventory = Some(objects::inventory(m, (*object::<DiskContents>(disk)).clone()));
        seen.session = Some(objects::session(m, session));
        number(disc)
    })
}

/// The number of the session that a discovery speaks of; zero for none.
pub fn session_of(disc: Id) -> u8 {
    remembered(&SESSIONS, disc, || {
        let disc = object::<BareMetalDiscovery>(disc);
        let session = disc.status.as_ref().and_then(|s| s.session.as_ref());
        session.map_or(0, |s| u8::try_from(s.token_issued_at).expect("few sessions"))
    })
}

/// What people and backups do to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Deletion was asked for after this session of its machine.
    Delete(u8),
    Force,
    /// A re-install is asked for, by a text that was not there before.
    Reinstall(u8),
    LoseInstanceStatus,
    Consent,
    LoseHardwareStatus,
}

/// An object after a change; `None` when it changes nothing.
pub fn changed(id: Id, change: Change) -> Option<Id> {
    let code = match change {
        Change::Delete(session) => session,
        Change::Force => 100,
        Change::LoseInstanceStatus => 101,
        Change::Consent => 102,
        Change::LoseHardwareStatus => 103,
        Change::Reinstall(number) => 104 + number,
    };
    let made = remembered(&CHANGED, (id, code), || match change {
        Change::Delete(_) | Change::Force | Change::Reinstall(_) | Change::LoseInstanceStatus => {
            let mut inst = (*object::<BareMetalInstance>(id)).clone();
            match change {
                Change::Delete(session) => inst.metadata.deletion_timestamp = Some(Time(deletion_time(session))),
                Change::Force => inst.spec.force_release = true,
                Change::Reinstall(left) => {
                    inst.spec.reinstall_token = Some(format!("again-{left}"));
                    // As the API counts it up; nothing else in this world changes a spec that anybody looks at.
                    inst.metadata.generation = Some(100 - i64::from(left));
                }
                _ => inst.status = None,
            }
            Some(number(inst))
        }
        Change::Consent | Change::LoseHardwareStatus => {
            let mut hw = (*object::<BareMetalHardware>(id)).clone();
            if change == Change::Consent {
                hw.spec.erase_consent.get_or_insert_default().fingerprints = vec![objects::foreign().fingerprint];
            } else {
                hw.status = None;
            }
            Some(number(hw))
        }
    });
    made.filter(|new| *new != id)
}
