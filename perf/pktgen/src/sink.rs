//! The receiving end: takes what is the run's, and counts it.

use net::ethernet::{self, EtherType};
use net::packet::Headers;

use crate::frame::{FCS, Found, intact};
use crate::plan::Flows;
use crate::tally::{Arrival, Tally};

/// Counts the packets of one run.
#[derive(Debug)]
pub struct Sink {
    flows: Flows,
    tally: Tally,
    run: u64,
    verify: bool,
    warm: u64,
    bytes: u64,
    first: u64,
    last: u64,
}

impl Sink {
    /// For what a plan sends in `run`. With `verify`, transport checksums are checked.
    ///
    /// # Errors
    /// When the histogram cannot be made.
    pub fn new(flows: Flows, run: u64, verify: bool) -> Result<Self, hdrhistogram::CreationError> {
        let tally = Tally::new(flows.accounts(), flows.services())?;
        Ok(Self {
            flows,
            tally,
            run,
            verify,
            warm: 0,
            bytes: 0,
            first: 0,
            last: 0,
        })
    }

    /// Takes a frame that was received at `now`; false when it is not the run's.
    #[inline]
    pub fn take(&mut self, frame: &[u8], now: u64) -> bool {
        let Some((l3, headers)) = ip(frame) else {
            return false;
        };
        let Some(found) = Found::read(l3, &headers, self.run) else {
            self.tally.foreign();
            return false;
        };
        let stamp = found.stamp;
        if stamp.warm_up {
            self.warm += 1;
            return true;
        }
        if self.verify && !intact(l3, &headers) {
            self.tally.corrupt();
            return true;
        }
        let account = self.flows.account(stamp.flow);
        let service = self.flows.service_of(stamp.flow);
        let arrival = self
            .tally
            .take(account, stamp.sequence, service, found.latency(now));
        if arrival != Arrival::Duplicate {
            self.bytes += frame.len() as u64 + u64::from(FCS);
        }
        if self.first == 0 {
            self.first = now;
        }
        self.last = now;
        true
    }

    /// The accounts.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Packets that came to warm up.
    #[must_use]
    pub const fn warm(&self) -> u64 {
        self.warm
    }

    /// Bytes of the frames that count, check sequences included.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the last packet that counts came; 0 before the first.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Nanoseconds from the first to the last packet that counts.
    #[must_use]
    pub const fn span(&self) -> u64 {
        self.last - self.first
    }
}

/// The IP packet of a frame.
#[inline]
fn ip(frame: &[u8]) -> Option<(&[u8], Headers)> {
    let header = ethernet::Header::parse(frame)?;
    if header.ethertype != EtherType::IPV4 && header.ethertype != EtherType::IPV6 {
        return None;
    }
    let l3 = frame.get(ethernet::HEADER_LEN..)?;
    let headers = Headers::parse(l3, l3.len()).ok()?;
    Some((l3, headers))
}
