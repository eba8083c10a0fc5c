//! The libvirt lab as `make ansible` makes it: its playbook defines and starts the machines under a real libvirtd, they boot from the network by what their DHCP hands
//! out, and each shows up in the API of `kube-baremetal up`.
//!
//! libvirtd is this test's own ([`host`]): no other machine is seen or touched. `KBM_PROGRAM` names the `kube-baremetal` command and `KBM_BOOTMEDIA` the folder of
//! boot media; `make test-libvirt` installs what is missing and sets both.

mod host;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use agent_protocol::{identity::MacAddress, inventory::FirmwareMode};
use api::BareMetalDiscovery;
use host::Host;
use kube::Api;
use lab::server::{Options, Server};
use serde_json::json;

/// From power on to a session, for both machines beside each other on a small and busy host without KVM.
const CEILING: Duration = Duration::from_secs(480);
/// The lab's machines: MAC, and the firmware that their inventory must tell.
const MACHINES: [(&str, FirmwareMode); 2] = [("52:54:00:6b:62:00", FirmwareMode::BIOS), ("52:54:00:6b:62:01", FirmwareMode::UEFI)];

fn variable(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) => path.into(),
        None => panic!("{name} is not set: `make test-libvirt` builds everything and sets it"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_labs_machines_boot_into_the_agent_and_appear_in_the_api() {
    let started = Instant::now();
    let tell = |what: &str| println!("{:6.1} s  {what}", started.elapsed().as_secs_f64());
    let host = Host::start();
    tell("a libvirtd of our own answers");

    // The network that `qemu:///system` would have is only described: starting it needs root and a bridge.
    host.virsh(&["net-define", "--validate", &host.rendered_network()]);
    assert!(
        host.virsh(&["net-dumpxml", "kube-baremetal"])
            .contains("dhcp-boot=tag:!ipxe,snponly.efi")
    );
    host.virsh(&["net-undefine", "kube-baremetal"]);

    let state = tempfile::tempdir().unwrap();
    let options = Options {
        program: variable("KBM_PROGRAM"),
        state: state.path().to_owned(),
        media: variable("KBM_BOOTMEDIA"),
        images: None,
        lan: None,
        arguments: Vec::new(),
    };
    let mut server = Server::start(options).await.unwrap();
    let client = server.client().await.unwrap();
    tell("kube-baremetal up answers");

    let settings = json!({
        "lab_boot_url": format!("http://10.0.2.2:{}/boot/ipxe", server.http_port),
        "lab_memory_mib": 512,
        "lab_disk_gib": 1,
        "lab_domain_type": "qemu",
    });
    let recap = host.playbook(&settings);
    assert!(!recap.contains(" changed=0 "), "{recap}");
    tell("the playbook is through");
    let recap = host.playbook(&settings);
    assert!(recap.contains(" changed=0 "), "a second run finds nothing to do: {recap}");
    assert_eq!(host.names(&[]), ["kube-baremetal-0", "kube-baremetal-1"], "both are on");
    for (index, (mac, firmware)) in MACHINES.iter().enumerate() {
        let xml = host.virsh(&["dumpxml", &format!("kube-baremetal-{index}")]);
        // Network first: its order stands in QEMU's own words, for which libvirt has none.
        assert!(
            xml.contains(&format!("mac={mac},bus=pcie.0,addr=0x10,bootindex=1")) && xml.contains("<boot order='2'/>"),
            "{xml}"
        );
        assert!(
            xml.contains("<graphics type='spice'>") && xml.contains("<listen type='none'/>"),
            "{xml}"
        );
        assert_eq!(xml.contains("type='pflash'"), *firmware == FirmwareMode::UEFI, "{xml}");
    }

    let discoveries: Api<BareMetalDiscovery> = Api::all(client);
    for (index, (mac, firmware)) in MACHINES.into_iter().enumerate() {
        let mac: MacAddress = mac.parse().unwrap();
        let name = format!("kube-baremetal-{index}");
        let end = started + CEILING;
        let mode = loop {
            let list = discoveries.list(&Default::default()).await.unwrap();
            let found = list.items.iter().filter_map(|d| d.status.as_ref()).find_map(|status| {
                let session = status.session.as_ref()?;
                (session.boot_mac == mac).then(|| status.inventory.as_ref().map(|i| i.firmware.mode))?
            });
            if let Some(mode) = found {
                break mode;
            }
            assert!(
                Instant::now() < end,
                "{name} opened no session within {CEILING:?}; its console:\n{}",
                host.console(&name)
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
        };
        tell(&format!(
            "{name} ({mode:?}): its agent has a session, its BareMetalDiscovery an inventory"
        ));
        assert_eq!(mode, firmware);
    }

    let mut gone = settings;
    gone["lab_state"] = json!("absent");
    host.playbook(&gone);
    assert!(host.names(&["--all"]).is_empty());
    assert_eq!(host.lab_files(), Vec::<PathBuf>::new(), "disks, descriptions and iPXE are removed");
    tell("the playbook took the lab away again");
    server.stop().await.unwrap();
}
