//! Sockets, limits, counters and events around [`crate::transfer`].
//!
//! One task owns the listener: it reads requests, answers those that it refuses, and starts a task per transfer. A transfer has a new port at the
//! address that was asked (RFC 1350 section 4), or sends from the listener's socket ([`PortMode::Single`]) and is handed its packets by the listener.
//!
//! Invariants:
//! * Replies leave from the address that was asked, whatever addresses the host has.
//! * A request that is repeated belongs to the transfer that is running; another request from the same port replaces it.
//! * Above a limit a request stays unanswered: clients ask again, while an ERROR would end a boot. Requests whose clients never answer do not keep others
//!   out: their addresses may be forged.
//! * Nothing but a request starts anything, and nothing else is answered by the listener.
//!
//! It opens no files and no privileged ports: the caller gives the socket.

mod metrics;
mod peer;
mod socket;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::metrics::{AssetSnapshot, Counters, Snapshot};
use self::{
    metrics::add,
    peer::{Incoming, Link, Work},
    socket::{Local, Sender},
};
use crate::{
    AssetId, Assets,
    assets::Printable,
    transfer::{Outcome, Settings, Transfer},
    wire::{DEFAULT_BLOCK_SIZE, ErrorCode, Mode, Packet, Request},
};

/// Bytes that are read of a datagram from a client: more than any request may have.
const LONGEST: usize = 1024;

/// Datagrams that the listener reads before it looks at anything else.
const BURST: usize = 64;

/// How long a transfer whose client has not answered keeps its place when others need it: that of a machine takes milliseconds.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// Packets that wait for a transfer of [`PortMode::Single`]; what comes on top is lost, as it would be in a socket. Some windows of acknowledgements: a
/// client may send one for each block.
const INBOX: usize = 256;

/// From which port transfers are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortMode {
    /// A new one for each, as RFC 1350 says.
    #[default]
    PerTransfer,
    /// All from the listener's, for firewalls and address translation that know nothing of TFTP (`--tftp-single-port`).
    Single,
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Transfers at once. With [`PortMode::PerTransfer`] each needs a file descriptor.
    pub transfers: usize,
    /// Transfers at once with one client's address.
    pub per_source: usize,
    /// How long transfers may go on after the stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfers: 1024,
            per_source: 256,
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No asset has that name.
    #[error("there is no such file")]
    NotFound,
    /// WRQ.
    #[error("this server takes no files")]
    Write,
    /// Netascii or mail.
    #[error("only the mode octet is served; another would change the bytes")]
    Mode,
    /// A limit; the client got no answer and will ask again.
    #[error("too many transfers are running")]
    Busy,
}

/// Something that belongs into a machine's boot timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A transfer began.
    Begun {
        /// The client (IPv4 is never mapped into IPv6 here).
        peer: SocketAddr,
        /// The address of ours that it asked.
        local: IpAddr,
        /// What it fetches.
        asset: AssetId,
        /// Bytes in a block.
        block_size: u16,
        /// Blocks in a window.
        window: u16,
    },
    /// A transfer ended.
    Ended {
        /// The client.
        peer: SocketAddr,
        /// The address of ours that it asked.
        local: IpAddr,
        /// What it fetched.
        asset: AssetId,
        /// How.
        outcome: Outcome,
        /// From the request to the end.
        duration: Duration,
        /// Bytes that the client acknowledged.
        bytes: u64,
        /// Packets that were sent again.
        resent: u64,
        /// Timers that ran out.
        timeouts: u32,
    },
    /// A request was refused.
    Refused {
        /// The client.
        peer: SocketAddr,
        /// The name that it asked for, printable and bounded.
        name: String,
        /// Why.
        reason: Refusal,
    },
}

/// Takes events. It is called by the tasks that send packets: it must not block.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// How a server behaves.
#[derive(Clone)]
pub struct Config {
    /// From which port transfers are sent.
    pub port_mode: PortMode,
    /// Bounds.
    pub limits: Limits,
    /// How transfers behave.
    pub transfer: Settings,
    /// Whether windows are handed to the kernel as one batch each (UDP generic segmentation offload). Off for cards whose drivers get that wrong.
    pub segmentation_offload: bool,
    /// Who hears of it.
    pub observer: Observer,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port_mode: PortMode::default(),
            limits: Limits::default(),
            transfer: Settings::default(),
            segmentation_offload: true,
            observer: Arc::new(|_| {}),
        }
    }
}

/// Who talks to us about one transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    peer: SocketAddr,
    local: Local,
}

struct Route {
    task: Id,
    inbox: mpsc::Sender<Incoming>,
    /// The request as it came.
    request: Box<[u8]>,
    begun: Instant,
    answered: Arc<AtomicBool>,
}

/// A server that is bound and not running yet.
pub struct Server {
    socket: Arc<UdpSocket>,
    assets: Arc<Assets>,
    config: Config,
    counters: Arc<Counters>,
    routes: HashMap<Key, Route>,
    tasks: JoinSet<()>,
    keys: HashMap<Id, Key>,
    sources: HashMap<IpAddr, usize>,
}

impl Server {
    /// Serves `assets` on a bound socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot tell which local address a datagram was sent to.
    pub fn new(socket: std::net::UdpSocket, assets: Arc<Assets>, config: Config) -> io::Result<Self> {
        socket::prepare(&socket)?;
        Ok(Self {
            socket: Arc::new(UdpSocket::from_std(socket)?),
            counters: Arc::new(Counters::new(assets.len())),
            assets,
            config,
            routes: HashMap::new(),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            sources: HashMap::new(),
        })
    }

    /// Its counters, to be read at any time.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Serves until the token is cancelled; then takes no more requests and gives what is running [`Limits::grace`] to end.
    ///
    /// # Errors
    /// When the socket does not work any more.
    pub async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        let socket = Arc::clone(&self.socket);
        let cut = CancellationToken::new();
        let mut buffer = [0; LONGEST];
        let mut control = socket::control_buffer();
        let mut last: Option<Instant> = None;
        loop {
            if last.is_some() && self.tasks.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled(), if last.is_none() => last = Some(Instant::now() + self.config.limits.grace),
                () = tokio::time::sleep_until(last.unwrap_or_else(Instant::now)), if last.is_some() && !cut.is_cancelled() => cut.cancel(),
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.forget(ended),
                ready = socket.readable() => {
                    ready?;
                    for _ in 0..BURST {
                        match socket::receive(&socket, &mut buffer, &mut control) {
                            Ok(socket::Arrival { length, peer, local: Some(local) }) => {
                                self.arrived(&buffer[..length], Key { peer, local }, last.is_some(), &cut);
                            }
                            Ok(_) => {}
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                            // An ICMP message about something that was sent before, or memory that is short for a moment.
                            Err(e) => {
                                tracing::debug!(error = %e, "a TFTP datagram could not be read");
                                break;
                            }
                        }
                    }
                }
            }
        }
    }

    fn arrived(&mut self, bytes: &[u8], key: Key, stopping: bool, cut: &CancellationToken) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(error) => {
                tracing::debug!(peer = %key.peer, %error, "not a TFTP packet");
                add(&self.counters.malformed, 1);
                return;
            }
        };
        match packet {
            Packet::Read(request) if request.mode == Mode::Octet => self.read(&request, bytes, key, stopping, cut),
            Packet::Read(request) => {
                // A loader that is read as netascii would be damaged without anybody noticing.
                add(&self.counters.refused, 1);
                self.refuse(key, request.name, Refusal::Mode, ErrorCode::UNDEFINED);
            }
            Packet::Write(request) => {
                add(&self.counters.refused, 1);
                self.refuse(key, request.name, Refusal::Write, ErrorCode::ACCESS);
            }
            Packet::Ack { block } => self.route(&key, Incoming::Ack(block)),
            Packet::Error { code, message } => self.route(&key, Incoming::Error(code, message.into())),
            Packet::Data { .. } | Packet::OptionAck(_) => {}
        }
    }

    /// To the transfer that sends from this port. Where there is none, nothing is said: a late packet of a client that asks for the next file would end
    /// that by our ERROR.
    fn route(&self, key: &Key, incoming: Incoming) {
        if self.config.port_mode == PortMode::Single
            && let Some(route) = self.routes.get(key)
        {
            // A full inbox loses it, as a full socket would.
            drop(route.inbox.try_send(incoming));
        }
    }

    fn read(&mut self, request: &Request<'_>, bytes: &[u8], key: Key, stopping: bool, cut: &CancellationToken) {
        if let Some(route) = self.routes.get(&key) {
            if *route.request == *bytes && !route.inbox.is_closed() {
                add(&self.counters.repeated_requests, 1);
                // A full inbox loses it, as a full socket would.
                drop(route.inbox.try_send(Incoming::Again));
                return;
            }
            // Its task notices that nobody writes to it any more.
            self.routes.remove(&key);
        }
        if stopping {
            return;
        }
        let Some(asset) = self.assets.find(request.name) else {
            add(&self.counters.not_found, 1);
            self.refuse(key, request.name, Refusal::NotFound, ErrorCode::NOT_FOUND);
            return;
        };
        // What has ended by now does not count.
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
        let source = key.peer.ip().to_canonical();
        let from_there = self.sources.get(&source).copied().unwrap_or(0);
        let full = if from_there >= self.config.limits.per_source {
            !self.make_room(Some(source))
        } else {
            self.tasks.len() >= self.config.limits.transfers && !self.make_room(None)
        };
        if full {
            self.busy(key, request.name);
            return;
        }
        let transfer = Transfer::new(
            self.assets.content(asset).clone(),
            &request.options,
            self.config.transfer.clone(),
            crate::Time::ZERO,
        );
        let segments = self.config.segmentation_offload;
        let link = match self.config.port_mode {
            PortMode::Single => Link::shared(
                Arc::clone(&self.socket),
                Sender::shared(key.peer, key.local, transfer.terms().block_size, segments),
            ),
            PortMode::PerTransfer => match socket::connected(key.local, key.peer) {
                Ok(socket) => Link::own(socket, Sender::connected(transfer.terms().block_size, segments)),
                Err(error) => {
                    tracing::warn!(peer = %key.peer, %error, "no socket for a TFTP transfer; the client will ask again");
                    self.busy(key, request.name);
                    return;
                }
            },
        };
        let (inbox, incoming) = mpsc::channel(INBOX);
        let answered = Arc::new(AtomicBool::new(false));
        let work = Work {
            link,
            transfer,
            incoming,
            cut: cut.clone(),
            answered: Arc::clone(&answered),
            peer: socket::canonical(key.peer),
            local: key.local.address,
            asset,
            counters: Arc::clone(&self.counters),
            observer: Arc::clone(&self.config.observer),
        };
        let task = self.tasks.spawn(work.run()).id();
        self.keys.insert(task, key);
        *self.sources.entry(source).or_default() += 1;
        self.routes.insert(
            key,
            Route {
                task,
                inbox,
                request: bytes.into(),
                begun: Instant::now(),
                answered,
            },
        );
    }

    /// Ends the oldest transfer, of one source or of all, that is in doubt: its client has not answered for a while. False where there is none.
    fn make_room(&mut self, source: Option<IpAddr>) -> bool {
        let oldest = self
            .routes
            .iter()
            .filter(|(key, route)| !route.answered.load(Relaxed) && source.is_none_or(|source| key.peer.ip().to_canonical() == source))
            .min_by_key(|(_, route)| route.begun)
            .filter(|(_, route)| route.begun.elapsed() >= DOUBTFUL)
            .map(|(key, _)| *key);
        oldest
            .and_then(|key| self.routes.remove(&key))
            .is_some_and(|route| route.inbox.try_send(Incoming::Dropped).is_ok())
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(panicked) => {
                tracing::error!(error = %panicked, "a TFTP transfer ended by a bug");
                panicked.id()
            }
        };
        let Some(key) = self.keys.remove(&task) else { return };
        // The port may already belong to the client's next transfer.
        if self.routes.get(&key).is_some_and(|route| route.task == task) {
            self.routes.remove(&key);
        }
        let source = key.peer.ip().to_canonical();
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    fn busy(&self, key: Key, name: &[u8]) {
        add(&self.counters.busy, 1);
        self.observe_refusal(key, name, Refusal::Busy);
    }

    fn refuse(&self, key: Key, name: &[u8], reason: Refusal, code: ErrorCode) {
        let message = reason.to_string();
        let mut sender = Sender::shared(key.peer, key.local, DEFAULT_BLOCK_SIZE, false);
        if let Err(error) = sender.single(
            &self.socket,
            &Packet::Error {
                code,
                message: message.as_bytes(),
            },
        ) {
            tracing::debug!(peer = %key.peer, %error, "a TFTP error could not be sent");
        }
        self.observe_refusal(key, name, reason);
    }

    fn observe_refusal(&self, key: Key, name: &[u8], reason: Refusal) {
        (self.config.observer)(&Event::Refused {
            peer: socket::canonical(key.peer),
            name: Printable(name).to_string(),
            reason,
        });
    }
}
