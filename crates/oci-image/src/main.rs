//! `oci-image`: the command that `make oci-image` runs.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use oci_image::{
    Architecture,
    archive::{self, Name, Recipe},
};

/// Writes the container image of kube-baremetal as an OCI archive. Needs no container engine and no root; the same inputs give the same bytes.
#[derive(Debug, Parser)]
#[command(name = "oci-image", version, max_term_width = 120)]
struct Arguments {
    /// Name with registry and tag.
    #[arg(long)]
    name: Name,
    /// A static program and its architecture, as in `amd64=target/...`; once per architecture.
    #[arg(long = "program", value_name = "ARCHITECTURE=PATH", required = true, value_parser = program)]
    programs: Vec<(Architecture, PathBuf)>,
    /// Folder with certificate authorities (*.crt in PEM), or one bundle.
    #[arg(long)]
    certificates: Option<PathBuf>,
    /// Folder with the boot media.
    #[arg(long)]
    media: Option<PathBuf>,
    /// When the sources were made, in seconds since 1970.
    #[arg(long, env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    created: i64,
    /// A label, as in `org.opencontainers.image.version=0.1.0`; may be given more than once.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// The archive.
    #[arg(long)]
    output: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

fn program(text: &str) -> Result<(Architecture, PathBuf), String> {
    let (architecture, path) = pair(text)?;
    Ok((architecture.parse()?, path.into()))
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oci-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let mut programs = BTreeMap::new();
    for (architecture, path) in arguments.programs {
        let double = programs.insert(architecture, path).is_some();
        ensure!(!double, "--program: {} is given twice", architecture.name());
    }
    let recipe = Recipe {
        name: arguments.name,
        created: jiff::Timestamp::from_second(arguments.created).context("--created")?,
        labels: arguments.labels.into_iter().collect(),
        programs,
        certificates: arguments.certificates,
        media: arguments.media,
    };
    if let Some(folder) = arguments.output.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let built = archive::write(&recipe, &arguments.output)?;
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "{} in {}: {:.1} MiB",
        recipe.name,
        arguments.output.display(),
        mebibytes(built.bytes)
    );
    println!("  {}", built.digest);
    for (architecture, layers) in built.images {
        for (summary, bytes) in layers {
            println!("  {:<6} {:>6.1} MiB  {summary}", architecture.name(), mebibytes(bytes));
        }
    }
    Ok(())
}
