"""The filters of the host roles: findings for people, daemon.json merged, package sources derived."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.filter.apt_sources import (
    apt_source_for_suite,
    apt_source_with_components,
)
from ansible_collections.gpu_hosts.timm.plugins.filter.engine_setup import engine_plan, merge_daemon_options
from ansible_collections.gpu_hosts.timm.plugins.filter.findings import (
    blocking_findings,
    findings_text,
    findings_verdict,
    host_report,
    judged_host,
    recorded_findings,
    waive_findings,
)
from ansible_collections.gpu_hosts.timm.plugins.filter.host_seen import access_mode, reboot_helps, toolkit_known
from ansible_collections.gpu_hosts.timm.plugins.filter.image_build import build_command, last_words

ERROR = {"id": "GPU006", "severity": "error", "summary": "It broke.", "evidence": "version 1", "remedy": "Reboot."}
WARNING = {"id": "GPU009", "severity": "warning", "summary": "Old.", "evidence": "version 2", "remedy": "Upgrade."}
INFO = {"id": "GPU001", "severity": "info", "summary": "None.", "evidence": "bus", "remedy": "Nothing."}

ONE_LINE = """# comment
deb http://deb.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://deb.example/debian bookworm-updates main contrib
deb http://security.example/debian-security bookworm-security main
deb-src http://deb.example/debian bookworm main
deb http://vendor.example/apt stable main
"""
DEB822 = """# modern
Types: deb deb-src
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no
"""


class TestFindings:
    def test_errors_block_unless_waived(self) -> None:
        assert blocking_findings([ERROR, WARNING, INFO]) == [ERROR]
        waived = waive_findings([ERROR, WARNING], [{"id": "GPU006", "reason": "known"}])
        assert blocking_findings(waived) == []
        assert waived[0]["waived"] == "known"
        assert "waived" not in waived[1]

    @pytest.mark.parametrize("waiver", [{"id": "GPU006"}, {"id": "GPU006", "reason": " "}, {"reason": "why not"}])
    def test_a_waiver_needs_an_id_and_a_reason(self, waiver: dict[str, str]) -> None:
        with pytest.raises(AnsibleFilterError, match="incomplete"):
            waive_findings([ERROR], [waiver])

    def test_a_record_keeps_warnings_and_the_reasons_of_waived_errors(self) -> None:
        waived = waive_findings([ERROR, WARNING, INFO], [{"id": "GPU006", "reason": "known"}])
        assert recorded_findings(waived) == [
            {
                "id": "GPU006",
                "severity": "error",
                "summary": "It broke.",
                "evidence": "version 1",
                "waived": "known",
            },
            {"id": "GPU009", "severity": "warning", "summary": "Old.", "evidence": "version 2"},
        ]

    def test_the_worst_comes_first(self) -> None:
        text = findings_text([INFO, WARNING, {**ERROR, "waived": "known"}])
        headings = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
        assert headings == ["GPU006", "GPU009", "GPU001"]
        assert "do:    Reboot." in text
        assert "waived: known" in text

    @pytest.mark.parametrize(
        ("findings", "verdict"),
        [
            ([], "ok"),
            ([INFO], "ok"),
            ([INFO, WARNING], "warning"),
            ([{**ERROR, "waived": "x"}], "warning"),
            ([ERROR], "error"),
        ],
    )
    def test_verdicts(self, findings: list[dict[str, Any]], verdict: str) -> None:
        assert findings_verdict(findings) == verdict

    def test_the_report_of_an_unreachable_host_is_printable(self) -> None:
        assert host_report({"facts": {}, "findings": [], "verdict": "unreachable"}, "gpu-1").splitlines() == [
            "gpu-1",
            "-----",
            "verdict  unreachable",
            "",
            "The host could not be reached, so nothing is known about it.",
        ]

    def test_what_keeps_a_host_from_being_examined_is_its_report(self) -> None:
        report = judged_host({"skipped": True}, [], "gpu-1: Missing sudo password.")
        assert report["verdict"] == "error"
        assert host_report(report, "gpu-1").splitlines()[2:] == ["verdict  error", "", "gpu-1: Missing sudo password."]

    def test_a_refusal_stands_beside_the_findings(self) -> None:
        report = judged_host({"facts": {}, "findings": [WARNING]}, [], "gpu-1: the port is taken.")
        assert report["verdict"] == "error"
        assert host_report(report, "gpu-1").splitlines()[4:6] == ["gpu-1: the port is taken.", "GPU009 warning: Old."]

    def test_a_lost_host_is_not_called_fit(self) -> None:
        assert judged_host({"unreachable": True}, [])["verdict"] == "unreachable"


class TestDaemonOptions:
    def test_foreign_keys_and_their_order_stay(self) -> None:
        before = '{"zeta": 1, "features": {"buildkit": true, "cdi": false}, "alpha": [1]}'
        after = merge_daemon_options(before, {"features": {"cdi": True}, "new": "x"})
        assert json.loads(after) == {
            "zeta": 1,
            "features": {"buildkit": True, "cdi": True},
            "alpha": [1],
            "new": "x",
        }
        assert list(json.loads(after)) == ["zeta", "features", "alpha", "new"]

    def test_what_is_already_there_leaves_every_byte(self) -> None:
        before = '{ "features":{"cdi" : true}}\n\n'
        assert merge_daemon_options(before, {"features": {"cdi": True}}) == before

    def test_a_byte_order_mark_is_no_fault(self) -> None:
        """Some editors write one, and Docker reads it."""
        before = '\ufeff{"live-restore": true}'
        assert merge_daemon_options(before, {"live-restore": True}) == before
        assert json.loads(merge_daemon_options(before, {"debug": True})) == {"live-restore": True, "debug": True}

    @pytest.mark.parametrize("before", ["", "\n", "\ufeff"])
    def test_an_empty_file_is_filled(self, before: str) -> None:
        assert json.loads(merge_daemon_options(before, {"live-restore": True})) == {"live-restore": True}

    @pytest.mark.parametrize("before", ["{", "[]", "# comment\n{}"])
    def test_a_broken_file_is_refused(self, before: str) -> None:
        with pytest.raises(AnsibleFilterError, match=r"daemon\.json"):
            merge_daemon_options(before, {})


class TestAptSource:
    def test_one_line_sources(self) -> None:
        text = apt_source_for_suite([ONE_LINE], "bookworm", "trixie")
        assert "Suites: trixie\n" in text
        assert "Suites: trixie-updates\nComponents: main\nSigned-By: /usr/share/keyrings/k.gpg" in text
        assert "URIs: http://security.example/debian-security\nSuites: trixie-security" in text
        assert "vendor.example" not in text
        assert text.count("Types: deb\n") == 3

    def test_deb822_sources(self) -> None:
        text = apt_source_for_suite(["", DEB822], "bookworm", "trixie")
        assert text == (
            "Types: deb\n"
            "URIs: http://deb.example/debian\n"
            "Suites: trixie trixie-updates\n"
            "Components: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )

    def test_a_key_inside_the_source_is_kept(self) -> None:
        key = "\n -----BEGIN PGP-----\n .\n abc\n -----END PGP-----"
        inline = DEB822.split("\n\n")[0].replace(" /usr/share/keyrings/debian-archive-keyring.gpg", key)
        assert "Signed-By: \n -----BEGIN PGP-----\n .\n abc" in apt_source_for_suite([inline], "bookworm", "trixie")

    def test_a_suite_that_the_host_reads_already_is_not_added(self) -> None:
        assert apt_source_for_suite([ONE_LINE, DEB822.replace("bookworm", "trixie")], "bookworm", "trixie") == ""

    def test_no_source_at_all_is_refused(self) -> None:
        with pytest.raises(AnsibleFilterError, match="No enabled package source for bookworm"):
            apt_source_for_suite(["deb http://vendor.example stable main"], "bookworm", "trixie")


class TestAptComponents:
    WANTED = ("contrib", "non-free", "non-free-firmware")

    def test_from_the_hosts_own_archives_with_their_own_keys(self) -> None:
        text = apt_source_with_components([DEB822], "bookworm", self.WANTED)
        assert text == (
            "Types: deb\n"
            "URIs: http://deb.example/debian\n"
            "Suites: bookworm bookworm-updates\n"
            "Components: contrib non-free\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )

    def test_security_updates_too(self) -> None:
        text = apt_source_with_components([ONE_LINE], "bookworm", self.WANTED)
        assert "URIs: http://security.example/debian-security\nSuites: bookworm-security\nComponents: contrib" in text
        assert "vendor.example" not in text

    def test_what_the_host_reads_already_is_left_out(self) -> None:
        some = DEB822.replace("Components: main", "Components: main contrib")
        assert "Components: non-free\n" in apt_source_with_components([some], "bookworm", self.WANTED)
        every = DEB822.replace("Components: main", "Components: main contrib non-free")
        assert apt_source_with_components([every], "bookworm", self.WANTED) == ""

    def test_no_source_at_all_is_refused(self) -> None:
        with pytest.raises(AnsibleFilterError, match="No enabled package source for bookworm"):
            apt_source_with_components(["deb http://vendor.example stable main"], "bookworm", self.WANTED)


COMPLETE = {
    "version": "26.1.5",
    "daemon_present": True,
    "cli_present": True,
    "compose_version": "2",
    "buildx_version": "1",
}
STOPPED = {**COMPLETE, "version": ""}
BARE = {"version": "", "daemon_present": False, "cli_present": False, "compose_version": "", "buildx_version": ""}
WITH_CDI = {"features": {"cdi": True}}


class TestEnginePlan:
    @pytest.mark.parametrize(
        ("engine", "install", "cdi", "options", "plan"),
        [
            (COMPLETE, True, False, {}, (False, {}, False)),
            (COMPLETE, True, True, {}, (False, WITH_CDI, True)),
            # It is there, and has to be started.
            (STOPPED, True, False, {}, (False, {}, True)),
            ({**COMPLETE, "compose_version": ""}, True, False, {}, (True, {}, True)),
            # Only an engine that the role installs gets its settings.
            (BARE, True, False, {}, (True, {"live-restore": True, **WITH_CDI}, True)),
            (BARE, False, False, {}, (True, {}, True)),
            (
                BARE,
                True,
                False,
                {"live-restore": False, "features": {"x": True}},
                (True, {"live-restore": False, "features": {"cdi": True, "x": True}}, True),
            ),
        ],
    )
    def test_what_is_to_be_done(
        self, engine: dict[str, Any], install: bool, cdi: bool, options: dict[str, Any], plan: tuple[Any, ...]
    ) -> None:
        found = engine_plan(engine, install, cdi, options)
        assert (found["incomplete"], found["options"], found["change"]) == plan


class TestSeen:
    def test_the_toolkit_is_known_until_something_becomes_of_the_engine(self) -> None:
        seen = {"by_topic": {"toolkit": []}, "facts": {"engine": COMPLETE}}
        assert toolkit_known(seen, {**COMPLETE, "findings": ["f"]})
        assert not toolkit_known(seen, {**COMPLETE, "version": "27", "findings": []})
        assert not toolkit_known(seen, {})
        assert not toolkit_known({}, {**COMPLETE, "findings": []})
        assert not toolkit_known({**seen, "by_topic": {"driver": []}}, {**COMPLETE, "findings": []})

    @pytest.mark.parametrize(
        ("modes", "asked", "mode"),
        [
            (["cdi", "nvidia"], "auto", "cdi"),
            ([], "auto", "none"),
            (["nvidia"], "nvidia", "nvidia"),
            (["nvidia"], "cdi", "none"),
        ],
    )
    def test_how_containers_get_the_gpu(self, modes: list[str], asked: str, mode: str) -> None:
        assert access_mode(modes, asked) == mode

    @pytest.mark.parametrize(
        ("finding", "disk", "connection", "helps"),
        [
            ("GPU003", "550.2", "ssh", True),
            ("GPU003", "550.1", "ssh", False),
            ("GPU003", "", "ssh", False),
            ("GPU009", "550.2", "ssh", False),
            ("GPU003", "550.2", "local", False),
        ],
    )
    def test_a_reboot_helps_where_another_module_waits_on_disk(
        self, finding: str, disk: str, connection: str, helps: bool
    ) -> None:
        driver = {"disk_version": disk, "loaded_version": "550.1"}
        assert reboot_helps({"findings": [{"id": finding}], "facts": {"driver": driver}}, connection) == helps


class TestImageBuild:
    def test_arguments_and_the_secrets_that_there_are_become_options(self) -> None:
        command = build_command("cpu", "a:1", {"FLAVOR": "cpu", "VERSION": "1"}, {"ca": "/etc/ca.crt", "pipconf": ""})
        assert command[:3] == ["docker", "buildx", "build"]
        assert command[-11:] == [
            *("--target", "cpu", "--tag", "a:1", "--build-arg", "FLAVOR=cpu", "--build-arg", "VERSION=1"),
            *("--secret", "id=ca,src=/etc/ca.crt", "."),
        ]

    @pytest.mark.parametrize(
        ("failed", "words"),
        [
            ({"stderr_lines": ["a", "error: no mmdebstrap"], "msg": "non-zero"}, "no mmdebstrap"),
            ({"stderr_lines": [], "msg": "no such file"}, "no such file"),
            ({}, "no reason given"),
        ],
    )
    def test_the_last_words_of_a_command(self, failed: dict[str, Any], words: str) -> None:
        assert last_words(failed) == words
