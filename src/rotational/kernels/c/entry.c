/* What Python calls: the step in the best instruction set that this machine has, of those that it was compiled for. */
#include "table.h"

typedef void Step(const Group *, Job *, int64_t, const Task *, Unit *, int64_t, double *, const int64_t *, int64_t, void *,
                  int64_t, int);

extern Step rotational_step_base;
#ifdef ROTATIONAL_V3
extern Step rotational_step_v3;
#endif
#ifdef ROTATIONAL_V4
extern Step rotational_step_v4;
#endif

int rotational_abi(void) { return ROTATIONAL_ABI; }

/* Take one step. `numbers` is what units write to; nothing is allocated. */
void rotational_step(const Group *groups, Job *jobs, int64_t job_count, const Task *tasks, Unit *units, int64_t unit_count,
                     double *numbers, const int64_t *bounds, int64_t stages, void *cursors, int64_t apart, int threads) {
    Step *step = rotational_step_base;
#ifdef ROTATIONAL_V3
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) step = rotational_step_v3;
#endif
#ifdef ROTATIONAL_V4
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        step = rotational_step_v4;
#endif
    step(groups, jobs, job_count, tasks, units, unit_count, numbers, bounds, stages, cursors, apart, threads);
}
