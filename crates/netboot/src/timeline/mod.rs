//! What this replica sees of machines that boot, step by step, in memory; [`write`] puts it into their BareMetalDiscoveries.
//!
//! A boot begins with the first thing that is heard of a machine, and another one begins when firmware or loader start over. Steps come from DHCP, TFTP and HTTP. DHCP packets, requests for
//! scripts and sessions name a MAC address, so a boot is that of a MAC address. TFTP and the boot media name none: they are matched by the address that they came from ([`addresses`]).
//!
//! Invariants:
//! * Bounded whatever is sent: so many machines, boots of each, and steps of each boot. A machine beyond that is not followed.
//! * Noting a step takes no I/O and no write. A boot that ends where it should is written together with what is written then anyway (the session, the record of a boot into the disk). Only one
//!   that stopped costs a write of its own, within the budget of the hints.
//! * Nothing is decided by it: everything here can be forged by whoever is on the LAN.

mod addresses;
mod dhcp;
pub(crate) mod media;
mod merge;
pub(crate) mod write;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use agent_protocol::{
    identity::{MacAddress, SystemUuid},
    limits::clip,
};
use api::{
    BareMetalDiscoveryStatus,
    timeline::{BootStep, BootStepKind, BootTimeline, MAX_BOOTS, MAX_DETAIL},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::sync::mpsc;

use self::addresses::Addresses;
use crate::metrics::Metrics;

/// Machines that are followed at once.
const MAX_MACHINES: usize = 4096;
/// A machine of which nothing is heard for so long is forgotten, and what it does then is another boot.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Steps from addresses that are being looked up in the neighbour table.
const MAX_LOOKUPS: usize = 1024;

/// A moment by both clocks: what is written down, and what is waited by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    clock: Timestamp,
    instant: Instant,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            clock: Timestamp::now(),
            instant: Instant::now(),
        }
    }

    /// Written times have microseconds; the same is kept, so that both compare.
    fn micro(self, before: Duration) -> MicroTime {
        let earlier = self.clock.checked_sub(before).unwrap_or(self.clock);
        MicroTime(Timestamp::from_microsecond(earlier.as_microsecond()).unwrap_or(earlier))
    }
}

/// Something that was seen, at its end.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub kind: BootStepKind,
    /// How long it took.
    pub took: Duration,
    /// False for what shows that the machine came so far and is no attempt of its own.
    pub counts: bool,
    pub failed: bool,
    pub bytes: u64,
    pub resent: u64,
    /// Whether the boot is over with it, as it should be.
    pub ends: bool,
    pub detail: String,
}

impl Seen {
    pub(crate) fn new(kind: BootStepKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            took: Duration::ZERO,
            counts: true,
            failed: false,
            bytes: 0,
            resent: 0,
            ends: kind == BootStepKind::Session,
            detail: detail.into(),
        }
    }
}

#[derive(Debug)]
struct Boot {
    timeline: BootTimeline,
    /// Steps that were noted, and of those the ones that are written.
    noted: u64,
    written: u64,
    /// Kinds of steps when it was last written.
    kinds_written: usize,
    ended: bool,
}

#[derive(Debug)]
struct Machine {
    uuid: Option<SystemUuid>,
    boots: VecDeque<Boot>,
    heard: Instant,
    /// Nothing is written by itself before.
    not_before: Option<Instant>,
}

/// The boots of one machine as this replica saw them, to be written, and to be ticked off afterwards with [`Timelines::written`].
#[derive(Debug, Clone)]
pub(crate) struct Mine {
    pub mac: MacAddress,
    pub uuid: Option<SystemUuid>,
    replica: Arc<str>,
    boots: Vec<(u64, BootTimeline)>,
}

impl Mine {
    /// Puts them into a status; whether that changed anything.
    pub(crate) fn merge_into(&self, status: &mut BareMetalDiscoveryStatus) -> bool {
        merge::merge(&mut status.timelines, self.boots.iter().map(|(_, boot)| boot), &self.replica)
    }
}

/// See the module.
pub(crate) struct Timelines {
    replica: Arc<str>,
    machines: Mutex<HashMap<MacAddress, Machine>>,
    addresses: Mutex<Addresses>,
    lookups: mpsc::Sender<(IpAddr, Seen, Moment)>,
    looked_up: Mutex<Option<mpsc::Receiver<(IpAddr, Seen, Moment)>>>,
    metrics: Arc<Metrics>,
}

impl Timelines {
    pub(crate) fn new(replica: &str, metrics: Arc<Metrics>) -> Self {
        let (lookups, looked_up) = mpsc::channel(MAX_LOOKUPS);
        Self {
            replica: replica.into(),
            machines: Mutex::default(),
            addresses: Mutex::default(),
            lookups,
            looked_up: Mutex::new(Some(looked_up)),
            metrics,
        }
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<MacAddress, Machine>> {
        self.machines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes a step of a machine.
    pub(crate) fn seen(&self, mac: MacAddress, uuid: Option<SystemUuid>, seen: &Seen, moment: Moment) {
        if !mac.is_usable() {
            return;
        }
        let mut machines = self.machines();
        if !machines.contains_key(&mac) && machines.len() >= MAX_MACHINES {
            self.metrics.timelines_refused.inc();
            return;
        }
        let machine = machines.entry(mac).or_insert_with(|| Machine {
            uuid: None,
            boots: VecDeque::new(),
            heard: moment.instant,
            not_before: None,
        });
        machine.uuid = uuid.filter(SystemUuid::is_usable).or(machine.uuid);
        let silent = moment.instant.saturating_duration_since(machine.heard) >= FORGOTTEN_AFTER;
        machine.heard = moment.instant;
        let began = moment.micro(seen.took);
        if silent || machine.boots.back().is_none_or(|boot| boot.is_over_before(seen.kind, &began)) {
            if machine.boots.len() == MAX_BOOTS {
                machine.boots.pop_front();
            }
            machine.boots.push_back(Boot::new(mac, began));
        }
        let Some(boot) = machine.boots.back_mut() else { return };
        if seen.kind == BootStepKind::Session && !boot.ended {
            let began = boot.timeline.started_at.0;
            let took = moment.clock.duration_since(began);
            self.metrics.boot_seconds.observe(took.as_secs_f64().max(0.0));
        }
        boot.note(&self.replica, seen, moment);
        drop(machines);
        self.metrics.count_step(seen.kind, seen.took, seen.failed);
    }

    /// Notes a step of whichever machine has this address. One that is not known is looked up among the host's neighbours, later.
    pub(crate) fn seen_from(&self, address: IpAddr, seen: Seen, moment: Moment) {
        let holder = self.addresses().holder(address, moment.instant);
        match holder {
            addresses::Holder::One(mac) => self.seen(mac, None, &seen, moment),
            addresses::Holder::Several => {}
            addresses::Holder::Unknown => {
                if self.lookups.try_send((address, seen, moment)).is_err() {
                    self.metrics.timelines_refused.inc();
                }
            }
        }
    }

    /// A machine asked for this address, or sent from it. `exclusive`: by DHCP, so that nobody else has it any more; else others may be behind it, too.
    pub(crate) fn learn(&self, mac: MacAddress, address: IpAddr, exclusive: bool, moment: Moment) {
        if !mac.is_usable() || address.is_unspecified() {
            return;
        }
        self.addresses().learn(mac, address, exclusive, moment.instant);
        if let Some(boot) = self.machines().get_mut(&mac).and_then(|m| m.boots.back_mut()) {
            boot.timeline.address = Some(address.to_string());
        }
    }

    /// What is to be written of a machine; nothing where nothing is known.
    pub(crate) fn mine(&self, mac: MacAddress) -> Option<Mine> {
        let machines = self.machines();
        let machine = machines.get(&mac)?;
        let boots = machine.boots.iter().map(|boot| (boot.noted, boot.timeline.clone())).collect();
        Some(Mine {
            mac,
            uuid: machine.uuid,
            replica: self.replica.clone(),
            boots,
        })
    }

    /// These were written.
    pub(crate) fn written(&self, mine: &Mine) {
        let mut machines = self.machines();
        let Some(machine) = machines.get_mut(&mine.mac) else { return };
        for (noted, timeline) in &mine.boots {
            let same = |boot: &&mut Boot| boot.timeline.started_at == timeline.started_at;
            if let Some(boot) = machine.boots.iter_mut().find(same) {
                boot.written = boot.written.max(*noted);
                boot.kinds_written = boot.kinds_written.max(timeline.steps.len());
            }
        }
    }

    /// Machines whose boot stopped `quiet` ago and is not written, longest silent first, at most `count`. Each is named again only after a while.
    fn due(&self, quiet: Duration, count: usize, now: Instant) -> Vec<MacAddress> {
        let mut machines = self.machines();
        machines.retain(|_, machine| now.saturating_duration_since(machine.heard) < FORGOTTEN_AFTER || machine.is_unwritten());
        let waiting = machines.iter().filter(|(_, machine)| {
            let silent = now.saturating_duration_since(machine.heard) >= quiet;
            silent && machine.is_unwritten() && machine.not_before.is_none_or(|at| now >= at)
        });
        let mut waiting: Vec<(Instant, MacAddress)> = waiting.map(|(mac, machine)| (machine.heard, *mac)).collect();
        waiting.sort_unstable();
        waiting.truncate(count);
        for (_, mac) in &waiting {
            if let Some(machine) = machines.get_mut(mac) {
                // A machine that starts over and over is written now and then, sooner when it came further.
                let further = machine.boots.iter().any(|boot| boot.timeline.steps.len() > boot.kinds_written);
                machine.not_before = Some(now + quiet * if further { 2 } else { 10 });
            }
        }
        waiting.into_iter().map(|(_, mac)| mac).collect()
    }

    /// Whether something was seen of a machine lately.
    fn follows(&self, mac: MacAddress) -> bool {
        self.machines().contains_key(&mac)
    }

    /// Forgets a machine whose boots cannot be written down.
    fn forget(&self, mac: MacAddress) {
        self.machines().remove(&mac);
    }

    /// Steps whose addresses are to be looked up; once.
    fn take_lookups(&self) -> Option<mpsc::Receiver<(IpAddr, Seen, Moment)>> {
        self.looked_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl Machine {
    fn is_unwritten(&self) -> bool {
        self.boots.iter().any(|boot| !boot.ended && boot.noted > boot.written)
    }
}

impl Boot {
    fn new(mac: MacAddress, started_at: MicroTime) -> Self {
        Self {
            timeline: BootTimeline {
                started_at,
                mac,
                address: None,
                steps: Vec::new(),
            },
            noted: 0,
            written: 0,
            kinds_written: 0,
            ended: false,
        }
    }

    /// Whether this kind of step, which began then, cannot belong to this boot any more.
    fn is_over_before(&self, kind: BootStepKind, began: &MicroTime) -> bool {
        let reached = |from: BootStepKind| self.timeline.steps.iter().any(|step| step.step >= from);
        match kind {
            BootStepKind::Offer | BootStepKind::NoOffer => reached(BootStepKind::BootServer),
            BootStepKind::Loader => reached(BootStepKind::Script),
            // An agent whose session was refused asks again.
            BootStepKind::Session => false,
            // The end of a transfer may be noticed after what the machine did next.
            _ => self.timeline.of_kind(BootStepKind::Session).any(|session| session.at < *began),
        }
    }

    fn note(&mut self, replica: &str, seen: &Seen, moment: Moment) {
        self.noted += 1;
        self.ended = seen.ends;
        let began = moment.micro(seen.took);
        let steps = &mut self.timeline.steps;
        let at = steps.iter().position(|step| step.step == seen.kind).unwrap_or_else(|| {
            steps.push(BootStep {
                step: seen.kind,
                replica: replica.to_owned(),
                at: began,
                duration_ms: 0,
                count: 0,
                failed: 0,
                bytes: 0,
                resent: 0,
                detail: String::new(),
            });
            steps.len() - 1
        });
        let step = &mut steps[at];
        let since = moment.clock.duration_since(step.at.0).as_millis();
        step.duration_ms = u64::try_from(since).unwrap_or(0);
        step.count = step.count.saturating_add(u32::from(seen.counts));
        step.failed = step.failed.saturating_add(u32::from(seen.failed));
        step.resent = step.resent.saturating_add(seen.resent);
        // What follows the question for a file's size is the transfer.
        if seen.counts {
            step.bytes = seen.bytes;
        }
        step.detail = printable(&seen.detail);
    }
}

/// What a stranger named is shown to people, on their terminals.
fn printable(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect();
    clip(&plain, MAX_DETAIL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use BootStepKind::{BootServer, Loader, Offer, Script, Session, Tftp};

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const QUIET: Duration = Duration::from_secs(30);

    fn timelines() -> Timelines {
        Timelines::new("a", Arc::new(Metrics::new()))
    }

    fn after(start: Moment, seconds: u64) -> Moment {
        let passed = Duration::from_secs(seconds);
        Moment {
            clock: start.clock + passed,
            instant: start.instant + passed,
        }
    }

    fn kinds(mine: &Mine) -> Vec<Vec<BootStepKind>> {
        mine.boots
            .iter()
            .map(|(_, boot)| boot.steps.iter().map(|step| step.step).collect())
            .collect()
    }

    #[test]
    fn firmware_that_starts_over_begins_another_boot_and_repetitions_do_not() {
        let (all, start) = (timelines(), Moment::now());
        let see = |kind, seconds| all.seen(MAC, None, &Seen::new(kind, ""), after(start, seconds));
        see(Offer, 0);
        see(Offer, 4);
        see(BootServer, 5);
        see(Tftp, 6);
        see(Offer, 20);
        see(BootServer, 21);
        see(Tftp, 22);
        see(Loader, 23);
        see(Loader, 24);
        see(Script, 25);
        see(Session, 60);
        see(Session, 61);
        // The machine was rebooted.
        see(Loader, 90);
        let mine = all.mine(MAC).unwrap();
        assert_eq!(
            kinds(&mine),
            [
                vec![Offer, BootServer, Tftp],
                vec![Offer, BootServer, Tftp, Loader, Script, Session],
                vec![Loader]
            ]
        );
        let first = &mine.boots[0].1.steps[0];
        assert_eq!((first.count, first.duration_ms), (2, 4000), "asked twice, in four seconds");
        for n in 0..20 {
            see(Script, 100 + n * 700);
        }
        assert_eq!(
            all.mine(MAC).unwrap().boots.len(),
            MAX_BOOTS,
            "a machine that was silent for long has another boot"
        );
    }

    #[test]
    fn only_what_stopped_is_due_and_it_is_due_once_in_a_while() {
        let (all, start) = (timelines(), Moment::now());
        let mut local = Seen::new(Script, "LocalDisk");
        local.ends = true;
        all.seen(MacAddress([2, 0, 0, 0, 0, 9]), None, &local, start);
        all.seen(MAC, None, &Seen::new(Offer, ""), start);
        let due = |seconds| all.due(QUIET, 10, after(start, seconds).instant);
        assert!(due(29).is_empty());
        assert_eq!(due(30), [MAC]);
        assert!(due(31).is_empty(), "it was named a moment ago");
        all.written(&all.mine(MAC).unwrap());
        assert!(due(400).is_empty(), "nothing is new");
        all.seen(MAC, None, &Seen::new(Offer, ""), after(start, 400));
        assert_eq!(due(431), [MAC]);
        all.written(&all.mine(MAC).unwrap());
        all.seen(MAC, None, &Seen::new(Offer, ""), after(start, 440));
        assert!(due(480).is_empty(), "no further than before: in five minutes");
        assert_eq!(due(740), [MAC]);
    }

    #[test]
    fn a_flood_of_machines_is_bounded_and_forgotten() {
        let (all, start) = (timelines(), Moment::now());
        for n in 0..20_000u32 {
            let [a, b, c, d] = n.to_be_bytes();
            all.seen(MacAddress([2, 0, a, b, c, d]), None, &Seen::new(Offer, "x".repeat(5000)), start);
        }
        assert_eq!(all.machines().len(), MAX_MACHINES);
        assert!(
            all.machines()
                .values()
                .all(|m| m.boots[0].timeline.steps[0].detail.len() <= MAX_DETAIL)
        );
        let due = all.due(QUIET, 20, after(start, 40).instant);
        assert_eq!(due.len(), 20);
        let followed: Vec<_> = all.machines().keys().copied().collect();
        for mac in followed {
            all.written(&all.mine(mac).unwrap());
        }
        all.due(QUIET, 20, after(start, 3600).instant);
        assert!(all.machines().is_empty(), "what is written and silent is forgotten");
    }

    #[test]
    fn what_a_stranger_says_is_printed_harmlessly() {
        let all = timelines();
        all.seen(MAC, None, &Seen::new(BootStepKind::TftpRefused, "\x1b[2Jé\n\0x"), Moment::now());
        assert_eq!(all.mine(MAC).unwrap().boots[0].1.steps[0].detail, "?[2J???x");
    }
}
