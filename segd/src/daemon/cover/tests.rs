//! What belongs where, by who is linked with whom.

use super::*;

/// The host's number for itself, as devices of others say.
const HOST: i32 = 100;
const EAST: u32 = 4;
const WEST: u32 = 5;

fn device(index: u32, kind: &str, other_end: Option<i32>) -> Device {
    Device {
        index,
        name: format!("d{index}"),
        kind: kind.to_owned(),
        other_end,
        ..Device::default()
    }
}

fn namespace(number: i32) -> NamespaceInfo {
    NamespaceInfo {
        cookie: 1000 + number as u64,
        inode: 2000 + number as u64,
        is_host: false,
        number: Some(number),
        addresses: Vec::new(),
        elsewhere: 0,
        more_addresses: false,
        devices: Vec::new(),
        cgroups: BTreeSet::new(),
    }
}

/// A host with a link to namespace 1 and one to namespace 2.
fn host() -> NamespaceInfo {
    NamespaceInfo {
        is_host: true,
        devices: vec![device(EAST, "veth", Some(1)), device(WEST, "netkit", Some(2))],
        ..namespace(HOST)
    }
}

fn hooks(map: &Topology, device: u32) -> Vec<Hook> {
    let seats = map.seats.iter().filter(|seat| seat.device == device);
    seats.map(|seat| seat.hook).collect()
}

#[test]
fn a_link_keeps_its_programs_when_its_other_end_goes_out_of_sight() {
    let map = Topology::of(&[host(), namespace(1)], &[]);
    for link in [EAST, WEST] {
        assert_eq!(hooks(&map, link), [Hook::Leave, Hook::ComeOut], "{link}");
    }
    assert_eq!(map.links, BTreeMap::from([(EAST, Link { namespace: 1001 })]));
    assert_eq!(map.unseen, ["d5"]);
}

#[test]
fn a_namespace_that_gets_no_number_is_at_no_links_end() {
    let nameless = NamespaceInfo {
        number: None,
        ..namespace(1)
    };
    let mut host = host();
    // A pair of which the host has both ends.
    host.devices.push(device(7, "veth", None));
    let map = Topology::of(&[host, nameless], &[]);
    assert!(map.links.is_empty() && hooks(&map, 7).is_empty(), "{map:?}");
    assert_eq!(hooks(&map, EAST), [Hook::Leave, Hook::ComeOut]);
}

#[test]
fn a_wire_that_is_a_link_is_left_to_the_operator() {
    let map = Topology::of(&[host(), namespace(1)], &["d4".to_owned(), "d5".to_owned()]);
    assert!(map.seats.is_empty() && map.links.is_empty() && map.unseen.is_empty());
}
