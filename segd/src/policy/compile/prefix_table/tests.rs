//! The table of prefixes against the longest prefix, found the slow way.

use segd_common::{prefixes::MAX_LOOKS, segment::WORLD, tables::Tables as _};

use super::*;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 32
    }

    fn address(&mut self) -> u128 {
        (0..4).fold(0, |all, _| all << 32 | u128::from(self.next()))
    }
}

const V4: u128 = 0xffff_0000_0000;

fn cut(address: u128, bits: u32) -> u128 {
    address & u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

/// Prefixes as the policy has them: sorted, unique, and `::ffff:0:0/96` among them where one lies around it.
fn compiled(mut prefixes: Vec<(u128, u32)>) -> CompiledTables {
    if prefixes
        .iter()
        .any(|(address, bits)| *bits < 96 && cut(V4, *bits) == *address)
    {
        prefixes.push((V4, 96));
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    let owned = prefixes.iter().zip((1000..60_000_u16).cycle());
    let owner = |prefix: &(u128, u32), owner| if *prefix == (V4, 96) { WORLD } else { owner };
    let mut tables = CompiledTables {
        prefixes: owned
            .map(|(prefix, number)| (prefix.0.to_be_bytes(), prefix.1, owner(prefix, number)))
            .collect::<Vec<_>>()
            .into(),
        // It need not be the first in the lines.
        lines: vec![Line::default(); 3].into(),
        ..CompiledTables::default()
    };
    lay_out(&mut tables).expect("it fits");
    tables
}

/// The longest prefix, the slow way.
fn longest(tables: &CompiledTables, address: u128) -> SegmentIndex {
    let inside = tables
        .prefixes
        .iter()
        .filter(|(prefix, bits, _)| cut(address, *bits).to_be_bytes() == *prefix);
    inside
        .max_by_key(|(_, bits, _)| *bits)
        .map_or(WORLD, |(_, _, owner)| *owner)
}

fn agree(tables: &CompiledTables, address: u128) {
    let (claimed, expected) = (
        tables.claimed_by(&address.to_be_bytes()),
        longest(tables, address),
    );
    assert_eq!(claimed, expected, "{address:#x} of {:?}", tables.prefixes);
}

/// Every prefix's ends, and the addresses beside it.
fn ask(tables: &CompiledTables) {
    for (address, bits, _) in tables.prefixes.iter() {
        let first = u128::from_be_bytes(*address);
        let last = first | u128::MAX.checked_shr(*bits).unwrap_or(0);
        for address in [first.wrapping_sub(1), first, last, last.wrapping_add(1)] {
            agree(tables, address);
        }
    }
}

#[test]
fn an_address_is_found_in_the_longest_prefix_whatever_lengths_there_are() {
    let mut dice = Dice(1);
    for round in 0..1500 {
        // Few bits differ, so that prefixes lie in each other; of one family, the other, or both.
        let lengths = 1 + dice.next() % 40;
        let count = dice.next() % 30;
        let known: Vec<u32> = (0..lengths).map(|_| (dice.next() % 129) as u32).collect();
        let prefixes = (0..count).map(|_| {
            let bits = known[dice.next() as usize % known.len()];
            let noise = dice.address() & dice.address() & dice.address() & dice.address();
            match (round + dice.next()) % 3 {
                0 => {
                    let bits = 96 + bits % 33;
                    (cut(V4 | noise & 0xffff_ffff, bits), bits)
                }
                1 => (cut(noise, bits), bits),
                _ => (cut(0x2001_0db8 << 96 | noise >> 8, bits), bits),
            }
        });
        let tables = compiled(prefixes.collect());
        ask(&tables);
        for _ in 0..20 {
            let noise = dice.address() & dice.address() & dice.address();
            agree(&tables, noise);
            agree(&tables, V4 | noise & 0xffff_ffff);
            agree(&tables, dice.address());
        }
    }
}

#[test]
fn all_lengths_at_once_are_found_in_nine_looks() {
    let mut dice = Dice(7);
    for most in [1, 24, 64, 128] {
        let path = dice.address() | 1 << 127;
        // One prefix of each length, and many of one: nothing pulls a search below the ninth look.
        let mut prefixes: Vec<(u128, u32)> = (0..=128).map(|bits| (cut(path, bits), bits)).collect();
        prefixes.extend((0..500).map(|_| (cut(dice.address(), most), most)));
        prefixes.extend((96..=128).map(|bits| (cut(V4 | path & 0xffff_ffff, bits), bits)));
        let tables = compiled(prefixes);
        ask(&tables);
        let mut deepest = 0;
        let mut open: Vec<(u8, u32)> = tables.lengths.first.iter().map(|first| (*first, 1)).collect();
        let mut met = 0;
        while let Some((number, depth)) = open.pop() {
            if number != 0 {
                let length = tables.length(number);
                deepest = deepest.max(depth);
                met += 1;
                open.extend([(length.shorter, depth + 1), (length.longer, depth + 1)]);
            }
        }
        assert_eq!(met, 129 + 33);
        assert!(deepest <= MAX_LOOKS, "{deepest}");
    }
}

#[test]
fn what_most_prefixes_have_is_looked_at_first_and_needs_no_marks() {
    let mut dice = Dice(3);
    let hosts = (0..1000).map(|_| (V4 | u128::from(dice.next()), 128));
    let nets = [8, 16, 24].map(|bits| (cut(V4 | 0x0a01_0203, 96 + bits), 96 + bits));
    let tables = compiled(hosts.chain(nets).collect());
    assert_eq!(tables.length(tables.first_length(0)).bits, 128);
    assert_eq!(tables.first_length(1), 0);
    let entries = entries(&tables.prefixes, &tables.lengths);
    assert!(entries.len() <= tables.prefixes.len() + 2, "{}", entries.len());
}

#[test]
fn a_hundred_thousand_prefixes_take_what_they_need_and_are_found() {
    let mut dice = Dice(9);
    let hosts = (0..90_000).map(|_| (V4 | u128::from(dice.next()), 128));
    let hosts: Vec<(u128, u32)> = hosts.collect();
    let nets: Vec<u128> = (0..10_000).map(|_| V4 | u128::from(dice.next())).collect();
    let nets = nets.iter().zip(100..).map(|(address, bits)| {
        let bits = 112 + bits % 12;
        (cut(*address, bits), bits)
    });
    let tables = compiled(hosts.iter().copied().chain(nets).collect());
    let said = tables.lines.iter().flat_map(|line| {
        let says = line.cells[LINE_ENTRIES];
        [says.key, says.rule, says.low]
    });
    let held = said.filter(|entry| *entry != 0).count();
    let wanted = entries(&tables.prefixes, &tables.lengths);
    assert_eq!(held, wanted.len());
    assert!(tables.lines.len() * LINE_ENTRIES * 4 <= held * 5 + 16);
    for (address, _) in hosts.iter().step_by(97) {
        agree(&tables, *address);
    }
    for _ in 0..500 {
        agree(&tables, V4 | u128::from(dice.next()));
    }
}

#[test]
fn nobody_claims_anything_without_prefixes() {
    let tables = compiled(Vec::new());
    assert_eq!(tables.lines.len(), 3);
    assert_eq!(tables.prefix_table, Prefixes::default());
    for address in [0, V4, u128::MAX] {
        assert_eq!(tables.claimed_by(&address.to_be_bytes()), WORLD);
    }
}

#[test]
fn prefixes_whose_bits_and_lengths_make_up_for_each_other_find_a_place() {
    let up = (40..47).map(|bits| ((0x2001_0db8_2800 + u128::from((bits - 40) << 8)) << 80, bits));
    let down = (65..120).map(|bits| ((0x2001_0db8_u128 << 96) ^ u128::from(bits) << 88, bits));
    for prefixes in [up.collect::<Vec<_>>(), down.collect()] {
        let tables = compiled(prefixes);
        ask(&tables);
        assert_eq!(tables.prefix_table.seed, 0);
    }
}

#[test]
fn no_prefix_and_no_mark_is_held_twice() {
    let mut dice = Dice(5);
    for _ in 0..200 {
        let prefixes = (0..200).map(|_| {
            let bits = (dice.next() % 129) as u32;
            (cut(dice.address() & dice.address() & dice.address(), bits), bits)
        });
        let tables = compiled(prefixes.collect());
        let entries = entries(&tables.prefixes, &tables.lengths);
        let mut keys: Vec<(Address, u8)> = entries.iter().map(|held| (held.address, held.bits)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), entries.len());
    }
}
