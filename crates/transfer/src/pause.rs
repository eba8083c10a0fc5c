//! Pausing: operator and netboot stop deciding about every machine, and no policy accepts a new one.
//!
//! `spec.paused` of BareMetalHardware and BareMetalDiscoveryPolicy does it; the annotation says who paused, so that a resume leaves alone what a person paused by hand.

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    Say,
    objects::{self, Kind},
};

/// Says who paused an object: [`BY_HAND`], [`BY_EXPORT`] or [`BY_IMPORT`]. No behaviour hangs on it but that of `kube-baremetal resume`.
pub const PAUSED_BY: &str = "kube-baremetal.io/paused-by";
/// Value of `kube-baremetal pause`.
pub const BY_HAND: &str = "pause";
/// Value of `kube-baremetal export`.
pub const BY_EXPORT: &str = "export";
/// Value of `kube-baremetal import`.
pub const BY_IMPORT: &str = "import";

/// Writes at a time.
const AT_ONCE: usize = 16;
/// How often what came meanwhile is paused too.
const ROUNDS: usize = 10;

pub(crate) fn is_paused(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/paused").and_then(serde_json::Value::as_bool) == Some(true)
}

pub(crate) fn paused_by(object: &DynamicObject) -> Option<&str> {
    object.annotations().get(PAUSED_BY).map(String::as_str)
}

async fn patch(client: &Client, kind: &Kind, object: &DynamicObject, change: serde_json::Value) -> Result<()> {
    match kind
        .home(client, object)
        .patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(change))
        .await
    {
        Ok(_) => Ok(()),
        // Gone meanwhile.
        Err(error) if objects::is_not_found(&error) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("changing {}", objects::label(object))),
    }
}

/// Pauses every policy and every machine that is not paused. What was paused before keeps its annotation. Returns how many machines there are.
///
/// # Errors
/// When the API refuses, or machines keep coming.
pub async fn pause(client: &Client, by: &str, say: Say<'_>) -> Result<usize> {
    for round in 0..ROUNDS {
        let (mut open, mut machines) = (Vec::new(), 0);
        // Policies first: then no new machine comes by them.
        for kind in [objects::policies(), objects::hardware()] {
            let all = kind.list(client).await?;
            machines = all.len();
            open.extend(all.into_iter().filter(|o| !is_paused(o)).map(|o| (kind.clone(), o)));
        }
        if open.is_empty() {
            return Ok(machines);
        }
        if round == 0 {
            say(&format!("pausing {} machines and policies", open.len()));
        }
        let change = json!({ "metadata": { "annotations": { PAUSED_BY: by } }, "spec": { "paused": true } });
        stream::iter(&open)
            .map(|(kind, object)| patch(client, kind, object, change.clone()))
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await?;
    }
    bail!("new machines are accepted faster than they can be paused: is somebody creating BareMetalHardware objects?")
}

/// Lets machines and policies go on that were paused by `kube-baremetal pause` or an import; those that an export paused only with `give_up_move`. Returns how many.
///
/// # Errors
/// When an export paused some and the move is not given up, or the API refuses.
pub async fn resume(client: &Client, give_up_move: bool, say: Say<'_>) -> Result<usize> {
    let mut found = Vec::new();
    for kind in [objects::hardware(), objects::policies()] {
        let all = kind.list(client).await?;
        found.extend(all.into_iter().filter(is_paused).map(|o| (kind.clone(), o)));
    }
    let exported = found.iter().filter(|(_, o)| paused_by(o) == Some(BY_EXPORT)).count();
    if exported > 0 && !give_up_move {
        bail!(
            "{exported} objects were paused by an export: their machines may be in another API's hands by now, and two must not decide about one machine. If they are not, and will not be, resume with --give-up-move"
        );
    }
    let by_hand = found.iter().filter(|(_, o)| paused_by(o).is_none()).count();
    if by_hand > 0 {
        say(&format!(
            "{by_hand} objects whose spec.paused a person set stay paused; set it to false where they shall go on"
        ));
    }
    found.retain(|(_, o)| paused_by(o).is_some());
    let change = json!({ "metadata": { "annotations": { PAUSED_BY: null } }, "spec": { "paused": null } });
    stream::iter(&found)
        .map(|(kind, object)| patch(client, kind, object, change.clone()))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    Ok(found.len())
}
