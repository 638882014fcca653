"""Versions, branches, flaws and keys of others stand in one table, as they are used, and are looked at now and then."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.aging import AGING, FLAWS, Aging

ROOT = Path(__file__).resolve().parents[3]
OLD = datetime.timedelta(days=180)


def overdue(row: Aging, today: datetime.date) -> str:
    """What to say about a row that nobody compared with its source for long, or nothing."""
    age = today - datetime.date.fromisoformat(row.checked)
    return (
        f"{row.subject} ({row.value}) was last checked {age.days} days ago: compare it with {row.source}"
        if age > OLD
        else ""
    )


@pytest.mark.parametrize("row", AGING, ids=lambda row: row.place.rpartition(" ")[2])
class TestTable:
    def test_it_says_what_is_used(self, row: Aging) -> None:
        path, _, name = row.place.partition(": ")
        if path.endswith(".yml"):
            used = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))[name]
            assert row.value == (", ".join(used) if isinstance(used, list) else used)
        else:
            assert row.value == max((flaw.name for flaw in FLAWS), key=lambda text: text.split("-")[1:])

    def test_it_has_a_source_and_a_day(self, row: Aging) -> None:
        assert row.source.startswith("https://")
        assert datetime.date.fromisoformat(row.checked) <= datetime.date.today() + datetime.timedelta(days=1)

    def test_somebody_looked_lately(self, row: Aging) -> None:
        """A warning and no failure: a checkout does not break by the calendar."""
        if words := overdue(row, datetime.date.today()):
            warnings.warn(words, stacklevel=1)


def test_a_row_that_nobody_looked_at_is_named_with_its_source() -> None:
    row = Aging("newest release", "file: name", "1.2.3", "2026-01-01", "https://vendor.example/releases")
    assert overdue(row, datetime.date(2026, 6, 30)) == ""
    assert overdue(row, datetime.date(2026, 7, 1)) == (
        "newest release (1.2.3) was last checked 181 days ago: compare it with https://vendor.example/releases"
    )
