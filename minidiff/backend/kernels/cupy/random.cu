// Random numbers from a counter: number i of draw d is a function of (key, d, i) and of nothing
// else. There is no state, threads need not know of each other, and the grid makes no difference.
// The key is read from memory, so that a captured graph draws anew when its key is replaced.

struct Words {
    unsigned w[4];
};

// Philox4x32-10 of Salmon et al. (2011): ten rounds of products whose halves change places.
__device__ inline Words philox(Words c, unsigned k0, unsigned k1)
{
    for (int round = 0; round < 10; round++) {
        const unsigned long long a = 0xD2511F53ull * c.w[0], b = 0xCD9E8D57ull * c.w[2];
        c = {(unsigned)(b >> 32) ^ c.w[1] ^ k0, (unsigned)b,
             (unsigned)(a >> 32) ^ c.w[3] ^ k1, (unsigned)a};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

template <typename> struct BitsOf { using type = unsigned; };
template <> struct BitsOf<double> { using type = unsigned long long; };
using Bits = BitsOf<REAL>::type;  // as many as REAL has

struct Four {
    Bits k[4];
};

// The bits of the numbers 4i to 4i + 3: a counter has those of four floats, or of two doubles.
__device__ inline Four four(const unsigned* key, unsigned draw, long long i)
{
    constexpr int counters = sizeof(Four) / sizeof(Words);
    union {
        Words words[counters];
        Four bits;
    };
    for (int c = 0; c < counters; c++) {
        const unsigned long long at = counters * i + c;
        words[c] = philox({(unsigned)at, (unsigned)(at >> 32), draw, 0}, key[0], key[1]);
    }
    return bits;
}

// k / 2^b in [0, 1), of as many upper bits as a number keeps
__device__ inline float below_one(unsigned k) { return (k >> 8) * 0x1p-24f; }
__device__ inline double below_one(unsigned long long k) { return (k >> 11) * 0x1p-53; }

// (k + 1) / 2^b in (0, 1], of all bits: near 0 they all count
__device__ inline float above_zero(unsigned k) { return ((float)k + 1) * 0x1p-32f; }
__device__ inline double above_zero(unsigned long long k) { return ((double)k + 1) * 0x1p-64; }

__device__ inline void store(REAL* out, long long i, long long n, Pack z)
{
    if (4 * i + 4 <= n) {
        ((Pack*)out)[i] = z;
        return;
    }
    for (int e = 0; e < 4; e++)
        if (4 * i + e < n) out[4 * i + e] = z.v[e];
}

extern "C" __global__ void uniform(const unsigned* key, unsigned draw, REAL* out, long long n)
{
    EACH(i, (n + 3) / 4)
    {
        const Four bits = four(key, draw, i);
        Pack z;
        for (int e = 0; e < 4; e++) z.v[e] = below_one(bits.k[e]);
        store(out, i, n, z);
    }
}

// Box & Muller (1958): a point with an exponential square of its radius, in a uniform direction
extern "C" __global__ void normal(const unsigned* key, unsigned draw, REAL* out, long long n)
{
    EACH(i, (n + 3) / 4)
    {
        const Four bits = four(key, draw, i);
        Pack z;
        for (int e = 0; e < 4; e += 2) {
            const REAL radius = sqrt(-2 * log(above_zero(bits.k[e])));
            REAL sine, cosine;
            sincospi(2 * below_one(bits.k[e + 1]), &sine, &cosine);
            z.v[e] = radius * cosine;
            z.v[e + 1] = radius * sine;
        }
        store(out, i, n, z);
    }
}
