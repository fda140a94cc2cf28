//! Compressed bodies (docs/document.md, Request). A message's id doesn't depend on it; its signature covers the bytes that are sent.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression as Level, GzBuilder};
use pushline_model::Compression;
use tokio::task::spawn_blocking;

/// A larger body is compressed beside the runtime's threads, in bytes: it takes milliseconds.
const LARGE: usize = 128 << 10;

/// The body as it is sent.
pub(crate) async fn encode(compression: Compression, body: Bytes) -> Bytes {
    match compression {
        Compression::None => body,
        Compression::Gzip if body.len() < LARGE => gzip(&body),
        Compression::Gzip => match spawn_blocking(move || gzip(&body)).await {
            Ok(encoded) => encoded,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
    }
}

/// RFC 1952. The same body gives the same bytes: no time stands in them.
fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzBuilder::new().write(Vec::with_capacity(body.len() / 4 + 64), Level::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("a Vec takes all that is written").into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[tokio::test]
    async fn a_body_of_any_length_is_unpacked_as_it_was_and_packed_the_same_each_time() {
        for length in [0, 1, 500, LARGE - 1, LARGE, 3 * LARGE] {
            let body = Bytes::from([&b"{\"ICCID\":897612653856781234}"[..]].concat().repeat(length / 28 + 1)[..length].to_vec());
            let sent = encode(Compression::Gzip, body.clone()).await;
            let mut unpacked = Vec::new();
            GzDecoder::new(&sent[..]).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == body && encode(Compression::Gzip, body.clone()).await == sent, "{length}");
            assert!(length < 500 || sent.len() < length / 4, "{length} to {}", sent.len());
            assert_eq!(encode(Compression::None, body.clone()).await, body);
        }
    }
}
