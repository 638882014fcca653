"""Run an action of ours in this process as Ansible does, over a connection that a test gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import action_loader, connection_loader
from ansible.template import Templar

# What a command on the host ends with: its code, output and errors.
Transport = Callable[[str], tuple[int, bytes, bytes]]


# In the place of the module of an action's name: takes its arguments, gives its answer.
Module = Callable[..., dict[str, Any]]


def run_action(
    action_name: str, transport: Transport | None = None, module: Module | None = None, /, **arguments: Any
) -> dict[str, Any]:
    """Return what an action answers to these arguments."""
    context, loader = PlayContext(), DataLoader()
    connection = connection_loader.get("local", context)
    if transport:
        connection.exec_command = lambda command, **_: transport(command)
    full_name = f"gpu_hosts.timm.{action_name}"
    action = action_loader.get(
        full_name,
        task=Task.load({"name": "Try it", full_name: arguments}),
        connection=connection,
        play_context=context,
        loader=loader,
        templar=Templar(loader),
        shared_loader_obj=None,
    )
    if module:
        action._execute_module = lambda module_args, **_: module(**module_args)
    try:
        return dict(action.run(task_vars={"inventory_hostname": "gpu-1"}))
    finally:
        # Of the folder that Ansible made for the task.
        action.cleanup()
