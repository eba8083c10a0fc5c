//! Boots the built media in QEMU (TCG, 512 MiB, no KVM) against a server of its own: session, whole inventory with the machine's BMC, an erase with evidence, power off.
//!
//! `KBM_BOOTMEDIA` names the folder of built media; without it the test fails, and says so: `make test-boot` sets it.

mod controller;
#[path = "../../agent/tests/it/support/mod.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent_protocol::{
    bmc::AddressSource,
    bmc_user::{BmcPrivilege, BmcUser},
    disk::ContentsState,
    inventory::FirmwareMode,
    order::{DiskTarget, EraseMethod, EraseParameters, ExpectedContents, Order, OrderKind, Outcome},
    session::SessionRequest,
};
use support::machine_server::{MachineServer, Seen};

/// Generous: the machine that runs this may be small and busy. The figure itself is printed.
const CEILING: Duration = Duration::from_secs(300);
const UUID: &str = "6f0c1d2e-3b4a-4c5d-8e6f-708192a3b4c5";
const MAC: &str = "52:54:00:12:34:56";
const SECOND_MAC: &str = "52:54:00:12:34:57";

fn media() -> PathBuf {
    match std::env::var_os("KBM_BOOTMEDIA") {
        Some(folder) => folder.into(),
        None => panic!("KBM_BOOTMEDIA is not set: build the boot media, and name their folder in it (`make test-boot` does both)"),
    }
}

/// A machine that dies with the test.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

impl Machine {
    /// With `second_nic`, the NIC that it booted from gets an address and reaches nobody; the server is behind the other one.
    fn start(folder: &Path, media: &Path, server: &MachineServer, second_nic: bool, bmc: &[String]) -> Self {
        let disk = folder.join("disk.raw");
        fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
        let line = format!(
            "console=tty0 console=ttyS0 quiet kbm.server=https://{}:{} kbm.ca={} kbm.token=kbm1.test.token BOOTIF=01-{}",
            if second_nic { "10.0.3.2" } else { "10.0.2.2" },
            server.tls.port,
            server.tls.pin,
            MAC.replace(':', "-")
        );
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35",
            "-m",
            "512",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args([
            "-smbios",
            &format!("type=1,manufacturer=Test,product=Machine,serial=S1,uuid={UUID}"),
        ]);
        let restrict = if second_nic { "on" } else { "off" };
        command.args(["-netdev", &format!("user,id=n0,restrict={restrict}")]);
        command.args(["-device", &format!("e1000,netdev=n0,mac={MAC}")]);
        if second_nic {
            command.args(["-netdev", "user,id=n1,net=10.0.3.0/24"]);
            command.args(["-device", &format!("virtio-net-pci,netdev=n1,mac={SECOND_MAC}")]);
        }
        command
            .arg("-drive")
            .arg(format!("file={},if=none,id=d0,format=raw", disk.display()));
        command.args(["-device", "virtio-blk-pci,drive=d0,serial=KBMTEST1"]);
        command.args(bmc);
        command.arg("-serial").arg(format!("file:{}", folder.join("serial.log").display()));
        command.arg("-kernel").arg(media.join("amd64").join(bootmedia::KERNEL));
        command.arg("-initrd").arg(media.join("amd64").join(bootmedia::INITRAMFS));
        command.args(["-append", &line]).stdin(Stdio::null());
        Self(command.spawn().expect("qemu-system-x86_64 (Debian package qemu-system-x86)"))
    }

    fn wait_off(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while self.0.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < until,
                "the machine did not switch off within {} s",
                limit.as_secs()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn orders(request: &SessionRequest) -> Vec<Order> {
    let disk = request.inventory.disks.first().map(|disk| DiskTarget {
        identity: disk.identity.clone(),
        size_bytes: disk.size_bytes,
        expected: vec![ExpectedContents {
            state: ContentsState::Blank,
            fingerprint: None,
            instance_uid: None,
        }],
    });
    let erase = Order {
        id: "erase-1".to_owned(),
        kind: OrderKind::Erase,
        hardware: "test-machine".to_owned(),
        disk,
        erase: Some(EraseParameters {
            method: EraseMethod::Quick,
        }),
        ..Order::wait()
    };
    let off = Order {
        id: "off-1".to_owned(),
        kind: OrderKind::PowerOff,
        ..Order::wait()
    };
    vec![erase, off]
}

#[test]
fn a_machine_boots_reports_itself_obeys_and_goes() {
    let media = media();
    let folder = tempfile::tempdir().unwrap();
    let server = MachineServer::start(Seen::default(), orders);
    let started = Instant::now();
    // QEMU's own controller: an identity and no network.
    let bmc = [
        "-device".to_owned(),
        format!("ipmi-bmc-sim,id=bmc0,mfg_id=10876,product_id=2387,fwrev1=3,fwrev2=18,guid={UUID}"),
        "-device".to_owned(),
        "isa-ipmi-kcs,bmc=bmc0".to_owned(),
    ];
    let mut machine = Machine::start(folder.path(), &media, &server, false, &bmc);
    let serial = || String::from_utf8_lossy(&fs::read(folder.path().join("serial.log")).unwrap_or_default()).into_owned();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let inventory = server.wait("a session", CEILING, |seen| seen.session.as_ref().map(|s| s.inventory.clone()));
        println!("session {:.1} s after QEMU started", started.elapsed().as_secs_f64());
        assert_eq!(inventory.system.uuid.map(|u| u.to_string()).as_deref(), Some(UUID));
        assert_eq!(
            (inventory.system.vendor.as_deref(), inventory.system.product.as_deref()),
            (Some("Test"), Some("Machine"))
        );
        assert_eq!(inventory.firmware.mode, FirmwareMode::BIOS);
        assert_eq!((inventory.cpu.architecture.as_str(), inventory.cpu.threads), ("amd64", 1));
        let [disk] = inventory.disks.as_slice() else {
            panic!("one disk expected: {:?}", inventory.disks);
        };
        assert_eq!((disk.identity.serial.as_deref(), disk.size_bytes), (Some("KBMTEST1"), 256 << 20));
        assert_eq!(disk.contents.state, ContentsState::Blank);
        let [nic] = inventory.nics.as_slice() else {
            panic!("one NIC expected: {:?}", inventory.nics);
        };
        assert_eq!(
            (nic.mac.to_string().as_str(), nic.driver.as_deref(), nic.boot, nic.link),
            (MAC, Some("e1000"), true, true)
        );
        let bmc = inventory.bmc.as_ref().expect("a BMC");
        assert_eq!(
            (bmc.interface.as_str(), bmc.system_interface.as_deref()),
            ("ipmi", Some("KCS")),
            "{bmc:?}"
        );
        assert_eq!((bmc.manufacturer_id, bmc.product_id), (Some(10876), Some(2387)), "{bmc:?}");
        assert_eq!(
            (bmc.firmware.as_deref(), bmc.ipmi_version.as_deref()),
            (Some("3.12"), Some("2.0")),
            "{bmc:?}"
        );
        assert_eq!((bmc.guid.as_deref(), bmc.problem.as_deref()), (Some(UUID), None), "{bmc:?}");
        assert!(bmc.channels.is_empty() && bmc.address.is_none(), "{bmc:?}");
        let result = server.wait("the erase's result", CEILING, |seen| seen.results.first().cloned());
        assert_eq!(result.outcome, Outcome::Succeeded, "{:?}", result.fault);
        assert_eq!(result.erase.as_ref().map(|e| e.order_id.as_str()), Some("erase-1"));
        machine.wait_off(CEILING);
    }));
    let serial = serial();
    if let Err(panic) = outcome {
        eprintln!("--- serial console\n{serial}---");
        std::panic::resume_unwind(panic);
    }
    let line = |wanted: &str| {
        let found = serial.lines().find(|l| l.starts_with("kbm: ") && l.contains(wanted));
        found
            .unwrap_or_else(|| panic!("no line with {wanted:?} on the serial console:\n{serial}"))
            .to_owned()
    };
    let session = line("session open discovery=test-machine");
    line("order erase succeeded");
    line("switching off");
    assert!(!serial.contains('\u{1b}'), "no escape sequences on a serial console:\n{serial}");
    let after = session.rsplit("after=").next().unwrap_or_default().trim_end_matches("s\r").trim();
    println!("agent session {after} after kernel start");
}

#[test]
fn a_machine_whose_boot_nic_leads_nowhere_takes_another() {
    let media = media();
    let folder = tempfile::tempdir().unwrap();
    let user = BmcUser {
        name: "kube-baremetal".to_owned(),
        password: "Made4ThisMachine".to_owned(),
        privilege: BmcPrivilege::Operator,
        channel: 1,
    };
    let seen = Seen {
        bmc_user: Some(user.clone()),
        ..Seen::default()
    };
    // An order that ends the boot would come before the user.
    let server = MachineServer::start(seen, |_| Vec::new());
    let controller = controller::Controller::start(folder.path());
    let _machine = Machine::start(folder.path(), &media, &server, true, &controller.arguments());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let inventory = server.wait("a session", CEILING, |seen| seen.session.as_ref().map(|s| s.inventory.clone()));
        let report = server.wait("the BMC's user", CEILING, |seen| seen.bmc_reports.first().cloned());
        (inventory, report)
    }));
    let serial = String::from_utf8_lossy(&fs::read(folder.path().join("serial.log")).unwrap_or_default()).into_owned();
    let (inventory, report) = outcome.unwrap_or_else(|panic| {
        eprintln!("--- serial console\n{serial}---");
        std::panic::resume_unwind(panic)
    });
    let bmc = inventory.bmc.as_ref().expect("a BMC");
    let said = format!("{bmc:?}\n{}", controller.log());
    assert_eq!((bmc.manufacturer_id, bmc.product_id), (Some(0x1291), Some(0xf02)), "{said}");
    assert_eq!((bmc.firmware.as_deref(), bmc.problem.as_deref()), (Some("9.08"), None), "{said}");
    assert_eq!(bmc.address.as_deref(), Some("10.0.8.12"), "{said}");
    let [channel] = bmc.channels.as_slice() else { panic!("{said}") };
    assert_eq!((channel.number, channel.address.as_deref()), (1, Some("10.0.8.12/23")), "{said}");
    assert_eq!((channel.source, channel.vlan), (Some(AddressSource::DHCP), None), "{said}");
    assert_eq!(channel.gateway.as_deref(), Some("10.0.8.1"), "{said}");
    assert_eq!(channel.mac.map(|m| m.to_string()).as_deref(), Some("52:54:00:00:08:0c"), "{said}");
    assert!(channel.cipher_suites.is_empty(), "ipmi_sim lists none over this interface: {said}");
    assert_eq!((report.id.as_str(), report.fault.as_deref()), ("bmc-1", None), "{said}\n{serial}");
    // What was set through the machine's own interface is what counts over the network.
    assert!(controller.lets_in(&user.name, &user.password), "{}", controller.log());
    assert!(!controller.lets_in(&user.name, "Made4AnotherOne"), "any password would do");
    assert!(!serial.contains(&user.password), "a password on the console");
    let nic = |mac: &str| inventory.nics.iter().find(|n| n.mac.to_string() == mac).unwrap();
    assert!(
        nic(MAC).boot && !nic(SECOND_MAC).boot,
        "the NIC it booted from stays the NIC it booted from"
    );
    let deaf = serial.lines().find(|l| l.contains("no way to the server"));
    println!(
        "{}",
        deaf.unwrap_or_else(|| panic!("the console does not say which NIC leads nowhere:\n{serial}"))
    );
}
