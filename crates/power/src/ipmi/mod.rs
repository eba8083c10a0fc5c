//! IPMI 2.0 over LAN: RMCP+ with the cipher suites 3 and 17, natively.
//!
//! | room | what |
//! |---|---|
//! | [`wire`] | datagrams and messages; pure |
//! | [`suite`] | keys and authentication codes; pure |
//! | [`handshake`] | what is said before a session stands; pure |
//! | [`session`] | the order of all that, lost and doubled datagrams; pure, with time as a number |
//! | [`chassis`] | commands; pure |
//! | [`client`] | the socket |
//!
//! One call is one session: BMCs have few (often four) and forget idle ones. A call that may have been carried out is told apart from one that was not.
//!
//! What it does not do: IPMI 1.5, suites without encryption, serial over LAN, bridging.

pub mod chassis;
pub mod client;
pub mod handshake;
pub mod session;
pub mod suite;
pub mod wire;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use self::{
    chassis::Control,
    client::{Client, ClientError},
    handshake::Privilege,
    session::{Account, SessionError},
    suite::CipherSuite,
    wire::Request,
};
use crate::{
    address,
    driver::{Act, BootDevice, BootDevices, BootOnce, Capabilities, Driver, Kind, Off, Operation, PowerState},
    fault::Fault,
};

/// The UDP port of RMCP.
pub const PORT: u16 = 623;
/// The longest user name, in bytes (22.28).
const LONGEST_USER: usize = 16;
/// The longest password and BMC key, in bytes (22.30, 22.25).
const LONGEST_KEY: usize = 20;

/// What is the same for all machines with IPMI.
pub static KIND: Kind = Kind {
    name: "ipmi",
    title: "IPMI 2.0 (RMCP+)",
    capabilities: Capabilities {
        events: false,
        on: true,
        off_soft: true,
        off_hard: true,
        cycle: true,
        state: true,
        boot_once: BootDevices::of(&[BootDevice::Network, BootDevice::Disk, BootDevice::Media, BootDevice::Setup]),
        media: false,
        inventory: false,
    },
    evidence: "suite 3 against OpenIPMI's ipmi_sim; the codes of suites 3 and 17 against ipmitool's; not yet seen on real equipment",
};

/// How a machine's BMC is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name or address.
    pub host: String,
    /// Its UDP port: [`PORT`].
    pub port: u16,
    /// Who logs in: 1 to 16 bytes.
    pub user: String,
    /// The password: 1 to 20 bytes. Longer ones are refused, not cut.
    pub password: SecretString,
    /// The BMC's own key (Kg), where one is set: 1 to 20 bytes.
    pub own_key: Option<SecretSlice<u8>>,
    /// What sessions may do. [`Privilege::Operator`] is enough by the specification.
    pub privilege: Privilege,
    /// The only suite that is tried. None: 17, then 3. Somebody between us and the BMC can make it 3.
    pub suite: Option<CipherSuite>,
}

/// A machine behind a BMC with IPMI 2.0.
#[derive(Debug)]
pub struct Ipmi {
    settings: Settings,
    controller: String,
}

fn bounded(field: &'static str, length: usize, longest: usize) -> Result<(), Fault> {
    if (1..=longest).contains(&length) {
        return Ok(());
    }
    Err(Fault::Settings {
        field,
        problem: format!("{length} bytes; IPMI takes 1 to {longest}"),
    })
}

impl Ipmi {
    /// A driver with these settings. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(settings: Settings) -> Result<Self, Fault> {
        address::check(&settings.host)?;
        bounded("user", settings.user.len(), LONGEST_USER)?;
        bounded("password", settings.password.expose_secret().len(), LONGEST_KEY)?;
        if let Some(key) = &settings.own_key {
            bounded("ownKey", key.expose_secret().len(), LONGEST_KEY)?;
        }
        let controller = address::authority(&settings.host, settings.port);
        Ok(Self { settings, controller })
    }

    fn account(&self) -> Account {
        Account {
            user: self.settings.user.clone(),
            password: self.settings.password.clone(),
            own_key: self.settings.own_key.clone(),
            privilege: self.settings.privilege,
            suites: match self.settings.suite {
                None => &[CipherSuite::Seventeen, CipherSuite::Three],
                Some(CipherSuite::Seventeen) => &[CipherSuite::Seventeen],
                Some(CipherSuite::Three) => &[CipherSuite::Three],
            },
        }
    }

    async fn open(&self) -> Result<Client, Fault> {
        let opened = Client::open(&self.settings.host, self.settings.port, self.account()).await;
        opened.map_err(before_any_request)
    }

    async fn switch(&self, wanted: Wanted) -> Result<(), Fault> {
        let mut client = self.open().await?;
        let done = switch(&mut client, wanted).await;
        client.close().await;
        done
    }

    async fn tell(&self) -> Result<PowerState, Fault> {
        let mut client = self.open().await?;
        let on = is_on(&mut client).await;
        client.close().await;
        Ok(if on? { PowerState::On } else { PowerState::Off })
    }

    async fn set_boot(&self, boot: BootOnce) -> Result<(), Fault> {
        let flags = chassis::flags(boot).ok_or(Fault::Incapable(Operation::BootOnce(boot.device)))?;
        let mut client = self.open().await?;
        let done = set_boot(&mut client, flags).await;
        client.close().await;
        done
    }
}

/// What a machine shall be.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    On,
    Off(Off),
    Again,
}

async fn ask(client: &mut Client, request: Request) -> Result<session::Answer, Fault> {
    client.ask(request).await.map_err(within_a_session)
}

async fn switch(client: &mut Client, wanted: Wanted) -> Result<(), Fault> {
    match (wanted, is_on(client).await?) {
        (Wanted::On, true) | (Wanted::Off(_), false) => Ok(()),
        (Wanted::On | Wanted::Again, false) => command(client, "power up", Control::Up).await,
        (Wanted::Off(Off::Soft), true) => command(client, "soft shutdown", Control::Soft).await,
        (Wanted::Off(Off::Hard), true) => command(client, "power down", Control::Down).await,
        // A power cycle is optional, a reset is not (28.3).
        (Wanted::Again, true) => match command(client, "power cycle", Control::Cycle).await {
            Err(Fault::NotOffered { .. } | Fault::Refused(_)) => command(client, "hard reset", Control::Reset).await,
            done => done,
        },
    }
}

async fn set_boot(client: &mut Client, flags: [u8; 5]) -> Result<(), Fault> {
    // Where it is refused the flags last 60 s, which is long enough for a machine that is switched at once.
    ask(client, chassis::remember_flags()).await?;
    let set = ask(client, chassis::set_flags(flags)).await?;
    if let Some(fault) = chassis::fault(set.completion, "boot flags") {
        return Err(fault);
    }
    // Some take every flag and keep none. Who cannot be asked is believed.
    let shown = ask(client, chassis::get_flags()).await?;
    match (shown.completion, chassis::shows(&shown.data, flags)) {
        (0, Some(false)) => Err(Fault::NotTaken("it shows other boot flags than it was given".to_owned())),
        _ => Ok(()),
    }
}

async fn is_on(client: &mut Client) -> Result<bool, Fault> {
    // A read that is not answered changed nothing.
    let answer = client
        .ask(chassis::status())
        .await
        .map_err(|error| before_any_request(error.into()))?;
    match chassis::fault(answer.completion, "chassis status") {
        // Nothing was commanded yet.
        Some(Fault::Unanswered(detail)) => Err(Fault::Garbled(detail)),
        Some(fault) => Err(fault),
        None => chassis::is_on(&answer.data).ok_or_else(|| Fault::Garbled("chassis status without data".to_owned())),
    }
}

async fn command(client: &mut Client, wanted: &str, what: Control) -> Result<(), Fault> {
    let answer = ask(client, chassis::control(what)).await?;
    chassis::fault(answer.completion, wanted).map_or(Ok(()), Err)
}

/// What it means when a session is not to be had.
fn before_any_request(error: ClientError) -> Fault {
    let detail = error.to_string();
    match error {
        ClientError::Name(_) | ClientError::Socket(_) => Fault::Unreachable(detail),
        ClientError::Session(error) => match error {
            // Message 1 tells who we are: some fall silent then.
            SessionError::Silent {
                what: what @ "RAKP message 1",
                ..
            } => Fault::Unreachable(format!(
                "no answer to {what}, though to others: some BMCs do so where they do not know the user"
            )),
            SessionError::Silent { .. } => Fault::Unreachable(detail),
            SessionError::User | SessionError::Password | SessionError::OwnKey => Fault::Credentials(detail),
            SessionError::Privilege(_) => Fault::Privilege(detail),
            SessionError::NoSession => Fault::Busy {
                detail,
                after: Some(Duration::from_secs(2)),
            },
            SessionError::Version | SessionError::Suite(_) => Fault::NotOffered {
                wanted: "IPMI 2.0 as it is wanted here".to_owned(),
                offered: detail,
            },
            SessionError::Status { .. } => Fault::Refused(detail),
            SessionError::Garbled { .. } => Fault::Garbled(detail),
        },
    }
}

/// What it means when a request was not answered.
fn within_a_session(error: SessionError) -> Fault {
    match error {
        SessionError::Silent { request: true, .. } => Fault::Unanswered(error.to_string()),
        error => before_any_request(error.into()),
    }
}

impl Driver for Ipmi {
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

    fn boot_once(&self, boot: BootOnce) -> Act<'_, ()> {
        Box::pin(self.set_boot(boot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            host: "192.0.2.7".to_owned(),
            port: PORT,
            user: "admin".to_owned(),
            password: "s3cret-Pass".to_owned().into(),
            own_key: None,
            privilege: Privilege::Operator,
            suite: None,
        }
    }

    fn refused(settings: Settings) -> &'static str {
        match Ipmi::new(settings) {
            Err(Fault::Settings { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_ipmi_cannot_carry_is_refused_by_its_field() {
        assert_eq!(
            refused(Settings {
                user: "a".repeat(17),
                ..settings()
            }),
            "user"
        );
        assert_eq!(
            refused(Settings {
                user: String::new(),
                ..settings()
            }),
            "user"
        );
        let long = "p".repeat(21);
        assert_eq!(
            refused(Settings {
                password: long.into(),
                ..settings()
            }),
            "password"
        );
        assert_eq!(
            refused(Settings {
                own_key: Some(vec![0; 21].into()),
                ..settings()
            }),
            "ownKey"
        );
        assert_eq!(
            refused(Settings {
                host: "http://bmc/".to_owned(),
                ..settings()
            }),
            "host"
        );
    }

    #[test]
    fn the_password_is_not_in_its_description() {
        let driver = Ipmi::new(settings()).expect("good settings");
        assert!(!format!("{driver:?}").contains("s3cret"), "{driver:?}");
        assert_eq!(driver.controller(), "192.0.2.7:623");
        let six = Ipmi::new(Settings {
            host: "2001:db8::7".to_owned(),
            ..settings()
        })
        .expect("good settings");
        assert_eq!(six.controller(), "[2001:db8::7]:623");
    }
}
