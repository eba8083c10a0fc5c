//! A bad network on the loopback: it loses, doubles and swaps UDP datagrams between one client and a BMC, by a seed.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How bad, each out of a hundred datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Badness {
    pub lost: u32,
    pub doubled: u32,
    pub swapped: u32,
}

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Relay {
    pub port: u16,
    pub lost: Arc<AtomicUsize>,
    pub doubled: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub fn start(bmc: u16, badness: Badness, seed: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let port = socket.local_addr().expect("an address").port();
        let (stop, lost, doubled) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        let thread = {
            let (stop, lost, doubled) = (Arc::clone(&stop), Arc::clone(&lost), Arc::clone(&doubled));
            std::thread::spawn(move || carry(&socket, bmc, badness, seed, (&stop, &lost, &doubled)))
        };
        Self {
            port,
            lost,
            doubled,
            stop,
            thread: Some(thread),
        }
    }
}

fn carry(socket: &UdpSocket, bmc: u16, badness: Badness, seed: u64, (stop, lost, doubled): (&AtomicBool, &AtomicUsize, &AtomicUsize)) {
    let bmc = SocketAddr::from(([127, 0, 0, 1], bmc));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut client = None;
    let mut held: Option<(Vec<u8>, SocketAddr)> = None;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            // Who was to be overtaken is not, when nobody comes.
            if let Some((bytes, to)) = held.take() {
                let _sent = socket.send_to(&bytes, to);
            }
            continue;
        };
        let to = if from == bmc {
            let Some(client) = client else { continue };
            client
        } else {
            client = Some(from);
            bmc
        };
        let bytes = buffer[..length].to_vec();
        let draw = rng.random_range(0..100);
        if draw < badness.lost {
            lost.fetch_add(1, Ordering::Relaxed);
        } else if draw < badness.lost + badness.swapped && held.is_none() {
            held = Some((bytes, to));
        } else {
            let _sent = socket.send_to(&bytes, to);
            if draw < badness.lost + badness.swapped + badness.doubled {
                doubled.fetch_add(1, Ordering::Relaxed);
                let _sent = socket.send_to(&bytes, to);
            }
            if let Some((bytes, to)) = held.take() {
                let _sent = socket.send_to(&bytes, to);
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}
