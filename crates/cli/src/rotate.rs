//! `kube-baremetal rotate`.

use anyhow::{Context, Result, bail, ensure};
use api::BareMetalHardware;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use netboot::{keys::SECRET_NAME, rotation};

use crate::roles::{Cluster, NETBOOT_NAMESPACE};

/// On the Secret: when each was rotated last.
const SINCE: [&str; 2] = ["kube-baremetal.io/ca-since", "kube-baremetal.io/token-key-since"];
/// So long after a rotation a system may still be installed with what was prepared before it.
const IN_PREPARATION: SignedDuration = SignedDuration::from_hours(1);

/// What is rotated.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum What {
    /// The authority by whose public key machines and guest helpers know netboot.
    Ca,
    /// The key that makes the tokens of boots and guest helpers.
    TokenKey,
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace with netboot's keys.
    #[arg(long, env = "KBM_NETBOOT_NAMESPACE", default_value = NETBOOT_NAMESPACE)]
    netboot_namespace: String,
    /// What to rotate.
    #[arg(value_enum)]
    what: What,
    /// Make nothing new, but take away the earlier ones, which stay good until then.
    #[arg(long)]
    end_overlap: bool,
    /// End the overlap also for systems that know only the earlier ones: their helpers are not heard any more, and their machines must be switched off and on by hand when they are released.
    #[arg(long, requires = "end_overlap")]
    strand_helpers: bool,
}

/// Instances whose systems were installed before a time.
async fn installed_before(client: &Client, then: Timestamp) -> Result<Vec<String>> {
    let machines = Api::<BareMetalHardware>::all(client.clone())
        .list(&ListParams::default())
        .await
        .context("listing BareMetalHardware")?;
    let before = |h: &BareMetalHardware| {
        let installed = h.status.as_ref()?.installed.as_ref()?;
        let claim = h.spec.claim_ref.as_ref()?;
        (installed.since.0 < then).then(|| format!("{}/{}", claim.namespace, claim.name))
    };
    Ok(machines.items.iter().filter_map(before).collect())
}

/// Runs it.
pub async fn run(arguments: Arguments) -> Result<()> {
    let (what, since) = match arguments.what {
        What::Ca => (rotation::What::Ca, SINCE[0]),
        What::TokenKey => (rotation::What::TokenKey, SINCE[1]),
    };
    let client = arguments.cluster.client().await?;
    let namespace = &arguments.netboot_namespace;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(SECRET_NAME).await;
    let found = found.with_context(|| format!("reading Secret {namespace}/{SECRET_NAME}"))?;
    let mut secret = found.with_context(|| format!("there is no Secret {namespace}/{SECRET_NAME}: netboot makes it when it starts"))?;
    if arguments.end_overlap {
        if !rotation::end_overlap(&mut secret, what) {
            bail!("there is no overlap to end: nothing earlier is kept");
        }
        if !arguments.strand_helpers {
            let rotated = secret.annotations().get(since).and_then(|t| t.parse::<Timestamp>().ok());
            let rotated = rotated.with_context(|| {
                format!(
                    "the annotation {since} of Secret {namespace}/{SECRET_NAME} does not say when it was rotated, so nobody can tell which systems know only what came before; if there are none, use --strand-helpers"
                )
            })?;
            let then = rotated.saturating_add(IN_PREPARATION).context("a time out of reach")?;
            let mut before = installed_before(&client, then).await?;
            let count = before.len();
            before.truncate(10);
            ensure!(
                count == 0,
                "{count} systems were installed before {then} and may know only what came before: {}. Delete these instances and create them anew first, or end the overlap for them too with --strand-helpers",
                before.join(", ")
            );
        }
    } else {
        rotation::rotate(&mut secret, what).context("making new keys")?;
        secret.annotations_mut().insert(since.to_owned(), Timestamp::now().to_string());
    }
    // By compare and swap: two rotations at once would lose one of both.
    secrets
        .replace(SECRET_NAME, &PostParams::default(), &secret)
        .await
        .with_context(|| format!("writing Secret {namespace}/{SECRET_NAME}; if it was changed meanwhile, do it again"))?;
    if arguments.end_overlap {
        println!("The overlap has ended: only the present one is good.");
    } else {
        println!(
            "Rotated. Netboot uses it within seconds, operators within a minute. The earlier one stays good for systems that are installed; when they are gone, end that with --end-overlap."
        );
    }
    Ok(())
}
