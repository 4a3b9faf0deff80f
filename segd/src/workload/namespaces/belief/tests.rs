//! Whom the routes of a host confirm.

use segd_common::address::mapped;

use super::*;

const WIRE: u32 = 2;
const BRIDGE: u32 = 3;
const PORT: u32 = 4;
const LINK: u32 = 5;
const TAGGED: u32 = 6;
const INNER: u32 = 7;

/// A wire, a bridge with a link to namespace 1 as a port, a link to namespace 2, a VLAN of the bridge, and a pair of
/// which the host has both ends.
fn host() -> Vec<Device> {
    let device = |index, kind: &str| Device {
        index,
        name: format!("d{index}"),
        kind: kind.to_owned(),
        ..Device::default()
    };
    vec![
        device(WIRE, ""),
        device(BRIDGE, "bridge"),
        Device {
            master: Some(BRIDGE),
            other_end: Some(1),
            ..device(PORT, "veth")
        },
        Device {
            other_end: Some(2),
            ..device(LINK, "veth")
        },
        Device {
            lower: Some(BRIDGE),
            ..device(TAGGED, "vlan")
        },
        Device {
            lower: Some(99),
            ..device(INNER, "veth")
        },
    ]
}

fn v4(last: u8) -> Address {
    mapped([192, 0, 2, last])
}

/// A namespace with one device and one address on it.
fn told(number: i32, address: Address, kind: &str, other_end: Option<i32>) -> Told {
    Told {
        number: Some(number),
        held: vec![Held {
            address,
            prefix: 120,
            device: 10,
        }],
        devices: vec![Device {
            index: 10,
            kind: kind.to_owned(),
            lower: Some(20),
            other_end,
            ..Device::default()
        }],
    }
}

/// The host's own number, as links to it say.
const HOST: i32 = 100;

#[test]
fn what_the_hosts_routes_lead_elsewhere_is_elsewhere() {
    let first = told(1, v4(1), "veth", Some(HOST));
    let second = told(2, v4(2), "veth", Some(HOST));
    let is_believed =
        |one: &Told, other: &Told, leads| !believed(one, &[other], &host(), |_| leads).is_empty();
    for (leads, of_first, of_second) in [
        (Leads::By(WIRE), false, false),
        (Leads::By(BRIDGE), true, false),
        (Leads::By(TAGGED), true, false),
        (Leads::By(PORT), true, false),
        (Leads::By(LINK), false, true),
        (Leads::By(INNER), true, true),
        (Leads::By(77), true, true),
        (Leads::Nowhere, true, true),
        (Leads::Here, false, false),
    ] {
        assert_eq!(
            is_believed(&first, &second, leads),
            of_first,
            "{leads:?}, the first"
        );
        assert_eq!(
            is_believed(&second, &first, leads),
            of_second,
            "{leads:?}, the second"
        );
    }
}

#[test]
fn a_container_behind_a_container_is_found_by_the_link_of_the_one_in_front() {
    let front = Told {
        devices: vec![
            told(1, v4(1), "veth", Some(HOST)).devices.remove(0),
            Device {
                index: 11,
                kind: "veth".to_owned(),
                other_end: Some(3),
                ..Device::default()
            },
        ],
        ..told(1, v4(1), "veth", Some(HOST))
    };
    let behind = told(3, mapped([198, 51, 100, 3]), "veth", Some(1));
    let stranger = told(2, v4(2), "veth", Some(HOST));
    let all = [&front, &stranger];
    assert_eq!(believed(&behind, &all, &host(), |_| Leads::By(BRIDGE)).len(), 1);
    assert_eq!(believed(&behind, &all, &host(), |_| Leads::By(LINK)).len(), 0);
    assert_eq!(believed(&behind, &all, &host(), |_| Leads::By(WIRE)).len(), 0);
}

#[test]
fn a_network_without_the_host_is_confirmed_by_who_is_at_the_other_end() {
    let router = told(3, v4(1), "veth", Some(4));
    let right = told(4, v4(2), "veth", Some(3));
    let wrong = told(4, mapped([198, 51, 100, 4]), "veth", Some(3));
    let itself = told(4, v4(2), "dummy", None);
    let by_wire = |one: &Told| believed(one, &[&router], &host(), |_| Leads::By(WIRE)).len();
    assert_eq!((by_wire(&right), by_wire(&wrong), by_wire(&itself)), (1, 0, 0));
}

#[test]
fn a_leg_of_its_own_in_the_network_needs_no_route_of_the_host() {
    for (kind, other_end, is_believed) in [
        ("macvlan", Some(HOST), true),
        ("ipvlan", Some(HOST), true),
        // Hardware that was moved there.
        ("", None, true),
        // Made inside, on a link to the host.
        ("macvlan", None, false),
        ("vlan", None, false),
        ("dummy", None, false),
        ("vxlan", None, false),
    ] {
        let one = told(5, v4(5), kind, other_end);
        let found = believed(&one, &[], &host(), |_| Leads::By(WIRE));
        assert_eq!(!found.is_empty(), is_believed, "{kind} {other_end:?}");
    }
}

#[test]
fn addresses_of_a_link_alone_are_nobodys_business() {
    let mut one = told(1, mapped([127, 0, 0, 1]), "veth", Some(HOST));
    one.held.push(Held {
        address: "fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets(),
        prefix: 64,
        device: 10,
    });
    assert_eq!(believed(&one, &[], &host(), |_| Leads::By(WIRE)).len(), 2);
}

#[test]
fn what_the_host_has_is_nobody_elses_not_even_on_a_leg_of_ones_own() {
    for (kind, other_end) in [
        ("macvlan", Some(HOST)),
        ("", None),
        ("veth", Some(HOST)),
        ("dummy", None),
    ] {
        let one = told(5, v4(5), kind, other_end);
        assert!(believed(&one, &[], &host(), |_| Leads::Here).is_empty(), "{kind}");
    }
    let router = told(3, v4(1), "veth", Some(4));
    let confirmed = told(4, v4(2), "veth", Some(3));
    assert!(believed(&confirmed, &[&router], &host(), |_| Leads::Here).is_empty());
}
