//! iPXE scripts. Everything that goes into one is a type that prints harmlessly, a constant, or was checked at start; there is no way to put a
//! text in. `${` occurs only in [`ask`], which holds nothing else.
//!
//! All URLs in a script are relative to it, so that whatever way the machine reached us stays the way.

use std::fmt::Write;

use super::{
    RETRY_SECONDS,
    command_line::AgentBoot,
    query::{BootRequest, BuildArch, Platform},
};

/// Asks again with what only the machine knows. `netX` is the interface that was opened last: the one it boots from.
pub fn ask() -> String {
    let mut text = String::from("#!ipxe\n");
    text.push_str(":ask\n");
    for nic in ["netX", "net0"] {
        text.push_str("isset ${");
        text.push_str(nic);
        text.push_str("/mac} && chain --replace --autofree /boot/ipxe?uuid=${uuid}&mac=${");
        text.push_str(nic);
        text.push_str("/mac:hexhyp}&platform=${platform}&buildarch=${buildarch} ||\n");
    }
    text.push_str("echo Kube BareMetal: the server does not answer; booting the local disk\n");
    text.push_str("iseq ${platform} pcbios && sanboot --no-describe --drive 0x80 ||\n");
    text.push_str("exit 1\n");
    text
}

/// Loads the agent.
pub fn agent(boot: &AgentBoot<'_>) -> String {
    let mut text = String::from("#!ipxe\necho Kube BareMetal: loading the agent\n");
    // The UEFI build of old iPXE hands an initramfs over only where the kernel line names it.
    let (architecture, words) = (boot.architecture, boot.words().join(" "));
    let written = write!(
        text,
        "kernel /boot/media/{architecture}/vmlinuz initrd=initramfs {words} || goto failed\n\
         initrd --name initramfs /boot/media/{architecture}/initramfs || goto failed\nboot || goto failed\n:failed\n"
    );
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text.push_str("echo Kube BareMetal: the agent could not be loaded\n");
    text.push_str("imgfree\n");
    retry(&mut text, boot.request);
    text
}

/// Boots the machine's own disk. A machine that asked properly and has nothing to boot asks again later.
pub fn local_disk(request: Option<&BootRequest>) -> String {
    let mut text = String::from("#!ipxe\necho Kube BareMetal: booting the local disk\n");
    match request.map(|r| (r, r.platform)) {
        Some((request, Platform::Bios)) => {
            text.push_str("sanboot --no-describe --drive 0x80 ||\n");
            text.push_str("echo Kube BareMetal: there is nothing to boot on the first disk\n");
            retry(&mut text, request);
        }
        Some((request, Platform::Efi)) => local_loader(&mut text, request.buildarch),
        Some((_, Platform::Other)) | None => text.push_str("sanboot --no-describe --drive 0x80 || exit 1\n"),
    }
    text
}

/// Drives that are looked at by their number, one after the other, before any drive will do.
const DRIVES: [&str; 4] = ["0x80", "0x81", "0x82", "0x83"];
/// Folders of the vendors whose fallback loader is a shim that restarts machines with a TPM: their own loader comes first.
const VENDORS: [&str; 9] = [
    "debian",
    "ubuntu",
    "fedora",
    "redhat",
    "centos",
    "rocky",
    "almalinux",
    "opensuse",
    "sles",
];

/// Starts the loader on a local disk, which iPXE does since 2024. One that is older, or finds none, says no at once and leaves it to the firmware, which goes on to its next
/// boot entry when one fails (success would lead to its menu); that may take it minutes.
fn local_loader(text: &mut String, arch: BuildArch) {
    let end = arch.efi_suffix();
    for drive in DRIVES {
        for vendor in VENDORS {
            let written = writeln!(
                text,
                "sanboot --no-describe --drive {drive} --filename \\EFI\\{vendor}\\shim{end}.efi ||"
            );
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
        let written = writeln!(text, "sanboot --no-describe --drive {drive} ||");
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    text.push_str("sanboot --no-describe --drive 0 ||\nexit 1\n");
}

/// Waits and asks again, with the same typed values.
fn retry(text: &mut String, request: &BootRequest) {
    let uuid = request.uuid.map(|u| u.to_string()).unwrap_or_default();
    let mac = request.mac.to_string().replace(':', "-");
    let (platform, arch) = (request.platform.as_str(), request.buildarch.as_str());
    let written = write!(
        text,
        ":retry\nsleep {RETRY_SECONDS}\nchain --replace --autofree /boot/ipxe?uuid={uuid}&mac={mac}&platform={platform}&buildarch={arch} || goto retry\n"
    );
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Loader, command_line, host::Host},
        *,
    };

    fn agent_with(request: &BootRequest, host: &Host, arguments: &[String]) -> String {
        command_line::agent_with(Loader::Ipxe, request, host, "https://10.0.2.3:8443", arguments)
    }

    #[test]
    fn the_agent_script_says_what_a_machine_needs() {
        let request =
            BootRequest::parse("uuid=30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05&mac=52-54-00-12-34-56&platform=pcbios&buildarch=i386").unwrap();
        let text = agent_with(&request, &Host::parse("10.0.2.2").unwrap(), &["debug=1".to_owned()]);
        assert!(text.starts_with("#!ipxe\n"));
        assert!(text.contains(
            "kernel /boot/media/amd64/vmlinuz initrd=initramfs kbm.server=https://10.0.2.2:8443,https://192.0.2.8:8443,https://10.0.2.3:8443 kbm.ca=00 kbm.token=kbm1.a.b BOOTIF=01-52-54-00-12-34-56 kbm.vlan=42 kbm.mtu=9000 kbm.bond=802.3ad kbm.bond-members=02:00:00:00:00:01,02:00:00:00:00:02 kbm.bond-lacp-rate=fast kbm.bond-hash=layer3+4 console=tty0 console=ttyS0,115200 quiet debug=1 ||"
        ));
        assert!(text.contains("initrd --name initramfs /boot/media/amd64/initramfs"));
    }

    #[test]
    fn each_firmware_has_its_way_to_the_local_disk() {
        let text = |query: &str| local_disk(Some(&BootRequest::parse(query).unwrap()));
        let bios = text("mac=52-54-00-12-34-56&platform=pcbios");
        assert!(bios.contains("sanboot --no-describe --drive 0x80 ||") && bios.contains("sleep 60"));
        let uefi = text("mac=52-54-00-12-34-56&platform=efi&buildarch=arm64");
        assert!(uefi.contains("disk\nsanboot --no-describe --drive 0x80 --filename \\EFI\\debian\\shimaa64.efi ||\n"));
        assert!(uefi.ends_with("\nsanboot --no-describe --drive 0 ||\nexit 1\n"));
        assert!(local_disk(None).contains("|| exit"));
    }

    proptest! {
        #[test]
        fn nothing_a_stranger_sends_changes_the_shape_of_a_script(query in "\\PC{0,120}|(mac=52-54-00-12-34-56|uuid=[^&]{0,40}|platform=[^&]{0,12}|buildarch=[^&]{0,12}|&){0,6}", header in "\\PC{0,60}", argument in "\\PC{0,40}") {
            let host = Host::parse_with_port(&header).unwrap_or(Host::Name("fallback".to_owned()));
            let scripts = match BootRequest::parse(&query) {
                Ok(request) => vec![agent_with(&request, &host, std::slice::from_ref(&argument)), local_disk(Some(&request))],
                Err(_) => vec![local_disk(None)],
            };
            for text in scripts {
                let without_paths = text.replace("\\EFI\\", "").replace("\\shim", "");
                let plain = !text.contains("${") && !without_paths.contains(['"', '\'', '\\', '\r']);
                prop_assert!(plain, "{}", text);
                prop_assert!(text.is_ascii() && !text.contains('\0'));
                prop_assert!(text.lines().count() <= 12 + DRIVES.len() * (VENDORS.len() + 1));
                for line in text.lines().skip(1) {
                    let first = line.split(' ').next().unwrap_or_default();
                    prop_assert!(["echo", "kernel", "initrd", "boot", ":failed", "imgfree", ":retry", "sleep", "chain", "sanboot", "exit"].contains(&first), "{line}");
                }
            }
        }
    }
}
