//! The worked extension of `examples/network-controller`, run as its README says, on both APIs: an instance on a foreign network waits and says for whom, the example answers with its own
//! ServiceAccount and opens its gate, and the instance goes on to Running.

#[allow(dead_code, reason = "each test file uses its own part")]
mod cluster;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use api::{BareMetalEndpoint, BareMetalHardware, BareMetalInstance, HardwarePhase, InstancePhase, conditions};
use kube::{Api, Client, api::ListParams};
use lab::swarm::{
    driver::{Ledger, Network, Swarm},
    faults,
    machine::{Machine, Timing},
    server::Setup,
};
use rig::{accounts, audit};
use tokio_util::sync::CancellationToken;

use cluster::Cluster;

/// The example's ServiceAccount.
const ACCOUNT: (&str, &str) = ("fabric", "network-controller");
/// A gate that this test opens by hand, as an administrator would.
const APPROVAL: &str = "example.com/approval";

const TENANT: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: tenant
---
apiVersion: kube-baremetal.io/v1alpha1
kind: BareMetalImage
metadata:
  name: simulated
spec:
  url: https://images.example/simulated.raw.zst
  digest: sha256:abababababababababababababababababababababababababababababababab
  format: Zstd
---
apiVersion: kube-baremetal.io/v1alpha1
kind: BareMetalInstance
metadata:
  name: web
  namespace: tenant
spec:
  image: simulated
"#;

struct Side {
    client: Client,
    kubeconfig: PathBuf,
    folder: PathBuf,
    boot: Vec<SocketAddr>,
}

impl Side {
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(rig::binary()?)
            .arg("kubectl")
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.folder)
            .env("KUBECTL_KUBERC", "false")
            .output()?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As the README says; a kind is served a moment after its definition was made.
    async fn apply(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("a path that is no text")?;
        let limit = Instant::now() + Duration::from_secs(30);
        while let Err(problem) = self.kubectl(&["apply", "--server-side", "-f", path]) {
            ensure!(Instant::now() < limit, "{problem:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn instance(&self) -> Result<Option<BareMetalInstance>> {
        let instances: Api<BareMetalInstance> = Api::namespaced(self.client.clone(), "tenant");
        Ok(instances.get_opt("web").await?)
    }

    /// Waits until the instance is as it should be.
    async fn until(&self, what: &str, reached: impl Fn(&BareMetalInstance) -> bool) -> Result<BareMetalInstance> {
        let limit = Instant::now() + Duration::from_secs(90);
        loop {
            let instance = self.instance().await?.context("the instance is gone")?;
            if reached(&instance) {
                return Ok(instance);
            }
            if Instant::now() > limit {
                let machine = self.kubectl(&["get", "bmh,bmd", "-o", "yaml"])?;
                bail!("not {what} within 90 s: {:#?}\n{machine}", instance.status);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn one_life(side: &Side) -> Result<()> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/network-controller");
    side.apply(&example.join("manifest.yaml")).await?;
    side.apply(&example.join("fabric.yaml")).await?;
    let machine = Machine::new(0, 1, faults::Plan::none(1).of_machine(0), Timing::short());
    let network = Arc::new(Network::new(side.boot.clone(), None));
    let swarm = Swarm::start(vec![machine], Duration::ZERO, network, Arc::new(Ledger::new(Instant::now())));

    // A second gate, of somebody else's, on the machine itself.
    let machines: Api<BareMetalHardware> = Api::all(side.client.clone());
    let limit = Instant::now() + Duration::from_secs(60);
    let machine = loop {
        let all = machines.list(&ListParams::default()).await?.items;
        let ready = |m: &BareMetalHardware| m.status.as_ref().is_some_and(|s| s.phase == HardwarePhase::Ready);
        if let Some(found) = all.into_iter().find(ready) {
            break found.metadata.name.context("a name")?;
        }
        ensure!(Instant::now() < limit, "no machine was Ready within 60 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let gate = format!(r#"[{{"op":"add","path":"/spec/gates/-","value":{{"conditionType":"{APPROVAL}","before":"Run"}}}}]"#);
    side.kubectl(&["patch", "bmh", &machine, "--type=json", "-p", &gate])?;

    let tenant = side.folder.join("tenant.yaml");
    std::fs::write(&tenant, TENANT)?;
    side.apply(&tenant).await?;
    let said = |instance: &BareMetalInstance, kind: &str| {
        let found = instance.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == kind);
        found.map(|c| (c.status.clone(), c.message.clone()))
    };
    let waits = |i: &BareMetalInstance| {
        said(i, conditions::ADDRESSES_READY)
            .is_some_and(|(status, message)| status == "False" && message.contains("Vlan.fabric.example.com racks"))
    };
    side.until("waiting for the foreign controller by its name", waits).await?;
    let held = |i: &BareMetalInstance| {
        let status = i.status.as_ref();
        status.is_some_and(|s| s.phase == InstancePhase::Provisioning && s.reason == "AwaitingAddress")
    };
    side.until("held by its address", held).await?;
    // Nothing else moves it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(
        side.instance().await?.is_some_and(|i| waits(&i) && held(&i)),
        "it went on without an answer"
    );

    let kubeconfig = side.folder.join("example.kubeconfig");
    accounts::kubeconfig(&side.client, &side.kubeconfig, ACCOUNT.0, ACCOUNT.1, &kubeconfig).await?;
    let stop = CancellationToken::new();
    let controller = tokio::spawn(network_controller::run(
        rig::client(&kubeconfig).await?,
        stop.clone().cancelled_owned(),
    ));

    let at_gate = |i: &BareMetalInstance| {
        i.status
            .as_ref()
            .is_some_and(|s| s.reason == "GateClosed" && s.message.contains(APPROVAL))
    };
    let instance = side.until("written and waiting to be approved", at_gate).await?;
    ensure!(
        said(&instance, network_controller::GATE).is_some_and(|(status, _)| status == "True"),
        "the example's gate is open: {:#?}",
        instance.status
    );
    let endpoints: Api<BareMetalEndpoint> = Api::namespaced(side.client.clone(), "tenant");
    let endpoint = endpoints.get("web-0").await?.status.context("an answer")?;
    ensure!(endpoint.vlan == Some(120), "{endpoint:#?}");
    let approve = format!(
        r#"{{"status":{{"conditions":[{}{{"type":"{APPROVAL}","status":"True","reason":"Approved","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}}]}}}}"#,
        instance
            .status
            .iter()
            .flat_map(|s| &s.conditions)
            .map(|c| Ok(serde_json::to_string(c)? + ","))
            .collect::<Result<String>>()?
    );
    side.kubectl(&[
        "patch",
        "bmi",
        "web",
        "-n",
        "tenant",
        "--subresource=status",
        "--type=merge",
        "-p",
        &approve,
    ])?;

    let running = |i: &BareMetalInstance| i.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Running);
    let instance = side.until("Running", running).await?;
    let status = instance.status.context("a status")?;
    ensure!(status.addresses == ["10.20.0.10/24"], "{status:#?}");

    side.kubectl(&["delete", "bmi", "web", "-n", "tenant", "--timeout=60s"])?;
    ensure!(side.instance().await?.is_none(), "the instance is gone");
    stop.cancel();
    controller.await.context("the example ends")?;
    swarm.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_serves_the_embedded_api() {
    embedded().await.unwrap_or_else(|problem| panic!("{problem:#}"));
}

async fn embedded() -> Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::Builder::new().prefix("kbm-extension.").tempdir()?;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_kube-baremetal"));
    let setup = Setup::new(program, folder.path().to_owned(), Ipv4Addr::LOCALHOST, 1)?;
    let mut server = setup.start(&[])?;
    let side = Side {
        client: server.ready().await?,
        kubeconfig: folder.path().join("kubeconfig"),
        folder: folder.path().to_owned(),
        boot: vec![setup.boot()],
    };
    one_life(&side).await.map_err(|e| e.context(server.last_words()))?;
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_serves_a_real_api_with_the_least_rights() {
    real().await.unwrap_or_else(|problem| panic!("{problem:#}"));
}

async fn real() -> Result<()> {
    let cluster = Cluster::start(1, false, &[]).await?;
    let fleet = cluster.fleet(1, 1, 1).await?;
    let side = Side {
        client: cluster.client.clone(),
        kubeconfig: cluster.plane.kubeconfig(),
        folder: cluster.dir.path().to_owned(),
        boot: cluster.boot(1),
    };
    one_life(&side).await?;
    drop(fleet);
    // Watches are written down when they end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rights = audit::rights(&cluster.client, ACCOUNT.0, ACCOUNT.1).await?;
    ensure!(!rights.is_empty(), "the example has no rights");
    let calls = audit::read(&cluster.plane.audit_log())?;
    let wrong = audit::compare(&accounts::user_name(ACCOUNT.0, ACCOUNT.1), &calls, &rights);
    ensure!(wrong.is_empty(), "calls and rules do not fit:\n  {}", wrong.join("\n  "));
    Ok(())
}
