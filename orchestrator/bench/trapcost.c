/*
 * A QEMU TCG plugin that models what a trapped MMIO access costs: each load from the data register of QEMU's
 * fw_cfg device takes at least `cost_ns`, as each does under KVM, where it is an exit to user space. Under TCG such
 * an access costs well under a microsecond. What is measured with it is a model and labelled so wherever it is shown.
 *
 * It watches only 64-bit loads without offset (the A64 instruction the firmware reads the register with) in code
 * that runs before the guest kernel's own mapping, compares one address, and takes itself out when the first kernel
 * address is translated: nothing is left in the translated code after that.
 *
 * Arguments: cost_ns=N (time of one access), base=0xADDRESS (guest address of the data register; UEFI maps it 1:1).
 *
 * The prototypes are those of QEMU's plugin interface, in the version that PLUGIN_API says; distributions do not package
 * its header. QEMU refuses a plugin whose version it does not serve. Of what is used here, version 3 (QEMU 9.1) changed
 * how an instruction's bytes are had: they are copied.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
enum { CB_NO_REGS = 0 };
enum { MEM_RW = 3 };

typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*mem_cb)(unsigned int, qemu_plugin_meminfo_t, uint64_t, void *);
typedef void (*simple_cb)(qemu_plugin_id_t);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, mem_cb, int, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
#if PLUGIN_API >= 3
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#else
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#endif
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
void qemu_plugin_uninstall(qemu_plugin_id_t, simple_cb);

EXPORT int qemu_plugin_version = PLUGIN_API;

/* A longer pause than this is the firmware doing something else: a preempted vCPU thread is back sooner. */
#define SAME_RUN_NS 250000000u

static uint64_t cost_ns;
static uint64_t data_register;
static uint64_t last_end_ns;
static bool leaving;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Called after the load. In a run of accesses each is due cost_ns after the one before, so that N accesses take
 * N * cost_ns whatever TCG itself needs for one, and whatever the host's scheduler took away in between. */
static void after_load(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *unused)
{
    uint64_t now, end;

    (void)cpu, (void)info, (void)unused;
    if (address != data_register) {
        return;
    }
    now = now_ns();
    end = (now - last_end_ns < SAME_RUN_NS ? last_end_ns : now) + cost_ns;
    while (now < end) {
        now = now_ns();
    }
    last_end_ns = end;
}

static void gone(qemu_plugin_id_t id)
{
    (void)id;
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t count = qemu_plugin_tb_n_insns(tb);
    uint32_t word;

    if (leaving) {
        return;
    }
    if (qemu_plugin_tb_vaddr(tb) >> 48 == 0xffff) { /* Linux runs from the upper half of the address space */
        leaving = true;
        qemu_plugin_uninstall(id, gone);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

        if (qemu_plugin_insn_size(insn) != sizeof(word)) {
            continue;
        }
#if PLUGIN_API >= 3
        qemu_plugin_insn_data(insn, &word, sizeof(word));
#else
        memcpy(&word, qemu_plugin_insn_data(insn), sizeof(word));
#endif
        if ((word & 0xfffffc00u) == 0xf9400000u) { /* LDR Xt, [Xn] */
            qemu_plugin_register_vcpu_mem_cb(insn, after_load, CB_NO_REGS, MEM_RW, NULL);
        }
    }
}

static bool number(const char *argument, const char *key, uint64_t *value)
{
    size_t length = strlen(key);
    char *end;

    if (strncmp(argument, key, length) != 0 || argument[length] != '=') {
        return false;
    }
    *value = strtoull(argument + length + 1, &end, 0);
    return end != argument + length + 1 && *end == '\0';
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!number(argv[i], "cost_ns", &cost_ns) && !number(argv[i], "base", &data_register)) {
            fprintf(stderr, "trapcost: cannot understand argument '%s'\n", argv[i]);
            return -1;
        }
    }
    if (cost_ns == 0 || data_register == 0) {
        fprintf(stderr, "trapcost: cost_ns and base are needed\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    return 0;
}
