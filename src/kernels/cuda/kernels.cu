// What the operations of src/kernels compute on an NVIDIA GPU. Compiled at run time (src/kernels/cuda.rs), once with
// REAL = float and once with REAL = double. Each result is written by one thread and sums have a fixed order, so
// that the same input gives the same bits again: nothing that is summed up is added atomically. Images lie as
// (batch, channels, height, width).

#define JOIN_(name, type) branchynet_##name##_##type
#define JOIN(name, type) JOIN_(name, type)
#define KERNEL(name) extern "C" __global__ void JOIN(name, TYPE)
// One thread for each of `len` results.
#define FOR_EACH(i, len)                           \
  const int i = blockIdx.x * blockDim.x + threadIdx.x; \
  if (i >= len) return

typedef REAL T;
typedef unsigned int u32;
typedef unsigned char u8;

KERNEL(relu)(const T *x, T *out, int len) {
  FOR_EACH(i, len);
  out[i] = x[i] < T(0) ? T(0) : x[i];
}

KERNEL(relu_grad)(const T *out, const T *grad, T *masked, int len) {
  FOR_EACH(i, len);
  masked[i] = out[i] > T(0) ? grad[i] : T(0);
}

KERNEL(gelu)(const T *x, T *out, int len) {
  FOR_EACH(i, len);
  out[i] = x[i] * T(0.5) * (T(1) + erf(x[i] * T(0.70710678118654752440)));
}

KERNEL(gelu_grad)(const T *x, const T *grad, T *of_x, int len) {
  FOR_EACH(i, len);
  const T below = T(0.5) * (T(1) + erf(x[i] * T(0.70710678118654752440)));
  of_x[i] = grad[i] * (below + x[i] * exp(T(-0.5) * x[i] * x[i]) * T(0.39894228040143267794));
}

KERNEL(add)(const T *a, const T *b, T *out, int len) {
  FOR_EACH(i, len);
  out[i] = a[i] + b[i];
}

// Places in images (…, channels, area) that are a fixed distance apart. Dividing each by the sizes would take longer than
// what is done there.
struct Places {
  const int channels, area, planes, pixels;
  int channel, pixel;

  __device__ Places(int first, int step, int channels, int area)
      : channels(channels), area(area), planes(step / area % channels), pixels(step % area),
        channel(first / area % channels), pixel(first % area) {}

  __device__ void next() {
    pixel += pixels;
    channel += planes;
    if (pixel >= area) pixel -= area, channel++;
    if (channel >= channels) channel -= channels;
  }
};

// Some of the `len` elements of images; their channel is `at.channel`.
#define FOR_IMAGES(i, at, len, channels, area)                        \
  const int threads = gridDim.x * blockDim.x;                        \
  Places at(blockIdx.x * blockDim.x + threadIdx.x, threads, channels, area); \
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < len; i += threads, at.next())

KERNEL(add_bias)(const T *x, const T *bias, T *out, int len, int channels, int area) {
  FOR_IMAGES(i, at, len, channels, area) out[i] = x[i] + bias[at.channel];
}

// (rows, len) to (len).
KERNEL(sum_rows)(const T *x, T *out, int len, int rows) {
  FOR_EACH(i, len);
  T sum = 0;
  for (int row = 0; row < rows; row++) sum += x[(size_t)row * len + i];
  out[i] = sum;
}

// ---- convolution: columns (batch, taps, pixels) of images

KERNEL(im2col)(const T *x, T *columns, int len, int inputs, int height, int width, int kernel, int padding,
               int stride, int out_height, int out_width) {
  FOR_EACH(i, len);
  const int pixels = out_height * out_width, taps = inputs * kernel * kernel;
  const int pixel = i % pixels, tap = i / pixels % taps, sample = i / pixels / taps;
  const int channel = tap / (kernel * kernel);
  const int y = pixel / out_width * stride + tap / kernel % kernel - padding;
  const int column = pixel % out_width * stride + tap % kernel - padding;
  const bool inside = y >= 0 && y < height && column >= 0 && column < width;
  columns[i] = inside ? x[((sample * inputs + channel) * height + y) * width + column] : T(0);
}

// The sum of all columns that show a pixel.
KERNEL(col2im)(const T *columns, T *x, int len, int inputs, int height, int width, int kernel, int padding,
               int stride, int out_height, int out_width) {
  FOR_EACH(i, len);
  const int column = i % width, y = i / width % height, channel = i / (width * height) % inputs;
  const int sample = i / (width * height * inputs);
  T sum = 0;
  for (int ky = 0; ky < kernel; ky++) {
    const int top = y + padding - ky;
    if (top < 0 || top % stride != 0 || top / stride >= out_height) continue;
    for (int kx = 0; kx < kernel; kx++) {
      const int left = column + padding - kx;
      if (left < 0 || left % stride != 0 || left / stride >= out_width) continue;
      const int tap = (channel * kernel + ky) * kernel + kx;
      const int plane = sample * inputs * kernel * kernel + tap;
      sum += columns[(plane * out_height + top / stride) * out_width + left / stride];
    }
  }
  x[i] = sum;
}

// ---- pooling

// The place of the first largest element of a window, inside its plane. NaN is taken for the largest, as in PyTorch.
__device__ int largest(const T *plane, int top, int left, int height, int width, int kernel) {
  int best = top * width + left;
  for (int y = top; y < top + kernel && y < height; y++)
    for (int x = left; x < left + kernel && x < width; x++) {
      const T value = plane[y * width + x];
      if (value > plane[best] || value != value) best = y * width + x;
    }
  return best;
}

KERNEL(pool2d)(const T *x, T *out, int len, int height, int width, int kernel, int stride, int out_height,
               int out_width, int average) {
  FOR_EACH(i, len);
  const T *plane = x + (size_t)(i / (out_height * out_width)) * height * width;
  const int top = i / out_width % out_height * stride, left = i % out_width * stride;
  if (!average) {
    out[i] = plane[largest(plane, top, left, height, width, kernel)];
    return;
  }
  T sum = 0;
  for (int y = top; y < top + kernel; y++)
    for (int column = left; column < left + kernel; column++) sum += plane[y * width + column];
  out[i] = sum / T(kernel * kernel);
}

// The first window, along one axis, that reaches `at`.
__device__ int first_window(int at, int kernel, int stride) {
  return at < kernel ? 0 : (at - kernel) / stride + 1;
}

KERNEL(pool2d_grad)(const T *x, const T *grad, T *out, int len, int height, int width, int kernel, int stride,
                    int out_height, int out_width, int average) {
  FOR_EACH(i, len);
  const int area = height * width, pixel = i % area;
  const T *plane = x + (size_t)(i / area) * area, *of_plane = grad + (size_t)(i / area) * out_height * out_width;
  const int y = pixel / width, column = pixel % width;
  T sum = 0;
  for (int oy = first_window(y, kernel, stride); oy < out_height && oy * stride <= y; oy++)
    for (int ox = first_window(column, kernel, stride); ox < out_width && ox * stride <= column; ox++)
      if (average || largest(plane, oy * stride, ox * stride, height, width, kernel) == pixel)
        sum += of_plane[oy * out_width + ox];
  out[i] = average ? sum / T(kernel * kernel) : sum;
}

// ---- local response normalisation

// k + alpha * (sum of squares over the n channels around one) at a pixel of one image.
__device__ T lrn_scale(const T *image, int pixel, int channel, int channels, int area, int n, T k, T alpha) {
  T sum = 0;
  for (int near = max(0, channel - n / 2); near <= min(channels - 1, channel + n / 2); near++) {
    const T value = image[near * area + pixel];
    sum += value * value;
  }
  return k + alpha * sum;
}

KERNEL(lrn)(const T *x, T *out, int len, int channels, int area, int n, double k, double alpha, double beta) {
  FOR_EACH(i, len);
  const int pixel = i % area, channel = i / area % channels;
  const T *image = x + (size_t)(i / area / channels) * channels * area;
  out[i] = x[i] * pow(lrn_scale(image, pixel, channel, channels, area, n, T(k), T(alpha)), T(-beta));
}

KERNEL(lrn_grad)(const T *x, const T *grad, T *out, int len, int channels, int area, int n, double k, double alpha,
                 double beta) {
  FOR_EACH(i, len);
  const int pixel = i % area, channel = i / area % channels;
  const size_t start = (size_t)(i / area / channels) * channels * area;
  const T *image = x + start, *of_image = grad + start;
  T own = 0, inner = 0;
  for (int near = max(0, channel - n / 2); near <= min(channels - 1, channel + n / 2); near++) {
    const T scale = lrn_scale(image, pixel, near, channels, area, n, T(k), T(alpha));
    const T power = pow(scale, T(-beta)), g = of_image[near * area + pixel];
    if (near == channel) own = g * power;
    inner += g * image[near * area + pixel] * power / scale;
  }
  out[i] = own - T(2 * alpha * beta) * x[i] * inner;
}

// ---- the shortcut of a residual block: every stride-th pixel, so many zero channels in front

KERNEL(add_shortcut)(const T *body, const T *x, T *out, int len, int from_channels, int from_height, int from_width,
                 int to_channels, int to_height, int to_width, int stride, int front) {
  FOR_EACH(i, len);
  if (stride == 1 && from_channels == to_channels) {
    const T sum = body[i] + x[i];
    out[i] = sum < T(0) ? T(0) : sum;
    return;
  }
  const int column = i % to_width, y = i / to_width % to_height, channel = i / (to_width * to_height) % to_channels;
  const int sample = i / (to_width * to_height * to_channels), from = channel - front;
  T sum = body[i];
  if (from >= 0 && from < from_channels) sum += x[((sample * from_channels + from) * from_height + y * stride) * from_width + column * stride];
  out[i] = sum < T(0) ? T(0) : sum;
}

KERNEL(add_shortcut_grad)(const T *grad, T *out, int len, int from_channels, int from_height, int from_width,
                      int to_channels, int to_height, int to_width, int stride, int front) {
  FOR_EACH(i, len);
  const int column = i % from_width, y = i / from_width % from_height;
  const int channel = i / (from_width * from_height) % from_channels + front;
  const int sample = i / (from_width * from_height * from_channels);
  const bool taken = y % stride == 0 && column % stride == 0;
  out[i] = taken ? grad[((sample * to_channels + channel) * to_height + y / stride) * to_width + column / stride] : T(0);
}

// ---- sums over channels: blocks of 256 threads, SLICES of them per channel, each with two partial sums

#define SLICES 32

// Writes the sums of a and b over the threads of a block to out[0] and out[1].
__device__ void block_sums(double a, double b, double *out) {
  __shared__ double sums[2][256];
  sums[0][threadIdx.x] = a;
  sums[1][threadIdx.x] = b;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
      sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    out[0] = sums[0][0];
    out[1] = sums[1][0];
  }
}

// All elements of this block's channel that are this thread's, `at` their places. A channel has `count`.
#define FOR_CHANNEL(at, count, channels, area)                                                 \
  const int begin = blockIdx.x % SLICES * 256 + threadIdx.x, step = SLICES * 256;             \
  Places of(begin, step, count / area, area);                                                 \
  for (int e = begin, at; e < count && (at = (of.channel * channels + blockIdx.x / SLICES) * area + of.pixel, true); \
       e += step, of.next())

// Adds up a and b over all threads of all blocks of this block's channel, in an order that does not depend on which
// block is done first. True in one thread of the block that is done last, which gets the totals. Nobody waits for
// others: each block takes a ticket, and tickets are back at zero in the end.
__device__ bool totals(double a, double b, double *partial, u32 *tickets, double total[2]) {
  block_sums(a, b, partial + 2 * blockIdx.x);
  if (threadIdx.x != 0) return false;
  __threadfence();
  const int channel = blockIdx.x / SLICES;
  if (atomicAdd(tickets + channel, 1u) != SLICES - 1) return false;
  tickets[channel] = 0;
  __threadfence();
  const volatile double *of_slices = partial + 2 * SLICES * channel;
  total[0] = total[1] = 0;
  for (int slice = 0; slice < SLICES; slice++) {
    total[0] += of_slices[2 * slice];
    total[1] += of_slices[2 * slice + 1];
  }
  return true;
}

KERNEL(channel_sums)(const T *grad, double *partial, u32 *tickets, T *out, int count, int channels, int area) {
  T sum = 0;
  double total[2];
  FOR_CHANNEL(at, count, channels, area) sum += grad[at];
  if (totals(sum, 0, partial, tickets, total)) out[blockIdx.x / SLICES] = total[0];
}

// Mean and variance, one behind the other, from the distances to the channel's first value: their squares stay near
// the variance.
KERNEL(moments)(const T *x, double *partial, u32 *tickets, T *out, int count, int channels, int area) {
  const T origin = x[blockIdx.x / SLICES * area];
  T sum = 0, square = 0;
  double total[2];
  FOR_CHANNEL(at, count, channels, area) {
    sum += x[at] - origin;
    square += (x[at] - origin) * (x[at] - origin);
  }
  if (totals(sum, square, partial, tickets, total)) {
    const double distance = total[0] / count;
    out[blockIdx.x / SLICES] = origin + distance;
    out[channels + blockIdx.x / SLICES] = max(0.0, total[1] / count - distance * distance);
  }
}

// Sum of g, and of g times the normalised x, one behind the other.
KERNEL(batch_norm_sums)(const T *x, const T *grad, const T *means, const T *variances, double *partial, u32 *tickets,
                       T *out, int count, int channels, int area, double epsilon) {
  const T mean = means[blockIdx.x / SLICES];
  T sum = 0, product = 0;
  double total[2];
  FOR_CHANNEL(at, count, channels, area) {
    sum += grad[at];
    product += grad[at] * (x[at] - mean);
  }
  if (totals(sum, product / sqrt(variances[blockIdx.x / SLICES] + epsilon), partial, tickets, total)) {
    out[blockIdx.x / SLICES] = total[0];
    out[channels + blockIdx.x / SLICES] = total[1];
  }
}

// ---- batch normalisation by means and variances (channels)

KERNEL(batch_norm)(const T *x, const T *weight, const T *bias, const T *means, const T *variances, T *out, int len,
                  int channels, int area, double epsilon) {
  FOR_IMAGES(i, at, len, channels, area) {
    const T slope = weight[at.channel] / sqrt(variances[at.channel] + T(epsilon));
    out[i] = (x[i] - means[at.channel]) * slope + bias[at.channel];
  }
}

KERNEL(batch_norm_grad)(const T *x, const T *grad, const T *weight, const T *means, const T *variances, const T *sums,
                       T *out, int len, int channels, int area, int of_batch, double epsilon) {
  const T count = len / channels;
  FOR_IMAGES(i, at, len, channels, area) {
    const int channel = at.channel;
    const T scale = T(1) / sqrt(variances[channel] + T(epsilon));
    T g = grad[i];
    if (of_batch) {
      const T normalised = (x[i] - means[channel]) * scale;
      g -= (sums[channel] + normalised * sums[channels + channel]) / count;
    }
    out[i] = scale * weight[channel] * g;
  }
}

// Updates running statistics with a batch's.
KERNEL(update_running)(const T *moments, T *running, int len, double decay, double factor) {
  FOR_EACH(i, len);
  running[i] = running[i] * T(decay) + T(moments[i] * factor) * T(1 - decay);
}

// ---- dropout: a mask of 0 and keep from a counter (Steele, Lea and Flood 2014, SplitMix64)

KERNEL(dropout_mask)(const T *, T *out, int len, int low, int high, double p, double keep) {
  FOR_EACH(i, len);
  unsigned long long z = ((unsigned long long)(u32)high << 32 | (u32)low) + (i + 1ull) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  out[i] = (z >> 11) * 0x1p-53 < p ? T(0) : T(keep);
}

// ---- training

// Gradients times scale (len, classes), then losses, then whether the answer is right. The target is 1 - smoothing
// for the label, and smoothing shared by all classes.
KERNEL(cross_entropy)(const T *logits, const u32 *labels, T *out, int len, int classes, double scale, double smoothing) {
  FOR_EACH(sample, len);
  const T *z = logits + sample * classes;
  const u32 label = labels[sample];
  int best = 0;
  for (int c = 1; c < classes; c++)
    if (z[c] > z[best]) best = c;
  T sum = 0, distances = 0;
  for (int c = 0; c < classes; c++) {
    sum += exp(z[c] - z[best]);
    distances += z[c] - z[best];
  }
  const T share = smoothing / classes;
  for (int c = 0; c < classes; c++) {
    const T target = (c == label ? T(1 - smoothing) : T(0)) + share;
    out[sample * classes + c] = (exp(z[c] - z[best]) / sum - target) * T(scale);
  }
  // A label that is no class has no loss: not a number, which ends training.
  const T distance = label < classes ? z[label] - z[best] : T(0) / (sum - sum);
  out[len * classes + sample] = log(sum) - T(1 - smoothing) * distance - share * distances;
  out[len * (classes + 1) + sample] = best == label;
}

// A parameter, as src/kernels/cuda/optimizer.rs lays it out: means are Adam's of gradient and squared gradient (2, len),
// or SGD's velocity (len); rate multiplies that of the step.
struct Parameter {
  T *weight;
  const T *grad;
  T *means;
  long long len;
  double rate, decay;
};

// Blocks (x, y): x share the elements of parameter y. `step` are rate and epsilon.
#define FOR_PARAMETER(i, all, step)         \
  const Parameter p = all[blockIdx.y];     \
  const T rate = T(p.rate * step[0]);      \
  for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < p.len; i += gridDim.x * blockDim.x)

KERNEL(adam)(const Parameter *all, const double *step, double beta1, double beta2) {
  FOR_PARAMETER(i, all, step) {
    const T g = p.grad[i];
    const T mean = p.means[i] = p.means[i] * T(beta1) + g * T(1 - beta1);
    const T square = p.means[p.len + i] = p.means[p.len + i] * T(beta2) + g * g * T(1 - beta2);
    p.weight[i] -= mean / (sqrt(square) + T(step[1])) * rate;
  }
}

KERNEL(sgd)(const Parameter *all, const double *step, double momentum, int nesterov) {
  FOR_PARAMETER(i, all, step) {
    const T decayed = p.grad[i] + p.weight[i] * T(p.decay);
    const T velocity = p.means[i] = p.means[i] * T(momentum) + decayed;
    p.weight[i] -= (nesterov ? velocity * T(momentum) + decayed : velocity) * rate;
  }
}

// Bytes to what the network sees. samples (len / image, 2): number of the image, and shift and flip; table
// (channels, 256): the value of every byte.
KERNEL(images)(const T *table, const u8 *bytes, const u32 *samples, T *out, int len, int channels, int height,
               int width, int shift) {
  FOR_EACH(i, len);
  const int column = i % width, y = i / width % height, channel = i / (width * height) % channels;
  const u32 *sample = samples + 2 * (i / (width * height * channels));
  const int down = sample[1] & 255, right = sample[1] >> 8 & 255, flip = sample[1] >> 16 & 1, mirrored = sample[1] >> 17;
  int from_y = y + down - shift, from_x = (flip ? width - 1 - column : column) + right - shift;
  if (mirrored) {
    from_y = from_y < 0 ? -from_y : from_y >= height ? 2 * height - 2 - from_y : from_y;
    from_x = from_x < 0 ? -from_x : from_x >= width ? 2 * width - 2 - from_x : from_x;
  }
  const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
  const size_t image = (size_t)sample[0] * channels * height * width;
  const u8 byte = inside ? bytes[image + (channel * height + from_y) * width + from_x] : 0;
  out[i] = table[channel * 256 + byte];
}

// ---- early exit. A row for each sample: label, and how unsure the exit is (0 entropy in nats, 1 and 2 one less the
// largest probability and the distance between the two largest).

KERNEL(read_exit)(const T *logits, double *readings, int len, int classes, int measure) {
  FOR_EACH(sample, len);
  const T *z = logits + sample * classes;
  int label = 0;
  for (int c = 1; c < classes; c++)
    if (z[c] > z[label]) label = c;
  // What is not finite is not sure of anything: infinity less infinity is not a number.
  const double top = double(z[label]), largest = top - (top - top);
  double sum = 0, rest = 0, weighted = 0, second = 0;
  for (int c = 0; c < classes; c++) {
    const double d = double(z[c]) - largest, e = exp(d);
    // A class that a logit of minus infinity rules out adds nothing.
    if (e != 0) sum += e, weighted += d * e;
    if (c != label) rest += e, second = fmax(second, e);
  }
  readings[2 * sample] = label;
  const double unsure[] = {log(sum) - weighted / sum, rest / (1 + rest), (rest + second) / (1 + rest)};
  readings[2 * sample + 1] = unsure[measure];
}
