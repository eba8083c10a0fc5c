//! `kube-baremetal pause`, `resume`, `export` and `import`.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use transfer::{archive::Archive, export, import, pause};

use crate::roles::{Cluster, NETBOOT_NAMESPACE};

#[derive(Debug, clap::Args)]
pub struct PauseArguments {
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, clap::Args)]
pub struct ResumeArguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Go on although an export paused these machines: the move is given up, and its archive is not to be imported any more.
    #[arg(long)]
    give_up_move: bool,
}

#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace with netboot's keys.
    #[arg(long, env = "KBM_NETBOOT_NAMESPACE", default_value = NETBOOT_NAMESPACE)]
    netboot_namespace: String,
    /// File for the archive, which must not exist; `-` for standard output. It holds secrets and is readable by its owner only.
    #[arg(long)]
    output: PathBuf,
    /// Seconds for which machines that write or erase their disks may go on until they are done.
    #[arg(long, default_value_t = 1800)]
    patience: u64,
    /// Export also when some are not done by then.
    #[arg(long)]
    leave_working: bool,
}

#[derive(Debug, clap::Args)]
pub struct ImportArguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace with netboot's keys.
    #[arg(long, env = "KBM_NETBOOT_NAMESPACE", default_value = NETBOOT_NAMESPACE)]
    netboot_namespace: String,
    /// The archive; `-` for standard input.
    archive: PathBuf,
    /// Let machines go on when everything is there. Only once nothing else decides about them any more.
    #[arg(long)]
    resume: bool,
}

fn say(text: &str) {
    eprintln!("{text}");
}

/// `kube-baremetal pause`.
pub async fn pause(arguments: PauseArguments) -> Result<()> {
    let client = arguments.cluster.client().await?;
    let machines = pause::pause(&client, pause::BY_HAND, &say).await?;
    println!("{machines} machines are paused, and no new one is accepted by a policy. `kube-baremetal resume` ends it.");
    Ok(())
}

/// `kube-baremetal resume`.
pub async fn resume(arguments: ResumeArguments) -> Result<()> {
    let client = arguments.cluster.client().await?;
    let resumed = pause::resume(&client, arguments.give_up_move, &say).await?;
    println!("{resumed} machines and policies go on.");
    Ok(())
}

/// Where an archive goes: nobody sees a half of one under its name.
enum Target {
    Standard(io::Stdout),
    Part {
        file: BufWriter<File>,
        part: PathBuf,
        path: PathBuf,
    },
}

impl Target {
    fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let out = io::stdout();
            ensure!(
                !out.is_terminal(),
                "--output: the archive holds secrets and is not written to a terminal"
            );
            return Ok(Self::Standard(out));
        }
        ensure!(
            !path.exists(),
            "--output: {} exists already; remove it, or name another file",
            path.display()
        );
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.with_context(|| format!("--output: creating {}", part.display()))?;
        // One that was there already may be open to others.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(private)
            .with_context(|| format!("--output: {}", part.display()))?;
        Ok(Self::Part {
            file: BufWriter::new(file),
            part,
            path: path.to_owned(),
        })
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Standard(mut out) => out.flush().context("writing the archive"),
            Self::Part { file, part, path } => {
                let file = file.into_inner().context("writing the archive")?;
                file.sync_all().context("writing the archive")?;
                std::fs::rename(&part, &path).with_context(|| format!("renaming {} to {}", part.display(), path.display()))
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::Part { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::Part { file, .. } => file.flush(),
        }
    }
}

/// `kube-baremetal export`.
pub async fn export(arguments: ExportArguments) -> Result<()> {
    let client = arguments.cluster.client().await?;
    let options = export::Options {
        netboot_namespace: arguments.netboot_namespace,
        patience: Duration::from_secs(arguments.patience),
        leave_working: arguments.leave_working,
    };
    let mut target = Target::open(&arguments.output)?;
    let report = export::export(&client, &options, &mut target, &say).await?;
    target.finish()?;
    say(&format!(
        "exported {} objects: {} machines, {} instances. The archive holds these Secrets and is as secret as they are: {}",
        report.objects,
        report.machines,
        report.instances,
        report.secrets.join(", ")
    ));
    for left_out in &report.left_out {
        say(&format!("not moved: {left_out}"));
    }
    say(
        "This API is paused from now on: what is changed here does not move any more. Next: stop operator and netboot here, `kube-baremetal import` there, start them there under the URLs that machines know, and resume. To stay here instead: `kube-baremetal resume --give-up-move`.",
    );
    Ok(())
}

/// `kube-baremetal import`.
pub async fn import(arguments: ImportArguments) -> Result<()> {
    let archive = if arguments.archive == Path::new("-") {
        Archive::read(&mut io::stdin().lock())?
    } else {
        let file = File::open(&arguments.archive).with_context(|| format!("opening {}", arguments.archive.display()))?;
        Archive::read(&mut BufReader::new(file))?
    };
    if archive.objects.is_empty() {
        bail!("the archive holds no objects");
    }
    let client = arguments.cluster.client().await?;
    let options = import::Options {
        netboot_namespace: arguments.netboot_namespace,
        resume: arguments.resume,
    };
    let report = import::import(&client, &options, &archive, &say).await?;
    for note in &report.notes {
        say(note);
    }
    println!("{} objects are here, {} machines among them.", report.objects, report.machines);
    match report.resumed {
        Some(resumed) => println!("{resumed} machines and policies go on."),
        None => println!(
            "They are paused. When nothing else decides about these machines any more, and netboot answers here under the URLs that they know: `kube-baremetal resume`, or import again with --resume."
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_archive_is_private_whole_or_absent_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        std::fs::write(folder.path().join("archive.part"), "an interrupted one, open to all").unwrap();
        let mut target = Target::open(&path).unwrap();
        target.write_all(b"words").unwrap();
        assert!(!path.exists());
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"words");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Target::open(&path).is_err());
    }
}
