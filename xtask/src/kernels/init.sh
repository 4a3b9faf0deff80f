#!/bin/busybox sh
# The first process of a machine that `cargo xtask kernels` boots: mounts, loads modules, runs one test after another and says on the
# first serial port what became of each, in lines that begin with `@segd`. The kernel has the second port for itself.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
stty -opost </dev/ttyS0
echo "@segd here"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/lock /run/netns
ln -sf /proc/self/fd /dev/fd
ip link set lo up
while read -r module; do
    insmod "/modules/$module.ko" || echo "@segd trouble: cannot load module $module"
done </modules/order

cd /segd || exit 1
debug=/segd/target/debug
export SEGD_BIN=$debug/segd SEGD_OTHER_LAYOUT=$debug/segd-other-layout SEGD_REQUIRE_KERNEL=1
export SEGD_PATIENCE=8 SEGD_REQUIRE_LSM=1 SEGD_SPARE=/sys/fs/bpf/spare

echo "@segd doctor $($SEGD_BIN doctor -o json | tr -d '\n')"
while read -r file name; do
    echo "@segd begin $file $name"
    timeout -s KILL 900 "$debug/deps/$file" --exact "$name" --test-threads=1 --nocapture </dev/null >/tmp/said 2>&1
    code=$?
    # A name that no test has is a success to libtest: one must have passed.
    grep -q '^test result: ok. 1 passed' /tmp/said || code="$code, and no test passed"
    [ "$code" = 0 ] || tail -n 300 /tmp/said
    grep -o '[a-z0-9_]*: [0-9]* instructions verified' /tmp/said | sed 's/^/@segd verified /'
    echo "@segd end $file $name $code"
done </segd/plan
echo "@segd done"
sync
poweroff -f
