//! Virtual machines as machines, by libvirt's own protocol: natively, over the daemon's Unix socket or TLS.
//!
//! | room | what |
//! |---|---|
//! | [`xdr`] | how values are written; pure |
//! | [`message`] | packets and calls; pure |
//! | `connection` | the socket |
//!
//! One call is one connection. A domain is named by its UUID or name, and must be persistent: one that is not is gone when it is off.
//!
//! What it does not do: **one boot from somewhere else.** libvirt keeps a boot order and has nothing for one boot only. A domain that is started with a changed
//! definition (`virDomainCreateXML`) keeps it over reboots of its own until it is switched off, and changing the order that is kept lasts when we are gone. So domains
//! shall boot from the network first: netboot tells them to go on with their disk. Nor SASL, migrations, media.

mod connection;
pub mod message;
pub mod xdr;

use std::path::PathBuf;

use self::{
    connection::{Connection, Failed, before, within},
    message::{Domain, Procedure, State},
};
use crate::{
    address,
    driver::{Act, Capabilities, Driver, Kind, Off, PowerState},
    fault::Fault,
    tls::{Identity, Trust},
};

/// The TCP port of libvirt's daemon with TLS.
pub const PORT: u16 = 16_514;
/// The longest name or URI, in bytes.
const LONGEST: usize = 1024;
/// `VIR_ERR_NO_DOMAIN`.
const NO_DOMAIN: i32 = 42;
/// `VIR_ERR_OPERATION_INVALID`: not in this state.
const NOT_NOW: i32 = 55;

/// What is the same for all such machines.
pub static KIND: Kind = Kind {
    name: "libvirt",
    title: "Virtual machine of libvirt",
    capabilities: Capabilities {
        events: false,
        on: true,
        off_soft: true,
        off_hard: true,
        cycle: true,
        state: true,
        ..Capabilities::NONE
    },
    evidence: "Debian's libvirtd 9.0, by Unix socket and TLS: its test driver, and QEMU machines",
};

/// Where the daemon is.
#[derive(Debug, Clone)]
pub enum Address {
    /// Its Unix socket on this host: `/run/libvirt/libvirt-sock`, or `virtqemud-sock` there.
    Unix(PathBuf),
    /// By TLS.
    Tls {
        /// Its name or address.
        host: String,
        /// Its TCP port: [`PORT`].
        port: u16,
        /// Whom to believe there.
        trust: Trust,
        /// Who we are there.
        identity: Identity,
    },
}

/// How a virtual machine is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the daemon is.
    pub address: Address,
    /// The driver behind it, as libvirt writes it without a host: `qemu:///system`.
    pub uri: String,
    /// The machine: its UUID, or its name.
    pub domain: String,
}

/// A virtual machine of libvirt.
#[derive(Debug)]
pub struct Libvirt {
    settings: Settings,
    uuid: Option<[u8; 16]>,
    controller: String,
}

/// A UUID as people write it.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] {
        return None;
    }
    let mut bytes = [0; 16];
    hex::decode_to_slice(groups.concat(), &mut bytes).ok()?;
    Some(bytes)
}

impl Libvirt {
    /// A driver with these settings. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(settings: Settings) -> Result<Self, Fault> {
        let wrong = |field, problem: &str| {
            Err(Fault::Settings {
                field,
                problem: problem.to_owned(),
            })
        };
        let place = match &settings.address {
            Address::Unix(path) if !path.is_absolute() => {
                return wrong("socket", "it is no whole path: write it as /run/libvirt/libvirt-sock");
            }
            Address::Unix(path) => path.display().to_string(),
            Address::Tls {
                host,
                port,
                trust,
                identity,
            } => {
                address::check(host)?;
                trust.config_as(Some(identity))?;
                address::authority(host, *port)
            }
        };
        let local = settings.uri.split_once(":///").is_some_and(|(driver, path)| {
            !driver.is_empty() && driver.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) && !path.is_empty()
        });
        if !local || settings.uri.len() > LONGEST || settings.uri.chars().any(char::is_control) {
            return wrong("uri", "it is no driver without a host: write it as qemu:///system");
        }
        if settings.domain.is_empty() || settings.domain.len() > LONGEST || settings.domain.chars().any(char::is_control) {
            return wrong("domain", "it is no name or UUID");
        }
        // With the machine: libvirt does several things at a time.
        let controller = format!("{place} {}", settings.domain);
        Ok(Self {
            uuid: uuid(&settings.domain),
            settings,
            controller,
        })
    }

    /// A connection, and the machine.
    async fn find(&self) -> Result<(Connection, Domain), Fault> {
        let mut connection = Connection::open(&self.settings.address, &self.settings.uri).await?;
        if let Some(uuid) = &self.uuid {
            match connection.ask(Procedure::ByUuid, uuid).await {
                // A name can look like that, too.
                Err(Failed::Complaint(complaint)) if complaint.code == NO_DOMAIN => {}
                found => return domain(found).map(|domain| (connection, domain)),
            }
        }
        let found = connection.ask(Procedure::ByName, &message::by_name(&self.settings.domain)).await;
        if let Err(Failed::Complaint(complaint)) = &found
            && complaint.code == NO_DOMAIN
        {
            return Err(Fault::Settings {
                field: "domain",
                problem: format!("{} has no machine with this name or UUID", self.settings.uri),
            });
        }
        domain(found).map(|domain| (connection, domain))
    }

    async fn switch(&self, wanted: Wanted) -> Result<(), Fault> {
        let (mut connection, domain) = self.find().await?;
        let state = state(&mut connection, &domain).await?;
        let done = match wanted {
            Wanted::On => start(&mut connection, &domain, state).await,
            Wanted::Off(how) => stop(&mut connection, &domain, state, how).await,
            Wanted::Again => boot_anew(&mut connection, &domain, state).await,
        };
        connection.close().await;
        done
    }

    async fn tell(&self) -> Result<PowerState, Fault> {
        let (mut connection, domain) = self.find().await?;
        let state = state(&mut connection, &domain).await?;
        connection.close().await;
        Ok(match state {
            State::Running => PowerState::On,
            State::Off | State::Crashed => PowerState::Off,
            State::Paused | State::ShuttingDown | State::Asleep | State::Other(_) => PowerState::Unknown,
        })
    }
}

/// What a machine shall be.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    On,
    Off(Off),
    Again,
}

fn domain(found: Result<Vec<u8>, Failed>) -> Result<Domain, Fault> {
    let answer = found.map_err(|failed| before(failed, "look-up"))?;
    Domain::parse(&answer).ok_or_else(|| Fault::Garbled("a machine without name and UUID".to_owned()))
}

async fn state(connection: &mut Connection, domain: &Domain) -> Result<State, Fault> {
    let answer = connection
        .ask(Procedure::State, &domain.argument(true))
        .await
        .map_err(|failed| before(failed, "state"))?;
    State::parse(&answer).ok_or_else(|| Fault::Garbled("a machine without a state".to_owned()))
}

async fn command(connection: &mut Connection, procedure: Procedure, argument: &[u8]) -> Result<(), Fault> {
    let done = connection.ask(procedure, argument).await;
    done.map(|_| ())
        .map_err(|failed| within(failed, &format!("{procedure:?}").to_lowercase()))
}

/// Takes the power. One that went meanwhile is off.
async fn destroy(connection: &mut Connection, domain: &Domain) -> Result<(), Fault> {
    match connection.ask(Procedure::Destroy, &domain.argument(false)).await {
        Err(Failed::Complaint(complaint)) if complaint.code == NOT_NOW => Ok(()),
        done => done.map(|_| ()).map_err(|failed| within(failed, "destroy")),
    }
}

async fn start(connection: &mut Connection, domain: &Domain, state: State) -> Result<(), Fault> {
    match state {
        State::Running => Ok(()),
        State::Paused => command(connection, Procedure::Resume, &domain.argument(false)).await,
        State::Asleep => command(connection, Procedure::Wake, &domain.argument(true)).await,
        State::ShuttingDown => Err(Fault::Busy {
            detail: "it is shutting down".to_owned(),
            after: None,
        }),
        State::Crashed => {
            // Its remains may be kept for somebody to look at.
            destroy(connection, domain).await?;
            command(connection, Procedure::Create, &domain.argument(false)).await
        }
        State::Off | State::Other(_) => command(connection, Procedure::Create, &domain.argument(false)).await,
    }
}

async fn stop(connection: &mut Connection, domain: &Domain, state: State, how: Off) -> Result<(), Fault> {
    match (how, state) {
        (_, State::Off) | (Off::Soft, State::ShuttingDown | State::Crashed) => Ok(()),
        (Off::Soft, State::Asleep) => Err(Fault::Refused("it sleeps, and hears nothing: switch it on, or off hard".to_owned())),
        (Off::Soft, _) => command(connection, Procedure::Shutdown, &domain.argument(false)).await,
        (Off::Hard, _) => destroy(connection, domain).await,
    }
}

async fn boot_anew(connection: &mut Connection, domain: &Domain, state: State) -> Result<(), Fault> {
    match state {
        State::Running => command(connection, Procedure::Reset, &domain.argument(true)).await,
        State::Paused => {
            command(connection, Procedure::Reset, &domain.argument(true)).await?;
            command(connection, Procedure::Resume, &domain.argument(false)).await
        }
        State::Off | State::Crashed => start(connection, domain, state).await,
        // Neither hears a reset.
        State::ShuttingDown | State::Asleep | State::Other(_) => {
            destroy(connection, domain).await?;
            command(connection, Procedure::Create, &domain.argument(false)).await
        }
    }
}

impl Driver for Libvirt {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.switch(Wanted::On))
    }

    fn off(&self, how: Off) -> Act<'_, ()> {
        Box::pin(self.switch(Wanted::Off(how)))
    }

    fn cycle(&self) -> Act<'_, ()> {
        Box::pin(self.switch(Wanted::Again))
    }

    fn state(&self) -> Act<'_, PowerState> {
        Box::pin(self.tell())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_looked_at_before_anything_is_sent() {
        let settings = |uri: &str, domain: &str, socket: &str| Settings {
            address: Address::Unix(socket.into()),
            uri: uri.to_owned(),
            domain: domain.to_owned(),
        };
        let refused = |settings| match Libvirt::new(settings) {
            Err(Fault::Settings { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(settings("qemu:///system", "one", "libvirt-sock")), "socket");
        for uri in ["", "qemu:///", "qemu+ssh://host/system", "qemu://host/system", "QEMU:///system"] {
            assert_eq!(refused(settings(uri, "one", "/run/sock")), "uri", "{uri}");
        }
        assert_eq!(refused(settings("qemu:///system", "", "/run/sock")), "domain");
        assert_eq!(refused(settings("qemu:///system", &"a".repeat(1025), "/run/sock")), "domain");
        let good = Libvirt::new(settings("qemu:///system", "one", "/run/sock")).expect("good settings");
        assert_eq!(good.controller(), "/run/sock one");
    }

    #[test]
    fn a_uuid_is_one_only_as_people_write_it() {
        let bytes = uuid("6695eb01-f6a4-8304-79aa-97f2502e193f").expect("a UUID");
        assert_eq!(hex::encode(bytes), "6695eb01f6a4830479aa97f2502e193f");
        for name in ["test", "6695eb01f6a4830479aa97f2502e193f", "6695eb01-f6a4-8304-79aa-97f2502e193g"] {
            assert_eq!(uuid(name), None, "{name}");
        }
    }
}
