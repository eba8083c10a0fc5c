//! A BMC for tests: the other side of RMCP+, for what no BMC that can be had here does: suite 17, losing its memory at a chosen moment, answering each RAKP message 1
//! with another random number. Datagrams in, datagrams out; no socket. That it is one is said by ipmitool, which talks to it with both suites (`codes`).

use std::collections::{HashMap, HashSet};

use power::ipmi::{
    handshake::Privilege,
    suite::{CipherSuite, Exchange, Keys, same},
    wire::{self, Datagram, PayloadType, Sealed},
};

const USER: &[u8] = b"admin";
const GUID: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";

#[derive(Debug)]
struct Session {
    suite: CipherSuite,
    console: u32,
    stage: Stage,
    sent: u32,
    /// Numbers of datagrams that came.
    heard: HashSet<u32>,
}

#[derive(Debug)]
enum Stage {
    Opened,
    Exchanged(Exchange),
    Live(Keys),
}

/// The BMC, and what it was told.
#[derive(Debug)]
pub struct Bmc {
    pub password: Vec<u8>,
    pub own_key: Option<Vec<u8>>,
    pub suites: Vec<CipherSuite>,
    pub highest: Privilege,
    pub on: bool,
    /// Chassis controls that were carried out.
    pub controls: Vec<u8>,
    pub boot_flags: [u8; 5],
    /// Requests of each command that came in a session, repetitions too.
    pub requests: Vec<(u8, u8)>,
    pub sessions_closed: usize,
    sessions: HashMap<u32, Session>,
    last: Option<(u32, u8, Vec<u8>)>,
    counter: u32,
}

impl Bmc {
    pub fn new(suites: &[CipherSuite]) -> Self {
        Self {
            password: b"s3cret-Pass".to_vec(),
            own_key: None,
            suites: suites.to_vec(),
            highest: Privilege::Administrator,
            on: false,
            controls: Vec::new(),
            boot_flags: [0; 5],
            requests: Vec::new(),
            sessions_closed: 0,
            sessions: HashMap::new(),
            last: None,
            counter: 0,
        }
    }

    /// What a reset does: the sessions are gone, the machine is not touched.
    pub fn reset(&mut self) {
        self.sessions.clear();
        self.last = None;
    }

    fn random(&mut self) -> [u8; 16] {
        self.counter += 1;
        let mut out = [0x5a; 16];
        out[..4].copy_from_slice(&self.counter.to_le_bytes());
        out
    }

    pub fn answer(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        match Datagram::parse(datagram).ok()? {
            Datagram::Sessionless(message) => {
                let (number, command, _) = request(message)?;
                let data: &[u8] = if command == 0x38 {
                    &[1, 0x80, 0x04, 0x02, 0, 0, 0, 0]
                } else {
                    return None;
                };
                Some(wire::sessionless(&response(0x06, number, command, 0, data)))
            }
            Datagram::Clear {
                kind: PayloadType::OpenRequest,
                payload,
            } => self.open(payload),
            Datagram::Clear {
                kind: PayloadType::Rakp1,
                payload,
            } => self.rakp_1(payload),
            Datagram::Clear {
                kind: PayloadType::Rakp3,
                payload,
            } => self.rakp_3(payload),
            Datagram::Clear { .. } => None,
            Datagram::Sealed(sealed) => self.sealed(&sealed),
        }
    }

    fn open(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let console: [u8; 4] = payload.get(4..8)?.try_into().ok()?;
        let wanted = [payload[12], payload[20], payload[28]];
        let refuse = |status: u8| {
            Some(wire::clear(
                PayloadType::OpenResponse,
                &[&[payload[0], status, 0, 0][..], &console].concat(),
            ))
        };
        let Some(suite) = self.suites.iter().copied().find(|suite| suite.algorithms() == wanted) else {
            return refuse(0x11);
        };
        if payload[1] > self.highest.number() {
            return refuse(0x09);
        }
        self.counter += 1;
        let session = 0x0200_0000 | self.counter;
        let new = Session {
            suite,
            console: u32::from_le_bytes(console),
            stage: Stage::Opened,
            sent: 0,
            heard: HashSet::new(),
        };
        self.sessions.insert(session, new);
        let mut out = vec![payload[0], 0, payload[1], 0];
        out.extend_from_slice(&console);
        out.extend_from_slice(&session.to_le_bytes());
        out.extend_from_slice(&payload[8..32]);
        Some(wire::clear(PayloadType::OpenResponse, &out))
    }

    fn rakp_1(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let number = u32::from_le_bytes(payload.get(4..8)?.try_into().ok()?);
        let bmc_random = self.random();
        let Some(session) = self.sessions.get_mut(&number) else {
            return Some(wire::clear(PayloadType::Rakp2, &[payload[0], 0x02, 0, 0, 0, 0, 0, 0]));
        };
        // A session that stands is not begun again by what comes late.
        if matches!(session.stage, Stage::Live(_)) {
            return None;
        }
        let head = |status: u8| [&[payload[0], status, 0, 0][..], &session.console.to_le_bytes()].concat();
        let user = payload.get(28..)?.to_vec();
        if user != USER {
            return Some(wire::clear(PayloadType::Rakp2, &head(0x0d)));
        }
        let exchange = Exchange {
            suite: session.suite,
            console_session: session.console,
            bmc_session: number,
            console_random: payload.get(8..24)?.try_into().ok()?,
            bmc_random,
            guid: GUID,
            role: payload[24],
            user,
        };
        let out = [&head(0)[..], &bmc_random, &GUID, &exchange.code_2(&self.password)].concat();
        session.stage = Stage::Exchanged(exchange);
        Some(wire::clear(PayloadType::Rakp2, &out))
    }

    fn rakp_3(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let number = u32::from_le_bytes(payload.get(4..8)?.try_into().ok()?);
        let Some(session) = self.sessions.get_mut(&number) else {
            return Some(wire::clear(PayloadType::Rakp4, &[payload[0], 0x02, 0, 0, 0, 0, 0, 0]));
        };
        let head = |status: u8| [&[payload[0], status, 0, 0][..], &session.console.to_le_bytes()].concat();
        // A second message 3 finds the session live: it is out of order.
        let Stage::Exchanged(exchange) = &session.stage else {
            return Some(wire::clear(PayloadType::Rakp4, &head(0x02)));
        };
        if !same(payload.get(8..)?, &exchange.code_3(&self.password)) {
            return Some(wire::clear(PayloadType::Rakp4, &head(0x0f)));
        }
        let key = exchange.session_key(self.own_key.as_ref().unwrap_or(&self.password));
        let out = [&head(0)[..], &exchange.code_4(&key)].concat();
        session.stage = Stage::Live(Keys::new(session.suite, &key));
        Some(wire::clear(PayloadType::Rakp4, &out))
    }

    fn sealed(&mut self, sealed: &Sealed<'_>) -> Option<Vec<u8>> {
        let vector = self.random();
        let session = self.sessions.get_mut(&sealed.session)?;
        let Stage::Live(keys) = &session.stage else { return None };
        let plain = keys.open(sealed).ok()?;
        if !session.heard.insert(sealed.sequence) {
            return None;
        }
        let (number, command, data) = request(&plain)?;
        let net_fn = plain[1] >> 2;
        self.requests.push((net_fn, command));
        let closes = (net_fn, command) == (0x06, 0x3c);
        // A request that comes again by its number is answered, not carried out again.
        let message = match &self.last {
            Some((session, last, message)) if (*session, *last) == (sealed.session, number) => message.clone(),
            _ => self.carry_out(net_fn, number, command, data),
        };
        self.last = Some((sealed.session, number, message.clone()));
        let session = self.sessions.get_mut(&sealed.session)?;
        session.sent += 1;
        let Stage::Live(keys) = &session.stage else { return None };
        let out = keys.seal(PayloadType::Message, session.console, session.sent, &message, vector);
        if closes {
            self.sessions.remove(&sealed.session);
            self.sessions_closed += 1;
        }
        Some(out)
    }

    fn carry_out(&mut self, net_fn: u8, number: u8, command: u8, data: &[u8]) -> Vec<u8> {
        let (completion, out): (u8, Vec<u8>) = match (net_fn, command, data) {
            (0x06, 0x01, _) => (0, vec![0x20, 1, 1, 0, 0x02, 0, 0, 0, 0, 0, 0]),
            (0x06, 0x3b, [level]) => (0, vec![*level]),
            (0x06, 0x3c, _) | (0x00, 0x08, [3, ..]) => (0, Vec::new()),
            (0x00, 0x01, _) => (0, vec![u8::from(self.on), 0, 0]),
            (0x00, 0x02, [control]) => {
                self.controls.push(*control);
                self.on = matches!(control, 1..=3);
                (0, Vec::new())
            }
            (0x00, 0x08, [5, flags @ ..]) if flags.len() == 5 => {
                self.boot_flags.copy_from_slice(flags);
                (0, Vec::new())
            }
            (0x00, 0x09, [5, ..]) => (0, [&[1, 5][..], &self.boot_flags].concat()),
            _ => (0xc1, Vec::new()),
        };
        response(net_fn, number, command, completion, &out)
    }
}

/// Number, command and data of a request.
fn request(message: &[u8]) -> Option<(u8, u8, &[u8])> {
    let [_, _, _, _, number, command, data @ .., _] = message else {
        return None;
    };
    Some((number >> 2, *command, data))
}

fn response(net_fn: u8, number: u8, command: u8, completion: u8, data: &[u8]) -> Vec<u8> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    let mut out = vec![0x81, (net_fn + 1) << 2];
    out.push(sum(&out));
    out.extend_from_slice(&[0x20, number << 2, command, completion]);
    out.extend_from_slice(data);
    out.push(sum(&out[3..]));
    out
}
