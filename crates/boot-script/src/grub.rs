//! GRUB configurations: for Secure Boot and UEFI HTTP boot, where shim starts GRUB. The same decision as for iPXE, and the same safety: an answer is made of types that
//! print harmlessly, of constants, and of what was checked at start. Variables occur in [`ask_by_tftp`], [`ask`] and [`LOCAL_DISK`], which are constants but for a port.
//!
//! GRUB has no way back to the firmware that all builds agree about (some firmware ends in its menu, some tries PXE again for minutes), so the machine's own disk is
//! started from here: its loader is looked for on the disks and started as the firmware would. GRUB stays: a machine that found nothing to boot asks again.
//!
//! All paths are relative to GRUB's `$root`, which is the server that the configuration came from.

use std::fmt::Write;

use super::{
    command_line::AgentBoot,
    query::{BootRequest, BuildArch},
};

/// Where GRUB looks for its first configuration: Debian's network builds have the prefix `/grub`.
pub const FIRST_CONFIG: &str = "grub/grub.cfg";

/// Starts the loader on the machine's own disk; `$efi` is how it ends on this architecture. Returns when there is none.
///
/// The disk that we wrote comes first (it has our config drive), then all in the firmware's order. On a disk: a vendor's shim, a vendor's own loader, Windows', and the
/// fallback path last, as the agent chooses when it sets the boot entry. The fallback's folder is no vendor: its shim would start `fbx64.efi`, which restarts machines with a TPM
/// for ever. FAT knows no case, patterns do.
///
/// `$root` is the partition meanwhile: Debian's chainloader looks at it whatever the file's own device is, and fails where it is a server that the firmware told by HTTP boot.
///
/// Disks beyond the sixteenth and partitions beyond the sixteenth are not looked at.
const LOCAL_DISK: &str = r#"echo "Kube BareMetal: booting the local disk"
set server=$root
set ours=
set first=
search --no-floppy --set=ours --label config-2
regexp --set=1:first '^(hd[0-9]+),' "$ours"
for disk in $first hd0 hd1 hd2 hd3 hd4 hd5 hd6 hd7 hd8 hd9 hd10 hd11 hd12 hd13 hd14 hd15; do
  for part in gpt1 gpt2 gpt3 gpt4 gpt5 gpt6 gpt7 gpt8 gpt9 gpt10 gpt11 gpt12 gpt13 gpt14 gpt15 gpt16 msdos1 msdos2 msdos3 msdos4; do
    esp="($disk,$part)"
    if [ -d "$esp/EFI" ]; then
      set root="$disk,$part"
      for file in $esp/EFI/*/shim$efi.efi $esp/EFI/*/grub$efi.efi $esp/EFI/*/systemd-boot$efi.efi; do
        if [ -f "$file" ]; then
          if regexp '/EFI/[Bb][Oo][Oo][Tt]/' "$file"; then true; else
            echo "Kube BareMetal: $file"
            if chainloader "$file"; then boot; fi
          fi
        fi
      done
      for file in "$esp/EFI/Microsoft/Boot/bootmgfw.efi" "$esp/EFI/BOOT/BOOT$efi.EFI"; do
        if [ -f "$file" ]; then
          echo "Kube BareMetal: $file"
          if chainloader "$file"; then boot; fi
        fi
      done
      set root=$server
    fi
  done
done
echo "Kube BareMetal: no disk has a boot loader"
"#;

/// The first configuration, for a GRUB that came over HTTP: asks again with what only the machine knows. Where the server does not answer: the machine's own disk.
pub fn ask() -> String {
    first_config("")
}

/// The first configuration, for a GRUB that came over TFTP from the host whose scripts are served at that port. An IPv6 address stands in brackets before a port.
pub fn ask_by_tftp(http_port: u16) -> String {
    first_config(&format!(
        "set server=$net_default_server\nif regexp '^[0-9a-f]*:' \"$server\"; then set server=\"[$server]\"; fi\nset root=\"http,$server:{http_port}\"\n"
    ))
}

fn first_config(root: &str) -> String {
    let mut text = String::from("smbios --type 1 --get-uuid 8 --set uuid\n");
    text.push_str(root);
    for (arch, test) in [(BuildArch::X86_64, "if"), (BuildArch::Arm64, "elif"), (BuildArch::I386, "elif")] {
        let written = writeln!(
            text,
            "{test} [ \"$grub_cpu\" = {} ]; then set efi={}",
            arch.as_str(),
            arch.efi_suffix()
        );
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    text.push_str("fi\nwhile true; do\nset answered=no\n");
    text.push_str("source \"/boot/grub?uuid=$uuid&mac=$net_default_mac&platform=$grub_platform&buildarch=$grub_cpu\"\n");
    text.push_str("if [ \"$answered\" = no ]; then\necho \"Kube BareMetal: the server does not answer\"\n");
    text.push_str(LOCAL_DISK);
    let written = write!(
        text,
        "fi\necho \"Kube BareMetal: nothing was booted; asking again in {RETRY_SECONDS} s\"\nsleep {RETRY_SECONDS}\ndone\n",
        RETRY_SECONDS = crate::RETRY_SECONDS
    );
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text
}

/// Loads the agent. When that fails, [`ask`]'s loop asks again.
pub fn agent(boot: &AgentBoot<'_>) -> String {
    let words: Vec<String> = boot.words().iter().map(|word| format!("'{word}'")).collect();
    let architecture = boot.architecture;
    format!(
        "set answered=yes\necho 'Kube BareMetal: loading the agent'\nif linux /boot/media/{architecture}/vmlinuz {}; then\nif initrd /boot/media/{architecture}/initramfs; then\nboot\nfi\nfi\necho 'Kube BareMetal: the agent could not be loaded'\n",
        words.join(" ")
    )
}

/// Boots the machine's own disk. A request that said no architecture gets what the first configuration found out.
pub fn local_disk(request: Option<&BootRequest>) -> String {
    let mut text = String::from("set answered=yes\n");
    if let Some(arch) = request.map(|r| r.buildarch).filter(|arch| *arch != BuildArch::Other) {
        let written = writeln!(text, "set efi={}", arch.efi_suffix());
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    text.push_str(LOCAL_DISK);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Loader, command_line, host::Host},
        *,
    };

    fn agent_with(request: &BootRequest, host: &Host, arguments: &[String]) -> String {
        command_line::agent_with(Loader::Grub, request, host, "https://[2001:db8::3]:8443", arguments)
    }

    /// What GRUB's own parser says, which Debian's package grub-common has beside GRUB.
    fn is_grub_script(text: &str) -> bool {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let checked = std::process::Command::new("grub-script-check").arg(file.path()).output();
        let checked = checked.expect("grub-script-check is there: apt-get install grub-common");
        checked.status.success()
    }

    #[test]
    fn grub_understands_every_answer() {
        assert!(!is_grub_script("if [ x; then\n"), "the judge says no to what is none");
        let request = BootRequest::parse("mac=52:54:00:12:34:56&platform=efi&buildarch=x86_64").unwrap();
        let host = Host::parse("[2001:db8::1]").unwrap();
        for text in [
            ask(),
            ask_by_tftp(8080),
            local_disk(None),
            local_disk(Some(&request)),
            agent_with(&request, &host, &["debug=1".to_owned()]),
        ] {
            assert!(is_grub_script(&text), "{text}");
        }
    }

    #[test]
    fn the_agent_gets_its_words_and_the_disk_the_names_of_its_architecture() {
        let request = BootRequest::parse("mac=52:54:00:12:34:56&platform=efi&buildarch=arm64").unwrap();
        let text = agent_with(&request, &Host::parse("10.0.2.2").unwrap(), &[]);
        assert!(text.contains(
            "linux /boot/media/arm64/vmlinuz 'kbm.server=https://10.0.2.2:8443,https://192.0.2.8:8443,https://[2001:db8::3]:8443' 'kbm.ca=00' 'kbm.token=kbm1.a.b' 'BOOTIF=01-52-54-00-12-34-56' 'kbm.vlan=42' 'kbm.mtu=9000' 'kbm.bond=802.3ad' 'kbm.bond-members=02:00:00:00:00:01,02:00:00:00:00:02' 'kbm.bond-lacp-rate=fast' 'kbm.bond-hash=layer3+4' 'console=tty0'"
        ));
        assert!(local_disk(Some(&request)).contains("set efi=aa64\n"));
        assert!(ask_by_tftp(8080).contains("set root=\"http,$server:8080\"\n"));
        assert!(!ask().contains("set root=\"http"));
    }

    proptest! {
        #[test]
        fn nothing_a_stranger_sends_changes_the_shape_of_an_answer(
            query in "\\PC{0,120}|(mac=52-54-00-12-34-56|uuid=[^&]{0,40}|platform=[^&]{0,12}|buildarch=[^&]{0,12}|&){0,6}",
            header in "\\PC{0,60}",
            argument in "\\PC{0,40}",
        ) {
            let host = Host::parse_with_port(&header).unwrap_or(Host::Name("fallback".to_owned()));
            let request = BootRequest::parse(&query).ok();
            let disk = local_disk(request.as_ref());
            let (chosen, rest) = disk.split_at(disk.len() - LOCAL_DISK.len());
            prop_assert_eq!(rest, LOCAL_DISK);
            prop_assert!(
                chosen.lines().all(|line| ["set answered=yes", "set efi=x64", "set efi=aa64", "set efi=arm", "set efi=ia32"].contains(&line)),
                "{}", chosen
            );
            let Some(request) = request else { return Ok(()) };
            let text = agent_with(&request, &host, std::slice::from_ref(&argument));
            prop_assert!(text.is_ascii() && !text.contains(['$', '"', '\\', '`', '{', '\r', '\0']), "{}", text);
            prop_assert_eq!(text.lines().count(), 8);
            let linux = text.lines().nth(2).unwrap();
            let media = ["amd64", "arm64"].map(|architecture| format!("if linux /boot/media/{architecture}/vmlinuz '"));
            let words = media.iter().find_map(|media| linux.strip_prefix(media.as_str())).and_then(|l| l.strip_suffix("'; then")).unwrap();
            for word in words.split("' '") {
                prop_assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,:=/@+[]".contains(&b)), "{}", word);
            }
        }
    }
}
