//! Outlets of rack PDUs, by SNMP (RFC 3416): version 2c with a community, or 3 with a user, authenticated and encrypted (RFC 3414, 7860, 3826).
//!
//! | room | what |
//! |---|---|
//! | [`makes`] | where makes of PDUs keep their outlets, as data |
//!
//! An outlet is one more way to switch mains, so all that [`crate::plug`] says holds here; [`crate::plug::Plug`] is the driver. The messages are those of the crate
//! `async-snmp`. A cycle is the PDU's own command where it has one: mains comes back even if we are gone meanwhile. That command is sent once and never again.
//!
//! What it does not do: SNMP 1, traps, DES, users without a password, discovery of outlets.

pub mod makes;

use std::time::Duration;

use async_snmp::{Auth, AuthProtocol, Client, Error, ErrorStatus, Oid, PrivProtocol, Retry, UdpClient, UsmConfig, Value, v3::ReportStatus};
use secrecy::{ExposeSecret, SecretString};

use self::makes::Cells;
use crate::{address, fault::Fault, plug::Shown};

/// The UDP port of SNMP agents.
pub const PORT: u16 = 161;
/// How long an answer is waited for. The network cards of PDUs are small computers.
const ANSWER: Duration = Duration::from_secs(2);
/// How often what does no harm is asked again.
const AGAIN: u32 = 2;
/// The longest of a name, in bytes (RFC 3414, usmUserName).
const LONGEST_USER: usize = 32;
/// The shortest password (RFC 3414, 11.2).
const SHORTEST_PASSWORD: usize = 8;

/// With what a message of version 3 is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// HMAC-SHA-96 (RFC 3414).
    Sha1,
    /// HMAC-192-SHA-256 (RFC 7860).
    Sha256,
}

/// As whom an agent is asked.
#[derive(Debug, Clone)]
pub enum Access {
    /// Version 2c. The community goes over the network as it is.
    Community(SecretString),
    /// Version 3 with authentication, and AES with 128 bits.
    User {
        /// Its name: 1 to 32 bytes.
        name: String,
        /// With what its messages are authenticated.
        authentication: Authentication,
        /// The password of that: 8 bytes or more.
        password: SecretString,
        /// The password of the encryption: 8 bytes or more.
        privacy: SecretString,
    },
}

/// How an outlet is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The PDU's name or address.
    pub host: String,
    /// Its UDP port: [`PORT`].
    pub port: u16,
    /// As whom.
    pub access: Access,
    /// Which outlet: of a make by [`makes::Make::cells`], or named by hand.
    pub cells: Cells,
}

/// An outlet.
#[derive(Debug)]
pub struct Outlet {
    settings: Settings,
    command: Oid,
    state: Oid,
    power: Option<(Oid, Option<Oid>)>,
}

fn wrong<T>(field: &'static str, problem: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Settings {
        field,
        problem: problem.into(),
    })
}

fn oid(field: &'static str, text: &str) -> Result<Oid, Fault> {
    let oid = Oid::parse(text).ok().filter(|oid| oid.validate_all().is_ok() && oid.len() > 2);
    oid.map_or_else(
        || wrong(field, "it is no OID: write it as 1.3.6.1.4.1 and so on, with the outlet's index"),
        Ok,
    )
}

fn check(access: &Access) -> Result<(), Fault> {
    match access {
        Access::Community(community) if community.expose_secret().is_empty() => wrong("community", "it is empty"),
        Access::Community(_) => Ok(()),
        Access::User { name, .. } if name.is_empty() || name.len() > LONGEST_USER => {
            wrong("user", format!("{} bytes; SNMP takes 1 to {LONGEST_USER}", name.len()))
        }
        Access::User { password, privacy, .. } => {
            for (field, secret) in [("password", password), ("privacy", privacy)] {
                let length = secret.expose_secret().len();
                if length < SHORTEST_PASSWORD {
                    return wrong(field, format!("{length} bytes; SNMP takes {SHORTEST_PASSWORD} or more"));
                }
            }
            Ok(())
        }
    }
}

impl Outlet {
    /// The outlet with these settings. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(settings: Settings) -> Result<Self, Fault> {
        address::check(&settings.host)?;
        check(&settings.access)?;
        let cells = &settings.cells;
        if cells.on == cells.off || cells.cycle.is_some_and(|cycle| cycle == cells.on || cycle == cells.off) {
            return wrong("command", "two commands have the same number");
        }
        if cells.shows_on == cells.shows_off {
            return wrong("state", "on and off have the same number");
        }
        let power = cells.power.as_ref().map(|power| {
            let digits = power.digits.as_ref().map(|digits| oid("power", digits)).transpose()?;
            Ok((oid("power", &power.value)?, digits))
        });
        Ok(Self {
            command: oid("command", &cells.command)?,
            state: oid("state", &cells.state)?,
            power: power.transpose()?,
            settings,
        })
    }

    /// The PDU: its outlets wait for each other.
    pub(crate) fn controller(&self) -> String {
        address::authority(&self.settings.host, self.settings.port)
    }

    /// Whether it is measured.
    pub(crate) const fn is_measured(&self) -> bool {
        self.power.is_some()
    }

    /// Whether it is cycled by one command.
    pub(crate) const fn cycles(&self) -> bool {
        self.settings.cells.cycle.is_some()
    }

    /// Before anything is written the outlet is looked at: who is silent then, or has no such outlet, was told nothing.
    pub(crate) async fn set(&self, on: bool) -> Result<(), Fault> {
        let client = self.client(AGAIN, false).await?;
        self.read(&client).await?;
        let cells = &self.settings.cells;
        self.write(&client, if on { cells.on } else { cells.off }).await
    }

    /// One that is on goes off and comes back; one that is off is switched on.
    pub(crate) async fn cycle(&self) -> Result<(), Fault> {
        // Without repetition: an agent that carried it out, and whose answer was lost, would do it twice.
        let client = self.client(0, false).await?;
        let shown = self.read(&client).await?;
        let cells = &self.settings.cells;
        // What an outlet that is off does with it, makes do not agree on.
        let number = cells.cycle.filter(|_| shown.on).unwrap_or(cells.on);
        self.write(&client, number).await
    }

    pub(crate) async fn look(&self) -> Result<Shown, Fault> {
        self.read(&self.client(AGAIN, false).await?).await
    }

    async fn read(&self, client: &UdpClient) -> Result<Shown, Fault> {
        let mut wanted = vec![self.state.clone()];
        if let Some((value, digits)) = &self.power {
            wanted.push(value.clone());
            wanted.extend(digits.clone());
        }
        let answer = match client.get_many(&wanted).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.why(&error).await),
        };
        let mut values = wanted.iter().map(|oid| {
            let bound = answer.varbinds.iter().find(|bound| bound.oid == *oid);
            bound.map(|bound| &bound.value)
        });
        let cells = &self.settings.cells;
        let on = match values.next().flatten() {
            Some(Value::Integer(shown)) if *shown == cells.shows_on => true,
            Some(Value::Integer(shown)) if *shown == cells.shows_off => false,
            Some(Value::Integer(shown)) => {
                return Err(Fault::Garbled(format!(
                    "the outlet shows {shown}, which is neither on ({}) nor off ({})",
                    cells.shows_on, cells.shows_off
                )));
            }
            Some(Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView) => return Err(self.no_outlet()),
            _ => return Err(Fault::Garbled("the outlet's state is no number".to_owned())),
        };
        // Of a PDU that does not measure these cells are not there, or below zero.
        let value = values.next().flatten().and_then(number).filter(|value| *value >= 0);
        let digits = match &self.power {
            Some((_, Some(_))) => values.next().flatten().and_then(number).filter(|digits| (0..=9).contains(digits)),
            _ => Some(0),
        };
        let watts = value.zip(digits).map(|(value, digits)| value as f64 / 10_f64.powi(digits as i32));
        Ok(Shown { on, watts })
    }

    /// Why a read came to nothing. An agent that does not know our user or password can only say so without a code, which is not believed otherwise; so it is heard in a
    /// second read, of which nothing else is taken.
    async fn why(&self, error: &Error) -> Fault {
        let fault = self.fault(error, false);
        if !matches!(error.exchange_source(), Error::Timeout { .. }) || matches!(self.settings.access, Access::Community(_)) {
            return fault;
        }
        let Ok(client) = self.client(0, true).await else { return fault };
        match client.get(&self.state).await {
            Err(error) if matches!(error.exchange_source(), Error::Report { .. }) => self.fault(&error, false),
            _ => fault,
        }
    }

    /// A client that asks again so often. `hears`: also reports that nobody vouches for.
    async fn client(&self, again: u32, hears: bool) -> Result<UdpClient, Fault> {
        let unusable = |what: &dyn std::fmt::Display| Fault::Unreachable(format!("SNMP cannot be set up: {what}"));
        let access = match &self.settings.access {
            Access::Community(community) => Auth::v2c(community.expose_secret()),
            Access::User {
                name,
                authentication,
                password,
                privacy,
            } => {
                let protocol = match authentication {
                    Authentication::Sha1 => AuthProtocol::Sha1,
                    Authentication::Sha256 => AuthProtocol::Sha256,
                };
                UsmConfig::new(name.clone())
                    .auth_priv(protocol, password.expose_secret(), PrivProtocol::Aes128, privacy.expose_secret())
                    .map_err(|error| unusable(&error))?
                    .into()
            }
        };
        let retry = Retry::fixed(again, Duration::ZERO).map_err(|error| unusable(&error))?;
        Client::builder((self.settings.host.clone(), self.settings.port), access)
            .request_timeout(ANSWER)
            .retry(retry)
            .allow_unauthenticated_v3_time_correction(hears)
            // Only the PDU is listened to.
            .strict_source(true)
            .connect()
            .await
            .map_err(|error| unusable(&error))
    }

    async fn write(&self, client: &UdpClient, number: i32) -> Result<(), Fault> {
        let answer = client
            .set(&self.command, Value::Integer(number))
            .await
            .map_err(|error| self.fault(&error, true))?;
        match answer.varbinds.first().map(|bound| &bound.value) {
            Some(Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView) => Err(self.no_outlet()),
            _ => Ok(()),
        }
    }

    fn no_outlet(&self) -> Fault {
        Fault::Settings {
            field: "outlet",
            problem: format!(
                "the PDU shows nothing at {}: see its number, and that make or OID are right",
                self.settings.cells.state
            ),
        }
    }

    /// What it means that a request came to nothing.
    fn fault(&self, error: &Error, command: bool) -> Fault {
        let community = matches!(self.settings.access, Access::Community(_));
        match error.exchange_source() {
            Error::Timeout { .. } => {
                let seconds = ANSWER.as_secs();
                match (command, community) {
                    (false, true) => Fault::Unreachable(format!(
                        "no answer, asked each {seconds} s; agents are silent where the community is wrong, too"
                    )),
                    (false, false) => Fault::Unreachable(format!("no answer, asked each {seconds} s")),
                    (true, true) => Fault::Unanswered(format!(
                        "no answer for {seconds} s; agents are silent where the community may not write, too"
                    )),
                    (true, false) => Fault::Unanswered(format!("no answer for {seconds} s")),
                }
            }
            Error::Network { source, .. } => Fault::Unreachable(source.to_string()),
            Error::Auth { .. } => Fault::Credentials("the answer's code was not made with this password".to_owned()),
            Error::Report { status, .. } => match &**status {
                ReportStatus::UnknownUserName { .. } => Fault::Credentials("it does not know the user".to_owned()),
                ReportStatus::WrongDigest { .. } => Fault::Credentials("the password or the kind of authentication is wrong".to_owned()),
                ReportStatus::DecryptionError { .. } => Fault::Credentials("the password of the encryption is wrong".to_owned()),
                ReportStatus::UnsupportedSecurityLevel { .. } => {
                    Fault::Credentials("the user is not set up there for authentication and encryption".to_owned())
                }
                ReportStatus::NotInTimeWindow { .. } => Fault::Busy {
                    detail: "its clock and ours do not agree".to_owned(),
                    after: None,
                },
                other => Fault::Refused(format!("a report: {other}")),
            },
            Error::Snmp { status, .. } => match status {
                ErrorStatus::NoSuchName | ErrorStatus::NoCreation | ErrorStatus::InconsistentName => self.no_outlet(),
                ErrorStatus::NoAccess | ErrorStatus::AuthorizationError | ErrorStatus::ReadOnly | ErrorStatus::NotWritable => {
                    Fault::Privilege(format!("{status} at {}", self.settings.cells.command))
                }
                ErrorStatus::ResourceUnavailable => Fault::Busy {
                    detail: status.to_string(),
                    after: None,
                },
                status => Fault::Refused(status.to_string()),
            },
            // What went out may have been carried out.
            other if command => Fault::Unanswered(other.kind().to_string()),
            other => Fault::Garbled(other.kind().to_string()),
        }
    }
}

/// Any of SNMP's numbers.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(i64::from(*number)),
        Value::Gauge32(number) | Value::UInteger32(number) | Value::Counter32(number) => Some(i64::from(*number)),
        _ => None,
    }
}
