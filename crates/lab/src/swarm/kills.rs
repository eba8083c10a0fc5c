//! One machine's whole life again and again, each time with the server killed (`kill -9`) at another point of it and started again: before and after every
//! write of the API, before and after every answer to agent, firmware and guest helper.
//!
//! The points are not chosen: a life without a kill counts them, then each gets a life of its own. A life ends right when the machine ran its instance, gave it back, is
//! free and erased for it, and the judge found nothing.
//!
//! * *Before a write*: nothing of it was given to the file. *After a write*: it is durable, nobody was told. The server dies by its own hand there (`up --die-at`).
//! * *Before an answer*: all that the answer rests on was done, and the machine never gets it. *After an answer*: the machine has it, and goes on. The server is killed from outside.

use std::{
    fmt,
    net::Ipv4Addr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{FutureExt, StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    driver::{Delivery, Ledger, Network, OnAnswer, Swarm},
    faults::Plan,
    judge::{self, Judge},
    machine::{Machine, Timing},
    server::Setup,
    tenant,
};

/// How it is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `kube-baremetal` program that is tested.
    pub program: PathBuf,
    /// Where the lives' state goes; it is emptied first. Lives that went wrong are left there.
    pub state: PathBuf,
    /// How long things take on the machine.
    pub timing: Timing,
    /// Lives at a time.
    pub parallel: usize,
    /// Longest time for one life.
    pub patience: Duration,
}

/// Where the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// At a write of the API, counted from 1.
    Write {
        /// Which.
        number: u64,
        /// After it was made durable, else before.
        after: bool,
    },
    /// At an answer, counted from 1.
    Answer {
        /// Which.
        number: usize,
        /// After the machine got it, else before.
        after: bool,
    },
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |after: &bool| if *after { "after" } else { "before" };
        match self {
            Self::Write { number, after } => write!(f, "{}-write-{number}", side(after)),
            Self::Answer { number, after } => write!(f, "{}-answer-{number}", side(after)),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Writes of a life without a kill.
    pub writes: u64,
    /// Answers of a life without a kill.
    pub answers: usize,
    /// Lives with a kill that ended right.
    pub lives: usize,
    /// Kills whose point did not come: no two lives are quite alike.
    pub not_reached: Vec<String>,
    /// Time for all.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes and {} answers in a life; {} lives with a kill before or after each of them ended right in {:.0} s",
            self.writes,
            self.answers,
            self.lives,
            self.took.as_secs_f64()
        )?;
        if !self.not_reached.is_empty() {
            write!(
                f,
                "; {} points did not come: {}",
                self.not_reached.len(),
                self.not_reached.join(", ")
            )?;
        }
        Ok(())
    }
}

/// Goes through all points.
///
/// # Errors
/// The points whose life did not end right, each with what was found.
pub async fn run(options: &Options) -> Result<Report> {
    let begun = Instant::now();
    crate::raise_file_limit();
    if options.state.exists() {
        std::fs::remove_dir_all(&options.state).with_context(|| format!("emptying {}", options.state.display()))?;
    }
    let template = template(options).await?;
    let counted = life(options, &template, 0, None).await.context("a life without a kill")?;

    // A kill makes a life longer rather than shorter: a few points beyond the count are tried too.
    let mut kills = Vec::new();
    for after in [false, true] {
        kills.extend((1..=counted.writes + 2).map(|number| Kill::Write { number, after }));
        kills.extend((1..=counted.answers + 2).map(|number| Kill::Answer { number, after }));
    }
    let lives = kills.iter().enumerate().map(|(index, kill)| {
        let template = &template;
        async move { (*kill, life(options, template, index + 1, Some(*kill)).await) }
    });
    let mut ended = stream::iter(lives).buffer_unordered(options.parallel.max(1));
    let (mut right, mut not_reached, mut wrong) = (0, Vec::new(), Vec::new());
    while let Some((kill, outcome)) = ended.next().await {
        match outcome {
            Ok(life) if life.killed => right += 1,
            Ok(_) => not_reached.push(kill.to_string()),
            Err(problem) => wrong.push(format!("{kill}: {problem:#}")),
        }
    }
    let report = Report {
        writes: counted.writes,
        answers: counted.answers,
        lives: right,
        not_reached,
        took: begun.elapsed(),
    };
    if wrong.is_empty() {
        return Ok(report);
    }
    let count = wrong.len();
    wrong.truncate(8);
    bail!(
        "{count} of {} lives did not end right (see {}):\n{}\n{report}",
        kills.len(),
        options.state.display(),
        wrong.join("\n")
    )
}

/// A server's folder with everything that is there before the first machine: made once, copied for each life.
async fn template(options: &Options) -> Result<PathBuf> {
    let folder = options.state.join("template");
    let setup = Setup::new(options.program.clone(), folder.clone(), Ipv4Addr::LOCALHOST, 1)?;
    let mut server = setup.start(&[])?;
    let client = server.ready().await?;
    tenant::prepare(&client, true).await?;
    server.stop().await?;
    Ok(folder.join("data"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// How a life went.
struct Life {
    killed: bool,
    writes: u64,
    answers: usize,
}

/// An address of the loopback for one life: a server that is started again finds its ports free, whatever else this host does.
fn host(index: usize) -> Ipv4Addr {
    let [.., high, low] = (index as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, 128 + (std::process::id() % 64) as u8, high, low)
}

/// The server of one life, and who starts it again.
struct Supervised {
    pid: AtomicU32,
    /// How often it died.
    died: watch::Sender<u32>,
}

/// Starts the server, and once more when it was killed. Ends with an error when it ends in any other way.
async fn supervise(setup: &Setup, first: &[String], shared: &Supervised, stop: &CancellationToken) -> Result<()> {
    let mut server = setup.start(first)?;
    loop {
        shared.pid.store(server.pid().unwrap_or(0), Ordering::SeqCst);
        tokio::select! {
            () = stop.cancelled() => break,
            status = server.ended() => {
                let status = status?;
                ensure!(was_killed(&status), "the server ended with {status}: {}", server.last_words());
                shared.died.send_modify(|died| *died += 1);
                server = setup.start(&[])?;
            }
        }
    }
    // The last writes of a life are told events; the kill may be among those that come while it ends.
    let status = server.end().await?;
    if was_killed(&status) {
        shared.died.send_modify(|died| *died += 1);
        server = setup.start(&[])?;
        server.ready().await?;
        return server.stop().await;
    }
    let by_signal = status.signal() == Some(Signal::TERM.as_raw());
    ensure!(
        status.success() || by_signal,
        "the server ended with {status} when it was asked to stop: {}",
        server.last_words()
    );
    Ok(())
}

fn was_killed(status: &ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// Kills the server and waits until that is known.
async fn kill(shared: &Supervised) {
    let mut died = shared.died.subscribe();
    let pid = i32::try_from(shared.pid.load(Ordering::SeqCst)).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::KILL)
    {
        tracing::warn!(%error, "the server could not be killed");
        return;
    }
    if died.changed().await.is_err() {
        tracing::warn!("nobody looks after the server");
    }
}

async fn life(options: &Options, template: &Path, index: usize, at: Option<Kill>) -> Result<Life> {
    let name = at.map_or("count".to_owned(), |kill| kill.to_string());
    let folder = options.state.join(&name);
    copy(template, &folder.join("data"))?;
    let setup = Setup::new(options.program.clone(), folder.clone(), host(index), 1)?;
    let first = match at {
        Some(Kill::Write { number, after }) => vec![
            "--die-at".to_owned(),
            format!("{}:{number}", if after { "after" } else { "before" }),
        ],
        // Each write alone, as in the lives whose points it counts.
        None => vec!["--die-at".to_owned(), format!("after:{}", u64::MAX)],
        Some(Kill::Answer { .. }) => Vec::new(),
    };
    let shared = Arc::new(Supervised {
        pid: AtomicU32::new(0),
        died: watch::Sender::new(0),
    });
    let stop = CancellationToken::new();
    let server = supervise(&setup, &first, &shared, &stop);
    let answers = Arc::new(AtomicUsize::new(0));
    let interfere: OnAnswer = {
        let (shared, answers) = (shared.clone(), answers.clone());
        Arc::new(move |_, _| {
            let number = answers.fetch_add(1, Ordering::SeqCst) + 1;
            let shared = shared.clone();
            async move {
                match at {
                    Some(Kill::Answer { number: wanted, after }) if wanted == number => {
                        kill(&shared).await;
                        if after { Delivery::Deliver } else { Delivery::Withhold }
                    }
                    _ => Delivery::Deliver,
                }
            }
            .boxed()
        })
    };
    let lived = async {
        let outcome = tokio::time::timeout(options.patience, lived(options, &setup, interfere, &folder)).await;
        stop.cancel();
        outcome.unwrap_or_else(|_| bail!("took longer than {} s", options.patience.as_secs()))
    };
    let mut lived = std::pin::pin!(lived.fuse());
    let mut server = std::pin::pin!(server.fuse());
    let (outcome, ended) = tokio::select! {
        outcome = &mut lived => (outcome, server.await),
        ended = &mut server => {
            ended?;
            bail!("the server was stopped too early");
        }
    };
    let writes = outcome.with_context(|| format!("see {}", folder.display()))?;
    ended?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    let killed = *shared.died.borrow() > 0;
    Ok(Life {
        killed,
        writes,
        answers: answers.load(Ordering::SeqCst),
    })
}

/// Tries until it works: the server may be away.
async fn persist<T, F>(mut try_it: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    loop {
        match try_it().await {
            Ok(value) => return value,
            Err(problem) => tracing::debug!("{problem:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The life itself; how many writes it took.
async fn lived(options: &Options, setup: &Setup, interfere: OnAnswer, folder: &Path) -> Result<u64> {
    let client = persist(|| async {
        let client = setup.client().await?;
        client.apiserver_version().await?;
        Ok(client)
    })
    .await;
    let before = persist(|| super::revision(&client)).await;
    let start = Instant::now();
    let mut judge = Judge::start(&client, start);
    let ledger = Arc::new(Ledger::new(start));
    let network = Arc::new(Network::new(vec![setup.boot()], Some(interfere)));
    // Its disk holds something at first, so that the first cleaning is part of the life.
    let plan = Plan {
        foreign: 1.0,
        ..Plan::none(1)
    };
    let machine = Machine::new(0, plan.seed, plan.of_machine(0), options.timing);
    let macs = [machine.body.mac.0];
    let swarm = Swarm::start(vec![machine], Duration::ZERO, network, ledger.clone());
    let near = tokio::time::Instant::now() + options.patience.mul_f64(0.95);
    persist(|| tenant::create(&client, 1)).await;
    let mut there = judge.until(near, |p| p.running() == 1).await;
    if there {
        persist(|| tenant::delete(&client, 1)).await;
        there = judge.until(near, |p| p.erased() == 1 && p.instances() == 0).await;
    }
    let waiting = format!("{}; machine: {}", judge.look(|p| p.waiting(4)), swarm.places.of(0));
    swarm.stop().await;
    let after = if there {
        persist(|| super::revision(&client)).await
    } else {
        before
    };
    judge.stop().await;
    let (records, entries) = (judge.records(), ledger.entries());
    let mut found = judge::judge(&records, &entries);
    if there {
        found.extend(judge::complete(&records, &macs));
    } else {
        found.push(format!("did not get to its end: {waiting}"));
    }
    if !found.is_empty() {
        super::write_down(folder, &records, &entries)?;
        bail!("{}", found.join("; "));
    }
    Ok(after.saturating_sub(before))
}
