//! Which NICs are asked for an address, alone or as a bond, and when. Pure: the NICs that are there and how long the search has lasted come in.

use std::time::Duration;

use agent_protocol::{
    identity::MacAddress,
    link::{Bond, Link, MAX_MEMBERS},
};

use super::Interface;

/// How long the boot NIC is asked alone, and how long NICs that were named for a bond are waited for.
pub(super) const HEAD_START: Duration = Duration::from_secs(15);
/// How long NICs that were not named may take to show a link before the bond is made without them.
const GATHER: Duration = Duration::from_secs(6);
/// How long VLAN and bond that were told may take to lead to a server. A switch may need half a minute to agree to a bond, and another one to let packets through.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the NICs are then tried as they are, before it is tried as told again.
const PATIENCE_PLAIN: Duration = Duration::from_secs(60);

/// A NIC with what matters of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nic {
    pub interface: Interface,
    /// Whether something is at the other end of its cable.
    pub carrier: bool,
}

/// One way to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub link: Link,
    /// When the next one is tried; `None`: never.
    pub patience: Option<Duration>,
}

/// The ways in the order in which they are tried, over and over: as told, then as it is. A machine whose VLAN was mistyped is reachable then, and the server can tell why it came otherwise.
pub(super) fn ways(told: &Link) -> Vec<Way> {
    let plain = |patience| Way {
        link: Link {
            mtu: told.mtu,
            ..Link::default()
        },
        patience,
    };
    if told.is_plain() {
        return vec![plain(None)];
    }
    let as_told = Way {
        link: told.clone(),
        patience: Some(PATIENCE),
    };
    vec![as_told, plain(Some(PATIENCE_PLAIN))]
}

/// The groups of NICs that are to be asked now: more than one NIC in a group is a bond's. The boot NIC is its group's first.
///
/// `alone`: nothing has an address yet, so that the boot NIC still has its head start.
pub(super) fn groups(link: &Link, boot_mac: Option<MacAddress>, present: &[Nic], waited: Duration, alone: bool) -> Vec<Vec<Interface>> {
    let is_boot = |nic: &Nic| Some(nic.interface.mac) == boot_mac;
    match &link.bond {
        Some(bond) => members(bond, &is_boot, present, waited).into_iter().collect(),
        None => {
            let boot_only = alone && boot_mac.is_some() && waited < HEAD_START;
            let asked = present.iter().filter(|nic| !boot_only || is_boot(nic));
            asked.map(|nic| vec![nic.interface.clone()]).collect()
        }
    }
}

/// The NICs of the bond, once it can be made.
fn members(bond: &Bond, is_boot: &impl Fn(&Nic) -> bool, present: &[Nic], waited: Duration) -> Option<Vec<Interface>> {
    let named = |nic: &&Nic| bond.members.contains(&nic.interface.mac);
    let linked = |nic: &&Nic| nic.carrier || is_boot(nic);
    let (mut chosen, complete): (Vec<&Nic>, bool) = if bond.members.is_empty() {
        let ready = waited >= GATHER && present.iter().any(|nic| nic.carrier);
        (present.iter().filter(linked).collect(), ready)
    } else {
        let chosen: Vec<&Nic> = present.iter().filter(named).collect();
        let complete = chosen.len() == bond.members.len() || waited >= HEAD_START;
        (chosen, complete)
    };
    // The bond gets the address of its first.
    chosen.sort_by_key(|nic| !is_boot(nic));
    chosen.truncate(MAX_MEMBERS);
    (complete && !chosen.is_empty()).then(|| chosen.into_iter().map(|nic| nic.interface.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::link::BondMode;

    const EARLY: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(20);

    fn mac(n: u8) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, n])
    }

    fn nic(n: u8, carrier: bool) -> Nic {
        let interface = Interface {
            name: format!("eth{n}"),
            index: n.into(),
            mac: mac(n),
        };
        Nic { interface, carrier }
    }

    fn bonded(members: &[u8]) -> Link {
        Link {
            bond: Some(Bond {
                mode: BondMode::Lacp,
                members: members.iter().map(|n| mac(*n)).collect(),
                lacp_rate: None,
                transmit_hash: None,
            }),
            ..Link::default()
        }
    }

    fn names(groups: &[Vec<Interface>]) -> Vec<Vec<&str>> {
        groups.iter().map(|g| g.iter().map(|i| i.name.as_str()).collect()).collect()
    }

    #[test]
    fn the_boot_nic_is_asked_first_with_a_vlan_and_without() {
        let present = [nic(1, true), nic(2, true)];
        let tagged = Link {
            vlan: Some(42),
            ..Link::default()
        };
        for link in [Link::default(), tagged] {
            let at = |boot, waited, alone| groups(&link, boot, &present, waited, alone);
            assert_eq!(names(&at(Some(mac(2)), EARLY, true)), [["eth2"]]);
            assert_eq!(names(&at(Some(mac(2)), EARLY, false)), [["eth1"], ["eth2"]], "it leads nowhere");
            assert_eq!(names(&at(Some(mac(2)), LATE, true)), [["eth1"], ["eth2"]], "it is silent");
            assert_eq!(names(&at(None, EARLY, true)), [["eth1"], ["eth2"]]);
            assert_eq!(at(Some(mac(9)), EARLY, true), Vec::<Vec<Interface>>::new());
        }
    }

    #[test]
    fn a_bond_waits_for_the_nics_that_were_named_and_takes_no_others() {
        let link = bonded(&[1, 3]);
        let at = |present: &[Nic], waited| groups(&link, Some(mac(3)), present, waited, true);
        assert_eq!(at(&[nic(1, true), nic(2, true)], EARLY), Vec::<Vec<Interface>>::new());
        let all = [nic(1, false), nic(2, true), nic(3, true)];
        assert_eq!(names(&at(&all, EARLY)), [["eth3", "eth1"]], "the boot NIC first");
        assert_eq!(names(&at(&[nic(1, true), nic(2, true)], LATE)), [["eth1"]]);
        assert_eq!(at(&[nic(2, true)], LATE), Vec::<Vec<Interface>>::new());
    }

    #[test]
    fn a_bond_without_names_takes_what_has_a_link_and_the_boot_nic() {
        let link = bonded(&[]);
        let at = |present: &[Nic], waited| groups(&link, Some(mac(2)), present, waited, true);
        let all = [nic(1, true), nic(2, false), nic(3, false), nic(4, true)];
        assert_eq!(at(&all, EARLY), Vec::<Vec<Interface>>::new());
        assert_eq!(names(&at(&all, LATE)), [["eth2", "eth1", "eth4"]]);
        assert_eq!(at(&[nic(1, false), nic(2, false)], LATE), Vec::<Vec<Interface>>::new());
        let many: Vec<Nic> = (1..30).map(|n| nic(n, true)).collect();
        assert_eq!(at(&many, LATE)[0].len(), MAX_MEMBERS);
    }

    #[test]
    fn what_was_told_is_tried_first_and_in_turn_with_the_nics_as_they_are() {
        let plain = ways(&Link {
            mtu: Some(9000),
            ..Link::default()
        });
        assert_eq!((plain.len(), plain[0].patience, plain[0].link.mtu), (1, None, Some(9000)));
        let told = ways(&bonded(&[1, 2]));
        assert_eq!(told.iter().map(|w| w.link.is_plain()).collect::<Vec<_>>(), [false, true]);
        assert!(told.iter().all(|w| w.patience.is_some()));
    }
}
