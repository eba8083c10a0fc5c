//! A folder of machines, for `lab up`, `lab down` and `lab console`.

use std::path::{Path, PathBuf};

use agent_protocol::identity::{MacAddress, SystemUuid};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    LabError,
    qemu::{DiskSpec, Firmware, Machine, MachineSpec, Network, accel::Accelerator},
};

/// What `lab up` was asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// How many machines.
    pub machines: u32,
    /// Firmware of all of them.
    pub firmware: Firmware,
    /// Memory of each in MiB.
    pub memory_mib: u32,
    /// CPUs of each.
    pub cpus: u32,
    /// Disk of each in GiB.
    pub disk_gib: u64,
    /// What DHCP hands out.
    pub boot_url: String,
}

/// A lab on disk.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The lab in `path`, which is created when needed.
    ///
    /// # Errors
    /// [`LabError::File`] when it cannot be created.
    pub fn open(path: &Path) -> Result<Self, LabError> {
        std::fs::create_dir_all(path).map_err(LabError::file("cannot create", path))?;
        // Absolute, because a process is recognised by this path in its command line.
        let path = path.canonicalize().map_err(LabError::file("cannot resolve", path))?;
        Ok(Self { path })
    }

    /// Where the lab is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the machines that are missing and switches all on.
    ///
    /// # Errors
    /// [`LabError`] of the first machine that does not come up; those before it run on.
    pub async fn up(&self, request: &Request, accel: Accelerator) -> Result<Vec<Machine>, LabError> {
        let machines = self.create(request)?;
        for machine in &machines {
            machine.power_on(accel).await?;
        }
        Ok(machines)
    }

    /// Creates the machines that are missing, and leaves all as they are.
    ///
    /// # Errors
    /// [`LabError`] of the first machine that cannot be created.
    pub fn create(&self, request: &Request) -> Result<Vec<Machine>, LabError> {
        let specs = (0..request.machines).map(|index| self.spec(index, request));
        specs.map(|spec| Machine::create(&self.path, spec)).collect()
    }

    /// Every machine in the folder, by name.
    ///
    /// # Errors
    /// [`LabError::File`] when a machine's description cannot be read.
    pub fn machines(&self) -> Result<Vec<Machine>, LabError> {
        let entries = std::fs::read_dir(&self.path).map_err(LabError::file("cannot list", &self.path))?;
        let mut folders: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.join("machine.json").exists())
            .collect();
        folders.sort();
        folders.iter().map(|f| Machine::open(f)).collect()
    }

    /// Switches every machine off; with `forget`, removes the machines too.
    ///
    /// # Errors
    /// [`LabError`] of the first machine that cannot be stopped or removed.
    pub async fn down(&self, forget: bool) -> Result<usize, LabError> {
        let machines = self.machines()?;
        for machine in &machines {
            machine.power_off().await?;
            if forget {
                let folder = self.path.join(&machine.spec.name);
                std::fs::remove_dir_all(&folder).map_err(LabError::file("cannot remove", &folder))?;
            }
        }
        Ok(machines.len())
    }

    /// Joins this terminal and a machine's serial console until either side ends.
    ///
    /// # Errors
    /// [`LabError::File`] when there is no such machine, or it is off.
    pub async fn console(&self, name: &str) -> Result<(), LabError> {
        let machine = Machine::open(&self.path.join(name))?;
        let socket = machine.console_socket();
        let stream = tokio::net::UnixStream::connect(&socket)
            .await
            .map_err(LabError::file("cannot reach the console at", &socket))?;
        let (mut from, mut to) = stream.into_split();
        let output = async {
            let (mut buffer, mut out) = ([0; 4096], tokio::io::stdout());
            loop {
                let n = from.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                out.write_all(&buffer[..n]).await?;
                out.flush().await?;
            }
        };
        let input = async { tokio::io::copy(&mut tokio::io::stdin(), &mut to).await.map(drop) };
        let ended: Result<(), std::io::Error> = tokio::select! { r = output => r, r = input => r };
        ended.map_err(LabError::file("lost the console at", &socket))
    }

    fn spec(&self, index: u32, request: &Request) -> MachineSpec {
        let name = format!("{}-{index}", request.firmware.name());
        let (mac, uuid) = identity(&format!("{}/{name}", self.path.display()));
        MachineSpec {
            disks: vec![DiskSpec {
                size_bytes: request.disk_gib << 30,
                serial: format!("LAB{}", mac.compact()),
                honest_discard: true,
                nbd: None,
            }],
            name,
            firmware: request.firmware,
            memory_mib: request.memory_mib,
            cpus: request.cpus,
            mac,
            uuid,
            network: Network::BootUrl(request.boot_url.clone()),
        }
    }
}

/// A MAC (locally administered) and a UUID (version 4 in form) that stay the same for one seed.
pub fn identity(seed: &str) -> (MacAddress, SystemUuid) {
    let digest = Sha256::digest(seed.as_bytes());
    let mut mac = [0x52, 0x54, 0, 0, 0, 0];
    mac[2..].copy_from_slice(&digest[..4]);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[4..20]);
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    (MacAddress(mac), SystemUuid(uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_stable_usable_and_distinct() {
        let (mac, uuid) = identity("a");
        assert_eq!((mac, uuid), identity("a"));
        assert_ne!(mac, identity("b").0);
        assert!(mac.is_usable() && uuid.is_usable());
    }

    #[tokio::test]
    async fn a_lab_keeps_its_machines_and_their_disks() {
        let home = tempfile::tempdir().unwrap();
        let lab = Folder::open(home.path()).unwrap();
        let request = Request {
            machines: 1,
            firmware: Firmware::Bios,
            memory_mib: 64,
            cpus: 1,
            disk_gib: 1,
            boot_url: "http://10.0.2.2:1/boot/ipxe".to_owned(),
        };
        let spec = lab.spec(0, &request);
        let machine = Machine::create(lab.path(), spec).unwrap();
        std::fs::write(machine.disk_path(0), b"kept").unwrap();
        let again = Machine::create(lab.path(), machine.spec.clone()).unwrap();
        assert_eq!(std::fs::read(again.disk_path(0)).unwrap(), b"kept");
        assert_eq!(lab.machines().unwrap().len(), 1);
        assert_eq!(machine.pid(), None, "it was never switched on");
        assert_eq!(lab.down(true).await.unwrap(), 1);
        assert!(lab.machines().unwrap().is_empty());
    }

    #[test]
    fn a_bad_name_is_refused_with_its_field() {
        let home = tempfile::tempdir().unwrap();
        let (mac, uuid) = identity("x");
        let spec = MachineSpec {
            name: "../x".to_owned(),
            firmware: Firmware::Bios,
            memory_mib: 64,
            cpus: 1,
            disks: Vec::new(),
            mac,
            uuid,
            network: Network::BootUrl(String::new()),
        };
        let error = Machine::create(home.path(), spec).unwrap_err();
        assert!(error.to_string().starts_with("name:"), "{error}");
    }
}
