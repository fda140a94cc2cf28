//! How the fields of a log line are written: `name=value`, with quotes only around a value that could be read in two ways without them. Whether the code
//! gives a text, a number or anything that displays itself makes no difference.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Writes the message, then each field.
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_begun: false, written: Ok(()) };
        fields.record(&mut line);
        line.written
    }
}

/// What is written so far.
struct Line<'writer> {
    writer: Writer<'writer>,
    is_begun: bool,
    written: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: &str) -> fmt::Result {
        let space = if std::mem::replace(&mut self.is_begun, true) { " " } else { "" };
        if field.name() == "message" {
            // What it quotes may come from a device or a server, and a terminal obeys control characters.
            self.writer.write_str(space)?;
            return value.chars().try_for_each(|character| self.write_visibly(character));
        }
        let (italic, dim, plain) = if self.writer.has_ansi_escapes() { ("\x1b[3m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        write!(self.writer, "{space}{italic}{}{plain}{dim}={plain}", field.name())?;
        if is_plain(value) { self.writer.write_str(value) } else { write!(self.writer, "{value:?}") }
    }

    fn write_visibly(&mut self, character: char) -> fmt::Result {
        if character.is_control() { write!(self.writer, "{}", character.escape_default()) } else { self.writer.write_char(character) }
    }
}

/// Whether a value can be told from the next field without quotes.
fn is_plain(value: &str) -> bool {
    let is_odd = |character: char| character.is_whitespace() || character.is_control() || matches!(character, '"' | '=');
    !value.is_empty() && !value.contains(is_odd)
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.written.is_ok() {
            self.written = self.write(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use crate::log::tests::logged;

    #[test]
    fn a_value_has_quotes_where_it_needs_them_whatever_its_type() {
        let log = logged(|| {
            tracing::info!(
                webhook = "w",
                shown = %"w",
                error = %"can't listen: \"a\"",
                cause = "it timed out",
                address = %"[::1]:80",
                count = 7,
                is_so = true,
                empty = "",
                pair = "a=b",
                absent = None::<u8>,
                "it \u{1b}[2Jfailed\n"
            );
        });
        let fields =
            r#"webhook=w shown=w error="can't listen: \"a\"" cause="it timed out" address=[::1]:80 count=7 is_so=true empty="" pair="a=b""#;
        assert!(log.ends_with(&format!("INFO it \\u{{1b}}[2Jfailed\\n {fields}\n")), "{log}");
    }
}
