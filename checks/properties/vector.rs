// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a VMM's argument vector must be, word for word, and how a VMM reads it.
//!
//! None of this is the program's own: the words are written out here, JSON is
//! read as JSON, and Cloud Hypervisor's lists as its option parser reads them.

use microvm_spectrum::plan::HypervisorName;
use serde_json::{Value, json};

use crate::directory::Intended;
use crate::workspace::LINK_PORTS;

/// The memory of every VM of these tests, in MiB.
pub const MEMORY_MIB: u32 = 64;

/// One word of an argument vector.
#[derive(Debug)]
enum Word {
    /// These bytes.
    Text(String),
    /// A JSON document.
    Json(Value),
    /// A list of Cloud Hypervisor's: keys and values, in order.
    List(Vec<(&'static str, String)>),
}

/// The interface of a link: its tap, and its MAC address.
pub type Interface = (String, String);

/// Whether `received` is what the hypervisor must get for `intended`.
pub fn check(
    hypervisor: HypervisorName,
    program: &str,
    intended: &Intended,
    interfaces: &[Interface],
    devices: &[&str],
    received: &[Vec<u8>],
) -> Result<(), String> {
    let mut words = Words(vec![Word::Text(program.to_owned())]);
    match hypervisor {
        HypervisorName::Qemu => qemu(&mut words, intended, interfaces, devices),
        HypervisorName::CloudHypervisor => cloud_hypervisor(&mut words, intended, interfaces, devices),
    }
    for (index, (word, got)) in words.0.iter().zip(received).enumerate() {
        let matches = match word {
            Word::Text(text) => text.as_bytes() == got,
            Word::Json(value) => is_json(value, got),
            Word::List(list) => is_list(list, got),
        };
        if !matches {
            return Err(format!("word {index} should be {word:?} and is \"{}\"", got.escape_ascii()));
        }
    }
    if words.0.len() != received.len() {
        return Err(format!("there should be {} words and are {}", words.0.len(), received.len()));
    }
    Ok(())
}

/// Whether the bytes are this document; one with a key twice is longer.
fn is_json(value: &Value, got: &[u8]) -> bool {
    serde_json::from_slice::<Value>(got).is_ok_and(|v| v == *value) && got.len() == value.to_string().len()
}

fn is_list(list: &[(&'static str, String)], got: &[u8]) -> bool {
    let read = std::str::from_utf8(got).map_err(|e| e.to_string()).and_then(read_list);
    read.is_ok_and(|read| {
        read.len() == list.len() && read.iter().zip(list).all(|(a, b)| a.0 == b.0 && a.1 == b.1)
    })
}

/// Keys and values of one option, as Cloud Hypervisor 53 receives them
/// (`option_parser/src/lib.rs`): white space around the whole and around each
/// value goes; commas separate where neither a quote nor a bracket is open,
/// brackets count outside of quotes alone and must match; the first `=` ends
/// the key; in a value, quotes go, and one that is doubled within quotes stays.
pub fn read_list(option: &str) -> Result<Vec<(String, String)>, String> {
    let (mut quoted, mut brackets, mut start) = (false, 0_u32, 0);
    let mut fields = Vec::new();
    let option = option.trim();
    for (at, c) in option.char_indices() {
        match (c, quoted) {
            ('"', _) => quoted = !quoted,
            (_, true) => {}
            ('[', _) => brackets += 1,
            (']', _) => brackets = brackets.checked_sub(1).ok_or("a bracket too many")?,
            (',', _) if brackets == 0 => {
                fields.push(&option[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(&option[start..]);
    if quoted || brackets > 0 {
        return Err("a quote or bracket is left open".to_owned());
    }
    let pair = |field: &str| match field.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), without_quotes(value.trim()))),
        None => Err(format!("no value in '{field}'")),
    };
    fields.into_iter().map(pair).collect()
}

fn without_quotes(value: &str) -> String {
    let mut out = String::new();
    let mut chars = value.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => out.push('"'),
            '"' => quoted = !quoted,
            c => out.push(c),
        }
    }
    out
}

struct Words(Vec<Word>);

impl Words {
    fn text(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|w| Word::Text((*w).to_owned())));
    }

    fn json(&mut self, option: &str, value: Value) {
        self.text(&[option]);
        self.0.push(Word::Json(value));
    }

    fn lists(&mut self, option: &str, lists: impl Iterator<Item = Vec<(&'static str, String)>>) {
        let mut lists = lists.map(Word::List).peekable();
        if lists.peek().is_some() {
            self.text(&[option]);
            self.0.extend(lists);
        }
    }
}

fn qemu(words: &mut Words, vm: &Intended, interfaces: &[Interface], devices: &[&str]) {
    let name = &vm.name;
    words.text(&["-name", &format!("guest={name},process={name}"), "-nodefaults", "-no-user-config"]);
    words.text(&["-display", "none", "-sandbox"]);
    words.text(&["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    let reboot = if vm.wayland { "shutdown" } else { "reset" };
    words.text(&["-action", &format!("reboot={reboot},shutdown=poweroff,panic=shutdown")]);
    let shared = !vm.shares.is_empty();
    words.text(&["-machine", if shared { "q35,memory-backend=memory" } else { "q35" }]);
    words.text(&["-accel", "tcg,split-wx=on", "-cpu", "max,-tsc"]);
    words.text(&["-smp", "1", "-m", &format!("{MEMORY_MIB}M")]);
    if shared {
        let size = u64::from(MEMORY_MIB) * 1024 * 1024;
        let memory = json!({"qom-type": "memory-backend-memfd", "id": "memory", "size": size, "share": true});
        words.json("-object", memory);
    }
    words.text(&["-kernel", &vm.kernel]);
    words.text(&["-append", "console=ttyS0 root=PARTLABEL=root no_timer_check lpj=1000000"]);
    words.text(&["-chardev", "file,id=serial,path=/dev/stdout", "-serial", "chardev:serial"]);
    for (index, path) in vm.images.iter().enumerate() {
        let node = format!("disk{index}");
        let file = json!({"driver": "file", "filename": path, "read-only": true, "locking": "off"});
        words.json("-blockdev", json!({"driver": "raw", "node-name": node, "read-only": true, "file": file}));
        words.json("-device", json!({"driver": "virtio-blk-pci", "drive": node}));
    }
    let console = format!("socket,id=console,path={name}.console.sock,server=on,wait=off");
    words.text(&["-chardev", &console]);
    words.json("-device", json!({"driver": "virtio-serial-pci", "id": "serial-bus"}));
    words.json("-device", json!({"driver": "virtconsole", "id": "hvc0", "chardev": "console"}));
    for (index, (tag, _)) in vm.shares.iter().enumerate() {
        let id = format!("virtiofs-{index}");
        words.text(&["-chardev", &format!("socket,id={id},path={name}.virtiofs-{index}.sock")]);
        words.json("-device", json!({"driver": "vhost-user-fs-pci", "chardev": id, "tag": tag}));
    }
    for (index, (tap, mac)) in interfaces.iter().enumerate() {
        let id = format!("net{index}");
        let tap = json!({"type": "tap", "id": id, "ifname": tap, "script": "no", "downscript": "no"});
        words.json("-netdev", tap);
        let device = json!({"driver": "virtio-net-pci", "netdev": id, "mac": mac, "romfile": ""});
        words.json("-device", device);
    }
    if vm.wayland {
        let socket = format!("{name}.wayland.sock");
        words.json(
            "-device",
            json!({"driver": "virtio-gpu-rutabaga-pci", "id": "wayland", "cross-domain": true,
                   "hostmem": 256 << 20, "wsi": "headless", "wayland-socket-path": socket}),
        );
    }
    for index in 0..LINK_PORTS {
        let id = format!("port{index}");
        let addr = format!("0x1d.{index:#x}");
        let (multifunction, chassis) = (index == 0, index + 1);
        words.json(
            "-device",
            json!({"driver": "pcie-root-port", "id": id, "bus": "pcie.0", "addr": addr,
                   "multifunction": multifunction, "chassis": chassis}),
        );
    }
    for (index, device) in devices.iter().enumerate() {
        let function = index + usize::from(LINK_PORTS);
        let port = format!("port{function}");
        words.json(
            "-device",
            json!({"driver": "pcie-root-port", "id": port, "bus": "pcie.0", "addr": format!("0x1d.{function:#x}"),
                   "multifunction": false, "chassis": function + 1, "hotplug": false}),
        );
        let id = format!("pci{index}");
        words.json("-device", json!({"driver": "vfio-pci", "id": id, "host": device, "bus": port}));
    }
    words.json("-device", json!({"driver": "pvpanic-pci"}));
    words.json("-device", json!({"driver": "virtio-rng-pci"}));
    words.text(&["-qmp", &format!("unix:{name}.supervisor.sock,server=on,wait=off")]);
    words.text(&["-qmp", &format!("unix:{name}.control.sock,server=on,wait=off")]);
}

fn cloud_hypervisor(words: &mut Words, vm: &Intended, interfaces: &[Interface], devices: &[&str]) {
    let name = &vm.name;
    words.text(&["--api-socket", &format!("path={name}.control.sock"), "--event-monitor", "fd=3"]);
    words.text(&["--cpus", "boot=1", "--memory"]);
    let shared = if vm.shares.is_empty() { "off" } else { "on" };
    words.text(&[&format!("size={MEMORY_MIB}M,shared={shared}")]);
    words.text(&["--kernel", &vm.kernel, "--cmdline", "console=ttyS0 root=PARTLABEL=root"]);
    let disk = |path: &String| {
        let fixed = [("readonly", "on"), ("image_type", "raw"), ("sparse", "off")];
        let fixed = fixed.map(|(key, value)| (key, value.to_owned()));
        [("path", path.clone())].into_iter().chain(fixed).collect()
    };
    words.lists("--disk", vm.images.iter().map(disk));
    let tags = vm.shares.iter().map(|(tag, _)| tag).enumerate();
    let share = |(index, tag): (usize, &String)| {
        vec![("tag", tag.clone()), ("socket", format!("{name}.virtiofs-{index}.sock"))]
    };
    words.lists("--fs", tags.map(share));
    let net = |(tap, mac): &Interface| vec![("tap", tap.clone()), ("mac", mac.clone())];
    words.lists("--net", interfaces.iter().map(net));
    let device = |(index, device): (usize, &&str)| {
        vec![("path", format!("/sys/bus/pci/devices/{device}/")), ("id", format!("pci{index}"))]
    };
    words.lists("--device", devices.iter().enumerate().map(device));
    words.text(&["--serial", "file=/dev/stdout", "--console", "pty", "--pvpanic", "--no-shutdown"]);
}

#[test]
fn lists_are_read_as_cloud_hypervisor_reads_them() {
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    for (option, read) in [
        (" a=b,c= d ", pairs(&[("a", "b"), ("c", "d")])),
        ("a=\"b,c=d\",e=f", pairs(&[("a", "b,c=d"), ("e", "f")])),
        ("a=\" b \"", pairs(&[("a", " b ")])),
        ("a=\"say \"\"hi\"\"\"", pairs(&[("a", "say \"hi\"")])),
        ("a=\"\"\"\",b=\"\"", pairs(&[("a", "\""), ("b", "")])),
        ("a=[b,c],d=\"]\"", pairs(&[("a", "[b,c]"), ("d", "]")])),
        ("a=b=c", pairs(&[("a", "b=c")])),
    ] {
        assert_eq!(read_list(option), Ok(read), "{option}");
    }
    for bad in ["a=\"b", "a=[b", "a=b]", "a", "a=b,,c=d"] {
        assert!(read_list(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_key_given_twice_shows() {
    let wanted = json!({"a": true});
    assert!(is_json(&wanted, br#"{"a":true}"#));
    assert!(!is_json(&wanted, br#"{"a":false,"a":true}"#));
}
