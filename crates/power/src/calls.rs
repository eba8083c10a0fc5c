//! What is the same for every call to every controller: how long it may take, how often it is tried, and how many happen at once.
//!
//! * **Bounded.** A call ends within [`Limits::call`], whatever the controller does; one try of it within [`Limits::attempt`].
//! * **Retried** where [`Fault::again`] allows it, after pauses that double and are spread, so that a rack that comes back is not asked by all at the same moment.
//! * **One at a time per controller**, in the order of asking: BMCs are small computers, and two machines can be behind one.
//! * **So many at once in all** ([`Limits::at_once`]): sockets are bounded by it. A controller whose last call went unanswered is *doubted*; all doubted ones together
//!   get [`Limits::doubted`] of the slots, so however many are dead, the others have the rest.
//!
//! * **What takes many requests is done in parts** ([`Calls::inventory`]): each waits for its turn and its slot anew, so whoever switches a machine comes in between; and [`Limits::surveys`] of them at most are
//!   under way.
//!
//! Nothing is remembered but which controllers are doubted; who never asked is not asked about.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::RngExt;
use tokio::{
    sync::{Mutex as Turns, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    driver::{Act, BootOnce, Driver, Media, Off, Operation, PowerState},
    events::{Stream, Subscription},
    fault::{Again, Fault, PowerError},
    inventory::{Depth, Inventory, Survey},
};

/// The bounds of all calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Calls that happen at the same time, in all.
    pub at_once: usize,
    /// Of these, calls to controllers that did not answer the last time. Less than `at_once`.
    pub doubted: usize,
    /// Readings of what machines are that are under way, in all. Less than `at_once`: nobody waits for one.
    pub surveys: usize,
    /// The longest time of one, with all its waiting for others.
    pub survey: Duration,
    /// Tries of one call.
    pub attempts: u32,
    /// The longest time of one try.
    pub attempt: Duration,
    /// The longest time of one call, with waiting for its turn.
    pub call: Duration,
    /// The pause after the first try; it doubles with each.
    pub pause: Duration,
    /// The longest pause, also where a controller wants a longer one.
    pub longest_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two hundred sockets are promised, with those of streams of events and of BMCs that send theirs; and one lingers for a moment behind its call.
            at_once: 112,
            doubted: 40,
            surveys: 16,
            survey: Duration::from_secs(900),
            attempts: 3,
            attempt: Duration::from_secs(20),
            call: Duration::from_secs(60),
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(10),
        }
    }
}

/// A controller, as all machines behind it share it.
#[derive(Debug, Default)]
struct Controller {
    turns: Turns<()>,
    /// Who is read.
    surveys: Turns<()>,
    doubted: AtomicBool,
}

/// A machine with its driver, ready to be called.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    driver: Arc<dyn Driver>,
    controller: Arc<Controller>,
}

impl Machine {
    /// Its driver.
    #[must_use]
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }
}

/// Makes calls to drivers, within [`Limits`].
#[derive(Debug)]
pub struct Calls {
    limits: Limits,
    slots: Semaphore,
    doubted: Semaphore,
    surveys: Semaphore,
    controllers: Mutex<HashMap<String, Weak<Controller>>>,
}

impl Calls {
    /// Calls within these limits. One such object serves a whole process.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            slots: Semaphore::new(limits.at_once.max(1)),
            doubted: Semaphore::new(limits.doubted.clamp(1, limits.at_once.max(1))),
            surveys: Semaphore::new(limits.surveys.clamp(1, limits.at_once.max(1))),
            controllers: Mutex::default(),
            limits,
        }
    }

    /// A machine to call. Machines whose drivers name the same controller wait for each other. What is known of a controller is kept as long as one of its machines is.
    #[must_use]
    pub fn machine(&self, name: impl Into<String>, driver: Arc<dyn Driver>) -> Machine {
        let mut controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = controllers.get(driver.controller()).and_then(Weak::upgrade);
        let controller = known.unwrap_or_else(|| {
            // Before the map would grow, what nobody needs any more makes room.
            if controllers.len() == controllers.capacity() {
                controllers.retain(|_, controller| controller.strong_count() > 0);
            }
            let new = Arc::new(Controller::default());
            controllers.insert(driver.controller().to_owned(), Arc::downgrade(&new));
            new
        });
        Machine {
            name: name.into(),
            driver,
            controller,
        }
    }

    /// [`Driver::on`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn on(&self, machine: &Machine) -> Result<(), PowerError> {
        self.call(machine, Operation::On, |driver| driver.on()).await
    }

    /// [`Driver::off`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn off(&self, machine: &Machine, how: Off) -> Result<(), PowerError> {
        let operation = match how {
            Off::Soft => Operation::OffSoft,
            Off::Hard => Operation::OffHard,
        };
        self.call(machine, operation, |driver| driver.off(how)).await
    }

    /// [`Driver::cycle`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`]. After [`Fault::Unanswered`] nobody knows whether it happened.
    pub async fn cycle(&self, machine: &Machine) -> Result<(), PowerError> {
        self.call(machine, Operation::Cycle, |driver| driver.cycle()).await
    }

    /// [`Driver::state`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn state(&self, machine: &Machine) -> Result<PowerState, PowerError> {
        self.call(machine, Operation::State, |driver| driver.state()).await
    }

    /// [`Driver::boot_once`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn boot_once(&self, machine: &Machine, boot: BootOnce) -> Result<(), PowerError> {
        self.call(machine, Operation::BootOnce(boot.device), |driver| driver.boot_once(boot))
            .await
    }

    /// [`Driver::attach`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn attach(&self, machine: &Machine, media: &Media) -> Result<(), PowerError> {
        self.call(machine, Operation::Attach, |driver| driver.attach(media)).await
    }

    /// [`Driver::detach`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn detach(&self, machine: &Machine, media: &Media) -> Result<(), PowerError> {
        self.call(machine, Operation::Detach, |driver| driver.detach(media)).await
    }

    /// What the machine is, by [`Driver::survey`] as often as it takes. Each part is a call of its own, which waits for its turn; a controller that is busy is asked again between two of them. Of the machines
    /// behind one controller one is read at a time.
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn inventory(&self, machine: &Machine, depth: Depth) -> Result<Inventory, PowerError> {
        // In this order, so that who waits for its controller takes no place from others; and only then does its time begin.
        let _alone = machine.controller.surveys.lock().await;
        let _place = slot(&self.surveys).await;
        timeout(self.limits.survey, self.in_parts(machine, depth))
            .await
            .unwrap_or_else(|_| {
                let limit = self.limits.survey;
                let detail = "it has more documents, or needs more time for each".to_owned();
                Err(named(machine, Operation::Survey, Fault::Late { limit, detail }))
            })
    }

    async fn in_parts(&self, machine: &Machine, depth: Depth) -> Result<Inventory, PowerError> {
        let mut busy = 0;
        loop {
            let part = self.call(machine, Operation::Survey, |driver| driver.survey(depth)).await;
            match part {
                Ok(Survey::Done(found)) => return Ok(*found),
                Ok(Survey::More) => busy = 0,
                Err(PowerError {
                    fault: Fault::Busy { after, .. },
                    ..
                }) if busy < self.limits.attempts => {
                    busy += 1;
                    let least = after.unwrap_or_default();
                    sleep(spread(self.limits.pause).max(least).min(self.limits.longest_pause)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// [`Driver::close`]: to be called when a machine or its credentials go.
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn close(&self, machine: &Machine) -> Result<(), PowerError> {
        self.call(machine, Operation::Close, |driver| driver.close()).await
    }

    /// [`Driver::subscribe`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn subscribe(&self, machine: &Machine, subscription: &Subscription) -> Result<(), PowerError> {
        self.call(machine, Operation::Subscribe, |driver| driver.subscribe(subscription))
            .await
    }

    /// [`Driver::unsubscribe`].
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn unsubscribe(&self, machine: &Machine, subscription: &Subscription) -> Result<(), PowerError> {
        self.call(machine, Operation::Unsubscribe, |driver| driver.unsubscribe(subscription))
            .await
    }

    /// [`Driver::listen`]. Opening the stream is a call like any other; the stream itself is none, and how many there are is the caller's to bound.
    ///
    /// # Errors
    /// As the driver says, or [`Fault::Late`].
    pub async fn listen(&self, machine: &Machine) -> Result<Stream, PowerError> {
        self.call(machine, Operation::Listen, |driver| driver.listen()).await
    }

    async fn call<'a, T>(
        &'a self,
        machine: &'a Machine,
        operation: Operation,
        act: impl Fn(&'a dyn Driver) -> Act<'a, T>,
    ) -> Result<T, PowerError> {
        let driver = &*machine.driver;
        let done = if driver.capabilities().allow(operation) {
            self.bounded(&machine.controller, operation, || act(driver)).await
        } else {
            Err(Fault::Incapable(operation))
        };
        done.map_err(|fault| named(machine, operation, fault))
    }

    async fn bounded<'a, T>(&self, controller: &Controller, operation: Operation, act: impl Fn() -> Act<'a, T>) -> Result<T, Fault> {
        let deadline = Instant::now() + self.limits.call;
        let mut waits_for = WaitsFor::Turn;
        let tries = async {
            let _turn = controller.turns.lock().await;
            let mut pause = self.limits.pause;
            let mut attempt = 1;
            loop {
                let done = self.attempt(controller, operation, deadline, &act, &mut waits_for).await;
                let Err(fault) = done else { return done };
                let Again::After(least) = fault.again(operation) else {
                    return Err(fault);
                };
                let next = spread(pause).max(least).min(self.limits.longest_pause);
                // A try that the deadline would cut off tells nothing new.
                if attempt == self.limits.attempts || Instant::now() + next >= deadline {
                    return Err(fault);
                }
                sleep(next).await;
                pause = pause.saturating_mul(2);
                attempt += 1;
            }
        };
        match timeout_at(deadline, tries).await {
            Ok(done) => done,
            Err(_) if waits_for == WaitsFor::Controller => Err(unfinished(operation, self.limits.call)),
            Err(_) => Err(self.late(waits_for)),
        }
    }

    async fn attempt<'a, T>(
        &self,
        controller: &Controller,
        operation: Operation,
        deadline: Instant,
        act: impl Fn() -> Act<'a, T>,
        waits_for: &mut WaitsFor,
    ) -> Result<T, Fault> {
        // Who gets its turn at the last moment has none: nothing may be sent and at once forgotten.
        if Instant::now() >= deadline {
            return Err(self.late(*waits_for));
        }
        *waits_for = WaitsFor::Slot;
        let doubted = controller.doubted.load(Ordering::Relaxed);
        // In this order, so that who waits for a doubted one's slot holds none of the others'.
        let _doubted = if doubted { Some(slot(&self.doubted).await) } else { None };
        let _slot = slot(&self.slots).await;
        if Instant::now() >= deadline {
            return Err(self.late(*waits_for));
        }
        *waits_for = WaitsFor::Controller;
        let done = timeout(self.limits.attempt, act())
            .await
            .unwrap_or_else(|_| Err(unfinished(operation, self.limits.attempt)));
        let doubt = done.as_ref().is_err_and(Fault::doubts_the_controller);
        controller.doubted.store(doubt, Ordering::Relaxed);
        done
    }

    fn late(&self, waited_for: WaitsFor) -> Fault {
        Fault::Late {
            limit: self.limits.call,
            detail: match waited_for {
                WaitsFor::Turn => "another call to the same controller was under way",
                WaitsFor::Slot | WaitsFor::Controller => "calls to other controllers were under way",
            }
            .to_owned(),
        }
    }
}

/// A fault, with whose it is.
fn named(machine: &Machine, operation: Operation, fault: Fault) -> PowerError {
    PowerError {
        machine: machine.name.clone(),
        controller: machine.driver.controller().to_owned(),
        operation,
        fault,
    }
}

/// What a call is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Turn,
    Slot,
    Controller,
}

/// An exchange that was cut off.
fn unfinished(operation: Operation, limit: Duration) -> Fault {
    let detail = format!("no end of the exchange within {} s", limit.as_secs());
    // A read that was never answered changed nothing.
    if matches!(operation, Operation::State | Operation::Survey) {
        Fault::Unreachable(detail)
    } else {
        Fault::Unanswered(detail)
    }
}

async fn slot(semaphore: &Semaphore) -> Option<SemaphorePermit<'_>> {
    // Nobody closes these semaphores; if somebody did, there would be no limit.
    semaphore.acquire().await.ok()
}

/// A pause between half and one and a half of what was meant, so that those who failed together do not come again together.
#[must_use]
pub fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}
