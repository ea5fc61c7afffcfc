// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is read at fixed places: the records below `/run`, in a name space with a
//! `/run` of its own, where also `systemctl` is another program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use microvm_spectrum::base::name::VmName;
use microvm_spectrum::host::units;
use microvm_spectrum::link::id::LinkId;
use microvm_spectrum::link::records;
use microvm_spectrum::state::started::{self, Started};
use microvm_spectrum::system::systemd;
use serde_json::json;

use crate::mutation::{bytes, document, text_of};
use crate::support::skip::{is_root, needs};
use crate::{attack, ensure};

/// Set in the name space.
const INSIDE: &str = "MICROVM_SPECTRUM_PARSERS_INSIDE";

/// A command line in a name space where `/run` is empty; or why there is none.
fn with_own_run(line: &[&str]) -> Result<Command, String> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(if is_root() { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"] });
        command.args(["sh", "-c", "mount -t tmpfs run /run && mkdir /run/bin && exec \"$@\"", "sh"]);
        command
    };
    let tried = unshare().arg("true").stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if !tried.status.success() {
        return Err(String::from_utf8_lossy(&tried.stderr).trim().replace('\n', ", "));
    }
    let mut command = unshare();
    command.args(line);
    Ok(command)
}

#[test]
fn below_run() {
    if std::env::var_os(INSIDE).is_some() {
        links();
        what_was_started();
        units_as_systemctl_shows_them();
        return;
    }
    let this = std::env::current_exe().unwrap();
    let mut command =
        needs!(with_own_run(&[this.to_str().unwrap(), "--exact", "records::below_run", "--nocapture"]));
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command.env(INSIDE, "1").env("PATH", format!("/run/bin:{path}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    print!("{said}");
}

fn links() {
    let (provider, link) = (VmName::new("netvm").unwrap(), "a546".parse::<LinkId>().unwrap());
    let directory = records::directory(&provider);
    let corpus = [json!({"version": 1, "client": "appvm"})];
    let names = ["a546.json", "0001.json", "ffff.json", "a546.json.tmp"];
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        (text_of(random, &document), bytes(random, &names))
    };
    attack("records of links", 4, input, |(given, name)| {
        records::prepare(&provider).unwrap();
        fs::write(directory.join("a546.json"), &given.0).unwrap();
        let other = std::ffi::OsStr::new(std::str::from_utf8(&name.0).unwrap_or("x"));
        let _ = fs::write(directory.join(other), "");
        let holder = records::holder(link).unwrap();
        let all = records::all(&provider).unwrap();
        let names = fs::read_dir(&directory).unwrap();
        let names: Vec<_> = names.filter_map(|it| it.unwrap().file_name().into_string().ok()).collect();
        for link in all.keys() {
            ensure(names.contains(&format!("{link}.json")), || format!("{link} is not in {names:?}"))?;
        }
        ensure(all.contains_key(&link) == holder.is_some(), || format!("{holder:?} {all:?}"))?;
        fs::remove_dir_all(&directory).unwrap();
        let Some(client) = holder else { return Ok(false) };
        records::record(&provider, link, &client, 70_000, true).unwrap();
        ensure(records::holder(link).unwrap() == Some(client), || "another holder".to_owned())?;
        fs::remove_dir_all(&directory).unwrap();
        Ok(true)
    });
}

fn what_was_started() {
    let name = VmName::new("appvm").unwrap();
    fs::create_dir_all(started::DIRECTORY).unwrap();
    let corpus = [
        json!({"version": 1, "vm": "user/appvm", "uid": 70_000, "generation": 7, "package": "/x", "files": []}),
    ];
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        text_of(random, &document)
    };
    attack("records of what was started, as files", 4, input, |given| {
        fs::write(Path::new(started::DIRECTORY).join("appvm.json"), &given.0).unwrap();
        let Ok(Some(record)) = Started::of(&name) else { return Ok(false) };
        ensure(Started::all() == [record], || "another one".to_owned())?;
        Ok(true)
    });
    let generated = Path::new("/run/systemd/generator");
    fs::create_dir_all(generated).unwrap();
    attack(
        "the generation that systemd has read",
        4,
        |random| bytes(random, &["1\n", "18446744073709551615\n"]),
        |given| {
            fs::write(generated.join(".microvm-spectrum-generation"), &given.0).unwrap();
            Ok(units::generation_of_systemd().is_some())
        },
    );
}

fn units_as_systemctl_shows_them() {
    let systemctl = Path::new("/run/bin/systemctl");
    fs::write(systemctl, "#!/bin/sh\nexec cat /run/shown\n").unwrap();
    fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let corpus = [
        "Id=microvm@a.service\nActiveState=active\nSubState=running\nStatusText=x=y\nResult=success\nConditionResult=yes\n",
        "Id=microvm@a.service\nActiveState=inactive\nResult=exec-condition\n\nId=microvm@b.service\nConditionResult=no\n",
    ];
    let asked = [VmName::new("a").unwrap()];
    attack(
        "what systemctl shows",
        80,
        |random| bytes(random, &corpus),
        |given| {
            fs::write("/run/shown", &given.0).unwrap();
            Ok(systemd::status(&asked).unwrap().contains_key(&asked[0]))
        },
    );
}
