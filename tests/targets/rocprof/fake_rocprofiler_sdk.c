/* A stand-in for librocprofiler-sdk, for tests: the life cycle and the functions that cputax calls,
 * with records that a test asks for. How buffers behave (two halves, of which DISCARD has only one;
 * delivery on a thread of their own; a cumulative drop count) follows what AMD's library does.
 *
 * Environment, read when the tool is configured:
 *   FAKE_ROCP_VERSION       "1.1.0" unless set; 0.x has the older layouts
 *   FAKE_ROCP_RECORD_EXTRA  bytes that a newer version appends to each kernel record
 *   FAKE_ROCP_FAIL          "rocprofiler_create_buffer:29": this function answers with this status
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum {
    SUCCESS = 0, ERROR = 1, CONTEXT_NOT_FOUND = 2, BUFFER_NOT_FOUND = 3, KIND_NOT_FOUND = 4,
    OPERATION_NOT_FOUND = 5, CONTEXT_ID_NOT_ZERO = 13, BUFFER_BUSY = 14, CONFIGURATION_LOCKED = 16,
    INCOMPATIBLE_ABI = 18, FINALIZED = 21
};
enum { HIP_RUNTIME_API = 5, MEMORY_COPY = 10, KERNEL_DISPATCH = 11, KIND_LAST = 64 };
enum { CODE_OBJECT = 10, KERNEL_SYMBOL = 2, PHASE_LOAD = 1, PHASE_UNLOAD = 2 };
enum { DISCARD = 1, LOSSLESS = 2, TRACING = 1, CPU = 1, GPU = 2 };
enum { MAX_CONTEXTS = 8, MAX_BUFFERS = 8, MAX_THREADS = 8, QUEUE_LENGTH = 64 };

typedef struct { uint64_t handle; } id_t64;
typedef struct { uint32_t category, kind; void* payload; } header_t;
typedef struct {
    uint64_t size, agent, queue, kernel, dispatch;
    uint32_t private_size, group_size, workgroup[3], grid[3];
    uint8_t  reserved[56];
} dispatch_info_t;
typedef struct {
    uint64_t size; uint32_t kind; int32_t operation;
    uint64_t internal, external, thread, start, end;
    dispatch_info_t info;
} kernel_t;
typedef struct {
    uint64_t size; uint32_t kind; int32_t operation;
    uint64_t internal, external, thread, start, end, to, from, bytes, to_address, from_address;
} copy_t;
typedef struct {
    uint64_t size; uint32_t kind; int32_t operation;
    uint64_t internal, external, ancestor, start, end, thread;
} call_t;
typedef struct {
    uint64_t size; uint32_t kind; int32_t operation;
    uint64_t internal, external, start, end, thread;
} old_call_t;
typedef struct {
    uint64_t context, thread, internal, external, ancestor;
    uint32_t kind; int32_t operation; uint32_t phase; void* payload;
} callback_t;
typedef struct {
    uint64_t context, thread, internal, external;
    uint32_t kind; int32_t operation; uint32_t phase; void* payload;
} old_callback_t;
typedef struct {
    uint64_t size, kernel, code_object; const char* name; uint64_t object;
    uint32_t numbers[7]; int64_t entry; uint64_t address;
} symbol_t;
typedef struct { size_t size; const char* name; uint32_t handle; } client_t;
typedef struct { const char* name; uint32_t handle; } old_client_t;
typedef struct { size_t size; void* initialize; void* finalize; void* data; } tool_t;
typedef struct {
    uint64_t size, id; uint32_t type; uint8_t counts[228];
    const char *name, *vendor, *product, *model;
    uint32_t node; int32_t logical_node, index; uint32_t visible; uint8_t uuid[16];
} agent_t;

_Static_assert(sizeof(header_t) == 16, "header");
_Static_assert(sizeof(kernel_t) == 184, "kernel");
_Static_assert(sizeof(copy_t) == 96, "copy");
_Static_assert(sizeof(call_t) == 64 && sizeof(old_call_t) == 56, "call");
_Static_assert(sizeof(callback_t) == 64 && sizeof(old_callback_t) == 56, "callback");
_Static_assert(sizeof(symbol_t) == 88, "symbol");
_Static_assert(sizeof(agent_t) == 312, "agent");
_Static_assert(sizeof(client_t) == 24 && sizeof(old_client_t) == 16, "client");

typedef void (*deliver_f)(id_t64, id_t64, header_t**, size_t, void*, uint64_t);
typedef void (*callback_f)(callback_t, uint64_t*, void*);
typedef void (*old_callback_f)(old_callback_t, uint64_t*, void*);

typedef struct {
    char* memory; header_t* headers; header_t** pointers;
    size_t used_bytes, count;
    int is_busy;
} half_t;
typedef struct {
    half_t halves[2];
    size_t size_bytes, watermark_bytes;
    int policy, thread;
    uint32_t kind;
    uint64_t context, at, drop_count, unplaced_count, waited_count;
    deliver_f deliver;
    void* data;
} buffer_t;
typedef struct {
    pthread_t thread;
    struct { int buffer, half; } queue[QUEUE_LENGTH];
    size_t put, taken, done;
    int is_running;
    uint64_t tid;
} worker_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct { int is_active; void* on_code_object; void* data; } contexts[MAX_CONTEXTS];
static buffer_t buffers[MAX_BUFFERS];
static worker_t workers[MAX_THREADS] = {{0}};
static int context_count, buffer_count, worker_count = 1;
static int is_configuring, is_configured, is_finalized, finalise_count;
static int is_swapped, is_spread, is_one_running;
static pid_t configured_pid;
static uint32_t version[3];
static size_t record_extra_bytes;
static uint64_t next_dispatch = 1, next_correlation = 1;
static client_t client = {sizeof(client_t), NULL, 77};
static old_client_t old_client = {NULL, 77};

static const char* const STATUS_NAMES[] = {
    [SUCCESS] = "ROCPROFILER_STATUS_SUCCESS", [ERROR] = "ROCPROFILER_STATUS_ERROR",
    [CONFIGURATION_LOCKED] = "ROCPROFILER_STATUS_ERROR_CONFIGURATION_LOCKED",
    [INCOMPATIBLE_ABI] = "ROCPROFILER_STATUS_ERROR_INCOMPATIBLE_ABI",
    [29] = "ROCPROFILER_STATUS_ERROR_OUT_OF_RESOURCES",
    [40] = "ROCPROFILER_STATUS_ERROR_PERMISSION_DENIED",
};
static const char* const STATUS_TEXTS[] = {
    [SUCCESS] = "Success", [ERROR] = "General error",
    [CONFIGURATION_LOCKED] = "Configuration is locked (fake)",
    [INCOMPATIBLE_ABI] = "Incompatible ABI (fake)",
    [29] = "Out of resources (fake)",
    [40] = "Permission denied (fake)",
};

static int is_old(void) { return version[0] == 0; }

static void read_environment(void)
{
    const char* text = getenv("FAKE_ROCP_VERSION");
    sscanf(text ? text : "1.1.0", "%u.%u.%u", &version[0], &version[1], &version[2]);
    text = getenv("FAKE_ROCP_RECORD_EXTRA");
    record_extra_bytes = text ? strtoul(text, NULL, 10) : 0;
}

/* The status that FAKE_ROCP_FAIL wants of this function, or SUCCESS. */
static uint32_t wanted_failure(const char* function)
{
    const char* text = getenv("FAKE_ROCP_FAIL");
    size_t length = strlen(function);
    if (text && strncmp(text, function, length) == 0 && text[length] == ':')
        return (uint32_t) strtoul(text + length + 1, NULL, 10);
    return SUCCESS;
}
#define FAIL_IF_WANTED() do { uint32_t s_ = wanted_failure(__func__); if (s_) return s_; } while (0)

EXPORT const char* rocprofiler_get_status_name(uint32_t status)
{
    return status < sizeof(STATUS_NAMES) / sizeof(*STATUS_NAMES) ? STATUS_NAMES[status] : NULL;
}

EXPORT const char* rocprofiler_get_status_string(uint32_t status)
{
    return status < sizeof(STATUS_TEXTS) / sizeof(*STATUS_TEXTS) ? STATUS_TEXTS[status] : NULL;
}

EXPORT uint32_t rocprofiler_get_version(uint32_t* major, uint32_t* minor, uint32_t* patch)
{
    read_environment();
    *major = version[0]; *minor = version[1]; *patch = version[2];
    return SUCCESS;
}

/* Ends the tool: what it has is not delivered any more. */
static void finalise(void)
{
    ++finalise_count;
    is_finalized = 1;
}
static void finalise_new(client_t id) { if (id.handle == client.handle) finalise(); }
static void finalise_old(old_client_t id) { if (id.handle == old_client.handle) finalise(); }

EXPORT uint32_t rocprofiler_force_configure(void* configure)
{
    FAIL_IF_WANTED();
    if (is_configured) return CONFIGURATION_LOCKED;
    is_configured = 1;
    configured_pid = getpid();
    void* id = is_old() ? (void*) &old_client : (void*) &client;
    void* end = is_old() ? (void*) finalise_old : (void*) finalise_new;
    uint32_t number = version[0] * 10000 + version[1] * 100 + version[2];
    tool_t* tool = ((tool_t * (*) (uint32_t, const char*, uint32_t, void*) ) configure)(
        number, "fake", 0, id);
    if (!tool) return SUCCESS;
    is_configuring = 1;
    ((int (*)(void*, void*)) tool->initialize)(end, tool->data);
    is_configuring = 0;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_query_available_agents(
    uint32_t which, uint32_t (*callback)(uint32_t, const void**, size_t, void*), size_t size, void* data)
{
    FAIL_IF_WANTED();
    static agent_t agents[3];
    const void* pointers[3];
    if (which != 1 || size > (is_old() ? 304 : sizeof(agent_t))) return INCOMPATIBLE_ABI;
    for (int number = 0; number < 3; ++number) {
        agents[number] = (agent_t) {
            .size = sizeof(agent_t), .id = 100 + (uint64_t) number, .type = number ? GPU : CPU,
            .name = number ? "gfx942" : "EPYC", .vendor = "AMD",
            .product = number ? "AMD Instinct MI300X" : NULL, .model = "",
            .logical_node = number, .index = number ? number - 1 : 0,
        };
        pointers[number] = &agents[number];
    }
    return callback(which, pointers, 3, data);
}

EXPORT uint32_t rocprofiler_create_context(id_t64* context)
{
    FAIL_IF_WANTED();
    if (!is_configuring) return CONFIGURATION_LOCKED;
    if (context->handle) return CONTEXT_ID_NOT_ZERO;
    context->handle = (uint64_t) ++context_count;
    return SUCCESS;
}

static uint32_t switch_context(id_t64 context, int is_active)
{
    if (!context.handle || context.handle > (uint64_t) context_count) return CONTEXT_NOT_FOUND;
    contexts[context.handle].is_active = is_active;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_start_context(id_t64 context)
{
    FAIL_IF_WANTED();
    return is_finalized ? FINALIZED : switch_context(context, 1);
}

EXPORT uint32_t rocprofiler_stop_context(id_t64 context)
{
    FAIL_IF_WANTED();
    return switch_context(context, 0);
}

EXPORT uint32_t rocprofiler_create_buffer(
    id_t64 context, size_t size, size_t watermark, uint32_t policy, deliver_f deliver, void* data,
    id_t64* id)
{
    FAIL_IF_WANTED();
    if (!is_configuring) return CONFIGURATION_LOCKED;
    buffer_t* buffer = &buffers[++buffer_count];
    *buffer = (buffer_t) {
        .size_bytes = size, .watermark_bytes = watermark, .policy = (int) policy,
        .context = context.handle, .deliver = deliver, .data = data,
    };
    for (int half = 0; half < (policy == LOSSLESS ? 2 : 1); ++half) {
        buffer->halves[half].memory = malloc(size);
        buffer->halves[half].headers = calloc(size / 16, sizeof(header_t));
        buffer->halves[half].pointers = calloc(size / 16, sizeof(header_t*));
    }
    id->handle = (uint64_t) buffer_count;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_configure_buffer_tracing_service(
    id_t64 context, uint32_t kind, const int32_t* operations, size_t count, id_t64 buffer)
{
    FAIL_IF_WANTED();
    (void) operations; (void) count;
    if (!buffer.handle || buffers[buffer.handle].context != context.handle) return BUFFER_NOT_FOUND;
    buffers[buffer.handle].kind = kind;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_configure_callback_tracing_service(
    id_t64 context, uint32_t kind, const int32_t* operations, size_t count, void* callback,
    void* data)
{
    FAIL_IF_WANTED();
    if (kind != CODE_OBJECT) return KIND_NOT_FOUND;
    if (count != 1 || operations[0] != KERNEL_SYMBOL) return OPERATION_NOT_FOUND;
    contexts[context.handle].on_code_object = callback;
    contexts[context.handle].data = data;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_create_callback_thread(id_t64* thread)
{
    FAIL_IF_WANTED();
    thread->handle = (uint64_t) worker_count++;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_assign_callback_thread(id_t64 buffer, id_t64 thread)
{
    FAIL_IF_WANTED();
    buffers[buffer.handle].thread = (int) thread.handle;
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_query_buffer_tracing_kind_name(
    uint32_t kind, const char** name, uint64_t* length)
{
    FAIL_IF_WANTED();
    *name = kind == HIP_RUNTIME_API ? "HIP_RUNTIME_API"
          : kind == MEMORY_COPY     ? "MEMORY_COPY"
          : kind == KERNEL_DISPATCH ? "KERNEL_DISPATCH" : NULL;
    if (!*name) return KIND_NOT_FOUND;
    *length = strlen(*name);
    return SUCCESS;
}

EXPORT uint32_t rocprofiler_query_buffer_tracing_kind_operation_name(
    uint32_t kind, int32_t operation, const char** name, uint64_t* length)
{
    FAIL_IF_WANTED();
    static const char* const calls[] = {"hipMalloc", "hipLaunchKernel", "hipGraphLaunch"};
    if (kind != HIP_RUNTIME_API || operation < 0 || operation > 2) return OPERATION_NOT_FOUND;
    *name = calls[operation];
    *length = strlen(*name);
    return SUCCESS;
}

/* Buffers. All of it under the lock, but for the delivery itself. */

static void deliver(buffer_t* buffer, int number)
{
    half_t* half = &buffer->halves[number];
    for (size_t at = 0; at < half->count; ++at) half->pointers[at] = &half->headers[at];
    if (is_swapped)
        for (size_t at = 0; at + 1 < half->count; at += 2) {
            header_t first = half->headers[at];
            half->headers[at] = half->headers[at + 1];
            half->headers[at + 1] = first;
        }
    if (half->count) {
        id_t64 context = {buffer->context}, id = {(uint64_t) (buffer - buffers)};
        uint64_t drop_count = buffer->drop_count;
        pthread_mutex_unlock(&lock);
        buffer->deliver(context, id, half->pointers, half->count, buffer->data, drop_count);
        pthread_mutex_lock(&lock);
    }
    half->count = half->used_bytes = 0;
    half->is_busy = 0;
}

static void* work(void* argument)
{
    worker_t* worker = argument;
    pthread_setname_np(pthread_self(), "fake-rocp");
    pthread_mutex_lock(&lock);
    worker->tid = (uint64_t) syscall(SYS_gettid);
    for (;;) {
        while (worker->taken == worker->put) pthread_cond_wait(&changed, &lock);
        size_t at = worker->taken++ % QUEUE_LENGTH;
        deliver(&buffers[worker->queue[at].buffer], worker->queue[at].half);
        ++worker->done;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

static uint32_t flush(buffer_t* buffer, int is_waiting)
{
    worker_t* worker = &workers[buffer->thread];
    if (!worker->is_running) {
        worker->is_running = 1;
        pthread_create(&worker->thread, NULL, work, worker);
    }
    while (is_waiting && worker->done != worker->put) pthread_cond_wait(&changed, &lock);
    int number = (int) (buffer->at++ % 2);
    while (buffer->halves[number].is_busy) {
        if (!is_waiting) return BUFFER_BUSY;
        pthread_cond_wait(&changed, &lock);
    }
    buffer->halves[number].is_busy = 1;
    size_t at = worker->put++ % QUEUE_LENGTH;
    worker->queue[at].buffer = (int) (buffer - buffers);
    worker->queue[at].half = number;
    pthread_cond_broadcast(&changed);
    while (is_waiting && worker->done != worker->put) pthread_cond_wait(&changed, &lock);
    return SUCCESS;
}

/* Puts a record where it belongs; says whether there was a place. */
static int emplace(buffer_t* buffer, const void* record, size_t size)
{
    for (;;) {
        half_t* half = &buffer->halves[buffer->at % 2];
        if (!half->memory) {
            ++buffer->unplaced_count;
            return 0;
        }
        if (half->is_busy) {
            ++buffer->waited_count;
            while (half->is_busy) pthread_cond_wait(&changed, &lock);
            continue;
        }
        if (half->used_bytes + size <= buffer->size_bytes) {
            char* place = half->memory + half->used_bytes;
            memcpy(place, record, size);
            half->headers[half->count++] = (header_t) {TRACING, buffer->kind, place};
            half->used_bytes += size + (is_spread ? 64 : 0);
            if (half->used_bytes >= buffer->watermark_bytes) flush(buffer, 0);
            return 1;
        }
        if (buffer->policy == DISCARD) {
            ++buffer->drop_count;
            return 0;
        }
        ++buffer->waited_count;
        flush(buffer, 1);
    }
}

static buffer_t* active_buffer(uint32_t kind)
{
    for (int number = 1; number <= buffer_count; ++number)
        if (buffers[number].kind == kind && contexts[buffers[number].context].is_active)
            return &buffers[number];
    return NULL;
}

static uint64_t boottime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

/* End the kernel of fake_end_after_flush. */
static void end_kernel(buffer_t* buffer)
{
    uint64_t now = boottime_ns();
    kernel_t kernel = {
        .size = sizeof(kernel), .kind = KERNEL_DISPATCH, .operation = 2, .start = now - 1500,
        .end = now, .thread = (uint64_t) getpid(),
        .info = {.size = 72, .agent = 101, .queue = 16, .kernel = 1, .dispatch = next_dispatch++},
    };
    is_one_running = 0;
    emplace(buffer, &kernel, sizeof(kernel));
}

EXPORT uint32_t rocprofiler_flush_buffer(id_t64 id)
{
    FAIL_IF_WANTED();
    if (is_finalized) return FINALIZED;
    if (!id.handle || id.handle > (uint64_t) buffer_count) return BUFFER_NOT_FOUND;
    pthread_mutex_lock(&lock);
    uint32_t status = flush(&buffers[id.handle], 1);
    if (is_one_running && buffers[id.handle].kind == KERNEL_DISPATCH) end_kernel(&buffers[id.handle]);
    pthread_mutex_unlock(&lock);
    return status;
}

/* What tests call. */

/* Run `count` kernels, in turn on two GPUs, each 1.5 us long and 2 us after the last; the kernel is
 * number 1 to `kernels`, in turn. Returns how many found a place. */
EXPORT uint64_t fake_run_kernels(uint64_t count, uint64_t kernels)
{
    char record[sizeof(kernel_t) + 256] = {0};
    kernel_t* kernel = (kernel_t*) record;
    size_t size = sizeof(kernel_t) + record_extra_bytes;
    uint64_t kept = 0, start = boottime_ns();
    pthread_mutex_lock(&lock);
    buffer_t* buffer = active_buffer(KERNEL_DISPATCH);
    for (uint64_t number = 0; buffer && number < count; ++number, start += 2000) {
        *kernel = (kernel_t) {
            .size = size, .kind = KERNEL_DISPATCH, .operation = 2, .internal = next_correlation++,
            .thread = (uint64_t) getpid(), .start = start, .end = start + 1500,
            .info = {.size = 72, .agent = 101 + number % 2, .queue = 16 + number % 2,
                     .kernel = 1 + number % kernels, .dispatch = next_dispatch++},
        };
        kept += (uint64_t) emplace(buffer, record, size);
    }
    pthread_mutex_unlock(&lock);
    return kept;
}

/* Have one kernel, launched while there was a context, end just after the next flush. */
EXPORT void fake_end_after_flush(void) { is_one_running = 1; }

/* Copy `bytes` from the host to the first GPU, `count` times. */
EXPORT uint64_t fake_copy(uint64_t count, uint64_t bytes)
{
    uint64_t kept = 0, start = boottime_ns();
    pthread_mutex_lock(&lock);
    buffer_t* buffer = active_buffer(MEMORY_COPY);
    for (uint64_t number = 0; buffer && number < count; ++number, start += 5000) {
        copy_t copy = {
            .size = is_old() ? 80 : sizeof(copy_t), .kind = MEMORY_COPY, .operation = 2,
            .internal = next_correlation++, .thread = (uint64_t) getpid(),
            .start = start, .end = start + 4000, .to = 101, .from = 100, .bytes = bytes,
        };
        kept += (uint64_t) emplace(buffer, &copy, copy.size);
    }
    pthread_mutex_unlock(&lock);
    return kept;
}

/* Call hipLaunchKernel `count` times, from the main thread. */
EXPORT uint64_t fake_call_hip(uint64_t count)
{
    uint64_t kept = 0, start = boottime_ns(), thread = (uint64_t) getpid();
    pthread_mutex_lock(&lock);
    buffer_t* buffer = active_buffer(HIP_RUNTIME_API);
    for (uint64_t number = 0; buffer && number < count; ++number, start += 3000) {
        call_t call = {sizeof(call_t), HIP_RUNTIME_API, 1, next_correlation, 0, 0,
                       start, start + 900, thread};
        old_call_t old = {sizeof(old_call_t), HIP_RUNTIME_API, 1, next_correlation, 0,
                          start, start + 900, thread};
        ++next_correlation;
        kept += (uint64_t) (is_old() ? emplace(buffer, &old, sizeof(old))
                                     : emplace(buffer, &call, sizeof(call)));
    }
    pthread_mutex_unlock(&lock);
    return kept;
}

/* Load (or unload) a kernel. */
EXPORT void fake_load_kernel(uint64_t kernel, const char* name, int is_unloading)
{
    symbol_t symbol = {.size = sizeof(symbol_t), .kernel = kernel, .code_object = 1, .name = name};
    uint32_t phase = is_unloading ? PHASE_UNLOAD : PHASE_LOAD;
    uint64_t user_data = 0, thread = (uint64_t) syscall(SYS_gettid);
    for (int number = 1; number <= context_count; ++number) {
        if (!contexts[number].is_active || !contexts[number].on_code_object) continue;
        uint64_t context = (uint64_t) number;
        callback_t now = {context, thread, 1, 2, 3, CODE_OBJECT, KERNEL_SYMBOL, phase, &symbol};
        old_callback_t old = {context, thread, 1, 2, CODE_OBJECT, KERNEL_SYMBOL, phase, &symbol};
        if (is_old())
            ((old_callback_f) contexts[number].on_code_object)(old, &user_data, contexts[number].data);
        else
            ((callback_f) contexts[number].on_code_object)(now, &user_data, contexts[number].data);
    }
}

/* Deliver one kernel that nobody waits for any more, from this thread. */
EXPORT void fake_deliver_late(void)
{
    kernel_t kernel = {.size = sizeof(kernel_t), .kind = KERNEL_DISPATCH};
    header_t header = {TRACING, KERNEL_DISPATCH, &kernel}, *pointer = &header;
    for (int number = 1; number <= buffer_count; ++number)
        if (buffers[number].kind == KERNEL_DISPATCH)
            buffers[number].deliver((id_t64) {buffers[number].context}, (id_t64) {1}, &pointer, 1,
                                    buffers[number].data, 0);
}

/* What the library does when the process ends: it delivers what is left, unless it was told that the
 * tool has ended. Python is gone by then. In a forked child there is no thread to deliver. */
__attribute__((destructor)) static void end_of_process(void)
{
    if (configured_pid == getpid() && !is_finalized) fake_deliver_late();
}

/* From now on: pointers of neighbours swapped; 64 bytes between records. */
EXPORT void fake_disorder(int swapped, int spread) { is_swapped = swapped; is_spread = spread; }

/* Lose the next `count` dispatches without a word, as records without a place are lost. */
EXPORT void fake_lose(uint64_t count) { next_dispatch += count; }

EXPORT uint64_t fake_delivery_tid(void) { return workers[1].tid; }
EXPORT int fake_finalise_count(void) { return finalise_count; }
EXPORT uint64_t fake_drop_count(void) { return buffers[1].drop_count; }
EXPORT uint64_t fake_waited_count(void) { return buffers[1].waited_count; }
