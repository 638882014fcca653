"""What a run decides to do, and which release is the one before."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import Instance, parse_instance
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import (
    Gateway,
    ReleaseError,
    choose_strategy,
    kept_releases,
    make_plan,
    previous_release,
    prune_records,
    read_records,
    read_release,
    release_id,
    releases_to_keep,
    write_atomically,
    write_record,
)

REPOSITORY = Path(__file__).resolve().parents[3]
A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


def instance(release: str, color: str, index: str = "0", state: str = "running", health: str = "healthy") -> Instance:
    return Instance(
        id="0" * 12,
        name=f"svc-{color}-{index}-api-1",
        project=f"svc-{color}-{index}",
        release=release,
        color=color,
        index=index,
        bundle_version="1",
        image_id="sha256:1",
        state=state,
        health=health,
        exit_code=0,
        restarts=0,
        address="172.18.0.2",
    )


def record(release: str, previous: str = "", result: str = "ok", action: str = "deploy") -> dict[str, Any]:
    return {"release_id": release, "previous": previous, "result": result, "action": action}


def serving(color: str) -> Gateway:
    return Gateway(serving=color, configured=color)


class TestReleaseId:
    def test_depends_on_image_bundle_and_settings_and_on_nothing_else(self) -> None:
        settings = {"cpus": "2.0", "env": {"API_A": "1", "API_B": "2"}}
        reordered = {"env": {"API_B": "2", "API_A": "1"}, "cpus": "2.0"}
        identity = release_id("sha256:1", "f" * 64, settings)
        assert identity == release_id("sha256:1", "f" * 64, reordered)
        others = {
            release_id("sha256:2", "f" * 64, settings),
            release_id("sha256:1", "e" * 64, settings),
            release_id("sha256:1", "f" * 64, {**settings, "cpus": "1.0"}),
        }
        assert len(others | {identity}) == 4
        assert len(identity) == 12


class TestPlan:
    def test_first_deploy_goes_to_blue(self) -> None:
        plan = make_plan(A, ["0"], [], Gateway(serving="", configured="none"))
        assert (plan.rollout, plan.first, plan.color, plan.leftovers) == (True, True, "blue", [])

    def test_the_same_release_live_and_healthy_is_nothing_to_do(self) -> None:
        plan = make_plan(A, ["0"], [instance(A, "green")], serving("green"))
        assert (plan.rollout, plan.color, plan.live_release) == (False, "green", A)

    def test_another_release_goes_to_the_idle_color(self) -> None:
        plan = make_plan(B, ["0"], [instance(A, "green")], serving("green"))
        assert (plan.rollout, plan.first, plan.color, plan.live_release) == (True, False, "blue", A)

    @pytest.mark.parametrize(
        ("state", "health"), [("exited", "none"), ("running", "unhealthy"), ("running", "starting"), ("restarting", "")]
    )
    def test_the_same_release_but_unhealthy_is_rolled_out_again(self, state: str, health: str) -> None:
        plan = make_plan(A, ["0"], [instance(A, "blue", state=state, health=health)], serving("blue"))
        assert plan.rollout
        assert plan.color == "green"
        assert "not healthy" in plan.reason

    def test_another_number_of_instances_is_rolled_out(self) -> None:
        plan = make_plan(A, ["0", "1"], [instance(A, "blue")], serving("blue"))
        assert plan.rollout

    def test_what_an_interrupted_run_left_on_the_idle_color_is_found(self) -> None:
        plan = make_plan(A, ["0"], [instance(A, "blue"), instance(B, "green")], serving("blue"))
        assert not plan.rollout
        assert plan.leftovers == ["svc-green-0"]

    def test_a_run_that_died_after_the_switch_is_complete_but_for_the_old_color(self) -> None:
        plan = make_plan(B, ["0"], [instance(A, "blue"), instance(B, "green")], serving("green"))
        assert (plan.rollout, plan.live_release, plan.leftovers) == (False, B, ["svc-blue-0"])

    def test_what_the_running_gateway_does_counts_more_than_what_its_file_says(self) -> None:
        gateway = Gateway(serving="blue", configured="green")
        plan = make_plan(B, ["0"], [instance(A, "blue"), instance(B, "green")], gateway)
        assert (plan.live_release, plan.color) == (A, "green")

    def test_a_gateway_that_is_down_will_serve_what_its_file_says(self) -> None:
        plan = make_plan(A, ["0"], [instance(A, "green")], Gateway(serving="", configured="green"))
        assert (plan.rollout, plan.color) == (False, "green")

    def test_a_run_that_died_while_it_replaced_the_instance_is_taken_up(self) -> None:
        held = Gateway(serving="hold-blue", configured="hold-blue")
        stopped = make_plan(B, ["0"], [instance(A, "blue", state="exited")], held)
        assert (stopped.rollout, stopped.first, stopped.live_color, stopped.color) == (True, False, "blue", "green")
        still_there = make_plan(A, ["0"], [instance(A, "blue")], held)
        assert still_there.rollout
        assert "waiting" in still_there.reason


class TestLostWord:
    """The gateway's map was emptied, garbled or removed, or says something else than its memory."""

    @pytest.mark.parametrize("words", [("", ""), ("none", ""), ("", "none"), ("", "green")])
    def test_a_good_release_that_runs_is_live_whatever_the_map_says(self, words: tuple[str, str]) -> None:
        gateway = Gateway(*words)
        plan = make_plan(A, ["0"], [instance(A, "blue")], gateway, [A])
        assert (plan.rollout, plan.live_color, plan.gateway_word, plan.leftovers) == (False, "blue", "blue", [])
        assert plan.astray
        other = make_plan(B, ["0"], [instance(A, "blue")], gateway, [A])
        assert (other.first, other.color, other.live_release, other.leftovers) == (False, "green", A, [])

    def test_of_two_good_releases_the_newer_one_is_live(self) -> None:
        both = [instance(B, "blue"), instance(A, "green")]
        assert make_plan(B, ["0"], both, Gateway("", ""), [A, B]).live_color == "blue"
        assert make_plan(B, ["0"], both, Gateway("", ""), [B, A]).live_color == "green"

    def test_without_records_what_is_healthy_is_live_only_where_the_word_is_lost(self) -> None:
        assert make_plan(A, ["0"], [instance(A, "green")], Gateway("", "")).live_color == "green"
        # A first deploy that died before its switch: nobody has proved this one.
        assert make_plan(A, ["0"], [instance(A, "green")], Gateway("none", "none")).first

    def test_a_color_whose_containers_are_gone_gives_way_to_a_good_one_that_runs(self) -> None:
        plan = make_plan(B, ["0"], [instance(A, "green")], serving("blue"), [A, B])
        assert (plan.first, plan.live_color, plan.color, plan.gateway_word) == (False, "green", "blue", "green")
        assert plan.astray == "the gateway sends requests to blue instead of green"

    @pytest.mark.parametrize(
        ("gateway", "astray"),
        [
            (Gateway("blue", "green"), "the gateway's map file names green instead of blue"),
            (Gateway("blue", ""), "the gateway's map file names nobody instead of blue"),
            (Gateway("", "blue"), ""),
            (Gateway("blue", "blue"), ""),
        ],
    )
    def test_memory_and_file_that_disagree_are_a_difference(self, gateway: Gateway, astray: str) -> None:
        assert make_plan(A, ["0"], [instance(A, "blue")], gateway, [A]).astray == astray

    def test_a_release_on_a_network_that_is_gone_is_started_anew(self) -> None:
        live = instance(A, "blue")
        plan = make_plan(A, ["0"], [live], serving("blue"), [A], [live.name])
        assert (plan.rollout, plan.color, plan.first) == (True, "green", False)
        assert "network" in plan.reason

    def test_requests_that_are_held_stay_held_until_the_run_goes_on(self) -> None:
        held = Gateway(serving="hold-blue", configured="")
        plan = make_plan(B, ["0"], [instance(A, "blue", state="exited")], held, [A])
        assert (plan.gateway_word, plan.live_color, plan.first) == ("hold-blue", "blue", False)


class TestStrategy:
    @pytest.mark.parametrize(
        ("asked", "held", "roomy", "chosen"),
        [
            ("auto", False, True, "blue_green"),
            ("auto", False, False, "recreate"),
            ("blue_green", False, False, "blue_green"),
            ("recreate", False, True, "recreate"),
            ("blue_green", True, True, "recreate"),
        ],
    )
    def test_two_copies_where_they_fit(self, asked: str, held: bool, roomy: bool, chosen: str) -> None:
        assert choose_strategy(asked, held, roomy) == chosen


ALL = (A, B, C)


class TestPrevious:
    def test_is_the_release_that_the_live_one_replaced(self) -> None:
        assert previous_release([record(A), record(B, previous=A)], B, ALL) == A

    def test_a_failed_release_was_never_the_one_before(self) -> None:
        records = [record(A), record(B, previous=A, result="failed"), record(C, previous=A)]
        assert previous_release(records, C, ALL) == A

    def test_going_back_twice_goes_further_back_not_forth(self) -> None:
        records = [record(A), record(B, previous=A), record(C, previous=B), record(B, previous=C, action="rollback")]
        assert previous_release(records, B, ALL) == A
        records.append(record(A, previous=B, action="rollback"))
        with pytest.raises(ReleaseError, match=f"none that is kept was good before {A}"):
            previous_release(records, A, ALL)

    @pytest.mark.parametrize("before", ["", B])
    def test_a_release_that_was_deployed_again_still_has_the_one_before(self, before: str) -> None:
        """It had been stopped or removed: then nothing was live before, or it was itself."""
        records = [record(A), record(B, previous=A), record(B, previous=before)]
        assert previous_release(records, B, ALL) == A
        assert releases_to_keep([*records, record(C, previous=B), record(C)], C, keep=2, kept=ALL) == [C, B]

    def test_with_nothing_live_it_is_the_last_good_one(self) -> None:
        assert previous_release([record(A), record(B, previous=A), record(C, result="failed")], "", ALL) == B

    def test_a_release_that_is_no_longer_kept_is_passed_over(self) -> None:
        records = [record(A), record(B, previous=A), record(C, previous=B)]
        assert previous_release(records, C, [A, C]) == A

    def test_a_release_whose_own_record_was_lost_is_known_from_the_one_that_replaced_it(self) -> None:
        assert previous_release([record(A), record(C, previous=B)], C, ALL) == B

    def test_a_live_release_without_a_record_goes_back_to_the_last_one_with_one(self) -> None:
        assert previous_release([record(A)], B, ALL) == A

    def test_none_before_the_first_says_what_to_do(self) -> None:
        with pytest.raises(ReleaseError, match="inference_service_release=ID"):
            previous_release([record(A)], A, ALL)


def keep_release(state_dir: Path, identity: str) -> Path:
    """Write a release's folder as release_prepare does."""
    folder = state_dir / "releases" / identity
    folder.mkdir(parents=True)
    release = {
        "release_id": identity,
        "bundle": {"sha256": "b" * 64},
        "image": {"id": "sha256:a"},
        "settings": {"compose_files": ["docker-compose.yml"]},
    }
    (folder / "release.json").write_text(json.dumps(release))
    for name in ("release.env", "service.env", "docker-compose.yml"):
        (folder / name).write_text("")
    return folder


class TestFiles:
    def test_records_are_numbered_and_read_in_order(self, tmp_path: Path) -> None:
        first = write_record(tmp_path, record(B))
        second = write_record(tmp_path, record(A, previous=B))
        assert [first.name, second.name] == [f"0001-{B}.json", f"0002-{A}.json"]
        assert [item["release_id"] for item in read_records(tmp_path)[0]] == [B, A]

    def test_processes_that_write_at_once_get_numbers_of_their_own(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            written = set(pool.map(lambda _: write_record(tmp_path, record(A)).name, range(16)))
        assert written == {f"{number:04d}-{A}.json" for number in range(1, 17)}

    def test_a_record_that_goes_while_it_is_read_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "0001-gone.json").symlink_to(tmp_path / "nothing")
        assert read_records(tmp_path) == ([], [])

    def test_order_does_not_depend_on_file_times(self, tmp_path: Path) -> None:
        first = write_record(tmp_path, record(A))
        write_record(tmp_path, record(B))
        first.touch()
        assert [item["sequence"] for item in read_records(tmp_path)[0]] == [1, 2]

    @pytest.mark.parametrize(
        "content",
        [
            "",
            '{"release_id": "aa',
            "[]",
            '"text"',
            '{"hello": 1}',
            '{"release_id": 1, "action": "deploy", "result": "ok", "sequence": 2}',
            '{"release_id": "a", "action": "deploy", "result": "ok", "sequence": "2"}',
            '{"release_id": "a", "action": "deploy", "result": "ok", "sequence": 2, "bundle": []}',
            '{"schema": 2, "release_id": "a", "action": "deploy", "result": "ok", "sequence": 2}',
            '{"schema": "new", "release_id": "a", "action": "deploy", "result": "ok", "sequence": 2}',
        ],
    )
    def test_an_unreadable_record_is_named_and_passed_over(self, tmp_path: Path, content: str) -> None:
        write_record(tmp_path, record(A))
        broken = write_record(tmp_path, record(B))
        broken.write_text(content)
        records, unreadable = read_records(tmp_path)
        assert [item["release_id"] for item in records] == [A]
        assert len(unreadable) == 1
        assert str(broken) in unreadable[0]
        # Its number stays its own.
        assert write_record(tmp_path, record(C)).name == f"0003-{C}.json"
        assert prune_records(tmp_path, []) == 0

    def test_a_record_that_is_no_text_is_named_and_passed_over(self, tmp_path: Path) -> None:
        write_record(tmp_path, record(A)).write_bytes(b"\xff\xfe\x00")
        (tmp_path / "records" / "folder.json").mkdir()
        assert len(read_records(tmp_path)[1]) == 2

    def test_numbers_stay_unique_when_a_file_has_another_name_than_its_record(self, tmp_path: Path) -> None:
        write_record(tmp_path, record(A)).rename(tmp_path / "records" / "mine.json")
        assert write_record(tmp_path, record(B)).name == f"0002-{B}.json"

    def test_a_release_that_is_gone_names_those_that_are_kept(self, tmp_path: Path) -> None:
        keep_release(tmp_path, A)
        with pytest.raises(ReleaseError, match=A):
            read_release(tmp_path, B)

    @pytest.mark.parametrize("damage", ["release.json", "service.env", "docker-compose.yml"])
    def test_a_release_that_cannot_be_started_is_not_kept(self, tmp_path: Path, damage: str) -> None:
        keep_release(tmp_path, A)
        (keep_release(tmp_path, B) / damage).unlink()
        (keep_release(tmp_path, C) / "release.json").write_text("{")
        assert kept_releases(tmp_path) == [A]

    @pytest.mark.parametrize("part", ["bundle", "image", "settings"])
    def test_a_description_without_what_is_started_is_none(self, tmp_path: Path, part: str) -> None:
        path = keep_release(tmp_path, A) / "release.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), part: {}}))
        assert kept_releases(tmp_path) == []

    def test_a_failed_write_leaves_the_old_content_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "live.map"
        write_atomically(path, "live blue\n")
        with pytest.raises(UnicodeEncodeError):
            write_atomically(path, "live \ud800\n")
        assert path.read_text() == "live blue\n"
        assert list(tmp_path.iterdir()) == [path]


class TestRetention:
    def test_live_and_previous_stay_whatever_the_limit(self) -> None:
        records = [record(A), record(B, previous=A), record(C, previous=B), record(A, previous=C)]
        assert releases_to_keep(records, A, keep=1, kept=ALL) == [A, C]

    def test_old_records_go_but_for_those_of_kept_releases(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ansible_collections.gpu_hosts.timm.plugins.module_utils.releases.KEEP_RECORDS", 2)
        for release in (A, B, B, C):
            write_record(tmp_path, record(release))
        assert prune_records(tmp_path, [A, C]) == 1
        assert [(item["sequence"], item["release_id"]) for item in read_records(tmp_path)[0]] == [
            (1, A),
            (3, B),
            (4, C),
        ]

    def test_failed_releases_are_not_kept(self) -> None:
        records = [record(A), record(B, previous=A, result="failed"), record(C, previous=A)]
        assert releases_to_keep(records, C, keep=5, kept=ALL) == [C, A]


class TestInstance:
    @pytest.mark.parametrize("label", ["inference-service.color", "inference-service.colour"])
    def test_reads_what_docker_inspect_says(self, label: str) -> None:
        inspected = {
            "Id": "0123456789abcdef",
            "Name": "/svc-blue-1-api-1",
            "Image": "sha256:9",
            "RestartCount": 3,
            "Config": {
                "Labels": {
                    "inference-service.release": A,
                    label: "blue",
                    "inference-service.instance": "1",
                    "inference-service.bundle-version": "7",
                    "com.docker.compose.project": "svc-blue-1",
                }
            },
            "State": {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}},
            "NetworkSettings": {"Networks": {"svc": {"IPAddress": "172.18.0.9"}}},
        }
        found = parse_instance(json.loads(json.dumps(inspected)))
        assert (found.release, found.color, found.index, found.bundle_version) == (A, "blue", "1", "7")
        assert (found.address, found.restarts, found.healthy) == ("172.18.0.9", 3, True)

    def test_how_long_a_verdict_takes_is_what_its_health_check_says(self) -> None:
        compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["api"]["healthcheck"]
        nanoseconds = {name: int(compose[name].removesuffix("s")) * 10**9 for name in ("start_period", "interval")}
        check = {
            "StartPeriod": nanoseconds["start_period"],
            "Interval": nanoseconds["interval"],
            "Retries": compose["retries"],
        }
        inspected = {"Id": "0", "Name": "/x", "Config": {"Healthcheck": check}, "State": {"Status": "running"}}
        assert parse_instance(inspected).patience == 90

    def test_a_container_without_labels_health_or_network_is_no_error(self) -> None:
        found = parse_instance({"Id": "0", "Name": "/x", "Config": {}, "State": {"Status": "created"}})
        assert (found.release, found.health, found.address, found.healthy) == ("", "none", "", False)
