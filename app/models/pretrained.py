"""timm's own weights of an architecture: from the hub, or from a file or folder that was brought from there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from app.models import architectures
from app.errors import BundleError

HUB = "hub"
# What the hub calls weights, the better kind first.
_FILES = ("model.safetensors", "pytorch_model.bin")


@contextmanager
def located(architecture: str, source: str) -> Iterator[Path]:
    """The file with timm's weights of an architecture while it is needed; a BundleError says how to bring it."""
    config = architectures.config(architecture)
    name = tagged(architecture)
    repository = config.hf_hub_id or f"timm/{name}"
    if not (config.hf_hub_id or config.url):
        raise BundleError("pretrained_missing", f"timm has no weights of {name}; name a tag, or a checkpoint.")
    if source == HUB:
        with TemporaryDirectory(prefix="hub.") as folder:
            yield _fetched(repository, Path(folder))
        return
    path = Path(source)
    found = [path / file for file in _FILES if (path / file).is_file()] if path.is_dir() else [path]
    if not found:
        raise BundleError(
            "checkpoint_missing", f"The folder {path} has no {' and no '.join(_FILES)}; fetch {repository} into it."
        )
    yield found[0]


def tagged(architecture: str) -> str:
    """An architecture with the tag of its weights: timm's first one where none was given."""
    config = architectures.config(architecture)
    return f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)


def _fetched(repository: str, folder: Path) -> Path:
    reason = "it has no file of weights"
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import RemoteEntryNotFoundError

        for file in _FILES:
            try:
                # A download is tried again for most of a minute where nothing answers; a question is asked once.
                get_hf_file_metadata(hf_hub_url(repository, file))
            except RemoteEntryNotFoundError:
                continue
            return Path(hf_hub_download(repository, file, cache_dir=folder))
    except Exception as error:  # the client of the hub raises its own kinds, and those of what it stands on
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    raise BundleError(
        "hub_unreachable",
        f"{repository} cannot be fetched from the model hub ({reason}); where no hub answers, bring its {_FILES[0]} "
        "here and give that file instead of `hub`.",
    )
