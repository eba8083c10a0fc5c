//! The chart in a real API server, and the two roles beside it with exactly the rights of the chart's service accounts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    config::Kubeconfig,
    runtime::{conditions, wait::await_condition},
};
use lab::swarm::{Subject, server};
use rig::{
    ControlPlane, Options, accounts,
    helm::Helm,
    roles::{Plan, Process},
};

/// Namespace of the release, and the operator's service account there.
pub const SYSTEM: (&str, &str) = ("kube-baremetal-system", "kube-baremetal-operator");
/// Netboot's namespace and service account.
pub const NETBOOT: (&str, &str) = ("kube-baremetal-netboot", "kube-baremetal-netboot");

/// The chart's folder.
pub fn chart() -> PathBuf {
    deploy().join("helm/kube-baremetal")
}

/// The folder `deploy`.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// A control plane with the chart in it.
pub struct Cluster {
    pub plane: ControlPlane,
    pub client: Client,
    pub helm: Helm,
    pub dir: tempfile::TempDir,
    /// URLs of the netboot replicas that may be started.
    pub servers: Vec<String>,
    /// The chart that is installed, or upgraded to.
    pub chart: PathBuf,
    /// Whether the roles have an image store.
    pub image_store: bool,
    /// Where the roles reach the API server, if not where it is.
    pub api: Option<SocketAddr>,
    ports: Vec<[u16; 3]>,
}

impl Cluster {
    /// Starts a control plane with an audit log and installs the chart with further arguments. Of the netboot replicas there will be at most `netboots`.
    pub async fn start(netboots: usize, fsync: bool, values: &[&str]) -> Result<Self> {
        let ports = (0..netboots).map(|_| lab::ports::free(Ipv4Addr::LOCALHOST));
        Self::start_on(ports.collect::<Result<_>>()?, fsync, values).await
    }

    /// The same with netboot replicas on given ports: boot scripts, agents, monitor.
    pub async fn start_on(ports: Vec<[u16; 3]>, fsync: bool, values: &[&str]) -> Result<Self> {
        Self::start_from(chart(), ports, fsync, values).await
    }

    /// The same with another chart.
    pub async fn start_from(chart: PathBuf, ports: Vec<[u16; 3]>, fsync: bool, values: &[&str]) -> Result<Self> {
        let plane = ControlPlane::start(Options {
            audit: true,
            fsync,
            ..Options::default()
        })
        .await?;
        let client = plane.client().await?;
        let dir = tempfile::Builder::new().prefix("kbm-chart.").tempdir()?;
        let servers = ports.iter().map(|[_, agent, _]| format!("https://127.0.0.1:{agent}")).collect();
        let this = Self {
            helm: Helm::new(dir.path(), Some(plane.kubeconfig())),
            plane,
            client,
            dir,
            servers,
            chart,
            image_store: false,
            api: None,
            ports,
        };
        this.helm_release("install", values)?;
        let text = std::fs::read_to_string(this.chart.join("files/crds.yaml")).context("the chart's definitions")?;
        let ours = |line: &'_ str| {
            line.trim()
                .strip_prefix("name: ")
                .filter(|name| name.ends_with(".kube-baremetal.io"))
                .map(str::to_owned)
        };
        let names: Vec<String> = text.lines().filter_map(ours).collect();
        ensure!(!names.is_empty(), "the chart has no definitions");
        for name in names {
            let definitions: Api<CustomResourceDefinition> = Api::all(this.client.clone());
            let ready = await_condition(definitions, &name, conditions::is_crd_established());
            tokio::time::timeout(Duration::from_secs(60), ready)
                .await
                .with_context(|| format!("{name} was not established"))??;
        }
        Ok(this)
    }

    /// `helm install` or `helm upgrade` of the chart, as somebody would, with further arguments.
    pub fn helm_release(&self, verb: &str, further: &[&str]) -> Result<String> {
        let chart = &self.chart;
        let servers = format!("servers={{{}}}", self.servers.join(","));
        let mut arguments = vec![verb, "kube-baremetal", chart.to_str().context("a path that is no text")?];
        arguments.extend(["--namespace", SYSTEM.0, "--create-namespace", "--set", servers.as_str()]);
        arguments.extend(["--set", "allowAssertedIdentity=true"]);
        arguments.extend(further);
        self.helm.must(&arguments)
    }

    async fn kubeconfig(&self, (namespace, name): (&str, &str)) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("{name}.kubeconfig"));
        let mut admin = self.plane.kubeconfig();
        if let Some(api) = self.api {
            let mut config = Kubeconfig::read_from(&admin)?;
            for cluster in config.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
                cluster.server = Some(format!("https://{api}"));
            }
            admin = self.dir.path().join("elsewhere.kubeconfig");
            std::fs::write(&admin, serde_json::to_string(&config)?)?;
        }
        accounts::kubeconfig(&self.client, &admin, namespace, name, &path).await?;
        Ok(path)
    }

    /// Starts so many operators and netboot replicas, and waits until they are ready.
    pub async fn fleet(&self, operators: usize, netboots: usize, machines: usize) -> Result<Fleet> {
        let program = Path::new(env!("CARGO_BIN_EXE_kube-baremetal"));
        let logs = self.dir.path();
        let account = self.kubeconfig(SYSTEM).await?;
        let mut plans = Vec::new();
        for index in 0..operators {
            let [monitor] = lab::ports::free(Ipv4Addr::LOCALHOST)?;
            let name = format!("operator-{index}");
            plans.push(Plan::operator(program, &name, &account, &self.servers, monitor, logs));
        }
        let account = self.kubeconfig(NETBOOT).await?;
        for (index, ports) in self.ports.iter().take(netboots).enumerate() {
            let name = format!("netboot-{index}");
            plans.push(Plan::netboot(program, &name, &account, &self.servers, *ports, machines, logs));
        }
        if self.image_store {
            plans = plans.into_iter().map(Plan::with_image_store).collect();
        }
        let mut processes = plans.iter().map(Plan::start).collect::<Result<Vec<_>>>()?;
        for process in &mut processes {
            process.ready().await?;
        }
        Ok(Fleet {
            processes: Mutex::new(processes),
        })
    }

    /// Where machines ask what to boot.
    pub fn boot(&self, netboots: usize) -> Vec<SocketAddr> {
        let ports = self.ports.iter().take(netboots);
        ports.map(|[http, ..]| SocketAddr::from((Ipv4Addr::LOCALHOST, *http))).collect()
    }

    /// What the swarm is told.
    pub fn swarm(&self, machines: usize) -> lab::swarm::Options {
        lab::swarm::Options {
            program: PathBuf::new(),
            state: self.dir.path().to_owned(),
            machines,
            plan: lab::swarm::faults::Plan::none(1),
            timing: lab::swarm::machine::Timing::default(),
            apart: None,
            power: None,
            addresses: true,
            ramp: Duration::ZERO,
            patience: Duration::from_secs(600),
            log: String::new(),
            verbose: true,
        }
    }
}

/// The running processes: operators first.
pub struct Fleet {
    processes: Mutex<Vec<Process>>,
}

impl Fleet {
    /// All of them.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The monitors of all, by which they are asked from outside.
    pub fn plans(&self) -> Vec<Plan> {
        self.lock().iter().map(|p| p.plan.clone()).collect()
    }
}

impl Subject for Fleet {
    fn usage(&self) -> Option<server::Usage> {
        let mut sum = server::Usage::default();
        for one in self.lock().iter().filter_map(|p| server::usage(p.pid())) {
            sum.resident += one.resident;
            sum.peak += one.peak;
            sum.cpu += one.cpu;
        }
        Some(sum)
    }
}
