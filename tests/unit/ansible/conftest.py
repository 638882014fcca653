"""Make the plugins importable: as `plugins` of the checkout, and what modules share under Ansible's name for it."""

from __future__ import annotations

import sys
from pathlib import Path

import ansible.module_utils
from ansible.plugins.loader import action_loader

ROOT = Path(__file__).resolve().parents[3]

# Without this line only `python -m pytest` finds them, not `pytest`.
sys.path.append(str(ROOT))
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
# An action finds the base that it shares with others as Ansible does.
action_loader.add_directory(str(ROOT / "plugins" / "action"))
