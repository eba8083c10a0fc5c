//! Faults as data: what goes wrong, with which controllers, at which operation, how often. Set over the control listener ([`crate::control`]), or by code.
//!
//! A fault says which controllers it strikes by their number, name or share; the same share and seed strike the same ones, also after another start. Several faults
//! may strike one request: delays add up, of the rest the first in the list counts. What cannot be is refused at the door, with the member that is wrong.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The longest delay, in milliseconds: ten minutes.
const LONGEST: u64 = 600_000;
/// The most faults at the same time.
const MOST: usize = 1_000;

/// Which controllers: those that fit all that is said. With nothing said: all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Which {
    /// The first number, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
    /// The last number, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<usize>,
    /// Names (`bmc-7`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<String>,
    /// A share of them, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// From which follows who belongs to the share.
    #[serde(default)]
    pub seed: u64,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// Anything.
    #[default]
    Any,
    /// Begins a session.
    Login,
    /// Ends one.
    Logout,
    /// Reads anything.
    Read,
    /// Reads the state of a machine.
    State,
    /// Switches a machine.
    Reset,
    /// Chooses its next boot.
    Boot,
    /// Reads or changes a virtual drive.
    Media,
    /// Looks how something goes.
    Task,
    /// Asks for events: makes, changes or deletes a subscription, or opens a stream.
    Subscribe,
    /// What the controller does by itself: it sends an event.
    Event,
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// Redfish.
    Redfish,
    /// IPMI.
    Ipmi,
    /// Shelly, Tasmota, Home Assistant.
    Plug,
    /// Intel AMT.
    Amt,
}

impl Operation {
    /// Its name in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Read => "read",
            Self::State => "state",
            Self::Reset => "reset",
            Self::Boot => "boot",
            Self::Media => "media",
            Self::Task => "task",
            Self::Subscribe => "subscribe",
            Self::Event => "event",
        }
    }
}

impl Protocol {
    /// Its name in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Redfish => "redfish",
            Self::Ipmi => "ipmi",
            Self::Plug => "plug",
            Self::Amt => "amt",
        }
    }
}

/// A power state that is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Claim {
    /// It is on.
    On,
    /// It is off.
    Off,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum What {
    /// The answer is this HTTP status and nothing is done. With IPMI: the controller says that it is busy.
    Status {
        /// 400 to 599.
        code: u16,
        /// After how many seconds it says that it wants to be asked again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// The answer takes longer.
    Latency {
        /// By so much.
        ms: u64,
    },
    /// There is no answer; the connection stays. Nothing is done.
    Silent,
    /// The connection ends without an answer. Nothing is done.
    Closed,
    /// It is done, and the connection ends without an answer.
    LostAnswer,
    /// The answer's content is no JSON.
    NotJson,
    /// The answer's members are of other kinds: text becomes a list of it, numbers text, objects null.
    WrongKinds,
    /// The answer's content ends in the middle.
    Truncated,
    /// No session is left.
    SessionsFull,
    /// The power state that is told is this one, whatever it is.
    Lies {
        /// What is told.
        power: Claim,
    },
    /// A change of power takes longer.
    SlowPower {
        /// By so much.
        ms: u64,
    },
    /// Documents are not there (404).
    Hidden,
    /// A boot override is taken, shown and consumed, and the machine boots as usual.
    BootIgnored,
    /// A reset is taken and not carried out.
    CommandIgnored,
    /// The system does not listen when it is asked to shut down.
    ShutdownIgnored,
    /// An event is sent twice.
    Doubled,
    /// A controller that starts anew has lost its subscriptions.
    Forgets,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Its name, by which it is removed.
    pub name: String,
    /// Which controllers.
    #[serde(default)]
    pub machines: Which,
    /// At what.
    #[serde(default)]
    pub operation: Operation,
    /// With whom. None: with all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How often with each controller. None: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// What.
    pub what: What,
}

/// A fault that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FaultError {
    /// Which member.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

fn wrong<T>(field: &str, problem: impl Into<String>) -> Result<T, FaultError> {
    Err(FaultError {
        field: field.to_owned(),
        problem: problem.into(),
    })
}

impl Fault {
    /// A fault of all controllers at any operation.
    #[must_use]
    pub fn new(name: impl Into<String>, what: What) -> Self {
        Self {
            name: name.into(),
            machines: Which::default(),
            operation: Operation::Any,
            protocol: None,
            times: None,
            what,
        }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`FaultError`] names the member and what is allowed.
    pub fn parse(text: &[u8]) -> Result<Self, FaultError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let fault: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| FaultError {
            field: error.path().to_string(),
            problem: error.inner().to_string(),
        })?;
        fault.check()?;
        Ok(fault)
    }

    /// Checks what somebody wrote.
    ///
    /// # Errors
    /// [`FaultError`] names the member and what is allowed.
    pub fn check(&self) -> Result<(), FaultError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.bytes().all(plain) {
            return wrong("name", "1 to 63 of a-z, 0-9 and -");
        }
        if let (Some(from), Some(to)) = (self.machines.from, self.machines.to)
            && from > to
        {
            return wrong("machines.to", "is before machines.from");
        }
        if self.machines.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return wrong("machines.share", "is a share: 0 to 1");
        }
        if self.times == Some(0) {
            return wrong("times", "is counted from 1; left out it means always");
        }
        match self.what {
            What::Status { code, .. } if !(400..=599).contains(&code) => return wrong("what.status.code", "is 400 to 599"),
            What::Latency { ms } if ms > LONGEST => return wrong("what.latency.ms", format!("is at most {LONGEST}")),
            What::SlowPower { ms } if ms > LONGEST => return wrong("what.slowPower.ms", format!("is at most {LONGEST}")),
            _ => {}
        }
        let only: &[Operation] = match self.what {
            What::SessionsFull => &[Operation::Any, Operation::Login],
            What::Lies { .. } => &[Operation::Any, Operation::Read, Operation::State],
            What::SlowPower { .. } | What::CommandIgnored | What::ShutdownIgnored => &[Operation::Any, Operation::Reset],
            What::BootIgnored => &[Operation::Any, Operation::Boot],
            What::Doubled => &[Operation::Any, Operation::Event],
            What::Forgets => &[Operation::Any],
            _ => return Ok(()),
        };
        if only.contains(&self.operation) {
            return Ok(());
        }
        wrong("operation", "this fault cannot strike there")
    }
}

impl Which {
    /// Whether a controller of this number and name is meant.
    #[must_use]
    pub fn fit(&self, index: usize, name: &str) -> bool {
        self.from.is_none_or(|from| index >= from)
            && self.to.is_none_or(|to| index <= to)
            && (self.names.is_empty() || self.names.contains(name))
            && self.share.is_none_or(|share| belongs(index, share, self.seed))
    }
}

/// Whether a number belongs to a share: by its place among numbers that are spread evenly.
fn belongs(index: usize, share: f64, seed: u64) -> bool {
    // SplitMix64 (Steele, Lea, Flood 2014): neighbours land far apart.
    let mut mixed = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // The upper 53 bits are exact in a float.
    ((mixed >> 11) as f64) / ((1_u64 << 53) as f64) < share
}

/// A fault that is set, and whom it struck how often.
#[derive(Debug)]
struct Active {
    fault: Fault,
    struck: Mutex<HashMap<usize, u32>>,
}

impl Active {
    /// Whether it strikes this controller once more.
    fn strike(&self, index: usize) -> bool {
        let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        let count = struck.entry(index).or_default();
        if self.fault.times.is_some_and(|times| *count >= times) {
            return false;
        }
        *count = count.saturating_add(1);
        true
    }
}

/// A fault in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
    /// How often it struck, in all.
    pub struck: u64,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mishap {
    /// How much longer it takes.
    pub delay: Duration,
    /// What else, of what concerns the answer.
    pub what: Option<What>,
    /// What is told of the power state.
    pub claim: Option<Claim>,
}

/// How a machine behaves when it is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conduct {
    /// How much longer a change takes.
    pub slower: Duration,
    /// It ignores its boot override.
    pub ignores_boot: bool,
    /// It ignores commands.
    pub ignores_commands: bool,
    /// It ignores to be asked to shut down.
    pub ignores_shutdown: bool,
}

/// All faults that are set.
#[derive(Debug, Default)]
pub struct Faults(RwLock<Vec<Arc<Active>>>);

impl Faults {
    /// Sets a fault; one of the same name is replaced.
    ///
    /// # Errors
    /// [`FaultError`] names the member and what is allowed.
    pub fn set(&self, fault: Fault) -> Result<(), FaultError> {
        fault.check()?;
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|active| active.fault.name != fault.name);
        if all.len() == MOST {
            return wrong("name", format!("there are {MOST} faults already: remove one"));
        }
        all.push(Arc::new(Active {
            fault,
            struck: Mutex::default(),
        }));
        Ok(())
    }

    /// Removes a fault. Whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        all.retain(|active| active.fault.name != name);
        all.len() < before
    }

    /// Removes all.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All, in the order in which they count.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|active| Listed {
                fault: active.fault.clone(),
                struck: active
                    .struck
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .values()
                    .map(|count| u64::from(*count))
                    .sum(),
            })
            .collect()
    }

    fn of(&self, index: usize, name: &str, protocol: Protocol) -> Vec<Arc<Active>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter(|active| active.fault.protocol.is_none_or(|own| own == protocol) && active.fault.machines.fit(index, name))
            .map(Arc::clone)
            .collect()
    }

    /// What goes wrong with a request. `reads`: it changes nothing.
    #[must_use]
    pub fn mishap(&self, index: usize, name: &str, protocol: Protocol, operation: Operation, reads: bool) -> Mishap {
        let mut mishap = Mishap::default();
        for active in self.of(index, name, protocol) {
            let meant = match active.fault.operation {
                Operation::Any => true,
                Operation::Read => reads,
                wanted => wanted == operation,
            };
            match active.fault.what {
                _ if !meant => {}
                What::SlowPower { .. } | What::BootIgnored | What::CommandIgnored | What::ShutdownIgnored | What::Forgets => {}
                What::SessionsFull if operation != Operation::Login => {}
                What::Doubled if operation != Operation::Event => {}
                What::Latency { ms } => {
                    if active.strike(index) {
                        mishap.delay += Duration::from_millis(ms);
                    }
                }
                What::Lies { power } => {
                    if reads && mishap.claim.is_none() && active.strike(index) {
                        mishap.claim = Some(power);
                    }
                }
                what => {
                    if mishap.what.is_none() && active.strike(index) {
                        mishap.what = Some(what);
                    }
                }
            }
        }
        mishap
    }

    /// Whether a controller that starts anew has lost its subscriptions.
    #[must_use]
    pub fn forgets(&self, index: usize, name: &str) -> bool {
        let mut active = self.of(index, name, Protocol::Redfish).into_iter();
        active.any(|active| active.fault.what == What::Forgets && active.strike(index))
    }

    /// How a machine behaves when it is told something.
    #[must_use]
    pub fn conduct(&self, index: usize, name: &str, protocol: Protocol) -> Conduct {
        let mut conduct = Conduct::default();
        for active in self.of(index, name, protocol) {
            match active.fault.what {
                What::SlowPower { ms } if active.strike(index) => conduct.slower += Duration::from_millis(ms),
                What::BootIgnored if active.strike(index) => conduct.ignores_boot = true,
                What::CommandIgnored if active.strike(index) => conduct.ignores_commands = true,
                What::ShutdownIgnored if active.strike(index) => conduct.ignores_shutdown = true,
                _ => {}
            }
        }
        conduct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_what_is_wrong_in_it_is_named() {
        let good = br#"{"name": "slow", "machines": {"share": 0.2, "seed": 3}, "operation": "state", "times": 2, "what": {"latency": {"ms": 50}}}"#;
        let fault = Fault::parse(good).expect("a fault");
        assert_eq!(fault.what, What::Latency { ms: 50 });
        for (text, field) in [
            (r#"{"name": "a", "what": "silent", "whta": 1}"#, "whta"),
            (r#"{"name": "A", "what": "silent"}"#, "name"),
            (r#"{"name": "a", "what": {"status": {"code": 200}}}"#, "what.status.code"),
            (r#"{"name": "a", "what": {"status": {"code": "x"}}}"#, "what.status.code"),
            (r#"{"name": "a", "machines": {"share": 1.5}, "what": "silent"}"#, "machines.share"),
            (
                r#"{"name": "a", "machines": {"from": 5, "to": 4}, "what": "silent"}"#,
                "machines.to",
            ),
            (r#"{"name": "a", "times": 0, "what": "silent"}"#, "times"),
            (r#"{"name": "a", "operation": "login", "what": "bootIgnored"}"#, "operation"),
            (r#"{"name": "a", "what": {"slowPower": {"ms": 9999999}}}"#, "what.slowPower.ms"),
        ] {
            assert_eq!(Fault::parse(text.as_bytes()).expect_err(text).field, field, "{text}");
        }
    }

    #[test]
    fn a_share_is_a_share_and_always_the_same_one() {
        let share = |seed| (0..2_000).filter(|index| belongs(*index, 0.2, seed)).collect::<Vec<_>>();
        let (one, other) = (share(1), share(2));
        assert!((350..450).contains(&one.len()), "{}", one.len());
        assert_eq!(one, share(1));
        assert_ne!(one, other);
        assert!((0..100).all(|index| belongs(index, 1.0, 7) && !belongs(index, 0.0, 7)));
    }

    #[test]
    fn a_fault_strikes_who_is_meant_as_often_as_is_said() {
        let faults = Faults::default();
        let mut fault = Fault::new(
            "busy",
            What::Status {
                code: 503,
                retry_after: None,
            },
        );
        fault.machines.from = Some(1);
        fault.machines.to = Some(2);
        fault.operation = Operation::Reset;
        fault.times = Some(2);
        faults.set(fault).expect("good");
        faults.set(Fault::new("slow", What::Latency { ms: 5 })).expect("good");
        let look = |index, operation| faults.mishap(index, "x", Protocol::Redfish, operation, false);
        assert_eq!(look(0, Operation::Reset).what, None);
        assert_eq!(look(1, Operation::Boot).what, None);
        for _ in 0..2 {
            assert!(look(1, Operation::Reset).what.is_some());
        }
        assert_eq!(look(1, Operation::Reset).what, None);
        assert!(look(2, Operation::Reset).what.is_some());
        assert_eq!(look(0, Operation::State).delay, Duration::from_millis(5));
        assert_eq!(faults.list()[0].struck, 3);
        assert!(faults.remove("slow") && !faults.remove("slow"));
        faults.clear();
        assert!(faults.list().is_empty());
    }
}
