/*
 * Preloaded into parted and sgdisk (guest/shortcuts.c). Both open a disk for writing, several times in a row, and mostly
 * write nothing; but udev, which heeds the end of each such opening, has the kernel read the partition table again and
 * probes the disk and all that is on it, and guestfsd waits for that. So block devices are opened for reading, and for
 * writing when they are first written to. Those that cannot be written to are opened as asked, as both say something of
 * that.
 *
 * libparted reads sectors one by one, and the same ones again for each file system that it knows and each partition: some
 * 4,000 reads of a hundred places for a disk with twelve. While a disk is open for reading, what was read of it is kept,
 * until it is written to or the kernel is asked for anything about it, as nobody else writes to it meanwhile.
 *
 * It also asks for each of 256 partitions, whether there are any, whether it is mounted, and opens it twice to have the
 * kernel forget what it read. Those that /dev does not have are not there.
 *
 * Before it has the kernel read a partition table sgdisk sleeps for a second, as the kernel does not while udev looks at
 * a partition. So it is udev that is waited for; where that was too early after all, the kernel is asked again, but not
 * for long: of a disk with a mounted partition it never does.
 *
 * It is linked with nothing, as guest/prepared.c is. The prototypes are those of glibc.
 */

#define EXPORT __attribute__((visibility("default")))

long syscall(long, ...);
void *memcpy(void *, const void *, unsigned long);
int unsetenv(const char *);
void *opendir(const char *);
struct entry *readdir(void *);
int closedir(void *);
int strncmp(const char *, const char *, unsigned long);
int snprintf(char *, unsigned long, const char *, ...);
int posix_spawn(int *, const char *, const void *, const void *, char *const *, char *const *);
int waitpid(int, int *, int);
int usleep(unsigned);
int *__errno_location(void);
extern char **environ;

#if defined __aarch64__
enum { OPENAT = 56, CLOSE = 57, LSEEK = 62, READ = 63, WRITE = 64, PREAD64 = 67, FSTATAT = 79, IOCTL = 29, DUP3 = 24 };
#elif defined __x86_64__
enum { OPENAT = 257, CLOSE = 3, LSEEK = 8, READ = 0, WRITE = 1, PREAD64 = 17, FSTATAT = 262, IOCTL = 16, DUP3 = 292 };
#endif
#define AT_FDCWD (-100l)
#define TO_WRITE 3 /* or to read and write */
#define CREATE 0100   /* sgdisk would have the file made */
#define CLOEXEC 02000000
#define SEEK_SET 0l
#define SEEK_END 2l
#define IS_READ_ONLY 0x125e /* BLKROGET, which only block devices know */
#define READ_TABLE 0x125ful /* BLKRRPART */
#define ENOENT 2
#define EBUSY 16
#define TRIES 10
#define PAUSE 20000 /* microseconds */
#define MOST 64

/* As what those were to be opened that only look so far; where in them the program is, and how large they are. */
static int asked[MOST];
static long where[MOST], size[MOST];

#define BLOCK 4096l
#define BLOCKS 32
/* A multiplier after Knuth: file systems begin at round numbers, and would meet at the same few places. */
#define MIX 2654435761u
/* What was read; what is of another time is forgotten. */
static struct block {
    long at, length;
    int file;
    unsigned time;
} blocks[BLOCKS];
static char kept[BLOCKS][BLOCK] __attribute__((aligned(4096)));
static unsigned now = 1;

static void forget(void)
{
    now++;
}

struct entry {
    unsigned long inode, offset;
    unsigned short length;
    unsigned char type;
    char name[256];
};

/* A bit for each name in /dev, which others may share. */
#define NAMES 4096u
static unsigned char names[NAMES / 8];
static unsigned names_of; /* the time at which they were read */

static unsigned bit_of(const char *name)
{
    unsigned bit = 0;

    while (*name)
        bit = (bit + (unsigned char)*name++) * MIX;
    return bit / (~0u / NAMES + 1);
}

/* Whether there is surely no such device. */
static int missing(const char *path)
{
    struct entry *one;
    void *folder;

    if (strncmp(path, "/dev/", 5) != 0)
        return 0;
    for (const char *at = path += 5; *at; at++)
        if (*at == '/')
            return 0;
    if (names_of != now) {
        folder = opendir("/dev");
        if (!folder)
            return 0;
        for (unsigned i = 0; i < sizeof names; i++)
            names[i] = 0;
        while ((one = readdir(folder)))
            names[bit_of(one->name) / 8] |= 1 << bit_of(one->name) % 8;
        closedir(folder);
        names_of = now;
    }
    if (names[bit_of(path) / 8] >> bit_of(path) % 8 & 1)
        return 0;
    *__errno_location() = ENOENT;
    return 1;
}

EXPORT int stat(const char *path, void *into)
{
    return missing(path) ? -1 : (int)syscall(FSTATAT, AT_FDCWD, path, into, 0l);
}

static int looks(int file)
{
    return file >= 0 && file < MOST && asked[file];
}

static int can_be_written(long file)
{
    int read_only = 1;

    return syscall(IOCTL, file, (long)IS_READ_ONLY, &read_only) == 0 && !read_only;
}

static int opened(const char *path, int flags, unsigned mode)
{
    long file;

    if (!(flags & CREATE) && missing(path))
        return -1;
    if (flags & TO_WRITE) {
        file = syscall(OPENAT, AT_FDCWD, path, (long)(flags & ~(TO_WRITE | CREATE)), 0l);
        if (file >= 0 && file < MOST && can_be_written(file)) {
            asked[file] = flags & ~CREATE;
            where[file] = 0;
            size[file] = syscall(LSEEK, file, 0l, SEEK_END);
            forget();
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
    forget();
    return (int)syscall(CLOSE, (long)file);
}

static long sought(int file, long offset, int whence)
{
    long result;

    if (!looks(file))
        return syscall(LSEEK, (long)file, offset, (long)whence);
    if (whence == SEEK_SET && offset >= 0 && offset <= size[file])
        return where[file] = offset;
    syscall(LSEEK, (long)file, where[file], SEEK_SET);
    result = syscall(LSEEK, (long)file, offset, (long)whence);
    if (result >= 0)
        where[file] = result;
    return result;
}

EXPORT long lseek(int file, long offset, int whence)
{
    return sought(file, offset, whence);
}

EXPORT long lseek64(int file, long offset, int whence)
{
    return sought(file, offset, whence);
}

/* Gives what is at a place, as far as one block has it: none behind the end, less than none where it cannot be read. */
static long taken(int file, long at, char *into, long most)
{
    long start = at - at % BLOCK;
    unsigned number = (unsigned)(start / BLOCK) * MIX / (~0u / BLOCKS + 1);
    struct block *one = &blocks[number];
    long length;

    if (one->time != now || one->file != file || one->at != start) {
        one->time = 0;
        one->length = syscall(PREAD64, (long)file, kept[number], BLOCK, start);
        if (one->length < BLOCK && start + one->length != size[file])
            return -1;
        one->time = now, one->file = file, one->at = start;
    }
    length = one->length - (at - start);
    length = length < most ? length : most;
    if (length > 0)
        memcpy(into, kept[number] + (at - start), length);
    return length;
}

EXPORT long read(int file, void *into, unsigned long length)
{
    unsigned long got = 0;
    long part = -1;

    if (!looks(file))
        return syscall(READ, (long)file, into, length);
    while (length <= BLOCK * BLOCKS / 2 && got < length) {
        part = taken(file, where[file] + got, (char *)into + got, length - got);
        if (part <= 0)
            break;
        got += part;
    }
    if (part < 0) { /* the kernel is to say why */
        syscall(LSEEK, (long)file, where[file], SEEK_SET);
        part = syscall(READ, (long)file, into, length);
        got = part;
    }
    if (part >= 0)
        where[file] += got;
    return (long)got;
}

EXPORT long write(int file, const void *data, unsigned long length)
{
    if (looks(file) && can_be_written(file)) {
        char path[32];
        long other;

        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        other = syscall(OPENAT, AT_FDCWD, path, (long)asked[file], 0l);
        if (other < 0)
            return -1;
        syscall(LSEEK, other, where[file], SEEK_SET);
        syscall(DUP3, other, (long)file, (long)(asked[file] & CLOEXEC));
        syscall(CLOSE, other);
        asked[file] = 0;
    }
    forget();
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
    forget();
    for (int tries = 0;; tries++) {
        result = (int)syscall(IOCTL, (long)file, request, argument);
        if (result == 0 || request != READ_TABLE || *__errno_location() != EBUSY || tries == TRIES)
            return result;
        usleep(PAUSE);
        settle();
    }
}
