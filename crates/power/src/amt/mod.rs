//! Intel AMT, the management engine of business PCs: WS-Management over HTTP or HTTPS, with digest authentication.
//!
//! | room | what |
//! |---|---|
//! | [`wsman`] | envelopes; pure |
//!
//! Intel's documents: "Intel AMT Implementation and Reference Guide", *Change System Power State*, *Set or Disable Boot Configuration Settings for the Next Boot*, and the
//! pages of the classes `CIM_PowerManagementService`, `CIM_AssociatedPowerManagementService`, `CIM_BootConfigSetting`, `CIM_BootService`.
//!
//! AMT must be in admin control mode: in client control mode a boot device wants a code that somebody reads from the screen.
//!
//! What it does not do: redirection (serial over LAN, IDE-R, KVM), user consent, the firmware setup, provisioning.

pub mod wsman;

use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};

use self::wsman::{Request, Said, Source};
use crate::{
    digest::{Algorithm, Challenge},
    driver::{Act, BootDevice, BootDevices, BootOnce, Capabilities, Driver, Kind, Off, Operation, PowerState},
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// The TCP ports: with HTTP, and with TLS.
pub const PORTS: (u16, u16) = (16_992, 16_993);
const PATH: &str = "/wsman";

/// Power states that are asked for (DSP1027, `RequestPowerStateChange`).
const ON: u16 = 2;
const CYCLE: u16 = 5;
const OFF: u16 = 8;
const RESET: u16 = 10;
const OFF_GRACEFUL: u16 = 12;

/// What is the same for all machines with AMT.
pub static KIND: Kind = Kind {
    name: "amt",
    title: "Intel AMT (WS-Management)",
    capabilities: Capabilities {
        events: false,
        on: true,
        off_soft: true,
        off_hard: true,
        cycle: true,
        state: true,
        boot_once: BootDevices::of(&[BootDevice::Network, BootDevice::Disk, BootDevice::Media]),
        media: false,
        inventory: false,
    },
    evidence: "built from the documents, not yet seen on real equipment; the digest against the example of RFC 7616",
};

/// How a machine's AMT is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Scheme, name and port: `https://192.0.2.7:16993`, or `http://192.0.2.7:16992` where the network is trusted.
    pub url: String,
    /// Whom to believe, with `https`.
    pub trust: Option<Trust>,
    /// Who logs in: `admin`, or a user of the realms *Remote Control* and *General Info*.
    pub user: String,
    /// The password.
    pub password: SecretString,
}

/// A machine with AMT.
#[derive(Debug)]
pub struct Amt {
    endpoint: Endpoint,
    user: String,
    password: SecretString,
    controller: String,
}

/// What a machine shall be.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    On,
    Off(Off),
    Again,
}

impl Amt {
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
        let mut endpoint = Endpoint::new(&settings.url, settings.trust.as_ref())?;
        if !matches!(endpoint.url.path(), "" | "/") || endpoint.url.query().is_some() {
            return wrong("url", "write scheme, name and port only");
        }
        let user = &settings.user;
        if user.is_empty() || user.chars().any(|c| c.is_control() || matches!(c, '"' | '\\' | ':')) {
            return wrong("user", "it is empty, or has a quote, a backslash or a colon in it");
        }
        if settings.password.expose_secret().is_empty() {
            return wrong("password", "it is empty");
        }
        endpoint.url.set_path(PATH);
        Ok(Self {
            controller: endpoint.authority(),
            endpoint,
            user: settings.user,
            password: settings.password,
        })
    }

    async fn power(&self) -> Result<(u16, Vec<u16>), Fault> {
        match self.ask(Request::State).await? {
            Said::Power { state, offered } => Ok((state, offered)),
            Said::Returned(_) | Said::Fault { .. } => Err(Fault::Garbled("a power state that is none".to_owned())),
        }
    }

    async fn tell(&self) -> Result<PowerState, Fault> {
        self.power().await.map(|(state, _)| shown(state))
    }

    async fn switch(&self, wanted: Wanted) -> Result<(), Fault> {
        let (state, offered) = self.power().await?;
        let choices: &[u16] = match (wanted, shown(state)) {
            (Wanted::On, PowerState::On) | (Wanted::Off(_), PowerState::Off) => return Ok(()),
            (Wanted::On, _) | (Wanted::Again, PowerState::Off) => &[ON],
            (Wanted::Off(Off::Hard), _) => &[OFF],
            (Wanted::Off(Off::Soft), _) => &[OFF_GRACEFUL],
            (Wanted::Again, _) => &[RESET, CYCLE],
        };
        // Where nothing is said of it, the first is what every release has.
        let chosen = if offered.is_empty() {
            choices.first()
        } else {
            choices.iter().find(|choice| offered.contains(choice))
        };
        let Some(chosen) = chosen else {
            return Err(Fault::NotOffered {
                wanted: names(choices),
                offered: if choices == [OFF_GRACEFUL] {
                    format!("{} (a graceful one wants Intel's service in the system)", names(&offered))
                } else {
                    names(&offered)
                },
            });
        };
        self.method(Request::Change(*chosen), change_fault).await
    }

    async fn set_boot(&self, boot: BootOnce) -> Result<(), Fault> {
        let source = match boot.device {
            BootDevice::Network => Source::Pxe,
            BootDevice::Disk => Source::Disk,
            BootDevice::Media => Source::Cd,
            device @ (BootDevice::Http | BootDevice::Setup) => return Err(Fault::Incapable(Operation::BootOnce(device))),
        };
        self.method(Request::Order(source), boot_fault).await?;
        self.method(Request::NextOnly, boot_fault).await
    }

    async fn method(&self, request: Request, fault: fn(&str, u32) -> Fault) -> Result<(), Fault> {
        match self.ask(request).await? {
            Said::Returned(0) => Ok(()),
            Said::Returned(code) => Err(fault(request.name(), code)),
            Said::Power { .. } | Said::Fault { .. } => {
                Err(Fault::Unanswered(format!("{}: the answer is to something else", request.name())))
            }
        }
    }

    async fn ask(&self, request: Request) -> Result<Said, Fault> {
        // Whether it changes something.
        let kind = if request == Request::State { Method::GET } else { Method::POST };
        let name = request.name();
        let random = hex::encode(rand::random::<[u8; 16]>());
        let message = [&random[..8], &random[8..12], &random[12..16], &random[16..20], &random[20..]].join("-");
        let body = request.envelope(&message);
        let client = self.endpoint.client()?;
        let post = || {
            client
                .post(self.endpoint.url.clone())
                .header(header::CONTENT_TYPE, "application/soap+xml;charset=UTF-8")
                .body(body.clone())
        };
        // The first brings the challenge. Somebody in between who lets us in without one has carried it out.
        let mut response = post().send().await.map_err(|error| web::lost(&kind, error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
            let of = |algorithm| {
                challenges
                    .iter()
                    .find_map(|value| Challenge::parse(value.to_str().ok()?, &[algorithm]))
            };
            let challenge = of(Algorithm::Sha256).or_else(|| of(Algorithm::Md5));
            let challenge =
                challenge.ok_or_else(|| Fault::Garbled("it asks for a password in a way that is not AMT's (digest)".to_owned()))?;
            let own_nonce = hex::encode(rand::random::<[u8; 16]>());
            let answer = challenge.answer("POST", PATH, &self.user, self.password.expose_secret(), &own_nonce);
            response = post()
                .header(header::AUTHORIZATION, answer)
                .send()
                .await
                .map_err(|error| web::lost(&kind, error))?;
        }
        let status = response.status();
        let bytes = web::body(&kind, response).await?;
        let said = wsman::parse(&bytes);
        match (status, said) {
            (StatusCode::UNAUTHORIZED, _) => Err(Fault::Credentials(format!("{name}: {status}"))),
            (_, Some(Said::Fault { code, reason })) => {
                let secrets = [self.password.expose_secret()];
                let detail = format!("{name}: {}, {}", quoted(&code, &secrets), quoted(&reason, &secrets));
                Err(match code.as_str() {
                    "AccessDenied" => Fault::Privilege(detail),
                    "Concurrency" | "QuotaLimit" => Fault::Busy { detail, after: None },
                    "TimedOut" | "InternalError" if kind != Method::GET => Fault::Unanswered(detail),
                    "ActionNotSupported" | "DestinationUnreachable" => Fault::NotOffered {
                        wanted: name.to_owned(),
                        offered: detail,
                    },
                    _ => Fault::Refused(detail),
                })
            }
            (status, Some(said)) if status.is_success() => Ok(said),
            (StatusCode::FORBIDDEN, _) => Err(Fault::Privilege(format!("{name}: {status}"))),
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => Err(Fault::Busy {
                detail: format!("{name}: {status}"),
                after: None,
            }),
            (status, _) if kind != Method::GET && (status.is_success() || status.is_server_error()) => {
                Err(Fault::Unanswered(format!("{name}: {status}, and no envelope")))
            }
            (status, _) if status.is_success() || status.is_server_error() => {
                Err(Fault::Garbled(format!("{name}: {status}, and no envelope")))
            }
            (status, _) => Err(Fault::Refused(format!("{name}: {status}"))),
        }
    }
}

/// What a power state means (DSP1027, `PowerState`).
const fn shown(state: u16) -> PowerState {
    match state {
        2 => PowerState::On,
        // Off hard, hibernated, off soft, and off gracefully.
        6 | 7 | 8 | 12 | 13 => PowerState::Off,
        // It sleeps, or is just changing.
        _ => PowerState::Unknown,
    }
}

/// Power states for people.
fn names(states: &[u16]) -> String {
    if states.is_empty() {
        return "nothing".to_owned();
    }
    let name = |state: &u16| match *state {
        ON => "on".to_owned(),
        CYCLE => "power cycle".to_owned(),
        OFF => "off".to_owned(),
        RESET => "reset".to_owned(),
        OFF_GRACEFUL => "graceful off".to_owned(),
        other => format!("state {other}"),
    };
    states.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What `RequestPowerStateChange` returns, when it is not well.
fn change_fault(name: &str, code: u32) -> Fault {
    match code {
        1 => Fault::NotOffered {
            wanted: name.to_owned(),
            offered: "it says that it does not support this".to_owned(),
        },
        3 => Fault::Unanswered(format!("{name}: it cannot complete in time (3)")),
        6 | 4099 => Fault::Busy {
            detail: format!("{name}: in use ({code})"),
            after: None,
        },
        4097 => Fault::Refused(format!(
            "{name}: not from the state that it is in (4097); an open redirection session forbids it, too"
        )),
        code => Fault::Refused(format!("{name} returned {code}")),
    }
}

/// What the methods of booting return, when it is not well.
fn boot_fault(name: &str, code: u32) -> Fault {
    match code {
        1 => Fault::NotOffered {
            wanted: name.to_owned(),
            offered: "it says that it does not support this".to_owned(),
        },
        3 => Fault::Busy {
            detail: format!("{name}: busy (3)"),
            after: None,
        },
        6 => Fault::Privilege(format!(
            "{name}: access denied (6); in client control mode it wants a code from the screen"
        )),
        code => Fault::Refused(format!("{name} returned {code}")),
    }
}

impl Driver for Amt {
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
