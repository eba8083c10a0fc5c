//! Bounds on everything a machine sends. A machine is a stranger until it was accepted, and not to be trusted afterwards either.
//!
//! [`parse`] is the only door: size before reading, depth before parsing, then counts and lengths by [`Bounded`].

use serde::de::DeserializeOwned;

use crate::{
    bmc::{Bmc, MAX_CHANNELS, MAX_CIPHER_SUITES, MAX_IPV6},
    bmc_user::BmcUserReport,
    disk::Disk,
    guest::GuestRegistration,
    inventory::{Inventory, Nic},
    link::MAX_MEMBERS,
    order::Report,
    session::SessionRequest,
    share::{MAX_HELD, MAX_PEERS, ShareRequest},
};

/// Largest body of any agent or guest request, in bytes.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Deepest nesting of JSON.
pub const MAX_DEPTH: usize = 32;
/// Longest string.
pub const MAX_STRING: usize = 256;
/// Longest message for people.
pub const MAX_MESSAGE: usize = 2048;
/// Most disks of one machine.
pub const MAX_DISKS: usize = 128;
/// Most NICs of one machine.
pub const MAX_NICS: usize = 64;
/// Most entries of any other list.
pub const MAX_LIST: usize = 256;
/// Most ranges of a written disk that are its own.
pub const MAX_OWN_RANGES: usize = 16;

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Too many bytes.
    #[error("the body has more than {MAX_BODY_BYTES} bytes")]
    Body,
    /// Nested too deeply.
    #[error("the JSON is nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// Not the JSON it should be.
    #[error("the JSON is not valid here: {0}")]
    Json(String),
    /// A field is too long, or holds a control character.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

/// A body with bounds beyond its JSON shape.
pub trait Bounded {
    /// Checks every list and string.
    ///
    /// # Errors
    /// [`LimitError::Field`] that names the first field beyond its bound.
    fn check_bounds(&self) -> Result<(), LimitError>;
}

/// Parses a body within all bounds.
///
/// # Errors
/// [`LimitError`] for a body that is too large, too deep, not of this type, or with a field beyond its bound.
pub fn parse<T: DeserializeOwned + Bounded>(body: &[u8]) -> Result<T, LimitError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(LimitError::Body);
    }
    if depth(body) > MAX_DEPTH {
        return Err(LimitError::Depth);
    }
    let value: T = serde_json::from_slice(body).map_err(|e| LimitError::Json(clip(&e.to_string(), MAX_STRING)))?;
    value.check_bounds()?;
    Ok(value)
}

/// Deepest nesting of brackets outside of strings; reads each byte once and keeps no stack.
pub fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The first `max` characters of a text, for messages that quote what a stranger sent.
pub fn clip(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn refuse<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, LimitError> {
    Err(LimitError::Field {
        field: field.into(),
        problem: problem.into(),
    })
}

fn text_up_to(field: &str, text: &str, max: usize) -> Result<(), LimitError> {
    if text.len() > max {
        return refuse(field, format!("has {} bytes, at most {max} are allowed", text.len()));
    }
    if text.chars().any(char::is_control) {
        return refuse(field, "holds a control character; only printable text is allowed");
    }
    Ok(())
}

fn text(field: &str, value: &str) -> Result<(), LimitError> {
    text_up_to(field, value, MAX_STRING)
}

fn optional(field: &str, value: &Option<String>) -> Result<(), LimitError> {
    value.as_deref().map_or(Ok(()), |v| text(field, v))
}

fn list<T>(field: &str, items: &[T], max: usize, each: impl Fn(&str, &T) -> Result<(), LimitError>) -> Result<(), LimitError> {
    if items.len() > max {
        return refuse(field, format!("has {} entries, at most {max} are allowed", items.len()));
    }
    items
        .iter()
        .enumerate()
        .try_for_each(|(i, item)| each(&format!("{field}[{i}]"), item))
}

fn disk(at: &str, d: &Disk) -> Result<(), LimitError> {
    text(&format!("{at}.name"), &d.name)?;
    text(&format!("{at}.transport"), &d.transport)?;
    identity(at, &d.identity)?;
    contents(&format!("{at}.contents"), &d.contents)
}

fn identity(at: &str, id: &crate::disk::DiskIdentity) -> Result<(), LimitError> {
    for (name, value) in [
        ("wwn", &id.wwn),
        ("serial", &id.serial),
        ("model", &id.model),
        ("byPath", &id.by_path),
    ] {
        optional(&format!("{at}.identity.{name}"), value)?;
    }
    Ok(())
}

fn contents(at: &str, c: &crate::disk::DiskContents) -> Result<(), LimitError> {
    if c.fingerprint.len() != 64 || !c.fingerprint.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return refuse(format!("{at}.fingerprint"), "must be 64 lower-case hexadecimal digits");
    }
    list(&format!("{at}.signatures"), &c.signatures, MAX_LIST, |at, s| {
        text(&format!("{at}.kind"), &s.kind)?;
        optional(&format!("{at}.uuid"), &s.uuid)?;
        optional(&format!("{at}.label"), &s.label)
    })?;
    if let Some(m) = &c.marker {
        for (name, value) in [
            ("instanceUid", &m.instance_uid),
            ("instance", &m.instance),
            ("hardware", &m.hardware),
            ("imageDigest", &m.image_digest),
            ("orderId", &m.order_id),
        ] {
            // namespace/name: two names of at most 253 bytes each
            text_up_to(&format!("{at}.marker.{name}"), value, 512)?;
        }
    }
    Ok(())
}

fn nic(at: &str, n: &Nic) -> Result<(), LimitError> {
    text(&format!("{at}.name"), &n.name)?;
    optional(&format!("{at}.driver"), &n.driver)?;
    optional(&format!("{at}.pci"), &n.pci)?;
    optional(&format!("{at}.switchPort"), &n.switch_port)?;
    list(&format!("{at}.addresses"), &n.addresses, 32, |at, a| text(at, a))
}

fn bmc(b: &Bmc) -> Result<(), LimitError> {
    text("inventory.bmc.interface", &b.interface)?;
    for (name, value) in [
        ("address", &b.address),
        ("systemInterface", &b.system_interface),
        ("firmware", &b.firmware),
        ("ipmiVersion", &b.ipmi_version),
        ("guid", &b.guid),
    ] {
        optional(&format!("inventory.bmc.{name}"), value)?;
    }
    if let Some(problem) = &b.problem {
        text_up_to("inventory.bmc.problem", problem, MAX_MESSAGE)?;
    }
    list("inventory.bmc.channels", &b.channels, MAX_CHANNELS, |at, channel| {
        optional(&format!("{at}.address"), &channel.address)?;
        optional(&format!("{at}.gateway"), &channel.gateway)?;
        list(&format!("{at}.ipv6"), &channel.ipv6, MAX_IPV6, |at, a| text(at, a))?;
        list(&format!("{at}.cipherSuites"), &channel.cipher_suites, MAX_CIPHER_SUITES, |_, _| {
            Ok(())
        })
    })?;
    let Some(redfish) = &b.redfish else { return Ok(()) };
    for (name, value) in [
        ("device", &redfish.device),
        ("address", &redfish.address),
        ("hostname", &redfish.hostname),
        ("serviceUuid", &redfish.service_uuid),
        ("hostAddress", &redfish.host_address),
    ] {
        optional(&format!("inventory.bmc.redfish.{name}"), value)?;
    }
    Ok(())
}

impl Bounded for Inventory {
    fn check_bounds(&self) -> Result<(), LimitError> {
        let s = &self.system;
        for (name, value) in [
            ("vendor", &s.vendor),
            ("product", &s.product),
            ("serial", &s.serial),
            ("boardSerial", &s.board_serial),
            ("assetTag", &s.asset_tag),
            ("bios", &s.bios),
        ] {
            optional(&format!("inventory.system.{name}"), value)?;
        }
        text("inventory.cpu.architecture", &self.cpu.architecture)?;
        optional("inventory.cpu.model", &self.cpu.model)?;
        list("inventory.cpu.flags", &self.cpu.flags, MAX_LIST, |at, f| text(at, f))?;
        list("inventory.memory.dimms", &self.memory.dimms, MAX_LIST, |at, d| {
            text(&format!("{at}.locator"), &d.locator)?;
            optional(&format!("{at}.kind"), &d.kind)?;
            optional(&format!("{at}.serial"), &d.serial)
        })?;
        list("inventory.disks", &self.disks, MAX_DISKS, disk)?;
        list("inventory.nics", &self.nics, MAX_NICS, nic)?;
        if let Some(connection) = &self.connection {
            text("inventory.connection.interface", &connection.interface)?;
            if let Some(problem) = &connection.problem {
                text_up_to("inventory.connection.problem", problem, MAX_MESSAGE)?;
            }
            if let Some(bond) = &connection.bond {
                let members = &bond.members;
                list("inventory.connection.bond.members", members, MAX_MEMBERS, |_, _| Ok(()))?;
                if members.iter().enumerate().any(|(i, mac)| members[..i].contains(mac)) {
                    return refuse("inventory.connection.bond.members", "names a NIC twice");
                }
            }
        }
        list("inventory.pci", &self.pci, MAX_LIST, |at, p| text(at, &p.class))?;
        list("inventory.gpus", &self.gpus, MAX_NICS, |at, g| {
            text(&format!("{at}.address"), &g.address)?;
            text(&format!("{at}.id"), &g.id)?;
            optional(&format!("{at}.driver"), &g.driver)
        })?;
        if let Some(tpm) = &self.tpm {
            text("inventory.tpm.version", &tpm.version)?;
        }
        self.bmc.as_ref().map_or(Ok(()), bmc)
    }
}

impl Bounded for SessionRequest {
    fn check_bounds(&self) -> Result<(), LimitError> {
        text("agentVersion", &self.agent_version)?;
        text_up_to("token", &self.token, crate::token::MAX_TOKEN_BYTES)?;
        text("signingKey", &self.signing_key)?;
        text("sealingKey", &self.sealing_key)?;
        self.inventory.check_bounds()
    }
}

impl Bounded for Report {
    fn check_bounds(&self) -> Result<(), LimitError> {
        text("orderId", &self.order_id)?;
        if self.progress.is_some() == self.result.is_some() {
            return refuse("progress", "exactly one of progress and result must be present");
        }
        let Some(r) = &self.result else { return Ok(()) };
        text("result.orderId", &r.order_id)?;
        if r.order_id != self.order_id {
            return refuse("result.orderId", "must equal orderId");
        }
        if let Some(fault) = &r.fault {
            text_up_to("result.fault.message", &fault.message, MAX_MESSAGE)?;
        }
        if let Some(image) = &r.image {
            text("result.image.orderId", &image.order_id)?;
            text("result.image.digest", &image.digest)?;
            optional("result.image.configDrive", &image.config_drive)?;
            optional("result.image.bootEntry", &image.boot_entry)?;
            list("result.image.ownRanges", &image.own_ranges, MAX_OWN_RANGES, |at, range| {
                if range.last_lba < range.first_lba {
                    return refuse(at, "ends before it begins");
                }
                Ok(())
            })?;
            identity("result.image.disk", &image.disk)?;
        }
        if let Some(erase) = &r.erase {
            text("result.erase.orderId", &erase.order_id)?;
            text("result.erase.claimUid", &erase.claim_uid)?;
            text("result.erase.method", &erase.method)?;
            identity("result.erase.disk", &erase.disk)?;
        }
        r.contents.as_ref().map_or(Ok(()), |c| contents("result.contents", c))
    }
}

impl Bounded for BmcUserReport {
    fn check_bounds(&self) -> Result<(), LimitError> {
        text("id", &self.id)?;
        self.fault
            .as_deref()
            .map_or(Ok(()), |fault| text_up_to("fault", fault, MAX_MESSAGE))
    }
}

impl Bounded for ShareRequest {
    fn check_bounds(&self) -> Result<(), LimitError> {
        text("orderId", &self.order_id)?;
        text_up_to("held", &self.held, MAX_HELD)?;
        text_up_to("wanted", &self.wanted, MAX_HELD)?;
        if self.wrong.len() > MAX_PEERS {
            return refuse(
                "wrong",
                format!("has {} entries, at most {MAX_PEERS} are allowed", self.wrong.len()),
            );
        }
        Ok(())
    }
}

impl Bounded for GuestRegistration {
    fn check_bounds(&self) -> Result<(), LimitError> {
        text_up_to("token", &self.token, crate::token::MAX_TOKEN_BYTES)?;
        text("signingKey", &self.signing_key)?;
        text("hostname", &self.hostname)?;
        text("bootId", &self.boot_id)?;
        optional("toldToLeave", &self.told_to_leave)?;
        list("addresses", &self.addresses, 32, |at, a| text(at, a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn deep_json_is_refused_before_it_is_parsed() {
        let deep = "[".repeat(10_000);
        assert_eq!(parse::<Report>(deep.as_bytes()).unwrap_err(), LimitError::Depth);
        assert_eq!(depth(br#"{"a":"[[[[\"[["}"#), 1, "brackets in strings do not count");
    }

    #[test]
    fn a_report_says_one_thing_and_names_the_field_that_is_wrong() {
        let error = parse::<Report>(br#"{"orderId":"x"}"#).unwrap_err();
        assert!(error.to_string().starts_with("progress:"), "{error}");
        let long = format!(
            r#"{{"orderId":"{}","progress":{{"step":"Writing","doneBytes":1,"totalBytes":2}}}}"#,
            "x".repeat(300)
        );
        assert!(parse::<Report>(long.as_bytes()).unwrap_err().to_string().starts_with("orderId:"));
        let newline = r#"{"orderId":"a\nb","progress":{"step":"Writing","doneBytes":1,"totalBytes":2}}"#;
        assert!(
            parse::<Report>(newline.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("control character")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            parse::<SessionRequest>(&bytes).ok();
            parse::<Report>(&bytes).ok();
            parse::<ShareRequest>(&bytes).ok();
        }
    }
}
