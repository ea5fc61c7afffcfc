// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The documentation says what the program does: what is generated from it is
//! up to date, links lead somewhere, and [`imports`] go one way.
//! `UPDATE_DOCUMENTS=1` writes what is generated.

#![allow(clippy::unwrap_used, clippy::panic)]

mod imports;
mod manual;

use std::fs;
use std::path::{Path, PathBuf};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asserts that `path` holds `text`, or writes it there.
fn assert_generated(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        fs::write(path, text).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == text,
        "{} is out of date: UPDATE_DOCUMENTS=1 cargo test --test documents",
        path.display()
    );
}

#[test]
fn schema_of_the_manifest() {
    let schema = schemars::schema_for!(microvm_spectrum::plan::Plan);
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    assert_generated(&project("docs/manifest.schema.json"), &text);
}

#[test]
fn schema_of_the_catalog() {
    let schema = schemars::schema_for!(microvm_spectrum::state::catalog::Catalog);
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    assert_generated(&project("docs/catalog.schema.json"), &text);
}

#[test]
fn the_configurations_example_is_one() {
    let page = fs::read_to_string(project("docs/man/microvm-spectrum-config.5")).unwrap();
    let example = page.split(".nf\n").nth(1).unwrap().split(".fi").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, example).unwrap();
    let config = microvm_spectrum::config::Config::read(&path).unwrap();
    assert_eq!(config.sources.len(), 2);
}

#[test]
fn links_between_documents() {
    let documents = fs::read_dir(project("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents: Vec<_> = documents
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .chain(["README.md", "CONTRIBUTING.md", "checks/README.md"].map(project))
        .collect();
    let mut links = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(target.exists(), "{} links to {link}", document.display());
            let found = heading.is_empty() || headings(&target).any(|known| known == heading);
            assert!(found, "{} links to {link}, which has no such heading", document.display());
        }
    }
    assert!(links > 50);
}

/// A page's headings, as links name them.
fn headings(page: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter_map(|line| line.strip_prefix('#')).map(|heading| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.replace(|c: char| !c.is_alphanumeric() && !"-_".contains(c), "")
    });
    headings.collect::<Vec<_>>().into_iter()
}

#[test]
fn the_test_command_is_the_readmes() {
    let readme = fs::read_to_string(project("README.md")).unwrap();
    assert!(readme.contains("make check"));
    let ci = fs::read_to_string(project(".ci/run")).unwrap();
    let commands: Vec<_> =
        ci.lines().filter(|l| l.contains("make ") && !l.trim_start().starts_with('#')).collect();
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert!(commands[0].contains("make check"));
}
