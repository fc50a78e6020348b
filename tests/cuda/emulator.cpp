// A stand-in for libcuda, libcublas, libcurand and libcudnn on a machine without a GPU: device memory is host
// memory, and kernels, compiled for the CPU (device.h), run thread by thread. It checks what the library asks of
// a GPU: that kernels exist, get as many arguments as their PTX takes, of its sizes, and compute what they should.
// It knows nothing of speed, nor of races between the threads of a block.
//
// Kernels are looked up in the shared libraries named in EMULATED_KERNELS, separated by colons. With EMULATED_NO_GPU set
// there is a driver and no GPU.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <ucontext.h>
#include <vector>

struct uint3 { unsigned x, y, z; };
uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

// Printed in the end where EMULATED_STATISTICS is set: what a step costs in calls, which the emulator does know.
struct Statistics {
  long launches = 0, products = 0, copies_there = 0, copies_back = 0;
  ~Statistics() {
    if (getenv("EMULATED_STATISTICS"))
      fprintf(stderr, "emulator: %ld kernels, %ld products, %ld copies there, %ld copies back\n", launches, products,
              copies_there, copies_back);
  }
} calls;

std::recursive_mutex busy;  // The device does one thing at a time.

[[noreturn]] void fail(const std::string &what) {
  fprintf(stderr, "emulator: %s\n", what.c_str());
  abort();
}

// ---- threads of a block that wait for one another

std::vector<ucontext_t> fibers;
std::vector<std::vector<char>> stacks;
enum State { Ready, AtBlock, AtWarp, Finished };
std::vector<State> states;
uint64_t lanes[1024];
ucontext_t scheduler;
unsigned current;
void (*body)();

void start() {
  body();
  states[current] = Finished;
  swapcontext(&fibers[current], &scheduler);
}

void run_waiting(unsigned threads) {
  if (stacks.size() < threads) stacks.resize(threads, std::vector<char>(64 << 10));
  fibers.resize(std::max<size_t>(fibers.size(), threads));
  states.assign(threads, Ready);
  for (unsigned t = 0; t < threads; t++) {
    getcontext(&fibers[t]);
    fibers[t].uc_stack = {stacks[t].data(), 0, stacks[t].size()};
    fibers[t].uc_link = nullptr;
    makecontext(&fibers[t], start, 0);
  }
  // Takes every thread to where it waits, then lets go those whose block or warp is complete.
  auto release = [&](unsigned from, unsigned to, State state) {
    for (unsigned t = from; t < to; t++)
      if (states[t] != state && states[t] != Finished) return;
    for (unsigned t = from; t < to; t++)
      if (states[t] == state) states[t] = Ready;
  };
  for (bool any = true; any;) {
    any = false;
    for (unsigned t = 0; t < threads; t++) {
      if (states[t] != Ready) continue;
      any = true;
      current = t;
      threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
      swapcontext(&scheduler, &fibers[t]);
    }
    for (unsigned warp = 0; warp < threads; warp += 32) release(warp, std::min(threads, warp + 32), AtWarp);
    release(0, threads, AtBlock);
  }
  for (State state : states)
    if (state != Finished) fail("the threads of a block wait for one another for ever");
}

void wait_for(State state) {
  states[current] = state;
  swapcontext(&fibers[current], &scheduler);
}

// ---- kernels

enum Kind { Integer, Float, Double };

struct Function {
  std::string name;
  std::vector<std::pair<Kind, unsigned>> parameters;  // and their sizes in bytes
  bool waits;
  void *code;
};

// Where the code ends that begins at `at`: at the next function or entry.
size_t end_of_code(const std::string &text, size_t at) { return std::min(text.find(".func ", at), text.find(".entry ", at)); }

bool waits_or_calls(const std::string &code, const std::set<std::string> &waiting) {
  if (code.find("bar.sync") != std::string::npos || code.find("shfl.sync") != std::string::npos) return true;
  return std::any_of(waiting.begin(), waiting.end(), [&](auto &name) { return code.find(name) != std::string::npos; });
}

// The functions of a PTX text whose threads wait for one another. Where nothing is inlined, entries call such functions.
std::set<std::string> waiting_functions(const std::string &text) {
  std::set<std::string> waiting;
  size_t known;
  do {
    known = waiting.size();
    for (size_t at = text.find(".func "); at != std::string::npos; at = text.find(".func ", at)) {
      at = text.find_first_not_of(" \t", at + 6);
      if (text[at] == '(') at = text.find_first_not_of(" \t", text.find(')', at) + 1);  // what it returns
      const std::string name = text.substr(at, text.find_first_of(" \t\r\n(;", at) - at);
      at += name.size();
      if (waits_or_calls(text.substr(at, end_of_code(text, at) - at), waiting)) waiting.insert(name);
    }
  } while (known != waiting.size());
  return waiting;
}

// The entries of a PTX text.
std::map<std::string, Function *> *parse(const char *ptx) {
  auto *functions = new std::map<std::string, Function *>;
  const std::string text(ptx), entry = ".entry ";
  const auto waiting = waiting_functions(text);
  for (size_t at = text.find(entry); at != std::string::npos; at = text.find(entry, at)) {
    at += entry.size();
    const size_t open = text.find('(', at), close = text.find(')', open);
    auto *f = new Function{text.substr(at, open - at), {}, false, nullptr};
    const std::string parameters = text.substr(open, close - open), param = ".param ";
    for (size_t p = parameters.find(param); p != std::string::npos; p = parameters.find(param, p)) {
      p += param.size();
      if (parameters.compare(p, 1, ".") != 0 || parameters.compare(p, 6, ".align") == 0) {
        f->parameters.push_back({Integer, 0});  // a structure
        continue;
      }
      const char kind = parameters[p + 1];
      const unsigned bytes = atoi(parameters.c_str() + p + 2) / 8;
      f->parameters.push_back({kind != 'f' ? Integer : bytes == 8 ? Double : Float, bytes});
    }
    f->waits = waits_or_calls(text.substr(close, end_of_code(text, close) - close), waiting);
    (*functions)[f->name] = f;
    at = close;
  }
  return functions;
}

void *find(const std::string &name) {
  static std::vector<void *> libraries;
  if (libraries.empty()) {
    std::string paths = getenv("EMULATED_KERNELS") ? getenv("EMULATED_KERNELS") : "";
    for (size_t at = 0; at < paths.size();) {
      const size_t end = std::min(paths.find(':', at), paths.size());
      void *library = dlopen(paths.substr(at, end - at).c_str(), RTLD_NOW);
      if (!library) fail(dlerror());
      libraries.push_back(library);
      at = end + 1;
    }
  }
  for (void *library : libraries)
    if (void *code = dlsym(library, name.c_str())) return code;
  fail("there is no kernel " + name + " in EMULATED_KERNELS");
}

// On x86-64 integers and floating-point numbers are passed in registers of their own, and more than six integers
// on the stack, each in order: one signature does for all.
typedef uint64_t I;
typedef double D;
typedef void (*Code)(I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, D, D, D, D, D, D, D, D);
I ints[20];
D reals[8];
Function *running;

void call() {
  const I *i = ints;
  const D *d = reals;
  ((Code)running->code)(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], i[12], i[13], i[14],
                        i[15], i[16], i[17], i[18], i[19], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]);
}

void launch(Function *f, void **arguments) {
  if (!f->code) f->code = find(f->name);
  unsigned int_count = 0, real_count = 0;
  memset(ints, 0, sizeof ints);
  memset(reals, 0, sizeof reals);
  for (size_t p = 0; p < f->parameters.size(); p++) {
    const auto [kind, bytes] = f->parameters[p];
    if (bytes == 0) fail(f->name + " takes a structure");
    if (int_count == 20 || real_count == 8) fail(f->name + " takes too many arguments");
    void *to = kind == Integer ? (void *)&ints[int_count++] : (void *)&reals[real_count++];
    memcpy(to, arguments[p], bytes);
  }
  running = f;
  body = call;
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        if (f->waits) {
          run_waiting(blockDim.x * blockDim.y * blockDim.z);
          continue;
        }
        for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
          for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) call();
      }
}

// ---- products

float bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}

uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

float tf32(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
  memcpy(&x, &bits, 4);
  return x;
}

enum Type { F32, F64, BF16 };
struct Array {
  void *data;
  Type type;
  bool round;  // f32 to TF32
  double get(int64_t i) const {
    if (type == F64) return ((double *)data)[i];
    if (type == BF16) return bf16(((uint16_t *)data)[i]);
    return round ? tf32(((float *)data)[i]) : ((float *)data)[i];
  }
  void set(int64_t i, double x) const {
    if (type == F64) ((double *)data)[i] = x;
    else if (type == BF16) ((uint16_t *)data)[i] = to_bf16(x);
    else ((float *)data)[i] = x;
  }
};

// Column-major, as BLAS has it.
void gemm(int ta, int tb, int m, int n, int k, double alpha, Array a, int lda, int64_t sa, Array b, int ldb, int64_t sb,
          double beta, Array c, int ldc, int64_t sc, int count) {
  calls.products++;
  for (int64_t s = 0; s < count; s++)
    for (int j = 0; j < n; j++)
      for (int i = 0; i < m; i++) {
        double sum = 0;
        for (int l = 0; l < k; l++)
          sum += a.get(s * sa + (ta ? (int64_t)i * lda + l : (int64_t)l * lda + i)) *
                 b.get(s * sb + (tb ? (int64_t)l * ldb + j : (int64_t)j * ldb + l));
        const int64_t at = s * sc + (int64_t)j * ldc + i;
        c.set(at, alpha * sum + (beta != 0 ? beta * c.get(at) : 0));
      }
}

// ---- descriptors of cuDNN

struct Tensor { int type, n, c, h, w; };
struct Convolution { int pad, stride, math = 0, type; };
Type type_of(int cudnn) { return cudnn == 1 ? F64 : cudnn == 9 ? BF16 : F32; }

// Calls f(place in x, place in w, place in y) for every product of a convolution.
template <typename F> void products(const Tensor &x, const Tensor &w, const Convolution &c, const Tensor &y, F f) {
  calls.products++;
  for (int n = 0; n < y.n; n++)
    for (int o = 0; o < y.c; o++)
      for (int oy = 0; oy < y.h; oy++)
        for (int ox = 0; ox < y.w; ox++)
          for (int i = 0; i < x.c; i++)
            for (int ky = 0; ky < w.h; ky++)
              for (int kx = 0; kx < w.w; kx++) {
                const int iy = oy * c.stride + ky - c.pad, ix = ox * c.stride + kx - c.pad;
                if (iy < 0 || iy >= x.h || ix < 0 || ix >= x.w) continue;
                f(((n * x.c + i) * x.h + iy) * x.w + ix, ((o * w.c + i) * w.h + ky) * w.w + kx,
                  ((n * y.c + o) * y.h + oy) * y.w + ox);
              }
}

void store(const std::vector<double> &sums, Array out) {
  for (size_t i = 0; i < sums.size(); i++) out.set(i, sums[i]);
}

}  // namespace

extern "C" {
#define LOCK std::lock_guard<std::recursive_mutex> lock(busy)
typedef int R;
typedef uint64_t P;

void __syncthreads() { wait_for(AtBlock); }
uint64_t emulated_shuffle(uint64_t value, int mask) {
  lanes[current] = value;
  wait_for(AtWarp);
  const uint64_t other = lanes[current ^ mask];
  wait_for(AtWarp);
  return other;
}

// ---- driver

R cuInit(unsigned) { return getenv("EMULATED_NO_GPU") ? 100 : 0; }
R cuGetExportTable(const void **, const void *) { return 500; }  // NVRTC asks, and does without.
R cuDriverGetVersion(int *version) { return *version = 13000, 0; }
R cuDeviceGetCount(int *count) { return *count = 1, 0; }
R cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : 101; }
R cuDeviceGetName(char *name, int len, int) { return snprintf(name, len, "emulated GPU"), 0; }
R cuDeviceGetAttribute(int *value, int attribute, int) {
  // Compute capability 9.0; memory pools are supported.
  return *value = attribute == 75 ? 9 : attribute == 115 ? 1 : 0, 0;
}
R cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, 0; }
R cuDevicePrimaryCtxRelease_v2(int) { return 0; }
R cuCtxSetCurrent(void *) { return 0; }
R cuCtxGetCurrent(void **context) { return *context = (void *)1, 0; }
R cuCtxSynchronize() { return 0; }
R cuStreamCreate(void **stream, unsigned) { return *stream = (void *)2, 0; }
R cuStreamDestroy_v2(void *) { return 0; }
R cuStreamSynchronize(void *) { return 0; }
R cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
R cuStreamIsCapturing(void *, int *status) { return *status = 0, 0; }
R cuEventCreate(void **event, unsigned) { return *event = (void *)3, 0; }
R cuEventDestroy_v2(void *) { return 0; }
R cuEventRecord(void *, void *) { return 0; }
R cuEventSynchronize(void *) { return 0; }
R cuEventQuery(void *) { return 0; }
R cuGetErrorName(R error, const char **text) {
  return *text = error == 100 ? "CUDA_ERROR_NO_DEVICE" : "an error of the emulator", 0;
}
R cuGetErrorString(R error, const char **text) {
  return *text = error == 100 ? "no CUDA-capable device is detected" : "an error of the emulator", 0;
}
// Fresh memory is filled with NaN: what a kernel forgot to write shows.
R cuMemAllocAsync(P *pointer, size_t bytes, void *) { return *pointer = (P)memset(malloc(bytes + 1), 0xff, bytes), 0; }
R cuMemAlloc_v2(P *pointer, size_t bytes) { return cuMemAllocAsync(pointer, bytes, nullptr); }
R cuMemFreeAsync(P pointer, void *) { return free((void *)pointer), 0; }
R cuMemFree_v2(P pointer) { return free((void *)pointer), 0; }
R cuMemcpyHtoDAsync_v2(P to, const void *from, size_t bytes, void *) { LOCK; calls.copies_there++; return memcpy((void *)to, from, bytes), 0; }
R cuMemcpyDtoHAsync_v2(void *to, P from, size_t bytes, void *) { LOCK; calls.copies_back++; return memcpy(to, (void *)from, bytes), 0; }
R cuMemcpyDtoDAsync_v2(P to, P from, size_t bytes, void *) { LOCK; return memmove((void *)to, (void *)from, bytes), 0; }
R cuMemsetD8Async(P to, unsigned char byte, size_t bytes, void *) { LOCK; return memset((void *)to, byte, bytes), 0; }
R cuModuleLoadData(void **module, const void *image) { LOCK; return *module = parse((const char *)image), 0; }
R cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = (void *)7, 0; }
R cuMemPoolSetAttribute(void *, int attribute, void *value) {
  // The release threshold; nothing else is set.
  return attribute == 4 && *(uint64_t *)value > 0 ? 0 : 1;
}
R cuModuleUnload(void *) { return 0; }
R cuModuleGetFunction(void **function, void *module, const char *name) {
  auto *functions = (std::map<std::string, Function *> *)module;
  auto found = functions->find(name);
  if (found == functions->end()) return 500;
  return *function = found->second, 0;
}
R cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, void *,
                 void **arguments, void **) {
  LOCK;
  calls.launches++;
  if (bx * by * bz > 1024 || gx == 0) return 1;
  gridDim = {gx, gy, gz};
  blockDim = {bx, by, bz};
  launch((Function *)f, arguments);
  return 0;
}

// Nothing can be recorded here.
R cuStreamBeginCapture_v2(void *, int) { return 900; }

// ---- cuBLAS and cuRAND

R cublasCreate_v2(void **handle) { return *handle = (void *)4, 0; }
R cublasDestroy_v2(void *) { return 0; }
R cublasSetStream_v2(void *, void *) { return 0; }
R cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int a_type,
                             int lda, long long sa, const void *b, int b_type, int ldb, long long sb, const void *beta,
                             void *c, int c_type, int ldc, long long sc, int count, int compute, int) {
  LOCK;
  auto type = [](int cuda) { return cuda == 0 ? F32 : cuda == 14 ? BF16 : (fail("a type in cuBLAS"), F32); };
  if (compute != 68 && compute != 77) fail("cuBLAS computes in type " + std::to_string(compute));
  const bool round = compute == 77;  // CUBLAS_COMPUTE_32F_FAST_TF32
  gemm(ta, tb, m, n, k, *(float *)alpha, {(void *)a, type(a_type), round}, lda, sa, {(void *)b, type(b_type), round},
       ldb, sb, *(float *)beta, {c, type(c_type), false}, ldc, sc, count);
  return 0;
}
R cublasDgemmStridedBatched(void *, int ta, int tb, int m, int n, int k, const double *alpha, const double *a, int lda,
                            long long sa, const double *b, int ldb, long long sb, const double *beta, double *c, int ldc,
                            long long sc, int count) {
  LOCK;
  gemm(ta, tb, m, n, k, *alpha, {(void *)a, F64, false}, lda, sa, {(void *)b, F64, false}, ldb, sb, *beta,
       {c, F64, false}, ldc, sc, count);
  return 0;
}
R curandCreateGenerator(void **generator, int) { return *generator = (void *)5, 0; }
R curandDestroyGenerator(void *) { return 0; }
R curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
R curandSetStream(void *, void *) { return 0; }

// ---- cuDNN

R cudnnCreate(void **handle) { return *handle = (void *)6, 0; }
R cudnnDestroy(void *) { return 0; }
R cudnnSetStream(void *, void *) { return 0; }
R cudnnCreateTensorDescriptor(void **d) { return *d = new Tensor, 0; }
R cudnnDestroyTensorDescriptor(void *d) { return delete (Tensor *)d, 0; }
R cudnnSetTensor4dDescriptor(void *d, int format, int type, int n, int c, int h, int w) {
  if (format != 0) fail("cuDNN: a tensor is not NCHW");
  return *(Tensor *)d = {type, n, c, h, w}, 0;
}
R cudnnCreateFilterDescriptor(void **d) { return cudnnCreateTensorDescriptor(d); }
R cudnnDestroyFilterDescriptor(void *d) { return cudnnDestroyTensorDescriptor(d); }
R cudnnSetFilter4dDescriptor(void *d, int type, int format, int k, int c, int h, int w) {
  return cudnnSetTensor4dDescriptor(d, format, type, k, c, h, w);
}
R cudnnCreateConvolutionDescriptor(void **d) { return *d = new Convolution, 0; }
R cudnnDestroyConvolutionDescriptor(void *d) { return delete (Convolution *)d, 0; }
R cudnnSetConvolution2dDescriptor(void *d, int pad, int, int stride, int, int, int, int mode, int type) {
  if (mode != 1) fail("cuDNN: not a cross-correlation");
  auto *c = (Convolution *)d;
  return c->pad = pad, c->stride = stride, c->type = type, 0;
}
R cudnnSetConvolutionMathType(void *d, int math) { return ((Convolution *)d)->math = math, 0; }
R cudnnGetConvolutionForwardAlgorithm_v7(void *, void *, void *, void *, void *, int, int *count, void *results) {
  // The first fields are the algorithm and its status.
  return *count = 1, ((int *)results)[0] = 1, ((int *)results)[1] = 0, 0;
}
// What cuDNN prefers may add in any order; the library must not take it.
R cudnnGetConvolutionBackwardDataAlgorithm_v7(void *, void *, void *, void *, void *, int, int *count, void *results) {
  return *count = 1, ((int *)results)[0] = 0, ((int *)results)[1] = 0, 0;
}
R cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *, void *, void *, void *, void *, int, int *count, void *results) {
  return *count = 1, ((int *)results)[0] = 3, ((int *)results)[1] = 0, 0;
}
R cudnnGetConvolutionForwardWorkspaceSize(void *, void *, void *, void *, void *, int, size_t *bytes) {
  return *bytes = 16, 0;
}
R cudnnGetConvolutionBackwardDataWorkspaceSize(void *, void *, void *, void *, void *, int, size_t *bytes) {
  return *bytes = 16, 0;
}
R cudnnGetConvolutionBackwardFilterWorkspaceSize(void *, void *, void *, void *, void *, int, size_t *bytes) {
  return *bytes = 16, 0;
}
// CUDNN_FMA_MATH is 3; all others may round to TF32, the default, which is 0, too.
#define ARRAY(data, d) (Array{(void *)data, type_of(((Tensor *)d)->type), c->type == 0 && c->math != 3})
R cudnnConvolutionForward(void *, const void *, void *xd, const void *x, void *wd, const void *w, void *cd, int, void *,
                          size_t, const void *, void *yd, void *y) {
  LOCK;
  auto *c = (Convolution *)cd;
  auto &out = *(Tensor *)yd;
  std::vector<double> sums((size_t)out.n * out.c * out.h * out.w);
  const Array ax = ARRAY(x, xd), aw = ARRAY(w, wd);
  products(*(Tensor *)xd, *(Tensor *)wd, *c, out, [&](int i, int j, int k) { sums[k] += ax.get(i) * aw.get(j); });
  return store(sums, ARRAY(y, yd)), 0;
}
R cudnnConvolutionBackwardData(void *, const void *, void *wd, const void *w, void *yd, const void *dy, void *cd,
                               int algorithm, void *, size_t, const void *, void *xd, void *dx) {
  LOCK;
  if (algorithm == 0) fail("cuDNN: algorithm 0 of the gradient is not deterministic");
  auto *c = (Convolution *)cd;
  auto &out = *(Tensor *)xd;
  std::vector<double> sums((size_t)out.n * out.c * out.h * out.w);
  const Array ag = ARRAY(dy, yd), aw = ARRAY(w, wd);
  products(out, *(Tensor *)wd, *c, *(Tensor *)yd, [&](int i, int j, int k) { sums[i] += ag.get(k) * aw.get(j); });
  return store(sums, ARRAY(dx, xd)), 0;
}
R cudnnConvolutionBackwardFilter(void *, const void *, void *xd, const void *x, void *yd, const void *dy, void *cd,
                                 int algorithm, void *, size_t, const void *, void *wd, void *dw) {
  LOCK;
  if (algorithm == 0 || algorithm == 3) fail("cuDNN: this algorithm of the gradient is not deterministic");
  auto *c = (Convolution *)cd;
  auto &out = *(Tensor *)wd;
  std::vector<double> sums((size_t)out.n * out.c * out.h * out.w);
  const Array ag = ARRAY(dy, yd), ax = ARRAY(x, xd);
  products(*(Tensor *)xd, out, *c, *(Tensor *)yd, [&](int i, int j, int k) { sums[j] += ag.get(k) * ax.get(i); });
  return store(sums, ARRAY(dw, wd)), 0;
}
const char *cudnnGetErrorString(R) { return "an error of the emulator"; }
}
