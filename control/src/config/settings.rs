//! Every field of both files with the flag and the environment variable that win over it.
//!
//! One table, so that a field cannot be without its flag: the command line, its help, its man page and the reader of
//! the files all go by it. A value from outside takes the place of the file's before anything is checked, so both are
//! held to the same rules, and a complaint names where the value came from.

/// Which file a field is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// `netcfg.json`.
    Net,
    /// `tuncfg.json`.
    Tun,
}

/// One field.
#[derive(Debug)]
pub struct Setting {
    /// The file.
    pub file: File,
    /// The field, as the contract writes it; `Dataplane.Flows` is one of a nested object.
    pub field: &'static str,
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// What the value is, for people.
    pub value: &'static str,
    /// What it is for.
    pub help: &'static str,
}

impl Setting {
    /// Whether it is true or false.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.value == SWITCH
    }
}

const SWITCH: &str = "true|false";

const fn net(
    field: &'static str,
    flag: &'static str,
    env: &'static str,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        file: File::Net,
        field,
        flag,
        env,
        value,
        help,
    }
}

const fn tun(
    field: &'static str,
    flag: &'static str,
    env: &'static str,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        file: File::Tun,
        field,
        flag,
        env,
        value,
        help,
    }
}

/// All of them, in the order of the documentation.
#[rustfmt::skip]
pub static SETTINGS: &[Setting] = &[
    net("NodePublicAddress", "public-address", "NETMANAGER_PUBLIC_ADDRESS", "ADDRESS", "What other nodes send to; 0.0.0.0 is the address of the default route"),
    net("NodePublicPort", "public-port", "NETMANAGER_PUBLIC_PORT", "PORT", "The port announced beside it"),
    net("ClusterUrl", "cluster", "NETMANAGER_CLUSTER", "HOST", "The broker's host; 0.0.0.0 leaves it to /register"),
    net("ClusterMqttPort", "cluster-port", "NETMANAGER_CLUSTER_PORT", "PORT", "The broker's port"),
    net("DefaultInterface", "interface", "NETMANAGER_INTERFACE", "NAME", "The interface whose address counts"),
    net("Debug", "debug", "NETMANAGER_DEBUG", SWITCH, "More log lines; never one per packet"),
    net("PublicIPNetworking", "public-ip-networking", "NETMANAGER_PUBLIC_IP_NETWORKING", SWITCH, "Ask for the address that an outside observer sees"),
    net("MqttCert", "mqtt-cert", "NETMANAGER_MQTT_CERT", "FILE", "PEM certificate of this node; with it the broker is reached by TLS alone"),
    net("MqttKey", "mqtt-key", "NETMANAGER_MQTT_KEY", "FILE", "PEM key of this node"),
    net("MqttCa", "mqtt-ca", "NETMANAGER_MQTT_CA", "FILE", "PEM authority of the broker's certificate; ca.crt beside the certificate if not named"),
    net("Dns", "dns", "NETMANAGER_DNS", SWITCH, "Serve services' names by DNS on the gateway addresses (true if not set)"),
    net("DnsZone", "dns-zone", "NETMANAGER_DNS_ZONE", "NAME", "The zone of services' names (oak if not set)"),
    net("DnsResolvers", "dns-resolvers", "NETMANAGER_DNS_RESOLVERS", "ADDRESSES", "Where other names are asked for, with commas between them; those of /etc/resolv.conf if not set"),
    net("DnsIntercept", "dns-intercept", "NETMANAGER_DNS_INTERCEPT", SWITCH, "Answer queries for services' names wherever containers send them"),
    net("Dataplane.Uplink", "uplink", "NETMANAGER_UPLINK", "UPLINK", "How packets leave for other nodes: auto, socket, af_packet[:IFACE], af_xdp[:IFACE], vfio:PCI, virtio:PCI, or DEVARGS@IFACE"),
    net("Dataplane.HostPort", "host-port", "NETMANAGER_HOST_PORT", "tap|virtio_user", "What the node's own interface is behind: a TAP, or virtio_user on vhost-net"),
    net("Dataplane.Workers", "workers", "NETMANAGER_WORKERS", "COUNT", "Worker lcores"),
    net("Dataplane.Idle", "idle", "NETMANAGER_IDLE", "spin|backoff", "How an idle worker waits"),
    net("Dataplane.CpuLatency", "cpu-latency", "NETMANAGER_CPU_LATENCY", "MICROSECONDS", "How long an idle core may take to wake, the whole machine's (PM QoS); 0 keeps it awake"),
    net("Dataplane.HugepageMb", "hugepage-mb", "NETMANAGER_HUGEPAGE_MB", "MB", "Megabytes of hugepages; 0 for none"),
    net("Dataplane.Flows", "flows", "NETMANAGER_FLOWS", "COUNT", "Flows that the flow table holds"),
    net("SocketGroup", "socket-group", "NETMANAGER_SOCKET_GROUP", "GROUP", "The group that may use the unix socket (mode 0660), by name or number"),
    net("VhostFolder", "vhost-folder", "NETMANAGER_VHOST_FOLDER", "FOLDER", "Where vhost-user sockets of virtual machines are made (/run/netmanager/vhost if not set)"),
    net("VhostGroup", "vhost-group", "NETMANAGER_VHOST_GROUP", "GROUP", "The group that may use those sockets (mode 0660), by name or number"),
    net("ApiListen", "api-listen", "NETMANAGER_API_LISTEN", "ADDRESS:PORT", "Serve the same interface on TCP, too"),
    net("ApiToken", "api-token", "NETMANAGER_API_TOKEN", "TOKEN", "Bearer token that callers on TCP must show (in a process list, a flag is seen by all)"),
    net("LogMaxMb", "log-max-mb", "NETMANAGER_LOG_MAX_MB", "MB", "Size at which the log file is rotated"),
    net("LogFiles", "log-files", "NETMANAGER_LOG_FILES", "COUNT", "Rotated log files that are kept"),
    tun("HostTunnelDeviceName", "host-interface", "NETMANAGER_HOST_INTERFACE", "NAME", "The node's own interface into the overlay"),
    tun("TunnelPort", "tunnel-port", "NETMANAGER_TUNNEL_PORT", "PORT", "The UDP port that is bound"),
    tun("MTUSize", "mtu", "TUN_MTU_SIZE", "BYTES", "What containers may send in one packet"),
    tun("TunnelIP", "tunnel-ip", "NETMANAGER_TUNNEL_IP", "ADDRESS", "Read for compatibility"),
    tun("TunNetIPv6", "tunnel-ipv6", "NETMANAGER_TUNNEL_IPV6", "ADDRESS", "Read for compatibility"),
    tun("ProxySubnetwork", "proxy-subnetwork", "NETMANAGER_PROXY_SUBNETWORK", "ADDRESS", "All semantic addresses, IPv4"),
    tun("ProxySubnetworkMask", "proxy-subnetwork-mask", "NETMANAGER_PROXY_SUBNETWORK_MASK", "MASK", "Their mask"),
    tun("ProxySubnetworkIPv6", "proxy-subnetwork-ipv6", "NETMANAGER_PROXY_SUBNETWORK_IPV6", "ADDRESS", "All semantic addresses, IPv6"),
    tun("ProxySubnetworkIPv6Prefix", "proxy-subnetwork-ipv6-prefix", "NETMANAGER_PROXY_SUBNETWORK_IPV6_PREFIX", "LENGTH", "Their prefix length"),
];

/// A value that wins over a file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
}

/// A value from the command line or the environment.
#[derive(Clone, Debug)]
pub struct Override {
    /// The field.
    pub setting: &'static Setting,
    /// The value, as text.
    pub value: String,
    origin: Origin,
}

impl Override {
    /// From a flag.
    #[must_use]
    pub fn by_flag(setting: &'static Setting, value: String) -> Self {
        Self {
            setting,
            value,
            origin: Origin::Flag,
        }
    }

    /// From the environment.
    #[must_use]
    pub fn by_environment(setting: &'static Setting, value: String) -> Self {
        Self {
            setting,
            value,
            origin: Origin::Environment,
        }
    }

    /// Whether it was typed.
    #[must_use]
    pub fn is_flag(&self) -> bool {
        self.origin == Origin::Flag
    }

    /// Where it came from, as people know it.
    #[must_use]
    pub fn source(&self) -> String {
        match self.origin {
            Origin::Flag => format!("--{}", self.setting.flag),
            Origin::Environment => self.setting.env.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_variable_or_field_is_there_twice() {
        let names: [fn(&Setting) -> &'static str; 3] = [|s| s.field, |s| s.flag, |s| s.env];
        for name in names {
            let mut all: Vec<_> = SETTINGS.iter().map(name).collect();
            all.sort_unstable();
            let count = all.len();
            all.dedup();
            assert_eq!(all.len(), count, "{all:?}");
        }
    }
}
