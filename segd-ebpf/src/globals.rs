//! What the loader finds out about the running kernel and tells the programs before they are loaded.

macro_rules! global {
    ($(#[$doc:meta])* $name:ident, $reader:ident) => {
        #[unsafe(no_mangle)]
        static $name: u64 = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $reader() -> u64 {
            // SAFETY: a static of this object; volatile because the loader replaces its value after compilation.
            unsafe { core::ptr::read_volatile(&$name) }
        }
    };
}

global! {
    /// Offset of `cgroup.kn`.
    CGROUP_KN, cgroup_kn
}
global! {
    /// Offset of `cgroup.self.parent`.
    CGROUP_PARENT, cgroup_parent
}
global! {
    /// Offset of `cgroup.root`.
    CGROUP_ROOT, cgroup_root
}
global! {
    /// Offset of `cgroup_root.hierarchy_id`; 0 is the unified hierarchy.
    ROOT_HIERARCHY, root_hierarchy
}
global! {
    /// Offset of `kernfs_node.id`.
    KN_ID, kn_id
}
global! {
    /// Offset of `kernfs_node.name`.
    KN_NAME, kn_name
}
global! {
    /// Offset of `sock.sk_cgrp_data.cgroup`.
    SOCK_CGROUP, sock_cgroup
}
global! {
    /// Offset of `sock.sk_protocol`.
    SOCK_PROTOCOL, sock_protocol
}
global! {
    /// Offset of `sock.sk_socket`.
    SOCK_SOCKET, sock_socket
}
global! {
    /// Offset of `socket.file`.
    SOCKET_FILE, socket_file
}
global! {
    /// Offset of `sock.__sk_common.skc_family`; 0 if what stands around it is not as it was.
    SOCK_FAMILY, sock_family
}
global! {
    /// Offset of `sock.__sk_common.skc_v6_daddr`.
    SOCK_V6_PEER, sock_v6_peer
}
global! {
    /// Offset of `sock.__sk_common.skc_v6_rcv_saddr`.
    SOCK_V6_OWN, sock_v6_own
}
global! {
    /// Offset of `sock.__sk_common.skc_cookie`.
    SOCK_COOKIE, sock_cookie
}
global! {
    /// Offset in `net` of what hangs on the output of IPv4 packets; 0 without netfilter.
    NET_OUTPUT_V4, net_output_v4
}
global! {
    /// As above, of IPv6 packets.
    NET_OUTPUT_V6, net_output_v6
}
global! {
    /// Offset of `nf_hook_ops.priority`.
    HOOK_PRIORITY, hook_priority
}
global! {
    /// Offset of `sock.sk_reuseport_cb`.
    SOCK_GROUP, sock_group
}
global! {
    /// Offset of `sock_reuseport.num_socks`.
    GROUP_LEN, group_len
}
global! {
    /// Offset of `sock_reuseport.socks`.
    GROUP_SOCKS, group_socks
}
global! {
    /// Offset of `task_struct.nsproxy`.
    TASK_NSPROXY, task_nsproxy
}
global! {
    /// Offset of `task_struct.cgroups`.
    TASK_CGROUPS, task_cgroups
}
global! {
    /// Offset of `task_struct.start_boottime`.
    TASK_STARTED, task_started
}
global! {
    /// Offset of `task_struct.files`.
    TASK_FILES, task_files
}
global! {
    /// Offset of `task_struct.thread_pid`.
    TASK_PID, task_pid
}
global! {
    /// Offset of `pid.level`.
    PID_LEVEL, pid_level
}
global! {
    /// Offset of `pid.numbers`.
    PID_NUMBERS, pid_numbers
}
global! {
    /// Offset of `css_set.dfl_cgrp`.
    CSS_SET_CGROUP, css_set_cgroup
}
global! {
    /// Offset of `nsproxy.net_ns`.
    NSPROXY_NET, nsproxy_net
}
global! {
    /// Offset of `net.ns`.
    NET_COMMON, net_common
}
global! {
    /// Offset of `net.user_ns`.
    NET_OWNER, net_owner
}
global! {
    /// Offset of `user_namespace.level`; 0 is the initial one.
    OWNER_LEVEL, owner_level
}
global! {
    /// Offset of `ns_common.inum`.
    COMMON_INODE, common_inode
}
global! {
    /// Offset of `files_struct.fdt`.
    FILES_TABLE, files_table
}
global! {
    /// Offset of `fdtable.fd`.
    TABLE_FILES, table_files
}
global! {
    /// Offset of `file.f_inode`.
    FILE_INODE, file_inode
}
global! {
    /// Offset of `inode.i_private`: a namespace file's `ns_common`.
    INODE_PRIVATE, inode_private
}
global! {
    /// Offset of the word of `inet_sock` that holds a socket's flags.
    SOCK_FLAGS, sock_flags
}
global! {
    /// Its flags by which a socket may send from any address: `IP_HDRINCL`, `IP_TRANSPARENT`, `IP_FREEBIND`.
    SOCK_FORGES, sock_forges
}
global! {
    /// Not 0: every hook may ask a helper for its namespace's cookie.
    NAMESPACE_HELPER, namespace_helper
}
global! {
    /// Offset of `sock.__sk_common.skc_net.net`.
    SOCK_NET, sock_net
}
global! {
    /// Offset in `net` of what numbers namespaces.
    NET_NUMBER, net_number
}
global! {
    /// The bits of it that count.
    NET_NUMBER_MASK, net_number_mask
}
global! {
    /// The number of the initial network namespace.
    HOST_NAMESPACE, host_namespace
}
global! {
    /// Offset of `udp_sock.encap_rcv`: a tunnel that takes datagrams before any hook of their socket.
    UDP_TUNNEL, udp_tunnel
}
global! {
    /// Offset of `socket.sk`.
    SOCKET_SK, socket_sk
}
global! {
    /// Offset of `sock.__sk_common.skc_family`, whatever stands around it.
    FAMILY_ALONE, family_alone
}
global! {
    /// Offset of `task_struct.tgid`.
    TASK_TGID, task_tgid
}
global! {
    /// Offset of `dentry.d_parent`.
    DENTRY_PARENT, dentry_parent
}
global! {
    /// Offset of `dentry.d_inode`.
    DENTRY_INODE, dentry_inode
}
global! {
    /// Offset of `inode.i_ino`.
    INODE_NUMBER, inode_number
}
global! {
    /// Offset of `inode.i_sb`.
    INODE_SUPER, inode_super
}
global! {
    /// Offset of `super_block.s_dev`.
    SUPER_DEVICE, super_device
}
global! {
    /// Offset of `vfsmount.mnt_sb`.
    MOUNT_SUPER, mount_super
}
global! {
    /// Offset of `file.private_data`: of a link's descriptor, the link.
    FILE_PRIVATE, file_private
}
global! {
    /// Offset of `bpf_link.prog`.
    LINK_PROGRAM, link_program
}
global! {
    /// Offset of `bpf_prog.aux`.
    PROGRAM_AUX, program_aux
}
global! {
    /// Offset of `bpf_prog_aux.id`.
    PROGRAM_ID, program_id
}
global! {
    /// Offset of `bpf_map.id`.
    MAP_ID, map_id
}
global! {
    /// Not 0: programs of another layout enforce still; these judge and remember, but let everything pass and count
    /// nothing.
    LEARNING, learning
}
global! {
    /// Not 0: the hooks hang below the hierarchy's root, so not every receiver of this host has one.
    SUBTREE, subtree
}
global! {
    /// Not 0: this load hangs on no hook, and each run tells its ruling to who ran it.
    REHEARSAL, rehearsal
}

/// Memory that the verifier does not know the content of.
static ZERO: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// 0, which the verifier does not know.
// VERIFIER: before 6.5 every number is compared exactly once a function was called, so paths that differ in a constant never
// meet again. What is mixed with this is no constant.
#[inline(always)]
pub fn zero() -> u64 {
    // SAFETY: a static of this object, which nobody writes to.
    unsafe { core::ptr::read_volatile(ZERO.as_ptr()) }
}
