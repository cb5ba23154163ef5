/* One forward of a model for T tokens, as a program that was recorded from the model's own.

Each token has numbers of its own, all float32, in the places that the model's tensors had in memory. Instructions work on
the numbers of one token; products and attention, between them, on those of all. One team of threads stays for all of it.
Numbers that the model holds in bfloat16 are rounded where the model rounds them. */

#include <omp.h>
#include "along.h"
#include "blocks.h"
#include "few_queries.h"

enum Phase { TOKENS, PRODUCTS, ATTENTION };

typedef struct {
  int64_t phase, begin, end, is_wanted; /* is_wanted: for the tokens whose predictions are wanted */
} Part;

/* Of a layer: buffers of keys and values, their strides by slot, head and position, heads and sizes */
typedef struct {
  void *buffer[2];
  int64_t stride[2][3], G, size[2];
} Layer;

typedef struct {
  int64_t num_parts;
  const Part *parts;
  const Instruction *instructions;
  const Product *products;
  const Layer *layers;
  int64_t is_bf16, threads;
  int64_t R, Q, M, V, reach;                             /* lines, tokens of each, wanted predictions, logits, positions */
  const int64_t *ids, *positions, *writes, *slots, *wanted; /* (R, Q), (R, Q), (R, Q), (R), (M) */
  const uint8_t **masks;                                 /* of each kind and line, (Q, N) */
  const int64_t *mask_strides;                           /* of the token, for each kind */
  f32 *arena, *wanted_arena;                             /* (R Q, wide), (M, wanted_wide) */
  int64_t wide, wanted_wide;
  void *queries, *attended, *packed, *logits;
} Run;

/* Numbers (G, size) of a token to or from those of a buffer, (G, size) of its type */
static void moved(const Instruction *o, const Operand *of, f32 *token, void *buffer, int64_t stride, int is_bf16, int is_read) {
  for (int64_t g = 0; g < o->size[2]; g++) {
    f32 *p = token + of->at + g * of->stride[2];
    if (!is_bf16 && of->stride[3] == 1) {
      f32 *q = (f32 *)buffer + g * stride;
      memcpy(is_read ? p : q, is_read ? q : p, o->size[3] * 4);
      continue;
    }
    int64_t i = 0;
    if (of->stride[3] == 1) {
      bf16 *q = (bf16 *)buffer + g * stride;
      for (; i + 16 <= o->size[3]; i += 16) {
        if (is_read) *(Floats *)(p + i) = floats_bf16(q + i);
        else
          bf16_from_floats(q + i, rounded(floats_f32(p + i)));
      }
    }
    for (; i < o->size[3]; i++) {
      f32 *v = p + i * of->stride[3];
      if (is_read) *v = is_bf16 ? f32_from_bf16(((bf16 *)buffer)[g * stride + i]) : ((f32 *)buffer)[g * stride + i];
      else if (is_bf16) ((bf16 *)buffer)[g * stride + i] = f32_to_bf16(*v);
      else
        ((f32 *)buffer)[g * stride + i] = *v;
    }
  }
}

/* One instruction for token t, whose numbers are given. Returns 1 where an id is not in its table. */
static int done(const Run *run, const Instruction *o, f32 *token, int64_t t) {
  const int64_t wide = run->is_bf16 ? 2 : 4;
  switch (o->op) {
    case EMBED:
    case EMBED_BLOCKS: {
      const int64_t id = token[o->in[0].at], size = o->more[2];
      if (id < 0 || id >= o->more[3]) return 1;
      f32 *to = token + o->out.at;
      if (o->op == EMBED_BLOCKS)
        block_weights(o->more[1], (const uint8_t *)o->more[0], &id, 1, to, o->more[3], size / 32, 1);
      else if (o->more[1] == W_F32) memcpy(to, (const f32 *)o->more[0] + id * size, size * 4);
      else
        for (int64_t i = 0; i < size; i++) to[i] = f32_from_bf16(((const bf16 *)o->more[0])[id * size + i]);
      return 0;
    }
    case KEEP: /* in[0] to the keys, in[1] to the values */
      for (int64_t i = 0; i < 2; i++) {
        const Layer *l = run->layers + o->more[0];
        const int64_t at = run->slots[t / run->Q] * l->stride[i][0] + run->writes[t] * l->stride[i][2];
        Instruction own = *o;
        own.size[2] = l->G;
        own.size[3] = l->size[i];
        moved(&own, &o->in[i], token, (char *)l->buffer[i] + at * wide, l->stride[i][1], run->is_bf16, 0);
      }
      return 0;
    case ASK: /* queries */
    case TAKE: { /* results of attention */
      char *buffer = o->op == ASK ? run->queries : run->attended;
      const int64_t num = o->size[2] * o->size[3];
      moved(o, o->op == ASK ? &o->in[0] : &o->out, token, buffer + t * num * wide, o->size[3], run->is_bf16, o->op == TAKE);
      return 0;
    }
    case GIVE: /* logits */
      for (int64_t i = 0; i < run->V; i++) {
        const f32 v = token[o->in[0].at + i * o->in[0].stride[3]];
        if (run->is_bf16) ((bf16 *)run->logits)[t * run->V + i] = f32_to_bf16(v);
        else
          ((f32 *)run->logits)[t * run->V + i] = v;
      }
      return 0;
  }
  for (int64_t i = 0; i < o->size[0]; i++)
    for (int64_t j = 0; j < o->size[1]; j++)
      for (int64_t k = 0; k < o->size[2]; k++) {
        const f32 *p[3];
        int64_t s[4];
        for (int x = 0; x < 3; x++) {
          const Operand *in = o->in + x;
          const f32 *base = in->constant ? in->constant : in->at < 0 ? NULL : token;
          p[x] = base ? base + in->at + i * in->stride[0] + j * in->stride[1] + k * in->stride[2] : NULL;
          s[x] = in->stride[3];
        }
        s[3] = o->out.stride[3];
        along(o, token + o->out.at + i * o->out.stride[0] + j * o->out.stride[1] + k * o->out.stride[2], p, s);
      }
  return 0;
}

static void products_of(const Run *run, const Part *part, int thread, int threads) {
  const Instruction *first = run->instructions + part->begin;
  const Product *product = run->products + first->more[0];
  const int64_t T = part->is_wanted ? run->M : run->R * run->Q;
  Packed x;
  packed_over(&x, product, T, run->packed);
#pragma omp for schedule(static)
  for (int64_t t = 0; t < T; t++) {
    /* of the head the states are those of the wanted tokens */
    const f32 *token = part->is_wanted && !first->more[2] ? run->wanted_arena + t * run->wanted_wide
                                                          : run->arena + (part->is_wanted ? run->wanted[t] : t) * run->wide;
    pack_row(&x, product, token + first->in[0].at, FROM_F32, t);
  }
  if (x.is_many) {
#pragma omp for schedule(static)
    for (int64_t u = 0; u < x.units; u += 16) pack_panels(&x, u, u + 16 < x.units ? u + 16 : x.units);
  }
  for (int64_t i = part->begin; i < part->end; i++) {
    const Instruction *o = run->instructions + i;
    const Product *p = run->products + o->more[0];
    if (o->more[1])
      product_part(p, &x, run->logits, run->V, run->is_bf16 ? FROM_BF16 : FROM_F32, thread, threads);
    else if (part->is_wanted)
      product_part(p, &x, run->wanted_arena + o->out.at, run->wanted_wide, FROM_F32, thread, threads);
    else
      product_part(p, &x, run->arena + o->out.at, run->wide, FROM_F32, thread, threads);
  }
#pragma omp barrier
}

static void attention_of(const Run *run, const Part *part, void *scratch) {
  const Instruction *o = run->instructions + part->begin;
  const Layer *l = run->layers + o->more[0];
  const int64_t H = o->size[2], num_heads = H / l->G, kind = o->more[1], wide = run->is_bf16 ? 2 : 4;
  const Shape s = {run->R, H, l->G, run->Q, run->reach, l->size[0], l->size[1],
                   {run->Q * H * l->size[0], l->size[0], H * l->size[0]},
                   {l->stride[0][0], l->stride[0][1], l->stride[0][2]},
                   {l->stride[1][0], l->stride[1][1], l->stride[1][2]},
                   {0, 0, run->mask_strides[kind]}, 1};
#pragma omp for schedule(dynamic)
  for (int64_t i = 0; i < run->R * l->G; i++) {
    const int64_t r = i / l->G, g = i % l->G, h = g * num_heads;
    const char *query = (char *)run->queries + (r * s.query[0] + h * s.query[1]) * wide;
    const char *k = (char *)l->buffer[0] + (run->slots[r] * s.k[0] + g * s.k[1]) * wide;
    const char *v = (char *)l->buffer[1] + (run->slots[r] * s.v[0] + g * s.v[1]) * wide;
    char *out = (char *)run->attended + (r * s.Q * H + h) * s.E * wide;
    const uint8_t *mask = run->masks[kind * run->R + r];
    if (run->is_bf16)
      attend_bf16((bf16 *)query, (bf16 *)k, (bf16 *)v, mask, (bf16 *)out, &s, o->number[0], num_heads, scratch);
    else
      attend_f32((f32 *)query, (f32 *)k, (f32 *)v, mask, (f32 *)out, &s, o->number[0], num_heads, scratch);
  }
}

static int64_t scratch_bytes(const Run *run) {
  int64_t most = 1;
  for (int64_t i = 0; i < run->num_parts; i++) {
    const Instruction *o = run->instructions + run->parts[i].begin;
    if (run->parts[i].phase != ATTENTION) continue;
    const Layer *l = run->layers + o->more[0];
    const int64_t bytes = attention_bytes(o->size[2] / l->G * run->Q, l->size[0], l->size[1]);
    most = bytes > most ? bytes : most;
  }
  return most;
}

/* Returns 0; 1 where an id or a position is in no table; 2 where there is no memory. */
int step(const Run *run) {
  const int64_t T = run->R * run->Q, bytes = scratch_bytes(run);
  int failed = 0;
#pragma omp parallel num_threads(run->threads)
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    void *scratch = malloc(bytes);
    if (!scratch) failed = 2;
#pragma omp barrier
    for (int64_t i = 0; i < run->num_parts && failed != 2; i++) {
      const Part *part = run->parts + i;
      if (part->phase == ATTENTION) attention_of(run, part, scratch);
      else if (part->phase == PRODUCTS) products_of(run, part, thread, threads);
      else {
        const int64_t num = part->is_wanted ? run->M : T;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < num; t++) {
          f32 *token = part->is_wanted ? run->wanted_arena + t * run->wanted_wide : run->arena + t * run->wide;
          if (!part->is_wanted && i == 0) {
            token[0] = run->ids[t];
            token[1] = run->positions[t];
          }
          for (int64_t o = part->begin; o < part->end; o++)
            if (done(run, run->instructions + o, token, t)) failed = 1;
        }
      }
    }
    free(scratch);
  }
  return failed;
}
