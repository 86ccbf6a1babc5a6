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
    uint32_t seed;
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

/* To the nearest, or, where DITHERED, up with the probability of what is cut off; `noise` is 16 random bits. Infinity
 * has no bits that could carry over, and NaN is left alone. */
INLINE void store(void *x, int64_t i, float value, int kind, uint32_t noise) {
    if (kind == F32) {
        ((float *)x)[i] = value;
        return;
    }
    uint32_t bits = to_bits(value), up = kind == DITHERED ? noise : 0x7fff + ((bits >> 16) & 1);
    bits += value != value ? 0 : up;
    ((uint16_t *)x)[i] = (uint16_t)(bits >> 16);
}

/* Eight weights at once: loops over a handful of weights, which compilers make poor vectors of, are written in these. */
typedef float Lot __attribute__((vector_size(32)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
#define LOT 8

INLINE Lot load_lot(const void *x, int64_t i, int kind) {
    Lot lot;
    if (kind == F32) {
        memcpy(&lot, (const float *)x + i, sizeof lot);
        return lot;
    }
    Halves halves;
    memcpy(&halves, (const uint16_t *)x + i, sizeof halves);
    Bits bits = __builtin_convertvector(halves, Bits) << 16;
    memcpy(&lot, &bits, sizeof lot);
    return lot;
}

INLINE void store_lot(void *x, int64_t i, Lot lot, int kind) {
    if (kind == F32) {
        memcpy((float *)x + i, &lot, sizeof lot);
        return;
    }
    Bits bits;
    memcpy(&bits, &lot, sizeof bits);
    bits += (0x7fff + ((bits >> 16) & 1)) & (Bits)(lot == lot);
    Halves halves = __builtin_convertvector(bits >> 16, Halves);
    memcpy((uint16_t *)x + i, &halves, sizeof halves);
}

/* Sums of neighbours of a, then of b, within each half. */
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (Bits){__VA_ARGS__})
#endif
INLINE Lot fold(Lot a, Lot b) {
    return PICK(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + PICK(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

INLINE Lot across(Lot a, Lot b) { return PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }

typedef double Doubles __attribute__((vector_size(64)));

INLINE void add_lot(double *to, Lot lot) {
    Doubles sum;
    memcpy(&sum, to, sizeof sum);
    sum += __builtin_convertvector(lot, Doubles);
    memcpy(to, &sum, sizeof sum);
}

/* 32 bits that look random, the same for the same weight and step: its mark, (number + seed) GOLDEN, stirred. Multiplying
 * carries upwards only: what is low is made of all bits before, and of all bits after. */
#define GOLDEN 0x9e3779b1u
INLINE uint32_t stirred(uint32_t mark) {
    uint32_t x = (mark ^ (mark >> 7) ^ (mark >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/* u of weight i, which has this mark; its moments are brought up to date where `keep`. */
INLINE float direction(const Job *job, const Numbers *n, int64_t i, uint32_t mark, float w, int weights, int moments,
                       int scale, int remembers, int keep) {
    float g = n->sign * load(job->g, i, weights) + n->coupled * w;
    uint32_t noise = keep && moments == DITHERED ? stirred(mark) : 0;
    float c = n->fresh * g;
    if (remembers) {
        float m = load(job->m, i, moments);
        c += n->old * m;
        if (keep) store(job->m, i, n->decay * m + n->inflow * g, moments, noise & 0xffff);
    }
    if (scale == SIGN) return c != c ? c : (c > 0 ? 1.0f : 0.0f) - (c < 0 ? 1.0f : 0.0f); /* NaN stays NaN */
    if (scale == RAW) return c;
    float v = n->beta * load(job->v, i, moments) + n->share * g * g;
    if (keep) store(job->v, i, v, moments, noise >> 16);
    return c / (sqrtf(v) * n->root + n->eps);
}

#endif
