//! The boot medium, looked at by the tools of others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use agent_protocol::architecture::Architecture;
use boot_script::medium;
use bootmedia::iso::{IsoOptions, iso};

/// What it is made of, as of a time.
fn parts(folder: &Path, age: u64) -> IsoOptions {
    let files = [
        ("media/amd64/vmlinuz", vec![1; 70_001]),
        ("media/amd64/initramfs.zst", (0..500_000).map(|n| (n % 251) as u8).collect()),
        ("loaders/shim/shimx64.efi.signed", b"this is shim".to_vec()),
        ("loaders/grub/x86_64-efi-signed/gcdx64.efi.signed", b"this is GRUB".to_vec()),
    ];
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    }
    IsoOptions {
        media: folder.join("media"),
        architecture: Architecture::Amd64,
        loaders: folder.join("loaders"),
    }
}

fn run(program: &str, words: &[&str]) -> Vec<u8> {
    let done = Command::new(program).args(words).env("MTOOLS_SKIP_CHECK", "1").output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}: scripts/setup installs it"));
    assert!(
        done.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    done.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of an image, as xorriso reads it.
fn extract(image: &Path, name: &str, folder: &Path) -> Vec<u8> {
    let to: PathBuf = folder.join("extracted");
    run(
        "xorriso",
        &["-no_rc", "-osirrox", "on", "-indev", text(image), "-extract", name, text(&to)],
    );
    let bytes = fs::read(&to).unwrap();
    fs::remove_file(&to).unwrap();
    bytes
}

#[test]
fn a_medium_has_what_firmware_grub_and_the_server_look_for() {
    let folder = tempfile::tempdir().unwrap();
    let options = parts(folder.path(), 0);
    let described = iso(&options).unwrap();
    let image = folder.path().join("media/amd64/boot.iso");
    let mut bytes = fs::read(&image).unwrap();
    assert_eq!((described.file.as_str(), described.bytes), ("boot.iso", bytes.len() as u64));

    // Firmware: the partition, by El Torito and by GPT.
    let boot = folder.path().join("boot");
    run(
        "xorriso",
        &[
            "-no_rc",
            "-osirrox",
            "on",
            "-indev",
            text(&image),
            "-extract_boot_images",
            text(&boot),
        ],
    );
    let esp = boot.join("eltorito_img1_uefi.img");
    for (name, content) in [("BOOTX64.EFI", &b"this is shim"[..]), ("grubx64.efi", &b"this is GRUB"[..])] {
        let read = run("mtype", &["-i", text(&esp), &format!("::/EFI/BOOT/{name}")]);
        assert_eq!(read, content, "{name}");
    }
    let partitions = String::from_utf8(run("/sbin/sgdisk", &["-p", text(&image)])).unwrap();
    assert!(partitions.lines().any(|line| line.contains("EF00")), "{partitions}");

    // GRUB: its configuration, kernel and initramfs.
    assert_eq!(extract(&image, medium::CONFIG_PATH, folder.path()), medium::CONFIG.as_bytes());
    assert_eq!(extract(&image, medium::KERNEL_PATH, folder.path()), vec![1; 70_001]);
    assert_eq!(
        extract(&image, medium::INITRAMFS_PATH, folder.path()),
        fs::read(folder.path().join("media/amd64/initramfs.zst")).unwrap()
    );

    // The server: what it puts into the slot's place is what GRUB reads.
    let at = medium::find_slot(bytes.as_slice()).unwrap().expect("a slot") as usize;
    assert_eq!(extract(&image, medium::SLOT_PATH, folder.path()), medium::empty_slot());
    let own = vec![b'\n'; medium::SLOT_BYTES];
    bytes[at..at + own.len()].copy_from_slice(&own);
    fs::write(&image, bytes).unwrap();
    assert_eq!(extract(&image, medium::SLOT_PATH, folder.path()), own);
}

#[test]
fn equal_parts_give_equal_bytes_whatever_their_age() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = iso(&parts(one.path(), 0)).unwrap();
    let second = iso(&parts(other.path(), 400_000)).unwrap();
    assert_eq!(first, second);
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = parts(folder.path(), 0);
    let shim = options.loaders.join("shim/shimx64.efi.signed");
    fs::remove_file(&shim).unwrap();
    let error = iso(&options).unwrap_err().to_string();
    assert!(error.contains(text(&shim)), "{error}");
    assert!(!options.media.join("amd64/boot.iso").exists());
}
