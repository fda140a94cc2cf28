//! Retired words: each concept has one word ([`docs/glossary.md`]), and the words that it had before don't come back.
//!
//! The check reads identifiers and texts alike: `LetGo`, `let_go` and "let go" are the same words.

use crate::files::{Text, texts};

/// Where a word is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In all code and texts.
    Everywhere,
    /// As a part of an identifier: in code, and between backticks. In a sentence it may have its usual sense.
    Identifiers,
    /// As an identifier of exactly this name, such as a type's.
    Names,
}
use Where::{Everywhere, Identifiers, Names};

/// Words, where they are retired, and what replaces them.
type Retired = (&'static str, Where, &'static str);

const RETIRED: &[Retired] = &[
    ("progress", Everywhere, "checkpoint"),
    ("head", Identifiers, "live_offset"),
    ("the head", Everywhere, "the live offset"),
    ("taken", Identifiers, "read_until"),
    ("listed message", Everywhere, "outstanding message"),
    ("listed messages", Everywhere, "outstanding messages"),
    ("listed", Identifiers, "outstanding"),
    ("at hand", Everywhere, "the open message"),
    ("let go", Everywhere, "evict"),
    ("lets go", Everywhere, "evicts"),
    ("lets nothing go", Everywhere, "evicts nothing"),
    ("letting go", Everywhere, "evicting"),
    ("Gone", Names, "Evicted"),
    ("under way", Everywhere, "active; in flight; being written"),
    ("room", Everywhere, "memory budget, capacity, space"),
    ("Share", Names, "a type for each of memory budget, concurrency limit and circuit breaker"),
    ("slot", Everywhere, "permit"),
    ("bell", Everywhere, "Wakeup"),
    ("suspect", Everywhere, "unresponsive"),
    ("suspects", Everywhere, "unresponsive webhooks"),
    ("suspected", Everywhere, "unresponsive"),
    ("suspicion", Everywhere, "the breaker is half-open"),
    ("suspicions", Everywhere, "the breaker is half-open"),
    ("sweep", Everywhere, "catch-up read"),
    ("sweeps", Everywhere, "catch-up reads"),
    ("swept", Everywhere, "read by a catch-up read"),
    ("sweepable", Everywhere, "may join a slice"),
    ("turn", Identifiers, "slice"),
    ("piece", Everywhere, "block"),
    ("pieces", Everywhere, "blocks"),
    ("stray", Everywhere, "unrouted packet"),
    ("strays", Everywhere, "unrouted packets"),
    ("bury", Everywhere, "dead-letter"),
    ("buries", Everywhere, "dead-letters"),
    ("buried", Everywhere, "dead-lettered"),
    ("burying", Everywhere, "dead-lettering"),
    ("burial", Everywhere, "dead letter"),
    ("burials", Everywhere, "dead letters"),
    ("dying", Everywhere, "being dead-lettered"),
    ("outlet", Everywhere, "webhook handle"),
    ("outlets", Everywhere, "webhook handles"),
    ("parcel", Everywhere, "prepared message"),
    ("parcels", Everywhere, "prepared messages"),
    ("destination", Everywhere, "endpoint"),
    ("destinations", Everywhere, "endpoints"),
    ("fly", Everywhere, "start"),
    ("wishes", Everywhere, "signals, config_watcher"),
    ("evidence", Everywhere, "the window is over by a record"),
    ("lost window", Everywhere, "dead-lettered window"),
    ("lost windows", Everywhere, "dead-lettered windows"),
    ("is lost", Identifiers, "dead-lettered, no webhook, revoked"),
    ("is ours", Identifiers, "confirm_ownership"),
    ("patience", Names, "revoke_deadline, a timeout's name"),
    ("Refusal", Names, "DisconnectReason"),
    ("max packet bytes", Identifiers, "max_payload_bytes"),
    ("made anew", Everywhere, "recreated"),
    ("Surroundings", Names, "Context"),
    ("Cases", Names, "HeaderCaseCache"),
    ("Look", Names, "ExpiryCheck"),
    ("Ended", Names, "AttemptResult"),
    ("Told", Names, "LogOnChange"),
    ("Place", Names, "a name each"),
    ("Progress", Names, "Checkpoint"),
];

/// Words that hide the subject of a sentence, and how such a sentence is written.
const WITHOUT_A_SUBJECT: [&str; 3] = ["nobody", "somebody", "whoever"];

/// Words that are retired only in some crates or files. Elsewhere they have their usual sense, such as HTTP's head.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("head", &["crates/deliver/src/core", "crates/deliver/src/partition", "crates/queue/src/lib.rs"]),
    ("the head", &["crates/deliver/src/core", "crates/deliver/src/partition", "crates/queue/src", "docs", "README.md", "ARCHITECTURE.md"]),
    ("taken", &["crates/deliver/src/core"]),
    ("listed", &["crates/deliver/src"]),
    ("turn", &["crates/deliver/src"]),
    ("patience", &["crates/queue/src"]),
    ("Refusal", &["crates/ingest"]),
    ("Gone", &["crates/deliver/src"]),
    ("is lost", &["crates/deliver/src/core"]),
    ("is ours", &["crates/deliver/src", "crates/queue/src"]),
    ("slot", &["crates/deliver/src/core", "crates/deliver/src/partition", "docs"]),
];

/// Uses in another sense: the words in their phrase, and the beginning of the paths that may contain it.
const OTHER_SENSE: &[(&str, &str)] = &[("progress", "crates/queue/src/kafka/partition.rs")];

/// Files that name retired words because they are about them.
const ABOUT_WORDS: [&str; 1] = ["xtask/tests/repository/words.rs"];

/// File names that were retired with their words.
const RETIRED_FILES: [&str; 12] = [
    "pushline/src/wishes.rs",
    "pushline/src/answer.rs",
    "pushline/src/files.rs",
    "pushline/src/config/show.rs",
    "ingest/src/answers.rs",
    "ingest/src/sessions.rs",
    "/room.rs",
    "/pace.rs",
    "/sweeps.rs",
    "/burying.rs",
    "/outlets.rs",
    "/destination.rs",
];

/// Documents of the drawing board, without their `.md`: the repository's own documents replace them.
const FOREIGN_DOCUMENTS: [&str; 7] = ["DESIGN", "LANES", "L6", "NAMES", "STYLE", "OPERATE", "CONSOLE"];

/// A word of a text, in lower case, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    word: String,
    line: usize,
}

/// Splits identifiers and texts into words: at everything but letters and digits, and where a small letter meets a capital.
fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut word = String::new();
        let mut was_small = false;
        for letter in line.chars().chain([' ']) {
            if !word.is_empty() && (!letter.is_alphanumeric() || was_small && letter.is_uppercase()) {
                words.push(Word { word: std::mem::take(&mut word).to_lowercase(), line: number + 1 });
            }
            if letter.is_alphanumeric() {
                word.push(letter);
            }
            was_small = letter.is_lowercase() || letter.is_ascii_digit();
        }
    }
    words
}

/// The code of a file, with empty lines for the rest: Rust without comments and strings, a document's parts between backticks.
fn identifiers(file: &Text) -> String {
    let document = |line: &str| line.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(" ; ");
    let rust = |line: &str| {
        let (code, comment) = line.split_once("//").unwrap_or((line, ""));
        format!("{} ; {}", code.split('"').step_by(2).collect::<Vec<_>>().join(" ; "), document(comment))
    };
    let lines = file.text.lines().map(|line| if file.has_extension("md") { document(line) } else { rust(line) });
    lines.collect::<Vec<_>>().join("\n")
}

/// The sentences of a file, with empty lines for the rest: a document without its code; Rust's comments and, above the tests, its texts.
fn sentences(file: &Text) -> String {
    let document = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join(" ; ");
    let mut is_test = file.path.contains("/tests/");
    let mut rust = |line: &str| {
        is_test |= line.starts_with("#[cfg(test)]");
        let (code, comment) = line.split_once("//").unwrap_or((line, ""));
        // A text without a space is a name, such as a test's.
        let texts = code.split('"').skip(1).step_by(2).filter(|text| !is_test && text.contains(' '));
        texts.chain([document(comment).as_str()]).collect::<Vec<_>>().join(" ; ")
    };
    let lines = file.text.lines().map(|line| if file.has_extension("md") { document(line) } else { rust(line) });
    lines.collect::<Vec<_>>().join("\n")
}

/// A file, split once for all retired words.
struct Split {
    path: String,
    is_code: bool,
    words: Vec<Word>,
    identifiers: String,
    identifier_words: Vec<Word>,
}

impl Split {
    fn new(file: &Text) -> Self {
        let identifiers = identifiers(file);
        let (words, identifier_words) = (words(&file.text), words(&identifiers));
        Self { path: file.path.clone(), is_code: file.has_extension("rs"), words, identifiers, identifier_words }
    }
}

/// The lines in which the words stand, one after the other.
fn lines_with(words: &[Word], wanted: &str) -> Vec<usize> {
    let wanted: Vec<&str> = wanted.split(' ').collect();
    let is_it = |window: &&[Word]| window.iter().map(|word| word.word.as_str()).eq(wanted.iter().copied());
    words.windows(wanted.len()).filter(is_it).map(|window| window[0].line).collect()
}

/// The lines in which an identifier of exactly this name stands.
fn lines_with_name(code: &str, name: &str) -> Vec<usize> {
    let has =
        |line: &str| line.contains(name) && line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == name);
    code.lines().enumerate().filter(|(_, line)| has(line)).map(|(number, _)| number + 1).collect()
}

/// Where a file contains a retired word, and what replaces it.
fn found(file: &Split, (word, place, instead): Retired) -> Vec<String> {
    let only_in = ONLY_IN.iter().find(|(only, _)| *only == word).map(|(_, paths)| paths);
    if only_in.is_some_and(|paths| !paths.iter().any(|path| file.path.starts_with(path))) {
        return Vec::new();
    }
    let lines = match place {
        Everywhere => lines_with(&file.words, word),
        Identifiers => lines_with(&file.identifier_words, word),
        Names if file.is_code => lines_with_name(&file.identifiers, word),
        Names => Vec::new(),
    };
    let is_excused = |line: &usize| {
        let mut phrases = OTHER_SENSE
            .iter()
            .filter(|(phrase, path)| file.path.starts_with(path) && (*phrase == word || phrase.starts_with(&format!("{word} "))));
        phrases.any(|(phrase, _)| *phrase == word || lines_with(&file.words, phrase).contains(line))
    };
    let lines = lines.into_iter().filter(|line| !is_excused(line));
    lines.map(|line| format!("{}:{line}: {word:?}: write {instead}", file.path)).collect()
}

fn checked() -> Vec<Text> {
    texts().into_iter().filter(|file| !ABOUT_WORDS.contains(&file.path.as_str())).collect()
}

#[test]
fn no_retired_word_comes_back() {
    let files: Vec<Split> = checked().iter().map(Split::new).collect();
    let back: Vec<String> = RETIRED.iter().flat_map(|&retired| files.iter().flat_map(move |file| found(file, retired))).collect();
    assert!(back.is_empty(), "{} times:\n{}", back.len(), back.join("\n"));
}

/// Where a sentence of a file has a word in place of its subject.
fn subjectless(file: &Text) -> Vec<String> {
    let is_it = |word: &Word| WITHOUT_A_SUBJECT.contains(&word.word.as_str());
    let hits = words(&sentences(file)).into_iter().filter(is_it);
    hits.map(|word| format!("{}:{}: {:?}: name the part of the system, or the person", file.path, word.line, word.word)).collect()
}

#[test]
fn every_sentence_names_its_subject() {
    let prose = checked().into_iter().filter(|file| file.has_extension("md") || file.has_extension("rs"));
    let found: Vec<String> = prose.flat_map(|file| subjectless(&file)).collect();
    assert!(found.is_empty(), "{} times:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_word_in_place_of_a_subject_is_found_in_sentences_and_not_in_names() {
    let found = |path: &str, text: &str| subjectless(&Text { path: path.into(), text: text.into() }).len();
    assert_eq!(found("a.md", "Whoever reads it. `nobody`"), 1);
    assert_eq!(found("a/src/a.rs", "//! Nobody does.\nlet nobody = \"somebody does\"; // `whoever`\n"), 2);
    assert_eq!(found("a/src/a.rs", "#[cfg(test)]\n// nobody\nlet a = \"nobody\";"), 1);
    assert_eq!(found("a/tests/a.rs", "publish(\"nobody/1\")"), 0);
}

#[test]
fn no_file_has_a_retired_name() {
    let back: Vec<String> = checked()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.starts_with("crates/") && RETIRED_FILES.iter().any(|name| path.ends_with(name)))
        .collect();
    assert!(back.is_empty(), "{back:?}");
}

#[test]
fn no_file_names_a_document_that_is_not_in_the_repository() {
    let names = |file: &Text| FOREIGN_DOCUMENTS.iter().any(|document| file.text.contains(&format!("{document}.md")));
    let back: Vec<String> = checked().into_iter().filter(names).map(|file| file.path).collect();
    assert!(back.is_empty(), "{back:?}");
}

/// The rules had the letter L before they moved into the repository.
#[test]
fn no_comment_names_a_rule_by_its_old_number() {
    let is_old = |word: &Word| word.word.strip_prefix('l').is_some_and(|number| matches!(number.parse(), Ok(1..=15)) && number.len() < 3);
    let code = checked().into_iter().filter(|file| file.has_extension("rs") || file.has_extension("py"));
    let back: Vec<String> = code
        .flat_map(|file| {
            let comments: Vec<&str> = file.text.lines().map(|line| line.split_once("//").map_or("", |(_, comment)| comment)).collect();
            words(&comments.join("\n")).into_iter().filter(is_old).map(|word| format!("{}:{}", file.path, word.line)).collect::<Vec<_>>()
        })
        .collect();
    assert!(back.is_empty(), "docs/delivery.md has D1 to D18:\n{}", back.join("\n"));
}

#[test]
fn a_retired_word_is_found_in_each_of_its_forms_and_in_no_other() {
    let file = |path: &str, text: &str| Split::new(&Text { path: path.into(), text: text.into() });
    let let_go = ("let go", Everywhere, "evict");
    for text in ["fn let_go() {}", "struct LetGo;", "// lanes let go\n", "a let-go lane"] {
        assert_eq!(found(&file("a.rs", text), let_go), ["a.rs:1: \"let go\": write evict"], "{text}");
    }
    assert!(found(&file("a.rs", "outlet going"), let_go).is_empty());
    let turn = ("turn", Identifiers, "slice");
    assert!(found(&file("crates/deliver/src/a.rs", "// to turn round\nlet a = \"turn\";"), turn).is_empty());
    assert_eq!(found(&file("crates/deliver/src/a.rs", "\nlet turn_of = 1; // `a` `begin_turn`"), turn).len(), 2);
    assert!(found(&file("crates/ingest/src/a.rs", "let turn = 1;"), turn).is_empty(), "it is retired in deliver only");
    let gone = ("Gone", Names, "Evicted");
    assert!(found(&file("crates/deliver/src/a.rs", "// Gone\nlet gone = Left;"), gone).is_empty());
    assert_eq!(found(&file("crates/deliver/src/a.rs", "State::Gone"), gone).len(), 1);
}
