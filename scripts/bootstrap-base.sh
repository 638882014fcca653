#!/usr/bin/env bash
# Make a base image from Debian packages, for machines that reach no container registry.
set -euo pipefail

suite=${DEBIAN_SUITE:-trixie}
dry_run=false
name=inference-base:$suite
for argument in "$@"; do
    case $argument in
        -h | --help)
            cat << HELP
Usage: scripts/bootstrap-base.sh [--dry-run] [NAME]
Makes the image NAME (default $name) with Python, venv and CA certificates from Debian $suite.
Does nothing when NAME exists and works. Needs docker and mmdebstrap, but not root.
DEBIAN_SUITE    release of Debian; default: trixie
DEBIAN_MIRROR   archive to use; default: the one this machine's apt uses, else mmdebstrap's own
HELP
            exit 0
            ;;
        --dry-run) dry_run=true ;;
        -*) echo "error: $argument is not an option; see scripts/bootstrap-base.sh --help" >&2 && exit 64 ;;
        *) name=$argument ;;
    esac
done

if ! docker info > /dev/null 2>&1; then
    echo "error: Docker does not answer; start it, or join its group: sudo usermod -aG docker $(id -un)" >&2
    exit 1
fi
if docker run --rm --network none "$name" python3 -c 'import ensurepip, ssl, venv' > /dev/null 2>&1; then
    echo "$name is here already"
    exit 0
fi
if ! command -v mmdebstrap > /dev/null; then
    echo "error: mmdebstrap is not installed; run: sudo apt-get install mmdebstrap debian-archive-keyring" >&2
    exit 1
fi

# The first of these folders where a program can be started.
runnable() {
    local folder probe
    for folder in "$@"; do
        probe=$(mktemp "$folder/base.XXXXXX" 2> /dev/null) || continue
        printf '#!/bin/sh\n' > "$probe" && chmod +x "$probe"
        "$probe" 2> /dev/null && rm "$probe" && echo "$folder" && return
        rm -f "$probe"
    done
    return 1
}

# The archives that apt on this machine uses, when it has apt and they are Debian's; their suites are replaced by ours.
archive() {
    command -v apt-get > /dev/null || return 0
    apt-get indextargets --format "\$(LABEL) \$(REPO_URI)" 'Created-By: Packages' 2> /dev/null |
        awk -v label="$1" '$1 == label && !found++ { print $2 }'
}
mirror=${DEBIAN_MIRROR:-$(archive Debian)}
security=$(archive Debian-Security)
sources=()
if [[ -n $mirror ]]; then
    sources=("deb $mirror $suite main" "deb $mirror $suite-updates main")
    [[ -z $security ]] || sources+=("deb $security $suite-security main")
fi

# No manuals and translations: nobody reads them in a container, and they are a quarter of the base.
bootstrap=(mmdebstrap --quiet --variant=minbase "--include=python3,python3-venv,ca-certificates"
    --dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/info/*
    --dpkgopt=path-exclude=/usr/share/locale/* --dpkgopt=path-exclude=/usr/share/doc/*
    --dpkgopt=path-include=/usr/share/doc/*/copyright
    "$suite" - "${sources[@]}")
if $dry_run; then
    printf '%q ' "${bootstrap[@]}"
    echo "| docker import - $name"
    exit 0
fi
# The new system's own programs run where it is unpacked, which hardened hosts forbid below /tmp.
TMPDIR=$(runnable "${TMPDIR:-/tmp}" /var/tmp /root "$PWD") || {
    echo "error: neither /tmp nor /var/tmp lets programs run; name a folder that does in TMPDIR" >&2
    exit 1
}
export TMPDIR
echo "Making $name from Debian $suite (about half a minute)"
"${bootstrap[@]}" | docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$name"
