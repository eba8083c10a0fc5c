//! The event service (DSP0266, 13; DSP0268: EventService, EventDestination): subscriptions, and streams of server-sent events.
//!
//! * **All events** are subscribed to: which of them mean that a machine was switched is told otherwise by each vendor, and is not read here anyway.
//! * **Own subscriptions are known** by their destination, or by their context where the destination has changed. One is enough; doubles, and those of before, are
//!   taken away, because controllers have few places. Those of others are never touched.
//! * **Places**: with some a subscription is a place that is always there. A free one is changed, where it is a quirk that is known.
//! * **Forms**: what a service shows says which of the standard's forms it was written after. Of several the next one is tried where one is refused.
//!
//! A service that is switched off is left so: it is a setting of the controller.

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    Redfish, collected,
    http::Conversation,
    quirks::Quirk,
    reader::{self, Link},
};
use crate::{
    events::{Stream, Subscription, plain},
    fault::Fault,
};

/// The event types of the standard's first form, where a service does not say which it has (DSP0268, Event 1.0).
const TYPES: [&str; 5] = ["StatusChange", "ResourceUpdated", "ResourceAdded", "ResourceRemoved", "Alert"];
/// The most subscriptions of a service that are looked at. Controllers have at most some dozens.
const LOOKED_AT: usize = 64;

/// What a service offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Whether it is switched on. One that does not say so is.
    pub enabled: bool,
    /// Where subscriptions are.
    pub subscriptions: Link,
    /// Where the stream of events is.
    pub stream: Option<Link>,
    /// Types of events, of the first form, if it shows any.
    pub types: Option<Vec<String>>,
    /// Whether it shows what the later form filters by.
    pub later: bool,
}

impl Service {
    /// Reads the document of a service.
    #[must_use]
    pub fn read(link: &Link, document: &Value) -> Self {
        let types = reader::words(document, "EventTypesForSubscription").map(|mut types| {
            // It wants a report to be named.
            types.retain(|kind| kind != "MetricReport");
            types
        });
        Self {
            enabled: reader::flag(document, "ServiceEnabled").unwrap_or(true),
            subscriptions: reader::link(document, "Subscriptions").unwrap_or_else(|| link.below("Subscriptions")),
            stream: reader::link(document, "ServerSentEventUri"),
            types: types.filter(|types| !types.is_empty()),
            later: ["EventFormatTypes", "RegistryPrefixes", "ResourceTypes"]
                .iter()
                .any(|name| reader::member(document, name).is_some()),
        }
    }

    /// Forms of a subscription, the best first.
    #[must_use]
    pub fn forms(&self, subscription: &Subscription) -> Vec<Value> {
        let with = |members: &[(&str, Value)]| {
            let mut form = json!({
                "Destination": subscription.destination.expose_secret(),
                "Context": subscription.context,
                "Protocol": "Redfish",
            });
            for (name, value) in members {
                form[*name] = value.clone();
            }
            form
        };
        let format = ("EventFormatType", json!("Event"));
        let kind = ("SubscriptionType", json!("RedfishEvent"));
        // Else it is taken away after some events that did not arrive.
        let patience = ("DeliveryRetryPolicy", json!("RetryForever"));
        let types = (
            "EventTypes",
            json!(self.types.clone().unwrap_or_else(|| TYPES.map(str::to_owned).to_vec())),
        );
        let mut later = vec![format.clone(), kind.clone()];
        if self.types.is_some() {
            later.push(types.clone());
        }
        let mut full = later.clone();
        full.push(patience);
        if subscription.unverified {
            full.push(("VerifyCertificate", json!(false)));
        }
        let later = [with(&full), with(&later), with(&[format])];
        let first = [with(std::slice::from_ref(&types)), with(&[types.clone(), kind])];
        let mut forms = Vec::new();
        if self.later {
            forms.extend(later);
            forms.extend(first);
            forms.push(with(&[]));
        } else {
            forms.extend(first);
            forms.extend(later);
        }
        forms
    }
}

/// What a subscription is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The one that is wanted.
    Ours,
    /// One of ours that is good for nothing any more.
    Stale,
    /// Another's, or ours that is wanted for something else.
    Others,
    /// Nobody's: a place that is free.
    Nobodys,
}

/// Judges a subscription that a service shows.
#[must_use]
pub fn whose(document: &Value, subscription: &Subscription) -> Whose {
    let destination = plain(&reader::text(document, "Destination").unwrap_or_default());
    let state = reader::member(document, "Status").and_then(|status| reader::text(status, "State"));
    // Given up by the service, after events that did not arrive.
    let dead = matches!(state.as_deref(), Some("Disabled" | "UnavailableOffline"));
    if destination == plain(subscription.destination.expose_secret()) {
        return if dead { Whose::Stale } else { Whose::Ours };
    }
    if dead && matches!(destination.as_str(), "" | "0.0.0.0") {
        return Whose::Nobodys;
    }
    let context = reader::text(document, "Context").unwrap_or_default();
    let own = destination.starts_with(&subscription.prefix) || context == subscription.context;
    if own && !(subscription.is_wanted)(&destination) {
        Whose::Stale
    } else {
        Whose::Others
    }
}

fn none(offered: &str) -> Fault {
    Fault::NotOffered {
        wanted: "events".to_owned(),
        offered: offered.to_owned(),
    }
}

async fn service(talk: &Conversation<'_>) -> Result<Service, Fault> {
    let root = talk.root().await?.body;
    let link = reader::link(&root, "EventService").ok_or_else(|| none("no event service"))?;
    let service = Service::read(&link, &talk.get(&link).await?.body);
    if !service.enabled {
        return Err(none("an event service that is switched off (ServiceEnabled)"));
    }
    Ok(service)
}

/// What became of our subscriptions.
#[derive(Debug, Default)]
struct Tidied {
    /// The one that is wanted is there.
    there: bool,
    /// A place that is free.
    free: Option<Link>,
}

/// Takes away what is ours of these and of no use.
async fn tidied(
    talk: &Conversation<'_>,
    (service, quirk): (&Service, &Quirk),
    subscription: &Subscription,
    wanted: bool,
) -> Result<Tidied, Fault> {
    let mut tidied = Tidied::default();
    for link in collected(talk, service.subscriptions.clone()).await?.iter().take(LOOKED_AT) {
        // One that cannot be read is not known to be ours, or is just gone.
        let document = match talk.get(link).await {
            Ok(document) => document,
            Err(Fault::Refused(_) | Fault::Privilege(_)) => continue,
            Err(fault) => return Err(fault),
        };
        match (whose(&document.body, subscription), quirk.place) {
            (Whose::Ours, _) if wanted && !tidied.there => tidied.there = true,
            (Whose::Ours | Whose::Stale, place) => match (talk.delete(link).await, place) {
                (Err(Fault::Refused(_)), Some(place)) => {
                    let off = switched(json!({}), place, false);
                    talk.patch(link, &off, document.etag.as_deref()).await?;
                    tidied.free = Some(link.clone());
                }
                (deleted, _) => deleted?,
            },
            (Whose::Nobodys, Some(_)) => tidied.free = Some(link.clone()),
            (Whose::Nobodys, None) | (Whose::Others, _) => {}
        }
    }
    Ok(tidied)
}

/// A change of a place, with the vendor's own switch.
fn switched(mut form: Value, (vendor, member): (&str, &str), on: bool) -> Value {
    form["Oem"] = json!({vendor: {member: on}});
    form
}

impl Redfish {
    pub(super) async fn set_subscription(&self, subscription: &Subscription) -> Result<(), Fault> {
        let talk = self.http.converse_about(subscription.secret())?;
        let service = service(&talk).await?;
        let (system, _) = self.system(&talk).await?;
        let quirk = self.quirk(&talk, &system).await;
        let tidied = tidied(&talk, (&service, quirk), subscription, true).await?;
        if tidied.there {
            return Ok(());
        }
        let mut refused = Ok(());
        for form in service.forms(subscription) {
            let mut last;
            if let (Some(place), Some(free)) = (quirk.place, &tidied.free) {
                let etag = talk.get(free).await?.etag;
                last = talk
                    .patch(free, &switched(form.clone(), place, true), etag.as_deref())
                    .await
                    .map(|_| ());
                if !matches!(last, Err(Fault::Refused(_))) {
                    return last;
                }
            }
            last = talk.post(&service.subscriptions, &form).await.map(|_| ());
            if !matches!(last, Err(Fault::Refused(_))) {
                return last;
            }
            // Said of the form that fits best: the first of an old service, the barest of a later one.
            if service.later || refused.is_ok() {
                refused = last;
            }
        }
        refused
    }

    pub(super) async fn remove_subscription(&self, subscription: &Subscription) -> Result<(), Fault> {
        let talk = self.http.converse_about(subscription.secret())?;
        let service = service(&talk).await?;
        let (system, _) = self.system(&talk).await?;
        let quirk = self.quirk(&talk, &system).await;
        tidied(&talk, (&service, quirk), subscription, false).await.map(|_| ())
    }

    pub(super) async fn open_stream(&self) -> Result<Stream, Fault> {
        let talk = self.http.converse()?;
        let link = service(&talk).await?.stream;
        let link = link.ok_or_else(|| none("no stream of them (ServerSentEventUri)"))?;
        talk.stream(&link).await.map(Stream::new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn subscription() -> Subscription {
        Subscription {
            destination: "https://us.example/bmc-events/aa".to_owned().into(),
            prefix: "https://us.example/bmc-events/".to_owned(),
            context: "kube-baremetal 1".to_owned(),
            unverified: true,
            is_wanted: Arc::new(|url| url.ends_with("/bb")),
        }
    }

    fn read(document: &Value) -> Service {
        Service::read(&Link::parse("/redfish/v1/EventService").expect("a link"), document)
    }

    #[test]
    fn a_service_is_read_leniently() {
        let bare =
            read(&json!({"ServiceEnabled": null, "Subscriptions": null, "ServerSentEventUri": "None", "EventTypesForSubscription": []}));
        assert_eq!(bare.subscriptions.as_str(), "/redfish/v1/EventService/Subscriptions");
        assert_eq!((bare.enabled, &bare.stream, &bare.types, bare.later), (true, &None, &None, false));
        let full = read(&json!({
            "ServiceEnabled": "false", "Subscriptions": {"@odata.id": "/s"}, "ServerSentEventUri": "https://bmc.invalid/redfish/v1/SSE",
            "EventTypesForSubscription": ["Alert", "MetricReport", 7], "EventFormatTypes": ["Event"]
        }));
        assert_eq!((full.enabled, full.later), (false, true));
        assert_eq!(full.stream.as_ref().map(Link::as_str), Some("/redfish/v1/SSE"));
        assert_eq!(full.types.as_deref(), Some(&["Alert".to_owned()][..]));
    }

    #[test]
    fn the_form_follows_what_a_service_shows() {
        let old = read(&json!({"EventTypesForSubscription": ["Alert"]})).forms(&subscription());
        assert_eq!(
            old[0],
            json!({"Destination": "https://us.example/bmc-events/aa", "Context": "kube-baremetal 1", "Protocol": "Redfish", "EventTypes": ["Alert"]})
        );
        let new = read(&json!({"RegistryPrefixes": ["Base"]})).forms(&subscription());
        assert_eq!(
            (&new[0]["EventFormatType"], &new[0]["VerifyCertificate"], new[0].get("EventTypes")),
            (&json!("Event"), &json!(false), None)
        );
        assert_eq!(new[1].get("VerifyCertificate"), None, "not all know it");
        assert_eq!(new[3]["EventTypes"].as_array().map(Vec::len), Some(5));
        assert_eq!(new.last().and_then(Value::as_object).map(serde_json::Map::len), Some(3));
        let verified = Subscription {
            unverified: false,
            ..subscription()
        };
        assert!(
            read(&json!({}))
                .forms(&verified)
                .iter()
                .all(|form| form.get("VerifyCertificate").is_none())
        );
    }

    #[test]
    fn only_what_is_ours_and_useless_is_stale() {
        let judged = |document: Value| whose(&document, &subscription());
        let ours = "https://us.example/bmc-events/aa";
        assert_eq!(judged(json!({"Destination": ours, "Context": "x"})), Whose::Ours);
        assert_eq!(
            judged(json!({"Destination": "https://US.example:443/bmc-events/aa"})),
            Whose::Ours,
            "services write URLs anew"
        );
        assert_eq!(judged(json!({"Destination": ours, "Status": {"State": "Disabled"}})), Whose::Stale);
        assert_eq!(judged(json!({"Destination": "https://us.example/bmc-events/cc"})), Whose::Stale);
        assert_eq!(
            judged(json!({"Destination": "https://us.example/bmc-events/bb"})),
            Whose::Others,
            "that of another driver for the same controller"
        );
        assert_eq!(
            judged(json!({"Destination": "https://before.example/x", "Context": "kube-baremetal 1"})),
            Whose::Stale
        );
        for others in [
            json!({"Destination": "https://them.example/bmc-events/aa", "Context": "kube-baremetal 2"}),
            json!({"Destination": "https://us.example.evil/bmc-events/aa"}),
            json!({"Destination": null}),
            json!({"Destination": "https://them.example/", "Status": {"State": "Disabled"}}),
            json!({}),
        ] {
            assert_eq!(judged(others.clone()), Whose::Others, "{others}");
        }
        assert_eq!(
            judged(json!({"Destination": "0.0.0.0", "Status": {"State": "Disabled"}})),
            Whose::Nobodys
        );
    }
}
