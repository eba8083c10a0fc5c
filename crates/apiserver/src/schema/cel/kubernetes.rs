//! The Kubernetes libraries of rules: quantity, URL, IP, CIDR, semver and named formats.

use super::super::{formats, gofmt, names};
use super::eval::Fault;
use super::quantity::Quantity;
use super::value::{Url, Val};
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

type Out<'a> = Result<Val<'a>, Fault>;

/// A named format of the format library.
pub(super) fn format_name(name: &str) -> Option<&'static str> {
    const FORMATS: [&str; 15] = [
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime",
        "email",
        "hostname",
    ];
    FORMATS.iter().find(|f| **f == name).copied()
}

pub(super) fn quantity_call<'a>(name: &str, q: &Quantity, args: &[Val<'a>]) -> Out<'a> {
    let made = |q: Quantity| Ok(Val::Quantity(Rc::new(q)));
    match (name, args) {
        ("isGreaterThan", [Val::Quantity(o)]) => Ok(Val::Bool(q.cmp(o) == Ordering::Greater)),
        ("isLessThan", [Val::Quantity(o)]) => Ok(Val::Bool(q.cmp(o) == Ordering::Less)),
        ("compareTo", [Val::Quantity(o)]) => Ok(Val::Int(q.cmp(o) as i64)),
        ("sign", []) => Ok(Val::Int(q.sign())),
        ("isInteger", []) => Ok(Val::Bool(q.as_int().is_some())),
        ("asInteger", []) => q
            .as_int()
            .map_or_else(|| Fault::new("cannot convert value to integer"), |i| Ok(Val::Int(i))),
        ("asApproximateFloat", []) => Ok(Val::Double(q.as_float())),
        ("add", [Val::Quantity(o)]) => made(q.add(o)),
        ("add", [Val::Int(i)]) => made(q.add(&Quantity::from_int(*i))),
        ("sub", [Val::Quantity(o)]) => made(q.sub(o)),
        ("sub", [Val::Int(i)]) => made(q.sub(&Quantity::from_int(*i))),
        _ => Fault::overload(),
    }
}

pub(super) fn parse_url(text: &str) -> Option<Url> {
    if formats::check("uri", text) != Some(true) {
        return None;
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None if text.starts_with('/') => {
            let (path, query) = text.split_once('?').unwrap_or((text, ""));
            return Some(Url {
                scheme: String::new(),
                host: String::new(),
                path: path.into(),
                query: query.into(),
                text: text.into(),
            });
        }
        None => {
            let (scheme, _) = text.split_once(':')?;
            return Some(Url {
                scheme: scheme.to_ascii_lowercase(),
                host: String::new(),
                path: String::new(),
                query: String::new(),
                text: text.into(),
            });
        }
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    Some(Url {
        scheme,
        host: host.into(),
        path: path.into(),
        query: query.into(),
        text: text.into(),
    })
}

pub(super) fn url_call<'a>(name: &str, url: &Url, args: &[Val<'a>]) -> Out<'a> {
    if !args.is_empty() {
        return Fault::overload();
    }
    let port_at = match url.host.rfind(']') {
        Some(end) => url.host[end..].find(':').map(|i| end + i),
        None => url.host.rfind(':'),
    };
    match name {
        "getScheme" => Ok(Val::str(url.scheme.clone())),
        "getHost" => Ok(Val::str(url.host.clone())),
        "getHostname" => Ok(Val::str(
            port_at.map_or(url.host.as_str(), |i| &url.host[..i]).trim_matches(['[', ']']),
        )),
        "getPort" => Ok(Val::str(port_at.map_or("", |i| &url.host[i + 1..]))),
        "getEscapedPath" => Ok(Val::str(url.path.clone())),
        "getQuery" => {
            let mut out: Vec<(Val<'a>, Vec<Val<'a>>)> = Vec::new();
            for pair in url.query.split('&').filter(|p| !p.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let (key, value) = (Val::str(unescape_query(key)), Val::str(unescape_query(value)));
                match out.iter_mut().find(|(k, _)| k.equal(&key)) {
                    Some((_, values)) => values.push(value),
                    None => out.push((key, vec![value])),
                }
            }
            Ok(Val::Map(Rc::new(out.into_iter().map(|(k, v)| (k, Val::list(v))).collect())))
        }
        _ => Fault::overload(),
    }
}

fn unescape_query(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn parse_ip(text: &str) -> Result<IpAddr, Fault> {
    let quoted = gofmt::quote(text);
    if text.contains('%') {
        return Err(Fault::Error(format!("IP address {quoted} with zone value is not allowed")));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(Fault::Error(format!("IPv4-mapped IPv6 address {quoted} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(Fault::Error(format!(
            "IP Address {quoted} parse error during conversion from string: ParseAddr({quoted}): unable to parse IP"
        ))),
    }
}

pub(super) fn parse_cidr(text: &str) -> Result<(IpAddr, u8), Fault> {
    let bad = || {
        Fault::Error(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({}): no '/'",
            gofmt::quote(text)
        ))
    };
    let (address, bits) = text.split_once('/').ok_or_else(bad)?;
    let address = parse_ip(address).map_err(|_| bad())?;
    let digits_ok = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
    let bits: u8 = if digits_ok {
        bits.parse().map_err(|_| bad())?
    } else {
        return Err(bad());
    };
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(bad());
    }
    Ok((address, bits))
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

pub(super) fn ip_call<'a>(name: &str, ip: IpAddr, args: &[Val<'a>]) -> Out<'a> {
    if !args.is_empty() {
        return Fault::overload();
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_local_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local),
        "isGlobalUnicast" => Val::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast)),
        _ => return Fault::overload(),
    })
}

pub(super) fn cidr_call<'a>(name: &str, address: IpAddr, bits: u8, args: &[Val<'a>]) -> Out<'a> {
    let within = |ip: IpAddr| ip.is_ipv4() == address.is_ipv4() && mask(ip, bits) == mask(address, bits);
    match (name, args) {
        ("containsIP", [Val::Ip(ip)]) => Ok(Val::Bool(within(*ip))),
        ("containsIP", [Val::Str(s)]) => parse_ip(s).map(|ip| Val::Bool(within(ip))),
        ("containsCIDR", [Val::Cidr(other, n)]) => Ok(Val::Bool(*n >= bits && within(*other))),
        ("containsCIDR", [Val::Str(s)]) => parse_cidr(s).map(|(other, n)| Val::Bool(n >= bits && within(other))),
        ("ip", []) => Ok(Val::Ip(address)),
        ("prefixLength", []) => Ok(Val::Int(i64::from(bits))),
        ("masked", []) => Ok(Val::Cidr(mask(address, bits), bits)),
        _ => Fault::overload(),
    }
}

pub(super) fn parse_semver(text: &str) -> Option<[u64; 3]> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.');
    let mut out = [0; 3];
    for slot in &mut out {
        let part = parts.next()?;
        if part.len() > 1 && part.starts_with('0') || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

pub(super) fn parse_semver_loose(text: &str, loose: bool) -> Option<[u64; 3]> {
    if !loose {
        return parse_semver(text);
    }
    let text = text.strip_prefix('v').unwrap_or(text);
    let core = text.split(['-', '+']).next()?;
    let mut numbers: Vec<String> = core
        .split('.')
        .map(|p| p.parse::<u64>().ok().map(|n| n.to_string()))
        .collect::<Option<_>>()?;
    while numbers.len() < 3 {
        numbers.push("0".into());
    }
    parse_semver(&numbers.join("."))
}

pub(super) fn semver_call<'a>(name: &str, v: [u64; 3], args: &[Val<'a>]) -> Out<'a> {
    let part = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (name, args) {
        ("isGreaterThan", [Val::Semver(o)]) => Ok(Val::Bool(v > *o)),
        ("isLessThan", [Val::Semver(o)]) => Ok(Val::Bool(v < *o)),
        ("compareTo", [Val::Semver(o)]) => Ok(Val::Int(v.cmp(o) as i64)),
        ("major", []) => part(v[0]),
        ("minor", []) => part(v[1]),
        ("patch", []) => part(v[2]),
        _ => Fault::overload(),
    }
}

pub(super) fn format_complaints(format: &str, text: &str) -> Vec<String> {
    let prefix = |check: fn(&str) -> Vec<String>| match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => check(&format!("{rest}a")),
        _ => check(text),
    };
    let simple = |name: &str| {
        if formats::check(name, text) == Some(true) {
            Vec::new()
        } else {
            vec![format!("invalid {name}")]
        }
    };
    match format {
        "dns1123Label" => names::dns1123_label(text),
        "dns1123Subdomain" => names::dns1123_subdomain(text),
        "dns1035Label" => names::dns1035_label(text),
        "dns1123LabelPrefix" => prefix(names::dns1123_label),
        "dns1123SubdomainPrefix" => prefix(names::dns1123_subdomain),
        "dns1035LabelPrefix" => prefix(names::dns1035_label),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        "uuid" => {
            if formats::check("uuid", text) == Some(true) {
                Vec::new()
            } else {
                vec!["does not match the UUID format".into()]
            }
        }
        "byte" => {
            if formats::check("byte", text) == Some(true) {
                Vec::new()
            } else {
                vec!["invalid base64".into()]
            }
        }
        other => simple(other),
    }
}
