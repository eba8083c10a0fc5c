//! Sharing: while this machine writes a packed image, it fetches parts of it from other machines that write the same one, and gives them what it has.
//!
//! | file | does |
//! |---|---|
//! | [`frames`] | keeps checked frames in memory, within a bound |
//! | [`serve`] | gives them to neighbours, read-only |
//! | [`peer`] | asks neighbours |
//! | [`swarm`] | fetches what `sharing::Chooser` says, checks it, hands it to the writer |
//! | [`tracker`] | tells the server what this machine has and hears who else has some |
//!
//! The writer sees a [`ChunkSource`] with a [`Feed`]. Where sharing is not wanted, or the server knows nothing of it, there is none of this: the writer
//! reads from servers as it always does. Everything ends with the order: threads, the listener, and the server's knowledge of this machine.
//!
//! Nothing that a neighbour says is believed. A frame counts once its BLAKE3 digest is the manifest's, whose own digest came with the order over
//! the pinned channel; the digest is checked before the decoder sees a byte.

pub mod frames;
pub mod peer;
pub mod serve;
pub mod swarm;
mod tracker;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use image::{
    ImageError,
    pack::{ChunkSource, Feed, HttpChunks, Manifest},
};
use sharing::{Chooser, ChooserSettings, GROUP_BYTES, Layout};
use tokio::{runtime::Handle, task::AbortHandle};

pub use self::serve::Place;
pub use self::swarm::Traffic;
use self::{
    frames::Frames,
    peer::Peers,
    serve::Served,
    swarm::Swarm,
    tracker::{First, Tracker},
};
use crate::{client::Client, console::Console, net::dhcp::random};

/// What sharing needs besides the image.
pub struct Setting {
    /// Where this machine listens and whom it answers.
    pub place: Place,
    /// Requests to the server.
    pub client: Arc<Client>,
    /// Who reads along.
    pub console: Arc<Console>,
    /// The order that is carried out.
    pub order_id: String,
    /// Counts what comes.
    pub traffic: Arc<Traffic>,
    /// Where tasks run.
    pub runtime: Handle,
    /// For the client that asks neighbours, who speak plain HTTP.
    pub tls: rustls::ClientConfig,
}

/// The chunks of an image, from servers and neighbours.
pub struct SharedChunks {
    swarm: Arc<Swarm>,
    /// Whether the first chunk was asked for.
    first: AtomicBool,
    tasks: Vec<AbortHandle>,
    farewell: Option<(Handle, Arc<Tracker>)>,
}

/// The chunks of this image: with the neighbours' help if the server says that there is such a thing, else straight from `server`. For a thread that
/// may wait.
pub fn chunks(manifest: &Manifest, server: HttpChunks, setting: Setting) -> Box<dyn ChunkSource> {
    let console = setting.console.clone();
    match SharedChunks::start(manifest, Box::new(server), setting) {
        Ok(shared) => Box::new(shared),
        Err((server, problem)) => {
            console.say(format!("sharing: off ({problem})"));
            server
        }
    }
}

impl SharedChunks {
    fn start(manifest: &Manifest, server: Box<HttpChunks>, setting: Setting) -> Result<Self, (Box<HttpChunks>, String)> {
        let folder = format!("/images/{}", manifest.digest().to_hex());
        let peers = match Peers::new(setting.tls, &folder, manifest.stored_bytes()) {
            Ok(peers) => peers,
            Err(error) => return Err((server, error.to_string())),
        };
        let layout = Layout::new(manifest.chunks().iter().map(|chunk| (chunk.offset, chunk.length)), GROUP_BYTES);
        let mut chooser = Chooser::new(ChooserSettings::default(), Arc::new(layout), u64::from_le_bytes(random()));
        let frames = Arc::new(Frames::new(manifest, frames::most_bytes()));
        // Who cannot listen takes and does not give.
        let listener = serve::open(setting.place);
        if let Err(error) = &listener {
            setting.console.say(format!(
                "sharing: no port at {} ({error}); this machine takes and does not give",
                setting.place.address
            ));
        }
        let tracker = Arc::new(Tracker {
            client: setting.client,
            console: setting.console,
            order_id: setting.order_id,
            pieces: u32::try_from(manifest.chunks().len()).unwrap_or(u32::MAX),
            port: listener.as_ref().ok().map(|(_, port)| *port),
        });
        if let First::Off(why) = setting.runtime.block_on(tracker.first(&mut chooser)) {
            return Err((server, why));
        }
        let served = Arc::new(Served::new(&folder, manifest.stored_bytes(), frames.clone()));
        let swarm = Arc::new(Swarm::new(manifest.clone(), *server, peers, frames, setting.traffic, chooser));
        let mut tasks = Vec::new();
        if let Ok((listener, _)) = listener {
            let place = setting.place;
            let serving = setting.runtime.spawn(async move {
                if let Err(error) = serve::serve(listener, place, served).await {
                    tracing::warn!(%error, "neighbours cannot be served");
                }
            });
            tasks.push(serving.abort_handle());
        }
        let talking = setting
            .runtime
            .spawn(tracker::talk(tracker.clone(), swarm.clone(), tasks.first().cloned()));
        tasks.push(talking.abort_handle());
        let begin = |number: usize| {
            let swarm = swarm.clone();
            let fetch = move || {
                // The writer must not wait for a thread that is gone.
                if catch_unwind(AssertUnwindSafe(|| swarm.fetch())).is_err() {
                    swarm.fail(swarm.broken("a thread that fetched from it failed"));
                }
            };
            std::thread::Builder::new().name(format!("share-{number}")).spawn(fetch).is_ok()
        };
        if (0..Swarm::threads()).filter(|&number| begin(number)).count() == 0 {
            swarm.fail(swarm.broken("no thread could be made that fetches from it"));
        }
        Ok(Self {
            swarm,
            first: AtomicBool::new(false),
            tasks,
            farewell: Some((setting.runtime, tracker)),
        })
    }
}

impl Drop for SharedChunks {
    fn drop(&mut self) {
        self.swarm.stop();
        for task in &self.tasks {
            task.abort();
        }
        // The threads end by themselves; one that waits for a server is not waited for.
        if let Some((runtime, tracker)) = self.farewell.take() {
            let wrong = self.swarm.ask(|chooser, _| chooser.dropped().map(|(peer, _)| peer).collect());
            runtime.spawn(async move { tracker.leave(wrong).await });
        }
    }
}

impl ChunkSource for SharedChunks {
    fn name(&self) -> &str {
        self.swarm.server.name()
    }

    /// The first chunk comes through the swarm as well, or sixteen machines would fetch it sixteen times; anything else from a server.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let first = self.swarm.manifest.chunks().first();
        let is_first = first.is_some_and(|chunk| chunk.index == 0 && chunk.offset == offset && chunk.length as usize == buffer.len());
        if is_first && !self.first.swap(true, Ordering::Relaxed) {
            self.swarm.tell(|chooser, _| chooser.want(0));
            if let Some((0, frame)) = self.swarm.take()? {
                buffer.copy_from_slice(&frame);
                return Ok(());
            }
        }
        self.swarm.server.read(offset, buffer)
    }

    fn feed(&self) -> Option<&dyn Feed> {
        Some(self)
    }
}

impl Feed for SharedChunks {
    fn settle(&self, place: usize, wanted: bool) {
        let piece = u32::try_from(place).unwrap_or(u32::MAX);
        self.swarm.tell(|chooser, _| {
            if wanted {
                chooser.want(piece);
            } else {
                chooser.have(piece);
            }
        });
    }

    fn next(&self) -> Result<Option<(usize, Bytes)>, ImageError> {
        self.swarm.take()
    }

    fn stop(&self) {
        self.swarm.stop();
    }
}
