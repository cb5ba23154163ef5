/* Products of a few rows of states with all rows of a weight, each weight read from memory once.

out[m][n] = scale[n] * sum over k of x[m][k] * w[n][k] + bias[n], summed in float32; x is (M, K), w is (N, K). scale and bias
may be null. Returns 0, or 1 where there is no memory.

One pass reads 4 rows of the weight side by side, a quarter of the weight apart: few long streams are what the
processor's prefetching follows best. */

#include "vectors.h"

#define STORE(X, R, C)                                                                                            \
  for (int r = 0; r < R; r++)                                                                                     \
    for (int c = 0; c < C; c++) {                                                                                 \
      int64_t at = n + c * far;                                                                                   \
      f32 v = sums[r][c] * (scale ? scale[at] : 1) + (bias ? f32_from_##X(bias[at]) : 0);                         \
      out[(m + r) * N + at] = f32_to_##X(v);                                                                      \
    }

#define ROWS(NAME, X, R, C)                                                                                       \
  for (; m + R <= M; m += R) {                                                                                    \
    f32 sums[R][C];                                                                                               \
    NAME##_##R##_##C(x + m * K, w + n * K, far * K, K, sums);                                                     \
    STORE(X, R, C)                                                                                                \
  }

#define COLUMN(NAME, X, C)                                                                                        \
  {                                                                                                               \
    int64_t m = 0;                                                                                                \
    ROWS(NAME, X, 4, C) ROWS(NAME, X, 2, C) ROWS(NAME, X, 1, C)                                                   \
  }

#define PRODUCT(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD)                                                         \
  TILES(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD)                                                                \
  int NAME(const X *x, const W *w, const f32 *scale, const X *bias, X *out, int64_t M, int64_t N, int64_t K,      \
           int threads) {                                                                                         \
    const int64_t far = N / 4;                                                                                        \
    _Pragma("omp parallel for schedule(static) num_threads(threads)")                                             \
    for (int64_t n = 0; n < far; n++) COLUMN(NAME, X, 4)                                                          \
    for (int64_t n = far * 4; n < N; n++) COLUMN(NAME, X, 1)                                                      \
    return 0;                                                                                                     \
  }

PRODUCT(f32_f32, f32, f32, Floats, 16, floats_f32, floats_f32, add_product)
PRODUCT(f32_i8, f32, i8, Floats, 16, floats_f32, floats_i8, add_product)
#if defined(__AVX512BF16__)
PRODUCT(bf16_bf16, bf16, bf16, __m512i, 32, pairs_bf16, pairs_bf16, add_pairs)
#else
PRODUCT(bf16_bf16, bf16, bf16, Floats, 16, floats_bf16, floats_bf16, add_product)
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
/* bfloat16 states with int8 weights, in whole numbers: q = round(x * 32767 / max |x|) of each row of x is split into the
bytes of q + 32768, and sum q * w = 256 * sum high * w + sum low * w - 32768 * sum w, without rounding. What q has lost is
below 2^-16 of the row's largest number, less than what rounding the result to bfloat16 loses. A row with a number that is
not finite gives no numbers. */

static inline __mmask16 here_16(int64_t left) { return left >= 16 ? 0xffff : (1 << left) - 1; }
static inline __m512 here_bf16(const bf16 *p, int64_t left) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here_16(left), p));
  return (__m512)_mm512_slli_epi32(wide, 16);
}
static f32 split_row(const bf16 *x, uint8_t *high, uint8_t *low, int64_t K) {
  __m512 most = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  for (int64_t k = 0; k < K; k += 16) {
    __m512 v = here_bf16(x + k, K - k);
    most = _mm512_max_ps(most, _mm512_abs_ps(v));
    odd = _mm512_add_ps(odd, _mm512_mul_ps(v, _mm512_setzero_ps())); /* 0, or not a number */
  }
  const f32 largest = _mm512_reduce_max_ps(most), is_odd = _mm512_reduce_add_ps(odd);
  const f32 inverse = largest > 1e-30f && is_odd == 0 ? 32767 / largest : 0;
  for (int64_t k = 0; k < K; k += 16) {
    const __mmask16 here = here_16(K - k);
    __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(here_bf16(x + k, K - k), _mm512_set1_ps(inverse)));
    if (!(is_odd == 0)) q = _mm512_setzero_si512();
    q = _mm512_add_epi32(q, _mm512_set1_epi32(32768));
    _mm_mask_storeu_epi8(high + k, here, _mm512_cvtepi32_epi8(_mm512_srli_epi32(q, 8)));
    _mm_mask_storeu_epi8(low + k, here, _mm512_cvtepi32_epi8(q));
  }
  return is_odd == 0 ? largest / 32767 : is_odd;
}

/* The three sums are put together in each lane, modulo 2^32: the result fits there for MOST_SUMMED numbers. */
#define MOST_SUMMED 8192

/* GCC 12 moves the sums to the stack and back in each turn unless it is told that they are used there. */
#define KEEP(a, b) __asm__("" : "+v"(a), "+v"(b));

#define WHOLE(R, C)                                                                                               \
  static inline void whole_##R##_##C(const uint8_t *high, const uint8_t *low, const f32 *row_scale, const i8 *w,   \
                                     int64_t far, int64_t K, f32 out[R][C]) {                                     \
    const __m512i ones = _mm512_set1_epi8(1);                                                                     \
    for (int r = 0; r < R; r++) for (int c = 0; c < C; c++) out[r][c] = 0;                                        \
    for (int64_t start = 0; start < K; start += MOST_SUMMED) {                                                    \
      const int64_t stop = K - start < MOST_SUMMED ? K : start + MOST_SUMMED;                                     \
      __m512i highs[R][C], lows[R][C], alone[C];                                                                  \
      UNROLL for (int c = 0; c < C; c++) {                                                                        \
        alone[c] = _mm512_setzero_si512();                                                                        \
        UNROLL for (int r = 0; r < R; r++) highs[r][c] = lows[r][c] = _mm512_setzero_si512();                     \
      }                                                                                                           \
      for (int64_t k = start; k < stop; k += 64) {                                                                \
        const __mmask64 here = stop - k >= 64 ? ~0ULL : (1ULL << (stop - k)) - 1;                                 \
        __m512i a[C];                                                                                             \
        UNROLL for (int c = 0; c < C; c++) {                                                                      \
          a[c] = _mm512_maskz_loadu_epi8(here, w + c * far + k);                                                  \
          alone[c] = _mm512_dpbusd_epi32(alone[c], ones, a[c]);                                                   \
        }                                                                                                         \
        UNROLL for (int r = 0; r < R; r++) {                                                                      \
          __m512i h = _mm512_maskz_loadu_epi8(here, high + r * K + k);                                            \
          __m512i l = _mm512_maskz_loadu_epi8(here, low + r * K + k);                                             \
          UNROLL for (int c = 0; c < C; c++) {                                                                    \
            highs[r][c] = _mm512_dpbusd_epi32(highs[r][c], h, a[c]);                                              \
            lows[r][c] = _mm512_dpbusd_epi32(lows[r][c], l, a[c]);                                                \
            KEEP(highs[r][c], lows[r][c])                                                                         \
          }                                                                                                       \
        }                                                                                                         \
      }                                                                                                           \
      UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) {                                     \
        __m512i all = _mm512_add_epi32(_mm512_slli_epi32(highs[r][c], 8), lows[r][c]);                            \
        all = _mm512_sub_epi32(all, _mm512_slli_epi32(alone[c], 15));                                             \
        out[r][c] += sum_of((Floats)_mm512_cvtepi32_ps(all)) * row_scale[r];                                      \
      }                                                                                                           \
    }                                                                                                             \
  }
WHOLE(2, 4) WHOLE(1, 4) WHOLE(2, 1) WHOLE(1, 1)

#define WHOLE_ROWS(R, C)                                                                                          \
  for (; m + R <= M; m += R) {                                                                                    \
    f32 sums[R][C];                                                                                               \
    whole_##R##_##C(high + m * K, low + m * K, row_scale + m, w + n * K, far * K, K, sums);                       \
    STORE(bf16, R, C)                                                                                             \
  }

int bf16_i8(const bf16 *x, const i8 *w, const f32 *scale, const bf16 *bias, bf16 *out, int64_t M, int64_t N, int64_t K,
            int threads) {
  const int64_t far = N / 4;
  uint8_t *high = malloc(2 * M * K + 1), *low = high + M * K;
  f32 *row_scale = malloc(M * sizeof(f32) + 1);
  if (!high || !row_scale) {
    free(high);
    free(row_scale);
    return 1;
  }
  for (int64_t m = 0; m < M; m++) row_scale[m] = split_row(x + m * K, high + m * K, low + m * K, K);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < far; n++) {
    int64_t m = 0;
    WHOLE_ROWS(2, 4) WHOLE_ROWS(1, 4)
  }
  for (int64_t n = far * 4; n < N; n++) {
    int64_t m = 0;
    WHOLE_ROWS(2, 1) WHOLE_ROWS(1, 1)
  }
  free(high);
  free(row_scale);
  return 0;
}
#elif defined(__AVX512BF16__)
PRODUCT(bf16_i8, bf16, i8, __m512i, 32, pairs_bf16, pairs_i8, add_pairs)
#else
PRODUCT(bf16_i8, bf16, i8, Floats, 16, floats_bf16, floats_i8, add_product)
#endif
