//! Structural schemas of custom resources: as much of OpenAPI as they use, and strict. A field that the schema doesn't name is a mistake, where a cluster would
//! drop it silently.

use serde_json::{Map, Value};

use super::tree::{list, string};

/// What a value has that its schema doesn't allow. Each mistake begins with the place.
pub(super) fn mistakes(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    if schema["x-kubernetes-int-or-string"] == true {
        return if value.is_i64() || value.is_string() { found } else { vec![format!("{place}: neither a number nor a text")] };
    }
    found.extend(wrong_type(schema, value).map(|expected| format!("{place}: {value} is no {expected}")));
    found.extend(wrong_value(schema, value).map(|why| format!("{place}: {value} {why}")));
    match value {
        Value::Object(fields) => found.extend(of_object(schema, fields, place)),
        Value::Array(elements) => {
            let of = |(index, element)| mistakes(&schema["items"], element, &format!("{place}[{index}]"));
            found.extend(elements.iter().enumerate().flat_map(of));
        }
        _ => {}
    }
    let any = list(&schema["anyOf"]);
    if !any.is_empty() && any.iter().all(|one| !missing(one, value).is_empty()) {
        found.push(format!("{place}: fits none of {any:?}"));
    }
    found
}

fn wrong_type<'a>(schema: &'a Value, value: &Value) -> Option<&'a str> {
    let expected = schema["type"].as_str()?;
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    };
    (!fits).then_some(expected)
}

fn wrong_value(schema: &Value, value: &Value) -> Option<String> {
    let allowed = list(&schema["enum"]);
    if !allowed.is_empty() && !allowed.contains(value) {
        return Some(format!("is none of {allowed:?}"));
    }
    let below = schema["minimum"].as_f64().zip(value.as_f64()).is_some_and(|(least, value)| value < least);
    let above = schema["maximum"].as_f64().zip(value.as_f64()).is_some_and(|(most, value)| value > most);
    let empty = schema["minLength"].as_u64().is_some_and(|least| value.as_str().is_some_and(|text| (text.len() as u64) < least));
    (below || above || empty).then(|| "is out of its range".to_owned())
}

fn of_object(schema: &Value, fields: &Map<String, Value>, place: &str) -> Vec<String> {
    let mut found: Vec<String> = missing_fields(schema, fields).map(|name| format!("{place}: {name} is missing")).collect();
    let is_open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let others = &schema["additionalProperties"];
    for (name, value) in fields {
        let here = format!("{place}.{name}");
        match schema["properties"].get(name) {
            Some(schema) => found.extend(mistakes(schema, value, &here)),
            None if others.is_object() => found.extend(mistakes(others, value, &here)),
            // The metadata of every object is Kubernetes' own, and its schema is only "object".
            None if is_open || place == ".metadata" || *others == true => {}
            None => found.push(format!("{here}: no such field")),
        }
    }
    found
}

fn missing_fields<'a>(schema: &'a Value, fields: &'a Map<String, Value>) -> impl Iterator<Item = &'a str> {
    list(&schema["required"]).iter().map(string).filter(|name| !fields.contains_key(*name))
}

/// What an alternative requires and a value lacks.
fn missing(schema: &Value, value: &Value) -> Vec<String> {
    let Value::Object(fields) = value else { return wrong_type(schema, value).map(str::to_owned).into_iter().collect() };
    missing_fields(schema, fields).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_field_a_wrong_type_a_missing_field_and_a_value_out_of_range_are_found_with_their_places() {
        let schema = json!({"type": "object", "required": ["kind"], "properties": {
            "kind": {"type": "string", "enum": ["A"]},
            "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        let good = json!({"kind": "A", "list": [{"n": 1}], "free": {"x": 1}, "labels": {"a": "b"}});
        assert_eq!(mistakes(&schema, &good, ""), Vec::<String>::new());
        let bad = json!({"list": [{"n": 0}, {"m": 1}], "labels": {"a": 1}, "other": 1});
        let found = mistakes(&schema, &bad, "o");
        let wanted = [
            "o: kind is missing",
            "o.labels.a: 1 is no string",
            "o.list[0].n: 0 is out of its range",
            "o.list[1].m: no such field",
            "o.other: no such field",
        ];
        assert_eq!(found, wanted);
        assert_eq!(mistakes(&schema, &json!({"kind": "B"}), "o").len(), 1);
    }
}
