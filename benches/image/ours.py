"""Our own command, called as anybody would: `kube-baremetal image write SOURCE TARGET`, and the packed images that it writes fastest."""

import json
import shutil
import subprocess

from peers import Contender

NAME = "kube-baremetal"
STREAMS = ("raw", "raw.gz", "multi.raw.xz", "single.raw.xz", "raw.zst", "plain.qcow2", "zlib.qcow2", "zstd.qcow2")


class Program:
    """The command under test."""

    def __init__(self, path):
        self.path = path
        self._packed = {}

    def lacks(self, *words):
        """Why it cannot be used for this, or nothing."""
        if not self.path.exists():
            return f"{self.path} is not built"
        asked = subprocess.run([self.path, *words, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return "" if asked.returncode == 0 else f"it has no `{' '.join(words)}`"

    def version(self):
        said = subprocess.run([self.path, "--version"], stdout=subprocess.PIPE, text=True)
        return said.stdout.strip()

    def write(self, source, device, digest):
        return [self.path, "image", "write", source, device, "--digest", digest, "--yes", "--json", "--no-progress"]

    def packed(self, folder, raw, name):
        """A packed image in a folder, and the digest that names it. It is made anew in every run of the rig: the packer is ours and may have changed."""
        out = folder / name
        if name not in self._packed:
            shutil.rmtree(out, ignore_errors=True)
            said = subprocess.run(
                [self.path, "image", "pack", raw, "--output", out, "--json", "--no-progress"], check=True, stdout=subprocess.PIPE, text=True
            )
            self._packed[name] = json.loads(said.stdout)["digest"]
        return out, self._packed[name]

    def contenders(self, digests):
        lacking = self.lacks("image", "write")

        def writes(form):
            return lambda url, device, _: self.write(url, device, digests(form))

        return [Contender(NAME, form, writes(form), unavailable=lacking) for form in STREAMS]


def pieces(folder, count):
    """The stored chunks of a packed image in `count` files of about one size, cut between frames: what so many cores decompress at once."""
    chunks = json.loads((folder / "manifest.json").read_bytes())["chunks"]
    ends = sorted({chunk["offset"] + chunk["length"] for chunk in chunks})
    bounds = [0] + [min(ends, key=lambda end: abs(end - ends[-1] * part // count)) for part in range(1, count + 1)]
    found = []
    with open(folder / "chunks", "rb") as file:
        for index, (start, end) in enumerate(zip(bounds, bounds[1:])):
            file.seek(start)
            piece = folder.with_name(f"{folder.name}.piece-{index}.zst")
            piece.write_bytes(file.read(end - start))
            found.append(piece)
    return found


def decompress_on_all_cores(pieces):
    return " & ".join(f"zstd -dc {piece} > /dev/null" for piece in pieces) + " & wait"


def evidence(run):
    """The final object that the command printed."""
    try:
        return json.loads(run.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
