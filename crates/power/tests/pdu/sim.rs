//! An agent of snmpsim with the outlets of this folder's recordings, which are switched by what is written to them.

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The name of the recording that snmpsim takes for messages of version 3 without a context's name.
const NO_CONTEXT: &str = "self";
/// A user whose messages are authenticated by HMAC-SHA-256, and one with HMAC-SHA-1; both encrypted by AES.
pub const USERS: [(&str, &str); 2] = [("operator", "SHA256"), ("elder", "SHA")];
pub const PASSWORD: &str = "auth-Pass-77";
pub const PRIVACY: &str = "priv-Pass-88";

fn peers() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/power-peers");
    assert!(
        folder.join("bin/snmpsim-command-responder").exists(),
        "{} has no snmpsim: run `scripts/setup --power`, then try again",
        folder.display()
    );
    folder.canonicalize().expect("a path")
}

/// It is gone when this is dropped.
#[derive(Debug)]
pub struct Sim {
    pub port: u16,
    process: Child,
    folder: TempDir,
}

impl Sim {
    pub fn start() -> Self {
        let peers = peers();
        let cells = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pdu/cells");
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("data")).expect("a folder");
        for name in ["apc", "raritan"] {
            fs::copy(cells.join(format!("{name}.snmprec")), at(&format!("data/{name}.snmprec"))).expect("copied");
        }
        fs::copy(cells.join("raritan.snmprec"), at(&format!("data/{NO_CONTEXT}.snmprec"))).expect("copied");
        let own_modules = fs::read_dir(peers.join("lib"))
            .expect("a folder")
            .map(|python| python.expect("readable").path().join("site-packages/snmpsim/variation"))
            .find(|folder| folder.exists())
            .expect("snmpsim's modules");
        let port = UdpSocket::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port")
            .port();
        let log = fs::File::create(at("log")).expect("a log");
        let mut command = Command::new(peers.join("bin/snmpsim-command-responder"));
        command
            .arg("--cache-dir")
            .arg(at("cache"))
            .arg("--variation-modules-dir")
            .arg(own_modules)
            .arg("--variation-modules-dir")
            .arg(cells)
            .arg("--variation-module-options")
            .arg(format!("outlet:{}", at("told").display()))
            .arg("--v3-engine-id=auto")
            .arg("--data-dir")
            .arg(at("data"));
        for (name, protocol) in USERS {
            command
                .args(["--v3-user", name, "--v3-auth-key", PASSWORD, "--v3-auth-proto", protocol])
                .args(["--v3-priv-key", PRIVACY, "--v3-priv-proto", "AES"]);
        }
        let process = command
            .args(["--agent-udpv4-endpoint", &format!("127.0.0.1:{port}")])
            .env("SNMPSIM_ALLOW_ROOT", "true")
            .env("TMPDIR", folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("snmpsim starts");
        let sim = Self { port, process, folder };
        let began = Instant::now();
        while !sim.log().contains("Listening at UDP/IPv4") {
            assert!(began.elapsed() < Duration::from_secs(60), "snmpsim does not listen: {}", sim.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        sim
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What was written to outlets with two cells since the last time this was asked: the outlet and the number.
    pub fn told(&self) -> Vec<String> {
        let path = self.folder.path().join("told");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, "").expect("written");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _gone = self.process.wait();
    }
}
