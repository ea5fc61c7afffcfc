// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What `docs/man/commands.toml` says of each command beside its options: sections of its
//! manual page, and a row of `docs/exit-statuses.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use microvm_spectrum::cli::Cli;
use serde::Deserialize;

use crate::{assert_generated, project};

/// The program itself, and the name of its page.
const MAIN: &str = "microvm-spectrum";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What each file is.
    files: BTreeMap<String, String>,
    commands: BTreeMap<String, Command>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Command {
    /// What each exit status means.
    status: BTreeMap<String, String>,
    /// The files that it uses, of those in [`Table::files`].
    #[serde(default)]
    files: Vec<String>,
    /// What each does, and its command lines.
    examples: Vec<Vec<String>>,
    see_also: Vec<String>,
}

fn table() -> Table {
    toml::from_str(&fs::read_to_string(project("docs/man/commands.toml")).unwrap()).unwrap()
}

/// A text as groff shows it.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// A name of a page, such as `qemu(1)`.
fn reference(page: &str) -> String {
    let (name, section) = page.split_once('(').unwrap_or_else(|| panic!("{page} has no section"));
    format!("\\fB{}\\fR({section}", roff(name))
}

fn sections(command: &Command, files: &BTreeMap<String, String>) -> String {
    let mut text = ".SH \"EXIT STATUS\"\n".to_owned();
    for (status, meaning) in &command.status {
        text += &format!(".TP\n\\fB{status}\\fR\n{}\n", roff(meaning));
    }
    if !command.files.is_empty() {
        text += ".SH FILES\n";
    }
    for file in &command.files {
        text += &format!(".TP\n\\fI{}\\fR\n{}\n", roff(file), roff(&files[file]));
    }
    text += ".SH EXAMPLES\n";
    for example in &command.examples {
        let (what, lines) = example.split_first().unwrap();
        let lines: String = lines.iter().map(|line| roff(line) + "\n").collect();
        text += &format!(".PP\n{}\n.PP\n.RS 4\n.nf\n{lines}.fi\n.RE\n", roff(what));
    }
    let pages: Vec<_> = command.see_also.iter().map(|page| reference(page)).collect();
    text + &format!(".SH \"SEE ALSO\"\n{}\n", pages.join(", "))
}

/// The name of a command's page, without its section.
fn page_of(command: &str) -> String {
    if command == MAIN { MAIN.to_owned() } else { format!("{MAIN}-{command}") }
}

#[test]
fn manual_pages() {
    let temporary = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), temporary.path()).unwrap();
    let names = |directory: &Path| -> BTreeSet<_> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| Some(name.to_str()?.strip_suffix(".1")?.to_owned())).collect()
    };
    let (table, expected) = (table(), names(temporary.path()));
    let described: BTreeSet<_> = table.commands.keys().map(|command| page_of(command)).collect();
    assert_eq!(described, expected, "docs/man/commands.toml has every command");
    for (name, command) in &table.commands {
        let page = format!("{}.1", page_of(name));
        let mut also = command.see_also.iter().filter(|page| page.starts_with(MAIN));
        let own = |page: &String| {
            let (name, section) = page.trim_end_matches(')').split_once('(').unwrap();
            project(&format!("docs/man/{name}.{section}")).exists() || expected.contains(name)
        };
        assert!(also.all(own), "{page} names a page that there is not");
        let mut text = fs::read_to_string(temporary.path().join(&page)).unwrap();
        let mut command = command.clone();
        if name != MAIN {
            command.see_also.insert(0, format!("{MAIN}(1)"));
        }
        text += &sections(&command, &table.files);
        assert_generated(&project("docs/man").join(&page), &text);
    }
    assert_eq!(names(&project("docs/man")), expected);
}

/// An example is a command line that this program takes, as far as it is this program's.
#[test]
fn examples_are_command_lines_of_the_program() {
    let table = table();
    let lines = table.commands.values().flat_map(|it| &it.examples).flat_map(|example| &example[1..]);
    let mut tried = 0;
    for line in lines {
        let words: Vec<_> = line.split_whitespace().take_while(|word| *word != "|").collect();
        let words = words.strip_prefix(&["sudo"]).unwrap_or(&words);
        if words.first() == Some(&MAIN) {
            Cli::command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn exit_statuses() {
    let mut text = "<!--\nSPDX-License-Identifier: EUPL-1.2\n\
        SPDX-FileCopyrightText: 2026 microvm-spectrum contributors\n-->\n\n\
        # Exit statuses\n\n\
        What each command ends with; a status that is not here does not occur. 0 is success, 1 is for problems of \
        VMs and other\ninputs, 2 for the command line and the configuration, 3 for the host. A VM's own `microvm-run` has \
        [more](runner-package.md),\nand Pacemaker's agent [others](cluster.md#the-agent).\n\n\
        | command | 0 | 1 | 2 | 3 |\n|---|---|---|---|---|\n"
        .to_owned();
    for (name, command) in table().commands.iter().filter(|(name, _)| *name != MAIN) {
        let cells = ["0", "1", "2", "3"].map(|status| command.status.get(status).map_or("", String::as_str));
        text += &format!("| `{name}` | {} |\n", cells.join(" | "));
    }
    assert_generated(&project("docs/exit-statuses.md"), &text);
}
