//! AF_XDP: a frame that a process puts into a device's queue itself, past sockets and queueing.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    sys,
    wait::{self, PATIENCE},
};

/// include/uapi/linux/if_xdp.h.
const AF_XDP: i32 = 44;
const SOL_XDP: i32 = 283;
const XDP_MMAP_OFFSETS: i32 = 1;
const XDP_TX_RING: i32 = 3;
const XDP_UMEM_REG: i32 = 4;
const XDP_UMEM_FILL_RING: i32 = 5;
const XDP_UMEM_COMPLETION_RING: i32 = 6;
const XDP_COPY: u16 = 1 << 1;
const XDP_PGOFF_TX_RING: i64 = 0x8000_0000;
/// Frames in the shared memory, and entries in each ring.
const FRAMES: usize = 8;
const FRAME: usize = 4096;

/// Memory mapped for as long as this lives.
struct Mapped {
    at: *mut u8,
    length: usize,
}

impl Mapped {
    fn new(length: usize, file: Option<&OwnedFd>, offset: i64) -> io::Result<Mapped> {
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice; the result is checked.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapped {
            at: at.cast(),
            length,
        })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody else unmaps it.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// Sends one frame on the first queue of a device of this namespace, by copying (`XDP_COPY`): every driver can.
///
/// # Errors
/// The kernel's, of whichever call refuses first.
pub fn send(device: &str, frame: &[u8]) -> io::Result<()> {
    let mut sent = try_send(device, frame);
    // The kernel lets go of the queue some time after the socket before was closed.
    wait::within(PATIENCE, || {
        let busy = sent
            .as_ref()
            .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY));
        if busy {
            sent = try_send(device, frame);
        }
        !busy
    });
    sent
}

fn try_send(device: &str, frame: &[u8]) -> io::Result<()> {
    let socket = sys::socket(AF_XDP, libc::SOCK_RAW, 0)?;
    let memory = Mapped::new(FRAMES * FRAME, None, 0)?;
    // struct xdp_umem_reg: address, length, size of a frame, headroom, flags, room for metadata.
    let mut register = Vec::new();
    register.extend((memory.at as u64).to_ne_bytes());
    register.extend((memory.length as u64).to_ne_bytes());
    register.extend((FRAME as u32).to_ne_bytes());
    register.extend([0; 12]);
    sys::set_bytes(&socket, SOL_XDP, XDP_UMEM_REG, &register)?;
    for ring in [XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING] {
        sys::set_option(&socket, SOL_XDP, ring, FRAMES as i32)?;
    }
    // struct xdp_mmap_offsets: for each of rx, tx, fill and completion where producer, consumer, entries, flags are.
    let mut offsets = [[0_u64; 4]; 4];
    let mut length = size_of_val(&offsets) as libc::socklen_t;
    // SAFETY: the buffer is as long as stated.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            XDP_MMAP_OFFSETS,
            offsets.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    let [producer, _, entries, _] = offsets[1].map(|offset| offset as usize);
    let ring = Mapped::new(entries + FRAMES * 16, Some(&socket), XDP_PGOFF_TX_RING)?;
    let name = CString::new(device)?;
    // SAFETY: a C string that lives; the result is checked.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // struct sockaddr_xdp: family, flags, device, queue, whose memory.
    let mut address = (AF_XDP as u16).to_ne_bytes().to_vec();
    address.extend(XDP_COPY.to_ne_bytes());
    address.extend(index.to_ne_bytes());
    address.extend([0; 8]);
    // SAFETY: the address is as long as stated and lives over the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    assert!(frame.len() <= FRAME, "a frame fits");
    // SAFETY: the memory has room for the frame, the ring for its first entry (struct xdp_desc: where, how long, options)
    // and its producer; the kernel looks at either only once the producer has moved.
    unsafe {
        ptr::copy_nonoverlapping(frame.as_ptr(), memory.at, frame.len());
        let entry = ring.at.add(entries);
        ptr::write_unaligned(entry.cast::<u64>(), 0);
        ptr::write_unaligned(entry.add(8).cast::<[u32; 2]>(), [frame.len() as u32, 0]);
        (*ring.at.add(producer).cast::<AtomicU32>()).store(1, Ordering::Release);
    }
    // SAFETY: no memory is passed.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null(),
            0,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
