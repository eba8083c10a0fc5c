//! The two servers: how each is started, and what its processes used.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, Config};

/// The argument that makes this program the embedded server.
pub const SERVE: &str = "serve";

/// The kernel's unit of CPU time in `/proc/PID/stat` (USER_HZ): 100 on every architecture that Linux tells user space of.
const TICKS: f64 = 100.0;

/// A running server. Dropping it ends it.
pub struct Side {
    embedded: Option<Child>,
    _real: Option<rig::ControlPlane>,
    pids: Vec<u32>,
    kubeconfig: PathBuf,
    _directory: tempfile::TempDir,
}

/// Both keep their data in the build folder: a temporary folder may be memory, where a sync costs nothing.
fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("bench-api.")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

impl Side {
    /// The real control plane, syncing every write.
    pub async fn real() -> Result<Side> {
        let directory = directory()?;
        let plane = rig::ControlPlane::start(rig::Options {
            dir: Some(directory.path().to_owned()),
            fsync: true,
            audit: false,
        })
        .await?;
        Ok(Side {
            pids: vec![plane.pid("etcd")?, plane.pid("kube-apiserver")?],
            kubeconfig: plane.kubeconfig(),
            embedded: None,
            _real: Some(plane),
            _directory: directory,
        })
    }

    /// The embedded API in a process of its own.
    pub async fn embedded() -> Result<Side> {
        let directory = directory()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        if line != "ready\n" {
            bail!("the embedded API did not start");
        }
        Ok(Side {
            pids: vec![child.id()],
            kubeconfig: directory.path().join("kubeconfig"),
            embedded: Some(child),
            _real: None,
            _directory: directory,
        })
    }

    /// A client of an administrator.
    pub async fn client(&self) -> Result<kube::Client> {
        rig::client(&self.kubeconfig).await
    }

    /// CPU seconds of the server's processes so far.
    pub fn cpu(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for pid in &self.pids {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The second field is a name in brackets and may hold anything.
            let (_, rest) = text.rsplit_once(") ").context("a line of /proc/PID/stat")?;
            let fields: Vec<&str> = rest.split(' ').collect();
            let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|field| field.parse::<f64>().ok()));
            ticks += user.context("user time")? + system.context("system time")?;
        }
        Ok(ticks / TICKS)
    }

    /// The most memory the server's processes ever had resident, in bytes: the sum of each one's peak.
    pub fn memory_peak(&self) -> Result<u64> {
        let mut kib = 0;
        for pid in &self.pids {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak
                .and_then(|rest| rest.trim().strip_suffix(" kB"))
                .context("VmHWM of /proc/PID/status")?;
            kib += peak.trim().parse::<u64>()?;
        }
        Ok(kib * 1024)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(child) = &mut self.embedded {
            // It ends with its input; a failure here means that it is gone already.
            drop(child.stdin.take());
            if let Err(error) = child.wait() {
                eprintln!("waiting for the embedded API's end: {error}");
            }
        }
    }
}

/// Serves a folder until standard input closes.
pub async fn serve(directory: &Path) -> Result<()> {
    let api = ApiServer::open(Config::new(directory.join("data"))).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    api.write_kubeconfig(&directory.join("kubeconfig"), &url)?;
    println!("ready");
    let cancel = tokio_util::sync::CancellationToken::new();
    let guard = cancel.clone().drop_guard();
    std::thread::spawn(move || {
        let _guard = guard;
        // Whatever ends the input is the end.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
    });
    api.serve_tls(listener, cancel).await?;
    api.shutdown().await;
    Ok(())
}
