//! What to write into somebody else's DHCP server so that its network boots from us (DHCP mode `off`): the table of [`dhcp::arch`] in the words of that server.
//!
//! Three things make a recipe right, and each of them was learned from loops and silence: iPXE gets the URL of the script and never a loader again; each firmware gets its own file; and the
//! server whose file it is stands in `next-server` (siaddr), because some firmware ignores option 66. Where a server cannot tell iPXE from firmware, its recipe says so.
//!
//! A boot server with an IPv6 address is what a DHCPv6 server tells, in other words (RFC 5970); there is a recipe of that for dnsmasq alone.
//!
//! Everything here is text in, text out.

mod appliances;
mod servers;

use std::net::{IpAddr, Ipv4Addr};

use dhcp::arch::{Boot, BootTable, Firmware, Loaders, TableError};

/// A DHCP server, or the thing it is configured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// dnsmasq's configuration file.
    Dnsmasq,
    /// ISC dhcpd's `dhcpd.conf`.
    IscDhcpd,
    /// Kea's `kea-dhcp4.conf`.
    Kea,
    /// A shell on an OpenWrt router.
    OpenWrt,
    /// UniFi's network application.
    UniFi,
    /// A RouterOS terminal.
    MikroTik,
    /// pfSense's web interface.
    PfSense,
    /// PowerShell on a Windows server.
    Windows,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Dnsmasq,
        Self::IscDhcpd,
        Self::Kea,
        Self::OpenWrt,
        Self::UniFi,
        Self::MikroTik,
        Self::PfSense,
        Self::Windows,
    ];

    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dnsmasq => "dnsmasq",
            Self::IscDhcpd => "isc-dhcpd",
            Self::Kea => "kea",
            Self::OpenWrt => "openwrt",
            Self::UniFi => "unifi",
            Self::MikroTik => "mikrotik",
            Self::PfSense => "pfsense",
            Self::Windows => "windows",
        }
    }
}

/// What machines of a network are to be told.
#[derive(Debug, Clone)]
pub struct Plan {
    server: IpAddr,
    table: BootTable,
    script: String,
    signed: bool,
    scope: Option<Ipv4Addr>,
}

/// One row of a recipe.
#[derive(Debug, Clone, Copy)]
struct Row<'p> {
    firmware: Firmware,
    /// A name for classes and tags.
    slug: &'static str,
    /// Its numbers in option 93 (IANA, "Processor Architecture Types"; 9 is what RFC 4578 says and hardly any firmware sends).
    numbers: &'static [u16],
    /// The file over TFTP, or the URL.
    file: &'p str,
    http: bool,
}

/// Firmware in the order of its rows.
const FIRMWARE: [(Firmware, &str, &[u16]); 7] = [
    (Firmware::Bios, "bios", &[0]),
    (Firmware::UefiIa32, "uefi-ia32", &[6]),
    (Firmware::UefiX64, "uefi-x64", &[7, 9]),
    (Firmware::UefiArm64, "uefi-arm64", &[11]),
    (Firmware::HttpIa32, "http-ia32", &[15]),
    (Firmware::HttpX64, "http-x64", &[16]),
    (Firmware::HttpArm64, "http-arm64", &[19]),
];

impl Plan {
    /// For a boot server at this address, with loaders over TFTP and scripts over HTTP at this port. `http_boot`: its loaders are to be had over HTTP, too.
    ///
    /// # Errors
    /// When the table refuses a row, which means a defect here.
    pub fn new(server: IpAddr, http_port: u16, loaders: Loaders, http_boot: bool) -> Result<Self, TableError> {
        let host = match server {
            IpAddr::V4(server) => server.to_string(),
            IpAddr::V6(server) => format!("[{server}]"),
        };
        let root = format!("http://{host}:{http_port}/boot");
        let script = format!("{root}/ipxe");
        let mut table = BootTable::built_in(loaders, &format!("{root}/loaders"), &script)?;
        if !http_boot {
            for firmware in [Firmware::HttpIa32, Firmware::HttpX64, Firmware::HttpArm64] {
                table.set(firmware, Boot::Nothing)?;
            }
        }
        Ok(Self {
            server,
            table,
            script,
            signed: loaders == Loaders::SecureBoot,
            scope: None,
        })
    }

    /// The network address of the machines' network, by which a Windows server knows it.
    pub fn with_scope(mut self, network: Ipv4Addr) -> Self {
        self.scope = Some(network);
        self
    }

    /// What machines are given, by their firmware.
    pub fn table(&self) -> &BootTable {
        &self.table
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        FIRMWARE.iter().filter_map(|(firmware, slug, numbers)| {
            let (file, http) = match self.table.get(*firmware)? {
                Boot::Tftp(file) => (file, false),
                Boot::Http(url) => (url, true),
                Boot::TftpFrom(..) | Boot::Script(_) | Boot::RaspberryPi | Boot::Nothing => return None,
            };
            Some(Row {
                firmware: *firmware,
                slug,
                numbers,
                file,
                http,
            })
        })
    }

    /// The file that one firmware loads over TFTP.
    fn tftp(&self, firmware: Firmware) -> &str {
        self.rows()
            .find(|row| row.firmware == firmware && !row.http)
            .map_or("", |row| row.file)
    }

    /// The recipe, ending in a line feed.
    ///
    /// # Errors
    /// When the boot server has an IPv6 address, and there is no recipe for this DHCPv6 server.
    pub fn recipe(&self, format: Format) -> Result<String, NoRecipe> {
        if let IpAddr::V6(server) = self.server {
            return match format {
                Format::Dnsmasq => Ok(servers::dnsmasq_v6(self, server)),
                other => Err(NoRecipe(other.name())),
            };
        }
        Ok(match format {
            Format::Dnsmasq => servers::dnsmasq(self),
            Format::IscDhcpd => servers::isc_dhcpd(self),
            Format::Kea => servers::kea(self),
            Format::OpenWrt => servers::openwrt(self),
            Format::UniFi => appliances::unifi(self),
            Format::MikroTik => appliances::mikrotik(self),
            Format::PfSense => appliances::pfsense(self),
            Format::Windows => appliances::windows(self),
        })
    }
}

/// There is no recipe of DHCPv6 for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no recipe of DHCPv6 for {0}: look at the one for dnsmasq, which says what each machine is to be told")]
pub struct NoRecipe(&'static str);

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use dhcp::arch::BootClass;

    use super::*;

    #[test]
    fn the_numbers_are_those_that_the_table_knows() {
        for (firmware, slug, numbers) in FIRMWARE {
            let class = if slug.starts_with("http") {
                BootClass::Http
            } else {
                BootClass::Pxe
            };
            for number in numbers {
                assert_eq!(Firmware::new(class, *number), firmware, "{slug}");
            }
        }
    }

    #[test]
    fn every_recipe_names_the_server_and_every_file_that_its_server_can_tell_apart() {
        let plan = Plan::new(Ipv4Addr::new(192, 0, 2, 10).into(), 8080, Loaders::Ipxe, true).unwrap();
        for format in Format::ALL {
            let text = plan.recipe(format).unwrap();
            assert!(text.contains("192.0.2.10") && text.ends_with('\n') && text.is_ascii(), "{format:?}");
            if matches!(format, Format::UniFi | Format::PfSense) {
                assert!(text.contains("--dhcp"), "{format:?} cannot tell iPXE apart and says what to do");
                continue;
            }
            assert!(text.contains("http://192.0.2.10:8080/boot/ipxe"), "{format:?}");
            for firmware in [Firmware::Bios, Firmware::UefiX64, Firmware::UefiArm64] {
                assert!(text.contains(plan.tftp(firmware)), "{format:?} {firmware}");
            }
        }
        let text = plan.recipe(Format::Dnsmasq).unwrap();
        assert!(text.contains("http://192.0.2.10:8080/boot/loaders/ipxe-x64.efi"));
        let without = Plan::new(Ipv4Addr::new(192, 0, 2, 10).into(), 8080, Loaders::Ipxe, false).unwrap();
        assert!(!without.recipe(Format::Dnsmasq).unwrap().contains("/boot/loaders/"));
    }

    #[test]
    fn a_server_with_an_ipv6_address_is_told_by_dhcpv6() {
        let server = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
        let plan = Plan::new(server.into(), 8080, Loaders::SecureBoot, true).unwrap();
        let text = plan.recipe(Format::Dnsmasq).unwrap();
        for line in [
            "dhcp-option=tag:kbm-ipxe,option6:bootfile-url,http://[2001:db8::10]:8080/boot/ipxe",
            "dhcp-match=set:kbm-uefi-x64,option6:61,00:07",
            "dhcp-option=tag:kbm-uefi-x64,tag:!kbm-ipxe,option6:bootfile-url,tftp://[2001:db8::10]/bootx64.efi",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        assert!(!text.contains("bios") && !text.contains("kbm-http"), "{text}");
        assert_eq!(plan.recipe(Format::Kea), Err(NoRecipe("kea")));
    }
}
