//! Reading a request of HTTP/1.1 from a byte stream, for receivers that no HTTP library would let behave as they do.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads a request's header section, and its body if wanted. Returns its `webhook-id` and the body; `None` at the end of the connection.
pub(crate) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    with_body: bool,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value.to_owned())
    };
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    while with_body && bytes.len() < head.len() + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    let body = bytes.split_off(head.len() + 4);
    Ok(header("webhook-id").map(|id| (id, body)))
}
