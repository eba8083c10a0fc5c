//! Two replicas on one segment: every broadcast reaches both.

use std::net::Ipv4Addr;

use dhcp::{
    Replicas,
    v4::{
        Arrival, Ignored,
        server::{Outcome, Settings},
        wire::MessageType,
    },
};

use crate::{
    clients::{Ask, DISCOVER, REQUEST, at_67, mac, parse},
    v4_server::{Lan, ip, subnet},
};

const IDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

fn pair(agreed: bool) -> [Lan; 2] {
    [0, 1].map(|me| {
        let mut lan = Lan::with(
            Settings {
                peers: vec![IDS[1 - me]],
                ..Settings::default()
            },
            vec![subnet()],
        );
        if agreed {
            lan.server.set_replicas(Some(Replicas::new(me as u64, &[0, 1])));
        }
        lan
    })
}

/// What each of both answers.
fn all(pair: &mut [Lan; 2], request: Ask) -> [Result<(MessageType, Ipv4Addr), Ignored>; 2] {
    let bytes = request.build();
    [0, 1].map(|i| match pair[i].hand(&bytes, &Arrival { local: IDS[i], ..at_67() })? {
        Outcome::Send(reply) => Ok((reply.kind, reply.address)),
        other => panic!("{other:?}"),
    })
}

#[test]
fn both_offer_the_same_address() {
    let mut pair = pair(false);
    for i in 0..10 {
        let [one, two] = all(&mut pair, Ask::new(DISCOVER, mac(i)));
        assert_eq!(one, two);
        let (_, address) = one.unwrap();
        // The client takes either's.
        let server = IDS[i as usize % 2];
        let answers = all(&mut pair, Ask::new(REQUEST, mac(i)).server(server).wants(address));
        assert_eq!(answers[i as usize % 2], Ok((MessageType::Ack, address)));
        assert_eq!(answers[1 - i as usize % 2], Err(Ignored::OtherServer));
    }
    for lan in &mut pair {
        assert_eq!(lan.server.counts().bound, 10, "both know what is taken");
        assert_eq!(lan.server.take_changes().len(), 5, "and each records its own");
    }
    // So either of them extends any lease.
    for i in 0..10 {
        let (_, address) = all(&mut pair, Ask::new(DISCOVER, mac(i)))[0].unwrap();
        for lan in &mut pair {
            assert_eq!(lan.renew(mac(i), address), Ok(MessageType::Ack));
        }
    }
}

#[test]
fn one_answers_and_the_other_when_that_one_is_gone() {
    let mut pair = pair(true);
    for i in 0..10 {
        let answers = all(&mut pair, Ask::new(DISCOVER, mac(i)));
        let first = usize::from(answers[0].is_err());
        let (_, address) = answers[first].unwrap();
        assert_eq!(answers[1 - first], Err(Ignored::OtherReplicasTurn));
        // The first one dies. The client asks again, and the other one offers the same address.
        pair[1 - first].pass(4);
        let again = all(&mut pair, Ask::new(DISCOVER, mac(i)).seconds(4));
        assert_eq!(again[1 - first], Ok((MessageType::Offer, address)));
        let taken = all(&mut pair, Ask::new(REQUEST, mac(i)).server(IDS[1 - first]).wants(address));
        assert_eq!(
            taken[1 - first],
            Ok((MessageType::Ack, address)),
            "who is named answers, whoever's turn it is"
        );
    }
}

#[test]
fn records_settle_what_two_gave_away_at_once() {
    // Each replica is alone for a while, and a client wishes for the address that the other one's client has.
    let mut pair = pair(false);
    let mut local = |i: usize, request: Ask| match pair[i].hand(&request.build(), &Arrival { local: IDS[i], ..at_67() }) {
        Ok(Outcome::Send(reply)) => reply,
        other => panic!("{other:?}"),
    };
    for (i, client) in [(0, mac(1)), (1, mac(2))] {
        let offer = local(i, Ask::new(DISCOVER, client).wants(ip(105)));
        assert_eq!(offer.address, ip(105));
        assert_eq!(
            local(i, Ask::new(REQUEST, client).server(IDS[i]).wants(ip(105))).kind,
            MessageType::Ack
        );
    }
    let changes = [0, 1].map(|i| pair[i].server.take_changes());
    for (lan, theirs) in pair.iter_mut().zip([&changes[1], &changes[0]]) {
        let now = lan.now;
        theirs.iter().for_each(|record| lan.server.load(record, now));
    }
    let answers: Vec<_> = pair
        .iter_mut()
        .map(|lan| [1, 2].map(|i| lan.renew(mac(i), ip(105)).unwrap()))
        .collect();
    assert_eq!(answers[0], answers[1], "both say the same");
    assert_eq!(
        answers[0].iter().filter(|a| **a == MessageType::Ack).count(),
        1,
        "to one yes, and to one no"
    );
    assert_eq!(parse(&pair[0].reply).message_type(), Some(answers[0][1]));
}
