// Convolution as one matrix product whose left factor is never built ("implicit GEMM").
//
//   y[m, o] = sum_k A[m, k] w[k, o],   m = (n, i, j),   k = (a, b, c),
//   A[m, k] = x[n, (s i + a - top) / d, (s j + b - left) / d, c], or 0 outside and between.
//
// Images are NHWC and kernels HWIO, so w is that matrix already, and consecutive k are consecutive
// in memory. s is the stride. d > 1 spreads x out with zeros between: the gradient with respect to
// the input of a convolution with stride d.
//
// A block of 256 threads makes a tile of BM x BN numbers of the result, DEPTH of the summed index
// at a time: while a slice is multiplied out of shared memory, the next is on its way to registers,
// and from there it goes to a second buffer, so that a slice costs one barrier.
// With TF32 the tile is multiplied by the tensor cores, whose factors keep 10 bits of mantissa.

#define DEPTH 16
#define THREADS 256
// Of blocks of floats, two share a multiprocessor: one multiplies while the other waits.
#define BLOCKS (sizeof(REAL) == 4 ? 2 : 1)
// A second buffer of doubles would not fit the 48 KB that a block may have without asking.
#define BUFFERS (sizeof(REAL) == 4 ? 2 : 1)

// The shape of an image, of a kernel and of the result. An image has less than 2^31 numbers.
struct Geometry {
    int h, w, c, kh, kw, out_h, out_w, o, stride, top, left, dilation;
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

// What a place m = (n, i, j) of the result sees of x: image n, from row u and column v on.
struct Window {
    const REAL* image;
    int u, v;

    __device__ void start(const REAL* x, int m, const Geometry& s)
    {
        v = m % s.out_w * s.stride - s.left;
        u = m / s.out_w % s.out_h * s.stride - s.top;
        image = x + (long long)(m / s.out_w / s.out_h) * (s.h * s.w * s.c);
    }

    // to place m + steps
    __device__ void advance(int steps, const Geometry& s)
    {
        const int width = s.out_w * s.stride, height = s.out_h * s.stride;
        for (v += steps * s.stride; v >= width - s.left; v -= width)
            if ((u += s.stride) >= height - s.top) u -= height, image += s.h * s.w * s.c;
    }

    // where the tap lies in x, if it does
    __device__ bool holds(const Tap& t, const Geometry& s, const REAL*& from) const
    {
        int row = u + t.a, column = v + t.b;
        bool between = false;
        if (s.dilation > 1) {
            between = row % s.dilation || column % s.dilation;
            row /= s.dilation, column /= s.dilation;
        }
        from = image + ((row * s.w + column) * s.c + t.c);
        // as unsigned numbers, negative ones are too large as well
        return (unsigned)row < (unsigned)s.h && (unsigned)column < (unsigned)s.w && t.a < s.kh
            && !between;
    }
};

// A[place, tap .. tap + 3]. `packed`: c is a multiple of 4 and x is aligned.
__device__ inline Pack gather(const Window& window, Tap t, const Geometry& s, int packed)
{
    Pack q = {{0, 0, 0, 0}};
    const REAL* from;
    if (packed) {
        if (window.holds(t, s, from)) q = *(const Pack*)from;
        return q;
    }
    for (int e = 0; e < 4; e++, t.advance(1, s))
        if (window.holds(t, s, from)) q.v[e] = *from;
    return q;
}

// Four numbers of a row of which `left` are left, zeros beyond its end.
__device__ inline Pack row_part(const REAL* from, int left, int packed)
{
    Pack q = {{0, 0, 0, 0}};
    if (packed) {
        if (left > 0) q = *(const Pack*)from;
        return q;
    }
    for (int e = 0; e < 4; e++)
        if (e < left) q.v[e] = from[e];
    return q;
}

// The reverse; a new array is aligned.
template <int V>
__device__ inline void put_row_part(REAL* to, int left, const Numbers<V>& q, int packed)
{
    if (packed) {
        if (left > 0) *(Numbers<V>*)to = q;
        return;
    }
    for (int e = 0; e < V; e++)
        if (e < left) to[e] = q.v[e];
}

#ifdef TF32
// x with 10 bits of mantissa, rounded to nearest.
#ifndef ON_HOST
__device__ inline REAL round_tf32(REAL x)
{
    unsigned bits;
#if __CUDA_ARCH__ >= 900
    asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));  // one instruction
#else
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));  // ties away from zero; several
#endif
    return __uint_as_float(bits);
}

// d += a b for a 16 x 8, b 8 x 8; each of the 32 threads holds 4, 2 and 4 numbers of them. With
// lane = 4 group + member (PTX ISA, "Matrix Fragments for mma.m16n8k8", .tf32; so does CUTLASS in
// MMA_Traits<SM80_16x8x8_F32TF32TF32F32_TN>):
//   a: (row group, k member), (group + 8, member), (group, member + 4), (group + 8, member + 4)
//   b: (k member, column group), (member + 4, group)
//   d: (row group, column 2 member), (group, 2 member + 1), and the same of row group + 8
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

// Eight neighbours as 0 4 1 5 2 6 3 7: threads side by side then use rows that are four apart,
// which begin in opposite halves of the banks (rows of DEPTH + 4 numbers).
__device__ inline int apart(int i) { return i % 2 * 4 + i / 2; }

// A slice of both factors in shared memory: the right one as right[k * RIGHT + column]; the left
// one BY_ROW as left[row * LEFT + k], else as left[k * LEFT + row]. Rows end off the banks that
// they begin in, so that threads of several rows do not wait for each other.
template <int BM, int BN, bool BY_ROW>
struct Slice {
    static const int LEFT = BY_ROW ? DEPTH + 4 : BM + 8, RIGHT = BN + 8;
    alignas(16) REAL left[(BY_ROW ? BM : DEPTH) * LEFT];
    alignas(16) REAL right[DEPTH * RIGHT];
};

#ifdef TF32
// The sums of one thread. Warps stand side by side, 32 columns each, and one below the other.
//
// The tensor cores get y^T = w^T A^T in pieces of 16 columns and 8 rows of the tile: so the two or
// four numbers of a factor that an instruction wants in neighbouring registers lie side by side in
// shared memory, too. For that, the order of what is summed over and of the columns within a piece
// is not the natural one. With lane = 4 group + member, a thread reads
//   columns 2 group, 2 group + 1 as rows group, group + 8 of the piece,
//   k = 4 member .. 4 member + 3 where they lie in a row, each two of them for one instruction;
//   the rows of w are put down in that order. Else k = member, + 4, + 8, + 12.
template <int BM, int BN, bool BY_ROW>
struct Sums {
    typedef Slice<BM, BN, BY_ROW> Factors;
    static const int SIDE = 2, ACROSS = BN / 32, ROWS = BM / (THREADS / 32 / ACROSS);
    REAL value[ROWS / 8][2][4];
    int group, member, top, left;

    __device__ Sums()
    {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        group = lane / 4, member = lane % 4;
        top = warp / ACROSS * ROWS, left = warp % ACROSS * 32;
        for (int i = 0; i < ROWS / 8; i++)
            for (int j = 0; j < 2; j++)
                for (int e = 0; e < 4; e++) value[i][j][e] = 0;
    }

    // Where the row k of a slice of the right factor is put down.
    __device__ static int slot(int k) { return BY_ROW ? k % 4 * 4 + k / 4 : k; }

    // The row of the tile that is column n of piece i.
    __device__ int row(int i, int n) const { return top + 8 * i + (BY_ROW ? apart(n) : n); }

    __device__ void add(const Factors& f)
    {
        REAL a[DEPTH / 8][2][4];
#pragma unroll
        for (int e = 0; e < DEPTH / 4; e++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const auto two = *(const Numbers<2>*)(
                    f.right + (member + 4 * e) * Factors::RIGHT + left + 16 * j + 2 * group);
                a[e / 2][j][e % 2 * 2] = two.v[0], a[e / 2][j][e % 2 * 2 + 1] = two.v[1];
            }
#pragma unroll
        for (int i = 0; i < ROWS / 8; i++) {
            const int r = row(i, group);
            Pack b;
            if (BY_ROW)
                b = *(const Pack*)(f.left + r * Factors::LEFT + 4 * member);
            else
#pragma unroll
                for (int e = 0; e < 4; e++) b.v[e] = f.left[(member + 4 * e) * Factors::LEFT + r];
#pragma unroll
            for (int k = 0; k < DEPTH / 8; k++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    mma(value[i][j], a[k][j], {b.v[2 * k], b.v[2 * k + 1]});
        }
    }

    // store(row, column, SIDE sums side by side)
    template <typename Store>
    __device__ void each(Store store) const
    {
#pragma unroll
        for (int i = 0; i < ROWS / 8; i++)
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    store(row(i, 2 * member + e), left + 16 * j + 2 * group,
                          Numbers<2>{{value[i][j][e], value[i][j][2 + e]}});
    }
};
#else
// The sums of one thread: ROWS rows, in each four columns side by side, or twice four.
//
// A warp is 4 x 8 threads, so numbered that neighbours share what they read from either factor:
// the fewer different numbers a warp reads, the faster shared memory hands them out.
template <int BM, int BN, bool BY_ROW>
struct Sums {
    typedef Slice<BM, BN, BY_ROW> Factors;
    static const int SIDE = 4, PACKS = BN == 128 ? 2 : 1, ACROSS = BN / (32 * PACKS);
    static const int ROWS = BM / (THREADS / 32 / ACROSS) / 4;
    REAL value[ROWS][PACKS][4];
    int top, left;

    __device__ Sums()
    {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        top = warp / ACROSS * ROWS * 4 + (lane / 16 * 2 + lane % 2) * (BY_ROW ? 1 : 4);
        left = warp % ACROSS * PACKS * 32 + lane % 16 / 2 * 4;
        for (int i = 0; i < ROWS; i++)
            for (int p = 0; p < PACKS; p++)
                for (int e = 0; e < 4; e++) value[i][p][e] = 0;
    }

    __device__ static int slot(int k) { return k; }

    __device__ int row(int i) const { return top + (BY_ROW ? 4 * i : i % 4 + i / 4 * 16); }

    __device__ void add(const Factors& f)
    {
#pragma unroll 1  // more at once would want more registers than two blocks leave
        for (int k = 0; k < DEPTH; k += 2) {
            REAL a[ROWS][2];
            if (BY_ROW) {
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    const auto two = *(const Numbers<2>*)(f.left + row(i) * Factors::LEFT + k);
                    a[i][0] = two.v[0], a[i][1] = two.v[1];
                }
            } else {
#pragma unroll
                for (int i = 0; i < 2 * ROWS; i += 4) {
                    const int q = i / ROWS;
                    const Pack four =
                        *(const Pack*)(f.left + (k + q) * Factors::LEFT + row(i % ROWS));
                    for (int e = 0; e < 4; e++) a[i % ROWS + e][q] = four.v[e];
                }
            }
#pragma unroll
            for (int q = 0; q < 2; q++)
#pragma unroll
                for (int p = 0; p < PACKS; p++) {
                    const Pack b =
                        *(const Pack*)(f.right + (k + q) * Factors::RIGHT + left + 32 * p);
#pragma unroll
                    for (int i = 0; i < ROWS; i++)
#pragma unroll
                        for (int e = 0; e < 4; e++) value[i][p][e] += a[i][q] * b.v[e];
                }
        }
    }

    // store(row, column, SIDE sums side by side)
    template <typename Store>
    __device__ void each(Store store) const
    {
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int p = 0; p < PACKS; p++) store(row(i), left + 32 * p, *(const Pack*)value[i][p]);
    }
};
#endif

// y (places, o) = A (places, k) w (k, o) + bias
template <int BM, int BN>
__device__ inline void convolve(
    const REAL* x, const REAL* w, const REAL* bias, REAL* y, int places, const Geometry& s,
    int biased, int packed_x, int packed_w)
{
    typedef Slice<BM, BN, true> Factors;
    __shared__ Factors slices[BUFFERS];
    // of a slice of A this thread brings numbers k..k+3 of A_LOADS rows, of w the same of rows
    const int A_LOADS = BM / 64, WIDE = BN / 4, STEP = THREADS / WIDE;
    const int W_LOADS = STEP < DEPTH ? DEPTH / STEP : 1;

    const int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN, depth = s.kh * s.kw * s.c;
    const int row = threadIdx.x / 32 * 8 + apart(threadIdx.x / 4 % 8), k = threadIdx.x % 4 * 4;
    const int w_row = threadIdx.x / WIDE, w_column = threadIdx.x % WIDE * 4;
    Tap tap;
    tap.start(k, s);
    Window window[A_LOADS];
    for (int i = 0; i < A_LOADS; i++) {
        window[i].start(x, m0 + row + 64 * i, s);
        if (m0 + row + 64 * i >= places) window[i].u = s.h * s.dilation;  // holds nothing
    }
    const REAL* w_from = w + (long long)w_row * s.o + o0 + w_column;
    Pack next[A_LOADS], next_w[W_LOADS];

    auto fetch = [&](int from) {
#pragma unroll
        for (int i = 0; i < A_LOADS; i++) next[i] = gather(window[i], tap, s, packed_x);
        tap.advance(DEPTH, s);
#pragma unroll
        for (int i = 0; i < W_LOADS; i++) {
            const int at = w_row + STEP * i;
            next_w[i] = Pack{{0, 0, 0, 0}};
            if (at < DEPTH && from + at < depth)
                next_w[i] = row_part(w_from + STEP * i * s.o, s.o - o0 - w_column, packed_w);
        }
        w_from += DEPTH * s.o;
    };

    typedef Sums<BM, BN, true> Product;
    Product sums;
    fetch(0);
    for (int from = 0; from < depth; from += DEPTH) {
        Factors& slice = slices[from / DEPTH % BUFFERS];
        if (BUFFERS == 1) __syncthreads();  // the slice before has been multiplied
#pragma unroll
        for (int i = 0; i < A_LOADS; i++)
            *(Pack*)(slice.left + (row + 64 * i) * Factors::LEFT + k) = rounded(next[i]);
#pragma unroll
        for (int i = 0; i < W_LOADS; i++)
            if (w_row + STEP * i < DEPTH)
                *(Pack*)(slice.right + sums.slot(w_row + STEP * i) * Factors::RIGHT + w_column) =
                    rounded(next_w[i]);
        __syncthreads();
        if (from + DEPTH < depth) fetch(from + DEPTH);
        sums.add(slice);
    }
    sums.each([&](int r, int column, Numbers<Product::SIDE> q) {
        const int m = m0 + r, o = o0 + column;
        if (m >= places) return;
        if (biased)
            for (int e = 0; e < Product::SIDE; e++)
                if (o + e < s.o) q.v[e] += bias[o + e];
        put_row_part(y + (long long)m * s.o + o, s.o - o, q, packed_w);
    });
}

// parts[n] (k, o) = A^T (k, places) g (places, o) over the n-th stretch of `stretch` places
template <int BM, int BN>
__device__ inline void correlate(
    const REAL* x, const REAL* g, REAL* parts, int places, int stretch, const Geometry& s,
    int packed_x, int packed_g)
{
    typedef Slice<BM, BN, false> Factors;
    __shared__ Factors slices[BUFFERS];
    const int TALL = BM / 4, A_STEP = THREADS / TALL, A_LOADS = DEPTH / A_STEP;
    const int WIDE = BN / 4, G_STEP = THREADS / WIDE;
    const int G_LOADS = G_STEP < DEPTH ? DEPTH / G_STEP : 1;

    const int k0 = blockIdx.y * BM, o0 = blockIdx.z * BN, depth = s.kh * s.kw * s.c;
    const int begin = blockIdx.x * stretch;
    const int end = begin + stretch < places ? begin + stretch : places;
    const int row = threadIdx.x / TALL, k = threadIdx.x % TALL * 4;
    const int g_row = threadIdx.x / WIDE, g_column = threadIdx.x % WIDE * 4;
    Tap tap;
    tap.start(k0 + k, s);
    Window window[A_LOADS];
    for (int i = 0; i < A_LOADS; i++) window[i].start(x, begin + row + A_STEP * i, s);
    const REAL* g_from = g + (long long)(begin + g_row) * s.o + o0 + g_column;
    Pack next[A_LOADS], next_g[G_LOADS];

    auto fetch = [&](int from) {
#pragma unroll
        for (int i = 0; i < A_LOADS; i++) {
            next[i] = Pack{{0, 0, 0, 0}};
            if (from + row + A_STEP * i < end) next[i] = gather(window[i], tap, s, packed_x);
            window[i].advance(DEPTH, s);
        }
#pragma unroll
        for (int i = 0; i < G_LOADS; i++) {
            const int at = g_row + G_STEP * i;
            next_g[i] = Pack{{0, 0, 0, 0}};
            if (at < DEPTH && from + at < end)
                next_g[i] = row_part(g_from + G_STEP * i * s.o, s.o - o0 - g_column, packed_g);
        }
        g_from += DEPTH * s.o;
    };

    typedef Sums<BM, BN, false> Product;
    Product sums;
    fetch(begin);
    for (int from = begin, n = 0; from < end; from += DEPTH, n++) {
        Factors& slice = slices[n % BUFFERS];
        if (BUFFERS == 1) __syncthreads();
#pragma unroll
        for (int i = 0; i < A_LOADS; i++)
            *(Pack*)(slice.left + (row + A_STEP * i) * Factors::LEFT + k) = rounded(next[i]);
#pragma unroll
        for (int i = 0; i < G_LOADS; i++)
            if (g_row + G_STEP * i < DEPTH)
                *(Pack*)(slice.right + sums.slot(g_row + G_STEP * i) * Factors::RIGHT + g_column) =
                    rounded(next_g[i]);
        __syncthreads();
        if (from + DEPTH < end) fetch(from + DEPTH);
        sums.add(slice);
    }
    REAL* out = parts + (long long)blockIdx.x * depth * s.o;
    sums.each([&](int r, int column, Numbers<Product::SIDE> q) {
        const int at = k0 + r, o = o0 + column;
        if (at < depth) put_row_part(out + (long long)at * s.o + o, s.o - o, q, packed_g);
    });
}

#define GEOMETRY                                                                              \
    int h, int width, int c, int kh, int kw, int out_h, int out_w, int o, int stride, int top, \
        int left

// `packed_x`, `packed_w`: whether four numbers of x and w are moved at once. The fast kernels are
// for images and kernels that allow both, the others for any; they hold much code for the ends.
#define CONVOLVE(NAME, BM, BN, PACKED_X, PACKED_W)                                            \
    extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void convolve_##NAME(            \
        const REAL* x, const REAL* w, const REAL* bias, REAL* y, int places, GEOMETRY,        \
        int dilation, int biased, int packed_x, int packed_w)                                 \
    {                                                                                         \
        const Geometry s = {h, width, c, kh, kw, out_h, out_w, o, stride, top, left, dilation}; \
        convolve<BM, BN>(x, w, bias, y, places, s, biased, PACKED_X, PACKED_W);               \
    }

#define CORRELATE(NAME, BM, BN, PACKED_X, PACKED_G)                                           \
    extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void correlate_##NAME(           \
        const REAL* x, const REAL* g, REAL* parts, int places, int stretch, GEOMETRY,         \
        int packed_x, int packed_g)                                                           \
    {                                                                                         \
        const Geometry s = {h, width, c, kh, kw, out_h, out_w, o, stride, top, left, 1};        \
        correlate<BM, BN>(x, g, parts, places, stretch, s, PACKED_X, PACKED_G);               \
    }

CONVOLVE(128x128, 128, 128, 1, 1)
CONVOLVE(128x64, 128, 64, 1, 1)
CONVOLVE(128x32, 128, 32, 1, 1)
CONVOLVE(64x64, 64, 64, 1, 1)
CONVOLVE(any, 128, 32, packed_x, packed_w)
CORRELATE(128x128, 128, 128, 1, 1)
CORRELATE(128x64, 128, 64, 1, 1)
CORRELATE(128x32, 128, 32, 1, 1)
CORRELATE(64x64, 64, 64, 1, 1)
CORRELATE(any, 128, 32, packed_x, packed_g)
