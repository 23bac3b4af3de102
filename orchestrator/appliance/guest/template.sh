# shellcheck shell=dash disable=SC2034,SC2154
# The gate of a template: sourced by the root's /init once everything is done that depends on no disk of the user's.
# Here the template's state is saved; from here each clone goes on.

# What a launch will read, so that clones find it in their memory: guestfsd with its libraries, and what it runs first.
for program in guestfsd lvm udevadm mdadm; do
	"$program" --help
done >/dev/null 2>&1
cat /usr/sbin/guestfsd >/dev/null

# Nobody writes to it: reading from it is a pause that starts no process.
mkfifo /run/guestlaunch.never
exec 9<>/run/guestlaunch.never

# Whether udev has made out the disks that were plugged in: the first $disks targets of the SCSI controller.
disks_there() {
	target=0
	while [ "$target" -lt "$disks" ]; do
		set -- /dev/disk/by-path/*-scsi-0:0:"$target":0
		[ -e "$1" ] || return 1
		target=$((target + 1))
	done
	[ ! -e /run/udev/queue ]
}

for file in /sys/class/virtio-ports/*/name; do
	read -r name <"$file"
	[ "$name" != "$control_port" ] || port=${file%/name}
done
words=$(/usr/bin/perl /usr/lib/guestlaunch/gate "/dev/${port##*/}") || reboot -f
set -f
# shellcheck disable=SC2086 # to be split
take_words $words
set +f

tries=0
until disks_there; do
	tries=$((tries + 1))
	if [ "$tries" -gt 6000 ]; then
		echo "guestlaunch: not all of $disks disks appeared" >/dev/console
		reboot -f
	fi
	read -r -t 0.01 _ <&9
done
