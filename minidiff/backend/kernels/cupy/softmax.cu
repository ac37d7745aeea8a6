// Softmax over the rows of a matrix, and its gradient, each in place; a block has one row.

// p = softmax(scale s), over the columns where the mask is true
extern "C" __global__ void softmax(REAL* s, const bool* mask, int columns, REAL scale, int masked)
{
    __shared__ REAL scratch[32];
    const long long start = (long long)blockIdx.x * columns;
    const REAL none = -(REAL)INFINITE;
    REAL top = none;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        const REAL value = masked && !mask[start + i] ? none : s[start + i] * scale;
        top = value > top ? value : top;
    }
    top = block_max(top, scratch);
    REAL sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        const bool hidden = masked && !mask[start + i];
        const REAL e = hidden ? (REAL)0 : exp(s[start + i] * scale - top);
        s[start + i] = e;
        sum += e;
    }
    const REAL factor = 1 / block_sum(sum, scratch);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) s[start + i] *= factor;
}

// ds = scale p (dp - <dp, p>)
extern "C" __global__ void softmax_grad(const REAL* p, REAL* dp, int columns, REAL scale)
{
    __shared__ REAL scratch[32];
    const long long start = (long long)blockIdx.x * columns;
    REAL sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += dp[start + i] * p[start + i];
    sum = block_sum(sum, scratch);
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        dp[start + i] = scale * p[start + i] * (dp[start + i] - sum);
}
