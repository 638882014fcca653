import resource
from pathlib import Path

import pytest

from app.process import memory

MACHINE = memory.limit(Path("/nowhere"))


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", "2097152\n", 2 << 20),
        ("memory.max", "max\n", MACHINE),
        ("memory/memory.limit_in_bytes", "1048576\n", 1 << 20),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", MACHINE),
    ],
)
def test_the_limit_is_the_container_s_and_at_most_the_machine_s(
    name: str, text: str, limit: int, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert memory.limit(tmp_path) == limit


def test_what_the_process_uses_is_more_than_python_alone() -> None:
    assert 5 << 20 < memory.used() < MACHINE


def test_what_is_mapped_from_a_file_is_no_use_of_memory(tmp_path: Path) -> None:
    statm = tmp_path / "statm"
    statm.write_text("9000 700 600 1 0 90 0\n")
    assert memory.used(statm) == 100 * resource.getpagesize()
