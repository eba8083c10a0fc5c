//! What there is to boot, with the address in it by which a machine reaches this replica.

use std::{collections::HashMap, net::IpAddr};

use dhcp::arch::{BootTable, Firmware, Loaders};

use crate::boot::host::Host;

/// Local addresses whose tables are kept; a host with more of them on one interface makes them anew.
const MOST_TABLES: usize = 64;

/// Makes the table of what is booted.
pub(super) struct TableMaker {
    http_port: u16,
    /// Firmware for which there is a loader, and which.
    offers: Vec<(Firmware, Loaders)>,
    made: HashMap<IpAddr, BootTable>,
}

impl TableMaker {
    pub(super) fn new(http_port: u16, mut offers: Vec<(Firmware, Loaders)>) -> Self {
        offers.push((Firmware::Ipxe, Loaders::Ipxe));
        Self {
            http_port,
            offers,
            made: HashMap::new(),
        }
    }

    pub(super) fn table(&mut self, local: IpAddr) -> &BootTable {
        if self.made.len() >= MOST_TABLES && !self.made.contains_key(&local) {
            self.made.clear();
        }
        let (port, offers) = (self.http_port, &self.offers);
        self.made.entry(local).or_insert_with(|| make_table(local, port, offers))
    }
}

/// Rows for which there is no loader say nothing, so that firmware goes on to what else it can boot.
fn make_table(local: IpAddr, http_port: u16, offers: &[(Firmware, Loaders)]) -> BootTable {
    let root = format!("http://{}:{http_port}/boot", Host::Address(local));
    let built_in = |loaders| {
        BootTable::built_in(loaders, &format!("{root}/loaders"), &format!("{root}/ipxe")).unwrap_or_else(|error| {
            tracing::error!(%local, %error, "the built-in boot table is refused; machines that reach us by this address get nothing to boot");
            BootTable::default()
        })
    };
    let (ipxe, signed) = (built_in(Loaders::Ipxe), built_in(Loaders::SecureBoot));
    let mut table = BootTable::default();
    for (firmware, loaders) in offers {
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
