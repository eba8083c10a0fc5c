//! From what a machine's spec says to a driver of the crate `power`.

use api::power::{CipherSuite, IpmiPower, IpmiPrivilege, PowerSpec, RedfishPower};
use lifecycle::power::Can;
use power::{BootDevice, Capabilities, Driver, Fault, ipmi, redfish, tls::Trust};
use secrecy::SecretString;

use crate::secrets::Contents;

/// Keys of a Secret with credentials.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
/// Certificate authorities (PEM) of a Redfish service, where its own certificate is not named.
const AUTHORITIES: &str = "ca.crt";

/// What the driver of a machine declares, before any controller was asked.
pub(crate) fn can(spec: &PowerSpec) -> Can {
    let capabilities = match (&spec.redfish, &spec.ipmi) {
        (Some(_), _) => &redfish::KIND.capabilities,
        (None, Some(_)) => &ipmi::KIND.capabilities,
        (None, None) => &Capabilities::NONE,
    };
    Can {
        boot_agent: capabilities.cycle && capabilities.boot_once.contain(BootDevice::Network),
        on: capabilities.on,
        shut_down: capabilities.off_soft,
        off: capabilities.off_hard,
    }
}

/// Name of the Secret with a machine's credentials, in the operator's namespace.
pub(crate) fn secret(spec: &PowerSpec) -> Option<&str> {
    let named = spec.redfish.as_ref().map(|r| &r.credentials);
    named.or(spec.ipmi.as_ref().map(|i| &i.credentials)).map(|s| s.name.as_str())
}

/// The driver. Nothing is sent.
pub(crate) fn driver(spec: &PowerSpec, credentials: &Contents) -> Result<Box<dyn Driver>, Fault> {
    match (&spec.redfish, &spec.ipmi) {
        (Some(spec), _) => Ok(Box::new(redfish::Redfish::new(redfish_settings(spec, credentials)?)?)),
        (None, Some(spec)) => Ok(Box::new(ipmi::Ipmi::new(ipmi_settings(spec, credentials)?)?)),
        (None, None) => Err(Fault::Settings {
            field: "spec.power",
            problem: "it names no way to switch the machine".to_owned(),
        }),
    }
}

fn redfish_settings(spec: &RedfishPower, credentials: &Contents) -> Result<redfish::Settings, Fault> {
    let trust = match (&spec.certificate_sha256, credentials.get(AUTHORITIES)) {
        (Some(fingerprint), _) => Some(Trust::fingerprint(fingerprint)?),
        (None, Some(authorities)) => Some(Trust::authorities(authorities)?),
        (None, None) => None,
    };
    Ok(redfish::Settings {
        url: spec.address.trim_end_matches('/').to_owned(),
        trust,
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

fn text(credentials: &Contents, key: &'static str) -> Result<String, Fault> {
    let value = credentials.get(key).ok_or_else(|| Fault::Settings {
        field: key,
        problem: "the Secret that spec.power names has no such key: it needs username and password".to_owned(),
    })?;
    String::from_utf8(value.to_vec()).map_err(|_| Fault::Settings {
        field: key,
        problem: "it is no UTF-8 text".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use api::common::LocalSecretName;

    use super::*;

    fn ipmi() -> PowerSpec {
        PowerSpec {
            ipmi: Some(IpmiPower {
                host: "192.0.2.7".to_owned(),
                port: 623,
                credentials: LocalSecretName {
                    name: "bmc-rack-1".to_owned(),
                },
                cipher_suite: CipherSuite::default(),
                privilege: IpmiPrivilege::default(),
            }),
            redfish: None,
        }
    }

    #[test]
    fn a_driver_is_made_of_spec_and_secret_and_says_what_is_missing() {
        assert_eq!(secret(&ipmi()), Some("bmc-rack-1"));
        let whole = Contents::of([("username", "admin"), ("password", "hunter2")]);
        let driver = driver(&ipmi(), &whole).unwrap();
        assert_eq!(driver.controller(), "192.0.2.7:623");
        assert!(!format!("{driver:?}").contains("hunter2"));
        let fault = super::driver(&ipmi(), &Contents::of([("username", "admin")])).unwrap_err();
        assert!(fault.to_string().starts_with("password: "), "{fault}");
    }

    #[test]
    fn what_a_machine_can_is_what_its_driver_declares() {
        let all = Can {
            boot_agent: true,
            on: true,
            shut_down: true,
            off: true,
        };
        assert_eq!(can(&ipmi()), all);
        assert_eq!(can(&PowerSpec::default()), Can::default());
    }
}
