# shellcheck shell=bash
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# A folder of built things, safe when several scripts fill it together: each
# thing has a lock, is made in a temporary folder and appears in one rename.
# To be sourced, after progress.bash.

# The folder of this work, with the thing's log and parts. Set by cache_work.
work=
cache_lock=

# cache_lock DIR THING: from here on no other process makes THING in DIR.
cache_lock() {
	mkdir -p -- "$1"
	exec {cache_lock}>"$1/.$2.lock"
	if ! flock --nonblock "$cache_lock"; then
		say "$2: waiting for another process that makes it"
		flock "$cache_lock"
	fi
}

# cache_work PARENT: makes the folder $work, which goes away with the script.
cache_work() {
	mkdir -p -- "$1"
	work=$(mktemp -d -- "$1/microvm-spectrum.XXXXXXXX")
	trap 'stop_work; rm -rf -- "$work"' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}
