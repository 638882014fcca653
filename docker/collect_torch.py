"""Copy the distribution's torch and torchvision, and the shared libraries they need, into one folder.

The distribution's packages depend on video codecs, LLVM and GPU stacks that a classifier never loads: 1.4 GB installed.
What is really linked is found with ldd, and of that only what the runtime base lacks is copied. Debian's torch is also
linked to MPI, which only a cluster uses and whose network libraries look for hardware for 0.15 s whenever they are
loaded, and to more that other things than answering need: stand-ins have their names and symbols, and nothing behind
them. BLAS and LAPACK are OpenBLAS under other names.

Usage: python3 collect_torch.py RUNTIME_ROOT TARGET
"""

import shutil
import subprocess
import sys
from pathlib import Path

from stand_in import make, wanted

PACKAGES = Path("/usr/lib/python3/dist-packages")
WANTED = ("torch", "torchgen", "functorch", "torchvision", "torch-*", "torchvision-*")
# Its closure is the whole of ffmpeg; without it torchvision reads no video, which this service never does.
UNWANTED = "video_reader*.so"
LIBRARIES = "torch.libs"
STOOD_IN = {
    # Training in a cluster, and its server for debugging.
    *("libmpi.so.40", "libgloo.so.0", "libtensorpipe.so.0", "libcpp-httplib.so.0.18"),
    # Export to ONNX, shaders of phones, proofs about shapes.
    *("libonnx.so.1", "libonnx_proto.so.1", "libprotobuf.so.32", "libvulkan.so.1", "libz3.so.4"),
}
OPENBLAS = "libopenblas.so.0"
IN_OPENBLAS = ("libblas.so.3", "liblapack.so.3")


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


def direct(binary: Path) -> set[str]:
    """Names of the shared libraries that one binary itself asks for."""
    output = subprocess.run(["objdump", "-p", str(binary)], check=True, capture_output=True, text=True).stdout
    return {line.split()[1] for line in output.splitlines() if line.strip().startswith("NEEDED ")}


def without_stood_in(binaries: list[Path], libraries: dict[str, Path]) -> dict[str, Path]:
    """The libraries that the binaries need by a way that does not lead through one that is stood in for."""
    found: dict[str, Path] = {}
    waiting = [*binaries]
    while waiting:
        for name in direct(waiting.pop()) - found.keys() - STOOD_IN:
            if name in libraries:
                found[name] = libraries[name]
                waiting.append(libraries[name])
    return found


def trap(target: Path, library: Path, users: list[Path]) -> None:
    """Make a library that satisfies the users' links to another one; calling into it ends the process."""
    exported = wanted(library, users)
    lines = [
        f"void {symbol.name}(void) {{ __builtin_trap(); }}"
        if symbol.is_function
        else f"char {symbol.name}[{symbol.size}];"
        for symbol in exported
    ]
    make(target, "\n".join(lines) + "\n", exported)


def forward(target: Path, library: Path) -> None:
    """Make a library that is nothing but another name of one."""
    options = ["-shared", "-x", "c", f"-Wl,-soname,{target.name}", "-Wl,--no-as-needed", "-o", str(target), "-"]
    subprocess.run(["gcc", *options, "-x", "none", str(library)], input="", check=True, text=True)


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
    instead = {name: path for name, path in needed.items() if name in STOOD_IN}
    needed = without_stood_in([*binaries, *originals], needed)
    for name, path in instead.items():
        trap(libraries / name, path, [*binaries, *originals, *needed.values()])
    for name, path in needed.items():
        if (runtime / path.relative_to("/")).exists():
            continue
        if name in IN_OPENBLAS and OPENBLAS in needed:
            forward(libraries / name, needed[OPENBLAS].resolve())
        else:
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
