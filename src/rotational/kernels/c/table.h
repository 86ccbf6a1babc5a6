/* What one step works on: parameters (jobs) of param groups, cut into tasks. Python fills these tables
 * (kernels/native.py, where each field has its twin) and C only reads them.
 *
 * A parameter is `outer` blocks of `segments` x `lanes` x `run` weights. A neuron is one lane of one block: `segments`
 * runs of `run` weights, each `segment_stride` after the last; lanes follow each other without a gap. Rows have one
 * segment, columns have many, and a whole tensor is one lane.
 */
#ifndef ROTATIONAL_TABLE_H
#define ROTATIONAL_TABLE_H

#include <stdint.h>

#define ROTATIONAL_ABI 10 /* raised with every change of these tables, and of what Python calls */

enum { RAW, RMS, SIGN };    /* what becomes of the filtered gradient */
enum { NONE, F32, BF16, DITHERED }; /* how an array is stored; DITHERED is BF16, rounded at random */
enum { TILE, SUM, APPLY, FLAT };

typedef struct {
    double lr, kept, coupled, sign;             /* plain rule: w <- kept w - lr u;  g <- sign g + coupled w */
    double new_, old, decay, inflow;            /* c = new g + old m;  m <- decay m + inflow g */
    double first_new;                           /* instead of new, with inflow = 1, where m holds nothing yet */
    double beta, share, eps;                    /* v <- beta v + share g^2;  u = c/(sqrt(v) + eps) */
    double rotation, ema;
    int32_t scale, center, unbias_first, unbias_second;
    int32_t dither;                             /* whether bfloat16 moments are rounded at random */
} Group;

typedef struct {
    void *w, *g, *m, *v;                        /* g is NULL where a parameter takes no step */
    float *norm, *rms;                          /* of every neuron; NULL where the plain rule applies */
    float *step, *turns;                        /* counters, raised when all is done */
    float *out;                                 /* [4, neurons] angle, norm, update, radial; NULL where nobody asks */
    int64_t outer, outer_stride, segments, segment_stride, lanes, run;
    int32_t group, weights, moments, fresh;     /* index of the group; how w and g, m and v are stored; m is empty */
    int32_t far, unused;                        /* whether no cache holds all jobs */
} Job;

/* A box of weights: `lanes` neurons from `lane` on, of each the segments and the part of the run that are named.
 *
 *   TILE    whole neurons, as many as there are
 *   SUM     a part of neurons so long that tasks share them (`unit`): their sums, and no weight is changed
 *   APPLY   the same part, once all sums are in; between them u may be kept
 *   FLAT    weights of the plain rule, `run_count` of them from `run_from` on
 */
typedef struct {
    int64_t job, lane, lanes, segment, segments, run_from, run_count, unit, part;
    int32_t kind, kept;         /* where in `kept` of all u of a part is kept; -1 where it is not */
    int32_t after, unused;      /* that is free when all units before this one are changed */
} Task;

typedef struct {                                /* neurons that tasks share: `parts` sums, then coefficients, per lane */
    int64_t parts, numbers;                     /* where its numbers begin: 5 lanes parts sums, 4 lanes coefficients */
    int32_t done, ready, changed, unused; /* parts whose sums are in; whether coefficients are; parts that are changed */
} Unit;

/* All of one step, for so many threads. */
typedef struct {
    const Group *groups;
    Job *jobs;
    int64_t job_count;
    const Task *tasks;
    Unit *units;
    int64_t unit_count;
    double *numbers;            /* what units write to */
    float *kept;                /* directions of the parts that are under way */
    const int64_t *bounds;      /* where the tasks of each thread begin in each stage, [stages, threads + 1] */
    int64_t stages;
    _Atomic uint64_t *cursors;  /* [threads, apart]: those of the next thread are in another line of the cache */
    int64_t apart, threads;
} Step;

/* Run `body(argument)` on `threads` threads, the caller's among them; it may be run by fewer. */
void rotational_parallel(void (*body)(void *), void *argument, int threads);

/* Which of these threads this is, from 0 on: the same in the next step. */
int rotational_thread(void);

#endif
