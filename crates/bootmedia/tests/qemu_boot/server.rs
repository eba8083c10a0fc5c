//! A server that speaks just enough of the agent protocol to lead one machine through a boot: it checks every signature, hands out a list of
//! orders, and keeps what it was told.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use agent_protocol::{
    limits,
    order::{Order, OrderResult, Report},
    session::{HEADER_SEQUENCE, HEADER_SESSION, HEADER_SIGNATURE, OrderResponse, SessionRequest, SessionResponse, verify},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer, pki_types::PrivatePkcs8KeyDer};

/// What the machine said so far.
#[derive(Default)]
pub struct Seen {
    pub session: Option<SessionRequest>,
    pub results: Vec<OrderResult>,
    pub progress: usize,
    pub problems: Vec<String>,
    orders: VecDeque<Order>,
    last_sequence: u64,
}

pub struct Server {
    pub port: u16,
    pub pin: String,
    state: Arc<(Mutex<Seen>, Condvar)>,
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

impl Server {
    /// Listens on a loopback port. `orders` makes the orders from what the machine says of itself.
    pub fn start(orders: fn(&SessionRequest) -> Vec<Order>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![pinned_tls::SERVER_NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap();
        let chain = vec![leaf.der().clone(), ca.der().clone()];
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            pin: pinned_tls::pin_of(ca.der()).unwrap(),
            state: Arc::default(),
        };
        let state = Arc::clone(&server.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, state) = (Arc::clone(&config), Arc::clone(&state));
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    serve(BufReader::new(StreamOwned::new(connection, stream)), &state, orders);
                });
            }
        });
        server
    }

    /// Waits until `done`, and gives what it made of the state.
    pub fn wait<T>(&self, what: &str, limit: Duration, done: impl Fn(&Seen) -> Option<T>) -> T {
        let until = Instant::now() + limit;
        let mut seen = self.state.0.lock().unwrap();
        loop {
            assert!(seen.problems.is_empty(), "the agent broke the protocol: {:?}", seen.problems);
            if let Some(value) = done(&seen) {
                return value;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within {} s", limit.as_secs());
            seen = self.state.1.wait_timeout(seen, left).unwrap().0;
        }
    }
}

/// Requests of one connection, until it closes.
fn serve(mut stream: BufReader<Tls>, state: &Arc<(Mutex<Seen>, Condvar)>, orders: fn(&SessionRequest) -> Vec<Order>) {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut length, mut session, mut sequence, mut signature) = (0usize, String::new(), 0u64, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            let value = value.trim().to_owned();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                HEADER_SESSION => session = value,
                HEADER_SEQUENCE => sequence = value.parse().unwrap_or(0),
                HEADER_SIGNATURE => signature = value,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let mut seen = state.0.lock().unwrap();
        let answer = answer(&mut seen, orders, (&method, &path, &session, sequence, &signature), &body).unwrap_or_else(|problem| {
            seen.problems.push(format!("{method} {path}: {problem}"));
            "{}".to_owned()
        });
        state.1.notify_all();
        drop(seen);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n",
            answer.len()
        );
        if stream.get_mut().write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

type Request<'a> = (&'a str, &'a str, &'a str, u64, &'a str);

fn answer(
    seen: &mut Seen,
    orders: fn(&SessionRequest) -> Vec<Order>,
    (method, path, session, sequence, signature): Request<'_>,
    body: &[u8],
) -> Result<String, String> {
    if path == "/agent/v1/sessions" {
        let request: SessionRequest = limits::parse(body).map_err(|e| e.to_string())?;
        verify(&request.signing_key, signature, method, path, session, sequence, body).map_err(|e| e.to_string())?;
        seen.orders = orders(&request).into();
        seen.session = Some(request);
        seen.last_sequence = sequence;
        let answer = SessionResponse {
            session: "session-1".to_owned(),
            discovery: "test-machine".to_owned(),
            hardware: None,
            protocol: 1,
            poll_seconds: 30,
        };
        return serde_json::to_string(&answer).map_err(|e| e.to_string());
    }
    let key = seen.session.as_ref().ok_or("no session yet")?.signing_key.clone();
    verify(&key, signature, method, path, session, sequence, body).map_err(|e| e.to_string())?;
    if session != "session-1" || sequence <= seen.last_sequence {
        return Err(format!("session {session:?}, sequence {sequence} after {}", seen.last_sequence));
    }
    seen.last_sequence = sequence;
    match path.split('?').next() {
        Some("/agent/v1/order") => {
            let order = seen.orders.front().cloned().unwrap_or_else(Order::wait);
            let answer = OrderResponse {
                order,
                note: "a note for the console".to_owned(),
            };
            serde_json::to_string(&answer).map_err(|e| e.to_string())
        }
        Some("/agent/v1/reports") => {
            let report: Report = limits::parse(body).map_err(|e| e.to_string())?;
            if seen.orders.front().is_none_or(|o| o.id != report.order_id) {
                return Err(format!("report for {:?}", report.order_id));
            }
            match report.result {
                Some(result) => {
                    seen.results.push(result);
                    seen.orders.pop_front();
                }
                None => seen.progress += 1,
            }
            Ok("{}".to_owned())
        }
        other => Err(format!("unknown path {other:?}")),
    }
}
