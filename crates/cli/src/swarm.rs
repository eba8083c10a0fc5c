//! `kube-baremetal lab swarm` and `kube-baremetal lab kills`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::swarm::{Options, Power, faults::Plan, machine::Timing};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Faults {
    /// Nothing goes wrong.
    None,
    /// A little of everything.
    Some,
    /// Much of everything.
    Many,
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many machines, and as many instances.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    machines: u32,
    /// What goes wrong.
    #[arg(long, value_enum, default_value = "some")]
    faults: Faults,
    /// A plan of faults as a JSON file, instead of `--faults`.
    #[arg(long, conflicts_with = "faults")]
    plan: Option<PathBuf>,
    /// Print the plan of faults and end.
    #[arg(long)]
    print_plan: bool,
    /// From which everything random follows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds over which the machines are switched on.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    ramp: f64,
    /// Longest time in seconds for the way to Running, and again for the way back.
    #[arg(long, default_value_t = 900.0, value_parser = seconds)]
    patience: f64,
    /// Folder for the server's data and log; it is emptied first.
    #[arg(long, default_value = "target/swarm")]
    state: PathBuf,
    /// How much the server logs, as in `--log`.
    #[arg(long, default_value = "warn")]
    server_log: String,
    #[command(flatten)]
    power: PowerArguments,
}

/// What machines are switched by.
#[derive(Debug, clap::Args)]
struct PowerArguments {
    /// Give each machine a simulated BMC or plug, of these kinds by turns (redfish, ipmi, amt, shelly, tasmota, homeAssistant, or `mix` for all). Idle machines are switched off then, and on
    /// when an instance needs them.
    #[arg(long, value_name = "KINDS")]
    bmc: Option<String>,
    #[command(flatten)]
    bmcs: crate::bmc::Settings,
    /// With BMCs: faults that they have from the start on, as a JSON file with a list of them.
    #[arg(long, requires = "bmc")]
    bmc_faults: Option<PathBuf>,
    /// With BMCs: for how many seconds a machine is idle before it is switched off.
    #[arg(long, requires = "bmc", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    idle_seconds: u32,
    /// With BMCs: how many machines the server may switch on in a minute.
    #[arg(long, requires = "bmc", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    starts_per_minute: u32,
}

impl PowerArguments {
    fn power(self) -> Result<Option<Power>> {
        let Some(kinds) = &self.bmc else { return Ok(None) };
        let mut controllers = self.bmcs.controllers("--bmc", kinds)?;
        if let Some(path) = &self.bmc_faults {
            let text = std::fs::read(path).with_context(|| format!("--bmc-faults: reading {}", path.display()))?;
            controllers.faults =
                serde_json::from_slice(&text).with_context(|| format!("--bmc-faults: {} is no list of faults", path.display()))?;
        }
        Ok(Some(Power {
            controllers,
            idle_seconds: self.idle_seconds,
            starts_per_minute: self.starts_per_minute,
        }))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is not a number of seconds".to_owned())?;
    if (0.0..=86_400.0).contains(&value) {
        Ok(value)
    } else {
        Err("must be between 0 and 86400 seconds".to_owned())
    }
}

/// Runs it.
pub async fn run(arguments: Arguments) -> Result<()> {
    let plan = match &arguments.plan {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("--plan: reading {}", path.display()))?;
            serde_json::from_str::<Plan>(&text).with_context(|| format!("--plan: {} is no plan of faults", path.display()))?
        }
        None => match arguments.faults {
            Faults::None => Plan::none(arguments.seed),
            Faults::Some => Plan::some(arguments.seed),
            Faults::Many => Plan::many(arguments.seed),
        },
    };
    if arguments.print_plan {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    let options = Options {
        program: std::env::current_exe().context("finding this program")?,
        state: arguments.state,
        machines: arguments.machines as usize,
        plan,
        timing: Timing::default(),
        apart: None,
        power: arguments.power.power()?,
        addresses: true,
        ramp: Duration::from_secs_f64(arguments.ramp),
        patience: Duration::from_secs_f64(arguments.patience),
        log: arguments.server_log,
        verbose: true,
    };
    let report = unless_told_to_end(lab::swarm::run(&options)).await?;
    println!("{report}");
    Ok(())
}

/// Ends with the first of both; what is dropped then takes its server with it.
async fn unless_told_to_end<T>(run: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

#[derive(Debug, clap::Args)]
pub struct KillArguments {
    /// Lives at a time.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Longest time in seconds for one life.
    #[arg(long, default_value_t = 90.0, value_parser = seconds)]
    patience: f64,
    /// Folder for the lives' state; it is emptied first, and lives that went wrong stay there.
    #[arg(long, default_value = "target/kills")]
    state: PathBuf,
}

/// Goes through all points.
pub async fn kills(arguments: KillArguments) -> Result<()> {
    let options = lab::swarm::kills::Options {
        program: std::env::current_exe().context("finding this program")?,
        state: arguments.state,
        timing: Timing::short(),
        parallel: arguments.parallel.into(),
        patience: Duration::from_secs_f64(arguments.patience),
    };
    let report = unless_told_to_end(lab::swarm::kills::run(&options)).await?;
    println!("{report}");
    Ok(())
}
