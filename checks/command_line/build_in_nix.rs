// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `build` as `lib.mkRunner` calls it: shared directories of another host, what was
//! declared of a VM directory, and what identifies the package.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::program::{Ran, build, parse, run};
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

struct Place {
    _guard: tempfile::TempDir,
    root: PathBuf,
}

fn place() -> Place {
    let (guard, root) = workplace();
    Place { _guard: guard, root }
}

impl Place {
    fn vm(&self) -> VmDirectory {
        Partition::at(&self.root.join("p")).vm("vm").image("root.img", b"")
    }

    fn build(&self, vm: &VmDirectory, options: &[&str]) -> Ran {
        run(build(&vm.path, &self.root.join("out"), "qemu").args(options).arg("--force"))
    }

    fn manifest(&self) -> serde_json::Value {
        let text = fs::read_to_string(self.root.join("out/share/microvm-spectrum/manifest.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Builds with a declaration of this text.
    fn declared(&self, vm: &VmDirectory, text: &str) -> Ran {
        let file = self.root.join("declared.json");
        fs::write(&file, text).unwrap();
        self.build(vm, &["--declared", file.to_str().unwrap()])
    }
}

#[track_caller]
fn refuses(ran: Ran, path: &Path, cause: &str) {
    let ran = ran.exits(1);
    let (problems, _) = parse(&ran.stderr);
    let found = problems.iter().any(|p| p.text.contains(path.to_str().unwrap()) && p.text.contains(cause));
    assert!(problems.len() == 1 && found, "{}", ran.stderr);
}

#[test]
fn shared_directories_of_another_host_are_judged_by_their_text() {
    let place = place();
    let elsewhere = ["--allow=/ext=/srv/there", "--shares-elsewhere"];
    let vm = place.vm().share("home", "/ext/home/./user").share("store", "/nix/store/of-another-host/x");
    // Without the option they are looked at, and are not there.
    place.build(&vm, &elsewhere[..1]).exits(1).complains(&["does not exist"]);
    place.build(&vm, &elsewhere).exits(0).says_nothing();
    let sources: Vec<_> =
        place.manifest()["shares"].as_array().unwrap().iter().map(|s| s["source"].clone()).collect();
    assert_eq!(sources, ["/srv/there/home/user", "/nix/store/of-another-host/x"]);
}

#[test]
fn a_bad_text_is_refused_wherever_it_leads() {
    let place = place();
    let elsewhere = ["--allow=/ext=/srv/there", "--shares-elsewhere"];
    for (target, cause) in [
        ("/etc", "outside of the places"),
        ("/ext/../etc", "/srv/there does not exist"),
        ("/ext/svc/data/vm", "lies within a svc/data"),
        ("/ext/a\nb", "contains a line break"),
        // What leads beneath the directory's own user partition is here.
        ("../../../../../missing", "does not exist"),
    ] {
        let vm = place.vm().share("tag", target);
        let path = vm.path.join("shared-dirs/tag/dir");
        let ran = place.build(&vm, &elsewhere);
        match target.contains('\n') {
            true => refuses(ran, Path::new("/srv/there/a"), cause),
            false => refuses(ran, &path, cause),
        }
        let _ = vm.without("shared-dirs");
    }
    let vm = place.vm().share("tag", "/ext/documents");
    refuses(
        place.build(&vm, &["--shares-elsewhere"]),
        &vm.path.join("shared-dirs/tag/dir"),
        "does not exist",
    );
}

#[test]
fn a_declaration_is_compared_in_both_directions() {
    let place = place();
    let vm = place.vm().provider("netvm").share("home", "/ext/home");
    fs::create_dir_all(place.root.join("p/home")).unwrap();
    let home = place.root.join("p/home");
    let home = home.to_str().unwrap();
    let known = format!(r#"{{"providers": ["netvm"], "shares": {{"home": "{home}"}}}}"#);
    for good in [r#"{"providers": ["netvm"], "shares": {"home": null}}"#, known.as_str()] {
        place.declared(&vm, good).exits(0).says_nothing();
    }
    let bad = [
        (
            r#"{"providers": [], "shares": {"home": null}}"#,
            "providers/net/netvm",
            "exists, but was not declared",
        ),
        (
            r#"{"providers": ["netvm", "other"], "shares": {"home": null}}"#,
            "providers/net/other",
            "was declared, but does not exist",
        ),
        (r#"{"providers": ["netvm"], "shares": {}}"#, "shared-dirs/home/dir", "exists, but was not declared"),
        (
            r#"{"providers": ["netvm"], "shares": {"home": null, "b": null}}"#,
            "shared-dirs/b/dir",
            "was declared, but does not exist",
        ),
        (
            r#"{"providers": ["netvm"], "shares": {"home": "/srv/x"}}"#,
            "shared-dirs/home/dir",
            "but /srv/x was declared",
        ),
    ];
    for (text, path, cause) in bad {
        refuses(place.declared(&vm, text), &vm.path.join(path), cause);
    }
    // All differences in one go.
    let both = place.declared(&vm, r#"{"providers": [], "shares": {}}"#).exits(1);
    both.complains(&["providers/net/netvm", "shared-dirs/home/dir"]);
    for text in ["", "[]", r#"{"providers": []}"#, r#"{"providers": ["a b"], "shares": {}}"#] {
        place
            .declared(&vm, text)
            .exits(1)
            .complains(&["declared.json: is not a declaration", "write it like"]);
    }
    place.build(&vm, &["--declared=/nowhere"]).exits(1).complains(&["/nowhere: cannot be read"]);
}

#[test]
fn the_builder_decides_what_identifies_the_package() {
    let place = place();
    let vm = place.vm();
    place.build(&vm, &["--system", "/nix/store/hash-microvm"]).exits(0).says_nothing();
    let link = fs::read_link(place.root.join("out/share/microvm/system")).unwrap();
    assert_eq!(link, Path::new("/nix/store/hash-microvm"));
}
