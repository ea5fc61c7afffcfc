// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The name of [a VM directory](../../docs/vm-directory.md): `[A-Za-z0-9_][A-Za-z0-9._-]{0,63}`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::support::program::{Ran, check, run};
use crate::support::vm_directory::{Partition, workplace};

fn check_name(name: impl AsRef<OsStr>) -> Ran {
    let (_guard, root) = workplace();
    let vm = Partition::at(&root).vm(name).image("root.img", b"");
    run(&mut check(&vm.path))
}

#[track_caller]
fn refuses(name: impl AsRef<OsStr>, cause: &str) {
    let ran = check_name(name).exits(1);
    let problems = ran.problems();
    assert_eq!(problems.len(), 1, "{}", ran.stdout);
    assert!(problems[0].text.ends_with(cause), "{:?} does not say {cause:?}", problems[0]);
    assert!(problems[0].help.starts_with("rename the directory"), "{:?}", problems[0]);
}

#[test]
fn takes_every_good_name() {
    let longest = "n".repeat(64);
    for name in ["a", "_", "0", "appvm-lynx", "sys.net_2", "A..", "x--", longest.as_str()] {
        check_name(name).finds_nothing();
    }
}

#[test]
fn says_which_character_is_bad() {
    for (bad, shown) in [
        (" ", " "),
        ("@", "@"),
        ("%", "%"),
        (",", ","),
        (":", ":"),
        ("=", "="),
        ("+", "+"),
        ("~", "~"),
        ("*", "*"),
        ("$", "$"),
        ("`", "`"),
        (";", ";"),
        ("&", "&"),
        ("<", "<"),
        ("[", "["),
        ("\"", "\""),
        ("'", "'"),
        ("\\", "\\\\"),
        ("\n", "\\n"),
        ("\t", "\\t"),
        ("\x1b", "\\u{1b}"),
        ("\x7f", "\\u{7f}"),
        ("\u{9b}", "\\u{9b}"),
        ("\u{202e}", "\\u{202e}"),
        ("\u{a0}", "\\u{a0}"),
        ("ü", "ü"),
        ("漢", "漢"),
    ] {
        let cause = format!(": a VM name cannot contain the character '{shown}'");
        refuses(format!("a{bad}b"), &cause);
        refuses(format!("{bad}b"), &cause);
        refuses(format!("a{bad}"), &cause);
    }
}

#[test]
fn says_what_else_is_wrong() {
    refuses(".hidden", ": a VM name cannot begin with '.'");
    refuses("-option", ": a VM name cannot begin with '-'");
    refuses("n".repeat(65), ": the name has 65 bytes, a VM name has at most 64");
}

#[test]
fn says_that_a_name_is_not_utf_8() {
    // Nor are the paths of what it holds, which is reported as well.
    let ran = check_name(OsStr::from_bytes(b"a\xffb")).exits(1);
    let text = &ran.problems()[0].text;
    assert!(text.contains("/a\\xffb: a VM name cannot contain"), "{text}");
    assert!(text.contains("not UTF-8"), "{text}");
}

#[test]
fn a_directory_without_a_name_is_refused() {
    let ran = run(&mut check(std::path::Path::new("/"))).exits(1);
    assert!(ran.stdout.contains("error: /: a VM name cannot be empty"), "{}", ran.stdout);
}
