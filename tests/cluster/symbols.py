"""The newest symbols of the system's libraries that a compiled file asks for, read from the file itself."""

import re
import struct
from pathlib import Path

_NEEDS = 0x6ffffffe  # SHT_GNU_verneed: versions of symbols, by the library that is to have them


def needed(path: Path) -> list:
    """Libraries and versions, such as ``("libc.so.6", "GLIBC_2.17")``, that a 64-bit ELF file needs; [] for others."""
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01":
        return []
    offset, = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    # name, type, flags, address, offset, size, link, info, alignment, size of an entry
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, offset + n * size) for n in range(count)]
    assert sections, f"{path} has no table of sections"
    found = []
    for section in sections:
        if section[1] == _NEEDS:
            names, at = sections[section[6]][4], section[4]
            for _ in range(section[7]):
                _, versions, library, first, following = struct.unpack_from("<HHIII", content, at)
                version = at + first
                for _ in range(versions):
                    _, _, _, name, after = struct.unpack_from("<IHHII", content, version)
                    found.append((_text(content, names + library), _text(content, names + name)))
                    version += after
                at += following
    return found


def _text(content, at):
    return content[at:content.index(b"\0", at)].decode()


def beyond(path: Path, limits: dict, own=()) -> list:
    """What a file needs that is newer than a system's ``limits``, by family; of libraries that aren't its ``own``."""
    found = []
    for library, version in needed(path):
        family, _, number = version.rpartition("_")
        if family in limits and library not in own and re.fullmatch(r"[\d.]+", number):
            if tuple(map(int, number.split("."))) > limits[family]:
                found.append(f"{path.name}: {version} of {library}")
    return found
