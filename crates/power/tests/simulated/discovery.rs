//! SSDP: simulated controllers are found, and strangers who answer are refused.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::Redirect, routing::get};
use bmc_simulator::{Options, Simulator, profile};
use power::{
    Fault,
    ssdp::{self, Discovered, Root, message},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::Instant,
};

async fn discover(to: SocketAddr, seconds: u64) -> Discovered {
    let options = ssdp::Options {
        from: vec![Ipv4Addr::LOCALHOST],
        to,
        wait: Duration::from_secs(seconds),
    };
    ssdp::discover(&options).await
}

async fn simulator(tls: bool) -> Simulator {
    let named = |name| profile::named(name).expect("a profile");
    Simulator::start(Options {
        controllers: 2,
        profiles: vec![named("idrac-9"), named("openbmc")],
        tls,
        ssdp: Some("127.0.0.1:0".parse().expect("an address")),
        ..Options::default()
    })
    .await
    .expect("a simulator")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_are_found_each_once_with_what_they_are() {
    for tls in [false, true] {
        let simulator = simulator(tls).await;
        let discovered = discover(simulator.ssdp().expect("it is found"), 1).await;
        assert_eq!(
            (&discovered.refused[..], discovered.left_out, discovered.unasked.len()),
            (&[][..], 0, 0)
        );
        assert_eq!(discovered.found.len(), 2, "{discovered:?}");
        for (index, found) in discovered.found.iter().enumerate() {
            let (bmc, identity) = (simulator.bmc(index), &simulator.bmc(index).profile.identity);
            let wanted = Root {
                vendor: identity.vendor.clone(),
                product: identity.product.clone(),
                version: Some(identity.version.clone()),
            };
            assert_eq!((&found.address, &found.uuid), (&simulator.url(index), &bmc.service_uuid()));
            assert_eq!(found.certificate_sha256.as_deref(), simulator.fingerprint());
            assert_eq!(found.root, Ok(wanted));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_ask_says_so() {
    let options = ssdp::Options {
        // Nobody has this address (TEST-NET-1).
        from: vec![Ipv4Addr::new(192, 0, 2, 77)],
        to: "127.0.0.1:9".parse().expect("an address"),
        wait: Duration::from_secs(30),
    };
    let begin = Instant::now();
    let discovered = ssdp::discover(&options).await;
    assert_eq!(discovered.unasked.len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(5), "nobody can answer");
}

fn answer(uuid: u8, at: &str) -> Vec<u8> {
    let target = message::TARGET;
    format!("HTTP/1.1 200 OK\r\nST:{target}\r\nUSN:uuid:6b6d6273-696d-4000-8000-0000000000{uuid:02x}::{target}\r\nAL:{at}\r\n\r\n")
        .into_bytes()
}

/// A service, and how often it was connected to.
async fn service(router: Router) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let router = router.layer(axum::middleware::map_request(move |request: axum::extract::Request| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(request)
    }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (at, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_lead_nowhere_and_cost_little() {
    // Somebody who did not answer, and is only pointed at.
    let (victim, asked) = service(Router::new().fallback(|| async { "{}" })).await;
    let away = format!("http://{victim}/redfish/v1/");
    let (redirecting, asked_there) = service(Router::new().fallback(move || async move { Redirect::temporary(&away) })).await;
    let (huge, _) = service(Router::new().fallback(|| async { "1".repeat(3 << 20) })).await;
    let odd = r#"{"Vendor": "\u001b[31mevil\r\n", "Product": 7, "RedfishVersion": null}"#;
    let (odd, _) = service(Router::new().route("/redfish/v1/", get(move || async move { odd }))).await;
    let no_tls = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mute = no_tls.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = no_tls.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 who is there?\r\n")
                .await
                .ok();
        }
    });

    let network = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let to = network.local_addr().expect("an address");
    let stranger = UdpSocket::bind("127.66.0.9:0").await.expect("a socket");
    let sayings = [
        answer(1, &format!("http://{victim}/redfish/v1/")),
        answer(2, "https://bmc.example/redfish/v1/"),
        b"\x16\x03\x01 garbage".to_vec(),
        [answer(3, "http://127.66.0.9/redfish/v1/"), vec![b' '; 4096]].concat(),
        // One more than is kept of one sender.
        b"HTTP/1.1 200 OK\r\nST:ssdp:all\r\n\r\n".to_vec(),
    ];
    let plain = [(4, redirecting), (5, huge), (6, odd)].map(|(uuid, at)| answer(uuid, &format!("http://{at}/redfish/v1/")));
    let secured = answer(7, &format!("https://{mute}/redfish/v1/"));
    let answering = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        let mut questions = 0;
        while let Ok((length, from)) = network.recv_from(&mut buffer).await {
            assert_eq!(buffer[..length], *message::search(to, 1).as_bytes());
            questions += 1;
            for saying in &sayings {
                stranger.send_to(saying, from).await.expect("it is sent");
            }
            for saying in plain.iter().chain([&secured]) {
                network.send_to(saying, from).await.expect("it is sent");
            }
            if questions == 3 {
                break;
            }
        }
        questions
    });
    let begin = Instant::now();
    let discovered = discover(to, 2).await;
    assert!(begin.elapsed() < Duration::from_secs(14));
    assert_eq!(answering.await.expect("it answers"), 3);

    let reasons: Vec<_> = discovered.refused.iter().map(|refused| refused.why.to_string()).collect();
    assert!(
        discovered
            .refused
            .iter()
            .all(|refused| refused.from == Ipv4Addr::new(127, 66, 0, 9))
    );
    for part in ["larger than 2048 bytes", "none that SSDP knows", &victim.to_string(), "bmc.example"] {
        assert_eq!(
            reasons.iter().filter(|reason| reason.contains(part)).count(),
            1,
            "{part}: {reasons:?}"
        );
    }
    assert_eq!((reasons.len(), discovered.left_out), (4, 3));
    assert_eq!(asked.load(Ordering::SeqCst), 0, "somebody else was asked");

    let of = |uuid: u8| {
        let found = discovered.found.iter().find(|found| found.uuid.ends_with(&format!("{uuid:02x}")));
        found.unwrap_or_else(|| panic!("{uuid} is found: {discovered:?}"))
    };
    assert_eq!(discovered.found.len(), 4);
    assert!(
        matches!(&of(4).root, Err(Fault::Garbled(why)) if why.contains("in circles")),
        "{:?}",
        of(4)
    );
    assert_eq!(asked_there.load(Ordering::SeqCst), 4, "a redirect leads to its own host");
    assert!(
        matches!(&of(5).root, Err(Fault::Garbled(why)) if why.contains("bytes")),
        "{:?}",
        of(5)
    );
    let wanted = Root {
        vendor: Some("\\u{1b}[31mevil".to_owned()),
        product: Some("7".to_owned()),
        version: None,
    };
    assert_eq!(of(6).root, Ok(wanted));
    assert!(of(7).root.is_err() && of(7).certificate_sha256.is_none(), "{:?}", of(7));
}
