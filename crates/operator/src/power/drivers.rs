//! From what a machine's spec says to a driver of the crate `power`.

use std::net::{IpAddr, SocketAddr};

use api::{
    common::LocalSecretName,
    power::{
        AmtPower, CipherSuite, HomeAssistantPower, IpmiPower, IpmiPrivilege, LibvirtPower, OutletCells, PduMake, PduPower, PlugLoad,
        PowerSpec, ProxmoxPower, RedfishPower, ShellyPower, SnmpAuthentication, TasmotaPower, WakeOnLanPower, WebhookCall, WebhookPower,
    },
};
use lifecycle::power::Can;
use power::{
    BootDevice, BootDevices, Capabilities, Driver, Fault, Kind, Unmanaged, amt, ipmi, libvirt,
    pdu::{
        self,
        makes::{Cells, Power},
    },
    plug::{self, Load, Make, Plug, home_assistant::HomeAssistant, shelly::Shelly, tasmota::Tasmota},
    proxmox, redfish,
    tls::{Identity, Trust},
    unmanaged, wake, webhook,
};
use secrecy::{SecretSlice, SecretString};

use crate::secrets::Contents;

/// Keys of a Secret with credentials.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const KEY: &str = "key";
const TOKEN: &str = "token";
const COMMUNITY: &str = "community";
const PRIVACY: &str = "privacy";
const CERTIFICATE: &str = "tls.crt";
const CERTIFICATE_KEY: &str = "tls.key";
/// Certificate authorities (PEM), where a service's own certificate is not named.
const AUTHORITIES: &str = "ca.crt";

/// The one way that a spec names.
enum Way<'a> {
    Redfish(&'a RedfishPower),
    Ipmi(&'a IpmiPower),
    Amt(&'a AmtPower),
    Webhook(&'a WebhookPower),
    Shelly(&'a ShellyPower),
    Tasmota(&'a TasmotaPower),
    HomeAssistant(&'a HomeAssistantPower),
    Pdu(&'a PduPower),
    Libvirt(&'a LibvirtPower),
    Proxmox(&'a ProxmoxPower),
    WakeOnLan(&'a WakeOnLanPower),
    Manual,
}

impl<'a> Way<'a> {
    fn of(spec: &'a PowerSpec) -> Option<Self> {
        let mut named = [
            spec.redfish.as_ref().map(Way::Redfish),
            spec.ipmi.as_ref().map(Way::Ipmi),
            spec.amt.as_ref().map(Way::Amt),
            spec.webhook.as_ref().map(Way::Webhook),
            spec.shelly.as_ref().map(Way::Shelly),
            spec.tasmota.as_ref().map(Way::Tasmota),
            spec.home_assistant.as_ref().map(Way::HomeAssistant),
            spec.pdu.as_ref().map(Way::Pdu),
            spec.libvirt.as_ref().map(Way::Libvirt),
            spec.proxmox.as_ref().map(Way::Proxmox),
            spec.wake_on_lan.as_ref().map(Way::WakeOnLan),
            spec.manual.as_ref().map(|_| Way::Manual),
        ]
        .into_iter()
        .flatten();
        named.next()
    }

    fn kind(&self) -> &'static Kind {
        match self {
            Self::Redfish(_) => &redfish::KIND,
            Self::Ipmi(_) => &ipmi::KIND,
            Self::Amt(_) => &amt::KIND,
            Self::Webhook(_) => &webhook::KIND,
            Self::Shelly(_) => &plug::SHELLY,
            Self::Tasmota(_) => &plug::TASMOTA,
            Self::HomeAssistant(_) => &plug::HOME_ASSISTANT,
            Self::Pdu(_) => &plug::PDU,
            Self::Libvirt(_) => &libvirt::KIND,
            Self::Proxmox(_) => &proxmox::KIND,
            Self::WakeOnLan(_) => &wake::KIND,
            Self::Manual => &unmanaged::KIND,
        }
    }

    fn capabilities(&self) -> Capabilities {
        match self {
            Self::Webhook(webhook) => promised(&webhook.calls),
            _ => self.kind().capabilities,
        }
    }

    fn credentials(&self) -> Option<&'a LocalSecretName> {
        match self {
            Self::Redfish(way) => Some(&way.credentials),
            Self::Ipmi(way) => Some(&way.credentials),
            Self::Amt(way) => Some(&way.credentials),
            Self::Webhook(way) => Some(&way.credentials),
            Self::Shelly(way) => way.credentials.as_ref(),
            Self::Tasmota(way) => way.credentials.as_ref(),
            Self::HomeAssistant(way) => Some(&way.credentials),
            Self::Pdu(way) => Some(&way.credentials),
            Self::Libvirt(way) => way.credentials.as_ref(),
            Self::Proxmox(way) => Some(&way.credentials),
            Self::WakeOnLan(way) => way.credentials.as_ref(),
            Self::Manual => None,
        }
    }

    fn driver(&self, macs: &[String], credentials: &Contents) -> Result<Box<dyn Driver>, Fault> {
        Ok(match self {
            Self::Redfish(way) => Box::new(redfish::Redfish::new(redfish_settings(way, credentials)?)?),
            Self::Ipmi(way) => Box::new(ipmi::Ipmi::new(ipmi_settings(way, credentials)?)?),
            Self::Amt(way) => Box::new(amt::Amt::new(amt_settings(way, credentials)?)?),
            Self::Webhook(way) => Box::new(webhook::Webhook::new(webhook_settings(way, credentials)?)?),
            Self::Shelly(way) => Box::new(Plug::new(Make::Shelly(shelly(way, credentials)?), load(&way.load))?),
            Self::HomeAssistant(way) => Box::new(Plug::new(Make::HomeAssistant(home_assistant(way, credentials)?), load(&way.load))?),
            Self::Tasmota(way) => Box::new(Plug::new(Make::Tasmota(tasmota(way, credentials)?), load(&way.load))?),
            Self::Pdu(way) => Box::new(Plug::new(
                Make::Outlet(pdu::Outlet::new(pdu_settings(way, credentials)?)?),
                load(&way.load),
            )?),
            Self::Libvirt(way) => Box::new(libvirt::Libvirt::new(libvirt_settings(way, credentials)?)?),
            Self::Proxmox(way) => Box::new(proxmox::Proxmox::new(proxmox_settings(way, credentials)?)?),
            Self::WakeOnLan(way) => Box::new(wake::Wake::new(wake_settings(way, macs, credentials)?)?),
            Self::Manual => Box::new(Unmanaged),
        })
    }
}

/// What a service says that it does.
fn promised(calls: &[WebhookCall]) -> Capabilities {
    let has = |call| calls.contains(&call);
    let devices = [
        (WebhookCall::BootNetwork, BootDevice::Network),
        (WebhookCall::BootHttp, BootDevice::Http),
        (WebhookCall::BootDisk, BootDevice::Disk),
        (WebhookCall::BootMedium, BootDevice::Media),
    ];
    let devices: Vec<_> = devices
        .into_iter()
        .filter(|(call, _)| has(*call))
        .map(|(_, device)| device)
        .collect();
    Capabilities {
        // Its contract has none.
        events: false,
        on: has(WebhookCall::On),
        off_soft: has(WebhookCall::ShutDown),
        off_hard: has(WebhookCall::Off),
        cycle: has(WebhookCall::Cycle),
        state: has(WebhookCall::State),
        boot_once: BootDevices::of(&devices),
        media: has(WebhookCall::Media),
        inventory: false,
    }
}

/// What the driver of a machine declares, before any controller was asked; nothing where only a person switches it.
pub(crate) fn can(spec: &PowerSpec) -> Option<Can> {
    let capabilities = Way::of(spec).filter(|way| !matches!(way, Way::Manual))?.capabilities();
    Some(Can {
        // Without a word to the firmware it boots as it is set up: from the network first, as the documentation asks for.
        boot_agent: capabilities.cycle,
        medium: spec.virtual_media().is_some(),
        on: capabilities.on,
        shut_down: capabilities.off_soft,
        off: capabilities.off_hard,
    })
}

/// Whether netboot is to wake it.
pub(crate) fn is_woken(spec: &PowerSpec) -> bool {
    spec.wake_on_lan.is_some()
}

/// Name of the Secret with a machine's credentials, in the operator's namespace, where it has any.
pub(crate) fn secret(spec: &PowerSpec) -> Option<&str> {
    Some(&Way::of(spec)?.credentials()?.name)
}

/// The controller that tells by itself what happens to its machines, as its driver names it.
pub(crate) fn telling(spec: &PowerSpec) -> Option<String> {
    match Way::of(spec)? {
        Way::Redfish(way) => redfish::controller(&way.address),
        _ => None,
    }
}

/// The driver of a machine whose interfaces have these addresses. Nothing is sent.
pub(crate) fn driver(spec: &PowerSpec, macs: &[String], credentials: &Contents) -> Result<Box<dyn Driver>, Fault> {
    let way = Way::of(spec).ok_or_else(|| Fault::Settings {
        field: "spec.power",
        problem: "it names no way to switch the machine".to_owned(),
    })?;
    way.driver(macs, credentials)
}

fn trust(url: &str, fingerprint: Option<&String>, credentials: &Contents) -> Result<Option<Trust>, Fault> {
    Ok(match (fingerprint, credentials.get(AUTHORITIES)) {
        _ if !url.starts_with("https://") => None,
        (Some(fingerprint), _) => Some(Trust::fingerprint(fingerprint)?),
        (None, Some(authorities)) => Some(Trust::authorities(authorities)?),
        (None, None) => None,
    })
}

fn base(address: &str) -> String {
    address.trim_end_matches('/').to_owned()
}

fn redfish_settings(spec: &RedfishPower, credentials: &Contents) -> Result<redfish::Settings, Fault> {
    Ok(redfish::Settings {
        url: base(&spec.address),
        trust: trust(&spec.address, spec.certificate_sha256.as_ref(), credentials)?,
        user: text(credentials, USERNAME)?,
        password: SecretString::from(text(credentials, PASSWORD)?),
        system: spec.system.clone(),
    })
}

fn ipmi_settings(spec: &IpmiPower, credentials: &Contents) -> Result<ipmi::Settings, Fault> {
    Ok(ipmi::Settings {
        host: spec.host.clone(),
        port: spec.port,
        user: text(credentials, USERNAME)?,
        password: SecretString::from(text(credentials, PASSWORD)?),
        own_key: None,
        privilege: match spec.privilege {
            IpmiPrivilege::Operator => ipmi::handshake::Privilege::Operator,
            IpmiPrivilege::Administrator => ipmi::handshake::Privilege::Administrator,
        },
        suite: Some(match spec.cipher_suite {
            CipherSuite::Suite3 => ipmi::suite::CipherSuite::Three,
            CipherSuite::Suite17 => ipmi::suite::CipherSuite::Seventeen,
        }),
    })
}

fn amt_settings(spec: &AmtPower, credentials: &Contents) -> Result<amt::Settings, Fault> {
    Ok(amt::Settings {
        url: base(&spec.address),
        trust: trust(&spec.address, spec.certificate_sha256.as_ref(), credentials)?,
        user: text(credentials, USERNAME)?,
        password: SecretString::from(text(credentials, PASSWORD)?),
    })
}

fn webhook_settings(spec: &WebhookPower, credentials: &Contents) -> Result<webhook::Settings, Fault> {
    Ok(webhook::Settings {
        url: spec.url.clone(),
        trust: trust(&spec.url, spec.certificate_sha256.as_ref(), credentials)?,
        key: webhook::Settings::key(&text(credentials, KEY)?)?,
        machine: spec.machine.clone(),
        capabilities: promised(&spec.calls),
    })
}

fn shelly(spec: &ShellyPower, credentials: &Contents) -> Result<Shelly, Fault> {
    let password = spec.credentials.is_some().then(|| text(credentials, PASSWORD)).transpose()?;
    let trust = trust(&spec.address, None, credentials)?;
    Shelly::new(&base(&spec.address), trust.as_ref(), password.map(SecretString::from), spec.switch)
}

fn tasmota(spec: &TasmotaPower, credentials: &Contents) -> Result<Tasmota, Fault> {
    let password = spec.credentials.is_some().then(|| text(credentials, PASSWORD)).transpose()?;
    let trust = trust(&spec.address, None, credentials)?;
    Tasmota::new(&base(&spec.address), trust.as_ref(), password.map(SecretString::from), spec.relay)
}

fn pdu_settings(spec: &PduPower, credentials: &Contents) -> Result<pdu::Settings, Fault> {
    let access = if credentials.get(COMMUNITY).is_some() {
        pdu::Access::Community(SecretString::from(text(credentials, COMMUNITY)?))
    } else {
        pdu::Access::User {
            name: text(credentials, USERNAME)?,
            authentication: match spec.authentication {
                SnmpAuthentication::Sha1 => pdu::Authentication::Sha1,
                SnmpAuthentication::Sha256 => pdu::Authentication::Sha256,
            },
            password: SecretString::from(text(credentials, PASSWORD)?),
            privacy: SecretString::from(text(credentials, PRIVACY)?),
        }
    };
    Ok(pdu::Settings {
        host: spec.host.clone(),
        port: spec.port,
        access,
        cells: cells(spec)?,
    })
}

/// The outlet of a make that is known, or as somebody wrote it down.
fn cells(spec: &PduPower) -> Result<Cells, Fault> {
    match (spec.make, spec.outlet, &spec.cells) {
        (Some(make), Some(outlet), None) => {
            let name = match make {
                PduMake::ApcMasterSwitch => "apcMasterSwitch",
                PduMake::ApcRackPdu => "apcRackPdu",
                PduMake::ApcRackPdu2 => "apcRackPdu2",
                PduMake::Raritan => "raritan",
            };
            let make = pdu::makes::Make::named(name).ok_or_else(|| Fault::Settings {
                field: "pdu.make",
                problem: format!("{name} is not known here"),
            })?;
            Ok(make.cells(spec.unit, outlet))
        }
        (None, None, Some(cells)) => Ok(by_hand(cells)),
        // The definition refuses that.
        _ => Err(Fault::Settings {
            field: "pdu",
            problem: "name a make and an outlet, or cells".to_owned(),
        }),
    }
}

fn by_hand(spec: &OutletCells) -> Cells {
    Cells {
        command: spec.command.clone(),
        on: spec.on,
        off: spec.off,
        cycle: spec.cycle,
        state: spec.state.clone(),
        shows_on: spec.shows_on,
        shows_off: spec.shows_off,
        power: spec.watts.clone().map(|value| Power { value, digits: None }),
    }
}

fn libvirt_settings(spec: &LibvirtPower, credentials: &Contents) -> Result<libvirt::Settings, Fault> {
    let address = match (&spec.socket, &spec.host) {
        (Some(socket), _) => libvirt::Address::Unix(socket.into()),
        (None, host) => libvirt::Address::Tls {
            host: host.clone().unwrap_or_default(),
            port: spec.port,
            trust: Trust::authorities(text(credentials, AUTHORITIES)?.as_bytes())?,
            identity: Identity::new(
                text(credentials, CERTIFICATE)?.as_bytes(),
                text(credentials, CERTIFICATE_KEY)?.as_bytes(),
            )?,
        },
    };
    Ok(libvirt::Settings {
        address,
        uri: spec.uri.clone(),
        domain: spec.domain.clone(),
    })
}

fn proxmox_settings(spec: &ProxmoxPower, credentials: &Contents) -> Result<proxmox::Settings, Fault> {
    Ok(proxmox::Settings {
        url: base(&spec.address),
        trust: trust(&spec.address, spec.certificate_sha256.as_ref(), credentials)?,
        token: spec.token.clone(),
        secret: SecretString::from(text(credentials, TOKEN)?),
        node: spec.node.clone(),
        machine: spec.machine,
    })
}

fn home_assistant(spec: &HomeAssistantPower, credentials: &Contents) -> Result<HomeAssistant, Fault> {
    let trust = trust(&spec.address, spec.certificate_sha256.as_ref(), credentials)?;
    let token = SecretString::from(text(credentials, TOKEN)?);
    HomeAssistant::new(&base(&spec.address), trust.as_ref(), token, spec.entity.clone(), spec.meter.clone())
}

fn load(spec: &PlugLoad) -> Load {
    Load {
        rest: std::time::Duration::from_secs(spec.rest_seconds.into()),
        running_watts: spec.running_watts.map(f64::from),
    }
}

fn wake_settings(spec: &WakeOnLanPower, macs: &[String], credentials: &Contents) -> Result<wake::Settings, Fault> {
    let password = spec.credentials.is_some().then(|| text(credentials, PASSWORD)).transpose()?;
    Ok(wake::Settings {
        macs: macs.iter().map(|mac| wake::Mac::parse(mac)).collect::<Result<_, _>>()?,
        to: spec.to.iter().map(|to| broadcast(to)).collect::<Result<_, _>>()?,
        password: password.map(|password| secure_on(&password)).transpose()?,
    })
}

/// An address with a port, or the usual port.
fn broadcast(text: &str) -> Result<SocketAddr, Fault> {
    let alone = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, wake::PORT));
    text.parse().or_else(|_| alone()).map_err(|_| Fault::Settings {
        field: "wakeOnLan.to",
        problem: format!("{text:?} is no address: write the broadcast address of the machine's network, as 192.0.2.255 or 192.0.2.255:9"),
    })
}

/// The bytes of a SecureOn password.
fn secure_on(text: &str) -> Result<SecretSlice<u8>, Fault> {
    let bytes = hex::decode(text.trim().replace([':', '-'], ""));
    bytes.map(SecretSlice::from).map_err(|_| Fault::Settings {
        field: PASSWORD,
        problem: "a SecureOn password is written in hexadecimal, as 01:23:45:67:89:ab".to_owned(),
    })
}

fn text(credentials: &Contents, key: &'static str) -> Result<String, Fault> {
    let value = credentials.get(key).ok_or_else(|| Fault::Settings {
        field: key,
        problem: format!("the Secret that spec.power names has no key {key}: add it"),
    })?;
    String::from_utf8(value.to_vec()).map_err(|_| Fault::Settings {
        field: key,
        problem: "it is no UTF-8 text".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spec as people write it.
    fn spec(text: serde_json::Value) -> PowerSpec {
        serde_json::from_value(text).expect("a spec")
    }

    fn ipmi() -> PowerSpec {
        spec(serde_json::json!({"ipmi": {"host": "192.0.2.7", "credentials": {"name": "bmc-rack-1"}}}))
    }

    #[test]
    fn a_driver_is_made_of_spec_and_secret_and_says_what_is_missing() {
        assert_eq!(secret(&ipmi()), Some("bmc-rack-1"));
        let whole = Contents::of([("username", "admin"), ("password", "hunter2")]);
        let driver = driver(&ipmi(), &[], &whole).unwrap();
        assert_eq!(driver.controller(), "192.0.2.7:623");
        assert!(!format!("{driver:?}").contains("hunter2"));
        let fault = super::driver(&ipmi(), &[], &Contents::of([("username", "admin")])).unwrap_err();
        assert!(fault.to_string().starts_with("password: "), "{fault}");
    }

    #[test]
    fn what_a_machine_can_is_what_its_driver_declares() {
        let all = Can {
            boot_agent: true,
            medium: false,
            on: true,
            shut_down: true,
            off: true,
        };
        assert_eq!(can(&ipmi()), Some(all));
        assert_eq!(can(&PowerSpec::default()), None);
        assert_eq!(can(&spec(serde_json::json!({"manual": {}}))), None);
        let wake = can(&spec(serde_json::json!({"wakeOnLan": {}})));
        assert_eq!(
            wake,
            Some(Can {
                on: true,
                ..Can::default()
            })
        );
        let service = serde_json::json!({"webhook": {"url": "https://pdu.example/power", "machine": "r1-7", "credentials": {"name": "k"}, "calls": ["On", "Off"]}});
        let service = can(&spec(service));
        assert_eq!(
            service,
            Some(Can {
                on: true,
                off: true,
                ..Can::default()
            })
        );
    }

    #[test]
    fn a_machine_with_a_medium_can_be_booted_before_it_was_ever_seen() {
        let media = serde_json::json!({"server": "http://10.77.0.2:8080/", "mac": "52:54:00:12:34:56", "address": "10.77.0.50/24"});
        let mut redfish = serde_json::json!({"redfish": {"address": "https://192.0.2.7", "credentials": {"name": "bmc"}}});
        assert!(!can(&spec(redfish.clone())).unwrap().medium);
        redfish["redfish"]["virtualMedia"] = media;
        let spec = spec(redfish);
        assert!(can(&spec).unwrap().medium);
        let media = spec.virtual_media().unwrap();
        assert_eq!(media.url("rack1-u12", "3-0a"), "http://10.77.0.2:8080/boot/iso/rack1-u12/3-0a.iso");
        assert!(media.fixed().is_ok());
    }

    #[test]
    fn every_way_makes_the_driver_of_its_kind() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let contents = Contents::of([
            ("username", "u"),
            ("password", "01:23:45:67:89:ab"),
            ("privacy", "privacy-7"),
            ("token", "t"),
            ("key", key),
        ]);
        let secret = serde_json::json!({"name": "s"});
        let ways = [
            (
                "redfish",
                serde_json::json!({"address": "http://192.0.2.7", "insecure": true, "credentials": secret}),
            ),
            ("ipmi", serde_json::json!({"host": "192.0.2.7", "credentials": secret})),
            (
                "webhook",
                serde_json::json!({"url": "http://192.0.2.7/p", "machine": "m", "credentials": secret, "calls": ["On"]}),
            ),
            (
                "amt",
                serde_json::json!({"address": "http://192.0.2.7:16992", "insecure": true, "credentials": secret}),
            ),
            ("shelly", serde_json::json!({"address": "http://192.0.2.7/", "credentials": secret})),
            (
                "tasmota",
                serde_json::json!({"address": "http://192.0.2.7/", "credentials": secret}),
            ),
            (
                "pdu",
                serde_json::json!({"host": "192.0.2.7", "make": "Raritan", "outlet": 7, "credentials": secret}),
            ),
            (
                "libvirt",
                serde_json::json!({"socket": "/run/libvirt/libvirt-sock", "domain": "machine-1"}),
            ),
            (
                "proxmox",
                serde_json::json!({"address": "https://192.0.2.7:8006", "node": "pve", "machine": 100, "token": "u@pve!t", "credentials": secret, "certificateSha256": "ab".repeat(32)}),
            ),
            (
                "homeAssistant",
                serde_json::json!({"address": "http://192.0.2.7:8123", "entity": "switch.pc", "credentials": secret, "insecure": true}),
            ),
            (
                "wakeOnLan",
                serde_json::json!({"to": ["192.0.2.255", "[ff02::1]:7"], "credentials": secret}),
            ),
            ("manual", serde_json::json!({})),
        ];
        let mut made = Vec::new();
        for (name, way) in ways {
            let spec = spec(serde_json::json!({name: way}));
            let driver = driver(&spec, &["52:54:00:12:34:56".to_owned()], &contents).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(driver.kind().name, name);
            made.push(name);
        }
        let mut kinds: Vec<_> = power::KINDS.iter().map(|kind| kind.name).collect();
        kinds.sort_unstable();
        made.sort_unstable();
        assert_eq!(made, kinds, "every driver can be named");
        let fault = driver(
            &spec(serde_json::json!({"wakeOnLan": {"to": ["nowhere"]}})),
            &["52:54:00:12:34:56".to_owned()],
            &contents,
        );
        assert!(fault.unwrap_err().to_string().starts_with("wakeOnLan.to: "));
    }
}
