"""The pictures of a folder, found alike by the controller and by the image."""

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def pictures(folder: Path) -> list[Path]:
    """Every picture in a folder and in its folders, by name; what is hidden (macOS leaves `._a.jpg`) is none."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(path for path in found if not _hidden(path.relative_to(folder)))


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)
