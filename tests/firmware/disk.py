"""Disks that say one line when they boot: a boot sector for BIOS; for UEFI an EFI system partition with a GRUB whose only command is to say it."""

import subprocess
import tempfile
from pathlib import Path

MIB = 1 << 20
LINE = "kbm-test: this is the local disk"


def blank_disk(path: Path):
    with open(path, "wb") as file:
        file.truncate(1024 * MIB)


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
    """GPT with an EFI system partition; what boots from it is an application without anything beside it."""
    blank_disk(path)
    subprocess.run(["sgdisk", "--new=1:2048:+64M", "--typecode=1:ef00", path], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        application, esp = Path(folder) / "bootx64.efi", Path(folder) / "esp.img"
        config = Path(folder) / "grub.cfg"
        config.write_text(f"serial --unit=0 --speed=115200\nterminal_output serial\necho '{LINE}'\nhalt\n")
        made = subprocess.run(
            ["grub-mkstandalone", "--format=x86_64-efi", f"--output={application}", "--modules=serial echo halt", f"boot/grub/grub.cfg={config}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if made.returncode != 0:
            raise SystemExit(f"grub-mkstandalone failed: {made.stdout}")
        with open(esp, "wb") as file:
            file.truncate(64 * MIB)
        subprocess.run(["mkfs.vfat", "-F", "32", esp], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"], check=True)
        subprocess.run(["mcopy", "-i", esp, application, "::/EFI/BOOT/BOOTX64.EFI"], check=True)
        with open(path, "r+b") as disk:
            disk.seek(MIB)
            disk.write(esp.read_bytes())
