//! The server over real sockets on loopback.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tftp::{
    Event, PortMode,
    client::{DownloadError, FetchError, Fetched, fetch},
    server::{Config, Refusal},
    transfer::{Failure, Outcome},
    wire::{ErrorCode, Mode, OptionKind, Options, Packet, Request},
};

use crate::running::{Running, assets, content};

const MODES: [PortMode; 2] = [PortMode::PerTransfer, PortMode::Single];
const LIMIT: Duration = Duration::from_secs(120);

/// After which nothing is taken to come any more.
const SILENCE: Duration = Duration::from_millis(300);

fn options(list: &[(OptionKind, u64)]) -> Options {
    let mut options = Options::default();
    for (kind, value) in list {
        options.push(*kind, *value);
    }
    options
}

fn get(server: SocketAddr, name: &str, asked: &[(OptionKind, u64)]) -> Result<(Vec<u8>, Fetched), FetchError> {
    let mut received = Vec::new();
    fetch(server, name, options(asked), LIMIT, |data| received.extend_from_slice(data)).map(|fetched| (received, fetched))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Keeps the server's timers out of a test that counts packets.
fn patient(config: &mut Config) {
    config.transfer.timeout = LIMIT;
    config.transfer.shortest_timeout = LIMIT;
    config.transfer.longest_timeout = LIMIT;
}

/// A client that does only what a test says.
struct Hand {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Hand {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        Self { socket, server }
    }

    fn send(&self, packet: &Packet<'_>, to: SocketAddr) {
        let mut out = Vec::new();
        packet.encode(&mut out);
        self.socket.send_to(&out, to).expect("sent");
    }

    fn ask(&self, name: &str, mode: Mode, asked: &[(OptionKind, u64)]) {
        self.send(
            &Packet::Read(Request {
                name: name.as_bytes(),
                mode,
                options: options(asked),
            }),
            self.server,
        );
    }

    fn receive(&self, within: Duration) -> std::io::Result<(Vec<u8>, SocketAddr)> {
        self.socket.set_read_timeout(Some(within))?;
        let mut buffer = vec![0; 70_000];
        let (length, sender) = self.socket.recv_from(&mut buffer)?;
        buffer.truncate(length);
        Ok((buffer, sender))
    }

    /// The next packet's bytes and its sender.
    fn next(&self) -> (Vec<u8>, SocketAddr) {
        self.receive(LIMIT).expect("a packet")
    }

    fn assert_silence(&self, why: &str) {
        if let Ok(packet) = self.receive(SILENCE) {
            panic!("{why}: {packet:?}");
        }
    }

    fn error(&self) -> (ErrorCode, String) {
        let (bytes, _) = self.next();
        match Packet::parse(&bytes) {
            Ok(Packet::Error { code, message }) => (code, String::from_utf8_lossy(message).into_owned()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_size_block_and_window() {
    let files: Vec<(String, Bytes)> = [0, 1, 511, 512, 1468 * 64, 65_464 * 2, 3_000_001]
        .iter()
        .map(|n| (n.to_string(), content(*n)))
        .collect();
    let named: Vec<(&str, Bytes)> = files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
    for mode in MODES {
        for segments in [true, false] {
            let server = Running::start("127.0.0.1:0", assets(&named), mode, |config| config.segmentation_offload = segments);
            let mut done = 0;
            for (name, content) in &files {
                for block_size in [512, 1468, 65_464] {
                    for window in [1, 8, 64] {
                        let asked = [
                            (OptionKind::TransferSize, 0),
                            (OptionKind::BlockSize, block_size),
                            (OptionKind::WindowSize, window),
                        ];
                        let (received, fetched) =
                            get(server.address, name, &asked).unwrap_or_else(|e| panic!("{mode:?} {name} {block_size} {window}: {e}"));
                        assert!(received == *content, "{mode:?} {name} {block_size} {window}: other bytes");
                        assert_eq!(fetched.size, Some(content.len() as u64));
                        assert_eq!(fetched.from.port() == server.address.port(), mode == PortMode::Single);
                        done += 1;
                    }
                }
                let (received, fetched) = get(server.address, name, &[]).expect("without options");
                assert!(received == *content, "{name} without options");
                assert_eq!(fetched.size, None);
                done += 1;
            }
            wait_until("all acknowledged", || server.snapshot().active() == 0);
            let snapshot = server.snapshot();
            assert_eq!((snapshot.finished, snapshot.failed, snapshot.malformed), (done, 0, 0));
            assert_eq!(snapshot.bytes, files.iter().map(|(_, c)| c.len() as u64 * 10).sum::<u64>());
        }
    }
}

#[test]
fn two_hundred_clients_at_once() {
    for mode in MODES {
        for (block_size, window, size) in [(1468, 1, 60_000), (1468, 8, 150_000), (1468, 64, 300_000)] {
            let loader = content(size);
            let server = Running::start("127.0.0.1:0", assets(&[("ipxe.efi", loader.clone())]), mode, |_| {});
            let gate = std::sync::Barrier::new(200);
            std::thread::scope(|scope| {
                for client in 0..200 {
                    let (loader, gate, address) = (&loader, &gate, server.address);
                    scope.spawn(move || {
                        gate.wait();
                        let asked = [(OptionKind::BlockSize, block_size), (OptionKind::WindowSize, window)];
                        let (received, _) = get(address, "ipxe.efi", &asked)
                            .unwrap_or_else(|e| panic!("client {client} {mode:?} {block_size} {window}: {e}"));
                        assert!(received == *loader, "client {client}: other bytes");
                    });
                }
            });
            wait_until("all ended", || server.snapshot().active() == 0);
            let snapshot = server.snapshot();
            println!(
                "200 clients, {mode:?}, blksize {block_size}, windowsize {window}: {} sent again, {} timeouts",
                snapshot.resent, snapshot.timeouts
            );
            // Where the very last acknowledgement was lost its client is content and gone, and the server cannot know.
            assert_eq!((snapshot.begun, snapshot.finished + snapshot.failed, snapshot.busy), (200, 200, 0));
        }
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let loader = content(10_000);
    for mode in MODES {
        for (bind, ask) in [
            ("0.0.0.0:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.2"),
            ("127.0.0.3:0", "127.0.0.3"),
            ("[::]:0", "::1"),
            // IPv4 over a socket for both.
            ("[::]:0", "127.0.0.1"),
            ("[::]:0", "127.0.0.4"),
            ("[::1]:0", "::1"),
        ] {
            let server = Running::start(bind, assets(&[("a", loader.clone())]), mode, |_| {});
            let address = SocketAddr::new(ask.parse().expect("an address"), server.address.port());
            let asked = [(OptionKind::BlockSize, 1468), (OptionKind::WindowSize, 4)];
            let (received, _) = get(address, "a", &asked).unwrap_or_else(|e| panic!("{mode:?} {bind} {ask}: {e}"));
            assert!(received == loader);
            // An ERROR too.
            assert!(matches!(
                get(address, "b", &[]),
                Err(FetchError::Download(DownloadError::Refused {
                    code: ErrorCode::NOT_FOUND,
                    ..
                }))
            ));
            wait_until("the end", || server.events.lock().expect("no panic").len() == 3);
            let events = server.events.lock().expect("no panic");
            assert!(
                events.iter().any(|e| matches!(e, Event::Ended { local, peer, outcome: Outcome::Finished, bytes: 10_000, .. } if *local == address.ip() && peer.is_ipv4() == address.is_ipv4())),
                "{events:?}"
            );
        }
    }
}

#[test]
fn broadcasts_are_not_answered() {
    for mode in MODES {
        // IPv4 over a socket for both, too.
        for bind in ["0.0.0.0:0", "[::]:0"] {
            let server = Running::start(bind, assets(&[("a", content(10))]), mode, |_| {});
            let port = server.address.port();
            let hand = Hand::new(SocketAddr::new([127, 255, 255, 255].into(), port));
            hand.socket.set_broadcast(true).expect("allowed");
            hand.ask("a", Mode::Octet, &[]);
            hand.ask("none", Mode::Octet, &[]);
            hand.assert_silence("RFC 1123 section 4.2.3.5");
            // They were there before this one.
            let (received, _) = get(SocketAddr::new([127, 0, 0, 1].into(), port), "a", &[]).expect("fetched");
            assert_eq!(received.len(), 10);
            assert_eq!((server.snapshot().begun, server.snapshot().not_found), (1, 0), "{mode:?} {bind}");
        }
    }
}

#[test]
fn what_is_refused_and_with_which_code() {
    for mode in MODES {
        let server = Running::start("127.0.0.1:0", assets(&[("a", content(10))]), mode, |_| {});
        let hand = Hand::new(server.address);
        hand.ask("../etc/passwd", Mode::Octet, &[]);
        assert_eq!(hand.error(), (ErrorCode::NOT_FOUND, "there is no such file".to_owned()));
        hand.ask("a", Mode::Netascii, &[]);
        assert_eq!(
            hand.error(),
            (
                ErrorCode::UNDEFINED,
                "only the mode octet is served; another would change the bytes".to_owned()
            )
        );
        hand.send(
            &Packet::Write(Request {
                name: b"a",
                mode: Mode::Octet,
                options: Options::default(),
            }),
            server.address,
        );
        assert_eq!(hand.error(), (ErrorCode::ACCESS, "this server takes no files".to_owned()));
        // What is no request of a running transfer is not answered: it may be late, or forged.
        hand.send(&Packet::Ack { block: 1 }, server.address);
        hand.send(&Packet::Data { block: 1, data: b"x" }, server.address);
        hand.send(
            &Packet::Error {
                code: ErrorCode::UNDEFINED,
                message: b"",
            },
            server.address,
        );
        hand.socket.send_to(b"\0\x09junk", server.address).expect("sent");
        hand.assert_silence("stray packets");
        let snapshot = server.snapshot();
        assert_eq!(
            (snapshot.begun, snapshot.not_found, snapshot.refused, snapshot.malformed),
            (0, 1, 2, 1)
        );
        let reasons: Vec<_> = server
            .events
            .lock()
            .expect("no panic")
            .iter()
            .map(|event| match event {
                Event::Refused { name, reason, .. } => (name.clone(), *reason),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            reasons,
            [
                ("../etc/passwd".to_owned(), Refusal::NotFound),
                ("a".to_owned(), Refusal::Mode),
                ("a".to_owned(), Refusal::Write)
            ]
        );
    }
}

#[test]
fn a_client_that_only_asks_for_the_size_is_no_failure() {
    for mode in MODES {
        let server = Running::start("127.0.0.1:0", assets(&[("a", content(123_456))]), mode, patient);
        let hand = Hand::new(server.address);
        hand.ask("a", Mode::Octet, &[(OptionKind::TransferSize, 0), (OptionKind::BlockSize, 1468)]);
        let (bytes, from) = hand.next();
        assert_eq!(bytes, b"\0\x06tsize\x00123456\0blksize\x001468\0");
        hand.send(
            &Packet::Error {
                code: ErrorCode::UNDEFINED,
                message: b"User aborted the transfer",
            },
            from,
        );
        wait_until("the probe ends", || server.snapshot().probed == 1);
        // EDK2 goes on at once with another request, here even from the same port.
        hand.ask("a", Mode::Octet, &[(OptionKind::BlockSize, 1468)]);
        assert_eq!(hand.next().0, b"\0\x06blksize\x001468\0");
        assert_eq!(server.snapshot().failed, 0);
    }
}

#[test]
fn requests_that_come_again() {
    for mode in MODES {
        let server = Running::start("127.0.0.1:0", assets(&[("a", content(100)), ("b", content(200))]), mode, patient);
        let hand = Hand::new(server.address);
        hand.ask("a", Mode::Octet, &[(OptionKind::TransferSize, 0)]);
        let first = hand.next();
        hand.ask("a", Mode::Octet, &[(OptionKind::TransferSize, 0)]);
        assert_eq!(hand.next(), first, "the same transfer answers once more, from the same port");
        assert_eq!((server.snapshot().begun, server.snapshot().repeated_requests), (1, 1));
        hand.ask("b", Mode::Octet, &[(OptionKind::TransferSize, 0)]);
        let (bytes, from) = hand.next();
        assert_eq!(bytes, b"\0\x06tsize\x00200\0");
        wait_until("the first one ends", || server.snapshot().failed == 1);
        hand.send(&Packet::Ack { block: 0 }, from);
        let (bytes, from) = hand.next();
        assert_eq!(bytes.len(), 204);
        hand.send(&Packet::Ack { block: 1 }, from);
        wait_until("the second one is done", || server.snapshot().finished == 1);
        let events = server.events.lock().expect("no panic");
        assert!(
            events.iter().any(|e| matches!(
                e,
                Event::Ended {
                    outcome: Outcome::Failed(Failure::Superseded),
                    ..
                }
            )),
            "{events:?}"
        );
    }
}

#[test]
fn a_client_that_closes_its_port_ends_its_transfer() {
    let server = Running::start("127.0.0.1:0", assets(&[("a", content(100_000))]), PortMode::PerTransfer, |_| {});
    let hand = Hand::new(server.address);
    hand.ask("a", Mode::Octet, &[]);
    let (_, from) = hand.next();
    hand.send(&Packet::Ack { block: 1 }, from);
    drop(hand);
    wait_until("it fails", || server.snapshot().failed == 1);
    let events = server.events.lock().expect("no panic");
    assert!(
        matches!(
            events.last(),
            Some(Event::Ended {
                outcome: Outcome::Failed(Failure::Closed),
                ..
            })
        ),
        "{events:?}"
    );
}

/// Of one address, and of all.
const LIMITS: [fn(&mut Config); 2] = [|config| config.limits.per_source = 1, |config| config.limits.transfers = 1];

#[test]
fn above_a_limit_nobody_is_answered_and_nobody_is_told_to_give_up() {
    for mode in MODES {
        for limit in LIMITS {
            let server = Running::start("127.0.0.1:0", assets(&[("a", content(100))]), mode, |config| {
                limit(config);
                patient(config);
            });
            let (first, second) = (Hand::new(server.address), Hand::new(server.address));
            first.ask("a", Mode::Octet, &[(OptionKind::TransferSize, 0)]);
            let (_, from) = first.next();
            first.send(&Packet::Ack { block: 0 }, from);
            first.next();
            second.ask("a", Mode::Octet, &[]);
            second.assert_silence("above the limit");
            // A client that has answered keeps its place for as long as it takes.
            std::thread::sleep(Duration::from_secs(1));
            second.ask("a", Mode::Octet, &[]);
            second.assert_silence("above the limit");
            assert_eq!(server.snapshot().busy, 2);
            first.send(&Packet::Ack { block: 1 }, from);
            wait_until("room again", || server.snapshot().finished == 1);
            second.ask("a", Mode::Octet, &[]);
            second.next();
        }
    }
}

#[test]
fn who_never_answers_keeps_nobody_out() {
    for mode in MODES {
        for limit in LIMITS {
            let server = Running::start("127.0.0.1:0", assets(&[("a", content(100))]), mode, |config| {
                limit(config);
                patient(config);
            });
            let (forged, real) = (Hand::new(server.address), Hand::new(server.address));
            forged.ask("a", Mode::Octet, &[]);
            forged.next();
            let start = Instant::now();
            let (_, from) = loop {
                assert!(start.elapsed() < LIMIT, "kept out");
                real.ask("a", Mode::Octet, &[]);
                if let Ok(packet) = real.receive(SILENCE) {
                    break packet;
                }
            };
            real.send(&Packet::Ack { block: 1 }, from);
            wait_until("the end", || server.snapshot().active() == 0);
            assert_eq!((server.snapshot().finished, server.snapshot().failed), (1, 1));
            let events = server.events.lock().expect("no panic");
            let never = |e: &Event| matches!(e, Event::Ended { outcome: Outcome::Failed(Failure::NeverAnswered), peer, .. } if *peer == forged.socket.local_addr().expect("an address"));
            assert!(events.iter().any(never), "{events:?}");
        }
    }
}

#[test]
fn stopping_lets_transfers_end_and_then_says_so() {
    for mode in MODES {
        // Within the grace.
        let server = Running::start("127.0.0.1:0", assets(&[("a", content(600))]), mode, |config| {
            config.limits.grace = LIMIT;
            patient(config);
        });
        let (hand, late) = (Hand::new(server.address), Hand::new(server.address));
        hand.ask("a", Mode::Octet, &[]);
        let (_, from) = hand.next();
        server.cancel();
        // What it hears of first, the token or a request of the same moment, is not said.
        std::thread::sleep(SILENCE);
        late.ask("a", Mode::Octet, &[]);
        late.assert_silence("another replica may answer");
        assert!(!server.is_finished());
        hand.send(&Packet::Ack { block: 1 }, from);
        assert_eq!(hand.next().0.len(), 4 + 600 - 512);
        hand.send(&Packet::Ack { block: 2 }, from);
        wait_until("it stops", || server.is_finished());
        assert_eq!(server.snapshot().finished, 1);

        // After it.
        let server = Running::start("127.0.0.1:0", assets(&[("a", content(600))]), mode, |config| {
            patient(config);
        });
        let hand = Hand::new(server.address);
        hand.ask("a", Mode::Octet, &[]);
        hand.next();
        server.cancel();
        assert_eq!(hand.error(), (ErrorCode::UNDEFINED, "the server stops; ask again".to_owned()));
        wait_until("it stops", || server.is_finished());
    }
}

#[test]
fn junk_does_not_disturb_a_transfer() {
    let loader = content(2_000_000);
    for mode in MODES {
        let server = Running::start("127.0.0.1:0", assets(&[("a", loader.clone())]), mode, |_| {});
        let noise = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (going, address) = (Arc::clone(&noise), server.address);
        let thread = std::thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let mut sent = 0_u32;
            while going.load(std::sync::atomic::Ordering::Relaxed) {
                let mut bytes = vec![0; (sent % 700) as usize];
                for (i, b) in bytes.iter_mut().enumerate() {
                    *b = (sent.wrapping_mul(2_654_435_761) >> (i % 24)) as u8;
                }
                if let Some(b) = bytes.get_mut(0) {
                    *b = 0;
                }
                socket.send_to(&bytes, address).expect("sent");
                sent += 1;
                if sent.is_multiple_of(16) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            sent
        });
        let got = get(server.address, "a", &[(OptionKind::BlockSize, 1024), (OptionKind::WindowSize, 16)]);
        noise.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(thread.join().expect("no panic") > 0);
        assert!(got.expect("fetched").0 == loader, "other bytes");
    }
}
