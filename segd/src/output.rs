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

impl Format {
    /// An answer in this format. `table` draws it for people.
    ///
    /// # Errors
    ///
    /// If the answer cannot be written in the format, which would be a fault of segd.
    pub fn print<T: serde::Serialize>(
        self,
        answer: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<String> {
        Ok(match self {
            Format::Table => table(answer),
            Format::Json => serde_json::to_string_pretty(answer)? + "\n",
            Format::Yaml => serde_yaml::to_string(answer)?,
        })
    }
}
