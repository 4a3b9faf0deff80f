//! Namespaces and addresses of the real kernel.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use segd_common::{address::mapped, workload::PENDING};
use tokio::{sync::mpsc, time};

use super::{
    super::cgroupfs::tests::Scratch,
    census::{cgroup_path, link},
    *,
};

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

    fn add_address(&self, address: &str) {
        run(&["ip", "-n", &self.0, "addr", "add", address, "dev", "lo"]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
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

fn find(scratch: &Scratch, inode: u64) -> Option<NamespaceInfo> {
    namespaces(&scratch.root)
        .unwrap()
        .into_iter()
        .find(|info| info.inode == inode)
}

#[test]
fn lists_addresses_cookies_and_members() {
    let Some(scratch) = Scratch::new() else { return };
    let netns = Netns::new();
    netns.add_address("198.51.100.9/32");
    netns.add_address("2001:db8::9/128");
    let listed = find(&scratch, netns.inode()).expect("a namespace without processes is listed by its name");
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
    while find(&scratch, netns.inode()).unwrap().cgroups != BTreeSet::from([id]) {
        assert!(Instant::now() < deadline, "the process shows with its cgroup");
        std::thread::yield_now();
    }

    let all = namespaces(&scratch.root).unwrap();
    let hosts: Vec<_> = all.iter().filter(|info| info.is_host).collect();
    assert_eq!(hosts.len(), 1);
    assert!(hosts[0].cookie != listed.cookie && hosts[0].addresses.contains(&mapped([127, 0, 0, 1])));
    let cookies: BTreeSet<_> = all.iter().map(|info| info.cookie).collect();
    assert_eq!(cookies.len(), all.len(), "cookies tell namespaces apart");
}

#[test]
fn the_caller_stays_in_its_namespace() {
    let Some(scratch) = Scratch::new() else { return };
    let _netns = Netns::new();
    let own = Path::new("/proc/thread-self/ns/net");
    let before = link(own).unwrap();
    assert!(namespaces(&scratch.root).unwrap().len() >= 2);
    assert_eq!(link(own).unwrap(), before);
}

#[tokio::test]
async fn a_new_namespace_a_new_address_and_a_new_member_tick() {
    let Some(scratch) = Scratch::new() else { return };
    let (sender, mut ticks) = mpsc::channel(1);
    let old = Netns::new();
    watch(sender).unwrap();
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
        find(&scratch, netns.inode())
            .is_some_and(|info| info.addresses.contains(&mapped([198, 51, 100, last])))
    };
    until("an address in a known namespace", &|| has(&old, 10)).await;
    let new = Netns::new();
    until("a new namespace", &|| find(&scratch, new.inode()).is_some()).await;
    new.add_address("198.51.100.11/32");
    until("an address in it", &|| has(&new, 11)).await;
    let file = format!("--net=/run/netns/{}", new.0);
    let _process = Process(
        Command::new("nsenter")
            .args([&file, "sleep", "60"])
            .spawn()
            .unwrap(),
    );
    until("a process in it", &|| {
        !find(&scratch, new.inode()).is_none_or(|info| info.cgroups.is_empty())
    })
    .await;
}

#[test]
fn only_the_reachable_cgroup2_line_counts() {
    let hybrid = b"8:pids:/\n4:memory:/x\n0::/shop/web\n";
    assert_eq!(cgroup_path(hybrid).as_deref(), Some("/shop/web"));
    assert_eq!(cgroup_path(b"0::/\n").as_deref(), Some("/"));
    for unreachable in [
        &b"0::/../../elsewhere\n"[..],
        b"0::/gone (deleted)\n",
        b"4:memory:/x\n",
        b"",
    ] {
        assert_eq!(cgroup_path(unreachable), None);
    }
}

#[test]
fn a_namespace_is_owned_by_the_one_segment_in_it() {
    let identity = |cgroup: u64| match cgroup {
        1 => Some(Identity::of(HOST)),
        2 | 3 => Some(Identity::of(7)),
        4 => Some(Identity::of(8)),
        5 => Some(Identity {
            segment: 7,
            flags: PENDING,
        }),
        6 => Some(Identity::default()),
        _ => None,
    };
    let owned = |is_host, cgroups: &[u64]| {
        let cgroups = cgroups.iter().copied().collect();
        owner(
            &NamespaceInfo {
                cookie: 5,
                inode: 6,
                is_host,
                addresses: Vec::new(),
                cgroups,
            },
            &identity,
        )
    };
    assert_eq!(owned(false, &[]), (HOST, 0));
    assert_eq!(owned(false, &[1]), (HOST, 0));
    assert_eq!(owned(false, &[1, 2, 3]), (7, NAMESPACE_SINGLE));
    assert_eq!(owned(false, &[2, 4]), (HOST, 0));
    assert_eq!(owned(true, &[2]), (HOST, 0));
    for doubtful in [5, 6, 99] {
        assert_eq!(owned(false, &[1, 2, doubtful]), (NONE, 0), "cgroup {doubtful}");
    }
}
