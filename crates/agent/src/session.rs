//! One boot's session: introduce the machine, ask for orders, carry them out, report.
//!
//! Level, not edge: the server says what should be now; an order that was done already (its result is kept) is answered with that result
//! again. A result is sent until the server says that it is stored; nothing else happens before. The session ends with a [`Down`]: an order to
//! restart or switch off, or a server that does not know this boot any more.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::{
    PROTOCOL_VERSION,
    bmc_user::QUERY_BMC_USER,
    identity::MacAddress,
    inventory::Inventory,
    order::{Order, OrderKind, OrderResult, Outcome, RebootTarget, Report},
    seed::{SealedSeed, SealingKey, Seed, generate_sealing_key, open},
    session::{ErrorCode, OrderResponse, PATH_ORDER, PATH_REPORTS, PATH_SEED, PATH_SESSIONS, QUERY_SEED, SessionRequest, SessionResponse},
};
use ed25519_dalek::SigningKey;
use reqwest::Method;

use crate::{
    bmc::Users,
    client::{Backoff, Client, ClientError, PATIENCE, query},
    console::Console,
    runner::{self, Runner},
    system::{self, Down},
};

/// How long a refusal stays on the screen before the machine restarts for a new token.
const READABLE: Duration = Duration::from_secs(10);
/// How long a machine whose identity is in conflict waits for a person before it goes its own way.
const CONFLICT: Duration = Duration::from_secs(60);
/// How long a seed that is not there yet is waited for.
const SEED_PATIENCE: Duration = Duration::from_secs(60);
/// Answers to a long poll that come faster than this are waited out, so that no server can make us spin.
const FASTEST_POLL: Duration = Duration::from_secs(1);
/// Results that are kept to be repeated.
const RESULTS: usize = 8;

/// What a session needs to know.
#[derive(Debug)]
pub struct Introduction {
    /// Base URLs of the servers.
    pub servers: Vec<String>,
    /// Pin of their CA.
    pub ca: String,
    /// Boot token.
    pub token: String,
    /// The NIC the machine booted from.
    pub boot_mac: MacAddress,
    /// What the machine is.
    pub inventory: Inventory,
}

/// A session that is open.
pub struct Session {
    client: Arc<Client>,
    sealing: SealingKey,
    poll: Duration,
    console: Arc<Console>,
    results: VecDeque<OrderResult>,
    /// Whether a system with the guest helper was written in this boot.
    fresh_system: bool,
    /// Users that were wanted in the machine's BMC.
    bmc_users: Users,
}

/// A fresh Ed25519 key.
///
/// # Errors
/// When the kernel gives no randomness.
pub fn generate_signing_key() -> anyhow::Result<SigningKey> {
    let mut secret = [0; 32];
    let mut filled = 0;
    while filled < secret.len() {
        let rest = secret.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(SigningKey::from_bytes(&secret))
}

/// What an error that will not pass means for this boot.
fn ending(error: &ClientError) -> Option<(Duration, &'static str)> {
    match error.code()? {
        ErrorCode::TokenRefused | ErrorCode::SignatureRefused | ErrorCode::SessionGone => Some((READABLE, "restarting for a new session")),
        ErrorCode::IdentityConflict => Some((CONFLICT, "restarting; a person has to decide whose machine this is")),
        ErrorCode::UnsupportedProtocol => Some((CONFLICT, "restarting; the server needs other boot media")),
        ErrorCode::Malformed | ErrorCode::TooLarge => Some((CONFLICT, "restarting; the server does not accept this machine's description")),
        ErrorCode::Forbidden | ErrorCode::StaleOrder | ErrorCode::NotFound | ErrorCode::Overloaded | ErrorCode::Internal => None,
    }
}

/// Says the same trouble once and then every twentieth time: a server that is away for a night does not fill a log.
#[derive(Default)]
struct Trouble {
    last: String,
    times: u32,
}

impl Trouble {
    fn say(&mut self, console: &Console, text: String) {
        self.times = if text == self.last { self.times + 1 } else { 0 };
        if self.times.is_multiple_of(20) {
            console.say(&text);
        }
        self.last = text;
    }
}

async fn end(console: &Console, error: &ClientError, wait: Duration, what: &str) -> Down {
    console.say(format!("refused by the server: {error}"));
    console.say(format!("{what} in {} s", wait.as_secs()));
    tokio::time::sleep(wait).await;
    Down::Restart
}

impl Session {
    /// Opens a session, however long the servers take. `Err` holds how to go down when they do not want this boot.
    ///
    /// # Errors
    /// When there is no randomness or the pin is no pin.
    pub async fn open(introduction: &Introduction, console: &Arc<Console>) -> anyhow::Result<Result<Self, Down>> {
        let client = Arc::new(Client::new(
            introduction.servers.clone(),
            &introduction.ca,
            generate_signing_key()?,
        )?);
        let (sealing, sealing_key) = generate_sealing_key()?;
        let request = SessionRequest {
            protocol: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            token: introduction.token.clone(),
            boot_mac: introduction.boot_mac,
            signing_key: client.public_key(),
            sealing_key,
            inventory: introduction.inventory.clone(),
        };
        let body = serde_json::to_vec(&request)?;
        let (mut backoff, mut trouble) = (Backoff::default(), Trouble::default());
        loop {
            console.update(|s| client.server().clone_into(&mut s.server));
            match client
                .request::<SessionResponse>(Method::POST, PATH_SESSIONS, body.clone(), PATIENCE)
                .await
            {
                Ok(answer) => {
                    client.set_session(&answer.session);
                    let hardware = answer.hardware.unwrap_or_default();
                    console.say(format!(
                        "session open discovery={} hardware={} server={} after={:.1}s",
                        answer.discovery,
                        if hardware.is_empty() { "-" } else { &hardware },
                        client.server(),
                        system::uptime().as_secs_f64()
                    ));
                    console.update(|s| {
                        s.discovery = answer.discovery;
                        s.hardware = hardware;
                        "waiting for an order".clone_into(&mut s.doing);
                    });
                    return Ok(Ok(Self {
                        client,
                        sealing,
                        poll: Duration::from_secs(answer.poll_seconds.clamp(1, 300).into()),
                        console: Arc::clone(console),
                        results: VecDeque::new(),
                        fresh_system: false,
                        bmc_users: Users::default(),
                    }));
                }
                Err(error) => match ending(&error) {
                    Some((wait, what)) => return Ok(Err(end(console, &error, wait, what).await)),
                    None => {
                        trouble.say(console, format!("session: {error}; trying again"));
                        backoff.wait(&error).await;
                    }
                },
            }
        }
    }

    /// Carries out orders until one ends this boot.
    pub async fn run(mut self, runner: Arc<Runner>) -> Down {
        let (mut backoff, mut trouble) = (Backoff::default(), Trouble::default());
        let (mut seen, mut last_note) = (None::<String>, String::new());
        loop {
            let asked = Instant::now();
            let after = seen.as_ref().map(|id| format!("&after={}", query(id))).unwrap_or_default();
            let users = query(self.bmc_users.seen());
            let path = format!("{PATH_ORDER}?{QUERY_SEED}&{QUERY_BMC_USER}{users}{after}");
            let answer = self
                .client
                .request::<OrderResponse>(Method::GET, &path, Vec::new(), self.poll + PATIENCE)
                .await;
            let OrderResponse {
                order,
                note,
                seed,
                bmc_user,
            } = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    if let Some((wait, what)) = ending(&error) {
                        return end(&self.console, &error, wait, what).await;
                    }
                    trouble.say(&self.console, format!("order: {error}; trying again"));
                    backoff.wait(&error).await;
                    self.console.update(|s| self.client.server().clone_into(&mut s.server));
                    // Another server has not seen what this one said: ask it for the present order at once.
                    seen = None;
                    continue;
                }
            };
            backoff.reset();
            trouble = Trouble::default();
            if note != last_note {
                self.console.say(format!("note: {note}"));
                self.console.update(|s| note.clone_into(&mut s.note));
                last_note = note;
            }
            if let Some(sealed) = bmc_user {
                self.bmc_users.obey(&sealed, &self.sealing, &self.client, &self.console).await;
            }
            let repeated = seen.as_deref() == Some(order.id.as_str());
            seen = Some(order.id.clone());
            let outcome = match order.kind {
                OrderKind::Wait => None,
                OrderKind::Reboot => Some(self.leave(&order, &runner)),
                OrderKind::PowerOff => Some(Down::PowerOff),
                OrderKind::Erase | OrderKind::Image => self.destructive(order, seed, &runner).await,
            };
            if let Some(down) = outcome {
                return down;
            }
            if repeated && asked.elapsed() < FASTEST_POLL {
                tokio::time::sleep(FASTEST_POLL).await;
            }
        }
    }

    /// Towards a system that was written in this boot and has the guest helper, firmware is sent once without the detour over the network: the helper reports, so that nobody misses the
    /// server's record of the boot. In all other cases nothing is set: the server's next boot answer leads to the disk, and that it was given is the evidence.
    fn leave(&self, order: &Order, runner: &Runner) -> Down {
        match order.reboot {
            Some(RebootTarget::Disk) | None => {
                self.console.say("order reboot to its own disk");
                if let Some(efi) = runner.efi.as_ref().filter(|_| self.fresh_system) {
                    let set = machine::efi::our_entry(efi).and_then(|entry| entry.map(|e| efi.set_boot_next(e).map(|()| e)).transpose());
                    match set {
                        Ok(Some(entry)) => self.console.say(format!("BootNext is Boot{entry:04X}")),
                        Ok(None) => {}
                        Err(error) => self.console.say(format!("BootNext was not set: {error}")),
                    }
                }
            }
            Some(RebootTarget::Agent) => {
                self.console.say("order reboot to the agent again");
                if let Some(efi) = &runner.efi
                    && let Err(error) = efi.boot_current().and_then(|entry| entry.map_or(Ok(()), |e| efi.set_boot_next(e)))
                {
                    self.console.say(format!("BootNext was not set: {error}"));
                }
            }
        }
        Down::Restart
    }

    /// Carries out an order, or repeats the result it had.
    async fn destructive(&mut self, order: Order, sealed: Option<SealedSeed>, runner: &Arc<Runner>) -> Option<Down> {
        let word = runner::order_word(order.kind);
        let known = self.results.iter().find(|r| r.order_id == order.id).cloned();
        let result = match known {
            Some(result) => result,
            None => {
                self.console.say(format!("order {word} id={} begins", order.id));
                self.console.update(|s| {
                    s.doing = format!("order {word}");
                    order.hardware.clone_into(&mut s.hardware);
                    s.instance = order
                        .claim
                        .as_ref()
                        .map(|c| format!("{}/{}", c.namespace, c.name))
                        .unwrap_or_default();
                });
                let seed = self.seed_for(&order, sealed).await;
                let helper = seed.as_ref().is_ok_and(|s| s.as_ref().is_some_and(|s| s.guest_helper));
                let result = runner::run(runner, order, seed, &self.client, &self.console).await;
                self.console.clear_progress();
                self.fresh_system = helper && result.kind == OrderKind::Image && result.outcome == Outcome::Succeeded;
                self.say_result(word, &result);
                self.results.push_back(result.clone());
                while self.results.len() > RESULTS {
                    self.results.pop_front();
                }
                result
            }
        };
        self.store(result).await
    }

    fn say_result(&self, word: &str, result: &OrderResult) {
        let words = match (&result.outcome, &result.fault) {
            (Outcome::Succeeded, _) => "succeeded".to_owned(),
            (outcome, Some(fault)) => format!("{outcome:?} {:?}: {}", fault.reason, fault.message),
            (outcome, None) => format!("{outcome:?}"),
        };
        self.console.say(format!("order {word} {words}"));
    }

    /// Sends a result until it is stored.
    async fn store(&self, result: OrderResult) -> Option<Down> {
        let word = runner::order_word(result.kind);
        let report = Report {
            order_id: result.order_id.clone(),
            progress: None,
            result: Some(result),
        };
        let body = match serde_json::to_vec(&report) {
            Ok(body) => body,
            Err(error) => {
                self.console.say(format!("order {word}: the result cannot be written: {error}"));
                return Some(Down::Restart);
            }
        };
        let (mut backoff, mut trouble) = (Backoff::default(), Trouble::default());
        self.console.update(|s| "reporting the result".clone_into(&mut s.doing));
        loop {
            match self
                .client
                .request::<serde_json::Value>(Method::POST, PATH_REPORTS, body.clone(), PATIENCE)
                .await
            {
                Ok(_) => {
                    self.console.say(format!("order {word} result stored"));
                    self.console.update(|s| "waiting for an order".clone_into(&mut s.doing));
                    return None;
                }
                // The operator wants something else by now; the next order says what.
                Err(error)
                    if matches!(
                        error.code(),
                        Some(ErrorCode::StaleOrder | ErrorCode::NotFound | ErrorCode::Forbidden)
                    ) =>
                {
                    self.console
                        .say(format!("order {word}: the server does not want the result any more: {error}"));
                    return None;
                }
                Err(error) => {
                    if let Some((wait, what)) = ending(&error) {
                        return Some(end(&self.console, &error, wait, what).await);
                    }
                    trouble.say(&self.console, format!("order {word}: result not stored yet: {error}"));
                    backoff.wait(&error).await;
                }
            }
        }
    }

    fn opened(&self, order: &Order, sealed: &SealedSeed) -> Result<Seed, String> {
        let claim = order.claim.as_ref().map_or("", |c| c.uid.as_str());
        if sealed.order_id != order.id || sealed.instance_uid != claim {
            return Err("the seed belongs to another order".to_owned());
        }
        open(sealed, &self.sealing).map_err(|e| e.to_string())
    }

    /// Opens the seed that an order needs: the one that came with it, or else one that is fetched. `Err` holds why there is none.
    async fn seed_for(&self, order: &Order, sealed: Option<SealedSeed>) -> Result<Option<Seed>, String> {
        if !order.image.as_ref().is_some_and(|i| i.config_drive) {
            return Ok(None);
        }
        if let Some(sealed) = sealed {
            return self.opened(order, &sealed).map(Some);
        }
        let until = Instant::now() + SEED_PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            match self
                .client
                .request::<SealedSeed>(Method::GET, PATH_SEED, Vec::new(), PATIENCE)
                .await
            {
                Ok(sealed) => return self.opened(order, &sealed).map(Some),
                Err(error) if Instant::now() < until && (error.is_passing() || error.code() == Some(ErrorCode::NotFound)) => {
                    backoff.wait(&error).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
