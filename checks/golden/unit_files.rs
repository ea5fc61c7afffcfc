// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The whole output of `units` against `units/`, file by file.

use std::path::Path;

use crate::package_files::compare_tree;
use crate::support::program::{call, run};
use crate::support::tree;
use crate::support::vm_directory::workplace;

#[test]
fn the_unit_files() {
    let (_guard, root) = workplace();
    let output = root.join("lib");
    let mut command = call(["units", "--program", "/usr/local/bin/microvm-spectrum", "--output"]);
    run(command.arg(&output)).exits(0).says_nothing();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("checks/golden/units");
    compare_tree(&golden, &tree::read(&output));
}
