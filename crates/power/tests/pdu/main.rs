//! Outlets of PDUs against snmpsim.

mod sim;

use std::time::{Duration, Instant};

use power::{
    Driver, Fault, Off, PowerState,
    fault::Again,
    pdu::{
        Access, Authentication, Outlet, Settings,
        makes::{Cells, Make},
    },
    plug::{Load, Make as Plugged, Plug},
};

use tokio::net::UdpSocket;

use crate::sim::{PASSWORD, PRIVACY, Sim};

fn cells(make: &str, outlet: u32) -> Cells {
    Make::named(make).expect("a make").cells(1, outlet)
}

fn user(name: &str, authentication: Authentication, password: &str, privacy: &str) -> Access {
    Access::User {
        name: name.to_owned(),
        authentication,
        password: password.to_owned().into(),
        privacy: privacy.to_owned().into(),
    }
}

fn operator() -> Access {
    user("operator", Authentication::Sha256, PASSWORD, PRIVACY)
}

fn community(name: &str) -> Access {
    Access::Community(name.to_owned().into())
}

fn settings(port: u16, access: Access, cells: Cells) -> Settings {
    Settings {
        host: "127.0.0.1".to_owned(),
        port,
        access,
        cells,
    }
}

fn plug(settings: Settings, running_watts: Option<f64>) -> Plug {
    let load = Load {
        rest: Duration::from_millis(200),
        running_watts,
    };
    Plug::new(Plugged::Outlet(Outlet::new(settings).expect("good settings")), load).expect("good settings")
}

async fn is_refused(settings: Settings) -> Fault {
    let plug = plug(settings, None);
    let fault = plug.state().await.expect_err("refused");
    let shown = format!("{fault} {fault:?} {plug:?}");
    for secret in [PASSWORD, PRIVACY, "wrong-Pass-99", "apc-secret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    fault
}

#[tokio::test]
async fn outlets_of_each_make_are_switched() {
    let sim = Sim::start();
    for (make, name, outlet, access, [on, off, cycle]) in [
        ("apcRackPdu", "rpdu", 1, community("apc"), [1, 2, 3]),
        ("apcRackPdu2", "rpdu2", 7, community("apc"), [1, 2, 3]),
        ("raritan", "raritan", 3, community("raritan"), [1, 0, 2]),
    ] {
        let told = |numbers: &[i32]| numbers.iter().map(|number| format!("{name} {number}")).collect::<Vec<_>>();
        let plug = plug(settings(sim.port, access, cells(make, outlet)), None);
        assert_eq!(plug.state().await, Ok(PowerState::Off), "{make}");
        plug.on().await.expect("on");
        assert_eq!((plug.state().await, sim.told()), (Ok(PowerState::Unknown), told(&[on])), "{make}");
        plug.cycle().await.expect("cycled");
        assert_eq!(
            (plug.state().await, sim.told()),
            (Ok(PowerState::Unknown), told(&[cycle])),
            "{make}"
        );
        plug.off(Off::Hard).await.expect("off");
        assert_eq!((plug.state().await, sim.told()), (Ok(PowerState::Off), told(&[off])), "{make}");
        plug.cycle().await.expect("one that is off is switched on");
        assert_eq!((plug.state().await, sim.told()), (Ok(PowerState::Unknown), told(&[on])), "{make}");
    }

    // One cell for both, with the module that snmpsim brings.
    let master = plug(settings(sim.port, community("apc"), cells("apcMasterSwitch", 1)), None);
    assert_eq!(master.state().await, Ok(PowerState::Off));
    master.on().await.expect("on");
    assert_eq!(master.state().await, Ok(PowerState::Unknown));
    master.off(Off::Hard).await.expect("off");
    assert_eq!(master.state().await, Ok(PowerState::Off));
}

#[tokio::test]
async fn a_measured_outlet_tells_whether_the_machine_runs() {
    let sim = Sim::start();
    for (make, outlet, access) in [("apcRackPdu2", 7, community("apc")), ("raritan", 3, operator())] {
        let of = |watts| plug(settings(sim.port, access.clone(), cells(make, outlet)), Some(watts));
        of(20.0).on().await.expect("on");
        // It draws 85 W; Raritan's shows 855 with one digit behind the point.
        assert_eq!(of(85.0).state().await, Ok(PowerState::On), "{make}");
        assert_eq!(of(86.0).state().await, Ok(PowerState::Off), "{make}");
        sim.told();
        of(85.0).on().await.expect("it runs");
        assert_eq!(sim.told(), Vec::<String>::new(), "{make}");
        of(100.0).on().await.expect("mains goes and comes");
        assert_eq!(sim.told().len(), 1, "{make}");
    }
    let unmeasured = Outlet::new(settings(sim.port, community("apc"), cells("apcRackPdu", 1))).expect("good settings");
    let refused = Plug::new(
        Plugged::Outlet(unmeasured),
        Load {
            running_watts: Some(5.0),
            ..Load::default()
        },
    )
    .expect_err("nothing to compare");
    assert!(matches!(refused, Fault::Settings { field: "runningWatts", .. }), "{refused}");
}

#[tokio::test]
async fn cells_named_by_hand_are_cycled_in_two_steps() {
    let sim = Sim::start();
    let named = Cells {
        cycle: None,
        power: None,
        ..cells("raritan", 3)
    };
    let plug = plug(settings(sim.port, community("raritan"), named), None);
    plug.on().await.expect("on");
    sim.told();
    let began = Instant::now();
    plug.cycle().await.expect("cycled");
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(sim.told(), ["raritan 0", "raritan 1"]);
}

#[tokio::test]
async fn version_3_is_spoken_with_both_hashes_and_its_refusals_are_told_apart() {
    let sim = Sim::start();
    let raritan = || cells("raritan", 3);
    let elder = user("elder", Authentication::Sha1, PASSWORD, PRIVACY);
    for access in [operator(), elder] {
        let plug = plug(settings(sim.port, access, raritan()), None);
        plug.on().await.expect("on");
        assert_eq!(
            (plug.state().await, sim.told()),
            (Ok(PowerState::Unknown), vec!["raritan 1".to_owned()])
        );
        plug.off(Off::Hard).await.expect("off");
        assert_eq!(
            (plug.state().await, sim.told()),
            (Ok(PowerState::Off), vec!["raritan 0".to_owned()])
        );
    }

    for (access, why) in [
        (user("operator", Authentication::Sha256, "wrong-Pass-99", PRIVACY), "password"),
        (user("operator", Authentication::Sha1, PASSWORD, PRIVACY), "kind of authentication"),
        (user("nobody", Authentication::Sha256, PASSWORD, PRIVACY), "does not know the user"),
    ] {
        let fault = is_refused(settings(sim.port, access, raritan())).await;
        assert!(
            matches!(&fault, Fault::Credentials(detail) if detail.contains(why)),
            "{why}: {fault}"
        );
        assert_eq!(fault.again(power::Operation::On), Again::No);
    }
    let fault = is_refused(settings(
        sim.port,
        user("operator", Authentication::Sha256, PASSWORD, "wrong-Pass-99"),
        raritan(),
    ))
    .await;
    assert!(
        matches!(&fault, Fault::Credentials(detail) if detail.contains("encryption")),
        "{fault}"
    );
}

#[tokio::test]
async fn what_is_not_there_or_may_not_be_is_told() {
    let sim = Sim::start();
    // Another community: an agent says nothing.
    let began = Instant::now();
    let fault = is_refused(settings(sim.port, community("apc-secret"), cells("apcRackPdu", 1))).await;
    assert!(
        matches!(&fault, Fault::Unreachable(detail) if detail.contains("community")),
        "{fault}"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Nobody listens.
    let fault = is_refused(settings(1, community("apc"), cells("apcRackPdu", 1))).await;
    assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");

    for access in [community("raritan"), operator()] {
        let fault = is_refused(settings(sim.port, access.clone(), cells("raritan", 40))).await;
        assert!(
            matches!(&fault, Fault::Settings { field: "outlet", problem } if problem.contains("1.3.6.1.4.1.13742.6.4.1.2.1.3.1.40")),
            "{fault}"
        );
        let fault = plug(settings(sim.port, access, cells("raritan", 40)), None)
            .off(Off::Hard)
            .await
            .expect_err("no such outlet");
        assert!(matches!(fault, Fault::Settings { field: "outlet", .. }), "{fault}");
    }

    let of = |outlet| plug(settings(sim.port, community("apc"), cells("apcMasterSwitch", outlet)), None);
    let fault = of(2).off(Off::Hard).await.expect_err("it may only be read");
    assert!(matches!(fault, Fault::Privilege(_)), "{fault}");
    let fault = of(3).on().await.expect_err("busy");
    assert!(matches!(fault, Fault::Busy { .. }), "{fault}");
    let fault = of(4).state().await.expect_err("neither on nor off");
    assert!(matches!(&fault, Fault::Garbled(detail) if detail.contains("shows 4")), "{fault}");
    // A cell of text.
    let mut text = cells("apcMasterSwitch", 1);
    text.state = "1.3.6.1.2.1.1.1.0".to_owned();
    let fault = is_refused(settings(sim.port, community("apc"), text)).await;
    assert!(matches!(fault, Fault::Garbled(_)), "{fault}");
}

#[tokio::test]
async fn nonsense_comes_to_an_end() {
    // Noise, what was sent, what was sent cut off, and with each of its bytes changed.
    type Says = fn(&[u8]) -> Vec<u8>;
    let nonsense: [Says; 5] = [
        |_| vec![0xff; 1400],
        |asked| asked.to_vec(),
        |asked| asked[..asked.len() / 2].to_vec(),
        |asked| asked.iter().map(|byte| byte ^ 0x80).collect(),
        |_| vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x02],
    ];
    let mut tries = Vec::new();
    for says in nonsense {
        for access in [community("apc"), operator()] {
            tries.push(tokio::spawn(async move {
                let agent = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
                let port = agent.local_addr().expect("an address").port();
                let answers = tokio::spawn(async move {
                    let mut asked = [0; 2000];
                    while let Ok((length, from)) = agent.recv_from(&mut asked).await {
                        agent.send_to(&says(&asked[..length]), from).await.expect("sent");
                    }
                });
                let plug = plug(settings(port, access, cells("apcRackPdu", 1)), None);
                let began = Instant::now();
                let read = plug.state().await.expect_err("nonsense");
                assert!(matches!(read, Fault::Unreachable(_) | Fault::Garbled(_)), "{read:?}");
                let written = plug.off(Off::Hard).await.expect_err("nonsense");
                // It was looked at first, so nothing was switched.
                assert!(matches!(written, Fault::Unreachable(_) | Fault::Garbled(_)), "{written:?}");
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
                answers.abort();
            }));
        }
    }
    for each in tries {
        each.await.expect("no panic");
    }
}

#[test]
fn settings_are_looked_at_before_anything_is_sent() {
    let refused = |settings: Settings| match Outlet::new(settings) {
        Err(Fault::Settings { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let apc = || cells("apcRackPdu", 1);
    let of = |access| settings(161, access, apc());
    let with = |change: fn(&mut Cells)| {
        let mut cells = apc();
        change(&mut cells);
        settings(161, community("apc"), cells)
    };
    assert_eq!(refused(of(community(""))), "community");
    assert_eq!(refused(of(user("", Authentication::Sha1, PASSWORD, PRIVACY))), "user");
    assert_eq!(refused(of(user("operator", Authentication::Sha1, "short", PRIVACY))), "password");
    assert_eq!(refused(of(user("operator", Authentication::Sha1, PASSWORD, "short"))), "privacy");
    assert_eq!(refused(with(|cells| cells.command = "sPDUOutletCtl.1".to_owned())), "command");
    assert_eq!(refused(with(|cells| cells.off = cells.on)), "command");
    assert_eq!(refused(with(|cells| cells.state = "1".to_owned())), "state");
    assert_eq!(refused(with(|cells| cells.shows_off = cells.shows_on)), "state");
    let host = Settings {
        host: "pdu:161/x".to_owned(),
        ..of(community("apc"))
    };
    assert_eq!(refused(host), "host");
    let driver = plug(
        Settings {
            host: "2001:db8::7".to_owned(),
            ..of(community("apc-secret"))
        },
        None,
    );
    assert_eq!(driver.controller(), "[2001:db8::7]:161");
    assert_eq!(driver.kind().name, "pdu");
}
