#!/bin/sh
# Create an account with a fixed number, so that volumes and tmpfs mounts can name it: add-user.sh NAME NUMBER HOME
set -eu
name=$1 number=$2 home=$3
# Ubuntu-based images bring a user 1000 of their own.
taken=$(getent passwd "$number" | cut -d: -f1 || true)
if [ -n "$taken" ]; then
    userdel "$taken"
fi
getent group "$number" > /dev/null || groupadd --gid "$number" "$name"
useradd --uid "$number" --gid "$number" --home-dir "$home" --no-create-home --shell /usr/sbin/nologin "$name"
