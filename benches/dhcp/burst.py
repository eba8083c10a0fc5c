"""Ten thousand machines that are switched on at once. Runs in the generator's namespace:

    python3 burst.py COUNT SECONDS

Each client asks as its firmware would: DISCOVER, REQUEST for the first offer, and again whatever got no answer, after 4, 8 and 16 s (RFC 2131, 4.1). It says how many are bound, after how long,
how many packets it took, and how many addresses there are.
"""

import heapq
import json
import select
import socket
import sys
import time

from load import mac

COOKIE = bytes((99, 130, 83, 99))
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
#: Packets that are sent before what came is looked at.
SLICE = 64


def packet(kind, number, options=b""):
    header = bytearray(236)
    header[:3] = bytes((1, 1, 6))
    header[4:8] = number.to_bytes(4, "big")
    # Broadcast: it has no address yet.
    header[10] = 0x80
    header[28:34] = bytes.fromhex(mac(number).replace(":", ""))
    return bytes(header) + COOKIE + bytes((53, 1, kind)) + options + b"\xff"


def option(packet, code):
    at = 240
    while at + 1 < len(packet) and packet[at] != 255:
        if packet[at] == 0:
            at += 1
            continue
        if packet[at] == code:
            return packet[at + 2 : at + 2 + packet[at + 1]]
        at += 2 + packet[at + 1]
    return b""


def main():
    count, limit = int(sys.argv[1]), float(sys.argv[2])
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    # A client has a queue of its own; so many share one here.
    wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
    wire.bind(("0.0.0.0", 68))
    wire.setblocking(False)
    started = time.monotonic()
    asks = [packet(DISCOVER, number) for number in range(count)]
    bound, sent = {}, 0
    due = [(started, number, 4.0) for number in range(count)]
    while len(bound) < count and time.monotonic() < started + limit:
        now = time.monotonic()
        for _ in range(SLICE):
            if not due or due[0][0] > now:
                break
            _, number, patience = heapq.heappop(due)
            if number in bound:
                continue
            wire.sendto(asks[number], ("255.255.255.255", 67))
            sent += 1
            heapq.heappush(due, (now + patience, number, min(2 * patience, 16.0)))
        select.select([wire], [], [], 0 if due and due[0][0] <= now else 0.05)
        while True:
            try:
                answer = wire.recv(2048)
            except BlockingIOError:
                break
            number = int.from_bytes(answer[4:8], "big")
            kind = option(answer, 53)
            if number >= count or number in bound or answer[0] != 2:
                continue
            if kind == bytes((OFFER,)) and asks[number][242] == DISCOVER:
                asks[number] = packet(REQUEST, number, bytes((54, 4)) + option(answer, 54) + bytes((50, 4)) + answer[16:20])
                wire.sendto(asks[number], ("255.255.255.255", 67))
                sent += 1
            elif kind == bytes((ACK,)):
                bound[number] = answer[16:20]
    seconds = time.monotonic() - started
    print(json.dumps({"clients": count, "bound": len(bound), "addresses": len(set(bound.values())), "seconds": round(seconds, 2), "packets": sent}))


main()
