//! What becomes of one instance: a machine is found, prepared, written, booted, runs; and its deletion, which ends when the machine is released.
//!
//! The work itself is decided in [`crate::hardware`]; here its state is told to the tenant, and the two acts that only the instance can do are decided:
//! binding (once), and letting go of the finalizer.
//!
//! Invariants kept here:
//! * `spec.hardwareName` is set once and never changed;
//! * the finalizer goes only when the machine's release of this very claim is on record, when the claim was never acknowledged (no order can have been
//!   given for it), or when the machine's object does not exist any more;
//! * `Running` names its evidence, and comes only after a verified installation for this claim was told to boot.

use agent_protocol::{
    inventory::Inventory,
    order::{OrderKind, Progress, ProgressSource, Step},
};
use api::{
    BareMetalDiscovery, BareMetalEndpoint, BareMetalEndpointSpec, BareMetalHardware, BareMetalHardwareStatus, BareMetalImage,
    BareMetalInstance, BareMetalInstanceStatus, HardwarePhase, InstancePhase,
    common::NetworkRef,
    conditions,
    discovery::BootAnswer,
    hardware::InstalledImage,
    instance::{PhaseTime, RunningEvidence},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};

use crate::{config::Config, deadlines, disks::bytes_text, hardware::EventNote, scheduler::Placement, view};

/// What is known when deciding about an instance. Caches are good enough: every write is compared and swapped.
#[derive(Debug, Clone, Copy)]
pub struct InstanceFacts<'a> {
    /// The instance.
    pub instance: &'a BareMetalInstance,
    /// The machine that `spec.hardwareName` names, where it exists.
    pub hardware: Option<&'a BareMetalHardware>,
    /// What was seen of that machine.
    pub discovery: Option<&'a BareMetalDiscovery>,
    /// The instance's endpoints.
    pub endpoints: &'a [BareMetalEndpoint],
    /// The image that it names.
    pub image: Option<&'a BareMetalImage>,
    /// The scheduler's answer, for an instance without a machine.
    pub placement: Option<&'a Placement>,
    /// Whether every machine's object has been seen (the cache is filled): only then is an object that is not there gone.
    pub synced: bool,
    /// Times and choices.
    pub config: &'a Config,
    /// The operator's clock.
    pub now: Timestamp,
}

/// A change of the instance's metadata and spec, in one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceChange {
    /// Set `spec.hardwareName` (where it is not set yet) and add [`api::FINALIZER_RELEASE`].
    Bind(String),
    /// Remove [`api::FINALIZER_RELEASE`].
    RemoveFinalizer,
}

/// What to do, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InstanceDecision {
    /// First: a change of metadata and spec. When there is one, leave `status` for the next decision.
    pub change: Option<InstanceChange>,
    /// Second: the new status, only when it really differs.
    pub status: Option<BareMetalInstanceStatus>,
    /// Last: events; publish them only when the write was accepted.
    pub events: Vec<EventNote>,
    /// Decide again after this time even if nothing changes.
    pub requeue_after: Option<SignedDuration>,
}

struct Draft<'a> {
    facts: &'a InstanceFacts<'a>,
    old: BareMetalInstanceStatus,
    new: BareMetalInstanceStatus,
    change: Option<InstanceChange>,
    events: Vec<EventNote>,
    requeue: Option<SignedDuration>,
    /// The present wait lasts only until another writer's next step: not worth a write.
    transient: bool,
}

/// Decides.
pub fn decide(facts: &InstanceFacts<'_>) -> InstanceDecision {
    let old = facts.instance.status.clone().unwrap_or_default();
    let mut draft = Draft {
        facts,
        new: old.clone(),
        old,
        change: None,
        events: Vec::new(),
        requeue: None,
        transient: false,
    };
    draft.new.reason.clear();
    draft.new.message.clear();
    if facts.instance.metadata.deletion_timestamp.is_some() {
        draft.deleting();
    } else {
        draft.living();
    }
    draft.finish()
}

fn has_finalizer(instance: &BareMetalInstance) -> bool {
    instance.metadata.finalizers.iter().flatten().any(|f| f == api::FINALIZER_RELEASE)
}

impl<'a> Draft<'a> {
    fn uid(&self) -> &'a str {
        self.facts.instance.metadata.uid.as_deref().unwrap_or_default()
    }

    fn wait(&mut self, phase: InstancePhase, reason: &str, message: impl Into<String>) {
        self.new.phase = phase;
        reason.clone_into(&mut self.new.reason);
        self.new.message = message.into();
    }

    fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        conditions::set(&mut self.new.conditions, kind, status, reason, message, None, &Time(self.facts.now));
    }

    fn event(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.events.push(EventNote {
            warning,
            reason,
            message: message.into(),
        });
    }

    fn due(&mut self, then: Timestamp) -> bool {
        let left = then.duration_since(self.facts.now);
        if left <= SignedDuration::ZERO {
            return true;
        }
        let left = left.max(SignedDuration::from_secs(1));
        self.requeue = Some(self.requeue.map_or(left, |r| r.min(left)));
        false
    }

    /// The machine's status, as far as it speaks of this instance's claim.
    fn about_us(&self) -> Option<&'a BareMetalHardwareStatus> {
        let hardware = self.facts.hardware?;
        let status = hardware.status.as_ref()?;
        let claimed = hardware.spec.claim_ref.as_ref().is_some_and(|c| c.uid == self.uid());
        (claimed && status.claim_uid.as_deref() == Some(self.uid())).then_some(status)
    }

    /// The UIDs by which we are known to the machine.
    fn uids(&self) -> view::Uids<'a> {
        let claim = self.facts.hardware.and_then(|h| h.spec.claim_ref.as_ref());
        let ours = claim.filter(|c| c.uid == self.uid());
        ours.map_or_else(|| view::Uids::one(self.uid()), view::Uids::of)
    }

    fn claim_is_ours(&self) -> bool {
        let claim = self.facts.hardware.and_then(|h| h.spec.claim_ref.as_ref());
        claim.is_some_and(|c| c.uid == self.uid()) && !self.uid().is_empty()
    }

    fn living(&mut self) {
        let facts = self.facts;
        let Some(name) = facts.instance.spec.hardware_name.clone() else {
            return self.unbound();
        };
        if !has_finalizer(facts.instance) {
            // Named beforehand by its author, or restored without it.
            self.change = Some(InstanceChange::Bind(name));
            return;
        }
        let Some(hardware) = facts.hardware else {
            if !facts.synced {
                // Nothing can be said yet.
                self.new = self.old.clone();
                return;
            }
            let message = format!("There is no BareMetalHardware {name}: create it, or delete this instance");
            self.set(conditions::SCHEDULED, false, "HardwareNotFound", &message);
            self.wait(self.old.phase.min(InstancePhase::Provisioning), "HardwareNotFound", message);
            return;
        };
        if self.claim_is_ours() {
            self.new.claimed = true;
            self.set(conditions::SCHEDULED, true, "Claimed", &format!("Has BareMetalHardware {name}"));
            return self.claimed(hardware);
        }
        let released = hardware
            .status
            .as_ref()
            .is_some_and(|s| s.released_claims.iter().any(|u| u == self.uid()));
        if released {
            let message = format!(
                "BareMetalHardware {name} was released from this instance and does not come back to it: delete this instance and create another"
            );
            self.set(conditions::SCHEDULED, false, "Released", &message);
            self.wait(self.old.phase, "Released", message);
            return;
        }
        let (reason, message) = match &hardware.spec.claim_ref {
            Some(other) => (
                "HardwareTaken",
                format!(
                    "BareMetalHardware {name} belongs to {}/{}: wait for its release, or delete this instance",
                    other.namespace, other.name
                ),
            ),
            None if hardware.metadata.deletion_timestamp.is_some() => (
                "HardwareDeleted",
                format!("BareMetalHardware {name} is being deleted: delete this instance and create another"),
            ),
            None if hardware.status.as_ref().is_some_and(|s| s.phase == HardwarePhase::Ready) => {
                // The claim follows within moments.
                self.new = self.old.clone();
                self.transient = true;
                return;
            }
            None => {
                let status = hardware.status.clone().unwrap_or_default();
                (
                    "HardwareNotReady",
                    format!("BareMetalHardware {name} is {:?}. {}", status.phase, status.message)
                        .trim()
                        .to_owned(),
                )
            }
        };
        self.set(conditions::SCHEDULED, false, reason, &message);
        let phase = if self.old.claimed { self.old.phase } else { InstancePhase::Pending };
        self.wait(phase, reason, message);
    }

    fn unbound(&mut self) {
        match self.facts.placement {
            None => {
                self.new.reason.clone_from(&self.old.reason);
                self.new.message.clone_from(&self.old.message);
            }
            Some(Placement::Machine(name)) => {
                self.change = Some(InstanceChange::Bind(name.clone()));
                self.event(false, "Scheduled", format!("Assigned BareMetalHardware {name}"));
            }
            Some(Placement::Pending { reason, message }) => {
                self.set(conditions::SCHEDULED, false, reason, message);
                self.wait(InstancePhase::Pending, reason, message.clone());
            }
        }
    }

    /// The machine is ours: what it does is what we do.
    fn claimed(&mut self, hardware: &BareMetalHardware) {
        self.addresses();
        let Some(status) = self.about_us() else {
            self.new.phase = InstancePhase::Provisioning.max(self.old.phase.min(InstancePhase::Running));
            return;
        };
        self.mirror(status, conditions::ORDER_FAILED);
        self.mirror(status, conditions::POWER_CYCLE_NEEDED);
        self.mirror(status, conditions::FOREIGN_DATA);
        if status.phase == HardwarePhase::InUse && view::is_installed(hardware, self.facts.discovery) {
            // What is asked for beyond that: a re-install that waits for something.
            (self.new.reason, self.new.message) = (status.reason.clone(), status.message.clone());
            return self.installed(status);
        }
        self.new.evidence = None;
        if status.replacing.is_some() {
            let message = "The image is written anew over the installation before, because spec.reinstallToken was changed";
            self.set(conditions::IMAGED, false, "Reinstalling", message);
        } else {
            self.set(conditions::IMAGED, false, "NotWritten", "The image does not stand on the disk yet");
        }
        let order = status.order.as_ref().filter(|o| o.kind == OrderKind::Image);
        let seen = view::seen(self.facts.discovery);
        let accepted = seen.and_then(|s| s.accepted_order.as_ref());
        let working =
            order.is_some_and(|o| accepted.is_some_and(|a| a.id == o.id) && view::result_of(self.facts.discovery, &o.id).is_none());
        // Between the stored result and the machine's own next step the instance does not fall back.
        let written = view::present_image_result(Some(status), self.facts.discovery, self.uids()).is_some();
        self.wait(
            if working || written {
                InstancePhase::Imaging
            } else {
                InstancePhase::Provisioning
            },
            &status.reason,
            status.message.clone(),
        );
        let progress = if status.reason == crate::image::PREPARING {
            self.preparation()
        } else {
            seen.and_then(|s| s.progress).filter(|_| working)
        };
        self.progress(progress);
    }

    /// How far the image store is with the image that is waited for.
    fn preparation(&self) -> Option<Progress> {
        let preparation = self.facts.image?.status.as_ref()?.preparation.as_ref()?;
        Some(Progress::of(Step::Preparing, preparation.done_bytes, preparation.total_bytes))
    }

    /// Progress in steps of a tenth: a hint is not worth a write each time.
    fn progress(&mut self, progress: Option<Progress>) {
        let Some(progress) = progress else {
            self.new.progress = None;
            self.new.progress_text = None;
            return;
        };
        let tenth = |p: &Progress| {
            (
                p.step,
                p.done_bytes
                    .saturating_mul(10)
                    .checked_div(p.total_bytes)
                    .unwrap_or(p.done_bytes >> 30),
            )
        };
        if self.old.progress.as_ref().map(tenth) == Some(tenth(&progress)) {
            return;
        }
        let step = match progress.step {
            Step::Preparing => "Preparing",
            Step::Discarding => "Discarding",
            Step::Writing => "Writing",
            Step::Verifying => "Verifying",
            Step::Configuring => "Configuring",
            Step::Erasing => "Erasing",
            Step::Sampling => "Sampling",
        };
        let mut text = match progress.done_bytes.saturating_mul(100).checked_div(progress.total_bytes) {
            Some(percent) => format!("{step} {}%", percent.min(100)),
            None if progress.done_bytes > 0 => format!("{step} {}", bytes_text(progress.done_bytes)),
            None => step.to_owned(),
        };
        if let Some(rate) = progress.bytes_per_second {
            text.push_str(&format!(", {}/s", bytes_text(rate)));
        }
        if let Some(seconds) = progress.remaining_seconds {
            text.push_str(&format!(", {seconds} s left"));
        }
        if progress.source == Some(ProgressSource::Peers) {
            text.push_str(", from peers");
        }
        self.new.progress = Some(progress);
        self.new.progress_text = Some(text);
    }

    fn mirror(&mut self, status: &BareMetalHardwareStatus, kind: &str) {
        let found: Option<Condition> = status.conditions.iter().find(|c| c.type_ == kind && c.status == "True").cloned();
        match found {
            Some(found) => self.set(kind, true, &found.reason, &found.message),
            None => conditions::clear(&mut self.new.conditions, kind),
        }
    }

    fn addresses(&mut self) {
        let endpoints = self.facts.endpoints;
        if endpoints.is_empty() {
            conditions::clear(&mut self.new.conditions, conditions::ADDRESSES_READY);
            // By DHCP: what the guest says of itself.
            let guest = view::seen(self.facts.discovery).and_then(|s| s.guest.as_ref());
            if let Some(guest) = guest.filter(|g| self.uids().has(&g.instance_uid)) {
                self.new.addresses.clone_from(&guest.addresses);
            }
            return;
        }
        let ready = |e: &BareMetalEndpoint| {
            e.status
                .as_ref()
                .is_some_and(|s| conditions::is_true(&s.conditions, conditions::READY))
        };
        let waiting: Vec<&BareMetalEndpoint> = endpoints.iter().filter(|e| !ready(e)).collect();
        if let Some(first) = waiting.first() {
            let why = first
                .status
                .as_ref()
                .and_then(|s| s.conditions.iter().find(|c| c.type_ == conditions::READY))
                .map(|c| c.message.clone())
                .unwrap_or_else(|| unanswered(first));
            self.set(conditions::ADDRESSES_READY, false, "Waiting", &why);
            return;
        }
        self.set(conditions::ADDRESSES_READY, true, "Allocated", "Every endpoint has its addresses");
        self.new.addresses = endpoints
            .iter()
            .filter_map(|e| e.status.as_ref())
            .flat_map(|s| &s.addresses)
            .map(|a| format!("{}/{}", a.address, a.prefix_length))
            .collect();
    }

    fn installed(&mut self, status: &BareMetalHardwareStatus) {
        let facts = self.facts;
        self.progress(None);
        let seen = view::seen(facts.discovery);
        let uids = self.uids();
        if let Some(image) = view::image_result(facts.discovery, uids).and_then(|r| r.image.clone()) {
            self.new.image = Some(image);
        }
        let installed = status.installed.as_ref().filter(|i| i.claim_uid == self.uid());
        let how = installed.map_or_else(|| "Written".to_owned(), |i| format!("{:?}", i.evidence));
        self.set(conditions::IMAGED, true, &how, &self.imaged_message(installed));
        if status.power_off {
            self.new.evidence = None;
            self.set(
                conditions::RUNNING,
                false,
                "Stopped",
                "spec.running is false; the machine was told to switch off",
            );
            self.wait(InstancePhase::Stopped, "Stopped", "Switched off because spec.running is false");
            return;
        }
        let since = installed.map_or(facts.now, |i| i.since.0);
        // A helper of the system that stood there before an image was written says nothing of this one.
        let written = view::image_result(facts.discovery, uids)
            .and(seen)
            .and_then(|s| s.result_time.as_ref());
        let guest = seen.and_then(|s| s.guest.as_ref()).filter(|g| uids.has(&g.instance_uid));
        let guest = guest.filter(|g| written.is_none_or(|t| g.registered_at.0 >= t.0));
        let apart = installed.is_some_and(|i| view::is_apart_from(i, facts.discovery, uids));
        let counts = |then: Timestamp| !apart || then >= since;
        let guest = guest.filter(|g| counts(g.registered_at.0));
        let told = seen
            .and_then(|s| {
                s.boots
                    .iter()
                    .rev()
                    .find(|b| b.answer == BootAnswer::LocalDisk && uids.has(&b.instance_uid))
            })
            .map(|b| b.time.0);
        let back = |then: Timestamp| view::session_since(facts.discovery, then);
        let told = told.filter(|t| counts(*t));
        let evidence = if guest.is_some() {
            Some((
                RunningEvidence::GuestReported,
                "Its guest helper reported from the installed system",
            ))
        } else if let Some(told) = told.filter(|t| !back(*t)) {
            let then = told.saturating_add(facts.config.local_boot_confirmed_after).unwrap_or(told);
            self.due(then).then_some((
                RunningEvidence::LocalBootObserved,
                "It was told to boot its disk and has not asked again",
            ))
        } else {
            None
        };
        // Evidence lasts: a system that restarts by itself is not taken for one that never ran.
        let was_running = self.old.phase == InstancePhase::Running && !view::session_since(facts.discovery, since);
        let kept = self.old.evidence.filter(|_| was_running).map(|e| match e {
            RunningEvidence::Unconfirmed => (e, "It should be running by now; nothing was heard of it"),
            RunningEvidence::GuestReported | RunningEvidence::LocalBootObserved => {
                (e, "It was told to boot its disk and has not come back to the agent")
            }
        });
        let evidence = evidence.or(kept).or_else(|| {
            let then = since.saturating_add(facts.config.running_unconfirmed_after).unwrap_or(since);
            // A machine that sits in the agent is not running.
            let away = view::live_session(facts.discovery).is_none();
            (self.due(then) && away).then_some((RunningEvidence::Unconfirmed, "It should be running by now; nothing was heard of it"))
        });
        let before_the_reinstall = view::is_before_the_reinstall(status, facts.instance, self.old.phase);
        match evidence.filter(|_| !before_the_reinstall) {
            Some((evidence, message)) => {
                if self.old.phase != InstancePhase::Running {
                    self.event(false, "Running", message);
                }
                self.new.evidence = Some(evidence);
                self.set(conditions::RUNNING, true, &format!("{evidence:?}"), message);
                self.new.phase = InstancePhase::Running;
            }
            None => {
                self.new.evidence = None;
                let message = "Told to boot the installed system; waiting for a sign of it";
                self.set(conditions::RUNNING, false, "Booting", message);
                self.wait(InstancePhase::Booting, "AwaitingBoot", message);
            }
        }
    }

    /// What stands on the disk, and what to do where `spec.image` has come to name something else.
    fn imaged_message(&self, installed: Option<&InstalledImage>) -> String {
        let text = "The image stands on the disk, verified";
        let wanted = self.facts.image.map(|i| i.spec.digest.as_str());
        match (installed.map(|i| i.image_digest.as_str()), wanted) {
            (Some(found), Some(wanted)) if !found.is_empty() && found != wanted => format!(
                "{text}; it is {found}, while spec.image now names {wanted}. To write that over it, which takes the data on the root disk along, change spec.reinstallToken"
            ),
            _ => text.to_owned(),
        }
    }

    fn deleting(&mut self) {
        let facts = self.facts;
        let spec = &facts.instance.spec;
        if !has_finalizer(facts.instance) {
            self.new = self.old.clone();
            return;
        }
        if spec.deletion_protection && !spec.force_release && (self.old.claimed || self.claim_is_ours()) {
            let message = "spec.deletionProtection is true: set it to false to go on with the deletion";
            self.wait(self.old.phase, "DeletionProtected", message);
            return;
        }
        let Some(name) = &spec.hardware_name else {
            self.change = Some(InstanceChange::RemoveFinalizer);
            return;
        };
        let released = match facts.hardware {
            // The machine's object was deleted: there is nothing left to release. A cache that has not seen a new machine yet looks the same, so it is
            // believed only after the time by which caches may differ.
            None => facts.synced && self.due(self.absence_believed_at()),
            Some(hardware) => {
                let recorded = hardware
                    .status
                    .as_ref()
                    .is_some_and(|s| s.released_claims.iter().any(|u| u == self.uid()));
                // Without our acknowledgement no order was ever given for the claim.
                !self.claim_is_ours() && (recorded || !self.old.claimed || spec.force_release)
            }
        };
        if released {
            self.change = Some(InstanceChange::RemoveFinalizer);
            return;
        }
        // From here on the machine's release is waited for.
        self.new.claimed |= self.claim_is_ours();
        self.new.evidence = None;
        conditions::clear(&mut self.new.conditions, conditions::RUNNING);
        let status = self.about_us();
        let seen = view::seen(facts.discovery);
        let erasing = status
            .and_then(|s| s.order.as_ref())
            .filter(|o| o.kind == OrderKind::Erase)
            .is_some_and(|o| seen.and_then(|s| s.accepted_order.as_ref()).is_some_and(|a| a.id == o.id));
        if let Some(status) = status {
            self.mirror(status, conditions::ORDER_FAILED);
            self.mirror(status, conditions::POWER_CYCLE_NEEDED);
            self.mirror(status, conditions::FOREIGN_DATA);
        }
        let (reason, message) = status
            .filter(|s| s.phase == HardwarePhase::Releasing && !s.reason.is_empty())
            .map(|s| (s.reason.clone(), s.message.clone()))
            .unwrap_or_else(|| {
                (
                    "Releasing".to_owned(),
                    format!("Waiting for the release of BareMetalHardware {name}"),
                )
            });
        let phase = if erasing {
            InstancePhase::Cleaning
        } else {
            InstancePhase::Terminating
        };
        self.wait(phase, &reason, message);
        self.progress(seen.and_then(|s| s.progress).filter(|_| erasing));
    }

    /// When a machine's object that is not in the cache counts as deleted.
    fn absence_believed_at(&self) -> Timestamp {
        let deleted = self.facts.instance.metadata.deletion_timestamp.as_ref();
        let since = deleted.map_or(self.facts.now, |t| t.0);
        since.saturating_add(self.facts.config.missing_claimant_grace).unwrap_or(since)
    }

    fn judge_deadline(&mut self) {
        let bytes = self
            .facts
            .hardware
            .and_then(|h| h.status.as_ref())
            .and_then(|s| s.root_disk.as_ref())
            .map_or(0, |d| d.size_bytes);
        let Some(limit) = deadlines::instance(self.new.phase, bytes) else {
            return;
        };
        let Some(entered) = self
            .new
            .timeline
            .iter()
            .rev()
            .find(|t| t.phase == self.new.phase)
            .map(|t| t.entered.0)
        else {
            return;
        };
        let then = entered.saturating_add(limit).unwrap_or(entered);
        if self.due(then) {
            if self.new.reason.is_empty() {
                "Overdue".clone_into(&mut self.new.reason);
            }
            if !self.new.message.is_empty() {
                self.new.message.push_str(". ");
            }
            let minutes = limit.as_mins();
            self.new
                .message
                .push_str(&format!("{:?} has taken more than {minutes} minutes", self.new.phase));
        }
    }

    fn finish(mut self) -> InstanceDecision {
        if self.new.timeline.last().map(|t| t.phase) != Some(self.new.phase) {
            self.new.timeline.push(PhaseTime {
                phase: self.new.phase,
                entered: Time(self.facts.now),
            });
            let surplus = self.new.timeline.len().saturating_sub(16);
            self.new.timeline.drain(..surplus);
        }
        self.judge_deadline();
        let generation = self.facts.instance.metadata.generation;
        let changed = self.new != self.old || generation != self.old.observed_generation;
        let status = (changed && self.change.is_none() && !self.transient).then(|| {
            let mut new = self.new.clone();
            new.observed_generation = generation;
            new
        });
        InstanceDecision {
            change: self.change,
            status,
            events: self.events,
            requeue_after: self.requeue,
        }
    }
}

/// For whom an endpoint waits that has no answer yet.
pub fn unanswered(endpoint: &BareMetalEndpoint) -> String {
    let network = &endpoint.spec.network_ref;
    let name = format!(
        "{}/{}",
        endpoint.metadata.namespace.as_deref().unwrap_or_default(),
        endpoint.metadata.name.as_deref().unwrap_or_default()
    );
    if network.is_ours() {
        return format!(
            "Waiting for an address from {} {} for BareMetalEndpoint {name}",
            network.kind, network.name
        );
    }
    format!(
        "Waiting for the controller of {}.{} {} to answer BareMetalEndpoint {name}; nothing here can do it in its place",
        network.kind, network.group, network.name
    )
}

/// One NIC and network that an instance is to have.
fn wanted_networks(instance: &BareMetalInstance, hardware: &BareMetalHardware, inventory: &Inventory) -> Vec<BareMetalEndpointSpec> {
    let name = instance.metadata.name.clone().unwrap_or_default();
    let hardware_name = hardware.metadata.name.clone().unwrap_or_default();
    let endpoint = |mac, network_ref: &NetworkRef, addresses: &[String]| BareMetalEndpointSpec {
        instance_name: name.clone(),
        hardware_name: hardware_name.clone(),
        mac,
        network_ref: network_ref.clone(),
        addresses: addresses.to_vec(),
    };
    let assigned = &hardware.spec.nics;
    if instance.spec.networks.is_empty() {
        return assigned.iter().map(|a| endpoint(a.mac, &a.network_ref, &[])).collect();
    }
    // A NIC that the machine's assignments say is plugged into that network; else the next one, the NIC it booted from first.
    let mut free: Vec<_> = inventory
        .nics
        .iter()
        .filter(|n| n.boot)
        .chain(inventory.nics.iter().filter(|n| !n.boot))
        .map(|n| n.mac)
        .collect();
    let mut wanted = Vec::new();
    for network in &instance.spec.networks {
        let plugged = assigned
            .iter()
            .find(|a| a.network_ref == network.network_ref && free.contains(&a.mac))
            .map(|a| a.mac);
        let unassigned = || free.iter().copied().find(|m| !assigned.iter().any(|a| a.mac == *m));
        let Some(mac) = plugged.or_else(unassigned).or_else(|| free.first().copied()) else {
            continue;
        };
        free.retain(|m| *m != mac);
        wanted.push(endpoint(mac, &network.network_ref, &network.addresses));
    }
    wanted
}

/// The endpoints that an instance needs on its machine, named `<instance>-<number>` and owned by it. An instance with more networks than the machine has
/// NICs is an error in words.
///
/// # Errors
/// What is wrong with the instance's networks.
pub fn endpoints(
    instance: &BareMetalInstance,
    hardware: &BareMetalHardware,
    discovery: Option<&BareMetalDiscovery>,
) -> Result<Vec<BareMetalEndpoint>, String> {
    let inventory = view::seen(discovery).and_then(|s| s.inventory.as_ref());
    let specs = match inventory {
        Some(inventory) => wanted_networks(instance, hardware, inventory),
        None if instance.spec.networks.is_empty() && hardware.spec.nics.is_empty() => Vec::new(),
        None => return Err("The machine has not reported its NICs yet".to_owned()),
    };
    let networks = instance.spec.networks.len();
    if specs.len() < networks {
        return Err(format!(
            "spec.networks names {networks} networks and BareMetalHardware {} has {} NICs",
            hardware.metadata.name.as_deref().unwrap_or_default(),
            specs.len()
        ));
    }
    let name = instance.metadata.name.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: format!("{}/{}", api::GROUP, api::VERSION),
        kind: "BareMetalInstance".to_owned(),
        name: name.clone(),
        uid: instance.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let with_metadata = |(number, spec): (usize, BareMetalEndpointSpec)| BareMetalEndpoint {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{number}")),
            namespace: instance.metadata.namespace.clone(),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    Ok(specs.into_iter().enumerate().map(with_metadata).collect())
}
