// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is built: the flake's example VMs, and packages of directories that are
//! there at evaluation and of those that come out of a build.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use microvm_spectrum::config::Config;
use serde_json::{Value, json};

use crate::real_nix::{Nix, done, nix};
use crate::support::skip::needs;
use crate::support::vm_directory::VmDirectory;

pub const EXAMPLES: [&str; 3] = ["appvm-hello", "appvm-online", "netvm"];

fn manifest(package: &Path) -> Value {
    let text = fs::read_to_string(package.join("share/microvm-spectrum/manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_example_vms() {
    let nix = needs!(nix());
    for name in EXAMPLES {
        let package = nix.build(&format!("vm-{name}"));
        let manifest = manifest(&package);
        assert_eq!(manifest["name"], name);
        // All that it takes is in its closure: nothing of this machine by accident.
        let closure =
            done(nix.call("nix-store", [Path::new("--query"), Path::new("--requisites"), &package]));
        let text = manifest.to_string();
        let mut paths = 0;
        for path in text.split('"').filter(|part| part.starts_with('/') && *part != "/nix/store") {
            let root: Vec<_> = path.split('/').take(4).collect();
            assert!(
                closure.lines().any(|line| line == root.join("/")),
                "{name}: {path} is not in its closure"
            );
            paths += 1;
        }
        assert!(paths >= 5, "{text}");
        // PATH decides nothing, and a second build gives the same.
        done(nix.flake(&["build", "--no-link", "--rebuild"], &format!("#vm-{name}")));
    }
    let online = manifest(&nix.build("vm-appvm-online"));
    assert_eq!(online["interfaces"][0]["provider"], "netvm");
    assert_eq!(
        online["interfaces"][0]["link"],
        nix.value("packages.x86_64-linux.vm-appvm-online.linkIds")["netvm"]
    );
}

/// A VM directory beside the tests: it is there when Nix evaluates.
fn vm(nix: &Nix, test: &str) -> VmDirectory {
    VmDirectory::at(&nix.work(test).join("vm")).image("root.img", b"root")
}

#[test]
fn a_directory_with_links_to_the_host_that_will_run_it() {
    let nix = needs!(nix());
    let vm = vm(nix, "links").provider("netvm").share("home", "/ext/home/user");
    let build = |more: &str| {
        nix.build_expression(&format!(
            "library.mkRunner {{ inherit pkgs; vmDir = {}; {more} }}",
            vm.path.display()
        ))
    };
    let package = build(r#"allow."/ext" = "/srv/partition"; linkIds.netvm = "A546";"#).unwrap();
    let found = manifest(&package);
    assert_eq!((&found["name"], &found["hypervisor"]), (&json!("vm"), &json!("cloud-hypervisor")));
    assert_eq!(found["shares"][0]["source"], "/srv/partition/home/user");
    assert_eq!(found["interfaces"][0]["link"], "a546");
    assert!(package.join("bin/tap-up").is_file() && package.join("bin/virtiofsd-run").is_file());
    // Each tool can be another.
    let other =
        build(r#"allow."/ext" = "/x"; virtiofsd = pkgs.runCommand "other" { } "mkdir $out";"#).unwrap();
    assert!(manifest(&other)["tools"]["virtiofsd"].as_str().unwrap().ends_with("-other/bin/virtiofsd"));
    // Where a link leads off the partition, and no argument says where that is.
    let said = build("").unwrap_err();
    assert!(said.contains("shared-dirs/home/dir") && said.contains("does not exist"), "{said}");
    // The error names the argument that Nix takes.
    let image = vm.path.join("blk/far.img");
    symlink("/usr/img/far.img", &image).unwrap();
    let said = build(r#"allow."/ext" = "/srv";"#).unwrap_err();
    let help = "have the administrator add its directory to 'allow'";
    assert!(said.contains("blk/far.img") && said.contains(help) && !said.contains("--allow"), "{said}");
    fs::remove_file(image).unwrap();
    // What was said of the link is compared with it.
    let said = build(r#"allow."/ext" = "/srv"; shares.home = "/srv/other";"#).unwrap_err();
    assert!(said.contains("leads to /srv/home/user, but /srv/other was declared"), "{said}");
}

#[test]
fn all_problems_of_a_directory_fail_its_build() {
    let nix = needs!(nix());
    let vm = vm(nix, "problems").kernel(b"not a kernel").without("blk/root.img");
    symlink("/dev/sda", vm.path.join("blk/disk.img")).unwrap();
    let text = format!("library.mkRunner {{ inherit pkgs; vmDir = {}; }}", vm.path.display());
    let said = nix.build_expression(&text).unwrap_err();
    for part in ["vm/vmlinux", "blk/disk.img", "leads to '/dev/sda'", "nothing was built"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

#[test]
fn what_was_said_of_a_directory_before_it_was_built() {
    let nix = needs!(nix());
    let vm = vm(nix, "declared").provider("netvm").share("home", "/ext/home");
    let build = |more: &str| {
        nix.build_expression(&format!(
            "library.mkRunner {{ inherit pkgs; name = \"other-name\"; allow.\"/ext\" = \"/srv\"; {more} \
             vmDir = pkgs.runCommand \"x\" {{ }} \"cp -r ${{{}}} $out\"; }}",
            vm.path.display()
        ))
    };
    let package = build(r#"providers = [ "netvm" ]; shares = [ "home" ];"#).unwrap();
    assert_eq!(manifest(&package)["name"], "other-name");
    for (more, said) in [
        (r#"shares = [ "home" ];"#, "providers/net/netvm: exists, but was not declared"),
        (r#"providers = [ "netvm" ];"#, "shared-dirs/home/dir: exists, but was not declared"),
        (
            r#"providers = [ "netvm" "vpn" ]; shares = [ "home" ];"#,
            "providers/net/vpn: was declared, but does not exist",
        ),
        (
            r#"providers = [ "netvm" ]; shares = { home = null; b = null; };"#,
            "shared-dirs/b/dir: was declared, but does not exist",
        ),
    ] {
        let found = build(more).unwrap_err();
        assert!(found.contains(said), "{more}: {said} is not in:\n{found}");
    }
}

/// A call of `nix` on the template as it is, with the stand-in and this project for its inputs.
pub fn template(nix: &Nix, verb: &[&str], attribute: &str) -> Command {
    let mut command = nix.call("nix", verb);
    let template = nix.project().join("templates/default");
    command.arg("--no-write-lock-file").arg(format!("path:{}{attribute}", template.display()));
    for (input, place) in [("nixpkgs", nix.nixpkgs()), ("microvm-spectrum", nix.project())] {
        command.args(["--override-input", input]).arg(format!("path:{}", place.display()));
    }
    command
}

#[test]
fn the_template() {
    let nix = needs!(nix());
    done(template(nix, &["flake", "check", "--print-build-logs"], ""));
    // Its host runs just the VM that is built.
    let hello = done(template(nix, &["build", "--no-link", "--print-out-paths"], "#vm-hello"));
    let host = "#nixosConfigurations.host.config.services.microvm-spectrum.vms.hello.finalRunner";
    assert_eq!(done(template(nix, &["eval", "--raw"], host)), hello.trim());
}

/// A flake with a host that has these settings of the module.
fn host(nix: &Nix, test: &str, settings: &str) -> impl Fn(&str) -> Command {
    let directory = nix.work(test);
    let text = format!(
        "{{ outputs = {{ nixpkgs, microvm-spectrum, ... }}: {{ host = nixpkgs.lib.nixosSystem {{ \
           system = \"x86_64-linux\"; \
           modules = [ microvm-spectrum.nixosModules.default ({{ pkgs, ... }}: {{ \
             fileSystems.\"/\" = {{ }}; boot.loader.systemd-boot.enable = true; system.stateVersion = \"26.05\"; \
             services.microvm-spectrum = {{ enable = true; {settings} }}; }}) ]; }}; }}; \
         inputs.nixpkgs.url = \"path:{}\"; inputs.microvm-spectrum.url = \"path:{}\"; \
         inputs.microvm-spectrum.inputs.nixpkgs.follows = \"nixpkgs\"; }}\n",
        nix.nixpkgs().display(),
        nix.project().display(),
    );
    fs::write(directory.join("flake.nix"), text).unwrap();
    move |option| {
        let mut command =
            nix.call("nix", ["build", "--no-link", "--print-out-paths", "--no-write-lock-file"]);
        command.arg(format!("path:{}#host.config.{option}", directory.display()));
        command
    }
}

/// On a host the module's own package, whichever that is, is what its VMs call.
#[test]
fn a_vm_of_the_module() {
    let nix = needs!(nix());
    let vm = vm(nix, "module");
    let settings = format!(
        "package = pkgs.runCommand \"patched\" {{ }} \
           \"mkdir $out; cp -r ${{microvm-spectrum.packages.x86_64-linux.default}}/* $out/\"; \
         vms.vm = {{ vmDir = ./{}; hypervisor = \"qemu\"; memory = 77; }};",
        vm.path.file_name().unwrap().display()
    );
    let host = host(nix, "module", &settings);
    let package = done(host("services.microvm-spectrum.vms.vm.finalRunner"));
    let manifest = manifest(Path::new(package.trim()));
    assert_eq!((&manifest["hypervisor"], &manifest["memory_mib"]), (&json!("qemu"), &json!(77)));
    let program = manifest["tools"]["microvm-spectrum"].as_str().unwrap();
    assert!(program.ends_with("-patched/bin/microvm-spectrum"), "{program}");
    let config = Config::read(Path::new(done(host("services.microvm-spectrum.configFile")).trim())).unwrap();
    assert_eq!(config.runners().map(|(_, runner)| runner).collect::<Vec<_>>(), [Path::new(package.trim())]);
}

/// The program refuses it in the build of the host, before a switch; what else it refuses there is in
/// `modules::what_the_program_refuses_in_a_configuration`.
#[test]
fn a_refused_configuration() {
    let nix = needs!(nix());
    let settings = "settings.uids.first = 1000; sources = [ \
        { kind = \"builtin\"; name = \"a\"; path = \"/srv/vms\"; } \
        { kind = \"builtin\"; name = \"b\"; path = \"/srv/vms\"; } ];";
    let output = host(nix, "refused", settings)("system.build.toplevel").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for part in [
        "the user ids 1000 to 89999 are not a valid range",
        "the sources a and b are the same place",
        "keys of services.microvm-spectrum.settings; source is services.microvm-spectrum.sources",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
