#!/usr/bin/env bash
# Build the images timm-classifier:FLAVOR and timm-classifier-gateway.
set -euo pipefail
cd "$(dirname "$0")/.."

flavor=cpu
registry_base=python:3.12-slim-bookworm
bootstrapped_base=inference-base:trixie
builder_base='' runtime_base='' torch_source='' run=()
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            cat << HELP
Usage: scripts/docker-build.sh [--flavor cpu|cu124|cu130] [--builder-base IMAGE --runtime-base IMAGE]
                               [--torch-source wheel|distribution] [--dry-run]
Builds timm-classifier:FLAVOR and timm-classifier-gateway:latest. Both bases are $registry_base where a
registry answers; else $bootstrapped_base is made from Debian packages (scripts/bootstrap-base.sh).
From the environment: http_proxy https_proxy no_proxy; CA_BUNDLE (default: this machine's CA certificates);
PIP_CONFIG_FILE (a private index); PIP_NO_INDEX=1 (only wheelhouse/); TORCH_INDEX_URL (CPU wheels of torch);
CUDA_LIBRARIES=whole (with the CUDA libraries that a classifier never calls, 1.2 GB).
HELP
            exit 0
            ;;
        --flavor) flavor=${2:-} && shift ;;
        --builder-base) builder_base=${2:-} && shift ;;
        --runtime-base) runtime_base=${2:-} && shift ;;
        --torch-source) torch_source=${2:-} && shift ;;
        --dry-run) run=(echo) ;;
        *) echo "error: $1 is not an option; see scripts/docker-build.sh --help" >&2 && exit 64 ;;
    esac
    shift
done
if [[ ! -f requirements/$flavor.lock ]]; then
    echo "error: there is no flavor '$flavor' (requirements/$flavor.lock); choose cpu, cu124 or cu130" >&2
    exit 64
fi
if ! docker info > /dev/null 2>&1; then
    echo "error: Docker does not answer; start it, or join its group: sudo usermod -aG docker $(id -un)" >&2
    exit 1
fi
if ! docker buildx version > /dev/null 2>&1; then
    echo "error: docker buildx is missing; install docker-buildx-plugin (vendor) or docker-buildx (Debian)" >&2
    exit 1
fi

if [[ -z $builder_base || -z $runtime_base ]]; then
    if timeout 60 docker buildx imagetools inspect "$registry_base" > /dev/null 2>&1; then
        base=$registry_base
    else
        echo "No registry answers for $registry_base; using $bootstrapped_base" >&2
        base=$bootstrapped_base
        "${run[@]}" scripts/bootstrap-base.sh "$base"
    fi
    builder_base=${builder_base:-$base} runtime_base=${runtime_base:-$base}
fi
# Debian's own torch is the CPU build; CUDA always comes as wheels.
if [[ -z $torch_source && $flavor == cpu && $builder_base == "$bootstrapped_base" ]]; then
    torch_source=distribution
fi

torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "requirements/$flavor.lock")
arguments=(--build-arg "TORCH=$torch" --build-arg "BUILDER_BASE=$builder_base" --build-arg "RUNTIME_BASE=$runtime_base"
    --build-arg "FLAVOR=$flavor" --build-arg "TORCH_SOURCE=${torch_source:-wheel}"
    --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' app/__init__.py)"
    --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || echo unknown)")
for name in http_proxy https_proxy no_proxy PIP_NO_INDEX TORCH_INDEX_URL CUDA_LIBRARIES; do
    [[ -z ${!name:-} ]] || arguments+=(--build-arg "$name=${!name}")
done
for bundle in "${CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    [[ ! -s $bundle ]] || { arguments+=(--secret "id=ca,src=$bundle") && break; }
done
[[ ! -s ${PIP_CONFIG_FILE:-} ]] || arguments+=(--secret "id=pipconf,src=$PIP_CONFIG_FILE")

"${run[@]}" docker buildx build --load --target gateway --tag timm-classifier-gateway:latest "${arguments[@]}" .
"${run[@]}" docker buildx build --load --target runtime --tag "timm-classifier:$flavor" "${arguments[@]}" .
