#!/usr/bin/python3
"""Reads a packed image as docs/reference/packed-image.md describes it: reader.py FOLDER DISK [blake3:DIGEST]

Written from that document alone, and not from the project's own reader, so that both have to agree with it. Needs python3-zstandard.
"""

import json
import re
import struct
import sys

import zstandard

# BLAKE3, from its specification: hashing only, no keys.
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
LANES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def compress(value, words, counter, length, flags):
    """The eight words that follow a block."""
    state = list(value) + list(IV[:4]) + [counter & 0xFFFFFFFF, counter >> 32, length, flags]
    for turn in range(7):
        for lane, (a, b, c, d) in enumerate(LANES):
            va, vb, vc, vd = state[a], state[b], state[c], state[d]
            va = (va + vb + words[2 * lane]) & 0xFFFFFFFF
            vd ^= va
            vd = (vd >> 16 | vd << 16) & 0xFFFFFFFF
            vc = (vc + vd) & 0xFFFFFFFF
            vb ^= vc
            vb = (vb >> 12 | vb << 20) & 0xFFFFFFFF
            va = (va + vb + words[2 * lane + 1]) & 0xFFFFFFFF
            vd ^= va
            vd = (vd >> 8 | vd << 24) & 0xFFFFFFFF
            vc = (vc + vd) & 0xFFFFFFFF
            vb ^= vc
            vb = (vb >> 7 | vb << 25) & 0xFFFFFFFF
            state[a], state[b], state[c], state[d] = va, vb, vc, vd
        words = [words[i] for i in ORDER]
    return tuple(state[i] ^ state[i + 8] for i in range(8))


def leaf(data, counter, root):
    value = IV
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for place, block in enumerate(blocks):
        last = place == len(blocks) - 1
        flags = (CHUNK_START if place == 0 else 0) | (CHUNK_END if last else 0) | (ROOT if root and last else 0)
        value = compress(value, struct.unpack("<16I", block.ljust(64, b"\0")), counter, len(block), flags)
    return value


def tree(data, counter, root):
    if len(data) <= 1024:
        return leaf(data, counter, root)
    # The left side is the largest power of two of kibibytes that leaves something for the right.
    left = 1024 << ((len(data) - 1) // 1024).bit_length() - 1
    words = tree(data[:left], counter, False) + tree(data[left:], counter + left // 1024, False)
    return compress(IV, words, 0, 64, PARENT | (ROOT if root else 0))


def blake3(data):
    return struct.pack("<8I", *tree(data, 0, True)).hex()


class Refused(Exception):
    """Not a packed image, or a damaged one."""


def check(condition, what):
    if not condition:
        raise Refused(what)


def number(value, low, high, what):
    check(type(value) is int and low <= value <= high, what)
    return value


def parse(raw, name):
    """The manifest, when every rule of the document holds."""
    check(len(raw) <= 64 << 20, "manifest too long")
    check(name is None or f"blake3:{blake3(raw)}" == name, "the manifest is not the one that is named")
    manifest = json.loads(raw)
    check(json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" == raw, "spelling")
    members = ["format", "version", "diskBytes", "sectorBytes", "chunkBytes", "source", "packer", "storedBytes", "chunks"]
    check(list(manifest) == members, "members")
    check(manifest["format"] == "kube-baremetal.io/packed-image" and manifest["version"] == 1, "format or version")
    disk = number(manifest["diskBytes"], 1, 1 << 40, "diskBytes")
    check(manifest["sectorBytes"] in (0, 512, 4096), "sectorBytes")
    size = number(manifest["chunkBytes"], 1 << 16, 1 << 24, "chunkBytes")
    check(size & size - 1 == 0 and -(-disk // size) <= 65536, "chunkBytes")
    check(list(manifest["source"]) == ["format", "digest"], "source")
    check(manifest["source"]["format"] in ("raw", "gz", "xz", "zst", "qcow2"), "source.format")
    check(re.fullmatch("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", manifest["source"]["digest"]), "source.digest")
    check(list(manifest["packer"]) == ["zstd", "level"], "packer")
    number(manifest["packer"]["level"], 1, 22, "packer.level")
    frames, end, least = {}, 0, 0
    for chunk in manifest["chunks"]:
        check(list(chunk) == ["index", "offset", "length", "stored", "plain"], "members of a chunk")
        index = number(chunk["index"], least, -(-disk // size) - 1, "index")
        least = index + 1
        number(chunk["length"], 1, size + size // 256 + 64, "length")
        for digest in ("stored", "plain"):
            check(re.fullmatch("[0-9a-f]{64}", chunk[digest]), digest)
        says = (chunk["length"], chunk["stored"], chunk["plain"], min(size, disk - index * size))
        if chunk["offset"] == end:
            check(all(chunk["stored"] != frame[1] for frame in frames.values()), "a frame is stored twice")
            frames[end] = says
            end += chunk["length"]
        else:
            check(frames.get(chunk["offset"]) == says, "offset")
    check(manifest["storedBytes"] == end, "storedBytes")
    return manifest


def unpack(folder, path, name):
    with open(f"{folder}/manifest.json", "rb") as file:
        manifest = parse(file.read(), name)
    size, disk = manifest["chunkBytes"], manifest["diskBytes"]
    known = {}
    with open(f"{folder}/chunks", "rb") as chunks, open(path, "wb") as out:
        out.truncate(disk)
        for chunk in manifest["chunks"]:
            at = chunk["index"] * size
            if chunk["offset"] not in known:
                chunks.seek(chunk["offset"])
                stored = chunks.read(chunk["length"])
                check(len(stored) == chunk["length"], "chunks is too short")
                check(blake3(stored) == chunk["stored"], f"stored bytes of chunk {chunk['index']}")
                plain = zstandard.ZstdDecompressor().decompress(stored)
                check(len(plain) == min(size, disk - at), f"length of chunk {chunk['index']}")
                check(blake3(plain) == chunk["plain"], f"plain bytes of chunk {chunk['index']}")
                known[chunk["offset"]] = plain
            out.seek(at)
            out.write(known[chunk["offset"]])
        chunks.seek(0, 2)
        check(chunks.tell() == manifest["storedBytes"], "chunks is too long")


if __name__ == "__main__":
    # The specification's own vectors: bytes 0 to 250 again and again.
    pattern = bytes(at % 251 for at in range(2049))
    assert blake3(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3(pattern[:1024]).startswith("42214739f095a406f3fc83deb889744a")
    assert blake3(pattern).startswith("5f4d72f40d7a5f82b15ca2b2e44b1de3")
    try:
        unpack(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
    except (Refused, OSError, ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        sys.exit(f"refused: {error}")
