"""What is made of a bundle once, and the starts that need not make it again."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app import derive
from app.bundle import manifest as manifests
from app.engines.openvino_engine import OpenVinoEngine
from app.errors import BundleError, SettingsError
from app.process import cpus
from app.settings import Settings
from app.start import derived
from app.start.loader import Loader
from tests.unit.app.support import CAT, ROOT, fresh, serve, wait_for


def asked(bundle: Path, root: Path, **options: Any) -> Settings:
    """Settings of a service on a CPU."""
    given = {"device": "cpu", "engine": "openvino", "precision": "fp32", "torch_threads": 1, **options}
    return Settings(bundle_path=bundle, derived_path=root, **given)


@pytest.fixture(scope="module")
def root(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what was made of the small bundle."""
    folder = tmp_path_factory.mktemp("derived")
    made = derive.derive(asked(bundle, folder))
    assert (made["made"], made["engine"], made["precision"]) == (True, "openvino", "fp32")
    return folder


def test_it_is_made_once(bundle: Path, root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert derive.derive(asked(bundle, root))["made"] is False
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    # The service is another user than the one that makes it.
    assert {oct(path.stat().st_mode & 0o777) for path in root.rglob("*") if path.is_file()} == {"0o644"}


def test_a_start_with_it_answers_without_torch(bundle: Path, root: Path) -> None:
    printed = fresh(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from app.start.loader import Loader\n"
        "from app.settings import Settings\n"
        f"settings = Settings(bundle_path={str(bundle)!r}, derived_path={str(root)!r}, device='cpu', decode='exact', "
        "engine='openvino', precision='fp32', torch_threads=1)\n"
        "loading = Loader(settings)\n"
        "loading.begin()\n"
        "model = loading.model.result()\n"
        f"image = model.decoder.decode(Path({str(CAT)!r}).read_bytes())\n"
        "ranking = model.engine.predict([image.pixels])[0]\n"
        "imported = [name for name in ('torch', 'timm', 'torchvision', 'safetensors') if name in sys.modules]\n"
        "print(json.dumps([imported, ranking.class_ids, ranking.probabilities, str(model.derived), model.name]))"
    ).stdout
    imported, class_ids, probabilities, folder, name = json.loads(printed.splitlines()[-1])
    golden = manifests.read_golden(bundle / "golden" / "golden.json").samples
    expected = next(sample.top for sample in golden if sample.file.endswith("cat.jpg"))
    assert (imported, name) == ([], "small")
    assert class_ids == [entry.class_id for entry in expected]
    assert probabilities == pytest.approx([entry.probability for entry in expected], abs=1e-3)
    assert Path(folder).parent == root


def test_threads_that_begin_at_once_do_not_wait_for_each_other(bundle: Path, tmp_path: Path) -> None:
    derive.derive(asked(bundle, tmp_path, torch_threads=2))
    code = (
        "from app.start.loader import Loader\n"
        "from app.settings import Settings\n"
        f"loading = Loader(Settings(bundle_path={str(bundle)!r}, derived_path={str(tmp_path)!r}, device='cpu', "
        "engine='openvino', precision='fp32', torch_threads=2))\n"
        "loading.begin()\n"
        "from app.http import server\n"
        "loading.model.result()\n"
    )
    # One start in three waited forever.
    for _ in range(6):
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_service_says_what_it_serves(bundle: Path, root: Path, tmp_path: Path) -> None:
    settings = {"device": "cpu", "engine": "openvino", "precision": "fp32"}
    with serve(tmp_path, bundle_path=bundle, derived_path=root, **settings) as running:
        wait_for(running.ready)
        info = running.get("/api/v1/model/info").json()
        assert running.post(files={"file": CAT.read_bytes()}).status_code == 200
    folder = next(root.iterdir())
    assert info["derived_model"] == str(folder)
    assert [trial["engine"] for trial in info["engines_tried"]] == ["openvino"]
    ready = next(line for line in running.lines() if line["message"] == "The service is ready")
    assert ready["derived_model"] == str(folder)
    assert ready["torch_version"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.bin").write_bytes(b"\0" * 99), "model.bin does not have its checksum"),
        (lambda folder: (folder / "model.xml").unlink(), "No such file"),
        (lambda folder: (folder / "derived.json").write_text("{}"), "is not valid"),
        (lambda folder: (folder / "derived.json").write_text(""), "is not valid"),
        (
            lambda folder: (folder / "derived.json").write_text(
                (folder / "derived.json").read_text().replace('"bundle_sha256": "', '"bundle_sha256": "0')
            ),
            "another bundle",
        ),
    ],
)
def test_a_damaged_one_is_left_out_with_a_line_and_made_again(
    bundle: Path, tmp_path: Path, damage: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = asked(bundle, tmp_path)
    folder = Path(str(derive.derive(settings)["path"]))
    damage(folder)
    assert derived.find(settings) is None
    (line,) = [record.__dict__ for record in caplog.records if record.levelno == logging.WARNING]
    assert line["code"] == "derived_refused"
    assert said in line["detail"]
    # What a run left that was ended meanwhile, and what is somebody else's.
    (tmp_path / ".unfinished-0abc").mkdir()
    (tmp_path / ".snapshot" / "precious").mkdir(parents=True)
    (tmp_path / ".unfinished-link").symlink_to(tmp_path / ".snapshot")
    assert derive.derive(settings)["made"] is True
    assert derived.find(settings) is not None
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, ".snapshot", ".unfinished-link"}
    assert (tmp_path / ".snapshot" / "precious").is_dir()


def test_a_folder_that_cannot_be_looked_into_is_left_out(bundle: Path, tmp_path: Path) -> None:
    """As under a umask of 077; a name of 300 letters is refused to root, too."""
    assert derived.find(asked(bundle, tmp_path / ("x" * 300))) is None


def test_it_belongs_to_a_bundle_a_cpu_and_what_is_asked_for(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = derived.place(tmp_path, "0" * 64, asked(bundle, tmp_path))
    assert derived.place(tmp_path, "0" * 64, asked(bundle, tmp_path, max_upload_bytes=1000)) == usual
    others = {derived.place(tmp_path, "1" * 64, asked(bundle, tmp_path))}
    for options in ({"engine": "auto"}, {"precision": "auto"}, {"torch_threads": 2}, {"max_batch": 1}):
        others.add(derived.place(tmp_path, "0" * 64, asked(bundle, tmp_path, **options)))
    monkeypatch.setattr(cpus, "kind", lambda: "model name : another")
    others.add(derived.place(tmp_path, "0" * 64, asked(bundle, tmp_path)))
    assert len(others - {usual}) == 6
    assert derived.find(asked(bundle, tmp_path)) is None
    assert [record.__dict__["code"] for record in caplog.records] == ["derived_missing"]


@pytest.mark.parametrize(("seconds", "batch"), [(0.001, 4), (0.2, 1)])
def test_a_large_one_is_computed_image_by_image(
    bundle: Path, root: Path, tmp_path: Path, seconds: float, batch: int
) -> None:
    settings = asked(bundle, tmp_path)
    (made,) = root.iterdir()
    folder = Path(shutil.copytree(made, tmp_path / made.name))
    kept = json.loads((folder / derived.FILE_NAME).read_text())
    (folder / derived.FILE_NAME).write_text(json.dumps({**kept, "seconds": seconds}))
    loading = Loader(settings)
    loading.begin()
    model = loading.model.result()
    engine = model.engine
    assert isinstance(engine, OpenVinoEngine)
    assert (model.derived, engine.max_batch) == (folder, batch)
    pixels = model.decoder.decode(CAT.read_bytes()).pixels
    assert len(engine.predict([pixels] * batch)) == batch


@pytest.mark.parametrize("options", [{"device": "auto"}, {"require_gpu": True}, {"derived_path": None}])
def test_it_is_not_looked_for_where_a_gpu_may_compute_or_no_folder_is_named(
    bundle: Path, tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = asked(bundle, tmp_path).model_copy(update=options)
    assert derived.find(settings) is None
    assert caplog.records == []


def test_where_torch_was_chosen_nothing_is_tried_again(bundle: Path, tmp_path: Path) -> None:
    settings = asked(bundle, tmp_path, engine="torch")
    made = derive.derive(settings)
    assert (made["engine"], made["bytes"]) == ("torch", 0)
    loading = Loader(settings)
    loading.begin()
    model = loading.model.result()
    assert (model.engine.runtime, model.derived) == ("torch", Path(str(made["path"])))
    assert model.describe()["engine_reason"] == made["reason"]


def test_a_bundle_whose_labels_were_damaged_is_refused_with_it_too(bundle: Path, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "labels.txt").unlink()
    (copy / "labels.txt").write_text("another\n" * 7)
    with pytest.raises(BundleError) as caught:
        derived.find(asked(copy, root))
    assert caught.value.code == "checksum_mismatch"


OPENVINO = {"API_DEVICE": "cpu", "API_ENGINE": "openvino", "API_PRECISION": "fp32", "API_TORCH_THREADS": "1"}


def run(code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What `python -m app.derive` does with an environment; `code` runs in it before."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("API_")}
    command = [sys.executable, "-c", f"{code}\nimport runpy\nrunpy.run_module('app.derive', run_name='__main__')"]
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False)


def test_the_command_says_what_there_is_in_its_last_line(bundle: Path, root: Path) -> None:
    done = run(
        API_BUNDLE_PATH=str(bundle),
        API_DERIVED_PATH=str(root),
        **OPENVINO,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["made"], said["path"], said["engine"]) == (False, str(next(root.iterdir())), "openvino")
    assert said["bytes"] > 10_000


def test_one_that_is_ended_leaves_nothing_half_made(bundle: Path, tmp_path: Path) -> None:
    done = run(
        "import openvino, os, pathlib, signal\n"
        "def ended(model, path, **options):\n"
        "    pathlib.Path(path).touch()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "openvino.save_model = ended",
        API_BUNDLE_PATH=str(bundle),
        API_DERIVED_PATH=str(tmp_path),
        **OPENVINO,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error[ended]: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"API_DERIVED_PATH": "/nowhere", "API_DEVICE": "cuda"}, "no_derived_path"),
        ({"API_DEVICE": "cpu"}, "no_derived_path"),
        ({"API_DERIVED_PATH": "/nowhere", "API_DEVICE": "cpu"}, "storage"),
        ({"API_DERIVED_PATH": "/nowhere", "API_DEVICE": "tpu"}, "invalid_setting"),
    ],
)
def test_the_command_refuses_in_one_line(bundle: Path, environment: dict[str, str], code: str) -> None:
    done = run(API_BUNDLE_PATH=str(bundle), **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error[{code}]: ")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_bundle_nothing_is_derived(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        derive.derive(Settings(derived_path=tmp_path, device="cpu"))
