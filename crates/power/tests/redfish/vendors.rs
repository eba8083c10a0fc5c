//! What vendors do: sessions and their limits, tasks, versions, settings elsewhere, odd links, and errors that tell secrets.

use power::{BootDevice, BootOnce, Driver, Fault, Firmware, Off, Operation, PowerState, fault::Again};

use crate::service::{Manners, Resets, SYSTEM, Service};

const PXE: BootOnce = BootOnce {
    device: BootDevice::Network,
    firmware: Firmware::Uefi,
};

#[tokio::test]
async fn one_session_is_used_again_and_given_back() {
    let service = Service::start(Manners::default()).await;
    let driver = service.driver();
    for _ in 0..5 {
        assert_eq!(driver.state().await, Ok(PowerState::Off));
    }
    assert_eq!(service.with(|bmc| (bmc.log_ins, bmc.tokens.len())), (1, 1));
    // A service that forgot it, as after a restart, gets another.
    service.with(|bmc| bmc.tokens.clear());
    assert_eq!(driver.state().await, Ok(PowerState::Off));
    assert_eq!(service.with(|bmc| (bmc.log_ins, bmc.tokens.len())), (2, 1));
    driver.close().await.expect("given back");
    assert_eq!(service.with(|bmc| bmc.tokens.len()), 0);
    driver.close().await.expect("nothing to give back");
    assert_eq!(driver.state().await, Ok(PowerState::Off), "the next call gets one anew");
}

#[tokio::test]
async fn without_a_session_to_be_had_it_goes_by_password() {
    for sessions in [Some(0), None] {
        let service = Service::start(Manners {
            sessions,
            ..Manners::default()
        })
        .await;
        let driver = service.driver();
        driver.on().await.expect("on");
        assert_eq!(driver.state().await, Ok(PowerState::On), "{sessions:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_once_in_a_call() {
    for (sessions, log_ins) in [(Some(4), 1), (None, 0)] {
        let service = Service::start(Manners {
            sessions,
            ..Manners::default()
        })
        .await;
        let driver = service.driver_with("wrong-fish-1");
        let fault = driver.on().await.expect_err("wrong");
        assert!(matches!(fault, Fault::Credentials(_)), "{fault}");
        assert_eq!(fault.again(Operation::On), Again::No);
        assert!(!fault.to_string().contains("wrong-fish-1"), "{fault}");
        let refused = service.with(|bmc| {
            (
                bmc.log_ins,
                bmc.requests.iter().filter(|(_, path)| path == "/redfish/v1/Systems").count(),
            )
        });
        assert_eq!(refused, (log_ins, usize::from(sessions.is_none())));
    }
}

#[tokio::test]
async fn no_error_tells_the_password() {
    for resets in [
        Resets::Refused(400),
        Resets::Refused(403),
        Resets::Refused(503),
        Resets::DoneAnd(500),
    ] {
        let service = Service::start(Manners {
            resets,
            ..Manners::default()
        })
        .await;
        let driver = service.driver();
        let fault = driver.on().await.expect_err("refused");
        assert!(fault.to_string().contains("your password is ***"), "{fault}");
        assert!(
            !format!("{fault:?} {driver:?}").contains(crate::service::PASSWORD),
            "{fault:?} {driver:?}"
        );
        assert!(!format!("{driver:?}").contains("token-1"), "{driver:?}");
        match resets {
            Resets::Refused(400) => assert!(matches!(fault, Fault::Refused(_)), "{fault}"),
            Resets::Refused(403) => assert!(matches!(fault, Fault::Privilege(_)), "{fault}"),
            Resets::Refused(_) => assert!(matches!(fault, Fault::Busy { .. }), "{fault}"),
            // It was done: nobody may do it again blindly.
            _ => assert_eq!(
                (fault.again(Operation::Cycle), service.with(|bmc| bmc.resets.len())),
                (Again::No, 1)
            ),
        }
    }
}

#[tokio::test]
async fn what_is_offered_is_found_where_it_stands_and_tried_where_nothing_is_said() {
    let said = |offered: Option<Vec<&'static str>>, by_action_info| Manners {
        offered,
        by_action_info,
        taken: vec!["On", "ForceOff", "PowerCycle", "PushPowerButton"],
        ..Manners::default()
    };
    let able = || Some(vec!["On", "ForceOff", "PowerCycle", "PushPowerButton"]);
    for manners in [said(able(), false), said(able(), true), said(None, false)] {
        let service = Service::start(manners.clone()).await;
        let driver = service.driver();
        driver.on().await.expect("on");
        driver.cycle().await.expect("cycled");
        driver.off(Off::Soft).await.expect("shut down");
        assert_eq!(
            service.with(|bmc| bmc.resets.clone()),
            ["On", "PowerCycle", "PushPowerButton"],
            "{manners:?}"
        );
    }
    // Without a reset it is off and on; without off there is nothing to be done.
    let service = Service::start(Manners {
        slow_off: 2,
        ..said(Some(vec!["On", "ForceOff"]), false)
    })
    .await;
    let driver = service.driver();
    driver.on().await.expect("on");
    driver.cycle().await.expect("off and on");
    assert_eq!(service.with(|bmc| bmc.resets.clone()), ["On", "ForceOff", "On"]);
    let service = Service::start(said(Some(vec!["On"]), false)).await;
    let driver = service.driver();
    driver.on().await.expect("on");
    let fault = driver.off(Off::Hard).await.expect_err("not offered");
    assert_eq!(fault.to_string(), "this controller does not offer ForceOff; it offers On");
}

#[tokio::test]
async fn a_task_is_watched_to_its_end() {
    let tasks = |looks, fails| Manners {
        resets: Resets::Task { looks, fails },
        ..Manners::default()
    };
    let service = Service::start(tasks(3, false)).await;
    service.driver().on().await.expect("on");
    assert_eq!(service.with(|bmc| bmc.power), "On");
    let service = Service::start(tasks(1, true)).await;
    let fault = service.driver().on().await.expect_err("it failed");
    assert!(
        matches!(&fault, Fault::Refused(detail) if detail.contains("the power supply is missing")),
        "{fault}"
    );
}

#[tokio::test]
async fn a_boot_override_is_set_whatever_the_service_wants_to_hear() {
    let cases = [
        ("nothing special", Manners::default()),
        (
            "versions",
            Manners {
                versions: true,
                ..Manners::default()
            },
        ),
        (
            "weak versions",
            Manners {
                versions: true,
                weak: true,
                ..Manners::default()
            },
        ),
        (
            "no mode",
            Manners {
                mode: Some(false),
                ..Manners::default()
            },
        ),
        (
            "a mode",
            Manners {
                mode: Some(true),
                ..Manners::default()
            },
        ),
        (
            "no mode of HPE",
            Manners {
                mode: Some(false),
                vendor: Some("HPE"),
                ..Manners::default()
            },
        ),
        (
            "a mode of Supermicro",
            Manners {
                mode: Some(true),
                vendor: Some("Supermicro"),
                ..Manners::default()
            },
        ),
        (
            "odd links",
            Manners {
                absolute: true,
                redirects: true,
                ..Manners::default()
            },
        ),
    ];
    for (name, manners) in cases {
        let service = Service::start(manners).await;
        service
            .driver()
            .boot_once(PXE)
            .await
            .unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let boot = service.with(|bmc| bmc.boot.clone());
        assert_eq!(
            (&boot["BootSourceOverrideTarget"], &boot["BootSourceOverrideEnabled"]),
            (&"Pxe".into(), &"Once".into()),
            "{name}"
        );
        let medium = BootOnce {
            device: BootDevice::Media,
            firmware: Firmware::Uefi,
        };
        service
            .driver()
            .boot_once(medium)
            .await
            .unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(service.with(|bmc| bmc.boot["BootSourceOverrideTarget"].clone()), "UsbCd", "{name}");
    }
    // A vendor's quirk spares the refusals.
    let service = Service::start(Manners {
        mode: Some(false),
        vendor: Some("HPE"),
        ..Manners::default()
    })
    .await;
    service.driver().boot_once(PXE).await.expect("set");
    let changes = service.with(|bmc| {
        bmc.requests
            .iter()
            .filter(|(method, path)| method == "PATCH" && path == SYSTEM)
            .count()
    });
    assert_eq!(changes, 1);
}

#[tokio::test]
async fn settings_elsewhere_are_found_and_forgotten_ones_noticed() {
    let service = Service::start(Manners {
        boot_elsewhere: true,
        versions: true,
        ..Manners::default()
    })
    .await;
    service.driver().boot_once(PXE).await.expect("set");
    assert_eq!(service.with(|bmc| bmc.pending["BootSourceOverrideTarget"].clone()), "Pxe");
    let service = Service::start(Manners {
        forgets_boot: true,
        ..Manners::default()
    })
    .await;
    let fault = service.driver().boot_once(PXE).await.expect_err("forgotten");
    assert!(matches!(fault, Fault::NotTaken(_)), "{fault}");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_said_to_be_so() {
    let service = Service::start(Manners::default()).await;
    let driver = service.driver();
    drop(service);
    tokio::task::yield_now().await;
    let fault = driver.on().await.expect_err("nobody is there");
    assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");
}
