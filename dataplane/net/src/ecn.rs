//! Congestion marks across the tunnel (RFC 6040).
//!
//! A router between two nodes marks the outer header; the mark must reach the receiver, or congestion
//! on the underlay is invisible to the flows that cause it.

/// The two ECN bits (RFC 3168 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ecn {
    /// The sender does not understand marks.
    NotEct,
    /// It does; codepoint 01.
    Ect1,
    /// It does; codepoint 10.
    Ect0,
    /// Congestion was experienced.
    Ce,
}

impl Ecn {
    /// The low two bits of a TOS byte or traffic class.
    #[inline]
    #[must_use]
    pub const fn of(tos: u8) -> Ecn {
        match tos & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// The two bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Ecn::NotEct => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 => 2,
            Ecn::Ce => 3,
        }
    }

    /// A TOS byte with these bits.
    #[inline]
    #[must_use]
    pub const fn in_tos(self, tos: u8) -> u8 {
        (tos & !3) | self.bits()
    }
}

/// The outer TOS byte for a packet with this inner one: the normal mode of RFC 6040 section 4.1, with
/// DSCP copied (the uniform model of RFC 2983).
#[inline]
#[must_use]
pub const fn encapsulate(inner: u8) -> u8 {
    inner
}

/// The TOS byte that leaves the tunnel (RFC 6040 section 4.2, figure 4); `None`: drop the packet, for it
/// was marked on the way and its sender would not learn it. The inner DSCP stays.
///
/// ```
/// use net::ecn::decapsulate;
/// assert_eq!(decapsulate(0b10, 0b11), Some(0b11)); // ECT(0), congestion on the underlay
/// assert_eq!(decapsulate(0b00, 0b11), None);
/// ```
#[inline]
#[must_use]
pub const fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    let out = match (Ecn::of(inner), Ecn::of(outer)) {
        (Ecn::NotEct, Ecn::Ce) => return None,
        (Ecn::NotEct, _) => Ecn::NotEct,
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ecn::Ce,
        (Ecn::Ect1, _) | (Ecn::Ect0, Ecn::Ect1) => Ecn::Ect1,
        (Ecn::Ect0, _) => Ecn::Ect0,
    };
    Some(out.in_tos(inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    #[test]
    fn figure_4_of_rfc_6040() {
        let columns = [NotEct, Ect0, Ect1, Ce];
        let rows = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in rows {
            for (outer, expected) in columns.into_iter().zip(row) {
                let got = decapsulate(inner.in_tos(0xb8), outer.in_tos(0x20));
                assert_eq!(
                    got,
                    expected.map(|ecn| ecn.in_tos(0xb8)),
                    "{inner:?} in {outer:?}"
                );
            }
        }
    }

    #[test]
    fn the_outer_header_shows_the_inner_mark() {
        for tos in 0..=255 {
            assert_eq!(encapsulate(tos), tos);
            assert_eq!(Ecn::of(tos).in_tos(tos), tos);
        }
    }
}
