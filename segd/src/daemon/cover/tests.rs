//! What belongs where, by who is linked with whom.

use segd_common::address::mapped;

use super::*;
use crate::workload::namespaces::Held;

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
        number: Some(number),
        ..NamespaceInfo::default()
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

/// A host in a container: its own link leads to a namespace outside of what it sees, and from there come all others' packets.
#[test]
fn the_hosts_own_way_out_is_no_containers_link() {
    let mut host = host();
    for device in &mut host.devices {
        device.is_way_out = true;
    }
    let map = Topology::of(&[host, namespace(1)], &[]);
    assert_eq!(
        hooks(&map, EAST),
        [Hook::Leave, Hook::ComeOut],
        "who is there is seen"
    );
    assert_eq!(hooks(&map, WEST), [Hook::Depart]);
    assert!(map.unseen.is_empty());
}

#[test]
fn a_wire_that_is_a_link_is_left_to_the_operator() {
    let map = Topology::of(&[host(), namespace(1)], &["d4".to_owned(), "d5".to_owned()]);
    assert!(map.links.is_empty() && map.unseen.is_empty());
    for link in [EAST, WEST] {
        assert_eq!(hooks(&map, link), [Hook::Depart], "{link}");
    }
}

#[test]
fn a_nic_is_asked_for_borrowed_addresses_and_a_tunnel_is_not() {
    let mut host = host();
    host.devices.push(device(7, "", None));
    host.devices.push(device(8, "wireguard", None));
    let map = Topology::of(&[host, namespace(1)], &[]);
    assert_eq!(hooks(&map, 7), [Hook::Depart, Hook::Arrive]);
    assert_eq!(hooks(&map, 8), [Hook::Leave, Hook::Enter]);
}

#[test]
fn a_vlan_in_a_vlan_is_asked_as_a_nic_is() {
    let mut host = host();
    host.devices.push(device(7, "", None));
    for (index, lower) in [(8, 7), (9, 8)] {
        host.devices.push(Device {
            lower: Some(lower),
            ..device(index, "vlan", None)
        });
    }
    let map = Topology::of(&[host, namespace(1)], &[]);
    assert_eq!(hooks(&map, 8), [], "its tag is beside the packet");
    assert_eq!(hooks(&map, 9), [Hook::Depart, Hook::Arrive]);
}

fn v6(text: &str) -> Address {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn kind_of(map: &Topology, device: u32, address: Address) -> Option<u32> {
    map.sources.get(&Source { device, address }).copied()
}

#[test]
fn nobody_sends_by_an_address_of_the_hosts() {
    const BRIDGE: u32 = 8;
    const TAGGED: u32 = 9;
    let (gate, mine) = (mapped([192, 0, 2, 1]), mapped([192, 0, 2, 2]));
    let (of_bridge, of_vlan) = (v6("fe80::b"), v6("fe80::c"));
    let mut host = host();
    host.devices[0].master = Some(BRIDGE);
    host.devices.push(device(BRIDGE, "bridge", None));
    host.devices.push(Device {
        lower: Some(BRIDGE),
        ..device(TAGGED, "vlan", None)
    });
    let held = |address, device| Held {
        address,
        prefix: 64,
        device,
    };
    host.held = vec![held(gate, BRIDGE), held(of_bridge, BRIDGE), held(of_vlan, TAGGED)];
    let ends = [1, 2].map(|number| NamespaceInfo {
        addresses: vec![gate, mine, of_bridge, of_vlan],
        ..namespace(number)
    });
    let [east, west] = ends;
    let unlinked = NamespaceInfo {
        addresses: vec![gate],
        ..namespace(3)
    };
    let map = Topology::of(&[host, east, west, unlinked], &[]);
    for link in [EAST, WEST] {
        assert_eq!(kind_of(&map, link, gate), None, "{link}");
        assert_eq!(kind_of(&map, link, mine), Some(SOURCE_OWN), "{link}");
    }
    // Addresses of a link alone are the host's on that link, and anybody's elsewhere.
    for address in [of_bridge, of_vlan] {
        assert_eq!(kind_of(&map, EAST, address), None);
        assert_eq!(kind_of(&map, WEST, address), Some(SOURCE_OWN));
    }
}

/// A namespace with one address, and links to others.
fn at(number: i32, address: Address, ends: &[i32]) -> NamespaceInfo {
    NamespaceInfo {
        addresses: vec![address, v6("fe80::7")],
        ends: ends.iter().copied().collect(),
        ..namespace(number)
    }
}

fn v4(last: u8) -> Address {
    mapped([192, 0, 2, last])
}

#[test]
fn a_container_in_a_container_sends_by_the_link_of_the_one_that_holds_it() {
    let all = [
        host(),
        at(1, v4(1), &[HOST, 7]),
        at(2, v4(2), &[HOST]),
        // Behind one that is not listed.
        at(3, v4(3), &[7]),
        at(4, v4(4), &[3]),
    ];
    let map = Topology::of(&all, &[]);
    for address in [v4(3), v4(4)] {
        assert_eq!(kind_of(&map, EAST, address), Some(SOURCE_BEHIND));
        assert_eq!(kind_of(&map, WEST, address), None);
    }
    assert_eq!(kind_of(&map, EAST, v4(2)), None);
}

#[test]
fn who_has_a_leg_of_his_own_or_none_is_behind_nobody() {
    let all = [
        host(),
        at(1, v4(1), &[HOST]),
        at(2, v4(2), &[HOST]),
        // A macvlan on the host's NIC; no network.
        at(3, v4(3), &[HOST]),
        at(4, v4(4), &[]),
    ];
    let map = Topology::of(&all, &[]);
    let own: BTreeSet<Address> = [v4(1), v4(2), v6("fe80::7")].into();
    assert!(
        map.sources.keys().all(|source| own.contains(&source.address)),
        "{map:?}"
    );
    assert_eq!(map.left_out, 0);
}

#[test]
fn who_is_behind_a_link_leaves_room_for_others() {
    const BESIDE: i32 = 200;
    let many = |number: i32| NamespaceInfo {
        addresses: (0..1024_u16)
            .map(|last| {
                let [high, low] = last.to_be_bytes();
                mapped([198, number as u8, high, low])
            })
            .collect(),
        ..at(number, v4(0), &[1])
    };
    let links = BESIDE..BESIDE + 100;
    let mut all = vec![host(), at(1, v4(1), &[HOST])];
    all.extend((10..12).map(many));
    for number in links.clone() {
        all[0]
            .devices
            .push(device(1000 + number as u32, "veth", Some(number)));
        all.push(at(number, v4(number as u8), &[HOST, 1]));
    }
    let map = Topology::of(&all, &[]);
    let behind = map
        .sources
        .values()
        .filter(|kind| **kind == SOURCE_BEHIND)
        .count();
    let own = map.sources.len() - behind;
    assert_eq!(
        (behind, own),
        (MAX_BEHIND, 2 * 101),
        "each has an address, and one of its link's alone"
    );
    assert_eq!(map.left_out, 101 * 2048 - MAX_BEHIND);
    let of_one = map
        .sources
        .iter()
        .filter(|(source, kind)| source.device == EAST && **kind == SOURCE_BEHIND);
    assert_eq!(of_one.count(), MAX_BEHIND_ONE);
}
