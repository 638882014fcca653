#!/bin/sh
# Make a repository of rpm packages that stand in for NVIDIA's and for a release of the RHEL family, with the names, epochs and
# dependencies that NVIDIA's driver installation guide documents in November 2026: two branches, each a module stream where asked.
# Usage: vendor_repository.sh FOLDER with-streams|without-streams
set -eu
folder=$1
mkdir -p "$folder/packages"
cd "$folder"

# make NAME EPOCH VERSION RELEASE [REQUIRES]
make() {
  {
    printf 'Name: %s\nEpoch: %s\nVersion: %s\nRelease: %s\n' "$1" "$2" "$3" "$4"
    printf 'Summary: stand-in\nLicense: none\n'
    [ -z "${5:-}" ] || printf 'Requires: %s\n' "$5"
    printf '%%description\nA stand-in.\n%%files\n'
  } > stand-in.spec
  rpmbuild -bb --quiet --target x86_64 --define "_rpmdir $folder/packages" stand-in.spec > build.log 2>&1 || { cat build.log; exit 1; }
}

for version in 580.173.02 620.10.01; do
  make nvidia-driver-cuda-libs 3 $version 1
  make nvidia-persistenced 3 $version 1
  make nvidia-driver-cuda 3 $version 1 "nvidia-driver-cuda-libs = 3:$version, nvidia-persistenced = 3:$version"
  make kmod-nvidia-open-dkms 3 $version 1 dkms
  make kmod-nvidia-latest-dkms 3 $version 1 dkms
  [ "$2" = without-streams ] || for flavor in open dkms; do
    cat >> modules.yaml << YAML
---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: "${version%%.*}-$flavor"
  version: 20261127
  context: abcd1234
  arch: x86_64
  summary: NVIDIA driver
  description: NVIDIA driver
  license: {module: [none]}
  artifacts:
    rpms:
      - nvidia-driver-cuda-libs-3:$version-1.x86_64
      - nvidia-persistenced-3:$version-1.x86_64
      - nvidia-driver-cuda-3:$version-1.x86_64
      - kmod-nvidia-open-dkms-3:$version-1.x86_64
      - kmod-nvidia-latest-dkms-3:$version-1.x86_64
...
YAML
  done
done
make dkms 0 3.2 1
make kernel-devel 0 6.12.0 55.el
make kernel-devel 0 6.12.0 99.el
make kernel-devel-matched 0 6.12.0 99.el
createrepo_c --quiet packages
[ "$2" = without-streams ] || modifyrepo_c --mdtype=modules modules.yaml packages/repodata > modify.log
mkdir -p /etc/yum.repos.d
printf '[stand-ins]\nname=stand-ins\nbaseurl=file://%s/packages\ngpgcheck=0\n' "$folder" > /etc/yum.repos.d/stand-ins.repo
