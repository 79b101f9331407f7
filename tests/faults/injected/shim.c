/* As sitecustomize.py, below Python: the writes of libraries in C++ and Rust count and fail too.

   cc -shared -fPIC -o shim.so shim.c -ldl; LD_PRELOAD=shim.so SCALING_FAULT_SHIM="WHAT WHO AT TIMES
   ERRNO MARK BELOW BELOW" for whoever writes below one of two folders. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char what[16], mark[PATH_MAX], below[2][PATH_MAX];
static long at, times;
static int number, is_worker;
static atomic_long count, left;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
  char who[16] = "", line[4096];
  const char *fault = getenv("SCALING_FAULT_SHIM");
  int file = REAL(open)("/proc/self/cmdline", O_RDONLY);
  ssize_t size = read(file, line, sizeof line - 1);
  close(file);
  for (ssize_t i = 0; i + 8 < size; i++) is_worker |= !memcmp(line + i, "start.py", 8);
  if (!fault || sscanf(fault, "%15s %15s %ld %ld %d %4095s %4095s %4095s", what, who, &at, &times,
                       &number, mark, below[0], below[1]) != 8 ||
      strcmp(who, is_worker ? "worker" : "launcher"))
    at = LONG_MAX;
}

static int first(void) {
  int file = REAL(open)(mark, O_WRONLY | O_CREAT | O_EXCL, 0666);
  if (file < 0) return 0;
  char pid[16];
  int size = snprintf(pid, sizeof pid, "%d", getpid());
  ssize_t done = REAL(write)(file, pid, size);
  close(file);
  return done == size;
}

/* Whether a write that is about to be done is to fail; the fault is done where it is due. */
static int fails(const char *path) {
  if (!path || at == LONG_MAX) return 0;
  size_t size = strlen(path);
  if (size > 4 && !strcmp(path + size - 4, ".log")) return 0;
  if (strncmp(path, below[0], strlen(below[0])) && strncmp(path, below[1], strlen(below[1])))
    return 0;
  long now = atomic_fetch_add(&count, 1) + 1;
  if (now == at && first()) {
    if (!strcmp(what, "kill")) kill(getpid(), SIGKILL);
    if (!strcmp(what, "power-cut")) killpg(0, SIGKILL);
    if (!strcmp(what, "freeze")) kill(getpid(), SIGSTOP);
    if (!strcmp(what, "stop")) kill(is_worker ? getppid() : getpid(), SIGTERM);
    if (!strcmp(what, "error")) atomic_store(&left, times);
  }
  if (atomic_load(&left) <= 0) return 0;
  atomic_fetch_sub(&left, 1);
  errno = number;
  return 1;
}

static int file_fails(int file) {
  char link[32], path[PATH_MAX];
  if (at == LONG_MAX || file < 3) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return fails(path);
}

/* A path that is relative to an open folder. */
static int entry_fails(int folder, const char *path) {
  return path && *path == '/' ? fails(path) : file_fails(folder);
}

#define OPENING(name)                                     \
  int name(const char *path, int flags, ...) {            \
    __builtin_va_list more;                               \
    __builtin_va_start(more, flags);                      \
    mode_t mode = __builtin_va_arg(more, mode_t);         \
    __builtin_va_end(more);                               \
    if (flags & (O_WRONLY | O_RDWR) && fails(path)) return -1; \
    return REAL(name)(path, flags, mode);                 \
  }
#define OPENING_AT(name)                                  \
  int name(int folder, const char *path, int flags, ...) { \
    __builtin_va_list more;                               \
    __builtin_va_start(more, flags);                      \
    mode_t mode = __builtin_va_arg(more, mode_t);         \
    __builtin_va_end(more);                               \
    if (flags & (O_WRONLY | O_RDWR) && entry_fails(folder, path)) return -1; \
    return REAL(name)(folder, path, flags, mode);         \
  }
#define ON_FILE(type, name, parameters, ...)              \
  type name parameters {                                  \
    return file_fails(file) ? -1 : REAL(name)(__VA_ARGS__); \
  }
#define ON_PATH(name, parameters, ...)                    \
  int name parameters { return fails(path) ? -1 : REAL(name)(__VA_ARGS__); }
#define ON_ENTRY(name, parameters, ...)                   \
  int name parameters {                                   \
    return entry_fails(folder, path) ? -1 : REAL(name)(__VA_ARGS__); \
  }

OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)
ON_FILE(ssize_t, write, (int file, const void *data, size_t size), file, data, size)
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t to), file, data, size, to)
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t to), file, data, size, to)
ON_FILE(ssize_t, writev, (int file, const struct iovec *parts, int many), file, parts, many)
ON_FILE(int, fsync, (int file), file)
ON_FILE(int, fdatasync, (int file), file)
ON_FILE(int, ftruncate, (int file, off_t size), file, size)
ON_FILE(int, ftruncate64, (int file, off64_t size), file, size)
ON_PATH(rename, (const char *path, const char *to), path, to)
ON_PATH(link, (const char *path, const char *to), path, to)
ON_PATH(unlink, (const char *path), path)
ON_PATH(mkdir, (const char *path, mode_t mode), path, mode)
ON_PATH(rmdir, (const char *path), path)
ON_ENTRY(renameat, (int folder, const char *path, int other, const char *to), folder, path, other, to)
ON_ENTRY(linkat, (int folder, const char *path, int other, const char *to, int flags), folder, path,
         other, to, flags)
ON_ENTRY(unlinkat, (int folder, const char *path, int flags), folder, path, flags)
ON_ENTRY(mkdirat, (int folder, const char *path, mode_t mode), folder, path, mode)
