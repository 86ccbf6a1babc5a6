/* One step of all parameters: a task goes over its weights twice, and the second time finds them in the cache.
 *
 *   first    m, v  brought up to date,  u = direction (kept in a scratch of one box),  sums of u, w, u^2, w^2, u w
 *   between  mean and radial part of u, length of what is left, new norm: a few numbers a neuron, in double
 *   second   w <- a w + b u + c
 *
 * Where nothing turns and nobody measures, `first` changes the weights too, and nothing is gone over again. A neuron that
 * no scratch holds is gone over twice from memory: for its sums, and for its change. Of as much of it as tables hold
 * (`kept`) u waits for the second time; of the rest Adam's direction follows from new moments in single precision: they
 * are written the first time, and the gradient is not read again.
 *
 * The sums give angle and length before and after, so measuring costs no further pass. Where single precision will not
 * do for them, they are formed in double (`sharpen`): no gradient is too small or too large to be squared, and what is
 * left of a nearly radial u is no rounding error.
 *
 * This file is compiled once for each instruction set, with ROTATIONAL_STEP for the name of its function (`entry.c`).
 */
#include <sched.h>
#include <stdatomic.h>

#include "abreast.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Tasks ----------------------------------------------------------------------------------------------------- */

/* Neurons that no scratch holds, but that nobody shares. */
static void tile_along(const Work *work, const Task *task) {
    Task one = *task;
    one.lanes = 1;
    for (; one.lane < task->lane + task->lanes; one.lane++) {
        sums_along(work, &one);
        numbers_of(work, one.lane, 1);
        change_along(work, &one);
    }
}

static void tile(const Work *work, const Task *task) {
    const Job *job = work->job;
    int64_t run = job->run;
    if (job->segments == 1 && run > SCRATCH) {
        tile_along(work, task);
        return;
    }
    if (job->segments == 1 && job->lanes >= WIDE && run >= TINY && run < SLIM && job->norm) {
        abreast(work, task);
        return;
    }
    int64_t fit = SCRATCH / (job->segments * run), most = fit < LANES ? fit : LANES;
    if (most > LOT) most -= most % LOT; /* rows are added up in lots, whatever the box */
    Task box = *task;
    for (int64_t end = task->lane + task->lanes; box.lane < end; box.lane += box.lanes) {
        box.lanes = end - box.lane < most ? end - box.lane : most;
        int ahead = job->segments == 1 && box.lane + box.lanes < end;
        first_of(work, &box, work->keep, 1);
        sharpen(work, &box);
        numbers_of(work, box.lane, box.lanes);
        second_of(work, &box, ahead ? place(job, box.lane + box.lanes) : 0);
    }
}

static void flat(const Work *work, const Task *task) {
    const Group *g = work->group;
    const Known known = {(float)g->kept, (float)-g->lr, 0};
    work->keep(work->job, &work->numbers, task->run_from, task->run_count, 1, 0, 0, &known);
}

/* Sums of a part; the last part to come adds them all up, in their order, and works out how to go on. */
static void sum(const Step *step, const Work *work, const Task *task, int64_t *free) {
    Unit *unit = &step->units[task->unit];
    Sums *sums = &work->mine->sums;
    Coefficients *to = &work->mine->coefficients;
    double *table = step->numbers + unit->numbers, *parts[5] = {sums->u, sums->w, sums->uu, sums->ww, sums->uw};
    int64_t lanes = task->lanes;
    /* Whoever still changes them has begun, as below. */
    for (; work->kept && *free < task->after; ++*free) {
        Unit *other = &step->units[*free];
        while (atomic_load_explicit((atomic_int *)&other->changed, memory_order_acquire) < other->parts) sched_yield();
    }
    if (work->job->segments == 1 && !work->kept) {
        sums_along(work, task);
    } else {
        first_of(work, task, work->kept ? work->keep : work->look, 1);
        sharpen(work, task);
    }
    for (int i = 0; i < 5; i++)
        memcpy(table + (task->part * 5 + i) * lanes, parts[i], (size_t)lanes * sizeof(double));
    atomic_int *done = (atomic_int *)&unit->done;
    if (atomic_fetch_add(done, 1) + 1 < unit->parts) return;
    clear(sums, 0, lanes);
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

static void apply_part(const Step *step, const Work *work, const Task *task) {
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
    if (work->job->segments == 1 && !work->kept) {
        change_along(work, task);
        return;
    }
    if (!work->kept) first_of(work, task, work->keep, 0);
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

/* Threads ----------------------------------------------------------------------------------------------------
 *
 * Stage by stage each thread takes the tasks that are its own, the same ones in every step: what it wrote then may still
 * be in its caches, and fetching it from another's takes longer than from memory. Then it helps the others, from the
 * other end. A cursor holds the first task that is left and, 32 bits up, the one after the last.
 */
static int64_t take(_Atomic uint64_t *cursor, int last) {
    uint64_t now = atomic_load_explicit(cursor, memory_order_relaxed);
    for (;;) {
        uint32_t from = (uint32_t)now, to = (uint32_t)(now >> 32);
        if (from >= to) return -1;
        if (atomic_compare_exchange_weak(cursor, &now, last ? now - ((uint64_t)1 << 32) : now + 1)) return last ? to - 1 : from;
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
    const Step *step = argument;
    unsigned before = quick();
    Powers powers = {0};
    int64_t free = 0; /* units before this one are changed, as far as this thread has asked */
    int me = rotational_thread() % (int)step->threads;
    for (int64_t stage = 0, i; stage < step->stages; stage++) {
        /* What was summed last is in the cache. */
        int backwards = step->tasks[step->bounds[stage * (step->threads + 1)]].kind == APPLY;
        while ((i = next_of(step, stage, me, backwards)) >= 0) {
            const Task *task = &step->tasks[i];
            if (step->jobs[task->job].g) {
                Work work = work_of(step, task, &powers, mine);
                switch (task->kind) {
                    case TILE: tile(&work, task); break;
                    case SUM: sum(step, &work, task, &free); break;
                    case APPLY: apply_part(step, &work, task); break;
                    default: flat(&work, task);
                }
            }
            if (task->kind == APPLY)
                atomic_fetch_add_explicit((atomic_int *)&step->units[task->unit].changed, 1, memory_order_release);
        }
    }
    as_before(before);
}

void ROTATIONAL_STEP(const Step *step) {
    const int64_t *bounds = step->bounds;
    for (int64_t i = 0; i < step->unit_count; i++) step->units[i].done = step->units[i].ready = step->units[i].changed = 0;
    for (int64_t stage = 0; stage < step->stages; stage++, bounds += step->threads + 1)
        for (int t = 0; t < step->threads; t++)
            atomic_init(step->cursors + t * step->apart + stage, (uint64_t)bounds[t + 1] << 32 | (uint32_t)bounds[t]);
    rotational_parallel(body, (void *)step, (int)step->threads);
    for (Job *job = step->jobs; job < step->jobs + step->job_count; job++) {
        if (!job->g) continue;
        *job->step += 1;
        if (job->turns) *job->turns += 1;
        job->fresh = 0;
    }
}
