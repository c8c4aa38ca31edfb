//! Queries for other zones, passed on to the host's resolvers as they came: what they ask and what is answered is
//! between the two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::resolvers::Resolvers;
use super::wire;

/// How long all resolvers together may take: most askers wait for 5 s.
const ALL: Duration = Duration::from_millis(4000);
/// Queries under way.
const IN_FLIGHT: usize = 256;
/// How long a query may wait for its turn.
const TURN: Duration = Duration::from_millis(1000);

/// How a query came, and so how it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Passes queries on.
pub struct Forwarder {
    resolvers: Resolvers,
    room: Semaphore,
}

impl Forwarder {
    pub fn new(resolvers: Resolvers) -> Self {
        Self {
            resolvers,
            room: Semaphore::new(IN_FLIGHT),
        }
    }

    /// The answer of the first resolver that has one; `None` when there is none in time, or too many wait already.
    /// `own` are this node's own addresses of DNS, which are nobody else's resolver.
    pub async fn forward(
        &self,
        query: &[u8],
        transport: Transport,
        own: &[IpAddr],
    ) -> Option<Vec<u8>> {
        let turn = tokio::time::timeout(TURN, self.room.acquire());
        let _room = turn.await.ok()?.ok()?;
        self.try_all(query, transport, own).await
    }

    async fn try_all(&self, query: &[u8], transport: Transport, own: &[IpAddr]) -> Option<Vec<u8>> {
        let id = wire::id(query)?;
        let mut last = None;
        let mut servers = self.resolvers.now();
        servers.retain(|server| !own.contains(&server.ip()));
        let share = ALL / u32::try_from(servers.len()).unwrap_or(1).max(1);
        for server in servers {
            // The asker's own number would tell a stranger what to forge.
            let mut asked = query.to_vec();
            wire::set_id(&mut asked, wire::random_id());
            let one = async {
                match transport {
                    Transport::Udp => by_udp(server, &asked).await,
                    Transport::Tcp => by_tcp(server, &asked).await,
                }
            };
            match tokio::time::timeout(share, one).await {
                Ok(Ok(mut answer)) => {
                    wire::set_id(&mut answer, id);
                    // One that does not want to, or cannot, is not the last word.
                    if !wire::is_refusal(&answer) {
                        return Some(answer);
                    }
                    last = Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver could not be asked"),
                Err(_) => tracing::debug!(%server, "a resolver did not answer in time"),
            }
        }
        last
    }
}

async fn by_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own, connected: a port that nobody knows, and answers of this server alone.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = tokio::select! {
            length = socket.recv(&mut buffer) => length?,
            // That nobody listens there is an error of the socket's, not something to read.
            failed = socket.ready(Interest::ERROR) => {
                failed?;
                let error = socket.take_error()?;
                return Err(error.unwrap_or_else(|| std::io::Error::other("the socket failed")));
            }
        };
        if let Some(answer) = buffer.get(..length)
            && wire::answers(query, answer)
        {
            return Ok(answer.to_vec());
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&wire::framed(query)).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await?;
    if wire::answers(query, &answer) {
        return Ok(answer);
    }
    Err(std::io::Error::other("an answer to another question"))
}
