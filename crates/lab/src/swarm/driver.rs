//! Drives machines: carries out what each asks for over real sockets, and writes down what really happened.
//!
//! One task per machine, one request at a time, HTTP/1.1 over its own connection from its own address; TLS is pinned and never resumed, because a machine that boots
//! remembers nothing. The driver decides nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    bmcs::Bmcs,
    faults::Point,
    machine::{Action, Answer, Call, Fact, Input, Machine},
    switch::{Switch, Told},
};

/// Longest time for an answer: a long poll is held for half a minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer.
const MAX_ANSWER: usize = 2 << 20;

/// Something that happened on a machine.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Since the swarm began.
    pub at: Duration,
    /// On which machine.
    pub machine: usize,
    /// What.
    pub fact: Fact,
}

/// Where machines' facts are collected.
#[derive(Debug)]
pub struct Ledger {
    start: Instant,
    entries: Mutex<Vec<Entry>>,
    requests: AtomicU64,
    lost: AtomicU64,
}

impl Ledger {
    /// An empty one; time counts from `start`.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            entries: Mutex::default(),
            requests: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn note(&self, machine: usize, facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        let at = self.start.elapsed();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.extend(facts.into_iter().map(|fact| Entry { at, machine, fact }));
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests so far, and how many of them had no answer.
    pub fn requests(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

/// Whether a machine gets an answer that was received for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It does.
    Deliver,
    /// It does not: the connection broke first.
    Withhold,
}

/// Looks at every answer before its machine gets it.
pub type OnAnswer = Arc<dyn Fn(usize, Point) -> BoxFuture<'static, Delivery> + Send + Sync>;

/// What all machines share.
pub struct Network {
    /// Where boot scripts are asked for: of one of them at random, and of the next where one cannot be reached.
    pub boot: Vec<SocketAddr>,
    /// Called with each answer, where somebody wants to interfere.
    pub on_answer: Option<OnAnswer>,
    pins: Mutex<HashMap<String, Arc<rustls::ClientConfig>>>,
}

impl Network {
    /// A network whose DHCP names the boot servers at `boot`.
    pub fn new(boot: Vec<SocketAddr>, on_answer: Option<OnAnswer>) -> Self {
        Self {
            boot,
            on_answer,
            pins: Mutex::default(),
        }
    }

    fn tls(&self, pin: &str) -> Option<Arc<rustls::ClientConfig>> {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = pins.get(pin) {
            return Some(config.clone());
        }
        let mut config = pinned_tls::client_config(pin).ok()?;
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        pins.insert(pin.to_owned(), config.clone());
        Some(config)
    }
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(from: Ipv4Addr, to: SocketAddr) -> Option<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).ok()?;
    let stream = socket.connect(to).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

async fn over<S>(stream: S) -> Option<Connection>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a machine's connection ended");
        }
    });
    Some(send)
}

async fn exchange(connection: &mut Connection, request: Request<Full<Bytes>>) -> Option<Answer> {
    connection.ready().await.ok()?;
    let response = connection.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.ok()?.to_bytes();
    Some(Answer::Reply(status, body.to_vec()))
}

/// One machine's wires.
struct Wire<'a> {
    network: &'a Network,
    from: Ipv4Addr,
    agent: Option<(String, Connection)>,
}

impl Wire<'_> {
    async fn boot(&self, path: &str) -> Option<Answer> {
        let servers = &self.network.boot;
        let first = rand::random_range(0..servers.len().max(1));
        let mut reached = None;
        for server in servers.iter().cycle().skip(first).take(servers.len()) {
            if let Some(stream) = connect(self.from, *server).await {
                reached = Some((stream, server));
                break;
            }
        }
        let (stream, server) = reached?;
        let mut connection = over(stream).await?;
        let host = server.to_string();
        exchange(&mut connection, Request::get(path).header("host", host).body(Full::default()).ok()?).await
    }

    async fn secure(&self, server: &str, pin: &str) -> Option<Connection> {
        let to: SocketAddr = server.parse().ok()?;
        let stream = connect(self.from, to).await?;
        let connector = tokio_rustls::TlsConnector::from(self.network.tls(pin)?);
        // Whoever holds a certificate of the pinned CA is the server; this name is not looked at.
        let name = rustls_pki_types::ServerName::from(to.ip());
        over(connector.connect(name, stream).await.ok()?).await
    }

    async fn call(&mut self, server: &str, pin: &str, fresh: bool, call: Call) -> Option<Answer> {
        // One that the server closed meanwhile is replaced; one that breaks under a request loses it, and the machine asks again.
        let kept = self
            .agent
            .take()
            .filter(|(of, connection)| !fresh && of == server && !connection.is_closed());
        let mut connection = match kept {
            Some((_, connection)) => connection,
            None => self.secure(server, pin).await?,
        };
        let mut request = Request::builder().method(call.method).uri(&call.path).header("host", server);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let answer = exchange(&mut connection, request.body(Full::from(call.body)).ok()?).await?;
        self.agent = Some((server.to_owned(), connection));
        Some(answer)
    }
}

/// What a machine's task has to do with others.
#[derive(Clone)]
struct Around {
    index: usize,
    network: Arc<Network>,
    ledger: Arc<Ledger>,
    places: Arc<Places>,
}

/// From when the machine is switched on until it switches itself off.
async fn live(around: &Around, machine: &mut Machine, switch: Option<&Switch>) {
    let Around {
        index,
        network,
        ledger,
        places,
    } = around;
    let index = *index;
    let mut wire = Wire {
        network,
        from: machine.body.address,
        agent: None,
    };
    let mut input = Input::Go;
    loop {
        let action = machine.step(input);
        ledger.note(index, machine.take_facts());
        places.put(index, machine.place());
        if let Some(switch) = switch {
            switch.listens(machine.runs_system());
        }
        let (asked, point) = match action {
            Action::Off => return,
            Action::Wait(wait) => {
                tokio::time::sleep(wait).await;
                input = Input::Go;
                continue;
            }
            Action::Boot { path } => {
                wire.agent = None;
                (tokio::time::timeout(PATIENCE, wire.boot(&path)).await, Point::Boot)
            }
            Action::Call {
                server,
                pin,
                fresh,
                call,
                point,
            } => (tokio::time::timeout(PATIENCE, wire.call(&server, &pin, fresh, call)).await, point),
        };
        ledger.requests.fetch_add(1, Ordering::Relaxed);
        let mut answer = asked.ok().flatten().unwrap_or(Answer::Lost);
        if let (Some(on_answer), Answer::Reply(..)) = (&network.on_answer, &answer)
            && on_answer(index, point).await == Delivery::Withhold
        {
            answer = Answer::Lost;
        }
        if matches!(answer, Answer::Lost) {
            wire.agent = None;
            ledger.lost.fetch_add(1, Ordering::Relaxed);
        }
        input = Input::Answer(answer);
    }
}

/// All lives of a machine whose BMC switches it.
async fn live_behind(around: &Around, machine: &mut Machine, switch: &Switch) {
    let mut told = switch.follow();
    loop {
        let now = *told.borrow_and_update();
        let changed = match now.told {
            Told::Boot => {
                machine.boots_from(now.first);
                tokio::select! {
                    () = live(around, machine, Some(switch)) => {
                        switch.went_off(now.count);
                        None
                    }
                    changed = told.changed() => {
                        machine.is_switched();
                        Some(changed)
                    }
                }
            }
            Told::ShutDown => {
                tokio::select! {
                    () = tokio::time::sleep(machine.shuts_down_within()) => {
                        switch.went_off(now.count);
                        None
                    }
                    changed = told.changed() => Some(changed),
                }
            }
            Told::Off => None,
        };
        around.ledger.note(around.index, machine.take_facts());
        around.places.put(around.index, machine.place());
        let changed = match changed {
            Some(changed) => changed,
            None => told.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Where each machine stands, for the person who looks for a lost one.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<usize, String>>);

impl Places {
    fn put(&self, machine: usize, place: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(machine, place);
    }

    /// Of one machine.
    pub fn of(&self, machine: usize) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&machine)
            .cloned()
            .unwrap_or_else(|| "off".to_owned())
    }
}

/// Running machines; dropping it pulls all their plugs.
pub struct Swarm {
    tasks: JoinSet<(usize, Machine)>,
    stop: CancellationToken,
    /// Where each stands.
    pub places: Arc<Places>,
}

impl Swarm {
    /// Switches machines on, evenly over `ramp`.
    pub fn start(machines: Vec<Machine>, ramp: Duration, network: Arc<Network>, ledger: Arc<Ledger>) -> Self {
        Self::start_behind(machines, ramp, network, ledger, None)
    }

    /// The same; where they have BMCs, by pressing their buttons. Those switch them from then on.
    pub fn start_behind(
        machines: Vec<Machine>,
        ramp: Duration,
        network: Arc<Network>,
        ledger: Arc<Ledger>,
        bmcs: Option<Arc<Bmcs>>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let (stop, places) = (CancellationToken::new(), Arc::new(Places::default()));
        let count = u32::try_from(machines.len().max(1)).unwrap_or(u32::MAX);
        for (index, mut machine) in machines.into_iter().enumerate() {
            let start = ramp / count * u32::try_from(index).unwrap_or(u32::MAX);
            let around = Around {
                index,
                network: network.clone(),
                ledger: ledger.clone(),
                places: places.clone(),
            };
            let (stop, bmcs) = (stop.clone(), bmcs.clone());
            tasks.spawn(async move {
                let lives = async {
                    tokio::time::sleep(start).await;
                    match &bmcs {
                        None => live(&around, &mut machine, None).await,
                        Some(bmcs) => {
                            bmcs.press(index);
                            live_behind(&around, &mut machine, bmcs.switch(index)).await;
                        }
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = lives => {}
                }
                (index, machine)
            });
        }
        Self { tasks, stop, places }
    }

    /// Pulls all plugs and waits.
    pub async fn stop(self) {
        self.unplug().await;
    }

    /// Pulls all plugs, and gives back the machines with what is on their disks.
    pub async fn unplug(mut self) -> Vec<Machine> {
        self.stop.cancel();
        let mut machines = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            machines.extend(ended.ok());
        }
        machines.sort_by_key(|(index, _)| *index);
        machines
            .into_iter()
            .map(|(_, mut machine)| {
                machine.lose_power();
                machine
            })
            .collect()
    }
}
