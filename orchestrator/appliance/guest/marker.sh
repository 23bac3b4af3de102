# shellcheck shell=dash disable=SC3028
# Tells the host of events in the guest, over the virtio-serial port that it may give. Sourced by busybox ash.

control_port=org.guestlaunch.control.0

# Sets $now to the kernel's uptime, with microseconds. $EPOCHREALTIME costs nothing, reading a file costs
# milliseconds in an emulated guest: so the time of the kernel's start is worked out once, and passed on.
uptime_now() {
	if [ -z "$guestlaunch_booted" ]; then
		while read -r first second third _; do
			[ "$first $second" = "now at" ] && break
		done 2>/dev/null </proc/timer_list
		now=$EPOCHREALTIME
		case $third in
		'' | *[!0-9]*)
			read -r third _ </proc/uptime
			third=${third%.*}${third#*.}0000000
			;;
		esac
		guestlaunch_booted=$((${now%.*}${now#*.} - third / 1000))
	fi
	now=$EPOCHREALTIME
	now=$((${now%.*}${now#*.} - guestlaunch_booted))
	while [ ${#now} -lt 7 ]; do now=0$now; done
	now=${now%??????}.${now#"${now%??????}"}
}

# marker NAME [UPTIME]: tells of an event, now or at UPTIME. Fails where there is no port, which is no error.
# The port is opened here, so that it may be unmounted right afterwards; written to in the background, because
# a write blocks for ever while nobody holds the other end. Behind a gate ($opened), somebody has just opened it.
marker() {
	for file in /sys/class/virtio-ports/*/name; do
		port=
		[ -e "$file" ] && read -r port <"$file"
		[ "$port" = "$control_port" ] || continue
		port=${file%/name}
		uptime_now
		{
			if [ -n "$opened" ]; then
				echo "guestlaunch-marker $1 ${2:-$now} $now" >&3
			else
				echo "guestlaunch-marker $1 ${2:-$now} $now" >&3 &
			fi
		} 2>/dev/null 3>"/dev/${port##*/}"
		return
	done
	return 1
}
