//! iPXE scripts. Everything that goes into one is a type that prints harmlessly, a constant, or was checked at start; there is no way to put a
//! text in. `${` occurs only in [`Script::ask`], which holds nothing else.
//!
//! All URLs in a script are relative to it, so that whatever way the machine reached us stays the way.

use std::fmt::Write;

use super::{
    host::Host,
    query::{BootRequest, Platform},
};

/// An iPXE script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script(String);

/// What a script that loads the agent is made of.
pub(crate) struct AgentBoot<'a> {
    pub host: &'a Host,
    pub tls_port: u16,
    /// URLs of all replicas. Checked when the configuration was read.
    pub servers: &'a [String],
    /// 64 hexadecimal digits, made by us.
    pub pin: &'a str,
    /// Base64url and dots, made by us.
    pub token: &'a str,
    pub request: &'a BootRequest,
    /// Checked when the configuration was read.
    pub arguments: &'a [String],
}

/// Seconds until a machine that found nothing to boot asks again.
const RETRY_SECONDS: u32 = 60;

impl Script {
    /// Asks again with what only the machine knows. `netX` is the interface that was opened last: the one it boots from.
    pub(crate) fn ask() -> Self {
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
        Self(text)
    }

    /// Loads the agent.
    pub(crate) fn agent(boot: &AgentBoot<'_>) -> Self {
        let mac = boot.request.mac.to_string().replace(':', "-");
        let own = format!("https://{}:{}", boot.host, boot.tls_port);
        let others = boot.servers.iter().filter(|s| **s != own).map(|s| plain(s));
        let servers: Vec<String> = std::iter::once(own.clone()).chain(others).collect();
        let mut line = format!(
            "kernel /boot/media/vmlinuz kbm.server={} kbm.ca={} kbm.token={} BOOTIF=01-{mac} initrd=initramfs console=tty0 console=ttyS0,115200 quiet",
            servers.join(","),
            plain(boot.pin),
            plain(boot.token),
        );
        for argument in boot.arguments {
            line.push(' ');
            line.push_str(&plain(argument));
        }
        let mut text = String::from("#!ipxe\necho Kube BareMetal: loading the agent\n");
        text.push_str(&line);
        text.push_str(" || goto failed\ninitrd --name initramfs /boot/media/initramfs || goto failed\nboot || goto failed\n:failed\n");
        text.push_str("echo Kube BareMetal: the agent could not be loaded\n");
        text.push_str("imgfree\n");
        retry(&mut text, boot.request);
        Self(text)
    }

    /// Boots the machine's own disk. A machine that asked properly and has nothing to boot asks again later.
    pub(crate) fn local_disk(request: Option<&BootRequest>) -> Self {
        let mut text = String::from("#!ipxe\necho Kube BareMetal: booting the local disk\n");
        match request.map(|r| (r, r.platform)) {
            Some((request, Platform::Bios)) => {
                text.push_str("sanboot --no-describe --drive 0x80 ||\n");
                text.push_str("echo Kube BareMetal: there is nothing to boot on the first disk\n");
                retry(&mut text, request);
            }
            // UEFI firmware goes on to its next boot entry when one fails; success would lead to its menu.
            Some((_, Platform::Efi)) => text.push_str("exit 1\n"),
            Some((_, Platform::Other)) | None => text.push_str("sanboot --no-describe --drive 0x80 || exit 1\n"),
        }
        Self(text)
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
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

/// The last line of defence for values that were made or checked elsewhere: whatever is not plain is left out.
fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.,:=/@+[]".contains(*c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agent_with(request: &BootRequest, host: &Host, arguments: &[String]) -> String {
        Script::agent(&AgentBoot {
            host,
            tls_port: 8443,
            servers: &["https://10.0.2.2:8443".to_owned(), "https://10.0.2.3:8443".to_owned()],
            pin: "00",
            token: "kbm1.a.b",
            request,
            arguments,
        })
        .into_text()
    }

    #[test]
    fn the_agent_script_says_what_a_machine_needs() {
        let request =
            BootRequest::parse("uuid=30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05&mac=52-54-00-12-34-56&platform=pcbios&buildarch=i386").unwrap();
        let text = agent_with(&request, &Host::parse("10.0.2.2").unwrap(), &["debug=1".to_owned()]);
        assert!(text.starts_with("#!ipxe\n"));
        assert!(text.contains(
            "kernel /boot/media/vmlinuz kbm.server=https://10.0.2.2:8443,https://10.0.2.3:8443 kbm.ca=00 kbm.token=kbm1.a.b BOOTIF=01-52-54-00-12-34-56 initrd=initramfs console=tty0 console=ttyS0,115200 quiet debug=1 ||"
        ));
        assert!(text.contains("initrd --name initramfs /boot/media/initramfs"));
    }

    #[test]
    fn each_firmware_has_its_way_to_the_local_disk() {
        let text = |query: &str| Script::local_disk(Some(&BootRequest::parse(query).unwrap())).into_text();
        let bios = text("mac=52-54-00-12-34-56&platform=pcbios");
        assert!(bios.contains("sanboot --no-describe --drive 0x80 ||") && bios.contains("sleep 60"));
        assert!(text("mac=52-54-00-12-34-56&platform=efi").ends_with("\nexit 1\n"));
        assert!(Script::local_disk(None).into_text().contains("|| exit"));
    }

    proptest! {
        #[test]
        fn nothing_a_stranger_sends_changes_the_shape_of_a_script(query in "\\PC{0,120}|(mac=52-54-00-12-34-56|uuid=[^&]{0,40}|platform=[^&]{0,12}|buildarch=[^&]{0,12}|&){0,6}", header in "\\PC{0,60}", argument in "\\PC{0,40}") {
            let host = Host::parse_with_port(&header).unwrap_or(Host::Name("fallback".to_owned()));
            let scripts = match BootRequest::parse(&query) {
                Ok(request) => vec![agent_with(&request, &host, std::slice::from_ref(&argument)), Script::local_disk(Some(&request)).into_text()],
                Err(_) => vec![Script::local_disk(None).into_text()],
            };
            for text in scripts {
                let plain = !text.contains("${") && !text.contains(['"', '\'', '\\', '\r']);
                prop_assert!(plain, "{}", text);
                prop_assert!(text.is_ascii() && !text.contains('\0'));
                prop_assert!(text.lines().count() <= 12);
                for line in text.lines().skip(1) {
                    let first = line.split(' ').next().unwrap_or_default();
                    prop_assert!(["echo", "kernel", "initrd", "boot", ":failed", "imgfree", ":retry", "sleep", "chain", "sanboot", "exit"].contains(&first), "{line}");
                }
            }
        }
    }
}
