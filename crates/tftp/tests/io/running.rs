//! A server on loopback with a runtime of its own, for clients that block.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use tftp::{Assets, Event, Limits, PortMode, Server, Snapshot, server::Config};
use tokio_util::sync::CancellationToken;

/// A server that stops when it is dropped, and must have stopped well.
pub struct Running {
    pub address: SocketAddr,
    /// All so far, in order.
    pub events: Arc<Mutex<Vec<Event>>>,
    counters: Arc<tftp::Counters>,
    stop: CancellationToken,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// Bytes that repeat only after a length that no block size divides.
pub fn content(length: usize) -> Bytes {
    (0..length)
        .map(|i| (i % 65_521 % 251) as u8 ^ (i / 65_521) as u8)
        .collect::<Vec<u8>>()
        .into()
}

pub fn assets(list: &[(&str, Bytes)]) -> Assets {
    let mut assets = Assets::new();
    for (name, content) in list {
        assets.add(name, content.clone()).expect("a good name");
    }
    assets
}

impl Running {
    /// Listens on a free port of `bind`; once stopped it waits for no transfer.
    pub fn start(bind: &str, assets: Assets, mode: PortMode, change: impl FnOnce(&mut Config)) -> Self {
        let socket = UdpSocket::bind(bind).expect("a free port");
        let address = socket.local_addr().expect("an address");
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let mut config = Config {
            port_mode: mode,
            // Tests leave transfers behind that nobody goes on with.
            limits: Limits {
                grace: Duration::ZERO,
                ..Limits::default()
            },
            observer: Arc::new(move |event: &Event| seen.lock().expect("no panic").push(event.clone())),
            ..Config::default()
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let server = {
            let _inside = runtime.enter();
            Server::new(socket, Arc::new(assets), config).expect("a server")
        };
        let counters = Arc::clone(server.counters());
        let token = stop.clone();
        let thread = std::thread::spawn(move || runtime.block_on(server.run(token)));
        Self {
            address,
            events,
            counters,
            stop,
            thread: Some(thread),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// Cancels the token; does not wait.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().expect("dropped once").join();
        if !std::thread::panicking() {
            ended.expect("no panic").expect("the server ended well");
        }
    }
}
