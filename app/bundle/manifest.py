"""bundle.json: what a bundle contains, and the checks that need no torch."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from app.errors import BundleError

FILE_NAME = "bundle.json"
TOP_K = 5
# What a golden sample's probability may change by between hosts, runtimes and precisions; a bundle carries its own.
TOLERANCE = 0.01
# Golden pictures are the bundle's own: what the service allows its clients does not apply to them.
GOLDEN_PIXELS = 50_000_000

Head = Literal["timm", "sequential"]
# `binary` is a sigmoid of one output that tells two classes apart: the second one's probability, and what is left of 1.
Activation = Literal["softmax", "sigmoid", "binary"]
# What a class must reach to be among the predicted ones of a sigmoid: one number, or one a class.
Share = Annotated[float, Field(gt=0, lt=1)]
Threshold = Share | tuple[Share, ...] | None
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
CropMode = Literal["center", "squash", "border"]
# What a head may compute between two layers, which no file of weights says.
HeadActivation = Literal[
    "relu", "gelu", "silu", "leaky_relu", "hardswish", "elu", "selu", "mish", "tanh", "relu6", "none"
]


# What file systems take.
_LONGEST_NAME = 255
# Of a file that is read: between two pieces a start's other threads may want the interpreter for half a millisecond.
_AT_ONCE = 4 << 20


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise ValueError("must be a relative path inside the bundle")
    return path


def is_plain_name(name: str) -> bool:
    """Whether a bundle name or version is safe as one directory name and one header value."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", name) is not None


class Strict(BaseModel):
    """What a file of ours may say, and nothing else."""

    # A part of a whole is validated with it, and needs no validator of its own.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


_Positive = Annotated[float, Field(gt=0)]


class Input(Strict):
    """How an image becomes the model's input; the words are timm's."""

    size: tuple[Literal[1, 3], Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]]
    mean: tuple[float, float, float] | tuple[float]
    std: tuple[_Positive, _Positive, _Positive] | tuple[_Positive]
    interpolation: Interpolation
    crop_pct: Annotated[float, Field(gt=0, le=2)]
    crop_mode: CropMode


class Layer(Strict):
    """A layer of a head that is not timm's own."""

    kind: Literal["linear", "batch_norm", "layer_norm"] | HeadActivation
    inputs: Annotated[int, Field(ge=1)]
    outputs: Annotated[int, Field(ge=1)]
    bias: bool = True


class Design(Strict):
    """The network that weights belong to."""

    architecture: str
    num_classes: Annotated[int, Field(ge=1)]
    head: Head = "timm"
    # What timm's factory gets beside the name.
    model_args: dict[str, JsonValue] = Field(default_factory=dict)
    # The layers behind the backbone, where they are not one dropout and one linear layer.
    head_layers: tuple[Layer, ...] = ()
    # Whether the head takes the mean and the largest of each feature, as fastai's do.
    concat_pooling: bool = False
    # Whether branches were merged after training (timm.utils.reparameterize_model).
    reparameterized: bool = False


def make_input(values: Mapping[str, object]) -> Input:
    """Input settings from an architecture, a command line or the environment."""
    try:
        inputs = Input.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise BundleError(
            "invalid_option", f"The model's input cannot have {name} {values[name]}: {first['msg']}."
        ) from None
    for name, numbers in (("mean", inputs.mean), ("std", inputs.std)):
        if len(numbers) != inputs.size[0]:
            raise BundleError(
                "invalid_option",
                f"The model's input has {inputs.size[0]} channels and cannot have {len(numbers)} numbers as {name}.",
            )
    return inputs


class File(Strict):
    """A file of the bundle, by its path relative to bundle.json."""

    file: Annotated[str, AfterValidator(_inside)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Source(Strict):
    """The checkpoint a bundle was made from."""

    checkpoint: str
    sha256: str


class Manifest(Strict):
    """The content of bundle.json."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    version: str
    architecture: str
    head: Head
    num_classes: Annotated[int, Field(ge=1)]
    activation: Activation
    threshold: Threshold = None
    input: Input
    weights: File
    labels: File
    golden: File
    golden_samples: tuple[File, ...]
    created: str
    source: Source
    metrics: dict[str, float] | None = None
    model_args: dict[str, JsonValue] | None = None
    head_layers: tuple[Layer, ...] | None = None
    concat_pooling: bool | None = None
    reparameterized: bool | None = None
    # What was understood and assumed when the bundle was made, a sentence each.
    notes: tuple[str, ...] | None = None

    @property
    def num_labels(self) -> int:
        """Classes that have a name: those of the head, or the two of a binary one."""
        return 2 if self.activation == "binary" else self.num_classes

    @property
    def design(self) -> Design:
        """The network that the weights belong to."""
        return Design.model_validate(
            {name: getattr(self, name) for name in Design.model_fields if getattr(self, name) is not None}
        )

    def files(self) -> list[File]:
        """Every file beside bundle.json."""
        return [self.weights, self.labels, self.golden, *self.golden_samples]

    def to_json(self) -> str:
        """The text of bundle.json."""
        return json.dumps(self.model_dump(by_alias=True, exclude_none=True), indent=2, ensure_ascii=False) + "\n"


class Ranked(Strict):
    """One class of a golden answer."""

    class_id: int
    class_name: str
    probability: float


class GoldenSample(Strict):
    """An image and the classes it must get, best first."""

    file: Annotated[str, AfterValidator(_inside)]
    top: tuple[Ranked, ...]


class Golden(Strict):
    """The content of golden.json."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    top_k: int
    tolerance: float
    samples: tuple[GoldenSample, ...]

    def to_json(self) -> str:
        """The text of golden.json."""
        return json.dumps(self.model_dump(by_alias=True), indent=2, ensure_ascii=False) + "\n"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_AT_ONCE))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def describe(path: Path, root: Path) -> File:
    """The manifest entry of a file under `root`."""
    return File(file=path.relative_to(root).as_posix(), sha256=sha256_of(path), bytes=path.stat().st_size)


def read(directory: Path) -> tuple[Manifest, str]:
    """Read bundle.json; the second value is the bundle's sha256, the digest of bundle.json itself."""
    path = directory / FILE_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            "bundle_missing",
            f"{path} cannot be read ({error.strerror}); point at a directory made by `python -m app.bundle create`.",
        ) from None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BundleError("manifest_invalid", f"{path} is not a valid manifest at {where}: {first['msg']}.") from None
    return manifest, hashlib.sha256(content).hexdigest()


def check_files(manifest: Manifest, directory: Path) -> None:
    """Compare every file of the bundle with its recorded size and checksum."""
    for entry in manifest.files():
        check_file(entry, directory)


def check_file(entry: File, directory: Path) -> None:
    """Compare a file of the bundle with its recorded size and checksum."""
    path = directory / entry.file
    if not path.is_file():
        raise BundleError("file_missing", f"{path} is named in bundle.json but is not there; copy the bundle again.")
    if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise BundleError(
            "checksum_mismatch",
            f"{path} does not have the checksum recorded in bundle.json; it was damaged or changed, so copy the "
            "bundle again from its source.",
        )


def read_golden(path: Path) -> Golden:
    """The golden answers of a bundle's file."""
    try:
        return Golden.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BundleError("golden_invalid", f"{path} is not valid at {where}: {first['msg']}.") from None


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels of a bundle's file, one a line, in class order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BundleError("labels_missing", f"The labels file {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise BundleError("labels_invalid", f"The labels file {path} is not UTF-8 text; save it as UTF-8.") from None
    labels = tuple(line.strip() for line in lines)
    if not labels or not all(labels):
        raise BundleError("labels_invalid", f"The labels file {path} is empty or has an empty line; name every class.")
    return labels


DATA = Path(__file__).resolve().parent.parent / "data"
