//! Figures of a run: how long each phase took, how many machines a minute, what the server used.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use api::{HardwarePhase, InstancePhase};

use super::{
    bmcs,
    driver::Entry,
    judge::{Kind, Record, Seen},
    machine::Fact,
    server::Usage,
};

/// One way from one moment to another, over all machines.
#[derive(Debug, Clone)]
pub struct Phase {
    /// From what to what.
    pub name: &'static str,
    /// Sorted.
    durations: Vec<Duration>,
}

impl Phase {
    /// The duration that this share of the machines did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.durations.len().saturating_sub(1);
        let at = (last as f64 * share).ceil() as usize;
        self.durations.get(at.min(last)).copied().unwrap_or_default()
    }

    /// How many machines went that way.
    pub fn count(&self) -> usize {
        self.durations.len()
    }
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// Machines.
    pub machines: usize,
    /// Faults that struck.
    pub struck: usize,
    /// When the first machine was switched on; then, where the ways were told apart, when the first, the idle time, the second and the third were over and what they left behind had settled.
    pub marks: Vec<jiff::Timestamp>,
    /// From the first power-on to the last Ready, where the ways were told apart.
    pub to_ready: Option<Duration>,
    /// From the first power-on until the last machine was switched off again, where they have BMCs.
    pub to_off: Option<Duration>,
    /// From the first power-on (or, where the ways were told apart, the first instance) to the last Running.
    pub to_running: Duration,
    /// From the first deletion to the last machine free and erased, the last instance gone.
    pub to_released: Duration,
    /// Phases of a life.
    pub phases: Vec<Phase>,
    /// Requests of the machines, and how many had no answer.
    pub requests: (u64, u64),
    /// Writes of the API.
    pub writes: u64,
    /// The server when the last instance ran.
    pub running: Usage,
    /// The server at the end.
    pub end: Usage,
    /// The simulation itself.
    pub own: Usage,
    /// What BMCs were asked, where machines have some.
    pub bmcs: Option<bmcs::Figures>,
    /// Interrupted watches of the judge.
    pub gaps: u64,
}

/// The moments of a machine's life, from both sides.
#[derive(Debug, Default, Clone)]
struct Moments {
    power_on: Option<Duration>,
    session: Option<Duration>,
    accepted: Option<Duration>,
    ready: Option<Duration>,
    bound: Option<Duration>,
    ordered: Option<Duration>,
    installed: Option<Duration>,
    running: Option<Duration>,
    deleted: Option<Duration>,
    releasing: Option<Duration>,
    free: Option<Duration>,
    gone: Option<Duration>,
}

fn first(slot: &mut Option<Duration>, at: Duration) {
    slot.get_or_insert(at);
}

fn moments(records: &[Record], entries: &[Entry]) -> Vec<Moments> {
    // Machines are named by their Discovery, which their agents were told.
    let mut named: HashMap<usize, &str> = HashMap::new();
    let mut all: BTreeMap<&str, Moments> = BTreeMap::new();
    for entry in entries {
        if let Fact::Session { discovery } = &entry.fact {
            named.insert(entry.machine, discovery);
            first(&mut all.entry(discovery).or_default().session, entry.at);
        }
    }
    for entry in entries {
        if let (Fact::PowerOn, Some(name)) = (&entry.fact, named.get(&entry.machine)) {
            first(&mut all.entry(name).or_default().power_on, entry.at);
        }
    }
    let mut machine_of: HashMap<&str, &str> = HashMap::new();
    for record in records {
        match &record.seen {
            Seen::Hardware { phase, claim, .. } => {
                let m = all.entry(&record.name).or_default();
                first(&mut m.accepted, record.at);
                match phase {
                    HardwarePhase::Ready if m.running.is_none() && m.bound.is_none() => first(&mut m.ready, record.at),
                    HardwarePhase::Ready if claim.is_none() && m.releasing.is_some() => first(&mut m.free, record.at),
                    HardwarePhase::Provisioning => first(&mut m.ordered, record.at),
                    HardwarePhase::InUse => first(&mut m.installed, record.at),
                    HardwarePhase::Releasing => first(&mut m.releasing, record.at),
                    _ => {}
                }
            }
            Seen::Instance {
                hardware: Some(hardware),
                phase,
                deleting,
                ..
            } => {
                machine_of.insert(&record.name, hardware);
                let m = all.entry(hardware).or_default();
                first(&mut m.bound, record.at);
                if *phase == InstancePhase::Running {
                    first(&mut m.running, record.at);
                }
                if *deleting {
                    first(&mut m.deleted, record.at);
                }
            }
            Seen::Gone { kind: Kind::Instance } => {
                if let Some(hardware) = machine_of.get(record.name.as_str()) {
                    first(&mut all.entry(hardware).or_default().gone, record.at);
                }
            }
            _ => {}
        }
    }
    all.into_values().collect()
}

/// The phases of all lives.
pub fn phases(records: &[Record], entries: &[Entry]) -> Vec<Phase> {
    type Of = fn(&Moments) -> (Option<Duration>, Option<Duration>);
    let ways: [(&'static str, Of); 12] = [
        ("power-on to session", |m| (m.power_on, m.session)),
        ("session to accepted", |m| (m.session, m.accepted)),
        ("accepted to Ready", |m| (m.accepted, m.ready)),
        ("Ready to bound", |m| (m.ready, m.bound)),
        ("bound to image order", |m| (m.bound, m.ordered)),
        ("image order to installed", |m| (m.ordered, m.installed)),
        ("installed to Running", |m| (m.installed, m.running)),
        ("power-on to Running", |m| (m.power_on, m.running)),
        ("deleted to Releasing", |m| (m.deleted, m.releasing)),
        ("Releasing to erased, Ready", |m| (m.releasing, m.free)),
        ("deleted to instance gone", |m| (m.deleted, m.gone)),
        ("deleted to Ready", |m| (m.deleted, m.free)),
    ];
    let all = moments(records, entries);
    ways.into_iter()
        .map(|(name, of)| {
            let mut durations: Vec<Duration> = all
                .iter()
                .filter_map(|m| match of(m) {
                    (Some(from), Some(to)) => Some(to.saturating_sub(from)),
                    _ => None,
                })
                .collect();
            durations.sort();
            Phase { name, durations }
        })
        .collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_minute = |took: Duration| self.machines as f64 * 60.0 / took.as_secs_f64().max(0.001);
        let per_life = |count: u64| count as f64 / self.machines.max(1) as f64;
        let mut table = comfy_table::Table::new();
        table
            .load_style(comfy_table::presets::ASCII_MARKDOWN)
            .set_header(["phase", "machines", "p50", "p99", "longest"]);
        for phase in &self.phases {
            let seconds = |share| format!("{:.2} s", phase.quantile(share).as_secs_f64());
            table.add_row([
                phase.name.to_owned(),
                phase.count().to_string(),
                seconds(0.5),
                seconds(0.99),
                seconds(1.0),
            ]);
        }
        writeln!(f, "{table}")?;
        let (there, back) = (self.to_running, self.to_released);
        writeln!(f, "{} machines, {} faults struck", self.machines, self.struck)?;
        if let Some(ready) = self.to_ready {
            writeln!(
                f,
                "first boot to all Ready       {:>8.1} s  {:>7.0} machines a minute",
                ready.as_secs_f64(),
                per_minute(ready)
            )?;
        }
        if let Some(off) = self.to_off {
            writeln!(f, "first boot to all idle, off   {:>8.1} s", off.as_secs_f64())?;
        }
        writeln!(
            f,
            "{}     {:>8.1} s  {:>7.0} machines a minute",
            if self.to_ready.is_some() {
                "instances to all Running "
            } else {
                "first boot to all Running"
            },
            there.as_secs_f64(),
            per_minute(there)
        )?;
        writeln!(
            f,
            "deletion to all erased, Ready {:>8.1} s  {:>7.0} machines a minute",
            back.as_secs_f64(),
            per_minute(back)
        )?;
        writeln!(
            f,
            "server memory                 {:>8.1} MiB when all ran, {:.1} MiB at the end, {:.1} MiB at most",
            mib(self.running.resident),
            mib(self.end.resident),
            mib(self.end.peak)
        )?;
        writeln!(
            f,
            "processor time                {:>8.1} s server to Running, {:.1} s in all; {:.1} s simulation",
            self.running.cpu.as_secs_f64(),
            self.end.cpu.as_secs_f64(),
            self.own.cpu.as_secs_f64()
        )?;
        writeln!(f, "memory of the simulation      {:>8.1} MiB at most", mib(self.own.peak))?;
        if let Some(bmcs) = &self.bmcs {
            writeln!(f, "asked of BMCs                 {bmcs}")?;
        }
        writeln!(
            f,
            "API writes                    {:>8} ({:.1} a life)",
            self.writes,
            per_life(self.writes)
        )?;
        let (requests, lost) = self.requests;
        write!(
            f,
            "requests of the machines      {requests:>8} ({:.1} a life), {lost} without an answer",
            per_life(requests)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_durations() {
        let phase = Phase {
            name: "x",
            durations: (1..=100).map(Duration::from_secs).collect(),
        };
        assert_eq!(phase.quantile(0.5), Duration::from_secs(51));
        assert_eq!(phase.quantile(0.99), Duration::from_secs(100));
        assert_eq!(phase.quantile(1.0), Duration::from_secs(100));
        assert_eq!(
            Phase {
                name: "x",
                durations: Vec::new()
            }
            .quantile(0.5),
            Duration::ZERO
        );
    }
}
