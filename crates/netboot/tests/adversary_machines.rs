//! Adversaries that speak the protocol: replayed and foreign tokens, second sessions, seeds, stale orders, stale replicas.
//!
//! Each check returns what it found; a server without holes gives nothing to find, and the same checks find the holes that are planted.

mod common;

use std::{net::IpAddr, sync::atomic::Ordering};

use agent_protocol::{
    identity::{MacAddress, SystemUuid},
    order::OrderKind,
    session::{self, ErrorCode, SessionResponse},
    token::{BootClaims, TokenKey},
};
use common::{HONEST, Rig, SECRET_TEXT, STRANGER, condition, image_order, until, within};
use http::Method;

/// Findings: what an adversary got that it should not have.
type Findings = Vec<String>;

fn refused<T>(what: &str, answer: Result<T, (http::StatusCode, ErrorCode)>, codes: &[ErrorCode]) -> Findings {
    match answer {
        Ok(_) => vec![format!("{what}: was served")],
        Err((_, code)) if codes.contains(&code) => Vec::new(),
        Err((status, code)) => vec![format!("{what}: refused as {code:?} ({status}), not as one of {codes:?}")],
    }
}

/// The token key, as only the server knows it: to make tokens that are expired or of a chosen time.
async fn token_key(rig: &Rig) -> TokenKey {
    let secret = rig.secrets().get("netboot-keys").await.unwrap();
    TokenKey::new(&secret.data.unwrap()["token.key"].0).unwrap()
}

async fn replayed_tokens(rig: &Rig) -> Findings {
    let mut found = Findings::new();
    let mut machine = rig.machine(HONEST);
    let booted = machine.boot().await.unwrap();
    let first = machine.open(&booted).await.expect("the honest machine");

    // The very same request again: its answer was lost on the way. The same session, no second one.
    machine.session.clear();
    let again = machine.open(&booted).await.expect("a repetition is harmless");
    if again.session != first.session {
        found.push("a repeated request opened a second session".to_owned());
    }
    // Somebody at the same address (a NAT neighbour) with the same token and an own key.
    let mut thief = rig.machine(HONEST);
    thief.inventory = machine.inventory.clone();
    thief.mac = machine.mac;
    found.extend(refused(
        "replayed token with another key",
        thief.open(&booted).await,
        &[ErrorCode::TokenRefused],
    ));
    let discovery = rig.discovery(&first.discovery).await;
    if discovery.status.as_ref().unwrap().session.as_ref().unwrap().id != first.session {
        found.push("the thief's session replaced the machine's".to_owned());
    }
    // The machine reboots; the token of its earlier boot is worth nothing, whoever has it.
    let second = machine.power_on().await.expect("the next boot");
    thief.tls = None;
    thief.session.clear();
    found.extend(refused(
        "token of an earlier boot",
        thief.open(&booted).await,
        &[ErrorCode::TokenRefused],
    ));
    let discovery = rig.discovery(&second.discovery).await;
    if discovery.status.as_ref().unwrap().session.as_ref().unwrap().id != second.session {
        found.push("an old token replaced a newer session".to_owned());
    }
    found
}

async fn seeds(rig: &Rig) -> Findings {
    let mut found = Findings::new();
    let (mut machine, name, order) = rig.imaging("uid-seed").await;

    // A stranger asks for the boot script with the machine's UUID and MAC: whatever it says, no seed and no secret leaves.
    let mut stranger = rig.machine(STRANGER);
    stranger.inventory = machine.inventory.clone();
    stranger.mac = machine.mac;
    let script = stranger.script().await;
    if script.contains(SECRET_TEXT) || script.contains("ciphertext") || script.contains("uid-seed") {
        found.push("a boot script holds what is the instance's".to_owned());
    }
    // It may even have a token. The live machine's session stays.
    if let Some(booted) = common::machine::read_script(&script) {
        found.extend(refused(
            "stranger's session for a live machine",
            stranger.open(&booted).await,
            &[ErrorCode::Forbidden, ErrorCode::TokenRefused],
        ));
    }
    // It asks for the seed all the same: without a session, with a session it made up, with the machine's session id and its own key, with its own session.
    let pin = rig.pin();
    stranger.connect(&pin).await;
    for session in [
        String::new(),
        format!("{name}.{}", "0".repeat(32)),
        "m-none.00000000000000000000000000000000".to_owned(),
        machine.session.clone(),
    ] {
        stranger.session.clone_from(&session);
        found.extend(refused(
            &format!("stranger asks for the seed as {session:?}"),
            stranger.seed().await,
            &[ErrorCode::SignatureRefused],
        ));
    }
    let mut other = rig.machine(STRANGER);
    other.power_on().await.expect("another machine");
    found.extend(refused(
        "another machine asks for a seed",
        other.seed().await,
        &[ErrorCode::Forbidden],
    ));

    // The machine itself: once.
    let sealed = machine.seed().await.expect("the machine's seed");
    if agent_protocol::seed::open(&sealed, &machine.sealing).unwrap().files["openstack/latest/user_data"] != SECRET_TEXT {
        found.push("the seed is not what was sealed".to_owned());
    }
    if agent_protocol::seed::open(&sealed, &stranger.sealing).is_ok() {
        found.push("a stranger's key opens the seed".to_owned());
    }
    found.extend(refused("seed asked twice", machine.seed().await, &[ErrorCode::Forbidden]));

    // After the result there is none, even if the Secret is still there and unserved.
    machine.result(machine.succeeded(&order)).await.expect("the result is stored");
    rig.seal(&name, &order, SECRET_TEXT).await;
    found.extend(refused(
        "seed asked after the result",
        machine.seed().await,
        &[ErrorCode::Forbidden],
    ));
    // A later boot of the machine into the agent gets none for the finished order either.
    let hardware = rig.hardware().get(&name).await.unwrap();
    assert_eq!(hardware.spec.claim_ref.as_ref().map(|c| c.uid.as_str()), Some("uid-seed"));
    machine.tls = None;
    let key = token_key(rig).await;
    let now = jiff::Timestamp::now().as_millisecond();
    machine.reboot();
    let booted = common::machine::Booted {
        server: String::new(),
        pin: pin.clone(),
        token: key.issue_boot(&BootClaims {
            uuid: machine.inventory.system.uuid,
            mac: machine.mac,
            address: HONEST,
            elsewhere: Vec::new(),
            nonce: "running".to_owned(),
            issued_at: now + 5_000,
        }),
    };
    machine.open(&booted).await.expect("a session");
    rig.seal(&name, &order, SECRET_TEXT).await;
    found.extend(refused("seed asked after Running", machine.seed().await, &[ErrorCode::Forbidden]));
    if machine.order("").await.expect("an answer").order.kind == OrderKind::Image {
        found.push("a running machine was told to write its image again".to_owned());
    }
    found
}

/// A replica whose watches are frozen shows an order that the operator took back, or replaced, long ago.
async fn stale_replica(change: fn(&mut netboot::Config)) -> Findings {
    let mut found = Findings::new();
    let fresh = Rig::start().await;
    let stale = Rig::beside(fresh.api.clone(), "replica-1", change).await;
    let mut machine = fresh.machine(HONEST);
    let name = machine.power_on().await.unwrap().discovery;
    let order = image_order(&machine, &name, "uid-old");
    fresh.accept(&name, Some("uid-old"), Some(order.clone())).await;
    fresh.seal(&name, &order, SECRET_TEXT).await;
    // Both replicas have seen the order; then one of them sees nothing any more.
    until("both replicas see the order", || async {
        fresh.view_has(&name).await && stale.view_has(&name).await
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    stale.view.frozen.store(true, Ordering::SeqCst);
    // The claim is gone, the machine belongs to nobody.
    fresh
        .change(&name, |h| {
            h.spec.claim_ref = None;
            let status = h.status.get_or_insert_default();
            status.order = None;
            status.claim_uid = None;
            status.released_claims = vec!["uid-old".to_owned()];
        })
        .await;
    machine.move_to(stale.netboot.addresses());
    machine.connect(&stale.pin()).await;
    let told = within(20, machine.order("")).await.expect("an answer").order;
    if told.kind.is_destructive() {
        found.push(format!("a stale replica handed out {}", told.id));
    }
    if let Some(accepted) = fresh.discovery(&name).await.status.unwrap().accepted_order {
        found.push(format!("a stale replica noted {} as accepted", accepted.id));
    }
    // The other order of things: it was accepted at the fresh replica and finished; the stale one must not repeat it.
    let other = image_order(&machine, &name, "uid-new");
    fresh
        .change(&name, |h| {
            h.spec.claim_ref = Some(common::claim_ref("uid-new"));
            let status = h.status.get_or_insert_default();
            status.claim_uid = Some("uid-new".to_owned());
            status.order = Some(other.clone());
        })
        .await;
    machine.move_to(fresh.netboot.addresses());
    machine.connect(&fresh.pin()).await;
    let mut told = machine.order("").await.unwrap().order;
    for _ in 0..20 {
        if told.kind.is_destructive() {
            break;
        }
        told = machine.order("").await.unwrap().order;
    }
    assert_eq!(told, other, "the fresh replica hands out the present order");
    machine.result(machine.succeeded(&other)).await.unwrap();
    machine.move_to(stale.netboot.addresses());
    machine.connect(&stale.pin()).await;
    let told = within(20, machine.order("")).await.expect("an answer").order;
    if told.kind.is_destructive() {
        found.push(format!("a stale replica handed out {} after another one was finished", told.id));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_good_for_one_machine_one_address_one_key_and_a_short_time() {
    let rig = Rig::start().await;
    assert_eq!(replayed_tokens(&rig).await, Findings::new());

    let mut machine = rig.machine(HONEST);
    let booted = machine.boot().await.unwrap();
    let mut found = Findings::new();

    // Another MAC than the token's, as boot MAC, or only in the inventory.
    let mut other = rig.machine(HONEST);
    found.extend(refused(
        "token with another MAC",
        other.open(&booted).await,
        &[ErrorCode::TokenRefused],
    ));
    let mut liar = rig.machine(HONEST);
    liar.mac = machine.mac;
    found.extend(refused(
        "boot MAC that is none of the machine's",
        liar.open(&booted).await,
        &[ErrorCode::TokenRefused],
    ));
    // Another UUID than the token's.
    let mut changed = rig.machine(HONEST);
    changed.mac = machine.mac;
    changed.inventory = common::machine::inventory(
        Some(SystemUuid(
            [7; 15].iter().chain(&[8]).copied().collect::<Vec<_>>().try_into().unwrap(),
        )),
        machine.mac,
    );
    found.extend(refused(
        "token with another UUID",
        changed.open(&booted).await,
        &[ErrorCode::TokenRefused],
    ));
    // From another address.
    machine.from = STRANGER;
    found.extend(refused(
        "token from another address",
        machine.open(&booted).await,
        &[ErrorCode::TokenRefused],
    ));
    machine.from = HONEST;
    machine.tls = None;
    // Expired, from the future, forged, malformed.
    let key = token_key(&rig).await;
    let now = jiff::Timestamp::now().as_millisecond();
    let claims = |issued_at, address: IpAddr| BootClaims {
        uuid: machine.inventory.system.uuid,
        mac: machine.mac,
        address,
        elsewhere: Vec::new(),
        nonce: "n".to_owned(),
        issued_at,
    };
    let tokens = [
        ("expired", key.issue_boot(&claims(now - 600_001, HONEST))),
        ("from the future", key.issue_boot(&claims(now + 600_000, HONEST))),
        ("forged", TokenKey::new(&[0; 32]).unwrap().issue_boot(&claims(now, HONEST))),
        (
            "of a guest",
            key.issue_guest(&agent_protocol::token::GuestClaims {
                instance_uid: "u".to_owned(),
                hardware: "h".to_owned(),
                nonce: "n".to_owned(),
            }),
        ),
        ("malformed", "kbm1..".to_owned()),
        ("empty", String::new()),
    ];
    for (what, token) in tokens {
        let booted = common::machine::Booted { token, ..booted.clone() };
        found.extend(refused(
            &format!("token {what}"),
            machine.open(&booted).await,
            &[ErrorCode::TokenRefused],
        ));
    }
    assert_eq!(found, Findings::new());
    assert!(rig.api.all("baremetaldiscoveries").len() == 1, "no refused session made an object");
    machine.open(&booted).await.expect("the honest one is served all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_machine_keeps_its_session() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    let opened = machine.power_on().await.unwrap();
    // A stranger with the machine's whole identity, and a token of its own from a boot request of its own.
    let mut stranger = rig.machine(STRANGER);
    stranger.inventory = machine.inventory.clone();
    stranger.mac = machine.mac;
    let answer = stranger.power_on().await;
    assert_eq!(
        refused("second session for a live one", answer, &[ErrorCode::Forbidden]),
        Findings::new()
    );
    let discovery = rig.discovery(&opened.discovery).await;
    assert_eq!(condition(&discovery, "SessionRefused"), Some(true), "a person can see it");
    assert_eq!(machine.order("").await.expect("still served").order.kind, OrderKind::Wait);
    assert_eq!(rig.api.all("baremetaldiscoveries").len(), 1);
    // However often it is tried, it is written down once.
    let writes = rig.api.writes.load(Ordering::SeqCst);
    for _ in 0..5 {
        stranger.power_on().await.unwrap_err();
    }
    assert_eq!(rig.api.writes.load(Ordering::SeqCst), writes);

    // The machine itself reboots: its old session is told that it is gone, the new one is served.
    let mut old = std::mem::replace(&mut machine, rig.machine(HONEST));
    machine.inventory = old.inventory.clone();
    machine.mac = old.mac;
    let second = machine.power_on().await.expect("the same machine's next boot");
    assert_eq!(second.discovery, opened.discovery);
    assert_eq!(
        refused("old session", old.order("").await, &[ErrorCode::SessionGone]),
        Findings::new()
    );
    assert_eq!(
        refused(
            "old session's report",
            old.progress("x", progress()).await,
            &[ErrorCode::SessionGone]
        ),
        Findings::new()
    );
    assert_eq!(
        refused("old session's seed", old.seed().await, &[ErrorCode::SessionGone]),
        Findings::new()
    );
}

fn progress() -> agent_protocol::order::Progress {
    agent_protocol::order::Progress::of(agent_protocol::order::Step::Writing, 1, 2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_request_is_worth_nothing() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    machine.power_on().await.unwrap();
    let report = serde_json::to_vec(&serde_json::json!({"orderId": "x", "progress": progress()})).unwrap();
    let recorded = machine.signed(Method::POST, session::PATH_REPORTS, report);
    let first = machine.send::<serde_json::Value>(recorded.clone()).await;
    assert_eq!(refused("report without an order", first, &[ErrorCode::StaleOrder]), Findings::new());
    let again = machine.send::<serde_json::Value>(recorded.clone()).await;
    assert_eq!(
        refused("the same bytes again", again, &[ErrorCode::SignatureRefused]),
        Findings::new()
    );
    // Any part changed.
    for (header, value) in [(session::HEADER_SEQUENCE, "99"), (session::HEADER_SIGNATURE, "AAAA")] {
        let mut changed = recorded.clone();
        changed.headers_mut().insert(header, http::HeaderValue::from_static(value));
        let answer = machine.send::<serde_json::Value>(changed).await;
        assert_eq!(refused(header, answer, &[ErrorCode::SignatureRefused]), Findings::new());
    }
    let mut twice = recorded.clone();
    twice
        .headers_mut()
        .append(session::HEADER_SEQUENCE, http::HeaderValue::from_static("98"));
    let answer = machine.send::<serde_json::Value>(twice).await;
    assert_eq!(refused("two sequences", answer, &[ErrorCode::SignatureRefused]), Findings::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_leaves_once_to_the_one_session_that_writes_the_image() {
    let rig = Rig::start().await;
    assert_eq!(seeds(&rig).await, Findings::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_other_orders_are_refused() {
    let rig = Rig::start().await;
    let (mut machine, name, order) = rig.imaging("uid-report").await;
    let stale = agent_protocol::order::Order {
        id: "an-earlier-order".to_owned(),
        ..order.clone()
    };
    let mut found = refused(
        "result of a stale order",
        machine.result(machine.succeeded(&stale)).await,
        &[ErrorCode::StaleOrder],
    );
    found.extend(refused(
        "progress of a stale order",
        machine.progress("an-earlier-order", progress()).await,
        &[ErrorCode::StaleOrder],
    ));
    // A result of another kind than was ordered.
    let mut other_kind = machine.succeeded(&order);
    other_kind.kind = OrderKind::Erase;
    found.extend(refused(
        "result of another kind",
        machine.result(other_kind).await,
        &[ErrorCode::Malformed],
    ));
    assert_eq!(found, Findings::new());
    assert!(rig.discovery(&name).await.status.unwrap().result.is_none());
    // Another machine reports this machine's order.
    let mut other = rig.machine(STRANGER);
    other.power_on().await.unwrap();
    let answer = other.result(other.succeeded(&order)).await;
    assert_eq!(
        refused("another machine's order", answer, &[ErrorCode::StaleOrder]),
        Findings::new()
    );
    // The right one is stored, and repeating it changes nothing.
    machine.result(machine.succeeded(&order)).await.expect("stored");
    let stored = rig.discovery(&name).await;
    let mut lie = machine.succeeded(&order);
    lie.outcome = agent_protocol::order::Outcome::Failed;
    machine.result(lie).await.expect("a repetition is harmless");
    assert_eq!(
        rig.discovery(&name).await.metadata.resource_version,
        stored.metadata.resource_version,
        "the first word stands"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_replica_hands_out_nothing() {
    assert_eq!(stale_replica(|_| {}).await, Findings::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_checks_find_holes_that_are_planted() {
    let rig = Rig::with(|c| c.holes.token_reuse = true).await;
    let found = replayed_tokens(&rig).await;
    println!("planted token reuse: {found:?}");
    assert!(!found.is_empty(), "a token that may be redeemed again is found");

    let rig = Rig::with(|c| c.holes.seed_reuse = true).await;
    let found = seeds(&rig).await;
    println!("planted seed reuse: {found:?}");
    assert!(!found.is_empty(), "a seed that is served again is found");

    let found = stale_replica(|c| c.holes.no_fresh_read = true).await;
    println!("planted missing fresh read: {found:?}");
    assert!(!found.is_empty(), "a stale replica is found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_with_one_bogus_uuid_are_two_and_a_changed_nic_is_one() {
    let rig = Rig::start().await;
    let bogus: SystemUuid = "03000200-0400-0500-0006-000700080009".parse().unwrap();
    let mac = |n| MacAddress([2, 0, 0, 0, 1, n]);
    let mut names = std::collections::BTreeSet::new();
    let at = rig.netboot.addresses();
    for (uuid, n) in [(bogus, 1), (bogus, 2), (SystemUuid([0; 16]), 3)] {
        let mut machine = common::machine::Machine::with(HONEST, at, Some(uuid), mac(n));
        names.insert(machine.power_on().await.expect("a session").discovery);
    }
    assert_eq!(names.len(), 3);
    let mut machine = rig.machine(HONEST);
    let before = machine.power_on().await.unwrap().discovery;
    machine.mac = mac(9);
    machine.inventory.nics[0].mac = mac(9);
    assert_eq!(machine.power_on().await.unwrap().discovery, before, "the same machine");
    assert_eq!(rig.api.all("baremetaldiscoveries").len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_cannot_be_told_from_another_makes_no_object() {
    let rig = Rig::start().await;
    let mut one = rig.machine(HONEST);
    let name = one.power_on().await.unwrap().discovery;
    // The board's UUID says one thing, a moved disk and NIC say another.
    let mut other = rig.machine(HONEST);
    other.inventory.disks = one.inventory.disks.clone();
    other.inventory.nics = one.inventory.nics.clone();
    other.mac = one.mac;
    let booted = other.boot().await.expect("the agent may look closer");
    let answer: Result<SessionResponse, _> = other.open(&booted).await;
    assert_eq!(refused("conflict", answer, &[ErrorCode::IdentityConflict]), Findings::new());
    assert_eq!(rig.api.all("baremetaldiscoveries").len(), 1);
    assert_eq!(condition(&rig.discovery(&name).await, "IdentityConflict"), Some(true));
}

impl Rig {
    /// Whether this replica's own script knows the machine as claimed: it has seen the hardware.
    async fn view_has(&self, name: &str) -> bool {
        self.discoveries().get_opt(name).await.unwrap().is_some()
    }
}
