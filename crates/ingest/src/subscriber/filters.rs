//! The filters that topic patterns mean (MQTT 5 §4.7). Pure.

use pushline_model::TopicPattern;

/// The filters to subscribe to for these patterns, each topic with and without a leading `/`. With a group they are of a shared subscription (§4.8.2).
///
/// A filter that another one covers is left out: a broker may send a packet once for each filter that it matches.
#[must_use]
pub fn filters(topics: &[TopicPattern], shared_group: Option<&str>) -> Vec<String> {
    let filters = plain(topics);
    match shared_group {
        None => filters,
        Some(group) => filters.into_iter().map(|filter| format!("$share/{group}/{filter}")).collect(),
    }
}

/// Two filters of these patterns that some topic matches both. Its packets could come twice.
#[must_use]
pub fn overlapping(topics: &[TopicPattern]) -> Option<(String, String)> {
    let filters = plain(topics);
    let pairs = filters.iter().enumerate().flat_map(|(index, first)| filters[index + 1..].iter().map(move |second| (first, second)));
    pairs.clone().find(|(first, second)| overlap(&levels(first), &levels(second))).map(|(first, second)| (first.clone(), second.clone()))
}

fn plain(topics: &[TopicPattern]) -> Vec<String> {
    let all: Vec<String> = topics.iter().map(TopicPattern::filter).flat_map(|filter| [filter.clone(), format!("/{filter}")]).collect();
    let is_covered = |index: usize| {
        let others = all.iter().enumerate().filter(|(other, _)| *other != index);
        // Of two that are equal the first stays.
        others.into_iter().any(|(other, filter)| covers(&levels(filter), &levels(&all[index])) && (filter != &all[index] || other < index))
    };
    (0..all.len()).filter(|index| !is_covered(*index)).map(|index| all[index].clone()).collect()
}

fn levels(filter: &str) -> Vec<&str> {
    filter.split('/').collect()
}

/// Whether the first filter matches every topic that the second one does.
fn covers(first: &[&str], second: &[&str]) -> bool {
    match (first.split_first(), second.split_first()) {
        (Some((&"#", _)), _) | (None, None) => true,
        (Some((&level, first)), Some((&other, second))) => other != "#" && (level == "+" || level == other) && covers(first, second),
        _ => false,
    }
}

/// Whether some topic matches both. `a/#` matches `a` too.
fn overlap(first: &[&str], second: &[&str]) -> bool {
    match (first.split_first(), second.split_first()) {
        (Some((&"#", _)), _) | (_, Some((&"#", _))) | (None, None) => true,
        (Some((&level, first)), Some((&other, second))) => (level == "+" || other == "+" || level == other) && overlap(first, second),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<TopicPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_pattern_is_subscribed_to_with_and_without_a_leading_slash() {
        assert_eq!(filters(&patterns(&["{org}/{iccid}"]), None), ["+/+", "/+/+"]);
        assert_eq!(filters(&patterns(&["/d/{org}/{group}/{iccid}"]), None), ["d/+/+/+", "/d/+/+/+"]);
        assert_eq!(filters(&patterns(&["{org}/{iccid}"]), Some("pushline")), ["$share/pushline/+/+", "$share/pushline//+/+"]);
    }

    #[test]
    fn a_filter_that_another_one_covers_is_left_out() {
        // "/a/b" has the levels "", "a" and "b".
        assert_eq!(filters(&patterns(&["{org}/{iccid}/#"]), None), ["+/+/#"]);
        assert_eq!(filters(&patterns(&["{org}/{iccid}", "{org}/{group}/{iccid}"]), None), ["+/+", "+/+/+", "/+/+/+"]);
        assert_eq!(filters(&patterns(&["{org}/{iccid}", "{iccid}/{org}"]), None), ["+/+", "/+/+"]);
        assert_eq!(filters(&patterns(&["d/{org}/{iccid}", "{org}/{iccid}/#"]), None), ["+/+/#"]);
    }

    #[test]
    fn filters_that_some_topic_matches_both_are_told() {
        assert_eq!(overlapping(&patterns(&["{org}/{iccid}", "d/{org}/{group}/{iccid}"])), None);
        assert_eq!(overlapping(&patterns(&["a/{org}/{iccid}", "b/{org}/{iccid}"])), None);
        assert_eq!(overlapping(&patterns(&["a/{org}/{iccid}", "{org}/b/{iccid}"])), Some(("a/+/+".into(), "+/b/+".into())));
        assert_eq!(overlapping(&patterns(&["a/{org}/{iccid}/#", "{org}/b/{iccid}"])), Some(("a/+/+/#".into(), "+/b/+".into())));
    }
}
