//! What the tests here share: a few simulated machines, and ways to wait for what they come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::order::{OrderKind, PackedSource};
use anyhow::{Result, bail, ensure};
use api::{BareMetalHardware, BareMetalInstance, HardwarePhase, InstancePhase, instance::RunningEvidence};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use lab::swarm::{
    driver::{Ledger, Network, Swarm},
    faults::Plan,
    machine::{Fact, Machine, Timing},
    server::{Server, Setup},
    tenant,
};
use tokio::sync::{Mutex, MutexGuard};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Each of these tests takes both processors, so they come one after another.
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    rustls::crypto::ring::default_provider().install_default().ok();
    TURN.lock().await
}

/// A server with the embedded API in `folder`, what a tenant and an admin have to write there once, and so many machines that were switched on.
pub async fn embedded(folder: &Path, machines: usize, seed: u64) -> Result<(Setup, Server, Client, Herd)> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_kube-baremetal"));
    let setup = Setup::new(program, folder.to_owned(), Ipv4Addr::LOCALHOST, machines)?;
    let mut server = setup.start(&[])?;
    let client = server.ready().await?;
    tenant::prepare(&client, true).await?;
    let herd = Herd::start(machines, seed, vec![setup.boot()]);
    Ok((setup, server, client, herd))
}

/// The program with arguments and a kubeconfig.
pub fn command(arguments: &[&str], kubeconfig: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kube-baremetal"));
    command.args(arguments).arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null());
    command
}

/// All that it said.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    )
}

/// Runs it; whether it ended well, and what it said.
pub async fn run(arguments: &[&str], kubeconfig: &Path) -> Result<(bool, String)> {
    let mut command = command(arguments, kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    Ok((output.status.success(), said(&output)))
}

/// Runs it, and it has to end well.
pub async fn must(arguments: &[&str], kubeconfig: &Path) -> Result<String> {
    let (done, said) = run(arguments, kubeconfig).await?;
    ensure!(done, "{arguments:?}: {said}");
    Ok(said)
}

/// Runs it, and it has to refuse with these words.
pub async fn refused(arguments: &[&str], kubeconfig: &Path, words: &str) -> Result<()> {
    let (done, said) = run(arguments, kubeconfig).await?;
    ensure!(
        !done && said.contains(words),
        "{arguments:?} is to be refused with {words:?}: {said}"
    );
    Ok(())
}

pub async fn instances(client: &Client) -> Result<Vec<BareMetalInstance>> {
    Ok(Api::<BareMetalInstance>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items)
}

pub async fn hardware(client: &Client) -> Result<Vec<BareMetalHardware>> {
    Ok(Api::<BareMetalHardware>::all(client.clone())
        .list(&ListParams::default())
        .await?
        .items)
}

pub fn phase(instance: &BareMetalInstance) -> InstancePhase {
    instance.status.as_ref().map(|s| s.phase).unwrap_or_default()
}

/// The tenant's namespace.
pub fn tenants(client: &Client) -> Api<BareMetalInstance> {
    Api::namespaced(client.clone(), "swarm")
}

/// Simulated machines without faults of their own.
pub struct Herd {
    swarm: Swarm,
    network: Arc<Network>,
    ledger: Arc<Ledger>,
    size: usize,
}

impl Herd {
    /// Switches so many on; they ask at one of `boot` what to boot.
    pub fn start(size: usize, seed: u64, boot: Vec<SocketAddr>) -> Self {
        let (ledger, plan) = (Arc::new(Ledger::new(Instant::now())), Plan::none(seed));
        let machines = (0..size)
            .map(|i| Machine::new(i, seed, plan.of_machine(i), Timing::default()))
            .collect();
        let network = Arc::new(Network::new(boot, None));
        Self {
            swarm: Swarm::start(machines, Duration::ZERO, network.clone(), ledger.clone()),
            network,
            ledger,
            size,
        }
    }

    /// Switches every machine off and on.
    pub async fn power_cycle(self) -> Self {
        self.unplug().await.plug_in()
    }

    /// The power fails everywhere.
    pub async fn unplug(self) -> Dark {
        Dark {
            machines: self.swarm.unplug().await,
            network: self.network,
            ledger: self.ledger,
        }
    }

    /// Waits until a look finds what is waited for; a look that does not says why.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Result<Result<T, String>>) -> Result<T> {
        let limit = Instant::now() + PATIENCE;
        loop {
            let why = match look().await? {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            if Instant::now() > limit {
                let places: Vec<String> = (0..self.size)
                    .map(|m| format!("  machine {m}: {}", self.swarm.places.of(m)))
                    .collect();
                bail!("not {what} within {} s: {why}\n{}", PATIENCE.as_secs(), places.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until there are so many instances, and each runs by the word of its own system.
    pub async fn running(&self, client: &Client, count: usize) -> Result<Vec<BareMetalInstance>> {
        self.until("running", async || {
            let all = instances(client).await?;
            let heard = |i: &&BareMetalInstance| {
                phase(i) == InstancePhase::Running && i.status.as_ref().and_then(|s| s.evidence) == Some(RunningEvidence::GuestReported)
            };
            Ok(if all.len() == count && all.iter().filter(heard).count() == count {
                Ok(all)
            } else {
                let all: Vec<_> = all
                    .iter()
                    .map(|i| format!("{} {:?} {:?}", i.name_any(), phase(i), i.status.as_ref().map(|s| &s.message)))
                    .collect();
                Err(all.join("; "))
            })
        })
        .await
    }

    /// Waits until so many machines are free after an erase.
    pub async fn erased(&self, client: &Client, count: usize) -> Result<()> {
        self.until("erased and free", async || {
            let all = hardware(client).await?;
            let free = |h: &&BareMetalHardware| {
                h.status
                    .as_ref()
                    .is_some_and(|s| s.phase == HardwarePhase::Ready && s.last_erase.is_some())
            };
            let found = all.iter().filter(free).count();
            Ok(if found == count {
                Ok(())
            } else {
                Err(format!("{found} of {count}"))
            })
        })
        .await
    }

    /// Deletes an instance of the tenant and waits until it is gone.
    pub async fn delete(&self, client: &Client, name: &str) -> Result<()> {
        let api = tenants(client);
        api.delete(name, &DeleteParams::default()).await?;
        self.until("gone", async || {
            Ok(match api.get_opt(name).await? {
                None => Ok(()),
                Some(left) => Err(format!("{:?}", left.status.map(|s| (s.phase, s.message)))),
            })
        })
        .await
    }

    /// Which machine holds the installation of which instance (its uid there), by what ran on it last.
    pub fn installed(&self) -> BTreeMap<usize, String> {
        let runs = self.ledger.entries().into_iter().filter_map(|e| match e.fact {
            Fact::Runs { instance } => Some((e.machine, instance)),
            _ => None,
        });
        runs.collect()
    }

    /// The packed images that orders named.
    pub fn packed(&self) -> Vec<PackedSource> {
        let packed = self.ledger.entries().into_iter().filter_map(|e| match e.fact {
            Fact::Begun { packed, .. } => packed,
            _ => None,
        });
        packed.collect()
    }

    /// From now on.
    pub fn now(&self) -> Since {
        Since {
            ledger: Arc::clone(&self.ledger),
            from: self.ledger.entries().len(),
        }
    }

    /// Switches all off. Nothing that a server must never do was done to any of them.
    pub async fn end(self) -> Result<()> {
        let facts = self.ledger.entries().into_iter().map(|e| e.fact);
        let wrong: Vec<Fact> = facts.filter(|f| matches!(f, Fact::Wrong { .. })).collect();
        self.swarm.stop().await;
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }
}

/// Machines without power.
pub struct Dark {
    machines: Vec<Machine>,
    network: Arc<Network>,
    ledger: Arc<Ledger>,
}

impl Dark {
    /// The power is back.
    pub fn plug_in(self) -> Herd {
        Herd {
            size: self.machines.len(),
            swarm: Swarm::start(self.machines, Duration::ZERO, self.network.clone(), self.ledger.clone()),
            network: self.network,
            ledger: self.ledger,
        }
    }
}

/// What happened on machines since a moment.
pub struct Since {
    ledger: Arc<Ledger>,
    from: usize,
}

impl Since {
    /// Destructive orders that machines began, by machine.
    pub fn begun(&self) -> BTreeMap<usize, Vec<OrderKind>> {
        let mut begun: BTreeMap<usize, Vec<OrderKind>> = BTreeMap::new();
        for entry in self.ledger.entries().into_iter().skip(self.from) {
            if let Fact::Begun { kind, .. } = entry.fact {
                begun.entry(entry.machine).or_default().push(kind);
            }
        }
        begun
    }

    /// Machines whose installed system was started.
    pub fn ran(&self) -> BTreeSet<usize> {
        self.machines(|fact| matches!(fact, Fact::Runs { .. }))
    }

    /// Machines whose agent opened a session.
    pub fn in_agent(&self) -> BTreeSet<usize> {
        self.machines(|fact| matches!(fact, Fact::Session { .. }))
    }

    fn machines(&self, which: impl Fn(&Fact) -> bool) -> BTreeSet<usize> {
        let since = self.ledger.entries().into_iter().skip(self.from);
        since.filter(|e| which(&e.fact)).map(|e| e.machine).collect()
    }

    /// How often helpers registered.
    pub fn registered(&self) -> usize {
        let since = self.ledger.entries().into_iter().skip(self.from);
        since.filter(|e| matches!(e.fact, Fact::Registered { .. })).count()
    }
}
