"""Copy the distribution's torch and torchvision, and the shared libraries they need, into one folder.

The distribution's packages depend on video codecs, LLVM and GPU stacks that a classifier never loads: 1.4 GB installed.
What is really linked is found with ldd, and of that only what the runtime base lacks is copied.

Usage: python3 collect_torch.py RUNTIME_ROOT TARGET
"""

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = Path("/usr/lib/python3/dist-packages")
WANTED = ("torch", "torchgen", "functorch", "torchvision", "torch-*", "torchvision-*")
# Its closure is the whole of ffmpeg; without it torchvision reads no video, which this service never does.
UNWANTED = "video_reader*.so"
LIBRARIES = "torch.libs"


def linked(binary: Path) -> dict[str, Path]:
    """Names and files of every shared library that the dynamic loader would map for one binary."""
    output = subprocess.run(["ldd", str(binary)], check=True, capture_output=True, text=True).stdout
    found: dict[str, Path] = {}
    for line in output.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow:
            continue
        if rest.startswith("not found"):
            sys.exit(f"error: {binary} needs {name}, which is missing; the distribution's torch package is broken")
        found[name] = Path(rest.split(" (")[0])
    return found


def main(runtime: Path, target: Path) -> None:
    """Copy packages first, then every library that the runtime base does not have."""
    libraries = target / LIBRARIES
    libraries.mkdir(parents=True)
    for pattern in WANTED:
        for source in PACKAGES.glob(pattern):
            copy = target / source.name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", UNWANTED, "test")
                shutil.copytree(source, copy, symlinks=True, ignore=ignore)
            else:
                shutil.copy2(source, copy)

    links = [path for path in target.glob("torch/lib/*.so") if path.is_symlink()]
    originals = [PACKAGES / path.relative_to(target) for path in links]
    binaries = [path for path in target.glob("torch*/**/*.so") if not path.is_symlink()]
    needed: dict[str, Path] = {}
    for binary in [*binaries, *originals, target / "torch/bin/torch_shm_manager"]:
        needed.update(linked(binary))
    for name, path in needed.items():
        if not (runtime / path.relative_to("/")).exists():
            shutil.copy2(path.resolve(), libraries / name)

    # Debian links torch/lib/*.so to the system's folder, which the runtime base does not have.
    names = {path.resolve(): name for name, path in needed.items()}
    for link, original in zip(links, originals, strict=True):
        link.unlink()
        soname = names.get(original.resolve())
        if soname:
            link.symlink_to(Path("../..") / LIBRARIES / soname)
        else:
            shutil.copy2(original.resolve(), link)
    total = sum(path.stat().st_size for path in libraries.iterdir())
    sys.stdout.write(f"{len(list(libraries.iterdir()))} libraries, {total / 1e6:.1f} MB, that the runtime base lacks\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
