#!/usr/bin/env bash
# Stop the service that scripts/docker-run.sh started.
set -euo pipefail
cd "$(dirname "$0")/.."

down=(docker compose -f docker-compose.yml down) run=()
for argument in "$@"; do
    case $argument in
        -h | --help)
            cat << 'HELP'
Usage: scripts/docker-stop.sh [--volumes] [--dry-run]
Ends the service after its requests in flight and removes its container and network. Does nothing when none runs.
--volumes also removes its logs and cache.
HELP
            exit 0
            ;;
        --volumes) down+=(--volumes) ;;
        --dry-run) run=(echo) ;;
        *) echo "error: $argument is not an option; see scripts/docker-stop.sh --help" >&2 && exit 64 ;;
    esac
done
if ! docker compose version > /dev/null 2>&1; then
    echo "error: docker compose is missing; install docker-compose-plugin (vendor) or docker-compose (Debian)" >&2
    exit 1
fi
if ! docker info > /dev/null 2>&1; then
    echo "error: Docker does not answer; start it, or join its group: sudo usermod -aG docker $(id -un)" >&2
    exit 1
fi
"${run[@]}" "${down[@]}"
