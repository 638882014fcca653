#!/usr/bin/python
"""Documentation of the action `release_lock`, which judges on the controller and needs only a shell on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_lock
short_description: Let one run at a time change a service on a host
description:
  - Writes C(deploy.lock) in the state directory with owner, process and time, and takes over from a run whose process
    is provably gone. Does nothing in check mode.
  - Waits until no process on the host works for an earlier run any more. The shell in the result, as
    C(ansible_shell_executable) of the host, makes the next runs wait for this one's commands in the same way, and
    refuses them once another run has the lock.
options:
  state_dir: {description: The service's state directory, type: path, required: true}
  state: {description: Take the lock or give it back, type: str, choices: [taken, released], default: taken}
  break_lock: {description: Take it whoever holds it, type: bool, default: false}
  timeout: {description: Seconds to wait for processes that an earlier run left on the host, type: int, default: 600}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Take the lock
  release_lock:
    state_dir: /var/lib/timm-classifier
"""

RETURN = r"""
holder:
  description: Who holds the lock instead, and whether a process works on the host at this moment.
  returned: always
  type: dict
released:
  description: Whether this run had the lock and gave it back; on a host that cannot be reached it stays.
  returned: when given back
  type: bool
shell:
  description: The shell for the host's next commands; the plain one when the lock is given back, and in check mode.
  returned: always
  type: str
"""
