//! What goes over the wire around DHCP: datagrams as whoever listens to frames sees them, and the questions whether somebody uses an address.
//!
//! | question | where |
//! |---|---|
//! | ARP probe (RFC 5227, 2.1.1) | on the client's own link |
//! | ICMP echo (RFC 792; RFC 2131, 2.2) | anywhere else |

use std::net::Ipv4Addr;

/// UDP in an IPv4 header.
const UDP: u8 = 17;
/// ARP of IPv4 over Ethernet (RFC 826): hardware and protocol type and their lengths.
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// EtherType of ARP.
const ETHERTYPE_ARP: [u8; 2] = [8, 6];

/// Sender and payload of a UDP datagram to this port that was not cut into fragments; `packet` begins with its IPv4 header.
pub fn datagram(packet: &[u8], port: u16) -> Option<(Ipv4Addr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_ipv4 = packet[0] >> 4 == 4 && header >= 20;
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x3fff;
    if !is_ipv4 || fragment != 0 || *packet.get(9)? != UDP {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let udp = packet.get(header..)?;
    let to = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    (to == port).then_some((source.into(), udp.get(8..length.min(udp.len()))?))
}

/// An Ethernet frame that asks everybody who has an address, without saying that we have one.
pub fn arp_probe(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP);
    frame[14..20].copy_from_slice(&ARP_OF_IPV4);
    frame[21] = 1;
    frame[22..28].copy_from_slice(&mac);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// Who says of himself, in an ARP frame, that he has an address: a question of his does as well as an answer.
pub fn arp_sender(frame: &[u8]) -> Option<(Ipv4Addr, [u8; 6])> {
    if frame.get(12..14)? != ETHERTYPE_ARP || frame.get(14..20)? != ARP_OF_IPV4 {
        return None;
    }
    let address: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
    let mac: [u8; 6] = frame.get(22..28)?.try_into().ok()?;
    (address != [0; 4]).then_some((address.into(), mac))
}

/// An ICMP echo request.
pub fn echo_request(id: u16, sequence: u16) -> [u8; 8] {
    let mut message = [8, 0, 0, 0, 0, 0, 0, 0];
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let words = message
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    // The ones' complement sum (RFC 1071) of four words fits into 16 bits and one carry.
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    message
}

/// Whether an IPv4 packet, as a raw socket hands it over, is the answer to an echo request with this id.
pub fn is_echo_reply(packet: &[u8], id: u16) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    let message = packet.get(header..).unwrap_or_default();
    message.len() >= 8 && message[..2] == [0, 0] && message[4..6] == id.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 77, 0, 1, 255, 255, 255, 255];
        packet.extend_from_slice(&67u16.to_be_bytes());
        packet.extend_from_slice(&port.to_be_bytes());
        packet.extend_from_slice(&(payload.len() as u16 + 8).to_be_bytes());
        packet.extend_from_slice(&[0, 0]);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn only_whole_datagrams_to_the_port_are_read() {
        let source = Ipv4Addr::new(10, 77, 0, 1);
        assert_eq!(datagram(&packet(68, b"hello"), 68), Some((source, &b"hello"[..])));
        assert_eq!(datagram(&packet(67, b"hello"), 68), None);
        let mut fragment = packet(68, b"hello");
        fragment[6] = 0x20;
        assert_eq!(datagram(&fragment, 68), None);
        for length in 0..packet(68, b"hello").len() {
            datagram(&packet(68, b"hello")[..length], 68);
        }
        // Lengths that lie.
        let mut lying = packet(68, b"hello");
        lying[24..26].copy_from_slice(&3u16.to_be_bytes());
        assert_eq!(datagram(&lying, 68), None);
        lying[0] = 0x4f;
        assert_eq!(datagram(&lying, 68), None);
    }

    #[test]
    fn a_probe_claims_nothing_and_an_answer_names_its_sender() {
        let (mac, address) = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 9));
        let probe = arp_probe(mac, address);
        assert_eq!(arp_sender(&probe), None);
        let mut answer = arp_probe([2, 0, 0, 0, 0, 2], Ipv4Addr::UNSPECIFIED);
        answer[21] = 2;
        answer[28..32].copy_from_slice(&address.octets());
        assert_eq!(arp_sender(&answer), Some((address, [2, 0, 0, 0, 0, 2])));
        assert!((0..42).all(|length| arp_sender(&answer[..length]).is_none() || length >= 32));
    }

    #[test]
    fn an_echo_is_known_by_its_id() {
        let request = echo_request(0x1234, 1);
        // All words with the checksum make 0xffff (RFC 1071, 1).
        let sum: u32 = request.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        let mut reply = vec![0x45; 20];
        reply.extend_from_slice(&request);
        assert!(!is_echo_reply(&reply, 0x1234), "it is a request");
        reply[20] = 0;
        assert!(is_echo_reply(&reply, 0x1234) && !is_echo_reply(&reply, 0x1235));
        assert!(!is_echo_reply(&reply[..27], 0x1234) && !is_echo_reply(&[], 0));
    }
}
