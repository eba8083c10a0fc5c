//! A scripted kubectl session against both APIs: each command of `session.txt` must print the same on both and end alike, whatever kubectl runs it.
//!
//! Not compared: times, ages, uids, versions, addresses and tokens ([`normal`]). The session runs as a ServiceAccount with the role cluster-admin, so that both sides know the same user.

mod normal;
mod script;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use conformance::servers::{Embedded, Real};
use k8s_openapi::api::{
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    config::Kubeconfig,
};

use normal::Normal;
use script::Step;

/// The bar is sixty commands; a session that lost its lines would say little.
const AT_LEAST: usize = 60;
/// Longest time of one command; the longest waits of the session itself are a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// One API as the session uses it.
struct Side {
    kubeconfig: PathBuf,
    home: PathBuf,
    normal: Normal,
}

impl Side {
    /// Makes the session's user and namespace, and its kubeconfig in a folder.
    async fn prepare(admin: &Path, folder: PathBuf) -> Result<Self> {
        let client = rig::client(admin).await?;
        let named = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let how = PostParams::default();
        for name in ["session", "people"] {
            let namespace = Namespace {
                metadata: named(name),
                ..Namespace::default()
            };
            Api::all(client.clone()).create(&how, &namespace).await?;
        }
        let account = ServiceAccount {
            metadata: named("session"),
            ..ServiceAccount::default()
        };
        Api::namespaced(client.clone(), "people").create(&how, &account).await?;
        all_rights(&client).await?;
        std::fs::create_dir_all(&folder)?;
        let kubeconfig = folder.join("kubeconfig");
        rig::accounts::kubeconfig(&client, admin, "people", "session", &kubeconfig).await?;
        same_names(&kubeconfig)?;
        let normal = Normal::of(&kubeconfig)?;
        Ok(Self {
            kubeconfig,
            home: folder,
            normal,
        })
    }

    /// What a command printed and how it ended, less what may differ.
    fn run(&self, kubectl: &[PathBuf], step: &Step) -> Result<String> {
        let mut command = Command::new(&kubectl[0]);
        command.args(&kubectl[1..]).args(&step.words).envs(step.variables.iter().cloned());
        command
            .current_dir(files())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home);
        command
            .env("KUBECTL_KUBERC", "false")
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match &step.input {
            Some(name) => command.stdin(std::fs::File::open(files().join(name)).with_context(|| format!("opening {name}"))?),
            None => command.stdin(Stdio::null()),
        };
        let begun = Instant::now();
        let output = command.output().with_context(|| format!("starting {}", kubectl[0].display()))?;
        ensure!(begun.elapsed() < PATIENCE, "{}: took {:?}", step.line, begun.elapsed());
        let out = self.normal.text(&String::from_utf8_lossy(&output.stdout), step);
        let err = self.normal.text(&String::from_utf8_lossy(&output.stderr), step);
        Ok(format!("{out}--- {} ---\n{err}", output.status.code().unwrap_or(-1)))
    }
}

/// Gives both sides' clusters one name.
fn same_names(path: &Path) -> Result<()> {
    let mut config = Kubeconfig::read_from(path)?;
    for cluster in &mut config.clusters {
        "session".clone_into(&mut cluster.name);
    }
    for context in config.contexts.iter_mut().filter_map(|c| c.context.as_mut()) {
        "session".clone_into(&mut context.cluster);
    }
    // JSON is YAML.
    std::fs::write(path, serde_json::to_string(&config)?)?;
    Ok(())
}

async fn all_rights(client: &Client) -> Result<()> {
    let binding = ClusterRoleBinding {
        metadata: ObjectMeta {
            name: Some("session".to_owned()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: "cluster-admin".to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: "session".to_owned(),
            namespace: Some("people".to_owned()),
            ..Subject::default()
        }]),
    };
    Api::all(client.clone()).create(&PostParams::default(), &binding).await?;
    Ok(())
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl/files")
}

/// Runs the session on both sides at once, command by command.
async fn session(kubectl: Vec<PathBuf>) -> Result<()> {
    let begun = Instant::now();
    let (embedded, real) = (Embedded::start().await?, Real::start().await?);
    let folder = tempfile::Builder::new().prefix("kbm-kubectl.").tempdir()?;
    // Folders of one name, so that messages that name them agree.
    let one = Side::prepare(&embedded.kubeconfig(), folder.path().join("embedded")).await?;
    let other = Side::prepare(&real.plane.kubeconfig(), folder.path().join("real")).await?;
    let steps = script::read(include_str!("session.txt"))?;
    ensure!(steps.len() >= AT_LEAST, "the session has only {} commands", steps.len());
    let count = steps.len();
    let different = tokio::task::spawn_blocking(move || -> Result<Vec<String>> {
        let mut different = Vec::new();
        for step in &steps {
            let (ours, theirs) = std::thread::scope(|scope| {
                let ours = scope.spawn(|| one.run(&kubectl, step));
                let theirs = other.run(&kubectl, step);
                (ours.join(), theirs)
            });
            let ours = ours.map_err(|_| anyhow::anyhow!("{}: the thread panicked", step.line))??;
            let theirs = theirs?;
            if ours != theirs {
                different.push(format!("$ kubectl {}\nembedded:\n{ours}\nreal:\n{theirs}\n", step.line));
            }
        }
        Ok(different)
    })
    .await??;
    println!("{count} commands in {:.1} s", begun.elapsed().as_secs_f64());
    ensure!(
        different.is_empty(),
        "{} of {count} commands differ:\n{}",
        different.len(),
        different.join("\n")
    );
    ensure!(embedded.server.panics() == 0, "the embedded server panicked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_current_kubectl_sees_no_difference() {
    let kubectl = vec![rig::binary().unwrap(), "kubectl".into()];
    session(kubectl).await.unwrap_or_else(|problem| panic!("{problem:#}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubectl_three_minors_older_sees_no_difference() {
    let kubectl = vec![rig::oldest_kubectl().unwrap()];
    session(kubectl).await.unwrap_or_else(|problem| panic!("{problem:#}"));
}
