/* The two loops over weights, and the functions that the compiler makes of them. */
#ifndef ROTATIONAL_PASSES_H
#define ROTATIONAL_PASSES_H

#include "elements.h"

#define SCRATCH 32768  /* directions that a thread holds */
#define LANES 1024     /* neurons whose numbers it holds */
#define SHORT 256      /* shorter rows share a loop over their weights */
#define FEW 512        /* terms of a row that are added up in single precision, eight at a time */
#define ASKED 256      /* weights that memory is asked for at once, */
#define AHEAD 1024     /* and how many before they are needed */
#define LONG 64        /* the same of a column */
#define ALONE __attribute__((noinline)) /* a loop that needs all registers for itself */
/* Keeps a loop over a handful of weights from becoming one over vectors, whose ends would cost more than it. */
#define NARROW __asm__ volatile("")
#define ROUGH 0.02     /* where less of |u|^2 is left, its sums must be in double */
#define FAINT 1e-24    /* the same where |u|^2 or |w|^2 is not between these */
#define HUGE 1e30
#define NEARLY 1e-3    /* where less of |u| is left, it is formed in double */

typedef struct {
    double u[LANES], w[LANES], uu[LANES], ww[LANES], uw[LANES];
} Sums;

typedef struct {
    double a[LANES], b[LANES], c[LANES];
    int32_t nearly[LANES];
} Coefficients;

/* What a thread needs for a box. */
typedef struct {
    float u[SCRATCH];
    Sums sums;
    Coefficients coefficients;
} Memory;

/* The first time over the weights: one function for each way of storing and each rule ----------------------- */

typedef void First(const Job *, const Numbers *, int64_t from, int64_t count, float *u, Sums *sums, int64_t lane);

/* Processors foresee four arrays of one precision by themselves, and asking only holds them up; with fewer arrays, or
 * narrower ones, they leave memory idle for a third of the time. */
INLINE int foreseen(int weights, int moments, int scale) { return weights == F32 && moments == F32 && scale == RMS; }

INLINE void ask(const Job *job, int64_t at, int weights, int moments, int scale, int remembers) {
    int wide = weights == F32 ? 4 : 2, narrow = moments == F32 ? 4 : 2;
    for (int64_t i = at * wide; i < (at + ASKED) * wide; i += 64) {
        __builtin_prefetch((const char *)job->g + i);
        __builtin_prefetch((const char *)job->w + i);
    }
    for (int64_t i = at * narrow; i < (at + ASKED) * narrow; i += 64) {
        if (remembers) __builtin_prefetch((const char *)job->m + i);
        if (scale == RMS) __builtin_prefetch((const char *)job->v + i);
    }
}

INLINE void first(const Job *at, const Numbers *numbers, int64_t from, int64_t count, float *restrict u, Sums *sums,
                  int64_t lane, int weights, int moments, int scale, int remembers, int keep) {
    /* Copies, which no store can change: they stay in registers. */
    const Job here = *at, *job = &here;
    const Numbers own = *numbers, *n = &own;
    uint32_t mark = ((uint32_t)from + n->seed) * GOLDEN; /* counted beside i, and so never multiplied */
    int alone = foreseen(weights, moments, scale);
    int64_t most = alone ? FEW : ASKED;
    if (!sums) {
        for (int64_t block = 0; block < count; block += most) {
            int64_t end = count - block < most ? count : block + most;
            if (!alone) ask(job, from + block + AHEAD, weights, moments, scale, remembers);
#pragma GCC ivdep
            for (int64_t i = block; i < end; i++, mark += GOLDEN)
                u[i] = direction(job, n, from + i, mark, load(job->w, from + i, weights), weights, moments, scale,
                                 remembers, keep);
        }
        return;
    }
    double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
    for (int64_t block = 0; block < count; block += most) {
        int64_t end = count - block < most ? count : block + most;
        if (!alone) ask(job, from + block + AHEAD, weights, moments, scale, remembers);
        float fu = 0, fw = 0, fuu = 0, fww = 0, fuw = 0;
#pragma GCC ivdep
        for (int64_t i = block; i < end; i++, mark += GOLDEN) {
            float w = load(job->w, from + i, weights);
            float x = direction(job, n, from + i, mark, w, weights, moments, scale, remembers, keep);
            u[i] = x;
            fu += x, fw += w, fuu += x * x, fww += w * w, fuw += x * w;
        }
        su += fu, sw += fw, suu += fuu, sww += fww, suw += fuw;
    }
    sums->u[lane] += su, sums->w[lane] += sw, sums->uu[lane] += suu, sums->ww[lane] += sww, sums->uw[lane] += suw;
}

#define FIRST(name, ...)                                                                                              \
    static void name(const Job *job, const Numbers *n, int64_t from, int64_t count, float *u, Sums *s, int64_t lane) { \
        first(job, n, from, count, u, s, lane, __VA_ARGS__);                                                          \
    }
#define KEPT_OR_NOT(name, ...) FIRST(name##_look, __VA_ARGS__, 0) FIRST(name##_keep, __VA_ARGS__, 1)
#define REMEMBERED_OR_NOT(name, ...) KEPT_OR_NOT(name##_plain, __VA_ARGS__, 0) KEPT_OR_NOT(name##_memory, __VA_ARGS__, 1)
#define SCALED(name, ...)                                                                                             \
    REMEMBERED_OR_NOT(name##_raw, __VA_ARGS__, RAW)                                                                   \
    REMEMBERED_OR_NOT(name##_rms, __VA_ARGS__, RMS)                                                                   \
    REMEMBERED_OR_NOT(name##_sign, __VA_ARGS__, SIGN)
SCALED(f32_f32, F32, F32)
SCALED(f32_bf16, F32, BF16)
SCALED(f32_dithered, F32, DITHERED)
SCALED(bf16_f32, BF16, F32)
SCALED(bf16_bf16, BF16, BF16)
SCALED(bf16_dithered, BF16, DITHERED)

#define BOTH(name) {name##_look, name##_keep}
#define EITHER(name) {BOTH(name##_plain), BOTH(name##_memory)}
#define RULES(name) {EITHER(name##_raw), EITHER(name##_rms), EITHER(name##_sign)}
/* [weights][moments][scale][remembers][keep] */
static First *const FIRSTS[2][3][3][2][2] = {{RULES(f32_f32), RULES(f32_bf16), RULES(f32_dithered)},
                                             {RULES(bf16_f32), RULES(bf16_bf16), RULES(bf16_dithered)}};

/* Sums of `lanes` neurons that lie side by side, `run` weights of each: a lot at a time, and its ends once. */
INLINE void rows(const Job *job, int64_t from, const float *u, Sums *sums, int64_t lanes, int64_t run, int weights) {
    static const uint32_t all = 0xffffffff;
    /* The last lot begins where it ends with the run, and what was counted before is taken out of it. */
    int64_t whole = run / LOT * LOT, tail = run - LOT;
    Bits late = {0};
    for (int64_t i = 0; i < LOT; i++) late[i] = i < LOT - run % LOT ? 0 : all;
    for (int64_t k = 0; k < lanes; k++) {
        const float *x = u + k * run;
        int64_t at = from + k * run;
        Lot zero = {0}, su = zero, sw = zero, suu = zero, sww = zero, suw = zero;
        for (int64_t i = 0; i < whole; i += LOT) {
            Lot ul = load_lot(x, i, F32), wl = load_lot(job->w, at + i, weights);
            su += ul, sw += wl, suu += ul * ul, sww += wl * wl, suw += ul * wl;
        }
        if (whole < run) {
            Lot ul = (Lot)((Bits)load_lot(x, tail, F32) & late), wl = (Lot)((Bits)load_lot(job->w, at + tail, weights) & late);
            su += ul, sw += wl, suu += ul * ul, sww += wl * wl, suw += ul * wl;
        }
        Lot five = across(fold(fold(su, sw), fold(suu, sww)), fold(fold(suw, zero), zero));
        sums->u[k] += five[0], sums->w[k] += five[1], sums->uu[k] += five[2], sums->ww[k] += five[3], sums->uw[k] += five[4];
    }
}

/* The same of neurons of a handful of weights, or of one weight in each of many segments. */
INLINE void few(const Job *job, int64_t from, const float *u, Sums *sums, int64_t lanes, int64_t run, int weights) {
    for (int64_t k = 0; k < lanes; k++) {
        double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
        for (int64_t i = k * run; i < (k + 1) * run; i++) {
            NARROW;
            double x = u[i], w = load(job->w, from + i, weights);
            su += x, sw += w, suu += x * x, sww += w * w, suw += x * w;
        }
        sums->u[k] += su, sums->w[k] += sw, sums->uu[k] += suu, sums->ww[k] += sww, sums->uw[k] += suw;
    }
}

/* Sums down the segments of neurons that have one weight in each: a lot of neurons at a time. */
INLINE void columns(const Job *job, int64_t from, const float *u, Sums *sums, int64_t lanes, int64_t segments,
                    int weights) {
    int64_t k = 0, stride = job->segment_stride;
    for (; k + LOT <= lanes; k += LOT)
        for (int64_t block = 0; block < segments; block += LONG) {
            int64_t end = segments - block < LONG ? segments : block + LONG;
            Lot zero = {0}, su = zero, sw = zero, suu = zero, sww = zero, suw = zero;
            for (int64_t s = block; s < end; s++) {
                Lot ul = load_lot(u, s * lanes + k, F32), wl = load_lot(job->w, from + s * stride + k, weights);
                su += ul, sw += wl, suu += ul * ul, sww += wl * wl, suw += ul * wl;
            }
            for (int i = 0; i < LOT; i++) {
                sums->u[k + i] += su[i], sums->w[k + i] += sw[i];
                sums->uu[k + i] += suu[i], sums->ww[k + i] += sww[i], sums->uw[k + i] += suw[i];
            }
        }
    for (int64_t s = 0; s < segments; s++)
        for (int64_t i = k; i < lanes; i++) {
            double x = u[s * lanes + i], w = load(job->w, from + s * stride + i, weights);
            sums->u[i] += x, sums->w[i] += w, sums->uu[i] += x * x, sums->ww[i] += w * w, sums->uw[i] += x * w;
        }
}

/* Sums of the neurons of a box. */
INLINE void add(const Job *job, int64_t from, const float *u, Sums *sums, int64_t segments, int64_t lanes, int64_t run,
                int weights) {
    if (run == 1) {
        columns(job, from, u, sums, lanes, segments, weights);
        return;
    }
    for (int64_t s = 0; s < segments; s++, from += job->segment_stride, u += lanes * run) {
        if (run < LOT) few(job, from, u, sums, lanes, run, weights);
        else rows(job, from, u, sums, lanes, run, weights);
    }
}

ALONE static void sums_of(const Job *job, int64_t from, Memory *mine, int64_t segments, int64_t lanes, int64_t run) {
    if (job->weights == F32) add(job, from, mine->u, &mine->sums, segments, lanes, run, F32);
    else add(job, from, mine->u, &mine->sums, segments, lanes, run, BF16);
}

/* Those of neuron k of a box again, all in double. */
static void sharp(const Job *job, int64_t from, Memory *mine, int64_t segments, int64_t lanes, int64_t run, int64_t k) {
    double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
    for (int64_t s = 0; s < segments; s++)
        for (int64_t i = k * run; i < (k + 1) * run; i++) {
            double x = mine->u[s * lanes * run + i], w = load(job->w, from + s * job->segment_stride + i, job->weights);
            su += x, sw += w, suu += x * x, sww += w * w, suw += x * w;
        }
    Sums *sums = &mine->sums;
    sums->u[k] = su, sums->w[k] = sw, sums->uu[k] = suu, sums->ww[k] = sww, sums->uw[k] = suw;
}

/* The second time ------------------------------------------------------------------------------------------- */

INLINE void second(const Job *job, int64_t from, const Coefficients *to, const float *restrict u, int64_t lanes,
                   int64_t run, int weights) {
    void *all = job->w;
    if (run == 1) {
#pragma GCC ivdep
        for (int64_t k = 0; k < lanes; k++) {
            double w = to->a[k] * load(all, from + k, weights) + to->b[k] * u[k] + to->c[k];
            store(all, from + k, (float)w, weights, 0);
        }
        return;
    }
    for (int64_t k = 0; k < lanes; k++) {
        int64_t at = from + k * run;
        const float *x = u + k * run;
        double a = to->a[k], b = to->b[k], c = to->c[k];
        if (to->nearly[k] || run < LOT) { /* b u and a w nearly cancel */
            for (int64_t i = 0; i < run; i++) {
                NARROW;
                store(all, at + i, (float)(a * load(all, at + i, weights) + b * x[i] + c), weights, 0);
            }
            continue;
        }
        float af = (float)a, bf = (float)b, cf = (float)c;
        /* The last lot overlaps the one before: it is read first and written last. */
        Lot last = af * load_lot(all, at + run - LOT, weights) + bf * load_lot(x, run - LOT, F32) + cf;
        for (int64_t i = 0; i < run - LOT; i += LOT)
            store_lot(all, at + i, af * load_lot(all, at + i, weights) + bf * load_lot(x, i, F32) + cf, weights);
        store_lot(all, at + run - LOT, last, weights);
    }
}

ALONE static void apply(const Job *job, int64_t from, const Coefficients *to, const float *u, int64_t lanes, int64_t run) {
    if (job->weights == F32) second(job, from, to, u, lanes, run, F32);
    else second(job, from, to, u, lanes, run, BF16);
}

#endif
