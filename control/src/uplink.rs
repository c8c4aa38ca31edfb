//! Which uplink a node uses and why: chosen by what the machine has, or as the operator says, and refused with a remedy
//! where it cannot be.
//!
//! A NIC that `scripts/bind` gave to DPDK has a note in the folder `nic` beside `netcfg.json`: the name, addresses and
//! routes that the kernel had there. They come back on the TAP that stands for the NIC from then on.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::{Beside, Uplink};
use serde::Deserialize;

use crate::config::{NetConfig, UplinkChoice};
use crate::host;
use crate::netlink::{Netlink, NetlinkError};

/// Name of the TAP of a NIC whose former name is not known.
const TAP: &str = "oaknic0";
/// Drivers that hand a device to DPDK.
const FOR_DPDK: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Vendor of virtio devices.
const VIRTIO: &str = "0x1af4";

/// An uplink, and how it came to be.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For the data plane.
    pub uplink: Uplink,
    /// For people: which, and why.
    pub reason: String,
    note: Option<Note>,
}

/// What `scripts/bind` noted of a NIC: `ip -j` as it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Note {
    pci: String,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default)]
    links: Vec<NotedLink>,
    #[serde(default)]
    routes: Vec<NotedRoute>,
    #[serde(default)]
    routes6: Vec<NotedRoute>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct NotedLink {
    #[serde(default)]
    addr_info: Vec<NotedAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct NotedAddress {
    local: IpAddr,
    prefixlen: u8,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    dynamic: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct NotedRoute {
    dst: String,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    prefsrc: Option<IpAddr>,
    #[serde(default)]
    protocol: String,
}

/// A route that the kernel had over a NIC.
struct Former {
    to: (IpAddr, u8),
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

impl Note {
    /// Addresses to give back. What a router's advertisements made they make again.
    fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.links
            .iter()
            .flat_map(|link| &link.addr_info)
            .filter(|address| address.scope == "global")
            .filter(|address| !(address.dynamic && address.local.is_ipv6()))
            .map(|address| (address.local, address.prefixlen))
    }

    /// Routes to give back, those without a gateway first: the others lead over them.
    fn routes(&self) -> Vec<Former> {
        let mut routes: Vec<_> = self
            .routes
            .iter()
            .chain(&self.routes6)
            .filter(|route| !matches!(&*route.protocol, "kernel" | "ra"))
            .filter_map(|route| {
                let any: IpAddr = match route.gateway.or(route.prefsrc)? {
                    IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                };
                let to = match &*route.dst {
                    "default" => (any, 0),
                    text => prefix(text)?,
                };
                Some(Former {
                    to,
                    gateway: route.gateway,
                    source: route.prefsrc,
                })
            })
            .collect();
        routes.sort_by_key(|route: &Former| route.gateway.is_some());
        routes
    }
}

fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    Some((address, length.map_or(Some(whole), |l| l.parse().ok())?))
}

/// The notes in the folder of `netcfg.json`, by PCI address.
fn notes(folder: &Path) -> BTreeMap<String, Note> {
    let entries = std::fs::read_dir(folder.join("nic"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
        .filter_map(|entry| {
            let read = std::fs::read_to_string(entry.path())
                .map_err(|error| error.to_string())
                .and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()));
            match read {
                Ok(note) => Some(note),
                Err(error) => {
                    tracing::warn!(file = %entry.path().display(), %error, "this note of a NIC cannot be read; scripts/bind writes it anew");
                    None
                }
            }
        })
        .map(|note: Note| (note.pci.clone(), note))
        .collect()
}

/// Where the kernel shows PCI devices.
struct Machine<'a> {
    devices: &'a Path,
}

impl Machine<'_> {
    fn driver(&self, pci: &str) -> Option<String> {
        let driver = std::fs::read_link(self.devices.join(pci).join("driver")).ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether DPDK can have the NIC now.
    fn given(&self, pci: &str, virtio: bool) -> Result<(), String> {
        let device = self.devices.join(pci);
        if !device.exists() {
            return Err(format!(
                "there is no PCI device {pci}: scripts/bind --status shows the NICs"
            ));
        }
        let vendor = std::fs::read_to_string(device.join("vendor")).unwrap_or_default();
        if virtio && vendor.trim() != VIRTIO {
            return Err(format!(
                "{pci} is no virtio device (its vendor is {}): write vfio:{pci}",
                vendor.trim()
            ));
        }
        match self.driver(pci) {
            Some(driver) if FOR_DPDK.contains(&&*driver) => Ok(()),
            Some(driver) => Err(format!(
                "the NIC {pci} is with the kernel's driver {driver}: scripts/bind {pci} gives it to DPDK"
            )),
            None => Err(format!(
                "the NIC {pci} is with no driver: scripts/bind {pci} gives it to DPDK"
            )),
        }
    }

    /// Without an IOMMU a NIC reaches memory by its physical address.
    fn reaches_memory(&self, pci: &str, hugepages: Option<u32>) -> Result<(), String> {
        let name = std::fs::read_to_string(self.devices.join(pci).join("iommu_group/name"));
        let confined = name.is_ok_and(|name| name.trim() != "vfio-noiommu")
            || self.devices.join(pci).join("iommu_group/type").exists();
        if confined || (hugepages != Some(0) && free_hugepages() > 0) {
            return Ok(());
        }
        Err(format!(
            "the NIC {pci} has no IOMMU before it and needs hugepages: scripts/hugepages reserves them (and HugepageMb must not be 0)"
        ))
    }
}

fn free_hugepages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse().ok())
        .unwrap_or(0)
}

/// The device arguments for a kernel interface's PMD, whose queues must be asked for: one pair for each worker.
fn interface_arguments(driver: &str, interface: &str, workers: usize) -> String {
    let queues = match driver {
        _ if workers < 2 => String::new(),
        "af_packet" => format!(",qpairs={workers}"),
        _ => format!(",queue_count={workers}"),
    };
    format!("net_{driver}0,iface={interface}{queues}")
}

/// Chooses the uplink; `folder` is that of `netcfg.json`.
///
/// # Errors
/// What the operator asks for is not there; the text says what to do.
pub async fn choose(net: &NetConfig, workers: usize, folder: &Path) -> Result<Chosen, String> {
    let machine = Machine {
        devices: Path::new("/sys/bus/pci/devices"),
    };
    let hugepages = net.dataplane.hugepage_mb;
    match &net.dataplane.uplink {
        UplinkChoice::Auto => Ok(automatic(&machine, notes(folder), hugepages)),
        UplinkChoice::Socket => Ok(socket(
            "the kernel keeps the NIC, as the configuration says",
        )),
        UplinkChoice::Interface { driver, interface } => {
            let netlink = Netlink::open().map_err(|error| format!("netlink: {error}"))?;
            let interface = named(&netlink, net, interface.as_deref()).await?;
            let beside = if *driver == "af_xdp" {
                compare_queues(&interface, receive_queues(&interface), workers)?;
                clear_program(&interface).await?;
                Beside::Rest
            } else {
                Beside::Copies
            };
            Ok(Chosen {
                uplink: Uplink::Ethdev {
                    devargs: interface_arguments(driver, &interface, workers),
                    beside,
                    interface: interface.clone(),
                },
                reason: format!(
                    "{driver} on {interface}, which the kernel shares, as the configuration says"
                ),
                note: None,
            })
        }
        UplinkChoice::Pci {
            address,
            virtio,
            tap,
        } => {
            machine.given(address, *virtio)?;
            machine.reaches_memory(address, hugepages)?;
            let note = notes(folder).remove(address);
            let why = format!("NIC {address} wholly in DPDK, as the configuration says");
            Ok(nic(address, tap.clone(), note, &why))
        }
        UplinkChoice::Device {
            devargs,
            tap: true,
            interface,
        } => Ok(Chosen {
            uplink: Uplink::Ethdev {
                devargs: devargs.clone(),
                interface: interface.clone(),
                beside: Beside::Tap,
            },
            reason: format!(
                "device {devargs} wholly in DPDK, as the configuration says; the kernel's side is the TAP {interface}"
            ),
            note: None,
        }),
        UplinkChoice::Device {
            devargs,
            tap: false,
            interface,
        } => {
            let netlink = Netlink::open().map_err(|error| format!("netlink: {error}"))?;
            let interface = named(&netlink, net, Some(interface)).await?;
            Ok(Chosen {
                uplink: Uplink::Ethdev {
                    devargs: devargs.clone(),
                    interface: interface.clone(),
                    beside: Beside::Copies,
                },
                reason: format!("device {devargs} beside {interface}, as the configuration says"),
                note: None,
            })
        }
    }
}

fn socket(why: &str) -> Chosen {
    Chosen {
        uplink: Uplink::Socket,
        reason: format!("UDP sockets: {why}"),
        note: None,
    }
}

fn nic(pci: &str, tap: Option<String>, note: Option<Note>, why: &str) -> Chosen {
    let noted = note.as_ref().and_then(|note| note.interface.clone());
    let interface = tap.or(noted).unwrap_or_else(|| TAP.to_owned());
    Chosen {
        reason: format!("{why}; the kernel's side is the TAP {interface}"),
        uplink: Uplink::Ethdev {
            devargs: pci.to_owned(),
            interface,
            beside: Beside::Tap,
        },
        note,
    }
}

fn automatic(
    machine: &Machine<'_>,
    notes: BTreeMap<String, Note>,
    hugepages: Option<u32>,
) -> Chosen {
    let mut problems = Vec::new();
    for (pci, note) in notes {
        let usable = machine
            .given(&pci, false)
            .and_then(|()| machine.reaches_memory(&pci, hugepages));
        match usable {
            Ok(()) => {
                let why = format!("NIC {pci} wholly in DPDK, since it was given to it");
                return nic(&pci, None, Some(note), &why);
            }
            Err(problem) => {
                tracing::warn!("a NIC was given to DPDK and cannot be had: {problem}");
                problems.push(problem);
            }
        }
    }
    match problems.first() {
        None => socket("the kernel keeps the NIC, since none was given to DPDK (scripts/bind)"),
        Some(problem) => socket(problem),
    }
}

/// The interface that is meant, if it exists.
async fn named(
    netlink: &Netlink,
    net: &NetConfig,
    interface: Option<&str>,
) -> Result<String, String> {
    let Some(name) = interface.or(net.default_interface.as_deref()) else {
        return match host::default_interface(netlink).await {
            Ok(Some(interface)) => Ok(interface),
            Ok(None) => Err("there is no default route to tell the uplink's interface; name it in netcfg.json, as in \"Uplink\": \"af_packet:eth0\"".to_owned()),
            Err(error) => Err(error.to_string()),
        };
    };
    match netlink.link(name).await {
        Ok(Some(_)) => Ok(name.to_owned()),
        Ok(None) => Err(format!(
            "the uplink's interface {name} does not exist: ip link shows those that do; correct Dataplane.Uplink or DefaultInterface"
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// How many receive queues an interface has; `None` where /sys does not show it.
fn receive_queues(interface: &str) -> Option<usize> {
    let queues = std::fs::read_dir(format!("/sys/class/net/{interface}/queues")).ok()?;
    let receiving = queues
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    Some(receiving.count())
}

/// Each worker needs a queue. What arrives on a queue that has no worker comes by the kernel's socket, which is slower.
fn compare_queues(interface: &str, queues: Option<usize>, workers: usize) -> Result<(), String> {
    match queues {
        Some(queues) if queues < workers => Err(format!(
            "{interface} has {queues} receive queues for {workers} workers: set Dataplane.Workers to {queues}, or give it more by ethtool -L {interface} combined {workers}"
        )),
        Some(queues) if queues > workers => {
            tracing::warn!(
                "{interface} has {queues} receive queues and {workers} workers read: what arrives on the others takes the kernel's way; ethtool -L {interface} combined {workers} spares that"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn ip(arguments: &[&str]) -> io::Result<Vec<u8>> {
    let output = tokio::process::Command::new("ip")
        .args(arguments)
        .output()
        .await?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(format!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// Name of the XDP program on an interface, as `ip -j link` shows it.
fn program(shown: &[u8]) -> Option<String> {
    let links: serde_json::Value = serde_json::from_slice(shown).ok()?;
    let program = links.get(0)?.get("xdp")?.get("prog")?;
    let name = program.get("name").and_then(serde_json::Value::as_str);
    Some(name.unwrap_or_default().to_owned())
}

/// Takes off what a killed process left where the kernel could not do it; another's program is in the way.
async fn clear_program(interface: &str) -> Result<(), String> {
    let shown = ip(&["-j", "link", "show", "dev", interface])
        .await
        .map_err(|error| error.to_string())?;
    match program(&shown) {
        None => Ok(()),
        Some(name) if name == dataplane::XDP_PROGRAM => {
            tracing::info!(
                interface,
                "taking off the XDP program of a process that was killed"
            );
            ip(&["link", "set", "dev", interface, "xdp", "off"])
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
        Some(name) => Err(format!(
            "{interface} has an XDP program `{name}` of someone else's: take it off (ip link set dev {interface} xdp off), or choose af_packet or socket"
        )),
    }
}

/// Sees to it that the TAP of a NIC keeps the NIC's Ethernet address: udev gives new interfaces one of its own, and where
/// it was asleep when the TAP's was set, it comes too late to notice.
async fn keep_mac(netlink: Netlink, interface: String, mac: [u8; 6]) {
    for _ in 0..50 {
        if let Ok(Some(link)) = netlink.link(&interface).await
            && link.mac != mac
        {
            match netlink.set_mac(link.index, mac).await {
                Ok(()) => tracing::info!(interface, "has the NIC's Ethernet address again"),
                Err(error) => {
                    tracing::warn!(interface, %error, "has not the NIC's Ethernet address");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Gives the TAP of a NIC what the kernel had on the NIC, unless it has addresses already; `mac` is the NIC's.
///
/// # Errors
/// The kernel refused.
pub async fn furnish(chosen: &Chosen, mac: Option<[u8; 6]>) -> Result<(), NetlinkError> {
    let Uplink::Ethdev {
        interface,
        beside: Beside::Tap,
        ..
    } = &chosen.uplink
    else {
        return Ok(());
    };
    let netlink = Netlink::open().map_err(NetlinkError::opening)?;
    let Some(link) = netlink.link(interface).await? else {
        return Ok(());
    };
    if let Some(mac) = mac
        && let Ok(own) = Netlink::open()
    {
        tokio::spawn(keep_mac(own, interface.clone(), mac));
    }
    netlink.set_up(link.index, None).await?;
    if !netlink.global_addresses(link.index).await?.is_empty() {
        return Ok(());
    }
    let Some(note) = &chosen.note else {
        tracing::info!(
            interface,
            "this TAP stands for the NIC and has no address yet: give it what the NIC had, by the same name and MAC address"
        );
        return Ok(());
    };
    for (address, prefix) in note.addresses() {
        netlink.add_address(link.index, address, prefix).await?;
    }
    for Former {
        to,
        gateway,
        source,
    } in note.routes()
    {
        if let Err(error) = netlink.add_route(to, link.index, gateway, source).await {
            tracing::warn!(interface, %error, "a route that the NIC had does not come back");
        }
    }
    Ok(())
}

/// Removes what an uplink leaves on purpose: the TAP of a NIC, and a program that no process holds.
pub async fn remove(net: &NetConfig, folder: &Path) {
    let taps: Vec<String> = match &net.dataplane.uplink {
        UplinkChoice::Device {
            interface,
            tap: true,
            ..
        } => vec![interface.clone()],
        UplinkChoice::Auto | UplinkChoice::Pci { .. } => {
            let named = match &net.dataplane.uplink {
                UplinkChoice::Pci { tap, .. } => tap.clone(),
                _ => None,
            };
            let noted = notes(folder)
                .into_values()
                .filter_map(|note| note.interface);
            noted.chain(named).chain([TAP.to_owned()]).collect()
        }
        UplinkChoice::Interface {
            driver: "af_xdp",
            interface,
        } => {
            if let Ok(netlink) = Netlink::open()
                && let Ok(interface) = named(&netlink, net, interface.as_deref()).await
                && let Err(error) = clear_program(&interface).await
            {
                tracing::debug!("{error}");
            }
            return;
        }
        _ => return,
    };
    let Ok(netlink) = Netlink::open() else { return };
    for tap in taps {
        if let Ok(Some(_)) = netlink.link(&tap).await {
            // An interface of that name that is no TAP stays.
            if let Err(error) =
                ip(&["tuntap", "del", "dev", &tap, "mode", "tap", "multi_queue"]).await
            {
                tracing::debug!(tap, %error, "not removed");
            }
        }
    }
}

/// The folder of `netcfg.json`.
#[must_use]
pub fn folder(config: &Path) -> PathBuf {
    config.parent().map_or_else(PathBuf::new, Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Note {
        serde_json::from_str(text).unwrap()
    }

    /// As `scripts/bind` writes it.
    const NOTED: &str = r#"{"pci":"0000:01:00.0","interface":"enp1s0","driver":"virtio-pci",
        "links":[{"ifindex":2,"ifname":"enp1s0","mtu":1500,"addr_info":[
            {"family":"inet","local":"192.0.2.7","prefixlen":24,"scope":"global","dynamic":true,"label":"enp1s0"},
            {"family":"inet6","local":"2001:db8::7","prefixlen":64,"scope":"global"},
            {"family":"inet6","local":"2001:db8::aaaa","prefixlen":64,"scope":"global","dynamic":true},
            {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]}],
        "routes":[{"dst":"default","gateway":"192.0.2.1","flags":[]},
            {"dst":"192.0.2.0/24","protocol":"kernel","scope":"link","prefsrc":"192.0.2.7","flags":[]},
            {"dst":"198.51.100.1","scope":"link","prefsrc":"192.0.2.7","flags":[]}],
        "routes6":[{"dst":"default","gateway":"fe80::2","protocol":"ra","metric":1024,"flags":[]},
            {"dst":"2001:db8:1::/48","gateway":"2001:db8::1","metric":1024,"flags":[]}]}"#;

    #[test]
    fn what_a_nic_had_is_read_from_its_note() {
        let note = note(NOTED);
        let text: Vec<String> = note
            .addresses()
            .map(|(address, prefix)| format!("{address}/{prefix}"))
            .collect();
        assert_eq!(text, ["192.0.2.7/24", "2001:db8::7/64"]);
        let routes: Vec<String> = note
            .routes()
            .iter()
            .map(|route| format!("{}/{} {:?}", route.to.0, route.to.1, route.gateway))
            .collect();
        assert_eq!(
            routes,
            [
                "198.51.100.1/32 None",
                "0.0.0.0/0 Some(192.0.2.1)",
                "2001:db8:1::/48 Some(2001:db8::1)"
            ]
        );
    }

    /// A machine of files, gone with this value.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("oak-pci-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&root);
            std::fs::create_dir_all(&root).unwrap();
            Files(root)
        }

        fn add(&self, pci: &str, vendor: &str, driver: &str, group: &str) {
            let device = self.0.join(pci);
            std::fs::create_dir_all(device.join("iommu_group")).unwrap();
            std::fs::write(device.join("vendor"), vendor).unwrap();
            std::fs::write(device.join("iommu_group/name"), group).unwrap();
            std::os::unix::fs::symlink(format!("/drivers/{driver}"), device.join("driver"))
                .unwrap();
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_nic_that_cannot_be_had_is_refused_with_the_remedy() {
        let files = Files::new("refused");
        files.add("0000:01:00.0", "0x8086\n", "e1000e", "intel");
        files.add("0000:02:00.0", "0x1af4\n", "vfio-pci", "intel");
        files.add("0000:03:00.0", "0x8086\n", "vfio-pci", "vfio-noiommu");
        let machine = Machine { devices: &files.0 };
        for (pci, virtio, remedy) in [
            ("0000:09:00.0", false, "scripts/bind --status"),
            ("0000:01:00.0", false, "scripts/bind 0000:01:00.0"),
            ("0000:03:00.0", true, "write vfio:0000:03:00.0"),
        ] {
            let refusal = machine.given(pci, virtio).unwrap_err();
            assert!(refusal.contains(remedy), "{refusal}");
        }
        assert_eq!(machine.given("0000:02:00.0", true), Ok(()));
        assert_eq!(machine.reaches_memory("0000:02:00.0", Some(0)), Ok(()));
        let refusal = machine.reaches_memory("0000:03:00.0", Some(0)).unwrap_err();
        assert!(refusal.contains("scripts/hugepages"), "{refusal}");
    }

    #[test]
    fn the_choice_is_made_by_what_there_is() {
        let files = Files::new("auto");
        let machine = Machine { devices: &files.0 };
        let with = |text: &str| {
            let note = note(text);
            BTreeMap::from([(note.pci.clone(), note)])
        };
        let none = automatic(&machine, BTreeMap::new(), None);
        assert_eq!(none.uplink, Uplink::Socket);
        assert!(none.reason.contains("scripts/bind"), "{}", none.reason);
        // Given once, and the kernel has it again.
        files.add("0000:01:00.0", "0x1af4\n", "virtio-pci", "intel");
        let lost = automatic(&machine, with(NOTED), None);
        assert_eq!(lost.uplink, Uplink::Socket);
        assert!(lost.reason.contains("virtio-pci"), "{}", lost.reason);
        std::fs::remove_file(files.0.join("0000:01:00.0/driver")).unwrap();
        files.add("0000:01:00.0", "0x1af4\n", "vfio-pci", "intel");
        let found = automatic(&machine, with(NOTED), None);
        assert_eq!(
            found.uplink,
            Uplink::Ethdev {
                devargs: "0000:01:00.0".into(),
                interface: "enp1s0".into(),
                beside: Beside::Tap
            }
        );
        assert_eq!(found.note, Some(note(NOTED)));
    }

    #[test]
    fn a_kernel_interface_gets_a_pair_of_queues_for_each_worker() {
        let of = |driver, workers| interface_arguments(driver, "eth1", workers);
        assert_eq!(of("af_packet", 1), "net_af_packet0,iface=eth1");
        assert_eq!(of("af_packet", 4), "net_af_packet0,iface=eth1,qpairs=4");
        assert_eq!(of("af_xdp", 2), "net_af_xdp0,iface=eth1,queue_count=2");
    }

    #[test]
    fn each_worker_needs_a_queue() {
        assert_eq!(compare_queues("eth1", None, 2), Ok(()));
        assert_eq!(compare_queues("eth1", Some(4), 2), Ok(()));
        let refusal = compare_queues("eth1", Some(1), 2).unwrap_err();
        assert!(refusal.contains("Workers to 1") && refusal.contains("ethtool -L eth1"));
    }

    #[test]
    fn programs_are_known_by_their_names() {
        let shown = br#"[{"ifindex":3,"ifname":"v0","xdp":{"mode":1,"prog":{"id":110,"name":"oak_tunnel","jited":1}}}]"#;
        assert_eq!(program(shown).as_deref(), Some(dataplane::XDP_PROGRAM));
        assert_eq!(
            program(br#"[{"ifindex":3,"xdp":{"mode":1,"prog":{"id":1}}}]"#).as_deref(),
            Some("")
        );
        assert_eq!(program(br#"[{"ifindex":3}]"#), None);
    }
}
