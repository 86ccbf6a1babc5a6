/* What happens to each weight, generic in how arrays are stored; `step.c` makes one copy of it for each kind.
 *
 * g  gradient    m, v  first and second moment    c  filtered gradient    u  direction    w  weight
 */
#ifndef ROTATIONAL_ELEMENTS_H
#define ROTATIONAL_ELEMENTS_H

#include <math.h>
#include <string.h>

#include "table.h"

#define INLINE static inline __attribute__((always_inline))

/* The numbers of a group as single weights need them, bias corrections included. */
typedef struct {
    float sign, coupled, fresh, old, decay, inflow, beta, share, root, eps;
    uint32_t seed, dither;
} Numbers;

INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

INLINE float load(const void *x, int64_t i, int kind) {
    return kind == F32 ? ((const float *)x)[i] : from_bits((uint32_t)((const uint16_t *)x)[i] << 16);
}

/* To the nearest, or, where `dither`, up with the probability of what is cut off; `noise` is 16 random bits. */
INLINE void store(void *x, int64_t i, float value, int kind, uint32_t dither, uint32_t noise) {
    if (kind == F32) {
        ((float *)x)[i] = value;
        return;
    }
    uint32_t bits = to_bits(value), up = dither ? noise : 0x7fff + ((bits >> 16) & 1);
    bits += (bits & 0x7f800000) == 0x7f800000 ? 0 : up; /* infinity stays what it is, and so does NaN */
    ((uint16_t *)x)[i] = (uint16_t)(bits >> 16);
}

/* 32 bits that look random, the same for the same weight and step. */
INLINE uint32_t noise_of(uint32_t i, uint32_t seed) {
    uint32_t x = (i + seed) * 0x9e3779b1u;
    x = (x ^ (x >> 15)) * 0x2c1b3c6du;
    return x ^ (x >> 14);
}

/* u of weight i; its moments are brought up to date where `keep`. */
INLINE float direction(const Job *job, const Numbers *n, int64_t i, float w, int weights, int moments, int scale,
                       int remembers, int keep) {
    float g = n->sign * load(job->g, i, weights) + n->coupled * w;
    uint32_t noise = keep && moments == BF16 ? noise_of((uint32_t)i, n->seed) : 0;
    float c = n->fresh * g;
    if (remembers) {
        float m = load(job->m, i, moments);
        c += n->old * m;
        if (keep) store(job->m, i, n->decay * m + n->inflow * g, moments, n->dither, noise & 0xffff);
    }
    if (scale == SIGN) return c != c ? c : (c > 0 ? 1.0f : 0.0f) - (c < 0 ? 1.0f : 0.0f); /* NaN stays NaN */
    if (scale == RAW) return c;
    float v = n->beta * load(job->v, i, moments) + n->share * g * g;
    if (keep) store(job->v, i, v, moments, n->dither, noise >> 16);
    return c / (sqrtf(v) * n->root + n->eps);
}

#endif
