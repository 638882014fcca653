#!/bin/sh
# Build signed repositories of stand-ins for NVIDIA's packages: the toolkit's in deb/ARCHITECTURE, as the vendor lays it out,
# and the driver's in driver.
# Usage: build.sh FOLDER_WITH_THE_SIMULATED_GPU FOLDER_FOR_THE_REPOSITORIES VERSION_OF_THE_DRIVER
# Run again with another version, it adds that one to the driver's repository.
set -eu
gpu=$1
repositories=$2
driver_version=$3
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# package NAME VERSION DEPENDS: turn $work/NAME into a package of the current repository.
package() {
  mkdir -p "$work/$1/DEBIAN"
  {
    echo "Package: $1"
    echo "Version: $2"
    echo "Architecture: $architecture"
    echo "Maintainer: Tests <tests@example.com>"
    [ -z "$3" ] || echo "Depends: $3"
    echo "Description: stand-in for $1"
  } > "$work/$1/DEBIAN/control"
  dpkg-deb --build --root-owner-group "$work/$1" "$repository/$1_$2_$architecture.deb" > /dev/null
  rm -r "${work:?}/$1"
}

toolkit() {
  base="$work/nvidia-container-toolkit-base"
  mkdir -p "$base/usr/bin" "$base/usr/share/simulated-gpu-toolkit" "$base/etc/systemd/system" "$base/DEBIAN"
  sed "s/@VERSION@/$1/" "$here/nvidia-ctk" > "$base/usr/bin/nvidia-ctk"
  chmod 755 "$base/usr/bin/nvidia-ctk"
  cp "$gpu/cdi.yaml" "$base/usr/share/simulated-gpu-toolkit/"
  cp "$here"/nvidia-cdi-refresh.* "$base/etc/systemd/system/"
  install -m 755 "$here/toolkit-postinst" "$base/DEBIAN/postinst"
  package nvidia-container-toolkit-base "$1-1" ""
  package libnvidia-container1 "$1-1" ""
  package libnvidia-container-tools "$1-1" "libnvidia-container1 (>= $1-1)"
  package nvidia-container-toolkit "$1-1" "nvidia-container-toolkit-base (= $1-1), libnvidia-container-tools (>= $1-1)"
}

# Names and dependencies are those of Debian 13.
driver() {
  libraries=usr/lib/$(uname -m)-linux-gnu
  for name in libcuda libnvidia-ml libnvidia-nvvm libnvidia-ptxjitcompiler libnvidia-cfg; do
    case $name in libnvidia-nvvm) library=$name.so.$1 major=4 ;; *) library=$name.so.$1 major=1 ;; esac
    mkdir -p "$work/$name$major/$libraries"
    : > "$work/$name$major/$libraries/$library"
  done
  package libnvidia-ml1 "$1-1" ""
  package libnvidia-nvvm4 "$1-1" ""
  package libnvidia-ptxjitcompiler1 "$1-1" ""
  package libnvidia-cfg1 "$1-1" ""
  package libcuda1 "$1-1" "libnvidia-ptxjitcompiler1 (= $1-1)"
  package nvidia-persistenced "$1-1" "libnvidia-cfg1"
  smi="$work/nvidia-smi"
  mkdir -p "$smi/usr/bin" "$smi/usr/share/simulated-gpu"
  cp "$gpu/nvidia-smi" "$smi/usr/bin/"
  chmod 755 "$smi/usr/bin/nvidia-smi"
  for file in report.xml list.txt fields.txt version; do
    sed "s/550\.127\.08/$1/" "$gpu/$file" > "$smi/usr/share/simulated-gpu/$file"
  done
  package nvidia-smi "$1-1" "libnvidia-ml1 (= $1-1)"
  kernel="$work/nvidia-kernel-dkms"
  mkdir -p "$kernel/DEBIAN" "$kernel/usr/lib/simulated-gpu"
  cp "$gpu/load-driver" "$kernel/usr/lib/simulated-gpu/"
  chmod 755 "$kernel/usr/lib/simulated-gpu/load-driver"
  sed "s/@VERSION@/$1/" "$here/driver-postinst" > "$kernel/DEBIAN/postinst"
  chmod 755 "$kernel/DEBIAN/postinst"
  package nvidia-kernel-dkms "$1-1" ""
  case $(uname -r) in
    # No package can have such a name; some kernels have.
    *[!a-z0-9.+-]*) mkdir -p "/lib/modules/$(uname -r)/build" ;;
    *) package "linux-headers-$(uname -r)" 99 "" ;;
  esac
}

# sign: write the index of the current repository.
sign() {
  cd "$repository"
  for file in *.deb; do
    dpkg-deb --field "$file"
    echo "Filename: ./$file"
    echo "Size: $(stat --format=%s "$file")"
    echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
    echo
  done > Packages
  {
    echo "Origin: Tests"
    echo "Date: $(LC_ALL=C date --utc '+%a, %d %b %Y %H:%M:%S UTC')"
    echo "Architectures: $architecture"
    echo "SHA256:"
    echo " $(sha256sum Packages | cut -d ' ' -f 1) $(stat --format=%s Packages) Packages"
  } > Release
  gpg --batch --quiet --yes --clearsign --output InRelease Release
}

architecture=$(dpkg --print-architecture)
here=$(realpath "$here")
mkdir -p "$repositories"
export GNUPGHOME="$repositories/.gnupg"

if [ ! -e "$repositories/gpgkey" ]; then
  mkdir -m 700 "$GNUPGHOME"
  gpg --batch --quiet --passphrase '' --quick-generate-key 'Tests <tests@example.com>' rsa3072 sign never

  repository=$repositories/deb/$architecture
  mkdir -p "$repository"
  toolkit 1.20.1
  # Newer than what the role asks for: it must not be what gets installed.
  toolkit 1.21.0
  sign
  gpg --batch --quiet --armor --export --output "$repositories/gpgkey"
  gpg --batch --with-colons --list-keys | awk -F: '$1 == "fpr" { print $10; exit }' > "$repositories/fingerprint"
fi

repository=$repositories/driver
mkdir -p "$repository"
driver "$driver_version"
sign
gpgconf --kill all
