#!/bin/sh
# Installs what some tests need: those of src/source (docs/kernel-source.md) compilers, a kernel source and its configuration, that of reports a browser.
# Where this is not Debian or the caller is not root, it says so and does nothing: those tests then say that they are skipped.
set -u
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
  echo "ci-packages: needs root and apt-get; without clang, lld, llvm, binaryen and linux-source the tests of src/source are skipped, without chromium that of reports"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || exit 0
headers=$(apt-cache pkgnames linux-headers-6.1.0- | grep -E '^linux-headers-6\.1\.0-[0-9]+-amd64$' | sort -V | tail -n 1)
newer=$(apt-cache pkgnames linux-headers-6.12. | grep -E '^linux-headers-6\.12\.[0-9.]+[^-]*-amd64$' | sort -V | tail -n 1)
apt-get install -y -q --no-install-recommends clang lld llvm binaryen linux-source-6.1 ${headers} chromium ||
  echo "ci-packages: not everything could be installed; the tests of src/source that need it are skipped"
# A second call: where there is no 6.12, the rest is installed all the same.
apt-get install -y -q --no-install-recommends linux-source-6.12 ${newer} ||
  echo "ci-packages: linux-source-6.12 could not be installed; the tests that compare workloads with it are skipped"
