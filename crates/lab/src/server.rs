//! The server as a user starts it: `kube-baremetal up` in a process of its own, which can be asked to end, or killed, and started again on the same
//! state and the same ports.

use std::{net::Ipv4Addr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `kube-baremetal` program.
    pub program: PathBuf,
    /// Folder for its state, kubeconfig and log.
    pub state: PathBuf,
    /// Folder with the boot media.
    pub media: PathBuf,
    /// Folder whose files are served as images.
    pub images: Option<PathBuf>,
    /// Its address on the LAN where machines reach it. None: they are on QEMU's user networking.
    pub lan: Option<Ipv4Addr>,
    /// Further arguments of `up`.
    pub arguments: Vec<String>,
}

impl Options {
    /// The address by which machines know the server: QEMU's user networking shows this host's loopback to a guest as 10.0.2.2.
    fn known_as(&self) -> Ipv4Addr {
        self.lan.unwrap_or(Ipv4Addr::new(10, 0, 2, 2))
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    options: Options,
    /// Ports: API, boot server, agents.
    ports: [u16; 3],
    /// Port of the boot server.
    pub http_port: u16,
}

impl Server {
    /// Starts it on free ports; does not wait until it answers.
    ///
    /// # Errors
    /// When the process does not start.
    pub async fn start(options: Options) -> Result<Self> {
        let ports = crate::ports::free(Ipv4Addr::LOCALHOST)?;
        let child = Self::spawn(&options, ports)?;
        Ok(Self {
            child,
            options,
            ports,
            http_port: ports[1],
        })
    }

    /// The address by which machines know it.
    pub fn known_as(&self) -> Ipv4Addr {
        self.options.known_as()
    }

    fn spawn(options: &Options, [api, http, agent]: [u16; 3]) -> Result<Child> {
        let log = options.state.join("server.log");
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let listen = options.lan.unwrap_or(Ipv4Addr::LOCALHOST);
        let mut command = Command::new(&options.program);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(options.state.join("server"))
            .arg("--kubeconfig")
            .arg(options.state.join("kubeconfig"))
            .args(["--api-listen", &format!("127.0.0.1:{api}")])
            .args(["--http-listen", &format!("{listen}:{http}")])
            .args(["--agent-listen", &format!("{listen}:{agent}")])
            .args(["--advertise", &options.known_as().to_string()])
            .arg("--media-dir")
            .arg(&options.media)
            .args(&options.arguments);
        if let Some(images) = &options.images {
            command.arg("--image-dir").arg(images);
        }
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", options.program.display()))
    }

    /// Kills it (SIGKILL): whatever it was doing, it does not finish.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("killing the server")
    }

    /// Starts it again after [`kill`](Self::kill), on the same state and ports.
    ///
    /// # Errors
    /// When the process does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.options, self.ports)?;
        Ok(())
    }

    /// A client through the kubeconfig that the server wrote, once the API answers.
    ///
    /// # Errors
    /// When the server ends, or does not answer within a minute.
    pub async fn client(&mut self) -> Result<Client> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}: {}", self.last_words());
            }
            let problem = match self.try_client().await {
                Ok(client) => return Ok(client),
                Err(problem) => problem,
            };
            if Instant::now() > deadline {
                return Err(problem.context(format!(
                    "the server did not answer within 60 s; see {}",
                    self.options.state.join("server.log").display()
                )));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn try_client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.options.state.join("kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let crds: kube::Api<api::BareMetalInstance> = kube::Api::all(client.clone());
        crds.list(&Default::default()).await?;
        Ok(client)
    }

    /// Returns only when the server ends by itself, which it never should.
    pub async fn watch(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("the server ended with {status}: {}", self.last_words()),
            Err(error) => anyhow::Error::from(error).context("waiting for the server"),
        }
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|p| i32::try_from(p).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("stopping the server")?;
        }
        match tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|s| s.success()) => Ok(()),
            Ok(status) => bail!("the server ended with {status:?} when it was asked to stop: {}", self.last_words()),
            Err(_) => bail!("the server did not stop within 20 s of being asked"),
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.options.state.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
