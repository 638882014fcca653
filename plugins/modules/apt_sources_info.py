#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: the texts of a host's apt sources."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: apt_sources_info
short_description: Read the package sources of apt
options:
  exclude:
    description: Patterns of file names to leave out.
    type: list
    elements: str
    default: []
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Read the host's own package sources
  apt_sources_info:
    exclude: ["docker-engine-*.sources"]
  register: __example_sources
"""

RETURN = r"""
texts: {description: Content of each file, returned: always, type: list, elements: str}
"""


def main() -> None:
    """Read and answer."""
    module = AnsibleModule(
        argument_spec={"exclude": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True
    )
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in files
        if path.suffix in {".list", ".sources"}
        and path.is_file()
        and not any(fnmatch(path.name, pattern) for pattern in module.params["exclude"])
    ]
    module.exit_json(changed=False, texts=texts)


if __name__ == "__main__":
    main()
