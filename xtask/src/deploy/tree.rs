//! Objects as trees, and paths into them.

use serde_json::Value;

/// The documents of a YAML text.
///
/// # Errors
/// It isn't YAML.
pub(super) fn documents(yaml: &str) -> Result<Vec<Value>, String> {
    use serde::Deserialize as _;
    let parsed = yaml_serde::Deserializer::from_str(yaml).map(|document| Value::deserialize(document).map_err(|error| error.to_string()));
    let documents: Result<Vec<Value>, String> = parsed.collect();
    Ok(documents?.into_iter().filter(|document| !document.is_null()).collect())
}

/// What stands at a path such as `spec.template`; null where nothing does.
pub(super) fn at<'a>(tree: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(tree, |tree, key| match key.parse::<usize>() {
        Ok(index) => &tree[index],
        Err(_) => &tree[key],
    })
}

/// The elements of a list; none where there is no list.
pub(super) fn list(tree: &Value) -> &[Value] {
    tree.as_array().map_or(&[], Vec::as_slice)
}

/// A text; empty where there is none.
pub(super) fn string(tree: &Value) -> &str {
    tree.as_str().unwrap_or_default()
}

/// Every value with this key, however deep.
pub(super) fn all<'a>(tree: &'a Value, key: &str) -> Vec<&'a Value> {
    let below = |values: &mut dyn Iterator<Item = &'a Value>| values.flat_map(|value| all(value, key)).collect::<Vec<_>>();
    match tree {
        Value::Object(fields) => {
            let mut found: Vec<&Value> = fields.get(key).into_iter().collect();
            found.extend(below(&mut fields.values()));
            found
        }
        Value::Array(elements) => below(&mut elements.iter()),
        _ => Vec::new(),
    }
}

/// `kind/name`, for people.
pub(super) fn name(object: &Value) -> String {
    format!("{}/{}", string(&object["kind"]), string(at(object, "metadata.name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_one_by_one_and_paths_lead_into_lists() {
        let found = documents("---\na: {b: [1, {c: x}]}\n---\n---\nd: 2\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(string(at(&found[0], "a.b.1.c")), "x");
        assert!(at(&found[0], "a.z.0").is_null());
        assert_eq!(all(&found[0], "c"), [&Value::from("x")]);
    }
}
