/* posix_spawn fails with the error number that stands in the file SPAWN_ERROR_FILE (8 bytes), while it is not 0. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile long long *number;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("SPAWN_ERROR_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page;
    if (file < 0)
        return;
    page = mmap(0, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED)
        number = page;
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    static int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                       char *const[], char *const[]);
    if (number && *number)
        return (int)*number;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "posix_spawn");
    return real(pid, path, actions, attributes, arguments, environment);
}
