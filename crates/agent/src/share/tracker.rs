//! Talking to the server's tracker: what this machine has, who else has some, what to fetch from a server.
//!
//! What is to be said and when, `sharing::Chooser` decides. A tracker that cannot be reached changes nothing but that there is no news; one that
//! does not want this machine ends the talk, and with it the listening.

use std::{collections::HashSet, sync::Arc, time::Duration};

use agent_protocol::{
    session::{ErrorCode, encode},
    share::{MAX_PEERS, PATH_SHARE, ShareMode, SharePeer, ShareRequest, ShareResponse},
};
use reqwest::Method;
use sharing::{Answer, Chooser, Chore, Member, News, PeerId, PieceSet, Time};
use tokio::task::{AbortHandle, JoinSet};

use super::swarm::Swarm;
use crate::{
    client::{Client, ClientError},
    console::Console,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who talks to the tracker about which order.
pub(super) struct Tracker {
    pub client: Arc<Client>,
    pub console: Arc<Console>,
    pub order_id: String,
    pub pieces: u32,
    pub port: Option<u16>,
}

/// What came of the first word.
pub(super) enum First {
    /// Sharing goes on from here.
    On,
    /// There is none, because of this.
    Off(String),
}

/// What a message to the tracker came to.
enum Heard {
    Answer(ShareMode, Answer),
    /// No answer, perhaps the next time.
    Nothing(ClientError),
    /// Not for this machine, or not any more.
    Off(String),
}

impl Tracker {
    async fn say(&self, news: &News, leaves: bool, patience: Duration) -> Heard {
        let request = ShareRequest {
            order_id: self.order_id.clone(),
            pieces: self.pieces,
            port: self.port,
            held: encode(&news.shares.to_bytes()),
            wanted: encode(&news.wants.to_bytes()),
            room: news.room,
            hungry: news.hungry,
            wrong: news.wrong.iter().take(MAX_PEERS).map(|peer| peer.0).collect(),
            leaves,
        };
        let body = match serde_json::to_vec(&request) {
            Ok(body) => body,
            Err(error) => return Heard::Off(error.to_string()),
        };
        match self.client.request::<ShareResponse>(Method::POST, PATH_SHARE, body, patience).await {
            Ok(ShareResponse {
                mode: ShareMode::Off,
                note,
                ..
            }) => Heard::Off(note),
            Ok(response) => Heard::Answer(response.mode, answer(response)),
            Err(error) => match error.code() {
                None | Some(ErrorCode::Overloaded | ErrorCode::Internal) => Heard::Nothing(error),
                Some(_) => Heard::Off(error.to_string()),
            },
        }
    }

    /// The first word, before anything is fetched. A server that does not know the path answers something that is not of the protocol.
    pub(super) async fn first(&self, chooser: &mut Chooser) -> First {
        let Chore::Announce(news) = chooser.chore(Time::ZERO) else {
            return First::On;
        };
        match self.say(&news, false, PATIENCE).await {
            Heard::Answer(mode, answer) => {
                self.console.say(match mode {
                    ShareMode::Together => {
                        let others = answer.members.as_ref().map_or(0, Vec::len);
                        format!("sharing: with {others} machines that write the same image")
                    }
                    ShareMode::Alone | ShareMode::Off => "sharing: on, no other machine yet".to_owned(),
                });
                chooser.heard(Time::ZERO, answer);
                First::On
            }
            Heard::Nothing(ClientError::Answer { .. }) => First::Off("the server knows nothing of it".to_owned()),
            Heard::Nothing(_) => {
                chooser.unheard(Time::ZERO);
                First::On
            }
            Heard::Off(why) => First::Off(why),
        }
    }

    /// The last word, with everybody who gave wrong bytes: the order may have ended before that could be said. Nobody waits for what comes of it.
    pub(super) async fn leave(&self, wrong: Vec<PeerId>) {
        let none = PieceSet::none(self.pieces);
        let news = News {
            shares: none.clone(),
            wants: none,
            room: 0,
            hungry: false,
            wrong,
        };
        self.say(&news, true, PATIENCE).await;
    }
}

/// What the wire says, as the policy reads it.
fn answer(response: ShareResponse) -> Answer {
    let member = |peer: SharePeer| Member {
        id: PeerId(peer.id),
        address: peer.address,
    };
    Answer {
        together: response.mode == ShareMode::Together,
        members: response.peers.map(|peers| peers.into_iter().take(MAX_PEERS).map(member).collect()),
        granted: response.fetch.into_iter().map(|(start, end)| start..end).collect(),
        again: Duration::from_millis(response.again_ms.into()),
    }
}

/// What a task that was begun came to.
enum Done {
    Heard(Heard),
    PeerHas(PeerId, Option<PieceSet>),
}

/// Does the chooser's chores until the tracker does not want this machine any more; then `listener` ends too.
pub(super) async fn talk(tracker: Arc<Tracker>, swarm: Arc<Swarm>, listener: Option<AbortHandle>) {
    let mut begun = JoinSet::new();
    let mut known = HashSet::new();
    loop {
        let rest = match swarm.ask(|chooser, now| chooser.chore(now)) {
            Chore::Announce(news) => {
                let tracker = tracker.clone();
                begun.spawn(async move { Done::Heard(tracker.say(&news, false, PATIENCE).await) });
                continue;
            }
            Chore::AskPeer(id, address) => {
                let peers = swarm.peers.clone();
                begun.spawn(async move {
                    let held = tokio::task::spawn_blocking(move || peers.held(address)).await;
                    Done::PeerHas(id, held.ok().flatten())
                });
                continue;
            }
            Chore::Rest(until) => until.saturating_sub(swarm.now()),
        };
        let done = tokio::select! {
            Some(done) = begun.join_next() => done.ok(),
            () = tokio::time::sleep(rest) => None,
            () = swarm.news.notified() => None,
        };
        match done {
            Some(Done::Heard(Heard::Answer(_, answer))) => {
                let members = answer.members.iter().flatten();
                let fresh = members.filter(|member| known.insert(member.id)).count();
                if fresh > 0 {
                    tracing::info!(fresh, "sharing with other machines");
                }
                swarm.tell(|chooser, now| chooser.heard(now, answer));
            }
            Some(Done::Heard(Heard::Nothing(error))) => {
                tracing::debug!(%error, "no answer about sharing");
                swarm.tell(|chooser, now| chooser.unheard(now));
            }
            Some(Done::Heard(Heard::Off(why))) => {
                tracker.console.say(format!("sharing: over ({why})"));
                let alone = Answer {
                    together: false,
                    members: Some(Vec::new()),
                    granted: Vec::new(),
                    again: Duration::from_secs(3600),
                };
                swarm.tell(|chooser, now| chooser.heard(now, alone));
                if let Some(listener) = listener {
                    listener.abort();
                }
                return;
            }
            Some(Done::PeerHas(id, Some(held))) => swarm.tell(|chooser, now| chooser.peer_has(now, id, held)),
            Some(Done::PeerHas(_, None)) | None => {}
        }
    }
}
