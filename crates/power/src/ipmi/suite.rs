//! The cryptography of RMCP+: keys and authentication codes of RAKP, and sealed datagrams. Pure.
//!
//! IPMI v2.0 revision 1.1: RAKP (13.20 to 13.24, 13.28), keys (13.31, 13.32), integrity (13.28.4), confidentiality (13.29). Suite 3 is RAKP-HMAC-SHA1, HMAC-SHA1-96
//! and AES-CBC-128; suite 17 is RAKP-HMAC-SHA256, HMAC-SHA256-128 and AES-CBC-128. Suites without encryption are not here: boot orders are worth forging.
//!
//! RAKP itself hands whoever asks for a user a code made with the password (message 2), to guess at in peace. Nothing here can mend that: use long random passwords,
//! and a network of the BMCs' own.

use aes::Aes128;
use cbc::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::wire::{NEXT_HEADER, PayloadType, Sealed, WireError, sealed_header};

/// The block of AES, and the initialisation vector.
const BLOCK: usize = 16;
/// What a session trailer has beside its padding: its length, and the next header.
const TRAILER: usize = 2;

/// Algorithms that belong together (table 22-20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// 3: SHA-1. What every BMC with IPMI 2.0 has.
    Three,
    /// 17: SHA-256. What newer ones have.
    Seventeen,
}

impl CipherSuite {
    /// Its number.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Seventeen => 17,
        }
    }

    /// The numbers of its algorithms: authentication (table 13-17), integrity (13-18), confidentiality (13-19).
    #[must_use]
    pub const fn algorithms(self) -> [u8; 3] {
        match self {
            Self::Three => [0x01, 0x01, 0x01],
            Self::Seventeen => [0x03, 0x04, 0x01],
        }
    }

    /// Bytes of a code of RAKP messages 2 and 3, and of the keys.
    #[must_use]
    pub const fn code_length(self) -> usize {
        match self {
            Self::Three => 20,
            Self::Seventeen => 32,
        }
    }

    /// Bytes of the code of RAKP message 4, and of a datagram's.
    #[must_use]
    pub const fn integrity_length(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }

    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn run<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            // HMAC takes keys of any length.
            let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
                unreachable!("HMAC refused a key of {} bytes", key.len())
            };
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Three => run::<Hmac<Sha1>>(key, parts),
            Self::Seventeen => run::<Hmac<Sha256>>(key, parts),
        }
    }
}

/// What both sides of RAKP know when its messages 1 and 2 are exchanged. Session numbers are the ones that each side chose for what it receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The algorithms.
    pub suite: CipherSuite,
    /// Our session number.
    pub console_session: u32,
    /// The BMC's.
    pub bmc_session: u32,
    /// Our random number.
    pub console_random: [u8; 16],
    /// The BMC's.
    pub bmc_random: [u8; 16],
    /// The BMC's GUID, as it came.
    pub guid: [u8; 16],
    /// The byte of message 1 that names the privilege and how the user is looked up.
    pub role: u8,
    /// The user's name.
    pub user: Vec<u8>,
}

impl Exchange {
    fn name(&self) -> [u8; 2] {
        [self.role, u8::try_from(self.user.len()).unwrap_or(u8::MAX)]
    }

    /// The code of message 2, by which the BMC shows that it knows the password.
    #[must_use]
    pub fn code_2(&self, password: &[u8]) -> Vec<u8> {
        let (ours, theirs) = (self.console_session.to_le_bytes(), self.bmc_session.to_le_bytes());
        let parts: [&[u8]; 7] = [
            &ours,
            &theirs,
            &self.console_random,
            &self.bmc_random,
            &self.guid,
            &self.name(),
            &self.user,
        ];
        self.suite.hmac(password, &parts)
    }

    /// The code of message 3, by which we show it.
    #[must_use]
    pub fn code_3(&self, password: &[u8]) -> Vec<u8> {
        let ours = self.console_session.to_le_bytes();
        self.suite.hmac(password, &[&self.bmc_random, &ours, &self.name(), &self.user])
    }

    /// The session integrity key, made with the BMC's own key if it has one, else with the password.
    #[must_use]
    pub fn session_key(&self, key: &[u8]) -> Vec<u8> {
        self.suite
            .hmac(key, &[&self.console_random, &self.bmc_random, &self.name(), &self.user])
    }

    /// The code of message 4, by which the BMC shows that it has the same session key.
    #[must_use]
    pub fn code_4(&self, session_key: &[u8]) -> Vec<u8> {
        let theirs = self.bmc_session.to_le_bytes();
        let mut code = self.suite.hmac(session_key, &[&self.console_random, &theirs, &self.guid]);
        code.truncate(self.suite.integrity_length());
        code
    }
}

/// Whether two codes are the same, in a time that does not tell where they differ.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// The keys of a session. They are not printed.
pub struct Keys {
    suite: CipherSuite,
    /// K1.
    integrity: Vec<u8>,
    /// The beginning of K2.
    confidentiality: [u8; BLOCK],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Keys {
    /// K1 and K2 of a session integrity key: codes over constants of 20 bytes, with suite 17 too.
    #[must_use]
    pub fn new(suite: CipherSuite, session_key: &[u8]) -> Self {
        let second = suite.hmac(session_key, &[&[0x02; 20]]);
        let mut confidentiality = [0; BLOCK];
        confidentiality.copy_from_slice(&second[..BLOCK]);
        Self {
            suite,
            integrity: suite.hmac(session_key, &[&[0x01; 20]]),
            confidentiality,
        }
    }

    /// Encrypts and signs a payload. The vector must be random and is never used twice.
    #[must_use]
    pub fn seal(&self, kind: PayloadType, session: u32, sequence: u32, payload: &[u8], vector: [u8; BLOCK]) -> Vec<u8> {
        // The padding counts 1, 2, 3, ... and is followed by its length.
        let padding = (BLOCK - (payload.len() + 1) % BLOCK) % BLOCK;
        let mut out = sealed_header(kind, session, sequence, BLOCK + payload.len() + padding + 1);
        out.extend_from_slice(&vector);
        let begin = out.len();
        out.extend_from_slice(payload);
        out.extend((1..).take(padding));
        // Below 16.
        out.push(u8::try_from(padding).unwrap_or_default());
        let mut cipher = cbc::Encryptor::<Aes128>::new(&self.confidentiality.into(), &vector.into());
        for block in out[begin..].as_chunks_mut::<BLOCK>().0 {
            let whole: &mut Array<u8, _> = block.into();
            cipher.encrypt_block(whole);
        }
        // What is signed begins after RMCP's header and is filled to a multiple of four.
        let fill = (4 - (out.len() - 4 + TRAILER) % 4) % 4;
        out.extend(std::iter::repeat_n(0xff, fill));
        out.extend_from_slice(&[u8::try_from(fill).unwrap_or_default(), NEXT_HEADER]);
        let mut code = self.suite.hmac(&self.integrity, &[&out[4..]]);
        code.truncate(self.suite.integrity_length());
        out.extend_from_slice(&code);
        out
    }

    /// The payload of a datagram, if it is genuine.
    ///
    /// # Errors
    /// [`WireError::Forged`] when it is not: code, padding or length are not what our keys make of it.
    pub fn open(&self, datagram: &Sealed<'_>) -> Result<Vec<u8>, WireError> {
        let signed = datagram.signed;
        let split = signed.len().checked_sub(self.suite.integrity_length()).ok_or(WireError::Short)?;
        let (covered, code) = signed.split_at(split);
        let mut wanted = self.suite.hmac(&self.integrity, &[covered]);
        wanted.truncate(self.suite.integrity_length());
        if !same(&wanted, code) {
            return Err(WireError::Forged);
        }
        let (vector, text) = datagram.payload.split_first_chunk::<BLOCK>().ok_or(WireError::Forged)?;
        // What was signed reaches at least over the payload.
        if text.is_empty() || !text.len().is_multiple_of(BLOCK) || covered.len() < 12 + datagram.payload.len() + TRAILER {
            return Err(WireError::Forged);
        }
        let mut plain = text.to_vec();
        let mut cipher = cbc::Decryptor::<Aes128>::new(&self.confidentiality.into(), &(*vector).into());
        for block in plain.as_chunks_mut::<BLOCK>().0 {
            let whole: &mut Array<u8, _> = block.into();
            cipher.decrypt_block(whole);
        }
        // Only the length of the padding is judged: some BMCs fill it with whatever is there. The code above says that it is theirs.
        let padding = usize::from(plain.pop().unwrap_or_default());
        let length = plain
            .len()
            .checked_sub(padding)
            .filter(|_| padding < BLOCK)
            .ok_or(WireError::Forged)?;
        plain.truncate(length);
        Ok(plain)
    }
}
