//! Whole sessions against a TLS server, with a regular file in the place of the disk.

use std::{fs, path::Path, sync::Arc, time::Duration};

use crate::support::machine_server::{MachineServer, Seen};
use agent::{
    console::Console,
    runner::Runner,
    session::{Introduction, Session},
    share::Place,
    system::Down,
};
use agent_protocol::{
    bmc_user::{BmcPrivilege, BmcUser},
    disk::{ContentsState, Disk, DiskIdentity},
    identity::MacAddress,
    inventory::Inventory,
    order::{DiskTarget, EraseMethod, EraseParameters, ExpectedContents, ImageFormat, ImageParameters, Order, OrderKind, Outcome},
    session::{ErrorCode, SessionRequest},
};
use machine::devices::KernelDevices;

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 64 << 20;

pub fn inventory(folder: &Path) -> Inventory {
    fs::File::create(folder.join("vda")).unwrap().set_len(SIZE).unwrap();
    let identity = DiskIdentity {
        serial: Some("S1".to_owned()),
        ..DiskIdentity::default()
    };
    Inventory {
        disks: vec![Disk::blank("vda", identity, SIZE)],
        ..Inventory::default()
    }
}

/// Lives one boot against `server`.
fn boot(server: &MachineServer, folder: &Path) -> Down {
    boot_at(server, folder, None)
}

/// The same, at a place in the network.
pub fn boot_at(server: &MachineServer, folder: &Path, place: Option<Place>) -> Down {
    let servers = vec![format!("https://127.0.0.1:{}", server.tls.port)];
    let introduction = Introduction {
        servers: servers.clone(),
        ca: server.tls.pin.clone(),
        token: "kbm1.test.token".to_owned(),
        boot_mac: MacAddress([2, 0, 0, 0, 0, 1]),
        inventory: inventory(folder),
    };
    let runner = Runner {
        disks: introduction.inventory.disks.clone(),
        devices: Box::new(KernelDevices::at(folder)),
        efi: None,
        guest_helper: None,
        servers,
        ca: server.tls.pin.clone(),
        place,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let console = Arc::new(Console::default());
        let life = async {
            match Session::open(&introduction, &console).await.unwrap() {
                Ok(session) => session.run(Arc::new(runner)).await,
                Err(down) => down,
            }
        };
        tokio::time::timeout(LIMIT, life).await.expect("the boot ends")
    })
}

pub fn target(expected: ContentsState) -> DiskTarget {
    DiskTarget {
        identity: DiskIdentity {
            serial: Some("S1".to_owned()),
            ..DiskIdentity::default()
        },
        size_bytes: SIZE,
        expected: vec![ExpectedContents {
            state: expected,
            fingerprint: None,
            instance_uid: None,
        }],
    }
}

fn erase(expected: ContentsState) -> Order {
    Order {
        id: "erase-1".to_owned(),
        kind: OrderKind::Erase,
        disk: Some(target(expected)),
        erase: Some(EraseParameters {
            method: EraseMethod::Overwrite,
        }),
        ..Order::wait()
    }
}

pub fn power_off() -> Order {
    Order {
        id: "off-1".to_owned(),
        kind: OrderKind::PowerOff,
        ..Order::wait()
    }
}

#[test]
fn a_repeated_order_is_answered_and_not_carried_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Seen {
        keep_order: true,
        // The server stumbles at the beginning; the agent comes back.
        refusals: [(503, ErrorCode::Overloaded), (500, ErrorCode::Internal)].into(),
        ..Seen::default()
    };
    let server = MachineServer::start(seen, |_: &SessionRequest| vec![erase(ContentsState::Blank), power_off()]);
    assert_eq!(boot(&server, folder.path()), Down::PowerOff);
    let seen = server.seen();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    let [first, second] = seen.results.as_slice() else {
        panic!("two results expected: {:?}", seen.results);
    };
    assert_eq!(first.outcome, Outcome::Succeeded, "{:?}", first.fault);
    assert_eq!(first, second, "the stored result, its duration included");
    assert!(fs::read(folder.path().join("vda")).unwrap().len() as u64 == SIZE);
}

#[test]
fn a_bmc_user_is_answered_for_once_and_holds_up_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Seen {
        bmc_user: Some(BmcUser {
            name: "kube-baremetal".to_owned(),
            password: "s3cret-password-".to_owned(),
            privilege: BmcPrivilege::Operator,
            channel: 1,
        }),
        ..Seen::default()
    };
    let server = MachineServer::start(seen, |_: &SessionRequest| vec![erase(ContentsState::Blank), power_off()]);
    assert_eq!(boot(&server, folder.path()), Down::PowerOff);
    let seen = server.seen();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert_eq!(seen.results.len(), 1);
    // Where these tests run there is no BMC; that one is made is seen in QEMU.
    let [report] = seen.bmc_reports.as_slice() else {
        panic!("one answer expected: {:?}", seen.bmc_reports)
    };
    let fault = report.fault.as_deref().unwrap_or_default();
    assert!(
        report.id == "bmc-1" && fault.contains("/dev/ipmi0") && !fault.contains("s3cret"),
        "{report:?}"
    );
}

#[test]
fn an_order_that_expects_something_else_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = MachineServer::start(Seen::default(), |_: &SessionRequest| {
        vec![erase(ContentsState::Foreign), power_off()]
    });
    assert_eq!(boot(&server, folder.path()), Down::PowerOff);
    let seen = server.seen();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert_eq!(seen.results.iter().map(|r| r.outcome).collect::<Vec<_>>(), [Outcome::Refused]);
    assert!(fs::read(folder.path().join("vda")).unwrap().iter().all(|b| *b == 0));
}

#[test]
fn an_image_that_cannot_be_had_is_a_fault_with_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = MachineServer::start(Seen::default(), |_: &SessionRequest| {
        let image = Order {
            id: "image-1".to_owned(),
            kind: OrderKind::Image,
            disk: Some(target(ContentsState::Blank)),
            image: Some(ImageParameters {
                // Nothing listens on the discard port.
                url: "http://127.0.0.1:9/image.raw".to_owned(),
                mirrors: Vec::new(),
                digest: format!("sha256:{}", "0".repeat(64)),
                format: ImageFormat::Raw,
                config_drive: false,
                packed: None,
            }),
            ..Order::wait()
        };
        vec![image, power_off()]
    });
    assert_eq!(boot(&server, folder.path()), Down::PowerOff);
    let seen = server.seen();
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    let fault = seen.results[0].fault.as_ref().unwrap();
    assert_eq!(fault.reason, agent_protocol::order::FaultReason::ImageUnreachable);
    assert!(fault.message.contains("127.0.0.1:9"), "{}", fault.message);
}

#[test]
fn a_refused_token_ends_the_boot() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Seen {
        refusals: [(401, ErrorCode::TokenRefused)].into(),
        ..Seen::default()
    };
    let server = MachineServer::start(seen, |_: &SessionRequest| Vec::new());
    assert_eq!(boot(&server, folder.path()), Down::Restart);
    assert!(server.seen().session.is_none());
}
