//! Two machines' disks written from one pack are the same but for what their status lists: judged by a program that knows nothing of this code.

use std::{
    os::unix::fs::FileExt,
    path::PathBuf,
    process::{Command, Output},
};

use agent_protocol::order::OwnPart;

use super::*;

/// A bench with a disk of that size, for an instance of that name, with something left behind where nothing is written.
fn machine(image: &[u8], name: &str, size: u64, config_drive: bool) -> Bench {
    let mut bench = Bench::new();
    let file = std::fs::File::options().write(true).open(bench.path()).unwrap();
    file.write_all_at(&name.as_bytes().repeat(1000), 24 * MIB).unwrap();
    file.set_len(size).unwrap();
    bench.disks = vec![named_disk("sda", name, size)];
    let found = contents::probe(&image::Disk::open_read_only(&bench.path()).unwrap());
    bench.order.disk = Some(DiskTarget {
        identity: bench.disks[0].identity.clone(),
        size_bytes: size,
        expected: vec![ExpectedContents {
            state: found.state,
            fingerprint: Some(found.fingerprint),
            instance_uid: None,
        }],
    });
    bench.order.id = format!("order-of-{name}");
    bench.order.claim = Some(Claim {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
    });
    let parameters = bench.order.image.as_mut().unwrap();
    parameters.digest = Digest::sha256_of(image).to_string();
    parameters.config_drive = config_drive;
    bench
        .seed
        .files
        .insert("openstack/latest/meta_data.json".to_owned(), format!("{{\"uuid\": \"{name}\"}}"));
    bench
}

/// The same image, packed, in a new folder.
fn pack(image: &[u8], folder: &Path) {
    let source = Box::new(MemorySource::new("debian.raw", image.to_vec()));
    let opened = image::open(source, &Digest::sha256_of(image), None, &image::pack::packing_limit()).unwrap();
    let go = &mut |_| ControlFlow::Continue(());
    image::pack::pack(opened, folder, &image::pack::PackOptions::default(), go).unwrap();
}

/// Writes a machine's disk, and gives its evidence as status has it.
fn written(bench: &mut Bench, pack: &Path) -> ImageEvidence {
    let (manifest, chunks) = image::pack::DirSource::open(pack).unwrap();
    bench.order.image.as_mut().unwrap().packed = Some(PackedSource {
        digest: manifest.digest().to_string(),
        urls: Vec::new(),
    });
    let source = ImageSource::Packed(Box::new(manifest), Box::new(chunks));
    let seed = bench.order.image.as_ref().unwrap().config_drive.then_some(&bench.seed);
    let result = bench.run_from(source, seed, &GO, &mut |_| {});
    assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.fault);
    result.image.unwrap()
}

fn compare(image_bytes: u64, disks: [(PathBuf, &ImageEvidence); 2]) -> Output {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/immutability/compare.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(program).arg(image_bytes.to_string());
    for (disk, evidence) in disks {
        let status = disk.with_extension("status");
        std::fs::write(&status, serde_json::to_vec(evidence).unwrap()).unwrap();
        command.arg(disk).arg(status);
    }
    command.output().expect("python3 is there")
}

fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{why}: {output:?}");
}

#[test]
fn two_disks_from_one_pack_differ_in_the_listed_ranges_alone() {
    let home = tempfile::tempdir().unwrap();
    let image = gpt_image();
    let folder = home.path().join("pack");
    pack(&image, &folder);
    for (sizes, config_drive) in [([64, 64], true), ([64, 81], true), ([64, 64], false), ([16, 16], false)] {
        let [mut one, mut other] =
            [("m-1", sizes[0]), ("m-2", sizes[1])].map(|(name, size)| machine(&image, name, size * MIB, config_drive));
        let evidence = [written(&mut one, &folder), written(&mut other, &folder)];
        let of = |place: usize| ([&one, &other][place].path(), &evidence[place]);
        let output = compare(image.len() as u64, [of(0), of(1)]);
        assert!(
            output.status.success(),
            "{sizes:?}, config drive {config_drive}: {output:?}\n{:?}",
            evidence[0].own_ranges
        );
        let listed = |part| evidence[0].own_ranges.iter().any(|range| range.part == part);
        assert_eq!(listed(OwnPart::ConfigDrive), config_drive);
        assert_eq!(listed(OwnPart::Unwritten), sizes[0] > 16);
        if sizes != [64, 64] || !config_drive {
            continue;
        }

        // And it sees what is not so: one bit anywhere else, a range too many, too large, or too few.
        let file = std::fs::File::options().read(true).write(true).open(one.path()).unwrap();
        for at in [600 * 512, 7 * MIB, 16 * MIB - 1, 64 * MIB - 40 * 512] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            refused(&compare(image.len() as u64, [of(0), of(1)]), "outside of the listed ranges");
            file.write_all_at(&byte, at).unwrap();
        }
        for place in 0..evidence[0].own_ranges.len() {
            let part = evidence[0].own_ranges[place].part;
            let mut larger = evidence[0].clone();
            larger.own_ranges[place].last_lba += 1;
            refused(&compare(image.len() as u64, [(one.path(), &larger), of(1)]), "");
            let mut fewer = evidence.clone();
            fewer.iter_mut().for_each(|evidence| {
                evidence.own_ranges.remove(place);
            });
            let output = compare(image.len() as u64, [(one.path(), &fewer[0]), (other.path(), &fewer[1])]);
            // Two disks of one size have one boot sector.
            assert_eq!(output.status.success(), part == OwnPart::BootSector, "{part:?}: {output:?}");
        }
        let mut all = evidence[0].clone();
        all.own_ranges = vec![agent_protocol::order::OwnRange {
            part: OwnPart::Unwritten,
            first_lba: 0,
            last_lba: 64 * MIB / 512 - 1,
        }];
        refused(&compare(image.len() as u64, [(one.path(), &all), of(1)]), "must be");
    }
}
