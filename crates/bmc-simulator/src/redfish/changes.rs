//! Resets, and the next boot.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{ROOT, Request, refusal, taken};
use crate::{
    bmc::{Bmc, Task},
    faults::Protocol,
    host::{Command, Enabled, Host, Override},
    http::Answer,
    machine::Source,
    profile::{Mode, Once, Place, TaskShown},
};

/// How long a task runs.
const TASK: Duration = Duration::from_millis(300);
/// The most tasks that are remembered.
const TASKS: usize = 64;

/// What a value of `ResetType` means to a machine that is on or off. None: nothing that is simulated.
fn command(reset: &str, on: bool) -> Option<Command> {
    match reset {
        "On" | "ForceOn" => Some(Command::On),
        "ForceOff" => Some(Command::Off),
        "GracefulShutdown" => Some(Command::ShutDown),
        "PushPowerButton" if on => Some(Command::ShutDown),
        "PushPowerButton" => Some(Command::On),
        "ForceRestart" => Some(Command::Reset),
        "GracefulRestart" => Some(Command::Restart),
        "PowerCycle" | "FullPowerCycle" => Some(Command::Cycle),
        _ => None,
    }
}

impl Bmc {
    /// Remembers something that takes time.
    pub(super) fn begin_task(&self) -> u64 {
        let mut memory = self.memory();
        let id = memory.tasks.last_key_value().map_or(1, |(id, _)| id + 1);
        memory.tasks.insert(
            id,
            Task {
                done: Instant::now() + TASK,
            },
        );
        if memory.tasks.len() > TASKS {
            memory.tasks.pop_first();
        }
        id
    }

    /// Where a target leads.
    fn boot_source(&self, word: &str) -> Option<Source> {
        match word {
            "Pxe" => Some(Source::Network),
            "UefiHttp" => Some(Source::Http),
            "Hdd" => Some(Source::Disk),
            "BiosSetup" => Some(Source::Setup),
            word if self.profile.boot.media.iter().any(|own| own == word) => Some(Source::Media),
            _ => None,
        }
    }
}

impl Request<'_> {
    pub(super) fn reset(&self, system: usize) -> Answer {
        let profile = &self.bmc.profile.power;
        let Some(host) = self.bmc.hosts.get(system) else {
            return super::missing();
        };
        let Some(word) = self.ask.body.get("ResetType").and_then(Value::as_str) else {
            return refusal(400, "ActionParameterMissing", "the action needs ResetType", &["ResetType"]);
        };
        if !profile.resets.iter().any(|own| own == word) {
            return refusal(
                400,
                "ActionParameterNotSupported",
                &format!("{word} is not among the values of ResetType"),
                &["ResetType"],
            );
        }
        let on = host.power().is_on();
        let command = command(word, on);
        let already = matches!(
            (command, on),
            (Some(Command::On), true) | (Some(Command::Off | Command::ShutDown), false)
        );
        if let Some(status) = profile.already_so.filter(|_| already) {
            return refusal(status, "NoOperation", "the machine has that power state already", &[]);
        }
        if let Some(command) = command {
            host.tell(command, self.bmc.conduct(Protocol::Redfish));
        }
        let Some(shown) = profile.task else {
            return taken(profile.answer);
        };
        let id = self.bmc.begin_task();
        match shown {
            TaskShown::Monitor => Answer::empty(202)
                .with("location", format!("{ROOT}/TaskService/TaskMonitors/{id}"))
                .with("retry-after", "1"),
            TaskShown::Document => Answer::json(202, self.bmc.task_document(&id.to_string(), false)),
        }
    }

    pub(super) fn change_boot(&self, system: usize, place: Place) -> Answer {
        let profile = &self.bmc.profile.boot;
        let Some(host) = self.bmc.hosts.get(system) else {
            return super::missing();
        };
        if let Err(refused) = self.check_version(system) {
            return refused;
        }
        let Some(boot) = self.ask.body.get("Boot").and_then(Value::as_object) else {
            return refusal(400, "PropertyMissing", "nothing in it can be changed here", &["Boot"]);
        };
        if place != profile.at {
            return refusal(400, "PropertyNotWritable", "Boot cannot be written here", &["Boot"]);
        }
        if let Some(status) = profile.while_booting.filter(|_| host.is_booting()) {
            return refusal(status, "ServiceTemporarilyUnavailable", "the machine boots", &[]).with("retry-after", "1");
        }
        let now = match place {
            Place::Settings => host.pending_override().unwrap_or_else(|| host.boot_override()),
            Place::System | Place::Nowhere => host.boot_override(),
        };
        let changed = match self.changed(now, boot) {
            Ok(changed) => changed,
            Err(refused) => return refused,
        };
        store(host, place, changed);
        if profile.answers_document {
            return self.versioned(system, self.bmc.system(system, None));
        }
        taken(profile.answer)
    }

    fn changed(&self, mut boot: Override, change: &serde_json::Map<String, Value>) -> Result<Override, Answer> {
        let profile = &self.bmc.profile.boot;
        let not_taken = |name: &str, problem: &str| Err(refusal(400, "PropertyValueNotInList", problem, &["Boot", name]));
        for (name, value) in change {
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "BootSourceOverrideTarget" if profile.targets.iter().any(|own| own == text) => {
                    boot.source = self.bmc.boot_source(text);
                    text.clone_into(&mut boot.word);
                }
                "BootSourceOverrideEnabled" if profile.once == Once::Ignored => {}
                "BootSourceOverrideEnabled" if profile.enabled.iter().any(|own| own == text) => {
                    boot.enabled = match text {
                        "Once" => Enabled::Once,
                        "Continuous" => Enabled::Continuous,
                        _ => Enabled::Disabled,
                    };
                }
                "BootSourceOverrideMode" => match profile.mode {
                    Mode::ReadOnly => return not_taken(name, "BootSourceOverrideMode is a read-only property"),
                    Mode::Absent => return not_taken(name, "BootSourceOverrideMode is not known"),
                    Mode::Writable | Mode::Reverts => match text {
                        "UEFI" => boot.uefi = Some(true),
                        "Legacy" => boot.uefi = Some(false),
                        _ => return not_taken(name, "BootSourceOverrideMode is UEFI or Legacy"),
                    },
                },
                "BootSourceOverrideTarget" | "BootSourceOverrideEnabled" => {
                    return not_taken(name, &format!("{text} is not among the values of {name}"));
                }
                "UefiTargetBootSourceOverride" | "HttpBootUri" => {}
                _ => return not_taken(name, &format!("{name} is not known")),
            }
        }
        if profile.mode == Mode::Reverts && !change.contains_key("BootSourceOverrideMode") {
            boot.uefi = Some(false);
        }
        if profile.once == Once::Ignored {
            boot.enabled = Enabled::Continuous;
        }
        Ok(boot)
    }
}

fn store(host: &Host, place: Place, boot: Override) {
    match place {
        Place::Settings => host.set_pending_override(boot),
        Place::System | Place::Nowhere => host.set_override(boot),
    }
}
