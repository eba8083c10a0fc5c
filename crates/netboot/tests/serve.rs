//! A machine's life as netboot sees it, files, and what happens when the API is away.

mod common;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use ::api::{
    bmc::BmcUserStatus,
    power::{CipherSuite, IpmiPrivilege},
};
use agent_protocol::{
    bmc_user::{self, BmcPrivilege, BmcUser, BmcUserReport, PATH_BMC_USER, QUERY_BMC_USER},
    guest::{GuestAction, GuestOrder, GuestRegistration, PATH_GUEST_ORDER, PATH_GUEST_REGISTER},
    order::{OrderKind, Progress, Step},
    session::{ErrorCode, OrderResponse, PATH_ORDER},
    token::{GuestClaims, TokenKey},
};
use api::discovery::BootAnswer;
use common::{
    HONEST, Rig, SECRET_TEXT, STRANGER, condition, image_order,
    machine::{Machine, connect_plain, get, send},
    until, within,
};
use http::{Method, Request, StatusCode};
use http_body_util::Full;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_from_unknown_to_installed() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    // A boot request alone leaves nothing behind.
    assert!(machine.boot().await.is_some(), "unknown: the agent");
    assert!(rig.api.all("baremetaldiscoveries").is_empty());
    let opened = machine.power_on().await.unwrap();
    assert_eq!(opened.hardware, None);
    let name = opened.discovery;
    let writes = rig.api.writes.load(Ordering::SeqCst);
    // Waiting costs nothing.
    for _ in 0..2 {
        assert_eq!(machine.order("").await.unwrap().order.kind, OrderKind::Wait);
    }
    assert_eq!(rig.api.writes.load(Ordering::SeqCst), writes, "idle costs no writes");
    // The order comes while it waits: it is woken, not polled for.
    let order = image_order(&machine, &name, "uid-1");
    let started = Instant::now();
    let (told, _) = tokio::join!(machine.order(""), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rig.accept(&name, Some("uid-1"), Some(order.clone())).await
    });
    assert_eq!(told.unwrap().order, order);
    assert!(
        started.elapsed() < Duration::from_millis(1800),
        "woken after {:?}",
        started.elapsed()
    );
    let accepted = rig.discovery(&name).await.status.unwrap().accepted_order.unwrap();
    assert_eq!(
        (accepted.id.as_str(), accepted.session.as_str()),
        (order.id.as_str(), machine.session.as_str())
    );
    assert_eq!(accepted.claim_uid, "uid-1");
    // Asked again with the order in hand: nothing else to do.
    assert_eq!(machine.order(&order.id).await.unwrap().order.kind, OrderKind::Wait);
    // Progress is written within its budget, the newest value.
    for done_bytes in 1..=50 {
        let progress = Progress::of(Step::Writing, done_bytes, 50);
        machine.progress(&order.id, progress).await.unwrap();
    }
    until("the newest progress is written", || async {
        let progress = rig.discovery(&name).await.status.unwrap().progress;
        progress.is_some_and(|p| p.done_bytes == 50)
    })
    .await;
    // A result is stored before it is answered.
    machine.result(machine.succeeded(&order)).await.unwrap();
    let status = rig.discovery(&name).await.status.unwrap();
    assert_eq!(status.result.as_ref().unwrap().order_id, order.id);
    assert!(status.result_time.is_some());
    let told = machine.order(&order.id).await.unwrap().order;
    assert_eq!(
        (told.kind, told.reboot),
        (OrderKind::Reboot, Some(agent_protocol::order::RebootTarget::Disk))
    );
    // The next boot goes to the disk, and that is remembered before it is answered; a second one soon after needs no second record.
    let script = machine.script().await;
    assert!(script.contains("sanboot"), "{script}");
    let boots = rig.discovery(&name).await.status.unwrap().boots;
    assert_eq!(boots.last().unwrap().instance_uid, "uid-1");
    machine.script().await;
    assert_eq!(rig.discovery(&name).await.status.unwrap().boots.len(), boots.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seed_comes_with_the_order_once_for_an_agent_that_takes_it_so() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    let name = machine.power_on().await.unwrap().discovery;
    let order = image_order(&machine, &name, "uid-4");
    // The order is there first; it waits a moment for its seed.
    rig.accept(&name, Some("uid-4"), Some(order.clone())).await;
    let writes = rig.api.writes.load(Ordering::SeqCst);
    let (told, ()) = tokio::join!(machine.order_with_seed(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.seal(&name, &order, SECRET_TEXT).await;
    });
    let told = told.unwrap();
    assert_eq!(told.order, order);
    let seed = agent_protocol::seed::open(&told.seed.expect("with its seed"), &machine.sealing).unwrap();
    assert_eq!(seed.files["openstack/latest/user_data"], SECRET_TEXT);
    assert_eq!(
        rig.api.writes.load(Ordering::SeqCst),
        writes + 2,
        "the Secret, and one note for both"
    );
    assert!(rig.discovery(&name).await.status.unwrap().accepted_order.unwrap().seed_served);
    // The order again, as after an answer that was lost; the seed never again in this session.
    let again = machine.order_with_seed().await.unwrap();
    assert_eq!((again.order, again.seed), (order, None));
    assert_eq!(machine.seed().await.unwrap_err(), (StatusCode::FORBIDDEN, ErrorCode::Forbidden));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_survives_a_reboot_of_its_machine() {
    let rig = Rig::start().await;
    let (mut machine, name, order) = rig.imaging("uid-2").await;
    let first = machine.session.clone();
    let opened = machine.power_on().await.expect("it was cut off and comes back");
    assert_eq!(opened.hardware.as_deref(), Some(name.as_str()));
    assert_ne!(opened.session, first);
    // The seed is of the old session: not ready until it is sealed anew.
    let told = machine.order("").await.unwrap().order;
    assert_eq!(told, order, "the same order, for the new session");
    assert_eq!(machine.seed().await.unwrap_err(), (StatusCode::NOT_FOUND, ErrorCode::NotFound));
    rig.seal(&name, &order, "again").await;
    machine.seed().await.expect("sealed anew");
    let accepted = rig.discovery(&name).await.status.unwrap().accepted_order.unwrap();
    assert_eq!(accepted.session, machine.session);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_every_machine_boots_its_own_disk() {
    let rig = Rig::start().await;
    let (mut machine, _, order) = rig.imaging("uid-3").await;
    let unknown = rig.machine(HONEST);
    assert!(unknown.boot().await.is_some());
    for hang in [false, true] {
        rig.api.down.store(!hang, Ordering::SeqCst);
        rig.api.hang.store(hang, Ordering::SeqCst);
        until("the replica notices", || async { !rig.netboot.is_ready() }).await;
        for asked in [&machine, &unknown] {
            let script = asked.script().await;
            assert!(script.contains("sanboot") && !script.contains("kbm.token"), "{script}");
        }
        // An agent that is there gets nothing destructive, and no answer to a result that could not be stored.
        let told = machine.order("").await;
        assert_eq!(told.unwrap_err(), (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded));
        let stored = within(20, machine.result(machine.succeeded(&order))).await;
        assert_eq!(stored.unwrap_err().1, ErrorCode::Overloaded);
        let mut other = rig.machine(HONEST);
        other.connect(&rig.pin()).await;
        rig.api.down.store(false, Ordering::SeqCst);
        rig.api.hang.store(false, Ordering::SeqCst);
        until("the replica recovers", || async { rig.netboot.is_ready() }).await;
        assert!(unknown.boot().await.is_some());
    }
    machine.result(machine.succeeded(&order)).await.expect("stored at last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_never_reached_the_api_answers_boots_with_the_local_disk() {
    let api = common::api::Api::new();
    api.down.store(true, Ordering::SeqCst);
    let stop = tokio_util::sync::CancellationToken::new();
    let netboot = netboot::Netboot::start(common::config(api.client(), "r"), stop.clone())
        .await
        .unwrap();
    let machine = Machine::new(HONEST, netboot.addresses());
    assert!(machine.script().await.contains("sanboot"));
    assert!(!netboot.is_ready());
    api.down.store(false, Ordering::SeqCst);
    within(30, netboot.ready()).await;
    until("the agent is served", || async { machine.boot().await.is_some() }).await;
    stop.cancel();
    within(10, netboot.stopped(Duration::from_secs(5))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_their_keys_and_any_of_them_serves_any_machine() {
    let one = Rig::start().await;
    let two = Rig::beside(one.api.clone(), "replica-1", |_| {}).await;
    assert_eq!(one.pin(), two.pin());
    // Booted at one, session at the other, order at the first again.
    let mut machine = one.machine(HONEST);
    let booted = machine.boot().await.unwrap();
    machine.move_to(two.netboot.addresses());
    let name = machine.open(&booted).await.unwrap().discovery;
    machine.move_to(one.netboot.addresses());
    machine.connect(&one.pin()).await;
    assert_eq!(machine.order("").await.expect("known here too").order.kind, OrderKind::Wait);
    let session = one.discovery(&name).await.status.unwrap().session.unwrap();
    assert_eq!(session.replica, "replica-0", "the move was written down");
    assert_eq!(one.netboot.machines(), 1);
    // Both meet a new machine at once: one object.
    let mut other = one.machine(HONEST);
    let mut twin = two.machine(HONEST);
    twin.inventory = other.inventory.clone();
    twin.mac = other.mac;
    let (a, b) = tokio::join!(other.power_on(), twin.power_on());
    assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
    assert_eq!(one.api.all("baremetaldiscoveries").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_machine_is_written_down_once_and_its_return_too() {
    let rig = Rig::with(|c| {
        c.lost_after = Duration::from_millis(600);
        c.poll = Duration::from_millis(300);
    })
    .await;
    let mut machine = rig.machine(HONEST);
    let name = machine.power_on().await.unwrap().discovery;
    machine.order("").await.unwrap();
    assert_eq!(rig.netboot.machines(), 1);
    until("its silence is noticed", || async {
        condition(&rig.discovery(&name).await, "AgentConnected") == Some(false)
    })
    .await;
    let writes = rig.api.writes.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(rig.api.writes.load(Ordering::SeqCst), writes, "once");
    machine.connect(&rig.pin()).await;
    machine.order("").await.unwrap();
    assert_eq!(condition(&rig.discovery(&name).await, "AgentConnected"), Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_never_arrives_at_its_disk_is_written_down_and_one_that_asks_for_it_is_not() {
    let rig = Rig::with(|c| {
        c.lost_after = Duration::from_millis(600);
        c.departed_after = Duration::from_millis(1200);
    })
    .await;
    let sent_away = async |uid: &str| {
        let mut machine = rig.machine(HONEST);
        let name = machine.power_on().await.unwrap().discovery;
        let order = image_order(&machine, &name, uid);
        rig.accept(&name, Some(uid), Some(order.clone())).await;
        rig.seal(&name, &order, SECRET_TEXT).await;
        assert_eq!(machine.order("").await.unwrap().order, order);
        machine.result(machine.succeeded(&order)).await.unwrap();
        assert_eq!(machine.order(&order.id).await.unwrap().order.kind, OrderKind::Reboot);
        (machine, name)
    };
    let (_lost, lost) = sent_away("uid-lost").await;
    let (arrived, there) = sent_away("uid-there").await;
    assert!(arrived.script().await.contains("sanboot"), "it asks, and is told");
    until("the first one's silence is noticed", || async {
        condition(&rig.discovery(&lost).await, "AgentConnected") == Some(false)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(condition(&rig.discovery(&there).await, "AgentConnected"), Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_registers_once_and_obeys_a_signed_order_of_its_own() {
    let rig = Rig::start().await;
    let (mut machine, name, order) = rig.imaging("uid-guest").await;
    machine.result(machine.succeeded(&order)).await.unwrap();
    let secret = rig.secrets().get("netboot-keys").await.unwrap();
    let key = TokenKey::new(&secret.data.unwrap()["token.key"].0).unwrap();
    let token = |uid: &str, nonce: &str| {
        key.issue_guest(&GuestClaims {
            instance_uid: uid.to_owned(),
            hardware: name.clone(),
            nonce: nonce.to_owned(),
        })
    };
    let mut guest = rig.machine(HONEST);
    guest.connect(&rig.pin()).await;
    let register = |guest: &Machine, token: String, boot: &str| {
        serde_json::to_vec(&GuestRegistration {
            token,
            signing_key: agent_protocol::session::encode(guest.key.verifying_key().as_bytes()),
            hostname: "web".to_owned(),
            addresses: vec!["10.0.0.5/24".to_owned()],
            boot_id: boot.to_owned(),
            told_to_leave: None,
            uptime_seconds: None,
        })
        .unwrap()
    };
    // A token of another instance, then the right one, then the same again, then another key.
    let body = register(&guest, token("uid-other", "n"), "boot-1");
    let refused = guest.call::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body).await;
    assert_eq!(refused.unwrap_err().1, ErrorCode::TokenRefused);
    for boot in ["boot-1", "boot-1", "boot-2"] {
        let body = register(&guest, token("uid-guest", "n"), boot);
        guest
            .call::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body)
            .await
            .expect("registered");
    }
    let discovery = rig.discovery(&name).await;
    let (boots, report) = discovery.status.clone().map(|s| (s.boots, s.guest.unwrap())).unwrap();
    // Firmware went to the disk by itself; that the agent is left is known all the same, and written down once.
    let systems = boots.iter().filter(|b| b.answer == BootAnswer::LocalDisk).count();
    assert_eq!((systems, boots.last().unwrap().reason.as_str()), (1, "SystemReported"));
    assert!(lifecycle::view::live_session(Some(&discovery)).is_none());
    assert_eq!((report.instance_uid.as_str(), report.boot_id.as_str()), ("uid-guest", "boot-2"));
    let mut thief = rig.machine(STRANGER);
    thief.connect(&rig.pin()).await;
    let body = register(&thief, token("uid-guest", "n"), "boot-3");
    let refused = thief.call::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body).await;
    assert_eq!(refused.unwrap_err().1, ErrorCode::TokenRefused);
    thief.session = "uid-guest".to_owned();
    let refused = thief
        .call::<GuestOrder>(Method::GET, &format!("{PATH_GUEST_ORDER}?boot=boot-2"), Vec::new())
        .await;
    assert_eq!(refused.unwrap_err().1, ErrorCode::SignatureRefused);

    // It waits; the release wakes it.
    guest.session = "uid-guest".to_owned();
    let order_key = rig.netboot.guest_order_key().unwrap();
    let path = format!("{PATH_GUEST_ORDER}?boot=boot-2");
    let waited: GuestOrder = guest.call(Method::GET, &path, Vec::new()).await.unwrap();
    assert_eq!(waited.action, GuestAction::Wait);
    assert!(waited.is_for(&order_key, "uid-guest", "boot-2"));
    let (told, ()) = tokio::join!(guest.call::<GuestOrder>(Method::GET, &path, Vec::new()), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rig.change(&name, |h| h.status.get_or_insert_default().phase = ::api::HardwarePhase::Releasing)
            .await;
    });
    let told = told.unwrap();
    assert_eq!(told.action, GuestAction::RebootToAgent);
    assert!(told.is_for(&order_key, "uid-guest", "boot-2") && !told.is_for(&order_key, "uid-guest", "boot-1"));
    // And the next boot leads to the agent.
    assert!(machine.boot().await.is_some());
    // But its own system comes instead, as it says itself.
    let body = serde_json::to_vec(&GuestRegistration {
        token: token("uid-guest", "n"),
        signing_key: agent_protocol::session::encode(guest.key.verifying_key().as_bytes()),
        hostname: "web".to_owned(),
        addresses: Vec::new(),
        boot_id: "boot-3".to_owned(),
        told_to_leave: Some("boot-2".to_owned()),
        uptime_seconds: Some(40),
    })
    .unwrap();
    guest
        .call::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body)
        .await
        .expect("registered");
    let report = rig.discovery(&name).await.status.unwrap().guest.unwrap();
    assert!(report.came_instead);
    let running = report.registered_at.0.duration_since(report.booted_at.unwrap().0);
    assert!((39..=41).contains(&running.as_secs()), "{running}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_user_goes_to_the_session_it_is_sealed_for_and_its_answer_is_stored() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    let name = machine.power_on().await.unwrap().discovery;
    rig.accept(&name, None, None).await;
    let session = rig.discovery(&name).await.status.unwrap().session.unwrap();
    let user = BmcUser {
        name: "kube-baremetal".to_owned(),
        password: SECRET_TEXT.chars().filter(char::is_ascii_alphanumeric).take(16).collect(),
        privilege: BmcPrivilege::Operator,
        channel: 1,
    };
    let asked = BmcUserStatus {
        sealed: bmc_user::seal(&user, "bmc-1", &session.thumbprint, &session.sealing_key).unwrap(),
        host: "10.0.8.12".to_owned(),
        secret: "bmc-machine".to_owned(),
        cipher_suite: CipherSuite::Suite17,
        privilege: IpmiPrivilege::Operator,
    };
    let report = |id: &str| {
        serde_json::to_vec(&BmcUserReport {
            id: id.to_owned(),
            fault: None,
        })
        .unwrap()
    };
    let path = |seen: &str| format!("{PATH_ORDER}?{QUERY_BMC_USER}{seen}");
    // Nothing was asked.
    let refused = machine
        .call::<serde_json::Value>(Method::POST, PATH_BMC_USER, report("bmc-1"))
        .await;
    assert_eq!(refused.unwrap_err().1, ErrorCode::StaleOrder);
    let ask = path("");
    let (told, ()) = tokio::join!(machine.call::<OrderResponse>(Method::GET, &ask, Vec::new()), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rig.change(&name, |h| h.status.get_or_insert_default().bmc_user = Some(asked.clone()))
            .await;
    });
    let told = told.unwrap();
    assert_eq!(told.order.kind, OrderKind::Wait);
    assert_eq!(bmc_user::open(&told.bmc_user.expect("a user"), &machine.sealing).unwrap(), user);
    // An agent that makes none, and one that has seen to it, wait as ever.
    assert_eq!(machine.order("").await.unwrap().bmc_user, None);
    let seen: OrderResponse = machine.call(Method::GET, &path("bmc-1"), Vec::new()).await.unwrap();
    assert_eq!(seen.bmc_user, None);
    let refused = machine
        .call::<serde_json::Value>(Method::POST, PATH_BMC_USER, report("bmc-2"))
        .await;
    assert_eq!(refused.unwrap_err().1, ErrorCode::StaleOrder);
    for _ in 0..2 {
        machine
            .call::<serde_json::Value>(Method::POST, PATH_BMC_USER, report("bmc-1"))
            .await
            .expect("stored");
    }
    let stored = rig.discovery(&name).await.status.unwrap().bmc_user.unwrap();
    assert_eq!((stored.id.as_str(), stored.fault.as_str()), ("bmc-1", ""));
    // Another boot of the machine gets nothing that it could not open.
    machine.power_on().await.unwrap();
    let told: OrderResponse = machine.call(Method::GET, &path(""), Vec::new()).await.unwrap();
    assert_eq!(told.bmc_user, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_served_by_name_in_parts_and_never_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let (media, images) = (folder.path().join("media"), folder.path().join("images"));
    std::fs::create_dir_all(images.join("sub")).unwrap();
    std::fs::create_dir_all(media.join("amd64")).unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(images.join("debian-13.raw"), &bytes).unwrap();
    std::fs::write(images.join(".hidden"), "secret").unwrap();
    std::fs::write(images.join("sub/file"), "secret").unwrap();
    std::fs::write(folder.path().join("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", images.join("link")).unwrap();
    std::fs::write(media.join("amd64/vmlinuz"), "kernel").unwrap();
    std::fs::write(media.join("amd64/initramfs.zst"), "initramfs").unwrap();
    std::fs::write(media.join("amd64/manifest.json"), "secret").unwrap();
    let rig = Rig::with(|c| {
        c.media_dir = Some(media.clone());
        c.image_dir = Some(images.clone());
    })
    .await;
    let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
    for (path, want) in [
        ("/boot/media/amd64/vmlinuz", "kernel"),
        ("/boot/media/amd64/initramfs", "initramfs"),
    ] {
        let (status, body) = send(&mut plain, get(path)).await;
        assert_eq!((status, body.as_ref()), (StatusCode::OK, want.as_bytes()), "{path}");
    }
    let (status, body) = send(&mut plain, get("/images/debian-13.raw")).await;
    assert_eq!((status, body.as_ref() == bytes), (StatusCode::OK, true));
    let with = |name: &'static str, value: &str, method: Method| {
        Request::builder()
            .method(method)
            .uri("/images/debian-13.raw")
            .header("host", "x")
            .header(name, value)
            .body(Full::default())
            .unwrap()
    };
    let (status, body) = send(&mut plain, with("range", "bytes=1000-1999", Method::GET)).await;
    assert_eq!((status, body.as_ref() == &bytes[1000..2000]), (StatusCode::PARTIAL_CONTENT, true));
    let (status, _) = send(&mut plain, with("range", "bytes=1000000-", Method::GET)).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    plain.ready().await.unwrap();
    let head = plain.send_request(with("accept", "*/*", Method::HEAD)).await.unwrap();
    assert_eq!(head.headers()["content-length"], "1000000");
    assert_eq!(head.headers()["accept-ranges"], "bytes");
    let etag = head.headers()["etag"].to_str().unwrap().to_owned();
    drop(head);
    let (status, body) = send(&mut plain, with("if-none-match", &etag, Method::GET)).await;
    assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));
    for path in [
        "/images/.hidden",
        "/images/link",
        "/images/sub",
        "/images/sub/file",
        "/images/../outside",
        "/images/..%2foutside",
        "/images/%2e%2e%2foutside",
        "/images/%2fetc%2fpasswd",
        "/images//etc/passwd",
        "/images/debian-13.raw%00",
        "/boot/media/amd64/manifest.json",
        "/boot/media/amd64/initramfs.zst",
        "/boot/media/amd64/..%2f..%2f..%2foutside",
        "/boot/media/../outside",
        "/boot/media/%2e%2e/outside",
        "/boot/media/arm64/vmlinuz",
        "/boot/media/vmlinuz",
    ] {
        let (status, body) = send(&mut plain, get(path)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(!body.windows(6).any(|w| w == b"secret"), "{path}");
    }
    // A file that appears is found, one that is changed gets another ETag.
    std::fs::write(images.join("debian-13.raw"), b"changed").unwrap();
    let (status, body) = send(&mut plain, with("if-none-match", &etag, Method::GET)).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"changed"[..]));
    std::fs::write(images.join("new"), b"n").unwrap();
    until("a new file is served", || async {
        let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
        send(&mut plain, get("/images/new")).await.0 == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_by_field() {
    let api = common::api::Api::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let start = |change: fn(&mut netboot::Config)| {
        let mut config = common::config(api.client(), "r");
        change(&mut config);
        let stop = stop.clone();
        async move { netboot::Netboot::start(config, stop).await.err().expect("refused").to_string() }
    };
    assert!(start(|c| c.advertise = vec!["a b".to_owned()]).await.contains("advertise"));
    assert!(
        start(|c| c.kernel_arguments = vec!["x=${uuid}".to_owned()])
            .await
            .contains("kernelArguments")
    );
    assert!(
        start(|c| c.kernel_arguments = vec!["kbm.server=x".to_owned()])
            .await
            .contains("kernelArguments")
    );
    assert!(start(|c| c.quotas.connections = 0).await.contains("quotas.connections"));
    assert!(start(|c| c.replica.clear()).await.contains("replica"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = common::config(api.client(), "r");
    config.http = taken.local_addr().unwrap();
    // The listener of somebody else holds the port.
    let error = netboot::Netboot::start(config, stop.clone())
        .await
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("cannot listen on"), "{error}");
}

/// Many machines wait at once; a change of one wakes that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_machines_wait_and_one_is_woken() {
    const MACHINES: usize = 1_000;
    let rig = Rig::with(|c| {
        c.poll = Duration::from_secs(30);
        c.quotas = netboot::Quotas::for_lab(MACHINES);
    })
    .await;
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(32));
    for n in 0..MACHINES {
        let mut machine = rig.machine(HONEST);
        let gate = gate.clone();
        tasks.spawn(async move {
            let name = {
                let _permit = gate.acquire().await.unwrap();
                machine.power_on().await.expect("a session").discovery
            };
            (n, name, machine)
        });
    }
    let mut machines = Vec::new();
    while let Some(opened) = tasks.join_next().await {
        machines.push(opened.unwrap());
    }
    let opened = started.elapsed();
    let (_, name, mut chosen) = machines.pop().unwrap();
    for (_, _, mut machine) in machines {
        tasks.spawn(async move {
            let told = machine.order("").await;
            assert_eq!(told.unwrap().order.kind, OrderKind::Wait);
            (0, String::new(), machine)
        });
    }
    let order = image_order(&chosen, &name, "uid-many");
    let writes = rig.api.writes.load(Ordering::SeqCst);
    assert_eq!(writes, MACHINES + 1, "one write for each session, one for the keys");
    let (told, woken) = tokio::join!(chosen.order(""), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = Instant::now();
        rig.accept(&name, Some("uid-many"), Some(order.clone())).await;
        at
    });
    assert_eq!(told.unwrap().order, order);
    println!(
        "{MACHINES} sessions in {opened:?}; an order reached its machine {:?} after it was written",
        woken.elapsed()
    );
    assert!(woken.elapsed() < Duration::from_secs(5));
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_of_a_moved_instance_is_known_by_the_uid_that_it_was_installed_under() {
    let rig = Rig::start().await;
    let (_, name, _) = rig.imaging("uid-new").await;
    let secret = rig.secrets().get("netboot-keys").await.unwrap();
    let key = TokenKey::new(&secret.data.unwrap()["token.key"].0).unwrap();
    let token = |uid: &str| {
        key.issue_guest(&GuestClaims {
            instance_uid: uid.to_owned(),
            hardware: name.clone(),
            nonce: uid.to_owned(),
        })
    };
    let register = |guest: &Machine, uid: &str| {
        serde_json::to_vec(&GuestRegistration {
            token: token(uid),
            signing_key: agent_protocol::session::encode(guest.key.verifying_key().as_bytes()),
            hostname: "web".to_owned(),
            addresses: Vec::new(),
            boot_id: "boot".to_owned(),
            told_to_leave: None,
            uptime_seconds: None,
        })
        .unwrap()
    };
    let mut guest = rig.machine(HONEST);
    guest.connect(&rig.pin()).await;
    let body = register(&guest, "uid-old");
    let refused = guest.call::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body).await;
    assert_eq!(
        refused.unwrap_err().1,
        ErrorCode::TokenRefused,
        "nothing says that it is the same instance"
    );
    rig.change(&name, |h| {
        h.spec.claim_ref.as_mut().unwrap().installation_uid = Some("uid-old".to_owned())
    })
    .await;
    let body = register(&guest, "uid-old");
    guest
        .call::<serde_json::Value>(Method::POST, PATH_GUEST_REGISTER, body)
        .await
        .expect("the same instance");
    guest.session = "uid-old".to_owned();
    rig.change(&name, |h| h.status.as_mut().unwrap().phase = ::api::HardwarePhase::Releasing)
        .await;
    let path = format!("{PATH_GUEST_ORDER}?boot=boot");
    let told = within(20, async {
        loop {
            let told: GuestOrder = guest.call(Method::GET, &path, Vec::new()).await.unwrap();
            if told.action != GuestAction::Wait {
                return told;
            }
        }
    })
    .await;
    assert_eq!(told.action, GuestAction::RebootToAgent);
    assert!(
        told.is_for(&rig.netboot.guest_order_key().unwrap(), "uid-old", "boot"),
        "signed for the name that it knows"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_goes_on_in_the_network_that_it_is_told_and_in_no_third_one() {
    let api = common::api::Api::new();
    let networks: kube::Api<api::BareMetalNetwork> = kube::Api::all(api.client());
    let make = async |name: &str, spec: serde_json::Value| {
        let network = api::BareMetalNetwork::new(name, serde_json::from_value(spec).unwrap());
        networks.create(&kube::api::PostParams::default(), &network).await.unwrap();
    };
    let native = serde_json::json!({
        "ipv4": { "prefix": "127.0.1.0/24" },
        "bootNetwork": { "networkName": "machines", "bond": { "mode": "802.3ad" } },
    });
    make("native", native).await;
    // What is there when it starts is known before anything is answered.
    let rig = Rig::beside(api, "replica-0", |_| {}).await;
    let native = "127.0.1.7".parse().unwrap();
    let mut machine = rig.machine(native);
    // The network that is named is not there: nothing of it is told, and that is said.
    assert!(!machine.script().await.contains("kbm.bond"));
    let opened = machine.power_on().await.unwrap();
    let discovery = rig.discovery(&opened.discovery).await;
    assert_eq!(condition(&discovery, "AgentNetwork"), Some(false));

    make(
        "machines",
        serde_json::json!({ "ipv4": { "prefix": "127.0.42.0/24" }, "vlan": 42, "mtu": 9000 }),
    )
    .await;
    until("the VLAN is told", || async {
        machine.script().await.contains(" kbm.vlan=42 kbm.mtu=9000 kbm.bond=802.3ad ")
    })
    .await;
    for (from, allowed) in [("127.0.43.9", false), ("127.0.42.9", true), ("127.0.1.7", true)] {
        let mut machine = rig.machine(native);
        let booted = machine.boot().await.unwrap();
        machine.from = from.parse().unwrap();
        assert_eq!(machine.open(&booted).await.is_ok(), allowed, "{from}");
    }
    // What its own hardware object says outweighs the network.
    rig.accept(&opened.discovery, None, None).await;
    rig.change(&opened.discovery, |h| h.spec.boot_network = Some(api::BootNetwork::default()))
        .await;
    until("nothing is told any more", || async {
        !machine.script().await.contains("kbm.vlan")
    })
    .await;
}
