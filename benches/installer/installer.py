"""The unattended installer: Debian's own, by network boot, with a preseed file.

The installer in the initrd fetches its further parts (udebs) from the archive. Not every mirror keeps them all, and those of a kernel that is not the newest go first.
So the rig looks before it begins: it takes the first of INSTALLERS whose parts are there, and offers the machine a list of parts of its own, without those that are not to
be had and what depends on them. mke2fs always comes from the packages of the system that is installed, because its GRUB must be able to read the file system.

The installer may be newer than the system: `mirror/suite` and `mirror/udeb/suite` are settings of it for just that.
"""

import gzip
import hashlib
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass

import packages
from mirror import ARCHIVE, Unreachable, sha256

# The system that is installed; the project's image is of the same suite (images/debian/build).
SUITE = "bookworm"
# What the image brings and the installer does not install by itself. cloud-init is left out: the preseed file does its work.
INCLUDED = ("openssh-server", "sudo", "ca-certificates", "zstd")
KERNEL = "linux-image-cloud-amd64"
LOADER = "grub-pc"
# Installed by the installer's own decision.
IMPLIED = ("locales", "console-setup", "keyboard-configuration", "busybox", "initramfs-tools", "eject", "usbutils", "os-prober")

INDEX = "main/debian-installer/binary-amd64/Packages"


@dataclass(frozen=True)
class Release:
    """One release of the installer for network boot."""

    codename: str
    # Its package, with its digest.
    package: str
    digest: str
    # Folder of its files in there.
    folder: str
    # The kernel that it boots: its modules are parts, too.
    kernel: str


POOL = "pool/main/d/debian-installer-netboot-images/debian-installer-"
INSTALLERS = (
    Release(
        "bookworm",
        POOL + "12-netboot-amd64_20230607+deb12u15_all.deb",
        "499e4609976bfd47c1b3025382fb5dddeb023350921142b919c89c4d24bd7f9b",
        "12/amd64/text/debian-installer/amd64",
        "6.1.0-50-amd64",
    ),
    Release(
        "trixie",
        POOL + "13-netboot-amd64_20250803+deb13u6_all.deb",
        "b14500fba1c068c7d818de1376e46151628d96d8b2f322dfcbe7a16b7b8c2fa4",
        "13/amd64/text/debian-installer/amd64",
        "6.12.94+deb13-amd64",
    ),
)
# Without these there is no installation.
ESSENTIAL = ("bootstrap-base", "partman-auto", "partman-ext3", "partman-partitioning", "apt-setup-udeb", "apt-mirror-setup", "user-setup-udeb", "clock-setup")
ESSENTIAL += ("pkgsel", "grub-installer", "finish-install", "di-utils-mapdevfs", "disk-detect")
ESSENTIAL_MODULES = ("ext4-modules", "scsi-modules")

# mke2fs and its libraries: package to the files that are taken.
E2FSPROGS = {
    "e2fsprogs": ["etc/mke2fs.conf", "sbin/mke2fs", "sbin/mkfs.ext4", "sbin/e2fsck", "sbin/fsck.ext4", "sbin/tune2fs", "sbin/resize2fs"],
    "libext2fs2": ["lib/x86_64-linux-gnu/libext2fs.so.2", "lib/x86_64-linux-gnu/libe2p.so.2"],
    "libcom-err2": ["lib/x86_64-linux-gnu/libcom_err.so.2"],
}
MKE2FS_PART = "e2fsprogs-udeb"
# Without content where the mirror lacks it: partman depends on it, and needs it to shrink what is on a disk.
RESIZE_PART = "ntfs-3g-udeb"

PRESEED_FILE = "preseed.cfg"
PRESEED = """\
d-i debian-installer/locale string en_US.UTF-8
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i netcfg/get_hostname string debian
d-i netcfg/get_domain string bench
d-i hw-detect/load_firmware boolean false
d-i hw-detect/firmware-lookup string never
# The list of the installer's own parts is the rig's and has no signature.
d-i debian-installer/allow_unauthenticated boolean true

d-i mirror/protocol string http
d-i mirror/country string manual
d-i mirror/http/hostname string {site}
d-i mirror/http/directory string {archive}
d-i mirror/http/proxy string
d-i mirror/suite string {suite}
d-i mirror/udeb/suite string {codename}

d-i passwd/root-login boolean false
d-i passwd/user-fullname string Debian
d-i passwd/username string debian
d-i passwd/user-password-crypted password *
d-i clock-setup/utc boolean true
d-i clock-setup/ntp boolean false
d-i time/zone string Etc/UTC

# As the image: GPT, a partition for GRUB, one ext4 file system, no swap.
d-i partman-auto/disk string /dev/vda
d-i partman-auto/method string regular
d-i partman-partitioning/default_label string gpt
d-i partman-partitioning/choose_label select gpt
d-i partman-partitioning/confirm_write_new_label boolean true
d-i partman-auto/expert_recipe string bench :: 1 1 1 free $iflabel{{ gpt }} $reusemethod{{ }} method{{ biosgrub }} . \\
  900 10000 -1 ext4 method{{ format }} format{{ }} use_filesystem{{ }} filesystem{{ ext4 }} mountpoint{{ / }} .
d-i partman-auto/choose_recipe select bench
d-i partman-basicfilesystems/no_swap boolean false
d-i partman/choose_partition select finish
d-i partman/confirm boolean true
d-i partman/confirm_nooverwrite boolean true

# As the image: Debian's main archive alone, no recommended packages, the cloud kernel, no tasks.
d-i base-installer/install-recommends boolean false
d-i base-installer/kernel/image string {kernel}
d-i apt-setup/services-select multiselect
d-i apt-setup/enable-source-repositories boolean false
d-i apt-setup/use_mirror boolean true
popularity-contest popularity-contest/participate boolean false
d-i pkgsel/run_tasksel boolean false
d-i pkgsel/include string {included}
d-i pkgsel/upgrade select none
d-i pkgsel/update-policy select none
d-i pkgsel/updatedb boolean false

d-i grub-installer/only_debian boolean true
d-i grub-installer/with_other_os boolean false
d-i grub-installer/bootdev string /dev/vda
d-i finish-install/reboot_in_progress note
d-i preseed/late_command string mkdir -p /target/home/debian/.ssh && wget -q -O /target/home/debian/.ssh/authorized_keys http://{site}/authorized_keys && \\
  chmod 700 /target/home/debian/.ssh && in-target chown -R debian:debian /home/debian/.ssh && \\
  echo 'debian ALL=(ALL) NOPASSWD:ALL' > /target/etc/sudoers.d/debian
"""

# The machine boots from the network first: what it is told while its disk is blank, and when it is done.
INSTALL = """\
#!ipxe
kernel http://{site}/linux initrd=initrd.gz auto=true priority=critical url=http://{site}/preseed.cfg locale=en_US.UTF-8 hostname=debian domain=bench interface=auto \
log_host={host} log_port={port} DEBIAN_FRONTEND=text --- console=ttyS0,115200
initrd http://{site}/initrd.gz
boot
"""
# Reading a preseed file takes a slow machine half a minute, so it gets the answers once.
NO_ANSWERS = "# All answers are in the preseed file that the kernel line names.\n"
BOOT_DISK = "#!ipxe\nsanboot --no-describe --drive 0x80 || exit 1\n"


def answers(site, key, codename):
    """What every machine asks for, by its path: both get the same, so that nothing of it tells their disks apart."""
    preseed = PRESEED.format(site=site.address, archive=ARCHIVE.rstrip("/"), suite=SUITE, codename=codename, kernel=KERNEL, included=" ".join(INCLUDED))
    return {PRESEED_FILE: preseed, "authorized_keys": key.public + "\n"}


def script(site, log_port):
    return INSTALL.format(site=site.address, host=site.address.split(":")[0], port=log_port)


class Media:
    """Kernel and initrd of the installer, and the list of its parts, in the mirror. Made once for each run of the rig."""

    def __init__(self, mirror, folder, say):
        folder.mkdir(parents=True, exist_ok=True)
        self._mirror, self._folder, self._say = mirror, folder, say
        self.system = packages.load(mirror, SUITE, "binary-amd64")
        problems = []
        for release in INSTALLERS:
            try:
                self._prepare(release)
                return
            except Unreachable as problem:
                problems.append(f"  {release.codename}: {problem}")
        raise Unreachable("no installer can be had whole:\n" + "\n".join(problems))

    def _prepare(self, release):
        self.files = {name: self._extracted(release, name) for name in ("linux", "initrd.gz")}
        present = _installed_in(self.files["initrd.gz"])
        parts = packages.load(self._mirror, release.codename, "debian-installer/binary-amd64")
        parts = {name: fields for name, fields in parts.items() if fields.get("Kernel-Version", release.kernel) == release.kernel}
        wanted = packages.closure(parts, [n for n, f in parts.items() if f.get("Priority") in packages.STANDARD] + [*ESSENTIAL, MKE2FS_PART], present)
        # An installer of the system's own suite needs nothing of ours, and could not take it: the archive's signature is over both.
        same = release.codename == SUITE
        if not same:
            parts[MKE2FS_PART] = self._own_part(MKE2FS_PART, parts[MKE2FS_PART], E2FSPROGS)
            if self._mirror.get(parts[RESIZE_PART]["Filename"]) is None:
                parts[RESIZE_PART] = self._own_part(RESIZE_PART, parts[RESIZE_PART], {})
        lacking = {name for name in wanted if self._mirror.get(parts[name]["Filename"]) is None}
        if same and lacking:
            raise Unreachable(f"{self._mirror.root} lacks {len(lacking)} of its {len(wanted)} parts")
        left = _without(parts, wanted, lacking)
        needed = [*ESSENTIAL, *(f"{name}-{release.kernel}-di" for name in ESSENTIAL_MODULES)]
        if missing := [name for name in needed if name not in left | present]:
            raise Unreachable(f"{self._mirror.root} lacks {len(lacking)} of its {len(wanted)} parts, and without them there is no {', '.join(missing)}")
        if not same:
            self._offer(release.codename, [parts[name] for name in sorted(left)])
        self.codename, self.kernel = release.codename, release.kernel
        self.name = release.package.rsplit("/", 1)[1].removesuffix("_all.deb")
        self.left_out = sorted(wanted - left)
        self._say(f"installer: {self.name}, {len(left)} parts" + (f"; not to be had and left out: {', '.join(self.left_out)}" if self.left_out else ""))

    def _extracted(self, release, name):
        """A file of the installer's package, kept beside the mirror."""
        file = self._folder / f"{release.digest[:16]}-{name}"
        if not file.exists():
            package = self._mirror.need(release.package)
            if sha256(package) != release.digest:
                raise Unreachable(f"{release.package} is not what it was: its digest is {sha256(package)}")
            path = f"./usr/lib/debian-installer/images/{release.folder}/{name}"
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacking:
                with tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
                    member = next((member for member in tar if member.name == path), None)
                    if member is None:
                        raise Unreachable(f"{release.package} has no {path}")
                    partial = file.with_suffix(".partial")
                    with open(partial, "wb") as out:
                        shutil.copyfileobj(tar.extractfile(member), out)
                    partial.rename(file)
                unpacking.kill()
        return file

    def _own_part(self, part, fields, contents):
        """A part made of files of the system's packages, in place of the installer's own."""
        tree = self._folder / part
        shutil.rmtree(tree, ignore_errors=True)
        for name, files in contents.items():
            unpacked = self._folder / "unpacked" / name
            shutil.rmtree(unpacked, ignore_errors=True)
            unpacked.mkdir(parents=True)
            subprocess.run(["dpkg-deb", "-x", self._mirror.need(self.system[name]["Filename"]), unpacked], check=True)
            for path in files:
                # The installer's /sbin and /lib may be links into /usr.
                target = tree / (path if path.startswith("etc/") else f"usr/{path}")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(unpacked / path, target)
        control = tree / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        control.write_text(
            f"Package: {part}\nVersion: {fields['Version']}\nArchitecture: amd64\nMaintainer: bench-installer\nDepends: {fields['Depends']}\n"
            f"Section: debian-installer\nPriority: {fields['Priority']}\nDescription: {' '.join(contents) or 'nothing'} of {SUITE}\n"
        )
        path = f"pool/bench/{part}_amd64.udeb"
        file = self._folder / f"{part}.udeb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Zxz", tree, file], check=True, stdout=subprocess.DEVNULL)
        self._mirror.add(path, file)
        md5 = hashlib.md5(file.read_bytes()).hexdigest()
        return {**fields, "Filename": path, "Size": str(file.stat().st_size), "SHA256": sha256(file), "MD5sum": md5}

    def _offer(self, codename, parts):
        """Puts the list of parts, and a Release that names it, into the mirror."""
        index, release = self._folder / "Packages", self._folder / "Release"
        index.write_text("\n".join("".join(f"{key}: {value}\n" for key, value in fields.items()) for fields in parts))
        # The installer crashes without a suite; the archive knows which it is.
        suite = re.search(r"^Suite: .*$", self._mirror.need(f"dists/{codename}/Release").read_text(), re.M)[0]
        release.write_text(
            f"Origin: Debian\nLabel: Debian\n{suite}\nCodename: {codename}\nArchitectures: amd64\nComponents: main\nSHA256:\n {sha256(index)} {index.stat().st_size} {INDEX}\n"
        )
        self._mirror.add(f"dists/{codename}/{INDEX}", index)
        self._mirror.add(f"dists/{codename}/Release", release)

    def warm(self):
        """Fetches beforehand what an installation will ask for, as far as it can be foreseen."""
        before = self._mirror.counts()
        foreseen = packages.foreseen(self.system, [KERNEL, LOADER, *INCLUDED, *IMPLIED])
        for name in sorted(foreseen):
            self._mirror.get(self.system[name]["Filename"])
        fetched = self._mirror.counts().since(before)
        self._say(f"mirror: {len(foreseen)} packages foreseen, {fetched.files} of them fetched ({fetched.bytes >> 20} MiB)")


def _without(parts, wanted, lacking):
    """What is left of `wanted` when these are missing, and all that needs them."""
    left = set(wanted) - lacking
    while True:
        broken = {name for name in left if any(needed in wanted and needed not in left for needed in packages.names(parts[name].get("Depends")))}
        if not broken:
            return left
        left -= broken


def _installed_in(initrd):
    """Names of the parts that an initrd (gzip, cpio in the "newc" form) brings along, and what they provide."""
    data = gzip.decompress(initrd.read_bytes())
    at = 0
    while data[at : at + 6] == b"070701":
        field = lambda index: int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16)  # noqa: E731
        size, name_size = field(6), field(11)
        name = data[at + 110 : at + 110 + name_size - 1].lstrip(b"./")
        start = at + (110 + name_size + 3) // 4 * 4
        if name == b"var/lib/dpkg/status":
            status = packages.parse(data[start : start + size].decode())
            return {*status, *(virtual for fields in status.values() for virtual in packages.names(fields.get("Provides")))}
        at = start + (size + 3) // 4 * 4
    raise Unreachable(f"{initrd} has no list of what is in it")
