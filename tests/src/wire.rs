//! Frames put on a wire by hand, past every socket: what a hostile machine sends.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use crate::{Netns, sys};

/// An Ethernet frame for `mac` that carries `packet`.
#[must_use]
pub fn frame(mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: u16 = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        0x86dd
    } else {
        0x0800
    };
    let mut frame = mac.to_vec();
    frame.extend([0x02, 0, 0, 0, 0, 0x66]);
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An IP packet with the payload, its header as it should be.
#[must_use]
pub fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => v4(source, destination, protocol, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => v6(source, destination, protocol, payload),
        _ => panic!("one family for both ends"),
    }
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = sys::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An IPv4 packet with options, and whatever its fragment field says.
#[must_use]
pub fn v4_form(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    options: &[u8],
    (identification, place): (u16, u16),
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend(identification.to_be_bytes());
    packet.extend(place.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    let sum = sys::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet with extension headers: the number of each, and what stands behind its first byte.
#[must_use]
pub fn v6_form(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    chain: &[(u8, Vec<u8>)],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, (_, rest)) in chain.iter().enumerate() {
        body.push(chain.get(number + 1).map_or(protocol, |(next, _)| *next));
        body.extend(rest);
    }
    body.extend(payload);
    v6(
        source,
        destination,
        chain.first().map_or(protocol, |(first, _)| *first),
        &body,
    )
}

/// Fills in the checksum that stands at `at` in an upper layer between two addresses.
pub fn sum(source: IpAddr, destination: IpAddr, protocol: u8, upper: &mut [u8], at: usize) {
    upper[at..at + 2].fill(0);
    let mut pseudo = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            pseudo.extend(source.octets());
            pseudo.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo.extend(source.octets());
            pseudo.extend(destination.octets());
        }
        _ => panic!("one family for both ends"),
    }
    pseudo.extend([0, protocol]);
    pseudo.extend((upper.len() as u16).to_be_bytes());
    pseudo.extend(&*upper);
    let sum = sys::checksum(&pseudo);
    upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A UDP header and payload with their checksum.
#[must_use]
pub fn udp_between(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut upper = udp(source.port(), destination.port(), payload);
    sum(source.ip(), destination.ip(), 17, &mut upper, 6);
    upper
}

/// What a VXLAN packet carries (RFC 7348): a frame with a datagram in it.
#[must_use]
pub fn vxlan(number: u8, from: SocketAddr, to: SocketAddr, token: &str) -> Vec<u8> {
    let packet = packet(from.ip(), to.ip(), 17, &udp_between(from, to, token.as_bytes()));
    let mut payload = vec![8, 0, 0, 0, 0, 0, number, 0];
    payload.extend(frame([0xff; 6], &packet));
    payload
}

/// A TCP segment without data, with its checksum.
#[must_use]
pub fn segment(source: SocketAddr, destination: SocketAddr, flags: u8) -> Vec<u8> {
    let mut upper = source.port().to_be_bytes().to_vec();
    upper.extend(destination.port().to_be_bytes());
    upper.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    sum(source.ip(), destination.ip(), 6, &mut upper, 16);
    upper
}

/// An ICMP or ICMPv6 error of this type and code, with 1280 as its MTU, about `inner`, and its protocol.
#[must_use]
pub fn error(source: IpAddr, destination: IpAddr, (kind, code): (u8, u8), inner: &[u8]) -> (u8, Vec<u8>) {
    let mut upper = vec![kind, code, 0, 0, 0, 0, 5, 0];
    upper.extend(&inner[..inner.len().min(500)]);
    if source.is_ipv4() {
        let sum = sys::checksum(&upper);
        upper[2..4].copy_from_slice(&sum.to_be_bytes());
        return (1, upper);
    }
    sum(source, destination, 58, &mut upper, 2);
    (58, upper)
}

/// A TCP SYN's header, without a checksum: nothing that drops it early looks at that.
#[must_use]
pub fn syn(port: u16) -> Vec<u8> {
    let mut header = 40_000_u16.to_be_bytes().to_vec();
    header.extend(port.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP header and payload.
#[must_use]
pub fn udp(source_port: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = source_port.to_be_bytes().to_vec();
    header.extend(port.to_be_bytes());
    header.extend((8 + payload.len() as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(payload);
    header
}

/// The hardware address of an interface of the host.
#[track_caller]
#[must_use]
pub fn mac(interface: &str) -> [u8; 6] {
    let path = Path::new("/sys/class/net").join(interface).join("address");
    let text = std::fs::read_to_string(path).expect("an interface has an address");
    parse_mac(&text)
}

/// The hardware address of `eth0` of a namespace.
#[track_caller]
#[must_use]
pub fn mac_in(netns: &Netns) -> [u8; 6] {
    let output = std::process::Command::new("ip")
        .args(["-n", netns.name(), "-br", "link", "show", "eth0"])
        .output()
        .expect("ip runs");
    let text = String::from_utf8(output.stdout).expect("text");
    parse_mac(text.split_whitespace().nth(2).expect("an address"))
}

/// A hardware address as `ip` and `nft` write it.
#[must_use]
pub fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[track_caller]
fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a hexadecimal byte"))
        .collect();
    bytes.try_into().expect("six bytes")
}

/// Sends a frame on a device of the namespace this thread is in, through a packet socket; `bypass` skips the queueing
/// layer (`PACKET_QDISC_BYPASS`).
///
/// # Errors
/// The kernel's.
pub fn send_frame(device: &str, frame: &[u8], bypass: bool) -> io::Result<()> {
    send_frame_by(&packet_socket(bypass)?, device, frame)
}

/// A packet socket that hears nothing, past the queueing layer or not.
///
/// # Errors
/// The kernel's.
pub fn packet_socket(bypass: bool) -> io::Result<OwnedFd> {
    const PACKET_QDISC_BYPASS: i32 = 20;
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    if bypass {
        sys::set_option(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
    }
    Ok(socket)
}

fn on_device(device: &str) -> io::Result<libc::sockaddr_ll> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: a C string that lives; the result is checked.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    address.sll_halen = 6;
    Ok(address)
}

/// Binds a packet socket to a device, to hear nothing there.
///
/// # Errors
/// The kernel's.
pub fn bind_to_device(socket: &OwnedFd, device: &str) -> io::Result<()> {
    let address = on_device(device)?;
    // SAFETY: the address lives over the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a frame on a device by a packet socket.
///
/// # Errors
/// The kernel's.
pub fn send_frame_by(socket: &OwnedFd, device: &str, frame: &[u8]) -> io::Result<()> {
    let address = on_device(device)?;
    // SAFETY: the buffer and the address live over the call.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends frames on `eth0` of a namespace, through a packet socket.
///
/// # Panics
/// When the kernel does not take one.
#[track_caller]
pub fn inject(netns: &Netns, frames: &[Vec<u8>]) {
    let path = netns.path();
    let frames = frames.to_vec();
    let sent = std::thread::spawn(move || -> io::Result<()> {
        sys::enter_netns(&path)?;
        frames
            .iter()
            .try_for_each(|frame| send_frame("eth0", frame, false))
    });
    sent.join()
        .expect("the sender ends")
        .expect("the kernel takes the frames");
}
