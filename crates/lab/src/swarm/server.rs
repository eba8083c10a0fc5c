//! The server under test: `kube-baremetal up` in a process of its own, on ports that it keeps over restarts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The `kube-baremetal` program.
    pub program: PathBuf,
    /// Where its data and log go; kept over restarts.
    pub state: PathBuf,
    /// Machines it has to reckon with (`--lab-machines`).
    pub machines: usize,
    /// Value of its `--log`.
    pub log: String,
    host: Ipv4Addr,
    api: u16,
    http: u16,
    agent: u16,
}

impl Setup {
    /// A server whose data goes below `state`, on ports of `host` (an address of the loopback) that are free now.
    ///
    /// # Errors
    /// When the folder cannot be made, or there are no ports.
    pub fn new(program: PathBuf, state: PathBuf, host: Ipv4Addr, machines: usize) -> Result<Self> {
        std::fs::create_dir_all(&state).with_context(|| format!("creating {}", state.display()))?;
        let [api, http, agent] = crate::ports::free(host)?;
        Ok(Self {
            program,
            state,
            machines,
            log: "warn".to_owned(),
            host,
            api,
            http,
            agent,
        })
    }

    /// Where machines ask what to boot.
    pub fn boot(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.http))
    }

    /// Ports for boot scripts and for agents.
    pub fn ports(&self) -> [u16; 2] {
        [self.http, self.agent]
    }

    /// Its log.
    pub fn log_path(&self) -> PathBuf {
        self.state.join("server.log")
    }

    /// The kubeconfig that it writes when everything is ready.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Boot media without a byte in them: simulated machines are sent to the agent where there are media for them, and load none.
    fn media(&self) -> Result<PathBuf> {
        let folder = self.state.join("media");
        let of_machines = folder.join("amd64");
        let made = std::fs::create_dir_all(&of_machines).and_then(|()| {
            ["vmlinuz", "initramfs"]
                .iter()
                .try_for_each(|name| std::fs::write(of_machines.join(name), b""))
        });
        made.with_context(|| format!("making boot media in {}", of_machines.display()))?;
        Ok(folder)
    }

    /// Starts it, with further arguments; does not wait until it answers.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&self, further: &[String]) -> Result<Server> {
        let output = std::fs::File::options().create(true).append(true).open(self.log_path());
        let output = output.with_context(|| format!("opening {}", self.log_path().display()))?;
        let listen = |port: u16| format!("{}:{port}", self.host);
        let media = self.media()?;
        let child = Command::new(&self.program)
            .args(["--log", &self.log, "up"])
            .arg("--data-dir")
            .arg(self.state.join("data"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args([
                "--api-listen",
                &listen(self.api),
                "--http-listen",
                &listen(self.http),
                "--agent-listen",
                &listen(self.agent),
            ])
            .args(["--advertise", &self.host.to_string(), "--lab-machines", &self.machines.to_string()])
            .arg("--media-dir")
            .arg(media)
            .args(further)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Server {
            child,
            setup: self.clone(),
        })
    }

    /// A client through the kubeconfig that the server wrote.
    ///
    /// # Errors
    /// While the server did not write it yet.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}

/// A running server. Dropping it kills it.
pub struct Server {
    child: Child,
    setup: Setup,
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Memory that is resident now, in bytes.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
    /// Processor time, user and system.
    pub cpu: Duration,
}

/// Memory and processor time of a process.
pub fn usage(pid: u32) -> Option<Usage> {
    let folder = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // A tick that Linux shows to programs (USER_HZ) is a hundredth of a second everywhere.
    // The second field is a name in parentheses and may hold anything; utime and stime are the 12th and 13th after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Usage {
        resident: kib("VmRSS:")? * 1024,
        peak: kib("VmHWM:")? * 1024,
        cpu: Duration::from_millis(ticks * 10),
    })
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Memory and processor time.
    pub fn usage(&self) -> Option<Usage> {
        self.pid().and_then(usage)
    }

    /// Whether it ended by itself; with its last words.
    ///
    /// # Errors
    /// It did.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the server ended with {status}: {}", self.last_words()),
            None => Ok(()),
        }
    }

    /// Waits until the API answers, and gives a client.
    ///
    /// # Errors
    /// When it ends, or does not answer within a minute.
    pub async fn ready(&mut self) -> Result<Client> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.alive()?;
            let problem = match self.setup.client().await {
                Ok(client) => match client.apiserver_version().await {
                    Ok(_) => return Ok(client),
                    Err(problem) => problem.into(),
                },
                Err(problem) => problem,
            };
            if Instant::now() > deadline {
                return Err(problem.context(format!(
                    "the server did not answer within 60 s; see {}",
                    self.setup.log_path().display()
                )));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until it ended, however it did.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        self.child.wait().await.context("waiting for the server")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|p| i32::try_from(p).ok()).and_then(Pid::from_raw);
        pid.map_or(Ok(()), |pid| kill_process(pid, signal)).context("signalling the server")
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended().await.map(drop)
    }

    /// Asks it to end, and waits until it did, however.
    ///
    /// # Errors
    /// When it does not.
    pub async fn end(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await {
            Ok(status) => status.context("waiting for the server"),
            Err(_) => bail!("the server did not stop within 30 s of being asked"),
        }
    }

    /// Asks it to end and waits. One that was started a moment ago and does not listen yet ends by the signal itself; that is as good.
    ///
    /// # Errors
    /// When it does not, or in any other way.
    pub async fn stop(mut self) -> Result<()> {
        let status = self.end().await?;
        let by_signal = status.signal() == Some(Signal::TERM.as_raw());
        ensure!(
            status.success() || by_signal,
            "the server ended with {status} when it was asked to stop: {}",
            self.last_words()
        );
        Ok(())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.setup.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
