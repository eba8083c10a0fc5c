//! The table of profiles in the documentation is the data's. `KBM_UPDATE=1` writes it. And the control listener does what the documentation says.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use bmc_simulator::{Options, Simulator, host::Timing, profile, table};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const BEGIN: &str = "<!-- profiles: begin -->\n";
const END: &str = "<!-- profiles: end -->";

#[test]
fn the_documentation_shows_the_profiles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/bmc-simulator.md");
    let text = fs::read_to_string(&path).expect("the document");
    let from = text.find(BEGIN).expect("the first mark") + BEGIN.len();
    let to = text.find(END).expect("the second mark");
    let wanted = table::profiles();
    if std::env::var_os("KBM_UPDATE").is_some() {
        fs::write(&path, format!("{}{wanted}{}", &text[..from], &text[to..])).expect("written");
        return;
    }
    assert!(
        text[from..to] == wanted,
        "{} is not what the profiles say: run `KBM_UPDATE=1 cargo test --workspace --test reference`",
        path.display()
    );
}

/// Status and content of an answer of the control listener.
async fn ask(simulator: &Simulator, method: &str, path: &str, body: &Value) -> (u16, Value) {
    ask_at(simulator.control().expect("it has one"), method, path, body).await
}

async fn ask_at(address: SocketAddr, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, content) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    (status, serde_json::from_str(content).unwrap_or(Value::Null))
}

#[tokio::test]
async fn faults_are_set_listed_and_removed_and_machines_are_looked_at() {
    let options = Options {
        controllers: 3,
        control: Some(([127, 0, 0, 1], 0).into()),
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.expect("it starts");
    let none = Value::Null;
    let dead = json!({"name": "dead", "machines": {"share": 0.5, "seed": 7}, "what": "silent"});
    assert_eq!(ask(&simulator, "POST", "/faults", &dead).await.0, 201);
    let (status, refused) = ask(
        &simulator,
        "POST",
        "/faults",
        &json!({"name": "x", "machines": {"share": 2}, "what": "silent"}),
    )
    .await;
    assert_eq!((status, &refused["error"]["field"]), (422, &json!("machines.share")));
    let (_, listed) = ask(&simulator, "GET", "/faults", &none).await;
    assert_eq!((listed[0]["name"].as_str(), listed[0]["struck"].as_u64()), (Some("dead"), Some(0)));
    assert_eq!(ask(&simulator, "DELETE", "/faults/dead", &none).await.0, 204);
    assert_eq!(ask(&simulator, "DELETE", "/faults/dead", &none).await.0, 404);
    let (_, counters) = ask(&simulator, "GET", "/counters", &none).await;
    assert_eq!((counters["open"].as_u64(), counters["mostOpen"].as_u64()), (Some(0), Some(0)));
    let (_, machines) = ask(&simulator, "GET", "/machines?from=1&count=1", &none).await;
    assert_eq!(
        (machines["count"].as_u64(), &machines["machines"][0]["name"]),
        (Some(3), &json!("bmc-1"))
    );
    let (status, machine) = ask(&simulator, "GET", "/machines/bmc-2", &none).await;
    assert_eq!((status, &machine["address"]), (200, &json!("127.64.0.3")));
    assert_eq!(ask(&simulator, "GET", "/machines/bmc-3", &none).await.0, 404);
    let (_, profiles) = ask(&simulator, "GET", "/profiles", &none).await;
    assert_eq!(profiles.as_array().map(Vec::len), Some(profile::ALL.len()));
    assert_eq!(ask(&simulator, "GET", "/nothing", &none).await.0, 404);
}

#[tokio::test]
async fn what_cannot_be_simulated_is_refused_with_the_option() {
    let start = async |options: Options| Simulator::start(options).await.expect_err("it cannot be").to_string();
    let none = Options {
        controllers: 0,
        ..Options::default()
    };
    assert!(start(none).await.starts_with("controllers: "));
    let outside = Options {
        first: [192, 0, 2, 1].into(),
        ..Options::default()
    };
    assert!(start(outside).await.starts_with("first: "));
    let taken = Simulator::start(Options::default()).await.expect("it starts");
    let again = Options {
        port: taken.port(),
        ..Options::default()
    };
    assert!(start(again).await.contains("name another port"));
}

#[tokio::test]
async fn tasmota_is_asked_by_its_commands() {
    let options = Options {
        controllers: 2,
        timing: Timing::short(),
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.expect("it starts");
    let address = SocketAddr::from((simulator.bmc(1).address, simulator.port()));
    let say = async |command: &str, password: &str| {
        let path = format!("/cm?user=admin&password={password}&cmnd={command}");
        ask_at(address, "GET", &path, &Value::Null).await
    };
    let good = "simulated-Pass-1";
    assert_eq!(say("Power", "wrong").await.0, 401);
    assert_eq!(say("Power", good).await, (200, json!({"POWER": "OFF"})));
    assert_eq!(say("Power1%20ON", good).await, (200, json!({"POWER": "ON"})));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(simulator.bmc(1).hosts[0].boots().len(), 1);
    let (_, measured) = say("Status%208", good).await;
    assert!(
        measured["StatusSNS"]["ENERGY"]["Power"].as_f64().is_some_and(|watts| watts > 100.0),
        "{measured}"
    );
    assert_eq!(say("power%20toggle", good).await, (200, json!({"POWER": "OFF"})));
    assert_eq!(say("Restart%201", good).await, (200, json!({"Command": "Unknown"})));
    // The other controller is not meant.
    assert!(simulator.bmc(0).hosts[0].boots().is_empty() && simulator.bmc(0).requests() == 0);
}
