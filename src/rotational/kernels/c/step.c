/* One step of all parameters: every task goes over its weights twice, and the second time finds them in the cache.
 *
 *   first    m, v  brought up to date,  u = direction (kept in a scratch of one box),  sums of u, w, u^2, w^2, u w
 *   between  mean and radial part of u, length of what is left, new norm: a few numbers a neuron, in double
 *   second   w <- a w + b u + c
 *
 * The sums give angle and length before and after, so measuring costs no further pass. They are in double: no gradient
 * is then too small or too large to be squared, and what is left of a nearly radial u is no rounding error.
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
    double turns;
    First *look, *keep;
} Work;

/* Both moments of a job after `step` steps, this one included. */
static Work work_of(const Group *groups, Job *jobs, int64_t index) {
    Work work = {.job = &jobs[index]};
    Job *job = work.job;
    const Group *g = work.group = &groups[job->group];
    double t = (double)*job->step + 1;
    double first = g->unbias_first ? 1 - pow(g->decay, t) : 1, second = g->unbias_second ? 1 - pow(g->beta, t) : 1;
    work.turns = job->turns ? (double)*job->turns + 1 : 0;
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
        .seed = noise_of((uint32_t)index, (uint32_t)g->seed + 0x85ebca6bu * (uint32_t)t),
        .dither = (uint32_t)g->dither,
    };
    First *const *both = FIRSTS[job->weights == BF16][job->moments == BF16][g->scale][job->m != 0];
    work.look = both[0];
    work.keep = both[1];
    return work;
}

/* Where the neuron `lane` begins; blocks of lanes lie apart. */
static int64_t place(const Job *job, int64_t lane) {
    return lane / job->lanes * job->outer_stride + lane % job->lanes * job->run;
}

static void clear(int64_t lanes) {
    double *parts[5] = {sums.u, sums.w, sums.uu, sums.ww, sums.uw};
    for (int i = 0; i < 5; i++) memset(parts[i], 0, (size_t)lanes * sizeof(double));
}

static void first_of(const Work *work, const Task *box, First *over, int summed) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    if (summed) clear(box->lanes);
    if (box->segments == 1 && (box->lanes == 1 || job->run >= SHORT)) {
        for (int64_t k = 0; k < box->lanes; k++)
            over(job, &work->numbers, at + k * job->run, box->run_count, scratch + k * job->run, summed ? (int)k : -1);
        return;
    }
    int64_t wide = box->lanes * box->run_count;
    for (int64_t s = 0; s < box->segments; s++) {
        over(job, &work->numbers, at + s * job->segment_stride, wide, scratch + s * wide, -1);
        if (summed) sums_of(job, at + s * job->segment_stride, scratch + s * wide, box->lanes, box->run_count);
    }
}

static void second_of(const Work *work, const Task *box) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    int64_t wide = box->lanes * box->run_count;
    for (int64_t s = 0; s < box->segments; s++)
        apply(job, at + s * job->segment_stride, scratch + s * wide, box->lanes, box->run_count);
}

/* What is asked for of each neuron: angle, new norm, length of the change, its radial share. */
static void measure(const Job *job, int64_t lane, double length, double forward, double side) {
    int64_t all = job->outer * job->lanes;
    double update = hypot(forward - length, side);
    job->out[lane] = (float)(length == 0 ? 0 : atan2(side, forward));
    job->out[all + lane] = (float)hypot(forward, side);
    job->out[2 * all + lane] = (float)update;
    job->out[3 * all + lane] = (float)(length == 0 || update == 0 ? 0 : (forward - length) / update);
}

/* Turn: keep the length, and go by `rotation` on average along what is left of u without its radial part and mean. */
CLONES static void between(const Work *work, int64_t lane, int64_t lanes) {
    const Group *g = work->group;
    const Job *job = work->job;
    double size = (double)(job->segments * job->run), mean_of = g->center ? 1 / size : 0;
    double unbias = sqrt(1 - pow(g->ema, work->turns));
    /* The share of |u| that rounding leaves: of the arithmetic, and of the precision in which u is stored. */
    double noise = 16 * 0x1p-23 + 2 * 0x1p-23, small = noise * noise;
    float *norms = job->norm + lane, *rmss = job->rms + lane;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) {
        double ww = sums.ww[k], mean = sums.u[k] * mean_of;
        double uw = sums.uw[k] - mean * sums.w[k], uu = sums.uu[k] - mean * sums.u[k];
        double along = ww > 0 ? uw / ww : 0, left = uu - along * uw;
        left = left <= small * sums.uu[k] ? 0 : left; /* NaN is neither */
        double rms = sqrt(g->ema * rmss[k] * rmss[k] + (1 - g->ema) * left);
        double length = sqrt(ww), norm = norms[k] > 0 ? norms[k] : length;
        int still = left == 0 || norm == 0 || ww == 0 || g->rotation == 0;
        double step = g->rotation * unbias / (still ? 1 : rms) * length, stretch = norm / sqrt(ww + step * step * left);
        coefficients.a[k] = still ? 1 : stretch * (1 + step * along);
        coefficients.b[k] = still ? 0 : -stretch * step;
        coefficients.c[k] = still ? 0 : stretch * step * mean;
        coefficients.nearly[k] = left < NEARLY * NEARLY * sums.uu[k];
        norms[k] = (float)norm;
        rmss[k] = (float)rms;
        sums.u[k] = still ? length : stretch * length; /* from here on: how far forward and to the side it goes */
        sums.w[k] = still ? 0 : stretch * step * sqrt(left);
        sums.ww[k] = length;
    }
    if (job->out)
        for (int64_t k = 0; k < lanes; k++) measure(job, lane + k, sums.ww[k], sums.u[k], sums.w[k]);
}

/* The plain rule; its neurons are known only where they are measured. */
static void between_plain(const Work *work, int64_t lane, int64_t lanes) {
    const Group *g = work->group;
    for (int64_t k = 0; k < lanes; k++) {
        coefficients.a[k] = g->kept;
        coefficients.b[k] = -g->lr;
        coefficients.c[k] = 0;
        coefficients.nearly[k] = 0;
        if (work->job->out) {
            double ww = sums.ww[k], along = ww > 0 ? sums.uw[k] / ww : 0, left = sums.uu[k] - along * sums.uw[k];
            double length = sqrt(ww), side = g->lr * sqrt(left < 0 ? 0 : left);
            if (ww == 0) side = g->lr * sqrt(sums.uu[k]);
            measure(work->job, lane + k, length, (g->kept - g->lr * along) * length, side);
        }
    }
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
    int64_t count;
    atomic_llong next;
} Step;

static void tile(const Work *work, const Task *task) {
    const Job *job = work->job;
    int64_t size = job->segments * job->run, fit = (size < BLOCK ? BLOCK : SCRATCH) / size, most = fit < LANES ? fit : LANES;
    Task box = *task;
    for (int64_t end = task->lane + task->lanes; box.lane < end; box.lane += box.lanes) {
        box.lanes = end - box.lane < most ? end - box.lane : most;
        first_of(work, &box, work->keep, 1);
        numbers_of(work, box.lane, box.lanes);
        second_of(work, &box);
    }
}

static void flat(const Work *work, const Task *task) {
    between_plain(work, 0, 1);
    for (int64_t at = task->run_from, end = at + task->run_count; at < end; at += BLOCK) {
        int64_t count = end - at < BLOCK ? end - at : BLOCK;
        work->keep(work->job, &work->numbers, at, count, scratch, -1);
        apply(work->job, at, scratch, 1, count);
    }
}

/* Sums of a part; the last part to come adds them all up, in their order, and works out how to go on. */
static void sum(Step *step, const Work *work, const Task *task) {
    Unit *unit = &step->units[task->unit];
    double *table = step->numbers + unit->numbers, *parts[5] = {sums.u, sums.w, sums.uu, sums.ww, sums.uw};
    int64_t lanes = task->lanes;
    first_of(work, task, work->look, 1);
    for (int i = 0; i < 5; i++)
        memcpy(table + (task->part * 5 + i) * lanes, parts[i], (size_t)lanes * sizeof(double));
    atomic_int *done = (atomic_int *)&unit->done;
    if (atomic_fetch_add(done, 1) + 1 < unit->parts) return;
    clear(lanes);
    for (int64_t part = 0; part < unit->parts; part++)
        for (int i = 0; i < 5; i++)
            for (int64_t k = 0; k < lanes; k++) parts[i][k] += table[(part * 5 + i) * lanes + k];
    numbers_of(work, task->lane, lanes);
    double *to = table + unit->parts * 5 * lanes;
    for (int64_t k = 0; k < lanes; k++) {
        to[k] = coefficients.a[k];
        to[lanes + k] = coefficients.b[k];
        to[2 * lanes + k] = coefficients.c[k];
        to[3 * lanes + k] = coefficients.nearly[k];
    }
    atomic_store_explicit((atomic_int *)&unit->ready, 1, memory_order_release);
}

static void apply_part(Step *step, const Work *work, const Task *task) {
    Unit *unit = &step->units[task->unit];
    int64_t lanes = task->lanes;
    /* Tasks are taken in their order, so whoever still sums has begun. */
    while (!atomic_load_explicit((atomic_int *)&unit->ready, memory_order_acquire)) sched_yield();
    const double *from = step->numbers + unit->numbers + unit->parts * 5 * lanes;
    for (int64_t k = 0; k < lanes; k++) {
        coefficients.a[k] = from[k];
        coefficients.b[k] = from[lanes + k];
        coefficients.c[k] = from[2 * lanes + k];
        coefficients.nearly[k] = from[3 * lanes + k] != 0;
    }
    first_of(work, task, work->keep, 0);
    second_of(work, task);
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

static void body(void *argument) {
    Step *step = argument;
    unsigned before = quick();
    for (;;) {
        int64_t i = atomic_fetch_add(&step->next, 1);
        if (i >= step->count) break;
        const Task *task = &step->tasks[i];
        if (!step->jobs[task->job].g) continue;
        Work work = work_of(step->groups, step->jobs, task->job);
        switch (task->kind) {
            case TILE: tile(&work, task); break;
            case SUM: sum(step, &work, task); break;
            case APPLY: apply_part(step, &work, task); break;
            default: flat(&work, task);
        }
    }
    as_before(before);
}

int rotational_abi(void) { return ROTATIONAL_ABI; }

/* Take one step. `numbers` is what units write to; nothing is allocated. */
void rotational_step(const Group *groups, Job *jobs, int64_t job_count, const Task *tasks, int64_t task_count,
                     Unit *units, int64_t unit_count, double *numbers, int threads) {
    Step step = {groups, jobs, tasks, units, numbers, task_count, 0};
    for (int64_t i = 0; i < unit_count; i++) units[i].done = units[i].ready = 0;
    rotational_parallel(body, &step, threads);
    for (int64_t i = 0; i < job_count; i++) {
        if (!jobs[i].g) continue;
        *jobs[i].step += 1;
        if (jobs[i].turns) *jobs[i].turns += 1;
        jobs[i].fresh = 0;
    }
}
