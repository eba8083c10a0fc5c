//! The operator is killed before and after each of its writes, all through a machine's life; another one goes on, and everything ends right.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::support::{
    Bench, bench_on, gone, instance_at,
    machine::{Machine, foreign},
    phase_is,
};
use agent_protocol::{disk::DiskContents, order::OrderKind};
use api::{HardwarePhase, InstancePhase};
use axum::{extract::Request, middleware::Next, response::Response};

/// Cuts the line at one write.
#[derive(Clone, Default)]
struct Fuse {
    /// Writes until the cut.
    left: Arc<AtomicUsize>,
    /// Whether the cut write takes effect.
    after: bool,
    blown: Arc<AtomicBool>,
}

impl Fuse {
    async fn pass(self, request: Request, next: Next) -> Response {
        let write = request.method() != "GET";
        if self.blown.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let cut = write && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1);
        if !cut {
            return next.run(request).await;
        }
        if self.after {
            drop(next.run(request).await);
        }
        self.blown.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

async fn life(bench: &Bench, name: &str) {
    crate::support::network(bench, "lan", "192.0.2.0/24", "192.0.2.10", "192.0.2.20").await;
    bench
        .policy(|p| p.network_ref = Some(api::common::NetworkRef::network("lan")))
        .await;
    bench.image("debian").await;
    let mut machine = Machine::new(&bench.client, name, 1);
    machine.contents = foreign("old");
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    bench.create_instance("web", |_| {}).await;
    instance_at(bench, &mut machine, "web", InstancePhase::Running).await;
    bench.delete_instance("web").await;
    gone(bench, &mut machine, "web").await;
    machine
        .live_until(30, "free again", |h| {
            phase_is(HardwarePhase::Ready)(h) && h.spec.claim_ref.is_none()
        })
        .await;
    assert_eq!(machine.contents, DiskContents::blank());
    let kinds: Vec<OrderKind> = machine.obeyed.iter().map(|o| o.0).collect();
    assert_eq!(
        kinds,
        [OrderKind::Erase, OrderKind::Image, OrderKind::Erase],
        "each once, whoever was down"
    );
    let addresses: kube::Api<api::BareMetalAddress> = kube::Api::all(bench.client.clone());
    crate::support::until("every address is back", || async {
        addresses
            .list(&kube::api::ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
            .then_some(())
    })
    .await;
}

/// One life with a kill at write number `cut`; whether the life was long enough for it.
async fn survived(cut: usize, after: bool) -> bool {
    let fuse = Fuse {
        left: Arc::new(AtomicUsize::new(cut)),
        after,
        blown: Arc::default(),
    };
    let layer = fuse.clone();
    let bench = bench_on(move |router| {
        let fuse = layer.clone();
        router.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
            fuse.clone().pass(request, next)
        }))
    })
    .await;
    let successor = async {
        while !fuse.blown.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        bench.take_over().await
    };
    let name = format!("m-{cut}");
    let mut life = std::pin::pin!(life(&bench, &name));
    tokio::select! {
        () = &mut life => {
            bench.end_if_alive().await;
            false
        }
        operator = successor => {
            life.await;
            operator.end().await;
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_life_changes_nothing_in_the_end() {
    for after in [false, true] {
        let mut reached = 0;
        for start in (1..200).step_by(6) {
            let mut lives = tokio::task::JoinSet::new();
            for cut in start..start + 6 {
                lives.spawn(survived(cut, after));
            }
            let outcomes: Vec<bool> = lives.join_all().await;
            reached += outcomes.iter().filter(|r| **r).count();
            if outcomes.contains(&false) {
                break;
            }
        }
        println!("{reached} kills {} a write", if after { "after" } else { "before" });
        assert!(reached >= 20, "a life has at least twenty writes: {reached}");
    }
}
