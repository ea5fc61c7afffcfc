// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A real Nix on a machine without Nixpkgs: its configuration, a copy of the
//! project, and the stand-in with the places of this machine's tools.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::guest::part;

/// No substituter, no registry, no build during evaluation, and every build in Nix's own sandbox.
const CONFIGURATION: &str = "\
    experimental-features = nix-command flakes\n\
    allow-import-from-derivation = false\n\
    build-users-group =\n\
    eval-cache = false\n\
    flake-registry =\n\
    sandbox = true\n\
    sandbox-fallback = false\n\
    substituters =\n";
/// Where a build finds this machine's `/usr`. At its own path it would have `/usr/bin/env` and other
/// programs that no sandbox of Nix has.
const USR_IN_SANDBOX: &str = "/machine";
/// Debian's packages whose programs are those of Nixpkgs' `stdenvNoCC`, its `initialPath`.
const STANDARD: [&str; 13] = [
    "bash",
    "bzip2",
    "coreutils",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "make",
    "mawk",
    "patch",
    "sed",
    "tar",
    "xz-utils",
];
/// Those of `stdenv` besides: its compiler and linker.
const COMPILER: [&str; 3] = ["binutils-x86-64-linux-gnu", "gcc", "gcc-12"];
/// What a checkout consists of, as far as the flake reads it.
const PROJECT: [&str; 14] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSES",
    "README.md",
    "checks",
    "docs",
    "flake.lock",
    "flake.nix",
    "guest",
    "modules",
    "nix",
    "rustfmt.toml",
    "src",
    "templates",
];
/// Says that a store is these tests' own.
const OWN_STORE: &str = "/nix/.microvm-spectrum-tests";

/// A Nix that builds, and where its parts are.
pub struct Nix {
    root: PathBuf,
    /// Held until the end: another run of the tests has the same places.
    _lock: fs::File,
}

/// The Nix of this test program, or why it cannot build.
pub fn nix() -> Result<&'static Nix, &'static String> {
    static NIX: OnceLock<Result<Nix, String>> = OnceLock::new();
    NIX.get_or_init(Nix::prepare).as_ref()
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
    assert!(copied.success(), "{} was not copied", from.display());
}

/// A store is made where there is none, and another's is not touched.
fn store() -> Result<(), String> {
    if Path::new(OWN_STORE).exists() {
        let writable = rustix::fs::access("/nix/store", rustix::fs::Access::WRITE_OK);
        return writable.map_err(|_| "the tests of another user have made /nix".to_owned());
    }
    if Path::new("/nix").exists() {
        return Err("this machine has a /nix of its own: nix flake check proves it there".to_owned());
    }
    let made = fs::create_dir_all("/nix/store").and_then(|()| fs::write(OWN_STORE, ""));
    made.map_err(|error| format!("/nix cannot be made: {error}"))
}

impl Nix {
    fn prepare() -> Result<Self, String> {
        store()?;
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nix");
        fs::create_dir_all(&root).unwrap();
        let lock = fs::File::create(root.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        // What cargo has built there stays.
        for old in ["p", "nixpkgs", "nix.conf", "work"] {
            let path = root.join(old);
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            assert!(removed.is_ok() || !root.join(old).exists(), "{old} cannot be removed");
        }
        fs::create_dir_all(root.join("p")).unwrap();
        fs::create_dir_all(root.join("work")).unwrap();
        for part in PROJECT.iter().filter(|part| project(part).exists()) {
            copy(&project(part), &root.join("p").join(part));
        }
        copy(&project("checks/nix/nixpkgs"), &root.join("nixpkgs"));
        // What the module's tests know of NixOS.
        copy(&project("checks/nix/modules/nixos-stub.nix"), &root.join("nixpkgs/nixos-stub.nix"));
        if let Some(lib) = std::env::var_os("NIXPKGS_LIB").filter(|path| !path.is_empty()) {
            // A directory that holds lib/, as a checkout of nixpkgs or of nixpkgs.lib does, or lib itself.
            let lib = Path::new(&lib).canonicalize().unwrap();
            let lib = if lib.join("lib").is_dir() { lib.join("lib") } else { lib };
            fs::remove_dir_all(root.join("nixpkgs/lib")).unwrap();
            copy(&lib, &root.join("nixpkgs/lib"));
        }
        fs::create_dir_all(root.join("target")).unwrap();
        let machine = Machine::find(&root.join("target"));
        fs::write(root.join("nixpkgs/machine.json"), machine.places.to_string()).unwrap();
        let paths = machine.sandbox_paths.join(" ");
        fs::write(root.join("nix.conf"), format!("{CONFIGURATION}sandbox-paths = {paths}\n")).unwrap();
        let nix = Self { root, _lock: lock };
        nix.probe_the_sandbox()?;
        Ok(nix)
    }

    /// A build tells whether this machine lets Nix make its sandbox.
    fn probe_the_sandbox(&self) -> Result<(), String> {
        let text = "derivation { name = \"probe\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
                    args = [ \"-c\" \"echo >$out\" ]; }";
        let output = self.call("nix-build", ["--no-out-link", "--expr", text]).output().unwrap();
        if output.status.success() {
            return Ok(());
        }
        Err(format!("Nix builds nothing in its sandbox here: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// A new directory for one test.
    pub fn work(&self, name: &str) -> PathBuf {
        let path = self.root.join("work").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The copy of the project.
    pub fn project(&self) -> PathBuf {
        self.root.join("p")
    }

    /// The stand-in.
    pub fn nixpkgs(&self) -> PathBuf {
        self.root.join("nixpkgs")
    }

    /// A call of one of Nix's programs that depends on nothing of its caller.
    pub fn call<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
        let directory = crate::nix_command(program).get_program().to_owned();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", "1500"]).arg(directory).args(arguments);
        for name in
            ["NIX_CONFIG", "NIX_PATH", "NIX_REMOTE", "NIX_STORE_DIR", "NIX_USER_CONF_FILES", "NIXPKGS_LIB"]
        {
            command.env_remove(name);
        }
        command.env("NIX_CONF_DIR", &self.root).env("HOME", self.root.join("home"));
        for (name, folder) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data"), ("STATE", "state")]
        {
            command.env(format!("XDG_{name}_HOME"), self.root.join(folder));
        }
        command
    }

    /// A call of `nix` on the project's flake, with the stand-in for Nixpkgs.
    pub fn flake(&self, verb: &[&str], output: &str) -> Command {
        let mut command = self.call("nix", verb);
        command.arg(format!("path:{}{output}", self.project().display()));
        command.args(["--override-input", "nixpkgs"]).arg(format!("path:{}", self.nixpkgs().display()));
        command
    }

    /// The value of an attribute of the flake.
    pub fn value(&self, attribute: &str) -> Value {
        let text = done(self.flake(&["eval", "--json"], &format!("#{attribute}")));
        serde_json::from_str(&text).unwrap()
    }

    /// Builds an attribute of the flake; where it is then.
    pub fn build(&self, attribute: &str) -> PathBuf {
        let mut command = self.flake(
            &["build", "--no-link", "--print-out-paths", "--print-build-logs"],
            &format!("#{attribute}"),
        );
        done_command(&mut command).trim().into()
    }

    /// An expression in which `pkgs` and `library` are the stand-in's packages and the project's.
    fn expression(&self, text: &str) -> String {
        format!(
            "let pkgs = import {} {{ }}; library = import {}/nix/lib; in {text}",
            self.nixpkgs().display(),
            self.project().display()
        )
    }

    /// The value of an expression, or what Nix says.
    pub fn evaluate(&self, text: &str) -> Result<Value, String> {
        let arguments = ["--eval", "--strict", "--json", "--read-write-mode", "--expr"];
        let output = self.call("nix-instantiate", arguments).arg(self.expression(text)).output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Builds an expression's value; where it is then, or what Nix and the builder say.
    pub fn build_expression(&self, text: &str) -> Result<PathBuf, String> {
        let arguments = ["--no-out-link", "--expr"];
        let output = self.call("nix-build", arguments).arg(self.expression(text)).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim().into()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// The output of a command that must succeed.
pub fn done(mut command: Command) -> String {
    done_command(&mut command)
}

fn done_command(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the stand-in's packages are made of.
struct Machine {
    /// `machine.json`: where this machine's tools are.
    places: Value,
    /// What a build sees of this machine: Nix's setting `sandbox-paths`.
    sandbox_paths: Vec<String>,
}

impl Machine {
    fn find(target: &Path) -> Self {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into()));
        let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        let sysroot = PathBuf::from(done_command(Command::new("rustc").args(["--print", "sysroot"])).trim());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |tool: &str| {
            // Of rustup's programs those that are not rustup itself.
            let first = std::iter::once(sysroot.join("bin"));
            let rest = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
            let found = first.chain(rest).map(|directory| directory.join(tool)).find(|path| path.is_file());
            found.unwrap_or_else(|| panic!("{tool} is not in PATH"))
        };
        let parts = ["DEADNIX", "KERNEL", "NIXFMT", "VIRTIOFSD"].map(part);
        let built = |tool: &str| in_sandbox(&find(tool));
        let of = |packages: &[&str], more: &[&str]| -> BTreeMap<String, PathBuf> {
            programs_of(packages, more).into_iter().map(|tool| (tool.clone(), built(&tool))).collect()
        };
        let places = json!({
            // What builds execute.
            "bc": built("bc"),
            "bison": built("bison"),
            "busybox": built("busybox"),
            "cargo": built("cargo"),
            "cargo-clippy": built("cargo-clippy"),
            "cargo-fmt": built("cargo-fmt"),
            "clippy-driver": built("clippy-driver"),
            "deadnix": parts[0],
            "flex": built("flex"),
            "mkfs-erofs": built("mkfs.erofs"),
            "nixfmt": parts[2],
            "perl": built("perl"),
            "rustc": built("rustc"),
            "rustfmt": built("rustfmt"),
            "sfdisk": built("sfdisk"),
            "standard": of(&STANDARD, &["awk", "sh"]),
            "compiler": of(&COMPILER, &["cc"]),
            // What they read and write.
            "cargoTarget": target,
            "cargoRegistry": cargo_home.join("registry"),
            "kernel": parts[1],
            // What packages name, and VMs execute.
            "ip": find("ip"),
            "nft": find("nft"),
            "passt": find("passt"),
            "qemu": part("QEMU"),
            "virtiofsd": parts[3],
        });
        let mut sandbox_paths = vec![
            // A plain shell, like the one that NixOS puts there. Debian's busybox would run applets of its own
            // in the place of programs in PATH.
            format!("/bin/sh={}", find("dash").display()),
            format!("{USR_IN_SANDBOX}=/usr"),
            // Where loaders and compilers look, which are no programs.
            "/lib=/usr/lib".to_owned(),
            "/usr/include".to_owned(),
            "/usr/lib".to_owned(),
        ];
        if Path::new("/usr/lib64").exists() {
            sandbox_paths.push("/lib64=/usr/lib64".to_owned());
        }
        let own = [target, &cargo_home.join("registry"), &sysroot];
        let own = own.into_iter().chain(parts.iter().map(PathBuf::as_path));
        sandbox_paths
            .extend(own.filter(|path| !path.starts_with("/usr")).map(|path| path.display().to_string()));
        assert!(!sandbox_paths.iter().any(|path| path.contains(' ')), "a space in {sandbox_paths:?}");
        Self { places, sandbox_paths }
    }
}

/// Where a build finds a program of this machine.
fn in_sandbox(program: &Path) -> PathBuf {
    let program = program.canonicalize().unwrap();
    match program.strip_prefix("/usr") {
        Ok(rest) => Path::new(USR_IN_SANDBOX).join(rest),
        Err(_) => program,
    }
}

/// The names of the programs of Debian's packages, and of `more` that only links name.
fn programs_of(packages: &[&str], more: &[&str]) -> BTreeSet<String> {
    let output = Command::new("dpkg-query").arg("--listfiles").args(packages).output().unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    let own =
        files.lines().filter_map(|file| file.strip_prefix("/usr").unwrap_or(file).strip_prefix("/bin/"));
    // Debian's compiler and linker have their plain names from other packages.
    let names = own.flat_map(|name| [Some(name), name.strip_prefix("x86_64-linux-gnu-")]).flatten();
    let all = names.chain(more.iter().copied());
    all.filter(|name| Path::new("/usr/bin").join(name).is_file()).map(str::to_owned).collect()
}
