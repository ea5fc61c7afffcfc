// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! README's sessions: the command lines that it shows, and what they print.

use super::vm_directory::{VmDirectory, root_image};

/// A command line, and what README says that it prints.
#[derive(Debug)]
pub struct Shown {
    /// As it is typed, with the lines of a here-document.
    pub command: String,
    /// Nothing where README leaves it out.
    pub output: Vec<String>,
}

/// The command lines beneath the heading `heading`, in the order of the text.
#[track_caller]
pub fn sessions(heading: &str) -> Vec<Shown> {
    // Read when it is needed: what builds the program alone has no README.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    // A longer heading is of a part of the section.
    let level = format!("{} ", heading.split(' ').next().unwrap());
    let lines = section.lines().take_while(|line| !line.starts_with(&level));
    let (mut shown, mut inside, mut until) = (Vec::<Shown>::new(), false, None::<String>);
    for line in lines {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            line => match (line.strip_prefix("$ "), shown.last_mut()) {
                (_, Some(last)) if until.is_some() => {
                    last.command += &format!("\n{line}");
                    until = until.filter(|end| end != line);
                }
                (Some(command), _) => {
                    until = command
                        .split_once("<<'")
                        .and_then(|(_, end)| Some(end.split_once('\'')?.0.to_owned()));
                    shown.push(Shown { command: command.to_owned(), output: Vec::new() });
                }
                (None, Some(last)) => last.output.push(line.to_owned()),
                (None, None) => panic!("README has output without a command: {line}"),
            },
        }
    }
    shown
}

impl Shown {
    /// Asserts that this is what it prints. A last line `…` is any others; and numbers, and what
    /// a host may not know or have, are no difference.
    #[track_caller]
    pub fn is_printed(&self, found: &str) {
        let (expected, open) = match self.output.split_last() {
            Some((last, before)) if last == "…" => (before, true),
            _ => (self.output.as_slice(), false),
        };
        let found: Vec<_> = found.lines().collect();
        let length = if open { expected.len().min(found.len()) } else { found.len() };
        let same = |lines: &[&str]| lines.iter().map(|line| without_numbers(line)).collect::<Vec<_>>();
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        assert_eq!(same(&expected), same(&found[..length]), "README says otherwise of: {}", self.command);
    }
}

fn without_numbers(line: &str) -> String {
    let parts: Vec<_> =
        line.split(", ").filter(|part| !part.ends_with(" used") && *part != "without KVM (slow)").collect();
    let line = parts.join(", ").replace(|c: char| c.is_ascii_digit(), "0");
    line.split_inclusive('0').fold(String::new(), |text, part| {
        // A number of several digits is one.
        if part == "0" && text.ends_with('0') { text } else { text + part }
    })
}

/// README's VM directory with three mistakes, at the place where there is an empty one.
pub fn odd(vm: VmDirectory) {
    let mut bzimage = vec![0; 4096];
    bzimage[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    let vm = vm.kernel(&bzimage).image("root.img", &root_image()).image_link("swap.img", "/dev/sda");
    drop(vm.share("all", "/ext").file("README", b"mine\n"));
}
