//! The swarm: many simulated machines that speak the real protocol to a real server, from first boot to Running and back.
//!
//! | room | what |
//! |---|---|
//! | [`machine`] | one machine, a pure state machine; [`body`] is its inventory and disk |
//! | [`faults`] | what goes wrong, as data |
//! | [`driver`] | carries out what machines ask for, over real sockets |
//! | [`bmcs`] | their BMCs, where they have some; [`switch`] is a machine's power |
//! | [`server`] | `kube-baremetal up` in a process of its own |
//! | [`tenant`] | who accepts machines, asks for instances and gives them back |
//! | [`judge`] | decides from the API's watch streams and from what really happened whether anything went wrong |
//! | [`report`] | figures |
//! | [`kills`] | one machine's life again and again, with the server killed at every point of it |
//!
//! Nothing here looks into the server: no metrics, no logs, no shared memory.

pub mod bmcs;
pub mod body;
pub mod driver;
pub mod faults;
pub mod judge;
pub mod kills;
pub mod machine;
pub mod random;
pub mod report;
pub mod server;
pub mod switch;
pub mod tenant;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::inventory::FirmwareMode;
use anyhow::{Context, Result, bail, ensure};
use api::HardwarePhase;
use jiff::Timestamp;
use kube::Client;

use self::{
    bmcs::Bmcs,
    driver::{Entry, Ledger, Network, Swarm},
    faults::Plan,
    judge::{Judge, Record},
    machine::{Fact, Machine, Timing},
    report::Report,
    server::{Server, Setup},
};

use crate::bmc::Controllers;

/// Events are held back for a second, and progress is written when there is time.
const SETTLE: Duration = Duration::from_secs(3);

/// How a swarm is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `kube-baremetal` program that is tested.
    pub program: PathBuf,
    /// Where its state goes; it is emptied first.
    pub state: PathBuf,
    /// How many machines, and as many instances.
    pub machines: usize,
    /// What goes wrong.
    pub plan: Plan,
    /// How long things take on a machine.
    pub timing: Timing,
    /// Instances are asked for only when every machine is Ready and was idle for so long, so that the ways can be told apart.
    pub apart: Option<Duration>,
    /// That machines have BMCs, and are switched off while nobody needs them.
    pub power: Option<Power>,
    /// Whether instances get addresses from a network of ours; else by DHCP.
    pub addresses: bool,
    /// Over which time the machines are switched on.
    pub ramp: Duration,
    /// Longest time for each of the two ways, there and back.
    pub patience: Duration,
    /// How much the server logs.
    pub log: String,
    /// Tell how far it is, on standard error.
    pub verbose: bool,
}

/// How a swarm's machines are switched.
#[derive(Debug, Clone)]
pub struct Power {
    /// Their BMCs.
    pub controllers: Controllers,
    /// For how many seconds a machine is idle before it is switched off.
    pub idle_seconds: u32,
    /// How many the operator may switch on in a minute.
    pub starts_per_minute: u32,
}

/// Runs a swarm through the whole life of every machine.
///
/// # Errors
/// What was found, by the judge too, in words for a person.
pub async fn run(options: &Options) -> Result<Report> {
    ensure!(options.machines > 0, "--machines: at least 1");
    options.plan.check().context("the plan of faults")?;
    crate::raise_file_limit();
    if options.state.exists() {
        std::fs::remove_dir_all(&options.state).with_context(|| format!("emptying {}", options.state.display()))?;
    }
    let mut setup = Setup::new(
        options.program.clone(),
        options.state.clone(),
        Ipv4Addr::LOCALHOST,
        options.machines,
    )?;
    setup.log.clone_from(&options.log);
    let starts = options
        .power
        .as_ref()
        .map(|power| format!("--starts-per-minute={}", power.starts_per_minute));
    let mut server = setup.start(starts.as_slice())?;
    let client = server.ready().await?;
    let report = drive(options, &client, vec![setup.boot()], &server).await?;
    server.alive()?;
    server.stop().await?;
    Ok(report)
}

/// What runs the system under test, as far as the swarm looks at it.
pub trait Subject {
    /// Memory and processor time of all its processes; nothing when one of them is gone.
    fn usage(&self) -> Option<server::Usage>;
}

impl Subject for Server {
    fn usage(&self) -> Option<server::Usage> {
        Server::usage(self)
    }
}

/// Runs a swarm against a system that is there already: `client` is an administrator's, `boot` where machines ask what to boot. Nothing of the swarm's may be in the API yet.
///
/// # Errors
/// What was found, by the judge too, in words for a person.
pub async fn drive(options: &Options, client: &Client, boot: Vec<SocketAddr>, subject: &dyn Subject) -> Result<Report> {
    ensure!(
        options.apart.is_none() || options.power.is_none(),
        "the ways are told apart for machines that stay on"
    );
    tenant::prepare(client, options.addresses).await?;
    if let Some(power) = &options.power {
        tenant::prepare_power(client, power).await?;
    }
    let revision = revision(client).await?;

    let start = Instant::now();
    let mut judge = Judge::start(client, start);
    let ledger = Arc::new(Ledger::new(start));
    let network = Arc::new(Network::new(boot, None));
    let machines: Vec<Machine> = (0..options.machines).map(|index| machine(options, index)).collect();
    let bmcs = match &options.power {
        Some(power) => Some(Arc::new(Bmcs::start(&power.controllers, &machines).await?)),
        None => None,
    };
    if let (true, Some(control)) = (options.verbose, bmcs.as_ref().and_then(|bmcs| bmcs.simulator().control())) {
        eprintln!("faults of the BMCs, and what they were asked: http://{control}");
    }
    let macs: Vec<[u8; 6]> = machines.iter().map(|m| m.body.mac.0).collect();
    let began = Timestamp::now();
    let swarm = Swarm::start_behind(machines, options.ramp, network, ledger.clone(), bmcs.clone());
    let around = Around {
        options,
        client,
        judge: &judge,
        swarm: &swarm,
        ledger: &ledger,
        subject,
    };
    let lives = around.there_and_back(bmcs.as_deref(), &macs).await;
    let lives = match lives {
        Ok(lives) => lives,
        Err(problem) => {
            write_down(&options.state, &judge.records(), &ledger.entries())?;
            return Err(problem);
        }
    };
    let end = subject.usage().unwrap_or_default();
    let writes = self::revision(client).await?.saturating_sub(revision);
    swarm.stop().await;
    // What was committed last has still to reach the judge.
    judge
        .until(tokio::time::Instant::now() + Duration::from_secs(5), |p| {
            p.erased() == options.machines && p.instances() == 0
        })
        .await;
    judge.stop().await;
    let (records, entries, gaps) = (judge.records(), ledger.entries(), judge.look(|p| p.gaps));
    let mut found = judge::judge(&records, &entries);
    found.extend(judge::complete(&records, &macs));
    if !found.is_empty() {
        write_down(&options.state, &records, &entries)?;
        let count = found.len();
        found.truncate(20);
        bail!("the judge found {count} wrongs:\n  {}", found.join("\n  "));
    }
    Ok(Report {
        machines: options.machines,
        struck: entries.iter().filter(|e| matches!(e.fact, Fact::Struck { .. })).count(),
        marks: std::iter::once(began).chain(lives.marks).collect(),
        to_ready: lives.to_ready,
        to_off: lives.to_off,
        to_running: lives.to_running,
        to_released: lives.to_released,
        phases: report::phases(&records, &entries),
        requests: ledger.requests(),
        writes,
        running: lives.running,
        end,
        own: server::usage(std::process::id()).unwrap_or_default(),
        bmcs: bmcs.map(|bmcs| bmcs.figures()),
        gaps,
    })
}

/// One of the swarm's machines. Where a BMC can bring it back, one that starts by BIOS is set up to try its disk first.
fn machine(options: &Options, index: usize) -> Machine {
    let machine = Machine::new(index, options.plan.seed, options.plan.of_machine(index), options.timing);
    let way = options.power.as_ref().map(|power| power.controllers.way(index));
    if machine.body.firmware == FirmwareMode::BIOS && way.is_some_and(|way| way.chooses_the_boot()) {
        machine.disk_first()
    } else {
        machine
    }
}

/// Everything that the judge saw, for the person who has to find out why: `watch.log` and `machines.log`, one line each.
fn write_down(folder: &Path, records: &[Record], entries: &[Entry]) -> Result<()> {
    let lines = |name: &str, lines: Vec<String>| {
        let path = folder.join(name);
        std::fs::write(&path, lines.join("\n")).with_context(|| format!("writing {}", path.display()))
    };
    lines(
        "watch.log",
        records
            .iter()
            .map(|r| {
                format!(
                    "{:9.3} {:>7} {}{} {:?}",
                    r.at.as_secs_f64(),
                    r.version,
                    if r.gap { "(gap) " } else { "" },
                    r.name,
                    r.seen
                )
            })
            .collect(),
    )?;
    lines(
        "machines.log",
        entries
            .iter()
            .map(|e| format!("{:9.3} {:>5} {:?}", e.at.as_secs_f64(), e.machine, e.fact))
            .collect(),
    )
}

/// How long the ways took.
struct Lives {
    marks: Vec<Timestamp>,
    to_ready: Option<Duration>,
    to_off: Option<Duration>,
    to_running: Duration,
    running: server::Usage,
    to_released: Duration,
}

/// Who takes part.
struct Around<'a> {
    options: &'a Options,
    client: &'a Client,
    judge: &'a Judge,
    swarm: &'a Swarm,
    ledger: &'a Ledger,
    subject: &'a dyn Subject,
}

impl Around<'_> {
    async fn there_and_back(&self, bmcs: Option<&Bmcs>, macs: &[[u8; 6]]) -> Result<Lives> {
        let Self {
            options, client, subject, ..
        } = *self;
        let begun = Instant::now();
        let (mut to_ready, mut to_off, mut marks) = (None, None, Vec::new());
        let ready = |p: &judge::Present| p.hardware_in(HardwarePhase::Ready);
        if let Some(idle) = options.apart {
            self.reach("Ready", ready).await?;
            to_ready = Some(begun.elapsed());
            tokio::time::sleep(SETTLE).await;
            marks.push(Timestamp::now());
            tokio::time::sleep(idle).await;
            marks.push(Timestamp::now());
        }
        if let Some(bmcs) = bmcs {
            tokio::try_join!(tenant::wire(client, self.judge, bmcs, macs), self.reach("Ready", ready))?;
            to_ready = Some(begun.elapsed());
            self.reach("idle and switched off", judge::Present::asleep).await?;
            self.all_off(bmcs).await?;
            to_off = Some(begun.elapsed());
        }
        let begun = Instant::now();
        tenant::create(client, options.machines).await?;
        self.reach("Running", |p| p.running()).await?;
        let (to_running, running) = (begun.elapsed(), subject.usage().unwrap_or_default());
        if options.apart.is_some() {
            tokio::time::sleep(SETTLE).await;
            marks.push(Timestamp::now());
        }

        let begun = Instant::now();
        tenant::delete(client, options.machines).await?;
        self.reach("erased and Ready, instances gone", |p| {
            let left = p.instances();
            if left == 0 {
                p.erased()
            } else {
                p.erased().min(options.machines.saturating_sub(left))
            }
        })
        .await?;
        let to_released = begun.elapsed();
        if options.apart.is_some() {
            tokio::time::sleep(SETTLE).await;
            marks.push(Timestamp::now());
        }
        Ok(Lives {
            marks,
            to_ready,
            to_off,
            to_running,
            running,
            to_released,
        })
    }

    /// What the API says of them is so: their power is off.
    async fn all_off(&self, bmcs: &Bmcs) -> Result<()> {
        let deadline = tokio::time::Instant::now() + self.options.patience;
        while bmcs.off() < self.options.machines {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{} of {} machines are off, and all are said to be",
                bmcs.off(),
                self.options.machines
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until all machines got somewhere; tells how far they are.
    async fn reach(&self, what: &str, count: impl Fn(&judge::Present) -> usize) -> Result<()> {
        let Self {
            options, judge, subject, ..
        } = *self;
        let begun = Instant::now();
        let deadline = tokio::time::Instant::now() + options.patience;
        let step = Duration::from_secs(5);
        loop {
            let next = deadline.min(tokio::time::Instant::now() + step);
            if judge.until(next, |p| count(p) == options.machines).await {
                return Ok(());
            }
            let usage = subject.usage().context("the server is gone")?;
            if options.verbose {
                let (there, ready) = judge.look(|p| (count(p), p.hardware_in(HardwarePhase::Ready)));
                eprintln!(
                    "{:>6.1} s  {there} of {} {what}, {ready} free; server {:.0} MiB, {:.1} s of processor time",
                    begun.elapsed().as_secs_f64(),
                    options.machines,
                    usage.resident as f64 / f64::from(1 << 20),
                    usage.cpu.as_secs_f64()
                );
            }
            if tokio::time::Instant::now() >= deadline {
                let waiting = judge.look(|p| p.waiting(12));
                let lost = lost(options, judge, self.swarm, self.ledger);
                bail!(
                    "not all machines were {what} within {} s. {waiting}\n{lost}",
                    options.patience.as_secs()
                );
            }
        }
    }
}

/// Where the machines are that did not get there.
fn lost(options: &Options, judge: &Judge, swarm: &Swarm, ledger: &Ledger) -> String {
    let mut discovery = vec![None; options.machines];
    for entry in ledger.entries() {
        if let (Fact::Session { discovery: name }, Some(slot)) = (entry.fact, discovery.get_mut(entry.machine)) {
            *slot = Some(name);
        }
    }
    let mut lines = Vec::new();
    for (index, name) in discovery.into_iter().enumerate() {
        let settled = judge.look(|p| {
            let record = name.as_ref().and_then(|n| p.objects.get(&(judge::Kind::Hardware, n.clone())));
            record.is_some_and(
                |r| matches!(&r.seen, judge::Seen::Hardware { phase, .. } if matches!(phase, HardwarePhase::Ready | HardwarePhase::InUse)),
            )
        });
        if !settled && lines.len() < 12 {
            lines.push(format!(
                "  machine {index} ({}): {}",
                name.as_deref().unwrap_or("no discovery"),
                swarm.places.of(index)
            ));
        }
    }
    lines.join("\n")
}

/// The API's newest revision: how many writes there were.
async fn revision(client: &Client) -> Result<u64> {
    let one = kube::api::ListParams::default().limit(1);
    let list = kube::Api::<api::BareMetalNetwork>::all(client.clone())
        .list_metadata(&one)
        .await
        .context("reading the API's revision")?;
    list.metadata
        .resource_version
        .and_then(|v| v.parse().ok())
        .context("the API's revision is not a number")
}
