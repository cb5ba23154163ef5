/* Weights in GGUF's blocks, as products.c multiplies with them. */

#ifndef BLOCKS_H
#define BLOCKS_H
#include "products.h"

void block_weights(int64_t kind, const uint8_t *w, const int64_t *rows, int64_t num, f32 *out, int64_t N, int64_t B,
                   int threads);
int64_t block_units(const Product *p);
void pack_block_row(const Product *p, const void *x, int from, uint32_t *row);
void block_part(const Product *p, const Packed *x, void *out, int64_t stride, int as, int thread, int threads);
#endif
