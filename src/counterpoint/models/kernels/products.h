/* Products of rows of states with all rows of a weight: what other files of this folder call. */

#ifndef PRODUCTS_H
#define PRODUCTS_H
#include "vectors.h"

enum { FROM_F32, FROM_BF16 };                        /* what states are given as, and what results are written as */
enum { W_F32, W_BF16, W_I8, W_Q8_0, W_Q4_0, W_Q4_1 }; /* what a weight is held as */

/* out[t][n] = scale[n] * sum over k of x[t][k] * w[n][k] + bias[n]; w is (N, K). bias may be null, and scale is there for W_I8
   alone. */
typedef struct {
  int64_t kind, is_bf16; /* is_bf16: states and results are bfloat16 numbers, however they are given */
  int64_t N, K;
  const void *w;
  const f32 *scale, *bias;
} Product;

/* Rows of states as the products of one kind read them */
typedef struct {
  int64_t T, K, units;        /* rows; numbers and 32-bit units in a row */
  int is_many;                /* units lie in panels of 16 rows */
  uint32_t *rows, *panels;    /* (T, units), (T / 16, units, 16) */
} Packed;

int64_t packed_bytes(const Product *p, int64_t T);
void packed_over(Packed *to, const Product *p, int64_t T, void *memory);
/* One row; then, where `is_many`, all units from..to of all rows, once every row is there. */
void pack_row(Packed *to, const Product *p, const void *x, int from, int64_t t);
void pack_panels(Packed *to, int64_t begin, int64_t end);
/* A thread's part of the result: `stride` numbers between rows of out, which are written as `as`. */
void product_part(const Product *p, const Packed *x, void *out, int64_t stride, int as, int thread, int threads);
#endif
