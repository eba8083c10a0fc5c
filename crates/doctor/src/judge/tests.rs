use dhcp::arch::{BootTable, Loaders};

use super::*;
use crate::probe::{Link, Offer};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

fn table() -> BootTable {
    BootTable::built_in(
        Loaders::Ipxe,
        "http://10.77.0.2:8080/boot/loaders",
        "http://10.77.0.2:8080/boot/ipxe",
    )
    .unwrap()
}

fn expected<'e>(table: &'e BootTable, replicas: &'e BTreeSet<Ipv4Addr>) -> Expected<'e> {
    Expected {
        table,
        replicas,
        reserved_only: false,
    }
}

fn offer(asker: Asker, from: Ipv4Addr) -> Offer {
    Offer {
        asker,
        from,
        mac: Some(format!("52:54:00:00:00:{:02x}", from.octets()[3])),
        server_id: Some(from),
        address: None,
        next_server: None,
        boot_file: String::new(),
        class: String::new(),
        mtu: None,
    }
}

fn lease(asker: Asker, from: Ipv4Addr) -> Offer {
    Offer {
        address: Some(Ipv4Addr::new(10, 77, 0, 100)),
        ..offer(asker, from)
    }
}

fn proxy(asker: Asker) -> Offer {
    Offer {
        class: "PXEClient".to_owned(),
        next_server: Some(OURS),
        ..offer(asker, OURS)
    }
}

fn worked() -> Tried {
    Tried::Worked {
        milliseconds: 3,
        what: "something".to_owned(),
        retries: 0,
    }
}

fn failed() -> Tried {
    Tried::Failed {
        why: "no answer".to_owned(),
    }
}

fn healthy() -> Facts {
    let link = Link {
        name: "eth0".to_owned(),
        mac: "52:54:00:00:00:03".to_owned(),
        mtu: 1500,
        up: true,
        addresses: vec![address()],
    };
    Facts {
        link,
        offers: vec![
            lease(Asker::System, ROUTER),
            lease(Asker::UefiX64, ROUTER),
            proxy(Asker::UefiX64),
            proxy(Asker::Bios),
        ],
        boot_server: Some(BootServer {
            address: OURS,
            is_here: false,
            on_link: true,
            proxy: worked(),
            loader: Some("ipxe-x64.efi".to_owned()),
            tftp_small: worked(),
            tftp_full: worked(),
            tftp_jumbo: Tried::NotTried { why: String::new() },
            http: worked(),
            media: worked(),
            tls: worked(),
        }),
    }
}

fn address() -> crate::probe::Address {
    crate::probe::Address {
        address: Ipv4Addr::new(10, 77, 0, 3),
        netmask: Ipv4Addr::new(255, 255, 255, 0),
    }
}

fn bad(facts: &Facts) -> Vec<(&'static str, Verdict)> {
    let findings = judge(facts, expected(&table(), &BTreeSet::new()), Some(&[]));
    assert!(
        findings.iter().all(|f| f.verdict < Verdict::Warning || !f.remedy.is_empty()),
        "each has a remedy"
    );
    findings
        .iter()
        .filter(|f| f.verdict != Verdict::Good)
        .map(|f| (f.check, f.verdict))
        .collect()
}

#[test]
fn a_healthy_network_has_nothing_to_say() {
    assert_eq!(bad(&healthy()), []);
    assert_eq!(
        worst(&judge(&healthy(), expected(&table(), &BTreeSet::new()), Some(&[]))),
        Verdict::Good
    );
    assert_eq!(
        bad(&Facts {
            boot_server: None,
            ..healthy()
        }),
        [("bootServer", Verdict::Unknown)]
    );
}

#[test]
fn each_fault_is_found_and_only_that() {
    let change = |change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        bad(&facts)
    };
    let server = |change: &dyn Fn(&mut BootServer)| {
        let mut facts = healthy();
        change(facts.boot_server.as_mut().unwrap());
        bad(&facts)
    };
    let problem = |check| vec![(check, Verdict::Problem)];
    let other = Ipv4Addr::new(10, 77, 0, 66);
    assert_eq!(change(&|f| f.link.up = false), problem("link"));
    assert_eq!(change(&|f| f.offers.retain(|o| o.address.is_none())), problem("dhcpServer"));
    assert_eq!(
        change(&|f| f.offers.push(lease(Asker::System, other))),
        [("dhcpServer", Verdict::Warning)]
    );
    assert_eq!(change(&|f| f.offers.retain(|o| o.from != OURS)), problem("port67"));
    assert_eq!(
        change(&|f| {
            f.offers.retain(|o| o.from != OURS);
            f.boot_server.as_mut().unwrap().on_link = false;
        }),
        problem("relay")
    );
    assert_eq!(
        change(&|f| f.offers[1].boot_file = "pxelinux.0".to_owned()),
        problem("bootOptions"),
        "the router has boot options of its own"
    );
    assert_eq!(
        change(&|f| {
            f.offers[1].boot_file = "ipxe-x64.efi".to_owned();
            f.offers[1].next_server = Some(OURS);
        }),
        [],
        "the router points at us"
    );
    assert_eq!(change(&|f| f.offers[0].mtu = Some(9000)), [("mtu", Verdict::Warning)]);
    assert_eq!(server(&|s| s.proxy = failed()), problem("port4011"));
    assert_eq!(server(&|s| s.tftp_small = failed()), problem("tftp"));
    assert_eq!(server(&|s| s.tftp_full = failed()), problem("mtu"));
    assert_eq!(server(&|s| s.tftp_jumbo = failed()), problem("jumboFrames"));
    assert_eq!(server(&|s| s.http = failed()), problem("http"));
    assert_eq!(server(&|s| s.media = failed()), problem("bootMedia"));
    assert_eq!(server(&|s| s.tls = failed()), problem("agentPort"));
    assert_eq!(server(&|s| s.is_here = true), [("firewall", Verdict::Unknown)]);
    let slow = |s: &mut BootServer| {
        if let Tried::Worked { retries, .. } = &mut s.tftp_small {
            *retries = 2;
        }
    };
    assert_eq!(server(&slow), [("loss", Verdict::Warning)]);
}

#[test]
fn a_rogue_server_is_named_by_address_and_card() {
    let mut facts = healthy();
    let rogue = Ipv4Addr::new(10, 77, 0, 66);
    facts.offers.push(Offer {
        boot_file: "evil.efi".to_owned(),
        next_server: Some(rogue),
        ..lease(Asker::UefiX64, rogue)
    });
    let text = render(&judge(&facts, expected(&table(), &BTreeSet::new()), None));
    assert!(
        text.contains("10.77.0.66 (52:54:00:00:00:42) tells machines to boot something else: UefiX64 \"evil.efi\" from 10.77.0.66"),
        "{text}"
    );
    assert!(
        text.contains("WARNING  dhcpServer    2 DHCP servers give out addresses: 10.77.0.1 (52:54:00:00:00:01) and 10.77.0.66"),
        "{text}"
    );
    assert!(text.contains("boot timelines were not looked at"), "{text}");
}

#[test]
fn replicas_are_no_strangers_to_each_other() {
    let other = Ipv4Addr::new(10, 77, 0, 4);
    // Two that give out addresses: who answers which machine first, a hash decides.
    let answers = |asker| Offer {
        next_server: Some(other),
        boot_file: "bootx64.efi".to_owned(),
        ..lease(asker, other)
    };
    let mut facts = healthy();
    facts.offers = vec![lease(Asker::System, OURS), answers(Asker::Bios), answers(Asker::UefiX64)];
    let found = |replicas: &[Ipv4Addr]| {
        let findings = judge(&facts, expected(&table(), &replicas.iter().copied().collect()), Some(&[]));
        let odd = findings.into_iter().filter(|f| f.verdict != Verdict::Good);
        odd.map(|f| (f.check, f.verdict)).collect::<Vec<_>>()
    };
    assert_eq!(found(&[other]), []);
    assert_eq!(
        found(&[]),
        [
            ("dhcpServer", Verdict::Warning),
            ("bootOptions", Verdict::Problem),
            ("port67", Verdict::Problem)
        ]
    );
    // A stranger beside them is one.
    facts.offers.push(lease(Asker::System, ROUTER));
    let findings = judge(&facts, expected(&table(), &BTreeSet::from([other])), Some(&[]));
    let dhcp = findings.iter().find(|f| f.check == "dhcpServer").unwrap();
    assert!(
        dhcp.verdict == Verdict::Warning && dhcp.seen.starts_with("2 DHCP servers"),
        "{}",
        dhcp.seen
    );
}

#[test]
fn a_server_may_point_at_any_replica() {
    let other = Ipv4Addr::new(10, 77, 0, 4);
    let mut facts = healthy();
    facts.offers[1].boot_file = "ipxe-x64.efi".to_owned();
    facts.offers[1].next_server = Some(other);
    facts.offers.push(Offer {
        boot_file: "http://10.77.0.4:8080/boot/ipxe".to_owned(),
        ..lease(Asker::Ipxe, ROUTER)
    });
    let verdict = |replicas: &[Ipv4Addr]| {
        let findings = judge(&facts, expected(&table(), &replicas.iter().copied().collect()), Some(&[]));
        findings.iter().find(|f| f.check == "bootOptions").map(|f| f.verdict)
    };
    assert_eq!(verdict(&[other]), Some(Verdict::Good));
    assert_eq!(verdict(&[]), Some(Verdict::Problem));
}

#[test]
fn a_replica_beside_it_does_not_speak_for_a_silent_one() {
    let other = Ipv4Addr::new(10, 77, 0, 4);
    let mut facts = healthy();
    for offer in facts.offers.iter_mut().filter(|offer| offer.from == OURS) {
        (offer.from, offer.server_id, offer.next_server) = (other, Some(other), Some(other));
    }
    let port67 = |facts: &Facts| {
        let findings = judge(facts, expected(&table(), &BTreeSet::from([other])), Some(&[]));
        findings.into_iter().find(|f| f.check == "port67").unwrap()
    };
    assert_eq!(port67(&facts).verdict, Verdict::Problem, "ProxyDHCP: each answers for itself");
    for offer in facts.offers.iter_mut().filter(|offer| offer.from == other) {
        offer.address = Some(Ipv4Addr::new(10, 77, 0, 100));
    }
    let found = port67(&facts);
    assert_eq!(found.verdict, Verdict::Good, "addresses: one answers each machine");
    assert_eq!(found.seen, "10.77.0.4 offers boot parameters to Bios, UefiX64");
}

#[test]
fn what_is_not_to_be_given_is_not_missed() {
    let mut facts = healthy();
    facts.offers.clear();
    facts.boot_server.as_mut().unwrap().proxy = failed();
    let verdicts = |facts: &Facts, table: &BootTable, reserved_only| {
        let replicas = BTreeSet::new();
        let expected = Expected {
            reserved_only,
            ..expected(table, &replicas)
        };
        let findings = judge(facts, expected, Some(&[]));
        ["dhcpServer", "port67", "port4011"].map(|check| findings.iter().find(|f| f.check == check).unwrap().verdict)
    };
    use Verdict::{Good, Problem, Unknown};
    assert_eq!(verdicts(&facts, &table(), false), [Problem, Problem, Problem]);
    assert_eq!(verdicts(&facts, &table(), true), [Unknown, Unknown, Problem]);
    let mut without_uefi = table();
    without_uefi.set(Firmware::UefiX64, Boot::Nothing).unwrap();
    assert_eq!(verdicts(&facts, &without_uefi, false), [Problem, Problem, Unknown]);
    assert_eq!(verdicts(&facts, &BootTable::default(), false), [Problem, Unknown, Unknown]);
    assert_eq!(
        verdicts(&healthy(), &BootTable::default(), true),
        [Good, Good, Good],
        "what is there is seen"
    );
    // Another server may give it to firmware that we leave alone.
    let mut facts = healthy();
    facts.offers[1].boot_file = "another.efi".to_owned();
    let options = |table: &BootTable| {
        let findings = judge(&facts, expected(table, &BTreeSet::new()), Some(&[]));
        findings.iter().find(|f| f.check == "bootOptions").map(|f| f.verdict)
    };
    assert_eq!((options(&table()), options(&without_uefi)), (Some(Problem), Some(Good)));
}
