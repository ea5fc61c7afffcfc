// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VM directories with hostile names and links, and what must come of them.
//!
//! [`Case::build`] puts a directory on disk and says, from what it put there
//! and nothing else, whether the directory must be refused, for which paths,
//! or what a VMM must be told.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use microvm_spectrum::directory::boundary::AllowedPrefix;
use microvm_spectrum::directory::definition::{MAX_IMAGES, MAX_PROVIDERS, MAX_SHARES};
use proptest::prelude::*;
use proptest::sample::select;
use rustix::fs::{CWD, FileType, Mode};

use crate::names::{self, Name, is_usable, is_vm_name};

/// What the links of all cases may begin with, besides the partition's places:
/// one in the other, and each for another directory.
const ALLOWED: &str = "/usr/img";
const ALLOWED_WITHIN: &str = "/usr/img/within";

/// One VM directory to be.
#[derive(Debug, Clone)]
pub struct Case {
    pub partition: Name,
    pub vm: Name,
    pub kernel: File,
    pub images: BTreeMap<Name, File>,
    pub shares: BTreeMap<Name, Share>,
    pub providers: BTreeSet<Name>,
    pub strays: Vec<Name>,
    pub wayland: bool,
}

/// What is in the place of a kernel or an image.
#[derive(Debug, Clone)]
pub enum File {
    Plain,
    Link(Link),
    /// A link to another image of the same VM, or to itself.
    Sibling(usize),
    /// A link with this text, which leads nowhere good.
    Raw(Name),
    /// A link out, see [`OUTSIDE`].
    Outside(&'static str),
}

/// What is in `shared-dirs/<tag>`.
#[derive(Debug, Clone)]
pub enum Share {
    Link(Link),
    /// `dir` is a directory, not a link.
    Directory,
    /// `dir` is a file.
    File,
    /// There is no `dir`.
    Nothing,
    /// The tag itself is a file.
    NotEvenADirectory,
    /// A link that would share VM definitions, or leads out.
    Forbidden(&'static str),
}

/// A link, by way of more links, to something.
#[derive(Debug, Clone)]
pub struct Link {
    hops: Vec<(Style, Name, Name)>,
    end: (Style, Name, Name),
    ending: Ending,
}

/// How a link's text names a place beneath the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Relative,
    RelativeDetour,
    Spectrum,
    SpectrumDetour,
    Host,
    /// Not beneath the partition, but beneath [`ALLOWED`]; only for the end.
    Allowed,
    /// The same, beneath [`ALLOWED_WITHIN`].
    AllowedWithin,
}

/// What a link leads to in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Right,
    Missing,
    /// A directory where a file should be, and the other way round.
    WrongKind,
    Fifo,
    Socket,
    Loop,
}

/// Texts of links that must never be followed to where they lead, if anywhere;
/// none of them is the name of an image that [`names`] makes.
const OUTSIDE: &[&str] = &[
    "/",
    "/dev/sda",
    "/dev/null",
    "/dev/zero",
    "/dev/stdin",
    "/dev/fdset/1",
    "/dev/fd/0",
    "/etc/passwd",
    "/etc/../etc/passwd",
    "/proc/self/exe",
    "/proc/self/fd/0",
    "/proc/1/root/etc/passwd",
    "/sys/power/state",
    "/ext/../secret",
    "/ext/../../secret",
    "/usr/img/../secret",
    "/usr/imgx/secret",
    "/extra/secret",
    "/nix/store/../../etc/passwd",
    // Right if `..` stayed at the partition's root, as in a chroot.
    "/ext/../store/file",
    "../../../../../store/file",
    "../../../../../../../../store/file",
    "../../../../../secret",
    "../../../../../../secret",
    "../../../../../../../../../../../../../../../../etc/passwd",
    "file:/etc/passwd",
    "file:../../vmlinux",
    "nbd:localhost:10810",
    "nbd:unix:/run/nbd.sock",
    "http://127.0.0.1/disk",
    "fat:rw:/etc",
    "json:{\"driver\":\"null-aio\"}",
];

/// Texts of `shared-dirs/<tag>/dir` that would share VM definitions.
const EXPOSING: &[&str] = &[
    ".",
    "..",
    "../..",
    "../../..",
    "../../../..",
    "../../../../..",
    "../../blk",
    "/ext",
    "/ext/",
    "/ext/.",
    "/ext/svc",
    "/ext/svc/data",
    "/ext/store/../svc/data",
];

fn style() -> impl Strategy<Value = Style> {
    use Style::{Host, Relative, RelativeDetour, Spectrum, SpectrumDetour};
    select(&[Relative, RelativeDetour, Spectrum, SpectrumDetour, Host][..])
}

fn link() -> BoxedStrategy<Link> {
    let ending = prop_oneof![
        60 => Just(Ending::Right),
        1 => Just(Ending::Missing),
        1 => Just(Ending::WrongKind),
        1 => Just(Ending::Fifo),
        1 => Just(Ending::Socket),
        1 => Just(Ending::Loop),
    ];
    let end = prop_oneof![4 => style(), 1 => select(&[Style::Allowed, Style::AllowedWithin][..])];
    let hops = prop::collection::vec((style(), names::name(), names::name()), 0..3);
    let link = |(hops, end, ending)| Link { hops, end, ending };
    (hops, (end, names::name(), names::name()), ending).prop_map(link).boxed()
}

fn file() -> BoxedStrategy<File> {
    prop_oneof![
        24 => Just(File::Plain),
        24 => link().prop_map(File::Link),
        2 => any::<u8>().prop_map(|n| File::Sibling(n.into())),
        1 => names::name().prop_map(File::Raw),
        1 => select(OUTSIDE).prop_map(File::Outside),
    ]
    .boxed()
}

fn share() -> BoxedStrategy<Share> {
    prop_oneof![
        48 => link().prop_map(Share::Link),
        1 => Just(Share::Directory),
        1 => Just(Share::File),
        1 => Just(Share::Nothing),
        1 => Just(Share::NotEvenADirectory),
        1 => select(EXPOSING).prop_map(Share::Forbidden),
        1 => select(OUTSIDE).prop_map(Share::Forbidden),
    ]
    .boxed()
}

/// Cases of every kind, of which a good part is to be accepted.
pub fn case() -> impl Strategy<Value = Case> {
    let partition = prop_oneof![2 => Just(Name::new("partition")), 1 => names::name()];
    let kernel = prop_oneof![2 => Just(File::Plain), 1 => file()];
    let images = prop_oneof![
        20 => prop::collection::btree_map(names::image_name(), file(), 1..4),
        1 => prop::collection::btree_map(names::image_name(), Just(File::Plain), 0..20),
    ];
    let shares = prop_oneof![
        3 => Just(BTreeMap::new()),
        10 => prop::collection::btree_map(names::tag(), share(), 0..3),
        1 => prop::collection::btree_map(names::tag(), link().prop_map(Share::Link), 0..11),
    ];
    let provider = prop_oneof![12 => names::vm_name(), 1 => Just(Name::new("own"))];
    let providers = prop_oneof![
        4 => Just(BTreeSet::new()),
        4 => prop::collection::btree_set(provider, 0..3),
        1 => prop::collection::btree_set(names::vm_name(), 0..7),
    ];
    let vm = prop_oneof![8 => names::vm_name(), 1 => Just(Name::new("own"))];
    let strays = prop::collection::vec(names::name(), 0..2);
    let wayland = prop::bool::weighted(0.2);
    (partition, vm, kernel, images, shares, providers, strays, wayland).prop_map(
        |(partition, vm, kernel, images, shares, providers, strays, wayland)| Case {
            partition,
            vm,
            kernel,
            images,
            shares,
            providers,
            strays,
            wayland,
        },
    )
}

/// What a VMM must be told about an accepted directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intended {
    pub name: String,
    pub kernel: String,
    /// In the order of the bytes of their names.
    pub images: Vec<String>,
    /// Tags and what they share, in the order of the tags' bytes.
    pub shares: Vec<(String, String)>,
    /// Sorted.
    pub providers: Vec<String>,
    /// Whether its guest shows windows, which Cloud Hypervisor cannot.
    pub wayland: bool,
}

/// What must come of a directory.
#[derive(Debug, Clone)]
pub enum Verdict {
    Accept(Intended),
    /// For each thing that is wrong, the paths of which an error may speak.
    Refuse(Vec<Vec<PathBuf>>),
}

impl Link {
    /// A single link to the right thing, beneath the partition.
    pub fn to(directory: &Name, name: &Name) -> Self {
        let end = (Style::Relative, directory.clone(), name.clone());
        Self { hops: Vec::new(), end, ending: Ending::Right }
    }
}

/// A directory on disk.
#[derive(Debug)]
pub struct Built {
    pub directory: PathBuf,
    pub allowed: Vec<AllowedPrefix>,
    pub verdict: Verdict,
}

/// What kernels and images are made of.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// A file that every kernel is a hard link of.
    pub kernel: &'a Path,
    pub image: &'a [u8],
}

struct Builder<'a> {
    partition: PathBuf,
    allowed: &'a [AllowedPrefix],
    contents: Contents<'a>,
    used: usize,
}

/// What an entry turned out to be: the file that it is, or whom to blame.
type Outcome = Result<String, Vec<PathBuf>>;

impl Case {
    /// Builds the directory beneath `base`, an existing empty directory whose
    /// path is free of links.
    pub fn build(&self, base: &Path, contents: Contents<'_>) -> Built {
        fs::write(base.join("secret"), contents.image).unwrap();
        let partition = base.join(self.partition.os());
        let vm = partition.join("svc/data").join(self.vm.os());
        fs::create_dir_all(vm.join("blk")).unwrap();
        fs::create_dir(partition.join("store")).unwrap();
        fs::write(partition.join("store/file"), contents.image).unwrap();
        let host = |name: &str| {
            let directory = base.join(if self.partition.os() == name { "other" } else { name });
            fs::create_dir(&directory).unwrap();
            directory
        };
        let allowed = vec![
            AllowedPrefix { prefix: ALLOWED.into(), directory: host("allowed") },
            AllowedPrefix { prefix: ALLOWED_WITHIN.into(), directory: host("within") },
        ];
        let mut builder = Builder { partition, allowed: &allowed, contents, used: 0 };

        let mut blame = Vec::new();
        if !is_vm_name(self.vm.bytes()) {
            blame.push(vec![vm.clone()]);
        }
        let mut settle = |outcome: Outcome| outcome.map_err(|b| blame.push(b)).ok();
        let kernel = settle(builder.file(&vm.join("vmlinux"), 3, &self.kernel, true));
        let images: Vec<_> = self.images(&mut builder, &vm).into_iter().filter_map(&mut settle).collect();
        let shares: Vec<_> =
            self.shares(&mut builder, &vm).into_iter().filter_map(|(t, o)| Some((t, settle(o)?))).collect();
        let providers: Vec<_> = self.providers(&vm).into_iter().filter_map(&mut settle).collect();
        self.add_strays(&vm);
        // Only a VM that is fine otherwise is planned, which finds this.
        let readable = blame.is_empty();
        if self.wayland {
            fs::write(vm.join("wayland"), "").unwrap();
        }
        let partition = vm.ancestors().nth(3).unwrap().to_owned();
        if readable && partition.to_str().is_none() {
            blame.push(vec![partition]);
        }
        let verdict = match kernel {
            Some(kernel) if blame.is_empty() => Verdict::Accept(Intended {
                name: String::from_utf8(self.vm.bytes().to_vec()).unwrap(),
                kernel,
                images,
                shares,
                providers,
                wayland: self.wayland,
            }),
            _ => Verdict::Refuse(blame),
        };
        Built { directory: vm, allowed, verdict }
    }

    fn images(&self, builder: &mut Builder<'_>, vm: &Path) -> Vec<Outcome> {
        let blk = vm.join("blk");
        let is_image = |name: &Name| name.bytes().ends_with(b".img") && name.bytes().len() > 4;
        let mut outcomes = BTreeMap::new();
        for (name, file) in &self.images {
            let path = blk.join(name.os());
            let outcome = match file {
                File::Sibling(_) => continue,
                file => builder.file(&path, 4, file, false),
            };
            outcomes.insert(name, outcome);
        }
        let all: Vec<_> = self.images.iter().collect();
        for (name, file) in &self.images {
            let File::Sibling(number) = file else { continue };
            let path = blk.join(name.os());
            let mut next = all[number % all.len()];
            symlink(next.0.os(), &path).unwrap();
            let mut seen = BTreeSet::from([name]);
            while let File::Sibling(number) = next.1 {
                if !seen.insert(next.0) {
                    break;
                }
                next = all[number % all.len()];
            }
            // The sibling's own name does not count, only what it leads to.
            let outcome = match outcomes.get(next.0) {
                Some(Ok(found)) => usable(Path::new(found), &path),
                Some(Err(blame)) => match next.1 {
                    File::Plain => usable(&blk.join(next.0.os()), &path),
                    File::Link(link) if link.ending == Ending::Right => usable(blame.last().unwrap(), &path),
                    _ => Err(vec![path.clone()]),
                },
                None => Err(vec![path.clone()]),
            };
            outcomes.insert(name, outcome);
        }
        let mut images = Vec::new();
        for (name, outcome) in outcomes.into_iter().filter(|(name, _)| is_image(name)) {
            let path = blk.join(name.os());
            images.push(if is_usable(name.bytes()) { outcome } else { Err(vec![path]) });
        }
        match images.len() {
            1..=MAX_IMAGES => images,
            _ => vec![Err(vec![blk])],
        }
    }

    fn shares(&self, builder: &mut Builder<'_>, vm: &Path) -> Vec<(String, Outcome)> {
        let mut shares = Vec::new();
        for (tag, share) in &self.shares {
            let parent = vm.join("shared-dirs").join(tag.os());
            let dir = parent.join("dir");
            fs::create_dir_all(vm.join("shared-dirs")).unwrap();
            if !matches!(share, Share::NotEvenADirectory) {
                fs::create_dir(&parent).unwrap();
            }
            let outcome = match share {
                Share::Link(link) => builder.link(&dir, 5, link, |path, right| {
                    if right { fs::create_dir(path) } else { fs::write(path, "") }.unwrap();
                }),
                Share::NotEvenADirectory => {
                    fs::write(&parent, "").unwrap();
                    Err(vec![parent.clone()])
                }
                other => {
                    match other {
                        Share::Directory => fs::create_dir(&dir).unwrap(),
                        Share::File => fs::write(&dir, "").unwrap(),
                        Share::Forbidden(text) => symlink(text, &dir).unwrap(),
                        _ => {}
                    }
                    Err(vec![dir.clone()])
                }
            };
            // The text files of a package have one path a line.
            let outcome = match outcome {
                Ok(source) if source.contains(['\n', '\r']) => Err(vec![PathBuf::from(source)]),
                outcome => outcome,
            };
            let text = String::from_utf8_lossy(tag.bytes()).into_owned();
            // Linux refuses a tag with a line feed (`fs/fuse/virtio_fs.c`, `virtio_fs_read_tag`).
            let good = is_usable(tag.bytes()) && tag.bytes().len() <= 36 && !tag.bytes().contains(&b'\n');
            shares.push((text, if good { outcome } else { Err(vec![parent]) }));
        }
        if shares.len() > MAX_SHARES {
            return vec![(String::new(), Err(vec![vm.join("shared-dirs")]))];
        }
        shares
    }

    fn providers(&self, vm: &Path) -> Vec<Outcome> {
        if self.providers.is_empty() {
            return Vec::new();
        }
        let net = vm.join("providers/net");
        fs::create_dir_all(&net).unwrap();
        let mut providers = Vec::new();
        for (index, name) in self.providers.iter().enumerate() {
            let path = net.join(name.os());
            // What it is does not matter.
            match index % 3 {
                0 => fs::write(&path, "").unwrap(),
                1 => fs::create_dir(&path).unwrap(),
                _ => symlink("/dev/zero", &path).unwrap(),
            }
            let good = is_vm_name(name.bytes()) && *name != self.vm;
            let text = || String::from_utf8(name.bytes().to_vec()).unwrap();
            providers.push(if good { Ok(text()) } else { Err(vec![path]) });
        }
        if providers.len() > MAX_PROVIDERS {
            return vec![Err(vec![net])];
        }
        providers
    }

    /// Adds what means nothing, where nothing of that name is.
    fn add_strays(&self, vm: &Path) {
        let known = ["vmlinux", "blk", "shared-dirs", "providers", "wayland"];
        for stray in self.strays.iter().filter(|s| known.iter().all(|k| s.os() != *k)) {
            fs::write(vm.join(stray.os()), "").unwrap();
            let other = vm.join("blk").join(stray.with_suffix(".raw").os());
            if other.symlink_metadata().is_err() {
                fs::write(other, "").unwrap();
            }
        }
    }
}

/// The path as text if it can be used, else the blame of `entry` or the path.
fn usable(path: &Path, entry: &Path) -> Outcome {
    let bytes = path.as_os_str().as_bytes();
    if is_usable(bytes) {
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    } else {
        Err(vec![entry.to_owned(), path.to_owned()])
    }
}

impl Builder<'_> {
    /// Makes the entry `at`, `depth` names beneath the partition.
    fn file(&mut self, at: &Path, depth: usize, file: &File, kernel: bool) -> Outcome {
        let contents = self.contents;
        let make = |path: &Path, right: bool| {
            if !right {
                fs::create_dir(path).unwrap();
            } else if kernel {
                fs::hard_link(contents.kernel, path).unwrap();
            } else {
                fs::write(path, contents.image).unwrap();
            }
        };
        match file {
            File::Link(link) => self.link(at, depth, link, make),
            File::Plain => {
                make(at, true);
                let real = fs::canonicalize(at).unwrap();
                assert_eq!(real, at, "the test's directory is not where it seems to be");
                usable(&real, at)
            }
            File::Sibling(_) => {
                symlink("vmlinux", at).unwrap();
                Err(vec![at.to_owned()])
            }
            // The suffix keeps it apart from all that is there.
            File::Raw(text) => {
                symlink(text.with_suffix(".none").os(), at).unwrap();
                Err(vec![at.to_owned()])
            }
            File::Outside(text) => {
                symlink(text, at).unwrap();
                Err(vec![at.to_owned()])
            }
        }
    }

    /// Makes the link `at`, all others on the way, and their end by `make`,
    /// which gets to know whether it should be of the right kind.
    fn link(&mut self, at: &Path, depth: usize, link: &Link, make: impl Fn(&Path, bool)) -> Outcome {
        let (mut here, mut depth) = (at.to_owned(), depth);
        for (style, directory, name) in &link.hops {
            here = self.step(&here, depth, *style, directory, name);
            depth = 2;
        }
        let (style, directory, name) = &link.end;
        let end = self.step(&here, depth, *style, directory, name);
        match link.ending {
            Ending::Right => make(&end, true),
            Ending::WrongKind => make(&end, false),
            Ending::Missing => {}
            Ending::Loop => symlink(name.os(), &end).unwrap(),
            Ending::Fifo => rustix::fs::mknodat(CWD, &end, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            Ending::Socket => rustix::fs::mknodat(CWD, &end, FileType::Socket, Mode::RUSR, 0).unwrap(),
        }
        if link.ending != Ending::Right {
            return Err(vec![at.to_owned()]);
        }
        let real = fs::canonicalize(&end).unwrap();
        assert_eq!(real, end, "the test's directory is not where it seems to be");
        usable(&real, at)
    }

    /// Makes the link `at` to `directory`/`name`, and returns where that is.
    fn step(&mut self, at: &Path, depth: usize, style: Style, directory: &Name, name: &Name) -> PathBuf {
        self.used += 1;
        let directory = directory.numbered(self.used);
        let rest = Path::new(directory.os()).join(name.os());
        let allowed = match style {
            Style::Allowed => self.allowed.first(),
            Style::AllowedWithin => self.allowed.last(),
            _ => None,
        };
        let (text, to) = if let Some(allowed) = allowed {
            (allowed.prefix.join(&rest), allowed.directory.join(&rest))
        } else {
            let rest = Path::new("store").join(&rest);
            let mut text = match style {
                Style::Relative | Style::RelativeDetour => PathBuf::from("../".repeat(depth)),
                Style::Host => self.partition.clone(),
                _ => PathBuf::from("/ext"),
            };
            if matches!(style, Style::RelativeDetour | Style::SpectrumDetour) {
                text.push(OsStr::new(".//store/../store/.."));
            }
            (text.join(&rest), self.partition.join(&rest))
        };
        fs::create_dir(to.parent().unwrap()).unwrap();
        symlink(text, at).unwrap();
        to
    }
}
