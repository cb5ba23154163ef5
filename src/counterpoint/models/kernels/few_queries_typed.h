/* The part of few_queries.c that is there once for each type X of numbers. */

/* values[r][16 c] += sum over n of p[r][n] * v[n][16 c], for R queries and C vectors of the values */
#define ADD_VALUES(R, C)                                                                                          \
  static inline void OF(add_##R##_##C, X)(const f32 *p, const X *v, int64_t far, int64_t num, f32 *values,        \
                                          int64_t E) {                                                            \
    Floats sums[R][C];                                                                                            \
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)                                         \
      sums[r][c] = floats_f32(values + r * E + 16 * c);                                                           \
    for (int64_t n = 0; n < num; n++) {                                                                           \
      Floats value[C];                                                                                            \
      UNROLL for (int c = 0; c < C; c++) value[c] = OF(floats, X)(v + n * far + 16 * c);                          \
      UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)                                       \
        sums[r][c] += value[c] * p[r * BLOCK + n];                                                                \
    }                                                                                                             \
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)                                         \
      *(Floats *)(values + r * E + 16 * c) = sums[r][c];                                                          \
  }
ADD_VALUES(4, 4) ADD_VALUES(2, 4) ADD_VALUES(1, 4)
ADD_VALUES(4, 1) ADD_VALUES(2, 1) ADD_VALUES(1, 1)

/* p[m][n] = x[m] . k[n] */
static void OF(score, X)(const X *x, const X *k, int64_t far, int64_t num, int64_t M, int64_t D, f32 *p) {
#define SCORES(R, C)                                                                                              \
  for (; n + C <= num; n += C) {                                                                                  \
    f32 sums[R][C];                                                                                               \
    OF(OF(dot, X), R##_##C)(x + m * D, D, k + n * far, far, D, sums);                                             \
    for (int r = 0; r < R; r++) memcpy(p + (m + r) * BLOCK + n, sums[r], sizeof sums[r]);                         \
  }
#define QUERIES(R)                                                                                                \
  for (; m + R <= M; m += R) {                                                                                    \
    int64_t n = 0;                                                                                                \
    SCORES(R, 4) SCORES(R, 1)                                                                                     \
  }
  int64_t m = 0;
  QUERIES(4) QUERIES(2) QUERIES(1)
#undef QUERIES
#undef SCORES
}

/* values[m] += sum over n of p[m][n] * v[n] */
static void OF(add, X)(const f32 *p, const X *v, int64_t far, int64_t num, int64_t M, int64_t E, f32 *values) {
#define QUERIES(R)                                                                                                \
  for (; m + R <= M; m += R) {                                                                                    \
    int64_t e = 0;                                                                                                \
    for (; e + 64 <= E; e += 64) OF(add_##R##_4, X)(p + m * BLOCK, v + e, far, num, values + m * E + e, E);       \
    for (; e + 16 <= E; e += 16) OF(add_##R##_1, X)(p + m * BLOCK, v + e, far, num, values + m * E + e, E);       \
    for (; e < E; e++)                                                                                            \
      for (int64_t r = m; r < m + R; r++)                                                                         \
        for (int64_t n = 0; n < num; n++) values[r * E + e] += p[r * BLOCK + n] * OF(f32_from, X)(v[n * far + e]); \
  }
  int64_t m = 0;
  QUERIES(4) QUERIES(2) QUERIES(1)
#undef QUERIES
}

void OF(attend, X)(const X *query, const X *k, const X *v, const uint8_t *mask, X *out, const Shape *s,
                          f32 scaling, int64_t num_heads, void *scratch) {
  const int64_t M = num_heads * s->Q, D = s->D, E = s->E;
  const uint8_t **allowed = scratch;
  Seen *seen = (Seen *)(allowed + M);
  f32 *p = (f32 *)(seen + M), *values = p + M * BLOCK;
  X *queries = (X *)(values + M * E);
  int64_t begin = s->N, end = 0;
  for (int64_t m = 0; m < M; m++) {
    const int64_t h = m / s->Q, q = m % s->Q;
    memcpy(queries + m * D, query + h * s->query[1] + q * s->query[2], D * sizeof(X));
    allowed[m] = mask + h * s->mask[1] + q * s->mask[2];
    seen[m] = (Seen){.most = -3e38f};
    int64_t first = 0, last = s->N;
    while (first < begin && !allowed[m][first]) first++;
    while (last > end && !allowed[m][last - 1]) last--;
    begin = first;
    end = last;
  }
  memset(values, 0, M * E * sizeof(f32));
  for (int64_t n = begin; n < end; n += BLOCK) {
    const int64_t num = end - n < BLOCK ? end - n : BLOCK;
    OF(score, X)(queries, k + n * s->k[2], s->k[2], num, M, D, p);
    for (int64_t m = 0; m < M; m++) weigh(p + m * BLOCK, allowed[m] + n, num, scaling, seen + m, values + m * E, E);
    OF(add, X)(p, v + n * s->v[2], s->v[2], num, M, E, values);
  }
  for (int64_t m = 0; m < M; m++) {
    X *to = out + (m % s->Q * s->H + m / s->Q) * E;
    const f32 share = seen[m].total == 0 ? 0 : 1 / seen[m].total;
    for (int64_t e = 0; e < E; e++) to[e] = OF(f32_to, X)(values[m * E + e] * share);
  }
}

int OF(few_queries, X)(const X *query, const X *k, const X *v, const uint8_t *mask, X *out, const Shape *s, f32 scaling) {
  const int64_t num_heads = s->H / s->G, M = num_heads * s->Q;
  int failed = 0;
#pragma omp parallel num_threads(s->threads)
  {
    void *scratch = malloc(attention_bytes(M, s->D, s->E));
    if (!scratch) failed = 1;
#pragma omp for schedule(dynamic)
    for (int64_t at = 0; at < s->R * s->G; at++) {
      const int64_t r = at / s->G, g = at % s->G, h = g * num_heads;
      if (scratch)
        OF(attend, X)(query + r * s->query[0] + h * s->query[1], k + r * s->k[0] + g * s->k[1],
                      v + r * s->v[0] + g * s->v[1], mask + r * s->mask[0] + h * s->mask[1],
                      out + (r * s->Q * s->H + h) * s->E, s, scaling, num_heads, scratch);
    }
    free(scratch);
  }
  return failed;
}
