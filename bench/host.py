"""What the project reads of this host's GPUs and says of them, without Ansible, as JSON; needs PyYAML.

    PYTHONPATH=.:playbooks/collections python3 -m bench.host

Exits with 1 where the driver, or access to the GPU, has an error.
"""

import json
import sys
from pathlib import Path

import yaml

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host import access, findings
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import run
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.flavors import choose_flavor
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.host import host_facts

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 20


def main() -> int:
    """Read, judge, print."""
    facts = host_facts(Path("/"), run, _SECONDS, {"driver"})
    table = yaml.safe_load((ROOT / "roles/inference_image/vars/main.yml").read_text(encoding="utf-8"))
    flavors = next(value for value in table.values() if isinstance(value, dict) and "cu124" in value)
    flavor = choose_flavor(flavors, facts, findings.gpu_present(facts))
    probed = run([sys.executable, access.__file__.replace("access.py", "probe.py")], 3 * _SECONDS)
    found = {
        "driver": findings.assess_driver(facts, "required", flavors[flavor["name"]]),
        "access": access.assess_access(probed, len(facts.get("gpus", []))),
    }
    answer = {"facts": facts, "flavor": flavor, "probe": access.parse_probe(probed.out), "findings": found}
    print(json.dumps(answer, default=str, indent=1))
    return int(any(each["severity"] == "error" for part in found.values() for each in part))


if __name__ == "__main__":
    sys.exit(main())
