"""A life without a network that boots: no DHCP anywhere, and a machine that nobody has seen before its BMC boots it from our medium."""

import json
import subprocess
from pathlib import Path

import life
from network import BRIDGE

# Nobody gives it out.
ADDRESS = "10.77.0.50"
# What a person writes down: nothing that only the machine could tell.
NAME = "rack1-u12"
OFF = f"{BRIDGE}=off"


def spec(lan, machine, power):
    power["redfish"]["virtualMedia"] = {"server": f"http://{lan.at.server}:8080", "mac": machine.mac, "address": f"{ADDRESS}/{lan.at.length}", "gateway": lan.at.router}
    return {"discoveryName": NAME, "power": power, "nics": [{"mac": machine.mac, "networkRef": {"name": "lan"}}]}


def needs(media: Path):
    if not (media / "amd64/boot.iso").exists():
        raise SystemExit(f"power: {media}/amd64/boot.iso is missing; `make bootmedia-iso` makes it")


def play(lan, server, machine, emulator, limit):
    """From an object that a person wrote to a free machine whose disk is erased with proof. Seconds by what happened."""
    if lan.dhcp is not None:
        raise SystemExit("there is a DHCP server: this shows nothing")
    times = {}

    def hardware():
        return server.call("GET", f"baremetalhardware/{NAME}")

    def is_ready():
        found = hardware()
        return found.get("status", {}).get("phase") == "Ready" and found["spec"].get("claimRef") is None

    def done():
        return hardware().get("status", {}).get("power", {}).get("done", {}).get("id")

    server.call("POST", "baremetalhardware", {"kind": "BareMetalHardware", "metadata": {"name": NAME}, "spec": spec(lan, machine, emulator.spec())})
    times["ready"] = machine.until("the machine that nobody has seen to be ready", is_ready, limit)
    first = done()
    session = server.discovery()["status"]["session"]
    if server.discovery()["metadata"]["name"] != NAME or session["address"] != ADDRESS:
        raise SystemExit(f"it is another machine than the one that was written down: {json.dumps(session)}")
    machine.until("the medium to be taken out", lambda: not machine.has_medium(), 60)
    life.claim(server)
    times["running"] = machine.until("a system that reported", lambda: life.runs(server), limit)
    machine.until("that system's word on the console", lambda: life.boots(machine), 300)
    server.call("DELETE", f"namespaces/default/baremetalinstances/{life.NAME}")
    times["erased"] = machine.until("the machine to be erased", is_ready, limit)
    evidence = hardware()["status"].get("lastErase")
    if not evidence:
        raise SystemExit(f"it is free without a proof of its erase: {json.dumps(hardware()['status'])}")
    second = done()
    if first == second or server.discovery()["status"]["session"]["nonce"] == session["nonce"]:
        raise SystemExit(f"it was not booted anew: {first} and {second}")
    machine.until("the second medium to be taken out", lambda: not machine.has_medium(), 60)
    # What was for the first boot is gone; what is for the last one stays until another follows.
    for act, expected in ((first, "404"), (second, "200"), ("1-00000000", "404")):
        if (answer := _status(lan, f"/boot/iso/{NAME}/{act}.iso")) != expected:
            raise SystemExit(f"the medium for {act} is answered with {answer}, not with {expected}")
    return times


def _status(lan, path):
    command = ("curl", "-s", "--head", "-o", "/dev/null", "-w", "%{http_code}", f"http://{lan.at.server}:8080{path}")
    return subprocess.run(lan.inside(command), capture_output=True, text=True, check=True).stdout
