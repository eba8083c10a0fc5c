//! What makes one vendor's controller unlike another's, as data: files in `profiles/`, each value with where it is told, or named as not verified.
//!
//! A profile says only what a client can see: where documents are, what they show, what is taken, refused and answered. It is written from public documents, schemas
//! and what users of such machines wrote down; none was made by looking at a machine. What a file says and nobody can be named for is in its list `unverified`.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

/// The files, in the order of the documentation.
static FILES: [(&str, &str); 12] = [
    ("idrac-9", include_str!("../profiles/idrac-9.json")),
    ("idrac-10", include_str!("../profiles/idrac-10.json")),
    ("ilo-5", include_str!("../profiles/ilo-5.json")),
    ("ilo-6", include_str!("../profiles/ilo-6.json")),
    ("supermicro-x10", include_str!("../profiles/supermicro-x10.json")),
    ("supermicro-x11", include_str!("../profiles/supermicro-x11.json")),
    ("supermicro-x13", include_str!("../profiles/supermicro-x13.json")),
    ("lenovo-xcc", include_str!("../profiles/lenovo-xcc.json")),
    ("ami-megarac", include_str!("../profiles/ami-megarac.json")),
    ("openbmc", include_str!("../profiles/openbmc.json")),
    ("nvidia-hgx", include_str!("../profiles/nvidia-hgx.json")),
    ("sushy-tools", include_str!("../profiles/sushy-tools.json")),
];

/// All profiles. That each file can be read is held by a test; one that cannot is left out.
pub static ALL: LazyLock<Vec<Arc<Profile>>> = LazyLock::new(|| {
    FILES
        .iter()
        .filter_map(|(name, text)| match Profile::parse(text) {
            Ok(profile) => Some(Arc::new(profile)),
            Err(error) => {
                tracing::error!(profile = name, %error, "a profile of this program cannot be read");
                None
            }
        })
        .collect()
});

/// The profile of this name.
#[must_use]
pub fn named(name: &str) -> Option<Arc<Profile>> {
    ALL.iter().find(|profile| profile.name == name).cloned()
}

/// A profile that is not one.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ProfileError {
    /// Which member.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A kind of controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Its name in commands and tests.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// How it calls itself.
    pub identity: Identity,
    /// Where documents are.
    pub paths: Paths,
    /// Its sessions. None: it has none, each request says user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Sessions>,
    /// How machines are reset.
    pub power: Power,
    /// How the next boot is chosen.
    pub boot: Boot,
    /// Its virtual drives. None: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// What it says that its machine is.
    pub inventory: Inventory,
    /// The events that it sends. None: it has no event service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,
    /// Where values are told, by their path here: `boot` stands for all of `boot` that is not named more closely.
    pub sources: BTreeMap<String, String>,
    /// Paths of values that nobody can be named for.
    pub unverified: Vec<String>,
    /// What else is told of it, and is not simulated.
    pub notes: Vec<Note>,
}

/// How a controller calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// `Manufacturer` of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// `Vendor` of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `Product` of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// `RedfishVersion`.
    pub version: String,
}

/// Where documents are. In names, `{n}` counts from 1, `{0}` from 0, `{+}` is nothing for the first and counts from 2 then, `{uuid}` is the machine's UUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Paths {
    /// The name of a machine below `Systems`.
    pub system: String,
    /// The name of its manager below `Managers`.
    pub manager: String,
    /// Further machines below `Systems` that are no machines to switch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub besides: Vec<String>,
    /// Links end with a slash.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trailing_slash: bool,
    /// Links begin with scheme and a name by which only the controller knows itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub absolute: bool,
}

/// Sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sessions {
    /// How many at the same time.
    pub most: usize,
    /// After how many seconds without a request one ends by itself.
    pub timeout_seconds: u64,
    /// The status of one too many.
    pub full: u16,
}

/// Where something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResetsShown {
    /// In the action itself.
    Action,
    /// In a document that the action leads to.
    ActionInfo,
    /// In both.
    Both,
    /// Nowhere.
    Nowhere,
}

/// How what takes time is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskShown {
    /// The answer's `Location` is a monitor.
    Monitor,
    /// The answer's content is the task.
    Document,
}

/// How machines are reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Power {
    /// Values of `ResetType` that are taken.
    pub resets: Vec<String>,
    /// Where they are shown.
    pub shown: ResetsShown,
    /// The status of a reset that is taken.
    pub answer: u16,
    /// With 202: how its end is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskShown>,
    /// The status of switching on what is on, or off what is off. None: it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_so: Option<u16>,
    /// While it changes, `PowerState` says so (`PoweringOn`, `PoweringOff`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub transitional: bool,
}

/// Which document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// The machine's own.
    #[default]
    System,
    /// That of its pending settings (`@Redfish.Settings`).
    Settings,
    /// Neither.
    Nowhere,
}

/// What becomes of the firmware mode in a boot override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It can be set.
    Writable,
    /// It is shown, and refused when it is set.
    ReadOnly,
    /// There is none, and it is refused.
    Absent,
    /// It goes back to `Legacy` when it is not said.
    Reverts,
}

/// How the firmware mode is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ModeShown {
    /// As it is.
    #[default]
    AsItIs,
    /// As null.
    Null,
}

/// What becomes of `Once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Once {
    /// The next boot consumes it.
    #[default]
    Kept,
    /// It is taken and means all boots.
    Ignored,
}

/// Versions of documents (`ETag`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Etag {
    /// There are none.
    #[default]
    None,
    /// As a strong one: `"7"`.
    Strong,
    /// As a weak one: `W/"7"`, and taken as such or as a strong one.
    Weak,
    /// As a strong one that looks weak: `"W/'7'"`.
    QuotedWeak,
}

/// How the next boot is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Boot {
    /// Values of `BootSourceOverrideTarget` that are taken.
    pub targets: Vec<String>,
    /// Where they are shown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub targets_shown: Place,
    /// Values of `BootSourceOverrideEnabled` that are taken.
    pub enabled: Vec<String>,
    /// What becomes of `Once`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub once: Once,
    /// What becomes of `BootSourceOverrideMode`.
    pub mode: Mode,
    /// How it is shown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode_shown: ModeShown,
    /// Where it is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at: Place,
    /// The name of the document of pending settings, below the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    /// Targets by which an attached medium is really booted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<String>,
    /// The status of a change that is taken.
    pub answer: u16,
    /// Its content is the document as it is then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub answers_document: bool,
    /// Versions of the documents.
    #[serde(default, skip_serializing_if = "is_default")]
    pub etag: Etag,
    /// A change without a version is refused (428).
    #[serde(default, skip_serializing_if = "is_false")]
    pub etag_demanded: bool,
    /// The status of a change while the machine boots. None: it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub while_booting: Option<u16>,
}

/// Virtual drives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Media {
    /// Those below the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<Drive>,
    /// Those below its manager.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manager: Vec<Drive>,
    /// The machine's document leads to its manager's drives.
    #[serde(default, skip_serializing_if = "is_false")]
    pub linked_from_system: bool,
    /// Schemes of URLs that are taken. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemes: Vec<String>,
}

/// Events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Events {
    /// How many subscriptions at the same time.
    pub most: usize,
    /// The status of one too many.
    pub full: u16,
    /// They are places that are always there: a free one is changed, none is made or deleted. The name is that of the vendor's own object in `Oem`, whose
    /// `EnableSubscription` switches one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<String>,
    /// Members that are taken; with another one a subscription is refused.
    pub takes: Vec<String>,
    /// Members without which it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// `EventTypesForSubscription`. Empty: the member is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// `EventFormatTypes`. Empty: the member is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// `RegistryPrefixes`. Empty: the member is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registries: Vec<String>,
    /// Schemes of destinations that are taken.
    pub schemes: Vec<String>,
    /// A destination's certificate is checked unless the subscription says otherwise (`VerifyCertificate`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub verifies: bool,
    /// A subscription whose events do not arrive is taken away, unless it says otherwise (`DeliveryRetryPolicy`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub gives_up: bool,
    /// Where the stream of events is, below the root. None: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// How many streams at the same time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub streams: usize,
    /// `MessageId` of the event that a machine is on, and of the one that it is off.
    pub messages: [String; 2],
    /// The status of a subscription that is taken.
    pub answer: u16,
}

/// How a medium is put into a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Insert {
    /// By its actions.
    Action,
    /// By changing its document.
    Patch,
    /// By its actions, and every image that boots is too large for it.
    SmallOnly,
    /// Not at all.
    None,
}

/// When the action that empties a drive is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EjectShown {
    /// Always.
    #[default]
    Always,
    /// When something is in it.
    WhenInserted,
}

/// What stands for the image of an empty drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EmptyImage {
    /// Null.
    #[default]
    Null,
    /// Text of no length.
    Text,
}

/// A virtual drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drive {
    /// Its name.
    pub id: String,
    /// `MediaTypes`. Empty: the member is not there.
    pub types: Vec<String>,
    /// How something is put into it.
    pub insert: Insert,
    /// Members without which it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Members with which it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<String>,
    /// Emptied, it still shows the image.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keeps_image: bool,
    /// When the action that empties it is there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub eject_shown: EjectShown,
    /// Emptying it wants a JSON object, be it empty.
    #[serde(default, skip_serializing_if = "is_false")]
    pub eject_wants_body: bool,
    /// What stands for the image when it is empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub empty_image: EmptyImage,
    /// The status of what is taken.
    pub answer: u16,
}

/// Where drives are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Drives {
    /// In `Storage`, each with a document.
    Storage,
    /// In `SimpleStorage`, as devices of one document.
    SimpleStorage,
    /// In HPE's own `SmartStorage`; `Storage` is there, and empty.
    SmartStorage,
    /// Nowhere.
    Nowhere,
}

/// What is sent along with a collection (`$expand`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expands {
    /// Nothing: the query is ignored.
    Nothing,
    /// What is below it, of one level.
    Below,
    /// So many levels as are asked for.
    Levels,
}

/// What a controller says that its machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inventory {
    /// `Model` of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The member that holds the serial number which SMBIOS has too. None: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Members of `ProcessorSummary` that are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub summary: Vec<String>,
    /// Whether processors have documents.
    #[serde(default, skip_serializing_if = "is_false")]
    pub processors: bool,
    /// Whether there are `EthernetInterfaces`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub interfaces: bool,
    /// Whether there are `NetworkInterfaces`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub adapters: bool,
    /// Where drives are told of.
    pub drives: Drives,
    /// How many.
    #[serde(default = "some_drives", skip_serializing_if = "are_some_drives")]
    pub drive_count: usize,
    /// What is sent along.
    pub expands: Expands,
}

const fn some_drives() -> usize {
    6
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn are_some_drives(count: &usize) -> bool {
    *count == some_drives()
}

/// Something that is told of a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// What.
    pub what: String,
    /// Where.
    pub source: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// [`ProfileError`] with the member that is wrong.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let profile: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| ProfileError {
            field: error.path().to_string(),
            problem: error.inner().to_string(),
        })?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), ProfileError> {
        let wrong = |field: &str, problem: &str| {
            Err(ProfileError {
                field: field.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if self.power.resets.is_empty() {
            return wrong("power.resets", "a machine without any cannot be switched");
        }
        if (self.power.answer == 202) != self.power.task.is_some() {
            return wrong("power.task", "goes with the answer 202, and with no other");
        }
        if self.boot.at == Place::Nowhere {
            return wrong("boot.at", "is system or settings");
        }
        if self.boot.settings.is_none() && (self.boot.at == Place::Settings || self.boot.targets_shown == Place::Settings) {
            return wrong("boot.settings", "the document of pending settings has no name");
        }
        if self.boot.etag_demanded && self.boot.etag == Etag::None {
            return wrong("boot.etagDemanded", "there are no versions to be said");
        }
        if let Some(events) = &self.events {
            if events.stream.is_some() != (events.streams > 0) {
                return wrong("events.streams", "goes with events.stream");
            }
            if let Some(nothing) = events.requires.iter().find(|member| !events.takes.contains(member)) {
                return wrong("events.requires", &format!("{nothing} is not among those that are taken"));
            }
        }
        if let Some(nothing) = self.boot.media.iter().find(|word| !self.boot.targets.contains(word)) {
            return wrong("boot.media", &format!("{nothing} is not among the targets"));
        }
        Ok(())
    }

    /// The paths of all its values: two members deep, the drives' members as if there were one drive.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        let mut all = std::collections::BTreeSet::new();
        let Ok(serde_json::Value::Object(rooms)) = serde_json::to_value(self) else {
            return Vec::new();
        };
        for room in ["identity", "paths", "sessions", "power", "boot", "media", "inventory", "events"] {
            let Some(serde_json::Value::Object(members)) = rooms.get(room) else {
                continue;
            };
            for (name, value) in members {
                let drives = value.as_array().filter(|_| room == "media" && name != "schemes");
                match drives {
                    Some(drives) => {
                        let members = drives.iter().filter_map(serde_json::Value::as_object).flatten();
                        all.extend(members.map(|(name, _)| format!("{room}.{name}")));
                    }
                    None => {
                        all.insert(format!("{room}.{name}"));
                    }
                }
            }
        }
        all.into_iter().collect()
    }

    /// Where a value is told. None: nowhere that can be named.
    #[must_use]
    pub fn source(&self, value: &str) -> Option<&str> {
        let is_named = |list: &str| self.unverified.iter().any(|own| own == list);
        let room = value.split('.').next().unwrap_or_default();
        if is_named(value) {
            return None;
        }
        if let Some(source) = self.sources.get(value) {
            return Some(source);
        }
        if is_named(room) {
            return None;
        }
        self.sources.get(room).map(String::as_str)
    }

    /// Whether each of its values has a source.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.unverified.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_profile_of_its_name() {
        for (name, text) in FILES {
            let profile = Profile::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(profile.name, name);
        }
        assert_eq!(ALL.len(), FILES.len());
    }

    #[test]
    fn every_value_has_a_source_or_is_said_to_have_none() {
        for profile in ALL.iter() {
            let values = profile.values();
            assert!(values.len() > 10, "{}: {values:?}", profile.name);
            for value in &values {
                let room = value.split('.').next().unwrap_or_default();
                let unverified = profile.unverified.iter().any(|own| own == value || own == room);
                assert!(
                    profile.source(value).is_some() || unverified,
                    "{}: {value} has neither a source nor is it named as unverified",
                    profile.name
                );
                assert!(
                    !(profile.unverified.contains(value) && profile.sources.contains_key(value)),
                    "{}: {value} has both",
                    profile.name
                );
            }
            let known = |path: &String| values.iter().any(|value| value == path || value.split('.').next() == Some(path));
            for path in profile.sources.keys().chain(&profile.unverified) {
                assert!(known(path), "{}: there is no {path}", profile.name);
            }
            for source in profile.sources.values().chain(profile.notes.iter().map(|note| &note.source)) {
                assert!(source.starts_with("https://"), "{}: {source}", profile.name);
            }
        }
    }

    #[test]
    fn a_wrong_member_is_named() {
        let text = FILES[0].1;
        let field = |from: &str, to: &str| Profile::parse(&text.replacen(from, to, 1)).expect_err("it is wrong").field;
        assert_eq!(field("\"answer\": 204", "\"answer\": \"yes\""), "power.answer");
        assert_eq!(field("\"media\": [\"Cd\"]", "\"media\": [\"Tape\"]"), "boot.media");
        assert_eq!(field("\"answer\": 204", "\"answer\": 202"), "power.task");
        assert_eq!(field("\"title\"", "\"tittle\""), "tittle");
    }
}
