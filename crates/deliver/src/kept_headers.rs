//! The headers of a response that are kept: a dead letter has them, and `Retry-After` may suspend the webhook.

use http::{
    HeaderMap,
    header::{HeaderName, LOCATION, RETRY_AFTER},
};
use pushline_model::{RESPONSE_KEPT, ResponseHeaders};

/// What is kept of them. Long values are kept in part.
pub(crate) fn response_headers(headers: &HeaderMap) -> ResponseHeaders {
    let kept = |name: HeaderName| {
        let value = headers.get(name)?.as_bytes();
        Some(String::from_utf8_lossy(&value[..value.len().min(RESPONSE_KEPT)]).into())
    };
    ResponseHeaders { location: kept(LOCATION), retry_after: kept(RETRY_AFTER) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_as_they_came_and_in_part_where_they_are_long() {
        let mut map = HeaderMap::new();
        assert_eq!(response_headers(&map), ResponseHeaders::default());
        map.insert(LOCATION, "x".repeat(RESPONSE_KEPT + 1).parse().unwrap());
        map.insert(RETRY_AFTER, http::HeaderValue::from_bytes(b"\xff").unwrap());
        let kept = response_headers(&map);
        assert_eq!((kept.location.map(|text| text.len()), kept.retry_after.as_deref()), (Some(RESPONSE_KEPT), Some("\u{fffd}")));
    }
}
