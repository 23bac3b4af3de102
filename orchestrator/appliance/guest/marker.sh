# Tells the host of events in the guest, over the virtio-serial port that it may give. Sourced by busybox ash.

control_port=org.guestlaunch.control.0

# Sets $now to the kernel's uptime. The timer list has nanoseconds where /proc/uptime has hundredths of
# a second; a shell built-in reads both, so no process is started.
uptime_now() {
	now=
	while read -r first second third _; do
		case "$first $second" in
		"now at")
			while [ ${#third} -lt 10 ]; do third=0$third; done
			now=${third%?????????}.${third#"${third%?????????}"}
			break
			;;
		esac
	done 2>/dev/null </proc/timer_list
	[ -n "$now" ] || read -r now _ </proc/uptime
}

# marker NAME [UPTIME]: tells of an event, now or at UPTIME. Fails where there is no port, which is no error.
# The port is opened here, so that it may be unmounted right afterwards; written to in the background, because
# a write blocks for ever while nobody holds the other end.
marker() {
	for file in /sys/class/virtio-ports/*/name; do
		port=
		[ -e "$file" ] && read -r port <"$file"
		[ "$port" = "$control_port" ] || continue
		port=${file%/name}
		uptime_now
		{
			echo "guestlaunch-marker $1 ${2:-$now} $now" >&3 &
		} 2>/dev/null 3>"/dev/${port##*/}"
		return
	done
	return 1
}
