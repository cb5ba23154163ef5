/* Attention of a few queries: what other files of this folder call. */

#ifndef FEW_QUERIES_H
#define FEW_QUERIES_H
#include "vectors.h"

typedef struct {
  int64_t R, H, G, Q, N, D, E;             /* rows, heads, groups, queries, keys, sizes of a key and of a value */
  int64_t query[3], k[3], v[3], mask[3];   /* strides: of the row, of the head or group, of the position */
  int64_t threads;
} Shape;

/* The queries of one row and group, which are `num_heads` times s->Q. Scratch is attention_bytes of them. */
void attend_f32(const f32 *query, const f32 *k, const f32 *v, const uint8_t *mask, f32 *out, const Shape *s, f32 scaling,
                int64_t num_heads, void *scratch);
void attend_bf16(const bf16 *query, const bf16 *k, const bf16 *v, const uint8_t *mask, bf16 *out, const Shape *s,
                 f32 scaling, int64_t num_heads, void *scratch);
int64_t attention_bytes(int64_t num_queries, int64_t D, int64_t E);
#endif
