#!/usr/bin/python3
"""Holds two disks that were written from one image against each other: compare.py IMAGE_BYTES DISK STATUS DISK STATUS

IMAGE_BYTES is the size of the disk that the image describes (`diskBytes` of its manifest, or the size of the raw image). DISK is a block device or
a file, as it was before its first boot. STATUS is a file with `.status.image` of its BareMetalInstance as JSON.

The two may differ in the ranges that the statuses list, and nowhere else; where one disk ends, so does the comparison. And no range may be larger than
it must be: what each must be is computed here from the partition table of the disk itself, and not from what the status says.

Written from the UEFI specification (section 5.3) and docs/reference/immutability.md, and not from the project's own code. Needs nothing but Python.
"""

import json
import struct
import sys
import zlib

MIB = 1 << 20
STEP = MIB
# The last MiB of a disk is zeroed before the image is written; so is the first.
END = MIB


class Refused(Exception):
    pass


class Disk:
    def __init__(self, path, status):
        self.path = path
        with open(status, encoding="utf-8") as file:
            image = json.load(file)
        self.sector = image["sectorBytes"]
        if self.sector not in (512, 4096):
            raise Refused(f"{status}: a sector of {self.sector} bytes")
        self.ranges = [(r["part"], r["firstLba"], r["lastLba"]) for r in image["ownRanges"]]
        self.digest = image["digest"]
        self.file = open(path, "rb")
        self.size = self.file.seek(0, 2) // self.sector * self.sector
        self.sectors = self.size // self.sector

    def read(self, lba, count):
        self.file.seek(lba * self.sector)
        data = self.file.read(count * self.sector)
        if len(data) != count * self.sector:
            raise Refused(f"{self.path}: cannot read {count} sectors at LBA {lba}")
        return data

    def header(self, lba):
        """GPT header at a place: (the other header's LBA, the array's LBA, entries, bytes of an entry, the array)."""
        sector = self.read(lba, 1)
        size = struct.unpack_from("<I", sector, 12)[0]
        if sector[:8] != b"EFI PART" or not 92 <= size <= self.sector:
            return None
        checksum = struct.unpack_from("<I", sector, 16)[0]
        if zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != checksum:
            raise Refused(f"{self.path}: the GPT header at LBA {lba} has a wrong checksum")
        own, other = struct.unpack_from("<QQ", sector, 24)
        array, count, each, array_checksum = struct.unpack_from("<QIII", sector, 72)
        if own != lba:
            raise Refused(f"{self.path}: the GPT header at LBA {lba} says that it is at LBA {own}")
        entries = self.read(array, -(-count * each // self.sector))[: count * each]
        if zlib.crc32(entries) != array_checksum:
            raise Refused(f"{self.path}: the GPT entries at LBA {array} have a wrong checksum")
        return other, array, count, each, entries

    def config_drive(self):
        """Of the partition named config-2: (sectors of the array that hold its entry, its own sectors)."""
        found = self.header(1)
        if found is None:
            return self.mbr_config_drive()
        _, array, count, each, entries = found
        for number in range(count):
            entry = entries[number * each : (number + 1) * each]
            if entry[56:128].decode("utf-16-le", "replace").rstrip("\0") == "config-2":
                first, last = struct.unpack_from("<QQ", entry, 32)
                start, end = number * each, (number + 1) * each - 1
                return (array + start // self.sector, array + end // self.sector), (first, last)
        return None, None

    def mbr_config_drive(self):
        """With a master boot record: the partition whose FAT is labelled config-2."""
        record = self.read(0, 1)
        for slot in range(4):
            kind = record[446 + 16 * slot + 4]
            first, count = struct.unpack_from("<II", record, 446 + 16 * slot + 8)
            boot = self.read(first, 1) if kind == 0x0C and count > 0 else bytes(self.sector)
            # The label of FAT12 and FAT16, and of FAT32.
            if b"config-2   " in (boot[43:54], boot[71:82]):
                return None, (first, first + count - 1)
        return None, None

    def must_be(self, image_bytes):
        """What may be this disk's own, from its partition table: part to the list of its largest ranges."""
        entry, drive = self.config_drive()
        may = {"BootSector": [(0, 0)]}
        table = self.header(1)
        if table is not None:
            may["PrimaryTable"] = [(1, 1)]
            if entry is not None:
                first, last = entry
                # The header and the entry may be neighbours.
                may["PrimaryTable"] = [(1, last)] if first == 2 else [(1, 1), (first, last)]
            backup = self.header(table[0])
            if backup is None or table[0] != self.sectors - 1:
                raise Refused(f"{self.path}: no backup GPT at the end")
            may["BackupTable"] = [(backup[1], self.sectors - 1)]
        if drive is not None:
            may["ConfigDrive"] = [drive]
        start = max(-(-image_bytes // self.sector), END // self.sector)
        end = max((self.size - END) // self.sector, END // self.sector)
        unwritten = []
        if drive is not None:
            unwritten.append((start, min(drive[0], end) - 1))
            unwritten.append((max(drive[1] + 1, start), end - 1))
        else:
            unwritten.append((start, end - 1))
        may["Unwritten"] = [(a, b) for a, b in unwritten if a <= b]
        return may

    def check_ranges(self, image_bytes):
        may = self.must_be(image_bytes)
        before = -1
        for part, first, last in self.ranges:
            if not before < first <= last < self.sectors:
                raise Refused(f"{self.path}: LBA {first} to {last} ({part}) is no range of the disk, or out of order")
            before = last
            if (first, last) not in may.get(part, []):
                allowed = ", ".join(f"LBA {a} to {b}" for a, b in may.get(part, [])) or "nothing"
                raise Refused(f"{self.path}: {part} is listed as LBA {first} to {last}, and must be {allowed}")


def differing(one, other, first, last):
    """Sectors in a range that differ, as a list of ranges."""
    found = []
    step = STEP // one.sector
    at = first
    while at <= last:
        count = min(step, last - at + 1)
        a, b = one.read(at, count), other.read(at, count)
        if a != b:
            for lba in range(at, at + count):
                where = (lba - at) * one.sector
                if a[where : where + one.sector] != b[where : where + one.sector]:
                    if found and found[-1][1] == lba - 1:
                        found[-1][1] = lba
                    else:
                        found.append([lba, lba])
        at += count
    return found


def compare(image_bytes, one, other):
    if one.sector != other.sector:
        raise Refused("disks of different sector sizes are written from different images")
    if one.digest != other.digest:
        raise Refused(f"two images: {one.digest} and {other.digest}")
    for disk in (one, other):
        disk.check_ranges(image_bytes)
    common = min(one.sectors, other.sectors) - 1
    own = sorted((first, last) for disk in (one, other) for _, first, last in disk.ranges)
    at, same = 0, 0
    for first, last in own + [(common + 1, common + 1)]:
        end = min(first - 1, common)
        if at <= end:
            found = differing(one, other, at, end)
            if found:
                raise Refused("outside of the listed ranges: " + ", ".join(f"LBA {a} to {b}" for a, b in found[:8]))
            same += end - at + 1
        at = max(at, last + 1)
    # Where there are config drives, they differ and so do the tables that point to them; a range in which nothing differs would not be needed.
    with_drive = any(part == "ConfigDrive" for part, _, _ in one.ranges)
    for part, first, last in one.ranges if with_drive else []:
        if part in ("PrimaryTable", "ConfigDrive", "BackupTable") and last <= common and not differing(one, other, first, last):
            raise Refused(f"LBA {first} to {last} ({part}) is listed, and nothing differs there")
    return same, common + 1


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__.splitlines()[0])
    try:
        same, of = compare(int(sys.argv[1]), Disk(sys.argv[2], sys.argv[3]), Disk(sys.argv[4], sys.argv[5]))
    except Refused as refused:
        sys.exit(f"different: {refused}")
    print(f"{same} of {of} sectors are the same, and all others are listed")


main()
