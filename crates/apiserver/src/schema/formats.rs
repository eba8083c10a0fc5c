//! The string formats Kubernetes checks. Any other format name is documentation and accepts every string, as in
//! the real server.

use super::regexp::GoRegex;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

macro_rules! pattern {
    ($name:ident, $source:expr) => {
        static $name: LazyLock<Option<GoRegex>> = LazyLock::new(|| GoRegex::new($source).ok());
    };
}

pattern!(LETTER_OR_SYMBOL, r"^[\p{S}\p{L}]$");
pattern!(LETTER, r"^\p{L}$");
pattern!(UUID, r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
pattern!(UUID3, r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$");
pattern!(
    UUID4,
    r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"
);
pattern!(
    UUID5,
    r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"
);
pattern!(
    CREDIT_CARD,
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$"
);
pattern!(SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$");
pattern!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
pattern!(
    RGB_COLOR,
    r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
);
pattern!(
    BASE64,
    r"^(?:[A-Za-z0-9+\/]{4})*(?:[A-Za-z0-9+\/]{2}==|[A-Za-z0-9+\/]{3}=|[A-Za-z0-9+\/]{4})$"
);
pattern!(BSON_OBJECT_ID, r"^[0-9a-fA-F]{24}$");
pattern!(SCALA_DURATION, r"((\d+)\s*([A-Za-zµ]+))");

fn matches(pattern: &LazyLock<Option<GoRegex>>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|p| p.is_match(text))
}

/// Whether a string field with this format is checked at all.
pub(crate) fn is_known(format: &str) -> bool {
    check(format, "").is_some()
}

/// Checks `text`; `None` when the format is not one that is checked.
pub(crate) fn check(format: &str, text: &str) -> Option<bool> {
    let name = format.replace('-', "");
    Some(match name.as_str() {
        "bsonobjectid" => matches(&BSON_OBJECT_ID, text),
        "uri" => is_request_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.contains('.') && (sloppy_ipv4(text).is_some() || text.parse::<Ipv6Addr>().is_ok()),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => matches(&UUID, text),
        "uuid3" => matches(&UUID3, text),
        "uuid4" => matches(&UUID4, text),
        "uuid5" => matches(&UUID5, text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => matches(&SSN, text),
        "hexcolor" => matches(&HEX_COLOR, text),
        "rgbcolor" => matches(&RGB_COLOR, text),
        "byte" => matches(&BASE64, text),
        "password" => true,
        "date" => is_date(text),
        "duration" => parse_duration(text).is_some() || is_scala_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => super::names::dns1123_label(text).is_empty(),
        "k8slongname" => super::names::dns1123_subdomain(text).is_empty(),
        _ => return None,
    })
}

/// Dotted quad that tolerates leading zeros, as older Go did.
pub(crate) fn sloppy_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let Ok(bits) = bits.parse::<u16>() else { return false };
    if sloppy_ipv4(address).is_some() {
        bits <= 32
    } else {
        address.parse::<Ipv6Addr>().is_ok() && bits <= 128
    }
}

fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    let bytes = text.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        if *b == b'%' && !(bytes.get(i + 1).is_some_and(u8::is_ascii_hexdigit) && bytes.get(i + 2).is_some_and(u8::is_ascii_hexdigit)) {
            return false;
        }
    }
    if text == "*" || text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let scheme_ok =
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !scheme_ok {
        return false;
    }
    match rest.strip_prefix("//") {
        Some(rest) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
            valid_host(host)
        }
        // An opaque reference needs no host.
        None => true,
    }
}

fn valid_host(host: &str) -> bool {
    let port = if host.starts_with('[') {
        match host.split_once(']') {
            Some((_, rest)) => rest,
            None => return false,
        }
    } else {
        if host.contains(['<', '>', '"', ' ', '{', '}', '|', '\\', '^', '`']) {
            return false;
        }
        match host.rfind(':') {
            Some(at) => &host[at..],
            None => "",
        }
    };
    port.is_empty() || (port.starts_with(':') && port[1..].bytes().all(|b| b.is_ascii_digit()))
}

/// The common subset of RFC 5322 addresses: `local@domain`, optionally with a display name and angle brackets.
fn is_email(text: &str) -> bool {
    let trimmed = text.trim();
    let address = match trimmed.strip_suffix('>') {
        Some(rest) => match rest.rsplit_once('<') {
            Some((_, address)) => address,
            None => return false,
        },
        None => trimmed,
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let atext = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    let dot_atom = |s: &str| !s.is_empty() && s.split('.').all(|p| !p.is_empty() && p.chars().all(atext));
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (dot_atom(local) || quoted) && (dot_atom(domain) || literal)
}

/// A host name: one label, or several of which the last is letters only. Letters and symbols of any script count.
fn is_hostname(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches(&LETTER_OR_SYMBOL, c.encode_utf8(&mut [0; 4]));
    let letter = |c: char| c.is_ascii_alphabetic() || matches(&LETTER, c.encode_utf8(&mut [0; 4]));
    if text.is_empty() || text.len() > 255 || !text.split('.').all(|p| p.len() <= 63) {
        return false;
    }
    let Some((labels, last)) = text.rsplit_once('.') else {
        // A single label may have one dash, after its first character.
        let mut chars = text.chars();
        let first = chars.next().is_some_and(word);
        let rest = chars.as_str();
        return first && rest.strip_prefix('-').unwrap_or(rest).chars().all(word);
    };
    let label = |l: &str| l.starts_with(word) && l.ends_with(word) && l.chars().all(|c| c == '-' || word(c));
    last.chars().count() >= 2 && last.chars().all(letter) && labels.split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    if text.contains('.') {
        let parts: Vec<&str> = text.split('.').collect();
        return matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|p| hex(p, 4));
    }
    let separator = if text.contains(':') { ':' } else { '-' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|p| hex(p, 2))
}

fn digits_only(text: &str) -> String {
    text.chars().filter(|c| *c != ' ' && *c != '-').collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = digits_only(text);
    let bytes = digits.as_bytes();
    if bytes.len() != 10 || !bytes[..9].iter().all(u8::is_ascii_digit) || !(bytes[9].is_ascii_digit() || bytes[9] == b'X') {
        return false;
    }
    let value = |b: u8| if b == b'X' { 10 } else { u32::from(b - b'0') };
    let sum: u32 = (1u32..).zip(bytes).map(|(i, b)| i * value(*b)).sum();
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits_only(text);
    let bytes = digits.as_bytes();
    if bytes.len() != 13 || !bytes.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(i, b)| u32::from(b - b'0') * if i % 2 == 0 { 1 } else { 3 })
        .sum();
    sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !matches(&CREDIT_CARD, &digits) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let d = u32::from(b - b'0');
            if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { d }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_date(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() == 10 && b[4] == b'-' && b[7] == b'-' && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    if text.len() < 4 {
        return false;
    }
    let lower = text.to_lowercase();
    let Some((date, time)) = lower.split_once('t') else { return false };
    if !is_date(date) {
        return false;
    }
    static TIME: LazyLock<Option<GoRegex>> =
        LazyLock::new(|| GoRegex::new(r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$").ok());
    if !matches(&TIME, time) {
        return false;
    }
    let two = |at: usize| time.get(at..at + 2).and_then(|s| s.parse::<u32>().ok()).unwrap_or(99);
    two(0) <= 23 && two(3) <= 59 && two(6) <= 59
}

fn is_scala_duration(text: &str) -> bool {
    let Some(regex) = SCALA_DURATION.as_ref() else { return false };
    let mut found = false;
    for capture in regex.inner().captures_iter(text) {
        let unit = capture.get(3).map_or("", |m| m.as_str()).to_lowercase();
        const UNITS: [&str; 17] = [
            "ns", "nano", "us", "µs", "micro", "ms", "milli", "s", "sec", "m", "min", "h", "hr", "hour", "d", "w", "week",
        ];
        let known = unit == "wk" || UNITS.iter().any(|k| unit.starts_with(k));
        if !known {
            return false;
        }
        found = true;
    }
    found
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let unit_end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * scale;
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let digits: i128 = fraction.parse().ok()?;
            total += digits * scale / 10i128.pow(u32::try_from(fraction.len()).ok()?);
        }
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11:22:33:44"),
            ("uuid", "03000200-0400-0500-0006-000700080009", "0300"),
            ("date-time", "2026-11-22T10:00:00Z", "2026-11-22 10:00"),
            ("date", "2026-11-22", "2026-13-22"),
            ("duration", "1h30m", "1x"),
            ("duration", "22 ns", ""),
            ("byte", "aGVsbG8=", "not base64!"),
            ("uri", "https://example.com/x", "nope"),
            ("uri", "/path", "http://a b/"),
            ("email", "a@example.com", "a"),
            ("hostname", "node-1.example.com", "-bad-"),
            ("hostname", "localhost", "a..b"),
            ("isbn10", "0321751043", "0321751044"),
            ("k8s-short-name", "abc", "Abc"),
        ] {
            assert_eq!(check(format, good), Some(true), "{format} {good}");
            assert_eq!(check(format, bad), Some(false), "{format} {bad}");
        }
        assert_eq!(check("int-or-string", "x"), None);
    }

    #[test]
    fn durations_parse_as_in_go() {
        for (text, want) in [
            ("1h", Some(3_600_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("-1ms", Some(-1_000_000)),
            ("1", None),
            ("0", Some(0)),
            ("1h1", None),
        ] {
            assert_eq!(parse_duration(text), want, "{text}");
        }
    }
}
