/* Lets virt-customize, virt-builder and virt-sysprep run commands in a guest of another architecture than their own.
 *
 * They refuse to when the guest's architecture is not the one that they were built for, whatever the appliance is. But
 * commands run in the appliance: where that has the guest's architecture, they run natively. Preloaded, this answers
 * their question about the guest with their own architecture if the appliance has the guest's, and with the truth
 * otherwise. Whoever else asks is told the truth, and so is virt-builder where it asks about a template for its index.
 *
 * What is called is part of libguestfs's stable interface, or of the C library's; nothing of either is needed to build this.
 */
#define NULL ((void *)0)
#define RTLD_NEXT ((void *)-1l)
#define ENOSYS 38

void *dlsym(void *, const char *);
int strcmp(const char *, const char *);
char *strdup(const char *);
void free(void *);
int *__errno_location(void);
extern char *program_invocation_short_name;

#if defined(__x86_64__)
#define OWN_ARCH "x86_64"
#elif defined(__aarch64__)
#define OWN_ARCH "aarch64"
#else
#error "no libguestfs tools for this architecture are known"
#endif

typedef struct guestfs_h guestfs_h;

struct guestfs_utsname {
	char *uts_sysname;
	char *uts_release;
	char *uts_version;
	char *uts_machine;
};

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static int concerns_this_program(guestfs_h *g)
{
	static const char *const programs[] = { "virt-customize", "virt-builder", "virt-sysprep" };
	const char *(*get_identifier)(guestfs_h *) = (const char *(*)(guestfs_h *))next("guestfs_get_identifier");
	const char *identifier = get_identifier ? get_identifier(g) : NULL;

	if (identifier && strcmp(identifier, "template") == 0)
		return 0;
	for (unsigned i = 0; i < sizeof programs / sizeof programs[0]; i++)
		if (strcmp(program_invocation_short_name, programs[i]) == 0)
			return 1;
	return 0;
}

static int is_the_appliances(guestfs_h *g, const char *arch)
{
	struct guestfs_utsname *(*utsname)(guestfs_h *) =
		(struct guestfs_utsname *(*)(guestfs_h *))next("guestfs_utsname");
	void (*free_utsname)(struct guestfs_utsname *) =
		(void (*)(struct guestfs_utsname *))next("guestfs_free_utsname");
	struct guestfs_utsname *appliance = utsname && free_utsname ? utsname(g) : NULL;
	int same = appliance && strcmp(appliance->uts_machine, arch) == 0;

	if (appliance)
		free_utsname(appliance);
	return same;
}

__attribute__((visibility("default"))) char *guestfs_inspect_get_arch(guestfs_h *g, const char *root)
{
	char *(*inspect_get_arch)(guestfs_h *, const char *) =
		(char *(*)(guestfs_h *, const char *))next("guestfs_inspect_get_arch");
	char *arch, *own;

	if (!inspect_get_arch) {
		*__errno_location() = ENOSYS;
		return NULL;
	}
	arch = inspect_get_arch(g, root);
	if (!arch || strcmp(arch, OWN_ARCH) == 0 || !concerns_this_program(g) || !is_the_appliances(g, arch))
		return arch;
	own = strdup(OWN_ARCH);
	if (!own)
		return arch;
	free(arch);
	return own;
}
