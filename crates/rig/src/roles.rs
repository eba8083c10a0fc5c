//! The product's roles as processes: `kube-baremetal operator` and `kube-baremetal netboot`, with a kubeconfig each, on ports of the loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;

/// Status and body of a page of a monitor or of another HTTP server; nothing while it does not answer.
///
/// The body ends where its length says, as for every HTTP client: netboot resets connections that it answered for GRUB.
pub async fn page(server: SocketAddr, path: &str) -> Option<(u16, String)> {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(server).await.ok()?;
        let (mut send, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get(path).header(hyper::header::HOST, server.to_string());
        let answer = send.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        connection.abort();
        Some((status, String::from_utf8(body.into()).ok()?))
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten()
}

/// How one process is started; it can be started again and again.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the replica, and of its log.
    pub name: String,
    /// The `kube-baremetal` program.
    pub program: PathBuf,
    /// `operator` or `netboot`, and further arguments.
    pub arguments: Vec<String>,
    /// Where it serves health and metrics.
    pub monitor: SocketAddr,
    /// Folder of its log.
    pub logs: PathBuf,
}

impl Plan {
    /// An operator.
    pub fn operator(program: &Path, name: &str, kubeconfig: &Path, servers: &[String], monitor: u16, logs: &Path) -> Self {
        let mut plan = Self::new(program, "operator", name, kubeconfig, monitor, logs);
        plan.arguments.extend(servers.iter().map(|s| format!("--server={s}")));
        plan
    }

    /// A netboot replica that listens for HTTP and agents on these ports.
    pub fn netboot(
        program: &Path,
        name: &str,
        kubeconfig: &Path,
        servers: &[String],
        ports: [u16; 3],
        machines: usize,
        logs: &Path,
    ) -> Self {
        let [http, agent, monitor] = ports;
        let mut plan = Self::new(program, "netboot", name, kubeconfig, monitor, logs);
        plan.arguments.extend(servers.iter().map(|s| format!("--server={s}")));
        plan.arguments.extend([
            format!("--http-listen=127.0.0.1:{http}"),
            format!("--agent-listen=127.0.0.1:{agent}"),
            format!("--lab-machines={machines}"),
        ]);
        plan
    }

    fn new(program: &Path, role: &str, name: &str, kubeconfig: &Path, monitor: u16, logs: &Path) -> Self {
        let monitor = SocketAddr::from((Ipv4Addr::LOCALHOST, monitor));
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: vec![
                role.to_owned(),
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--replica={name}"),
                format!("--monitor-listen={monitor}"),
                "--allow-asserted-identity".to_owned(),
            ],
            monitor,
            logs: logs.to_owned(),
        }
    }

    /// With an image store: that of a netboot replica lies beside its log.
    pub fn with_image_store(mut self) -> Self {
        if self.arguments.first().is_some_and(|role| role == "operator") {
            self.arguments.push("--with-image-store".to_owned());
        } else {
            let folder = self.logs.join(format!("{}.images", self.name));
            self.arguments
                .extend([format!("--image-store={}", folder.display()), "--image-store-size=1".to_owned()]);
        }
        self
    }

    /// Its log, of all its runs.
    pub fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Process> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(&self.program)
            .args(["--log", "info"])
            .args(&self.arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Process { child, plan: self.clone() })
    }
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// How it was started.
    pub plan: Plan,
}

impl Process {
    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended by itself, and how.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// When it does not end well within half a minute.
    pub async fn stop(&mut self) -> Result<()> {
        let signalled = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        if !signalled.success() {
            bail!("{} cannot be signalled", self.plan.name);
        }
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(
                    "{} ended with {status} when it was asked to stop: {}",
                    self.plan.name,
                    self.last_words()
                ),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        bail!("{} did not stop within 30 s of being asked", self.plan.name)
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.plan.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Status and body of a page of its monitor; nothing while it does not answer.
    pub async fn ask(&self, path: &str) -> Option<(u16, String)> {
        page(self.plan.monitor, path).await
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn ready(&mut self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.ended()? {
                bail!("{} ended with {status}: {}", self.plan.name, self.last_words());
            }
            if self.ask("/readyz").await.is_some_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if Instant::now() > limit {
                bail!("{} was not ready within 60 s: {}", self.plan.name, self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        if let Ok(None) = self.child.try_wait()
            && let Err(error) = self.kill()
        {
            eprintln!("{} cannot be killed: {error}", self.plan.name);
        }
    }
}
