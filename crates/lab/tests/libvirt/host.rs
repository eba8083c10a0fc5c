//! A libvirtd of the test's own, in session mode, with all of its folders below one temporary folder. As root it runs as the user `nobody`, because root's libvirtd would
//! be the system's.
//!
//! Whatever ends the test, the guests and the daemon end with it.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

const NOBODY: u32 = 65_534;
const PLAYBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/ansible");

pub struct Host {
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Host {
    pub fn start() -> Self {
        // Not below $TMPDIR, which may be long: a socket's path has 107 bytes at most.
        let folder = tempfile::Builder::new().prefix("kbm-lv-").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["run", "config/libvirt", "home", "data"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        // Consoles are written by QEMU itself: virtlogd would be a second daemon that outlives the test.
        std::fs::write(at("config/libvirt/qemu.conf"), "stdio_handler = \"file\"\n").unwrap();
        // The user that runs it all may not be able to read this checkout.
        copy(Path::new(PLAYBOOK), &at("ansible"));
        give(folder.path());
        let log = std::fs::File::create(at("libvirtd.log")).unwrap();
        let daemon = command(folder.path(), "libvirtd")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let daemon = daemon.expect("libvirtd (Debian packages libvirt-daemon and libvirt-daemon-driver-qemu)");
        let host = Self { folder, daemon };
        // Before the socket is there, a client would start a daemon of its own.
        let end = Instant::now() + Duration::from_secs(60);
        while !host.at("run/libvirt/libvirt-sock").exists() {
            assert!(
                Instant::now() < end,
                "libvirtd opened no socket within 60 s: {}",
                host.read("libvirtd.log")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.at(name)).unwrap_or_default()).into_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = command(self.folder.path(), program).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{program} does not start ({e}): `make test-libvirt` installs it"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}\n{said}{complaint}\n--- libvirtd\n{}",
            output.status,
            self.read("libvirtd.log")
        );
        said
    }

    /// What virsh says.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.run("virsh", &[&["--connect", "qemu:///session"], arguments].concat())
    }

    /// The machines that `virsh list` names.
    pub fn names(&self, flags: &[&str]) -> Vec<String> {
        let said = self.virsh(&[&["list", "--name"], flags].concat());
        let mut names: Vec<String> = said.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Runs the lab's playbook; the line in which it sums up.
    pub fn playbook(&self, settings: &Value) -> String {
        let playbook = self.at("ansible/lab.yml").display().to_string();
        let said = self.run("ansible-playbook", &["-i", "localhost,", &playbook, "-e", &settings.to_string()]);
        let recap = said.lines().find(|l| l.contains("failed=0")).map(str::to_owned);
        recap.unwrap_or_else(|| panic!("the playbook does not sum up:\n{said}"))
    }

    /// The system's network, rendered from its template with the playbook's own defaults.
    pub fn rendered_network(&self) -> String {
        let output = self.at("data/network.xml").display().to_string();
        let arguments = format!("src={} dest={output}", self.at("ansible/templates/network.xml.j2").display());
        let values = r#"{"lab_network": "192.168.155", "lab_boot_url": "http://192.168.155.1:8080/boot/ipxe", "lab_tftp_root": "/srv/tftp/kube-baremetal"}"#;
        self.run(
            "ansible",
            &[
                "-i",
                "localhost,",
                "-c",
                "local",
                "localhost",
                "-m",
                "ansible.builtin.template",
                "-a",
                &arguments,
                "-e",
                values,
            ],
        );
        output
    }

    /// The end of what a machine said on its serial console.
    pub fn console(&self, machine: &str) -> String {
        let text = self.read(&format!("data/kube-baremetal/libvirt/{machine}.console.log"));
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Every file of the lab.
    pub fn lab_files(&self) -> Vec<PathBuf> {
        let (mut folders, mut files) = (vec![self.at("data/kube-baremetal")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    /// The guests' processes; a number counts only while its command line names this test's folder.
    fn guests(&self) -> Vec<Pid> {
        let Ok(entries) = std::fs::read_dir(self.at("run/libvirt/qemu/run")) else {
            return Vec::new();
        };
        let pids = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid: i32 = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let ours = String::from_utf8_lossy(&line).contains(&self.folder.path().display().to_string());
            (path.extension()? == "pid" && ours).then(|| Pid::from_raw(pid))?
        });
        pids.collect()
    }
}

impl Drop for Host {
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
    let at = |name: &str| folder.join(name);
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).current_dir(folder);
    command.envs([
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LC_ALL", "C.UTF-8"),
        ("ANSIBLE_NOCOLOR", "1"),
    ]);
    for (variable, name) in [
        ("HOME", "home"),
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CACHE_HOME", "home/.cache"),
        ("XDG_STATE_HOME", "home/.state"),
        ("ANSIBLE_LOCAL_TEMP", "home/ansible"),
        ("ANSIBLE_REMOTE_TEMP", "home/ansible"),
    ] {
        command.env(variable, at(name));
    }
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Gives a tree to the user that runs it all.
fn give(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}
