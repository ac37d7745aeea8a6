// Runs the CUDA kernels of minidiff on the processor, thread by thread, to test their arithmetic.
//
// A block's threads are fibers of one thread of the machine. Each runs until it waits at a barrier;
// when all wait at the same one, all go on. A warp waits for itself alone where it exchanges numbers.
// The order of lanes, warps and blocks is given: a result that depends on it shows a missing barrier. Shared memory holds NaN
// when a block begins. Emulated are: barriers, the warp shuffle, and the tensor cores' product.

#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define ON_HOST
#define __global__
#define __device__
#define __launch_bounds__(...)
// all shared memory lies in one section, so that it can be filled with NaN
#define __shared__ static __attribute__((section("block_shared")))
#define __syncthreads() emulator::barrier(__LINE__)

using std::exp;
using std::sqrt;
using std::tanh;
using std::log;
using std::cos;
using std::sin;

template <typename T>
static void sincospi(T x, T* sine, T* cosine)
{
    *sine = (T)std::sin(M_PI * (double)x);
    *cosine = (T)std::cos(M_PI * (double)x);
}

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

extern "C" char __start_block_shared[] __attribute__((weak));
extern "C" char __stop_block_shared[] __attribute__((weak));

namespace emulator {

enum { FINE = 0, DIVERGED = 1, TOO_LARGE = 2 };
const int STACK = 1 << 16, MOST_THREADS = 1024;

struct Fiber {
    ucontext_t context;
    jmp_buf resume;
    std::vector<char> stack;
    unsigned thread;
    int line;  // of the barrier at which it waits; 0 when its thread is done
    bool begun;
};

static std::vector<Fiber*> idle;
static Fiber* current;
static jmp_buf scheduler;
static void (*kernel)(void**);
static void** arguments;
static double slots[MOST_THREADS];
static float left[MOST_THREADS][4], right[MOST_THREADS][2];

static void place(unsigned thread)
{
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

static void yield(int line)
{
    current->line = line;
    if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
}

static void live()  // a fiber runs one thread after the other
{
    for (;;) {
        kernel(arguments);
        yield(0);
    }
}

static void resume(Fiber* fiber)
{
    current = fiber;
    place(fiber->thread);
    if (_setjmp(scheduler)) return;
    if (fiber->begun) _longjmp(fiber->resume, 1);
    fiber->begun = true;
    setcontext(&fiber->context);
}

static void barrier(int line) { yield(line); }

static Fiber* make()
{
    Fiber* fiber = new Fiber;
    fiber->stack.resize(STACK);
    fiber->begun = false;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, live, 0);
    return fiber;
}

// Let one warp run until all its threads are done or wait at a barrier of the block.
static int run_warp(const unsigned* threads, unsigned n, Fiber** of, std::vector<Fiber*>& idle)
{
    for (;;) {
        unsigned done = 0;
        int line = 0;
        bool same = true;
        for (unsigned i = 0; i < n; i++) {
            Fiber*& fiber = of[threads[i]];
            if (!fiber) {
                if (idle.empty()) idle.push_back(make());
                fiber = idle.back();
                idle.pop_back();
                fiber->thread = threads[i];
            }
            resume(fiber);
            if (!fiber->line) {
                done++;
                idle.push_back(fiber);
                of[threads[i]] = nullptr;
            } else {
                same = same && (!line || line == fiber->line);
                line = fiber->line;
            }
        }
        if (line && (done || !same)) return DIVERGED;
        if (line >= 0) return FINE;  // else all are at the same place of the warp: on they go
    }
}

// The threads in the order in which they run, warp by warp. A warp runs ahead as far as it can.
static int run_block(const std::vector<unsigned>& order)
{
    for (char* p = __start_block_shared; p && p < __stop_block_shared; p++) *p = (char)0xff;  // NaN
    std::vector<Fiber*> of(order.size(), nullptr);
    for (;;) {
        for (size_t start = 0; start < order.size();) {
            size_t end = start;
            while (end < order.size() && order[end] / 32 == order[start] / 32) end++;
            if (int wrong = run_warp(&order[start], end - start, of.data(), idle)) return wrong;
            start = end;
        }
        size_t waiting = 0;
        int line = 0;
        for (Fiber* fiber : of) {
            if (!fiber) continue;
            if (line && fiber->line != line) return DIVERGED;
            line = fiber->line;
            waiting++;
        }
        if (!waiting) return FINE;
        if (waiting < order.size()) return DIVERGED;
    }
}

// order: 0 first to last, 1 last to first, 2 shuffled
static int run(
    const unsigned* grid, const unsigned* block, int order, void (*f)(void**), void** given)
{
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    const unsigned threads = block[0] * block[1] * block[2];
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    if (threads > MOST_THREADS || grid[1] > 65535 || grid[2] > 65535) return TOO_LARGE;
    kernel = f;
    arguments = given;
    unsigned state = 1;
    auto arranged = [&](unsigned n) {
        std::vector<unsigned> list(n);
        for (unsigned i = 0; i < n; i++) list[i] = order == 1 ? n - 1 - i : i;
        if (order == 2)
            for (unsigned i = n; i > 1; i--) {
                state = state * 1664525u + 1013904223u;
                std::swap(list[i - 1], list[(state >> 8) % i]);
            }
        return list;
    };
    for (unsigned b : arranged(blocks)) {
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        std::vector<unsigned> turns;  // warps in the given order, and lanes in each
        for (unsigned warp : arranged((threads + 31) / 32))
            for (unsigned lane : arranged(32))
                if (32 * warp + lane < threads) turns.push_back(32 * warp + lane);
        if (int wrong = run_block(turns)) return wrong;  // fibers that wait are left behind
    }
    return FINE;
}

}  // namespace emulator

template <typename T>
static T __shfl_xor_sync(unsigned, T value, int lane)
{
    const unsigned me = threadIdx.x;
    emulator::slots[me] = value;
    emulator::barrier(-1);
    const T other = (T)emulator::slots[me ^ lane];
    emulator::barrier(-2);
    return other;
}

#ifdef TF32
// Ten bits of mantissa, ties away from zero.
static float round_tf32(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The layout of mma.m16n8k8 for TF32 (PTX ISA, "Matrix Fragments for mma.m16n8k8"): a thread with
// group = lane / 4 and member = lane % 4 holds of a the rows group (+ 8) and the columns member
// (+ 4), of b the rows member (+ 4) of the column group, of d the columns 2 member (+ 1).
static void mma(float (&d)[4], const float (&a)[4], const float (&b)[2])
{
    const unsigned me = threadIdx.x, warp = me / 32 * 32, group = me % 32 / 4, member = me % 4;
    for (int e = 0; e < 4; e++) emulator::left[me][e] = a[e];
    for (int e = 0; e < 2; e++) emulator::right[me][e] = b[e];
    emulator::barrier(-3);
    for (int e = 0; e < 4; e++) {
        const unsigned row = group + e / 2 * 8, column = 2 * member + e % 2;
        for (unsigned k = 0; k < 8; k++) {
            const float x = emulator::left[warp + row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
            const float y = emulator::right[warp + column * 4 + k % 4][k / 4];
            d[e] += x * y;
        }
    }
    emulator::barrier(-4);
}
#endif
