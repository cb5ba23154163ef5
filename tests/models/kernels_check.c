/* Kernels against plain loops in double precision, for processors that torch is not at hand for. Says what differs; 0 where
nothing does. Built and run by test_kernels_elsewhere.py. */

#include <stdio.h>
#include "along.h"
#include "few_queries.h"
#include "products.h"

int product(const Product *p, const void *x, void *out, int64_t T, int threads);
void blocks_laid(int64_t kind, const uint8_t *weight, uint8_t *out, int64_t N, int64_t blocks, int threads);
void block_weights(int64_t kind, const uint8_t *weight, const int64_t *rows, int64_t num, f32 *out, int64_t N,
                   int64_t blocks, int threads);
int few_queries_f32(const f32 *, const f32 *, const f32 *, const uint8_t *, f32 *, const Shape *, f32);
int few_queries_bf16(const bf16 *, const bf16 *, const bf16 *, const uint8_t *, bf16 *, const Shape *, f32);
void choice_best(const int64_t *), choice_drawn(const int64_t *);

static int failures;
static uint64_t state = 1;
static double uniform(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return ((z ^ z >> 31) >> 11) * 0x1p-53;
}
static f32 number(void) { return 4 * uniform() - 2; }

static void compare(const char *what, int64_t a, int64_t b, const double *got, const double *want, int64_t num, double close) {
  double most = 0, worst = 0;
  for (int64_t i = 0; i < num; i++) {
    most = fabs(want[i]) > most ? fabs(want[i]) : most;
    const double off = fabs(got[i] - want[i]);
    worst = !(off <= worst) ? off : worst;
  }
  if (worst <= close * most) return;
  printf("%s (%ld, %ld) differs by %g of %g\n", what, (long)a, (long)b, worst, most);
  failures++;
}

/* Numbers of a type, and as they are after rounding to it */
static void *typed(const f32 *x, int64_t num, int is_bf16, double *exact) {
  void *made = malloc(num * 4 + 64);
  for (int64_t i = 0; i < num; i++) {
    if (is_bf16) ((bf16 *)made)[i] = f32_to_bf16(x[i]);
    else
      ((f32 *)made)[i] = x[i];
    exact[i] = is_bf16 ? f32_from_bf16(((bf16 *)made)[i]) : x[i];
  }
  return made;
}
static double read(const void *x, int is_bf16, int64_t i) { return is_bf16 ? f32_from_bf16(((bf16 *)x)[i]) : ((f32 *)x)[i]; }

static f32 *numbers(int64_t num) {
  f32 *made = malloc(num * 4 + 64);
  for (int64_t i = 0; i < num; i++) made[i] = number();
  return made;
}
static double *room(int64_t num) { return calloc(num + 1, sizeof(double)); }

/* x (T, K) with w (N, K), which is given exactly and as the kernel takes it */
static void check_product(const char *what, const Product *p, const double *w, int64_t T, int is_bf16) {
  f32 *x = numbers(T * p->K);
  double *own = room(T * p->K), *got = room(T * p->N), *want = room(T * p->N);
  void *states = typed(x, T * p->K, is_bf16, own), *out = malloc(T * p->N * 4 + 64);
  if (product(p, states, out, T, 2)) failures++;
  for (int64_t t = 0; t < T; t++)
    for (int64_t n = 0; n < p->N; n++) {
      double sum = p->bias[n];
      for (int64_t k = 0; k < p->K; k++) sum += own[t * p->K + k] * w[n * p->K + k];
      want[t * p->N + n] = sum;
      got[t * p->N + n] = read(out, is_bf16, t * p->N + n);
    }
  compare(what, T, p->K, got, want, T * p->N, is_bf16 ? 0x1p-7 : 1e-5);
  free(x), free(own), free(got), free(want), free(states), free(out);
}

static void products(void) {
  const int64_t N = 37, sizes[] = {100, 101, 768, 2052}, rows[] = {1, 2, 3, 4, 6, 7, 8, 9, 21, 40};
  f32 *bias = numbers(N);
  for (int kind = 0; kind < 2; kind++)
    for (int s = 0; s < 4; s++) {
      const int64_t K = sizes[s];
      f32 *w = numbers(N * K);
      double *exact = room(N * K);
      void *weight = typed(w, N * K, kind, exact);
      const Product p = {kind, kind, N, K, weight, NULL, bias};
      for (int t = 0; t < 10; t++) check_product(kind ? "product bf16" : "product f32", &p, exact, rows[t], kind);
      free(w), free(exact), free(weight);
    }
  free(bias);
}

static double half(const uint8_t *p) { /* of a normal number */
  const int bits = p[0] | p[1] << 8;
  return ldexp((bits >> 15 ? -1 : 1) * (1024 + (bits & 1023)), (bits >> 10 & 31) - 25);
}

static void blocks(void) {
  const int bytes[] = {0, 0, 32, 34, 18, 20};
  const int64_t N = 37, B = 3, K = 32 * B;
  f32 *bias = numbers(N);
  for (int kind = 2; kind < 6; kind++) {
    uint8_t *raw = malloc(N * B * bytes[kind] + 64), *laid = malloc(N * B * bytes[kind] + 64);
    for (int64_t i = 0; i < N * B * bytes[kind]; i++) raw[i] = 256 * uniform();
    double *exact = room(N * K), *got = room(N * K);
    for (int64_t b = 0; b < N * B; b++) {
      uint8_t *block = raw + b * bytes[kind];
      if (kind > 2) block[1] = 0x2c;
      if (kind == 5) block[3] = 0xac;
      for (int k = 0; k < 32; k++) {
        const uint8_t *nibbles = block + bytes[kind] - 16;
        const int four = k < 16 ? nibbles[k] & 15 : nibbles[k - 16] >> 4;
        exact[b * 32 + k] = kind == 2 ? (i8)block[k] : kind == 3 ? half(block) * (i8)block[2 + k]
                          : kind == 4 ? half(block) * (four - 8) : half(block) * four + half(block + 2);
      }
    }
    blocks_laid(kind, raw, laid, N, B, 2);
    f32 *weights = malloc(N * K * 4);
    block_weights(kind, laid, NULL, N, weights, N, B, 2);
    for (int64_t i = 0; i < N * K; i++) got[i] = weights[i];
    compare("weights of blocks", kind, 0, got, exact, N * K, 1e-6);
    for (int is_bf16 = 0; is_bf16 < 2; is_bf16++)
      for (int64_t T = 1; T < 12; T += 1 + T / 4) {
        const Product p = {kind, is_bf16, N, K, laid, NULL, bias};
        check_product(is_bf16 ? "blocks bf16" : "blocks f32", &p, exact, T, is_bf16);
      }
    free(raw), free(laid), free(exact), free(got), free(weights);
  }
  free(bias);
}

static void attention(void) {
  const int64_t R = 3, H = 4, N = 150;
  const int64_t shapes[][4] = {{1, 4, 64, 64}, {3, 2, 40, 71}, {8, 1, 7, 16}}; /* queries, groups, sizes */
  for (int is_bf16 = 0; is_bf16 < 2; is_bf16++)
    for (int at = 0; at < 3; at++) {
      const int64_t Q = shapes[at][0], G = shapes[at][1], D = shapes[at][2], E = shapes[at][3];
      const int64_t nq = R * H * Q * D, nk = R * G * N * D, nv = R * G * N * E, no = R * Q * H * E;
      f32 *query = numbers(nq), *key = numbers(nk), *value = numbers(nv);
      double *q = room(nq), *k = room(nk), *v = room(nv), *got = room(no), *want = room(no), w[150];
      void *tq = typed(query, nq, is_bf16, q), *tk = typed(key, nk, is_bf16, k), *tv = typed(value, nv, is_bf16, v);
      void *out = malloc(no * 4 + 64);
      uint8_t *mask = malloc(R * Q * N);
      for (int64_t i = 0; i < R * Q * N; i++) mask[i] = uniform() > 0.5;
      const Shape s = {R, H, G, Q, N, D, E, {H * Q * D, Q * D, D}, {G * N * D, N * D, D}, {G * N * E, N * E, E}, {Q * N, 0, N}, 2};
      if (is_bf16 ? few_queries_bf16(tq, tk, tv, mask, out, &s, 0.3f) : few_queries_f32(tq, tk, tv, mask, out, &s, 0.3f))
        failures++;
      for (int64_t r = 0; r < R; r++)
        for (int64_t h = 0; h < H; h++)
          for (int64_t i = 0; i < Q; i++) {
            const int64_t g = h / (H / G);
            double total = 0;
            for (int64_t n = 0; n < N; n++) {
              double score = 0;
              for (int64_t d = 0; d < D; d++) score += q[((r * H + h) * Q + i) * D + d] * k[((r * G + g) * N + n) * D + d];
              total += w[n] = mask[(r * Q + i) * N + n] ? exp(0.3 * score) : 0;
            }
            for (int64_t e = 0; e < E; e++) {
              const int64_t o = ((r * Q + i) * H + h) * E + e;
              for (int64_t n = 0; n < N; n++) want[o] += w[n] / total * v[((r * G + g) * N + n) * E + e];
              got[o] = read(out, is_bf16, o);
            }
          }
      compare("attention", is_bf16, at, got, want, no, is_bf16 ? 0x1p-6 : 1e-5);
      free(query), free(key), free(value), free(q), free(k), free(v), free(got), free(want), free(tq), free(tk), free(tv);
      free(out), free(mask);
    }
}

static void choices(void) {
  const int64_t sizes[] = {5, 64, 1003};
  for (int is_bf16 = 0; is_bf16 < 2; is_bf16++)
    for (int at = 0; at < 3; at++)
      for (int turn = 0; turn < 20; turn++) {
        const int64_t V = sizes[at], blocks = (V + 63) / 64;
        f32 *rows[2] = {numbers(V), numbers(V)}, weights[1] = {-1.5f}, margins[1] = {turn % 2 ? INFINITY : 1.0f};
        f32 most[1], least[1], temperatures[1] = {0.8f};
        double *exact[2] = {room(V), room(V)}, *numbers_of = room(blocks + 64);
        void *typed_rows[2] = {typed(rows[0], V, is_bf16, exact[0]), typed(rows[1], V, is_bf16, exact[1])};
        uint8_t *allowed = malloc(V);
        for (int64_t v = 0; v < V; v++) allowed[v] = v == 0 || uniform() > 0.3;
        for (int64_t i = 0; i < blocks + 64; i++) numbers_of[i] = uniform();
        int64_t best[1], drawn[1], addresses[2] = {(int64_t)typed_rows[0], (int64_t)typed_rows[1]}, of_uniform[1] = {(int64_t)numbers_of};
        const int64_t texts[] = {1, 1, V, is_bf16, 1, (int64_t)addresses, (int64_t)weights, (int64_t)margins, (int64_t)allowed,
                                 (int64_t)best, (int64_t)most, (int64_t)least, 0, (int64_t)temperatures, (int64_t)of_uniform,
                                 (int64_t)drawn};
        choice_best(texts);
        choice_drawn(texts);
        double highest = -1e9, top = -1e9, *score = room(V), *mass = room(blocks);
        int64_t found = -1, block = 0, place = 0;
        for (int64_t v = 0; v < V; v++) highest = allowed[v] && exact[0][v] > highest ? exact[0][v] : highest;
        for (int64_t v = 0; v < V; v++) {
          score[v] = allowed[v] && exact[0][v] >= highest - margins[0] ? exact[0][v] - 1.5 * (exact[1][v] - exact[0][v]) : -1e9;
          if (score[v] > top) top = score[v], found = v;
        }
        for (int64_t v = 0; v < V; v++) mass[v % blocks] += exp((score[v] - top) / 0.8);
        for (int64_t b = 1; b < blocks; b++)
          if (mass[b] / -log(numbers_of[b]) > mass[block] / -log(numbers_of[block])) block = b;
        for (int64_t k = 1; k * blocks + block < V; k++)
          if (exp((score[k * blocks + block] - top) / 0.8) / -log(numbers_of[blocks + k]) >
              exp((score[place * blocks + block] - top) / 0.8) / -log(numbers_of[blocks + place]))
            place = k;
        if (score[best[0]] < top - 1e-5 || drawn[0] != place * blocks + block) {
          printf("choice (%d, %ld): best %ld for %ld, drawn %ld for %ld\n", is_bf16, (long)V, (long)best[0], (long)found, (long)drawn[0],
                 (long)(place * blocks + block));
          failures++;
        }
        for (int i = 0; i < 2; i++) free(rows[i]), free(exact[i]), free(typed_rows[i]);
        free(numbers_of), free(allowed), free(score), free(mass);
      }
}

static double one_of(int op, double a, double b) {
  switch (op) {
    case EXP: return exp(a);
    case TANH: return tanh(a);
    case ERF: return erf(a);
    case SIGMOID: return 1 / (1 + exp(-a));
    case SILU: return a / (1 + exp(-a));
    case GELU: return 0.5 * a * (1 + erf(a * sqrt(0.5)));
    case GELU_TANH: return 0.5 * a * (1 + tanh(0.7978845608 * (a + 0.044715 * a * a * a)));
    case SOFTPLUS: return log1p(exp(a));
    case RELU: return a > 0 ? a : 0;
    case MAXIMUM: return a > b ? a : b;
    case MINIMUM: return a < b ? a : b;
    case DIV: return a / b;
    default: return a * b;
  }
}

static void operations(void) {
  const int ops[] = {EXP, TANH, ERF, SIGMOID, SILU, GELU, GELU_TANH, SOFTPLUS, RELU, MAXIMUM, MINIMUM, DIV, MUL};
  for (int at = 0; at < 13; at++)
    for (int64_t n = 5; n < 60; n += 27) {
      f32 *a = numbers(n), *b = numbers(n), *to = numbers(n);
      double *got = room(n), *want = room(n);
      const Instruction o = {.op = ops[at], .size = {1, 1, 1, n}};
      const f32 *const given[3] = {a, b, NULL};
      const int64_t strides[4] = {1, 1, 0, 1};
      along(&o, to, given, strides);
      for (int64_t i = 0; i < n; i++) got[i] = to[i], want[i] = one_of(ops[at], a[i], b[i]);
      compare("operation", ops[at], n, got, want, n, 1e-6);
      const f32 three = 3;
      const Instruction cube = {.op = POW, .size = {1, 1, 1, n}}, norm = {.op = LAYER_NORM, .size = {1, 1, 1, n}, .number = {1e-5}};
      const f32 *const of_cube[3] = {a, &three, NULL}, *const of_norm[3] = {a, b, NULL};
      const int64_t of_three[4] = {1, 0, 0, 1};
      along(&cube, to, of_cube, of_three);
      for (int64_t i = 0; i < n; i++) got[i] = to[i], want[i] = pow(a[i], 3);
      compare("cube", n, 0, got, want, n, 1e-6);
      along(&norm, to, of_norm, strides);
      double mean = 0, square = 0;
      for (int64_t i = 0; i < n; i++) mean += a[i] / n;
      for (int64_t i = 0; i < n; i++) square += (a[i] - mean) * (a[i] - mean) / n;
      for (int64_t i = 0; i < n; i++) got[i] = to[i], want[i] = (a[i] - mean) / sqrt(square + 1e-5) * b[i];
      compare("layer norm", n, 0, got, want, n, 1e-5);
      free(a), free(b), free(to), free(got), free(want);
    }
}

int main(void) {
  products();
  blocks();
  attention();
  choices();
  operations();
  return failures != 0;
}
