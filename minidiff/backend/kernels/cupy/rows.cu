// s[k] = sum of g[i] over all i with rows[i] = k; a block has one k. The order of the sum is that
// of the rows, which atomic additions would leave to chance.
extern "C" __global__ void sum_rows(
    const REAL* g, const long long* rows, REAL* s, int n, int columns)
{
    const long long k = blockIdx.x;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        REAL sum = 0;
        for (int i = 0; i < n; i++)
            if (rows[i] == k) sum += g[(long long)i * columns + c];
        s[k * columns + c] = sum;
    }
}
