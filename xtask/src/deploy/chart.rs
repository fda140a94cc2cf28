//! The chart, rendered with each of its value sets.

use serde_json::Value;

use super::{
    Mistakes, files, keep, root, stem, text,
    tools::{Tools, output},
    tree::documents,
};

/// The chart's folder.
pub(super) const CHART: &str = "deploy/helm/pushline";

/// The release and the namespace that all sets are rendered for.
pub(super) const RELEASE: &str = "pushline";
const NAMESPACE: &str = "iot";

/// How the table of values begins in the chart's README.
const TABLE: &str = "| value | default | meaning |\n|---|---|---|\n";

/// The chart, and the helm that renders it.
pub(super) struct Chart<'a> {
    tools: &'a Tools,
}

/// A value set as the chart renders it.
pub(super) struct Set {
    /// The name of its file in `ci`, without the extension.
    pub(super) name: String,
    pub(super) values: Value,
    /// As helm prints it.
    pub(super) rendered: String,
    pub(super) objects: Vec<Value>,
}

impl<'a> Chart<'a> {
    pub(super) fn new(tools: &'a Tools) -> Self {
        Self { tools }
    }

    pub(super) fn lint(&self) -> Result<Mistakes, String> {
        let (passed, told, _) = output(self.tools.helm_command().args(["lint", "--strict", "--quiet"]).arg(root().join(CHART)))?;
        Ok(if passed { Vec::new() } else { vec![told] })
    }

    /// Renders the chart with values.
    ///
    /// # Errors
    /// What helm or the chart said about them.
    pub(super) fn render(&self, values: &str) -> Result<String, String> {
        let file = std::env::temp_dir().join(format!("pushline-values-{}-{:?}.yaml", std::process::id(), std::thread::current().id()));
        std::fs::write(&file, values).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut helm = self.tools.helm_command();
        helm.args(["template", RELEASE, "--namespace", NAMESPACE]).arg(root().join(CHART)).arg("--values").arg(&file);
        let rendered = output(&mut helm);
        // Nothing depends on its end.
        let _ = std::fs::remove_file(&file);
        let (rendered, printed, errors) = rendered?;
        if rendered { Ok(printed) } else { Err(errors) }
    }

    /// Every value set of `ci`.
    ///
    /// # Errors
    /// One doesn't render.
    pub(super) fn render_all(&self) -> Result<Vec<Set>, String> {
        let of = |path: &std::path::PathBuf| {
            let name = stem(path);
            let values = text(&format!("{CHART}/ci/{name}.yaml"))?;
            let rendered = self.render(&values).map_err(|error| format!("ci/{name}.yaml: {error}"))?;
            let objects = documents(&rendered).map_err(|error| format!("ci/{name}.yaml: {error}"))?;
            let values = documents(&values)?.pop().ok_or_else(|| format!("ci/{name}.yaml is empty"))?;
            Ok(Set { name, values, rendered, objects })
        };
        files(&format!("{CHART}/ci"), "yaml")?.iter().map(of).collect()
    }
}

impl Set {
    /// The objects of a kind.
    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The objects with a pod template.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| object["spec"]["template"].is_object())
    }

    /// The configuration, as the chart got it.
    pub(super) fn config(&self) -> &str {
        self.values["config"].as_str().unwrap_or_default()
    }
}

/// The README's table of values, which is made from `values.yaml`.
pub(super) fn values_table(bless: bool) -> Result<Mistakes, String> {
    let path = format!("{CHART}/README.md");
    let readme = text(&path)?;
    let (before, rest) = readme.split_once(TABLE).ok_or("the chart's README has no table of values")?;
    let after = rest.lines().skip_while(|line| line.starts_with('|')).collect::<Vec<_>>().join("\n");
    let (rows, mut mistakes) = rows(&text(&format!("{CHART}/values.yaml"))?);
    mistakes.extend(keep(&path, &format!("{before}{TABLE}{rows}{after}\n"), bless)?);
    Ok(mistakes)
}

/// A row for each value that has a comment above it, and the names of values without one. Below a commented value nothing needs a comment.
fn rows(values: &str) -> (String, Mistakes) {
    let (mut rows, mut mistakes) = (String::new(), Vec::new());
    let (mut path, mut comment): (Vec<(usize, &str)>, Option<&str>) = (Vec::new(), None);
    let mut documented: Option<usize> = None;
    for line in values.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("# ") {
            comment = Some(text);
            continue;
        }
        let Some((key, value)) = line.split_once(':').filter(|(key, _)| key.chars().all(|letter| letter.is_ascii_alphanumeric())) else {
            continue;
        };
        if documented.is_some_and(|at| indent > at) {
            continue;
        }
        documented = None;
        path.retain(|(at, _)| *at < indent);
        path.push((indent, key));
        let name = path.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
        match (comment.take(), value.trim()) {
            (Some(meaning), value) => {
                documented = Some(indent);
                let value = if value.is_empty() || value == "|" { "see values.yaml".to_owned() } else { format!("`{value}`") };
                rows.push_str(&format!("| `{name}` | {value} | {meaning} |\n"));
            }
            (None, "") => {}
            (None, _) => mistakes.push(format!("values.yaml: {name} has no comment above it")),
        }
    }
    (rows, mistakes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_with_a_comment_is_a_row_and_one_without_is_a_mistake() {
        let (rows, mistakes) = rows(
            "# a table's comment\n\n# Which\nmode: box\nbox:\n  # How large\n  size: 1\n  free: 2\n# Many\nlist:\n  - a: 1\n    b: 2\n",
        );
        assert_eq!(rows, "| `mode` | `box` | Which |\n| `box.size` | `1` | How large |\n| `list` | see values.yaml | Many |\n");
        assert_eq!(mistakes, ["values.yaml: box.free has no comment above it"]);
    }
}
