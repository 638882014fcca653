"""Whether a model was trained with the preprocessing it gets, and what it sees."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from app.bundle.__main__ import main
from app.bundle.check import Trial, better, check, labeled
from app.bundle.look import draw
from app.bundle.manifest import Input
from app.errors import BundleError

HALF = (0.5, 0.5, 0.5)
INPUT = Input(
    size=(3, 32, 32), mean=HALF, std=HALF, interpolation="bilinear", crop_pct=1.0, crop_mode="center"
)  # fmt: skip
LABELS = ("dark", "Light_Gray")


def brightness(columns: slice, sureness: float, channels: int = 3) -> nn.Module:
    """A model that tells dark pictures from light ones by the mean of what it sees in some columns."""
    weights = torch.zeros(channels, *INPUT.size[1:])
    weights[..., columns] = 1
    weights *= sureness / weights.sum()
    seen = nn.Linear(weights.numel(), 2, bias=False)
    seen.weight.data = torch.stack((-weights.flatten(), weights.flatten()))
    return nn.Sequential(nn.Flatten(), seen)


def gray(path: Path, level: int, edge: int | None = None) -> None:
    """A wide picture in one gray, with other edges left and right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (128, 64), (level,) * 3)
    if edge is not None:
        for left in (0, 112):
            image.paste((edge,) * 3, (left, 0, left + 16, 64))
    image.save(path)


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """Pictures a little below and a little above the middle."""
    for number in range(12):
        gray(tmp_path / "dark" / f"{number}.png", 121 + number % 3)
        gray(tmp_path / "light gray" / f"{number}.png", 130 + number % 3)
    return tmp_path


def test_nothing_is_said_when_all_is_well(shades: Path) -> None:
    checked = check(brightness(slice(None), 60), INPUT, "softmax", LABELS, shades)
    assert checked.warning == ""
    assert checked.note.startswith("Check: 24 pictures, 100.0% right as it is; mean 0.485/0.456/0.406 50.0%; ")


def test_a_wrong_mean_is_found_and_the_right_one_named(shades: Path) -> None:
    wrong = INPUT.model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    checked = check(brightness(slice(None), 60), wrong, "softmax", LABELS, shades)
    assert checked.warning.startswith(
        "Preprocessing: 100.0% of 24 pictures are right with --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5, 50.0% as it is ("
    )


def test_two_pictures_prove_nothing(tmp_path: Path) -> None:
    for number in range(2):
        gray(tmp_path / "light gray" / f"{number}.png", 131 + number)
    wrong = INPUT.model_copy(update={"mean": (0.6, 0.6, 0.6)})
    checked = check(brightness(slice(None), 60), wrong, "softmax", LABELS, tmp_path)
    assert "0.0% right as it is; mean 0.485/0.456/0.406 100.0%" in checked.note
    assert checked.warning == ""


def test_right_pictures_count_by_themselves_where_the_model_is_as_sure_of_its_mistakes() -> None:
    # Of a hundred pictures twenty-six become right and six wrong, and those that stay wrong outweigh them.
    chosen = Trial(INPUT, (-0.1,) * 60 + (-3.0,) * 40, (True,) * 60 + (False,) * 40)
    logarithms = (-3.0,) * 6 + (-0.1,) * 80 + (-9.0,) * 14
    other = Trial(INPUT, logarithms, (False,) * 6 + (True,) * 80 + (False,) * 14)
    assert better([chosen, other], chosen) == [other]
    few = Trial(INPUT, logarithms[:80] + (-9.0,) * 20, other.right[:70] + (False,) * 30)
    assert better([few], chosen) == []


def test_a_crop_of_what_was_squashed_in_training_is_found(tmp_path: Path) -> None:
    for number in range(12):
        gray(tmp_path / "dark" / f"{number}.png", 180 + number, edge=40)
        gray(tmp_path / "light gray" / f"{number}.png", 70 - number, edge=220)
    model = brightness(slice(0, 3), 5)
    checked = check(model, INPUT, "softmax", LABELS, tmp_path)
    assert "are right with --crop-mode squash, 0.0% as it is" in checked.warning
    assert check(model, INPUT.model_copy(update={"crop_mode": "squash"}), "softmax", LABELS, tmp_path).warning == ""


def test_a_network_that_sees_gray_is_tried_and_drawn(shades: Path) -> None:
    gray = INPUT.model_copy(update={"size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)})
    checked = check(brightness(slice(None), 60, channels=1), gray, "softmax", LABELS, shades)
    assert checked.warning == ""
    assert checked.note.startswith("Check: 24 pictures, 100.0% right as it is; crop_mode squash 100.0%; ")
    with Image.open(draw(gray, shades / "dark" / "0.png", shades / "seen.png")) as image:
        assert (image.mode, image.size, image.getpixel((5, 5))) == ("L", (32, 32), 121)


def test_pictures_get_their_class_from_a_folder_its_number_or_their_name(tmp_path: Path) -> None:
    gray(tmp_path / "a" / "val" / "LIGHT-gray" / "x.png", 9)
    gray(tmp_path / "a" / "train" / "nobody" / "x.png", 9)
    gray(tmp_path / "b" / "1" / "x.png", 9)
    gray(tmp_path / "c" / "Light_Gray_12.png", 9)
    gray(tmp_path / "c" / "dark.png", 9)
    assert [number for _, number in labeled(tmp_path / "a", LABELS)] == [1]
    assert [number for _, number in labeled(tmp_path / "b", LABELS)] == [1]
    assert [(path.name, number) for path, number in labeled(tmp_path / "c", LABELS)] == [
        ("dark.png", 0), ("Light_Gray_12.png", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("cat/1.png", "check_invalid", "The folder 'cat' of --check is no class of the model"),
        ("7/1.png", "check_invalid", "The folder '7'"),
        ("IMG_1.png", "check_invalid", "names no class; put it in a folder"),
        ("notes.txt", "check_missing", "holds no picture"),
    ],
)
def test_pictures_of_no_class_are_refused(tmp_path: Path, name: str, code: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(BundleError, match=said) as caught:
        labeled(tmp_path, LABELS)
    assert caught.value.code == code


def test_a_damaged_picture_is_named(shades: Path) -> None:
    (shades / "dark" / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(BundleError, match=r"0\.png of --check is refused") as caught:
        check(brightness(slice(None), 60), INPUT, "softmax", LABELS, shades)
    assert caught.value.code == "check_invalid"


def test_what_the_model_sees_is_drawn(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray(tmp_path / "wide.png", 200, edge=0)
    seen = tmp_path / "seen.png"
    command = ["show", str(bundle), "--picture", str(tmp_path / "wide.png"), "--output", str(seen)]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"picture": str(tmp_path / "wide.png"), "seen": str(seen)}
    with Image.open(seen) as image:
        # The middle, without the black edges.
        assert (image.size, image.getextrema()) == ((64, 64), ((200, 200),) * 3)


@pytest.mark.parametrize(
    ("picture", "output", "code"),
    [("none.png", "seen.png", "picture_missing"), ("bad.png", "seen.png", "picture_invalid"),
     ("good.png", "none/seen.png", "output_unwritable"), (".", "seen.png", "picture_missing")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], picture: str, output: str, code: str
) -> None:
    (tmp_path / "bad.png").write_bytes(b"none")
    gray(tmp_path / "good.png", 200)
    command = ["show", str(bundle), "--picture", str(tmp_path / picture), "--output", str(tmp_path / output)]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith(f"error[{code}]: ")
