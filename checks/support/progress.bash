# shellcheck shell=bash
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# What the scripts under checks/ say while they work. To be sourced.
# Everything goes to standard error: standard output is for results.

say() { printf '%s\n' "$*" >&2; }

die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Processes that `with_progress` has running, to be ended by `stop_work`.
progress_group=

# Ends what `with_progress` runs. Call it from the EXIT trap.
stop_work() {
	[[ -n $progress_group ]] || return 0
	kill -TERM -- "-$progress_group" 2>/dev/null || true
	wait "$progress_group" 2>/dev/null || true
	progress_group=
}

# with_progress LABEL LOG PATTERN UNIT COMMAND...
#
# Runs COMMAND with its output in LOG and shows how far it is: the seconds and
# how many lines of LOG match PATTERN, as a number of UNITs. On a terminal that
# is one line that is rewritten, elsewhere one line every ten seconds. A failure
# shows the end of LOG and is returned.
with_progress() {
	local label=$1 log=$2 pattern=$3 unit=$4
	shift 4
	local start=$SECONDS shown=$SECONDS status=0 count terminal=
	[[ -t 2 ]] && terminal=yes

	: >"$log"
	# A process group of its own, so that everything in it can be ended.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	progress_group=$!
	set +m

	while kill -0 "$progress_group" 2>/dev/null; do
		if [[ -n $terminal ]] && ((SECONDS - start >= 1)); then
			count=$(grep -cE -- "$pattern" "$log" || true)
			printf '\r\033[K%s: %d s, %d %s' \
				"$label" "$((SECONDS - start))" "$count" "$unit" >&2
		elif [[ -z $terminal ]] && ((SECONDS - shown >= 10)); then
			shown=$SECONDS
			count=$(grep -cE -- "$pattern" "$log" || true)
			say "$label: $((SECONDS - start)) s, $count $unit"
		fi
		sleep 0.2
	done
	wait "$progress_group" || status=$?
	progress_group=
	if [[ -n $terminal ]]; then printf '\r\033[K' >&2; fi

	if ((status != 0)); then
		say "$label: FAILED after $((SECONDS - start)) s, the last lines of its output:"
		tail -n 30 -- "$log" | sed 's/^/  | /' >&2
		return "$status"
	fi
	if ((SECONDS - start >= 2)); then say "$label: done in $((SECONDS - start)) s"; fi
}
