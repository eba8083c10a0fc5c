//! Planted defects: the suite must find each of them, or it proves nothing where it passes.
//!
//! The workspace is copied and every defect of `defects.yaml` is written into the copy behind `crate::planted(NAME)`, so that one build serves all of
//! them and the product itself has no such switches. Then the suite runs once without a defect, which it must pass, and once per defect, which must
//! make a behaviour fail that holds without it. The copy is built into the same target folder: what is not ours is not compiled again.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How many runs of the suite go on side by side. Each mostly waits.
const AT_ONCE: usize = 3;
/// Seconds that a behaviour waits for what a defect may have swallowed.
const PATIENCE: &str = "20";

/// What the copy gets at the end of the API's crate.
const PLANTED: &str = r#"
pub(crate) fn planted(name: &str) -> bool {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("KBM_PLANTED").unwrap_or_default()) == name
}
"#;

/// One defect.
struct Defect {
    name: String,
    /// Within the API's sources.
    file: String,
    find: String,
    replace: String,
    suffers: String,
}

impl Defect {
    fn all() -> Result<Vec<Defect>> {
        let list: Vec<Value> = serde_saphyr::from_str(include_str!("../defects.yaml"))?;
        let defects = list.iter().map(|entry| {
            let text = |field: &str| {
                let value = entry[field].as_str().map(str::to_owned);
                value.with_context(|| format!("a defect lacks {field}: {entry}"))
            };
            Ok(Defect {
                name: text("name")?,
                file: text("file")?,
                find: text("find")?.trim_end().to_owned(),
                replace: text("replace")?.trim_end().to_owned(),
                suffers: text("suffers")?,
            })
        });
        defects.collect()
    }
}

/// Makes `to` like `from`, but for the files that are changed. What is the same already is not touched, so that it is not compiled again.
fn mirror(from: &Path, to: &Path, changed: &BTreeMap<PathBuf, String>) -> Result<()> {
    let kept = |name: &str| !name.starts_with('.') && name != "target";
    if from.is_file() {
        let wanted = match changed.get(from) {
            Some(text) => text.clone().into_bytes(),
            None => fs::read(from)?,
        };
        if fs::read(to).ok().as_ref() != Some(&wanted) {
            fs::write(to, wanted).with_context(|| format!("writing {}", to.display()))?;
        }
        return Ok(());
    }
    fs::create_dir_all(to)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if kept(&name.to_string_lossy()) && !entry.file_type()?.is_symlink() {
            mirror(&entry.path(), &to.join(&name), changed)?;
            names.insert(name);
        }
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) {
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
        }
    }
    Ok(())
}

/// What is changed in the copy, by path: the sources of the API, with all defects in them, and the version of our crates. Cargo tells crates apart by
/// it, so that what is built from the copy is not taken for what is built from the workspace.
fn planted(root: &Path, defects: &[Defect]) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let workspace = root.join("Cargo.toml");
    let text = fs::read_to_string(&workspace)?;
    let version = text
        .split_once("\nversion = \"")
        .and_then(|(head, tail)| Some((head, tail.split_once('"')?.1)));
    let (head, tail) = version.context("the workspace has no version")?;
    files.insert(workspace, format!("{head}\nversion = \"0.0.0-planted\"{tail}"));
    let sources = root.join("crates/apiserver/src");
    let library = sources.join("lib.rs");
    files.insert(library.clone(), fs::read_to_string(&library)? + PLANTED);
    for defect in defects {
        let path = sources.join(&defect.file);
        let text = match files.entry(path) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let text = fs::read_to_string(new.key()).with_context(|| format!("{}: reading {}", defect.name, defect.file))?;
                new.insert(text)
            }
        };
        let times = text.matches(&defect.find).count();
        ensure!(
            times == 1,
            "{}: its text is {times} times in {}; look at the file and mend defects.yaml",
            defect.name,
            defect.file
        );
        ensure!(
            defect.replace.contains(&format!("planted(\"{}\")", defect.name)),
            "{}: it does not ask for its name",
            defect.name
        );
        *text = text.replacen(&defect.find, &defect.replace, 1);
    }
    Ok(files)
}

/// Builds the suite from the copy and gives its program.
fn build(copy: &Path, target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["test", "--workspace", "--test", "conformance", "--no-run", "--message-format=json"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(copy)
        .output()?;
    let messages = String::from_utf8_lossy(&built.stdout);
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !built.status.success() {
        let errors = messages.iter().filter_map(|message| message.pointer("/message/rendered")?.as_str());
        let errors: String = errors.filter(|text| text.starts_with("error")).collect();
        bail!("the copy does not compile: {errors}\n{}", String::from_utf8_lossy(&built.stderr));
    }
    let program = messages
        .iter()
        .filter(|message| message["target"]["name"] == "conformance" && message["target"]["kind"][0] == "test")
        .find_map(|message| message["executable"].as_str());
    Ok(program.context("cargo built no suite")?.into())
}

/// The suite's program with all defects in it.
struct Suite {
    program: PathBuf,
    folder: PathBuf,
    /// Of all behaviours.
    names: Vec<String>,
}

impl Suite {
    /// The behaviours that fail with a defect (or none): all, or only the first; of those whose name contains a text.
    fn failing(&self, defect: &str, first: bool, only: &str) -> Result<Vec<String>> {
        let mut command = Command::new(&self.program);
        command
            .args(["suite::the_embedded_api_behaves", "--exact", "--nocapture"])
            .env("KBM_PLANTED", defect)
            .env("KBM_PATIENCE", PATIENCE)
            .env("KBM_BEHAVIOURS", only)
            .current_dir(&self.folder);
        if first {
            command.env("KBM_FIRST_FAILURE", "1");
        }
        let ran = command.output()?;
        let told = String::from_utf8_lossy(&ran.stdout);
        let Some((_, report)) = told.split_once("embedded: ") else {
            bail!(
                "with {defect:?} the suite does not even begin:\n{told}{}",
                String::from_utf8_lossy(&ran.stderr)
            );
        };
        // Each failure is told by its name on a line, and why on the next ones.
        let lines: BTreeSet<&str> = report.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        Ok(self.names.iter().filter(|name| lines.contains(name.as_str())).cloned().collect())
    }

    /// The behaviour that finds a defect, surely: it fails twice.
    fn finds(&self, defect: &str) -> Result<Option<String>> {
        let Some(name) = self.failing(defect, true, "")?.into_iter().next() else {
            return Ok(None);
        };
        let again = self.failing(defect, false, &name)?;
        Ok(again.contains(&name).then_some(name))
    }
}

#[test]
fn every_planted_defect_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let program = std::env::current_exe().expect("a program");
    let target = program.ancestors().nth(3).expect("a target folder");
    let copy = target.join("defects");
    let defects = Defect::all().expect("a list of defects");
    let names: BTreeSet<&str> = defects.iter().map(|defect| defect.name.as_str()).collect();
    assert_eq!(names.len(), defects.len(), "a name is there twice");
    assert!(defects.len() >= 30, "{} defects", defects.len());

    let changed = planted(root, &defects).expect("defects that fit the sources");
    mirror(root, &copy, &changed).expect("a copy of the workspace");
    let suite = Suite {
        program: build(&copy, target).expect("a suite"),
        folder: copy.join("crates/conformance"),
        names: conformance::suite::all()
            .into_iter()
            .map(|behaviour| behaviour.name.into_owned())
            .collect(),
    };
    let sound = suite.failing("", false, "").expect("a run");
    assert!(sound.is_empty(), "these fail without any defect: {sound:?}");

    let wanted = std::env::var("KBM_DEFECTS").unwrap_or_default();
    let queue = Mutex::new(defects.iter().filter(|defect| defect.name.contains(&wanted)));
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(defect) = queue.lock().expect("a queue").next() else {
                        return;
                    };
                    let by = suite.finds(&defect.name);
                    found.lock().expect("a list").push((defect, by));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("a list");
    found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let mut missed = Vec::new();
    for (defect, by) in &found {
        let by = match by {
            Ok(Some(behaviour)) => behaviour.as_str(),
            Ok(None) => "NOT FOUND",
            Err(why) => &format!("{why:#}"),
        };
        println!("{:<36} {}\n{:<36} found by: {by}", defect.name, defect.suffers, "");
    }
    for (defect, by) in found {
        match by {
            Ok(Some(_)) => {}
            Ok(None) => missed.push(defect.name.clone()),
            Err(why) => missed.push(format!("{} ({why:#})", defect.name)),
        }
    }
    assert!(missed.is_empty(), "the suite does not find: {missed:?}");
}
