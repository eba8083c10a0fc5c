//! Gets Debian packages through apt, which checks them against the archive's signed index. Needs no root.
//!
//! Packages of another architecture than the host's come by a configuration of our own, with lists of our own: the host's apt need not know that architecture, and is left as
//! it is.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use agent_protocol::architecture::Architecture;

use crate::{Error, at};

/// apt, for one architecture.
pub(crate) struct Apt {
    /// `APT_CONFIG`, where the host's own will not do.
    config: Option<PathBuf>,
    architecture: Architecture,
    /// Whether the lists can be asked.
    has_lists: Cell<bool>,
}

impl Apt {
    /// For packages of this architecture. Nothing is fetched before somebody asks for a package; what another architecture takes lies below `scratch`.
    pub(crate) fn new(architecture: Architecture, scratch: &Path) -> Result<Self, Error> {
        let host = Command::new("dpkg").arg("--print-architecture").output();
        // Without dpkg there is no apt either, and whoever asks for a package is told.
        let own = host.map_or(architecture.name().to_owned(), |o| {
            String::from_utf8_lossy(&o.stdout).trim().to_owned()
        });
        if own == architecture.name() {
            return Ok(Self {
                config: None,
                architecture,
                has_lists: Cell::new(true),
            });
        }
        let folder = scratch.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(at("making the folder", &part))?;
        }
        let config = folder.join("apt.conf");
        fs::write(&config, configuration(architecture, &folder)).map_err(at("writing", &config))?;
        Ok(Self {
            config: Some(config),
            architecture,
            has_lists: Cell::new(false),
        })
    }

    fn run(&self, program: &str, arguments: &[&str], folder: &Path) -> Result<Output, Error> {
        tracing::debug!(program, ?arguments, "running");
        let mut command = Command::new(program);
        // Fields are looked for by their English names.
        command.args(arguments).current_dir(folder).env("LC_ALL", "C");
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command.output().map_err(|source| Error::Run {
            program: program.to_owned(),
            source,
        })
    }

    /// Lists of our own are read first, once. The host's are the host's business.
    fn read_lists(&self) -> Result<(), Error> {
        if self.has_lists.get() {
            return Ok(());
        }
        tracing::info!(architecture = %self.architecture, "reading the package lists of that architecture");
        let output = self.run("apt-get", &["update", "-qq"], Path::new("/"))?;
        if !output.status.success() {
            return Err(Error::Apt {
                package: format!("lists of {}", self.architecture),
                problem: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        self.has_lists.set(true);
        Ok(())
    }

    /// The package that a meta package (`linux-image-amd64`) stands for at present, with its version.
    pub(crate) fn kernel_behind(&self, meta: &str) -> Result<(String, String), Error> {
        self.read_lists()?;
        let output = self.run("apt-cache", &["show", "--no-all-versions", meta], Path::new("/"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        behind(&text).ok_or_else(|| Error::Apt {
            package: meta.to_owned(),
            problem: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Downloads one package into `folder`, unless a file of that name and version is there already.
    pub(crate) fn download(&self, package: &str, version: Option<&str>, folder: &Path) -> Result<PathBuf, Error> {
        self.read_lists()?;
        let failed = |problem: String| Error::Apt {
            package: package.to_owned(),
            problem,
        };
        let wanted = version.map_or_else(|| package.to_owned(), |v| format!("{package}={v}"));
        // Not in `folder`: apt-get prints nothing where the file is there already.
        let output = self.run("apt-get", &["download", "--print-uris", &wanted], Path::new("/"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // 'http://...' file_version_arch.deb SIZE SHA256:...
        let name = text
            .lines()
            .rev()
            .find_map(|line| line.starts_with('\'').then(|| line.split_whitespace().nth(1))?)
            .filter(|name| name.ends_with(".deb") && !name.contains('/'))
            .ok_or_else(|| failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
        let file = folder.join(name);
        // apt-get itself compares a file that is there with the index's digest, and leaves it if it is whole.
        let output = self.run("apt-get", &["download", "-qq", &wanted], folder)?;
        if !output.status.success() || !file.is_file() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(file)
    }
}

/// Sources and their keys are the host's own. Its state is left alone, and so is what it holds to be installed.
fn configuration(architecture: Architecture, folder: &Path) -> String {
    let folder = folder.display();
    // Without its sandbox: apt's own user cannot write into a folder of the one who builds; what comes is held against signed indexes all the same.
    format!(
        "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
         Dir::State::Lists \"{folder}/lists\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{folder}/cache\";\n\
         APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
    )
}

fn behind(show: &str) -> Option<(String, String)> {
    let depends = show.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let dependency = depends.split(',').map(str::trim).find(|d| d.starts_with("linux-image-"))?;
    let (name, rest) = dependency.split_once(' ')?;
    let version = rest.trim().strip_prefix("(=")?.strip_suffix(')')?.trim();
    Some((name.to_owned(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_package_behind_a_meta_package_is_found() {
        let show = "Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nDescription: x\n";
        assert_eq!(
            super::behind(show),
            Some(("linux-image-6.1.0-56-amd64".to_owned(), "6.1.192-2".to_owned()))
        );
        assert_eq!(super::behind(""), None);
    }
}
