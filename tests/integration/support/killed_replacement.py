"""Replace a gateway as its module does, and be killed before a step: killed_replacement WANTED.json STEP.

Prints what differed, and why it was not replaced. Without a step of that name the replacement comes to its end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.collection import find_collection


def die() -> None:
    """End at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Replace the gateway."""
    find_collection()
    # Only now can they be found.
    from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import Replacement, alone
    from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_state import compare_gateway, read_containers
    from ansible_collections.gpu_hosts.timm.plugins.modules.gateway_replace import carry_out

    wanted, last = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    with alone(Path(wanted["state_dir"])):
        containers = read_containers(f"{wanted['name']}-gateway")
        compared = compare_gateway(wanted, containers)
        failed = ""
        if compared.differences:
            replacement = Replacement(wanted, compared.files, containers)
            if last:
                setattr(replacement, last, die)
            replacement.prove()
            failed = carry_out(replacement)
        json.dump({"differences": compared.differences, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
