//! What hostile bytes are given to: the tests of this folder do so with seeded ones, `fuzz/` guided by coverage.
//!
//! An input is lines: the query, the `Host` header, and further texts that stand for whatever an object or a configuration could hold.

use agent_protocol::{
    architecture::Architecture,
    identity::MacAddress,
    link::{Bond, BondMode, LacpRate, Link, TransmitHash},
};
use boot_script::{Loader, command_line::AgentBoot, host::Host, query::BootRequest};

/// The answers to one input: to the agent and to the own disk, or to the own disk alone where the question is malformed.
fn answers(loader: Loader, input: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (query, header) = (line(), line());
    let Ok(request) = BootRequest::parse(query) else {
        return vec![loader.local_disk(None)];
    };
    let host = Host::parse_with_port(header).unwrap_or(Host::Name("fallback".to_owned()));
    let (server, advertised, token, argument) = (line().to_owned(), line().to_owned(), line(), line().to_owned());
    let link = Link {
        vlan: Some(42),
        mtu: Some(9000),
        bond: Some(Bond {
            mode: BondMode::Lacp,
            members: vec![MacAddress([2, 0, 0, 0, 0, 1]), request.mac],
            lacp_rate: Some(LacpRate::Fast),
            transmit_hash: Some(TransmitHash::Layer3And4),
        }),
    };
    let agent = loader.agent(&AgentBoot {
        host: &host,
        tls_port: 8443,
        advertise: &[advertised],
        servers: &[server],
        pin: "00",
        token,
        request: &request,
        architecture: request.architecture().unwrap_or(Architecture::Amd64),
        link: &link,
        arguments: &[argument],
    });
    vec![agent, loader.local_disk(Some(&request))]
}

/// An iPXE script has the lines that it always has: no variable is read, nothing is quoted, each line begins with a command of ours.
pub fn ipxe(input: &[u8]) {
    const WORDS: [&str; 11] = [
        "echo", "kernel", "initrd", "boot", ":failed", "imgfree", ":retry", "sleep", "chain", "sanboot", "exit",
    ];
    for text in answers(Loader::Ipxe, input) {
        assert!(text.starts_with("#!ipxe\n") && text.is_ascii());
        let ours = text.replace("\\EFI\\", "").replace("\\shim", "");
        assert!(!ours.contains(['$', '"', '\'', '\\', '\r', '\t', '\0', ';']), "{text}");
        assert!(text.lines().count() <= 60, "{text}");
        for line in text.lines().skip(1) {
            assert!(WORDS.contains(&line.split(' ').next().unwrap_or_default()), "{line}");
            assert_eq!(
                line.contains("||"),
                line.ends_with("||") || line.contains("|| goto ") || line.ends_with("|| exit 1"),
                "{line}"
            );
            assert!(!line.contains("&&"), "{line}");
        }
    }
}

/// A GRUB configuration differs from one for another machine in quoted words of the agent's kernel command line alone, and in the machine's architecture.
pub fn grub(input: &[u8]) {
    let usual = answers(Loader::Grub, b"mac=52-54-00-12-34-56&buildarch=x86_64\nhost");
    for text in answers(Loader::Grub, input) {
        assert!(text.is_ascii() && !text.contains(['\r', '\0', '\t']));
        let is_agent = text.contains("linux /boot/media/");
        let like = &usual[usize::from(!is_agent)];
        assert_eq!(shape(&text), shape(like));
        assert!(
            text.lines()
                .filter(|line| line.starts_with("set efi="))
                .all(|line| { ["set efi=x64", "set efi=ia32", "set efi=arm", "set efi=aa64"].contains(&line) })
        );
    }
}

/// Its lines without what is the machine's own: its architecture, and the words of a kernel command line, each of which is quoted and harmless.
fn shape(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with("set efi="));
    lines.map(|line| without_words(line).replace("/arm64/", "/amd64/")).collect()
}

fn without_words(line: &str) -> &str {
    let Some((command, words)) = line.split_once("vmlinuz ") else {
        return line;
    };
    let words = words.strip_suffix("; then").expect("a condition");
    for word in words.split(' ') {
        let inner = word
            .strip_prefix('\'')
            .and_then(|word| word.strip_suffix('\''))
            .expect("a quoted word");
        assert!(
            inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,:=/@+[]".contains(&b)),
            "{inner:?}"
        );
    }
    command
}

/// A host: refused, or printed as one that is understood the same way.
pub fn host(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for parsed in [Host::parse(&text), Host::parse_with_port(&text)].into_iter().flatten() {
        let printed = parsed.to_string();
        assert!(
            printed.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)),
            "{printed:?}"
        );
        assert_eq!(Host::parse(&printed), Some(parsed));
    }
}
