//! A port of the generator's: opened by name, polled by one worker, with no kernel behind it.

use std::time::{Duration, Instant};

use dpdk::{
    Burst, Mempool, MempoolError, Port, PortConfig, PortError, PortStats, RxQueue, TxQueue,
};
use net::Address;
use net::ethernet::Mac;

use crate::clock;
use crate::neighbour::{self, Own};
use crate::sink::Sink;

/// Packets in a burst.
pub const BURST: usize = 32;
/// Mbufs of a pool: queues, rings and bursts.
const MBUFS: u32 = 16_383;
const CACHE: u32 = 256;

/// Why a wire does not work.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Its memory.
    #[error("{0}; pktgen takes ordinary memory with --no-huge, and more of it with --memory")]
    Pool(#[from] MempoolError),
    /// Nobody said.
    #[error(
        "nobody on {port} answers for {target} within {seconds} s: check the link and the address, or give --gateway-mac"
    )]
    Unresolved {
        /// The port.
        port: String,
        /// Whom we asked for.
        target: Address,
        /// How long.
        seconds: u64,
    },
}

/// A started port with its queues.
#[derive(Debug)]
pub struct Wire {
    // Queues go before their port.
    rx: RxQueue,
    /// Where the generator sends.
    pub tx: TxQueue,
    port: Port,
    pool: Mempool,
    mac: Mac,
    own: Own,
    received: Burst<BURST>,
    replies: Burst<BURST>,
}

/// Whether a name is a PCI address, which EAL must be told at start.
#[must_use]
pub fn is_pci(devargs: &str) -> bool {
    let name = devargs.split(',').next().unwrap_or(devargs);
    let hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    name.rsplit_once('.').is_some_and(|(device, function)| {
        hex(function) && device.contains(':') && device.split(':').all(hex)
    })
}

/// Memory that the pools of `wires` ports take, in megabytes, with what EAL needs beside it.
#[must_use]
pub fn megabytes(wires: u32, mtu: u16) -> u32 {
    // A header of two cache lines and the pool's own come with each buffer.
    let each = u32::from(data_room(mtu)) + 256;
    let pools = (MBUFS / 1024 + 1) * each / 1024 * wires;
    64 + pools * 3 / 2
}

fn data_room(mtu: u16) -> u16 {
    // Two VLAN tags and the check sequence, which some devices leave there.
    (mtu + 14 + 4 + 8).max(2048) + dpdk::HEADROOM
}

impl Wire {
    /// Opens a port by its devargs, or a PCI device that EAL was told of.
    ///
    /// # Errors
    /// When the device is not there, or does not start.
    pub fn open(devargs: &str, mtu: u16, own: Own) -> Result<Self, WireError> {
        let mut port = if is_pci(devargs) {
            Port::find(devargs.split(',').next().unwrap_or(devargs))?
        } else {
            Port::attach(devargs)?
        };
        let pool = Mempool::create(
            &format!("wire-{}", port.name().chars().take(20).collect::<String>()),
            MBUFS,
            CACHE,
            data_room(mtu),
            None,
        )?;
        let config = PortConfig {
            rx_desc: 1024,
            tx_desc: 1024,
            mtu,
            offloads: true,
            ..PortConfig::new(pool.clone())
        };
        port.configure(&config)?;
        port.start()?;
        // What comes back may be for another MAC address. A driver that cannot be asked passes everything anyway.
        let _refused = port.set_promiscuous();
        let _refused = port.set_all_multicast();
        Ok(Self {
            rx: port.rx_queue(0)?,
            tx: port.tx_queue(0)?,
            mac: Mac(port.mac()?),
            pool,
            own,
            received: Burst::new(),
            replies: Burst::new(),
            port,
        })
    }

    /// The port's MAC address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.port.name()
    }

    /// Where packets to send come from.
    #[must_use]
    pub const fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// Whether the device finishes TCP and UDP checksums.
    #[must_use]
    pub fn finishes_checksums(&self) -> bool {
        self.port.finishes().0
    }

    /// The driver's counters, where it keeps any.
    #[must_use]
    pub fn stats(&self) -> Option<PortStats> {
        self.port.stats().ok()
    }

    /// Waits until the link is up; false when it still is not.
    #[must_use]
    pub fn wait_for_link(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self.port.link() {
                Ok(link) if link.up => return true,
                // A driver that cannot tell is taken at its word.
                Err(_) => return true,
                Ok(_) if Instant::now() >= deadline => return false,
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Receives a burst: packets of the run go to the sink, questions for our addresses are answered, the rest is
    /// dropped. How many frames there were.
    #[inline]
    pub fn poll(&mut self, sink: Option<&mut Sink>) -> usize {
        let got = self.rx.burst(&mut self.received);
        if got == 0 {
            return 0;
        }
        let mut sink = sink.map(|sink| (sink, clock::now()));
        for mbuf in &self.received {
            let taken = sink
                .as_mut()
                .is_some_and(|(sink, now)| sink.take(mbuf.data(), *now));
            if !taken {
                reply(
                    &self.own,
                    &self.pool,
                    self.mac,
                    mbuf.data(),
                    &mut self.replies,
                );
            }
        }
        self.received.clear();
        if !self.replies.is_empty() {
            self.tx.burst(&mut self.replies);
            // Who did not get it asks again.
            self.replies.clear();
        }
        got
    }

    /// Asks who has `target` until someone says so. The other wire, if there is one, answers meanwhile.
    ///
    /// # Errors
    /// When nobody does.
    pub fn resolve(
        &mut self,
        target: Address,
        source: Address,
        mut other: Option<&mut Self>,
        limit: Duration,
    ) -> Result<Mac, WireError> {
        let question = neighbour::question(target, source, self.mac);
        let (begin, mut asked) = (Instant::now(), None::<Instant>);
        while begin.elapsed() < limit {
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_millis(500)) {
                asked = Some(Instant::now());
                if let Some(mut mbuf) = self.pool.alloc()
                    && mbuf.extend_from_slice(&question)
                    && self.replies.push(mbuf).is_ok()
                {
                    self.tx.burst(&mut self.replies);
                }
                self.replies.clear();
            }
            if let Some(other) = other.as_deref_mut() {
                other.poll(None);
            }
            self.rx.burst(&mut self.received);
            for mbuf in &self.received {
                if let Some(mac) = neighbour::told(mbuf.data(), target) {
                    self.received.clear();
                    return Ok(mac);
                }
                reply(
                    &self.own,
                    &self.pool,
                    self.mac,
                    mbuf.data(),
                    &mut self.replies,
                );
            }
            self.received.clear();
            self.tx.burst(&mut self.replies);
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(WireError::Unresolved {
            port: self.name().to_owned(),
            target,
            seconds: limit.as_secs(),
        })
    }
}

#[cold]
fn reply(own: &Own, pool: &Mempool, mac: Mac, frame: &[u8], into: &mut Burst<BURST>) {
    if own.is_empty() {
        return;
    }
    let Some(mut mbuf) = pool.alloc() else { return };
    if let Some(len) = own.answer(frame, mac, mbuf.spare_mut())
        && mbuf.set_len(len)
    {
        // A full burst frees it.
        let _full = into.push(mbuf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        for name in ["0000:01:00.0", "01:00.0", "0000:3b:0a.f,arg=1"] {
            assert!(is_pci(name), "{name}");
        }
        for name in [
            "net_null0",
            "net_af_packet0,iface=eth0.100",
            "net_pcap0,rx_pcap=a:b.c",
            "",
            "a.b",
        ] {
            assert!(!is_pci(name), "{name}");
        }
    }

    #[test]
    fn memory_grows_with_what_it_holds() {
        assert!(megabytes(1, 1500) > 64);
        assert!(megabytes(2, 1500) > megabytes(1, 1500));
        assert!(megabytes(2, 9000) > megabytes(2, 1500));
    }
}
