//! What an expression of Prometheus names: selectors with their labels, and labels that it groups by. promtool checks the grammar; this reads only names.

/// A selector: `name{label="value"}`, and the function around it where its parenthesis opens directly before the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) name: String,
    pub(super) function: Option<String>,
    /// A label and the values that it is compared with; a pattern `a|b` has two.
    pub(super) matchers: Vec<(String, Vec<String>)>,
}

/// Words that are followed by labels in parentheses.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// Words, texts and single signs. Numbers with a unit (`[5m]`) are words that begin with a digit.
fn tokens(expression: &str) -> Vec<Token> {
    let (mut tokens, mut letters) = (Vec::new(), expression.chars().peekable());
    while let Some(letter) = letters.next() {
        let is_word = |letter: &char| letter.is_ascii_alphanumeric() || "_:.$".contains(*letter);
        if letter == '"' {
            let mut text = String::new();
            while let Some(next) = letters.next().filter(|next| *next != '"') {
                text.push(next);
            }
            tokens.push(Token::Text(text));
        } else if is_word(&letter) {
            let mut word = String::from(letter);
            while let Some(next) = letters.next_if(is_word) {
                word.push(next);
            }
            tokens.push(Token::Word(word));
        } else if !letter.is_whitespace() {
            tokens.push(Token::Sign(letter));
        }
    }
    tokens
}

fn is_metric(word: &str) -> bool {
    word == "up" || ["pushline_", "pushline:", "process_"].iter().any(|start| word.starts_with(start))
}

/// The selectors of Pushline's metrics.
pub(super) fn selectors(expression: &str) -> Vec<Selector> {
    let tokens = tokens(expression);
    let at = |place: usize| tokens.get(place);
    let mut found = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let Token::Word(name) = token else { continue };
        let in_braces = tokens[..place].iter().rev().find(|token| matches!(token, Token::Sign('{' | '}'))) == Some(&Token::Sign('{'));
        if !is_metric(name) || in_braces {
            continue;
        }
        let function = match place.checked_sub(2).map(|before| (&tokens[before], &tokens[place - 1])) {
            Some((Token::Word(function), Token::Sign('('))) => Some(function.clone()),
            _ => None,
        };
        let matchers = if at(place + 1) == Some(&Token::Sign('{')) { matchers(&tokens[place + 2..]) } else { Vec::new() };
        found.push(Selector { name: name.clone(), function, matchers });
    }
    found
}

/// Up to the closing brace: a label, signs such as `=~`, a text.
fn matchers(tokens: &[Token]) -> Vec<(String, Vec<String>)> {
    let (mut found, mut label) = (Vec::new(), None);
    for token in tokens.iter().take_while(|token| **token != Token::Sign('}')) {
        match (token, &label) {
            (Token::Word(word), _) => label = Some(word.clone()),
            (Token::Text(text), Some(label)) => {
                found.push((label.clone(), text.split('|').filter(|value| !value.contains(['.', '*', '+'])).map(str::to_owned).collect()))
            }
            _ => {}
        }
    }
    found
}

/// The labels in `by (…)` and the like.
pub(super) fn grouping_labels(expression: &str) -> Vec<String> {
    let tokens = tokens(expression);
    let mut found = Vec::new();
    for place in 0..tokens.len() {
        let Token::Word(word) = &tokens[place] else { continue };
        if !GROUPING.contains(&word.as_str()) || tokens.get(place + 1) != Some(&Token::Sign('(')) {
            continue;
        }
        let inside = tokens[place + 2..].iter().take_while(|token| **token != Token::Sign(')'));
        found.extend(inside.filter_map(|token| if let Token::Word(label) = token { Some(label.clone()) } else { None }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_found_with_their_function_and_matchers() {
        let found = selectors("sum by (job) (rate(pushline_a_total{job=\"pushline\",cause=~\"x|y\"}[5m])) > on (job) pushline:b");
        let matchers = vec![("job".to_owned(), vec!["pushline".to_owned()]), ("cause".to_owned(), vec!["x".to_owned(), "y".to_owned()])];
        let wanted = [
            Selector { name: "pushline_a_total".into(), function: Some("rate".into()), matchers },
            Selector { name: "pushline:b".into(), function: None, matchers: Vec::new() },
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn labels_that_an_expression_groups_by_are_found() {
        assert_eq!(grouping_labels("max by (a, b) (x) * on (c) group_left (d) y"), ["a", "b", "c", "d"]);
    }
}
