/*
 * A stand-in for libnvidia-ml.so.1, written from the documented behaviour of NVML, for tests of the real path: the real
 * Python bindings load it with dlopen() as they load the vendor's library.
 *
 * The "machine" lives in a file that every process maps, so that one process sees what another did. All configuration
 * comes from the environment:
 *
 *   FAKE_NVML_STATE              the file that holds the machine (required)
 *   FAKE_NVML_GPUS               "a100@0000:07:00.0,h100@0000:1b:00.0": models and PCI addresses
 *   FAKE_NVML_DRIVER_VERSION     what nvmlSystemGetDriverVersion answers
 *   FAKE_NVML_INIT               code that nvmlInit answers (9 driver not loaded, 18 versions differ)
 *   FAKE_NVML_UNPRIVILEGED       1: the caller has neither root nor the MIG capability
 *   FAKE_NVML_FAIL               "function:n:code[,...]": the nth call fails ("n+": the nth and all later ones; the
 *                                function "change" is any that creates, destroys or sets the mode), counted
 *                                over all processes since this variable last changed; the code "kill" kills the calling
 *                                process before the call is done, "kill-after" when it is done
 *   FAKE_NVML_BUSY               "address/gi/ci:pid[,...]" or "address:pid": a process that runs there; only living ones count
 *   FAKE_NVML_SICK               "address:rows" (a row can't be remapped) or "address:reset" (the driver asks for a reset)
 *   FAKE_NVML_DRAW               "address:milliwatts:millijoules[,...]": what a board draws, and its counter; 42 degrees and, in
 *                                one piece, 25 % busy then; each GPU instance of a Hopper board is 37.5 % busy by GPM
 *   FAKE_NVML_RESET              auto: Ampere's mode change resets an idle GPU by itself; tool: it stays pending until
 *                                nvidia-smi resets the GPU; never: that fails too, as in a virtual machine
 *   FAKE_NVML_NAME_PREFIX        what stands before a profile's name in the versioned info ("MIG " when unset)
 *   FAKE_NVML_PROFILES_NEED_MIG  1: no profile info while MIG is off, as some drivers have it
 *   FAKE_NVML_ROTATED_IDS        1: ids of GPU instances count from the other half, as older drivers did
 *   FAKE_NVML_STRICT_HANDLES     1: a device handle dies with a mode change or a reset
 *   FAKE_NVML_LOG                file that gets a line a call: pid, function, subject, code
 *
 * With -DFAKE_NVML_OLD the versioned profile info, the placement of compute instances, limits of memory and the newer enums
 * are missing.
 * With -DFAKE_NVIDIA_SMI it becomes a program that knows "-L" and "--gpu-reset -i ADDRESS[,ADDRESS]".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    NO_MEMORY = 20, RESET_REQUIRED = 16, IN_USE = 19, INSUFFICIENT_RESOURCES = 23, VERSION_MISMATCH = 25, UNKNOWN = 999
};

enum { MAX_GPUS = 8, MAX_GIS = 7, MAX_CIS = 7, MAX_CLIENTS = 64, MAX_RULES = 8, SLOTS = 8, COMPUTE = 7, MAX_MIG = 7, MAX_LIMITS = 16 };

typedef unsigned int u32;
typedef unsigned long long u64;

/* ---- what callers hand in ------------------------------------------------------------------------------------------ */

struct placement { u32 start, size; };

struct gi_profile_v1 { u32 id, p2p, slices, count, sm, ce, dec, enc, jpeg, ofa; u64 mib; };
struct gi_profile_v2 { u32 version, id, p2p, slices, count, sm, ce, dec, enc, jpeg, ofa; u64 mib; char name[96]; };
struct ci_profile_v1 { u32 id, slices, count, sm, ce, dec, enc, jpeg, ofa; };
struct ci_profile_v2 { u32 version, id, slices, count, sm, ce, dec, enc, jpeg, ofa; char name[96]; };
struct gi_info { void *device; u32 id, profile; struct placement place; };
struct ci_info { void *device, *gi; u32 id, profile; struct placement place; };
struct memory_v1 { u64 total, free, used; };
struct memory_v2 { u32 version; u64 total, reserved, free, used; };
struct process { u32 pid; u64 memory; u32 gi, ci; };
struct attributes { u32 sm, ce, dec, enc, jpeg, ofa, gi_slices, ci_slices; u64 mib; };
struct pci_info { char legacy[16]; u32 domain, bus, device, ids, subsystem; char address[32]; };
struct temperature { u32 version, sensor; int celsius; };
struct rates { u32 gpu, memory; };
struct gpm_support { u32 version, supported; };
struct gpm_metric { u32 id, rc; double value; const char *about[3]; };
struct gpm_request { u32 version, count; void *first, *second; struct gpm_metric metric[]; };
struct field { u32 id, scope; int64_t when, took; u32 type, rc; union { u32 number; u64 wide; } value; };

#define WORD(type, version) ((u32)(sizeof(type) | (version) << 24))

/* ---- models -------------------------------------------------------------------------------------------------------- */

struct gi_profile {
    u32 number, id, slices, size, mib, count, sm, engines[5];
    const char *name;
    u32 places, start[7];   /* in the order in which the driver prefers them */
};

struct ci_profile { u32 id, slices, count, places, start[7]; };

struct model {
    const char *key, *name;
    u32 ids, major, minor, arch, mib, resetless, newer_cis;
    u32 profiles;
    struct gi_profile profile[8];
};

static const struct model MODELS[] = {
    {"a100", "NVIDIA A100-SXM4-40GB", 0x20B010DE, 8, 0, 7, 40960, 0, 1, 7, {
        {0, 19, 1, 1, 4864, 7, 14, {1, 0, 0, 0, 0}, "1g.5gb", 7, {6, 4, 2, 0, 5, 3, 1}},
        {7, 20, 1, 1, 4864, 1, 14, {1, 1, 0, 1, 1}, "1g.5gb+me", 7, {6, 4, 2, 0, 5, 3, 1}},
        {9, 15, 1, 2, 9856, 4, 14, {1, 1, 0, 0, 0}, "1g.10gb", 4, {6, 4, 2, 0}},
        {1, 14, 2, 2, 9856, 3, 28, {2, 1, 0, 0, 0}, "2g.10gb", 3, {4, 2, 0}},
        {2, 9, 3, 4, 19968, 2, 42, {3, 2, 0, 0, 0}, "3g.20gb", 2, {4, 0}},
        {3, 5, 4, 4, 19968, 1, 56, {4, 2, 0, 0, 0}, "4g.20gb", 1, {0}},
        {4, 0, 7, 8, 40192, 1, 98, {7, 5, 0, 1, 1}, "7g.40gb", 1, {0}}}},
    {"h100", "NVIDIA H100 80GB HBM3", 0x233010DE, 9, 0, 9, 81559, 1, 0, 7, {
        {0, 19, 1, 1, 9984, 7, 16, {1, 1, 0, 1, 0}, "1g.10gb", 7, {6, 4, 2, 0, 5, 3, 1}},
        {7, 20, 1, 1, 9984, 1, 16, {1, 1, 0, 1, 1}, "1g.10gb+me", 7, {6, 4, 2, 0, 5, 3, 1}},
        {9, 15, 1, 2, 20096, 4, 26, {1, 1, 0, 1, 0}, "1g.20gb", 4, {6, 4, 2, 0}},
        {1, 14, 2, 2, 20096, 3, 32, {2, 2, 0, 2, 0}, "2g.20gb", 3, {4, 2, 0}},
        {2, 9, 3, 4, 40448, 2, 60, {3, 3, 0, 3, 0}, "3g.40gb", 2, {4, 0}},
        {3, 5, 4, 4, 40448, 1, 64, {4, 4, 0, 4, 0}, "4g.40gb", 1, {0}},
        {4, 0, 7, 8, 81152, 1, 132, {8, 7, 0, 7, 1}, "7g.80gb", 1, {0}}}},
};

/* Compute instances by the compute slices of the GPU instance they lie in. */
static const struct { u32 gi_slices, profiles; struct ci_profile profile[5]; } CIS[] = {
    {1, 1, {{0, 1, 1, 1, {0}}}},
    {2, 2, {{0, 1, 2, 2, {0, 1}}, {1, 2, 1, 1, {0}}}},
    {3, 3, {{0, 1, 3, 3, {0, 1, 2}}, {1, 2, 1, 1, {0}}, {2, 3, 1, 1, {0}}}},
    {4, 3, {{0, 1, 4, 4, {0, 1, 2, 3}}, {1, 2, 2, 2, {0, 2}}, {3, 4, 1, 1, {0}}}},
    {7, 5, {{0, 1, 7, 7, {0, 1, 2, 3, 4, 5, 6}}, {1, 2, 3, 3, {0, 2, 4}}, {2, 3, 2, 2, {0, 4}}, {3, 4, 1, 1, {0}},
            {4, 7, 1, 1, {0}}}},
};

#ifdef FAKE_NVML_OLD
enum { GI_ENUMS = 10, CI_ENUMS = 7 };
#else
enum { GI_ENUMS = 18, CI_ENUMS = 9 };
#endif

/* ---- the machine, in a file ---------------------------------------------------------------------------------------- */

struct ci { u32 used, id, profile, slices, start, index; u64 serial; char uuid[48]; };
struct gi { u32 used, id, profile, start; u64 serial; struct ci ci[MAX_CIS]; };
struct gpu {
    u32 model, domain, bus, slot, function, current, pending, compute_mode;
    u64 epoch;
    char uuid[48];
    struct gi gi[MAX_GIS];
};

static struct machine {
    u32 magic, gpus;
    u64 serial;
    struct gpu gpu[MAX_GPUS];
    struct limit { char group[256]; u32 gpu, used; u64 soft, hard; } limit[MAX_LIMITS];
    struct { int pid, refs; } client[MAX_CLIENTS];
    char rules[512];
    u32 called[MAX_RULES];
} *machine;

static const u32 MAGIC = 0x4e564d31;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int state_fd = -1, state_pid, inits, dies_after;
static char subject[160];

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

static int flag(const char *name) { return setting(name)[0] == '1'; }

static u64 mix(u64 x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static void make_uuid(char *out, const char *kind, u64 seed)
{
    u64 a = mix(seed), b = mix(a);
    sprintf(out, "%s-%08x-%04x-%04x-%04x-%012llx", kind, (u32)(a >> 32), (u32)(a >> 16) & 0xffff, (u32)a & 0xffff,
            (u32)(b >> 48), b & 0xffffffffffffull);
}

static int parse_address(const char *text, u32 *domain, u32 *bus, u32 *slot, u32 *function)
{
    if (sscanf(text, "%x:%x:%x.%x", domain, bus, slot, function) == 4)
        return 1;
    *domain = 0;
    return sscanf(text, "%x:%x.%x", bus, slot, function) == 3;
}

static struct gpu *gpu_at(const char *address)
{
    u32 domain, bus, slot, function;
    if (!parse_address(address, &domain, &bus, &slot, &function))
        return NULL;
    for (u32 i = 0; i < machine->gpus; i++) {
        struct gpu *g = &machine->gpu[i];
        if (g->domain == domain && g->bus == bus && g->slot == slot && g->function == function)
            return g;
    }
    return NULL;
}

static void build_machine(void)
{
    char gpus[512], *rest = gpus, *part;
    memset(machine, 0, sizeof *machine);
    machine->magic = MAGIC;
    machine->serial = 1;
    snprintf(gpus, sizeof gpus, "%s", setting("FAKE_NVML_GPUS"));
    while ((part = strsep(&rest, ",")) && machine->gpus < MAX_GPUS) {
        char *at = strchr(part, '@');
        struct gpu *g = &machine->gpu[machine->gpus];
        if (!at || !parse_address(at + 1, &g->domain, &g->bus, &g->slot, &g->function))
            continue;
        *at = 0;
        for (u32 m = 0; m < sizeof MODELS / sizeof *MODELS; m++)
            if (!strcmp(MODELS[m].key, part))
                g->model = m;
        make_uuid(g->uuid, "GPU", (u64)g->domain << 32 | g->bus << 8 | g->slot << 3 | g->function);
        g->epoch = 1;
        machine->gpus++;
    }
}

static int lock(void)
{
    pthread_mutex_lock(&mutex);
    /* A lock belongs to the open file, which a forked child shares with its parent: a child opens its own. */
    if (state_fd < 0 || state_pid != getpid()) {
        if (state_fd >= 0)
            close(state_fd);
        state_fd = open(setting("FAKE_NVML_STATE"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        state_pid = getpid();
        if (state_fd < 0)
            return 0;
    }
    flock(state_fd, LOCK_EX);
    if (!machine) {
        if (ftruncate(state_fd, sizeof *machine))
            return 0;
        machine = mmap(NULL, sizeof *machine, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
        if (machine == MAP_FAILED) {
            machine = NULL;
            return 0;
        }
    }
    if (machine->magic != MAGIC)
        build_machine();
    return 1;
}

static void unlock(void)
{
    if (state_fd >= 0)
        flock(state_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
}

static void note(const char *format, ...)
{
    char text[sizeof subject];   /* the arguments may be the present subject */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(subject, text, sizeof text);
}

static void write_log(const char *function, int rc)
{
    char line[320];
    if (!*setting("FAKE_NVML_LOG"))
        return;
    int length = snprintf(line, sizeof line, "%d %s %s %d\n", (int)getpid(), function, *subject ? subject : "-", rc);
    int fd = open(setting("FAKE_NVML_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (write(fd, line, (size_t)length) != length)
        perror("FAKE_NVML_LOG");
    close(fd);
}

static int changes(const char *function)
{
    return strstr(function, "Create") || strstr(function, "Destroy") || strstr(function, "SetMigMode");
}

/* The code that the environment wants for this call of the function, OK when it wants none. */
static int injected(const char *function)
{
    char rules[512], *rest = rules, *part;
    int rc = OK;
    snprintf(rules, sizeof rules, "%s", setting("FAKE_NVML_FAIL"));
    if (strcmp(rules, machine->rules)) {
        memset(machine->called, 0, sizeof machine->called);
        strcpy(machine->rules, rules);
    }
    for (u32 i = 0; i < MAX_RULES && (part = strsep(&rest, ",")); i++) {
        char name[128], when[16], what[16];
        if (sscanf(part, "%127[^:]:%15[^:]:%15s", name, when, what) < 3)
            continue;
        u32 nth = (u32)atoi(when);
        int plus = strchr(when, '+') != NULL;
        if (strcmp(name, function) && !(!strcmp(name, "change") && changes(function)))
            continue;
        machine->called[i]++;
        if (machine->called[i] != nth && !(plus && machine->called[i] > nth))
            continue;
        if (!strcmp(what, "kill"))
            kill(getpid(), SIGKILL);
        else if (!strcmp(what, "kill-after"))
            dies_after = 1;
        else
            rc = atoi(what);
    }
    return rc;
}

static int enter(const char *function)
{
    subject[0] = 0;
    if (!lock())
        return UNKNOWN;
    subject[0] = 0;
    return inits ? injected(function) : UNINITIALIZED;
}

static int leave(const char *function, int rc)
{
    write_log(function, rc);
    if (dies_after)
        kill(getpid(), SIGKILL);
    unlock();
    return rc;
}

#define EXPORT __attribute__((visibility("default"))) int
#define CALL(function, body)          \
    {                                 \
        int rc = enter(#function);    \
        if (rc == OK)                 \
            rc = (body);              \
        return leave(#function, rc);  \
    }

/* ---- handles ------------------------------------------------------------------------------------------------------- */

enum kind { DEVICE = 1, GI, CI, MIG };
struct handle { enum kind kind; u32 gpu; u64 gi, ci, epoch; };
static struct handle handles[8192];
static u32 handles_used;

static void *handle(enum kind kind, struct gpu *g, struct gi *gi, struct ci *ci)
{
    u64 epoch = kind == DEVICE ? g->epoch : 0;
    struct handle wanted = {kind, (u32)(g - machine->gpu), gi ? gi->serial : 0, ci ? ci->serial : 0, epoch};
    for (u32 i = 0; i < handles_used; i++) {
        struct handle *h = &handles[i];
        if (h->kind == kind && h->gpu == wanted.gpu && h->gi == wanted.gi && h->ci == wanted.ci && h->epoch == wanted.epoch)
            return h;
    }
    if (handles_used == sizeof handles / sizeof *handles)
        return NULL;
    handles[handles_used] = wanted;
    return &handles[handles_used++];
}

static struct handle *known(void *pointer)
{
    struct handle *h = pointer;
    if (h < handles || h >= handles + handles_used || ((char *)h - (char *)handles) % sizeof *h)
        return NULL;
    return h;
}

static struct gi *gi_by_serial(struct gpu *g, u64 serial)
{
    for (u32 i = 0; i < MAX_GIS; i++)
        if (g->gi[i].used && g->gi[i].serial == serial)
            return &g->gi[i];
    return NULL;
}

static struct ci *ci_by_serial(struct gi *gi, u64 serial)
{
    for (u32 i = 0; i < MAX_CIS; i++)
        if (gi->ci[i].used && gi->ci[i].serial == serial)
            return &gi->ci[i];
    return NULL;
}

/* What a handle stands for. *gi and *ci are NULL for a device. */
static int resolve(void *pointer, enum kind kind, struct gpu **g, struct gi **gi, struct ci **ci)
{
    struct handle *h = known(pointer);
    struct gi *found_gi = NULL;
    struct ci *found_ci = NULL;
    if (!h || h->kind != kind)
        return INVALID_ARGUMENT;
    *g = &machine->gpu[h->gpu];
    note("%04x:%02x:%02x.%x", (*g)->domain, (*g)->bus, (*g)->slot, (*g)->function);
    if (kind == DEVICE)
        return flag("FAKE_NVML_STRICT_HANDLES") && h->epoch != (*g)->epoch ? INVALID_ARGUMENT : OK;
    if (!(found_gi = gi_by_serial(*g, h->gi)))
        return NOT_FOUND;
    if (h->ci && !(found_ci = ci_by_serial(found_gi, h->ci)))
        return NOT_FOUND;
    if (gi)
        *gi = found_gi;
    if (ci)
        *ci = found_ci;
    if (found_ci)
        note("%s/%u/%u", subject, found_gi->id, found_ci->id);
    else
        note("%s/%u", subject, found_gi->id);
    return OK;
}

/* A handle that may be a GPU or a MIG device. */
static int resolve_any(void *pointer, struct gpu **g, struct gi **gi, struct ci **ci)
{
    struct handle *h = known(pointer);
    *gi = NULL;
    *ci = NULL;
    return h && h->kind == MIG ? resolve(pointer, MIG, g, gi, ci) : resolve(pointer, DEVICE, g, gi, ci);
}

static int give(void **out, void *value)
{
    *out = value;
    return value ? OK : NO_MEMORY;
}

/* ---- the rules ----------------------------------------------------------------------------------------------------- */

static const struct model *model_of(const struct gpu *g) { return &MODELS[g->model]; }

static const struct gi_profile *gi_profile(const struct gpu *g, u32 id)
{
    const struct model *m = model_of(g);
    for (u32 i = 0; i < m->profiles; i++)
        if (m->profile[i].id == id)
            return &m->profile[i];
    return NULL;
}

static int ci_profile(const struct gpu *g, const struct gi *gi, u32 id, struct ci_profile *out)
{
    u32 slices = gi_profile(g, gi->profile)->slices;
    for (u32 i = 0; i < sizeof CIS / sizeof *CIS; i++) {
        if (CIS[i].gi_slices != slices)
            continue;
        for (u32 k = 0; k < CIS[i].profiles; k++) {
            const struct ci_profile *p = &CIS[i].profile[k];
            int same = p->id == id;
#ifndef FAKE_NVML_OLD
            /* Recent drivers list a second one-slice and, in the full GPU, a second seven-slice profile on Ampere. */
            same = same || (model_of(g)->newer_cis && ((id == 7 && p->id == 0) || (id == 8 && p->id == 4)));
#endif
            if (same) {
                *out = *p;
                out->id = id;
                return 1;
            }
        }
    }
    return 0;
}

static int forbidden(void) { return flag("FAKE_NVML_UNPRIVILEGED"); }

static int alive(int pid) { return kill(pid, 0) == 0 || errno == EPERM; }

/* Pids of the living processes in FAKE_NVML_BUSY on this GPU, GI or CI (-1: whichever); returns how many. */
static u32 running(const struct gpu *g, int gi, int ci, struct process *out, u32 room)
{
    char text[512], *rest = text, *part;
    u32 found = 0;
    snprintf(text, sizeof text, "%s", setting("FAKE_NVML_BUSY"));
    while ((part = strsep(&rest, ","))) {
        char *colon = strrchr(part, ':'), *slash = strchr(part, '/');
        int on_gi = -1, on_ci = -1, pid = colon ? atoi(colon + 1) : 0;
        if (!colon || !pid || gpu_at(part) != g || !alive(pid))
            continue;
        if (slash)
            sscanf(slash, "/%d/%d", &on_gi, &on_ci);
        if ((gi >= 0 && on_gi != gi) || (ci >= 0 && on_ci != ci))
            continue;
        if (out && found < room)
            out[found] = (struct process){(u32)pid, 512ull << 20, (u32)on_gi, (u32)on_ci};
        found++;
    }
    return found;
}

static u32 instances(const struct gpu *g)
{
    u32 n = 0;
    for (u32 i = 0; i < MAX_GIS; i++)
        n += g->gi[i].used;
    return n;
}

static void reset_gpu(struct gpu *g)
{
    memset(g->gi, 0, sizeof g->gi);
    g->current = g->pending;
    g->epoch++;
}

static int other_clients(void)
{
    for (u32 i = 0; i < MAX_CLIENTS; i++) {
        int pid = machine->client[i].pid;
        if (pid && !alive(pid))
            machine->client[i].pid = 0;
        else if (pid && pid != getpid())
            return pid;
    }
    return 0;
}

static void count_client(int step)
{
    int me = getpid(), room = -1;
    other_clients();
    for (int i = 0; i < MAX_CLIENTS; i++) {
        if (machine->client[i].pid == me) {
            machine->client[i].refs += step;
            if (machine->client[i].refs <= 0)
                machine->client[i].pid = 0;
            return;
        }
        if (!machine->client[i].pid)
            room = i;
    }
    if (step > 0 && room >= 0) {
        machine->client[room].pid = me;
        machine->client[room].refs = 1;
    }
}

/* OK, or the reason why an instance of that profile can't lie there now. */
static int fits(const struct gpu *g, const struct gi_profile *p, u32 start)
{
    u32 compute = p->slices, same = 0;
    for (u32 i = 0; i < MAX_GIS; i++) {
        if (!g->gi[i].used)
            continue;
        const struct gi_profile *q = gi_profile(g, g->gi[i].profile);
        compute += q->slices;
        same += q->id == p->id;
        if (start < g->gi[i].start + q->size && g->gi[i].start < start + p->size)
            return INSUFFICIENT_RESOURCES;
    }
    return compute > COMPUTE || same >= p->count ? INSUFFICIENT_RESOURCES : OK;
}

/* Where an instance lies decides its id: 0 the whole, 1-2 halves, 3-6 quarters, 7-14 eighths. */
static u32 gi_id(u32 start, u32 size)
{
    if (flag("FAKE_NVML_ROTATED_IDS"))
        start = (start + SLOTS / 2) % SLOTS;
    return size == 8 ? 0 : size == 4 ? 1 + start / 4 : size == 2 ? 3 + start / 2 : 7 + start;
}

static int create_gi(struct gpu *g, u32 profile, const struct placement *place, void **out)
{
    const struct gi_profile *p = gi_profile(g, profile);
    int rc = INSUFFICIENT_RESOURCES;
    u32 start = 0, legal = 0;
    if (!g->current)
        return NOT_SUPPORTED;
    if (forbidden())
        return NO_PERMISSION;
    if (!p || !out)
        return INVALID_ARGUMENT;
    if (place)
        note("%s/%u@%u:%u", subject, profile, place->start, place->size);
    for (u32 i = 0; i < p->places && rc; i++) {
        if (place && (place->start != p->start[i] || place->size != p->size))
            continue;
        legal = 1;
        start = p->start[i];
        rc = fits(g, p, start);
    }
    if (!legal)
        return INVALID_ARGUMENT;
    for (u32 i = 0; i < MAX_GIS && !rc; i++) {
        struct gi *gi = &g->gi[i];
        if (gi->used)
            continue;
        memset(gi, 0, sizeof *gi);
        gi->used = 1;
        gi->id = gi_id(start, p->size);
        gi->profile = profile;
        gi->start = start;
        gi->serial = machine->serial++;
        return give(out, handle(GI, g, gi, NULL));
    }
    return INSUFFICIENT_RESOURCES;
}

static int mig_index_taken(const struct gpu *g, u32 index)
{
    for (u32 i = 0; i < MAX_GIS; i++)
        for (u32 k = 0; g->gi[i].used && k < MAX_CIS; k++)
            if (g->gi[i].ci[k].used && g->gi[i].ci[k].index == index)
                return 1;
    return 0;
}

static int ci_fits(const struct gi *gi, const struct ci_profile *p, u32 start)
{
    u32 same = 0;
    for (u32 i = 0; i < MAX_CIS; i++) {
        const struct ci *c = &gi->ci[i];
        same += c->used && c->profile == p->id;
        if (c->used && start < c->start + c->slices && c->start < start + p->slices)
            return INSUFFICIENT_RESOURCES;
    }
    return same >= p->count ? INSUFFICIENT_RESOURCES : OK;
}

static int create_ci(struct gpu *g, struct gi *gi, u32 profile, const struct placement *place, void **out)
{
    struct ci_profile p;
    int rc = INSUFFICIENT_RESOURCES;
    u32 start = 0, legal = 0;
    if (forbidden())
        return NO_PERMISSION;
    if (!out || !ci_profile(g, gi, profile, &p))
        return INVALID_ARGUMENT;
    note("%s/%u@%d", subject, profile, place ? (int)place->start : -1);
    for (u32 i = 0; i < p.places && rc; i++) {
        if (place && (place->start != p.start[i] || place->size != p.slices))
            continue;
        legal = 1;
        start = p.start[i];
        rc = ci_fits(gi, &p, start);
    }
    if (!legal)
        return INVALID_ARGUMENT;
    if (profile == 8)   /* listed, but a conflict with the plain profile of the same size when it is created */
        return INSUFFICIENT_RESOURCES;
    for (u32 i = 0; i < MAX_CIS && !rc; i++) {
        struct ci *c = &gi->ci[i];
        if (c->used)
            continue;
        u32 index = 0;
        while (mig_index_taken(g, index))
            index++;
        *c = (struct ci){1, i, profile, p.slices, start, index, machine->serial++, ""};
        make_uuid(c->uuid, "MIG", c->serial << 20 | (u32)(g - machine->gpu + 1));
        return give(out, handle(CI, g, gi, c));
    }
    return INSUFFICIENT_RESOURCES;
}

static int set_mode(struct gpu *g, u32 mode, u32 *status)
{
    const char *reset = setting("FAKE_NVML_RESET");
    note("%s=%u", subject, mode);
    if (mode > 1 || !status)
        return INVALID_ARGUMENT;
    if (forbidden())
        return NO_PERMISSION;
    *status = OK;
    if (mode == g->current) {
        g->pending = mode;
        return OK;
    }
    if (model_of(g)->resetless) {
        if ((!mode && instances(g)) || running(g, -1, -1, NULL, 0)) {
            *status = IN_USE;
            return OK;
        }
        g->pending = g->current = mode;
        g->epoch++;
        return OK;
    }
    g->pending = mode;
    if (*reset && strcmp(reset, "auto"))
        *status = RESET_REQUIRED;
    else if (running(g, -1, -1, NULL, 0) || other_clients())
        *status = IN_USE;
    else
        reset_gpu(g);
    return OK;
}

/* ---- library-wide calls -------------------------------------------------------------------------------------------- */

static int start_session(void)
{
    int rc = atoi(setting("FAKE_NVML_INIT"));
    int locked = lock();
    subject[0] = 0;
    if (!locked)
        rc = UNKNOWN;
    if (rc == OK)
        rc = injected("nvmlInit_v2");
    if (rc == OK) {
        inits++;
        count_client(1);
    }
    return leave("nvmlInit_v2", rc);
}

EXPORT nvmlInit_v2(void) { return start_session(); }
EXPORT nvmlInitWithFlags(u32 flags) { (void)flags; return start_session(); }

static int end_session(void)
{
    inits--;
    count_client(-1);
    return OK;
}

EXPORT nvmlShutdown(void) CALL(nvmlShutdown, end_session())

static int text_out(char *buffer, u32 length, const char *text)
{
    if (!buffer)
        return INVALID_ARGUMENT;
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return OK;
}

static const char *driver_version(void)
{
    const char *version = setting("FAKE_NVML_DRIVER_VERSION");
    return *version ? version : "580.82.07";
}

EXPORT nvmlSystemGetDriverVersion(char *b, u32 n) CALL(nvmlSystemGetDriverVersion, text_out(b, n, driver_version()))
EXPORT nvmlSystemGetNVMLVersion(char *b, u32 n) CALL(nvmlSystemGetNVMLVersion, text_out(b, n, "13.580.82.07"))

static int put(u32 *out, u32 value)
{
    if (!out)
        return INVALID_ARGUMENT;
    *out = value;
    return OK;
}

EXPORT nvmlSystemGetCudaDriverVersion_v2(int *out) CALL(nvmlSystemGetCudaDriverVersion_v2, put((u32 *)out, 13000))

__attribute__((visibility("default"))) const char *nvmlErrorString(int rc)
{
    return rc == OK ? "no error" : rc == UNKNOWN ? "an internal failure" : "an error of the stand-in library";
}

EXPORT nvmlDeviceGetCount_v2(u32 *out) CALL(nvmlDeviceGetCount_v2, put(out, machine->gpus))

static int by_index(u32 index, void **out)
{
    note("%u", index);
    return index >= machine->gpus || !out ? INVALID_ARGUMENT : give(out, handle(DEVICE, &machine->gpu[index], NULL, NULL));
}

EXPORT nvmlDeviceGetHandleByIndex_v2(u32 index, void **out) CALL(nvmlDeviceGetHandleByIndex_v2, by_index(index, out))

static int by_address(const char *address, void **out)
{
    struct gpu *g;
    if (!address || !out)
        return INVALID_ARGUMENT;
    note("%s", address);
    return (g = gpu_at(address)) ? give(out, handle(DEVICE, g, NULL, NULL)) : NOT_FOUND;
}

EXPORT nvmlDeviceGetHandleByPciBusId_v2(const char *a, void **out) CALL(nvmlDeviceGetHandleByPciBusId_v2, by_address(a, out))

static int by_uuid(const char *uuid, void **out)
{
    if (!uuid || !out)
        return INVALID_ARGUMENT;
    note("%s", uuid);
    for (u32 n = 0; n < machine->gpus; n++) {
        struct gpu *g = &machine->gpu[n];
        if (!strcmp(g->uuid, uuid))
            return give(out, handle(DEVICE, g, NULL, NULL));
        for (u32 i = 0; i < MAX_GIS; i++)
            for (u32 k = 0; g->gi[i].used && k < MAX_CIS; k++)
                if (g->gi[i].ci[k].used && !strcmp(g->gi[i].ci[k].uuid, uuid))
                    return give(out, handle(MIG, g, &g->gi[i], &g->gi[i].ci[k]));
    }
    return NOT_FOUND;
}

EXPORT nvmlDeviceGetHandleByUUID(const char *uuid, void **out) CALL(nvmlDeviceGetHandleByUUID, by_uuid(uuid, out))

/* ---- calls about one device ---------------------------------------------------------------------------------------- */

/* Every body below gets the GPU (and the MIG device's instances, else NULL) that the handle stands for. */
#define ANY(function, params, ...)                      \
    static int function##_body params                   \
    {                                                   \
        struct gpu *g;                                  \
        struct gi *gi;                                  \
        struct ci *ci;                                  \
        int rc = resolve_any(h, &g, &gi, &ci);          \
        if (rc)                                         \
            return rc;                                  \
        __VA_ARGS__                                     \
    }                                                   \
    EXPORT function params

#define ON(kind, function, params, ...)                 \
    static int function##_body params                   \
    {                                                   \
        struct gpu *g;                                  \
        struct gi *gi = NULL;                           \
        struct ci *ci = NULL;                           \
        int rc = resolve(h, kind, &g, &gi, &ci);        \
        (void)gi;                                       \
        (void)ci;                                       \
        if (rc)                                         \
            return rc;                                  \
        __VA_ARGS__                                     \
    }                                                   \
    EXPORT function params

ANY(nvmlDeviceGetUUID, (void *h, char *b, u32 n), { return text_out(b, n, ci ? ci->uuid : g->uuid); })
CALL(nvmlDeviceGetUUID, nvmlDeviceGetUUID_body(h, b, n))

ANY(nvmlDeviceGetName, (void *h, char *b, u32 n), {
    char name[96];
    if (ci)
        snprintf(name, sizeof name, "%s MIG %s", model_of(g)->name, gi_profile(g, gi->profile)->name);
    return text_out(b, n, ci ? name : model_of(g)->name);
})
CALL(nvmlDeviceGetName, nvmlDeviceGetName_body(h, b, n))

ANY(nvmlDeviceGetPciInfo_v3, (void *h, struct pci_info *out), {
    if (!out)
        return INVALID_ARGUMENT;
    *out = (struct pci_info){.domain = g->domain, .bus = g->bus, .device = g->slot, .ids = model_of(g)->ids};
    out->subsystem = model_of(g)->resetless ? 0x16c110de : 0x134f10de;
    snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.%X", g->domain & 0xffff, g->bus & 0xff, g->slot & 0xff,
             g->function & 7);
    snprintf(out->address, sizeof out->address, "%08X:%02X:%02X.%X", g->domain, g->bus, g->slot, g->function);
    return OK;
})
CALL(nvmlDeviceGetPciInfo_v3, nvmlDeviceGetPciInfo_v3_body(h, out))

ON(DEVICE, nvmlDeviceGetIndex, (void *h, u32 *out), { return put(out, (u32)(g - machine->gpu)); })
CALL(nvmlDeviceGetIndex, nvmlDeviceGetIndex_body(h, out))

/* Minor numbers are not indices: they count down here, so that code which mixes them up is seen. */
ON(DEVICE, nvmlDeviceGetMinorNumber, (void *h, u32 *out), { return put(out, machine->gpus - 1 - (u32)(g - machine->gpu)); })
CALL(nvmlDeviceGetMinorNumber, nvmlDeviceGetMinorNumber_body(h, out))

ANY(nvmlDeviceGetCudaComputeCapability, (void *h, int *major, int *minor), {
    if (!major || !minor)
        return INVALID_ARGUMENT;
    *major = (int)model_of(g)->major;
    *minor = (int)model_of(g)->minor;
    return OK;
})
CALL(nvmlDeviceGetCudaComputeCapability, nvmlDeviceGetCudaComputeCapability_body(h, major, minor))

ON(DEVICE, nvmlDeviceGetArchitecture, (void *h, u32 *out), { return put(out, model_of(g)->arch); })
CALL(nvmlDeviceGetArchitecture, nvmlDeviceGetArchitecture_body(h, out))

ON(DEVICE, nvmlDeviceGetVirtualizationMode, (void *h, u32 *out), { return put(out, 0); })
CALL(nvmlDeviceGetVirtualizationMode, nvmlDeviceGetVirtualizationMode_body(h, out))

ON(DEVICE, nvmlDeviceGetPersistenceMode, (void *h, u32 *out), { return put(out, 1); })
CALL(nvmlDeviceGetPersistenceMode, nvmlDeviceGetPersistenceMode_body(h, out))

ON(DEVICE, nvmlDeviceGetComputeMode, (void *h, u32 *out), { return g->current ? NOT_SUPPORTED : put(out, g->compute_mode); })
CALL(nvmlDeviceGetComputeMode, nvmlDeviceGetComputeMode_body(h, out))

ON(DEVICE, nvmlDeviceSetComputeMode, (void *h, u32 mode), {
    if (forbidden())
        return NO_PERMISSION;
    if (g->current)
        return NOT_SUPPORTED;
    if (mode > 3)
        return INVALID_ARGUMENT;
    g->compute_mode = mode;
    return OK;
})
CALL(nvmlDeviceSetComputeMode, nvmlDeviceSetComputeMode_body(h, mode))

static int memory_of(struct gpu *g, struct gi *gi, u64 *total, u64 *used)
{
    struct process list[32];
    u32 n = running(g, gi ? (int)gi->id : -1, -1, list, 32);
    if (!gi && g->current && forbidden())
        return NO_PERMISSION;
    *total = (u64)(gi ? gi_profile(g, gi->profile)->mib : model_of(g)->mib) << 20;
    *used = 0;
    for (u32 i = 0; i < n && i < 32; i++)
        *used += list[i].memory;
    return OK;
}

ANY(nvmlDeviceGetMemoryInfo, (void *h, struct memory_v1 *out), {
    (void)ci;
    if (!out)
        return INVALID_ARGUMENT;
    if ((rc = memory_of(g, gi, &out->total, &out->used)))
        return rc;
    out->free = out->total - out->used;
    return OK;
})
CALL(nvmlDeviceGetMemoryInfo, nvmlDeviceGetMemoryInfo_body(h, out))

ANY(nvmlDeviceGetMemoryInfo_v2, (void *h, struct memory_v2 *out), {
    (void)ci;
    if (!out)
        return INVALID_ARGUMENT;
    if (out->version != WORD(struct memory_v2, 2))
        return VERSION_MISMATCH;
    if ((rc = memory_of(g, gi, &out->total, &out->used)))
        return rc;
    out->reserved = 0;
    out->free = out->total - out->used;
    return OK;
})
CALL(nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo_v2_body(h, out))

#ifndef FAKE_NVML_OLD
/* Limits of memory for a control group, which has to be there: not on MIG devices, nor beside them. */
struct limits_set { const char *group; u64 soft, hard; };
struct limits_told { const char *group; u64 soft, hard, used; };

static struct limit *limit_of(const struct gpu *g, const char *group)
{
    u32 number = (u32)(g - machine->gpu);
    struct limit *spare = NULL;
    for (u32 i = 0; i < MAX_LIMITS; i++) {
        struct limit *l = &machine->limit[i];
        if (l->used && l->gpu == number && !strcmp(l->group, group))
            return l;
        if (!l->used && !spare)
            spare = l;
    }
    if (spare) {
        *spare = (struct limit){.gpu = number, .hard = ~0ull};
        snprintf(spare->group, sizeof spare->group, "%s", group);
    }
    return spare;
}

static int limitable(const struct gpu *g, const struct gi *gi, const char *group)
{
    if (gi || g->current)
        return NOT_SUPPORTED;
    return group && strlen(group) < 256 && !access(group, F_OK) ? OK : INVALID_ARGUMENT;
}

ANY(nvmlDeviceSetMemoryLimits_v1, (void *h, struct limits_set *asked), {
    (void)ci;
    if (forbidden())
        return NO_PERMISSION;
    if ((rc = limitable(g, gi, asked->group)))
        return rc;
    struct limit *l = limit_of(g, asked->group);
    if (!l)
        return INSUFFICIENT_RESOURCES;
    l->used = 1;
    l->soft = asked->soft;
    l->hard = asked->hard;
    return OK;
})
CALL(nvmlDeviceSetMemoryLimits_v1, nvmlDeviceSetMemoryLimits_v1_body(h, asked))

ANY(nvmlDeviceGetMemoryLimits_v1, (void *h, struct limits_told *out), {
    (void)ci;
    if ((rc = limitable(g, gi, out->group)))
        return rc;
    struct limit *l = limit_of(g, out->group);
    if (!l)
        return INSUFFICIENT_RESOURCES;
    out->soft = l->soft;
    out->hard = l->hard;
    out->used = 0;
    return OK;
})
CALL(nvmlDeviceGetMemoryLimits_v1, nvmlDeviceGetMemoryLimits_v1_body(h, out))
#endif

static int processes(void *h, u32 *count, struct process *out, int any)
{
    struct gpu *g;
    struct gi *gi;
    struct ci *ci;
    struct process list[32];
    int rc = resolve_any(h, &g, &gi, &ci);
    if (rc)
        return rc;
    if (!count)
        return INVALID_ARGUMENT;
    if (!gi && g->current && forbidden())
        return NO_PERMISSION;
    u32 room = *count;
    u32 n = any ? running(g, gi ? (int)gi->id : -1, ci ? (int)ci->id : -1, list, 32) : 0;
    *count = n;
    if (n > room || (n && !out))
        return INSUFFICIENT_SIZE;
    memcpy(out ? out : list, list, n * sizeof *list);
    return OK;
}

EXPORT nvmlDeviceGetComputeRunningProcesses_v3(void *h, u32 *n, struct process *out)
CALL(nvmlDeviceGetComputeRunningProcesses_v3, processes(h, n, out, 1))
EXPORT nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, u32 *n, struct process *out)
CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, processes(h, n, out, 0))
EXPORT nvmlDeviceGetMPSComputeRunningProcesses_v3(void *h, u32 *n, struct process *out)
CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3, processes(h, n, out, 0))

static int sick(const struct gpu *g, const char *how)
{
    const char *text = setting("FAKE_NVML_SICK"), *colon = strrchr(text, ':');
    return colon && gpu_at(text) == g && !strcmp(colon + 1, how);
}

static int draw(const struct gpu *g, u64 *milliwatts, u64 *millijoules)
{
    char text[512], *rest = text, *part;
    snprintf(text, sizeof text, "%s", setting("FAKE_NVML_DRAW"));
    while ((part = strsep(&rest, ","))) {
        char address[32];
        if (sscanf(part, "%12[0-9a-f:.]:%llu:%llu", address, milliwatts, millijoules) == 3 && gpu_at(address) == g)
            return 1;
    }
    return 0;
}

static int draws(const struct gpu *g)
{
    u64 milliwatts, millijoules;
    return draw(g, &milliwatts, &millijoules);
}

ON(DEVICE, nvmlDeviceGetPowerUsage, (void *h, u32 *out), {
    u64 milliwatts;
    u64 millijoules;
    return draw(g, &milliwatts, &millijoules) ? put(out, (u32)milliwatts) : NOT_SUPPORTED;
})
CALL(nvmlDeviceGetPowerUsage, nvmlDeviceGetPowerUsage_body(h, out))

ON(DEVICE, nvmlDeviceGetTotalEnergyConsumption, (void *h, u64 *out), {
    u64 milliwatts;
    if (!out)
        return INVALID_ARGUMENT;
    return draw(g, &milliwatts, out) ? OK : NOT_SUPPORTED;
})
CALL(nvmlDeviceGetTotalEnergyConsumption, nvmlDeviceGetTotalEnergyConsumption_body(h, out))

ON(DEVICE, nvmlDeviceGetTemperature, (void *h, u32 sensor, u32 *out), {
    if (sensor)
        return INVALID_ARGUMENT;
    return draws(g) ? put(out, 42) : NOT_SUPPORTED;
})
CALL(nvmlDeviceGetTemperature, nvmlDeviceGetTemperature_body(h, sensor, out))

#ifndef FAKE_NVML_OLD
ON(DEVICE, nvmlDeviceGetTemperatureV, (void *h, struct temperature *out), {
    if (!out || out->sensor)
        return INVALID_ARGUMENT;
    if (out->version != WORD(struct temperature, 1))
        return VERSION_MISMATCH;
    out->celsius = 42;
    return draws(g) ? OK : NOT_SUPPORTED;
})
CALL(nvmlDeviceGetTemperatureV, nvmlDeviceGetTemperatureV_body(h, out))
#endif

ANY(nvmlDeviceGetUtilizationRates, (void *h, struct rates *out), {
    (void)gi;
    if (!out)
        return INVALID_ARGUMENT;
    *out = (struct rates){25, 0};
    return ci || g->current || !draws(g) ? NOT_SUPPORTED : OK;
})
CALL(nvmlDeviceGetUtilizationRates, nvmlDeviceGetUtilizationRates_body(h, out))

#ifndef FAKE_NVML_OLD
/* GPM: a sample is a buffer that says of which instance it is and when it was taken. */
struct sample { u64 gpu, instance; struct timespec when; };

static int gpm_known(const struct gpu *g) { return model_of(g)->major >= 9 && draws(g); }

ON(DEVICE, nvmlGpmQueryDeviceSupport, (void *h, struct gpm_support *out), {
    if (!out)
        return INVALID_ARGUMENT;
    if (out->version != 1)
        return VERSION_MISMATCH;
    out->supported = (u32)gpm_known(g);
    return OK;
})
CALL(nvmlGpmQueryDeviceSupport, nvmlGpmQueryDeviceSupport_body(h, out))

static int gpm_alloc(struct sample **out)
{
    if (!out)
        return INVALID_ARGUMENT;
    *out = calloc(1, sizeof **out);
    return *out ? OK : NO_MEMORY;
}

static int gpm_free(struct sample *sample)
{
    free(sample);
    return sample ? OK : INVALID_ARGUMENT;
}

EXPORT nvmlGpmSampleAlloc(struct sample **out) CALL(nvmlGpmSampleAlloc, gpm_alloc(out))
EXPORT nvmlGpmSampleFree(struct sample *sample) CALL(nvmlGpmSampleFree, gpm_free(sample))

ON(DEVICE, nvmlGpmMigSampleGet, (void *h, u32 id, struct sample *out), {
    if (!gpm_known(g) || !g->current)
        return NOT_SUPPORTED;
    for (int i = 0; out && i < MAX_GIS; i++)
        if (g->gi[i].used && g->gi[i].id == id) {
            *out = (struct sample){.gpu = (u64)(g - machine->gpu) + 1, .instance = g->gi[i].serial};
            clock_gettime(CLOCK_MONOTONIC, &out->when);
            return OK;
        }
    return INVALID_ARGUMENT;
})
CALL(nvmlGpmMigSampleGet, nvmlGpmMigSampleGet_body(h, id, out))

static int gpm_metrics(struct gpm_request *asked)
{
    if (!asked || !asked->first || !asked->second)
        return INVALID_ARGUMENT;
    if (asked->version != 1)
        return VERSION_MISMATCH;
    struct sample *a = asked->first, *b = asked->second;
    if (!a->gpu || a->gpu != b->gpu || a->instance != b->instance)
        return INVALID_ARGUMENT;
    double seconds = (double)(b->when.tv_sec - a->when.tv_sec) + (double)(b->when.tv_nsec - a->when.tv_nsec) / 1e9;
    for (u32 i = 0; i < asked->count; i++) {
        asked->metric[i].rc = asked->metric[i].id == 2 && seconds > 0.1 ? OK : NOT_SUPPORTED;
        asked->metric[i].value = asked->metric[i].rc ? 0 : 37.5;
    }
    return OK;
}

EXPORT nvmlGpmMetricsGet(struct gpm_request *asked) CALL(nvmlGpmMetricsGet, gpm_metrics(asked))
#endif

ON(DEVICE, nvmlDeviceGetFieldValues, (void *h, int count, struct field *out), {
    u64 milliwatts;
    if (count <= 0 || !out)
        return INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        out[i].type = 1;
        out[i].rc = OK;
        out[i].value.wide = 0;
        if (out[i].id == 184 && GI_ENUMS > 10)
            out[i].value.number = model_of(g)->resetless;
        else if (out[i].id == 199 && GI_ENUMS > 10)
            out[i].value.number = !flag("FAKE_NVML_PROFILES_NEED_MIG");
        else if (out[i].id == 230 && GI_ENUMS > 10)
            out[i].value.number = (u32)sick(g, "reset");
        else if (out[i].id == 83 && draw(g, &milliwatts, &out[i].value.wide))
            out[i].type = 3;   /* unsigned long long */
        else
            out[i].rc = NOT_SUPPORTED;
    }
    return OK;
})
CALL(nvmlDeviceGetFieldValues, nvmlDeviceGetFieldValues_body(h, count, out))

ON(DEVICE, nvmlDeviceGetRemappedRows, (void *h, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed), {
    return put(corrected, 0) | put(uncorrected, 0) | put(pending, 0) | put(failed, (u32)sick(g, "rows"));
})
CALL(nvmlDeviceGetRemappedRows, nvmlDeviceGetRemappedRows_body(h, corrected, uncorrected, pending, failed))

ON(DEVICE, nvmlDeviceGetEccMode, (void *h, u32 *current, u32 *pending), { return put(current, 1) | put(pending, 1); })
CALL(nvmlDeviceGetEccMode, nvmlDeviceGetEccMode_body(h, current, pending))

ON(DEVICE, nvmlDeviceGetTotalEccErrors, (void *h, u32 kind, u32 counter, u64 *out), {
    if (!out || kind > 1 || counter > 1)
        return INVALID_ARGUMENT;
    *out = 0;
    return counter == 0 && g->current ? NOT_SUPPORTED : OK;   /* volatile counters of the parent: not while MIG is on */
})
CALL(nvmlDeviceGetTotalEccErrors, nvmlDeviceGetTotalEccErrors_body(h, kind, counter, out))

ON(DEVICE, nvmlDeviceGetMemoryErrorCounter, (void *h, u32 kind, u32 counter, u32 where, u64 *out), {
    if (!out || kind > 1 || counter > 1 || where > 6)
        return INVALID_ARGUMENT;
    *out = 0;
    return counter == 0 && g->current ? NOT_SUPPORTED : OK;
})
CALL(nvmlDeviceGetMemoryErrorCounter, nvmlDeviceGetMemoryErrorCounter_body(h, kind, counter, where, out))

/* ---- MIG mode and devices ------------------------------------------------------------------------------------------ */

ON(DEVICE, nvmlDeviceGetMigMode, (void *h, u32 *current, u32 *pending), {
    return put(current, g->current) | put(pending, g->pending);
})
CALL(nvmlDeviceGetMigMode, nvmlDeviceGetMigMode_body(h, current, pending))

ON(DEVICE, nvmlDeviceSetMigMode, (void *h, u32 mode, u32 *status), { return set_mode(g, mode, status); })
CALL(nvmlDeviceSetMigMode, nvmlDeviceSetMigMode_body(h, mode, status))

ON(DEVICE, nvmlDeviceGetMaxMigDeviceCount, (void *h, u32 *out), { return put(out, g->current ? MAX_MIG : 0); })
CALL(nvmlDeviceGetMaxMigDeviceCount, nvmlDeviceGetMaxMigDeviceCount_body(h, out))

ON(DEVICE, nvmlDeviceGetMigDeviceHandleByIndex, (void *h, u32 index, void **out), {
    if (!out || index >= MAX_MIG)
        return INVALID_ARGUMENT;
    if (!g->current)
        return NOT_SUPPORTED;
    for (u32 i = 0; i < MAX_GIS; i++)
        for (u32 k = 0; g->gi[i].used && k < MAX_CIS; k++)
            if (g->gi[i].ci[k].used && g->gi[i].ci[k].index == index)
                return give(out, handle(MIG, g, &g->gi[i], &g->gi[i].ci[k]));
    return NOT_FOUND;
})
CALL(nvmlDeviceGetMigDeviceHandleByIndex, nvmlDeviceGetMigDeviceHandleByIndex_body(h, index, out))

ON(MIG, nvmlDeviceGetGpuInstanceId, (void *h, u32 *out), { return put(out, gi->id); })
CALL(nvmlDeviceGetGpuInstanceId, nvmlDeviceGetGpuInstanceId_body(h, out))

ON(MIG, nvmlDeviceGetComputeInstanceId, (void *h, u32 *out), { return put(out, ci->id); })
CALL(nvmlDeviceGetComputeInstanceId, nvmlDeviceGetComputeInstanceId_body(h, out))

ON(MIG, nvmlDeviceGetDeviceHandleFromMigDeviceHandle, (void *h, void **out), {
    return out ? give(out, handle(DEVICE, g, NULL, NULL)) : INVALID_ARGUMENT;
})
CALL(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, nvmlDeviceGetDeviceHandleFromMigDeviceHandle_body(h, out))

ANY(nvmlDeviceIsMigDeviceHandle, (void *h, u32 *out), { (void)gi; return put(out, ci != NULL); })
CALL(nvmlDeviceIsMigDeviceHandle, nvmlDeviceIsMigDeviceHandle_body(h, out))

ON(MIG, nvmlDeviceGetAttributes_v2, (void *h, struct attributes *out), {
    const struct gi_profile *p = gi_profile(g, gi->profile);
    if (!out)
        return INVALID_ARGUMENT;
    *out = (struct attributes){p->sm * ci->slices / p->slices, p->engines[0], p->engines[1], p->engines[2], p->engines[3],
                               p->engines[4], p->slices, ci->slices, p->mib};
    return OK;
})
CALL(nvmlDeviceGetAttributes_v2, nvmlDeviceGetAttributes_v2_body(h, out))

/* ---- GPU instances ------------------------------------------------------------------------------------------------- */

static int gi_profile_by_number(struct gpu *g, u32 number, const struct gi_profile **out)
{
    const struct model *m = model_of(g);
    note("%s#%u", subject, number);
    if (number >= GI_ENUMS)
        return INVALID_ARGUMENT;
    if (!g->current && flag("FAKE_NVML_PROFILES_NEED_MIG"))
        return NOT_SUPPORTED;
    for (u32 i = 0; i < m->profiles; i++) {
        if (m->profile[i].number == number) {
            *out = &m->profile[i];
            return OK;
        }
    }
    return NOT_SUPPORTED;
}

ON(DEVICE, nvmlDeviceGetGpuInstanceProfileInfo, (void *h, u32 number, struct gi_profile_v1 *out), {
    const struct gi_profile *p;
    if ((rc = gi_profile_by_number(g, number, &p)))
        return rc;
    *out = (struct gi_profile_v1){p->id, 0, p->slices, p->count, p->sm, p->engines[0], p->engines[1], p->engines[2],
                                  p->engines[3], p->engines[4], p->mib};
    return OK;
})
CALL(nvmlDeviceGetGpuInstanceProfileInfo, nvmlDeviceGetGpuInstanceProfileInfo_body(h, number, out))

#ifndef FAKE_NVML_OLD
static const char *name_prefix(void)
{
    const char *prefix = getenv("FAKE_NVML_NAME_PREFIX");
    return prefix ? prefix : "MIG ";
}

static int gi_info_v2(const struct gi_profile *p, struct gi_profile_v2 *out)
{
    if (out->version != WORD(struct gi_profile_v2, 2))
        return VERSION_MISMATCH;
    *out = (struct gi_profile_v2){out->version, p->id, 0, p->slices, p->count, p->sm, p->engines[0], p->engines[1],
                                  p->engines[2], p->engines[3], p->engines[4], p->mib, ""};
    snprintf(out->name, sizeof out->name, "%s%s", name_prefix(), p->name);
    return OK;
}

ON(DEVICE, nvmlDeviceGetGpuInstanceProfileInfoV, (void *h, u32 number, struct gi_profile_v2 *out), {
    const struct gi_profile *p;
    if ((rc = gi_profile_by_number(g, number, &p)))
        return rc;
    return gi_info_v2(p, out);
})
CALL(nvmlDeviceGetGpuInstanceProfileInfoV, nvmlDeviceGetGpuInstanceProfileInfoV_body(h, number, out))

ON(DEVICE, nvmlDeviceGetGpuInstanceProfileInfoByIdV, (void *h, u32 id, struct gi_profile_v2 *out), {
    const struct gi_profile *p = gi_profile(g, id);
    return p ? gi_info_v2(p, out) : INVALID_ARGUMENT;
})
CALL(nvmlDeviceGetGpuInstanceProfileInfoByIdV, nvmlDeviceGetGpuInstanceProfileInfoByIdV_body(h, id, out))
#endif

/* All places of a profile in ascending order, whatever is occupied. */
static int places_out(const u32 *start, u32 places, u32 size, struct placement *out, u32 *count)
{
    if (!count || (out && *count < places))
        return count ? INSUFFICIENT_SIZE : INVALID_ARGUMENT;
    *count = places;
    for (u32 i = 0, n = 0; out && i < SLOTS; i++)
        for (u32 k = 0; k < places; k++)
            if (start[k] == i)
                out[n++] = (struct placement){i, size};
    return OK;
}

ON(DEVICE, nvmlDeviceGetGpuInstancePossiblePlacements_v2, (void *h, u32 id, struct placement *out, u32 *count), {
    const struct gi_profile *p = gi_profile(g, id);
    if (forbidden())
        return NO_PERMISSION;
    return p ? places_out(p->start, p->places, p->size, out, count) : INVALID_ARGUMENT;
})
CALL(nvmlDeviceGetGpuInstancePossiblePlacements_v2, nvmlDeviceGetGpuInstancePossiblePlacements_v2_body(h, id, out, count))

static int usable(const struct gpu *g) { return !g->current ? NOT_SUPPORTED : forbidden() ? NO_PERMISSION : OK; }

ON(DEVICE, nvmlDeviceGetGpuInstanceRemainingCapacity, (void *h, u32 id, u32 *out), {
    const struct gi_profile *p = gi_profile(g, id);
    struct gpu trial = *g;
    u32 n = 0;
    if ((rc = usable(g)))
        return rc;
    if (!p)
        return INVALID_ARGUMENT;
    for (u32 i = 0; i < p->places; i++) {
        if (fits(&trial, p, p->start[i]))
            continue;
        n++;
        for (u32 k = 0; k < MAX_GIS; k++) {
            if (!trial.gi[k].used) {
                trial.gi[k] = (struct gi){.used = 1, .profile = id, .start = p->start[i]};
                break;
            }
        }
    }
    return put(out, n);
})
CALL(nvmlDeviceGetGpuInstanceRemainingCapacity, nvmlDeviceGetGpuInstanceRemainingCapacity_body(h, id, out))

ON(DEVICE, nvmlDeviceGetGpuInstances, (void *h, u32 id, void **out, u32 *count), {
    u32 n = 0;
    if ((rc = usable(g)))
        return rc;
    if (!gi_profile(g, id) || !count || !out)
        return INVALID_ARGUMENT;
    for (u32 i = 0; i < MAX_GIS; i++)
        if (g->gi[i].used && g->gi[i].profile == id)
            out[n++] = handle(GI, g, &g->gi[i], NULL);
    *count = n;
    return OK;
})
CALL(nvmlDeviceGetGpuInstances, nvmlDeviceGetGpuInstances_body(h, id, out, count))

ON(DEVICE, nvmlDeviceGetGpuInstanceById, (void *h, u32 id, void **out), {
    if ((rc = usable(g)))
        return rc;
    for (u32 i = 0; i < MAX_GIS; i++)
        if (g->gi[i].used && g->gi[i].id == id)
            return give(out, handle(GI, g, &g->gi[i], NULL));
    return NOT_FOUND;
})
CALL(nvmlDeviceGetGpuInstanceById, nvmlDeviceGetGpuInstanceById_body(h, id, out))

ON(DEVICE, nvmlDeviceCreateGpuInstance, (void *h, u32 id, void **out), { return create_gi(g, id, NULL, out); })
CALL(nvmlDeviceCreateGpuInstance, nvmlDeviceCreateGpuInstance_body(h, id, out))

ON(DEVICE, nvmlDeviceCreateGpuInstanceWithPlacement, (void *h, u32 id, const struct placement *place, void **out), {
    return place ? create_gi(g, id, place, out) : INVALID_ARGUMENT;
})
CALL(nvmlDeviceCreateGpuInstanceWithPlacement, nvmlDeviceCreateGpuInstanceWithPlacement_body(h, id, place, out))

ON(GI, nvmlGpuInstanceGetInfo, (void *h, struct gi_info *out), {
    if (!out)
        return INVALID_ARGUMENT;
    *out = (struct gi_info){handle(DEVICE, g, NULL, NULL), gi->id, gi->profile, {gi->start, gi_profile(g, gi->profile)->size}};
    return OK;
})
CALL(nvmlGpuInstanceGetInfo, nvmlGpuInstanceGetInfo_body(h, out))

ON(GI, nvmlGpuInstanceDestroy, (void *h), {
    if (forbidden())
        return NO_PERMISSION;
    for (u32 i = 0; i < MAX_CIS; i++)
        if (gi->ci[i].used)
            return IN_USE;
    if (running(g, (int)gi->id, -1, NULL, 0))
        return IN_USE;
    gi->used = 0;
    return OK;
})
CALL(nvmlGpuInstanceDestroy, nvmlGpuInstanceDestroy_body(h))

/* ---- compute instances --------------------------------------------------------------------------------------------- */

static int ci_profile_by_number(struct gpu *g, struct gi *gi, u32 number, u32 engine, struct ci_profile *out)
{
    note("%s#%u", subject, number);
    if (number >= CI_ENUMS || engine != 0)
        return INVALID_ARGUMENT;
    if (forbidden())
        return NO_PERMISSION;
    return ci_profile(g, gi, number, out) ? OK : NOT_SUPPORTED;
}

ON(GI, nvmlGpuInstanceGetComputeInstanceProfileInfo, (void *h, u32 number, u32 engine, struct ci_profile_v1 *out), {
    struct ci_profile p;
    const struct gi_profile *q = gi_profile(g, gi->profile);
    if ((rc = ci_profile_by_number(g, gi, number, engine, &p)))
        return rc;
    *out = (struct ci_profile_v1){p.id, p.slices, p.count, q->sm * p.slices / q->slices, q->engines[0], q->engines[1],
                                  q->engines[2], q->engines[3], q->engines[4]};
    return OK;
})
CALL(nvmlGpuInstanceGetComputeInstanceProfileInfo, nvmlGpuInstanceGetComputeInstanceProfileInfo_body(h, number, engine, out))

#ifndef FAKE_NVML_OLD
ON(GI, nvmlGpuInstanceGetComputeInstanceProfileInfoV, (void *h, u32 number, u32 engine, struct ci_profile_v2 *out), {
    struct ci_profile p;
    const struct gi_profile *q = gi_profile(g, gi->profile);
    if ((rc = ci_profile_by_number(g, gi, number, engine, &p)))
        return rc;
    if (out->version != WORD(struct ci_profile_v2, 2))
        return VERSION_MISMATCH;
    *out = (struct ci_profile_v2){out->version, p.id, p.slices, p.count, q->sm * p.slices / q->slices, q->engines[0],
                                  q->engines[1], q->engines[2], q->engines[3], q->engines[4], ""};
    if (p.slices == q->slices)
        snprintf(out->name, sizeof out->name, "%s%s", name_prefix(), q->name);
    else
        snprintf(out->name, sizeof out->name, "%s%uc.%s", name_prefix(), p.slices, q->name);
    return OK;
})
CALL(nvmlGpuInstanceGetComputeInstanceProfileInfoV, nvmlGpuInstanceGetComputeInstanceProfileInfoV_body(h, number, engine, out))

ON(GI, nvmlGpuInstanceGetComputeInstancePossiblePlacements, (void *h, u32 id, struct placement *out, u32 *count), {
    struct ci_profile p;
    if (forbidden())
        return NO_PERMISSION;
    return ci_profile(g, gi, id, &p) ? places_out(p.start, p.places, p.slices, out, count) : INVALID_ARGUMENT;
})
CALL(nvmlGpuInstanceGetComputeInstancePossiblePlacements,
     nvmlGpuInstanceGetComputeInstancePossiblePlacements_body(h, id, out, count))

ON(GI, nvmlGpuInstanceCreateComputeInstanceWithPlacement, (void *h, u32 id, const struct placement *place, void **out), {
    return place ? create_ci(g, gi, id, place, out) : INVALID_ARGUMENT;
})
CALL(nvmlGpuInstanceCreateComputeInstanceWithPlacement, nvmlGpuInstanceCreateComputeInstanceWithPlacement_body(h, id, place, out))
#endif

ON(GI, nvmlGpuInstanceGetComputeInstanceRemainingCapacity, (void *h, u32 id, u32 *out), {
    struct ci_profile p;
    struct gi trial = *gi;
    u32 n = 0;
    if (forbidden())
        return NO_PERMISSION;
    if (!ci_profile(g, gi, id, &p))
        return INVALID_ARGUMENT;
    for (u32 i = 0; i < p.places; i++) {
        if (ci_fits(&trial, &p, p.start[i]))
            continue;
        n++;
        for (u32 k = 0; k < MAX_CIS; k++) {
            if (!trial.ci[k].used) {
                trial.ci[k] = (struct ci){.used = 1, .profile = id, .slices = p.slices, .start = p.start[i]};
                break;
            }
        }
    }
    return put(out, n);
})
CALL(nvmlGpuInstanceGetComputeInstanceRemainingCapacity, nvmlGpuInstanceGetComputeInstanceRemainingCapacity_body(h, id, out))

ON(GI, nvmlGpuInstanceCreateComputeInstance, (void *h, u32 id, void **out), { return create_ci(g, gi, id, NULL, out); })
CALL(nvmlGpuInstanceCreateComputeInstance, nvmlGpuInstanceCreateComputeInstance_body(h, id, out))

ON(GI, nvmlGpuInstanceGetComputeInstances, (void *h, u32 id, void **out, u32 *count), {
    struct ci_profile p;
    u32 n = 0;
    if (forbidden())
        return NO_PERMISSION;
    if (!ci_profile(g, gi, id, &p) || !count || !out)
        return INVALID_ARGUMENT;
    for (u32 i = 0; i < MAX_CIS; i++)
        if (gi->ci[i].used && gi->ci[i].profile == id)
            out[n++] = handle(CI, g, gi, &gi->ci[i]);
    *count = n;
    return OK;
})
CALL(nvmlGpuInstanceGetComputeInstances, nvmlGpuInstanceGetComputeInstances_body(h, id, out, count))

ON(GI, nvmlGpuInstanceGetComputeInstanceById, (void *h, u32 id, void **out), {
    if (forbidden())
        return NO_PERMISSION;
    for (u32 i = 0; i < MAX_CIS; i++)
        if (gi->ci[i].used && gi->ci[i].id == id)
            return give(out, handle(CI, g, gi, &gi->ci[i]));
    return NOT_FOUND;
})
CALL(nvmlGpuInstanceGetComputeInstanceById, nvmlGpuInstanceGetComputeInstanceById_body(h, id, out))

ON(CI, nvmlComputeInstanceGetInfo_v2, (void *h, struct ci_info *out), {
    if (!out)
        return INVALID_ARGUMENT;
    *out = (struct ci_info){handle(MIG, g, gi, ci), handle(GI, g, gi, NULL), ci->id, ci->profile, {ci->start, ci->slices}};
    return OK;
})
CALL(nvmlComputeInstanceGetInfo_v2, nvmlComputeInstanceGetInfo_v2_body(h, out))

ON(CI, nvmlComputeInstanceDestroy, (void *h), {
    if (forbidden())
        return NO_PERMISSION;
    if (running(g, (int)gi->id, (int)ci->id, NULL, 0))
        return IN_USE;
    ci->used = 0;
    return OK;
})
CALL(nvmlComputeInstanceDestroy, nvmlComputeInstanceDestroy_body(h))

/* ---- nvidia-smi ---------------------------------------------------------------------------------------------------- */

#ifdef FAKE_NVIDIA_SMI
static int reset_one(const char *address)
{
    struct gpu *g = gpu_at(address);
    int client = other_clients();
    note("%s", address);
    if (!g) {
        printf("No devices were found at %s\n", address);
        return NOT_FOUND;
    }
    if (forbidden()) {
        printf("GPU %s: insufficient permissions to reset it\n", address);
        return NO_PERMISSION;
    }
    if (!strcmp(setting("FAKE_NVML_RESET"), "never")) {
        printf("GPU %s: a reset is not supported here\n", address);
        return NOT_SUPPORTED;
    }
    if (client || running(g, -1, -1, NULL, 0)) {
        printf("GPU %s: in use by another client (pid %d)\n", address, client);
        return IN_USE;
    }
    reset_gpu(g);
    printf("GPU %s was successfully reset.\n", address);
    return OK;
}

int main(int argc, char **argv)
{
    int wants_reset = 0, rc = OK;
    char *list = NULL, *one;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--gpu-reset") || !strcmp(argv[i], "-r"))
            wants_reset = 1;
        else if (!strncmp(argv[i], "--id=", 5))
            list = argv[i] + 5;
        else if ((!strcmp(argv[i], "-i") || !strcmp(argv[i], "--id")) && i + 1 < argc)
            list = argv[++i];
        else if (strcmp(argv[i], "-L")) {
            fprintf(stderr, "Unknown argument: %s\n", argv[i]);
            return INVALID_ARGUMENT;
        }
    }
    if (atoi(setting("FAKE_NVML_INIT")) || !lock()) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n");
        return 9;
    }
    for (u32 i = 0; !wants_reset && i < machine->gpus; i++)
        printf("GPU %u: %s (UUID: %s)\n", i, model_of(&machine->gpu[i])->name, machine->gpu[i].uuid);
    if (wants_reset && !list) {
        for (u32 i = 0; i < machine->gpus && !rc; i++) {
            struct gpu *g = &machine->gpu[i];
            char address[64];
            snprintf(address, sizeof address, "%08x:%02x:%02x.%x", g->domain, g->bus, g->slot, g->function);
            rc = reset_one(address);
            write_log("nvidia-smi--gpu-reset", rc);
        }
    }
    while (wants_reset && list && !rc && (one = strsep(&list, ","))) {
        rc = reset_one(one);
        write_log("nvidia-smi--gpu-reset", rc);
    }
    unlock();
    return rc;
}
#endif
