//! Redfish (DSP0266) over HTTPS: power, the next boot, virtual media.
//!
//! | room | what |
//! |---|---|
//! | [`reader`] | documents, read leniently; pure |
//! | [`system`] | what a machine offers and the words that do what is wanted; pure |
//! | [`quirks`] | what vendors do in their own way, as data |
//! | [`inventory`] | what a machine's documents say that it is; pure |
//! | [`survey`] | the way through them, in parts |
//! | [`eventing`] | subscriptions, and streams of events |
//! | [`http`] | requests, sessions, errors |
//!
//! A machine is found from the service's root, once, and looked at freshly in each call: what it offers, which version of its document it is, whether it is on already.
//! Of several forms that the standard allows the next one is tried where a controller refuses one, never where it does not answer.
//!
//! What it does not do: firmware, BIOS settings; a medium is fetched by the controller itself and never passes through here.

pub mod eventing;
pub mod http;
pub mod inventory;
pub mod quirks;
pub mod reader;
mod survey;
pub mod system;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::Url;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::{
    http::{Conversation, Http, Reply},
    quirks::Quirk,
    reader::Link,
    survey::Walk,
    system::{Drive, System},
};
use crate::{
    driver::{Act, BootDevice, BootDevices, BootOnce, Capabilities, Driver, Kind, Media, Off, Operation, PowerState},
    events::{Stream, Subscription},
    fault::{Fault, quoted},
    inventory::{Depth, Survey},
    tls::Trust,
    web,
};

/// What is the same for all machines with Redfish.
pub static KIND: Kind = Kind {
    name: "redfish",
    title: "Redfish",
    capabilities: Capabilities {
        events: true,
        on: true,
        off_soft: true,
        off_hard: true,
        cycle: true,
        state: true,
        boot_once: BootDevices::of(&[
            BootDevice::Network,
            BootDevice::Http,
            BootDevice::Disk,
            BootDevice::Media,
            BootDevice::Setup,
        ]),
        media: true,
        inventory: true,
    },
    evidence: "sushy-tools 2.2 (fake driver; feature sets minimum, vmedia, full) by HTTP and HTTPS; sessions, tasks, ETags and settings resources against a service of the \
               tests' own; events against the simulator of BMCs only; not yet seen on real equipment",
};

/// Pages of a collection, and machines behind one service, that are looked at.
const PAGES: usize = 16;
const MACHINES: usize = 256;
/// How long a task is watched. A command whose task goes on after that was taken.
const WATCHED: Duration = Duration::from_secs(8);
/// How often a task, or a machine that goes off, is looked at where nobody says how often.
const LOOK: Duration = Duration::from_secs(1);
/// How long a machine that cannot be reset is given to go off before it is switched on.
const GOES_OFF: Duration = Duration::from_secs(8);

/// How a machine's controller is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Scheme, name and port: `https://192.0.2.7`.
    pub url: String,
    /// Whom to believe; none with `http`.
    pub trust: Option<Trust>,
    /// Who logs in.
    pub user: String,
    /// The password.
    pub password: SecretString,
    /// Which of several machines: its path, `Id`, UUID, serial number or name. None: the only one.
    pub system: Option<String>,
}

/// The controller at a URL, as [`Driver::controller`] names it. None: it is no URL.
#[must_use]
pub fn controller(url: &str) -> Option<String> {
    Url::parse(url).ok().map(|url| web::authority(&url))
}

/// A machine behind a Redfish service.
#[derive(Debug)]
pub struct Redfish {
    http: Http,
    controller: String,
    wanted: Option<String>,
    found: Mutex<Option<Link>>,
    /// A reading of what the machine is, as far as it came. Kept across a call that is cut off.
    walk: tokio::sync::Mutex<Option<Walk>>,
}

impl Redfish {
    /// A driver with these settings. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(settings: Settings) -> Result<Self, Fault> {
        if settings.system.as_ref().is_some_and(String::is_empty) {
            return Err(Fault::Settings {
                field: "system",
                problem: "it is empty: leave it out where the controller has one machine".to_owned(),
            });
        }
        let http = Http::new(&settings.url, settings.trust.as_ref(), settings.user, settings.password)?;
        Ok(Self {
            controller: http.authority(),
            http,
            wanted: settings.system,
            found: Mutex::default(),
            walk: tokio::sync::Mutex::default(),
        })
    }

    fn found(&self) -> Option<Link> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The machine, as it is now.
    async fn system(&self, talk: &Conversation<'_>) -> Result<(System, Option<String>), Fault> {
        if let Some(link) = self.found() {
            match talk.get(&link).await {
                Ok(document) => return Ok((System::read(link, &document.body), document.etag)),
                // It may have got another path, as after an update of the controller.
                Err(Fault::Refused(_)) => *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None,
                Err(fault) => return Err(fault),
            }
        }
        let (system, etag) = self.find(talk).await?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(system.link.clone());
        Ok((system, etag))
    }

    async fn find(&self, talk: &Conversation<'_>) -> Result<(System, Option<String>), Fault> {
        let root = talk.root().await?.body;
        let collection = reader::link(&root, "Systems").or_else(|| Link::parse("/redfish/v1/Systems"));
        let links = match collection {
            Some(collection) => collected(talk, collection).await?,
            None => Vec::new(),
        };
        let nothing = || Fault::NotOffered {
            wanted: "a machine (ComputerSystem)".to_owned(),
            offered: "none".to_owned(),
        };
        let Some(wanted) = &self.wanted else {
            return match links.as_slice() {
                [] => Err(nothing()),
                [link] => {
                    let document = talk.get(link).await?;
                    Ok((System::read(link.clone(), &document.body), document.etag))
                }
                several => Err(Fault::Settings {
                    field: "system",
                    problem: format!("the controller has several machines, name one of them: {}", names(several)),
                }),
            };
        };
        for link in &links {
            // One that cannot be read may be another's.
            if let Ok(document) = talk.get(link).await {
                let system = System::read(link.clone(), &document.body);
                if system.is_called(wanted) {
                    return Ok((system, document.etag));
                }
            }
        }
        if links.is_empty() {
            return Err(nothing());
        }
        Err(Fault::Settings {
            field: "system",
            problem: format!(
                "the controller has no machine that is called {:?}; it has: {}",
                quoted(wanted, &[]),
                names(&links)
            ),
        })
    }

    async fn switch(&self, operation: Operation) -> Result<(), Fault> {
        let talk = self.http.converse()?;
        let (system, _) = self.system(&talk).await?;
        let operation = match (operation, system.power) {
            (Operation::On, PowerState::On) | (Operation::OffHard | Operation::OffSoft, PowerState::Off) => return Ok(()),
            (Operation::Cycle, PowerState::Off) => Operation::On,
            (operation, _) => operation,
        };
        let offered = match (&system.resets, &system.reset_info) {
            (Some(resets), _) => Some(resets.clone()),
            // What cannot be read says nothing.
            (None, Some(info)) => talk.get(info).await.ok().and_then(|info| system::listed_resets(&info.body)),
            (None, None) => None,
        };
        let resets = match system::resets(operation, offered.as_deref()) {
            Err(_) if operation == Operation::Cycle => return self.off_and_on(&talk, &system, offered.as_deref()).await,
            resets => resets?,
        };
        reset(&talk, &system, &resets).await
    }

    /// What a controller without a reset can do instead.
    async fn off_and_on(&self, talk: &Conversation<'_>, system: &System, offered: Option<&[String]>) -> Result<(), Fault> {
        let on = system::resets(Operation::On, offered)?;
        reset(talk, system, &system::resets(Operation::OffHard, offered)?).await?;
        let began = Instant::now();
        while self.system(talk).await?.0.power != PowerState::Off {
            if began.elapsed() >= GOES_OFF {
                // The next try finds it off and switches it on.
                return Err(Fault::Busy {
                    detail: "it is still going off".to_owned(),
                    after: Some(Duration::from_secs(5)),
                });
            }
            sleep(LOOK).await;
        }
        reset(talk, system, &on).await
    }

    async fn tell(&self) -> Result<PowerState, Fault> {
        let talk = self.http.converse()?;
        Ok(self.system(&talk).await?.0.power)
    }

    async fn set_boot(&self, boot: BootOnce) -> Result<(), Fault> {
        let talk = self.http.converse()?;
        let (system, etag) = self.system(&talk).await?;
        let quirk = self.quirk(&talk, &system).await;
        let target = system::target(boot.device, &system.boot, quirk)?;
        let changes = system::overrides(&target, boot.firmware, &system.boot, quirk);
        let mut refused = match changed(&talk, &system.link, &changes, etag.as_deref()).await {
            Ok(()) => {
                let (now, _) = self.system(&talk).await?;
                return if system::shows(&target, &now.boot) {
                    Ok(())
                } else {
                    let shown = now.boot.target.unwrap_or_else(|| "none".to_owned());
                    Err(Fault::NotTaken(format!(
                        "it was told to boot once from {target} and shows {}",
                        quoted(&shown, &[])
                    )))
                };
            }
            Err(fault @ Fault::Refused(_)) => fault,
            Err(fault) => return Err(fault),
        };
        // Some have moved it to the resource of pending settings, where it is seen only when it has come to pass.
        if let Some(settings) = &system.settings {
            let etag = talk.get(settings).await.ok().and_then(|document| document.etag);
            match changed(&talk, settings, &changes, etag.as_deref()).await {
                Ok(()) => return Ok(()),
                Err(fault) => refused = fault,
            }
        }
        Err(refused)
    }

    async fn quirk(&self, talk: &Conversation<'_>, system: &System) -> &'static Quirk {
        match &system.vendor {
            Some(vendor) => quirks::of(vendor),
            // Old ones name themselves at the root only.
            None => talk
                .root()
                .await
                .ok()
                .and_then(|root| reader::text(&root.body, "Vendor"))
                .map_or(&quirks::STANDARD, |vendor| quirks::of(&vendor)),
        }
    }

    /// The places for CDs, the best first.
    async fn drives(&self, talk: &Conversation<'_>, system: &System) -> Result<Vec<Drive>, Fault> {
        let mut collections: Vec<Link> = system.media.iter().cloned().collect();
        for manager in &system.managers {
            if let Ok(document) = talk.get(manager).await {
                collections.extend(reader::link(&document.body, "VirtualMedia"));
            }
        }
        let mut drives = Vec::new();
        for collection in collections {
            // One of the two is often a copy that cannot be read.
            for link in collected(talk, collection).await.unwrap_or_default() {
                if let Ok(document) = talk.get(&link).await {
                    drives.push(Drive::read(link, &document.body));
                }
            }
            if drives.iter().any(|drive| drive.optical) {
                break;
            }
        }
        drives.retain(|drive| drive.optical);
        let quirk = self.quirk(talk, system).await;
        drives.sort_by_key(|drive| drive.rank(quirk));
        if drives.is_empty() {
            return Err(Fault::NotOffered {
                wanted: "a virtual CD drive".to_owned(),
                offered: "none to this user (on some it takes a licence)".to_owned(),
            });
        }
        Ok(drives)
    }

    async fn insert(&self, media: &Media) -> Result<(), Fault> {
        check(media)?;
        let talk = self.http.converse()?;
        let (system, _) = self.system(&talk).await?;
        let drives = self.drives(&talk, &system).await?;
        if drives.iter().any(|drive| drive.holds(&media.url)) {
            return Ok(());
        }
        let (mut last, began) = (Ok(()), Instant::now());
        for drive in &drives {
            last = insert_into(&talk, drive, &media.url).await;
            // Not every place that is shown takes every image. One that said so late has used up the time of the others.
            if !matches!(last, Err(Fault::Refused(_))) || began.elapsed() >= WATCHED / 2 {
                break;
            }
        }
        last
    }

    /// Reads on what the machine is.
    async fn read_on(&self, depth: Depth) -> Result<Survey, Fault> {
        let mut kept = self.walk.lock().await;
        let talk = self.http.converse()?;
        let under_way = kept
            .take()
            .filter(|walk| walk.depth == depth && walk.last.elapsed() < survey::TOO_OLD);
        let walk = match under_way {
            Some(walk) => walk,
            None => {
                let root = talk.root().await?.body;
                let document = match self.found() {
                    Some(link) => talk.get(&link).await.ok(),
                    None => None,
                };
                let document = match document {
                    Some(document) => document,
                    None => talk.get(&self.system(&talk).await?.0.link).await?,
                };
                let quirk = quirks::of(&reader::text(&document.body, "Manufacturer").unwrap_or_default());
                Walk::new(depth, &document.body, &root, quirk)
            }
        };
        let walk = kept.insert(walk);
        match walk.part(&talk).await {
            Ok(false) => Ok(Survey::More),
            Ok(true) => {
                let found = kept.take().map(|walk| walk.found().map_text(|text| talk.plain(text)));
                Ok(found.map_or(Survey::More, |found| Survey::Done(Box::new(found))))
            }
            // What has no time now goes on from here.
            Err(fault @ Fault::Busy { .. }) => Err(fault),
            Err(fault) => {
                *kept = None;
                Err(fault)
            }
        }
    }

    async fn take_out(&self, media: &Media) -> Result<(), Fault> {
        let talk = self.http.converse()?;
        let (system, _) = self.system(&talk).await?;
        let drives = self.drives(&talk, &system).await?;
        for drive in drives.iter().filter(|drive| drive.inserted && !drive.holds_another(&media.url)) {
            eject(&talk, drive).await?;
        }
        Ok(())
    }
}

/// Whether a controller may be told to fetch this.
fn check(media: &Media) -> Result<(), Fault> {
    let good = Url::parse(&media.url)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none());
    if good {
        return Ok(());
    }
    Err(Fault::Settings {
        field: "media.url",
        problem: "it must be an http or https URL without credentials: the controller fetches it and shows it to its users".to_owned(),
    })
}

fn names(links: &[Link]) -> String {
    let names: Vec<&str> = links.iter().take(20).map(Link::last_segment).collect();
    quoted(&names.join(", "), &[])
}

/// All members of a collection, over its pages.
async fn collected(talk: &Conversation<'_>, collection: Link) -> Result<Vec<Link>, Fault> {
    let mut all = Vec::new();
    let mut next = Some(collection);
    for _ in 0..PAGES {
        let Some(page) = next.take() else { break };
        let (members, after) = reader::members(&talk.get(&page).await?.body);
        all.extend(members);
        next = after;
        if all.len() >= MACHINES {
            break;
        }
    }
    all.truncate(MACHINES);
    Ok(all)
}

/// Resets by the first of the words that is taken.
async fn reset(talk: &Conversation<'_>, system: &System, words: &[String]) -> Result<(), Fault> {
    let mut last = Err(Fault::NotOffered {
        wanted: "a reset".to_owned(),
        offered: "none".to_owned(),
    });
    for word in words {
        last = carried_out(talk, talk.post(&system.reset, &json!({"ResetType": word})).await).await;
        if !matches!(last, Err(Fault::Refused(_))) {
            break;
        }
    }
    last
}

/// Makes the first of the changes that is taken.
async fn changed(talk: &Conversation<'_>, link: &Link, changes: &[Value], etag: Option<&str>) -> Result<(), Fault> {
    let mut last = Err(Fault::Refused("nothing to change".to_owned()));
    for change in changes {
        last = carried_out(talk, talk.patch(link, change, etag).await).await;
        if !matches!(last, Err(Fault::Refused(_))) {
            break;
        }
    }
    last
}

/// Puts an image into a drive, in place of what is there.
async fn insert_into(talk: &Conversation<'_>, drive: &Drive, url: &str) -> Result<(), Fault> {
    if drive.inserted {
        eject(talk, drive).await?;
    }
    let forms = system::insertions(url);
    let Some(action) = &drive.insert else {
        let etag = talk.get(&drive.link).await?.etag;
        return changed(talk, &drive.link, &forms[..1], etag.as_deref()).await;
    };
    let mut last = Ok(());
    for form in &forms {
        let reply = talk.post(action, form).await;
        // A form that was taken is the right one: what its task then fails at is the image, and would be so in any other form.
        let taken = reply.as_ref().is_ok_and(|reply| reply.accepted);
        last = carried_out(talk, reply).await;
        if taken || !matches!(last, Err(Fault::Refused(_))) {
            break;
        }
    }
    last
}

async fn eject(talk: &Conversation<'_>, drive: &Drive) -> Result<(), Fault> {
    match &drive.eject {
        Some(action) => carried_out(talk, talk.post(action, &json!({})).await).await,
        None => {
            let etag = talk.get(&drive.link).await?.etag;
            changed(
                talk,
                &drive.link,
                &[json!({"Image": null, "Inserted": false}), json!({"Image": null})],
                etag.as_deref(),
            )
            .await
        }
    }
}

/// What became of a request, where the service does it by and by: a task that fails soon is a refusal, one that takes long was taken.
async fn carried_out(talk: &Conversation<'_>, reply: Result<Reply, Fault>) -> Result<(), Fault> {
    let reply = reply?;
    if !reply.accepted {
        return Ok(());
    }
    let monitor = reply
        .location
        .or_else(|| reader::link(&reply.body, "TaskMonitor"))
        .or_else(|| reader::link_of(&reply.body));
    let Some(monitor) = monitor else { return Ok(()) };
    let began = Instant::now();
    let mut pause = reply.after.unwrap_or(LOOK).min(WATCHED);
    while began.elapsed() + pause < WATCHED {
        sleep(pause).await;
        let seen = match talk.watch(&monitor).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            Err(fault @ Fault::Refused(_)) => return Err(fault),
            // The command was taken; that nobody can be asked how it goes is no reason to repeat it.
            Err(_) => return Ok(()),
        };
        match reader::text(&seen.body, "TaskState").as_deref() {
            Some("Exception" | "Killed" | "Cancelled") => {
                return Err(Fault::Refused(format!(
                    "its task failed: {}",
                    quoted(&reader::complaint(&seen.body), &[])
                )));
            }
            Some("Completed") => return Ok(()),
            None if !seen.accepted => return Ok(()),
            Some(_) | None => pause = seen.after.unwrap_or(LOOK).min(WATCHED),
        }
    }
    Ok(())
}

impl Driver for Redfish {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.switch(Operation::On))
    }

    fn off(&self, how: Off) -> Act<'_, ()> {
        Box::pin(self.switch(match how {
            Off::Soft => Operation::OffSoft,
            Off::Hard => Operation::OffHard,
        }))
    }

    fn cycle(&self) -> Act<'_, ()> {
        Box::pin(self.switch(Operation::Cycle))
    }

    fn state(&self) -> Act<'_, PowerState> {
        Box::pin(self.tell())
    }

    fn boot_once(&self, boot: BootOnce) -> Act<'_, ()> {
        Box::pin(self.set_boot(boot))
    }

    fn attach<'a>(&'a self, media: &'a Media) -> Act<'a, ()> {
        Box::pin(self.insert(media))
    }

    fn detach<'a>(&'a self, media: &'a Media) -> Act<'a, ()> {
        Box::pin(self.take_out(media))
    }

    fn survey(&self, depth: Depth) -> Act<'_, Survey> {
        Box::pin(self.read_on(depth))
    }

    fn close(&self) -> Act<'_, ()> {
        Box::pin(self.http.log_out())
    }

    fn subscribe<'a>(&'a self, subscription: &'a Subscription) -> Act<'a, ()> {
        Box::pin(self.set_subscription(subscription))
    }

    fn unsubscribe<'a>(&'a self, subscription: &'a Subscription) -> Act<'a, ()> {
        Box::pin(self.remove_subscription(subscription))
    }

    fn listen(&self) -> Act<'_, Stream> {
        Box::pin(self.open_stream())
    }
}
