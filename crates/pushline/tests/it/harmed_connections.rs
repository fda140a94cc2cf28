//! A network that delays, throttles, stalls, half-closes and cuts connections, in each direction, under load.

use std::{sync::Arc, time::Duration};

use pushline_testkit::{
    Behaviour, ChaosProxy, Direction, Fault, Gateway, IdLedger, PATIENCE, Push, PushRecord, Receiver, folder, payloads,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{amount, packets, start};

/// Packets published while one fault lasts.
const BURST: usize = 40;

/// How long a fault lasts. Whatever happens within it, all must hold.
const LASTS: Duration = Duration::from_millis(300);

/// Faults that come one after the other, in each direction: counts of bytes end a connection within its headers, within a body, after a few messages.
const FAULTS: [Fault; 9] = [
    Fault::Delay(Duration::from_millis(30)),
    Fault::Cut { after: 100 },
    Fault::Stall,
    Fault::HalfClose { after: 100 },
    Fault::Throttle(20_000),
    Fault::Cut { after: 400 },
    Fault::HalfClose { after: 400 },
    Fault::Cut { after: 5_000 },
    Fault::HalfClose { after: 5_000 },
];

#[tokio::test]
async fn through_a_network_that_harms_connections_every_packet_arrives_and_none_under_two_ids() {
    let (dir, ledger) = (folder(), Arc::<IdLedger>::default());
    let noted = Arc::clone(&ledger);
    let note =
        move |push: Push| noted.note(PushRecord { id: push.header("webhook-id"), body: &push.body, answer: push.status }, &payloads(&push));
    let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), Behaviour::default(), note).await.unwrap();
    let proxy = ChaosProxy::start(receiver.address()).await;
    // A receiver answers 400 to a request that ends in its middle.
    let options =
        "retry_on_status = [400]\ntimeout = \"500ms\"\nretries = 100\nretry_delays = [\"50ms\"]\nwindow = \"20ms\"\nmax_packets = 3";
    let pushline = start(dir.path(), &format!("http://{}/", proxy.address()), options).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let (mut published, mut harmed) = (0, 0);
    for _ in 0..amount(1, 20) {
        for (direction, fault) in
            [Direction::ToServer, Direction::ToClient].into_iter().flat_map(|direction| FAULTS.map(|fault| (direction, fault)))
        {
            let before = pushline.metric("pushline_deliver_connections_total", "reused=\"false\"").await;
            proxy.set(direction, fault);
            let until = Instant::now() + LASTS;
            while Instant::now() < until {
                gateway.publish(&packets("mti/1", (published..published + BURST / 10).map(|number| format!("{number:06}")))).await.unwrap();
                published += BURST / 10;
                sleep(LASTS / 10).await;
            }
            proxy.set(direction, Fault::None);
            harmed += usize::from(pushline.metric("pushline_deliver_connections_total", "reused=\"false\"").await > before);
        }
    }
    pushline.until_quiet().await;
    assert_eq!(pushline.dead_letters("dead-letters").await, []);
    // A response that was cut off is no response: its message comes again, and its last push may still be on its way.
    let all = async {
        while ledger.counts().2 < published {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{} of {published} packets came", ledger.counts().2));
    assert_eq!((ledger.repeated(), ledger.altered()), (vec![], vec![]));
    let (pushes, ids, _) = ledger.counts();
    assert!(pushes > ids && harmed > 0, "the network harmed something: {pushes} pushes of {ids} messages");
}
