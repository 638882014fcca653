"""Inside the image: models with random weights (always the same), and photographs, as one folder of files."""

import sys
from pathlib import Path

import openvino
import timm
import torch
from PIL import Image

from app.bundle.__main__ import main as bundle
from bench import engines

SIZES = ((500, 375), (4000, 3000))
# The file of 500x375 is as large as a photograph from a camera or the web: some 58 KB.
LARGEST_SMALL = 58_000
BOUNDARY = "bench-boundary"
TYPES = {"raw": "image/jpeg", "form": f"multipart/form-data; boundary={BOUNDARY}"}
PHOTOGRAPH = Path("/app/app/data/golden/coffee.jpg")


def main() -> None:
    """Write what is missing: `prepare.py FOLDER MODEL…`."""
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        target = folder / "models" / name / "1"
        if not target.exists():
            _bundle(folder, name)
        converted = folder / "models" / name / "openvino.xml"
        if not converted.exists():
            openvino.save_model(engines.converted(target), converted, compress_to_fp16=False)
    photograph = Image.open(PHOTOGRAPH).convert("RGB")
    for width, height in SIZES:
        path = folder / f"{width}x{height}.jpg"
        resized = photograph.resize((width, height), Image.Resampling.BICUBIC)
        quality = 96
        resized.save(path, quality=quality)
        while width == SIZES[0][0] and path.stat().st_size > LARGEST_SMALL:
            quality -= 1
            resized.save(path, quality=quality)
        if width != SIZES[0][0]:
            resized.save(path, quality=90)
        for kind, body in bodies(path.read_bytes()).items():
            (folder / f"{path.stem}.{kind}").write_bytes(body)
            (folder / f"{path.stem}.{kind}.lua").write_text(
                f'local f = io.open("/data/{path.stem}.{kind}", "rb")\n'
                'wrk.method = "POST"\nwrk.body = f:read("*a")\n'
                f'wrk.headers["Content-Type"] = "{TYPES[kind]}"\n'
            )


def _bundle(folder: Path, name: str) -> None:
    checkpoint = folder / f"{name}.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), checkpoint)
    code = bundle(
        [
            *("create", "--checkpoint", str(checkpoint), "--architecture", name, "--name", name, "--version", "1"),
            *("--output", str(folder / "models")),
        ]
    )
    if code:
        raise SystemExit(code)


def bodies(photograph: bytes) -> dict[str, bytes]:
    """What clients send: the photograph alone, or as the file of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photograph.jpg"\r\n'
    form = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + photograph + f"\r\n--{BOUNDARY}--\r\n".encode()
    return {"raw": photograph, "form": form}


if __name__ == "__main__":
    main()
