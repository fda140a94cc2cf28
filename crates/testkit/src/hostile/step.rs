//! What a server does when it has read a request, and how it is done: alike over HTTP/1.1 and HTTP/2.

use std::{io, time::Duration};

use super::wire::{End, Wire};

/// How often a server that drips sends a byte.
const DRIP: Duration = Duration::from_millis(50);

/// What the server does when it has read a request.
pub(super) enum Step {
    /// Sends this, and takes the next request.
    Answer(Vec<u8>),
    /// Sends this, and ends the connection.
    Last(Vec<u8>, End),
    /// Waits, then sends this.
    After(Duration, Vec<u8>),
    /// Sends the first, then the second as often as that until the client closes.
    Flood(Vec<u8>, Vec<u8>, usize),
    /// Sends the first, then the second for ever, now and then.
    Drip(Vec<u8>, Vec<u8>),
    /// Sends a status and a body of this many bytes; `usize::MAX`: one without end.
    Body(&'static str, usize),
    /// Sends bytes below TLS.
    Raw(&'static [u8]),
}

/// A connection whose request has come.
pub(super) trait Player {
    fn wire(&mut self) -> &mut Wire;

    /// Sends this as an answer to the request, or as its beginning.
    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Lets this much time pass.
    async fn wait(&mut self, time: Duration) -> io::Result<()>;

    /// Sends a status and a body of this many bytes; `usize::MAX`: one without end.
    async fn send_body(&mut self, status: &str, length: usize) -> io::Result<()>;
}

impl Step {
    /// Returns how the connection ends. `None`: it takes the next request.
    pub(super) async fn play(self, player: &mut impl Player) -> io::Result<Option<End>> {
        match self {
            Self::Answer(bytes) => player.answer(&bytes).await?,
            Self::Last(bytes, end) => {
                player.answer(&bytes).await?;
                return Ok(Some(end));
            }
            Self::After(time, bytes) => {
                player.wait(time).await?;
                player.answer(&bytes).await?;
            }
            Self::Flood(first, more, times) => {
                player.answer(&first).await?;
                player.wire().flood(&more, times).await?;
                return Ok(Some(End::Close));
            }
            Self::Drip(first, more) => {
                player.answer(&first).await?;
                player.wire().drip(&more, DRIP).await?;
                return Ok(Some(End::Close));
            }
            Self::Body(status, length) => player.send_body(status, length).await?,
            Self::Raw(bytes) => {
                player.wire().tcp().try_write(bytes)?;
                return Ok(Some(End::Never));
            }
        }
        Ok(None)
    }
}
