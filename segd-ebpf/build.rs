//! How the kernel programs are linked.

fn main() {
    // The linker makes every copy and every zero a call of `memcpy` or `memset` by default: slower, and with a stack frame
    // of its own (32 bytes before Linux 6.8) at the end of each chain of calls. Loads and stores are what we want.
    println!("cargo:rustc-link-arg=--disable-expand-memcpy-in-order");
    println!("cargo:rerun-if-changed=build.rs");
}
