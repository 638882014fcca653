#!/bin/sh
# Create /opt/venv with the base image's Python. Bases that carry an older one (pytorch/pytorch up to 2.9
# has 3.11) but bring conda get Python 3.12 in /opt/python, which the runtime stage copies along.
set -eu
mkdir -p /opt/python
python=$(command -v python3 || true)
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; }
if [ -z "$python" ] || ! recent "$python"; then
    if ! command -v conda > /dev/null; then
        echo "error: BUILDER_BASE has no Python 3.12 or newer and no conda to get one with;" \
            "pass a base such as python:3.12-slim-bookworm" >&2
        exit 1
    fi
    if [ -s /run/secrets/ca ]; then
        export CONDA_SSL_VERIFY=/run/secrets/ca
    fi
    conda create --yes --quiet --prefix /opt/python python=3.12
    python=/opt/python/bin/python3
fi
if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    echo "error: $python of BUILDER_BASE cannot make virtual environments; add its venv package (Debian: python3-venv)" >&2
    exit 1
fi
"$python" -m venv /opt/venv
