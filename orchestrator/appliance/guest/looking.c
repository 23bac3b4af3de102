/*
 * Preloaded into parted and sgdisk where they are asked what is on a disk (guest/shortcuts.c). Both open it for writing
 * all the same, and write nothing; but udev, which heeds the end of each such opening, has the kernel read the partition
 * table again and probes the disk and all that is on it, and guestfsd waits for that. So block devices are opened for
 * reading. Those that cannot be written to are opened as asked, as both say something of that.
 *
 * It is linked with nothing, as guest/prepared.c is. The prototypes are those of glibc.
 */

#define EXPORT __attribute__((visibility("default")))

long syscall(long, ...);

#if defined __aarch64__
enum { OPENAT = 56, CLOSE = 57, IOCTL = 29 };
#elif defined __x86_64__
enum { OPENAT = 257, CLOSE = 3, IOCTL = 16 };
#endif
#define AT_FDCWD (-100l)
#define TO_WRITE 3 /* or to read and write */
#define CREATE 0100   /* sgdisk would have the file made */
#define IS_READ_ONLY 0x125e /* BLKROGET, which only block devices know */

static int opened(const char *path, int flags, unsigned mode)
{
    if (flags & TO_WRITE) {
        int read_only = 1;
        long file = syscall(OPENAT, AT_FDCWD, path, (long)(flags & ~(TO_WRITE | CREATE)), 0l);

        if (file >= 0 && syscall(IOCTL, file, (long)IS_READ_ONLY, &read_only) == 0 && !read_only)
            return (int)file;
        if (file >= 0)
            syscall(CLOSE, file);
    }
    return (int)syscall(OPENAT, AT_FDCWD, path, (long)flags, (long)mode);
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
