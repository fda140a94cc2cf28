//! Access tokens of OAuth 2.0 client credentials (docs/document.md, Request).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use pushline_testkit::{Gateway, Pushline, RawReceiver, folder, get};

use crate::{BINARY, group, packets, start, webhook};

fn response(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Grants `token-1`, `token-2` and so on. The number is that of the last.
async fn token_end_point(granted: &Arc<Mutex<usize>>) -> RawReceiver {
    let granted = Arc::clone(granted);
    let answer = move |request: pushline_testkit::RawRequest| {
        // "client:s3cret", and the form.
        assert_eq!(request.header("authorization"), Some("Basic Y2xpZW50OnMzY3JldA=="));
        assert_eq!(request.body, b"grant_type=client_credentials&scope=push");
        let mut granted = granted.lock().unwrap();
        *granted += 1;
        response(200, &format!(r#"{{"access_token":"token-{granted}","token_type":"Bearer","expires_in":3600}}"#))
    };
    RawReceiver::start(answer).await
}

fn oauth2(token_url: &str) -> String {
    let auth =
        format!("kind = \"oauth2\", token_url = \"{token_url}\", client_id = \"client\", client_secret = \"s3cret\", scope = \"push\"");
    format!("auth = {{ {auth} }}\nwindow = \"10ms\"\nmax_packets = 1\nretries = 0")
}

#[tokio::test]
async fn one_token_serves_all_messages_and_another_one_is_fetched_when_the_server_refuses_it() {
    let dir = folder();
    let granted = Arc::<Mutex<usize>>::default();
    let tokens = token_end_point(&granted).await;
    let valid = Arc::new(Mutex::new("Bearer token-1"));
    let seen = Arc::<Mutex<HashMap<String, Vec<u16>>>>::default();
    let (valid_now, seen_now) = (Arc::clone(&valid), Arc::clone(&seen));
    let receiver = RawReceiver::start(move |request| {
        assert_eq!(request.header("authorization"), request.header("authentication"));
        let status = if request.header("authorization") == Some(*valid_now.lock().unwrap()) { 200 } else { 401 };
        seen_now.lock().unwrap().entry(request.header("webhook-id").unwrap().to_owned()).or_default().push(status);
        response(status, "")
    });
    let receiver = receiver.await;
    let configuration = webhook("w", &receiver.url(), &oauth2(&tokens.url())) + &group("mti", "g", "w");
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..30).map(|number| number.to_string()))).await.unwrap();
    pushline.until_quiet().await;
    let dead = get(pushline.admin, "/dead-letters").await.unwrap().1;
    assert_eq!((seen.lock().unwrap().len(), *granted.lock().unwrap()), (30, 1), "{dead}");
    assert!(seen.lock().unwrap().values().all(|statuses| *statuses == [200]));

    *valid.lock().unwrap() = "Bearer token-2";
    seen.lock().unwrap().clear();
    gateway.publish(&packets("mti/1", (30..60).map(|number| number.to_string()))).await.unwrap();
    pushline.until_quiet().await;
    let of_each = seen.lock().unwrap().clone();
    assert_eq!((of_each.len(), *granted.lock().unwrap()), (30, 2), "{of_each:?}");
    assert!(of_each.values().all(|statuses| *statuses == [200] || *statuses == [401, 200]), "under the same id: {of_each:?}");

    // A token that is refused though it is new is an error response.
    *valid.lock().unwrap() = "none is";
    gateway.publish(&packets("mti/1", ["refused"])).await.unwrap();
    pushline.until_quiet().await;
    let dead = pushline.dead_letters("dead-letters").await;
    assert_eq!(
        dead.iter().map(|letter| (letter.cause.as_str(), letter.status, letter.attempts)).collect::<Vec<_>>(),
        [("error_response", Some(401), 1)]
    );
    assert_eq!(*granted.lock().unwrap(), 3);
}

#[tokio::test]
async fn a_token_end_point_that_reads_the_secret_in_the_body_grants_a_token() {
    let dir = folder();
    let tokens = RawReceiver::start(|request| {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.body, b"grant_type=client_credentials&client_id=client&client_secret=s3cret&scope=push");
        response(200, r#"{"access_token":"token","token_type":"Bearer"}"#)
    });
    let tokens = tokens.await;
    let receiver = RawReceiver::start(|request| {
        assert_eq!(request.header("authorization"), Some("Bearer token"));
        response(200, "")
    });
    let receiver = receiver.await;
    let options = oauth2(&tokens.url()).replace("scope", "token_endpoint_auth_method = \"client_secret_post\", scope");
    let pushline = start(dir.path(), &receiver.url(), &options).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["a"])).await.unwrap();
    pushline.until_metric("pushline_packets_delivered_total", "", |delivered| delivered == 1.0).await;
}

#[tokio::test]
async fn a_token_end_point_that_grants_none_is_no_response_and_nothing_tells_the_secret() {
    let dir = folder();
    let tokens = RawReceiver::start(|_| response(401, r#"{"error":"invalid_client","error_description":"s3cret is wrong"}"#)).await;
    let receiver = RawReceiver::start(|_| panic!("no request goes out without a token")).await;
    let configuration = webhook("w", &receiver.url(), &oauth2(&tokens.url()))
        + &webhook("v", &receiver.url(), &oauth2("http://10.0.0.1/token"))
        + &group("mti", "g", "w")
        + &group("oti", "g", "v");
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["a"])).await.unwrap();
    gateway.publish(&packets("oti/1", ["b"])).await.unwrap();
    pushline.until_quiet().await;
    let (_, letters) = get(pushline.admin, "/dead-letters").await.unwrap();
    let log = pushline.log();
    let of =
        |cause: &str| letters.lines().find(|line| line.contains(&format!(r#""cause":"{cause}""#))).unwrap_or_else(|| panic!("{letters}"));
    assert!(of("no_response").contains(r#""no_response":"token""#), "{letters}");
    assert!(of("no_response").contains("it answered with HTTP status 401 invalid_client") && log.contains("invalid_client"), "{log}");
    assert!(of("blocked_address").contains("token end point: "), "{letters}");
    assert!(!letters.contains("s3cret") && !log.contains("s3cret") && !log.contains("Y2xpZW50"), "{log}\n{letters}");
}
