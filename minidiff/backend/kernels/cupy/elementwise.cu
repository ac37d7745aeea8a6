// Functions of each number. The first 4 * packs numbers are moved four at a time.

__device__ inline REAL sigmoid(REAL x) { return 1 / (1 + exp(-x)); }

__device__ inline REAL silu_slope(REAL g, REAL y, REAL s) { return g * (s + y * (1 - s)); }

extern "C" __global__ void silu(
    const REAL* x, REAL* y, REAL* s, long long n, long long packs)
{
    EACH(i, packs)
    {
        const Pack a = ((const Pack*)x)[i];
        Pack b, c;
        for (int e = 0; e < 4; e++) {
            c.v[e] = sigmoid(a.v[e]);
            b.v[e] = a.v[e] * c.v[e];
        }
        ((Pack*)y)[i] = b;
        ((Pack*)s)[i] = c;
    }
    EACH(i, n - 4 * packs)
    {
        const long long at = 4 * packs + i;
        const REAL p = sigmoid(x[at]);
        s[at] = p;
        y[at] = x[at] * p;
    }
}

extern "C" __global__ void silu_grad(
    const REAL* g, const REAL* y, const REAL* s, REAL* dx, long long n, long long packs)
{
    EACH(i, packs)
    {
        const Pack a = ((const Pack*)g)[i], b = ((const Pack*)y)[i], c = ((const Pack*)s)[i];
        Pack d;
        for (int e = 0; e < 4; e++) d.v[e] = silu_slope(a.v[e], b.v[e], c.v[e]);
        ((Pack*)dx)[i] = d;
    }
    EACH(i, n - 4 * packs)
    {
        const long long at = 4 * packs + i;
        dx[at] = silu_slope(g[at], y[at], s[at]);
    }
}
