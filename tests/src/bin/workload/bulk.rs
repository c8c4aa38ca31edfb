//! Many bytes over one TCP connection. Both sides generate the same pseudo-random stream, so every
//! byte is compared, not only their sum.
//!
//! The client says `u` or `d` (upload, download) and the count as 8 bytes, big endian; after an
//! upload the server answers how many bytes were right, likewise.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
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

/// xorshift64: fast, and no two stretches alike.
struct Source(u64);

impl Default for Source {
    fn default() -> Source {
        Source(0x9e37_79b9_7f4a_7c15)
    }
}

impl Source {
    fn fill(&mut self, piece: &mut [u8]) {
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
}
