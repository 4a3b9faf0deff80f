//! Two things at once.

use std::thread;

use anyhow::Result;

/// Does one thing here and the other beside it; waits for both, and fails if either does.
pub fn both<A, B: Send>(
    here: impl FnOnce() -> Result<A>,
    beside: impl FnOnce() -> Result<B> + Send,
) -> Result<(A, B)> {
    thread::scope(|scope| {
        let beside = scope.spawn(beside);
        let here = here();
        match beside.join() {
            Ok(beside) => Ok((here?, beside?)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use anyhow::bail;

    use super::both;

    #[test]
    fn both_are_done_at_once() {
        let (ask, asked) = mpsc::channel();
        let (answer, answered) = mpsc::channel();
        let here = || {
            ask.send(1)?;
            Ok(answered.recv()?)
        };
        let beside = move || {
            answer.send(asked.recv()? + 1)?;
            Ok("done")
        };
        assert_eq!(both(here, beside).unwrap(), (2, "done"));
    }

    #[test]
    fn either_may_fail() {
        assert!(both(|| Ok(1), || -> anyhow::Result<()> { bail!("no") }).is_err());
        assert!(both(|| -> anyhow::Result<()> { bail!("no") }, || Ok(1)).is_err());
    }
}
