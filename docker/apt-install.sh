#!/bin/sh
# Install distribution packages in an image layer and leave no package lists behind.
# The release that the base image carries decides the versions: pinning them here would break
# with every point release of every base that may be passed in.
set -eu
if [ -s /run/secrets/ca ]; then
    # A mirror behind a private CA: only this run trusts it, the image does not.
    echo 'Acquire::https::CAInfo "/run/secrets/ca";' > /etc/apt/apt.conf.d/99build-ca
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# A layer is kept or thrown away as a whole: waiting for the disk after every file only costs time.
apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io "$@"
rm -rf /etc/apt/apt.conf.d/99build-ca /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
