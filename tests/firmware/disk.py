"""Disks that say one line when they boot: a boot sector for BIOS; for UEFI an EFI system partition with a GRUB that says it."""

import subprocess
import tempfile
from pathlib import Path

MIB = 1 << 20
LINE = "kbm-test: this is the local disk"


def blank_disk(path: Path, mib=1024):
    with open(path, "wb") as file:
        file.truncate(mib * MIB)


def bios_disk(path: Path):
    """16-bit code at 0x7c00 that writes the text at offset 64 to COM1 and stops."""
    code = bytes.fromhex("fc31c08ed8be407cac84c0741288c4bafd03eca82074fb88e0baf803eeebe9faf4ebfc")
    sector = bytearray(512)
    sector[: len(code)] = code
    text = f"\r\n{LINE}\r\n\0".encode()
    sector[64 : 64 + len(text)] = text
    # One active partition over the whole disk.
    sector[446:462] = bytes.fromhex("80000200eeffffff0100000000f81f00")
    sector[510:512] = b"\x55\xaa"
    blank_disk(path)
    with open(path, "r+b") as file:
        file.write(sector)


def uefi_disk(path: Path):
    """What boots is an application without anything beside it, at the fallback path."""
    with tempfile.TemporaryDirectory() as folder:
        application, config = Path(folder) / "bootx64.efi", Path(folder) / "grub.cfg"
        config.write_text(f"serial --unit=0 --speed=115200\nterminal_output serial\necho '{LINE}'\nhalt\n")
        made = subprocess.run(
            ["grub-mkstandalone", "--format=x86_64-efi", f"--output={application}", "--modules=serial echo halt", f"boot/grub/grub.cfg={config}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if made.returncode != 0:
            raise SystemExit(f"grub-mkstandalone failed: {made.stdout}")
        _system_partition(path, {"EFI/BOOT/BOOTX64.EFI": application})


def signed_disk(path: Path, loaders: Path, arch="x86_64", suffix="x64"):
    """What boots is a vendor's shim and GRUB, as an installed Debian has them. The fallback path has something that is no program: nobody may take it."""
    with tempfile.TemporaryDirectory() as folder:
        config, trap = Path(folder) / "grub.cfg", Path(folder) / "trap"
        config.write_text(f"echo '{LINE}'\nsleep 1\nhalt\n")
        trap.write_text("no program\n")
        _system_partition(
            path,
            {
                f"EFI/debian/shim{suffix}.efi": loaders / f"shim/shim{suffix}.efi.signed",
                f"EFI/debian/grub{suffix}.efi": loaders / f"grub/{arch}-efi-signed/grub{suffix}.efi.signed",
                "EFI/debian/grub.cfg": config,
                f"EFI/BOOT/BOOT{suffix.upper()}.EFI": trap,
            },
        )


def _system_partition(path: Path, files):
    """GPT with an EFI system partition with these files."""
    blank_disk(path)
    subprocess.run(["sgdisk", "--new=1:2048:+64M", "--typecode=1:ef00", path], check=True, stdout=subprocess.DEVNULL)
    esp = path.with_suffix(".esp")
    with open(esp, "wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", esp], check=True, stdout=subprocess.DEVNULL)
    made = set()
    for name, content in files.items():
        for folder in reversed(Path(name).parents[:-1]):
            if folder not in made:
                subprocess.run(["mmd", "-i", esp, f"::/{folder}"], check=True)
                made.add(folder)
        subprocess.run(["mcopy", "-i", esp, content, f"::/{name}"], check=True)
    with open(path, "r+b") as disk:
        disk.seek(MIB)
        disk.write(esp.read_bytes())
    esp.unlink()
