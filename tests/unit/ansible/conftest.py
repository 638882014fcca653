"""Make the project's plugins importable: under the names that Ansible gives them, and as `plugins` of the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[3]

sys.path.append(str(ROOT))
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
for folder in ("modules", "filter", "lookup", "action"):
    sys.path.append(str(ROOT / "plugins" / folder))
