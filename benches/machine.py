"""The processor that something was measured on."""

import pathlib
import re


def cpu():
    """What /proc/cpuinfo says of the first processor, by name, and its flags; nothing where there is no such file."""
    path = pathlib.Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.exists() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", first, re.M))
    return facts, facts.get("flags", "").split()
