//! A log's format as a list of fields with what stands between them, and the reader of its lines.
//!
//! White space in a format is any number of spaces and tabs in a line. How far a field reaches follows from what stands
//! behind it: a quote that white space follows, a mark, a word's end. What a line has behind its last field is kept as one
//! text.

use super::line::{Field, LogLine};
use super::strftime::Stamp;
use super::text::{closing_quote, is_space, skip_space, word};
use super::time;

/// A format, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The format as it was given.
    text: Box<str>,
    /// What stands in front of the first field.
    lead: Literal,
    pieces: Box<[Piece]>,
    /// A line may end before this field and those behind it.
    optional_from: usize,
}

/// A field and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    field: Field,
    behind: Literal,
}

/// A text between fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Literal(Box<[Mark]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    Space,
    Text(Box<str>),
}

/// A part of a format while it is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Text(String),
    /// A field, and as what it stands in the format: place (in characters, from 1) and text.
    Field(Field, usize, String),
}

/// Why a text is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Problem(pub(super) String);

impl Layout {
    /// Compiles the parts of a format; `text` is the format as it was given.
    pub(super) fn new(text: &str, tokens: Vec<Token>) -> Result<Layout, Problem> {
        let mut lead = String::new();
        let mut pieces: Vec<(Field, usize, String, String)> = Vec::new();
        for token in tokens {
            match token {
                Token::Text(between) => pieces.last_mut().map_or(&mut lead, |(.., behind)| behind).push_str(&between),
                Token::Field(field, place, name) => {
                    if let Some((_, _, before, behind)) = pieces.last()
                        && behind.is_empty()
                    {
                        return Err(Problem(format!(
                            "at character {place}: nothing stands between {before} and {name}, so their values cannot be told \
                             apart; put a space or a mark between them in the server's configuration"
                        )));
                    }
                    pieces.push((field, place, name, String::new()));
                }
            }
        }
        let last = pieces.len().saturating_sub(1);
        for (row, (field, place, name, behind)) in pieces.iter().enumerate() {
            if matches!(field, Field::Agent | Field::Referrer)
                && row < last
                && behind.trim_matches([' ', '\t']).is_empty()
            {
                return Err(Problem(format!(
                    "at character {place}: {name} holds spaces, so nobody knows where it ends; put it in quotes in the server's \
                     configuration"
                )));
            }
        }
        let pieces: Box<[Piece]> =
            pieces.into_iter().map(|(field, _, _, behind)| Piece { field, behind: Literal::new(&behind) }).collect();
        let optional_from = pieces.len();
        Ok(Layout { text: text.into(), lead: Literal::new(&lead), pieces, optional_from })
    }

    /// The same, where a line may end before the field of this number.
    pub(super) fn ending_from(self, optional_from: usize) -> Layout {
        Layout { optional_from, ..self }
    }

    /// The format as it was given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.pieces.iter().map(|piece| &piece.field)
    }

    /// Reads a line; `None` if it does not match.
    pub(super) fn read<'a>(&self, line: &'a str, out: &mut LogLine<'a>) -> Option<()> {
        let mut rest = self.lead.pass(line)?;
        for (row, piece) in self.pieces.iter().enumerate() {
            if row >= self.optional_from && rest.is_empty() {
                return Some(());
            }
            let (value, behind) = piece.take(rest, row >= self.optional_from)?;
            out.set(&piece.field, value.into())?;
            rest = match piece.behind.pass(behind) {
                Some(passed) => passed,
                None if row + 1 >= self.optional_from && behind.is_empty() => "",
                None => return None,
            };
        }
        if !rest.is_empty() {
            if !rest.starts_with([' ', '\t']) && !matches!(self.pieces.last()?.behind.0.last(), Some(Mark::Space)) {
                return None;
            }
            out.keep("rest".into(), rest.trim_matches([' ', '\t']).into());
        }
        Some(())
    }
}

impl Literal {
    fn new(text: &str) -> Literal {
        let mut marks = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let spaces = rest.len() - skip_space(rest).len();
            if spaces > 0 {
                marks.push(Mark::Space);
                rest = &rest[spaces..];
                continue;
            }
            let end = rest.bytes().position(is_space).unwrap_or(rest.len());
            marks.push(Mark::Text(rest[..end].into()));
            rest = &rest[end..];
        }
        Literal(marks.into())
    }

    /// What follows the literal that a text begins with.
    fn pass<'a>(&self, text: &'a str) -> Option<&'a str> {
        let mut rest = text;
        for one in &self.0 {
            rest = match one {
                // At the end of a line white space may be missing.
                Mark::Space if rest.is_empty() => rest,
                Mark::Space => Some(skip_space(rest)).filter(|behind| behind.len() < rest.len())?,
                Mark::Text(mark) => rest.strip_prefix(&**mark)?,
            };
        }
        Some(rest)
    }
}

impl Piece {
    /// The field's text, and what follows it. `open`: the line may end with it.
    fn take<'a>(&self, text: &'a str, open: bool) -> Option<(&'a str, &'a str)> {
        let end = match &*self.behind.0 {
            [] => self.last_end(text)?,
            [Mark::Text(mark), ..] if mark.starts_with('"') => closing_quote(text, mark.bytes().nth(1))?,
            [Mark::Text(mark), ..] => self.end_before(text, mark)?,
            [Mark::Space] => self.word_end(text)?,
            [Mark::Space, ..] if open => self.end_before_literal(text).or_else(|| self.word_end(text))?,
            [Mark::Space, ..] => self.end_before_literal(text)?,
        };
        Some(text.split_at(end))
    }

    /// Where the last field of a line ends.
    fn last_end(&self, text: &str) -> Option<usize> {
        match self.field {
            Field::Status | Field::Bytes | Field::Method | Field::Protocol | Field::Other(_) | Field::Skip => {
                self.word_end(text)
            }
            _ => Some(text.trim_end_matches([' ', '\t']).len()),
        }
    }

    /// Where a field ends that a mark follows.
    fn end_before(&self, text: &str, mark: &str) -> Option<usize> {
        if mark.starts_with(':') && self.field == Field::Address {
            // Colons are part of IPv6 addresses; the last one stands before the port.
            let (word, _) = word(text)?;
            return word.rfind(mark);
        }
        text.find(mark)
    }

    /// Where a field ends that white space and then a mark follow; the field may have spaces.
    fn end_before_literal(&self, text: &str) -> Option<usize> {
        let mut from = 0;
        loop {
            let at = from + memchr::memchr2(b' ', b'\t', text.as_bytes().get(from..)?)?;
            if self.behind.pass(&text[at..]).is_some() {
                return Some(at);
            }
            // The literal begins with white space: what failed here fails at each of the spaces that follow.
            from = text.len() - skip_space(&text[at..]).len();
        }
    }

    /// Where a field ends that white space follows: a word, or what is known to have spaces.
    fn word_end(&self, text: &str) -> Option<usize> {
        let words = |count: usize| {
            let mut rest = text;
            for row in 0..count {
                rest = word(if row > 0 { skip_space(rest) } else { rest })?.1;
            }
            Some(text.len() - rest.len())
        };
        match &self.field {
            Field::Time => (1..=3).rev().filter_map(words).find(|end| time::parse(&text[..*end]).is_some()),
            Field::Stamp(Stamp { words: count, .. }) => words(*count),
            Field::Request if !text.starts_with('-') => {
                let protocol = text.find(" HTTP/")? + 1;
                Some(protocol + word(&text[protocol..])?.0.len())
            }
            Field::Address | Field::Forwarded => {
                let mut end = words(1)?;
                while text[..end].ends_with(',') {
                    let behind = skip_space(&text[end..]);
                    end = text.len() - behind.len() + word(behind)?.0.len();
                }
                Some(end)
            }
            _ => words(1),
        }
    }
}
