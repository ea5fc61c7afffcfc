// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Where the links of a VM directory may lead, and the walk that keeps to it.
//!
//! A walk takes one name at a time, each from the file descriptor of the step
//! before, so that a link that is swapped meanwhile can only lead where it could have
//! led at first. It ends with a descriptor (`O_PATH`, so that opening neither blocks
//! nor has effects), through which the program uses what was found.

mod place;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};

pub use place::{Entry, Followed, Place, ancestors};
pub use walk::Walker;

use self::walk::names_of;
use crate::base::problem::Problem;
use crate::directory::budget::Exceeded;

/// Where Spectrum mounts the user partition, as links on it have it.
const SPECTRUM_PARTITION: &str = "/ext";
/// A directory to which links may always lead.
const NIX_STORE: &str = "/nix/store";

/// A directory outside of the user partition to which links may lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedPrefix {
    /// The beginning of such targets, an absolute path without `.` and `..`.
    pub prefix: PathBuf,
    /// The directory of this host to which it leads, an absolute path.
    pub directory: PathBuf,
}

/// Why a text is not an [`AllowedPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected PREFIX or PREFIX=HOSTDIR, absolute paths without '.' and '..', such as /usr/img=/srv/img")]
pub struct AllowedPrefixError;

impl std::str::FromStr for AllowedPrefix {
    type Err = AllowedPrefixError;

    fn from_str(text: &str) -> Result<Self, AllowedPrefixError> {
        let (prefix, directory) = text.split_once('=').unwrap_or((text, text));
        let absolute = |path: &str| {
            let path = Path::new(path);
            let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            (path.is_absolute() && plain).then(|| path.components().collect::<PathBuf>())
        };
        match (absolute(prefix), absolute(directory)) {
            (Some(prefix), Some(directory)) => Ok(Self { prefix, directory }),
            _ => Err(AllowedPrefixError),
        }
    }
}

/// Where the links of one source's VM directories may lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// The user partition's root on this host, an absolute path.
    pub user_partition: PathBuf,
    /// Where else the administrator allows them to lead, in order.
    pub allowed: Vec<AllowedPrefix>,
}

/// Identifies a file: its device and its inode.
pub type FileId = (u64, u64);

/// The [`FileId`] of a file's status.
pub fn file_id(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

/// The result of a walk.
#[derive(Debug)]
pub struct Resolved {
    /// An `O_PATH` descriptor of what was found.
    pub fd: OwnedFd,
    /// Its path on this host at that time, free of links beneath the directory where
    /// the walk began or to which the last absolute link led.
    pub path: PathBuf,
    /// Its status at that time.
    pub stat: Stat,
    /// Every directory that decided where the walk ended: those in which it looked up
    /// a name, and all that contain these. A process that can write there can make
    /// the walk end elsewhere. Empty for [`Boundary::resolve`].
    pub through: Vec<FileId>,
    /// All links that the walk followed.
    pub links: Vec<Followed>,
}

/// Why a walk found nothing.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A name does not exist.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// A name on the path is not a directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A link leads out of every allowed place.
    #[error("the link {} leads to '{}', outside of the places where links may lead", .link.display(), .target.display())]
    Outside {
        /// The link's path.
        link: PathBuf,
        /// The link's text.
        target: PathBuf,
    },
    /// More than 40 links, most likely in a circle.
    #[error("follows more than 40 links; the last one was {}", .0.display())]
    Loop(PathBuf),
    /// It costs more than there is for a VM or a source.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// A system call failed.
    #[error("{} cannot be examined: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl ResolveError {
    /// The problem of the entry `shown`, at which the walk began.
    pub fn problem(&self, shown: &Path) -> Problem {
        // Does not repeat the path.
        let cause = match self {
            Self::Missing(path) if path == shown => "does not exist".to_owned(),
            Self::NotADirectory(path) if path == shown => "is not a directory".to_owned(),
            Self::Outside { link, target } if link == shown => {
                format!("leads to '{}', outside of the places where links may lead", target.display())
            }
            Self::Io { path, error } if path == shown => format!("cannot be examined: {error}"),
            other => other.to_string(),
        };
        let remedy = match self {
            Self::Missing(_) => "create it, or correct the link that leads there",
            Self::NotADirectory(_) => "correct the path or the link that leads through it",
            Self::Outside { .. } => {
                "put the target on the user partition, or have the administrator add its directory to 'allow'"
            }
            Self::Loop(_) => "make the link lead to a file or directory",
            Self::Exceeded(_) => Exceeded::REMEDY,
            Self::Io { .. } => "check the permissions and the state of the file system",
        };
        Problem::error(shown, cause, remedy)
    }
}

impl Boundary {
    /// Walks `relative`, a path beneath the user partition, and follows links.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(&self, relative: &Path) -> Result<Resolved, ResolveError> {
        Walker::only_to_open(self.clone()).resolve(relative)
    }

    /// Where an absolute target leads on the host that will run the VM, by its text
    /// alone. `None` when it leads beneath the user partition, which is here, or to a
    /// directory to which links may not lead.
    pub fn elsewhere(&self, target: &Path) -> Option<PathBuf> {
        let (place, rest) = self.place_of(target).filter(|(place, _)| *place != self.user_partition)?;
        let mut names = Vec::new();
        for name in names_of(&rest) {
            match name == ".." {
                true => drop(names.pop()?),
                false => names.push(name),
            }
        }
        Some(names.iter().fold(place, |path, name| path.join(name)))
    }

    /// The directory of this host beneath which an absolute target lies, and the rest
    /// of the target. The longest prefix wins.
    fn place_of(&self, target: &Path) -> Option<(PathBuf, PathBuf)> {
        let partition = self.user_partition.as_path();
        let places = [
            (Path::new(SPECTRUM_PARTITION), partition),
            (partition, partition),
            (Path::new(NIX_STORE), Path::new(NIX_STORE)),
        ];
        let allowed = self.allowed.iter().map(|a| (a.prefix.as_path(), a.directory.as_path()));
        places
            .into_iter()
            .chain(allowed)
            .filter_map(|(seen, host)| {
                let rest = target.strip_prefix(seen).ok()?;
                Some((seen.components().count(), host.to_owned(), rest.to_owned()))
            })
            .max_by_key(|(length, ..)| *length)
            .map(|(_, host, rest)| (host, rest))
    }
}

impl Resolved {
    /// What kind of file it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens the regular file that was found, for reading.
    ///
    /// Uses the descriptor, not the path, so that nothing that was swapped since the
    /// walk takes its place.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a regular file; otherwise when it cannot be opened.
    pub fn open_file(&self) -> io::Result<File> {
        if self.file_type() != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(own, flags, Mode::empty())?.into())
    }

    /// Opens the directory that was found, for listing.
    ///
    /// # Errors
    /// When it is not a directory (`ENOTDIR`), or cannot be opened.
    pub fn open_directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mknodat};
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Fixture {
        dir: tempfile::TempDir,
        boundary: Boundary,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let partition = root.join("partition");
        fs::create_dir_all(partition.join("svc/data/vm/blk")).unwrap();
        fs::create_dir_all(partition.join("img")).unwrap();
        fs::write(partition.join("img/root.img"), "partition").unwrap();
        fs::create_dir_all(root.join("usr-img")).unwrap();
        fs::write(root.join("usr-img/root.img"), "allowed").unwrap();
        fs::write(root.join("secret"), "secret").unwrap();
        let allowed = vec![AllowedPrefix { prefix: "/usr/img".into(), directory: root.join("usr-img") }];
        Fixture { boundary: Boundary { user_partition: partition, allowed }, dir }
    }

    impl Fixture {
        fn link(&self, target: impl AsRef<Path>) -> Result<String, ResolveError> {
            let link = self.boundary.user_partition.join("svc/data/vm/blk/x.img");
            let _ = fs::remove_file(&link);
            symlink(target, link).unwrap();
            self.read("svc/data/vm/blk/x.img")
        }

        fn read(&self, path: &str) -> Result<String, ResolveError> {
            let found = self.boundary.resolve(Path::new(path))?;
            Ok(io::read_to_string(found.open_file().unwrap()).unwrap())
        }
    }

    #[test]
    fn follows_links_that_stay_inside() {
        let f = fixture();
        let inside = f.boundary.user_partition.join("img/root.img");
        for target in ["../../../../img/root.img", "/ext/img/root.img", "/ext/./img/../img//root.img"] {
            assert_eq!(f.link(target).unwrap(), "partition", "{target}");
        }
        assert_eq!(f.link(&inside).unwrap(), "partition");
        assert_eq!(f.link("/usr/img/root.img").unwrap(), "allowed");
        symlink("img", f.boundary.user_partition.join("alias")).unwrap();
        assert_eq!(f.link("/ext/alias/root.img").unwrap(), "partition");
    }

    #[test]
    fn the_text_of_a_link_shows_where_it_leads_elsewhere() {
        let mut boundary = fixture().boundary;
        let place = |prefix: &str| AllowedPrefix { prefix: prefix.into(), directory: "/srv/there".into() };
        let elsewhere = |boundary: &Boundary, target: &str| boundary.elsewhere(Path::new(target));
        let inside = boundary.user_partition.join("documents");
        for target in ["/ext/documents", inside.to_str().unwrap(), "/etc/passwd", "documents", "/usr/img/x"] {
            assert_eq!(elsewhere(&boundary, target).is_some(), target == "/usr/img/x", "{target}");
        }
        // The administrator's prefix wins over the built-in one.
        boundary.allowed = vec![place("/ext")];
        assert_eq!(elsewhere(&boundary, "/ext/a/./../b//c"), Some("/srv/there/b/c".into()));
        assert_eq!(elsewhere(&boundary, "/ext"), Some("/srv/there".into()));
        assert_eq!(elsewhere(&boundary, "/ext/a/../../etc"), None);
        assert_eq!(elsewhere(&boundary, "/nix/store/x-y/z"), Some("/nix/store/x-y/z".into()));
    }

    #[test]
    fn refuses_links_that_leave() {
        let f = fixture();
        let secret = f.dir.path().join("secret");
        for target in [
            "/dev/sda".into(),
            "/".into(),
            "/etc/passwd".into(),
            secret,
            "../../../../../secret".into(),
            "/ext/../secret".into(),
            "/usr/img/../secret".into(),
            "/extra/root.img".into(),
            "/usr/imgx/root.img".into(),
            "/proc/self/exe".into(),
            PathBuf::from("/nix/store/../../etc/passwd"),
        ] {
            let result = f.link(&target);
            assert!(
                matches!(result, Err(ResolveError::Outside { .. } | ResolveError::Missing(_))),
                "{}: {result:?}",
                target.display()
            );
        }
    }

    #[test]
    fn names_loops_and_missing_targets() {
        let f = fixture();
        assert!(matches!(f.link("x.img"), Err(ResolveError::Loop(_))));
        match f.link("/ext/img/none.img") {
            Err(ResolveError::Missing(path)) => assert!(path.ends_with("partition/img/none.img")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(f.link("/ext/img/root.img/x"), Err(ResolveError::NotADirectory(_))));
    }

    #[test]
    fn a_fifo_is_found_without_blocking_and_not_opened() {
        let f = fixture();
        let fifo = f.boundary.user_partition.join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let found = f.boundary.resolve(Path::new("fifo")).unwrap();
        assert_eq!(found.file_type(), FileType::Fifo);
        assert!(found.open_file().is_err());
    }

    #[test]
    fn a_link_swapped_all_the_time_never_leads_out() {
        let f = fixture();
        let partition = f.boundary.user_partition.clone();
        fs::write(partition.join("svc/data/vm/blk/x.img"), "own").unwrap();
        let outside = f.dir.path().canonicalize().unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("x.img"), "secret").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let blk = partition.join("svc/data/vm/blk");
                let (real, swap) = (partition.join("svc/data/vm/real"), partition.join("svc/data/vm/swap"));
                symlink(&outside, &swap).unwrap();
                fs::rename(&blk, &real).unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // blk is the directory, nothing, the link out, nothing, ...
                    let _ = fs::rename(&real, &blk);
                    let _ = fs::rename(&blk, &real);
                    let _ = fs::rename(&swap, &blk);
                    let _ = fs::rename(&blk, &swap);
                }
            });
            let (mut read, mut refused) = (0, 0);
            for _ in 0..20_000 {
                match f.read("svc/data/vm/blk/x.img") {
                    Ok(text) => {
                        assert_eq!(text, "own");
                        read += 1;
                    }
                    Err(ResolveError::Outside { .. }) => refused += 1,
                    Err(_) => {}
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            // Both sides of the race were really seen.
            assert!(read > 0 && refused > 0, "read {read}, refused {refused}");
        });
    }

    #[test]
    fn parses_allowed_prefixes() {
        let parse = |text: &str| text.parse::<AllowedPrefix>();
        assert_eq!(parse("/usr/img").unwrap().directory, Path::new("/usr/img"));
        assert_eq!(parse("/usr/img/=/srv/a=b").unwrap().directory, Path::new("/srv/a=b"));
        for bad in ["", "usr", "/usr/../etc", "/a=", "/a=b", "=/b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
