//! One transfer's task: its packets in, its packets out, its timer, and the account of it at the end.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{net::UdpSocket, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Event, Observer,
    metrics::{Counters, add},
    socket::{Flushed, Sender},
};
use crate::{
    AssetId, Time,
    transfer::{Failure, Outcome, Transfer},
    wire::{ErrorCode, Packet},
};

/// Bytes that are read of a client's packet: an acknowledgement, or an ERROR with its message.
const LONGEST: usize = 256;

/// Packets that are read before anything is sent.
const BURST: usize = 64;

/// What the listener hands to a transfer.
#[derive(Debug)]
pub(super) enum Incoming {
    Ack(u16),
    Error(ErrorCode, Box<[u8]>),
    /// The request came once more.
    Again,
    /// Others need its place, and the client never answered.
    Dropped,
}

/// How a transfer reaches its client.
#[derive(Debug)]
pub(super) struct Link {
    socket: Arc<UdpSocket>,
    sender: Sender,
    /// Whether the client's packets come over the socket; else the listener reads them.
    own: bool,
}

impl Link {
    pub(super) fn own(socket: UdpSocket, sender: Sender) -> Self {
        Self {
            socket: Arc::new(socket),
            sender,
            own: true,
        }
    }

    pub(super) fn shared(socket: Arc<UdpSocket>, sender: Sender) -> Self {
        Self {
            socket,
            sender,
            own: false,
        }
    }
}

/// All that a transfer's task needs.
pub(super) struct Work {
    pub(super) link: Link,
    pub(super) transfer: Transfer,
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) cut: CancellationToken,
    /// Set once the client has answered.
    pub(super) answered: Arc<AtomicBool>,
    pub(super) peer: SocketAddr,
    pub(super) local: IpAddr,
    pub(super) asset: AssetId,
    pub(super) counters: Arc<Counters>,
    pub(super) observer: Observer,
}

impl Work {
    pub(super) async fn run(mut self) {
        let start = Instant::now();
        let terms = *self.transfer.terms();
        add(&self.counters.begun, 1);
        add(&self.counters.asset(self.asset).begun, 1);
        (self.observer)(&Event::Begun {
            peer: self.peer,
            local: self.local,
            asset: self.asset,
            block_size: terms.block_size,
            window: terms.window,
        });
        self.serve(start).await;
        self.account(start.elapsed());
    }

    async fn serve(&mut self, start: Instant) {
        let now = || start.elapsed();
        let (socket, own) = (Arc::clone(&self.link.socket), self.link.own);
        // Set anew only when it is due or late: most deadlines move on long before.
        let mut timer = pin!(tokio::time::sleep_until(start + self.transfer.deadline().unwrap_or_default()));
        loop {
            self.answered.store(self.transfer.answered(), Relaxed);
            let blocked = match self.link.sender.flush(&socket, &mut self.transfer, now) {
                Flushed::All => false,
                Flushed::Blocked => true,
                Flushed::Closed => {
                    self.receive(&socket, now(), true);
                    return;
                }
            };
            let Some(deadline) = self.transfer.deadline().map(|deadline| start + deadline) else {
                // An ERROR that the socket does not take now is not worth waiting for.
                return;
            };
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                ready = socket.readable(), if own => match ready {
                    Ok(()) => self.receive(&socket, now(), false),
                    Err(_) => self.transfer.end(Failure::Closed),
                },
                incoming = self.incoming.recv() => match incoming {
                    Some(incoming) => self.take(incoming, now()),
                    None => self.transfer.end(Failure::Superseded),
                },
                // Errors show when it is written to.
                _ = socket.writable(), if blocked => {}
                () = &mut timer => {
                    // On a busy host an answer may have been waiting for us, not we for it.
                    if own {
                        self.receive(&socket, now(), false);
                    }
                    while let Ok(incoming) = self.incoming.try_recv() {
                        self.take(incoming, now());
                    }
                    self.transfer.timer(now());
                }
                () = self.cut.cancelled() => self.transfer.end(Failure::Stopped),
            }
        }
    }

    fn take(&mut self, incoming: Incoming, now: Time) {
        match incoming {
            Incoming::Ack(block) => self.transfer.acknowledged(block, now),
            Incoming::Error(code, message) => self.transfer.refused(code, &message),
            Incoming::Again => self.transfer.asked_again(now),
            Incoming::Dropped => self.transfer.end(Failure::NeverAnswered),
        }
    }

    /// Reads what the client sent. `closed`: its host said that nobody listens there, which is believed once all that it sent before is read: a client
    /// that has everything acknowledges that and goes.
    fn receive(&mut self, socket: &UdpSocket, now: Time, mut closed: bool) {
        let mut buffer = [0; LONGEST];
        for _ in 0..BURST {
            match socket.try_recv(&mut buffer) {
                Ok(length) => match Packet::parse(&buffer[..length]) {
                    Ok(Packet::Ack { block }) => self.transfer.acknowledged(block, now),
                    Ok(Packet::Error { code, message }) => self.transfer.refused(code, message),
                    // Nothing else has a meaning on this port.
                    Ok(_) | Err(_) => {}
                },
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => closed = true,
                Err(_) => break,
            }
            // One acknowledgement releases the next window, and what is behind it in the queue can wait: sending comes first.
            if self.transfer.ready() > 0 && !closed {
                return;
            }
        }
        if closed {
            self.transfer.end(Failure::Closed);
        }
    }

    fn account(&self, duration: Time) {
        let Some(outcome) = self.transfer.outcome().cloned() else { return };
        let asset = self.counters.asset(self.asset);
        let (bytes, resent, timeouts) = (self.transfer.delivered(), self.transfer.resent(), self.transfer.timeouts());
        add(&self.counters.bytes, bytes);
        add(&asset.bytes, bytes);
        add(&self.counters.resent, resent);
        add(&self.counters.timeouts, u64::from(timeouts));
        // Last, so that whoever waits for an end finds all of it.
        match &outcome {
            Outcome::Finished => {
                add(&asset.finished, 1);
                add(&self.counters.finished, 1);
            }
            Outcome::Probed => add(&self.counters.probed, 1),
            Outcome::Failed(failure) => {
                tracing::debug!(peer = %self.peer, %failure, "a TFTP transfer failed");
                add(&asset.failed, 1);
                add(&self.counters.failed, 1);
            }
        }
        (self.observer)(&Event::Ended {
            peer: self.peer,
            local: self.local,
            asset: self.asset,
            outcome,
            duration,
            bytes,
            resent,
            timeouts,
        });
    }
}
