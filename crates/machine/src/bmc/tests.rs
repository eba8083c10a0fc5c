//! A controller in memory, and answers from the specification's tables.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use agent_protocol::{
    bmc::{AddressSource, Bmc},
    inventory::Inventory,
    limits::Bounded,
};
use proptest::prelude::*;

use super::{
    user::{Account, Privilege, ensure},
    *,
};

#[derive(Debug, Clone, Default)]
struct User {
    name: [u8; 16],
    password: Vec<u8>,
    enabled: bool,
    access: BTreeMap<u8, u8>,
}

/// A controller with LAN channels 1 and 8, and places for users.
struct Controller {
    users: BTreeMap<u8, User>,
    highest: u8,
    fixed: u8,
    /// Whether it takes passwords of 20 bytes.
    long: bool,
    /// Whether what is set is kept.
    forgets: bool,
    /// Mode and limit of each channel, kept and present.
    channels: BTreeMap<(u8, u8), (u8, u8)>,
    silent_after: usize,
    asked: Vec<(u8, u8, Vec<u8>)>,
}

impl Controller {
    fn new() -> Self {
        let mut user = User::default();
        user.name[..5].copy_from_slice(b"admin");
        user.enabled = true;
        user.access.insert(1, 0x14);
        Self {
            users: BTreeMap::from([(2, user)]),
            highest: 10,
            fixed: 1,
            long: true,
            forgets: false,
            channels: [1, 8]
                .into_iter()
                .flat_map(|c| [0x40, 0x80].map(|kept| ((c, kept), (2, 4))))
                .collect(),
            silent_after: usize::MAX,
            asked: Vec::new(),
        }
    }

    fn lan(channel: u8, parameter: u8, set: u8) -> Option<Vec<u8>> {
        let second = channel == 8;
        Some(match (parameter, set) {
            (3, 0) => vec![10, 0, 8, if second { 0 } else { 12 }],
            (3, _) => return None,
            (4, 0) => vec![if second { 2 } else { 1 }],
            (5, 0) => vec![0x52, 0x54, 0, 1, 2, channel],
            (6, 0) => vec![255, 255, 254, 0],
            (12, 0) => vec![10, 0, 8, 1],
            (20, 0) => vec![0x64, if second { 0x80 } else { 0x00 }],
            (55, 0) if !second => vec![2, 1, 3],
            (56, 0) => [&[0, 0x80][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[5, 64, 0]].concat(),
            // Pending.
            (56, 1) => [&[1, 0x80][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[6, 64, 2]].concat(),
            (59, 0) => [&[0, 1][..], &[0xfe, 0x80], &[0; 13], &[7, 64, 0]].concat(),
            _ => return None,
        })
    }

    fn user(&mut self, number: u8) -> &mut User {
        self.users.entry(number & 0x3f).or_default()
    }

    fn answer(&mut self, function: u8, command: u8, data: &[u8]) -> (u8, Vec<u8>) {
        let ok = |data: &[u8]| (0, data.to_vec());
        match (function, command, data) {
            // ipmitool's example of a Supermicro controller: IANA 10876, IPMI 2.0, firmware 3.88.
            (6, 0x01, []) => ok(&[0x20, 0x81, 0x03, 0x88, 0x02, 0xbf, 0x7c, 0x2a, 0x00, 0x53, 0x09, 0, 0, 0, 0]),
            (6, 0x37, []) => ok(&[0xff, 0x43, 0x21, 0x65, 0x87, 0, 0, 0x8a, 0x9b, 0x11, 0xec, 0x4d, 1, 2, 3, 4]),
            (6, 0x42, [channel @ (1 | 8)]) => ok(&[*channel, 0x04, 0x01, 0x80, 0xf2, 0x1b, 0, 0, 0]),
            // A serial port and the bus of the chassis.
            (6, 0x42, [2]) => ok(&[2, 0x05, 0x01, 0x40, 0xf2, 0x1b, 0, 0, 0]),
            (6, 0x42, [6]) => ok(&[6, 0x01, 0x01, 0, 0xf2, 0x1b, 0, 0, 0]),
            (6, 0x42, _) => (0xcc, Vec::new()),
            (0x0c, 0x02, [channel @ (1 | 8), parameter, set, 0]) => match Self::lan(*channel, *parameter, *set) {
                Some(value) => ok(&[&[0x11][..], &value].concat()),
                None => (0x80, Vec::new()),
            },
            // Suites 3 and 17, one of a manufacturer, and a record that reaches over two answers.
            (6, 0x54, [1, 0, 0x80]) => ok(&[1, 0xc0, 3, 1, 0x41, 0x81, 0xc0, 17, 3, 0x44, 0x81, 0xc1, 0x30, 1, 2, 3, 1]),
            (6, 0x54, [1, 0, 0x81]) => ok(&[1, 0x41, 0x81, 0xc0, 0, 0, 0x40, 0x80]),
            // No more than its own number.
            (6, 0x54, [8, 0, 0x80]) => ok(&[8]),
            (6, 0x44, [channel, number]) => {
                let (highest, fixed) = (self.highest, self.fixed);
                let user = self.user(*number);
                let enabled = if user.enabled { 0x40 } else { 0x80 };
                let access = user.access.get(channel).copied().unwrap_or(0x0f);
                ok(&[highest, enabled | 1, fixed, access])
            }
            (6, 0x46, [number]) => match self.users.get(number) {
                Some(user) => ok(&user.name),
                // As some do for one that was never set.
                None => (0xcc, Vec::new()),
            },
            (6, 0x45, [number, name @ ..]) if name.len() == 16 => {
                let name = name.first_chunk().copied().unwrap();
                self.user(*number).name = name;
                ok(&[])
            }
            (6, 0x47, [number, 1]) => {
                self.user(*number).enabled = true;
                ok(&[])
            }
            (6, 0x47, [number, operation, password @ ..]) => {
                let long = number & 0x80 != 0;
                if password.len() != if long { 20 } else { 16 } || long && !self.long {
                    return (0xc7, Vec::new());
                }
                let forgets = self.forgets;
                let user = self.user(*number);
                match operation {
                    2 if forgets => ok(&[]),
                    2 => {
                        user.password = password.to_vec();
                        ok(&[])
                    }
                    3 if user.password == password => ok(&[]),
                    _ => (0x80, Vec::new()),
                }
            }
            (6, 0x43, [access, number, limit, 0]) => {
                assert_ne!(access & 0x80, 0, "the bits are to be changed");
                self.user(*number).access.insert(access & 0x0f, access & 0x70 | limit);
                ok(&[])
            }
            (6, 0x41, [channel, kept]) => {
                let (mode, limit) = self.channels[&(*channel, *kept)];
                ok(&[0x28 | mode, limit])
            }
            (6, 0x40, [channel, access, limit]) => {
                assert_eq!(access & 0xf8 & !0xc0, 0x28, "the rest stays as it was");
                assert_eq!(access & 0xc0, limit & 0xc0);
                self.channels.insert((*channel, access & 0xc0), (access & 7, limit & 0x0f));
                ok(&[])
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Interface for Controller {
    fn exchange(&mut self, request: &Request, _: Instant) -> Result<(u8, Vec<u8>), BmcError> {
        if self.asked.len() >= self.silent_after {
            return Err(BmcError::Silent { command: request.name });
        }
        self.asked.push((request.function, request.command, request.data.clone()));
        Ok(self.answer(request.function, request.command, &request.data))
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn inventory(bmc: Bmc) -> Inventory {
    Inventory {
        bmc: Some(bmc),
        ..Inventory::default()
    }
}

#[test]
fn a_controller_is_read_whole() {
    let (mut controller, mut found) = (Controller::new(), Bmc::default());
    read(&mut controller, soon(), None, &mut found).unwrap();
    assert_eq!((found.manufacturer_id, found.product_id), (Some(10876), Some(0x0953)));
    assert_eq!(
        (found.firmware.as_deref(), found.ipmi_version.as_deref()),
        (Some("3.88"), Some("2.0"))
    );
    assert_eq!(found.guid.as_deref(), Some("04030201-4dec-119b-8a00-0087652143ff"));
    assert_eq!(found.address.as_deref(), Some("10.0.8.12"));
    let [one, eight] = found.channels.as_slice() else {
        panic!("{:?}", found.channels)
    };
    assert_eq!((one.number, one.address.as_deref()), (1, Some("10.0.8.12/23")));
    assert_eq!((one.source, one.vlan), (Some(AddressSource::Static), None));
    assert_eq!(one.gateway.as_deref(), Some("10.0.8.1"));
    assert_eq!(one.mac.unwrap().to_string(), "52:54:00:01:02:01");
    assert_eq!(one.ipv6, ["2001:db8::5/64", "fe80::7/64"], "an address that is pending is none");
    assert_eq!(one.cipher_suites, [3, 17, 0]);
    assert_eq!((eight.number, eight.source, eight.vlan), (8, Some(AddressSource::DHCP), Some(100)));
    inventory(found).check_bounds().unwrap();
    // It was only asked: Get Device ID, Get System GUID, Get Channel Info, Get Channel Cipher Suites, Get LAN Configuration Parameters.
    let changes = controller
        .asked
        .iter()
        .filter(|(function, command, _)| !matches!((function, command), (6, 0x01 | 0x37 | 0x42 | 0x54) | (0x0c, 0x02)));
    assert_eq!(changes.count(), 0);
}

#[test]
fn one_that_falls_silent_is_asked_nothing_more_and_what_it_said_stays() {
    let (mut controller, mut found) = (Controller::new(), Bmc::default());
    controller.silent_after = 6;
    let error = read(&mut controller, soon(), None, &mut found).unwrap_err();
    assert!(matches!(error, BmcError::Silent { .. }), "{error}");
    assert_eq!(controller.asked.len(), 6);
    assert_eq!(found.manufacturer_id, Some(10876));
    assert_eq!(found.channels[0].address.as_deref(), Some("10.0.8.12/23"));
    assert_eq!(found.address.as_deref(), Some("10.0.8.12"), "what is known of a channel counts");
}

#[test]
fn nothing_is_asked_after_the_deadline() {
    let mut controller = Controller::new();
    let error = read(&mut controller, Instant::now(), None, &mut Bmc::default()).unwrap_err();
    assert!(error.to_string().contains("Get Device ID"), "{error}");
    assert!(controller.asked.is_empty());
}

#[test]
fn device_ids_of_the_specification() {
    // Table 20-2: 51h is IPMI 1.5; the firmware's minor version is BCD, and its upper bit of the major one says that it is being updated.
    let id = identity::DeviceId::parse(&[0x20, 0, 0x81, 0x23, 0x51, 0, 0xff, 0xff, 0xff, 0, 0]).unwrap();
    assert_eq!((id.firmware, id.ipmi, id.manufacturer), ((1, 23), (1, 5), None));
    assert!(
        identity::DeviceId::parse(&[0x20, 0, 0x81])
            .unwrap_err()
            .to_string()
            .contains("3 bytes")
    );
}

#[test]
fn a_guid_is_read_in_the_order_that_makes_it_the_systems() {
    let system: SystemUuid = "6f0c1d2e-3b4a-4c5d-8e6f-708192a3b4c5".parse().unwrap();
    let shown = |mut bytes: [u8; 16], turn: fn(&mut [u8; 16]), known| {
        turn(&mut bytes);
        identity::guid(&bytes, known).map(|g| g.to_string())
    };
    let turns: [fn(&mut [u8; 16]); 3] = [
        |b| b.reverse(),
        |b| {
            b[..4].reverse();
            b[4..6].reverse();
            b[6..8].reverse();
        },
        |_| {},
    ];
    for turn in turns {
        assert_eq!(
            shown(system.0, turn, Some(system)).as_deref(),
            Some("6f0c1d2e-3b4a-4c5d-8e6f-708192a3b4c5")
        );
    }
    assert_eq!(
        shown(system.0, turns[0], None).as_deref(),
        Some("6f0c1d2e-3b4a-4c5d-8e6f-708192a3b4c5")
    );
    assert_eq!(identity::guid(&[0; 16], None), None);
    assert_eq!(identity::guid(&[0xff; 16], None), None);
}

#[test]
fn values_of_lan_parameters() {
    assert_eq!(lan::vlan(&[0xfe, 0x8f]), Some(4094));
    assert_eq!(lan::vlan(&[0xff, 0x8f]), None, "4095 is no VLAN");
    assert_eq!(lan::vlan(&[0x64, 0x00]), None, "switched off");
    assert_eq!(lan::vlan(&[0x64]), None);
    assert_eq!(lan::prefix(&[255, 255, 255, 192]), Some(26));
    assert_eq!(
        (lan::prefix(&[0, 0, 0, 0]), lan::prefix(&[255, 255, 255, 255])),
        (Some(0), Some(32))
    );
    assert_eq!(lan::prefix(&[255, 0, 255, 0]), None);
    assert_eq!((lan::ipv4(&[0, 0, 0, 0]), lan::ipv4(&[1, 2, 3])), (None, None));
    assert_eq!(lan::source(&[0xf3]), Some(AddressSource::Firmware));
    assert!(lan::is_lan(1, &[1, 0x84]) && !lan::is_lan(1, &[2, 4]) && !lan::is_lan(1, &[1]));
    // Table 22-18, and a record that ends early.
    assert_eq!(lan::suites(&[0xc0, 3, 1, 0x41, 0x81, 0xc0, 3, 1, 0xc0]), [3]);
    assert_eq!(lan::suites(&[0x41, 0xc0, 3]), Vec::<u8>::new());
}

fn account() -> Account {
    Account {
        name: "kube-baremetal".to_owned(),
        password: "Abcdefgh12345678".to_owned(),
        privilege: Privilege::Operator,
    }
}

#[test]
fn a_user_is_made_in_the_first_free_place_and_made_again_without_harm() {
    let mut controller = Controller::new();
    // A channel over which sessions can be opened before the system starts only, with too low a limit.
    controller.channels.insert((1, 0x40), (1, 2));
    let number = ensure(&mut controller, &account(), &[1, 8], soon()).unwrap();
    assert_eq!(number, 3);
    let user = &controller.users[&3];
    assert_eq!(&user.name, b"kube-baremetal\0\0");
    assert_eq!(user.password, b"Abcdefgh12345678\0\0\0\0");
    assert!(user.enabled);
    assert_eq!(user.access, BTreeMap::from([(1, 0x13), (8, 0x13)]));
    assert_eq!(controller.channels[&(1, 0x40)], (2, 3));
    assert_eq!(controller.channels[&(1, 0x80)], (2, 4), "what suffices is left alone");
    assert_eq!(&controller.users[&2].name[..5], b"admin");
    assert!(controller.users[&2].password.is_empty());

    let other = Account {
        password: "Other-Pass-1".to_owned(),
        privilege: Privilege::Administrator,
        ..account()
    };
    assert_eq!(ensure(&mut controller, &other, &[1], soon()).unwrap(), 3);
    assert_eq!(controller.users[&3].access[&1], 0x14);
    assert_eq!(controller.users.len(), 2 + 1, "one of them only because it was asked about");
}

#[test]
fn a_controller_of_short_passwords_gets_a_short_one() {
    let mut controller = Controller::new();
    controller.long = false;
    ensure(&mut controller, &account(), &[1], soon()).unwrap();
    assert_eq!(controller.users[&3].password, b"Abcdefgh12345678");
    let long = Account {
        password: "Abcdefgh123456789".to_owned(),
        ..account()
    };
    let error = ensure(&mut controller, &long, &[1], soon()).unwrap_err();
    assert!(matches!(error, BmcError::Refused { code: 0xc7, .. }), "{error}");
    assert!(!error.to_string().contains("Abcdefgh") && !format!("{error:?} {long:?}").contains("Abcdefgh"));
}

#[test]
fn no_place_and_no_channel_and_lies_are_said() {
    let mut full = Controller::new();
    full.highest = 4;
    for number in 3..=4 {
        full.user(number).name[0] = b'x';
    }
    let error = ensure(&mut full, &account(), &[1], soon()).unwrap_err();
    assert!(error.to_string().contains("no place"), "{error}");
    assert!(full.asked.iter().all(|(_, command, _)| !matches!(command, 0x43 | 0x45 | 0x47)));

    let error = ensure(&mut Controller::new(), &account(), &[], soon()).unwrap_err();
    assert!(error.to_string().contains("no LAN channel"), "{error}");

    let mut liar = Controller::new();
    liar.forgets = true;
    let error = ensure(&mut liar, &account(), &[1], soon()).unwrap_err();
    assert!(error.to_string().contains("password is another"), "{error}");

    for name in ["", "sixteen-is-the-end", "a b", "ä"] {
        let bad = Account {
            name: name.to_owned(),
            ..account()
        };
        let mut untouched = Controller::new();
        assert!(ensure(&mut untouched, &bad, &[1], soon()).is_err());
        assert!(untouched.asked.is_empty());
    }
}

#[test]
fn a_user_without_a_name_that_may_log_in_is_somebodys() {
    let mut controller = Controller::new();
    let anonymous = controller.user(3);
    anonymous.enabled = true;
    anonymous.access.insert(1, 0x14);
    assert_eq!(ensure(&mut controller, &account(), &[1], soon()).unwrap(), 4);
    assert_eq!(controller.users[&3].name, [0; 16]);
}

#[test]
fn a_request_does_not_show_its_data() {
    let mut controller = Controller::new();
    ensure(&mut controller, &account(), &[1], soon()).unwrap();
    let request = Request::new("Set User Password (set)", APPLICATION, 0x47, *b"secret");
    assert!(!format!("{request:?}").contains("115"), "{request:?}");
}

/// Says what it was given, whatever it is asked.
struct Hostile(VecDeque<(u8, Vec<u8>)>);

impl Interface for Hostile {
    fn exchange(&mut self, request: &Request, _: Instant) -> Result<(u8, Vec<u8>), BmcError> {
        self.0.pop_front().ok_or(BmcError::Silent { command: request.name })
    }
}

proptest! {
    #[test]
    fn no_answers_make_it_panic_or_leave_the_bounds(answers in proptest::collection::vec((prop_oneof![4 => Just(0u8), 1 => any::<u8>()], proptest::collection::vec(any::<u8>(), 0..40)), 0..300)) {
        let mut found = Bmc::default();
        read(&mut Hostile(answers.clone().into()), soon(), None, &mut found).ok();
        prop_assert!(inventory(found).check_bounds().is_ok());
        ensure(&mut Hostile(answers.into()), &account(), &[1, 8], soon()).ok();
    }

    #[test]
    fn a_hostile_controller_with_channels_everywhere_stays_within_bounds(tail in proptest::collection::vec(any::<u8>(), 0..40)) {
        struct Everywhere(Vec<u8>);
        impl Interface for Everywhere {
            fn exchange(&mut self, request: &Request, _: Instant) -> Result<(u8, Vec<u8>), BmcError> {
                Ok((0, match request.command {
                    0x42 => vec![request.data[0], 4],
                    0x01 => vec![0xff; 15],
                    // All the bytes that an answer can have, and each a record.
                    0x54 => [&[1][..], &[0xc0; 16]].concat(),
                    _ => self.0.clone(),
                }))
            }
        }
        let mut found = Bmc::default();
        read(&mut Everywhere(tail), soon(), None, &mut found).unwrap();
        prop_assert_eq!(found.channels.len(), 11);
        prop_assert!(inventory(found).check_bounds().is_ok());
    }

    #[test]
    fn suites_are_numbers_of_records(records in proptest::collection::vec(any::<u8>(), 0..200)) {
        let found = lan::suites(&records);
        prop_assert!(found.len() <= 32);
        prop_assert!(found.iter().all(|suite| records.windows(2).any(|w| w == [0xc0, *suite])));
    }
}
