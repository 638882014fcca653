"""Helpers of the integration tests: a client that never stops asking, playbook runs, bundles of random weights."""
