//! `make demo`: two machines through their whole life, on real firmware, with everything through the real way in.
//!
//! The server is started as a user would start it (`kube-baremetal up`, another process); what the demo asks for, it asks of the Kubernetes
//! API; what it shows, it saw in a watch. The machines are on a LAN with a house router, where our own DHCP finds them and one of them has Secure Boot on; or, where no such LAN can be made, on
//! QEMU's user networking ([`wire`]). It asserts as it goes: any step that does not happen in its time ends the demo with an error. Whatever it
//! started is stopped, also on Ctrl-C.

mod observe;
mod show;
mod ssh;
mod wire;

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use api::{
    BareMetalAddress, BareMetalDiscovery, BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec, BareMetalHardware, BareMetalImage,
    BareMetalImageSpec, BareMetalInstance, BareMetalInstanceSpec, BareMetalNetwork, BareMetalNetworkSpec, HardwarePhase,
    common::NetworkRef, network::AddressPlan, timeline::BootStepKind,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use sha2::{Digest, Sha256};

use crate::{
    folder, host,
    qemu::{DiskSpec, Firmware, Machine, MachineSpec, Network, accel::Accelerator},
    server,
};
use observe::Observer;
use show::Show;
use wire::Wire;

/// What the demo needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `kube-baremetal` program.
    pub program: PathBuf,
    /// Folder of the boot media.
    pub media: PathBuf,
    /// The Debian image, zstd-compressed raw.
    pub image: PathBuf,
    /// Whether this process's network namespace, which is empty, may become a LAN for the machines; else they are on QEMU's user networking.
    pub lan: bool,
    /// Folders with boot loaders for machines on a LAN, separated by commas.
    pub loaders: String,
    /// Where state goes; it is emptied first.
    pub state: PathBuf,
    /// Neither colours nor cursor movements.
    pub plain: bool,
    /// Keep the state folder at the end (logs, disks).
    pub keep: bool,
}

const NAMESPACE: &str = "default";
const DISK_BYTES: u64 = 3 << 30;

/// Runs the demo.
///
/// # Errors
/// The step that failed, with what was last seen of it and where the logs are.
pub async fn run(options: &Options) -> Result<()> {
    host::check()?;
    for (path, remedy) in [(&options.media, "make bootmedia"), (&options.image, "make image")] {
        ensure!(path.exists(), "{} is missing: run `{remedy}` first", path.display());
    }
    let show = Show::new(options.plain);
    if options.state.exists() {
        // A demo that was killed may have left machines behind.
        folder::Folder::open(&options.state.join("lab"))?.down(false).await?;
        std::fs::remove_dir_all(&options.state).with_context(|| format!("emptying {}", options.state.display()))?;
    }
    std::fs::create_dir_all(&options.state).with_context(|| format!("creating {}", options.state.display()))?;
    let lab = folder::Folder::open(&options.state.join("lab"))?;
    let outcome = tokio::select! {
        outcome = life(options, &lab, &show) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated() => Err(anyhow::anyhow!("terminated")),
    };
    show.finish();
    lab.down(false).await?;
    match outcome {
        Ok(()) if !options.keep => {
            std::fs::remove_dir_all(&options.state).with_context(|| format!("removing {}", options.state.display()))?;
            Ok(())
        }
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("the demo failed; logs are in {}", options.state.display()))),
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn life(options: &Options, lab: &folder::Folder, show: &Show) -> Result<()> {
    let accel = Accelerator::detect().await;
    show.headline(&format!("Starting the server and two machines ({})", accel.argument()));
    let mut wire = Wire::make(options.lan, &options.state).await?;
    show.line(&wire.describe());
    let mut server = server::Server::start(server::Options {
        program: options.program.clone(),
        state: options.state.clone(),
        media: options.media.clone(),
        images: Some(options.image.parent().context("the image has no folder")?.to_owned()),
        lan: wire.listen(),
        arguments: wire.arguments(&options.loaders),
    })
    .await?;
    let client = server.client().await?;
    let mut observer = Observer::start(client.clone(), show.clone()).await?;
    let http = format!("http://{}:{}", server.known_as(), server.http_port);
    prepare(&client, options, wire.plan(), &http).await?;

    let boot_url = format!("{http}/boot/ipxe");
    let uefi = wire.uefi();
    let machines = [
        create_machine(lab, "bios", Firmware::Bios, wire.plug(&boot_url).await?)?,
        create_machine(lab, uefi.name(), uefi, wire.plug(&boot_url).await?)?,
    ];
    old_partition_table(&machines[1].disk_path(0), &options.state).await?;
    for machine in &machines {
        observer.name_machine(machine.spec.mac, &machine.spec.name);
        machine.power_on(accel).await?;
        show.line(&format!(
            "{}: switched on ({}, {} MiB, one disk, no BMC)",
            machine.spec.name, machine.spec.firmware, machine.spec.memory_mib
        ));
    }

    let work = async {
        show.headline("Discovery: the machines boot from the network, register, are accepted by a policy and become Ready");
        observer
            .until("both machines are Ready", 420, |w| w.hardware_in(HardwarePhase::Ready) == 2)
            .await?;
        how_they_came(&client, &observer, &machines, show).await?;

        show.headline("Two instances are created; the scheduler binds them");
        let key = ssh::generate_key(&options.state).await?;
        for name in ["web-1", "web-2"] {
            create_instance(&client, name, &key.public).await?;
        }
        observer
            .until("both instances are Running", 900, |w| w.instances_reported() == 2)
            .await?;

        // Of the two only the machine with UEFI has a BootNext, by which its new system is booted without asking the network.
        let consoles = machines.iter().map(|m| std::fs::read_to_string(m.console_log()));
        let straight: Vec<bool> = consoles
            .map(|c| Ok(c?.contains("kbm: BootNext is Boot")))
            .collect::<std::io::Result<_>>()?;
        ensure!(
            straight == [false, true],
            "the machines that were sent to their disks by BootNext (BIOS, UEFI): {straight:?}"
        );

        show.headline("Logging in over SSH");
        let seen = log_in(&client, &observer, &machines, &wire, &key, show).await?;
        ensure!(
            seen[0].machine_id != seen[1].machine_id,
            "both machines have machine-id {}",
            seen[0].machine_id
        );
        ensure!(
            seen[0].host_key != seen[1].host_key,
            "both machines have host key {}",
            seen[0].host_key
        );

        show.headline("The instances are deleted; the machines come back by themselves and are erased");
        let claims = observer.claims();
        let instances: Api<BareMetalInstance> = Api::namespaced(client.clone(), NAMESPACE);
        for name in ["web-1", "web-2"] {
            instances
                .delete(name, &DeleteParams::default())
                .await
                .with_context(|| format!("deleting instance {name}"))?;
        }
        observer
            .until("both machines are erased and Ready again", 600, |w| {
                w.hardware_in(HardwarePhase::Ready) == 2 && w.instances() == 0 && claims.iter().all(|c| w.erased_for(c))
            })
            .await?;
        let left = Api::<BareMetalAddress>::all(client.clone())
            .list(&Default::default())
            .await?
            .items
            .len();
        ensure!(left == 0, "{left} addresses are still allocated");
        evidence(&client, show).await
    };
    tokio::select! {
        done = work => done?,
        problem = server.watch() => return Err(problem),
    }
    show.table(&observer.times());
    observer.stop();
    server.stop().await
}

fn create_machine(lab: &folder::Folder, name: &str, firmware: Firmware, network: Network) -> Result<Machine> {
    let (mac, uuid) = folder::identity(&format!("demo/{name}"));
    let spec = MachineSpec {
        name: name.to_owned(),
        firmware,
        memory_mib: 512,
        cpus: 1,
        disks: vec![DiskSpec {
            size_bytes: DISK_BYTES,
            serial: format!("DEMO-{}", name.to_uppercase()),
            honest_discard: true,
            nbd: None,
        }],
        mac,
        uuid,
        network,
    };
    Ok(Machine::create(lab.path(), spec)?)
}

/// A disk with a history: a partition table and a file system with something in it.
async fn old_partition_table(disk: &Path, state: &Path) -> Result<()> {
    let keepsake = state.join("keepsake");
    std::fs::create_dir_all(&keepsake)?;
    std::fs::write(keepsake.join("letter.txt"), "an old letter\n")?;
    let fill = |program: &str, args: Vec<String>| {
        let program = program.to_owned();
        async move {
            let path = format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
            let output = tokio::process::Command::new(&program).args(&args).env("PATH", path).output().await;
            let output = output.with_context(|| format!("running {program}"))?;
            ensure!(
                output.status.success(),
                "{program} {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        }
    };
    let disk = disk.display().to_string();
    fill(
        "sgdisk",
        vec!["--new=1:2048:+512M".into(), "--change-name=1:photos".into(), disk.clone()],
    )
    .await?;
    let args = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        "photos",
        "-E",
        "offset=1048576",
        "-d",
        &keepsake.display().to_string(),
        &disk,
        "512M",
    ];
    fill("mke2fs", args.iter().map(|a| (*a).to_owned()).collect()).await
}

/// What an admin writes once: a policy, a network and an image.
async fn prepare(client: &Client, options: &Options, plan: AddressPlan, http: &str) -> Result<()> {
    let named = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    let policy = BareMetalDiscoveryPolicy {
        metadata: named("demo"),
        spec: BareMetalDiscoveryPolicySpec {
            when: "inventory.memory.bytes >= 256 * 1024 * 1024".to_owned(),
            labels: BTreeMap::from([("demo".to_owned(), "true".to_owned())]),
            network_ref: Some(NetworkRef::network("demo")),
            erase_foreign_data: true,
            ..BareMetalDiscoveryPolicySpec::default()
        },
    };
    let network = BareMetalNetwork {
        metadata: named("demo"),
        spec: BareMetalNetworkSpec {
            ipv4: Some(plan),
            ..BareMetalNetworkSpec::default()
        },
        status: None,
    };
    let file = options
        .image
        .file_name()
        .and_then(|n| n.to_str())
        .context("the image's file name is not text")?;
    let path = options.image.clone();
    let digest = tokio::task::spawn_blocking(move || -> Result<String> {
        let (mut hasher, mut file, mut buffer) = (Sha256::new(), std::fs::File::open(&path)?, vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex::encode(hasher.finalize())),
                n => hasher.update(&buffer[..n]),
            }
        }
    })
    .await?
    .context("reading the image")?;
    let image = BareMetalImage {
        metadata: named("debian"),
        spec: BareMetalImageSpec {
            url: format!("{http}/images/{file}"),
            digest: format!("sha256:{digest}"),
            format: agent_protocol::order::ImageFormat::Zstd,
            ..BareMetalImageSpec::default()
        },
        status: None,
    };
    let how = PostParams::default();
    Api::all(client.clone())
        .create(&how, &network)
        .await
        .context("creating the network")?;
    Api::all(client.clone()).create(&how, &image).await.context("creating the image")?;
    Api::all(client.clone())
        .create(&how, &policy)
        .await
        .context("creating the policy")?;
    Ok(())
}

async fn create_instance(client: &Client, name: &str, ssh_key: &str) -> Result<()> {
    let requests = [("cpu", "1"), ("memory", "256Mi"), ("disk", "2Gi")];
    let instance = BareMetalInstance {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: BareMetalInstanceSpec {
            image: "debian".to_owned(),
            requests: requests.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect(),
            ssh_keys: vec![ssh_key.to_owned()],
            running: true,
            guest_helper: true,
            config_drive: true,
            ..BareMetalInstanceSpec::default()
        },
        status: None,
    };
    let api: Api<BareMetalInstance> = Api::namespaced(client.clone(), NAMESPACE);
    api.create(&PostParams::default(), &instance)
        .await
        .with_context(|| format!("creating instance {name}"))?;
    Ok(())
}

async fn log_in(
    client: &Client,
    observer: &Observer,
    machines: &[Machine],
    wire: &Wire,
    key: &ssh::Key,
    show: &Show,
) -> Result<Vec<ssh::Seen>> {
    let instances: Api<BareMetalInstance> = Api::namespaced(client.clone(), NAMESPACE);
    let mut all = Vec::new();
    for name in ["web-1", "web-2"] {
        let instance = instances.get(name).await?;
        let hardware = instance.spec.hardware_name.clone().context("a running instance has no machine")?;
        let machine = observer
            .machine_of(&hardware)
            .and_then(|n| machines.iter().find(|m| m.spec.name == n));
        let machine = machine.with_context(|| format!("{hardware} is none of the demo's machines"))?;
        let status = instance.status.unwrap_or_default();
        let address = status.addresses.first().with_context(|| format!("{name} has no address"))?;
        let address: std::net::Ipv4Addr = address
            .split('/')
            .next()
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("{name}: {address}"))?;
        let server = wire.ssh(machine, address).await?;
        let seen = ssh::look_around(server, key, Duration::from_secs(180))
            .await
            .with_context(|| format!("logging in to {name}"))?;
        show.line(&format!("{name} on {} ({address}), {}:", machine.spec.name, machine.spec.firmware));
        for (what, value) in seen.rows() {
            show.line(&format!("    {what:<22} {value}"));
        }
        ensure!(
            seen.hostname == name,
            "the host name is {}, not {name}: the user data did not arrive",
            seen.hostname
        );
        ensure!(
            seen.addresses.contains(&address.to_string()),
            "{address} is not among the machine's addresses: {}",
            seen.addresses
        );
        let firmware = machine.spec.firmware.to_string();
        ensure!(seen.firmware == firmware, "{name} runs on {firmware}, and found {}", seen.firmware);
        all.push(seen);
    }
    Ok(all)
}

/// By which steps the machines came to the agent, and what it found them to be.
async fn how_they_came(client: &Client, observer: &Observer, machines: &[Machine], show: &Show) -> Result<()> {
    for discovery in Api::<BareMetalDiscovery>::all(client.clone())
        .list(&Default::default())
        .await?
        .items
    {
        let name = discovery.name_any();
        let label = observer.machine_of(&name);
        let machine = label.and_then(|label| machines.iter().find(|m| m.spec.name == label));
        let machine = machine.with_context(|| format!("{name} is none of the demo's machines"))?;
        let (status, is) = (discovery.status.unwrap_or_default(), machine.spec.firmware);
        let found = status.inventory.context("a machine is Ready without an inventory")?.firmware;
        let boot = status.timelines.last().with_context(|| format!("{name} has no boot timeline"))?;
        let steps: Vec<String> = boot.steps.iter().map(|s| format!("{:?}", s.step)).collect();
        let offered = boot.steps.iter().any(|s| s.step == BootStepKind::Offer);
        ensure!(
            is != Firmware::SecureBoot || (offered && found.secure_boot == Some(true)),
            "{} has Secure Boot; an offer of our DHCP: {offered}; what the agent found: {found:?}",
            machine.spec.name
        );
        let took = boot.ended_at().duration_since(boot.started_at.0).as_secs_f64();
        show.line(&format!("{} ({is}): {} in {took:.1} s", machine.spec.name, steps.join(", ")));
    }
    Ok(())
}

async fn evidence(client: &Client, show: &Show) -> Result<()> {
    for hardware in Api::<BareMetalHardware>::all(client.clone()).list(&Default::default()).await?.items {
        let name = hardware.name_any();
        let Some(erase) = hardware.status.and_then(|s| s.last_erase) else {
            bail!("{name} has no erase evidence")
        };
        show.line(&format!(
            "{name}: {:?} by {} in {:.1} s; {} blocks sampled, {} canaries gone (order {}, claim {})",
            erase.strength,
            erase.method,
            erase.duration_ms as f64 / 1000.0,
            erase.sampled_blocks,
            erase.canaries,
            erase.order_id,
            erase.claim_uid
        ));
    }
    Ok(())
}
