//! Namespaces and addresses of the real kernel.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use segd_common::address::mapped;
use tokio::{sync::mpsc, time};

use super::{super::cgroupfs::tests::Scratch, *};

/// A named network namespace, removed when dropped.
struct Netns(String);

impl Netns {
    fn new() -> Netns {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "segd-t{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run(&["ip", "netns", "add", &name]);
        Netns(name)
    }

    fn inode(&self) -> u64 {
        fs::metadata(Path::new("/run/netns").join(&self.0)).unwrap().ino()
    }

    /// A process in it.
    fn sleep(&self) -> Process {
        let file = format!("--net=/run/netns/{}", self.0);
        let program = Command::new("nsenter").args([&file, "sleep", "60"]).spawn();
        Process(program.unwrap())
    }

    fn add_address(&self, address: &str) {
        run(&["ip", "-n", &self.0, "addr", "add", address, "dev", "lo"]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// An address that no route of the host leads to, whatever its default route is; until dropped.
struct Unrouted(&'static str);

impl Unrouted {
    fn new(address: &'static str) -> Unrouted {
        run(&["ip", "route", "replace", "unreachable", address]);
        Unrouted(address)
    }
}

impl Drop for Unrouted {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["route", "del", "unreachable", self.0])
            .status();
    }
}

/// A process that ends when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn run(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status().unwrap();
    assert!(status.success(), "{command:?} succeeds");
}

/// The programs that tell, loaded once.
fn census() -> &'static Arc<Census> {
    static CENSUS: OnceLock<Arc<Census>> = OnceLock::new();
    CENSUS.get_or_init(|| Arc::new(Census::load().unwrap()))
}

fn heard() -> Vec<NamespaceInfo> {
    namespaces(census()).unwrap().heard
}

fn find(inode: u64) -> Option<NamespaceInfo> {
    heard().into_iter().find(|info| info.inode == inode)
}

#[test]
fn lists_addresses_cookies_and_members() {
    let Some(scratch) = Scratch::new() else { return };
    let netns = Netns::new();
    let _unrouted = ["198.51.100.9", "2001:db8::9"].map(Unrouted::new);
    netns.add_address("198.51.100.9/32");
    netns.add_address("2001:db8::9/128");
    let listed = find(netns.inode()).expect("a namespace without processes is listed by its name");
    assert!(!listed.is_host && listed.cookie != 0 && listed.cgroups.is_empty());
    assert!(listed.addresses.contains(&mapped([198, 51, 100, 9])));
    assert!(
        listed
            .addresses
            .contains(&"2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets())
    );

    let file = format!("--net=/run/netns/{}", netns.0);
    let process = Process(
        Command::new("nsenter")
            .args([&file, "sleep", "60"])
            .spawn()
            .unwrap(),
    );
    let procs = scratch.root.directory(&scratch.path).join("cgroup.procs");
    fs::write(procs, process.0.id().to_string()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let id = scratch.root.id(&scratch.path).unwrap();
    while find(netns.inode()).unwrap().cgroups != BTreeSet::from([id]) {
        assert!(Instant::now() < deadline, "the process shows with its cgroup");
        std::thread::yield_now();
    }

    let all = heard();
    let hosts: Vec<_> = all.iter().filter(|info| info.is_host).collect();
    assert_eq!(hosts.len(), 1);
    assert!(hosts[0].cookie != listed.cookie && hosts[0].addresses.contains(&mapped([127, 0, 0, 1])));
    let cookies: BTreeSet<_> = all.iter().map(|info| info.cookie).collect();
    assert_eq!(cookies.len(), all.len(), "cookies tell namespaces apart");
}

#[test]
fn a_namespace_without_a_name_is_asked_by_way_of_a_process_in_it() {
    let Some(scratch) = Scratch::new() else { return };
    let _unrouted = Unrouted::new("198.51.100.12");
    let script = "ip link set lo up && ip addr add 198.51.100.12/32 dev lo && exec sleep 60";
    let process = Process(
        Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .spawn()
            .unwrap(),
    );
    let procs = scratch.root.directory(&scratch.path).join("cgroup.procs");
    fs::write(procs, process.0.id().to_string()).unwrap();
    let id = scratch.root.id(&scratch.path).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let holds = || {
        let inode = fs::metadata(format!("/proc/{}/ns/net", process.0.id()))
            .unwrap()
            .ino();
        find(inode).is_some_and(|info| {
            info.addresses.contains(&mapped([198, 51, 100, 12])) && info.cgroups == BTreeSet::from([id])
        })
    };
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "it shows with its address and its cgroup"
        );
        std::thread::yield_now();
    }
}

#[test]
fn an_address_that_the_host_reaches_by_hardware_is_not_a_namespaces_own() {
    let Some(_scratch) = Scratch::new() else { return };
    let netns = Netns::new();
    netns.add_address("198.51.100.14/32");
    let told = |is_there: bool| {
        let info = find(netns.inode()).unwrap();
        info.addresses.contains(&mapped([198, 51, 100, 14])) == is_there && (info.elsewhere == 0) == is_there
    };
    // A TUN device stands for the network: there is no hardware to spare.
    let tun = format!("sgtu{}", std::process::id() % 100_000);
    run(&["ip", "tuntap", "add", &tun, "mode", "tun"]);
    let _link = Link(tun.clone());
    run(&["ip", "link", "set", &tun, "up"]);
    run(&["ip", "route", "replace", "198.51.100.14", "dev", &tun]);
    assert!(told(false), "it is out on the network");
    run(&["ip", "route", "del", "198.51.100.14", "dev", &tun]);
    let _unrouted = Unrouted::new("198.51.100.14");
    assert!(told(true), "nobody else has it");
}

/// A device that is removed when this is dropped.
struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[test]
fn a_namespace_of_another_user_namespace_is_known_and_its_addresses_are_not() {
    let Some(_scratch) = Scratch::new() else { return };
    let script = "ip addr add 198.51.100.13/32 dev lo && echo ready && exec sleep 60";
    let mut process = Process(
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut said = String::new();
    BufReader::new(process.0.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "ready\n");
    let inode = fs::metadata(format!("/proc/{}/ns/net", process.0.id()))
        .unwrap()
        .ino();
    let info = find(inode).expect("it is known");
    assert!(info.addresses.is_empty() && info.cookie != 0);
}

#[test]
fn what_is_no_namespace_is_not_taken_for_one() {
    let Some(_scratch) = Scratch::new() else { return };
    for path in [
        "/dev/null",
        "/proc/self/ns/mnt",
        "/proc/self/ns/user",
        "/proc/self/status",
    ] {
        let file = fs::File::open(path).unwrap();
        assert_eq!(census().namespace(file.as_fd()).unwrap(), None, "{path}");
    }
    let own = fs::File::open("/proc/self/ns/net").unwrap();
    let told = census().namespace(own.as_fd()).unwrap().unwrap();
    assert_eq!(told, host().unwrap());
}

#[tokio::test]
async fn a_new_namespace_a_new_address_and_a_new_member_tick() {
    let Some(_scratch) = Scratch::new() else { return };
    let (sender, mut ticks) = mpsc::channel(1);
    let old = Netns::new();
    let _unrouted = ["198.51.100.10", "198.51.100.11"].map(Unrouted::new);
    watch(Arc::clone(census()), Listener::open().unwrap(), sender).unwrap();
    // Other tests make and remove namespaces meanwhile, so what is told must be asked for again, like the daemon does.
    let mut until = async |what: &str, holds: &dyn Fn() -> bool| {
        let told = time::timeout(Duration::from_secs(8), async {
            ticks.recv().await.expect("the watch lives");
            while !holds() {
                ticks.recv().await.expect("the watch lives");
            }
        });
        told.await.expect(what);
    };
    old.add_address("198.51.100.10/32");
    let has = |netns: &Netns, last| {
        find(netns.inode()).is_some_and(|info| info.addresses.contains(&mapped([198, 51, 100, last])))
    };
    until("an address in a known namespace", &|| has(&old, 10)).await;
    let new = Netns::new();
    until("a new namespace", &|| find(new.inode()).is_some()).await;
    new.add_address("198.51.100.11/32");
    until("an address in it", &|| has(&new, 11)).await;
    let _process = new.sleep();
    until("a process in it", &|| {
        !find(new.inode()).is_none_or(|info| info.cgroups.is_empty())
    })
    .await;
}

/// A thread of its own with next to no descriptors left.
fn without_descriptors<T: Send>(free: usize, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let poor = scope.spawn(|| {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: no pointers but the limit, which outlives the calls; the table of files is this thread's own from then on.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_FILES), 0);
                assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
                limit.rlim_cur = limit.rlim_cur.min(1024);
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
            }
            let mut files = Vec::new();
            while let Ok(file) = fs::File::open("/dev/null") {
                files.push(file);
            }
            files.truncate(files.len() - free);
            act()
        });
        poor.join().unwrap()
    })
}

#[test]
fn a_name_that_cannot_be_opened_leaves_the_look_not_whole() {
    let Some(_scratch) = Scratch::new() else { return };
    let named: Vec<Netns> = (0..8).map(|_| Netns::new()).collect();
    let census = census();
    assert!(Look::take(census).unwrap().is_whole);
    let (opened, is_whole) = without_descriptors(6, || {
        let look = Look::take(census).unwrap();
        (look.files.len(), look.is_whole)
    });
    assert!(opened < named.len() && !is_whole, "{opened}");
    // Where tasks lead there as well, no file need be held.
    let _inhabited: Vec<Process> = named.iter().map(Netns::sleep).collect();
    let there = || {
        let look = Look::take(census).unwrap();
        let inodes: BTreeSet<u64> = look
            .tasks
            .keys()
            .map(|namespace| namespace.inode.into())
            .collect();
        named.iter().all(|netns| inodes.contains(&netns.inode()))
    };
    let start = Instant::now();
    while !there() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "no task in each of them"
        );
        // SLEEP: programs enter a namespace when they please.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(without_descriptors(6, || Look::take(census).unwrap().is_whole));
}
