//! Packets as clients send them, written without the crate under test.

use std::net::Ipv4Addr;

use dhcp::v4::{Arrival, wire::Packet};

/// Our address on the wire.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A DHCPv4 request being put together.
#[derive(Debug, Clone)]
pub struct Ask {
    header: [u8; 236],
    options: Vec<u8>,
}

pub const DISCOVER: u8 = 1;
pub const REQUEST: u8 = 3;
pub const DECLINE: u8 = 4;
pub const RELEASE: u8 = 7;
pub const INFORM: u8 = 8;

impl Ask {
    pub fn new(kind: u8, mac: [u8; 6]) -> Self {
        let mut header = [0; 236];
        header[..3].copy_from_slice(&[1, 1, 6]);
        header[4..8].copy_from_slice(&[0xca, 0xfe, mac[4], mac[5]]);
        header[28..34].copy_from_slice(&mac);
        Self {
            header,
            options: vec![53, 1, kind],
        }
    }

    pub fn seconds(mut self, seconds: u16) -> Self {
        self.header[8..10].copy_from_slice(&seconds.to_be_bytes());
        self
    }

    pub fn broadcast(mut self) -> Self {
        self.header[10] = 0x80;
        self
    }

    pub fn ciaddr(mut self, address: Ipv4Addr) -> Self {
        self.header[12..16].copy_from_slice(&address.octets());
        self
    }

    pub fn giaddr(mut self, address: Ipv4Addr) -> Self {
        self.header[24..28].copy_from_slice(&address.octets());
        self
    }

    pub fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.options.extend_from_slice(&[code, value.len() as u8]);
        self.options.extend_from_slice(value);
        self
    }

    pub fn wants(self, address: Ipv4Addr) -> Self {
        self.option(50, &address.octets())
    }

    pub fn server(self, address: Ipv4Addr) -> Self {
        self.option(54, &address.octets())
    }

    pub fn build(self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        bytes.extend_from_slice(&[99, 130, 83, 99]);
        bytes.extend_from_slice(&self.options);
        bytes.push(255);
        bytes
    }
}

/// The `i`th machine's MAC address.
pub fn mac(i: u32) -> [u8; 6] {
    let [_, a, b, c] = i.to_be_bytes();
    [0x52, 0x54, 0, a, b, c]
}

/// A UEFI machine, with the options that EDK2's PxeBcBuildDhcp4Options (NetworkPkg/UefiPxeBcDxe/PxeBcDhcp4.c) puts into each request.
pub fn uefi(kind: u8, mac: [u8; 6]) -> Ask {
    Ask::new(kind, mac)
        .option(57, &[0x05, 0xb8])
        .option(
            55,
            &[
                1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131,
                132, 133, 134, 135,
            ],
        )
        .option(
            97,
            &[
                0, 0xde, 0xb1, 0xfc, 0x30, 0x1d, 0x8d, 0x0e, 0x4d, 0x8d, 0x0f, 0x2d, 0x8f, 0xdb, 0x3c, 0xbb, 0x05,
            ],
        )
        .option(94, &[1, 3, 16])
        .option(93, &[0, 7])
        .option(60, b"PXEClient:Arch:00007:UNDI:003016")
}

/// UEFI HTTP boot on the same machine.
pub fn uefi_http(kind: u8, mac: [u8; 6]) -> Ask {
    Ask::new(kind, mac)
        .option(57, &[0x05, 0xb8])
        .option(55, &[1, 3, 6, 12, 15, 43, 54, 60, 66, 67, 97])
        .option(93, &[0, 16])
        .option(60, b"HTTPClient:Arch:00016:UNDI:003001")
}

/// iPXE as QEMU's network card brings it, on a BIOS machine: user class without a length, features in option 175 (HTTP is 0x13).
pub fn ipxe(kind: u8, mac: [u8; 6]) -> Ask {
    Ask::new(kind, mac)
        .option(57, &[0x05, 0xc0])
        .option(93, &[0, 0])
        .option(94, &[1, 2, 1])
        .option(60, b"PXEClient:Arch:00000:UNDI:002001")
        .option(77, b"iPXE")
        .option(
            55,
            &[
                1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175, 203,
            ],
        )
        .option(
            175,
            &[
                0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 0, 0, 0x17, 1, 1, 0x22, 1, 1, 0x13, 1, 1, 0x14, 1, 1,
            ],
        )
        .option(61, &[&[1][..], &mac].concat())
}

/// The PXE of a BIOS machine (RFC 4578, 2).
pub fn bios(kind: u8, mac: [u8; 6]) -> Ask {
    Ask::new(kind, mac)
        .option(93, &[0, 0])
        .option(94, &[1, 2, 1])
        .option(60, b"PXEClient:Arch:00000:UNDI:002001")
        .option(97, &[0; 17])
}

/// A Raspberry Pi 4's boot loader: a BIOS by its own word, `RPi4` at the beginning of option 97.
pub fn raspberry_pi(kind: u8, mac: [u8; 6]) -> Ask {
    Ask::new(kind, mac)
        .option(55, &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135])
        .option(93, &[0, 0])
        .option(94, &[1, 2, 1])
        .option(
            97,
            &[0, b'R', b'P', b'i', b'4', 0x11, 0x31, 0xc0, 0, 0x32, 0xab, 0xcd, 0xef, 1, 2, 3, 4],
        )
        .option(60, b"PXEClient:Arch:00000:UNDI:002001")
}

/// On port 67, broadcast by somebody without address.
pub fn at_67() -> Arrival {
    Arrival {
        local: SERVER,
        port: 67,
        source: "0.0.0.0:68".parse().unwrap(),
        broadcast: true,
    }
}

/// Sent to us alone.
pub fn unicast(source: &str) -> Arrival {
    Arrival {
        source: source.parse().unwrap(),
        broadcast: false,
        ..at_67()
    }
}

/// On port 4011.
pub fn at_4011(source: &str) -> Arrival {
    Arrival {
        port: 4011,
        ..unicast(source)
    }
}

pub fn parse(bytes: &[u8]) -> Packet<'_> {
    Packet::parse(bytes).unwrap()
}
