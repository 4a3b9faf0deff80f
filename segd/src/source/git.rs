//! A policy as it was in a commit: `git:REV:PATH`, read through the `git` program.
//!
//! INVARIANT: nothing is checked out, fetched, or run from the repository: objects are listed and printed, no more.
//! A revision or path never becomes an option of git.

mod provenance;

use std::{
    path::{Component, Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

pub use self::provenance::{Provenance, provenance};
use super::{MAX_BYTES, MAX_FILES, SourceError, Sources, child, room, text_of};
use crate::policy::model::Source;

/// How long git may take for one answer.
const LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may be that holds no files.
const LISTING_BYTES: u64 = 32 << 20;

/// A policy in a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitPath {
    /// The commit, as git reads it: a hash, a branch, `HEAD~1`.
    pub revision: String,
    /// A file or directory of the repository it lies in.
    pub path: PathBuf,
}

impl GitPath {
    /// What `git:REV:PATH` says; `None` if the text does not begin so.
    #[must_use]
    pub fn parse(text: &str) -> Option<GitPath> {
        let (revision, path) = text.strip_prefix("git:")?.split_once(':')?;
        Some(GitPath {
            revision: revision.to_owned(),
            path: PathBuf::from(if path.is_empty() { "." } else { path }),
        })
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// If there is no git, repository, commit or policy of that name, or it is too large.
    pub fn read(&self) -> Result<Sources, SourceError> {
        let (directory, rest) = self.nearest_directory();
        let commit = self.commit(&directory)?;
        let prefix = text(self.git(&directory, &["rev-parse", "--show-prefix"], &[])?);
        let inside = joined(Path::new(prefix.trim_end_matches('\n')), &rest)
            .ok_or_else(|| self.failed("the path leads out of the repository".to_owned()))?;
        let blobs = self.blobs(&directory, &commit, &inside)?;
        let texts = self.texts(&directory, &blobs)?;
        let sources = blobs.into_iter().zip(texts).map(|(blob, text)| Source {
            name: format!("git:{}:{}", self.revision, blob.name),
            text,
        });
        Ok(Sources::of(sources.collect()))
    }

    /// The commit's hash, so that everything is read from one.
    fn commit(&self, directory: &Path) -> Result<String, SourceError> {
        let object = format!("{}^{{commit}}", self.revision);
        let options = ["rev-parse", "--verify", "--quiet", "--end-of-options"];
        let hash = self.git(directory, &options, &[&object]);
        let hash = text(hash.map_err(|error| match error {
            SourceError::Git { why, .. } if why.is_empty() => {
                self.failed(format!("no commit is called `{}`", self.revision))
            }
            other => other,
        })?);
        Ok(hash.trim_end().to_owned())
    }

    /// The nearest directory that exists now, and the rest of the path: it need not be there any more.
    fn nearest_directory(&self) -> (PathBuf, PathBuf) {
        let existing = self
            .path
            .ancestors()
            .find(|path| !path.as_os_str().is_empty() && path.is_dir());
        match existing {
            Some(directory) => {
                let rest = self.path.strip_prefix(directory).unwrap_or(Path::new(""));
                (directory.to_owned(), rest.to_owned())
            }
            None => (PathBuf::from("."), self.path.clone()),
        }
    }

    /// The policy's files in a commit: the one that was named, or those below the directory that was named.
    fn blobs(&self, directory: &Path, commit: &str, inside: &str) -> Result<Vec<Blob>, SourceError> {
        let mut options = vec!["ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--"];
        if !inside.is_empty() {
            options.push(inside);
        }
        let listed = text(self.git(directory, &options, &[])?);
        let mut blobs = Vec::new();
        let mut bytes = 0;
        for entry in listed.split_terminator('\0') {
            let Some(blob) = Blob::read(entry) else {
                return Err(self.failed("git lists what segd does not understand".to_owned()));
            };
            let below = match inside {
                "" => Some(blob.name.as_str()),
                _ => blob.name.strip_prefix(inside),
            };
            // The path itself, or something below it; and there, what a directory's policy consists of.
            let is_it = below == Some("");
            let counts = below.is_some_and(|below| {
                let visible = below.split('/').all(|part| !part.starts_with('.'));
                visible && (below.ends_with(".yaml") || below.ends_with(".yml"))
            });
            if !is_it && !counts {
                continue;
            }
            if !blob.is_file {
                return Err(self.failed(format!(
                    "`{}` is no file in that commit, but a link or a submodule",
                    blob.name
                )));
            }
            let path = || PathBuf::from(&blob.name);
            let (room, (what, limit)) = room(bytes);
            if blob.size > room {
                let path = path();
                return Err(SourceError::TooLarge { path, what, limit });
            }
            bytes += blob.size;
            if blobs.len() >= MAX_FILES {
                let (what, limit) = ("files", MAX_FILES as u64);
                return Err(SourceError::TooLarge {
                    path: path(),
                    what,
                    limit,
                });
            }
            blobs.push(blob);
        }
        if listed.is_empty() {
            return Err(self.failed(format!("the commit has no `{inside}`")));
        }
        Ok(blobs)
    }

    fn texts(&self, directory: &Path, blobs: &[Blob]) -> Result<Vec<Arc<str>>, SourceError> {
        let hashes: String = blobs.iter().map(|blob| format!("{}\n", blob.hash)).collect();
        let mut output = self
            .feed(directory, &["cat-file", "--batch"], hashes.into_bytes())?
            .into_iter();
        let mut texts = Vec::with_capacity(blobs.len());
        for blob in blobs {
            // `HASH blob SIZE`, a line break, the content, a line break.
            let head: Vec<u8> = output.by_ref().take_while(|byte| *byte != b'\n').collect();
            let expected = format!("{} blob {}", blob.hash, blob.size);
            let size = usize::try_from(blob.size).unwrap_or(usize::MAX);
            let content: Vec<u8> = output.by_ref().take(size).collect();
            if head != expected.as_bytes() || content.len() != size || output.next() != Some(b'\n') {
                return Err(self.failed(format!("git did not print `{}`", blob.name)));
            }
            texts.push(text_of(content));
        }
        Ok(texts)
    }

    /// Runs git; `names` come from the user.
    fn git(&self, directory: &Path, options: &[&str], names: &[&str]) -> Result<Vec<u8>, SourceError> {
        self.feed(directory, &[options, names].concat(), Vec::new())
    }

    fn feed(&self, directory: &Path, words: &[&str], input: Vec<u8>) -> Result<Vec<u8>, SourceError> {
        run(directory, words, input).map_err(|why| self.failed(why))
    }

    fn failed(&self, why: String) -> SourceError {
        SourceError::Git {
            name: format!("git:{}:{}", self.revision, self.path.display()),
            why,
        }
    }
}

/// The commit that a line of a file comes from, in words; `None` if the file lies in no repository, or not in its last commit.
///
/// Looks at what was committed, never at the file through git: no filter of the repository is run.
#[must_use]
pub fn commit_of(file: &Path, text: &str, line: u32) -> Option<String> {
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = format!("./{}", file.file_name()?.to_str()?);
    let ask = |words: &[&str], input: &[u8]| run(directory, words, input.to_vec()).ok().map(self::text);
    let head = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], b"")?;
    let committed = ask(
        &[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &format!("HEAD:{name}"),
        ],
        b"",
    )?;
    let current = ask(&["hash-object", "--stdin", "--no-filters"], text.as_bytes())?;
    if committed != current {
        return Some(format!("{}, and changes that are not committed", short(&head)));
    }
    let lines = format!("{line},{line}");
    let blamed = ask(
        &[
            "blame",
            "--no-textconv",
            "--porcelain",
            "-L",
            &lines,
            "HEAD",
            "--",
            &name,
        ],
        b"",
    )?;
    let summary = blamed.lines().find_map(|line| line.strip_prefix("summary "));
    Some(
        format!("{} {}", short(&blamed), summary.unwrap_or_default())
            .trim_end()
            .to_owned(),
    )
}

/// The first letters of a hash, as git shows it.
fn short(hash: &str) -> &str {
    hash.get(..10).unwrap_or(hash)
}

/// Runs git with something to read, in no terminal, without hooks, network or optional locks; what it prints, or what it
/// complains of.
fn run(directory: &Path, words: &[&str], input: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(directory)
        .args([
            "--no-pager",
            "--no-replace-objects",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.hooksPath=/dev/null",
        ])
        .args(words)
        // The path says which repository; a hook's environment would say another thing.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_PREFIX")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("LC_ALL", "C");
    // A listing of a policy is small; whatever is larger is none. What is asked for by name are the files.
    let most = if input.is_empty() {
        LISTING_BYTES
    } else {
        2 * MAX_BYTES
    };
    let answer = child::ask(&mut command, input, &[], most, LIMIT)?;
    if answer.status.success() {
        return Ok(answer.stdout);
    }
    let line = answer.stderr.lines().next().unwrap_or_default();
    Err(line.trim_start_matches("fatal: ").to_owned())
}

/// A file in a commit.
struct Blob {
    is_file: bool,
    hash: String,
    size: u64,
    name: String,
}

impl Blob {
    /// `MODE TYPE HASH SIZE`, a tab, the name.
    fn read(entry: &str) -> Option<Blob> {
        let (head, name) = entry.split_once('\t')?;
        let words: Vec<&str> = head.split_whitespace().collect();
        let [mode, _, hash, size] = words.as_slice() else {
            return None;
        };
        Some(Blob {
            is_file: mode.starts_with("100"),
            hash: (*hash).to_owned(),
            // A submodule has none.
            size: size.parse().unwrap_or_default(),
            name: name.to_owned(),
        })
    }
}

/// The path from the top of the repository; `None` if it leads out of it.
fn joined(prefix: &Path, rest: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in prefix.components().chain(rest.components()) {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A repository with two commits of `policies/`.
    fn repository() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        git(&at(""), &["init", "-q"]);
        fs::create_dir_all(at("policies/more")).expect("a directory");
        fs::create_dir_all(at("policies/.hidden")).expect("a directory");
        for (name, text) in [
            ("policies/a.yaml", "old a\n"),
            ("policies/more/b.yml", "old b\n"),
            ("policies/notes.txt", "no policy\n"),
            ("policies/.hidden/c.yaml", "hidden\n"),
            ("policies-too.yaml", "beside\n"),
        ] {
            fs::write(at(name), text).expect("a file");
        }
        commit(&at(""));
        fs::write(at("policies/a.yaml"), "new a\n").expect("a file");
        fs::remove_dir_all(at("policies/more")).expect("removed");
        std::os::unix::fs::symlink("../policies-too.yaml", at("policies/link.yaml")).expect("a link");
        commit(&at(""));
        directory
    }

    #[track_caller]
    fn git(directory: &Path, words: &[&str]) {
        let done = Command::new("git")
            .arg("-C")
            .arg(directory)
            .args(words)
            .output()
            .expect("git runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    #[track_caller]
    fn commit(directory: &Path) {
        git(directory, &["add", "-A"]);
        let who = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ];
        git(directory, &[&who[..], &["commit", "-q", "-m", "policy"]].concat());
    }

    fn read(directory: &Path, revision: &str, path: &str) -> Result<Vec<(String, String)>, String> {
        let path = directory.join(path);
        let spec = format!("git:{revision}:{}", path.display());
        let sources = GitPath::parse(&spec).expect("a commit").read();
        let texts = |sources: Sources| {
            let texts = sources.sources.into_iter();
            texts
                .map(|source| (source.name, source.text.to_string()))
                .collect()
        };
        sources.map(texts).map_err(|error| {
            error
                .to_string()
                .replace(&format!("{}/", directory.display()), "")
        })
    }

    #[test]
    fn reads_a_directory_as_it_was_and_only_what_is_a_policy() {
        let repository = repository();
        let old = read(repository.path(), "HEAD~1", "policies").expect("a policy");
        let expected = [
            ("git:HEAD~1:policies/a.yaml", "old a\n"),
            ("git:HEAD~1:policies/more/b.yml", "old b\n"),
        ];
        assert_eq!(
            old,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
        let whole = read(repository.path(), "HEAD~1", "").expect("a policy");
        assert_eq!(whole.len(), 3, "with what lies beside the directory: {whole:?}");
    }

    #[test]
    fn reads_what_is_there_no_more() {
        let repository = repository();
        let gone = read(repository.path(), "HEAD~1", "policies/more/b.yml").expect("a policy");
        assert_eq!(gone.len(), 1, "{gone:?}");
    }

    #[test]
    fn follows_no_link_of_a_commit() {
        let repository = repository();
        let refused = read(repository.path(), "HEAD", "policies").expect_err("a link");
        assert!(
            refused.contains("`policies/link.yaml` is no file in that commit"),
            "{refused}"
        );
    }

    #[test]
    fn tells_the_commit_of_a_line() {
        let repository = repository();
        let file = repository.path().join("policies/a.yaml");
        let told = commit_of(&file, "new a\n", 1).expect("a commit");
        assert!(told.ends_with(" policy"), "{told}");
        let told = commit_of(&file, "edited\n", 1).expect("a commit");
        assert!(told.ends_with(", and changes that are not committed"), "{told}");
        let outside = tempfile::tempdir().expect("a directory");
        assert_eq!(commit_of(&outside.path().join("a.yaml"), "new a\n", 1), None);
        assert_eq!(
            commit_of(&repository.path().join("other.yaml"), "new a\n", 1),
            None
        );
    }

    #[test]
    fn refuses_what_is_no_commit_and_what_is_no_policy() {
        let repository = repository();
        for (revision, path, said) in [
            (
                "no-such-branch",
                "policies",
                "no commit is called `no-such-branch`",
            ),
            ("--help", "policies", "no commit is called `--help`"),
            ("HEAD", "nothing", "the commit has no `nothing`"),
            ("HEAD", "../..", "the path leads out of the repository"),
        ] {
            let refused = read(repository.path(), revision, path).expect_err(said);
            assert!(
                refused.contains(said) || refused.contains("not a git repository"),
                "{refused}"
            );
        }
        let elsewhere = tempfile::tempdir().expect("a directory");
        let refused = read(elsewhere.path(), "HEAD", "policies").expect_err("no repository");
        assert!(refused.contains("not a git repository"), "{refused}");
    }
}
