/* Threads that know, from inside, when each of them was off its CPU, and why.
 *
 *     workload SECONDS NAME,KIND,CPU[,NUMBER,NUMBER] ...
 *
 * KIND is one of
 *     spin                     reads the clock without end
 *     burst,BUSY_US,REST_US    reads the clock for BUSY_US of its own time, then sleeps REST_US
 *     yield,WORK_US            reads the clock for WORK_US of its own time, then gives way
 *     read,BURST_US            waits for the feeder's pipe, then reads the clock for BURST_US
 *     feed,PERIOD_US           feeds that pipe at even instants
 *     brood,BURN_US,PERIOD_US  starts a thread every PERIOD_US; each reads the clock for BURN_US
 * and a CPU of -1 is any. Every thread pins itself. The program prints {"pid", "tids"} when they
 * are ready, begins at the first line on stdin, prints one line of JSON and then the rows (struct
 * row) when all have done, and ends when stdin does.
 *
 * The truth needs no look from outside. A thread that reads the clock in a tight loop was off its
 * CPU where the next reading is late and the kernel's count of its switches (getrusage(2)) has
 * grown; where the count has not grown, an interrupt or the hypervisor took the time. Around a call
 * that may block or give way the same is asked.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PREEMPTED = 1, BLOCKED, YIELDED, KIND_COUNT }; /* as in collectors/cpu_slices.py */
enum { THREAD_COUNT = 16, ROW_COUNT = 1 << 18, NAME_SIZE = 16 };
/* A reading takes 30 ns; to leave the CPU and come back takes two switches and what the other did. */
static const int64_t LATE_NS = 1500;

struct row {
    int64_t begin_ns; /* the last reading on the CPU */
    int64_t end_ns;   /* the first one after it came back */
    int64_t ready_ns; /* of a blocked one: when it could have gone on */
    int64_t kind;
};

struct thread {
    char name[NAME_SIZE], kind[NAME_SIZE];
    int cpu;
    int64_t numbers_ns[2];
    pid_t tid;
    int64_t begin_ns, end_ns, last_ns, on_ns;
    int64_t cpu_ns, process_cpu_ns, delay_ns;
    int64_t voluntary, involuntary, first_voluntary, first_involuntary;
    int64_t call_count, off_count[KIND_COUNT], off_ns[KIND_COUNT], row_count;
    struct row *rows;
};

static struct thread threads[THREAD_COUNT];
static int thread_count;
static int64_t life_ns;
static int feed[2];
static pthread_barrier_t ready, begun, done;

static int64_t read_clock(clockid_t which)
{
    struct timespec time;
    clock_gettime(which, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void sleep_until(int64_t time_ns)
{
    struct timespec time = {time_ns / 1000000000, time_ns % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* How long this thread has waited for a CPU, as the scheduler counts it. */
static int64_t run_delay_ns(void)
{
    char text[64] = "";
    long long run, delay = -1;
    int file = open("/proc/thread-self/schedstat", O_RDONLY);
    if (file < 0 || read(file, text, sizeof text - 1) < 0 || sscanf(text, "%lld %lld", &run, &delay) != 2)
        delay = -1;
    close(file);
    return delay;
}

/* Update the counts of switches; return how many there were since the last time. */
static int64_t count_switches(struct thread *self, int64_t *voluntary)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    int64_t blocked = usage.ru_nvcsw - self->voluntary;
    int64_t pushed = usage.ru_nivcsw - self->involuntary;
    self->voluntary += blocked;
    self->involuntary += pushed;
    if (voluntary)
        *voluntary = blocked;
    return blocked + pushed;
}

static void book(struct thread *self, int kind, int64_t count, int64_t end_ns, int64_t ready_ns)
{
    self->off_count[kind] += 1;
    self->off_count[PREEMPTED] += count - 1; /* again, within what looks like one stay away */
    self->off_ns[kind] += end_ns - self->last_ns;
    if (self->row_count < ROW_COUNT)
        self->rows[self->row_count++] = (struct row){self->last_ns, end_ns, ready_ns, kind};
}

/* Read the clock; whatever took the thread off its CPU since the last reading, it did not ask for. */
static void look(struct thread *self)
{
    int64_t now = read_clock(CLOCK_MONOTONIC), count;
    if (now - self->last_ns > LATE_NS && (count = count_switches(self, NULL)))
        book(self, PREEMPTED, count, now, 0);
    else
        self->on_ns += now - self->last_ns;
    self->last_ns = now;
}

/* Account for a call that may have blocked or given way. */
static void look_after(struct thread *self, int kind, int64_t ready_ns)
{
    int64_t now = read_clock(CLOCK_MONOTONIC), voluntary;
    int64_t count = count_switches(self, &voluntary);
    self->call_count++;
    if (count)
        book(self, kind == BLOCKED && !voluntary ? PREEMPTED : kind, count, now, ready_ns);
    else
        self->on_ns += now - self->last_ns;
    self->last_ns = now;
}

static int is_over(struct thread *self)
{
    return self->last_ns >= self->begin_ns + life_ns;
}

static void spin(struct thread *self, int64_t length_ns)
{
    int64_t until_ns = self->on_ns + length_ns;
    do
        look(self);
    while (self->on_ns < until_ns && !is_over(self));
}

static void *hatch(void *parent)
{
    struct thread child = {.begin_ns = read_clock(CLOCK_MONOTONIC), .rows = NULL};
    child.last_ns = child.begin_ns;
    child.row_count = ROW_COUNT; /* it keeps none */
    count_switches(&child, NULL);
    spin(&child, ((struct thread *)parent)->numbers_ns[0]);
    return NULL;
}

static void live(struct thread *self)
{
    int64_t first = self->numbers_ns[0], second = self->numbers_ns[1];
    if (!strcmp(self->kind, "spin")) {
        spin(self, life_ns);
    } else if (!strcmp(self->kind, "burst")) {
        while (!is_over(self)) {
            spin(self, first);
            sleep_until(self->last_ns + second);
            look_after(self, BLOCKED, self->last_ns + second);
        }
    } else if (!strcmp(self->kind, "yield")) {
        while (!is_over(self)) {
            spin(self, first);
            sched_yield();
            look_after(self, YIELDED, 0);
        }
    } else if (!strcmp(self->kind, "read")) {
        int64_t fed_ns;
        while (read(feed[0], &fed_ns, sizeof fed_ns) == sizeof fed_ns && fed_ns) {
            look_after(self, BLOCKED, fed_ns);
            spin(self, first);
        }
    } else if (!strcmp(self->kind, "feed")) {
        for (int64_t due_ns = self->begin_ns + first; !is_over(self); due_ns += first) {
            sleep_until(due_ns);
            look_after(self, BLOCKED, due_ns);
            int64_t fed_ns = is_over(self) ? 0 : read_clock(CLOCK_MONOTONIC);
            if (write(feed[1], &fed_ns, sizeof fed_ns) != sizeof fed_ns)
                abort();
            look(self);
        }
    } else if (!strcmp(self->kind, "brood")) {
        for (int64_t due_ns = self->begin_ns; !is_over(self); due_ns += second) {
            pthread_t child;
            sleep_until(due_ns);
            if (pthread_create(&child, NULL, hatch, self) || pthread_join(child, NULL))
                abort();
            look_after(self, BLOCKED, 0);
        }
    } else {
        abort();
    }
}

static void *run(void *argument)
{
    struct thread *self = argument;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(self->cpu, &cpus);
    if (self->cpu >= 0 && sched_setaffinity(0, sizeof cpus, &cpus))
        abort();
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    prctl(PR_SET_NAME, self->name, 0, 0, 0);
    self->tid = (pid_t)syscall(SYS_gettid);
    self->rows = malloc(ROW_COUNT * sizeof *self->rows);
    memset(self->rows, 1, ROW_COUNT * sizeof *self->rows); /* no page faults later */
    pthread_barrier_wait(&ready);
    pthread_barrier_wait(&begun);
    count_switches(self, NULL);
    self->first_voluntary = self->voluntary;
    self->first_involuntary = self->involuntary;
    self->delay_ns = run_delay_ns();
    self->process_cpu_ns = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    self->cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID);
    self->begin_ns = self->last_ns = read_clock(CLOCK_MONOTONIC);
    live(self);
    self->end_ns = self->last_ns;
    self->cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID) - self->cpu_ns;
    self->process_cpu_ns = read_clock(CLOCK_PROCESS_CPUTIME_ID) - self->process_cpu_ns;
    self->delay_ns = run_delay_ns() - self->delay_ns;
    pthread_barrier_wait(&done);
    for (;;)
        pause(); /* who looks from outside may want to look a last time */
}

static void tell(const struct thread *one)
{
    printf("{\"name\": \"%s\", \"tid\": %d, \"begin_ns\": %lld, \"end_ns\": %lld, ", one->name,
           (int)one->tid, (long long)one->begin_ns, (long long)one->end_ns);
    printf("\"cpu_ns\": %lld, \"process_cpu_ns\": %lld, \"run_delay_ns\": %lld, ",
           (long long)one->cpu_ns, (long long)one->process_cpu_ns, (long long)one->delay_ns);
    printf("\"voluntary_count\": %lld, \"involuntary_count\": %lld, \"call_count\": %lld, ",
           (long long)(one->voluntary - one->first_voluntary),
           (long long)(one->involuntary - one->first_involuntary), (long long)one->call_count);
    printf("\"row_count\": %lld, \"off_count\": [%lld, %lld, %lld], \"off_ns\": [%lld, %lld, %lld]}",
           (long long)one->row_count, (long long)one->off_count[PREEMPTED],
           (long long)one->off_count[BLOCKED], (long long)one->off_count[YIELDED],
           (long long)one->off_ns[PREEMPTED], (long long)one->off_ns[BLOCKED],
           (long long)one->off_ns[YIELDED]);
}

static void parse(char *text, struct thread *one)
{
    double numbers[2] = {0, 0};
    if (sscanf(text, "%15[^,],%15[^,],%d,%lf,%lf", one->name, one->kind, &one->cpu, &numbers[0],
               &numbers[1]) < 3)
        abort();
    for (int i = 0; i < 2; i++)
        one->numbers_ns[i] = (int64_t)(numbers[i] * 1e3);
}

int main(int argc, char **argv)
{
    pthread_t handle;
    char line[8];
    thread_count = argc - 2;
    if (thread_count < 1 || thread_count > THREAD_COUNT || pipe(feed))
        return 2;
    life_ns = (int64_t)(atof(argv[1]) * 1e9);
    pthread_barrier_init(&ready, NULL, (unsigned)thread_count + 1);
    pthread_barrier_init(&begun, NULL, (unsigned)thread_count + 1);
    pthread_barrier_init(&done, NULL, (unsigned)thread_count + 1);
    for (int i = 0; i < thread_count; i++) {
        parse(argv[i + 2], &threads[i]);
        if (pthread_create(&handle, NULL, run, &threads[i]))
            return 2;
    }
    pthread_barrier_wait(&ready);
    printf("{\"pid\": %d, \"tids\": {", (int)getpid());
    for (int i = 0; i < thread_count; i++)
        printf("%s\"%s\": %d", i ? ", " : "", threads[i].name, (int)threads[i].tid);
    printf("}}\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    pthread_barrier_wait(&begun);
    pthread_barrier_wait(&done);
    printf("[");
    for (int i = 0; i < thread_count; i++) {
        if (i)
            printf(", ");
        tell(&threads[i]);
    }
    printf("]\n");
    for (int i = 0; i < thread_count; i++)
        fwrite(threads[i].rows, sizeof(struct row), (size_t)threads[i].row_count, stdout);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}
