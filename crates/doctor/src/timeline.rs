//! A boot timeline for people: a table, where the boot stopped, and what that usually means.

use std::fmt::Write as _;

use agent_protocol::architecture::Architecture;
use api::timeline::{BootStep, BootStepKind, BootTimeline};
use jiff::Timestamp;

/// Why a boot stopped where it did, as far as that can be told from its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// A word for programs.
    pub reason: &'static str,
    /// What was seen.
    pub seen: &'static str,
    /// What it usually means.
    pub usually: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Whether the boot ended where it should: in the agent, or in the machine's own disk because we said so.
pub fn is_complete(boot: &BootTimeline) -> bool {
    let local = |step: &BootStep| step.detail.starts_with("LocalDisk") && !lacks_media(step);
    let told_last = || boot.furthest().is_some_and(|step| step.step == BootStepKind::Script && local(step));
    boot.of_kind(BootStepKind::Session).next().is_some() || told_last()
}

/// Whether the machine was told its own disk for want of a kernel that it runs.
fn lacks_media(step: &BootStep) -> bool {
    step.detail.starts_with("LocalDisk: NoBootMedia")
}

/// What to do where there are no boot media, for the architecture that such a step's detail names.
fn media_remedy(step: &BootStep) -> &'static str {
    let architecture = step.detail.rsplit_once(" for ").map(|(_, architecture)| architecture.parse());
    match architecture {
        Some(Ok(Architecture::Amd64)) => {
            "build them (`kube-baremetal bootmedia build`, or `make bootmedia`) into the folder of --media-dir, where they belong into the folder `amd64` (older ones lie beside it: move them), and start the machine again"
        }
        Some(Ok(Architecture::Arm64)) => {
            "build them (`kube-baremetal bootmedia build --architecture arm64`, or `make bootmedia-arm64`) into the folder of --media-dir, and start the machine again"
        }
        Some(Err(_)) | None => "there are none: boot media are for amd64 and arm64 only, so this machine cannot be one of ours",
    }
}

/// Why the newest of these boots of one machine stopped; `None` where it did not. Earlier boots say whether it happens again and again.
pub fn stop(boots: &[BootTimeline]) -> Option<Stop> {
    use BootStepKind::{BootServer, Initramfs, Kernel, Loader, NoOffer, Offer, Script, Session, Tftp, TftpRefused};
    let boot = boots.last().filter(|boot| !is_complete(boot))?;
    let sum = |kind, of: fn(&BootStep) -> u32| boot.of_kind(kind).map(of).fold(0, u32::saturating_add);
    let sent = |boot: &BootTimeline| boot.of_kind(Tftp).any(|step| step.count > step.failed);
    // A request for another file shows that something ran, too.
    let ran = |boot: &BootTimeline| boot.steps.iter().any(|step| step.step > Tftp);
    let in_vain = boots.iter().filter(|boot| sent(boot) && !ran(boot)).count();
    let furthest = boot.furthest()?;
    Some(match furthest.step {
        NoOffer => Stop {
            reason: "NothingToBoot",
            seen: "firmware asked what to boot and got no answer from us",
            usually: "there is no loader for this kind of firmware in the loaders' folder, or a policy leaves the machine alone",
            remedy: "install the loader that the line above names (package ipxe), or let the machine boot as another kind (UEFI or BIOS, 64 bit) in its firmware's setup",
        },
        Offer => Stop {
            reason: "NoAddress",
            seen: "firmware was offered what to boot and never came for it",
            usually: "no DHCP server gave it an address (we give none in proxy mode), another server's boot file was taken, or UDP port 4011 or 69 of the boot server is blocked",
            remedy: "run `kube-baremetal netboot doctor` on the machine's network: it names the DHCP servers and tries the ports",
        },
        BootServer => Stop {
            reason: "TftpBlocked",
            seen: "firmware was told its loader and never asked for it over TFTP",
            usually: "UDP port 69 of the boot server is blocked between the machine and it",
            remedy: "open UDP port 69 to the boot server in firewalls on the way and on its host",
        },
        Tftp if !sent(boot) => Stop {
            reason: "TftpFailed",
            seen: "the loader did not arrive over TFTP",
            usually: "a firewall drops TFTP's transfer ports, or large packets get lost on the way (MTU)",
            remedy: "start the boot server with --tftp-single-port; if that changes nothing, let `kube-baremetal netboot doctor` test large packets",
        },
        Tftp if in_vain > 1 => Stop {
            reason: "LoaderRefused",
            seen: "the loader was fetched in several boots and never ran",
            usually: "Secure Boot is on and the firmware refuses a loader that is not signed for it, or the loader is for another architecture",
            remedy: "switch Secure Boot off in the firmware's setup, or serve the signed loader",
        },
        Tftp => Stop {
            reason: "LoaderSilent",
            seen: "the loader was sent, and nothing was heard of it",
            usually: "Secure Boot refused it, it is for another architecture, or the loader has no driver or no link on this card",
            remedy: "look at the machine's screen: firmware says `Security Violation` or `Access Denied` when Secure Boot refuses a loader",
        },
        TftpRefused => Stop {
            reason: "WrongFile",
            seen: "the machine asked for a file that is not served here",
            usually: "another DHCP server names a boot file of its own and our address, or the loader looks for its configuration in another place",
            remedy: "`kube-baremetal netboot options` prints what the DHCP server should say; `netboot doctor` shows what each server says now",
        },
        Loader => Stop {
            reason: "HttpBlocked",
            seen: "the loader ran and did not ask for its script",
            usually: "the boot server's HTTP port (8080) is blocked, the loader got no address of its own, or a switch port was not forwarding yet (spanning tree)",
            remedy: "open the HTTP port, and set the switch port to edge (portfast)",
        },
        Script if lacks_media(furthest) => Stop {
            reason: "NoBootMedia",
            seen: "the machine was to load the agent, and was told its own disk because there are no boot media for its architecture",
            usually: "boot media were built for other machines only, or not at all; the step's detail names the architecture",
            remedy: media_remedy(furthest),
        },
        Script => Stop {
            reason: "NoKernel",
            seen: "the machine was told to load the agent and did not fetch it",
            usually: "it lost the network, or is still at it",
            remedy: "look at the machine's screen: iPXE prints the URL that failed",
        },
        Kernel | Initramfs if sum(furthest.step, |step| step.failed) == sum(furthest.step, |step| step.count) => Stop {
            reason: "MediaFailed",
            seen: "the agent's kernel or initramfs did not arrive",
            usually: "there are no boot media in the boot server's folder (404), or the connection breaks off",
            remedy: "build the boot media (`kube-baremetal bootmedia build`) and name their folder with --media-dir",
        },
        Kernel => Stop {
            reason: "NoInitramfs",
            seen: "the agent's kernel arrived and its initramfs was not asked for",
            usually: "the machine has too little memory, or is still at it",
            remedy: "give the machine at least 1 GiB of memory, and look at its screen",
        },
        Initramfs => Stop {
            reason: "AgentSilent",
            seen: "kernel and initramfs arrived, and the agent was not heard",
            usually: "Linux has no driver for the card or got no address by DHCP, or the boot server's TLS port (8443) is blocked",
            remedy: "look at the machine's console, where the agent says what it waits for; open the TLS port",
        },
        Session => return None,
    })
}

/// The newest boots of a machine as a table, with what the last one stopped at. `name` is that of the BareMetalDiscovery.
pub fn render(name: &str, boots: &[BootTimeline], now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").unwrap_or_default();
    if boots.is_empty() {
        line(format_args!(
            "{name}: no boot was seen. Machines are seen from their first DHCP packet on where the boot server answers DHCP, else from their first request for a script."
        ));
        return text;
    }
    for (index, boot) in boots.iter().enumerate() {
        let address = boot.address.as_deref().unwrap_or("address unknown");
        if index > 0 {
            line(format_args!(""));
        }
        line(format_args!("{name}  {}  {address}  boot of {:.0}", boot.mac, boot.started_at.0));
        line(format_args!(
            "  {:>10}  {:>10}  {:<11}  {:>5}  {:>6}  {:>6}  {:>10}  {:<16}  DETAIL",
            "AFTER", "TOOK", "STEP", "TIMES", "FAILED", "RESENT", "BYTES", "REPLICA"
        ));
        for step in &boot.steps {
            let after = step.at.0.duration_since(boot.started_at.0);
            let took = match step.duration_ms {
                0 => "-".to_owned(),
                milliseconds => seconds(milliseconds as f64 / 1000.0),
            };
            let (after, name) = (seconds(after.as_secs_f64()), format!("{:?}", step.step));
            let (failed, resent, bytes) = (dash(step.failed.into()), dash(step.resent), dash(step.bytes));
            let row = format!(
                "  {after:>10}  {took:>10}  {name:<11}  {:>5}  {failed:>6}  {resent:>6}  {bytes:>10}  {:<16}  {}",
                step.count, step.replica, step.detail,
            );
            line(format_args!("{}", row.trim_end()));
        }
    }
    let Some(newest) = boots.last() else { return text };
    let ago = now.duration_since(newest.ended_at()).as_secs().max(0);
    match (stop(boots), newest.furthest()) {
        (Some(stop), Some(step)) => {
            line(format_args!(
                "\nThe last boot stopped after {:?}, {ago} s ago: {}.",
                step.step, stop.seen
            ));
            line(format_args!("Usually: {}.", stop.usually));
            line(format_args!("What to do: {}.", stop.remedy));
        }
        (None, Some(step)) => line(format_args!("\nThe last boot came to its end ({:?}), {ago} s ago.", step.step)),
        (_, None) => {}
    }
    text
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3} s")
}

fn dash(number: u64) -> String {
    if number == 0 { "-".to_owned() } else { number.to_string() }
}

#[cfg(test)]
mod tests {
    use agent_protocol::identity::MacAddress;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;
    use BootStepKind::{BootServer, Initramfs, Kernel, Loader, NoOffer, Offer, Script, Session, Tftp, TftpRefused};

    fn at(milliseconds: i64) -> MicroTime {
        MicroTime(Timestamp::from_millisecond(1_700_000_000_000 + milliseconds).unwrap())
    }

    fn boot(steps: &[(BootStepKind, &str, u32)]) -> BootTimeline {
        BootTimeline {
            started_at: at(0),
            mac: MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            address: Some("10.77.0.100".to_owned()),
            steps: steps
                .iter()
                .zip(0..)
                .map(|((step, detail, failed), n)| BootStep {
                    step: *step,
                    replica: "a".to_owned(),
                    at: at(n * 1500),
                    duration_ms: if *step == Tftp { 640 } else { 0 },
                    count: 1,
                    failed: *failed,
                    bytes: if *step == Tftp { 1_044_480 } else { 0 },
                    resent: 0,
                    detail: (*detail).to_owned(),
                })
                .collect(),
        }
    }

    fn reason(boots: &[BootTimeline]) -> Option<&'static str> {
        stop(boots).map(|stop| stop.reason)
    }

    #[test]
    fn each_place_to_stop_has_its_reason() {
        let good = [
            (Offer, "UEFI x86-64", 0),
            (BootServer, "", 0),
            (Tftp, "ipxe-x64.efi", 0),
            (Loader, "", 0),
        ];
        let with = |more: &[(BootStepKind, &'static str, u32)]| boot(&[&good[..], more].concat());
        for (boots, want) in [
            (vec![boot(&[(NoOffer, "", 0)])], Some("NothingToBoot")),
            (vec![boot(&good[..1])], Some("NoAddress")),
            (vec![boot(&good[..2])], Some("TftpBlocked")),
            (vec![boot(&[good[0], (Tftp, "", 1)])], Some("TftpFailed")),
            (vec![boot(&good[..3])], Some("LoaderSilent")),
            (vec![boot(&good[..3]), boot(&good[..3])], Some("LoaderRefused")),
            (vec![boot(&[good[0], (TftpRefused, "pxelinux.0", 1)])], Some("WrongFile")),
            (vec![boot(&good)], Some("HttpBlocked")),
            (vec![with(&[(Script, "Agent: x", 0)])], Some("NoKernel")),
            (
                vec![with(&[(Script, "Agent: x", 0), (Kernel, "answered with 404", 1)])],
                Some("MediaFailed"),
            ),
            (vec![with(&[(Script, "Agent: x", 0), (Kernel, "", 0)])], Some("NoInitramfs")),
            (
                vec![with(&[(Script, "Agent: x", 0), (Kernel, "", 0), (Initramfs, "", 0)])],
                Some("AgentSilent"),
            ),
            (vec![with(&[(Script, "LocalDisk: x", 0)])], None),
            (vec![with(&[(Script, "LocalDisk: NoBootMedia for arm64", 0)])], Some("NoBootMedia")),
            (vec![boot(&good[..3]), with(&[(Script, "Agent: x", 0), (Session, "", 0)])], None),
            (vec![], None),
        ] {
            assert_eq!(reason(&boots), want, "{boots:#?}");
        }
    }

    #[test]
    fn media_are_built_for_the_machine_that_lacks_them() {
        let remedy = |detail| stop(&[boot(&[(Script, detail, 0)])]).unwrap().remedy;
        assert!(remedy("LocalDisk: NoBootMedia for amd64").contains("the folder `amd64`"));
        assert!(remedy("LocalDisk: NoBootMedia for arm64").contains("--architecture arm64"));
        assert!(remedy("LocalDisk: NoBootMedia for riscv64").starts_with("there are none"));
    }

    #[test]
    fn the_table_is_for_people() {
        let boots = [boot(&[
            (Offer, "UEFI x86-64", 0),
            (BootServer, "UEFI x86-64", 0),
            (Tftp, "ipxe-x64.efi", 0),
        ])];
        let text = render("m-abc", &boots, at(64_640).0);
        let rows: Vec<_> = text.lines().collect();
        assert_eq!(rows[0], "m-abc  52:54:00:12:34:56  10.77.0.100  boot of 2023-11-14T22:13:20Z");
        assert!(
            rows[4].starts_with("     3.000 s     0.640 s  Tftp             1       -       -     1044480  a "),
            "{text}"
        );
        assert!(rows[4].ends_with("ipxe-x64.efi"), "{text}");
        assert!(rows[6].starts_with("The last boot stopped after Tftp, 61 s ago: "), "{text}");
        assert!(text.contains("Usually: Secure Boot") && text.contains("What to do: "), "{text}");
        assert!(render("m-abc", &[], at(0).0).contains("no boot was seen"));
    }
}
