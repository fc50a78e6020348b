// Pictures as `branchynet classify` prepares them, byte for byte: src/cli/picture.rs, src/cli/digit.rs, and of the crate image
// the triangle filter and the thumbnail. What is f32 there is rounded to it here.

const f32 = Math.fround;
const clamp = (x, least, most) => Math.min(Math.max(x, least), most);
const byte = x => clamp(Math.trunc(x), 0, 255) || 0;
const round = x => Math.sign(x) * Math.floor(Math.abs(x) + 0.5);
// The side that pictures for networks of digits are shrunk to first.
const MOST = 1024;
// Of red, green and blue: what image derives from the primaries of BT.709.
const LUMA = [0.21264784, 0.7151792, 0.07217304].map(f32), UNIT = f32(1 / 255);
const grey = (width, height, data) => ({ width, height, data });

// For each place of a shrunk or widened side, the first that it is made of and their weights.
function taps(from, to) {
  const ratio = f32(from / to), scale = Math.max(ratio, 1);
  return Array.from({ length: to }, (_, at) => {
    const middle = f32((at + 0.5) * ratio), centre = f32(middle - 0.5);
    const first = clamp(Math.floor(f32(middle - scale)), 0, from - 1);
    const weights = new Float32Array(clamp(Math.ceil(f32(middle + scale)), first + 1, from) - first);
    let sum = 0;
    weights.forEach((_, i) => {
      weights[i] = Math.max(1 - Math.abs(f32(f32(first + i - centre) / scale)), 0);
      sum = f32(sum + weights[i]);
    });
    return [first, weights.map(weight => weight / sum)];
  });
}

export function resize({ width, height, data }, toWidth, toHeight) {
  if (width === toWidth && height === toHeight) return grey(width, height, data.slice());
  const columns = taps(width, toWidth), out = new Uint8Array(toWidth * toHeight);
  taps(height, toHeight).forEach(([top, weights], y) => {
    const row = new Float32Array(width);
    weights.forEach((weight, i) => {
      for (let x = 0, at = (top + i) * width; x < width; x++) row[x] += f32(data[at + x] * weight);
    });
    columns.forEach(([left, weights], x) => {
      const sum = weights.reduce((sum, weight, i) => f32(sum + f32(row[left + i] * weight)), 0);
      out[y * toWidth + x] = round(clamp(sum, 0, 255));
    });
  });
  return grey(toWidth, toHeight, out);
}

// Means of blocks, the longer side MOST.
function thumbnail({ width, height, planes }) {
  const ratio = Math.min(MOST / width, MOST / height);
  const [toWidth, toHeight] = [width, height].map(length => Math.max(round(length * ratio), 1));
  const blocks = (from, to) => Array.from({ length: to }, (_, at) => {
    const ratio = f32(from / to), start = f32(at * ratio), first = Math.min(Math.ceil(start), from - 1);
    return [first, clamp(Math.ceil(f32(start + ratio)), first, from)];
  });
  const [across, down] = [blocks(width, toWidth), blocks(height, toHeight)];
  const shrunk = planes.map(plane => Uint8Array.from({ length: toWidth * toHeight }, (_, i) => {
    const [left, right] = across[i % toWidth], [top, bottom] = down[Math.floor(i / toWidth)];
    const count = (right - left) * (bottom - top);
    let sum = count >> 1;
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += plane[y * width + x];
    return sum / count;
  }));
  return { width: toWidth, height: toHeight, planes: shrunk };
}

// Otsu's threshold, and the means of both sides; nothing where these are hardly apart.
function otsu(values) {
  const counts = new Array(256).fill(0);
  values.forEach(value => counts[value]++);
  const total = counts.reduce((sum, count, value) => sum + value * count, 0), all = values.length;
  let below = 0, totalBelow = 0, most = 0, best = null;
  counts.forEach((count, value) => {
    below += count;
    totalBelow += value * count;
    const means = [totalBelow / below, (total - totalBelow) / (all - below)], apart = means[1] - means[0];
    const variance = below * (all - below) * (apart * apart);
    if (variance > most) [most, best] = [variance, { threshold: value, means }];
  });
  return best && best.means[1] - best.means[0] >= 16 ? best : null;
}

function centre({ width, data }) {
  let [x, y, sum] = [0, 0, 0];
  data.forEach((value, at) => {
    x += (at % width + 0.5) * value;
    y += (Math.floor(at / width) + 0.5) * value;
    sum += value;
  });
  return [x / sum, y / sum];
}

// What is drawn: how far each pixel is from the paper, a plane through the medians of the four sides.
function inkOf({ width, height, data }) {
  const median = (length, at) => Uint8Array.from({ length }, (_, i) => data[at(i)]).sort()[length >> 1];
  const [left, right] = [0, width - 1].map(x => median(height, y => y * width + x));
  const [top, bottom] = [0, height - 1].map(y => median(width, x => y * width + x));
  const slope = (change, length) => Float32Array.from({ length }, (_, at) => change * f32(f32((at + 0.5) / length) - 0.5));
  const middle = (left + right + top + bottom) / 4, across = slope(right - left, width), down = slope(bottom - top, height);
  const fromPaper = Float32Array.from(data, (value, at) => value - f32(f32(middle + across[at % width]) + down[Math.floor(at / width)]));
  const distance = Uint8Array.from(fromPaper, value => byte(f32(Math.abs(value) + 0.5)));
  const apart = otsu(distance);
  if (!apart) return null;
  const dark = fromPaper.reduce((sum, value, at) => distance[at] > apart.threshold ? f32(sum + value) : sum, 0) < 0;
  const strength = Uint8Array.from(fromPaper, value => byte(f32((dark ? -value : value) + 0.5)));
  const found = otsu(strength);
  return found && { ...found, dark, strength: grey(width, height, strength) };
}

// The box of the ink, without specks: connected parts of less than a tenth of the largest.
function box({ strength: { width, height, data }, threshold }) {
  const open = data.map(value => value > threshold), parts = [];
  for (let start = 0; start < open.length; start++) {
    if (!open[start]) continue;
    open[start] = 0;
    const part = [start];
    for (let next = 0; next < part.length; next++) {
      const x = part[next] % width, y = Math.floor(part[next] / width);
      for (let v = Math.max(y - 1, 0); v < Math.min(y + 2, height); v++)
        for (let u = Math.max(x - 1, 0); u < Math.min(x + 2, width); u++)
          if (open[v * width + u]) (open[v * width + u] = 0), part.push(v * width + u);
    }
    parts.push(part);
  }
  const largest = parts.reduce((most, part) => Math.max(most, part.length), 0), places = parts.filter(part => part.length * 10 >= largest).flat();
  const range = of => {
    const [least, most] = places.reduce(([least, most], at) => [Math.min(least, of(at)), Math.max(most, of(at))], [Infinity, 0]);
    return [least, most + 1 - least];
  };
  return { ink: places.length, x: range(at => at % width), y: range(at => Math.floor(at / width)) };
}

// The digit in the middle of an image of this side by its mass, its longer side 20 of 28 pixels; what has this size and place
// already stays.
function cutOut(ink, side) {
  const { strength, means } = ink, { ink: size, x: [left, width], y: [top, height] } = box(ink);
  const longest = Math.max(width, height), whole = side / strength.width;
  const there = strength.width === strength.height && longest * whole >= 0.6 * side && longest * whole <= side * 20 / 28
    && centre(strength).every(at => Math.abs(at * whole - side / 2) < 1);
  let digit;
  if (there) digit = resize(strength, side, side);
  else {
    const scaled = length => Math.max(round(length / longest * side * 20 / 28), 1);
    const level = Uint8Array.from({ length: width * height }, (_, at) => {
      const value = strength.data[(top + Math.floor(at / width)) * strength.width + left + at % width];
      return byte(round(((value - means[0]) / (means[1] - means[0]) - 0.3) / 0.7 * 255));
    });
    digit = resize(grey(width, height, level), scaled(width), scaled(height));
  }
  const most = digit.data.reduce((most, value) => Math.max(most, value), 1);
  digit.data.forEach((value, at) => (digit.data[at] = round(value * 255 / most)));
  const [x, y] = centre(digit).map(at => there ? 0 : round(side / 2 - at)), image = new Uint8Array(side * side);
  digit.data.forEach((value, at) => {
    const u = x + at % digit.width, v = y + Math.floor(at / digit.width);
    if (u >= 0 && v >= 0 && u < side && v < side) image[v * side + u] = value;
  });
  const odd = 2 * size > strength.data.length ? "more than half of it is ink: paper all around is expected"
    : width > 2 * height ? "more than twice as wide as high: one digit in a picture is expected" : "";
  return [image, odd];
}

// The middle square, scaled.
function square({ width, height, planes }, [, toHeight, toWidth]) {
  const side = Math.min(width, height), left = (width - side) >> 1, top = (height - side) >> 1;
  const cut = plane => {
    const out = new Uint8Array(side * side);
    for (let y = 0; y < side; y++) out.set(plane.subarray((top + y) * width + left, (top + y) * width + left + side), y * side);
    return out;
  };
  return planes.map(plane => resize(grey(side, side, cut(plane)), toWidth, toHeight).data);
}

// The bytes of an opaque picture (ImageData) for a network's image [channels, height, width], channel by channel, and what is
// odd about it. A network of one channel is one of digits.
export function prepare({ width, height, data }, image) {
  let picture = { width, height, planes: [0, 1, 2].map(channel => Uint8Array.from({ length: width * height }, (_, at) => data[4 * at + channel])) };
  if (image[0] === 3) {
    const bytes = new Uint8Array(3 * image[1] * image[2]);
    square(picture, image).forEach((plane, channel) => bytes.set(plane, channel * plane.length));
    return [bytes, ""];
  }
  if (Math.max(width, height) > MOST) picture = thumbnail(picture);
  const part = (at, i) => f32(f32(picture.planes[i][at] * UNIT) * LUMA[i]);
  const luma = picture.planes[0].map((_, at) => round(f32(f32(f32(part(at, 0) + part(at, 1)) + part(at, 2)) * 255)));
  const ink = inkOf(grey(picture.width, picture.height, luma));
  if (ink) return cutOut(ink, image[1]);
  // An empty page is no ink.
  const bright = luma.reduce((sum, value) => sum + value, 0) > 127 * luma.length;
  const [bytes] = square({ ...picture, planes: [bright ? luma.map(value => 255 - value) : luma] }, image);
  return [bytes, "nothing stands out from the background"];
}
