//! Whose an IPv4 or IPv6 address is, for steps that name no MAC address.
//!
//! Learned from what machines say: the address that a machine asks for in its DHCPREQUEST, which is a broadcast and is heard whoever answers it; the address from which it asks at port 4011, or
//! for its script. That comes before the host's neighbour table, because it also holds for machines behind a relay agent or another router, for which that table has the router's MAC address. The
//! table is for what began before this replica did. Machines that share an address, as behind address translation, are not told apart: then nobody has it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use agent_protocol::identity::MacAddress;

/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 8192;
/// For so long: the longest time from a DHCPREQUEST to the last request of a boot.
const GOOD_FOR: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, Copy)]
struct Known {
    /// `None`: several machines, or none.
    mac: Option<MacAddress>,
    at: Instant,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    One(MacAddress),
    Several,
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Addresses {
    known: HashMap<IpAddr, Known>,
}

impl Addresses {
    pub(super) fn holder(&self, address: IpAddr, now: Instant) -> Holder {
        match self.known.get(&address.to_canonical()) {
            Some(known) if now.saturating_duration_since(known.at) < GOOD_FOR => known.mac.map_or(Holder::Several, Holder::One),
            _ => Holder::Unknown,
        }
    }

    /// Whoever sends from this address is no machine that boots, until a lease says otherwise.
    pub(super) fn is_nobodys(&mut self, address: IpAddr, now: Instant) {
        self.insert(address.to_canonical(), None, now);
    }

    pub(super) fn learn(&mut self, mac: MacAddress, address: IpAddr, exclusive: bool, now: Instant) {
        let address = address.to_canonical();
        let holder = self.holder(address, now);
        let mac = match holder {
            Holder::One(before) if before != mac && !exclusive => None,
            Holder::Several if !exclusive => None,
            _ => Some(mac),
        };
        self.insert(address, mac, now);
    }

    fn insert(&mut self, address: IpAddr, mac: Option<MacAddress>, now: Instant) {
        if !self.known.contains_key(&address) && self.known.len() >= MAX_ADDRESSES {
            self.known.retain(|_, known| now.saturating_duration_since(known.at) < GOOD_FOR);
            if self.known.len() >= MAX_ADDRESSES {
                // A flood: start anew rather than look through all of them for each packet.
                self.known.clear();
            }
        }
        self.known.insert(address, Known { mac, at: now });
    }
}

/// Looks an address up in the kernel's table of IPv4 neighbours, as it stands in `/proc/net/arp`.
pub(super) fn neighbour(table: &str, address: IpAddr) -> Option<MacAddress> {
    let IpAddr::V4(wanted) = address.to_canonical() else { return None };
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address: Ipv4Addr = words.next()?.parse().ok()?;
        // Hardware type, flags (ATF_COM: the entry is complete), MAC address.
        let (_, flags, mac) = (words.next()?, words.next()?, words.next()?);
        let complete = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 2 != 0);
        (address == wanted && complete).then(|| mac.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const B: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_shared_address_is_nobodys_until_a_lease_says_whose_it_is() {
        let mut addresses = Addresses::default();
        let (ip, now) = (IpAddr::from([10, 0, 0, 7]), Instant::now());
        assert_eq!(addresses.holder(ip, now), Holder::Unknown);
        addresses.learn(A, ip, false, now);
        let mapped: IpAddr = "::ffff:10.0.0.7".parse().unwrap();
        assert_eq!(addresses.holder(mapped, now), Holder::One(A));
        addresses.learn(B, ip, false, now);
        addresses.learn(A, ip, false, now);
        assert_eq!(addresses.holder(ip, now), Holder::Several);
        addresses.learn(B, ip, true, now);
        assert_eq!(addresses.holder(ip, now), Holder::One(B));
        assert_eq!(addresses.holder(ip, now + GOOD_FOR), Holder::Unknown, "leases end");
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        for n in 0..100_000u32 {
            addresses.learn(A, IpAddr::from(n.to_be_bytes()), true, now);
        }
        assert!(addresses.known.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn neighbours_are_read_as_the_kernel_prints_them() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.77.0.9        0x1         0x0         00:00:00:00:00:00     *        kbm0\n\
                     10.77.0.100      0x1         0x2         52:54:00:12:34:56     *        kbm0\n\
                     nonsense\n";
        let find = |text: &str| neighbour(table, text.parse().unwrap());
        assert_eq!(find("10.77.0.100"), "52:54:00:12:34:56".parse().ok());
        assert_eq!(find("10.77.0.9"), None, "not answered yet");
        assert_eq!(find("10.77.0.10"), None, "whole addresses only");
        assert_eq!(find("fe80::1"), None);
    }
}
