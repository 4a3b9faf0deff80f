//! A datagram's judgement, kept on its socket for the datagrams that are like it.
//!
//! INVARIANT: what is kept was allowed, and holds for nothing but what it names: one revision, one state of the tables of
//! addresses, both cgroups (this end's alone where the other is [`ELSEWHERE`]), both addresses and ports, one device. Two CPUs
//! may write one at once; then its seal does not fit.
//!
//! In words, because it is compared and sealed word by word in a frame that has no room for a copy.

use crate::{
    address::{Address, words},
    segment::SegmentIndex,
    verdict::RuleIndex,
};

/// How many peers' judgements a socket keeps, each way; a power of two.
pub const KEPT_PEERS: usize = 4;

/// In [`Judged::peer_cgroup`]: what leaves ends in another namespace, where its receiver judges.
pub const ELSEWHERE: u64 = u64::MAX;

/// How many words say what a datagram must be like.
pub const LIKE: usize = 7;
/// How many words say what was judged.
pub const JUDGED: usize = 3;

/// One judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Kept {
    /// [`Like::words`]; all 0 = none is kept.
    pub like: [u64; LIKE],
    /// [`Judged::words`].
    pub judged: [u64; JUDGED],
    /// As `SocketState::counted`. Not sealed.
    pub counted: u64,
    /// Drawn for this judgement.
    pub salt: u64,
    /// The [`seal`] of all but `counted`.
    pub seal: u64,
}

/// The judgements of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KeptAll {
    /// Of what leaves, and of what arrives; each by a hash of the peer.
    pub ways: [[Kept; KEPT_PEERS]; 2],
}

const _: () = assert!(size_of::<Kept>() == 104);
const _: () = assert!(size_of::<KeptAll>() == 2 * KEPT_PEERS * 104);

/// What a datagram must be like, as its local socket sees it. Ports are in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Like<'a> {
    /// The address of this end, as the packet bears it.
    pub own: &'a Address,
    /// The peer's.
    pub peer: &'a Address,
    /// The socket's cgroup.
    pub cgroup: u64,
    /// The revision it is judged under.
    pub revision: u32,
    /// The state of the tables of addresses.
    pub places: u32,
    /// The device it leaves or came in by.
    pub device: u32,
    /// This end's port.
    pub own_port: u16,
    /// The peer's.
    pub peer_port: u16,
}

impl Like<'_> {
    /// As it is kept.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; LIKE] {
        let (own_first, own_last) = words(self.own);
        let (peer_first, peer_last) = words(self.peer);
        [
            own_first,
            own_last,
            peer_first,
            peer_last,
            self.cgroup,
            self.revision as u64 | (self.places as u64) << 32,
            self.device as u64 | (self.own_port as u64) << 32 | (self.peer_port as u64) << 48,
        ]
    }
}

/// What was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The cgroup of the socket that receives, or that has shown itself as the sender; never 0. Or [`ELSEWHERE`].
    pub peer_cgroup: u64,
    /// The rule that decided.
    pub rule: RuleIndex,
    /// A `Reason`.
    pub reason: u8,
    /// The initiator.
    pub from: SegmentIndex,
    /// The other side.
    pub to: SegmentIndex,
}

impl Judged {
    /// As it is kept.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; JUDGED] {
        [
            self.peer_cgroup,
            self.rule as u64 | (self.reason as u64) << 32,
            self.from as u64 | (self.to as u64) << 16,
        ]
    }

    /// Out of what is kept.
    #[inline(always)]
    #[must_use]
    pub const fn of_words(words: [u64; JUDGED]) -> Judged {
        let [peer_cgroup, decided, sides] = words;
        Judged {
            peer_cgroup,
            rule: decided as u32,
            reason: (decided >> 32) as u8,
            from: sides as u16,
            to: (sides >> 16) as u16,
        }
    }
}

/// A number that a mixture of two judgements does not have: a sum of products, so that no product waits for another.
///
/// Who chooses addresses could choose them so that a mixture has the same sum. The salt is drawn anew for each judgement and
/// never leaves the kernel: it turns what was chosen into something else, and a guess takes two CPUs' race each time.
#[inline(always)]
#[must_use]
pub const fn seal(like: &[u64; LIKE], judged: &[u64; JUDGED], salt: u64) -> u64 {
    (like[0] ^ salt)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((like[1] ^ salt).wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add((like[2] ^ salt).wrapping_mul(0x94d0_49bb_1331_11eb))
        .wrapping_add((like[3] ^ salt).wrapping_mul(0xd6e8_feb8_6659_fd93))
        .wrapping_add((like[4] ^ salt).wrapping_mul(0xa076_1d64_78bd_642f))
        .wrapping_add((like[5] ^ salt).wrapping_mul(0xe703_7ed1_a0b4_28db))
        .wrapping_add((like[6] ^ salt).wrapping_mul(0x8ebc_6af0_9c88_c6e3))
        .wrapping_add((judged[0] ^ salt).wrapping_mul(0x5899_65cc_7537_4cc3))
        .wrapping_add((judged[1] ^ salt).wrapping_mul(0x1d8e_4e27_c47d_124f))
        .wrapping_add((judged[2] ^ salt).wrapping_mul(0xeb44_acca_b455_d165))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::mapped;

    const OWN: Address = mapped([127, 0, 0, 1]);
    const PEERS: [Address; 2] = [mapped([127, 0, 0, 2]), mapped([127, 0, 0, 3])];

    fn like(peer: usize, peer_port: u16, revision: u32) -> Like<'static> {
        Like {
            own: &OWN,
            peer: &PEERS[peer],
            cgroup: 100,
            revision,
            places: 1,
            device: 1,
            own_port: 5000,
            peer_port,
        }
    }

    fn judged(peer_cgroup: u64, rule: u32, to: u16) -> Judged {
        Judged {
            peer_cgroup,
            rule,
            reason: 1,
            from: 16,
            to,
        }
    }

    /// What two CPUs leave that write at once: some words of the one, the rest of the other.
    #[test]
    fn no_mixture_of_two_has_the_seal_of_either() {
        let first = all(&like(0, 53, 7), &judged(200, 3, 17));
        let others = [
            all(&like(0, 54, 7), &judged(200, 3, 17)),
            all(&like(1, 54, 7), &judged(200, 3, 17)),
            all(&like(1, 54, 7), &judged(201, 4, 18)),
            all(&like(0, 53, 8), &judged(201, 2, 16)),
        ];
        let salts = [0x1234_5678_1234_5678, 0x9abc_def0_9abc_def0];
        for second in others {
            for mask in 0_u32..1 << first.len() {
                let mut mixed = first;
                for (number, word) in mixed.iter_mut().enumerate() {
                    if mask & 1 << number != 0 {
                        *word = second[number];
                    }
                }
                for salt in salts {
                    let sealed = seal_of(&mixed, salt);
                    assert_eq!(
                        sealed == seal_of(&first, salts[0]),
                        mixed == first && salt == salts[0],
                        "{mask:x}"
                    );
                    assert_eq!(
                        sealed == seal_of(&second, salts[1]),
                        mixed == second && salt == salts[1],
                        "{mask:x}"
                    );
                }
            }
        }
    }

    /// Who may choose its own address, chooses one that makes up for another peer and another receiver in the sum.
    #[test]
    fn a_mixture_that_was_reckoned_out_fits_no_salt_that_is_drawn() {
        const OWN_LAST: usize = 1;
        const PEER_LAST: usize = 3;
        const RECEIVER: usize = LIKE;
        let first = all(&like(0, 53, 7), &judged(200, 3, 17));
        let mut second = all(&like(1, 80, 7), &judged(201, 4, 18));
        // What one word adds to the sum, without salt, is its product with a constant.
        let factor = |word: usize| {
            let mut one = [0; LIKE + JUDGED];
            one[word] = 1;
            seal_of(&one, 0)
        };
        let wanted = [PEER_LAST, RECEIVER].iter().fold(0_u64, |sum, word| {
            sum.wrapping_add(
                second[*word]
                    .wrapping_sub(first[*word])
                    .wrapping_mul(factor(*word)),
            )
        });
        // The inverse of an odd number, by Newton.
        let inverse = (0..6).fold(factor(OWN_LAST), |inverse, _| {
            inverse.wrapping_mul(2_u64.wrapping_sub(factor(OWN_LAST).wrapping_mul(inverse)))
        });
        second[OWN_LAST] = first[OWN_LAST].wrapping_sub(wanted.wrapping_mul(inverse));
        let mut mixed = first;
        for word in [OWN_LAST, PEER_LAST, RECEIVER] {
            mixed[word] = second[word];
        }
        assert_eq!(seal_of(&mixed, 0), seal_of(&first, 0), "reckoned out");
        for drawn in 1..100_000_u64 {
            let salt = drawn.wrapping_mul(0x9e37_79b9) & 0xffff_ffff;
            let salt = salt | salt << 32;
            assert_ne!(seal_of(&mixed, salt), seal_of(&first, salt), "{salt:x}");
        }
    }

    #[test]
    fn what_was_judged_comes_back_as_it_was_kept() {
        let judged = judged(u64::MAX, u32::MAX, u16::MAX);
        assert_eq!(Judged::of_words(judged.words()), judged);
    }

    fn all(like: &Like<'_>, judged: &Judged) -> [u64; LIKE + JUDGED] {
        let mut words = [0; LIKE + JUDGED];
        words[..LIKE].copy_from_slice(&like.words());
        words[LIKE..].copy_from_slice(&judged.words());
        words
    }

    fn seal_of(words: &[u64; LIKE + JUDGED], salt: u64) -> u64 {
        let (like, judged) = words.split_at(LIKE);
        seal(
            like.try_into().expect("as many words"),
            judged.try_into().expect("as many words"),
            salt,
        )
    }
}
