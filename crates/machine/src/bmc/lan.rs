//! Where the controller is on the network: Get Channel Info (22.24), Get LAN Configuration Parameters (23.2), Get Channel Cipher Suites (22.15).

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_protocol::{
    bmc::{AddressSource, Bmc, BmcChannel, MAX_CIPHER_SUITES, MAX_IPV6},
    identity::MacAddress,
};

use super::{APPLICATION, Asking, BmcError, Request, TRANSPORT};

/// Channels that may be a LAN (table 6-1). Zero is the IPMB; those above are the system's side and the present one.
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=11;
/// `802.3 LAN` (table 6-3).
const LAN: u8 = 4;
/// Get Channel Cipher Suites gives 16 bytes with each answer, and has indices for 64 of them.
const PART: usize = 16;
/// More than this is not read: it is all of [`MAX_CIPHER_SUITES`].
const PARTS: u8 = 16;

/// Parameters of a channel (table 23-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Parameter {
    Address = 3,
    Source = 4,
    Mac = 5,
    Mask = 6,
    Gateway = 12,
    Vlan = 20,
    Ipv6Status = 55,
    Ipv6Static = 56,
    Ipv6Dynamic = 59,
}

fn channel_info(channel: u8) -> Request {
    Request::new("Get Channel Info", APPLICATION, 0x42, [channel])
}

fn parameter(channel: u8, parameter: Parameter, set: u8) -> Request {
    Request::new(
        "Get LAN Configuration Parameters",
        TRANSPORT,
        0x02,
        [channel, parameter as u8, set, 0],
    )
}

fn cipher_suites(channel: u8, part: u8) -> Request {
    // Of IPMI payloads (0), listed by suite (bit 7).
    Request::new("Get Channel Cipher Suites", APPLICATION, 0x54, [channel, 0, 0x80 | part])
}

/// Whether an answer to Get Channel Info is of this channel, and this is a LAN.
pub fn is_lan(channel: u8, data: &[u8]) -> bool {
    matches!(*data, [number, medium, ..] if number & 0x0f == channel && medium & 0x7f == LAN)
}

/// The VLAN of parameter 20, where it is switched on.
pub fn vlan(data: &[u8]) -> Option<u16> {
    let [low, high] = *data.first_chunk::<2>()?;
    let id = u16::from_le_bytes([low, high & 0x0f]);
    (high & 0x80 != 0 && (1..=4094).contains(&id)).then_some(id)
}

/// Where parameter 4 says that the address comes from.
pub fn source(data: &[u8]) -> Option<AddressSource> {
    Some(match data.first()? & 0x0f {
        0 => AddressSource::Unspecified,
        1 => AddressSource::Static,
        2 => AddressSource::DHCP,
        3 => AddressSource::Firmware,
        _ => AddressSource::Other,
    })
}

/// An IPv4 address that is one.
pub fn ipv4(data: &[u8]) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(*data.first_chunk::<4>()?);
    (!address.is_unspecified() && !address.is_broadcast()).then_some(address)
}

/// The prefix length of a mask; nothing for one with holes.
pub fn prefix(mask: &[u8]) -> Option<u32> {
    let bits = u32::from_be_bytes(*mask.first_chunk::<4>()?);
    (bits.leading_ones() + bits.trailing_zeros() == 32).then_some(bits.leading_ones())
}

/// An entry of parameters 56 and 59: an active address in CIDR form. A static one must be switched on, too.
pub fn ipv6(data: &[u8], is_static: bool) -> Option<String> {
    let [_, source, rest @ ..] = data.first_chunk::<20>()?;
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let [prefix, status] = *rest else { return None };
    let address = Ipv6Addr::from(*address);
    let there = status == 0 && (!is_static || source & 0x80 != 0);
    (there && !address.is_unspecified() && prefix <= 128).then(|| format!("{address}/{prefix}"))
}

/// Numbers of the suites in the records of all parts (table 22-18), in order. What comes after a record that is none is not believed.
pub fn suites(records: &[u8]) -> Vec<u8> {
    let (mut found, mut rest) = (Vec::new(), records);
    while let [kind, more @ ..] = rest {
        let (number, behind) = match (kind, more) {
            (0xc0, [number, behind @ ..]) => (Some(*number), behind),
            // Of a manufacturer, whose number stands behind: nobody else speaks it.
            (0xc1, [_, _, _, _, behind @ ..]) => (None, behind),
            _ => break,
        };
        found.extend(number.filter(|n| !found.contains(n)));
        // Algorithms have the two upper bits 00, 01 and 10.
        let next = behind.iter().position(|b| b & 0xc0 == 0xc0).unwrap_or(behind.len());
        rest = &behind[next..];
    }
    found.truncate(MAX_CIPHER_SUITES);
    found
}

pub(super) fn read(asking: &mut Asking<'_>, found: &mut Bmc) -> Result<(), BmcError> {
    for number in CHANNELS {
        let info = asking.ask_if_there(&channel_info(number))?;
        if !info.is_some_and(|data| is_lan(number, &data)) {
            continue;
        }
        found.channels.push(BmcChannel {
            number,
            ..BmcChannel::default()
        });
        if let Some(channel) = found.channels.last_mut() {
            let read = read_channel(asking, channel);
            let address = channel.address.as_ref().or(channel.ipv6.first());
            let plain = address.and_then(|a| a.split('/').next()).map(str::to_owned);
            found.address = found.address.take().or(plain);
            read?;
        }
    }
    Ok(())
}

fn read_channel(asking: &mut Asking<'_>, channel: &mut BmcChannel) -> Result<(), BmcError> {
    let number = channel.number;
    // The first byte is the parameter's revision.
    let mut get = |which, set| -> Result<Vec<u8>, BmcError> {
        let answer = asking.ask_if_there(&parameter(number, which, set))?;
        Ok(answer.and_then(|data| Some(data.get(1..)?.to_vec())).unwrap_or_default())
    };
    if let Some(address) = ipv4(&get(Parameter::Address, 0)?) {
        let prefix = prefix(&get(Parameter::Mask, 0)?).unwrap_or(32);
        channel.address = Some(format!("{address}/{prefix}"));
    }
    channel.source = source(&get(Parameter::Source, 0)?);
    let mac = get(Parameter::Mac, 0)?;
    channel.mac = mac.first_chunk().copied().map(MacAddress).filter(MacAddress::is_usable);
    channel.gateway = ipv4(&get(Parameter::Gateway, 0)?).map(|gateway| gateway.to_string());
    channel.vlan = vlan(&get(Parameter::Vlan, 0)?);
    if let [statics, dynamics, ..] = *get(Parameter::Ipv6Status, 0)? {
        for (which, entries) in [(Parameter::Ipv6Static, statics), (Parameter::Ipv6Dynamic, dynamics)] {
            for set in 0..entries.min(MAX_IPV6 as u8) {
                let entry = ipv6(&get(which, set)?, which == Parameter::Ipv6Static);
                channel.ipv6.extend(entry);
            }
        }
        channel.ipv6.truncate(MAX_IPV6);
    }
    let mut records = Vec::new();
    for part in 0..PARTS {
        // The first byte is the channel's number.
        let answer = asking.ask_if_there(&cipher_suites(number, part))?.unwrap_or_default();
        let data = answer.get(1..).unwrap_or_default();
        records.extend_from_slice(data);
        if data.len() < PART {
            break;
        }
    }
    channel.cipher_suites = suites(&records);
    Ok(())
}
