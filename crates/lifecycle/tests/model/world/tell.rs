//! A state in a few lines, for people who follow a counterexample.

use std::fmt::Write as _;

use agent_protocol::disk::DiskContents;
use api::{BareMetalDiscovery, BareMetalHardware, BareMetalInstance};

use crate::table::object;

use super::State;

impl State {
    /// The state in words.
    pub fn tell(&self) -> String {
        let mut told = String::new();
        for m in (0..2).filter(|m| !self.absent[*m]) {
            self.tell_machine(m, &mut told).expect("memory for a text");
        }
        for i in self.inst.iter().flatten() {
            let inst = object::<BareMetalInstance>(*i);
            let status = inst.status.clone().unwrap_or_default();
            writeln!(
                told,
                "{} on {:?} deleted {:?} claimed {} {:?}",
                inst.metadata.name.as_deref().unwrap_or_default(),
                inst.spec.hardware_name,
                inst.metadata.deletion_timestamp.as_ref().map(|t| t.0.as_second()),
                status.claimed,
                status.phase,
            )
            .expect("memory for a text");
        }
        writeln!(
            told,
            "old view of {:?}, reading {:?}, violation {:?}",
            self.frozen.map(|f| f.machine),
            self.reading,
            self.violation
        )
        .expect("memory for a text");
        told
    }

    fn tell_machine(&self, m: usize, told: &mut String) -> std::fmt::Result {
        let machine = self.machine[m];
        let disk = object::<DiskContents>(machine.disk);
        let marker = disk.marker.as_ref().map(|x| (x.instance_uid.clone(), x.order_id.clone()));
        writeln!(
            told,
            "m-{m} {:?}, disk {:?} {marker:?}, data {:b}, whole {:?}",
            machine.power, disk.state, machine.data, machine.whole
        )?;
        if let Some(disc) = self.disc[m] {
            let seen = object::<BareMetalDiscovery>(disc).status.clone().unwrap_or_default();
            writeln!(
                told,
                "    seen: session {:?}, accepted {:?}, result {:?}, boots {:?}",
                seen.session.map(|s| s.id),
                seen.accepted_order.map(|a| (a.id, a.kind, a.session)),
                seen.result.map(|r| (r.order_id, r.outcome)),
                seen.boots.last().map(|b| (b.answer, b.time.0.as_second())),
            )?;
        }
        if let Some(hw) = self.hw[m] {
            let hw = object::<BareMetalHardware>(hw);
            let status = hw.status.clone().unwrap_or_default();
            writeln!(
                told,
                "    hw: claim {:?}, {:?}, of {:?}, written {}, installed {:?}, released {:?}, order {:?}, erased for {:?}",
                hw.spec.claim_ref.as_ref().map(|c| &c.uid),
                status.phase,
                status.claim_uid,
                status.written,
                status.installed.map(|i| i.claim_uid),
                status.released_claims,
                status.order.map(|o| (o.id, o.kind)),
                status.last_erase.map(|e| e.claim_uid),
            )?;
        }
        Ok(())
    }
}
