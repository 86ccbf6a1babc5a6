/* One step of all parameters: a task goes over its weights twice, and the second time finds them in the cache.
 *
 *   first    m, v  brought up to date,  u = direction (kept in a scratch of one box),  sums of u, w, u^2, w^2, u w
 *   between  mean and radial part of u, length of what is left, new norm: a few numbers a neuron, in double
 *   second   w <- a w + b u + c
 *
 * Where nothing turns and nobody measures, `first` changes the weights too, and nothing is gone over again.
 *
 * The sums give angle and length before and after, so measuring costs no further pass. Where single precision will not
 * do for them, they are formed in double (`sharpen`): no gradient is too small or too large to be squared, and what is
 * left of a nearly radial u is no rounding error.
 *
 * This file is compiled once for each instruction set, with ROTATIONAL_STEP for the name of its function (`entry.c`).
 */
#include <sched.h>
#include <stdatomic.h>

#include "passes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A box: the first time, the numbers of its neurons, the second time --------------------------------------- */

typedef struct {
    const Group *group;
    Job *job;
    Numbers numbers;
    double held;                /* the angle of this step */
    First *look, *keep;
    Memory *mine;
} Work;

/* Powers for the corrections of bias, which most tasks of a step share and which take longer than a small one. */
typedef struct {
    const Group *group;
    double step, turns;         /* so many steps, this one included; no turns for the plain rule */
    double first, second, held; /* what each moment has seen of 1; the angle of this step */
} Powers;

static void raise_to(Powers *to, const Group *g, const Job *job) {
    double step = (double)*job->step + 1, turns = job->turns ? (double)*job->turns + 1 : 0;
    if (to->group == g && to->step == step && to->turns == turns) return;
    double first = g->unbias_first ? 1 - pow(g->decay, step) : 1, second = g->unbias_second ? 1 - pow(g->beta, step) : 1;
    double held = turns > 0 ? g->rotation * sqrt(1 - pow(g->ema, turns)) : 0;
    *to = (Powers){g, step, turns, first, second, held};
}

/* A job in this step. */
static Work work_of(const Group *groups, Job *jobs, int64_t index, Powers *powers, Memory *mine) {
    Work work = {.job = &jobs[index], .mine = mine};
    Job *job = work.job;
    const Group *g = work.group = &groups[job->group];
    raise_to(powers, g, job);
    double first = powers->first, second = powers->second;
    work.held = powers->held;
    work.numbers = (Numbers){
        .sign = (float)g->sign,
        .coupled = (float)g->coupled,
        .fresh = (float)((job->fresh ? g->first_new : g->new_) / first),
        .old = (float)(g->old / first),
        .decay = (float)g->decay,
        .inflow = (float)(job->fresh ? 1 : g->inflow),
        .beta = (float)g->beta,
        .share = (float)g->share,
        .root = (float)(1 / sqrt(second)),
        .eps = (float)g->eps,
        .seed = stirred(((uint32_t)index + 0x85ebca6bu * (uint32_t)powers->step) * GOLDEN),
    };
    First *const *both = FIRSTS[job->weights == BF16][job->moments == F32 ? 0 : g->dither ? 2 : 1][g->scale][job->m != 0];
    work.look = both[0];
    work.keep = both[1];
    return work;
}

/* Where the neuron `lane` begins; blocks of lanes lie apart. */
static int64_t place(const Job *job, int64_t lane) {
    return lane / job->lanes * job->outer_stride + lane % job->lanes * job->run;
}

static void clear(Sums *sums, int64_t lanes) {
    double *parts[5] = {sums->u, sums->w, sums->uu, sums->ww, sums->uw};
    for (int i = 0; i < 5; i++) memset(parts[i], 0, (size_t)lanes * sizeof(double));
}

static void first_of(const Work *work, const Task *box, First *over, int summed, int64_t next) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    float *u = work->mine->u;
    Sums *sums = &work->mine->sums;
    if (summed) clear(sums, box->lanes);
    if (box->segments == 1 && job->run >= SHORT) {
        over(job, &work->numbers, at, box->run_count, box->lanes, u, summed ? sums : 0, 0);
        return;
    }
    int64_t wide = box->lanes * box->run_count, calls = box->segments, count = wide;
    if (wide == job->segment_stride) calls = 1, count = box->segments * wide; /* one stretch of memory */
    for (int64_t s = 0; s < calls; s++)
        over(job, &work->numbers, at + s * job->segment_stride, count, 1, u + s * wide, 0, 0);
    if (summed) sums_of(job, at, work->mine, box->segments, box->lanes, box->run_count, next);
}

/* Sums in single precision do for most neurons. Where they cancel, because u is nearly radial or nearly constant, or
 * where squares are too large or too small for it, they are formed again. */
static void sharpen(const Work *work, const Task *box) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    double share = 1 / (double)(box->segments * box->run_count);
    const Sums *sums = &work->mine->sums;
    int32_t *rough = work->mine->coefficients.nearly, any = 0;
#pragma GCC ivdep
    for (int64_t k = 0; k < box->lanes; k++) {
        double uu = sums->uu[k], ww = sums->ww[k], left = (uu - sums->u[k] * sums->u[k] * share) * ww - sums->uw[k] * sums->uw[k];
        rough[k] = !(left > ROUGH * uu * ww) | !(uu > FAINT) | !(uu < HUGE) | !(ww > FAINT) | !(ww < HUGE);
        any |= rough[k];
    }
    if (!any) return;
    for (int64_t k = 0; k < box->lanes; k++)
        if (rough[k]) sharp(job, at, work->mine, box->segments, box->lanes, box->run_count, k);
}

static void second_of(const Work *work, const Task *box, int64_t next) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    int64_t wide = box->lanes * box->run_count;
    for (int64_t s = 0; s < box->segments; s++)
        apply(job, at + s * job->segment_stride, &work->mine->coefficients, work->mine->u + s * wide, box->lanes,
              box->run_count, next);
}

/* atan2 for y >= 0, to the last digits of double (Cephes' atan), without a branch: a loop over it becomes vectors. */
INLINE double angle(double y, double x) {
    double size = fabs(x), above = y > size ? y : size, t = (y > size ? size : y) / (above == 0 ? 1 : above);
    double near = t > 0.4142135623730950 ? (t - 1) / (t + 1) : t, z = near * near;
    double p = (((-0.8750608600031904 * z - 16.15753718733365) * z - 75.00855792314705) * z - 122.8866684490136) * z;
    double q = ((((z + 24.85846490142306) * z + 165.0270098316988) * z + 432.8810604912903) * z + 485.3903996359137) * z;
    double found = near + near * z * (p - 64.85021904942026) / (q + 194.5506571482614);
    found += t > 0.4142135623730950 ? 0.7853981633974483 : 0;
    found = y > size ? 1.5707963267948966 - found : found;
    return x < 0 ? 3.141592653589793 - found : found;
}

/* What is asked for of each neuron: angle, new norm, length of the change, its radial share. The sums are now lengths
 * before (ww) and forward (u), and the squares of what goes to the side (uu). */
static void measure(const Job *job, const Sums *sums, int64_t lane, int64_t lanes) {
    int64_t all = job->outer * job->lanes;
    float *restrict angles = job->out + lane, *restrict norms = angles + all;
    float *restrict updates = norms + all, *restrict radials = updates + all;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) {
        double length = sums->ww[k], forward = sums->u[k], square = sums->uu[k], change = forward - length;
        double update = sqrt(change * change + square), radial = change / (update == 0 ? 1 : update);
        double turned = angle(sqrt(square), forward);
        angles[k] = (float)(length == 0 ? 0 : turned);
        norms[k] = (float)sqrt(forward * forward + square);
        updates[k] = (float)update;
        radials[k] = (float)(length == 0 ? 0 : radial);
    }
}

/* Turn: keep the length, and go by `rotation` on average along what is left of u without its radial part and mean. */
static void between(const Work *work, int64_t lane, int64_t lanes) {
    const Group *g = work->group;
    const Job *job = work->job;
    /* Locals and no branches: then the compiler makes one loop over vectors of it. */
    double mean_of = g->center ? 1 / (double)(job->segments * job->run) : 0, ema = g->ema, held = work->held;
    /* The share of |u| that rounding leaves: of the arithmetic, and of the precision in which u is stored. */
    double noise = 16 * 0x1p-23 + 2 * 0x1p-23, small = noise * noise;
    float *restrict norms = job->norm + lane, *restrict rmss = job->rms + lane;
    Sums *sums = &work->mine->sums;
    Coefficients *to = &work->mine->coefficients;
    double *restrict su = sums->u, *restrict sw = sums->w, *restrict suu = sums->uu, *restrict sww = sums->ww;
    double *restrict suw = sums->uw, *restrict a = to->a, *restrict b = to->b, *restrict c = to->c;
    int32_t *restrict nearly = to->nearly;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) {
        double ww = sww[k], all = suu[k], mean = su[k] * mean_of;
        double uw = suw[k] - mean * sw[k], uu = all - mean * su[k], per = 1 / (ww > 0 ? ww : 1);
        double along = uw * per, left = uu - along * uw;
        left = left <= small * all ? 0 : left; /* NaN is neither */
        double before = rmss[k], rms = sqrt(ema * before * before + (1 - ema) * left);
        double length = sqrt(ww), noted = norms[k], norm = noted > 0 ? noted : length;
        double moves = left * norm * ww * held; /* 0 where one of them is; NaN moves, to show itself */
        double turn = held / (moves == 0 ? 1 : rms), step = moves == 0 ? 0 : turn * length;
        /* norm/sqrt(ww + step^2 left). Roots and divisions in double are what takes long here: 1/sqrt is one in single
         * precision, and a step of Newton's. */
        double more = 1 + turn * turn * left, less = 1 / sqrtf((float)more);
        double stretch = norm * length * per * less * (1.5 - 0.5 * more * less * less);
        stretch = moves == 0 ? 1 : stretch;
        a[k] = stretch * (1 + step * along);
        b[k] = -stretch * step;
        c[k] = stretch * step * mean;
        nearly[k] = left < NEARLY * NEARLY * all ? 1 : 0;
        norms[k] = (float)norm;
        rmss[k] = (float)rms;
        /* From here on: lengths before and forward, and the square of what goes to the side. */
        sww[k] = length;
        su[k] = stretch * length;
        suu[k] = stretch * stretch * step * step * left;
    }
    if (job->out) measure(job, sums, lane, lanes);
}

/* The plain rule; its neurons are known only where they are measured. */
static void between_plain(const Work *work, int64_t lane, int64_t lanes) {
    const Group *g = work->group;
    Sums *sums = &work->mine->sums;
    Coefficients *to = &work->mine->coefficients;
    double kept = g->kept, lr = g->lr;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) {
        to->a[k] = kept;
        to->b[k] = -lr;
        to->c[k] = 0;
        to->nearly[k] = 0;
        double ww = sums->ww[k], along = ww > 0 ? sums->uw[k] / (ww > 0 ? ww : 1) : 0, length = sqrt(ww);
        double left = sums->uu[k] - along * sums->uw[k];
        sums->ww[k] = length;
        sums->u[k] = (kept - lr * along) * length;
        sums->uu[k] = lr * lr * (left < 0 ? 0 : left);
    }
    if (work->job->out) measure(work->job, sums, lane, lanes);
}

static void numbers_of(const Work *work, int64_t lane, int64_t lanes) {
    if (work->job->norm) between(work, lane, lanes);
    else between_plain(work, lane, lanes);
}

/* Tasks ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const Group *groups;
    Job *jobs;
    const Task *tasks;
    Unit *units;
    double *numbers;
    const int64_t *bounds;      /* where the tasks of each thread begin in each stage, [stages, threads + 1] */
    int64_t stages, apart;
    atomic_ullong *cursors;     /* [threads, apart]: those of the next thread are in another line of the cache */
    int threads;
} Step;

static void tile(const Work *work, const Task *task) {
    const Job *job = work->job;
    int beside = job->segments == 1, tiny = beside && job->run < TINY;
    /* Of tiny rows two boxes are in the cache, the next one on its way. */
    int64_t fit = (tiny ? SCRATCH / 2 : SCRATCH) / (job->segments * job->run), most = fit < LANES ? fit : LANES;
    if (most > LOT) most -= most % LOT; /* rows are added up in lots, whatever the box */
    Task box = *task;
    for (int64_t end = task->lane + task->lanes; box.lane < end; box.lane += box.lanes) {
        box.lanes = end - box.lane < most ? end - box.lane : most;
        int64_t next = beside && box.lane + box.lanes < end ? place(job, box.lane + box.lanes) : 0;
        first_of(work, &box, work->keep, 1, tiny ? next : 0);
        sharpen(work, &box);
        numbers_of(work, box.lane, box.lanes);
        second_of(work, &box, next);
    }
}

static void flat(const Work *work, const Task *task) {
    const Group *g = work->group;
    const Plain plain = {(float)g->kept, (float)g->lr};
    work->keep(work->job, &work->numbers, task->run_from, task->run_count, 1, 0, 0, &plain);
}

/* Sums of a part; the last part to come adds them all up, in their order, and works out how to go on. */
static void sum(Step *step, const Work *work, const Task *task) {
    Unit *unit = &step->units[task->unit];
    Sums *sums = &work->mine->sums;
    Coefficients *to = &work->mine->coefficients;
    double *table = step->numbers + unit->numbers, *parts[5] = {sums->u, sums->w, sums->uu, sums->ww, sums->uw};
    int64_t lanes = task->lanes;
    first_of(work, task, work->look, 1, 0);
    sharpen(work, task);
    for (int i = 0; i < 5; i++)
        memcpy(table + (task->part * 5 + i) * lanes, parts[i], (size_t)lanes * sizeof(double));
    atomic_int *done = (atomic_int *)&unit->done;
    if (atomic_fetch_add(done, 1) + 1 < unit->parts) return;
    clear(sums, lanes);
    for (int64_t part = 0; part < unit->parts; part++)
        for (int i = 0; i < 5; i++)
            for (int64_t k = 0; k < lanes; k++) parts[i][k] += table[(part * 5 + i) * lanes + k];
    numbers_of(work, task->lane, lanes);
    double *all = table + unit->parts * 5 * lanes;
    for (int64_t k = 0; k < lanes; k++) {
        all[k] = to->a[k];
        all[lanes + k] = to->b[k];
        all[2 * lanes + k] = to->c[k];
        all[3 * lanes + k] = to->nearly[k];
    }
    atomic_store_explicit((atomic_int *)&unit->ready, 1, memory_order_release);
}

static void apply_part(Step *step, const Work *work, const Task *task) {
    Unit *unit = &step->units[task->unit];
    Coefficients *to = &work->mine->coefficients;
    int64_t lanes = task->lanes;
    /* Nobody comes here before all sums are taken, so whoever still sums has begun. */
    while (!atomic_load_explicit((atomic_int *)&unit->ready, memory_order_acquire)) sched_yield();
    const double *from = step->numbers + unit->numbers + unit->parts * 5 * lanes;
    for (int64_t k = 0; k < lanes; k++) {
        to->a[k] = from[k];
        to->b[k] = from[lanes + k];
        to->c[k] = from[2 * lanes + k];
        to->nearly[k] = from[3 * lanes + k] != 0;
    }
    first_of(work, task, work->keep, 0, 0);
    second_of(work, task, 0);
}

/* Numbers below 1e-38 cost a hundred times as much as others, and are worth nothing here. */
static unsigned quick(void) {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

static void as_before(unsigned state) {
#if defined(__x86_64__)
    _mm_setcsr(state);
#else
    (void)state;
#endif
}

/* Tasks ------------------------------------------------------------------------------------------------------
 *
 * Stage by stage each thread takes the tasks that are its own, the same ones in every step: what it wrote then may still
 * be in its caches, and fetching it from another's takes longer than from memory. Then it helps the others, from the
 * other end. A cursor holds the first task that is left and, 32 bits up, the one after the last.
 */
static int64_t take(atomic_ullong *cursor, int last) {
    unsigned long long now = atomic_load_explicit(cursor, memory_order_relaxed);
    for (;;) {
        uint32_t from = (uint32_t)now, to = (uint32_t)(now >> 32);
        if (from >= to) return -1;
        if (atomic_compare_exchange_weak(cursor, &now, last ? now - (1ull << 32) : now + 1)) return last ? to - 1 : from;
    }
}

static int64_t next_of(const Step *step, int64_t stage, int me, int backwards) {
    int64_t task = take(step->cursors + me * step->apart + stage, backwards);
    for (int k = 1; task < 0 && k < step->threads; k++)
        task = take(step->cursors + (me + k) % step->threads * step->apart + stage, !backwards);
    return task;
}

static void body(void *argument) {
    static __thread Memory memory;
    Memory *mine = &memory;
    /* Unless the compiler forgets where this came from, it asks for its address again in every loop. */
    __asm__("" : "+r"(mine));
    Step *step = argument;
    unsigned before = quick();
    Powers powers = {0};
    int me = rotational_thread() % step->threads;
    for (int64_t stage = 0, i; stage < step->stages; stage++) {
        /* What was summed last is in the cache. */
        int backwards = step->tasks[step->bounds[stage * (step->threads + 1)]].kind == APPLY;
        while ((i = next_of(step, stage, me, backwards)) >= 0) {
            const Task *task = &step->tasks[i];
            if (!step->jobs[task->job].g) continue;
            Work work = work_of(step->groups, step->jobs, task->job, &powers, mine);
            switch (task->kind) {
                case TILE: tile(&work, task); break;
                case SUM: sum(step, &work, task); break;
                case APPLY: apply_part(step, &work, task); break;
                default: flat(&work, task);
            }
        }
    }
    as_before(before);
}

void ROTATIONAL_STEP(const Group *groups, Job *jobs, int64_t job_count, const Task *tasks, Unit *units,
                     int64_t unit_count, double *numbers, const int64_t *bounds, int64_t stages, void *cursors,
                     int64_t apart, int threads) {
    Step step = {groups, jobs, tasks, units, numbers, bounds, stages, apart, cursors, threads};
    for (int64_t i = 0; i < unit_count; i++) units[i].done = units[i].ready = 0;
    for (int64_t stage = 0; stage < stages; stage++, bounds += threads + 1)
        for (int t = 0; t < threads; t++)
            atomic_init(step.cursors + t * apart + stage, (unsigned long long)bounds[t + 1] << 32 | (uint32_t)bounds[t]);
    rotational_parallel(body, &step, threads);
    for (int64_t i = 0; i < job_count; i++) {
        if (!jobs[i].g) continue;
        *jobs[i].step += 1;
        if (jobs[i].turns) *jobs[i].turns += 1;
        jobs[i].fresh = 0;
    }
}
