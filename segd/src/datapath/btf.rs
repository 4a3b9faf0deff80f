//! Field offsets of the running kernel, read from its BTF. No bindings, no CO-RE: some fifty numbers.
//!
//! Format: Documentation/bpf/btf.rst.

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

/// The kernel's own description.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in bytes, by the name of the global that takes each.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    /// `(global, offset)`.
    pub globals: Vec<(&'static str, u64)>,
    /// Of `net.net_cookie`, where there is one.
    pub net_cookie: Option<u64>,
    /// Of the inode number in `net`.
    pub net_inode: u64,
    /// The type of [`LSM_HOOK`], where security modules may be programs.
    pub lsm_hook: Option<u32>,
    /// A socket bears its cgroup or numbers of cgroup v1, not both (before 5.15).
    pub socket_numbers: bool,
}

/// A function that such a program can stand for.
const LSM_HOOK: &[u8] = b"bpf_lsm_bpf";

/// The offsets that the programs need. Read once: the kernel stays the same for as long as a process lives.
pub fn offsets() -> Result<Offsets, super::Error> {
    static READ: OnceLock<Offsets> = OnceLock::new();
    match READ.get() {
        Some(offsets) => Ok(offsets.clone()),
        None => read().map(|offsets| READ.get_or_init(|| offsets).clone()),
    }
}

fn read() -> Result<Offsets, super::Error> {
    let data = std::fs::read(Path::new(VMLINUX)).map_err(|error| super::Error::Host {
        what: format!("the kernel does not describe itself: {VMLINUX}: {error}"),
        help: "segd needs a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned(),
    })?;
    parse(&data).ok_or_else(|| super::Error::Host {
        what: format!("the kernel's description of itself lacks what segd looks for: {VMLINUX}"),
        help: "report the kernel's version; it needs cgroup v2 and CONFIG_DEBUG_INFO_BTF".to_owned(),
    })
}

fn parse(data: &[u8]) -> Option<Offsets> {
    let types = Types::parse(data)?;
    let css = types.member("cgroup", "self")?;
    let data = types.member("sock", "sk_cgrp_data")?;
    let (flags, forges) = types.forging_flags();
    Some(Offsets {
        globals: vec![
            ("CGROUP_KN", types.member("cgroup", "kn")?),
            (
                "CGROUP_PARENT",
                css + types.member("cgroup_subsys_state", "parent")?,
            ),
            ("CGROUP_ROOT", types.member("cgroup", "root")?),
            ("ROOT_HIERARCHY", types.member("cgroup_root", "hierarchy_id")?),
            ("KN_ID", types.member("kernfs_node", "id")?),
            ("KN_NAME", types.member("kernfs_node", "name")?),
            // Before 5.15 a word without a name that is a pointer or, marked as such, cgroup v1's numbers.
            (
                "SOCK_CGROUP",
                data + types.member("sock_cgroup_data", "cgroup").unwrap_or(0),
            ),
            ("SOCK_NET", types.common("skc_net")?),
            ("SOCK_FAMILY", types.family()?),
            // Zero without IPv6, and then not looked at.
            ("SOCK_V6_PEER", types.common("skc_v6_daddr").unwrap_or(0)),
            ("SOCK_V6_OWN", types.common("skc_v6_rcv_saddr").unwrap_or(0)),
            ("SOCK_COOKIE", types.common("skc_cookie")?),
            ("NET_OUTPUT_V4", types.output("hooks_ipv4")),
            ("NET_OUTPUT_V6", types.output("hooks_ipv6")),
            (
                "HOOK_PRIORITY",
                types.member("nf_hook_ops", "priority").unwrap_or(0),
            ),
            ("SOCK_FLAGS", flags),
            ("SOCK_FORGES", forges),
            ("SOCK_PROTOCOL", types.member("sock", "sk_protocol")?),
            ("SOCK_SOCKET", types.member("sock", "sk_socket")?),
            ("SOCKET_FILE", types.member("socket", "file")?),
            ("SOCK_GROUP", types.member("sock", "sk_reuseport_cb")?),
            ("GROUP_LEN", types.member("sock_reuseport", "num_socks")?),
            ("GROUP_SOCKS", types.member("sock_reuseport", "socks")?),
            ("TASK_NSPROXY", types.member("task_struct", "nsproxy")?),
            ("TASK_CGROUPS", types.member("task_struct", "cgroups")?),
            ("TASK_STARTED", types.member("task_struct", "start_boottime")?),
            ("TASK_FILES", types.member("task_struct", "files")?),
            ("TASK_PID", types.member("task_struct", "thread_pid")?),
            ("PID_LEVEL", types.member("pid", "level")?),
            ("PID_NUMBERS", types.member("pid", "numbers")?),
            ("CSS_SET_CGROUP", types.member("css_set", "dfl_cgrp")?),
            ("NSPROXY_NET", types.member("nsproxy", "net_ns")?),
            ("NET_COMMON", types.member("net", "ns")?),
            ("NET_OWNER", types.member("net", "user_ns")?),
            ("OWNER_LEVEL", types.member("user_namespace", "level")?),
            ("COMMON_INODE", types.member("ns_common", "inum")?),
            ("FILES_TABLE", types.member("files_struct", "fdt")?),
            ("TABLE_FILES", types.member("fdtable", "fd")?),
            ("FILE_INODE", types.member("file", "f_inode")?),
            ("INODE_PRIVATE", types.member("inode", "i_private")?),
            ("UDP_TUNNEL", types.member("udp_sock", "encap_rcv")?),
            ("SOCKET_SK", types.member("socket", "sk")?),
            ("FAMILY_ALONE", types.common("skc_family")?),
            ("TASK_TGID", types.member("task_struct", "tgid")?),
            ("DENTRY_PARENT", types.member("dentry", "d_parent")?),
            ("DENTRY_INODE", types.member("dentry", "d_inode")?),
            ("INODE_NUMBER", types.member("inode", "i_ino")?),
            ("INODE_SUPER", types.member("inode", "i_sb")?),
            ("SUPER_DEVICE", types.member("super_block", "s_dev")?),
            ("MOUNT_SUPER", types.member("vfsmount", "mnt_sb")?),
            ("FILE_PRIVATE", types.member("file", "private_data")?),
            ("LINK_PROGRAM", types.member("bpf_link", "prog")?),
            ("PROGRAM_AUX", types.member("bpf_prog", "aux")?),
            ("PROGRAM_ID", types.member("bpf_prog_aux", "id")?),
            ("MAP_ID", types.member("bpf_map", "id")?),
        ],
        net_cookie: types.member("net", "net_cookie"),
        net_inode: types.member("net", "ns")? + types.member("ns_common", "inum")?,
        lsm_hook: types.lsm_hook,
        socket_numbers: types.member("sock_cgroup_data", "cgroup").is_none(),
    })
}

struct Types<'a> {
    strings: &'a [u8],
    /// Struct name to its members' names and bit offsets.
    structs: BTreeMap<&'a [u8], Vec<(&'a [u8], u32)>>,
    lsm_hook: Option<u32>,
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        data.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

impl<'a> Types<'a> {
    fn parse(data: &'a [u8]) -> Option<Types<'a>> {
        const STRUCT: u32 = 4;
        const FUNC: u32 = 12;
        let header = word(data, 4)? as usize;
        let part = |offset: usize, len: usize| -> Option<&'a [u8]> {
            let start = header + word(data, offset)? as usize;
            data.get(start..start + word(data, len)? as usize)
        };
        let (records, strings) = (part(8, 12)?, part(16, 20)?);
        let mut types = Types {
            strings,
            structs: BTreeMap::new(),
            lsm_hook: None,
        };
        let wanted: [&[u8]; 31] = [
            b"cgroup",
            b"cgroup_subsys_state",
            b"cgroup_root",
            b"kernfs_node",
            b"sock",
            b"sock_cgroup_data",
            b"sock_common",
            b"sock_reuseport",
            b"socket",
            b"task_struct",
            b"pid",
            b"css_set",
            b"nsproxy",
            b"net",
            b"user_namespace",
            b"ns_common",
            b"files_struct",
            b"fdtable",
            b"file",
            b"inode",
            b"inet_sock",
            b"udp_sock",
            b"dentry",
            b"super_block",
            b"vfsmount",
            b"bpf_link",
            b"bpf_prog",
            b"bpf_prog_aux",
            b"bpf_map",
            b"netns_nf",
            b"nf_hook_ops",
        ];
        // Types have no numbers but their places; 0 is `void`.
        let mut number = 0;
        let mut at = 0;
        while at < records.len() {
            number += 1;
            let name = types.string(word(records, at)?)?;
            let info = word(records, at + 4)?;
            let (kind, len, by_bits) = (info >> 24 & 0x1f, (info & 0xffff) as usize, info >> 31 != 0);
            let body = at + 12;
            if kind == STRUCT && wanted.contains(&name) {
                let mut members = Vec::with_capacity(len);
                for member in 0..len {
                    let offset = word(records, body + member * 12 + 8)?;
                    let name = types.string(word(records, body + member * 12)?)?;
                    members.push((name, if by_bits { offset & 0x00ff_ffff } else { offset }));
                }
                types.structs.entry(name).or_insert(members);
            }
            if kind == FUNC && name == LSM_HOOK {
                types.lsm_hook = Some(number);
            }
            at = body + body_len(kind, len)?;
        }
        Some(types)
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings
            .get(offset as usize..)?
            .split(|byte| *byte == 0)
            .next()
    }

    fn member(&self, of: &str, name: &str) -> Option<u64> {
        self.bit(of, name).map(|bit| bit / 8)
    }

    fn bit(&self, of: &str, name: &str) -> Option<u64> {
        let members = self.structs.get(of.as_bytes())?;
        let (_, bit) = members.iter().find(|(member, _)| *member == name.as_bytes())?;
        Some(u64::from(*bit))
    }

    /// A member of what all sockets have in common.
    fn common(&self, name: &str) -> Option<u64> {
        Some(self.member("sock", "__sk_common")? + self.member("sock_common", name)?)
    }

    /// Where `net` keeps what hangs on the output of one protocol (`NF_INET_LOCAL_OUT`); 0 without netfilter.
    fn output(&self, hooks: &str) -> u64 {
        const LOCAL_OUT: u64 = 3;
        let all = self.member("net", "nf").zip(self.member("netns_nf", hooks));
        all.map_or(0, |(nf, hooks)| nf + hooks + LOCAL_OUT * 8)
    }

    /// Where a socket's family is; 0 if its state and its device do not stand behind it. The addresses and ports before
    /// it lie in unions without names, and have stood there since 3.13 (include/net/sock.h).
    fn family(&self) -> Option<u64> {
        let at = self.common("skc_family")?;
        let whole = self.common("skc_state")? == at + 2 && self.common("skc_bound_dev_if")? == at + 4;
        Some(if whole && at >= 16 { at } else { 0 })
    }

    /// Where a socket's word of flags is, and which of its bits let it send from any address; zeros if they are not
    /// there to be found.
    fn forging_flags(&self) -> (u64, u64) {
        // Since 6.6 one word; INET_FLAGS_FREEBIND, _HDRINCL and _TRANSPARENT of include/net/inet_sock.h.
        if let Some(word) = self.member("inet_sock", "inet_flags") {
            return (word, 1 << 11 | 1 << 12 | 1 << 15);
        }
        // Before, members of one bit each, side by side.
        let names = ["freebind", "hdrincl", "transparent"];
        let bits: Option<Vec<u64>> = names.iter().map(|name| self.bit("inet_sock", name)).collect();
        let bits = bits.unwrap_or_default();
        let first = bits.iter().min().map_or(0, |bit| bit / 8);
        let near = bits.iter().all(|bit| bit - first * 8 < 64);
        if near {
            (
                first,
                bits.iter().fold(0, |mask, bit| mask | 1 << (bit - first * 8)),
            )
        } else {
            (0, 0)
        }
    }
}

/// How many bytes follow a type's common part.
fn body_len(kind: u32, len: usize) -> Option<usize> {
    Some(match kind {
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => len * 12,
        // ENUM, FUNC_PROTO
        6 | 13 => len * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_every_offset_in_the_running_kernel() {
        if !std::path::Path::new(super::VMLINUX).exists() {
            assert!(
                std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(),
                "{} is missing",
                super::VMLINUX
            );
            eprintln!("skipped: {} is missing", super::VMLINUX);
            return;
        }
        let offsets = super::offsets().unwrap();
        assert_eq!(offsets.globals.len(), 55);
        // These lie at the start of their structures, or may.
        let first = [
            "CGROUP_PARENT",
            "NET_COMMON",
            "COMMON_INODE",
            "OWNER_LEVEL",
            "PID_LEVEL",
        ];
        for (name, offset) in offsets.globals {
            assert!(
                offset > 0 || first.contains(&name),
                "{name} lies at the start of its structure"
            );
        }
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert!(super::parse(&[]).is_none());
        assert!(super::parse(&[0xff; 64]).is_none());
    }
}
