/* Attention of a few queries of each row, every key and value read from memory once.

out[r][q][h] = sum over n of w[n] * v[r][g][n], where w is the softmax of scaling * query[r][h][q] . k[r][g][n] over the n
that mask[r][h][q] allows, in float32; head h reads group g = h / (H / G). A query that may attend to nothing gets 0.
Returns 0, or 1 where there is no memory.

The keys go by in blocks, with a running maximum, sum and result for each query (Milakov and Gimelshein 2018,
arXiv 1805.02867). What lies before or after all that a row may attend to is not read. */

#include "few_queries.h"

#define BLOCK 64 /* keys */

static inline f32 max_of(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#endif
  f32 most = v[0];
  for (int i = 1; i < 16; i++) most = v[i] > most ? v[i] : most;
  return most;
}

/* What one query has seen: its largest score, and the sum of e^(score - most). */
typedef struct {
  f32 most, total;
} Seen;

int64_t attention_bytes(int64_t num_queries, int64_t D, int64_t E) {
  return num_queries * (sizeof(uint8_t *) + sizeof(Seen) + (BLOCK + E + D) * sizeof(f32)) + 1;
}

/* The scores of a block become e^(score - most), in place; what was summed before is scaled to the new maximum. */
static inline void weigh(f32 *p, const uint8_t *allowed, int64_t num, f32 scaling, Seen *seen, f32 *values,
                         int64_t E) {
  Floats largest = (Floats){0} + seen->most;
  for (int64_t n = 0; n < BLOCK; n += 16) {
    Bytes some = {0};
    if (n < num) memcpy(&some, allowed + n, num - n < 16 ? num - n : 16);
    const Ints stays = __builtin_convertvector(some, Ints) != 0, none = (Ints)((Floats){0} - __builtin_inff());
    const Floats v = (Floats)(((Ints)(floats_f32(p + n) * scaling) & stays) | (none & ~stays));
    *(Floats *)(p + n) = v;
    const Ints is_more = v > largest;
    largest = (Floats)(((Ints)v & is_more) | ((Ints)largest & ~is_more));
  }
  const f32 most = max_of(largest);
  if (most > seen->most) {
    const f32 share = exp_of((Floats){0} + (seen->most - most))[0];
    for (int64_t e = 0; e < E; e++) values[e] *= share;
    seen->total *= share;
    seen->most = most;
  }
  Floats sum = {0};
  for (int64_t n = 0; n < BLOCK; n += 16) {
    const Floats v = exp_of(floats_f32(p + n) - most);
    *(Floats *)(p + n) = v;
    sum += v;
  }
  seen->total += sum_of(sum);
}

#define JOIN(a, b) a##_##b
#define OF(name, type) JOIN(name, type)

TILES(dot_f32, f32, f32, Floats, 16, floats_f32, floats_f32, add_product)
#define X f32
#include "few_queries_typed.h"
#undef X

#if defined(__AVX512BF16__)
TILES(dot_bf16, bf16, bf16, __m512i, 32, pairs_of, pairs_of, add_pairs)
#else
TILES(dot_bf16, bf16, bf16, Floats, 16, floats_bf16, floats_bf16, add_product)
#endif
#define X bf16
#include "few_queries_typed.h"
#undef X
