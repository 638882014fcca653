"""What trainers write after an epoch that was really trained becomes a bundle that answers as the trained model."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.bundle.__main__ import main
from app.bundle.manifest import GOLDEN_PIXELS
from app.bundle.verify import verify
from app.images.decoder import Decoder
from app.engines.torch_engine import TorchEngine
from tests.integration.support.in_image import train_checkpoint
from tests.unit.app.support import CAT


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        ("timm", ["found under state_dict_ema, an average", "64x64 pixels, squash", "crop_mode, crop_pct, interpol"]),
        ("lightning", ["found under state_dict.model", "'hyper_parameters.class_names'", "criterion.weight", "squash"]),
        ("fastai", ["found under model.0.model", "the mean and the largest features", "class folders"]),
    ],
)
def test_a_trainers_file_answers_as_the_model_that_was_trained(
    tmp_path: Path, kind: str, notes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = train_checkpoint.main(kind, str(tmp_path), str(CAT))
    options = [
        f"--{name.replace('_', '-')}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in told["options"].items()
    ]
    where = [f"--checkpoint={tmp_path / 'checkpoint'}", "--name=own", "--version=1", f"--output={tmp_path / 'models'}"]
    code = main(["create", *where, *options])
    said = capsys.readouterr()
    assert code == 0, said.err
    made = json.loads(said.out)
    understood = " ".join(made["notes"])
    assert [note for note in notes if note not in understood] == [], understood
    bundle = verify(Path(made["path"]))
    engine = TorchEngine(bundle.module, bundle.manifest.input, "softmax", "cpu", 1)
    ranking = engine.predict([Decoder(bundle.manifest.input, GOLDEN_PIXELS).decode(CAT.read_bytes()).pixels])[0]
    given = {bundle.labels[at]: value for at, value in zip(ranking.class_ids, ranking.probabilities, strict=True)}
    assert given == pytest.approx(told["expected"], abs=1e-3)
