//! One simulated machine: a pure state machine. It is told what happened and says what it does next; it has no clock, no socket and no task.
//!
//! It behaves as firmware, agent and guest helper do: it boots as the boot server says, opens a session with keys made for that boot, asks for orders, looks at its disk
//! before it obeys, opens its seed with its own key, reports until the server says that it is stored, boots its own disk, registers from there, and obeys only a
//! signed order of this boot. A power cut takes its RAM and leaves its disk. Firmware that tries the disk first comes back to the network when it is told so for one boot.
//!
//! Times are shorter than real ones ([`Timing`]); nothing else is left out but the bytes of the disk. What it sees of the server that must never be is a [`Fact`] too.

mod orders;
mod terms;

use std::time::Duration;

use agent_protocol::{
    disk::ContentsState,
    guest::{GuestAction, GuestConfig, GuestOrder, GuestRegistration, PATH_GUEST_ORDER, PATH_GUEST_REGISTER},
    inventory::FirmwareMode,
    order::{Order, OrderKind, OrderResult, Progress, Report, Step},
    seed::{SealedSeed, SealingKey, sealing_key_from},
    session::{
        self, ErrorCode, ErrorResponse, OrderResponse, PATH_ORDER, PATH_REPORTS, PATH_SEED, PATH_SESSIONS, QUERY_SEED, SessionRequest,
        SessionResponse, encode,
    },
};
use ed25519_dalek::SigningKey;
use serde::de::DeserializeOwned;

pub use terms::{Action, Answer, Call, Fact, First, Input, Timing};

use super::{
    body::Body,
    faults::{Faults, Mishap, Point},
    random::Random,
};

/// Where the guest helper's configuration lies on the config drive.
const GUEST_CONFIG: &str = "kube-baremetal/guest.json";
/// Progress reports of one order.
const PROGRESS_REPORTS: u32 = 4;
/// As long as firmware shows its settings.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// What RAM holds while the agent runs.
struct Agent {
    /// Tried in this order, round and round; one that answers is kept.
    servers: Vec<String>,
    server: usize,
    pin: String,
    token: String,
    key: SigningKey,
    sealing: SealingKey,
    sealing_public: String,
    session: String,
    sequence: u64,
    /// The last order that was carried out.
    after: String,
    work: Option<Work>,
    /// A system with the guest helper was written in this boot.
    fresh_system: bool,
}

struct Work {
    order: Order,
    reports: u32,
    result: Option<OrderResult>,
}

/// What the installed system has on its disk.
struct System {
    config: GuestConfig,
    key: SigningKey,
    /// The boot in which its helper was told to leave for the agent, until the agent was there.
    left: Option<String>,
}

/// What is done when the wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    PowerOn,
    /// Ask; a fault may strike.
    Ask(Point),
    /// Ask again what was not answered.
    Again(Point),
    /// Go on writing or erasing.
    Work,
    /// Firmware goes to the disk by itself.
    BootDisk,
}

struct Asking {
    point: Point,
    call: Option<Call>,
    mishap: Option<Mishap>,
    /// The first answer, while the request is repeated on purpose.
    first: Option<Answer>,
}

/// See the module.
pub struct Machine {
    /// Identity and disk.
    pub body: Body,
    timing: Timing,
    faults: Faults,
    random: Random,
    then: Then,
    asking: Option<Asking>,
    fresh: bool,
    failures: u32,
    agent: Option<Agent>,
    /// The installed system, if there is one with a helper.
    system: Option<System>,
    running: Option<Run>,
    boots: u64,
    disk_first: bool,
    /// For one boot.
    first: First,
    facts: Vec<Fact>,
}

/// A running installed system.
struct Run {
    instance: String,
    boot_id: String,
    sequence: u64,
    server: usize,
}

impl Machine {
    /// A machine that is off; its first input switches it on.
    pub fn new(index: usize, seed: u64, faults: Faults, timing: Timing) -> Self {
        Self {
            body: Body::new(index, seed, faults.foreign),
            timing,
            faults,
            random: Random::of(seed ^ 0x3a11, index as u64),
            then: Then::PowerOn,
            asking: None,
            fresh: true,
            failures: 0,
            agent: None,
            system: None,
            running: None,
            boots: 0,
            disk_first: false,
            first: First::Usual,
            facts: Vec::new(),
        }
    }

    /// Its firmware is set up to try the disk before the network.
    #[must_use]
    pub fn disk_first(self) -> Self {
        Self { disk_first: true, ..self }
    }

    /// What the next boot tries first.
    pub fn boots_from(&mut self, first: First) {
        self.first = first;
    }

    /// Whether a system runs that listens to its power button.
    pub fn runs_system(&self) -> bool {
        self.running.is_some() && self.system.is_some()
    }

    /// What happened since this was asked last.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// In a few words, for a person who looks for a lost machine.
    pub fn place(&self) -> String {
        let asked = self
            .asking
            .as_ref()
            .map(|a| format!("{:?}", a.point))
            .unwrap_or_else(|| format!("waits to {:?}", self.then));
        match (&self.agent, &self.running) {
            (Some(agent), _) => format!(
                "agent {} {asked}, disk {:?}, failures {}",
                agent.session, self.body.contents.state, self.failures
            ),
            (None, Some(run)) => format!("system of {} {asked}, failures {}", run.instance, self.failures),
            (None, None) => format!("firmware {asked}, disk {:?}", self.body.contents.state),
        }
    }

    /// The next step.
    pub fn step(&mut self, input: Input) -> Action {
        match input {
            Input::Go => match self.then {
                Then::PowerOn => self.power_on(),
                Then::Ask(point) => self.ask(point),
                Then::Again(point) => self.send(point, None),
                Then::Work => self.work(),
                Then::BootDisk => self.boot_disk(),
            },
            Input::Answer(answer) => self.heard(answer),
        }
    }

    fn wait(&mut self, wait: Duration, then: Then) -> Action {
        self.then = then;
        // A tenth of spread: a thousand machines are not one machine.
        Action::Wait(wait.mul_f64(0.95 + self.random.unit() * 0.1))
    }

    fn forget_ram(&mut self) {
        self.agent = None;
        self.asking = None;
        self.fresh = true;
        self.failures = 0;
        if let Some(run) = self.running.take() {
            self.facts.push(Fact::Ends { instance: run.instance });
        }
    }

    /// The plug is pulled: what was in RAM is gone; the next input switches it on.
    pub fn lose_power(&mut self) {
        self.forget_ram();
        self.then = Then::PowerOn;
    }

    /// How long its system takes to shut down.
    pub fn shuts_down_within(&self) -> Duration {
        self.timing.system
    }

    /// The BMC switched it, or had its system shut down: what was in RAM is gone.
    pub fn is_switched(&mut self) {
        let instance = self.running.as_ref().map(|run| run.instance.clone()).unwrap_or_default();
        self.facts.push(Fact::Switched { instance });
        self.lose_power();
    }

    fn power_on(&mut self) -> Action {
        self.forget_ram();
        self.boots += 1;
        self.facts.push(Fact::PowerOn);
        let to_disk = match std::mem::take(&mut self.first) {
            First::Setup => return self.wait(FOR_EVER, Then::PowerOn),
            First::Disk => true,
            First::Network => false,
            // Firmware passes over a disk that nothing boots from.
            First::Usual => self.disk_first && self.body.contents.state == ContentsState::Marked,
        };
        let then = if to_disk { Then::BootDisk } else { Then::Ask(Point::Boot) };
        self.wait(self.timing.firmware, then)
    }

    /// The agent sends firmware to the disk.
    fn boot_next_disk(&mut self) -> Action {
        self.forget_ram();
        self.boots += 1;
        self.facts.push(Fact::PowerOn);
        self.wait(self.timing.firmware, Then::BootDisk)
    }

    fn power_cut(&mut self, ms: u64) -> Action {
        self.forget_ram();
        self.wait(Duration::from_millis(ms), Then::PowerOn)
    }

    // --- asking -------------------------------------------------------------------------------------------------------

    fn ask(&mut self, point: Point) -> Action {
        self.failures = 0;
        let mishap = self.faults.strike(point);
        if let Some(what) = mishap {
            self.facts.push(Fact::Struck { at: point, what });
        }
        match mishap {
            Some(Mishap::PowerCut { ms }) => self.power_cut(ms),
            Some(Mishap::LoseRequest { ms }) => {
                self.fresh = true;
                self.wait(Duration::from_millis(ms), Then::Again(point))
            }
            Some(Mishap::Fail { reason }) => {
                self.fail(reason);
                self.send(point, None)
            }
            other => self.send(point, other),
        }
    }

    fn send(&mut self, point: Point, mishap: Option<Mishap>) -> Action {
        let call = if point == Point::Boot { None } else { self.call(point) };
        if point != Point::Boot && call.is_none() {
            // What the request was about is gone: start over from the power switch. Not reached by any path of a life.
            return self.power_on();
        }
        self.asking = Some(Asking {
            point,
            call,
            mishap,
            first: None,
        });
        self.dispatch()
    }

    fn dispatch(&mut self) -> Action {
        let Some(asking) = &self.asking else { return Action::Off };
        let Some(call) = asking.call.clone() else {
            let mac = self.body.mac.to_string().replace(':', "-");
            return Action::Boot {
                path: format!("/boot/ipxe?uuid={}&mac={mac}&platform=pcbios&buildarch=x86_64", self.body.uuid),
            };
        };
        let (server, pin) = match (&self.agent, &self.running, &self.system) {
            (Some(agent), _, _) => {
                let server = agent
                    .servers
                    .get(agent.server % agent.servers.len().max(1))
                    .cloned()
                    .unwrap_or_default();
                (server, agent.pin.clone())
            }
            (None, Some(run), Some(system)) => {
                let servers = &system.config.servers;
                let server = servers.get(run.server % servers.len().max(1)).cloned().unwrap_or_default();
                (server, system.config.ca.clone())
            }
            _ => return Action::Off,
        };
        let server = server.trim_start_matches("https://").to_owned();
        Action::Call {
            server,
            pin,
            fresh: std::mem::take(&mut self.fresh),
            call,
            point: asking.point,
        }
    }

    /// Makes and signs a request.
    fn call(&mut self, point: Point) -> Option<Call> {
        let (method, path, body) = match point {
            Point::Boot => return None,
            Point::Session => ("POST", PATH_SESSIONS.to_owned(), self.introduction()?),
            Point::Order => {
                let after = &self.agent.as_ref()?.after;
                // An older agent fetches its seed apart; a fault there is one of such an agent.
                let seed = if self.faults.touch(Point::Seed) { "" } else { QUERY_SEED };
                let after = if after.is_empty() {
                    String::new()
                } else {
                    format!("&after={after}")
                };
                ("GET", format!("{PATH_ORDER}?{seed}{after}"), Vec::new())
            }
            Point::Seed => ("GET", PATH_SEED.to_owned(), Vec::new()),
            Point::Progress => {
                let work = self.agent.as_ref()?.work.as_ref()?;
                let step = if work.order.kind == OrderKind::Erase {
                    Step::Erasing
                } else {
                    Step::Writing
                };
                let total = 1 << 30;
                let done = total / u64::from(PROGRESS_REPORTS) * u64::from(work.reports.min(PROGRESS_REPORTS));
                let progress = Some(Progress::of(step, done, total));
                let report = Report {
                    order_id: work.order.id.clone(),
                    progress,
                    result: None,
                };
                ("POST", PATH_REPORTS.to_owned(), serde_json::to_vec(&report).ok()?)
            }
            Point::Result => {
                let result = self.agent.as_ref()?.work.as_ref()?.result.clone()?;
                let report = Report {
                    order_id: result.order_id.clone(),
                    progress: None,
                    result: Some(result),
                };
                ("POST", PATH_REPORTS.to_owned(), serde_json::to_vec(&report).ok()?)
            }
            Point::Register => ("POST", PATH_GUEST_REGISTER.to_owned(), self.registration()?),
            Point::GuestOrder => (
                "GET",
                format!("{PATH_GUEST_ORDER}?boot={}", self.running.as_ref()?.boot_id),
                Vec::new(),
            ),
        };
        let (key, session, sequence) = match (&mut self.agent, &mut self.running, &self.system) {
            (Some(agent), _, _) => {
                agent.sequence += 1;
                (&agent.key, agent.session.clone(), agent.sequence)
            }
            (None, Some(run), Some(system)) => {
                run.sequence += 1;
                let session = if point == Point::Register {
                    String::new()
                } else {
                    run.instance.clone()
                };
                (&system.key, session, run.sequence)
            }
            _ => return None,
        };
        let signature = session::sign(key, method, &path, &session, sequence, &body);
        let mut headers = vec![
            (session::HEADER_SEQUENCE, sequence.to_string()),
            (session::HEADER_SIGNATURE, signature),
        ];
        if !session.is_empty() {
            headers.push((session::HEADER_SESSION, session));
        }
        Some(Call {
            method,
            path,
            headers,
            body,
        })
    }

    fn introduction(&self) -> Option<Vec<u8>> {
        let agent = self.agent.as_ref()?;
        serde_json::to_vec(&SessionRequest {
            protocol: agent_protocol::PROTOCOL_VERSION,
            agent_version: "swarm".to_owned(),
            token: agent.token.clone(),
            boot_mac: self.body.mac,
            signing_key: encode(agent.key.verifying_key().as_bytes()),
            sealing_key: agent.sealing_public.clone(),
            inventory: self.body.inventory(),
        })
        .ok()
    }

    fn registration(&self) -> Option<Vec<u8>> {
        let (run, system) = (self.running.as_ref()?, self.system.as_ref()?);
        serde_json::to_vec(&GuestRegistration {
            token: system.config.token.clone(),
            signing_key: encode(system.key.verifying_key().as_bytes()),
            hostname: "simulated".to_owned(),
            addresses: vec![format!("{}/8", self.body.address)],
            boot_id: run.boot_id.clone(),
            told_to_leave: system.left.clone(),
            uptime_seconds: None,
        })
        .ok()
    }

    // --- hearing ------------------------------------------------------------------------------------------------------

    fn heard(&mut self, answer: Answer) -> Action {
        let Some(mut asking) = self.asking.take() else {
            return self.power_on();
        };
        let point = asking.point;
        match (asking.mishap.take(), asking.first.take()) {
            (Some(Mishap::LoseAnswer { ms }), _) => {
                self.fresh = true;
                self.wait(Duration::from_millis(ms), Then::Again(point))
            }
            (Some(Mishap::PowerCutAfter { ms }), _) => self.power_cut(ms),
            (Some(what @ (Mishap::Twice | Mishap::Replay)), None) if !matches!(answer, Answer::Lost) => {
                let call = if what == Mishap::Twice && point != Point::Boot {
                    self.call(point)
                } else {
                    asking.call
                };
                self.asking = Some(Asking {
                    point,
                    call,
                    mishap: Some(what),
                    first: Some(answer),
                });
                self.dispatch()
            }
            (Some(what), Some(first)) => {
                self.compare(point, what, &first, &answer);
                self.answered(point, first)
            }
            _ => self.answered(point, answer),
        }
    }

    /// The same request once more: was that answered as it must be?
    fn compare(&mut self, point: Point, what: Mishap, first: &Answer, second: &Answer) {
        let (Answer::Reply(one, first), Answer::Reply(two, second)) = (first, second) else {
            return;
        };
        let good = |status: u16| (200..300).contains(&status);
        let code = |body: &[u8]| serde_json::from_slice::<ErrorResponse>(body).ok().map(|e| e.code);
        let right = match (what, point) {
            // The answer to a session may have been lost on the way: the same session again, whoever repeats the request.
            (_, Point::Session) if good(*one) => {
                let id = |body: &[u8]| serde_json::from_slice::<SessionResponse>(body).ok().map(|s| s.session);
                id(first) == id(second)
            }
            // A registration changes nothing when it is repeated.
            (_, Point::Register | Point::Boot) => good(*one) == good(*two),
            (Mishap::Replay, _) => code(second) == Some(ErrorCode::SignatureRefused) || !good(*one),
            (_, Point::Seed) if good(*one) => code(second) == Some(ErrorCode::Forbidden),
            (_, Point::Result) if good(*one) => good(*two) || code(second) == Some(ErrorCode::StaleOrder),
            _ => true,
        };
        if !right {
            let text = String::from_utf8_lossy(second);
            self.facts.push(Fact::Wrong {
                what: format!("{what:?} at {point:?}: first answered {one}, then {two} {text}"),
            });
        }
    }

    fn backoff(&mut self, point: Point, at_least: Option<u64>) -> Action {
        let wait = self.timing.backoff.saturating_mul(1 << self.failures.min(5));
        let wait = wait
            .mul_f64(0.5 + self.random.unit())
            .max(Duration::from_millis(at_least.unwrap_or(0)));
        self.failures = self.failures.saturating_add(1);
        if let Some(run) = &mut self.running {
            run.server = run.server.wrapping_add(1);
        }
        if let Some(agent) = &mut self.agent {
            agent.server = agent.server.wrapping_add(1);
        }
        self.wait(wait, Then::Again(point))
    }

    fn parsed<T: DeserializeOwned>(&mut self, point: Point, body: &[u8]) -> Option<T> {
        match serde_json::from_slice(body) {
            Ok(value) => Some(value),
            Err(error) => {
                self.facts.push(Fact::Wrong {
                    what: format!("the answer at {point:?} is not of the protocol: {error}"),
                });
                None
            }
        }
    }

    fn answered(&mut self, point: Point, answer: Answer) -> Action {
        let (status, body) = match answer {
            Answer::Reply(status, body) => (status, body),
            Answer::Lost => {
                self.fresh = true;
                // Firmware goes on to the next boot entry.
                return if point == Point::Boot {
                    self.boot_disk()
                } else {
                    self.backoff(point, None)
                };
            }
        };
        if point == Point::Boot {
            return if status == 200 {
                self.boot(&String::from_utf8_lossy(&body))
            } else {
                self.boot_disk()
            };
        }
        if !(200..300).contains(&status) {
            let error: Option<ErrorResponse> = serde_json::from_slice(&body).ok();
            return self.refused(point, status, error);
        }
        self.failures = 0;
        match point {
            Point::Boot => self.power_on(),
            Point::Session => match self.parsed::<SessionResponse>(point, &body) {
                Some(opened) => self.opened(opened),
                None => self.backoff(point, None),
            },
            Point::Order => match self.parsed::<OrderResponse>(point, &body) {
                Some(told) => self.told(told.order, told.seed.as_ref()),
                None => self.backoff(point, None),
            },
            Point::Seed => match self.parsed::<SealedSeed>(point, &body) {
                Some(sealed) => self.unseal(&sealed),
                None => self.backoff(point, None),
            },
            Point::Progress => self.wait(self.timing.disk / PROGRESS_REPORTS, Then::Work),
            Point::Result => {
                if let Some(work) = self.agent.as_mut().and_then(|a| a.work.take()) {
                    self.facts.push(Fact::Reported { order: work.order.id });
                }
                self.ask(Point::Order)
            }
            Point::Register => {
                if let Some(run) = &self.running {
                    self.facts.push(Fact::Registered {
                        instance: run.instance.clone(),
                    });
                }
                self.ask(Point::GuestOrder)
            }
            Point::GuestOrder => match self.parsed::<GuestOrder>(point, &body) {
                Some(order) => self.guest_told(&order),
                None => self.backoff(point, None),
            },
        }
    }

    fn refused(&mut self, point: Point, status: u16, error: Option<ErrorResponse>) -> Action {
        let Some(error) = error else {
            self.facts.push(Fact::Wrong {
                what: format!("answered {status} at {point:?} without an error body"),
            });
            return self.backoff(point, None);
        };
        if self.running.is_some() {
            // The helper registers again whenever its poll is refused for good.
            let passing = matches!(error.code, ErrorCode::Overloaded | ErrorCode::Internal);
            return self.backoff(if passing { point } else { Point::Register }, error.retry_after_ms);
        }
        match error.code {
            ErrorCode::TokenRefused | ErrorCode::SignatureRefused | ErrorCode::SessionGone => self.wait(self.timing.again, Then::PowerOn),
            ErrorCode::IdentityConflict | ErrorCode::UnsupportedProtocol | ErrorCode::Malformed | ErrorCode::TooLarge => {
                self.facts.push(Fact::Wrong {
                    what: format!("refused at {point:?}: {:?} {}", error.code, error.message),
                });
                self.wait(self.timing.person, Then::PowerOn)
            }
            // The operator wants something else by now; the next order says what.
            ErrorCode::StaleOrder | ErrorCode::NotFound | ErrorCode::Forbidden if matches!(point, Point::Result | Point::Progress) => {
                if point == Point::Progress {
                    return self.wait(self.timing.disk / PROGRESS_REPORTS, Then::Work);
                }
                if let Some(agent) = &mut self.agent {
                    agent.work = None;
                    agent.after.clear();
                }
                self.ask(Point::Order)
            }
            // Served once to this session: only a new boot can get another.
            ErrorCode::Forbidden if point == Point::Seed => self.power_on(),
            _ => self.backoff(point, error.retry_after_ms),
        }
    }

    // --- booting ------------------------------------------------------------------------------------------------------

    fn boot(&mut self, script: &str) -> Action {
        let word = |name: &str| {
            script
                .split_whitespace()
                .find_map(|w| w.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        let (Some(server), Some(pin), Some(token)) = (word("kbm.server"), word("kbm.ca"), word("kbm.token")) else {
            return self.boot_disk();
        };
        let (sealing, sealing_public) = sealing_key_from(&self.random.bytes());
        self.agent = Some(Agent {
            servers: server.split(',').map(str::to_owned).collect(),
            server: 0,
            pin,
            token,
            key: SigningKey::from_bytes(&self.random.bytes()),
            sealing,
            sealing_public,
            session: String::new(),
            sequence: 0,
            after: String::new(),
            work: None,
            fresh_system: false,
        });
        self.fresh = true;
        self.wait(self.timing.kernel, Then::Ask(Point::Session))
    }

    fn boot_disk(&mut self) -> Action {
        match self.body.contents.state {
            ContentsState::Marked => {}
            // Some old system, which knows nothing of us.
            ContentsState::Foreign => return self.wait(self.timing.person, Then::PowerOn),
            ContentsState::Blank | ContentsState::Interrupted | ContentsState::Unreadable => {
                return self.wait(self.timing.again, Then::Ask(Point::Boot));
            }
        }
        let instance = self.body.installed_instance().unwrap_or_default().to_owned();
        self.facts.push(Fact::Runs {
            instance: instance.clone(),
        });
        // A helper's sequence goes on over its system's boots.
        let sequence = self.boots << 32;
        let boot_id = hex::encode(self.random.bytes::<16>());
        self.running = Some(Run {
            instance,
            boot_id,
            sequence,
            server: 0,
        });
        self.fresh = true;
        if self.system.is_none() {
            return self.wait(self.timing.person, Then::PowerOn);
        }
        self.wait(self.timing.system, Then::Ask(Point::Register))
    }

    fn guest_told(&mut self, order: &GuestOrder) -> Action {
        let (Some(run), Some(system)) = (&self.running, &self.system) else {
            return self.power_on();
        };
        if !order.is_for(&system.config.order_key, &run.instance, &run.boot_id) {
            self.facts.push(Fact::Wrong {
                what: format!("a guest order that is not signed for this boot of {}", run.instance),
            });
            return self.backoff(Point::GuestOrder, None);
        }
        match order.action {
            GuestAction::Wait => self.ask(Point::GuestOrder),
            GuestAction::RebootToAgent => {
                if let (Some(system), Some(run)) = (&mut self.system, &self.running) {
                    system.left = Some(run.boot_id.clone());
                }
                // What a helper can tell UEFI (BootNext), and no BIOS.
                if self.body.firmware == FirmwareMode::UEFI {
                    self.first = First::Network;
                }
                self.power_on()
            }
            GuestAction::PowerOff => {
                self.forget_ram();
                self.then = Then::PowerOn;
                Action::Off
            }
        }
    }
}

#[cfg(test)]
mod tests;
