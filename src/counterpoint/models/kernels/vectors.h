/* Vectors of 16 numbers, of float32 or read as such from other types, and sums of products of rows. */

#ifndef VECTORS_H
#define VECTORS_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 16")
#define AHEAD_FEW 1024 /* numbers of a weight in 2 bytes */

typedef float f32;
typedef uint16_t bf16;
typedef int8_t i8;
typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef int16_t Shorts __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1)));

static inline f32 f32_from_f32(f32 v) { return v; }
static inline f32 f32_from_i8(i8 v) { return v; }
static inline f32 f32_from_bf16(bf16 v) {
  uint32_t bits = (uint32_t)v << 16;
  f32 f;
  memcpy(&f, &bits, 4);
  return f;
}
static inline f32 f32_to_f32(f32 v) { return v; }
static inline bf16 f32_to_bf16(f32 v) { /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &v, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40; /* not a number */
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static inline f32 sum_of(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  f32 sums[8];
  for (int i = 0; i < 8; i++) sums[i] = v[i] + v[i + 8];
  for (int i = 0; i < 4; i++) sums[i] += sums[i + 4];
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
#endif
}

/* The sums of 4 vectors, each as sum_of makes it: to the bit */
static inline void sums_of_4(const Floats v[4], f32 out[4]) {
#if defined(__AVX512F__)
  const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  all = _mm512_add_ps(all, _mm512_permute_ps(all, 0x4e)); /* the four numbers of a lane of 128 bits are one vector's */
  all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xb1));
  const __m512i firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all)));
#else
  for (int i = 0; i < 4; i++) out[i] = sum_of(v[i]);
#endif
}

/* 16 numbers at a time */
static inline Floats floats_f32(const f32 *p) { return *(const Floats *)p; }
static inline Floats floats_bf16(const bf16 *p) {
  return (Floats)(__builtin_convertvector(*(const Halves *)p, Words) << 16);
}
static inline Floats floats_i8(const i8 *p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#else
  Shorts wide = __builtin_convertvector(*(const Bytes *)p, Shorts);
  return __builtin_convertvector(__builtin_convertvector(wide, Ints), Floats);
#endif
}
/* To the nearest bfloat16, ties to even, as float32 */
static inline Floats rounded(Floats v) {
  const Words bits = (Words)v, even = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  const Words is_number = (Words)(v == v);
  return (Floats)((even & is_number) | (0x7fc00000 & ~is_number));
}
static inline void bf16_from_floats(bf16 *to, Floats v) { /* of numbers that are bfloat16 already */
  *(Halves *)to = __builtin_convertvector((Words)v >> 16, Halves);
}
static inline Floats add_product(Floats sum, Floats a, Floats b) { return sum + a * b; }

#if defined(__AVX512BF16__)
/* 32 pairs at a time, multiplied exactly and summed in float32 */
static inline __m512i pairs_of(const bf16 *p) { return _mm512_loadu_si512(p); }
static inline Floats add_pairs(Floats sum, __m512i a, __m512i b) {
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

/* e^x to 7 digits; 0 below -87, infinite above 88. The split of ln 2 and the polynomial are those of Cephes' expf. */
static inline Floats exp_of(Floats x) {
  const Floats to_whole = (Floats){0} + 12582912.0f; /* 1.5 * 2^23: nothing after the point is left beside it */
  const Ints is_small = x < -87.0f, is_large = x > 88.0f, is_number = x == x;
  Floats n = x * 1.44269504f + to_whole;
  const Ints exponent = (Ints)n << 23; /* the whole number is in the lowest bits */
  n -= to_whole;
  x -= n * 0.693359375f;
  x += n * 2.12194440e-4f;
  Floats y = x * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  const Ints power = ((Ints)y + exponent) & ~is_small & ~is_large;
  return (Floats)((((power | (is_large & 0x7f800000)) & is_number)) | (0x7fc00000 & ~is_number));
}

/* R rows of x, `wide` numbers apart, with C rows of w that are `far` numbers apart; V is a vector of STEP numbers */
#define TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, R, C)                                                      \
  static inline void NAME##_##R##_##C(const X *x, int64_t wide, const W *w, int64_t far, int64_t K, f32 out[R][C]) { \
    Floats sums[R][C];                                                                                            \
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) sums[r][c] = (Floats){0};               \
    int64_t k = 0;                                                                                                \
    for (; k + STEP <= K; k += STEP) {                                                                            \
      V a[C];                                                                                                     \
      UNROLL for (int c = 0; c < C; c++) a[c] = LOAD_W(w + c * far + k);                                          \
      if (R == 4 && sizeof(W) == 2) /* the processor's own prefetching falls behind so much work */               \
        UNROLL for (int c = 0; c < C; c++) __builtin_prefetch(w + c * far + k + AHEAD_FEW);                       \
      UNROLL for (int r = 0; r < R; r++) {                                                                        \
        V b = LOAD_X(x + r * wide + k);                                                                           \
        UNROLL for (int c = 0; c < C; c++) sums[r][c] = ADD(sums[r][c], a[c], b);                                 \
      }                                                                                                           \
    }                                                                                                             \
    UNROLL for (int r = 0; r < R; r++) {                                                                          \
      if (C == 4) sums_of_4(sums[r], out[r]);                                                                     \
      else UNROLL for (int c = 0; c < C; c++) out[r][c] = sum_of(sums[r][c]);                                     \
      UNROLL for (int c = 0; c < C; c++) for (int64_t rest = k; rest < K; rest++)                                 \
        out[r][c] += f32_from_##X(x[r * wide + rest]) * f32_from_##W(w[c * far + rest]);                          \
    }                                                                                                             \
  }

/* All tiles of 4, 2 or 1 rows of x with 4 or 1 of w */
#define TILES(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD)                                                           \
  TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, 4, 4)                                                            \
  TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, 2, 4)                                                            \
  TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, 1, 4)                                                            \
  TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, 4, 1)                                                            \
  TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, 2, 1)                                                            \
  TILE(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD, 1, 1)

#endif
