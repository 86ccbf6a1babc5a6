/* Rows of a few weights, abreast: one in each place of a vector. Turned into columns they are added up without sums across
 * a vector, what follows from their sums is single precision, and they change as the one stretch of memory that they are.
 * Rows whose sums single precision will not do for are left as they are, for the way that all others go.
 */
#ifndef ROTATIONAL_ABREAST_H
#define ROTATIONAL_ABREAST_H

#include "between.h"

/* Four weights of each of WIDE / 4 rows that lie so far apart. */
INLINE Wide pile(const void *x, int64_t at, int64_t apart, int kind) {
#define FOUR(k) load_quad(x, at + (k) * apart, kind, 4)
#if defined(__AVX512F__)
    __m512 all = _mm512_castps128_ps512((__m128)FOUR(0));
    all = _mm512_insertf32x4(all, (__m128)FOUR(1), 1);
    all = _mm512_insertf32x4(all, (__m128)FOUR(2), 2);
    return (Wide)_mm512_insertf32x4(all, (__m128)FOUR(3), 3);
#elif defined(__AVX__)
    return (Wide)_mm256_insertf128_ps(_mm256_castps128_ps256((__m128)FOUR(0)), (__m128)FOUR(1), 1);
#else
    return FOUR(0);
#endif
}

/* Within each four: halves of a and b in turns, by single weights and by pairs. */
#if WIDE == 16
#define LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define LOW_PAIRS 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH_PAIRS 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#elif WIDE == 8
#define LOW 0, 8, 1, 9, 4, 12, 5, 13
#define HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define LOW_PAIRS 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH_PAIRS 2, 3, 10, 11, 6, 7, 14, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define LOW_PAIRS 0, 1, 4, 5
#define HIGH_PAIRS 2, 3, 6, 7
#endif

typedef struct {
    Wide of[4];
} Columns;

/* Four columns of WIDE rows. */
INLINE Columns turned(const void *x, int64_t at, int64_t run, int kind) {
    Wide a = pile(x, at, 4 * run, kind), b = pile(x, at + run, 4 * run, kind);
    Wide c = pile(x, at + 2 * run, 4 * run, kind), d = pile(x, at + 3 * run, 4 * run, kind);
    Wide ab = PICK(a, b, LOW), cd = PICK(c, d, LOW);
    Wide more_ab = PICK(a, b, HIGH), more_cd = PICK(c, d, HIGH);
    return (Columns){{PICK(ab, cd, LOW_PAIRS), PICK(ab, cd, HIGH_PAIRS),
                      PICK(more_ab, more_cd, LOW_PAIRS), PICK(more_ab, more_cd, HIGH_PAIRS)}};
}

/* x[from[i]] for all i. */
INLINE Wide spread(Wide x, Marks from) {
#if defined(__AVX512F__)
    return (Wide)_mm512_permutexvar_ps((__m512i)from, (__m512)x);
#elif defined(__AVX2__)
    return (Wide)_mm256_permutevar8x32_ps((__m256)x, (__m256i)from);
#else
    Wide found;
    for (int i = 0; i < WIDE; i++) found[i] = x[from[i]];
    return found;
#endif
}

/* Sums of WIDE rows. Of the last four columns some may have been counted before. */
INLINE Five sums_of_columns(const void *all, int64_t at, const float *x, int64_t run, int weights) {
    Five sum = {{0}};
#define COUNT(j)                                                                                                      \
    sum.u += u.of[j], sum.w += w.of[j];                                                                               \
    sum.uu += u.of[j] * u.of[j], sum.ww += w.of[j] * w.of[j], sum.uw += u.of[j] * w.of[j]
    int64_t i = 0, rest = run % 4;
    for (; i + 4 <= run; i += 4) {
        Columns u = turned(x, i, run, F32), w = turned(all, at + i, run, weights);
        COUNT(0);
        COUNT(1);
        COUNT(2);
        COUNT(3);
    }
    if (rest) {
        Columns u = turned(x, run - 4, run, F32), w = turned(all, at + run - 4, run, weights);
        if (rest > 2) { COUNT(1); }
        if (rest > 1) { COUNT(2); }
        COUNT(3);
    }
    return sum;
}

INLINE void sums_of_all(const Job *job, int64_t from, const float *u, int64_t lanes, int64_t run, Abreast *to, int weights) {
    int64_t size = weights == F32 ? 4 : 2;
    char apart[4 * WIDE * SLIM];
    float apart_u[WIDE * SLIM];
    for (int64_t k = 0; k < lanes; k += WIDE) {
        const void *all = job->w;
        const float *x = u + k * run;
        int64_t at = from + k * run, missing = (k + WIDE - lanes) * run, there = WIDE * run - missing;
        if (missing > 0) { /* rows that are not there are zeros */
            memcpy(apart, (const char *)all + at * size, (size_t)(there * size));
            memset(apart + there * size, 0, (size_t)(missing * size));
            memcpy(apart_u, x, (size_t)there * sizeof(float));
            memset(apart_u + there, 0, (size_t)missing * sizeof(float));
            all = apart, at = 0, x = apart_u;
        }
        Five sum = sums_of_columns(all, at, x, run, weights);
        memcpy(to->u + k, &sum.u, sizeof sum.u), memcpy(to->w + k, &sum.w, sizeof sum.w);
        memcpy(to->uu + k, &sum.uu, sizeof sum.uu), memcpy(to->ww + k, &sum.ww, sizeof sum.ww);
        memcpy(to->uw + k, &sum.uw, sizeof sum.uw);
    }
}

ALONE static void sums_abreast(const Job *job, int64_t from, const float *u, int64_t lanes, Abreast *to) {
    if (job->weights == F32) sums_of_all(job, from, u, lanes, job->run, to, F32);
    else sums_of_all(job, from, u, lanes, job->run, to, BF16);
}

/* As `between`, in single precision, from which differences are as good as the sums themselves. Returns whether there are
 * rows that it will not do for (`cancel`); these stay as they are. */
ALONE static int between_abreast(const Work *work, int64_t lane, int64_t lanes, Abreast *at) {
    const Group *g = work->group;
    const Job *job = work->job;
    float mean_of = g->center ? (float)(1 / (double)job->run) : 0, ema = (float)g->ema, inflow = (float)(1 - g->ema);
    float held = (float)work->held;
    float *restrict norms = job->norm + lane, *restrict rmss = job->rms + lane;
    float *restrict su = at->u, *restrict sw = at->w, *restrict suu = at->uu, *restrict sww = at->ww, *restrict suw = at->uw;
    float *restrict a = at->a, *restrict b = at->b, *restrict c = at->c;
    int32_t *restrict roughs = at->rough, any = 0, still = held == 0;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) {
        float ww = sww[k], all = suu[k], mean = su[k] * mean_of, before = rmss[k], noted = norms[k];
        float uw = suw[k] - mean * sw[k], uu = all - mean * su[k], along = uw / ww, left = uu - along * uw;
        int32_t rough = !(left > (float)ROUGH * all) | !(all > (float)FAINT) | !(all < (float)HUGE);
        rough |= !(ww > (float)FAINT) | !(ww < (float)HUGE) | !(before < 1e18f);
        float rms = sqrtf(ema * before * before + inflow * left), length = sqrtf(ww), norm = noted > 0 ? noted : length;
        float turn = held / rms, step = turn * length, stretch = norm / sqrtf(ww * (1 + turn * turn * left));
        stretch = still ? 1 : stretch;
        a[k] = rough ? 1 : stretch + stretch * step * along;
        b[k] = rough ? 0 : -stretch * step;
        c[k] = rough ? 0 : stretch * step * mean;
        norms[k] = rough ? noted : norm;
        rmss[k] = rough ? before : rms;
        roughs[k] = rough, any |= rough;
        /* From here on: how much the rest turns, and its square. */
        su[k] = turn, suu[k] = left;
    }
    if (!job->out) return any;
    Sums *sums = &work->mine->sums;
    double *restrict lengths = sums->ww, *restrict forwards = sums->u, *restrict squares = sums->uu;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) { /* for `measure` in double: differences of lengths are what is asked for */
        double turn = su[k], aside = turn * turn * suu[k], length = sqrt((double)sww[k]);
        double forward = still ? length : norms[k] / sqrt(1 + aside);
        lengths[k] = length;
        forwards[k] = forward;
        squares[k] = forward * forward * aside;
    }
    measure(job, sums, lane, lanes);
    return any;
}

/* The change of weights `i` to `i + count` of rows that begin at `from`, where `a`, `b`, `c` and `rough` are theirs. */
INLINE void change(const Job *job, int64_t from, const float *u, int64_t i, int64_t count, Wide a, Wide b, Wide c,
                   Wide rough, const uint32_t *rows, int any, int weights) {
    Marks row;
    memcpy(&row, rows + i, sizeof row);
    Wide w = load_wide(job->w, from + i, weights, count), x = load_wide(u, i, F32, count);
    Wide now = sum_of(spread(a, row), w, sum_of(spread(b, row), x, spread(c, row)));
    if (any) { /* not by factors of 1 and 0: NaN times 0 is NaN */
        Marks same = (Marks)((Marks)spread(rough, row) != 0);
        now = (Wide)(((Marks)w & same) | ((Marks)now & ~same));
    }
    store_wide(job->w, from + i, now, weights, (Marks){0}, count);
}

/* The change of all rows but those that are rough, by vectors in which several rows lie. */
INLINE void change_of_all(const Job *job, int64_t from, const float *u, int64_t lanes, int64_t run, const Abreast *to,
                          int any, int weights) {
    for (int64_t k = 0; k < lanes; k += WIDE, from += WIDE * run, u += WIDE * run) {
        int64_t all = (lanes - k < WIDE ? lanes - k : WIDE) * run, i = 0;
        Wide a, b, c, rough;
        memcpy(&a, to->a + k, sizeof a), memcpy(&b, to->b + k, sizeof b), memcpy(&c, to->c + k, sizeof c);
        memcpy(&rough, to->rough + k, sizeof rough);
        for (; i + WIDE <= all; i += WIDE) change(job, from, u, i, WIDE, a, b, c, rough, to->rows, any, weights);
        if (i < all) change(job, from, u, i, all - i, a, b, c, rough, to->rows, any, weights);
    }
}

ALONE static void change_abreast(const Job *job, int64_t from, const float *u, int64_t lanes, const Abreast *to, int any) {
    int f32 = job->weights == F32;
    if (f32 && any) change_of_all(job, from, u, lanes, job->run, to, 1, F32);
    else if (f32) change_of_all(job, from, u, lanes, job->run, to, 0, F32);
    else if (any) change_of_all(job, from, u, lanes, job->run, to, 1, BF16);
    else change_of_all(job, from, u, lanes, job->run, to, 0, BF16);
}

/* Row `k` of a box, in double. */
static void change_rough(const Work *work, const Task *box, int64_t from, int64_t k) {
    Memory *mine = work->mine;
    Sums *sums = &mine->sums;
    clear(sums, k, k + 1);
    sharp(work->job, from, mine->u, sums, 1, box->lanes, box->run_count, k);
    double *parts[5] = {sums->u, sums->w, sums->uu, sums->ww, sums->uw};
    for (int i = 0; i < 5; i++) parts[i][0] = parts[i][k];
    between(work, box->lane + k, 1);
    from += k * box->run_count;
    apply(work->job, from, &mine->coefficients, mine->u + k * box->run_count, 1, box->run_count, 0);
}

/* Neurons of a task, so few at a time that the next ones are asked for meanwhile. */
static void abreast(const Work *work, const Task *task) {
    const Job *job = work->job;
    Memory *mine = work->mine;
    Abreast *to = &mine->abreast;
    int64_t run = job->run, most = STRETCH / (WIDE * run), end = task->lane + task->lanes;
    most = most > 1 ? most * WIDE : WIDE;
    if (to->run != run)
        for (int64_t i = 0; i < WIDE * run; i++) to->rows[i] = (uint32_t)(i / run);
    to->run = run;
    Task box = *task;
    for (; box.lane < end; box.lane += box.lanes) {
        box.lanes = end - box.lane < most ? end - box.lane : most;
        int64_t from = place(job, box.lane);
        work->keep(job, &work->numbers, from, box.lanes * run, 1, mine->u, 0, 0);
        sums_abreast(job, from, mine->u, box.lanes, to);
        int any = between_abreast(work, box.lane, box.lanes, to);
        change_abreast(job, from, mine->u, box.lanes, to, any);
        for (int64_t k = 0; any && k < box.lanes; k++)
            if (to->rough[k]) change_rough(work, &box, from, k);
    }
}

#endif
