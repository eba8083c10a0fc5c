//! What there is to boot, with the address in it by which a machine reaches this replica.
//!
//! A network's and a machine's `spec.bootLoaders` become tables of their own here. They name loaders of ours or URLs; the crate `dhcp` refuses what a firmware cannot do, what would be a loop, and
//! every text that is not plain, so an object that came past the API's rules adds nothing to a packet either.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use api::boot_loader::{BootLoader, FirmwareKind, OwnLoader};
use dhcp::arch::{Boot, BootTable, Firmware, Loaders, TableError, Tables};

use boot_script::host::Host;

/// Local addresses whose tables are kept; a host with more of them on one interface makes them anew.
const MOST_TABLES: usize = 64;
/// Different `spec.bootLoaders` whose tables are kept, of each local address.
const MOST_SAID: usize = 256;
/// Rows that were told to be left out; further ones are left out without a word.
const MOST_TOLD: usize = 1024;

/// Why a row of `spec.bootLoaders` is left out.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error("this replica has no such loader for it: put it into one of the folders of --loaders")]
    NotHere,
    #[error("it names no loader and no URL, or both")]
    Unclear,
    #[error("{0:?} is no tftp:// URL with an IPv4 address and a file")]
    Url(String),
    #[error(transparent)]
    Refused(#[from] TableError),
}

/// Makes the tables of what is booted.
pub(crate) struct TableMaker {
    loaders: Here,
    made: HashMap<IpAddr, Made>,
    /// Rows that are left out and about which a warning was given.
    told: HashSet<BootLoader>,
}

/// What this replica has.
struct Here {
    http_port: u16,
    /// Firmware for which there is a loader, and which it is offered.
    offers: Vec<(Firmware, Loaders)>,
    /// All that there is.
    available: Vec<(Firmware, Loaders)>,
}

/// For one local address.
struct Made {
    built_in: BootTable,
    said: HashMap<Vec<BootLoader>, BootTable>,
}

impl TableMaker {
    pub(crate) fn new(http_port: u16, mut offers: Vec<(Firmware, Loaders)>, available: Vec<(Firmware, Loaders)>) -> Self {
        offers.push((Firmware::Ipxe, Loaders::Ipxe));
        Self {
            loaders: Here {
                http_port,
                offers,
                available,
            },
            made: HashMap::new(),
            told: HashSet::new(),
        }
    }

    /// What holds for a machine whose packet came to this address; `hardware` and `network` are what was said about it and its network.
    pub(crate) fn tables(&mut self, local: IpAddr, hardware: &[BootLoader], network: &[BootLoader]) -> Tables<'_> {
        if self.made.len() >= MOST_TABLES && !self.made.contains_key(&local) {
            self.made.clear();
        }
        let here = &self.loaders;
        let made = self.made.entry(local).or_insert_with(|| Made {
            built_in: here.offered(local),
            said: HashMap::new(),
        });
        for rows in [hardware, network] {
            if rows.is_empty() || made.said.contains_key(rows) {
                continue;
            }
            if made.said.len() >= MOST_SAID {
                // Any but those of this very machine: which of them comes next, nobody knows.
                let other = |kept: &&Vec<BootLoader>| kept.as_slice() != hardware && kept.as_slice() != network;
                if let Some(other) = made.said.keys().find(other).cloned() {
                    made.said.remove(&other);
                }
            }
            made.said.insert(rows.to_vec(), here.said(local, rows, &mut self.told));
        }
        Tables {
            hardware: made.said.get(hardware),
            network: made.said.get(network),
            built_in: &made.built_in,
        }
    }
}

impl Here {
    fn built_in(&self, local: IpAddr, loaders: Loaders) -> BootTable {
        let root = format!("http://{}:{}/boot", Host::Address(local), self.http_port);
        BootTable::built_in(loaders, &format!("{root}/loaders"), &format!("{root}/ipxe")).unwrap_or_else(|error| {
            tracing::error!(%local, %error, "the built-in boot table is refused; machines that reach us by this address get nothing to boot");
            BootTable::default()
        })
    }

    /// Rows for which there is no loader say nothing, so that firmware goes on to what else it can boot.
    fn offered(&self, local: IpAddr) -> BootTable {
        let (ipxe, signed) = (self.built_in(local, Loaders::Ipxe), self.built_in(local, Loaders::SecureBoot));
        let mut table = BootTable::default();
        for (firmware, loaders) in &self.offers {
            let built_in = match loaders {
                Loaders::Ipxe => &ipxe,
                Loaders::SecureBoot => &signed,
            };
            if let Some(boot) = built_in.get(*firmware)
                && let Err(error) = table.set(*firmware, boot.clone())
            {
                tracing::warn!(%firmware, %error, "a row of the built-in boot table is refused");
            }
        }
        table
    }

    /// A row that cannot be followed is left out, and the next table counts.
    fn said(&self, local: IpAddr, rows: &[BootLoader], told: &mut HashSet<BootLoader>) -> BootTable {
        let mut table = BootTable::default();
        for row in rows {
            let firmware = firmware(row.firmware);
            let set = self
                .boot(local, row)
                .and_then(|boot| table.set(firmware, boot).map_err(RowError::from));
            if let Err(error) = set
                && told.len() < MOST_TOLD
                && told.insert(row.clone())
            {
                tracing::warn!(%firmware, loader = ?row.loader, url = ?row.url, %error, "a row of spec.bootLoaders is left out; machines get what holds without it");
            }
        }
        table
    }

    fn boot(&self, local: IpAddr, row: &BootLoader) -> Result<Boot, RowError> {
        let own = |loaders| {
            let firmware = firmware(row.firmware);
            let boot = self.built_in(local, loaders).get(firmware).cloned();
            boot.filter(|_| self.available.contains(&(firmware, loaders)))
                .ok_or(RowError::NotHere)
        };
        match (row.loader, row.url.as_deref()) {
            (Some(OwnLoader::Nothing), None) => Ok(Boot::Nothing),
            (Some(OwnLoader::Ipxe), None) => own(Loaders::Ipxe),
            (Some(OwnLoader::Signed), None) => own(Loaders::SecureBoot),
            (None, Some(url)) => match url.strip_prefix("tftp://") {
                Some(rest) => {
                    let wrong = || RowError::Url(url.to_owned());
                    let (server, file) = rest.split_once('/').ok_or_else(wrong)?;
                    Ok(Boot::TftpFrom(server.parse().map_err(|_| wrong())?, file.into()))
                }
                None if row.firmware == FirmwareKind::Ipxe => Ok(Boot::Script(url.into())),
                None => Ok(Boot::Http(url.into())),
            },
            (Some(_), Some(_)) | (None, None) => Err(RowError::Unclear),
        }
    }
}

fn firmware(kind: FirmwareKind) -> Firmware {
    match kind {
        FirmwareKind::Bios => Firmware::Bios,
        FirmwareKind::UefiX64 => Firmware::UefiX64,
        FirmwareKind::UefiIa32 => Firmware::UefiIa32,
        FirmwareKind::UefiArm64 => Firmware::UefiArm64,
        FirmwareKind::HttpX64 => Firmware::HttpX64,
        FirmwareKind::HttpIa32 => Firmware::HttpIa32,
        FirmwareKind::HttpArm64 => Firmware::HttpArm64,
        FirmwareKind::RaspberryPi => Firmware::RaspberryPi,
        FirmwareKind::Ipxe => Firmware::Ipxe,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn row(firmware: FirmwareKind, loader: Option<OwnLoader>, url: Option<&str>) -> BootLoader {
        BootLoader {
            firmware,
            loader,
            url: url.map(str::to_owned),
        }
    }

    fn maker() -> TableMaker {
        let offers = vec![(Firmware::Bios, Loaders::Ipxe), (Firmware::UefiX64, Loaders::SecureBoot)];
        let mut available = offers.clone();
        available.extend([(Firmware::UefiX64, Loaders::Ipxe), (Firmware::HttpX64, Loaders::Ipxe)]);
        TableMaker::new(8080, offers, available)
    }

    #[test]
    fn a_machine_outweighs_its_network_row_by_row() {
        let mut maker = maker();
        let network = [
            row(FirmwareKind::UefiX64, Some(OwnLoader::Ipxe), None),
            row(FirmwareKind::HttpX64, Some(OwnLoader::Ipxe), None),
            row(FirmwareKind::Bios, None, Some("tftp://192.0.2.5/a/pxelinux.0")),
        ];
        let hardware = [
            row(FirmwareKind::UefiX64, Some(OwnLoader::Signed), None),
            row(FirmwareKind::Ipxe, None, Some("https://boot.example/menu?a=b")),
        ];
        let choose = |tables: Tables<'_>, firmware| tables.choose(firmware).cloned();
        let tables = maker.tables(LOCAL, &[], &[]);
        assert!(tables.hardware.is_none() && tables.network.is_none());
        assert_eq!(choose(tables, Firmware::UefiX64), Some(Boot::Tftp("bootx64.efi".into())));
        assert_eq!(choose(tables, Firmware::HttpX64), None);
        let tables = maker.tables(LOCAL, &[], &network);
        assert_eq!(choose(tables, Firmware::UefiX64), Some(Boot::Tftp("ipxe-x64.efi".into())));
        let url = "http://10.0.0.1:8080/boot/loaders/ipxe-x64.efi";
        assert_eq!(choose(tables, Firmware::HttpX64), Some(Boot::Http(url.into())));
        let elsewhere = Boot::TftpFrom(Ipv4Addr::new(192, 0, 2, 5), "a/pxelinux.0".into());
        assert_eq!(choose(tables, Firmware::Bios), Some(elsewhere.clone()));
        let tables = maker.tables(LOCAL, &hardware, &network);
        assert_eq!(choose(tables, Firmware::UefiX64), Some(Boot::Tftp("bootx64.efi".into())));
        assert_eq!(choose(tables, Firmware::Bios), Some(elsewhere));
        let script = Boot::Script("https://boot.example/menu?a=b".into());
        assert_eq!(choose(tables, Firmware::Ipxe), Some(script));
        let nothing = [row(FirmwareKind::UefiX64, Some(OwnLoader::Nothing), None)];
        assert_eq!(choose(maker.tables(LOCAL, &nothing, &network), Firmware::UefiX64), None);
    }

    #[test]
    fn what_the_api_would_not_have_taken_changes_nothing() {
        let mut maker = maker();
        for bad in [
            row(FirmwareKind::UefiX64, None, Some("tftp://192.0.2.5/a\n66: x")),
            row(FirmwareKind::UefiX64, None, Some("tftp://boot.example/x.efi")),
            row(FirmwareKind::UefiX64, None, Some("tftp://192.0.2.5/../etc/passwd")),
            row(FirmwareKind::UefiX64, None, Some("http://192.0.2.5/x.efi")),
            row(FirmwareKind::UefiX64, Some(OwnLoader::Ipxe), Some("tftp://192.0.2.5/x.efi")),
            row(FirmwareKind::UefiX64, None, None),
            row(FirmwareKind::Ipxe, None, Some("http://192.0.2.5/${uuid}")),
            row(FirmwareKind::Ipxe, None, Some("http://192.0.2.5/snponly.efi")),
            row(FirmwareKind::Ipxe, Some(OwnLoader::Ipxe), None),
            row(FirmwareKind::UefiIa32, Some(OwnLoader::Signed), None),
        ] {
            let without = |maker: &mut TableMaker| {
                let tables = maker.tables(LOCAL, &[], &[]);
                [Firmware::UefiX64, Firmware::UefiIa32, Firmware::Ipxe].map(|firmware| tables.choose(firmware).cloned())
            };
            let want = without(&mut maker);
            let tables = maker.tables(LOCAL, &[], std::slice::from_ref(&bad));
            let got = [Firmware::UefiX64, Firmware::UefiIa32, Firmware::Ipxe].map(|firmware| tables.choose(firmware).cloned());
            assert_eq!(got, want, "{bad:?}");
        }
    }

    #[test]
    fn tables_that_are_kept_are_bounded() {
        let mut maker = maker();
        for n in 0..1000 {
            let rows = [row(FirmwareKind::Bios, None, Some(&format!("tftp://192.0.2.5/{n}")))];
            assert!(maker.tables(LOCAL, &[], &rows).network.is_some());
        }
        assert_eq!(maker.made[&LOCAL].said.len(), MOST_SAID, "one goes for each that comes");
        let (machine, network) = (
            [row(FirmwareKind::Bios, Some(OwnLoader::Ipxe), None)],
            [row(FirmwareKind::Bios, Some(OwnLoader::Nothing), None)],
        );
        let tables = maker.tables(LOCAL, &machine, &network);
        assert!(tables.hardware.is_some() && tables.network.is_some());
        let bad = [row(FirmwareKind::UefiX64, None, None)];
        for _ in 0..2 {
            maker.made.clear();
            maker.tables(LOCAL, &bad, &[]);
        }
        assert_eq!(maker.told.len(), 1, "told once");
    }
}
