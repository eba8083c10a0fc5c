//! The decision while it is being made: the new status, and how it becomes a [`HardwareDecision`].

use agent_protocol::{
    disk::{ContentsState, DiskContents},
    order::{BootOrder, FaultReason, Order, OrderResult},
};
use api::{
    BareMetalHardwareStatus, HardwarePhase, conditions,
    discovery::{AgentSession, IdentityProof},
    hardware::SelectedDisk,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, Time},
};

use super::{EventNote, HardwareDecision, HardwareFacts, SeedAction, SpecChange, gates::GATE_CLOSED, idle};
use crate::{
    bmc_inventory,
    boot_order::{self, Told},
    deadlines, disks, orders,
    power::{self, Want},
    view,
};

/// What became of a wanted order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is in force, with no result yet.
    InForce,
    /// Its latest try failed; the next one waits.
    Failed,
}

pub(super) struct Draft<'a> {
    pub facts: &'a HardwareFacts<'a>,
    pub old: BareMetalHardwareStatus,
    pub new: BareMetalHardwareStatus,
    pub spec: Option<SpecChange>,
    pub seed_wanted: bool,
    pub release_addresses: bool,
    /// The present wait lasts only until another writer's next step: not worth a write.
    pub transient: bool,
    /// What is waited for that power has to do with.
    pub power_want: Want,
    pub events: Vec<EventNote>,
    pub requeue: Option<SignedDuration>,
    /// Whether the retry token changed since the last decision.
    pub retry_asked: bool,
}

impl<'a> Draft<'a> {
    pub fn new(facts: &'a HardwareFacts<'a>) -> Self {
        let old = facts.hardware.status.clone().unwrap_or_default();
        let token = &facts.hardware.spec.retry_token;
        let mut draft = Self {
            facts,
            retry_asked: token.is_some() && *token != old.observed_retry_token,
            new: old.clone(),
            old,
            spec: None,
            seed_wanted: false,
            release_addresses: false,
            transient: false,
            power_want: Want::default(),
            events: Vec::new(),
            requeue: None,
        };
        draft.new.reason.clear();
        draft.new.message.clear();
        draft.new.observed_retry_token.clone_from(token);
        idle::note_return(&mut draft);
        draft.note_presence();
        draft.note_boot();
        draft
    }

    pub fn name(&self) -> &'a str {
        self.facts.hardware.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn phase(&mut self, phase: HardwarePhase) {
        self.new.phase = phase;
    }

    pub fn wait(&mut self, phase: HardwarePhase, reason: &str, message: impl Into<String>) {
        self.new.phase = phase;
        reason.clone_into(&mut self.new.reason);
        self.new.message = message.into();
    }

    pub fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let generation = None;
        conditions::set(
            &mut self.new.conditions,
            kind,
            status,
            reason,
            message,
            generation,
            &Time(self.facts.now),
        );
    }

    pub fn clear(&mut self, kind: &str) {
        conditions::clear(&mut self.new.conditions, kind);
    }

    pub fn event(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.events.push(EventNote {
            warning,
            reason,
            message: message.into(),
        });
    }

    pub fn requeue(&mut self, after: SignedDuration) {
        let after = after.max(SignedDuration::from_secs(1));
        self.requeue = Some(self.requeue.map_or(after, |r| r.min(after)));
    }

    /// Asks to be called again at `then`; whether that time has come.
    pub fn due(&mut self, then: Timestamp) -> bool {
        let left = then.duration_since(self.facts.now);
        if left <= SignedDuration::ZERO {
            return true;
        }
        self.requeue(left);
        false
    }

    /// A lost agent is shown here too, so that the scheduler passes the machine by. Presence itself is never written.
    fn note_presence(&mut self) {
        let lost = view::seen(self.facts.discovery).and_then(|s| {
            s.conditions
                .iter()
                .find(|c| c.type_ == conditions::AGENT_CONNECTED && c.status == "False")
        });
        // Nobody waits for word of a machine that was switched off.
        let lost = lost.filter(|_| self.new.idle.is_none());
        match lost {
            Some(lost) => self.set(conditions::AGENT_CONNECTED, false, &lost.reason, &lost.message),
            None => self.clear(conditions::AGENT_CONNECTED),
        }
    }

    /// A machine that boots something else than it was told is named, until it obeys once.
    fn note_boot(&mut self) {
        let discovery = self.facts.discovery;
        let known = self.old.conditions.iter().find(|c| c.type_ == conditions::BOOT_ORDER_IGNORED);
        let Some(told) = boot_order::ignored(discovery, self.old.power.as_ref()) else {
            let guest = view::seen(discovery).and_then(|s| s.guest.as_ref()).map(|g| g.registered_at.0);
            let obeyed = known.is_some_and(|c| {
                let since = guest.map_or(c.last_transition_time.0, |at| at.min(c.last_transition_time.0));
                view::session_since(discovery, since)
            });
            if obeyed {
                self.clear(conditions::BOOT_ORDER_IGNORED);
            }
            return;
        };
        let by = match told {
            Told::Helper => "the guest helper of its system",
            Told::Driver => "its power driver",
        };
        let message = format!(
            "By {by} it was told to boot into the agent, and its own system started instead. Put the network before the disk in the boot order of its firmware's setup, and switch on booting from the network there: {}",
            self.describe()
        );
        if known.is_none() {
            self.event(true, "BootOrderIgnored", message.clone());
        }
        self.set(conditions::BOOT_ORDER_IGNORED, true, "OwnSystemStarted", &message);
    }

    /// What an order says of firmware's boot order. Where that is not what the spec asks for, it is said.
    pub fn boot_order(&mut self, guest_helper: bool) -> Option<BootOrder> {
        let asked = boot_order::asked(self.facts.hardware.spec.boot_order, self.facts.discovery, guest_helper);
        match asked.problem {
            Some((reason, message)) => self.set(conditions::BOOT_ORDER, false, reason, message),
            None => self.clear(conditions::BOOT_ORDER),
        }
        asked.order
    }

    pub fn session(&self) -> Option<&'a AgentSession> {
        view::live_session(self.facts.discovery).filter(|s| view::session_counts(&self.new, s))
    }

    /// The session that may receive an image and its seed.
    pub fn trusted_session(&self) -> Option<&'a AgentSession> {
        self.session()
            .filter(|s| s.proof == IdentityProof::Proven || self.facts.config.allow_asserted_identity)
    }

    /// Reads capacity and root disk from the inventory. `keep`: the present root disk stays unless a hint names another.
    pub fn inspect(&mut self, keep: bool) -> Option<SelectedDisk> {
        let facts = self.facts;
        let Some(inventory) = view::seen(facts.discovery).and_then(|s| s.inventory.as_ref()) else {
            self.inspect_by_bmc();
            return None;
        };
        let spec = &facts.hardware.spec;
        if keep
            && spec.root_disk.is_none()
            && let Some(old) = self.old.root_disk.clone()
        {
            if let Some(disk) = view::find_disk(facts.discovery, &old) {
                let Some(why) = disks::why_untouchable(disk, spec) else {
                    return Some(old);
                };
                self.set(
                    conditions::INSPECTED,
                    false,
                    "DiskProtected",
                    &format!(
                        "The root disk ({}) is {why} and is not touched: take it off spec.protectedDisks, or name another in spec.rootDisk of BareMetalHardware {}",
                        old.identity.label(),
                        self.name(),
                    ),
                );
                return None;
            }
            // The same name with another size is another disk: a replacement, or a controller that shows less of it.
            if let Some(other) = inventory.disks.iter().find(|d| d.identity.same_disk(&old.identity)) {
                self.set(
                    conditions::INSPECTED,
                    false,
                    "DiskSizeMismatch",
                    &format!(
                        "The root disk ({}) had {} and has {} now ({}): it is not the disk that was accepted. Put that one back, or name the one to use in spec.rootDisk of BareMetalHardware {}",
                        old.identity.label(),
                        disks::bytes_text(old.size_bytes),
                        disks::bytes_text(other.size_bytes),
                        other.name,
                        self.name(),
                    ),
                );
                return None;
            }
            let have: Vec<String> = inventory
                .disks
                .iter()
                .take(6)
                .map(|d| format!("{} ({}, {})", d.name, d.identity.label(), disks::bytes_text(d.size_bytes)))
                .collect();
            self.set(
                conditions::INSPECTED,
                false,
                "DiskNotFound",
                &format!(
                    "The root disk ({}, {}) is not there any more; the machine has: {}. Put it back, or name another in spec.rootDisk of BareMetalHardware {}",
                    old.identity.label(),
                    disks::bytes_text(old.size_bytes),
                    have.join(", "),
                    self.name(),
                ),
            );
            return None;
        }
        match disks::choose(spec, inventory) {
            Ok(disk) => {
                let selected = disks::selected(disk);
                let quantity = |n: String| Quantity(n);
                let mebibytes = |bytes: u64| quantity(format!("{}Mi", bytes >> 20));
                self.new.capacity = [
                    ("cpu".to_owned(), quantity(inventory.cpu.threads.to_string())),
                    ("memory".to_owned(), mebibytes(inventory.memory.bytes)),
                    ("disk".to_owned(), mebibytes(disk.size_bytes)),
                ]
                .into();
                self.new.root_disk = Some(selected.clone());
                self.set(
                    conditions::INSPECTED,
                    true,
                    "RootDiskChosen",
                    &format!(
                        "Root disk: {}, {}",
                        selected.identity.label(),
                        disks::bytes_text(selected.size_bytes)
                    ),
                );
                Some(selected)
            }
            Err(fault) => {
                if !keep {
                    self.new.root_disk = None;
                }
                self.forget_bmc_capacity();
                self.set(conditions::INSPECTED, false, fault.reason(), &fault.to_string());
                None
            }
        }
    }

    /// What there is before the agent has reported: nothing, or what the BMC says. Neither is an inspection.
    fn inspect_by_bmc(&mut self) {
        let Some(told) = self.old.bmc_inventory.as_ref().filter(|told| !told.identity_only) else {
            self.set(
                conditions::INSPECTED,
                false,
                "NoInventory",
                "The machine has not reported its inventory yet: switch it on and let it boot from the network",
            );
            self.forget_bmc_capacity();
            return;
        };
        // A root disk was chosen: the agent has been here, and what it found stands.
        if self.old.root_disk.is_none() {
            self.new.capacity = bmc_inventory::capacity(&self.facts.hardware.spec, told);
        }
        let message = format!(
            "Only its BMC has told what the machine is ({}): switch it on and let it boot from the network, so that its agent looks",
            bmc_inventory::describe(told)
        );
        self.set(conditions::INSPECTED, false, "KnownFromBmc", &message);
    }

    /// What the BMC said of sizes counts no more once the agent has looked, also where it found no disk, nor once it says nothing any more.
    fn forget_bmc_capacity(&mut self) {
        let why = self.old.conditions.iter().find(|c| c.type_ == conditions::INSPECTED);
        if why.is_some_and(|c| c.reason == "KnownFromBmc") {
            self.new.capacity.clear();
        }
    }

    /// Copies the inspection's fault into reason and message.
    pub fn wait_for_inspection(&mut self, phase: HardwarePhase) {
        let fault: Option<Condition> = self.new.conditions.iter().find(|c| c.type_ == conditions::INSPECTED).cloned();
        if let Some(fault) = fault {
            self.wait(phase, &fault.reason, fault.message);
        }
    }

    pub fn contents(&self, disk: &SelectedDisk) -> Option<DiskContents> {
        view::contents(self.facts.discovery, &self.old, disk)
    }

    /// Whether a person, or the policy at acceptance, gave these contents up.
    pub fn consented(&self, found: &DiskContents) -> bool {
        let Some(consent) = &self.facts.hardware.spec.erase_consent else {
            return false;
        };
        // What appears after the first use or cleaning was not there at acceptance.
        let untouched = self.old.last_erase.is_none() && self.old.claim_uid.is_none() && self.facts.hardware.spec.claim_ref.is_none();
        // An installation of ours was not there at acceptance: that this status does not know of it says only that the status was lost.
        let at_acceptance = consent.at_acceptance
            && untouched
            && found.state != ContentsState::Marked
            && self.new.accepted_contents.as_deref() == Some(found.fingerprint.as_str());
        found.state != ContentsState::Unreadable && (at_acceptance || consent.fingerprints.contains(&found.fingerprint))
    }

    /// Stops before data that nobody gave up, and says how to give it up.
    pub fn foreign_data(&mut self, phase: HardwarePhase, disk: &SelectedDisk, found: &DiskContents) {
        let name = self.name();
        let what = if found.signatures.is_empty() {
            "data that is not recognised".to_owned()
        } else {
            let kinds: Vec<String> = found
                .signatures
                .iter()
                .take(6)
                .map(|s| s.label.as_ref().map_or_else(|| s.kind.clone(), |l| format!("{} {l:?}", s.kind)))
                .collect();
            kinds.join(", ")
        };
        let owner = found
            .marker
            .as_ref()
            .filter(|m| !m.instance.is_empty())
            .map(|m| format!(" of the installation for {}", m.instance))
            .unwrap_or_default();
        let message = if found.state == ContentsState::Unreadable {
            format!(
                "The root disk ({}) cannot be read: replace it, or name another in spec.rootDisk of BareMetalHardware {name}",
                disk.identity.label()
            )
        } else {
            let mut fingerprints: Vec<&str> = self
                .facts
                .hardware
                .spec
                .erase_consent
                .iter()
                .flat_map(|c| c.fingerprints.iter().map(String::as_str))
                .collect();
            fingerprints.push(&found.fingerprint);
            let list = fingerprints.iter().map(|f| format!("\"{f}\"")).collect::<Vec<_>>().join(",");
            format!(
                "The root disk ({}) holds {what}{owner}, which nobody gave up; nothing was changed. To erase it: kubectl patch bmh {name} --type merge -p '{{\"spec\":{{\"eraseConsent\":{{\"fingerprints\":[{list}]}}}}}}'",
                disk.identity.label()
            )
        };
        if !conditions::is_true(&self.old.conditions, conditions::FOREIGN_DATA) {
            self.event(true, "ForeignData", message.clone());
        }
        self.set(conditions::FOREIGN_DATA, true, "NotGivenUp", &message);
        self.wait(phase, "ForeignData", message);
    }

    /// Makes `wanted` the order in force, unless it is, or its last try failed and its time has not come. The caller has handled success.
    pub fn put_in_force(&mut self, wanted: Order) -> Standing {
        let current = self.new.order.clone().filter(|o| orders::same_purpose(o, &wanted));
        let Some(current) = current else {
            self.new.order_failures = 0;
            self.clear(conditions::ORDER_FAILED);
            self.issue(wanted);
            return Standing::InForce;
        };
        let Some(result) = view::result_of(self.facts.discovery, &current.id).cloned() else {
            return Standing::InForce;
        };
        self.count_failure(&result);
        let again = match self.new.retry_after.clone() {
            Some(then) => self.due(then.0),
            None => true,
        };
        if again || self.retry_asked {
            self.issue(wanted);
            return Standing::InForce;
        }
        Standing::Failed
    }

    fn issue(&mut self, wanted: Order) {
        self.new.order_sequence = self.old.order_sequence.saturating_add(1);
        self.new.retry_after = None;
        self.new.order = Some(Order {
            id: orders::id(self.name(), self.new.order_sequence, self.facts.salt),
            ..wanted
        });
    }

    /// Counts a failure once: `retryAfter` is there from then on.
    fn count_failure(&mut self, result: &OrderResult) {
        if self.old.retry_after.is_some() {
            return;
        }
        self.new.order_failures = self.old.order_failures.saturating_add(1);
        let wait = self.facts.config.backoff(self.new.order_failures);
        self.new.retry_after = Some(Time(self.facts.now.saturating_add(wait).unwrap_or(self.facts.now)));
        let (reason, message) = fault_text(result);
        self.set(conditions::ORDER_FAILED, true, &reason, &message);
        self.event(true, "OrderFailed", message);
    }

    /// The order in force, while the latest session works on it: what it may find is not judged anew before it ends.
    pub fn in_flight(&self) -> Option<Order> {
        let order = self.old.order.clone()?;
        view::in_flight(self.facts.discovery, &order.id).then_some(order)
    }

    pub fn order_fault(&self) -> Option<(String, String)> {
        let found = self
            .new
            .conditions
            .iter()
            .find(|c| c.type_ == conditions::ORDER_FAILED && c.status == "True")?;
        Some((found.reason.clone(), found.message.clone()))
    }

    /// No order is in force any more.
    pub fn drop_order(&mut self) {
        self.new.order = None;
        self.new.order_failures = 0;
        self.new.retry_after = None;
        self.clear(conditions::ORDER_FAILED);
    }

    /// Lets its driver boot a machine that has stayed away since `since` into the agent; where there is none, or it does not help, asks a person to switch it off and on.
    pub fn watch_for_return(&mut self, since: Timestamp) -> bool {
        if let Some(idle) = &self.new.idle {
            // It is off, and nothing else is to be waited for. What its class had done about it already counts.
            self.power_want = Want::Wake(idle.since.0);
        } else if self.due(since.saturating_add(self.facts.config.power_act_after).unwrap_or(since)) {
            self.power_want = Want::Agent(since);
        }
        if power::is_at_it(self.facts.power, &self.new) {
            return false;
        }
        let then = since.saturating_add(self.facts.config.power_cycle_after).unwrap_or(since);
        // One that nothing can switch on needs no patience.
        let stranded = self.new.idle.is_some() && !crate::idle::can_come_back(self.facts.power.map(|p| p.can));
        if !stranded && !self.due(then) {
            return false;
        }
        let fault = self.new.power.as_ref().map_or("", |p| p.fault.as_str());
        let tried = match (self.facts.power, fault) {
            (None, _) => String::new(),
            (Some(_), "") => ". Its power driver switched it, and it did not boot into the agent".to_owned(),
            (Some(_), fault) => format!(". Its power driver cannot: {fault}"),
        };
        let manual = self.facts.hardware.spec.power.as_ref().and_then(|p| p.manual.as_ref());
        let how = manual
            .filter(|m| !m.instructions.is_empty())
            .map(|m| format!(" ({})", m.instructions));
        let message = format!(
            "Switch this machine {}, with the network as its first boot device: {}{}{tried}",
            if self.new.idle.is_some() { "on" } else { "off and on" },
            self.describe(),
            how.unwrap_or_default()
        );
        if !conditions::is_true(&self.old.conditions, conditions::POWER_CYCLE_NEEDED) {
            self.event(true, "PowerCycleNeeded", message.clone());
        }
        self.set(conditions::POWER_CYCLE_NEEDED, true, "NoAnswer", &message);
        true
    }

    /// Lets the driver boot a machine without a session into the agent, where it can from a medium. Somebody wrote the medium's settings down for that; of any other machine nobody knows what it does
    /// at present, and it comes when it is switched on.
    pub fn call_by_medium(&mut self) {
        if !self.facts.power.is_some_and(|power| power.can.medium) || self.session().is_some() {
            return;
        }
        let created = self.facts.hardware.metadata.creation_timestamp.as_ref();
        let seen = view::seen(self.facts.discovery).and_then(|s| s.session.as_ref());
        let since = seen.map(|session| session.opened_at.0).max(created.map(|created| created.0));
        if let Some(since) = since {
            self.watch_for_return(since);
        }
    }

    /// Vendor, product, serial, MAC, switch port: enough to find it in a room.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(inventory) = view::seen(self.facts.discovery).and_then(|s| s.inventory.as_ref()) {
            let system = &inventory.system;
            parts.extend([&system.vendor, &system.product].into_iter().flatten().cloned());
            parts.extend(
                system
                    .serial
                    .as_ref()
                    .or(system.board_serial.as_ref())
                    .map(|s| format!("serial {s}")),
            );
            parts.extend(system.asset_tag.as_ref().map(|t| format!("asset tag {t}")));
            let nic = inventory.nics.iter().find(|n| n.boot).or(inventory.nics.first());
            parts.extend(nic.map(|n| format!("MAC {}", n.mac)));
            parts.extend(nic.and_then(|n| n.switch_port.as_ref()).map(|p| format!("at {p}")));
        }
        if parts.is_empty() {
            parts.extend(self.old.bmc_inventory.as_ref().map(bmc_inventory::describe));
        }
        if parts.is_empty() {
            return format!("BareMetalHardware {}", self.name());
        }
        parts.join(", ")
    }

    fn seed_action(&self) -> SeedAction {
        let wanted = || {
            let order = self.new.order.as_ref().filter(|_| self.seed_wanted)?;
            let drive = order.image.as_ref().is_some_and(|i| i.config_drive);
            let claim = order.claim.as_ref()?;
            let session = self.trusted_session().filter(|_| drive)?;
            Some((order, claim, session))
        };
        match (wanted(), self.facts.sealed) {
            (Some((order, _, session)), Some(sealed)) if sealed.order_id == order.id && sealed.thumbprint == session.thumbprint => {
                SeedAction::Keep
            }
            (Some((order, claim, session)), _) => SeedAction::SealFor {
                order_id: order.id.clone(),
                instance_uid: claim.uid.clone(),
                thumbprint: session.thumbprint.clone(),
                sealing_key: session.sealing_key.clone(),
            },
            // The order goes on, its session is away: what is sealed may still be fetched by it.
            (None, Some(_)) if self.seed_wanted => SeedAction::Keep,
            // It goes with the claim: nobody can open it but the session it was sealed for, which nobody serves any more.
            (None, Some(_)) if self.new.phase == HardwarePhase::InUse => SeedAction::Keep,
            (None, Some(_)) => SeedAction::Delete,
            (None, None) => SeedAction::Keep,
        }
    }

    /// Marks a wait that has passed its deadline.
    fn judge_deadline(&mut self) {
        if self.new.reason == GATE_CLOSED || self.old.power.as_ref().is_some_and(|p| !p.turn.is_empty()) {
            // The machine is not late: it waits for others, and says so.
            return;
        }
        let bytes = self.new.root_disk.as_ref().map_or(0, |d| d.size_bytes);
        let Some(limit) = deadlines::hardware(self.new.phase, bytes) else {
            return;
        };
        let Some(since) = self.new.phase_since.clone() else {
            return;
        };
        // An accepted order counts from its acceptance: that is progress.
        let accepted = view::seen(self.facts.discovery)
            .and_then(|s| s.accepted_order.as_ref())
            .filter(|a| self.new.order.as_ref().is_some_and(|o| o.id == a.id))
            .map(|a| a.accepted_at.0);
        let start = accepted.map_or(since.0, |a| a.max(since.0));
        let then = start.saturating_add(limit).unwrap_or(start);
        if self.due(then) {
            let minutes = limit.as_mins();
            if self.new.reason.is_empty() {
                "Overdue".clone_into(&mut self.new.reason);
            }
            if !self.new.message.is_empty() {
                self.new.message.push_str(". ");
            }
            self.new.message.push_str(&format!(
                "This has taken more than {minutes} minutes without progress: look at the machine's console ({})",
                self.describe()
            ));
        }
    }

    fn settle_power(&mut self) {
        let (facts, want) = (self.facts, self.power_want);
        let settled = power::settle(self.new.power.as_ref(), facts.power, want, facts.config, facts.salt, facts.now);
        if let Some(again) = settled.again {
            self.due(again);
        }
        let old = self.old.power.clone();
        let (old, new) = (old.as_ref(), settled.status.as_ref());
        if let Some(act) = new
            .and_then(|p| p.act.as_ref())
            .filter(|act| old.and_then(|p| p.act.as_ref()) != Some(act))
        {
            let what = power::told(act.kind);
            self.event(false, "PowerAct", format!("Its power driver is told to {what}"));
        }
        if let Some(power) = new.filter(|p| !p.fault.is_empty() && old.is_none_or(|old| old.failures < p.failures)) {
            let message = format!("Its power driver failed: {}", power.fault);
            self.event(true, "PowerFailed", message);
        }
        self.new.power = settled.status;
    }

    pub fn finish(mut self) -> HardwareDecision {
        let ready = self.new.phase == HardwarePhase::Ready;
        if ready {
            self.set(
                conditions::READY,
                true,
                "Free",
                "The root disk is blank; an instance can have this machine",
            );
        } else {
            let reason = if self.new.reason.is_empty() {
                format!("{:?}", self.new.phase)
            } else {
                self.new.reason.clone()
            };
            let message = self.new.message.clone();
            self.set(conditions::READY, false, &reason, &message);
        }
        if self.new.phase != self.old.phase || self.new.phase_since.is_none() {
            self.new.phase_since = Some(Time(self.facts.now));
        }
        self.judge_deadline();
        self.settle_power();
        let mut status = (self.new != self.old).then(|| self.new.clone());
        let generation = self.facts.hardware.metadata.generation;
        // Clearing a claim moves the generation; that alone is not worth a write.
        let own_clear = self.facts.hardware.spec.claim_ref.is_none()
            && self.old.claim_uid.as_ref().is_some_and(|u| self.old.released_claims.contains(u))
            && generation == self.old.observed_generation.map(|g| g + 1);
        if status.is_some() || (generation != self.old.observed_generation && !own_clear) {
            let mut new = self.new.clone();
            new.observed_generation = generation;
            status = Some(new);
        }
        if self.transient {
            status = None;
        }
        HardwareDecision {
            seed: self.seed_action(),
            release_addresses: self.release_addresses,
            spec: self.spec.filter(|_| status.is_none()),
            status,
            events: self.events,
            requeue_after: self.requeue,
        }
    }
}

/// A failed order as reason and message with its remedy.
pub(super) fn fault_text(result: &OrderResult) -> (String, String) {
    let Some(fault) = &result.fault else {
        return (
            "Internal".to_owned(),
            format!(
                "Order {} ended without the evidence it owes; it will be tried again",
                result.order_id
            ),
        );
    };
    let remedy = match fault.reason {
        FaultReason::DiskNotFound | FaultReason::DiskAmbiguous | FaultReason::DiskSizeMismatch | FaultReason::DiskProtected => {
            "Put the disk back, or correct spec.rootDisk of the BareMetalHardware"
        }
        FaultReason::UnexpectedContents => {
            "Give the contents up in spec.eraseConsent of the BareMetalHardware, or name another disk in spec.rootDisk"
        }
        FaultReason::ImageUnreachable => "Make the URL reachable from the machine, or correct spec.url of the BareMetalImage",
        FaultReason::ImageTruncated => "Serve the whole file, or correct spec.url of the BareMetalImage",
        FaultReason::ImageDigestMismatch => {
            "Correct spec.digest or spec.url of the BareMetalImage, or name another image in the instance's spec.image"
        }
        FaultReason::ImageFormatMismatch => {
            "Correct spec.format of the BareMetalImage (one of Raw, Gzip, Xz, Zstd, Qcow2), or name another image in the instance's spec.image"
        }
        FaultReason::ImageUnsupported => "Convert the image to raw or to a plain qcow2, and name it in the instance's spec.image",
        FaultReason::ImageTooLarge => {
            "Name a smaller image in the instance's spec.image, or a larger disk in spec.rootDisk of the BareMetalHardware"
        }
        FaultReason::SectorSizeMismatch => {
            "Name an image made for this sector size in the instance's spec.image, or another disk in spec.rootDisk of the BareMetalHardware"
        }
        FaultReason::NoRoomForConfigDrive => {
            "Name a smaller image or one with a partition table in the instance's spec.image, or set spec.configDrive of the instance to false"
        }
        FaultReason::SeedUnavailable => "Nothing to do: the seed is sealed anew for the next try",
        FaultReason::DiskIO | FaultReason::VerifyMismatch => {
            "The disk may be failing: replace it, or name another in spec.rootDisk of the BareMetalHardware"
        }
        FaultReason::EraseNotProven => {
            "The disk may ignore writes or discards: set spec.eraseMethod of the BareMetalHardware to Overwrite, or replace the disk"
        }
        FaultReason::Internal => "It will be tried again by itself; the machine's console says more",
    };
    let text = fault.message.trim_end_matches('.');
    (format!("{:?}", fault.reason), format!("{text}. {remedy}"))
}
