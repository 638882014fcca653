"""The peers' environments: for each one a venv of its own, with the versions of its lock, as its users would make it.

python3 -m bench.environments           # makes those that are missing, and prints where they are
"""

import hashlib
import subprocess
import sys

from bench.machine import HERE, ROOT

LOCKS = HERE / "peers" / "locks"
_CACHE = ROOT / ".cache" / "bench"


def interpreter(name: str) -> str:
    """The interpreter of an environment, made now where it is not there; another lock is another environment."""
    lock = LOCKS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = _CACHE / f"{name}-{digest}"
    python = folder / "bin" / "python"
    made = folder / "made"
    if not made.exists():
        print(f"making the environment {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        # Each lock is whole. Resolved, torchvision would ask for the build of torch that it was made with.
        install = ("-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "-r", str(lock))
        subprocess.run([str(python), *install], check=True)
        made.touch()
    return str(python)


def main() -> None:
    """Make every environment."""
    for lock in sorted(LOCKS.glob("*.txt")):
        print(lock.stem, interpreter(lock.stem))


if __name__ == "__main__":
    main()
