//! Whole erase orders on files that play disks.

use agent_protocol::{
    disk::ContentsState,
    order::{Claim, DiskTarget, EraseMethod, EraseParameters, ExpectedContents, FaultReason, Outcome},
};

use super::*;
use crate::{KernelDevices, marker, target::tests::disk as named_disk};

const SIZE: usize = 24 << 20;
static GO: AtomicBool = AtomicBool::new(false);

struct Bench {
    folder: tempfile::TempDir,
    disks: Vec<Disk>,
    order: Order,
}

impl Bench {
    /// A disk with these bytes, and an order that allows what is given.
    fn new(bytes: &[u8], expected: ExpectedContents) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sda"), bytes).unwrap();
        let disk = named_disk("sda", "S1", SIZE as u64);
        let order = Order {
            id: "order-2".to_owned(),
            kind: OrderKind::Erase,
            claim: Some(Claim {
                namespace: "default".to_owned(),
                name: "web-1".to_owned(),
                uid: "uid-1".to_owned(),
            }),
            hardware: "bm-1".to_owned(),
            disk: Some(DiskTarget {
                identity: disk.identity.clone(),
                size_bytes: disk.size_bytes,
                expected: vec![expected],
            }),
            erase: Some(EraseParameters {
                method: EraseMethod::Quick,
            }),
            ..Order::wait()
        };
        Self {
            folder,
            disks: vec![disk],
            order,
        }
    }

    fn run(&self, protected: &[DiskIdentity]) -> OrderResult {
        let devices = KernelDevices::at(self.folder.path());
        let job = EraseJob {
            order: &self.order,
            disks: &self.disks,
            protected,
            devices: &devices,
            efi: None,
            cancel: &GO,
        };
        run_erase(job, &mut |_| {})
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("sda")).unwrap()
    }
}

fn installed() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE).map(|n| (n % 249) as u8).collect();
    let marker = agent_protocol::disk::DiskMarker {
        order_id: "order-1".to_owned(),
        ..marker::tests::example()
    };
    let marker = agent_protocol::disk::DiskMarker {
        instance_uid: "uid-1".to_owned(),
        ..marker
    };
    bytes[SIZE - marker::MARKER_BYTES..].copy_from_slice(&marker::encode(&marker).unwrap());
    bytes
}

fn marked(uid: &str) -> ExpectedContents {
    ExpectedContents {
        state: ContentsState::Marked,
        fingerprint: None,
        instance_uid: Some(uid.to_owned()),
    }
}

#[test]
fn the_named_installation_is_erased_with_evidence() {
    let bench = Bench::new(&installed(), marked("uid-1"));
    let result = bench.run(&[]);
    assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.fault);
    let evidence = result.erase.unwrap();
    assert_eq!(
        (evidence.order_id.as_str(), evidence.claim_uid.as_str(), evidence.size_bytes),
        ("order-2", "uid-1", SIZE as u64)
    );
    assert!(evidence.canaries > 0 && evidence.sampled_blocks > 256, "{evidence:?}");
    assert_eq!(result.contents.unwrap().state, ContentsState::Blank);
    assert!(bench.bytes().iter().all(|b| *b == 0));
}

#[test]
fn somebody_elses_installation_is_left_alone() {
    let bench = Bench::new(&installed(), marked("uid-2"));
    let result = bench.run(&[]);
    let fault = result.fault.unwrap();
    assert_eq!((result.outcome, fault.reason), (Outcome::Refused, FaultReason::UnexpectedContents));
    assert!(
        fault.message.contains("default/web-1") && fault.message.contains("uid-2"),
        "{}",
        fault.message
    );
    assert_eq!(bench.bytes(), installed());
}

#[test]
fn protected_disks_are_left_alone() {
    let bench = Bench::new(&installed(), marked("uid-1"));
    let result = bench.run(&[bench.disks[0].identity.clone()]);
    assert_eq!(
        (result.outcome, result.fault.unwrap().reason),
        (Outcome::Refused, FaultReason::DiskProtected)
    );
    assert_eq!(bench.bytes(), installed());
}

#[test]
fn an_erase_that_was_interrupted_is_finished_by_the_same_order_only() {
    let mut bytes = installed();
    let own = agent_protocol::disk::DiskMarker {
        order_id: "order-2".to_owned(),
        ..marker::tests::example()
    };
    let payload = crate::erase::in_progress_payload(&own).unwrap();
    bytes[..512].copy_from_slice(&image::marker::encode(&payload).unwrap());
    let mut bench = Bench::new(&bytes, marked("uid-1"));
    bench.order.id = "order-3".to_owned();
    assert_eq!(bench.run(&[]).outcome, Outcome::Refused);
    bench.order.id = "order-2".to_owned();
    assert_eq!(bench.run(&[]).outcome, Outcome::Succeeded);
}
