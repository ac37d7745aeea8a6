// Group norm of x + shift, with or without SiLU after it; x is (N, positions, C).
//
// A block has one group of one sample. Its threads stand in rows of lanes: a lane keeps to its
// channels (V of them, moved at once), a row to every so many positions. gamma, beta and shift hold
// a number for each channel (step 0) or for each sample and channel (step C).

__device__ inline REAL sigmoid(REAL x) { return 1 / (1 + exp(-x)); }

// Where the thread stands, and where its group lies.
template <int V>
struct Part {
    int sample, channel, parts, lanes, lane, rows, row, positions, channels, width;
    long long base;

    __device__ void find(int positions_, int channels_, int groups)
    {
        positions = positions_, channels = channels_, width = channels / groups;
        sample = blockIdx.x / groups, channel = blockIdx.x % groups * width;
        parts = width / V;
        lanes = parts < (int)blockDim.x ? parts : blockDim.x;
        rows = blockDim.x / lanes;
        lane = threadIdx.x % lanes, row = threadIdx.x / lanes;
        base = (long long)sample * positions * channels + channel;
    }

    // f(part, number of its first channel in the sample) for the lane's parts, in step in a block
    template <typename F>
    __device__ void each_part(F f) const
    {
        for (int first = 0; first < parts; first += lanes) {
            const int part = first + lane;
            f(part < parts && row < rows, channel + part * V);
        }
    }

    // f(where) for this row's positions of the channels from `at` on
    template <typename F>
    __device__ void each_position(int at, F f) const
    {
        for (int p = row; p < positions; p += rows)
            f(base - channel + (long long)p * channels + at);
    }
};

template <int V>
__device__ inline Numbers<V> load(const REAL* from)
{
    return *(const Numbers<V>*)from;
}

template <int V>
__device__ inline Numbers<V> of_channels(const REAL* p, int step, int sample, int at)
{
    Numbers<V> q;
    for (int e = 0; e < V; e++) q.v[e] = p[(long long)sample * step + at + e];
    return q;
}

// x + shift
template <int V>
__device__ inline Numbers<V> shifted(const REAL* x, long long at, const Numbers<V>& shift)
{
    Numbers<V> z = load<V>(x + at);
    for (int e = 0; e < V; e++) z.v[e] += shift.v[e];
    return z;
}

template <int V>
__device__ inline Numbers<V> shift_of(
    const REAL* shift, int step, int has_shift, int sample, int at)
{
    if (has_shift) return of_channels<V>(shift, step, sample, at);
    Numbers<V> none;
    for (int e = 0; e < V; e++) none.v[e] = 0;
    return none;
}

template <int V>
__device__ inline void forward(
    const REAL* x, const REAL* gamma, const REAL* beta, const REAL* shift, REAL* y, REAL* m,
    REAL* r, int positions, int channels, int groups, int gamma_step, int beta_step,
    int shift_step, int has_shift, int with_silu, REAL eps)
{
    __shared__ REAL scratch[32];
    Part<V> part;
    part.find(positions, channels, groups);
    const REAL count = (REAL)positions * part.width;

    REAL sum = 0;
    part.each_part([&](bool mine, int at) {
        if (!mine) return;
        const Numbers<V> b = shift_of<V>(shift, shift_step, has_shift, part.sample, at);
        part.each_position(at, [&](long long i) {
            const Numbers<V> z = shifted(x, i, b);
            for (int e = 0; e < V; e++) sum += z.v[e];
        });
    });
    const REAL mean = block_sum(sum, scratch) / count;

    REAL squares = 0;  // of what is centred: E z^2 - m^2 would lose the variance of a large mean
    part.each_part([&](bool mine, int at) {
        if (!mine) return;
        const Numbers<V> b = shift_of<V>(shift, shift_step, has_shift, part.sample, at);
        part.each_position(at, [&](long long i) {
            const Numbers<V> z = shifted(x, i, b);
            for (int e = 0; e < V; e++) squares += (z.v[e] - mean) * (z.v[e] - mean);
        });
    });
    const REAL root = 1 / sqrt(block_sum(squares, scratch) / count + eps);

    part.each_part([&](bool mine, int at) {
        if (!mine) return;
        const Numbers<V> b = shift_of<V>(shift, shift_step, has_shift, part.sample, at);
        const Numbers<V> scale = of_channels<V>(gamma, gamma_step, part.sample, at);
        const Numbers<V> add = of_channels<V>(beta, beta_step, part.sample, at);
        part.each_position(at, [&](long long i) {
            const Numbers<V> z = shifted(x, i, b);
            Numbers<V> u;
            for (int e = 0; e < V; e++) {
                u.v[e] = scale.v[e] * ((z.v[e] - mean) * root) + add.v[e];
                if (with_silu) u.v[e] *= sigmoid(u.v[e]);
            }
            *(Numbers<V>*)(y + i) = u;
        });
    });
    if (threadIdx.x == 0) m[blockIdx.x] = mean, r[blockIdx.x] = root;
}

// The sum of each lane's numbers over the rows, in the threads of row 0; all threads take part.
template <int V>
__device__ inline Numbers<V> over_rows(
    const Numbers<V>& value, const Part<V>& part, Numbers<V>* scratch)
{
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int n = part.rows; n > 1;) {
        const int half = (n + 1) / 2;
        if (part.row + half < n) {
            const Numbers<V> other = scratch[threadIdx.x + half * part.lanes];
            for (int e = 0; e < V; e++) scratch[threadIdx.x].v[e] += other.v[e];
        }
        __syncthreads();
        n = half;
    }
    const Numbers<V> total = scratch[part.lane];
    __syncthreads();
    return total;
}

// With u = gamma x_hat + beta and h = gamma u_bar: x_bar = r (h - <h> - x_hat <h x_hat>). The sums
// over the positions of a sample go to gamma_sums, beta_sums and shift_sums, each (N, C).
template <int V>
__device__ inline void backward(
    const REAL* g, const REAL* x, const REAL* m, const REAL* r, const REAL* gamma,
    const REAL* beta, const REAL* shift, REAL* dx, REAL* gamma_sums, REAL* beta_sums,
    REAL* shift_sums, int positions, int channels, int groups, int gamma_step, int beta_step,
    int shift_step, int has_shift, int with_silu)
{
    __shared__ REAL scratch[32];
    alignas(16) __shared__ REAL lanes_scratch[256 * V];
    Numbers<V>* wide = (Numbers<V>*)lanes_scratch;
    Part<V> part;
    part.find(positions, channels, groups);
    const REAL count = (REAL)positions * part.width;
    const REAL mean = m[blockIdx.x], root = r[blockIdx.x];
    const long long sums = (long long)part.sample * channels;

    // x_hat and u_bar at one place
    auto local = [&](long long i, const Numbers<V>& b, const Numbers<V>& scale,
                     const Numbers<V>& add, Numbers<V>& x_hat, Numbers<V>& du) {
        x_hat = shifted(x, i, b);
        du = load<V>(g + i);
        for (int e = 0; e < V; e++) {
            x_hat.v[e] = (x_hat.v[e] - mean) * root;
            if (with_silu) {
                const REAL u = scale.v[e] * x_hat.v[e] + add.v[e], s = sigmoid(u);
                du.v[e] *= s + u * s * (1 - s);
            }
        }
    };
    auto beta_of = [&](int at) {
        if (with_silu) return of_channels<V>(beta, beta_step, part.sample, at);
        return of_channels<V>(gamma, gamma_step, part.sample, at);  // any numbers: not used
    };

    REAL sum_h = 0, sum_hx = 0;
    part.each_part([&](bool mine, int at) {
        Numbers<V> of_gamma, of_beta, scale;
        for (int e = 0; e < V; e++) of_gamma.v[e] = of_beta.v[e] = scale.v[e] = 0;
        if (mine) {
            const Numbers<V> b = shift_of<V>(shift, shift_step, has_shift, part.sample, at);
            const Numbers<V> add = beta_of(at);
            scale = of_channels<V>(gamma, gamma_step, part.sample, at);
            part.each_position(at, [&](long long i) {
                Numbers<V> x_hat, du;
                local(i, b, scale, add, x_hat, du);
                for (int e = 0; e < V; e++) {
                    of_beta.v[e] += du.v[e];
                    of_gamma.v[e] += du.v[e] * x_hat.v[e];
                }
            });
        }
        of_gamma = over_rows(of_gamma, part, wide);
        of_beta = over_rows(of_beta, part, wide);
        if (mine && part.row == 0) {
            for (int e = 0; e < V; e++) {
                gamma_sums[sums + at + e] = of_gamma.v[e];
                beta_sums[sums + at + e] = of_beta.v[e];
                sum_h += scale.v[e] * of_beta.v[e];
                sum_hx += scale.v[e] * of_gamma.v[e];
            }
        }
    });
    const REAL mean_h = block_sum(sum_h, scratch) / count;
    const REAL mean_hx = block_sum(sum_hx, scratch) / count;

    part.each_part([&](bool mine, int at) {
        Numbers<V> of_shift;
        for (int e = 0; e < V; e++) of_shift.v[e] = 0;
        if (mine) {
            const Numbers<V> b = shift_of<V>(shift, shift_step, has_shift, part.sample, at);
            const Numbers<V> add = beta_of(at);
            const Numbers<V> scale = of_channels<V>(gamma, gamma_step, part.sample, at);
            part.each_position(at, [&](long long i) {
                Numbers<V> x_hat, d;
                local(i, b, scale, add, x_hat, d);
                for (int e = 0; e < V; e++) {
                    d.v[e] = root * (scale.v[e] * d.v[e] - mean_h - x_hat.v[e] * mean_hx);
                    of_shift.v[e] += d.v[e];
                }
                *(Numbers<V>*)(dx + i) = d;
            });
        }
        if (!has_shift) return;  // the same in all threads
        of_shift = over_rows(of_shift, part, wide);
        if (mine && part.row == 0)
            for (int e = 0; e < V; e++) shift_sums[sums + at + e] = of_shift.v[e];
    });
}

extern "C" __global__ __launch_bounds__(256) void group_norm(
    const REAL* x, const REAL* gamma, const REAL* beta, const REAL* shift, REAL* y, REAL* m,
    REAL* r, int positions, int channels, int groups, int gamma_step, int beta_step,
    int shift_step, int has_shift, int with_silu, REAL eps, int packed)
{
    if (packed)
        forward<4>(x, gamma, beta, shift, y, m, r, positions, channels, groups, gamma_step,
                   beta_step, shift_step, has_shift, with_silu, eps);
    else
        forward<1>(x, gamma, beta, shift, y, m, r, positions, channels, groups, gamma_step,
                   beta_step, shift_step, has_shift, with_silu, eps);
}

extern "C" __global__ __launch_bounds__(256) void group_norm_grad(
    const REAL* g, const REAL* x, const REAL* m, const REAL* r, const REAL* gamma,
    const REAL* beta, const REAL* shift, REAL* dx, REAL* gamma_sums, REAL* beta_sums,
    REAL* shift_sums, int positions, int channels, int groups, int gamma_step, int beta_step,
    int shift_step, int has_shift, int with_silu, int packed)
{
    if (packed)
        backward<4>(g, x, m, r, gamma, beta, shift, dx, gamma_sums, beta_sums, shift_sums,
                    positions, channels, groups, gamma_step, beta_step, shift_step, has_shift,
                    with_silu);
    else
        backward<1>(g, x, m, r, gamma, beta, shift, dx, gamma_sums, beta_sums, shift_sums,
                    positions, channels, groups, gamma_step, beta_step, shift_step, has_shift,
                    with_silu);
}
