//! A server that leads one machine through a boot: it checks every signature and sequence number, hands out a list of orders one after the
//! other, and keeps what it was told.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::{
    bmc_user::{self, BmcUser, BmcUserReport, PATH_BMC_USER, QUERY_BMC_USER, SealedBmcUser},
    limits,
    order::{Order, OrderResult, ProgressSource, Report},
    seed::{Seed, seal},
    session::{ErrorCode, ErrorResponse, OrderResponse, QUERY_SEED, SessionRequest, SessionResponse, thumbprint},
    share::{ShareRequest, ShareResponse},
};

use super::tls_server::{Request, TlsServer};

/// What a machine that talks about sharing is answered.
pub type Answer = dyn Fn(&ShareRequest) -> ShareResponse + Send;

/// What the machine said so far, and what it will be told.
#[derive(Default)]
pub struct Seen {
    pub session: Option<SessionRequest>,
    pub results: Vec<OrderResult>,
    pub progress: usize,
    pub problems: Vec<String>,
    /// The seed that is sealed for whoever asks.
    pub seed: Option<Seed>,
    /// So many requests are answered with these errors first, in this order.
    pub refusals: VecDeque<(u16, ErrorCode)>,
    /// Whether an order stays after its result came: the server's cache is behind.
    pub keep_order: bool,
    /// What is handed out next; set when a session opens.
    pub orders: VecDeque<Order>,
    /// The newest sequence number of the session.
    pub last_sequence: u64,
    /// What is answered about sharing; without it the server is one that does not know it.
    pub sharing: Option<Box<Answer>>,
    /// What was said about sharing.
    pub shared: Vec<ShareRequest>,
    /// The user that it is asked to make in its BMC, under the id `bmc-1`.
    pub bmc_user: Option<BmcUser>,
    /// What became of it.
    pub bmc_reports: Vec<BmcUserReport>,
    /// Where the machine said that its image comes from, as often as it said so.
    pub sources: Vec<ProgressSource>,
}

type State = Arc<(Mutex<Seen>, Condvar)>;
type Orders<'a> = &'a dyn Fn(&SessionRequest) -> Vec<Order>;

pub struct MachineServer {
    pub tls: TlsServer,
    state: State,
}

impl MachineServer {
    /// `orders` makes the orders from what the machine says of itself.
    pub fn start(seen: Seen, orders: impl Fn(&SessionRequest) -> Vec<Order> + Send + Sync + 'static) -> Self {
        let state: State = Arc::new((Mutex::new(seen), Condvar::new()));
        let shared = Arc::clone(&state);
        let tls = TlsServer::start(Arc::new(move |request: Request| {
            let mut seen = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            let name = format!("{} {}", request.method, request.path);
            let answer = match seen.refusals.pop_front() {
                Some((status, code)) => (status, refusal(code)),
                None => answer(&mut seen, &orders, &request).unwrap_or_else(|problem| {
                    seen.problems.push(format!("{name}: {problem}"));
                    (400, refusal(ErrorCode::Malformed))
                }),
            };
            shared.1.notify_all();
            answer
        }));
        Self { tls, state }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, and gives what it made of the state.
    pub fn wait<T>(&self, what: &str, limit: Duration, done: impl Fn(&Seen) -> Option<T>) -> T {
        let until = Instant::now() + limit;
        let mut seen = self.seen();
        loop {
            assert!(seen.problems.is_empty(), "the agent broke the protocol: {:?}", seen.problems);
            if let Some(value) = done(&seen) {
                return value;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within {} s", limit.as_secs());
            seen = self.state.1.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn refusal(code: ErrorCode) -> String {
    let answer = ErrorResponse {
        code,
        message: "refused by the test".to_owned(),
        retry_after_ms: None,
    };
    serde_json::to_string(&answer).unwrap()
}

fn json(value: &impl serde::Serialize) -> Result<(u16, String), String> {
    Ok((200, serde_json::to_string(value).map_err(|e| e.to_string())?))
}

/// The user that is wanted, sealed, unless the machine has seen to it.
fn wanted_user(seen: &Seen, signing: &str, sealing: &str, path: &str) -> Result<Option<SealedBmcUser>, String> {
    let asks = path.split(['?', '&']).any(|pair| pair == QUERY_BMC_USER);
    let wanted = seen.bmc_user.as_ref().filter(|_| asks);
    let sealed = wanted.map(|user| bmc_user::seal(user, "bmc-1", &thumbprint(signing, sealing), sealing));
    sealed.transpose().map_err(|e| e.to_string())
}

fn answer(seen: &mut Seen, orders: Orders<'_>, request: &Request) -> Result<(u16, String), String> {
    if request.path == "/agent/v1/sessions" {
        let said: SessionRequest = limits::parse(&request.body).map_err(|e| e.to_string())?;
        request.verify(&said.signing_key)?;
        seen.orders = orders(&said).into();
        seen.session = Some(said);
        seen.last_sequence = request.sequence;
        return json(&SessionResponse {
            session: "session-1".to_owned(),
            discovery: "test-machine".to_owned(),
            hardware: None,
            protocol: 1,
            poll_seconds: 30,
        });
    }
    let (signing, sealing) = {
        let session = seen.session.as_ref().ok_or("no session yet")?;
        (session.signing_key.clone(), session.sealing_key.clone())
    };
    request.verify(&signing)?;
    if request.session != "session-1" || request.sequence <= seen.last_sequence {
        return Err(format!(
            "session {:?}, sequence {} after {}",
            request.session, request.sequence, seen.last_sequence
        ));
    }
    seen.last_sequence = request.sequence;
    match request.path.split('?').next() {
        Some("/agent/v1/order") => {
            let order = seen.orders.front().cloned().unwrap_or_else(Order::wait);
            let asked = request.path.contains(QUERY_SEED) && order.image.as_ref().is_some_and(|i| i.config_drive);
            let with_order = seen.seed.as_ref().filter(|_| asked);
            let claim = order.claim.as_ref().map_or("", |c| c.uid.as_str());
            let sealed = with_order.map(|seed| seal(seed, &sealing, &thumbprint(&signing, &sealing), &order.id, claim));
            json(&OrderResponse {
                seed: sealed.transpose().map_err(|e| e.to_string())?,
                bmc_user: wanted_user(seen, &signing, &sealing, &request.path)?,
                order,
                note: "a note for the console".to_owned(),
            })
        }
        Some("/agent/v1/seed") => {
            let order = seen.orders.front().ok_or("a seed without an order")?;
            let claim = order.claim.as_ref().map_or("", |c| c.uid.as_str());
            let Some(seed) = &seen.seed else {
                return Ok((404, refusal(ErrorCode::NotFound)));
            };
            json(&seal(seed, &sealing, &thumbprint(&signing, &sealing), &order.id, claim).map_err(|e| e.to_string())?)
        }
        Some("/agent/v1/reports") => {
            let report: Report = limits::parse(&request.body).map_err(|e| e.to_string())?;
            if seen.orders.front().is_none_or(|o| o.id != report.order_id) {
                return Err(format!("report for {:?}", report.order_id));
            }
            match report.result {
                Some(result) => {
                    seen.results.push(result);
                    if !seen.keep_order || seen.results.len() > 1 {
                        seen.orders.pop_front();
                    }
                }
                None => {
                    seen.progress += 1;
                    seen.sources.extend(report.progress.and_then(|progress| progress.source));
                }
            }
            Ok((200, "{}".to_owned()))
        }
        Some(PATH_BMC_USER) => {
            seen.bmc_reports.push(limits::parse(&request.body).map_err(|e| e.to_string())?);
            Ok((200, "{}".to_owned()))
        }
        Some("/agent/v1/share") => {
            let Some(sharing) = &seen.sharing else {
                return Ok((404, String::new()));
            };
            let said: ShareRequest = limits::parse(&request.body).map_err(|e| e.to_string())?;
            let answer = sharing(&said);
            seen.shared.push(said);
            json(&answer)
        }
        other => Err(format!("unknown path {other:?}")),
    }
}
