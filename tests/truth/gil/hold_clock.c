/* A clock for the time that each thread holds the GIL, from inside the process.
 *
 * Preloaded into a CPython 3.11 with a shared libpython:
 *     cc -O2 -shared -fPIC -o hold_clock.so hold_clock.c
 *     HOLD_CLOCK=/tmp/hold LD_PRELOAD=./hold_clock.so python ...
 * It stands before PyEval_SaveThread and PyEval_RestoreThread, through which every release around
 * a blocking call goes, and before the condition waits of a thread that was told to let go. Each
 * process maps the file $HOLD_CLOCK.PID: an array of struct slot, one per thread.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SLOT_COUNT = 1024 };

struct slot {
    int64_t tid;
    int64_t held_ns;      /* completed holds */
    int64_t since_ns;     /* begin of the hold in progress, or 0 */
    int64_t release_count;
    int64_t restore_ns;   /* in PyEval_RestoreThread: waits for the GIL, then has it */
    int64_t save_ns;      /* in PyEval_SaveThread: has the GIL, then no more */
    int64_t forced_ns;    /* let go because it was told to, until it had it again */
};

static struct slot *slots;
static int next_slot;
static char *gil_begin, *gil_end;
static __thread struct slot *mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *(*real_save)(void);
static void (*real_restore)(void *);
static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void map_slots(void)
{
    char path[512];
    const char *prefix = getenv("HOLD_CLOCK");
    snprintf(path, sizeof path, "%s.%d", prefix ? prefix : "/tmp/hold_clock", (int)getpid());
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t size = SLOT_COUNT * sizeof(struct slot);
    if (file < 0 || ftruncate(file, (off_t)size) != 0)
        abort();
    slots = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    next_slot = 0;
    mine = NULL;
}

static void set_up(void)
{
    real_save = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
    real_restore = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
    real_wait = dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
    real_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    char *runtime = dlsym(RTLD_DEFAULT, "_PyRuntime");
    if (runtime) { /* 3.11: struct _gil_runtime_state at 360, its conditions from 32 to 168 */
        gil_begin = runtime + 360 + 32;
        gil_end = runtime + 360 + 168;
    }
    map_slots();
    pthread_atfork(NULL, NULL, map_slots);
}

static struct slot *my_slot(void)
{
    if (!mine) {
        int at = __atomic_fetch_add(&next_slot, 1, __ATOMIC_RELAXED);
        mine = &slots[at < SLOT_COUNT ? at : SLOT_COUNT - 1];
        mine->tid = syscall(SYS_gettid);
    }
    return mine;
}

void *PyEval_SaveThread(void)
{
    pthread_once(&once, set_up);
    struct slot *slot = my_slot();
    int64_t begin_ns = now_ns();
    if (slot->since_ns) {
        slot->held_ns += begin_ns - slot->since_ns;
        slot->since_ns = 0;
    }
    slot->release_count++;
    void *state = real_save();
    slot->save_ns += now_ns() - begin_ns;
    return state;
}

void PyEval_RestoreThread(void *state)
{
    pthread_once(&once, set_up);
    struct slot *slot = my_slot();
    int64_t begin_ns = now_ns();
    real_restore(state);
    slot->since_ns = now_ns();
    slot->restore_ns += slot->since_ns - begin_ns;
}

/* A thread that holds the GIL waits in its conditions only after it was told to let go. */
static void leave_hold(struct slot *slot, int64_t waited_ns)
{
    slot->since_ns += waited_ns;
    slot->forced_ns += waited_ns;
}

static int is_forced(pthread_cond_t *condition)
{
    return mine && mine->since_ns && (char *)condition >= gil_begin && (char *)condition < gil_end;
}

int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    pthread_once(&once, set_up);
    int forced = is_forced(condition);
    int64_t begin_ns = forced ? now_ns() : 0;
    int result = real_wait(condition, mutex);
    if (forced)
        leave_hold(mine, now_ns() - begin_ns);
    return result;
}

int pthread_cond_timedwait(
    pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    pthread_once(&once, set_up);
    int forced = is_forced(condition);
    int64_t begin_ns = forced ? now_ns() : 0;
    int result = real_timedwait(condition, mutex, until);
    if (forced)
        leave_hold(mine, now_ns() - begin_ns);
    return result;
}
