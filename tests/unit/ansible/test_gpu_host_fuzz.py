"""No input breaks the host checks: whatever commands print and files hold, there are facts or findings."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils import gpu_host
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.access import assess_access
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import all_answer, instances, views
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import Outcome
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import assess_engine
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.findings import assess_driver, assess_toolkit
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.flavors import choose_flavor
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.host import host_facts
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import UnreadableOutputError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.units import UNITS
from tests.unit.ansible.simulated_host import CU124, FIXTURES, PROPERTIES, Host, fixture, shown

SEEDS = range(25)
FOREIGN = (
    "NVIDIA-SMI n'a pas pu communiquer avec le pilote. Bitte prüfen Sie den Treiber. ドライバーが見つかりません。\n"
)


class Chance(random.Random):
    """Chance that repeats itself from its seed."""


def cut(text: str, chance: Chance) -> str:
    return text[: chance.randrange(len(text) + 1)]


def shuffled(text: str, chance: Chance) -> str:
    lines = text.splitlines(keepends=True)
    chance.shuffle(lines)
    return "".join(lines)


def foreign(text: str, chance: Chance) -> str:
    return FOREIGN + text.replace("Enabled", "Activé").replace("installed", "installé").replace("version", "версия")


def huge(text: str, chance: Chance) -> str:
    middle = chance.randrange(len(text) + 1)
    return text[:middle] + chance.choice(["9", "[", "<a>", "x=\n", "\n\n", " "]) * 50_000 + text[middle:]


def binary(text: str, chance: Chance) -> str:
    middle = chance.randrange(len(text) + 1)
    return text[:middle] + chance.randbytes(300).decode("utf-8", "replace") + "\0" + text[middle:]


def numbers(text: str, chance: Chance) -> str:
    return "".join(chance.choice("0123456789") if letter.isdigit() else letter for letter in text)


def wrong_types(text: str, chance: Chance) -> str:
    for value in ("[]", "{}", "true", "null"):
        text = text.replace(value, chance.choice(["1", '"x"', "null", "[[]]", '{"a": 1}', "1e400", "NaN"]))
    return text


def empty(text: str, chance: Chance) -> str:
    return ""


DAMAGES = (cut, shuffled, foreign, huge, binary, numbers, wrong_types, empty)


def examine(host: Host) -> None:
    """Read and judge everything; `shown` checks that each finding says all that it must."""
    facts = host_facts(host.root, host.run, 1.0, {"driver", "engine", "toolkit"})
    findings = [
        *assess_driver(facts, "required", {**CU124, "vram_mib": 2048}),
        *assess_engine(facts, True),
        *assess_toolkit(facts, True),
    ]
    shown(findings)
    assert facts["gpus"] or findings, "neither facts nor a finding"


# How a user may name the first GPU of the simulated host, or all of them, or none that is there.
SPELLINGS: tuple[object, ...] = ([0], ["GPU-0c3f6a11-6d0b-4f4e-9a53-0d8c1b8c3a10"], ["gpu-0c3f6a11"])
OTHER_SPELLINGS: tuple[object, ...] = ("all", [1], [1, 0], ["0:0"], ["MIG-b7f0"], [9], ["GPU-"], [])
SECOND = '<gpu id="00000000:3B:00.0">'
REMAPPED = "<remapped_rows><remapped_row_failure>Yes</remapped_row_failure></remapped_rows>"
TABLE: dict[str, dict[str, Any]] = {"cpu": {"cuda": ""}, "cu124": {**CU124, "vram_mib": 2048, "machines": ["x86_64"]}}


def judged(host: Host) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The whole judgment, as the module comes to it: facts, flavor, findings."""
    facts = host.facts()
    chosen = views(facts)[0] if all_answer(facts) else facts
    flavor = choose_flavor(TABLE, chosen, bool(facts["pci_devices"] or facts["gpus"]))
    findings = [
        *assess_driver(facts, "required", TABLE[flavor["name"]]),
        *assess_engine(facts, True),
        *assess_toolkit(facts, True),
    ]
    shown(findings)
    for mode in ("cdi", "nvidia"):
        found = instances(host.gpus, facts["gpus"], mode, facts["toolkit"]["cdi_devices"])
        assert len({item["index"] for item in found}) == len(found)
    return findings, flavor


def combine(host: Host, chance: Chance) -> None:
    """Put fixtures of random hosts together: each command and file from another one."""

    def any_of(folder: str) -> str:
        return chance.choice(sorted((FIXTURES / folder).iterdir())).read_text(encoding="utf-8")

    code = chance.choice([0, 0, 0, 9, 14])
    steps: list[Callable[[], None]] = [
        lambda: host.smi(Outcome(rc=code, out=any_of("nvidia_smi"))),
        lambda: host.answer(Outcome(out=any_of("nvidia_smi")), "nvidia-smi", "-L"),
        lambda: host.answer(Outcome(out=any_of("log")), "dmesg"),
        lambda: host.answer(Outcome(out=any_of("units")), "systemctl", "show", PROPERTIES, *UNITS),
        lambda: host.answer(Outcome(out=any_of("dkms")), "dkms", "status"),
        lambda: host.answer(Outcome(out=any_of("docker")), "docker", "info", "--format", "{{json .}}"),
        lambda: host.answer(Outcome(out=chance.choice(["x86_64", "aarch64", ""])), "uname", "-m"),
        lambda: host.write("proc/driver/nvidia/version", any_of("proc")),
        lambda: host.write("etc/cdi/nvidia.yaml", any_of("cdi")),
        lambda: host.write("var/run/cdi/nvidia.json", any_of("cdi")),
        lambda: host.write("etc/cdi/z.json", any_of("cdi")),
        lambda: host.write("var/lib/dpkg/status", any_of("packages")),
        lambda: host.write("etc/nvidia-container-runtime/config.toml", any_of("toolkit")),
        lambda: host.write("usr/bin/nvidia-container-runtime-hook", ""),
        lambda: host.write("etc/nv_tegra_release", "R36"),
        lambda: host.pci("0000:05:00.0", driver=chance.choice(["nouveau", "vfio-pci", "", "nvidia"]), device="0x1b82"),
        lambda: host.change_info(CDISpecDirs=chance.choice([[], ["/opt/cdi"], ["/etc/cdi"]])),
        lambda: host.remove(f"dev/{chance.choice(['nvidia0', 'nvidia-uvm'])}"),
    ]
    for step in chance.sample(steps, chance.randrange(1, len(steps))):
        step()
    host.gpus = chance.choice([*SPELLINGS, *OTHER_SPELLINGS])


def stale_below_fresh(host: Host) -> None:
    host.write("run/cdi/a.yaml", fixture("cdi/nvidia_550.yaml.txt"))
    host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_580.json"))


def spoil_the_rest(host: Host, chance: Chance) -> None:
    """Do everything wrong that does not concern the first GPU, which is well."""
    before, mark, second = fixture("nvidia_smi/h100_550.xml").partition(SECOND)
    texts = [
        ("<total>81559 MiB", "<total>512 MiB"),
        ("<compute_mode>Default", "<compute_mode>Prohibited"),
        ("<compute_mode>", "<gpu_recovery_action>Reboot</gpu_recovery_action><compute_mode>"),
        (
            "<compute_mode>",
            "<remapped_rows><remapped_row_failure>Yes</remapped_row_failure></remapped_rows><compute_mode>",
        ),
        ("<compute_mode>", "<fabric><state>In Progress</state></fabric><compute_mode>"),
        ("<current_mig>Disabled", "<current_mig>Enabled"),
    ]
    for old, new in chance.sample(texts, chance.randrange(len(texts) + 1)):
        second = second.replace(old, new, 1)
    host.smi(Outcome(rc=chance.choice([0, 14]), out=before + mark + second))
    log = "".join(
        f"NVRM: Xid (PCI:0000:3b:00): {code}, {text}\n"
        for code, text in ((79, "GPU has fallen off the bus."), (149, "NETIR Fatal"), (154, "(Node Reboot Required)"))
        if chance.random() < 0.5
    )
    good = fixture("cdi/nvidia_550.yaml.txt")
    steps: list[Callable[[], None]] = [
        lambda: host.answer(Outcome(out=log), "dmesg"),
        lambda: host.log("gone_at_load"),
        lambda: host.log("key_of_another"),
        lambda: host.pci("0000:05:00.0", driver="nouveau", device="0x128b"),
        lambda: host.pci("0000:06:00.0", driver="vfio-pci", device="0x1b82"),
        lambda: host.pci("0000:07:00.0", driver="", device="0x2b85"),
        lambda: (host.root / "sys/module/nouveau").mkdir(parents=True),
        lambda: host.write("etc/cdi/gds.json", fixture("cdi/gds.json")),
        lambda: host.write("etc/cdi/old.yml", good.replace("550.144.03", "535.183.01")),
        lambda: host.write("etc/nvidia-container-runtime/config.toml", fixture("toolkit/config_rootless.toml")),
        lambda: host.write("var/lib/dpkg/status", fixture("packages/status_loose")),
        lambda: stale_below_fresh(host),
        lambda: host.answer(Outcome(out="x86_64\n"), "uname", "-m"),
    ]
    for step in chance.sample(steps, chance.randrange(1, len(steps))):
        step()
    host.gpus = chance.choice(SPELLINGS)


def refuses_no_good_host(folder: Path, seeds: range) -> None:
    for seed in seeds:
        chance = Chance(seed)
        anything = Host(folder / f"any-{seed}")
        combine(anything, chance)
        judged(anything)
        well = Host(folder / f"well-{seed}")
        spoil_the_rest(well, chance)
        findings, flavor = judged(well)
        assert flavor["fits"], f"seed {seed}: {flavor['reason']}"
        assert [item for item in findings if item["severity"] == "error"] == [], f"seed {seed}"


def test_combined_hosts(tmp_path: Path) -> None:
    """Random hosts are judged without an accident; one whose chosen GPUs are well is never refused."""
    refuses_no_good_host(tmp_path, range(40))


@pytest.mark.trial
def test_thousands_of_combined_hosts(tmp_path: Path) -> None:
    refuses_no_good_host(tmp_path, range(5000))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_answers_and_files(tmp_path: Path, damage: Callable[[str, Chance], str]) -> None:
    for seed in SEEDS:
        chance = Chance(seed)
        host = Host(tmp_path / str(seed))
        for argv, outcome in list(host.answers.items()):
            if chance.random() < 0.5:
                host.answer(Outcome(rc=chance.choice([0, 0, 0, 9]), out=damage(outcome.out, chance)), *argv)
        for path in sorted(host.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and chance.random() < 0.3:
                text = damage(path.read_text(encoding="utf-8", errors="replace"), chance)
                path.write_text(text, encoding="utf-8", errors="replace")
        examine(host)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_fixture_where_it_does_not_belong(tmp_path: Path, path: Path) -> None:
    """Each recorded text in the place of every other one, whole and damaged."""
    text = path.read_text(encoding="utf-8")
    chance = Chance(path.name)
    for number, damage in enumerate((lambda content, _: content, *chance.sample(DAMAGES, 2))):
        host = Host(tmp_path / str(number))
        for argv in list(host.answers):
            host.answer(Outcome(out=damage(text, chance)), *argv)
        for argv in (("journalctl",), ("dmesg",), ("dkms", "status"), ("nv-fabricmanager", "--version")):
            host.answer(Outcome(out=damage(text, chance)), *argv)
        host.write("etc/cdi/nvidia.yaml", damage(text, chance))
        host.write("etc/apt/sources.list.d/a.list", damage(text, chance))
        host.write("etc/apt/sources.list.d/b.sources", damage(text, chance))
        host.write("etc/nvidia-container-runtime/config.toml", damage(text, chance))
        examine(host)
        shown(assess_access(Outcome(out=damage(text, chance)), 2))


def parsers() -> Iterator[Callable[..., Any]]:
    """Every parser of the host checks, those that somebody adds tomorrow included."""
    for found in pkgutil.iter_modules(gpu_host.__path__):
        module = importlib.import_module(f"{gpu_host.__name__}.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("parse_") and function.__module__ == module.__name__:
                yield function


def as_asked(function: Callable[..., Any], text: str) -> list[Any]:
    """The text in the shapes that the parser takes."""
    shapes = {"str": text, "list[str]": [text], "dict[str, str]": {"/etc/apt/a.sources": text, "/etc/apt/b.list": text}}
    given = {**shapes, "Outcome": Outcome(out=text)}
    return [given[parameter.annotation] for parameter in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("function", list(parsers()), ids=lambda function: str(function.__name__))
def test_every_parser_takes_every_text(function: Callable[..., Any]) -> None:
    """Facts come back, or the one error that says why the text is no report; never anything else."""
    for path in sorted(FIXTURES.glob("*/*")):
        whole = path.read_text(encoding="utf-8")
        chance = Chance(f"{function.__name__} {path.name}")
        for text in (whole, *(damage(whole, chance) for damage in chance.sample(DAMAGES, 4))):
            # The one error that a parser may raise says why the text is no report.
            with contextlib.suppress(UnreadableOutputError):
                assert function(*as_asked(function, text)) is not None
