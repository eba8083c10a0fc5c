//! Machines to try things on: QEMU machines with real firmware, a swarm of simulated ones, and the demo that shows a whole life.
//!
//! * [`bmc`]: BMCs and plugs before the lab's machines, by the simulator.
//! * [`host`]: what this host must have installed, and the one line that installs it.
//! * [`lan`]: a LAN with a house router, in a network namespace.
//! * [`ports`]: ports for servers that are started as processes.
//! * [`qemu`]: one QEMU machine; its state lives in a folder, so that another process can find it again.
//! * [`server`]: `kube-baremetal up` in a process of its own.
//! * [`folder`]: a folder of machines (`lab up`, `lab down`, `lab console`).
//! * [`demo`]: the two machines of `make demo`.
//! * [`swarm`]: many simulated machines against a real server, with faults as data and a judge.
//!
//! Everything but [`lan`] runs as an ordinary user: QEMU user networking, files, Unix sockets. Nothing here decides anything about a machine's life.

pub mod bmc;
pub mod demo;
pub mod folder;
pub mod host;
pub mod lan;
pub mod ports;
pub mod qemu;
pub mod server;
pub mod swarm;

/// Why the lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Something is not installed.
    #[error("missing on this host: {what}. Install it with:\n  {apt}")]
    Missing {
        /// What is missing.
        what: String,
        /// The line that installs all of it.
        apt: String,
    },
    /// A file or socket could not be used.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// QEMU did not start or ended early.
    #[error("QEMU for machine {machine} {problem}; its last words:\n{log}")]
    Qemu {
        /// Which machine.
        machine: String,
        /// What happened.
        problem: String,
        /// The end of its log.
        log: String,
    },
    /// QEMU refused a command.
    #[error("machine {machine}: QEMU refused {command}: {answer}")]
    Monitor {
        /// Which machine.
        machine: String,
        /// Which command.
        command: String,
        /// What it said.
        answer: String,
    },
    /// A name or number that is not allowed.
    #[error("{field}: {problem}")]
    Input {
        /// Which.
        field: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

impl LabError {
    pub(crate) fn file(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { what, path, source }
    }
}

/// Raises the limit of open files as far as this user may: a thousand machines are a thousand sockets and more. Processes started later inherit it.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
