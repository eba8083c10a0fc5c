//! One transfer over a simulated network that loses, doubles, delays and reorders packets: seeded, without clock and sockets.
//!
//! What must hold: the client ends with exactly the bytes or with an error, both sides end within bounded time, and what the server sends is bounded by
//! what it was asked for, never by how many copies a network makes.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tftp::{
    Time,
    client::Download,
    transfer::{Failure, Outcome, Outgoing, Settings, Transfer},
    wire::{OptionKind, Options, Packet},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Server,
}

#[derive(Debug, Clone)]
struct Faults {
    /// Of a thousand packets.
    lost: u32,
    doubled: u32,
    /// Delay beyond the first millisecond, in microseconds, at random for each packet.
    jitter: u64,
    /// From here on nothing of the client's arrives.
    silent_from: Option<Time>,
}

#[derive(Debug)]
struct Run {
    client: Download,
    received: Vec<u8>,
    transfer: Option<Transfer>,
    data_sent: u64,
    acks_delivered: u64,
    requests_delivered: u64,
    now: Time,
}

/// A packet: when it arrives, a number that keeps the order of what arrives at once, where, and its bytes.
type Underway = (Time, u64, Side, Vec<u8>);

struct Network {
    faults: Faults,
    rng: StdRng,
    queue: BinaryHeap<Reverse<Underway>>,
    serial: u64,
}

impl Network {
    fn send(&mut self, to: Side, bytes: &[u8], now: Time) {
        if self.rng.random_range(0..1000) < self.faults.lost {
            return;
        }
        if to == Side::Server && self.faults.silent_from.is_some_and(|from| now >= from) {
            return;
        }
        let copies = if self.rng.random_range(0..1000) < self.faults.doubled {
            2
        } else {
            1
        };
        for _ in 0..copies {
            self.serial += 1;
            let delay = Duration::from_millis(1) + Duration::from_micros(self.rng.random_range(0..=self.faults.jitter));
            self.queue.push(Reverse((now + delay, self.serial, to, bytes.to_vec())));
        }
    }
}

/// Longer than any chain of timers on both sides.
const LIMIT: Time = Time::from_secs(24 * 3600);

fn run(content: &[u8], asked: &Options, faults: Faults, seed: u64) -> Run {
    let mut network = Network {
        faults,
        rng: StdRng::seed_from_u64(seed),
        queue: BinaryHeap::new(),
        serial: 0,
    };
    let mut out = Vec::new();
    let client = Download::start("file", *asked, Time::ZERO, &mut out);
    network.send(Side::Server, &out, Time::ZERO);
    let mut run = Run {
        client,
        received: Vec::new(),
        transfer: None,
        data_sent: 0,
        acks_delivered: 0,
        requests_delivered: 0,
        now: Time::ZERO,
    };
    loop {
        // Whatever is ready goes out at once.
        if let Some(transfer) = &mut run.transfer {
            while let Some(packet) = transfer.packet(0) {
                match packet {
                    Outgoing::OptionAck(options) => Packet::OptionAck(*options).encode(&mut out),
                    Outgoing::Data { block, data } => {
                        run.data_sent += 1;
                        Packet::Data { block, data }.encode(&mut out);
                    }
                    Outgoing::Error { code, message } => Packet::Error {
                        code,
                        message: message.as_bytes(),
                    }
                    .encode(&mut out),
                }
                network.send(Side::Client, &out, run.now);
                transfer.sent(1, run.now);
            }
        }
        let server_deadline = run.transfer.as_ref().and_then(Transfer::deadline);
        let arrival = network.queue.peek().map(|Reverse((at, ..))| *at);
        let Some(next) = [server_deadline, run.client.deadline(), arrival].into_iter().flatten().min() else {
            return run;
        };
        run.now = run.now.max(next);
        assert!(run.now < LIMIT, "it never ends");
        if arrival == Some(next) {
            let Some(Reverse((_, _, to, bytes))) = network.queue.pop() else {
                continue;
            };
            let packet = Packet::parse(&bytes).expect("own packets parse");
            match to {
                Side::Client => {
                    if let Some(data) = run.client.handle(&packet, run.now, &mut out) {
                        run.received.extend_from_slice(data);
                    }
                    if !out.is_empty() {
                        network.send(Side::Server, &out, run.now);
                    }
                }
                Side::Server => match packet {
                    Packet::Read(request) => {
                        run.requests_delivered += 1;
                        match &mut run.transfer {
                            None => {
                                run.transfer = Some(Transfer::new(
                                    content.to_vec().into(),
                                    &request.options,
                                    Settings::default(),
                                    run.now,
                                ));
                            }
                            Some(transfer) => transfer.asked_again(run.now),
                        }
                    }
                    Packet::Ack { block } => {
                        run.acks_delivered += 1;
                        if let Some(transfer) = &mut run.transfer {
                            transfer.acknowledged(block, run.now);
                        }
                    }
                    Packet::Error { code, message } => {
                        if let Some(transfer) = &mut run.transfer {
                            transfer.refused(code, message);
                        }
                    }
                    other => panic!("the client sent {other:?}"),
                },
            }
        }
        if let Some(transfer) = &mut run.transfer {
            transfer.timer(run.now);
        }
        if run.client.deadline().is_some_and(|deadline| run.now >= deadline) {
            run.client.timer(run.now, &mut out);
            if !out.is_empty() {
                network.send(Side::Server, &out, run.now);
            }
        }
    }
}

fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut content);
    content
}

fn options(block_size: Option<u16>, window: Option<u16>) -> Options {
    let mut options = Options::default();
    if let Some(bytes) = block_size {
        options.push(OptionKind::BlockSize, u64::from(bytes));
    }
    options.push(OptionKind::TransferSize, 0);
    if let Some(blocks) = window {
        options.push(OptionKind::WindowSize, u64::from(blocks));
    }
    options
}

fn blocks(content: &[u8], block_size: u16) -> u64 {
    content.len() as u64 / u64::from(block_size) + 1
}

const PERFECT: Faults = Faults {
    lost: 0,
    doubled: 0,
    jitter: 0,
    silent_from: None,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_client_ends_with_the_bytes_or_an_error(
        size in 0_usize..60_000, block_size in 8_u16..1500, window in prop::option::of(1_u16..80), plain in any::<bool>(),
        lost in 0_u32..300, doubled in 0_u32..300, jitter in 0_u64..5_000, silent in prop::option::weighted(0.2, 0_u64..500), seed in any::<u64>(),
    ) {
        let content = content(size, seed);
        let asked = if plain { Options::default() } else { options(Some(block_size), window) };
        let silent_from = silent.map(Duration::from_millis);
        let run = run(&content, &asked, Faults { lost, doubled, jitter, silent_from }, seed);
        match run.client.result() {
            Some(Ok(())) => prop_assert!(run.received == content, "other bytes"),
            Some(Err(_)) => prop_assert!(content.starts_with(&run.received), "other bytes"),
            None => prop_assert!(false, "the client has not ended"),
        }
        if let Some(transfer) = &run.transfer {
            let outcome = transfer.outcome().expect("it has ended");
            if *outcome == Outcome::Finished {
                // Whoever acknowledged the last block has all.
                prop_assert_eq!(run.client.result(), Some(&Ok(())));
                prop_assert_eq!(transfer.delivered(), content.len() as u64);
            }
            // Each packet of the client and each timer releases one window at most.
            let window = u64::from(transfer.terms().window);
            let causes = run.acks_delivered + run.requests_delivered + u64::from(transfer.timeouts());
            prop_assert!(run.data_sent <= window * causes, "{} blocks sent for {causes} causes", run.data_sent);
        } else {
            prop_assert_eq!(run.requests_delivered, 0);
        }
    }

    #[test]
    fn without_faults_every_block_is_sent_once(size in 0_usize..200_000, block_size in 8_u16..2000, window in prop::option::of(1_u16..70)) {
        let content = content(size, 1);
        let run = run(&content, &options(Some(block_size), window), PERFECT, 1);
        let transfer = run.transfer.expect("a transfer");
        prop_assert!(run.received == content);
        prop_assert_eq!(run.client.size(), Some(size as u64));
        prop_assert_eq!((transfer.outcome(), transfer.resent(), transfer.timeouts()), (Some(&Outcome::Finished), 0, 0));
        prop_assert_eq!(run.data_sent, blocks(&content, block_size));
    }

    #[test]
    fn copies_do_not_multiply(size in 0_usize..100_000, window in 1_u16..70, doubled in 1_u32..=1000, seed in any::<u64>()) {
        let content = content(size, 1);
        let run = run(&content, &options(Some(512), Some(window)), Faults { doubled, ..PERFECT }, seed);
        let transfer = run.transfer.expect("a transfer");
        prop_assert!(run.received == content);
        prop_assert_eq!(transfer.outcome(), Some(&Outcome::Finished));
        let blocks = blocks(&content, 512);
        if window == 1 {
            // RFC 1123 section 4.2.3.1.
            prop_assert_eq!(run.data_sent, blocks);
        } else {
            // 2.2 times was the most in 60,000 runs. A server that goes back at each acknowledgement that leaves a gap sends up to 57 times as much.
            prop_assert!(run.data_sent <= 3 * blocks + 2 * u64::from(window), "{} sent of {blocks}", run.data_sent);
        }
    }

    #[test]
    fn a_twentieth_of_all_packets_lost_does_not_fail_it(size in 0_usize..100_000, window in 1_u16..70, seed in any::<u64>()) {
        let content = content(size, seed);
        let run = run(&content, &options(Some(1468), Some(window)), Faults { lost: 50, ..PERFECT }, seed);
        prop_assert_eq!(run.client.result(), Some(&Ok(())));
        prop_assert!(run.received == content);
    }
}

#[test]
fn losses_cost_few_packets_and_little_time() {
    // Of a thousand packets; blocks sent for each block; seconds for a megabyte. Before a window's first block that is lost there is nothing to wait for but
    // the timer, hence quarters of a second.
    for (lost, most_sent, most_seconds) in [(1, 1.1, 0.06), (5, 1.3, 0.15), (20, 2.0, 0.3)] {
        let content = content(1_000_000, 1);
        let (mut sent, mut seconds) = (0, 0.0);
        const RUNS: u64 = 40;
        for seed in 0..RUNS {
            let run = run(&content, &options(Some(1468), Some(64)), Faults { lost, ..PERFECT }, seed);
            assert_eq!(run.client.result(), Some(&Ok(())));
            sent += run.data_sent;
            seconds += run.now.as_secs_f64();
        }
        let sent = sent as f64 / (RUNS * blocks(&content, 1468)) as f64;
        let seconds = seconds / RUNS as f64;
        println!("{lost} of 1000 packets lost: {sent:.2} sent for each, {seconds:.3} s");
        assert!(sent < most_sent && seconds < most_seconds, "{lost} lost: {sent}, {seconds} s");
    }
}

#[test]
fn a_forged_address_gets_a_handful_of_packets() {
    for asked in [Options::default(), options(Some(65_464), Some(64))] {
        let content = content(1 << 20, 1);
        let mut transfer = Transfer::new(content.into(), &asked, Settings::default(), Time::ZERO);
        let mut bytes = 0;
        let mut packets = 0;
        let mut now = Time::ZERO;
        let mut out = Vec::new();
        while let Some(deadline) = transfer.deadline() {
            while let Some(packet) = transfer.packet(0) {
                match packet {
                    Outgoing::OptionAck(options) => Packet::OptionAck(*options).encode(&mut out),
                    Outgoing::Data { block, data } => Packet::Data { block, data }.encode(&mut out),
                    Outgoing::Error { .. } => panic!("nobody is there to be told"),
                }
                bytes += out.len();
                packets += 1;
                transfer.sent(1, now);
            }
            now = transfer.deadline().unwrap_or(deadline);
            transfer.timer(now);
        }
        assert_eq!(transfer.outcome(), Some(&Outcome::Failed(Failure::NeverAnswered)));
        assert!(packets <= 5 && bytes <= 5 * 516, "{packets} packets, {bytes} bytes");
        assert!(now < Time::from_secs(30), "{now:?}");
    }
}

#[test]
fn files_of_more_than_65535_blocks_survive_losses() {
    let content = content(8 * 200_000 + 3, 1);
    let faults = Faults {
        lost: 10,
        doubled: 10,
        jitter: 100,
        silent_from: None,
    };
    let run = run(&content, &options(Some(8), Some(64)), faults, 7);
    assert_eq!(run.client.result(), Some(&Ok(())));
    assert!(run.received == content);
}
