//! MQTT 3.1.1, by rumqttc's root module. It can neither bound what the broker sends before an acknowledgement nor refuse retained packets.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectionError, Event as RumqttEvent, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS, StateError,
    SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};

use super::{Ack, CONNECT_DEADLINE, Client, Event, KEEP_ALIVE, LARGEST_PACKET, OUTGOING_INFLIGHT, Published, REQUESTS, Requests, Target};

/// A client that speaks MQTT 3.1.1.
pub(crate) struct ClientV3(EventLoop);

/// Requests to a [`ClientV3`].
pub(crate) struct RequestsV3(AsyncClient);

impl Client for ClientV3 {
    type Requests = RequestsV3;

    fn new(target: &Target) -> (Self, RequestsV3) {
        let mut options = MqttOptions::new(&target.client_id, &target.host, target.port);
        options
            .set_clean_session(target.session_expiry.is_zero())
            .set_keep_alive(KEEP_ALIVE)
            .set_manual_acks(true)
            .set_inflight(OUTGOING_INFLIGHT)
            .set_max_packet_size(LARGEST_PACKET as usize, LARGEST_PACKET as usize);
        if let Some((username, password)) = &target.credentials {
            options.set_credentials(username, password.reveal());
        }
        if let Some(tls) = &target.tls {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.clone())));
        }
        let (requests, mut event_loop) = AsyncClient::new(options, REQUESTS);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_DEADLINE);
        event_loop.set_network_options(network);
        (Self(event_loop), RequestsV3(requests))
    }

    async fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), String> {
        let polled = self.0.poll().await;
        let (first, result) = match polled {
            Ok(event) => (Some(event), Ok(())),
            Err(error) => (None, Err(describe(&error))),
        };
        // Events stand in the order of reading, also those that were read before an error.
        events.extend(first.into_iter().chain(self.0.state.events.drain(..)).filter_map(event));
        result
    }

    fn keep_alive(&self) -> Duration {
        KEEP_ALIVE
    }
}

impl Requests for RequestsV3 {
    fn subscribe(&self, filters: &[String]) -> bool {
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        self.0.try_subscribe_many(filters).is_ok()
    }

    fn acknowledge(&self, ack: Ack) -> bool {
        let qos = if ack.is_qos2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        self.0.try_ack(&Publish { pkid: ack.id, ..Publish::new("", qos, Vec::new()) }).is_ok()
    }

    fn disconnect(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }
}

fn event(event: RumqttEvent) -> Option<Event> {
    match event {
        RumqttEvent::Incoming(Packet::ConnAck(connack)) => {
            Some(Event::Connected { session_present: connack.session_present, session_expiry: None })
        }
        RumqttEvent::Incoming(Packet::SubAck(suback)) => Some(Event::Subscribed(suback.return_codes.iter().map(granted).collect())),
        RumqttEvent::Incoming(Packet::Publish(publish)) => Some(Event::Published(Published {
            ack: (publish.qos != QoS::AtMostOnce).then_some(Ack { id: publish.pkid, is_qos2: publish.qos == QoS::ExactlyOnce }),
            is_resent: publish.dup,
            is_retained: publish.retain,
            topic: Bytes::from(publish.topic),
            payload: publish.payload,
        })),
        RumqttEvent::Outgoing(Outgoing::Disconnect) => Some(Event::Disconnected),
        _ => None,
    }
}

fn granted(code: &SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
        SubscribeReasonCode::Failure => Err("Failure".to_owned()),
    }
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(reason) => format!("the broker refused the connection: {reason:?}"),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "the broker answered no ping".to_owned(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "the broker closed the connection".to_owned(),
        ConnectionError::NetworkTimeout => format!("no CONNACK within {CONNECT_DEADLINE} s"),
        error => error.to_string(),
    }
}
