// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync` where there is a Nix store: packages in it, and what keeps what VMs
//! need from the garbage collector.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::real_nix::{Nix, done, nix};
use crate::support::program::{Ran, call, run};
use crate::support::skip::needs;
use crate::support::tree::{self, assert_same};
use crate::support::vm_directory::{Partition, VmDirectory};

/// A host whose VMs' packages go into the store.
struct Host<'a> {
    nix: &'a Nix,
    root: PathBuf,
    partition: Partition,
}

impl<'a> Host<'a> {
    fn new(nix: &'a Nix, test: &str) -> Self {
        let root = nix.work(test);
        let partition = Partition::at(&root.join("partition"));
        Self { nix, root, partition }
    }

    fn vm(&self, name: &str) -> VmDirectory {
        self.partition.vm(name).image("root.img", b"root")
    }

    /// Syncs, with more at the beginning of the configuration and at its end.
    fn sync_with(&self, more: &str, tables: &str) -> Ran {
        let config = self.root.join("config.toml");
        let path = self.partition.root.display();
        let text = format!(
            "{more}\n[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{path}'\n\
             [defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\n[tools]\nqemu-system-x86_64 = '/usr/bin/qemu'\n{tables}"
        );
        fs::write(&config, text).unwrap();
        let mut sync = call(["sync", "--no-systemd", "--config"]);
        sync.arg(&config).arg("--state-dir").arg(self.state());
        // Nix's own surroundings, in which it finds its configuration.
        let like = self.nix.call("nix-store", [""; 0]);
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => sync.env(name, value),
                None => sync.env_remove(name),
            };
        }
        let directory = std::env::var("MICROVM_SPECTRUM_TEST_NIX").unwrap();
        run(sync.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap())))
    }

    fn sync(&self, more: &str) -> Ran {
        self.sync_with(more, "")
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn catalog(&self) -> Value {
        let path = self.state().join(".microvm-spectrum/current/catalog.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn package(&self, name: &str) -> PathBuf {
        let catalog = self.catalog();
        let vm = catalog["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name).unwrap();
        vm["package"].as_str().unwrap().into()
    }

    /// What the garbage collector would leave.
    fn live(&self) -> BTreeSet<PathBuf> {
        done(self.nix.call("nix-store", ["--gc", "--print-live"])).lines().map(PathBuf::from).collect()
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // What is a root would stay for ever.
        let name = self.state().display().to_string().trim_start_matches('/').to_owned();
        let name = name.replace('-', "\\x2d").replace('/', "-");
        let _ = fs::remove_dir_all(Path::new("/nix/var/nix/gcroots/microvm-spectrum").join(name));
    }
}

#[test]
fn packages_go_into_the_store_and_stay_there_while_they_are_used() {
    let nix = needs!(nix());
    let host = Host::new(nix, "store");
    host.vm("a");
    let b = host.vm("b");
    // An image that is in the store itself.
    fs::write(host.root.join("image"), "an image of the store").unwrap();
    let image = done(
        nix.call("nix-store", ["--add"].map(PathBuf::from).into_iter().chain([host.root.join("image")])),
    );
    let image = PathBuf::from(image.trim());
    fs::remove_file(b.path.join("blk/root.img")).unwrap();
    symlink(&image, b.path.join("blk/root.img")).unwrap();
    host.sync("nix-store = true").exits(0).has_no_complaint();
    let packages = ["a", "b"].map(|name| host.package(name));
    for (package, name) in packages.iter().zip(["a", "b"]) {
        assert!(
            package.starts_with("/nix/store")
                && package.display().to_string().ends_with(&format!("-microvm-{name}"))
        );
        // Nix has computed the same path, and finds in it what it should.
        done(nix.call("nix-store", [Path::new("--verify-path"), package]));
        let current = host.state().join(name).join("current");
        assert_eq!(current.canonicalize().unwrap(), *package);
        assert!(package.join("bin/microvm-run").is_file());
    }
    assert_eq!(fs::read_dir(host.state().join(".microvm-spectrum/packages")).unwrap().count(), 0);
    assert!(!host.state().join(".microvm-spectrum/staging").exists());
    let live = host.live();
    for path in packages.iter().chain([&image]) {
        assert!(live.contains(path), "{}", path.display());
    }
    // Nothing to do is nothing done.
    let generation = host.catalog()["generation"].clone();
    host.sync("nix-store = true").exits(0).has_no_complaint();
    assert_eq!(host.catalog()["generation"], generation);
    // What runs is kept, and what no VM needs is not.
    symlink(&packages[0], host.state().join("a/booted")).unwrap();
    for name in ["a", "b"] {
        fs::remove_dir_all(host.partition.root.join("svc/data").join(name)).unwrap();
    }
    host.sync("nix-store = true").exits(0).has_no_complaint();
    let live = host.live();
    assert!(live.contains(&packages[0]));
    assert!(!live.contains(&packages[1]) && !live.contains(&image));
    fs::remove_file(host.state().join("a/booted")).unwrap();
    host.sync("nix-store = true").exits(0).has_no_complaint();
    assert!(!host.live().contains(&packages[0]));
}

#[test]
fn a_damaged_package_in_the_store_is_mended() {
    let nix = needs!(nix());
    let host = Host::new(nix, "damaged");
    host.vm("a");
    let sync = || host.sync("nix-store = true");
    sync().exits(0).has_no_complaint();
    let package = host.package("a");
    let whole = tree::read(&package);
    let writable = |path: &str| {
        let path = package.join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let damages: [&dyn Fn(); 3] = [
        &|| {
            fs::write(writable("bin/microvm-run"), "").unwrap();
        },
        &|| fs::remove_file(writable("bin").join("microvm-run")).unwrap(),
        &|| {
            for path in ["", "bin", "share", "share/microvm", "share/microvm-spectrum"] {
                writable(path);
            }
            fs::remove_dir_all(&package).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage();
        sync().exits(0).has_no_complaint();
        assert_same(&whole, &tree::read(&package), &number.to_string());
        done(nix.call("nix-store", [Path::new("--verify-path"), &package]));
        assert!(host.live().contains(&package), "{number}");
    }
    // One that is in use elsewhere stays as it is, and all else is installed.
    let root = host.root.join("root");
    let add_root = ["--realise", "--indirect", "--add-root"].map(PathBuf::from);
    done(nix.call("nix-store", add_root.into_iter().chain([root.clone(), package.clone()])));
    host.vm("b");
    damages[0]();
    sync().exits(3).complains(&["is damaged, and cannot be replaced in the store"]);
    assert!(host.state().join("b/current/bin/microvm-run").is_file());
    assert!(host.live().contains(&package));
    fs::remove_file(root).unwrap();
    sync().exits(0).has_no_complaint();
    assert_same(&whole, &tree::read(&package), "at last");
    // A new VM whose package the store has, damaged.
    fs::remove_dir_all(host.state()).unwrap();
    damages[0]();
    sync().exits(0).has_no_complaint();
    assert_same(&whole, &tree::read(&package), "a new one");
}

#[test]
fn what_vms_need_of_the_store_is_kept_wherever_their_packages_are() {
    let nix = needs!(nix());
    let host = Host::new(nix, "beside-a-store");
    let runner = nix.build("vm-appvm-hello");
    let manifest: Value = serde_json::from_str(
        &fs::read_to_string(runner.join("share/microvm-spectrum/manifest.json")).unwrap(),
    )
    .unwrap();
    let kernel = PathBuf::from(manifest["kernel"]["path"].as_str().unwrap());
    let kernel: PathBuf = kernel.components().take(4).collect();
    // A VM whose kernel is in the store, and one that was built there as a whole.
    let vm = host.vm("plain");
    fs::remove_file(vm.path.join("vmlinux")).unwrap();
    symlink(manifest["kernel"]["path"].as_str().unwrap(), vm.path.join("vmlinux")).unwrap();
    host.sync("").exits(0).has_no_complaint();
    assert!(host.package("plain").is_relative());
    assert!(host.live().contains(&kernel));
    fs::remove_dir_all(&vm.path).unwrap();
    let table = format!("[vm.appvm-hello]\nrunner = '{}'\n", runner.display());
    host.sync_with("", &table).exits(0).has_no_complaint();
    assert_eq!(host.package("appvm-hello"), runner);
    assert!(host.live().contains(&runner));
    host.sync("").exits(0).has_no_complaint();
    assert_eq!(host.catalog()["vms"].as_array().unwrap().len(), 0);
}
