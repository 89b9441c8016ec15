/* What a process has had of the processor, from /proc. */
#ifndef PL_BENCH_CPU_H
#define PL_BENCH_CPU_H

#include <dirent.h>
#include <stdio.h>

struct cpu_sample {
    double run_ns;   /* on a core */
    double delay_ns; /* ready, but another had the core */
};

/* Adds up all threads of the process; zeros where it has ended. */
static inline struct cpu_sample
sample_cpu(int pid)
{
    struct cpu_sample total = {0, 0};
    char path[64];
    struct dirent *entry;
    DIR *threads;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    threads = opendir(path);
    if (threads == NULL) {
        return total;
    }
    while ((entry = readdir(threads)) != NULL) {
        unsigned long long run_ns, delay_ns;
        FILE *file;

        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", pid,
                 entry->d_name);
        file = fopen(path, "r");
        if (file == NULL) {
            continue;
        }
        if (fscanf(file, "%llu %llu", &run_ns, &delay_ns) == 2) {
            total.run_ns += (double)run_ns;
            total.delay_ns += (double)delay_ns;
        }
        fclose(file);
    }
    closedir(threads);
    return total;
}

#endif
