// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    microvm_spectrum::cli::main()
}
