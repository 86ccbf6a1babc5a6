/* What happens to each weight, generic in how arrays are stored; `passes.h` makes one copy of it for each kind.
 *
 * g  gradient    m, v  first and second moment    c  filtered gradient    u  direction    w  weight
 */
#ifndef ROTATIONAL_ELEMENTS_H
#define ROTATIONAL_ELEMENTS_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* The numbers of a group as single weights need them, bias corrections included. */
typedef struct {
    float sign, coupled, fresh, old, decay, inflow, beta, share, root, eps;
    uint32_t seed;
    int32_t bare;   /* g is the gradient as it lies */
    int32_t newest; /* c is the new m, and what it would be multiplied by is in root and eps */
    int32_t asks;   /* memory for what comes next */
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

/* To the nearest. Infinity has no bits that could carry over, and NaN is left alone. */
INLINE void store(void *x, int64_t i, float value, int kind) {
    if (kind == F32) {
        ((float *)x)[i] = value;
        return;
    }
    uint32_t bits = to_bits(value);
    bits += value != value ? 0 : 0x7fff + ((bits >> 16) & 1);
    ((uint16_t *)x)[i] = (uint16_t)(bits >> 16);
}

/* Weights side by side, which compilers make poor vectors of by themselves: eight for loops over a handful of them, and
 * as many as a register holds for all others, of which there may be fewer at the end of a stretch. Of four such vectors
 * are put together. */
#define LOT 8
#if defined(__AVX512F__)
#define WIDE 16
#elif defined(__AVX__)
#define WIDE 8
#else
#define WIDE 4
#endif

typedef float Lot __attribute__((vector_size(4 * LOT)));
typedef uint32_t Bits __attribute__((vector_size(4 * LOT)));
typedef uint16_t Halves __attribute__((vector_size(2 * LOT)));
typedef double Doubles __attribute__((vector_size(8 * LOT)));
typedef float Quad __attribute__((vector_size(16)));
typedef uint32_t Fours __attribute__((vector_size(16)));
typedef uint16_t Eighths __attribute__((vector_size(8)));
typedef float Wide __attribute__((vector_size(4 * WIDE)));
typedef uint32_t Marks __attribute__((vector_size(4 * WIDE)));
typedef uint16_t Thin __attribute__((vector_size(2 * WIDE)));

/* Bytes of one vector, all of them or some. */
INLINE void fetch(void *to, const void *from, int64_t all, int64_t some) {
    if (__builtin_constant_p(some) && some == all) {
        memcpy(to, from, (size_t)all);
        return;
    }
#if defined(__AVX512F__)
    if (all == 64) { /* floats; of shorter numbers masks are slow */
        __mmask16 which = (__mmask16)((1u << (some / 4)) - 1);
        _mm512_mask_storeu_ps(to, which, _mm512_maskz_loadu_ps(which, from));
        return;
    }
#elif defined(__AVX2__)
    if (all == 32) {
        __m256i which = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(some / 4)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        _mm256_maskstore_ps(to, which, _mm256_maskload_ps(from, which));
        return;
    }
#endif
    memcpy(to, from, (size_t)some);
}

/* `count` of them, a constant but at the end of a stretch. `noise` is 32 random bits, of which the upper half is left to
 * others: DITHERED rounds up with the probability of what is cut off. */
#define STORED(name, Floats, Words, Shorts)                                                                           \
    INLINE Floats load_##name(const void *x, int64_t i, int kind, int64_t count) {                                    \
        Floats found = {0};                                                                                           \
        Shorts shorts = {0};                                                                                          \
        if (kind == F32) {                                                                                            \
            fetch(&found, (const float *)x + i, sizeof found, count * 4);                                             \
            return found;                                                                                             \
        }                                                                                                             \
        fetch(&shorts, (const uint16_t *)x + i, sizeof shorts, count * 2);                                            \
        return (Floats)(__builtin_convertvector(shorts, Words) << 16);                                                \
    }                                                                                                                 \
    INLINE void store_##name(void *x, int64_t i, Floats value, int kind, Words noise, int64_t count) {                \
        if (kind == F32) {                                                                                            \
            fetch((float *)x + i, &value, sizeof value, count * 4);                                                   \
            return;                                                                                                   \
        }                                                                                                             \
        Words bits = (Words)value, up = kind == DITHERED ? noise & 0xffff : 0x7fff + ((bits >> 16) & 1);              \
        Shorts shorts = __builtin_convertvector((bits + (up & (Words)(value == value))) >> 16, Shorts);               \
        fetch((uint16_t *)x + i, &shorts, sizeof shorts, count * 2);                                                  \
    }
STORED(quad, Quad, Fours, Eighths)
STORED(lot, Lot, Bits, Halves)
STORED(wide, Wide, Marks, Thin)

/* Those of a, and then of b, that have these numbers. */
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (__typeof__((a) < (b))){__VA_ARGS__})
#endif

/* Sums of neighbours of a, then of b, within each half. */
INLINE Lot fold(Lot a, Lot b) {
    return PICK(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + PICK(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

INLINE Lot across(Lot a, Lot b) { return PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }

/* As many as a lot has, with the same sum. */
INLINE Lot lot_of(Wide wide) {
    Lot lots[WIDE > LOT ? WIDE / LOT : 1] = {{0}}, sum;
    memcpy(lots, &wide, sizeof wide);
    sum = lots[0];
    for (int i = 1; i < WIDE / LOT; i++) sum += lots[i];
    return sum;
}

INLINE void put_lot(double *to, Lot lot) {
    Doubles sum = __builtin_convertvector(lot, Doubles);
    memcpy(to, &sum, sizeof sum);
}

INLINE void add_lot(double *to, Lot lot) {
    Doubles sum;
    memcpy(&sum, to, sizeof sum);
    sum += __builtin_convertvector(lot, Doubles);
    memcpy(to, &sum, sizeof sum);
}

INLINE Wide root(Wide x) {
#if defined(__AVX512F__)
    return (Wide)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    return (Wide)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
    return (Wide)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < WIDE; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* a x + b, rounded once where the processor does that: said here, since compilers do it in one way in one place and in
 * another in the next, and no weight may depend on how tasks are cut. */
INLINE Wide sum_of(Wide a, Wide x, Wide b) {
#if defined(__AVX512F__)
    return (Wide)_mm512_fmadd_ps((__m512)a, (__m512)x, (__m512)b);
#elif defined(__FMA__) && defined(__AVX__)
    return (Wide)_mm256_fmadd_ps((__m256)a, (__m256)x, (__m256)b);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < WIDE; i++) b[i] = __builtin_fmaf(a[i], x[i], b[i]);
    return b;
#else
    return a * x + b;
#endif
}

INLINE Wide scaled(float a, Wide x, Wide b) { return sum_of((Wide){0} + a, x, b); }

/* 32 bits that look random, the same for the same weight and step: its mark, (number + seed) GOLDEN, stirred. Multiplying
 * carries upwards only: what is low is made of all bits before, and of all bits after. */
#define GOLDEN 0x9e3779b1u
#define STIRRED(name, Words)                                                                                          \
    INLINE Words name(Words mark) {                                                                                   \
        Words x = (mark ^ (mark >> 7) ^ (mark >> 15)) * 0x846ca68bu;                                                  \
        return x ^ (x >> 16);                                                                                         \
    }
STIRRED(stirred, uint32_t)
STIRRED(all_stirred, Marks)

/* What becomes of the moments: they are only looked at, brought up to date, or have been before (AGAIN, with RMS). */
enum { LOOK, KEEP, AGAIN };

/* u of `count` weights from i on, which have these marks. What is beyond them is 0, unless there is no v to divide by. */
INLINE Wide direction(const Job *job, const Numbers *n, int64_t i, int64_t count, Marks marks, Wide w, int weights,
                      int moments, int scale, int remembers, int keep) {
    if (keep == AGAIN)
        return load_wide(job->m, i, moments, count) /
               scaled(n->root, root(load_wide(job->v, i, moments, count)), (Wide){0} + n->eps);
    Wide g = load_wide(job->g, i, weights, count);
    if (!n->bare) g = scaled(n->sign, g, n->coupled * w);
    Marks noise = marks;
    if (keep && moments == DITHERED) noise = all_stirred(marks);
    Wide c;
    if (remembers) {
        Wide m = load_wide(job->m, i, moments, count), now = scaled(n->decay, m, n->inflow * g);
        if (n->newest) c = now;
        else c = scaled(n->old, m, n->fresh * g);
        if (keep) store_wide(job->m, i, now, moments, noise, count);
    } else {
        c = n->fresh * g;
    }
    if (scale == SIGN) {
        Wide one = (Wide){0} + 1, up = (Wide)((Marks)one & (Marks)(c > 0)), down = (Wide)((Marks)one & (Marks)(c < 0));
        return (Wide)((Marks)(up - down) | ((Marks)c & (Marks)(c != c))); /* NaN stays NaN */
    }
    if (scale == RAW) return c;
    Wide v = scaled(n->beta, load_wide(job->v, i, moments, count), n->share * g * g);
    if (keep) store_wide(job->v, i, v, moments, noise >> 16, count);
    return c / scaled(n->root, root(v), (Wide){0} + n->eps);
}

#endif
