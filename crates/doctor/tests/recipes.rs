//! The recipes: what the servers themselves say of them, and golden files for those that cannot be asked here.
//!
//! `KBM_RECORD_GOLDEN=1 cargo test -p doctor --test recipes` writes the golden files anew.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
};

use dhcp::arch::Loaders;
use doctor::recipes::{Format, Plan};

fn plan(loaders: Loaders, http_boot: bool) -> Plan {
    let plan = Plan::new(Ipv4Addr::new(192, 0, 2, 10).into(), 8080, loaders, http_boot).unwrap();
    plan.with_scope(Ipv4Addr::new(192, 0, 2, 0))
}

fn all_plans() -> [Plan; 3] {
    [
        plan(Loaders::Ipxe, false),
        plan(Loaders::SecureBoot, false),
        plan(Loaders::Ipxe, true),
    ]
}

/// Lets a server check its configuration; `false` where it is not installed, which is told.
fn accepts(program: &str, arguments: &[&str], configuration: &str, suffix: &str) -> bool {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    std::fs::write(file.path(), configuration).unwrap();
    let done = match Command::new(program).args(arguments).arg(file.path()).output() {
        Ok(done) => done,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("{program} is not installed: its recipe was not checked by it");
            return false;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{program} refuses\n{configuration}\n{said}");
    true
}

#[test]
fn dnsmasq_takes_it_and_refuses_a_wrong_one() {
    for plan in all_plans() {
        if !accepts("dnsmasq", &["--test", "-C"], &plan.recipe(Format::Dnsmasq).unwrap(), ".conf") {
            return;
        }
    }
    let server = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
    let over_ipv6 = Plan::new(server.into(), 8080, Loaders::SecureBoot, true).unwrap();
    accepts("dnsmasq", &["--test", "-C"], &over_ipv6.recipe(Format::Dnsmasq).unwrap(), ".conf");
    let wrong = plan(Loaders::Ipxe, false)
        .recipe(Format::Dnsmasq)
        .unwrap()
        .replace("dhcp-match", "dhcp-mtach");
    let refused = std::panic::catch_unwind(|| accepts("dnsmasq", &["--test", "-C"], &wrong, ".conf"));
    assert!(refused.is_err(), "the check can fail");
}

#[test]
fn kea_takes_it() {
    for plan in all_plans() {
        let text = plan.recipe(Format::Kea).unwrap();
        let json: String = text.lines().filter(|line| !line.starts_with("//")).collect();
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(
            parsed["Dhcp4"]["client-classes"]
                .as_array()
                .is_some_and(|classes| classes.len() >= 5)
        );
        if !accepts("kea-dhcp4", &["-t"], &text, ".json") {
            return;
        }
    }
}

#[test]
fn isc_dhcpd_takes_it() {
    for plan in all_plans() {
        if !accepts("dhcpd", &["-t", "-cf"], &plan.recipe(Format::IscDhcpd).unwrap(), ".conf") {
            return;
        }
    }
}

#[test]
fn the_shell_of_openwrt_reads_its_recipe() {
    for plan in all_plans() {
        assert!(accepts("sh", &["-n"], &plan.recipe(Format::OpenWrt).unwrap(), ".sh"));
    }
}

#[test]
fn recipes_are_those_that_were_looked_at() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (suffix, loaders, http_boot) in [("ipxe", Loaders::Ipxe, true), ("signed", Loaders::SecureBoot, false)] {
        for format in Format::ALL {
            let path = folder.join(format!("{}-{suffix}.txt", format.name()));
            let text = plan(loaders, http_boot).recipe(format).unwrap();
            if std::env::var_os("KBM_RECORD_GOLDEN").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(text, golden, "{}", path.display());
        }
    }
}
