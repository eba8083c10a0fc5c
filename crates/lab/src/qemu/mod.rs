//! One QEMU machine.
//!
//! A machine is a folder: `machine.json` (what it is), its disks, its firmware variables, `console.log`, `console.sock`, `qmp.sock` and, while it
//! runs, `pid`. Whoever has the folder can stop it or talk to it. A process is signalled only when its command line names this folder.
//!
//! What it boots from, once, is in [`first`]; how a simulated BMC switches it, in [`behind`].
//!
//! The network is a tap device that somebody else made, or QEMU's user networking, whose DHCP hands out the boot URL. UEFI firmware asks TFTP for that very name, so
//! the TFTP root holds iPXE under a path that reads like the URL; iPXE then asks DHCP again, and fetches the same name by HTTP.

pub mod accel;
pub mod behind;
pub mod first;
pub mod qmp;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use agent_protocol::identity::{MacAddress, SystemUuid};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{LabError, host};

/// Which firmware a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS with iPXE in the NIC's ROM.
    Bios,
    /// OVMF (EDK2) without Secure Boot.
    Uefi,
    /// OVMF with Secure Boot, and Microsoft's keys enrolled.
    SecureBoot,
}

impl Firmware {
    /// Its name in names of machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secure",
        }
    }
}

impl std::fmt::Display for Firmware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
            Self::SecureBoot => "UEFI with Secure Boot",
        })
    }
}

/// What a machine's NIC is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// QEMU's user networking; its DHCP hands out this URL: `http://10.0.2.2:PORT/boot/ipxe`.
    BootUrl(String),
    /// A tap device.
    Tap(String),
}

/// One disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Serial number the guest sees.
    pub serial: String,
    /// Whether discard reaches the image file. Without it QEMU accepts discard and keeps the data: a disk that lies.
    pub honest_discard: bool,
    /// Unix socket of an NBD server that plays the disk, cache included, instead of an image file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd: Option<PathBuf>,
}

/// What a machine is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSpec {
    /// Name: lower-case letters, digits and hyphens.
    pub name: String,
    /// Firmware.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
    /// Disks, in order.
    pub disks: Vec<DiskSpec>,
    /// MAC of its NIC.
    pub mac: MacAddress,
    /// SMBIOS UUID.
    pub uuid: SystemUuid,
    /// What its NIC is plugged into.
    #[serde(flatten)]
    pub network: Network,
}

/// One machine and its folder.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What it is made of.
    pub spec: MachineSpec,
    folder: PathBuf,
}

impl Machine {
    /// Creates a machine's folder with blank disks, or takes up the one that is there with its disks as they are.
    ///
    /// # Errors
    /// [`LabError::Input`] for a name that is not allowed, [`LabError::File`] when the folder cannot be written.
    pub fn create(parent: &Path, spec: MachineSpec) -> Result<Self, LabError> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if spec.name.is_empty() || spec.name.len() > 40 || !spec.name.chars().all(good) {
            return Err(LabError::Input {
                field: "name",
                problem: format!("{:?}: use 1 to 40 lower-case letters, digits and hyphens", spec.name),
            });
        }
        let folder = parent.join(&spec.name);
        std::fs::create_dir_all(&folder).map_err(LabError::file("cannot create", &folder))?;
        let machine = Self { spec, folder };
        for index in 0..machine.spec.disks.len() {
            let path = machine.disk_path(index);
            if machine.spec.disks[index].nbd.is_none() && !path.exists() {
                let file = std::fs::File::create(&path).map_err(LabError::file("cannot create", &path))?;
                file.set_len(machine.spec.disks[index].size_bytes)
                    .map_err(LabError::file("cannot size", &path))?;
            }
        }
        if machine.spec.firmware != Firmware::Bios {
            let vars = machine.folder.join("vars.fd");
            if !vars.exists() {
                let (_, template) = host::ovmf(machine.spec.firmware == Firmware::SecureBoot)?;
                std::fs::copy(&template, &vars).map_err(LabError::file("cannot copy the firmware variables to", &vars))?;
            }
        }
        let json = machine.folder.join("machine.json");
        let text = serde_json::to_vec_pretty(&machine.spec).map_err(|e| LabError::File {
            what: "cannot write",
            path: json.display().to_string(),
            source: e.into(),
        })?;
        std::fs::write(&json, text).map_err(LabError::file("cannot write", &json))?;
        Ok(machine)
    }

    /// Reads a machine back from its folder.
    ///
    /// # Errors
    /// [`LabError::File`] when there is none, or it is damaged.
    pub fn open(folder: &Path) -> Result<Self, LabError> {
        let json = folder.join("machine.json");
        let text = std::fs::read(&json).map_err(LabError::file("cannot read", &json))?;
        let spec = serde_json::from_slice(&text).map_err(|e| LabError::File {
            what: "cannot read",
            path: json.display().to_string(),
            source: e.into(),
        })?;
        Ok(Self {
            spec,
            folder: folder.to_owned(),
        })
    }

    /// The image file of a disk.
    pub fn disk_path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("disk{index}.img"))
    }

    /// Everything the machine said on its serial console, of all its boots.
    pub fn console_log(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// The Unix socket of the serial console.
    pub fn console_socket(&self) -> PathBuf {
        self.folder.join("console.sock")
    }

    /// The process id, if the machine runs.
    pub fn pid(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.folder.join("pid")).ok()?.trim().parse().ok()?;
        // A number alone may by now be somebody else's process.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        // With what follows it: one machine's name may be the beginning of another's.
        let folder = format!("{}/", self.folder.display());
        String::from_utf8_lossy(&command).contains(&folder).then_some(pid)
    }

    /// Switches the machine on. Does nothing when it is on.
    ///
    /// # Errors
    /// [`LabError::Missing`] without QEMU or firmware, [`LabError::Qemu`] when it does not come up.
    pub async fn power_on(&self, accel: accel::Accelerator) -> Result<(), LabError> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.start(accel, false).await
    }

    /// Starts QEMU. `held`: it has a CD drive, and waits for a word of the monitor before it runs.
    async fn start(&self, accel: accel::Accelerator, held: bool) -> Result<(), LabError> {
        for stale in ["qmp.sock", "console.sock", "pid"] {
            let path = self.folder.join(stale);
            if path.exists() {
                std::fs::remove_file(&path).map_err(LabError::file("cannot remove", &path))?;
            }
        }
        let log_path = self.folder.join("qemu.log");
        let log = std::fs::File::create(&log_path).map_err(LabError::file("cannot create", &log_path))?;
        let error_log = log.try_clone().map_err(LabError::file("cannot share", &log_path))?;
        let mut child = tokio::process::Command::new("qemu-system-x86_64")
            .args(self.arguments(accel)?)
            .args(if held { first::HELD.as_slice() } else { &[] })
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            .process_group(0)
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => LabError::Missing {
                    what: "qemu-system-x86_64".to_owned(),
                    apt: "sudo apt-get install --no-install-recommends qemu-system-x86".to_owned(),
                },
                _ => LabError::File {
                    what: "cannot start",
                    path: "qemu-system-x86_64".to_owned(),
                    source: e,
                },
            })?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !(self.folder.join("qmp.sock").exists() && self.pid().is_some()) {
            let ended = child
                .try_wait()
                .map_err(LabError::file("cannot wait for", Path::new("qemu-system-x86_64")))?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                let problem = ended.map_or("did not open its monitor within 20 s".to_owned(), |s| format!("ended with {s}"));
                if ended.is_none() {
                    // Nobody would know it any more, and it has the disks.
                    child
                        .kill()
                        .await
                        .map_err(LabError::file("cannot end", Path::new("qemu-system-x86_64")))?;
                }
                return Err(LabError::Qemu {
                    machine: self.spec.name.clone(),
                    problem,
                    log,
                });
            }
            sleep(Duration::from_millis(20)).await;
        }
        // Reaped in the background, so that `pid` tells the truth while this process lives.
        tokio::spawn(async move { child.wait().await.ok() });
        Ok(())
    }

    /// Pulls the plug. Does nothing when the machine is off.
    ///
    /// # Errors
    /// [`LabError::Qemu`] when the process survives for 10 s.
    pub async fn power_off(&self) -> Result<(), LabError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself in between: then there is nothing to do.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.pid().is_some() {
            if Instant::now() > deadline {
                let problem = format!("(process {pid}) did not end within 10 s of SIGKILL");
                return Err(LabError::Qemu {
                    machine: self.spec.name.clone(),
                    problem,
                    log: String::new(),
                });
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// [`LabError::Monitor`] when QEMU refuses.
    pub async fn reset(&self) -> Result<(), LabError> {
        self.monitor().await?.execute("system_reset", serde_json::json!({})).await.map(drop)
    }

    /// Forwards a port of this host's loopback to an address and port of the guest.
    ///
    /// # Errors
    /// [`LabError::Monitor`] when QEMU refuses, e.g. because the port is taken.
    pub async fn forward(&self, host_port: u16, guest: std::net::SocketAddrV4) -> Result<(), LabError> {
        let line = format!("hostfwd_add n0 tcp:127.0.0.1:{host_port}-{}:{}", guest.ip(), guest.port());
        let answer = self
            .monitor()
            .await?
            .execute("human-monitor-command", serde_json::json!({ "command-line": line }))
            .await?;
        match answer.as_str() {
            None | Some("") => Ok(()),
            Some(words) => Err(LabError::Monitor {
                machine: self.spec.name.clone(),
                command: line,
                answer: words.trim().to_owned(),
            }),
        }
    }

    /// Limits how many writes per second reach a disk; zero takes the limit off. A slow disk in which each write can be seen.
    ///
    /// # Errors
    /// [`LabError::Monitor`] when QEMU refuses.
    pub async fn throttle_writes(&self, index: usize, per_second: u32) -> Result<(), LabError> {
        let arguments = serde_json::json!({
            "device": format!("d{index}"), "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": per_second,
        });
        self.monitor().await?.execute("block_set_io_throttle", arguments).await.map(drop)
    }

    async fn monitor(&self) -> Result<qmp::Monitor, LabError> {
        qmp::Monitor::connect(&self.spec.name, &self.folder.join("qmp.sock")).await
    }

    fn arguments(&self, accel: accel::Accelerator) -> Result<Vec<String>, LabError> {
        let s = &self.spec;
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut args: Vec<String> = Vec::new();
        let mut push = |items: &[&str]| args.extend(items.iter().map(|i| (*i).to_owned()));
        // Secure Boot's firmware keeps its variables to itself by system management mode.
        let secure = s.firmware == Firmware::SecureBoot;
        let chipset = if secure { "q35,smm=on" } else { "q35" };
        push(&["-name", &s.name, "-machine", chipset, "-accel", accel.argument(), "-cpu", "max"]);
        push(&[
            "-m",
            &s.memory_mib.to_string(),
            "-smp",
            &s.cpus.to_string(),
            "-uuid",
            &s.uuid.to_string(),
        ]);
        push(&["-display", "none", "-nodefaults", "-vga", "std", "-pidfile", &at("pid")]);
        push(&["-qmp", &format!("unix:{},server=on,wait=off", at("qmp.sock"))]);
        let console = format!(
            "socket,id=con,path={},server=on,wait=off,logfile={},logappend=on",
            at("console.sock"),
            at("console.log")
        );
        push(&["-chardev", &console, "-serial", "chardev:con"]);
        push(&[
            "-object",
            "rng-random,id=rng0,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng0",
        ]);
        let mut netdev = match &s.network {
            Network::BootUrl(url) => format!("user,id=n0,bootfile={url}"),
            Network::Tap(name) => format!("tap,id=n0,ifname={name},script=no,downscript=no"),
        };
        let mut nic = format!("virtio-net-pci,id={},netdev=n0,mac={}", first::NIC, s.mac);
        let order = self.order();
        let boot_index = |device: &str| match order.iter().find(|(own, _)| own == device) {
            Some((_, index)) if *index > 0 => format!(",bootindex={index}"),
            _ => String::new(),
        };
        nic.push_str(&boot_index(first::NIC));
        if s.firmware != Firmware::Bios {
            let (code, _) = host::ovmf(secure)?;
            if secure {
                push(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            }
            push(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", code.display())]);
            push(&["-drive", &format!("if=pflash,format=raw,file={}", at("vars.fd"))]);
            if let Network::BootUrl(url) = &s.network {
                netdev.push_str(&format!(",tftp={}", self.tftp_root(url)?.display()));
            }
            // Without the ROM the firmware's own driver and PXE client are used, as on a real UEFI machine.
            nic.push_str(",romfile=");
        }
        push(&["-netdev", &netdev, "-device", &nic]);
        for (index, disk) in s.disks.iter().enumerate() {
            let discard = if disk.honest_discard { "unmap" } else { "ignore" };
            let file = match &disk.nbd {
                Some(socket) => format!("nbd+unix:///?socket={}", socket.display()),
                None => self.disk_path(index).display().to_string(),
            };
            let name = first::disk(index);
            // The guest is told that the disk has a cache, and its flushes are handed on.
            push(&[
                "-drive",
                &format!("if=none,id=d{index},file={file},format=raw,cache=writeback,discard={discard}"),
            ]);
            push(&[
                "-device",
                &format!(
                    "virtio-blk-pci,id={name},drive=d{index},serial={}{}",
                    disk.serial,
                    boot_index(&name)
                ),
            ]);
        }
        Ok(args)
    }

    /// The TFTP root for UEFI: one file, iPXE, under the path that the boot URL reads as.
    fn tftp_root(&self, boot_url: &str) -> Result<PathBuf, LabError> {
        let root = self.folder.join("tftp");
        let file = root.join(boot_url);
        if !file.exists() {
            let parent = file.parent().unwrap_or(&root);
            std::fs::create_dir_all(parent).map_err(LabError::file("cannot create", parent))?;
            std::fs::copy(host::ipxe_efi()?, &file).map_err(LabError::file("cannot copy iPXE to", &file))?;
        }
        Ok(root)
    }
}
