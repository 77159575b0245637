#!/bin/busybox sh
# First process of the guest of `run --machine guest`: sets the network up and does what the host says, line by line, over
# the second serial port. Each answer is `@begin N`, whatever there is to say, `@end N STATUS`.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tracefs none /sys/kernel/tracing
dmesg -n 3
exec 3<>/dev/ttyS1
stty raw -echo <&3
tracing=/sys/kernel/tracing
pci=/sys/bus/pci/devices
iommu=0000:00:08.0 nic0=0000:00:09.0 nic1=0000:00:0a.0
nic() { ls "$pci/$1"/virtio*/net 2>/dev/null; }
in_peer() { nsenter -t "$(cat /run/peer)" -n -- "$@"; }

# Sums of what the IOMMU layer maps and unmaps, and numbers of requests that the driver sends, by the first byte (type).
events="iommu/map iommu/unmap kprobes/viommu_request"
trace_on() {
    echo 'p:viommu_request virtio_iommu:__viommu_add_req type=+0(%si):u8' >$tracing/kprobe_events 2>/dev/null
    echo 'hist:keys=common_type:vals=size' >$tracing/events/iommu/map/trigger
    echo 'hist:keys=common_type:vals=unmapped_size' >$tracing/events/iommu/unmap/trigger
    echo 'hist:keys=type' >$tracing/events/kprobes/viommu_request/trigger
}
trace_off() {
    for event in $events; do
        sed -n 's/^#* *\(hist:[^ ]*\).*/!\1/p' $tracing/events/$event/trigger |
            while read -r line; do echo "$line" >$tracing/events/$event/trigger; done
    done
    echo >$tracing/kprobe_events
}
traced() {
    for event in $events; do
        sed -n "s|^{ \(.*\)}|${event#*/} \1|p" $tracing/events/$event/hist
    done
}

# When the driver queues a request, waits for its answer and has it, and when it rings a doorbell: by the processor's own
# counter, which the host can compare with its own.
stamps_on() {
    sync=$(sed -n 's/.* \(__viommu_sync_req[^ \t]*\).*virtio_iommu.*/\1/p' /proc/kallsyms | head -n 1)
    {
        echo 'p:stamp/add virtio_iommu:__viommu_add_req type=+0(%si):u8'
        echo "p:stamp/sync virtio_iommu:$sync"
        echo "r:stamp/synced virtio_iommu:$sync"
        echo 'p:stamp/notify vp_notify'
        echo 'r:stamp/notified vp_notify'
    } >/tmp/stamps
    while read -r stamp; do echo "$stamp" >>$tracing/kprobe_events || return 1; done </tmp/stamps
    echo x86-tsc >$tracing/trace_clock && echo 4096 >$tracing/buffer_size_kb && echo >$tracing/trace
    echo 1 >$tracing/events/stamp/enable
}
stamps() { # MOST
    echo 0 >$tracing/events/stamp/enable
    sed -n 's/.* \([0-9]*\): \([a-z]*\): ([^)]*)\( type=\)*\([0-9]*\).*/\1 \2 \4/p' $tracing/trace | head -n "$1"
    echo >$tracing/trace
    echo >$tracing/kprobe_events
}

network() {
    unshare -n sh -c 'echo $$ >/run/peer; exec sleep 1000000000' &
    while [ ! -s /run/peer ]; do sleep 0.05; done
    # What nobody asked for would be in the counts.
    echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
    echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
    in_peer sh -c 'for one in all default; do echo 1 >/proc/sys/net/ipv6/conf/$one/disable_ipv6; done'
    ip link set lo up
    in_peer ip link set lo up
    a=$(nic $nic0) b=$(nic $nic1)
    ip link set "$b" netns "$(cat /run/peer)"
    ip addr add 10.9.0.1/24 dev "$a"
    ip link set "$a" up
    in_peer ip addr add 10.9.0.2/24 dev "$b"
    in_peer ip link set "$b" up
    in_peer netserver -4 >/dev/null
    for i in $(seq 20); do ping -c 1 -W 1 10.9.0.2 >/dev/null && return 0; done
    echo "the cards do not reach each other"
    return 1
}
mtu() { # BYTES
    ip link set "$a" mtu "$1" && in_peer ip link set "$b" mtu "$1"
}
netperfs() { # FLOWS OPTION...
    flows=$1 running=
    shift
    for flow in $(seq "$flows"); do
        netperf -4 -H 10.9.0.2 "$@" >/tmp/netperf.$flow 2>&1 &
        running="$running $!"
    done
    status=0
    for one in $running; do wait "$one" || status=$?; done
    for flow in $(seq "$flows"); do
        echo "# flow $flow"
        cat /tmp/netperf.$flow
    done
    return $status
}
described() {
    for device in $nic0 $nic1; do
        echo "group $device $(cat $pci/$device/iommu_group/type 2>/dev/null || echo none)"
    done
    [ -e $pci/$iommu/iommu_group ] && echo "group $iommu $(cat $pci/$iommu/iommu_group/type)"
    echo "reserved $(cat $pci/$nic0/iommu_group/reserved_regions 2>/dev/null | tr '\n' ';')"
}
# What a healthy driver does not say.
complaints() {
    dmesg | grep -iE 'viommu.*(fault|fail|error)|WARNING|BUG:|Oops|virtio.*(fail|error)|broken'
    return 0
}
# Takes the drivers off the cards, which resets these and unmaps all that was mapped.
leave() {
    for card in $nic0 $nic1; do
        echo $card >/sys/bus/pci/drivers/virtio-pci/unbind || return 1
    done
}
counted() { # packets that the first card's driver counts
    cat "/sys/class/net/$a/statistics/tx_packets" "/sys/class/net/$a/statistics/rx_packets"
}
answer() { # NUMBER COMMAND...
    number=$1
    shift
    echo "@begin $number"
    "$@" 2>&1
    echo "@end $number $?"
}

set -- $(cat /proc/cmdline)
case " $* " in
*" guest_trace "*) trace_on >/tmp/trace 2>&1 ;;
esac
problem=
for module in /lib/modules/*.ko; do insmod "$module" 2>/tmp/insmod || problem="insmod $module: $(cat /tmp/insmod)"; done
for i in $(seq 100); do
    [ -n "$(nic $nic0)" ] && [ -n "$(nic $nic1)" ] && break
    sleep 0.1
done
{
    echo "@up $(uname -r)"
    [ -n "$problem" ] && echo "@problem $problem"
    while read -r number command arguments; do
        case $command in
        network | netperfs | mtu | leave | described | complaints | counted | traced | trace_off | trace_on | stamps_on | stamps)
            answer "$number" "$command" $arguments
            ;;
        *) answer "$number" echo "no such command: $command" ;;
        esac
    done
} <&3 >&3
echo o >/proc/sysrq-trigger
sleep 60
