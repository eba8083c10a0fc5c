//! Adversaries that send too much, too deep, too slowly, or nonsense.

mod common;

use std::time::{Duration, Instant};

use agent_protocol::{
    identity::{MacAddress, SystemUuid},
    limits::MAX_BODY_BYTES,
    session::{self, ErrorCode},
};
use common::{
    HONEST, Rig, STRANGER,
    machine::{Machine, connect_plain, connect_tls, get, inventory, read, send, tls_stream},
    within,
};
use http::{Request, StatusCode};
use http_body_util::Full;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Resident memory of this process (server and adversary alike), in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_those_who_show_nothing() {
    let rig = Rig::start().await;
    let pin = rig.pin();
    let addresses = rig.netboot.addresses();
    for route in netboot::routes() {
        let path = route
            .path
            .replace("{architecture}", "amd64")
            .replace("{name}", "no-such-file")
            .replace("{hardware}/{file}", "no-such-machine/1-00000000.iso")
            .replace("{digest}/{part}", "00/chunks");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"] {
            let mut connection = if route.tls {
                connect_tls(STRANGER, addresses.tls, &pin).await.unwrap()
            } else {
                connect_plain(STRANGER, addresses.http).await.unwrap()
            };
            let request = Request::builder()
                .method(method)
                .uri(&path)
                .header("host", "x")
                .body(Full::from("{}"))
                .unwrap();
            let (status, body) = send(&mut connection, request).await;
            if route.public && ["GET", "HEAD"].contains(&method) {
                assert!([200, 404].contains(&status.as_u16()), "{method} {path}: {status}");
            } else {
                assert!([401, 403, 404, 405].contains(&status.as_u16()), "{method} {path}: {status}");
            }
            let text = String::from_utf8_lossy(&body);
            assert!(!text.contains("kbm1."), "{method} {path} gives a token away: {text}");
        }
    }
    // What is not a route is not there, on either side.
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/debug",
        "/boot",
        "/boot/media/",
        "/images/",
        "/agent/v1/",
        "//agent/v1/seed",
        "/agent/v1/seed/",
    ] {
        let mut plain = connect_plain(STRANGER, addresses.http).await.unwrap();
        assert_eq!(send(&mut plain, get(path)).await.0, StatusCode::NOT_FOUND, "{path}");
        let mut tls = connect_tls(STRANGER, addresses.tls, &pin).await.unwrap();
        assert_eq!(send(&mut tls, get(path)).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    // The agent's routes are not on the plain side.
    for route in netboot::routes().iter().filter(|r| r.tls) {
        let mut plain = connect_plain(STRANGER, addresses.http).await.unwrap();
        assert_eq!(
            send(&mut plain, get(&route.path.replace(['{', '}'], ""))).await.0,
            StatusCode::NOT_FOUND,
            "{}",
            route.path
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_caught_and_the_process_serves_on() {
    let rig = Rig::start().await;
    let mut connection = connect_tls(STRANGER, rig.netboot.addresses().tls, &rig.pin()).await.unwrap();
    let (status, body) = send(&mut connection, get("/test/panic")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!String::from_utf8_lossy(&body).contains("planted"), "the message stays in the log");
    assert_eq!(rig.netboot.metrics().panics.get(), 1);
    assert!(rig.netboot.metrics().encode().contains("kube_baremetal_netboot_panics_total 1"));
    rig.machine(HONEST).power_on().await.expect("it serves on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_is_cut_off() {
    let rig = Rig::start().await;
    let pin = rig.pin();
    let before = resident();
    let started = Instant::now();
    // Announced: refused before anything is read. Not announced: cut off at the bound.
    for head in [
        format!("content-length: {}\r\n\r\n", 1u64 << 30),
        "transfer-encoding: chunked\r\n\r\n".to_owned(),
    ] {
        let mut stream = tls_stream(STRANGER, rig.netboot.addresses().tls, &pin).await.unwrap();
        let path = session::PATH_SESSIONS;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nkbm-sequence: 1\r\nkbm-signature: AAAA\r\n{head}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![b' '; 1 << 16];
        let mut sent = 0u64;
        while sent < 1 << 30 {
            let framed = async {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
                stream.write_all(&chunk).await?;
                stream.write_all(b"\r\n").await
            };
            if within(30, framed).await.is_err() {
                break;
            }
            sent += chunk.len() as u64;
        }
        assert!(sent < 64 * MIB, "cut off after {sent} bytes");
    }
    let grown = resident().saturating_sub(before);
    println!(
        "1 GiB bodies: cut off in {:?}, memory grew by {} KiB",
        started.elapsed(),
        grown / 1024
    );
    assert!(grown < 32 * MIB, "memory grew by {grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_too_large_too_deep_or_nonsense_are_named() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    machine.connect(&rig.pin()).await;
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let nested = format!(r#"{{"protocol":1,"inventory":{deep}}}"#);
    let large = format!(r#"{{"protocol":1,"agentVersion":"{}"}}"#, "x".repeat(MAX_BODY_BYTES));
    for (what, body, code) in [
        ("deep", deep.into_bytes(), ErrorCode::Malformed),
        ("nested", nested.into_bytes(), ErrorCode::Malformed),
        ("large", large.into_bytes(), ErrorCode::TooLarge),
        ("not UTF-8", vec![0xff; 100], ErrorCode::Malformed),
        ("empty", Vec::new(), ErrorCode::Malformed),
    ] {
        machine.connect(&rig.pin()).await;
        let answer = machine
            .call::<serde_json::Value>(http::Method::POST, session::PATH_SESSIONS, body)
            .await;
        assert_eq!(answer.unwrap_err().1, code, "{what}");
    }
    // Fields beyond their bounds, by name; control characters in every string.
    let booted = machine.boot().await.unwrap();
    let good = serde_json::to_value(machine.request(&booted.token)).unwrap();
    for (pointer, value) in [
        ("/agentVersion", serde_json::json!("a\nb")),
        ("/inventory/system/vendor", serde_json::json!("x".repeat(300))),
        ("/inventory/cpu/architecture", serde_json::json!("amd64\u{0}")),
        ("/inventory/disks/0/identity/serial", serde_json::json!("a\r\nb")),
        ("/inventory/disks/0/contents/fingerprint", serde_json::json!("zz")),
        ("/inventory/nics/0/mac", serde_json::json!("${net0/mac}")),
        ("/bootMac", serde_json::json!("52:54:00:12:34:56\n")),
        ("/protocol", serde_json::json!(-1)),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let answer = machine
            .call::<serde_json::Value>(http::Method::POST, session::PATH_SESSIONS, serde_json::to_vec(&bad).unwrap())
            .await;
        assert_eq!(answer.unwrap_err().1, ErrorCode::Malformed, "{pointer}");
    }
    let mut future = good.clone();
    future["protocol"] = serde_json::json!(99);
    let answer = machine
        .call::<serde_json::Value>(http::Method::POST, session::PATH_SESSIONS, serde_json::to_vec(&future).unwrap())
        .await;
    assert_eq!(answer.unwrap_err(), (StatusCode::UPGRADE_REQUIRED, ErrorCode::UnsupportedProtocol));
    assert!(rig.api.all("baremetaldiscoveries").is_empty());
    machine.open(&booted).await.expect("the good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_are_dropped_and_do_not_take_every_place() {
    let rig = Rig::with(|c| {
        c.quotas.header_timeout = Duration::from_secs(2);
        c.quotas.connections_per_source = 20;
    })
    .await;
    let to = rig.netboot.addresses().http;
    let mut held = Vec::new();
    for _ in 0..40 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((STRANGER, 0).into()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        stream.write_all(b"GET /boot/ipxe HTTP/1.1\r\nx: ").await.ok();
        held.push(stream);
    }
    // Another source is served while they hang.
    let started = Instant::now();
    assert!(rig.machine(HONEST).script().await.starts_with("#!ipxe"));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // They drip, and are dropped all the same.
    let dripping = Instant::now();
    for mut stream in held {
        let ended = within(20, async {
            loop {
                let mut byte = [0; 64];
                if stream.write_all(b"y").await.is_err() {
                    break;
                }
                if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte)).await {
                    break;
                }
            }
        });
        ended.await;
    }
    println!("40 slow clients were gone after {:?}", dripping.elapsed());
    assert!(rig.netboot.metrics().connections_refused.get() >= 20);
}

/// Frames of a script that are ours; anything else in it came from outside.
fn judge_script(text: &str) -> Result<(), TestCaseError> {
    prop_assert!(text.starts_with("#!ipxe\n"), "{text}");
    prop_assert!(!text.contains("${"), "{text}");
    prop_assert!(!text.contains(['"', '\'', '\\', '\r', '\0', '`', '$', ';']), "{text}");
    for line in text.lines().skip(1) {
        let first = line.split(' ').next().unwrap_or_default();
        let known = [
            "echo", "kernel", "initrd", "boot", ":failed", "imgfree", ":retry", "sleep", "chain", "sanboot", "exit",
        ];
        prop_assert!(known.contains(&first), "{line}");
    }
    Ok(())
}

#[test]
fn nothing_that_is_sent_or_stored_changes_the_shape_of_a_script() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let rig = runtime.block_on(Rig::with(|c| c.quotas.boots_per_minute = 100_000));
    // A machine whose every string is as wild as the protocol allows, known and claimed.
    let wild = "${x} \" ' \\ `id` $(id) ; # %0a";
    let mut machine = rig.machine(HONEST);
    let system = &mut machine.inventory.system;
    for field in [
        &mut system.vendor,
        &mut system.product,
        &mut system.serial,
        &mut system.asset_tag,
        &mut system.bios,
    ] {
        *field = Some(wild.to_owned());
    }
    runtime.block_on(async {
        let name = machine.power_on().await.expect("a session").discovery;
        rig.accept(&name, Some("${uid}\n\"'"), None).await;
        judge_script(&machine.script().await).unwrap();
    });
    let to = rig.netboot.addresses().http;
    let raw = |target: Vec<u8>, host: Vec<u8>| {
        runtime.block_on(async {
            let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
            let mut request = b"GET /boot/ipxe?".to_vec();
            request.extend_from_slice(&target);
            request.extend_from_slice(b" HTTP/1.1\r\nconnection: close\r\nhost: ");
            request.extend_from_slice(&host);
            request.extend_from_slice(b"\r\n\r\n");
            stream.write_all(&request).await.unwrap();
            let mut answer = Vec::new();
            within(10, stream.read_to_end(&mut answer)).await.ok();
            answer
        })
    };
    let good = machine.boot_path();
    let good = good.split_once('?').unwrap().1.to_owned();
    proptest!(ProptestConfig::with_cases(300), |(
        target in "[!-~]{0,80}|(uuid|mac|platform|buildarch)=[!-~]{0,30}(&(uuid|mac|platform|buildarch)=[!-~]{0,30}){0,3}",
        host in "[ -~]{0,40}|\\$\\{[a-z]{1,5}\\}|[a-z]{1,8}:[0-9\\n]{1,5}",
        honest in any::<bool>(),
    )| {
        let target = if honest { good.clone() } else { target };
        let answer = raw(target.into_bytes(), host.replace(['\r', '\n'], " ").into_bytes());
        let text = String::from_utf8(answer).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        if head.starts_with("HTTP/1.1 200") && !body.contains("isset ${netX/mac}") {
            judge_script(body)?;
        }
    });
    // A host that is not ours is not repeated; an address is.
    let answer = String::from_utf8(raw(good.clone().into_bytes(), b"evil.example:80".to_vec())).unwrap();
    assert!(!answer.contains("evil.example"), "{answer}");
    let answer = String::from_utf8(raw(good.into_bytes(), b"10.0.2.2:8080".to_vec())).unwrap();
    assert!(answer.contains("kbm.server=https://10.0.2.2:"), "{answer}");
    runtime.shutdown_background();
}

/// 100,000 machines that do not exist, from one source, as fast as it can; an honest machine beside them.
#[test]
fn a_flood_of_made_up_machines_delays_nobody() {
    // Memory is measured for the whole process, so this test must have one to itself.
    const ALONE: &str = "KBM_FLOOD_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().unwrap();
        let arguments = ["a_flood_of_made_up_machines_delays_nobody", "--exact", "--nocapture"];
        let output = std::process::Command::new(program)
            .args(arguments)
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    const FLOOD: usize = 100_000;
    const CONNECTIONS: usize = 4;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let rig = Rig::with(|c| {
            c.quotas.creations_per_minute = 20;
            c.quotas.boots_per_minute = 1_200;
        })
        .await;
        let pin = rig.pin();
        let addresses = rig.netboot.addresses();
        // Everything is warm before memory is measured.
        let mut honest = rig.machine(HONEST);
        honest.power_on().await.unwrap();
        // A body as a real machine would send, made once: what costs is the server's side.
        let token = Machine::new(STRANGER, addresses).boot().await.unwrap().token;
        let before = resident();
        let started = Instant::now();
        let mut flood = tokio::task::JoinSet::new();
        for part in 0..CONNECTIONS {
            let (pin, token) = (pin.clone(), token.clone());
            flood.spawn(async move {
                let mut plain = connect_plain(STRANGER, addresses.http).await.unwrap();
                let mut tls = connect_tls(STRANGER, addresses.tls, &pin).await.unwrap();
                let (mut served, mut refused) = (0usize, 0usize);
                for n in 0..FLOOD / CONNECTIONS {
                    let mut mac = [2, part as u8, 0, 0, 0, 0];
                    mac[2..].copy_from_slice(&(n as u32).to_be_bytes());
                    let mut uuid = [0; 16];
                    getrandom::fill(&mut uuid).unwrap();
                    let mut machine = Machine::with(STRANGER, addresses, Some(SystemUuid(uuid)), MacAddress(mac));
                    // Every twentieth boots properly first, until its boot requests are refused too; the others use what they have.
                    let fresh = if n % 20 == 0 {
                        let (_, script) = send(&mut plain, get(&machine.boot_path())).await;
                        common::machine::read_script(&String::from_utf8_lossy(&script)).map(|b| b.token)
                    } else {
                        None
                    };
                    let token = fresh.unwrap_or_else(|| token.clone());
                    machine.inventory = inventory(Some(SystemUuid(uuid)), MacAddress(mac));
                    let body = serde_json::to_vec(&machine.request(&token)).unwrap();
                    let request = machine.signed(http::Method::POST, session::PATH_SESSIONS, body);
                    match read::<session::SessionResponse>(send(&mut tls, request).await) {
                        Ok(_) => served += 1,
                        Err(_) => refused += 1,
                    }
                }
                (served, refused)
            });
        }
        // Meanwhile an honest machine boots, opens sessions and asks, again and again.
        let flooding = async {
            let mut total = (0, 0);
            while let Some(part) = flood.join_next().await {
                let part = part.unwrap();
                total = (total.0 + part.0, total.1 + part.1);
            }
            total
        };
        tokio::pin!(flooding);
        let mut longest = Duration::ZERO;
        let mut rounds = 0;
        let (served, refused) = loop {
            let round = async {
                let at = Instant::now();
                let booted = honest.boot().await.expect("a script");
                honest.reboot();
                honest.open(&booted).await.expect("a session");
                let took = at.elapsed();
                // An honest machine boots now and then, not in a tight loop: its own quota is not what is measured here.
                tokio::time::sleep(Duration::from_millis(250)).await;
                took
            };
            tokio::select! {
                total = &mut flooding => break total,
                took = round => {
                    longest = longest.max(took);
                    rounds += 1;
                }
            }
        };
        let grown = resident().saturating_sub(before);
        let objects = rig.api.all("baremetaldiscoveries").len();
        println!(
            "{FLOOD} made-up machines in {:?}: {served} sessions, {refused} refused, {objects} objects; honest machine: {rounds} boots, longest delay {longest:?}; memory grew by {} KiB",
            started.elapsed(),
            grown / 1024
        );
        assert_eq!(served + refused, FLOOD);
        assert!(rounds > 0, "the honest machine booted meanwhile");
        assert!(longest <= Duration::from_secs(5), "the honest machine waited {longest:?}");
        assert!(grown <= 64 * MIB, "memory grew by {grown} bytes");
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        assert!(objects as f64 <= 1.0 + 20.0 + 20.0 * minutes + 1.0, "{objects} objects in {minutes} minutes");
    });
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unaccepted_machines_are_capped() {
    let rig = Rig::with(|c| c.quotas.unaccepted = 3).await;
    let mut opened = Vec::new();
    for _ in 0..3 {
        let mut machine = rig.machine(HONEST);
        opened.push(machine.power_on().await.unwrap().discovery);
    }
    let mut fourth = rig.machine(HONEST);
    assert_eq!(
        fourth.power_on().await.unwrap_err(),
        (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded)
    );
    // Known ones are served all the same; and accepting one makes room.
    rig.accept(&opened[0], None, None).await;
    common::until("the place is free", || async {
        let mut fourth = rig.machine(HONEST);
        fourth.power_on().await.is_ok()
    })
    .await;
    assert_eq!(rig.api.all("baremetaldiscoveries").len(), 4);
}
