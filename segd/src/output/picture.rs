//! Pictures of a policy: DOT and Mermaid for graphs that others lay out, SVG as a matrix, which stays readable.

mod svg;

pub use svg::svg;

use crate::policy::picture::{Peer, Picture};

/// The most ports that are written beside an arrow.
const MOST_PORTS: usize = 4;

/// For Graphviz.
#[must_use]
pub fn dot(picture: &Picture) -> String {
    let mut out = String::from(
        "digraph policy {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    for (number, (group, members)) in groups(picture).into_iter().enumerate() {
        let titled = group.is_some_and(|group| !group.is_empty());
        if titled {
            out.push_str(&format!(
                "  subgraph cluster_{number} {{\n    label={};\n",
                quoted(group.unwrap_or_default())
            ));
        }
        for (_, peer) in members {
            let style = match (&peer.group, peer.audit) {
                (None, _) => ", style=filled, fillcolor=\"#eeeeee\"",
                (_, true) => ", style=\"rounded,dashed\"",
                _ => "",
            };
            let indent = if titled { "    " } else { "  " };
            out.push_str(&format!(
                "{indent}{} [label={}{style}];\n",
                quoted(&peer.name),
                quoted(&caption(peer))
            ));
        }
        if titled {
            out.push_str("  }\n");
        }
    }
    for ((from, to), ports) in told(picture) {
        let name = |place: usize| quoted(picture.peers.get(place).map_or("", |peer| peer.name.as_str()));
        out.push_str(&format!(
            "  {} -> {} [label={}];\n",
            name(*from),
            name(*to),
            quoted(&few(ports))
        ));
    }
    out.push_str("}\n");
    out
}

/// For Markdown that draws: GitHub and GitLab show it in a pull request.
#[must_use]
pub fn mermaid(picture: &Picture) -> String {
    let mut out = String::from("flowchart LR\n");
    for (number, (group, members)) in groups(picture).into_iter().enumerate() {
        let titled = group.is_some_and(|group| !group.is_empty());
        if titled {
            out.push_str(&format!(
                "  subgraph g{number} [{}]\n",
                quoted(group.unwrap_or_default())
            ));
        }
        for (place, peer) in members {
            let (open, close) = if peer.group.is_none() {
                ("([", "])")
            } else {
                ("[", "]")
            };
            let indent = if titled { "    " } else { "  " };
            out.push_str(&format!(
                "{indent}p{place}{open}{}{close}\n",
                quoted(&caption(peer))
            ));
        }
        if titled {
            out.push_str("  end\n");
        }
    }
    for ((from, to), ports) in told(picture) {
        out.push_str(&format!("  p{from} -->|{}| p{to}\n", quoted(&few(ports))));
    }
    out
}

/// What an arrow is drawn for: that members of one segment may talk to each other is the default, and a loop tells nothing.
fn told(picture: &Picture) -> impl Iterator<Item = (&(usize, usize), &Vec<String>)> {
    let default = |(from, to): &(usize, usize), ports: &[String]| from == to && ports == ["any"];
    picture
        .arrows
        .iter()
        .filter(move |(pair, ports)| !default(pair, ports))
}

/// A group's name, and its members with their places; without a name: what is built in.
type Group<'p> = (Option<&'p str>, Vec<(usize, &'p Peer)>);

/// Peers by group.
fn groups(picture: &Picture) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (place, peer) in picture.peers.iter().enumerate() {
        let group = peer.group.as_deref();
        match groups.last_mut() {
            Some((last, members)) if *last == group => members.push((place, peer)),
            _ => groups.push((group, vec![(place, peer)])),
        }
    }
    groups
}

fn caption(peer: &Peer) -> String {
    if peer.audit {
        format!("{} (audit)", peer.name)
    } else {
        peer.name.clone()
    }
}

/// As many ports as fit beside an arrow.
fn few(ports: &[String]) -> String {
    let shown = ports
        .get(..MOST_PORTS.min(ports.len()))
        .unwrap_or_default()
        .join(", ");
    match ports.len().saturating_sub(MOST_PORTS) {
        0 => shown,
        more => format!("{shown} +{more}"),
    }
}

/// Names and labels hold no quote and no backslash; ports neither.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace(['"', '\\'], "'"))
}
