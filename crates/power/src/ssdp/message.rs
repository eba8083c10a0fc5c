//! Messages of SSDP: the question, and what an answer says. Pure.
//!
//! A message is the head of an HTTP message in a datagram (UPnP Device Architecture 1.1, section 1.3; DSP0266, "Discovery"). An answer is anybody's: it is bounded, and read for four things
//! only.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

/// What is asked for: Redfish services (DSP0266, "Discovery").
pub const TARGET: &str = "urn:dmtf-org:service:redfish-rest:1";
/// The largest answer, in bytes.
pub const LARGEST: usize = 2048;
/// The longest URL in an answer, in bytes.
const LONGEST_URL: usize = 512;
/// The most characters that are shown of what an answer says.
const SHOWN: usize = 128;

/// Why an answer is not believed, for people. What it quotes is printed harmlessly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// More than [`LARGEST`].
    #[error("its answer is larger than {LARGEST} bytes")]
    TooLarge,
    /// It is no answer to a search.
    #[error("its answer is none that SSDP knows")]
    Garbage,
    /// It answers for something else than Redfish.
    #[error("it answers for {0}, not for Redfish")]
    OtherTarget(String),
    /// It does not say who it is.
    #[error("it does not say its UUID (USN), but {0}")]
    Nobody(String),
    /// It does not say where its service is.
    #[error("it says no URL of http or https for its service (AL), but {0}")]
    Nowhere(String),
    /// It points at somebody else.
    #[error("it points at {0}, which is not where the answer came from")]
    Elsewhere(String),
    /// Another answer with this UUID came before.
    #[error("its UUID {uuid} is also that of {first}; it says that it is at {second}")]
    Double {
        /// The UUID.
        uuid: String,
        /// Where the first one is.
        first: String,
        /// Where this one says that it is.
        second: String,
    },
}

/// An answer that may be believed so far: it leads to nobody but who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The service's UUID, in small letters, with hyphens.
    pub uuid: String,
    /// The service's base URL: scheme, address, and the port where it is not the usual one.
    pub address: String,
}

/// Text of somebody else, for people: what is not plain is written as an escape, and it is shortened.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(SHOWN) {
        match c {
            '\'' | '"' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}

/// The question. Who has an answer sends it after a random time of at most `seconds`.
#[must_use]
pub fn search(to: SocketAddr, seconds: u8) -> String {
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {to}\r\nMAN: \"ssdp:discover\"\r\nMX: {seconds}\r\nST: {TARGET}\r\n\r\n")
}

/// Whether this is [`TARGET`], with a minor version of Redfish or without.
fn is_target(text: &str) -> bool {
    text.strip_prefix(TARGET).is_some_and(|rest| {
        let minor = rest.strip_prefix(':').unwrap_or("0");
        !minor.is_empty()
            && minor.len() <= 5
            && minor.bytes().all(|byte| byte.is_ascii_digit())
            && (rest.is_empty() || rest.starts_with(':'))
    })
}

/// A UUID (RFC 9562, section 4), in small letters.
fn uuid(text: &str) -> Option<String> {
    let well = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    well.then(|| text.to_ascii_lowercase())
}

/// The base URL of what a URL leads to, if that is at this address.
fn base(text: &str, from: IpAddr) -> Result<String, Refusal> {
    let text = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text);
    let nowhere = || Refusal::Nowhere(shown(text));
    if text.len() > LONGEST_URL {
        return Err(nowhere());
    }
    let url = Url::parse(text).map_err(|_| nowhere())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none() && url.port() != Some(0);
    let host = url.host_str().filter(|_| plain).ok_or_else(nowhere)?;
    // A name is nobody's address: whoever answers for the name decides where it leads.
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if bare.parse() != Ok(from) {
        return Err(Refusal::Elsewhere(shown(text)));
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{}://{host}{port}", url.scheme()))
}

/// Reads an answer that came from an address.
///
/// # Errors
/// [`Refusal`]: it is not to be believed.
pub fn read(from: IpAddr, datagram: &[u8]) -> Result<Answer, Refusal> {
    if datagram.len() > LARGEST {
        return Err(Refusal::TooLarge);
    }
    let text = std::str::from_utf8(datagram).map_err(|_| Refusal::Garbage)?;
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split_ascii_whitespace();
    if !matches!((first.next(), first.next()), (Some("HTTP/1.1" | "HTTP/1.0"), Some("200"))) {
        return Err(Refusal::Garbage);
    }
    // Of what is there twice, the first counts.
    let headers: Vec<_> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .collect();
    let header = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim()).unwrap_or_default()
    };
    let target = header("ST");
    if !is_target(target) {
        return Err(Refusal::OtherTarget(shown(target)));
    }
    let name = header("USN");
    let who = name.strip_prefix("uuid:").and_then(|rest| uuid(rest.split("::").next()?));
    let uuid = who.ok_or_else(|| Refusal::Nobody(shown(name)))?;
    let at = match header("AL") {
        "" => header("LOCATION"),
        at => at,
    };
    Ok(Answer {
        uuid,
        address: base(at, from)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "6b6d6273-696d-4000-8000-00000000ffff";
    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn answer(target: &str, name: &str, at: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nCACHE-CONTROL:max-age=1800\r\nST:{target}\r\nUSN:{name}\r\nAL:{at}\r\nEXT:\r\n\r\n")
    }

    fn at(url: &str) -> Result<String, Refusal> {
        read(FROM, answer(TARGET, &format!("uuid:{UUID}::{TARGET}"), url).as_bytes()).map(|answer| answer.address)
    }

    #[test]
    fn the_question_is_that_of_upnp() {
        let question = search("239.255.255.250:1900".parse().expect("an address"), 2);
        assert_eq!(
            question,
            "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\nST: urn:dmtf-org:service:redfish-rest:1\r\n\r\n"
        );
    }

    #[test]
    fn answers_are_read_in_the_forms_that_services_have() {
        let wanted = Answer {
            uuid: UUID.to_owned(),
            address: "https://192.0.2.7".to_owned(),
        };
        let own = format!("uuid:{UUID}::{TARGET}");
        // As DSP0266 has it; with a minor version; as HTTP is written elsewhere.
        let minor = format!("{TARGET}:6");
        for text in [
            answer(TARGET, &own, "https://192.0.2.7/redfish/v1"),
            answer(
                &minor,
                &format!("uuid:{}::{minor}", UUID.to_uppercase()),
                "https://192.0.2.7:443/redfish/v1/",
            ),
            format!("HTTP/1.0 200 OK\nst : {TARGET}\nusn: uuid:{UUID}\nlocation: <https://192.0.2.7/redfish/v1/>\n"),
        ] {
            assert_eq!(read(FROM, text.as_bytes()), Ok(wanted.clone()), "{text}");
        }
        assert_eq!(at("http://192.0.2.7:8000/redfish/v1/"), Ok("http://192.0.2.7:8000".to_owned()));
        let six = "2001:db8::7".parse().expect("an address");
        let read = read(six, answer(TARGET, &own, "https://[2001:db8::7]:8443/redfish/v1").as_bytes());
        assert_eq!(read.map(|answer| answer.address), Ok("https://[2001:db8::7]:8443".to_owned()));
    }

    #[test]
    fn only_its_own_address_counts() {
        for elsewhere in [
            "https://192.0.2.8/redfish/v1",
            "https://127.0.0.1/redfish/v1",
            "https://bmc.example/redfish/v1",
            "https://[::ffff:192.0.2.7]/redfish/v1",
            "https://192.0.2.7.example/redfish/v1",
        ] {
            assert_eq!(at(elsewhere), Err(Refusal::Elsewhere(elsewhere.to_owned())));
        }
        for nowhere in [
            "",
            "no URL",
            "ftp://192.0.2.7/",
            "file:///etc/passwd",
            "https://192.0.2.8@192.0.2.7/",
            "http://192.0.2.7:0/",
            "/redfish/v1",
        ] {
            assert_eq!(at(nowhere), Err(Refusal::Nowhere(nowhere.to_owned())));
        }
        assert!(
            matches!(at(&format!("https://192.0.2.7/{}", "a".repeat(LONGEST_URL))), Err(Refusal::Nowhere(text)) if text.chars().count() == SHOWN + 1)
        );
    }

    #[test]
    fn what_is_no_answer_is_refused_and_shown_harmlessly() {
        let own = format!("uuid:{UUID}::{TARGET}");
        let here = "https://192.0.2.7/redfish/v1";
        assert_eq!(read(FROM, b""), Err(Refusal::Garbage));
        assert_eq!(read(FROM, b"\xff\xfe"), Err(Refusal::Garbage));
        assert_eq!(read(FROM, search(SocketAddr::new(FROM, 1900), 1).as_bytes()), Err(Refusal::Garbage));
        assert_eq!(read(FROM, &[b'A'; LARGEST + 1]), Err(Refusal::TooLarge));
        for target in [
            "ssdp:all",
            "urn:dmtf-org:service:redfish-rest:10",
            "urn:dmtf-org:service:redfish-rest:1:",
            "urn:dmtf-org:service:redfish-rest:1:x",
        ] {
            assert_eq!(
                read(FROM, answer(target, &own, here).as_bytes()),
                Err(Refusal::OtherTarget(target.to_owned()))
            );
        }
        for name in ["uuid:nouuid::x", "", &UUID[1..], "uuid:6b6d6273-696d-4000-8000-00000000fffg"] {
            assert_eq!(
                read(FROM, answer(TARGET, name, here).as_bytes()),
                Err(Refusal::Nobody(name.to_owned()))
            );
        }
        let hostile = read(FROM, answer("\u{1b}[2J\u{202e}\\", &own, here).as_bytes()).expect_err("it is refused");
        assert_eq!(hostile.to_string(), r"it answers for \u{1b}[2J\u{202e}\\, not for Redfish");
    }

    fn harmless(text: &str) -> bool {
        text.len() < 16 * SHOWN && !text.chars().any(char::is_control)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..LARGEST + 8)) {
            if let Err(refusal) = read(FROM, &bytes) {
                prop_assert!(harmless(&refusal.to_string()));
            }
        }

        #[test]
        fn whatever_an_answer_says_it_leads_nowhere_else(
            target in prop_oneof![4 => Just(TARGET.to_owned()), 1 => "(urn:dmtf-org:service:redfish-rest:1)?[ -~\u{1b}:0-9]{0,4}"],
            name in prop_oneof![4 => Just(format!("uuid:{UUID}::{TARGET}")), 1 => "(uuid:6b6d6273-696d-4000-8000-00000000ffff)?\\PC{0,12}"],
            at in prop_oneof![
                "https?://([a-z@\\[]{0,3})?192.0.2.[78][:/@?#\\\\.%]?\\PC{0,12}",
                "(https?:/?/?)?(192.0.2.7|[a-z]{0,3})[:/@?#\\\\.%]{0,3}(192.0.2.[78])?\\PC{0,12}",
            ],
            cut in 60usize..600,
        ) {
            let text = answer(&target, &name, &at);
            let bytes = &text.as_bytes()[..text.len().min(cut)];
            match read(FROM, bytes) {
                Err(refusal) => prop_assert!(harmless(&refusal.to_string())),
                Ok(answer) => {
                    prop_assert_eq!(&answer.uuid, UUID);
                    let url = Url::parse(&answer.address).expect("a URL");
                    prop_assert_eq!(url.host_str(), Some("192.0.2.7"));
                    prop_assert_eq!(url.path(), "/");
                }
            }
        }
    }
}
