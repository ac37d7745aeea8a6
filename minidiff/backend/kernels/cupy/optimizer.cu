// Adam, clipping and averaging over the flat vectors of a model.
//
// Numbers that change from step to step come by value or, where a captured graph is replayed with
// ever new ones, from memory: `from_memory` says which.

#define EACH(i, n)                                                                       \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n);        \
         i += (long long)gridDim.x * blockDim.x)

// Kingma & Ba (2015), Algorithm 1, with the bias corrections moved onto the step size and eps.
extern "C" __global__ void adam(
    REAL* p, const REAL* g, REAL* m, REAL* v, long long n, const double* step_lr, double step,
    double lr, double beta1, double beta2, double eps, int from_memory)
{
    __shared__ REAL rate, small;
    if (threadIdx.x == 0) {
        if (from_memory) step = step_lr[0], lr = step_lr[1];
        const double root = sqrt(1 - pow(beta2, step));
        rate = (REAL)(lr * root / (1 - pow(beta1, step)));
        small = (REAL)(eps * root);
    }
    __syncthreads();
    const REAL a = (REAL)beta1, b = (REAL)beta2, c = (REAL)(1 - beta1), d = (REAL)(1 - beta2);
    EACH(i, n)
    {
        const REAL gi = g[i];
        const REAL mi = a * m[i] + c * gi, vi = b * v[i] + d * gi * gi;
        m[i] = mi;
        v[i] = vi;
        p[i] -= rate * mi / (sqrt(vi) + small);
    }
}

// average <- decay average + (1 - decay) p
extern "C" __global__ void moving_average(
    REAL* average, const REAL* p, long long n, const double* decay_memory, double decay,
    int from_memory)
{
    const REAL share = (REAL)(1 - (from_memory ? decay_memory[0] : decay));
    EACH(i, n) average[i] += share * (p[i] - average[i]);
}

// parts[block] = sum of the squares of its numbers
extern "C" __global__ void square_sums(const REAL* g, REAL* parts, long long n)
{
    __shared__ REAL scratch[32];
    REAL sum = 0;
    EACH(i, n) sum += g[i] * g[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// norm = sqrt(sum of the parts), and g is divided by norm / max_norm if that is above 1
extern "C" __global__ void clip(
    REAL* g, const REAL* parts, REAL* norm, long long n, int count, REAL max_norm)
{
    __shared__ REAL scratch[32];
    REAL sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = sqrt(block_sum(sum, scratch));
    if (blockIdx.x == 0 && threadIdx.x == 0) norm[0] = sum;
    const REAL divisor = sum / max_norm;
    if (divisor <= 1) return;
    EACH(i, n) g[i] /= divisor;
}
