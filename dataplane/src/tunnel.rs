//! Large packets at the tunnel: cut on the way in, joined again on the way out.
//!
//! Containers and their kernels speak in packets of up to 64 KB; the wire between nodes carries ordinary datagrams
//! (contract section 5). Payload is never copied: a piece is a small mbuf with its own header and a shared view of
//! the payload behind it, and a joined packet is the chain of what arrived.

use dpdk::{Mbuf, Mempool};
use net::checksum::Accumulator;
use net::coalesce::{Joint, Offer};
use net::finish;
use net::fragment;
use net::packet::{Headers, Protocol};
use net::segment::{Plan, Sum};

use crate::counters::Counter;
use crate::offload;

/// What came of cutting a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Pieces that were made.
    pub pieces: usize,
    /// Why the rest was not.
    pub failure: Option<Counter>,
}

/// Cuts a packet into pieces with `size` bytes of payload each, all checksums finished.
pub fn cut(
    mbuf: &Mbuf,
    headers: &Headers,
    size: u16,
    pool: &Mempool,
    emit: impl FnMut(Mbuf),
) -> Cut {
    let Some(plan) = Plan::new(headers, size) else {
        return Cut {
            pieces: 0,
            failure: Some(Counter::TooBig),
        };
    };
    pieces(plan.count(), emit, |k| {
        let range = plan.payload(k);
        let payload = mbuf.slice(pool, range.start, range.len())?;
        let mut sum = Accumulator::new();
        for bytes in payload.segments() {
            sum.add(bytes);
        }
        let mut head = pool.alloc()?;
        let length = plan
            .write_header(k, mbuf.data(), head.spare_mut(), Sum::Payload(sum.sum()))
            .ok()?;
        (head.set_len(length) && head.push_segment(payload).is_ok()).then_some(head)
    })
}

// Makes so many pieces, until there is no mbuf for one.
fn pieces(
    count: usize,
    mut emit: impl FnMut(Mbuf),
    mut make: impl FnMut(usize) -> Option<Mbuf>,
) -> Cut {
    for k in 0..count {
        let Some(piece) = make(k) else {
            return Cut {
                pieces: k,
                failure: Some(Counter::NoMbuf),
            };
        };
        emit(piece);
    }
    Cut {
        pieces: count,
        failure: None,
    }
}

/// Splits a packet whose checksums are finished into fragments.
#[cold]
pub fn fragments(
    mbuf: &Mbuf,
    plan: &fragment::Plan,
    pool: &Mempool,
    emit: impl FnMut(Mbuf),
) -> Cut {
    pieces(plan.count(), emit, |k| {
        let range = plan.payload(k);
        let payload = mbuf.slice(pool, range.start, range.len())?;
        let mut head = pool.alloc()?;
        let length = plan.write_header(k, mbuf.data(), head.spare_mut()).ok()?;
        (head.set_len(length) && head.push_segment(payload).is_ok()).then_some(head)
    })
}

/// A packet that came from the tunnel and may still grow.
#[derive(Debug)]
struct Open<T> {
    mbuf: Mbuf,
    joint: Joint,
    from: T,
}

/// Joins what arrives in one burst. Holds one packet at most, and nothing beyond the burst.
#[derive(Debug)]
pub struct Joiner<T> {
    open: Option<Open<T>>,
}

/// Longest chain of a joined packet, in segments: what one system call takes comfortably.
const SEGMENTS_MAX: usize = 200;

impl<T: Copy + PartialEq> Joiner<T> {
    /// Holding nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { open: None }
    }

    /// Takes a parsed packet that came `from` somewhere; what is ready goes to `out`. True when the packet became part
    /// of the one before.
    pub fn offer(
        &mut self,
        mut mbuf: Mbuf,
        headers: &Headers,
        from: T,
        mut out: impl FnMut(Mbuf, T),
    ) -> bool {
        if headers.protocol != Protocol::TCP {
            self.flush(&mut out);
            out(mbuf, from);
            return false;
        }
        if let Some(open) = &mut self.open {
            let fits = open.from == from
                && open.mbuf.segment_count() + mbuf.segment_count() <= SEGMENTS_MAX
                && headers.payload_len() <= open.joint.size();
            // A piece with a wrong checksum must reach the receiver as it is, to be thrown away there.
            if fits && finish::is_right(headers, mbuf.segments()) {
                let offer = open.joint.offer(open.mbuf.data(), mbuf.data(), headers);
                if offer != Offer::Refused && mbuf.advance(usize::from(headers.header_len)) {
                    // The chain is far from its limit, so that it always takes one more.
                    let _ = open.mbuf.push_segment(mbuf);
                    if offer == Offer::JoinedLast {
                        self.flush(&mut out);
                    }
                    return true;
                }
            }
        }
        self.flush(&mut out);
        let joint = Joint::begin(mbuf.data(), headers)
            .filter(|_| finish::is_right(headers, mbuf.segments()));
        match joint {
            Some(joint) => self.open = Some(Open { mbuf, joint, from }),
            None => out(mbuf, from),
        }
        false
    }

    /// Lets go of what is held.
    pub fn flush(&mut self, mut out: impl FnMut(Mbuf, T)) {
        let Some(Open {
            mut mbuf,
            joint,
            from,
        }) = self.open.take()
        else {
            return;
        };
        if joint.count() > 1
            && let Ok(headers) = joint.write_header(mbuf.data_mut())
        {
            mbuf.set_offload(offload::joined(&headers, joint.size()));
        }
        out(mbuf, from);
    }
}

impl<T: Copy + PartialEq> Default for Joiner<T> {
    fn default() -> Self {
        Self::new()
    }
}
