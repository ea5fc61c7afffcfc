# shellcheck shell=bash
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# Packages of Debian 13, from the machine's own mirror, verified by Debian's
# signature. Nothing of the machine is touched: APT works with lists and a cache
# of its own, in $work, and installs nothing. To be sourced, after cache.bash.

# trixie_apt ARGUMENTS...: apt-get in Debian 13. Its first call is `update`.
trixie_apt() {
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
	# shellcheck disable=SC2154 # cache_work sets it
	if [[ ! -e $work/status ]]; then
		command -v apt-get >/dev/null || die "apt-get is missing: this takes Debian's packages"
		[[ -r $keyring ]] || die "$keyring is missing: install debian-archive-keyring"
		mirror=$({
			sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources
			sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list
		} 2>/dev/null | grep -m 1 '/debian/\?$' || true)
		mkdir -p "$work"/{lists/partial,archives/partial,none}
		printf "%s [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} trixie main\n" \
			deb deb-src >"$work/sources.list"
		: >"$work/status"
	fi
	apt-get --quiet=2 --yes --no-install-recommends \
		-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/none" \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$work/none" \
		-o Dir::State="$work" -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" \
		-o Dir::Cache="$work" -o Dir::Cache::archives="$work/archives" \
		-o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}
