//! Answers that go on: captures and traces, written as they happen until the asker has enough, has gone, or the node
//! ends. A thread of its own reads the data plane, so that neither the workers nor the other answers wait for the asker.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{mpsc, watch};

/// Between two looks into the rings: a ring holds thousands of packets.
const PAUSE: Duration = Duration::from_millis(5);
/// Pieces that may wait for the asker.
const PIECES: usize = 16;

/// Where a stream writes to.
pub(super) struct Sink {
    pieces: mpsc::Sender<Bytes>,
    closing: watch::Receiver<bool>,
}

impl Sink {
    /// Whether anyone still wants more.
    pub(super) fn is_open(&self) -> bool {
        !self.pieces.is_closed() && !*self.closing.borrow()
    }

    /// Waits until the piece can be taken; false when nobody wants it any more.
    pub(super) fn write(&self, piece: Vec<u8>) -> bool {
        let mut piece = Bytes::from(piece);
        while !piece.is_empty() && self.is_open() {
            match self.pieces.try_send(piece) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(back)) => piece = back,
            }
            std::thread::sleep(PAUSE);
        }
        piece.is_empty()
    }

    pub(super) fn pause() {
        std::thread::sleep(PAUSE);
    }
}

/// An answer that `produce` writes, on a thread that may block.
pub(super) fn answer(
    content_type: &'static str,
    closing: watch::Receiver<bool>,
    produce: impl FnOnce(&Sink) + Send + 'static,
) -> Response {
    let (pieces, inbox) = mpsc::channel(PIECES);
    let sink = Sink { pieces, closing };
    tokio::task::spawn_blocking(move || produce(&sink));
    let pieces = stream::unfold(inbox, async |mut inbox| {
        let piece = inbox.recv().await?;
        Some((Ok::<_, Infallible>(piece), inbox))
    });
    ([("content-type", content_type)], Body::from_stream(pieces)).into_response()
}
