"""Remove what docker/prune.txt lists from an installed package tree and say how much went.

Usage: python prune.py LIST FOLDER
"""

import shutil
import sys
from pathlib import Path


def size(path: Path) -> int:
    """Bytes of a file, or of every file below a folder; links count as nothing."""
    if path.is_symlink():
        return 0
    if path.is_dir():
        return sum(size(child) for child in path.iterdir())
    return path.stat().st_size


def main(listing: Path, folder: Path) -> None:
    """Delete every match of every glob and print the bytes each glob freed."""
    total = 0
    for line in listing.read_text(encoding="utf-8").splitlines():
        pattern = line.split("#", 1)[0].strip()
        if not pattern:
            continue
        freed = 0
        for match in sorted(folder.glob(pattern)):
            if not match.exists() and not match.is_symlink():
                continue  # went with a folder that matched before it
            freed += size(match)
            if match.is_dir() and not match.is_symlink():
                shutil.rmtree(match)
            else:
                match.unlink()
        if freed:
            sys.stdout.write(f"{freed / 1e6:9.1f} MB  {pattern}\n")
        total += freed
    sys.stdout.write(f"{total / 1e6:9.1f} MB  removed from {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
