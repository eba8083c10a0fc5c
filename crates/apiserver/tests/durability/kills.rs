//! kill -9 of a server process under load, over TLS, again and again on the same folder.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apiserver::store::{Limits, Store};
use apiserver::{ApiServer, Config};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::ledger::{Kind, Ledger};
use super::load::{self, End, PATIENCE, Shared, lock};
use super::observer::Observer;

const DIRECTORY: &str = "KBM_DURABILITY_DIRECTORY";
const FORGETFUL: &str = "KBM_DURABILITY_FORGETFUL";

/// Not a test by itself: the process that is killed. It serves a folder, and says where. It ends with its standard input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_serves_until_it_is_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    std::thread::spawn(|| {
        // Whatever ends the input: whoever started this process is gone.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(0);
    });
    let config = Config::new(&directory);
    let api = if std::env::var_os(FORGETFUL).is_some() {
        // The planted fault: everything is acknowledged, and nothing leaves the process.
        let store = Store::open_on(redb::backends::InMemoryBackend::new(), Limits::default()).expect("opens");
        ApiServer::open_on(store, config).await
    } else {
        ApiServer::open(config).await
    };
    let api = api.expect("opens after kill -9");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    api.write_kubeconfig(&Path::new(&directory).join("kubeconfig"), &url)
        .expect("written");
    println!("\nREADY");
    api.serve_tls(listener, CancellationToken::new()).await.expect("serves");
}

/// A server process; killed when dropped.
struct Process(Child);

impl Process {
    fn start(directory: &Path, forgetful: bool) -> Process {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args([
                "--exact",
                "kills::child_that_serves_until_it_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if forgetful {
            command.env(FORGETFUL, "1");
        }
        Process(command.spawn().expect("the server process starts"))
    }

    /// Waits until it serves.
    async fn ready(&mut self) -> Result<(), String> {
        let out = self.0.stdout.take().ok_or("its output was taken already")?;
        let read = tokio::task::spawn_blocking(move || BufReader::new(out).lines().map_while(Result::ok).any(|line| line == "READY"));
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(true)) => Ok(()),
            Ok(_) => Err("the server process ended before it served".to_owned()),
            Err(_) => Err(format!("the server process did not serve within {PATIENCE:?}")),
        }
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only a failed test leaves one alive.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The clients of one folder's servers, and what they know.
struct Clients {
    chance: StdRng,
    ledger: Shared,
    observers: Vec<Observer>,
}

impl Clients {
    fn new(seed: u64) -> Clients {
        Clients {
            chance: StdRng::seed_from_u64(seed),
            ledger: Arc::new(Mutex::new(Ledger::default())),
            observers: vec![Observer::new(Kind::Map), Observer::new(Kind::Record), Observer::new(Kind::Map)],
        }
    }

    /// Starts a server, judges what it holds, loads it and kills it.
    async fn kill(&mut self, directory: &Path, late: bool, forgetful: bool) -> Result<(), String> {
        let mut process = Process::start(directory, forgetful);
        if !late && self.chance.random_range(0..8) == 0 {
            // While it starts.
            tokio::time::sleep(Duration::from_micros(self.chance.random_range(0..60_000))).await;
            process.kill();
            return Ok(());
        }
        process.ready().await?;
        match self.load(directory, &mut process).await {
            Ok(()) => Ok(()),
            Err(End::Wrong(why)) => Err(why),
            Err(End::Gone(why)) => Err(format!("the server failed by itself: {why}")),
        }
    }

    async fn load(&mut self, directory: &Path, process: &mut Process) -> Result<(), End> {
        let client = rig::client(&directory.join("kubeconfig"))
            .await
            .map_err(|error| End::Wrong(error.to_string()))?;
        let found = load::list_all(&client).await?;
        lock(&self.ledger).judge(&found)?;
        load::prepare(&client).await?;
        let mut followers = tokio::task::JoinSet::new();
        let mut open = Vec::new();
        for observer in &mut self.observers {
            open.push(observer.resume(&client, &self.ledger, &found).await?);
        }
        for (observer, lines) in std::mem::take(&mut self.observers).into_iter().zip(open) {
            followers.spawn(observer.follow(client.clone(), self.ledger.clone(), lines));
        }
        let before = lock(&self.ledger).count;
        let wanted = before + self.chance.random_range(1..150);
        let enough = CancellationToken::new();
        let writers = load::start(&client, &self.ledger, self.chance.random(), &enough);
        let deadline = Instant::now() + PATIENCE;
        while lock(&self.ledger).count < wanted {
            if Instant::now() > deadline {
                return Err(End::Wrong(format!("fewer than {wanted} writes in {PATIENCE:?}")));
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        if self.chance.random_range(0..4) == 0 {
            // In silence, after a write that the observers of one kind have seen: they can go on where they stood.
            enough.cancel();
            load::finish(writers).await?;
            let kind = [Kind::Map, Kind::Record][self.chance.random_range(0..2)];
            load::put(&client, &self.ledger, &(kind, "last".to_owned())).await?;
            tokio::time::sleep(Duration::from_millis(30)).await;
            process.kill();
        } else {
            tokio::time::sleep(Duration::from_micros(self.chance.random_range(0..3_000))).await;
            process.kill();
            load::finish(writers).await?;
        }
        while let Some(observer) = followers.join_next().await {
            let observer = observer.map_err(|error| End::Wrong(error.to_string()))??;
            observer.complete(&self.ledger)?;
            self.observers.push(observer);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9() {
    let count = super::how_many(40);
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let started = Instant::now();
    let mut clients = Clients::new(7);
    // The last kill is judged by one more start.
    for kill in 0..=count {
        clients
            .kill(&data, kill == 0 || kill == count, false)
            .await
            .unwrap_or_else(|why| panic!("after kill {kill}: {why}"));
    }
    let (resumed, expired) = clients.observers.iter().fold((0, 0), |(resumed, expired), observer| {
        (resumed + observer.resumed, expired + observer.expired)
    });
    let acknowledged = lock(&clients.ledger).count;
    println!(
        "{count} kills, {acknowledged} acknowledged writes, watchers resumed {resumed} times and were told 410 {expired} times, in {:.1?}",
        started.elapsed()
    );
    assert!(
        acknowledged > count * 10,
        "the load wrote too little to prove anything: {acknowledged}"
    );
    assert!(
        resumed > 0 && expired > 0,
        "watchers must have gone on ({resumed}) and been refused ({expired})"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_its_file_in_memory_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("made");
    let mut clients = Clients::new(7);
    let mut lost = Ok(());
    for _ in 0..10 {
        lost = clients.kill(&data, true, true).await;
        if lost.is_err() {
            break;
        }
    }
    assert!(lost.is_err(), "a kill lost nothing, so the test above proves nothing");
}
