//! Links between documents, and references to documents from the code. rustdoc checks neither.
//!
//! - A link of a document names a file that exists, and a section of it.
//! - Other files refer to `docs/name.md`, to a section as `docs/name.md#section` or `docs/name.md, Section title`.
//! - A comment refers to a rule by its number, such as D6 (`docs/delivery.md`) or R5 (`docs/document.md`).

use std::{collections::BTreeSet, path::Path};

use crate::files::{Text, root, text, texts};

/// Where rules are defined, as `**D6 Window.**`.
const RULES: [(char, &str); 2] = [('D', "docs/delivery.md"), ('R', "docs/document.md")];

/// A document's text without code blocks.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    text.lines().filter(&mut is_prose).collect::<Vec<_>>().join("\n")
}

fn headings(text: &str) -> Vec<String> {
    let heading = |line: &str| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_owned());
    prose(text).lines().filter_map(heading).collect()
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter)).collect::<String>();
    kept.replace(' ', "-")
}

fn has_anchor(document: &str, wanted: &str) -> bool {
    headings(document).iter().any(|heading| anchor(heading) == wanted)
}

/// The targets of a document's links, as written.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// What is wrong with a link, seen from the document at `path`.
fn broken(path: &str, own_text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, section) = target.split_once('#').unwrap_or((target, ""));
    let file_path = root().join(path).parent().unwrap().join(file);
    if !file.is_empty() && !file_path.exists() {
        return Some(format!("{path}: {target}: no such file"));
    }
    let document = if file.is_empty() || section.is_empty() { own_text.to_owned() } else { std::fs::read_to_string(&file_path).unwrap() };
    (!section.is_empty() && !has_anchor(&document, section)).then(|| format!("{path}: {target}: no such section"))
}

/// References to documents in a file that isn't one: the document, and the text behind its name.
fn references(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("docs/") {
        let rest = &text[start..];
        let length = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !"/-_.".contains(letter)).unwrap_or(rest.len());
        let name = rest[..length].trim_end_matches('.');
        if Path::new(name).extension().is_some_and(|extension| extension == "md") {
            let behind = &rest[name.len()..];
            found.push((name.to_owned(), behind.lines().next().unwrap_or_default().to_owned()));
        }
    }
    found
}

/// What is wrong with a reference.
fn wrong(document: &str, behind: &str) -> Option<String> {
    if !root().join(document).exists() {
        return Some(format!("{document}: no such document"));
    }
    let document_text = text(document);
    if let Some(section) = behind.strip_prefix('#') {
        let section: String = section.chars().take_while(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter)).collect();
        return (!has_anchor(&document_text, &section)).then(|| format!("{document}#{section}: no such section"));
    }
    // A rule's number is checked with all others.
    let title = behind
        .trim_start_matches(['`', '"'])
        .strip_prefix(", ")
        .filter(|title| title.starts_with(char::is_uppercase) && rule(title).is_none())?;
    // A comment may break a title at the end of its line.
    let is_section = |heading: &String| title.starts_with(heading.as_str()) || heading.starts_with(title.trim_end());
    (!headings(&document_text).iter().any(is_section)).then(|| format!("{document}, {title}: no such section"))
}

/// The rule's number that a text begins with.
fn rule(text: &str) -> Option<&str> {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
    let (word, digits) = (&text[..end], text[..end].get(1..)?);
    let is_rule = RULES.iter().any(|(letter, _)| word.starts_with(*letter))
        && (1..=2).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_rule.then_some(word)
}

fn defined_rules() -> BTreeSet<String> {
    let of = |(_, document)| text(document).split("**").filter_map(|bold| rule(bold).map(str::to_owned)).collect::<Vec<_>>();
    RULES.into_iter().flat_map(of).collect()
}

/// The rules that comments name.
fn named_rules(file: &Text) -> Vec<String> {
    let comment = if file.has_extension("py") { "#" } else { "//" };
    let comments = file.text.lines().filter_map(|line| line.split_once(comment).map(|(_, comment)| comment));
    let words = comments.flat_map(|comment| comment.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'));
    words.filter_map(rule).map(str::to_owned).collect()
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let documents: Vec<Text> = texts().into_iter().filter(|file| file.has_extension("md")).collect();
    assert!(documents.len() > 8, "{}", documents.len());
    let broken: Vec<String> = documents
        .iter()
        .flat_map(|file| targets(&file.text).into_iter().filter_map(|target| broken(&file.path, &file.text, &target)))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_reference_to_a_document_names_one_that_exists_and_a_section_of_it() {
    let this = "xtask/tests/repository/links.rs";
    let others = texts().into_iter().filter(|file| !file.has_extension("md") && file.path != this);
    let wrong: Vec<String> = others
        .flat_map(|file| {
            let of_file = references(&file.text).into_iter().filter_map(|(document, behind)| wrong(&document, &behind));
            of_file.map(|wrong| format!("{}: {wrong}", file.path)).collect::<Vec<_>>()
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_that_a_comment_names_is_defined() {
    let defined = defined_rules();
    assert!(defined.len() > 25, "{defined:?}");
    let code = texts().into_iter().filter(|file| file.has_extension("rs") || file.has_extension("py"));
    let unknown: Vec<String> = code
        .flat_map(|file| {
            let unknown = named_rules(&file).into_iter().filter(|rule| !defined.contains(rule));
            unknown.map(|rule| format!("{}: {rule}", file.path)).collect::<Vec<_>>()
        })
        .collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn broken_links_and_references_are_found() {
    let own = "# A title\n\n## Two words, here\n";
    assert_eq!(broken("README.md", own, "docs/delivery.md#windows"), None);
    assert_eq!(broken("README.md", own, "#two-words-here"), None);
    assert_eq!(broken("README.md", own, "#three"), Some("README.md: #three: no such section".into()));
    assert_eq!(broken("README.md", own, "docs/none.md"), Some("README.md: docs/none.md: no such file".into()));
    assert_eq!(wrong("docs/none.md", ""), Some("docs/none.md: no such document".into()));
    assert_eq!(wrong("docs/delivery.md", ", Windows: as there"), None);
    assert_eq!(wrong("docs/delivery.md", ", D6"), None);
    assert_eq!(wrong("docs/delivery.md", ", which is long"), None);
    assert_eq!(wrong("docs/delivery.md", ", Doors"), Some("docs/delivery.md, Doors: no such section".into()));
    assert_eq!(wrong("docs/delivery.md", "#doors)"), Some("docs/delivery.md#doors: no such section".into()));
    assert_eq!(references("// see docs/delivery.md, Windows\n"), [("docs/delivery.md".to_owned(), ", Windows".to_owned())]);
    assert_eq!((rule("D6)"), rule("D60x"), rule("R5"), rule("Data")), (Some("D6"), None, Some("R5"), None));
    let file = |text: &str| Text { path: "a.rs".into(), text: text.into() };
    assert_eq!(named_rules(&file("let D7 = 1; // as D6 says\n")), ["D6"]);
}
