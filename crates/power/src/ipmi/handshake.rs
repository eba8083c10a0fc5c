//! The four exchanges that make a session: capabilities, Open Session, RAKP 1 and 2, RAKP 3 and 4. Bytes and their meaning, no order and no time.
//!
//! IPMI v2.0 revision 1.1: sections 22.13 (capabilities), 13.17 and 13.18 (Open Session), 13.20 to 13.23 (RAKP), 13.24 (status codes).

use super::{
    suite::{CipherSuite, Exchange},
    wire::{Request, WireError, sixteen_at, u32_at},
};

/// What a user may do (table 6-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    /// Look.
    User,
    /// Switch, and choose the next boot.
    Operator,
    /// Everything. Some BMCs want it for what an operator may do.
    Administrator,
}

impl Privilege {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::User => 2,
            Self::Operator => 3,
            Self::Administrator => 4,
        }
    }
}

impl std::fmt::Display for Privilege {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::User => "User",
            Self::Operator => "Operator",
            Self::Administrator => "Administrator",
        })
    }
}

/// Get Channel Authentication Capabilities of the channel we come over, with what is new in IPMI v2.0.
#[must_use]
pub fn capabilities(privilege: Privilege) -> Request {
    Request {
        net_fn: 0x06,
        command: 0x38,
        data: vec![0x8e, privilege.number()],
    }
}

/// What a BMC says of itself before anybody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// It has RMCP+.
    pub version_2: bool,
    /// It has a key of its own beside the users' passwords.
    pub own_key: bool,
}

impl Abilities {
    /// Reads the answer's data.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn parse(data: &[u8]) -> Result<Self, WireError> {
        let [_channel, types, status, extended, ..] = data else {
            return Err(WireError::Short);
        };
        Ok(Self {
            version_2: types & 0x80 != 0 && extended & 0x02 != 0,
            own_key: status & 0x20 != 0,
        })
    }
}

/// Open Session Request.
#[must_use]
pub fn open_request(tag: u8, suite: CipherSuite, privilege: Privilege, console_session: u32) -> Vec<u8> {
    let mut out = vec![tag, privilege.number(), 0, 0];
    out.extend_from_slice(&console_session.to_le_bytes());
    for (kind, algorithm) in (0..).zip(suite.algorithms()) {
        out.extend_from_slice(&[kind, 0, 0, 8, algorithm, 0, 0, 0]);
    }
    out
}

/// What every answer of the handshake begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the question.
    pub tag: u8,
    /// How it went (table 13-15); 0 is well.
    pub status: u8,
    /// Our session number. A refusal may end before it.
    pub console_session: Option<u32>,
}

impl Head {
    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let [tag, status, ..] = payload else { return Err(WireError::Short) };
        Ok(Self {
            tag: *tag,
            status: *status,
            console_session: u32_at(payload, 4).ok(),
        })
    }
}

/// The BMC's session number of an Open Session Response that went well, if it took the suite that was asked for.
///
/// # Errors
/// It is too short, or chose other algorithms.
pub fn open_response(payload: &[u8], suite: CipherSuite) -> Result<u32, WireError> {
    let session = u32_at(payload, 8)?;
    for (index, algorithm) in suite.algorithms().into_iter().enumerate() {
        if payload.get(12 + 8 * index + 4).ok_or(WireError::Short)? & 0x3f != algorithm {
            return Err(WireError::Mismatch("the cipher suite"));
        }
    }
    Ok(session)
}

/// The byte of RAKP message 1 for a privilege: users are looked up by their name alone.
#[must_use]
pub const fn role(privilege: Privilege) -> u8 {
    0x10 | privilege.number()
}

/// RAKP message 1.
#[must_use]
pub fn rakp_1(tag: u8, bmc_session: u32, console_random: &[u8; 16], role: u8, user: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, 0, 0, 0];
    out.extend_from_slice(&bmc_session.to_le_bytes());
    out.extend_from_slice(console_random);
    out.extend_from_slice(&[role, 0, 0, u8::try_from(user.len()).unwrap_or(u8::MAX)]);
    out.extend_from_slice(user);
    out
}

/// What RAKP 2 carries: the BMC's random number, its GUID, and its authentication code.
pub type Rakp2<'p> = ([u8; 16], [u8; 16], &'p [u8]);

/// RAKP message 2 that went well: the BMC's random number, its GUID, its code.
///
/// # Errors
/// [`WireError::Short`], or a code of another length.
pub fn rakp_2(payload: &[u8], suite: CipherSuite) -> Result<Rakp2<'_>, WireError> {
    let code = payload.get(40..).ok_or(WireError::Short)?;
    if code.len() != suite.code_length() {
        return Err(WireError::Mismatch("the length of the code"));
    }
    Ok((sixteen_at(payload, 8)?, sixteen_at(payload, 24)?, code))
}

/// RAKP message 3.
#[must_use]
pub fn rakp_3(tag: u8, exchange: &Exchange, password: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, 0, 0, 0];
    out.extend_from_slice(&exchange.bmc_session.to_le_bytes());
    out.extend_from_slice(&exchange.code_3(password));
    out
}

/// The code of RAKP message 4 that went well.
///
/// # Errors
/// [`WireError::Short`].
pub fn rakp_4(payload: &[u8], suite: CipherSuite) -> Result<&[u8], WireError> {
    payload.get(8..8 + suite.integrity_length()).ok_or(WireError::Short)
}

/// What a status other than 0 means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no session left.
    NoSession,
    /// It does not have the algorithms.
    Suite,
    /// The user is not known.
    User,
    /// The user does not have the privilege, or the channel does not.
    Privilege,
    /// The code is wrong: password or key.
    Code,
    /// Our session is not known any more: it was lost between two messages.
    Forgotten,
    /// Anything else.
    Other(u8),
}

impl Refusal {
    /// Of a status that is not 0.
    #[must_use]
    pub const fn of(status: u8) -> Self {
        match status {
            0x01 | 0x0b => Self::NoSession,
            0x04..=0x07 | 0x10 | 0x11 => Self::Suite,
            0x0d => Self::User,
            0x09 | 0x0a => Self::Privilege,
            0x0f => Self::Code,
            0x02 | 0x08 => Self::Forgotten,
            other => Self::Other(other),
        }
    }
}
