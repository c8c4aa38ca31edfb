//! Many bytes over one TCP connection. Both sides generate the same pseudo-random stream, so every
//! byte is compared, not only their sum.
//!
//! The client says `u` or `d` (upload, download) and the count as 8 bytes, big endian; after an
//! upload the server answers how many bytes were right, likewise.
//!
//! Comparing all of them costs as much as a fast network does. To time one, the client says `t` (its count means
//! nothing), sends a pattern over and over, and the server compares a part of it ([`stream`]).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// The server's TCP port.
pub const PORT: u16 = 9000;
const PIECE: usize = 128 * 1024;
/// Nothing at all for so long is a broken connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves one connection.
pub fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; 9];
    stream
        .read_exact(&mut request)
        .context("reading what is asked")?;
    let mut count = [0; 8];
    count.copy_from_slice(&request[1..]);
    let count = u64::from_be_bytes(count);
    match request[0] {
        b'u' => {
            let right = receive(&mut stream, count)?;
            stream.write_all(&right.to_be_bytes()).context("answering")
        }
        b'd' => send(&mut stream, count),
        b't' => timed(&mut stream),
        other => bail!("nobody asks {other}"),
    }
}

/// Moves `bytes` and answers the rate.
pub fn transfer(target: SocketAddr, bytes: u64, download: bool) -> Result<Value> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(if download { b"d" } else { b"u" })?;
    stream.write_all(&bytes.to_be_bytes())?;
    let right = if download {
        receive(&mut stream, bytes)?
    } else {
        send(&mut stream, bytes)?;
        let mut right = [0; 8];
        stream
            .read_exact(&mut right)
            .context("reading the server's count")?;
        u64::from_be_bytes(right)
    };
    ensure!(
        right == bytes,
        "only {right} of {bytes} bytes arrived as they were sent"
    );
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let mbit_s = bytes as f64 * 8.0 / seconds / 1e6;
    Ok(json!({"bytes": bytes, "seconds": seconds, "mbit_s": mbit_s}))
}

fn send(stream: &mut impl Write, count: u64) -> Result<()> {
    let mut source = Source::default();
    let mut piece = vec![0; PIECE];
    let mut left = count;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        source.fill(&mut piece);
        stream.write_all(&piece[..length]).context("sending")?;
        left -= length as u64;
    }
    Ok(())
}

/// Answers how many bytes came as expected before the first wrong one.
fn receive(stream: &mut impl Read, count: u64) -> Result<u64> {
    let mut source = Source::default();
    let mut piece = vec![0; PIECE];
    let mut expected = vec![0; PIECE];
    let mut done = 0;
    while done < count {
        let length = usize::try_from(count - done).unwrap_or(PIECE).min(PIECE);
        stream
            .read_exact(&mut piece[..length])
            .context("receiving")?;
        source.fill(&mut expected);
        if piece[..length] != expected[..length] {
            let same = piece
                .iter()
                .zip(&expected)
                .take_while(|(one, other)| one == other)
                .count();
            return Ok(done + same as u64);
        }
        done += length as u64;
    }
    Ok(done)
}

/// The period of what is streamed.
const PERIOD: usize = 8 * PIECE;
/// Of each piece that arrives, so many bytes are compared; of every so many pieces, all.
const LOOK: usize = 256;
const WHOLE: u64 = 16;
/// Not timed: connections start slowly.
const WARM_UP: Duration = Duration::from_millis(300);
/// What a server answers to a stream: bytes received, bytes timed, nanoseconds.
const ANSWER: usize = 24;

/// A period and a piece more, so that a piece may begin anywhere.
fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; PERIOD];
    Source::default().fill(&mut bytes);
    bytes.extend_from_within(..PIECE);
    bytes
}

fn place(position: u64) -> usize {
    usize::try_from(position % PERIOD as u64).unwrap_or(0)
}

/// Streams for a time; how fast it arrived, by the server's clock.
pub fn stream(target: SocketAddr, time: Duration) -> Result<Value> {
    let pattern = pattern();
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"t")?;
    stream.write_all(&[0; 8])?;
    let start = Instant::now();
    let mut sent = 0u64;
    while start.elapsed() < time + WARM_UP {
        let at = place(sent);
        stream
            .write_all(&pattern[at..at + PIECE])
            .context("sending")?;
        sent += PIECE as u64;
    }
    stream.shutdown(Shutdown::Write).context("ending")?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).context(
        "reading the server's count: it gives none when what arrived is not what was sent",
    )?;
    let [received, timed, nanoseconds] = [0, 8, 16].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&answer[at..at + 8]);
        u64::from_be_bytes(word)
    });
    ensure!(
        received == sent && nanoseconds > 0,
        "only {received} of {sent} bytes arrived"
    );
    #[allow(clippy::cast_precision_loss)]
    let gbit_s = timed as f64 * 8.0 / nanoseconds as f64;
    Ok(json!({"bytes": sent, "gbit_s": gbit_s}))
}

fn timed(stream: &mut (impl Read + Write)) -> Result<()> {
    let pattern = pattern();
    let mut piece = vec![0; PIECE];
    let (mut received, mut pieces) = (0u64, 0u64);
    let mut start = Instant::now();
    let mut before = None;
    loop {
        let count = stream.read(&mut piece).context("receiving")?;
        let elapsed = start.elapsed();
        if count == 0 {
            let timed = received - before.unwrap_or(0);
            let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            let answer = [received, timed, nanoseconds].map(u64::to_be_bytes);
            return stream.write_all(&answer.concat()).context("answering");
        }
        let length = match pieces % WHOLE {
            0 => count,
            _ => count.min(LOOK),
        };
        let at = place(received);
        ensure!(
            piece[..length] == pattern[at..at + length],
            "what arrived behind byte {received} is not what was sent"
        );
        pieces += 1;
        received += count as u64;
        if before.is_none() && elapsed >= WARM_UP {
            before = Some(received);
            start = Instant::now();
        }
    }
}

/// xorshift64: fast, and no two stretches alike.
pub struct Source(u64);

impl Default for Source {
    fn default() -> Source {
        Source(0x9e37_79b9_7f4a_7c15)
    }
}

impl Source {
    /// The next bytes, as many whole words as there is room for.
    pub fn fill(&mut self, piece: &mut [u8]) {
        for word in piece.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_found() {
        let count = PIECE as u64 + 1000;
        let mut bytes = Vec::new();
        send(&mut bytes, count).unwrap();
        assert_eq!(receive(&mut &bytes[..], count).unwrap(), count);
        bytes[PIECE + 5] ^= 1;
        assert_eq!(receive(&mut &bytes[..], count).unwrap(), PIECE as u64 + 5);
    }

    /// Both directions of a connection that has ended.
    struct Ended<'a>(&'a [u8], Vec<u8>);

    impl Read for Ended<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(to)
        }
    }

    impl Write for Ended<'_> {
        fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
            self.1.write(from)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_was_moved_by_a_piece_is_found() {
        let sent = &pattern()[..PERIOD];
        let mut whole = Ended(sent, Vec::new());
        timed(&mut whole).unwrap();
        assert_eq!(whole.1[..8], (PERIOD as u64).to_be_bytes());
        let moved = [&sent[..PIECE], &sent[2 * PIECE..]].concat();
        assert!(timed(&mut Ended(&moved, Vec::new())).is_err());
    }
}
