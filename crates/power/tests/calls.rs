//! The bounds of calls, with drivers that are scripts and a clock that is moved by hand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use power::{
    Act, BootDevice, BootDevices, BootOnce, Capabilities, Driver, Fault, Firmware, Kind, Off, PowerState, Unmanaged,
    calls::{Calls, Limits},
    inventory::{Depth, Survey},
};
use tokio::time::Instant;

static KIND: Kind = Kind {
    name: "script",
    title: "A script",
    capabilities: Capabilities {
        events: false,
        on: true,
        off_soft: false,
        off_hard: true,
        cycle: true,
        state: true,
        boot_once: BootDevices::of(&[BootDevice::Network]),
        media: false,
        inventory: true,
    },
    evidence: "",
};

/// How many calls are under way, and were at most.
#[derive(Debug, Default)]
struct Load {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Load {
    fn enter(&self) -> UnderWay<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        UnderWay(self)
    }
}

/// A call that is under way until this is dropped, as it is too when the call is cut off.
struct UnderWay<'a>(&'a Load);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers after a time, with the faults of its script first.
#[derive(Debug)]
struct Script {
    controller: String,
    takes: Duration,
    faults: Mutex<Vec<Fault>>,
    tries: AtomicUsize,
    load: Arc<Load>,
}

impl Script {
    fn new(controller: &str, takes: Duration, faults: Vec<Fault>) -> Arc<Self> {
        Self::loading(controller, takes, faults, Arc::default())
    }

    fn loading(controller: &str, takes: Duration, faults: Vec<Fault>, load: Arc<Load>) -> Arc<Self> {
        Arc::new(Self {
            controller: controller.to_owned(),
            takes,
            faults: Mutex::new(faults),
            tries: AtomicUsize::new(0),
            load,
        })
    }

    async fn play(&self) -> Result<(), Fault> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        let _under_way = self.load.enter();
        tokio::time::sleep(self.takes).await;
        let mut faults = self.faults.lock().expect("not poisoned");
        if faults.is_empty() { Ok(()) } else { Err(faults.remove(0)) }
    }

    fn tries(&self) -> usize {
        self.tries.load(Ordering::SeqCst)
    }
}

impl Driver for Script {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.play())
    }

    fn cycle(&self) -> Act<'_, ()> {
        Box::pin(self.play())
    }

    fn state(&self) -> Act<'_, PowerState> {
        Box::pin(async {
            self.play().await?;
            Ok(PowerState::On)
        })
    }

    /// Three parts.
    fn survey(&self, _depth: Depth) -> Act<'_, Survey> {
        Box::pin(async {
            self.play().await?;
            Ok(if self.tries().is_multiple_of(3) {
                Survey::Done(Box::default())
            } else {
                Survey::More
            })
        })
    }
}

fn dead() -> Fault {
    Fault::Unreachable("no answer".to_owned())
}

#[tokio::test(start_paused = true)]
async fn what_is_not_declared_is_refused_before_a_driver_is_asked() {
    let calls = Calls::new(Limits::default());
    let script = Script::new("a", Duration::ZERO, Vec::new());
    let machine = calls.machine("m-1", script.clone());
    let refused = calls.off(&machine, Off::Soft).await.expect_err("not declared");
    assert!(matches!(refused.fault, Fault::Incapable(_)), "{refused}");
    let boot = BootOnce {
        device: BootDevice::Disk,
        firmware: Firmware::Uefi,
    };
    let refused = calls.boot_once(&machine, boot).await.expect_err("not this device");
    assert_eq!(
        refused.to_string(),
        "m-1: cannot let it boot once from the disk through a: this kind of driver cannot let it boot once from the disk: the guest helper or a person has to"
    );
    assert_eq!(script.tries(), 0);

    let nobody = calls.machine("m-2", Arc::new(Unmanaged));
    for refused in [
        calls.on(&nobody).await,
        calls.off(&nobody, Off::Hard).await,
        calls.cycle(&nobody).await,
    ] {
        assert!(matches!(refused, Err(error) if matches!(error.fault, Fault::Incapable(_))));
    }
    assert!(calls.state(&nobody).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_is_tried_again_only_where_that_does_no_harm() {
    let calls = Calls::new(Limits::default());
    let lost = || Fault::Unanswered("no answer to the request".to_owned());
    let cases = [
        // (the fault of the first try, tries of `on`, tries of `cycle`)
        (dead(), 2, 2),
        (lost(), 2, 1),
        (
            Fault::Busy {
                detail: String::new(),
                after: None,
            },
            2,
            2,
        ),
        (Fault::Credentials("no such user".to_owned()), 1, 1),
        (Fault::Refused("no".to_owned()), 1, 1),
    ];
    for (fault, on, cycle) in cases {
        let script = Script::new("a", Duration::ZERO, vec![fault.clone()]);
        let machine = calls.machine("m-1", script.clone());
        assert_eq!(calls.on(&machine).await.is_ok(), on == 2, "{fault}");
        assert_eq!(script.tries(), on, "{fault}");
        let script = Script::new("a", Duration::ZERO, vec![fault.clone()]);
        let machine = calls.machine("m-1", script.clone());
        assert_eq!(calls.cycle(&machine).await.is_ok(), cycle == 2, "{fault}");
        assert_eq!(script.tries(), cycle, "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_in_time_whatever_the_controller_does() {
    let limits = Limits::default();
    let calls = Calls::new(limits.clone());
    let hangs = Script::new("a", Duration::from_secs(1_000_000), Vec::new());
    let machine = calls.machine("m-1", hangs.clone());
    let began = Instant::now();
    let error = calls.state(&machine).await.expect_err("it hangs");
    assert!(began.elapsed() <= limits.call, "{:?}", began.elapsed());
    assert!(hangs.tries() <= 3);
    assert!(
        error.to_string().starts_with("m-1: cannot tell whether it is on through a: "),
        "{error}"
    );
    // A command that hangs may have been carried out: it is not repeated.
    let hangs = Script::new("b", Duration::from_secs(1_000_000), Vec::new());
    let machine = calls.machine("m-2", hangs.clone());
    let error = calls.cycle(&machine).await.expect_err("it hangs");
    assert!(matches!(error.fault, Fault::Unanswered(_)), "{error}");
    assert_eq!(hangs.tries(), 1);
    // Who waits for its turn behind others is told so, in time.
    let slow = Script::new("c", Duration::from_secs(19), Vec::new());
    let machine = calls.machine("m-3", slow);
    let began = Instant::now();
    let waiting: Vec<_> = (0..6).map(|_| calls.state(&machine)).collect();
    let done = join_all(waiting).await;
    assert_eq!(done.iter().filter(|result| result.is_ok()).count(), 3);
    let mut faults = done.into_iter().filter_map(Result::err).map(|error| error.fault);
    // The fourth was cut off, the others never had a turn.
    assert!(matches!(faults.next(), Some(Fault::Unreachable(_))));
    let last = faults.next_back().expect("the last is late");
    assert_eq!(
        last.to_string(),
        "its turn did not come within 60 s: another call to the same controller was under way"
    );
    assert!(began.elapsed() <= limits.call + Duration::from_millis(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn machines_behind_one_controller_wait_for_each_other() {
    let calls = Calls::new(Limits::default());
    let load = Arc::new(Load::default());
    let machines: Vec<_> = (0..5)
        .map(|index| {
            calls.machine(
                format!("m-{index}"),
                Script::loading("chassis", Duration::from_secs(1), Vec::new(), Arc::clone(&load)),
            )
        })
        .collect();
    let began = Instant::now();
    let done = join_all(machines.iter().map(|machine| calls.state(machine))).await;
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(load.most.load(Ordering::SeqCst), 1);
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn dead_controllers_do_not_delay_the_others() {
    let limits = Limits::default();
    let calls = Calls::new(limits.clone());
    let load = Arc::new(Load::default());
    let faults = || vec![dead(); 100];
    let dead: Vec<_> = (0..400)
        .map(|index| {
            calls.machine(
                format!("dead-{index}"),
                Script::loading(&format!("d{index}"), Duration::from_secs(7), faults(), Arc::clone(&load)),
            )
        })
        .collect();
    let alive: Vec<_> = (0..1600)
        .map(|index| {
            calls.machine(
                format!("m-{index}"),
                Script::loading(&format!("m{index}"), Duration::from_millis(100), Vec::new(), Arc::clone(&load)),
            )
        })
        .collect();
    // The first round shows who is dead.
    let first = join_all(dead.iter().map(|machine| calls.state(machine))).await;
    assert!(first.iter().all(Result::is_err));
    let (_, (slowest, done)) = tokio::join!(join_all(dead.iter().map(|machine| calls.state(machine))), async {
        let began = Instant::now();
        let done = join_all(alive.iter().map(|machine| calls.state(machine))).await;
        (began.elapsed(), done)
    });
    assert!(done.iter().all(Result::is_ok));
    // 1600 calls of 100 ms each through the 80 slots that the dead leave make 2 s.
    assert!(slowest < Duration::from_millis(2500), "{slowest:?}");
    let most = load.most.load(Ordering::SeqCst);
    assert!(most <= limits.at_once, "{most} calls at once");
    println!("1600 calls beside 400 dead controllers: {slowest:?}, at most {most} at once");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_comes_back_is_no_longer_doubted() {
    let limits = Limits {
        doubted: 1,
        attempts: 1,
        ..Limits::default()
    };
    let calls = Calls::new(limits);
    let back: Vec<_> = (0..10)
        .map(|index| {
            calls.machine(
                format!("m-{index}"),
                Script::new(&format!("c{index}"), Duration::from_secs(1), vec![dead()]),
            )
        })
        .collect();
    let round = || async {
        let began = Instant::now();
        let done = join_all(back.iter().map(|machine| calls.state(machine))).await;
        (done.iter().filter(|result| result.is_ok()).count(), began.elapsed().as_secs())
    };
    assert_eq!(round().await, (0, 1), "all at once, and all fail");
    assert_eq!(round().await, (10, 10), "doubted, one after another");
    assert_eq!(round().await, (10, 1), "all at once again");
}

#[tokio::test(start_paused = true)]
async fn a_reading_in_parts_gives_up_its_turn_between_them() {
    let calls = Calls::new(Limits::default());
    let script = Script::new("a", Duration::from_secs(2), Vec::new());
    let machine = calls.machine("m-1", script.clone());
    let began = tokio::time::Instant::now();
    let reading = async {
        calls.inventory(&machine, Depth::Everything).await.expect("read");
        began.elapsed()
    };
    let switching = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        calls.on(&machine).await.expect("on");
        began.elapsed()
    };
    let (read, switched) = tokio::join!(reading, switching);
    // One part, then the switch, then the others.
    assert_eq!((switched, read), (Duration::from_secs(4), Duration::from_secs(6)));
    assert_eq!(script.tries(), 3, "the third call was the last part, by this script's count");
}

#[tokio::test(start_paused = true)]
async fn readings_leave_most_places_to_those_who_switch() {
    let limits = Limits {
        at_once: 20,
        surveys: 3,
        ..Limits::default()
    };
    let calls = Calls::new(limits);
    let load = Arc::new(Load::default());
    let all: Vec<_> = (0..12)
        .map(|n| {
            let script = Script::loading(&format!("c-{n}"), Duration::from_secs(1), Vec::new(), Arc::clone(&load));
            calls.machine(format!("m-{n}"), script)
        })
        .collect();
    let began = tokio::time::Instant::now();
    let read = join_all(all.iter().map(|machine| calls.inventory(machine, Depth::Everything))).await;
    assert!(read.iter().all(Result::is_ok));
    // Four rounds of three, of three parts each.
    assert_eq!(began.elapsed(), Duration::from_secs(12));
    assert_eq!(load.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_never_ends_is_ended() {
    let calls = Calls::new(Limits {
        survey: Duration::from_secs(30),
        ..Limits::default()
    });
    let machine = calls.machine("m-1", Arc::new(Endless));
    let error = calls.inventory(&machine, Depth::Identity).await.expect_err("it has no end");
    assert!(matches!(error.fault, Fault::Late { .. }), "{error}");
}

/// Always has more to tell.
#[derive(Debug)]
struct Endless;

impl Driver for Endless {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &'static str {
        "endless"
    }

    fn survey(&self, _depth: Depth) -> Act<'_, Survey> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Survey::More)
        })
    }
}
