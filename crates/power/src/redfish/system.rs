//! What a ComputerSystem offers, and with which words it is told what to do. Pure: documents in, requests out.
//!
//! DSP0266 (protocol: actions, ETags, settings), DSP0268 (schemas: ComputerSystem, its Boot and Reset, VirtualMedia).

use serde_json::{Value, json};

use super::{
    quirks::{Mode, Quirk},
    reader::{self, Link},
};
use crate::{
    driver::{BootDevice, Firmware, Operation, PowerState},
    fault::Fault,
};

/// A machine, as its document tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Where it is.
    pub link: Link,
    /// What it can be called by: `Id`, `UUID`, `SerialNumber`, `Name`, `HostName`.
    pub names: Vec<String>,
    /// Who made it.
    pub vendor: Option<String>,
    /// Whether it is on.
    pub power: PowerState,
    /// Where it is reset. Where the document does not say it is where the standard puts it.
    pub reset: Link,
    /// Which resets it says it takes. None: it does not say.
    pub resets: Option<Vec<String>>,
    /// Where it says so instead.
    pub reset_info: Option<Link>,
    /// Its boot override.
    pub boot: Boot,
    /// Where settings are written that cannot be written here.
    pub settings: Option<Link>,
    /// Its virtual media, in newer schemas.
    pub media: Option<Link>,
    /// What manages it.
    pub managers: Vec<Link>,
}

/// A boot override, as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boot {
    /// `Disabled`, `Once`, `Continuous`.
    pub enabled: Option<String>,
    /// From what.
    pub target: Option<String>,
    /// `UEFI` or `Legacy`.
    pub mode: Option<String>,
    /// Which targets it says it takes. None: it does not say.
    pub targets: Option<Vec<String>>,
}

const ALLOWED: &str = "@Redfish.AllowableValues";

fn boot(document: &Value) -> Boot {
    let Some(boot) = reader::member(document, "Boot") else {
        return Boot::default();
    };
    Boot {
        enabled: reader::text(boot, "BootSourceOverrideEnabled"),
        target: reader::text(boot, "BootSourceOverrideTarget"),
        mode: reader::text(boot, "BootSourceOverrideMode"),
        targets: reader::words(boot, &format!("BootSourceOverrideTarget{ALLOWED}")),
    }
}

impl System {
    /// Reads a document. Nothing in it can make this fail.
    #[must_use]
    pub fn read(link: Link, document: &Value) -> Self {
        let actions = reader::member(document, "Actions").unwrap_or(&Value::Null);
        let action = reader::member(actions, "#ComputerSystem.Reset").unwrap_or(&Value::Null);
        let links = reader::member(document, "Links").unwrap_or(&Value::Null);
        let settings = reader::member(document, "@Redfish.Settings").unwrap_or(&Value::Null);
        Self {
            names: ["Id", "UUID", "SerialNumber", "Name", "HostName"]
                .into_iter()
                .filter_map(|name| reader::text(document, name))
                .collect(),
            vendor: reader::text(document, "Manufacturer"),
            power: power(reader::text(document, "PowerState").as_deref()),
            reset: reader::link(action, "target").unwrap_or_else(|| link.below("Actions/ComputerSystem.Reset")),
            resets: reader::words(action, &format!("ResetType{ALLOWED}")),
            reset_info: reader::link(action, "@Redfish.ActionInfo"),
            boot: boot(document),
            settings: reader::link(settings, "SettingsObject"),
            media: reader::link(document, "VirtualMedia"),
            managers: reader::list(links, "ManagedBy").filter_map(reader::link_of).collect(),
            link,
        }
    }

    /// Whether somebody who says this means this machine.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.link.as_str().trim_end_matches('/') == name.trim_end_matches('/')
            || self.link.last_segment() == name
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

fn power(state: Option<&str>) -> PowerState {
    match state.map(str::to_ascii_lowercase).as_deref() {
        Some("on") => PowerState::On,
        Some("off") => PowerState::Off,
        // PoweringOn, PoweringOff, Paused, and whatever vendors call it.
        _ => PowerState::Unknown,
    }
}

/// The resets that an ActionInfo lists. None: it lists none.
#[must_use]
pub fn listed_resets(action_info: &Value) -> Option<Vec<String>> {
    reader::list(action_info, "Parameters")
        .find(|parameter| reader::text(parameter, "Name").as_deref() == Some("ResetType"))
        .and_then(|parameter| reader::words(parameter, "AllowableValues"))
}

/// The resets that do what is wanted, the best first, as far as they are offered. Where nobody says what is offered, all.
///
/// # Errors
/// [`Fault::NotOffered`] when none is.
pub fn resets(operation: Operation, offered: Option<&[String]>) -> Result<Vec<String>, Fault> {
    let able: &[&str] = match operation {
        Operation::On => &["On", "ForceOn"],
        Operation::OffHard => &["ForceOff"],
        // The button means the same to a system that runs.
        Operation::OffSoft => &["GracefulShutdown", "PushPowerButton"],
        Operation::Cycle => &["ForceRestart", "PowerCycle", "FullPowerCycle"],
        Operation::State | Operation::BootOnce(_) | Operation::Attach | Operation::Detach | Operation::Survey | Operation::Close => &[],
        Operation::Subscribe | Operation::Unsubscribe | Operation::Listen => &[],
    };
    choose(able, offered).ok_or_else(|| Fault::NotOffered {
        wanted: able.join(" or "),
        offered: said(offered),
    })
}

/// What is offered, in the words of who offers it.
fn choose(able: &[&str], offered: Option<&[String]>) -> Option<Vec<String>> {
    let chosen: Vec<String> = match offered {
        None => able.iter().map(|word| (*word).to_owned()).collect(),
        Some(offered) => able
            .iter()
            .filter_map(|word| offered.iter().find(|own| own.eq_ignore_ascii_case(word)).cloned())
            .collect(),
    };
    (!chosen.is_empty()).then_some(chosen)
}

fn said(offered: Option<&[String]>) -> String {
    match offered {
        None | Some([]) => "nothing".to_owned(),
        Some(offered) => crate::fault::quoted(&offered.join(", "), &[]),
    }
}

/// The word for a boot device that this system takes.
///
/// # Errors
/// [`Fault::NotOffered`].
pub fn target(device: BootDevice, shown: &Boot, quirk: &Quirk) -> Result<String, Fault> {
    let able: &[&str] = match device {
        BootDevice::Network => &["Pxe"],
        BootDevice::Http => &["UefiHttp"],
        BootDevice::Disk => &["Hdd"],
        BootDevice::Media => quirk.medium,
        BootDevice::Setup => &["BiosSetup"],
    };
    // An empty list is one that was forgotten.
    let offered = shown.targets.as_deref().filter(|targets| !targets.is_empty());
    choose(able, offered)
        .and_then(|chosen| chosen.into_iter().next())
        .ok_or_else(|| Fault::NotOffered {
            wanted: format!("to boot once from {device} ({})", able.join(" or ")),
            offered: said(offered),
        })
}

/// The changes that set a boot override, to be tried in this order: each is what some controller wants.
#[must_use]
pub fn overrides(target: &str, firmware: Firmware, shown: &Boot, quirk: &Quirk) -> Vec<Value> {
    let mode = match firmware {
        Firmware::Bios => "Legacy",
        Firmware::Uefi => "UEFI",
    };
    let with = json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target, "BootSourceOverrideMode": mode}});
    let without = json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target}});
    match quirk.mode {
        Mode::Never => vec![without],
        // Without the mode it goes back to the default, unseen; only one that knows no mode is told without.
        Mode::Always if shown.mode.is_some() => vec![with],
        Mode::Always => vec![with, without],
        Mode::WhereShown if shown.mode.is_some() => vec![with, without],
        Mode::WhereShown => vec![without],
    }
}

/// What an action that inserts an image is told, to be tried in this order: with what the standard has as optional, which some refuse; without; and with what some demand
/// (openstack/sushy, resources/manager/virtual_media).
#[must_use]
pub fn insertions(url: &str) -> Vec<Value> {
    let protocol = if url.to_ascii_lowercase().starts_with("https:") {
        "HTTPS"
    } else {
        "HTTP"
    };
    vec![
        json!({"Image": url, "Inserted": true, "WriteProtected": true}),
        json!({"Image": url}),
        json!({"Image": url, "TransferProtocolType": protocol}),
        json!({"Image": url, "TransferProtocolType": protocol, "TransferMethod": "Stream"}),
    ]
}

/// Whether a boot override is shown that leads to the target. Some show `Continuous` for what was set for once.
#[must_use]
pub fn shows(target: &str, shown: &Boot) -> bool {
    let on = shown
        .enabled
        .as_deref()
        .is_none_or(|enabled| !enabled.eq_ignore_ascii_case("Disabled"));
    on && shown.target.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(target))
}

/// A place for a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Where it is.
    pub link: Link,
    /// Whether it takes CDs or DVDs.
    pub optical: bool,
    /// Whether something is in it.
    pub inserted: bool,
    /// What.
    pub image: Option<String>,
    /// Where something is inserted; else the document is changed.
    pub insert: Option<Link>,
    /// Where it is emptied.
    pub eject: Option<Link>,
}

impl Drive {
    /// Its place among the drives that can be tried: those first that have an action to insert an image. An empty one is not better than one that holds something: of two that
    /// hold an image, firmware boots whichever it likes.
    #[must_use]
    pub fn rank(&self, quirk: &Quirk) -> (bool, bool) {
        let name = self.link.last_segment();
        (quirk.last_drives.iter().any(|begin| name.starts_with(begin)), self.insert.is_none())
    }

    /// Whether this image is in it.
    #[must_use]
    pub fn holds(&self, url: &str) -> bool {
        self.inserted && self.image.as_deref() == Some(url)
    }

    /// Whether another image than this is in it. A controller that does not tell what it holds, or tells the name alone, is no proof of that.
    #[must_use]
    pub fn holds_another(&self, url: &str) -> bool {
        let file = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        let told = self.image.as_deref().filter(|image| !image.is_empty());
        told.is_some_and(|image| file(image) != file(url))
    }

    /// Reads a VirtualMedia document.
    #[must_use]
    pub fn read(link: Link, document: &Value) -> Self {
        let actions = reader::member(document, "Actions").unwrap_or(&Value::Null);
        let target = |name: &str| reader::member(actions, name).and_then(|action| reader::link(action, "target"));
        let optical = |word: &str| ["cd", "dvd"].iter().any(|kind| word.to_ascii_lowercase().contains(kind));
        let image = reader::text(document, "Image");
        Self {
            optical: match reader::words(document, "MediaTypes") {
                Some(types) => types.iter().any(|kind| optical(kind)),
                None => ["Id", "Name"]
                    .iter()
                    .any(|name| reader::text(document, name).is_some_and(|word| optical(&word))),
            },
            inserted: reader::flag(document, "Inserted").unwrap_or(image.is_some()),
            image,
            insert: target("#VirtualMedia.InsertMedia"),
            eject: target("#VirtualMedia.EjectMedia"),
            link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redfish::quirks;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_best_reset_that_is_offered_is_taken() {
        let offered = words(&["on", "ForceOff", "PowerCycle", "PushPowerButton"]);
        assert_eq!(resets(Operation::On, Some(&offered)), Ok(words(&["on"])));
        assert_eq!(resets(Operation::Cycle, Some(&offered)), Ok(words(&["PowerCycle"])));
        assert_eq!(resets(Operation::OffSoft, Some(&offered)), Ok(words(&["PushPowerButton"])));
        assert_eq!(resets(Operation::On, None), Ok(words(&["On", "ForceOn"])));
        let refused = resets(Operation::OffHard, Some(&words(&["On"]))).expect_err("not offered");
        assert_eq!(refused.to_string(), "this controller does not offer ForceOff; it offers On");
    }

    #[test]
    fn an_override_is_said_as_the_vendor_wants_it() {
        let shown = Boot {
            mode: Some("Legacy".to_owned()),
            ..Boot::default()
        };
        let modes = |vendor: &str, shown: &Boot| -> Vec<Option<String>> {
            overrides("Pxe", Firmware::Uefi, shown, quirks::of(vendor))
                .iter()
                .map(|body| reader::text(&body["Boot"], "BootSourceOverrideMode"))
                .collect()
        };
        let uefi = || Some("UEFI".to_owned());
        assert_eq!(modes("Anybody", &shown), [uefi(), None]);
        assert_eq!(modes("Anybody", &Boot::default()), [None]);
        assert_eq!(modes("Super Micro, Supermicro", &Boot::default()), [uefi(), None]);
        assert_eq!(modes("HPE", &shown), [None]);
    }

    #[test]
    fn a_medium_is_booted_by_the_word_that_is_offered() {
        let shown = Boot {
            targets: Some(words(&["None", "Pxe", "UsbCd"])),
            ..Boot::default()
        };
        assert_eq!(target(BootDevice::Media, &shown, &quirks::STANDARD), Ok("UsbCd".to_owned()));
        assert!(target(BootDevice::Http, &shown, &quirks::STANDARD).is_err());
        let both = Boot {
            targets: Some(words(&["None", "Cd", "UsbCd"])),
            ..Boot::default()
        };
        assert_eq!(target(BootDevice::Media, &both, &quirks::STANDARD), Ok("Cd".to_owned()));
        assert_eq!(target(BootDevice::Media, &both, quirks::of("Supermicro")), Ok("UsbCd".to_owned()));
    }

    #[test]
    fn an_image_is_named_with_what_is_optional_and_then_with_what_some_demand() {
        let all = insertions("https://192.0.2.1/a.iso");
        assert_eq!(all[0]["Inserted"], true);
        assert_eq!(all[1], json!({"Image": "https://192.0.2.1/a.iso"}));
        assert_eq!(all[2]["TransferProtocolType"], "HTTPS");
        assert_eq!(insertions("http://192.0.2.1/a.iso")[3]["TransferProtocolType"], "HTTP");
        assert_eq!(all[3]["TransferMethod"], "Stream");
    }

    #[test]
    fn drives_that_take_no_image_of_ours_come_last() {
        let drive = |id: &str, actions: &Value| {
            let link = Link::parse(&format!("/redfish/v1/Systems/1/VirtualMedia/{id}")).expect("a link");
            Drive::read(link, &json!({"MediaTypes": ["CD"], "Actions": actions}))
        };
        let action = json!({"#VirtualMedia.InsertMedia": {"target": "/redfish/v1/x/y"}});
        let (rdoc, ext) = (drive("RDOC1", &action), drive("EXT1", &json!({})));
        assert!(ext.rank(quirks::of("Lenovo")) < rdoc.rank(quirks::of("Lenovo")));
        assert!(rdoc.rank(&quirks::STANDARD) < ext.rank(&quirks::STANDARD));
    }
}
