//! The sockets of one gateway address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::counts::Answer;
use super::forward::Transport;
use super::limits::Share;
use super::{Service, wire};

const PORT: u16 = 53;
/// Between two tries to have an address.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest query that is taken, in bytes: a question and some options.
const QUERY: usize = 4096;
/// How long a connection may say nothing, or take to accept an answer.
const SILENCE: Duration = Duration::from_secs(10);
/// Connections at one time.
const CONNECTIONS: usize = 512;

/// Serves one address for as long as it is asked to, however often the address has to be tried.
pub(super) async fn serve(service: Arc<Service>, address: IpAddr) {
    let place = SocketAddr::new(address, PORT);
    loop {
        let outcome = async {
            let udp = UdpSocket::bind(place).await?;
            Ok::<_, std::io::Error>((udp, TcpListener::bind(place).await?))
        };
        match outcome.await {
            Ok((udp, tcp)) => {
                tracing::info!(%place, "DNS is served");
                service.places().insert(place, Ok(()));
                tokio::select! {
                    () = datagrams(&service, Arc::new(udp)) => {}
                    () = connections(&service, tcp) => {}
                }
            }
            Err(error) => {
                let problem = problem(place, &error);
                let before = service.places().insert(place, Err(problem.clone()));
                if before != Some(Err(problem.clone())) {
                    tracing::error!("{problem}");
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn problem(place: SocketAddr, error: &std::io::Error) -> String {
    let what = format!("DNS is not served on {place}: {error}");
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return format!(
            "{what}; another program of this host listens on port 53 of every address: let it listen on its own addresses alone (dnsmasq: bind-interfaces and except-interface; unbound: interface; named: listen-on), or set \"Dns\": false in netcfg.json; it is tried again each second, and everything else works"
        );
    }
    format!("{what}; it is tried again each second")
}

async fn datagrams(service: &Arc<Service>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; QUERY];
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let (length, asker) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a DNS socket could not be read");
                // An error of one datagram's is gone with it; one of the socket's must not keep a core busy.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if !service.may_ask(asker.ip()) {
            service.counts.count(Answer::Stranger);
            continue;
        }
        let Some(held) = service.limits.take(asker.ip(), Share::Query) else {
            service.counts.count(Answer::Limited);
            continue;
        };
        let query = buffer.get(..length).unwrap_or_default().to_vec();
        let (service, socket) = (Arc::clone(service), Arc::clone(&socket));
        under_way.spawn(async move {
            let _held = held;
            if let Some(answer) = service.answer(&query, asker.ip(), Transport::Udp).await
                && let Err(error) = socket.send_to(&answer, asker).await
            {
                tracing::debug!(%asker, %error, "an answer could not be sent");
            }
        });
    }
}

async fn connections(service: &Arc<Service>, listener: TcpListener) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let Ok((stream, asker)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if !service.may_ask(asker.ip()) {
            service.counts.count(Answer::Stranger);
            continue;
        }
        let held = service.limits.take(asker.ip(), Share::Connection);
        let Some(held) = held.filter(|_| under_way.len() < CONNECTIONS) else {
            service.counts.count(Answer::Limited);
            continue;
        };
        let service = Arc::clone(service);
        under_way.spawn(async move {
            let _held = held;
            if let Err(error) = converse(&service, stream, asker.ip()).await {
                tracing::debug!(%asker, %error, "a DNS connection ended");
            }
        });
    }
}

/// One query after another, each with its length before it (RFC 1035 section 4.2.2).
async fn converse(
    service: &Service,
    mut stream: TcpStream,
    asker: IpAddr,
) -> Result<(), std::io::Error> {
    loop {
        let mut query = Vec::new();
        let read = async {
            let mut length = [0; 2];
            stream.read_exact(&mut length).await?;
            let length = usize::from(u16::from_be_bytes(length));
            if length > QUERY {
                return Err(std::io::Error::other("a query too long to be one"));
            }
            query.resize(length, 0);
            stream.read_exact(&mut query).await.map(drop)
        };
        match tokio::time::timeout(SILENCE, read).await {
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(read) => read?,
            Err(_) => return Ok(()),
        }
        let Some(_held) = service.limits.take(asker, Share::Query) else {
            service.counts.count(Answer::Limited);
            return Ok(());
        };
        let Some(answer) = service.answer(&query, asker, Transport::Tcp).await else {
            return Ok(());
        };
        tokio::time::timeout(SILENCE, stream.write_all(&wire::framed(&answer)))
            .await
            .map_err(std::io::Error::other)??;
    }
}
