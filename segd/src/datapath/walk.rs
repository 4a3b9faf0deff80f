//! What a kernel program tells when the daemon lets it walk over something (an iterator): records, one after another.

use std::{
    fs::File,
    io::{self, Read as _},
    marker::PhantomData,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use segd_common::{
    census::Task,
    session::{Foreign, Living, Session},
};

use super::{Error, sys};

/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;

/// A record that a program writes.
///
/// # Safety
///
/// Any bytes are a valid value.
// SAFETY: the implementations', above.
pub(super) unsafe trait Told {}
// SAFETY: integers and arrays of them.
unsafe impl Told for Task {}
// SAFETY: as above.
unsafe impl Told for Session {}
// SAFETY: as above.
unsafe impl Told for Living {}
// SAFETY: as above.
unsafe impl Told for Foreign {}

/// A program that can be let walk. It tells records of one type.
#[derive(Debug)]
pub(super) struct Walk<T> {
    link: OwnedFd,
    told: PhantomData<T>,
}

impl<T: Told> Walk<T> {
    /// `what`: what it walks over, for an error.
    pub fn of(program: BorrowedFd<'_>, what: &str) -> Result<Walk<T>, Error> {
        Walk::by(sys::link_create(program, 0, TRACE_ITER, 0), what)
    }

    /// Over what a map holds.
    pub fn over_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>, what: &str) -> Result<Walk<T>, Error> {
        Walk::by(sys::link_over_map(program, TRACE_ITER, map), what)
    }

    fn by(link: io::Result<OwnedFd>, what: &str) -> Result<Walk<T>, Error> {
        Ok(Walk {
            link: link.map_err(|error| Error::system(format!("making an iterator over {what}"), error))?,
            told: PhantomData,
        })
    }

    /// All that it tells now.
    pub fn all(&self) -> io::Result<Vec<T>> {
        let mut bytes = Vec::new();
        File::from(sys::iterate(self.link.as_fd())?).read_to_end(&mut bytes)?;
        let one = |bytes: &[u8]| {
            // SAFETY: as many bytes as the value has, of any alignment; `Told` says that any will do.
            unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
        };
        Ok(bytes.chunks_exact(size_of::<T>()).map(one).collect())
    }
}
