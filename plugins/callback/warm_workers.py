"""Callback: load what every task needs once, in the process that the process of each task is a copy of.

Ansible runs each task in a fork, which loads filters, tests and actions by itself; most tasks cost less than that.
"""

from __future__ import annotations

import gc
import os

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import (
    action_loader,
    connection_loader,
    filter_loader,
    lookup_loader,
    shell_loader,
    test_loader,
)

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION, ROOT
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import read_spec

DOCUMENTATION = r"""
name: warm_workers
type: aggregate
short_description: Load filters, tests and actions before the first task
description:
  - Changes nothing but the time that a task takes.
requirements:
  - enabled in C(callbacks_enabled)
"""

# What most tasks of the roles are.
ACTIONS = ("assert", "command", "debug", "include_vars", "normal", "set_fact", "validate_argument_spec")


class CallbackModule(CallbackBase):
    """Loads plugins when the playbook starts, and says nothing."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "warm_workers"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, _playbook: object) -> None:
        """Load them."""
        for loader in (filter_loader, test_loader):
            list(loader.all())
        for name in ACTIONS:
            action_loader.get(name, class_only=True)
        # Of a collection, asking for one filter that is not there loads them all.
        filter_loader.get(f"{COLLECTION}.none")
        for kind, loader in (("action", action_loader), ("lookup", lookup_loader)):
            for path in (ROOT / "plugins" / kind).glob("*.py"):
                loader.get(f"{COLLECTION}.{path.stem}", class_only=True)
        # Defaults that many tasks ask for.
        read_spec(ROOT / "roles" / "inference_service")
        connection_loader.get("local", class_only=True)
        shell_loader.get("sh", class_only=True)
        # A collection touches every object, and what a fork touches is copied; a task is over before it has garbage.
        os.register_at_fork(before=gc.freeze, after_in_child=gc.disable)
