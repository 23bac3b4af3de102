/*
 * Preloaded into parted and sgdisk (guest/shortcuts.c). Both open a disk for writing, several times in a row, and mostly
 * write nothing; but udev, which heeds the end of each such opening, has the kernel read the partition table again and
 * probes the disk and all that is on it, and guestfsd waits for that. So block devices are opened for reading, and for
 * writing when they are first written to. Those that cannot be written to are opened as asked, as both say something of
 * that.
 *
 * Before it has the kernel read a partition table sgdisk sleeps for a second, as the kernel does not while udev looks at
 * a partition. So it is udev that is waited for; where that was too early after all, the kernel is asked again.
 *
 * It is linked with nothing, as guest/prepared.c is. The prototypes are those of glibc.
 */

#define EXPORT __attribute__((visibility("default")))

long syscall(long, ...);
int unsetenv(const char *);
int snprintf(char *, unsigned long, const char *, ...);
int posix_spawn(int *, const char *, const void *, const void *, char *const *, char *const *);
int waitpid(int, int *, int);
int usleep(unsigned);
int *__errno_location(void);
extern char **environ;

#if defined __aarch64__
enum { OPENAT = 56, CLOSE = 57, LSEEK = 62, WRITE = 64, IOCTL = 29, DUP3 = 24 };
#elif defined __x86_64__
enum { OPENAT = 257, CLOSE = 3, LSEEK = 8, WRITE = 1, IOCTL = 16, DUP3 = 292 };
#endif
#define AT_FDCWD (-100l)
#define TO_WRITE 3 /* or to read and write */
#define CREATE 0100   /* sgdisk would have the file made */
#define CLOEXEC 02000000
#define SEEK_SET 0l
#define SEEK_CUR 1l
#define IS_READ_ONLY 0x125e /* BLKROGET, which only block devices know */
#define READ_TABLE 0x125ful /* BLKRRPART */
#define EBUSY 16
#define TRIES 100
#define PAUSE 20000 /* microseconds */
#define MOST 64

/* As what those were to be opened that only look so far. */
static int asked[MOST];

static int can_be_written(long file)
{
    int read_only = 1;

    return syscall(IOCTL, file, (long)IS_READ_ONLY, &read_only) == 0 && !read_only;
}

static int opened(const char *path, int flags, unsigned mode)
{
    long file;

    if (flags & TO_WRITE) {
        file = syscall(OPENAT, AT_FDCWD, path, (long)(flags & ~(TO_WRITE | CREATE)), 0l);
        if (file >= 0 && file < MOST && can_be_written(file)) {
            asked[file] = flags & ~CREATE;
            return (int)file;
        }
        if (file >= 0)
            syscall(CLOSE, file);
    }
    file = syscall(OPENAT, AT_FDCWD, path, (long)flags, (long)mode);
    if (file >= 0 && file < MOST)
        asked[file] = 0;
    return (int)file;
}

/* The mode is only there with CREATE, and only then looked at. */
#define OPEN(name)                                     \
    EXPORT int name(const char *path, int flags, ...)  \
    {                                                  \
        __builtin_va_list more;                        \
        unsigned mode;                                 \
                                                       \
        __builtin_va_start(more, flags);               \
        mode = __builtin_va_arg(more, unsigned);       \
        __builtin_va_end(more);                        \
        return opened(path, flags, mode);              \
    }

OPEN(open)
OPEN(open64)
OPEN(__open_2)
OPEN(__open64_2)

EXPORT int close(int file)
{
    if (file >= 0 && file < MOST)
        asked[file] = 0;
    return (int)syscall(CLOSE, (long)file);
}

EXPORT long write(int file, const void *data, unsigned long length)
{
    if (file >= 0 && file < MOST && asked[file] && can_be_written(file)) {
        char path[32];
        long other;

        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        other = syscall(OPENAT, AT_FDCWD, path, (long)asked[file], 0l);
        if (other < 0)
            return -1;
        syscall(LSEEK, other, syscall(LSEEK, (long)file, 0l, SEEK_CUR), SEEK_SET);
        syscall(DUP3, other, (long)file, (long)(asked[file] & CLOEXEC));
        syscall(CLOSE, other);
        asked[file] = 0;
    }
    return syscall(WRITE, (long)file, data, length);
}

static void settle(void)
{
    static char *const SETTLE[] = { "udevadm", "settle", 0 };
    int child;

    unsetenv("LD_PRELOAD");
    if (posix_spawn(&child, "/usr/sbin/udevadm", 0, 0, SETTLE, environ) == 0)
        waitpid(child, 0, 0);
}

EXPORT unsigned sleep(unsigned seconds)
{
    (void)seconds;
    settle();
    return 0;
}

EXPORT int ioctl(int file, unsigned long request, ...)
{
    __builtin_va_list more;
    void *argument;
    int result;

    __builtin_va_start(more, request);
    argument = __builtin_va_arg(more, void *);
    __builtin_va_end(more);
    for (int tries = 0;; tries++) {
        result = (int)syscall(IOCTL, (long)file, request, argument);
        if (result == 0 || request != READ_TABLE || *__errno_location() != EBUSY || tries == TRIES)
            return result;
        usleep(PAUSE);
        settle();
    }
}
