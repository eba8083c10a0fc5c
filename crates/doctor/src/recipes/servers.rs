//! DHCP servers that are configured by a file.

use std::{fmt::Write as _, net::Ipv6Addr};

use dhcp::arch::Firmware;
use serde_json::json;

use super::Plan;

/// Adds a line. Writing to a String does not fail.
macro_rules! line {
    ($text:expr, $($words:tt)*) => {
        writeln!($text, $($words)*).unwrap_or_default()
    };
}
pub(super) use line;

pub(super) fn dnsmasq(plan: &Plan) -> String {
    let mut text = String::from(
        "# Kube BareMetal: machines of this network boot from it. For a file in /etc/dnsmasq.d, beside the dhcp-range that is there.\n\
         # iPXE, whether from a card's ROM or loaded by the lines below, gets the script: never a loader again.\n",
    );
    line!(text, "dhcp-match=set:kbm-ipxe,175");
    line!(text, "dhcp-userclass=set:kbm-ipxe,iPXE");
    line!(text, "dhcp-boot=tag:kbm-ipxe,{}", plan.script);
    for row in plan.rows() {
        line!(text, "# {}", row.firmware);
        for number in row.numbers {
            line!(text, "dhcp-match=set:kbm-{},option:client-arch,{number}", row.slug);
        }
        if row.http {
            line!(text, "dhcp-option-force=tag:kbm-{},tag:!kbm-ipxe,60,HTTPClient", row.slug);
            line!(text, "dhcp-boot=tag:kbm-{},tag:!kbm-ipxe,{}", row.slug, row.file);
        } else {
            line!(text, "dhcp-boot=tag:kbm-{},tag:!kbm-ipxe,{},,{}", row.slug, row.file, plan.server);
        }
    }
    text
}

/// The same for its DHCPv6: a URL for each firmware (RFC 5970). HTTP boot of EDK2 takes no URL without the class HTTPClient under an enterprise number, and dnsmasq writes texts alone into
/// that option.
pub(super) fn dnsmasq_v6(plan: &Plan, server: Ipv6Addr) -> String {
    let mut text = String::from(
        "# Kube BareMetal: machines of this network boot from it over IPv6. For a file in /etc/dnsmasq.d, beside the dhcp-range and enable-ra that are there.\n\
         # iPXE gets the script: never a loader again.\n",
    );
    line!(text, "dhcp-userclass=set:kbm-ipxe,iPXE");
    line!(text, "dhcp-option=tag:kbm-ipxe,option6:bootfile-url,{}", plan.script);
    for row in plan.rows().filter(|row| row.firmware != Firmware::Bios) {
        line!(text, "# {}", row.firmware);
        if row.http {
            line!(
                text,
                "# dnsmasq cannot tell it: it takes no URL without a class that holds a number"
            );
            continue;
        }
        for number in row.numbers {
            let [high, low] = number.to_be_bytes();
            line!(text, "dhcp-match=set:kbm-{},option6:61,{high:02x}:{low:02x}", row.slug);
        }
        line!(
            text,
            "dhcp-option=tag:kbm-{},tag:!kbm-ipxe,option6:bootfile-url,tftp://[{server}]/{}",
            row.slug,
            row.file
        );
    }
    text
}

pub(super) fn openwrt(plan: &Plan) -> String {
    let mut text = String::from(
        "# Kube BareMetal: on the router, as root. OpenWrt's dnsmasq reads this file besides its own settings.\n\
         cat >> /etc/dnsmasq.conf <<'END'\n",
    );
    text.push_str(&dnsmasq(plan));
    text.push_str("END\n/etc/init.d/dnsmasq restart\n");
    text
}

pub(super) fn isc_dhcpd(plan: &Plan) -> String {
    let mut text = String::from(
        "# Kube BareMetal: machines boot from it. Global, or inside the subnet, of /etc/dhcp/dhcpd.conf.\n\
         option kbm-architecture code 93 = unsigned integer 16;\n\
         # iPXE gets the script: never a loader again.\n\
         if exists user-class and option user-class = \"iPXE\" {\n",
    );
    line!(text, "  filename \"{}\";", plan.script);
    for row in plan.rows() {
        let numbers = row
            .numbers
            .iter()
            .map(|n| format!("option kbm-architecture = {:02x}:{:02x}", n >> 8, n & 0xff));
        let numbers = numbers.collect::<Vec<_>>().join(" or ");
        line!(text, "}} elsif {numbers} {{\n  # {}", row.firmware);
        if row.http {
            line!(text, "  option vendor-class-identifier \"HTTPClient\";");
        } else {
            line!(text, "  next-server {};", plan.server);
        }
        line!(text, "  filename \"{}\";", row.file);
    }
    text.push_str("}\n");
    text
}

pub(super) fn kea(plan: &Plan) -> String {
    let mut classes = vec![json!({
        "name": "kbm-ipxe",
        "test": "option[77].exists and substring(option[77].hex, 0, 4) == 'iPXE'",
        "boot-file-name": plan.script,
    })];
    for row in plan.rows() {
        let numbers = row.numbers.iter().map(|n| format!("option[93].hex == 0x{n:04x}"));
        let numbers = numbers.collect::<Vec<_>>().join(" or ");
        let mut class = json!({
            "name": format!("kbm-{}", row.slug),
            "test": format!("option[93].exists and ({numbers}) and not member('kbm-ipxe')"),
            "boot-file-name": row.file,
        });
        if row.http {
            // Firmware takes no URL from an answer without its class.
            class["option-data"] = json!([{ "name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true }]);
        } else {
            class["next-server"] = json!(plan.server.to_string());
        }
        classes.push(class);
    }
    let document = json!({ "Dhcp4": { "client-classes": classes } });
    let mut text = String::from(
        "// Kube BareMetal: machines boot from it. Add these classes to \"client-classes\" of your own \"Dhcp4\", in this order, and leave the rest as it is.\n",
    );
    line!(text, "{document:#}");
    text
}
