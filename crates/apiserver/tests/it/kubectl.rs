//! The stock kubectl against the server over TLS.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::*;

struct Kubectl {
    config: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        // The one that was built beside the control plane, or any other that somebody wants to try.
        let mut command = match std::env::var_os("KBM_KUBECTL") {
            Some(named) => Command::new(named),
            None => {
                let mut command = Command::new(rig::binary().expect("a kubectl"));
                command.arg("kubectl");
                command
            }
        };
        command
            .args(args)
            .env("KUBECONFIG", &self.config)
            .env("HOME", self.home.path())
            .env("KUBECTL_KUBERC", "false");
        command
    }

    async fn output(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (input, shown) = (input.to_owned(), args.join(" "));
        tokio::task::spawn_blocking(move || {
            let mut child = command
                .spawn()
                .unwrap_or_else(|error| panic!("kubectl {shown} does not start ({error}); KBM_KUBECTL names another one"));
            child
                .stdin
                .take()
                .expect("its input")
                .write_all(input.as_bytes())
                .unwrap_or_else(|error| panic!("kubectl {shown}: {error}"));
            child.wait_with_output().expect("it ends")
        })
        .await
        .expect("the thread ends")
    }

    /// Runs kubectl and expects success.
    #[track_caller]
    fn run<'a>(&'a self, args: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        self.feed(args, "")
    }

    async fn feed(&self, args: &[&str], input: &str) -> String {
        let output = self.output(args, input).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {}: {out}{err}", args.join(" "));
        out.into_owned()
    }

    async fn fail(&self, args: &[&str], input: &str) -> String {
        let output = self.output(args, input).await;
        assert!(
            !output.status.success(),
            "kubectl {} succeeded: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

async fn kubectl() -> (Server, Kubectl, tokio_util::sync::CancellationToken) {
    let server = Server::with_definitions().await;
    let (url, cancel, _task) = server.listen().await;
    let config = server.directory.path().join("kubeconfig");
    server.api.write_kubeconfig(&config, &url).expect("written");
    (
        server,
        Kubectl {
            config,
            home: tempfile::tempdir().expect("a directory"),
        },
        cancel,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_reads_writes_and_explains() {
    let (server, kubectl, cancel) = kubectl().await;
    let file = |value: &Value| value.to_string();
    assert_eq!(
        kubectl.feed(&["create", "-f", "-"], &file(&widget("a", 3))).await,
        "widget.example.com/a created\n"
    );
    let again = kubectl.fail(&["create", "-f", "-"], &file(&widget("a", 3))).await;
    assert!(
        again.contains("Error from server (AlreadyExists)") && again.contains("widgets.example.com \"a\" already exists"),
        "{again}"
    );

    let table = kubectl.run(&["get", "wd", "a"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "COLOR", "SIZE", "READY", "PHASE", "SEEN", "AGE"]);
    assert_eq!(lines[1][..3], ["a", "red", "3"]);
    assert!(kubectl.run(&["get", "widgets", "-o", "wide"]).await.contains("RATIO"));
    assert_eq!(kubectl.run(&["get", "widgets", "-o", "name"]).await, "widget.example.com/a\n");
    assert_eq!(kubectl.run(&["get", "widget", "a", "-o", "jsonpath={.spec.maxSize}"]).await, "100");
    assert_eq!(
        kubectl.run(&["get", "all", "-A", "-o", "name"]).await,
        "widget.example.com/a\n",
        "by its category"
    );
    let described = kubectl.run(&["describe", "widget", "a"]).await;
    assert!(
        described.contains("Kind:         Widget") && described.contains("Max Size:  100"),
        "{described}"
    );

    let resources = kubectl.run(&["api-resources"]).await;
    assert!(
        resources
            .lines()
            .any(|line| line.split_whitespace().eq(["widgets", "wd", "example.com/v1", "true", "Widget"])),
        "{resources}"
    );
    assert!(kubectl.run(&["api-versions"]).await.contains("example.com/v2"));
    let explained = kubectl.run(&["explain", "widget.spec.size"]).await;
    assert!(
        explained.contains("How big it is.") && explained.contains("FIELD: size <integer>"),
        "{explained}"
    );
    assert!(kubectl.run(&["explain", "configmap.data"]).await.contains("FIELD: data"));
    assert!(kubectl.run(&["version"]).await.contains("Server Version: v1."));
    assert_eq!(kubectl.run(&["auth", "can-i", "create", "widgets"]).await.trim(), "yes");
    assert!(kubectl.run(&["auth", "whoami"]).await.contains("kubernetes-admin"));

    let strict = kubectl.fail(&["create", "-f", "-"], &file(&json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "x" }, "spec": { "size": 1, "bogus": 1 } }))).await;
    assert!(strict.contains("strict decoding error: unknown field \"spec.bogus\""), "{strict}");
    let rule = kubectl.fail(&["create", "-f", "-"], &file(&widget("x", 500))).await;
    assert!(
        rule.contains("The Widget \"x\" is invalid") && rule.contains("size may not exceed maxSize"),
        "{rule}"
    );
    let missing = kubectl.fail(&["get", "widget", "nobody"], "").await;
    assert_eq!(
        missing.trim(),
        "Error from server (NotFound): widgets.example.com \"nobody\" not found"
    );
    let unknown = kubectl.fail(&["get", "nonsense"], "").await;
    assert!(
        unknown.contains("the server doesn't have a resource type \"nonsense\""),
        "{unknown}"
    );
    assert_eq!(server.api.panics(), 0);
    cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_edits_patches_scales_and_deletes() {
    let (server, kubectl, cancel) = kubectl().await;
    let text = |size: i64, extra: &str| {
        format!("apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\n  labels: {{team: x}}\nspec:\n  size: {size}\n{extra}")
    };
    assert_eq!(
        kubectl.feed(&["apply", "-f", "-"], &text(1, "  tags: [one]\n")).await,
        "widget.example.com/a created\n"
    );
    assert_eq!(
        kubectl.feed(&["apply", "-f", "-"], &text(1, "  tags: [one]\n")).await,
        "widget.example.com/a unchanged\n"
    );
    assert_eq!(
        kubectl.feed(&["apply", "-f", "-"], &text(2, "")).await,
        "widget.example.com/a configured\n"
    );
    assert_eq!(
        kubectl
            .run(&["get", "widget", "a", "-o", "jsonpath={.spec.size}{.spec.tags}"])
            .await,
        "2"
    );
    let diff = kubectl.output(&["diff", "-f", "-"], &text(3, "")).await;
    assert_eq!(diff.status.code(), Some(1), "{}", String::from_utf8_lossy(&diff.stderr));
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+  size: 3"));

    let conflict = kubectl
        .fail(&["apply", "--server-side", "--field-manager", "other", "-f", "-"], &text(9, ""))
        .await;
    assert!(
        conflict.contains("Apply failed with 1 conflict") && conflict.contains(".spec.size"),
        "{conflict}"
    );
    let applied = kubectl
        .feed(
            &["apply", "--server-side", "--field-manager", "other", "--force-conflicts", "-f", "-"],
            &text(9, ""),
        )
        .await;
    assert_eq!(applied, "widget.example.com/a serverside-applied\n");

    let mut edit = kubectl.command(&["edit", "widget", "a"]);
    edit.env("KUBE_EDITOR", "sed -i 's/size: 9/size: 10/'");
    let edited = tokio::task::spawn_blocking(move || edit.output().expect("it runs"))
        .await
        .expect("the thread ends");
    assert!(
        String::from_utf8_lossy(&edited.stdout).contains("widget.example.com/a edited"),
        "{edited:?}"
    );

    kubectl
        .run(&["patch", "widget", "a", "--type=merge", "-p", r#"{"spec":{"size":11}}"#])
        .await;
    kubectl
        .run(&[
            "patch",
            "widget",
            "a",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/size","value":12}]"#,
        ])
        .await;
    kubectl
        .run(&[
            "patch",
            "widget",
            "a",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"ready":true,"conditions":[{"type":"Ready","status":"True"}]}}"#,
        ])
        .await;
    assert_eq!(
        kubectl
            .run(&["get", "widget", "a", "-o", "jsonpath={.spec.size} {.status.ready}"])
            .await,
        "12 true"
    );
    kubectl.run(&["wait", "widget/a", "--for=condition=Ready", "--timeout=10s"]).await;
    kubectl
        .run(&["wait", "widget/a", "--for=jsonpath={.spec.size}=12", "--timeout=10s"])
        .await;
    kubectl.run(&["scale", "widget/a", "--replicas=4"]).await;
    assert_eq!(kubectl.run(&["get", "widget", "a", "-o", "jsonpath={.spec.replicas}"]).await, "4");
    kubectl.run(&["label", "widget", "a", "extra=1"]).await;
    kubectl.run(&["annotate", "widget", "a", "note=hello"]).await;
    assert_eq!(
        kubectl
            .run(&[
                "get",
                "widgets",
                "-l",
                "extra=1",
                "--field-selector",
                "spec.color=red",
                "-o",
                "name"
            ])
            .await,
        "widget.example.com/a\n"
    );

    kubectl.run(&["create", "namespace", "team"]).await;
    kubectl.run(&["create", "configmap", "c", "--from-literal=a=b", "-n", "team"]).await;
    kubectl
        .run(&["patch", "configmap", "c", "-n", "team", "-p", r#"{"data":{"x":"y"}}"#])
        .await;
    assert_eq!(
        kubectl.run(&["get", "cm", "c", "-n", "team", "-o", "jsonpath={.data}"]).await,
        r#"{"a":"b","x":"y"}"#
    );
    kubectl
        .run(&["create", "secret", "generic", "s", "--from-literal=p=q", "-n", "team"])
        .await;
    assert!(
        kubectl
            .run(&["describe", "secret", "s", "-n", "team"])
            .await
            .contains("p:  1 bytes")
    );
    kubectl.run(&["delete", "namespace", "team", "--timeout=20s"]).await;
    kubectl.fail(&["get", "namespace", "team"], "").await;

    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "a.1", "namespace": "default" }, "type": "Warning", "reason": "Planted",
        "message": "seen in a test", "involvedObject": { "apiVersion": "example.com/v1", "kind": "Widget", "name": "a", "namespace": "default",
        "uid": server.get(&format!("{WIDGETS}/a")).await.body["metadata"]["uid"] }, "source": { "component": "tester" },
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
    });
    server.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    assert!(kubectl.run(&["get", "events"]).await.contains("seen in a test"));
    assert!(kubectl.run(&["events", "--for", "widget/a"]).await.contains("Planted"));
    assert!(kubectl.run(&["describe", "widget", "a"]).await.contains("seen in a test"));

    let mut watch = kubectl.command(&["get", "widgets", "-w", "--request-timeout=4s"]);
    let watching = tokio::task::spawn_blocking(move || watch.output().expect("it runs"));
    eventually("kubectl watches", async || server.open_watches() > 0).await;
    kubectl.feed(&["create", "-f", "-"], &widget("later", 1).to_string()).await;
    let seen = watching.await.expect("the thread ends");
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.lines().any(|line| line.starts_with("later ")), "{seen}");

    // Newer ones say from which namespace.
    let deleted = kubectl.run(&["delete", "widget", "a"]).await;
    assert!(deleted.starts_with("widget.example.com \"a\" deleted"), "{deleted}");
    kubectl.run(&["delete", "widgets", "--all", "--cascade=foreground"]).await;
    assert_eq!(kubectl.run(&["get", "widgets", "-o", "name"]).await, "");
    kubectl.run(&["delete", "crd", "widgets.example.com"]).await;
    assert_eq!(server.api.panics(), 0);
    cancel.cancel();
}
