// Convolution as one matrix product whose left factor is never built ("implicit GEMM").
//
//   y[m, o] = sum_k A[m, k] w[k, o],   m = (n, i, j),   k = (a, b, c),
//   A[m, k] = x[n, (s i + a - top) / d, (s j + b - left) / d, c], or 0 outside and between.
//
// Images are NHWC and kernels HWIO, so w is that matrix already, and consecutive k are consecutive
// in memory. s is the stride. d > 1 spreads x out with zeros between: the gradient with respect to
// the input of a convolution with stride d.
//
// A block of 256 threads makes a tile of BM x BN numbers of the result, DEPTH of the summed index at
// a time: while a slice is multiplied out of shared memory, the next is on its way to registers.
// With TF32 the tile is multiplied by the tensor cores, whose factors keep 10 bits of mantissa.

#define DEPTH 16
#define THREADS 256

// The shape of an image, of a kernel and of the result.
struct Geometry {
    int h, w, c, kh, kw, out_h, out_w, o, stride, dilation, top, left;
};

// Position k = (a, b, c) of the kernel, which is walked along.
struct Tap {
    int a, b, c;

    __device__ void start(int k, const Geometry& s)
    {
        c = k % s.c;
        b = k / s.c % s.kw;
        a = k / s.c / s.kw;
    }

    __device__ void advance(int steps, const Geometry& s)
    {
        for (c += steps; c >= s.c; c -= s.c)
            if (++b == s.kw) b = 0, ++a;
    }
};

// Position m = (n, i, j) of the result.
struct Place {
    int n, i, j;

    __device__ void start(int m, const Geometry& s)
    {
        j = m % s.out_w;
        i = m / s.out_w % s.out_h;
        n = m / s.out_w / s.out_h;
    }

    __device__ void advance(int steps, const Geometry& s)
    {
        for (j += steps; j >= s.out_w; j -= s.out_w)
            if (++i == s.out_h) i = 0, ++n;
    }
};

// Where A[place, tap] lies in x, or -1 if it is zero.
__device__ inline long long where(const Place& p, const Tap& t, const Geometry& s)
{
    int u = p.i * s.stride + t.a - s.top, v = p.j * s.stride + t.b - s.left;
    if (t.a >= s.kh || u < 0 || v < 0) return -1;
    if (s.dilation > 1) {
        if (u % s.dilation || v % s.dilation) return -1;
        u /= s.dilation, v /= s.dilation;
    }
    if (u >= s.h || v >= s.w) return -1;
    return (((long long)p.n * s.h + u) * s.w + v) * s.c + t.c;
}

// A[place, tap .. tap + 3]. `packed`: c is a multiple of 4 and x is aligned.
__device__ inline Pack gather(const REAL* x, const Place& p, Tap t, const Geometry& s, int packed)
{
    Pack q = {{0, 0, 0, 0}};
    if (packed) {
        const long long at = where(p, t, s);
        if (at >= 0) q = *(const Pack*)(x + at);
        return q;
    }
    for (int e = 0; e < 4; e++, t.advance(1, s)) {
        const long long at = where(p, t, s);
        if (at >= 0) q.v[e] = x[at];
    }
    return q;
}

// Four numbers of a row of a matrix of `columns` columns, zeros beyond its end.
__device__ inline Pack row_part(
    const REAL* matrix, long long row, int column, int columns, int packed)
{
    Pack q = {{0, 0, 0, 0}};
    const REAL* from = matrix + row * columns + column;
    if (packed) {
        if (column < columns) q = *(const Pack*)from;
        return q;
    }
    for (int e = 0; e < 4; e++)
        if (column + e < columns) q.v[e] = from[e];
    return q;
}

#ifdef TF32
// x with 10 bits of mantissa, rounded to nearest.
#ifndef ON_HOST
__device__ inline REAL round_tf32(REAL x)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

// d += a b for a 16 x 8, b 8 x 8; each of the 32 threads holds 4, 2 and 4 numbers of them.
__device__ inline void mma(REAL (&d)[4], const REAL (&a)[4], const REAL (&b)[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif
#else
__device__ inline REAL round_tf32(REAL x) { return x; }
#endif

__device__ inline Pack rounded(Pack q)
{
    for (int e = 0; e < 4; e++) q.v[e] = round_tf32(q.v[e]);
    return q;
}

// The sums of one thread: ROWS x COLUMNS numbers of the tile, and which these are.
//
// The left factor stands in shared memory as left[row * ROW + k * K], the right one as
// right[k * RIGHT + column].
template <int BM, int BN>
struct Sums {
#ifdef TF32
    // Eight warps as 4 x 2, each a part of the tile of BM / 4 x BN / 2 in pieces of 16 x 8.
    static const int DOWN = BM / 64, ACROSS = BN / 16;
    REAL value[DOWN][ACROSS][4];

    __device__ Sums()
    {
        for (int i = 0; i < DOWN; i++)
            for (int j = 0; j < ACROSS; j++)
                for (int e = 0; e < 4; e++) value[i][j][e] = 0;
    }

    template <int ROW, int K, int RIGHT>
    __device__ void add(const REAL* left, const REAL* right)
    {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int row = warp % 4 * (BM / 4) + lane / 4, column = warp / 4 * (BN / 2) + lane / 4;
#pragma unroll
        for (int k = lane % 4; k < DEPTH; k += 8) {
            REAL a[DOWN][4], b[ACROSS][2];
#pragma unroll
            for (int i = 0; i < DOWN; i++)
#pragma unroll
                for (int e = 0; e < 4; e++)  // rows r and r + 8, then the same of k + 4
                    a[i][e] = left[(row + 16 * i + e % 2 * 8) * ROW + (k + e / 2 * 4) * K];
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    b[j][e] = right[(k + 4 * e) * RIGHT + column + 8 * j];
#pragma unroll
            for (int i = 0; i < DOWN; i++)
#pragma unroll
                for (int j = 0; j < ACROSS; j++) mma(value[i][j], a[i], b[j]);
        }
    }

    // store(row, column, value) for each sum
    template <typename Store>
    __device__ void each(Store store) const
    {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int row = warp % 4 * (BM / 4) + lane / 4;
        const int column = warp / 4 * (BN / 2) + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    store(row + 16 * i + e / 2 * 8, column + 8 * j + e % 2, value[i][j][e]);
    }
#else
    // Threads as DOWN x ACROSS, each with four columns side by side and every DOWN-th row.
    static const int ACROSS = BN / 4, DOWN = THREADS / ACROSS, ROWS = BM / DOWN;
    REAL value[ROWS][4];

    __device__ Sums()
    {
        for (int i = 0; i < ROWS; i++)
            for (int e = 0; e < 4; e++) value[i][e] = 0;
    }

    template <int ROW, int K, int RIGHT>
    __device__ void add(const REAL* left, const REAL* right)
    {
        const int row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS * 4;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 4) {
            Pack a[ROWS];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const REAL* from = left + (row + i * DOWN) * ROW + k * K;
                if (K == 1)
                    a[i] = *(const Pack*)from;
                else
#pragma unroll
                    for (int q = 0; q < 4; q++) a[i].v[q] = from[q * K];
            }
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const Pack b = *(const Pack*)(right + (k + q) * RIGHT + column);
#pragma unroll
                for (int i = 0; i < ROWS; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) value[i][e] += a[i].v[q] * b.v[e];
            }
        }
    }

    template <typename Store>
    __device__ void each(Store store) const
    {
        const int row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS * 4;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) store(row + i * DOWN, column + e, value[i][e]);
    }
#endif
};

// y (places, o) = A (places, k) w (k, o) + bias
template <int BM, int BN>
__device__ inline void convolve(
    const REAL* x, const REAL* w, const REAL* bias, REAL* y, int places, const Geometry& s,
    int biased, int packed_x, int packed_w)
{
    const int ROW = DEPTH + 4, RIGHT = BN + 8;  // rows end off the banks that they begin in
    const int LOADS = BM / 64, WIDE = BN / 4;
    alignas(16) __shared__ REAL left[BM * (DEPTH + 4)];
    alignas(16) __shared__ REAL right[DEPTH * (BN + 8)];

    const int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN, depth = s.kh * s.kw * s.c;
    // of a slice of A this thread brings numbers k..k+3 of LOADS rows, of w four of one row
    const int row = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
    const int w_row = threadIdx.x / WIDE, w_column = threadIdx.x % WIDE * 4;
    Tap tap;
    tap.start(k, s);
    Place place[LOADS];
    for (int i = 0; i < LOADS; i++) place[i].start(m0 + row + 64 * i, s);
    Pack next[LOADS], next_w;

    auto fetch = [&](int from) {
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            next[i] = Pack{{0, 0, 0, 0}};
            if (m0 + row + 64 * i < places) next[i] = gather(x, place[i], tap, s, packed_x);
        }
        tap.advance(DEPTH, s);
        next_w = Pack{{0, 0, 0, 0}};
        if (w_row < DEPTH && from + w_row < depth)
            next_w = row_part(w, from + w_row, o0 + w_column, s.o, packed_w);
    };

    Sums<BM, BN> sums;
    fetch(0);
    for (int from = 0; from < depth; from += DEPTH) {
        __syncthreads();  // the slice before has been multiplied
#pragma unroll
        for (int i = 0; i < LOADS; i++)
            *(Pack*)(left + (row + 64 * i) * ROW + k) = rounded(next[i]);
        if (w_row < DEPTH) *(Pack*)(right + w_row * RIGHT + w_column) = rounded(next_w);
        __syncthreads();
        if (from + DEPTH < depth) fetch(from + DEPTH);
        sums.template add<ROW, 1, RIGHT>(left, right);
    }
    sums.each([&](int r, int column, REAL value) {
        const int m = m0 + r, o = o0 + column;
        if (m < places && o < s.o) y[(long long)m * s.o + o] = value + (biased ? bias[o] : 0);
    });
}

// parts[z] (k, o) = A^T (k, places) g (places, o) over the z-th stretch of `stretch` places
template <int BM, int BN>
__device__ inline void correlate(
    const REAL* x, const REAL* g, REAL* parts, int places, int stretch, const Geometry& s,
    int packed_x, int packed_g)
{
    const int K = BM + 8, RIGHT = BN + 8, TALL = BM / 4, WIDE = BN / 4;
    const int LOADS = BM / 64, EACH = THREADS / TALL;
    alignas(16) __shared__ REAL left[DEPTH * (BM + 8)];
    alignas(16) __shared__ REAL right[DEPTH * (BN + 8)];

    const int k0 = blockIdx.x * BM, o0 = blockIdx.y * BN, depth = s.kh * s.kw * s.c;
    const int begin = blockIdx.z * stretch;
    const int end = begin + stretch < places ? begin + stretch : places;
    const int row = threadIdx.x / TALL, k = threadIdx.x % TALL * 4;
    const int g_row = threadIdx.x / WIDE, g_column = threadIdx.x % WIDE * 4;
    Tap tap;
    tap.start(k0 + k, s);
    Place place[LOADS];
    for (int i = 0; i < LOADS; i++) place[i].start(begin + row + EACH * i, s);
    Pack next[LOADS], next_g;

    auto fetch = [&](int from) {
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            next[i] = Pack{{0, 0, 0, 0}};
            if (from + row + EACH * i < end) next[i] = gather(x, place[i], tap, s, packed_x);
            place[i].advance(DEPTH, s);
        }
        next_g = Pack{{0, 0, 0, 0}};
        if (g_row < DEPTH && from + g_row < end)
            next_g = row_part(g, from + g_row, o0 + g_column, s.o, packed_g);
    };

    Sums<BM, BN> sums;
    fetch(begin);
    for (int from = begin; from < end; from += DEPTH) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < LOADS; i++)
            *(Pack*)(left + (row + EACH * i) * K + k) = rounded(next[i]);
        if (g_row < DEPTH) *(Pack*)(right + g_row * RIGHT + g_column) = rounded(next_g);
        __syncthreads();
        if (from + DEPTH < end) fetch(from + DEPTH);
        sums.template add<1, K, RIGHT>(left, right);
    }
    REAL* out = parts + (long long)blockIdx.z * depth * s.o;
    sums.each([&](int r, int column, REAL value) {
        const int at = k0 + r, o = o0 + column;
        if (at < depth && o < s.o) out[(long long)at * s.o + o] = value;
    });
}

#define GEOMETRY                                                                              \
    int h, int width, int c, int kh, int kw, int out_h, int out_w, int o, int stride,         \
        int dilation, int top, int left

#define CONVOLVE(BM, BN)                                                                      \
    extern "C" __global__ __launch_bounds__(THREADS) void convolve_##BM##x##BN(               \
        const REAL* x, const REAL* w, const REAL* bias, REAL* y, int places, GEOMETRY,        \
        int biased, int packed_x, int packed_w)                                               \
    {                                                                                         \
        const Geometry s = {h, width, c, kh, kw, out_h, out_w, o, stride, dilation, top, left}; \
        convolve<BM, BN>(x, w, bias, y, places, s, biased, packed_x, packed_w);               \
    }

#define CORRELATE(BM, BN)                                                                     \
    extern "C" __global__ __launch_bounds__(THREADS) void correlate_##BM##x##BN(              \
        const REAL* x, const REAL* g, REAL* parts, int places, int stretch, GEOMETRY,         \
        int packed_x, int packed_g)                                                           \
    {                                                                                         \
        const Geometry s = {h, width, c, kh, kw, out_h, out_w, o, stride, dilation, top, left}; \
        correlate<BM, BN>(x, g, parts, places, stretch, s, packed_x, packed_g);               \
    }

CONVOLVE(128, 64)
CONVOLVE(128, 32)
CONVOLVE(64, 64)
CONVOLVE(64, 32)
CORRELATE(128, 64)
CORRELATE(128, 32)
CORRELATE(64, 64)
CORRELATE(64, 32)
