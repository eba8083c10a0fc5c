//! Real peers, for tests: the Kubernetes control plane (etcd, kube-apiserver, controllers and kubectl as `make control-plane` builds them), and a libvirt ([`libvirtd`]).
//!
//! Invariants:
//! * A test that needs a peer fails without it; nothing here skips.
//! * Whatever ends the test, the peers end too: the control plane runs until its standard input closes.
//!
//! It runs no pods, and it is no part of the product. Instead of pods, tests start the product's own programs ([`roles`]) with tokens of the service accounts that the pods would have
//! ([`accounts`]); [`helm`] installs charts; [`audit`] says what was asked of the API, and whether the roles fit.

pub mod accounts;
pub mod audit;
pub mod helm;
pub mod libvirtd;
pub mod roles;

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};

/// The binary that `make control-plane` builds: `$KBM_CONTROL_PLANE`, or `target/kubernetes/control-plane` of this workspace.
///
/// # Errors
/// When there is no such file; the text says how to make it.
pub fn binary() -> Result<PathBuf> {
    built("control-plane", "KBM_CONTROL_PLANE", "a real control plane")
}

/// What `make TARGET` builds into `target/kubernetes/TARGET`, or what the variable names instead.
fn built(target: &str, variable: &str, what: &str) -> Result<PathBuf> {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kubernetes").join(target);
    let path = std::env::var_os(variable).map_or_else(made, PathBuf::from);
    if !path.is_file() {
        bail!(
            "this test needs {what}, and {} is not there: run `make {target}`, or name one in {variable}",
            path.display()
        );
    }
    Ok(path.canonicalize()?)
}

/// The oldest kubectl that is supported, as `make kubectl-oldest` builds it: `$KBM_KUBECTL_OLDEST`, or `target/kubernetes/kubectl-oldest` of this workspace.
///
/// # Errors
/// When there is no such file; the text says how to make it.
pub fn oldest_kubectl() -> Result<PathBuf> {
    built("kubectl-oldest", "KBM_KUBECTL_OLDEST", "an older kubectl")
}

/// How a control plane is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder for its state. `None`: a temporary one, removed at the end.
    pub dir: Option<PathBuf>,
    /// Whether etcd writes through to the disk: off for functional tests, on for every comparison of speed or durability.
    pub fsync: bool,
    /// Whether every request is written to [`ControlPlane::audit_log`] (level Metadata, once, when it is answered).
    pub audit: bool,
}

/// A running control plane. Dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    child: Child,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl ControlPlane {
    /// Starts one and waits until it is ready (about five seconds on two idle cores; it gives up after three minutes by itself).
    ///
    /// # Errors
    /// When there is no binary, or it ended before it was ready: its last words are in the text.
    pub async fn start(options: Options) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::start_blocking(options)).await?
    }

    fn start_blocking(options: Options) -> Result<Self> {
        let program = binary()?;
        let (dir, temporary) = match options.dir {
            Some(dir) => (dir, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("kbm-control-plane.").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let mut child = Command::new(&program)
            .arg("up")
            .arg("--dir")
            .arg(&dir)
            .arg(format!("--fsync={}", options.fsync))
            .arg(format!("--audit={}", options.audit))
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut line = String::new();
        let out = child.stdout.take().context("its output")?;
        BufReader::new(out)
            .read_line(&mut line)
            .context("reading the control plane's output")?;
        let mut this = Self {
            child,
            dir,
            _temporary: temporary,
        };
        if !line.starts_with("ready ") {
            let mut words = String::new();
            if let Some(mut err) = this.child.stderr.take() {
                err.read_to_string(&mut words)?;
            }
            bail!("the control plane did not get ready: {line}{words}");
        }
        Ok(this)
    }

    /// Folder of its state, keys and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kubeconfig of a member of system:masters.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// One JSON object per answered request, when [`Options::audit`] was set.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Process id of a part: `etcd`, `kube-apiserver` or `kube-controller-manager`. For figures of CPU and memory.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn pid(&self, part: &str) -> Result<u32> {
        let path = self.dir.join(format!("{part}.pid"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    /// A client of a member of system:masters.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig()).await
    }

    /// A command that runs the stock kubectl as a member of system:masters.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn kubectl(&self) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .arg("kubectl")
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", &self.dir)
            .env("KUBECTL_KUBERC", "false");
        Ok(command)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // It ends its parts when its input closes. A failure here means that it is gone already.
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("waiting for the control plane's end: {error}");
        }
    }
}

/// A client for a kubeconfig.
///
/// # Errors
/// When the file cannot be read or used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    // Another test of the same process may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let read = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
