//! `kube-baremetal bmc discover`: which BMCs with Redfish are in the network, and a BareMetalHardware for each.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use api::{
    BareMetalHardware, BareMetalHardwareSpec,
    common::LocalSecretName,
    power::{PowerSpec, RedfishPower},
};
use doctor::probe::link;
use kube::ResourceExt;
use power::ssdp::{self, Discovered, Found};
use serde_json::{Value, json};

/// The most characters of a name that says what a service is; its UUID follows it in the object's name, which has 63 at most.
const WORD: usize = 26;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Ask the networks of this host for Redfish services, by SSDP, and list who answers. No credentials are sent, and nothing is changed. Whoever is in a network may answer: compare
    /// fingerprints with what BMCs show on their own pages.
    Discover(Arguments),
}

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// A BareMetalHardware for each, for `kubectl apply` once the credentials are filled in.
    Yaml,
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Ask on this interface; can be repeated. Default: on each that is up, but for the loopback.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Ask from this address of this host; can be repeated.
    #[arg(long)]
    address: Vec<Ipv4Addr>,
    /// Seconds for which answers are waited for.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60), value_name = "SECONDS")]
    wait: u64,
    /// In YAML: the Secret in the operator's namespace with `username` and `password`.
    #[arg(long, default_value = "fill-in", value_name = "SECRET")]
    credentials: String,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// From which addresses is asked.
fn sources(arguments: &Arguments) -> Result<Vec<Ipv4Addr>> {
    let mut sources = arguments.address.clone();
    for name in &arguments.interface {
        let found = link::read(name).with_context(|| format!("--interface {name}"))?;
        ensure!(
            !found.addresses.is_empty(),
            "--interface {name}: it has no IPv4 address to ask from; give it one"
        );
        sources.extend(found.addresses.iter().map(|own| own.address));
    }
    if arguments.address.is_empty() && arguments.interface.is_empty() {
        sources = link::addresses_among_others().context("reading this host's addresses")?;
        ensure!(
            !sources.is_empty(),
            "no interface is up that has an IPv4 address, but for the loopback; name one with --interface or --address"
        );
    }
    sources.sort_unstable();
    sources.dedup();
    Ok(sources)
}

/// Runs it.
pub async fn run(command: Command) -> Result<()> {
    let Command::Discover(arguments) = command;
    let from = sources(&arguments)?;
    let asked = from.len();
    let options = ssdp::Options {
        from,
        to: ssdp::GROUP,
        wait: Duration::from_secs(arguments.wait),
    };
    let discovered = ssdp::discover(&options).await;
    for (from, error) in &discovered.unasked {
        eprintln!("could not ask from {from}: {error}");
    }
    ensure!(
        discovered.unasked.len() < asked,
        "nothing could be asked; name an interface or address of this host with --interface or --address"
    );
    match arguments.output {
        Output::Text => print!("{}", text(&discovered)),
        Output::Json => println!("{:#}", for_programs(&discovered)),
        Output::Yaml => {
            let (yaml, notes) = objects(&discovered, &arguments.credentials)?;
            print!("{yaml}");
            eprint!("{notes}");
        }
    }
    Ok(())
}

/// What a service says that it is. Empty: nothing.
fn titles(found: &Found) -> (&str, &str, &str) {
    let Ok(root) = &found.root else { return ("", "", "") };
    (
        root.vendor.as_deref().unwrap_or_default(),
        root.product.as_deref().unwrap_or_default(),
        root.version.as_deref().unwrap_or_default(),
    )
}

/// A table with a head, columns as wide as what is in them.
fn table(rows: &[[String; 6]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Refused answers, and what there was no room for.
fn remarks(discovered: &Discovered) -> String {
    let mut out = String::new();
    for refused in &discovered.refused {
        writeln!(out, "refused: {}: {}", refused.from, refused.why).unwrap_or_default();
    }
    if discovered.left_out > 0 {
        writeln!(
            out,
            "{} answers more were left out: ask on one interface at a time",
            discovered.left_out
        )
        .unwrap_or_default();
    }
    out
}

fn text(discovered: &Discovered) -> String {
    if discovered.found.is_empty() && discovered.refused.is_empty() {
        return "No Redfish service answered. Many BMCs have SSDP switched off, and answers stay in their network: name an interface in the BMCs' network with --interface.\n".to_owned();
    }
    let head = ["ADDRESS", "UUID", "VENDOR", "PRODUCT", "REDFISH", "CERTIFICATE SHA-256"];
    let mut rows = vec![head.map(str::to_owned)];
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for found in &discovered.found {
        let (vendor, product, version) = titles(found);
        let certificate = found.certificate_sha256.as_deref().unwrap_or_default();
        rows.push([&found.address, &found.uuid, vendor, product, version, certificate].map(or_dash));
    }
    let mut out = table(&rows);
    for found in &discovered.found {
        if let Err(fault) = &found.root {
            writeln!(out, "{}: its service root cannot be read: {fault}", found.address).unwrap_or_default();
        }
    }
    out + &remarks(discovered)
}

fn for_programs(discovered: &Discovered) -> Value {
    let found = discovered.found.iter().map(|found| {
        let root = found.root.as_ref();
        json!({
            "uuid": found.uuid,
            "address": found.address,
            "certificateSha256": found.certificate_sha256,
            "vendor": root.ok().map(|root| &root.vendor),
            "product": root.ok().map(|root| &root.product),
            "redfishVersion": root.ok().map(|root| &root.version),
            "fault": root.err().map(ToString::to_string),
        })
    });
    let refused = discovered
        .refused
        .iter()
        .map(|refused| json!({"from": refused.from, "reason": refused.why.to_string()}));
    json!({
        "found": found.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
        "leftOut": discovered.left_out,
    })
}

/// A DNS label: what the service is, and its UUID.
fn name(found: &Found) -> String {
    let (vendor, product, _) = titles(found);
    let title = if product.is_empty() { vendor } else { product };
    let mut word = String::new();
    for c in title.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => word.push(c),
            _ if word.ends_with('-') || word.is_empty() => {}
            _ => word.push('-'),
        }
    }
    word.truncate(WORD);
    match word.trim_end_matches('-') {
        "" => format!("bmc-{}", found.uuid),
        word => format!("{word}-{}", found.uuid),
    }
}

/// The object; None: it speaks TLS, and its certificate was not seen.
fn hardware(found: &Found, credentials: &str) -> Option<BareMetalHardware> {
    let insecure = found.address.starts_with("http://");
    if !insecure && found.certificate_sha256.is_none() {
        return None;
    }
    let name = name(found);
    let spec = BareMetalHardwareSpec {
        discovery_name: name.clone(),
        power: Some(PowerSpec {
            redfish: Some(RedfishPower {
                address: found.address.clone(),
                system: None,
                credentials: LocalSecretName {
                    name: credentials.to_owned(),
                },
                certificate_sha256: found.certificate_sha256.clone(),
                insecure,
                virtual_media: None,
            }),
            ..PowerSpec::default()
        }),
        ..BareMetalHardwareSpec::default()
    };
    Some(BareMetalHardware::new(&name, spec))
}

/// The objects as a YAML stream, and what is to be said beside it.
fn objects(discovered: &Discovered, credentials: &str) -> Result<(String, String)> {
    let mut yaml = String::from(
        "# Whoever is in the network may have answered. Compare certificateSha256 with what each BMC shows on its own page, before it is told a password.\n\
         # credentials.name is a Secret in the operator's namespace with `username` and `password`. Name the `system` where a BMC has several.\n",
    );
    let mut notes = remarks(discovered);
    for found in &discovered.found {
        if let Err(fault) = &found.root {
            writeln!(notes, "{}: its service root cannot be read: {fault}", found.address)?;
        }
        let Some(object) = hardware(found, credentials) else {
            writeln!(
                notes,
                "{}: left out of the YAML, because its certificate was not seen",
                found.address
            )?;
            continue;
        };
        let value = serde_json::to_value(&object).with_context(|| format!("writing {}", object.name_any()))?;
        let object = serde_saphyr::to_string(&value).with_context(|| format!("writing {}", object.name_any()))?;
        write!(yaml, "---\n{object}")?;
    }
    Ok((yaml, notes))
}

#[cfg(test)]
mod tests {
    use bmc_simulator::{Simulator, profile};
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::{Api, Client, api::PostParams};
    use power::{
        Fault,
        ssdp::{Root, book::Refused, message::Refusal},
    };

    use super::*;

    fn found(root: Result<Root, Fault>) -> Found {
        Found {
            uuid: "6b6d6273-696d-4000-8000-00000000ffff".to_owned(),
            address: "https://192.0.2.7".to_owned(),
            certificate_sha256: Some("5f".repeat(32)),
            root,
        }
    }

    fn product(product: &str) -> Found {
        found(Ok(Root {
            vendor: Some("Vendor".to_owned()),
            product: Some(product.to_owned()),
            version: Some("1.6.0".to_owned()),
        }))
    }

    /// Two simulated BMCs with TLS, and who answers where they are found.
    async fn simulated() -> (Simulator, Discovered) {
        let simulator = Simulator::start(bmc_simulator::Options {
            controllers: 2,
            profiles: vec![profile::named("idrac-9").expect("a profile")],
            tls: true,
            ssdp: Some("127.0.0.1:0".parse().expect("an address")),
            ..bmc_simulator::Options::default()
        })
        .await
        .expect("a simulator");
        let options = ssdp::Options {
            from: vec![Ipv4Addr::LOCALHOST],
            to: simulator.ssdp().expect("it is found"),
            wait: Duration::from_secs(1),
        };
        let discovered = ssdp::discover(&options).await;
        (simulator, discovered)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_yaml_is_taken_by_an_api_and_pins_what_was_seen() {
        let (simulator, discovered) = simulated().await;
        let (yaml, notes) = objects(&discovered, "bmc-rack1").expect("YAML");
        assert_eq!(notes, "");
        let documents: Vec<BareMetalHardware> = serde_saphyr::from_multiple(&yaml).expect("BareMetalHardware");
        assert_eq!(documents.len(), 2, "{yaml}");

        let folder = tempfile::tempdir().expect("a folder");
        let server = apiserver::ApiServer::open(apiserver::Config::new(folder.path()))
            .await
            .expect("an API");
        let client = Client::new(server.router(apiserver::Identity::admin()), "default");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let crd = api::crds::all().into_iter().find(|crd| crd.spec.names.kind == "BareMetalHardware");
        let crd = crds
            .create(&PostParams::default(), &crd.expect("the kind"))
            .await
            .expect("a definition");
        let name = crd.name_any();
        let established = kube::runtime::wait::await_condition(crds, &name, kube::runtime::conditions::is_crd_established());
        tokio::time::timeout(Duration::from_secs(20), established)
            .await
            .expect("it is served")
            .expect("it is served");
        let hardware: Api<BareMetalHardware> = Api::all(client);
        for (index, document) in documents.iter().enumerate() {
            let made = hardware.create(&PostParams::default(), document).await.expect("it is taken");
            let power = made.spec.power.and_then(|power| power.redfish).expect("Redfish");
            assert_eq!(power.address, simulator.url(index));
            assert_eq!(power.certificate_sha256.as_deref(), simulator.fingerprint());
            assert_eq!(power.credentials.name, "bmc-rack1");
            assert!(!power.insecure);
            assert!(made.spec.discovery_name.ends_with(&simulator.bmc(index).service_uuid()));
        }
        let shown = text(&discovered);
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(shown.contains(&simulator.url(1)) && shown.contains(simulator.fingerprint().expect("TLS")));
        assert_eq!(for_programs(&discovered)["found"][1]["address"], json!(simulator.url(1)));
        server.shutdown().await;
    }

    #[test]
    fn names_are_dns_labels_whatever_a_service_says() {
        let uuid = "6b6d6273-696d-4000-8000-00000000ffff";
        assert_eq!(
            name(&product("Integrated Dell Remote Access Controller")),
            format!("integrated-dell-remote-acc-{uuid}")
        );
        for (title, word) in [
            ("  iLO 5 ", "ilo-5"),
            ("--", "bmc"),
            ("Ünï\u{1b}[2J", "n-2j"),
            ("../../x: {}\n---", "x"),
        ] {
            assert_eq!(name(&product(title)), format!("{word}-{uuid}"));
        }
        assert_eq!(name(&found(Err(Fault::Unreachable(String::new())))), format!("bmc-{uuid}"));
        assert!(name(&product(&"a".repeat(200))).len() == 63);
    }

    #[test]
    fn what_is_refused_or_cannot_be_read_is_shown_and_not_written() {
        let silent = Found {
            certificate_sha256: None,
            ..found(Err(Fault::Unreachable("refused".to_owned())))
        };
        let discovered = Discovered {
            found: vec![silent],
            refused: vec![Refused {
                from: Ipv4Addr::new(192, 0, 2, 9).into(),
                why: Refusal::Elsewhere("https://192.0.2.1/".to_owned()),
            }],
            left_out: 3,
            unasked: Vec::new(),
        };
        let shown = text(&discovered);
        for part in [
            "refused: 192.0.2.9: it points at https://192.0.2.1/",
            "https://192.0.2.7: its service root cannot be read",
            "3 answers more",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let (yaml, notes) = objects(&discovered, "fill-in").expect("YAML");
        assert!(!yaml.contains("---"), "{yaml}");
        assert!(
            notes.contains("left out of the YAML") && notes.contains("refused: 192.0.2.9"),
            "{notes}"
        );
        assert!(text(&Discovered::default()).starts_with("No Redfish service answered."));
    }

    #[test]
    fn plain_http_says_that_it_is_insecure() {
        let plain = Found {
            address: "http://192.0.2.7:8000".to_owned(),
            certificate_sha256: None,
            ..product("x")
        };
        let redfish = hardware(&plain, "fill-in")
            .and_then(|object| object.spec.power?.redfish)
            .expect("an object");
        assert!(redfish.insecure && redfish.certificate_sha256.is_none());
    }
}
