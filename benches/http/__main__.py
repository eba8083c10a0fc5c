"""Measures how netboot serves boot media over HTTP, side by side with nginx and its sendfile, on loopback.

    python3 benches/http --program PATH --media FOLDER [--runs N] [--clients N] [--seconds N]

PATH is `kube-baremetal` of the release profile. Everything happens in a network namespace of its own, so it needs root and disturbs nobody. Each server has one processor and the
load generator, wrk, another; in each round the contenders take turns. The exit status is 1 if a request failed, if what was sent is not what the folder holds, or if ours is
more than ten per cent behind nginx.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parent.parent))

import machine  # noqa: E402

INSIDE = "KBM_BENCH_HTTP_INSIDE"
BEHIND = 0.9
SERVER_CPU, CLIENT_CPU = "0", "1"


class Server:
    """One that runs, on one processor."""

    def __init__(self, name, command, url, log):
        self.name, self.url = name, url
        self.child = subprocess.Popen(["taskset", "--cpu-list", SERVER_CPU, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def processor_seconds(self):
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return sum(machine.processor_seconds(int(pid)) for pid in [self.child.pid, *children])

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def main():
    parser = argparse.ArgumentParser(prog="bench-http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="kube-baremetal, release profile")
    parser.add_argument("--media", type=Path, required=True, help="folder of the boot media")
    parser.add_argument("--runs", type=int, default=5, help="rounds; figures are medians of them")
    parser.add_argument("--clients", type=int, default=200, help="clients at once")
    parser.add_argument("--seconds", type=int, default=10, help="of each run")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench-http: needs root, for a network namespace")
    missing = [tool for tool in ("wrk", "nginx") if not shutil.which(tool, path="/usr/sbin:/usr/bin")]
    missing += [str(path) for path in (arguments.program, arguments.media / "amd64/initramfs.zst") if not path.exists()]
    if missing:
        raise SystemExit(f"bench-http: {', '.join(missing)} missing: `make bench-http` sets everything up")
    if INSIDE not in os.environ:
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], os.environ | {INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    busy = machine.busy_share(2.0)
    print(f"{platform.release()}, {os.cpu_count()} processors; initramfs of {(arguments.media / 'amd64/initramfs.zst').stat().st_size:,} bytes, {arguments.clients} clients")
    print(f"before the first round {busy:.0%} of the processors were busy with other things" + ("" if busy < 0.05 else ": NOT A QUIET MACHINE, take the figures as orientation only"))
    results, failed = {}, False
    with tempfile.TemporaryDirectory(prefix="kbm-http.") as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        servers = start(arguments, folder)
        try:
            for server in servers:
                same_bytes(server, arguments.media / "amd64/initramfs.zst")
            for round_number in range(arguments.runs):
                for server in servers:
                    run = measure(arguments, server)
                    results.setdefault(server.name, []).append(run)
                    if run["errors"]:
                        failed = True
                        print(f"{server.name}: {run['errors']} requests failed")
                print(f"round {round_number + 1} of {arguments.runs} done", file=sys.stderr, flush=True)
        finally:
            for server in servers:
                server.stop()
    return 1 if not table(results) or failed else 0


def start(arguments, folder):
    """Both servers, when they answer."""
    ours = folder / "kube-baremetal"
    command = [arguments.program.resolve(), "--log", "warn", "up", "--data-dir", ours, "--kubeconfig", folder / "kubeconfig", "--media-dir", arguments.media.resolve()]
    command += ["--api-listen", "127.0.0.1:7443", "--http-listen", "127.0.0.1:7080", "--agent-listen", "127.0.0.1:7444", "--advertise", "127.0.0.1", "--lab-machines", arguments.clients]
    nginx = folder / "nginx.conf"
    # As nginx's documentation would have it for large files, and a worker for the one processor.
    nginx.write_text(f"""worker_processes 1; daemon off; error_log stderr; pid {folder}/nginx.pid;
events {{ worker_connections 2048; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ }} default_type application/octet-stream;
  server {{ listen 127.0.0.1:7081; location /boot/media/ {{ alias {folder}/files/; }} }} }}
""")
    files = folder / "files"
    files.mkdir(mode=0o755)
    # Only root may look into many home folders, and nginx's worker is not root.
    shutil.copyfile(arguments.media / "amd64/initramfs.zst", files / "initramfs")
    log = open(folder / "log", "wb")
    servers = []
    try:
        servers.append(Server("kube-baremetal", command, "http://127.0.0.1:7080/boot/media/amd64/initramfs", log))
        servers.append(Server("nginx", ["nginx", "-c", nginx], "http://127.0.0.1:7081/boot/media/initramfs", log))
        for server in servers:
            end = time.monotonic() + 60
            while not answers(server.url):
                if time.monotonic() > end or server.child.poll() is not None:
                    raise SystemExit(f"bench-http: {server.name} does not answer:\n{(folder / 'log').read_text(errors='replace')}")
                time.sleep(0.2)
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def answers(url):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def same_bytes(server, file):
    with urllib.request.urlopen(server.url, timeout=30) as answer:
        sent = hashlib.sha256(answer.read()).hexdigest()
    if sent != hashlib.sha256(file.read_bytes()).hexdigest():
        raise SystemExit(f"bench-http: {server.name} does not send {file}")


def measure(arguments, server):
    report = Path(__file__).parent / "report.lua"
    command = ["taskset", "--cpu-list", CLIENT_CPU, "wrk", "--threads", "1", "--connections", arguments.clients, "--duration", f"{arguments.seconds}s"]
    command += ["--timeout", "60s", "--script", report, server.url]
    before, began = server.processor_seconds(), os.times()
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    ended = os.times()
    said = json.loads(re.search(r"^\{.*\}$", done.stdout, re.MULTILINE).group())
    processor = server.processor_seconds() - before
    clients = ended.children_user + ended.children_system - began.children_user - began.children_system
    gigabytes = said["bytes"] / 1e9
    return {
        "rate": gigabytes / said["seconds"],
        "errors": said["errors"],
        "server": processor / gigabytes,
        "client_share": clients / said["seconds"],
    }


def table(results):
    """Prints it; whether ours keeps up."""
    print("\n| server | GB/s | lowest to highest | its processor s per GB | load generator's share of its core |")
    print("|---|---|---|---|---|")
    medians = {}
    for name, runs in results.items():
        rates = [run["rate"] for run in runs]
        medians[name] = statistics.median(rates)
        cost, share = (statistics.median(run[key] for run in runs) for key in ("server", "client_share"))
        print(f"| {name} | {medians[name]:.2f} | {min(rates):.2f} to {max(rates):.2f} | {cost:.3f} | {share:.0%} |")
    ratio = medians["kube-baremetal"] / medians["nginx"]
    print(f"\nours is {ratio:.2f} times as fast as nginx (at least {BEHIND})")
    return ratio >= BEHIND


if __name__ == "__main__":
    sys.exit(main())
