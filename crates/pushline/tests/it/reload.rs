//! Webhooks and groups are read again while it runs; dead letters are sent again.

use std::{path::Path, time::Duration};

use pushline_testkit::{Behaviour, Gateway, Inbox, Pushline, folder, get, payloads};

use crate::{BINARY, command, group, packets, webhook};

fn write(dir: &Path, more: &str) {
    let path = dir.join("pushline.toml");
    let fixed = std::fs::read_to_string(&path).unwrap();
    let fixed = fixed.split("[[webhooks]]").next().unwrap();
    std::fs::write(path, format!("{fixed}{more}")).unwrap();
}

pub(crate) async fn until_logged(pushline: &Pushline, text: &str, times: usize) {
    let logged = async {
        while pushline.log().matches(text).count() < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(pushline_testkit::PATIENCE, logged).await.unwrap_or_else(|_| panic!("{text:?} isn't logged:\n{}", pushline.log()));
}

#[tokio::test]
async fn what_waits_goes_out_under_the_new_definition_with_the_same_packets_and_ids() {
    let dir = folder();
    let mut hanging = Inbox::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let mut fine = Inbox::start().await;
    let before = format!("{}{}", webhook("w", &hanging.url(), "concurrency = 2"), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&before)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..60).map(|number| format!("{number:02}")))).await.unwrap();
    let in_flight = hanging.packets(20).await;
    let after =
        format!("{}{}{}", webhook("w", &fine.url(), "headers = { X-New = \"yes\" }"), group("mti", "g", "w"), group("oti", "g", "w"));
    write(dir.path(), &after);
    pushline.hang_up();
    until_logged(&pushline, "configuration reloaded", 1).await;
    let pushes = fine.packets(40).await;
    let mut texts: Vec<String> = pushes.iter().flat_map(payloads).collect();
    texts.sort();
    assert_eq!(texts, (20..60).map(|number| format!("{number:02}")).collect::<Vec<_>>(), "what is in flight ends under the old definition");
    assert!(pushes.iter().all(|push| push.header("x-new") == "yes" && payloads(push).len() == 10));
    assert_eq!(in_flight.len(), 2);
    // A group that is new is known to devices too.
    gateway.publish(&packets("oti/1", ["new"])).await.unwrap();
    assert_eq!(payloads(&fine.next().await), ["new"]);
}

#[tokio::test]
async fn what_is_to_be_sent_again_after_a_reload_goes_out_under_the_new_definition() {
    let dir = folder();
    let slow = Behaviour { status: 503, delay: Duration::from_secs(2), ..Behaviour::default() };
    let mut failing = Inbox::behaving(slow).await;
    let mut fine = Inbox::start().await;
    let options = "retry_on_status = [503]";
    let before = format!("{}{}", webhook("w", &failing.url(), options), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&before)).await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["a"])).await.unwrap();
    let in_flight = failing.next().await;
    write(dir.path(), &format!("{}{}", webhook("w", &fine.url(), options), group("mti", "g", "w")));
    pushline.hang_up();
    until_logged(&pushline, "configuration reloaded", 1).await;
    // Nothing else happens: the answer alone has to see to it.
    let again = fine.next().await;
    assert_eq!((again.header("webhook-id"), &again.body), (in_flight.header("webhook-id"), &in_flight.body));
}

#[tokio::test]
async fn a_bad_new_file_is_refused_and_the_old_one_stays() {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let good = format!("{}{}", webhook("w", &inbox.url(), ""), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&good)).await;
    // Noticed without a signal.
    write(dir.path(), "[[webhooks]]\nname = \"w\"\nurl = \"ftp://nowhere\"\n");
    until_logged(&pushline, "the old one stays", 1).await;
    assert!(pushline.log().contains("webhooks[0].url"), "{}", pushline.log());
    // A file has no largest record.
    write(dir.path(), &format!("{}{}", webhook("w", &inbox.url(), "max_body_bytes = \"64MiB\""), group("mti", "g", "w")));
    until_logged(&pushline, "configuration reloaded", 1).await;
    let path = dir.path().join("pushline.toml");
    let changed = Pushline::configuration(&good).replace("min_free = \"1MiB\"", "min_free = \"2MiB\"");
    std::fs::write(&path, changed).unwrap();
    until_logged(&pushline, "[queue] has changed, and only webhooks and groups can be reloaded", 1).await;
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/1", ["a"])).await.unwrap();
    assert_eq!(payloads(&inbox.next().await), ["a"]);
}

#[tokio::test]
async fn dead_letters_are_replayed_under_the_same_id_and_replaying_twice_has_no_effect() {
    let dir = folder();
    let mut failing = Inbox::behaving(Behaviour { status: 500, ..Behaviour::default() }).await;
    let mut fine = Inbox::start().await;
    let before = format!("{}{}", webhook("w", &failing.url(), ""), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&before)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..13).map(|number| number.to_string()))).await.unwrap();
    gateway.publish(&packets("oti/1", ["nobody's"])).await.unwrap();
    let failed = failing.packets(13).await;
    pushline.until_quiet().await;
    write(dir.path(), &format!("{}{}{}", webhook("w", &fine.url(), ""), group("mti", "g", "w"), group("oti", "g", "w")));
    pushline.hang_up();
    until_logged(&pushline, "configuration reloaded", 1).await;

    let replay = |which: Vec<String>| {
        let admin = pushline.admin.to_string();
        async move {
            let output = command().args(["dead-letters", "replay", "--admin", &admin]).args(which).output().await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    };
    let one = failed[0].header("webhook-id").to_owned();
    let said = replay(vec!["--message-id".into(), one.clone()]).await;
    assert!(said.starts_with("replayed 1 message with 10 packets"), "{said}");
    assert_eq!((fine.next().await.header("webhook-id"), &failed[0].body), (one.as_str(), &failed[0].body));
    let said = replay(vec!["--all".into()]).await;
    assert!(said.starts_with("replayed 2 messages with 4 packets; skipped 1 that were replayed before"), "{said}");
    let mut texts: Vec<String> = fine.packets(4).await.iter().flat_map(payloads).collect();
    texts.sort();
    assert_eq!(texts, ["10", "11", "12", "nobody's"], "what nobody wanted is routed anew");
    let said = replay(vec!["--all".into()]).await;
    assert!(said.starts_with("replayed 0 messages with 0 packets; skipped 3 that were replayed before"), "{said}");
    pushline.until_quiet().await;
    assert!(fine.rest(Duration::from_millis(200)).await.is_empty());
}

/// A customer whose server answers 500 to all of 250 messages.
async fn two_hundred_and_fifty_dead_letters(dir: &Path) -> (Pushline, Inbox) {
    let mut failing = Inbox::behaving(Behaviour { status: 500, ..Behaviour::default() }).await;
    let configuration = format!("{}{}", webhook("w", &failing.url(), "max_packets = 1"), group("mti", "g", "w"));
    let pushline = Pushline::start(BINARY, dir, &Pushline::configuration(&configuration)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..250).map(|number| number.to_string()))).await.unwrap();
    failing.packets(250).await;
    pushline.until_quiet().await;
    (pushline, failing)
}

async fn replay_all(pushline: &Pushline) -> usize {
    let admin = pushline.admin.to_string();
    let output = command().args(["dead-letters", "replay", "--all", "--admin", &admin]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_else(|_| panic!("{said} {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn what_fails_again_while_a_replay_runs_is_not_replayed_by_it() {
    let dir = folder();
    let (pushline, mut failing) = two_hundred_and_fifty_dead_letters(dir.path()).await;
    assert_eq!(replay_all(&pushline).await, 250);
    pushline.until_quiet().await;
    assert_eq!(failing.rest(Duration::from_millis(200)).await.len(), 250);
}

#[tokio::test]
async fn two_replays_at_once_send_nothing_twice() {
    let dir = folder();
    let (pushline, mut failing) = two_hundred_and_fifty_dead_letters(dir.path()).await;
    let (one, other, third) = tokio::join!(replay_all(&pushline), replay_all(&pushline), replay_all(&pushline));
    pushline.until_quiet().await;
    let sent = failing.rest(Duration::from_millis(200)).await.len();
    let (_, listed) = get(pushline.admin, "/dead-letters?limit=1000").await.unwrap();
    assert_eq!((one + other + third, listed.matches("\"replayed\":true").count()), (sent, sent), "each once");
}

#[tokio::test]
async fn changed_files_that_the_configuration_names_take_effect_without_a_signal() {
    let dir = folder();
    let mut inbox = Inbox::start().await;
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file("token", "old");
    file("devices", "1\n");
    let w = webhook("w", &inbox.url(), "auth = { kind = \"bearer\", token_file = \"token\" }");
    let g = "[[groups]]\norg = \"mti\"\nname = \"g\"\nwebhook = \"w\"\ndevices_file = \"devices\"\n";
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&format!("{w}{g}"))).await;
    let hash = config_hash(&pushline).await;
    file("token", "new");
    until_logged(&pushline, "configuration reloaded", 1).await;
    assert_eq!(config_hash(&pushline).await, hash, "secrets aren't part of it");
    file("devices", "1\n2\n");
    until_logged(&pushline, "configuration reloaded", 2).await;
    assert_ne!(config_hash(&pushline).await, hash);
    Gateway::connect(pushline.mqtt, "g").await.unwrap().publish(&packets("mti/2", ["a"])).await.unwrap();
    assert_eq!(inbox.next().await.header("authorization"), "Bearer new");

    // A file that goes away leaves what was read from it in effect.
    std::fs::rename(dir.path().join("token"), dir.path().join("away")).unwrap();
    pushline.hang_up();
    until_logged(&pushline, "the old one stays", 1).await;
    assert_eq!(pushline.metrics().await["pushline_config_last_reload_successful"], 0.0);
    file("token", "newest");
    until_logged(&pushline, "configuration reloaded", 3).await;
    assert_eq!(pushline.metrics().await["pushline_config_last_reload_successful"], 1.0);
}

/// The label of the hash in effect.
async fn config_hash(pushline: &Pushline) -> String {
    let metrics = pushline.metrics().await;
    let mut shown = metrics.into_iter().filter(|(name, value)| name.starts_with("pushline_config_info") && *value == 1.0);
    shown.next().expect("one is in effect").0
}
