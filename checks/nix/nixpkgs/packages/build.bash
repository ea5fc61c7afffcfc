# shellcheck shell=bash
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# The stand-in's generic builder: a derivation's phases, in Nixpkgs' order.
set -euo pipefail
umask 022
export HOME=/homeless-shelter LC_ALL=C

runHook() { eval "${!1:-}"; }

# Interpreters outside of the store are looked up in PATH, by their last name.
patchShebangs() {
	local file line words
	while read -r -d '' file; do
		IFS= read -r line <"$file" || continue
		[[ $line == '#!'* ]] || continue
		read -ra words <<<"${line#'#!'}"
		if [[ ${words[0]} == */env ]]; then words=("${words[@]:1}"); fi
		[[ ${words[0]} == /nix/store/* ]] && continue
		words[0]=$(type -P "${words[0]##*/}") || continue
		sed -i "1s|.*|#!${words[*]}|" "$file"
	done < <(find "$@" -type f -executable -print0)
}
phase() {
	local name=$1 text=${!1:-}
	if [[ -n $text ]]; then eval "$text"; else "default_$name"; fi
}
make_with() {
	# shellcheck disable=SC2086 # lists, in Nix's form
	make ${makeFlags:-} "$@"
}

default_unpackPhase() {
	[[ -n ${src:-} ]] || return 0
	mkdir source
	cp --recursive --no-preserve=ownership -- "$src/." source
	chmod -R u+w source
	cd source
}
default_configurePhase() { :; }
# shellcheck disable=SC2086
default_buildPhase() { make_with ${buildFlags:-}; }
default_checkPhase() { make_with check; }
default_installPhase() { make_with install; }

if [[ -n ${buildCommandPath:-} ]]; then buildCommand=$(<"$buildCommandPath"); fi
if [[ -n ${buildCommand:-} ]]; then
	eval "$buildCommand"
	exit
fi
phase unpackPhase
eval "${postPatch:-}"
phase configurePhase
phase buildPhase
if [[ -n ${doCheck:-} ]]; then phase checkPhase; fi
phase installPhase
