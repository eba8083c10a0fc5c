//! `kube::Client` in process and over TLS with the generated kubeconfig.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::common::*;

async fn exercise(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition = serde_json::from_value(widgets()).expect("a definition");
    definitions.create(&PostParams::default(), &definition).await.expect("created");
    let established = await_condition(definitions.clone(), "widgets.example.com", conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established)
        .await
        .expect("in time")
        .expect("established");

    let (resource, _) = kube::discovery::pinned_kind(&client, &kube::core::GroupVersionKind::gvk("example.com", "v1", "Widget"))
        .await
        .expect("discovered");
    let all: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let mut events = Box::pin(
        watcher(all.clone(), watcher::Config::default().streaming_lists())
            .default_backoff()
            .applied_objects(),
    );
    let object: DynamicObject = serde_json::from_value(widget("a", 1)).expect("an object");
    all.create(&PostParams::default(), &object).await.expect("created");
    let seen = tokio::time::timeout(PATIENCE, events.try_next())
        .await
        .expect("in time")
        .expect("an event")
        .expect("an object");
    assert_eq!(seen.name_any(), "a");
    let applied = all
        .patch(
            "a",
            &PatchParams::apply("controller").force(),
            &Patch::Apply(json!({ "apiVersion": "example.com/v1", "kind": "Widget", "spec": { "size": 5 } })),
        )
        .await
        .expect("applied");
    assert_eq!(applied.data["spec"]["size"], 5);
    let status = all
        .patch_status("a", &PatchParams::default(), &Patch::Merge(json!({ "status": { "ready": true } })))
        .await
        .expect("patched");
    assert_eq!(status.data["status"]["ready"], true);
    let conflict = all
        .replace("a", &PostParams::default(), &seen)
        .await
        .expect_err("the object has changed");
    assert!(
        matches!(&conflict, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict"),
        "{conflict}"
    );

    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some("s".to_owned()),
            ..ObjectMeta::default()
        },
        string_data: Some([("k".to_owned(), "v".to_owned())].into()),
        ..Secret::default()
    };
    let made = secrets.create(&PostParams::default(), &secret).await.expect("created");
    assert_eq!(made.data.expect("data")["k"].0, b"v");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    for n in 0..25 {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(format!("m{n:02}")),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
    let page = maps.list(&ListParams::default().limit(10)).await.expect("listed");
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (10, Some(15)));
    let rest = maps
        .list(
            &ListParams::default()
                .limit(100)
                .continue_token(&page.metadata.continue_.expect("a token")),
        )
        .await
        .expect("listed");
    assert_eq!(rest.items.len(), 15);
    let version = rest.metadata.resource_version.expect("a version");
    let mut stream = maps
        .watch(&WatchParams::default().timeout(5), &version)
        .await
        .expect("a watch")
        .boxed();
    maps.delete("m00", &Default::default()).await.expect("deleted");
    let event = tokio::time::timeout(PATIENCE, stream.try_next())
        .await
        .expect("in time")
        .expect("an event");
    assert!(matches!(event, Some(kube::api::WatchEvent::Deleted(map)) if map.name_any() == "m00"));
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(namespaces.list(&ListParams::default()).await.expect("listed").items.len(), 4);
}

#[tokio::test]
async fn kube_works_in_process() {
    let server = Server::start().await;
    exercise(server.client()).await;
    assert_eq!(server.api.panics(), 0);
}

#[tokio::test]
async fn kube_works_over_tls_with_the_generated_kubeconfig() {
    let server = Server::start().await;
    let (url, cancel, task) = server.listen().await;
    let path = server.directory.path().join("kubeconfig");
    server.api.write_kubeconfig(&path, &url).expect("written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for file in [
            path.clone(),
            server.directory.path().join("data/ca.key"),
            server.directory.path().join("data/objects.redb"),
        ] {
            let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }
    let config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(&path).expect("a kubeconfig"), &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a configuration")).expect("a client");
    exercise(client.clone()).await;
    drop(client);
    cancel.cancel();
    tokio::time::timeout(PATIENCE, task)
        .await
        .expect("in time")
        .expect("the listener ends")
        .expect("without an error");
    server.api.shutdown().await;
}

#[tokio::test]
async fn a_kubeconfig_of_an_older_start_goes_on_working() {
    let server = Server::start().await;
    let path = server.directory.path().join("kubeconfig");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    server.api.write_kubeconfig(&path, &format!("https://{address}")).expect("written");
    drop(listener);
    server.api.shutdown().await;
    let api = apiserver::ApiServer::open(apiserver::Config::new(server.directory.path().join("data")))
        .await
        .expect("opens again");
    let listener = tokio::net::TcpListener::bind(address).await.expect("the same port");
    let cancel = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(api.serve_tls(listener, cancel.clone()));
    let config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(&path).expect("a kubeconfig"), &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a configuration")).expect("a client");
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(namespaces.list(&ListParams::default()).await.expect("listed").items.len(), 4);
    drop(namespaces);
    cancel.cancel();
    task.await.expect("the listener ends").expect("without an error");
}
