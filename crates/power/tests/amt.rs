//! Intel AMT against a service that keeps to Intel's documents: digest authentication, and envelopes as their examples show them.

#[path = "support/served.rs"]
mod served;

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use power::{
    BootDevice, BootOnce, Driver, Fault, Firmware, Off, Operation, PowerState,
    amt::{Amt, Settings},
    digest::{Algorithm, Challenge},
    fault::Again,
};
use roxmltree::{Document, Node};
use served::Served;

const USER: &str = "admin";
const PASSWORD: &str = "P@ssw0rd-amt";
/// As AMT writes it: without an algorithm.
const CHALLENGE: &str =
    "Digest realm=\"Digest:A4070000000000000000000000000000\", nonce=\"Gw4AAAAAAAA5t1lgY6nZkA==\",stale=\"false\",qop=\"auth\"";
const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
const CONFIGURATION: &str = "Intel(r) AMT: Boot Configuration 0";

#[derive(Debug, Default)]
struct Machine {
    state: u16,
    offered: Vec<u16>,
    told: Vec<String>,
    order: Option<String>,
    /// What every method returns instead of being done.
    returns: Option<u32>,
    /// What everything is answered with instead.
    answers: Option<(u16, String)>,
}

type Shared = Arc<Mutex<Machine>>;

/// An answer as the examples of the reference guide have it: with prefixes of AMT's own.
fn envelope(class: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a:Envelope xmlns:a=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:b=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:c=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" xmlns:g=\"{CIM}{class}\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><a:Header>\
         <b:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</b:To><b:RelatesTo>0</b:RelatesTo><b:MessageID>uuid:00000000-8086-8086-8086-000000000061</b:MessageID>\
         <c:ResourceURI>{CIM}{class}</c:ResourceURI></a:Header><a:Body>{content}</a:Body></a:Envelope>"
    )
}

fn soap_fault(code: &str, reason: &str) -> String {
    envelope(
        "CIM_BootService",
        &format!(
            "<a:Fault><a:Code><a:Value>a:Sender</a:Value><a:Subcode><a:Value>b:{code}</a:Value></a:Subcode></a:Code><a:Reason><a:Text xml:lang=\"en-US\">{reason}</a:Text></a:Reason>\
             <a:Detail></a:Detail></a:Fault>"
        ),
    )
}

fn find<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.descendants().find(|node| node.tag_name().name() == name)
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    find(node, name).and_then(|node| node.text()).unwrap_or_else(|| panic!("no {name}"))
}

/// The value of a reference's or a head's selector.
fn selector<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    node.descendants()
        .find(|node| node.tag_name().name() == "Selector" && node.attribute("Name") == Some(name))
        .and_then(|node| node.text())
        .unwrap_or_else(|| panic!("no selector {name}"))
}

impl Machine {
    fn answer(&mut self, body: &str) -> String {
        let document = Document::parse(body).expect("XML");
        let header = find(document.root_element(), "Header").expect("a head");
        let body = find(document.root_element(), "Body").expect("a body");
        let class = text(header, "ResourceURI").strip_prefix(CIM).expect("a class of CIM");
        let action = text(header, "Action");
        if action == "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get" {
            assert_eq!(class, "CIM_AssociatedPowerManagementService");
            let offered: String = self
                .offered
                .iter()
                .map(|state| format!("<g:AvailableRequestedPowerStates>{state}</g:AvailableRequestedPowerStates>"))
                .collect();
            return envelope(
                class,
                &format!(
                    "<g:CIM_AssociatedPowerManagementService>{offered}<g:PowerState>{}</g:PowerState><g:ServiceProvided><b:Address>default</b:Address></g:ServiceProvided>\
                     </g:CIM_AssociatedPowerManagementService>",
                    self.state
                ),
            );
        }
        let method = action.strip_prefix(&format!("{CIM}{class}/")).expect("a method of the class");
        let input = find(body, &format!("{method}_INPUT")).expect("an input");
        let returns = self.returns.unwrap_or_else(|| self.carry_out(method, header, input));
        envelope(
            class,
            &format!("<g:{method}_OUTPUT><g:ReturnValue>{returns}</g:ReturnValue></g:{method}_OUTPUT>"),
        )
    }

    fn carry_out(&mut self, method: &str, header: Node<'_, '_>, input: Node<'_, '_>) -> u32 {
        match method {
            "RequestPowerStateChange" => {
                assert_eq!(selector(header, "Name"), "Intel(r) AMT Power Management Service");
                let managed = find(input, "ManagedElement").expect("whose power");
                assert_eq!(text(managed, "ResourceURI"), format!("{CIM}CIM_ComputerSystem"));
                assert_eq!(selector(managed, "Name"), "ManagedSystem");
                let state: u16 = text(input, "PowerState").parse().expect("a number");
                self.told.push(format!("power {state}"));
                self.state = if matches!(state, 8 | 12) { 8 } else { 2 };
            }
            "ChangeBootOrder" => {
                assert_eq!(selector(header, "InstanceID"), CONFIGURATION);
                let source = find(input, "Source").expect("a source");
                assert_eq!(text(source, "ResourceURI"), format!("{CIM}CIM_BootSourceSetting"));
                self.order = Some(selector(source, "InstanceID").to_owned());
            }
            "SetBootConfigRole" => {
                assert_eq!(selector(header, "Name"), "Intel(r) AMT Boot Service");
                assert_eq!(
                    selector(find(input, "BootConfigSetting").expect("which"), "InstanceID"),
                    CONFIGURATION
                );
                assert_eq!(text(input, "Role"), "1");
                self.told.push(format!("once {}", self.order.take().expect("an order before")));
            }
            other => panic!("{other}"),
        }
        0
    }
}

async fn amt(State(machine): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let answer = text("authorization");
    let own_nonce = answer
        .split("cnonce=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default();
    let wanted = Challenge::parse(CHALLENGE, &[Algorithm::Md5])
        .expect("a challenge")
        .answer("POST", "/wsman", USER, PASSWORD, own_nonce);
    if own_nonce.len() < 16 || answer != wanted {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", CHALLENGE)]).into_response();
    }
    assert_eq!((method, uri.path()), (Method::POST, "/wsman"));
    assert!(text("content-type").starts_with("application/soap+xml"), "{headers:?}");
    let mut machine = machine.lock().expect("not poisoned");
    if let Some((status, answer)) = machine.answers.clone() {
        return (StatusCode::from_u16(status).expect("a status"), answer).into_response();
    }
    machine.answer(std::str::from_utf8(&body).expect("text")).into_response()
}

struct Reached {
    served: Served,
    machine: Shared,
}

impl Reached {
    async fn start() -> Self {
        let machine = Shared::default();
        machine.lock().expect("not poisoned").state = 8;
        Self {
            served: Served::start(Router::new().fallback(amt).with_state(Arc::clone(&machine))).await,
            machine,
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Machine) -> T) -> T {
        look(&mut self.machine.lock().expect("not poisoned"))
    }

    fn told(&self) -> Vec<String> {
        self.with(|machine| std::mem::take(&mut machine.told))
    }

    fn driver(&self, password: &str) -> Amt {
        Amt::new(Settings {
            url: self.served.url.clone(),
            trust: None,
            user: USER.to_owned(),
            password: password.to_owned().into(),
        })
        .expect("good settings")
    }
}

#[tokio::test]
async fn a_machine_is_switched() {
    let reached = Reached::start().await;
    let driver = reached.driver(PASSWORD);
    assert_eq!(driver.state().await, Ok(PowerState::Off));
    driver.off(Off::Hard).await.expect("it is off already");
    assert_eq!(reached.told(), Vec::<String>::new());
    driver.on().await.expect("on");
    assert_eq!(
        (driver.state().await, reached.told()),
        (Ok(PowerState::On), vec!["power 2".to_owned()])
    );
    driver.on().await.expect("it is on already");
    driver.cycle().await.expect("reset");
    driver.off(Off::Soft).await.expect("asked to shut down");
    driver.cycle().await.expect("one that is off is switched on");
    driver.off(Off::Hard).await.expect("off");
    assert_eq!(reached.told(), ["power 10", "power 12", "power 2", "power 8"]);
    // It sleeps.
    reached.with(|machine| machine.state = 4);
    assert_eq!(driver.state().await, Ok(PowerState::Unknown));
    driver.on().await.expect("woken");
    assert_eq!(reached.told(), ["power 2"]);
}

#[tokio::test]
async fn what_is_offered_is_heard() {
    let reached = Reached::start().await;
    let driver = reached.driver(PASSWORD);
    reached.with(|machine| (machine.state, machine.offered) = (2, vec![8, 5]));
    driver.cycle().await.expect("a power cycle where there is no reset");
    assert_eq!(reached.told(), ["power 5"]);
    let refused = driver.off(Off::Soft).await.expect_err("nobody listens");
    assert!(
        matches!(&refused, Fault::NotOffered { wanted, offered } if wanted == "graceful off" && offered.contains("off, power cycle")),
        "{refused}"
    );
    assert_eq!(reached.told(), Vec::<String>::new());
}

#[tokio::test]
async fn the_next_boot_is_chosen() {
    let reached = Reached::start().await;
    let driver = reached.driver(PASSWORD);
    for (device, source) in [
        (BootDevice::Network, "Intel(r) AMT: Force PXE Boot"),
        (BootDevice::Disk, "Intel(r) AMT: Force Hard-drive Boot"),
        (BootDevice::Media, "Intel(r) AMT: Force CD/DVD Boot"),
    ] {
        let boot = BootOnce {
            device,
            firmware: Firmware::Uefi,
        };
        driver.boot_once(boot).await.expect("set");
        assert_eq!(reached.told(), [format!("once {source}")]);
    }
    for device in [BootDevice::Http, BootDevice::Setup] {
        let boot = BootOnce {
            device,
            firmware: Firmware::Uefi,
        };
        assert_eq!(driver.boot_once(boot).await, Err(Fault::Incapable(Operation::BootOnce(device))));
    }
    let boot = BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Bios,
    };
    for (code, wanted) in [(1, "NotOffered"), (3, "Busy"), (6, "Privilege"), (5, "Refused")] {
        reached.with(|machine| machine.returns = Some(code));
        let fault = driver.boot_once(boot).await.expect_err("refused");
        assert!(format!("{fault:?}").starts_with(wanted), "{code}: {fault:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart_and_tell_no_password() {
    let reached = Reached::start().await;
    let driver = reached.driver(PASSWORD);
    for (code, wanted) in [
        (1, "NotOffered"),
        (3, "Unanswered"),
        (4097, "Refused"),
        (4099, "Busy"),
        (2, "Refused"),
    ] {
        reached.with(|machine| machine.returns = Some(code));
        let fault = driver.on().await.expect_err("refused");
        assert!(format!("{fault:?}").starts_with(wanted), "{code}: {fault:?}");
    }
    let power = envelope("x", "<g:x><g:PowerState>8</g:PowerState></g:x>");
    for (status, answer, wanted) in [
        (400, soap_fault("AccessDenied", &format!("not with {PASSWORD}")), "Privilege"),
        (500, soap_fault("InternalError", "an error"), "Refused"),
        (500, soap_fault("Concurrency", "another change"), "Busy"),
        (500, soap_fault("DestinationUnreachable", "no route"), "NotOffered"),
        (500, String::new(), "Garbled"),
        (200, "<html>".to_owned(), "Garbled"),
        (200, "<x>".repeat(100_000), "Garbled"),
        (
            200,
            envelope("x", "<g:Y_OUTPUT><g:ReturnValue>0</g:ReturnValue></g:Y_OUTPUT>"),
            "Garbled",
        ),
        (404, String::new(), "Refused"),
        (503, String::new(), "Busy"),
        (403, String::new(), "Privilege"),
    ] {
        reached.with(|machine| machine.answers = Some((status, answer.clone())));
        let fault = driver.state().await.expect_err("no state");
        let shown = format!("{fault:?} {fault} {driver:?}");
        assert!(shown.starts_with(wanted) && !shown.contains(PASSWORD), "{status}: {shown}");
    }
    // A change that is answered by something else: nobody knows.
    reached.with(|machine| machine.answers = Some((200, power)));
    let fault = driver.boot_once(BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Uefi,
    });
    assert!(matches!(fault.await, Err(Fault::Unanswered(_))));

    let driver = reached.driver("wrong-Pass-5");
    let fault = driver.state().await.expect_err("a wrong password");
    assert!(
        matches!(fault, Fault::Credentials(_)) && !format!("{fault:?} {driver:?}").contains("wrong-Pass-5"),
        "{fault}"
    );
    assert_eq!(fault.again(Operation::On), Again::No);
}

#[test]
fn settings_are_looked_at_before_anything_is_sent() {
    let refused = |url: &str, user: &str, password: &str| {
        let settings = Settings {
            url: url.to_owned(),
            trust: None,
            user: user.to_owned(),
            password: password.to_owned().into(),
        };
        match Amt::new(settings) {
            Err(Fault::Settings { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    let url = "http://192.0.2.7:16992";
    assert_eq!(refused("https://192.0.2.7:16993", USER, PASSWORD), "url");
    assert_eq!(refused("http://192.0.2.7:16992/wsman", USER, PASSWORD), "url");
    assert_eq!(refused("http://admin:x@192.0.2.7:16992", USER, PASSWORD), "url");
    assert_eq!(refused(url, "", PASSWORD), "user");
    assert_eq!(refused(url, "ad\"min", PASSWORD), "user");
    assert_eq!(refused(url, USER, ""), "password");
}
