//! Who has an address: asking for a gateway's MAC address, and answering for one's own, by ARP (RFC 826) and neighbour
//! discovery (RFC 4861). A generator's port has no kernel behind it that would do either.

use net::ethernet::{self, EtherType, Mac};
use net::ndp::Solicitation;
use net::packet::{Headers, Protocol};
use net::{Address, answer, arp, checksum, ipv6};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SHORTEST: usize = 60;

/// Addresses that are answered for.
#[derive(Clone, Debug, Default)]
pub struct Own {
    ranges: Vec<(Address, u32)>,
}

impl Own {
    /// Adds `count` addresses from `first` on.
    pub fn add(&mut self, first: Address, count: u32) {
        self.ranges.push((first, count));
    }

    /// Whether none is answered for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn has(&self, address: Address) -> bool {
        self.ranges.iter().any(|(first, count)| {
            let offset = address.0.checked_sub(first.0);
            offset.is_some_and(|offset| offset < u128::from(*count))
        })
    }

    /// Writes the answer to a frame that asks for one of these addresses, from `mac`: its length. `None` for any other
    /// frame.
    #[must_use]
    pub fn answer(&self, frame: &[u8], mac: Mac, into: &mut [u8]) -> Option<usize> {
        let header = ethernet::Header::parse(frame)?;
        let l3 = frame.get(ethernet::HEADER_LEN..)?;
        let len = if header.ethertype == EtherType::ARP {
            let request = arp::Packet::parse(l3)?;
            if !self.has(request.target) {
                return None;
            }
            answer::arp_reply(into, &request, mac)?
        } else if header.ethertype == EtherType::IPV6 {
            let headers = Headers::parse(l3, l3.len()).ok()?;
            let asked = Solicitation::parse(l3, &headers)?;
            if !self.has(asked.target) {
                return None;
            }
            let ethernet = ethernet::Header {
                destination: answer::advertisement_destination(&asked, header.source),
                source: mac,
                ethertype: EtherType::IPV6,
            };
            let head = ethernet.write(into)?;
            head + answer::neighbour_advertisement(into.get_mut(head..)?, &asked, mac)?
        } else {
            return None;
        };
        pad(into, len)
    }
}

/// Fills up to the shortest frame.
fn pad(frame: &mut [u8], len: usize) -> Option<usize> {
    if len < SHORTEST {
        frame.get_mut(len..SHORTEST)?.fill(0);
    }
    Some(len.max(SHORTEST))
}

/// The frame that asks who has `target`, for the owner of `source` at `mac`.
#[must_use]
pub fn question(target: Address, source: Address, mac: Mac) -> Vec<u8> {
    let mut frame;
    if target.is_v4() {
        let ethernet = ethernet::Header {
            destination: Mac::BROADCAST,
            source: mac,
            ethertype: EtherType::ARP,
        };
        let request = arp::Packet {
            operation: arp::Operation::Request,
            sender_mac: mac,
            sender: source,
            target_mac: Mac([0; 6]),
            target,
        };
        frame = ethernet.to_bytes().to_vec();
        frame.extend(request.to_bytes());
    } else {
        let group = target.solicited_node();
        let ethernet = ethernet::Header {
            destination: Mac::of_ipv6_multicast(group),
            source: mac,
            ethertype: EtherType::IPV6,
        };
        let ip = ipv6::Build {
            source,
            destination: group,
            next_header: Protocol::ICMPV6.0,
            hop_limit: 255,
            traffic_class: 0,
            flow_label: 0,
            payload_len: 32,
        };
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        message.extend([1, 1]);
        message.extend(mac.0);
        let pseudo = checksum::pseudo_header(source, group, Protocol::ICMPV6.0, message.len());
        let sum = !checksum::add(pseudo, checksum::sum(&message));
        if let Some(field) = message.get_mut(2..4) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        frame = ethernet.to_bytes().to_vec();
        frame.extend(ip.to_bytes());
        frame.extend(message);
    }
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// The MAC address of `target`, if the frame tells it.
#[must_use]
pub fn told(frame: &[u8], target: Address) -> Option<Mac> {
    let header = ethernet::Header::parse(frame)?;
    let l3 = frame.get(ethernet::HEADER_LEN..)?;
    if header.ethertype == EtherType::ARP {
        let packet = arp::Packet::parse(l3)?;
        let reply = packet.operation == arp::Operation::Reply && packet.sender == target;
        return reply.then_some(packet.sender_mac);
    }
    if header.ethertype != EtherType::IPV6 {
        return None;
    }
    let headers = Headers::parse(l3, l3.len()).ok()?;
    let message = l3.get(usize::from(headers.l4_offset)..headers.total_len)?;
    let (&[ADVERTISEMENT, 0, ..], rest) = message.split_first_chunk::<8>()? else {
        return None;
    };
    let (address, options) = rest.split_first_chunk::<16>()?;
    let whole = checksum::add(headers.pseudo_header(), checksum::sum(message)) == 0xffff;
    if headers.protocol != Protocol::ICMPV6
        || headers.ttl != 255
        || !whole
        || Address::v6(*address) != target
    {
        return None;
    }
    // Without the option it came from its owner, as an answer to one who asked it directly.
    match options.first_chunk::<8>() {
        Some(&[2, 1, a, b, c, d, e, f]) => Some(Mac([a, b, c, d, e, f])),
        _ => Some(header.source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OWNER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn what_is_asked_is_answered_and_understood() {
        let v4 = |n| Address::v4([10, 0, 0, n]);
        let v6 = |n| Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
        let mut own = Own::default();
        assert!(own.is_empty());
        own.add(v4(5), 3);
        own.add(v6(5), 3);
        let mut room = [0xa5; 128];
        for address in [v4, v6 as fn(u8) -> Address] {
            for n in 4..9 {
                let frame = question(address(n), address(1), ASKER);
                let answered = own.answer(&frame, OWNER, &mut room);
                assert_eq!(answered.is_some(), (5..8).contains(&n), "{n}");
                let Some(len) = answered else { continue };
                assert!(len >= 60);
                assert_eq!(told(&room[..len], address(n)), Some(OWNER));
                assert_eq!(told(&room[..len], address(n + 1)), None, "of another");
                assert_eq!(room[..6], ASKER.0, "to whom asked");
            }
            assert_eq!(
                told(&question(address(5), address(1), ASKER), address(5)),
                None
            );
        }
        assert_eq!(own.answer(&[0; 60], OWNER, &mut room), None);
        assert_eq!(told(&[], v4(5)), None);
    }
}
