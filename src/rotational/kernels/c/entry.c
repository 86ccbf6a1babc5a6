/* What Python calls: the step in the best instruction set that this machine has, of those that it was compiled for. */
#include "table.h"

typedef void Run(const Step *);

extern Run rotational_step_base;
#ifdef ROTATIONAL_V3
extern Run rotational_step_v3;
#endif
#ifdef ROTATIONAL_V4
extern Run rotational_step_v4;
#endif

int rotational_abi(void) { return ROTATIONAL_ABI; }

/* Take one step; nothing is allocated. */
void rotational_step(const Step *step) {
    Run *run = rotational_step_base;
#ifdef ROTATIONAL_V3
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run = rotational_step_v3;
#endif
#ifdef ROTATIONAL_V4
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        run = rotational_step_v4;
#endif
    run(step);
}
