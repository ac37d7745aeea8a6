// Every source file of this folder begins with these lines; the loader puts them there.
//
// REAL, the type of all numbers, is float or double and set on the compiler's command line. The
// files include no header, so that a driver is all that a machine needs beside CuPy, and the tests
// compile them for the processor too (tests/gpu/cuda_on_host.h).

#define INFINITE (1e300 * 1e300)

// For each i below n that falls to this thread; any grid covers them all.
#define EACH(i, n)                                                                \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n); \
         i += (long long)gridDim.x * blockDim.x)

template <int V>  // V numbers, 1, 2 or 4, that are moved at once
struct alignas(V * sizeof(REAL) < 16 ? V * sizeof(REAL) : 16) Numbers {
    REAL v[V];
};

typedef Numbers<4> Pack;

// The sum of `value` over the threads of a block, in all of them. `scratch` holds a number for each
// warp; the order of additions depends on the number of threads alone.
__device__ inline REAL block_sum(REAL value, REAL* scratch)
{
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
    const int warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    REAL total = 0;
    for (int i = 0; i < warps; i++) total += scratch[i];
    __syncthreads();  // before the scratch is used again
    return total;
}

__device__ inline REAL block_max(REAL value, REAL* scratch)
{
    for (int lane = 16; lane > 0; lane /= 2) {
        const REAL other = __shfl_xor_sync(0xffffffffu, value, lane);
        value = other > value ? other : value;
    }
    const int warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    REAL top = scratch[0];
    for (int i = 1; i < warps; i++) top = scratch[i] > top ? scratch[i] : top;
    __syncthreads();
    return top;
}
