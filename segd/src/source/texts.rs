//! The texts of a policy: whether they are the same is told by comparing them, their hash is made for whoever asks for it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use crate::policy::model::Source;

/// A hash over names and texts (FNV-1a, 128 bits): the same on every host and in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentHash(pub u128);

/// The texts of a policy that was read, sorted by name.
#[derive(Clone, Debug)]
pub struct Texts(Arc<Held>);

#[derive(Debug)]
struct Held {
    sources: Vec<Source>,
    hash: OnceLock<ContentHash>,
}

/// What is known of texts: themselves, or no more than their hash.
#[derive(Clone, Debug)]
pub enum Known {
    /// They are there.
    Texts(Texts),
    /// Another daemon had them.
    Hash(ContentHash),
}

impl ContentHash {
    /// Of texts that are sorted by name.
    #[must_use]
    pub fn of(sources: &[Source]) -> ContentHash {
        let mut hash = Fnv::default();
        for source in sources {
            for text in [source.name.as_str(), &source.text] {
                hash.add(&(text.len() as u64).to_le_bytes());
                hash.add(text.as_bytes());
            }
        }
        ContentHash(hash.0)
    }

    /// From what [`fmt::Display`] writes.
    #[must_use]
    pub fn of_text(text: &str) -> Option<ContentHash> {
        u128::from_str_radix(text, 16).ok().map(ContentHash)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Texts {
    /// Holds what was read. The texts are shared, not copied.
    #[must_use]
    pub fn of(sources: &[Source]) -> Texts {
        Texts(Arc::new(Held {
            sources: sources.to_vec(),
            hash: OnceLock::new(),
        }))
    }

    /// They themselves.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.0.sources
    }

    /// Whether others are the same. What is shared is not compared byte by byte.
    #[must_use]
    pub fn are(&self, others: &[Source]) -> bool {
        self.0.sources == others
    }

    /// Their hash. Of a large policy it takes a tenth of a second, once.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        *self.0.hash.get_or_init(|| ContentHash::of(&self.0.sources))
    }
}

impl Known {
    /// Whether others are the same.
    #[must_use]
    pub fn are(&self, others: &Texts) -> bool {
        match self {
            Known::Texts(texts) => Arc::ptr_eq(&texts.0, &others.0) || texts.are(others.sources()),
            Known::Hash(hash) => *hash == others.hash(),
        }
    }

    /// Their hash.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        match self {
            Known::Texts(texts) => texts.hash(),
            Known::Hash(hash) => *hash,
        }
    }
}

/// FNV-1a with 128 bits.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}
