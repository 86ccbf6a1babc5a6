/* Between the first time and the second: from sums to how each neuron changes, and what is measured of that. */
#ifndef ROTATIONAL_BETWEEN_H
#define ROTATIONAL_BETWEEN_H

#include "box.h"

/* atan2 for y >= 0, to the last digits of float (Cephes' atanf), without a branch: a loop over it becomes vectors. */
INLINE float angle(float y, float x) {
    float size = fabsf(x), above = y > size ? y : size, t = (y > size ? size : y) / (above == 0 ? 1 : above);
    float near = t > 0.414213562f ? (t - 1) / (t + 1) : t, z = near * near;
    float p = ((0.0805374449538f * z - 0.138776856032f) * z + 0.199777106478f) * z - 0.333329491539f;
    float found = p * z * near + near;
    found += t > 0.414213562f ? 0.785398163f : 0;
    found = y > size ? 1.57079633f - found : found;
    return x < 0 ? 3.14159265f - found : found;
}

/* Which power of two is next below the root of x >= 0, or is it: from the exponent of x alone. */
INLINE int64_t root_power(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return ((((bits >> 52) & 0x7ff) + 1023) >> 1) - 1023;
}

INLINE double power_of_two(int64_t n) {
    int64_t bits = (n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* What is asked for of each neuron: angle, new norm, length of the change, its radial share. The sums are now lengths
 * before (ww) and forward (u), and the squares of what goes to the side (uu). Taken in units of all three together, no
 * number leaves single precision; differences are taken in double. */
static void measure(const Job *job, const Sums *sums, int64_t lane, int64_t lanes) {
    int64_t all = job->outer * job->lanes;
    float *restrict angles = job->out + lane, *restrict norms = angles + all;
    float *restrict updates = norms + all, *restrict radials = updates + all;
#pragma GCC ivdep
    for (int64_t k = 0; k < lanes; k++) {
        double before = sums->ww[k], forward = sums->u[k], aside = sums->uu[k];
        int64_t power = root_power(before * before + forward * forward + aside);
        double unit = power_of_two(power), per = power_of_two(-power); /* one root less, and one division */
        float square = (float)(aside * per * per), ahead = (float)(forward * per);
        float change = (float)((forward - before) * per), update = sqrtf(change * change + square);
        float turned = angle(sqrtf(square), ahead), radial = change / (update == 0 ? 1 : update);
        angles[k] = before == 0 ? 0 : turned;
        norms[k] = (float)unit * sqrtf(ahead * ahead + square);
        updates[k] = (float)unit * update;
        radials[k] = before == 0 ? 0 : radial;
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

#endif
