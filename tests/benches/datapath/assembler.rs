//! What segd is compared with inside the kernel: programs of the same type that do one thing each, by hand.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::bpf::{self, CGROUP_SKB, HASH, LPM_TRIE, NO_PREALLOC};

/// One instruction (`struct bpf_insn`).
const fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

const LOAD_WORD: u8 = 0x61;
const LOAD_BYTE: u8 = 0x71;
const STORE_WORD: u8 = 0x63;
const STORE_VALUE: u8 = 0x62;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const ADD_VALUE: u8 = 0x07;
const AND_VALUE: u8 = 0x57;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const IF_NOT_LESS: u8 = 0x3d;
const IF_VALUE: u8 = 0x15;
const IF_NOT_VALUE: u8 = 0x55;
/// `bpf_map_lookup_elem`.
const LOOKUP: i32 = 1;
/// Fields of `struct __sk_buff`.
const DATA: i16 = 76;
const DATA_END: i16 = 80;

/// The two instructions that put a map into a register.
fn map_into(register: u8, map: &OwnedFd) -> [u64; 2] {
    [op(0x18, register, 1, 0, map.as_raw_fd()), 0]
}

/// Answers 1 to everything: what a hook costs. For XDP that is a drop.
pub fn empty(kind: u32) -> io::Result<OwnedFd> {
    answers(kind, 1)
}

/// Answers the same to everything.
pub fn answers(kind: u32, answer: i32) -> io::Result<OwnedFd> {
    bpf::load(kind, &[op(MOVE_VALUE, 0, 0, 0, answer), op(EXIT, 0, 0, 0, 0)])
}

/// `r2` = the packet if it has `length` bytes, else the program answers 0.
fn packet(length: i32) -> Vec<u64> {
    vec![
        op(LOAD_WORD, 2, 1, DATA, 0),
        op(LOAD_WORD, 3, 1, DATA_END, 0),
        op(MOVE, 4, 2, 0, 0),
        op(ADD_VALUE, 4, 0, 0, length),
        op(IF_NOT_LESS, 3, 4, 2, 0),
        op(MOVE_VALUE, 0, 0, 0, 0),
        op(EXIT, 0, 0, 0, 0),
    ]
}

/// The key of [`one_hash`]: both addresses and the protocol, 16 bytes.
fn key(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Vec<u8> {
    let mut key = source.octets().to_vec();
    key.extend(destination.octets());
    key.extend([protocol, 0, 0, 0, 0, 0, 0, 0]);
    key
}

/// A program and the maps it reads.
#[derive(Debug)]
pub struct Compared {
    /// The program.
    pub program: OwnedFd,
    _maps: Vec<OwnedFd>,
}

/// One lookup in a hash of 16-byte keys: the unit `H`. What is not in it is refused. IPv4 alone.
pub fn one_hash(entries: &[(Ipv4Addr, Ipv4Addr, u8)]) -> io::Result<Compared> {
    let map = bpf::create_map(HASH, 16, 4, 1024, 0)?;
    for (source, destination, protocol) in entries {
        bpf::write(&map, &key(*source, *destination, *protocol), 1)?;
    }
    let mut code = packet(20);
    code.extend([
        op(LOAD_WORD, 3, 2, 12, 0),
        op(STORE_WORD, 10, 3, -16, 0),
        op(LOAD_WORD, 3, 2, 16, 0),
        op(STORE_WORD, 10, 3, -12, 0),
        op(LOAD_BYTE, 3, 2, 9, 0),
        op(STORE_WORD, 10, 3, -8, 0),
        op(STORE_VALUE, 10, 0, -4, 0),
    ]);
    code.extend(lookup(&map, -16));
    code.extend([
        op(IF_VALUE, 0, 0, 2, 0),
        op(LOAD_WORD, 0, 0, 0, 0),
        op(AND_VALUE, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
    ]);
    let program = bpf::load(CGROUP_SKB, &code)?;
    Ok(Compared {
        program,
        _maps: vec![map],
    })
}

fn lookup(map: &OwnedFd, key: i32) -> Vec<u64> {
    let mut code = map_into(1, map).to_vec();
    code.extend([
        op(MOVE, 2, 10, 0, 0),
        op(ADD_VALUE, 2, 0, 0, key),
        op(CALL, 0, 0, 0, LOOKUP),
    ]);
    code
}

/// systemd's `IPAddressAllow=`/`IPAddressDeny=` in shape: one trie of what is allowed, one of what is denied, asked for
/// the peer's address. Everything else is denied. IPv4 alone; `hook` says where the peer's address stands.
pub fn two_tries(hook: bpf::Hook, allowed: &[(Ipv4Addr, u8)]) -> io::Result<Compared> {
    let trie = |entries: &[(Ipv4Addr, u8)]| -> io::Result<OwnedFd> {
        let map = bpf::create_map(LPM_TRIE, 8, 4, 1024, NO_PREALLOC)?;
        for (address, length) in entries {
            let mut key = u32::from(*length).to_ne_bytes().to_vec();
            key.extend(address.octets());
            bpf::write(&map, &key, 1)?;
        }
        Ok(map)
    };
    let (allow, deny) = (trie(allowed)?, trie(&[(Ipv4Addr::UNSPECIFIED, 0)])?);
    let peer = match hook {
        bpf::Hook::Ingress => 12,
        bpf::Hook::Egress => 16,
    };
    let mut code = packet(20);
    code.extend([
        op(STORE_VALUE, 10, 0, -8, 32),
        op(LOAD_WORD, 3, 2, peer, 0),
        op(STORE_WORD, 10, 3, -4, 0),
    ]);
    code.extend(lookup(&allow, -8));
    code.push(op(MOVE, 7, 0, 0, 0));
    code.extend(lookup(&deny, -8));
    code.extend([
        op(IF_VALUE, 0, 0, 3, 0),
        op(IF_NOT_VALUE, 7, 0, 2, 0),
        op(MOVE_VALUE, 0, 0, 0, 0),
        op(EXIT, 0, 0, 0, 0),
        op(MOVE_VALUE, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
    ]);
    let program = bpf::load(CGROUP_SKB, &code)?;
    Ok(Compared {
        program,
        _maps: vec![allow, deny],
    })
}
