//! The bytes of IPMI over LAN: RMCP, the two kinds of session headers, messages. Parsers take a datagram and allocate nothing.
//!
//! IPMI v2.0 revision 1.1, section 13: RMCP header (13.1.3), session headers (13.6), messages (13.8). Whether a datagram is genuine is not judged here but in
//! [`super::suite`].

/// The largest datagram that is read. BMCs send up to 300 bytes to what is asked here.
pub const MAX_DATAGRAM: usize = 1024;

/// RMCP version 1.0, no acknowledgement, class IPMI.
const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// The session header of IPMI v1.5 without authentication.
const AUTH_NONE: u8 = 0x00;
/// The session header of IPMI v2.0.
const AUTH_RMCP_PLUS: u8 = 0x06;
const ENCRYPTED: u8 = 0x80;
const AUTHENTICATED: u8 = 0x40;
/// The BMC's address on its own bus, and ours as remote console software.
const BMC: u8 = 0x20;
const CONSOLE: u8 = 0x81;
/// What is read as the next header of a session trailer: IPMI.
pub(super) const NEXT_HEADER: u8 = 0x07;

/// Why a datagram or a message in it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("too short")]
    Short,
    /// Another version or class of RMCP.
    #[error("not RMCP with IPMI")]
    NotIpmi,
    /// A session header that is not asked for here.
    #[error("a session header of type {0:#04x}")]
    SessionHeader(u8),
    /// An OEM's payload.
    #[error("a payload of type {0:#04x}")]
    Payload(u8),
    /// A length or checksum that does not hold.
    #[error("{0} does not fit")]
    Mismatch(&'static str),
    /// Its authentication code or padding is not what our keys make of it.
    #[error("not authentic")]
    Forged,
}

/// What a datagram carries (table 13-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadType {
    /// An IPMI message.
    Message,
    /// RMCP+ Open Session Request.
    OpenRequest,
    /// RMCP+ Open Session Response.
    OpenResponse,
    /// RAKP message 1.
    Rakp1,
    /// RAKP message 2.
    Rakp2,
    /// RAKP message 3.
    Rakp3,
    /// RAKP message 4.
    Rakp4,
}

impl PayloadType {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Message => 0x00,
            Self::OpenRequest => 0x10,
            Self::OpenResponse => 0x11,
            Self::Rakp1 => 0x12,
            Self::Rakp2 => 0x13,
            Self::Rakp3 => 0x14,
            Self::Rakp4 => 0x15,
        }
    }

    fn of(number: u8) -> Result<Self, WireError> {
        const ALL: [PayloadType; 7] = [
            PayloadType::Message,
            PayloadType::OpenRequest,
            PayloadType::OpenResponse,
            PayloadType::Rakp1,
            PayloadType::Rakp2,
            PayloadType::Rakp3,
            PayloadType::Rakp4,
        ];
        ALL.into_iter()
            .find(|kind| kind.number() == number)
            .ok_or(WireError::Payload(number))
    }
}

/// A datagram, taken apart and not yet believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// IPMI v1.5, outside of a session: the answer to Get Channel Authentication Capabilities.
    Sessionless(&'a [u8]),
    /// IPMI v2.0, in the clear: how a session is set up.
    Clear {
        /// What it carries.
        kind: PayloadType,
        /// That.
        payload: &'a [u8],
    },
    /// IPMI v2.0, encrypted and authenticated: within a session.
    Sealed(Sealed<'a>),
}

/// A datagram of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// What it carries.
    pub kind: PayloadType,
    /// Whose session, by the number that the receiver chose.
    pub session: u32,
    /// Its number in the session.
    pub sequence: u32,
    /// Initialisation vector and ciphertext.
    pub payload: &'a [u8],
    /// All that the authentication code covers, and the code.
    pub signed: &'a [u8],
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], WireError> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(WireError::Short)
}

/// A little-endian number at an offset.
///
/// # Errors
/// [`WireError::Short`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, WireError> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Sixteen bytes at an offset: a random number or a GUID.
///
/// # Errors
/// [`WireError::Short`].
pub(super) fn sixteen_at(bytes: &[u8], at: usize) -> Result<[u8; 16], WireError> {
    array(bytes, at)
}

impl<'a> Datagram<'a> {
    /// Takes a datagram apart.
    ///
    /// # Errors
    /// What is wrong with it. A payload in the clear with a session number is refused: who has a session seals.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let header: [u8; 4] = array(bytes, 0)?;
        // The sequence number (byte 2) is 0xff where no acknowledgement is wanted; some BMCs count instead.
        if header[0] != RMCP[0] || header[3] != RMCP[3] {
            return Err(WireError::NotIpmi);
        }
        let session = &bytes[4..];
        match session.first().ok_or(WireError::Short)? {
            &AUTH_NONE => {
                let length = usize::from(*session.get(9).ok_or(WireError::Short)?);
                let payload = session.get(10..10 + length).ok_or(WireError::Short)?;
                Ok(Self::Sessionless(payload))
            }
            &AUTH_RMCP_PLUS => {
                let flags = *session.get(1).ok_or(WireError::Short)?;
                let kind = PayloadType::of(flags & !(ENCRYPTED | AUTHENTICATED))?;
                let number = u32_at(session, 2)?;
                let sequence = u32_at(session, 6)?;
                let length = usize::from(u16::from_le_bytes(array(session, 10)?));
                let payload = session.get(12..12 + length).ok_or(WireError::Short)?;
                match (flags & ENCRYPTED != 0, flags & AUTHENTICATED != 0) {
                    (true, true) => Ok(Self::Sealed(Sealed {
                        kind,
                        session: number,
                        sequence,
                        payload,
                        signed: session,
                    })),
                    (false, false) if number == 0 => Ok(Self::Clear { kind, payload }),
                    _ => Err(WireError::Mismatch("the protection")),
                }
            }
            other => Err(WireError::SessionHeader(*other)),
        }
    }
}

/// A message outside of a session, as a datagram of IPMI v1.5.
#[must_use]
pub fn sessionless(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 + message.len());
    out.extend_from_slice(&RMCP);
    out.push(AUTH_NONE);
    // Sequence and session: none.
    out.extend_from_slice(&[0; 8]);
    out.push(u8::try_from(message.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(message);
    out
}

/// A payload in the clear, as a datagram of IPMI v2.0.
#[must_use]
pub fn clear(kind: PayloadType, payload: &[u8]) -> Vec<u8> {
    let mut out = header(kind.number(), 0, 0, payload.len());
    out.extend_from_slice(payload);
    out
}

/// The beginning of a datagram whose payload is encrypted and authenticated.
pub(super) fn sealed_header(kind: PayloadType, session: u32, sequence: u32, length: usize) -> Vec<u8> {
    header(kind.number() | ENCRYPTED | AUTHENTICATED, session, sequence, length)
}

fn header(flags: u8, session: u32, sequence: u32, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + length);
    out.extend_from_slice(&RMCP);
    out.extend_from_slice(&[AUTH_RMCP_PLUS, flags]);
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    out
}

/// What is asked of a BMC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its group of commands (network function; even).
    pub net_fn: u8,
    /// Which one.
    pub command: u8,
    /// Its parameters.
    pub data: Vec<u8>,
}

/// What a BMC answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The group of the request, plus one.
    pub net_fn: u8,
    /// The number of the request.
    pub sequence: u8,
    /// The command of the request.
    pub command: u8,
    /// How it went (table 5-2); 0 is well.
    pub completion: u8,
    /// What was asked for.
    pub data: &'a [u8],
}

/// The two's complement of the sum.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

impl Request {
    /// The message, with a number of 6 bits that the answer will carry.
    #[must_use]
    pub fn encode(&self, sequence: u8) -> Vec<u8> {
        let mut out = vec![BMC, self.net_fn << 2];
        out.push(checksum(&out));
        out.extend_from_slice(&[CONSOLE, sequence << 2, self.command]);
        out.extend_from_slice(&self.data);
        out.push(checksum(&out[3..]));
        out
    }
}

impl<'a> Response<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it: length, checksums, not for us.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let [to, net_fn, sum, _from, sequence, command, completion, rest @ ..] = message else {
            return Err(WireError::Short);
        };
        let Some((last, data)) = rest.split_last() else {
            return Err(WireError::Short);
        };
        if checksum(&[*to, *net_fn]) != *sum || checksum(&message[3..message.len() - 1]) != *last {
            return Err(WireError::Mismatch("a checksum"));
        }
        if *to != CONSOLE || net_fn & 0b100 == 0 {
            return Err(WireError::Mismatch("the receiver"));
        }
        Ok(Self {
            net_fn: net_fn >> 2,
            sequence: sequence >> 2,
            command: *command,
            completion: *completion,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex.replace(' ', "")).expect("hexadecimal")
    }

    /// As ipmitool 1.8.19 and ipmi_sim 2.0.33 wrote them to each other.
    #[test]
    fn a_question_outside_of_a_session_and_its_answer() {
        let request = Request {
            net_fn: 0x06,
            command: 0x38,
            data: vec![0x8e, 0x04],
        };
        let sent = bytes("06 00 ff 07 00 00 00 00 00 00 00 00 00 09 20 18 c8 81 00 38 8e 04 b5");
        assert_eq!(sessionless(&request.encode(0)), sent);
        let came = bytes("06 00 ff 07 00 00 00 00 00 00 00 00 00 10 81 1c 63 20 00 38 00 01 97 05 03 00 00 00 00 08");
        let Ok(Datagram::Sessionless(message)) = Datagram::parse(&came) else {
            panic!("{:?}", Datagram::parse(&came));
        };
        let response = Response::parse(message).expect("an answer");
        assert_eq!(
            (response.net_fn, response.sequence, response.command, response.completion),
            (0x07, 0, 0x38, 0)
        );
        assert_eq!(response.data, [0x01, 0x97, 0x05, 0x03, 0, 0, 0, 0]);
    }

    #[test]
    fn every_cut_and_every_flipped_checksum_is_refused() {
        let came = bytes("06 00 ff 07 00 00 00 00 00 00 00 00 00 10 81 1c 63 20 00 38 00 01 97 05 03 00 00 00 00 08");
        for length in 0..came.len() {
            assert!(Datagram::parse(&came[..length]).is_err(), "{length} bytes");
        }
        let message = &came[14..];
        for at in 0..message.len() {
            let mut wrong = message.to_vec();
            wrong[at] ^= 0x10;
            assert!(Response::parse(&wrong).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_session_number_without_protection_is_refused() {
        let mut datagram = clear(PayloadType::Message, &[1, 2, 3]);
        assert!(Datagram::parse(&datagram).is_ok());
        datagram[6] = 1;
        assert_eq!(Datagram::parse(&datagram), Err(WireError::Mismatch("the protection")));
    }
}
