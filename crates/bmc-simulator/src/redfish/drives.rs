//! Virtual media: images are named and never fetched.

use serde_json::{Value, json};

use super::{ROOT, Request, missing, refusal, taken};
use crate::{
    http::Answer,
    profile::{Drive, Insert, Place},
};

impl Request<'_> {
    pub(super) fn of_drives(&self, method: &str, system: usize, place: Place, rest: &[&str]) -> Answer {
        let Some(media) = &self.bmc.profile.media else {
            return missing();
        };
        let drives = match place {
            Place::System => &media.system,
            Place::Settings | Place::Nowhere => &media.manager,
        };
        if drives.is_empty() {
            return missing();
        }
        let [id, rest @ ..] = rest else {
            return match method {
                "GET" => Answer::json(200, self.bmc.drives(system, place, drives)),
                _ => refusal(405, "OperationNotAllowed", "this can only be read", &[]),
            };
        };
        let Some(drive) = drives.iter().find(|drive| drive.id == **id) else {
            return missing();
        };
        match (method, rest) {
            ("GET", []) => self.show(system, place, drive),
            ("PATCH", []) if drive.insert == Insert::Patch => self.patch(system, place, drive),
            ("PATCH", []) => refusal(405, "OperationNotAllowed", "this can only be read", &[]),
            ("POST", ["Actions", "VirtualMedia.InsertMedia"]) if matches!(drive.insert, Insert::Action | Insert::SmallOnly) => {
                match self.insert(system, drive) {
                    Ok(()) => self.carried_out(drive),
                    Err(refused) => refused,
                }
            }
            ("POST", ["Actions", "VirtualMedia.EjectMedia"]) if matches!(drive.insert, Insert::Action | Insert::SmallOnly) => {
                if drive.eject_wants_body && !self.ask.body.is_object() {
                    return refusal(400, "MalformedJSON", "the request has no JSON object in it", &[]);
                }
                self.eject(system, drive);
                self.carried_out(drive)
            }
            _ => missing(),
        }
    }

    fn show(&self, system: usize, place: Place, drive: &Drive) -> Answer {
        let loaded = self
            .bmc
            .memory()
            .drives
            .get(&(system, drive.id.clone()))
            .cloned()
            .unwrap_or_default();
        self.versioned(system, self.bmc.drive(system, place, drive, &loaded))
    }

    fn carried_out(&self, drive: &Drive) -> Answer {
        if drive.answer != 202 {
            return taken(drive.answer);
        }
        let id = self.bmc.begin_task();
        Answer::json(202, self.bmc.task_document(&id.to_string(), false))
            .with("location", format!("{ROOT}/TaskService/TaskMonitors/{id}"))
            .with("retry-after", "1")
    }

    fn patch(&self, system: usize, place: Place, drive: &Drive) -> Answer {
        if let Err(refused) = self.check_version(system) {
            return refused;
        }
        let empties = self.ask.body.get("Image").is_some_and(Value::is_null) || self.ask.body.get("Inserted") == Some(&json!(false));
        if empties {
            self.eject(system, drive);
        } else if let Err(refused) = self.insert(system, drive) {
            return refused;
        }
        self.show(system, place, drive)
    }

    fn insert(&self, system: usize, drive: &Drive) -> Result<(), Answer> {
        let body = &self.ask.body;
        let Some(image) = body.get("Image").and_then(Value::as_str).filter(|image| !image.is_empty()) else {
            return Err(refusal(400, "ActionParameterMissing", "there is no Image", &["Image"]));
        };
        if let Some(name) = drive.requires.iter().find(|name| body.get(name.as_str()).is_none()) {
            return Err(refusal(
                400,
                "ActionParameterMissing",
                &format!("it needs the parameter {name}"),
                &[name],
            ));
        }
        if let Some(name) = drive.refuses.iter().find(|name| body.get(name.as_str()).is_some()) {
            return Err(refusal(
                400,
                "ActionParameterUnknown",
                &format!("it does not know the parameter {name}"),
                &[name],
            ));
        }
        let schemes = self.bmc.profile.media.as_ref().map_or(&[][..], |media| &media.schemes);
        let scheme = image.split("://").next().unwrap_or_default();
        if !schemes.is_empty() && !schemes.iter().any(|own| own == scheme) {
            return Err(refusal(
                400,
                "ActionParameterValueFormatError",
                &format!("images are fetched by {} only", schemes.join(" or ")),
                &["Image"],
            ));
        }
        if drive.insert == Insert::SmallOnly {
            return Err(refusal(
                400,
                "InsufficientStorage",
                "the image is larger than what is kept here",
                &["Image"],
            ));
        }
        let mut memory = self.bmc.memory();
        let loaded = memory.drives.entry((system, drive.id.clone())).or_default();
        if loaded.inserted {
            return Err(refusal(400, "ResourceInUse", "something is in it: eject that first", &["Image"]));
        }
        loaded.image = Some(image.to_owned());
        loaded.inserted = true;
        drop(memory);
        self.load(system);
        Ok(())
    }

    fn eject(&self, system: usize, drive: &Drive) {
        let mut memory = self.bmc.memory();
        let loaded = memory.drives.entry((system, drive.id.clone())).or_default();
        loaded.inserted = false;
        if !drive.keeps_image {
            loaded.image = None;
        }
        drop(memory);
        self.load(system);
    }

    /// Tells the machine what it would boot from: what is in its first drive that takes discs.
    fn load(&self, system: usize) {
        let Some(media) = &self.bmc.profile.media else { return };
        let discs = |drive: &&Drive| drive.types.is_empty() || drive.types.iter().any(|kind| kind == "CD" || kind == "DVD");
        let memory = self.bmc.memory();
        let image = media.system.iter().chain(&media.manager).filter(discs).find_map(|drive| {
            let loaded = memory.drives.get(&(system, drive.id.clone()))?;
            loaded.image.clone().filter(|_| loaded.inserted)
        });
        drop(memory);
        if let Some(host) = self.bmc.hosts.get(system) {
            host.set_image(image);
        }
    }
}
