//! Which program hangs on which hook.

/// A program and its hook.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The pin's name, and how status calls it.
    pub name: &'static str,
    /// The program.
    pub(in crate::datapath) program: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// On the cgroup root, by `bpf_attach_type`.
    Cgroup(u32),
    /// On a raw tracepoint.
    Tracepoint(&'static str),
    /// On the LSM hook that its program was loaded for.
    Lsm,
}

/// Births and releases of cgroups: attached before anything is tagged, so that no birth is missed.
pub const TRACEPOINTS: &[Hook] = &[
    Hook {
        name: "cgroup_mkdir",
        program: "segd_born",
        kind: Kind::Tracepoint("cgroup_mkdir"),
    },
    Hook {
        name: "cgroup_release",
        program: "segd_released",
        kind: Kind::Tracepoint("cgroup_release"),
    },
];

/// The hooks that judge: attached when a policy is in force, in the order in which they hand over to each other.
pub const JUDGES: &[Hook] = &[
    Hook {
        name: "sock_ops",
        program: "segd_accept",
        kind: Kind::Cgroup(3),
    },
    Hook {
        name: "egress",
        program: "segd_egress",
        kind: Kind::Cgroup(1),
    },
    Hook {
        name: "ingress",
        program: "segd_ingress",
        kind: Kind::Cgroup(0),
    },
    Hook {
        name: "connect4",
        program: "segd_connect4",
        kind: Kind::Cgroup(10),
    },
    Hook {
        name: "connect6",
        program: "segd_connect6",
        kind: Kind::Cgroup(11),
    },
    Hook {
        name: "sendmsg4",
        program: "segd_sendmsg4",
        kind: Kind::Cgroup(14),
    },
    Hook {
        name: "sendmsg6",
        program: "segd_sendmsg6",
        kind: Kind::Cgroup(15),
    },
];

/// Where the kernel asks BPF programs as a security module: sockets that pass no other hook.
pub const SOCKETS: &[Hook] = &[
    Hook {
        name: "lsm_socket_create",
        program: "segd_lsm_socket_create",
        kind: Kind::Lsm,
    },
    Hook {
        name: "lsm_socket_bind",
        program: "segd_lsm_socket_bind",
        kind: Kind::Lsm,
    },
    Hook {
        name: "lsm_socket_sendmsg",
        program: "segd_lsm_socket_sendmsg",
        kind: Kind::Lsm,
    },
];

/// The hooks at the cgroup root, with their `bpf_attach_type`.
pub fn cgroup_hooks() -> impl Iterator<Item = (&'static str, u32)> {
    JUDGES.iter().filter_map(|hook| match hook.kind {
        Kind::Cgroup(attach_type) => Some((hook.name, attach_type)),
        Kind::Tracepoint(_) | Kind::Lsm => None,
    })
}
