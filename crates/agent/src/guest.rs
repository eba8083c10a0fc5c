//! The guest helper: inside an installed system, waits for the one thing it obeys, and brings the machine back.
//!
//! At each start it registers its own key (made at the first one) with the token of its configuration; the server takes a token again only with
//! the same key. Then it long-polls. An order counts only when the server's guest-order key signed it for this instance **and** this boot.
//! It reads four files, writes two, opens no port, and runs one program: `systemctl`.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agent_protocol::{
    guest::{GuestAction, GuestConfig, GuestOrder, GuestRegistration, PATH_GUEST_ORDER, PATH_GUEST_REGISTER},
    limits::clip,
    session::{ErrorCode, decode, encode},
};
use anyhow::Context;
use ed25519_dalek::SigningKey;
use futures::TryStreamExt;
use machine::{config_drive::BootFacts, efi::EfiVariables};
use reqwest::Method;
use rtnetlink::packet_route::address::AddressAttribute;

use crate::{
    client::{Backoff, Client, PATIENCE, query},
    session::generate_signing_key,
    system::{self, Down},
};

/// Where configuration and key are.
pub const FOLDER: &str = "/etc/kube-baremetal";
/// In that folder: the boot in which this system was told to leave for the agent. It goes with the system, so that only a machine that did not obey is found with it.
const TOLD: &str = "guest.told";
/// Where the kernel tells one boot from the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Longest configuration.
const MAX_CONFIG: u64 = 64 << 10;
/// How long a poll may be held by the server.
const POLL: Duration = Duration::from_secs(90);
/// Least time between two polls.
const FASTEST_POLL: Duration = Duration::from_secs(2);
/// How long the system gets to shut down in order, before it is restarted the hard way.
const ORDERLY: Duration = Duration::from_secs(180);

/// Files of the helper.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The usual one, or another for tests.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn config(&self) -> anyhow::Result<GuestConfig> {
        let path = self.0.join("guest.json");
        let text = read_private(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a guest configuration", path.display()))
    }

    /// The key of this system; made and stored at the first call.
    fn key(&self) -> anyhow::Result<SigningKey> {
        let path = self.0.join("guest.key");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let secret = decode::<32>(text.trim())
                    .with_context(|| format!("{} is not a key: remove it, and restart the helper", path.display()))?;
                Ok(SigningKey::from_bytes(&secret))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = generate_signing_key()?;
                write_private(&path, encode(&key.to_bytes()).as_bytes()).with_context(|| format!("writing {}", path.display()))?;
                Ok(key)
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// The boot in which this system was told to leave for the agent.
    fn told_to_leave(&self) -> Option<String> {
        let bytes = read_private(&self.0.join(TOLD)).ok()?;
        let text = String::from_utf8(bytes).ok()?.trim().to_owned();
        (!text.is_empty() && text.len() <= 64).then_some(text)
    }

    /// Remembers that this boot was told to leave: if this system comes back, the machine did not obey.
    fn remember_leaving(&self) {
        let told = fs::read_to_string(BOOT_ID).and_then(|boot_id| write_private(&self.0.join(TOLD), boot_id.trim().as_bytes()));
        if let Err(error) = told {
            eprintln!("that this system was told to leave was not written down: {error}");
        }
    }

    fn boot_facts(&self) -> Option<BootFacts> {
        serde_json::from_slice(&fs::read(self.0.join("boot.json")).ok()?).ok()
    }
}

/// Reads a file that nobody else may read; makes it so first, where it is not.
fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if metadata.len() > MAX_CONFIG {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {MAX_CONFIG} bytes"),
        ));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    fs::read(path)
}

/// Writes a file with mode 0600, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Runs until the machine goes down.
///
/// # Errors
/// When the configuration cannot be read or used.
pub fn run(folder: &Folder) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let action = runtime.block_on(wait_for_order(folder))?;
    match action {
        GuestAction::Wait => Ok(()),
        GuestAction::RebootToAgent => {
            folder.remember_leaving();
            boot_network_next(folder.boot_facts());
            go_down(Down::Restart)
        }
        GuestAction::PowerOff => go_down(Down::PowerOff),
    }
}

/// Registers, and polls until there is an order to go down.
///
/// # Errors
/// When the configuration or the key cannot be read or used.
pub async fn wait_for_order(folder: &Folder) -> anyhow::Result<GuestAction> {
    let config = folder.config()?;
    anyhow::ensure!(
        config.servers.iter().all(|s| crate::cmdline::is_server_url(s)),
        "the configuration names a server that is not https://host:port"
    );
    let boot_id = fs::read_to_string(BOOT_ID).context("reading the boot id")?.trim().to_owned();
    let client = Client::new(config.servers.clone(), &config.ca, folder.key()?)?;
    client.set_session(&config.instance_uid);
    // Grows over restarts of this helper; a clock that went back is caught below.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut sequence = u64::try_from(clock).unwrap_or_default();
    client.start_sequence_at(sequence);
    let mut backoff = Backoff::default();
    loop {
        let registration = GuestRegistration {
            token: config.token.clone(),
            signing_key: client.public_key(),
            hostname: clip(rustix::system::uname().nodename().to_string_lossy().as_ref(), 200),
            addresses: addresses().await,
            boot_id: boot_id.clone(),
            told_to_leave: folder.told_to_leave().filter(|told| *told != boot_id),
            uptime_seconds: Some(system::uptime().as_secs()),
        };
        let body = serde_json::to_vec(&registration)?;
        match client
            .request::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body, PATIENCE)
            .await
        {
            Ok(_) => {
                eprintln!("registered with {}", client.server());
                backoff.reset();
            }
            Err(error) => {
                eprintln!("not registered: {error}; trying again");
                if error.code() == Some(ErrorCode::SignatureRefused) {
                    sequence = sequence.saturating_add(1 << 40);
                    client.start_sequence_at(sequence);
                }
                backoff.wait(&error).await;
                continue;
            }
        }
        let path = format!("{PATH_GUEST_ORDER}?boot={}", query(&boot_id));
        loop {
            let asked = Instant::now();
            match client.request::<GuestOrder>(Method::GET, &path, Vec::new(), POLL + PATIENCE).await {
                Ok(order) if !order.is_for(&config.order_key, &config.instance_uid, &boot_id) => {
                    eprintln!("an order that is not signed for this boot of this instance was ignored");
                }
                Ok(order) if order.action == GuestAction::Wait => backoff.reset(),
                Ok(order) => return Ok(order.action),
                Err(error) if error.is_passing() => {
                    eprintln!("{error}; trying again");
                    backoff.wait(&error).await;
                }
                Err(error) => {
                    eprintln!("{error}; registering again");
                    backoff.wait(&error).await;
                    break;
                }
            }
            tokio::time::sleep(FASTEST_POLL.saturating_sub(asked.elapsed())).await;
        }
    }
}

/// Addresses of this system in CIDR form, without loopback and link-local ones.
async fn addresses() -> Vec<String> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
        return Vec::new();
    };
    let connection = tokio::spawn(connection);
    let mut found = Vec::new();
    let mut messages = handle.address().get().execute();
    while let Ok(Some(message)) = messages.try_next().await {
        for attribute in &message.attributes {
            if let AddressAttribute::Address(address) = attribute
                && is_worth_telling(*address)
                && found.len() < 32
            {
                found.push(format!("{address}/{}", message.header.prefix_len));
            }
        }
    }
    connection.abort();
    found
}

fn is_worth_telling(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// On a machine with EFI: the network once, at the next boot. Where that fails, boot order has the network first anyway.
fn boot_network_next(facts: Option<BootFacts>) {
    let variables = EfiVariables::of_this_machine();
    let Some(entry) = facts.and_then(|f| f.network_boot_entry).filter(|_| variables.is_available()) else {
        return;
    };
    match variables.set_boot_next(entry) {
        Ok(()) => eprintln!("the next boot is from the network (Boot{entry:04X})"),
        Err(error) => eprintln!("BootNext was not set: {error}"),
    }
}

/// Asks systemd, and takes the direct way when there is none, or when it does not get there.
fn go_down(how: Down) -> anyhow::Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        let verb = match how {
            Down::Restart => "reboot",
            Down::PowerOff => "poweroff",
        };
        for program in ["/usr/bin/systemctl", "/bin/systemctl"] {
            match Command::new(program).args(["--no-wall", verb]).status() {
                Ok(status) if status.success() => {
                    std::thread::sleep(ORDERLY);
                    break;
                }
                Ok(status) => eprintln!("{program} {verb}: {status}"),
                Err(error) => eprintln!("{program}: {error}"),
            }
        }
    }
    system::go_down(how).context("restarting")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let key = folder.key().unwrap();
        assert_eq!(folder.key().unwrap().to_bytes(), key.to_bytes());
        let path = temporary.path().join("guest.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "nonsense").unwrap();
        assert!(folder.key().unwrap_err().to_string().contains("not a key"));
    }

    #[test]
    fn that_it_was_told_to_leave_is_known_to_the_next_boot() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        assert_eq!(folder.told_to_leave(), None);
        folder.remember_leaving();
        let present = fs::read_to_string(BOOT_ID).unwrap();
        assert_eq!(folder.told_to_leave().as_deref(), Some(present.trim()));
        fs::write(temporary.path().join(TOLD), "x".repeat(65)).unwrap();
        assert_eq!(folder.told_to_leave(), None, "no boot id is that long");
    }

    #[test]
    fn a_configuration_others_can_read_is_closed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("guest.json");
        let config = GuestConfig {
            servers: vec!["https://a:1".to_owned()],
            ca: "00".repeat(32),
            instance_uid: "u".to_owned(),
            token: "t".to_owned(),
            order_key: "k".to_owned(),
        };
        fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Folder::at(temporary.path()).config().unwrap(), config);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
