//! Smart plugs, by the makers' published documents: Shelly's RPC of the second generation (`/rpc`, digest), Tasmota's commands (`/cm`), Home Assistant's REST API (`/api`).
//!
//! A plug switches the mains of a controller's first machine: what comes back to power boots, as firmware that is set so does. The plug knows its relay, and what is
//! drawn; a machine that shut itself down draws little with the relay on.

use serde_json::{Value, json};

use crate::{
    bmc::Bmc,
    digest::{Algorithm, Door},
    faults::{Claim, Mishap, Operation, Protocol, What},
    host::Command,
    http::{Answer, Ask, Fate},
    redfish::forms,
};

/// What a machine draws that runs, in watts.
const RUNS: f64 = 120.5;
/// What it draws with mains, and off.
const STANDS_BY: f64 = 2.5;

/// What is wanted of a plug.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    Set(bool),
    Toggle,
    Look,
}

impl Wanted {
    const fn operation(self) -> Operation {
        match self {
            Self::Set(_) | Self::Toggle => Operation::Reset,
            Self::Look => Operation::State,
        }
    }
}

/// A plug, as it is.
#[derive(Debug, Clone, Copy)]
struct Relay {
    on: bool,
    was: bool,
    watts: f64,
}

/// Answers a request.
pub(crate) async fn answer(bmc: &Bmc, ask: &Ask) -> Fate {
    match ask.path.split('/').nth(1).unwrap_or_default() {
        "rpc" => shelly(bmc, ask).await,
        "cm" => tasmota(bmc, ask).await,
        _ => home_assistant(bmc, ask).await,
    }
}

/// Does what is wanted and says how, unless a fault wants otherwise.
async fn done(bmc: &Bmc, wanted: Wanted, say: impl FnOnce(Relay) -> Value) -> Fate {
    let mishap = bmc.asked(Protocol::Plug, wanted.operation(), wanted == Wanted::Look);
    if !mishap.delay.is_zero() {
        tokio::time::sleep(mishap.delay).await;
    }
    match mishap.what {
        Some(What::Silent) => Fate::Silent,
        Some(What::Closed) => Fate::Closed,
        Some(What::Hidden) => Fate::Answer(Answer::json(404, json!({"message": "not found"}))),
        Some(What::Status { code, .. }) => Fate::Answer(Answer::json(code, json!({"code": -114, "message": "a fault that was set"}))),
        what => forms::spoil(Answer::json(200, say(relay(bmc, wanted, mishap))), what),
    }
}

fn relay(bmc: &Bmc, wanted: Wanted, mishap: Mishap) -> Relay {
    let was = bmc.relay();
    let on = match wanted {
        Wanted::Set(on) => on,
        Wanted::Toggle => !was,
        Wanted::Look => was,
    };
    if let Some(host) = bmc.hosts.first() {
        if on != was {
            bmc.set_relay(on);
            host.tell(if on { Command::On } else { Command::Unplug }, bmc.conduct(Protocol::Plug));
        }
        let runs = match mishap.claim {
            Some(claim) => claim == Claim::On,
            None => host.power().is_on(),
        };
        let on = mishap.claim.map_or(on, |claim| claim == Claim::On);
        let watts = match (on, runs) {
            (false, _) => 0.0,
            (true, false) => STANDS_BY,
            (true, true) => RUNS,
        };
        return Relay { on, was, watts };
    }
    Relay { on, was, watts: 0.0 }
}

/// Gen2+ Device API: RPC over HTTP, authentication, Switch.
async fn shelly(bmc: &Bmc, ask: &Ask) -> Fate {
    let realm = format!("shellyplugsg3-{:012x}", bmc.index);
    let door = Door {
        algorithm: Algorithm::Sha256,
        realm: &realm,
        // There is no other user.
        user: "admin",
        password: &bmc.access.password,
    };
    if !ask
        .authorization
        .as_deref()
        .is_some_and(|said| bmc.nonces.lets_in(door, &ask.method, said))
    {
        return Fate::Answer(Answer::empty(401).with("www-authenticate", bmc.nonces.challenge(door)));
    }
    let id = ask.body.get("id").cloned().unwrap_or(json!(0));
    let framed = |result: Value| json!({"id": id, "src": realm, "dst": ask.body.get("src"), "result": result});
    let on = ask.body.pointer("/params/on").and_then(Value::as_bool);
    if ask.body.pointer("/params/id").is_some_and(|switch| *switch != json!(0)) {
        return Fate::Answer(Answer::json(
            500,
            json!({"id": id, "error": {"code": -105, "message": "Argument 'id', value not found!"}}),
        ));
    }
    match (ask.body.get("method").and_then(Value::as_str), on) {
        (Some("Switch.Set"), Some(on)) => done(bmc, Wanted::Set(on), |relay| framed(json!({"was_on": relay.was}))).await,
        (Some("Switch.Toggle"), _) => done(bmc, Wanted::Toggle, |relay| framed(json!({"was_on": relay.was}))).await,
        (Some("Switch.GetStatus"), _) => {
            done(bmc, Wanted::Look, |relay| {
                framed(json!({"id": 0, "source": "HTTP_in", "output": relay.on, "apower": relay.watts, "voltage": 230.1}))
            })
            .await
        }
        (Some(method), _) => Fate::Answer(Answer::json(
            404,
            json!({"id": id, "error": {"code": 404, "message": format!("No handler for {method}")}}),
        )),
        (None, _) => Fate::Answer(Answer::json(500, json!({"code": -103, "message": "Invalid argument"}))),
    }
}

/// The query's members, decoded.
fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Commands with web requests: `Power`, `Status 8`.
async fn tasmota(bmc: &Bmc, ask: &Ask) -> Fate {
    let members = query(&ask.query);
    let get = |name: &str| members.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    if get("user") != Some("admin") || get("password") != Some(&bmc.access.password) {
        return Fate::Answer(Answer::json(401, json!({"WARNING": "Need user=<username>&password=<password>"})));
    }
    let command = get("cmnd").unwrap_or_default().trim().to_ascii_lowercase();
    let (name, argument) = command.split_once(' ').unwrap_or((&command, ""));
    let power = |relay: Relay| json!({"POWER": if relay.on { "ON" } else { "OFF" }});
    match (name, argument.trim()) {
        ("power" | "power1", "") => done(bmc, Wanted::Look, power).await,
        ("power" | "power1", "on" | "1" | "true") => done(bmc, Wanted::Set(true), power).await,
        ("power" | "power1", "off" | "0" | "false") => done(bmc, Wanted::Set(false), power).await,
        ("power" | "power1", "toggle" | "2") => done(bmc, Wanted::Toggle, power).await,
        ("status", "8" | "10") => done(
            bmc,
            Wanted::Look,
            |relay| json!({"StatusSNS": {"Time": "2026-01-01T00:00:00", "ENERGY": {"Total": 1.5, "Power": relay.watts, "Voltage": 230}}}),
        )
        .await,
        ("status", "0" | "11") => done(
            bmc,
            Wanted::Look,
            |relay| json!({"StatusSTS": {"POWER": if relay.on { "ON" } else { "OFF" }}, "StatusSNS": {"ENERGY": {"Power": relay.watts}}}),
        )
        .await,
        _ => Fate::Answer(Answer::json(200, json!({"Command": "Unknown"}))),
    }
}

/// REST API: services and states, with a long-lived access token.
async fn home_assistant(bmc: &Bmc, ask: &Ask) -> Fate {
    if ask.authorization.as_deref() != Some(&format!("Bearer {}", bmc.access.password)) {
        return Fate::Answer(Answer::json(401, json!({"message": "401: Unauthorized"})));
    }
    let state = |entity: &str, state: String| json!({"entity_id": entity, "state": state, "attributes": {"friendly_name": "simulated"}});
    let word = |on: bool| if on { "on" } else { "off" }.to_owned();
    let entity = ask.body.get("entity_id").and_then(Value::as_str).unwrap_or_default();
    match (ask.method.as_str(), ask.path.as_str()) {
        ("POST", "/api/services/switch/turn_on" | "/api/services/switch/turn_off") if entity.starts_with("switch.") => {
            let on = ask.path.ends_with("turn_on");
            done(bmc, Wanted::Set(on), |relay| json!([state(entity, word(relay.on))])).await
        }
        ("GET", path) => match path.strip_prefix("/api/states/") {
            Some(entity) if entity.starts_with("switch.") => done(bmc, Wanted::Look, |relay| state(entity, word(relay.on))).await,
            Some(entity) if entity.starts_with("sensor.") => done(bmc, Wanted::Look, |relay| state(entity, relay.watts.to_string())).await,
            _ => Fate::Answer(Answer::json(404, json!({"message": "Entity not found."}))),
        },
        _ => Fate::Answer(Answer::json(400, json!({"message": "400: Bad Request"}))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        assert_eq!(
            query("cmnd=Power%20On&password=a%2Bb+c%"),
            [
                ("cmnd".to_owned(), "Power On".to_owned()),
                ("password".to_owned(), "a+b c%".to_owned())
            ]
        );
    }
}
