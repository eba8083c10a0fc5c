//! WS-Management (DMTF DSP0226) as Intel AMT speaks it: what is asked, and what an answer says. Pure.
//!
//! All that is asked is made of constants, so nothing is escaped. An answer is bounded by the HTTP library, in its number of elements here, and has no DTD.

use roxmltree::{Document, Node, ParsingOptions};

/// DMTF's classes.
const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
/// The most elements of an answer. Those that are read have some dozens.
const MOST: u32 = 2000;

/// The sources of a boot, as AMT names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The network.
    Pxe,
    /// The hard disk.
    Disk,
    /// The CD.
    Cd,
}

impl Source {
    const fn instance(self) -> &'static str {
        match self {
            Self::Pxe => "Intel(r) AMT: Force PXE Boot",
            Self::Disk => "Intel(r) AMT: Force Hard-drive Boot",
            Self::Cd => "Intel(r) AMT: Force CD/DVD Boot",
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The power state.
    State,
    /// Another power state (`RequestPowerStateChange`).
    Change(u16),
    /// From where boots go with the one configuration there is (`ChangeBootOrder`).
    Order(Source),
    /// That the next boot alone goes by that configuration (`SetBootConfigRole` with 1, IsNextSingleUse).
    NextOnly,
}

/// The one configuration there is.
const CONFIGURATION: (&str, &str) = ("InstanceID", "Intel(r) AMT: Boot Configuration 0");

fn selectors(all: &[(&str, &str)]) -> String {
    let each = all
        .iter()
        .map(|(name, value)| format!("<w:Selector Name=\"{name}\">{value}</w:Selector>"));
    format!("<w:SelectorSet>{}</w:SelectorSet>", each.collect::<String>())
}

/// What refers to an instance of a class.
fn reference(class: &str, all: &[(&str, &str)]) -> String {
    format!(
        "<a:Address>{ADDRESSING}/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>{CIM}{class}</w:ResourceURI>{}</a:ReferenceParameters>",
        selectors(all)
    )
}

impl Request {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "power state",
            Self::Change(_) => "RequestPowerStateChange",
            Self::Order(_) => "ChangeBootOrder",
            Self::NextOnly => "SetBootConfigRole",
        }
    }

    /// The envelope, with a UUID of its own.
    #[must_use]
    pub fn envelope(self, message: &str) -> String {
        let power = [
            ("CreationClassName", "CIM_PowerManagementService"),
            ("Name", "Intel(r) AMT Power Management Service"),
        ];
        let boot = [("CreationClassName", "CIM_BootService"), ("Name", "Intel(r) AMT Boot Service")];
        let system = [("CreationClassName", "CIM_ComputerSystem"), ("Name", "ManagedSystem")];
        let (class, chosen, argument) = match self {
            Self::State => ("CIM_AssociatedPowerManagementService", String::new(), None),
            Self::Change(state) => (
                "CIM_PowerManagementService",
                selectors(&power[1..]),
                Some(format!(
                    "<r:PowerState>{state}</r:PowerState><r:ManagedElement>{}</r:ManagedElement>",
                    reference("CIM_ComputerSystem", &system)
                )),
            ),
            Self::Order(source) => (
                "CIM_BootConfigSetting",
                selectors(&[CONFIGURATION]),
                Some(format!(
                    "<r:Source>{}</r:Source>",
                    reference("CIM_BootSourceSetting", &[("InstanceID", source.instance())])
                )),
            ),
            Self::NextOnly => (
                "CIM_BootService",
                selectors(&boot[1..]),
                Some(format!(
                    "<r:BootConfigSetting>{}</r:BootConfigSetting><r:Role>1</r:Role>",
                    reference("CIM_BootConfigSetting", &[CONFIGURATION])
                )),
            ),
        };
        let (action, body) = match argument {
            None => (GET.to_owned(), String::new()),
            Some(argument) => {
                let method = self.name();
                (
                    format!("{CIM}{class}/{method}"),
                    format!("<r:{method}_INPUT xmlns:r=\"{CIM}{class}\">{argument}</r:{method}_INPUT>"),
                )
            }
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><s:Envelope xmlns:s=\"{SOAP}\" xmlns:a=\"{ADDRESSING}\" xmlns:w=\"{WSMAN}\"><s:Header>\
             <a:Action s:mustUnderstand=\"true\">{action}</a:Action><a:To s:mustUnderstand=\"true\">/wsman</a:To>\
             <w:ResourceURI s:mustUnderstand=\"true\">{CIM}{class}</w:ResourceURI><a:MessageID>uuid:{message}</a:MessageID>\
             <a:ReplyTo><a:Address>{ADDRESSING}/role/anonymous</a:Address></a:ReplyTo><w:OperationTimeout>PT10S</w:OperationTimeout>{chosen}\
             </s:Header><s:Body>{body}</s:Body></s:Envelope>"
        )
    }
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The power state, and which others can be asked for now. None: it does not say.
    Power {
        /// As CIM counts them.
        state: u16,
        /// As CIM counts them.
        offered: Vec<u16>,
    },
    /// How a method went: 0 is well.
    Returned(u32),
    /// A SOAP fault.
    Fault {
        /// The name of what went wrong, without its prefix: `AccessDenied`.
        code: String,
        /// For people.
        reason: String,
    },
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim)
}

/// A code without the prefix of its namespace.
fn local(code: &str) -> String {
    code.rsplit(':').next().unwrap_or_default().to_owned()
}

/// The largest answer in bytes; those to what is asked here are below 8 KiB.
const LARGEST: usize = 32 << 10;

/// Reads an answer. None: it is no envelope, or has nothing of that in it.
#[must_use]
pub fn parse(answer: &[u8]) -> Option<Said> {
    // The parser compares the attributes of an element with each other: a large one full of them would take minutes.
    if answer.len() > LARGEST {
        return None;
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MOST,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(std::str::from_utf8(answer).ok()?, options).ok()?;
    let envelope = document.root_element();
    if envelope.tag_name().name() != "Envelope" || envelope.tag_name().namespace() != Some(SOAP) {
        return None;
    }
    let content = child(envelope, "Body")?.first_element_child()?;
    let name = content.tag_name().name();
    if name == "Fault" {
        let code = child(content, "Code")?;
        let inner = child(code, "Subcode").and_then(|inner| text(inner, "Value"));
        return Some(Said::Fault {
            code: local(inner.or_else(|| text(code, "Value"))?),
            reason: child(content, "Reason")
                .and_then(|reason| text(reason, "Text"))
                .unwrap_or("no reason given")
                .to_owned(),
        });
    }
    if name.ends_with("_OUTPUT") {
        return text(content, "ReturnValue")?.parse().ok().map(Said::Returned);
    }
    let offered = content
        .children()
        .filter(|child| child.tag_name().name() == "AvailableRequestedPowerStates");
    Some(Said::Power {
        state: text(content, "PowerState")?.parse().ok()?,
        offered: offered.filter_map(|child| child.text()?.trim().parse().ok()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_an_envelope_with_its_class_and_method() {
        for (request, class, method) in [
            (Request::State, "CIM_AssociatedPowerManagementService", None),
            (Request::Change(2), "CIM_PowerManagementService", Some("RequestPowerStateChange")),
            (Request::Order(Source::Pxe), "CIM_BootConfigSetting", Some("ChangeBootOrder")),
            (Request::NextOnly, "CIM_BootService", Some("SetBootConfigRole")),
        ] {
            let text = request.envelope("00000000-0000-4000-8000-000000000001");
            let document = Document::parse(&text).expect("XML");
            let header = child(document.root_element(), "Header").expect("a head");
            let uri = format!("{CIM}{class}");
            assert_eq!(super::text(header, "ResourceURI"), Some(uri.as_str()));
            let action = method.map_or_else(|| GET.to_owned(), |method| format!("{uri}/{method}"));
            assert_eq!(super::text(header, "Action"), Some(action.as_str()));
            let input = child(document.root_element(), "Body").expect("a body").first_element_child();
            assert_eq!(
                input.map(|input| (input.tag_name().name().to_owned(), input.tag_name().namespace().map(str::to_owned))),
                method.map(|method| (format!("{method}_INPUT"), Some(uri))),
            );
        }
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let deep = format!("{}{}", "<a>".repeat(5000), "</a>".repeat(5000));
        let wide = format!(
            "<s:Envelope xmlns:s=\"{SOAP}\"><s:Body>{}</s:Body></s:Envelope>",
            "<a/>".repeat(5000)
        );
        let dtd = format!("<!DOCTYPE x [<!ENTITY a \"b\">]><s:Envelope xmlns:s=\"{SOAP}\"><s:Body><x/></s:Body></s:Envelope>");
        for text in ["", "<", "<html/>", "<Envelope><Body><a/></Body></Envelope>", &deep, &wide, &dtd] {
            assert_eq!(parse(text.as_bytes()), None, "{}", &text[..text.len().min(60)]);
        }
        assert_eq!(parse(&[0xff, 0xfe]), None);
        let state = |inner: &str| {
            let text = format!("<s:Envelope xmlns:s=\"{SOAP}\"><s:Body><p>{inner}</p></s:Body></s:Envelope>");
            parse(text.as_bytes())
        };
        assert_eq!(state("<PowerState>on</PowerState>"), None);
        assert_eq!(state(""), None);
        assert_eq!(
            state("<PowerState> 2 </PowerState>"),
            Some(Said::Power {
                state: 2,
                offered: Vec::new()
            })
        );
    }
}
