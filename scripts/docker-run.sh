#!/usr/bin/env bash
# Start the service with docker-compose.yml and wait until it is ready.
set -euo pipefail
cd "$(dirname "$0")/.."

device=auto run=()
for argument in "$@"; do
    case $argument in
        -h | --help)
            cat << 'HELP'
Usage: scripts/docker-run.sh [--cpu | --gpu] [--dry-run]
Starts the service, or applies what changed, waits until it is ready and prints its address.
Takes a GPU when Docker can hand one to a container, unless --cpu; --gpu insists on one.
Settings come from the environment, then from .env (see .env.example). Stop it with scripts/docker-stop.sh.
HELP
            exit 0
            ;;
        --cpu | --gpu) device=${argument#--} ;;
        --dry-run) run=(echo) ;;
        *) echo "error: $argument is not an option; see scripts/docker-run.sh --help" >&2 && exit 64 ;;
    esac
done
if ! docker info > /dev/null 2>&1; then
    echo "error: Docker does not answer; start it, or join its group: sudo usermod -aG docker $(id -un)" >&2
    exit 1
fi
if ! docker compose version > /dev/null 2>&1; then
    echo "error: docker compose is missing; install docker-compose-plugin (vendor) or docker-compose (Debian)" >&2
    exit 1
fi

# A value from the environment, else from .env, else the default.
setting() {
    local value=${!1:-}
    [[ -n $value || ! -f .env ]] || value=$(sed -n "s/^$1=//p" .env | tail -n 1)
    echo "${value:-$2}"
}

# CDI first: it needs no runtime of its own and survives a reload of Docker.
gpu=''
if [[ $device != cpu ]]; then
    if [[ $(docker info --format '{{json .CDISpecDirs}}' 2> /dev/null) == *cdi* ]] &&
        grep -qs nvidia.com/gpu /etc/cdi/* /var/run/cdi/*; then
        gpu=cdi
    elif docker info --format '{{json .Runtimes}}' | grep -q '"nvidia"' && nvidia-smi --list-gpus > /dev/null 2>&1; then
        gpu=nvidia
    elif [[ $device == gpu ]]; then
        echo "error: Docker can hand no GPU to a container; find out why with: make verify" >&2
        exit 1
    fi
fi
files=(-f docker-compose.yml)
flavor=cpu
if [[ -n $gpu ]]; then
    files+=(-f docker-compose.gpu.yml)
    flavor=cu124
    GPU_DRIVER=$(setting GPU_DRIVER "$gpu")
    [[ $GPU_DRIVER == cdi ]] && id=nvidia.com/gpu=0 || id=0
    GPU_DEVICE_ID=$(setting GPU_DEVICE_ID "$id")
    export GPU_DRIVER GPU_DEVICE_ID
fi

SERVICE_IMAGE=$(setting SERVICE_IMAGE "timm-classifier:$flavor")
if ! docker image inspect "$SERVICE_IMAGE" > /dev/null 2>&1; then
    echo "error: the image $SERVICE_IMAGE is not here; build it with: scripts/docker-build.sh --flavor $flavor" >&2
    exit 1
fi
env_file=$(setting SERVICE_ENV_FILE .env)
if ! grep -qsE '^API_(BUNDLE|CHECKPOINT)_PATH=.' "$env_file"; then
    echo "error: $env_file names no model (API_BUNDLE_PATH); start with: cp .env.example .env" >&2
    exit 1
fi
# Docker refuses a limit above the number of cores it has.
cores=$(docker info --format '{{.NCPU}}')
SERVICE_CPUS=$(awk -v wanted="$(setting SERVICE_CPUS 4)" -v have="$cores" 'BEGIN { print wanted < have ? wanted : have }')
export SERVICE_IMAGE SERVICE_CPUS

if ! "${run[@]}" docker compose "${files[@]}" up --detach --wait --wait-timeout 300; then
    docker compose "${files[@]}" logs --no-log-prefix --tail 20 >&2
    echo "error: the service did not become ready; its last lines are above" >&2
    exit 1
fi
"${run[@]}" echo "Ready on $([[ -n $gpu ]] && echo "GPU $GPU_DEVICE_ID" || echo "CPU"): http://$(setting SERVICE_BIND 127.0.0.1):$(setting SERVICE_PORT 8000)"
