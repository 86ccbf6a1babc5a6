/* The two loops over weights, and the functions that the compiler makes of them. */
#ifndef ROTATIONAL_PASSES_H
#define ROTATIONAL_PASSES_H

#include "elements.h"

#define SCRATCH 32768  /* directions that a thread holds */
#define LANES 1024     /* neurons whose numbers it holds */
#define SHORT 128      /* shorter rows share a loop over their weights; */
#define SLIM 50        /* still shorter ones are gone over abreast, */
#define STRETCH 512    /* so many weights at a time, or 16 rows: what comes next is on its way (AHEAD); */
#define TINY 5         /* of still shorter ones too much often cancels */
#define MEANWHILE 12   /* of the next box of longer ones it is one weight in so many that is gone over again */
#define FEW 512        /* terms of a row that are added up in single precision (twice as many at its end) */
#define ASKED 64       /* weights that memory is asked for at once, */
#define AHEAD 512      /* and how many before they are needed; */
#define FURTHER 768    /* of narrower moments more come in one time */
#define ONCE 256       /* the same of gradients that are read but once */
#define LONG 64        /* the same of a column */
#define ALONE __attribute__((noinline)) /* a loop that needs all registers for itself */
/* Keeps a loop over a handful of weights from becoming one over vectors, whose ends would cost more than it. */
#define NARROW __asm__ volatile("")
#define ROUGH 0.02     /* where less of |u|^2 is left, its sums must be in double */
#define FAINT 1e-24    /* the same where |u|^2 or |w|^2 is not between these */
#define HUGE 1e30
#define NEARLY 1e-3    /* where less of |u| is left, it is formed in double */

#define ROWS (STRETCH / TINY / 16 * 16 + 16)

typedef struct {
    double u[LANES], w[LANES], uu[LANES], ww[LANES], uw[LANES];
} Sums;

typedef struct {
    double a[LANES], b[LANES], c[LANES];
    int32_t nearly[LANES];
} Coefficients;

/* The same of rows that are gone over abreast: sums, coefficients, and which of them are left out. */
typedef struct {
    _Alignas(64) uint32_t rows[WIDE * SLIM]; /* which of WIDE rows each of their weights is in, where they have `run` */
    float u[ROWS], w[ROWS], uu[ROWS], ww[ROWS], uw[ROWS], a[ROWS], b[ROWS], c[ROWS];
    int32_t rough[ROWS];
    int64_t run;
} Abreast;

/* What a thread needs for a box. */
typedef struct {
    _Alignas(64) float u[SCRATCH + LOT]; /* lots are read beyond the end */
    Sums sums;
    Coefficients coefficients;
    Abreast abreast;
} Memory;

/* w <- a w + b u + c, where that is known before the weights are gone over. */
typedef struct {
    float a, b, c;
} Known;

/* The first time over the weights: one function for each way of storing and each rule. It takes `lanes` neurons of
 * `count` weights that follow each other, and writes down their sums where there is a place for them; of one neuron,
 * u need not be kept. -------------------------------------------------------------------------------------------------- */

typedef void First(const Job *, const Numbers *, int64_t from, int64_t count, int64_t lanes, float *u, Sums *sums,
                   const Known *known);

/* Asked for in good time and a little at once, weights come when they are needed: processors foresee arrays that are gone
 * through, but each page anew, and not so far. */
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

/* Of a neuron that is gone over again only from memory, gradients are read but once: kept out of the last cache, they leave
 * it to weights and moments. */
INLINE void pass_by(const Job *job, int64_t at, int weights) {
    int wide = weights == F32 ? 4 : 2;
    for (int64_t i = at * wide; i < (at + ASKED) * wide; i += 64) __builtin_prefetch((const char *)job->g + i, 0, 0);
}

typedef struct {
    Wide u, w, uu, ww, uw;
} Five;

/* u of `count` weights, which a vector holds, kept for later or used at once, and its sums. */
INLINE void piece(const Job *job, const Numbers *n, int64_t at, int64_t count, Marks marks, float *restrict u, Five *sum,
                  const Known *known, int weights, int moments, int scale, int remembers, int keep) {
    Wide w = load_wide(job->w, at, weights, count);
    Wide x = direction(job, n, at, count, marks, w, weights, moments, scale, remembers, keep);
    if (known) store_wide(job->w, at, scaled(known->a, w, scaled(known->b, x, (Wide){0} + known->c)), weights, marks, count);
    else if (u) store_wide(u, 0, x, F32, marks, count);
    if (!sum) return;
    for (int64_t k = count; k < WIDE; k++) x[k] = 0; /* not 0/0, where eps is 0 */
    sum->u += x, sum->w += w, sum->uu += x * x, sum->ww += w * w, sum->uw += x * w;
}

/* Sums so far go to double. */
INLINE void settle(Five *sum, double (*totals)[LOT]) {
    add_lot(totals[0], lot_of(sum->u)), add_lot(totals[1], lot_of(sum->w)), add_lot(totals[2], lot_of(sum->uu));
    add_lot(totals[3], lot_of(sum->ww)), add_lot(totals[4], lot_of(sum->uw));
    *sum = (Five){{0}};
}

/* All that was added up for one neuron; `totals` where `settled`. */
INLINE void finish(const Five *sum, double (*totals)[LOT], int settled, Sums *sums, int64_t lane) {
    Lot four = fold(fold(lot_of(sum->u), lot_of(sum->w)), fold(lot_of(sum->uu), lot_of(sum->ww)));
    Lot one = fold(lot_of(sum->uw), lot_of(sum->uw));
    double *to[5] = {sums->u + lane, sums->w + lane, sums->uu + lane, sums->ww + lane, sums->uw + lane};
    for (int i = 0; i < 4; i++) *to[i] = (double)(four[i] + four[4 + i]);
    *to[4] = (double)((one[0] + one[1]) + (one[4] + one[5]));
    for (int i = 0; settled && i < 5; i++) {
        double more = 0;
        for (int k = 0; k < LOT; k++) more += totals[i][k];
        *to[i] += more;
    }
}

INLINE void first(const Job *at, const Numbers *numbers, int64_t from, int64_t count, int64_t lanes, float *restrict u,
                  Sums *sums, const Known *known, int weights, int moments, int scale, int remembers, int keep) {
    /* Copies, which no store can change: they stay in registers. */
    const Job here = *at, *job = &here;
    const Numbers own = *numbers, *n = &own;
    const Known now = known ? *known : (Known){0};
    int64_t ahead = moments == F32 ? AHEAD : FURTHER, asks = n->asks, end = count / WIDE * WIDE;
    Marks ones; /* counted beside the weights, and so never multiplied */
    for (uint32_t k = 0; k < WIDE; k++) ones[k] = k * GOLDEN;
#define PIECE(i, count, to, sum, known)                                                                               \
    piece(job, n, from + i, count, marks, to, sum, known, weights, moments, scale, remembers, keep)
#define EITHER_WAY(i, count)                                                                                          \
    if (sums && !u) PIECE(i, count, 0, &sum, 0);                                                                      \
    else if (sums) PIECE(i, count, u + i, &sum, 0);                                                                   \
    else if (keep && known) PIECE(i, count, 0, 0, &now);                                                              \
    else PIECE(i, count, u + i, 0, 0)
    for (int64_t lane = 0; lane < lanes; lane++, from += count) {
        Marks marks = ones + ((uint32_t)from + n->seed) * GOLDEN;
        Five sum = {{0}};
        double totals[5][LOT];
        int settled = 0;
        for (int64_t done = 0, some; done < end; done += some) {
            some = end - done < ASKED ? end - done : ASKED;
            if (asks) ask(job, from + done + ahead, weights, moments, scale, remembers);
            if (sums && !u && keep == KEEP) pass_by(job, from + done + ONCE, weights);
            for (int64_t i = done; i < done + some; i += WIDE, marks += WIDE * GOLDEN) EITHER_WAY(i, WIDE);
            if (sums && done / FEW < (done + some) / FEW && done + some < end) {
                if (!settled) memset(totals, 0, sizeof totals);
                settle(&sum, totals), settled = 1;
            }
        }
        if (end < count) {
            EITHER_WAY(end, count - end);
        }
        if (sums) finish(&sum, totals, settled, sums, lane);
        if (u) u += count;
    }
}

#define FIRST(name, ...)                                                                                              \
    static void name(const Job *job, const Numbers *n, int64_t from, int64_t count, int64_t lanes, float *u, Sums *s, \
                     const Known *known) {                                                                            \
        first(job, n, from, count, lanes, u, s, known, __VA_ARGS__);                                                  \
    }
#define KEPT_OR_NOT(name, ...) FIRST(name##_look, __VA_ARGS__, LOOK) FIRST(name##_keep, __VA_ARGS__, KEEP)
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
FIRST(f32_again, F32, F32, RMS, 1, AGAIN)
FIRST(bf16_again, BF16, F32, RMS, 1, AGAIN)

#define BOTH(name) {name##_look, name##_keep}
#define EITHER(name) {BOTH(name##_plain), BOTH(name##_memory)}
#define RULES(name) {EITHER(name##_raw), EITHER(name##_rms), EITHER(name##_sign)}
/* [weights][moments][scale][remembers][keep] */
static First *const FIRSTS[2][3][3][2][2] = {{RULES(f32_f32), RULES(f32_bf16), RULES(f32_dithered)},
                                             {RULES(bf16_f32), RULES(bf16_bf16), RULES(bf16_dithered)}};

/* Sums of neurons `k` to `lanes` of `run` weights. */
INLINE void few(const Job *job, int64_t from, const float *u, Sums *sums, int64_t k, int64_t lanes, int64_t run,
                int weights) {
    for (; k < lanes; k++, from += run, u += run) {
        double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
        for (int64_t i = 0; i < run; i++) {
            NARROW;
            double x = u[i], w = load(job->w, from + i, weights);
            su += x, sw += w, suu += x * x, sww += w * w, suw += x * w;
        }
        sums->u[k] += su, sums->w[k] += sw, sums->uu[k] += suu, sums->ww[k] += sww, sums->uw[k] += suw;
    }
}

/* Ask for `count` weights of two arrays that are stored alike, where they exist. */
INLINE void want(const void *a, const void *b, int64_t from, int64_t count, int kind) {
    int64_t size = kind == F32 ? 4 : 2;
    for (int64_t i = from * size; i < (from + count) * size; i += 64) {
        if (a) __builtin_prefetch((const char *)a + i, 0, 3);
        if (b) __builtin_prefetch((const char *)b + i, 0, 3);
    }
}

typedef struct {
    Lot u, w, uu, ww, uw;
} Lots;

/* Sums of one neuron of `run` weights, to be added up: a lot of weights at a time. The last lot holds some weights that
 * were counted before, or, where the run is shorter, some of the next neuron: they are taken out. */
INLINE Lots row(const void *all, int64_t at, const float *x, int64_t run, Bits counts, int weights) {
    int64_t last = run < LOT ? 0 : run - LOT;
    Lot u = (Lot)((Bits)load_lot(x, last, F32, LOT) & counts);
    Lot w = (Lot)((Bits)load_lot(all, at + last, weights, LOT) & counts);
    Lots s = {u, w, u * u, w * w, u * w};
    for (int64_t i = 0; i + LOT < run; i += LOT) {
        NARROW;
        u = load_lot(x, i, F32, LOT), w = load_lot(all, at + i, weights, LOT);
        s.u += u, s.w += w, s.uu += u * u, s.ww += w * w, s.uw += u * w;
    }
    return s;
}

INLINE Lots folded(Lots a, Lots b) {
    return (Lots){fold(a.u, b.u), fold(a.w, b.w), fold(a.uu, b.uu), fold(a.ww, b.ww), fold(a.uw, b.uw)};
}

/* Sums of `lanes` neurons that lie side by side, eight at a time. Only the last few of a block of neurons are not eight: then
 * it makes no difference how tasks and boxes cut it up. */
INLINE void rows(const Job *job, int64_t from, const float *u, Sums *sums, int64_t segments, int64_t lanes, int64_t run,
                 int weights) {
    Bits counts = {0};
    int64_t rest = (run - 1) % LOT + 1, before = run < LOT ? 0 : LOT - rest, k = 0;
    for (int64_t i = 0; i < rest; i++) counts[before + i] = 0xffffffff;
    for (; k + LOT <= lanes; k += LOT) {
        const void *all = job->w;
        int64_t at = from + k * run, size = weights == F32 ? 4 : 2;
        char apart[4 * LOT * LOT + sizeof(Lot)];
        if (run < LOT && k + LOT + 3 > lanes) { /* a lot reaches into the next three rows, which may not be there */
            memcpy(apart, (const char *)all + at * size, (size_t)(LOT * run * size));
            memset(apart + LOT * run * size, 0, sizeof(Lot));
            all = apart, at = 0;
        }
#define ROW(j) row(all, at + j * run, u + (k + j) * run, run, counts, weights)
        Lots a = folded(folded(ROW(0), ROW(1)), folded(ROW(2), ROW(3)));
        Lots b = folded(folded(ROW(4), ROW(5)), folded(ROW(6), ROW(7)));
        Lots all_of = {across(a.u, b.u), across(a.w, b.w), across(a.uu, b.uu), across(a.ww, b.ww), across(a.uw, b.uw)};
        if (segments > 1) {
            add_lot(sums->u + k, all_of.u), add_lot(sums->w + k, all_of.w), add_lot(sums->uu + k, all_of.uu);
            add_lot(sums->ww + k, all_of.ww), add_lot(sums->uw + k, all_of.uw);
        } else {
            put_lot(sums->u + k, all_of.u), put_lot(sums->w + k, all_of.w), put_lot(sums->uu + k, all_of.uu);
            put_lot(sums->ww + k, all_of.ww), put_lot(sums->uw + k, all_of.uw);
        }
    }
    few(job, from + k * run, u + k * run, sums, k, lanes, run, weights);
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
                Lot ul = load_lot(u, s * lanes + k, F32, LOT), wl = load_lot(job->w, from + s * stride + k, weights, LOT);
                su += ul, sw += wl, suu += ul * ul, sww += wl * wl, suw += ul * wl;
            }
            add_lot(sums->u + k, su), add_lot(sums->w + k, sw), add_lot(sums->uu + k, suu);
            add_lot(sums->ww + k, sww), add_lot(sums->uw + k, suw);
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
    for (int64_t s = 0; s < segments; s++, from += job->segment_stride, u += lanes * run)
        rows(job, from, u, sums, segments, lanes, run, weights);
}

ALONE static void sums_of(const Job *job, int64_t from, const float *u, Sums *sums, int64_t segments, int64_t lanes,
                          int64_t run) {
    if (job->weights == F32) add(job, from, u, sums, segments, lanes, run, F32);
    else add(job, from, u, sums, segments, lanes, run, BF16);
}

/* Those of neuron k of a box, all in double. */
static void sharp(const Job *job, int64_t from, const float *u, Sums *sums, int64_t segments, int64_t lanes, int64_t run,
                  int64_t k) {
    double su = 0, sw = 0, suu = 0, sww = 0, suw = 0;
    for (int64_t s = 0; s < segments; s++)
        for (int64_t i = k * run; i < (k + 1) * run; i++) {
            double x = u[s * lanes * run + i], w = load(job->w, from + s * job->segment_stride + i, job->weights);
            su += x, sw += w, suu += x * x, sww += w * w, suw += x * w;
        }
    sums->u[k] += su, sums->w[k] += sw, sums->uu[k] += suu, sums->ww[k] += sww, sums->uw[k] += suw;
}

/* The second time ------------------------------------------------------------------------------------------- */

INLINE void second(const Job *job, int64_t from, const Coefficients *to, const float *restrict u, int64_t lanes,
                   int64_t run, int64_t next, int weights) {
    void *all = job->w;
    if (run == 1) {
#pragma GCC ivdep
        for (int64_t k = 0; k < lanes; k++) {
            double w = to->a[k] * load(all, from + k, weights) + to->b[k] * u[k] + to->c[k];
            store(all, from + k, (float)w, weights);
        }
        return;
    }
    for (int64_t k = 0; k < lanes; k++) {
        int64_t at = from + k * run;
        if (next) {
            int64_t some = run / MEANWHILE;
            want(job->m, job->v, next + k * some, some, job->moments);
            want(job->g, job->w, next + k * some, some, job->weights);
        }
        const float *x = u + k * run;
        double a = to->a[k], b = to->b[k], c = to->c[k];
        if (to->nearly[k] || run < LOT) { /* b u and a w nearly cancel */
            for (int64_t i = 0; i < run; i++) {
                NARROW;
                store(all, at + i, (float)(a * load(all, at + i, weights) + b * x[i] + c), weights);
            }
            continue;
        }
        float af = (float)a, bf = (float)b, cf = (float)c;
        /* The last ones overlap those before: they are read first and written last. */
#define TURNED(i) af * load_lot(all, at + (i), weights, LOT) + bf * load_lot(x, i, F32, LOT) + cf
        Lot last = TURNED(run - LOT);
        for (int64_t i = 0; i < run - LOT; i += LOT) store_lot(all, at + i, TURNED(i), weights, (Bits){0}, LOT);
        store_lot(all, at + run - LOT, last, weights, (Bits){0}, LOT);
    }
}

ALONE static void apply(const Job *job, int64_t from, const Coefficients *to, const float *u, int64_t lanes, int64_t run,
                        int64_t next) {
    if (job->weights == F32) second(job, from, to, u, lanes, run, next, F32);
    else second(job, from, to, u, lanes, run, next, BF16);
}

#endif
