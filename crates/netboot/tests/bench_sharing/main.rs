//! Sixteen machines write one image over links of 100 Mbit/s: `make bench-sharing` (root).
//!
//! Every machine is a process in a network namespace of its own, with the agent's session, runner and writer, a regular file for a disk and a link that a
//! token bucket holds to 100 Mbit/s in both directions; so has the server, a replica with its image store. The namespaces hang on a bridge in a namespace of
//! its own, and all of them are removed at the end. `KBM_SHARING_MIB` and `KBM_SHARING_RUNS` choose size and rounds, `KBM_SHARING_UNICAST` adds sixteen
//! that do not share. In each round: one machine alone, sixteen together, sixteen of which one is killed half way, and fifteen
//! beside one that says to have everything and gives wrong bytes. Medians of the rounds are held against the bars of `docs/sharing.md`.

#[path = "../common/mod.rs"]
mod common;
mod evil;
mod network;
#[path = "../sharing/room.rs"]
mod room;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use agent::share::Place;
use agent_protocol::{
    identity::MacAddress,
    order::{Outcome, ProgressSource},
};
use room::{Receiver, Room, mac, noise};
use serde::{Deserialize, Serialize};

use network::{Network, PREFIX, address, namespace};

const MIB: usize = 1 << 20;
/// Stored size of the image: about that of a Debian image of 4 GiB, the one of the simulations.
const STORED_MIB: usize = 350;
/// Machines of a round.
const MACHINES: u8 = 16;
/// How long one order may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Together they may take so many times as long as one alone.
const MOST_TIMES: f64 = 1.3;
/// One that leaves or is evil may cost the others this part of their time.
const MOST_CHANGE: f64 = 0.1;

/// What the program is told to be.
#[derive(Serialize, Deserialize)]
enum Role {
    /// All rounds, from the server's namespace.
    Server {
        folder: PathBuf,
        mib: usize,
        runs: u8,
        unicast: bool,
    },
    /// An honest machine.
    Receiver {
        boot: String,
        mac: MacAddress,
        number: u8,
        folder: PathBuf,
        image_bytes: u64,
        shares: bool,
    },
    /// One that is not.
    Evil { boot: String, mac: MacAddress, number: u8 },
}

fn number_of(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn main() -> ExitCode {
    let role = std::env::args().nth(1).filter(|argument| argument.starts_with('{'));
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    match role.map(|text| serde_json::from_str(&text).expect("a role")) {
        None => parent(),
        Some(Role::Server {
            folder,
            mib,
            runs,
            unicast,
        }) => runtime().block_on(serve(&folder, mib, runs, unicast)),
        Some(Role::Receiver {
            boot,
            mac,
            number,
            folder,
            image_bytes,
            shares,
        }) => {
            let receiver = Receiver {
                boot,
                mac,
                folder: &folder,
                image_bytes,
                place: shares.then(|| Place {
                    address: address(number).into(),
                    prefix: PREFIX,
                }),
            };
            // As in the agent: one thread for all that waits.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(receiver.live());
            ExitCode::SUCCESS
        }
        Some(Role::Evil { boot, mac, number }) => {
            runtime().block_on(evil::live(&boot, mac, address(number)));
            ExitCode::SUCCESS
        }
    }
}

/// Makes the network, lets the server's process do the rounds, removes the network.
fn parent() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("bench_sharing: network namespaces need root; run it as root: sudo make bench-sharing");
        return ExitCode::FAILURE;
    }
    let home = std::env::var_os("KBM_SHARING_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(home).expect("a folder for the disks");
    let network = Network::make(MACHINES).expect("namespaces, a bridge and token buckets");
    let role = Role::Server {
        folder: folder.path().to_owned(),
        mib: number_of("KBM_SHARING_MIB", STORED_MIB),
        runs: u8::try_from(number_of("KBM_SHARING_RUNS", 3)).expect("few runs"),
        unicast: std::env::var_os("KBM_SHARING_UNICAST").is_some(),
    };
    let ended = start(0, &role).wait().expect("the server's process");
    drop(network);
    if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(number: u8, role: &Role) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new("ip")
        .args(["netns", "exec", &namespace(number)])
        .arg(program)
        .arg(serde_json::to_string(role).expect("text"))
        .stdin(Stdio::null())
        .spawn()
        .expect("ip of iproute2")
}

/// What becomes of one of the machines.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Stays,
    /// It is killed after this time.
    Leaves(Duration),
    /// It is evil from the beginning.
    Evil,
}

/// One order of several machines at once.
struct Run {
    /// Seconds of each honest machine that stayed, ascending.
    seconds: Vec<f64>,
    /// How many times the image passed the server's link.
    served: f64,
    /// Machines that had most of the image from others.
    from_peers: usize,
}

impl Run {
    fn last(&self) -> f64 {
        self.seconds.last().copied().unwrap_or_default()
    }
}

struct Machines(Vec<Child>);

impl Drop for Machines {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended by itself cannot be killed, and that is well.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

async fn run(room: &Room, folder: &Path, round: u8, machines: u8, shares: bool, last: Last) -> Run {
    let before = room.rig.netboot.metrics().image_bytes_served.get();
    let mut children = Machines(Vec::new());
    let mut macs = Vec::new();
    for number in 1..=machines {
        let mac = mac(round, number);
        let home = folder.join(format!("disk-{number}"));
        fs::create_dir_all(&home).unwrap();
        let boot = room.boot();
        let role = if last == Last::Evil && number == machines {
            Role::Evil { boot, mac, number }
        } else {
            Role::Receiver {
                boot,
                mac,
                number,
                folder: home,
                image_bytes: room.plain.len() as u64,
                shares,
            }
        };
        children.0.push(start(number, &role));
        macs.push(mac);
    }
    let (begun, mut names) = room.begin(&macs).await;
    if last != Last::Stays {
        names.pop();
    }
    if let Last::Leaves(after) = last {
        tokio::time::sleep_until((begun + after).into()).await;
        children.0.last_mut().expect("a machine").kill().expect("it was running");
    }
    let ended = room.ended(begun, &names, LIMIT).await;
    let mut seconds = Vec::new();
    for (name, ended) in &ended {
        assert_eq!(ended.result.outcome, Outcome::Succeeded, "{name}: {:?}", ended.result.fault);
        seconds.push(ended.after.as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    drop(children);
    for number in 1..=u8::try_from(names.len()).expect("few machines") {
        let home = folder.join(format!("disk-{number}"));
        assert!(room.is_on(&home), "the image is on the disk of machine {number}");
        fs::remove_dir_all(home).unwrap();
    }
    let served = room.rig.netboot.metrics().image_bytes_served.get() - before;
    Run {
        seconds,
        served: served as f64 / room.stored_bytes as f64,
        from_peers: ended.values().filter(|ended| ended.source == Some(ProgressSource::Peers)).count(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

async fn serve(folder: &Path, mib: usize, runs: u8, unicast: bool) -> ExitCode {
    let room = Room::open(folder, noise(mib * MIB), Ipv4Addr::from(address(0)).into(), |_| {}).await;
    println!("{} MiB stored, {MACHINES} machines, 100 Mbit/s each way", room.stored_bytes >> 20);
    println!("| run | first done s | last done s | image through the server's link, times | machines fed mostly by others |");
    println!("|---|---|---|---|---|");
    let mut round = 0;
    let mut measure = async |what: &str, machines: u8, shares: bool, last: Last| {
        round += 1;
        let run = run(&room, folder, round, machines, shares, last).await;
        let first = run.seconds.first().copied().unwrap_or_default();
        println!(
            "| {what} | {first:.2} | {:.2} | {:.2} | {} |",
            run.last(),
            run.served,
            run.from_peers
        );
        run
    };
    let (mut times, mut leaving, mut evil) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let alone = measure("one alone", 1, true, Last::Stays).await.last();
        let together = measure("sixteen", MACHINES, true, Last::Stays).await.last();
        let half = Duration::from_secs_f64(together / 2.0);
        let left = measure("one killed half way", MACHINES, true, Last::Leaves(half)).await.last();
        let wrong = room.rig.netboot.metrics().sharing_wrong_bytes.get();
        let expelled = room.rig.netboot.metrics().sharing_expelled.get();
        let beside_evil = measure("one evil", MACHINES, true, Last::Evil).await.last();
        assert!(
            room.rig.netboot.metrics().sharing_wrong_bytes.get() > wrong,
            "nobody told of the wrong bytes"
        );
        assert_eq!(
            room.rig.netboot.metrics().sharing_expelled.get(),
            expelled + 1,
            "it is taken out of sharing"
        );
        times.push(together / alone);
        leaving.push(left / together);
        evil.push(beside_evil / together);
    }
    if unicast {
        measure("sixteen, not sharing", MACHINES, false, Last::Stays).await;
    }
    let (times, leaving, evil) = (median(times), median(leaving), median(evil));
    println!("sixteen take {times:.3} times as long as one alone (at most {MOST_TIMES})");
    println!(
        "the others take {leaving:.3} times as long where one is killed, {evil:.3} times where one is evil (at most {})",
        1.0 + MOST_CHANGE
    );
    if times <= MOST_TIMES && leaving <= 1.0 + MOST_CHANGE && evil <= 1.0 + MOST_CHANGE {
        ExitCode::SUCCESS
    } else {
        eprintln!("bench_sharing: a bar is not met");
        ExitCode::FAILURE
    }
}
