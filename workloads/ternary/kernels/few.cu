// A few rows of activations (M, up to 16) through ternary weights packed four a byte (packing.py), in one launch.
//
// One row of activations needs each weight once, so the limit is the memory that the weights are read from: 2 bits a weight, on an
// H200 about one weight a clock in each lane. There are not enough instructions for a multiply-add and an unpacking a weight. Tensor
// cores take 16 rows of weights x 16 columns (32 of int8) an instruction, and a register is unpacked two weights (four) at a time.
//
//   mma.m16n8k16:  A = 16 rows of weights x 16 columns,  B = 16 columns x 8 rows of activations (those from M on are not looked at)
//
// A thread (g = lane / 4, t = lane % 4) holds, of A, two columns of rows g and g + 8 as the halves of a register. They may be any two
// as long as B has the same. So a thread loads 16 bytes of row g, which are 64 of the 256 weights of a group, and each of the four
// registers gives A its pairs of 8 planes, with no exchange between threads. For plane p and thread t, B has columns 32 p + 8 t to
// 32 p + 8 t + 7 of the group: 16 neighbouring bytes of x.
//
// Unpacking: two's complement moved to the top two bits of a bf16 is 2 w, by a mask. The lower byte's top two bits, under the
// exponent's other bits of 0.5 and with the lower one of the two flipped, are 0.75 - 0.25 w, by a mask and an exclusive or, which are
// one instruction. So planes p and p + 4 need one shift and two LOP3 for four weights. The lower planes have sums of their own, which
// begin with -0.75 x, from a product with that constant, and so end as -0.25 w x; the upper ones' are 2 w x. Of int8 four weights are
// unpacked at a time, by a shift and a mask, as 64 w.
//
// A block takes ROWS = 32 rows of weights at a time, all of their columns: each warp has STEPS groups of 256 columns, and the sums of
// the warps are added over shared memory, in their order, every HELD tiles. A tile of weights is 32 neighbouring rows, so what the
// warps of a block read is contiguous. Loads are asynchronous copies, DEPTH steps of a warp ahead, into shared memory that only the
// thread that loads reads: no barriers.
//
// A warp needs its own columns of x only, and brings them to shared memory itself. To round them to int8 it has to know the largest
// values of whole rows: the one barrier before the weights.
//
// Where x is large beside a block's weights, SPLIT blocks, a cluster, share the columns: each has its part of x and of a tile's
// weights, and the sums of the parts are added in the shared memory of one of them. Then a block reads 1 / SPLIT of x.
//
// The compiler is given M, N, K, WARPS, STEPS, DEPTH, FIRST (of these, before x), HELD, BLOCKS (a multiprocessor), SPLIT, EARLY
// (launch, see few.py) and EIGHT (activations are rounded to int8 here).

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

constexpr int ROWS = 32, GROUP = 256, GROUP_BYTES = 64;
constexpr int GROUPS = (K + GROUP - 1) / GROUP / SPLIT;                 // of the block; SPLIT divides them
constexpr int ROW_BYTES = GROUPS * SPLIT * GROUP_BYTES;
constexpr int TILES = (N + ROWS - 1) / ROWS;
constexpr int THREADS = WARPS * 32;
constexpr bool EVEN = GROUPS == WARPS * STEPS;                          // every warp has STEPS groups
constexpr int OCTETS = (M + 7) / 8;                                     // of rows of activations
constexpr int X_BYTES = EIGHT ? 1 : 2;
constexpr int X_ROW = GROUPS * GROUP * X_BYTES + 64;                    // + 64: two rows of x are in different halves of the banks
constexpr int SLOT = 4 * 512;                                           // bytes that a warp loads in a step: 32 rows x 64 bytes
constexpr int RING = DEPTH * WARPS * SLOT;
constexpr int SUM_WARP = M * ROWS;
constexpr int SUM_TILE = WARPS * SUM_WARP;
constexpr int INBOX = SPLIT == 1 ? 0 : SPLIT * HELD * SUM_WARP;         // sums of every part
constexpr int CHAINS = EIGHT && OCTETS == 2 ? 1 : 2;                    // sums: of lower and upper planes, or of every other product
constexpr float MULTIPLE = EIGHT ? 64.0f : 2.0f;                        // how many times the weight it is that is unpacked

#if EIGHT
typedef int Sum;
#else
typedef float Sum;
#endif

__device__ __forceinline__ u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }
__device__ __forceinline__ void copy16(u32 to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

__device__ __forceinline__ void product(Sum* sum, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if EIGHT
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}

// Where a sum is in shared memory, so that neither the threads of a product nor those of a row of outputs meet in a bank.
__device__ __forceinline__ int place(int token, int row) { return token * ROWS + (row ^ token / 2 % 4 * 8); }

// Of the blocks that share columns: the same address in another one's shared memory, and a barrier.
template <class T> __device__ __forceinline__ T* in_part(T* at, int part) {
    unsigned long long there = (unsigned long long)at;
    if (SPLIT > 1) asm volatile("mapa.u64 %0, %0, %1;" : "+l"(there) : "r"(part));
    return (T*)there;
}
__device__ __forceinline__ void arrive() {
    if (SPLIT > 1) asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void await() {
    if (SPLIT > 1) asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

typedef Sum Sums[2][OCTETS][CHAINS][4];                                 // both halves of a tile, rows of x, and a thread's four

// Plane P of x with the weights that `unpack` gives of a register: two products for each half of a tile, for sums A and B.
template <int P, int A, int B, class Unpack>
__device__ __forceinline__ void multiply(Sums& sums, const uint4 (&packed)[4], const char* const (&x)[OCTETS], Unpack unpack) {
#pragma unroll
    for (int octet = 0; octet < OCTETS; octet++) {
        const uint4 values = *(const uint4*)(x[octet] + P * 64);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint4 top = packed[2 * half], bottom = packed[2 * half + 1];
            auto& sum = sums[half][octet];
            product(sum[A], unpack(top.x), unpack(bottom.x), unpack(top.y), unpack(bottom.y), values.x, values.y);
            product(sum[B], unpack(top.z), unpack(bottom.z), unpack(top.w), unpack(bottom.w), values.z, values.w);
        }
    }
}

#if EIGHT
template <int P> __device__ __forceinline__ void planes(Sums& sums, const uint4 (&packed)[4], const char* const (&x)[OCTETS]) {
    multiply<P, 0, CHAINS - 1>(sums, packed, x, [](u32 word) { return (word << (6 - 2 * P)) & 0xC0C0C0C0u; });
}
#else
__device__ __forceinline__ u32 lower(u32 shifted) {                     // one LOP3, where two masks may become two
    u32 pair;
    asm("lop3.b32 %0, %1, 0x00C000C0, %2, 0x6A;" : "=r"(pair) : "r"(shifted), "r"(0x3F403F40));  // (a & b) ^ c
    return pair;
}
template <int P> __device__ __forceinline__ void planes(Sums& sums, const uint4 (&packed)[4], const char* const (&x)[OCTETS]) {
    uint4 shifted[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        shifted[i].x = packed[i].x << (6 - 2 * P), shifted[i].y = packed[i].y << (6 - 2 * P);
        shifted[i].z = packed[i].z << (6 - 2 * P), shifted[i].w = packed[i].w << (6 - 2 * P);
    }
    multiply<P, 0, 0>(sums, shifted, x, [](u32 word) { return lower(word); });
    multiply<P + 4, 1, 1>(sums, shifted, x, [](u32 word) { return word & 0xC000C000u; });
}
#endif

// Of memory that the kernel before may have written: not from the L1, and not before `wait`.
__device__ __forceinline__ uint4 eight_of(const u16* x, int row, int column, int columns) {
    uint4 v = {0, 0, 0, 0};
    if (column < columns)
        asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(x + (size_t)row * K + column) : "memory");
    return v;
}

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// Four activations to int8, in the order of the bytes of a word: plane p of both halves' lower bytes, p + 4 of the upper ones.
__device__ __forceinline__ u32 rounded(u32 lower, u32 upper, float steps) {
    const float NEAREST = 12582912.0f;                                  // 1.5 x 2^23: added, it rounds a number to its lowest bits
    const u32 a = __float_as_uint(fmaf(low(lower), steps, NEAREST)), b = __float_as_uint(fmaf(low(upper), steps, NEAREST));
    const u32 c = __float_as_uint(fmaf(high(lower), steps, NEAREST)), d = __float_as_uint(fmaf(high(upper), steps, NEAREST));
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

__device__ __forceinline__ u32 larger(u32 pair, u32 other) {              // of two pairs of bf16 without their signs
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(pair) : "r"(other & 0x7FFF7FFFu));
    return pair;
}

// The warp's columns of x, GROUP x STEPS from `group` of the part that begins at `x` on, to shared memory.
__device__ __forceinline__ void keep(const u16* x, char* kept, float* scales, u32* largest, int group, int columns, int lane) {
#if EIGHT
    constexpr int AT_ONCE = M < 16 / STEPS ? M : (STEPS < 16 ? 16 / STEPS : 1);  // rows whose values stay in registers meanwhile
    constexpr int EACH = (AT_ONCE * STEPS + 1) / 2;                     // half a warp has a row's group
    const int p = lane % 16 / 4, t = lane % 4;
    for (int start = 0; start < M; start += AT_ONCE) {
        uint4 a[EACH], b[EACH];
        int rows[EACH], groups[EACH];
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int unit = 2 * j + lane / 16, row = start + unit / STEPS, at = group + unit % STEPS;
            const bool there = unit < AT_ONCE * STEPS && row < M && (EVEN || at < GROUPS);
            rows[j] = min(row, M - 1), groups[j] = there ? at : GROUPS;
            a[j] = eight_of(x, rows[j], groups[j] * GROUP + p * 32 + t * 8, columns);  // zeros from GROUPS on
            b[j] = eight_of(x, rows[j], groups[j] * GROUP + p * 32 + t * 8 + 128, columns);
        }
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            u32 pair = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) pair = larger(larger(pair, (&a[j].x)[i]), (&b[j].x)[i]);
            const u32 most = max(pair << 16, pair & 0xFFFF0000u);       // not negative, floats are in the order of their bits
            const u32 of_half = __reduce_max_sync(lane < 16 ? 0xFFFFu : 0xFFFF0000u, most);
#pragma unroll
            for (int part = 0; part < SPLIT; part++)
                if (lane % 16 == 0) atomicMax(in_part(largest + rows[j], part), of_half);
        }
        if (SPLIT > 1) arrive(), await();
        else __syncthreads();
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const float most = __uint_as_float(largest[rows[j]]), steps = __fdividef(127.0f, most);
            uint4 eight;
            eight.x = rounded(a[j].x, b[j].x, steps), eight.y = rounded(a[j].y, b[j].y, steps);
            eight.z = rounded(a[j].z, b[j].z, steps), eight.w = rounded(a[j].w, b[j].w, steps);
            if (groups[j] < GROUPS) *(uint4*)(kept + rows[j] * X_ROW + groups[j] * GROUP + p * 64 + t * 16) = eight;
        }
    }
    if (threadIdx.x < M) scales[threadIdx.x] = __uint_as_float(largest[threadIdx.x]) / 127.0f;
#else
#pragma unroll
    for (int unit = 0; unit < M * STEPS; unit++) {                      // a warp has a row's group
        const int row = unit / STEPS, at = group + unit % STEPS, column = at * GROUP + lane * 8;
        const bool there = column < columns;
        if (EVEN || at < GROUPS) copy16(shared_address(kept) + row * X_ROW + column * 2, there ? x + row * K + column : x, there);
    }
    commit();
#endif
}

#if SPLIT > 1
#define CLUSTER __cluster_dims__(SPLIT, 1, 1)
#else
#define CLUSTER
#endif
extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, BLOCKS)
few(const u16* x, const u8* __restrict__ weights, u16* __restrict__ y, double scale) {
    extern __shared__ __align__(128) char shared[];
    char* const ring = shared;
    char* const kept = shared + RING;                                   // x, [M, X_ROW]
    Sum* const partial = (Sum*)(kept + M * X_ROW);                      // [HELD, WARPS, M, ROWS], see `place`
    float* const scales = (float*)(partial + HELD * SUM_TILE);          // of each row of x
    u32* const largest = (u32*)(scales + M);                            // of each row, as bits
    Sum* const inbox = (Sum*)(largest + M);                             // [2, SPLIT, HELD, M, ROWS], in turns

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int part = blockIdx.x % SPLIT, team = blockIdx.x / SPLIT, teams = gridDim.x / SPLIT;
    const int tiles = (TILES - team + teams - 1) / teams;
    const u32 slots = shared_address(ring) + warp * SLOT + lane * 16;

    int ahead = 0, ahead_tile = team, ahead_group = warp * STEPS;
    auto load = [&]() {                                                 // the next step's weights: rows g, g + 8, g + 16, g + 24
        if (ahead < tiles * STEPS) {
            const int row = ahead_tile * ROWS + g;
            const u8* from = weights + (size_t)row * ROW_BYTES + (part * GROUPS + ahead_group) * GROUP_BYTES + t * 16;
            const u32 to = slots + ahead % DEPTH * (WARPS * SLOT);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool there = (N % ROWS == 0 || row + 8 * i < N) && (EVEN || ahead_group < GROUPS);
                copy16(to + i * 512, there ? from + i * 8 * ROW_BYTES : weights, there);
            }
            ahead++, ahead_group++;
            if (ahead_group == (warp + 1) * STEPS) ahead_group = warp * STEPS, ahead_tile += teams;
        }
        commit();
    };

#pragma unroll
    for (int i = 0; i < FIRST; i++) load();
#if EIGHT
    if (threadIdx.x < M) largest[threadIdx.x] = __float_as_uint(1e-30f);
    if (SPLIT == 1) __syncthreads();
#endif
    arrive();                                                           // and so it is there to be written to
#if EARLY
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    await();
    const int before = part * (GROUPS * GROUP);
    keep(x + before, kept, scales, largest, warp * STEPS, min(GROUPS * GROUP, K - before), lane);
#pragma unroll
    for (int i = FIRST; i < DEPTH; i++) load();
    if (!EIGHT) arrived<DEPTH - FIRST>();                               // x
    __syncwarp();                                                       // that other lanes brought

    const char* lane_x[OCTETS];
#pragma unroll
    for (int octet = 0; octet < OCTETS; octet++) lane_x[octet] = kept + min(octet * 8 + g, M - 1) * X_ROW + t * 16;
    auto x_of = [&](int s, const char* (&at)[OCTETS]) {
        const int group = EVEN || warp * STEPS + s < GROUPS ? warp * STEPS + s : warp * STEPS;  // beyond the last, weights are zeros
#pragma unroll
        for (int octet = 0; octet < OCTETS; octet++) at[octet] = lane_x[octet] + group * (GROUP * X_BYTES);
    };

    Sum begin[OCTETS][2] = {};
#if !EIGHT
    {
        Sums offset = {};
        for (int s = 0; s < STEPS; s++) {
            const char* at[OCTETS];
            x_of(s, at);
            const uint4 none[4] = {};
            auto constant = [](u32) { return 0xBF40BF40u; };            // -0.75
            multiply<0, 0, 1>(offset, none, at, constant), multiply<1, 0, 1>(offset, none, at, constant);
            multiply<2, 0, 1>(offset, none, at, constant), multiply<3, 0, 1>(offset, none, at, constant);
        }
#pragma unroll
        for (int octet = 0; octet < OCTETS; octet++)
#pragma unroll
            for (int i = 0; i < 2; i++) begin[octet][i] = offset[0][octet][0][i] + offset[0][octet][1][i];
    }
#endif

    auto put = [&](Sum sum, int tile, int token, int row) {             // the tile-th of the block
        const int feature = (team + tile * teams) * ROWS + row;
        float result = (float)sum * ((float)scale / MULTIPLE);
#if EIGHT
        result *= scales[token];
#endif
        u16 bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(result));
        if (N % ROWS == 0 || feature < N) y[(size_t)token * N + feature] = bits;
    };
    int step = 0, turn = 0;
    for (int start = 0; start < tiles; start += HELD, turn ^= 1) {
        const int held = min(HELD, tiles - start);
        for (int h = 0; h < held; h++) {
            Sums sums = {};
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int octet = 0; octet < OCTETS; octet++)
#pragma unroll
                    for (int i = 0; i < 4; i++) sums[half][octet][0][i] = begin[octet][i % 2];
#pragma unroll 1
            for (int s = 0; s < STEPS; s++, step++) {
                arrived<DEPTH - 1>();
                const char* slot = ring + step % DEPTH * (WARPS * SLOT) + warp * SLOT + lane * 16;
                uint4 packed[4];
#pragma unroll
                for (int i = 0; i < 4; i++) packed[i] = *(const uint4*)(slot + i * 512);
                const char* at[OCTETS];
                x_of(s, at);
                planes<0>(sums, packed, at);
                planes<1>(sums, packed, at);
                planes<2>(sums, packed, at);
                planes<3>(sums, packed, at);
                load();                                                 // into the slot that was just read
            }
            Sum* const mine = partial + h * SUM_TILE + warp * SUM_WARP;
#pragma unroll
            for (int octet = 0; octet < OCTETS; octet++)
#pragma unroll
                for (int half = 0; half < 2; half++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {                       // row g + i / 2 x 8 of the half, row 2 t + i % 2 of the octet
                        const int token = octet * 8 + 2 * t + i % 2;
                        Sum sum = sums[half][octet][0][i];
                        if (CHAINS == 2) sum = sums[half][octet][CHAINS - 1][i] + (EIGHT ? 1 : -8) * sum;
                        if (M % 8 == 0 || token < M) mine[place(token, half * 16 + i / 2 * 8 + g)] = sum;
                    }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < held * (M * ROWS); i += THREADS) {
            const int h = i / (M * ROWS), token = i / ROWS % M, row = i % ROWS;
            const Sum* from = partial + h * SUM_TILE + place(token, row);
            Sum sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += from[w * SUM_WARP];
            if (SPLIT == 1) put(sum, start + h, token, row);
            else in_part(inbox + turn * INBOX + part * (INBOX / SPLIT), i / ROWS % SPLIT)[i] = sum;
        }
        if (SPLIT > 1) {
            arrive(), await();                                          // and `partial` was read
            for (int i = threadIdx.x; i < held * (M * ROWS); i += THREADS) {
                Sum sum = 0;
#pragma unroll
                for (int from = 0; from < SPLIT; from++) sum += inbox[turn * INBOX + from * (INBOX / SPLIT) + i];
                if (i / ROWS % SPLIT == part) put(sum, start + i / SUM_WARP, i / ROWS % M, i % ROWS);
            }
        } else if (start + HELD < tiles) __syncthreads();
    }
}
