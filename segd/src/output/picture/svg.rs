//! The matrix: who starts on the left, towards whom on top. Fifty segments are as readable as five, and it prints.

use std::fmt::Write as _;

use super::{caption, groups};
use crate::policy::picture::Picture;

/// The side of a cell in a large picture.
const CELL: usize = 22;
/// In a small one, the ports are written into the cells.
const WIDE_CELL: usize = 132;
/// Up to so many peers a picture is small.
const SMALL: usize = 9;
/// The width of a letter, about.
const LETTER: usize = 7;

/// What the colours mean.
const LEGEND: &str = "rows start, columns are started towards: green the ports that are named, red every port, \
    blue members among themselves, grey not enforced, empty denied";

/// A picture for a report. It needs nothing but itself: no script, no font, no address.
#[must_use]
pub fn svg(picture: &Picture, title: &str) -> String {
    let count = picture.peers.len();
    let small = count <= SMALL;
    let (width, height) = if small { (WIDE_CELL, 34) } else { (CELL, CELL) };
    let longest = picture
        .peers
        .iter()
        .map(|peer| caption(peer).chars().count())
        .max()
        .unwrap_or(0);
    let group_width = picture
        .peers
        .iter()
        .filter_map(|peer| peer.group.as_ref())
        .map(|group| group.chars().count())
        .max()
        .unwrap_or(0);
    let (left, top) = (
        40 + LETTER * (longest + group_width),
        80 + if small { 24 } else { LETTER * longest },
    );
    let (right, bottom) = (left + width * count, top + height * count);
    // The legend has to fit, too.
    let sheet = (right + 24).max(16 + LETTER * LEGEND.len());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"16\" y=\"48\" fill=\"#555555\">{LEGEND}</text>\n",
        sheet,
        bottom + 24,
        sheet,
        bottom + 24,
        clean(title),
        clean(title)
    );
    let mut row = 0;
    for (number, (group, members)) in groups(picture).into_iter().enumerate() {
        let (y, tall) = (top + row * height, members.len() * height);
        let shade = if number % 2 == 0 { "#f4f6f8" } else { "#ffffff" };
        let _ = writeln!(
            out,
            "<rect x=\"8\" y=\"{y}\" width=\"{}\" height=\"{tall}\" fill=\"{shade}\"/>",
            right - 8
        );
        let _ = writeln!(
            out,
            "<text x=\"16\" y=\"{}\" fill=\"#555555\">{}</text>",
            y + height / 2 + 4,
            clean(group.unwrap_or("built in"))
        );
        row += members.len();
    }
    for (place, peer) in picture.peers.iter().enumerate() {
        let (x, y) = (left + place * width, top + place * height);
        let weight = if peer.group.is_none() { "normal" } else { "bold" };
        let name = clean(&caption(peer));
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"{weight}\">{name}</text>",
            left - 8,
            y + height / 2 + 4
        );
        let (middle, above) = (x + width / 2, top - 8);
        if small {
            let _ = writeln!(
                out,
                "<text x=\"{middle}\" y=\"{above}\" text-anchor=\"middle\" font-weight=\"{weight}\">{name}</text>"
            );
        } else {
            let _ = writeln!(
                out,
                "<text transform=\"translate({},{above}) rotate(-90)\" font-weight=\"{weight}\">{name}</text>",
                middle + 4
            );
        }
    }
    for ((from, to), ports) in &picture.arrows {
        cell(
            &mut out,
            picture,
            (*from, *to),
            ports,
            (left + to * width, top + from * height, width, height),
        );
    }
    for (from, to) in &picture.left_alone {
        let (x, y) = (left + to * width, top + from * height);
        let _ = writeln!(
            out,
            "<g><title>not enforced</title><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"3\" fill=\"#dddddd\"/></g>",
            x + 2,
            y + 2,
            width - 4,
            height - 4
        );
    }
    grid(&mut out, (left, top, right, bottom), (width, height));
    out.push_str("</svg>\n");
    out
}

/// One pair that may talk: dark where everything is open.
fn cell(
    out: &mut String,
    picture: &Picture,
    (from, to): (usize, usize),
    ports: &[String],
    place: (usize, usize, usize, usize),
) {
    let (x, y, width, height) = place;
    let name = |place: usize| picture.peers.get(place).map_or("", |peer| peer.name.as_str());
    let everything = ports.first().is_some_and(|port| port.starts_with("any"));
    let fill = match (from == to, everything) {
        (true, _) => "#c9d6df",
        (false, true) => "#d1495b",
        (false, false) => "#66a182",
    };
    let all = ports.join(", ");
    let _ = writeln!(
        out,
        "<g><title>{} → {}: {}</title><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"3\" fill=\"{fill}\"/>",
        clean(name(from)),
        clean(name(to)),
        clean(&all),
        x + 2,
        y + 2,
        width - 4,
        height - 4
    );
    if width > CELL {
        let room = (width - 12) / LETTER;
        let text = if all.chars().count() <= room {
            all
        } else {
            let cut: String = ports
                .first()
                .map(String::as_str)
                .unwrap_or_default()
                .chars()
                .take(room.saturating_sub(5))
                .collect();
            format!("{cut} +{}", ports.len().saturating_sub(1))
        };
        let ink = if fill == "#c9d6df" { "#222222" } else { "#ffffff" };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{}</text>",
            x + width / 2,
            y + height / 2 + 4,
            clean(&text)
        );
    }
    out.push_str("</g>\n");
}

fn grid(
    out: &mut String,
    (left, top, right, bottom): (usize, usize, usize, usize),
    (width, height): (usize, usize),
) {
    for x in (left..=right).step_by(width) {
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#d9d9d9\"/>"
        );
    }
    for y in (top..=bottom).step_by(height) {
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" stroke=\"#d9d9d9\"/>"
        );
    }
}

/// Text for XML.
fn clean(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
