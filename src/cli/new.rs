// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum new`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;

use super::check::{self, DirectoryReport, Report};
use super::{Exit, host_architecture, report};
use crate::base::name::{VmId, VmName};
use crate::base::printable::printable;
use crate::base::problem::Problem;
use crate::config::edit::{self, EditError};
use crate::config::{self, Config, SourceConfig, SourceKind};
use crate::directory::definition::DATA_DIRECTORY;
use crate::directory::making::{self, Order, Root, Template};

/// The provider of a VM that is made of the template `app`.
const PROVIDER: &str = "netvm";
/// The setting of a VM that is made of the template `netvm`.
const UPLINK: &str = "uplink";

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The VM's name
    #[arg(value_parser = parse_name)]
    name: VmName,

    /// Its root file system: a directory, an archive of tar's (`-`: standard input), or an image of
    /// ext4, erofs or squashfs [default with --template: a small system of this host's busybox]
    #[arg(long, value_name = "ROOTFS", required_unless_present = "template")]
    from: Option<PathBuf>,

    /// What it is for
    #[arg(long, value_enum)]
    template: Option<Template>,

    /// Its kernel: an uncompressed vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Make it in DIR instead of the first source
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Connect it to the network that VM provides; can be repeated
    #[arg(long, value_name = "VM", value_parser = parse_name)]
    provider: Vec<VmName>,

    /// Share DIR, which the guest finds by TAG; can be repeated
    #[arg(long, value_name = "TAG=DIR", value_parser = parse_share)]
    share: Vec<(String, PathBuf)>,

    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

fn parse_name(text: &str) -> Result<VmName, String> {
    VmName::new(text).map_err(|error| error.to_string())
}

fn parse_share(text: &str) -> Result<(String, PathBuf), String> {
    let (tag, directory) = text.split_once('=').ok_or("expected TAG=DIR, such as home=/srv/P/home")?;
    if tag.is_empty() || tag.contains(['/', '\n', '\0']) || [".", ".."].contains(&tag) {
        return Err("a tag is a file name without line feed".to_owned());
    }
    let directory = Path::new(directory).canonicalize();
    Ok((tag.to_owned(), directory.map_err(|error| format!("the directory cannot be found: {error}"))?))
}

pub(super) fn run(args: &NewArgs) -> anyhow::Result<Exit> {
    let source = match args.directory {
        Some(_) => None,
        None => Some(first_source(&args.config)?),
    };
    let place = source.as_ref().map(SourceConfig::vm_directories).or_else(|| args.directory.clone());
    let place = std::path::absolute(place.unwrap_or_default())?;
    // A place P/svc/data lies on a user partition, as `check` has it.
    let partition = match &source {
        Some(source) => Some(source.root()),
        None if place.ends_with(DATA_DIRECTORY) => place.ancestors().nth(2).map(Path::to_owned),
        None => None,
    };
    let kernel = args.kernel.clone().ok_or_else(|| no_kernel(&place.join(args.name.as_str())))?;
    let root = match (&args.from, args.template) {
        (Some(path), _) if path == Path::new("-") => Root::Stdin,
        (Some(path), _) => Root::Path(path.clone()),
        (None, template) => Root::Template(template.unwrap_or(Template::App)),
    };
    let mut providers: BTreeSet<_> = args.provider.iter().cloned().collect();
    if args.template == Some(Template::App) && providers.is_empty() {
        providers.insert(VmName::new(PROVIDER)?);
    }
    let (directory, problems) = making::make(&Order {
        name: &args.name,
        place: &place,
        partition: partition.as_deref(),
        allowed: source.as_ref().map_or(&[], |source| &source.allow),
        kernel: &kernel,
        root: &root,
        providers: &providers,
        shares: &args.share,
        architecture: host_architecture()?,
        path: &std::env::var_os("PATH").unwrap_or_default(),
    })?;
    let checked = Report::of(vec![DirectoryReport::of(&directory, problems)]);
    report::to_stdout("the report", |mut out| {
        writeln!(out, "made {}", printable(&directory))?;
        check::print(&mut out, false, &checked)
    })?;
    if args.template == Some(Template::Netvm) {
        set_uplink(args, source.as_ref());
    }
    Ok(Exit::Fine)
}

/// The source that new VMs are made in.
fn first_source(config: &Path) -> anyhow::Result<SourceConfig> {
    let found = Config::read(config)?.sources.into_iter().next();
    let source = found.ok_or_else(|| {
        Problem::error(config, "has no source", "add one, or name a directory: --directory DIR")
    })?;
    // Before a partition is mounted, the directory would be made beneath its mount point.
    if source.kind == SourceKind::UserPartition && !source.root().is_dir() {
        let cause = format!("the source {} is not there", source.name);
        return Err(
            Problem::error(source.root(), cause, "create its directory, or mount its file system").into()
        );
    }
    Ok(source)
}

/// What to do without `--kernel`.
fn no_kernel(directory: &Path) -> Problem {
    let installed = std::env::current_exe().ok().and_then(|program| {
        let script = program.ancestors().nth(2)?.join("share/microvm-spectrum/guest/build-kernel");
        script.exists().then_some(script)
    });
    let script = installed.unwrap_or_else(|| "guest/build-kernel".into());
    Problem::error(
        directory.join("vmlinux"),
        "a VM directory needs an uncompressed kernel, with all drivers built in",
        format!(
            "build one with '{} vmlinux', or take that of another VM, and add --kernel vmlinux",
            script.display()
        ),
    )
}

/// Gives the VM an uplink in the configuration, or says what the administrator has to set.
fn set_uplink(args: &NewArgs, source: Option<&SourceConfig>) {
    let id = source.map(|source| VmId { source: source.name.clone(), name: args.name.clone() });
    let edited = id.as_ref().map(|id| edit::enable(&args.config, id, UPLINK));
    let key = id.map_or_else(|| args.name.to_string(), |id| id.to_string());
    let config = printable(&args.config);
    match edited {
        Some(Ok(())) => report::line(&format!("set {UPLINK} = true for {key} in {config}")),
        not_set => {
            let why = match not_set {
                Some(Err(error @ EditError::Refused(_))) => format!(" (a change of it was refused: {error})"),
                Some(Err(error)) => format!(" ({error})"),
                _ => String::new(),
            };
            let why = printable(why);
            report::line(&format!("add to {config}{why}:\n[vm.\"{key}\"]\n{UPLINK} = true"));
        }
    }
}
