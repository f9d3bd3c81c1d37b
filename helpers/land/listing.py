"""Files of a user's folder, without those that other programs have left there."""

import os
import re
from pathlib import Path

# Hidden files and notebook checkpoints begin with a dot; the other names are those of operating systems.
LEFT = re.compile(r"\..*|__MACOSX|Thumbs\.db|desktop\.ini|@eaDir|\$RECYCLE\.BIN|System Volume Information", re.I)


def files_in(folder, suffixes: tuple, deep: bool = False) -> tuple:
    """Paths of a folder's files that end with one of ``suffixes``, in letters of any case, and paths that are skipped.

    ``deep`` looks into sub-folders too. Skipped are hidden files, those of operating systems, files of other kinds,
    linked folders and broken links.
    """
    found, skipped = [], []
    for base, folders, names in os.walk(str(folder)):
        # A linked folder may belong to somebody else, or contain itself.
        left = [name for name in folders if LEFT.fullmatch(name) or deep and os.path.islink(os.path.join(base, name))]
        skipped += [Path(base) / name for name in left]
        folders[:] = sorted(set(folders) - set(left)) if deep else []
        for name in names:
            path = Path(base) / name
            use = not LEFT.fullmatch(name) and path.suffix.lower() in suffixes and path.is_file()
            (found if use else skipped).append(path)
    return sorted(found), sorted(skipped)


def told(skipped: list, folder) -> str:
    """One sentence about the skipped paths, empty if there are none."""
    names = [path.relative_to(str(folder)).as_posix() for path in skipped]
    return (f"{len(names)} file(s) or folder(s) of {folder} are skipped: {', '.join(map(ascii, names[:5]))}"
            f"{', …' if len(names) > 5 else '.'}" if names else "")
