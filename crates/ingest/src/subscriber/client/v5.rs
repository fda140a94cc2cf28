//! MQTT 5, by `rumqttc::v5`.

use std::time::Duration;

use rumqttc::{
    NetworkOptions, Outgoing, TlsConfiguration, Transport,
    v5::{
        AsyncClient, ConnectionError, Event as RumqttEvent, EventLoop, MqttOptions, StateError,
        mqttbytes::{
            QoS,
            v5::{ConnectProperties, Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode},
        },
    },
};

use super::{Ack, CONNECT_DEADLINE, Client, Event, KEEP_ALIVE, LARGEST_PACKET, OUTGOING_INFLIGHT, Published, REQUESTS, Requests, Target};

/// A client that speaks MQTT 5.
pub(crate) struct ClientV5(EventLoop);

/// Requests to a [`ClientV5`].
pub(crate) struct RequestsV5(AsyncClient);

impl Client for ClientV5 {
    type Requests = RequestsV5;

    fn new(target: &Target) -> (Self, RequestsV5) {
        let mut options = MqttOptions::new(&target.client_id, &target.host, target.port);
        let session_expiry = u32::try_from(target.session_expiry.as_secs()).unwrap_or(u32::MAX);
        options
            .set_connect_properties(ConnectProperties {
                session_expiry_interval: Some(session_expiry),
                receive_maximum: Some(target.receive_maximum),
                max_packet_size: Some(LARGEST_PACKET),
                // Without topic aliases: the client would deliver a packet that has one without its topic.
                ..ConnectProperties::new()
            })
            .set_clean_start(session_expiry == 0)
            .set_keep_alive(KEEP_ALIVE)
            .set_connection_timeout(CONNECT_DEADLINE)
            .set_manual_acks(true)
            .set_outgoing_inflight_upper_limit(OUTGOING_INFLIGHT);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        if let Some((username, password)) = &target.credentials {
            options.set_credentials(username, password.reveal());
        }
        if let Some(tls) = &target.tls {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.clone())));
        }
        let (requests, event_loop) = AsyncClient::new(options, REQUESTS);
        (Self(event_loop), RequestsV5(requests))
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
        self.0.options.keep_alive()
    }
}

impl Requests for RequestsV5 {
    fn subscribe(&self, filters: &[String]) -> bool {
        let filters = filters.iter().map(|filter| Filter {
            path: filter.clone(),
            qos: QoS::AtLeastOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        });
        self.0.try_subscribe_many(filters).is_ok()
    }

    fn acknowledge(&self, ack: Ack) -> bool {
        let qos = if ack.is_qos2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        self.0.try_ack(&Publish { qos, pkid: ack.id, ..Publish::default() }).is_ok()
    }

    fn disconnect(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }
}

fn event(event: RumqttEvent) -> Option<Event> {
    match event {
        RumqttEvent::Incoming(Packet::ConnAck(connack)) => Some(Event::Connected {
            session_present: connack.session_present,
            session_expiry: connack
                .properties
                .and_then(|properties| properties.session_expiry_interval)
                .map(|seconds| Duration::from_secs(seconds.into())),
        }),
        RumqttEvent::Incoming(Packet::SubAck(suback)) => Some(Event::Subscribed(suback.return_codes.iter().map(granted).collect())),
        RumqttEvent::Incoming(Packet::Publish(publish)) => Some(Event::Published(Published {
            ack: (publish.qos != QoS::AtMostOnce).then_some(Ack { id: publish.pkid, is_qos2: publish.qos == QoS::ExactlyOnce }),
            is_resent: publish.dup,
            is_retained: publish.retain,
            topic: publish.topic,
            payload: publish.payload,
        })),
        RumqttEvent::Outgoing(Outgoing::Disconnect) => Some(Event::Disconnected),
        _ => None,
    }
}

fn granted(code: &SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
        refused => Err(format!("{refused:?}")),
    }
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(reason) => format!("the broker refused the connection: {reason:?}"),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => format!("the broker disconnected: {reason_code:?}"),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "the broker answered no ping".to_owned(),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "the broker closed the connection".to_owned(),
        ConnectionError::Timeout(_) => format!("no CONNACK within {CONNECT_DEADLINE} s"),
        error => error.to_string(),
    }
}
