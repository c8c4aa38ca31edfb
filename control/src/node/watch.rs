//! What changes without being asked for: containers that end, addresses that move, questions of the data plane.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::{Notify, mpsc};

use super::{Key, Node, is_plugged, still_lives};
use crate::cluster_link::Command;
use crate::dns::Lookup;
use crate::forwarding::{Answer, CommandError, Event, Query};
use crate::netlink::Link;
use crate::next_hop::NextHops;

/// How often everything is looked at even without a notice from the kernel.
const ROUND: Duration = Duration::from_secs(1);
/// How often routes and addresses are looked at even without one.
const ADDRESS_ROUND: Duration = Duration::from_secs(10);
/// A change rarely comes alone.
const SETTLE: Duration = Duration::from_millis(100);

/// Notices of the kernel.
struct Notices {
    links: Notify,
    addresses: Notify,
    neighbours: Notify,
}

impl Node {
    pub(super) fn watch(self: &Arc<Self>, events: mpsc::Receiver<Event>) {
        let notices = Arc::new(Notices {
            links: Notify::new(),
            addresses: Notify::new(),
            neighbours: Notify::new(),
        });
        self.keep_task(tokio::spawn(listen(Arc::clone(&notices))));
        let node = Arc::clone(self);
        let links = Arc::clone(&notices);
        self.keep_task(tokio::spawn(async move {
            loop {
                let _ = tokio::time::timeout(ROUND, links.links.notified()).await;
                node.detach_the_dead().await;
            }
        }));
        let node = Arc::clone(self);
        let addresses = Arc::clone(&notices);
        self.keep_task(tokio::spawn(async move {
            loop {
                let notice =
                    tokio::time::timeout(ADDRESS_ROUND, addresses.addresses.notified()).await;
                tokio::time::sleep(SETTLE).await;
                node.follow_address().await;
                // Docker, when it starts, closes the firewall and gives its bridge an address.
                if notice.is_ok() && node.is_configured() {
                    node.open_host_firewall().await;
                }
                node.give_back_surplus().await;
            }
        }));
        let node = Arc::clone(self);
        self.keep_task(tokio::spawn(
            async move { node.serve(events, &notices).await },
        ));
    }

    /// Passes on what DNS wants to know of the cluster. Without a link nobody knows, and the asker is told so.
    pub(super) fn serve_lookups(self: &Arc<Self>, mut lookups: mpsc::Receiver<Lookup>) {
        let node = Arc::clone(self);
        self.keep_task(tokio::spawn(async move {
            while let Some(Lookup { key, done }) = lookups.recv().await {
                node.tell_link(Command::Lookup(key, done));
            }
        }));
    }

    async fn detach_the_dead(self: &Arc<Self>) {
        let containers = self.inner().state.containers.clone();
        if containers.is_empty() {
            return;
        }
        let Ok(links) = self.netlink.links().await else {
            return;
        };
        for container in containers {
            if !is_plugged(&container, &links) || !still_lives(&container) {
                let key: Key = (container.job.clone(), container.number);
                self.detach(&key, Some(container.ifindex)).await;
            }
        }
    }

    async fn follow_address(self: &Arc<Self>) {
        let before = self.inner().endpoint;
        let found = self.current_endpoint().await;
        self.address_changed.notify_waiters();
        match found {
            Some(address) if before != Some(address) => {
                tracing::info!(%address, "this node's address");
                self.tell_link(Command::Endpoint(address, self.options.net.public_port));
            }
            None if before.is_some() => {
                tracing::warn!(
                    "the default route is gone; the last address stays announced until there is another"
                );
            }
            _ => {}
        }
    }

    /// Answers the data plane's questions.
    async fn serve(self: &Arc<Self>, mut events: mpsc::Receiver<Event>, notices: &Notices) {
        let mut hops = NextHops::default();
        let mut round = tokio::time::interval(ROUND);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Unresolved(address)) => self.unresolved(address),
                    Some(Event::NextHop(host)) => {
                        hops.want(host);
                        self.resolve(&mut hops).await;
                    }
                    Some(Event::Query(query)) => self.answer(query),
                    Some(Event::WorkerDied(reason)) => {
                        tracing::error!(%reason, "a worker of the data plane ended; the Net Manager must start anew");
                        self.broken.store(true, std::sync::atomic::Ordering::Relaxed);
                        self.failed.notify_one();
                    }
                    None => return,
                },
                () = notices.neighbours.notified() => self.resolve(&mut hops).await,
                _ = round.tick() => if hops.pending() { self.resolve(&mut hops).await },
            }
        }
    }

    /// Answers a caught query, in a task of its own: its name may have to be asked for.
    fn answer(self: &Arc<Self>, query: Query) {
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let Some(dns) = &node.dns else { return };
            if let Some(message) = dns.caught(query.from.ip(), &query.message).await {
                node.forwarding.answer(Answer {
                    port: query.port,
                    from: query.to,
                    to: query.from,
                    message,
                });
            }
        });
    }

    fn unresolved(&self, address: std::net::IpAddr) {
        match self.link() {
            Some(link) => link.tell(Command::Unresolved(address)),
            None => {
                if let Err(error) = self.forwarding.set_unresolvable(address) {
                    tracing::debug!(%error, "the data plane did not take an answer");
                }
            }
        }
    }

    async fn resolve(&self, hops: &mut NextHops) {
        for (host, hop) in hops.resolve(&self.netlink).await {
            let told: Result<(), CommandError> = self
                .forward(move |forwarding| forwarding.set_next_hop(host, hop))
                .await;
            if let Err(error) = told {
                tracing::warn!(%host, %error, "the data plane did not take a next hop");
            }
        }
    }
}

/// Turns the kernel's notices into notifications; comes back after an overflow.
async fn listen(notices: Arc<Notices>) {
    loop {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Neigh,
        ];
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, _handle, mut messages)) => {
                let task = tokio::spawn(connection);
                let mut mtus = HashMap::new();
                while let Some((message, _)) = messages.next().await {
                    use rtnetlink::packet_core::NetlinkPayload::InnerMessage;
                    use rtnetlink::packet_route::RouteNetlinkMessage as Message;
                    match message.payload {
                        InnerMessage(Message::DelLink(link)) => {
                            mtus.remove(&link.header.index);
                            notices.links.notify_one();
                        }
                        // Many things make such a notice; of a new MTU the way to other nodes has to know.
                        InnerMessage(Message::NewLink(link)) => {
                            let link = Link::of(link);
                            if let Some(mtu) = link.mtu
                                && mtus.insert(link.index, mtu) != Some(mtu)
                            {
                                notices.neighbours.notify_one();
                            }
                        }
                        InnerMessage(Message::NewNeighbour(_) | Message::DelNeighbour(_)) => {
                            notices.neighbours.notify_one();
                        }
                        InnerMessage(
                            Message::NewAddress(_)
                            | Message::DelAddress(_)
                            | Message::NewRoute(_)
                            | Message::DelRoute(_),
                        ) => {
                            notices.addresses.notify_one();
                            notices.neighbours.notify_one();
                        }
                        _ => {}
                    }
                }
                task.abort();
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel's notices cannot be had; looking each second instead");
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}
