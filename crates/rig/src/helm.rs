//! The real helm, as `make helm` builds it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// The binary that `make helm` builds: `$KBM_HELM`, or `target/kubernetes/helm` of this workspace.
///
/// # Errors
/// When there is no such file; the text says how to make it.
pub fn binary() -> Result<PathBuf> {
    crate::built("helm", "KBM_HELM", "the real helm")
}

/// Helm with a folder of its own for whatever it keeps, and a kubeconfig where it is to reach a cluster.
#[derive(Debug, Clone)]
pub struct Helm {
    home: PathBuf,
    kubeconfig: Option<PathBuf>,
}

/// What helm printed, and whether it was content.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it ended well.
    pub ok: bool,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub complaints: String,
}

impl Helm {
    /// Helm that keeps what it keeps in `home`.
    pub fn new(home: &Path, kubeconfig: Option<PathBuf>) -> Self {
        Self {
            home: home.to_owned(),
            kubeconfig,
        }
    }

    /// Runs it, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Outcome> {
        let program = binary()?;
        let mut command = Command::new(&program);
        command.args(arguments).env("HOME", &self.home).env_remove("KUBECONFIG");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let output = command.output().with_context(|| format!("running {}", program.display()))?;
        Ok(Outcome {
            ok: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            complaints: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    /// When it was not content, in its words.
    pub fn must<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let outcome = self.run(arguments)?;
        if !outcome.ok {
            let shown: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
            bail!("helm {}: {}{}", shown.join(" "), outcome.output, outcome.complaints);
        }
        Ok(outcome.output)
    }
}
