//! `ipmi_sim` of OpenIPMI as the controller of a QEMU machine: the machine reaches it by a KCS interface, the test by the network.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = "/usr/bin/ipmi_sim";

/// What `lan_config_program` calls: the settings of the LAN channel.
const LAN: &str = r#"#!/bin/sh
echo "$*" >>"$(dirname "$0")/lan-asked"
shift
[ "$1" = get ] || exit 0
shift
for name in "$@"; do
  case "$name" in
    ip_addr) echo ip_addr:10.0.8.12 ;;
    ip_addr_src) echo ip_addr_src:dhcp ;;
    mac_addr) echo mac_addr:52:54:00:00:08:0c ;;
    subnet_mask) echo subnet_mask:255.255.254.0 ;;
    default_gw_ip_addr) echo default_gw_ip_addr:10.0.8.1 ;;
    default_gw_mac_addr) echo default_gw_mac_addr:52:54:00:00:08:01 ;;
    backup_gw_ip_addr) echo backup_gw_ip_addr:0.0.0.0 ;;
    backup_gw_mac_addr) echo backup_gw_mac_addr:00:00:00:00:00:00 ;;
  esac
done
"#;

/// It is gone when this is dropped.
#[derive(Debug)]
pub struct Controller {
    /// Where it speaks IPMI over the network.
    pub port: u16,
    /// Where the machine's interface is connected to it.
    interface: u16,
    folder: PathBuf,
    process: Child,
}

impl Controller {
    /// A controller with the administrator `admin` and no other user.
    pub fn start(folder: &Path) -> Self {
        assert!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is not there: run `scripts/setup --power`, then try again"
        );
        let folder = folder.join("controller");
        fs::create_dir_all(folder.join("state")).expect("a folder");
        let lan = folder.join("lan");
        fs::write(&lan, LAN).expect("written");
        fs::set_permissions(&lan, fs::Permissions::from_mode(0o755)).expect("executable");
        let port = UdpSocket::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port")
            .port();
        let interface = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let allowed: String = ["callback", "user", "operator", "admin"]
            .map(|level| format!("    allowed_auths_{level} none md2 md5 straight\n"))
            .concat();
        let configuration = format!(
            "name \"tests\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n{allowed}    guid a123456789abcdefa123456789abcdef\n    lan_config_program \"{} 1\"\n  endlan\n  \
             serial kcs 127.0.0.1 {interface} codec VM ipmb 0x20\n  user 2 true \"admin\" \"s3cret-Pass\" admin 10\n",
            lan.display()
        );
        fs::write(folder.join("lan.conf"), configuration).expect("written");
        // Version 9.08 of product 0xf02 of manufacturer 0x1291.
        fs::write(
            folder.join("emu"),
            "mc_setbmc 0x20\nmc_add 0x20 0 has-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n",
        )
        .expect("written");
        let log = fs::File::create(folder.join("log")).expect("a log");
        let process = Command::new(PROGRAM)
            .arg("-n")
            .arg("-c")
            .arg(folder.join("lan.conf"))
            .arg("-f")
            .arg(folder.join("emu"))
            .arg("-s")
            .arg(folder.join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("ipmi_sim starts");
        let mut controller = Self {
            port,
            interface,
            folder,
            process,
        };
        controller.wait_until_it_listens();
        controller
    }

    fn wait_until_it_listens(&mut self) {
        let began = Instant::now();
        while TcpListener::bind(("127.0.0.1", self.interface)).is_ok() {
            let gone = self.process.try_wait().expect("a child").is_some();
            assert!(
                !gone && began.elapsed() < Duration::from_secs(20),
                "ipmi_sim does not listen: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it says of itself, for failures.
    pub fn log(&self) -> String {
        ["log", "lan-asked"]
            .map(|name| fs::read_to_string(self.folder.join(name)).unwrap_or_default())
            .concat()
    }

    /// Whether a user can log in over the network as an operator, and switch (as far as `ipmitool` says it).
    pub fn lets_in(&self, user: &str, password: &str) -> bool {
        let port = self.port.to_string();
        let tool = Command::new("/usr/bin/ipmitool")
            .args([
                "-I",
                "lanplus",
                "-C",
                "3",
                "-H",
                "127.0.0.1",
                "-p",
                &port,
                "-L",
                "OPERATOR",
                "-U",
                user,
                "-E",
            ])
            .args(["chassis", "power", "status"])
            .env("IPMI_PASSWORD", password)
            .stdin(Stdio::null())
            .output()
            .expect("ipmitool (run `scripts/setup --power`)");
        tool.status.success() && String::from_utf8_lossy(&tool.stdout).contains("Chassis Power is")
    }

    /// QEMU's arguments for a machine with this controller.
    pub fn arguments(&self) -> Vec<String> {
        vec![
            "-chardev".to_owned(),
            format!("socket,id=bmc,host=127.0.0.1,port={},reconnect=1", self.interface),
            "-device".to_owned(),
            "ipmi-bmc-extern,id=bmc0,chardev=bmc".to_owned(),
            "-device".to_owned(),
            "isa-ipmi-kcs,bmc=bmc0".to_owned(),
        ]
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
