//! The clients that watch: each keeps its own picture of a kind and its position across failures of the server.
//!
//! After a failure an observer goes on from its position. Either the server says 410 and it lists again, or it gets every event after that position:
//! in both cases its picture must then be what the server holds.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use http::{Method, Request};
use kube::Client;
use serde_json::Value;

use super::ledger::{Found, Id, Kind, read};
use super::load::{self, End, PATIENCE, Shared, lock};

/// See the module's comment.
#[derive(Debug)]
pub struct Observer {
    kind: Kind,
    /// Where the picture comes from: a list, or an event.
    position: Option<u64>,
    /// The revision of the list that the picture began with.
    since: u64,
    picture: BTreeMap<Id, (u64, u64)>,
    /// Times it went on without listing again.
    pub resumed: u64,
    /// Times it was told 410.
    pub expired: u64,
}

type Lines = std::pin::Pin<Box<dyn futures::Stream<Item = std::io::Result<String>> + Send>>;

enum Line {
    Event,
    Expired,
}

impl Observer {
    /// One that has seen nothing.
    pub fn new(kind: Kind) -> Observer {
        Observer {
            kind,
            position: None,
            since: 0,
            picture: BTreeMap::new(),
            resumed: 0,
            expired: 0,
        }
    }

    async fn list(&mut self, client: &Client, ledger: &Shared) -> Result<u64, End> {
        let found = load::list(client, self.kind).await?;
        for (id, (number, revision)) in &found.objects {
            lock(ledger).show(*revision, id, Some(*number))?;
        }
        self.position = Some(found.revision);
        self.since = found.revision;
        self.picture = found.objects;
        Ok(found.revision)
    }

    /// Opens a watch from the position; `None` when the server says 410.
    async fn open(&mut self, client: &Client, position: u64) -> Result<Option<Lines>, End> {
        let path = format!(
            "{}?watch=true&resourceVersion={position}&allowWatchBookmarks=true",
            self.kind.path()
        );
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Vec::new())
            .map_err(|error| End::Wrong(error.to_string()))?;
        match client.request_stream(request).await {
            Ok(stream) => Ok(Some(Box::pin(stream.lines()))),
            Err(kube::Error::Api(status)) if status.code == 410 => Ok(None),
            Err(error) => Err(load::end_of("a watch", error)),
        }
    }

    fn line(&mut self, text: &str, ledger: &Shared) -> Result<Line, End> {
        let line: Value = serde_json::from_str(text).map_err(|error| End::Gone(format!("a torn line: {error}")))?;
        let object = &line["object"];
        let position = self.position.unwrap_or(0);
        match line["type"].as_str().unwrap_or_default() {
            "ERROR" if object["code"] == 410 => return Ok(Line::Expired),
            "BOOKMARK" => {
                let revision = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
                let revision = revision.filter(|revision| *revision >= position);
                self.position = Some(revision.ok_or_else(|| End::Wrong(format!("a bookmark before {position}: {text}")))?);
            }
            kind @ ("ADDED" | "MODIFIED" | "DELETED") => {
                let (id, number, revision) = read(self.kind, object)?;
                if revision <= position {
                    return Err(End::Wrong(format!("an event at {revision} after {position}: {id:?}")));
                }
                let left = (kind != "DELETED").then_some(number);
                lock(ledger).show(revision, &id, left)?;
                let before = match left {
                    Some(number) => self.picture.insert(id.clone(), (number, revision)),
                    None => self.picture.remove(&id),
                };
                if before.is_some() == (kind == "ADDED") {
                    return Err(End::Wrong(format!(
                        "{kind} of {id:?} at {revision}, and before it was {before:?}: an event is missing"
                    )));
                }
                self.position = Some(revision);
            }
            _ => return Err(End::Wrong(format!("an unexpected line: {text}"))),
        }
        Ok(Line::Event)
    }

    /// Goes on after a failure (or begins), until the picture is what the server holds. Nobody else writes meanwhile.
    pub async fn resume(&mut self, client: &Client, ledger: &Shared, found: &Found) -> Result<Lines, End> {
        let wanted: BTreeMap<Id, (u64, u64)> = found
            .objects
            .iter()
            .filter(|(id, _)| id.0 == self.kind)
            .map(|(id, at)| (id.clone(), *at))
            .collect();
        if let Some(position) = self.position
            && let Some(mut lines) = self.open(client, position).await?
        {
            // Silence is right for a picture that misses nothing, and wrong for any other. An error comes at once.
            let mut expired = false;
            let mut early = position < found.revision;
            while self.picture != wanted || early {
                let patience = if self.picture == wanted {
                    Duration::from_millis(300)
                } else {
                    PATIENCE
                };
                match tokio::time::timeout(patience, lines.next()).await {
                    Err(_) if self.picture == wanted => break,
                    Err(_) => {
                        return Err(End::Wrong(format!(
                            "a watch of {:?} went on at {position} and says nothing; the server is at {} and holds something else: a gap",
                            self.kind, found.revision
                        )));
                    }
                    Ok(None) => return Err(End::Gone("the watch ended".to_owned())),
                    Ok(Some(Err(error))) => return Err(End::Gone(error.to_string())),
                    Ok(Some(Ok(text))) => {
                        if matches!(self.line(&text, ledger)?, Line::Expired) {
                            expired = true;
                            break;
                        }
                        early = false;
                    }
                }
            }
            if !expired {
                self.resumed += 1;
                return Ok(lines);
            }
        }
        self.expired += u64::from(self.position.is_some());
        let revision = self.list(client, ledger).await?;
        if self.picture != wanted {
            return Err(End::Wrong(format!("two lists of {:?} differ while nobody writes", self.kind)));
        }
        let lines = self.open(client, revision).await?;
        lines.ok_or_else(|| End::Wrong(format!("a watch from the list's own revision {revision} is refused")))
    }

    /// Follows a watch until the server is gone.
    pub async fn follow(mut self, client: Client, ledger: Shared, mut lines: Lines) -> Result<Observer, String> {
        loop {
            match lines.next().await {
                None | Some(Err(_)) => return Ok(self),
                Some(Ok(text)) => match self.line(&text, &ledger) {
                    Ok(Line::Event) => {}
                    Ok(Line::Expired) => {
                        // It fell behind, which a server may say at any time.
                        self.expired += 1;
                        let Ok(revision) = self.list(&client, &ledger).await else {
                            return Ok(self);
                        };
                        match self.open(&client, revision).await {
                            Ok(Some(next)) => lines = next,
                            Ok(None) | Err(End::Gone(_)) => return Ok(self),
                            Err(End::Wrong(why)) => return Err(why),
                        }
                    }
                    // A line that the kill cut in two.
                    Err(End::Gone(_)) => return Ok(self),
                    Err(End::Wrong(why)) => return Err(why),
                },
            }
        }
    }

    /// Whether every acknowledged write up to the position is in the picture.
    pub fn complete(&self, ledger: &Shared) -> Result<(), String> {
        let upto = self.position.unwrap_or(0);
        let ledger = lock(ledger);
        for (id, revision) in ledger.acknowledged_between(self.kind, self.since, upto) {
            let seen = self.picture.get(id).map_or(0, |(_, revision)| *revision);
            if seen < revision {
                return Err(format!(
                    "a watcher at {upto} has {id:?} at {seen}, and {revision} was acknowledged: an event is missing"
                ));
            }
        }
        Ok(())
    }
}
