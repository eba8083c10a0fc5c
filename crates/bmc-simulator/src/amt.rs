//! Intel AMT: WS-Management with digest authentication (MD5, as AMT has it), by Intel's "AMT Implementation and Reference Guide": the power state, its change, and the
//! source of the next boot. With several machines behind a controller, the first is meant.
//!
//! Requests are read by the names of their elements, whatever their prefixes; it is no XML parser, and needs to be none for what drivers send.

use crate::{
    bmc::Bmc,
    digest::{Algorithm, Door},
    faults::{Claim, Mishap, Operation, Protocol, What},
    host::{Command, Enabled, Host, Override},
    http::{Answer, Ask, Fate},
    machine::Source,
    redfish::forms,
};

/// DMTF's classes.
const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";

/// Return values.
const DONE: u32 = 0;
const UNKNOWN: u32 = 1;
/// Not from the state that it is in (`RequestPowerStateChange`).
const NOT_NOW: u32 = 4097;

/// The content of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = xml;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (tag, content) = after.split_once('>')?;
        let full = tag.split([' ', '/']).next().unwrap_or_default();
        if full.rsplit(':').next() == Some(name) && !tag.ends_with('/') {
            return content.split(&format!("</{full}>")).next().map(str::trim);
        }
        rest = after;
    }
}

/// An answer, with prefixes of its own.
fn envelope(class: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a:Envelope xmlns:a=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:b=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" xmlns:c=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" xmlns:g=\"{CIM}{class}\"><a:Header>\
         <b:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</b:To><c:ResourceURI>{CIM}{class}</c:ResourceURI></a:Header><a:Body>{content}</a:Body></a:Envelope>"
    )
}

/// A refusal (DSP0226, 14).
fn refusal(code: &str, reason: &str) -> String {
    envelope(
        "CIM_BootService",
        &format!(
            "<a:Fault><a:Code><a:Value>a:Sender</a:Value><a:Subcode><a:Value>b:{code}</a:Value></a:Subcode></a:Code><a:Reason><a:Text xml:lang=\"en-US\">{reason}</a:Text>\
             </a:Reason></a:Fault>"
        ),
    )
}

/// Answers a request.
pub(crate) async fn answer(bmc: &Bmc, ask: &Ask) -> Fate {
    let realm = format!("Digest:{:032X}", bmc.index);
    let door = Door {
        algorithm: Algorithm::Md5,
        realm: &realm,
        user: &bmc.access.user,
        password: &bmc.access.password,
    };
    if !ask
        .authorization
        .as_deref()
        .is_some_and(|said| bmc.nonces.lets_in(door, &ask.method, said))
    {
        return Fate::Answer(Answer::empty(401).with("www-authenticate", bmc.nonces.challenge(door)));
    }
    let xml = String::from_utf8_lossy(&ask.raw);
    let class = element(&xml, "ResourceURI")
        .and_then(|uri| uri.strip_prefix(CIM))
        .unwrap_or_default();
    let method = element(&xml, "Action").unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let operation = match method {
        "Get" => Operation::State,
        "RequestPowerStateChange" => Operation::Reset,
        _ => Operation::Boot,
    };
    let mishap = bmc.asked(Protocol::Amt, operation, method == "Get");
    if !mishap.delay.is_zero() {
        tokio::time::sleep(mishap.delay).await;
    }
    match mishap.what {
        Some(What::Silent) => return Fate::Silent,
        Some(What::Closed) => return Fate::Closed,
        Some(What::Status { code, .. }) => return Fate::Answer(Answer::empty(code)),
        Some(What::Hidden) => return Fate::Answer(Answer::empty(404)),
        _ => {}
    }
    let (status, text) = match carried_out(bmc, class, method, &xml, mishap) {
        Some(text) => (200, text),
        None => (400, refusal("DestinationUnreachable", "there is no such class or method")),
    };
    let mut answer = Answer::empty(status);
    answer.text = Some(if mishap.what == Some(What::WrongKinds) {
        wrong_kinds(&text)
    } else {
        text
    });
    forms::spoil(answer, mishap.what)
}

/// Numbers become words.
fn wrong_kinds(xml: &str) -> String {
    let part = |part: &str| match part.split_once('>') {
        Some((tag, content)) if !content.is_empty() && content.bytes().all(|byte| byte.is_ascii_digit()) => format!("{tag}>some"),
        _ => part.to_owned(),
    };
    xml.split('<').map(part).collect::<Vec<_>>().join("<")
}

fn carried_out(bmc: &Bmc, class: &str, method: &str, xml: &str, mishap: Mishap) -> Option<String> {
    let host = bmc.hosts.first()?;
    let on = mishap.claim.map_or_else(|| host.power().is_on(), |claim| claim == Claim::On);
    let body = element(xml, "Body")?;
    let returned = match (class, method) {
        ("CIM_AssociatedPowerManagementService", "Get") => {
            // On, cycle, off, reset, off gracefully (DSP1027).
            let offered: &[u16] = if on { &[5, 8, 10, 12] } else { &[2] };
            let offered: String = offered
                .iter()
                .map(|state| format!("<g:AvailableRequestedPowerStates>{state}</g:AvailableRequestedPowerStates>"))
                .collect();
            let state = if on { 2 } else { 8 };
            return Some(envelope(
                class,
                &format!("<g:{class}>{offered}<g:PowerState>{state}</g:PowerState></g:{class}>"),
            ));
        }
        ("CIM_PowerManagementService", "RequestPowerStateChange") => switch(bmc, host, element(body, "PowerState")?),
        ("CIM_BootConfigSetting", "ChangeBootOrder") => {
            let source = element(body, "Source")?;
            let source = if source.contains("Force PXE Boot") {
                Some(Source::Network)
            } else if source.contains("Force Hard-drive Boot") {
                Some(Source::Disk)
            } else if source.contains("Force CD/DVD Boot") {
                Some(Source::Media)
            } else {
                None
            };
            bmc.memory().amt_order = source;
            if source.is_some() { DONE } else { UNKNOWN }
        }
        ("CIM_BootService", "SetBootConfigRole") => next(bmc, host, element(body, "Role")?),
        _ => return None,
    };
    Some(envelope(
        class,
        &format!("<g:{method}_OUTPUT><g:ReturnValue>{returned}</g:ReturnValue></g:{method}_OUTPUT>"),
    ))
}

fn switch(bmc: &Bmc, host: &Host, state: &str) -> u32 {
    let command = match (state, host.power().is_on()) {
        ("2", _) => Command::On,
        ("5", true) => Command::Cycle,
        ("8", _) => Command::Off,
        ("10", true) => Command::Reset,
        ("12", true) => Command::ShutDown,
        ("5" | "10" | "12", false) => return NOT_NOW,
        _ => return UNKNOWN,
    };
    host.tell(command, bmc.conduct(Protocol::Amt));
    DONE
}

/// What the configuration is good for: 1 is the next boot alone, 32768 is none.
fn next(bmc: &Bmc, host: &Host, role: &str) -> u32 {
    match role {
        "1" => {
            let source = bmc.memory().amt_order.take();
            host.set_override(Override {
                enabled: if source.is_some() { Enabled::Once } else { Enabled::Disabled },
                source,
                ..Override::default()
            });
        }
        "32768" => host.set_override(Override::default()),
        _ => return UNKNOWN,
    }
    DONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_whatever_their_prefix() {
        let xml = "<?xml version=\"1.0\"?><s:E xmlns:s=\"x\"><s:Empty/><a:Action s:must=\"true\"> one/two </a:Action><r:Source><w:Name>n</w:Name></r:Source></s:E>";
        assert_eq!(element(xml, "Action"), Some("one/two"));
        assert_eq!(element(xml, "Source"), Some("<w:Name>n</w:Name>"));
        assert_eq!(element(xml, "Empty"), None);
        assert_eq!(element(xml, "Nothing"), None);
    }

    #[test]
    fn numbers_of_another_kind_are_words() {
        let xml = "<?xml version=\"1.0\"?><a><b>8</b><c>x1</c><d></d></a>";
        assert_eq!(wrong_kinds(xml), "<?xml version=\"1.0\"?><a><b>some</b><c>x1</c><d></d></a>");
    }

    #[tokio::test]
    async fn a_boot_once_from_the_network_is_an_order_and_a_role() {
        let options = crate::Options {
            timing: crate::host::Timing::short(),
            ..crate::Options::default()
        };
        let simulator = crate::Simulator::start(options).await.expect("it starts");
        let bmc = simulator.bmc(0);
        let tell = |class: &str, method: &str, body: &str| {
            let answer = carried_out(bmc, class, method, &format!("<s:Body>{body}</s:Body>"), Mishap::default())?;
            element(&answer, "ReturnValue")
                .or_else(|| element(&answer, "PowerState"))
                .map(str::to_owned)
        };
        let state = || tell("CIM_AssociatedPowerManagementService", "Get", "<x/>");
        assert_eq!(state().as_deref(), Some("8"));
        let change = |state: u16| {
            tell(
                "CIM_PowerManagementService",
                "RequestPowerStateChange",
                &format!("<r:PowerState>{state}</r:PowerState>"),
            )
        };
        assert_eq!(change(10).as_deref(), Some("4097"), "it is off");
        let order = "<r:Source><w:Selector>Intel(r) AMT: Force PXE Boot</w:Selector></r:Source>";
        assert_eq!(tell("CIM_BootConfigSetting", "ChangeBootOrder", order).as_deref(), Some("0"));
        assert_eq!(
            tell("CIM_BootService", "SetBootConfigRole", "<r:Role>1</r:Role>").as_deref(),
            Some("0")
        );
        for expected in [Source::Network, Source::Usual] {
            let command = if expected == Source::Network { 2 } else { 5 };
            assert_eq!(change(command).as_deref(), Some("0"));
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            assert_eq!(bmc.hosts[0].boots().last().map(|boot| boot.source), Some(expected));
        }
        assert_eq!(state().as_deref(), Some("2"));
        assert_eq!(tell("CIM_Nothing", "Get", "<x/>"), None);
    }
}
