// candle's conversions of types, for the emulator: its own source needs a compiler that knows bf16 and fp8.
struct bf16 {
  uint16_t bits;
  bf16() = default;
  bf16(double value) {
    const float x = value;
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    bits = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
  }
  operator double() const {
    const uint32_t wide = (uint32_t)bits << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
  }
};

#define CAST(from, from_name, to, to_name)                                                                        \
  extern "C" void cast_##from_name##_##to_name(size_t len, size_t rank, const size_t *info, const from *x, to *out) { \
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < len; i += blockDim.x * gridDim.x) {               \
      size_t at = i;                                                                                             \
      if (info) {                                                                                                \
        size_t rest = i;                                                                                         \
        at = 0;                                                                                                  \
        for (size_t d = rank; d-- > 0; rest /= info[d]) at += rest % info[d] * info[rank + d];                   \
      }                                                                                                          \
      out[i] = (to)x[at];                                                                                        \
    }                                                                                                            \
  }

CAST(float, f32, double, f64)
CAST(double, f64, float, f32)
CAST(float, f32, bf16, bf16)
CAST(bf16, bf16, float, f32)
CAST(uint8_t, u8, float, f32)
CAST(uint8_t, u8, double, f64)
CAST(uint32_t, u32, float, f32)
CAST(uint32_t, u32, double, f64)
