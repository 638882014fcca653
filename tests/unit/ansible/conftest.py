"""Make the plugins importable by the name that they have in production."""

from __future__ import annotations

import sys
from pathlib import Path

# Without this line only `python -m pytest` finds what tests share, not `pytest`.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tests.collection import find_collection

find_collection()
