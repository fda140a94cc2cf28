//! The naive cutter: the document's rule, said once more and slowly.

use super::*;

impl World {
    /// The messages that the records make by the document's rule, said naively: by group, window and size.
    pub(super) fn naive(&self, webhook: &Webhook) -> BTreeMap<Offset, (Vec<Offset>, bool)> {
        let (mut naive, many) = (BTreeMap::new(), webhook.max_packets > 1);
        for group in (0..GROUPS.len()).filter(|group| !GROUPS[*group].0.is_empty()) {
            let (mut body, mut bytes, mut window) = (Vec::<Offset>::new(), 0, None::<(Timestamp, bool)>);
            let mut flush = |body: &mut Vec<Offset>, array: bool| {
                if let Some(first) = body.first().copied() {
                    naive.insert(first, (std::mem::take(body), array));
                }
            };
            for (place, rec) in self.log.iter().enumerate().filter(|(_, rec)| rec.group == group) {
                let is_over = window.is_some_and(|(opened, _)| rec.at.distance(opened) >= webhook.window);
                if is_over || rec.replay > 0 {
                    let array = body.len() > 1 || many && window.is_some_and(|(_, cut_from)| cut_from);
                    flush(&mut body, array);
                    window = None;
                }
                if rec.replay > 0 {
                    flush(&mut vec![place as Offset; rec.replay], rec.replay > 1);
                    continue;
                }
                let mut alone = pushline_batch::Body::default();
                alone.push(webhook, &rec.packet(&rec.payload(place)));
                let object = alone.seal(false).bytes().len();
                if !body.is_empty() && bytes + ",".len() + object + "[]".len() > webhook.max_body_bytes {
                    flush(&mut body, true);
                    window.iter_mut().for_each(|(_, cut_from)| *cut_from = true);
                }
                bytes = if body.is_empty() { object } else { bytes + ",".len() + object };
                window.get_or_insert((rec.at, false));
                body.push(place as Offset);
                if body.len() == webhook.max_packets {
                    flush(&mut body, many);
                    window.iter_mut().for_each(|(_, cut_from)| *cut_from = true);
                }
            }
            let array = body.len() > 1 || many && window.is_some_and(|(_, cut_from)| cut_from);
            flush(&mut body, array);
        }
        naive
    }
}
