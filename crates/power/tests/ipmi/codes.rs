//! Every authentication code, key and sealed datagram byte for byte as ipmitool computes them: with suite 3 in a conversation with `ipmi_sim`, with suite 17 in one with
//! the BMC of `bmc`, since no BMC with suite 17 can be had here. So that one is checked, too: ipmitool ends a session whose codes are not right.

use std::{
    net::UdpSocket,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use power::{
    Driver, PowerState,
    ipmi::{
        Ipmi, Settings,
        handshake::Privilege,
        suite::{CipherSuite, Exchange, Keys},
        wire::PayloadType,
    },
};

use crate::{
    bmc::Bmc,
    peer::{Sim, program},
};

/// What ipmitool says of its work: pairs of a title and the bytes below it.
struct Record(Vec<(String, Vec<u8>)>);

impl Record {
    fn of(output: &Output) -> Self {
        let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
        let mut blocks: Vec<(String, Vec<u8>)> = Vec::new();
        for line in text.lines() {
            let bytes: Option<Vec<u8>> = line
                .starts_with(' ')
                .then(|| {
                    line.split_whitespace()
                        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2))
                        .collect()
                })
                .flatten();
            match (bytes, blocks.last_mut()) {
                (Some(bytes), Some((_, block))) => block.extend(bytes),
                _ => blocks.push((line.trim_start_matches(['>', '<', ' ']).to_owned(), Vec::new())),
            }
        }
        Self(blocks)
    }

    fn all<'a>(&'a self, title: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(name, bytes)| name.starts_with(title) && !bytes.is_empty())
            .map(|(_, bytes)| bytes.as_slice())
    }

    fn one<'a>(&'a self, title: &'a str) -> &'a [u8] {
        self.all(title)
            .next()
            .unwrap_or_else(|| panic!("ipmitool says nothing of {title:?}"))
    }
}

fn ipmitool(port: u16, suite: CipherSuite, command: &[&str]) -> Output {
    program("/usr/bin/ipmitool")
        .args([
            "-vvvvv",
            "-I",
            "lanplus",
            "-H",
            "127.0.0.1",
            "-U",
            "admin",
            "-P",
            "s3cret-Pass",
            "-C",
            &suite.id().to_string(),
            "-p",
            &port.to_string(),
        ])
        .args(command)
        .output()
        .expect("ipmitool runs")
}

/// Recomputes all that is in the record.
fn compare(record: &Record, suite: CipherSuite) {
    let input = record.one("rakp2 mac input buffer");
    let number = |at: usize| u32::from_le_bytes(input[at..at + 4].try_into().expect("four bytes"));
    let sixteen = |at: usize| -> [u8; 16] { input[at..at + 16].try_into().expect("sixteen bytes") };
    let exchange = Exchange {
        suite,
        console_session: number(0),
        bmc_session: number(4),
        console_random: sixteen(8),
        bmc_random: sixteen(24),
        guid: sixteen(40),
        role: input[56],
        user: input[58..].to_vec(),
    };
    assert_eq!(exchange.user, b"admin");
    let password = b"s3cret-Pass";
    assert_eq!(
        exchange.code_2(password),
        record.one("rakp2 mac as computed by the remote console"),
        "RAKP 2"
    );
    assert_eq!(exchange.code_3(password), record.one("generated rakp3 mac"), "RAKP 3");
    let key = exchange.session_key(password);
    assert_eq!(key, record.one("Generated session integrity key"), "the session integrity key");
    let code_4 = record.one("rakp4 mac as computed by the remote console");
    assert_eq!(exchange.code_4(&key), &code_4[..suite.integrity_length()], "RAKP 4");

    // K1 and K2 are what seals: each datagram of the session, from its plain text and vector.
    let keys = Keys::new(suite, &key);
    let vectors: Vec<_> = record.all("Initialization vector").collect();
    let texts: Vec<_> = record.all("encrypting this data").collect();
    let sent: Vec<_> = record.all("sending packet").filter(|packet| packet.get(5) == Some(&0xc0)).collect();
    assert!(
        vectors.len() >= 3 && vectors.len() == texts.len() && texts.len() == sent.len(),
        "{} {} {}",
        vectors.len(),
        texts.len(),
        sent.len()
    );
    for ((vector, text), sent) in vectors.iter().zip(&texts).zip(&sent) {
        let padding = usize::from(*text.last().expect("padded"));
        let message = &text[..text.len() - 1 - padding];
        let sequence = u32::from_le_bytes(sent[10..14].try_into().expect("four bytes"));
        let ours = keys.seal(
            PayloadType::Message,
            exchange.bmc_session,
            sequence,
            message,
            (*vector).try_into().expect("sixteen bytes"),
        );
        assert_eq!(hex::encode(ours), hex::encode(sent), "datagram {sequence}");
    }
    println!(
        "suite {}: four codes, the key and {} datagrams are ipmitool's",
        suite.id(),
        sent.len()
    );
}

#[test]
fn suite_3_is_ipmitools_in_a_conversation_with_ipmi_sim() {
    let sim = Sim::start();
    let output = ipmitool(sim.port, CipherSuite::Three, &["chassis", "power", "on"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sim.told(), ["power 1"]);
    compare(&Record::of(&output), CipherSuite::Three);
}

/// The BMC of `bmc` on a socket.
struct Served {
    port: u16,
    bmc: Arc<Mutex<Bmc>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(suites: &[CipherSuite]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let port = socket.local_addr().expect("an address").port();
        let (bmc, stop) = (Arc::new(Mutex::new(Bmc::new(suites))), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (bmc, stop) = (Arc::clone(&bmc), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    if let Some(answer) = bmc.lock().expect("not poisoned").answer(&buffer[..length]) {
                        let _sent = socket.send_to(&answer, from);
                    }
                }
            })
        };
        Self {
            port,
            bmc,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

#[tokio::test]
async fn suite_17_is_ipmitools_and_our_client_speaks_it() {
    let served = Served::start(&[CipherSuite::Seventeen]);
    let port = served.port;
    let output = tokio::task::spawn_blocking(move || ipmitool(port, CipherSuite::Seventeen, &["chassis", "power", "on"]))
        .await
        .expect("no panic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(served.bmc.lock().expect("not poisoned").controls, [1]);
    compare(&Record::of(&output), CipherSuite::Seventeen);

    let driver = Ipmi::new(Settings {
        host: "127.0.0.1".to_owned(),
        port,
        user: "admin".to_owned(),
        password: "s3cret-Pass".to_owned().into(),
        own_key: None,
        privilege: Privilege::Operator,
        suite: Some(CipherSuite::Seventeen),
    })
    .expect("good settings");
    assert_eq!(driver.state().await, Ok(PowerState::On));
    driver.cycle().await.expect("cycled");
    assert_eq!(served.bmc.lock().expect("not poisoned").controls, [1, 2]);
}
