/* The two loops over weights, and the functions that the compiler makes of them. */
#ifndef ROTATIONAL_PASSES_H
#define ROTATIONAL_PASSES_H

#include "elements.h"

/* The same code for several instruction sets, chosen when the library is loaded. */
#ifdef ROTATIONAL_CLONES
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define SCRATCH 32768  /* directions that a thread holds */
#define LANES 512      /* neurons whose numbers it holds */
#define SHORT 32       /* shorter rows share a loop over their weights */
#define FEW 256        /* terms that are added up in single precision */
#define BLOCK 4096     /* weights of the plain rule that go over the first cache at once */
/* Keeps a loop over a handful of weights from becoming one over vectors, whose ends would cost more than it. */
#define NARROW __asm__ volatile("")
#define NEARLY 1e-3    /* where less of |u| is left, it is formed in double */

typedef struct {
    double u[LANES], w[LANES], uu[LANES], ww[LANES], uw[LANES];
} Sums;

typedef struct {
    double a[LANES], b[LANES], c[LANES];
    int32_t nearly[LANES];
} Coefficients;

static __thread float scratch[SCRATCH];
static __thread Sums sums;
static __thread Coefficients coefficients;

/* The first time over the weights: one function for each way of storing and each rule ----------------------- */

typedef void First(const Job *, const Numbers *, int64_t from, int64_t count, float *u, int lane);

INLINE void first(const Job *at, const Numbers *numbers, int64_t from, int64_t count, float *restrict u, int lane,
                  int weights, int moments, int scale, int remembers, int keep) {
    /* Copies, which no store can change: they stay in registers. */
    const Job here = *at, *job = &here;
    const Numbers own = *numbers, *n = &own;
    if (lane < 0) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; i++)
            u[i] = direction(job, n, from + i, load(job->w, from + i, weights), weights, moments, scale, remembers, keep);
        return;
    }
    double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
    if (scale == RAW || !keep) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; i++) {
            float w = load(job->w, from + i, weights);
            float x = direction(job, n, from + i, w, weights, moments, scale, remembers, keep);
            u[i] = x;
            double ud = x, wd = w;
            su += ud, sw += wd, suu += ud * ud, sww += wd * wd, suw += ud * wd;
        }
    } else { /* u is of order 1: single precision will do for a few hundred of them (`between` looks at the rest) */
        for (int64_t block = 0; block < count; block += FEW) {
            int64_t end = count - block < FEW ? count : block + FEW;
            float fu = 0, fw = 0, fuu = 0, fww = 0, fuw = 0;
#pragma GCC ivdep
            for (int64_t i = block; i < end; i++) {
                float w = load(job->w, from + i, weights);
                float x = direction(job, n, from + i, w, weights, moments, scale, remembers, keep);
                u[i] = x;
                fu += x, fw += w, fuu += x * x, fww += w * w, fuw += x * w;
            }
            su += fu, sw += fw, suu += fuu, sww += fww, suw += fuw;
        }
    }
    sums.u[lane] += su;
    sums.w[lane] += sw;
    sums.uu[lane] += suu;
    sums.ww[lane] += sww;
    sums.uw[lane] += suw;
}

#define FIRST(name, ...)                                                                                              \
    CLONES static void name(const Job *job, const Numbers *n, int64_t from, int64_t count, float *u, int lane) {      \
        first(job, n, from, count, u, lane, __VA_ARGS__);                                                             \
    }
#define KEPT_OR_NOT(name, ...) FIRST(name##_look, __VA_ARGS__, 0) FIRST(name##_keep, __VA_ARGS__, 1)
#define REMEMBERED_OR_NOT(name, ...) KEPT_OR_NOT(name##_plain, __VA_ARGS__, 0) KEPT_OR_NOT(name##_memory, __VA_ARGS__, 1)
#define SCALED(name, ...)                                                                                             \
    REMEMBERED_OR_NOT(name##_raw, __VA_ARGS__, RAW)                                                                   \
    REMEMBERED_OR_NOT(name##_rms, __VA_ARGS__, RMS)                                                                   \
    REMEMBERED_OR_NOT(name##_sign, __VA_ARGS__, SIGN)
SCALED(f32_f32, F32, F32)
SCALED(f32_bf16, F32, BF16)
SCALED(bf16_f32, BF16, F32)
SCALED(bf16_bf16, BF16, BF16)

#define BOTH(name) {name##_look, name##_keep}
#define EITHER(name) {BOTH(name##_plain), BOTH(name##_memory)}
#define RULES(name) {EITHER(name##_raw), EITHER(name##_rms), EITHER(name##_sign)}
/* [weights][moments][scale][remembers][keep] */
static First *const FIRSTS[2][2][3][2][2] = {{RULES(f32_f32), RULES(f32_bf16)}, {RULES(bf16_f32), RULES(bf16_bf16)}};

/* Sums of neurons that share a loop: `lanes` side by side, `run` weights each. */
INLINE void add(const Job *job, int64_t from, const float *u, int64_t lanes, int64_t run, int weights) {
    if (run == 1) {
#pragma GCC ivdep
        for (int64_t k = 0; k < lanes; k++) {
            double x = u[k], w = load(job->w, from + k, weights);
            sums.u[k] += x;
            sums.w[k] += w;
            sums.uu[k] += x * x;
            sums.ww[k] += w * w;
            sums.uw[k] += x * w;
        }
        return;
    }
    for (int64_t k = 0; k < lanes; k++) {
        double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
        for (int64_t i = k * run; i < (k + 1) * run; i++) {
            NARROW;
            double x = u[i], w = load(job->w, from + i, weights);
            su += x;
            sw += w;
            suu += x * x;
            sww += w * w;
            suw += x * w;
        }
        sums.u[k] += su;
        sums.w[k] += sw;
        sums.uu[k] += suu;
        sums.ww[k] += sww;
        sums.uw[k] += suw;
    }
}

CLONES static void sums_of(const Job *job, int64_t from, const float *u, int64_t lanes, int64_t run) {
    if (job->weights == F32) add(job, from, u, lanes, run, F32);
    else add(job, from, u, lanes, run, BF16);
}

/* The second time ------------------------------------------------------------------------------------------- */

INLINE void second(const Job *job, int64_t from, const float *restrict u, int64_t lanes, int64_t run, int weights) {
    const Coefficients *to = &coefficients;
    if (run == 1) {
#pragma GCC ivdep
        for (int64_t k = 0; k < lanes; k++) {
            double w = to->a[k] * load(job->w, from + k, weights) + to->b[k] * u[k] + to->c[k];
            store(job->w, from + k, (float)w, weights, 0, 0);
        }
        return;
    }
    for (int64_t k = 0; k < lanes; k++) {
        int64_t at = from + k * run;
        const float *x = u + k * run;
        double a = to->a[k], b = to->b[k], c = to->c[k];
        if (to->nearly[k]) { /* b u and a w nearly cancel */
            for (int64_t i = 0; i < run; i++)
                store(job->w, at + i, (float)(a * load(job->w, at + i, weights) + b * x[i] + c), weights, 0, 0);
            continue;
        }
        float af = (float)a, bf = (float)b, cf = (float)c;
#pragma GCC ivdep
        for (int64_t i = 0; i < run; i++)
            store(job->w, at + i, af * load(job->w, at + i, weights) + bf * x[i] + cf, weights, 0, 0);
    }
}

CLONES static void apply(const Job *job, int64_t from, const float *u, int64_t lanes, int64_t run) {
    if (job->weights == F32) second(job, from, u, lanes, run, F32);
    else second(job, from, u, lanes, run, BF16);
}

#endif
