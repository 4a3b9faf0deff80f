//! How much stack each chain of calls in the kernel programs takes, counted as the oldest kernels count it.
//!
//! The kernel these tests run on may count more kindly: since 6.8 a frame is rounded to 16 bytes, before to 32.

use std::collections::{BTreeMap, BTreeSet};

use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

/// A function: its section, and the number of its first instruction there.
type At = (usize, i64);

/// `MAX_BPF_STACK`.
const ROOM: i64 = 512;
/// How a frame is rounded before Linux 6.8 (kernel/bpf/verifier.c, `check_max_stack_depth`).
const ROUND: i64 = 32;

#[derive(Default)]
struct Function {
    name: String,
    entry: bool,
    frame: i64,
    calls: BTreeSet<At>,
}

struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i64,
    number: i64,
}

impl Instruction {
    fn decode(bytes: &[u8]) -> Instruction {
        let [code, registers, o0, o1, n0, n1, n2, n3] = bytes.try_into().expect("eight bytes");
        Instruction {
            code,
            to: registers & 15,
            from: registers >> 4,
            offset: i64::from(i16::from_le_bytes([o0, o1])),
            number: i64::from(i32::from_le_bytes([n0, n1, n2, n3])),
        }
    }
}

/// Every function of an object.
fn functions(object: &[u8]) -> BTreeMap<At, Function> {
    let file = File::parse(object).expect("an ELF file");
    let mut all = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let index = symbol.section_index().expect("a function is in a section");
        let section = file.section_by_index(index).expect("the section exists");
        let first = symbol.address() as i64 / 8;
        let code = section.data().expect("code").chunks(8).skip(first as usize);
        let mut function = Function {
            name: symbol.name().expect("a name").to_owned(),
            entry: section.name().expect("a name") != ".text",
            ..Function::default()
        };
        let targets: BTreeMap<u64, _> = section.relocations().collect();
        // A register that holds the frame pointer until something is added to it.
        let mut pointer = None;
        for (at, bytes) in (first..).zip(code.take(symbol.size() as usize / 8)) {
            let this = Instruction::decode(bytes);
            match this.code {
                // r = r10; r += -frame
                0xbf if this.from == 10 => pointer = Some(this.to),
                0x07 if pointer == Some(this.to) => {
                    function.frame = function.frame.max(-this.number);
                    pointer = None;
                }
                // A call of a function of this object.
                0x85 if this.from == 1 => {
                    let target = targets.get(&(at as u64 * 8)).map(object::Relocation::target);
                    function.calls.insert(match target {
                        Some(RelocationTarget::Symbol(index)) => {
                            let called = file.symbol_by_index(index).expect("a symbol");
                            let section = called.section_index().expect("a function is in a section");
                            (section.0, called.address() as i64 / 8 + this.number + 1)
                        }
                        _ => (index.0, at + this.number + 1),
                    });
                }
                // Loads and stores below the frame pointer.
                code if matches!(code & 7, 2 | 3) && this.to == 10 || code & 7 == 1 && this.from == 10 => {
                    function.frame = function.frame.max(-this.offset);
                }
                _ => {}
            }
        }
        all.insert((index.0, first), function);
    }
    all
}

/// The chain of calls that takes most, innermost last.
fn deepest(all: &BTreeMap<At, Function>, at: &At) -> (i64, Vec<String>) {
    let function = all.get(at).expect("calls lead to functions");
    let frame = (function.frame.max(1) + ROUND - 1) / ROUND * ROUND;
    let below = function.calls.iter().map(|called| deepest(all, called));
    let (depth, chain) = below.max().unwrap_or_default();
    let own = format!("{} {frame}", function.name);
    (frame + depth, std::iter::once(own).chain(chain).collect())
}

#[test]
fn the_verifier_of_old_kernels_finds_room_on_the_stack() {
    let all = functions(super::object::OBJECT);
    let entries: Vec<_> = all.iter().filter(|(_, function)| function.entry).collect();
    assert!(entries.len() > 8, "the object's programs were found");
    let mut deep = Vec::new();
    for (at, _) in entries {
        let (depth, chain) = deepest(&all, at);
        if depth > ROOM {
            deep.push(format!("{depth} bytes: {}", chain.join(" > ")));
        }
    }
    assert!(
        deep.is_empty(),
        "more than {ROOM} bytes of stack:\n{}",
        deep.join("\n")
    );
}
