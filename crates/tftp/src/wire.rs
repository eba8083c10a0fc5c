//! Packets of RFC 1350 and options of RFC 2347, 2348, 2349 and 7440, as bytes and back.
//!
//! Parsing takes what firmware really sends and refuses the rest: it looks at each byte once, copies nothing, and never panics. It is lenient where
//! nothing can be misunderstood: option names in any case, a last string without its zero, padding after the options, unknown options, numbers that are
//! too large (they saturate). What a value *means* is decided in [`crate::transfer`]. Nothing here knows sockets or time.

use std::fmt;

/// Longest request that is parsed, in bytes (RFC 2347: "the maximum size of a request packet is 512 octets").
pub const MAX_REQUEST: usize = 512;

/// Bytes before the content of a DATA packet.
pub const DATA_HEADER: usize = 4;

/// Smallest and largest block in bytes (RFC 2348).
pub const BLOCK_SIZES: std::ops::RangeInclusive<u16> = 8..=65_464;

/// Block size without options, in bytes (RFC 1350).
pub const DEFAULT_BLOCK_SIZE: u16 = 512;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ.
    Read(Request<'a>),
    /// WRQ.
    Write(Request<'a>),
    /// DATA.
    Data {
        /// Number, modulo 65,536.
        block: u16,
        /// Content; shorter than the block size in the last block.
        data: &'a [u8],
    },
    /// ACK.
    Ack {
        /// Number of the last block that came in order, modulo 65,536; 0 also acknowledges an OACK.
        block: u16,
    },
    /// ERROR.
    Error {
        /// What kind.
        code: ErrorCode,
        /// For people; any bytes.
        message: &'a [u8],
    },
    /// OACK (RFC 2347).
    OptionAck(Options),
}

/// Content of RRQ and WRQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// As sent: any bytes but zero.
    pub name: &'a [u8],
    /// How the content shall be encoded.
    pub mode: Mode,
    /// What is asked for.
    pub options: Options,
}

/// Transfer mode (RFC 1350 section 1), in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Lines end in CR LF.
    Netascii,
    /// `mail` (obsolete since revision 2), or a word that no RFC knows.
    Other,
}

/// Error code of RFC 1350 section 5 and RFC 2347; others are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// Not defined, see the message.
    pub const UNDEFINED: Self = Self(0);
    /// File not found.
    pub const NOT_FOUND: Self = Self(1);
    /// Access violation.
    pub const ACCESS: Self = Self(2);
    /// Illegal TFTP operation.
    pub const ILLEGAL: Self = Self(4);
    /// Option negotiation failed (RFC 2347).
    pub const OPTIONS: Self = Self(8);
}

/// The options that this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// `blksize` in bytes (RFC 2348).
    BlockSize,
    /// `timeout` in seconds (RFC 2349).
    Timeout,
    /// `tsize` in bytes (RFC 2349); 0 asks for it.
    TransferSize,
    /// `windowsize` in blocks (RFC 7440).
    WindowSize,
}

impl OptionKind {
    const ALL: [Self; 4] = [Self::BlockSize, Self::Timeout, Self::TransferSize, Self::WindowSize];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::BlockSize => "blksize",
            Self::Timeout => "timeout",
            Self::TransferSize => "tsize",
            Self::WindowSize => "windowsize",
        }
    }
}

/// Known options with their values, each at most once, in the order in which they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    items: [Option<(OptionKind, u64)>; OptionKind::ALL.len()],
}

impl Options {
    /// Adds an option; one that is there already stays as it is.
    pub fn push(&mut self, kind: OptionKind, value: u64) {
        if self.get(kind).is_none()
            && let Some(free) = self.items.iter_mut().find(|item| item.is_none())
        {
            *free = Some((kind, value));
        }
    }

    /// Its value, if it is there.
    pub fn get(&self, kind: OptionKind) -> Option<u64> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items[0].is_none()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = (OptionKind, u64)> {
        self.items.iter().flatten().copied()
    }

    fn parse(mut rest: &[u8]) -> Self {
        let mut options = Self::default();
        // Pairs of strings; an empty name is padding, and what comes after it is no option.
        while let Some((name, after)) = text(rest).filter(|(name, _)| !name.is_empty()) {
            let Some((value, after)) = text(after) else { break };
            if let Some(kind) = OptionKind::ALL.into_iter().find(|k| name.eq_ignore_ascii_case(k.name().as_bytes()))
                && let Some(value) = number(value)
            {
                options.push(kind, value);
            }
            rest = after;
        }
        options
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for (kind, value) in self.iter() {
            out.extend_from_slice(kind.name().as_bytes());
            out.push(0);
            push_number(value, out);
            out.push(0);
        }
    }
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It ends within its fixed part.
    #[error("the packet is too short")]
    Short,
    /// Longer than a request may be.
    #[error("the request has more than {MAX_REQUEST} bytes")]
    Long,
    /// No such operation.
    #[error("TFTP knows no operation {0}")]
    Operation(u16),
    /// A request without a name or without a mode.
    #[error("the request has no {0}")]
    Missing(&'static str),
}

impl<'a> Packet<'a> {
    /// Reads one datagram.
    ///
    /// # Errors
    /// When it is no packet of TFTP.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (operation, rest) = word(bytes).ok_or(ParseError::Short)?;
        match operation {
            READ | WRITE => {
                if bytes.len() > MAX_REQUEST {
                    return Err(ParseError::Long);
                }
                let (name, rest) = text(rest)
                    .filter(|(name, _)| !name.is_empty())
                    .ok_or(ParseError::Missing("file name"))?;
                let (mode, rest) = text(rest).filter(|(mode, _)| !mode.is_empty()).ok_or(ParseError::Missing("mode"))?;
                let request = Request {
                    name,
                    mode: Mode::parse(mode),
                    options: Options::parse(rest),
                };
                Ok(if operation == READ {
                    Self::Read(request)
                } else {
                    Self::Write(request)
                })
            }
            DATA => word(rest).map(|(block, data)| Self::Data { block, data }).ok_or(ParseError::Short),
            // Some clients send more than the number; nothing in it means anything.
            ACK => word(rest).map(|(block, _)| Self::Ack { block }).ok_or(ParseError::Short),
            ERROR => {
                let (code, rest) = word(rest).ok_or(ParseError::Short)?;
                Ok(Self::Error {
                    code: ErrorCode(code),
                    message: text(rest).map_or(&[], |(message, _)| message),
                })
            }
            OPTION_ACK if bytes.len() > MAX_REQUEST => Err(ParseError::Long),
            OPTION_ACK => Ok(Self::OptionAck(Options::parse(rest))),
            other => Err(ParseError::Operation(other)),
        }
    }

    /// Writes the packet into `out`, whose former content is dropped and whose memory is used again.
    ///
    /// Names and messages end at their first zero byte, because nothing behind it would be read as part of them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Read(request) => request.encode(READ, out),
            Self::Write(request) => request.encode(WRITE, out),
            Self::Data { block, data } => {
                out.extend_from_slice(&data_header(*block));
                out.extend_from_slice(data);
            }
            Self::Ack { block } => {
                out.extend_from_slice(&ACK.to_be_bytes());
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::Error { code, message } => {
                out.extend_from_slice(&ERROR.to_be_bytes());
                out.extend_from_slice(&code.0.to_be_bytes());
                push_text(message, out);
            }
            Self::OptionAck(options) => {
                out.extend_from_slice(&OPTION_ACK.to_be_bytes());
                options.encode(out);
            }
        }
    }
}

/// What stands before the content of a DATA packet, for senders that do not copy the content.
pub fn data_header(block: u16) -> [u8; DATA_HEADER] {
    let ([a, b], [c, d]) = (DATA.to_be_bytes(), block.to_be_bytes());
    [a, b, c, d]
}

impl Request<'_> {
    fn encode(&self, operation: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&operation.to_be_bytes());
        push_text(self.name, out);
        push_text(
            match self.mode {
                Mode::Octet => b"octet",
                Mode::Netascii => b"netascii",
                Mode::Other => b"mail",
            },
            out,
        );
        self.options.encode(out);
    }
}

impl Mode {
    fn parse(bytes: &[u8]) -> Self {
        if bytes.eq_ignore_ascii_case(b"octet") || bytes.eq_ignore_ascii_case(b"binary") {
            Self::Octet
        } else if bytes.eq_ignore_ascii_case(b"netascii") {
            Self::Netascii
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0 => "not defined",
            1 => "file not found",
            2 => "access violation",
            3 => "disk full or allocation exceeded",
            4 => "illegal TFTP operation",
            5 => "unknown transfer ID",
            6 => "file already exists",
            7 => "no such user",
            8 => "option negotiation failed",
            other => return write!(f, "error code {other}"),
        };
        f.write_str(text)
    }
}

fn word(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(word, rest)| (u16::from_be_bytes(*word), rest))
}

/// A string up to its zero byte, or up to the end; nothing at all is no string.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.is_empty() {
        return None;
    }
    Some(match bytes.iter().position(|b| *b == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    })
}

/// Decimal digits only; saturates.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        text.iter()
            .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    )
}

fn push_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend(text.iter().take_while(|b| **b != 0));
    out.push(0);
}

fn push_number(value: u64, out: &mut Vec<u8>) {
    // 20 digits hold every u64.
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(packet: &Packet<'_>) -> Vec<u8> {
        let mut out = b"left from before".to_vec();
        packet.encode(&mut out);
        out
    }

    #[test]
    fn the_examples_of_the_rfcs() {
        // RFC 7440 section 3.
        let bytes = b"\0\x01foobar\0octet\0windowsize\x0016\0";
        let mut options = Options::default();
        options.push(OptionKind::WindowSize, 16);
        let read = Packet::Read(Request {
            name: b"foobar",
            mode: Mode::Octet,
            options,
        });
        assert_eq!(Packet::parse(bytes), Ok(read));
        assert_eq!(encoded(&read), bytes);
        // RFC 2347: OACK with what RFC 2348 and 2349 define.
        let bytes = b"\0\x06blksize\x001432\0timeout\x005\0tsize\x00673312\0";
        let Ok(Packet::OptionAck(options)) = Packet::parse(bytes) else {
            panic!("no OACK")
        };
        assert_eq!(
            options.iter().collect::<Vec<_>>(),
            [
                (OptionKind::BlockSize, 1432),
                (OptionKind::Timeout, 5),
                (OptionKind::TransferSize, 673_312)
            ]
        );
        assert_eq!(encoded(&Packet::OptionAck(options)), bytes);
        assert_eq!(encoded(&Packet::Ack { block: 0x0102 }), b"\0\x04\x01\x02");
        assert_eq!(encoded(&Packet::Data { block: 65_535, data: b"x" }), b"\0\x03\xff\xffx");
        assert_eq!(
            encoded(&Packet::Error {
                code: ErrorCode::NOT_FOUND,
                message: b"no\0pe"
            }),
            b"\0\x05\0\x01no\0"
        );
    }

    #[test]
    fn what_firmware_sends() {
        let options = |bytes: &[u8]| match Packet::parse(bytes) {
            Ok(Packet::Read(request)) => request.options.iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            options(b"\0\x01a\0OCTET\0BLKSIZE\x001468\0"),
            [(OptionKind::BlockSize, 1468)],
            "any case"
        );
        assert_eq!(
            options(b"\0\x01a\0octet\0tsize\x000"),
            [(OptionKind::TransferSize, 0)],
            "no last zero"
        );
        assert_eq!(
            options(b"\0\x01a\0octet\0tsize\x000\0\0\0\0\0blksize\x008\0"),
            [(OptionKind::TransferSize, 0)],
            "padding"
        );
        assert_eq!(
            options(b"\0\x01a\0octet\0multicast\0\0tsize\x000\0"),
            [(OptionKind::TransferSize, 0)],
            "unknown, empty value"
        );
        assert_eq!(options(b"\0\x01a\0octet\0blksize\0abc\0tsize\0-1\0windowsize\0"), [], "no numbers");
        assert_eq!(
            options(b"\0\x01a\0octet\0blksize\x00512\0blksize\x008\0"),
            [(OptionKind::BlockSize, 512)],
            "the first counts"
        );
        assert_eq!(
            options(b"\0\x01a\0octet\0tsize\x0099999999999999999999999\0"),
            [(OptionKind::TransferSize, u64::MAX)]
        );
    }

    #[test]
    fn what_is_no_packet() {
        for (bytes, error) in [
            (&b""[..], ParseError::Short),
            (b"\0", ParseError::Short),
            (b"\0\x04\0", ParseError::Short),
            (b"\0\x03", ParseError::Short),
            (b"\0\x05\0", ParseError::Short),
            (b"\0\x00", ParseError::Operation(0)),
            (b"\x01\0", ParseError::Operation(256)),
            (b"\0\x01", ParseError::Missing("file name")),
            (b"\0\x01\0octet\0", ParseError::Missing("file name")),
            (b"\0\x02a\0", ParseError::Missing("mode")),
            (b"\0\x01a\0\0", ParseError::Missing("mode")),
        ] {
            assert_eq!(Packet::parse(bytes), Err(error), "{bytes:?}");
        }
        let mut long = b"\0\x01".to_vec();
        long.resize(MAX_REQUEST + 1, b'a');
        assert_eq!(Packet::parse(&long), Err(ParseError::Long));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_and_what_is_parsed_survives(
            operation in 0_u16..8, rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600),
        ) {
            let bytes = [&operation.to_be_bytes()[..], &rest].concat();
            if let Ok(packet) = Packet::parse(&bytes) {
                let again = encoded(&packet);
                // Requests may grow by the zeros and the full name of the mode that were left out.
                if again.len() <= MAX_REQUEST || !matches!(packet, Packet::Read(_) | Packet::Write(_) | Packet::OptionAck(_)) {
                    proptest::prop_assert_eq!(Packet::parse(&again), Ok(packet));
                }
            }
        }

        #[test]
        fn options_survive(values in proptest::collection::vec((0_usize..4, proptest::prelude::any::<u64>()), 0..8)) {
            let mut options = Options::default();
            for (kind, value) in values {
                options.push(OptionKind::ALL[kind], value);
            }
            let bytes = encoded(&Packet::OptionAck(options));
            proptest::prop_assert_eq!(Packet::parse(&bytes), Ok(Packet::OptionAck(options)));
        }
    }
}
