"""Network namespaces with cables between them, and programs in them; all of it ends with the context."""

import json
import os
import subprocess


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Namespaces:
    """Use it as a context. `hosts` are made in `build`, and removed whatever happens."""

    def __init__(self, kind):
        self.prefix = f"kbm-{kind}-{os.getpid()}"
        self.running = []
        self.hosts = []

    def build(self):
        raise NotImplementedError

    def name(self, host):
        return f"{self.prefix}-{host}"

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            self.stop(process)
        for host in reversed(self.hosts):
            subprocess.run(["ip", "netns", "delete", self.name(host)], stderr=subprocess.DEVNULL, check=False)

    def add(self, host):
        ip("netns", "add", self.name(host))
        self.hosts.append(host)
        ip("-n", self.name(host), "link", "set", "lo", "up")

    def switch(self):
        """A host that is a switch; `cable` connects others with it."""
        self.add("switch")
        ip("-n", self.name("switch"), "link", "add", "br0", "type", "bridge")
        ip("-n", self.name("switch"), "link", "set", "br0", "up")

    def cable(self, host, link, address=None):
        ip("-n", self.name("switch"), "link", "add", host, "type", "veth", "peer", "name", link, "netns", self.name(host))
        ip("-n", self.name("switch"), "link", "set", host, "master", "br0", "up")
        if address:
            ip("-n", self.name(host), "addr", "add", f"{address}/24", "brd", "+", "dev", link)
        ip("-n", self.name(host), "link", "set", link, "up")

    def direct(self, host, link, address, other, other_link, other_address=None, length=24):
        """A cable between two hosts."""
        ip("-n", self.name(host), "link", "add", link, "type", "veth", "peer", "name", other_link, "netns", self.name(other))
        for who, name, addr in ((host, link, address), (other, other_link, other_address)):
            if addr:
                ip("-n", self.name(who), "addr", "add", f"{addr}/{length}", "brd", "+", "dev", name)
            ip("-n", self.name(who), "link", "set", name, "up")

    def inside(self, host, *command):
        return ["ip", "netns", "exec", self.name(host), *map(str, command)]

    def mac(self, host, link):
        shown = subprocess.check_output(self.inside(host, "ip", "-j", "link", "show", link))
        return json.loads(shown)[0]["address"]

    def run(self, host, *command, **options):
        return subprocess.run(self.inside(host, *command), check=True, **options)

    def start(self, host, log, *command, **options):
        process = subprocess.Popen(self.inside(host, *command), stdout=open(log, "w"), stderr=subprocess.STDOUT, **options)
        self.running.append(process)
        return process

    def stop(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running = [other for other in self.running if other is not process]

    def dnsmasq(self, host, folder, *further, configuration="/dev/null"):
        command = ["dnsmasq", "--no-daemon", f"--conf-file={configuration}", "--port=0", "--user=root", "--no-ping", *further]
        return self.start(host, folder / f"dnsmasq-{host}.log", *command)
