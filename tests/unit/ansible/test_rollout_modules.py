"""The rollout's modules against real files, real HTTP and a real HAProxy admin socket."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError

from ansible_collections.gpu_hosts.timm.app.engines.agreement import Ranking, disagreement
from ansible_collections.gpu_hosts.timm.plugins.action.bundle_info import UnreadableError, read_bundle
from ansible_collections.gpu_hosts.timm.plugins.filter.next_step import next_step
from ansible_collections.gpu_hosts.timm.plugins.filter.release_table import release_table
from ansible_collections.gpu_hosts.timm.plugins.lookup.tree_digest import tree_digest
from ansible_collections.gpu_hosts.timm.plugins.module_utils.acceptance import check_device, check_samples
from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import NOTE, bake, mend, pending, switch
from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import Instance
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import MAP_PATH
from ansible_collections.gpu_hosts.timm.plugins.module_utils.golden import GoldenError, Sample, compare, load
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import (
    GatewayError,
    is_drained,
    live_color,
    read_map_file,
    servers_down,
    set_drained,
    wait_until_idle,
    wait_until_serving,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.http_client import UnreachableError, request
from ansible_collections.gpu_hosts.timm.plugins.module_utils.instance_end import describe_end, parse_ends
from ansible_collections.gpu_hosts.timm.plugins.module_utils.places import instances_of
from ansible_collections.gpu_hosts.timm.plugins.modules import release_prepare
from ansible_collections.gpu_hosts.timm.plugins.modules.instance_ready import own_words
from ansible_collections.gpu_hosts.timm.plugins.modules.release_info import read_gateway
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import Answer
from tests.unit.ansible.instance import Answers, serving

TOP = [
    {"class_id": 3, "class_name": "Bengal", "probability": 0.6},
    {"class_id": 1, "class_name": "Abyssinian", "probability": 0.3},
]


def answered(*pairs: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"class_id": class_id, "class_name": f"c{class_id}", "confidence": value} for class_id, value in pairs]


def rankings() -> Iterator[Ranking]:
    """Three of four classes, the first two of them among the best."""
    for shares in itertools.product((0.5, 0.45), (0.4, 0.47), (0.02, 0.05, 0.1), (0.0, 0.03, 0.12)):
        best = sorted(range(4), key=lambda class_id: -shares[class_id])[:3]
        yield Ranking(best, [shares[class_id] for class_id in best])


class TestGolden:
    sample = Sample(path=Path("cat.jpg"), top=TOP)

    def test_the_same_answer_is_accepted(self) -> None:
        assert compare(self.sample, answered((3, 0.605), (1, 0.295)), 0.01) == []

    def test_another_first_class_is_named_with_both_values(self) -> None:
        problems = compare(self.sample, answered((1, 0.6), (3, 0.59)), 0.5)
        assert problems == ["cat.jpg: expected Bengal (0.6000), got c1 (0.6000)"]

    def test_a_probability_beyond_the_tolerance_is_named(self) -> None:
        problems = compare(self.sample, answered((3, 0.63), (1, 0.3)), 0.01)
        assert problems == ["cat.jpg: Bengal expected 0.6000, got 0.6300 (tolerance 0.01)"]

    def test_a_class_that_fell_out_of_the_answer_is_a_difference(self) -> None:
        assert len(compare(self.sample, answered((3, 0.6), (2, 0.01)), 0.01)) == 1

    def test_a_class_that_fell_out_within_the_tolerance_is_none(self) -> None:
        close = Sample(path=Path("cat.jpg"), top=[TOP[0], {**TOP[1], "probability": 0.012}])
        assert compare(close, answered((3, 0.6), (2, 0.011)), 0.01) == []

    def test_a_release_is_accepted_as_the_start_of_the_service_chose_its_engine(self) -> None:
        judged: Counter[bool] = Counter()
        for expected, actual, tolerance in itertools.product(rankings(), rankings(), (0.035, 0.055)):
            top = [
                {"class_id": class_id, "class_name": f"c{class_id}", "probability": probability}
                for class_id, probability in zip(*expected, strict=True)
            ]
            accepted = not compare(Sample(Path("cat.jpg"), top), answered(*zip(*actual, strict=True)), tolerance)
            assert accepted == (disagreement([expected], [actual]) <= tolerance), (expected, actual, tolerance)
            judged[accepted] += 1
        assert min(judged.values()) > 100

    def test_an_empty_answer_is_a_difference(self) -> None:
        assert compare(self.sample, [], 1.0) == ["cat.jpg: the answer has no predictions"]

    @pytest.mark.parametrize(
        "content", ["", "[]", '{"samples": [], "tolerance": 0.1}', '{"samples": [{}], "tolerance": 1}']
    )
    def test_an_unreadable_file_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "golden").mkdir()
        (tmp_path / "golden" / "golden.json").write_text(content)
        with pytest.raises(GoldenError, match=r"golden\.json"):
            load(tmp_path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A directory with a manifest and the files that it lists."""
    contents = {
        "model.safetensors": b"weights",
        "labels.txt": b"Bengal\n",
        "golden/golden.json": b"{}",
        "golden/a.jpg": b"j",
    }
    entries = {}
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        entries[name] = {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest = {
        "name": "cats",
        "version": "2",
        "source": {"checkpoint": "best.pth", "sha256": "5" * 64},
        "weights": entries["model.safetensors"],
        "labels": entries["labels.txt"],
        "golden": entries["golden/golden.json"],
        "golden_samples": [entries["golden/a.jpg"]],
    }
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    return tmp_path


def shell(script: str, arguments: list[str]) -> Answer:
    """Run a script as the action does, without a connection between."""
    done = subprocess.run(["sh", "-c", script, "sh", *arguments], capture_output=True, text=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


class TestBundleFacts:
    def test_a_complete_bundle_has_an_identity_and_no_problems(self, bundle: Path) -> None:
        facts = read_bundle(shell, str(bundle))
        assert facts["sha256"] == hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
        assert facts["source_sha256"] == "5" * 64
        assert (facts["exists"], facts["name"], facts["version"], facts["problems"]) == (True, "cats", "2", [])

    def test_a_flipped_byte_names_the_file(self, bundle: Path) -> None:
        (bundle / "model.safetensors").write_bytes(b"weightz")
        [problem] = read_bundle(shell, str(bundle))["problems"]
        assert "model.safetensors differs" in problem

    def test_a_truncated_file_is_told_by_its_size(self, bundle: Path) -> None:
        (bundle / "model.safetensors").write_bytes(b"weight")
        [problem] = read_bundle(shell, str(bundle))["problems"]
        assert "has 6 bytes, its manifest says 7" in problem

    def test_a_missing_file_is_named_and_the_others_are_still_read(self, bundle: Path) -> None:
        (bundle / "labels.txt").unlink()
        (bundle / "golden" / "a.jpg").write_bytes(b"k")
        missing, differs = read_bundle(shell, str(bundle))["problems"]
        assert missing.endswith("labels.txt is missing")
        assert "golden/a.jpg differs" in differs

    def test_a_strange_name_is_read_as_it_is(self, bundle: Path) -> None:
        manifest = json.loads((bundle / "bundle.json").read_text())
        strange = {**manifest["golden_samples"][0], "file": "golden/it's\n$(touch x) \\ -n.jpg"}
        (bundle / strange["file"]).write_bytes(b"j")
        (bundle / "bundle.json").write_text(json.dumps({**manifest, "golden_samples": [strange]}))
        assert read_bundle(shell, str(bundle))["problems"] == []
        assert not (bundle / "x").exists()

    @pytest.mark.parametrize("content", ["", "{}", "[1]", '{"weights": 3}', "\ud83d"])
    def test_a_broken_manifest_is_a_problem_not_a_traceback(self, bundle: Path, content: str) -> None:
        (bundle / "bundle.json").write_text(content, errors="replace")
        facts = read_bundle(shell, str(bundle))
        assert (facts["exists"], facts["name"]) == (True, "")
        [problem] = facts["problems"]
        assert "is not a bundle manifest" in problem

    def test_no_bundle_is_said(self, tmp_path: Path) -> None:
        facts = read_bundle(shell, str(tmp_path))
        assert (facts["exists"], facts["sha256"]) == (False, "")

    def test_what_cannot_be_read_fails_with_the_host_s_own_words(self, bundle: Path) -> None:
        def broken(script: str, arguments: list[str]) -> Answer:
            return shell(script.replace("sha256sum", "sha256sum /nowhere"), arguments)

        with pytest.raises(UnreadableError, match="/nowhere"):
            read_bundle(broken, str(bundle))


@pytest.fixture
def service() -> Iterator[tuple[str, Answers]]:
    """A real HTTP server and the answers that it gives."""
    answers: Answers = {
        "/api/v1/model/info": (200, {"device": "cpu"}),
        "/api/v1/predict": (200, {"top_5_predictions": answered((3, 0.6), (1, 0.3))}),
    }
    with serving(answers) as port:
        yield f"http://127.0.0.1:{port}", answers


class TestAcceptance:
    def check(self, url: str, folder: Path, **params: Any) -> list[str]:
        (folder / "golden").mkdir(exist_ok=True)
        (folder / "golden" / "cat.jpg").write_bytes(b"jpeg")
        golden = {"tolerance": 0.01, "samples": [{"file": "golden/cat.jpg", "top": TOP}]}
        (folder / "golden" / "golden.json").write_text(json.dumps(golden))
        entries = check_samples(url, load(folder), **{"release_id": "aaaaaaaaaaaa", **params})
        return [problem for entry in entries for problem in entry["problems"]]

    def test_the_right_answer_of_the_right_release_is_accepted(self, service: Any, tmp_path: Path) -> None:
        assert self.check(service[0], tmp_path) == []

    def test_an_answer_of_another_release_is_refused(self, service: Any, tmp_path: Path) -> None:
        problems = self.check(service[0], tmp_path, release_id="bbbbbbbbbbbb")
        assert problems == ["release aaaaaaaaaaaa answered, expected bbbbbbbbbbbb"]

    def test_a_wrong_answer_is_refused(self, service: Any, tmp_path: Path) -> None:
        service[1]["/api/v1/predict"] = (200, {"top_5_predictions": answered((7, 0.9), (3, 0.1))})
        assert "expected Bengal" in self.check(service[0], tmp_path)[0]

    def test_an_error_status_is_refused_with_its_text(self, service: Any, tmp_path: Path) -> None:
        service[1]["/api/v1/predict"] = (500, {"detail": "out of luck"})
        [problem] = self.check(service[0], tmp_path)
        assert "status 500" in problem
        assert "out of luck" in problem

    def test_an_answer_over_the_budget_is_refused(self, service: Any, tmp_path: Path) -> None:
        [problem] = self.check(service[0], tmp_path, budget=0.0)
        assert "the budget is 0 ms" in problem

    def test_nobody_answering_is_a_problem_not_a_traceback(self, tmp_path: Path) -> None:
        [problem] = self.check("http://127.0.0.1:9", tmp_path)
        assert "no answer" in problem

    def test_the_wrong_device_is_refused(self, service: Any) -> None:
        assert check_device(service[0], "cpu", 5) == ("cpu", "")
        assert check_device(service[0], "cuda", 5)[1] == "it runs on cpu, expected cuda"

    def test_a_server_that_hangs_up_is_unreachable(self) -> None:
        class HangUp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(1024)

        with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
            threading.Thread(target=server.handle_request, daemon=True).start()
            with pytest.raises(UnreachableError):
                request(f"http://127.0.0.1:{server.server_address[1]}/", timeout=2)


class TestPrepare:
    @staticmethod
    def files(note: str) -> dict[str, str]:
        release = {
            "release_id": "aaaaaaaaaaaa",
            "bundle": {"sha256": "b" * 64},
            "image": {"id": "sha256:a"},
            "settings": {"compose_files": ["docker-compose.yml"]},
        }
        return {"release.json": json.dumps(release), "docker-compose.yml": note, "release.env": "", "service.env": note}

    def test_a_release_is_written_once_and_never_again(self, tmp_path: Path) -> None:
        folder = tmp_path / "releases" / "aaaaaaaaaaaa"
        assert release_prepare.write_release(folder, self.files("first")) is True
        assert release_prepare.write_release(folder, self.files("other")) is False
        assert (folder / "service.env").read_text() == "first"
        assert [entry.name for entry in folder.parent.iterdir()] == ["aaaaaaaaaaaa"]

    @pytest.mark.parametrize("name", ["release.json", "docker-compose.yml", "service.env"])
    def test_a_release_that_was_damaged_is_written_again(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "aaaaaaaaaaaa"
        release_prepare.write_release(folder, self.files("first"))
        (folder / name).write_text("")
        # Going back brings no files with it.
        assert release_prepare.write_release(folder, {}) is False
        assert release_prepare.write_release(folder, self.files("first")) is True
        assert (folder / name).read_text() == self.files("first")[name]

    def test_what_a_killed_run_left_half_written_goes(self, tmp_path: Path) -> None:
        (tmp_path / ".bbbbbbbbbbbb.x1" / "part").mkdir(parents=True)
        release_prepare.write_release(tmp_path / "aaaaaaaaaaaa", {"release.json": "{}"})
        assert [entry.name for entry in tmp_path.iterdir()] == ["aaaaaaaaaaaa"]

    def test_instances_change_only_when_their_content_does(self, tmp_path: Path) -> None:
        [first] = instances_of("svc", tmp_path, "blue", [{"index": "0", "gpu": "nvidia.com/gpu=0", "driver": "cdi"}])
        [moved] = instances_of("svc", tmp_path, "blue", [{"index": "0", "gpu": "nvidia.com/gpu=1", "driver": "cdi"}])
        assert [release_prepare.write_instances([item]) for item in (first, first, moved)] == [True, False, True]
        said = (tmp_path / "instances" / "blue-0.env").read_text().splitlines()
        # Under both names, so that releases from before 1.0.0 can be gone back to.
        assert {"RELEASE_COLOR=blue", "RELEASE_COLOUR=blue", "GPU_DEVICE_ID=nvidia.com/gpu=1"} <= {*said}


class AdminSocket(socketserver.StreamRequestHandler):
    """Speaks HAProxy's runtime protocol with recorded answers, one command a connection."""

    answers: dict[str, str]

    def handle(self) -> None:
        self.wfile.write(self.answers.get(self.rfile.readline().decode().strip(), "Unknown command.\n").encode())


STAT = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,
bk_blue,0,0,0,0,1,,10,UP,
bk_blue,1,0,0,0,1,,10,MAINT (resolution),
bk_blue,BACKEND,0,0,2,1,,20,UP,
bk_green,BACKEND,0,0,0,0,,0,DOWN,

"""


@contextlib.contextmanager
def answering(path: Path, answers: dict[str, str]) -> Iterator[Path]:
    """Answer on the socket as HAProxy 3.0 does."""
    handler = type("Handler", (AdminSocket,), {"answers": answers})
    with socketserver.ThreadingUnixStreamServer(str(path), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()


@pytest.fixture
def admin_socket(tmp_path: Path) -> Iterator[Path]:
    """Answer for a gateway with green live."""
    answers = {
        f"show map {MAP_PATH}": "0x55d live green\n\n",
        f"add map {MAP_PATH} drained yes": "\n",
        "show stat": STAT,
    }
    with answering(tmp_path / "admin.sock", answers) as path:
        yield path


@pytest.fixture
def drained_socket(tmp_path: Path) -> Iterator[Path]:
    """Answer for a drained gateway with blue live."""
    answers = {f"show map {MAP_PATH}": "0x55d live blue\n0x55e drained yes\n\n", "show stat": STAT}
    with answering(tmp_path / "drained.sock", answers) as path:
        yield path


class TestGateway:
    def test_the_live_color_is_read_from_the_running_map(self, admin_socket: Path) -> None:
        assert live_color(admin_socket) == "green"

    def test_a_map_without_the_entry_is_an_error(self, tmp_path: Path) -> None:
        with (
            answering(tmp_path / "admin.sock", {f"show map {MAP_PATH}": "\n"}) as path,
            pytest.raises(GatewayError, match="no entry"),
        ):
            live_color(path)

    @pytest.mark.parametrize(("answer", "word"), [("0x55d live green\n\n", "green"), ("\n", "none")])
    def test_a_map_that_was_cleared_sends_requests_to_nobody(self, tmp_path: Path, answer: str, word: str) -> None:
        (tmp_path / "gateway" / "run").mkdir(parents=True)
        with answering(tmp_path / "gateway" / "run" / "admin.sock", {f"show map {MAP_PATH}": answer}):
            assert read_gateway("cats", tmp_path).serving == word

    def test_servers_that_are_not_up_are_named_with_their_state(self, admin_socket: Path) -> None:
        down = servers_down(admin_socket, "bk_blue", {"0", "1", "2"})
        assert down == {"1": "MAINT (resolution)", "2": "unknown to the gateway"}

    def test_requests_under_way_are_counted_when_the_time_is_over(self, admin_socket: Path) -> None:
        assert wait_until_idle(admin_socket, "bk_blue", seconds=0.1) == 2
        assert wait_until_idle(admin_socket, "bk_green", seconds=0.1) == 0

    def test_a_switch_says_how_long_it_kept_requests_waiting(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "conf").mkdir()
        live_map = tmp_path / "conf" / "live.map"
        live_map.write_text("live hold-green\n")
        # The run that let them wait may have died since; the file's time is from then.
        os.utime(live_map, (time.time() - 12, time.time() - 12))
        answers = {f"show map {MAP_PATH}": "0x55d live hold-green\n\n", f"set map {MAP_PATH} live blue": "\n"}
        with answering(tmp_path / "run" / "admin.sock", answers):
            done = switch(tmp_path, "blue", bake=False)
        assert (done.previous, done.changed) == ("hold-green", True)
        assert done.held == pytest.approx(12, abs=2)
        assert live_map.read_text() == "live blue\n"

    @pytest.mark.parametrize("when", ["before it is read", "while it is watched"])
    def test_a_bake_that_another_process_ends_is_no_error(self, tmp_path: Path, when: str) -> None:
        (tmp_path / "run").mkdir()
        counters = {"requests": 0, "errors": 0, "milliseconds": 0}
        note = {"from": "green", "to": "blue", "at": time.time(), "before": counters, "former": counters}
        if when == "while it is watched":
            (tmp_path / NOTE).write_text(json.dumps(note))
        else:
            # What was there when its name was looked for is gone when it is opened.
            (tmp_path / NOTE).symlink_to(tmp_path / "gone")

        def end_it(*_: object) -> None:
            (tmp_path / NOTE).unlink(missing_ok=True)

        with answering(tmp_path / "run" / "admin.sock", {"show stat": STAT}):
            other = threading.Timer(0.2, end_it)
            other.start()
            outcome = bake(tmp_path, "blue", ["0"], seconds=1)
            other.join()
        assert outcome.reason == ""
        assert not (tmp_path / NOTE).exists()

    @pytest.mark.parametrize("content", ["", "live purple\nlive\n", "live green\n", None])
    def test_a_map_file_that_was_damaged_gets_the_word_of_the_running_gateway(
        self, tmp_path: Path, content: str | None
    ) -> None:
        live_map = tmp_path / "conf" / "live.map"
        if content is not None:
            live_map.parent.mkdir()
            live_map.write_text(content)
        note = tmp_path / "switch.json"
        note.write_text("{}")
        (tmp_path / "run").mkdir()
        with answering(tmp_path / "run" / "admin.sock", {f"show map {MAP_PATH}": "0x55d live blue\n\n"}):
            assert mend(tmp_path, "blue", write=False) is True
            done = switch(tmp_path, "blue", bake=False)
            assert mend(tmp_path, "blue") is False
        assert (done.previous, done.changed, live_map.read_text()) == ("blue", True, "live blue\n")
        # Whether the release has proved itself is another question.
        assert note.exists()

    def test_a_gateway_that_forgot_where_requests_go_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        answers = {f"show map {MAP_PATH}": "\n", f"add map {MAP_PATH} live blue": "\n"}
        with answering(tmp_path / "run" / "admin.sock", answers):
            assert mend(tmp_path, "blue") is True
        assert (tmp_path / "conf" / "live.map").read_text() == "live blue\n"

    def test_a_map_that_is_a_folder_is_mended_before_a_gateway_runs(self, tmp_path: Path) -> None:
        (tmp_path / "conf" / "live.map").mkdir(parents=True)
        assert mend(tmp_path, "none") is True
        assert (tmp_path / "conf" / "live.map").read_text() == "live none\n"

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"to": "blue"}', '{"to": "blue", "from": "green", "at": 1}'])
    def test_a_note_that_was_damaged_says_nothing(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "switch.json").write_text(content)
        assert pending(tmp_path, "blue") == {}

    def test_a_drained_gateway_says_so(self, admin_socket: Path, drained_socket: Path) -> None:
        assert is_drained(drained_socket)
        assert not is_drained(admin_socket)
        set_drained(admin_socket, True)
        with pytest.raises(GatewayError, match=r"serve again: Unknown command"):
            set_drained(admin_socket, False)

    def test_a_color_serves_with_one_instance_that_is_up(
        self, admin_socket: Path, drained_socket: Path, tmp_path: Path
    ) -> None:
        assert wait_until_serving(drained_socket, seconds=0) == ""
        assert wait_until_serving(admin_socket, seconds=0.1) == "green is live"
        assert "nothing.sock" in wait_until_serving(tmp_path / "nothing.sock", seconds=0.1)

    def test_nobody_on_the_socket_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        with pytest.raises(GatewayError, match=r"admin\.sock"):
            live_color(tmp_path / "admin.sock")

    @pytest.mark.parametrize(("content", "color"), [("live blue\n", "blue"), ("", ""), ("other blue\n", "")])
    def test_the_map_file(self, tmp_path: Path, content: str, color: str) -> None:
        path = tmp_path / "live.map"
        assert read_map_file(path) == ""
        path.write_text(content)
        assert read_map_file(path) == color


class TestWords:
    def test_the_services_own_last_error_is_found_between_other_lines(self) -> None:
        lines = ['{"level":"info","detail":"x"}', '{"level":"error","detail":"no weights"}', "Traceback", "{broken"]
        assert own_words(lines) == "no weights"

    def test_no_error_is_nothing(self) -> None:
        assert own_words(["plain", '"text"', "[]"]) == ""


class TestTreeDigest:
    def test_follows_names_contents_and_modes_only(self, tmp_path: Path) -> None:
        (tmp_path / "app" / "__pycache__").mkdir(parents=True)
        (tmp_path / "Dockerfile").write_text("FROM x")
        (tmp_path / "app" / "main.py").write_text("a = 1")
        before = tree_digest(tmp_path, ["app", "Dockerfile"])
        (tmp_path / "app" / "__pycache__" / "main.pyc").write_bytes(b"1")
        (tmp_path / "app" / "main.py").touch()
        assert tree_digest(tmp_path, ["Dockerfile", "app"]) == before
        (tmp_path / "app" / "main.py").rename(tmp_path / "app" / "other.py")
        renamed = tree_digest(tmp_path, ["app", "Dockerfile"])
        (tmp_path / "app" / "other.py").chmod(0o755)
        executable = tree_digest(tmp_path, ["app", "Dockerfile"])
        assert len({before, renamed, executable}) == 3

    def test_a_missing_source_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(AnsibleLookupError, match="Dockerfile"):
            tree_digest(tmp_path, ["Dockerfile"])


class TestTable:
    def test_marks_what_serves_and_shows_the_newest_first(self) -> None:
        bundle = {"name": "cats", "version": "1"}
        common = {
            "action": "deploy",
            "result": "ok",
            "finished": "2026-01-01T00:00:00Z",
            "seconds": 4.2,
            "bundle": bundle,
        }
        facts = {
            "live": {"release": {"release_id": "bbb"}, "color": "green"},
            "gateway": {"serving": "green"},
            "instances": [{"name": "svc-green-0-api-1", "color": "green", "state": "running", "health": "healthy"}],
            "records": [
                {**common, "release_id": "aaa", "image": {"tag": "svc:cpu-1"}},
                {**common, "release_id": "bbb", "image": {"tag": "svc:cpu-2"}, "action": "rollback"},
            ],
            "kept": ["bbb"],
            "missing": ["the container of keeper is missing"],
            "unreadable": ["/x/records/0003.json holds no JSON object"],
        }
        headline, missing, _titles, newest, oldest, unread = release_table(facts, "gpu-1")
        assert headline == "gpu-1: release bbb is live on green: svc-green-0-api-1 running (healthy)"
        assert newest.split() == [
            "*",
            "bbb",
            "cats",
            "1",
            "cpu-2",
            "ok",
            "(rollback)",
            "2026-01-01T00:00:00Z",
            "4",
            "s",
        ]
        assert oldest.split()[0] == "aaa"
        assert "ok, no longer kept" in oldest
        assert missing == "Damaged: the container of keeper is missing. The next deploy repairs it."
        assert unread == "Not read: /x/records/0003.json holds no JSON object."

    def test_an_empty_host_says_so(self) -> None:
        facts = {"live": {"release": {}, "color": "none"}, "gateway": {"serving": ""}, "instances": []}
        facts |= {"records": [], "kept": [], "missing": [], "unreadable": []}
        headline, step, *_ = release_table(facts, "gpu-1")
        assert headline == "gpu-1: nothing is live; the gateway does not say where requests go"
        assert step == "The next deploy starts the release of its inventory."

    def test_what_is_down_is_not_called_live(self) -> None:
        instance = {"name": "svc-green-0-api-1", "color": "green", "state": "exited", "health": "none"}
        facts = {"live": {"release": {"release_id": "bbb"}, "color": "green"}, "gateway": {"serving": "green"}}
        facts |= {"instances": [instance], "records": [], "kept": [], "missing": [], "unreadable": []}
        headline = release_table(facts, "gpu-1")[0]
        assert headline == "gpu-1: release bbb is down on green: svc-green-0-api-1 exited (none)"


class TestEnds:
    restarted = Instance("1", "api", "p", "r", "blue", "0", "A", "sha256:1", "running", "starting", 0, 2, "172.18.0.2")

    def test_a_restarted_container_is_described_by_its_last_end_not_by_its_present_code(self) -> None:
        code, out_of_memory = parse_ends(["die 1", "die 3"])
        said = describe_end(self.restarted, code, out_of_memory)
        assert said == "it keeps crashing (restarted 2 times, last exit code 3)"

    def test_running_out_of_memory_names_the_variable(self) -> None:
        said = describe_end(self.restarted, *parse_ends(["oom ", "die 137"]))
        assert "last exit code 137: it needs more memory than inference_service_memory allows" in said

    def test_a_container_that_ended_once_keeps_its_own_code(self) -> None:
        once = dataclasses.replace(self.restarted, restarts=0, state="exited", exit_code=70)
        assert describe_end(once, *parse_ends([])) == "it exited with code 70"


class TestNextStep:
    @pytest.mark.parametrize(
        ("failure", "variable"),
        [
            ("Bind for 127.0.0.1:8000 failed: port is already allocated", "inference_service_port"),
            ("listen tcp4 127.0.0.1:8000: bind: address already in use", "inference_service_port"),
            ("it needs more memory\nthan inference_service_memory allows", "higher inference_service_memory"),
            ("cat.jpg: 900 ms, the budget is 500 ms", "inference_service_latency_budget_ms"),
            ("OutOfMemoryError: CUDA out of memory. Tried to", "inference_service_strategy=recreate"),
            ("[Errno 28] No space left on device", "df -h"),
            ('Conflict. The container name "/svc-keeper" is already in use by container "4bd5".', "restart docker"),
            ("no answer from http://127.0.0.1:8000/api/v1/predict: timed out", "systemctl restart docker"),
            ('status 503: {"detail":"No instance of the service is ready. Try again', "systemctl restart docker"),
            ("The gateway does not reach the candidate: L4TOUT", "listen on 127.0.0.1 only"),
            ("something new", "docs/TROUBLESHOOTING.md"),
        ],
    )
    def test_the_step_names_what_helps(self, failure: str, variable: str) -> None:
        assert variable in next_step(failure)
