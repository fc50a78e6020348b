// What an exported file says of itself, which the runtime does not tell: protobuf, as far as a drawing needs it.

const text = bytes => new TextDecoder().decode(bytes);

// Takes numbers, and what is longer, from the front of bytes.
function reader(bytes) {
  let at = 0;
  const number = () => {
    let value = 0, by = 1, next;
    do (next = bytes[at++]), (value += (next & 127) * by), (by *= 128); while (next > 127);
    return value;
  };
  return { number, take: length => bytes.subarray(at, (at += length)), more: () => at < bytes.length };
}

// A message as lists of values by field: numbers, and bytes of what is longer.
function message(bytes) {
  const fields = {}, { number, take, more } = reader(bytes);
  while (more()) {
    const key = number(), kind = key & 7;
    (fields[key >> 3] ??= []).push(kind === 0 ? number() : take(kind === 2 ? number() : kind === 1 ? 8 : 4));
  }
  return fields;
}

// Whole numbers, which a file may have packed.
const numbers = (values = []) => values.flatMap(value => {
  if (typeof value === "number") return value;
  const found = [], { number, more } = reader(value);
  while (more()) found.push(number());
  return found;
});

const LAYERS = ["Conv", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "LRN", "BatchNormalization"];

// For each exit the layers of its part of the trunk and of its branch, in turn: [{ trunk, branch }, …]. What stands behind an
// exit is in the else branch of its If.
function parts(graph, dims, found) {
  const here = { trunk: [], branch: [] };
  found.push(here);
  for (const weights of graph[5]?.map(message) ?? []) dims[text(weights[8][0])] = numbers(weights[1]);
  for (const { 1: inputs, 3: [name], 4: [kind], 5: given = [] } of graph[1].map(message)) {
    const attributes = Object.fromEntries(given.map(message).map(a => [text(a[1][0]), a]));
    if (text(kind) === "If") {
      parts(message(attributes.else_branch[6][0]), dims, found);
    } else if (LAYERS.includes(text(kind))) {
      const [, branch, layer] = text(name).match(/^(branch\d+\.)?(.*)/), size = dims[inputs[1] && text(inputs[1])] ?? [];
      const window = size.length ? size.slice(2) : numbers(attributes.kernel_shape?.[8]);
      const told = [window.join("×"), size.length > 1 ? `${size[1]} → ${size[0]}` : ""].filter(Boolean).join(", ");
      here[branch ? "branch" : "trunk"].push({ layer, kind: text(kind), told });
    }
  }
  return found;
}

export function read(file) {
  const model = message(file), graph = message(model[7][0]);
  const about = Object.fromEntries(model[14].map(message).map(entry => [text(entry[1][0]), text(entry[2][0])]));
  const input = graph[11].map(message).find(input => text(input[1][0]) === "image");
  const [tensor] = message(input[2][0])[1].map(message), [dims] = tensor[2].map(message);
  return {
    image: dims[1].map(dim => message(dim)[1][0]).slice(1),
    classes: JSON.parse(about.classes),
    policy: JSON.parse(about.policy),
    parts: parts(graph, {}, []),
  };
}
