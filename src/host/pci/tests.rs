// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The rules, in a tree that looks like `/sys` and obeys like the kernel.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const CARD: &str = "0000:01:00.0";
const SOUND: &str = "0000:01:00.1";

/// A host of made-up devices.
struct Host {
    root: tempfile::TempDir,
    kernel: Kernel,
}

/// What the kernel does on a command (Linux' `Documentation/ABI/testing/sysfs-bus-pci`):
/// a device whose directory has a file `broken` gets no driver, and one whose
/// override is VFIO's gets that, with the node of its group.
fn obey(path: &Path, text: &str) -> io::Result<()> {
    let sys = path.ancestors().find(|parent| parent.ends_with("sys")).unwrap();
    let device = sys.join("bus/pci/devices").join(text);
    match path.file_name().unwrap().to_str().unwrap() {
        "driver_override" => fs::write(path, if text == "\n" { "" } else { text }),
        "unbind" => fs::remove_file(device.join("driver")),
        "drivers_probe" => {
            let wanted = fs::read_to_string(device.join("driver_override"))?;
            let driver = if wanted.is_empty() { "host" } else { &wanted };
            if device.join("driver").exists() || (driver == VFIO && device.join("broken").exists()) {
                return Ok(());
            }
            symlink(format!("../../drivers/{driver}"), device.join("driver"))?;
            let group = fs::read_link(device.join("iommu_group"))?;
            let node = sys.parent().unwrap().join("dev/vfio").join(group.file_name().unwrap());
            if driver == VFIO && !node.exists() {
                fs::write(&node, "")?;
                fs::set_permissions(node, Permissions::from_mode(0o644))?;
            }
            Ok(())
        }
        other => panic!("a command to {other}"),
    }
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (sys, vfio) = (root.path().join("sys"), root.path().join("dev/vfio"));
        for driver in ["host", VFIO] {
            fs::create_dir_all(sys.join("bus/pci/drivers").join(driver)).unwrap();
        }
        fs::create_dir_all(&vfio).unwrap();
        fs::write(sys.join("bus/pci/drivers_probe"), "").unwrap();
        Self { root, kernel: Kernel { sys, vfio, command: obey } }
    }

    /// A host with one card that is a group of its own.
    fn with_card() -> Self {
        let host = Self::new();
        host.device(CARD, "0x020000", Some(7), Some("host"));
        host
    }

    fn device(&self, name: &str, class: &str, group: Option<u32>, driver: Option<&str>) -> PathBuf {
        let sys = &self.kernel.sys;
        let directory = sys.join("bus/pci/devices").join(name);
        fs::create_dir_all(directory.join("power")).unwrap();
        fs::write(directory.join("class"), format!("{class}\n")).unwrap();
        fs::write(directory.join("driver_override"), "(null)\n").unwrap();
        if let Some(driver) = driver {
            symlink(format!("../../drivers/{driver}"), directory.join("driver")).unwrap();
        }
        if let Some(group) = group {
            let members = sys.join(format!("kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members).unwrap();
            symlink(format!("../../../../bus/pci/devices/{name}"), members.join(name)).unwrap();
            symlink(format!("../../../../kernel/iommu_groups/{group}"), directory.join("iommu_group"))
                .unwrap();
        }
        directory
    }

    fn driver(&self, name: &str) -> Option<String> {
        driver(&self.kernel.sys.join("bus/pci/devices").join(name)).unwrap()
    }

    fn hand_over(&self, devices: &[&str]) -> Result<(), String> {
        self.hand_over_to(devices, own_user())
    }

    fn hand_over_to(&self, devices: &[&str], user: u32) -> Result<(), String> {
        let devices: Vec<_> = devices.iter().map(|device| device.parse().unwrap()).collect();
        self.kernel.hand_over(&devices, user).map_err(|problems| {
            let told: Vec<_> = problems.into_sorted().iter().map(ToString::to_string).collect();
            told.join("\n").replace(&format!("{}/", self.root.path().display()), "")
        })
    }

    /// Asserts that it is refused with these words, and that nothing was changed.
    #[track_caller]
    fn refuses(&self, devices: &[&str], words: &[&str]) {
        let drivers = || devices.iter().map(|device| self.driver(device)).collect::<Vec<_>>();
        let before = drivers();
        let told = self.hand_over(devices).unwrap_err();
        for word in words {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert_eq!(drivers(), before);
        assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    }

    fn node(&self, group: u32) -> fs::Metadata {
        self.kernel.node(group).symlink_metadata().unwrap()
    }
}

/// A user to whom this process can give a node, also without root.
fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn a_card_goes_to_vfio_and_to_the_vms_user_also_twice() {
    let host = Host::with_card();
    let bound = host.device("0000:02:00.0", "0x030000", Some(8), None);
    for _ in 0..2 {
        host.hand_over(&[CARD, "0000:02:00.0"]).unwrap();
        assert_eq!(
            (host.driver(CARD).as_deref(), host.driver("0000:02:00.0").as_deref()),
            (Some(VFIO), Some(VFIO))
        );
        for group in [7, 8] {
            assert_eq!((host.node(group).uid(), host.node(group).mode() & 0o7777), (own_user(), 0o600));
        }
        assert_eq!(fs::read_to_string(bound.join("driver_override")).unwrap(), VFIO);
    }
    host.hand_over(&[]).unwrap();
}

#[test]
fn a_group_goes_as_a_whole() {
    let host = Host::with_card();
    host.device(SOUND, "0x040300", Some(7), Some("snd_hda_intel"));
    host.device("0000:00:01.0", "0x060400", Some(7), Some("pcieport"));
    host.device("0000:01:00.2", "0x0c0330", Some(7), None);
    host.refuses(
        &[CARD],
        &[
            "error: sys/kernel/iommu_groups/7/devices: ",
            "the host uses 0000:01:00.1 (driver snd_hda_intel); its members are 0000:00:01.0, 0000:01:00.0, 0000:01:00.1, 0000:01:00.2",
            "help: add these",
        ],
    );
    // The listed members go to VFIO; the bridge keeps its driver, and the last member has none.
    host.hand_over(&[CARD, SOUND]).unwrap();
    assert_eq!(host.driver(SOUND).as_deref(), Some(VFIO));
    assert_eq!(host.driver("0000:00:01.0").as_deref(), Some("pcieport"));
    assert_eq!(host.driver("0000:01:00.2"), None);
    // What VFIO has already need not be listed.
    host.hand_over(&[CARD]).unwrap();
}

#[test]
fn another_vms_group_is_refused() {
    let host = Host::with_card();
    host.device(SOUND, "0x040300", Some(7), None);
    host.hand_over(&[CARD]).unwrap();
    if own_user() == 0 {
        lchown(host.kernel.node(7), Some(70_000), None).unwrap();
        host.hand_over_to(&[CARD], 70_000).unwrap();
        let told = host.hand_over_to(&[SOUND], 70_001).unwrap_err();
        assert!(told.contains("error: dev/vfio/7: belongs to user 70000: another VM uses devices of IOMMU group 7, whose members are 0000:01:00.0, 0000:01:00.1"), "{told}");
        // Only the VM that has a group can release it.
        let devices = [CARD.parse().unwrap()];
        host.kernel.take_back(&devices, 70_001).unwrap();
        assert_eq!(host.node(7).uid(), 70_000);
        host.kernel.take_back(&devices, 70_000).unwrap();
        assert_eq!((host.node(7).uid(), host.node(7).mode() & 0o7777), (0, 0o600));
        host.hand_over_to(&[SOUND], 70_001).unwrap();
        assert_eq!(host.node(7).uid(), 70_001);
    } else {
        // A user other than this one, who owns the node.
        let told = host.hand_over_to(&[SOUND], own_user() + 1).unwrap_err();
        assert!(told.contains("another VM uses devices of IOMMU group 7"), "{told}");
    }
    assert_eq!(host.driver(CARD).as_deref(), Some(VFIO), "what was bound stays bound");
    // A node that has disappeared belongs to no VM.
    host.kernel.take_back(&["0000:09:00.0".parse().unwrap()], own_user()).unwrap();
}

#[test]
fn all_problems_are_reported_together() {
    let host = Host::with_card();
    host.device("0000:00:1c.0", "0x060400", Some(1), Some("pcieport"));
    host.device("0000:00:1f.0", "0x060100", Some(2), None);
    host.device("0000:03:00.0", "0x020000", None, Some("host"));
    fs::remove_dir(host.kernel.sys.join("bus/pci/drivers").join(VFIO)).unwrap();
    host.refuses(
        &[CARD, "0000:00:1c.0", "0000:00:1f.0", "0000:03:00.0", "0000:04:00.0"],
        &[
            "sys/bus/pci/drivers/vfio-pci: does not exist: the driver vfio-pci is not loaded",
            "help: modprobe vfio-pci",
            "sys/bus/pci/devices/0000:00:1c.0: is a bridge (class 0604)",
            "sys/bus/pci/devices/0000:00:1f.0: is a bridge (class 0601)",
            "sys/bus/pci/devices/0000:03:00.0/iommu_group: does not exist",
            "help: enable VT-d or AMD-Vi in the firmware's settings; VT-d also needs intel_iommu=on",
            "sys/bus/pci/devices/0000:04:00.0: does not exist: this host has no such device",
        ],
    );
}

#[test]
fn a_device_that_vfio_does_not_take_goes_back() {
    let host = Host::with_card();
    let directory = host.kernel.sys.join("bus/pci/devices").join(CARD);
    fs::write(directory.join("broken"), "").unwrap();
    let told = host.hand_over(&[CARD]).unwrap_err();
    assert!(told.contains("0000:01:00.0: has no driver and not vfio-pci"), "{told}");
    assert_eq!(host.driver(CARD).as_deref(), Some("host"));
    assert_eq!(fs::read_to_string(directory.join("driver_override")).unwrap(), "");
    assert!(!host.kernel.node(7).exists());
}

#[test]
fn a_tree_that_makes_no_sense_is_refused() {
    // Members that are not PCI devices, with names that a terminal would interpret.
    let host = Host::with_card();
    let platform = host.device("fee\u{1b}[2J,id=x", "0x020000", Some(7), Some("smmu\n\u{202e}"));
    host.refuses(&[CARD], &["the host uses fee\\u{1b}[2J,id=x (driver smmu\\n\\u{202e})"]);
    fs::remove_file(platform.join("driver")).unwrap();
    host.hand_over(&[CARD]).unwrap();

    for (file, content) in [("class", "0x"), ("class", "network"), ("class", "0x02\n0000")] {
        let host = Host::with_card();
        let directory = host.kernel.sys.join("bus/pci/devices").join(CARD);
        fs::write(directory.join(file), content).unwrap();
        host.refuses(&[CARD], &["class: is not a PCI class"]);
        fs::remove_file(directory.join(file)).unwrap();
        host.refuses(&[CARD], &["class: cannot be read"]);
    }
    for target in ["../x", "/", "..", "../-7", "../7a"] {
        let host = Host::with_card();
        let link = host.kernel.sys.join("bus/pci/devices").join(CARD).join("iommu_group");
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        host.refuses(&[CARD], &["iommu_group: does not lead to an IOMMU group"]);
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        host.refuses(&[CARD], &["iommu_group: cannot be read"]);
    }
    // A group without members, and one whose node is a link to something precious.
    let host = Host::with_card();
    fs::remove_dir_all(host.kernel.sys.join("kernel/iommu_groups/7")).unwrap();
    host.refuses(&[CARD], &["iommu_groups/7/devices: cannot be read"]);
    let host = Host::with_card();
    let precious = host.root.path().join("precious");
    fs::write(&precious, "").unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o644)).unwrap();
    symlink(&precious, host.kernel.node(7)).unwrap();
    let told = host.hand_over(&[CARD]).unwrap_err();
    assert!(told.contains("dev/vfio/7: cannot be given to user"), "{told}");
    assert_eq!(precious.metadata().unwrap().mode() & 0o7777, 0o644);
    // A user other than root.
    let host = Host::with_card();
    fs::remove_file(host.kernel.sys.join("bus/pci/drivers_probe")).unwrap();
    host.refuses(&[CARD], &["drivers_probe: cannot be written", "help: run this as root"]);
}

#[test]
fn the_kernel_gets_exactly_what_is_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), CARD).unwrap();
    assert_eq!(fs::read_to_string(file.path()).unwrap(), CARD);
    assert!(write(&file.path().join("none"), CARD).is_err());
}
