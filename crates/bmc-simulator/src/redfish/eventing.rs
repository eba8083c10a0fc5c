//! The event service (DSP0266, 13): subscriptions, streams, and the events that a machine went on or off.
//!
//! An event that does not arrive is sent three times. Certificates of destinations are never checked against anybody: where a profile has them checked, nobody is
//! believed, because a controller knows none of the authorities of a test.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    ROOT, Request,
    documents::{collection, link},
    missing, refusal, taken,
};
use crate::{
    bmc::Bmc,
    faults::{Operation, Protocol, What},
    http::{Answer, Fate},
    profile::Events,
    redfish::forms,
};

/// The listener of a stream.
pub(crate) type Listener = mpsc::Sender<Bytes>;

/// How often an event is sent that does not arrive, and after what time again. Real ones wait for longer.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_secs(1);
/// How long one attempt takes at most.
const SENT_WITHIN: Duration = Duration::from_secs(5);
/// Events that wait in a stream whose listener reads nothing.
const KEPT: usize = 64;
/// Connections of all controllers together at the same time: a thousand machines may go on at once.
static SENDING: Semaphore = Semaphore::const_new(256);

/// A subscription.
#[derive(Debug, Clone)]
pub(crate) struct Subscribed {
    pub destination: String,
    context: Value,
    /// What it was asked for.
    asked: Value,
    /// Whether the certificate of its destination is checked.
    verifies: bool,
    /// Whether it stays when events do not arrive.
    stays: bool,
}

/// Whether a request is for the stream of events.
pub(super) fn is_stream(bmc: &Bmc, segments: &[&str]) -> bool {
    let stream = bmc.profile.events.as_ref().and_then(|events| events.stream.as_deref());
    stream.is_some_and(|stream| stream.split('/').eq(segments.iter().copied()))
}

/// Has a controller send events about its machines.
pub(crate) fn attend(bmc: &Arc<Bmc>) {
    if bmc.profile.events.is_none() {
        return;
    }
    for (system, host) in bmc.hosts.iter().enumerate() {
        let bmc = Arc::downgrade(bmc);
        host.tells(move |on| {
            if let Some(bmc) = bmc.upgrade() {
                tokio::spawn(async move { tell(&bmc, system, on).await });
            }
        });
    }
}

/// Sends an event to all who want it.
async fn tell(bmc: &Arc<Bmc>, system: usize, on: bool) {
    let Some(events) = &bmc.profile.events else { return };
    let wanted = {
        let memory = bmc.memory();
        !memory.streams.is_empty() || memory.subscriptions.values().any(Option::is_some)
    };
    if !wanted {
        return;
    }
    bmc.counters.request(Protocol::Redfish, Operation::Event);
    let mishap = bmc.faults.mishap(bmc.index, &bmc.name, Protocol::Redfish, Operation::Event, false);
    sleep(mishap.delay).await;
    if matches!(
        mishap.what,
        Some(What::Silent | What::Closed | What::LostAnswer | What::Status { .. } | What::Hidden)
    ) {
        return;
    }
    let times = if mishap.what == Some(What::Doubled) { 2 } else { 1 };
    for _ in 0..times {
        let (number, subscriptions, streams) = {
            let mut memory = bmc.memory();
            memory.told += 1;
            memory.streams.retain(|stream| !stream.is_closed());
            let subscriptions: Vec<_> = memory
                .subscriptions
                .iter()
                .filter_map(|(id, one)| Some((*id, one.clone()?)))
                .collect();
            (memory.told, subscriptions, memory.streams.clone())
        };
        let document = |context: &Value| spoilt(&event(bmc, events, system, on, number, context), mishap.what);
        let line = format!("id: {number}\ndata: {}\n\n", document(&Value::Null).replace('\n', "\ndata: "));
        for stream in streams {
            // One that reads nothing loses events, as on the wire.
            drop(stream.try_send(Bytes::from(line.clone())));
        }
        for (id, subscription) in subscriptions {
            let (bmc, document) = (Arc::clone(bmc), document(&subscription.context));
            tokio::spawn(async move { send(&bmc, id, &subscription, &document).await });
        }
    }
}

/// An event (DSP0268, Event).
fn event(bmc: &Bmc, events: &Events, system: usize, on: bool, number: u64, context: &Value) -> Value {
    let [went_on, went_off] = &events.messages;
    json!({
        "@odata.type": "#Event.v1_3_0.Event",
        "Id": number.to_string(),
        "Name": "Event",
        "Context": context,
        "Events": [{
            "MemberId": "0",
            "EventId": number.to_string(),
            "EventType": events.types.first().map_or("Alert", String::as_str),
            "Severity": "OK",
            "MessageSeverity": "OK",
            "MessageId": if on { went_on } else { went_off },
            "Message": if on { "The machine is on." } else { "The machine is off." },
            "OriginOfCondition": link(&format!("/Systems/{}", bmc.system_id(system))),
        }],
    })
}

/// The event as a fault has it.
fn spoilt(event: &Value, what: Option<What>) -> String {
    let whole = |answer: &Answer| match (&answer.text, &answer.body) {
        (Some(text), _) => text.clone(),
        (None, body) => body.as_ref().map(Value::to_string).unwrap_or_default(),
    };
    match forms::spoil(Answer::json(200, event.clone()), what) {
        Fate::Answer(answer) if answer.cut => {
            let text = whole(&answer);
            text.chars().take(text.len() / 2).collect()
        }
        Fate::Answer(answer) => whole(&answer),
        Fate::Silent | Fate::Closed => String::new(),
    }
}

/// Sends an event to a destination, some times.
async fn send(bmc: &Bmc, id: u64, subscription: &Subscribed, document: &str) {
    for attempt in 1..=ATTEMPTS {
        // Closed by nobody.
        let Ok(_slot) = SENDING.acquire().await else { return };
        if matches!(timeout(SENT_WITHIN, post(subscription, document)).await, Ok(Some(200..=299))) {
            return;
        }
        if attempt < ATTEMPTS {
            sleep(AGAIN).await;
        }
    }
    if !subscription.stays {
        bmc.take_away(id);
    }
}

/// One attempt. The status of the answer; none where there is no answer.
async fn post(subscription: &Subscribed, document: &str) -> Option<u16> {
    let (scheme, rest) = subscription.destination.split_once("://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, if scheme == "https" { 443 } else { 80 }),
    };
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
        document.len()
    );
    let host = host.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), port)).await.ok()?;
    match scheme {
        "http" => exchange(stream, &request).await,
        "https" if subscription.verifies => None,
        "https" => {
            let name = ServerName::try_from(host).ok()?;
            exchange(CONNECTOR.as_ref()?.connect(name, stream).await.ok()?, &request).await
        }
        _ => None,
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Option<u16> {
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// TLS that believes anybody, as most controllers do.
static CONNECTOR: LazyLock<Option<TlsConnector>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anybody = Arc::new(Anybody(provider.signature_verification_algorithms));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?;
    let config = config.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
});

#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn with(mut document: Value, name: &str, values: &[String]) -> Value {
    if !values.is_empty() {
        document[name] = json!(values);
    }
    document
}

impl Bmc {
    /// A subscription goes; a place that is always there becomes free.
    fn take_away(&self, id: u64) {
        let places = self.profile.events.as_ref().is_some_and(|events| events.places.is_some());
        let mut memory = self.memory();
        match memory.subscriptions.get_mut(&id) {
            Some(place) if places => *place = None,
            _ => drop(memory.subscriptions.remove(&id)),
        }
    }

    fn event_service(&self, events: &Events) -> Value {
        let mut document = json!({
            "@odata.id": format!("{ROOT}/EventService"),
            "@odata.type": "#EventService.v1_7_0.EventService",
            "Id": "EventService",
            "Name": "Event Service",
            "ServiceEnabled": true,
            "DeliveryRetryAttempts": ATTEMPTS,
            "DeliveryRetryIntervalSeconds": AGAIN.as_secs(),
            "Status": {"State": "Enabled", "Health": "OK"},
            "Subscriptions": link("/EventService/Subscriptions"),
        });
        if let Some(stream) = &events.stream {
            document["ServerSentEventUri"] = format!("{ROOT}/{stream}").into();
        }
        document = with(document, "EventTypesForSubscription", &events.types);
        document = with(document, "EventFormatTypes", &events.formats);
        with(document, "RegistryPrefixes", &events.registries)
    }

    fn subscription(&self, events: &Events, id: u64, subscription: Option<&Subscribed>) -> Value {
        let mut document = json!({
            "@odata.id": format!("{ROOT}/EventService/Subscriptions/{id}"),
            "@odata.type": "#EventDestination.v1_9_0.EventDestination",
            "Id": id.to_string(),
            "Name": format!("EventSubscription {id}"),
            "Protocol": "Redfish",
            "HttpHeaders": null,
            "Destination": subscription.map_or("0.0.0.0", |one| &one.destination),
            "Context": subscription.map_or(&Value::Null, |one| &one.context),
            "Status": {"State": if subscription.is_some() { "Enabled" } else { "Disabled" }, "Health": "OK"},
        });
        for name in [
            "EventTypes",
            "EventFormatType",
            "SubscriptionType",
            "DeliveryRetryPolicy",
            "VerifyCertificate",
        ] {
            if let Some(value) = subscription.and_then(|one| one.asked.get(name)) {
                document[name] = value.clone();
            }
        }
        if let Some(vendor) = &events.places {
            document["Oem"][vendor]["EnableSubscription"] = subscription.is_some().into();
        }
        document
    }
}

impl Request<'_> {
    pub(super) fn of_events(&self, method: &str, rest: &[&str]) -> Answer {
        let Some(events) = &self.bmc.profile.events else { return missing() };
        match (method, rest) {
            ("GET", []) => Answer::json(200, self.bmc.event_service(events)),
            ("GET", ["Subscriptions"]) => {
                let ids: Vec<String> = self.bmc.memory().subscriptions.keys().map(u64::to_string).collect();
                Answer::json(200, collection("EventDestination", "/EventService/Subscriptions", ids))
            }
            ("POST", ["Subscriptions"]) if events.places.is_none() => self.subscribe(events),
            ("POST", ["Subscriptions"]) => refusal(405, "OperationNotAllowed", "change one that is there", &[]),
            (method, ["Subscriptions", id]) => {
                let id = id.parse().ok().filter(|id: &u64| self.bmc.memory().subscriptions.contains_key(id));
                let Some(id) = id else { return missing() };
                match (method, &events.places) {
                    ("GET", _) => {
                        let subscription = self.bmc.memory().subscriptions.get(&id).cloned().flatten();
                        Answer::json(200, self.bmc.subscription(events, id, subscription.as_ref()))
                    }
                    ("DELETE", None) => {
                        self.bmc.take_away(id);
                        Answer::empty(204)
                    }
                    ("PATCH", Some(vendor)) => self.change_place(events, vendor, id),
                    _ => refusal(405, "OperationNotAllowed", "this cannot be done with a subscription", &[]),
                }
            }
            _ => missing(),
        }
    }

    /// What a request asks for.
    fn read(&self, events: &Events) -> Result<Subscribed, Answer> {
        let asked = &self.ask.body;
        let Some(members) = asked.as_object() else {
            return Err(refusal(400, "MalformedJSON", "the request has no JSON object in it", &[]));
        };
        if let Some(unknown) = members.keys().find(|name| !events.takes.contains(name)) {
            return Err(refusal(400, "PropertyUnknown", &format!("{unknown} is not known"), &[unknown]));
        }
        if let Some(missing) = events.requires.iter().find(|name| !members.contains_key(*name)) {
            return Err(refusal(400, "PropertyMissing", &format!("{missing} is missing"), &[missing]));
        }
        let destination = asked.get("Destination").and_then(Value::as_str).unwrap_or_default();
        let scheme = destination.split("://").next().unwrap_or_default();
        if !events.schemes.iter().any(|own| own == scheme) {
            // As some do: with the whole value.
            let message = format!("the value '{destination}' of Destination has a format that is not taken");
            return Err(refusal(400, "PropertyValueFormatError", &message, &["Destination"]));
        }
        let kinds = asked.get("EventTypes").and_then(Value::as_array).into_iter().flatten();
        if !events.types.is_empty()
            && kinds
                .filter_map(Value::as_str)
                .any(|kind| !events.types.iter().any(|own| own == kind))
        {
            return Err(refusal(
                400,
                "PropertyValueNotInList",
                "EventTypes has one that is not offered",
                &["EventTypes"],
            ));
        }
        let policy = asked.get("DeliveryRetryPolicy").and_then(Value::as_str);
        Ok(Subscribed {
            destination: destination.to_owned(),
            context: asked.get("Context").cloned().unwrap_or_default(),
            asked: asked.clone(),
            verifies: events.verifies && asked.get("VerifyCertificate") != Some(&Value::Bool(false)),
            stays: !events.gives_up || policy == Some("RetryForever"),
        })
    }

    fn subscribe(&self, events: &Events) -> Answer {
        let subscription = match self.read(events) {
            Ok(subscription) => subscription,
            Err(refused) => return refused,
        };
        let mut memory = self.bmc.memory();
        if memory.subscriptions.len() >= events.most {
            return refusal(
                events.full,
                "EventSubscriptionLimitExceeded",
                "there are as many subscriptions as there can be",
                &[],
            );
        }
        memory.subscribed += 1;
        let id = memory.subscribed;
        memory.subscriptions.insert(id, Some(subscription));
        taken(events.answer).with("location", format!("{ROOT}/EventService/Subscriptions/{id}"))
    }

    fn change_place(&self, events: &Events, vendor: &str, id: u64) -> Answer {
        let switch = self.ask.body.pointer(&format!("/Oem/{vendor}/EnableSubscription"));
        if switch == Some(&Value::Bool(false)) {
            self.bmc.take_away(id);
            return taken(events.answer);
        }
        match self.read(events) {
            Ok(subscription) => {
                // Taken, and nothing is sent as long as it is not switched on.
                let subscription = (switch == Some(&Value::Bool(true))).then_some(subscription);
                self.bmc.memory().subscriptions.insert(id, subscription);
                taken(events.answer)
            }
            Err(refused) => refused,
        }
    }

    pub(super) fn open_stream(&self) -> Answer {
        let most = self.bmc.profile.events.as_ref().map_or(0, |events| events.streams);
        let mut memory = self.bmc.memory();
        memory.streams.retain(|stream| !stream.is_closed());
        if memory.streams.len() >= most {
            return refusal(
                503,
                "EventSubscriptionLimitExceeded",
                "there are as many streams as there can be",
                &[],
            );
        }
        let (sender, events) = mpsc::channel(KEPT);
        memory.streams.push(sender);
        let mut answer = Answer::empty(200).with("content-type", "text/event-stream");
        answer.stream = Some(events);
        answer
    }
}
