//! `segd policy graph`.

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;

use super::{INVALID, Reply, YES};
use crate::{
    output::picture::{dot, mermaid, svg},
    policy::{compile::compile, compiled::SegmentIndexes, diagnostic::Style, picture::picture},
    source::{self, Trust},
};

/// `-o` of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Drawing {
    /// A matrix to look at and to print; needs nothing but a browser
    #[default]
    Svg,
    /// A graph for Graphviz
    Dot,
    /// A graph for Markdown that draws
    Mermaid,
}

/// Draw a policy.
#[derive(Debug, clap::Args)]
pub struct Graph {
    /// Files and directories; a directory is read recursively (`*.yaml`, `*.yml`)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The label that segments are put together by [default: all of their labels]
    #[arg(long, value_name = "LABEL")]
    by: Option<String>,
    /// What to draw
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Drawing,
}

impl Graph {
    /// The picture.
    pub(super) fn reply(&self, style: Style) -> Reply {
        let loaded = match source::load(&self.paths, false, &Trust::Everybody) {
            Ok(loaded) => loaded.at(Timestamp::now()),
            Err(error) => {
                return Reply {
                    complaint: error.render(style),
                    code: INVALID,
                    ..Reply::default()
                };
            }
        };
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&loaded.policy, &BTreeSet::new())
            .and_then(|()| compile(&loaded.policy, &indexes, None));
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => return Reply::refusal(&error.to_string()),
        };
        let picture = picture(&loaded.policy, &tables, self.by.as_deref());
        let drawn = match self.output {
            Drawing::Svg => svg(&picture, &loaded.policy.names.join(", ")),
            Drawing::Dot => dot(&picture),
            Drawing::Mermaid => mermaid(&picture),
        };
        Reply::of(Ok(drawn), String::new(), YES)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POLICY: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n  segments:\n    \
        web: {labels: {env: prod, tier: front}, match: [{cgroup: /web}]}\n    \
        db: {labels: {env: prod, tier: data}, intra: deny, mode: audit, match: [{cgroup: /db}]}\n    \
        dev: {match: [{cgroup: /dev}]}\n  allow:\n    \
        - {from: [web, dev], to: db, ports: [tcp/5432, tcp/5433]}\n    - {from: world, to: web, ports: [tcp/443]}\n  \
        deny:\n    - {from: dev, to: db, ports: [tcp/5433]}\n";

    #[track_caller]
    fn drawn(output: Drawing, by: Option<&str>) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p.yaml");
        fs::write(&path, POLICY).expect("a file");
        let graph = Graph {
            paths: vec![path],
            by: by.map(str::to_owned),
            output,
        };
        let reply = graph.reply(Style::Plain);
        assert_eq!((reply.complaint.as_str(), reply.code), ("", YES));
        reply.answer
    }

    #[test]
    fn draws_what_is_enforced_guardrails_included() {
        let expected = "flowchart LR\n  p0[\"dev\"]\n  subgraph g1 [\"env=prod\"]\n    p1[\"db (audit)\"]\n    p2[\"web\"]\n  end\n  \
            p3([\"host\"])\n  p4([\"world\"])\n  p0 -->|\"tcp/5432\"| p1\n  \
            p2 -->|\"tcp/5432-5433\"| p1\n  p4 -->|\"tcp/443\"| p2\n";
        assert_eq!(drawn(Drawing::Mermaid, Some("env")), expected);
    }

    #[test]
    fn dot_puts_segments_of_one_label_together() {
        let dot = drawn(Drawing::Dot, Some("env"));
        let cluster = "  subgraph cluster_1 {\n    label=\"env=prod\";\n    \"db\" [label=\"db (audit)\", style=\"rounded,dashed\"];\n    \"web\"";
        assert!(dot.contains(cluster), "{dot}");
        assert!(
            dot.contains("  \"dev\" -> \"db\" [label=\"tcp/5432\"];\n"),
            "{dot}"
        );
        assert!(
            dot.starts_with("digraph policy {\n") && dot.ends_with("}\n"),
            "{dot}"
        );
    }

    #[test]
    fn the_matrix_has_a_cell_for_each_pair_that_may_talk_and_is_whole() {
        let svg = drawn(Drawing::Svg, None);
        assert_eq!(svg.matches("<g>").count(), 5 + 3, "{svg}");
        assert_eq!(
            svg.matches("<title>not enforced</title>").count(),
            3,
            "`host` and `world`"
        );
        for said in [
            "<title>web → db: tcp/5432-5433</title>",
            ">env=prod tier=data</text>",
            ">tcp/443</text>",
        ] {
            assert!(svg.contains(said), "{said}\n{svg}");
        }
        for tag in ["svg", "text", "title", "g"] {
            let open = svg.matches(&format!("<{tag}>")).count() + svg.matches(&format!("<{tag} ")).count();
            assert_eq!(open, svg.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
