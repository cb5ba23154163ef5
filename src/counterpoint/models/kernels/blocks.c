/* Weights in GGUF's blocks of 32: scale * q, or scale * q + least. Scales and least numbers are float16; q is a whole number,
of 8 bits, or of 4, then of the first 16 weights in the low halves of the bytes and of the last 16 in the high ones. W_I8 has
blocks of 32 q alone, and a scale of float32 for each row of the weight.

In memory 16 rows lie together, in the bytes of the file and as many of them: of each block the 16 scales, the 16 least
numbers where there are such, then by fours the bytes of q, for one row after the other. What is left of the rows, fewer
than 16, lies as in the file. So a vector holds 16 rows, and no sum crosses its lanes.

bfloat16 states, where the processor has AVX-512 VNNI, are multiplied as whole numbers: q = round(x * 32512 / max |x|) of each
block of x, split into q = 256 * high + low with both from -128 to 127. What q has lost is below 2^-15 of the block's largest
number, where bfloat16 loses 2^-9 of each. The sums of a block are exact. With W_I8 it is so for 16 blocks at a time. */

#include "blocks.h"

#define SIZE 32 /* weights in a block */
#define GROUP 16 /* rows that lie together */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define WHOLE_NUMBERS 1
#endif

typedef struct { int bytes, num_half, is_nibbles; f32 offset; } Layout; /* of a block; float16 numbers; q - offset counts */
static inline Layout layout_of(int64_t kind) {
  if (kind == W_I8) return (Layout){32, 0, 0, 0};
  if (kind == W_Q8_0) return (Layout){34, 1, 0, 0};
  return kind == W_Q4_0 ? (Layout){18, 1, 1, 8} : (Layout){20, 2, 1, 0};
}

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

/* Where byte j of block b of row n lies, in memory and in the file */
static int64_t place(Layout l, int64_t N, int64_t B, int64_t n, int64_t b, int64_t j) {
  const int64_t first = n / GROUP * GROUP, head = 2 * l.num_half;
  if (first + GROUP > N) return (n * B + b) * l.bytes + j;
  const int64_t block = (first * B + b * GROUP) * l.bytes, i = n - first;
  if (j < head) return block + j / 2 * 2 * GROUP + i * 2 + j % 2;
  return block + head * GROUP + (j - head) / 4 * 4 * GROUP + i * 4 + (j - head) % 4;
}

/* (N, B) blocks as in the file are laid as they lie in memory. */
void blocks_laid(int64_t kind, const uint8_t *file, uint8_t *memory, int64_t N, int64_t B, int threads) {
  const Layout l = layout_of(kind);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t n = 0; n < N; n++)
    for (int64_t b = 0; b < B; b++)
      for (int64_t j = 0; j < l.bytes; j++) memory[place(l, N, B, n, b, j)] = file[(n * B + b) * l.bytes + j];
}

/* The 32 weights of a block */
static void read_block(Layout l, const uint8_t *w, int64_t N, int64_t B, int64_t n, int64_t b, f32 *out) {
  uint8_t block[34];
  uint16_t half[2] = {0, 0};
  for (int64_t j = 0; j < l.bytes; j++) block[j] = w[place(l, N, B, n, b, j)];
  memcpy(half, block, 2 * l.num_half);
  const f32 scale = l.num_half ? f32_from_f16(half[0]) : 1, least = f32_from_f16(half[1]);
  const uint8_t *q = block + 2 * l.num_half;
  for (int64_t k = 0; k < SIZE; k++) {
    const int v = !l.is_nibbles ? (i8)q[k] : k < 16 ? q[k] & 15 : q[k - 16] >> 4;
    out[k] = scale * (v - l.offset) + least;
  }
}

/* The weights of some rows of (N, B) blocks; rows null for all */
void block_weights(int64_t kind, const uint8_t *w, const int64_t *rows, int64_t num, f32 *out, int64_t N, int64_t B,
                   int threads) {
  const Layout l = layout_of(kind);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < num; i++)
    for (int64_t b = 0; b < B; b++) read_block(l, w, N, B, rows ? rows[i] : i, b, out + (i * B + b) * SIZE);
}

static int is_whole(const Product *p) {
#ifdef WHOLE_NUMBERS
  return p->is_bf16;
#else
  return 0;
#endif
}

/* Blocks of states that have one scale: whole sums of so many with weights of 8 bits fit in 32 */
static inline int64_t run_of(int64_t kind) { return kind == W_I8 ? 16 : 1; }

/* Whole numbers: high and low bytes, then scales and sums, of which there are no more than blocks */
int64_t block_units(const Product *p) { return is_whole(p) ? p->K / 2 + p->K / SIZE * 2 : p->K; }

static inline Floats numbers_of(const void *x, int from, int64_t k) {
  return from == FROM_F32 ? floats_f32((const f32 *)x + k) : floats_bf16((const bf16 *)x + k);
}

void pack_block_row(const Product *p, const void *x, int from, uint32_t *row) {
  const int64_t K = p->K;
#ifdef WHOLE_NUMBERS
  if (is_whole(p)) {
    i8 *high = (i8 *)row, *low = high + K;
    f32 *scale = (f32 *)(row + K / 2);
    int32_t *sum = (int32_t *)(scale + K / SIZE);
    const int64_t size = run_of(p->kind) * SIZE;
    for (int64_t k = 0; k < K; k += size, scale++, sum++) {
      const int64_t end = k + size < K ? k + size : K;
      __m512 most = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
      for (int64_t i = k; i < end; i += 16) {
        const __m512 v = (__m512)numbers_of(x, from, i);
        most = _mm512_max_ps(most, _mm512_abs_ps(v));
        odd = _mm512_add_ps(odd, _mm512_mul_ps(v, _mm512_setzero_ps())); /* 0, or not a number */
      }
      const f32 largest = _mm512_reduce_max_ps(most), is_odd = _mm512_reduce_add_ps(odd);
      const __m512 inverse = _mm512_set1_ps(largest > 1e-30f && is_odd == 0 ? 32512 / largest : 0);
      __m512i total = _mm512_setzero_si512();
      for (int64_t i = k; i < end; i += 16) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps((__m512)numbers_of(x, from, i), inverse));
        if (!(is_odd == 0)) q = _mm512_setzero_si512();
        const __m512i up = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        _mm_storeu_si128((__m128i *)(high + i), _mm512_cvtepi32_epi8(up));
        _mm_storeu_si128((__m128i *)(low + i), _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(up, 8))));
        total = _mm512_add_epi32(total, q);
      }
      *scale = is_odd == 0 ? largest / 32512 : is_odd;
      *sum = _mm512_reduce_add_epi32(total);
    }
    return;
  }
#endif
  for (int64_t k = 0; k < K; k += 16) *(Floats *)((f32 *)row + k) = numbers_of(x, from, k);
}

static inline Floats halves_of(const uint8_t *p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#else
  Floats v;
  for (int i = 0; i < 16; i++) {
    uint16_t half;
    memcpy(&half, p + 2 * i, 2);
    v[i] = f32_from_f16(half);
  }
  return v;
#endif
}

static inline void put(const Product *p, void *out, int as, int64_t stride, int64_t t, int64_t n, Floats v, int num) {
  if (num == GROUP) {
    if (p->scale) v *= floats_f32(p->scale + n);
    if (p->bias) v += floats_f32(p->bias + n);
    if (p->is_bf16) v = rounded(v);
    if (as == FROM_BF16) bf16_from_floats((bf16 *)out + t * stride + n, v);
    else
      *(Floats *)((f32 *)out + t * stride + n) = v;
    return;
  }
  for (int i = 0; i < num; i++) {
    const f32 sum = v[i] * (p->scale ? p->scale[n + i] : 1) + (p->bias ? p->bias[n + i] : 0);
    if (as == FROM_BF16) ((bf16 *)out)[t * stride + n + i] = f32_to_bf16(sum);
    else
      ((f32 *)out)[t * stride + n + i] = p->is_bf16 ? f32_from_bf16(f32_to_bf16(sum)) : sum;
  }
}

#define LEAST_PAIRED 4 /* rows of states from which two groups of a weight are read side by side */
#define AHEAD 2048 /* bytes that are asked for beforehand */
#define EVERY(R) UNROLL for (int r = 0; r < R; r++)
#define EACH(C) UNROLL for (int c = 0; c < C; c++)
#define IN_PART const Product *p, const Packed *x, void *out, int64_t stride, int as, int64_t n, int64_t t
#define INLINE static inline __attribute__((always_inline))

/* R rows of states with 16 rows of the weight, by float32 */
INLINE void floats_tile(const int64_t kind, const int R, IN_PART) {
  const Layout l = layout_of(kind);
  const int64_t B = p->K / SIZE;
  const uint8_t *w = (const uint8_t *)p->w + n * B * l.bytes;
  const f32 *states = (const f32 *)x->rows + t * x->units;
  Floats sums[4];
  EVERY(R) sums[r] = (Floats){0};
  for (int64_t b = 0; b < B; b++, w += GROUP * l.bytes, states += SIZE) {
    const Floats scale = l.num_half ? halves_of(w) : (Floats){0} + 1, least = l.num_half == 2 ? halves_of(w + 32) : (Floats){0};
    const uint8_t *q = w + l.num_half * 32;
    Floats own[4], all[4];
    EVERY(R) own[r] = all[r] = (Floats){0};
    for (int64_t four = 0; four < (l.is_nibbles ? 4 : 8); four++) {
      Words v;
      memcpy(&v, q + four * 64, 64);
      UNROLL for (int j = 0; j < 4; j++) {
        const int64_t k = four * 4 + j;
        if (!l.is_nibbles) {
          const Floats a = __builtin_convertvector((Ints)(v << (24 - 8 * j)) >> 24, Floats);
          EVERY(R) own[r] += a * states[r * x->units + k];
        } else {
          const Floats a = __builtin_convertvector((Ints)(v >> (8 * j) & 15), Floats) - l.offset;
          const Floats c = __builtin_convertvector((Ints)(v >> (8 * j + 4) & 15), Floats) - l.offset;
          EVERY(R) own[r] += a * states[r * x->units + k];
          EVERY(R) own[r] += c * states[r * x->units + k + 16];
          if (l.num_half == 2) EVERY(R) all[r] += states[r * x->units + k] + states[r * x->units + k + 16];
        }
      }
    }
    EVERY(R) sums[r] += own[r] * scale;
    if (l.num_half == 2) EVERY(R) sums[r] += all[r] * least;
  }
  EVERY(R) put(p, out, as, stride, t + r, n, sums[r], GROUP);
}

#ifdef WHOLE_NUMBERS
/* The same with 16 C rows of the weight, in whole numbers */
INLINE void whole_tile(const int64_t kind, const int R, const int C, IN_PART) {
  const Layout l = layout_of(kind);
  const int64_t K = p->K, B = K / SIZE, wide = x->units * 4, far = B * GROUP * l.bytes;
  const uint8_t *w = (const uint8_t *)p->w + n * B * l.bytes;
  const i8 *high = (const i8 *)(x->rows + t * x->units), *low = high + K;
  const f32 *x_scale = (const f32 *)(x->rows + t * x->units + K / 2);
  const int32_t *x_sum = (const int32_t *)(x_scale + B);
  const int offset = l.is_nibbles ? (int)l.offset : 128;
  const __m512i nibble = _mm512_set1_epi8(15), flip = _mm512_set1_epi8((char)0x80);
  __m512 sums[4][2];
  EVERY(R) EACH(C) sums[r][c] = _mm512_setzero_ps();
/* GCC 12 moves the sums to the stack and back in each turn unless it is told that they are used there. */
#define KEPT(a, b) __asm__("" : "+v"(a), "+v"(b));
#define ADDED(v, k)                                                                                               \
  EVERY(R) {                                                                                                      \
    const __m512i h = _mm512_set1_epi32(*(const int *)(high + r * wide + (k)));                                   \
    const __m512i o = _mm512_set1_epi32(*(const int *)(low + r * wide + (k)));                                    \
    EACH(C) {                                                                                                     \
      highs[r][c] = _mm512_dpbusd_epi32(highs[r][c], v[c], h);                                                    \
      lows[r][c] = _mm512_dpbusd_epi32(lows[r][c], v[c], o);                                                      \
      KEPT(highs[r][c], lows[r][c])                                                                               \
    }                                                                                                             \
  }
  for (int64_t first = 0, run = 0; first < B; first += run_of(kind), run++) {
    const int64_t last = first + run_of(kind) < B ? first + run_of(kind) : B;
    const uint8_t *halves = w;
    __m512i highs[4][2], lows[4][2];
    EVERY(R) EACH(C) highs[r][c] = lows[r][c] = _mm512_setzero_si512();
    for (int64_t b = first; b < last; b++, w += GROUP * l.bytes, high += SIZE, low += SIZE) {
      const uint8_t *q = w + l.num_half * 32;
      UNROLL for (int four = 0; four < (l.is_nibbles ? 4 : 8); four++) {
        __m512i v[2], a[2];
        EACH(C) v[c] = _mm512_loadu_si512(q + c * far + four * 64);
        EACH(C) _mm_prefetch((const char *)q + c * far + four * 64 + AHEAD, _MM_HINT_T0);
        if (!l.is_nibbles) {
          EACH(C) a[c] = _mm512_xor_si512(v[c], flip);
          ADDED(a, four * 4)
        } else {
          EACH(C) a[c] = _mm512_and_si512(v[c], nibble);
          ADDED(a, four * 4)
          EACH(C) a[c] = _mm512_and_si512(_mm512_srli_epi16(v[c], 4), nibble);
          ADDED(a, four * 4 + 16)
        }
      }
    }
    EVERY(R) {
      const f32 own_scale = x_scale[r * x->units + run];
      const int32_t own_sum = x_sum[r * x->units + run];
      EACH(C) {
        __m512i all = _mm512_add_epi32(_mm512_slli_epi32(highs[r][c], 8), lows[r][c]);
        if (offset) all = _mm512_sub_epi32(all, _mm512_set1_epi32((int32_t)((uint32_t)offset * (uint32_t)own_sum)));
        __m512 by = _mm512_set1_ps(own_scale);
        if (l.num_half) by = _mm512_mul_ps((__m512)halves_of(halves + c * far), by);
        sums[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), by, sums[r][c]);
        if (l.num_half == 2)
          sums[r][c] = _mm512_fmadd_ps((__m512)halves_of(halves + c * far + 32), _mm512_set1_ps(own_scale * own_sum),
                                       sums[r][c]);
      }
    }
  }
  EVERY(R) EACH(C) put(p, out, as, stride, t + r, n + c * GROUP, (Floats)sums[r][c], GROUP);
}
#endif

/* The rows that lie as in the file */
static void last_rows(const Product *p, const Packed *x, void *out, int64_t stride, int as, int64_t n) {
  const Layout l = layout_of(p->kind);
  const int64_t K = p->K, B = K / SIZE;
  for (; n < p->N; n++)
    for (int64_t t = 0; t < x->T; t++) {
      const uint32_t *row = x->rows + t * x->units;
      f32 sum = 0;
      for (int64_t b = 0; b < B; b++) {
        f32 weights[SIZE];
        read_block(l, p->w, p->N, B, n, b, weights);
        for (int64_t k = 0; k < SIZE; k++) {
          const int64_t at = b * SIZE + k;
          const f32 v = is_whole(p) ? ((const f32 *)(row + K / 2))[b / run_of(p->kind)] * (256 * ((i8 *)row)[at] + ((i8 *)row)[K + at])
                                    : ((const f32 *)row)[at];
          sum += weights[k] * v;
        }
      }
      put(p, out, as, stride, t, n, (Floats){sum}, 1);
    }
}

#define TILES_OF(TILE, KIND, ...)                                                                                 \
  case KIND:                                                                                                      \
    for (; t + 4 <= x->T; t += 4) TILE(KIND, 4, ##__VA_ARGS__, p, x, out, stride, as, n, t);                      \
    for (; t + 2 <= x->T; t += 2) TILE(KIND, 2, ##__VA_ARGS__, p, x, out, stride, as, n, t);                      \
    for (; t < x->T; t++) TILE(KIND, 1, ##__VA_ARGS__, p, x, out, stride, as, n, t);                              \
    break;
#define ALL_TILES(TILE, ...)                                                                                      \
  switch (p->kind) {                                                                                              \
    TILES_OF(TILE, W_I8, ##__VA_ARGS__)                                                                           \
    TILES_OF(TILE, W_Q8_0, ##__VA_ARGS__)                                                                         \
    TILES_OF(TILE, W_Q4_0, ##__VA_ARGS__)                                                                         \
    TILES_OF(TILE, W_Q4_1, ##__VA_ARGS__)                                                                         \
  }

void block_part(const Product *p, const Packed *x, void *out, int64_t stride, int as, int thread, int threads) {
  const int64_t groups = p->N / GROUP, begin = groups * thread / threads, end = groups * (thread + 1) / threads * GROUP;
  int64_t n = begin * GROUP;
#ifdef WHOLE_NUMBERS
  for (; is_whole(p) && x->T >= LEAST_PAIRED && n + 2 * GROUP <= end; n += 2 * GROUP) {
    int64_t t = 0;
    ALL_TILES(whole_tile, 2)
  }
#endif
  for (; n < end; n += GROUP) {
    int64_t t = 0;
#ifdef WHOLE_NUMBERS
    if (is_whole(p)) {
      ALL_TILES(whole_tile, 1)
      continue;
    }
#endif
    ALL_TILES(floats_tile)
  }
  if (thread == threads - 1) last_rows(p, x, out, stride, as, groups * GROUP);
}
