"""Debian's package lists, and what of them somebody will ask for.

Dependencies are followed as far as a warm cache needs it: the first alternative, the first provider. Whoever installs decides for himself; what was not foreseen here is
fetched when it is asked for.
"""

import lzma
import re

REQUIRED = ("required", "important")
STANDARD = ("required", "important", "standard")


def parse(text):
    """Paragraphs by package name; of several versions the first. Lines that go on are not kept."""
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", paragraph, re.M))
        if "Package" in fields:
            found.setdefault(fields["Package"], fields)
    return found


def load(mirror, suite, section):
    """A package list of the archive's component main."""
    return parse(lzma.open(mirror.need(f"dists/{suite}/main/{section}/Packages.xz")).read().decode())


def names(field):
    """The first alternative of each dependency, without versions."""
    return [re.split(r"[ (:|]", part.strip())[0] for part in (field or "").split(",") if part.strip()]


def closure(packages, wanted, present=frozenset()):
    """`wanted` and all that these depend on, of what the list has, but for what is `present`."""
    providers = {}
    for name, fields in packages.items():
        for virtual in names(fields.get("Provides")):
            providers.setdefault(virtual, []).append(name)
    found, open_ = set(), list(wanted)
    while open_:
        name = open_.pop()
        if name not in packages:
            candidates = providers.get(name, [])
            if not candidates or found.intersection(candidates) or present.intersection(candidates):
                continue
            name = candidates[0]
        if name in found or name in present:
            continue
        found.add(name)
        fields = packages[name]
        open_ += names(fields.get("Pre-Depends")) + names(fields.get("Depends"))
    return found


def foreseen(packages, chosen):
    """What an installation of the base system with these packages will fetch."""
    base = [name for name, fields in packages.items() if fields.get("Priority") in REQUIRED]
    return closure(packages, [*base, *chosen])
