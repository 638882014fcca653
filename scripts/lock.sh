#!/usr/bin/env bash
# Regenerate requirements/*.lock from requirements/*.in.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    cat << 'HELP'
Usage: scripts/lock.sh [--dry-run]
Regenerates requirements/{common,test,openvino,cu124,cu130,cpu}.lock, with hashes, for Python 3.12 and newer.
Needs uv, the Python index and, for cpu.lock only, the vendor's index (TORCH_INDEX_URL,
default: the one in the Dockerfile); where that does not answer, cpu.lock stays as it is.
HELP
    exit 0
fi
run=()
[[ ${1:-} != --dry-run ]] || run=(echo)
if ! command -v uv > /dev/null; then
    echo "error: uv is not on PATH; install it with: python3 -m pip install uv" >&2
    exit 1
fi

# setuptools is torch's build helper for torch.compile; hf-xet downloads from a model hub. Neither is used.
left_out=(torch torchvision triton setuptools hf-xet)
mapfile -t nvidia < <(sed -n 's/^\(nvidia[a-z0-9-]*\)==.*/\1/p' requirements/cu124.in)
skip=()
for name in "${left_out[@]}" "${nvidia[@]}" nvidia-cusolver-cu12; do
    skip+=(--no-emit-package "$name")
done

compile() {
    "${run[@]}" uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-config \
        --custom-compile-command scripts/lock.sh "$@"
}

compile requirements/common.in requirements/cu124.in --override requirements/override.in "${skip[@]}" \
    --output-file requirements/common.lock
compile requirements/test.in --constraints requirements/common.lock --output-file requirements/test.lock
for name in cu124 cu130 openvino; do
    compile "requirements/$name.in" --no-deps --output-file "requirements/$name.lock"
done

index=${TORCH_INDEX_URL:-$(sed -n 's/^ARG TORCH_INDEX_URL=//p' Dockerfile)}
if [[ ${#run[@]} -gt 0 ]] || curl --silent --fail --max-time 10 --output /dev/null "$index/torch/"; then
    compile requirements/cpu.in --no-deps --index "$index" --index-strategy unsafe-best-match \
        --output-file requirements/cpu.lock
else
    echo "note: $index does not answer; requirements/cpu.lock stays as it is" >&2
fi
