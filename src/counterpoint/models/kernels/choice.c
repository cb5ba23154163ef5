/* The next token of many texts: the predictions of a text's branches weighed together as logits, the best token, a draw. */

#include <math.h>
#include <omp.h>
#include "vectors.h"

#define BLOCK 64 /* tokens of a block, as in sampling.py */

typedef double Doubles __attribute__((vector_size(128)));

typedef struct {
  int64_t B, K, V, is_bf16, threads;
  const void **logits;    /* (B, 1 + K) addresses of V numbers each: the prompt's branch first */
  const f32 *weights;     /* (B, K) */
  const f32 *margins;     /* (B): tokens whose logit of the prompt's branch is further below its best are left out */
  const uint8_t *allowed; /* (B, V), what it leaves out is left out first; null: nothing */
  /* from here on what comes of it, or is given for a draw */
  int64_t *best;           /* (B): the first of the best tokens; -1 where a branch or the best is not finite */
  f32 *most, *least;       /* (B): the best score, and the least logit of the prompt's branch that is not left out */
  f32 *scores;             /* (B, V) */
  const f32 *temperatures; /* (B), above 0 */
  const double **uniform;  /* (B) addresses of blocks + BLOCK numbers from 0 to below 1 */
  int64_t *drawn;          /* (B) */
} Texts;

static inline Floats pick(Ints which, Floats a, Floats b) { return (Floats)(((Ints)a & which) | ((Ints)b & ~which)); }
static inline Floats larger(Floats a, Floats b) { /* b where one is not a number */
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return pick((Ints)(a > b), a, b);
#endif
}
static inline f32 largest(Floats v) {
  f32 most = v[0];
  for (int i = 1; i < 16; i++) most = v[i] > most ? v[i] : most;
  return most;
}
static inline int any_of(Ints which) {
  uint64_t parts[8], any = 0;
  memcpy(parts, &which, 64);
  for (int i = 0; i < 8; i++) any |= parts[i];
  return any != 0;
}
static const f32 INF = __builtin_inff();

/* Numbers from v on of `left`; what is missing is the first number of all, which changes no maximum */
#define LOADED(TYPE)                                                                                                \
  static inline Floats loaded_##TYPE(const TYPE *x, int64_t v, int64_t left) {                                      \
    if (left >= 16) return floats_##TYPE(x + v);                                                                    \
    Floats some = (Floats){0} + f32_from_##TYPE(*x);                                                                \
    for (int64_t i = 0; i < left; i++) some[i] = f32_from_##TYPE(x[v + i]);                                         \
    return some;                                                                                                    \
  }
LOADED(f32)
LOADED(bf16)

static inline Ints allowed_at(const uint8_t *allowed, int64_t v, int64_t left) {
  if (!allowed) {
    const Ints place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return place < (int32_t)(left < 16 ? left : 16);
  }
  Bytes some = {0};
  memcpy(&some, allowed + v, left < 16 ? left : 16);
  return __builtin_convertvector(some, Ints) != 0;
}

/* Scores l_c + sum w_b (l_b - l_c) of 16 tokens of text b, -inf for what is left out and past the last; what the branches
say of them goes into `most`, where that is given, and into `is_number`. */
#define SCORED(TYPE)                                                                                                \
  static inline __attribute__((always_inline)) Floats scored_##TYPE(const Texts *o, int64_t b, int64_t v, f32 least, \
                                                                    Floats *most, Ints *is_number) {                \
    const TYPE *const *x = (const TYPE *const *)o->logits + b * (1 + o->K);                                         \
    const int64_t left = o->V - v;                                                                                  \
    const Floats cond = loaded_##TYPE(x[0], v, left);                                                               \
    Floats score = cond;                                                                                            \
    if (most) most[0] = larger(cond, most[0]), *is_number &= (Ints)(cond == cond);                                  \
    for (int64_t k = 0; k < o->K; k++) {                                                                            \
      const Floats own = loaded_##TYPE(x[k + 1], v, left);                                                          \
      score += o->weights[b * o->K + k] * (own - cond);                                                             \
      if (most) most[k + 1] = larger(own, most[k + 1]), *is_number &= (Ints)(own == own);                           \
    }                                                                                                               \
    Ints stays = allowed_at(o->allowed ? o->allowed + b * o->V : NULL, v, left);                                    \
    if (least > -INF) stays &= ~(Ints)(cond < least);                                                               \
    score = pick(stays, score, (Floats){0} - INF);                                                                  \
    if (most) *is_number &= (Ints)(score == score);                                                                 \
    return score;                                                                                                   \
  }                                                                                                                 \
                                                                                                                    \
  static f32 least_##TYPE(const Texts *o, int64_t b) {                                                              \
    const TYPE *x = ((const TYPE *const *)o->logits)[b * (1 + o->K)];                                               \
    const uint8_t *allowed = o->allowed ? o->allowed + b * o->V : NULL;                                             \
    Floats most = (Floats){0} - INF;                                                                                \
    for (int64_t v = 0; v < o->V; v += 16)                                                                          \
      most = larger(pick(allowed_at(allowed, v, o->V - v), loaded_##TYPE(x, v, o->V - v), (Floats){0} - INF), most); \
    return largest(most) - o->margins[b];                                                                           \
  }                                                                                                                 \
                                                                                                                    \
  static void best_##TYPE(const Texts *o, int64_t b) {                                                              \
    const f32 least = o->least[b] = o->margins[b] < INF ? least_##TYPE(o, b) : -INF;                                \
    const Ints first = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};                                      \
    Ints is_number = (Ints){0} == 0, where = first;                                                                 \
    Floats best = (Floats){0} - INF, most[1 + o->K];                                                                \
    for (int64_t k = 0; k < 1 + o->K; k++) most[k] = best;                                                          \
    for (int64_t v = 0; v < o->V; v += 16) {                                                                        \
      const Floats score = scored_##TYPE(o, b, v, least, most, &is_number);                                         \
      const Ints is_better = (Ints)(score > best);                                                                  \
      where = (Ints)pick(is_better, (Floats)(first + (int32_t)v), (Floats)where);                                   \
      best = larger(score, best);                                                                                   \
    }                                                                                                               \
    o->most[b] = largest(best);                                                                                     \
    o->best[b] = -1; /* an infinite logit has rules of its own */                                                   \
    for (int64_t k = 0; k < 1 + o->K; k++)                                                                          \
      if (!isfinite(largest(most[k]))) return;                                                                      \
    if (any_of(~is_number) || !isfinite(o->most[b])) return;                                                        \
    for (int i = 0; i < 16; i++)                                                                                    \
      if (best[i] == o->most[b] && (o->best[b] < 0 || where[i] < o->best[b])) o->best[b] = where[i];                \
  }                                                                                                                 \
                                                                                                                    \
  static void written_##TYPE(const Texts *o, int64_t b) {                                                           \
    for (int64_t v = 0; v < o->V; v += 16) {                                                                        \
      const Floats score = scored_##TYPE(o, b, v, o->least[b], NULL, NULL);                                         \
      memcpy(o->scores + b * o->V + v, &score, (o->V - v < 16 ? o->V - v : 16) * 4);                                \
    }                                                                                                               \
  }                                                                                                                 \
                                                                                                                    \
  /* e^((s - most) / temperature) of 16 tokens, 0 past the last */                                                  \
  static inline __attribute__((always_inline)) Floats share_##TYPE(const Texts *o, int64_t b, int64_t v) {          \
    if (v >= o->V) return (Floats){0};                                                                              \
    Floats score = scored_##TYPE(o, b, v, o->least[b], NULL, NULL) - o->most[b];                                    \
    if (o->temperatures[b] != 1) score /= o->temperatures[b];                                                       \
    return exp_of(score);                                                                                           \
  }                                                                                                                 \
                                                                                                                    \
  static void drawn_##TYPE(const Texts *o, int64_t b) {                                                             \
    const int64_t blocks = (o->V + BLOCK - 1) / BLOCK;                                                              \
    int64_t block = 0, place = 0;                                                                                   \
    double ahead = -1;                                                                                              \
    for (int64_t v = 0; v < blocks; v += 16) {                                                                      \
      Doubles masses = {0};                                                                                         \
      for (int64_t k = 0; k < BLOCK; k++)                                                                           \
        masses += __builtin_convertvector(share_##TYPE(o, b, k * blocks + v), Doubles);                             \
      for (int64_t i = 0; i < 16 && v + i < blocks; i++) {                                                          \
        const double own = masses[i] / wait(o->uniform[b][v + i]);                                                  \
        if (own > ahead) ahead = own, block = v + i;                                                                \
      }                                                                                                             \
    }                                                                                                               \
    ahead = -1;                                                                                                     \
    for (int64_t k = 0; k < BLOCK && k * blocks + block < o->V; k++) {                                              \
      const double own = share_##TYPE(o, b, k * blocks + block)[0] / wait(o->uniform[b][blocks + k]);               \
      if (own > ahead) ahead = own, place = k;                                                                      \
    }                                                                                                               \
    o->drawn[b] = place * blocks + block;                                                                           \
  }

/* An exponential random number from a uniform one, as `sampling.draw_rows` makes it */
static inline double wait(double uniform) { return -log(uniform > 0x1p-54 ? uniform : 0x1p-54); }

SCORED(f32)
SCORED(bf16)

#define EACH(NAME)                                                                                                  \
  void choice_##NAME(const Texts *o) {                                                                              \
    _Pragma("omp parallel for schedule(dynamic) num_threads(o->threads) if (o->threads > 1)")                       \
    for (int64_t b = 0; b < o->B; b++)                                                                              \
      if (o->is_bf16) NAME##_bf16(o, b);                                                                            \
      else                                                                                                          \
        NAME##_f32(o, b);                                                                                           \
  }
EACH(best)
EACH(written)
EACH(drawn)
