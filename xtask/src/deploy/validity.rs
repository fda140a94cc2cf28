//! Whether every object is one: Kubernetes' own by the schemas of its oldest and newest version, those of operators by the schemas in `schemas/`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Mistakes,
    chart::{CHART, Set},
    crd_schema, files, text,
    tools::{Tools, output},
    tree::{name, string},
};

/// The newest Kubernetes whose schemas are known; the oldest is the chart's `kubeVersion`.
const NEWEST: &str = "1.37";

/// Checks the objects of all sets.
pub(super) fn check(tools: &Tools, sets: &[Set]) -> Result<Mistakes, String> {
    let schemas = schemas()?;
    let mut mistakes: Mistakes = sets.iter().flat_map(|set| foreign(set, &schemas)).collect();
    for version in [oldest()?.as_str(), NEWEST] {
        mistakes.extend(of_kubernetes(tools, sets, version)?);
    }
    Ok(mistakes)
}

/// `kubeVersion` of the chart: ">=1.30.0-0".
fn oldest() -> Result<String, String> {
    let chart = text(&format!("{CHART}/Chart.yaml"))?;
    let version = chart.lines().find_map(|line| line.strip_prefix("kubeVersion: \">=")).ok_or("Chart.yaml has no kubeVersion")?;
    Ok(version.split('.').take(2).collect::<Vec<_>>().join("."))
}

/// Schemas by API version and kind.
fn schemas() -> Result<BTreeMap<(String, String), Value>, String> {
    let of = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let schema: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(((string(&schema["apiVersion"]).to_owned(), string(&schema["kind"]).to_owned()), schema["schema"].clone()))
    };
    files("xtask/schemas", "json")?.iter().map(of).collect()
}

fn is_of_kubernetes(object: &Value) -> bool {
    let group = string(&object["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn foreign(set: &Set, schemas: &BTreeMap<(String, String), Value>) -> Mistakes {
    let mut mistakes = Vec::new();
    for object in set.objects.iter().filter(|object| !is_of_kubernetes(object)) {
        let key = (string(&object["apiVersion"]).to_owned(), string(&object["kind"]).to_owned());
        match schemas.get(&key) {
            Some(schema) => mistakes.extend(crd_schema::mistakes(schema, object, "")),
            None => mistakes.push(format!("there is no schema for {} {}", key.0, key.1)),
        }
    }
    mistakes.into_iter().map(|mistake| format!("{}: {mistake}", set.name)).collect()
}

/// One process for all objects of a version: it reads 40 MB of schemas.
fn of_kubernetes(tools: &Tools, sets: &[Set], version: &str) -> Result<Mistakes, String> {
    let folder = std::env::temp_dir().join(format!("pushline-objects-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut validate = tools.kubernetes_validate();
    validate.args(["-k", version]);
    for set in sets {
        let objects = set.objects.iter().filter(|object| is_of_kubernetes(object));
        let documents: Vec<String> = objects.map(|object| format!("--- # {}\n{object}\n", name(object))).collect();
        let file = folder.join(format!("{}.yaml", set.name));
        std::fs::write(&file, documents.concat()).map_err(|error| format!("{}: {error}", file.display()))?;
        validate.arg(&file);
    }
    let (valid, told, errors) = output(&mut validate)?;
    // Nothing depends on its end.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(if valid { Vec::new() } else { vec![format!("Kubernetes {version}: {told}{errors}")] })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_groups_of_operators_are_told_from_those_of_kubernetes() {
        for (version, own) in [
            ("v1", true),
            ("apps/v1", true),
            ("networking.k8s.io/v1", true),
            ("keda.sh/v1alpha1", false),
            ("monitoring.coreos.com/v1", false),
        ] {
            assert_eq!(is_of_kubernetes(&json!({"apiVersion": version})), own, "{version}");
        }
    }
}
