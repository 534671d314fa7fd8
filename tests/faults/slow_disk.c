/* Writes to files whose path holds SLOW_DISK_PART wait as long as the file SLOW_DISK_FILE is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for_disk(int descriptor)
{
    const char *file = getenv("SLOW_DISK_FILE"), *part = getenv("SLOW_DISK_PART");
    char link[64], path[4096];
    ssize_t length;
    if (!file || !part || access(file, F_OK))
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    while (strstr(path, part) && !access(file, F_OK))
        usleep(5000);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset)
{
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite64");
    wait_for_disk(descriptor);
    return real(descriptor, data, size, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
    return pwrite64(descriptor, data, size, offset);
}
