// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync` without `--no-systemd`, with a stand-in for systemd and a `/run` that
//! no other process sees: accounts, calls of systemctl, and whether the VM's own
//! user will be able to read its files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::namespace::{mounts, shell, words};
use crate::support::program::{PROGRAM, Ran, call, run};
use crate::support::skip::{is_root, needs, ordinary_user};
use crate::support::tree::{self, Node, assert_same};
use crate::sync_host::{Host, host, script};

/// Mounts a `/run`, prepares it and runs `$@`; keeps what is in `/run/userdb` then.
const WITH_A_RUN_OF_ITS_OWN: &str = r#"
set -eu
place=$1; shift
mount -t tmpfs -o mode=755 none /run
. "$place/prepare"
set +e
"$@"
status=$?
rm -rf "$place/userdb"
[ ! -d /run/userdb ] || cp -a /run/userdb "$place/userdb"
rm -rf "$place/generator"
[ ! -d /run/systemd/generator ] || cp -a /run/systemd/generator "$place/generator"
exit $status
"#;

struct Place {
    host: Host,
    bin: PathBuf,
}

/// A host that is not in `/tmp`, which VMs' units do not see; an error says why there is none.
fn place() -> Result<Place, &'static str> {
    let directory = tempfile::tempdir_in("/dev/shm").map_err(|_| "there is no /dev/shm")?;
    mounts()?;
    let root = directory.path().canonicalize().unwrap();
    // VMs' users come there.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let host = Host::at(directory, root);
    let bin = host.root.join("bin");
    fs::create_dir(&bin).unwrap();
    let place = Place { host, bin };
    place.prepare("mkdir -p /run/systemd/system");
    place.systemctl("");
    Ok(place)
}

/// Whether root here may become any user, which `unshare --user` takes away.
fn may_become_anybody() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    is_root() && map.split_whitespace().nth(2).unwrap().parse::<u32>().unwrap() > 100_000
}

/// A host where VMs can be found usable, which takes a real root.
fn roots() -> Result<Place, &'static str> {
    if !may_become_anybody() {
        return Err("only root can look at files as another user");
    }
    place()
}

impl Place {
    fn prepare(&self, text: &str) {
        fs::write(self.host.root.join("prepare"), format!("{text}\n")).unwrap();
    }

    /// Makes the stand-in, which runs the generator as systemd does when it reads its units.
    fn systemctl(&self, text: &str) {
        let (calls, state) = (self.host.root.join("calls"), &self.host.state);
        let text = format!(
            "echo \"$*\" >>'{}'\n{text}\nif [ \"$1\" = daemon-reload ]; then\n\
             rm -rf /run/systemd/generator; mkdir -p /run/systemd/generator\n\
             '{PROGRAM}' host --state-dir '{}' generate /run/systemd/generator /none /none\nfi\n",
            calls.display(),
            state.display()
        );
        // A stand-in that another test's child still has open for writing cannot be executed.
        script(&self.bin.join("systemctl"), &text);
    }

    fn sync(&self, arguments: &[&str]) -> Ran {
        let mut sync = call(["sync", "--config"]);
        sync.arg(&self.host.config).arg("--state-dir").arg(&self.host.state).args(arguments);
        self.run(&sync)
    }

    fn run(&self, command: &Command) -> Ran {
        let path = std::env::var("PATH").unwrap_or_default();
        let place = self.host.root.as_os_str();
        let mut command = shell(WITH_A_RUN_OF_ITS_OWN, std::iter::once(place).chain(words(command)));
        // /dev/shm may not let anything be executed.
        run(command.env("PATH", format!("{}:{path}", self.bin.display())))
    }

    /// The calls of systemctl.
    fn calls(&self) -> Vec<String> {
        let path = self.host.root.join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls.lines().map(str::to_owned).collect()
    }

    /// This `sync` in a script, as one word after the other.
    fn sync_before(&self) -> String {
        let (config, state) = (self.host.config.display(), self.host.state.display());
        format!("'{PROGRAM}' sync --config '{config}' --state-dir '{state}' 2>/dev/null || :")
    }
}

/// In whose session a VM shows its windows is what the administrator says, whoever owns its files.
#[test]
fn windows_are_in_the_session_that_the_administrator_names() {
    let place = needs!(roots());
    let vm = place.host.vm("a").file("wayland", b"");
    std::os::unix::fs::chown(&vm.path, Some(1), Some(1)).unwrap();
    let qemu = "[tools]\nqemu-system-x86_64 = '/opt/elsewhere/qemu'\n";
    let sync = |of_source: &str, of_vm: &str| {
        let source = crate::sync_host::source("user", &place.host.partition.root);
        let settings = format!("[vm.a]\nhypervisor = 'qemu'\naccel = 'tcg'\n{of_vm}");
        fs::write(&place.host.config, format!("{source}{of_source}{settings}{qemu}")).unwrap();
        let said = place.sync(&[]).exits(0).stderr;
        let drop_in = place.host.root.join("generator/microvm@a.service.d/50-microvm-spectrum.conf");
        let drop_in = fs::read_to_string(drop_in).unwrap();
        let step = drop_in.lines().find_map(|line| line.strip_prefix("ExecStartPre=-+"));
        let step = step.map(|step| step.split_once(" host mount-wayland ").unwrap().1.to_owned());
        (said, place.host.in_catalog("user/a")["wayland"].clone(), step)
    };
    let (said, wayland, step) = sync("", "");
    assert_eq!((wayland, step), (json!({}), None));
    for part in ["note: ", "its settings name no user", "set wayland-user = \"USER\" in [vm.\"user/a\"]"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (said, wayland, step) = sync("", "wayland-user = 'no-such-user'\n");
    assert_eq!((wayland, step), (json!({}), None));
    assert!(said.contains("the host has no user no-such-user"), "{said}");
    let (said, wayland, step) = sync("wayland-user = 'daemon'\n", "");
    assert_eq!((said.as_str(), wayland), ("", json!({"user": 1})));
    assert_eq!(step.as_deref(), Some("a --vm 70000 --session 1"));
    let allowed = "wayland-user = 'bin'\nwayland = 'without-security-context'\n";
    let (said, wayland, step) = sync("wayland-user = 'daemon'\n", allowed);
    assert_eq!((said.as_str(), wayland), ("", json!({"user": 2, "without_security_context": true})));
    assert_eq!(step.as_deref(), Some("a --vm 70000 --session 2 --without-security-context"));
}

#[test]
fn every_vms_user_has_an_account() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.vm("b");
    place.host.vm("broken").file("wayland", b"");
    place.sync(&[]).exits(1);
    let userdb = tree::read(&place.host.root.join("userdb"));
    let mut expected = tree::Tree::from([(PathBuf::new(), Node::Directory { mode: 0o755 })]);
    for (name, uid) in [("a", 70_000), ("b", 70_001)] {
        let user = json!({
            "userName": format!("microvm-{uid}"), "uid": uid, "gid": uid, "realName": format!("VM {name} of user"),
            "disposition": "system", "homeDirectory": "/", "shell": "/usr/sbin/nologin", "locked": true,
        });
        let group = json!({
            "groupName": format!("microvm-{uid}"), "gid": uid, "description": format!("VM {name} of user"),
            "disposition": "system",
        });
        for (kind, record) in [("user", user), ("group", group)] {
            let file = format!("microvm-{uid}.{kind}");
            expected.insert(format!("{uid}.{kind}").into(), Node::Link(file.clone().into()));
            let found = userdb.get(Path::new(&file));
            let Some(Node::File { mode: 0o644, content }) = found else { panic!("{file}: {found:?}") };
            assert_eq!(serde_json::from_slice::<Value>(content).unwrap(), record);
            expected.insert(file.into(), found.unwrap().clone());
        }
    }
    assert_same(&expected, &userdb, "the accounts");
    // The second time they are left as they are.
    let before = "touch -d 2001-01-01 /run/userdb/microvm-70000.user";
    place.prepare(&format!("mkdir -p /run/systemd/system\n{}\n{before}", place.sync_before()));
    place.sync(&[]).exits(1);
    let modified = place.host.root.join("userdb/microvm-70000.user").metadata().unwrap().modified().unwrap();
    assert!(modified.elapsed().unwrap().as_secs() > 100_000_000);
    assert_same(&expected, &tree::read(&place.host.root.join("userdb")), "the accounts");
}

#[test]
fn without_systemd_nothing_but_accounts_is_made() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.configure("[defaults]\nautostart = true\n");
    place.prepare("");
    let ran = place.sync(&[]).exits(0);
    assert_eq!(
        ran.stderr,
        "microvm-spectrum: systemd is not running here: the VMs are installed and not started\n"
    );
    assert_eq!(place.calls(), [""; 0]);
    assert_eq!(tree::names(&place.host.root.join("userdb")).len(), 4);
    place.host.is_whole();
    // And with --no-systemd not even those.
    place.sync(&["--no-systemd"]).exits(0).warns_of_nothing();
    assert!(!place.host.root.join("userdb").exists());
}

#[test]
fn systemd_is_told_what_is_new() {
    let place = needs!(roots());
    let (host, reload) = (&place.host, "daemon-reload".to_owned());
    let start = |units: &str| format!("start --no-block -- {units}");
    host.vm("a");
    host.vm("b");
    let watched = "microvm-spectrum-mounts.service microvm-spectrum-source@user.path";
    let autostart = |names: &[&str]| {
        let tables = names.iter().map(|name| format!("[vm.{name}]\nautostart = true\n"));
        host.configure(&tables.collect::<String>());
    };
    autostart(&["a"]);
    // systemd stays as it was before.
    place.prepare(
        "mkdir -p /run/systemd/system; [ ! -d \"$place/generator\" ] || cp -a \"$place/generator\" /run/systemd/",
    );
    place.sync(&[]).exits(0).warns_of_nothing();
    assert_eq!(place.calls(), [reload.clone(), start(&format!("{watched} microvm@a.service"))]);
    host.is_whole();
    // Those that are there already are not started again: the administrator may have stopped them.
    host.vm("c");
    autostart(&["a", "b"]);
    place.sync(&[]).exits(0).warns_of_nothing();
    assert_eq!(place.calls(), [reload.clone(), start("microvm@b.service")]);
    host.vm("d");
    place.sync(&[]).exits(0).warns_of_nothing();
    assert_eq!(place.calls(), ["daemon-reload"]);
    // One that cannot run is no reason not to tell of the others.
    host.vm("d").file("wayland", b"");
    place.sync(&[]).exits(1);
    assert_eq!(place.calls(), ["daemon-reload"]);
    // At boot, those that start with the host are started by their target.
    autostart(&[]);
    place.sync(&["--start"]).exits(1);
    assert_eq!(place.calls(), [reload, start("microvms.target")]);
}

#[test]
fn without_a_change_systemd_is_told_nothing() {
    let place = needs!(roots());
    place.host.vm("a");
    let before = format!(
        "mkdir -p /run/systemd/system\n{}\nrm -f '{}'",
        place.sync_before(),
        place.host.root.join("calls").display()
    );
    place.prepare(&before);
    place.sync(&[]).exits(0).warns_of_nothing();
    assert_eq!(place.calls(), [""; 0]);
    place.sync(&["--start"]).exits(0).warns_of_nothing();
    assert_eq!(place.calls(), ["start --no-block -- microvms.target"]);
}

#[test]
fn a_systemd_that_refuses() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.configure("[vm.a]\nautostart = true\n");
    for (verb, what) in [
        ("daemon-reload", "systemd cannot read its units again: systemctl daemon-reload"),
        ("start", "VMs cannot be started: systemctl start --no-block"),
    ] {
        let _ = fs::remove_dir_all(&place.host.state);
        place.systemctl(&format!(
            "if [ \"$1\" = {verb} ]; then printf '\\nno \\033[31m\\nmore\\n' >&2; exit 4; fi"
        ));
        let ran = place.sync(&[]).exits(3);
        let expected = format!("microvm-spectrum: {what} ended with exit status: 4: no \\u{{1b}}[31m\n");
        assert_eq!(ran.stderr, expected);
        place.host.is_whole();
    }
    fs::remove_file(place.bin.join("systemctl")).unwrap();
    fs::remove_dir_all(&place.host.state).unwrap();
    place.prepare("mkdir -p /run/systemd/system; PATH=/none");
    let mut sync = call(["sync", "--config"]);
    sync.arg(&place.host.config).arg("--state-dir").arg(&place.host.state);
    // Nor can an account be made where something else is in the way.
    place.systemctl("");
    place.prepare("mkdir -p /run/systemd/system /run/userdb; mount -t tmpfs -o ro none /run/userdb");
    let ran = place.sync(&[]).exits(3);
    ran.complains(&["the account of a cannot be made: "]);
}

#[test]
fn files_that_the_vms_user_cannot_read() {
    let place = needs!(roots());
    let host = &place.host;
    host.vm("good");
    let restrict =
        |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let image = host.vm("image");
    restrict(&image.path.join("blk/root.img"), 0o600);
    let kernel = host.vm("kernel");
    restrict(&kernel.path.join("vmlinux"), 0o640);
    let closed = host.vm("closed");
    restrict(&closed.path.join("blk"), 0o700);
    let ran = place.sync(&[]).exits(1);
    for (uid, path) in [
        (70_000, closed.path.join("blk/root.img")),
        (70_002, image.path.join("blk/root.img")),
        (70_003, kernel.path.join("vmlinux")),
    ] {
        let line = ran.stderr.lines().find(|line| line.starts_with(&format!("error: {}: ", path.display())));
        let line = line.unwrap_or_else(|| panic!("{}", ran.stderr));
        assert!(line.contains("Permission denied"), "{line}");
        assert!(line.ends_with(&format!("(as user {uid}, whom the VM runs as)")), "{line}");
    }
    assert_eq!(ran.stderr.matches("  help: let others read it and search the directories").count(), 3);
    host.has(&[
        ("user/closed", "broken"),
        ("user/good", "runnable"),
        ("user/image", "broken"),
        ("user/kernel", "broken"),
    ]);
    host.is_whole();
    let watch = "start --no-block -- microvm-spectrum-mounts.service microvm-spectrum-source@user.path";
    assert_eq!(place.calls(), ["daemon-reload", watch]);
    // It is a matter of the units; by hand, root runs them.
    run(&mut host.sync()).exits(0).warns_of_nothing();
    for (path, mode) in [
        (image.path.join("blk/root.img"), 0o604),
        (kernel.path.join("vmlinux"), 0o644),
        (closed.path.join("blk"), 0o711),
    ] {
        restrict(&path, mode);
    }
    place.sync(&[]).exits(0).warns_of_nothing();
    host.is_whole();
    // The partition itself.
    restrict(&host.partition.root, 0o700);
    place.sync(&[]).exits(1).complains(&["Permission denied"]);
    assert!(host.states().iter().all(|(_, state)| state == "broken"));
}

#[test]
fn what_the_units_do_not_see() {
    needs!(mounts());
    let place = needs!(place());
    let (there, also) = (tempfile::tempdir_in("/tmp").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap());
    let partition = |directory: &tempfile::TempDir| {
        let partition = crate::support::vm_directory::Partition::at(directory.path());
        partition.vm(format!("in-{}", directory.path().components().nth(1).unwrap().as_os_str().display()));
        partition
    };
    let (tmp, var_tmp) = (partition(&there), partition(&also));
    tmp.vm("in-tmp").image("root.img", b"");
    var_tmp.vm("in-var").image("root.img", b"");
    place.host.configure_sources(&[("tmp", &tmp.root), ("var", &var_tmp.root)], "");
    let ran = place.sync(&[]).exits(1);
    let expected = format!(
        "error: {} and 5 more: lies in a directory for temporary files, which the units of VMs do not see\n  help: move it elsewhere\n",
        tmp.root.display()
    );
    assert_eq!(ran.stderr, expected);
    place.host.has(&[("tmp/in-tmp", "broken"), ("var/in-var", "broken")]);
    // By hand they run from there.
    run(&mut place.host.sync()).exits(0).warns_of_nothing();
}

#[test]
fn where_root_cannot_look_as_another_user() {
    if may_become_anybody() {
        // What others than root are in by `unshare --user`.
        return;
    }
    let place = needs!(place());
    place.host.vm("a");
    let ran = place.sync(&[]).exits(1);
    ran.complains(&["cannot be looked at as user 70000: ", "run sync as root"]);
    place.host.has(&[("user/a", "broken")]);
}

#[test]
fn without_root_no_accounts_can_be_made() {
    needs!(ordinary_user("root can make them"));
    let host = host();
    host.vm("a");
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let partition = crate::support::vm_directory::Partition::at(directory.path());
    partition.vm("a").image("root.img", b"");
    host.configure_sources(&[("user", &partition.root)], "");
    let mut sync = call(["sync", "--config"]);
    sync.arg(&host.config).arg("--state-dir").arg(&host.state);
    run(&mut sync).exits(3).complains(&["the account of a cannot be made: "]);
}

#[test]
fn systemd_is_told_what_it_does_not_know_yet() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.configure("[vm.a]\nautostart = true\n");
    // A sync that ended between the catalog and systemd.
    run(&mut place.host.sync()).exits(0).warns_of_nothing();
    place.sync(&[]).exits(0).warns_of_nothing();
    let new = "start --no-block -- microvm-spectrum-mounts.service microvm-spectrum-source@user.path microvm@a.service";
    assert_eq!(place.calls(), ["daemon-reload", new]);
    // Generators that ran before the state directory was mounted, as at any boot with such a one.
    place.sync(&["--start"]).exits(0).warns_of_nothing();
    let boot = "start --no-block -- microvm-spectrum-mounts.service microvm-spectrum-source@user.path microvms.target";
    assert_eq!(place.calls(), ["daemon-reload", boot]);
    // Generators that read an older catalog.
    place.prepare("mkdir -p /run/systemd/system /run/systemd/generator; echo 0 >/run/systemd/generator/.microvm-spectrum-generation");
    place.sync(&[]).exits(0).warns_of_nothing();
    assert_eq!(place.calls(), ["daemon-reload", new]);
}

#[test]
fn an_account_that_was_not_finished_is_finished() {
    let place = needs!(roots());
    place.host.vm("a");
    let expected = ["70000.group", "70000.user", "microvm-70000.group", "microvm-70000.user"];
    for missing in expected {
        let prepare =
            format!("mkdir -p /run/systemd/system\n{}\nrm /run/userdb/{missing}", place.sync_before());
        place.prepare(&prepare);
        place.sync(&[]).exits(0).warns_of_nothing();
        assert_eq!(tree::names(&place.host.root.join("userdb")), expected, "{missing}");
    }
}

#[test]
fn systemd_is_told_of_a_switch_that_could_not_be_synced() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.configure("[vm.a]\nautostart = true\n");
    // The first is of the leases, the second of the directory with the switched link.
    place.prepare(
        "mkdir -p /run/systemd/system\nset -- strace --follow-forks --output=/dev/null --trace=fsync \
         --inject=fsync:error=EIO:when=2 \"$@\"",
    );
    let ran = place.sync(&[]).exits(3);
    ran.complains(&[&format!(
        "{}: cannot be written: Input/output error",
        place.host.own("current").display()
    )]);
    place.host.has(&[("user/a", "runnable")]);
    let calls = place.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls[0] == "daemon-reload" && calls[1].ends_with(" microvm@a.service"), "{calls:?}");
}

/// Has a VM run, as far as its record and `booted` say so.
const RUNS: &str = r#"
runs() {
mkdir -p /run/microvm-spectrum/started "$2"
echo '{"version":1,"vm":"'"$1"'","uid":79000,"generation":1,"package":"/srv/package","files":[]}' \
    >"/run/microvm-spectrum/started/${1#*/}.json"
ln -sfn /srv/package "$2/booted"
}
mkdir -p /run/systemd/system
[ ! -d "$place/generator" ] || cp -a "$place/generator" /run/systemd/
"#;

#[test]
fn only_what_was_removed_from_here_is_stopped() {
    let place = needs!(roots());
    let (host, stop) = (&place.host, "stop --no-block -- microvm@x.service".to_owned());
    let away = host.root.join("away");
    host.configure_sources(&[("user", &host.partition.root), ("away", &away)], "");
    for (vm, folder, stopped) in [
        ("user/x", host.state.join("x"), true),
        // It is in another state directory, whose VMs this sync does not know.
        ("user/x", host.root.join("other/x"), false),
        // Its source cannot be read, and no catalog is left that had it.
        ("away/x", host.state.join("x"), false),
    ] {
        let _ = fs::remove_dir_all(&host.state);
        let _ = fs::remove_dir_all(host.root.join("generator"));
        place.prepare(&format!("{RUNS}\nruns {vm} '{}'", folder.display()));
        let plan = place.sync(&["--dry-run"]).exits(0).stdout;
        assert_eq!(plan.contains("stop user/x"), stopped, "{plan}");
        place.sync(&[]).exits(0);
        let calls = place.calls();
        assert!(calls.contains(&"daemon-reload".to_owned()), "{calls:?}");
        assert_eq!(calls.contains(&stop), stopped, "{vm} in {}: {calls:?}", folder.display());
    }
}

#[test]
fn what_systemd_can_do_is_done() {
    let place = needs!(roots());
    let host = &place.host;
    host.vm("a");
    let second = host.root.join("second");
    host.configure_sources(&[("user", &host.partition.root), ("second", &second)], "");
    place.prepare(RUNS);
    place.sync(&[]).exits(0);
    place.calls();
    // What watched a source may not run, and then cannot be stopped: there is no such unit any more.
    place.systemctl("if [ \"$1\" = stop ]; then echo 'not loaded' >&2; exit 5; fi");
    host.configure("[vm.a]\nautostart = true\n");
    place.sync(&[]).exits(0).warns_of_nothing();
    let unwatch = "stop --no-block -- microvm-spectrum-source@second.path";
    let start = "start --no-block -- microvm@a.service";
    // Nor does anything of it stay failed.
    let reset = "reset-failed -- microvm-spectrum-source@second.path microvm-spectrum-resync@second.service \
                 microvm-spectrum-rescan@second.service";
    assert_eq!(place.calls(), ["daemon-reload", unwatch, reset, start]);
    // A VM that cannot be stopped does not block the start of others, which no later sync makes up for.
    host.vm("b");
    host.configure("[defaults]\nautostart = true\n");
    place.prepare(&format!("{RUNS}\nruns user/x '{}'", host.state.join("x").display()));
    place.sync(&[]).exits(3).complains(&["removed VMs cannot be stopped: ", "not loaded"]);
    let stop = "stop --no-block -- microvm@x.service";
    assert_eq!(place.calls(), ["daemon-reload", stop, "start --no-block -- microvm@b.service"]);
}

#[test]
fn a_dry_run_restarts_what_a_sync_would() {
    let place = needs!(roots());
    let host = &place.host;
    host.vm("a");
    host.configure("[vm.a]\nrestart-if-changed = true\n");
    place.sync(&[]).exits(0);
    // It was started when its image had been replaced, so this record is newer than the catalog.
    let package = host.package("user/a").canonicalize().unwrap();
    let files =
        json!([{"entry": "blk/root.img", "device": 1, "inode": 2, "size": 3, "modified": 4, "changed": 5}]);
    for (generation, dry, restarts) in [(1, "nothing to do\n", false), (0, "restart user/a\n", true)] {
        let record = json!({
            "version": 1, "vm": "user/a", "uid": host.uid("user/a"), "generation": generation,
            "package": package, "files": files,
        });
        place.calls();
        place.prepare(&format!(
            "{RUNS}\nruns user/a '{state}/a'\necho '{record}' >/run/microvm-spectrum/started/a.json\n\
             ln -sfn '{package}' '{state}/a/booted'",
            state = host.state.display(),
            package = package.display(),
        ));
        assert_eq!(place.sync(&["--dry-run"]).exits(0).stdout, dry);
        let said = place.sync(&[]).exits(0).warns_of_nothing().stdout;
        assert_eq!(said, if restarts { dry } else { "" });
        assert_eq!(
            place.calls().contains(&"try-restart --no-block -- microvm@a.service".to_owned()),
            restarts
        );
    }
}

#[test]
fn one_cause_is_told_once_and_before_what_follows_from_it() {
    let place = needs!(roots());
    let host = &place.host;
    for number in 0..5 {
        host.vm(&format!("p{number}"));
    }
    host.vm("a").provider("p0");
    let svc = host.partition.root.join("svc");
    fs::set_permissions(&svc, fs::Permissions::from_mode(0o700)).unwrap();
    let ran = place.sync(&[]).exits(1);
    let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() <= 3, "{}", ran.stderr);
    assert!(errors[0].contains(" more: ") && errors[0].contains("Permission denied"), "{errors:?}");
    // Its path comes first, and it does not.
    fs::set_permissions(&svc, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(svc.join("data/p0/vmlinux")).unwrap();
    let ran = place.sync(&[]).exits(1);
    let at = |text: &str| ran.stderr.find(text).unwrap_or_else(|| panic!("{text}: {}", ran.stderr));
    assert!(at("data/p0/vmlinux: ") < at("its network provider p0 cannot run"), "{}", ran.stderr);
}

#[test]
fn more_processors_than_the_host_has_are_a_note() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.vm("b");
    place.host.configure("[vm.a]\nvcpus = 254\n");
    let ran = place.sync(&[]).exits(0);
    if std::thread::available_parallelism().unwrap().get() < 254 {
        assert_eq!(ran.stderr.matches("note: ").count(), 1, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("svc/data/a: has 254 virtual processors, and this host "),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn whether_kvm_works_is_found_out_once_in_a_boot() {
    let place = needs!(roots());
    place.host.vm("a");
    let qemu = place.bin.join("qemu");
    script(&qemu, "exit 9\n");
    let source = crate::sync_host::source("user", &place.host.partition.root);
    let tools = crate::sync_host::tools();
    let tools = tools.lines().filter(|line| !line.starts_with("qemu-system-")).collect::<Vec<_>>().join("\n");
    let architecture = std::env::consts::ARCH;
    let config = format!(
        "{source}[vm.a]\nhypervisor = 'qemu'\n{tools}\nqemu-system-{architecture} = '{}'\n",
        qemu.display()
    );
    fs::write(&place.host.config, config).unwrap();
    let warns = |before: String| {
        place.prepare(&format!("mkdir -p /run/systemd/system\n{before}"));
        place.sync(&[]).exits(0).stderr.contains("KVM does not work here")
    };
    let (before, record) = (place.sync_before(), "/run/microvm-spectrum/kvm.json");
    assert!(warns(String::new()));
    assert!(!warns(before.clone()));
    // Neither another boot's result counts, nor that of another QEMU, nor what a user wrote.
    assert!(warns(format!("{before}\nsed -i 's/\"boot\": \"./&x/' {record}")));
    assert!(warns(format!("{before}\ntouch -d @1 '{}'", qemu.display())));
    assert!(warns(format!("{before}\nchown 1 {record}")));
}

#[test]
fn list_prints_no_raw_name_of_an_image() {
    let place = needs!(roots());
    let host = &place.host;
    let entry = "blk/\x1b[31m\nforged  running.img";
    host.vm("a").file(entry, b"image");
    place.sync(&[]).exits(0);
    let package = host.package("user/a").canonicalize().unwrap();
    let record = json!({
        "version": 1, "vm": "user/a", "uid": host.uid("user/a"), "generation": 0, "package": package,
        "files": [{"entry": entry, "device": 1, "inode": 2, "size": 3, "modified": 4, "changed": 5}],
    });
    fs::write(host.root.join("record"), record.to_string()).unwrap();
    let copy = format!("cp '{}' /run/microvm-spectrum/started/a.json", host.root.join("record").display());
    place.prepare(&format!("mkdir -p /run/systemd/system /run/microvm-spectrum/started\n{copy}"));
    place.systemctl(
        "[ \"$1\" != show ] || printf 'Id=microvm@a.service\nActiveState=active\nSubState=running\n'",
    );
    let mut list = call(["list", "--state-dir"]);
    list.arg(&host.state);
    let table = place.run(&list).exits(0).stdout;
    assert!(table.contains(r"stale: blk/\u{1b}[31m\nforged  running.img has changed"), "{table}");
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[test]
fn a_partition_that_the_administrator_unmounted_stays_so() {
    let place = needs!(roots());
    let uuid = "6a5b0b3c-1234-4abc-9def-0123456789ab";
    let stick = format!("[[source]]\nkind = 'user-partition'\nname = 'stick'\npartuuid = '{uuid}'\n");
    place.host.configure(&stick);
    // A /dev of its own, with that partition.
    place.prepare(&format!(
        "{RUNS}\nmkdir -p /run/dev/shm /run/dev/disk/by-partuuid; touch /run/dev/null /run/dev/disk/by-partuuid/{uuid}\n\
         mount --bind /dev/null /run/dev/null; mount --rbind /dev/shm /run/dev/shm; mount --rbind /run/dev /dev"
    ));
    let mounts = |arguments: &[&str]| {
        place.sync(arguments).exits(0).complains(&["the source stick cannot be read"]);
        place.calls().iter().filter(|call| call.contains("partitions-stick.mount")).count()
    };
    // It was there before there was an entry for it.
    assert_eq!(mounts(&[]), 1);
    assert_eq!(mounts(&[]), 0);
    // As at boot.
    assert_eq!(mounts(&["--start"]), 1);
    // Another partition is another matter.
    let other = uuid.replace('6', "7");
    place.host.configure(&stick.replace(uuid, &other));
    assert_eq!(mounts(&[]), 0);
    place.host.configure(&stick);
    assert_eq!(mounts(&[]), 1);
}

#[test]
fn what_cannot_be_watched_is_not() {
    let place = needs!(roots());
    place.host.configure_sources(&[("user", &place.host.partition.root.join("../partition"))], "");
    place.sync(&[]).exits(0);
    assert_eq!(place.calls(), ["daemon-reload", "start --no-block -- microvm-spectrum-mounts.service"]);
}

/// The VM's user, who could be a monitor that was taken over, could signal a thread of
/// that user, and so the whole `sync`, which holds the lock.
#[test]
fn no_thread_of_sync_is_ever_a_vms_user() {
    let place = needs!(roots());
    place.host.vm("a");
    let trace = place.host.root.join("trace");
    place.prepare(&format!(
        "mkdir -p /run/systemd/system\nset -- strace --follow-forks --output='{}' \
         --trace=setuid,setgid,setreuid,setregid,setresuid,setresgid,setfsuid,setfsgid \"$@\"",
        trace.display()
    ));
    place.sync(&[]).exits(0).warns_of_nothing();
    place.host.has(&[("user/a", "runnable")]);
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<_> = trace.lines().filter(|line| line.contains("70000")).collect();
    assert!(calls.iter().any(|call| call.contains("setfsuid(70000)")), "{trace}");
    assert!(calls.iter().all(|call| call.contains("setfs")), "{trace}");
}

#[test]
fn what_a_killed_sync_has_not_started_the_next_one_starts() {
    let place = needs!(roots());
    place.host.vm("a");
    place.host.configure("[vm.a]\nautostart = true\n");
    let killed = place.host.root.join("killed");
    place.systemctl(&format!(
        "if [ \"$1\" = start ] && [ ! -e '{0}' ]; then touch '{0}'; kill -9 $PPID; exit; fi",
        killed.display()
    ));
    place.prepare(&format!("mkdir -p /run/systemd/system\n{}", place.sync_before()));
    place.sync(&[]).exits(0);
    let start = "start --no-block -- microvm-spectrum-mounts.service microvm-spectrum-source@user.path microvm@a.service";
    assert_eq!(place.calls(), ["daemon-reload", start, start]);
    // The same at boot, when generators have read the catalog already.
    fs::remove_file(&killed).unwrap();
    place.prepare(&format!(
        "mkdir -p /run/systemd/system\nsystemctl daemon-reload\n{}",
        place.sync_before().replace(" sync ", " sync --start ")
    ));
    place.sync(&[]).exits(0);
    let boot = "start --no-block -- microvms.target";
    assert_eq!(place.calls(), ["daemon-reload", boot, "start --no-block -- microvm@a.service"]);
    // And nothing twice.
    let twice = place.sync_before();
    place.prepare(&format!("mkdir -p /run/systemd/system\n{twice}\n{twice}"));
    place.sync(&[]).exits(0);
    assert_eq!(place.calls(), ["daemon-reload", start]);
}

/// Without its drop-in, systemd would stop it as another user, and before its clients.
#[test]
fn what_runs_and_cannot_run_any_more_keeps_its_drop_in() {
    let place = needs!(roots());
    let host = &place.host;
    host.vm("client").provider("net");
    let net = host.vm("net");
    place.sync(&[]).exits(0).warns_of_nothing();
    let drop_in = |name: &str| {
        let path = format!("generator/microvm@{name}.service.d/50-microvm-spectrum.conf");
        fs::read_to_string(host.root.join(path)).unwrap_or_default()
    };
    let before = [drop_in("client"), drop_in("net")];
    assert!(before[0].contains("After=microvm@net.service\n"), "{before:?}");
    let net = net.file("wayland", b"");
    // They were started in the network namespace of VMs.
    let runs = format!(
        "{RUNS}\nmkdir /run/netns; touch /run/netns/microvm-spectrum\n\
         mount --bind /proc/self/ns/net /run/netns/microvm-spectrum\n\
         runs user/client '{}'\nruns user/net '{}'",
        host.state.join("client").display(),
        host.state.join("net").display()
    );
    place.prepare(&runs);
    place.sync(&[]).exits(1);
    host.has(&[("user/client", "blocked"), ("user/net", "broken")]);
    assert_eq!([drop_in("client"), drop_in("net")], before);
    // Neither can be started.
    run(&mut host.set_booted("net")).exits(1).complains(&["net: ", "cannot be examined"]);
    // As long as it runs, also while its source is away.
    place.sync(&[]).exits(1);
    let away = host.root.join("away");
    fs::rename(&host.partition.root, &away).unwrap();
    place.sync(&[]).exits(0);
    assert_eq!([drop_in("client"), drop_in("net")], before);
    fs::rename(&away, &host.partition.root).unwrap();
    place.sync(&[]).exits(1);
    assert_eq!([drop_in("client"), drop_in("net")], before);
    place.prepare("mkdir -p /run/systemd/system");
    place.sync(&[]).exits(1);
    assert_eq!([drop_in("client"), drop_in("net")], ["", ""]);
    net.without("wayland");
    place.sync(&[]).exits(0);
    assert_eq!([drop_in("client"), drop_in("net")], before);
}

/// systemd-homed, LDAP and others have users that no file of the host names.
#[test]
fn no_vm_gets_a_user_id_that_any_name_service_knows() {
    let place = needs!(roots());
    let host = &place.host;
    host.vm("a");
    host.vm("b");
    place.prepare(
        r#"mkdir -p /run/systemd/system /run/userdb
printf 'passwd: files systemd\ngroup: files systemd\n' >"$place/nsswitch"
mount --bind "$place/nsswitch" /etc/nsswitch.conf
account() { echo "$3" >"/run/userdb/$1.$2"; ln -s "$1.$2" "/run/userdb/$4.$2"; }
account homer user '{"userName":"homer","uid":70000,"gid":70000}' 70000
account homers group '{"groupName":"homers","gid":70001}' 70001
# What a VM left behind belongs to no other user.
account microvm-70002 user '{"userName":"microvm-70002","uid":70002,"gid":70002}' 70002
getent passwd homer >"$place/seen" || :"#,
    );
    place.sync(&[]).exits(0);
    let seen = fs::read_to_string(host.root.join("seen")).unwrap();
    needs!(if seen.is_empty() { Err("the name service does not read /run/userdb") } else { Ok(()) });
    assert_eq!([host.uid("user/a"), host.uid("user/b")], [70_002, 70_003]);
    host.configure("[vm.a]\nuid = 70000\n");
    place
        .sync(&[])
        .exits(1)
        .complains(&["cannot have the user id 70000, which a user or a group of this host has"]);
}

#[test]
fn a_removed_vm_that_has_never_run_has_no_lease() {
    let place = needs!(roots());
    let host = &place.host;
    for name in ["ran", "never"] {
        host.vm(name);
    }
    place.sync(&[]).exits(0);
    assert_eq!(host.leases().len(), 2);
    run(&mut host.set_booted("ran")).exits(0);
    run(&mut host.clear_booted("ran")).exits(0);
    for name in ["ran", "never"] {
        fs::remove_dir_all(host.partition.root.join("svc/data").join(name)).unwrap();
    }
    // Until the first one has switched, they can start.
    place.sync(&[]).exits(0);
    assert_eq!(host.leases().len(), 2);
    place.sync(&[]).exits(0);
    assert_eq!(host.leases().into_keys().collect::<Vec<_>>(), ["user/ran"]);
    assert!(tree::names(&host.own("unused")).is_empty());
}
