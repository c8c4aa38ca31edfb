//! The few bytes of a message (RFC 1035 section 4.1) that are touched where it is passed on whole.

use std::hash::{BuildHasher, Hasher};

/// Length of the header in bytes.
pub const HEADER: usize = 12;

/// A message's number.
pub fn id(message: &[u8]) -> Option<u16> {
    message.first_chunk().map(|id| u16::from_be_bytes(*id))
}

/// Gives a message another number.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(front) = message.first_chunk_mut() {
        *front = id.to_be_bytes();
    }
}

/// A number that cannot be foreseen: of a keyed hash whose key comes from the kernel's random numbers.
pub fn random_id() -> u16 {
    let bits = std::hash::RandomState::new().build_hasher().finish();
    let [high, low, ..] = bits.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Whether a message is a response.
pub fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

fn code(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |flags| flags & 0x0f)
}

/// Whether a response says that its sender cannot or does not want to (SERVFAIL, NOTIMP, REFUSED).
pub fn is_refusal(response: &[u8]) -> bool {
    matches!(code(response), 2 | 4 | 5)
}

/// The question of a message that has one, as it stands there.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return message.get(HEADER..at + 5),
            length @ 1..64 => at += 1 + length,
            _ => return None,
        }
    }
}

/// Whether a message is the response to a query: its number and its question are the query's.
pub fn answers(query: &[u8], response: &[u8]) -> bool {
    if id(query) != id(response) || !is_response(response) || response.len() < HEADER {
        return false;
    }
    match (question(query), question(response)) {
        (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
        // One that could not read the query repeats nothing of it.
        (_, None) => code(response) != 0,
        (None, Some(_)) => false,
    }
}

/// A message as it goes over a connection: its length first.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    framed
}

/// The response that says that nothing could be found out (SERVFAIL), with the query's question.
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let flags = *query.get(2)?;
    let asked = question(query);
    let mut response = query.get(..HEADER)?.to_vec();
    // The opcode and "recursion desired" are the query's; a response, recursion available, failed.
    if let Some(bytes) = response.get_mut(2..HEADER) {
        bytes.fill(0);
        bytes.copy_from_slice(&[
            0x80 | flags & 0x79,
            0x82,
            0,
            u8::from(asked.is_some()),
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
    }
    response.extend_from_slice(asked.unwrap_or_default());
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    fn query() -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii("www.Example.org.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.to_vec().unwrap()
    }

    #[test]
    fn only_the_response_to_the_query_is_taken() {
        let query = query();
        let mut response = query.clone();
        assert!(!answers(&query, &response), "a query is no response");
        response[2] |= 0x80;
        assert!(answers(&query, &response));
        assert!(answers(&query, &response.to_ascii_lowercase()));
        let mut other = response.clone();
        other[0] ^= 1;
        assert!(!answers(&query, &other));
        let mut other = response.clone();
        other[14] = b'x';
        assert!(!answers(&query, &other));
        for cut in 0..response.len() {
            assert!(!answers(&query, &response[..cut]), "{cut}");
        }
    }

    #[test]
    fn a_failure_repeats_the_question() {
        let failed = Message::from_vec(&failure(&query()).unwrap()).unwrap();
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(failed.queries.len(), 1);
        assert!(failed.metadata.recursion_desired && failed.metadata.id == 7);
        assert_eq!(failure(&[0; 11]), None);
        assert!(failure(&[0xff; 40]).is_some());
    }
}
