#!/usr/bin/env bash
# Installs the servers that tests of connectors start for themselves, and what tests of a cluster make networks and disks
# with, where they are missing and that is possible. Where it is not, those tests are skipped, or do less, and say so.
set -euo pipefail

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
if [ "$(uname)" = Linux ]; then
	command -v ip >/dev/null || missing+=(iproute2)
	command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
fi
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "${missing[*]} missing: install it with your system's packages, or tests that need it are skipped"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "${missing[*]} missing, and only root can install it: sudo apt-get install ${missing[*]}; without it tests are skipped"
	exit 0
fi
echo "${missing[*]} missing: installing Debian's"
# Tests start servers of their own: none is to run because its package was installed.
policy=/usr/sbin/policy-rc.d
made=false
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=true
fi
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
	echo "${missing[*]} cannot be installed here: tests that need it are skipped"
$made && rm -f "$policy"
exit 0
