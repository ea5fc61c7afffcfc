// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `host generate`: the drop-ins of all VMs, as a systemd generator writes them.
//! Whatever is wrong, a boot goes on.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::namespace::{mounts, shell, words};
use crate::support::program::{quiet, run};
use crate::support::skip::needs;
use crate::support::tree::{self, Node, Tree, assert_same};
use crate::support::vm_directory::Partition;
use crate::sync_host::{Host, host, key_in, plain_directory};

struct Generated {
    /// What it said, in the kernel's log or else on standard error; `None` where
    /// that log is this host's own.
    said: Option<String>,
    normal: PathBuf,
}

/// Puts `$1` in the place of the kernel's log, so that it can be read, and calls `$@`.
const WITH_A_LOG: &str = r#"
set -eu
umask 022
[ ! -e /dev/kmsg ] || mount --bind "$1" /dev/kmsg
shift
exec "$@"
"#;

/// Calls the generator as systemd does: with three directories that are there.
fn generate(host: &Host) -> Generated {
    let directories = ["normal", "early", "late"].map(|name| host.root.join(name));
    for directory in &directories {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let log = host.root.join("log");
    fs::write(&log, "").unwrap();
    let mut call = host.unit_calls(&["generate"]);
    call.args(&directories);
    let own_log = mounts().is_ok();
    let ran = if own_log {
        run(&mut shell(WITH_A_LOG, [log.as_os_str()].into_iter().chain(words(&call))))
    } else {
        let mut shell = quiet("/bin/sh");
        run(shell.args(["-c", "umask 022 && exec \"$@\"", "sh"]).args(words(&call)))
    };
    let ran = ran.exits(0);
    assert_eq!(ran.stdout, "");
    for unused in &directories[1..] {
        assert_eq!(tree::names(unused), [""; 0]);
    }
    let said = fs::read_to_string(&log).unwrap() + &ran.stderr;
    let [normal, ..] = directories;
    Generated { said: (own_log || !said.is_empty()).then_some(said), normal }
}

impl Generated {
    /// Asserts that it said nothing.
    #[track_caller]
    fn says_nothing(&self) {
        assert_eq!(self.said.as_deref().unwrap_or_default(), "");
    }

    /// Asserts that no VM has anything, and that the log has the reason.
    #[track_caller]
    fn is_nothing(&self, what: &str) {
        assert_eq!(tree::names(&self.normal), [""; 0], "{what}");
        if let Some(said) = &self.said {
            let line = said.strip_prefix("<3>").or_else(|| said.strip_prefix("microvm-spectrum: "));
            let line = line.unwrap_or_else(|| panic!("{what}: {said:?}"));
            assert!(line.starts_with("microvm-spectrum-generator: no VMs: "), "{what}: {said}");
            assert_eq!(said.lines().count(), 1, "{what}: {said}");
            let odd = said.trim_end_matches('\n').chars().find(|c| c.is_control());
            assert_eq!(odd, None, "{what}: {said:?}");
        }
    }
}

#[test]
fn the_drop_ins_of_all_vms() {
    let host = host();
    host.vm("client").provider("netvm").provider("sys.vpn-2");
    host.vm("sys.vpn-2");
    host.vm("plain");
    host.vm("netvm");
    host.vm("broken").file("wayland", b"");
    let second = Partition::at(&host.root.join("second"));
    second.vm("plain").image("root.img", b"");
    second.vm("qemu").image("root.img", b"").provider("netvm");
    host.configure_sources(
        &[("user", &host.partition.root), ("second", &second.root)],
        "[vm.'user/netvm']\nautostart = true\n\
         [vm.'second/qemu']\nhypervisor = 'qemu'\naccel = 'tcg'\nautostart = true\n\
         [vm.'second/plain']\nautostart = true\n[vm.'user/broken']\nautostart = true\n",
    );
    run(&mut host.sync()).exits(1);
    assert_eq!(host.generation(), 1);
    let generated = generate(&host);
    generated.says_nothing();
    let normal = generated.normal;
    without_sources(&normal);

    let generation = Node::File { mode: 0o644, content: "1\n".into() };
    let mut expected: Tree = [
        ("", plain_directory()),
        (".microvm-spectrum-generation", generation),
        ("microvms.target.wants", plain_directory()),
    ]
    .map(|(path, node)| (path.into(), node))
    .into();
    let mut add = |path: String, text: String| {
        expected.insert(Path::new(&path).parent().unwrap().to_owned(), plain_directory());
        expected.insert(path.into(), Node::File { mode: 0o644, content: text.into() });
    };
    let no_stop = "# The supervisor takes a signal. A command that ran as the VM's user could be stopped by\n\
                   # a monitor that was taken over, and systemd would wait for it.\nExecStop=\n";
    let network_unit = "Wants=microvm-spectrum-network.service\nAfter=microvm-spectrum-network.service\n";
    let network = "# No network of the host's.\nPrivateNetwork=yes\n\
                   NetworkNamespacePath=/run/netns/microvm-spectrum\n";
    let needs =
        |provider: &str| format!("After=microvm@{provider}.service\nWants=microvm@{provider}.service\n");
    for (source, name, providers, more) in [
        ("user", "client", needs("netvm") + &needs("sys.vpn-2"), ""),
        ("user", "netvm", String::new(), ""),
        ("user", "plain", String::new(), ""),
        ("user", "sys.vpn-2", String::new(), ""),
        ("second", "qemu", needs("netvm"), ""),
    ] {
        let uid = host.uid(&format!("{source}/{name}"));
        let key = key_of(&normal, name);
        assert!(key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
        add(
            format!("microvm@{name}.service.d/50-microvm-spectrum.conf"),
            format!(
                "# VM {name} of {source}.\n[Unit]\n{providers}{network_unit}\n\
                 [Service]\n{no_stop}User={uid}\nGroup={uid}\n{network}{more}\
                 # It starts only as long as the catalog gives it the same key: {key}\n"
            ),
        );
        let taps = format!("microvm-tap-interfaces@{name}.service.d/50-microvm-spectrum.conf");
        add(taps, format!("# For each VM of a source.\n[Unit]\n{network_unit}\n[Service]\n{network}"));
    }
    for name in ["netvm", "qemu"] {
        let link = format!("microvms.target.wants/microvm@{name}.service");
        expected.insert(link.into(), Node::Link("../microvm@.service".into()));
    }
    assert_same(&expected, &tree::read(&normal), "the drop-ins");
}

/// The key in the drop-in of a VM.
fn key_of(normal: &Path, name: &str) -> String {
    let path = normal.join(format!("microvm@{name}.service.d/50-microvm-spectrum.conf"));
    let text = fs::read_to_string(path).unwrap();
    key_in(&text)
}

/// A source that changes all the time would otherwise keep the VMs of others from starting.
#[test]
fn a_vm_starts_whatever_changes_in_others() {
    needs!(mounts());
    let host = host();
    host.vm("a").provider("net");
    host.vm("net");
    host.synced();
    let normal = generate(&host).normal;
    let start = |name: &str| run(&mut host.set_booted_with(&normal, name));
    start("a").exits(0).says_nothing();
    host.vm("b");
    host.vm("broken").file("wayland", b"");
    fs::write(host.partition.root.join("svc/data/net/blk/more.img"), "").unwrap();
    run(&mut host.sync()).exits(1);
    assert_eq!(host.generation(), 2);
    start("a").exits(0).says_nothing();
    // Its own package may be another, too: systemd knows nothing of that.
    host.configure("[vm.a]\nmemory = 300\n");
    run(&mut host.sync()).exits(1);
    assert_eq!(host.generation(), 3);
    start("a").exits(0).says_nothing();
    // But nothing that its drop-ins say; and it needs its own.
    let refused = |name: &str| {
        let ran = start(name).exits(3);
        ran.complains(&[&format!("{name}: not started: it cannot run, or has changed"), "daemon-reload"]);
        let booted = fs::read_link(host.state.join(name).join("booted"));
        assert_eq!(booted.is_ok(), name == "a", "what it was started with last");
    };
    refused("b");
    let drop_in = |name: &str| normal.join(format!("microvm@{name}.service.d/50-microvm-spectrum.conf"));
    fs::create_dir(drop_in("b").parent().unwrap()).unwrap();
    fs::copy(drop_in("net"), drop_in("b")).unwrap();
    refused("b");
    // One that a full /run has cut short, even by its last character.
    let whole = fs::read_to_string(drop_in("a")).unwrap();
    fs::write(drop_in("a"), whole.trim_end()).unwrap();
    refused("a");
    fs::write(drop_in("a"), whole).unwrap();
    host.configure("[vm.a]\nuid = 70123\n");
    run(&mut host.sync()).exits(1);
    refused("a");
    host.configure("[vm.a]\nuid = 70000\n");
    run(&mut host.sync()).exits(1);
    start("a").exits(0).says_nothing();
    host.vm("vpn");
    fs::write(host.partition.root.join("svc/data/a/providers/net/vpn"), "").unwrap();
    run(&mut host.sync()).exits(1);
    refused("a");
    run(&mut host.set_booted("a")).exits(0).says_nothing();
}

/// systemd would watch what the owner of a partition chooses.
#[test]
fn a_broken_vm_directory_is_watched_where_it_is() {
    let host = host();
    host.vm("broken").file("wayland", b"");
    let far = Partition::at(&host.root.join("far"));
    let target = far.vm("far").file("wayland", b"").path;
    symlink(&target, host.partition.root.join("svc/data/linked")).unwrap();
    run(&mut host.sync()).exits(1);
    host.has(&[("user/broken", "broken"), ("user/linked", "broken")]);
    let normal = generate(&host).normal;
    let drop_in = normal.join("microvm-spectrum-source@user.path.d/50-microvm-spectrum.conf");
    let data = host.partition.root.join("svc/data");
    let expected =
        format!("[Path]\nPathChanged={}\nPathChanged={}\n", data.display(), data.join("broken").display());
    assert_eq!(fs::read_to_string(drop_in).unwrap(), expected);
}

/// Takes out what is there for the sources, which has tests of its own.
fn without_sources(normal: &Path) {
    for name in tree::names(normal) {
        if name.contains("-source@")
            || ["microvm-spectrum-mounts.service.wants", "multi-user.target.wants"].contains(&name.as_str())
        {
            fs::remove_dir_all(normal.join(name)).unwrap();
        }
    }
}

#[test]
fn the_other_directories_need_not_be_given() {
    let host = host();
    host.vm("a");
    host.synced();
    let output = host.root.join("not/there/yet");
    run(host.unit_calls(&["generate"]).arg(&output)).exits(0).says_nothing();
    // Of the VM, of its source, what watches it, and which generation it is.
    let names = tree::names(&output);
    assert_eq!(names.iter().filter(|name| name.contains("@a.service.d")).count(), 2);
    assert_eq!(names.len(), 2 + 4, "{names:?}");
    // Relative to the working directory.
    run(host.unit_calls(&["generate", "here"]).current_dir(&host.root)).exits(0).says_nothing();
    assert_same(&tree::read(&output), &tree::read(&host.root.join("here")), "the same");
}

#[test]
fn without_a_catalog_there_is_nothing_to_say() {
    let host = host();
    // sync was never called, it never finished, or its file system is mounted later.
    let steps: [&dyn Fn(); 3] = [&|| {}, &|| fs::create_dir_all(host.own("generations")).unwrap(), &|| {
        std::os::unix::fs::symlink("generations/1", host.own("current")).unwrap()
    }];
    for step in steps {
        step();
        let generated = generate(&host);
        generated.says_nothing();
        assert_eq!(tree::names(&generated.normal), [""; 0]);
    }
}

/// A catalog with one VM that can run.
fn catalog() -> Value {
    json!({"version": 1, "generation": 1, "sources": [], "leases": [], "vms": [{
        "name": "a", "source": "s", "directory": "/d", "state": "runnable", "uid": 70000,
        "hypervisor": "qemu", "package": "a-1", "autostart": true, "files": [],
        "links": [{"provider": "net", "id": "a546", "ipv4": "100.64.165.70"}],
    }]})
}

fn install(host: &Host, text: impl AsRef<[u8]>) {
    fs::create_dir_all(host.own("generations/1")).unwrap();
    fs::write(host.own("generations/1/catalog.json"), text).unwrap();
    let _ = fs::remove_file(host.own("current"));
    std::os::unix::fs::symlink("generations/1", host.own("current")).unwrap();
}

#[test]
fn a_catalog_that_cannot_be_read() {
    let host = host();
    let good = catalog().to_string();
    install(&host, &good);
    assert_eq!(tree::names(&generate(&host).normal).len(), 4, "the good one is one");
    for bad in [
        &b""[..],
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"{\"version\": 1}",
        &good.as_bytes()[..good.len() - 1],
        format!("{good}{good}").as_bytes(),
        good.replace("\"version\":1", "\"version\":2").as_bytes(),
        good.replace("\"version\":1", "\"version\":0").as_bytes(),
        good.replace("\"version\":1", "\"version\":\"1\"").as_bytes(),
        good.replace("\"version\":1", "\"more\":1,\"version\":1").as_bytes(),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes(),
    ] {
        assert_ne!(bad, good.as_bytes());
        install(&host, bad);
        let what = String::from_utf8_lossy(&bad[..bad.len().min(200)]).into_owned();
        generate(&host).is_nothing(&what);
    }
    // What is no file.
    fs::remove_file(host.own("generations/1/catalog.json")).unwrap();
    fs::create_dir(host.own("generations/1/catalog.json")).unwrap();
    generate(&host).is_nothing("a directory");
}

#[test]
fn a_catalog_that_another_program_changed() {
    let host = host();
    let text = |text: &str| Value::String(text.to_owned());
    for (place, bad) in [
        ("/vms/0/name", text("../../etc/x")),
        ("/vms/0/name", text("a/b")),
        ("/vms/0/name", text("..")),
        ("/vms/0/name", text("")),
        ("/vms/0/name", text("a\nb")),
        ("/vms/0/name", text("a b")),
        ("/vms/0/name", text("%i")),
        ("/vms/0/name", text(&"n".repeat(65))),
        ("/vms/0/name", json!(1)),
        ("/vms/0/source", text("s\n[Service]\nUser=root")),
        ("/vms/0/source", text("s\rx")),
        ("/vms/0/links/0/provider", text("net\nExecStart=/bin/sh")),
        ("/vms/0/links/0/provider", text("net.service root.service ")),
        ("/vms/0/links/0/provider", text("")),
        ("/vms/0/links/0/ipv4", text("100.64.165.70\n")),
        ("/vms/0/uid", json!(0)),
        ("/vms/0/uid", json!(1000)),
        ("/vms/0/uid", json!(65_535)),
        ("/vms/0/uid", json!(u32::MAX)),
        ("/vms/0/uid", json!(-1)),
        ("/vms/0/uid", text("70000")),
        ("/vms/0/uid", text("root")),
        ("/vms/0/uid", json!(70000.5)),
        ("/vms/0/uid", json!(4_294_967_296_u64)),
        ("/vms/0/hypervisor", text("xen\n")),
        ("/vms/0/autostart", text("yes")),
        ("/vms/0/directory", text("/d\u{1b}[31m")),
        ("/vms/0/links/0/id", text("a546\u{202e}")),
        ("/vms/0/state", text("running")),
        ("/generation", json!(-1)),
        ("/generation", text("1\n[Service]")),
        ("/generation", json!(1.5)),
    ] {
        let mut catalog = catalog();
        *catalog.pointer_mut(place).unwrap() = bad.clone();
        install(&host, catalog.to_string());
        generate(&host).is_nothing(&format!("{place}: {bad}"));
        // Nor does anybody else make something of it.
        let listed = run(&mut host.call(&["list"]));
        assert!(!listed.stdout.contains("70000") && !listed.stdout.contains("etc"), "{}", listed.stdout);
    }
}

#[test]
fn a_boot_goes_on_whatever_is_wrong() {
    let host = host();
    host.vm("a");
    host.synced();
    // A place where nothing can be written.
    let file = host.root.join("file");
    fs::write(&file, "").unwrap();
    for output in [file.join("x"), "/proc/nowhere".into()] {
        run(host.unit_calls(&["generate"]).arg(output)).exits(0);
    }
    // A state directory whose path cannot be part of a unit file.
    for name in ["a b", "a%i", "a\nb"] {
        let odd = host.root.join(name);
        run(&mut host.sync_to(&odd)).exits(0).warns_of_nothing();
        let output = host.root.join("output");
        let mut command = crate::support::program::call(["host", "--state-dir"]);
        run(command.arg(&odd).arg("generate").arg(&output)).exits(0);
        assert!(!output.exists(), "{name:?}");
    }
}

#[test]
fn a_vm_whose_drop_ins_are_incomplete_does_not_start() {
    let host = host();
    let mut catalog = catalog();
    catalog["vms"][0]["uplink"] = json!({"ports": []});
    install(&host, catalog.to_string());
    // microvm-set-booted@ looks at this one alone.
    let own = "microvm@a.service.d";
    let mut all = tree::names(&generate(&host).normal);
    all.retain(|name| name.ends_with("@a.service.d"));
    assert!(all.len() == 3 && all.iter().any(|name| name == own), "{all:?}");
    for helper in all.iter().filter(|name| *name != own) {
        let output = host.root.join(format!("without-{helper}"));
        fs::create_dir(&output).unwrap();
        fs::write(output.join(helper), "a file in the place of a directory").unwrap();
        run(host.unit_calls(&["generate"]).arg(&output)).exits(0);
        assert!(!output.join(own).exists(), "{helper}");
    }
}

#[test]
fn a_catalog_in_which_two_vms_have_the_same() {
    let host = host();
    for (name, uid, fine) in [("b", 70_001, true), ("a", 70_001, false), ("b", 70_000, false)] {
        let mut two = catalog();
        let mut second = two["vms"][0].clone();
        second["name"] = json!(name);
        second["uid"] = json!(uid);
        two["vms"].as_array_mut().unwrap().push(second);
        install(&host, two.to_string());
        let generated = generate(&host);
        if fine {
            assert!(generated.normal.join("microvm@b.service.d").is_dir());
        } else {
            generated.is_nothing(&format!("{name} {uid}"));
        }
    }
}
