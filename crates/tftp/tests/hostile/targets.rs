//! What hostile bytes are given to: the tests of this folder do so with seeded ones, `fuzz/` guided by coverage.

use std::{sync::LazyLock, time::Duration};

use tftp::{
    Assets, Time,
    client::Download,
    transfer::{Outgoing, Settings, Transfer},
    wire::{ErrorCode, MAX_REQUEST, OptionKind, Options, Packet},
};

/// A datagram: parsed or refused; what is parsed says the same when it is written and read again.
pub fn wire(input: &[u8]) {
    let Ok(packet) = Packet::parse(input) else { return };
    let mut out = Vec::new();
    packet.encode(&mut out);
    // What was left out of a request (zeros, the rest of a mode's name) may make it longer than a request can be.
    if out.len() <= MAX_REQUEST || matches!(packet, Packet::Data { .. } | Packet::Ack { .. } | Packet::Error { .. }) {
        assert_eq!(Packet::parse(&out), Ok(packet));
    }
}

/// A name: found or not, and nothing that was not added is found.
pub fn name(input: &[u8]) {
    static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
        let mut assets = Assets::new();
        assets.add("boot/ipxe.efi", bytes::Bytes::new()).expect("a good name");
        let grub = assets.add("grub", bytes::Bytes::new()).expect("a good name");
        assets.alias_suffix("grubx64.efi", grub).expect("a good suffix");
        assets
    });
    if let Some(found) = ASSETS.find(input) {
        assert!(found.index() < ASSETS.len());
        let text = String::from_utf8_lossy(input);
        assert!(
            ["ipxe.efi", "grub"].iter().any(|part| text.contains(part)),
            "{text:?} found something"
        );
        assert!(!text.split(['/', '\\']).any(|segment| segment == ".."));
    }
}

fn options(input: &mut &[u8]) -> Options {
    let mut options = Options::default();
    let count = take(input) % 5;
    for _ in 0..count {
        let kind = match take(input) % 4 {
            0 => OptionKind::BlockSize,
            1 => OptionKind::Timeout,
            2 => OptionKind::TransferSize,
            _ => OptionKind::WindowSize,
        };
        options.push(kind, u64::from(take(input)) << (take(input) % 64));
    }
    options
}

fn take(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

/// A server's transfer with a client that does anything at any time: its packets are always good ones, and it ends once the client is silent.
pub fn transfer(mut input: &[u8]) {
    let input = &mut input;
    let asked = options(input);
    let length = usize::from(take(input)) * usize::from(take(input));
    let content: Vec<u8> = (0..length).map(|i| i as u8).collect();
    let mut now = Time::ZERO;
    let mut transfer = Transfer::new(content.clone().into(), &asked, Settings::default(), now);
    let terms = *transfer.terms();
    while !input.is_empty() {
        match take(input) % 8 {
            0 | 1 => transfer.acknowledged(u16::from(take(input)), now),
            2 => transfer.acknowledged(u16::from_be_bytes([take(input), take(input)]), now),
            3 => transfer.asked_again(now),
            4 => transfer.timer(now),
            5 => now += Duration::from_millis(u64::from(take(input)) * 20),
            6 if take(input) == 0 => transfer.refused(ErrorCode(u16::from(take(input))), b"text"),
            _ => {
                let ready = transfer.ready();
                assert!(ready <= usize::from(terms.window));
                for index in 0..ready {
                    match transfer.packet(index) {
                        Some(Outgoing::Data { block, data }) => {
                            assert!(data.len() <= usize::from(terms.block_size));
                            // Less than 65,536 blocks here, so the number says which they are.
                            let start = (usize::from(block) - 1) * usize::from(terms.block_size);
                            assert_eq!(data, &content[start..(start + usize::from(terms.block_size)).min(length)]);
                        }
                        Some(Outgoing::OptionAck(answer)) => assert!(answer.iter().all(|(kind, _)| asked.get(kind).is_some())),
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(transfer.packet(ready), None);
                transfer.sent(usize::from(take(input)).min(ready), now);
            }
        }
        assert!(transfer.delivered() <= length as u64);
    }
    let mut timers = 0;
    while let Some(deadline) = transfer.deadline() {
        now = now.max(deadline);
        transfer.timer(now);
        transfer.sent(transfer.ready(), now);
        timers += 1;
        assert!(timers <= 10, "it does not end");
    }
}

/// A client with a server that sends anything: what it keeps is never more than what came.
pub fn download(mut input: &[u8]) {
    let input = &mut input;
    let mut out = Vec::new();
    let mut now = Time::ZERO;
    let mut download = Download::start("a", options(input), now, &mut out);
    let mut kept = 0;
    let mut came = 0;
    while !input.is_empty() {
        let length = usize::from(take(input)).min(input.len());
        let (datagram, rest) = input.split_at(length);
        *input = rest;
        now += Duration::from_millis(u64::from(take(input)));
        came += datagram.len();
        if let Ok(packet) = Packet::parse(datagram) {
            kept += download.handle(&packet, now, &mut out).map_or(0, <[u8]>::len);
            assert!(out.is_empty() || Packet::parse(&out).is_ok());
        }
        download.timer(now, &mut out);
    }
    assert!(kept <= came);
    assert_eq!(kept as u64, download.received());
}
