"""One exchange with DHCP servers on eth0, as the argument (JSON) wishes; prints what was told as JSON.

mac: the client's; firmware: bios or ipxe; requested: an address (option 50); reboot: asks at once for that address; inform: has this address; give_back: releases it (decline: declines it) to `server`;
seconds: says that it has been trying for so long; patience: for how long it waits.
"""

import json
import secrets
import socket
import sys
import time

ADDRESS = {1: "mask", 3: "router", 6: "dns", 54: "server"}


def packet(kind, xid, wishes, options=(), ciaddr="0.0.0.0", seconds=0):
    head = bytearray(240)
    head[0:3] = 1, 1, 6
    head[4:8] = xid
    head[8:10] = seconds.to_bytes(2, "big")
    head[10] = 0x80
    head[12:16] = socket.inet_aton(ciaddr)
    head[28:34] = bytes.fromhex(wishes["mac"].replace(":", ""))
    head[236:240] = 99, 130, 83, 99
    options = [(53, bytes([kind])), *options, (55, bytes([1, 3, 6, 51, 54, 66, 67]))]
    if wishes.get("firmware"):
        options += [(93, bytes(2)), (60, b"PXEClient:Arch:00000:UNDI:002001")]
    if wishes.get("firmware") == "ipxe":
        options += [(77, b"iPXE")]
    for code, value in options:
        head += bytes([code, len(value)]) + value
    return bytes(head + b"\xff")


def read(data, xid):
    if len(data) < 240 or data[0] != 2 or data[4:8] != xid:
        return None
    told = {"address": socket.inet_ntoa(data[16:20]), "next": socket.inet_ntoa(data[20:24]), "file": data[108:236].split(b"\0")[0].decode()}
    told |= {"lease": None, "mask": None, "router": None, "dns": None, "server": None}
    at = 240
    while at < len(data) and data[at] != 255:
        code, length = data[at], data[at + 1] if data[at] else -1
        value = data[at + 2 : at + 2 + length]
        if code == 53:
            told["kind"] = {2: "offer", 5: "ack", 6: "nak"}.get(value[0])
        elif code in ADDRESS:
            told[ADDRESS[code]] = socket.inet_ntoa(value[:4])
        elif code == 51:
            told["lease"] = int.from_bytes(value, "big")
        elif code == 67 and not told["file"]:
            told["file"] = value.rstrip(b"\0").decode()
        at += 2 + length
    return told


def main():
    wishes = json.loads(sys.argv[1])
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_BROADCAST, socket.SO_REUSEADDR):
        link.setsockopt(socket.SOL_SOCKET, option, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    link.bind(("", 68))
    xid = secrets.token_bytes(4)
    patience = wishes.get("patience", 20)
    began = time.monotonic()

    def exchange(kind, kinds, options, ciaddr="0.0.0.0", rest=0.0):
        """Asks again every two seconds; answers of these kinds that came until the first one, and for `rest` seconds after it."""
        answers, end, again = [], began + patience, 0
        while time.monotonic() < end:
            now = time.monotonic()
            if now >= again and not answers:
                seconds = wishes.get("seconds", 0) + int(now - began)
                link.sendto(packet(kind, xid, wishes, options, ciaddr, seconds), ("255.255.255.255", 67))
                again = now + 2
            link.settimeout(max(0.01, min(end, again if not answers else end) - time.monotonic()))
            try:
                told = read(link.recv(4096), xid)
            except TimeoutError:
                continue
            if told and told["kind"] in kinds:
                answers.append(told)
                end = min(end, time.monotonic() + rest)
        return answers

    asked = [(50, socket.inet_aton(wishes["requested"]))] if wishes.get("requested") else []
    result = {"kind": "nothing", "address": None, "offer": None, "ack": None, "offers": 0}
    if wishes.get("give_back"):
        address, server = socket.inet_aton(wishes["give_back"]), (54, socket.inet_aton(wishes["server"]))
        if wishes.get("decline"):
            link.sendto(packet(4, xid, wishes, [(50, address), server]), ("255.255.255.255", 67))
        else:
            link.sendto(packet(7, xid, wishes, [server], wishes["give_back"]), ("255.255.255.255", 67))
        answers = []
    elif wishes.get("inform"):
        # The answer goes to that address.
        answers = exchange(8, ("ack",), [], wishes["inform"])
    elif wishes.get("reboot"):
        answers = exchange(3, ("ack", "nak"), asked)
    else:
        offers = exchange(1, ("offer",), asked, rest=0.4)
        result["offers"] = len(offers)
        answers = []
        if offers:
            offer = result["offer"] = max(offers, key=lambda one: one["address"] != "0.0.0.0")
            result |= {"kind": "offer", "address": offer["address"]}
            if offer["address"] != "0.0.0.0":
                began = time.monotonic()
                chosen = [(50, socket.inet_aton(offer["address"])), (54, socket.inet_aton(offer["server"]))]
                answers = exchange(3, ("ack", "nak"), chosen)
    if answers:
        result |= {"kind": answers[0]["kind"], "address": answers[0]["address"]}
        if answers[0]["kind"] == "ack":
            result["ack"] = answers[0]
    print(json.dumps(result))


main()
