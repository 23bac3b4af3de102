/*
 * Preloaded by the guestfsd that a template holds (guest/template.sh): has it read Augeas's lenses before it is held, so
 * that no clone has to. Inspection does that for each system that it looks at, and it takes more than all else of it.
 *
 * guestfsd asks for a handle with these arguments, and gets the one that was made before, as it would have been made
 * then: with AUG_NO_LOAD nothing of a disk is looked at. It is given away once. Any other handle is made as ever.
 *
 * It is linked with nothing, so that it can be compiled for a guest of another architecture without that one's C library:
 * what it calls is there where guestfsd is. The prototypes are those of glibc and of augeas.h.
 */

#define EXPORT __attribute__((visibility("default")))

typedef struct augeas augeas;
typedef augeas *init_fn(const char *root, const char *loadpath, unsigned int flags);
typedef void close_fn(augeas *);

void *dlsym(void *, const char *);
int strcmp(const char *, const char *);
int unsetenv(const char *);
int mallopt(int, int);

#define RTLD_NEXT ((void *)-1l)
#define ROOT "/sysroot"
#define FLAGS ((1u << 4) | (1u << 5) | (1u << 8)) /* AUG_SAVE_NOOP, AUG_NO_LOAD, AUG_NO_ERR_CLOSE */
/* The heap grows at once, so that the kernel takes huge pages for it: guestfsd forks some 60 times in an inspection. */
#define M_TOP_PAD (-2)
#define GROWN (64 << 20)
#define AS_EVER (128 << 10)

static augeas *ready, *given;
static int began;

EXPORT augeas *aug_init(const char *root, const char *loadpath, unsigned int flags)
{
    init_fn *real = (init_fn *)dlsym(RTLD_NEXT, "aug_init");

    if (ready && root && !loadpath && flags == FLAGS && strcmp(root, ROOT) == 0) {
        given = ready;
        ready = 0;
        return given;
    }
    return real(root, loadpath, flags);
}

/* What is given back is left as it is: to free it would write to all of it, in memory that clones share until then. */
EXPORT void aug_close(augeas *handle)
{
    if (handle && handle == given) {
        given = 0;
        return;
    }
    ((close_fn *)dlsym(RTLD_NEXT, "aug_close"))(handle);
}

/* guestfsd's first call that is its own; template.sh holds it there. Programs that it starts are not to have us. */
EXPORT unsigned int umask(unsigned int mask)
{
    if (!began) {
        init_fn *real = (init_fn *)dlsym(RTLD_NEXT, "aug_init");

        began = 1;
        unsetenv("LD_PRELOAD");
        if (real) {
            mallopt(M_TOP_PAD, GROWN);
            ready = real(ROOT, 0, FLAGS);
            mallopt(M_TOP_PAD, AS_EVER);
        }
    }
    return ((unsigned int (*)(unsigned int))dlsym(RTLD_NEXT, "umask"))(mask);
}
