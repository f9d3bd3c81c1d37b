"""Files of a folder that people bring: what is theirs, and what other programs have left beside it."""

import os
import re
from pathlib import Path

# Hidden files, ._ files and notebook checkpoints begin with a dot; the others are those of systems.
_LEFT = re.compile(r"\..*|__MACOSX|Thumbs\.db|desktop\.ini|@eaDir|\$RECYCLE\.BIN|System Volume Information", re.I)


def files_in(folder, suffixes: tuple, deep: bool = False) -> tuple:
    """Files of a folder whose names end with one of ``suffixes``, in letters of any case, and what is skipped.

    Both are lists of paths, in order; ``deep`` looks into sub-folders too. Hidden files, what systems leave, files of
    other kinds, linked folders and links that lead nowhere are skipped.
    """
    found, skipped = [], []
    for base, folders, names in os.walk(str(folder)):
        # A linked folder may be anyone's, or lead round in circles.
        left = [name for name in folders if _LEFT.fullmatch(name) or deep and os.path.islink(os.path.join(base, name))]
        skipped += [Path(base) / name for name in left]
        folders[:] = sorted(set(folders) - set(left)) if deep else []
        for name in names:
            path = Path(base) / name
            use = not _LEFT.fullmatch(name) and path.suffix.lower() in suffixes and path.is_file()
            (found if use else skipped).append(path)
    return sorted(found), sorted(skipped)


def told(skipped: list, folder) -> str:
    """One sentence about what was skipped; empty where nothing was."""
    names = [path.relative_to(str(folder)).as_posix() for path in skipped]
    return (f"{len(names)} file(s) or folder(s) of {folder} are skipped: {', '.join(map(ascii, names[:5]))}"
            f"{', …' if len(names) > 5 else '.'}" if names else "")
