/*
 * In the way of some programs on the PATH of guestfsd, for what it asks of them most: answering here costs a fraction of
 * starting the real ones, as this program is linked with nothing. guestfsd has udev settle before most of what it does.
 * Two others are started with a library that has them open a disk for no more than they do (guest/looking.c).
 */

#define EXISTS(path) (call(FACCESSAT, AT_FDCWD, (long)(path), 0, 0) == 0)
#define OPEN(path, flags) call(OPENAT, AT_FDCWD, (long)(path), (flags) | O_CLOEXEC, 0600)
#define AT_FDCWD (-100l)
#define O_CREATE 0101 /* to write, made if it is not there */
#define O_CLOEXEC 02000000

#if defined __aarch64__
enum { GETDENTS64 = 61, OPENAT = 56, CLOSE = 57, READ = 63, WRITE = 64, FACCESSAT = 48, EXECVE = 221, EXIT = 93 };
__asm__(".globl _start\n_start: mov x0, sp\n b begin\n");

static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                  x3 __asm__("x3") = d;

    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory", "cc");
    return x0;
}
#elif defined __x86_64__
enum { GETDENTS64 = 217, OPENAT = 257, CLOSE = 3, READ = 0, WRITE = 1, FACCESSAT = 269, EXECVE = 59, EXIT = 60 };
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");

static long call(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
#endif

#define ROOM 4096

static char buffer[4096];

static int same(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

/* Whether the arguments behind the program's name are these; one that is none here may be any. */
static int asked(char **argv, int count, const char *const *words)
{
    for (int i = 0; i < count; i++)
        if (!argv[i + 1] || (words[i] && !same(argv[i + 1], words[i])))
            return 0;
    return !argv[count + 1];
}

/* Reads the beginning of a file into the buffer, and returns its length; none where there is no such file. */
static long take(const char *path)
{
    long file = OPEN(path, 0), length;

    if (file < 0)
        return 0;
    length = call(READ, file, (long)buffer, sizeof buffer - 1, 0);
    call(CLOSE, file, 0, 0, 0);
    buffer[length > 0 ? length : 0] = 0;
    return length > 0 ? length : 0;
}

/* Puts a text into another from a place on, and returns where it ends. */
static int put(char *into, int at, const char *text)
{
    while (*text)
        into[at++] = *text++;
    into[at] = 0;
    return at;
}

struct entry {
    unsigned long inode, offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* Finds udevd's process, and remembers it: it is the same for as long as the system runs. */
static int find_udevd(char *pid)
{
    static char entries[8192] __attribute__((aligned(8)));
    long folder = OPEN("/proc", 0), length, file;
    char path[64];

    while ((length = call(GETDENTS64, folder, (long)entries, sizeof entries, 0)) > 0) {
        for (long at = 0; at < length; at += ((struct entry *)(entries + at))->length) {
            const char *name = ((struct entry *)(entries + at))->name;
            int end = 0;

            if (name[0] < '0' || name[0] > '9')
                continue;
            end = put(path, put(path, put(path, 0, "/proc/"), name), "/comm");
            if (!take(path) || !same(buffer, "systemd-udevd\n"))
                continue;
            end = put(pid, 0, name);
            file = OPEN("/run/guestlaunch.udevd", O_CREATE);
            call(WRITE, file, (long)pid, end, 0);
            return 1;
        }
    }
    return 0;
}

/*
 * Whether udevd has nothing to do. The kernel wakes it with each event that it sends; until it sleeps again, it has put
 * what it has read into its queue, and while that is not empty there is a file.
 */
static int udevd_idle(void)
{
    char pid[32], path[64];
    long length = take("/run/guestlaunch.udevd");

    if (length > 0 && length < (long)sizeof pid)
        put(pid, 0, buffer);
    else if (!find_udevd(pid))
        return 0;
    put(path, put(path, put(path, 0, "/proc/"), pid), "/stat");
    length = take(path);
    /* Its name, in parentheses, then its state. */
    while (length > 0 && buffer[length] != ')')
        length--;
    return buffer[length + 2] == 'S' && !EXISTS("/run/udev/queue");
}

/* Says what a program said of its options when the template was built; returns whether it said anything. */
static int say_options(const char *path)
{
    long file = OPEN(path, 0), length, said = 0;

    while (file >= 0 && (length = call(READ, file, (long)buffer, sizeof buffer, 0)) > 0) {
        for (long at = 0, written; at < length; at += written) {
            written = call(WRITE, 1, (long)(buffer + at), length - at, 0);
            if (written <= 0)
                call(EXIT, 1, 0, 0, 0);
        }
        said = 1;
    }
    return (int)said;
}

__attribute__((noreturn, used)) static void end(int status)
{
    for (;;)
        call(EXIT, status, 0, 0, 0);
}

/* Whether the machine says that Apple made it, as QEMU's do where somebody wants them to. */
static int is_apples(void)
{
    static const char apple[] = "Apple";

    if (!take("/sys/class/dmi/id/sys_vendor"))
        return 0;
    for (int i = 0; apple[i]; i++)
        if (buffer[i] != apple[i])
            return 0;
    return 1;
}

/*
 * Sets what a program gets as its environment: with the library, if it is one of those that take disks' tables apart.
 * Debian's parted has dmidecode say each time who made the machine, by a shell, unless it is told that it was not Apple.
 * And it writes a table of 512 bytes from its stack as a sector of 4096, where a disk has those, and is killed where that
 * reaches beyond the stack's end: as all stacks end at the same place here, always. So there is room in its environment.
 */
static char **environment(const char *name, char **environ)
{
    static char *more[256], room[ROOM + 8] = "ROOM=";
    int count = 0;

    if (!same(name, "parted") && !same(name, "sgdisk"))
        return environ;
    for (; environ[count]; count++) {
        if (count == (int)(sizeof more / sizeof more[0]) - 4)
            return environ;
        more[count] = environ[count];
    }
    more[count++] = "LD_PRELOAD=/usr/lib/guestlaunch/looking.so";
    for (int at = 5; at < ROOM; at++)
        room[at] = ' ';
    more[count++] = room;
    if (!is_apples())
        more[count] = "PARTED_GPT_APPLE=0";
    return more;
}

__attribute__((noreturn, used)) void begin(long *stack)
{
    static const char *const SETTLE[] = { "settle" }, *const SETTLE_FOR[] = { "settle", "-E", 0 },
                             *const LINKS[] = { "-1v", "/dev/disk/by-path" }, *const LVS_HELP[] = { "lvs", "--help" },
                             *const HELP[] = { "--help" };
    char **argv = (char **)(stack + 1), **environ = argv + *stack + 1, *name = argv[0];
    const char *real = "/usr/lib/guestlaunch/real/lvm";

    for (char *at = argv[0]; *at; at++)
        if (*at == '/')
            name = at + 1;
    if (same(name, "udevadm")) {
        real = "/usr/bin/udevadm";
        if (asked(argv, 3, SETTLE_FOR) && EXISTS(argv[3]))
            end(0); /* the device is there: nothing to wait for */
        if (asked(argv, 1, SETTLE) && udevd_idle())
            end(0);
    } else if (same(name, "ls")) {
        real = asked(argv, 2, LINKS) ? "/usr/bin/busybox" : "/usr/bin/ls";
    } else if (same(name, "parted")) {
        real = "/usr/lib/guestlaunch/real/parted";
    } else if (same(name, "sgdisk")) {
        real = "/usr/lib/guestlaunch/real/sgdisk";
    } else if (same(name, "sfdisk")) {
        real = "/usr/lib/guestlaunch/real/sfdisk";
        if (asked(argv, 1, HELP) && say_options("/run/guestlaunch.sfdisk-help"))
            end(0);
    } else if (asked(argv, 2, LVS_HELP) && say_options("/run/guestlaunch.lvs-help")) {
        end(0);
    }
    environ = environment(name, environ);
    /* Under its own name, by which it begins what it says; LVM's program has many, and knows by it what to do. */
    argv[0] = name;
    call(EXECVE, (long)real, (long)argv, (long)environ, 0);
    end(127);
}
