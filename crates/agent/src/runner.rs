//! Runs one destructive order: `machine` does the work in a thread of its own, progress goes to console and server.
//!
//! Progress is a hint: at most one report every two seconds, the newest only, and a lost one is lost. If the server answers that the order is not
//! the accepted one any more, the work is stopped at the next chunk; the disk stays marked as in progress.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agent_protocol::{
    disk::Disk,
    limits::{MAX_MESSAGE, clip},
    order::{Fault, FaultReason, ImageParameters, Order, OrderKind, OrderResult, Outcome, PackedSource, Progress, Report, Step},
    seed::Seed,
    session::{ErrorCode, PATH_REPORTS},
};
use image::{
    FallbackSource, HttpLimits, ImageError, STALL,
    pack::{CHUNKS_FILE, HttpChunks, MANIFEST_FILE, PackDigest, fetch_manifest},
};
use machine::{
    MachineError,
    devices::{Devices, KernelDevices},
    efi::EfiVariables,
    erase_order::{EraseJob, run_erase},
    image_order::{ImageJob, ImageSource, run_image},
};
use reqwest::Method;
use tokio::{runtime::Handle, sync::watch};

use crate::{
    client::Client,
    console::Console,
    pace::Pace,
    share::{self, Place, Traffic},
};

/// Least time between two progress reports.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// What orders work on.
pub struct Runner {
    /// The disks of this boot's inventory.
    pub disks: Vec<Disk>,
    /// How disks are opened.
    pub devices: Box<dyn Devices + Send + Sync>,
    /// Firmware variables; `None` on a BIOS machine.
    pub efi: Option<EfiVariables>,
    /// The guest helper's binary: this program.
    pub guest_helper: Option<Vec<u8>>,
    /// Base URLs of the server, whose images come under the same pin.
    pub servers: Vec<String>,
    /// Pin of their CA.
    pub ca: String,
    /// Where this machine listens for its neighbours while it writes a packed image; `None`: it shares nothing.
    pub place: Option<Place>,
}

/// What an order is carried out with, besides what the machine has.
struct Means {
    client: Arc<Client>,
    console: Arc<Console>,
    runtime: Handle,
    traffic: Arc<Traffic>,
}

impl Runner {
    /// For this machine with these disks.
    pub fn of_this_machine(disks: Vec<Disk>, servers: Vec<String>, ca: String, place: Place) -> Self {
        let efi = EfiVariables::of_this_machine();
        Self {
            disks,
            devices: Box::new(KernelDevices::default()),
            efi: efi.is_available().then_some(efi),
            guest_helper: std::fs::read("/proc/self/exe").ok(),
            servers,
            ca,
            place: Some(place),
        }
    }

    /// Our own servers are known by their pin, all others by the public roots.
    fn tls(&self, ours: bool) -> Result<rustls::ClientConfig, String> {
        Ok(if ours {
            pinned_tls::client_config(&self.ca).map_err(|e| e.to_string())?
        } else {
            let roots = rustls::RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            };
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .with_root_certificates(roots)
                .with_no_client_auth()
        })
    }

    /// A client for images.
    fn client(&self, ours: bool) -> Result<image::Client, String> {
        let tls = self.tls(ours)?;
        image::Client::new(STALL, |builder| builder.tls_backend_preconfigured(tls)).map_err(|e| e.to_string())
    }

    fn source(&self, order: &Order, image: &ImageParameters, means: &Means, cancel: &Arc<AtomicBool>) -> Result<ImageSource, ImageError> {
        let limits = HttpLimits {
            stop: Some(Arc::clone(cancel)),
            ..HttpLimits::default()
        };
        match &image.packed {
            Some(packed) => self.packed(order, packed, means, limits),
            None => self.stream(image, &limits),
        }
    }

    fn stream(&self, image: &ImageParameters, limits: &HttpLimits) -> Result<ImageSource, ImageError> {
        let ours = |url: &str| {
            let below = |s: &String| url.strip_prefix(s.as_str()).is_some_and(|rest| rest.starts_with('/'));
            self.servers.iter().any(below)
        };
        let urls = std::iter::once(&image.url).chain(&image.mirrors);
        let places = urls.map(|url| match self.client(ours(url)) {
            Ok(client) => Ok((client, url.as_str())),
            Err(reason) => Err(unusable(url, reason)),
        });
        let source = FallbackSource::of_urls(places.collect::<Result<_, _>>()?, limits)?;
        Ok(ImageSource::Stream(Box::new(source)))
    }

    /// The stores that the order names, then the same on this machine's own servers, and the neighbours that write the same. Their bytes are trusted by the
    /// order's digest alone.
    fn packed(&self, order: &Order, packed: &PackedSource, means: &Means, limits: HttpLimits) -> Result<ImageSource, ImageError> {
        let digest: PackDigest = packed.digest.parse().map_err(|_| ImageError::InvalidDigest {
            text: clip(&packed.digest, 200),
            reason: "a packed image is named by blake3: and 64 hexadecimal digits",
        })?;
        let mut bases = packed.urls.clone();
        // A packed image of somebody else's lies where the order says, and nowhere else.
        let ours = !bases.iter().any(|url| url.starts_with("https://"));
        if ours {
            let servers = self.servers.iter().map(|s| s.trim_end_matches('/'));
            bases.extend(servers.map(|s| format!("{s}/images/{}", digest.to_hex())));
        }
        let of = |file: &str| bases.iter().map(|base| format!("{base}/{file}")).collect::<Vec<_>>();
        let client = self.client(ours).map_err(|reason| unusable(&packed.digest, reason))?;
        let manifest = fetch_manifest(&client, &of(MANIFEST_FILE), Some(digest), &limits)?;
        let chunks = HttpChunks::new(&client, &of(CHUNKS_FILE), manifest.stored_bytes(), limits)?;
        let Some(place) = self.place.filter(|_| ours) else {
            return Ok(ImageSource::Packed(Box::new(manifest), Box::new(chunks)));
        };
        let setting = share::Setting {
            place,
            client: means.client.clone(),
            console: means.console.clone(),
            order_id: order.id.clone(),
            traffic: means.traffic.clone(),
            runtime: means.runtime.clone(),
            tls: self.tls(true).map_err(|reason| unusable(&packed.digest, reason))?,
        };
        let chunks = share::chunks(&manifest, chunks, setting);
        Ok(ImageSource::Packed(Box::new(manifest), chunks))
    }

    fn work(
        &self,
        order: &Order,
        seed: Option<&Seed>,
        means: &Means,
        cancel: &Arc<AtomicBool>,
        progress: &mut dyn FnMut(Progress),
    ) -> OrderResult {
        let devices = self.devices.as_ref();
        if order.kind == OrderKind::Erase {
            let job = EraseJob {
                order,
                disks: &self.disks,
                protected: &order.protected,
                devices,
                efi: self.efi.as_ref(),
                cancel,
            };
            return run_erase(job, progress);
        }
        let Some(image) = &order.image else {
            return refused(order, FaultReason::Internal, "The order names no image");
        };
        let source = match self.source(order, image, means, cancel) {
            Ok(source) => source,
            Err(error) => {
                let message = error.to_string();
                return refused(order, MachineError::Image(error).reason(), &message);
            }
        };
        let job = ImageJob {
            order,
            disks: &self.disks,
            protected: &order.protected,
            devices,
            source,
            seed,
            guest_helper: self.guest_helper.as_deref(),
            efi: self.efi.as_ref(),
            cancel,
        };
        run_image(job, progress)
    }
}

fn unusable(url: &str, reason: String) -> ImageError {
    ImageError::Unreachable {
        source_name: clip(url.split('?').next().unwrap_or_default(), 200),
        reason,
    }
}

/// The word for a kind of order on the console.
pub fn order_word(kind: OrderKind) -> &'static str {
    match kind {
        OrderKind::Wait => "wait",
        OrderKind::Erase => "erase",
        OrderKind::Image => "image",
        OrderKind::Reboot => "reboot",
        OrderKind::PowerOff => "power-off",
    }
}

fn unsuccessful(order_id: &str, kind: OrderKind, outcome: Outcome, reason: FaultReason, message: &str) -> OrderResult {
    OrderResult {
        order_id: order_id.to_owned(),
        kind,
        outcome,
        fault: Some(Fault {
            reason,
            message: clip(message, MAX_MESSAGE / 4),
        }),
        image: None,
        erase: None,
        contents: None,
    }
}

fn refused(order: &Order, reason: FaultReason, message: &str) -> OrderResult {
    unsuccessful(&order.id, order.kind, Outcome::Refused, reason, message)
}

/// Runs an order to its end. Always has a result, also when the work panics.
pub async fn run(
    runner: &Arc<Runner>,
    order: Order,
    seed: Result<Option<Seed>, String>,
    client: &Arc<Client>,
    console: &Arc<Console>,
) -> OrderResult {
    let seed = match seed {
        Ok(seed) => seed,
        Err(problem) => {
            let message = format!("{problem}. Nothing was written; the server renders the seed again for the next order");
            return refused(&order, FaultReason::SeedUnavailable, &message);
        }
    };
    let (id, kind) = (order.id.clone(), order.kind);
    let cancel = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = watch::channel(None);
    let reporting = tokio::spawn(report(id.clone(), receiver, Arc::clone(client), Arc::clone(&cancel)));
    let runner = Arc::clone(runner);
    let means = Means {
        client: Arc::clone(client),
        console: Arc::clone(console),
        runtime: Handle::current(),
        traffic: Arc::default(),
    };
    let work = tokio::task::spawn_blocking(move || {
        let word = order_word(order.kind);
        let mut pace = Pace::default();
        let mut progress = |progress: Progress| {
            let progress = Progress {
                source: (order.kind == OrderKind::Image && progress.step == Step::Writing).then(|| means.traffic.mostly()),
                ..pace.of(progress, Instant::now())
            };
            means.console.progress(word, progress);
            sender.send_replace(Some(progress));
        };
        catch_unwind(AssertUnwindSafe(|| {
            runner.work(&order, seed.as_ref(), &means, &cancel, &mut progress)
        }))
    });
    let result = work.await;
    reporting.abort();
    match result {
        Ok(Ok(result)) => result,
        // Nobody knows how far it came: not refused, so nobody takes the disk for untouched.
        Ok(Err(_)) | Err(_) => {
            let message = "the agent failed while it worked on the disk; its console shows where. The order is repeated after a restart";
            unsuccessful(&id, kind, Outcome::Failed, FaultReason::Internal, message)
        }
    }
}

async fn report(order_id: String, mut progress: watch::Receiver<Option<Progress>>, client: Arc<Client>, cancel: Arc<AtomicBool>) {
    while progress.changed().await.is_ok() {
        let now = *progress.borrow_and_update();
        let report = Report {
            order_id: order_id.clone(),
            progress: now,
            result: None,
        };
        let Ok(body) = serde_json::to_vec(&report) else { return };
        let answer = client
            .request::<serde_json::Value>(Method::POST, PATH_REPORTS, body, REPORT_EVERY * 5)
            .await;
        if answer.is_err_and(|e| e.code() == Some(ErrorCode::StaleOrder)) {
            cancel.store(true, Ordering::Relaxed);
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}
