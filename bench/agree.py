"""Agreement: what fast decoding and reduced precision change, over photographs of the real world."""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bench import figures, machine
from bench.machine import DATA, docker

# Both carry photographs; only their files are taken, nothing is installed.
WHEELS = ("scikit-image==0.25.2", "scikit-learn==1.6.1")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tiff")
# Drawings, masks, test patterns and pages of text among them.
NOT_PHOTOGRAPHS = {
    *("chessboard_GRAY", "chessboard_RGB", "color", "horse", "logo", "microaneurysms", "page", "phantom", "text"),
}


def photographs(target: Path) -> None:
    """Fetch the wheels and take out their photographs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, *WHEELS], check=True)
        target.mkdir(parents=True, exist_ok=True)
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    inside = Path(name)
                    folders = set(inside.parts[:-1])
                    wanted = inside.suffix in SUFFIXES and inside.stem not in NOT_PHOTOGRAPHS
                    if wanted and folders & {"data", "images"} and "tests" not in folders:
                        (target / inside.name).write_bytes(archive.read(name))


def run(image: str, model: str, bundle: str | None, folder: str | None) -> None:
    """Compare the modes inside the image and record the table; without a bundle, the model is trained for it."""
    source = Path(folder).resolve() if folder else DATA / "photographs"
    if not folder and not source.is_dir():
        photographs(source)
    mounts = ("-v", f"{source}:/photographs:ro")
    if bundle:
        path = Path(bundle).resolve()
    else:
        name = f"{model.replace('_', '-')}-photographs"
        command = ("python", "-m", "bench.training", "/photographs", model, "/data/models", name)
        docker("run", "--rm", *mounts, "-v", f"{DATA}:/data", image, *command)
        path = DATA / "models" / name / "1"
    printed = docker(
        *("run", "--rm", *mounts, "-v", f"{path}:/bundle:ro", image),
        *("python", "-m", "bench.agreement", "/bundle", "/photographs"),
    )
    found = json.loads(printed.splitlines()[-1])
    rows = [
        [row["mode"], str(row["photographs"]), f"{row['top1']:.2%}", f"{row['largest']:.2g}", f"{row['mean']:.2g}"]
        for row in found
    ]
    head = ["mode, against", "photographs", "same best class", "largest change of a probability", "mean change"]
    body = figures.table(head, rows) + f"\n\n{machine.description()}."
    figures.record(f"Agreement, {path.parent.name}", body)
