//! Daemons that say too little, too much or nonsense: what each comes to, and that it comes to an end.

use std::time::{Duration, Instant};

use power::{
    Driver, Fault, Off,
    libvirt::{Address, Libvirt, Settings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

/// What a daemon answers to a call with a procedure and a serial number. None: it hangs up.
type Says = fn(u32, u32) -> Option<Vec<u8>>;

fn packet(procedure: u32, serial: u32, status: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + content.len()).expect("short");
    let head = [length, 0x2000_8086, 1, procedure, 1, serial, status];
    let mut out: Vec<u8> = head.into_iter().flat_map(u32::to_be_bytes).collect();
    out.extend_from_slice(content);
    out
}

/// What a good daemon answers: no authentication, a machine, a state.
fn good(procedure: u32, serial: u32) -> Option<Vec<u8>> {
    let content: Vec<u8> = match procedure {
        66 => vec![0, 0, 0, 0],
        23 => [&[0, 0, 0, 3][..], b"one\0", &[7; 16], &[0, 0, 0, 1]].concat(),
        212 => vec![0, 0, 0, 1, 0, 0, 0, 1],
        _ => Vec::new(),
    };
    Some(packet(procedure, serial, 0, &content))
}

async fn serve(mut stream: UnixStream, says: Says) {
    let mut head = [0; 28];
    while stream.read_exact(&mut head).await.is_ok() {
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let mut argument = vec![0; number(0) as usize - 28];
        stream.read_exact(&mut argument).await.expect("the argument");
        match says(number(12), number(20)) {
            Some(answer) => stream.write_all(&answer).await.unwrap_or_default(),
            None => return,
        }
    }
}

async fn with(says: Says, check: impl AsyncFnOnce(Libvirt)) {
    let folder = tempfile::Builder::new().prefix("kbm-lv-").tempdir_in("/tmp").expect("a folder");
    let path = folder.path().join("sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, says));
        }
    });
    let driver = Libvirt::new(Settings {
        address: Address::Unix(path),
        uri: "qemu:///system".to_owned(),
        domain: "one".to_owned(),
    });
    check(driver.expect("good settings")).await;
    server.abort();
}

#[tokio::test]
async fn nonsense_and_silence_come_to_an_end() {
    with(good, async |driver| assert_eq!(driver.off(Off::Hard).await, Ok(()))).await;
    let garbled: [Says; 4] = [
        // A packet that is too long, one that is too short, one that is cut off inside, and packets for nobody without end.
        |_, _| Some(u32::MAX.to_be_bytes().to_vec()),
        |_, _| Some(27_u32.to_be_bytes().to_vec()),
        |procedure, serial| Some(packet(procedure, serial, 0, &[0xff])),
        |procedure, serial| Some(packet(procedure, serial.wrapping_add(9), 0, &[0; 4]).repeat(100)),
    ];
    for says in garbled {
        with(says, async |driver| {
            let fault = driver.state().await.expect_err("nonsense");
            assert!(matches!(fault, Fault::Garbled(_)), "{fault}");
        })
        .await;
    }
    // Somebody who hangs up at once, and at the command: the one did nothing, of the other nobody knows.
    with(
        |_, _| None,
        async |driver| {
            let fault = driver.off(Off::Hard).await.expect_err("nobody");
            assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");
        },
    )
    .await;
    with(
        |procedure, serial| if procedure == 12 { None } else { good(procedure, serial) },
        async |driver| {
            let fault = driver.off(Off::Hard).await.expect_err("nobody knows");
            assert!(matches!(fault, Fault::Unanswered(_)), "{fault}");
        },
    )
    .await;
    // Somebody who listens and says nothing.
    with(
        |_, _| Some(Vec::new()),
        async |driver| {
            let began = Instant::now();
            let fault = driver.off(Off::Hard).await.expect_err("silence");
            assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");
            assert!(began.elapsed() < Duration::from_secs(10));
        },
    )
    .await;
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let refuses: [(Says, &str); 4] = [
        (|procedure, serial| answer_or(procedure, serial, 88), "Privilege"),
        (|procedure, serial| answer_or(procedure, serial, 84), "NotOffered"),
        (|procedure, serial| answer_or(procedure, serial, 68), "Busy"),
        (|procedure, serial| answer_or(procedure, serial, 1), "Refused"),
    ];
    for (says, wanted) in refuses {
        with(says, async |driver| {
            let fault = driver.cycle().await.expect_err("refused");
            assert!(
                format!("{fault:?}").starts_with(wanted) && fault.to_string().contains("because"),
                "{fault:?}"
            );
        })
        .await;
    }
    // One that wants a password by SASL, and one that wants polkit, which refuses.
    with(
        |procedure, serial| match procedure {
            66 => Some(packet(66, serial, 0, &[0, 0, 0, 1, 0, 0, 0, 1])),
            _ => good(procedure, serial),
        },
        async |driver| {
            let fault = driver.state().await.expect_err("no SASL");
            assert!(matches!(fault, Fault::NotOffered { .. }), "{fault}");
        },
    )
    .await;
    with(
        |procedure, serial| match procedure {
            66 => Some(packet(66, serial, 0, &[0, 0, 0, 1, 0, 0, 0, 2])),
            70 => Some(packet(70, serial, 1, &complaint(80))),
            _ => good(procedure, serial),
        },
        async |driver| {
            let fault = driver.state().await.expect_err("polkit");
            assert!(matches!(fault, Fault::Credentials(_)), "{fault}");
        },
    )
    .await;
}

fn complaint(code: u32) -> Vec<u8> {
    let mut out: Vec<u8> = [code, 10, 1, 7].into_iter().flat_map(u32::to_be_bytes).collect();
    out.extend_from_slice(b"because\0");
    out
}

fn answer_or(procedure: u32, serial: u32, code: u32) -> Option<Vec<u8>> {
    if procedure == 245 {
        return Some(packet(procedure, serial, 1, &complaint(code)));
    }
    good(procedure, serial)
}
