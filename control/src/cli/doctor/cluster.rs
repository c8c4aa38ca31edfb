//! The way to the cluster: the broker, and whether the service manager behind it answers.

use std::time::Duration;

use tokio::net::TcpStream;

use super::{Patient, Report};

/// How long the broker's port may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// A cluster that has not confirmed an instance after so many seconds has a reason for it.
const SETTLED: u64 = 30;

pub(super) async fn look(patient: &Patient<'_>, report: &mut Report) {
    broker(patient, report).await;
    let Some(status) = &patient.status else {
        return;
    };
    let Some(client) = status["client_id"].as_str() else {
        report.warn(
            "registration",
            "nobody has registered this node yet",
            "start the NodeEngine (it calls /register once, after its own start), or look at its log",
        );
        return;
    };
    report.ok("registration", format!("node {client}"));
    let link = &status["link"];
    let error = link["last_error"].as_str().unwrap_or("no reason is known");
    if link["connected"] != true {
        let authorised = [
            "NotAuthorized",
            "BadUserNamePassword",
            "certificate",
            "Certificate",
        ];
        let remedy = if authorised.iter().any(|word| error.contains(word)) {
            "let the broker accept this node: its certificate (MqttCert, MqttKey, MqttCa), and the broker's access rules (`cluster-service-manager mosquitto-acl`)"
        } else {
            "make the broker reachable; what is known keeps working, and the node links again by itself"
        };
        report.fail("cluster link", format!("down: {error}"), remedy);
        return;
    }
    report.ok("cluster link", "connected");
    if status["up"] != true {
        report.fail(
            "cluster",
            "linked, but the cluster gave this node no subnetwork",
            "look whether the cluster service manager runs, and whether the broker lets this node publish under nodes/ID/net/ (`cluster-service-manager mosquitto-acl`)",
        );
        return;
    }
    let unconfirmed = link["unconfirmed"].as_u64().unwrap_or(0);
    let uptime = status["uptime_seconds"].as_u64().unwrap_or(0);
    if unconfirmed > 0 && uptime > SETTLED {
        report.warn(
            "cluster",
            format!("{unconfirmed} instances or departures are not confirmed by the cluster"),
            "if it stays so: look at the cluster service manager's log, and whether it knows these jobs",
        );
    } else {
        report.ok("cluster", "it answers, and knows what runs here");
    }
    let malformed = link["malformed"].as_u64().unwrap_or(0);
    if malformed > 0 {
        report.warn(
            "messages",
            format!("{malformed} messages of the cluster could not be understood"),
            "`NetManager logs` names them; are the cluster's version and this node's far apart?",
        );
    }
}

async fn broker(patient: &Patient<'_>, report: &mut Report) {
    let linked = patient
        .status
        .as_ref()
        .is_some_and(|status| status["link"]["connected"] == true);
    let said = patient
        .status
        .as_ref()
        .and_then(|status| status["link"]["broker"].as_str())
        .and_then(|broker| broker.split_once(" port "))
        .and_then(|(host, port)| Some((host.to_owned(), port.parse::<u16>().ok()?)));
    let net = &patient.settings.net;
    let configured = net
        .cluster_host
        .clone()
        .map(|host| (host, net.cluster_port));
    let Some((host, port)) = said.or(configured) else {
        report.warn(
            "broker",
            "its address is not known: ClusterUrl names none, and no /register has",
            "set ClusterUrl in netcfg.json, or register the node",
        );
        return;
    };
    if linked {
        report.ok("broker", format!("{host} port {port} is reached"));
        return;
    }
    let tried = tokio::time::timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await;
    let problem = match tried {
        Ok(Ok(_)) => {
            report.ok(
                "broker",
                format!(
                    "{host} port {port} takes connections (whether MQTT is spoken is not known)"
                ),
            );
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in 3 s".to_owned(),
    };
    report.fail(
        "broker",
        format!("{host} port {port} cannot be reached: {problem}"),
        "start it, open TCP to it in the firewalls between, or correct ClusterUrl and ClusterMqttPort",
    );
}
