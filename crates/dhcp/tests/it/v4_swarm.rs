//! Many clients, and clients that do as they like.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use dhcp::{
    Time,
    v4::{
        Arrival, Client,
        server::{Outcome, Reservation, Server, Settings, Subnet, Who},
        wire::{MessageType, Packet},
    },
};
use proptest::prelude::*;

use crate::{
    clients::{Ask, DECLINE, DISCOVER, RELEASE, REQUEST, SERVER, at_67, mac, parse},
    v4_server::{Lan, ip, subnet},
};

fn large() -> Subnet {
    let mut subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 16);
    subnet.ranges = vec![(Ipv4Addr::new(10, 0, 16, 0), Ipv4Addr::new(10, 0, 63, 255))];
    subnet.probe = false;
    subnet
}

#[test]
fn ten_thousand_clients_in_one_burst_are_all_bound() {
    let mut server = Server::new(Settings::default(), vec![large()]).unwrap();
    let (now, mut out) = (Time::from_secs(1_800_000_000), Vec::new());
    let mut hand = |request: &[u8]| {
        let packet = Packet::parse(request).unwrap();
        match server.handle(&packet, &Client::of(&packet), &at_67(), None, now, &mut out) {
            Ok(Outcome::Send(reply)) => (reply.kind, reply.address),
            other => panic!("{other:?}"),
        }
    };
    let relayed = |kind, i| {
        Ask::new(kind, mac(i))
            .giaddr(Ipv4Addr::new(10, 0, 0, 2))
            .option(82, &i.to_be_bytes())
    };
    // All offers are out before the first one is taken.
    let offers: Vec<_> = (0..10_000).map(|i| hand(&relayed(DISCOVER, i).build())).collect();
    assert!(offers.iter().all(|(kind, _)| *kind == MessageType::Offer));
    assert_eq!(offers.iter().collect::<HashSet<_>>().len(), 10_000, "nobody's twice");
    for (i, (_, address)) in (0..).zip(&offers) {
        let request = relayed(REQUEST, i).server(SERVER).wants(*address).build();
        assert_eq!(hand(&request), (MessageType::Ack, *address));
    }
    assert_eq!(server.counts().bound, 10_000);
    assert_eq!(server.take_changes().len(), 10_000);
    server.expire(now + Time::from_secs(3600));
    assert_eq!((server.counts().bound, server.counts().free), (0, 48 * 256));
}

#[test]
fn the_last_free_address_of_a_full_range_is_found() {
    let mut lan = Lan::new(vec![large()]);
    let bound: HashSet<_> = (0..48 * 256).map(|i| lan.bind(mac(i))).collect();
    assert_eq!((bound.len(), lan.server.counts().free), (48 * 256, 0));
    assert!(lan.offer(mac(20_000)).is_err());
    let freed = *bound.iter().next().unwrap();
    let owner = (0..48 * 256)
        .find(|i| lan.renew(mac(*i), freed).is_ok_and(|kind| kind == MessageType::Ack))
        .unwrap();
    lan.hand(&Ask::new(RELEASE, mac(owner)).ciaddr(freed).build(), &at_67()).unwrap();
    assert_eq!(lan.bind(mac(20_000)), freed);
}

#[derive(Debug, Clone)]
enum Step {
    Discover(u8, u8),
    Request { who: u8, last: u8, named: bool },
    Renew(u8, u8),
    Release(u8, u8),
    Decline(u8, u8),
    Probed(u8, bool),
    Pass(u16),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0u8..14;
    let last = 98u8..112;
    let step = prop_oneof![
        4 => (who.clone(), last.clone()).prop_map(|(w, l)| Step::Discover(w, l)),
        4 => (who.clone(), last.clone(), any::<bool>()).prop_map(|(who, last, named)| Step::Request { who, last, named }),
        2 => (who.clone(), last.clone()).prop_map(|(w, l)| Step::Renew(w, l)),
        1 => (who.clone(), last.clone()).prop_map(|(w, l)| Step::Release(w, l)),
        1 => (who, last.clone()).prop_map(|(w, l)| Step::Decline(w, l)),
        1 => (last, any::<bool>()).prop_map(|(l, in_use)| Step::Probed(l, in_use)),
        1 => (0u16..4000).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn no_address_is_held_by_two(steps in steps(), probe: bool) {
        let describe = || {
            let mut described = subnet();
            described.probe = probe;
            described.excluded = vec![ip(103)];
            described.reservations = vec![
                Reservation { who: Who::Mac(mac(1)), address: ip(104) },
                Reservation { who: Who::Mac(mac(2)), address: ip(99) },
            ];
            described
        };
        let mut lan = Lan::new(vec![describe()]);
        // What clients believe: address, and until when. They are told by ACKs and nothing else.
        let mut believed: HashMap<u8, (Ipv4Addr, Time)> = HashMap::new();
        let mut kept = HashMap::new();
        for step in steps {
            let mut acked = None;
            match step {
                Step::Discover(who, last) => {
                    let outcome = lan.hand(&Ask::new(DISCOVER, mac(who.into())).wants(ip(last)).build(), &at_67());
                    if let Ok(Outcome::Send(reply)) = outcome {
                        let taken = believed.iter().find(|(w, (a, until))| **w != who && *a == reply.address && *until > lan.now);
                        prop_assert!(taken.is_none(), "{} was offered what {taken:?} has", who);
                    }
                }
                Step::Request { who, last, named } => {
                    let request = Ask::new(REQUEST, mac(who.into())).wants(ip(last));
                    let request = if named { request.server(SERVER) } else { request };
                    if let Ok(Outcome::Send(reply)) = lan.hand(&request.build(), &at_67()) {
                        acked = Some((who, reply));
                    }
                }
                Step::Renew(who, last) => {
                    let arrival = Arrival { source: format!("10.0.0.{last}:68").parse().unwrap(), broadcast: false, ..at_67() };
                    if let Ok(Outcome::Send(reply)) = lan.hand(&Ask::new(REQUEST, mac(who.into())).ciaddr(ip(last)).build(), &arrival) {
                        acked = Some((who, reply));
                    }
                }
                Step::Release(who, last) => {
                    if lan.hand(&Ask::new(RELEASE, mac(who.into())).ciaddr(ip(last)).build(), &at_67()).is_ok() {
                        believed.remove(&who);
                    }
                }
                Step::Decline(who, last) => {
                    if lan.hand(&Ask::new(DECLINE, mac(who.into())).wants(ip(last)).build(), &at_67()).is_ok() {
                        believed.remove(&who);
                    }
                }
                Step::Probed(last, in_use) => { let now = lan.now; lan.server.probed(ip(last), in_use, now); }
                Step::Pass(seconds) => lan.pass(seconds.into()),
                Step::Restart => {
                    // Offers are lost, leases are not.
                    let now = lan.now;
                    lan.server = Server::new(Settings::default(), vec![describe()]).unwrap();
                    for record in kept.values() { lan.server.load(record, now); }
                }
            }
            if let Some((who, reply)) = acked {
                if reply.kind == MessageType::Ack {
                    let lease = parse(&lan.reply).lease_time().unwrap();
                    let taken = believed.iter().find(|(w, (a, until))| **w != who && *a == reply.address && *until > lan.now);
                    prop_assert!(taken.is_none(), "{} was given what {taken:?} has", who);
                    let last = reply.address.octets()[3];
                    prop_assert!(last == 99 || (100..110).contains(&last), "only what is to be given away");
                    prop_assert_ne!(last, 103);
                    prop_assert!((last == 104) <= (who == 1) && (last == 99) <= (who == 2), "reserved for another one");
                    believed.insert(who, (reply.address, lan.now + Time::from_secs(lease.into())));
                } else if believed.get(&who).is_some_and(|(_, until)| *until > lan.now) {
                    // A refused client starts anew.
                    believed.remove(&who);
                }
            }
            for record in lan.server.take_changes() { kept.insert(record.address, record); }
        }
        let mut end = lan.now + Time::from_secs(100_000);
        lan.server.expire(end);
        prop_assert_eq!(lan.server.counts().free, 8, "everything comes back");
        prop_assert_eq!(lan.server.counts().bound + lan.server.counts().quarantined, 0);
        end += Time::from_secs(1);
        prop_assert!(lan.server.next_deadline().is_none_or(|due| due > end));
    }

    #[test]
    fn any_bytes_are_answered_or_not(mut bytes in prop::collection::vec(any::<u8>(), 240..600), kind in 0u8..10, hlen in 0u8..20) {
        bytes[..3].copy_from_slice(&[1, 1, hlen]);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        let mut request = bytes[..240].to_vec();
        request.extend_from_slice(&[53, 1, kind]);
        request.extend_from_slice(&bytes[240..]);
        let mut lan = Lan::new(vec![subnet()]);
        for arrival in [at_67(), Arrival { port: 4011, broadcast: false, ..at_67() }] {
            if let Ok(Outcome::Send(reply)) = lan.hand(&request, &arrival) {
                let sent = parse(&lan.reply);
                prop_assert_eq!(sent.message_type(), Some(reply.kind));
                if let Some(relay) = parse(&request).relay() && relay.value().len() < 200 {
                    prop_assert_eq!(sent.relay().map(|r| r.value()), Some(relay.value()));
                }
            }
        }
    }
}
