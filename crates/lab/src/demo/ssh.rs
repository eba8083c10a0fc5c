//! Logging in with the stock OpenSSH client.

use std::{
    net::SocketAddrV4,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

/// A key pair made for this demo.
pub struct Key {
    private: PathBuf,
    /// In `authorized_keys` form.
    pub public: String,
}

/// Makes a key pair.
pub async fn generate_key(folder: &Path) -> Result<Key> {
    let private = folder.join("id_ed25519");
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f"])
        .arg(&private)
        .output()
        .await;
    let output = output.context("running ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
    let public = std::fs::read_to_string(private.with_extension("pub"))?.trim().to_owned();
    Ok(Key { private, public })
}

/// What a machine says of itself from inside.
#[derive(Debug, Default)]
pub struct Seen {
    /// `hostname`.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Fingerprint of its Ed25519 host key.
    pub host_key: String,
    /// Source and type of the root file system, with its size.
    pub root: String,
    /// All global addresses.
    pub addresses: String,
    /// Debian's version and the kernel's.
    pub system: String,
    /// BIOS, UEFI or UEFI with Secure Boot, as the installed kernel sees it.
    pub firmware: String,
}

impl Seen {
    /// For a table.
    pub fn rows(&self) -> [(&'static str, &str); 7] {
        [
            ("host name", &self.hostname),
            ("machine-id", &self.machine_id),
            ("host key", &self.host_key),
            ("root file system", &self.root),
            ("addresses", &self.addresses),
            ("system", &self.system),
            ("firmware", &self.firmware),
        ]
    }
}

const LOOK: &str = "hostname; cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2; \
     findmnt -no SOURCE,FSTYPE,SIZE /; hostname -I; echo Debian $(cat /etc/debian_version), Linux $(uname -r); \
     if [ ! -d /sys/firmware/efi ]; then echo BIOS; \
     elif [ \"$(od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-* | tr -d ' ')\" = 1 ]; then echo UEFI with Secure Boot; else echo UEFI; fi";

/// Logs in, tries again until the patience ends, and looks around.
pub async fn look_around(server: SocketAddrV4, key: &Key, patience: Duration) -> Result<Seen> {
    let deadline = Instant::now() + patience;
    loop {
        let output = Command::new("ssh")
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "LogLevel=ERROR",
            ])
            .args(["-o", "ConnectTimeout=20", "-o", "IdentitiesOnly=yes", "-i"])
            .arg(&key.private)
            .args(["-p", &server.port().to_string(), &format!("debian@{}", server.ip()), LOOK])
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), output).await;
        let problem = match output {
            Ok(output) => {
                let output = output.context("running ssh")?;
                if output.status.success() {
                    return parse(&String::from_utf8_lossy(&output.stdout));
                }
                String::from_utf8_lossy(&output.stderr).trim().to_owned()
            }
            Err(_) => "ssh gave no answer within 60 s".to_owned(),
        };
        if Instant::now() > deadline {
            bail!("no login within {} s: {problem}", patience.as_secs());
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn parse(text: &str) -> Result<Seen> {
    let mut lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut next = |what: &str| {
        lines
            .next()
            .filter(|l| !l.is_empty())
            .with_context(|| format!("the machine did not tell its {what}: {text}"))
    };
    Ok(Seen {
        hostname: next("host name")?,
        machine_id: next("machine-id")?,
        host_key: next("host key")?,
        root: next("root file system")?,
        addresses: next("addresses")?,
        system: next("version")?,
        firmware: next("firmware")?,
    })
}
