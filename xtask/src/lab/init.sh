#!/bin/busybox sh
# First process of the emulated host: loads modules, puts an overlay on the machine's own
# files, mounts what a Debian system has mounted, and hands over to the exec server.
# initramfs.rs writes /lab/mounts (one `tag path mode` a line, paths without the first /,
# percent-encoded by nobody: they stand alone on their line) beside it.
set -e
BB=/bin/busybox
fail() { echo "lab: $1 failed" >/dev/console; $BB sleep 1; echo b >/proc/sysrq-trigger; }
trap 'fail "init.sh"' EXIT

$BB mount -t proc proc /proc
$BB mount -t sysfs sysfs /sys
$BB mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
while read -r module; do
    $BB insmod "/modules/$module"
done </lab/modules

# The machine's files, read-only, with a scratch disk above.
P9=trans=virtio,version=9p2000.L,msize=512000
$BB mount -t 9p -o "ro,cache=loose,$P9" root /lower
$BB mount -t ext4 -o noatime,noinit_itable /dev/vda /scratch
$BB mkdir -p /scratch/upper /scratch/work /scratch/native
$BB mount -t overlay -o lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work overlay /new

# Folders that change while the host is up, or that outlive it, are not under the overlay,
# which remembers what it saw.
while read -r tag mode cache; do
    read -r folder
    $BB mkdir -p "/new$folder"
    $BB mount -t 9p -o "$mode,cache=$cache,$P9" "$tag" "/new$folder"
done </lab/mounts

# Engines with an overlay of their own can't put it on an overlay: these are on the disk.
for folder in /scratch /var/lib/docker /var/lib/containers /var/lib/containerd; do
    $BB mkdir -p "/scratch/native$folder" "/new$folder"
    $BB mount -o bind "/scratch/native$folder" "/new$folder"
done
$BB chmod 1777 /new/scratch

$BB mount -t proc proc /new/proc
$BB mount -t sysfs sysfs /new/sys
$BB mount -t devtmpfs devtmpfs /new/dev
$BB mkdir -p /new/dev/pts /new/dev/shm /new/dev/mqueue
$BB mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
$BB mount -t tmpfs -o mode=1777 shm /new/dev/shm
$BB mount -t mqueue mqueue /new/dev/mqueue
$BB ln -sf /proc/self/fd /new/dev/fd
$BB ln -sf /proc/self/fd/0 /new/dev/stdin
$BB ln -sf /proc/self/fd/1 /new/dev/stdout
$BB ln -sf /proc/self/fd/2 /new/dev/stderr
$BB chmod 666 /new/dev/kvm /new/dev/fuse /new/dev/net/tun
$BB mount -t tmpfs -o mode=755 run /new/run
$BB mkdir -p /new/run/lab /new/run/lock /new/run/user
$BB mount -t cgroup2 cgroup2 /new/sys/fs/cgroup

$BB ip link set lo up
$BB ip addr add 10.0.2.15/24 dev eth0
# IPv6 from the beginning, by nobody's announcement and without a look for others.
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
$BB ip link set eth0 up
$BB ip route add default via 10.0.2.2
$BB ip -6 addr add fec0::15/64 dev eth0
$BB ip -6 route add default via fe80::2 dev eth0
$BB rm -f /new/etc/resolv.conf
echo "nameserver 10.0.2.3" >/new/etc/resolv.conf
$BB hostname bulkhead-lab
echo "127.0.0.1 localhost bulkhead-lab" >/new/etc/hosts
echo "::1 localhost" >>/new/etc/hosts

$BB cp /lab/xtask /lab/server.json /new/run/lab/
$BB chmod 600 /new/run/lab/server.json
# Soft and hard limit of open files as systemd sets them.
ulimit -Hn 524288
ulimit -Sn 1024
trap - EXIT
exec $BB switch_root /new /run/lab/xtask lab-server
