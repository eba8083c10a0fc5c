"""A Kubernetes API, asked as the administrator of a kubeconfig, by curl from wherever the API can be reached."""

import base64
import json
import re
import subprocess

# Group and version of our kinds.
GROUP = "kube-baremetal.io/v1alpha1"
FIELDS = (("--cacert", "certificate-authority-data"), ("--cert", "client-certificate-data"), ("--key", "client-key-data"))


class KubernetesApi:
    """`inside` makes a command one that runs where the API is reached."""

    def __init__(self, kubeconfig, inside):
        text = kubeconfig.read_text()
        self.inside, self.url, self.identity = inside, re.search(r'server: "(\S+)"', text)[1], []
        for option, field in FIELDS:
            file = kubeconfig.with_name(field)
            file.write_bytes(base64.b64decode(re.search(rf"{field}: (\S+)", text)[1]))
            self.identity += [option, file]

    def call(self, method, path, body=None):
        """Status and answer. A path that does not begin with a slash is one of our group."""
        command = ["curl", "--silent", "--show-error", "--request", method, "--write-out", "\n%{http_code}", *self.identity]
        ours = not path.startswith("/")
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            whole = {"apiVersion": GROUP, **body} if ours and method != "PATCH" else body
            command += ["--header", f"Content-Type: application/{kind}", "--data", json.dumps(whole)]
        url = self.url + (f"/apis/{GROUP}/{path}" if ours else path)
        asked = subprocess.run(self.inside([*command, url]), capture_output=True, text=True)
        if asked.returncode != 0:
            raise SystemExit(f"{method} {path}: {asked.stderr}")
        text, _, code = asked.stdout.rpartition("\n")
        return int(code), json.loads(text)

    def create_all(self, plural, kind, specs):
        """Many objects of our group, by their names and specs, over one connection."""
        requests = []
        for name, spec in specs:
            body = json.dumps({"apiVersion": GROUP, "kind": kind, "metadata": {"name": name}, "spec": spec})
            options = [(option.lstrip("-"), str(value)) for option, value in zip(self.identity[::2], self.identity[1::2])]
            options += [("url", f"{self.url}/apis/{GROUP}/{plural}"), ("header", "Content-Type: application/json"), ("data", body), ("output", "/dev/null"), ("write-out", "%{http_code}\\n")]
            requests.append("".join(f'{option} = "{value if option == "write-out" else quoted(value)}"\n' for option, value in options))
        if not requests:
            return
        command = ["curl", "--silent", "--show-error", "--config", "-"]
        asked = subprocess.run(self.inside(command), input="next\n".join(requests), capture_output=True, text=True)
        codes = asked.stdout.split()
        if asked.returncode != 0 or codes != ["201"] * len(requests):
            raise SystemExit(f"{kind}: {len(requests)} were to be created, {codes.count('201')} were: {asked.stderr or set(codes)}")


def quoted(text):
    """As a curl configuration has it between quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
