//! IPv6 neighbour solicitations (RFC 4861), which access ports answer.

use crate::address::Address;
use crate::checksum;
use crate::ethernet::Mac;
use crate::icmp::v6::NEIGHBOUR_SOLICITATION;
use crate::packet::{Headers, Icmp};

/// A valid neighbour solicitation: who has the target address?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Solicitation {
    /// Who asks; `::` while it checks that nobody has the target yet.
    pub source: Address,
    /// The address in question.
    pub target: Address,
    /// The asker's link-layer address, when it says so.
    pub source_mac: Option<Mac>,
}

impl Solicitation {
    /// Reads a packet that must lie in `l3` entirely; `None` unless it is a solicitation that passes
    /// every check of RFC 4861 section 7.1.1, the checksum among them.
    #[must_use]
    pub fn parse(l3: &[u8], headers: &Headers) -> Option<Solicitation> {
        if headers.icmp != Icmp::Discovery || headers.ttl != 255 {
            return None;
        }
        let message = l3.get(usize::from(headers.l4_offset)..headers.total_len)?;
        let (&[NEIGHBOUR_SOLICITATION, 0, _, _, _, _, _, _], rest) =
            message.split_first_chunk::<8>()?
        else {
            return None;
        };
        let (target, mut options) = rest.split_first_chunk::<16>()?;
        let target = Address::v6(*target);
        let sum = checksum::add(headers.pseudo_header(), checksum::sum(message));
        if sum != 0xffff || target.is_multicast() || target.is_v4() {
            return None;
        }
        let mut source_mac = None;
        while !options.is_empty() {
            let &[kind, len, ..] = options.first_chunk::<2>()?;
            if len == 0 {
                return None;
            }
            let (option, after) = options.split_at_checked(usize::from(len) * 8)?;
            if let (1, &[_, _, a, b, c, d, e, f]) = (kind, option.first_chunk::<8>()?) {
                source_mac = Some(Mac([a, b, c, d, e, f]));
            }
            options = after;
        }
        let probe = headers.source.is_unspecified();
        if probe && (source_mac.is_some() || headers.destination != target.solicited_node()) {
            return None;
        }
        Some(Solicitation {
            source: headers.source,
            target,
            source_mac,
        })
    }
}
