/*
 * Preloaded into udevd (guest/root-init). What is on a device its libblkid makes out by some fifty reads, most of them of
 * a page, wherever anything that it knows may have left its mark: a request to the host each, as the kernel forgets what
 * was read whenever nobody has the device open any more. Here it does not look for what nothing in an appliance could put
 * together or mount: the arrays of BIOSes, and ZFS, for which it reads a mebibyte. That is udev's business alone:
 * guestfsd asks blkid, which knows all of them. Most of the other marks are in the first 128 KiB and the last 64: the
 * kernel is told to read these at once.
 *
 * It is linked with nothing, as guest/prepared.c is. The prototypes are those of glibc and of blkid.h.
 */

#define EXPORT __attribute__((visibility("default")))

typedef struct blkid_struct_probe *blkid_probe;
typedef int set_device_fn(blkid_probe, int, long, long);
typedef int set_flags_fn(blkid_probe, int);
typedef int filter_fn(blkid_probe, int, char *[]);
typedef long get_size_fn(blkid_probe);

void *dlsym(void *, const char *);
int unsetenv(const char *);
long readahead(int, long, unsigned long);

#define RTLD_NEXT ((void *)-1l)
#define NOT_IN 1 /* BLKID_FLTR_NOTIN */
#define FIRST (128l << 10)
#define LAST (64l << 10)

__attribute__((constructor)) static void start(void)
{
    unsetenv("LD_PRELOAD");
}

/* Called for each new probe, before it is said whether arrays count at all; that takes the place of what is said here. */
EXPORT int blkid_probe_set_superblocks_flags(blkid_probe probe, int flags)
{
    static char *left_out[] = {
        "adaptec_raid_member",  "hpt37x_raid_member",   "hpt45x_raid_member",          "jmicron_raid_member",
        "lsi_mega_raid_member", "nvidia_raid_member",   "promise_fasttrack_raid_member", "silicon_medley_raid_member",
        "via_raid_member",      "zfs_member",           0,
    };
    set_flags_fn *real = (set_flags_fn *)dlsym(RTLD_NEXT, "blkid_probe_set_superblocks_flags");
    filter_fn *filter = (filter_fn *)dlsym(RTLD_NEXT, "blkid_probe_filter_superblocks_type");

    filter(probe, NOT_IN, left_out);
    return real(probe, flags);
}

EXPORT int blkid_probe_set_device(blkid_probe probe, int file, long from, long size)
{
    set_device_fn *real = (set_device_fn *)dlsym(RTLD_NEXT, "blkid_probe_set_device");
    get_size_fn *get_size = (get_size_fn *)dlsym(RTLD_NEXT, "blkid_probe_get_size");
    int result = real(probe, file, from, size);
    long length = result ? 0 : get_size(probe);

    if (length > 0)
        readahead(file, from, length < FIRST ? length : FIRST);
    if (length > FIRST + LAST)
        readahead(file, from + length - LAST, LAST);
    return result;
}
