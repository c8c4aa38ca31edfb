//! The question of a DNS query (RFC 1035 section 4.1): whether its name lies in a zone. Nothing else of DNS is known
//! here.

/// Length of the header in bytes.
const HEADER_LEN: usize = 12;
/// The longest name in bytes, the root's label included.
pub const NAME_MAX: usize = 255;

/// Whether `message` is a query with one question whose name lies in `zone` or is it: a name as it stands in a message,
/// labels with their lengths before them, the root's at the end. Letters of both cases are the same.
///
/// ```
/// use net::dns::asks_for;
/// let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x03OAK\x00\x00\x01\x00\x01";
/// assert!(asks_for(query, b"\x03oak\x00"));
/// assert!(!asks_for(query, b"\x02ak\x00"));
/// ```
#[must_use]
pub fn asks_for(message: &[u8], zone: &[u8]) -> bool {
    let Some((&[_, _, flags, _, q0, q1, ..], question)) = message.split_first_chunk::<HEADER_LEN>()
    else {
        return false;
    };
    // A query (no response) of the standard kind, with one question.
    if flags & 0xf8 != 0 || [q0, q1] != [0, 1] {
        return false;
    }
    let mut at = 0;
    while at < NAME_MAX {
        let Some(rest) = question.get(at..) else {
            return false;
        };
        // A length is below 64 and so no letter. The zone's last byte ends the name; type and class follow.
        if let Some((name, after)) = rest.split_at_checked(zone.len())
            && name.eq_ignore_ascii_case(zone)
        {
            return after.len() >= 4 && at + zone.len() <= NAME_MAX;
        }
        match rest.first() {
            Some(&length @ 1..64) => at += 1 + usize::from(length),
            _ => return false,
        }
    }
    false
}

/// Writes a zone's name as it stands in a message; the length in bytes. `None` for what is no name: labels of 1 to 63
/// bytes with dots between them.
#[must_use]
pub fn write_name(into: &mut [u8; NAME_MAX], name: &str) -> Option<usize> {
    let mut at = 0;
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        let room = into.get_mut(at..at + 1 + label.len())?;
        let (first, rest) = room.split_first_mut()?;
        *first = length;
        rest.copy_from_slice(label.as_bytes());
        at += 1 + label.len();
    }
    *into.get_mut(at)? = 0;
    Some(at + 1)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn name(text: &str) -> Vec<u8> {
        let mut bytes = [0; NAME_MAX];
        let length = write_name(&mut bytes, text).unwrap();
        bytes[..length].to_vec()
    }

    fn query(text: &str) -> Vec<u8> {
        let mut message = std::vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(name(text));
        message.extend([0, 1, 0, 1]);
        message
    }

    #[test]
    fn names_in_the_zone_and_no_others() {
        let zone = name("oak");
        for inside in ["oak", "OAK", "any.rr.web.default.shop.prod.Oak", "x.oak"] {
            assert!(asks_for(&query(inside), &zone), "{inside}");
        }
        for outside in ["soak", "oak.example", "example.org", "oakx", "x.oa.k"] {
            assert!(!asks_for(&query(outside), &zone), "{outside}");
        }
        let deeper = name("services.example.org");
        assert!(asks_for(&query("a.Services.example.org"), &deeper));
        assert!(!asks_for(&query("example.org"), &deeper));
        // The zone's bytes within a label are no labels.
        let mut tricky = std::vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 6];
        tricky.extend(b"a\x03oak\x00\x00\x00\x01\x00\x01");
        assert!(!asks_for(&tricky, &zone));
    }

    #[test]
    fn what_is_no_query_is_left_alone() {
        let zone = name("oak");
        let whole = query("web.oak");
        for cut in 0..whole.len() {
            assert!(!asks_for(&whole[..cut], &zone), "{cut}");
        }
        for (at, byte) in [
            (2, 0x81),
            (2, 0x29),
            (4, 1),
            (5, 0),
            (5, 2),
            (12, 0xc0),
            (12, 0),
        ] {
            let mut other = whole.clone();
            other[at] = byte;
            assert!(!asks_for(&other, &zone), "{at}");
        }
        let mut long = std::vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for _ in 0..200 {
            long.extend(b"\x01a");
        }
        long.extend(b"\x03oak\x00\x00\x01\x00\x01");
        assert!(!asks_for(&long, &zone));
    }

    #[test]
    fn only_names_are_written() {
        let mut bytes = [0; NAME_MAX];
        for wrong in ["", ".", "a..b", &"a".repeat(64), &"a.".repeat(130)] {
            assert_eq!(write_name(&mut bytes, wrong), None, "{wrong}");
        }
    }
}
