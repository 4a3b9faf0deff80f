//! What stands on each line: dashes, a key, a value, a comment.

use std::collections::BTreeMap;

use super::{
    Refusal,
    flow::{Flow, Token},
    order,
};
use crate::policy::document::tree::Node;

/// A line, or several if a list or mapping in brackets goes on over them.
#[derive(Debug)]
pub enum Line {
    /// Nothing.
    Blank,
    /// Only a comment, and in which column.
    Comment(usize, String),
    /// `---`, and what stands behind it.
    Document(Option<Remark>),
    /// Something.
    Content(Content),
}

/// A comment behind something, and how far from it.
pub type Remark = (usize, String);

/// What a line says.
#[derive(Debug, Default)]
pub struct Content {
    /// The line, from 1.
    pub number: usize,
    /// The columns of dashes.
    pub dashes: Vec<usize>,
    /// The column of what follows them.
    pub column: usize,
    /// A key.
    pub key: Option<String>,
    /// A value.
    pub value: Option<Written>,
    /// A comment.
    pub remark: Option<Remark>,
}

/// How a value is written.
#[derive(Debug)]
pub enum Written {
    /// On one line.
    Scalar(String),
    /// In brackets.
    Flow(Flow),
}

/// The lines of a text.
pub fn lines(text: &str, ranks: &BTreeMap<usize, usize>) -> Result<Vec<Line>, Refusal> {
    let mut reader = Reader { text, at: 0, ranks };
    let mut lines = Vec::new();
    while reader.at < text.len() {
        lines.push(reader.line()?);
    }
    Ok(lines)
}

/// Every comment of a text, if it can be read.
pub fn comments(text: &str, nodes: &[Node]) -> Option<Vec<String>> {
    let lines = lines(text, &order::ranks(nodes)).ok()?;
    let mut found = Vec::new();
    for line in lines {
        match line {
            Line::Blank => {}
            Line::Comment(_, text) => found.push(text),
            Line::Document(remark) => found.extend(remark.map(|(_, text)| text)),
            Line::Content(content) => {
                if let Some(Written::Flow(flow)) = &content.value {
                    found.extend(flow.comments().map(str::to_owned));
                }
                found.extend(content.remark.map(|(_, text)| text));
            }
        }
    }
    Some(found)
}

/// What begins something that is not kept.
const UNKEPT: [(char, &str); 8] = [
    ('&', "an anchor stands here; write out what it stands for"),
    ('*', "an alias stands here; write out what it stands for"),
    ('!', "a tag stands here; take it out"),
    ('|', "a text over several lines stands here; write it on one"),
    ('>', "a text over several lines stands here; write it on one"),
    ('%', "a directive stands here; take it out"),
    ('@', "a reserved character stands here; put the text in quotes"),
    ('`', "a reserved character stands here; put the text in quotes"),
];

struct Reader<'t> {
    text: &'t str,
    at: usize,
    ranks: &'t BTreeMap<usize, usize>,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn refuse<T>(&self, what: &'static str) -> Result<T, Refusal> {
        let before = self.text.get(..self.at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Err(Refusal { line, what })
    }

    /// Whether the line ends here, a carriage return before its end aside.
    fn at_end(&self) -> bool {
        let rest = self.rest();
        rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n")
    }

    fn step_over_end(&mut self) {
        let rest = self.rest();
        self.at += if rest.starts_with("\r\n") {
            2
        } else {
            usize::from(!rest.is_empty())
        };
    }

    /// Steps over spaces; tells how many.
    fn spaces(&mut self) -> Result<usize, Refusal> {
        let rest = self.rest();
        let count = rest.len() - rest.trim_start_matches(' ').len();
        self.at += count;
        // Behind everything else a tab is as invisible as it is harmless.
        let blank = self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        if self.next() == Some('\t') {
            self.at += blank;
            if !self.at_end() {
                return self.refuse("a tab stands here; use spaces");
            }
        }
        Ok(count)
    }

    fn line(&mut self) -> Result<Line, Refusal> {
        let start = self.at;
        let line = self.rest().lines().next().unwrap_or_default();
        if let Some(behind) = line
            .strip_prefix("---")
            .filter(|behind| behind.is_empty() || behind.starts_with(' '))
        {
            self.at += line.len() - behind.len();
            let gap = self.spaces()?;
            let remark = self.remark(gap)?;
            return Ok(Line::Document(remark));
        }
        if line == "..." || line.starts_with("... ") {
            return self.refuse("the end of a document is marked here; begin the next one with `---`");
        }
        let column = self.spaces()?;
        if self.at_end() {
            self.step_over_end();
            return Ok(Line::Blank);
        }
        if self.next() == Some('#') {
            let text = self.comment();
            self.step_over_end();
            return Ok(Line::Comment(column, text));
        }
        let mut content = Content {
            number: self.text.get(..start).unwrap_or_default().matches('\n').count() + 1,
            ..Content::default()
        };
        let mut gap = 0;
        while self.is_indicator('-') {
            content.dashes.push(self.at - start);
            self.at += 1;
            gap = self.spaces()?;
        }
        content.column = self.at - start;
        if !self.at_end() && self.next() != Some('#') {
            let written = self.node()?;
            gap = self.spaces()?;
            if self.is_indicator(':') {
                let Written::Scalar(key) = written else {
                    return self.refuse("a list or mapping is a key here");
                };
                content.key = Some(key);
                self.at += 1;
                gap = self.spaces()?;
                if !self.at_end() && self.next() != Some('#') {
                    content.value = Some(self.node()?);
                    gap = self.spaces()?;
                }
            } else {
                content.value = Some(written);
            }
        }
        content.remark = self.remark(gap)?;
        Ok(Line::Content(content))
    }

    /// A dash, a colon or a question mark that is none of a word.
    fn is_indicator(&self, mark: char) -> bool {
        let Some(behind) = self.rest().strip_prefix(mark) else {
            return false;
        };
        behind.is_empty() || behind.starts_with([' ', '\t', '\n']) || behind.starts_with("\r\n")
    }

    /// A comment, to the end of its line.
    fn comment(&mut self) -> String {
        let line = self.rest().lines().next().unwrap_or_default();
        self.at += line.len();
        line.trim_end().to_owned()
    }

    /// What may stand behind a value: a comment, or nothing.
    fn remark(&mut self, gap: usize) -> Result<Option<Remark>, Refusal> {
        let remark = match self.next() {
            Some('#') if gap > 0 => Some((gap, self.comment())),
            _ => None,
        };
        if !self.at_end() {
            return self
                .refuse("something stands here that segd does not format; write it on a line of its own");
        }
        self.step_over_end();
        Ok(remark)
    }

    /// A value or a key.
    fn node(&mut self) -> Result<Written, Refusal> {
        match self.next() {
            Some('{' | '[') => self.flow().map(Written::Flow),
            _ => self.scalar(false).map(Written::Scalar),
        }
    }

    /// A scalar on one line, inside of brackets or not.
    fn scalar(&mut self, inside: bool) -> Result<String, Refusal> {
        if let Some(quote @ ('"' | '\'')) = self.next() {
            return self.quoted(quote);
        }
        if let Some((_, what)) = UNKEPT.iter().find(|(mark, _)| self.next() == Some(*mark)) {
            return self.refuse(what);
        }
        if self.is_indicator('?') || self.is_indicator('-') || self.is_indicator(':') {
            return self
                .refuse("something stands here that segd does not format; write it on a line of its own");
        }
        let rest = self.rest();
        let mut end = 0;
        let mut before = 'x';
        for (at, letter) in rest.char_indices() {
            let behind = rest
                .get(at + letter.len_utf8()..)
                .and_then(|behind| behind.chars().next());
            let over = match letter {
                '\n' => true,
                '\r' if behind == Some('\n') => true,
                '\r' => return self.refuse("a carriage return stands here"),
                '#' => matches!(before, ' ' | '\t'),
                ':' => match behind {
                    None | Some(' ' | '\t' | '\n' | '\r') => true,
                    Some(',' | '[' | ']' | '{' | '}') => inside,
                    Some(_) => false,
                },
                ',' | '[' | ']' | '{' | '}' => inside,
                _ => false,
            };
            if over {
                break;
            }
            end = at + letter.len_utf8();
            before = letter;
        }
        let text = rest.get(..end).unwrap_or_default().trim_end_matches([' ', '\t']);
        self.at += text.len();
        if text.starts_with("---") || text.starts_with("...") {
            return self.refuse("a text begins like the mark of a document here; put it in quotes");
        }
        match text.is_empty() {
            true => self.refuse("something stands here that segd does not format"),
            false => Ok(text.to_owned()),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, Refusal> {
        let rest = self.rest();
        let mut letters = rest.char_indices().skip(1).peekable();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\n' => return self.refuse("a text over several lines stands here; write it on one"),
                '\\' if quote == '"' => drop(letters.next()),
                '\'' if quote == '\'' && letters.peek().is_some_and(|(_, next)| *next == '\'') => {
                    letters.next();
                }
                _ if letter == quote => {
                    self.at += at + 1;
                    let text = rest.get(..=at).unwrap_or_default();
                    let inside = text.trim_matches('\'');
                    // Where both kinds of quotes say the same, it is these.
                    let plain = quote == '\'' && !inside.contains(['\'', '"', '\\']);
                    return Ok(if plain {
                        format!("\"{inside}\"")
                    } else {
                        text.to_owned()
                    });
                }
                _ => {}
            }
        }
        self.refuse("a text over several lines stands here; write it on one")
    }

    /// Whether a colon inside of brackets stands between a key and its value, and is not how an address begins.
    fn ends_key(&self, before: Option<&Token>) -> bool {
        let behind = self.rest().chars().nth(1);
        let alone = matches!(
            behind,
            None | Some(' ' | '\t' | '\n' | '\r' | ',' | '[' | ']' | '{' | '}')
        );
        let clear = match before {
            Some(Token::Scalar(text, _)) => text.starts_with(['"', '\'']),
            before => matches!(before, Some(Token::Close(_))),
        };
        alone || clear
    }

    /// A list or mapping in brackets, to its end.
    fn flow(&mut self) -> Result<Flow, Refusal> {
        let mut flow = Flow::default();
        let mut depth = 0_usize;
        loop {
            let gap = self.spaces()?;
            if self.at_end() {
                if self.rest().is_empty() {
                    return self.refuse("a bracket is not closed");
                }
                self.step_over_end();
                flow.tokens.push(Token::Break);
                continue;
            }
            let mark = self.next().unwrap_or_default();
            let token = match mark {
                '{' | '[' => {
                    depth += 1;
                    Token::Open(mark)
                }
                '}' | ']' => {
                    depth = depth.saturating_sub(1);
                    Token::Close(mark)
                }
                ',' => Token::Comma,
                ':' if self.ends_key(flow.tokens.last()) => Token::Colon,
                '#' => {
                    let text = self.comment();
                    flow.tokens.push(Token::Comment(gap, text));
                    continue;
                }
                _ => {
                    if matches!(
                        flow.tokens.iter().rfind(|token| **token != Token::Break),
                        Some(Token::Scalar(..))
                    ) {
                        return self.refuse("a text over several lines stands here; write it on one");
                    }
                    let rank = self.ranks.get(&self.at).copied();
                    let text = self.scalar(true)?;
                    flow.tokens.push(Token::Scalar(text, rank));
                    continue;
                }
            };
            self.at += 1;
            flow.tokens.push(token);
            if depth == 0 {
                return Ok(flow);
            }
        }
    }
}
