//! A table as bars with whiskers, in SVG by hand.

use std::fmt::Write as _;

use super::Table;

const WIDTH: f64 = 900.0;
const LABELS: f64 = 330.0;
const LINE: f64 = 26.0;
const TOP: f64 = 56.0;
/// Room for the number behind a bar.
const NUMBERS: f64 = 190.0;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The charted column, one bar for each row.
pub fn bars(table: &Table) -> String {
    let rows: Vec<_> = table
        .rows
        .iter()
        .filter_map(|row| {
            let cell = row.cells.get(table.charted).copied().flatten()?;
            cell.value.is_finite().then_some((row.name.as_str(), cell))
        })
        .collect();
    let longest = rows
        .iter()
        .map(|(_, cell)| cell.high.max(cell.value))
        .fold(f64::MIN_POSITIVE, f64::max);
    let place = |value: f64| LABELS + value.max(0.0) / longest * (WIDTH - LABELS - NUMBERS);
    let height = TOP + LINE * rows.len() as f64 + 14.0;
    let column = table.columns.get(table.charted).map_or("", String::as_str);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"16\">{}</text>\n<text x=\"12\" y=\"42\" fill=\"#555\">{}</text>\n",
        escaped(&table.title),
        escaped(column)
    );
    for (number, (name, cell)) in rows.iter().enumerate() {
        let y = TOP + LINE * number as f64;
        let (start, end) = (place(0.0), place(cell.value));
        let (low, high) = (place(cell.low), place(cell.high));
        let middle = y + 9.0;
        let colour = if name.contains("segd") {
            "#2563a8"
        } else {
            "#9aa5b1"
        };
        let _ = write!(
            out,
            "<text x=\"{x}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{start}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
             <path d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {a}v8M{high:.1} {a}v8\" stroke=\"#111\" fill=\"none\"/>\n\
             <text x=\"{beside:.1}\" y=\"{text}\" fill=\"#333\">{cell}</text>\n",
            x = LABELS - 8.0,
            text = y + 14.0,
            name = escaped(name),
            width = (end - start).max(0.5),
            a = middle - 4.0,
            beside = high.max(end) + 8.0,
        );
    }
    out + "</svg>\n"
}
