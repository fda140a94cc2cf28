//! The body of a message (docs/document.md, Body): a packet is escaped straight into it when it is read, and can be taken out again for a
//! dead letter (docs/delivery.md, Dead letters).
//!
//! The bytes begin with `[`; an object is the same bytes without the brackets. Compact JSON, fields in the document's order:
//! `{"ICCID":897612653856781234,"Timestamp":"2023-10-16T09:17:32.1233516Z","Payload":"ABC"}`.

use base64_simd::{Out, STANDARD};
use bytes::Bytes;
use pushline_model::{DeadPacket, Iccid, IccidForm, Identify, Packet, PayloadForm, Timestamp};

use crate::{
    CutRules,
    escape::{escape, unescape},
};

/// What stands around a payload, mostly, in bytes.
const AROUND_A_PAYLOAD: usize = 96;

/// A body that packets are being put into.
#[derive(Debug, Default)]
pub struct Body {
    text: Vec<u8>,
    index: Index,
}

/// A body that is complete.
#[derive(Debug)]
pub struct Sealed {
    text: Bytes,
    array: bool,
    held: usize,
    index: Index,
}

/// What a dead letter needs and the text doesn't hold, or only in another form.
#[derive(Debug, Default)]
struct Index {
    entries: Vec<Entry>,
    topics: String,
}

/// One packet: where its payload lies in the text, in which form, and where its topic ends among the topics.
#[derive(Debug)]
struct Entry {
    iccid: Iccid,
    received_at: Timestamp,
    payload_at: usize,
    payload_end: usize,
    topic_end: usize,
    form: Form,
}

/// How a payload stands in the text.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Base64,
    Json,
}

// === impl Body ===

impl Body {
    /// Whether no packet is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.entries.is_empty()
    }

    /// How many packets are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.index.entries.len()
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.text.capacity() + self.index.held()
    }

    /// Adds a packet.
    pub fn push(&mut self, rules: &CutRules, packet: &Packet<'_>) {
        // Once for all of it, mostly: of JSON a byte in eight is a quote that takes one more, at most; base64 grows the text itself.
        self.text.reserve(AROUND_A_PAYLOAD + packet.payload.len() + packet.payload.len() / 8);
        self.text.push(if self.text.is_empty() { b'[' } else { b',' });
        write_identity(rules, packet, &mut self.text);
        self.text.extend_from_slice(b",\"Timestamp\":\"");
        self.text.extend_from_slice(&packet.received_at.text());
        self.text.extend_from_slice(b"\",\"Payload\":");
        let (payload_at, payload_end, form) = write_payload(rules.payload, packet.payload, &mut self.text);
        self.text.push(b'}');
        self.index.topics.push_str(packet.topic);
        let topic_end = self.index.topics.len();
        self.index.entries.push(Entry { iccid: packet.iccid, received_at: packet.received_at, payload_at, payload_end, topic_end, form });
    }

    /// Adds a packet, unless the body would pass `max_body_bytes` with it. Returns whether it was added.
    pub fn push_if_fits(&mut self, rules: &CutRules, packet: &Packet<'_>) -> bool {
        let (text, topics) = (self.text.len(), self.index.topics.len());
        self.push(rules, packet);
        let fits = self.text.len() < rules.max_body_bytes; // the bracket that closes it counts
        if !fits {
            self.text.truncate(text);
            self.index.topics.truncate(topics);
            self.index.entries.pop();
        }
        fits
    }

    /// The `received_at` of its first packet; `None` while it is empty.
    #[must_use]
    pub fn first_received_at(&self) -> Option<Timestamp> {
        self.index.entries.first().map(|entry| entry.received_at)
    }

    /// Completes it. It holds at least one packet, and an object holds one.
    #[must_use]
    pub fn seal(mut self, array: bool) -> Sealed {
        debug_assert!(self.count() == 1 || array && self.count() > 1, "{} packets, array: {array}", self.count());
        self.text.push(b']');
        let held = self.held();
        let all = Bytes::from(self.text);
        let text = if array { all } else { all.slice(1..all.len() - 1) };
        Sealed { text, array, held, index: self.index }
    }
}

// === impl Sealed ===

impl Sealed {
    /// What is sent.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.text.clone()
    }

    /// How many packets are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.index.entries.len()
    }

    /// Array or object.
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.array
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The `received_at` of its first packet.
    #[must_use]
    pub fn first_received_at(&self) -> Timestamp {
        self.index.entries.first().expect("a sealed body holds a packet").received_at
    }

    /// The packets as they came.
    #[must_use]
    pub fn packets(&self) -> Vec<DeadPacket> {
        let brackets = usize::from(!self.array);
        let mut topic_at = 0;
        let mut packet = |entry: &Entry| {
            let payload = &self.text[entry.payload_at - brackets..entry.payload_end - brackets];
            let topic = self.index.topics[topic_at..entry.topic_end].to_owned();
            topic_at = entry.topic_end;
            DeadPacket { received_at: entry.received_at, topic, iccid: entry.iccid.to_string(), payload: entry.form.read(payload) }
        };
        self.index.entries.iter().map(&mut packet).collect()
    }
}

impl Index {
    fn held(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.topics.capacity()
    }
}

impl Form {
    /// The payload as it came.
    fn read(self, written: &[u8]) -> Vec<u8> {
        match self {
            Self::Text => unescape(written),
            Self::Base64 => STANDARD.decode_to_vec(written).expect("Body::push wrote it with the same alphabet"),
            Self::Json => written.to_vec(),
        }
    }
}

fn write_identity(rules: &CutRules, packet: &Packet<'_>, into: &mut Vec<u8>) {
    match rules.send {
        Identify::Topic => {
            into.extend_from_slice(b"{\"Topic\":\"");
            escape(packet.topic, into);
            into.push(b'"');
        }
        Identify::Iccid => {
            let iccid = packet.iccid.text();
            let quote: &[u8] = if rules.iccid == IccidForm::Number && is_number(iccid.as_str()) { b"" } else { b"\"" };
            into.extend_from_slice(b"{\"ICCID\":");
            into.extend_from_slice(quote);
            into.extend_from_slice(iccid.as_str().as_bytes());
            into.extend_from_slice(quote);
        }
    }
}

/// `[1-9][0-9]{0,19}`: a JSON number that is the ICCID digit for digit.
fn is_number(iccid: &str) -> bool {
    !iccid.starts_with('0') && iccid.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns where the payload begins and ends.
fn write_payload(wanted: PayloadForm, payload: &[u8], into: &mut Vec<u8>) -> (usize, usize, Form) {
    let text = match wanted {
        PayloadForm::Base64 => return write_base64(payload, into),
        PayloadForm::Text | PayloadForm::Json => simdutf8::basic::from_utf8(payload),
    };
    match text {
        Err(_) => write_base64(payload, into),
        Ok(_) if wanted == PayloadForm::Json && is_json(payload) => {
            let at = into.len();
            into.extend_from_slice(payload);
            (at, into.len(), Form::Json)
        }
        Ok(text) => {
            into.push(b'"');
            let at = into.len();
            escape(text, into);
            let end = into.len();
            into.push(b'"');
            (at, end, Form::Text)
        }
    }
}

fn write_base64(payload: &[u8], into: &mut Vec<u8>) -> (usize, usize, Form) {
    into.push(b'"');
    let at = into.len();
    into.resize(at + STANDARD.encoded_length(payload.len()), 0);
    let end = at + STANDARD.encode(payload, Out::from_slice(&mut into[at..])).len();
    into.extend_from_slice(b"\",\"PayloadEncoding\":\"base64\"");
    (at, end, Form::Base64)
}

/// Whether valid UTF-8 is one JSON value. The parser wants bytes that it may change.
fn is_json(payload: &[u8]) -> bool {
    simd_json::to_tape(&mut payload.to_vec()).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushline_model::Webhook;
    use serde_json::Value;

    use super::*;

    fn rules() -> CutRules {
        CutRules::of(&Webhook::new("w", "http://a.example/".parse().unwrap()))
    }

    fn packet<'a>(iccid: &str, payload: &'a [u8]) -> Packet<'a> {
        let received_at = Timestamp::parse("2023-10-16T09:17:32.1233516Z").unwrap();
        Packet { iccid: iccid.parse().unwrap(), topic: "mti/\"897612653856781234\"", received_at, payload }
    }

    fn object(rules: &CutRules, packet: &Packet<'_>) -> String {
        let mut body = Body::default();
        body.push(rules, packet);
        String::from_utf8(body.seal(false).bytes().to_vec()).unwrap()
    }

    const EXAMPLE: &str = r#"{"ICCID":897612653856781234,"Timestamp":"2023-10-16T09:17:32.1233516Z","Payload":"ABC"}"#;

    #[test]
    fn the_documents_examples_field_by_field() {
        assert_eq!(object(&rules(), &packet("897612653856781234", b"ABC")), EXAMPLE);
        let mut body = Body::default();
        body.push(&rules(), &packet("897612653856781234", b"ABC"));
        let mut second = packet("897612653856787890", b"123");
        second.received_at = Timestamp::parse("2023-10-16T09:17:32.8383516Z").unwrap();
        body.push(&rules(), &second);
        let array = body.seal(true).bytes();
        let expected = format!(r#"[{EXAMPLE},{{"ICCID":897612653856787890,"Timestamp":"2023-10-16T09:17:32.8383516Z","Payload":"123"}}]"#);
        assert_eq!(array, expected.as_bytes());
    }

    #[test]
    fn an_iccid_is_a_number_digit_for_digit_or_a_string() {
        let written = |iccid: &str| object(&rules(), &packet(iccid, b"")).split(",\"Timestamp").next().unwrap().to_owned();
        assert_eq!(written("89761265385678123499"), r#"{"ICCID":89761265385678123499"#);
        assert_eq!(written("0123"), r#"{"ICCID":"0123""#);
        assert_eq!(written("12A4"), r#"{"ICCID":"12A4""#);
        let mut rules = rules();
        rules.iccid = IccidForm::String;
        assert!(object(&rules, &packet("12", b"")).starts_with(r#"{"ICCID":"12","#));
    }

    #[test]
    fn the_topic_takes_the_iccids_place() {
        let mut rules = rules();
        rules.send = Identify::Topic;
        assert!(object(&rules, &packet("12", b"")).starts_with(r#"{"Topic":"mti/\"897612653856781234\"","Timestamp""#));
    }

    #[test]
    fn what_is_not_utf8_goes_as_base64_and_says_so() {
        let text = object(&rules(), &packet("12", b"\xff\x00"));
        assert!(text.ends_with(r#""Payload":"/wA=","PayloadEncoding":"base64"}"#), "{text}");
        let mut rules = rules();
        rules.payload = PayloadForm::Base64;
        assert!(object(&rules, &packet("12", b"ABC")).ends_with(r#""Payload":"QUJD","PayloadEncoding":"base64"}"#));
    }

    #[test]
    fn json_is_embedded_as_it_is_when_it_parses_else_as_text() {
        let mut rules = rules();
        rules.payload = PayloadForm::Json;
        let payload = |payload: &[u8]| object(&rules, &packet("12", payload)).split_once("\"Payload\":").unwrap().1.to_owned();
        assert_eq!(payload(b"{\"b\": 1e2 }"), "{\"b\": 1e2 }}");
        assert_eq!(payload(b"12"), "12}");
        for not_json in ["", "{", "01", "nul", "{} {}", "[1,]", "\"\n\"", "1}", "NaN"] {
            let text = payload(not_json.as_bytes());
            assert!(text.starts_with('"'), "{not_json}: {text}");
        }
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace() {
        let mut rules = rules();
        rules.max_body_bytes = 1024;
        let mut body = Body::default();
        body.push(&rules, &packet("12", b"ABC"));
        let before = (body.text.clone(), body.index.topics.clone());
        assert!(!body.push_if_fits(&rules, &packet("12", &[b'x'; 1000])));
        assert_eq!((body.text.clone(), body.index.topics.clone(), body.count()), (before.0, before.1, 1));
        let fits = 1024 - body.text.len() - ",]".len() - object(&rules, &packet("12", b"")).len();
        assert!(!body.push_if_fits(&rules, &packet("12", &vec![b'x'; fits + 1])));
        assert!(body.push_if_fits(&rules, &packet("12", &vec![b'x'; fits])));
        assert_eq!(body.seal(true).bytes().len(), 1024);
    }

    fn form() -> impl Strategy<Value = PayloadForm> {
        prop_oneof![Just(PayloadForm::Text), Just(PayloadForm::Base64), Just(PayloadForm::Json)]
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let json = prop::sample::select(vec![
            "{\"a\":[1,2.50,\"\\u00e9\\ud83d\\ude00\"]}",
            " null ",
            "\"\\ud800\"",
            "-0",
            "1e400",
            "[[[]]]",
            "tru",
        ]);
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            any::<String>().prop_map(String::into_bytes),
            json.prop_map(|text| text.as_bytes().to_vec())
        ]
    }

    proptest! {
        #[test]
        fn packets_come_out_of_a_body_as_they_went_in_and_serde_json_reads_the_same(
            packets in prop::collection::vec((payload(), "[0-9a-z]{1,20}", "[^\0]{0,30}", 0u64..1 << 57), 1..12),
            form in form(),
            topic in any::<bool>(),
        ) {
            let mut rules = rules();
            rules.payload = form;
            rules.send = if topic { Identify::Topic } else { Identify::Iccid };
            let mut body = Body::default();
            for (payload, iccid, topic, at) in &packets {
                body.push(&rules, &Packet { iccid: iccid.parse().unwrap(), topic, received_at: Timestamp(*at), payload });
            }
            let sealed = body.seal(packets.len() > 1);
            let out = sealed.packets();
            for ((payload, iccid, topic, at), out) in packets.iter().zip(&out) {
                prop_assert_eq!((payload, iccid, topic, *at), (&out.payload, &out.iccid, &out.topic, out.received_at.0));
            }
            let value: Value = serde_json::from_slice(&sealed.bytes()).expect("it is JSON");
            let objects = if packets.len() > 1 { value.as_array().unwrap().clone() } else { vec![value] };
            prop_assert_eq!(objects.len(), packets.len());
            for (object, (payload, ..)) in objects.iter().zip(&packets) {
                match (object.get("PayloadEncoding"), std::str::from_utf8(payload)) {
                    (Some(_), _) => prop_assert_eq!(object["Payload"].as_str().unwrap(), STANDARD.encode_to_string(payload)),
                    (None, Ok(text)) if form == PayloadForm::Text => prop_assert_eq!(object["Payload"].as_str().unwrap(), text),
                    (None, Ok(text)) => {
                        let embedded = serde_json::from_str::<Value>(text).is_ok_and(|value| value == object["Payload"]);
                        prop_assert!(embedded || object["Payload"].as_str() == Some(text));
                    }
                    (None, Err(_)) => prop_assert!(false, "bytes without encoding"),
                }
            }
        }
    }
}
