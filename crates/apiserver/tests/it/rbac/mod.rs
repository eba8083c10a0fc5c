//! Rights: the same objects and the same requests, here and in the real control plane, must get the same answers.

mod cases;
mod reviews;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use apiserver::{ApiServer, Bearer, Config};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tower::ServiceExt;

use self::cases::cases;
use self::reviews::{commands, reviews};
use crate::common::*;

/// A server to ask.
struct Place {
    name: &'static str,
    config: kube::Config,
    kubeconfig: PathBuf,
    admin: Client,
    home: tempfile::TempDir,
}

/// As whom.
#[derive(Clone, Copy)]
enum Who<'a> {
    Admin,
    /// Through impersonation by the administrator.
    User(&'a str),
    /// With a token of a service account.
    Token(&'a str),
}

use Who::{Admin, Token, User};

impl Place {
    async fn new(name: &'static str, kubeconfig: PathBuf) -> Place {
        let read = Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .expect("usable");
        Place {
            name,
            admin: Client::try_from(config.clone()).expect("a client"),
            config,
            kubeconfig,
            home: tempfile::tempdir().expect("a directory"),
        }
    }

    fn client(&self, who: Who<'_>) -> Client {
        match who {
            Token(token) => {
                let mut config = self.config.clone();
                config.auth_info = AuthInfo {
                    token: Some(token.to_owned().into()),
                    ..AuthInfo::default()
                };
                Client::try_from(config).expect("a client")
            }
            _ => self.admin.clone(),
        }
    }

    async fn ask(&self, who: Who<'_>, method: &Method, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
        let content_type = match *method {
            Method::PATCH if path.contains("fieldManager=") => "application/apply-patch+yaml",
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT, "application/json");
        if let User(name) = who {
            request = request.header("impersonate-user", name);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = request.body(kube::client::Body::from(bytes)).expect("a request");
        let answer = self
            .client(who)
            .send(request)
            .await
            .unwrap_or_else(|error| panic!("{}: {path}: {error}", self.name));
        let code = answer.status().as_u16();
        let bytes = tokio::time::timeout(PATIENCE, answer.into_body().collect())
            .await
            .expect("in time")
            .expect("a body")
            .to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Applies a stream of YAML documents as the administrator.
    async fn install(&self, text: &str) {
        let objects: Vec<DynamicObject> = serde_saphyr::from_multiple(text).expect("objects");
        for object in objects {
            let types = object.types.as_ref().expect("a kind");
            let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(types).expect("a kind"));
            let api: Api<DynamicObject> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(self.admin.clone(), &namespace, &kind),
                None => Api::all_with(self.admin.clone(), &kind),
            };
            let name = object.name_any();
            // A definition's kind is served a little after it is stored.
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while let Err(error) = api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await {
                let later = matches!(&error, kube::Error::Api(status) if status.code == 404) && tokio::time::Instant::now() < deadline;
                assert!(later, "{}: {} {name}: {error}", self.name, types.kind);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    async fn token(&self, namespace: &str, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let (code, answer) = self.ask(Admin, &Method::POST, &path, &[], &json!({ "spec": {} })).await;
        assert_eq!(code, 201, "{}: {answer}", self.name);
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// What the stock kubectl prints, both streams, and how it ends.
    async fn kubectl(&self, args: &[&str], input: &str) -> (String, Option<i32>) {
        use std::io::Write;
        let mut command = std::process::Command::new(rig::binary().expect("a kubectl"));
        command
            .arg("kubectl")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.home.path())
            .env("KUBECTL_KUBERC", "false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("kubectl starts");
            child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
            child.wait_with_output().expect("it ends")
        })
        .await
        .expect("the thread ends");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (text, output.status.code())
    }
}

/// Both servers. The embedded one is ended by the token that comes with it.
async fn both() -> (Server, rig::ControlPlane, [Place; 2], tokio_util::sync::CancellationToken) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (plane, server) = tokio::join!(rig::ControlPlane::start(rig::Options::default()), Server::start());
    let plane = plane.expect("a control plane");
    let (url, cancel, _task) = server.listen().await;
    let kubeconfig = server.directory.path().join("kubeconfig");
    server.api.write_kubeconfig(&kubeconfig, &url).expect("written");
    let places = [
        Place::new("embedded", kubeconfig).await,
        Place::new("real", plane.kubeconfig()).await,
    ];
    (server, plane, places, cancel)
}

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Who has which rights in these tests.
const WORLD: &str = include_str!("world.yaml");

const ROBOT: &str = "system:serviceaccount:team:robot";
const TEAM: &str = "/api/v1/namespaces/team";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_roles_allow_and_refuse_the_same_here_and_there() {
    let (server, _plane, places, cancel) = both().await;
    let mut tokens = Vec::new();
    for place in &places {
        place.install(&serde_saphyr::to_string(&widgets()).expect("YAML")).await;
        place.install(WORLD).await;
        tokens.push(place.token("team", "robot").await);
        // Aggregation is a controller's work in both.
        eventually("view gathers the widgets", async || {
            place
                .ask(
                    User("viewer"),
                    &Method::GET,
                    "/apis/example.com/v1/namespaces/team/widgets",
                    &[],
                    &Value::Null,
                )
                .await
                .0
                == 200
        })
        .await;
        eventually("admin gathers what edit gathers", async || {
            place
                .ask(User("owner"), &Method::GET, &format!("{TEAM}/secrets"), &[], &Value::Null)
                .await
                .0
                == 200
        })
        .await;
    }
    let mut wrong = Vec::new();
    for (here, there) in cases(&tokens[0]).iter().zip(cases(&tokens[1])) {
        let mut answers = Vec::new();
        for (place, case) in places.iter().zip([here, &there]) {
            let (code, answer) = place.ask(case.who, &case.method, &case.path, &[], &case.body).await;
            let shown = format!("{}: {} {} {}", place.name, case.method, case.path, case.body);
            if code != case.code {
                wrong.push(format!("{shown}\n  {code} instead of {}: {answer}", case.code));
            }
            if let Some(message) = case.message.filter(|message| answer["message"] != *message) {
                wrong.push(format!("{shown}\n  says {}\n  instead of \"{message}\"", answer["message"]));
            }
            answers.push((code, answer));
        }
        let told = |(code, answer): &(u16, Value)| {
            (*code >= 400).then(|| (answer["message"].clone(), answer["reason"].clone(), answer["details"].clone()))
        };
        if told(&answers[0]) != told(&answers[1]) {
            wrong.push(format!(
                "{} {} {}\n  here {}\n  there {}",
                here.method, here.path, here.body, answers[0].1, answers[1].1
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(server.api.panics(), 0);
    cancel.cancel();
}

async fn review(place: &Place, who: Who<'_>, headers: &[(&str, &str)], group: &str, kind: &str, spec: Value) -> (u16, Value) {
    let path = format!("/apis/{group}/v1/{}s", kind.to_lowercase());
    let body = json!({ "apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec });
    place.ask(who, &Method::POST, &path, headers, &body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_impersonation_and_kubectl_agree_with_the_real_server() {
    let (server, _plane, places, cancel) = both().await;
    let (mut told, mut printed) = (Vec::new(), Vec::new());
    for place in &places {
        place.install(&serde_saphyr::to_string(&widgets()).expect("YAML")).await;
        place.install(WORLD).await;
        told.push(reviews(place).await);
        printed.push(commands(place).await);
    }
    let told = told[0].iter().zip(&told[1]).filter(|(here, there)| here != there);
    let told = told.map(|(here, there)| format!("here  {here:?}\nthere {there:?}"));
    let printed = printed[0].iter().zip(&printed[1]).filter(|(here, there)| here != there);
    let printed = printed.map(|(here, there)| {
        format!(
            "$ kubectl {}\n{:?}\n{}\n-- there {:?}\n{}",
            here.0, here.2, here.1, there.2, there.1
        )
    });
    let wrong: Vec<String> = told.chain(printed).collect();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(server.api.panics(), 0);
    cancel.cancel();
}

/// The accounts of `deploy/rbac`.
const OPERATOR: &str = "system:serviceaccount:kube-baremetal-system:kube-baremetal-operator";
const NETBOOT: &str = "system:serviceaccount:kube-baremetal-netboot:kube-baremetal-netboot";

async fn may(place: &Place, user: &str, verb: &str, what: (&str, &str, &str), namespace: &str, name: &str) -> bool {
    let (group, resource, subresource) = what;
    let groups = match user.split(':').collect::<Vec<_>>().as_slice() {
        ["system", "serviceaccount", namespace, _] => json!([
            "system:serviceaccounts",
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated"
        ]),
        _ => json!(["system:authenticated"]),
    };
    let spec = json!({ "user": user, "groups": groups, "resourceAttributes": {
        "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name,
    } });
    let (code, answer) = review(place, Admin, &[], "authorization.k8s.io", "SubjectAccessReview", spec).await;
    assert_eq!(code, 201, "{}: {answer}", place.name);
    answer["status"]["allowed"] == true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_and_netboot_have_the_rights_they_need_and_no_others() {
    let (server, _plane, places, cancel) = both().await;
    let ours = "kube-baremetal.io";
    let system = "kube-baremetal-system";
    let netboot = "kube-baremetal-netboot";
    let secrets = ("", "secrets", "");
    let leases = ("coordination.k8s.io", "leases", "");
    for place in &places {
        for file in ["namespaces", "operator", "netboot", "tenants"] {
            place.install(&shipped(&format!("rbac/{file}.yaml"))).await;
        }
        for (user, verb, what, namespace, name, allowed) in [
            // The operator: tenants' Secrets by name only.
            (OPERATOR, "get", secrets, "tenant", "user-data", true),
            (OPERATOR, "list", secrets, "tenant", "", false),
            (OPERATOR, "watch", secrets, "tenant", "", false),
            (OPERATOR, "list", secrets, "", "", false),
            (OPERATOR, "list", secrets, "tenant", "user-data", false),
            (OPERATOR, "watch", secrets, netboot, "", false),
            (OPERATOR, "create", secrets, "tenant", "", false),
            (OPERATOR, "update", secrets, "tenant", "user-data", false),
            (OPERATOR, "delete", secrets, "tenant", "user-data", false),
            (OPERATOR, "create", secrets, netboot, "", true),
            (OPERATOR, "patch", secrets, netboot, "seed-m1", true),
            (OPERATOR, "delete", secrets, netboot, "seed-m1", true),
            (OPERATOR, "create", secrets, system, "", true),
            (OPERATOR, "update", secrets, system, "bmc", false),
            (OPERATOR, "delete", secrets, system, "bmc", false),
            (OPERATOR, "list", (ours, "baremetaldiscoveries", ""), "", "", true),
            (OPERATOR, "update", (ours, "baremetaldiscoveries", ""), "", "m1", false),
            (OPERATOR, "create", (ours, "baremetalhardware", ""), "", "", true),
            (OPERATOR, "update", (ours, "baremetalhardware", "status"), "", "m1", true),
            (OPERATOR, "delete", (ours, "baremetalhardware", ""), "", "m1", false),
            (OPERATOR, "patch", (ours, "baremetalinstances", ""), "tenant", "i", true),
            (OPERATOR, "create", (ours, "baremetalinstances", ""), "tenant", "", false),
            (OPERATOR, "delete", (ours, "baremetalinstances", ""), "tenant", "i", false),
            (OPERATOR, "create", ("events.k8s.io", "events", ""), "tenant", "", true),
            (OPERATOR, "list", ("", "events", ""), "tenant", "", false),
            (OPERATOR, "create", leases, system, "", true),
            (OPERATOR, "update", leases, system, "kube-baremetal-operator", true),
            (OPERATOR, "watch", leases, system, "kube-baremetal-operator", true),
            (OPERATOR, "watch", leases, system, "", false),
            (OPERATOR, "update", leases, system, "another", false),
            (OPERATOR, "update", leases, "kube-system", "kube-scheduler", false),
            (OPERATOR, "create", ("", "serviceaccounts", "token"), netboot, netboot, false),
            (OPERATOR, "impersonate", ("", "users", ""), "", "kubernetes-admin", false),
            (
                OPERATOR,
                "bind",
                ("rbac.authorization.k8s.io", "clusterroles", ""),
                "",
                "cluster-admin",
                false,
            ),
            (OPERATOR, "get", ("", "pods", ""), system, "x", false),
            // Netboot: no Secret outside its namespace, none listed, nothing decided.
            (NETBOOT, "get", secrets, netboot, "netboot-keys", true),
            (NETBOOT, "update", secrets, netboot, "seed-m1", false),
            (NETBOOT, "create", secrets, netboot, "", true),
            (NETBOOT, "list", secrets, netboot, "", true),
            (NETBOOT, "watch", secrets, netboot, "", true),
            (NETBOOT, "list", secrets, system, "", false),
            (NETBOOT, "delete", secrets, netboot, "seed-m1", false),
            (NETBOOT, "get", secrets, "tenant", "user-data", false),
            (NETBOOT, "get", secrets, system, "bmc", false),
            (NETBOOT, "get", secrets, "", "", false),
            (NETBOOT, "create", (ours, "baremetaldiscoveries", ""), "", "", true),
            (NETBOOT, "update", (ours, "baremetaldiscoveries", ""), "", "m1", true),
            (NETBOOT, "delete", (ours, "baremetaldiscoveries", ""), "", "m1", false),
            (NETBOOT, "watch", (ours, "baremetalhardware", ""), "", "", true),
            (NETBOOT, "update", (ours, "baremetalhardware", ""), "", "m1", false),
            (NETBOOT, "update", (ours, "baremetalhardware", "status"), "", "m1", false),
            (NETBOOT, "get", (ours, "baremetalinstances", ""), "tenant", "i", false),
            (NETBOOT, "create", ("events.k8s.io", "events", ""), "default", "", false),
            (
                NETBOOT,
                "create",
                ("", "serviceaccounts", "token"),
                system,
                "kube-baremetal-operator",
                false,
            ),
        ] {
            assert_eq!(
                may(place, user, verb, what, namespace, name).await,
                allowed,
                "{}: {user} {verb} {what:?} {name:?} in {namespace:?}",
                place.name
            );
        }
        // Tenants get theirs through the roles that every cluster has.
        place
            .install("apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: tenant, namespace: default}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}\nsubjects: [{kind: User, name: tenant, apiGroup: rbac.authorization.k8s.io}]\n")
            .await;
        let instances = (ours, "baremetalinstances", "");
        eventually("edit gathers the tenants' rights", async || {
            may(place, "tenant", "list", instances, "default", "").await
        })
        .await;
        eventually("edit gathers what tenants may write", async || {
            may(place, "tenant", "create", instances, "default", "").await
        })
        .await;
        assert!(!may(place, "tenant", "update", (ours, "baremetalinstances", "status"), "default", "i").await);
        assert!(!may(place, "tenant", "create", instances, "other", "").await);
    }
    assert_eq!(server.api.panics(), 0);
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_account_and_strangers_see_health_alone() {
    let server = Server::start().await;
    let (url, cancel, _task) = server.listen().await;
    let kubeconfig = server.directory.path().join("kubeconfig");
    server.api.write_kubeconfig(&kubeconfig, &url).expect("written");
    drop(rustls::crypto::ring::default_provider().install_default());
    let place = Place::new("embedded", kubeconfig).await;
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot, namespace: default}\n";
    place.install(account).await;
    let token = place.token("default", "robot").await;
    let whoami = async |token: &str| {
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        place.ask(Token(token), &Method::POST, path, &[], &body).await
    };
    let (code, answer) = whoami(&token).await;
    assert_eq!(
        (code, &answer["status"]["userInfo"]["username"]),
        (201, &json!("system:serviceaccount:default:robot"))
    );

    // At once: nothing that was verified before is believed without its account.
    let path = "/api/v1/namespaces/default/serviceaccounts/robot";
    assert_eq!(place.ask(Admin, &Method::DELETE, path, &[], &Value::Null).await.0, 200);
    assert_eq!(whoami(&token).await.0, 401);
    place.install(account).await;
    assert_eq!(whoami(&token).await.0, 401, "the new account has another uid");
    assert_eq!(whoami(&place.token("default", "robot").await).await.0, 201);

    // The key outlives the server, and with it the tokens.
    let token = place.token("default", "robot").await;
    cancel.cancel();
    let Server { api, directory } = server;
    api.shutdown().await;
    drop(api);
    let api = ApiServer::open(Config::new(directory.path().join("data")))
        .await
        .expect("opens again");
    let server = Server { api, directory };
    assert_eq!(reach(&server, Some(&token), "/apis").await, 200);
    assert_eq!(reach(&server, Some(&token), "/api/v1/namespaces").await, 403);

    for (path, code) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/livez", 200),
        ("/version", 200),
        ("/", 401),
        ("/api", 401),
        ("/apis", 401),
        ("/openapi/v3", 401),
        ("/openid/v1/jwks", 401),
        ("/.well-known/openid-configuration", 401),
        ("/api/v1/namespaces", 401),
        ("/api/v1/namespaces/default/secrets/x", 401),
        ("/apis/authentication.k8s.io/v1/selfsubjectreviews", 401),
        ("/metrics", 401),
        ("/nonsense", 401),
    ] {
        assert_eq!(reach(&server, None, path).await, code, "{path}");
        assert_eq!(reach(&server, Some("nonsense"), path).await, code, "{path}");
    }
    assert_eq!(server.api.panics(), 0);
}

/// How a GET with a token, or without one, is answered.
async fn reach(server: &Server, token: Option<&str>, path: &str) -> u16 {
    let bearer = Bearer::default();
    if let Some(token) = token {
        assert!(bearer.set(token));
    }
    let request = Request::builder().uri(path).body(axum::body::Body::empty()).expect("a request");
    let answer = server
        .api
        .token_router(bearer)
        .oneshot(request)
        .await
        .expect("the router cannot fail");
    answer.status().as_u16()
}

#[tokio::test]
async fn roles_that_were_lost_are_there_again_after_a_start() {
    let server = Server::start().await;
    let path = |name: &str| format!("{RBAC}/clusterroles/{name}");
    server.delete(&path("system:discovery")).await.expect(200);
    assert_eq!(server.get("/api").await.code, 200, "the administrator needs no role");
    assert_eq!(
        server
            .merge(&path("view"), &json!({ "metadata": { "labels": { "mine": "yes" } } }))
            .await
            .code,
        200
    );
    let Server { api, directory } = server;
    api.shutdown().await;
    drop(api);
    let api = ApiServer::open(Config::new(directory.path().join("data")))
        .await
        .expect("opens again");
    let server = Server { api, directory };
    server.get(&path("system:discovery")).await.expect(200);
    let view = server.get(&path("view")).await.expect(200);
    assert_eq!(view["metadata"]["labels"]["mine"], "yes", "what somebody added stays");
    assert!(view["rules"].as_array().is_some_and(|rules| rules.len() > 5), "{view}");
    let revision = server.api.store().revision();
    server.api.shutdown().await;
    let Server { api, directory } = server;
    drop(api);
    let api = ApiServer::open(Config::new(directory.path().join("data")))
        .await
        .expect("opens again");
    assert_eq!(api.store().revision(), revision, "a start that finds everything writes nothing");
    api.shutdown().await;
}
