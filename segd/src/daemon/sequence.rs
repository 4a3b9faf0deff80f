//! In which order a revision is made and put in force: the order itself, as data.
//!
//! The engine walks these lists and does what each step says; the model in this file's tests walks the same lists, with
//! packets, births and the clock between any two of their effects. So what is proved is what runs.
//!
//! INVARIANT: the word that packets read first is written by [`super::engine::Engine::apply`] alone, with what came of all
//! of these steps in its hands.

/// A step of making a revision in the slot that is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until no program run reads the slot, or what was said about it, any more.
    Settle,
    /// Write rules, prefixes and selectors.
    Tables,
    /// Tag every cgroup: [`TAGGING`].
    Tags,
    /// Say who lives in which namespace: it follows from the tags.
    Owners,
}

/// A step of tagging every cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagging {
    /// Walk the tree, and tag each cgroup before its children are read.
    Walk,
    /// Wait for births that are under way: they may have read a parent before it was tagged, and may not be visible yet.
    AwaitBirths,
    /// Back to [`AGAIN`] if the walk met a cgroup that was not what it had to be: one that was born of a parent before that
    /// was tagged. While that one was found, another may have been born of it.
    Repeat,
    /// Tag what has no directory any more, and segd's own probe.
    Unseen,
}

/// Everything of a revision but the word that puts it in force.
pub const MAKING: [Step; 4] = [Step::Settle, Step::Tables, Step::Tags, Step::Owners];

/// [`Step::Tags`].
pub const TAGGING: [Tagging; 5] = [
    Tagging::Walk,
    Tagging::AwaitBirths,
    Tagging::Walk,
    Tagging::Repeat,
    Tagging::Unseen,
];

/// Where [`Tagging::Repeat`] goes back to.
pub const AGAIN: usize = 1;

/// How often that is done. Who makes cgroups within cgroups in the very moments of each walk cannot keep a policy from
/// coming into force: what is left is denied, because its tag bears another revision.
pub const MOST_REPEATS: usize = 16;

#[cfg(test)]
mod tests;
