# shellcheck shell=bash
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# What the checks of this folder share, in the machine. To be sourced there.

# shellcheck source=../support/progress.bash
. ./progress.bash
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

# wanted CASE: whether it was asked for, as all are if none was named.
wanted() { [[ -z $(<cases) ]] || grep -qx -- "$1" cases; }

# run_cases CASE...: calls each of these functions that is wanted, in a process of its
# own, says how it ended and stops its VMs.
run_cases() {
	local name status begin
	for name; do
		wanted "$name" || continue
		say "case $name"
		begin=$SECONDS case_began=$(date +%s)
		set +e
		(set -e && "$name")
		status=$?
		set -e
		if ((status == 0)); then
			say "ok $name ($((SECONDS - begin)) s)"
		else
			say "FAILED $name ($((SECONDS - begin)) s)"
			echo "$name" >>failed
			microvm-spectrum list || :
			journalctl --no-pager --lines=80 --output=short-monotonic
		fi
		microvm-spectrum stop --all || :
		systemctl reset-failed
	done
}

# all_passed: whether no case failed, also before this machine was booted again.
all_passed() { [[ ! -e failed ]] || die "failed: $(tr '\n' ' ' <failed)"; }

# As README says it, behind `make build`. The units get as much time to start as `soon`
# gives, for an emulated machine on a host with other things to do.
install_program() {
	local unit
	for unit in microvm microvm-virtiofsd; do
		mkdir -p "/etc/systemd/system/$unit@.service.d"
		printf '[Service]\nTimeoutStartSec=20min\n' >"/etc/systemd/system/$unit@.service.d/slow.conf"
	done
	tar --extract --file project.tar
	make --quiet install
	systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
	udevadm control --reload
	mkdir -p /etc/microvm-spectrum
	install -m 755 virtiofsd /usr/local/bin/
}

# has_vm NAME...: the partition at /srv/P has these VMs.
has_vm() {
	local vm
	mkdir -p /srv/P
	install -m 644 vmlinux root.img /srv/P/
	for vm; do
		mkdir -p "/srv/P/svc/data/$vm/blk"
		ln -s /ext/vmlinux "/srv/P/svc/data/$vm/vmlinux"
		ln -s /ext/root.img "/srv/P/svc/data/$vm/blk/root.img"
	done
}

expect() { [[ $2 == "$3" ]] || die "$1: expected '$3', found '$2'"; }

# soon WHAT COMMAND...: whether it succeeds in time, which is much for this machine.
soon() {
	local what=$1 deadline=$((SECONDS + 1200))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || die "did not happen: $what"
		sleep 1
	done
	say "  $what"
}

# refused STATUS TEXT COMMAND...: whether it ends so, and says that.
refused() {
	local status=0 said wanted=$1 text=$2
	shift 2
	said=$("$@" 2>&1) || status=$?
	printf '%s\n' "$said" | sed 's/^/  | /'
	expect "the status of $*" "$status" "$wanted"
	[[ $said == *"$text"* ]] || die "$* did not say: $text"
}

# journal VM OPTION...: what its unit has said.
journal() { journalctl --quiet --no-pager --output=cat --unit="microvm@$1.service" "${@:2}"; }
# boots VM: how often its guest has come up.
boots() { journal "$1" | grep --count "guest: ready" || :; }
has_booted() { (($(boots "$1") >= $2)); }
# says VM TEXT: whether its unit has said that since the case began.
says() { journalctl --sync && journal "$1" --since="@$case_began" | grep -F -- "$2"; }

# is_over UNIT: whether it has ended.
is_over() { [[ $(systemctl is-active "$1") == @(inactive|failed) ]]; }

# start VM...: starts VMs and waits for their guests.
start() {
	local vm
	local -A before
	for vm; do before[$vm]=$(boots "$vm"); done
	microvm-spectrum start "$@"
	for vm; do soon "the guest of $vm is ready" has_booted "$vm" $((before[$vm] + 1)); done
}

# in_guest VM COMMAND: what a command prints in the shell of a VM's guest.
in_guest() {
	local vm=$1 line='' answer='' process from
	coproc console { exec timeout 1200 microvm-spectrum console "$vm" 2>/dev/null; }
	# shellcheck disable=SC2154 # coproc sets it
	process=$console_PID from=${console[0]}
	# The marks are put together in the guest, so an echo could not be one.
	# What comes before the guest's shell reads is lost.
	until [[ $line == *'<here>'* ]]; do
		printf "echo '<''here>'\n" >&"${console[1]}"
		IFS= read -r -t 10 line <&"$from" || line=
	done
	printf "echo '<''begin>'; %s\necho '<''end>'\n" "$2" >&"${console[1]}"
	while IFS= read -r -t 1200 line <&"$from" && [[ $line != *'<end>'* ]]; do
		line=${line//$'\r'/}
		line=${line//guest# /}
		if [[ $line == *'<begin>'* ]]; then answer=; else answer+=$line$'\n'; fi
	done
	kill "$process" 2>/dev/null || :
	wait "$process" 2>/dev/null || :
	[[ $line == *'<end>'* ]] || { say "$vm: no answer to $2: $answer" && return 1; }
	printf '%s' "$answer"
}

# last_words VM COMMAND: types something into a VM's guest that ends it, or its console.
last_words() {
	coproc console { exec timeout 1200 microvm-spectrum console "$1" >/dev/null 2>&1; }
	printf '%s\n' "$2" >&"${console[1]}"
	wait "$console_PID" || :
}

# reboot_guest VM: has it reboot, and waits until it is ready again.
reboot_guest() {
	local before
	before=$(boots "$1")
	last_words "$1" "reboot -f" &
	soon "the guest of $1 is ready again" has_booted "$1" $((before + 1))
	kill %1 2>/dev/null || :
}

while read -r name; do
	[[ -z $name ]] || grep -q "^$name()" "$0" || die "there is no case $name"
done <cases
