/* A box of weights, or a part of a long neuron: the first time, whether sums will do, the second time. */
#ifndef ROTATIONAL_BOX_H
#define ROTATIONAL_BOX_H

#include "passes.h"

typedef struct {
    const Group *group;
    Job *job;
    Numbers numbers;
    double held;                /* the angle of this step */
    First *look, *keep, *again; /* NULL where u does not follow from new moments alone */
    Memory *mine;
    float *u;                   /* where directions go: those of a box, or of a part of a long neuron for as long as that is
                                   under way (`kept`) */
    int kept;
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

/* The job of a task in this step. */
static Work work_of(const Step *step, const Task *task, Powers *powers, Memory *mine) {
    Job *job = &step->jobs[task->job];
    const Group *g = &step->groups[job->group];
    int kept = task->kept >= 0;
    Work work = {.group = g, .job = job, .mine = mine, .u = kept ? step->kept + task->kept : mine->u, .kept = kept};
    raise_to(powers, g, job);
    double first = powers->first, second = powers->second;
    double fresh = job->fresh ? g->first_new : g->new_, inflow = job->fresh ? 1 : g->inflow;
    /* c = of_new m, where m is new. */
    double of_new = g->old / g->decay / first;
    int newest = job->m && fresh * g->decay == g->old * inflow && (g->scale == RMS || of_new == 1);
    if (g->eps > 0 && g->eps / of_new < FLT_MIN) newest = 0; /* it would be flushed, and 0/0 is no number */
    if (!newest) of_new = 1;
    work.held = powers->held;
    work.numbers = (Numbers){
        .sign = (float)g->sign,
        .coupled = (float)g->coupled,
        .fresh = (float)(fresh / first),
        .old = (float)(g->old / first),
        .decay = (float)g->decay,
        .inflow = (float)inflow,
        .beta = (float)g->beta,
        .share = (float)g->share,
        .root = (float)(1 / sqrt(second) / of_new),
        .eps = (float)(g->eps / of_new),
        .bare = g->sign == 1 && g->coupled == 0,
        .newest = newest,
        /* Where nothing is kept between two passes, asking only holds them up. */
        .asks = job->far && (kept || job->segments > 1 || job->run <= SCRATCH || !job->norm),
        .seed = stirred(((uint32_t)task->job + 0x85ebca6bu * (uint32_t)powers->step) * GOLDEN),
    };
    First *const *both = FIRSTS[job->weights == BF16][job->moments == F32 ? 0 : g->dither ? 2 : 1][g->scale][job->m != 0];
    work.look = both[0];
    work.keep = both[1];
    if (newest && g->scale == RMS && job->moments == F32)
        work.again = job->weights == F32 ? f32_again : bf16_again;
    return work;
}

/* Where the neuron `lane` begins; blocks of lanes lie apart. */
static int64_t place(const Job *job, int64_t lane) {
    return lane / job->lanes * job->outer_stride + lane % job->lanes * job->run;
}

static void clear(Sums *sums, int64_t from, int64_t to) {
    double *parts[5] = {sums->u, sums->w, sums->uu, sums->ww, sums->uw};
    for (int i = 0; i < 5; i++) memset(parts[i] + from, 0, (size_t)(to - from) * sizeof(double));
}

static void first_of(const Work *work, const Task *box, First *over, int summed) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    float *u = work->u;
    Sums *sums = &work->mine->sums;
    if (summed) clear(sums, box->segments > 1 || job->run == 1 ? 0 : box->lanes / LOT * LOT, box->lanes); /* else put */
    if (box->segments == 1 && job->run >= SHORT) {
        over(job, &work->numbers, at, box->run_count, box->lanes, u, summed ? sums : 0, 0);
        return;
    }
    int64_t wide = box->lanes * box->run_count, calls = box->segments, count = wide;
    if (wide == job->segment_stride) calls = 1, count = box->segments * wide; /* one stretch of memory */
    for (int64_t s = 0; s < calls; s++)
        over(job, &work->numbers, at + s * job->segment_stride, count, 1, u + s * wide, 0, 0);
    if (summed) sums_of(job, at, u, sums, box->segments, box->lanes, box->run_count);
}

/* Sums in single precision do for most neurons. Where they cancel, because u is nearly radial or nearly constant, or
 * where squares are too large or too small for it, they have to be formed again. Returns whether there is such a one. */
static int cancel(const Work *work, const Task *box) {
    double share = 1 / (double)(box->segments * box->run_count);
    const Sums *sums = &work->mine->sums;
    int32_t *rough = work->mine->coefficients.nearly, any = 0;
#pragma GCC ivdep
    for (int64_t k = 0; k < box->lanes; k++) {
        double uu = sums->uu[k], ww = sums->ww[k], left = (uu - sums->u[k] * sums->u[k] * share) * ww - sums->uw[k] * sums->uw[k];
        rough[k] = !(left > ROUGH * uu * ww) | !(uu > FAINT) | !(uu < HUGE) | !(ww > FAINT) | !(ww < HUGE);
        any |= rough[k];
    }
    return any;
}

static void sharpen(const Work *work, const Task *box) {
    const Job *job = work->job;
    if (!cancel(work, box)) return;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    for (int64_t k = 0; k < box->lanes; k++) {
        if (!work->mine->coefficients.nearly[k]) continue;
        clear(&work->mine->sums, k, k + 1);
        sharp(job, at, work->u, &work->mine->sums, box->segments, box->lanes, box->run_count, k);
    }
}

/* Sums of a part of one neuron that is all one run, of which u is not kept. Where it follows from the new moments, these
 * are written now, and the gradient is not read again. */
static void sums_along(const Work *work, const Task *part) {
    const Job *job = work->job;
    Sums *sums = &work->mine->sums;
    int64_t at = place(job, part->lane) + part->run_from, end = at + part->run_count;
    First *over = work->again ? work->keep : work->look, *anew = work->again ? work->again : work->look;
    over(job, &work->numbers, at, part->run_count, 1, 0, sums, 0);
    if (!cancel(work, part)) return;
    clear(sums, 0, 1);
    for (int64_t some; at < end; at += some) {
        some = end - at < SCRATCH ? end - at : SCRATCH;
        anew(job, &work->numbers, at, some, 1, work->u, 0, 0);
        sharp(job, at, work->u, sums, 1, 1, some, 0);
    }
}

/* The change of such a part, whose coefficients are known: u is used at once, but where b u and a w nearly cancel. */
static void change_along(const Work *work, const Task *part) {
    const Job *job = work->job;
    const Coefficients *to = &work->mine->coefficients;
    const Known known = {(float)to->a[0], (float)to->b[0], (float)to->c[0]};
    int64_t at = place(job, part->lane) + part->run_from, end = at + part->run_count;
    First *over = work->again ? work->again : work->keep;
    if (!to->nearly[0]) {
        over(job, &work->numbers, at, part->run_count, 1, 0, 0, &known);
        return;
    }
    for (int64_t some; at < end; at += some) {
        some = end - at < SCRATCH ? end - at : SCRATCH;
        over(job, &work->numbers, at, some, 1, work->u, 0, 0);
        apply(job, at, to, work->u, 1, some, 0);
    }
}

static void second_of(const Work *work, const Task *box, int64_t next) {
    const Job *job = work->job;
    int64_t at = place(job, box->lane) + box->segment * job->segment_stride + box->run_from;
    int64_t wide = box->lanes * box->run_count;
    for (int64_t s = 0; s < box->segments; s++)
        apply(job, at + s * job->segment_stride, &work->mine->coefficients, work->u + s * wide, box->lanes,
              box->run_count, next);
}

#endif
