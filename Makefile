# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Finds rustup's cargo even where the login shell has not put it into PATH.
export PATH := $(PATH):$(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin
# In the order written, the cheap first; cargo and the kernel's make run their own jobs.
.NOTPARALLEL:


# Where `make install` puts things; DESTDIR goes before it.
PREFIX ?= /usr/local
STATE_DIR ?= /var/lib/microvms

.PHONY: benchmark build check check-advisories check-cloud-hypervisor check-cluster check-format check-lints check-passthrough check-scripts check-tests check-user-partition clean demo dependencies help install test-guest uninstall

help:
	@echo 'make demo                  boot a Spectrum VM directory under QEMU; KEEP=DIRECTORY leaves it there'
	@echo 'make check                 check formatting, lints, scripts, and run every test'
	@echo 'make build                 build target/release/microvm-spectrum'
	@echo 'make install               install program, manual pages and unit files: PREFIX=/usr/local DESTDIR= STATE_DIR=/var/lib/microvms'
	@echo 'make uninstall             remove them; VMs, configuration and leases stay'
	@echo 'make benchmark             measure VMs beside bare QEMU, and sync beside cp and find'
	@echo 'make test-guest            build what the tests boot: kernel, root image, QEMU, virtiofsd'
	@echo 'make clean                 remove what cargo built (the cache stays)'
	@echo 'Not part of make check:'
	@echo 'make check-advisories      ask for known vulnerabilities of the crates (network)'
	@echo 'make check-cloud-hypervisor  run VMs under a Cloud Hypervisor in PATH or CLOUD_HYPERVISOR=, in a whole Debian'
	@echo 'make check-cluster         run three hosts under Corosync and Pacemaker, and have them fail'
	@echo 'make check-passthrough     test PCI devices in a whole Debian with an emulated IOMMU'
	@echo 'make check-user-partition  test a partition that appears and disappears, in a whole Debian with udev'

check: dependencies check-scripts check-format check-lints check-tests
	@echo '== check: everything passed'

dependencies:
	@echo '== packages'
	@checks/install-dependencies

check-scripts:
	@echo '== shellcheck'
	@checks/lint scripts
	@echo '== actionlint'
	@checks/lint workflows

check-format:
	@echo '== cargo fmt --check'
	@cargo fmt --check
	@echo '== nix-instantiate --parse, deadnix, nixfmt --check'
	@checks/format-nix

check-lints:
	@echo '== cargo clippy'
	@cargo clippy --all-targets --locked -- -D warnings
	@echo '== cargo deny: licences, versions and sources of the crates'
	@checks/lint crates

# Asks the database of the Rust project, which not every machine reaches.
check-advisories:
	@echo '== cargo deny: known vulnerabilities of the crates'
	@checks/lint advisories

# One more at a time than there are processors: they wait as much as they compute.
check-tests: export RUST_TEST_THREADS ?= $(shell echo $$(($$(nproc) + 1)))
check-tests:
	@echo '== cargo test, with the test guest and Nix'
	@checks/with-test-guest checks/with-nix cargo test --locked --no-fail-fast

# Its packages are too much for each run of CI.
check-cluster: dependencies
	@echo '== a cluster of three hosts'
	@checks/install-dependencies --cluster
	@checks/with-test-guest --without-windows cargo test --locked --test cluster -- --nocapture

# These need root and a network the first time, to make a whole Debian: too much for each
# run of CI. CASES= names some of their cases.
check-cloud-hypervisor:
	@echo '== Cloud Hypervisor'
	@checks/whole-debian cloud-hypervisor $(CASES)

check-passthrough:
	@echo '== PCI passthrough'
	@checks/whole-debian passthrough $(CASES)

check-user-partition:
	@echo '== a user partition'
	@checks/whole-debian user-partition $(CASES)

benchmark:
	@echo '== cargo bench'
	@checks/with-test-guest cargo bench --locked

test-guest:
	@echo '== test guest'
	@checks/with-test-guest

build:
	@echo '== cargo build --release'
	@cargo build --release --locked

# Installs what `make build` has built, and builds nothing, so root needs no cargo.
program := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/release/microvm-spectrum
# Where bash, zsh and fish look for what completes a command line.
completions := bash-completion/completions/microvm-spectrum zsh/site-functions/_microvm-spectrum fish/vendor_completions.d/microvm-spectrum.fish
install:
	@case '$(PREFIX)' in (/*) ;; (*) echo 'PREFIX must be an absolute path' >&2; exit 1;; esac
	@test -x $(program) || { echo 'run make build first, as an ordinary user' >&2; exit 1; }
	install -D --mode=755 $(program) $(DESTDIR)$(PREFIX)/bin/microvm-spectrum
	install --directory $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5
	install --mode=644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install --mode=644 docs/man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5
	install -D --target-directory=$(DESTDIR)$(PREFIX)/share/microvm-spectrum/guest guest/build-kernel guest/microvm-guest
	install --mode=644 guest/kernel.config guest/*.service $(DESTDIR)$(PREFIX)/share/microvm-spectrum/guest
	install --directory $(foreach place,$(completions),$(DESTDIR)$(PREFIX)/share/$(dir $(place)))
	$(program) completion bash >$(DESTDIR)$(PREFIX)/share/$(word 1,$(completions))
	$(program) completion zsh >$(DESTDIR)$(PREFIX)/share/$(word 2,$(completions))
	$(program) completion fish >$(DESTDIR)$(PREFIX)/share/$(word 3,$(completions))
	$(program) units --output $(DESTDIR)$(PREFIX)/lib --program $(PREFIX)/bin/microvm-spectrum --state-dir $(STATE_DIR)

# Removes what `make install` has installed; VMs, configuration and leases stay. Where this
# host's systemd has read it, nothing of it goes on, and none of its units stays failed.
of_this_host := test -z '$(DESTDIR)' && test "$$(systemctl show --property=FragmentPath --value microvms.target 2>/dev/null)" -ef '$(PREFIX)/lib/systemd/system/microvms.target'
going_on := systemctl list-units --plain --no-legend --state=active,activating,reloading,deactivating
uninstall:
	@if $(of_this_host); then \
		running=$$($(going_on) 'microvm@*.service' | cut --delimiter=' ' --fields=1); \
		if systemctl is-active --quiet pacemaker.service; then moves=", and 'crm_standby --node $$(uname -n) --update on' for those of the cluster"; fi; \
		test -z "$$running" || { echo "VMs are running: first run 'microvm-spectrum stop --all'$$moves, or systemctl stop for" $$running >&2; exit 1; }; \
		systemctl disable --quiet microvm-spectrum-sync.service microvms.target; \
		systemctl stop 'microvm*.path' 'microvm*.service' microvms.target 'run-*microvm?x2dspectrum*.mount' 'system-microvm*.slice'; \
		systemctl reset-failed 'microvm*' || :; \
	fi
	rm -f $(DESTDIR)$(PREFIX)/bin/microvm-spectrum $(DESTDIR)$(PREFIX)/share/man/man[15]/microvm-spectrum*.[15]
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,$(completions))
	rm -rf $(DESTDIR)$(PREFIX)/share/microvm-spectrum
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/microvm@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/microvm-*
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/microvms.target
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/user/microvm-spectrum-wayland.service
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system-generators/microvm-spectrum-generator
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/network/10-microvm-spectrum.network
	rm -rf $(DESTDIR)$(PREFIX)/lib/ocf/resource.d/microvm-spectrum
	rm -f $(DESTDIR)$(PREFIX)/lib/udev/rules.d/85-microvm-spectrum.rules
	rm -f $(DESTDIR)$(PREFIX)/lib/sysusers.d/microvm-spectrum.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/microvm-spectrum.conf
	@test -n '$(DESTDIR)' || ! test -d /run/systemd/system || systemctl daemon-reload

demo:
	@checks/demo $(if $(KEEP),--keep '$(KEEP)')

clean:
	@echo '== cargo clean'
	@cargo clean
