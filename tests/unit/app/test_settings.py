import re
from pathlib import Path

import pytest

from app import settings
from app.errors import STATUS_OF_CODE, SettingsError
from app.process import cpus
from app.settings import Settings
from tests.unit.app.support import ROOT


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return settings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, **values: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **values)
    return caught.value


def test_a_bundle_path_is_enough_and_the_rest_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch, API_BUNDLE_PATH="/app/models/a/1")
    assert (loaded.port, loaded.device, loaded.drain_seconds) == (8000, "auto", 30)
    assert loaded.max_upload_bytes == 10485760


def test_an_unknown_name_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, API_BUNDLE_PATH="/b", API_QUEU_SIZE="3")
    assert error.code == "unknown_setting"
    assert "API_QUEU_SIZE" in error.detail
    assert "API_QUEUE_SIZE" in error.detail


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, API_BUNDLE_PATH="/b", API_CHECKPOINT_PATH="", API_LOG_DIR="").checkpoint_path is None


def test_the_environment_that_is_given_is_the_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "9000")
    assert settings.load({"API_BUNDLE_PATH": "/b", "API_PORT": "9001"}).port == 9001
    assert settings.load({"API_BUNDLE_PATH": "/b"}).port == 8000


def test_the_log_level_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, API_BUNDLE_PATH="/b", API_LOG_LEVEL="DEBUG").log_level == "debug"


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        ({"API_PORT": "http"}, "invalid_setting", "API_PORT is 'http'"),
        ({"API_DEVICE": "tpu"}, "invalid_setting", "API_DEVICE"),
        ({"API_ENGINE": "onnx"}, "invalid_setting", "API_ENGINE"),
        ({"API_ENGINE": "openvino", "API_DEVICE": "cuda"}, "conflicting_settings", "API_DEVICE is cuda"),
        ({"API_CHECKPOINT_PATH": "/c", "API_MODEL_NAME": "resnet50"}, "conflicting_settings", "both set"),
        ({"API_MAX_FILES": "257"}, "conflicting_settings", "API_QUEUE_SIZE (256)"),
        ({"API_BUNDLE_PATH": ""}, "no_model", "set API_BUNDLE_PATH"),
        ({"API_BUNDLE_PATH": "", "API_CHECKPOINT_PATH": "/c"}, "no_model", "API_MODEL_NAME"),
    ],
)
def test_values_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], code: str, said: str
) -> None:
    error = refusal(monkeypatch, **{"API_BUNDLE_PATH": "/b", **values})
    assert error.code == code
    assert said in error.detail


def test_the_readme_lists_every_setting_with_its_default_and_every_error_code() -> None:
    readme = (ROOT / "app" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(API_\w+)` \| (.*?) \|", readme, re.MULTILINE))
    assert sorted(rows) == sorted(settings.variables())
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert rows[f"API_{name.upper()}"] == ("" if default is None else f"`{default}`")
    for code, status in STATUS_OF_CODE.items():
        assert f"| {status} | `{code}` |" in readme


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_quota_limits_the_threads(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert cpus.available(tmp_path) == (expected or cpus.available(tmp_path / "none"))
