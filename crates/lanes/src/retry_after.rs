//! `Retry-After` (RFC 9110 §10.2.3): how long a server asks to be left alone (docs/delivery.md, Suspension). Pure.

use std::time::Duration;

use pushline_model::{Outcome, Timestamp, Webhook};

/// No server suspends its webhook for longer.
const LONGEST: Duration = Duration::from_hours(1);

/// How long an outcome suspends its webhook. `None`: it doesn't.
#[must_use]
pub fn suspends_for(webhook: &Webhook, outcome: &Outcome, wall: Timestamp) -> Option<Duration> {
    let Outcome::ErrorResponse { status, headers, .. } = outcome else { return None };
    let value = headers.retry_after.as_deref().filter(|_| webhook.retry_on_status.contains(status))?;
    read(value, wall).map(|wait| wait.min(LONGEST)).filter(|wait| !wait.is_zero())
}

/// Seconds, or a date in any of HTTP's three forms (RFC 9110 §5.6.7). `None`: it is neither, or a date that is past.
fn read(value: &str, wall: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds are a very long time.
        return Some(value.parse().map_or(LONGEST, Duration::from_secs));
    }
    let date = Timestamp::of(httpdate::parse_http_date(value).ok()?);
    (date > wall).then(|| date.distance(wall))
}

#[cfg(test)]
mod tests {
    use pushline_model::ResponseHeaders;

    use super::*;

    fn wait(value: &str) -> Option<Duration> {
        let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
        webhook.retry_on_status = vec![503];
        let headers = || ResponseHeaders { retry_after: Some(value.into()), location: None };
        let outcome = |status| Outcome::ErrorResponse { status, response: vec![], headers: headers() };
        let wall = Timestamp::parse("1994-11-06T08:49:07Z").unwrap();
        assert_eq!(suspends_for(&webhook, &outcome(429), wall), None, "it isn't retried");
        suspends_for(&webhook, &outcome(503), wall)
    }

    #[test]
    fn seconds_and_each_form_of_a_date_are_read_and_an_hour_is_the_most() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for value in ["30", "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(wait(value), seconds(30), "{value}");
        }
        for value in ["3601", "99999999999999999999999999", "Mon, 06 Nov 2034 08:49:37 GMT"] {
            assert_eq!(wait(value), seconds(3600), "{value}");
        }
        for value in ["", "0", "-1", "+1", "1.5", "soon", "30 s", "Sat, 05 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"] {
            assert_eq!(wait(value), None, "{value}");
        }
    }
}
