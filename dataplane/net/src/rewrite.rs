//! Edits in place that keep every checksum right, by increments (RFC 1624).
//!
//! A translated packet may be 64 KB long, so no edit reads the payload: what changes is known, and so is
//! what that does to each sum that covers it. Every edit takes the packet's [`Headers`] and leaves them
//! true of the new bytes.

use core::fmt;

use crate::address::Address;
use crate::checksum::Delta;
use crate::ipv4;
use crate::ipv6;
use crate::packet::{Headers, Protocol, Quoted, Version};

/// What the transport checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum L4State {
    /// The finished checksum; for UDP, zero is "none".
    #[default]
    Finished,
    /// The folded sum of the pseudo-header, not complemented: the sender's side (NIC or kernel) will
    /// finish it.
    Partial,
    /// There is no checksum field in these bytes: leave the transport header alone. A fragment without
    /// a transport header is known from its [`Headers`] and needs no such hint.
    Absent,
}

/// The bytes are not those that the headers were read from: too short, or of the other family. Nothing
/// that makes sense was changed; drop the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misfit;

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not those that the headers describe")
    }
}

impl core::error::Error for Misfit {}

/// Two new addresses for a packet, and what they do to its checksums; computed once per flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressChange {
    source: Address,
    destination: Address,
    delta: Delta,
}

impl AddressChange {
    /// The change from one pair of addresses to another; `None` unless all four are of one family.
    #[must_use]
    pub const fn new(
        old_source: Address,
        new_source: Address,
        old_destination: Address,
        new_destination: Address,
    ) -> Option<AddressChange> {
        let v4 = old_source.is_v4();
        if new_source.is_v4() != v4
            || old_destination.is_v4() != v4
            || new_destination.is_v4() != v4
        {
            return None;
        }
        let delta = Delta::address(old_source, new_source)
            .and(Delta::address(old_destination, new_destination));
        Some(AddressChange {
            source: new_source,
            destination: new_destination,
            delta,
        })
    }

    /// A new source address for one packet; `None` when it is of the other family.
    #[must_use]
    pub const fn to_source(headers: &Headers, new: Address) -> Option<AddressChange> {
        AddressChange::new(
            headers.source,
            new,
            headers.destination,
            headers.destination,
        )
    }

    /// A new destination address for one packet; `None` when it is of the other family.
    #[must_use]
    pub const fn to_destination(headers: &Headers, new: Address) -> Option<AddressChange> {
        AddressChange::new(headers.source, headers.source, headers.destination, new)
    }

    /// From a table that keeps the delta: `delta` is what [`AddressChange::delta`] gave for the same
    /// new addresses, which are of one family.
    #[inline]
    #[must_use]
    pub const fn from_parts(source: Address, destination: Address, delta: Delta) -> AddressChange {
        AddressChange {
            source,
            destination,
            delta,
        }
    }

    /// The new source address.
    #[inline]
    #[must_use]
    pub const fn source(&self) -> Address {
        self.source
    }

    /// The new destination address.
    #[inline]
    #[must_use]
    pub const fn destination(&self) -> Address {
        self.destination
    }

    /// By how much the sum of both addresses grows.
    #[inline]
    #[must_use]
    pub const fn delta(&self) -> Delta {
        self.delta
    }

    /// Gives the packet its new addresses. IPv4 header checksum and transport checksum follow; ICMPv6's
    /// covers the addresses, ICMP's and SCTP's do not. The packet must have the addresses that the
    /// change was computed from.
    ///
    /// # Errors
    /// [`Misfit`] when `l3` is shorter than the headers say or of the other family.
    #[inline]
    pub fn apply(
        &self,
        l3: &mut [u8],
        headers: &mut Headers,
        state: L4State,
    ) -> Result<(), Misfit> {
        match (headers.version, self.source.is_v4()) {
            (Version::V4, true) => {
                let mut ip = ipv4::HeaderMut::of(l3).ok_or(Misfit)?;
                let checksum = self.delta.finished(ip.get().checksum());
                ip.set_checksum(checksum);
                ip.set_addresses(self.source, self.destination);
            }
            (Version::V6, false) => {
                ipv6::HeaderMut::of(l3)
                    .ok_or(Misfit)?
                    .set_addresses(self.source, self.destination);
            }
            _ => return Err(Misfit),
        }
        headers.source = self.source;
        headers.destination = self.destination;
        match headers.pseudo_checksum_at() {
            Some(at) => update_checksum(l3, at, headers.protocol, state, self.delta),
            None => Ok(()),
        }
    }

    /// Gives the packet that an ICMP error quotes its new addresses: its IPv4 header checksum, its
    /// transport checksum where it was quoted, and the error's own checksum follow (RFC 5508 section
    /// 4.2). The error's own addresses are another change, applied with [`AddressChange::apply`].
    ///
    /// # Errors
    /// [`Misfit`] when `l3` is shorter than the headers say or of the other family.
    #[cold]
    pub fn apply_to_quote(
        &self,
        l3: &mut [u8],
        headers: &Headers,
        quoted: &mut Quoted,
    ) -> Result<(), Misfit> {
        if self.source.is_v4() != (quoted.version == Version::V4)
            || quoted.version != headers.version
        {
            return Err(Misfit);
        }
        let end = usize::from(quoted.end);
        let quote = l3.get_mut(usize::from(quoted.offset)..end).ok_or(Misfit)?;
        let mut delta = self.delta;
        if quoted.version == Version::V4 {
            let mut ip = ipv4::HeaderMut::of(quote).ok_or(Misfit)?;
            let old = ip.get().checksum();
            let new = self.delta.finished(old);
            ip.set_checksum(new);
            ip.set_addresses(self.source, self.destination);
            delta = delta.and(Delta::u16(old, new));
        } else {
            ipv6::HeaderMut::of(quote)
                .ok_or(Misfit)?
                .set_addresses(self.source, self.destination);
        }
        // A first fragment and a whole packet have the field where it belongs, if the quote reaches it.
        let field = match (quoted.version, quoted.fragment.is_later()) {
            (_, true) => None,
            (Version::V4, _) if quoted.protocol == Protocol::ICMPV6 => None,
            _ => quoted.protocol.pseudo_checksum_offset(),
        };
        if let Some(at) = field.map(|offset| usize::from(quoted.l4_offset) + offset)
            && at + 2 <= end
        {
            let old = word(l3, at).ok_or(Misfit)?;
            let new = finished(quoted.protocol, self.delta, old);
            set_word(l3, at, new)?;
            delta = delta.and(Delta::u16(old, new));
        }
        // Everything above lies at even offsets from the ICMP header: all headers are multiples of four.
        let at = usize::from(headers.l4_offset) + 2;
        let outer = word(l3, at).ok_or(Misfit)?;
        set_word(l3, at, delta.finished(outer))?;
        quoted.source = self.source;
        quoted.destination = self.destination;
        Ok(())
    }
}

#[inline]
fn word(l3: &[u8], at: usize) -> Option<u16> {
    l3.get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

#[inline]
pub(crate) fn set_word(l3: &mut [u8], at: usize, value: u16) -> Result<(), Misfit> {
    let field = l3
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut())
        .ok_or(Misfit)?;
    *field = value.to_be_bytes();
    Ok(())
}

#[inline]
const fn finished(protocol: Protocol, delta: Delta, field: u16) -> u16 {
    match protocol {
        Protocol::UDP | Protocol::UDP_LITE => delta.finished_udp(field),
        _ => delta.finished(field),
    }
}

/// Lets the transport checksum at L3 offset `at` follow a change of what it covers.
#[inline]
pub(crate) fn update_checksum(
    l3: &mut [u8],
    at: usize,
    protocol: Protocol,
    state: L4State,
    delta: Delta,
) -> Result<(), Misfit> {
    let field = l3
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
        .ok_or(Misfit)?;
    let old = u16::from_be_bytes(*field);
    let new = match state {
        L4State::Finished => finished(protocol, delta, old),
        L4State::Partial => delta.partial(old),
        L4State::Absent => old,
    };
    *field = new.to_be_bytes();
    Ok(())
}

/// What became of a packet's time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Ttl {
    /// One less; the packet goes on.
    Left,
    /// It had none to spare and was not changed: answer "time exceeded" and drop it.
    Expired,
}

/// Takes one from TTL or hop limit, as a router does when it forwards (RFC 1812 section 5.3.1).
///
/// # Errors
/// [`Misfit`] when `l3` has no header.
#[inline]
pub fn decrement_ttl(l3: &mut [u8], headers: &mut Headers) -> Result<Ttl, Misfit> {
    let Some(ttl) = headers.ttl.checked_sub(1) else {
        return Ok(Ttl::Expired);
    };
    if ttl == 0 {
        return Ok(Ttl::Expired);
    }
    match headers.version {
        Version::V4 => {
            let mut ip = ipv4::HeaderMut::of(l3).ok_or(Misfit)?;
            let checksum = Delta::u16(u16::from(headers.ttl) << 8, u16::from(ttl) << 8)
                .finished(ip.get().checksum());
            ip.set_ttl(ttl);
            ip.set_checksum(checksum);
        }
        Version::V6 => ipv6::HeaderMut::of(l3).ok_or(Misfit)?.set_hop_limit(ttl),
    }
    headers.ttl = ttl;
    Ok(Ttl::Left)
}

/// Sets DSCP and ECN; no transport checksum covers them.
///
/// # Errors
/// [`Misfit`] when `l3` has no header.
#[inline]
pub fn set_tos(l3: &mut [u8], headers: &mut Headers, tos: u8) -> Result<(), Misfit> {
    match headers.version {
        Version::V4 => {
            let mut ip = ipv4::HeaderMut::of(l3).ok_or(Misfit)?;
            let checksum =
                Delta::u16(u16::from(headers.tos), u16::from(tos)).finished(ip.get().checksum());
            ip.set_tos(tos);
            ip.set_checksum(checksum);
        }
        Version::V6 => ipv6::HeaderMut::of(l3)
            .ok_or(Misfit)?
            .set_traffic_class(tos),
    }
    headers.tos = tos;
    Ok(())
}
