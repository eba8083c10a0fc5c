//! Events (`events.k8s.io/v1`): one per meaningful transition, for people.
//!
//! Writing them never holds up a decision: they go through a bounded channel to one task. The same event about the same object within ten minutes is not
//! written again, only counted; said after that time, it is written anew with the count as its series. An event is never changed, so creating is all that is needed. When the channel is full, events are dropped and counted.
//! A normal event waits a second, and a later one about the same object takes its place: a thousand machines that pass three steps in a second are told of by the last step. Warnings
//! are always written, and at once. Normal events have a budget: of a burst beyond it they are dropped and counted, for they repeat what the objects' status says.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{bucket::Bucket, metrics::Metrics};

/// Within this time the same event is one.
const WINDOW: Duration = Duration::from_secs(600);
/// So many different events are remembered.
const REMEMBERED: usize = 4096;
/// So many events may wait to be written.
const WAITING: usize = 8192;
/// The longest note the API takes is 1 kB.
const MAX_NOTE: usize = 1000;

/// Who says it.
pub const CONTROLLER: &str = "kube-baremetal-operator";

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// About which object.
    pub regarding: ObjectReference,
    /// And which other one.
    pub related: Option<ObjectReference>,
    /// Whether something is wrong.
    pub warning: bool,
    /// Why, as a CamelCase word.
    pub reason: String,
    /// What was done, as a CamelCase word.
    pub action: String,
    /// The sentence.
    pub note: String,
}

/// Takes notices.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// A recorder, and the notices it takes, for a [`Writer`].
    pub fn new(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, metrics }, receiver)
    }

    /// Tells something; never waits.
    pub fn tell(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.metrics.event_dropped();
        }
    }
}

/// When it was written, and how often it was said since.
struct Written {
    first: Instant,
    count: i32,
}

#[derive(Default)]
struct Memory {
    written: HashMap<(String, String, String), Written>,
    order: VecDeque<(String, String, String)>,
}

impl Memory {
    fn remember(&mut self, key: (String, String, String), written: Written) {
        while self.order.len() >= REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.written.remove(&oldest);
            }
        }
        self.order.push_back(key.clone());
        self.written.insert(key, written);
    }
}

/// Writes notices.
pub(crate) struct Writer {
    /// The API server.
    pub(crate) client: Client,
    /// Name of this replica.
    pub(crate) instance: String,
    /// How long a normal event may be overtaken.
    pub(crate) hold: Duration,
    /// How many normal events may be written.
    pub(crate) budget: Bucket,
    /// Where they are counted.
    pub(crate) metrics: Arc<Metrics>,
}

impl Writer {
    /// Writes notices until `stop`, then what is waiting, within two seconds.
    pub(crate) async fn run(self, mut notices: mpsc::Receiver<Notice>, stop: CancellationToken) {
        let mut memory = Memory::default();
        let mut held: HashMap<String, (Instant, Notice)> = HashMap::new();
        let mut tick = tokio::time::interval((self.hold / 4).max(Duration::from_millis(10)));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                notice = notices.recv() => match notice {
                    Some(notice) => {
                        let uid = notice.regarding.uid.clone().unwrap_or_default();
                        if notice.warning {
                            // What came before it is told before it.
                            if let Some((_, earlier)) = held.remove(&uid) {
                                self.write(&mut memory, earlier).await;
                            }
                            self.write(&mut memory, notice).await;
                        } else {
                            // The first one's time counts: a stream of events cannot hold them back for ever.
                            let since = held.get(&uid).map_or_else(Instant::now, |h| h.0);
                            held.insert(uid, (since, notice));
                        }
                    }
                    None => break,
                },
                _ = tick.tick(), if !held.is_empty() => {
                    let due: Vec<String> = held.iter().filter(|(_, h)| h.0.elapsed() >= self.hold).map(|(uid, _)| uid.clone()).collect();
                    for uid in due {
                        if let Some((_, notice)) = held.remove(&uid) {
                            self.write(&mut memory, notice).await;
                        }
                    }
                }
            }
        }
        let rest = async {
            for (_, notice) in held.into_values() {
                self.write(&mut memory, notice).await;
            }
            while let Ok(notice) = notices.try_recv() {
                self.write(&mut memory, notice).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), rest).await.is_err() {
            tracing::info!("stopped with events still waiting to be written");
        }
    }

    async fn write(&self, memory: &mut Memory, notice: Notice) {
        let namespace = match notice.regarding.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
            // Where Kubernetes keeps events about cluster-scoped objects.
            _ => "default".to_owned(),
        };
        let key = (
            notice.regarding.uid.clone().unwrap_or_default(),
            notice.reason.clone(),
            notice.note.clone(),
        );
        let mut series = None;
        if let Some(written) = memory.written.get_mut(&key) {
            if written.first.elapsed() < WINDOW {
                written.count += 1;
                return;
            }
            series = Some(EventSeries {
                count: written.count + 1,
                last_observed_time: MicroTime(k8s_openapi::jiff::Timestamp::now()),
            });
            memory.written.remove(&key);
            memory.order.retain(|k| *k != key);
        }
        if !is_within(&self.budget, &notice) {
            self.metrics.event_dropped();
            return;
        }
        let name = format!(
            "{}.{:016x}",
            notice.regarding.name.as_deref().unwrap_or("object"),
            rand::random::<u64>()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(notice.action),
            event_time: Some(MicroTime(k8s_openapi::jiff::Timestamp::now())),
            note: Some(shortened(notice.note)),
            reason: Some(notice.reason),
            regarding: Some(notice.regarding),
            related: notice.related,
            series,
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                self.metrics.requested("Event", "create", "ok");
                let written = Written {
                    first: Instant::now(),
                    count: 1,
                };
                memory.remember(key, written);
            }
            Err(error) => {
                self.metrics.requested("Event", "create", "error");
                tracing::warn!(%error, "could not write an event");
            }
        }
    }
}

/// Whether the budget has room for an event. Warnings need none.
fn is_within(budget: &Bucket, notice: &Notice) -> bool {
    notice.warning || budget.take().is_ok()
}

fn shortened(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let mut end = MAX_NOTE;
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push_str(" ...");
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = shortened("ä".repeat(700));
        assert!(note.len() <= MAX_NOTE + 4 && note.ends_with(" ..."));
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_burst_the_rest_is_dropped_but_never_a_warning() {
        let notice = |warning| Notice {
            regarding: ObjectReference::default(),
            related: None,
            warning,
            reason: "R".to_owned(),
            action: "A".to_owned(),
            note: "n".to_owned(),
        };
        let budget = Bucket::new(10.0, 3.0);
        let told = (0..100).filter(|_| is_within(&budget, &notice(false))).count();
        assert_eq!(told, 3);
        assert!((0..100).all(|_| is_within(&budget, &notice(true))));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_within(&budget, &notice(false)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        for n in 0..REMEMBERED + 10 {
            let key = (n.to_string(), String::new(), String::new());
            let written = Written {
                first: Instant::now(),
                count: 1,
            };
            memory.remember(key, written);
        }
        assert_eq!(memory.written.len(), REMEMBERED);
        assert!(!memory.written.contains_key(&("0".to_owned(), String::new(), String::new())));
    }
}
