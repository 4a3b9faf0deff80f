//! How answers are printed: for people as tables, for machines as JSON or YAML.

pub mod policy;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines; stable and documented.
    Json,
    /// The same shape as JSON.
    Yaml,
}
