//! A behaviour: a name and what must be seen. And the runner, which says which of them failed and why.

use std::{any::Any, borrow::Cow, cell::RefCell, ops::Deref, panic::AssertUnwindSafe, sync::Once};

use futures::{FutureExt, Stream, StreamExt, future::LocalBoxFuture};
use serde_json::json;

use crate::api::Api;

/// How many behaviours run side by side.
const AT_ONCE: usize = 12;

type Run = Box<dyn Fn(Case) -> LocalBoxFuture<'static, ()>>;

/// One named behaviour. It fails by panicking, as tests do.
pub struct Behaviour {
    /// `theme: what holds`. Unique.
    pub name: Cow<'static, str>,
    run: Run,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Behaviour").field(&self.name).finish()
    }
}

/// A behaviour from a name and an async closure.
pub fn behaviour<F>(name: impl Into<Cow<'static, str>>, run: F) -> Behaviour
where
    F: AsyncFn(&Case) + Clone + 'static,
{
    Behaviour {
        name: name.into(),
        run: Box::new(move |case| {
            let run = run.clone();
            Box::pin(async move { run(&case).await })
        }),
    }
}

/// What a behaviour works with: a server and a namespace of its own.
#[derive(Debug)]
pub struct Case {
    api: Api,
    /// The namespace; also a prefix for names that must be unique in the whole server.
    pub namespace: String,
}

impl Deref for Case {
    type Target = Api;
    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Case {
    /// The server.
    pub fn api(&self) -> &Api {
        &self.api
    }
}

/// A behaviour that did not hold.
#[derive(Debug)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// Where and why.
    pub why: String,
}

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics of behaviours are caught and told in the report, with their place; all others are printed as ever.
fn remember_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with(|quiet| *quiet.borrow()) {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                PLACE.with(|last| *last.borrow_mut() = place);
            } else {
                usual(info);
            }
        }));
    });
}

fn words(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("{}: {}", PLACE.with(|place| place.borrow().clone()), text.unwrap_or_default())
}

/// Runs a future and turns a panic into its words.
///
/// # Errors
/// With place and message of the panic.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    remember_places();
    let mut future = Box::pin(AssertUnwindSafe(future).catch_unwind());
    std::future::poll_fn(move |context| {
        // Only panics while this very future is polled are ours.
        QUIET.with(|quiet| *quiet.borrow_mut() = true);
        let polled = future.as_mut().poll(context);
        QUIET.with(|quiet| *quiet.borrow_mut() = false);
        polled.map(|result| result.map_err(|cause| words(&*cause)))
    })
    .await
}

/// Runs behaviours against a server and gives those that fail, as they do.
fn failing(api: &Api, behaviours: &[Behaviour]) -> impl Stream<Item = Failure> {
    let results = futures::stream::iter(behaviours.iter().enumerate()).map(async move |(index, behaviour)| {
        let namespace = format!("b{index}");
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let result = caught(async {
            api.post("/api/v1/namespaces", &body).await.ok(201);
            let case = Case {
                api: api.clone(),
                namespace,
            };
            (behaviour.run)(case).await;
        })
        .await;
        result.err().map(|why| Failure {
            name: behaviour.name.to_string(),
            why,
        })
    });
    results.buffer_unordered(AT_ONCE).filter_map(async |failure| failure)
}

/// Runs behaviours against a server until one fails.
pub async fn first_failure(api: &Api, behaviours: &[Behaviour]) -> Option<Failure> {
    std::pin::pin!(failing(api, behaviours)).next().await
}

/// Runs behaviours against a server and returns those that failed, in the order of their names.
pub async fn run(api: &Api, behaviours: &[Behaviour]) -> Vec<Failure> {
    let mut failures: Vec<Failure> = failing(api, behaviours).collect().await;
    failures.sort_by(|a, b| a.name.cmp(&b.name));
    failures
}

/// A report for people.
pub fn report(server: &str, count: usize, failures: &[Failure]) -> String {
    let head = format!("{server}: {} of {count} behaviours hold", count - failures.len());
    let lines = failures.iter().map(|failure| format!("\n  {}\n    {}", failure.name, failure.why));
    std::iter::once(head).chain(lines).collect()
}
