//! libvirt's messages: `virnetprotocol.x` and, of the calls, as much of `remote_protocol.x` as is asked here. Pure.
//!
//! The numbers of both are libvirt's promise for all versions. A packet is its length (with those four bytes), a head of six numbers, and what the call takes or gives.

use super::xdr::{Reader, put_text};

/// The number of libvirt's program, and its version.
const PROGRAM: (u32, u32) = (0x2000_8086, 1);
/// The bytes of a packet's length.
pub const LENGTH: usize = 4;
/// The bytes of a head, without the length.
const HEAD: usize = 24;
/// The largest packet that is read. What is asked here is answered by some hundred bytes; an error's words are libvirt's own.
pub const LARGEST: usize = 64 << 10;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Procedure {
    /// Opens the driver of a URI.
    Open = 1,
    /// Ends the connection.
    Close = 2,
    /// Starts a domain.
    Create = 9,
    /// Takes a domain's power.
    Destroy = 12,
    /// A domain by its name.
    ByName = 23,
    /// A domain by its UUID.
    ByUuid = 24,
    /// Lets a paused domain go on.
    Resume = 28,
    /// Asks a domain's system to shut down.
    Shutdown = 33,
    /// How clients may prove who they are.
    AuthList = 66,
    /// Lets the daemon ask polkit who we are.
    AuthPolkit = 70,
    /// What a domain does.
    State = 212,
    /// Presses a domain's reset button.
    Reset = 245,
    /// Wakes a domain that sleeps.
    Wake = 267,
}

/// A domain, as libvirt names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its number while it runs; else -1.
    pub id: i32,
}

impl Domain {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            name: reader.text()?,
            uuid: reader.bytes()?,
            id: reader.i32()?,
        })
    }

    /// From the answer to a look-up.
    #[must_use]
    pub fn parse(answer: &[u8]) -> Option<Self> {
        Self::read(&mut Reader::new(answer))
    }

    /// As an argument. `flags`: with none of those that some calls take.
    #[must_use]
    pub fn argument(&self, flags: bool) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.name);
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.id.to_be_bytes());
        if flags {
            out.extend_from_slice(&0_u32.to_be_bytes());
        }
        out
    }
}

/// What a domain does (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for something.
    Running,
    /// Its processors stand still.
    Paused,
    /// It is shutting down.
    ShuttingDown,
    /// It is off.
    Off,
    /// It is off, or what is left of it is kept, because it crashed.
    Crashed,
    /// It sleeps.
    Asleep,
    /// Something else.
    Other(i32),
}

impl State {
    /// From the answer to [`Procedure::State`].
    #[must_use]
    pub fn parse(answer: &[u8]) -> Option<Self> {
        Some(match Reader::new(answer).i32()? {
            1 | 2 => Self::Running,
            3 => Self::Paused,
            4 => Self::ShuttingDown,
            5 => Self::Off,
            6 => Self::Crashed,
            7 => Self::Asleep,
            other => Self::Other(other),
        })
    }
}

/// Why libvirt refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Its number (`virErrorNumber`).
    pub code: i32,
    /// Its words.
    pub message: String,
}

impl Complaint {
    /// Of an answer that is one. More is in it, which nobody needs.
    #[must_use]
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(answer);
        let code = reader.i32()?;
        let _domain = reader.i32()?;
        Some(Self {
            code,
            message: reader.perhaps_text()?.unwrap_or_default(),
        })
    }
}

/// What came for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Its answer.
    Answer(Vec<u8>),
    /// Its refusal.
    Complaint(Complaint),
    /// Something else: an event, an answer to nobody.
    Other,
}

/// A packet that makes a call.
#[must_use]
pub fn call(procedure: Procedure, serial: u32, argument: &[u8]) -> Vec<u8> {
    // Arguments are a name or a URI, bounded in the settings.
    let length = u32::try_from(LENGTH + HEAD + argument.len()).unwrap_or(u32::MAX);
    let (program, version) = PROGRAM;
    // A call, and no error.
    let head = [length, program, version, procedure as u32, 0, serial, 0];
    let mut out: Vec<u8> = head.into_iter().flat_map(u32::to_be_bytes).collect();
    out.extend_from_slice(argument);
    out
}

/// How many bytes follow a packet's length. None: fewer than a head, or more than is read.
#[must_use]
pub fn following(length: [u8; LENGTH]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (LENGTH + HEAD..=LARGEST).contains(&length).then(|| length - LENGTH)
}

/// Reads a packet without its length. None: it makes no sense.
#[must_use]
pub fn hear(packet: &[u8], procedure: Procedure, serial: u32) -> Option<Heard> {
    let mut reader = Reader::new(packet);
    let program = (reader.u32()?, reader.u32()?);
    let about = (reader.u32()?, reader.u32()?, reader.u32()?);
    let status = reader.u32()?;
    // A reply to this very call.
    if program != PROGRAM || about != (procedure as u32, 1, serial) {
        return Some(Heard::Other);
    }
    match status {
        0 => Some(Heard::Answer(reader.rest().to_vec())),
        1 => Complaint::parse(reader.rest()).map(Heard::Complaint),
        _ => None,
    }
}

/// The argument of [`Procedure::Open`].
#[must_use]
pub fn open(uri: &str) -> Vec<u8> {
    let mut out = 1_u32.to_be_bytes().to_vec();
    put_text(&mut out, uri);
    out.extend_from_slice(&0_u32.to_be_bytes());
    out
}

/// The argument of [`Procedure::ByName`].
#[must_use]
pub fn by_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, name);
    out
}

/// The kinds of authentication in the answer to [`Procedure::AuthList`]: 0 none, 1 SASL, 2 polkit.
#[must_use]
pub fn auth_kinds(answer: &[u8]) -> Option<Vec<u32>> {
    let mut reader = Reader::new(answer);
    let count = reader.u32()?;
    // As many as libvirt allows (REMOTE_AUTH_TYPE_LIST_MAX).
    (count <= 20).then_some(())?;
    (0..count).map(|_| reader.u32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet as `virsh --connect qemu+unix:///system?socket=…` sends it first, by the document.
    #[test]
    fn a_call_is_its_length_its_head_and_its_argument() {
        let packet = call(Procedure::AuthList, 3, &[]);
        assert_eq!(
            hex::encode(&packet),
            "0000001c2000808600000001000000420000000000000003".to_owned() + "00000000"
        );
        let packet = call(Procedure::Open, 4, &open("qemu:///system"));
        assert_eq!(
            hex::encode(&packet[28..]),
            "000000010000000e71656d753a2f2f2f73797374656d000000000000"
        );
        assert_eq!(packet.len(), 56);
        assert_eq!(packet[..4], 56_u32.to_be_bytes());
    }

    #[test]
    fn a_length_is_bounded() {
        for (length, follows) in [
            (0, None),
            (27, None),
            (28, Some(24)),
            (65_536, Some(65_532)),
            (65_537, None),
            (u32::MAX, None),
        ] {
            assert_eq!(following(length.to_be_bytes()), follows, "{length}");
        }
    }

    #[test]
    fn what_answers_another_call_is_not_heard() {
        let answer = |serial: u32, kind: u32, status: u32, rest: &[u8]| {
            let head = [0x2000_8086, 1, 66, kind, serial, status];
            let mut out: Vec<u8> = head.into_iter().flat_map(u32::to_be_bytes).collect();
            out.extend_from_slice(rest);
            out
        };
        let hear = |packet: &[u8]| hear(packet, Procedure::AuthList, 3);
        assert_eq!(hear(&answer(3, 1, 0, &[0; 4])), Some(Heard::Answer(vec![0; 4])));
        assert_eq!(hear(&answer(2, 1, 0, &[0; 4])), Some(Heard::Other));
        assert_eq!(hear(&answer(3, 2, 0, &[0; 4])), Some(Heard::Other));
        assert_eq!(hear(&answer(3, 1, 7, &[])), None);
        assert_eq!(hear(&answer(3, 1, 1, &[0; 7])), None);
        let mut complaint = [42_i32, 10, 1].into_iter().flat_map(i32::to_be_bytes).collect::<Vec<u8>>();
        put_text(&mut complaint, "Domain not found");
        let heard = Heard::Complaint(Complaint {
            code: 42,
            message: "Domain not found".to_owned(),
        });
        assert_eq!(hear(&answer(3, 1, 1, &complaint)), Some(heard));
        assert_eq!(auth_kinds(&[0, 0, 0, 1, 0, 0, 0, 2]), Some(vec![2]));
        assert_eq!(auth_kinds(&[0xff; 8]), None);
    }
}
