//! What a rehearsal asks of the kernel: a namespace, a device, and one run of a program.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use segd_common::told::Words;

use super::bpf;

/// Takes this thread, and only it, into a new network namespace.
pub fn leave_namespace() -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Brings the loopback device of the calling thread's namespace up.
pub fn raise_loopback() -> io::Result<()> {
    const SIOCSIFFLAGS: u64 = 0x8914;
    const IFF_UP: u16 = 1;
    let mut request = DeviceRequest {
        name: [0; 16],
        flags: IFF_UP,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().zip(b"lo") {
        *to = *from;
    }
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: a live request of the size the call reads.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A device without a wire. It is gone when this is dropped.
#[derive(Debug)]
pub struct Tun {
    _file: File,
    /// Its index in its namespace.
    pub index: u32,
}

/// `struct ifreq` (include/uapi/linux/if.h) with flags.
#[repr(C)]
struct DeviceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<DeviceRequest>() == 40);

impl Tun {
    /// Makes one in the calling thread's namespace.
    pub fn create() -> io::Result<Tun> {
        const TUNSETIFF: u64 = 0x4004_54ca;
        const IFF_TUN: u16 = 1;
        const IFF_NO_PI: u16 = 0x1000;
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = DeviceRequest {
            name: [0; 16],
            flags: IFF_TUN | IFF_NO_PI,
            rest: [0; 22],
        };
        // SAFETY: the request is a live `ifreq`; the kernel writes the name it chose.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel ended the name with a zero.
        let index = unsafe { libc::if_nametoindex(request.name.as_ptr().cast()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Tun { _file: file, index })
    }
}

/// `test` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    answer: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

const _: () = assert!(size_of::<TestRun>() == 80);

/// Where things stand in `struct __sk_buff`, in words.
mod field {
    pub const MARK: usize = 2;
    pub const PRIORITY: usize = 8;
    pub const DEVICE: usize = 10;
    pub const BLOCK: usize = 12;
    /// Room for what kernels may add.
    pub const COUNT: usize = 64;
}

const ETHERNET: usize = 14;
/// The longest packet that is shown.
pub const MAX_PACKET: usize = 1500;

/// Runs a packet program once on a packet that starts at its IP header. `family`: its carrier's EtherType. `device`:
/// the index of a device, or 0 for loopback. Answers what the program returned, and what it left in mark, priority and
/// control block.
pub fn run_skb(program: BorrowedFd<'_>, family: u16, packet: &[u8], device: u32) -> io::Result<(u32, Words)> {
    let mut frame = [0_u8; ETHERNET + MAX_PACKET];
    frame[12..ETHERNET].copy_from_slice(&family.to_be_bytes());
    let Some(room) = frame.get_mut(ETHERNET..ETHERNET + packet.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(packet);
    let mut context_in = [0_u32; field::COUNT];
    context_in[field::DEVICE] = device;
    let mut context_out = [0_u32; field::COUNT];
    let mut attr = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: (ETHERNET + packet.len()) as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        context_size_in: size_of_val(&context_in) as u32,
        context_size_out: size_of_val(&context_out) as u32,
        context_in: context_in.as_ptr() as u64,
        context_out: context_out.as_mut_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: every pointer leads to a live buffer of the size given with it.
    unsafe { bpf(10, &mut attr) }?;
    let mut words: Words = [0; 7];
    let (first, block) = words.split_at_mut(2);
    first.copy_from_slice(&[context_out[field::MARK], context_out[field::PRIORITY]]);
    block.copy_from_slice(&context_out[field::BLOCK..field::BLOCK + 5]);
    Ok((attr.answer, words))
}

/// Runs a raw tracepoint's program in this thread, attached or not; its answer.
///
/// # Minimum kernel version
///
/// 5.10.
pub fn run_raw_tracepoint(program: BorrowedFd<'_>, arguments: [u64; 2]) -> io::Result<u32> {
    let mut attr = TestRun {
        program: program.as_raw_fd() as u32,
        context_size_in: size_of_val(&arguments) as u32,
        context_in: arguments.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the arguments are live and as long as stated.
    unsafe { bpf(10, &mut attr) }?;
    Ok(attr.answer)
}
