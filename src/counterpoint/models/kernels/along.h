/* Operations on the numbers of one token, along one dimension. */

#ifndef ALONG_H
#define ALONG_H
#include <math.h>
#include "vectors.h"

/* Read by kernels/step.py: the place in this list is the number. */
enum Op {
  ADD, SUB, MUL, DIV, POW, MAXIMUM, MINIMUM, NEG, ABS, EXP, LOG, SQRT, RSQRT, RECIPROCAL, SIN, COS, TANH, ERF, SIGMOID,
  SILU, GELU, GELU_TANH, RELU, SOFTPLUS, COPY, CLAMP, SUM, MEAN, AMAX, LAYER_NORM, EMBED, EMBED_BLOCKS, KEEP, ASK, TAKE,
  GIVE, PRODUCT, ATTEND
};
/* Numbers of a token, or constants that all tokens share: strides of up to 4 dimensions, the innermost last */
typedef struct {
  const f32 *constant; /* null: the token's own, from `at` */
  int64_t at, stride[4];
} Operand;

typedef struct {
  int64_t op, is_rounded, size[4];
  Operand out, in[3];
  double number[2];
  int64_t more[4];
} Instruction;

static inline Floats get(const f32 *p, int64_t stride, int64_t i, int64_t left) {
  if (stride == 1 && left >= 16) return floats_f32(p + i);
  if (stride == 0) return (Floats){0} + *p;
  Floats v = {0};
  for (int64_t j = 0; j < 16 && j < left; j++) v[j] = p[(i + j) * stride];
  return v;
}
static inline void set(f32 *p, int64_t stride, int64_t i, int64_t left, Floats v, int64_t is_rounded) {
  if (is_rounded) v = rounded(v);
  if (stride == 1 && left >= 16) *(Floats *)(p + i) = v;
  else
    for (int64_t j = 0; j < 16 && j < left; j++) p[(i + j) * stride] = v[j];
}

#define SCALARS(NAME, CALL)                                                                                       \
  static inline Floats NAME(Floats a) {                                                                           \
    for (int j = 0; j < 16; j++) a[j] = CALL(a[j]);                                                               \
    return a;                                                                                                     \
  }
SCALARS(sqrt_of, sqrtf) SCALARS(sin_of, sinf) SCALARS(cos_of, cosf) SCALARS(log_of, logf) SCALARS(log1p_of, log1pf)
static inline Floats abs_of(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }
static inline Floats pick(Ints which, Floats a, Floats b) { return (Floats)(((Ints)a & which) | ((Ints)b & ~which)); }
static inline Floats sigmoid_of(Floats a) { return 1.0f / (1.0f + exp_of(-a)); }
static inline Floats pow_of(Floats a, Floats b) {
  for (int j = 0; j < 16; j++) a[j] = powf(a[j], b[j]);
  return a;
}
/* Near 0 its series, elsewhere by e^2x */
static inline Floats tanh_of(Floats a) {
  const Floats x = abs_of(a), y = a * a;
  Floats near = (y * 2.1869488e-2f - 5.3968254e-2f) * y + 1.3333333e-1f;
  near = a + a * y * (near * y - 3.3333333e-1f);
  const Floats far = 1.0f - 2.0f / (exp_of(2.0f * x) + 1.0f);
  const Floats signed_far = (Floats)((Ints)far | ((Ints)a & (int)0x80000000));
  return pick(a == a, pick(x < 0.25f, near, signed_far), a);
}
/* Abramowitz and Stegun 7.1.26: to 1.5e-7 */
static inline Floats erf_of(Floats a) {
  const Floats x = abs_of(a), t = 1.0f / (1.0f + 0.3275911f * x);
  Floats y = t * 1.061405429f - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = (y * t + 0.254829592f) * t;
  const Floats far = 1.0f - y * exp_of(-x * x);
  return pick(a == a, (Floats)((Ints)far | ((Ints)a & (int)0x80000000)), a);
}
static inline Floats gelu_tanh_of(Floats a) {
  return 0.5f * a * (1.0f + tanh_of(0.7978845608f * (a + 0.044715f * a * a * a)));
}

#define A get(p[0], s[0], i, n - i)
#define B get(p[1], s[1], i, n - i)
#define CASE(OP, VALUE)                                                                                           \
  case OP:                                                                                                        \
    for (int64_t i = 0; i < n; i += 16) {                                                                         \
      const Floats a = A;                                                                                         \
      set(to, s[3], i, n - i, VALUE, r);                                                                          \
    }                                                                                                             \
    break;

/* One run along the innermost dimension */
static void along(const Instruction *o, f32 *to, const f32 *const p[3], const int64_t s[4]) {
  const int64_t n = o->size[3], r = o->is_rounded;
  const f32 x = o->number[0], y = o->number[1];
  switch (o->op) {
    CASE(ADD, a + x * B)
    CASE(SUB, a - x * B)
    CASE(MUL, a * B)
    CASE(DIV, a / B)
    case POW:
      if (s[1] == 0 && *p[1] == 3) { /* the cube in GPT-2's activation */
        for (int64_t i = 0; i < n; i += 16) {
          const Floats a = A;
          set(to, s[3], i, n - i, a * a * a, r);
        }
        break;
      }
      for (int64_t i = 0; i < n; i += 16) set(to, s[3], i, n - i, pow_of(A, B), r);
      break;
    CASE(MAXIMUM, pick(a > B, a, B))
    CASE(MINIMUM, pick(a < B, a, B))
    CASE(NEG, -a)
    CASE(ABS, abs_of(a))
    CASE(EXP, exp_of(a))
    CASE(LOG, log_of(a))
    CASE(SQRT, sqrt_of(a))
    CASE(RSQRT, 1.0f / sqrt_of(a))
    CASE(RECIPROCAL, 1.0f / a)
    CASE(SIN, sin_of(a))
    CASE(COS, cos_of(a))
    CASE(TANH, tanh_of(a))
    CASE(ERF, erf_of(a))
    CASE(SIGMOID, sigmoid_of(a))
    CASE(SILU, a * sigmoid_of(a))
    CASE(GELU, 0.5f * a * (1.0f + erf_of(a * 0.70710678f)))
    CASE(GELU_TANH, gelu_tanh_of(a))
    CASE(RELU, pick(a > 0.0f, a, pick(a == a, (Floats){0}, a)))
    CASE(SOFTPLUS, pick(a > 20.0f, a, log1p_of(exp_of(a))))
    CASE(COPY, a)
    CASE(CLAMP, pick(a < x, (Floats){0} + x, pick(a > y, (Floats){0} + y, a)))
    case SUM:
    case MEAN: {
      Floats sum = {0};
      int64_t i = 0;
      for (; i + 16 <= n; i += 16) sum += A;
      f32 all = sum_of(sum);
      for (; i < n; i++) all += p[0][i * s[0]];
      set(to, 1, 0, 1, (Floats){o->op == MEAN ? all / n : all}, r);
      break;
    }
    case AMAX: {
      f32 most = p[0][0];
      for (int64_t i = 1; i < n; i++) most = p[0][i * s[0]] > most ? p[0][i * s[0]] : most;
      *to = most;
      break;
    }
    case LAYER_NORM: {
      Floats parts = {0}, wide = {0};
      for (int64_t i = 0; i < n; i += 16) parts += A; /* past the last it is 0 */
      const f32 mean = sum_of(parts) / n;
      int64_t whole = 0;
      for (; whole + 16 <= n; whole += 16) {
        const Floats v = get(p[0], s[0], whole, 16) - mean;
        wide += v * v;
      }
      f32 squares = sum_of(wide);
      for (int64_t i = whole; i < n; i++) squares += (p[0][i * s[0]] - mean) * (p[0][i * s[0]] - mean);
      const f32 by = 1 / sqrtf(squares / n + x);
      for (int64_t i = 0; i < n; i += 16) {
        Floats v = (A - mean) * by;
        if (p[1]) v *= B;
        if (p[2]) v += get(p[2], s[2], i, n - i);
        set(to, s[3], i, n - i, v, r);
      }
      break;
    }
  }
}
#undef A
#undef B
#undef CASE
#endif
