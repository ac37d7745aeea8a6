// What follows the gradient in a training step, over the flat vectors of a model: the squares of
// the gradient are summed in one pass, and all the rest is done in a second one. The first
// 4 * packs numbers are moved four at a time.

// parts[block] = sum of the squares of its numbers
extern "C" __global__ void square_sums(const REAL* g, REAL* parts, long long n, long long packs)
{
    __shared__ REAL scratch[32];
    REAL sum = 0;
    EACH(i, packs)
    {
        const Pack a = ((const Pack*)g)[i];
        for (int e = 0; e < 4; e++) sum += a.v[e] * a.v[e];
    }
    EACH(i, n - 4 * packs) sum += g[4 * packs + i] * g[4 * packs + i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

struct Step {  // what all numbers share
    REAL divisor, keep, beta1, beta2, new1, new2, rate, small, share;
};

__device__ inline void move(REAL& p, REAL& g, REAL& m, REAL& v, const Step& s, bool clipped)
{
    if (clipped) g /= s.divisor;
    m = s.beta1 * m + s.new1 * g;
    v = s.beta2 * v + s.new2 * g * g;
    p = s.keep * p - s.rate * m / (sqrt(v) + s.small);
}

// Clipping, the shrinking of AdamW, Kingma & Ba (2015), Algorithm 1, and the moving average. The
// bias corrections are moved onto the step size and eps.
//
// What changes from step to step is read from memory, clock = (step, lr, decay of the average), so
// that a captured graph can be replayed with ever new numbers.
extern "C" __global__ void update(
    REAL* p, REAL* g, REAL* m, REAL* v, REAL* average, int averaged, long long n, long long packs,
    const REAL* parts, int count, REAL* norm, const double* clock, double max_norm, double beta1,
    double beta2, double eps, double weight_decay)
{
    __shared__ REAL scratch[32];
    __shared__ Step s;
    REAL sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = sqrt(block_sum(sum, scratch));
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0) norm[0] = sum;
        const double step = clock[0], lr = clock[1], decay = clock[2];
        const double root = sqrt(1 - pow(beta2, step));
        s.divisor = sum / (REAL)max_norm;
        s.keep = (REAL)(1 - lr * weight_decay);
        s.beta1 = (REAL)beta1, s.new1 = (REAL)(1 - beta1);
        s.beta2 = (REAL)beta2, s.new2 = (REAL)(1 - beta2);
        s.rate = (REAL)(lr * root / (1 - pow(beta1, step)));
        s.small = (REAL)(eps * root);
        s.share = (REAL)(1 - decay);
    }
    __syncthreads();
    const Step own = s;
    const bool clipped = !(own.divisor <= 1);  // so put, a NaN spreads as in the definition
    EACH(i, packs)
    {
        Pack a = ((Pack*)p)[i], b = ((Pack*)g)[i], c = ((Pack*)m)[i], d = ((Pack*)v)[i];
        for (int e = 0; e < 4; e++) move(a.v[e], b.v[e], c.v[e], d.v[e], own, clipped);
        ((Pack*)p)[i] = a;
        if (clipped) ((Pack*)g)[i] = b;
        ((Pack*)m)[i] = c;
        ((Pack*)v)[i] = d;
        if (averaged) {
            Pack f = ((Pack*)average)[i];
            for (int e = 0; e < 4; e++) f.v[e] += own.share * (a.v[e] - f.v[e]);
            ((Pack*)average)[i] = f;
        }
    }
    EACH(i, n - 4 * packs)
    {
        const long long at = 4 * packs + i;
        move(p[at], g[at], m[at], v[at], own, clipped);
        if (averaged) average[at] += own.share * (p[at] - average[at]);
    }
}
