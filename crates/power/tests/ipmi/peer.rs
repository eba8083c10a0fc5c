//! `ipmi_sim` of OpenIPMI: a BMC that nobody here wrote, on a port of the loopback, with a chassis that is a file.

use std::{
    fs,
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use power::ipmi::{
    handshake::{self, Privilege},
    wire,
};
use tempfile::TempDir;

/// A program that tests need.
pub fn program(path: &str) -> Command {
    assert!(
        Path::new(path).exists(),
        "{path} is not there: run `scripts/setup --power`, then try again"
    );
    Command::new(path)
}

/// It is gone when this is dropped.
#[derive(Debug)]
pub struct Sim {
    pub port: u16,
    folder: TempDir,
    process: Option<Child>,
}

/// What `chassis_control` of `ipmi_lan(5)` calls: `get` and `set` of power, boot and shutdown. What is set is written down.
const CHASSIS: &str = r#"#!/bin/sh
folder=$(dirname "$0")
shift
verb=$1
shift
if [ "$verb" = get ]; then
  for name in "$@"; do echo "$name:$(cat "$folder/$name" 2>/dev/null || echo 0)"; done
  exit
fi
while [ $# -gt 0 ]; do
  echo "$1 $2" >>"$folder/told"
  echo "$2" >"$folder/$1"
  [ "$1" = shutdown ] && echo 0 >"$folder/power"
  shift 2
done
exit 0
"#;

impl Sim {
    /// A BMC with the users admin (everything), operator and viewer (look).
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let chassis = at.join("chassis");
        fs::write(&chassis, CHASSIS).expect("written");
        fs::set_permissions(&chassis, fs::Permissions::from_mode(0o755)).expect("executable");
        fs::write(at.join("power"), "0").expect("written");
        fs::write(at.join("boot"), "none").expect("written");
        let port = UdpSocket::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port")
            .port();
        let allowed: String = ["callback", "user", "operator", "admin"]
            .map(|level| format!("    allowed_auths_{level} none md2 md5 straight\n"))
            .concat();
        let lan = format!(
            "name \"tests\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n{allowed}    guid a123456789abcdefa123456789abcdef\n  endlan\n  \
             chassis_control \"{} 0x20\"\n  user 2 true \"admin\" \"s3cret-Pass\" admin 10\n  user 3 true \"operator\" \"0perator-Pass\" operator 10\n  \
             user 4 true \"viewer\" \"v1ewer-Pass\" user 10\n",
            chassis.display()
        );
        fs::write(at.join("lan.conf"), lan).expect("written");
        fs::write(
            at.join("emu"),
            "mc_setbmc 0x20\nmc_add 0x20 0 has-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n",
        )
        .expect("written");
        let mut sim = Self {
            port,
            folder,
            process: None,
        };
        sim.power_up();
        sim
    }

    /// Starts the BMC's processor, and waits until it answers.
    pub fn power_up(&mut self) {
        let at = self.folder.path();
        let state = at.join("state");
        fs::create_dir_all(&state).expect("a folder");
        let log = fs::File::create(at.join("log")).expect("a log");
        let mut command = program("/usr/bin/ipmi_sim");
        command
            .arg("-n")
            .arg("-c")
            .arg(at.join("lan.conf"))
            .arg("-f")
            .arg(at.join("emu"))
            .arg("-s")
            .arg(&state);
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("ipmi_sim starts");
        self.process = Some(process);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(("127.0.0.1", self.port)).expect("an address");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let question = wire::sessionless(&handshake::capabilities(Privilege::User).encode(0));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            let _sent = socket.send(&question);
            if socket.recv(&mut [0; 256]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "ipmi_sim does not answer: {}",
            fs::read_to_string(at.join("log")).unwrap_or_default()
        );
    }

    /// Takes the BMC's own power away: its sessions are gone, the machine stays as it is.
    pub fn power_down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("gone");
        }
    }

    /// What the chassis was told since the last look, in order.
    pub fn told(&self) -> Vec<String> {
        let path = self.folder.path().join("told");
        let told = fs::read_to_string(&path).unwrap_or_default();
        let _gone = fs::remove_file(&path);
        told.lines().map(str::to_owned).collect()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.power_down();
    }
}
