//! Events of each kind of controller: subscriptions are made once, found again, tidied and taken away, streams are opened, and something is told when a machine is
//! switched by whatever cause.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request, http::StatusCode, routing::any};
use bmc_simulator::{
    Simulator,
    faults::{Conduct, Fault as Set, Operation, What},
    host::Command,
    profile::{self, Profile},
};
use power::{
    Driver, Fault,
    events::Subscription,
    redfish::{Redfish, Settings},
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::world::{PASSWORD, redfish, simulator, until};

/// Somebody who waits for events: with HTTPS, and a certificate that nobody knows.
struct Receiver {
    base: String,
    /// Events for the path `/events/aa`, and for any other.
    heard: Arc<[AtomicUsize; 2]>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    async fn start() -> Self {
        let heard: Arc<[AtomicUsize; 2]> = Arc::default();
        let counts = Arc::clone(&heard);
        let router = Router::new().fallback(any(move |request: Request| {
            let other = usize::from(request.uri().path() != "/events/aa");
            counts[other].fetch_add(1, Ordering::SeqCst);
            async { StatusCode::NO_CONTENT }
        }));
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("https://{}/events/", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
                });
            }
        });
        Self { base, heard, server }
    }

    fn heard(&self) -> usize {
        self.heard[0].load(Ordering::SeqCst)
    }

    fn subscription(&self, token: &str) -> Subscription {
        Subscription {
            destination: format!("{}{token}", self.base).into(),
            prefix: self.base.clone(),
            context: "kube-baremetal test".to_owned(),
            unverified: true,
            is_wanted: Arc::new(|url| url.ends_with("/wanted")),
        }
    }
}

fn with_events() -> impl Iterator<Item = &'static Arc<Profile>> {
    profile::ALL.iter().filter(|profile| profile.events.is_some())
}

fn press(simulator: &Simulator, command: Command) {
    simulator.bmc(0).hosts[0].tell(command, Conduct::default());
}

/// A request to a controller as another client makes it.
async fn ask(simulator: &Simulator, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        )
        .no_proxy()
        .build()
        .expect("a client");
    let url = format!("{}/redfish/v1/{path}", simulator.url(0));
    let request = client.request(method, url).basic_auth("admin", Some(PASSWORD)).json(body);
    let answer = request.send().await.expect("answered");
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn destinations(simulator: &Simulator) -> Vec<String> {
    let (_, list) = ask(simulator, reqwest::Method::GET, "EventService/Subscriptions", &Value::Null).await;
    let mut all = Vec::new();
    for member in list["Members"].as_array().expect("members") {
        let path = member["@odata.id"].as_str().expect("a link");
        let path = path.split("/redfish/v1/").nth(1).expect("a path");
        let (_, one) = ask(simulator, reqwest::Method::GET, path, &Value::Null).await;
        let destination = one["Destination"].as_str().expect("a destination").to_owned();
        if destination != "0.0.0.0" {
            all.push(destination);
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn each_controller_sends_when_its_machine_is_switched_by_hand() {
    assert!(with_events().count() >= 10);
    futures::future::join_all(with_events().map(async |profile| {
        let name = &profile.name;
        let simulator = simulator(profile, 1).await;
        let receiver = Receiver::start().await;
        let driver = redfish(&simulator, 0, 0);
        let subscription = receiver.subscription("aa");
        driver
            .subscribe(&subscription)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        // Found again, also by a driver that remembers nothing.
        driver
            .subscribe(&subscription)
            .await
            .unwrap_or_else(|error| panic!("{name}, again: {error}"));
        let another = redfish(&simulator, 0, 0);
        another
            .subscribe(&subscription)
            .await
            .unwrap_or_else(|error| panic!("{name}, another: {error}"));
        assert_eq!(simulator.bmc(0).subscriptions(), 1, "{name}");
        press(&simulator, Command::On);
        until(&format!("{name} tells that it is on"), async || receiver.heard() == 1).await;
        press(&simulator, Command::Off);
        until(&format!("{name} tells that it is off"), async || receiver.heard() == 2).await;
        driver
            .unsubscribe(&subscription)
            .await
            .unwrap_or_else(|error| panic!("{name}, end: {error}"));
        assert_eq!(simulator.bmc(0).subscriptions(), 0, "{name}");
        press(&simulator, Command::On);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(receiver.heard(), 2, "{name}");
    }))
    .await;
}

#[tokio::test]
async fn only_what_is_ours_and_useless_is_taken_away() {
    for profile in with_events() {
        let name = &profile.name;
        let simulator = simulator(profile, 1).await;
        let receiver = Receiver::start().await;
        let driver = redfish(&simulator, 0, 0);
        // Another's, by its own client.
        let events = profile.events.as_ref().expect("it has");
        let mut theirs = json!({"Destination": "https://192.0.2.1/theirs", "Context": "theirs", "Protocol": "Redfish"});
        if events.takes.iter().any(|member| member == "EventTypes") {
            theirs["EventTypes"] = json!([events.types.first().map_or("Alert", String::as_str)]);
        }
        let (status, _) = match &events.places {
            None => ask(&simulator, reqwest::Method::POST, "EventService/Subscriptions", &theirs).await,
            Some(vendor) => {
                theirs["Oem"] = json!({vendor.as_str(): {"EnableSubscription": true}});
                ask(&simulator, reqwest::Method::PATCH, "EventService/Subscriptions/3", &theirs).await
            }
        };
        assert!((200..300).contains(&status), "{name}: {status}");
        // Ours, from before the key was changed, and that of another name of the same controller.
        for token in ["old", "wanted"] {
            let mut subscription = receiver.subscription(token);
            // Made as if the others were not known yet.
            subscription.is_wanted = Arc::new(|_| true);
            driver
                .subscribe(&subscription)
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(destinations(&simulator).await.len(), 3, "{name}");
        driver
            .subscribe(&receiver.subscription("aa"))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let base = &receiver.base;
        let mut left = [format!("{base}aa"), format!("{base}wanted"), "https://192.0.2.1/theirs".to_owned()];
        left.sort();
        assert_eq!(destinations(&simulator).await, left, "{name}");
        driver
            .unsubscribe(&receiver.subscription("aa"))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        left = [String::new(), format!("{base}wanted"), "https://192.0.2.1/theirs".to_owned()];
        left.sort();
        assert_eq!(destinations(&simulator).await, left[1..], "{name}");
    }
}

#[tokio::test]
async fn streams_tell_too() {
    let streaming = with_events().filter(|profile| profile.events.as_ref().is_some_and(|events| events.stream.is_some()));
    for profile in streaming {
        let name = &profile.name;
        let simulator = simulator(profile, 1).await;
        let driver = redfish(&simulator, 0, 0);
        let mut stream = driver.listen().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stream.next_within(Duration::from_millis(100)).await, Ok(false), "{name}");
        for command in [Command::On, Command::Off] {
            press(&simulator, command);
            assert_eq!(stream.next_within(Duration::from_secs(5)).await, Ok(true), "{name}");
        }
        // The place is given back with the stream.
        assert_eq!(simulator.bmc(0).streams(), 1, "{name}");
        drop(stream);
        until(&format!("{name} has its stream back"), async || simulator.bmc(0).streams() == 0).await;
        let mut stream = driver.listen().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        simulator.bmc(0).restart();
        assert!(
            stream.next_within(Duration::from_secs(5)).await.is_err(),
            "{name}: it ends with the controller"
        );
    }
    let without = simulator(&profile::named("ilo-5").expect("it is there"), 1).await;
    let refused = redfish(&without, 0, 0).listen().await.err();
    assert!(matches!(refused, Some(Fault::NotOffered { .. })), "{refused:?}");
    let without = simulator(&profile::named("sushy-tools").expect("it is there"), 1).await;
    let receiver = Receiver::start().await;
    let refused = redfish(&without, 0, 0).subscribe(&receiver.subscription("aa")).await;
    assert!(matches!(refused, Err(Fault::NotOffered { .. })), "{refused:?}");
}

#[tokio::test]
async fn lost_doubled_late_and_spoilt_events_are_events_or_none() {
    let profile = profile::named("idrac-9").expect("it is there");
    let receiver = Receiver::start().await;
    for (what, heard) in [
        (What::Silent, 0),
        (What::Doubled, 2),
        (What::Latency { ms: 700 }, 1),
        (What::NotJson, 1),
        (What::Truncated, 1),
        (What::WrongKinds, 1),
    ] {
        let simulator = simulator(&profile, 1).await;
        let fault = Set {
            operation: Operation::Event,
            ..Set::new("event", what)
        };
        simulator.fleet().faults().set(fault).expect("a good fault");
        let driver = redfish(&simulator, 0, 0);
        driver.subscribe(&receiver.subscription("aa")).await.expect("subscribed");
        let mut stream = driver.listen().await.expect("a stream");
        let (before, began) = (receiver.heard(), Instant::now());
        press(&simulator, Command::On);
        let told = stream.next_within(Duration::from_millis(1500)).await;
        assert_eq!(told, Ok(heard > 0), "{what:?}");
        if matches!(what, What::Latency { .. }) {
            assert!(began.elapsed() >= Duration::from_millis(700));
        }
        until(&format!("{what:?}"), async || receiver.heard() - before >= heard).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(receiver.heard() - before, heard, "{what:?}");
    }
}

#[tokio::test]
async fn a_controller_that_has_forgotten_is_asked_again_and_one_that_refuses_says_why() {
    let profile = profile::named("openbmc").expect("it is there");
    let simulator = simulator(&profile, 1).await;
    let receiver = Receiver::start().await;
    let driver = redfish(&simulator, 0, 0);
    let subscription = receiver.subscription("aa");
    driver.subscribe(&subscription).await.expect("subscribed");
    simulator.bmc(0).restart();
    assert_eq!(simulator.bmc(0).subscriptions(), 1, "they outlive a start");
    simulator
        .fleet()
        .faults()
        .set(Set::new("forgets", What::Forgets))
        .expect("a good fault");
    simulator.bmc(0).restart();
    assert_eq!(simulator.bmc(0).subscriptions(), 0);
    driver.subscribe(&subscription).await.expect("subscribed anew, with a session anew");
    press(&simulator, Command::On);
    until("it tells", async || receiver.heard() == 1).await;
    driver.unsubscribe(&subscription).await.expect("taken away");

    // All places are taken by others.
    let theirs = json!({"Destination": "https://192.0.2.1/theirs", "Context": "theirs", "Protocol": "Redfish"});
    for _ in 0..profile.events.as_ref().expect("it has").most {
        assert_eq!(
            ask(&simulator, reqwest::Method::POST, "EventService/Subscriptions", &theirs)
                .await
                .0,
            201
        );
    }
    let full = driver.subscribe(&subscription).await;
    assert!(
        matches!(&full, Err(Fault::Busy { detail, .. }) if detail.contains("as many subscriptions")),
        "{full:?}"
    );
    assert_eq!(simulator.bmc(0).subscriptions(), 20, "none of theirs was taken away");

    let refuses = Set {
        operation: Operation::Subscribe,
        ..Set::new(
            "refuses",
            What::Status {
                code: 403,
                retry_after: None,
            },
        )
    };
    simulator.fleet().faults().set(refuses).expect("a good fault");
    assert!(matches!(driver.subscribe(&subscription).await, Err(Fault::Privilege(_))));
    assert!(matches!(driver.listen().await.err(), Some(Fault::Privilege(_))));
}

#[tokio::test]
async fn a_refusal_does_not_tell_the_url() {
    // It refuses plain HTTP, with the whole URL in its words.
    let simulator = simulator(&profile::named("openbmc").expect("it is there"), 1).await;
    let token = "5ec0".repeat(16);
    let subscription = Subscription {
        destination: format!("http://127.0.0.1:1/events/{token}").into(),
        prefix: "http://127.0.0.1:1/events/".to_owned(),
        context: "kube-baremetal test".to_owned(),
        unverified: false,
        is_wanted: Arc::new(|_| false),
    };
    let refused = redfish(&simulator, 0, 0).subscribe(&subscription).await.expect_err("refused");
    let said = refused.to_string();
    assert!(
        matches!(refused, Fault::Refused(_)) && said.contains("http://127.0.0.1:1/events/***"),
        "{said}"
    );
    assert!(!said.contains("5ec0"), "{said}");
}

#[tokio::test]
async fn a_user_who_may_not_log_in_gets_no_events() {
    let simulator = simulator(&profile::named("openbmc").expect("it is there"), 1).await;
    let driver = Redfish::new(Settings {
        url: simulator.url(0),
        trust: None,
        user: "admin".to_owned(),
        password: "wrong-Pass-1".to_owned().into(),
        system: None,
    })
    .expect("good settings");
    assert!(matches!(driver.listen().await.err(), Some(Fault::Credentials(_))));
    assert_eq!(simulator.bmc(0).streams(), 0);
}
