//! Where each line begins: two columns for each list and mapping that it is in.

use super::{
    Refusal,
    line::{Content, Line, Remark, Written},
};

/// The lines in canonical form.
pub fn layout(lines: &[Line]) -> Result<String, Refusal> {
    let mut page = Page {
        pending: true,
        ..Page::default()
    };
    for line in lines {
        match line {
            Line::Blank | Line::Comment(..) => page.waiting.push(line),
            Line::Document(remark) => {
                page.write_waiting(None);
                page.out.push_str("---");
                page.end(remark.as_ref());
                page.open.clear();
                page.pending = true;
            }
            Line::Content(content) => page.content(content)?,
        }
    }
    page.write_waiting(None);
    let text = page.out.trim_matches('\n');
    Ok(if text.is_empty() {
        String::new()
    } else {
        format!("{text}\n")
    })
}

/// A list or mapping in block style that goes on.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// The column where it stood.
    was: usize,
    /// The column where it stands.
    is: usize,
    list: bool,
}

#[derive(Default)]
struct Page<'l> {
    out: String,
    open: Vec<Open>,
    /// The last line left its value to the next one.
    pending: bool,
    /// Comments and blank lines that wait for what comes after them.
    waiting: Vec<&'l Line>,
}

impl Page<'_> {
    fn content(&mut self, content: &Content) -> Result<(), Refusal> {
        let before = self.open.clone();
        let first = content.dashes.first().copied().unwrap_or(content.column);
        let mut begin = None;
        for dash in &content.dashes {
            let column = self.place(content, *dash, true)?;
            begin = begin.or(Some(column));
            self.pending = true;
        }
        let mut column = self.open.last().map_or(0, |open| open.is + 2);
        if content.key.is_some() {
            column = self.place(content, content.column, false)?;
        } else if content.dashes.is_empty() && !self.pending {
            return refuse(content, "a text over several lines stands here; write it on one");
        }
        let begin = begin.unwrap_or(column);
        let after = std::mem::replace(&mut self.open, before);
        self.write_waiting(Some((first, begin)));
        self.open = after;
        self.out.push_str(&" ".repeat(begin));
        let dashes = vec!["-"; content.dashes.len()].join(" ");
        let value = content.value.as_ref().map(|value| match value {
            Written::Scalar(text) => text.clone(),
            Written::Flow(flow) => flow.write(column, column + if content.key.is_some() { 2 } else { 0 }),
        });
        let key = content.key.as_ref().map(|key| format!("{key}:"));
        let parts = [Some(dashes).filter(|dashes| !dashes.is_empty()), key, value];
        self.out
            .push_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "));
        self.end(content.remark.as_ref());
        self.pending = content.value.is_none();
        Ok(())
    }

    /// The column of a dash or a key.
    fn place(&mut self, content: &Content, was: usize, list: bool) -> Result<usize, Refusal> {
        while self
            .open
            .last()
            .is_some_and(|open| open.was > was || (open.was == was && open.list && !list))
        {
            self.open.pop();
        }
        if let Some(open) = self
            .open
            .last()
            .filter(|open| open.was == was && open.list == list)
        {
            return Ok(open.is);
        }
        if !self.pending {
            return refuse(content, "a text over several lines stands here; write it on one");
        }
        let is = self.open.last().map_or(0, |open| open.is + 2);
        self.open.push(Open { was, is, list });
        Ok(is)
    }

    /// Comments and blank lines before a line, which begins in the second column instead of the first.
    fn write_waiting(&mut self, next: Option<(usize, usize)>) {
        for line in std::mem::take(&mut self.waiting) {
            let Line::Comment(column, text) = line else {
                // One blank line is as good as many.
                if !self.out.is_empty() && !self.out.ends_with("\n\n") {
                    self.out.push('\n');
                }
                continue;
            };
            let beside = self
                .open
                .iter()
                .rev()
                .find(|open| open.was == *column)
                .map(|open| open.is);
            let column = match next {
                Some((was, is)) if was == *column => is,
                Some((_, is)) => beside.unwrap_or(is),
                None => beside.unwrap_or(0),
            };
            self.out.push_str(&" ".repeat(column));
            self.out.push_str(text);
            self.out.push('\n');
        }
    }

    fn end(&mut self, remark: Option<&Remark>) {
        if let Some((gap, text)) = remark {
            self.out.push_str(&" ".repeat(*gap));
            self.out.push_str(text);
        }
        self.out.push('\n');
    }
}

fn refuse<T>(content: &Content, what: &'static str) -> Result<T, Refusal> {
    let line = content.number;
    Err(Refusal { line, what })
}
