//! Whole image orders on files that play disks.

use std::path::Path;

use agent_protocol::{
    disk::{ContentsState, DiskMarker},
    order::{Claim, DiskTarget, ExpectedContents, FaultReason, Outcome, PackedSource},
};
use image::MemorySource;

use super::*;
use crate::{KernelDevices, target::tests::disk as named_disk};

mod immutability;

const MIB: u64 = 1 << 20;
static GO: AtomicBool = AtomicBool::new(false);

/// A bench: one disk of 64 MiB of zeros, an image of 16 MiB with a GPT, an order that joins them.
struct Bench {
    folder: tempfile::TempDir,
    disks: Vec<Disk>,
    image: Vec<u8>,
    order: Order,
    seed: Seed,
}

fn gpt_image() -> Vec<u8> {
    use std::{io::Write, process::*};
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16 * MIB).unwrap();
    let mut child = Command::new("/usr/sbin/sfdisk")
        .arg("-q")
        .arg(file.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("fdisk is installed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"label: gpt\nstart=2048, size=8192, type=U\nstart=12288, size=8192, type=L, name=root\n")
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut image = std::fs::read(file.path()).unwrap();
    for (at, byte) in image[(6 * MIB) as usize..(9 * MIB) as usize].iter_mut().enumerate() {
        *byte = (at % 253) as u8;
    }
    image
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("sda")).unwrap().set_len(64 * MIB).unwrap();
        let image = gpt_image();
        let disk = named_disk("sda", "S1", 64 * MIB);
        let blank = ExpectedContents {
            state: ContentsState::Blank,
            fingerprint: None,
            instance_uid: None,
        };
        let order = Order {
            id: "order-1".to_owned(),
            kind: OrderKind::Image,
            claim: Some(Claim {
                namespace: "default".to_owned(),
                name: "web-1".to_owned(),
                uid: "uid-1".to_owned(),
            }),
            hardware: "bm-1".to_owned(),
            disk: Some(DiskTarget {
                identity: disk.identity.clone(),
                size_bytes: disk.size_bytes,
                expected: vec![blank],
            }),
            image: Some(ImageParameters {
                url: "http://images.example/debian.raw".to_owned(),
                mirrors: Vec::new(),
                digest: Digest::sha256_of(&image).to_string(),
                format: ImageFormat::Raw,
                config_drive: true,
                packed: None,
            }),
            ..Order::wait()
        };
        let seed = Seed {
            files: [("openstack/latest/user_data".to_owned(), "#cloud-config\n".to_owned())].into(),
            guest_helper: true,
        };
        Self {
            folder,
            disks: vec![disk],
            image,
            order,
            seed,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("sda")
    }

    fn stream(&self) -> ImageSource {
        ImageSource::Stream(Box::new(MemorySource::new("http://images.example/debian.raw", self.image.clone())))
    }

    fn run_with(&self, seed: Option<&Seed>, cancel: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> OrderResult {
        self.run_from(self.stream(), seed, cancel, progress)
    }

    fn run_from(&self, source: ImageSource, seed: Option<&Seed>, cancel: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> OrderResult {
        let job = ImageJob {
            order: &self.order,
            disks: &self.disks,
            protected: &[],
            devices: &KernelDevices::at(self.folder.path()),
            source,
            seed,
            guest_helper: Some(b"\x7fELF helper"),
            efi: None,
            cancel,
        };
        run_image(job, progress)
    }

    fn run(&self) -> OrderResult {
        self.run_with(Some(&self.seed), &GO, &mut |_| {})
    }

    fn refused(&self, reason: FaultReason) -> String {
        let before = std::fs::read(self.path()).ok();
        let result = self.run();
        let fault = result.fault.unwrap();
        assert_eq!((result.outcome, fault.reason), (Outcome::Refused, reason), "{}", fault.message);
        assert_eq!(std::fs::read(self.path()).ok(), before, "a refusal changes nothing");
        fault.message
    }
}

fn marker_of(path: &Path) -> (ContentsState, Option<DiskMarker>) {
    let found = contents::probe(&image::Disk::open_read_only(path).unwrap());
    (found.state, found.marker)
}

#[test]
fn a_blank_disk_becomes_an_installation_with_marker_and_config_drive() {
    let bench = Bench::new();
    let mut steps = Vec::new();
    let result = bench.run_with(Some(&bench.seed), &GO, &mut |p| steps.push(p.step));
    assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.fault);
    let evidence = result.image.unwrap();
    assert_eq!(evidence.digest, bench.order.image.as_ref().unwrap().digest);
    assert!(
        evidence.verified_bytes >= 16 * MIB && evidence.config_drive.as_ref().unwrap().contains("(gpt)"),
        "{evidence:?}"
    );
    let contents = result.contents.unwrap();
    assert_eq!(contents.state, ContentsState::Marked);
    let marker = contents.marker.unwrap();
    assert_eq!(
        (marker.instance.as_str(), marker.instance_uid.as_str(), marker.order_id.as_str()),
        ("default/web-1", "uid-1", "order-1")
    );
    let drive = contents
        .signatures
        .iter()
        .find(|s| s.label.as_deref() == Some("config-2"))
        .expect("a file system of that label");
    assert_eq!(drive.kind, "vfat");
    for step in [Step::Preparing, Step::Writing, Step::Verifying, Step::Configuring] {
        assert!(steps.contains(&step), "{step:?}");
    }
    let bytes = std::fs::read(bench.path()).unwrap();
    assert_eq!(
        bytes[(6 * MIB) as usize..(9 * MIB) as usize],
        bench.image[(6 * MIB) as usize..(9 * MIB) as usize]
    );
    let file_system = &bytes[drive.offset as usize..];
    let fs = fatfs::FileSystem::new(std::io::Cursor::new(file_system.to_vec()), fatfs::FsOptions::new()).unwrap();
    for path in [
        "openstack/latest/user_data",
        "kube-baremetal/guest-helper",
        "kube-baremetal/boot.json",
    ] {
        fs.root_dir().open_file(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

#[test]
fn each_fault_has_its_reason_and_leaves_the_disk_alone() {
    let mut bench = Bench::new();
    let usual = bench.disks.clone();

    bench.disks = vec![named_disk("sda", "S2", 64 * MIB)];
    assert!(bench.refused(FaultReason::DiskNotFound).contains("serial S1"));
    bench.disks = vec![usual[0].clone(), named_disk("sdb", "S1", 64 * MIB)];
    bench.refused(FaultReason::DiskAmbiguous);
    bench.disks = vec![Disk {
        size_bytes: 32 * MIB,
        ..usual[0].clone()
    }];
    bench.refused(FaultReason::DiskSizeMismatch);
    bench.disks = vec![Disk {
        removable: true,
        ..usual[0].clone()
    }];
    bench.refused(FaultReason::DiskProtected);
    bench.disks = usual;

    let whole = bench.image.clone();
    bench.image = b"\x1f\x8b\x08 not raw".repeat(100);
    bench.refused(FaultReason::ImageFormatMismatch);
    bench.image = whole;

    bench.order.image.as_mut().unwrap().digest = "md5:00".to_owned();
    bench.refused(FaultReason::Internal);
}

#[test]
fn data_that_nobody_gave_up_is_left_alone_and_named() {
    let bench = Bench::new();
    let mut bytes = vec![0; (64 * MIB) as usize];
    bytes[..4].copy_from_slice(b"XFSB");
    std::fs::write(bench.path(), bytes).unwrap();
    let message = bench.refused(FaultReason::UnexpectedContents);
    assert!(
        message.contains("xfs") && message.contains("a blank disk") && message.contains("give up"),
        "{message}"
    );
}

#[test]
fn a_config_drive_without_a_seed_is_refused() {
    let bench = Bench::new();
    let result = bench.run_with(None, &GO, &mut |_| {});
    assert_eq!(
        (result.outcome, result.fault.unwrap().reason),
        (Outcome::Refused, FaultReason::SeedUnavailable)
    );
    assert_eq!(marker_of(&bench.path()).0, ContentsState::Blank);
}

#[test]
fn a_wrong_digest_leaves_an_interrupted_disk_that_the_same_order_may_finish() {
    let mut bench = Bench::new();
    let right = bench.order.image.clone();
    bench.order.image.as_mut().unwrap().digest = Digest::sha256_of(b"other").to_string();
    let result = bench.run();
    assert_eq!(
        (result.outcome, result.fault.unwrap().reason),
        (Outcome::Failed, FaultReason::ImageDigestMismatch)
    );
    assert_eq!(result.contents.unwrap().state, ContentsState::Interrupted);
    let (state, marker) = marker_of(&bench.path());
    assert_eq!((state, marker.unwrap().order_id.as_str()), (ContentsState::Interrupted, "order-1"));

    bench.order.image = right;
    assert_eq!(bench.run().outcome, Outcome::Succeeded);
}

#[test]
fn stopping_leaves_the_disk_marked() {
    let bench = Bench::new();
    let cancel = AtomicBool::new(false);
    let result = bench.run_with(Some(&bench.seed), &cancel, &mut |p| {
        cancel.store(p.step == Step::Verifying, Ordering::Relaxed)
    });
    assert_eq!(result.outcome, Outcome::Failed);
    assert_eq!(marker_of(&bench.path()).0, ContentsState::Interrupted);
}

#[test]
fn without_a_config_drive_the_disk_is_named_by_its_fingerprint() {
    let mut bench = Bench::new();
    bench.order.image.as_mut().unwrap().config_drive = false;
    let result = bench.run_with(None, &GO, &mut |_| {});
    assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.fault);
    let contents = result.contents.unwrap();
    assert_eq!(contents.state, ContentsState::Foreign);
    assert_eq!(result.image.unwrap().config_drive, None);
}

#[test]
fn a_packed_image_gives_the_same_installation_and_only_the_one_that_the_order_names_is_written() {
    let mut bench = Bench::new();
    let folder = bench.folder.path().join("packed");
    let source = Box::new(MemorySource::new("debian.raw", bench.image.clone()));
    let image = image::open(source, &Digest::sha256_of(&bench.image), None, &image::pack::packing_limit()).unwrap();
    let go = &mut |_| ControlFlow::Continue(());
    image::pack::pack(image, &folder, &image::pack::PackOptions::default(), go).unwrap();
    let packed = || {
        let (manifest, chunks) = image::pack::DirSource::open(&folder).unwrap();
        ImageSource::Packed(Box::new(manifest), Box::new(chunks))
    };
    let digest = image::pack::DirSource::open(&folder).unwrap().0.digest().to_string();
    let named = |digest: &str| {
        Some(PackedSource {
            digest: digest.to_owned(),
            urls: Vec::new(),
        })
    };

    let before = std::fs::read(bench.path()).unwrap();
    bench.order.image.as_mut().unwrap().packed = named(&format!("blake3:{}", "0".repeat(64)));
    let refused = bench.run_from(packed(), Some(&bench.seed), &GO, &mut |_| {});
    let fault = refused.fault.unwrap();
    assert_eq!(
        (refused.outcome, fault.reason),
        (Outcome::Refused, FaultReason::ImageDigestMismatch)
    );
    assert!(std::fs::read(bench.path()).unwrap() == before, "a refusal changes nothing");

    bench.order.image.as_mut().unwrap().packed = named(&digest);
    let result = bench.run_from(packed(), Some(&bench.seed), &GO, &mut |_| {});
    assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.fault);
    assert_eq!(
        result.image.unwrap().digest,
        bench.order.image.as_ref().unwrap().digest,
        "its own name stays"
    );
    let disk = std::fs::read(bench.path()).unwrap();
    assert!(disk[(6 * MIB) as usize..(9 * MIB) as usize] == bench.image[(6 * MIB) as usize..(9 * MIB) as usize]);
    assert_eq!(marker_of(&bench.path()).0, ContentsState::Marked);
}
