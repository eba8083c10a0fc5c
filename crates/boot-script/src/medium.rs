//! What GRUB reads on a boot medium (an ISO image): one configuration that is the same on all, and one file of fixed size, the *slot*, which holds what is a machine's own.
//!
//! An image is built once. Whoever serves it for a machine puts other bytes into the slot's place on the way ([`find_slot`], [`slot`]), so that there is never a copy for each machine. The slot begins at a
//! boundary of sectors, and is found by its first line. A medium whose slot was left as it was built says so on the screen and boots nothing.
//!
//! Neither file is signed. Under Secure Boot that is as with every configuration: shim, GRUB and the kernel are, the kernel's words are not.

use std::{
    fmt::Write as _,
    io::{self, Read},
};

use crate::command_line::AgentBoot;

/// Bytes of the slot.
pub const SLOT_BYTES: usize = 4096;
/// Bytes of a sector of an ISO image.
pub const SECTOR: u64 = 2048;
/// Where the files are on the medium.
pub const CONFIG_PATH: &str = "boot/grub/grub.cfg";
/// See [`CONFIG_PATH`].
pub const SLOT_PATH: &str = "boot/kbm.cfg";
/// See [`CONFIG_PATH`].
pub const KERNEL_PATH: &str = "boot/vmlinuz";
/// See [`CONFIG_PATH`].
pub const INITRAMFS_PATH: &str = "boot/initramfs.zst";

/// By what the slot is found. Nothing else on a medium has these bytes.
const MARKER: &[u8] = b"# Kube BareMetal slot 1 98f3c1d2a7e64b0f8b5d3e9a6c2704f1\n";

/// GRUB's configuration on the medium. Debian's GRUB for such media looks for it there.
pub const CONFIG: &str = r#"set timeout=0
set loaded=no
if source ($root)/boot/kbm.cfg; then true; else echo "Kube BareMetal: /boot/kbm.cfg cannot be read"; fi
if [ "$loaded" = yes ]; then boot; fi
echo "Kube BareMetal: the agent could not be loaded from this medium; restarting in 60 s"
sleep 60
reboot
"#;

/// GRUB's configuration in the medium's EFI system partition, for firmware that does not tell GRUB of the whole medium: a USB stick. It looks for the medium by its slot.
pub const ESP_CONFIG: &str = r#"search --no-floppy --set=root --file /boot/kbm.cfg
configfile ($root)/boot/grub/grub.cfg
"#;

/// The slot as it is built.
pub fn empty_slot() -> Vec<u8> {
    let text = "echo \"Kube BareMetal: this medium is not for any machine: the server makes it one's when its power driver attaches it\"\n";
    let mut slot = MARKER.to_vec();
    slot.extend_from_slice(text.as_bytes());
    padded(slot).unwrap_or_default()
}

/// The slot that loads the agent with its words. `further`: words of the medium's own, of letters, digits and `.:/,=-` only. Nothing where it is longer than its place.
pub fn slot(boot: &AgentBoot<'_>, further: &[String]) -> Option<Vec<u8>> {
    let mut text = format!("echo 'Kube BareMetal: loading the agent from this medium'\nif linux ($root)/{KERNEL_PATH}");
    for word in boot.words().iter().chain(further) {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.,:=/@+[]".contains(&b);
        if !word.bytes().all(is_plain) {
            return None;
        }
        write!(text, " '{word}'").ok()?;
    }
    write!(text, "; then\nif initrd ($root)/{INITRAMFS_PATH}; then\nset loaded=yes\nfi\nfi\n").ok()?;
    padded(text.into_bytes())
}

fn padded(mut slot: Vec<u8>) -> Option<Vec<u8>> {
    (slot.len() <= SLOT_BYTES).then(|| {
        slot.resize(SLOT_BYTES, b'\n');
        slot
    })
}

/// Where the slot of an image begins, in bytes. Nothing where there is none, more than one, or one that is not as it was built.
///
/// # Errors
/// Those of reading.
pub fn find_slot(mut image: impl Read) -> io::Result<Option<u64>> {
    const AT_ONCE: usize = 512 * SECTOR as usize;
    let wanted = empty_slot();
    // A slot may lie across two pieces: its length of the one before is looked at with each.
    let mut buffer = vec![0; SLOT_BYTES + AT_ONCE];
    let (mut found, mut offset, mut kept) = (None, 0u64, 0usize);
    loop {
        let end = kept + fill(&mut image, &mut buffer[kept..])?;
        let last = end < buffer.len();
        let reach = if last { end } else { end - SLOT_BYTES };
        for at in (0..reach).step_by(SECTOR as usize) {
            if buffer[at..end].starts_with(MARKER) {
                let whole = buffer[at..end].starts_with(&wanted);
                if found.is_some() || !whole {
                    return Ok(None);
                }
                found = Some(offset + at as u64);
            }
        }
        if last {
            return Ok(found);
        }
        buffer.copy_within(reach..end, 0);
        kept = end - reach;
        offset += reach as u64;
    }
}

/// Reads until the buffer is full or there is no more; how much it was.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use agent_protocol::{architecture::Architecture, link::Link};
    use proptest::prelude::*;

    use super::*;
    use crate::{host::Host, query::BootRequest};

    fn with(argument: &str, further: &[String]) -> Option<Vec<u8>> {
        let request = BootRequest::parse("mac=52:54:00:12:34:56&platform=efi&buildarch=x86_64").unwrap();
        let boot = AgentBoot {
            host: &Host::parse("10.77.0.2").unwrap(),
            tls_port: 8443,
            advertise: &[],
            servers: &["https://[fd00::2]:8443".to_owned()],
            pin: "00",
            token: "kbm1.a.b",
            request: &request,
            architecture: Architecture::Amd64,
            link: &Link::default(),
            arguments: &[argument.to_owned()],
        };
        slot(&boot, further)
    }

    fn text(slot: Vec<u8>) -> String {
        String::from_utf8(slot).unwrap()
    }

    #[test]
    fn a_slot_is_a_grub_script_of_its_size() {
        let fixed = ["kbm.address=10.77.0.50/24".to_owned()];
        let filled = text(with("debug=1", &fixed).unwrap());
        assert_eq!((filled.len(), empty_slot().len()), (SLOT_BYTES, SLOT_BYTES));
        assert!(filled.contains("if linux ($root)/boot/vmlinuz 'kbm.server=https://10.77.0.2:8443,https://[fd00::2]:8443' 'kbm.ca=00' 'kbm.token=kbm1.a.b' 'BOOTIF=01-52-54-00-12-34-56'"), "{filled}");
        assert!(filled.contains(" 'kbm.address=10.77.0.50/24'; then\n"), "{filled}");
        for script in [filled, text(empty_slot()), CONFIG.to_owned(), ESP_CONFIG.to_owned()] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            let checked = std::process::Command::new("grub-script-check").arg(file.path()).output();
            let checked = checked.expect("grub-script-check is there: apt-get install grub-common");
            assert!(checked.status.success(), "{script}");
        }
        assert_eq!(with(&"x".repeat(SLOT_BYTES), &[]), None, "it is not cut");
        assert_eq!(with("", &["kbm.address='".to_owned()]), None);
    }

    #[test]
    fn the_slot_of_an_image_is_found_wherever_it_lies_and_no_second_one_is_believed() {
        let sector = SECTOR as usize;
        for before in [0, 1, 509, 510, 511, 512, 513, 1500] {
            for after in [0, 1, 700] {
                let mut image = vec![7; before * sector];
                image.extend(empty_slot());
                image.extend(vec![9; after * sector + 5]);
                assert_eq!(
                    find_slot(image.as_slice()).unwrap(),
                    Some((before * sector) as u64),
                    "{before} {after}"
                );
                image.truncate(before * sector + SLOT_BYTES - 1);
                assert_eq!(find_slot(image.as_slice()).unwrap(), None, "the end of it is missing");
            }
        }
        let twice = [empty_slot(), vec![0; 600 * sector], empty_slot()].concat();
        assert_eq!(find_slot(twice.as_slice()).unwrap(), None);
        let between_sectors = [vec![0; 512], empty_slot()].concat();
        assert_eq!(find_slot(between_sectors.as_slice()).unwrap(), None);
        assert_eq!(
            find_slot(with("", &[]).unwrap().as_slice()).unwrap(),
            None,
            "one that is a machine's already"
        );
    }

    proptest! {
        #[test]
        fn nothing_adds_a_line_or_a_command(argument in "\\PC{0,60}", further in "\\PC{0,40}") {
            let Some(slot) = with(&argument, std::slice::from_ref(&further)) else { return Ok(()) };
            let text = text(slot);
            prop_assert!(text.is_ascii() && !text.contains(['"', '\\', '`', '{', '\r', '\0']), "{}", text);
            let lines: Vec<&str> = text.trim_end().lines().collect();
            prop_assert_eq!(lines.len(), 6);
            prop_assert_eq!(&lines[2..], ["if initrd ($root)/boot/initramfs.zst; then", "set loaded=yes", "fi", "fi"]);
            let words = lines[1].strip_prefix("if linux ($root)/boot/vmlinuz '").and_then(|l| l.strip_suffix("'; then")).unwrap();
            for word in words.split("' '") {
                prop_assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,:=/@+[]".contains(&b)), "{}", word);
            }
        }
    }
}
