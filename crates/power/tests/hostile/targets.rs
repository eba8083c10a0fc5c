//! What hostile bytes are given to: the tests of this folder do so with seeded ones, `fuzz/` guided by coverage.

use std::time::Duration;

use power::{
    Operation,
    amt::wsman,
    digest::{Algorithm, Challenge},
    inventory::Inventory,
    ipmi::{
        chassis,
        handshake::{Abilities, Head, Privilege, open_response, rakp_2, rakp_4},
        session::{Account, Session, Step},
        suite::{CipherSuite, Keys},
        wire::{Datagram, PayloadType, Response},
    },
    libvirt::message::{self, Complaint, Domain, Heard, Procedure, State},
    redfish::{
        inventory::{self, Sum},
        quirks,
        reader::{self, Link},
        system::{self, Drive, System},
    },
};

use crate::bmc::Bmc;

/// A datagram and all that may be in it: read or refused; what we seal is what we open.
pub fn wire(input: &[u8]) {
    for suite in [CipherSuite::Three, CipherSuite::Seventeen] {
        let keys = Keys::new(suite, b"a session's key");
        let _opened = open_response(input, suite);
        let _second = rakp_2(input, suite);
        let _fourth = rakp_4(input, suite);
        if let Ok(Datagram::Sealed(sealed)) = Datagram::parse(input) {
            let _plain = keys.open(&sealed);
        }
        let datagram = keys.seal(PayloadType::Message, 1, 2, input, [3; 16]);
        // A length of 16 bits is what a datagram can say.
        if input.len() < 60_000 {
            let Ok(Datagram::Sealed(sealed)) = Datagram::parse(&datagram) else {
                panic!("what we sealed is not sealed")
            };
            assert_eq!(keys.open(&sealed).as_deref(), Ok(input));
        }
    }
    let _head = Head::parse(input);
    let _abilities = Abilities::parse(input);
    if let Ok(Datagram::Sessionless(message)) = Datagram::parse(input) {
        let _response = Response::parse(message);
    }
    if let Ok(response) = Response::parse(input) {
        let _on = chassis::is_on(response.data);
        let _shown = chassis::shows(response.data, [0x80, 0x04, 0, 0, 0]);
    }
}

fn take(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

/// A session that goes well for some datagrams, and then hears what the input says: raw, a genuine answer with bytes changed, or one after a reset. It comes to an end in bounded time.
pub fn session(mut input: &[u8]) {
    const SUITES: [&[CipherSuite]; 2] = [&[CipherSuite::Seventeen, CipherSuite::Three], &[CipherSuite::Three]];
    let suites = SUITES[usize::from(take(&mut input) & 1)];
    let mut counter = 0_u8;
    let account = Account {
        user: "admin".to_owned(),
        password: "s3cret-Pass".to_owned().into(),
        own_key: None,
        privilege: Privilege::Operator,
        suites,
    };
    let random = Box::new(move |bytes: &mut [u8]| {
        for byte in bytes {
            counter = counter.wrapping_add(1);
            *byte = counter;
        }
    });
    let mut session = Session::new(account, random);
    let mut bmc = Bmc::new(&[CipherSuite::Seventeen, CipherSuite::Three]);
    let genuine = take(&mut input) % 12;
    let mut heard = 0;
    let mut now = Duration::ZERO;
    let mut asked = false;
    for _ in 0..400 {
        match session.step(now) {
            Step::Send(datagram) => {
                let Some(mut answer) = bmc.answer(&datagram) else { continue };
                heard += 1;
                if heard > genuine {
                    match take(&mut input) % 4 {
                        0 => {
                            let length = usize::from(take(&mut input)).min(input.len());
                            answer = input[..length].to_vec();
                            input = &input[length..];
                        }
                        1 => {
                            for _ in 0..take(&mut input) % 4 {
                                let at = usize::from(take(&mut input)) % answer.len();
                                answer[at] = take(&mut input);
                            }
                        }
                        2 => bmc.reset(),
                        _ => {}
                    }
                }
                let _heard = session.receive(now, &answer);
            }
            Step::Wait(until) => now = now.max(until),
            Step::Idle(_) if asked => session.close(now),
            Step::Idle(_) => {
                asked = true;
                session.ask(now, chassis::status());
            }
            Step::Answer(_) => {}
            Step::Failed(_) | Step::Closed => {
                assert!(now < Duration::from_secs(120), "{now:?}");
                return;
            }
        }
    }
    panic!("no end after {now:?}");
}

/// A document: whatever it is, it can be read, and what is read from it leads to paths on the same host.
pub fn document(input: &[u8]) {
    let Ok(value) = serde_json::from_slice(input) else { return };
    let Some(here) = Link::parse("/redfish/v1/Systems/1") else {
        panic!("a good link")
    };
    let system = System::read(here.clone(), &value);
    for operation in [Operation::On, Operation::OffSoft, Operation::OffHard, Operation::Cycle] {
        let _words = system::resets(operation, system.resets.as_deref());
    }
    let _listed = system::listed_resets(&value);
    let _said = reader::complaint(&value);
    let drive = Drive::read(here, &value);
    let (mut found, mut sum) = (Inventory::default(), Sum::default());
    inventory::read_system(&value, &quirks::STANDARD, &mut found);
    inventory::read_processor(&value, &mut sum, &mut found);
    inventory::add_up(&sum, &mut found);
    inventory::read_module(&value, &mut found);
    inventory::read_interface(&value, &mut found);
    inventory::read_drive(&value, &mut found);
    inventory::read_simple_storage(&value, &mut found);
    let (members, next) = reader::members(&value);
    let links = [
        Some(system.reset),
        system.reset_info,
        system.settings,
        system.media,
        next,
        drive.insert,
        drive.eject,
    ];
    for link in links.into_iter().flatten().chain(members).chain(system.managers) {
        harmless(&link);
    }
}

/// Text as a link.
pub fn link(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(link) = Link::parse(text) {
        harmless(&link);
        assert_eq!(Link::parse(link.as_str()), Some(link));
    }
}

/// A path that no URL library takes for anything else.
fn harmless(link: &Link) {
    let base = reqwest::Url::parse("https://192.0.2.7:8443").expect("a URL");
    let joined = base.join(link.as_str()).expect("it joins");
    assert_eq!(
        (joined.scheme(), joined.host_str(), joined.port(), joined.username()),
        ("https", Some("192.0.2.7"), Some(8443), ""),
        "{link:?}"
    );
    assert!(
        link.as_str().starts_with('/') && link.as_str().bytes().all(|byte| byte.is_ascii_graphic()),
        "{link:?}"
    );
}

/// What libvirt's daemon sends: a packet's length, and what follows it.
pub fn libvirt(input: &[u8]) {
    let Some((length, packet)) = input.split_first_chunk() else {
        return;
    };
    if let Some(follows) = message::following(*length) {
        assert!((24..=message::LARGEST).contains(&follows), "{follows}");
    }
    for (procedure, serial) in [(Procedure::ByName, 1), (Procedure::State, 2), (Procedure::AuthList, 3)] {
        if let Some(Heard::Answer(answer)) = message::hear(packet, procedure, serial) {
            assert!(answer.len() < packet.len());
        }
    }
    let _kinds = message::auth_kinds(packet);
    let _state = State::parse(packet);
    let _complaint = Complaint::parse(packet);
    if let Some(domain) = Domain::parse(packet) {
        // What was read is what is written: but for what is no text, and for what was padded with something.
        let argument = domain.argument(false);
        assert_eq!(Domain::parse(&argument), Some(domain));
    }
}

/// What a machine with AMT answers, and the challenge before it.
pub fn wsman(input: &[u8]) {
    let _said = wsman::parse(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(challenge) = Challenge::parse(text, &[Algorithm::Sha256, Algorithm::Md5]) {
        let _answer = challenge.answer("POST", "/wsman", "admin", "s3cret-Pass", "0123456789abcdef");
    }
}
