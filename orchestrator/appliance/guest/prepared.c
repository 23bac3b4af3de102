/*
 * Preloaded by the guestfsd that a template holds (guest/template.sh). It is held when it first asks for its options:
 * everything is loaded and linked, Augeas's lenses are read, and nothing is decided yet. So it serves each launch,
 * whatever that asks of it: when it goes on, it finds its arguments in the file that GUESTLAUNCH_ARGUMENTS names, a line
 * each, of which the first is its name. Where that is "rehearse", it is held again, and a child of it goes on until OCaml
 * has started and all modules are there, which is most of what it does before it says that it is ready: QEMU, where it
 * emulates the CPU, has translated that code then. The child can open no file, so not the port either.
 *
 * To read the lenses takes more than all else of an inspection. It asks for a handle with the arguments below, and gets
 * the one that was made before, as it would have been made then: with AUG_NO_LOAD nothing of a disk is looked at. So does
 * who asks as "aug-init / 0" does (virt-customize, for a host name): what of the disk is loaded then is loaded when it is
 * given. Each is given away once. Any other handle is made as ever.
 *
 * It is linked with nothing, so that it can be compiled for a guest of another architecture without that one's C library:
 * what it calls is there where guestfsd is. The prototypes are those of glibc and of augeas.h.
 */

#define EXPORT __attribute__((visibility("default")))

typedef struct augeas augeas;
typedef augeas *init_fn(const char *root, const char *loadpath, unsigned int flags);
typedef int load_fn(augeas *);
typedef void close_fn(augeas *);
typedef int sigaction_fn(int, const void *, void *);
typedef int options_fn(int, char *const *, const char *, const void *, int *);

void *dlsym(void *, const char *);
int strcmp(const char *, const char *);
char *getenv(const char *);
int unsetenv(const char *);
int mallopt(int, int);
int raise(int);
int open(const char *, int, ...);
long read(int, void *, unsigned long);
int close(int);
int fork(void);
int waitpid(int, int *, int);
unsigned alarm(unsigned);
int setrlimit(int, const unsigned long *);
void _exit(int) __attribute__((noreturn));

#define RTLD_NEXT ((void *)-1l)
#define SIGPIPE 13
#define SIGSTOP 19
#define RLIMIT_NOFILE 7
#define AT_MOST_SECONDS 30
#define O_CLOEXEC 02000000
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

static int began, count, rehearsing;
static char text[4096], *arguments[MOST + 1];

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

static void read_arguments(const char *path)
{
    int file = open(path, O_CLOEXEC);
    long length = file < 0 ? 0 : read(file, text, sizeof text - 1);

    close(file);
    count = 0;
    for (long at = 0, begin = 0; at < length && count < MOST; at++) {
        if (text[at] == '\n') {
            text[at] = 0;
            arguments[count++] = text + begin;
            begin = at + 1;
        }
    }
}

/* guestfsd's first call after OCaml's start. */
EXPORT int sigaction(int number, const void *action, void *old)
{
    if (rehearsing && number == SIGPIPE)
        _exit(0);
    return ((sigaction_fn *)dlsym(RTLD_NEXT, "sigaction"))(number, action, old);
}

static void hold(const char *path)
{
    static const unsigned long none[] = { 0, 0 };

    for (;;) {
        int child;

        raise(SIGSTOP);
        read_arguments(path);
        if (count != 1 || strcmp(arguments[0], "rehearse") != 0)
            return;
        count = 0;
        child = fork();
        if (child == 0) {
            rehearsing = 1;
            setrlimit(RLIMIT_NOFILE, none);
            alarm(AT_MOST_SECONDS);
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
        if (path)
            hold(path);
    }
    return count ? real(count, arguments, letters, options, index) : real(argc, argv, letters, options, index);
}
