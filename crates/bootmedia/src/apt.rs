//! Gets Debian packages through apt, which checks them against the archive's signed index. Needs no root.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::Error;

fn run(program: &str, arguments: &[&str], folder: &Path) -> Result<Output, Error> {
    tracing::debug!(program, ?arguments, "running");
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        // Fields are looked for by their English names.
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| Error::Run {
            program: program.to_owned(),
            source,
        })
}

/// The package that a meta package (`linux-image-amd64`) stands for at present, with its version.
pub fn kernel_behind(meta: &str) -> Result<(String, String), Error> {
    let output = run("apt-cache", &["show", "--no-all-versions", meta], Path::new("/"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    behind(&text).ok_or_else(|| Error::Apt {
        package: meta.to_owned(),
        problem: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn behind(show: &str) -> Option<(String, String)> {
    let depends = show.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let dependency = depends.split(',').map(str::trim).find(|d| d.starts_with("linux-image-"))?;
    let (name, rest) = dependency.split_once(' ')?;
    let version = rest.trim().strip_prefix("(=")?.strip_suffix(')')?.trim();
    Some((name.to_owned(), version.to_owned()))
}

/// Downloads one package into `folder`, unless a file of that name and version is there already.
pub fn download(package: &str, version: Option<&str>, folder: &Path) -> Result<PathBuf, Error> {
    let failed = |problem: String| Error::Apt {
        package: package.to_owned(),
        problem,
    };
    let wanted = version.map_or_else(|| package.to_owned(), |v| format!("{package}={v}"));
    // Not in `folder`: apt-get prints nothing where the file is there already.
    let output = run("apt-get", &["download", "--print-uris", &wanted], Path::new("/"))?;
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
    let output = run("apt-get", &["download", "-qq", &wanted], folder)?;
    if !output.status.success() || !file.is_file() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(file)
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
