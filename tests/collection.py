"""Make the collection importable by its own name, as Ansible does before it loads a plugin."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import init_plugin_loader
from ansible.utils.collection_loader import AnsibleCollectionConfig

REPOSITORY = Path(__file__).resolve().parents[1]
# The folder that a link makes one of collections; ansible.cfg names it too.
COLLECTIONS = REPOSITORY / "playbooks" / "collections"


def find_collection() -> None:
    """Have Python and Ansible find the checkout's plugins."""
    if AnsibleCollectionConfig.collection_finder is None:
        init_plugin_loader([str(COLLECTIONS)])
