//! What changes without a restart: both files are read again, all of them or nothing is taken over, and what only a
//! restart can change is named.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigErrors, Settings, Sources};
use crate::cpu_latency::CpuLatency;
use crate::log::Log;
use crate::socket;

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Fields that were taken over.
    pub changed: Vec<String>,
    /// Fields that have another value than the running one, which holds until a restart.
    pub restart: Vec<String>,
    /// What else is worth saying.
    pub remarks: Vec<String>,
}

/// The token that callers on TCP must show.
pub type Token = Arc<RwLock<Option<String>>>;

/// Reads the settings again.
pub struct Reload {
    sources: Sources,
    running: Mutex<Settings>,
    log: Arc<Log>,
    socket: PathBuf,
    token: Token,
    cpu_latency: Mutex<CpuLatency>,
}

/// Fields with another value.
fn differences(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let (a, b) = (&old.net, &new.net);
    let (da, db) = (&a.dataplane, &b.dataplane);
    let tls = |of: fn(&crate::config::TlsFiles) -> &PathBuf| {
        a.tls.as_ref().map(of) != b.tls.as_ref().map(of)
    };
    [
        ("NodePublicAddress", a.public_address != b.public_address),
        ("NodePublicPort", a.public_port != b.public_port),
        ("ClusterUrl", a.cluster_host != b.cluster_host),
        ("ClusterMqttPort", a.cluster_port != b.cluster_port),
        (
            "DefaultInterface",
            a.default_interface != b.default_interface,
        ),
        ("Debug", a.debug != b.debug),
        (
            "PublicIPNetworking",
            a.public_ip_networking != b.public_ip_networking,
        ),
        ("MqttCert", tls(|files| &files.certificate)),
        ("MqttKey", tls(|files| &files.key)),
        ("MqttCa", tls(|files| &files.authority)),
        ("Dns", a.dns.enabled != b.dns.enabled),
        ("DnsZone", a.dns.zone != b.dns.zone),
        ("DnsResolvers", a.dns.resolvers != b.dns.resolvers),
        ("DnsIntercept", a.dns_intercept != b.dns_intercept),
        ("Dataplane.Uplink", da.uplink != db.uplink),
        ("Dataplane.HostPort", da.host_port != db.host_port),
        ("Dataplane.Workers", da.workers != db.workers),
        ("Dataplane.Idle", da.idle != db.idle),
        ("Dataplane.CpuLatency", da.cpu_latency != db.cpu_latency),
        ("Dataplane.HugepageMb", da.hugepage_mb != db.hugepage_mb),
        ("Dataplane.Flows", da.flows != db.flows),
        ("SocketGroup", a.socket_group != b.socket_group),
        ("VhostFolder", a.vhost.folder != b.vhost.folder),
        ("VhostGroup", a.vhost.group != b.vhost.group),
        ("ApiListen", a.api_listen != b.api_listen),
        ("ApiToken", a.api_token != b.api_token),
        ("LogMaxMb", a.log.max_bytes != b.log.max_bytes),
        ("LogFiles", a.log.files != b.log.files),
        (
            "HostTunnelDeviceName",
            old.tun.host_interface != new.tun.host_interface,
        ),
        ("TunnelPort", old.tun.tunnel_port != new.tun.tunnel_port),
        ("MTUSize", old.tun.mtu != new.tun.mtu),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

/// What is taken over while running.
const LIVE: [&str; 6] = [
    "Debug",
    "Dataplane.CpuLatency",
    "SocketGroup",
    "ApiToken",
    "LogMaxMb",
    "LogFiles",
];

impl Reload {
    /// What is running now, and where to read it anew.
    #[must_use]
    pub fn new(
        sources: Sources,
        running: Settings,
        log: Arc<Log>,
        socket: PathBuf,
        token: Token,
        cpu_latency: CpuLatency,
    ) -> Self {
        Self {
            sources,
            running: Mutex::new(running),
            log,
            socket,
            token,
            cpu_latency: Mutex::new(cpu_latency),
        }
    }

    /// Goes on in a new log file if ours was moved away.
    pub fn reopen_log(&self) {
        self.log.reopen();
    }

    /// Reads the settings again and takes over what can change.
    ///
    /// # Errors
    /// All that is wrong with the files; nothing has changed then.
    pub fn reload(&self) -> Result<Reloaded, ConfigErrors> {
        let (new, doubts) = self.sources.load()?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = Reloaded {
            remarks: doubts.iter().map(ToString::to_string).collect(),
            ..Reloaded::default()
        };
        for field in differences(&running, &new) {
            let list = match LIVE.contains(&field) {
                true => &mut report.changed,
                false => &mut report.restart,
            };
            list.push(field.to_owned());
        }
        if let Err(problem) = self.log.set(new.net.debug, new.net.log) {
            report.remarks.push(problem);
        }
        tracing::debug!("lines like this one are logged from now on");
        if let Some(variable) = Log::overruled()
            && report.changed.iter().any(|field| field == "Debug")
        {
            report.remarks.push(format!(
                "Debug changes nothing while {variable} says what is logged"
            ));
        }
        if report.changed.iter().any(|field| field == "SocketGroup")
            && let Err(error) = socket::give_to_group(&self.socket, new.net.socket_group.as_deref())
        {
            report.changed.retain(|field| field != "SocketGroup");
            report.remarks.push(error.to_string());
        } else {
            running.net.socket_group = new.net.socket_group;
        }
        self.limit_wake_ups(&mut running, new.net.dataplane.cpu_latency, &mut report);
        self.token
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&new.net.api_token);
        running.net.api_token = new.net.api_token;
        running.net.debug = new.net.debug;
        running.net.log = new.net.log;
        Ok(report)
    }

    fn limit_wake_ups(&self, running: &mut Settings, limit: Option<u32>, report: &mut Reloaded) {
        const FIELD: &str = "Dataplane.CpuLatency";
        if !report.changed.iter().any(|field| field == FIELD) {
            return;
        }
        let mut held = self
            .cpu_latency
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match held.set(limit) {
            Ok(()) => running.net.dataplane.cpu_latency = limit,
            Err(problem) => {
                report.changed.retain(|field| field != FIELD);
                report.remarks.push(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NetConfig, SETTINGS, TunConfig};

    #[test]
    fn every_setting_that_matters_is_compared() {
        let sources = |text: &str, tun: &str| {
            let folder = std::env::temp_dir();
            let at = |name: &str| folder.join(format!("oak-reload-{}-{name}", std::process::id()));
            std::fs::write(at("net"), text).unwrap();
            std::fs::write(at("tun"), tun).unwrap();
            let sources = Sources {
                config: at("net"),
                tun_config: at("tun"),
                overrides: Vec::new(),
            };
            let read = sources.read().0;
            std::fs::remove_file(at("net")).unwrap();
            std::fs::remove_file(at("tun")).unwrap();
            read
        };
        let other = sources(
            r#"{"NodePublicAddress":"192.0.2.1","NodePublicPort":1,"ClusterUrl":"x","ClusterMqttPort":1,"DefaultInterface":"e",
            "Debug":true,"PublicIPNetworking":true,"MqttCert":"/c","MqttKey":"/k","MqttCa":"/a",
            "Dns":false,"DnsZone":"z","DnsResolvers":"192.0.2.2","DnsIntercept":true,
            "Dataplane":{"Uplink":"af_packet","HostPort":"virtio_user","Workers":3,"Idle":"spin","CpuLatency":5,"HugepageMb":4,"Flows":2048},
            "SocketGroup":"g","VhostFolder":"/v","VhostGroup":"v","ApiListen":"127.0.0.1:1","ApiToken":"t","LogMaxMb":7,"LogFiles":7}"#,
            r#"{"HostTunnelDeviceName":"o","TunnelPort":1,"MTUSize":1300}"#,
        );
        let running = Settings {
            net: NetConfig::default(),
            tun: TunConfig::default(),
            tun_present: true,
        };
        let differing = differences(&running, &other);
        // What is read for compatibility alone changes nothing.
        let unused = ["TunnelIP", "TunNetIPv6"];
        for setting in SETTINGS {
            let matters = !unused.contains(&setting.field) && !setting.field.starts_with("Proxy");
            assert_eq!(
                differing.contains(&setting.field),
                matters,
                "{}",
                setting.field
            );
        }
        assert!(differences(&running, &running).is_empty());
    }
}
