//! How network namespaces are numbered: found by trying and not by the kernel's version, as distributions carry features
//! back.

use super::{
    Error,
    btf::Offsets,
    feature,
    kernel::{self, Namespace},
};

/// How the programs number network namespaces, as globals: by a helper where every hook may call it, else by
/// reading the same number from the kernel's memory.
pub fn namespace_globals(offsets: &Offsets) -> Result<[(&'static str, u64); 3], Error> {
    let own = kernel::own_namespace()?;
    let (number, mask) = match (own, offsets.net_cookie) {
        (Namespace::Cookie(_), Some(offset)) => (offset, u64::MAX),
        // `inum` is an unsigned int.
        (Namespace::Inode(_), _) => (offsets.net_inode, u64::from(u32::MAX)),
        (Namespace::Cookie(_), None) => {
            return Err(Error::Host {
                what: "the kernel tells cookies of network namespaces, but not where it keeps them"
                    .to_owned(),
                help: "report the kernel's version".to_owned(),
            });
        }
    };
    let helper = matches!(own, Namespace::Cookie(_)) && feature::every_hook_may_ask_for_its_namespace()?;
    Ok([
        ("NAMESPACE_HELPER", u64::from(helper)),
        ("NET_NUMBER", number),
        ("NET_NUMBER_MASK", mask),
    ])
}
