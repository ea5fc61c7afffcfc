// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What `sync` and the generator cost, and how that grows: `make benchmark`.
//!
//! The program runs as a process on sources with more and more VMs. Each figure
//! stands beside that of plain programs that read or write the same number of
//! small files in the same run. A goal that is missed is printed, and fails nothing.
//!
//! Most is in memory: on a disk, waiting for it would be most of the time, and ext4 looks
//! at each inode that was deleted in the last minutes, by any program, before it makes a
//! new file. What a first sync costs there is measured on an ext4 of its own, beside `cp -a`
//! of the finished tree, so that what the file system costs cancels out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::program::{PROGRAM, TOOLS, call, quiet};
use support::vm_directory::Partition;
use wait4::Wait4 as _;

/// How many VMs there are.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// How many are clients of one provider.
const CLIENTS: usize = 9;
/// How often each is measured with so many VMs; the median is printed.
const RUNS: [usize; 4] = [9, 7, 5, 3];
/// How much more than ten times ten times as many VMs may cost.
const TOLERANCE: f64 = 1.3;
/// What is less says nothing of growth.
const MIN_GROWING: f64 = 0.005;
/// Set for a part of the benchmark in mounts of its own: [`UNITS`] or [`DISK`].
const INSIDE: &str = "MICROVM_SPECTRUM_BENCHMARK";
/// There, VMs have users of their own.
const UNITS: &str = "units";
/// There, the state directory is on a new ext4.
const DISK: &str = "disk";
/// How many VMs are installed on a disk.
const DISK_SIZES: [usize; 2] = [100, 1_000];
/// How long after a change sync can remember what it reads, and a little more.
const SETTLED: Duration = Duration::from_millis(2_500);
/// Where those mounts show the directory that the benchmark works in: a directory
/// for temporary files is not seen by units.
const SHOWN: &str = "/run/benchmark";

fn main() {
    // `cargo test --benches` and the like only want to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    match std::env::var(INSIDE).as_deref() {
        Ok(DISK) => return report_disk(Path::new(SHOWN)),
        Ok(_) => {
            println!("\nas in units: VMs have accounts of their own, and can read their files");
            return report(Path::new(SHOWN), Layout::Groups, true);
        }
        Err(_) => {}
    }
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let floor = measure(call(["--version"]));
    println!("the program's --version: {floor}");
    println!("\nsync --no-systemd, one provider for {CLIENTS} clients");
    report(directory.path(), Layout::Groups, false);
    println!("\nsync --no-systemd, one provider for all");
    report(directory.path(), Layout::Star, false);
    let shown = "mount -t tmpfs none /run && mkdir /run/benchmark";
    if !inside(UNITS, &format!("{shown} && mount --bind \"$1\" {SHOWN}"), directory.path()) {
        println!("skipped: VMs with users of their own: only root can have mounts of its own");
    }
    // On a disk, where there is one: in memory, the file system's own waiting would be left out.
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(4 << 30).unwrap();
    let mount = format!("{shown} && mkfs.ext4 -q -F \"$1\" && mount -o loop \"$1\" {SHOWN}");
    if !inside(DISK, &mount, image.path()) {
        println!("skipped: a first sync on ext4: only root can mount one");
    }
}

/// Runs a part of the benchmark in mounts of its own, which `script` makes of `$1`.
fn inside(part: &str, script: &str, path: &Path) -> bool {
    let script = format!("{script} && shift && exec \"$@\"");
    let mut inside = quiet("unshare");
    inside.args(["--mount", "sh", "-c", &script, "sh"]).arg(path);
    inside.arg(std::env::current_exe().unwrap()).arg("--bench");
    inside.env(INSIDE, part).status().is_ok_and(|status| status.success())
}

/// Measures a first sync on a disk, beside a copy of what it has made.
fn report_disk(root: &Path) {
    println!("\non a new ext4: a first sync --no-systemd beside cp -a of what it has made");
    println!("   VMs  what                   wall             CPU          peak  CPU/cp -a");
    let mut report = Report::default();
    for vms in DISK_SIZES {
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut place = Place::with(memory.path(), vms, Layout::Groups, false);
        place.state = root.join("state");
        let copy = root.join("copy");
        let flush =
            || assert!(Command::new("sync").arg("--file-system").arg(root).status().unwrap().success());
        let all: Vec<_> = (0..5)
            .map(|_| {
                [&place.state, &copy].into_iter().for_each(|path| remove(path));
                flush();
                let synced = place.sync();
                place.assert_runnable();
                flush();
                (synced, plain("cp", ["-a".as_ref(), place.state.as_os_str(), copy.as_os_str()]))
            })
            .collect();
        let (synced, copied): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let (synced, copied) = (median(&synced), median(&copied));
        let ratio = synced.cpu / copied.cpu;
        println!("{vms:6}  cold             {synced}  {ratio:9.2}");
        report.goal(
            ratio <= 1.1,
            &format!("cold on ext4, {vms} VMs: {ratio:.2} times the CPU time of cp -a, goal at most 1.1"),
        );
    }
    report.goals.iter().for_each(|goal| println!("{goal}"));
}

/// Who provides whom with networks.
#[derive(Clone, Copy)]
enum Layout {
    /// One provider for nine clients.
    Groups,
    /// One provider for all.
    Star,
}

/// What a process has used: seconds and bytes.
#[derive(Clone, Copy, Default)]
struct Used {
    wall: f64,
    cpu: f64,
    peak: u64,
}

impl std::fmt::Display for Used {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wall, cpu, peak } = self;
        write!(f, "{wall:8.3} s  {cpu:8.3} s CPU  {:7.1} MB", mega(*peak))
    }
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Runs to the end and tells what it used.
///
/// This process keeps little in memory itself, since what it had counts for what it
/// starts (`getrusage(2)`, `ru_maxrss`).
fn measure(mut command: Command) -> Used {
    let shown = format!("{command:?}");
    let begin = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    let ended = child.wait4().unwrap();
    let wall = begin.elapsed().as_secs_f64();
    assert!(ended.status.success(), "{shown}: {errors}");
    let cpu = (ended.rusage.utime + ended.rusage.stime).as_secs_f64();
    Used { wall, cpu, peak: ended.rusage.maxrss }
}

/// The median of each figure by itself.
fn median(all: &[Used]) -> Used {
    let of = |figure: &dyn Fn(&Used) -> f64| {
        let mut figures: Vec<_> = all.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Used { wall: of(&|u| u.wall), cpu: of(&|u| u.cpu), peak: of(&|u| u.peak as f64) as u64 }
}

fn repeat(runs: usize, mut run: impl FnMut(usize) -> Used) -> Used {
    median(&(0..runs).map(&mut run).collect::<Vec<_>>())
}

/// Sources, a configuration and a state directory.
struct Place {
    root: PathBuf,
    partition: Partition,
    state: PathBuf,
    vms: usize,
    for_units: bool,
}

impl Place {
    /// `vms` VMs that link to a common kernel and image, as Spectrum's own do.
    fn with(root: &Path, vms: usize, layout: Layout, for_units: bool) -> Self {
        let root = root.join(vms.to_string());
        let partition = Partition::at(&root.join("partition"));
        fs::create_dir(partition.root.join("img")).unwrap();
        fs::write(partition.root.join("img/vmlinux"), support::vm_directory::elf_header()).unwrap();
        fs::write(partition.root.join("img/root.img"), [0; 4096]).unwrap();
        for number in 0..vms {
            let share = format!("shares/{number}");
            fs::create_dir_all(partition.root.join(&share)).unwrap();
            let provider = match layout {
                Layout::Groups => number - number % (CLIENTS + 1),
                Layout::Star => 0,
            };
            let vm = partition.root.join(format!("svc/data/vm-{number}"));
            fs::create_dir_all(vm.join("blk")).unwrap();
            // As this host sees it, not as Spectrum: plain programs follow them, too.
            symlink(partition.root.join("img/vmlinux"), vm.join("vmlinux")).unwrap();
            symlink(partition.root.join("img/root.img"), vm.join("blk/root.img")).unwrap();
            fs::create_dir_all(vm.join("shared-dirs/files")).unwrap();
            symlink(partition.root.join(share), vm.join("shared-dirs/files/dir")).unwrap();
            if provider != number {
                fs::create_dir_all(vm.join("providers/net")).unwrap();
                fs::write(vm.join(format!("providers/net/vm-{provider}")), "").unwrap();
            }
        }
        let tools: String = TOOLS.iter().map(|tool| format!("{tool} = '/usr/bin/{tool}'\n")).collect();
        let path = partition.root.display();
        let config = format!(
            "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{path}'\nmax-vms = 10000\n[defaults]\nautostart = true\n\
             [tools]\n{tools}"
        );
        fs::write(root.join("config.toml"), config).unwrap();
        Self { state: root.join("state"), root, partition, vms, for_units }
    }

    fn sync(&self) -> Used {
        let mut command = call(["sync", "--config"]);
        command.arg(self.root.join("config.toml")).arg("--state-dir").arg(&self.state);
        if !self.for_units {
            command.arg("--no-systemd");
        }
        measure(command)
    }

    /// All can run: else less than it seems was measured.
    fn assert_runnable(&self) {
        let catalog = File::open(self.state.join(".microvm-spectrum/current/catalog.json")).unwrap();
        let (mut states, mut runnable) = (0, 0);
        for line in BufReader::new(catalog).lines().map(Result::unwrap) {
            states += usize::from(line.contains("\"state\": "));
            runnable += usize::from(line.contains("\"state\": \"runnable\""));
        }
        assert_eq!((states, runnable), (self.vms, self.vms));
    }

    fn generation(&self) -> PathBuf {
        fs::read_link(self.state.join(".microvm-spectrum/current")).unwrap()
    }

    fn packages(&self) -> usize {
        fs::read_dir(self.state.join(".microvm-spectrum/packages")).unwrap().count()
    }
}

fn remove(path: &Path) {
    // Another process, since what this one has used counts for what it starts.
    assert!(Command::new("rm").arg("-rf").arg(path).status().unwrap().success());
}

fn plain<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Used {
    let mut command = quiet(program);
    command.args(arguments);
    measure(command)
}

/// Measures everything with each number of VMs, and says which goals were met.
fn report(root: &Path, layout: Layout, for_units: bool) {
    let mut report = Report::default();
    report.sizes(root, layout, for_units);
    report.goals.iter().for_each(|goal| println!("{goal}"));
}

/// Which goals were met, and which were not.
#[derive(Default)]
struct Report {
    goals: Vec<String>,
}

impl Report {
    fn sizes(&mut self, root: &Path, layout: Layout, for_units: bool) {
        println!("   VMs  what                   wall             CPU          peak  CPU/plain  CPU/tenth");
        let mut before: Option<Vec<Used>> = None;
        let mut worst: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for (vms, runs) in SIZES.into_iter().zip(RUNS) {
            let place = Place::with(root, vms, layout, for_units);
            let lines = lines(&place, runs);
            for (index, (what, used, baseline)) in lines.iter().enumerate() {
                let of_plain = baseline.map(|b| format!("{:9.2}", used.cpu / b.cpu)).unwrap_or_default();
                let tenth = before.as_ref().map(|before| before[index].cpu);
                let growth = tenth.map(|tenth| used.cpu / tenth);
                let shown = growth.map(|growth| format!("{growth:9.1}")).unwrap_or_default();
                println!("{vms:6}  {what:16} {used}  {of_plain:9}  {shown}");
                if let Some(growth) = growth.filter(|_| tenth >= Some(MIN_GROWING)) {
                    let worst = worst.entry(what).or_default();
                    *worst = if growth > worst.0 { (growth, vms) } else { *worst };
                }
            }
            self.goals_of(vms, &lines);
            before = Some(lines.into_iter().map(|(_, used, _)| used).collect());
            remove(&place.root);
        }
        for (what, (growth, vms)) in worst {
            let goal = 10.0 * TOLERANCE;
            self.goal(
                growth <= goal,
                &format!(
                    "{what}: CPU time of {vms} VMs {growth:.1} times that of a tenth, goal at most {goal}"
                ),
            );
        }
    }

    fn goals_of(&mut self, vms: usize, lines: &[(&str, Used, Option<Used>)]) {
        let used = |what: &str| lines.iter().find(|line| line.0 == what).map_or_else(Used::default, |l| l.1);
        let mut seconds = |what: &str, figure: f64, goal: f64| {
            self.goal(figure < goal, &format!("{what}, {vms} VMs: {figure:.3} s, goal under {goal} s"));
        };
        match vms {
            100 if used("generator").cpu > 0.0 => seconds("generator (CPU)", used("generator").cpu, 0.005),
            1_000 => {
                seconds("generator (CPU)", used("generator").cpu, 0.06);
                seconds("cold (CPU)", used("cold").cpu, 0.5);
                seconds("nothing changed (CPU)", used("nothing changed").cpu, 0.03);
            }
            10_000 => {
                seconds("nothing changed (CPU)", used("nothing changed").cpu, 0.5);
                let peak = mega(lines.iter().map(|line| line.1.peak).max().unwrap());
                self.goal(peak < 200.0, &format!("peak memory, {vms} VMs: {peak:.0} MB, goal under 200 MB"));
            }
            _ => {}
        }
    }

    fn goal(&mut self, met: bool, text: &str) {
        self.goals.push(format!("{}  {text}", if met { "met   " } else { "MISSED" }));
    }
}

/// Everything that is measured with one number of VMs, with what plain programs
/// take for the same.
fn lines(place: &Place, runs: usize) -> Vec<(&'static str, Used, Option<Used>)> {
    let Place { root, partition, vms, state, .. } = place;
    let cold = repeat(runs, |_| {
        remove(state);
        let used = place.sync();
        place.assert_runnable();
        used
    });
    assert_eq!(place.packages(), *vms);
    let copy = root.join("copy");
    let written = repeat(runs, |_| {
        remove(&copy);
        plain("cp", [OsStr::new("-R"), state.as_os_str(), copy.as_os_str()])
    });
    remove(&copy);
    let generation = place.generation();
    // The first one after that reads everything once more.
    std::thread::sleep(SETTLED);
    place.sync();
    let unchanged = repeat(runs, |_| place.sync());
    assert_eq!(place.generation(), generation, "something has changed");
    // All files of all definitions: their names, and their first kilobyte.
    let definitions = partition.root.join("svc/data");
    let mut find: Vec<&OsStr> = vec!["-L".as_ref(), definitions.as_ref()];
    find.extend(["-type", "f", "-exec", "head", "-qc", "1024", "{}", "+"].map(OsStr::new));
    let read = repeat(runs, |_| plain("find", &find));
    let image = partition.root.join(format!("svc/data/vm-{}/blk/second.img", vms - 1));
    let changed = repeat(runs, |_| {
        match image.symlink_metadata() {
            Ok(_) => fs::remove_file(&image).unwrap(),
            Err(_) => symlink(partition.root.join("img/root.img"), &image).unwrap(),
        }
        let generation = place.generation();
        let used = place.sync();
        assert_ne!(place.generation(), generation, "nothing has changed");
        used
    });
    let mut lines = vec![
        ("cold", cold, Some(written)),
        ("nothing changed", unchanged, Some(read)),
        ("one VM changed", changed, Some(read)),
    ];
    let output = root.join("units");
    let generator = repeat(runs, |_| {
        remove(&output);
        let directories = ["normal", "early", "late"].map(|name| output.join(name));
        let mut command = call(["host", "--state-dir"]);
        command.arg(state).arg("generate").args(&directories);
        let used = measure(command);
        let written = fs::read_dir(output.join("normal")).map_or(0, Iterator::count);
        // For each VM and each of its units, and for those that start with the host.
        if rustix::process::geteuid().is_root() {
            assert!(written > *vms, "{written}");
        }
        used
    });
    if rustix::process::geteuid().is_root() {
        let copied = repeat(runs, |_| {
            remove(&copy);
            plain("cp", [OsStr::new("-R"), output.as_os_str(), copy.as_os_str()])
        });
        lines.push(("generator", generator, Some(copied)));
    }
    let mut list = call(["list", "--json", "--state-dir"]);
    list.arg(state);
    let list: Vec<_> =
        std::iter::once(list.get_program()).chain(list.get_args()).map(OsStr::to_owned).collect();
    lines.push(("list", repeat(runs, |_| plain(PROGRAM, &list[1..])), None));
    lines
}
