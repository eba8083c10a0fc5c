//! Routers and servers that are configured by hand or by commands.

use dhcp::arch::Firmware;

use super::{Plan, servers::line};
use std::fmt::Write as _;

/// For servers that give every machine, iPXE included, the same file by architecture.
fn only_signed(plan: &Plan, text: &mut String) {
    if plan.signed {
        text.push_str(
            "It cannot tell iPXE from firmware. That does no harm to machines with UEFI, which load shim and the signed GRUB; machines with BIOS would load iPXE over and over,\n\
             so leave the field for BIOS empty, and for those start the boot server with --dhcp instead of all this.\n",
        );
    } else {
        text.push_str(
            "It cannot tell iPXE from firmware: iPXE would be given iPXE again, over and over. Either start the boot server with --dhcp INTERFACE, which needs no setting here at all\n\
             (switch network boot off in it), or give machines with UEFI the signed loader (--uefi-loader signed). Use the steps below only where every card has iPXE in its ROM.\n",
        );
    }
}

pub(super) fn unifi(plan: &Plan) -> String {
    let mut text = String::from("Kube BareMetal with UniFi Network\n\n");
    only_signed(plan, &mut text);
    let file = if plan.signed { plan.tftp(Firmware::UefiX64) } else { &plan.script };
    line!(
        text,
        "\n1. Settings > Networks > (the network of the machines) > DHCP > Show Options."
    );
    line!(text, "2. Network Boot: on; server {}, file {file}", plan.server);
    line!(text, "3. Apply. There is one file for all machines of the network.");
    text
}

pub(super) fn pfsense(plan: &Plan) -> String {
    let mut text = String::from("Kube BareMetal with pfSense\n\n");
    only_signed(plan, &mut text);
    line!(
        text,
        "\n1. Services > DHCP Server > (the interface of the machines) > Network Booting: Enable."
    );
    line!(text, "2. Next Server: {}", plan.server);
    if plan.signed {
        for (field, firmware) in [
            ("UEFI 32 bit File Name", Firmware::UefiIa32),
            ("UEFI 64 bit File Name", Firmware::UefiX64),
            ("ARM 64 bit File Name", Firmware::UefiArm64),
        ] {
            line!(text, "   {field}: {}", plan.tftp(firmware));
        }
    } else {
        line!(text, "   Default BIOS File Name, and each of the UEFI ones: {}", plan.script);
    }
    line!(text, "3. Save, Apply Changes.");
    text
}

pub(super) fn mikrotik(plan: &Plan) -> String {
    let mut text = String::from(
        "# Kube BareMetal: in a terminal of RouterOS 7.4 or newer. Matchers are tried in this order, so iPXE comes first: it gets the script, never a loader again.\n\
         /ip dhcp-server option\n",
    );
    line!(text, "add name=kbm-server code=66 value=\"s'{}'\"", plan.server);
    line!(text, "add name=kbm-ipxe code=67 value=\"s'{}'\"", plan.script);
    let rows: Vec<_> = plan.rows().filter(|row| !row.http).collect();
    for row in &rows {
        line!(text, "add name=kbm-{} code=67 value=\"s'{}'\"", row.slug, row.file);
    }
    line!(text, "/ip dhcp-server option sets\nadd name=kbm-ipxe options=kbm-ipxe");
    for row in &rows {
        line!(text, "add name=kbm-{0} options=kbm-server,kbm-{0}", row.slug);
    }
    line!(
        text,
        "/ip dhcp-server matcher\nadd name=kbm-ipxe code=77 matching-type=substring value=\"iPXE\" option-set=kbm-ipxe"
    );
    for row in &rows {
        for number in row.numbers {
            line!(
                text,
                "add name=kbm-{0}-{number} code=93 value=0x{number:04x} option-set=kbm-{0}",
                row.slug
            );
        }
    }
    line!(
        text,
        "# Firmware that looks at siaddr and not at option 66 needs this, too:\n/ip dhcp-server network set [find] next-server={}",
        plan.server
    );
    text
}

pub(super) fn windows(plan: &Plan) -> String {
    let mut text = String::from(
        "# Kube BareMetal: in PowerShell on the DHCP server, as an administrator. Remove the options 60, 66 and 67 of the scope first, if there are any.\n",
    );
    match plan.scope {
        Some(network) => line!(text, "$scope = '{network}'"),
        None => line!(text, "$scope = Read-Host 'ScopeId of the machines network'"),
    }
    text.push_str(
        "# iPXE gets the script, never a loader again: its policy is the first one.\n\
         Add-DhcpServerv4Class -Name 'kbm-ipxe' -Type User -Data 'iPXE'\n\
         Add-DhcpServerv4Policy -ScopeId $scope -Name 'kbm-ipxe' -ProcessingOrder 1 -Condition Or -UserClass EQ,'kbm-ipxe'\n",
    );
    line!(
        text,
        "Set-DhcpServerv4OptionValue -ScopeId $scope -PolicyName 'kbm-ipxe' -OptionId 67 -Value '{}'",
        plan.script
    );
    let mut order = 2;
    for row in plan.rows().filter(|row| !row.http) {
        line!(text, "# {}", row.firmware);
        for number in row.numbers {
            let name = format!("kbm-{}-{number}", row.slug);
            line!(
                text,
                "Add-DhcpServerv4Class -Name '{name}' -Type Vendor -Data 'PXEClient:Arch:{number:05}'"
            );
            line!(
                text,
                "Add-DhcpServerv4Policy -ScopeId $scope -Name '{name}' -ProcessingOrder {order} -Condition And -VendorClass EQ,'{name}*' -UserClass NE,'kbm-ipxe'"
            );
            line!(
                text,
                "Set-DhcpServerv4OptionValue -ScopeId $scope -PolicyName '{name}' -OptionId 66 -Value '{}'",
                plan.server
            );
            line!(
                text,
                "Set-DhcpServerv4OptionValue -ScopeId $scope -PolicyName '{name}' -OptionId 67 -Value '{}'",
                row.file
            );
            order += 1;
        }
    }
    text
}
