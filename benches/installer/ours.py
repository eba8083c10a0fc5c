"""Our way: `kube-baremetal up` as a user starts it, with a policy, an image and an instance that waits for a machine before one is switched on.

The server and its objects are there beforehand, as the mirror and the preseed file are for the installer. All is asked of the Kubernetes API, with the kubeconfig that `up`
writes.
"""

import base64
import hashlib
import json
import re
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from machine import HOST, Failed, free_port

GROUP = "/apis/kube-baremetal.io/v1alpha1"
IMAGE = "debian"


class Server:
    """`up` with a state folder of its own, which is emptied first. Use it as a context: it is stopped at the end."""

    def __init__(self, program, media, image, folder):
        self._program, self._media, self._image, self._folder = program, media, image, folder

    def __enter__(self):
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        api, self._http, agent = free_port(), free_port(), free_port()
        kubeconfig = self._folder / "kubeconfig"
        # QEMU's user networking shows this host's loopback to a guest.
        command = [self._program, "up", "--data-dir", self._folder / "data", "--kubeconfig", kubeconfig, "--api-listen", f"127.0.0.1:{api}"]
        command += ["--http-listen", f"127.0.0.1:{self._http}", "--agent-listen", f"127.0.0.1:{agent}", "--advertise", HOST, "--media-dir", self._media]
        command += ["--image-dir", self._image.parent]
        log = open(self._folder / "server.log", "ab")
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        try:
            self._wait_for(kubeconfig, 60)
            self._connect(kubeconfig.read_text())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._child.terminate()
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _wait_for(self, file, limit):
        # The file is written last, when everything answers.
        deadline = time.monotonic() + limit
        while not file.exists():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"`up` did not start within {limit} s; see {self._folder}/server.log")
            time.sleep(0.1)

    def _connect(self, kubeconfig):
        values = dict(re.findall(r"^[ -]*(server|certificate-authority-data|client-certificate-data|client-key-data): *\"?([^\s\"]+)", kubeconfig, re.M))
        self._url = values["server"]
        self._context = ssl.create_default_context(cadata=base64.b64decode(values["certificate-authority-data"]).decode())
        # The module takes a client certificate from a file only.
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            file.write(base64.b64decode(values["client-certificate-data"]) + b"\n" + base64.b64decode(values["client-key-data"]))
            file.flush()
            self._context.load_cert_chain(file.name)

    @property
    def boot_url(self):
        return f"http://{HOST}:{self._http}/boot/ipxe"

    def _ask(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from None

    def _create(self, kind, plural, name, spec, namespace=""):
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        where = f"{GROUP}/namespaces/{namespace}/{plural}" if namespace else f"{GROUP}/{plural}"
        self._ask("POST", where, {"apiVersion": "kube-baremetal.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})

    def prepare(self):
        """What an admin writes once: a policy that accepts every machine, and the image. Without networks, machines have their address by DHCP."""
        self._create("BareMetalDiscoveryPolicy", "baremetaldiscoverypolicies", "bench", {"when": "inventory.memory.bytes >= 268435456", "eraseForeignData": True})
        with open(self._image, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        url = f"http://{HOST}:{self._http}/images/{self._image.name}"
        self._create("BareMetalImage", "baremetalimages", IMAGE, {"url": url, "digest": f"sha256:{digest}", "format": "Zstd"})

    def create_instance(self, name, key):
        spec = {"image": IMAGE, "sshKeys": [key.public], "running": True, "guestHelper": True, "configDrive": True}
        spec["requests"] = {"cpu": "1", "memory": "256Mi", "disk": "2Gi"}
        self._create("BareMetalInstance", "baremetalinstances", name, spec, "default")

    def instance(self, name):
        return self._ask("GET", f"{GROUP}/namespaces/default/baremetalinstances/{name}")


def image_bytes(image):
    """Size of the disk that an image (raw, zstd) describes."""
    with subprocess.Popen(["zstd", "-q", "-dc", image], stdout=subprocess.PIPE) as unpacking:
        size = 0
        while piece := unpacking.stdout.read(1 << 22):
            size += len(piece)
    if unpacking.returncode:
        raise Failed(f"{image} is no image of the form raw.zst")
    return size
