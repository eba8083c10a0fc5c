//! Whole builds from a kernel package made on the spot.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use super::*;
use crate::modinfo::tests::module;

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn package(path: &Path, name: &str, files: &[(&str, &[u8])]) {
    let control = format!("Package: {name}\nVersion: 1.0\nArchitecture: amd64\n");
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", xz(&tar(&[("./control", control.as_bytes())]))),
        ("data.tar.xz", xz(&tar(files))),
    ];
    let mut deb = b"!<arch>\n".to_vec();
    for (name, data) in members {
        writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, data.len()).unwrap();
        deb.extend_from_slice(&data);
        if data.len() % 2 == 1 {
            deb.push(b'\n');
        }
    }
    fs::write(path, deb).unwrap();
}

/// A folder with a kernel package, a firmware package and an agent, and the options that build from them.
fn options(folder: &Path) -> Options {
    let nic = module(&[
        "alias=pci:v00008086*",
        "depends=mii",
        "firmware=e100/x.bin",
        "firmware=secret/y.bin",
    ]);
    let mii = module(&["depends="]);
    let sound = module(&["alias=pci:v1*"]);
    package(
        &folder.join("kernel.deb"),
        "linux-image-9.9.9-amd64",
        &[
            ("./boot/vmlinuz-9.9.9-amd64", b"a kernel"),
            ("./lib/modules/9.9.9-amd64/modules.builtin", b"kernel/fs/ext4/ext4.ko\n"),
            ("./lib/modules/9.9.9-amd64/kernel/drivers/net/ethernet/intel/e100.ko.xz", &xz(&nic)),
            ("./lib/modules/9.9.9-amd64/kernel/drivers/net/mii.ko", &mii),
            ("./lib/modules/9.9.9-amd64/kernel/sound/snd.ko", &sound),
        ],
    );
    package(
        &folder.join("firmware.deb"),
        "firmware-test",
        &[
            ("./lib/firmware/e100/x.bin", b"firmware"),
            ("./lib/firmware/secret/y.bin", b"not on the list"),
            ("./lib/firmware/e100/z.bin", b"nobody asks"),
        ],
    );
    fs::write(folder.join("agent"), program(62, LOAD)).unwrap();
    let mut options = Options::new(folder.join("out"), Architecture::Amd64, folder.join("agent"));
    options.kernel_package = Some(folder.join("kernel.deb"));
    options.firmware = FirmwareSource::Files(vec![folder.join("firmware.deb")]);
    options.level = 3;
    options
}

const LOAD: u32 = 1;
const INTERP: u32 = 3;

/// An ELF program of this machine (`e_machine`) with one program header of this type.
fn program(machine: u16, header_type: u32) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64..68].copy_from_slice(&header_type.to_le_bytes());
    elf
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    [KERNEL, INITRAMFS, MANIFEST]
        .map(|name| (name.to_owned(), fs::read(folder.join(name)).unwrap()))
        .into()
}

#[test]
fn two_builds_are_the_same_bytes_and_hold_what_was_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let manifest = build(&options).unwrap();
    let first = contents(&options.folder());
    assert_eq!(options.folder(), folder.path().join("out/amd64"), "the boot server looks there");
    let second = Options {
        output: folder.path().join("elsewhere/deep"),
        ..options.clone()
    };
    build(&second).unwrap();
    assert!(first == contents(&second.folder()), "two builds differ");

    assert_eq!(manifest.kernel_version, "9.9.9-amd64");
    assert_eq!(manifest.modules, ["drivers/net/ethernet/intel/e100", "drivers/net/mii"]);
    assert_eq!(manifest.firmware, ["e100/x.bin"], "asked for by a module, and on the list");
    assert_eq!(manifest.firmware_packages.len(), 1);
    assert_eq!(first[KERNEL], b"a kernel");
    assert_eq!(manifest.initramfs.sha256, hex::encode(Sha256::digest(&first[INITRAMFS])));
    let unpacked = zstd::decode_all(first[INITRAMFS].as_slice()).unwrap();
    assert_eq!(unpacked.len() as u64, manifest.unpacked_bytes);
    let text = String::from_utf8_lossy(&unpacked);
    for part in [
        "m e100 lib/modules/drivers/net/ethernet/intel/e100.ko mii",
        "a pci:v00008086* e100",
        "sbin/modprobe",
        "TRAILER!!!",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains("not on the list") && !text.contains("snd"));
    let read: Manifest = serde_json::from_slice(&first[MANIFEST]).unwrap();
    assert_eq!(read, manifest);
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = options(folder.path());
    let error = |change: &dyn Fn(&mut Options)| {
        let mut options = good.clone();
        change(&mut options);
        build(&options).unwrap_err().to_string()
    };
    fs::write(folder.path().join("dynamic"), program(62, INTERP)).unwrap();
    fs::write(folder.path().join("other"), program(183, LOAD)).unwrap();
    assert!(error(&|o| o.agent = folder.path().join("dynamic")).contains("linked dynamically"));
    let other = error(&|o| o.agent = folder.path().join("other"));
    assert!(
        other.contains("for amd64: it is for another processor") && other.contains("`make agent`"),
        "{other}"
    );
    let other = error(&|o| o.architecture = Architecture::Arm64);
    assert!(
        other.contains("for arm64: it is for another processor") && other.contains("`make agent-arm64`"),
        "{other}"
    );
    assert!(error(&|o| o.agent = folder.path().join("missing")).contains("missing"));
    assert!(error(&|o| o.kernel_package = Some(folder.path().join("agent"))).contains("agent"));
    assert!(error(&|o| o.kernel_package = Some(folder.path().join("firmware.deb"))).contains("not a kernel package"));
    let whole = fs::read(folder.path().join("kernel.deb")).unwrap();
    for length in [0, 7, 70, whole.len() / 2, whole.len() - 40] {
        fs::write(folder.path().join("cut.deb"), &whole[..length]).unwrap();
        assert!(
            error(&|o| o.kernel_package = Some(folder.path().join("cut.deb"))).contains("cut.deb"),
            "{length}"
        );
    }
}
