//! Sessions: how they are begun (RAKP, IPMI v2.0, 13.17 to 13.24), and what comes through them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    commands,
    crypto::{Keys, Suite},
};
use crate::{
    bmc::Bmc,
    faults::{Mishap, Operation, What},
};

/// RMCP's header of class IPMI (13.1.3).
pub(super) const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];

/// Sessions at the same time.
const MOST: usize = 16;
/// A session without a request for so long ends (6.12.15: 60 s).
const IDLE: Duration = Duration::from_secs(60);
/// The highest privilege: administrator.
const HIGHEST: u8 = 4;
/// Numbers of datagrams that are remembered.
const HEARD: usize = 32;

/// Payload types (13.27.3).
const OPEN: u8 = 0x10;
const RAKP_1: u8 = 0x12;
const RAKP_3: u8 = 0x14;

#[derive(Debug)]
enum Stage {
    Opened,
    /// Both have said their random numbers.
    Exchanged {
        console_random: [u8; 16],
        own_random: [u8; 16],
        role: u8,
    },
    Live(Keys),
}

#[derive(Debug)]
struct Session {
    suite: Suite,
    console: u32,
    stage: Stage,
    sent: u32,
    heard: VecDeque<u32>,
    /// The last request's number and the answer to it.
    last: Option<(u8, Vec<u8>)>,
    used: Instant,
}

/// The sessions of a controller.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: HashMap<u32, Session>,
    counter: u32,
}

/// A datagram that makes sense.
#[derive(Debug)]
pub(super) enum Taken {
    /// Outside of sessions: an IPMI message.
    Sessionless(Vec<u8>),
    /// A step towards a session.
    Handshake { kind: u8, payload: Vec<u8> },
    /// In a session: a message that is genuine.
    Message { session: u32, message: Vec<u8> },
}

impl Taken {
    /// What it is for.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Handshake { kind: OPEN, .. } => Operation::Login,
            Self::Sessionless(_) | Self::Handshake { .. } => Operation::Any,
            Self::Message { message, .. } => commands::operation(message),
        }
    }
}

fn lock(bmc: &Bmc) -> MutexGuard<'_, Sessions> {
    let mut sessions = bmc.ipmi.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.open.retain(|_, session| session.used.elapsed() < IDLE);
    sessions
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a datagram. None: it is nothing that is answered.
pub(super) fn take(bmc: &Bmc, datagram: &[u8]) -> Option<Taken> {
    let body = datagram.strip_prefix(&RMCP)?;
    match *body {
        // IPMI 1.5 outside of sessions: no authentication, number and sequence are zero.
        [0, 0, 0, 0, 0, 0, 0, 0, 0, length, ref message @ ..] => Some(Taken::Sessionless(message.get(..usize::from(length))?.to_vec())),
        [
            6,
            kind @ (OPEN | RAKP_1 | RAKP_3),
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            low,
            high,
            ref payload @ ..,
        ] => Some(Taken::Handshake {
            kind,
            payload: payload.get(..usize::from(u16::from_le_bytes([low, high])))?.to_vec(),
        }),
        [6, 0xc0, ..] => {
            let (session, sequence) = (number(body, 2)?, number(body, 6)?);
            let mut sessions = lock(bmc);
            let known = sessions.open.get_mut(&session)?;
            let Stage::Live(keys) = &known.stage else { return None };
            let message = keys.open(body)?;
            // Who listened cannot say it again.
            if known.heard.contains(&sequence) {
                return None;
            }
            known.heard.push_back(sequence);
            if known.heard.len() > HEARD {
                known.heard.pop_front();
            }
            known.used = Instant::now();
            Some(Taken::Message { session, message })
        }
        _ => None,
    }
}

/// Does what a datagram wants, and makes the answer.
pub(super) fn carry_out(bmc: &Bmc, taken: Taken, mishap: Mishap) -> Option<Vec<u8>> {
    match taken {
        Taken::Sessionless(message) => {
            let answer = commands::outside(&message)?;
            let mut out = [&RMCP[..], &[0; 9]].concat();
            out.push(u8::try_from(answer.len()).ok()?);
            out.extend_from_slice(&answer);
            Some(out)
        }
        Taken::Handshake { kind, payload } => {
            let answer = match kind {
                OPEN => open(bmc, &payload, mishap),
                RAKP_1 => rakp_1(bmc, &payload),
                _ => rakp_3(bmc, &payload),
            }?;
            let mut out = [&RMCP[..], &[6, kind + 1], &[0; 8]].concat();
            out.extend_from_slice(&u16::try_from(answer.len()).ok()?.to_le_bytes());
            out.extend_from_slice(&answer);
            Some(out)
        }
        Taken::Message { session, message } => inside(bmc, session, &message, mishap),
    }
}

fn open(bmc: &Bmc, payload: &[u8], mishap: Mishap) -> Option<Vec<u8>> {
    let console = number(payload, 4)?;
    let refuse = |status: u8| Some([&[payload[0], status, 0, 0][..], &console.to_le_bytes()].concat());
    let mut sessions = lock(bmc);
    if sessions.open.len() >= MOST || mishap.what == Some(What::SessionsFull) {
        return refuse(0x01);
    }
    let Some(suite) = Suite::of([*payload.get(12)?, *payload.get(20)?, *payload.get(28)?]) else {
        return refuse(0x11);
    };
    // 0 asks for the highest that there is.
    if payload[1] > HIGHEST {
        return refuse(0x09);
    }
    sessions.counter = sessions.counter.wrapping_add(1);
    let session = 0x0500_0000 | (sessions.counter & 0x00ff_ffff);
    sessions.open.insert(
        session,
        Session {
            suite,
            console,
            stage: Stage::Opened,
            sent: 0,
            heard: VecDeque::new(),
            last: None,
            used: Instant::now(),
        },
    );
    let mut out = vec![payload[0], 0, if payload[1] == 0 { HIGHEST } else { payload[1] }, 0];
    out.extend_from_slice(&console.to_le_bytes());
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(payload.get(8..32)?);
    Some(out)
}

/// The controller's GUID.
fn guid(bmc: &Bmc) -> [u8; 16] {
    let mut guid = *b"simulated-bmc\0\0\0";
    guid[12..].copy_from_slice(&u32::try_from(bmc.index).unwrap_or_default().to_be_bytes());
    guid
}

/// The head of an answer: the message's tag, how it went, and whose session it is.
fn head(payload: &[u8], status: u8, console: u32) -> Vec<u8> {
    [&[payload[0], status, 0, 0][..], &console.to_le_bytes()].concat()
}

fn rakp_1(bmc: &Bmc, payload: &[u8]) -> Option<Vec<u8>> {
    let session = number(payload, 4)?;
    let console_random: [u8; 16] = payload.get(8..24)?.try_into().ok()?;
    let (role, user) = (*payload.get(24)?, payload.get(28..)?);
    let mut sessions = lock(bmc);
    let Some(known) = sessions.open.get_mut(&session) else {
        return Some(head(payload, 0x02, 0));
    };
    if matches!(known.stage, Stage::Live(_)) {
        return None;
    }
    if user != bmc.access.user.as_bytes() {
        return Some(head(payload, 0x0d, known.console));
    }
    if role & 0x0f > HIGHEST {
        return Some(head(payload, 0x09, known.console));
    }
    let own_random: [u8; 16] = rand::random();
    let name = [role, u8::try_from(user.len()).ok()?];
    let code = known.suite.code(
        bmc.access.password.as_bytes(),
        &[
            &known.console.to_le_bytes(),
            &session.to_le_bytes(),
            &console_random,
            &own_random,
            &guid(bmc),
            &name,
            user,
        ],
    );
    known.stage = Stage::Exchanged {
        console_random,
        own_random,
        role,
    };
    Some([head(payload, 0, known.console), own_random.to_vec(), guid(bmc).to_vec(), code].concat())
}

fn rakp_3(bmc: &Bmc, payload: &[u8]) -> Option<Vec<u8>> {
    let session = number(payload, 4)?;
    let mut sessions = lock(bmc);
    let Some(known) = sessions.open.get_mut(&session) else {
        return Some(head(payload, 0x02, 0));
    };
    let Stage::Exchanged {
        console_random,
        own_random,
        role,
    } = &known.stage
    else {
        return Some(head(payload, 0x02, known.console));
    };
    let (password, user) = (bmc.access.password.as_bytes(), bmc.access.user.as_bytes());
    let name = [*role, u8::try_from(user.len()).ok()?];
    let wanted = known.suite.code(password, &[own_random, &known.console.to_le_bytes(), &name, user]);
    if payload.get(8..)? != wanted {
        let refused = head(payload, 0x0f, known.console);
        sessions.open.remove(&session);
        return Some(refused);
    }
    let key = known.suite.code(password, &[console_random, own_random, &name, user]);
    let mut code = known.suite.code(&key, &[console_random, &session.to_le_bytes(), &guid(bmc)]);
    code.truncate(known.suite.short());
    known.stage = Stage::Live(Keys::of(known.suite, &key));
    Some([head(payload, 0, known.console), code].concat())
}

fn inside(bmc: &Bmc, session: u32, message: &[u8], mishap: Mishap) -> Option<Vec<u8>> {
    let number = *message.get(4)?;
    let repeated = lock(bmc)
        .open
        .get(&session)?
        .last
        .as_ref()
        .filter(|(last, _)| *last == number)
        .map(|(_, answer)| answer.clone());
    // What comes again by its number is answered, and not carried out again.
    let answer = match repeated {
        Some(answer) => answer,
        None => commands::inside(bmc, message, mishap)?,
    };
    let mut sessions = lock(bmc);
    let known = sessions.open.get_mut(&session)?;
    known.last = Some((number, answer.clone()));
    known.sent = known.sent.wrapping_add(1);
    let Stage::Live(keys) = &known.stage else { return None };
    let out = keys.seal(known.console, known.sent, &answer);
    if commands::operation(message) == Operation::Logout {
        sessions.open.remove(&session);
    }
    Some(out)
}
