/*
 * Preloaded by the guestfsd that a template holds (guest/template.sh). It is held when it first asks for its options:
 * everything is loaded and linked, Augeas's lenses are read, and nothing is decided yet. So it serves each launch,
 * whatever that asks of it: when it goes on, it finds its arguments in the file that GUESTLAUNCH_ARGUMENTS names, a line
 * each, of which the first is its name. Where that is "rehearse", it is held again, and a child of it goes on as guestfsd
 * does, and is sent what the file says that the second line names: libguestfs's messages, as they are on the wire. Nobody
 * hears its answers: afterwards its code is in memory, and QEMU, where it emulates the CPU, has translated it.
 *
 * To read the lenses takes more than all else of an inspection. It asks for a handle with the arguments below, and gets
 * the one that was made before, as it would have been made then: with AUG_NO_LOAD nothing of a disk is looked at. So does
 * who asks as "aug-init / 0" does (virt-customize, for a host name): what of the disk is loaded then is loaded when it is
 * given. Each is given away once. Any other handle is made as ever.
 *
 * Where guestfsd looks at one file of a disk, it forks for that, hundreds of times in an inspection; what that costs is the
 * copy of its address space. So libraries that are mapped in five parts get along with two, for each of which the kernel
 * makes something anew in a child, and takes it down again: their constants can be executed then, and what the linker had
 * protected can be written to, in a process that only a guest contains. And a parent does not go on before its child has
 * ended, begun another program or waits for something: what it writes to meanwhile is copied, and takes the huge page there to pieces,
 * of which each later fork copies 512 entries.
 *
 * It is linked with nothing, so that it can be compiled for a guest of another architecture without that one's C library:
 * what it calls is there where guestfsd is. The prototypes are those of glibc and of augeas.h.
 */

#define EXPORT __attribute__((visibility("default")))

typedef struct augeas augeas;
typedef augeas *init_fn(const char *root, const char *loadpath, unsigned int flags);
typedef int load_fn(augeas *);
typedef void close_fn(augeas *);
typedef int options_fn(int, char *const *, const char *, const void *, int *);
typedef int fork_fn(void);

struct awaited {
    int file;
    short events, revents;
};

/* Of elf.h and link.h, on 64 bits. */
struct segment {
    unsigned type, flags;
    unsigned long offset, address, physical, in_file, size, align;
};
struct object {
    unsigned long base;
    const char *name;
    const struct segment *segments;
    unsigned short count;
};

void *dlsym(void *, const char *);
int strcmp(const char *, const char *);
int strncmp(const char *, const char *, unsigned long);
void *memchr(const void *, int, unsigned long);
char *getenv(const char *);
int unsetenv(const char *);
int mallopt(int, int);
int raise(int);
int open(const char *, int, ...);
long read(int, void *, unsigned long);
long write(int, const void *, unsigned long);
int close(int);
int socketpair(int, int, int, int[2]);
int shutdown(int, int);
int fork(void);
int waitpid(int, int *, int);
int pipe2(int[2], int);
int poll(struct awaited *, unsigned long, int);
int mprotect(void *, unsigned long, int);
int dl_iterate_phdr(int (*)(struct object *, unsigned long, void *), void *);
int prctl(int, ...);
unsigned alarm(unsigned);
int snprintf(char *, unsigned long, const char *, ...);
void _exit(int) __attribute__((noreturn));

#define RTLD_NEXT ((void *)-1l)
#define SIGKILL 9l
#define SIGSTOP 19
#define PR_SET_PDEATHSIG 1
#define AF_UNIX 1
#define SOCK_STREAM (1 | O_CLOEXEC)
#define SHUT_WR 1
#define AT_MOST_SECONDS 60
#define O_CLOEXEC 02000000
#define WRITE 2u /* a segment's flag */
#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define LOADED 1u
#define PAGE 4096ul
#define LOOK_AFTER 20 /* milliseconds */
#define SAVE_NOOP (1u << 4)
#define NO_LOAD (1u << 5)
#define NO_ERR_CLOSE (1u << 8)
/* The heap grows at once, so that the kernel takes huge pages for it: guestfsd forks some 60 times in an inspection. */
#define M_TOP_PAD (-2)
#define GROWN (64 << 20)
#define AS_EVER (128 << 10)
#define MOST 16

static struct {
    const char *root;
    unsigned int flags;
    augeas *ready, *given;
} handles[] = {
    { .root = "/sysroot", .flags = SAVE_NOOP | NO_LOAD | NO_ERR_CLOSE },
    { .root = "/sysroot/", .flags = NO_ERR_CLOSE },
};
#define HANDLES (sizeof handles / sizeof handles[0])

static int began, count;
static char text[4096], channel[32], *arguments[MOST + 1];

EXPORT augeas *aug_init(const char *root, const char *loadpath, unsigned int flags)
{
    init_fn *real = (init_fn *)dlsym(RTLD_NEXT, "aug_init");

    for (unsigned i = 0; i < HANDLES; i++) {
        augeas *handle = handles[i].ready;

        if (!handle || !root || loadpath || flags != handles[i].flags || strcmp(root, handles[i].root) != 0)
            continue;
        handles[i].given = handle;
        handles[i].ready = 0;
        if (!(flags & NO_LOAD))
            ((load_fn *)dlsym(RTLD_NEXT, "aug_load"))(handle); /* what goes wrong stands in the handle */
        return handle;
    }
    return real(root, loadpath, flags);
}

/* What is given back is left as it is: to free it would write to all of it, in memory that clones share until then. */
EXPORT void aug_close(augeas *handle)
{
    for (unsigned i = 0; i < HANDLES; i++) {
        if (handle && handle == handles[i].given) {
            handles[i].given = 0;
            return;
        }
    }
    ((close_fn *)dlsym(RTLD_NEXT, "aug_close"))(handle);
}

static void read_lenses(void)
{
    init_fn *real = (init_fn *)dlsym(RTLD_NEXT, "aug_init");

    if (!real)
        return;
    mallopt(M_TOP_PAD, GROWN);
    for (unsigned i = 0; i < HANDLES; i++)
        handles[i].ready = real(handles[i].root, 0, handles[i].flags | NO_LOAD);
    mallopt(M_TOP_PAD, AS_EVER);
}

static int real_fork(void)
{
    static fork_fn *real;

    if (!real)
        real = (fork_fn *)dlsym(RTLD_NEXT, "fork");
    return real();
}

/* Whether a process is at work, and not waiting for its parent, perhaps, to read what it has to say. */
static int works(int pid)
{
    char path[32], line[128];
    long length;
    int file;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = open(path, O_CLOEXEC);
    length = file < 0 ? 0 : read(file, line, sizeof line);
    close(file);
    /* Its name, in parentheses, then its state. */
    while (length > 0 && line[length - 1] != ')')
        length--;
    return length > 0 && (line[length + 1] == 'R' || line[length + 1] == 'D');
}

/* The kernel closes our pipe's other end when the child ends, and where it begins another program; then both have let go
   of our memory. */
EXPORT int fork(void)
{
    struct awaited gone;
    int ends[2], child;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return real_fork();
    child = real_fork();
    if (child == 0)
        return 0;
    close(ends[1]);
    gone = (struct awaited){ .file = ends[0] };
    while (child > 0 && poll(&gone, 1, LOOK_AFTER) <= 0 && works(child))
        continue;
    close(ends[0]);
    return child;
}

/* Returns the number that a text begins with, in hexadecimal digits, and where it ends. */
static unsigned long number(const char **text)
{
    unsigned long value = 0;

    for (;; (*text)++) {
        char digit = **text;

        if (digit >= '0' && digit <= '9')
            value = value << 4 | (unsigned long)(digit - '0');
        else if (digit >= 'a' && digit <= 'f')
            value = value << 4 | (unsigned long)(digit - 'a' + 10);
        else
            return value;
    }
}

/*
 * On Arm the linker keeps the addresses between a library's code and its data by a mapping of the library that nobody may
 * use. It joins the code if it may be used as that.
 */
static void join_gaps(void)
{
    static char lines[8192];
    unsigned long code_end = 0, kept = 0;
    int file = open("/proc/self/maps", O_CLOEXEC);
    long length;

    while (file >= 0 && (length = read(file, lines + kept, sizeof lines - 1 - kept)) > 0) {
        const char *at = lines, *end = lines + kept + length, *line_end;

        for (;; at = line_end + 1) {
            const char *text = at;
            unsigned long first, last;

            for (line_end = at; line_end < end && *line_end != '\n'; line_end++)
                continue;
            if (line_end == end)
                break;
            first = number(&text);
            text++;
            last = number(&text);
            /* Perhaps of another file: then the kernel leaves them as two. */
            if (first == code_end && strncmp(text, " ---p", 5) == 0 && memchr(text, '/', line_end - text))
                mprotect((void *)first, last - first, PROT_READ | PROT_EXEC);
            code_end = strncmp(text, " r-xp", 5) == 0 && memchr(text, '/', line_end - text) ? last : 0;
        }
        kept = end - at;
        for (unsigned long i = 0; i < kept; i++)
            lines[i] = at[i];
    }
    close(file);
}

/* Has the kernel see as one what lies side by side of an object: what is only read or executed, and what is written to. */
static int join(struct object *object, unsigned long size, void *data)
{
    unsigned long constant = 0, end = 0, written = 0, written_end = 0;

    (void)size;
    (void)data;
    for (int i = 0; i < object->count; i++) {
        const struct segment *one = &object->segments[i];
        unsigned long first = object->base + one->address, last = first + one->in_file;

        if (one->type != LOADED)
            continue;
        if (one->flags & WRITE) {
            written = first & -PAGE;
            written_end = (last + PAGE - 1) & -PAGE;
        } else {
            if (!constant)
                constant = first & -PAGE;
            end = (last + PAGE - 1) & -PAGE;
        }
    }
    if (constant)
        mprotect((void *)constant, end - constant, PROT_READ | PROT_EXEC);
    if (written)
        mprotect((void *)written, written_end - written, PROT_READ | PROT_WRITE);
    return 0;
}

/* Reads the beginning of a file into the text, and returns its length; none where there is no such file. */
static long take(const char *path)
{
    int file = open(path, O_CLOEXEC);
    long length = file < 0 ? 0 : read(file, text, sizeof text - 1);

    close(file);
    return length;
}

static void read_arguments(const char *path)
{
    long length = take(path);

    count = 0;
    for (long at = 0, begin = 0; at < length && count < MOST; at++) {
        if (text[at] == '\n') {
            text[at] = 0;
            arguments[count++] = text + begin;
            begin = at + 1;
        }
    }
}

/* Sends messages to whoever is at the other end, and reads what comes of it until that is gone. */
__attribute__((noreturn)) static void send(int end, const char *messages)
{
    long length = take(messages);

    if (length > 0 && write(end, text, length) != length)
        _exit(1);
    shutdown(end, SHUT_WR);
    while (read(end, text, sizeof text) > 0)
        continue;
    waitpid(-1, 0, 0);
    _exit(0);
}

/* Returns in a process that is to go on as guestfsd, whose other end gets the messages. */
static void rehearse(const char *messages)
{
    int ends[2];

    alarm(AT_MOST_SECONDS);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        _exit(1);
    switch (real_fork()) {
    case -1:
        _exit(1);
    case 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0l, 0l, 0l);
        close(ends[0]);
        snprintf(channel, sizeof channel, "fd:%d", ends[1]);
        arguments[0] = "guestfsd";
        arguments[1] = "--channel";
        arguments[2] = channel;
        count = 3;
        return;
    default:
        close(ends[1]);
        send(ends[0], messages);
    }
}

static void hold(const char *path)
{
    for (;;) {
        int child;

        raise(SIGSTOP);
        read_arguments(path);
        if (count != 2 || strcmp(arguments[0], "rehearse") != 0)
            return;
        child = real_fork();
        if (child == 0) {
            rehearse(arguments[1]);
            return;
        }
        if (child > 0)
            waitpid(child, 0, 0);
    }
}

/* Its first call that is its own. Programs that it starts are not to have us. */
EXPORT int getopt_long(int argc, char *const *argv, const char *letters, const void *options, int *index)
{
    options_fn *real = (options_fn *)dlsym(RTLD_NEXT, "getopt_long");

    if (!began) {
        const char *path = getenv("GUESTLAUNCH_ARGUMENTS"); /* what it points to stays */

        began = 1;
        unsetenv("LD_PRELOAD");
        unsetenv("GUESTLAUNCH_ARGUMENTS");
        read_lenses();
        dl_iterate_phdr(join, 0);
        join_gaps();
        if (path)
            hold(path);
    }
    return count ? real(count, arguments, letters, options, index) : real(argc, argv, letters, options, index);
}
