//! Wake-on-LAN: a machine that is off is switched on by a packet to its network interface. Nothing answers, so nothing is known.
//!
//! A magic packet (AMD publication 20213, "Magic Packet Technology") is six bytes of ones, the interface's address sixteen times, and, where the interface wants one, a
//! SecureOn password of four or six bytes. It may be anywhere in a frame, so it goes as UDP datagram to a broadcast address, here or of another network
//! (which routers must be told to let in), or alone in a frame of its own type, which only somebody in the machine's segment can send: [`frame`] is for those.
//!
//! What it does not do: switch off. That is for the guest's helper or the agent.

use std::{io, net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret, SecretSlice};
use tokio::{net::UdpSocket, time::sleep};

use crate::{
    driver::{Act, Capabilities, Driver, Kind},
    fault::Fault,
};

/// The type of frames that hold nothing but a magic packet.
pub const ETHER_TYPE: u16 = 0x0842;
/// The UDP port that is commonly used (discard). Interfaces do not look at it.
pub const PORT: u16 = 9;
/// Datagrams and frames get lost: so many are sent,
pub const TIMES: usize = 3;
/// with so much between them.
pub const BETWEEN: Duration = Duration::from_millis(100);

/// What is the same for all such machines.
pub static KIND: Kind = Kind {
    name: "wakeOnLan",
    title: "Wake-on-LAN",
    capabilities: Capabilities {
        events: false,
        on: true,
        ..Capabilities::NONE
    },
    evidence: "the packet against that of Debian's `wakeonlan`; the frame and SecureOn from the document; not yet seen to wake real equipment",
};

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// An interface's own address, from its bytes.
    ///
    /// # Errors
    /// [`Fault::Settings`] for `mac`: zero, or a group's address.
    pub fn new(bytes: [u8; 6]) -> Result<Self, Fault> {
        if bytes == [0; 6] || bytes[0] & 1 != 0 {
            return Err(Fault::Settings {
                field: "mac",
                problem: "it is not one interface's address".to_owned(),
            });
        }
        Ok(Self(bytes))
    }

    /// An address as people write it: six pairs of hexadecimal digits, with colons, dashes or nothing between.
    ///
    /// # Errors
    /// [`Fault::Settings`] for `mac`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut bytes = [0; 6];
        hex::decode_to_slice(text.trim().replace([':', '-'], ""), &mut bytes).map_err(|_| Fault::Settings {
            field: "mac",
            problem: "it is no hardware address: write it as 52:54:00:12:34:56".to_owned(),
        })?;
        Self::new(bytes)
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The packet, with the SecureOn password if there is one.
#[must_use]
pub fn packet(mac: Mac, password: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 6];
    out.extend(mac.0.repeat(16));
    out.extend_from_slice(password);
    out
}

/// A whole frame for the machine's segment, from an interface with this address, to all. Without its checksum, which the interface adds.
#[must_use]
pub fn frame(from: Mac, mac: Mac, password: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 6];
    out.extend_from_slice(&from.0);
    out.extend_from_slice(&ETHER_TYPE.to_be_bytes());
    out.extend(packet(mac, password));
    out
}

/// How a machine is woken.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its interfaces that may be listening.
    pub macs: Vec<Mac>,
    /// Where the datagrams go: a broadcast address each, with [`PORT`]. None, where somebody in the machine's segment sends frames: then there is nothing to do here.
    pub to: Vec<SocketAddr>,
    /// The SecureOn password, where the interface wants one: four or six bytes.
    pub password: Option<SecretSlice<u8>>,
}

/// A machine that wakes on LAN.
#[derive(Debug)]
pub struct Wake {
    settings: Settings,
    controller: String,
}

impl Wake {
    /// A driver with these settings. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(settings: Settings) -> Result<Self, Fault> {
        let wrong = |field, problem: &str| {
            Err(Fault::Settings {
                field,
                problem: problem.to_owned(),
            })
        };
        let Some(first) = settings.macs.first() else {
            return wrong("macs", "no interface is known: name at least one");
        };
        if settings.to.iter().any(|to| to.ip().is_unspecified() || to.port() == 0) {
            return wrong("to", "an address or port of zero leads nowhere");
        }
        if settings
            .password
            .as_ref()
            .is_some_and(|password| !matches!(password.expose_secret().len(), 4 | 6))
        {
            return wrong("password", "a SecureOn password has four or six bytes");
        }
        Ok(Self {
            controller: first.to_string(),
            settings,
        })
    }

    async fn wake(&self) -> Result<(), Fault> {
        let password = self.settings.password.as_ref().map_or(&[][..], |password| password.expose_secret());
        let packets: Vec<_> = self.settings.macs.iter().map(|mac| packet(*mac, password)).collect();
        for time in 0..TIMES {
            if time > 0 && !self.settings.to.is_empty() {
                sleep(BETWEEN).await;
            }
            for to in &self.settings.to {
                for packet in &packets {
                    send(*to, packet)
                        .await
                        .map_err(|error| Fault::Unreachable(format!("no datagram to {to}: {error}")))?;
                }
            }
        }
        Ok(())
    }
}

async fn send(to: SocketAddr, packet: &[u8]) -> io::Result<()> {
    let local: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.set_broadcast(true)?;
    socket.send_to(packet, to).await.map(|_| ())
}

impl Driver for Wake {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.wake())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac() -> Mac {
        Mac::parse("52-54-00-12-34-56").expect("an address")
    }

    #[test]
    fn packet_and_frame_are_as_the_document_says() {
        let plain = packet(mac(), b"");
        assert_eq!(plain.len(), 102);
        assert_eq!(
            plain[..18],
            [
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x52, 0x54, 0, 0x12, 0x34, 0x56
            ]
        );
        assert_eq!(packet(mac(), &[1, 2, 3, 4, 5, 6])[102..], [1, 2, 3, 4, 5, 6]);
        let from = Mac::parse("02:00:00:00:00:01").expect("an address");
        let frame = frame(from, mac(), b"");
        assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x42]);
        assert_eq!(frame[14..], plain);
    }

    #[test]
    fn wrong_settings_are_refused_by_their_field() {
        for text in ["", "52:54:00:12:34", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01"] {
            assert!(matches!(Mac::parse(text), Err(Fault::Settings { field: "mac", .. })), "{text}");
        }
        let settings = |to: &str, password: Option<Vec<u8>>| Settings {
            macs: vec![mac()],
            to: vec![to.parse().expect("an address")],
            password: password.map(SecretSlice::from),
        };
        assert!(matches!(
            Wake::new(settings("0.0.0.0:9", None)),
            Err(Fault::Settings { field: "to", .. })
        ));
        assert!(matches!(
            Wake::new(settings("192.0.2.255:9", Some(vec![0; 5]))),
            Err(Fault::Settings { field: "password", .. })
        ));
        assert!(Wake::new(settings("192.0.2.255:9", Some(vec![0; 4]))).is_ok());
    }
}
