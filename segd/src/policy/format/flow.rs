//! Lists and mappings in brackets.

/// One of them, as it was read.
#[derive(Debug, Default)]
pub struct Flow {
    /// Everything in it, the brackets included.
    pub tokens: Vec<Token>,
}

/// A part of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Token {
    /// `{` or `[`.
    Open(char),
    /// `}` or `]`.
    Close(char),
    /// `,`.
    Comma,
    /// `:`.
    Colon,
    /// A text, and which field it is if it is a known one.
    Scalar(String, Option<usize>),
    /// A comment, and how far from what is before it.
    Comment(usize, String),
    /// The end of a line.
    Break,
}

impl Flow {
    /// The comments in it.
    pub fn comments(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Comment(_, text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// In canonical form. `base`: the column of the line's key or value; `least`: the lowest column of further lines.
    pub fn write(&self, base: usize, least: usize) -> String {
        let one_line = |token: &Token| !matches!(token, Token::Break | Token::Comment(..));
        if self.tokens.iter().all(one_line) {
            self.collection(&mut 0)
        } else {
            self.over_lines(base, least)
        }
    }

    /// The collection that begins at a token, with its known fields in order.
    fn collection(&self, at: &mut usize) -> String {
        let mut entries: Vec<(Option<usize>, String)> = Vec::new();
        let mut entry = (None, String::new());
        let open = match self.tokens.get(*at) {
            Some(Token::Open(open)) => *open,
            _ => '[',
        };
        *at += 1;
        while let Some(token) = self.tokens.get(*at) {
            match token {
                Token::Open(_) => {
                    entry.1.push_str(&self.collection(at));
                    continue;
                }
                Token::Close(close) => {
                    *at += 1;
                    if !entry.1.is_empty() {
                        entries.push(entry);
                    }
                    // Without a rank nothing is known of what may stand before what.
                    if open == '{' && entries.iter().all(|(rank, _)| rank.is_some()) {
                        entries.sort_by_key(|(rank, _)| *rank);
                    }
                    let entries: Vec<String> = entries.into_iter().map(|(_, text)| text).collect();
                    return format!("{open}{}{close}", entries.join(", "));
                }
                Token::Comma => entries.push(std::mem::take(&mut entry)),
                Token::Colon => match self.tokens.get(*at + 1) {
                    Some(Token::Comma | Token::Close(_)) => entry.1.push(':'),
                    _ => entry.1.push_str(": "),
                },
                Token::Scalar(text, rank) => {
                    if entry.1.is_empty() {
                        entry.0 = *rank;
                    }
                    entry.1.push_str(text);
                }
                Token::Comment(..) | Token::Break => {}
            }
            *at += 1;
        }
        String::new()
    }

    /// With the line breaks it has.
    fn over_lines(&self, base: usize, least: usize) -> String {
        let mut out = String::new();
        let mut depth = 0_usize;
        let mut last: Option<&Token> = None;
        for token in &self.tokens {
            if *token == Token::Break {
                last = Some(token);
                continue;
            }
            let closes = matches!(token, Token::Close(_));
            depth -= usize::from(closes && depth > 0);
            match (last, token) {
                (None, _) => {}
                (Some(Token::Break), _) => {
                    out.push('\n');
                    out.push_str(&" ".repeat((base + 2 * depth).max(least)));
                }
                (Some(_), Token::Comment(gap, _)) => out.push_str(&" ".repeat((*gap).max(1))),
                (Some(Token::Open(_)), _) | (Some(_), Token::Close(_) | Token::Comma | Token::Colon) => {}
                (Some(_), _) => out.push(' '),
            }
            match token {
                Token::Open(mark) | Token::Close(mark) => out.push(*mark),
                Token::Comma => out.push(','),
                Token::Colon => out.push(':'),
                Token::Scalar(text, _) | Token::Comment(_, text) => out.push_str(text),
                Token::Break => {}
            }
            depth += usize::from(matches!(token, Token::Open(_)));
            last = Some(token);
        }
        out
    }
}
