//! Columns of text, as `kubectl` prints them: a header in capitals, two spaces between, no lines.

use std::borrow::Cow;

use comfy_table::{ContentArrangement, Table, presets};

/// Lays out rows below a header. Cells are cleaned; an empty one becomes `-`.
#[must_use]
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(
            row.iter()
                .map(|cell| if cell.is_empty() { "-".into() } else { clean(cell) }),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text that is safe on a terminal and stays on one line: a workload may have chosen a cgroup's name, so
/// control characters are shown escaped.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if bad(c) {
            cleaned.extend(c.escape_default());
        } else {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}
