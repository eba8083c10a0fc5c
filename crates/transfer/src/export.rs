//! Exporting: pause, wait for machines at work, write everything down.

use std::{collections::BTreeSet, io::Write, time::Duration};

use anyhow::{Context, Result, bail};
use api::{BareMetalDiscovery, BareMetalHardware};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject},
};
use lifecycle::view;
use tokio::time::Instant;

use crate::{
    Say,
    archive::{Header, Writer},
    objects::{self, KEYS, label},
    pause,
};

/// An order that netboot read just before the pause may still be noted as accepted until then; it reads anew what it read two seconds ago.
const HAND_OUT: Duration = Duration::from_secs(3);
/// How often machines at work are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often their number is told.
const TELL: Duration = Duration::from_secs(15);

/// How to export.
#[derive(Debug, Clone)]
pub struct Options {
    /// Namespace with netboot's keys.
    pub netboot_namespace: String,
    /// How long machines that write or erase their disk may take to end it.
    pub patience: Duration,
    /// Export although some did not end.
    pub leave_working: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Machines.
    pub machines: usize,
    /// Instances.
    pub instances: usize,
    /// Objects of all kinds.
    pub objects: usize,
    /// Secrets, by namespace and name: the archive is as secret as they are.
    pub secrets: Vec<String>,
    /// What was left out, in words.
    pub left_out: Vec<String>,
}

/// Machines that work on an order.
async fn at_work(client: &Client) -> Result<Vec<String>> {
    let hardware = objects::hardware().list(client).await?;
    let discoveries = Api::<BareMetalDiscovery>::all(client.clone());
    let mut names = Vec::new();
    for object in hardware {
        let name = object.name_any();
        let hardware: BareMetalHardware = object.try_parse().with_context(|| format!("reading BareMetalHardware {name}"))?;
        let Some(order) = hardware.status.as_ref().and_then(|s| s.order.as_ref()) else {
            continue;
        };
        let discovery = discoveries
            .get_opt(&hardware.spec.discovery_name)
            .await
            .with_context(|| format!("reading BareMetalDiscovery {}", hardware.spec.discovery_name))?;
        if view::in_flight(discovery.as_ref(), &order.id) && view::live_session(discovery.as_ref()).is_some() {
            names.push(name);
        }
    }
    Ok(names)
}

async fn wait_for_work(client: &Client, options: &Options, say: Say<'_>) -> Result<()> {
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        let names = at_work(client).await?;
        if names.is_empty() {
            return Ok(());
        }
        let some = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        if begun.elapsed() >= options.patience {
            if options.leave_working {
                say(&format!(
                    "{} machines still work on their disks ({some}) and are exported all the same; what they report from now on must reach the other API's netboot",
                    names.len()
                ));
                return Ok(());
            }
            bail!(
                "{} machines still work on their disks after {} s ({some}). They stay paused: export again later, or with --leave-working; or end the move with `kube-baremetal resume --give-up-move`",
                names.len(),
                options.patience.as_secs()
            );
        }
        if told.is_none_or(|t| t.elapsed() >= TELL) {
            say(&format!(
                "waiting for {} machines that write or erase their disks ({some})",
                names.len()
            ));
            told = Some(Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes out what another API makes of its own.
fn bare(mut object: DynamicObject) -> DynamicObject {
    let meta = &mut object.metadata;
    meta.managed_fields = None;
    meta.resource_version = None;
    meta.self_link = None;
    meta.generate_name = None;
    object
}

async fn secret(client: &Client, namespace: &str, name: &str) -> Result<Option<DynamicObject>> {
    let kind = ApiResource::erase::<Secret>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    api.get_opt(name)
        .await
        .with_context(|| format!("reading Secret {namespace}/{name}"))
}

/// Exports everything to `out`. Pauses first; the API stays paused, whatever comes of it.
///
/// # Errors
/// In words for a person.
pub async fn export(client: &Client, options: &Options, out: impl Write, say: Say<'_>) -> Result<Report> {
    let mut report = Report::default();
    pause::pause(client, pause::BY_EXPORT, say).await?;
    tokio::time::sleep(HAND_OUT).await;
    wait_for_work(client, options, say).await?;

    let mut all = Vec::new();
    for kind in objects::ours() {
        for object in kind.list(client).await? {
            match kind.resource.kind.as_str() {
                "BareMetalHardware" => report.machines += 1,
                "BareMetalInstance" => report.instances += 1,
                _ => {}
            }
            all.push(object);
        }
    }
    let mut namespaces: BTreeSet<String> = all.iter().filter_map(ResourceExt::namespace).collect();
    let mut secrets = Vec::new();
    match secret(client, &options.netboot_namespace, KEYS).await? {
        Some(keys) => secrets.push(keys),
        None => bail!(
            "there is no Secret {}/{KEYS}, without which machines would not know the other API's netboot: name netboot's namespace in --netboot-namespace",
            options.netboot_namespace
        ),
    }
    namespaces.insert(options.netboot_namespace.clone());
    // User data that instances name: those that are not installed yet still need it.
    let named: BTreeSet<(String, String)> = all
        .iter()
        .filter_map(|o| {
            let name = o.data.pointer("/spec/userData/name").and_then(serde_json::Value::as_str)?;
            Some((o.namespace()?, name.to_owned()))
        })
        .collect();
    for (namespace, name) in named {
        match secret(client, &namespace, &name).await? {
            Some(found) => secrets.push(found),
            None => report
                .left_out
                .push(format!("Secret {namespace}/{name}, which an instance names, does not exist")),
        }
    }
    report.secrets = secrets.iter().map(label).collect();

    let mut writer = Writer::new(out, &Header::now())?;
    let kind = ApiResource::erase::<Namespace>(&());
    for name in namespaces {
        let found = Api::<DynamicObject>::all_with(client.clone(), &kind).get(&name).await;
        let mut found = found.with_context(|| format!("reading Namespace {name}"))?;
        // Its state is the API's own.
        found.data = serde_json::json!({});
        found.metadata.finalizers = None;
        writer.object(&bare(found))?;
        report.objects += 1;
    }
    for object in secrets.into_iter().chain(all) {
        writer.object(&bare(object))?;
        report.objects += 1;
    }
    writer.end()?;
    Ok(report)
}
