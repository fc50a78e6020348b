// What a kernel sees of the stand-in for a GPU (emulator.cpp): CUDA's keywords and variables, for a C++ compiler.
// Included in front of every kernel source.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
// Blocks run one after another.
#define __shared__ static

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
template <typename T> T atomicAdd(T *to, T x) { const T old = *to; return *to = old + x, old; }
inline double normcdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
inline float normcdff(float x) { return normcdf(x); }
template <typename T> T __ldg(const T *p) { return *p; }
struct uint3 { unsigned x, y, z; };
extern uint3 threadIdx, blockIdx;
extern uint3 blockDim, gridDim;
extern "C" void __syncthreads();
inline void __threadfence() {}

extern "C" uint64_t emulated_shuffle(uint64_t value, int mask);

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulated_shuffle(bits, mask);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

using std::abs, std::ceil, std::cos, std::erf, std::exp, std::fabs, std::floor, std::isnan, std::log, std::max, std::min,
    std::pow, std::round, std::sin, std::sqrt, std::tanh;
