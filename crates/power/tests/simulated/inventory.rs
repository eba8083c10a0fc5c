//! What a machine is, without booting it: of each vendor's structure, of a server with many drives, of services that are slow, struck or send too much, and beside whoever switches the machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bmc_simulator::{
    Options, Simulator,
    faults::{Fault, Operation, What},
    profile::{self, Drives, Expands, Profile},
};
use power::{
    Off,
    calls::{Calls, Limits},
    inventory::{Depth, Inventory, Medium},
};
use serde_json::{Value, json};

use crate::world::{called, options, redfish, simulator, until};

/// What the simulator's machines have.
const BYTES: u64 = 64 << 30;

fn with(name: &str, change: impl FnOnce(&mut Profile)) -> Arc<Profile> {
    let mut profile = profile::named(name).expect("a profile").as_ref().clone();
    change(&mut profile);
    Arc::new(profile)
}

async fn read(simulator: &Simulator, depth: Depth) -> Inventory {
    let (calls, machine) = called(simulator, 0, 0);
    let found = calls.inventory(&machine, depth).await.expect("an inventory");
    calls.close(&machine).await.expect("closed");
    found
}

#[tokio::test]
async fn every_vendors_structure_is_read() {
    for profile in profile::ALL.iter() {
        let simulator = simulator(profile, 1).await;
        let found = read(&simulator, Depth::Everything).await;
        let (bmc, told) = (simulator.bmc(0), &profile.inventory);
        let name = &profile.name;
        assert_eq!(found.missing, Vec::<String>::new(), "{name}");
        assert_eq!(found.uuid, Some(bmc.uuid(0)), "{name}");
        assert_eq!(found.product, told.model, "{name}");
        assert_eq!(
            found.serial,
            told.serial.as_ref().map(|_| bmc.serial(0)),
            "{name}: as SMBIOS has it, not the board's"
        );
        assert_eq!(found.memory_bytes, Some(BYTES), "{name}");
        let own = &found.processors;
        assert_eq!(own.sockets, Some(2), "{name}");
        if told.processors {
            assert_eq!(
                (own.cores, own.threads, own.architecture),
                (Some(32), Some(64), Some("amd64")),
                "{name}"
            );
        }
        let macs: Vec<String> = found.interfaces.iter().map(|interface| interface.mac.clone()).collect();
        let wanted = if told.interfaces || told.adapters {
            vec![bmc.mac(0, 0), bmc.mac(0, 1)]
        } else {
            Vec::new()
        };
        assert_eq!(macs, wanted, "{name}");
        let drives = if told.drives == Drives::Nowhere { 0 } else { told.drive_count };
        assert_eq!(found.drives.len(), drives, "{name}: {:?}", found.drives);
        if matches!(told.drives, Drives::Storage | Drives::SmartStorage) {
            let serials = found.drives.iter().filter(|drive| drive.serial.is_some()).count();
            let fast = found.drives.iter().filter(|drive| drive.medium == Some(Medium::Ssd)).count();
            assert_eq!((serials, fast), (drives, 2), "{name}");
        }
        assert_eq!(bmc.sessions(), 0, "{name}: nothing is left behind");
        println!("{name}: {} requests", bmc.requests());
    }
}

#[tokio::test]
async fn which_machine_it_is_takes_a_few_requests() {
    let profile = with("lenovo-xcc", |profile| profile.inventory.drive_count = 48);
    let simulator = simulator(&profile, 1).await;
    let found = read(&simulator, Depth::Identity).await;
    assert_eq!((found.interfaces.len(), found.drives.len()), (2, 0));
    assert!(simulator.bmc(0).requests() < 10, "{}", simulator.bmc(0).requests());
}

#[tokio::test]
async fn of_two_machines_behind_a_controller_each_is_read_as_its_own() {
    let simulator = simulator(&profile::named("idrac-9").expect("a profile"), 2).await;
    let calls = Calls::new(Limits::default());
    for system in 0..2 {
        let machine = calls.machine(format!("m-{system}"), Arc::new(redfish(&simulator, 0, system)));
        let found = calls.inventory(&machine, Depth::Everything).await.expect("an inventory");
        assert_eq!(found.uuid, Some(simulator.bmc(0).uuid(system)));
        assert_eq!(found.interfaces[0].mac, simulator.bmc(0).mac(system, 0));
    }
}

#[tokio::test]
async fn many_drives_are_asked_for_at_once_where_the_service_says_so_and_one_by_one_where_not() {
    let mut needed = Vec::new();
    for expands in [Expands::Levels, Expands::Below, Expands::Nothing] {
        let profile = with("lenovo-xcc", |profile| {
            profile.inventory.drive_count = 48;
            profile.inventory.expands = expands;
        });
        let simulator = simulator(&profile, 1).await;
        let found = read(&simulator, Depth::Everything).await;
        assert_eq!(found.drives.len(), 48, "{expands:?}");
        needed.push(simulator.bmc(0).requests());
    }
    println!("48 drives: {needed:?} requests");
    assert!(needed[0] < 20 && needed[1] == needed[0] && needed[2] > 50, "{needed:?}");
}

#[tokio::test]
async fn a_service_that_promises_more_than_it_can_send_is_asked_one_by_one() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let profile = with("lenovo-xcc", |profile| profile.inventory.expands = Expands::Nothing);
    // It says that it can and ignores the query: links come as links.
    let simulator = Simulator::start(Options {
        rewrite: Some(Arc::new(move |path: &str, mut document: Value| {
            if path == "/redfish/v1" {
                counted.fetch_add(1, Ordering::SeqCst);
                document["ProtocolFeaturesSupported"] = json!({"ExpandQuery": {"NoLinks": true, "Levels": true}});
            }
            document
        })),
        ..options(&profile, 1, 1)
    })
    .await
    .expect("it starts");
    let found = read(&simulator, Depth::Everything).await;
    assert_eq!((found.drives.len(), found.missing.len()), (6, 0), "{:?}", found.missing);
    assert!(refusals.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn who_switches_the_machine_comes_in_between() {
    let profile = with("lenovo-xcc", |profile| {
        profile.inventory.drive_count = 48;
        profile.inventory.expands = Expands::Nothing;
    });
    let simulator = simulator(&profile, 1).await;
    let slow = Fault {
        operation: Operation::Read,
        ..Fault::new("slow", What::Latency { ms: 150 })
    };
    simulator.fleet().faults().set(slow).expect("a good fault");
    let (calls, machine) = called(&simulator, 0, 0);
    let began = Instant::now();
    let reading = async {
        let found = calls.inventory(&machine, Depth::Everything).await.expect("an inventory");
        (found, began.elapsed())
    };
    let switching = async {
        let mut longest = Duration::ZERO;
        tokio::time::sleep(Duration::from_millis(500)).await;
        for turn in 0..3 {
            let asked = Instant::now();
            if turn % 2 == 0 {
                calls.on(&machine).await.expect("on");
            } else {
                calls.off(&machine, Off::Hard).await.expect("off");
            }
            longest = longest.max(asked.elapsed());
        }
        (longest, began.elapsed())
    };
    let ((found, read), (longest, switched)) = tokio::join!(reading, switching);
    println!("read within {read:?}; switched within {longest:?} at most");
    assert_eq!(found.drives.len(), 48);
    assert!(switched < read, "it was switched while it was read: {switched:?}, {read:?}");
    assert!(longest < Duration::from_secs(6), "{longest:?}");
    assert!(simulator.bmc(0).hosts[0].boots().len() >= 2);
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_is_there() {
    let profile = with("lenovo-xcc", |profile| profile.inventory.expands = Expands::Nothing);
    let simulator = Simulator::start(Options {
        rewrite: Some(Arc::new(|path: &str, document: Value| match path {
            // Leads to nothing, and to itself.
            "/redfish/v1/Systems/1/Storage/1" => json!({"Drives": [{"@odata.id": "/redfish/v1/Systems/1/Storage/1/Drives/1"}, {"@odata.id": "/redfish/v1/nowhere"}, {"@odata.id": "/redfish/v1/Systems/1/Storage"}, null, 7]}),
            _ => document,
        })),
        ..options(&profile, 1, 1)
    })
    .await
    .expect("it starts");
    let found = read(&simulator, Depth::Everything).await;
    assert_eq!((found.drives.len(), found.interfaces.len()), (1, 2));
    assert_eq!(found.missing.len(), 1, "{:?}", found.missing);
    assert!(found.missing[0].starts_with("/redfish/v1/nowhere: "), "{:?}", found.missing);
}

#[tokio::test]
async fn a_service_without_end_is_left_at_a_bound() {
    let profile = with("lenovo-xcc", |profile| profile.inventory.expands = Expands::Nothing);
    let simulator = Simulator::start(Options {
        rewrite: Some(Arc::new(|path: &str, document: Value| {
            if !path.contains("/Storage") && !path.contains("/Interfaces") {
                return document;
            }
            // A collection of collections, each with a next page, and names without end.
            let members: Vec<Value> = (0..500).map(|n| json!({"@odata.id": format!("{path}/{n}x")})).collect();
            json!({"Members": members, "Drives": members, "Model": "x".repeat(10_000), "SerialNumber": path, "CapacityBytes": 1,
                "Members@odata.nextLink": format!("{path}?page={}", path.len())})
        })),
        ..options(&profile, 1, 1)
    })
    .await
    .expect("it starts");
    let began = Instant::now();
    let found = read(&simulator, Depth::Everything).await;
    println!("{} requests in {:?}", simulator.bmc(0).requests(), began.elapsed());
    assert!(simulator.bmc(0).requests() < 500, "{}", simulator.bmc(0).requests());
    assert!(found.drives.len() <= 128);
    assert!(
        found
            .drives
            .iter()
            .all(|drive| drive.model.as_ref().is_none_or(|model| model.chars().count() <= 256))
    );
}

#[tokio::test]
async fn one_that_is_busy_is_asked_again_and_goes_on_where_it_was() {
    let profile = with("lenovo-xcc", |profile| profile.inventory.expands = Expands::Nothing);
    let simulator = simulator(&profile, 1).await;
    let (calls, machine) = called(&simulator, 0, 0);
    calls.state(&machine).await.expect("a state");
    let busy = Fault {
        operation: Operation::Any,
        times: Some(2),
        ..Fault::new(
            "busy",
            What::Status {
                code: 503,
                retry_after: None,
            },
        )
    };
    let before = simulator.bmc(0).requests();
    simulator.fleet().faults().set(busy).expect("a good fault");
    let found = calls.inventory(&machine, Depth::Everything).await.expect("an inventory");
    assert_eq!((found.drives.len(), found.missing.len()), (6, 0), "{:?}", found.missing);
    assert!(simulator.bmc(0).requests() - before < 40, "{}", simulator.bmc(0).requests());
}

#[tokio::test]
async fn what_is_not_answered_any_more_is_left_out_with_the_rest() {
    let profile = with("lenovo-xcc", |profile| {
        profile.inventory.drive_count = 48;
        profile.inventory.expands = Expands::Nothing;
    });
    let simulator = simulator(&profile, 1).await;
    let fault = |name: &str, what: What| Fault {
        operation: Operation::Read,
        ..Fault::new(name, what)
    };
    let faults = simulator.fleet().faults();
    faults.set(fault("slow", What::Latency { ms: 100 })).expect("a good fault");
    let (calls, machine) = called(&simulator, 0, 0);
    let breaks = async {
        until("some drives were read", async || simulator.bmc(0).requests() > 15).await;
        faults.set(fault("closed", What::Closed)).expect("a good fault");
        Instant::now()
    };
    let (found, broken) = tokio::join!(calls.inventory(&machine, Depth::Everything), breaks);
    let found = found.expect("what it has said before");
    assert!(broken.elapsed() < Duration::from_secs(10), "{:?}", broken.elapsed());
    assert!((1..48).contains(&found.drives.len()), "{} drives", found.drives.len());
    assert!(
        found.missing.iter().any(|missing| missing.starts_with("the rest")),
        "{:?}",
        found.missing
    );
}

#[tokio::test]
async fn a_service_that_falls_silent_ends_it_within_its_bound() {
    let profile = with("lenovo-xcc", |profile| profile.inventory.expands = Expands::Nothing);
    let simulator = simulator(&profile, 1).await;
    let calls = Calls::new(Limits {
        attempt: Duration::from_secs(3),
        ..Limits::default()
    });
    let machine = calls.machine("m", Arc::new(redfish(&simulator, 0, 0)));
    calls.state(&machine).await.expect("a state");
    simulator
        .fleet()
        .faults()
        .set(Fault::new("silent", What::Silent))
        .expect("a good fault");
    let began = Instant::now();
    let error = calls.inventory(&machine, Depth::Everything).await.expect_err("nobody answers");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(error.to_string().contains("cannot tell what the machine is"), "{error}");
}
