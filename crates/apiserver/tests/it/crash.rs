//! kill -9 of a process that writes: what it was told is stored is there after a restart.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::*;

const DIRECTORY: &str = "APISERVER_CRASH_TEST_DIRECTORY";

/// Not a test by itself: the process that is killed. It says `name value revision` of each write after its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let api = apiserver::ApiServer::open(apiserver::Config::new(&directory)).await.expect("opens");
    let server = std::sync::Arc::new(Server {
        api,
        directory: tempfile::tempdir().expect("a directory"),
    });
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8u64 {
        let server = server.clone();
        writers.spawn(async move {
            let path = format!("{CONFIG_MAPS}/w{writer}");
            let start = server.get(&path).await.body["data"]["n"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0u64);
            for n in start + 1.. {
                let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("w{writer}") }, "data": { "n": n.to_string() } });
                let answer = if n == 1 { server.post(CONFIG_MAPS, &object).await } else { server.put(&path, &object).await };
                assert!(answer.code < 300, "{}", answer.text);
                let revision = answer.body["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
                let mut out = std::io::stdout().lock();
                writeln!(out, "WROTE w{writer} {n} {revision}").expect("the parent reads");
                out.flush().expect("the parent reads");
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

#[tokio::test]
async fn acknowledged_writes_survive_kill_9() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut acknowledged: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut newest = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "crash::child_that_writes_until_it_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIRECTORY, &data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut said = 0;
        let mut note = |line: &str| -> bool {
            // The test harness may put its own words before ours on a line.
            let Some(at) = line.find("WROTE ") else { return false };
            let words: Vec<&str> = line[at..].split(' ').collect();
            let [_, name, value, revision] = words[..] else { return false };
            let (Ok(value), Ok(revision)) = (value.parse::<u64>(), revision.parse::<u64>()) else {
                return false;
            };
            let entry = acknowledged.entry(name.to_owned()).or_default();
            if value > entry.0 {
                *entry = (value, revision);
            }
            assert!(round == 0 || revision > newest || value > 0, "revisions go on");
            newest = newest.max(revision);
            true
        };
        // Killed after another number of writes each time, at no particular point of the next ones.
        while said < 30 + round * 37 {
            let line = lines.next().expect("the child goes on").expect("a line");
            said += u64::from(note(&line));
        }
        std::thread::sleep(Duration::from_micros(round * 700));
        child.kill().expect("killed");
        child.wait().expect("ended");
        // What it said before it was killed still waits in the pipe; the last line may be torn.
        for line in lines.map_while(Result::ok) {
            note(&line);
        }
        let api = apiserver::ApiServer::open(apiserver::Config::new(&data))
            .await
            .expect("opens after kill -9");
        assert!(
            api.store().revision() >= newest,
            "revision {} would be given again",
            api.store().revision()
        );
        let server = Server {
            api,
            directory: tempfile::tempdir().expect("a directory"),
        };
        for (name, (value, revision)) in &acknowledged {
            let found = server.get(&format!("{CONFIG_MAPS}/{name}")).await.expect(200);
            let stored: u64 = found["data"]["n"].as_str().and_then(|text| text.parse().ok()).expect("a number");
            let at: u64 = found["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("a number");
            assert!(
                stored >= *value && at >= *revision,
                "{name}: acknowledged {value} at {revision}, stored {stored} at {at}"
            );
            assert!(stored <= value + 1, "{name}: one write at most was under way");
        }
        server.api.shutdown().await;
    }
}
