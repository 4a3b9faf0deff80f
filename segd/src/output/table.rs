//! Columns of text, as `kubectl` prints them: a header in capitals, two spaces between, no lines.

use comfy_table::{ContentArrangement, Table, presets};

pub use crate::policy::diagnostic::clean;

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
