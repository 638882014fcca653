"""The machine under test: its processor, Docker, and the image with everything a measurement needs."""

import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = Path(tempfile.gettempdir()) / "bench-data"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def docker(*arguments: str) -> str:
    """Run Docker and return what it printed; its complaint ends the run."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: docker {' '.join(arguments[:2])} … ended with {done.returncode}:\n{done.stderr}")
    return done.stdout.strip()


def build(service: str) -> str:
    """Put wrk and this folder on top of an image of the service; return the new image's name."""
    name = f"bench-{service.replace(':', '-').replace('/', '-')}"
    secrets = [f"id=ca,src={_CA_BUNDLE}"] if _CA_BUNDLE.exists() else []
    docker(
        *("buildx", "build", "--load", "--quiet", "--tag", name, "--build-arg", f"SERVICE={service}"),
        *("--build-context", f"scripts={ROOT / 'docker'}"),
        *[part for secret in secrets for part in ("--secret", secret)],
        str(HERE),
    )
    return name


def python(image: str, *arguments: str) -> str:
    """Run Python in an image, with the folder of models and photographs at /data."""
    return docker("run", "--rm", "--network", "host", "-v", f"{DATA}:/data", image, "python", *arguments)


def _about() -> dict[str, str]:
    listed = subprocess.run(["lscpu"], check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    return dict(line.split(":", 1) for line in listed.stdout.splitlines() if ":" in line)


def reduces() -> bool:
    """Whether the processor computes in bf16 itself."""
    flags = _about()["Flags"].split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def description() -> str:
    """One line about the processor, as RESULTS.md needs it: cores, model, and what units it has."""
    about = _about()
    flags = about["Flags"].split()
    present = [unit for unit in _UNITS if unit in flags]
    absent = [unit for unit in _UNITS if unit not in flags]
    missing = f", without {', '.join(absent)}" if absent else ""
    return f"{about['CPU(s)'].strip()} x {about['Model name'].strip()} with {', '.join(present)}{missing}"
