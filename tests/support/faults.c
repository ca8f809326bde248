// Preloaded into a program: counts its changes to files below a folder, lets one of them fail, and
// logs them. What it does is in shared memory, `struct state`, which the test writes and reads.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct state {
  int64_t target;   // the change that fails, from 1; 0: none
  int64_t count;    // changes so far
  int64_t action;   // errno; -1: the process is killed; -2: after half of a write
  int64_t fired;    // whether the target was reached
  char where[PATH_MAX + 16];  // the change that failed, "write /path"
  char root[PATH_MAX];        // changes below this folder count
  char log[PATH_MAX];         // file for the log; empty: none
};
static struct state *state;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTS_STATE");
  if (path == NULL) return;
  int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *found = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (found != MAP_FAILED) state = found;
}

static int concerns(const char *path) {
  size_t length = state == NULL ? 0 : strlen(state->root);
  return length && strncmp(path, state->root, length) == 0 && strchr("/", path[length]) != NULL;
}

static const char *absolute(int folder, const char *path, char *buffer) {
  if (path[0] == '/') return path;
  char base[PATH_MAX] = "";
  if (folder == AT_FDCWD) {
    if (getcwd(base, sizeof base) == NULL) return path;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return path;
    base[n] = 0;
  }
  if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return path;
  return buffer;
}

static const char *of_fd(int fd, char *buffer) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, buffer, PATH_MAX - 1);
  buffer[n < 0 ? 0 : n] = 0;
  return buffer;
}

// The action for this change, or 0 if it is to succeed.
static int64_t next(const char *call, const char *path) {
  int64_t number = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
  if (number != state->target) return 0;
  state->fired = 1;
  snprintf(state->where, sizeof state->where, "%s %s", call, path);
  if (state->action == -1) kill(getpid(), SIGKILL);
  return state->action;
}

// A record: a line "call offset data-bytes path-bytes other-bytes\n", then path, other path, data.
static void record(const char *call, const char *path, const char *other, int64_t offset,
                   const void *data, size_t size) {
  if (!state->log[0]) return;
  int saved = errno;
  int fd = REAL(open)(state->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd >= 0) {
    char head[128];
    int n = snprintf(head, sizeof head, "%s %lld %zu %zu %zu\n", call, (long long)offset, size,
                     strlen(path), strlen(other));
    struct iovec parts[] = {{head, n},
                            {(void *)path, strlen(path)},
                            {(void *)other, strlen(other)},
                            {(void *)data, size}};
    if (REAL(writev)(fd, parts, 4) < 0) abort();
    close(fd);
  }
  errno = saved;
}

#define FAIL_IF_TOLD(call, path)              \
  do {                                        \
    int64_t action = next(call, path);        \
    if (action > 0) { errno = (int)action; return -1; } \
    if (action < 0) kill(getpid(), SIGKILL);  \
  } while (0)

static int opened(const char *call, int folder, const char *path, int flags, mode_t mode, int large) {
  char buffer[PATH_MAX];
  const char *where = absolute(folder, path, buffer);
  int changes = (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY;
  changes = changes && (flags & O_TMPFILE) != O_TMPFILE && concerns(where);
  if (changes) FAIL_IF_TOLD(call, where);
  int fd = large ? REAL(openat64)(folder, path, flags, mode) : REAL(openat)(folder, path, flags, mode);
  if (changes && fd >= 0) record("open", where, "", flags & O_TRUNC ? 1 : 0, "", 0);
  return fd;
}

#define MODE                      \
  mode_t mode = 0;                \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest;                 \
    va_start(rest, flags);        \
    mode = va_arg(rest, mode_t);  \
    va_end(rest);                 \
  }
int open(const char *path, int flags, ...) { MODE return opened("open", AT_FDCWD, path, flags, mode, 0); }
int open64(const char *path, int flags, ...) { MODE return opened("open", AT_FDCWD, path, flags, mode, 1); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened("open", folder, path, flags, mode, 0); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened("open", folder, path, flags, mode, 1); }

static int64_t place(int fd) {
  struct stat found;
  if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &found) ? 0 : (int64_t)found.st_size;
  return (int64_t)lseek(fd, 0, SEEK_CUR);
}

static ssize_t written(const char *call, int fd, const void *data, size_t size, int64_t offset, int at) {
  char path[PATH_MAX];
  int counts = state != NULL && concerns(of_fd(fd, path));
  if (counts) {
    int64_t action = next(call, path);
    if (action > 0) { errno = (int)action; return -1; }
    if (!at) offset = place(fd);
    if (action < 0) {
      if (at) REAL(pwrite)(fd, data, size / 2, offset); else REAL(write)(fd, data, size / 2);
      kill(getpid(), SIGKILL);
    }
  }
  ssize_t done = at ? REAL(pwrite)(fd, data, size, offset) : REAL(write)(fd, data, size);
  if (counts && done > 0) record("write", path, "", offset, data, (size_t)done);
  return done;
}
ssize_t write(int fd, const void *data, size_t size) { return written("write", fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written("write", fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written("write", fd, data, size, offset, 1); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  ssize_t total = 0;
  if (state == NULL) return REAL(writev)(fd, parts, count);
  for (int i = 0; i < count; i++) {
    ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
    if (done < 0) return total ? total : -1;
    total += done;
    if ((size_t)done < parts[i].iov_len) break;
  }
  return total;
}

// Copies inside the kernel are refused, so that callers fall back to read and write.
ssize_t sendfile(int out, int in, off_t *offset, size_t count) { (void)out; (void)in; (void)offset; (void)count; errno = ENOTSOCK; return -1; }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) { (void)out; (void)in; (void)offset; (void)count; errno = ENOTSOCK; return -1; }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) { (void)in; (void)a; (void)out; (void)b; (void)n; (void)flags; errno = ENOSYS; return -1; }

#define ON_FD(call, name, declared, passed, length)        \
  int name declared {                                      \
    char path[PATH_MAX];                                   \
    int counts = state != NULL && concerns(of_fd(fd, path)); \
    if (counts) FAIL_IF_TOLD(call, path);                  \
    int code = REAL(name) passed;                          \
    if (counts && code == 0) record(call, path, "", length, "", 0); \
    return code;                                           \
  }
ON_FD("fsync", fsync, (int fd), (fd), 0)
ON_FD("fsync", fdatasync, (int fd), (fd), 0)
ON_FD("truncate", ftruncate, (int fd, off_t length), (fd, length), length)
ON_FD("truncate", ftruncate64, (int fd, off64_t length), (fd, length), length)

#define ON_PATH(call, name, declared, passed, folder)      \
  int name declared {                                      \
    char buffer[PATH_MAX];                                 \
    const char *where = absolute(folder, path, buffer);    \
    int counts = state != NULL && concerns(where);         \
    if (counts) FAIL_IF_TOLD(call, where);                 \
    int code = REAL(name) passed;                          \
    if (counts && code == 0) record(call, where, "", 0, "", 0); \
    return code;                                           \
  }
ON_PATH("mkdir", mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD)
ON_PATH("mkdir", mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), folder)
ON_PATH("unlink", unlink, (const char *path), (path), AT_FDCWD)
ON_PATH("unlink", unlinkat, (int folder, const char *path, int flags), (folder, path, flags), folder)
ON_PATH("unlink", rmdir, (const char *path), (path), AT_FDCWD)

static int renamed(int from_folder, const char *from, int to_folder, const char *to) {
  char first[PATH_MAX], second[PATH_MAX];
  const char *old = absolute(from_folder, from, first), *new = absolute(to_folder, to, second);
  int counts = state != NULL && (concerns(old) || concerns(new));
  if (counts) FAIL_IF_TOLD("rename", new);
  int code = REAL(renameat)(from_folder, from, to_folder, to);
  if (counts && code == 0) record("rename", old, new, 0, "", 0);
  return code;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to); }
