/* Products of rows of states with all rows of a weight, each weight read from memory once.

Few rows: one pass reads 4 rows of the weight side by side, a quarter of the weight apart, since few long streams are what
the processor's prefetching follows best; the numbers of a row lie in the lanes and are summed at the end. Many rows: the
states lie in panels, one of 16 rows in each lane, and each weight is given to all lanes. Weights in 8 and 4 bits are the matter of blocks.c. */

#include "products.h"
#include "blocks.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define PAIRS 1
#endif

/* Rows; more are read in panels. A panel costs as much for 7 rows as for 16, and beyond 2048 numbers it leaves the nearest
cache in float32. few_rows.py knows the least of these. */
static int64_t most_few(const Product *p) { return p->kind == W_BF16 || p->K > 2048 ? 8 : 6; }

enum { READ_F32, READ_PAIRS, READ_BLOCKS }; /* how states are laid out */

static int reading(const Product *p) {
  if (p->kind >= W_I8) return READ_BLOCKS;
#ifdef PAIRS
  if (p->kind == W_BF16) return READ_PAIRS;
#endif
  return READ_F32;
}

static int64_t units_of(const Product *p) {
  switch (reading(p)) {
    case READ_F32: return p->K;
    case READ_PAIRS: return (p->K + 1) / 2;
    default: return block_units(p);
  }
}

static int64_t up_to_16(int64_t n) { return (n + 15) / 16 * 16; }

int64_t packed_bytes(const Product *p, int64_t T) {
  return 2 * up_to_16(T) * units_of(p) * 4 + 64;
}

void packed_over(Packed *to, const Product *p, int64_t T, void *memory) {
  *to = (Packed){.T = T, .K = p->K, .units = units_of(p)};
  to->is_many = T > most_few(p) && p->K % 4 == 0 && reading(p) != READ_BLOCKS;
  to->rows = memory;
  to->panels = to->rows + up_to_16(T) * to->units;
}

static inline f32 number_at(const void *x, int from, int64_t k) {
  return from == FROM_F32 ? ((const f32 *)x)[k] : f32_from_bf16(((const bf16 *)x)[k]);
}

void pack_row(Packed *to, const Product *p, const void *x, int from, int64_t t) {
  uint32_t *row = to->rows + t * to->units;
  const int64_t K = to->K;
  switch (reading(p)) {
    case READ_F32:
      if (from == FROM_F32) memcpy(row, x, K * 4);
      else
        for (int64_t k = 0; k < K; k++) ((f32 *)row)[k] = number_at(x, from, k);
      break;
    case READ_PAIRS:
      row[to->units ? to->units - 1 : 0] = 0;
      if (from == FROM_BF16) memcpy(row, x, K * 2);
      else {
        int64_t k = 0;
        for (; k + 16 <= K; k += 16) bf16_from_floats((bf16 *)row + k, rounded(floats_f32((const f32 *)x + k)));
        for (; k < K; k++) ((bf16 *)row)[k] = f32_to_bf16(((const f32 *)x)[k]);
      }
      break;
    default: pack_block_row(p, x, from, row);
  }
}

void pack_panels(Packed *to, int64_t begin, int64_t end) {
  for (int64_t panel = 0; panel * 16 < to->T; panel++)
    for (int64_t u = begin; u < end; u++)
      for (int64_t i = 0; i < 16; i++) {
        const int64_t t = panel * 16 + i;
        to->panels[(panel * to->units + u) * 16 + i] = t < to->T ? to->rows[t * to->units + u] : 0;
      }
}

static inline void put(void *out, int as, int64_t at, f32 v, const Product *p, int64_t n) {
  v += p->bias ? p->bias[n] : 0;
  if (as == FROM_BF16) ((bf16 *)out)[at] = f32_to_bf16(v);
  else
    ((f32 *)out)[at] = p->is_bf16 ? f32_from_bf16(f32_to_bf16(v)) : v;
}

/* Few rows */

#define ROWS(CALL, R, C)                                                                                          \
  for (; m + R <= x->T; m += R) {                                                                                 \
    f32 sums[R][C];                                                                                               \
    CALL;                                                                                                         \
    for (int r = 0; r < R; r++)                                                                                   \
      for (int c = 0; c < C; c++) put(out, as, (m + r) * stride + n + c * far, sums[r][c], p, n + c * far);       \
  }

#define COLUMN(NAME, X, W, C)                                                                                     \
  for (; n < end; n++) {                                                                                          \
    int64_t m = 0;                                                                                                \
    const W *w = (const W *)p->w + n * K;                                                                         \
    ROWS(NAME##_4_##C((const X *)x->rows + m * wide, wide, w, far * K, K, sums), 4, C)                            \
    ROWS(NAME##_2_##C((const X *)x->rows + m * wide, wide, w, far * K, K, sums), 2, C)                            \
    ROWS(NAME##_1_##C((const X *)x->rows + m * wide, wide, w, far * K, K, sums), 1, C)                            \
  }

#define PART void *out, int64_t stride, int as, int64_t n, int64_t end, int64_t far
#define FEW(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD)                                                             \
  TILES(NAME, X, W, V, STEP, LOAD_X, LOAD_W, ADD)                                                                 \
  static void few_##NAME(const Product *p, const Packed *x, PART) {                                               \
    const int64_t K = p->K, wide = x->units * 4 / (int64_t)sizeof(X);                                             \
    if (far) COLUMN(NAME, X, W, 4)                                                                                \
    else COLUMN(NAME, X, W, 1)                                                                                    \
  }

FEW(f32_f32, f32, f32, Floats, 16, floats_f32, floats_f32, add_product)
#ifdef PAIRS
FEW(pairs_bf16, bf16, bf16, __m512i, 32, pairs_of, pairs_of, add_pairs)
#else
FEW(f32_bf16, f32, bf16, Floats, 16, floats_f32, floats_bf16, add_product)
#endif

/* Many rows: C rows of the weight with P panels */

#if defined(__AVX512F__)
#define MANY_C 8  /* rows of the weight with two panels, and twice as many with one: 16 sums */
#define PANELS 2
#else
#define MANY_C 2
#define PANELS 1
#endif
#define ALONE_C (MANY_C * 2)

/* C rows of the weight with 16 rows of states: a vector for each, `apart` vectors from the next */
static inline __attribute__((always_inline)) void put_tile(const Product *p, int64_t T, int64_t t, int64_t n, const int C,
                                                           const Floats *sums, int apart, void *out, int64_t stride,
                                                           int as) {
  f32 done[ALONE_C][16];
  const int64_t num = T - t < 16 ? T - t : 16;
  UNROLL for (int c = 0; c < C; c++) {
    Floats v = sums[c * apart];
    if (p->bias) v += p->bias[n + c];
    *(Floats *)done[c] = p->is_bf16 ? rounded(v) : v;
  }
  for (int64_t i = 0; i < num; i++) {
    if (as == FROM_F32) {
      f32 *to = (f32 *)out + (t + i) * stride + n;
      UNROLL for (int c = 0; c < C; c++) to[c] = done[c][i];
    } else {
      bf16 *to = (bf16 *)out + (t + i) * stride + n;
      UNROLL for (int c = 0; c < C; c++) to[c] = f32_to_bf16(done[c][i]);
    }
  }
}

#define MANY(NAME, W, V, STEP, LOAD, GIVE, ADD)                                                                   \
  static inline __attribute__((always_inline)) void many_##NAME##_tile(const Product *p, const Packed *x, int64_t n, \
                                                                       int64_t panel, const int C, const int P,    \
                                                                       void *out, int64_t stride, int as) {       \
    const int64_t K = p->K, units = x->units;                                                                     \
    const W *w = (const W *)p->w + n * K;                                                                         \
    const uint32_t *states = x->panels + panel * units * 16;                                                      \
    Floats sums[ALONE_C][PANELS];                                                                                  \
    UNROLL for (int c = 0; c < C; c++) UNROLL for (int i = 0; i < P; i++) sums[c][i] = (Floats){0};               \
    for (int64_t line = 0; line < K; line += 64 / sizeof(W)) {                                                    \
    const int64_t stop = line + 64 / (int64_t)sizeof(W) < K ? line + 64 / (int64_t)sizeof(W) : K;                 \
    UNROLL for (int c = 0; c < C; c++) __builtin_prefetch(w + (C + c) * K + line); /* of the next rows */         \
    for (int64_t k = line; k < stop; k += STEP) {                                                                 \
      V b[PANELS];                                                                                                \
      UNROLL for (int i = 0; i < P; i++) b[i] = LOAD(states + (i * units + k / STEP) * 16);                       \
      UNROLL for (int c = 0; c < C; c++) {                                                                        \
        const V a = GIVE(w + c * K + k);                                                                          \
        UNROLL for (int i = 0; i < P; i++) sums[c][i] = ADD(sums[c][i], a, b[i]);                                 \
      }                                                                                                           \
    }                                                                                                             \
    }                                                                                                             \
    UNROLL for (int i = 0; i < P; i++)                                                                            \
      put_tile(p, x->T, (panel + i) * 16, n, C, &sums[0][i], PANELS, out, stride, as);          \
  }                                                                                                               \
  static void many_##NAME(const Product *p, const Packed *x, void *out, int64_t stride, int as, int64_t n, int64_t end) { \
    const int64_t panels = (x->T + 15) / 16;                                                                      \
    for (int64_t num; n < end; n += num) {                                                                        \
      num = n + ALONE_C <= end ? ALONE_C : 1;                                                                     \
      int64_t i = 0;                                                                                              \
      if (num == 1)                                                                                               \
        for (; i < panels; i++) many_##NAME##_tile(p, x, n, i, 1, 1, out, stride, as);                            \
      for (; i + 2 <= panels && PANELS == 2; i += 2) {                                                            \
        many_##NAME##_tile(p, x, n, i, MANY_C, PANELS, out, stride, as);                                          \
        many_##NAME##_tile(p, x, n + MANY_C, i, MANY_C, PANELS, out, stride, as);                                 \
      }                                                                                                           \
      for (; i < panels; i++) many_##NAME##_tile(p, x, n, i, ALONE_C, 1, out, stride, as);                        \
    }                                                                                                             \
  }

static inline Floats floats_units(const uint32_t *p) { return floats_f32((const f32 *)p); }
static inline Floats give_f32(const f32 *p) { return (Floats){0} + *p; }
MANY(f32, f32, Floats, 1, floats_units, give_f32, add_product)
#ifdef PAIRS
static inline __m512i units_of_16(const uint32_t *p) { return _mm512_loadu_si512(p); }
static inline __m512i give_pair(const bf16 *p) { return _mm512_set1_epi32(*(const int *)p); }
MANY(bf16, bf16, __m512i, 2, units_of_16, give_pair, add_pairs)
#else
static inline Floats give_bf16(const bf16 *p) { return (Floats){0} + f32_from_bf16(*p); }
MANY(bf16, bf16, Floats, 1, floats_units, give_bf16, add_product)
#endif

/* Whose turn it is */

#ifdef PAIRS
#define FEW_BF16 few_pairs_bf16
#else
#define FEW_BF16 few_f32_bf16
#endif

static void few(const Product *p, const Packed *x, PART) {
  if (p->kind == W_F32) few_f32_f32(p, x, out, stride, as, n, end, far);
  else FEW_BF16(p, x, out, stride, as, n, end, far);
}

static void many(const Product *p, const Packed *x, void *out, int64_t stride, int as, int64_t n, int64_t end) {
  if (p->kind == W_F32) many_f32(p, x, out, stride, as, n, end);
  else many_bf16(p, x, out, stride, as, n, end);
}

void product_part(const Product *p, const Packed *x, void *out, int64_t stride, int as, int thread, int threads) {
  const int64_t N = p->N, far = N / 4;
  if (reading(p) == READ_BLOCKS) {
    block_part(p, x, out, stride, as, thread, threads);
  } else if (x->is_many) {
    const int64_t groups = (N + ALONE_C - 1) / ALONE_C, end = groups * (thread + 1) / threads * ALONE_C;
    many(p, x, out, stride, as, groups * thread / threads * ALONE_C, end < N ? end : N);
  } else {
    if (far) few(p, x, out, stride, as, far * thread / threads, far * (thread + 1) / threads, far);
    if (thread == threads - 1) few(p, x, out, stride, as, far * 4, N, 0);
  }
}

/* The whole product. x is (T, K) and out (T, N), of bfloat16 numbers where p says so. Returns 1 where there is no memory. */
int product(const Product *p, const void *x, void *out, int64_t T, int threads) {
  void *memory = malloc(packed_bytes(p, T));
  if (!memory) return 1;
  Packed packed;
  packed_over(&packed, p, T, memory);
  const int as = p->is_bf16 ? FROM_BF16 : FROM_F32;
  const int64_t wide = p->K * (p->is_bf16 ? 2 : 4);
  for (int64_t t = 0; t < T; t++) pack_row(&packed, p, (const char *)x + t * wide, as, t);
#pragma omp parallel num_threads(threads)
  {
    if (packed.is_many) {
#pragma omp for schedule(static)
      for (int64_t u = 0; u < packed.units; u += 16)
        pack_panels(&packed, u, u + 16 < packed.units ? u + 16 : packed.units);
    }
#pragma omp for schedule(static)
    for (int i = 0; i < threads; i++) product_part(p, &packed, out, p->N, as, i, threads);
  }
  free(memory);
  return 0;
}
