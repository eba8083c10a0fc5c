//! The guest helper against a TLS server.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::tls_server::{Request, TlsServer};
use agent::guest::{Folder, wait_for_order};
use agent_protocol::{
    guest::{GuestAction, GuestConfig, GuestOrder, GuestRegistration, PATH_GUEST_ORDER, PATH_GUEST_REGISTER},
    limits,
    session::encode,
};
use ed25519_dalek::SigningKey;

#[derive(Default)]
struct Seen {
    registrations: Vec<GuestRegistration>,
    problems: Vec<String>,
    polls: usize,
    last_sequence: u64,
}

/// The first polls bring orders that must not be obeyed: of another key, of another boot, for another instance.
fn answer(seen: &mut Seen, request: &Request) -> Result<String, String> {
    let (server, stranger) = (SigningKey::from_bytes(&[5; 32]), SigningKey::from_bytes(&[6; 32]));
    if request.session != "uid-1" || request.sequence <= seen.last_sequence {
        return Err(format!("session {:?} sequence {}", request.session, request.sequence));
    }
    seen.last_sequence = request.sequence;
    if request.path == PATH_GUEST_REGISTER {
        let said: GuestRegistration = limits::parse(&request.body).map_err(|e| e.to_string())?;
        request.verify(&said.signing_key)?;
        seen.registrations.push(said);
        return Ok("{}".to_owned());
    }
    let registration = seen.registrations.last().ok_or("not registered")?;
    request.verify(&registration.signing_key)?;
    let boot = registration.boot_id.as_str();
    if request.path != format!("{PATH_GUEST_ORDER}?boot={boot}") {
        return Err(request.path.clone());
    }
    seen.polls += 1;
    let order = match seen.polls {
        1 => GuestOrder::sign(&stranger, "uid-1", GuestAction::PowerOff, boot),
        2 => GuestOrder::sign(&server, "uid-1", GuestAction::PowerOff, "another boot"),
        3 => GuestOrder::sign(&server, "uid-2", GuestAction::PowerOff, boot),
        4 => GuestOrder::sign(&server, "uid-1", GuestAction::Wait, boot),
        _ => GuestOrder::sign(&server, "uid-1", GuestAction::RebootToAgent, boot),
    };
    serde_json::to_string(&order).map_err(|e| e.to_string())
}

#[test]
fn it_registers_one_key_and_obeys_only_its_own_order_of_this_boot() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    let server = TlsServer::start(Arc::new(move |request: Request| {
        let mut seen = shared.lock().unwrap();
        match answer(&mut seen, &request) {
            Ok(text) => (200, text),
            Err(problem) => {
                seen.problems.push(problem);
                (400, "{}".to_owned())
            }
        }
    }));
    let folder = tempfile::tempdir().unwrap();
    let config = GuestConfig {
        servers: vec![format!("https://127.0.0.1:{}", server.port)],
        ca: server.pin.clone(),
        instance_uid: "uid-1".to_owned(),
        token: "kbm1.guest.token".to_owned(),
        order_key: encode(SigningKey::from_bytes(&[5; 32]).verifying_key().as_bytes()),
    };
    fs::write(folder.path().join("guest.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = Folder::at(folder.path());
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), wait_for_order(&folder))
                .await
                .expect("it ends")
                .unwrap()
        })
    };
    assert_eq!(run(), GuestAction::RebootToAgent);
    // The helper starts again, in a later boot or after a crash: the same key with the same token.
    assert_eq!(run(), GuestAction::RebootToAgent);
    let seen = seen.lock().unwrap();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert_eq!(
        seen.polls, 6,
        "five in the first run, of which four were not obeyed, and one in the second"
    );
    let [first, second] = seen.registrations.as_slice() else {
        panic!("two registrations expected");
    };
    assert_eq!(first.signing_key, second.signing_key);
    assert_eq!(first.token, "kbm1.guest.token");
    assert!(!first.boot_id.is_empty() && !first.hostname.is_empty());
}
