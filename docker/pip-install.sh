#!/bin/sh
# pip with what every install of this build needs: hashes, the local wheelhouse, and the optional build secrets.
set -eu
if [ -s /run/secrets/ca ]; then
    export PIP_CERT=/run/secrets/ca
fi
if [ -s /run/secrets/pipconf ]; then
    export PIP_CONFIG_FILE=/run/secrets/pipconf
fi
exec /opt/venv/bin/python -m pip install --disable-pip-version-check --root-user-action ignore \
    --no-deps --require-hashes --no-compile --find-links /wheelhouse "$@"
