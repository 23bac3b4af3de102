# shellcheck shell=dash disable=SC2034,SC2154,SC3045
# The gate of a template: sourced by the root's /init once everything is done that depends on no disk of the user's.
# Here the template's state is saved; from here each clone goes on.

# Nobody writes to it: reading from it is a pause that starts no process.
mkfifo /run/guestlaunch.never
exec 9<>/run/guestlaunch.never

# Sets $state to the state of process $1, a letter, and $tracer to who traces it.
look_at() {
	state='' tracer=''
	while read -r key value _; do
		case $key in
		State:) state=$value ;;
		TracerPid:) tracer=$value ;;
		esac
	done <"/proc/$1/status"
} 2>/dev/null

prepared=/usr/lib/guestlaunch/prepared.so
arguments=/run/guestlaunch.arguments

# Starts guestfsd and holds it where it asks for its options, with Augeas's lenses read, which inspection needs. Where
# that fails, $held is empty.
hold_prepared() {
	GUESTLAUNCH_ARGUMENTS=$arguments LD_PRELOAD=$prepared guestfsd <&0 9<&- &
	held=$!
	looks=0
	look_at "$held"
	while [ "$state" != T ] && [ -n "$state" ] && [ $looks -lt 9000 ]; do
		read -r -t 0.02 _ <&9
		looks=$((looks + 1))
		look_at "$held"
	done
	if [ "$state" != T ]; then
		kill -KILL "$held"
		held=''
	fi
}

# Starts guestfsd and holds it at its call of umask: it is loaded and linked, which takes half a second in an
# emulated guest, and has not looked at the disks yet. Where that fails, it is started behind the gate, as it is where
# it is to have options.
hold_bare() {
	command -v strace >/dev/null || return 0
	mkfifo /run/guestlaunch.strace
	exec 8<>/run/guestlaunch.strace
	# Without our own descriptors, which LVM would complain of for as long as guestfsd lives.
	strace -D -o /run/guestlaunch.strace -e trace=umask -e inject=umask:signal=STOP:when=1 guestfsd <&0 8<&- 9<&- &
	held=$!
	line=''
	until [ "$line" = '--- stopped by SIGSTOP ---' ]; do
		read -r -t 180 line <&8 || break
	done
	# A traced process that is stopped stays so when its tracer is gone.
	look_at "$held"
	kill -KILL "${tracer:-$held}"
	while [ "$state" = t ]; do
		read -r -t 0.02 _ <&9
		look_at "$held"
	done
	if [ "$state" != T ]; then
		kill -KILL "$held"
		held=''
	fi
	exec 8<&-
	rm /run/guestlaunch.strace
}

# The kernel has said on the console what it had to, for clones whose tool wants to see it. From here on it is quiet.
echo 4 >/proc/sys/kernel/printk
# Clones have the boot_id of their template, which the kernel does not make anew. Mounted here, it takes no process there.
: >/run/guestlaunch.boot_id
mount -o bind /run/guestlaunch.boot_id /proc/sys/kernel/random/boot_id
# guestfsd has udev settle for each link, and then leaves the root out.
while read -r device place _; do
	[ "$place" != / ] || root=${device##*/}
done </proc/mounts
for link in /dev/disk/by-path/*; do
	case $(readlink "$link") in */"$root"*) rm "$link" ;; esac
done
if [ -z "$unprepared" ]; then
	# guestfsd asks in each session which options these have, and of all that LVM does, saying that takes the longest.
	lvm lvs --help >/run/guestlaunch.lvs-help 2>/dev/null || : >/run/guestlaunch.lvs-help
	sfdisk --help >/run/guestlaunch.sfdisk-help 2>/dev/null || : >/run/guestlaunch.sfdisk-help
	set -- /var/tmp/guestlaunch.disk /var/tmp/guestlaunch.messages
	busybox sh /usr/lib/guestlaunch/rehearsal-disk "$@" 9<&- >/dev/null 2>&1
	[ ! -e $prepared ] || hold_prepared
fi
if [ -z "$held" ]; then
	arguments=''
	hold_bare
fi
exec 9<&-
rm /run/guestlaunch.never
for file in /sys/class/virtio-ports/*/name; do
	read -r name <"$file"
	[ "$name" != "$control_port" ] || port=${file%/name}
done
mkfifo /run/guestlaunch.words
exec 7<>/run/guestlaunch.words
set -- "/dev/${port##*/}" /run/guestlaunch.words
[ -z "$held" ] || [ -z "$arguments" ] || set -- "$@" "$held" "$arguments"
/usr/bin/perl /usr/lib/guestlaunch/gate "$@" 7<&- &
loglevel=$default_loglevel ignore_loglevel=''
while :; do
	read -r words <&7
	[ -n "$words" ] || reboot -f
	set -f
	# shellcheck disable=SC2086 # to be split
	take_words $words
	set +f
	read -r boot_id </proc/sys/kernel/random/uuid
	echo "$boot_id" >/run/guestlaunch.boot_id
	[ "$words" = rehearse ] || break
	prepare
done
opened=1
exec 7<&-
# What the kernel makes of such words on its command line.
echo "$loglevel" >/proc/sys/kernel/printk
[ -z "$ignore_loglevel" ] || echo Y >/sys/module/printk/parameters/ignore_loglevel
