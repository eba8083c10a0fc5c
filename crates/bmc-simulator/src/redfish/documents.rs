//! What is read: the service's documents, made from what the controller is and remembers. DSP0268 (schemas).

use serde_json::{Value, json};

use super::{ROOT, eject_is_shown};
use crate::{
    bmc::{Bmc, Loaded},
    faults::Claim,
    host::{Enabled, Override, Power},
    profile::{Drive, EmptyImage, Insert, Mode, ModeShown, Place, ResetsShown},
};

/// A link to a place below the root.
pub(super) fn link(path: &str) -> Value {
    json!({"@odata.id": format!("{ROOT}{path}")})
}

pub(super) fn collection(kind: &str, at: &str, members: impl IntoIterator<Item = String>) -> Value {
    let members: Vec<Value> = members.into_iter().map(|member| link(&format!("{at}/{member}"))).collect();
    json!({
        "@odata.id": format!("{ROOT}{at}"),
        "@odata.type": format!("#{kind}Collection.{kind}Collection"),
        "Name": format!("{kind} Collection"),
        "Members@odata.count": members.len(),
        "Members": members,
    })
}

/// Adds a member, if there is something to say.
fn add(document: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        document[name] = value.into();
    }
}

impl Bmc {
    pub(super) fn root(&self) -> Value {
        let mut root = json!({
            "@odata.id": format!("{ROOT}/"),
            "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
            "Id": "RootService",
            "Name": "Root Service",
            "RedfishVersion": self.profile.identity.version,
            "UUID": self.service_uuid(),
            "Systems": link("/Systems"),
            "Managers": link("/Managers"),
            "Tasks": link("/TaskService"),
            "Links": {},
        });
        if let Some(features) = self.features() {
            root["ProtocolFeaturesSupported"] = features;
        }
        add(&mut root, "Vendor", self.profile.identity.vendor.clone());
        add(&mut root, "Product", self.profile.identity.product.clone());
        if self.profile.events.is_some() {
            root["EventService"] = link("/EventService");
        }
        if self.profile.sessions.is_some() {
            root["SessionService"] = link("/SessionService");
            root["Links"]["Sessions"] = link("/SessionService/Sessions");
        }
        root
    }

    pub(super) fn systems(&self) -> Value {
        let own = (0..self.hosts.len()).map(|system| self.system_id(system));
        collection("ComputerSystem", "/Systems", own.chain(self.profile.paths.besides.iter().cloned()))
    }

    pub(super) fn managers(&self) -> Value {
        collection("Manager", "/Managers", (0..self.hosts.len()).map(|system| self.manager_id(system)))
    }

    pub(super) fn session_service(&self) -> Option<Value> {
        let sessions = self.profile.sessions.as_ref()?;
        Some(json!({
            "@odata.id": format!("{ROOT}/SessionService"),
            "@odata.type": "#SessionService.v1_1_6.SessionService",
            "Id": "SessionService",
            "Name": "Session Service",
            "ServiceEnabled": true,
            "SessionTimeout": sessions.timeout_seconds,
            "Sessions": link("/SessionService/Sessions"),
        }))
    }

    pub(super) fn session_list(&self) -> Option<Value> {
        self.profile.sessions.as_ref()?;
        let ids: Vec<String> = self.memory().sessions.values().map(|session| session.id.to_string()).collect();
        Some(collection("Session", "/SessionService/Sessions", ids))
    }

    pub(super) fn task_document(&self, id: &str, done: bool) -> Value {
        json!({
            "@odata.id": format!("{ROOT}/TaskService/Tasks/{id}"),
            "@odata.type": "#Task.v1_4_2.Task",
            "Id": id,
            "Name": "Computer Reset",
            "TaskState": if done { "Completed" } else { "New" },
            "TaskMonitor": format!("{ROOT}/TaskService/TaskMonitors/{id}"),
        })
    }

    /// A machine, with a power state that is claimed or the one that is.
    pub(super) fn system(&self, system: usize, claim: Option<Claim>) -> Value {
        let id = self.system_id(system);
        let at = format!("/Systems/{id}");
        let Some(host) = self.hosts.get(system) else { return Value::Null };
        let power = match (claim, host.power()) {
            (Some(Claim::On), _) => "On",
            (Some(Claim::Off), _) => "Off",
            (None, Power::PoweringOn) if self.profile.power.transitional => "PoweringOn",
            (None, Power::PoweringOff) if self.profile.power.transitional => "PoweringOff",
            (None, power) if power.is_on() => "On",
            (None, _) => "Off",
        };
        let mut document = json!({
            "@odata.id": format!("{ROOT}{at}"),
            "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem",
            "Id": id,
            "Name": "System",
            "SystemType": "Physical",
            "UUID": self.uuid(system),
            "PowerState": power,
            "BiosVersion": "1.4",
            "Status": {"State": "Enabled", "Health": "OK", "HealthRollup": "OK"},
            "MemorySummary": {"TotalSystemMemoryGiB": 64, "Status": {"Health": "OK"}},
            "Boot": self.boot_document(&host.boot_override(), Place::System),
            "Links": {"ManagedBy": [link(&format!("/Managers/{}", self.manager_id(system)))], "Chassis": []},
            "Actions": {"#ComputerSystem.Reset": self.reset_action(&at)},
        });
        self.describe(system, &at, &mut document);
        add(&mut document, "Manufacturer", self.profile.identity.manufacturer.clone());
        if let Some(settings) = &self.profile.boot.settings {
            document["@Redfish.Settings"] = json!({
                "@odata.type": "#Settings.v1_3_0.Settings",
                "SupportedApplyTimes": ["OnReset"],
                "SettingsObject": link(&format!("{at}/{settings}")),
            });
        }
        if let Some(media) = &self.profile.media {
            if !media.system.is_empty() {
                document["VirtualMedia"] = link(&format!("{at}/VirtualMedia"));
            } else if media.linked_from_system {
                document["VirtualMedia"] = link(&format!("/Managers/{}/VirtualMedia", self.manager_id(system)));
            }
        }
        add(&mut document, "@odata.etag", self.etag(system));
        document
    }

    /// A machine that is none to switch.
    pub(super) fn beside(&self, id: &str) -> Value {
        json!({
            "@odata.id": format!("{ROOT}/Systems/{id}"),
            "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem",
            "Id": id,
            "Name": "Baseboard",
            "SystemType": "Physical",
            "PowerState": "On",
            "Boot": {},
            "Links": {"ManagedBy": [link(&format!("/Managers/{}", self.manager_id(0)))]},
        })
    }

    fn boot_document(&self, boot: &Override, place: Place) -> Value {
        let profile = &self.profile.boot;
        let enabled = match boot.enabled {
            Enabled::Disabled if !profile.enabled.iter().any(|word| word == "Disabled") => "Continuous",
            Enabled::Disabled => "Disabled",
            Enabled::Once => "Once",
            Enabled::Continuous => "Continuous",
        };
        let none = if profile.targets.iter().any(|word| word == "None") {
            "None"
        } else {
            "Hdd"
        };
        let target = if boot.word.is_empty() { none } else { &boot.word };
        let mut document = json!({
            "BootSourceOverrideEnabled": enabled,
            "BootSourceOverrideEnabled@Redfish.AllowableValues": profile.enabled,
            "BootSourceOverrideTarget": target,
            "UefiTargetBootSourceOverride": null,
        });
        if profile.mode != Mode::Absent {
            document["BootSourceOverrideMode"] = match profile.mode_shown {
                ModeShown::Null => Value::Null,
                ModeShown::AsItIs if boot.uefi == Some(false) => "Legacy".into(),
                ModeShown::AsItIs => "UEFI".into(),
            };
        }
        if profile.targets_shown == place {
            document["BootSourceOverrideTarget@Redfish.AllowableValues"] = json!(profile.targets);
        }
        document
    }

    fn reset_action(&self, at: &str) -> Value {
        let mut action = json!({"target": format!("{ROOT}{at}/Actions/ComputerSystem.Reset")});
        let shown = self.profile.power.shown;
        if matches!(shown, ResetsShown::Action | ResetsShown::Both) {
            action["ResetType@Redfish.AllowableValues"] = json!(self.profile.power.resets);
        }
        if matches!(shown, ResetsShown::ActionInfo | ResetsShown::Both) {
            action["@Redfish.ActionInfo"] = format!("{ROOT}{at}/ResetActionInfo").into();
        }
        action
    }

    pub(super) fn reset_info(&self, system: usize) -> Option<Value> {
        let shown = matches!(self.profile.power.shown, ResetsShown::ActionInfo | ResetsShown::Both);
        shown.then(|| {
            json!({
                "@odata.id": format!("{ROOT}/Systems/{}/ResetActionInfo", self.system_id(system)),
                "@odata.type": "#ActionInfo.v1_1_2.ActionInfo",
                "Id": "ResetActionInfo",
                "Name": "Reset Action Info",
                "Parameters": [{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": self.profile.power.resets}],
            })
        })
    }

    /// The pending settings of a machine.
    pub(super) fn settings(&self, system: usize) -> Value {
        let name = self.profile.boot.settings.as_deref().unwrap_or_default();
        let Some(host) = self.hosts.get(system) else { return Value::Null };
        let boot = if self.profile.boot.at == Place::Settings {
            self.boot_document(&host.pending_override().unwrap_or_else(|| host.boot_override()), Place::Settings)
        } else {
            json!({"BootOrder": ["Boot0000", "Boot0001"]})
        };
        let mut document = json!({
            "@odata.id": format!("{ROOT}/Systems/{}/{name}", self.system_id(system)),
            "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem",
            "Id": name,
            "Name": "Pending Settings",
            "Boot": boot,
        });
        add(&mut document, "@odata.etag", self.etag(system));
        document
    }

    pub(super) fn manager(&self, system: usize) -> Value {
        let id = self.manager_id(system);
        let mut document = json!({
            "@odata.id": format!("{ROOT}/Managers/{id}"),
            "@odata.type": "#Manager.v1_5_1.Manager",
            "Id": id,
            "Name": "Manager",
            "ManagerType": "BMC",
            "Links": {"ManagerForServers": [link(&format!("/Systems/{}", self.system_id(system)))]},
        });
        if self.profile.media.as_ref().is_some_and(|media| !media.manager.is_empty()) {
            document["VirtualMedia"] = link(&format!("/Managers/{id}/VirtualMedia"));
        }
        document
    }

    /// Where drives are: below the machine, or else below its manager.
    pub(super) fn drives_at(&self, system: usize, place: Place) -> String {
        match place {
            Place::System => format!("/Systems/{}/VirtualMedia", self.system_id(system)),
            Place::Settings | Place::Nowhere => format!("/Managers/{}/VirtualMedia", self.manager_id(system)),
        }
    }

    pub(super) fn drives(&self, system: usize, place: Place, drives: &[Drive]) -> Value {
        collection(
            "VirtualMedia",
            &self.drives_at(system, place),
            drives.iter().map(|drive| drive.id.clone()),
        )
    }

    pub(super) fn drive(&self, system: usize, place: Place, drive: &Drive, loaded: &Loaded) -> Value {
        let at = format!("{ROOT}{}/{}", self.drives_at(system, place), drive.id);
        let image = match &loaded.image {
            Some(image) => image.clone().into(),
            None if drive.empty_image == EmptyImage::Text => "".into(),
            None => Value::Null,
        };
        let mut document = json!({
            "@odata.id": at,
            "@odata.type": "#VirtualMedia.v1_4_1.VirtualMedia",
            "Id": drive.id,
            "Name": "Virtual Removable Media",
            "Image": image,
            "ImageName": image,
            "Inserted": loaded.inserted,
            "ConnectedVia": if loaded.inserted { "URI" } else { "NotConnected" },
            "WriteProtected": true,
        });
        if !drive.types.is_empty() {
            document["MediaTypes"] = json!(drive.types);
        }
        if matches!(drive.insert, Insert::Action | Insert::SmallOnly) {
            let action = |name: &str| json!({"target": format!("{at}/Actions/VirtualMedia.{name}")});
            document["Actions"] = json!({"#VirtualMedia.InsertMedia": action("InsertMedia")});
            if eject_is_shown(drive.eject_shown, loaded.inserted) {
                document["Actions"]["#VirtualMedia.EjectMedia"] = action("EjectMedia");
            }
        }
        add(&mut document, "@odata.etag", self.etag(system));
        document
    }
}
