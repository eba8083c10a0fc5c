//! The control plane starts, serves, and ends with whoever started it.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use rig::{ControlPlane, Options};

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_ends() {
    let plane = ControlPlane::start(Options {
        audit: true,
        ..Options::default()
    })
    .await
    .expect("started");
    let pid = plane.pid("kube-apiserver").expect("its id");
    let client = plane.client().await.expect("a client");
    let version = client.apiserver_version().await.expect("a version");
    assert_eq!(version.major, "1");
    Api::<Namespace>::all(client).get("kube-system").await.expect("it is there");
    let output = plane
        .kubectl()
        .expect("kubectl")
        .args(["get", "namespace", "default", "-o", "name"])
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "namespace/default\n");
    let audit = std::fs::read_to_string(plane.audit_log()).expect("an audit log");
    assert!(audit.contains("/api/v1/namespaces/kube-system"), "the request is in the log");
    drop(plane);
    let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !gone() && std::time::Instant::now() < limit {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(gone(), "kube-apiserver {pid} is still there");
}
