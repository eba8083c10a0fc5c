//! A QEMU machine behind a simulated BMC: power is its process, a reset is the monitor's, its power button is ACPI's, and an attached medium is fetched and put into
//! its drive.
//!
//! One task for each machine carries out what its controller says, one thing after the other; the controller never waits. What goes wrong (QEMU is not there, a medium
//! cannot be fetched) is logged, and the controller sees a machine that did not do as it was told, as real ones do.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bmc_simulator::machine::{Boot, Listens, Machine as Controlled, Source};
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Machine, accel::Accelerator, first::First};
use crate::LabError;

/// How often is looked whether the machine switched itself off.
const LOOK: Duration = Duration::from_millis(200);
/// The longest time to fetch a medium.
const FETCH: Duration = Duration::from_secs(120);
/// The largest medium, in bytes: more than any boot medium of ours, less than what would fill a disk unnoticed.
const LARGEST: usize = 4 << 30;

#[derive(Debug)]
enum Order {
    Boot(Boot),
    Off,
    PressPower,
}

/// Whether it runs, and how much of what it was told is still to be done.
#[derive(Debug, Default)]
struct State {
    runs: bool,
    pending: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Behind {
    orders: mpsc::UnboundedSender<Order>,
    state: Arc<Mutex<State>>,
    uuid: String,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Behind {
    /// Takes a machine over, as it is. Its task runs in the runtime that this is called in, and ends with this.
    #[must_use]
    pub fn new(machine: Machine, accel: Accelerator) -> Arc<Self> {
        let (orders, told) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State {
            runs: machine.pid().is_some(),
            pending: 0,
        }));
        let uuid = machine.spec.uuid.to_string();
        tokio::spawn(obey(machine, accel, told, Arc::clone(&state)));
        Arc::new(Self { orders, state, uuid })
    }

    fn order(&self, order: Order, runs: bool) {
        let mut state = lock(&self.state);
        if self.orders.send(order).is_ok() {
            state.pending += 1;
            state.runs = runs;
        }
    }
}

impl Controlled for Behind {
    fn on(&self, boot: &Boot) {
        // Somebody else switched it on meanwhile: its controller sees that a moment later.
        if !lock(&self.state).runs {
            self.order(Order::Boot(boot.clone()), true);
        }
    }

    fn off(&self) {
        self.order(Order::Off, false);
    }

    fn reset(&self, boot: &Boot) {
        self.order(Order::Boot(boot.clone()), true);
    }

    fn shut_down(&self) -> Listens {
        self.order(Order::PressPower, true);
        Listens::ByItself
    }

    fn runs(&self) -> Option<bool> {
        Some(lock(&self.state).runs)
    }

    fn uuid(&self) -> Option<String> {
        Some(self.uuid.clone())
    }
}

async fn obey(machine: Machine, accel: Accelerator, mut told: mpsc::UnboundedReceiver<Order>, state: Arc<Mutex<State>>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let order = tokio::select! {
            order = told.recv() => match order {
                Some(order) => Some(order),
                None => return,
            },
            _ = look.tick() => None,
        };
        let carried_out = order.is_some();
        if let Some(order) = order
            && let Err(error) = carry_out(&machine, accel, &order).await
        {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(machine = machine.spec.name, %error, cause, "a machine does not do as its BMC says");
        }
        let mut state = lock(&state);
        state.pending -= usize::from(carried_out);
        if state.pending == 0 {
            state.runs = machine.pid().is_some();
        }
    }
}

async fn carry_out(machine: &Machine, accel: Accelerator, order: &Order) -> Result<(), LabError> {
    match order {
        Order::Off => machine.power_off().await,
        Order::PressPower => machine.press_power().await,
        Order::Boot(boot) => {
            let image = match (&boot.source, &boot.image) {
                (Source::Media, Some(url)) => {
                    // Whatever ran is over, however long the image takes.
                    machine.power_off().await?;
                    match fetch(machine, url).await {
                        Ok(image) => Some(image),
                        // A drive whose image is not to be had is empty, and firmware goes on.
                        Err(error) => {
                            let part = machine.folder.join("medium.part");
                            if part.exists() {
                                std::fs::remove_file(&part).map_err(LabError::file("cannot remove", &part))?;
                            }
                            tracing::warn!(machine = machine.spec.name, %error, "a medium is not attached");
                            None
                        }
                    }
                }
                _ => None,
            };
            let first = match (&boot.source, &image) {
                (Source::Media, Some(image)) => First::Medium(image),
                // Of a NIC both are tried, the network boot that DHCP answers is taken.
                (Source::Network | Source::Http, _) => First::Network,
                (Source::Disk, _) => First::Disk,
                // Nobody looks at the screen: there is nothing to set up.
                (Source::Usual | Source::Setup | Source::Media, _) => First::Usual,
            };
            machine.boot(accel, first).await
        }
    }
}

/// Fetches an image into the machine's folder. A new one never changes the bytes of one that is in the drive.
async fn fetch(machine: &Machine, url: &str) -> Result<PathBuf, LabError> {
    let refused = |problem: String| LabError::Input {
        field: "the medium's image",
        problem,
    };
    if !url.starts_with("http://") {
        return Err(refused("only plain HTTP is fetched here".to_owned()));
    }
    let client = reqwest::Client::builder().no_proxy().timeout(FETCH).build();
    let answer = async { client?.get(url).send().await?.error_for_status() };
    let mut answer = answer.await.map_err(|error| refused(error.without_url().to_string()))?;
    let path = machine.folder.join("medium.iso");
    let part = machine.folder.join("medium.part");
    let mut file = tokio::fs::File::create(&part)
        .await
        .map_err(LabError::file("cannot create", &part))?;
    let mut length = 0;
    while let Some(bytes) = answer.chunk().await.map_err(|error| refused(error.without_url().to_string()))? {
        length += bytes.len();
        if length > LARGEST {
            return Err(refused(format!("it is larger than {LARGEST} bytes")));
        }
        file.write_all(&bytes).await.map_err(LabError::file("cannot write", &part))?;
    }
    file.flush().await.map_err(LabError::file("cannot write", &part))?;
    std::fs::rename(&part, &path).map_err(LabError::file("cannot rename to", &path))?;
    Ok(path)
}
