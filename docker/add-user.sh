#!/bin/sh
# The account that the service runs as, and the folders it may write to (models is read-only in production).
set -eu
# Ubuntu-based images bring a user of their own with this number.
taken=$(getent passwd 1000 | cut -d: -f1 || true)
if [ -n "$taken" ]; then
    userdel "$taken"
fi
getent group 1000 > /dev/null || groupadd --gid 1000 appuser
useradd --uid 1000 --gid 1000 --home-dir /app --no-create-home --shell /usr/sbin/nologin appuser
install -d -o 1000 -g 1000 /app /app/models /app/logs /app/.cache
