"""What this collection is called, and where it lies on the controller."""

from __future__ import annotations

from pathlib import Path

# As Ansible imports it: ansible_collections.NAMESPACE.NAME.plugins.plugin_utils.collection.
COLLECTION = ".".join(__name__.split(".")[1:3])
# A checkout is linked where Ansible looks for collections; messages name the checkout itself.
ROOT = Path(__file__).parents[2].resolve()
