/* Weights in GGUF's blocks of 32, as they lie in the file: products of a few rows of float32 states with all of them,
each read from memory once, and the weights themselves.

A weight is scale * q, or scale * q + least. Scales and least numbers are float16; q is a whole number, of 8 bits or of 4,
then of the first 16 weights in the low halves of the bytes and of the last 16 in the high ones. */

#include "vectors.h"

#define SIZE 32 /* weights in a block */

typedef struct { uint16_t scale; i8 q[32]; } q8_0;
typedef struct { uint16_t scale; uint8_t q[16]; } q4_0; /* q - 8 counts */
typedef struct { uint16_t scale, least; uint8_t q[16]; } q4_1;
typedef uint8_t Nibbles __attribute__((vector_size(16), aligned(1)));

static inline f32 f32_from_f16(uint16_t v) {
#if defined(__FLT16_MANT_DIG__)
  _Float16 half;
  memcpy(&half, &v, 2);
  return half;
#else
  const uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = v >> 10 & 31, rest = v & 0x3ff;
  uint32_t bits = sign | (exponent + 112) << 23 | rest << 13;
  f32 f;
  if (exponent == 31) bits = sign | 0x7f800000 | rest << 13;
  memcpy(&f, &bits, 4);
  if (exponent == 0) f = (sign ? -1.0f : 1.0f) * (f32)rest / 16777216.0f;
  return f;
#endif
}

static inline Floats floats_bytes(Bytes v) { return floats_i8((const i8 *)&v); }

#define FILL(v) ((Floats){0} + (v))

/* The 32 weights of a block */
static inline void read_q8_0(const q8_0 *b, Floats *low, Floats *high) {
  const Floats scale = FILL(f32_from_f16(b->scale));
  *low = floats_i8(b->q) * scale;
  *high = floats_i8(b->q + 16) * scale;
}
static inline void read_q4_0(const q4_0 *b, Floats *low, Floats *high) {
  const Floats scale = FILL(f32_from_f16(b->scale));
  const Nibbles q = *(const Nibbles *)b->q;
  *low = floats_bytes((Bytes)(q & 15) - 8) * scale;
  *high = floats_bytes((Bytes)(q >> 4) - 8) * scale;
}
static inline void read_q4_1(const q4_1 *b, Floats *low, Floats *high) {
  const Floats scale = FILL(f32_from_f16(b->scale)), least = FILL(f32_from_f16(b->least));
  const Nibbles q = *(const Nibbles *)b->q;
  *low = floats_bytes((Bytes)(q & 15)) * scale + least;
  *high = floats_bytes((Bytes)(q >> 4)) * scale + least;
}

/* R rows of x, `wide` numbers apart, with C rows of w, `far` blocks apart; B blocks a row */
#define BLOCKS(KIND, R, C)                                                                                        \
  static inline void KIND##_##R##_##C(const f32 *x, int64_t wide, const KIND *w, int64_t far, int64_t B,          \
                                      f32 out[R][C]) {                                                            \
    Floats sums[R][C];                                                                                            \
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) sums[r][c] = (Floats){0};               \
    for (int64_t b = 0; b < B; b++) {                                                                             \
      Floats low[C], high[C];                                                                                     \
      UNROLL for (int c = 0; c < C; c++) read_##KIND(w + c * far + b, &low[c], &high[c]);                         \
      UNROLL for (int r = 0; r < R; r++) {                                                                        \
        const Floats first = floats_f32(x + r * wide + b * SIZE), last = floats_f32(x + r * wide + b * SIZE + 16); \
        UNROLL for (int c = 0; c < C; c++) sums[r][c] += low[c] * first;                                          \
        UNROLL for (int c = 0; c < C; c++) sums[r][c] += high[c] * last;                                          \
      }                                                                                                           \
    }                                                                                                             \
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) out[r][c] = sum_of(sums[r][c]);         \
  }

#define ROWS(KIND, R, C)                                                                                          \
  for (; m + R <= M; m += R) {                                                                                    \
    f32 sums[R][C];                                                                                               \
    KIND##_##R##_##C(x + m * K, K, w + n * B, far * B, B, sums);                                                  \
    for (int r = 0; r < R; r++)                                                                                   \
      for (int c = 0; c < C; c++) out[(m + r) * N + n + c * far] = sums[r][c] + (bias ? bias[n + c * far] : 0);   \
  }

#define COLUMN(KIND, C)                                                                                           \
  {                                                                                                               \
    int64_t m = 0;                                                                                                \
    ROWS(KIND, 4, C) ROWS(KIND, 2, C) ROWS(KIND, 1, C)                                                            \
  }

/* out[m][n] = sum over k of x[m][k] * w[n][k] + bias[n]; x is (M, K), w is (N, K); bias may be null.
   One pass reads 4 rows of the weight a quarter of it apart, as few_rows.c does. */
#define KERNELS(KIND)                                                                                             \
  BLOCKS(KIND, 4, 4) BLOCKS(KIND, 2, 4) BLOCKS(KIND, 1, 4) BLOCKS(KIND, 4, 1) BLOCKS(KIND, 2, 1) BLOCKS(KIND, 1, 1) \
  void product_##KIND(const f32 *x, const KIND *w, const f32 *bias, f32 *out, int64_t M, int64_t N, int64_t K,    \
                      int threads) {                                                                              \
    const int64_t B = K / SIZE, far = N / 4;                                                                      \
    _Pragma("omp parallel for schedule(static) num_threads(threads)")                                             \
    for (int64_t n = 0; n < far; n++) COLUMN(KIND, 4)                                                             \
    {                                                                                                             \
      const int64_t from = far * 4, far = 0;                                                                      \
      for (int64_t n = from; n < N; n++) COLUMN(KIND, 1)                                                          \
    }                                                                                                             \
  }                                                                                                               \
  void weights_##KIND(const KIND *w, f32 *out, int64_t num_blocks, int threads) {                                 \
    _Pragma("omp parallel for schedule(static) num_threads(threads)")                                             \
    for (int64_t b = 0; b < num_blocks; b++)                                                                      \
      read_##KIND(w + b, (Floats *)(out + b * SIZE), (Floats *)(out + b * SIZE + 16));                            \
  }

KERNELS(q8_0)
KERNELS(q4_0)
KERNELS(q4_1)
