//! A libvirtd of the test's own, in session mode, with all of its folders below one temporary folder. As root it runs as the user `nobody`, because root's libvirtd would
//! be the system's.
//!
//! Whatever ends the test, the guests and the daemon end with it. Which machines there are, and who may reach it beyond its socket, is the test's.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

const NOBODY: u32 = 65_534;
/// How long it may take until its socket is there.
const START: Duration = Duration::from_secs(60);

/// The daemon and its folder.
#[derive(Debug)]
pub struct Libvirtd {
    folder: TempDir,
    daemon: Child,
}

impl Libvirtd {
    /// Starts one. What `prepare` puts into its folder is there before, and belongs to the user that runs it; its configuration is `config/libvirt/libvirtd.conf`.
    ///
    /// # Errors
    /// There is no libvirtd (`scripts/setup --power` brings it), or it opens no socket.
    pub fn start(arguments: &[&str], prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        // Not below $TMPDIR, which may be long: a socket's path has 107 bytes at most.
        let folder = tempfile::Builder::new().prefix("kbm-lv-").tempdir_in("/tmp")?;
        for name in ["run", "config/libvirt", "home", "data"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        // Consoles are written by QEMU itself: virtlogd would be a second daemon that outlives the test.
        fs::write(folder.path().join("config/libvirt/qemu.conf"), "stdio_handler = \"file\"\n")?;
        prepare(folder.path())?;
        give(folder.path())?;
        let log = fs::File::create(folder.path().join("libvirtd.log"))?;
        let daemon = command(folder.path(), "libvirtd")
            .args(arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("libvirtd (`scripts/setup --power` brings it)")?;
        let mut started = Self { folder, daemon };
        let began = Instant::now();
        // Before the socket is there, a client would start a daemon of its own.
        while !started.socket().exists() {
            let goes_on = started.daemon.try_wait()?.is_none();
            ensure!(goes_on && began.elapsed() < START, "libvirtd opens no socket: {}", started.log());
            sleep(Duration::from_millis(50));
        }
        Ok(started)
    }

    /// Something in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a file of its folder says; nothing, if it is not there.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// Where its clients connect.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("run/libvirt/libvirt-sock")
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> String {
        self.read("libvirtd.log")
    }

    /// A program that is run as the daemon's user, in its folder and with its environment.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        command(self.folder.path(), program)
    }

    /// Writes a file that the daemon's user can read.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content)?;
        give(&path)?;
        Ok(path)
    }

    /// The guests' processes; a number counts only while its command line names this test's folder.
    fn guests(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir(self.path("run/libvirt/qemu/run")) else {
            return Vec::new();
        };
        let pids = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid: i32 = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let ours = String::from_utf8_lossy(&line).contains(&self.folder.path().display().to_string());
            (path.extension()? == "pid" && ours).then(|| Pid::from_raw(pid))?
        });
        pids.collect()
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        for guest in self.guests() {
            // It may have ended in between.
            kill_process(guest, Signal::KILL).unwrap_or_default();
        }
        self.daemon.kill().unwrap_or_default();
        if let Err(error) = self.daemon.wait() {
            eprintln!("waiting for libvirtd's end: {error}");
        }
    }
}

fn command(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).current_dir(folder);
    command.envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8")]);
    for (variable, name) in [
        ("HOME", "home"),
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CACHE_HOME", "home/.cache"),
        ("XDG_STATE_HOME", "home/.state"),
    ] {
        command.env(variable, folder.join(name));
    }
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Gives a tree to the user that runs it all.
fn give(path: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    chown(path, Some(NOBODY), Some(NOBODY))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}
