#!/bin/sh
# Installs what the tests of src/source need (docs/kernel-source.md): compilers, a kernel source, and its configuration. Where this is not Debian or the
# caller is not root, it says so and does nothing: those tests then say that they are skipped.
set -u
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
  echo "ci-packages: needs root and apt-get; the tests of src/source are skipped without clang, lld, llvm, binaryen and linux-source"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || exit 0
headers=$(apt-cache pkgnames linux-headers-6.1.0- | grep -E '^linux-headers-6\.1\.0-[0-9]+-amd64$' | sort -V | tail -n 1)
apt-get install -y -q --no-install-recommends clang lld llvm binaryen linux-source-6.1 ${headers} ||
  echo "ci-packages: not everything could be installed; the tests of src/source that need it are skipped"
