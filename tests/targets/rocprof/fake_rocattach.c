/* A stand-in for AMD's attacher, for tests: it traces nobody. With -DOLD it is that of ROCm 7.1.
 *
 * Environment (not beginning with ROCP, so that it is no part of what is copied into the target):
 *   FAKE_ATTACH_LOG    a file: each call with its thread, and the ROCP* variables at each attach
 *   FAKE_ATTACH_FAIL   "rocattach_attach:5": this function answers with this status; with ":78"
 *                      after it, only for that PID
 *   FAKE_ATTACH_HANG   "rocattach_attach": this function never returns
 *   FAKE_ATTACH_ROCPD  a directory of PID.db: at a detach, each is copied to where
 *                      ROCPROF_OUTPUT_PATH wants the trace of that process
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, PTRACE_ERROR = 4, MAX_SESSIONS = 16 };

extern char** environ;

static int  sessions[MAX_SESSIONS], session_count;
static long attach_tid;

static void note(const char* text, int pid)
{
    const char* path = getenv("FAKE_ATTACH_LOG");
    FILE* log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    fprintf(log, "%s %d\n", text, pid);
    fclose(log);
}

static int begin(int pid)
{
    for (int at = 0; at < session_count; ++at)
        if (sessions[at] == pid) return INVALID_ARGUMENT;
    sessions[session_count++] = pid;
    attach_tid = syscall(SYS_gettid);
    for (char** variable = environ; *variable; ++variable)
        if (strncmp(*variable, "ROCP", 4) == 0) note(*variable, pid);
    return SUCCESS;
}

/* Write what the tool in the target would have written. */
static void put_trace(int pid)
{
    char from[512], to[512], directory[512] = "", number[16];
    const char* store = getenv("FAKE_ATTACH_ROCPD");
    const char* path = getenv("ROCPROF_OUTPUT_PATH");
    const char* key = path ? strstr(path, "%pid%") : NULL;
    if (!store || !key) return;
    snprintf(number, sizeof(number), "%d", pid);
    snprintf(from, sizeof(from), "%s/%d.db", store, pid);
    strncat(directory, path, (size_t) (key - path));
    strcat(directory, number);
    if (access(from, R_OK) != 0) return;
    mkdir(directory, 0700);
    snprintf(to, sizeof(to), "%.400s/%.40s_results.db", directory, getenv("ROCPROF_OUTPUT_FILE_NAME"));
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    char block[65536];
    size_t count;
    while (in && out && (count = fread(block, 1, sizeof(block), in)) > 0)
        fwrite(block, 1, count, out);
    if (in) fclose(in);
    if (out) fclose(out);
}

static int end(int pid)
{
    if (attach_tid != syscall(SYS_gettid)) return PTRACE_ERROR;
    for (int at = 0; at < session_count; ++at)
        if (sessions[at] == pid) {
            sessions[at] = sessions[--session_count];
            put_trace(pid);
            return SUCCESS;
        }
    return INVALID_ARGUMENT;
}

#ifdef OLD

EXPORT void attach(uint32_t pid)
{
    note("attach", (int) pid);
    begin((int) pid);
}

EXPORT void detach(void)
{
    note("detach", sessions[0]);
    end(sessions[0]);
}

#else

static int wanted(const char* function, int pid)
{
    const char* hang = getenv("FAKE_ATTACH_HANG");
    const char* fail = getenv("FAKE_ATTACH_FAIL");
    size_t length = strlen(function);
    while (hang && strcmp(hang, function) == 0) sleep(1);
    int status = 0, only = pid;
    if (fail && strncmp(fail, function, length) == 0) sscanf(fail + length, ":%d:%d", &status, &only);
    return only == pid ? status : SUCCESS;
}

EXPORT const char* rocattach_get_status_name(int status)
{
    return status == 5 ? "ROCATTACH_STATUS_ERROR_PTRACE_OPERATION_NOT_PERMITTED" : "ROCATTACH_STATUS";
}

EXPORT const char* rocattach_get_status_string(int status)
{
    return status == 5 ? "operation not permitted (fake)" : "general error (fake)";
}

EXPORT int rocattach_attach(int pid)
{
    note("rocattach_attach", pid);
    int status = wanted("rocattach_attach", pid);
    return status ? status : begin(pid);
}

EXPORT int rocattach_detach(int pid)
{
    note("rocattach_detach", pid);
    int status = wanted("rocattach_detach", pid);
    return status ? status : end(pid);
}

#ifndef WITHOUT_TREES

static int tree[MAX_SESSIONS], tree_count;

static void gather(int pid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
    FILE* children = fopen(path, "r");
    tree[tree_count++] = pid;
    for (int child; children && tree_count < MAX_SESSIONS && fscanf(children, "%d", &child) == 1;)
        gather(child);
    if (children) fclose(children);
}

EXPORT int rocattach_attach_tree(int pid)
{
    note("rocattach_attach_tree", pid);
    int status = wanted("rocattach_attach_tree", pid);
    gather(pid);
    for (int at = 0; !status && at < tree_count; ++at) status = begin(tree[at]);
    return status;
}

EXPORT int rocattach_detach_tree(int pid)
{
    note("rocattach_detach_tree", pid);
    int status = wanted("rocattach_detach_tree", pid);
    for (int at = 0; at < tree_count; ++at) end(tree[at]);
    return status;
}

#endif
#endif
